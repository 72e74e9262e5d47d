package stripesim

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// row is what the invariants need of either ledger's rows.
type row struct {
	ID       string `json:"id"`
	Amount   int64  `json:"amount"`
	Ending   int64  `json:"ending_balance"`
	Currency string `json:"currency"`
	Created  int64  `json:"created"`
	Grant    string `json:"credit_grant"`
	Credit   *part  `json:"credit"`
	Debit    *part  `json:"debit"`
}

type part struct {
	Amount struct {
		Monetary struct {
			Currency string `json:"currency"`
			Value    int64  `json:"value"`
		} `json:"monetary"`
	} `json:"amount"`
}

func decode[T any](raw json.RawMessage) T {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		panic(err)
	}
	return v
}

// closes finds an order of rows in which each ending balance follows from the one
// before, as a mirror has to: rows of one second come in any order.
func closes(rows []row, from int64) bool {
	if len(rows) == 0 {
		return true
	}
	for i, r := range rows {
		if r.Created != rows[0].Created {
			break
		}
		if r.Ending != from+r.Amount {
			continue
		}
		rest := append(append([]row{}, rows[:i]...), rows[i+1:]...)
		if closes(rest, r.Ending) {
			return true
		}
	}
	return false
}

// broken returns what is wrong with a customer's ledgers, "" if nothing is.
func broken(tr CustomerTruth) string {
	c := decode[struct {
		Balance  int64            `json:"balance"`
		Currency string           `json:"currency"`
		Credit   map[string]int64 `json:"invoice_credit_balance"`
	}](tr.Customer)
	chains, sums := map[string][]row{}, map[string]int64{}
	for i := len(tr.BalanceTransactions) - 1; i >= 0; i-- {
		r := decode[row](tr.BalanceTransactions[i])
		chains[r.Currency] = append(chains[r.Currency], r)
		sums[r.Currency] += r.Amount
	}
	for cur, chain := range chains {
		if !closes(chain, 0) {
			return "chain of " + cur + " does not close"
		}
		if !tr.Deleted && c.Credit[cur] != -sums[cur] {
			return fmt.Sprintf("invoice_credit_balance[%s] is %d, the sum %d", cur, c.Credit[cur], sums[cur])
		}
	}
	if !tr.Deleted && c.Balance != sums[c.Currency] {
		return fmt.Sprintf("balance is %d, the sum %d", c.Balance, sums[c.Currency])
	}
	amounts, left, ledger := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, raw := range tr.Grants {
		g := decode[struct {
			ID     string `json:"id"`
			Amount struct {
				Monetary struct {
					Value int64 `json:"value"`
				} `json:"monetary"`
			} `json:"amount"`
		}](raw)
		amounts[g.ID] = g.Amount.Monetary.Value
	}
	for _, raw := range tr.CreditTransactions {
		r := decode[row](raw)
		p, sign := r.Credit, int64(1)
		if p == nil {
			p, sign = r.Debit, -1
		}
		left[r.Grant] += sign * p.Amount.Monetary.Value
		ledger[p.Amount.Monetary.Currency] += sign * p.Amount.Monetary.Value
	}
	for id, n := range left {
		if n < 0 || n > amounts[id] {
			return fmt.Sprintf("grant %s has %d of %d", id, n, amounts[id])
		}
	}
	for cur, n := range tr.LedgerBalances {
		if ledger[cur] != n {
			return fmt.Sprintf("ledger of %s is %d, its rows say %d", cur, n, ledger[cur])
		}
	}
	return ""
}

