package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// stores open an empty mirror of each kind, with its URL.
var stores = map[string]func(t *testing.T) (string, mirror.Store){
	"sqlite": func(t *testing.T) (string, mirror.Store) {
		path := filepath.Join(t.TempDir(), "m.db")
		s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return "sqlite:" + path, s
	},
	"postgres": func(t *testing.T) (string, mirror.Store) {
		url := pgtest.NewDatabase(t)
		s, err := postgres.Open(t.Context(), url, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return url, s
	},
}

// status shows what the reachable parts know when others are away, the worst first, and
// exits with 1; what one process met, another one shows.
func TestStatusWhenSomethingIsAway(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, store := open(t)
			t.Cleanup(func() { _ = store.Close() })
			if err := store.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			ask := func(database, redis string) (int, app.Status, string) {
				t.Helper()
				environ := []string{"CREDITMIRROR_DATABASE_URL=" + database, "CREDITMIRROR_REDIS_URL=" + redis}
				code, out, errOut := cli(t, environ, "status", "--json")
				var s app.Status
				if err := json.Unmarshal([]byte(out), &s); err != nil {
					t.Fatalf("%v: %s %s", err, out, errOut)
				}
				_, text, _ := cli(t, environ, "status")
				return code, s, text
			}
			if code, s, text := ask(url, redis.URL); code != exitDone || len(s.Problems) != 0 || !strings.Contains(text, "nothing to look after") {
				t.Errorf("all is well: exit %d, problems %v", code, s.Problems)
			}
			code, s, text := ask(url, "redis://127.0.0.1:1")
			if code != exitFailed || len(s.Problems) != 1 || s.Problems[0].What != "redis does not answer" {
				t.Errorf("redis away: exit %d, problems %v", code, s.Problems)
			}
			if first, _, _ := strings.Cut(text, "\n"); !strings.Contains(first, "FAILING") || !strings.Contains(text, "transactions") {
				t.Errorf("the worst does not come first, or the rest is missing:\n%s", text)
			}
			now := time.Now().UTC()
			for row, state := range map[string]any{
				"trouble:key":     []map[string]any{{"account": "", "since": now, "reason": "Invalid API Key"}},
				"trouble:webhook": []map[string]any{{"reason": "wrong_signature", "count": 180, "last": now}},
			} {
				text, err := json.Marshal(state)
				if err != nil {
					t.Fatal(err)
				}
				if err := store.SaveSweep(t.Context(), mirror.Sweep{Name: row, State: text, Watermark: now}); err != nil {
					t.Fatal(err)
				}
			}
			code, s, text = ask(url, redis.URL)
			if code != exitFailed || len(s.Problems) != 2 || len(s.AccountsRefused) != 1 || len(s.Sweeps) != 0 {
				t.Errorf("exit %d, problems %v, refused %v, sweeps %v", code, s.Problems, s.AccountsRefused, s.Sweeps)
			}
			for _, want := range []string{"stripe refuses the key", "Invalid API Key", "180 since", "STRIPE_WEBHOOK_SECRET"} {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
		})
	}
	code, out, _ := cli(t, []string{"CREDITMIRROR_DATABASE_URL=postgres://nobody@127.0.0.1:1/x", "CREDITMIRROR_REDIS_URL=" + redis.URL}, "status")
	if code != exitFailed || !strings.Contains(out, "the mirror's database does not answer") || !strings.Contains(out, "queue") {
		t.Errorf("database away: exit %d\n%s", code, out)
	}
}

// Grants in custom pricing units are counted, since no figure has them.
func TestStatusCountsGrantsThatAreNotMoney(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, store := open(t)
			t.Cleanup(func() { _ = store.Close() })
			if err := store.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			put := func(id, kind, currency string, amount int64) {
				t.Helper()
				_, err := store.InsertGrants(t.Context(), "", []mirror.CreditGrant{{
					ID: id, Customer: "cus_1", AmountType: kind, Currency: currency, Amount: amount, Category: "paid", Priority: 50,
					Created: time.Unix(1_700_000_000, 0), Updated: time.Unix(1_700_000_000, 0),
					ApplicabilityConfig: json.RawMessage(`{"scope":{"price_type":"metered"}}`), Metadata: json.RawMessage(`{}`),
					Raw: json.RawMessage(`{"id":"` + id + `","object":"billing.credit_grant","amount":{"type":"` + kind + `"}}`),
				}})
				if err != nil {
					t.Fatal(err)
				}
			}
			ask := func() (n int64, text string) {
				t.Helper()
				environ := []string{"CREDITMIRROR_DATABASE_URL=" + url}
				_, out, errOut := cli(t, environ, "status", "--json")
				var s app.Status
				if err := json.Unmarshal([]byte(out), &s); err != nil {
					t.Fatalf("%v: %s %s", err, out, errOut)
				}
				_, text, _ = cli(t, environ, "status")
				return s.GrantsNotMonetary, text
			}
			put("credgr_money", "monetary", "usd", 500)
			if n, text := ask(); n != 0 || strings.Contains(text, "custom pricing units") {
				t.Errorf("money alone: %d\n%s", n, text)
			}
			put("credgr_units", "custom_pricing_unit", "", 0)
			put("credgr_more", "custom_pricing_unit", "", 0)
			if n, text := ask(); n != 2 || !strings.Contains(text, "2 credit grants in custom pricing units: no figure counts them") {
				t.Errorf("two that are not: %d\n%s", n, text)
			}
		})
	}
}

// A key of an organisation is refused by every command that calls Stripe, in words that
// help, and is not shown.
func TestKeysOfOrganisationsAreRefused(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{{"serve"}, {"backfill"}, {"reconcile", "balances"}, {"endpoint", "check", "--url", "https://a.example/webhooks/stripe"}, {"endpoint", "list", "--thin"}} {
		code, out, errOut := cli(t, []string{"STRIPE_API_KEY=sk_org_live_Canary", "STRIPE_WEBHOOK_SECRET=whsec_x"}, command...)
		if code != exitUsage || !strings.Contains(errOut, "STRIPE_API_KEY (") || !strings.Contains(errOut, "is a key of an organisation (sk_org_…)") || strings.Contains(out+errOut, "Canary") {
			t.Errorf("%v: exit %d, %s", command, code, errOut)
		}
	}
}
