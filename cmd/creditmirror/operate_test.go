package main

import (
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
)

// What the console does, commands do too, and both are recorded.
func TestWhatTheConsoleDoesByCommand(t *testing.T) {
	t.Parallel()
	eachMirror(t, func(t *testing.T, url string, store mirror.Store) {
		do := func(want int, args ...string) string {
			t.Helper()
			code, out, errOut := cli(t, []string{"CREDITMIRROR_DATABASE_URL=" + url, "CREDITMIRROR_OPS_ADDR=127.0.0.1:1"}, args...)
			if code != want {
				t.Fatalf("%q: exit %d\n%s%s", args, code, out, errOut)
			}
			return out
		}
		if _, err := store.OpenFindings(t.Context(), []mirror.Finding{{Kind: mirror.DriftBalanceMismatch, Customer: "cus_1", Scope: mirror.ScopeBalance, Currency: "usd", Expected: "1", Actual: "2", Cause: mirror.CauseUnknown}}); err != nil {
			t.Fatal(err)
		}
		id := strings.Split(strings.Split(do(0, "drift", "list", "--format", "csv"), "\n")[1], ",")[0]
		do(2, "drift", "accept", id)
		do(1, "drift", "accept", "drift_none", "--reason", "x")
		do(0, "drift", "accept", id, "--reason", "known since the import")
		if out := do(0, "drift", "list", "--format", "csv"); !strings.Contains(out, "known since the import") {
			t.Errorf("accepted: %s", out)
		}
		do(0, "drift", "withdraw", id)
		if out := do(0, "drift", "list", "--format", "csv"); strings.Contains(out, "known since the import") {
			t.Errorf("withdrawn: %s", out)
		}
		do(2, "sweeps", "pause", "balances")
		do(2, "sweeps", "start", "odd")
		do(2, "sweeps", "start", "backfill")
		do(0, "sweeps", "pause", "balances", "--reason", "Stripe asked")
		c, err := reconcile.ReadControl(t.Context(), store, reconcile.SweepBalances)
		if err != nil || !c.Paused || c.Reason != "Stripe asked" || !strings.HasPrefix(c.By, "command") {
			t.Errorf("%+v, %v", c, err)
		}
		do(0, "sweeps", "resume", "balances")
		do(0, "sweeps", "start", "balances")
		if c, err = reconcile.ReadControl(t.Context(), store, reconcile.SweepBalances); err != nil || c.Paused || c.Start.IsZero() {
			t.Errorf("%+v, %v", c, err)
		}
		out := do(0, "audit", "--actions", "--format", "csv")
		for _, want := range []string{"accept", "withdraw", "sweep-pause", "sweep-resume", "sweep-start", "Stripe asked", "failed"} {
			if !strings.Contains(out, want) {
				t.Errorf("the record lacks %q:\n%s", want, out)
			}
		}
		do(2, "audit", "--actions", "--outcome", "done")
		do(2, "sync", "odd id")
	})
}
