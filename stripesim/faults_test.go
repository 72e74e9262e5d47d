package stripesim

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
)

func TestReplyFaults(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	path := "/v1/customers/" + cus + "/balance_transactions"
	s.adjust(cus, -5, "usd")
	one := func(f Fault) (answer, error) {
		t.Helper()
		f.Count = 1
		if err := s.SetFaults(Faults{f}); err != nil {
			t.Fatal(err)
		}
		s.http.CloseIdleConnections() // so that net/http has no cause to retry
		r, err := s.request("GET", path, nil)
		if again := s.get(path); len(again.data()) != 1 {
			t.Fatalf("%s: struck twice", f.Kind)
		}
		return r, err
	}
	r, _ := one(Fault{Kind: FaultRateLimit})
	equal(t, "429", r.str("error.code"), "rate_limit")
	r, _ = one(Fault{Kind: FaultLock})
	equal(t, "lock", r.str("error.code"), "lock_timeout")
	equal(t, "no reason", r.header.Get("Stripe-Rate-Limited-Reason"), "")
	r, _ = one(Fault{Kind: Fault500})
	equal(t, "500", r.status, 500)
	r, _ = one(Fault{Kind: Fault502})
	equal(t, "502", r.status, 502)
	equal(t, "html", r.header.Get("Content-Type"), "text/html")
	r, _ = one(Fault{Kind: FaultTruncated})
	equal(t, "truncated", r.status, 200)
	if json.Valid(r.raw) || len(r.raw) == 0 {
		t.Fatalf("not truncated: %s", r.raw)
	}
	if _, err := one(Fault{Kind: FaultReset}); err == nil {
		t.Fatal("no reset")
	}
	r, _ = one(Fault{Kind: FaultEmptyPage})
	equal(t, "has_more", r.at("has_more"), any(true))
	equal(t, "empty", len(r.data()), 0)
	r, _ = one(Fault{Kind: FaultOversize, Bytes: 1 << 20})
	equal(t, "oversize", len(r.raw), 1<<20)
	equal(t, "valid", len(r.data()), 1)
	r, _ = one(Fault{Kind: FaultNonsense})
	equal(t, "nonsense", r.str("object"), "nonsense")
	begin := time.Now()
	r, _ = one(Fault{Kind: FaultSlow, Delay: Duration(30 * time.Millisecond)})
	equal(t, "slow", r.status, 200)
	if time.Since(begin) < 30*time.Millisecond {
		t.Fatal("not slow")
	}
}

func TestFaultsAreLimited(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Accounts: []string{"acct_a"}})
	poison, fine := s.customer(), s.customer()
	g := s.grant(poison, 5).str("id")
	status := func(path string) int { t.Helper(); return s.do("GET", path).status }
	set := func(fs ...Fault) {
		t.Helper()
		if err := s.SetFaults(fs); err != nil {
			t.Fatal(err)
		}
	}
	set(Fault{Kind: Fault500, Probability: 1, Customer: poison})
	equal(t, "path", status("/v1/customers/"+poison+"/balance_transactions"), 500)
	equal(t, "query", status("/v1/billing/credit_grants?customer="+poison), 500)
	equal(t, "its grant", status("/v1/billing/credit_grants/"+g), 500)
	equal(t, "other customer", status("/v1/customers/"+fine), 200)
	equal(t, "list", status("/v1/customers"), 200)

	set(Fault{Kind: Fault500, Probability: 1, Endpoint: "GET /v1/customers/{id}"})
	equal(t, "endpoint", status("/v1/customers/"+fine), 500)
	equal(t, "other endpoint", status("/v1/customers/"+fine+"/balance_transactions"), 200)

	set(Fault{Kind: Fault500, Probability: 1, Account: "acct_a"})
	equal(t, "platform", status("/v1/customers"), 200)
	r, _ := s.request("GET", "/v1/customers", http.Header{"Stripe-Account": {"acct_a"}})
	equal(t, "account", r.status, 500)

	// A script: two pass, then 429, 429, 502, and from then on all is well.
	set(Fault{Kind: FaultRateLimit, Skip: 2, Count: 2}, Fault{Kind: Fault502, Skip: 2, Count: 1})
	var got []int
	for range 7 {
		got = append(got, status("/v1/customers"))
	}
	if !slices.Equal(got, []int{200, 200, 429, 429, 502, 200, 200}) {
		t.Fatal(got)
	}
	set(Fault{Kind: Fault500})
	equal(t, "neither probability nor count", status("/v1/customers"), 200)
	set(Fault{Kind: Fault500, Probability: 0.5})
	bad := 0
	for range 100 {
		if status("/v1/customers") == 500 {
			bad++
		}
	}
	if bad < 20 || bad > 80 {
		t.Fatalf("%d of 100 failed", bad)
	}
}

func TestSlowAfterIsStale(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	if err := s.SetFaults(Faults{
		{Kind: FaultSlow, Count: 1, After: true, Delay: Duration(200 * time.Millisecond), Endpoint: listBalanceTxns},
		{Kind: FaultListLag, Count: 1, Requests: 1},
	}); err != nil {
		t.Fatal(err)
	}
	row := s.account("").txns[s.adjust(cus, -1, "usd").str("id")]
	got := make(chan answer)
	go func() {
		r, _ := s.request("GET", "/v1/customers/"+cus+"/balance_transactions", nil)
		got <- r
	}()
	// The lagging row shows when the list has been made: it counts list requests.
	until(t, func() bool { return row.lag.reads.Load() == 0 })
	s.adjust(cus, -2, "usd")
	r := <-got
	equal(t, "status", r.status, 200)
	equal(t, "rows at the time", len(r.data()), 0)
	equal(t, "rows now", len(s.get("/v1/customers/"+cus+"/balance_transactions").data()), 2)
}

