package mirrortest

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func writeCases() []testCase {
	return []testCase{
		{"I2_NewRowContinuesTheChain", writeNewRow},
		{"I2_NewRowThatDoesNotContinueIsRefused", writeOddRow},
		{"NewRowOfAnIncompleteHistoryIsRefused", writeIncomplete},
		{"I4_OlderSyncCannotOverwriteAWrite", writeFencesOlderSync},
		{"I5_RowsThatCancelOutAreFoundLater", writeOverHiddenPair},
		{"I4_EditNeedsTheEpoch", writeEdit},
		{"I4_GrantEditNeedsTheEpoch", writeGrantEdit},
	}
}

// written is the newest row as the reply to its creation.
func written(l *ledger) mirror.Write {
	row := l.rows[len(l.rows)-1]
	return mirror.Write{Target: l.target(), Row: &row}
}

func applyWrite(t *testing.T, h *Harness, w mirror.Write) mirror.Applied {
	t.Helper()
	a, err := h.ApplyWrite(t.Context(), w)
	noErr(t, err)
	return a
}

func refuseWrite(t *testing.T, h *Harness, w mirror.Write, want error) {
	t.Helper()
	changes := h.changes(t)
	if _, err := h.ApplyWrite(t.Context(), w); !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
	if n := h.changes(t) - changes; n != 0 {
		t.Fatalf("%d changes were recorded by what was refused", n)
	}
}

// requireHeld compares the mirror with the ledger: rows, balances, customer.
func requireHeld(t *testing.T, h *Harness, l *ledger) {
	t.Helper()
	page, err := h.BalanceTransactions(t.Context(), l.account, l.customer, mirror.Page{Limit: len(l.rows) + 1})
	noErr(t, err)
	if len(page.Rows) != len(l.rows) {
		t.Fatalf("%d rows, want %d", len(page.Rows), len(l.rows))
	}
	places := map[string]int64{}
	for i, r := range page.Rows {
		want := l.rows[len(l.rows)-1-i]
		if r.ID != want.ID || r.EndingBalance != want.EndingBalance || mirror.Digest(r.Raw) != mirror.Digest(want.Raw) {
			t.Fatalf("row %d: %+v, want %+v", i, r, want)
		}
		if places[r.Currency] != 0 && r.Position != places[r.Currency]-1 {
			t.Fatalf("%s has place %d, the next one %d", r.ID, r.Position, places[r.Currency])
		}
		places[r.Currency] = r.Position
	}
	c, err := h.Customer(t.Context(), l.account, l.customer)
	noErr(t, err)
	want := l.object()
	if c.Balance != want.Balance || mirror.Digest(c.Raw) != mirror.Digest(want.Raw) {
		t.Fatalf("customer %+v %s, want %+v %s", c, c.Raw, want, want.Raw)
	}
	list, err := h.Balances(t.Context(), l.account, "", 10, time.Time{})
	noErr(t, err)
	for _, b := range list {
		if b.Customer != l.customer {
			continue
		}
		for currency, balance := range l.balances {
			if b.Balance[currency] != balance || c.InvoiceCreditBalance[currency] != -balance {
				t.Fatalf("%s: %d and %d, want %d", currency, b.Balance[currency], c.InvoiceCreditBalance[currency], balance)
			}
		}
	}
}

