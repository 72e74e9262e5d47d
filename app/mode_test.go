package app

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
)

// A key of the other mode knows none of the customers that are held, so that each would be
// taken for deleted: neither serve nor a command starts with one.
func TestAKeyOfTheOtherModeIsRefused(t *testing.T) {
	t.Parallel()
	databases := map[string]func(t *testing.T) string{
		"SQLite":     func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "mirror.db") },
		"PostgreSQL": func(t *testing.T) string { return pgtest.NewCopy(t, migrateURL) },
	}
	for name, database := range databases {
		for _, c := range []struct {
			name, account string
			live          []bool // of the customers that are held
			key           string
			refused       bool
		}{
			{"a test key in a live mirror", "", []bool{true, true}, "sk_test_modes", true},
			{"a restricted test key", "", []bool{true}, "rk_test_modes", true},
			{"a live key in a test mirror", "", []bool{false}, "sk_live_modes", true},
			{"customers of a connected account", "acct_1", []bool{true}, "sk_test_modes", true},
			{"the right key", "", []bool{true}, "rk_live_modes", false},
			{"no customer", "", nil, "sk_test_modes", false},
			{"one damaged row", "", []bool{false, true, false}, "sk_test_modes", false},
		} {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				cfg, err := config.LoadFor([]string{
					"STRIPE_API_KEY=" + c.key, "STRIPE_WEBHOOK_SECRET=whsec_nobodyHasRegisteredThisOne0123", "STRIPE_API_BASE=http://127.0.0.1:1",
					"CREDITMIRROR_DATABASE_URL=" + database(t), "STRIPE_ACCOUNTS=acct_1",
					"CREDITMIRROR_API_ADDR=127.0.0.1:0", "CREDITMIRROR_OPS_ADDR=127.0.0.1:0", "CREDITMIRROR_WEBHOOK_ADDR=127.0.0.1:0",
				}, config.Config{}.DefaultRoles())
				if err != nil {
					t.Fatal(err)
				}
				store, err := OpenStore(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer store.Close()
				if err := store.Migrate(t.Context()); err != nil {
					t.Fatal(err)
				}
				var held []mirror.Customer
				for i, live := range c.live {
					held = append(held, mirror.Customer{ID: "cus_" + string(rune('a'+i)), Created: time.Unix(1_780_000_000, 0).UTC(), Livemode: live})
				}
				if n, err := store.InsertCustomers(t.Context(), c.account, held); err != nil || n != len(held) {
					t.Fatalf("%d customers stored, %v", n, err)
				}
				a, err := New(t.Context(), Options{Config: cfg, Roles: config.Config{}.DefaultRoles(), Registry: prometheus.NewRegistry()})
				if err == nil {
					err = a.close()
				}
				judge := func(who string, err error) {
					t.Helper()
					if !c.refused && err != nil {
						t.Errorf("%s: %v", who, err)
					}
					if c.refused && (err == nil || !strings.Contains(err.Error(), "STRIPE_API_KEY") || strings.Contains(err.Error(), c.key)) {
						t.Errorf("%s with the wrong key: %v", who, err)
					}
				}
				judge("serve", err)
				p, err := OpenParts(t.Context(), cfg, prometheus.NewRegistry(), zap.NewNop())
				if err == nil {
					err = p.Close()
				}
				judge("a command", err)
				p, err = OpenPartsToLook(t.Context(), cfg)
				if err == nil {
					err = p.Close()
				}
				judge("a command that only looks", err)
			})
		}
	}
}
