package app

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/creditmirror/creditmirror/reconcile"
)

// lateKept is how long what is known of late events is believed.
const lateKept = 5 * time.Second

// lateEvents reports for which events the time until they were answered says nothing of
// this mirror's freshness.
type lateEvents struct {
	store reconcile.Checkpoints
	now   func() time.Time

	mu    sync.Mutex
	known map[string]knownLate
}

type knownLate struct {
	late reconcile.Late
	read time.Time
}

func newLateEvents(store reconcile.Checkpoints, now func() time.Time) *lateEvents {
	if now == nil {
		now = time.Now
	}
	return &lateEvents{store: store, now: now, known: map[string]knownLate{}}
}

// excused reports whether an event is one of them. A database that does not answer
// leaves what was known before.
func (l *lateEvents) excused(ctx context.Context, account string, created time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	k, ok := l.known[account]
	if now := l.now(); !ok || now.Sub(k.read) > lateKept {
		if late, err := reconcile.LateEvents(ctx, l.store, account, now); err == nil {
			k.late = late
		}
		k.read = now
		l.known[account] = k
	}
	return k.late.Excused(created)
}

// freshness are the times that the last events took to be answered, ascending.
func (p *Parts) freshness(ctx context.Context) ([]time.Duration, error) {
	answered, err := p.Store.Freshness(ctx, freshnessSample)
	if err != nil {
		return nil, err
	}
	late := newLateEvents(p.Store, p.now())
	var list []time.Duration
	for _, a := range answered {
		if !late.excused(ctx, a.Account, a.Created) {
			list = append(list, max(a.Applied.Sub(a.Created), 0))
		}
	}
	slices.Sort(list)
	return list, nil
}
