package mirrortest

import (
	"errors"
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
		{"I2_FirstCopyPlacedInSlices", firstCopyInSlices},
		{"WalkJoinedInSlicesKnowsItsNewestRow", func(t *testing.T, h *Harness) { newestOfAWalkInSlices(t, h, false) }},
		{"WalkThatEndsWithAnEmptyPage", func(t *testing.T, h *Harness) { newestOfAWalkInSlices(t, h, true) }},
		{"I2_CatchUpPlacedInSlices", catchUpInSlices},
		{"I2_LongSecondPlacedInSlices", longSecondInSlices},
		{"I2_WholeReadInSlicesMovesRows", wholeReadInSlices},
		{"I2_DisproofInSlices", disproofInSlices},
	}
}

// requireOpenWalk proves that a target's open walk is reported as unfinished by
// everything that reports it, and that nothing was answered by the piece.
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

// sliced is the harness over a store that places three rows in a transaction.
func sliced(t *testing.T, h *Harness) *Harness {
	t.Helper()
	if h.Sliced == nil {
		t.Skip("this driver's test opens no store with small slices")
	}
	s := *h
	s.Store = h.Sliced(t, 3)
	return &s
}

// moves counts the change records of balance rows by their op.
func (h *Harness) moves(t *testing.T, op string) int64 {
	t.Helper()
	return h.number(t, `SELECT count(*) FROM changes WHERE table_name = 'customer_balance_transactions' AND op = '`+op+`'`)
}

// inPiecesOf reads a ledger's newest rows in pieces of so many, the last of which joins.
func (l *ledger) inPiecesOf(t *testing.T, h *Harness, rows, piece int, full bool) mirror.Applied {
	t.Helper()
	all := l.newest(rows)
	end := rows == len(l.rows)
	for from := 0; ; from += piece {
		to := min(from+piece, rows)
		snap := l.snapshot(begin(t, h, l.target()), rows)
		snap.Windows = []mirror.Window[mirror.BalanceTransaction]{{Rows: all[from:to], FromHead: from == 0, ToEnd: end && to == rows}}
		snap.Joined, snap.Full = to == rows, full && to == rows
		if !snap.Joined {
			snap.Walk = mirror.Walk{Cursor: all[to-1].ID, Top: all[0].Created, Full: full}
		}
		if a := applyBalance(t, h, snap); snap.Joined {
			return a
		}
	}
}

// mixed is a ledger of several currencies and rows of one second.
func mixed(l *ledger, rows int) {
	for i := range rows {
		currency := []string{"eur", "usd", "eur"}[i%3]
		if i%4 == 3 {
			l.addNow(currency, int64(7*i%11-5))
		} else {
			l.add(currency, int64(i%5-3))
		}
	}
}

func firstCopyInSlices(t *testing.T, h *Harness) {
	h = sliced(t, h)
	l := newLedger("", "cus_A")
	mixed(l, 40)
	record(t, h, updated("", "evt_1", "cus_A"))
	if a := l.inPiecesOf(t, h, 40, 7, true); len(a.Answered) != 1 || len(a.Findings)+len(a.Repaired) > 0 {
		t.Fatalf("the join: %+v", a)
	}
	requireChain(t, h, l)
	requireUnsynced(t, h, mirror.ScopeBalance)
	if in, up := h.moves(t, "insert"), h.moves(t, "update"); in != 40 && in != -1 || up > 0 {
		t.Fatalf("%d insertions and %d updates are told, want 40 and none", in, up)
	}
	before := h.changes(t)
	if a := l.sync(t, h); a.Changed() || h.changes(t) != before {
		t.Fatalf("the same once more: %+v, %d changes, want %d", a, h.changes(t), before)
	}
}

// newestOfAWalkInSlices: the piece that ends a walk holds its oldest rows, and what is
// complete reaches up to its newest one all the same, or the next sync would read
// everything again. A last page that is empty ends a walk too.
func newestOfAWalkInSlices(t *testing.T, h *Harness, empty bool) {
	h = sliced(t, h)
	l := newLedger("", "cus_A")
	mixed(l, 40)
	all := l.newest(40)
	for _, bounds := range [][2]int{{0, 7}, {7, 14}, {14, 40}} {
		snap := l.snapshot(begin(t, h, l.target()), 40)
		snap.Windows = []mirror.Window[mirror.BalanceTransaction]{{Rows: all[bounds[0]:bounds[1]], FromHead: bounds[0] == 0, ToEnd: bounds[1] == 40}}
		if bounds[1] < 40 || empty {
			snap.Joined, snap.Full = false, false
			snap.Walk = mirror.Walk{Cursor: all[bounds[1]-1].ID, Top: all[0].Created}
		}
		applyBalance(t, h, snap)
	}
	if empty {
		snap := l.snapshot(begin(t, h, l.target()), 40)
		snap.Windows = []mirror.Window[mirror.BalanceTransaction]{{ToEnd: true}}
		applyBalance(t, h, snap)
	}
	requireChain(t, h, l)
	requireFinished(t, h, l.target(), true)
	if st := begin(t, h, l.target()); !st.HistoryComplete || st.Walk.InProgress() || !st.CompleteTo.Equal(all[0].Created) {
		t.Errorf("empty %v: complete to %v, want the newest row's %v: %+v", empty, st.CompleteTo, all[0].Created, st)
	}
}

