package budget

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// share is what one process may call while Redis cannot be asked: every rate
// divided by the number of processes. It begins with no burst, because what was
// granted by Redis a moment ago still counts in the current second.
type share struct {
	replicas float64

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
	return &share{replicas: float64(max(replicas, 1)), limiters: map[string]*limiter{}}
}

func (s *share) limiter(name string, perSecond float64) *limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limiters[name]
	if l == nil {
		full := rate.Limit(perSecond / s.replicas)
		l = &limiter{Limiter: rate.NewLimiter(full, 1), full: full}
		l.Reserve() // the first call waits one interval: no burst
		s.limiters[name] = l
	}
	return l
}

// wait waits for one call. Sweep calls get half of the share at most.
func (s *share) wait(ctx context.Context, buckets []bucket, p Purpose) error {
	var (
		reserved []*rate.Reservation
		delay    time.Duration
	)
	take := func(l *limiter) {
		r := l.Reserve()
		reserved = append(reserved, r)
		delay = max(delay, r.Delay())
	}
	for _, k := range buckets {
		take(s.limiter(k.name, k.rate))
		if !p.live() {
			take(s.limiter("sweep "+k.name, k.rate/2))
		}
	}
	if err := sleep(ctx, delay); err != nil {
		for _, r := range reserved {
			r.Cancel()
		}
		return err
	}
	return nil
}

// halve cuts the rate of one bucket, at most once a second.
func (s *share) halve(k bucket) bool {
	l := s.limiter(k.name, k.rate)
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(l.cut) < time.Second {
		return false
	}
	l.cut = time.Now()
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

// useShare waits for a call from this process's share after Redis failed.
func (b *Budget) useShare(ctx context.Context, buckets []bucket, p Purpose, cause error) error {
	// A caller that gave up says nothing about Redis.
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.fallBack(cause).wait(ctx, buckets, p); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending[counter{time.Now().Unix() / 3600, p}]++
	return nil
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
