package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func inboxCases() []testCase {
	return []testCase{
		{"Receipts", receipts},
		{"DoubledInOneCall", doubledInOneCall},
		{"I3_EventAfterBeginStaysPending", eventAfterBegin},
		{"EventWaitsForEveryScope", eventWaitsForEveryScope},
		{"EventsNamedByTheCaller", namedEvents},
		{"AnsweredOnce", answeredOnce},
		{"FencedCommitAnswersNothing", fencedAnswersNothing},
		{"TombstoneAnswers", tombstoneAnswers},
		{"QuestionWithOneAnswer", questionOne},
		{"QuestionsOfThinEvents", questionsOfThin},
		{"ReplayIsNoFreshness", replayIsNoFreshness},
		{"I1_QuestionWithSeveralAnswers", questionSeveral},
		{"I1_DeletedWithoutAnInbox", deletedWithoutInbox},
		{"QuestionWithoutAnswer", questionNone},
		{"PendingInPages", pendingPages},
		{"ObservedAt", observedAt},
		{"PruneKeepsWhatWaits", prune},
		{"SetAside", setAside},
	}
}

// updated is a customer.updated event.
func updated(account, id, customer string) mirror.Event {
	return mirror.Event{
		ID: id, Type: "customer.updated", Account: account, APIVersion: "2024-06-20", Livemode: true,
		Created: epoch0.Add(time.Minute), Customer: customer, Object: customer,
	}
}

func record(t *testing.T, s mirror.Store, events ...mirror.Event) []mirror.Receipt {
	t.Helper()
	got, err := s.RecordEvents(t.Context(), events)
	noErr(t, err)
	return got
}

// pending lists (event, target) pairs as text.
func pending(t *testing.T, s mirror.Store) []string {
	t.Helper()
	waiting, err := s.PendingEvents(t.Context(), 0, 1000)
	noErr(t, err)
	var out []string
	for _, p := range waiting {
		out = append(out, p.Event.ID+" "+p.Target.Key())
	}
	return out
}

func requirePending(t *testing.T, s mirror.Store, want ...string) {
	t.Helper()
	if got := pending(t, s); !slices.Equal(got, want) {
		t.Fatalf("pending %q, want %q", got, want)
	}
}

func requireReceipts(t *testing.T, s mirror.Store, account string, ids []string, want ...mirror.Receipt) {
	t.Helper()
	got, err := s.EventReceipts(t.Context(), account, ids)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("receipts of %q: %v, %v, want %v", ids, got, err, want)
	}
}

func receipts(t *testing.T, h *Harness) {
	e := updated("", "evt_1", "cus_A")
	requireReceipts(t, h, "", []string{"evt_1"}, mirror.ReceiptNew)
	for i, want := range []mirror.Receipt{mirror.ReceiptNew, mirror.ReceiptPending, mirror.ReceiptPending} {
		if got := record(t, h, e); got[0] != want {
			t.Fatalf("record %d: %v, want %v", i, got[0], want)
		}
	}
	waiting, err := h.PendingEvents(t.Context(), 0, 10)
	noErr(t, err)
	want := mirror.PendingEvent{
		Seq: waiting[0].Seq, Event: e, Target: mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_A"},
	}
	if len(waiting) != 1 || fmt.Sprint(waiting[0]) != fmt.Sprint(want) {
		t.Fatalf("pending %+v, want %+v", waiting, want)
	}
	l := newLedger("", "cus_A")
	l.sync(t, h)
	if got := record(t, h, e, updated("", "evt_2", "cus_A")); !slices.Equal(got, []mirror.Receipt{mirror.ReceiptApplied, mirror.ReceiptNew}) {
		t.Fatalf("after the sync: %v", got)
	}
	requireReceipts(t, h, "", []string{"evt_2", "evt_unknown", "evt_1"},
		mirror.ReceiptPending, mirror.ReceiptNew, mirror.ReceiptApplied)
	uninteresting := mirror.Event{ID: "evt_3", Type: "charge.succeeded", Created: epoch0}
	if got := record(t, h, uninteresting); got[0] != mirror.ReceiptNew {
		t.Fatalf("an event without a target: %v, want new", got)
	}
	if got := record(t, h, uninteresting); got[0] != mirror.ReceiptApplied {
		t.Fatalf("an event without a target, again: %v, want applied", got)
	}
	if got := record(t, h); len(got) != 0 {
		t.Fatalf("no events: %v", got)
	}
}

