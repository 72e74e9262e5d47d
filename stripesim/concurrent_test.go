package stripesim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestManyClientsAtOnce lets many clients write to the same few customers, while
// others read, save the state, look at the console and change faults, switches,
// limits and endpoints. The ledgers close, each change of a balance has its one
// event, each event is delivered, and nothing stays behind.
func TestManyClientsAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now, Delivery: Delivery{RetryFirst: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond, Attempts: 1000}})
	r := receive(t, func(n int, _ *http.Request) int { return map[bool]int{true: 200, false: 500}[n%5 > 0] })
	hook, _ := s.hook(r.URL, "enabled_events[]=customer.updated")
	price := s.metered()
	var customers []string
	for range 6 {
		customers = append(customers, s.customer())
	}
	type made struct {
		mu  sync.Mutex
		ids []string
	}
	var grants, invoices made
	keep := func(m *made, id string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if id != "" {
			m.ids = append(m.ids, id)
		}
	}
	pick := func(m *made, rng *rand.Rand) string {
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.ids) == 0 {
			return "none"
		}
		return m.ids[max(0, len(m.ids)-1-rng.IntN(8))]
	}
	do := func(method, path string, pairs ...string) answer {
		a, err := s.request(method, path, nil, pairs...)
		if err != nil || a.status >= 500 {
			t.Errorf("%s %s: %v %s", method, path, err, a.raw)
		}
		return a
	}
	stop := time.Now().Add(2 * time.Second)
	var writes atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for time.Now().Before(stop) || writes.Load() < 100 { // on a busy machine, longer
				c := customers[rng.IntN(len(customers))]
				switch rng.IntN(10) {
				case 0, 1, 2:
					if do("POST", "/v1/customers/"+c+"/balance_transactions", fmt.Sprintf("amount=%d", 1+rng.Int64N(1e9)-5e8), "currency=usd").status == 200 {
						writes.Add(1)
					}
				case 3:
					do("POST", "/v1/customers/"+c, fmt.Sprintf("balance=%d", rng.Int64N(1e9)-5e8))
				case 4:
					keep(&grants, do("POST", "/v1/billing/credit_grants", "customer="+c, "amount[type]=monetary", "amount[monetary][currency]=usd",
						"amount[monetary][value]=500", "applicability_config[scope][price_type]=metered", fmt.Sprintf("expires_at=%d", time.Now().Unix()+1)).str("id"))
				case 5:
					do("POST", "/v1/billing/credit_grants/"+pick(&grants, rng)+[]string{"/void", "/expire"}[rng.IntN(2)])
				case 6:
					id := do("POST", "/v1/invoices", "customer="+c, "currency=usd").str("id")
					do("POST", "/v1/invoices/"+id+"/add_lines", "lines[0][pricing][price]="+price, fmt.Sprintf("lines[0][quantity]=%d", rng.IntN(900)))
					keep(&invoices, id)
				case 7:
					do("POST", "/v1/invoices/"+pick(&invoices, rng)+[]string{"/finalize", "/void", "/pay"}[rng.IntN(3)])
				case 8:
					do("GET", "/v1/customers/"+c+"/balance_transactions", "expand[]=data.invoice.customer", "limit=100")
				case 9:
					do("GET", "/v1/events", "delivery_success=false", "limit=100")
				}
			}
		})
	}
	wg.Go(func() {
		for i := 0; time.Now().Before(stop); i++ {
			switch i % 8 {
			case 0:
				s.control("GET", "/_sim/state", "")
			case 1:
				s.control("GET", "/_sim/truth", "")
			case 2:
				s.control("PUT", "/_sim/faults", `[{"kind":"list_lag","probability":0.3,"requests":2,"endpoint":"GET /v1/customers/{id}/balance_transactions"},{"kind":"webhook_duplicate","probability":0.3,"delay":"5ms"},{"kind":"webhook_reorder","probability":0.3}]`)
			case 3:
				s.control("PUT", "/_sim/switches", `{"expiry_delay":"1s","same_second_order":"ascending"}`)
			case 4:
				for _, path := range []string{"/", "/console/events", "/console/faults", "/console/customer?id=" + customers[0]} {
					s.control("GET", path, "")
				}
			case 5:
				s.control("POST", "/_sim/endpoints/"+hook+"/roll", `{"keep":"1s"}`)
			case 6:
				s.control("PUT", "/_sim/limits", `{"object_lock":true,"endpoint_concurrency":5}`)
			case 7:
				s.control("PUT", "/_sim/faults", `[]`)
				s.control("PUT", "/_sim/switches", `{"expiry_delay":"0s","same_second_order":"random"}`)
				s.control("PUT", "/_sim/limits", `{}`)
			}
		}
	})
	wg.Wait()
	s.settle()
	s.control("PUT", "/_sim/faults", `[]`)
	s.control("PUT", "/_sim/limits", `{}`)
	arrived := map[string]bool{}
	for _, id := range r.ids() {
		arrived[id] = true
	}
	changes, rows := map[string]int{}, 0
	for list := s.get("/v1/events", "type=customer.updated", "limit=100"); ; {
		for _, e := range list.data() {
			if _, ok := e["data"].(obj)["previous_attributes"].(obj)["balance"]; ok {
				changes[e["data"].(obj)["object"].(obj)["id"].(string)]++
			}
			if !arrived[e["id"].(string)] || e["pending_webhooks"] != 0.0 {
				t.Fatalf("event %v was not delivered", e["id"])
			}
		}
		if list.at("has_more") == false {
			break
		}
		ids := list.ids()
		list = s.get("/v1/events", "type=customer.updated", "limit=100", "starting_after="+ids[len(ids)-1])
	}
	for _, tr := range s.Truth() {
		if why := broken(tr); why != "" {
			t.Errorf("%s: %s", tr.ID, why)
		}
		equal(t, "events of changed balances", changes[tr.ID], len(tr.BalanceTransactions))
		rows += len(tr.BalanceTransactions)
	}
	if rows < 50 {
		t.Errorf("only %d changes", rows)
	}
	b := start(t, Options{})
	if err := b.Load(bytes.NewReader(s.saved())); err != nil {
		t.Fatal(err)
	}
	s.sender.mu.Lock()
	defer s.sender.mu.Unlock()
	equal(t, "left behind", s.sender.outstanding+s.sender.waiting+len(s.sender.live), 0)
}
