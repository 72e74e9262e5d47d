package app

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
)

// rows is the table of sweeps, of a database that may be away.
type rows struct {
	mirror.Progress
	mu     sync.Mutex
	all    map[string]mirror.Sweep
	away   bool
	writes int
}

func (r *rows) Sweep(_ context.Context, _, name string) (mirror.Sweep, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return mirror.Sweep{}, errors.New("away")
	}
	s := r.all[name]
	s.Name = name
	return s, nil
}

func (r *rows) SaveSweep(ctx context.Context, s mirror.Sweep) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := ctx.Err(); err != nil || r.away {
		return errors.Join(errors.New("away"), err)
	}
	r.all[s.Name] = s
	r.writes++
	return nil
}

func (r *rows) set(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

func (r *rows) last(name string) mirror.Sweep {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[name]
}

func TestArrivalsAreWrittenDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &rows{all: map[string]mirror.Sweep{}}
		a := newArrivals(r, nil, zap.NewNop())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); a.loop(ctx) }()
		synctest.Wait()
		if r.last("webhook_receivers").StartedAt.IsZero() {
			t.Error("the receiver does not say that it runs")
		}
		for range 10_000 { // a burst costs one write
			a.arrived("", time.Now().Add(-time.Second))
		}
		time.Sleep(arrivalInterval)
		synctest.Wait()
		if row := r.last("webhook_account"); r.writes != 2 || time.Since(row.LastSuccess) != arrivalInterval {
			t.Errorf("%d writes, %+v", r.writes, row)
		}
		// What cannot be written waits, and is not forgotten for what comes later.
		r.set(true)
		created := time.Now()
		a.arrived("acct_1", created)
		time.Sleep(3 * arrivalInterval)
		a.arrived("acct_2", created.Add(-time.Hour))
		r.set(false)
		time.Sleep(arrivalInterval)
		synctest.Wait()
		if row := r.last("webhook_connect"); !row.Watermark.Equal(created) || !row.LastSuccess.After(created) {
			t.Errorf("%+v", row)
		}
		// The last ones are written at the end.
		a.arrived("", time.Now())
		stop()
		<-ended
		if row := r.last("webhook_account"); !row.LastSuccess.Equal(time.Now()) {
			t.Errorf("%+v", row)
		}
		if states, err := reconcile.WebhookStates(t.Context(), r); err != nil || len(states) != 2 || states[0].LastArrival.IsZero() || states[0].Silent {
			t.Errorf("%+v, %v", states, err)
		}
	})
}