func doubledInOneCall(t *testing.T, h *Harness) {
	e := updated("", "evt_1", "cus_A")
	got := record(t, h, e, updated("", "evt_2", "cus_B"), e)
	if !slices.Equal(got, []mirror.Receipt{mirror.ReceiptNew, mirror.ReceiptNew, mirror.ReceiptPending}) {
		t.Fatalf("receipts %v, want new, new, pending", got)
	}
	requirePending(t, h, "evt_1 balance::cus_A", "evt_2 balance::cus_B")
}

func eventAfterBegin(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	record(t, h, updated("", "evt_1", "cus_A"))
	st := begin(t, h, l.target())
	if st.EventSeq == 0 {
		t.Fatal("the state does not tell of the event that was recorded before")
	}
	record(t, h, updated("", "evt_2", "cus_A"))
	a := applyBalance(t, h, l.whole(st))
	if len(a.Answered) != 1 || a.Answered[0].ID != "evt_1" || !a.Answered[0].Created.Equal(epoch0.Add(time.Minute)) {
		t.Fatalf("answered %+v, want evt_1", a.Answered)
	}
	requirePending(t, h, "evt_2 balance::cus_A")
	l.sync(t, h)
	requirePending(t, h)
}

func eventWaitsForEveryScope(t *testing.T, h *Harness) {
	e := updated("", "evt_1", "cus_A")
	e.Type = "customer.deleted"
	record(t, h, e)
	requirePending(t, h, "evt_1 balance::cus_A", "evt_1 credits::cus_A")
	l := newLedger("", "cus_A")
	if a := l.sync(t, h); len(a.Answered) != 1 {
		t.Fatalf("answered %v, want evt_1", a.Answered)
	}
	requirePending(t, h, "evt_1 credits::cus_A")
	requireReceipts(t, h, "", []string{"evt_1"}, mirror.ReceiptPending)
	newCredits("", "cus_A").sync(t, h)
	requirePending(t, h)
	requireReceipts(t, h, "", []string{"evt_1"}, mirror.ReceiptApplied)
}

func namedEvents(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.sync(t, h)
	st := begin(t, h, l.target())
	record(t, h, updated("", "evt_1", "cus_A")) // after the sync began, but its caller knows better
	snap := l.whole(st)
	snap.Events = []mirror.EventRef{
		{ID: "evt_1", Created: epoch0, Object: "cus_A", Type: "customer.updated"},
		{ID: "evt_lost", Created: epoch0.Add(time.Second), Object: "in_1", Type: "invoice.voided"},
		{ID: "evt_lost", Created: epoch0.Add(time.Second), Object: "in_1", Type: "invoice.voided"},
	}
	a := applyBalance(t, h, snap)
	if len(a.Answered) != 2 {
		t.Fatalf("answered %+v, want evt_1 and evt_lost", a.Answered)
	}
	for _, e := range a.Answered {
		if e.ID == "evt_lost" && (!e.Created.Equal(epoch0.Add(time.Second)) || e.Object != "in_1" || e.Type != "invoice.voided") {
			t.Fatalf("answered %+v", e)
		}
	}
	requirePending(t, h)
	requireReceipts(t, h, "", []string{"evt_1", "evt_lost"}, mirror.ReceiptApplied, mirror.ReceiptApplied)
	if a := applyBalance(t, h, snap); len(a.Answered) != 0 {
		t.Fatalf("answered once more: %+v", a.Answered)
	}
}

func answeredOnce(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	record(t, h, updated("", "evt_1", "cus_A"))
	snap := l.whole(begin(t, h, l.target()))
	snap.Events = []mirror.EventRef{{ID: "evt_1", Created: epoch0, Object: "cus_A", Type: "customer.updated"}}
	if a := applyBalance(t, h, snap); len(a.Answered) != 1 {
		t.Fatalf("answered %+v, want evt_1 once", a.Answered)
	}
}

func fencedAnswersNothing(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	record(t, h, updated("", "evt_1", "cus_A"))
	snap := l.whole(begin(t, h, l.target()))
	snap.Events = []mirror.EventRef{{ID: "evt_2", Created: epoch0, Type: "customer.updated"}}
	begin(t, h, l.target())
	if _, err := h.ApplyBalance(t.Context(), snap); err == nil {
		t.Fatal("an old epoch was let through")
	}
	requirePending(t, h, "evt_1 balance::cus_A")
	requireReceipts(t, h, "", []string{"evt_2"}, mirror.ReceiptNew)
}

