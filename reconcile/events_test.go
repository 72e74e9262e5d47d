package reconcile

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// updated is a customer.updated event so long before the present.
func updated(n int, ago time.Duration) mirror.Event {
	id := fmt.Sprintf("cus_%d", n)
	return mirror.Event{ID: fmt.Sprintf("evt_%d", n), Type: "customer.updated", Created: t0.Add(-ago), Customer: id, Object: id}
}

func (b *bench) events(inbox bool) *EventsSweep {
	return NewEventsSweep(b.stripe, b.store, b.queue, EventsOptions{Inbox: func() bool { return inbox }, Now: b.clock})
}

// since sets the watermark.
func (b *bench) since(t testing.TB, at time.Time) {
	t.Helper()
	if err := b.store.Store.SaveSweep(t.Context(), mirror.Sweep{Name: SweepEvents, Watermark: at}); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) watermark(t testing.TB) time.Time {
	t.Helper()
	sweep, err := b.store.Store.Sweep(t.Context(), "", SweepEvents)
	if err != nil {
		t.Fatal(err)
	}
	return sweep.Watermark
}

// One event that is dated ahead does not move the watermark there, which would leave out
// all that happens until then; and one that a version before has moved comes back.
func TestWatermarkIsNotAheadOfTheClock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.since(t, t0.Add(-time.Hour))
	b.stripe.events = []mirror.Event{updated(1, -365*24*time.Hour), updated(2, 5*time.Minute)}
	if _, err := b.events(true).Run(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if got := b.watermark(t); !got.Equal(t0.Add(-5 * time.Minute)) {
		t.Errorf("watermark %v, want that of the newest event which is not dated ahead", got)
	}
	b.since(t, t0.Add(365*24*time.Hour))
	result, err := b.events(true).Run(t.Context(), "")
	if err != nil || result.Seen == 0 {
		t.Errorf("from a watermark that lies ahead: %+v, %v", result, err)
	}
	if got := b.watermark(t); got.After(t0.Add(clockTolerance)) {
		t.Errorf("watermark %v is still ahead", got)
	}
}

func TestEventsBounds(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for _, test := range []struct {
		name      string
		watermark time.Time
		rewound   bool
		from      time.Time
		beyond    bool
	}{
		{"first run", time.Time{}, false, t0.Add(-clockTolerance - time.Minute), false},
		{"first run, rewound", time.Time{}, true, t0.Add(-clockTolerance - time.Minute), false},
		{"overlap", t0.Add(-time.Hour), false, t0.Add(-61 * time.Minute), false},
		{"rewound", t0.Add(-time.Hour), true, t0.Add(-121 * time.Minute), false},
		{"24 days", t0.Add(-24 * day), false, t0.Add(-24*day - time.Minute), false},
		{"31 days", t0.Add(-31 * day), false, t0.Add(-31*day - time.Minute), true},
	} {
		b := setup(t)
		if !test.watermark.IsZero() {
			b.since(t, test.watermark)
		}
		sweep := b.events(true)
		if test.rewound {
			if err := sweep.Rewind(t.Context(), "", mirror.CauseLostRedis); err != nil {
				t.Fatal(err)
			}
		}
		r, err := sweep.Run(t.Context(), "")
		if err != nil || !r.From.Equal(test.from) || r.Beyond != test.beyond {
			t.Errorf("%s: %+v, %v; want from %v, beyond %v", test.name, r, err, test.from, test.beyond)
		}
		if q := b.stripe.queries[0]; !q.CreatedGTE.Equal(test.from) || len(q.Types) != len(mirror.EventTypes()) {
			t.Errorf("%s: asked for %+v", test.name, q)
		}
		if got := b.watermark(t); !got.Equal(t0.Add(-clockTolerance)) {
			t.Errorf("%s: watermark %v, want our clock less its tolerance: no event told Stripe's", test.name, got)
		}
	}
}

