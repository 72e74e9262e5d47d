//go:build unix

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripesim"
	"github.com/creditmirror/creditmirror/webhook"
)

func TestRedisFlushedDuringTrafficF10(t *testing.T) {
	t.Parallel()
	on(t, []backend{external, everysec}, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_WORKERS": "2", "CREDITMIRROR_EVENTS_INTERVAL": "1h"}})
		traffic := w.seeded(stripesim.TrafficOptions{Seed: 3, Customers: 40, Rate: 60})
		n := w.start(nil)
		w.copied()
		w.equal()
		lost := n.metric("creditmirror_redis_lost_total", "")
		// Two workers and slow answers: there is always a backlog to lose.
		w.faults(stripesim.Fault{Kind: stripesim.FaultSlow, Probability: 1, Delay: stripesim.Duration(100 * time.Millisecond)})
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.traffic(traffic, 3*time.Second)
		}()
		eventually(t, 10*time.Second, "work waits", func() error {
			q, err := w.queued()
			if err == nil && q < 10 {
				err = fmt.Errorf("%d targets", q)
			}
			return err
		})
		rdb := w.rdb()
		defer func() { _ = rdb.Close() }()
		if err := rdb.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		eventually(t, 10*time.Second, "the loss is noticed", that(func() bool {
			return n.metric("creditmirror_redis_lost_total", "") > lost
		}))
		t.Logf("noticed after %v", time.Since(began).Round(time.Millisecond))
		<-done
		w.faults()
		w.equal()
	})
}

func TestLostWebhooksF30(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{sim: stripesim.Options{Faults: stripesim.Faults{{Kind: stripesim.FaultWebhookLost, Probability: 1}}}})
		traffic := w.seeded(stripesim.TrafficOptions{Seed: 4, Customers: 60, Rate: 100})
		n := w.start(nil)
		w.copied()
		w.traffic(traffic, 3*time.Second)
		w.equal()
		if n.metric("creditmirror_missed_events_total", "") == 0 {
			t.Error("I19: no missed event was counted")
		}
		if n.metric("creditmirror_webhook_requests_total", "") != 0 {
			t.Error("a webhook came through")
		}
	})
}

func TestDuplicatesTimesHundredAndReorderF31(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_EVENTS_INTERVAL": "1h"}})
		n := w.start(nil)
		one, two := w.stripe.customer(), w.stripe.customer()
		for range 3 {
			w.stripe.credit(one, 100, "usd")
			w.stripe.credit(two, 100, "usd")
		}
		w.stripe.grant(one, 1000)
		w.equal()
		events := w.stripe.events(20)
		var again []json.RawMessage
		for range 100 {
			again = append(again, events...)
		}
		rand.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		next := make(chan json.RawMessage, len(again))
		for _, e := range again {
			next <- e
		}
		close(next)
		w.sim.ResetCalls()
		var senders sync.WaitGroup
		for range 16 {
			senders.Go(func() {
				for e := range next {
					if a := w.deliver(e); a.code != http.StatusOK {
						t.Errorf("a replayed event got %+v", a)
					}
				}
			})
		}
		w.change(one, -1)
		senders.Wait()
		n.idle()
		w.equal()
		t.Logf("%d replays of %d events, calls: %v", len(again), len(events), w.sim.Calls())
	})
}

// TestStripeMisbehavesF22F23F26 gives each kind of bad reply a customer of its own.
func TestStripeMisbehavesF22F23F26(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{})
		n := w.start(nil)
		kinds := []stripesim.FaultKind{
			stripesim.FaultRateLimit, stripesim.FaultLock, stripesim.Fault500, stripesim.Fault502, stripesim.FaultTruncated,
			stripesim.FaultReset, stripesim.FaultEmptyPage, stripesim.FaultOversize, stripesim.FaultNonsense, stripesim.FaultSlow,
		}
		var faults []stripesim.Fault
		var customers []string
		for _, k := range kinds {
			c := w.stripe.customer()
			w.stripe.credit(c, 100, "usd")
			customers = append(customers, c)
			faults = append(faults, stripesim.Fault{Kind: k, Count: 4, Customer: c, Delay: stripesim.Duration(800 * time.Millisecond), Endpoint: "GET /v1/customers/{id}/balance_transactions"})
		}
		w.equal()
		w.faults(faults...)
		for _, c := range customers {
			w.change(c, -10)
		}
		w.equal()

		// And all of them at once, on every endpoint.
		faults = nil
		for _, k := range kinds {
			faults = append(faults, stripesim.Fault{Kind: k, Probability: 0.05, Delay: stripesim.Duration(200 * time.Millisecond)})
		}
		w.faults(faults...)
		for _, c := range customers {
			w.change(c, -10)
			w.change(c, -20)
		}
		eventually(t, 20*time.Second, "calls are made under all faults", that(func() bool {
			return n.metric("creditmirror_sync_total", `outcome="ok"`) > 0
		}))
		w.faults()
		w.equal()
		if l := w.letters(); len(l) != 0 {
			t.Errorf("dead letters of passing faults: %+v", l)
		}
		if n.metric("creditmirror_stripe_requests_total", `code="429"`) == 0 {
			t.Error("I19: no 429 was counted")
		}
	})
}