func tombstoneAnswers(t *testing.T, h *Harness) {
	record(t, h, updated("", "evt_1", "cus_Gone"))
	if _, a := bury(t, h, mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_Gone"}); len(a.Answered) != 1 {
		t.Fatalf("answered %+v, want evt_1", a.Answered)
	}
	requirePending(t, h)
}

// granted is an event that names a grant and no customer.
func granted(id, grant string) mirror.Event {
	return mirror.Event{
		ID: id, Type: "billing.credit_balance_transaction.created", Created: epoch0, Grant: grant, Object: "cbtxn_1",
	}
}

func questionOne(t *testing.T, h *Harness) {
	record(t, h, granted("evt_1", "credgr_1"), granted("evt_2", "credgr_2"), granted("evt_3", "credgr_1"))
	requirePending(t, h, "evt_1 grant_owner::credgr_1", "evt_2 grant_owner::credgr_2", "evt_3 grant_owner::credgr_1")
	question := mirror.Target{Scope: mirror.ScopeGrantOwner, ID: "credgr_1"}
	answer := mirror.Target{Scope: mirror.ScopeCredits, ID: "cus_A"}
	for range 2 { // repeating changes nothing
		noErr(t, h.ResolveEvents(t.Context(), question, []mirror.Target{answer}))
		requirePending(t, h, "evt_1 credits::cus_A", "evt_2 grant_owner::credgr_2", "evt_3 credits::cus_A")
	}
	c := newCredits("", "cus_A")
	c.grant("eur", 10)
	c.rows[0].ID = "cbtxn_1"
	c.renderRow(0)
	a := c.sync(t, h)
	if len(a.Answered) != 2 {
		t.Fatalf("answered %+v, want evt_1 and evt_3", a.Answered)
	}
	requirePending(t, h, "evt_2 grant_owner::credgr_2")
	waiting, err := h.PendingEvents(t.Context(), 0, 10)
	if err != nil || waiting[0].Event.Grant != "credgr_2" {
		t.Fatalf("pending %+v, %v, want the grant's id in the event", waiting, err)
	}
}

// replayIsNoFreshness: an event that came to the inbox long after it was made is none of
// those that show how fresh the mirror is.
func replayIsNoFreshness(t *testing.T, h *Harness) {
	now := time.Now()
	for id, age := range map[string]time.Duration{"evt_new": time.Minute, "evt_replayed": 10 * 24 * time.Hour} {
		record(t, h, mirror.Event{ID: id, Type: "invoice.voided", Created: now.Add(-age).Truncate(time.Second), Object: "in_1", Asks: mirror.ScopeInvoiceOwner})
	}
	noErr(t, h.ResolveEvents(t.Context(), mirror.Target{Scope: mirror.ScopeInvoiceOwner, ID: "in_1"}, nil))
	list, err := h.Freshness(t.Context(), 10)
	if err != nil || len(list) != 1 || now.Sub(list[0].Created) > time.Hour {
		t.Fatalf("%+v, %v; want the new event alone", list, err)
	}
}

// questionsOfThin are the questions of thin events, which name a thing and no customer.
func questionsOfThin(t *testing.T, h *Harness) {
	thin := []mirror.Event{
		{ID: "evt_1", Type: "billing.credit_balance_transaction.created", Created: epoch0, Object: "cbtxn_1", Asks: mirror.ScopeCreditOwner},
		{ID: "evt_2", Type: "invoice.voided", Created: epoch0, Object: "in_1", Asks: mirror.ScopeInvoiceOwner},
		{ID: "evt_3", Type: "credit_note.created", Created: epoch0, Object: "cn_1", Asks: mirror.ScopeNoteOwner},
		{ID: "evt_4", Type: "billing.credit_grant.updated", Created: epoch0, Object: "credgr_1", Grant: "credgr_1", Asks: mirror.ScopeGrantOwner},
	}
	record(t, h, thin...)
	requirePending(t, h, "evt_1 credit_owner::cbtxn_1", "evt_2 invoice_owner::in_1", "evt_3 note_owner::cn_1", "evt_4 grant_owner::credgr_1")
	waiting, err := h.PendingEvents(t.Context(), 0, 10)
	noErr(t, err)
	for i, w := range waiting {
		if got := w.Event.Targets(); len(got) != 1 || got[0] != thin[i].Targets()[0] || w.Target != got[0] {
			t.Errorf("%s waits for %v, its targets are %v", w.Event.ID, w.Target, got)
		}
	}
	noErr(t, h.ResolveEvents(t.Context(), thin[1].Targets()[0], []mirror.Target{{Scope: mirror.ScopeBalance, ID: "cus_A"}}))
	noErr(t, h.ResolveEvents(t.Context(), thin[2].Targets()[0], nil)) // it leads to nobody
	requirePending(t, h, "evt_1 credit_owner::cbtxn_1", "evt_2 balance::cus_A", "evt_4 grant_owner::credgr_1")
}

