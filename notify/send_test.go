package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
)

// verified is a receiver's check as docs/operations.md shows it.
func verified(body []byte, header, secret string, now time.Time) bool {
	var stamp string
	var signatures []string
	for part := range strings.SplitSeq(header, ",") {
		switch name, value, _ := strings.Cut(part, "="); name {
		case "t":
			stamp = value
		case "v1":
			signatures = append(signatures, value)
		}
	}
	sent, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || now.Sub(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "." + string(body)))
	want := hex.EncodeToString(mac.Sum(nil))
	for _, s := range signatures {
		if hmac.Equal([]byte(s), []byte(want)) {
			return true
		}
	}
	return false
}

func TestWhatIsSent(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, nil)
	s := to(t, e.URL+"/a?b=c", here)
	s.secrets = []string{secret, "another-secret-of-notifications"}
	f := mirror.Finding{
		ID: "drift_1", Kind: mirror.DriftBalanceMismatch, Account: "acct_1", Customer: "cus_A", Scope: mirror.ScopeBalance, Currency: "usd",
		Object: "", Expected: "-500", Actual: "0", Cause: mirror.CauseMissedEvent, FoundAt: time.Unix(100, 5000), RepairedAt: time.Unix(160, 0),
	}
	for _, n := range []mirror.Notice{{Finding: f, At: f.FoundAt}, {Finding: f, Closed: true, At: f.RepairedAt}} {
		if err := s.send(t.Context(), message(n)); err != nil {
			t.Fatal(err)
		}
	}
	got := e.requests()
	want := []string{
		`{"id":"drift_1.opened","type":"drift.opened","created":100,"finding":{"id":"drift_1","kind":"balance_mismatch","account":"acct_1","customer":"cus_A","scope":"balance","currency":"usd","object":"","expected":"-500","actual":"0","cause":"missed event","opened_at":100,"closed_at":null}}`,
		`{"id":"drift_1.closed","type":"drift.closed","created":160,"finding":{"id":"drift_1","kind":"balance_mismatch","account":"acct_1","customer":"cus_A","scope":"balance","currency":"usd","object":"","expected":"-500","actual":"0","cause":"missed event","opened_at":100,"closed_at":160}}`,
	}
	for i, r := range got {
		if diff := cmp.Diff(want[i], string(r.body)); diff != "" {
			t.Error(diff)
		}
		for _, known := range s.secrets {
			if !verified(r.body, r.signature, known, time.Now()) {
				t.Errorf("%s does not sign %s", r.signature, r.body)
			}
		}
		for what, ok := range map[string]bool{
			"another secret": verified(r.body, r.signature, "x", time.Now()),
			"another body":   verified(append(r.body, ' '), r.signature, secret, time.Now()),
			"later":          verified(r.body, r.signature, secret, time.Now().Add(6*time.Minute)),
			"another time":   verified(r.body, "t=1"+r.signature[2:], secret, time.Now()),
		} {
			if ok {
				t.Errorf("%s: the signature is good", what)
			}
		}
		if r.header.Get("Content-Type") != "application/json" || r.header.Get("User-Agent") != "test" || len(r.header[SignatureHeader]) != 1 {
			t.Errorf("header %v", r.header)
		}
	}
	if n := len(got); n != 2 {
		t.Fatalf("%d requests", n)
	}
}

// The signature of a fixed text, so that receivers can test theirs against it
// (docs/operations.md has the same numbers).
func TestSignatureOfTheDocumentation(t *testing.T) {
	t.Parallel()
	const want = "t=1763712345,v1=ca972b9d3d078c9a547c449a92847a68e4667721d1b3aa0534678dba8281bcc7"
	got := Sign([]byte(`{"id":"drift_1.opened"}`), time.Unix(1763712345, 0), []string{"example-secret-example-secret"})
	if got != want {
		t.Fatalf("%s, want %s", got, want)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, code := range []int{200, 201, 202, 204, 299} {
		e := newEndpoint(t, status(code))
		if err := to(t, e.URL, here).send(t.Context(), Message{}); err != nil {
			t.Errorf("%d: %v", code, err)
		}
	}
	for _, code := range []int{300, 304, 400, 401, 404, 410, 422, 500, 501, 503, 599} {
		e := newEndpoint(t, status(code))
		f, _ := errors.AsType[*failure](to(t, e.URL, here).send(t.Context(), Message{}))
		if f == nil || f.outcome != outcomeRefused || f.status != code || f.retryAfter != 0 {
			t.Errorf("%d: %+v", code, f)
		}
	}
	soon := time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)
	for value, least := range map[string]time.Duration{"7": 7 * time.Second, soon: 50 * time.Second, "": 0, "-1": 0, "soon": 0, "99999999999": 0} {
		for _, code := range []int{429, 503, 500} {
			e := newEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", value)
				w.WriteHeader(code)
			})
			f, _ := errors.AsType[*failure](to(t, e.URL, here).send(t.Context(), Message{}))
			want := least
			if code == 500 {
				want = 0
			}
			if f == nil || f.retryAfter < want || f.retryAfter > want+11*time.Second || want == 0 && f.retryAfter != 0 {
				t.Errorf("%d with %q: %+v", code, value, f)
			}
		}
	}
}

