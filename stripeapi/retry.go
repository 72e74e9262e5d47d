package stripeapi

import (
	"net/http"
	"time"

	"github.com/creditmirror/creditmirror/backoff"
)

const (
	retryBase = 250 * time.Millisecond
	retryCap  = 4 * time.Second
	// retryAfterMax is the longest Retry-After that a call itself waits for.
	retryAfterMax = 10 * time.Second
	// retryAfterSane bounds what is reported to the caller: one reply says nothing of
	// the next day, and what comes from outside puts work off for a minute at most.
	retryAfterSane = time.Minute
)

// ceiling is the longest random wait before retry n (the first is 1).
func ceiling(n int) time.Duration {
	if n > 10 { // the shift would overflow long after the cap
		return retryCap
	}
	return min(retryCap, retryBase<<(n-1))
}

// waitFor is how long to wait before retry n: full jitter, so that the calls
// that failed together do not come back together; ok is false when Stripe asks
// for more than a call waits.
func waitFor(n int, retryAfter time.Duration) (wait time.Duration, ok bool) {
	if retryAfter > retryAfterMax {
		return 0, false
	}
	return max(backoff.N(ceiling(n)+1), retryAfter), true
}

// parseRetryAfter reads what the reply asks for, bounded; 0 where it asks for nothing.
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	return min(backoff.RetryAfter(h.Get("Retry-After"), now), retryAfterSane)
}