func TestListsLagBehindEventsF24(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		for name, lag := range map[string]time.Duration{
			"for less than a sync reads again": 400 * time.Millisecond, "for longer than a sync reads again": 2500 * time.Millisecond,
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, b, quiet())
				w.start(nil)
				customer := w.stripe.customer()
				w.stripe.credit(customer, 100, "usd")
				w.stripe.grant(customer, 500)
				w.equal()
				w.copied()
				w.faults(stripesim.Fault{Kind: stripesim.FaultListLag, Probability: 1, Delay: stripesim.Duration(lag)})
				// One event each: no later one brings what the sync for this one missed.
				w.stripe.credit(customer, 50, "usd")
				w.stripe.grant(customer, 700)
				w.equalWithin(30 * time.Second)
				if f := w.count("SELECT count(*) FROM schema.drift_findings WHERE repaired_at IS NULL"); f != 0 {
					t.Errorf("%d findings stay open", f)
				}
			})
		}
	})
}

func TestPoisonCustomerAmongManyF42I10(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_MAX_ATTEMPTS": "3"}})
		traffic := w.seeded(stripesim.TrafficOptions{Seed: 5, Customers: 40, Rate: 40})
		n := w.start(nil)
		poison := w.stripe.customer()
		w.stripe.credit(poison, 100, "usd")
		w.copied()
		w.equal()
		w.faults(stripesim.Fault{Kind: stripesim.Fault500, Probability: 1, Customer: poison})
		w.change(poison, -10)
		w.ignored[poison] = true
		w.traffic(traffic, 2*time.Second)
		eventually(t, 30*time.Second, "the poison customer becomes a dead letter", func() error {
			// Others must answer meanwhile, or it looks like an outage of Stripe.
			w.traffic(traffic, 100*time.Millisecond)
			for _, l := range w.letters() {
				if l.Target == (mirror.Target{Scope: mirror.ScopeBalance, ID: poison}) && l.Reason != "" && l.Attempts >= 3 {
					return nil
				}
			}
			return errors.New("there is no letter of it")
		})
		w.equal() // all others
		if s, err := n.status(); err != nil || s.Queue.Dead != 1 {
			t.Errorf("I10: status tells %+v, %v", s.Queue, err)
		}
		w.faults()
		delete(w.ignored, poison)
		w.change(poison, -5)
		w.equal()
		eventually(t, 5*time.Second, "the letter goes", that(func() bool { return len(w.letters()) == 0 }))
	})
}

func TestKeyRevokedForAWhileF27(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		t.Parallel() // it is mostly waiting
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_EVENTS_INTERVAL": "1h"}})
		n := w.start(nil)
		var customers []string
		for range 20 {
			c := w.stripe.customer()
			customers = append(customers, c)
		}
		w.stripe.credit(customers[0], 100, "usd")
		w.equal()
		w.copied()
		if err := w.sim.SetKey(apiKey, stripesim.KeyRevoked); err != nil {
			t.Fatal(err)
		}
		for _, c := range customers {
			w.change(c, -30)
		}
		eventually(t, 10*time.Second, "the account is known to be refused", func() error {
			s, err := n.status()
			if err == nil && len(s.AccountsRefused) == 0 || s.Queue.Ready+s.Queue.Leased > 0 {
				err = fmt.Errorf("status tells %+v and %+v", s.AccountsRefused, s.Queue)
			}
			return err
		})
		w.sim.ResetCalls()
		for range 10 {
			w.change(customers[1], -1) // more work comes, and must not lead to calls
		}
		if err := w.sim.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		until := time.Now().Add(3 * time.Second)
		eventually(t, 5*time.Second, "three seconds pass", that(func() bool { return time.Now().After(until) }))
		calls := 0
		for _, c := range w.sim.Calls() {
			calls += c
		}
		if calls > 3 {
			t.Errorf("%d calls were made within 3 s with a refused key: %v", calls, w.sim.Calls())
		}
		s, err := n.status()
		if err != nil || s.Queue.Ready+s.Queue.Delayed+s.Queue.Leased < len(customers) || s.Queue.Dead != 0 {
			t.Errorf("the queue was not kept: %+v, %v", s.Queue, err)
		}
		if err := w.sim.SetKey(apiKey, stripesim.KeyActive); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		w.equalWithin(45 * time.Second)
		t.Logf("equal %v after the key worked again", time.Since(began).Round(time.Millisecond))
		if s, err = n.status(); err != nil || len(s.AccountsRefused) != 0 {
			t.Errorf("still refused: %+v, %v", s.AccountsRefused, err)
		}
	})
}