// TestLedgersCloseInEveryHistory drives the API with any sequence of requests,
// wrong ones included.
func TestLedgersCloseInEveryHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := newHand()
		s, err := New(Options{
			Now: h.now, Seed: rapid.Int64().Draw(rt, "seed"),
			Switches: Switches{PendingGrantRowLate: rapid.Bool().Draw(rt, "late")},
		})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		handler, steps := s.Handler(), 0
		check := func() {
			for _, tr := range s.Truth() {
				if bad := broken(tr); bad != "" {
					rt.Fatalf("%s: %s", tr.ID, bad)
				}
			}
		}
		customers, grants, invoices := []string{"cus_none"}, []string{"credgr_none"}, []string{}
		pick := func(list []string) string { return rapid.SampledFrom(list).Draw(rt, "which") }
		post := func(method, path string, pairs ...string) answer {
			r := &recorder{header: http.Header{}}
			q, _ := http.NewRequest(method, "http://x"+path, strings.NewReader(encodeForm(pairs...)))
			q.Header.Set("Authorization", "Bearer "+testKey)
			q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			handler.ServeHTTP(r, q)
			if r.status >= 500 {
				rt.Fatalf("%s %s: %d", method, path, r.status)
			}
			a := answer{status: r.status}
			_ = json.Unmarshal(r.body, &a.obj)
			return a
		}
		currency := func() string { return rapid.SampledFrom([]string{"usd", "eur", "jpy"}).Draw(rt, "currency") }
		amount := func() int64 { return rapid.Int64Range(-500, 500).Draw(rt, "amount") }
		keep := func(list *[]string, r answer) {
			if r.status == 200 {
				*list = append(*list, r.str("id"))
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create": func(*rapid.T) { keep(&customers, post("POST", "/v1/customers", fmt.Sprintf("balance=%d", amount()))) },
			"update": func(*rapid.T) { post("POST", "/v1/customers/"+pick(customers), fmt.Sprintf("balance=%d", amount())) },
			"adjust": func(*rapid.T) {
				post("POST", "/v1/customers/"+pick(customers)+"/balance_transactions", fmt.Sprintf("amount=%d", amount()), "currency="+currency())
			},
			"delete": func(*rapid.T) { post("DELETE", "/v1/customers/"+pick(customers)) },
			"time":   func(*rapid.T) { h.forward(rapid.Int64Range(1, 50).Draw(rt, "seconds")) },
			"expire": func(*rapid.T) { post("POST", "/v1/billing/credit_grants/"+pick(grants)+"/expire") },
			"void":   func(*rapid.T) { post("POST", "/v1/billing/credit_grants/"+pick(grants)+"/void") },
			"prolong": func(*rapid.T) {
				post("POST", "/v1/billing/credit_grants/"+pick(grants), fmt.Sprintf("expires_at=%d", h.seconds()+40))
			},
			"grant": func(*rapid.T) {
				keep(&grants, post("POST", "/v1/billing/credit_grants", "customer="+pick(customers), "amount[type]=monetary",
					"amount[monetary][currency]="+currency(), fmt.Sprintf("amount[monetary][value]=%d", amount()), "applicability_config[scope][price_type]=metered",
					fmt.Sprintf("effective_at=%d", h.seconds()+rapid.Int64Range(-10, 30).Draw(rt, "effective")),
					fmt.Sprintf("expires_at=%d", h.seconds()+rapid.Int64Range(10, 90).Draw(rt, "expires"))))
			},
			"balance": func(*rapid.T) {
				if r, err := s.ApplyBalance(InvoiceUse{Customer: pick(customers), Currency: currency(), Amount: amount()}); err == nil {
					invoices = append(invoices, r.Invoice)
				}
			},
			"credits": func(*rapid.T) {
				if r, err := s.ApplyCredits(InvoiceUse{Customer: pick(customers), Currency: currency(), Amount: amount()}); err == nil {
					invoices = append(invoices, r.Invoice)
				}
			},
			"return": func(*rapid.T) {
				if len(invoices) > 0 {
					_, _ = s.VoidInvoice("", pick(invoices))
				}
			},
			"": func(*rapid.T) {
				if steps++; steps%8 == 0 { // what breaks stays broken
					check()
				}
			},
		})
		check()
	})
}

