package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/creditmirror/creditmirror/access"
)

// apiError is a refusal in Stripe's shape. Every text in it is for the caller.
type apiError struct {
	status  int
	typ     string
	code    string
	message string
	param   string
	header  map[string]string
	// reason is a word for the journal; empty: status and code say enough.
	reason string
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s: %s", e.status, e.typ, e.message) }

type errorBody struct {
	Code    string `json:"code,omitempty"`
	DocURL  string `json:"doc_url,omitempty"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
	Type    string `json:"type"`
}

func (e *apiError) envelope() []byte {
	body := errorBody{Code: e.code, Message: e.message, Param: e.param, Type: e.typ}
	if e.code != "" {
		body.DocURL = "https://stripe.com/docs/error-codes/" + strings.ReplaceAll(e.code, "_", "-")
	}
	// Strings always encode.
	out, _ := json.Marshal(struct {
		Error errorBody `json:"error"`
	}{body})
	return append(out, '\n')
}

const (
	typeInvalidRequest = "invalid_request_error"
	typeAPI            = "api_error"
)

func errInvalid(code, param, format string, args ...any) *apiError {
	return &apiError{
		status: http.StatusBadRequest, typ: typeInvalidRequest, code: code, param: clip(param),
		message: fmt.Sprintf(format, args...),
	}
}

func errMissingParam(param string) *apiError {
	return errInvalid("parameter_missing", param, "Missing required param: %s.", param)
}

func errUnknownParam(param string) *apiError {
	return errInvalid("parameter_unknown", param, "Received unknown parameter: %s", clip(param))
}

func errEmptyParam(param string) *apiError {
	return errInvalid("parameter_invalid_empty", param, "You passed an empty string for '%[1]s'. "+
		"You should remove '%[1]s' from your request or supply a non-empty value.", param)
}

// errMissing is for an id that names nothing: 404 where it stands in the path,
// 400 where it is a parameter.
func errMissing(status int, what, id, param string) *apiError {
	e := errInvalid("resource_missing", param, "No such %s: '%s'", what, clip(id))
	e.status = status
	return e
}

func errUnrecognized(method, path string) *apiError {
	e := errInvalid("", "", "Unrecognized request URL (%s: %s). "+
		"creditmirror serves the credit of customers; see its documentation for the paths.", clip(method), clip(path))
	e.status = http.StatusNotFound
	return e
}

// errNotMirrored is for a path of a ledger that the configuration leaves out.
func errNotMirrored(method, path string, ledger access.Ledger) *apiError {
	e := errInvalid("", "", "Unrecognized request URL (%s: %s). The ledger %q is not mirrored here (CREDITMIRROR_LEDGERS).", method, path, ledger)
	e.status, e.reason = http.StatusNotFound, "not_mirrored"
	return e
}

// errIncomplete is for a history that is not wholly held, where such are refused.
func errIncomplete() *apiError {
	return &apiError{
		status: http.StatusServiceUnavailable, typ: typeAPI, reason: "incomplete", header: map[string]string{"Retry-After": "10"},
		message: "The history is not wholly held here: it is still being read from Stripe, or cannot be (CREDITMIRROR_INCOMPLETE).",
	}
}

func errNoKey() *apiError {
	return errKey("You did not provide an API key. You need to provide your API key in the Authorization header, " +
		"using Bearer auth (e.g. 'Authorization: Bearer YOUR_KEY') or Basic auth with the key as the user name.")
}

// errWrongKey says the same of every wrong key, and repeats none of it.
func errWrongKey() *apiError {
	e := errKey("Invalid API Key provided.")
	e.reason = "wrong_key"
	return e
}

// errExpired is Stripe's for a key whose time is over.
func errExpired() *apiError {
	e := errKey("Expired API Key provided.")
	e.code, e.reason = "api_key_expired", "expired_key"
	return e
}

// errNotAllowed refuses what the key is bound not to do.
func errNotAllowed(reason, what string) *apiError {
	return &apiError{
		status: http.StatusForbidden, typ: typeInvalidRequest, reason: reason,
		message: "The provided key does not have the required permissions for this request: " + what + ".",
	}
}

// errPlatform is for a key that is bound to connected accounts.
func errPlatform() *apiError {
	return errNotAllowed("account", "it may not see the platform's own account; name one of its accounts in Stripe-Account")
}

func errKey(message string) *apiError {
	return &apiError{
		status: http.StatusUnauthorized, typ: typeInvalidRequest, message: message,
		header: map[string]string{"WWW-Authenticate": `Bearer realm="Stripe"`},
	}
}

func errNotLocal() *apiError {
	return &apiError{
		status: http.StatusForbidden, typ: typeInvalidRequest,
		message: "No API keys are configured, so only requests from the same machine are answered, to localhost or a loopback address and not through a proxy.",
	}
}

// errThrottled answers wrong keys that come in a flood.
func errThrottled() *apiError {
	e := errTooMany("Too many requests with wrong keys.", 1)
	e.reason = "wrong_key"
	return e
}

// errLimited says when a key that is over its limit may make its next request.
func errLimited(holder *access.Holder) *apiError {
	e := errTooMany("Request rate limit exceeded: this key may make "+strconv.FormatFloat(holder.RPS, 'g', -1, 64)+
		" requests per second.", holder.RetryAfter())
	e.reason = "rate"
	return e
}

// errTooMany is Stripe's for a limit over all endpoints; seconds are until the
// next try.
func errTooMany(message string, seconds float64) *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, typ: typeInvalidRequest, code: "rate_limit", message: message,
		header: map[string]string{"Retry-After": strconv.FormatFloat(seconds, 'f', 0, 64), "Stripe-Rate-Limited-Reason": "global-rate"},
	}
}

// errWritesOff is for a caller that may write on a mirror that cannot.
func errWritesOff() *apiError {
	return &apiError{
		status: http.StatusForbidden, typ: typeInvalidRequest,
		message: "Writes are off: this creditmirror has no Stripe API key to send them with.",
	}
}

func errReadOnlyKey() *apiError {
	return &apiError{
		status: http.StatusForbidden, typ: typeInvalidRequest, reason: "read_only",
		message: "The provided key does not have the required permissions for this endpoint: it may only read.",
	}
}

func errAccount(account string) *apiError {
	return &apiError{
		status: http.StatusForbidden, typ: typeInvalidRequest, code: "account_invalid", reason: "account",
		message: fmt.Sprintf("The provided key does not have access to account '%s' (or that account does not exist). "+
			"Application access may have been revoked.", clip(account)),
	}
}

// errUnavailable is all that a caller learns of a fault of ours.
func errUnavailable() *apiError {
	return &apiError{
		status: http.StatusServiceUnavailable, typ: typeAPI, header: map[string]string{"Retry-After": "1"},
		message: "The mirror could not be read. Please try again; quote the Request-Id if it persists.",
	}
}

// statusGone marks, in metrics and traces, callers who did not wait for their answer.
// It has no name in net/http; proxies log such requests with the same number.
const statusGone = 499

// errGone is the answer that nobody waits for any more.
func errGone() *apiError {
	return &apiError{status: statusGone, typ: typeAPI, message: "The caller went away before the answer."}
}

// maxEcho is how much of what a caller sent comes back in an error.
const maxEcho = 200

func clip(s string) string {
	if len(s) <= maxEcho {
		return s
	}
	end := maxEcho
	for end > maxEcho-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
