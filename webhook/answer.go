package webhook

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// answer is one way in which a request can end.
type answer struct {
	code int
	word string
	// cuts: part of the body may be unread, so the connection ends with the answer
	// instead of waiting for the rest.
	cuts bool
}

var (
	answerNotFound           = answer{http.StatusNotFound, "not_found", true}
	answerMethod             = answer{http.StatusMethodNotAllowed, "method", true}
	answerStopping           = answer{http.StatusServiceUnavailable, "stopping", true}
	answerEncoding           = answer{http.StatusBadRequest, "content_encoding", true}
	answerSignatureMissing   = answer{http.StatusBadRequest, "signature_missing", true}
	answerSignatureDoubled   = answer{http.StatusBadRequest, "signature_doubled", true}
	answerSignatureMalformed = answer{http.StatusBadRequest, "signature_malformed", true}
	answerTooLarge           = answer{http.StatusRequestEntityTooLarge, "too_large", true}
	answerBodyTimeout        = answer{http.StatusRequestTimeout, "body_timeout", true}
	answerBodyBroken         = answer{http.StatusBadRequest, "body_broken", true}
	answerBodyOverload       = answer{http.StatusServiceUnavailable, "overload", true}
	answerPanic              = answer{http.StatusServiceUnavailable, "panic", true}

	answerOverload        = answer{http.StatusServiceUnavailable, "overload", false}
	answerTimeout         = answer{http.StatusServiceUnavailable, "timeout", false}
	answerInboxError      = answer{http.StatusServiceUnavailable, "inbox_error", false}
	answerQueueError      = answer{http.StatusServiceUnavailable, "queue_error", false}
	answerDeadLetterError = answer{http.StatusServiceUnavailable, "dead_letter_error", false}

	answerQueued     = answer{http.StatusOK, "queued", false}
	answerCoalesced  = answer{http.StatusOK, "coalesced", false}
	answerDuplicate  = answer{http.StatusOK, "duplicate", false}
	answerIgnored    = answer{http.StatusOK, "ignored", false}
	answerOtherMode  = answer{http.StatusOK, "other_mode", false}
	answerUnreadable = answer{http.StatusOK, "unreadable", false}
)

// constantAnswers are all but Verify's refusals, whose words are not known here.
var constantAnswers = []answer{
	answerNotFound, answerMethod, answerStopping, answerEncoding, answerSignatureMissing,
	answerSignatureDoubled, answerSignatureMalformed, answerTooLarge, answerBodyTimeout,
	answerBodyBroken, answerPanic, answerOverload, answerTimeout, answerInboxError,
	answerQueueError, answerDeadLetterError, answerQueued, answerCoalesced, answerDuplicate,
	answerIgnored, answerOtherMode, answerUnreadable,
}

// eventAnswers are the outcomes of a verified event that was understood.
var eventAnswers = []answer{answerQueued, answerCoalesced, answerDuplicate, answerIgnored, answerOtherMode}

// retryAfter is in seconds. Stripe keeps its own schedule; proxies and other
// senders read it.
const retryAfter = "5"

// write sends the answer. Bodies are constant per code: a stranger learns
// nothing of why a signature was refused.
func (a answer) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if a.cuts && r.ContentLength != 0 {
		h.Set("Connection", "close")
		// Otherwise net/http would wait for up to 256 KiB of a body that nobody
		// wants. Failure means there is no connection.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now())
	}
	if a.code == http.StatusOK {
		h.Set("Content-Length", "0")
		w.WriteHeader(a.code)
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	switch a.code {
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodPost)
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	}
	w.WriteHeader(a.code)
	// The caller may be gone; it will ask again.
	_, _ = io.WriteString(w, http.StatusText(a.code)+"\n")
}

const signatureHeader = "Stripe-Signature"

// checkSignatureHeader refuses what cannot be a signature, before a body is read
// for it. Whether it is one, Verify decides.
func checkSignatureHeader(h http.Header) (answer, bool) {
	values := h.Values(signatureHeader)
	switch {
	case len(values) == 0 || strings.TrimSpace(values[0]) == "":
		return answerSignatureMissing, true
	case len(values) > 1:
		return answerSignatureDoubled, true
	case !strings.Contains(values[0], "t=") || !strings.Contains(values[0], "v1="):
		return answerSignatureMalformed, true
	}
	return answer{}, false
}

// signatureAnswer turns Verify's reason into an answer. Whatever does not look
// like a word is replaced: a label must never carry a sender's text.
func signatureAnswer(reason string) answer {
	word := reason != "" && len(reason) <= 40
	for _, c := range []byte(reason) {
		word = word && (c == '_' || 'a' <= c && c <= 'z')
	}
	if !word {
		reason = "signature_refused"
	}
	return answer{code: http.StatusBadRequest, word: reason}
}