func TestUnknownTransactionTypesAndFields(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{sim: stripesim.Options{Switches: stripesim.Switches{NullMetadata: true, NonDefaultCurrencyEvent: true}}})
		w.start(nil)
		customer := w.stripe.customer()
		text := "Größe \"quoted\" \u2028 \\ \x01 𝄞"
		for i, kind := range append([]string{"of_a_newer_version"}, stripesim.BalanceTypes...) {
			_, err := w.sim.AddBalanceTransaction("", customer, stripesim.BalanceChange{
				Amount: int64(i*7 - 20), Currency: []string{"usd", "jpy", "kwd"}[i%3], Type: kind,
				Description: &text, Metadata: map[string]string{"k": text, "<script>": "{{.}}"},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		// The sums of all the world's money still fit.
		for _, amount := range []int64{-999_999_999_999, 999_999_999_999, 1} {
			w.change(customer, amount)
		}
		w.equal()
	})
}

// Invoices, credit notes, clocks and credits used and given back, with customers that
// are kept whole: every column is what its JSON says (finish proves it).
func TestScenarioWithWholeCustomersI1(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_CUSTOMER_FIELDS": "full"}})
		script, err := stripesim.OpenScenario("month-end")
		if err != nil {
			t.Fatal(err)
		}
		if err := stripesim.NewPlay(w.sim, script, 1).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		traffic := w.seeded(stripesim.TrafficOptions{Seed: 3, Customers: 30, Rate: 60})
		w.start(nil)
		w.traffic(traffic, 3*time.Second)
		if c := w.equal(); c.CreditTransactions == 0 || c.BalanceTransactions == 0 {
			t.Fatalf("compared %+v", c)
		}
	})
}

func TestTestClockCustomers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{})
		now := time.Now().Unix()
		clock := w.stripe.post("/v1/test_helpers/test_clocks", "frozen_time", fmt.Sprint(now)).ID
		before := w.stripe.customer("test_clock", clock)
		w.stripe.credit(before, 100, "usd")
		w.stripe.grant(before, 1000, "expires_at", fmt.Sprint(now+1000))
		w.start(nil) // the first copy must find them
		w.equal()
		after := w.stripe.customer("test_clock", clock)
		w.stripe.grant(after, 500, "expires_at", fmt.Sprint(now+2000))
		w.equal()
		w.stripe.post("/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time", fmt.Sprint(now+5000))
		w.equal()
		w.keeps(before, 1, 2) // granted and expired
		w.keeps(after, 0, 2)
	})
}

func TestDeletedCustomersKeepTheirHistoryF28I13(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		for name, lists := range map[string]bool{"lists answer 404": false, "lists answer": true} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, b, setup{sim: stripesim.Options{Switches: stripesim.Switches{DeletedCustomerLists: lists}}})
				n := w.start(nil)
				var customers []string
				for range 5 {
					c := w.stripe.customer()
					w.stripe.credit(c, 100, "usd")
					w.stripe.credit(c, 200, "usd")
					w.stripe.grant(c, 300)
					customers = append(customers, c)
				}
				w.equal()
				for _, c := range customers {
					w.stripe.delete(c)
				}
				w.equal()
				for _, c := range customers {
					if a := w.deliver(event("customer.updated", c, time.Now())); a.code != http.StatusOK {
						t.Errorf("an event after the deletion got %+v", a)
					}
				}
				n.idle()
				w.equal()
				for _, c := range customers {
					w.keeps(c, 2, 1)
				}
			})
		}
	})
}

func TestTwoReplicasShareTheWork(t *testing.T) {
	t.Parallel()
	w := newWorld(t, everysec, setup{})
	traffic := w.seeded(stripesim.TrafficOptions{Seed: 6, Customers: 80, Rate: 120})
	// Answers take their time, as Stripe's do, so that there is work for two.
	w.faults(stripesim.Fault{Kind: stripesim.FaultSlow, Probability: 1, Delay: stripesim.Duration(30 * time.Millisecond)})
	first := w.start(map[string]string{"CREDITMIRROR_WORKERS": "4"})
	second := w.start(map[string]string{"CREDITMIRROR_WORKERS": "4"})
	third := w.start(nil, config.RoleWebhook, config.RoleReconcile)
	w.traffic(traffic, 3*time.Second)
	one, two := first.metric("creditmirror_sync_total", `outcome="ok"`), second.metric("creditmirror_sync_total", `outcome="ok"`)
	if one < 5 || two < 5 {
		t.Errorf("one replica made %v syncs, the other %v", one, two)
	}
	if n := third.metric("creditmirror_sync_total", ""); n != 0 {
		t.Errorf("a replica without the worker's role made %v syncs", n)
	}
	if err := second.stop(); err != nil { // in the midst of it
		t.Error(err)
	}
	w.traffic(traffic, time.Second)
	w.equal()
	t.Logf("syncs: %v and %v", one, two)
}

