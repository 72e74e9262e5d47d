package app

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/stripesim"
)

// drifting is a mirror of a simulator whose events nobody delivers.
type drifting struct {
	t      *testing.T
	sim    *stripesim.Server
	base   string
	parts  *Parts
	sql    *sql.DB
	bind   func(statement string) string // gives ? the form of the database
	behind atomic.Int64                  // how far the simulator's clock is behind, in ns
	ids    []string
}

func newDrifting(t *testing.T, customers int) *drifting {
	t.Helper()
	return newDriftingOn(t, customers, "sqlite:"+filepath.Join(t.TempDir(), "mirror.db"))
}

// newDriftingOn makes the mirror in a database of its own.
func newDriftingOn(t *testing.T, customers int, database string) *drifting {
	t.Helper()
	d := &drifting{t: t}
	var err error
	d.sim, err = stripesim.New(stripesim.Options{Seed: 5, Now: func() time.Time { return time.Now().Add(-time.Duration(d.behind.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.sim.Close)
	server := httptest.NewServer(d.sim.Handler())
	t.Cleanup(server.Close)
	d.base = server.URL
	traffic, err := stripesim.NewTraffic(d.sim, stripesim.TrafficOptions{Seed: 5, Customers: customers})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	roles := []config.Role{config.RoleWorker, config.RoleReconcile}
	cfg, err := config.LoadFor([]string{
		"STRIPE_API_KEY=sk_test_drift", "STRIPE_API_BASE=" + server.URL, "CREDITMIRROR_DATABASE_URL=" + database,
		"CREDITMIRROR_STRIPE_RPS=1000", "CREDITMIRROR_STRIPE_ENDPOINT_RPS=1000", "CREDITMIRROR_BALANCES_INTERVAL=10s",
	}, roles)
	if err != nil {
		t.Fatal(err)
	}
	cfg.BalancesInterval = 400 * time.Millisecond // a grace of half of it
	if d.parts, err = OpenParts(t.Context(), cfg, prometheus.NewRegistry(), zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.parts.Close(); err != nil {
			t.Error(err)
		}
	})
	work, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.parts.Work(work, zap.NewNop()) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if path, ok := strings.CutPrefix(database, "sqlite:"); ok {
		d.sql, err = sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
		d.bind = func(statement string) string { return statement }
	} else {
		d.sql, d.bind, err = openPostgres(database)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.sql.Close() })
	if err := d.parts.FirstCopy(0, nil).Run(t.Context(), "", func(w reconcile.Copied) {}); err != nil {
		t.Fatal(err)
	}
	for _, truth := range d.sim.Truth() {
		if len(truth.BalanceTransactions) >= 3 {
			d.ids = append(d.ids, truth.ID)
		}
	}
	d.idle()
	return d
}

// idle waits until the queue is empty.
func (d *drifting) idle() {
	d.t.Helper()
	for deadline := time.Now().Add(patience.Of(30 * time.Second)); ; time.Sleep(10 * time.Millisecond) { // the queue has no signal for "empty"
		s, err := d.parts.Queue.Stats(d.t.Context())
		if err != nil {
			d.t.Fatal(err)
		}
		if s.ReadyLive+s.ReadySweep+s.Delayed+s.Leased == 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the queue does not drain: %+v", s)
		}
	}
}

// next is a customer that no drift was planted on yet.
func (d *drifting) next() string {
	d.t.Helper()
	id := d.ids[0]
	d.ids = d.ids[1:]
	return id
}

// silently runs f while the simulator makes no events.
func (d *drifting) silently(f func()) {
	d.t.Helper()
	if err := d.sim.SetFaults(stripesim.Faults{{Kind: stripesim.FaultEventLost, Probability: 1}}); err != nil {
		d.t.Fatal(err)
	}
	f()
	if err := d.sim.SetFaults(nil); err != nil {
		d.t.Fatal(err)
	}
}

// call sends a request to the simulator and returns the id of what it answers.
func (d *drifting) call(method, path string, form url.Values) string {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		d.t.Fatal(err)
	}
	req.SetBasicAuth("sk_test_drift", "")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	var object struct {
		ID string `json:"id"`
	}
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(body, &object) != nil {
		d.t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, body, err)
	}
	return object.ID
}