// until polls for a condition that another goroutine brings about.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience.Of(5 * time.Second))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 5s")
		}
		<-tick.C
	}
}

func TestListLag(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]Fault{
		"requests": {Kind: FaultListLag, Probability: 1, Requests: 2, Endpoint: listBalanceTxns},
		"time":     {Kind: FaultListLag, Probability: 1, Delay: Duration(10 * time.Second), Endpoint: listBalanceTxns},
	} {
		s := start(t, Options{})
		cus := s.customer()
		s.adjust(cus, -1, "usd")
		s.hand.forward(1)
		if err := s.SetFaults(Faults{f}); err != nil {
			t.Fatal(err)
		}
		id := s.adjust(cus, -5, "usd").str("id")
		path := "/v1/customers/" + cus + "/balance_transactions"
		equal(t, name+": balance is current", s.get("/v1/customers/"+cus).num("balance"), -6)
		equal(t, name+": event is there", len(s.eventTypes("type=customer.updated")), 2)
		equal(t, name+": first", len(s.get(path).data()), 1)
		equal(t, name+": second", len(s.get(path).data()), 1)
		s.get(path + "/" + id)
		equal(t, name+": truth", len(s.Truth()[0].BalanceTransactions), 2)
		s.hand.forward(10)
		equal(t, name+": third", len(s.get(path).data()), 2)
	}
}

func TestEventFaults(t *testing.T) {
	t.Parallel()
	run := func(f Fault, changes int) (s *sim, got []string) {
		t.Helper()
		s = start(t, Options{Delivery: quick})
		r := receive(t, nil)
		s.hook(r.URL)
		cus := s.customer()
		s.settle()
		f.Event = "customer.updated"
		if err := s.SetFaults(Faults{f}); err != nil {
			t.Fatal(err)
		}
		for range changes {
			s.adjust(cus, -1, "usd")
		}
		s.settle()
		return s, r.ids()[1:]
	}
	s, got := run(Fault{Kind: FaultEventLost, Count: 1}, 3)
	equal(t, "lost: sent", len(got), 2)
	equal(t, "lost: listed", len(s.eventTypes("type=customer.updated")), 2)
	equal(t, "lost: done all the same", len(s.Truth()[0].BalanceTransactions), 3)

	s, got = run(Fault{Kind: FaultEventTwice, Count: 1}, 1)
	equal(t, "twice: sent", len(got), 2)
	equal(t, "twice: ids", got[0] != got[1], true)
	equal(t, "twice: listed", len(s.eventTypes("type=customer.updated")), 2)

	s, got = run(Fault{Kind: FaultWebhookDrop, Count: 1}, 2)
	equal(t, "drop: sent", len(got), 1)
	equal(t, "drop: undelivered", len(s.eventTypes("delivery_success=false")), 1)

	s, got = run(Fault{Kind: FaultWebhookLost, Count: 1}, 2)
	equal(t, "lost on the way: sent", len(got), 1)
	equal(t, "lost on the way: undelivered", len(s.eventTypes("delivery_success=false")), 0)
	equal(t, "lost on the way: listed", len(s.eventTypes("type=customer.updated")), 2)

	s, got = run(Fault{Kind: FaultWebhookDuplicate, Count: 1}, 1)
	equal(t, "duplicate: sent", len(got), 2)
	equal(t, "duplicate: id", got[0], got[1])
	equal(t, "duplicate: pending", s.get("/v1/events/"+got[0]).num("pending_webhooks"), 0)

	begin := time.Now()
	_, got = run(Fault{Kind: FaultWebhookDelay, Count: 1, Delay: Duration(50 * time.Millisecond)}, 2)
	equal(t, "delay: sent", len(got), 2)
	if time.Since(begin) < 50*time.Millisecond {
		t.Fatal("not delayed")
	}

	s, got = run(Fault{Kind: FaultWebhookReorder, Probability: 1, Delay: Duration(100 * time.Millisecond)}, 20)
	equal(t, "reorder: sent", len(got), 20)
	byBalance := map[string]float64{}
	for _, e := range s.get("/v1/events", "type=customer.updated", "limit=100").data() {
		byBalance[e["id"].(string)] = e["data"].(obj)["object"].(obj)["balance"].(float64)
	}
	if slices.IsSortedFunc(got, func(a, b string) int { return int(byBalance[b] - byBalance[a]) }) {
		t.Fatal("delivered in order")
	}
}

func TestChaosIsValid(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Faults: Chaos()})
	equal(t, "rules", len(s.faults.get()), len(Chaos()))
	b, err := json.Marshal(Chaos())
	if err != nil {
		t.Fatal(err)
	}
	var back Faults
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(back, Chaos()) {
		t.Fatalf("JSON does not round-trip: %s", b)
	}
	if !strings.Contains(string(b), `"delay":"1s"`) {
		t.Fatalf("durations: %s", b)
	}
}
