package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func historyCases() []testCase {
	return []testCase{
		{"I18_NoChangeWritesNothing", noChangeWritesNothing},
		{"ChainPositionsPerCurrency", positionsPerCurrency},
		{"ChainPositionsWithinOneSecond", positionsWithinOneSecond},
		{"IncrementalSyncContinuesTheChain", incremental},
		{"HistoryInPiecesThenJoined", inPieces},
		{"I5_MissingRowIsRefused", missingRow},
		{"I5_ChangedFieldIsRefused", changedField},
		{"I5_CreatedMovedOutOfTheWindowIsRefused", movedCreated},
		{"I2_DisprovedUnlessAccepted", disproved},
		{"MetadataEditUpdatesOnlyTheRow", metadataEdit},
		{"I1_RowWithoutDigestIsWrittenAnew", emptyDigest},
		{"I13_TombstoneKeepsTheHistory", tombstoneKeeps},
		{"DeletedWhenTheEventSays", deletedWhenTheEventSays},
		{"TombstoneOfAnUnknownCustomer", tombstoneUnknown},
		{"ReturnAfterTombstone", returnAfterTombstone},
		{"CurrencyChange", currencyChange},
		{"LargeHistoryInOneCommit", largeHistory},
	}
}

// list reads a customer's whole list in one page.
func list(t *testing.T, s mirror.Store, account, customer string) mirror.Slice[mirror.BalanceTransaction] {
	t.Helper()
	page, err := s.BalanceTransactions(t.Context(), account, customer, mirror.Page{Limit: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// requireChain proves what is held: every link of every currency closes, and the
// ends are the customer's balances (I2).
func requireChain(t *testing.T, s mirror.Store, l *ledger) {
	t.Helper()
	page := list(t, s, l.account, l.customer)
	if len(page.Rows) != len(l.rows) {
		t.Fatalf("%d rows are held, want %d", len(page.Rows), len(l.rows))
	}
	want := map[string]mirror.BalanceTransaction{}
	for _, r := range l.rows {
		want[r.ID] = r
	}
	byCurrency := map[string][]mirror.BalanceTransaction{}
	for _, r := range page.Rows {
		requireRow(t, r, want[r.ID])
		byCurrency[r.Currency] = append(byCurrency[r.Currency], r)
	}
	for currency, rows := range byCurrency {
		slices.SortFunc(rows, func(a, b mirror.BalanceTransaction) int { return int(a.Position - b.Position) })
		var balance int64
		for i, r := range rows {
			if r.Position != int64(i)+1 {
				t.Fatalf("%s: position %d at place %d", r.ID, r.Position, i+1)
			}
			if balance += r.Amount; balance != r.EndingBalance {
				t.Fatalf("%s: the chain breaks: %d, ending balance %d", r.ID, balance, r.EndingBalance)
			}
		}
		if balance != l.balances[currency] {
			t.Fatalf("%s: the chain ends at %d, want %d", currency, balance, l.balances[currency])
		}
	}
	c, err := s.Customer(t.Context(), l.account, l.customer)
	noErr(t, err)
	if c.Balance != l.balances[l.currency] {
		t.Fatalf("balance %d, want %d", c.Balance, l.balances[l.currency])
	}
}

// requireRow compares everything but the position.
func requireRow(t *testing.T, got, want mirror.BalanceTransaction) {
	t.Helper()
	if mirror.Digest(got.Raw) != mirror.Digest(want.Raw) || mirror.Digest(got.Metadata) != mirror.Digest(want.Metadata) {
		t.Fatalf("%s: raw %s, metadata %s, want %s, %s", got.ID, got.Raw, got.Metadata, want.Raw, want.Metadata)
	}
	if !got.Created.Equal(want.Created) || got.Created.Location() != time.UTC {
		t.Fatalf("%s: created %v, want %v", got.ID, got.Created, want.Created)
	}
	got.Position, got.Raw, got.Metadata, got.Created = want.Position, want.Raw, want.Metadata, want.Created
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Fatalf("got %+v\nwant %+v", got, want)
	}
}

func noChangeWritesNothing(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -500)
	l.add("usd", 300)
	l.sync(t, h)
	before := h.changes(t)
	stamps := h.stamps(t)
	for range 3 {
		if a := l.sync(t, h); a.Changed() || len(a.Findings) > 0 || len(a.Answered) > 0 {
			t.Fatalf("a sync without news: %+v", a)
		}
	}
	if got := h.changes(t); got != before {
		t.Fatalf("%d change records, want %d", got, before)
	}
	if got := h.stamps(t); got != stamps {
		t.Fatalf("rows were written: %s, want %s", got, stamps)
	}
}

// stamps sums up when the mirrored rows were last written.
func (h *Harness) stamps(t *testing.T) string {
	t.Helper()
	if h.Query == nil {
		return ""
	}
	return fmt.Sprint(h.rows(t, `
SELECT max(synced_at) FROM customers UNION ALL
SELECT max(synced_at) FROM customer_balances UNION ALL
SELECT max(synced_at) FROM customer_balance_transactions UNION ALL
SELECT max(synced_at) FROM credit_grants UNION ALL
SELECT max(synced_at) FROM credit_balance_transactions UNION ALL
SELECT max(synced_at) FROM credit_balance_summaries`))
}

func positionsPerCurrency(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for i := range 12 {
		l.add([]string{"eur", "usd", "jpy"}[i%3], int64(-100*i+7))
	}
	a := l.sync(t, h)
	if a.Inserted != 13 || a.Updated != 0 {
		t.Fatalf("%+v, want 13 inserted: 12 rows and the customer", a)
	}
	requireChain(t, h, l)
	if n := h.number(t, `SELECT count(*) FROM customer_balances WHERE customer = 'cus_A'`); n != 3 && n != -1 {
		t.Fatalf("%d balances, want one per currency", n)
	}
}

func positionsWithinOneSecond(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -500)
	for i := range 6 {
		l.addNow("eur", int64(i*37-90))
		l.addNow("usd", int64(-i))
	}
	snap := l.whole(begin(t, h, l.target()))
	// Stripe promises no order within a second: give the worst one.
	slices.Reverse(snap.Windows[0].Rows)
	applyBalance(t, h, snap)
	requireChain(t, h, l)
}

