package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

func rowEvent(id string) mirror.EventRef {
	return mirror.EventRef{ID: "evt_" + id, Type: "billing.credit_balance_transaction.created", Object: id, Created: t0}
}

func grantEvent(id string) mirror.EventRef {
	return mirror.EventRef{ID: "evt_" + id, Type: "billing.credit_grant.updated", Object: id, Created: t0}
}

func TestCreditsCosts(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	one := b.stripe.grant(a, 1000, true)
	two := b.stripe.grant(a, 1000, true)
	expect := func(name, want string) {
		t.Helper()
		if got := b.stripe.made(); got != want {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
	// Nothing held at all: no first copy has brought the grants.
	b.sync(t, creditsOf(cus))
	expect("new", "credits after= limit=100; grants after=; summary all")

	row := b.stripe.move(a, one, -100)
	b.sync(t, creditsOf(cus), rowEvent(row))
	expect("a row", "credits after= limit=11")
	if b.heldCredits(t) != 3 {
		t.Errorf("%d rows held, want 3", b.heldCredits(t))
	}
	b.sync(t, creditsOf(cus), rowEvent(row))
	expect("a row that is held", "credits after= limit=11")

	for range 20 {
		b.stripe.move(a, two, -1) // the rows bring one grant along
	}
	b.sync(t, creditsOf(cus), grantEvent(one), grantEvent(two))
	expect("an old grant", "credits after= limit=12; credits after=cbt_00014 limit=100")
	b.sync(t, creditsOf(cus), grantEvent(one), grantEvent(one), grantEvent(two))
	expect("one grant", "credits after= limit=13; grant")
	three := b.stripe.grant(a, 1000, true)
	for range 20 {
		b.stripe.move(a, two, -1)
	}
	b.sync(t, creditsOf(cus))
	b.stripe.made()
	b.sync(t, creditsOf(cus), grantEvent(one), grantEvent(three), grantEvent(two))
	expect("several grants", "credits after= limit=13; grants after=")
	b.sync(t, creditsOf(cus))
	expect("thorough", "credits after= limit=10; grants after=; summary all")
}

// The first copy has stored all grants of the account: no list per customer.
func TestCreditsFirstCopy(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	id := b.stripe.grant(a, 1000, true)
	if _, err := b.store.InsertGrants(t.Context(), "", []mirror.CreditGrant{b.stripe.grants[id]}); err != nil {
		t.Fatal(err)
	}
	b.sync(t, creditsOf(cus))
	if got, want := b.stripe.made(), "credits after= limit=100; summary all"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestCreditsSummaries(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		metered, single int
		want            string
	}{
		{0, 0, "; summary all"},
		{2, 0, "; summary all"},
		{30, 0, "; summary all"},
		{1, 1, "; summary grant; summary grant"},
		{0, 10, strings.Repeat("; summary grant", 10)},
		{10, 1, ""},
		{0, 11, ""},
	} {
		b := setup(t, SyncOptions{})
		a := b.stripe.add(cus)
		for i := range test.metered + test.single {
			b.stripe.grant(a, 100, i < test.metered)
		}
		r := b.sync(t, creditsOf(cus))
		if got, want := b.stripe.made(), "credits after= limit=100; grants after="+test.want; got != want {
			t.Errorf("%d metered, %d single: %s, want %s", test.metered, test.single, got, want)
		}
		if len(r.Findings) > 0 {
			t.Errorf("%d metered, %d single: %+v", test.metered, test.single, r.Findings)
		}
	}
}

func TestS20_CreditsAnnouncedRowIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{Now: func() time.Time { return t0 }})
	a := b.stripe.add(cus)
	g := b.stripe.grant(a, 1000, true)
	b.sync(t, creditsOf(cus))
	row := b.stripe.move(a, g, -100)
	a.hidden = 1
	reads := 0
	b.stripe.before = func(call string) error {
		if reads++; reads == 3 {
			a.hidden = 0
		}
		return nil
	}
	r := b.sync(t, creditsOf(cus), rowEvent(row))
	if reads != 3 || b.heldCredits(t) != 2 || len(r.Answered) != 1 {
		t.Errorf("%d reads, %d rows, answered %v; want 3, 2 and the event", reads, b.heldCredits(t), r.Answered)
	}

	row = b.stripe.move(a, g, -100)
	a.hidden, reads, b.stripe.before = 1, 0, nil
	b.stripe.made()
	_, err := b.syncer.Sync(t.Context(), creditsOf(cus), []mirror.EventRef{rowEvent(row)}, false)
	if v := judge(err); v.outcome != "lagging" || v.then != tryAgain {
		t.Errorf("%v is %s, want lagging", err, v.outcome)
	}
	if got := strings.Count(b.stripe.made(), "credits"); got != 4 {
		t.Errorf("%d reads, want 4", got)
	}
}

