package stripeapi

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// What callers branch on, with errors.Is.
var (
	// ErrRateLimited: Stripe refused for too many requests, retries included.
	ErrRateLimited = errors.New("stripe rate limit")
	// ErrUnavailable: no reply, no whole reply in time, or a failure that will pass.
	ErrUnavailable = errors.New("stripe unavailable")
	// ErrGarbled: a reply that makes no sense. Nothing of it was returned.
	ErrGarbled = errors.New("garbled reply from stripe")
	// ErrUnauthorized: Stripe does not know the key.
	ErrUnauthorized = errors.New("stripe key refused")
	// ErrForbidden: the key may not do this. ErrAccountRefused is ErrForbidden too.
	ErrForbidden = errors.New("stripe key lacks permission")
	// ErrAccountRefused: the key has no access to the connected account.
	ErrAccountRefused = errors.New("stripe account refused")
	// ErrNotFound: Stripe has no such object, for this key and account.
	ErrNotFound = errors.New("not found at stripe")
	// ErrRefused: the request itself is at fault; repeating it will not help.
	ErrRefused = errors.New("request refused")
)

// Kind says what sort of failure an Error is.
type Kind uint8

// The kinds, each with its sentinel but KindCanceled, for which errors.Is finds
// the error of the caller's context.
const (
	KindCanceled Kind = iota + 1
	KindRateLimited
	KindUnavailable
	KindGarbled
	KindUnauthorized
	KindForbidden
	KindAccountRefused
	KindNotFound
	KindRefused
)

func (k Kind) String() string {
	switch k {
	case KindCanceled:
		return "canceled"
	case KindRateLimited:
		return "rate_limited"
	case KindUnavailable:
		return "unavailable"
	case KindGarbled:
		return "garbled"
	case KindUnauthorized:
		return "unauthorized"
	case KindForbidden:
		return "forbidden"
	case KindAccountRefused:
		return "account_refused"
	case KindNotFound:
		return "not_found"
	case KindRefused:
		return "refused"
	}
	return "unknown"
}

// Error is the only error of this package's calls. No field of it holds a key
// or a secret.
type Error struct {
	Kind Kind
	// Status is the HTTP status of the last attempt; 0 without a reply.
	Status int
	// Code and Param are Stripe's, as is Message, less anything that looks like a
	// key; for KindGarbled, Message says what is wrong with the reply.
	Code, Param, Message string
	// RequestID is Stripe's name for the request.
	RequestID string
	// Endpoint is one of Endpoints.
	Endpoint string
	// RetryAfter is how long Stripe asks to wait; 0 when it does not say.
	RetryAfter time.Duration
	// Unsettled means that a write may have taken effect nevertheless: a
	// request was sent, and what came back does not say that it was refused.
	Unsettled bool

	cause error
}

// Error names endpoint, kind, status, code, parameter, message and request id.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stripe %s: %s", e.Endpoint, e.Kind)
	if e.Status != 0 {
		fmt.Fprintf(&b, ": status %d", e.Status)
	}
	for _, s := range []string{e.Code, e.Message} {
		if s != "" {
			b.WriteString(": " + s)
		}
	}
	if e.cause != nil {
		b.WriteString(": " + e.cause.Error())
	}
	if e.Param != "" {
		b.WriteString(" (param " + e.Param + ")")
	}
	if e.RequestID != "" {
		b.WriteString(" [" + e.RequestID + "]")
	}
	return b.String()
}

// Unwrap returns what lies beneath: the context's error when the caller gave
// up, a network error, a Limiter's error.
func (e *Error) Unwrap() error { return e.cause }

// Is matches the sentinels.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrRateLimited:
		return e.Kind == KindRateLimited
	case ErrUnavailable:
		return e.Kind == KindUnavailable
	case ErrGarbled:
		return e.Kind == KindGarbled
	case ErrUnauthorized:
		return e.Kind == KindUnauthorized
	case ErrForbidden:
		return e.Kind == KindForbidden || e.Kind == KindAccountRefused
	case ErrAccountRefused:
		return e.Kind == KindAccountRefused
	case ErrNotFound:
		return e.Kind == KindNotFound
	case ErrRefused:
		return e.Kind == KindRefused
	}
	return false
}

// refused reports an argument that no request is made for.
func refused(endpoint, param, message string) *Error {
	return &Error{Kind: KindRefused, Endpoint: endpoint, Param: param, Message: message}
}

// redactor takes secrets out of texts that others wrote.
type redactor struct{ key string }

// secretLike matches API keys and signing secrets, masked ones included: Stripe
// quotes the end of a wrong key.
var secretLike = regexp.MustCompile(`(?i)(?:\b|_)(?:sk|rk|pk|ek|uk)_[^\s'"\\,;)]+|whsec_[^\s'"\\,;)]*`)

const redacted = "[redacted]"

// maxText bounds, in bytes, what is kept of a text that Stripe sent.
const maxText = 500

func (r redactor) text(s string) string {
	s = r.whole(s)
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, s)
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

// whole redacts without shortening; the result is still JSON if s was, since no
// match reaches over a quote.
func (r redactor) whole(s string) string {
	if r.key != "" {
		s = strings.ReplaceAll(s, r.key, redacted)
	}
	return secretLike.ReplaceAllString(s, redacted)
}
