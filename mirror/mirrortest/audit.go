package mirrortest

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"
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
		for i := range 4 {
			pieces.add("eur", int64(i*i))
		}
		piece := pieces.snapshot(begin(t, s, pieces.target()), 12) // of a first copy
		rows := piece.Windows[0].Rows
		piece.Joined, piece.Full = false, false
		piece.Walk = mirror.Walk{Cursor: rows[11].ID, Top: rows[0].Created, Full: true}
		applyBalance(t, s, piece)

		newLedger(account, "cus_zero").sync(t, s)
		populateOdd(t, s, account)
	}
}

// populateOdd makes a customer of all that Stripe may send and columns hold in
// another way than the JSON: what has no value, members that a version of the API
// does not have, escaped and unstorable characters, amounts that are no money.
func populateOdd(t *testing.T, s mirror.Store, account string) {
	t.Helper()
	l := newLedger(account, "cus_odd")
	l.testClock, l.owner = "clock_1", "acct_owner"
	l.extra = map[string]any{"name": "of a customer that is kept whole", "email": nil}
	l.add("eur", -10) // nothing but what there always is
	r := &l.rows[0]
	r.Description = ""
	r.Raw = json.RawMessage(fmt.Sprintf(`{"object":"customer_balance_transaction","id":%q,"customer":%q,"amount":-10,"ending_balance":-10,`+
		`"currency":"eur","type":"adjustment","created":%d,"livemode":false,"metadata":null}`, r.ID, l.customer, r.Created.Unix()))
	l.add("eur", 4) // everything
	r = &l.rows[1]
	r.Type, r.Invoice, r.CreditNote, r.CheckoutSession, r.Livemode = "type_of_the_future", "in_9", "cn_9", "cs_9", true
	r.Description, r.Metadata = "plain", json.RawMessage(`{"b":"1","a":"2"}`)
	l.render(1)
	l.add("eur", 1) // what is written in another way
	r = &l.rows[2]
	r.Description, r.Metadata = "a\x00b \"ü\" \\ 🙂\n\uFFFD", json.RawMessage(`{"k\u0000":"a\u0000b","é":"\/"}`)
	r.Raw = json.RawMessage(fmt.Sprintf(`{"id":%q,"customer":%q,"object":"customer_balance_transaction","amount":1,"ending_balance":-5,`+
		`"description":"a\u0000b \"\u00fc\" \\ \ud83d\ude42\n\ud83d","metadata":%s,"invoice":null,"credit_note":null,"checkout_session":null,`+
		`"currency":"eur","type":"adjustment","created":%d,"livemode":false,"z":[{"id":"other","amount":7}]}`, r.ID, l.customer, r.Metadata, r.Created.Unix()))
	l.sync(t, s)
	l.add("usd", 7) // written through: the customer's JSON is brought along here
	_, err := s.ApplyWrite(t.Context(), written(l))
	noErr(t, err)

	c := newCredits(account, "cus_odd")
	id := c.grant("eur", 20).ID // nothing but what there always is
	g := &c.grants[0]
	g.Name, g.Priority, g.EffectiveAt, g.ExpiresAt = "", -1, time.Time{}, time.Time{}
	g.ApplicabilityConfig = json.RawMessage(`{"scope":{"prices":[{"id":"price_1"},{"id":null}]}}`)
	c.render(0)
	g.Raw = edited(g.Raw, func(raw map[string]any) { delete(raw, "priority"); delete(raw, "name"); delete(raw, "test_clock") })
	c.move(id, "eur", -5)
	back := c.move(id, "eur", 5) // everything
	back.CreditType, back.Invoice, back.InvoiceLineItem = "credits_application_invoice_voided", "in_1", "il_1"
	back.TestClock, back.Livemode = "clock_1", true
	c.renderRow(len(c.rows) - 1)
	g = c.grant("eur", 10)
	g.TestClock, g.Livemode, g.VoidedAt, g.Metadata = "clock_1", true, c.now, json.RawMessage(`{"a":"1"}`)
	c.render(1)
	g = c.grant("eur", 0) // of a type that is not known: it and its row have no amount
	g.AmountType, g.Currency = "custom_pricing_unit", ""
	g.Raw = edited(g.Raw, func(raw map[string]any) {
		raw["amount"] = map[string]any{"type": "custom_pricing_unit", "monetary": nil, "custom_pricing_unit": map[string]any{"value": "7"}}
	})
	row := &c.rows[len(c.rows)-1]
	row.Currency = ""
	row.Raw = edited(row.Raw, func(raw map[string]any) {
		raw["credit"] = map[string]any{"type": "credits_granted", "amount": map[string]any{"type": "custom_pricing_unit"}}
	})
	c.sync(t, s)
}

// RunAudit is the specification of mirror.Auditor. open returns a harness over a
// new and empty database whose store is an Auditor.
func RunAudit(t *testing.T, open func(t *testing.T) mirror.Store) {
	populated := func(t *testing.T) mirror.Store {
		h := harnessOf(open(t))
		Populate(t, h)
		return h
	}
	runCases(t, populated, []testCase{
		{"StreamsTellTheTables", auditStreams},
		{"RangesAreDisjointAndWhole", auditRanges},
		{"OneSnapshot", auditSnapshot},
		{"Filters", auditFilters},
		{"StreamsMayEndEarly", auditEarly},
		{"GrantOfAnybody", auditGrantLookup},
		{"I1_AnyColumnThatDiffers", auditColumns},
	})
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

// audited is everything that an audit returns, in its order.
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
		}), `SELECT account, customer, id, currency, coalesce(amount, 0) FROM credit_grants ORDER BY account, customer, id`},
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
	if deleted != 2 || complete != 14 {
		t.Errorf("%d customers are deleted and %d histories complete, want 2 and 14", deleted, complete)
	}
	for _, r := range got.placed {
		if r.Created.Before(epoch0) || r.Created.After(epoch0.Add(time.Hour)) || r.Created.Location() != time.UTC {
			t.Errorf("%s was created at %s", r.ID, r.Created)
		}
	}
}

