package main

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

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