func writeNewRow(t *testing.T, h *Harness) {
	l := newLedger("acct_1", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	before := list(t, h, "acct_1", "cus_A").SyncedAt
	l.add("eur", -5)
	if a := applyWrite(t, h, written(l)); a.Inserted != 1 || a.Updated != 1 {
		t.Fatalf("%+v", a)
	}
	requireHeld(t, h, l)
	l.addNow("eur", 0)
	applyWrite(t, h, written(l))
	l.add("usd", 7) // the first of its currency
	applyWrite(t, h, written(l))
	requireHeld(t, h, l)
	if at := list(t, h, "acct_1", "cus_A").SyncedAt; !at.Equal(before) {
		t.Fatalf("a write was taken for a reading: synced at %v, was %v", at, before)
	}
	changes := h.changes(t)
	if a := applyWrite(t, h, written(l)); a.Changed() || h.changes(t) != changes {
		t.Fatalf("the same reply again: %+v", a)
	}
	// The sync that follows finds everything as it is.
	if a := l.sync(t, h); a.Changed() {
		t.Fatalf("the next sync changed something: %+v", a)
	}
	requireHeld(t, h, l)
}

func writeOddRow(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	l.add("eur", -1) // made by somebody else, and not seen yet
	l.add("eur", -5)
	refuseWrite(t, h, written(l), mirror.ErrDisproved)

	odd := written(l)
	row := *odd.Row
	row.ID, row.Created = "cbtxn_old", epoch0.Add(-time.Hour)
	row.Amount, row.EndingBalance = -5, -105
	odd.Row = &row
	refuseWrite(t, h, odd, mirror.ErrDisproved) // older than what is held
	row.Created = l.now
	row.Amount, row.EndingBalance = math.MinInt64, math.MaxInt64-99
	refuseWrite(t, h, odd, mirror.ErrDisproved) // only an overflow makes it fit

	l.sync(t, h)
	rewritten := written(l)
	row = *rewritten.Row
	row.Amount++
	rewritten.Row = &row
	refuseWrite(t, h, rewritten, mirror.ErrLedgerRewritten)
	requireHeld(t, h, l)
}

func writeIncomplete(t *testing.T, h *Harness) {
	unknown := newLedger("", "cus_U")
	unknown.add("eur", -1)
	refuseWrite(t, h, written(unknown), mirror.ErrDisproved)

	l := newLedger("", "cus_A")
	for range 5 {
		l.add("eur", -100)
	}
	snap := l.snapshot(begin(t, h, l.target()), 2)
	snap.Joined, snap.Walk = false, mirror.Walk{Cursor: l.rows[3].ID, Top: l.now, Full: true}
	applyBalance(t, h, snap)
	l.add("eur", -5)
	refuseWrite(t, h, written(l), mirror.ErrDisproved)

	gone := newLedger("", "cus_G")
	gone.add("eur", -1)
	gone.sync(t, h)
	_, err := h.ApplyTombstone(t.Context(), mirror.Tombstone{Target: gone.target(), Epoch: begin(t, h, gone.target()).Epoch, ObservedAt: gone.now})
	noErr(t, err)
	gone.add("eur", -1)
	refuseWrite(t, h, written(gone), mirror.ErrDisproved)
}

// A sync that read before the write must not commit after it.
func writeFencesOlderSync(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	old := l.whole(begin(t, h, l.target()))
	l.add("eur", -5)
	applyWrite(t, h, written(l))
	if _, err := h.ApplyBalance(t.Context(), old); !errors.Is(err, mirror.ErrFenced) {
		t.Fatalf("the older sync: %v, want ErrFenced", err)
	}
	requireHeld(t, h, l)
	if st := begin(t, h, l.target()); st.Epoch <= old.Epoch {
		t.Fatalf("epoch %d after %d", st.Epoch, old.Epoch)
	}
}

// A pair that cancels out is hidden from the comparison of a new row. Since a
// write makes nothing complete, the next sync reads over it and heals the chain.
func writeOverHiddenPair(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 3 {
		l.add("eur", -100)
	}
	l.sync(t, h)
	l.add("eur", -30)
	l.add("eur", 30)
	l.add("eur", -5)
	applyWrite(t, h, written(l))
	st := begin(t, h, l.target())
	if !st.CompleteTo.Equal(epoch0.Add(3 * time.Second)) {
		t.Fatalf("complete to %v", st.CompleteTo)
	}
	// What a sync reads until it joins what is complete does not fit onto the chain
	// held, and the whole history does.
	part := l.snapshot(st, 4)
	if _, err := h.ApplyBalance(t.Context(), part); !errors.Is(err, mirror.ErrDisproved) {
		t.Fatalf("%v, want ErrDisproved", err)
	}
	applyBalance(t, h, l.whole(st))
	requireHeld(t, h, l)
}

func writeEdit(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.add("eur", -100)
	l.sync(t, h)
	edit := func(epoch int64, description string) mirror.Write {
		l.rows[0].Description = description
		l.render(0)
		row := l.rows[0]
		return mirror.Write{Target: l.target(), Epoch: epoch, Row: &row}
	}
	first, second := begin(t, h, l.target()).Epoch, begin(t, h, l.target()).Epoch
	stale := edit(first, "first")
	if a := applyWrite(t, h, edit(second, "second")); a.Updated != 1 || a.Inserted != 0 {
		t.Fatalf("%+v", a)
	}
	refuseWrite(t, h, stale, mirror.ErrFenced) // its reply came late
	requireHeld(t, h, l)
	changes := h.changes(t)
	if a := applyWrite(t, h, edit(second, "second")); a.Changed() || h.changes(t) != changes {
		t.Fatalf("the same edit again: %+v", a)
	}
	unknown := edit(begin(t, h, l.target()).Epoch, "second")
	unknown.Row.ID = "cbtxn_unknown"
	refuseWrite(t, h, unknown, mirror.ErrDisproved)
}

func writeGrantEdit(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 100)
	c.sync(t, h)
	edit := func(epoch int64, metadata string) mirror.Write {
		c.grants[0].Metadata = []byte(metadata)
		c.render(0)
		g := c.grants[0]
		return mirror.Write{Target: c.target(), Epoch: epoch, Grant: &g}
	}
	first, second := begin(t, h, c.target()).Epoch, begin(t, h, c.target()).Epoch
	stale := edit(first, `{"n":"1"}`)
	if a := applyWrite(t, h, edit(second, `{"n":"2"}`)); a.Updated != 1 {
		t.Fatalf("%+v", a)
	}
	refuseWrite(t, h, stale, mirror.ErrFenced)
	g, err := h.Grant(t.Context(), "", c.grants[0].ID)
	noErr(t, err)
	if string(mirror.Canonical(g.Metadata)) != `{"n":"2"}` {
		t.Fatalf("metadata %s", g.Metadata)
	}
	changes := h.changes(t)
	applyWrite(t, h, edit(second, `{"n":"2"}`))
	if h.changes(t) != changes {
		t.Fatal("the same edit again was recorded")
	}
	dearer := edit(second, `{"n":"3"}`)
	dearer.Grant.Amount++
	refuseWrite(t, h, dearer, mirror.ErrLedgerRewritten)
	unknown := edit(second, `{"n":"4"}`)
	unknown.Grant.ID = "credgr_unknown"
	refuseWrite(t, h, unknown, mirror.ErrDisproved)
}
