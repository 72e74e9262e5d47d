package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/creditmirror/creditmirror/mirror"
)

func modelCases() []testCase {
	return []testCase{{"I2_I5_RandomSyncsEndAtTheModel", randomSyncs}}
}

// randomSyncs drives one customer per run through random changes at Stripe and
// random syncs: whole, of the newest rows, in pieces, doubled, overtaken, stale.
// After every commit what is held is a state that Stripe was in.
func randomSyncs(t *testing.T, h *Harness) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		m := &machine{
			t: rt, s: h, l: newLedger([]string{"", "acct_1"}[run%2], fmt.Sprintf("cus_r%d", run)),
			held: map[string]bool{},
		}
		rt.Repeat(map[string]func(*rapid.T){
			"change": m.change,
			"edit":   m.edit,
			"sync":   m.sync,
			"pieces": m.piece,
			"stale":  m.stale,
			"event":  m.event,
			"":       m.check,
		})
		m.finish()
	})
}

// machine is one run over a model ledger.
type machine struct {
	t    *rapid.T
	s    mirror.Store
	l    *ledger
	held map[string]bool // ids that were ever committed
	// proven means that the last commit was joined, so that the chain closes.
	proven bool
	// old are snapshots whose epoch is over.
	old []mirror.BalanceSnapshot
	// last is the newest snapshot that was committed.
	last   *mirror.BalanceSnapshot
	events int
}

func (m *machine) begin() mirror.SyncState {
	st, err := m.s.BeginSync(m.t.Context(), m.l.target())
	if err != nil {
		m.t.Fatal(err)
	}
	return st
}

func (m *machine) apply(snap mirror.BalanceSnapshot) {
	if _, err := m.s.ApplyBalance(m.t.Context(), snap); err != nil {
		m.t.Fatalf("apply %+v: %v", snap, err)
	}
	for _, w := range snap.Windows {
		for _, r := range w.Rows {
			m.held[r.ID] = true
		}
	}
	m.proven = snap.Joined
	m.old = append(m.old, snap)
	m.last = &snap
}

func (m *machine) change(t *rapid.T) {
	for range rapid.IntRange(1, 4).Draw(t, "rows") {
		currency := rapid.SampledFrom([]string{"eur", "eur", "usd", "jpy"}).Draw(t, "currency")
		amount := rapid.Int64Range(-3, 3).Draw(t, "amount")
		if rapid.Bool().Draw(t, "same second") {
			m.l.addNow(currency, amount)
		} else {
			m.l.add(currency, amount)
		}
	}
}

func (m *machine) edit(t *rapid.T) {
	if len(m.l.rows) == 0 {
		t.Skip("no rows")
	}
	i := rapid.IntRange(0, len(m.l.rows)-1).Draw(t, "row")
	m.l.rows[i].Description = rapid.StringMatching(`[a-zü"']{0,5}`).Draw(t, "description")
	m.l.render(i)
}

// reach is how many of the newest rows a sync must read to join what is held:
// down to the second of CompleteTo.
func (m *machine) reach(st mirror.SyncState) int {
	n := 0
	for i := range m.l.rows {
		if !st.HistoryComplete || !m.l.rows[i].Created.Before(st.CompleteTo) {
			n++
		}
	}
	return n
}

func (m *machine) sync(t *rapid.T) {
	st := m.begin()
	n := len(m.l.rows)
	if st.HistoryComplete && !st.Disproved && rapid.Bool().Draw(t, "newest only") {
		n = min(n, m.reach(st)+rapid.IntRange(0, 2).Draw(t, "more"))
	}
	snap := m.l.snapshot(st, n)
	// Within a second Stripe's order is anybody's guess.
	rows := snap.Windows[0].Rows
	if rapid.Bool().Draw(t, "shuffled seconds") {
		slices.SortStableFunc(rows, func(a, b mirror.BalanceTransaction) int {
			if c := b.Created.Compare(a.Created); c != 0 {
				return c
			}
			return int(a.Amount - b.Amount)
		})
	}
	m.apply(snap)
	if rapid.Bool().Draw(t, "twice") {
		before := m.state()
		a, err := m.s.ApplyBalance(t.Context(), snap)
		if err != nil || a.Changed() {
			t.Fatalf("the same commit once more: %+v, %v", a, err)
		}
		if after := m.state(); after != before {
			t.Fatalf("the same commit once more changed\n%s\nto\n%s", before, after)
		}
	}
}