func TestEventsWhatCountsAsMissed(t *testing.T) {
	t.Parallel()
	for _, inbox := range []bool{true, false} {
		t.Run(fmt.Sprintf("inbox %v", inbox), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.since(t, t0.Add(-time.Hour))
			ctx := t.Context()
			live := updated(1, time.Minute)
			live.Livemode = true
			charge := updated(2, time.Minute)
			charge.Type = "charge.succeeded"
			lost, waits, applied, dead, young := updated(3, time.Minute), updated(4, time.Minute), updated(5, time.Minute), updated(6, time.Minute), updated(7, time.Second)
			pending, nobody := updated(8, time.Minute), updated(9, time.Minute)
			nobody.Type, nobody.Customer = "invoice.voided", ""
			later := updated(10, time.Minute) // synced well after it, by no event
			early := updated(11, time.Minute) // synced, but maybe before it
			question := mirror.Event{
				ID: "evt_12", Type: "billing.credit_balance_transaction.created", Created: t0.Add(-time.Minute),
				Grant: "credgr_1", Object: "cbt_1",
			}
			asked := question // the question waits
			asked.ID, asked.Grant = "evt_13", "credgr_2"
			mapped := question // the customer's credits wait
			mapped.ID, mapped.Grant = "evt_14", "credgr_3"
			b.stripe.events = []mirror.Event{young, live, charge, lost, waits, applied, dead, pending, nobody, later, early, question, asked, mapped}
			b.stripe.pageCap = 3
			if _, err := b.store.Store.InsertGrants(ctx, "", []mirror.CreditGrant{grant("credgr_2", "cus_20"), grant("credgr_3", "cus_21")}); err != nil {
				t.Fatal(err)
			}
			b.queue.queued[waits.Targets()[0]] = true
			b.queue.queued[asked.Targets()[0]] = true
			b.queue.queued[mirror.Target{Scope: mirror.ScopeCredits, ID: "cus_21"}] = true
			if _, err := b.store.Store.RecordEvents(ctx, []mirror.Event{pending}); err != nil {
				t.Fatal(err)
			}
			commit(t, b.store.Store, applied.Targets()[0], t0.Add(-2*time.Hour), applied.Ref())
			commit(t, b.store.Store, later.Targets()[0], later.Created.Add(syncMargin))
			commit(t, b.store.Store, early.Targets()[0], early.Created.Add(syncMargin-time.Second))
			err := b.store.Store.SaveDeadLetter(ctx, mirror.DeadLetter{
				ID: mirror.DeadLetterID(dead.Targets()[0]), Target: dead.Targets()[0], FirstFailedAt: t0, LastFailedAt: t0, RetryAt: t0,
			})
			if err != nil {
				t.Fatal(err)
			}
			r, err := b.events(inbox).Run(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			// What waits is not missed, yet marked: a sync that runs may have read before it.
			want := "balance::cus_11<evt_11 balance::cus_3<evt_3 balance::cus_4<evt_4 balance::cus_8<evt_8 " +
				"grant_owner::credgr_1<evt_12 grant_owner::credgr_2<evt_13 grant_owner::credgr_3<evt_14"
			seen, missed := 11, 3
			if inbox {
				want = "balance::cus_10<evt_10 " + want
				missed++
			}
			if got := b.queue.marked(); got != want {
				t.Errorf("marked %s\nwant %s", got, want)
			}
			// What was accepted and has no mark is marked, and was not missed.
			if r.Seen != seen || r.Missed != missed || r.Remarked != 1 {
				t.Errorf("seen %d, missed %d, %d marked again; want %d, %d, 1", r.Seen, r.Missed, r.Remarked, seen, missed)
			}
			receipts, err := b.store.Store.EventReceipts(ctx, "", []string{lost.ID, waits.ID})
			if err != nil || (receipts[0] == mirror.ReceiptPending) != inbox || (receipts[1] == mirror.ReceiptPending) != inbox {
				t.Errorf("receipts %v, %v; want what was marked recorded: %v", receipts, err, inbox)
			}
		})
	}
}