func incremental(t *testing.T, h *Harness) {
	l := newLedger("acct_1", "cus_A")
	for i := range 5 {
		l.add("eur", int64(-i-1))
	}
	l.sync(t, h)
	for i := range 8 {
		l.add([]string{"eur", "usd"}[i%2], int64(10+i))
		l.addNow("eur", -3)
		st := begin(t, h, l.target())
		if !st.HistoryComplete || !st.CustomerHeld || st.Disproved || st.Walk.InProgress() {
			t.Fatalf("state %+v", st)
		}
		if newest := l.rows[len(l.rows)-3].Created; !st.CompleteTo.Equal(newest) {
			t.Fatalf("complete to %v, want %v", st.CompleteTo, newest)
		}
		if a := applyBalance(t, h, l.snapshot(st, 4)); a.Inserted != 2 || a.Updated != 1 {
			t.Fatalf("%+v, want 2 inserted and the customer updated", a)
		}
		requireChain(t, h, l)
	}
}

func inPieces(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for i := range 10 {
		l.add([]string{"eur", "usd"}[i%2], int64(i+1))
	}
	all := l.newest(10)
	top := all[0].Created
	piece := func(from, to int) mirror.BalanceSnapshot {
		snap := l.whole(begin(t, h, l.target()))
		snap.Windows = []mirror.Window[mirror.BalanceTransaction]{
			{Rows: all[from:to], FromHead: from == 0, ToEnd: to == len(all)},
		}
		snap.Joined, snap.Full = to == len(all), to == len(all)
		if !snap.Joined {
			snap.Walk = mirror.Walk{Cursor: all[to-1].ID, Top: top, Full: true}
		}
		return snap
	}
	applyBalance(t, h, piece(0, 4))
	st := begin(t, h, l.target())
	if st.HistoryComplete || st.Walk.Cursor != all[3].ID || !st.Walk.Top.Equal(top) || !st.Walk.Full {
		t.Fatalf("state after the first piece: %+v", st)
	}
	for _, r := range list(t, h, "", "cus_A").Rows {
		if r.Position != 0 {
			t.Fatalf("%s has position %d before the pieces join", r.ID, r.Position)
		}
	}
	applyBalance(t, h, piece(4, 7))
	last := piece(7, 10)
	last.Windows[0].FromHead = false
	applyBalance(t, h, last)
	if st := begin(t, h, l.target()); !st.HistoryComplete || st.Walk.InProgress() || !st.CompleteTo.Equal(top) {
		t.Fatalf("state at the end: %+v", st)
	}
	requireChain(t, h, l)
}