// A long history is read in pieces: an announced row may lie below the first ones.
func TestCreditsAnnouncedRowBelowThePiece(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{PagesPerPiece: 1, WalkFor: -1})
	a := b.stripe.add(cus)
	g := b.stripe.grant(a, 1000, true)
	old := a.credits[0].row.ID
	for range 150 {
		b.stripe.move(a, g, -1)
	}
	if r := b.sync(t, creditsOf(cus), rowEvent(old)); !r.More {
		t.Fatalf("%+v, want more to come", r)
	}
	if r := b.sync(t, creditsOf(cus), rowEvent(old)); r.More || b.heldCredits(t) != 151 {
		t.Errorf("%+v, %d rows held; want all", r, b.heldCredits(t))
	}
}

func TestI20_CreditsRowHeldElsewhere(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	other := b.stripe.add("cus_2")
	g := b.stripe.grant(other, 1000, true)
	b.sync(t, creditsOf("cus_2"))
	b.stripe.add(cus)
	row := other.credits[0].row.ID
	if _, err := b.syncer.Sync(t.Context(), creditsOf(cus), []mirror.EventRef{rowEvent(row)}, false); !errors.Is(err, mirror.ErrLedgerRewritten) {
		t.Errorf("row: %v, want ErrLedgerRewritten", err)
	}
	if _, err := b.syncer.Sync(t.Context(), creditsOf(cus), []mirror.EventRef{grantEvent(g)}, false); !errors.Is(err, mirror.ErrLedgerRewritten) {
		t.Errorf("grant: %v, want ErrLedgerRewritten", err)
	}
}

func TestCreditsDisproofIsAcceptedAtLast(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	g := b.stripe.grant(a, 1000, true)
	for range 15 {
		b.stripe.move(a, g, -1)
	}
	b.sync(t, creditsOf(cus))
	b.stripe.made()
	b.stripe.summaryOff = 5
	r := b.sync(t, creditsOf(cus))
	if len(r.Findings) != 1 || r.Findings[0].Kind != mirror.DriftSummaryMismatch {
		t.Fatalf("findings %+v, want summary_mismatch", r.Findings)
	}
	var sequence []string
	for call := range strings.SplitSeq(b.stripe.made(), "; ") {
		if strings.HasPrefix(call, "credits") {
			sequence = append(sequence, call)
		}
	}
	head := "credits after= limit=10"
	full := head + " credits after=cbt_00008 limit=100"
	if got, want := strings.Join(sequence, " "), strings.Join([]string{head, head, head, head, full, full}, " "); got != want {
		t.Errorf("calls %s\nwant %s", got, want)
	}
	b.stripe.summaryOff = 0
	if r := b.sync(t, creditsOf(cus), grantEvent(g)); len(r.Findings) != 0 {
		t.Errorf("%+v, want none", r.Findings)
	}
	if got := b.stripe.made(); !strings.Contains(got, "summary") || !strings.Contains(got, "after=cbt") {
		t.Errorf("after a disproof: %s, want the whole history and the summary", got)
	}
	totals, err := b.store.Totals(t.Context())
	if err != nil || totals.DriftOpen[mirror.DriftSummaryMismatch] != 0 {
		t.Errorf("open drift %v, %v; want none", totals.DriftOpen, err)
	}
}

func TestCreditsMismatchThatPasses(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	b.stripe.grant(a, 1000, true)
	b.stripe.summaryOff = 5
	b.stripe.before = func(call string) error {
		if len(b.stripe.calls) > 5 {
			b.stripe.summaryOff = 0
		}
		return nil
	}
	if r := b.sync(t, creditsOf(cus)); len(r.Findings) != 0 {
		t.Errorf("%+v, want no drift", r.Findings)
	}
}