// pathToken stands in an address as receivers' secrets do.
const pathToken = "token-of-a-path"

// upgraded answers with another protocol and says nothing more.
func upgraded(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "x")
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.Copy(io.Discard, conn) // until the other side closes
}

func TestSlowAndHugeAnswers(t *testing.T) {
	t.Parallel()
	var written atomic.Int64
	endless := func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 64<<10)
		for range 16 << 10 { // 1 GiB
			n, err := w.Write(chunk)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}
	held := func(first func(http.ResponseWriter)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			first(w)
			if f, ok := w.(http.Flusher); ok {
				f.Flush()
			}
			<-r.Context().Done()
		}
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string // outcome, empty: delivered
	}{
		"huge body":             {endless, ""},
		"huge body of an error": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); endless(w, r) }, outcomeRefused},
		"body that never ends":  {held(func(w http.ResponseWriter) { w.WriteHeader(200); _, _ = io.WriteString(w, "x") }), ""},
		"no answer":             {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, outcomeUnreachable},
		"huge header":           {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, outcomeUnreachable},
		"a bomb that nobody unpacks": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "\x1f\x8b\x08 no gzip at all")
		}, ""},
		"a connection handed over": {upgraded, outcomeRefused},
		"a redirect that cannot be read": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://h:bad/hook/"+pathToken)
			w.WriteHeader(302)
		}, outcomeUnreachable},
		"cut off": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, outcomeUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, test.answer)
			s := to(t, e.URL, here)
			s.timeout = 3 * time.Second
			began := time.Now()
			err := s.send(t.Context(), Message{})
			took := time.Since(began)
			f, _ := errors.AsType[*failure](err)
			if test.want == "" && err != nil || test.want != "" && (f == nil || f.outcome != test.want) {
				t.Fatalf("%+v", err)
			}
			if err != nil && strings.Contains(err.Error(), pathToken) {
				t.Errorf("the answer is quoted: %v", err)
			}
			if took > patience.Of(5*time.Second) || test.want == "" && took > patience.Of(2500*time.Millisecond) {
				t.Errorf("it took %v", took)
			}
		})
	}
	t.Cleanup(func() {
		if n := written.Load(); n > 64<<20 {
			t.Errorf("%d bytes were taken", n)
		}
	})
}

func TestTLS(t *testing.T) {
	t.Parallel()
	trusted, other := authority.server(t, status(200)), stranger.server(t, status(200))
	_, port, _ := net.SplitHostPort(trusted.Listener.Addr().String())
	names.set("hooks.test", []string{"127.0.0.1"})
	names.set("elsewhere.test", []string{"127.0.0.1"})
	for _, target := range []string{trusted.URL, "https://hooks.test:" + port} {
		if err := to(t, target, here).send(t.Context(), Message{}); err != nil {
			t.Errorf("%s, whose certificate is trusted: %v", target, err)
		}
	}
	for name, target := range map[string]string{
		"unknown authority": other.URL, "another name": "https://elsewhere.test:" + port,
		"no TLS": "https://" + strings.TrimPrefix(newEndpoint(t, nil).URL, "http://"),
	} {
		f, _ := errors.AsType[*failure](to(t, target, here).send(t.Context(), Message{}))
		if f == nil || f.outcome != outcomeUnreachable {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// A message is what a receiver decodes, strictly.
func TestMessageRoundTrip(t *testing.T) {
	t.Parallel()
	m := message(mirror.Notice{Finding: mirror.Finding{ID: "drift_1", Kind: "x", FoundAt: time.Unix(1, 0)}, Closed: true, At: time.Unix(2, 0)})
	var back Message
	dec := json.NewDecoder(strings.NewReader(string(m.encode())))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, back); diff != "" {
		t.Fatal(diff)
	}
}