// requireRefused applies a snapshot that must be refused and proves that it left
// nothing behind.
func requireRefused(t *testing.T, h *Harness, snap mirror.BalanceSnapshot, want error) {
	t.Helper()
	changes, stamps := h.changes(t), h.stamps(t)
	rows := fmt.Sprint(list(t, h, snap.Target.Account, snap.Target.ID))
	state := h.syncState(t)
	if _, err := h.ApplyBalance(t.Context(), snap); !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	if h.changes(t) != changes || h.stamps(t) != stamps || h.syncState(t) != state {
		t.Fatal("a refused snapshot wrote something")
	}
	if got := fmt.Sprint(list(t, h, snap.Target.Account, snap.Target.ID)); got != rows {
		t.Fatalf("a refused snapshot changed the list: %s, want %s", got, rows)
	}
}

// syncState is all of sync_state as text.
func (h *Harness) syncState(t *testing.T) string {
	t.Helper()
	if h.Query == nil {
		return ""
	}
	return fmt.Sprint(h.rows(t, `SELECT account, customer, scope, epoch, applied_epoch, observed_at, complete_to,
walk_cursor, walk_top, synced_at FROM sync_state ORDER BY account, customer, scope`))
}

func missingRow(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 4 {
		l.add("eur", -100)
	}
	l.sync(t, h)
	snap := l.whole(begin(t, h, l.target()))
	snap.Windows[0].Rows = slices.Delete(slices.Clone(snap.Windows[0].Rows), 1, 2)
	requireRefused(t, h, snap, mirror.ErrLedgerRewritten)
	snap.AcceptDisproof = true
	requireRefused(t, h, snap, mirror.ErrLedgerRewritten)
	requireChain(t, h, l)
}

func changedField(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 3 {
		l.add("eur", -100)
	}
	l.sync(t, h)
	for name, edit := range map[string]func(*mirror.BalanceTransaction){
		"amount":         func(r *mirror.BalanceTransaction) { r.Amount++ },
		"ending_balance": func(r *mirror.BalanceTransaction) { r.EndingBalance++ },
		"currency":       func(r *mirror.BalanceTransaction) { r.Currency = "usd" },
		"type":           func(r *mirror.BalanceTransaction) { r.Type = "initial" },
		"created":        func(r *mirror.BalanceTransaction) { r.Created = r.Created.Add(time.Second) },
	} {
		snap := l.whole(begin(t, h, l.target()))
		snap.AcceptDisproof = true
		edit(&snap.Windows[0].Rows[1])
		t.Log(name)
		requireRefused(t, h, snap, mirror.ErrLedgerRewritten)
	}
	requireChain(t, h, l)
}