// TestFirstCopyUnderTrafficAndRestarts has traffic, restarts in order and the
// first copy of many customers all at once, with few workers.
func TestFirstCopyUnderTrafficAndRestarts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_WORKERS": "4"}})
		traffic := w.seeded(stripesim.TrafficOptions{Seed: 8, Customers: scaled(250, 80), Rate: 50})
		for range 3 {
			n := w.start(nil)
			w.traffic(traffic, 700*time.Millisecond)
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
		}
		w.start(nil)
		w.traffic(traffic, time.Second)
		w.copied()
		w.equal()
	})
}

// TestWebhookBadInputF32F33I16: what is not Stripe's leaves no trace.
func TestWebhookBadInputF32F33I16(t *testing.T) {
	t.Parallel()
	on(t, []backend{embedded, everysec}, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_EVENTS_INTERVAL": "1h"}})
		n := w.start(nil)
		customer := w.stripe.customer()
		w.stripe.credit(customer, 100, "usd")
		w.equal()
		n.idle()
		receipts := w.receipts()
		body := event("customer.updated", customer, time.Now())
		sign := func(secret string, at time.Time, body []byte) map[string]string {
			return map[string]string{"Stripe-Signature": stripesim.SignatureHeader(secret, at, body)}
		}
		secret, now := w.secrets[0], time.Now()
		good := sign(secret, now, body)["Stripe-Signature"]
		big := append(append([]byte(`{"id":"`), []byte(strings.Repeat("x", 1<<20))...), `"}`...)
		for name, c := range map[string]struct {
			body    string
			headers map[string]string
			code    int
		}{
			"no signature":          {string(body), nil, 400},
			"forged":                {string(body), sign("whsec_ofSomebodyElse0123456789", now, body), 400},
			"empty secret":          {string(body), sign("", now, body), 400},
			"one byte more":         {string(body) + " ", map[string]string{"Stripe-Signature": good}, 400},
			"v0 only":               {string(body), map[string]string{"Stripe-Signature": strings.ReplaceAll(good, "v1=", "v0=")}, 400},
			"stale":                 {string(body), sign(secret, now.Add(-310*time.Second), body), 400},
			"future":                {string(body), sign(secret, now.Add(320*time.Second), body), 400},
			"ten years ahead":       {string(body), sign(secret, now.AddDate(10, 0, 0), body), 400},
			"encoded":               {string(body), map[string]string{"Stripe-Signature": good, "Content-Encoding": "gzip"}, 400},
			"oversized":             {string(big), sign(secret, now, big), 413},
			"oversized and forged":  {string(big), map[string]string{"Stripe-Signature": good}, 413},
			"a type not of ours":    {strings.Replace(string(body), "customer.updated", "charge.succeeded", 1), nil, 200},
			"of live mode":          {strings.Replace(string(body), `"livemode":false`, `"livemode":true`, 1), nil, 200},
			"of an unknown account": {strings.Replace(string(body), `"type"`, `"account":"acct_1Stranger","type"`, 1), nil, 200},
		} {
			if c.code == 200 {
				c.headers = sign(secret, now, []byte(c.body))
			}
			a, err := w.trySend(strings.NewReader(c.body), c.headers)
			if err != nil && c.code == 413 {
				continue // cut off while the rest was still being sent
			}
			if a.code != c.code {
				t.Errorf("%s: got %+v, want %d", name, a, c.code)
			}
		}
		if a := w.slowBody(t); a != 408 {
			t.Errorf("a body that does not end: got %d, want 408", a)
		}
		if got := w.receipts(); got != receipts {
			t.Errorf("I16: the inbox grew from %d to %d rows", receipts, got)
		}
		if l := w.letters(); len(l) != 0 {
			t.Errorf("I16: %d dead letters", len(l))
		}
		s, err := n.status()
		if err != nil || s.Queue.Ready+s.Queue.Delayed+s.Queue.Leased != 0 {
			t.Errorf("I16: the queue holds %+v, %v", s.Queue, err)
		}
		w.equal()
	})
}

// slowBody announces a body, sends the beginning of it, and waits for the answer.
func (w *world) slowBody(t *testing.T) int {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", w.webhook)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nStripe-Signature: %s\r\nContent-Length: 1000\r\n\r\n{", webhook.Path, forged(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer to a slow body: %v", err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
