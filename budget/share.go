package budget

import (
	"context"
	"errors"
	"maps"
	"math"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// share is what one process may call while Redis cannot be asked. It begins with
// no burst, because what was granted by Redis a moment ago still counts in the
// current second.
type share struct {
	replicas int
	// over is closed when Redis answers again: who waits for its share asks Redis.
	over chan struct{}

	mu       sync.Mutex
	limiters map[string]*limiter
}

// limiter is one bucket of a share.
type limiter struct {
	*rate.Limiter
	full rate.Limit // the rate without 429s
	cut  time.Time  // when it was halved last
}

func newShare(replicas int) *share {
	return &share{replicas: max(replicas, 1), over: make(chan struct{}), limiters: map[string]*limiter{}}
}

// part is this process's part of a rate. Whole calls per second are what no phase of
// the others can turn into more than their sum.
func (s *share) part(perSecond float64) rate.Limit {
	if s.replicas == 1 {
		return rate.Limit(perSecond)
	}
	part := perSecond * shareSeconds / float64(s.replicas-1)
	if part > 1 {
		part = math.Floor(part)
	}
	return rate.Limit(part)
}

func (s *share) limiter(now time.Time, name string, full rate.Limit) *limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limiters[name]
	if l == nil {
		l = &limiter{Limiter: rate.NewLimiter(full, 1), full: full}
		l.ReserveN(now, 1) // the first call waits one interval: no burst
		s.limiters[name] = l
	}
	return l
}

// reserve returns how long to wait for one call; giveBack is for one that is not made.
// Sweep calls get half of the share at most.
func (s *share) reserve(now time.Time, buckets []bucket, p Purpose) (delay time.Duration, giveBack func(now time.Time)) {
	var reserved []*rate.Reservation
	take := func(name string, full rate.Limit) {
		r := s.limiter(now, name, full).ReserveN(now, 1)
		reserved = append(reserved, r)
		delay = max(delay, r.DelayFrom(now))
	}
	for _, k := range buckets {
		part := s.part(k.rate)
		take(k.name, part)
		if !p.live() {
			take("sweep "+k.name, part/2)
		}
	}
	return delay, func(now time.Time) {
		for _, r := range reserved {
			r.CancelAt(now)
		}
	}
}

// wait waits for one call, and reports whether it may be made: not so when Redis
// answers meanwhile, or when this process slept too long.
func (s *share) wait(ctx context.Context, buckets []bucket, p Purpose) (granted bool, err error) {
	began := time.Now()
	delay, giveBack := s.reserve(began, buckets, p)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return time.Since(began) <= delay+latest, nil
	case <-s.over:
	case <-ctx.Done():
		err = ctx.Err()
	}
	giveBack(time.Now())
	return false, err
}

// halve cuts the rate of one bucket, at most once a second.
func (s *share) halve(k bucket) bool {
	now := time.Now()
	l := s.limiter(now, k.name, s.part(k.rate))
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(l.cut) < time.Second {
		return false
	}
	l.cut = now
	l.SetLimit(max(l.Limit()/2, l.full*lowest))
	return true
}

// grow lets all rates recover by what d is worth.
func (s *share) grow(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.limiters {
		if l.Limit() < l.full {
			l.SetLimit(min(l.full, l.Limit()+l.full*rate.Limit(growth*d.Seconds())))
		}
	}
}

// resting says whether Redis failed so recently that it is not asked.
func (b *Budget) resting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.local != nil && time.Now().Before(b.retryAt)
}

// recovered notes that Redis answered.
func (b *Budget) recovered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.local != nil {
		close(b.local.over)
		b.local = nil
		b.degraded.Set(0)
		b.log.Info("stripe budget is shared again")
	}
}

// fallBack notes that Redis did not answer and returns this process's share.
func (b *Budget) fallBack(cause error) *share {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.local == nil {
		b.local = newShare(b.replicas)
		b.degraded.Set(1)
		b.log.Warn("stripe budget falls back to this process's share", zap.Int("replicas", b.replicas), zap.Error(cause))
	}
	if !errors.Is(cause, errDegraded) {
		b.retryAt = time.Now().Add(b.opts.Retry)
	}
	return b.local
}

// useShare waits for a call from this process's share after Redis failed, and reports
// whether it was granted.
func (b *Budget) useShare(ctx context.Context, buckets []bucket, p Purpose, cause error) (bool, error) {
	// A caller that gave up says nothing about Redis.
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if granted, err := b.fallBack(cause).wait(ctx, buckets, p); !granted || err != nil {
		return false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending[counter{time.Now().Unix() / 3600, p}]++
	return true, nil
}

// cutShare halves a rate of this process's share, if it is in use.
func (b *Budget) cutShare(k bucket) bool {
	b.mu.Lock()
	s := b.local
	b.mu.Unlock()
	return s != nil && s.halve(k)
}

// uncounted returns the calls that Redis does not know of yet.
func (b *Budget) uncounted() map[counter]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.pending)
}

// heartbeats runs until the budget is closed.
func (b *Budget) heartbeats(ctx context.Context) {
	defer close(b.stopped)
	tick := time.NewTicker(b.opts.Heartbeat)
	defer tick.Stop()
	for {
		b.heartbeat(ctx, 5*b.opts.Heartbeat)
		select {
		case <-tick.C:
		case <-ctx.Done():
			// Leave, so that the others know their share; if Redis does not
			// answer they find out by themselves.
			b.heartbeat(context.WithoutCancel(ctx), 0)
			return
		}
	}
}

// heartbeat says that this process is alive for ttl more, learns how many
// others are, and hands in what Redis has not counted.
func (b *Budget) heartbeat(ctx context.Context, ttl time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, b.opts.Timeout)
	defer cancel()
	pending := b.uncounted()
	args := []any{"", b.id, ttl.Microseconds()}
	for c, n := range pending {
		args = append(args, c.hour, string(c.purpose), n)
	}
	n, err := b.beat.run(ctx, b.client, []string{b.tag + "replicas", b.tag + "calls"}, args...)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		// Not a reason to fall back: only calls that could not ask are.
		if b.local != nil {
			b.local.grow(b.opts.Heartbeat)
		}
		return
	}
	if ttl > 0 {
		b.replicas = max(1, int(n))
	}
	for c, n := range pending {
		if b.pending[c] -= n; b.pending[c] == 0 {
			delete(b.pending, c)
		}
	}
}
