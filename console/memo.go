package console

import (
	"context"
	"errors"
	"sync"
	"time"
)

// memo computes figures that take longer than a page may, in the background: a page shows
// what was computed last, with its time, and never waits long.
type memo struct {
	now    func() time.Time
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	// Figures of the whole mirror have slots of their own, so that those of one
	// customer or one table do not wait behind them.
	slots, few chan struct{}

	mu      sync.Mutex
	entries map[string]*figure
}

// figure is one of them.
type figure struct {
	value any
	err   error
	at    time.Time // when value was computed; zero: never
	tried time.Time
	used  time.Time
	// rest is how long it is left alone: ten times what it took, so that a mirror that is
	// large is not counted without end.
	rest time.Duration
	done chan struct{} // of the computation under way; nil: none
}

const (
	// figuresKept bounds how many are remembered, figuresAtOnce how many are computed side
	// by side: each may read a whole table; fewAtOnce are of one customer or one table.
	figuresKept, figuresAtOnce, fewAtOnce = 128, 2, 4
	figureTimeout                         = 5 * time.Minute
	// patience is how long a page waits for all its figures.
	patience = 80 * time.Millisecond
	// downloadPatience is how long a file waits for them: whoever saves one rather waits
	// than comes again.
	downloadPatience = 15 * time.Second
	// fewLast is how old a figure of one customer or one table may be.
	fewLast = time.Minute
	// again is how soon a figure that could not be computed is tried again.
	again = 5 * time.Second
)

func newMemo(now func() time.Time) *memo {
	ctx, cancel := context.WithCancel(context.Background())
	return &memo{now: now, ctx: ctx, cancel: cancel, slots: make(chan struct{}, figuresAtOnce), few: make(chan struct{}, fewAtOnce), entries: map[string]*figure{}}
}

// close ends what is computed and waits for it.
func (m *memo) close() {
	m.mu.Lock()
	m.cancel()
	m.mu.Unlock()
	m.work.Wait()
}

// errPending says that a figure is being computed for the first time.
var errPending = errors.New("still being computed")

// waiting is the key of the moment until which a page waits for its figures.
type waiting struct{}

// withPatience has all figures of a page waited for until one moment.
func withPatience(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, waiting{}, time.Now().Add(d))
}

// getFew is get for what reads one customer or one table.
func getFew[T any](ctx context.Context, m *memo, name string, fresh time.Duration, compute func(context.Context) (T, error)) (value T, at time.Time, err error) {
	if value, at, err = getIn(ctx, m, m.few, name, fresh, compute); err == nil && m.now().Sub(at) > fewLast {
		var none T
		return none, at, errPending // pages show it without its age
	}
	return value, at, err
}

// get returns the figure of a name, computed at most fresh ago where that is to be had
// soon, else as it was computed last. It is errPending where it never was.
func get[T any](ctx context.Context, m *memo, name string, fresh time.Duration, compute func(context.Context) (T, error)) (value T, at time.Time, err error) {
	return getIn(ctx, m, m.slots, name, fresh, compute)
}

func getIn[T any](ctx context.Context, m *memo, slots chan struct{}, name string, fresh time.Duration, compute func(context.Context) (T, error)) (value T, at time.Time, err error) {
	m.mu.Lock()
	now := m.now()
	f := m.entries[name]
	if f == nil {
		f = &figure{}
		m.entries[name] = f
		m.forget()
	}
	f.used = now
	stale := f.at.IsZero() || now.Sub(f.at) > max(fresh, f.rest)
	if stale && f.done == nil && m.ctx.Err() == nil && (f.err == nil || now.Sub(f.tried) >= again) {
		f.done = make(chan struct{})
		m.work.Go(func() { m.compute(f, slots, func(ctx context.Context) (any, error) { return compute(ctx) }) })
	}
	done := f.done
	m.mu.Unlock()
	if stale && done != nil {
		until, ok := ctx.Value(waiting{}).(time.Time)
		if !ok {
			until = time.Now().Add(patience)
		}
		wait := time.NewTimer(time.Until(until))
		select {
		case <-done:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.at.IsZero() {
		if f.done != nil || f.err == nil {
			return value, at, errPending
		}
		return value, at, f.err
	}
	value, _ = f.value.(T)
	return value, f.at, nil
}

func (m *memo) compute(f *figure, slots chan struct{}, compute func(context.Context) (any, error)) {
	var value any
	var err error
	var took time.Duration
	select {
	case slots <- struct{}{}:
		ctx, cancel := context.WithTimeout(m.ctx, figureTimeout)
		began := time.Now()
		value, err = compute(ctx)
		took = time.Since(began)
		cancel()
		<-slots
	case <-m.ctx.Done():
		err = m.ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f.err, f.tried = err, m.now()
	if err == nil {
		f.value, f.at, f.rest = value, f.tried, 10*took
	}
	close(f.done)
	f.done = nil
}

// forget makes room: the one goes that was not asked for the longest. m.mu is held.
func (m *memo) forget() {
	for len(m.entries) > figuresKept {
		oldest := ""
		for name, f := range m.entries {
			if f.done == nil && !f.used.IsZero() && (oldest == "" || f.used.Before(m.entries[oldest].used)) {
				oldest = name
			}
		}
		if oldest == "" {
			return
		}
		delete(m.entries, oldest)
	}
}

// drop forgets a figure, which is computed anew when it is asked for.
func (m *memo) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.entries[name]; f != nil && f.done == nil {
		delete(m.entries, name)
	}
}

// goOn runs something in the background that close ends; not where it is closed already.
func (m *memo) goOn(fn func(context.Context)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return false
	}
	m.work.Go(func() { fn(m.ctx) })
	return true
}
