package app

import (
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
)

// A sweep is no better than that of the account that never had one, though it has no row.
func TestStatusOfASweepThatOneAccountNeverHad(t *testing.T) {
	t.Parallel()
	withBoth(t, func(t *testing.T, postgres bool) {
		s := serveAPI(t, servedOptions{postgres: postgres, roles: []config.Role{config.RoleWebhook, config.RoleWorker}})
		done := func(account string) {
			if err := s.app.Store().SaveSweep(t.Context(), mirror.Sweep{Account: account, Name: reconcile.SweepBalances, LastSuccess: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
		for _, step := range []struct {
			account string
			told    bool
		}{{"", false}, {"acct_1", true}} { // acct_1 is configured
			done(step.account)
			status, err := s.app.Status(t.Context())
			if told := status.Sweeps[reconcile.SweepBalances].LastSuccess != nil; err != nil || told != step.told {
				t.Errorf("after that of %q: a success is told: %v, %v", step.account, told, err)
			}
		}
	})
}
