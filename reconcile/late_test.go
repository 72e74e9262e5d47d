package reconcile

import (
	"errors"
	"slices"
	"strings"
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
			if err := NoteReceiverStops(t.Context(), b.store.Store, "one", t0.Add(-100*time.Second)); err != nil {
				t.Fatal(err)
			}
		}},
		{"a receiver that answered 503", func(t *testing.T, b *bench) {
			b.receives(t, t0.Add(-10*time.Minute), true)
			for ago := 100 * time.Second; ago >= 20*time.Second; ago -= time.Second { // as it is written down, bit by bit
				if err := NoteRefusals(t.Context(), b.store.Store, t0.Add(-ago-time.Second), t0.Add(-ago)); err != nil {
					t.Fatal(err)
				}
			}
			b.receives(t, t0, false)
			if _, state, err := readReceivers(t.Context(), b.store.Store); err != nil || len(state.Stops) > 3 {
				t.Errorf("%+v, %v; want what is refused without a pause to be one stop", state, err)
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

// A stop that touches the last one becomes part of it, from the first of both to the last.
func TestStopsThatTouch(t *testing.T) {
	t.Parallel()
	at := func(from, to int) stop {
		return stop{From: t0.Add(time.Duration(from) * time.Second), To: t0.Add(time.Duration(to) * time.Second)}
	}
	first := stop{To: at(0, 10).To}
	var many []stop
	for n := range maxAways {
		many = append(many, at(100*n, 100*n+1))
	}
	for name, c := range map[string]struct {
		stops []stop
		s     stop
		want  []stop
	}{
		"the first":                 {nil, at(0, 10), []stop{at(0, 10)}},
		"apart":                     {[]stop{at(0, 10)}, at(20, 30), []stop{at(0, 10), at(20, 30)}},
		"just after":                {[]stop{at(0, 10)}, at(12, 30), []stop{at(0, 30)}},
		"from before":               {[]stop{at(10, 20)}, at(5, 30), []stop{at(5, 30)}},
		"within":                    {[]stop{at(0, 10)}, at(2, 5), []stop{at(0, 10)}},
		"since before any receiver": {[]stop{first}, at(5, 20), []stop{{To: at(0, 20).To}}},
		"one too many":              {many, at(10000, 10001), append(slices.Clone(many[1:]), at(10000, 10001))},
	} {
		before := slices.Clone(c.stops)
		if got := joined(c.stops, c.s); !slices.Equal(got, c.want) || !slices.Equal(c.stops, before) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// A receiver that could not say that it started, and could that it refused, was away
// since the last one said that it runs, not since it refused.
func TestARefusalBeforeTheStart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.receives(t, t0.Add(-10*time.Minute), true)
	if err := NoteRefusals(t.Context(), b.store.Store, t0.Add(-5*time.Second), t0); err != nil {
		t.Fatal(err)
	}
	b.receives(t, t0.Add(time.Second), true)
	late, err := LateEvents(t.Context(), b.store.Store, "", t0.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for ago, want := range map[time.Duration]bool{9 * time.Minute: true, time.Minute: true, 0: true} {
		if got := late.Excused(t0.Add(-ago)); got != want {
			t.Errorf("%v ago: excused %v, want %v", ago, got, want)
		}
	}
}

// Two receivers: while one of them says that it runs, somebody listens, whatever the
// other does.
func TestI18_OneOfTwoReceiversStops(t *testing.T) {
	t.Parallel()
	type says struct {
		id     string
		ago    int // seconds
		starts bool
		stops  bool
	}
	both := []says{{id: "one", ago: 100, starts: true}, {id: "two", ago: 98, starts: true}, {id: "one", ago: 90}, {id: "two", ago: 88}}
	for name, c := range map[string]struct {
		says []says
		now  int // seconds ago
		away []int
		ran  []int
	}{
		"one stops in order":             {[]says{{id: "one", ago: 80}, {id: "one", ago: 79, stops: true}, {id: "two", ago: 78}, {id: "two", ago: 68}}, 65, nil, []int{85, 79, 75, 68}},
		"one stops, the other speaks up": {[]says{{id: "one", ago: 79, stops: true}, {id: "two", ago: 70}}, 65, nil, []int{85, 75, 72}},
		"before the other speaks up":     {[]says{{id: "one", ago: 79, stops: true}}, 74, nil, []int{85, 77, 75}},
		"one is killed":                  {[]says{{id: "two", ago: 78}, {id: "two", ago: 68}, {id: "two", ago: 58}, {id: "two", ago: 48}}, 40, nil, []int{85, 75, 65, 50}},
		"one starts again":               {[]says{{id: "one", ago: 79, stops: true}, {id: "three", ago: 74, starts: true}, {id: "two", ago: 72}}, 65, nil, []int{85, 77, 70}},
		"a third starts":                 {[]says{{id: "three", ago: 82, starts: true}, {id: "one", ago: 80}, {id: "two", ago: 78}}, 65, nil, []int{86, 84, 79}},
		"both stop": {
			[]says{{id: "one", ago: 79, stops: true}, {id: "two", ago: 77, stops: true}, {id: "three", ago: 60, starts: true}},
			55,
			[]int{76, 70, 62},
			[]int{85, 81},
		},
		"both are killed, one starts again": {[]says{{id: "three", ago: 80, starts: true}, {id: "three", ago: 70}}, 65, []int{87, 84, 81}, []int{95, 75}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			at := func(ago int) time.Time { return t0.Add(-time.Duration(ago) * time.Second) }
			for _, s := range append(slices.Clone(both), c.says...) {
				note := func() error { return NoteReceiver(t.Context(), b.store.Store, s.id, at(s.ago), s.starts) }
				if s.stops {
					note = func() error { return NoteReceiverStops(t.Context(), b.store.Store, s.id, at(s.ago)) }
				}
				if err := note(); err != nil {
					t.Fatal(err)
				}
			}
			late, err := LateEvents(t.Context(), b.store.Store, "", at(c.now))
			if err != nil {
				t.Fatal(err)
			}
			for _, ago := range c.away {
				if !late.Excused(at(ago)) {
					t.Errorf("%d s ago nobody listened, and it counts as if somebody had: %v", ago, late.stops)
				}
			}
			for _, ago := range c.ran {
				if late.Excused(at(ago)) {
					t.Errorf("%d s ago somebody listened, and it counts as if nobody had: %v", ago, late.stops)
				}
			}
		})
	}
}

// What a receiver refused stays refused, though it says that it runs.
func TestI18_RefusedWhileItRan(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.receives(t, t0.Add(-60*time.Second), true)
	if err := NoteRefusals(t.Context(), b.store.Store, t0.Add(-55*time.Second), t0.Add(-52*time.Second)); err != nil {
		t.Fatal(err)
	}
	b.receives(t, t0.Add(-50*time.Second), false)
	b.receives(t, t0.Add(-40*time.Second), false)
	late, err := LateEvents(t.Context(), b.store.Store, "", t0.Add(-35*time.Second))
	if err != nil || !late.Excused(t0.Add(-53*time.Second)) || late.Excused(t0.Add(-45*time.Second)) {
		t.Errorf("%+v, %v; want what was refused excused, and nothing else", late.stops, err)
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
	if err := NoteReceiver(t.Context(), b.store.Store, "one", at, starts); err != nil {
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
// reported, that was answered in between.
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

// I18: an event that a webhook brought and that has no mark, because Redis was away when
// it came or its receiver was killed, is marked at once, and nobody missed it.
func TestI18_AcceptedWithoutAMark(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b *bench) {
		b.since(t, t0.Add(-time.Hour))
		accepted, missed := updated(1, 10*time.Second), updated(2, 10*time.Second)
		b.stripe.events = []mirror.Event{accepted, missed}
		b.record(t, accepted)
		r, err := b.events(true).Run(t.Context(), "")
		if err != nil || r.Missed != 1 || r.Remarked != 1 || len(r.Findings) != 1 || r.Findings[0].Object != missed.ID || len(r.Unbrought) != 1 {
			t.Errorf("%+v, %v; want the one that nobody brought, alone", r, err)
		}
		if got, want := b.queue.marked(), "balance::cus_1<evt_1 balance::cus_2<evt_2"; got != want {
			t.Errorf("marked %s, want %s", got, want)
		}
		// While a Redis that is lost is healed, too, and by the look after the grace.
		b.queue.queued = map[mirror.Target]bool{}
		r, err = b.events(true).Again(t.Context(), "", EventsResult{Left: []mirror.Event{accepted, missed}})
		if err != nil || r.Missed != 0 || r.Remarked != 2 || len(r.Findings) != 0 {
			t.Errorf("%+v, %v; want both known by now", r, err)
		}
	})
}

// F10: what a pass left to its webhooks, and a database that was put back lost before the
// next look, is put down to that, whoever finds it: the look, or, where that fails or its
// process dies, the next pass.
func TestF10_LeftEventsKeepTheirCause(t *testing.T) {
	t.Parallel()
	// A pass in parts, so that the newest are listed before it breaks off.
	events := func(b *bench) (young, old mirror.Event) {
		young, old = updated(1, time.Second), updated(2, 10*time.Minute)
		b.stripe.events, b.stripe.pageCap = []mirror.Event{young, old}, 1
		return young, old
	}
	causes := func(t *testing.T, b *bench) string {
		t.Helper()
		list, err := b.store.Store.Findings(t.Context(), mirror.FindingsQuery{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, f := range list {
			texts = append(texts, f.Object+": "+f.Cause)
		}
		slices.Sort(texts)
		return strings.Join(texts, ", ")
	}
	run := func(t *testing.T, b *bench) EventsResult {
		t.Helper()
		r, err := b.events(true).Run(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	again := func(t *testing.T, b *bench, r EventsResult) {
		t.Helper()
		b.now = b.now.Add(eventGrace)
		if _, err := b.events(true).Again(t.Context(), "", r); err != nil {
			t.Fatal(err)
		}
	}
	rewind := func(t *testing.T, b *bench, cause string) {
		t.Helper()
		if err := b.events(true).Rewind(t.Context(), "", cause); err != nil {
			t.Fatal(err)
		}
	}
	const rewound = mirror.CauseRewound
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, b *bench)
		want string
	}{
		{"found put back between the pass and the look", func(t *testing.T, b *bench) {
			r := run(t, b)
			rewind(t, b, rewound)
			again(t, b, r)
		}, "evt_1: " + rewound + ", evt_2: " + mirror.CauseMissedEvent},
		{"the pass after it leaves one to the look", func(t *testing.T, b *bench) {
			rewind(t, b, rewound)
			again(t, b, run(t, b))
		}, "evt_1: " + rewound + ", evt_2: " + rewound},
		{"the look is never made", func(t *testing.T, b *bench) {
			rewind(t, b, rewound)
			run(t, b)
			b.stripe.events = append(b.stripe.events, updated(3, 500*time.Millisecond))
			b.now = b.now.Add(eventGrace)
			run(t, b)
		}, "evt_1: " + rewound + ", evt_2: " + rewound + ", evt_3: " + mirror.CauseMissedEvent},
		{"the pass breaks off and goes on", func(t *testing.T, b *bench) {
			rewind(t, b, rewound)
			b.faults.hook = func(call string) error {
				if call == "events" && len(b.stripe.queries) == 1 {
					return errInjected
				}
				return nil
			}
			if _, err := b.events(true).Run(t.Context(), ""); !errors.Is(err, errInjected) {
				t.Fatalf("%v, want the second page to fail", err)
			}
			b.faults.hook = nil
			run(t, b)
			b.now = b.now.Add(eventGrace)
			run(t, b)
		}, "evt_1: " + rewound + ", evt_2: " + rewound},
		{"a redis that ends with its process is new, too", func(t *testing.T, b *bench) {
			rewind(t, b, rewound)
			rewind(t, b, mirror.CauseMissedEvent)
			again(t, b, run(t, b))
		}, "evt_1: " + rewound + ", evt_2: " + rewound},
		{"redis was lost, too", func(t *testing.T, b *bench) {
			rewind(t, b, rewound)
			rewind(t, b, mirror.CauseLostRedis)
			again(t, b, run(t, b))
		}, "evt_1: " + rewound + ", evt_2: " + rewound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, b *bench) {
				b.since(t, t0.Add(-time.Hour))
				events(b)
				tt.do(t, b)
				if got := causes(t, b); got != tt.want {
					t.Errorf("found %s\nwant  %s", got, tt.want)
				}
			})
		})
	}
	// A rewind after which nothing is left explains nothing later.
	each(t, func(t *testing.T, b *bench) {
		b.since(t, t0.Add(-time.Hour))
		rewind(t, b, rewound)
		run(t, b)
		late, _ := events(b)
		b.now = b.now.Add(eventGrace)
		again(t, b, EventsResult{Left: []mirror.Event{late}})
		if got, want := causes(t, b), "evt_1: "+mirror.CauseMissedEvent; got != want {
			t.Errorf("found %s, want %s", got, want)
		}
	})
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
