//go:build unix

package e2e

import (
	"fmt"
	"net/http"
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
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, quiet())
		n := w.start(nil)
		rich, poor, granted := w.stripe.customer(), w.stripe.customer(), w.stripe.customer()
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
		}{
			{"a balance transaction", func() { w.stripe.credit(rich, 10, "usd") }, 1},
			{"a changed customer with transactions", func() { w.stripe.rename(rich, "new") }, 1},
			{"a changed customer without transactions", func() { w.stripe.rename(poor, "new") }, 2},
			{"the first transaction of a customer", func() { w.stripe.credit(poor, 10, "usd") }, 1},
			{"a new customer", func() { w.stripe.customer("name", "new") }, 2},
			{"a change to a grant", func() { w.stripe.post("/v1/billing/credit_grants/"+grant, "metadata[k]", "v") }, 2},
			{"credits applied to an invoice", func() {
				if _, err := w.sim.ApplyCredits(stripesim.InvoiceUse{Customer: granted, Amount: 100, Currency: "usd"}); err != nil {
					t.Fatal(err)
				}
			}, 1},
		} {
			n.idle()
			w.sim.ResetCalls()
			c.do()
			if err := w.sim.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.equal()
			n.idle()
			calls, by := w.reads()
			if calls > c.most {
				t.Errorf("%s cost %d calls, want at most %d: %v", c.name, calls, c.most, by)
			}
			t.Logf("%s: %d calls", c.name, calls)
		}
	})
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
