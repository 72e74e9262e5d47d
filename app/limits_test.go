package app

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/stripesim"
)

// withBoth runs a test on both databases.
func withBoth(t *testing.T, f func(t *testing.T, postgres bool)) {
	for name, postgres := range map[string]bool{"sqlite": false, "postgres": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, postgres)
		})
	}
}

// until waits for what comes of the work of others; none of it is late by the clock
// alone, however slow the machine is.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience.Of(2 * time.Minute)); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// seeded has customers, some of them with grants and one on a test clock.
func seeded(t testing.TB, s *stripesim.Server, deny ...string) {
	t.Helper()
	traffic, err := stripesim.NewTraffic(s, stripesim.TrafficOptions{Seed: 3, Customers: 25})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(deny) > 0 {
		if err := s.SetKey("sk_test_served", stripesim.KeyRestricted, deny...); err != nil {
			t.Fatal(err)
		}
	}
}

func succeeded(t testing.TB, a *App, sweep string) bool {
	t.Helper()
	s, err := a.Store().Sweep(t.Context(), "", sweep)
	if err != nil {
		t.Fatal(err)
	}
	return !s.LastSuccess.IsZero()
}

// What a key may not read is a stated limit of the mirror: the rest runs to its end,
// nothing is found that is no drift, and the missing permission is named.
func TestKeyWithoutOnePermission(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ deny, permission, part string }{
		{"GET /v1/billing", "Billing credits", "credits"},
		{"GET /v1/billing/credit_balance_transactions", "Billing credits", "credits"},
		{"GET /v1/test_helpers", "Test clocks", "test_clocks"},
		{"GET /v1/events", "Events", "events"},
		{"GET /v1/customers", "Customers", "balance"},
		{"GET /v1/billing/credit_balance_summary", "", ""},
	} {
		t.Run(test.deny, func(t *testing.T) {
			t.Parallel()
			withBoth(t, func(t *testing.T, postgres bool) {
				core, logs := observer.New(zapcore.WarnLevel)
				s := serveAPI(t, servedOptions{
					postgres: postgres, roles: []config.Role{config.RoleWorker, config.RoleReconcile}, log: zap.New(core),
					prepare: func(sim *stripesim.Server) { seeded(t, sim, test.deny) },
					tune: func(c *config.Config) {
						c.StripeAccounts = config.Accounts{}
						c.BalancesInterval, c.EventsInterval = time.Second, time.Second
					},
				})
				until(t, "the first copy ends", func() bool { return succeeded(t, s.app, reconcile.SweepBackfill) })
				until(t, "the balances sweep succeeds", func() bool { return succeeded(t, s.app, reconcile.SweepBalances) })

				// Work that comes later goes on, and the events of what cannot be read are nobody's
				// fault.
				customer := s.customer()
				s.stripe("POST", "/v1/customers/"+customer+"/balance_transactions", balanceForm("-7")).id(t)
				s.stripe("POST", "/v1/billing/credit_grants", grantForm(customer, "900")).id(t)
				if test.part != "balance" {
					until(t, "a change of a balance is mirrored", func() bool {
						rows, err := s.app.Store().BalanceTransactions(t.Context(), "", customer, mirror.Page{Limit: 10})
						return err == nil && len(rows.Rows) == 1
					})
				}
				if test.part != "credits" {
					until(t, "a grant is mirrored", func() bool {
						rows, err := s.app.Store().CreditTransactions(t.Context(), "", customer, "", mirror.Page{Limit: 10})
						return err == nil && len(rows.Rows) == 1
					})
				}
				first, err := s.app.Store().Sweep(t.Context(), "", reconcile.SweepBalances)
				if err != nil {
					t.Fatal(err)
				}
				until(t, "another balances sweep", func() bool {
					again, err := s.app.Store().Sweep(t.Context(), "", reconcile.SweepBalances)
					return err == nil && again.LastSuccess.After(first.LastSuccess)
				})
				until(t, "no finding stays open", func() bool {
					open, err := s.app.Store().Findings(t.Context(), mirror.FindingsQuery{Limit: 100})
					return err == nil && len(open) == 0
				})

				status, err := s.app.Status(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var ready Readiness
				resp := send(t, http.MethodGet, "http://"+s.app.Addrs().Ops, "/readyz", "", nil)
				if err := json.Unmarshal(resp.body, &ready); err != nil || resp.status != http.StatusOK || !ready.Ready {
					t.Fatalf("not ready: %d %s, %v", resp.status, resp.body, err)
				}
				for where, list := range map[string][]LimitStatus{"status": status.Limits, "readyz": ready.Limits} {
					switch {
					case test.part == "" && len(list) == 0:
					case len(list) != 1 || list[0].Part != test.part || list[0].Permission != test.permission || list[0].Without == "":
						t.Errorf("%s lists the limits %+v", where, list)
					}
				}
				told := 0
				for _, e := range logs.All() {
					permission := e.ContextMap()["permission"]
					switch {
					case strings.HasPrefix(e.Message, "stripe key lacks a permission; continuing"):
						told++
						if permission != test.permission {
							t.Errorf("the log names the permission %v", permission)
						}
					case strings.Contains(e.Message, "stripe refuses the key"):
						t.Errorf("calls stop, which they do not: %+v", e)
					}
				}
				if want := map[bool]int{true: 1}[test.part != ""]; told != want {
					t.Errorf("the log names the limit %d times, want %d", told, want)
				}
			})
		})
	}
}