func questionSeveral(t *testing.T, h *Harness) {
	record(t, h, mirror.Event{ID: "evt_1", Type: "test_helpers.test_clock.ready", Created: epoch0, Clock: "clock_1", Object: "clock_1"})
	requirePending(t, h, "evt_1 clock_customers::clock_1")
	question := mirror.Target{Scope: mirror.ScopeClockCustomers, ID: "clock_1"}
	noErr(t, h.SaveDeadLetter(t.Context(), mirror.DeadLetter{
		ID: mirror.DeadLetterID(question), Target: question, Reason: "x", Attempts: 12, EventIDs: []string{"evt_1"},
	}))
	a, b := newLedger("", "cus_A"), newLedger("", "cus_B")
	targets := []mirror.Target{a.target(), b.target()}
	resolve := func(left ...mirror.Target) {
		t.Helper()
		err := h.ResolveEvents(t.Context(), question, targets)
		unsynced, ok := errors.AsType[*mirror.UnsyncedError](err)
		switch {
		case len(left) == 0 && err != nil:
			t.Fatal(err)
		case len(left) > 0 && (!ok || !slices.Equal(unsynced.Targets, left)):
			t.Fatalf("resolved: %v, want that %v are left", err, left)
		}
		letters, err := h.DeadLetters(t.Context(), "", 10)
		if want := min(len(left), 1); err != nil || len(letters) != want {
			t.Fatalf("letters %+v, %v; want %d", letters, err, want)
		}
	}
	sync := func(l *ledger, observed time.Time) {
		t.Helper()
		snap := l.whole(begin(t, h, l.target()))
		snap.ObservedAt = observed
		applyBalance(t, h, snap)
	}
	// Each look finds what is left, also after a crash.
	resolve(targets...)
	resolve(targets...)
	requirePending(t, h, "evt_1 clock_customers::clock_1")
	sync(a, time.Now().Add(-time.Hour)) // its reads began before the event was received
	resolve(targets...)
	sync(a, databaseTime(t, h))
	resolve(b.target())
	requirePending(t, h, "evt_1 clock_customers::clock_1")
	requireReceipts(t, h, "", []string{"evt_1"}, mirror.ReceiptPending)
	sync(b, databaseTime(t, h))
	// One that came since is not answered by these syncs.
	record(t, h, mirror.Event{ID: "evt_2", Type: "test_helpers.test_clock.ready", Created: epoch0, Clock: "clock_1", Object: "clock_1"})
	if err := h.ResolveEvents(t.Context(), question, targets); !errors.Is(err, mirror.ErrUnsynced) {
		t.Fatalf("resolved with a newer event: %v, want ErrUnsynced", err)
	}
	requirePending(t, h, "evt_2 clock_customers::clock_1")
	requireReceipts(t, h, "", []string{"evt_1", "evt_2"}, mirror.ReceiptApplied, mirror.ReceiptPending)
	sync(a, databaseTime(t, h))
	sync(b, databaseTime(t, h))
	resolve()
	requirePending(t, h)
	if err := h.ResolveEvents(t.Context(), question, targets); !errors.Is(err, mirror.ErrNotFound) {
		t.Fatalf("resolved with nothing that waits: %v, want ErrNotFound", err)
	}
}

func databaseTime(t *testing.T, h *Harness) time.Time {
	t.Helper()
	at, err := h.Store.(mirror.Clock).DatabaseTime(t.Context())
	noErr(t, err)
	return at
}

// deletedWithoutInbox: where events come to the store with the syncs alone, one that
// waits for both ledgers of a customer is answered by both.
func deletedWithoutInbox(t *testing.T, h *Harness) {
	apply := func(scope mirror.Scope, id string) {
		t.Helper()
		target := mirror.Target{Scope: scope, ID: "cus_Gone"}
		st := begin(t, h, target)
		_, err := h.ApplyTombstone(t.Context(), mirror.Tombstone{
			Target: target, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: epoch0.Add(time.Hour),
			Events: []mirror.EventRef{{ID: id, Type: mirror.EventCustomerDeleted, Created: epoch0, Object: "cus_Gone"}},
		})
		noErr(t, err)
	}
	apply(mirror.ScopeBalance, "evt_1")
	requirePending(t, h, "evt_1 credits::cus_Gone")
	requireReceipts(t, h, "", []string{"evt_1"}, mirror.ReceiptPending)
	apply(mirror.ScopeCredits, "evt_1")
	requirePending(t, h)
	requireReceipts(t, h, "", []string{"evt_1"}, mirror.ReceiptApplied)
	apply(mirror.ScopeCredits, "evt_2")
	requirePending(t, h, "evt_2 balance::cus_Gone")
	apply(mirror.ScopeBalance, "evt_2")
	requirePending(t, h)
	apply(mirror.ScopeBalance, "evt_2") // delivered once more
	requirePending(t, h)
}

