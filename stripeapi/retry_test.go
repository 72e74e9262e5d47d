package stripeapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script is a transport that answers from a list, with no I/O, so that it can
// live in a synctest bubble. After its last step it repeats that one.
type script struct {
	mu    sync.Mutex
	steps []step
	seen  []*http.Request
	at    []time.Time
}

type step struct {
	status int
	body   string
	header map[string]string
	err    error
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.steps[min(len(s.seen), len(s.steps)-1)]
	s.seen, s.at = append(s.seen, r), append(s.at, time.Now())
	if st.err != nil {
		return nil, st.err
	}
	h := http.Header{"Content-Type": {"application/json"}, "Request-Id": {"req_s"}}
	for k, v := range st.header {
		h.Set(k, v)
	}
	return &http.Response{
		StatusCode: st.status, Header: h, ContentLength: -1, Request: r,
		Body: io.NopCloser(strings.NewReader(st.body)),
	}, nil
}

func scripted(t *testing.T, o Options, steps ...step) (*Client, *script) {
	t.Helper()
	s := &script{steps: steps}
	o.Key = testKey
	c, err := newClient(o, s)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func errorBody(code string) string {
	return `{"error":{"type":"invalid_request_error","code":"` + code + `","message":"m"}}`
}

var customerBody = step{status: 200, body: `{"id":"` + cusBalance + `","object":"customer","balance":0,"created":1,"livemode":false}`}

func TestRetryTable(t *testing.T) {
	t.Parallel()
	yes, no := map[string]string{"Stripe-Should-Retry": "true"}, map[string]string{"Stripe-Should-Retry": "false"}
	for _, c := range []struct {
		name      string
		step      step
		want      error
		attempts  int
		throttled int
	}{
		{"rate limit", step{status: 429, body: errorBody("rate_limit")}, ErrRateLimited, 3, 3},
		{"rate limit without code", step{status: 429, body: "slow down"}, ErrRateLimited, 3, 3},
		{"rate limit, do not retry", step{status: 429, body: errorBody("rate_limit"), header: no}, ErrRateLimited, 1, 1},
		{"lock timeout", step{status: 429, body: errorBody("lock_timeout")}, ErrUnavailable, 3, 0},
		{"conflict", step{status: 409, body: errorBody("idempotency_key_in_use")}, ErrUnavailable, 3, 0},
		{"dependency", step{status: 424, body: errorBody("")}, ErrUnavailable, 3, 0},
		{"500", step{status: 500, body: errorBody("")}, ErrUnavailable, 3, 0},
		{"500, do not retry", step{status: 500, body: errorBody(""), header: no}, ErrUnavailable, 1, 0},
		{"HTML 502, do not retry", step{status: 502, body: "<html>", header: no}, ErrUnavailable, 1, 0},
		{"network", step{err: errors.New("connection refused")}, ErrUnavailable, 3, 0},
		{"bad request", step{status: 400, body: errorBody("parameter_unknown")}, ErrRefused, 1, 0},
		{"bad request, retry", step{status: 400, body: errorBody("x"), header: yes}, ErrRefused, 3, 0},
		{"payment required", step{status: 402, body: errorBody("x")}, ErrRefused, 1, 0},
		{"unauthorized", step{status: 401, body: errorBody("")}, ErrUnauthorized, 1, 0},
		{"forbidden", step{status: 403, body: errorBody("")}, ErrForbidden, 1, 0},
		{"account", step{status: 403, body: errorBody("account_invalid")}, ErrAccountRefused, 1, 0},
		{"not found", step{status: 404, body: errorBody("resource_missing")}, ErrNotFound, 1, 0},
		{"no such path", step{status: 404, body: errorBody("")}, ErrRefused, 1, 0},
		{"good", customerBody, nil, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				lim := &spyLimiter{}
				client, s := scripted(t, Options{Limiter: lim}, c.step)
				_, err := client.Customer(t.Context(), "", cusBalance)
				if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if len(s.seen) != c.attempts || len(lim.acquired) != c.attempts || len(lim.throttled) != c.throttled {
					t.Errorf("%d attempts, %d acquired, %d throttled", len(s.seen), len(lim.acquired), len(lim.throttled))
				}
				for i := 1; i < len(s.at); i++ {
					if wait := s.at[i].Sub(s.at[i-1]); wait > ceiling(i) {
						t.Errorf("waited %v before retry %d, at most %v", wait, i, ceiling(i))
					}
				}
			})
		})
	}
}

func TestRetrySucceeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, s := scripted(t, Options{}, step{status: 429, body: errorBody("rate_limit")}, step{status: 502, body: "<html>"}, customerBody)
		if _, err := client.Customer(t.Context(), "", cusBalance); err != nil || len(s.seen) != 3 {
			t.Fatalf("%v after %d", err, len(s.seen))
		}
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]struct {
		wait  time.Duration // exact lower bound of the wait
		given time.Duration // returned to the caller without a retry
	}{"7": {wait: 7 * time.Second}, "10": {wait: 10 * time.Second}, "11": {given: 11 * time.Second}, "99999999": {given: time.Minute}, "86400": {given: time.Minute}, "-5": {}, "soon": {}} {
		synctest.Test(t, func(t *testing.T) {
			limited := step{status: 429, body: errorBody("rate_limit"), header: map[string]string{"Retry-After": header}}
			client, s := scripted(t, Options{}, limited, customerBody)
			_, err := client.Customer(t.Context(), "", cusBalance)
			if want.given > 0 {
				e, ok := errors.AsType[*Error](err)
				if !ok || e.RetryAfter != want.given || len(s.seen) != 1 {
					t.Errorf("%s: %v after %d", header, err, len(s.seen))
				}
				return
			}
			if err != nil || len(s.at) != 2 {
				t.Fatalf("%s: %v after %d", header, err, len(s.at))
			}
			if got := s.at[1].Sub(s.at[0]); got < want.wait || got > max(want.wait, ceiling(1)) {
				t.Errorf("%s: waited %v", header, got)
			}
		})
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	h := http.Header{"Retry-After": {now.Add(3 * time.Second).Format(http.TimeFormat)}}
	if got := parseRetryAfter(h, now); got != 3*time.Second {
		t.Errorf("a date: %v", got)
	}
	if got := parseRetryAfter(h, now.Add(-time.Hour)); got != retryAfterSane {
		t.Errorf("a date an hour ahead: %v", got)
	}
	if got := parseRetryAfter(h, now.Add(time.Hour)); got != 0 {
		t.Errorf("a past date: %v", got)
	}
}

func TestWaitIsFullJitter(t *testing.T) {
	t.Parallel()
	for n, limit := range map[int]time.Duration{
		1: 250 * time.Millisecond, 2: 500 * time.Millisecond, 3: time.Second, 5: 4 * time.Second, 6: 4 * time.Second, 1000: 4 * time.Second,
	} {
		var low, high bool
		for range 2000 {
			w, ok := waitFor(n, 0)
			if !ok || w < 0 || w > limit {
				t.Fatalf("retry %d waits %v", n, w)
			}
			low, high = low || w < limit/10, high || w > limit*9/10
		}
		if !low || !high {
			t.Errorf("retry %d does not spread over 0 to %v", n, limit)
		}
	}
}

func TestCancelWhileWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limited := step{status: 429, body: errorBody("rate_limit"), header: map[string]string{"Retry-After": "10"}}
		client, s := scripted(t, Options{}, limited)
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		time.AfterFunc(time.Second, cancel)
		_, err := client.Customer(ctx, "", cusBalance)
		if !errors.Is(err, context.Canceled) || errors.Is(err, ErrRateLimited) || time.Since(start) != time.Second || len(s.seen) != 1 {
			t.Errorf("%v after %v and %d attempts", err, time.Since(start), len(s.seen))
		}
	})
}

// A deadline that the wait would run into ends the call at once, with the error
// that says what was wrong.
func TestDeadlineBeforeRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limited := step{status: 429, body: errorBody("rate_limit"), header: map[string]string{"Retry-After": "10"}}
		client, _ := scripted(t, Options{}, limited)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, err := client.Customer(ctx, "", cusBalance)
		if !errors.Is(err, ErrRateLimited) || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestLimiterErrorEndsTheCall(t *testing.T) {
	t.Parallel()
	paused := errors.New("paused")
	client, s := scripted(t, Options{Limiter: &spyLimiter{err: paused}}, customerBody)
	_, err := client.Customer(t.Context(), "", cusBalance)
	if !errors.Is(err, paused) || !errors.Is(err, ErrUnavailable) || len(s.seen) != 0 {
		t.Errorf("%v after %d", err, len(s.seen))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	client, _ = scripted(t, Options{Limiter: &spyLimiter{err: ctx.Err()}}, customerBody)
	if _, err = client.Customer(ctx, "", cusBalance); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
