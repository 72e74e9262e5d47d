package stripesim

import (
	"fmt"
	"net/http"
	"strings"
)

// apiError is one error reply in Stripe's shape.
type apiError struct {
	status  int
	typ     string
	code    string
	message string
	param   string
	decline string // decline_code of a card
	missing string // the id that names nothing
	header  http.Header
	// executed: the request got past validation, so that its reply is kept
	// under its idempotency key.
	executed bool
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%d %s %s: %s", e.status, e.typ, e.code, e.message)
}

type errorJSON struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Code    string `json:"code,omitempty"`
	Decline string `json:"decline_code,omitempty"`
	DocURL  string `json:"doc_url,omitempty"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
	Type    string `json:"type"`
}

func (e *apiError) body() errorJSON {
	b := errorBody{Code: e.code, Decline: e.decline, Message: e.message, Param: e.param, Type: e.typ}
	if e.code != "" {
		b.DocURL = "https://stripe.com/docs/error-codes/" + strings.ReplaceAll(e.code, "_", "-")
	}
	return errorJSON{b}
}

const invalidRequest = "invalid_request_error"

func errInvalid(code, param, format string, args ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, typ: invalidRequest, code: code, param: param, message: fmt.Sprintf(format, args...)}
}

// errRefused is a 400 for a well-formed request that the state forbids.
func errRefused(param, format string, args ...any) *apiError {
	e := errInvalid("", param, format, args...)
	e.executed = true
	return e
}

func errMissing(param string) *apiError {
	return errInvalid("parameter_missing", param, "Missing required param: %s.", param)
}

func errUnknownParam(param string) *apiError {
	return errInvalid("parameter_unknown", param, "Received unknown parameter: %s", param)
}

// errNone is for an id that names nothing: 404 for one in the path, and 400 for
// one in the query or the body.
func errNone(status int, what, id, param string) *apiError {
	return &apiError{
		status: status, typ: invalidRequest, code: "resource_missing", param: param, missing: id,
		message: fmt.Sprintf("No such %s: '%s'", what, id),
	}
}

// hint adds Stripe's hint to a 404 where the object exists in the other mode. The
// caller holds no account's lock.
func (a *account) hint(e *apiError) {
	if e.missing == "" || e.status != http.StatusNotFound {
		return
	}
	if t := a.twin(); t != nil && t.exists(e.missing) {
		there, here := "live", "test"
		if a.live {
			there, here = here, there
		}
		e.message += fmt.Sprintf("; a similar object exists in %s mode, but a %s mode key was used to make this request.", there, here)
	}
}

// exists reports whether the account has an object of that id.
func (a *account) exists(id string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.customers[id] != nil || a.txns[id] != nil || a.grants[id] != nil || a.credits[id] != nil || a.events[id] != nil ||
		a.hooks[id] != nil || a.invoices[id] != nil || a.items[id] != nil || a.notes[id] != nil || a.prices[id] != nil
}

func errRoute(method, path string) *apiError {
	return &apiError{
		status: http.StatusNotFound, typ: invalidRequest,
		message: fmt.Sprintf("Unrecognized request URL (%s: %s). Please see https://stripe.com/docs or we can help at https://support.stripe.com/.", method, path),
	}
}

func errKey(code, format string, args ...any) *apiError {
	return &apiError{
		status: http.StatusUnauthorized, typ: invalidRequest, code: code, message: fmt.Sprintf(format, args...),
		header: http.Header{"Www-Authenticate": {`Bearer realm="Stripe"`}},
	}
}

func errForbidden(code, format string, args ...any) *apiError {
	return &apiError{status: http.StatusForbidden, typ: invalidRequest, code: code, message: fmt.Sprintf(format, args...)}
}

// errRate is a 429 of the rate limiter; reason goes into Stripe-Rate-Limited-Reason.
func errRate(reason string) *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, typ: invalidRequest, code: "rate_limit",
		message: "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits.",
		header:  http.Header{"Stripe-Rate-Limited-Reason": {reason}},
	}
}

func errLock() *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, typ: invalidRequest, code: "lock_timeout",
		message: "This object cannot be accessed right now because another API request or Stripe process is currently accessing it. If you see this error intermittently, retry the request.",
	}
}

func errServer() *apiError {
	return &apiError{status: http.StatusInternalServerError, typ: "api_error", message: "An unknown error occurred"}
}

func errIdempotency(key string) *apiError {
	return &apiError{
		status: http.StatusBadRequest, typ: "idempotency_error",
		message: fmt.Sprintf("Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '%s' if you meant to execute a different request.", key),
	}
}

func errKeyInUse(key string) *apiError {
	return &apiError{
		status: http.StatusConflict, typ: "idempotency_error", code: "idempotency_key_in_use",
		message: fmt.Sprintf("There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other request is still going through): %s.", key),
		header:  http.Header{"Stripe-Should-Retry": {"true"}},
	}
}

// maskKey shows as much of an API key as Stripe does.
func maskKey(key string) string {
	if len(key) < 12 {
		return strings.Repeat("*", len(key))
	}
	return key[:8] + strings.Repeat("*", len(key)-12) + key[len(key)-4:]
}
