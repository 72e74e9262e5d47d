package stripeapi

import (
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v79/webhook"
)

const (
	// SignatureHeader is where Stripe signs its webhooks.
	SignatureHeader = "Stripe-Signature"
	// SignatureTolerance is how far a signature's time may lie from now, to both
	// sides.
	SignatureTolerance = 300 * time.Second

	// maxSignatures bounds the v1 values: Stripe sends one per secret while a secret
	// is rolled.
	maxSignatures = 8
	// maxSignatureHeader bounds the header in bytes, schemes that are ignored included.
	maxSignatureHeader = 4096
)

// Why a webhook is refused.
var (
	ErrNoSecret           = errors.New("no webhook secret to check against")
	ErrNoSignature        = errors.New("no Stripe-Signature header")
	ErrManySignatures     = errors.New("more than one Stripe-Signature header")
	ErrMalformedSignature = errors.New("malformed Stripe-Signature header")
	ErrSignatureScheme    = errors.New("no v1 signature")
	ErrWrongSignature     = errors.New("no v1 signature matches")
	ErrStaleSignature     = errors.New("signature is too old")
	ErrFutureSignature    = errors.New("signature is from the future")
)

// Reason is a word for an error of VerifySignature, from a closed set; empty for nil.
func Reason(err error) string {
	for _, r := range []struct {
		err  error
		word string
	}{
		{nil, ""},
		{ErrNoSecret, "no_secret"},
		{ErrNoSignature, "no_signature"},
		{ErrManySignatures, "many_signatures"},
		{ErrMalformedSignature, "malformed_signature"},
		{ErrSignatureScheme, "no_v1_signature"},
		{ErrWrongSignature, "wrong_signature"},
		{ErrStaleSignature, "stale_signature"},
		{ErrFutureSignature, "future_signature"},
	} {
		if errors.Is(err, r.err) {
			return r.word
		}
	}
	return "other"
}

// SignatureTime checks by the header alone what VerifySignature would refuse whatever
// the payload is: the form of the header, and its time. So nobody has to wait for a body
// that is refused anyway. What it lets through is not verified.
func SignatureTime(header http.Header, now time.Time) error {
	values := header.Values(SignatureHeader)
	switch len(values) {
	case 0:
		return ErrNoSignature
	case 1:
	default:
		return ErrManySignatures
	}
	at, _, err := parseSignature(values[0])
	if err != nil {
		return err
	}
	return withinTolerance(now.Sub(at))
}

func withinTolerance(skew time.Duration) error {
	switch {
	case skew > SignatureTolerance:
		return ErrStaleSignature
	case skew < -SignatureTolerance:
		return ErrFutureSignature
	}
	return nil
}

// VerifySignature checks that payload, the raw body, was signed with one of the
// secrets not more than SignatureTolerance from now. It returns which secret it
// was, -1 when none, and how old the signature is (negative: from the future);
// the age is 0 unless the signature is genuine. Blank secrets never match:
// anybody can sign with the empty key.
//
// stripe-go computes the MAC. Its own checks are not used: they accept any
// future time, an empty secret and any number of signatures.
func VerifySignature(payload []byte, header http.Header, secrets []string, now time.Time) (secretIndex int, skew time.Duration, err error) {
	values := header.Values(SignatureHeader)
	switch len(values) {
	case 0:
		return -1, 0, ErrNoSignature
	case 1:
	default:
		return -1, 0, ErrManySignatures
	}
	at, macs, err := parseSignature(values[0])
	if err != nil {
		return -1, 0, err
	}
	secretIndex, usable := -1, false
	for i, secret := range secrets {
		if strings.TrimSpace(secret) == "" {
			continue
		}
		usable = true
		want := webhook.ComputeSignature(at, payload, secret)
		for _, mac := range macs { // all of them: time must not reveal which one matched
			if hmac.Equal(mac, want) && secretIndex < 0 {
				secretIndex = i
			}
		}
	}
	if !usable {
		return -1, 0, ErrNoSecret
	}
	if secretIndex < 0 {
		return -1, 0, ErrWrongSignature
	}
	// The time is judged last, so that "too old" is only said of what Stripe really
	// signed, and a wrong clock can be distinguished from an attack.
	skew = now.Sub(at)
	if err := withinTolerance(skew); err != nil {
		return -1, skew, err
	}
	return secretIndex, skew, nil
}

// parseSignature reads t=<unix seconds>,v1=<hex>[,v1=<hex>…][,scheme=value…].
// It is strict: what Stripe would never send is not to be interpreted.
func parseSignature(h string) (at time.Time, macs [][]byte, err error) {
	if h == "" {
		return time.Time{}, nil, ErrNoSignature
	}
	if len(h) > maxSignatureHeader {
		return time.Time{}, nil, ErrMalformedSignature
	}
	timed := false
	for item := range strings.SplitSeq(h, ",") {
		scheme, value, ok := strings.Cut(item, "=")
		if !ok || !printable(item) || scheme == "" {
			return time.Time{}, nil, ErrMalformedSignature
		}
		switch scheme {
		case "t":
			if at, ok = signatureTime(value); !ok || timed {
				return time.Time{}, nil, ErrMalformedSignature
			}
			timed = true
		case "v1":
			mac, ok := signatureMAC(value)
			if !ok || len(macs) == maxSignatures {
				return time.Time{}, nil, ErrMalformedSignature
			}
			macs = append(macs, mac)
		}
	}
	if !timed {
		return time.Time{}, nil, ErrMalformedSignature
	}
	if len(macs) == 0 {
		return time.Time{}, nil, ErrSignatureScheme
	}
	return at, macs, nil
}

// signatureTime reads decimal digits without a leading zero: the MAC is computed
// over the number, so its text must be the only way to write it.
func signatureTime(s string) (time.Time, bool) {
	if s == "" || len(s) > 12 || s[0] == '0' {
		return time.Time{}, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return time.Time{}, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > maxUnix {
		return time.Time{}, false
	}
	return time.Unix(n, 0), true
}

func signatureMAC(s string) ([]byte, bool) {
	if len(s) != 64 || strings.ToLower(s) != s {
		return nil, false
	}
	mac, err := hex.DecodeString(s)
	return mac, err == nil
}
