package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	books "github.com/creditmirror/creditmirror/report"
	"github.com/creditmirror/creditmirror/stripesim"
)

// threeYears is a life of invoices, credit notes, voids, expiries, pending grants and
// corrections, in several currencies and accounts, across leap days and clock changes.
const threeYears = `about Three years of everything.
start 2023-11-03T22:30:00Z
account acct_north
price usage currency=usd unit=1 metered
customers plain 14 currency=usd balance=-3000..500
customers north 8 account=acct_north currency=eur
customers yen 5 currency=jpy balance=-9000..-1
repeat 24
  grant plain amount=500..9000 category=paid expires=200d name="Prepaid" share=0.3
  grant plain amount=100..900 category=promotional starts=45d expires=90d name="Later" share=0.3
  grant north amount=100..900 category=promotional starts=400d share=0.1
  void plain share=0.1
  expire plain share=0.1
  invoice plain usage=usage quantity=10..3000 share=0.6
  invoice north amount=900..9000 share=0.4 end=overpaid
  note plain percent=10..60 share=0.2
  void_invoice plain share=0.1
  pay plain share=0.3
  adjust plain amount=-3000..500 description="Goodwill" share=0.4
  adjust plain amount=-500..-1 currency=eur description="Outside" share=0.2
  adjust yen amount=-900..900 share=0.5
  adjust north amount=-500..-1 currency=chf share=0.2
  set yen balance=-1000..1000 share=0.1
  advance 29d
  advance 13h
  edit plain share=0.1
end
now
`

// fact is a movement as the simulator's own log has it.
type fact struct {
	account, customer, ledger, currency, line string
	at                                        int64
	amount                                    int64
}

// world is a simulator with a past, and what really happened there.
type world struct {
	sim *stripesim.Server
	url string
}

// newWorld plays a scenario.
func newWorld(t *testing.T, script string, seed int64) *world {
	t.Helper()
	sim, err := stripesim.New(stripesim.Options{Seed: seed, LogSize: 200_000})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim.Handler())
	t.Cleanup(func() {
		server.Close()
		sim.Close()
	})
	sc, err := stripesim.ParseScenario(strings.NewReader(script))
	if err != nil {
		t.Fatal(err)
	}
	if err := stripesim.NewPlay(sim, sc, seed).Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	return &world{sim: sim, url: server.URL}
}

// remove deletes a customer at the simulator.
func (w *world) remove(t *testing.T, account, customer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, w.url+"/v1/customers/"+customer, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer sk_test_x")
	if account != "" {
		req.Header.Set("Stripe-Account", account)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("delete %s: %v, %v", customer, resp, err)
	}
	resp.Body.Close()
}

