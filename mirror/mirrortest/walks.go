package mirrortest

import (
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// What holds while a history is read in pieces, also one that was complete before:
// the walk is open, and known by the database alone.
func walkCases() []testCase {
	return []testCase{
		{"I3_PieceOfABalanceAnswersNothing", balancePieceAnswersNothing},
		{"I3_PieceOfCreditsAnswersNothing", creditsPieceAnswersNothing},
		{"TombstoneEndsAWalk", tombstoneEndsWalk},
	}
}

// requireOpenWalk proves that a target's open walk is told as unfinished by
// everything that can tell, and that nothing was answered by the piece.
func requireOpenWalk(t *testing.T, h *Harness, target mirror.Target, observed time.Time, event string) {
	t.Helper()
	requirePending(t, h, event+" "+target.Key())
	at, err := h.ObservedAt(t.Context(), []mirror.Target{target})
	noErr(t, err)
	if !at[0].Equal(observed) {
		t.Fatalf("observed at %v, want %v: a piece makes nothing fresher", at[0], observed)
	}
	requireUnsynced(t, h, target.Scope, target.ID)
	if n, err := h.UnsyncedCount(t.Context(), ""); err != nil || n != 1 {
		t.Fatalf("%d unfinished histories, %v, want 1", n, err)
	}
	requireFinished(t, h, target, false)
}

// requireFinished asks all readers whether the history is wholly held.
func requireFinished(t *testing.T, h *Harness, target mirror.Target, want bool) {
	t.Helper()
	balances, err := h.Balances(t.Context(), "", "", 10, time.Time{})
	noErr(t, err)
	if len(balances) != 1 {
		t.Fatalf("%d customers", len(balances))
	}
	balance := target.Scope == mirror.ScopeBalance
	if b := balances[0]; b.BalanceComplete != (want || !balance) || b.CreditsComplete != (want || balance) {
		t.Fatalf("complete: %+v, want %v for %s", b, want, target.Scope)
	}
	customer, err := h.Customer(t.Context(), "", target.ID)
	noErr(t, err)
	if customer.Unfinished != (balance && !want) {
		t.Fatalf("customer unfinished %v", customer.Unfinished)
	}
	rows := list(t, h, "", target.ID)
	credits, err := h.CreditTransactions(t.Context(), "", target.ID, "", mirror.Page{Limit: 1})
	noErr(t, err)
	grants, err := h.Grants(t.Context(), "", target.ID, mirror.Page{Limit: 1})
	noErr(t, err)
	summary, err := h.CreditSummary(t.Context(), "", target.ID)
	noErr(t, err)
	if rows.Unfinished != (balance && !want) {
		t.Fatalf("balance transactions unfinished %v", rows.Unfinished)
	}
	for name, got := range map[string]bool{"transactions": credits.Unfinished, "grants": grants.Unfinished, "summary": summary.Unfinished} {
		if got != (!balance && !want) {
			t.Fatalf("%s of the credits unfinished %v", name, got)
		}
	}
}

func balancePieceAnswersNothing(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	c := newCredits("", "cus_A")
	c.grant("eur", 10)
	c.sync(t, h)
	before := list(t, h, "", "cus_A").SyncedAt
	requireFinished(t, h, l.target(), true)

	noErr(t, h.SaveDeadLetter(t.Context(), letter(l.target())))
	record(t, h, updated("", "evt_1", "cus_A"))
	for range 4 {
		l.add("eur", -1)
	}
	all := l.newest(4)
	piece := l.snapshot(begin(t, h, l.target()), 2)
	piece.Joined, piece.Full, piece.Walk = false, false, mirror.Walk{Cursor: all[1].ID, Top: all[0].Created}
	piece.Events = []mirror.EventRef{{ID: "evt_2", Created: l.now, Type: "customer.updated"}}
	if a := applyBalance(t, h, piece); len(a.Answered) != 0 || a.Inserted != 2 {
		t.Fatalf("a piece: %+v, want 2 rows and no event answered", a)
	}
	if letters, err := h.DeadLetters(t.Context(), "", 10); err != nil || len(letters) != 1 {
		t.Fatalf("letters %v, %v: a piece removed the dead letter", letters, err)
	}
	requireUnsynced(t, h, mirror.ScopeBalance)
	noErr(t, h.DropDeadLetter(t.Context(), mirror.DeadLetterID(l.target())))
	requireOpenWalk(t, h, l.target(), before, "evt_1")

	last := l.snapshot(begin(t, h, l.target()), 5)
	last.Full = false
	last.Events = piece.Events
	a := applyBalance(t, h, last)
	var answered []string
	for _, e := range a.Answered {
		answered = append(answered, e.ID)
	}
	if slices.Sort(answered); !slices.Equal(answered, []string{"evt_1", "evt_2"}) {
		t.Fatalf("the join answered %q", answered)
	}
	requirePending(t, h)
	requireUnsynced(t, h, mirror.ScopeBalance)
	requireFinished(t, h, l.target(), true)
	requireChain(t, h, l)
	if got := list(t, h, "", "cus_A").SyncedAt; !got.Equal(last.ObservedAt) {
		t.Fatalf("synced at %v, want %v", got, last.ObservedAt)
	}
}

func creditsPieceAnswersNothing(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	c := newCredits("", "cus_A")
	grant := c.grant("eur", 1000).ID
	c.sync(t, h)
	first, err := h.CreditSummary(t.Context(), "", "cus_A")
	noErr(t, err)

	e := updated("", "evt_1", "cus_A")
	e.Type = "billing.credit_grant.updated"
	record(t, h, e)
	for range 4 {
		c.now = c.now.Add(time.Second)
		c.move(grant, "eur", -1)
	}
	all := c.newest(4)
	piece := c.snapshot(begin(t, h, c.target()), 2)
	piece.Joined, piece.Full, piece.Walk = false, false, mirror.Walk{Cursor: all[1].ID, Top: all[0].Created}
	piece.Summary = nil
	if a := applyCredits(t, h, piece); len(a.Answered) != 0 || a.Inserted != 2 {
		t.Fatalf("a piece: %+v, want 2 rows and no event answered", a)
	}
	requireOpenWalk(t, h, c.target(), first.SyncedAt, "evt_1")

	last := c.snapshot(begin(t, h, c.target()), 5)
	if a := applyCredits(t, h, last); len(a.Answered) != 1 {
		t.Fatalf("the join answered %+v", a.Answered)
	}
	requirePending(t, h)
	requireUnsynced(t, h, mirror.ScopeCredits)
	requireFinished(t, h, c.target(), true)
	requireCredits(t, h, c)
}

func tombstoneEndsWalk(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 3 {
		l.add("eur", -1)
	}
	record(t, h, updated("", "evt_1", "cus_A"))
	piece := l.snapshot(begin(t, h, l.target()), 1)
	piece.Joined, piece.Walk = false, mirror.Walk{Cursor: l.rows[2].ID, Top: l.now}
	applyBalance(t, h, piece)
	if _, a := bury(t, h, l.target()); len(a.Answered) != 1 {
		t.Fatalf("the tombstone answered %+v", a.Answered)
	}
	requireUnsynced(t, h, mirror.ScopeBalance)
	if n, err := h.UnsyncedCount(t.Context(), ""); err != nil || n != 0 {
		t.Fatalf("%d unfinished histories, %v", n, err)
	}
}