func TestI13_CreditsOfAVanishedCustomer(t *testing.T) {
	t.Parallel()
	for _, deleted := range []bool{true, false} {
		b := setup(t, SyncOptions{})
		a := b.stripe.add(cus)
		b.stripe.grant(a, 1000, true)
		b.sync(t, creditsOf(cus))
		a.deleted, a.gone = deleted, !deleted
		if r := b.sync(t, creditsOf(cus)); !r.Deleted || b.heldCredits(t) != 1 {
			t.Errorf("deleted %v: %+v, want a tombstone and the history", deleted, r)
		}
	}
	b := setup(t, SyncOptions{})
	b.stripe.add(cus)
	b.stripe.before = func(call string) error {
		if strings.HasPrefix(call, "credits") {
			return missing("customer")
		}
		return nil
	}
	if r, err := b.syncer.Sync(t.Context(), creditsOf(cus), nil, false); err == nil || r.Deleted || judge(err).then != tryAgain {
		t.Errorf("%+v, %v; want an error that is tried again", r, err)
	}
}

func TestCreditsErrorsPassThrough(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"credits", "grants", "summary"} {
		for _, kind := range []stripeapi.Kind{stripeapi.KindRateLimited, stripeapi.KindUnavailable, stripeapi.KindForbidden, stripeapi.KindUnauthorized} {
			b := setup(t, SyncOptions{})
			b.stripe.add(cus)
			b.stripe.before = func(call string) error {
				if strings.HasPrefix(call, at) {
					return failure(kind)
				}
				return nil
			}
			_, err := b.syncer.Sync(t.Context(), creditsOf(cus), nil, false)
			if at == "summary" && kind == stripeapi.KindForbidden { // proven by sums per grant instead
				if err != nil {
					t.Errorf("%v at %s: %v after %v", kind, at, err, b.stripe.calls)
				}
				continue
			}
			if e, ok := errors.AsType[*stripeapi.Error](err); !ok || e.Kind != kind || len(b.stripe.calls) > 3 {
				t.Errorf("%v at %s: %v after %v", kind, at, err, b.stripe.calls)
			}
		}
	}
	b := setup(t, SyncOptions{})
	b.stripe.add(cus)
	b.flaky.before = func(string) error { return errors.New("disk on fire") }
	if _, err := b.syncer.Sync(t.Context(), creditsOf(cus), nil, false); judge(err).outcome != "store_error" {
		t.Errorf("%v, want a store error", err)
	}
}

func TestCreditsGrantsInPages(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	for range 5 {
		b.stripe.grant(a, 10, true)
	}
	b.stripe.pageCap = 2
	b.sync(t, creditsOf(cus))
	if got := strings.Count(b.stripe.made(), "grants"); got != 3 {
		t.Errorf("%d pages of grants, want 3", got)
	}
}

// Questions.

func TestGrantOwner(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	g := b.stripe.grant(a, 1000, true)
	question := mirror.Target{Scope: mirror.ScopeGrantOwner, ID: g}
	ref := rowEvent("cbt_1")
	b.sync(t, question, ref)
	if got := b.stripe.made(); got != "grant" {
		t.Errorf("not held: %s, want one grant read", got)
	}
	b.sync(t, question, ref)
	if got := b.stripe.made(); got != "" {
		t.Errorf("held: %s, want no call", got)
	}
	if want := []string{"credits::cus_1", "credits::cus_1"}; fmt.Sprint(b.marks.marks) != fmt.Sprint(want) || len(b.marks.refs) != 2 {
		t.Errorf("marked %v with %v, want %v with the event", b.marks.marks, b.marks.refs, want)
	}
}

// Stripe deletes no grant: the event waits, and its question ends among the dead
// letters.
func TestI3_GrantThatStripeDoesNotKnowAnswersNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	event := mirror.Event{
		ID: "evt_1", Type: "billing.credit_balance_transaction.created", Created: t0,
		Grant: "credgr_x", Object: "cbt_1",
	}
	if _, err := b.store.RecordEvents(t.Context(), []mirror.Event{event}); err != nil {
		t.Fatal(err)
	}
	_, err := b.syncer.Sync(t.Context(), event.Targets()[0], []mirror.EventRef{event.Ref()}, false)
	if v := judge(err); v.outcome != "lagging" || v.then != tryAgain {
		t.Errorf("%v is %s, want lagging", err, v.outcome)
	}
	if got := b.stripe.made(); got != "grant; grant" {
		t.Errorf("%s, want two tries: one 404 can be a replica that lags", got)
	}
	pending, err := b.store.PendingEvents(t.Context(), 0, 10)
	if err != nil || len(pending) != 1 || len(b.marks.marks) != 0 {
		t.Errorf("pending %v, %v, marks %v; want the event", pending, err, b.marks.marks)
	}
}