// A ledger that the key may read later is added to a copy that is done, without a
// finding and without copying the rest anew.
func TestPermissionGivenLater(t *testing.T) {
	t.Parallel()
	withBoth(t, func(t *testing.T, postgres bool) {
		s := serveAPI(t, servedOptions{
			postgres: postgres, roles: []config.Role{config.RoleWorker, config.RoleWebhook},
			prepare: func(sim *stripesim.Server) { seeded(t, sim, "GET /v1/billing") },
			tune:    func(c *config.Config) { c.StripeAccounts = config.Accounts{} },
		})
		copier := s.app.parts.FirstCopy(0, zap.NewNop())
		if err := copier.Run(t.Context(), "", func(reconcile.Copied) {}); err != nil {
			t.Fatal(err)
		}
		missing := func() bool {
			sweep, err := s.app.Store().Sweep(t.Context(), "", reconcile.SweepBackfill)
			if err != nil {
				t.Fatal(err)
			}
			return copier.Missing(sweep)
		}
		var mu sync.Mutex
		calls := map[string]int{}
		s.hook(func(endpoint string, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			calls[endpoint]++
		})
		if err := copier.Add(t.Context(), "", func(reconcile.Copied) {}); err != nil || !missing() {
			t.Fatalf("a key that still may not read it: missing %v, %v", missing(), err)
		}
		if err := s.sim.SetKey("sk_test_served", stripesim.KeyActive); err != nil {
			t.Fatal(err)
		}
		if err := copier.Add(t.Context(), "", func(reconcile.Copied) {}); err != nil || missing() {
			t.Fatalf("a key that may read it: missing %v, %v", missing(), err)
		}
		mu.Lock()
		if calls["GET /v1/customers"] > 0 {
			t.Errorf("customers were listed again: %v", calls)
		}
		mu.Unlock()
		result, err := s.app.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", "")
		if err != nil || len(result.Findings) > 0 || len(result.Limited) > 0 || result.Grants == 0 {
			t.Errorf("after it: %+v, %v", result, err)
		}
		limits, err := reconcile.AllLimits(t.Context(), s.app.Store())
		if err != nil || len(limits) > 0 {
			t.Errorf("limits %+v, %v", limits, err)
		}
	})
}

// A ledger that is not wanted costs no call, is refused by the API, and leaves nothing
// waiting; one that was mirrored before is set aside.
func TestOneLedgerAlone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ ledgers, never, path string }{
		{"balance", "/v1/billing/", "/v1/billing/credit_grants"},
		{"credits", "/v1/customers", "/v1/customers"},
	} {
		t.Run(test.ledgers, func(t *testing.T) {
			t.Parallel()
			withBoth(t, func(t *testing.T, postgres bool) {
				var mu sync.Mutex
				var called []string
				s := serveAPI(t, servedOptions{
					postgres: postgres, roles: []config.Role{config.RoleWorker, config.RoleReconcile}, env: []string{"CREDITMIRROR_LEDGERS=" + test.ledgers},
					prepare: func(sim *stripesim.Server) { seeded(t, sim) },
					tune: func(c *config.Config) {
						c.StripeAccounts = config.Accounts{}
						c.BalancesInterval, c.EventsInterval = time.Second, time.Second
					},
				})
				s.hook(func(_ string, r *http.Request) {
					mu.Lock()
					defer mu.Unlock()
					if r.Method == http.MethodGet {
						called = append(called, r.URL.Path)
					}
				})
				until(t, "the first copy ends", func() bool { return succeeded(t, s.app, reconcile.SweepBackfill) })
				until(t, "the balances sweep succeeds", func() bool { return succeeded(t, s.app, reconcile.SweepBalances) })
				customer := s.customer()
				s.stripe("POST", "/v1/customers/"+customer+"/balance_transactions", balanceForm("-7")).id(t)
				s.stripe("POST", "/v1/billing/credit_grants", grantForm(customer, "900")).id(t)
				until(t, "what is wanted is mirrored", func() bool {
					rows, err := s.app.Store().BalanceTransactions(t.Context(), "", customer, mirror.Page{Limit: 10})
					credits, err2 := s.app.Store().CreditTransactions(t.Context(), "", customer, "", mirror.Page{Limit: 10})
					n := map[string]int{"balance": len(rows.Rows), "credits": len(credits.Rows)}
					for ledger, rows := range n {
						if ledger != test.ledgers && rows > 0 {
							t.Fatalf("%d rows of %s", rows, ledger)
						}
					}
					for _, err := range []error{err, err2} { // of the other ledger nothing may be known of the customer
						if err != nil && !errors.Is(err, mirror.ErrNotFound) {
							t.Fatal(err)
						}
					}
					return n[test.ledgers] == 1
				})
				until(t, "nothing waits", func() bool {
					pending, err := s.app.Store().PendingEvents(t.Context(), 0, 10)
					return err == nil && len(pending) == 0
				})
				mu.Lock()
				if slices.ContainsFunc(called, func(path string) bool { return strings.HasPrefix(path, test.never) }) {
					t.Errorf("called: %v", called)
				}
				mu.Unlock()
				a := s.get(test.path)
				if text := string(a.body); a.status != http.StatusNotFound || !strings.Contains(text, "CREDITMIRROR_LEDGERS") || !strings.Contains(text, test.path) {
					t.Errorf("%s: %d %s", test.path, a.status, a.body)
				}
				status, err := s.app.Status(t.Context())
				if err != nil || len(status.Ledgers) != 1 || string(status.Ledgers[0]) != test.ledgers || len(status.Limits) > 0 {
					t.Errorf("status lists %v, %v: %v", status.Ledgers, status.Limits, err)
				}
			})
		})
	}
}
