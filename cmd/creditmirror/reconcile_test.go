package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripesim"
)

func TestReconcileCommand(t *testing.T) {
	t.Parallel()
	sim, err := stripesim.New(stripesim.Options{Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	server := httptest.NewServer(sim.Handler())
	defer server.Close()
	traffic, err := stripesim.NewTraffic(sim, stripesim.TrafficOptions{Seed: 3, Customers: 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(context.Background()); err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"STRIPE_API_KEY=sk_test_x", "STRIPE_API_BASE=" + server.URL, "CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "m.db"),
	}
	if code, _, errOut := cli(t, environ, "backfill", "--log-level", "error"); code != 0 {
		t.Fatalf("backfill: exit %d: %s", code, errOut)
	}
	if err := sim.SetFaults(stripesim.Faults{{Kind: stripesim.FaultEventLost, Probability: 1}}); err != nil {
		t.Fatal(err)
	}
	id := sim.Truth()[0].ID
	if _, err := sim.AddBalanceTransaction("", id, stripesim.BalanceChange{Amount: -7, Currency: "sek"}); err != nil {
		t.Fatal(err)
	}
	const header = "kind,account,customer,currency,expected,actual,cause,found_at,repaired_at\n"
	steps := []struct {
		args string
		code int
		out  string // what standard output has
	}{
		{"reconcile events", 0, header},
		{"reconcile balances --dry-run", 1, "balance_mismatch,," + id + ",sek,-7,0,missed event,"},
		{"reconcile balances --dry-run --format json", 1, `"repaired_at": null`},
		{"reconcile balances", 0, "balance_mismatch,," + id + ",sek,-7,0,missed event,"},
		{"reconcile balances --format json --dry-run", 0, "[]\n"},
		{"reconcile scrub --format table", 0, "KIND"},
		{"reconcile scrub --dry-run", 0, header},
		{"reconcile scrub --repair=false --format json", 0, "[]\n"},
		{"reconcile frobnicate", 2, ""},
		{"reconcile balances --format xml", 2, ""},
		{"reconcile balances --account frob", 2, ""},
	}
	for _, s := range steps {
		code, out, errOut := cli(t, environ, append(strings.Fields(s.args), "--log-level", "error")...)
		if code != s.code || !strings.Contains(out, s.out) {
			t.Fatalf("%s: exit %d, want %d\n%s\n%s", s.args, code, s.code, out, errOut)
		}
	}
}

// An argument that is missing, too many or wrong is refused with what it has to be.
func TestOneArgument(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"reconcile":               "reconcile takes one argument, not 0: want events, balances or scrub",
		"reconcile events scrub":  "reconcile takes one argument, not 2: want events, balances or scrub",
		"reconcile frobnicate":    `reconcile "frobnicate": want events, balances or scrub`,
		"dead show":               "show takes one argument, not 0: want the id of a dead letter",
		"dead show dead_1 dead_2": "show takes one argument, not 2: want the id of a dead letter",
	} {
		if code, out, errOut := cli(t, nil, strings.Fields(args)...); code != 2 || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit %d, %s\n%s\nwant %s", args, code, out, errOut, want)
		}
	}
}

// behind is a mirror on SQLite of a simulator, and a way past the program.
type behind struct {
	t       *testing.T
	sim     *stripesim.Server
	environ []string
	sql     *sql.DB
}

func newBehind(t *testing.T, customers int, environ ...string) *behind {
	t.Helper()
	sim, err := stripesim.New(stripesim.Options{Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	server := httptest.NewServer(sim.Handler())
	t.Cleanup(server.Close)
	traffic, err := stripesim.NewTraffic(sim, stripesim.TrafficOptions{Seed: 3, Customers: customers})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "m.db")
	b := &behind{t: t, sim: sim, environ: append([]string{
		"STRIPE_API_KEY=sk_test_x", "STRIPE_API_BASE=" + server.URL, "CREDITMIRROR_DATABASE_URL=sqlite:" + path,
		"CREDITMIRROR_STRIPE_RPS=1000", "CREDITMIRROR_STRIPE_ENDPOINT_RPS=1000", "CREDITMIRROR_LOG_LEVEL=error",
	}, environ...)}
	if code, _, errOut := cli(t, b.environ, "backfill"); code != 0 {
		t.Fatalf("backfill: exit %d: %s", code, errOut)
	}
	if b.sql, err = sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.sql.Close() })
	return b
}

func (b *behind) exec(statement string, args ...any) {
	b.t.Helper()
	r, err := b.sql.ExecContext(b.t.Context(), statement, args...)
	if err != nil {
		b.t.Fatalf("%s: %v", statement, err)
	}
	if n, _ := r.RowsAffected(); n == 0 {
		b.t.Fatalf("%s changed nothing", statement)
	}
}