// I18: with everything answered or in the queue, a pass changes nothing but its
// own progress; what is too young is seen again by the next one.
func TestI18_EventsPassIsIdle(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.since(t, t0.Add(-time.Hour))
	young := updated(1, 0)
	b.stripe.events = []mirror.Event{young}
	sweep := b.events(true)
	if r, err := sweep.Run(t.Context(), ""); err != nil || r.Missed != 0 || len(b.queue.live) != 0 {
		t.Fatalf("%+v, %v; want its webhook given time", r, err)
	}
	b.now = b.now.Add(time.Minute)
	if r, err := sweep.Run(t.Context(), ""); err != nil || r.Missed != 1 {
		t.Fatalf("%+v, %v; want it found by the next pass", r, err)
	}
	if r, err := sweep.Run(t.Context(), ""); err != nil || r.Missed != 0 || len(b.queue.live) != 1 {
		t.Fatalf("%+v, %v; want it left alone while it waits", r, err)
	}
	b.work(t)
	if err := sweep.Rewind(t.Context(), "", mirror.CauseLostRedis); err != nil {
		t.Fatal(err)
	}
	if r, err := sweep.Run(t.Context(), ""); err != nil || r.Missed != 0 || len(b.queue.live) != 1 {
		t.Fatalf("%+v, %v; want it left alone once it is answered", r, err)
	}
}

func TestI20_EventsOfAnAccount(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stripe.events = []mirror.Event{updated(1, 30*time.Second)}
	if _, err := b.events(true).Run(t.Context(), "acct_1"); err != nil {
		t.Fatal(err)
	}
	if got, want := b.queue.marked(), "balance:acct_1:cus_1<evt_1"; got != want {
		t.Errorf("marked %s, want %s", got, want)
	}
	if !b.watermark(t).IsZero() {
		t.Error("the platform's watermark moved")
	}
}

func TestEventsUnreadableAreKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stripe.garbage = [][]byte{[]byte(`{"id":"evt_x"}`)}
	for range 2 {
		if _, err := b.events(true).Run(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	letters, err := b.store.Store.DeadLetters(t.Context(), "", 10)
	if err != nil || len(letters) != 1 || !letters[0].RetryAt.IsZero() {
		t.Fatalf("%+v, %v; want the event kept once", letters, err)
	}
	if l, err := b.store.Store.DeadLetter(t.Context(), letters[0].ID); err != nil || string(l.Payload) != `{"id":"evt_x"}` {
		t.Errorf("payload %q, %v", l.Payload, err)
	}
}

// I11: whatever call fails, before or after it took effect, the watermark does not
// move past an event that is not marked, and the next passes find the rest.
func TestI11_F03_EventsFailEverywhere(t *testing.T) {
	t.Parallel()
	const n = 5
	for _, after := range []bool{false, true} {
		for _, rewound := range []bool{false, true} {
			if after && rewound {
				continue
			}
			for at := 1; ; at++ {
				b := setup(t)
				b.stripe.pageCap = 2
				for i := range n {
					b.stripe.events = append(b.stripe.events, updated(i, time.Duration(i+1)*time.Minute))
				}
				b.stripe.garbage = [][]byte{[]byte(`x`)}
				b.since(t, t0.Add(-10*time.Minute))
				b.faults.at, b.faults.after = at, after
				sweep := b.events(true)
				var err error
				var result EventsResult
				if rewound {
					err = sweep.Rewind(t.Context(), "", mirror.CauseLostRedis)
				}
				if err == nil {
					result, err = sweep.Run(t.Context(), "")
				}
				if err != nil && !errors.Is(err, errInjected) {
					t.Fatal(err)
				}
				marked := map[string]bool{}
				for _, m := range b.queue.live {
					marked[m.Event.ID] = true
				}
				if result.Missed-result.Unmarked > len(marked) {
					t.Fatalf("call %d: %d events are called missed and enqueued, and %d are", at, result.Missed, len(marked))
				}
				if mark := b.watermark(t); len(marked) < n && mark.After(t0.Add(-10*time.Minute)) {
					t.Fatalf("call %d: watermark %v with %d of %d events marked", at, mark, len(marked), n)
				}
				failed := err != nil
				b.faults.at = 0
				if _, err := b.events(true).Run(t.Context(), ""); err != nil {
					t.Fatal(err)
				}
				for _, m := range b.queue.live {
					marked[m.Event.ID] = true
				}
				if len(marked) != n || !b.watermark(t).Equal(t0.Add(-time.Minute)) {
					t.Fatalf("call %d: %d of %d events marked, watermark %v", at, len(marked), n, b.watermark(t))
				}
				letters, err := b.store.Store.DeadLetters(t.Context(), "", 10)
				if err != nil || len(letters) != 1 {
					t.Fatalf("call %d: letters %v, %v", at, letters, err)
				}
				if !failed {
					if at < 20 {
						t.Fatalf("only %d calls", at)
					}
					break
				}
			}
		}
	}
}

// With repair off nothing is enqueued, and nothing says that it is.
func TestEventsWithoutRepair(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.since(t, t0.Add(-time.Hour))
	b.stripe.events = []mirror.Event{updated(1, time.Minute), updated(2, time.Minute)}
	if _, err := b.store.RecordEvents(t.Context(), b.stripe.events[1:]); err != nil {
		t.Fatal(err)
	}
	no := false
	core, logs := observer.New(zap.InfoLevel)
	sweep := NewEventsSweep(b.stripe, b.store, b.queue, EventsOptions{Repair: &no, Now: b.clock})
	r := NewRunner(b.store, b.queue, sweep, nil, RunnerOptions{Registerer: prometheus.NewRegistry(), Log: zap.New(core)})
	r.sweepEvents(t.Context())
	if n := testutil.ToFloat64(r.m.missed); n != 1 || testutil.ToFloat64(r.m.remarked) != 0 || len(b.queue.live) != 0 {
		t.Errorf("%v missed, %v marked again, marks %v; want 1, 0 and none", n, testutil.ToFloat64(r.m.remarked), b.queue.live)
	}
	if got := logs.FilterMessageSnippet("missed").All(); len(got) != 1 || got[0].Message != "found missed events; repair is off" {
		t.Errorf("logged %v", logs.All())
	}
}

// An event that the inbox has taken is not found missed again, whatever became of its
// mark: it counts by the pass that found it, or never.
func TestEventsCountOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fails          string
		inbox          bool
		counted, after float64 // by the pass that fails, and by the next one too
		enqueued       int     // as logged
	}{
		{"record", true, 0, 1, 1},
		{"mark live", true, 1, 1, 0},
		{"mark live", false, 0, 1, 1},
	} {
		b := setup(t)
		b.since(t, t0.Add(-time.Hour))
		b.stripe.events = []mirror.Event{updated(1, 30*time.Second)}
		fails := true
		b.faults.hook = func(call string) error {
			if fails && call == test.fails {
				return errInjected
			}
			return nil
		}
		core, logs := observer.New(zap.DebugLevel)
		log := zap.New(core)
		sweep := NewEventsSweep(b.stripe, b.store, b.queue, EventsOptions{Inbox: func() bool { return test.inbox }, Now: b.clock, Log: log})
		r := NewRunner(b.store, b.queue, sweep, nil, RunnerOptions{Registerer: prometheus.NewRegistry(), Now: b.clock, Log: log})
		said := func() int { return logs.FilterMessage("found missed events; enqueued their targets").Len() }
		r.sweepEvents(t.Context())
		if n := testutil.ToFloat64(r.m.missed); n != test.counted || logs.FilterMessageSnippet("enqueued").Len() != 0 || len(b.queue.live) != 0 {
			t.Errorf("%+v: %v counted, logged %v, marked %v", test, n, logs.All(), b.queue.live)
		}
		if n := logs.FilterMessage("found missed events; could not enqueue their targets").Len(); n != int(test.counted) {
			t.Errorf("%+v: said %d times that they are not enqueued", test, n)
		}
		if n := logs.FilterMessage("found missed events; repair is off").Len(); n != 0 {
			t.Errorf("%+v: called repair off, which it is not", test)
		}
		fails = false
		r.sweepEvents(t.Context())
		if n := testutil.ToFloat64(r.m.missed); n != test.after || said() != test.enqueued || len(b.queue.live) != 1 {
			t.Errorf("%+v, then not: %v counted, %d logged, marked %v", test, n, said(), b.queue.live)
		}
	}
}

