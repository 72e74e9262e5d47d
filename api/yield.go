package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
)

// UnderWay reports whether the newest sync of a target began within the last time, and
// has not committed. mirror.UnderWay of a store is one.
type UnderWay func(ctx context.Context, t mirror.Target, within time.Duration) (bool, error)

// yieldTo is the age up to which a sync is not overtaken by the API, and so the
// longest that a request waits for one: a customer that is written without a pause
// would never be synced otherwise.
const yieldTo = 2 * time.Second

// yield waits while a sync of the target is under way. What it waits for may be dead,
// and what it lets pass may be overtaken all the same: the fence alone keeps the
// mirror right, this lets both of them come to an end.
func (u UnderWay) yield(ctx context.Context, t mirror.Target) {
	if u == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, yieldTo)
	defer cancel()
	for n := 0; ; n++ {
		running, err := u(ctx, t, yieldTo)
		if err != nil || !running || backoff.Sleep(ctx, 5*time.Millisecond<<min(n, 2)) != nil {
			return
		}
	}
}

// turn is the syncs of one target for writes: one runs at a time, and all whose
// writes were done meanwhile share the next. Each for itself would overtake the
// others' without an end.
type turn struct {
	next   *flight // has not begun; nil: none is asked for
	grants []mirror.CreditGrant
}

// syncSoon returns once a sync of the target has committed that began after now.
func (w *Writes) syncSoon(ctx context.Context, t mirror.Target, grant mirror.CreditGrant) error {
	w.mu.Lock()
	tn := w.turns[t]
	if tn == nil {
		if w.turns == nil {
			w.turns = map[mirror.Target]*turn{}
		}
		tn = &turn{}
		w.turns[t] = tn
		go w.takeTurns(context.WithoutCancel(ctx), t, tn) // it needs the lock first
	}
	if tn.next == nil {
		tn.next = &flight{done: make(chan struct{})}
	}
	f := tn.next
	if grant.ID != "" {
		tn.grants = mirror.NewestGrants(append(tn.grants, grant))
	}
	w.mu.Unlock()
	return f.wait(ctx)
}

func (f *flight) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-f.done:
		return f.err
	}
}

// takeTurns runs the syncs of a target that are asked for until there are none.
func (w *Writes) takeTurns(ctx context.Context, t mirror.Target, tn *turn) {
	for {
		w.mu.Lock()
		f, grants := tn.next, tn.grants
		tn.next, tn.grants = nil, nil
		if f == nil {
			delete(w.turns, t)
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		f.err = w.syncNow(ctx, t, grants)
		close(f.done)
	}
}

// syncNow syncs the target, again as often as it is overtaken.
func (w *Writes) syncNow(ctx context.Context, t mirror.Target, grants []mirror.CreditGrant) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	for attempt := 0; ; attempt++ {
		w.UnderWay.yield(ctx, t)
		err := w.Sync(ctx, t, grants)
		if !errors.Is(err, mirror.ErrFenced) || backoff.Sleep(ctx, 20*time.Millisecond<<min(attempt, 4)) != nil {
			return err
		}
	}
}