func (d *drifting) exec(statement string, args ...any) {
	d.t.Helper()
	r, err := d.sql.ExecContext(d.t.Context(), d.bind(statement), args...)
	if err != nil {
		d.t.Fatalf("%s: %v", statement, err)
	}
	if n, _ := r.RowsAffected(); n == 0 {
		d.t.Fatalf("%s %v changed nothing", statement, args)
	}
}

func (d *drifting) text(query string, args ...any) string {
	d.t.Helper()
	var s string
	if err := d.sql.QueryRowContext(d.t.Context(), d.bind(query), args...).Scan(&s); err != nil {
		d.t.Fatalf("%s: %v", query, err)
	}
	return s
}

func (d *drifting) grant(customer string) string {
	return d.call("POST", "/v1/billing/credit_grants", url.Values{
		"customer": {customer}, "category": {"paid"}, "amount[type]": {"monetary"}, "amount[monetary][currency]": {"usd"},
		"amount[monetary][value]": {"1000"}, "applicability_config[scope][price_type]": {"metered"},
	})
}

// findings are all that were recorded since the start, as kind/customer.
func (d *drifting) findings() (all, open []string) {
	d.t.Helper()
	list, err := d.parts.Store.Findings(d.t.Context(), mirror.FindingsQuery{RepairedSince: time.Unix(1, 0), Limit: 1000})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range list {
		text := string(f.Kind) + "/" + f.Customer
		all = append(all, text)
		if f.RepairedAt.IsZero() {
			open = append(open, fmt.Sprintf("%s %s %s want %q have %q: %s", text, f.Currency, f.Object, f.Expected, f.Actual, f.Cause))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), open
}

// requireFound checks that exactly what was planted was found, and repaired.
func (d *drifting) requireFound(planted map[string]string) {
	d.t.Helper()
	d.idle()
	all, open := d.findings()
	var want []string
	for what, finding := range planted {
		if !slices.Contains(all, finding) {
			d.t.Errorf("%s: %s was not found", what, finding)
		}
		want = append(want, finding)
	}
	for _, f := range all {
		if !slices.Contains(want, f) {
			d.t.Errorf("nobody planted %s", f)
		}
	}
	for _, f := range open {
		d.t.Errorf("still open: %s", f)
	}
	if n := d.text(`SELECT CAST(count(*) AS text) FROM (SELECT 1 AS one FROM drift_findings WHERE object <> '' GROUP BY kind, customer, object HAVING count(*) > 1) AS doubled`); n != "0" {
		d.t.Errorf("%s differences were recorded more than once", n)
	}
	for _, truth := range d.sim.Truth() {
		c, err := d.parts.Store.Customer(d.t.Context(), "", truth.ID)
		if err != nil || c.Deleted != truth.Deleted {
			d.t.Errorf("%s: %+v, %v, want deleted %v", truth.ID, c, err, truth.Deleted)
		}
		rows, err := d.parts.Store.BalanceTransactions(d.t.Context(), "", truth.ID, mirror.Page{Limit: 100})
		if err != nil || !truth.Deleted && len(rows.Rows) != len(truth.BalanceTransactions) {
			d.t.Errorf("%s: %d rows, %v, want %d", truth.ID, len(rows.Rows), err, len(truth.BalanceTransactions))
			continue
		}
		for i, r := range rows.Rows {
			if !truth.Deleted && mirror.Digest(r.Raw) != mirror.Digest(truth.BalanceTransactions[i]) {
				d.t.Errorf("%s differs: %s, want %s", r.ID, r.Raw, truth.BalanceTransactions[i])
			}
		}
	}
}

// Every way in which balances, customers and grants can drift is found by one
// pass of the balances sweep alone.
func TestBalancesSweepFindsEveryDrift(t *testing.T) {
	d := newDrifting(t, 60)
	d.behind.Store(int64(time.Hour))
	edited, changed := d.next(), d.next()
	grants := map[string]string{edited: d.grant(edited), changed: d.grant(changed)}
	d.behind.Store(0)
	if _, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	d.idle()
	d.exec(`DELETE FROM drift_findings`)

	planted := map[string]string{}
	plant := func(what, kind, customer string) { planted[what] = kind + "/" + customer }
	d.silently(func() {
		id := d.next()
		if _, err := d.sim.AddBalanceTransaction("", id, stripesim.BalanceChange{Amount: -500, Currency: d.text(`SELECT currency FROM customers WHERE id = ?`, id)}); err != nil {
			t.Fatal(err)
		}
		plant("an adjustment without an event", "balance_mismatch", id)
		id = d.next()
		if _, err := d.sim.AddBalanceTransaction("", id, stripesim.BalanceChange{Amount: -500, Currency: "sek"}); err != nil {
			t.Fatal(err)
		}
		plant("an adjustment in another currency", "balance_mismatch", id)
		plant("a new customer", "missing_customer", d.call("POST", "/v1/customers", url.Values{"balance": {"-100"}}))
		id = d.next()
		d.call("DELETE", "/v1/customers/"+id, nil)
		plant("a deleted customer", "missing_customer", id)
		d.call("POST", "/v1/billing/credit_grants/"+grants[edited], url.Values{"metadata[a]": {"b"}})
		plant("an edited grant", "field_mismatch", edited)
		id = d.next()
		d.grant(id)
		plant("a new grant", "missing_transaction", id)
	})
	id := d.next()
	d.exec(`UPDATE customers SET balance = balance + 7 WHERE id = ?`, id)
	plant("a customer's balance flipped", "balance_mismatch", id)
	id = d.next()
	d.exec(`UPDATE customer_balances SET balance = balance + 7 WHERE customer = ?`, id)
	plant("a balance flipped", "balance_mismatch", id)
	id = d.next()
	d.exec(`DELETE FROM customer_balances WHERE customer = ?`, id)
	d.exec(`UPDATE customers SET balance = balance + 1 WHERE id = ?`, id)
	plant("a balance lost", "balance_mismatch", id)
	id = d.next()
	d.exec(`DELETE FROM customers WHERE id = ?`, id)
	plant("a customer lost", "missing_customer", id)
	id = d.next()
	d.exec(`UPDATE customers SET deleted = 1 WHERE id = ?`, id)
	plant("a customer taken for deleted", "missing_customer", id)
	d.exec(`UPDATE credit_grants SET raw = '{}', digest = 'x', name = 'y' WHERE id = ?`, grants[changed])
	plant("a grant overwritten", "field_mismatch", changed)

	dry, err := d.parts.Balances(true, zap.NewNop()).Run(t.Context(), "", "")
	if all, _ := d.findings(); err != nil || len(dry.Findings) != len(planted) || dry.Marked != 0 || len(all) != 0 {
		t.Errorf("a dry run found %d of %d, marked %d, recorded %v: %v", len(dry.Findings), len(planted), dry.Marked, all, err)
	}
	d.sim.ResetCalls()
	if _, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	d.requireFound(planted)
}

// What the newest rows do not show is repaired too: a balance in a currency of
// which nobody knows is proven to be none by the whole history alone.
func TestBalancesSweepReadsWhatContradictsItselfWhole(t *testing.T) {
	d := newDrifting(t, 20)
	id := d.next()
	d.behind.Store(0)
	for i := range 30 { // of different seconds, so that ten of them join what is held
		d.behind.Store(int64(-time.Duration(i+1) * time.Minute))
		if _, err := d.sim.AddBalanceTransaction("", id, stripesim.BalanceChange{Amount: -1, Currency: d.text(`SELECT currency FROM customers WHERE id = ?`, id)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	d.idle()
	d.exec(`DELETE FROM drift_findings`)
	d.exec(`INSERT INTO customer_balances (account, customer, currency, balance, synced_at) SELECT account, id, 'xts', 7, synced_at FROM customers WHERE id = ?`, id)
	if _, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	d.requireFound(map[string]string{"a balance that nobody knows": "balance_mismatch/" + id})
	if held := d.text(`SELECT balance FROM customer_balances WHERE currency = 'xts'`); held != "0" {
		t.Errorf("the balance is %s", held)
	}
}

// plantForScrub makes drift that leaves every balance as it is: what it is, and
// the finding that records it.
func (d *drifting) plantForScrub() map[string]string {
	t := d.t
	t.Helper()
	d.behind.Store(int64(time.Hour))
	holder := d.next()
	g := d.grant(holder)
	if _, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	d.idle()
	d.exec(`DELETE FROM drift_findings`)
	planted := map[string]string{}
	plant := func(what, kind, customer string) { planted[what] = kind + "/" + customer }

	id := d.next()
	row := d.text(`SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1`, id)
	d.call("POST", "/v1/customers/"+id+"/balance_transactions/"+row, url.Values{"description": {"edited"}})
	plant("an edited description", "field_mismatch", id)
	id = d.next()
	row = d.text(`SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created DESC LIMIT 1`, id)
	d.call("POST", "/v1/customers/"+id+"/balance_transactions/"+row, url.Values{"metadata[k]": {"v"}})
	plant("edited metadata", "field_mismatch", id)
	d.silently(func() {
		id = d.next()
		currency := d.text(`SELECT currency FROM customers WHERE id = ?`, id)
		for _, amount := range []int64{-900, 900} {
			if _, err := d.sim.AddBalanceTransaction("", id, stripesim.BalanceChange{Amount: amount, Currency: currency}); err != nil {
				t.Fatal(err)
			}
		}
		plant("an equal and opposite pair", "missing_transaction", id)
	})
	id = d.next()
	row = d.text(`SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1 OFFSET 1`, id)
	d.exec(`DELETE FROM customer_balance_transactions WHERE id = ?`, row)
	plant("a row lost from the middle", "missing_transaction", id)
	id = d.next()
	row = d.text(`SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1`, id)
	d.exec(`UPDATE customer_balance_transactions SET description = 'x', raw = '{}', digest = 'x' WHERE id = ?`, row)
	plant("a row overwritten", "field_mismatch", id)
	d.exec(`DELETE FROM credit_balance_transactions WHERE "grant" = ?`, g)
	plant("a credit row lost", "missing_transaction", holder)
	return planted
}

// The scrub finds what leaves every balance as it is.
func TestScrubFindsEveryDrift(t *testing.T) {
	d := newDrifting(t, 40)
	planted := d.plantForScrub()
	if _, err := d.parts.Scrub(zap.NewNop()).Pass(t.Context(), "", func(int) {}); err != nil {
		t.Fatal(err)
	}
	d.requireFound(planted)
}

// tables are all tables that a report must leave as they are.
func (d *drifting) tables() string {
	d.t.Helper()
	var all strings.Builder
	for _, table := range []string{
		"customers", "customer_balances", "customer_balance_transactions", "credit_grants", "credit_balance_transactions",
		"credit_balance_summaries", "sync_state", "stripe_events", "dead_letters", "changes",
	} {
		where := ""
		if table == "changes" { // findings, which a report records, have records of their own
			where = " WHERE table_name <> 'drift_findings'"
		}
		rows, err := d.sql.QueryContext(d.t.Context(), "SELECT * FROM "+table+where+" ORDER BY 1, 2, 3")
		if err != nil {
			d.t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			d.t.Fatal(err)
		}
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(any)
			}
			if err := rows.Scan(values...); err != nil {
				d.t.Fatal(err)
			}
			fmt.Fprint(&all, table)
			for _, v := range values {
				fmt.Fprintf(&all, " %v", *v.(*any))
			}
			fmt.Fprintln(&all)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			d.t.Fatal(err)
		}
	}
	return all.String()
}

// The scrub that only reports finds all that the one that repairs does, what no
// sync would dare to repair besides, and changes nothing.
func TestScrubReportFindsEveryDrift(t *testing.T) {
	d := newDrifting(t, 60)
	planted := d.plantForScrub()
	plant := func(what, kind, customer string) { planted[what] = kind + "/" + customer }
	change := func(what, kind, table, set string) {
		id := d.next()
		row := d.text(`SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1`, id)
		key := map[string]string{"customers": id, "customer_balance_transactions": row}[table]
		d.exec(fmt.Sprintf(`UPDATE %s SET %s WHERE id = ?`, table, set), key)
		plant(what, kind, id)
	}
	change("an amount changed", "field_mismatch", "customer_balance_transactions", "amount = amount + 1")
	change("a column that contradicts its JSON", "field_mismatch", "customer_balance_transactions", "type = type || 'x'")
	change("a customer's creation changed", "field_mismatch", "customers", "created = '2001-01-01T00:00:00.000000Z'")
	change("a customer's balance flipped", "balance_mismatch", "customers", "balance = balance + 7")
	id := d.next()
	row := d.text(`SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created LIMIT 1`, id)
	d.exec(`INSERT INTO customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest, synced_at)
		SELECT account, customer, 'cbtxn_forged', currency, amount, ending_balance, type, metadata, created, livemode, NULL, raw, digest, synced_at
		FROM customer_balance_transactions WHERE id = ?`, row)
	plant("a row that Stripe does not have", "unexpected_transaction", id)
	d.silently(func() {
		id = d.next()
		d.call("DELETE", "/v1/customers/"+id, nil)
		plant("a customer deleted without an event", "missing_customer", id)
	})

	before := d.tables()
	report, err := d.parts.ScrubReport(true, zap.NewNop()).Run(t.Context(), "", "", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range report.Findings {
		found = append(found, string(f.Kind)+"/"+f.Customer)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	if want := slices.Sorted(maps.Values(planted)); !slices.Equal(found, want) {
		t.Errorf("found %q\nwant %q", found, want)
	}
	all, _ := d.findings()
	if d.tables() != before || len(all) != 0 {
		t.Errorf("a dry run wrote; findings %q", all)
	}

	// A serve without repair records them, once, and goes round.
	d.parts.Config.Repair = false
	d.parts.Config.ScrubPeriod = time.Second
	scrub := d.parts.Scrub(zap.NewNop())
	opened := 0
	for began := time.Now(); ; {
		_, fresh, err := scrub.Step(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range fresh {
			opened += n
		}
		sweep, err := d.parts.Store.Sweep(t.Context(), "", reconcile.SweepScrub)
		if err != nil {
			t.Fatal(err)
		}
		if !sweep.LastSuccess.IsZero() && time.Since(began) > 3*time.Second {
			break
		}
		time.Sleep(50 * time.Millisecond) // what is due comes with time
	}
	all, open := d.findings()
	if !slices.Equal(all, slices.Sorted(maps.Values(planted))) || opened != len(open) || len(open) != len(report.Findings) {
		t.Errorf("recorded %q, %d open, %d opened, want %d", all, len(open), opened, len(report.Findings))
	}
	if d.tables() != before {
		t.Error("a scrub without repair wrote to the mirror's tables")
	}

	// The one that repairs then closes what can be repaired: it deletes no row.
	d.parts.Config.Repair = true
	if _, err := d.parts.Scrub(zap.NewNop()).Pass(t.Context(), "", func(int) {}); err != nil {
		t.Fatal(err)
	}
	if _, open := d.findings(); len(open) != 1 || !strings.Contains(open[0], "cbtxn_forged") {
		t.Errorf("open after a repairing scrub: %q, want the forged row", open)
	}
	d.exec(`DELETE FROM customer_balance_transactions WHERE id = 'cbtxn_forged'`)
	if _, err := d.parts.Scrub(zap.NewNop()).Pass(t.Context(), "", func(int) {}); err != nil {
		t.Fatal(err)
	}
	d.idle()
	if _, open := d.findings(); len(open) != 0 {
		t.Errorf("still open: %q", open)
	}
}

// An event that no webhook brought is found by the events sweep.
func TestEventsSweepRecordsWhatItFinds(t *testing.T) {
	d := newDrifting(t, 20)
	planted := map[string]string{}
	id := d.next()
	if _, err := d.sim.AddBalanceTransaction("", id, stripesim.BalanceChange{Amount: -500, Currency: d.text(`SELECT currency FROM customers WHERE id = ?`, id)}); err != nil {
		t.Fatal(err)
	}
	planted["a lost webhook"] = "missed_event/" + id
	id = d.next()
	d.grant(id)
	planted["a lost webhook of a grant"] = "missed_event/" + id
	dry, err := d.parts.Events(true, zap.NewNop()).RunToEnd(t.Context(), "")
	if all, _ := d.findings(); err != nil || len(dry.Findings) < 2 || len(all) != 0 {
		t.Fatalf("dry run: %+v, recorded %v, %v", dry, all, err)
	}
	if _, err := d.parts.Events(false, zap.NewNop()).RunToEnd(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	d.idle()
	all, open := d.findings()
	// The grant's own row was announced before anybody knew whose grant it is.
	all = slices.DeleteFunc(all, func(f string) bool { return f == "missed_event/" })
	want := []string{planted["a lost webhook"], planted["a lost webhook of a grant"]}
	slices.Sort(want)
	if !slices.Equal(all, want) || len(open) != 0 {
		t.Fatalf("found %q, want %q; open %q", all, want, open)
	}
}

// I18: a sweep over a correct mirror changes nothing, in few calls.
func TestI18_BalancesSweepWithoutDrift(t *testing.T) {
	d := newDrifting(t, 450)
	if _, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	d.idle()
	before, err := d.parts.Store.Totals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	written := d.text(`SELECT max(synced_at) FROM (SELECT synced_at FROM customers UNION ALL SELECT synced_at FROM customer_balances UNION ALL SELECT synced_at FROM credit_grants)`)
	d.parts.Config.Repair = false // no proof by summaries, which has calls of its own
	d.sim.ResetCalls()
	result, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", "")
	if err != nil || result.Customers != 450 || len(result.Findings) != 0 {
		t.Fatalf("%+v, %v", result, err)
	}
	calls := 0
	for _, n := range d.sim.Calls() {
		calls += n
	}
	if want := 5 + int(result.Grants+99)/100 + 1; calls > want { // pages of customers, of grants, the clocks
		t.Errorf("%d calls, want at most %d: %v", calls, want, d.sim.Calls())
	}
	after, err := d.parts.Store.Totals(t.Context())
	if err != nil || after.Rows["changes"] != before.Rows["changes"] || after.Rows["drift_findings"] != before.Rows["drift_findings"] {
		t.Errorf("before %v, after %v, %v", before.Rows, after.Rows, err)
	}
	if now := d.text(`SELECT max(synced_at) FROM (SELECT synced_at FROM customers UNION ALL SELECT synced_at FROM customer_balances UNION ALL SELECT synced_at FROM credit_grants)`); now != written {
		t.Errorf("rows were written at %s", now)
	}
}

// A clean mirror under live traffic has no finding: what is on its way is lag.
func TestBalancesSweepUnderTraffic(t *testing.T) {
	d := newDrifting(t, 300)
	traffic, err := stripesim.NewTraffic(d.sim, stripesim.TrafficOptions{Seed: 6, Customers: 20, Rate: 60})
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
	// In a webhook's place: events are marked as they are listed.
	go func() { done <- d.deliver(ctx, 200*time.Millisecond) }()
	d.parts.Config.BalancesInterval = time.Hour // the usual grace of 10 s: a busy machine delivers late
	var customers int64
	for began := time.Now(); time.Since(began) < 8*time.Second; {
		result, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		customers += result.Customers
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
	t.Logf("%d customer checks during %d changes", customers, traffic.Done())
}

// deliver marks the targets of new events, as webhooks would.
func (d *drifting) deliver(ctx context.Context, every time.Duration) error {
	met := map[string]bool{}
	since := time.Now().Add(-time.Second)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
		next := time.Now().Add(-5 * time.Second)
		for after := ""; ; {
			page, err := d.parts.Stripe.EventsPage(ctx, "", stripeapi.EventsQuery{Types: mirror.EventTypes(), CreatedGTE: since, After: after})
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			var marks []reconcile.Mark
			for _, e := range page.Events {
				for _, target := range e.Targets() {
					if !met[e.ID] {
						marks = append(marks, reconcile.Mark{Target: target, Event: e.Ref()})
					}
				}
				met[e.ID] = true
			}
			if err := d.parts.marks.MarkLive(context.WithoutCancel(ctx), marks); err != nil {
				return err
			}
			if after = page.LastID; !page.HasMore {
				since = next
				break
			}
		}
	}
}