// told formats rows as a query's values are written.
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
		if len(got.customers) != 7 || got.customers[0].Account != *account || got.customers[6].Account != *account {
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

// Flipped is SQL for another value than the column holds.
func Flipped(c mirror.Column) string {
	name := `"` + c.Name + `"`
	switch c.Kind {
	case mirror.KindInt:
		return "coalesce(" + name + ", 0) + 1"
	case mirror.KindBool:
		return "CASE WHEN " + name + " THEN false ELSE true END"
	case mirror.KindTime:
		return "'" + flippedTime + "'"
	case mirror.KindJSON:
		return "'" + flippedJSON + "'"
	}
	return "coalesce(" + name + ", '') || 'x'"
}

const (
	flippedTime = "2031-01-02T03:04:05.000000Z"
	flippedJSON = `{"flipped":1}`
)

// auditColumns: a store may compare the JSON itself, but of a row in which any
// column differs the JSON comes along, and what the column holds.
func auditColumns(t *testing.T, h *Harness) {
	if h.Exec == nil {
		t.Skip("this driver's test offers no SQL")
	}
	exec := func(statement string) { noErr(t, h.Exec(t.Context(), statement)) }
	// Rows as an audit returns them, by id.
	told := func() map[string]any {
		all, rows := audit(t, h, mirror.AuditFilter{}, 1), map[string]any{}
		for _, r := range slices.Concat(all.placed, all.unplaced) {
			rows[r.Account+r.ID] = r
		}
		for _, r := range all.customers {
			rows[r.Account+r.Customer] = r
		}
		for _, r := range all.grants {
			rows[r.Account+r.ID] = r
		}
		for _, r := range all.credits {
			rows[r.Account+r.ID] = r
		}
		return rows
	}
	samples := map[string][]string{
		"customers": {"cus_odd"}, "customer_balance_transactions": {"cbtxn_odd00002"}, "credit_grants": {"credgr_odd005"},
		"credit_balance_transactions": {"cbtxn_odd004", "cbtxn_odd003"}, // a credit and a debit
	}
	ours := []string{"account", "synced_at", "digest", "chain_position"} // of which the JSON knows nothing
	for _, table := range mirror.Tables() {
		exec(`CREATE TABLE original AS SELECT * FROM ` + table.Name)
		for _, c := range table.Columns {
			if slices.Contains(ours, c.Name) || table.Name == "credit_balance_transactions" && c.Name == "customer" {
				continue // the JSON of a credit transaction names its grant alone
			}
			for _, id := range samples[table.Name] {
				exec(fmt.Sprintf(`UPDATE %s SET "%s" = %s WHERE account = 'acct_1' AND id = '%s'`, table.Name, c.Name, Flipped(c), id))
				key := "acct_1" + id
				if c.Name == "id" {
					key += "x"
				}
				row, ok := told()[key]
				if !ok {
					t.Fatalf("%s.%s of %s: the row is not told", table.Name, c.Name, id)
				}
				if wrong := wrongColumn(row, c); wrong != "" {
					t.Errorf("%s.%s of %s is changed: %s: %+v", table.Name, c.Name, id, wrong, row)
				}
				exec(`DELETE FROM ` + table.Name)
				exec(`INSERT INTO ` + table.Name + ` SELECT * FROM original`)
			}
		}
		exec(`DROP TABLE original`)
	}
}

// wrongColumn says what is wrong with an audited row in which a column is flipped.
func wrongColumn(row any, c mirror.Column) string {
	fields := reflect.ValueOf(row)
	raw := fields.FieldByName("AuditJSON").Interface().(mirror.AuditJSON)
	if raw.Same || raw.Raw == "" {
		return "its JSON does not come along"
	}
	name := ""
	for part := range strings.SplitSeq(c.Name, "_") {
		name += strings.ToUpper(part[:1]) + part[1:]
	}
	field := fields.FieldByName(name)
	if !field.IsValid() && name != "Id" {
		return "there is no field for it"
	}
	if !field.IsValid() || field.Kind() != reflect.String {
		return "" // what other streams and tests compare
	}
	held, right := field.String(), false
	switch c.Kind {
	case mirror.KindTime:
		want, err := time.Parse(time.RFC3339, flippedTime)
		got, unreadable := time.Parse(time.RFC3339, held)
		right = err == nil && unreadable == nil && got.Equal(want)
	case mirror.KindJSON:
		right = string(mirror.Canonical(json.RawMessage(held))) == flippedJSON
	case mirror.KindBool:
		right = held == "true" || held == "false"
	case mirror.KindInt:
		_, err := strconv.Atoi(held)
		right = err == nil
	case mirror.KindText:
		right = strings.HasSuffix(held, "x")
	}
	if !right {
		return "what it holds is not told"
	}
	return ""
}