func TestS20_GrantOwnerNotListedYet(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	g := b.stripe.grant(b.stripe.add(cus), 1000, true)
	b.stripe.before = func(string) error {
		if len(b.stripe.calls) == 1 {
			return missing("id")
		}
		return nil
	}
	b.sync(t, mirror.Target{Scope: mirror.ScopeGrantOwner, ID: g})
	if fmt.Sprint(b.marks.marks) != "[credits::cus_1]" {
		t.Errorf("marked %v, want the customer", b.marks.marks)
	}
}

// A crash between the mark and the answer asks again.
func TestF02_QuestionMarksBeforeItIsAnswered(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	g := b.stripe.grant(b.stripe.add(cus), 1000, true)
	question := mirror.Target{Scope: mirror.ScopeGrantOwner, ID: g}
	event := mirror.Event{ID: "evt_1", Type: "billing.credit_balance_transaction.created", Created: t0, Grant: g, Object: "cbt_1"}
	if _, err := b.store.RecordEvents(t.Context(), []mirror.Event{event}); err != nil {
		t.Fatal(err)
	}
	waitsFor := func() string {
		pending, err := b.store.PendingEvents(t.Context(), 0, 10)
		if err != nil || len(pending) != 1 {
			t.Fatalf("pending %v, %v", pending, err)
		}
		return pending[0].Target.Key()
	}
	b.marks.err = errors.New("redis away")
	if _, err := b.syncer.Sync(t.Context(), question, nil, false); err == nil {
		t.Fatal("no error without a mark")
	}
	if got := waitsFor(); got != question.Key() {
		t.Fatalf("the event waits for %s, want %s", got, question.Key())
	}
	b.marks.err = nil
	b.flaky.before = func(call string) error {
		if call == "resolve" {
			return errors.New("killed")
		}
		return nil
	}
	if _, err := b.syncer.Sync(t.Context(), question, nil, false); judge(err).outcome != "store_error" {
		t.Fatalf("%v, want a store error", err)
	}
	if got := waitsFor(); got != question.Key() || len(b.marks.marks) != 1 {
		t.Fatalf("the event waits for %s, marks %v", got, b.marks.marks)
	}
	b.flaky.before = nil
	b.sync(t, question)
	if got := waitsFor(); got != "credits::cus_1" {
		t.Errorf("the event waits for %s, want the customer's credits", got)
	}
}

func TestGrantOwnerErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	question := mirror.Target{Scope: mirror.ScopeGrantOwner, ID: "credgr_1"}
	b.stripe.before = func(string) error { return failure(stripeapi.KindForbidden) }
	if _, err := b.syncer.Sync(t.Context(), question, nil, false); judge(err).then != closeGate {
		t.Errorf("403: %v", err)
	}
	b.flaky.before = func(string) error { return errors.New("disk on fire") }
	if _, err := b.syncer.Sync(t.Context(), question, nil, false); judge(err).outcome != "store_error" {
		t.Errorf("store: %v", err)
	}
}

