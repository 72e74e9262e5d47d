package stripesim

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// bucket is a token bucket that holds one second's worth, at least one request.
type bucket struct {
	mu     sync.Mutex
	rps    float64
	tokens float64
	at     time.Time
}

func (b *bucket) take(now time.Time, rps float64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	size := max(rps, 1)
	if b.rps != rps { // first use, or the limit has changed
		b.rps, b.tokens, b.at = rps, size, now
	}
	if d := now.Sub(b.at); d > 0 {
		b.tokens = math.Min(size, b.tokens+d.Seconds()*rps)
		b.at = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (a *account) bucket(name string) *bucket {
	if b, ok := a.buckets.Load(name); ok {
		return b.(*bucket)
	}
	b, _ := a.buckets.LoadOrStore(name, &bucket{})
	return b.(*bucket)
}

// admit applies the limits to one request. The caller must call leave when the
// request is over, if there was no error.
func (a *account) admit(endpoint string) *apiError {
	l := a.s.limits.Load()
	if n := a.inFlight.Add(1); l.Concurrency > 0 && n > int64(l.Concurrency) {
		a.leave()
		return a.s.tooMany("global-concurrency")
	}
	now := a.s.time.base() // requests come in real time, whatever the simulator's clock says
	rps, ok := l.Endpoints[endpoint]
	if !ok {
		rps = l.EndpointRPS
	}
	if rps > 0 && !a.bucket(endpoint).take(now, rps) {
		a.leave()
		return a.s.tooMany("endpoint-rate")
	}
	if l.AccountRPS > 0 && !a.bucket("").take(now, l.AccountRPS) {
		a.leave()
		return a.s.tooMany("global-rate")
	}
	return nil
}

func (a *account) leave() { a.inFlight.Add(-1) }

// gate counts what is in flight per named endpoint, and which objects are being
// written. Its lock is a leaf.
type gate struct {
	mu      sync.Mutex
	running map[string]int
	locked  map[string]bool
}

// enter applies the limits that concern one endpoint and one object, "" if the
// request writes none. The returned function ends the request, if there was no
// error.
func (a *account) enter(endpoint, object string) (func(), *apiError) {
	l := a.s.limits.Load()
	if l.EndpointConcurrency == 0 && l.ObjectWriteRPS == 0 && !l.ObjectLock {
		return func() {}, nil
	}
	if l.ObjectWriteRPS > 0 && object != "" && !a.bucket("object/"+object).take(a.s.time.base(), l.ObjectWriteRPS) {
		return nil, a.s.tooMany("resource-specific")
	}
	g := &a.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.EndpointConcurrency > 0 && g.running[endpoint] >= l.EndpointConcurrency {
		return nil, a.s.tooMany("endpoint-concurrency")
	}
	if l.ObjectLock && g.locked[object] {
		return nil, errLock()
	}
	if g.running == nil {
		g.running, g.locked = map[string]int{}, map[string]bool{}
	}
	g.running[endpoint]++
	if object != "" {
		g.locked[object] = true
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.running[endpoint]--
		delete(g.locked, object)
	}, nil
}

// tooMany is the 429 of the limiter, with Retry-After where that is switched on.
func (s *Server) tooMany(reason string) *apiError {
	e := errRate(reason)
	s.retryAfter(e.header)
	return e
}

func (s *Server) retryAfter(h http.Header) {
	if d := s.switches().RetryAfter; d > 0 {
		h.Set("Retry-After", strconv.FormatInt(ceilSeconds(d), 10))
	}
}