// text runs a query for one text.
func (b *behind) text(query string, args ...any) string {
	b.t.Helper()
	var s string
	if err := b.sql.QueryRowContext(b.t.Context(), query, args...).Scan(&s); err != nil {
		b.t.Fatalf("%s: %v", query, err)
	}
	return s
}

// row is the n-th of the balance transactions, and its customer.
func (b *behind) row(n int) (id, customer string) {
	b.t.Helper()
	const nth = ` FROM customer_balance_transactions WHERE amount <> 0 ORDER BY id LIMIT 1 OFFSET ?`
	return b.text(`SELECT id`+nth, n), b.text(`SELECT customer`+nth, n)
}

// forge makes a row say another amount, in all its columns and in its JSON, so that
// nothing but Stripe contradicts it.
func (b *behind) forge(id string) {
	b.t.Helper()
	raw := b.text(`SELECT json_set(raw, '$.amount', amount - 7) FROM customer_balance_transactions WHERE id = ?`, id)
	b.exec(`UPDATE customer_balance_transactions SET amount = amount - 7, raw = ?, digest = ? WHERE id = ?`, raw, mirror.Digest([]byte(raw)), id)
}

// A reply that rewrites history is refused, reported as a finding, and not waited for:
// not by the first scrub that meets it, and not by the next one. Everything else is
// read and repaired beside it.
func TestReconcileScrubDoesNotWaitForWhatIsRefused(t *testing.T) {
	t.Parallel()
	b := newBehind(t, 20)
	forged, customer := b.row(0)
	b.forge(forged)
	damaged, other := b.row(12)
	if other == customer {
		t.Fatal("one customer is not enough")
	}
	b.exec(`UPDATE customer_balance_transactions SET description = 'not what Stripe says' WHERE id = ?`, damaged)

	code, dry, errOut := cli(t, b.environ, "reconcile", "scrub", "--dry-run")
	if code != 1 || strings.Count(dry, "field_mismatch") != 2 || !strings.Contains(dry, customer) || !strings.Contains(dry, other) {
		t.Fatalf("dry run: exit %d\n%s\n%s", code, dry, errOut)
	}
	for n := range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var out, said bytes.Buffer
		began := time.Now()
		code := run(ctx, []string{"reconcile", "scrub", "--format", "json"}, b.environ, &out, &said)
		var found []struct {
			Kind, Customer, Cause string
			Expected, Actual      string
			RepairedAt            *time.Time `json:"repaired_at"`
		}
		if err := json.Unmarshal(out.Bytes(), &found); err != nil || code != 1 || !strings.Contains(said.String(), " histories read, 1 could not be\n") {
			t.Fatalf("scrub %d: exit %d, %v\n%s\n%s", n, code, err, &out, &said)
		}
		t.Logf("scrub %d: %v", n, time.Since(began))
		var open, repaired []string
		for _, f := range found {
			if f.RepairedAt == nil {
				open = append(open, f.Kind+" "+f.Customer+" "+f.Cause)
			} else {
				repaired = append(repaired, f.Kind+" "+f.Customer+" "+f.Cause)
			}
		}
		if want := []string{"field_mismatch " + customer + " rewritten history"}; !slices.Equal(open, want) {
			t.Errorf("scrub %d: open %q, want %q", n, open, want)
		}
		if want := []string{"field_mismatch " + other + " unknown"}; n == 0 && !slices.Equal(repaired, want) {
			t.Errorf("scrub %d: repaired %q, want %q", n, repaired, want)
		}
	}
	// As the guarantees say: who deletes the row lets Stripe send it again.
	b.exec(`DELETE FROM customer_balance_transactions WHERE id = ?`, forged)
	if code, out, errOut := cli(t, b.environ, "reconcile", "scrub", "--format", "csv"); code != 0 || !strings.Contains(out, "missing_transaction,,"+customer) {
		t.Errorf("after the row was deleted: exit %d\n%s\n%s", code, out, errOut)
	}
	for _, args := range [][]string{{"verify"}, {"reconcile", "scrub", "--dry-run"}} {
		if code, out, errOut := cli(t, b.environ, args...); code != 0 {
			t.Errorf("%v: exit %d\n%s\n%s", args, code, out, errOut)
		}
	}
}

// Where there is no mirror there is nothing to compare, and none is made.
func TestReconcileNeedsAMirror(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"scrub", "--dry-run"}, {"balances", "--dry-run"}, {"events"}, {"scrub"}} {
		path := filepath.Join(t.TempDir(), "mirror.db")
		environ := []string{"STRIPE_API_KEY=sk_test_x", "CREDITMIRROR_DATABASE_URL=sqlite:" + path}
		code, out, errOut := cli(t, environ, append([]string{"reconcile"}, args...)...)
		if code != 1 || out != "" || !strings.Contains(errOut, "there is no mirror at "+path+": set CREDITMIRROR_DATABASE_URL, or make the first copy") {
			t.Errorf("%q: exit %d\n%s\n%s", args, code, out, errOut)
		}
		if list, err := os.ReadDir(filepath.Dir(path)); err != nil || len(list) > 0 {
			t.Errorf("%q left %v, %v", args, list, err)
		}
	}
}