// A thin event names a thing: its owner costs one call, and none where the thing is
// held.
func TestOwnersOfWhatThinEventsName(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	b.stripe.grant(a, 1000, true)
	row := "cbtxn_" + a.credits[0].row.ID
	a.credits[0].row.ID = row
	b.stripe.bills = map[string]string{"in_1": cus, "in_2": cus, "in_3": "", "cn_1": cus}
	b.stripe.idle = map[string]bool{"in_2": true}
	for _, c := range []struct {
		scope           mirror.Scope
		id, calls, want string
	}{
		{mirror.ScopeCreditOwner, row, "credit", "[credits::cus_1]"},
		{mirror.ScopeInvoiceOwner, "in_1", "invoice", "[balance::cus_1]"},
		{mirror.ScopeInvoiceOwner, "in_2", "invoice", "[]"},
		{mirror.ScopeInvoiceOwner, "in_3", "invoice", "[]"},
		{mirror.ScopeNoteOwner, "cn_1", "note", "[balance::cus_1]"},
	} {
		event := mirror.Event{ID: "evt_" + c.id, Type: "x", Created: t0, Object: c.id, Asks: c.scope}
		if _, err := b.store.RecordEvents(t.Context(), []mirror.Event{event}); err != nil {
			t.Fatal(err)
		}
		b.marks.marks = nil
		b.sync(t, event.Targets()[0], event.Ref())
		if got := b.stripe.made(); got != c.calls || fmt.Sprint(b.marks.marks) != c.want {
			t.Errorf("%s %s: calls %s, marked %v; want %s and %s", c.scope, c.id, got, b.marks.marks, c.calls, c.want)
		}
		receipts, err := b.store.EventReceipts(t.Context(), "", []string{event.ID})
		if answered := receipts[0] == mirror.ReceiptApplied; err != nil || answered != (c.want == "[]") {
			t.Errorf("%s %s: answered %v, %v", c.scope, c.id, answered, err)
		}
	}
	b.sync(t, creditsOf(cus))
	b.stripe.made()
	b.sync(t, mirror.Target{Scope: mirror.ScopeCreditOwner, ID: row})
	if got := b.stripe.made(); got != "" {
		t.Errorf("held: %s, want no call", got)
	}
	for _, scope := range []mirror.Scope{mirror.ScopeCreditOwner, mirror.ScopeInvoiceOwner, mirror.ScopeNoteOwner} {
		id := map[mirror.Scope]string{mirror.ScopeCreditOwner: "cbtxn_x", mirror.ScopeInvoiceOwner: "in_x", mirror.ScopeNoteOwner: "cn_x"}[scope]
		_, err := b.syncer.Sync(t.Context(), mirror.Target{Scope: scope, ID: id}, nil, false)
		if v := judge(err); v.outcome != "lagging" {
			t.Errorf("%s, unknown to Stripe: %v is %s, want lagging", scope, err, v.outcome)
		}
	}
}

// I1: a clock's event is answered by the syncs of all its customers, whatever happens
// to their marks.
func TestI1_ClockWaitsForItsCustomers(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	for _, id := range []string{"cus_a", "cus_b"} {
		b.stripe.add(id).TestClock = "clock_1"
	}
	e := mirror.Event{ID: "evt_1", Type: "test_helpers.test_clock.ready", Created: t0, Clock: "clock_1", Object: "clock_1"}
	if _, err := b.store.RecordEvents(t.Context(), []mirror.Event{e}); err != nil {
		t.Fatal(err)
	}
	question := e.Targets()[0]
	asked := func(marks string, waits bool) {
		t.Helper()
		b.marks.marks = nil
		r := b.sync(t, question)
		if got := fmt.Sprint(b.marks.marks); got != marks || r.Waits != waits {
			t.Errorf("marked %s, waits %v; want %s, %v", got, r.Waits, marks, waits)
		}
		pending, err := b.store.PendingEvents(t.Context(), 0, 10)
		if err != nil || len(pending) > 0 != waits {
			t.Errorf("pending %+v, %v; want it to wait: %v", pending, err, waits)
		}
	}
	asked("[balance::cus_a credits::cus_a balance::cus_b credits::cus_b]", true)
	b.sync(t, balanceOf("cus_a"))
	b.sync(t, creditsOf("cus_b"))
	asked("[credits::cus_a balance::cus_b]", true) // as after their marks were lost
	b.sync(t, balanceOf("cus_b"))
	b.sync(t, creditsOf("cus_a"))
	asked("[]", false)
}

