package app

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/stripesim"
)

func figures(t *testing.T) {
	t.Helper()
	if os.Getenv("CREDITMIRROR_FIGURES") != "1" {
		t.Skip("takes minutes; set CREDITMIRROR_FIGURES=1 (make figures)")
	}
}

// oneDrift is a way in which the mirror can drift, and the sweep that finds it.
type oneDrift struct {
	sweep, what, kind string
	// plant makes it and returns whose it is.
	plant func(d *drifting) string
	// undo is for what stays open, since no sync deletes a row.
	undo string
}

// adjust changes a balance without an event.
func (d *drifting) adjust(id string, currency string, amounts ...int64) string {
	d.t.Helper()
	if currency == "" {
		currency = d.text(`SELECT currency FROM customers WHERE id = ?`, id)
	}
	for _, a := range amounts {
		if _, err := d.sim.AddBalanceTransaction("", id, stripesim.BalanceChange{Amount: a, Currency: currency}); err != nil {
			d.t.Fatal(err)
		}
	}
	return id
}

// silent plants without events.
func silent(plant func(d *drifting) string) func(d *drifting) string {
	return func(d *drifting) (id string) {
		d.silently(func() { id = plant(d) })
		return id
	}
}

func broken(statement string) func(d *drifting) string {
	return func(d *drifting) string {
		id := d.next()
		d.exec(statement, id)
		return id
	}
}

func editedRow(form url.Values) func(d *drifting) string {
	return func(d *drifting) string {
		id := d.next()
		row := d.text(`SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1`, id)
		d.call("POST", "/v1/customers/"+id+"/balance_transactions/"+row, form)
		return id
	}
}

// granted gives a customer a grant, in the past, that the mirror knows.
func (d *drifting) granted() (id, grant string) {
	d.t.Helper()
	id = d.next()
	d.behind.Store(int64(time.Hour))
	defer d.behind.Store(0)
	d.silently(func() { grant = d.grant(id) })
	if err := d.parts.marks.MarkSwept(d.t.Context(), []mirror.Target{{Scope: mirror.ScopeCredits, ID: id}}); err != nil {
		d.t.Fatal(err)
	}
	d.idle()
	d.exec(`DELETE FROM drift_findings`)
	return id, grant
}

