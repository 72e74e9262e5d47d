package worker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// lagging is a bench whose time is the simulated Stripe's, moved by hand.
func lagging(t *testing.T) (b *bench, now *time.Time) {
	t.Helper()
	now = new(time.Time)
	b = setup(t, SyncOptions{Now: func() time.Time { return *now }})
	return b, now
}

// told records an event about a row and answers its question, as a webhook and its
// worker do.
func (b *bench) told(t *testing.T, row, grant string, at time.Time) mirror.EventRef {
	t.Helper()
	e := mirror.Event{
		ID: "evt_" + row, Type: "billing.credit_balance_transaction.created", Created: at, Grant: grant, Object: row,
	}
	b.record(t, e)
	if err := b.store.ResolveEvents(t.Context(), e.Targets()[0], []mirror.Target{creditsOf(cus)}); err != nil {
		t.Fatal(err)
	}
	return e.Ref()
}

func (b *bench) record(t *testing.T, e mirror.Event) {
	t.Helper()
	if _, err := b.store.RecordEvents(t.Context(), []mirror.Event{e}); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) pending(t *testing.T) string {
	t.Helper()
	list, err := b.store.PendingEvents(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, p := range list {
		ids = append(ids, p.Event.ID)
	}
	return strings.Join(ids, " ")
}

func requireLagging(t *testing.T, err error) {
	t.Helper()
	if v := judge(err); v.outcome != "lagging" || v.then != tryAgain {
		t.Fatalf("%v is %s, want lagging", err, v.outcome)
	}
}

// A row is listed late, and its webhook comes later still: 30 newer rows are held by
// then, so that it lies below where a read stops.
func TestI3_RowListedLateBelowNewerOnes(t *testing.T) {
	t.Parallel()
	b, now := lagging(t)
	a := b.stripe.add(cus)
	g := b.stripe.grant(a, 1000, true)
	*now = b.stripe.clock
	b.sync(t, creditsOf(cus))

	late := b.stripe.move(a, g, -5)
	at := b.stripe.clock
	a.late = map[string]bool{late: true}
	for range 30 {
		row := b.stripe.move(a, g, -1)
		*now = b.stripe.clock
		b.sync(t, creditsOf(cus), b.told(t, row, g, *now))
	}
	a.late = nil
	ref := b.told(t, late, g, at)
	b.stripe.made()
	if r := b.sync(t, creditsOf(cus), ref); len(r.Answered) != 1 || b.heldCredits(t) != 32 {
		t.Errorf("answered %v, %d rows held; want the event and all 32", r.Answered, b.heldCredits(t))
	}
	if got, want := b.stripe.made(), "credits after= limit=11; credits after= limit=11; credits after=cbt_00023 limit=100"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := b.pending(t); got != "" {
		t.Errorf("%s wait", got)
	}
}

// The event of a row that is not listed stands in the inbox alone. No other event's
// sync answers it, or removes its dead letter.
func TestI3_I10_RowThatIsNotListedForLong(t *testing.T) {
	t.Parallel()
	b, now := lagging(t)
	a := b.stripe.add(cus)
	g := b.stripe.grant(a, 1000, true)
	*now = b.stripe.clock
	b.sync(t, creditsOf(cus))
	for range 200 {
		b.stripe.move(a, g, -1)
	}
	*now = b.stripe.clock
	b.sync(t, creditsOf(cus))
	late := b.stripe.move(a, g, -5)
	a.late = map[string]bool{late: true}
	ref := b.told(t, late, g, b.stripe.clock)
	complete := func() bool {
		st, err := b.store.BeginSync(t.Context(), creditsOf(cus))
		if err != nil {
			t.Fatal(err)
		}
		return st.HistoryComplete
	}

	// Fresh lag is waited for outside, and nothing is written.
	*now = b.stripe.clock.Add(time.Second)
	b.stripe.made()
	_, err := b.syncer.Sync(t.Context(), creditsOf(cus), []mirror.EventRef{ref}, false)
	requireLagging(t, err)
	if got := b.stripe.made(); strings.Count(got, ";") > 10 {
		t.Errorf("fresh lag costs %s", got)
	}
	// Lag that lasts reads the whole history, once.
	*now = b.stripe.clock.Add(time.Minute)
	_, err = b.syncer.Sync(t.Context(), creditsOf(cus), []mirror.EventRef{ref}, false)
	requireLagging(t, err)
	if got := b.stripe.made(); strings.Count(got, "limit=100") != 1+2 {
		t.Errorf("lag that lasts costs %s, want the whole history once", got)
	}
	_, err = b.syncer.Sync(t.Context(), creditsOf(cus), []mirror.EventRef{ref}, false)
	requireLagging(t, err)
	if got := b.stripe.made(); strings.Count(got, "credits") > 3 {
		t.Errorf("the next try costs %s, want no whole history", got)
	}
	if complete() {
		t.Error("a history that lacks a row is called complete")
	}
	letter := mirror.DeadLetter{
		ID: mirror.DeadLetterID(creditsOf(cus)), Target: creditsOf(cus), EventIDs: []string{ref.ID}, FirstFailedAt: *now, LastFailedAt: *now,
	}
	if err := b.store.SaveDeadLetter(t.Context(), letter); err != nil {
		t.Fatal(err)
	}

	row := b.stripe.move(a, g, -1)
	*now = b.stripe.clock.Add(time.Hour)
	b.stripe.made()
	r := b.sync(t, creditsOf(cus), b.told(t, row, g, *now))
	if len(r.Answered) != 1 || b.pending(t) != ref.ID || complete() {
		t.Errorf("answered %v, %s wait; want the other event answered", r.Answered, b.pending(t))
	}
	if got := b.stripe.made(); strings.Count(got, "credits") > 2 {
		t.Errorf("another event's sync costs %s", got)
	}
	if letters, err := b.store.DeadLetters(t.Context(), "", 10); err != nil || len(letters) != 1 {
		t.Errorf("%d dead letters, %v; want the one", len(letters), err)
	}

	// The letter's own retry names no event.
	a.late = nil
	b.sync(t, creditsOf(cus))
	letters, err := b.store.DeadLetters(t.Context(), "", 10)
	if b.pending(t) != "" || !complete() || b.heldCredits(t) != 203 || len(letters) != 0 || err != nil {
		t.Errorf("%s wait, complete %v, %d rows, letters %v, %v", b.pending(t), complete(), b.heldCredits(t), letters, err)
	}
}

// An event about a grant is answered by a copy that is not older; the one that a row
// brings along may be.
func TestI4_OlderCopyOfAGrant(t *testing.T) {
	t.Parallel()
	b, now := lagging(t)
	a := b.stripe.add(cus)
	id := b.stripe.grant(a, 1000, true)
	*now = b.stripe.clock
	b.sync(t, creditsOf(cus))
	b.stripe.made()
	old := b.stripe.grants[id]
	voided := old
	voided.Updated = old.Updated.Add(time.Minute)
	voided.VoidedAt, voided.Raw = voided.Updated, []byte(fmt.Sprintf(`{"id":%q,"voided":true}`, id))
	*now = voided.Updated
	e := mirror.Event{ID: "evt_1", Type: "billing.credit_grant.updated", Created: *now, Customer: cus, Object: id, Updated: voided.Updated}
	b.record(t, e)

	// The first replies lag.
	b.stripe.before = func(call string) error {
		if b.stripe.grants[id] = old; call == "grant" && len(b.stripe.calls) > 4 {
			b.stripe.grants[id] = voided
		}
		return nil
	}
	r := b.sync(t, creditsOf(cus), e.Ref())
	if got, want := b.stripe.made(), strings.Repeat("credits after= limit=11; grant; ", 3); got+"; " != want || len(r.Answered) != 1 {
		t.Errorf("%s, answered %v; want %s", got, r.Answered, want)
	}
	// Then all do, and there is no event: the grant stays as it is held.
	b.stripe.before = func(string) error { b.stripe.grants[id] = old; return nil }
	_, err := b.syncer.Sync(t.Context(), creditsOf(cus), nil, true)
	requireLagging(t, err)
	if g, err := b.store.Grant(t.Context(), "", id); err != nil || g.VoidedAt.IsZero() {
		t.Errorf("%+v, %v; want the void kept", g, err)
	}
	// One that was changed here is read whole and repaired.
	b.exec(t, `UPDATE credit_grants SET updated = '2031-01-01T00:00:00.000000Z', name = 'forged', raw = '{"id":"`+id+`","updated":1}'`)
	b.sync(t, creditsOf(cus))
	if g, err := b.store.Grant(t.Context(), "", id); err != nil || !g.Updated.Equal(old.Updated) || g.Name != "" {
		t.Errorf("%+v, %v; want it repaired", g, err)
	}
}

// After a write of ours the grant must come back as Stripe answered it.
func TestI4_WriteThroughOfAGrantIsNotOlder(t *testing.T) {
	t.Parallel()
	b, now := lagging(t)
	a := b.stripe.add(cus)
	id := b.stripe.grant(a, 1000, true)
	*now = b.stripe.clock
	b.sync(t, creditsOf(cus))
	reply := b.stripe.grants[id]
	reply.Updated = reply.Updated.Add(time.Minute)
	_, err := b.syncer.SyncGrants(t.Context(), creditsOf(cus), []mirror.CreditGrant{reply})
	requireLagging(t, err)
	reply.Raw = []byte(fmt.Sprintf(`{"id":%q,"n":2}`, id))
	b.stripe.grants[id] = reply
	if _, err := b.syncer.SyncGrants(t.Context(), creditsOf(cus), []mirror.CreditGrant{reply}); err != nil {
		t.Error(err)
	}
}

// A grant that is not known makes its event wait, and nothing else.
func TestI3_NamedGrantNotKnownYet(t *testing.T) {
	t.Parallel()
	b, now := lagging(t)
	a := b.stripe.add(cus)
	g := b.stripe.grant(a, 1000, true)
	*now = b.stripe.clock
	b.sync(t, creditsOf(cus))
	row := b.stripe.move(a, g, -1)
	e := mirror.Event{ID: "evt_1", Type: "billing.credit_grant.created", Created: b.stripe.clock, Customer: cus, Object: "credgr_new", Updated: b.stripe.clock}
	b.record(t, e)
	ref := b.told(t, row, g, b.stripe.clock)
	*now = b.stripe.clock.Add(time.Minute)
	r, err := b.syncer.Sync(t.Context(), creditsOf(cus), []mirror.EventRef{e.Ref(), ref}, false)
	requireLagging(t, err)
	if len(r.Answered) != 1 || b.pending(t) != "evt_1" || b.heldCredits(t) != 2 {
		t.Errorf("answered %v, %s wait, %d rows", r.Answered, b.pending(t), b.heldCredits(t))
	}
}

// A customer that a signed event has just named, and that no reply knows yet.
func TestI13_YoungCustomerIsNotBuried(t *testing.T) {
	t.Parallel()
	for _, target := range []mirror.Target{balanceOf(cus), creditsOf(cus)} {
		b, now := lagging(t)
		e := mirror.Event{ID: "evt_1", Type: "customer.deleted", Created: t0, Customer: cus, Object: cus}
		b.record(t, e)
		for _, refs := range [][]mirror.EventRef{{e.Ref()}, nil} { // a lost queue forgets the event
			*now = t0.Add(4 * time.Minute)
			_, err := b.syncer.Sync(t.Context(), target, refs, false)
			requireLagging(t, err)
			if got := b.pending(t); got != "evt_1 evt_1" {
				t.Errorf("%s: %s wait, want the event", target, got)
			}
		}
		b.stripe.made()
		// Later it counts, but only when two replies say so.
		*now = t0.Add(6 * time.Minute)
		if r := b.sync(t, target, e.Ref()); !r.Deleted || strings.Count(b.stripe.made(), "customer") != 2 {
			t.Errorf("%s: %+v, want it buried", target, r)
		}
	}
	// Stripe's deletion is a stub, which counts at once.
	b, now := lagging(t)
	*now = t0
	b.stripe.add(cus).deleted = true
	if r := b.sync(t, balanceOf(cus), mirror.EventRef{ID: "evt_1", Type: "customer.deleted", Object: cus, Created: t0}); !r.Deleted {
		t.Errorf("%+v, want it buried", r)
	}
	// And so do two 404 of a customer that was held.
	b, now = lagging(t)
	*now = t0
	a := b.stripe.add(cus)
	b.sync(t, balanceOf(cus))
	a.gone = true
	if r := b.sync(t, balanceOf(cus), mirror.EventRef{ID: "evt_1", Type: "customer.updated", Object: cus, Created: t0}); !r.Deleted {
		t.Errorf("%+v, want it buried", r)
	}
}

// Grants on a test clock are judged by its time, where the key may read it.
func TestClockIsReadWithTheCredits(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	a.TestClock = "clock_1"
	id := b.stripe.grant(a, 1000, true)
	g := b.stripe.grants[id]
	g.TestClock = "clock_1"
	b.stripe.grants[id] = g
	b.sync(t, balanceOf(cus))
	stands := func(want time.Time) {
		t.Helper()
		if v, err := b.store.Customer(t.Context(), "", cus); err != nil || !v.ClockTime.Equal(want) {
			t.Errorf("the clock stands at %v, %v; want %v", v.ClockTime, err, want)
		}
	}
	for _, kind := range []stripeapi.Kind{stripeapi.KindForbidden, stripeapi.KindNotFound} {
		b.stripe.before = func(call string) error {
			if strings.HasPrefix(call, "clock") {
				return failure(kind)
			}
			return nil
		}
		b.sync(t, creditsOf(cus))
		stands(time.Time{})
	}
	b.stripe.before = nil
	b.sync(t, creditsOf(cus))
	stands(b.stripe.clock)
	b.stripe.clock = b.stripe.clock.Add(time.Hour) // advanced, and no row came of it
	b.sync(t, creditsOf(cus))
	stands(b.stripe.clock)
}
