package reconcile

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/creditmirror/creditmirror/mirror"
)

// copiedSince says when the account was first copied.
func (b *bench) copiedSince(t testing.TB, at time.Time) {
	t.Helper()
	b.now, at = at, b.now
	err := b.copier(false).Run(t.Context(), "", func(Copied) {})
	if b.now = at; err != nil {
		t.Fatal(err)
	}
}

// The time before the first copy is history: its events are no findings and are not
// counted, however far a lost queue makes the sweep look back.
func TestI18_EventsOfHistory(t *testing.T) {
	t.Parallel()
	for _, inbox := range []bool{true, false} {
		b := setup(t)
		b.copiedSince(t, t0.Add(-2*time.Minute))
		b.stripe.events = []mirror.Event{updated(1, time.Minute), updated(2, 3*time.Minute), updated(3, 5*time.Minute), updated(4, 40*time.Minute)}
		sweep := b.events(inbox)
		if err := sweep.Rewind(t.Context(), "", mirror.CauseLostRedis); err != nil {
			t.Fatal(err)
		}
		r, err := sweep.Run(t.Context(), "")
		if err != nil || r.Missed != 1 || len(r.Findings) != 1 || r.Findings[0].Object != "evt_1" || r.Opened[mirror.DriftMissedEvent] != 1 {
			t.Errorf("inbox %v: %+v, %v; want one finding, of the event since", inbox, r, err)
		}
		// Our clock may be ahead of Stripe's, so that what looks older is not: it is synced.
		if got, want := b.queue.marked(), "balance::cus_1<evt_1 balance::cus_2<evt_2 balance::cus_3<evt_3"; got != want || r.Late != 2 {
			t.Errorf("inbox %v: %d late, marked %s, want %s", inbox, r.Late, got, want)
		}
	}
}

// What came while no receiver ran is synced at once, and is no drift: Stripe delivers
// it again.
func TestI18_EventsOfAStop(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		note func(t *testing.T, b *bench)
	}{
		{"a restart", func(t *testing.T, b *bench) {
			b.listens(t)
			b.receives(t, t0.Add(-20*time.Second), true)
		}},
		{"a stop that lasts", func(t *testing.T, b *bench) {
			b.listens(t)
		}},
		{"an orderly stop a moment ago", func(t *testing.T, b *bench) {
			b.listens(t)
			if err := NoteReceiverStops(t.Context(), b.store.Store, t0.Add(-100*time.Second)); err != nil {
				t.Fatal(err)
			}
		}},
		{"a database that was away", func(t *testing.T, b *bench) {
			b.listens(t)
			b.receives(t, t0.Add(-20*time.Second), false)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.copiedSince(t, t0.Add(-time.Hour))
			tt.note(t, b)
			b.since(t, t0.Add(-10*time.Minute))
			b.stripe.events = []mirror.Event{updated(1, 30*time.Second), updated(2, 90*time.Second), updated(3, 4*time.Minute)}
			dry := b.events(true)
			dry.o.TellAway, dry.o.DryRun = true, true
			r, err := dry.Run(t.Context(), "")
			if err != nil || r.Missed != 1 || len(r.Findings) != 3 || r.Findings[0].Cause != mirror.CauseAway || r.Findings[2].Cause != mirror.CauseMissedEvent {
				t.Errorf("%+v, %v; want a command to tell of all, two of them put down to the stop", r, err)
			}
			r, err = b.events(true).Run(t.Context(), "")
			if err != nil || r.Missed != 1 || r.Late != 2 || len(r.Findings) != 1 || r.Findings[0].Object != "evt_3" {
				t.Errorf("%+v, %v; want a finding of the event that a receiver should have had", r, err)
			}
			if len(b.queue.live) != 3 {
				t.Errorf("marked %s, want all", b.queue.marked())
			}
		})
	}
}

// Before the first receiver ever ran, nobody listened; without one, nothing is excused.
func TestLateEventsOfTheFirstReceiver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	late, err := LateEvents(t.Context(), b.store.Store, "", t0)
	if err != nil || late.Excused(t0.Add(-time.Hour)) {
		t.Errorf("%+v, %v; want an account without a receiver to be judged", late, err)
	}
	b.receives(t, t0, true)
	if late, err = LateEvents(t.Context(), b.store.Store, "", t0); err != nil || !late.Excused(t0.Add(-time.Hour)) || late.Excused(t0.Add(time.Minute)) {
		t.Errorf("%+v, %v", late, err)
	}
	for i := range 100 { // and the row does not grow for ever
		b.receives(t, t0.Add(time.Duration(i+1)*time.Hour), true)
	}
	if _, state, err := readReceivers(t.Context(), b.store.Store); err != nil || len(state.Stops) > maxAways {
		t.Errorf("%d stops, %v", len(state.Stops), err)
	}
}

// listens is a receiver that says for ten minutes, until 100 s ago, that it runs.
func (b *bench) listens(t testing.TB) {
	t.Helper()
	for ago := 10 * time.Minute; ago >= 100*time.Second; ago -= ReceiverInterval {
		b.receives(t, t0.Add(-ago), ago == 10*time.Minute)
	}
}

func (b *bench) receives(t testing.TB, at time.Time, starts bool) {
	t.Helper()
	if err := NoteReceiver(t.Context(), b.store.Store, at, starts); err != nil {
		t.Fatal(err)
	}
}

