//go:build unix

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/stripesim"
)

// reads counts the calls that creditmirror made, without the sweep over events.
func (w *world) reads() (n int, by map[string]int) {
	by = w.sim.Calls()
	for endpoint, c := range by {
		if strings.HasPrefix(endpoint, "GET ") && endpoint != "GET /v1/events" {
			n += c
		}
	}
	return n, by
}

// quiet is a setup in which only webhooks lead to calls.
func quiet() setup {
	return setup{env: map[string]string{"CREDITMIRROR_EVENTS_INTERVAL": "1h"}}
}

func TestOneEventCostsOneCall(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) { costOfEvents(t, b, quiet()) })
}

// With destinations of thin events alone, which carry nothing of what changed.
func TestOneThinEventCostsOneCall(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		s := quiet()
		s.thin = true
		costOfEvents(t, b, s)
	})
}

// costOfEvents counts the calls that single changes lead to. Of thin events, a customer
// that changed may have a balance that moved, so that a sync which finds nothing looks
// once more; and what names no customer costs a call to find whose it is.
func costOfEvents(t *testing.T, b backend, s setup) {
	w := newWorld(t, b, s)
	n := w.start(nil)
	rich, poor, granted := w.stripe.customer(), w.stripe.customer(), w.stripe.customer()
	plain, even := w.stripe.customer(), w.stripe.customer()
	w.stripe.credit(even, -10, "usd")
	w.stripe.credit(even, 10, "usd")
	for range 4 { // not so many of one second that a short page cannot reach below it
		w.stripe.credit(rich, 10, "usd")
	}
	grant := w.stripe.grant(granted, 1000)
	w.equal()
	w.copied()
	for _, c := range []struct {
		name string
		do   func()
		most int
		thin int // besides
	}{
		{"a balance transaction", func() { w.stripe.credit(rich, 10, "usd") }, 1, 0},
		{"a changed customer with transactions", func() { w.stripe.rename(rich, "new") }, 1, 1},
		{"a changed customer without transactions", func() { w.stripe.rename(poor, "new") }, 2, 2},
		{"the first transaction of a customer", func() { w.stripe.credit(poor, 10, "usd") }, 1, 0},
		{"a new customer", func() { w.stripe.customer("name", "new") }, 2, 0},
		{"a change to a grant", func() { w.stripe.post("/v1/billing/credit_grants/"+grant, "metadata[k]", "v") }, 2, 0},
		{"credits applied to an invoice", func() {
			if _, err := w.sim.ApplyCredits(stripesim.InvoiceUse{Customer: granted, Amount: 100, Currency: "usd"}); err != nil {
				t.Fatal(err)
			}
		}, 1, 1},
		// The customer gets its currency with the first one and its next number with the
		// second, each a customer.updated, and without transactions a sync is two calls.
		{"an invoice that touches no balance, of a customer without transactions", func() { w.stripe.billed(plain, 700) }, 4, 3},
		{"an invoice that touches no balance, of a customer with transactions", func() { w.stripe.billed(even, 700) }, 2, 2},
		{"an invoice that uses balance", func() { w.stripe.billed(rich, 20) }, 3, 1}, // of three events
	} {
		n.idle()
		w.sim.ResetCalls()
		c.do()
		if err := w.sim.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.equal()
		n.idle()
		if s.thin {
			c.most += c.thin
		}
		calls, by := w.reads()
		if calls > c.most {
			t.Errorf("%s cost %d calls, want at most %d: %v", c.name, calls, c.most, by)
		}
		t.Logf("%s: %d calls %v", c.name, calls, by)
	}
	if s.thin {
		thinIsAsFresh(t, w, n, rich)
	}
}

// TestTrafficCostsAboutOneCallPerEvent runs a business's changes for ten seconds, with
// webhook endpoints and with destinations of thin events alone. What is above one call for
// each event is the first reading of a grant, the summaries that prove credits, and what
// the questions of thin events cost.
func TestTrafficCostsAboutOneCallPerEvent(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]float64{"snapshots": 1.4, "thin": 1.5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, b backend) {
				s := quiet()
				s.thin = name == "thin"
				w := newWorld(t, b, s)
				traffic := w.seeded(stripesim.TrafficOptions{Seed: 14, Customers: 40, Rate: 20})
				n := w.start(nil)
				w.equal()
				w.copied()
				n.idle()
				w.sim.ResetCalls()
				before := n.metric("creditmirror_events_total", "")
				w.traffic(traffic, 10*time.Second)
				if err := w.sim.Settle(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.equal()
				n.idle()
				calls, by := w.reads()
				events := n.metric("creditmirror_events_total", "") - before
				t.Logf("%d changes, %.0f events, %d calls: %.2f per event, %v", traffic.Done(), events, calls, float64(calls)/events, by)
				if events < 100 || float64(calls) > most*events {
					t.Errorf("%d calls for %.0f events, want at most %.1f for each", calls, events, most)
				}
			})
		})
	}
}