// piece reads the newest rows of a history that is not complete, or begins a
// walk over the whole of one that is.
func (m *machine) piece(t *rapid.T) {
	st := m.begin()
	if len(m.l.rows) < 2 {
		t.Skip("too few rows")
	}
	all := m.l.newest(len(m.l.rows))
	n := rapid.IntRange(1, len(all)-1).Draw(t, "read")
	for n < len(all) && all[n].Created.Equal(all[n-1].Created) {
		n++ // a piece ends between two seconds, so that the next one starts clean
	}
	if n == len(all) {
		t.Skip("all of one second")
	}
	snap := m.l.snapshot(st, n)
	snap.Joined, snap.Full = false, false
	snap.Walk = mirror.Walk{Cursor: all[n-1].ID, Top: all[0].Created, Full: true}
	m.apply(snap)
}

// stale repeats an earlier snapshot, which a newer one has overtaken.
func (m *machine) stale(t *rapid.T) {
	if len(m.old) == 0 {
		t.Skip("nothing to repeat")
	}
	m.begin()
	snap := rapid.SampledFrom(m.old).Draw(t, "snapshot")
	before := m.state()
	if _, err := m.s.ApplyBalance(t.Context(), snap); !errors.Is(err, mirror.ErrFenced) {
		t.Fatalf("epoch %d again: %v, want ErrFenced", snap.Epoch, err)
	}
	if after := m.state(); after != before {
		t.Fatalf("a fenced commit changed\n%s\nto\n%s", before, after)
	}
}

func (m *machine) event(t *rapid.T) {
	m.events++
	e := updated(m.l.account, fmt.Sprintf("evt_%s_%d", m.l.customer, m.events), m.l.customer)
	if _, err := m.s.RecordEvents(t.Context(), []mirror.Event{e}); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) rows() []mirror.BalanceTransaction {
	page, err := m.s.BalanceTransactions(m.t.Context(), m.l.account, m.l.customer, mirror.Page{Limit: 10_000})
	if err != nil && !errors.Is(err, mirror.ErrNotFound) {
		m.t.Fatal(err)
	}
	return page.Rows
}

func (m *machine) state() string {
	c, err := m.s.Customer(m.t.Context(), m.l.account, m.l.customer)
	if err != nil && !errors.Is(err, mirror.ErrNotFound) {
		m.t.Fatal(err)
	}
	return fmt.Sprintf("%+v %+v", c, m.rows())
}

// check holds at every committed state.
func (m *machine) check(t *rapid.T) {
	rows := m.rows()
	if len(rows) != len(m.held) {
		t.Fatalf("%d rows are held, %d were committed", len(rows), len(m.held))
	}
	if m.last == nil {
		return
	}
	c, err := m.s.Customer(t.Context(), m.l.account, m.l.customer)
	if err != nil || c.Balance != m.last.Customer.Balance || !c.SyncedAt.Equal(latestObserved(m.old)) {
		t.Fatalf("customer %+v, %v, want that of the last commit %+v", c, err, m.last.Customer)
	}
	if !m.proven {
		return
	}
	byCurrency := map[string][]mirror.BalanceTransaction{}
	for _, r := range slices.Backward(rows) {
		byCurrency[r.Currency] = append(byCurrency[r.Currency], r)
	}
	for currency, chain := range byCurrency {
		slices.SortFunc(chain, func(a, b mirror.BalanceTransaction) int { return int(a.Position - b.Position) })
		var balance int64
		for i, r := range chain {
			balance += r.Amount
			if r.Position != int64(i)+1 || balance != r.EndingBalance {
				t.Fatalf("%s in place %d of %s ends at %d, want place %d, %d", r.ID, r.Position, currency, r.EndingBalance, i+1, balance)
			}
		}
		if want := -m.last.Customer.InvoiceCreditBalance[currency]; balance != want {
			t.Fatalf("%s: the chain ends at %d, the customer has %d", currency, balance, want)
		}
	}
}

// latestObserved is how fresh the ledger is: a piece makes nothing fresher.
func latestObserved(list []mirror.BalanceSnapshot) time.Time {
	var at time.Time
	for _, s := range list {
		if s.Joined && s.ObservedAt.After(at) {
			at = s.ObservedAt
		}
	}
	return at
}

// finish reads everything once more: what is held equals Stripe, row for row.
func (m *machine) finish() {
	m.apply(m.l.whole(m.begin()))
	rows := m.rows()
	if len(rows) != len(m.l.rows) {
		m.t.Fatalf("%d rows, want %d", len(rows), len(m.l.rows))
	}
	want := map[string]mirror.BalanceTransaction{}
	for _, r := range m.l.rows {
		want[r.ID] = r
	}
	for _, r := range rows {
		w := want[r.ID]
		if mirror.Digest(r.Raw) != mirror.Digest(w.Raw) || r.Description != w.Description || r.Amount != w.Amount {
			m.t.Fatalf("%+v, want %+v", r, w)
		}
	}
	m.check(m.t)
	waiting, err := m.s.PendingEvents(m.t.Context(), 0, 10_000)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, p := range waiting {
		if p.Target == m.l.target() {
			m.t.Fatalf("%s still waits", p.Event.ID)
		}
	}
}