func movedCreated(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 5 {
		l.add("eur", -100)
	}
	l.sync(t, h)
	// The oldest row comes back as if it were new: its place is not among the held
	// rows that the window is compared with.
	snap := l.snapshot(begin(t, h, l.target()), 2)
	moved := l.rows[0]
	moved.Created = l.now
	snap.Windows[0].Rows = append([]mirror.BalanceTransaction{moved}, snap.Windows[0].Rows...)
	snap.AcceptDisproof = true
	requireRefused(t, h, snap, mirror.ErrLedgerRewritten)
}

func disproved(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	l.add("eur", -50)
	snap := l.whole(begin(t, h, l.target()))
	snap.Customer.Balance, snap.Customer.InvoiceCreditBalance = -999, map[string]int64{"eur": 999}
	snap.Customer.Raw = mustJSON(map[string]any{"id": "cus_A", "balance": -999, "currency": "eur"})
	requireRefused(t, h, snap, mirror.ErrDisproved)
	snap.AcceptDisproof = true
	a := applyBalance(t, h, snap)
	if len(a.Findings) != 1 || a.Findings[0].Kind != mirror.DriftChainGap || a.Inserted != 1 {
		t.Fatalf("an accepted disproof: %+v", a)
	}
	totals, err := h.Totals(t.Context())
	noErr(t, err)
	if totals.DriftOpen[mirror.DriftChainGap] != 1 || totals.DriftAmount["eur"] != 849 {
		t.Fatalf("drift %v, %v, want one chain_gap of 849", totals.DriftOpen, totals.DriftAmount)
	}
	st := begin(t, h, l.target())
	if !st.Disproved {
		t.Fatal("the state does not tell of the disproof")
	}
	again := snap
	again.Epoch = st.Epoch
	if a := applyBalance(t, h, again); len(a.Findings) != 0 || a.Changed() {
		t.Fatalf("the same disproof once more: %+v, want nothing new", a)
	}
	l.sync(t, h) // the whole history, which closes
	totals, err = h.Totals(t.Context())
	noErr(t, err)
	if len(totals.DriftOpen) != 0 {
		t.Fatalf("drift stays open after proof: %v", totals.DriftOpen)
	}
	if n := h.number(t, `SELECT count(*) FROM drift_findings WHERE repaired_at IS NOT NULL`); n != 1 && n != -1 {
		t.Fatalf("%d repaired findings, want 1", n)
	}
	requireChain(t, h, l)
}

func metadataEdit(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 3 {
		l.add("eur", -100)
	}
	l.sync(t, h)
	before := h.changes(t)
	l.rows[1].Metadata, l.rows[1].Description = []byte(`{"ticket":"4711"}`), "edited"
	l.render(1)
	if a := l.sync(t, h); a.Updated != 1 || a.Inserted != 0 {
		t.Fatalf("%+v, want one update", a)
	}
	requireChain(t, h, l)
	if got := h.changes(t); got != before+1 && got != -1 { // findings are not counted
		t.Fatalf("%d change records, want %d", got, before+1)
	}
}

// deletedWhenTheEventSays: the time of a deletion is that of its event, whichever of
// event and burial comes first, and the earlier one of two.
func deletedWhenTheEventSays(t *testing.T, h *Harness) {
	at := func(customer string) string {
		return h.rows(t, `SELECT deleted_at FROM customers WHERE id = '`+customer+`'`)[0][0]
	}
	for i, order := range []string{"inbox", "known", "late", "none"} {
		l := newLedger("", fmt.Sprintf("cus_d%d", i))
		l.add("eur", -100)
		l.sync(t, h)
		e := mirror.Event{
			ID: fmt.Sprintf("evt_d%d", i), Type: mirror.EventCustomerDeleted, Customer: l.customer, Created: epoch0.Add(time.Minute),
		}
		record := func() {
			_, err := h.RecordEvents(t.Context(), []mirror.Event{e})
			noErr(t, err)
		}
		apply := func(refs ...mirror.EventRef) {
			st := begin(t, h, l.target())
			_, err := h.ApplyTombstone(t.Context(), mirror.Tombstone{
				Target: l.target(), Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: epoch0.Add(time.Hour), Events: refs,
			})
			noErr(t, err)
		}
		switch order {
		case "inbox":
			record()
			apply()
		case "known":
			apply(mirror.EventRef{ID: e.ID, Type: e.Type, Created: e.Created})
		case "late":
			apply()
			record()
			apply()
		case "none":
			apply()
		}
		want := "2026-03-01T12:01:00"
		if order == "none" {
			want = "2026-03-01T13:00:00"
		}
		if got := strings.Replace(at(l.customer), " ", "T", 1); !strings.HasPrefix(got, want) {
			t.Errorf("%s: deleted at %s, want %s", order, got, want)
		}
	}
}