// recorder is a ResponseWriter without a network.
type recorder struct {
	status int
	header http.Header
	body   []byte
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(n int)   { r.status = n }
func (r *recorder) Write(b []byte) (int, error) {
	r.body = append(r.body, b...)
	return len(b), nil
}

func TestTraffic(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Accounts: []string{"acct_a"}, Now: time.Now})
	r := receive(t, nil)
	s.hook(r.URL)
	tr, err := NewTraffic(s.Server, TrafficOptions{Seed: 7, Customers: 200, Changes: 2000, Accounts: []string{"", "acct_a"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Run(t.Context()); err == nil {
		t.Fatal("ran without customers")
	}
	if err := tr.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "no events of history", len(s.get("/v1/events").data()), 0)
	before := map[string]string{}
	for _, tr := range s.Truth() {
		before[tr.ID] = string(mustMarshal(tr))
	}
	equal(t, "customers", len(before), 200)
	if err := tr.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "changes", tr.Done(), 2000)
	s.settle()

	// Without the silent kinds, every customer that differs has an event.
	told := map[string]bool{}
	grants := map[string]string{}
	for _, a := range s.allAccounts() {
		for _, e := range a.events {
			told[e.customer] = true
		}
		for id, g := range a.grants {
			grants[id] = g.customer.id
		}
	}
	types := map[string]bool{}
	deleted := 0
	for _, tr := range s.Truth() {
		if bad := broken(tr); bad != "" {
			t.Fatalf("%s: %s", tr.ID, bad)
		}
		if tr.Deleted {
			deleted++
		}
		if string(mustMarshal(tr)) != before[tr.ID] && !told[tr.ID] {
			t.Fatalf("%s changed and no event tells", tr.ID)
		}
		for _, raw := range tr.BalanceTransactions {
			types[decode[struct{ Type string }](raw).Type] = true
		}
		for _, raw := range tr.CreditTransactions {
			x := decode[struct {
				Credit *struct{ Type string }
				Debit  *struct{ Type string }
			}](raw)
			if x.Credit != nil {
				types[x.Credit.Type] = true
			} else {
				types[x.Debit.Type] = true
			}
		}
	}
	if deleted == 0 {
		t.Error("nobody was deleted")
	}
	for _, typ := range []string{
		"adjustment", "initial", "applied_to_invoice", "unapplied_from_invoice", "credits_granted", "credits_applied", "credits_expired", "credits_voided",
	} {
		if !types[typ] {
			t.Errorf("no %s in the traffic", typ)
		}
	}
	if len(r.all()) < 1000 {
		t.Errorf("%d events delivered", len(r.all()))
	}
}

func TestTrafficRateAndStop(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now})
	tr, err := NewTraffic(s.Server, TrafficOptions{Customers: 3, Rate: 200, SilentEdits: true, OtherCurrencies: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := tr.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if n, most := tr.Done(), int64(time.Since(begin).Seconds()*200)+2; n < 1 || n > most {
		t.Fatalf("%d changes at 200/s, want 1 to %d", n, most)
	}
	for _, o := range []TrafficOptions{{Rate: -1}, {Accounts: []string{"acct_no"}}} {
		if _, err := NewTraffic(s.Server, o); err == nil {
			t.Errorf("took %+v", o)
		}
	}
}

func TestControlAPI(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now})
	call := func(method, path, body string) answer {
		t.Helper()
		q, _ := http.NewRequest(method, s.url+path, strings.NewReader(body))
		q.Header.Set("Content-Type", "application/json")
		resp, err := s.http.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var a answer
		a.status = resp.StatusCode
		var raw json.RawMessage
		if err := json.NewDecoder(resp.Body).Decode(&raw); err != nil {
			t.Fatal(err)
		}
		a.raw = raw
		_ = json.Unmarshal(raw, &a.obj)
		return a
	}
	cus := s.customer("balance=-500")
	s.grant(cus, 100)
	equal(t, "faults", call("PUT", "/_sim/faults", `[{"kind":"500","count":1,"delay":"5ms"}]`).status, 200)
	equal(t, "fault", s.do("GET", "/v1/customers").status, 500)
	equal(t, "faults", string(call("GET", "/_sim/faults", "").raw), `[{"kind":"500","count":1,"delay":"5ms"}]`)
	equal(t, "wrong fault", call("PUT", "/_sim/faults", `[{"kind":"odd"}]`).status, 400)
	equal(t, "unknown field", call("PUT", "/_sim/limits", `{"rps":1}`).status, 400)
	call("PUT", "/_sim/faults", `[]`)
	equal(t, "limits", call("PUT", "/_sim/limits", `{"endpoints":{"GET /v1/events":0.001}}`).status, 200)
	s.get("/v1/events")
	equal(t, "limited", s.do("GET", "/v1/events").status, 429)
	call("PUT", "/_sim/limits", `{}`)
	equal(t, "calls", call("GET", "/_sim/calls", "").num("GET /v1/events") == 0, false)
	call("DELETE", "/_sim/calls", "")
	equal(t, "calls", len(call("GET", "/_sim/calls", "").obj), 0)

	r := call("POST", "/_sim/invoices/apply_balance", fmt.Sprintf(`{"customer":%q,"amount":200}`, cus))
	equal(t, "applied", r.num("balance"), 200)
	inv := r.str("invoice")
	r = call("POST", "/_sim/invoices/apply_credits", fmt.Sprintf(`{"customer":%q,"amount":30,"invoice":%q}`, cus, inv))
	equal(t, "credits", r.num("credits"), 30)
	equal(t, "unapplied", call("POST", "/_sim/invoices/unapply", fmt.Sprintf(`{"invoice":%q}`, inv)).num("balance"), -200)
	equal(t, "voided", call("POST", "/_sim/invoices/void", fmt.Sprintf(`{"invoice":%q}`, inv)).num("credits"), 30)
	equal(t, "void twice", call("POST", "/_sim/invoices/void", fmt.Sprintf(`{"invoice":%q}`, inv)).status, 400)
	r = call("POST", "/_sim/balance_transactions", fmt.Sprintf(`{"customer":%q,"amount":-3,"currency":"usd","type":"migration"}`, cus))
	equal(t, "transaction", strings.HasPrefix(r.str("id"), "cbtxn_"), true)

	equal(t, "account", call("POST", "/_sim/accounts", `{"id":"acct_new"}`).status, 200)
	equal(t, "key", call("POST", "/_sim/keys", `{"key":"`+testKey+`","state":"revoked"}`).status, 200)
	equal(t, "revoked", s.do("GET", "/v1/customers").status, 401)
	call("POST", "/_sim/keys", `{"key":"`+testKey+`","state":"active"}`)
	equal(t, "restored", s.do("GET", "/v1/customers").status, 200)

	var truth []CustomerTruth
	if err := json.Unmarshal(call("GET", "/_sim/truth", "").raw, &truth); err != nil || len(truth) != 1 || len(truth[0].BalanceTransactions) != 4 {
		t.Fatalf("truth: %v %+v", err, truth)
	}
	if err := json.Unmarshal(call("GET", "/_sim/truth?customer="+cus, "").raw, &truth); err != nil || len(truth) != 1 {
		t.Fatalf("truth: %v %+v", err, truth)
	}
	equal(t, "settle", call("GET", "/_sim/settle?timeout=5s", "").status, 200)

	equal(t, "traffic", call("POST", "/_sim/traffic", `{"customers":5,"changes":20,"seed":1}`).status, 200)
	until(t, func() bool { return call("GET", "/_sim/traffic", "").at("running") == false })
	equal(t, "changes", call("GET", "/_sim/traffic", "").num("changes"), 20)
	equal(t, "traffic", call("POST", "/_sim/traffic", `{"customers":5,"rate":1}`).status, 200)
	equal(t, "twice", call("POST", "/_sim/traffic", `{}`).status, 400)
	equal(t, "stopped", call("DELETE", "/_sim/traffic", "").at("running"), any(false))
	equal(t, "unknown", call("GET", "/_sim/nothing", "").status, 404)

	hold := make(chan struct{})
	recv := receive(t, func(int, *http.Request) int { <-hold; return 200 })
	s.hook(recv.URL)
	s.customer()
	equal(t, "unsettled", call("GET", "/_sim/settle?timeout=10ms", "").status, 504)
	close(hold)
	equal(t, "settled", call("GET", "/_sim/settle", "").status, 200)
	equal(t, "endpoints", strings.Contains(string(call("GET", "/_sim/endpoints", "").raw), `"delivered":1`), true)
}