func TestF03_EventsResume(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stripe.pageCap = 2
	for i := range 6 {
		b.stripe.events = append(b.stripe.events, updated(i, time.Duration(i+1)*time.Minute))
	}
	b.since(t, t0.Add(-10*time.Minute))
	b.faults.hook = func(call string) error {
		if call == "events" && len(b.stripe.queries) == 3 {
			return &stripeapi.Error{Kind: stripeapi.KindUnavailable}
		}
		return nil
	}
	sweep := b.events(true)
	if _, err := sweep.Run(t.Context(), ""); !errors.Is(err, stripeapi.ErrUnavailable) {
		t.Fatalf("%v, want the outage", err)
	}
	b.stripe.queries = nil
	b.now = b.now.Add(time.Minute)
	b.faults.hook = nil
	r, err := sweep.Run(t.Context(), "")
	if err != nil || len(b.stripe.queries) != 1 || b.stripe.queries[0].After != "evt_3" || r.Missed != 2 {
		t.Errorf("%+v, %v, asked %+v; want the rest alone", r, err, b.stripe.queries)
	}
	if got := b.watermark(t); !got.Equal(t0.Add(-time.Minute)) {
		t.Errorf("watermark %v, want that of the newest event, which the first try saw", got)
	}
	// A rewound pass reaches further back and does not go on with a shallower one.
	b.stripe.queries = nil
	if err := sweep.Rewind(t.Context(), "", mirror.CauseLostRedis); err != nil {
		t.Fatal(err)
	}
	if _, err := sweep.Run(t.Context(), ""); err != nil || b.stripe.queries[0].After != "" || !b.stripe.queries[0].CreatedGTE.Equal(t0.Add(-62*time.Minute)) {
		t.Errorf("%v, asked %+v", err, b.stripe.queries[0])
	}
}

func TestF26_EventsCursorGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stripe.pageCap = 2
	for i := range 5 {
		b.stripe.events = append(b.stripe.events, updated(i, time.Duration(i+1)*time.Minute))
	}
	b.since(t, t0.Add(-10*time.Minute))
	b.faults.hook = func(call string) error {
		if call == "events" && len(b.stripe.queries) == 2 {
			return errInjected
		}
		return nil
	}
	sweep := b.events(true)
	if _, err := sweep.Run(t.Context(), ""); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	b.faults.hook = nil
	b.stripe.events = append(b.stripe.events[:1], b.stripe.events[2:]...) // the cursor
	if _, err := sweep.Run(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	// The newest event was listed at a minute before now, by Stripe's clock.
	if n := len(b.queue.live); n != 5 || !b.watermark(t).Equal(t0.Add(-time.Minute)) {
		t.Errorf("%d marks, watermark %v; want all 5", n, b.watermark(t))
	}
}

// F10: what Redis may have forgotten is looked at again, however the pass fails
// and whichever process makes it.
func TestF10_EventsRewind(t *testing.T) {
	t.Parallel()
	b := setup(t)
	if err := b.events(true).Rewind(t.Context(), "", mirror.CauseLostRedis); err != nil || !b.watermark(t).IsZero() {
		t.Errorf("%v, watermark %v; want nothing to rewind before the first copy", err, b.watermark(t))
	}
	b.since(t, t0)
	b.stripe.events = []mirror.Event{updated(1, 50*time.Minute), updated(2, 70*time.Minute)}
	if err := b.events(true).Rewind(t.Context(), "", mirror.CauseLostRedis); err != nil {
		t.Fatal(err)
	}
	b.faults.hook = func(call string) error {
		if call == "events" {
			return errInjected
		}
		return nil
	}
	if _, err := b.events(true).Run(t.Context(), ""); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	b.faults.hook = nil
	result, err := b.events(true).Run(t.Context(), "")
	if err != nil || result.Missed != 1 || len(result.Findings) != 1 || result.Findings[0].Cause != mirror.CauseLostRedis {
		t.Errorf("%+v, %v; want the event of the last hour, put down to Redis", result, err)
	}
	if got := b.watermark(t); !got.Equal(t0.Add(-clockTolerance)) {
		t.Errorf("watermark %v", got)
	}
	b.stripe.events = append(b.stripe.events, updated(3, 20*time.Second))
	if result, err = b.events(true).Run(t.Context(), ""); err != nil || len(result.Findings) != 1 || result.Findings[0].Cause != mirror.CauseMissedEvent {
		t.Errorf("%+v, %v; want the next pass to be an ordinary one", result, err)
	}
}

func TestEventsDefaults(t *testing.T) {
	t.Parallel()
	s := NewEventsSweep(nil, nil, nil, EventsOptions{})
	if !s.o.Inbox() || s.o.Log == nil || s.o.Now().IsZero() {
		t.Error("want the inbox on, a log and a clock")
	}
}