func TestClockCustomers(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	question := mirror.Target{Scope: mirror.ScopeClockCustomers, ID: "clock_1"}
	for _, id := range []string{"cus_b", "cus_a", "cus_elsewhere"} {
		c := b.stripe.add(id)
		if id != "cus_elsewhere" {
			c.TestClock = "clock_1"
		}
	}
	held := mirror.Customer{ID: "cus_c", TestClock: "clock_1", Created: t0, Raw: []byte(`{"id":"cus_c"}`)}
	both := b.stripe.customers["cus_a"].copy()
	if _, err := b.store.InsertCustomers(t.Context(), "", []mirror.Customer{held, both}); err != nil {
		t.Fatal(err)
	}
	b.stripe.pageCap = 1
	b.sync(t, question)
	want := "[balance::cus_a credits::cus_a balance::cus_b credits::cus_b balance::cus_c credits::cus_c]"
	if got := fmt.Sprint(b.marks.marks); got != want {
		t.Errorf("marked %s, want %s", got, want)
	}

	for name, gone := range map[string]error{"404": missing("test_clock"), "400": failure(stripeapi.KindRefused)} {
		b.marks.marks, b.stripe.before = nil, func(string) error { return gone }
		b.sync(t, question)
		if got, want := fmt.Sprint(b.marks.marks), "[balance::cus_a credits::cus_a balance::cus_c credits::cus_c]"; got != want {
			t.Errorf("%s: marked %s, want %s", name, got, want)
		}
	}
	// A customer deleted between two pages is not the clock's end.
	b.marks.marks, b.stripe.before = nil, func(call string) error {
		if !strings.HasSuffix(call, "after=") {
			return missing("starting_after")
		}
		return nil
	}
	if _, err := b.syncer.Sync(t.Context(), question, nil, false); err == nil || len(b.marks.marks) != 0 {
		t.Errorf("cursor gone: %v, marked %v; want an error, so that it is asked again", err, b.marks.marks)
	}
	b.stripe.before = func(string) error { return failure(stripeapi.KindUnavailable) }
	if _, err := b.syncer.Sync(t.Context(), question, nil, false); !errors.Is(err, stripeapi.ErrUnavailable) {
		t.Errorf("outage: %v", err)
	}
}

// I2: rows that come into the second that is being read, page by page and piece by
// piece, stand above the place that is read, or below it. A ledger that is called
// complete holds none of them without those that were made before it.
func TestI2_CreditsThatComeWhileTheirSecondIsRead(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := setup(t, SyncOptions{PagesPerPiece: 1 + r.IntN(2), RereadDelay: time.Microsecond, Now: func() time.Time { return t0.Add(4 * time.Second) }})
		a := b.stripe.add(cus)
		b.stripe.pageCap = 2 + r.IntN(3)
		g := b.stripe.grant(a, 100_000, true)
		b.sync(t, creditsOf(cus))
		row := func() {
			b.stripe.move(a, g, -int64(1+r.IntN(9)))
			b.stripe.clock = b.stripe.clock.Add(-time.Second) // all in one second
			a.credits[len(a.credits)-1].tie = r.IntN(1000)
			a.credits[len(a.credits)-1].row.Created = b.stripe.clock
			renderCredit(&a.credits[len(a.credits)-1].row)
		}
		b.stripe.clock = b.stripe.clock.Add(time.Second)
		for range 5 + r.IntN(6) {
			row()
		}
		check := func() {
			state, err := b.store.Balances(context.Background(), "", "", 10, time.Time{})
			if err != nil || len(state) > 1 {
				t.Fatalf("%+v, %v", state, err)
			}
			list, err := b.store.CreditTransactions(context.Background(), "", cus, "", mirror.Page{Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			if !list.Unfinished {
				held := map[string]bool{}
				for _, r := range list.Rows {
					held[r.ID] = true
				}
				for i, l := range a.credits[:len(list.Rows)] {
					if !held[l.row.ID] {
						t.Errorf("seed %d: called complete with %d rows, and number %d is missing", seed, len(list.Rows), i)
					}
				}
			}
		}
		b.stripe.before = func(call string) error {
			check()
			if strings.HasPrefix(call, "credits") && r.IntN(3) == 0 && len(a.credits) < 40 {
				row()
			}
			return nil
		}
		ref := rowEvent(a.credits[len(a.credits)-1].row.ID)
		for range 20 {
			res, err := b.syncer.Sync(t.Context(), creditsOf(cus), []mirror.EventRef{ref}, false)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			check()
			if len(a.credits) == 40 {
				b.stripe.before = nil
			}
			if b.stripe.before == nil && !res.More {
				break
			}
		}
		b.stripe.before = nil
		b.sync(t, creditsOf(cus))
		if n := b.heldCredits(t); n != len(a.credits) {
			t.Errorf("seed %d: %d rows held of %d in the end", seed, n, len(a.credits))
		}
		if f, err := b.store.Findings(t.Context(), mirror.FindingsQuery{RepairedSince: time.Unix(0, 0), Limit: 10}); err != nil || len(f) > 0 {
			t.Errorf("seed %d: findings %+v, %v", seed, f, err)
		}
	}
}