func questionNone(t *testing.T, h *Harness) {
	record(t, h, granted("evt_1", "credgr_1"))
	question := mirror.Target{Scope: mirror.ScopeGrantOwner, ID: "credgr_1"}
	for _, target := range []mirror.Target{question, {Scope: mirror.ScopeGrantOwner, ID: "credgr_2"}} {
		noErr(t, h.SaveDeadLetter(t.Context(), mirror.DeadLetter{ID: mirror.DeadLetterID(target), Target: target, Reason: "x", Attempts: 12}))
	}
	noErr(t, h.ResolveEvents(t.Context(), question, nil))
	requirePending(t, h)
	// The question's letter goes with it, and no other one.
	letters, err := h.DeadLetters(t.Context(), "", 10)
	if err != nil || len(letters) != 1 || letters[0].Target.ID != "credgr_2" {
		t.Fatalf("letters %+v, %v; want that of the other question", letters, err)
	}
}

func pendingPages(t *testing.T, h *Harness) {
	var want []string
	for i := range 9 {
		e := updated("", fmt.Sprintf("evt_%d", i), "cus_A")
		want = append(want, e.ID+" balance::cus_A")
		if i%3 == 0 {
			e.Type = "customer.deleted"
			want = append(want, e.ID+" credits::cus_A")
		}
		record(t, h, e)
	}
	for _, limit := range []int{2, 3, 4, 100} {
		var got []string
		for after := int64(0); ; {
			page, err := h.PendingEvents(t.Context(), after, limit)
			noErr(t, err)
			if len(page) == 0 {
				break
			}
			if len(page) > limit {
				t.Fatalf("%d entries, want at most %d", len(page), limit)
			}
			for _, p := range page {
				got = append(got, p.Event.ID+" "+p.Target.Key())
			}
			if last := page[len(page)-1].Seq; last <= after {
				t.Fatalf("seq %d does not rise", last)
			}
			after = page[len(page)-1].Seq
		}
		if !slices.Equal(got, want) {
			t.Fatalf("limit %d: %q, want %q", limit, got, want)
		}
	}
}

func observedAt(t *testing.T, h *Harness) {
	l := newLedger("acct_1", "cus_A")
	snap := l.whole(begin(t, h, l.target()))
	targets := []mirror.Target{
		{Scope: mirror.ScopeBalance, ID: "cus_A"}, l.target(), {Account: "acct_1", Scope: mirror.ScopeCredits, ID: "cus_A"},
	}
	at, err := h.ObservedAt(t.Context(), targets)
	if err != nil || !at[0].IsZero() || !at[1].IsZero() || !at[2].IsZero() {
		t.Fatalf("before a commit: %v, %v", at, err)
	}
	applyBalance(t, h, snap)
	at, err = h.ObservedAt(t.Context(), targets)
	if err != nil || !at[0].IsZero() || !at[1].Equal(snap.ObservedAt) || !at[2].IsZero() {
		t.Fatalf("after it: %v, %v, want %v in the middle", at, err, snap.ObservedAt)
	}
}

func prune(t *testing.T, h *Harness) {
	e := updated("", "evt_1", "cus_A")
	record(t, h, e, updated("", "evt_2", "cus_B"))
	young := updated("", "evt_3", "cus_A")
	young.Created = epoch0.Add(48 * time.Hour)
	record(t, h, young)
	newLedger("", "cus_A").sync(t, h)
	n, err := h.PruneEvents(t.Context(), epoch0.Add(24*time.Hour))
	if err != nil || n != 1 {
		t.Fatalf("pruned %d, %v, want 1", n, err)
	}
	requireReceipts(t, h, "", []string{"evt_1", "evt_2", "evt_3"},
		mirror.ReceiptNew, mirror.ReceiptPending, mirror.ReceiptApplied)
}