// thinIsAsFresh makes changes one by one, all of which the webhooks alone bring: the
// sweep over events does not run in this world.
func thinIsAsFresh(t *testing.T, w *world, n *node, customer string) {
	t.Helper()
	var took []time.Duration
	for range 20 {
		began := time.Now()
		id := w.stripe.credit(customer, 1, "usd").ID
		eventually(t, 5*time.Second, "row "+id, that(func() bool {
			return w.count("SELECT count(*) FROM schema.customer_balance_transactions WHERE id = '"+id+"'") == 1
		}))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("%d changes: p50 %v, max %v", len(took), took[len(took)/2], took[len(took)-1])
	if p50 := took[len(took)/2]; p50 > 2*time.Second {
		t.Errorf("half of the changes took %v and longer", p50)
	}
	if n := w.count("SELECT count(*) FROM schema.drift_findings"); n != 0 {
		t.Errorf("%d findings, want none", n)
	}
	if got := n.metric("creditmirror_events_total", `type="customer.updated",outcome="ignored"`) + n.metric("creditmirror_events_total", `outcome="ignored",type="customer.updated"`); got != 0 {
		t.Errorf("%v events ignored", got)
	}
}

func TestThousandEventsOfTenCustomersCostThirtyCalls(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		t.Run("while the first answers are on their way", func(t *testing.T) {
			w, n, customers := tenCustomers(t, b)
			arrived := make(chan struct{})
			w.hook(func(string, *http.Request) { <-arrived })
			w.burst(customers, 100)
			close(arrived)
			w.costs(n, 30)
		})
		// Two syncs of two pages, of which the first reads its first page once more, and
		// for some customers a last look at what nothing has changed: 50 to 60.
		t.Run("whose lists lag behind them", func(t *testing.T) {
			w, n, customers := tenCustomers(t, b)
			arrived := make(chan struct{})
			w.hook(func(string, *http.Request) { <-arrived })
			w.faults(stripesim.Fault{Kind: stripesim.FaultListLag, Probability: 1, Delay: stripesim.Duration(300 * time.Millisecond)})
			var senders sync.WaitGroup
			for _, c := range customers {
				senders.Go(func() {
					for range 100 {
						w.change(c, 1)
						w.deliver(event("customer.updated", c, time.Now()))
					}
				})
			}
			senders.Wait()
			close(arrived)
			w.costs(n, 60)
		})
		t.Run("while each answer comes at once", func(t *testing.T) {
			w, n, customers := tenCustomers(t, b)
			began := time.Now()
			w.burst(customers, 100)
			// A busy machine needs longer to send them; a customer whose events come
			// faster than it is synced waits for more of them, for a second at most.
			w.costs(n, 30+int(20*time.Since(began).Seconds()))
		})
		if !b.external {
			return // the embedded Redis is one process's: nothing in it can wait for another's worker
		}
		t.Run("before a worker runs", func(t *testing.T) {
			w, n, customers := tenCustomers(t, b)
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
			w.start(nil, config.RoleWebhook)
			w.burst(customers, 100)
			w.costs(w.start(nil), 30)
		})
	})
}

// tenCustomers are all in the mirror and have transactions.
func tenCustomers(t *testing.T, b backend) (*world, *node, []string) {
	t.Helper()
	w := newWorld(t, b, quiet())
	customers := make([]string, 10)
	for i := range customers {
		customers[i] = w.stripe.customer()
		w.stripe.credit(customers[i], 10, "usd")
	}
	n := w.start(nil)
	w.copied()
	w.equal()
	n.idle()
	w.sim.ResetCalls()
	return w, n, customers
}

// costs waits until all work is done and asserts how many calls it took.
func (w *world) costs(n *node, most int) {
	w.tb.Helper()
	n.idle()
	w.equal()
	calls, by := w.reads()
	if calls > most {
		w.tb.Errorf("%d calls, want at most %d: %v", calls, most, by)
	}
	w.tb.Logf("%d calls", calls)
}

// burst delivers n events for each customer, as fast as 16 connections can.
func (w *world) burst(customers []string, n int) {
	w.tb.Helper()
	bodies := make(chan []byte, n*len(customers))
	for range n {
		for _, c := range customers {
			bodies <- event("customer.updated", c, time.Now())
		}
	}
	close(bodies)
	var senders sync.WaitGroup
	for range 16 {
		senders.Go(func() {
			for body := range bodies {
				if a := w.deliver(body); a.code != http.StatusOK {
					w.tb.Error(fmt.Errorf("an event got %+v", a))
				}
			}
		})
	}
	senders.Wait()
}