func catchUpInSlices(t *testing.T, h *Harness) {
	h = sliced(t, h)
	l := newLedger("", "cus_A")
	mixed(l, 2)
	l.sync(t, h)
	mixed(l, 30)
	if a := l.inPiecesOf(t, h, 31, 7, false); len(a.Findings)+len(a.Repaired) > 0 {
		t.Fatalf("the join: %+v", a)
	}
	requireChain(t, h, l)
	if in, up := h.moves(t, "insert"), h.moves(t, "update"); in != 32 && in != -1 || up > 0 {
		t.Fatalf("%d insertions and %d updates are told, want 32 and none", in, up)
	}
	if st := begin(t, h, l.target()); !st.HistoryComplete || st.Walk.InProgress() || st.Disproved {
		t.Fatalf("%+v", st)
	}
}

func longSecondInSlices(t *testing.T, h *Harness) {
	h = sliced(t, h)
	l := newLedger("", "cus_A")
	l.add("eur", -5)
	for i := range 25 { // more than a slice holds, listed in the wrong order
		l.addNow("eur", int64(i*37%19-8))
	}
	l.add("eur", -5)
	all := l.newest(len(l.rows))
	slices.Reverse(all[1:26])
	for from := 0; from < len(all); from += 9 {
		snap := l.whole(begin(t, h, l.target()))
		snap.Windows[0] = mirror.Window[mirror.BalanceTransaction]{Rows: all[from : from+9], FromHead: from == 0, ToEnd: from == 18}
		snap.Joined, snap.Full = from == 18, from == 18
		if !snap.Joined {
			snap.Walk = mirror.Walk{Cursor: all[from+8].ID, Top: l.now, Full: true}
		}
		applyBalance(t, h, snap)
	}
	requireChain(t, h, l)
}

func wholeReadInSlices(t *testing.T, h *Harness) {
	h = sliced(t, h)
	if h.Exec == nil {
		t.Skip("this driver's test offers no SQL")
	}
	l := newLedger("", "cus_A")
	mixed(l, 30)
	l.sync(t, h)
	for _, damage := range []string{
		`DELETE FROM customer_balance_transactions WHERE id = '` + l.rows[10].ID + `'`,
		`UPDATE customer_balance_transactions SET chain_position = 1 WHERE id = '` + l.rows[20].ID + `'`,
		`UPDATE customer_balance_transactions SET chain_position = NULL WHERE id > '` + l.rows[8].ID + `'`,
	} {
		noErr(t, h.Exec(t.Context(), damage))
		noErr(t, h.RequestFullRead(t.Context(), []mirror.Target{l.target()}))
		l.inPiecesOf(t, h, 30, 11, true)
		requireChain(t, h, l)
	}
	if n := h.moves(t, "update"); n == 0 {
		t.Fatal("rows moved, and no change tells of it")
	}
}

func disproofInSlices(t *testing.T, h *Harness) {
	h = sliced(t, h)
	l := newLedger("", "cus_A")
	for range 20 {
		l.add("eur", -10)
	}
	hole := l.rows[12]
	short := *l
	short.rows = slices.Delete(slices.Clone(l.rows), 12, 13) // the list leaves a row out
	all := short.newest(19)
	piece := short.whole(begin(t, h, l.target()))
	piece.Windows[0] = mirror.Window[mirror.BalanceTransaction]{Rows: all[:9], FromHead: true}
	piece.Joined, piece.Full, piece.Walk = false, false, mirror.Walk{Cursor: all[8].ID, Top: l.now, Full: true}
	applyBalance(t, h, piece)
	last := short.whole(begin(t, h, l.target()))
	last.Windows[0] = mirror.Window[mirror.BalanceTransaction]{Rows: all[9:], ToEnd: true}
	if _, err := h.ApplyBalance(t.Context(), last); !errors.Is(err, mirror.ErrDisproved) {
		t.Fatalf("got %v, want ErrDisproved", err)
	}
	if st := begin(t, h, l.target()); st.HistoryComplete || !st.Walk.InProgress() || !st.Walk.Full {
		t.Fatalf("a history that is disproved: %+v, want the walk still open", st)
	}
	if rows := list(t, h, "", "cus_A").Rows; len(rows) != 19 {
		t.Fatalf("%d rows are held, want all that were seen", len(rows))
	}
	last.Epoch = begin(t, h, l.target()).Epoch
	last.AcceptDisproof = true
	a := applyBalance(t, h, last)
	if len(a.Findings) != 1 || a.Findings[0].Kind != mirror.DriftChainGap || a.Findings[0].Object != l.rows[13].ID {
		t.Fatalf("an accepted disproof: %+v", a)
	}
	if st := begin(t, h, l.target()); !st.HistoryComplete || st.Walk.InProgress() || !st.Disproved {
		t.Fatalf("%+v", st)
	}
	for _, r := range list(t, h, "", "cus_A").Rows {
		if r.Position == 0 {
			t.Fatalf("%s has no place", r.ID)
		}
	}
	l.inPiecesOf(t, h, 20, 9, true) // the row is listed at last
	requireChain(t, h, l)
	if st := begin(t, h, l.target()); st.Disproved {
		t.Fatalf("%+v; %s came", st, hole.ID)
	}
}
