package stripeapi

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
)

type vectors struct {
	Payload   string            `json:"payload"`
	Timestamp int64             `json:"timestamp"`
	Secrets   map[string]string `json:"secrets"`
	V1        map[string]string `json:"v1"`
	Headers   map[string]string `json:"headers"`
	CheckAt   map[string]int64  `json:"check_at"`
}

func loadVectors(t testing.TB) vectors {
	t.Helper()
	var v vectors
	if err := json.Unmarshal(fixture(t, "signatures/vectors.json"), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// sign is the reference: plain crypto/hmac, no code of ours or Stripe's.
func sign(at string, payload []byte, secret string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(at + "."))
	m.Write(payload)
	return hex.EncodeToString(m.Sum(nil))
}

func signed(h string) http.Header { return http.Header{SignatureHeader: {h}} }

func TestSignatureVectors(t *testing.T) {
	t.Parallel()
	v := loadVectors(t)
	secrets := []string{v.Secrets["current"], v.Secrets["previous"]}
	for name, h := range v.Headers {
		for when, at := range v.CheckAt {
			i, skew, err := VerifySignature([]byte(v.Payload), signed(h), secrets, time.Unix(at, 0))
			valid := strings.HasPrefix(name, "valid")
			switch {
			case valid && when == "inside_tolerance":
				if err != nil || i != 0 || skew != time.Duration(at-v.Timestamp)*time.Second {
					t.Errorf("%s %s: index %d skew %v err %v", name, when, i, skew, err)
				}
			case valid:
				if !errors.Is(err, ErrStaleSignature) || i != -1 {
					t.Errorf("%s %s: index %d err %v, want stale", name, when, i, err)
				}
			default:
				if err == nil || i != -1 {
					t.Errorf("%s %s: accepted", name, when)
				}
			}
		}
	}
	// The secret rolled away still counts while it is configured.
	h := fmt.Sprintf("t=%d,v1=%s", v.Timestamp, v.V1["previous"])
	if i, _, err := VerifySignature([]byte(v.Payload), signed(h), secrets, time.Unix(v.Timestamp, 0)); i != 1 || err != nil {
		t.Errorf("previous secret: index %d err %v", i, err)
	}
}

func TestSignatureTable(t *testing.T) {
	t.Parallel()
	const secret, at = "whsec_a", "1700000000"
	now := time.Unix(1700000000, 0)
	payload := []byte(`{"id":"evt_1"}`)
	good := sign(at, payload, secret)
	junk := strings.Repeat("f", 64)
	shifted := func(d int64) string {
		ts := fmt.Sprint(1700000000 + d)
		return "t=" + ts + ",v1=" + sign(ts, payload, secret)
	}
	for _, c := range []struct {
		name    string
		header  http.Header
		payload []byte
		secrets []string
		want    error
	}{
		{name: "good", header: signed("t=" + at + ",v1=" + good)},
		{name: "v1 first", header: signed("v1=" + good + ",t=" + at)},
		{name: "junk and good", header: signed("t=" + at + ",v1=" + junk + ",v1=" + good)},
		{name: "eight v1", header: signed("t=" + at + strings.Repeat(",v1="+junk, 7) + ",v1=" + good)},
		{name: "unknown scheme", header: signed("t=" + at + ",v2=zz,v1=" + good + ",v0=")},
		{name: "second secret", header: signed("t=" + at + ",v1=" + good), secrets: []string{"whsec_b", secret}},
		{name: "blank secret beside a good one", header: signed("t=" + at + ",v1=" + good), secrets: []string{"", secret}},
		{name: "300 s old", header: signed(shifted(-300))},
		{name: "300 s ahead", header: signed(shifted(300))},
		{name: "301 s old", header: signed(shifted(-301)), want: ErrStaleSignature},
		{name: "301 s ahead", header: signed(shifted(301)), want: ErrFutureSignature},
		{name: "10 years ahead", header: signed(shifted(315360000)), want: ErrFutureSignature},
		{name: "no header", header: http.Header{}, want: ErrNoSignature},
		{name: "empty header", header: signed(""), want: ErrNoSignature},
		{name: "two headers", header: http.Header{SignatureHeader: {"t=" + at + ",v1=" + good, "t=" + at + ",v1=" + good}}, want: ErrManySignatures},
		{name: "nonsense", header: signed("nonsense"), want: ErrMalformedSignature},
		{name: "t missing", header: signed("v1=" + good), want: ErrMalformedSignature},
		{name: "t empty", header: signed("t=,v1=" + good), want: ErrMalformedSignature},
		{name: "t twice", header: signed("t=" + at + ",t=" + at + ",v1=" + good), want: ErrMalformedSignature},
		{name: "t exponent", header: signed("t=1e30,v1=" + good), want: ErrMalformedSignature},
		{name: "t signed", header: signed("t=+" + at + ",v1=" + good), want: ErrMalformedSignature},
		{name: "t negative", header: signed("t=-1,v1=" + good), want: ErrMalformedSignature},
		{name: "t leading zero", header: signed("t=0" + at + ",v1=" + good), want: ErrMalformedSignature},
		{name: "t huge", header: signed("t=999999999999999999999,v1=" + good), want: ErrMalformedSignature},
		{name: "t other digits", header: signed("t=١٧٠٠٠٠٠٠٠٠,v1=" + good), want: ErrMalformedSignature},
		{name: "v0 only", header: signed("t=" + at + ",v0=" + good), want: ErrSignatureScheme},
		{name: "v1 empty", header: signed("t=" + at + ",v1="), want: ErrMalformedSignature},
		{name: "v1 upper case", header: signed("t=" + at + ",v1=" + strings.ToUpper(good)), want: ErrMalformedSignature},
		{name: "v1 short", header: signed("t=" + at + ",v1=" + good[:62]), want: ErrMalformedSignature},
		{name: "v1 long", header: signed("t=" + at + ",v1=" + good + "00"), want: ErrMalformedSignature},
		{name: "v1 not hex", header: signed("t=" + at + ",v1=" + strings.Repeat("g", 64)), want: ErrMalformedSignature},
		{name: "V1", header: signed("t=" + at + ",V1=" + good), want: ErrSignatureScheme},
		{name: "blank after comma", header: signed("t=" + at + ", v1=" + good), want: ErrMalformedSignature},
		{name: "trailing comma", header: signed("t=" + at + ",v1=" + good + ","), want: ErrMalformedSignature},
		{name: "CRLF", header: signed("t=" + at + ",v1=" + good + "\r\n"), want: ErrMalformedSignature},
		{name: "nine v1", header: signed("t=" + at + strings.Repeat(",v1="+good, 9)), want: ErrMalformedSignature},
		{name: "1e5 v1", header: signed("t=" + at + strings.Repeat(",v1="+good, 100_000)), want: ErrMalformedSignature},
		{name: "wrong", header: signed("t=" + at + ",v1=" + junk), want: ErrWrongSignature},
		{name: "other secret", header: signed("t=" + at + ",v1=" + good), secrets: []string{"whsec_b"}, want: ErrWrongSignature},
		{name: "signed with the empty secret", header: signed("t=" + at + ",v1=" + sign(at, payload, "")), secrets: []string{""}, want: ErrNoSecret},
		{name: "signed with a blank secret", header: signed("t=" + at + ",v1=" + sign(at, payload, " ")), secrets: []string{" "}, want: ErrNoSecret},
		{name: "empty secret beside a good one", header: signed("t=" + at + ",v1=" + sign(at, payload, "")), secrets: []string{"", secret}, want: ErrWrongSignature},
		{name: "no secrets", header: signed("t=" + at + ",v1=" + good), secrets: []string{}, want: ErrNoSecret},
		{name: "one byte more", header: signed("t=" + at + ",v1=" + good), payload: append(bytes.Clone(payload), '\n'), want: ErrWrongSignature},
		{name: "BOM", header: signed("t=" + at + ",v1=" + good), payload: append([]byte("\xef\xbb\xbf"), payload...), want: ErrWrongSignature},
		{name: "t moved", header: signed("t=1700000001,v1=" + good), want: ErrWrongSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.secrets == nil {
				c.secrets = []string{secret}
			}
			if c.payload == nil {
				c.payload = payload
			}
			i, _, err := VerifySignature(c.payload, c.header, c.secrets, now)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("err %v, want %v", err, c.want)
			}
			if (err == nil) != (i >= 0) {
				t.Fatalf("index %d with err %v", i, err)
			}
			if w := Reason(err); (w == "") != (err == nil) || w == "other" {
				t.Fatalf("reason %q for %v", w, err)
			}
		})
	}
	if Reason(errors.New("x")) != "other" {
		t.Error("an unknown error needs a word too")
	}
}