// An event that is answered, or brought, between two of the sweep's questions is not
// missed.
func TestI18_EventsAnsweredMeanwhile(t *testing.T) {
	t.Parallel()
	answer := func(t *testing.T, b *bench, e mirror.Event) {
		commit(t, b.store.Store, e.Targets()[0], t0.Add(-30*time.Second), e.Ref())
		delete(b.queue.queued, e.Targets()[0])
	}
	for _, tt := range []struct {
		name, call string
		before     func(t *testing.T, b *bench, e mirror.Event)
		meanwhile  func(t *testing.T, b *bench, e mirror.Event)
	}{
		{"answered before the queue is asked", "queued", func(t *testing.T, b *bench, e mirror.Event) {
			b.record(t, e)
			b.queue.queued[e.Targets()[0]] = true
		}, answer},
		{"answered after the queue was asked", "observed", func(t *testing.T, b *bench, e mirror.Event) {
			b.record(t, e)
			b.queue.queued[e.Targets()[0]] = true
		}, answer},
		{"brought before the queue is asked", "queued", func(*testing.T, *bench, mirror.Event) {}, func(t *testing.T, b *bench, e mirror.Event) {
			b.record(t, e)
		}},
		{"brought after the queue was asked", "observed", func(*testing.T, *bench, mirror.Event) {}, func(t *testing.T, b *bench, e mirror.Event) {
			b.record(t, e)
			b.queue.queued[e.Targets()[0]] = true
		}},
		{"recorded, and marked after the queue was asked", "letters", func(t *testing.T, b *bench, e mirror.Event) { b.record(t, e) }, func(_ *testing.T, b *bench, e mirror.Event) {
			b.queue.queued[e.Targets()[0]] = true
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.since(t, t0.Add(-time.Hour))
			e := updated(1, time.Minute)
			b.stripe.events = []mirror.Event{e}
			tt.before(t, b, e)
			done := false
			b.faults.hook = func(call string) error {
				if call == tt.call && !done {
					done = true
					// The hook runs with the locks of the faults, not those of the queue.
					tt.meanwhile(t, b, e)
				}
				return nil
			}
			r, err := b.events(true).Run(t.Context(), "")
			if err != nil || r.Missed != 0 || len(r.Findings) != 0 || !done {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// The same for the look at the inbox after a loss of Redis: nothing is marked, nor
// told, that was answered in between.
func TestI18_RemarkAnsweredMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := updated(1, time.Minute)
	b.record(t, e)
	b.faults.hook = func(call string) error {
		if call == "queued" {
			commit(t, b.store.Store, e.Targets()[0], t0, e.Ref())
		}
		return nil
	}
	if n, err := RemarkPending(t.Context(), b.store, b.queue, t0, 0); n != 0 || err != nil || len(b.queue.live) != 0 {
		t.Errorf("%d marked, %v", n, err)
	}
}

func (b *bench) record(t testing.TB, events ...mirror.Event) {
	t.Helper()
	if _, err := b.store.Store.RecordEvents(t.Context(), events); err != nil {
		t.Error(err)
	}
}

// What a pass leaves to its webhook is looked at when the grace is over: by the runner
// without another call, by the command before it ends.
func TestEventsLeftToTheirWebhooks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.since(t, t0.Add(-time.Hour))
	young, brought, ahead := updated(1, 500*time.Millisecond), updated(2, time.Second), updated(3, -time.Hour)
	b.stripe.events = []mirror.Event{ahead, young, brought}
	sweep := b.events(true)
	r, err := sweep.Run(t.Context(), "")
	if err != nil || r.Seen != 0 || len(r.Left) != 3 || r.Wait != eventGrace {
		t.Fatalf("%+v, %v; want all left for the grace, however far ahead Stripe's clock is", r, err)
	}
	commit(t, b.store.Store, brought.Targets()[0], t0, brought.Ref())
	calls := len(b.stripe.queries)
	again, err := sweep.Again(t.Context(), "", r)
	if err != nil || again.Seen != 3 || again.Missed != 2 || len(again.Findings) != 2 || len(again.Left) != 0 || len(b.stripe.queries) != calls {
		t.Errorf("%+v, %v; want the two that nobody brought, and no call", again, err)
	}
	if r.add(again); r.Missed != 2 || len(r.Findings) != 2 || r.Opened[mirror.DriftMissedEvent] != 2 || len(r.Left) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestRunnerLooksAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.sweeps["/"+SweepEvents] = mirror.Sweep{Watermark: time.Now().Add(-time.Minute)}
		m.sweeps["/"+SweepBackfill] = mirror.Sweep{Name: SweepBackfill, LastSuccess: time.Now().Add(-24 * time.Hour)}
		e := updated(1, 0)
		e.Created = time.Now()
		m.events = []mirror.Event{e}
		q := newQueue(&faults{})
		q.incs = nil
		r := m.replica(t, q, "a", RunnerOptions{EventsInterval: time.Hour})
		pass(eventGrace - time.Millisecond)
		if got := q.marked(); got != "" {
			t.Errorf("marked %s within the grace", got)
		}
		pass(2 * time.Millisecond)
		if got := q.marked(); got != "balance::cus_1<evt_1" || testutil.ToFloat64(r.m.missed) != 1 {
			t.Errorf("marked %s, want the event when its grace is over", got)
		}
		r.end()
	})
}