var drifts = []oneDrift{
	{sweep: "events", what: "a lost webhook", kind: "missed_event", plant: func(d *drifting) string {
		d.behind.Store(int64(5 * time.Second))
		defer d.behind.Store(0)
		return d.adjust(d.next(), "", -500)
	}},
	{sweep: "events", what: "a lost webhook of a grant", kind: "missed_event", plant: func(d *drifting) string {
		d.behind.Store(int64(5 * time.Second))
		defer d.behind.Store(0)
		id := d.next()
		d.grant(id)
		return id
	}},
	{sweep: "balances", what: "an adjustment that no event tells of", kind: "balance_mismatch", plant: silent(func(d *drifting) string { return d.adjust(d.next(), "", -500) })},
	{sweep: "balances", what: "an adjustment in another currency", kind: "balance_mismatch", plant: silent(func(d *drifting) string { return d.adjust(d.next(), "sek", -500) })},
	{sweep: "balances", what: "a new customer", kind: "missing_customer", plant: silent(func(d *drifting) string {
		return d.call("POST", "/v1/customers", url.Values{"balance": {"-100"}})
	})},
	{sweep: "balances", what: "a deleted customer", kind: "missing_customer", plant: silent(func(d *drifting) string {
		id := d.next()
		d.call("DELETE", "/v1/customers/"+id, nil)
		return id
	})},
	{sweep: "balances", what: "a new grant", kind: "missing_transaction", plant: silent(func(d *drifting) string {
		id := d.next()
		d.grant(id)
		return id
	})},
	{sweep: "balances", what: "an edited grant", kind: "field_mismatch", plant: func(d *drifting) string {
		id, grant := d.granted()
		d.silently(func() { d.call("POST", "/v1/billing/credit_grants/"+grant, url.Values{"metadata[a]": {"b"}}) })
		return id
	}},
	{sweep: "balances", what: "a grant overwritten here", kind: "field_mismatch", plant: func(d *drifting) string {
		id, grant := d.granted()
		d.exec(`UPDATE credit_grants SET raw = '{}', digest = 'x', name = 'y' WHERE id = ?`, grant)
		return id
	}},
	{sweep: "balances", what: "a customer's balance changed here", kind: "balance_mismatch", plant: broken(`UPDATE customers SET balance = balance + 7 WHERE id = ?`)},
	{sweep: "balances", what: "a balance per currency changed here", kind: "balance_mismatch", plant: broken(`UPDATE customer_balances SET balance = balance + 7 WHERE customer = ?`)},
	{sweep: "balances", what: "a customer lost here", kind: "missing_customer", plant: broken(`DELETE FROM customers WHERE id = ?`)},
	{sweep: "balances", what: "a customer taken for deleted", kind: "missing_customer", plant: broken(`UPDATE customers SET deleted = 1 WHERE id = ?`)},
	{sweep: "scrub", what: "an edited description", kind: "field_mismatch", plant: editedRow(url.Values{"description": {"edited"}})},
	{sweep: "scrub", what: "edited metadata", kind: "field_mismatch", plant: editedRow(url.Values{"metadata[k]": {"v"}})},
	{sweep: "scrub", what: "an equal and opposite pair", kind: "missing_transaction", plant: func(d *drifting) string {
		d.behind.Store(int64(time.Hour))
		defer d.behind.Store(0)
		id := d.next()
		d.silently(func() { d.adjust(id, "", -900, 900) })
		return id
	}},
	{sweep: "scrub", what: "a row lost here", kind: "missing_transaction", plant: broken(
		`DELETE FROM customer_balance_transactions WHERE id = (SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1 OFFSET 1)`)},
	{sweep: "scrub", what: "a row overwritten here", kind: "field_mismatch", plant: broken(
		`UPDATE customer_balance_transactions SET description = 'x', raw = '{}', digest = 'x' WHERE id = (SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1)`)},
	{sweep: "scrub", what: "a credit row lost here", kind: "missing_transaction", plant: func(d *drifting) string {
		id, grant := d.granted()
		d.exec(`DELETE FROM credit_balance_transactions WHERE "grant" = ?`, grant)
		return id
	}},
	{sweep: "scrub", what: "an amount changed here", kind: "field_mismatch", plant: broken(
		`UPDATE customer_balance_transactions SET amount = amount + 1 WHERE id = (SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1)`)},
	{sweep: "scrub", what: "a description changed here", kind: "field_mismatch", plant: broken(
		`UPDATE customer_balance_transactions SET description = 'x' WHERE id = (SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1)`)},
	{sweep: "scrub", what: "a row that Stripe does not have", kind: "unexpected_transaction", plant: broken(
		`INSERT INTO customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, raw, digest, synced_at)
		SELECT account, customer, 'cbtxn_forged', currency, amount, ending_balance, type, metadata, created, livemode, raw, digest, synced_at
		FROM customer_balance_transactions WHERE customer = ? LIMIT 1`), undo: `DELETE FROM customer_balance_transactions WHERE id = 'cbtxn_forged' AND customer = ?`},
}

// TestFigureEveryDriftInOneCycle plants one drift at a time among a thousand
// customers and runs one cycle of the sweep that owns it, no other loop: it alone
// is found, and how long that took is reported.
func TestFigureEveryDriftInOneCycle(t *testing.T) {
	figures(t)
	d := newDrifting(t, 1000)
	for _, c := range drifts {
		who := c.plant(d)
		if _, err := d.sql.ExecContext(t.Context(), `DELETE FROM drift_findings`); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		found := []string{}
		note := func(list []mirror.Finding) {
			for _, f := range list {
				found = append(found, string(f.Kind)+"/"+f.Customer)
			}
		}
		var err error
		switch c.sweep {
		case "events":
			var r reconcile.EventsResult
			r, err = d.parts.Events(false, zap.NewNop()).Run(t.Context(), "")
			note(r.Findings)
		case "balances":
			var r reconcile.BalancesResult
			r, err = d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", "")
			note(r.Findings)
		default:
			_, err = d.parts.Scrub(zap.NewNop()).Pass(t.Context(), "", func(int) {})
			found, _ = d.findings()
		}
		if err != nil {
			t.Fatal(err)
		}
		cycle := time.Since(began)
		if c.undo == "" { // else the queue has its next try
			d.idle()
		}
		repaired := time.Since(began)
		slices.Sort(found)
		// The row of a grant is announced before anybody knows whose grant it is.
		found = slices.DeleteFunc(slices.Compact(found), func(f string) bool { return f == "missed_event/" })
		if want := []string{c.kind + "/" + who}; !slices.Equal(found, want) {
			t.Errorf("%s: found %q, want %q", c.what, found, want)
		}
		if _, open := d.findings(); len(open) > 0 != (c.undo != "") {
			t.Errorf("%s: still open: %q", c.what, open)
		}
		if c.undo != "" {
			d.exec(c.undo, who)
			if _, err := d.parts.Scrub(zap.NewNop()).Pass(t.Context(), "", func(int) {}); err != nil {
				t.Fatal(err)
			}
			d.idle()
			if _, open := d.findings(); len(open) > 0 {
				t.Errorf("%s: open although it is undone: %q", c.what, open)
			}
		}
		t.Logf("| %s | `%s` | `%s` | %.1f s | %.1f s |", c.what, c.sweep, c.kind, cycle.Seconds(), repaired.Seconds())
	}
}