// bury applies a tombstone.
func bury(t *testing.T, s mirror.Store, target mirror.Target) (mirror.Tombstone, mirror.Applied) {
	t.Helper()
	st := begin(t, s, target)
	d := mirror.Tombstone{
		Target: target, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: epoch0.Add(time.Hour),
	}
	a, err := s.ApplyTombstone(t.Context(), d)
	noErr(t, err)
	return d, a
}

func tombstoneKeeps(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.add("eur", -50)
	l.sync(t, h)
	old := l.whole(begin(t, h, l.target()))
	d, a := bury(t, h, l.target())
	if a.Updated != 1 || a.Inserted != 0 {
		t.Fatalf("the tombstone: %+v, want one update", a)
	}
	c, err := h.Customer(t.Context(), "", "cus_A")
	noErr(t, err)
	if !c.Deleted || c.Balance != 0 || c.InvoiceCreditBalance != nil || !strings.Contains(string(c.Raw), "-150") || !c.SyncedAt.Equal(d.ObservedAt) {
		t.Fatalf("the customer: %+v", c)
	}
	if n := h.number(t, `SELECT count(*) FROM customer_balances WHERE balance <> 0`); n > 0 {
		t.Fatalf("the deleted customer still holds %d balances", n)
	}
	if rows := list(t, h, "", "cus_A").Rows; len(rows) != 2 {
		t.Fatalf("%d rows are left of the history, want 2", len(rows))
	}
	if a, err := h.ApplyTombstone(t.Context(), d); err != nil || a.Changed() {
		t.Fatalf("the same tombstone once more: %+v, %v", a, err)
	}
	if _, err := h.ApplyBalance(t.Context(), old); !errors.Is(err, mirror.ErrFenced) {
		t.Fatalf("an older sync after the tombstone: %v, want ErrFenced", err)
	}
	stale := d
	stale.Epoch--
	if _, err := h.ApplyTombstone(t.Context(), stale); !errors.Is(err, mirror.ErrFenced) {
		t.Fatalf("an older tombstone: %v, want ErrFenced", err)
	}
	st := begin(t, h, l.target())
	if !st.CustomerHeld || !st.HistoryComplete || st.Walk.InProgress() {
		t.Fatalf("state %+v", st)
	}
	totals, err := h.Totals(t.Context())
	noErr(t, err)
	if totals.Customers != 0 || totals.Balances["eur"] != 0 {
		t.Fatalf("a deleted customer counts: %+v", totals)
	}
	ids, err := h.Unsynced(t.Context(), "", mirror.ScopeBalance, mirror.Unread{}, 10)
	if err != nil || len(ids) != 0 {
		t.Fatalf("unsynced %v, %v, want none", ids, err)
	}
}

