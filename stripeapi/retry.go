package stripeapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/chance"
)

const (
	retryBase = 250 * time.Millisecond
	retryCap  = 4 * time.Second
	// retryAfterMax is the longest Retry-After that a call itself waits for.
	retryAfterMax = 10 * time.Second
	// retryAfterSane bounds what is told to the caller: what comes from outside puts
	// work off for minutes at most.
	retryAfterSane = 5 * time.Minute
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
	return max(chance.N(ceiling(n)+1), retryAfter), true
}

// parseRetryAfter reads seconds or an HTTP date; 0 for anything else.
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, retryAfterSane)
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(t.Sub(now), 0), retryAfterSane)
	}
	return 0
}

// sleep waits d or until the context ends, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return ctx.Err()
	}
}