// A scrub that could not read a history is no proof, also where nothing differs.
func TestReconcileScrubTellsWhatItCouldNotRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, said string
		args       []string
	}{
		{"repairing", " could not be\n", nil},
		{"dry run", "\n1 customers not compared", []string{"--dry-run"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBehind(t, 20, "CREDITMIRROR_MAX_ATTEMPTS=1", "CREDITMIRROR_BALANCES_INTERVAL=10s") // a grace of 5 s
			_, stuck := b.row(0)
			if err := b.sim.SetFaults(stripesim.Faults{{Kind: stripesim.Fault500, Probability: 1, Customer: stuck}}); err != nil {
				t.Fatal(err)
			}
			code, out, errOut := cli(t, b.environ, append([]string{"reconcile", "scrub", "--format", "json"}, tt.args...)...)
			if code != 1 || out != "[]\n" || !strings.Contains(errOut, tt.said) || strings.Contains(errOut, " 0 could not be\n") {
				t.Errorf("exit %d\n%s\n%s", code, out, errOut)
			}
			if tt.args != nil {
				return // nothing is marked, and nothing dies
			}
			if code, out, errOut = cli(t, b.environ, "dead", "list"); code != 0 || !strings.Contains(out, stuck) {
				t.Errorf("dead list: exit %d\n%s\n%s", code, out, errOut)
			}
		})
	}
}

// An interrupted scrub prints what it found until then.
func TestReconcileScrubBrokenOffTellsWhatItFound(t *testing.T) {
	t.Parallel()
	t.Run("repairing", func(t *testing.T) {
		t.Parallel()
		b := newBehind(t, 20)
		id, customer := b.row(0)
		b.exec(`UPDATE customer_balance_transactions SET description = 'not what Stripe says' WHERE id = ?`, id)
		// One of the others is never answered, so that the pass cannot end.
		_, stuck := b.row(12)
		if err := b.sim.SetFaults(stripesim.Faults{{Kind: stripesim.Fault500, Probability: 1, Customer: stuck}}); err != nil {
			t.Fatal(err)
		}
		requireBrokenOff(t, b, customer, []string{"reconcile", "scrub"}, func() bool {
			var n int
			err := b.sql.QueryRow(`SELECT count(*) FROM drift_findings WHERE repaired_at IS NOT NULL`).Scan(&n)
			return err == nil && n > 0
		})
	})
	t.Run("dry run", func(t *testing.T) {
		t.Parallel()
		b := newBehind(t, 130, "CREDITMIRROR_BALANCES_INTERVAL=10s") // a grace of 5 s
		first := b.text(`SELECT id FROM customers WHERE id IN (SELECT customer FROM customer_balance_transactions) ORDER BY id LIMIT 1`)
		last := b.text(`SELECT max(customer) FROM customer_balance_transactions`)
		b.exec(`UPDATE customer_balance_transactions SET description = 'x' WHERE customer IN (?, ?)`, first, last)
		b.sim.ResetCalls()
		// A hundred customers at a time: all were looked at, and the last of them waits
		// for its second look.
		out := requireBrokenOff(t, b, first, []string{"reconcile", "scrub", "--dry-run"}, func() bool {
			lists := 0
			for endpoint, n := range b.sim.Calls() {
				if strings.Contains(endpoint, "balance_transactions") && !strings.Contains(endpoint, "billing") {
					lists += n
				}
			}
			return lists > 130
		})
		if strings.Contains(out, last) {
			t.Errorf("what was seen once is told:\n%s", out)
		}
	})
}

// requireBrokenOff stops a command as soon as it may be, and looks for a customer in
// what it prints.
func requireBrokenOff(t *testing.T, b *behind, customer string, args []string, when func() bool) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out, said bytes.Buffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, args, b.environ, &out, &said) }()
	for deadline := time.Now().Add(patience.Of(time.Minute)); !when(); time.Sleep(20 * time.Millisecond) { // the command has no signal for it
		select {
		case code := <-ended:
			t.Fatalf("it ended by itself: exit %d\n%s\n%s", code, &out, &said)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing happens")
		}
	}
	stop()
	if code := <-ended; code != 1 || !strings.Contains(said.String(), "stopped before the end") {
		t.Errorf("exit %d: %s", code, &said)
	}
	if !strings.Contains(out.String(), "field_mismatch,,"+customer) {
		t.Errorf("told\n%s\nwant what was found of %s", &out, customer)
	}
	return out.String()
}
