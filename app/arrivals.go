package app

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/reconcile"
)

const (
	// arrivalInterval is how often arrivals are written down: often enough for a
	// grace of minutes, and no cost per webhook.
	arrivalInterval = 5 * time.Second
	// beginTimeout bounds how long a start waits for the database to take note.
	beginTimeout = 2 * time.Second
	// refusalInterval is how often it is tried to write down what was refused: before
	// the sweep of events looks, once the database is back.
	refusalInterval = time.Second
	// deliveredWithin bounds how long before its delivery an event counts as created: a
	// later attempt of Stripe's says nothing of the time between.
	deliveredWithin = time.Minute
)

// arrivals lets the other replicas know that webhooks arrive here: the one that
// sweeps the events need not be one that receives.
type arrivals struct {
	store reconcile.Checkpoints
	now   func() time.Time
	log   *zap.Logger
	id    string // of this process, among those that receive
	// told is when the receiver last reported that it runs; of begin and then loop.
	told time.Time

	mu      sync.Mutex
	new     map[reconcile.Endpoint]arrival
	stopped time.Time
	// away is the time of which events were refused that is not written down yet.
	away struct{ from, to time.Time }
	// refuses is signalled when away begins.
	refuses chan struct{}
}

type arrival struct{ at, created time.Time }

func newArrivals(store reconcile.Checkpoints, now func() time.Time, log *zap.Logger) *arrivals {
	if now == nil {
		now = time.Now
	}
	return &arrivals{store: store, now: now, log: log, id: rand.Text(), new: map[reconcile.Endpoint]arrival{}, refuses: make(chan struct{}, 1)}
}

// arrived takes note of an event; it does no input or output.
func (a *arrivals) arrived(account string, created time.Time) {
	now := a.now()
	endpoint := reconcile.EndpointOf(account)
	a.mu.Lock()
	defer a.mu.Unlock()
	last := a.new[endpoint]
	last.at = now
	if created.After(last.created) {
		last.created = created
	}
	a.new[endpoint] = last
}

// refused takes note of an event that was answered with 503; it does no input or output.
func (a *arrivals) refused(created time.Time) {
	now := a.now()
	if earliest := now.Add(-deliveredWithin); created.Before(earliest) {
		created = earliest
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away.to.IsZero() {
		a.away.from = created
		select {
		case a.refuses <- struct{}{}:
		default:
		}
	}
	if created.Before(a.away.from) {
		a.away.from = created
	}
	a.away.to = now
}

// begin says that a receiver starts. It is called before the sweeps begin, which must
// not take for missed what came while none ran; a database that is away is written to later.
func (a *arrivals) begin(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beginTimeout)
	defer cancel()
	a.note(ctx)
}

// note says that the receiver runs, and the first time that it starts.
func (a *arrivals) note(ctx context.Context) {
	now := a.now()
	if now.Sub(a.told) < reconcile.ReceiverInterval || !a.stoppedAt().IsZero() {
		return
	}
	if err := reconcile.NoteReceiver(ctx, a.store, a.id, now, a.told.IsZero()); err != nil {
		a.failed(ctx, err)
		return
	}
	a.told = now
}

// stops takes note that no more requests are taken from now on.
func (a *arrivals) stops() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = a.now()
}

func (a *arrivals) stoppedAt() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stopped
}

// loop writes down what arrived until ctx ends, and then once more.
func (a *arrivals) loop(ctx context.Context) {
	ticker := time.NewTicker(arrivalInterval)
	defer ticker.Stop()
	for {
		a.note(ctx)
		a.flush(ctx)
		var again <-chan time.Time
		if !a.flushRefusals(ctx) {
			again = time.After(refusalInterval)
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			a.flush(last)
			a.flushRefusals(last)
			if at := a.stoppedAt(); !at.IsZero() {
				if err := reconcile.NoteReceiverStops(last, a.store, a.id, at); err != nil {
					a.failed(last, err)
				}
			}
			return
		case <-ticker.C:
		case <-a.refuses:
		case <-again:
		}
	}
}

// flushRefusals writes down of which time events were refused. It reports whether nothing
// is left to write.
func (a *arrivals) flushRefusals(ctx context.Context) bool {
	a.mu.Lock()
	away := a.away
	a.away.from, a.away.to = time.Time{}, time.Time{}
	a.mu.Unlock()
	if away.to.IsZero() {
		return true
	}
	err := reconcile.NoteRefusals(ctx, a.store, away.from, away.to)
	if err == nil {
		return true
	}
	a.failed(ctx, err)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away.to.IsZero() {
		a.away.to = away.to
	}
	if a.away.from.IsZero() || away.from.Before(a.away.from) {
		a.away.from = away.from
	}
	return false
}

// flush writes down what arrived since the last time; what cannot be written
// waits for the next.
func (a *arrivals) flush(ctx context.Context) {
	a.mu.Lock()
	due := a.new
	a.new = map[reconcile.Endpoint]arrival{}
	a.mu.Unlock()
	for _, endpoint := range slices.Sorted(maps.Keys(due)) { // the same order every time, for a simulation
		last := due[endpoint]
		err := reconcile.NoteArrival(ctx, a.store, endpoint, last.at, last.created)
		if err == nil {
			continue
		}
		a.failed(ctx, err)
		a.mu.Lock()
		if since, ok := a.new[endpoint]; ok { // more arrived while it was tried
			last.at = since.at
			if since.created.After(last.created) {
				last.created = since.created
			}
		}
		a.new[endpoint] = last
		a.mu.Unlock()
	}
}

func (a *arrivals) failed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		a.log.Debug("could not save webhook arrivals", zap.Error(err))
	}
}