// announce puts the events of the deletions into the inbox.
func (w *world) announce(t *testing.T, environ []string) {
	t.Helper()
	cfg, err := config.Load(environ, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := openMirror(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var events []mirror.Event
	for _, e := range w.sim.Log(0, 1_000_000) {
		if e.What == "customer.deleted" {
			events = append(events, mirror.Event{
				ID: "evt_" + e.ID, Type: mirror.EventCustomerDeleted, Account: e.Account, Customer: e.ID, Created: time.Unix(e.At, 0),
			})
		}
	}
	if _, err := store.RecordEvents(t.Context(), events); err != nil {
		t.Fatal(err)
	}
}

// facts replays the log: each movement from when on it counts.
func (w *world) facts(t *testing.T) []fact {
	t.Helper()
	effective := map[string]int64{}
	rows := map[string]struct {
		grant     string
		effective int64
	}{}
	for _, truth := range w.sim.Truth() {
		for _, raw := range truth.Grants {
			var g struct {
				ID          string `json:"id"`
				EffectiveAt int64  `json:"effective_at"`
			}
			if err := json.Unmarshal(raw, &g); err != nil {
				t.Fatal(err)
			}
			effective[g.ID] = g.EffectiveAt
		}
		for _, raw := range truth.CreditTransactions {
			var r struct {
				ID          string `json:"id"`
				Grant       string `json:"credit_grant"`
				EffectiveAt int64  `json:"effective_at"`
			}
			if err := json.Unmarshal(raw, &r); err != nil {
				t.Fatal(err)
			}
			row := rows[r.ID]
			row.grant, row.effective = r.Grant, r.EffectiveAt
			rows[r.ID] = row
		}
	}
	var list []fact
	gone := map[string]int64{}
	for _, e := range w.sim.Log(0, 1_000_000) {
		f := fact{account: e.Account, customer: e.Customer, currency: e.Currency, line: e.Detail, at: e.At, amount: e.Amount}
		switch e.What {
		case "balance_transaction.created":
			f.ledger = "balance"
		case "credit_transaction.created":
			f.ledger = "credits"
			f.at = max(rows[e.ID].effective, effective[rows[e.ID].grant])
		case "customer.deleted":
			gone[e.ID] = e.At
			continue
		default:
			continue
		}
		list = append(list, f)
	}
	type held struct{ account, customer, ledger, currency string }
	sums := map[held]int64{}
	list = slices.DeleteFunc(list, func(f fact) bool {
		at, deleted := gone[f.customer]
		if deleted && f.at <= at {
			sums[held{f.account, f.customer, f.ledger, f.currency}] += f.amount
		}
		return deleted && f.at > at
	})
	for h, sum := range sums {
		list = append(list, fact{h.account, h.customer, h.ledger, h.currency, "customer_deleted", gone[h.customer], -sum})
	}
	return list
}

// table runs a command and reads its CSV without the header.
func table(t *testing.T, environ []string, args ...string) [][]string {
	t.Helper()
	code, out, errOut := cli(t, environ, append(args, "--format", "csv")...)
	if code != 0 {
		t.Fatalf("%v: exit %d: %s\n%s", args, code, errOut, out)
	}
	lines, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return lines[1:]
}

// number reads an amount.
func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// mirrors lists an environment for each database, over the same simulator.
func mirrors(t *testing.T, w *world) map[string][]string {
	t.Helper()
	var accounts []string
	for _, truth := range w.sim.Truth() {
		if truth.Account != "" && !slices.Contains(accounts, truth.Account) {
			accounts = append(accounts, truth.Account)
		}
	}
	common := []string{
		"STRIPE_API_KEY=sk_test_x", "STRIPE_API_BASE=" + w.url, "STRIPE_ACCOUNTS=" + strings.Join(accounts, ","),
		"CREDITMIRROR_STRIPE_RPS=5000", "CREDITMIRROR_STRIPE_ENDPOINT_RPS=5000",
	}
	return map[string][]string{
		"sqlite":   append(slices.Clone(common), "CREDITMIRROR_DATABASE_URL=sqlite:"+filepath.Join(t.TempDir(), "m.db")),
		"postgres": append(slices.Clone(common), "CREDITMIRROR_DATABASE_URL="+pgtest.NewDatabase(t)),
	}
}

func backfilled(t *testing.T, environ []string) {
	t.Helper()
	if code, _, errOut := cli(t, environ, "backfill", "--log-level", "error"); code != 0 {
		t.Fatalf("backfill: exit %d: %s", code, errOut)
	}
}

// TestBooksEqualTheSimulatorsLog: at any moment every balance is what a replay of what
// really happened gives, and every line of a roll-forward too, to the unit.
func TestBooksEqualTheSimulatorsLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, threeYears, 5)
	dbs := mirrors(t, w)
	for _, environ := range dbs {
		backfilled(t, environ)
	}
	// Some are deleted after they were copied; the events say when.
	for i, truth := range w.sim.Truth() {
		if i%7 == 3 && !truth.Deleted {
			w.remove(t, truth.Account, truth.ID)
		}
	}
	facts := w.facts(t)
	for name, environ := range dbs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w.announce(t, environ)
			if code, out, errOut := cli(t, environ, "reconcile", "balances", "--log-level", "error"); code != 0 {
				t.Fatalf("reconcile: exit %d: %s%s", code, out, errOut)
			}
			rng := rand.New(rand.NewPCG(1, 2))
			now := time.Now().Unix()
			moments := []int64{now}
			for range 6 {
				moments = append(moments, facts[rng.IntN(len(facts))].at+rng.Int64N(3)-1)
			}
			for _, at := range moments {
				checkBalances(t, environ, facts, at)
			}
			checkRollforward(t, environ, facts, "month", "UTC", "2023-11-10T00:00:00Z", "2026-02-15T07:00:00Z", 10)
			checkRollforward(t, environ, facts, "month", "Europe/Berlin", "2024-02-01", "2025-04-01", 10)
			checkRollforward(t, environ, facts, "day", "America/New_York", "2024-02-25", "2024-03-20", 10)
			checkRollforward(t, environ, facts, "month", "Asia/Kolkata", "2024-01-01", time.Now().AddDate(0, 0, 2).Format(time.DateOnly), 10)
		})
	}
}