// A flood of signatures must be refused before any MAC is computed: a payload
// of this size would take seconds otherwise.
func TestSignatureFloodIsCheap(t *testing.T) {
	t.Parallel()
	payload := make([]byte, 1<<20)
	h := signed("t=1700000000" + strings.Repeat(",v1="+strings.Repeat("0", 64), 100_000))
	start := time.Now()
	for range 100 {
		if _, _, err := VerifySignature(payload, h, []string{"whsec_a"}, time.Unix(1700000000, 0)); err == nil {
			t.Fatal("accepted")
		}
	}
	if took := time.Since(start); took > patience.Of(time.Second) {
		t.Fatalf("100 refusals took %v", took)
	}
}

func FuzzVerifySignature(f *testing.F) {
	v := loadVectors(f)
	for _, h := range v.Headers {
		f.Add([]byte(v.Payload), h, "whsec_test_current", v.Timestamp)
	}
	f.Add([]byte(""), "t=1,v1="+sign("1", nil, ""), "", int64(1))
	f.Add([]byte("x"), "t=01,v1="+sign("01", []byte("x"), "s"), "s", int64(1))
	f.Add([]byte("x"), "t=1, v1="+sign("1", []byte("x"), "s"), "s", int64(1))
	f.Add([]byte("x"), "t=1,v1="+sign("1", []byte("x"), "s"), "s", int64(301))
	f.Add([]byte("x"), "t=302,v1="+sign("302", []byte("x"), "s"), "s", int64(1))
	f.Fuzz(func(t *testing.T, payload []byte, header, secret string, now int64) {
		i, skew, err := VerifySignature(payload, signed(header), []string{secret}, time.Unix(now, 0))
		if err != nil {
			if i != -1 || Reason(err) == "other" || Reason(err) == "" {
				t.Fatalf("index %d, reason %q", i, Reason(err))
			}
			return
		}
		// Accepted: then a fresh time and its correct MAC, under a secret that is
		// none of the blank ones, stand in the header, read in the plainest way.
		if i != 0 || strings.TrimSpace(secret) == "" || skew.Abs() > SignatureTolerance {
			t.Fatalf("accepted index %d secret %q skew %v", i, secret, skew)
		}
		at := fmt.Sprint(now - int64(skew/time.Second))
		if !strings.Contains(","+header+",", ",t="+at+",") ||
			!strings.Contains(","+header+",", ",v1="+sign(at, payload, secret)+",") {
			t.Fatalf("accepted %q", header)
		}
	})
}
