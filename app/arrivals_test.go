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
	reconcile.Checkpoints
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

// What the receiver had to refuse is written down as soon as the database takes it.
func TestRefusalsAreWrittenDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &rows{all: map[string]mirror.Sweep{}}
		a := newArrivals(r, nil, zap.NewNop())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); a.loop(ctx) }()
		time.Sleep(5*time.Minute + 2*time.Second) // between two turns of the loop
		began := time.Now()
		r.set(true)
		for range 20 {
			a.refused(time.Now().Add(-time.Second))
			a.refused(time.Now().Add(-time.Hour)) // Stripe's later attempt for an old one
			time.Sleep(time.Second)
		}
		over := time.Now()
		r.set(false)
		time.Sleep(refusalInterval)
		synctest.Wait()
		late, err := reconcile.LateEvents(t.Context(), r, "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for at, want := range map[time.Time]bool{
			began.Add(-deliveredWithin - 10*time.Second): false, began: true, over.Add(-time.Second): true, over.Add(5 * time.Second): false,
		} {
			if got := late.Excused(at); got != want {
				t.Errorf("%v after the outage began: excused %v, want %v", at.Sub(began), got, want)
			}
		}
		// Where the database is not what is away, it is there at once.
		time.Sleep(time.Minute)
		a.refused(time.Now())
		synctest.Wait()
		if late, err = reconcile.LateEvents(t.Context(), r, "", time.Now()); err != nil || !late.Excused(time.Now()) {
			t.Errorf("%+v, %v", late, err)
		}
		// What could not be written until the end is written then.
		time.Sleep(time.Minute)
		r.set(true)
		a.refused(time.Now())
		synctest.Wait()
		r.set(false)
		stop()
		<-ended
		if late, err = reconcile.LateEvents(t.Context(), r, "", time.Now()); err != nil || !late.Excused(time.Now()) {
			t.Errorf("after the end: %+v, %v", late, err)
		}
	})
}

// during is a table of sweeps that cannot be written while something happens.
type during struct {
	*rows
	do func()
}

func (d *during) SaveSweep(ctx context.Context, s mirror.Sweep) error {
	if d.do != nil {
		d.do()
		return errors.New("away")
	}
	return d.rows.SaveSweep(ctx, s)
}

// What is refused while a write fails is written down with what the write was of, from
// the oldest event that was refused to the last refusal.
func TestRefusalsWhileAWriteFails(t *testing.T) {
	t.Parallel()
	r := &during{rows: &rows{all: map[string]mirror.Sweep{}}}
	began := time.Now()
	now := began
	a := newArrivals(r, func() time.Time { return now }, zap.NewNop())
	a.refused(began.Add(-10 * time.Second))
	a.refused(began.Add(-40 * time.Second))
	r.do = func() {
		now = began.Add(20 * time.Second)
		a.refused(now.Add(-time.Second))
	}
	if a.flushRefusals(t.Context()) {
		t.Error("nothing is left, after a write that failed")
	}
	r.do = nil
	for range 2 {
		if !a.flushRefusals(t.Context()) || r.writes != 1 {
			t.Errorf("%d writes, want what is left written once", r.writes)
		}
	}
	late, err := reconcile.LateEvents(t.Context(), r, "", now)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Duration]bool{
		-50 * time.Second: false, -35 * time.Second: true, 5 * time.Second: true, 19 * time.Second: true, 30 * time.Second: false,
	} {
		if got := late.Excused(began.Add(at)); got != want {
			t.Errorf("%v: excused %v, want %v", at, got, want)
		}
	}
}