func tombstoneUnknown(t *testing.T, h *Harness) {
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_Gone"}
	if _, a := bury(t, h, target); a.Changed() {
		t.Fatalf("the tombstone of an unknown customer: %+v", a)
	}
	if _, err := h.Customer(t.Context(), "", "cus_Gone"); !errors.Is(err, mirror.ErrNotFound) {
		t.Fatalf("customer: %v, want ErrNotFound", err)
	}
	if _, err := h.BalanceTransactions(t.Context(), "", "cus_Gone", mirror.Page{Limit: 1}); !errors.Is(err, mirror.ErrNotFound) {
		t.Fatalf("list: %v, want ErrNotFound", err)
	}
	at, err := h.ObservedAt(t.Context(), []mirror.Target{target})
	if err != nil || at[0].IsZero() {
		t.Fatalf("observed at %v, %v", at, err)
	}
	gone := newLedger("", "cus_Gone").object()
	if n, err := h.InsertCustomers(t.Context(), "", []mirror.Customer{gone}); err != nil || n != 0 {
		t.Fatalf("an old page of the first copy brought it back: %d, %v", n, err)
	}
}

func returnAfterTombstone(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	bury(t, h, l.target())
	if a := l.sync(t, h); a.Updated != 1 {
		t.Fatalf("%+v, want the customer updated", a)
	}
	c, err := h.Customer(t.Context(), "", "cus_A")
	if err != nil || c.Deleted {
		t.Fatalf("%+v, %v, want it alive", c, err)
	}
}

func currencyChange(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	l.currency = "usd"
	l.add("usd", -70)
	l.sync(t, h)
	requireChain(t, h, l)
	totals, err := h.Totals(t.Context())
	if err != nil || totals.Balances["eur"] != -100 || totals.Balances["usd"] != -70 {
		t.Fatalf("balances %v, %v", totals.Balances, err)
	}
}

func largeHistory(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for i := range 3000 {
		l.addNow([]string{"eur", "usd"}[i%2], int64(i%91-40))
		if i%3 == 0 {
			l.now = l.now.Add(time.Second)
		}
	}
	if a := l.sync(t, h); a.Inserted != 3001 {
		t.Fatalf("%d inserted, want 3001", a.Inserted)
	}
	requireChain(t, h, l)
}

// emptyDigest: what somebody changed by SQL comes back from Stripe once the digest,
// by which a row is taken for unchanged, is taken away.
func emptyDigest(t *testing.T, h *Harness) {
	if h.Exec == nil {
		t.Skip("this driver's test offers no SQL")
	}
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.add("eur", 40)
	l.sync(t, h)
	c := newCredits("", "cus_A")
	c.move(c.grant("eur", 1000).ID, "eur", -300)
	c.sync(t, h)
	held, err := h.Customer(t.Context(), "", "cus_A")
	noErr(t, err)
	const later = `'2031-01-02T03:04:05.000000Z'`
	for _, statement := range []string{
		`UPDATE customers SET balance = 7, currency = 'usd', invoice_credit_balance = '{"eur":1}', created = ` + later + `, livemode = true,
test_clock = 'x', customer_account = 'x', digest = '', raw = '{}'`,
		`UPDATE customer_balance_transactions SET invoice = 'x', credit_note = 'x', checkout_session = 'x', description = 'x', metadata = '{"x":"1"}',
digest = '', raw = '{}'`,
		`UPDATE credit_grants SET name = 'x', category = 'x', amount_type = 'x', applicability_config = '{"x":1}', priority = 7, effective_at = ` + later + `,
expires_at = NULL, voided_at = ` + later + `, created = ` + later + `, updated = ` + later + `, livemode = true, test_clock = 'x', metadata = '{"x":"1"}',
digest = '', raw = '{}'`,
		`UPDATE credit_balance_transactions SET credit_type = 'x', debit_type = 'x', invoice = 'x', invoice_line_item = 'x', effective_at = ` + later + `,
test_clock = 'x', digest = '', raw = '{}'`,
	} {
		noErr(t, h.Exec(t.Context(), statement))
	}
	l.sync(t, h)
	c.sync(t, h)
	requireChain(t, h, l)
	requireCredits(t, h, c)
	again, err := h.Customer(t.Context(), "", "cus_A")
	again.SyncedAt = held.SyncedAt
	if err != nil || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", held) {
		t.Fatalf("%+v, %v, want %+v", again, err, held)
	}
}