// Traffic that the command line started is the control API's to see and to stop.
func TestDrivenTrafficIsControlled(t *testing.T) {
	t.Parallel()
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	traffic, err := NewTraffic(s, TrafficOptions{Customers: 3, Rate: 200})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ended := make(chan error, 1)
		go func() { ended <- s.Drive(t.Context(), traffic) }()
		until(t, func() bool { return s.trafficStatus().Running && s.trafficStatus().Changes > 0 })
		if err := s.Drive(t.Context(), traffic); err == nil {
			t.Error("two at once")
		}
		s.stopTraffic()
		if err := <-ended; err != nil || s.trafficStatus().Running {
			t.Errorf("%v, %+v", err, s.trafficStatus())
		}
	}
}

func BenchmarkListTen(b *testing.B) {
	s, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	tr, _ := NewTraffic(s, TrafficOptions{Customers: 1000, Changes: 10000})
	if err := tr.Seed(b.Context()); err != nil {
		b.Fatal(err)
	}
	_ = tr.Run(b.Context())
	h := s.Handler()
	for name, path := range map[string]string{
		"customers": "/v1/customers?expand[]=data.invoice_credit_balance", "events": "/v1/events", "grants": "/v1/billing/credit_grants",
	} {
		b.Run(name, func(b *testing.B) {
			q, _ := http.NewRequest("GET", "http://x"+path, nil)
			q.Header.Set("Authorization", "Bearer "+testKey)
			for b.Loop() {
				h.ServeHTTP(&recorder{header: http.Header{}}, q)
			}
		})
	}
}
