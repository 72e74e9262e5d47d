package mirrortest

import (
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// Populate makes a clean mirror by real syncs: customers of two accounts with
// balances in several currencies and credits, rows of one second, a history that
// is read in pieces, one that only the first copy has seen, and deleted customers.
func Populate(t *testing.T, s mirror.Store) {
	t.Helper()
	for _, account := range []string{"", "acct_1"} {
		a := newLedger(account, "cus_a")
		for _, amount := range []int64{-500, 200, -100, 0, -50, 25} {
			a.add("eur", amount)
		}
		a.addNow("eur", -7)
		a.addNow("eur", 3)
		for _, amount := range []int64{-900, 400, 10} {
			a.add("usd", amount)
		}
		a.sync(t, s)
		a.add("eur", -11)
		applyBalance(t, s, a.snapshot(begin(t, s, a.target()), 2))

		b := newLedger(account, "cus_b")
		b.add("eur", -4200)
		b.add("eur", 100)
		b.add("eur", 300)
		b.sync(t, s)

		credits := newCredits(account, "cus_b")
		first := credits.grant("eur", 1000).ID
		credits.move(first, "eur", -300)
		second := credits.grant("eur", 50).ID
		credits.move(second, "eur", -50)
		third := credits.grant("usd", 700).ID
		credits.move(third, "usd", -1)
		credits.sync(t, s)

		gone := newLedger(account, "cus_gone")
		gone.add("eur", -70)
		gone.add("eur", 20)
		gone.sync(t, s)
		st := begin(t, s, gone.target())
		_, err := s.ApplyTombstone(t.Context(), mirror.Tombstone{Target: gone.target(), Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: gone.now})
		noErr(t, err)

		fresh := newLedger(account, "cus_new")
		fresh.add("eur", -5)
		_, err = s.InsertCustomers(t.Context(), account, []mirror.Customer{fresh.object()})
		noErr(t, err)

		pieces := newLedger(account, "cus_pieces")
		for i := range 8 {
			pieces.add("eur", int64(-i))
		}
		pieces.sync(t, s)
		for i := range 8 {
			pieces.add("eur", int64(i*i))
		}
		piece := pieces.snapshot(begin(t, s, pieces.target()), 4)
		rows := piece.Windows[0].Rows
		piece.Joined, piece.Full = false, false
		piece.Walk = mirror.Walk{Cursor: rows[3].ID, Top: rows[0].Created, Full: true}
		applyBalance(t, s, piece)

		newLedger(account, "cus_zero").sync(t, s)
	}
}

// RunAudit is the specification of mirror.Auditor. open returns a harness over a
// new and empty database whose store is an Auditor.
func RunAudit(t *testing.T, open func(t *testing.T) mirror.Store) {
	for _, c := range []testCase{
		{"StreamsTellTheTables", auditStreams},
		{"RangesAreDisjointAndWhole", auditRanges},
		{"OneSnapshot", auditSnapshot},
		{"Filters", auditFilters},
		{"StreamsMayEndEarly", auditEarly},
		{"GrantOfAnybody", auditGrantLookup},
		{"RawWhereItDiffers", auditRaw},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			h, ok := s.(*Harness)
			if !ok {
				h = &Harness{Store: s}
			}
			Populate(t, h)
			c.run(t, h)
		})
	}
}

