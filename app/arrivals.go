package app

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
)

const (
	// arrivalInterval is how often arrivals are written down: often enough for a
	// grace of minutes, and no cost per webhook.
	arrivalInterval = 5 * time.Second
	// receiverInterval is how often a receiver says that it runs.
	receiverInterval = time.Minute
)

// arrivals lets the other replicas know that webhooks arrive here: the one that
// sweeps the events need not be one that receives.
type arrivals struct {
	store mirror.Progress
	log   *zap.Logger

	mu  sync.Mutex
	new map[reconcile.Endpoint]arrival
}

type arrival struct{ at, created time.Time }

func newArrivals(store mirror.Progress, log *zap.Logger) *arrivals {
	return &arrivals{store: store, log: log, new: map[reconcile.Endpoint]arrival{}}
}

// arrived takes note of an event; it does no input or output.
func (a *arrivals) arrived(account string, created time.Time) {
	now := time.Now()
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

// loop writes down what arrived until ctx ends, and then once more.
func (a *arrivals) loop(ctx context.Context) {
	ticker := time.NewTicker(arrivalInterval)
	defer ticker.Stop()
	for told := (time.Time{}); ; {
		if now := time.Now(); now.Sub(told) >= receiverInterval {
			if err := reconcile.NoteReceiver(ctx, a.store, now); err != nil {
				a.failed(ctx, err)
			} else {
				told = now
			}
		}
		a.flush(ctx)
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			a.flush(last)
			return
		case <-ticker.C:
		}
	}
}

// flush writes down what arrived since the last time; what cannot be written
// waits for the next.
func (a *arrivals) flush(ctx context.Context) {
	a.mu.Lock()
	due := a.new
	a.new = map[reconcile.Endpoint]arrival{}
	a.mu.Unlock()
	for endpoint, last := range due {
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
		a.log.Debug("arrival of webhooks not written down", zap.Error(err))
	}
}