// TestFigureNoFalseFinding: a million comparisons of a customer on a clean mirror,
// under live traffic, find nothing.
func TestFigureNoFalseFinding(t *testing.T) {
	figures(t)
	d := newDrifting(t, 8000)
	traffic, err := stripesim.NewTraffic(d.sim, stripesim.TrafficOptions{Seed: 6, Customers: 1000, Rate: 50})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", ""); err != nil { // finds the newcomers
		t.Fatal(err)
	}
	d.idle()
	d.exec(`DELETE FROM drift_findings`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 2)
	go func() { done <- traffic.Run(ctx) }()
	go func() { done <- d.deliver(ctx, 200*time.Millisecond) }() // in a webhook's place
	d.parts.Config.BalancesInterval = 6 * time.Second            // a grace of three
	d.parts.Config.Repair = false                                // what is wrong stays to be seen
	var checks, passes int64
	began := time.Now()
	for checks < 1_000_000 {
		result, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		checks += result.Customers
		passes++
		for _, f := range result.Findings {
			t.Errorf("false finding: %+v", f)
		}
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d customer checks in %d passes, %d changes, %v: no finding", checks, passes, traffic.Done(), time.Since(began).Round(time.Second))
}

// TestFigureBalancesOfHundredThousand counts the calls of a pass over 100,000
// customers, and what it writes when nothing has changed.
func TestFigureBalancesOfHundredThousand(t *testing.T) {
	figures(t)
	d := newDrifting(t, 1)
	handler := d.sim.Handler()
	post := func(path string, form url.Values) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(form.Encode()))
		r.SetBasicAuth("sk_test_drift", "")
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for i := range 100_000 - 1 {
		post("/v1/customers", url.Values{"balance": {fmt.Sprint(-i % 1000)}})
	}
	var holders []string // one may hold at most 100 unused grants
	for after := ""; ; {
		page, err := d.parts.Stripe.CustomersPage(t.Context(), "", stripeapi.CustomersQuery{After: after, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.parts.Store.InsertCustomers(t.Context(), "", page.Rows); err != nil {
			t.Fatal(err)
		}
		after = page.Rows[len(page.Rows)-1].ID
		holders = append(holders, after)
		if !page.HasMore {
			break
		}
	}
	for i := range 500 {
		d.grant(holders[i%50])
	}
	d.parts.Config.BalancesInterval = 400 * time.Millisecond
	if _, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", ""); err != nil { // stores the grants
		t.Fatal(err)
	}
	d.idle()
	state := func() string {
		var all []string
		for _, table := range []string{"customers", "customer_balances", "customer_balance_transactions", "credit_grants", "credit_balance_transactions", "credit_balance_summaries", "sync_state", "drift_findings"} {
			all = append(all, d.text(`SELECT '`+table+` ' || count(*) || ' ' || ifnull(max(synced_at), '') FROM `+table))
		}
		return strings.Join(append(all, d.text(`SELECT 'changes ' || count(*) FROM changes`)), ", ")
	}
	d.parts.Config.Repair = false // no proof by summaries, which has syncs of its own
	before := state()
	d.sim.ResetCalls()
	began := time.Now()
	result, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", "")
	if err != nil || result.Customers != 100_000 || len(result.Findings) != 0 {
		t.Fatalf("%d customers, %d findings, %v", result.Customers, len(result.Findings), err)
	}
	calls := 0
	for _, n := range d.sim.Calls() {
		calls += n
	}
	if calls > 1010 {
		t.Errorf("%d calls, want at most 1,010: %v", calls, d.sim.Calls())
	}
	if after := state(); after != before {
		t.Errorf("it wrote: before %s\nafter %s", before, after)
	}
	t.Logf("%d customers and %d grants in %d calls and %v; nothing written", result.Customers, result.Grants, calls, time.Since(began).Round(time.Millisecond))
}
