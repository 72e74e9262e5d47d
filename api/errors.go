package api

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

// apiError is a refusal in Stripe's shape. Every text in it is for the caller.
type apiError struct {
	status  int
	typ     string
	code    string
	message string
	param   string
	header  map[string]string
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

func errNoKey() *apiError {
	return errKey("You did not provide an API key. You need to provide your API key in the Authorization header, " +
		"using Bearer auth (e.g. 'Authorization: Bearer YOUR_KEY') or Basic auth with the key as the user name.")
}

// errWrongKey says the same of every wrong key, and repeats none of it.
func errWrongKey() *apiError { return errKey("Invalid API Key provided.") }

func errKey(message string) *apiError {
	return &apiError{
		status: http.StatusUnauthorized, typ: typeInvalidRequest, message: message,
		header: map[string]string{"WWW-Authenticate": `Basic realm="creditmirror"`},
	}
}

func errNotLocal() *apiError {
	return &apiError{
		status: http.StatusForbidden, typ: typeInvalidRequest,
		message: "No API keys are configured, so only requests from the same machine are answered, to localhost or a loopback address.",
	}
}

// errThrottled answers wrong keys that come in a flood.
func errThrottled() *apiError { return errTooMany("Too many requests with wrong keys.", 1) }

// errLimited tells a key that is over its limit when it gets its next request.
func errLimited(l *rate.Limiter) *apiError {
	return errTooMany("Request rate limit exceeded: this key may make "+strconv.FormatFloat(float64(l.Limit()), 'g', -1, 64)+
		" requests per second.", max(1, math.Ceil((1-l.Tokens())/float64(l.Limit()))))
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
		message: "Writes are off: this creditmirror has no Stripe API key to send them on with.",
	}
}

func errReadOnlyKey() *apiError {
	return &apiError{
		status: http.StatusForbidden, typ: typeInvalidRequest,
		message: "The provided key does not have the required permissions for this endpoint: it may only read.",
	}
}

func errAccount(account string) *apiError {
	return &apiError{
		status: http.StatusForbidden, typ: typeInvalidRequest, code: "account_invalid",
		message: fmt.Sprintf("The provided key does not have access to account '%s' (or that account does not exist). "+
			"Application access may have been revoked.", clip(account)),
	}
}

// errUnavailable is all that a caller learns of a fault of ours.
func errUnavailable() *apiError {
	return &apiError{
		status: http.StatusServiceUnavailable, typ: typeAPI, header: map[string]string{"Retry-After": "1"},
		message: "The mirror could not be read. Please try again; quote the Request-Id if it goes on.",
	}
}

// statusGone tells metrics and traces of callers who did not wait for their answer.
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