func checkBalances(t *testing.T, environ []string, facts []fact, at int64) {
	t.Helper()
	want, total, count := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, f := range facts {
		if f.at <= at {
			want[strings.Join([]string{f.account, f.customer, f.ledger, f.currency}, ",")] += f.amount
		}
	}
	for k, amount := range want {
		if amount == 0 {
			delete(want, k)
			continue
		}
		p := strings.Split(k, ",")
		key := strings.Join([]string{p[0], p[2], p[3]}, ",")
		total[key] += amount
		count[key]++
	}
	asOf := time.Unix(at, 0).UTC().Format(time.RFC3339)
	for _, r := range table(t, environ, "balances", "--as-of", asOf) {
		k := strings.Join(r[:4], ",")
		if number(t, r[4]) != want[k] || r[5] != asOf {
			t.Errorf("as of %s: %v, want %d", asOf, r, want[k])
		}
		delete(want, k)
	}
	if len(want) > 0 {
		t.Errorf("as of %s: missing %v", asOf, want)
	}
	for _, r := range table(t, environ, "balances", "--total", "--as-of", asOf) {
		k := strings.Join(r[:3], ",")
		if number(t, r[4]) != total[k] || number(t, r[3]) != count[k] {
			t.Errorf("total as of %s: %v, want %d of %d", asOf, r, total[k], count[k])
		}
		delete(total, k)
		delete(count, k)
	}
	for k, amount := range total {
		if amount != 0 || count[k] != 0 {
			t.Errorf("total as of %s: %s is missing", asOf, k)
		}
	}
}

func checkRollforward(t *testing.T, environ []string, facts []fact, by, zone, from, to string, least int) {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	bound := func(s string) time.Time {
		b, err := books.ParseBound(s, loc)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var held int64
	periods := 0
	for _, r := range table(t, environ, "rollforward", "--by", by, "--timezone", zone, "--from", from, "--to", to) {
		start, err := time.Parse(time.RFC3339, r[3])
		if err != nil {
			t.Fatal(err)
		}
		end, err := time.Parse(time.RFC3339, r[4])
		if err != nil {
			t.Fatal(err)
		}
		local := end.In(loc)
		if whole := local.Hour() == 0 && local.Minute() == 0 && (by == "day" || local.Day() == 1); !whole && !end.Equal(bound(to)) {
			t.Errorf("a period ends at %s", local)
		}
		var want int64
		for _, f := range facts {
			at := time.Unix(f.at, 0)
			if f.account != r[0] || f.ledger != r[1] || f.currency != r[2] {
				continue
			}
			in := !at.Before(start) && at.Before(end)
			if r[5] == "opening" && at.Before(start) || r[5] == "closing" && at.Before(end) || r[5] == f.line && in {
				want += f.amount
			}
		}
		amount := number(t, r[6])
		if amount != want {
			t.Errorf("%s %s: %v, want %d", by, zone, r, want)
		}
		switch r[5] {
		case "opening":
			periods++
			held = amount
		case "closing":
			if held != amount {
				t.Errorf("%s %s: %v, but opening and movements make %d", by, zone, r, held)
			}
		default:
			held += amount
		}
	}
	if periods < least {
		t.Errorf("%s %s: only %d periods", by, zone, periods)
	}
}