func beginAudit(t *testing.T, h *Harness, f mirror.AuditFilter, readers int) mirror.Audit {
	t.Helper()
	auditor, ok := h.Store.(mirror.Auditor)
	if !ok {
		t.Fatal("the store is no auditor")
	}
	a, err := auditor.Audit(t.Context(), f, readers)
	noErr(t, err)
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// audit reads everything from an audit of its own.
func audit(t *testing.T, h *Harness, f mirror.AuditFilter, readers int) audited {
	t.Helper()
	auditor, ok := h.Store.(mirror.Auditor)
	if !ok {
		t.Fatal("the store is no auditor")
	}
	a, err := auditor.Audit(t.Context(), f, readers)
	noErr(t, err)
	defer func() { noErr(t, a.Close()) }()
	return readAudit(t, a)
}

// audited is everything that an audit tells, in its order.
type audited struct {
	placed, unplaced  []mirror.AuditTransaction
	customers         []mirror.AuditCustomer
	balances, summary []mirror.AuditBalance
	grants            []mirror.AuditGrant
	credits           []mirror.AuditCredit
	states            []mirror.AuditState
}

func collect[Row any](t *testing.T, into *[]Row, rows iter.Seq2[Row, error]) {
	t.Helper()
	for row, err := range rows {
		noErr(t, err)
		*into = append(*into, row)
	}
}

func readAudit(t *testing.T, a mirror.Audit) audited {
	t.Helper()
	var all audited
	for i := range a.Ranges() {
		noErr(t, a.Range(t.Context(), i, func(l mirror.AuditLedgers) error {
			collect(t, &all.placed, l.Placed)
			collect(t, &all.unplaced, l.Unplaced)
			collect(t, &all.customers, l.Customers)
			collect(t, &all.balances, l.Balances)
			collect(t, &all.summary, l.Summaries)
			collect(t, &all.grants, l.Grants)
			collect(t, &all.credits, l.Credits)
			collect(t, &all.states, l.States)
			return nil
		}))
	}
	return all
}

func auditStreams(t *testing.T, h *Harness) {
	got := audit(t, h, mirror.AuditFilter{}, 2)
	for _, c := range []struct {
		name  string
		lines any
		query string
	}{
		{"placed", told(got.placed, func(r mirror.AuditTransaction) []any {
			return []any{r.Account, r.Customer, r.Currency, r.Position, r.ID, r.Amount, r.EndingBalance}
		}), `SELECT account, customer, currency, chain_position, id, amount, ending_balance FROM customer_balance_transactions
WHERE chain_position IS NOT NULL ORDER BY account, customer, currency, chain_position`},
		{"unplaced", told(got.unplaced, func(r mirror.AuditTransaction) []any {
			return []any{r.Account, r.Customer, r.Currency, r.Position, r.ID, r.Amount, r.EndingBalance}
		}), `SELECT account, customer, currency, 0, id, amount, ending_balance FROM customer_balance_transactions
WHERE chain_position IS NULL ORDER BY account, customer, currency, id`},
		{"customers", told(got.customers, func(c mirror.AuditCustomer) []any {
			return []any{c.Account, c.Customer, c.Balance, c.Currency}
		}), `SELECT account, id, balance, coalesce(currency, '') FROM customers ORDER BY account, id`},
		{"balances", told(got.balances, func(b mirror.AuditBalance) []any {
			return []any{b.Account, b.Customer, b.Currency, b.Balance}
		}), `SELECT account, customer, currency, balance FROM customer_balances ORDER BY account, customer, currency`},
		{"summaries", told(got.summary, func(b mirror.AuditBalance) []any {
			return []any{b.Account, b.Customer, b.Currency, b.Balance}
		}), `SELECT account, customer, currency, ledger_balance FROM credit_balance_summaries ORDER BY account, customer, currency`},
		{"grants", told(got.grants, func(g mirror.AuditGrant) []any {
			return []any{g.Account, g.Customer, g.ID, g.Currency, g.Amount}
		}), `SELECT account, customer, id, currency, amount FROM credit_grants ORDER BY account, customer, id`},
		{"states", told(got.states, func(s mirror.AuditState) []any {
			return []any{s.Account, s.Customer, s.Scope, s.Epoch, s.AppliedEpoch, s.WalkCursor}
		}), `SELECT account, customer, scope, epoch, applied_epoch, walk_cursor FROM sync_state
WHERE scope IN ('balance', 'credits') ORDER BY account, customer, scope`},
	} {
		want := h.rows(t, c.query)
		if !reflect.DeepEqual(c.lines, want) || len(want) == 0 {
			t.Errorf("%s:\n%v\nwant\n%v", c.name, c.lines, want)
		}
	}
	// Rows of one grant come in any order.
	slices.SortFunc(got.credits, func(a, b mirror.AuditCredit) int {
		return slices.Compare([]string{a.Account, a.Customer, a.Grant, a.ID}, []string{b.Account, b.Customer, b.Grant, b.ID})
	})
	credits := told(got.credits, func(c mirror.AuditCredit) []any {
		return []any{c.Account, c.Customer, c.Grant, c.ID, c.Currency, c.Amount}
	})
	want := h.rows(t, `SELECT account, customer, "grant", id, currency, amount FROM credit_balance_transactions ORDER BY account, customer, "grant", id`)
	if !reflect.DeepEqual(credits, want) {
		t.Errorf("credits:\n%v\nwant\n%v", credits, want)
	}
	deleted, complete := 0, 0
	for _, c := range got.customers {
		if c.Deleted {
			deleted++
		}
	}
	for _, s := range got.states {
		if s.HistoryComplete {
			complete++
		}
	}
	if deleted != 2 || complete != 12 {
		t.Errorf("%d customers are deleted and %d histories complete, want 2 and 12", deleted, complete)
	}
	for _, r := range got.placed {
		if r.Created.Before(epoch0) || r.Created.After(epoch0.Add(time.Hour)) || r.Created.Location() != time.UTC {
			t.Errorf("%s was created at %s", r.ID, r.Created)
		}
	}
}

// told writes rows as a query's values are written.
func told[Row any](rows []Row, values func(Row) []any) [][]string {
	out := make([][]string, 0, len(rows))
	for _, r := range rows {
		var line []string
		for _, v := range values(r) {
			line = append(line, fmt.Sprint(v))
		}
		out = append(out, line)
	}
	return out
}

func auditRanges(t *testing.T, h *Harness) {
	one := audit(t, h, mirror.AuditFilter{}, 1)
	a := beginAudit(t, h, mirror.AuditFilter{}, 3)
	if n := a.Readers(); n < 1 || n > 3 {
		t.Fatalf("%d readers, asked for 3", n)
	}
	if many := readAudit(t, a); !reflect.DeepEqual(one, many) {
		t.Fatalf("one reader:\n%v\nthree:\n%v", one, many)
	}
}

func auditSnapshot(t *testing.T, h *Harness) {
	a := beginAudit(t, h, mirror.AuditFilter{}, 2)
	before := readAudit(t, a)
	late := newLedger("", "cus_late")
	late.add("eur", -1)
	late.sync(t, h)
	if after := readAudit(t, a); !reflect.DeepEqual(before, after) {
		t.Fatal("an audit saw what was committed after it began")
	}
	now := audit(t, h, mirror.AuditFilter{}, 2)
	if len(now.customers) != len(before.customers)+1 {
		t.Fatalf("%d customers, want one more than %d", len(now.customers), len(before.customers))
	}
}

func auditFilters(t *testing.T, h *Harness) {
	platform, connected, unknown := "", "acct_1", "acct_2"
	for _, c := range []struct {
		f    mirror.AuditFilter
		keys []mirror.AuditKey
	}{
		{mirror.AuditFilter{Customer: "cus_b"}, []mirror.AuditKey{{Customer: "cus_b"}, {Account: "acct_1", Customer: "cus_b"}}},
		{mirror.AuditFilter{Account: &connected, Customer: "cus_b"}, []mirror.AuditKey{{Account: "acct_1", Customer: "cus_b"}}},
		{mirror.AuditFilter{Account: &platform, Customer: "cus_b"}, []mirror.AuditKey{{Customer: "cus_b"}}},
		{mirror.AuditFilter{Account: &unknown}, nil},
		{mirror.AuditFilter{Customer: "cus"}, nil},
	} {
		got := audit(t, h, c.f, 2)
		var keys []mirror.AuditKey
		for _, customer := range got.customers {
			keys = append(keys, customer.AuditKey)
		}
		if !slices.Equal(keys, c.keys) || len(got.placed) != 3*len(keys) || len(got.credits) != 6*len(keys) || len(got.states) != 2*len(keys) {
			t.Errorf("%+v: %v with %d, %d and %d rows, want %v", c.f, keys, len(got.placed), len(got.credits), len(got.states), c.keys)
		}
	}
	for _, account := range []*string{&platform, &connected} {
		got := audit(t, h, mirror.AuditFilter{Account: account}, 2)
		if len(got.customers) != 6 || got.customers[0].Account != *account || got.customers[5].Account != *account {
			t.Errorf("account %q: %v", *account, got.customers)
		}
	}
}

func auditEarly(t *testing.T, h *Harness) {
	a := beginAudit(t, h, mirror.AuditFilter{}, 1)
	stop := errors.New("enough")
	for range 3 {
		err := a.Range(t.Context(), 0, func(l mirror.AuditLedgers) error {
			next, end := iter.Pull2(l.Customers)
			defer end()
			if c, err, ok := next(); err != nil || !ok || c.Customer != "cus_a" {
				t.Fatalf("the first customer is %+v, %v, %v", c, err, ok)
			}
			for r, err := range l.Placed {
				noErr(t, err)
				if r.Position == 2 {
					break
				}
			}
			if c, err, ok := next(); err != nil || !ok || c.Customer != "cus_b" {
				t.Fatalf("the second customer is %+v, %v, %v", c, err, ok)
			}
			return stop
		})
		if !errors.Is(err, stop) {
			t.Fatalf("the range ends with %v", err)
		}
	}
}

func auditGrantLookup(t *testing.T, h *Harness) {
	a := beginAudit(t, h, mirror.AuditFilter{Customer: "cus_zero"}, 1)
	noErr(t, a.Range(t.Context(), 0, func(l mirror.AuditLedgers) error {
		g, err := l.Grant("acct_1", "credgr_b001")
		if err != nil || g.Account != "acct_1" || g.Customer != "cus_b" || g.Amount != 1000 || g.Currency != "eur" {
			t.Errorf("grant %+v, %v", g, err)
		}
		if _, err := l.Grant("", "credgr_none"); !errors.Is(err, mirror.ErrNotFound) {
			t.Errorf("an unknown grant: %v, want ErrNotFound", err)
		}
		return nil
	}))
}

// auditRaw: a store may compare the JSON itself, but where a column differs the
// JSON comes along.
func auditRaw(t *testing.T, h *Harness) {
	if h.Exec == nil {
		t.Skip("this driver's test offers no SQL")
	}
	for _, statement := range []string{
		`UPDATE customer_balance_transactions SET amount = amount + 1 WHERE id = 'cbtxn_a00002'`,
		`UPDATE customer_balance_transactions SET ending_balance = 7 WHERE id = 'cbtxn_a00003'`,
		`UPDATE customer_balance_transactions SET id = 'cbtxn_other' WHERE id = 'cbtxn_a00004'`,
		`UPDATE credit_balance_transactions SET id = 'cbtxn_b_other' WHERE id = 'cbtxn_b002'`,
		`UPDATE credit_grants SET amount = 3 WHERE id = 'credgr_b001'`,
		`UPDATE customers SET balance = 9 WHERE id = 'cus_a'`,
	} {
		noErr(t, h.Exec(t.Context(), statement))
	}
	all := audit(t, h, mirror.AuditFilter{}, 1)
	raws := map[string]bool{}
	for _, r := range all.placed {
		raws[r.ID] = r.Raw != ""
	}
	for _, r := range all.credits {
		raws[r.ID] = r.Raw != ""
	}
	for _, r := range all.grants {
		raws[r.ID] = r.Raw != ""
	}
	for _, r := range all.customers {
		raws[r.Customer] = r.Raw != ""
	}
	for _, id := range []string{"cbtxn_a00002", "cbtxn_a00003", "cbtxn_other", "cbtxn_b_other", "credgr_b001", "cus_a"} {
		if !raws[id] {
			t.Errorf("the JSON of %s does not come along", id)
		}
	}
}
