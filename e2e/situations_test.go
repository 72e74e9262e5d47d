//go:build unix

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripesim"
)

// Ten situations in which a mirror that writes what events carry goes wrong.

func TestSituation01TwoChangesInTheSameSecond(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{})
		w.start(nil)
		sameSecond := 0
		for i := range 10 {
			customer := w.stripe.customer()
			w.stripe.credit(customer, 500, "usd")
			first := w.stripe.credit(customer, 300, "usd")
			second := w.stripe.credit(customer, []int64{300, -300, -800, 50}[i%4], "usd") // the same again, back, and past zero
			if first.Created == second.Created {
				sameSecond++
			}
		}
		if sameSecond == 0 {
			t.Fatal("no two changes fell into one second")
		}
		w.equal()
	})
}

func TestSituation02DeleteThenLateOlderUpdate(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{})
		n := w.start(nil)
		gone := w.stripe.customer()
		w.stripe.credit(gone, 700, "usd")
		w.stripe.grant(gone, 900)
		w.equal()

		w.faults(stripesim.Fault{Kind: stripesim.FaultWebhookDelay, Probability: 1, Event: "customer.updated", Delay: stripesim.Duration(time.Second)})
		before := time.Now()
		w.stripe.rename(gone, "late")
		w.stripe.delete(gone)
		deleted := func() error {
			c, err := w.reader().Customer(t.Context(), "", gone)
			if err == nil && !c.Deleted {
				err = errors.New("the customer is not deleted")
			}
			return err
		}
		eventually(t, 10*time.Second, "the deletion arrives", deleted)
		if err := w.sim.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		// And one more that says of itself that it is older still.
		if a := w.deliver(event("customer.updated", gone, before.Add(-time.Minute))); a.code != http.StatusOK {
			t.Fatalf("the late event got %+v", a)
		}
		n.idle()
		if err := deleted(); err != nil {
			t.Fatal(err)
		}
		w.keeps(gone, 1, 1)
		w.equal()
	})
}

// keeps asserts how many rows the mirror holds of a customer (I13).
func (w *world) keeps(customer string, balance, credits int) {
	w.tb.Helper()
	rows, err := w.reader().BalanceTransactions(w.tb.Context(), "", customer, mirror.Page{Limit: 100})
	if err != nil || len(rows.Rows) != balance {
		w.tb.Errorf("I13: %s: %d balance transactions, %v; want %d", customer, len(rows.Rows), err, balance)
	}
	more, err := w.reader().CreditTransactions(w.tb.Context(), "", customer, "", mirror.Page{Limit: 100})
	if err != nil || len(more.Rows) != credits {
		w.tb.Errorf("I13: %s: %d credit transactions, %v; want %d", customer, len(more.Rows), err, credits)
	}
}

func TestSituation03DatabaseStoppedForThreeEventsF17(t *testing.T) {
	t.Parallel()
	on(t, []backend{external, everysec}, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{ownPostgres: true})
		n := w.start(nil)
		customers := w.credited(3)
		w.equal()
		// From here on only the webhooks announce changes.
		w.faults(withoutEventsSweep())
		killed := time.Now()
		w.pg.Kill()
		for _, c := range customers {
			w.change(c, -200)
		}
		if b.name == everysec.name {
			// The inbox cannot take them: Stripe gets an error, and sends again.
			eventually(t, 20*time.Second, "webhooks are refused", that(func() bool {
				return n.metric("creditmirror_webhook_requests_total", `code="503"`) >= 3
			}))
		} else {
			eventually(t, 20*time.Second, "the events wait in redis", func() error {
				s, err := w.queued()
				if err == nil && s < 3 {
					err = fmt.Errorf("%d targets wait", s)
				}
				return err
			})
		}
		w.pg.Restart(t)
		restarted := time.Now()
		w.equal()
		t.Logf("equal %v after the database answered again", time.Since(restarted).Round(time.Millisecond))
		if b.name == everysec.name {
			// What was refused is nobody's missed event: the time of it is written down.
			eventually(t, 10*time.Second, "the time of the refusals is written down", func() error {
				var state string
				if err := w.tables().QueryRow(w.sql("SELECT state FROM schema.sweeps WHERE name = 'webhook_receivers'")).Scan(&state); err != nil {
					return err
				}
				return refusedBetween(state, killed, restarted)
			})
		}
		if !n.alive() {
			t.Fatal("creditmirror ended with the database")
		}
	})
}

// refusedBetween returns an error unless the state of the receivers' row has a time of
// refusals within the two. An event's own time has whole seconds.
func refusedBetween(state string, from, to time.Time) error {
	var row struct {
		Stops []struct {
			From, To time.Time
			Refused  bool
		}
	}
	if err := json.Unmarshal([]byte(state), &row); err != nil {
		return fmt.Errorf("%w: %q", err, state)
	}
	for _, s := range row.Stops {
		if s.Refused && !s.From.Before(from.Truncate(time.Second)) && s.From.Before(s.To) && s.To.Before(to.Add(10*time.Second)) { // until the database takes writes
			return nil
		}
	}
	return fmt.Errorf("between %s and %s: %s", from.Format(time.RFC3339Nano), to.Format(time.RFC3339Nano), state)
}

func TestSituation04PoisonEventThenThreeGoodOnesF34(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{})
		n := w.start(nil)
		customer := w.stripe.customer()
		w.stripe.credit(customer, 100, "usd")
		w.equal()
		poison := [][]byte{
			[]byte(`{"id":"evt_poison","object":"event","type":"customer.updated","created":"yesterday","livemode":false,"data":{"object":{"id":7}}}`),
			[]byte(`{"id":"evt_`),
			[]byte("\x00\xff"),
		}
		for _, body := range poison {
			if a := w.deliver(body); a.code != http.StatusOK || a.body != "" {
				t.Fatalf("the poison event got %+v, want an empty 200", a)
			}
		}
		for range 3 {
			w.stripe.credit(customer, 10, "usd")
		}
		w.equal()
		if bad := n.metric("creditmirror_webhook_requests_total", `code="4`) + n.metric("creditmirror_webhook_requests_total", `code="5`); bad != 0 {
			t.Errorf("%v webhooks were refused", bad)
		}
		letters := w.letters()
		if len(letters) != len(poison) {
			t.Fatalf("%d dead letters, want %d: %+v", len(letters), len(poison), letters)
		}
		for _, listed := range letters {
			l, err := w.reader().DeadLetter(t.Context(), listed.ID) // a list has no payloads
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(poison, func(p []byte) bool { return string(p) == string(l.Payload) }) || l.Reason == "" {
				t.Errorf("the letter %+v does not hold what came", l)
			}
		}
	})
}

func TestSituation05UnsignedBodyOf200MBWithFlatMemoryF33(t *testing.T) {
	t.Parallel()
	w := newWorld(t, embedded, setup{})
	n := w.spawn(nil)
	customer := w.stripe.customer()
	w.stripe.credit(customer, 100, "usd")
	w.equal()
	const size, most = 200 << 20, 48 << 20
	before := n.memory("VmHWM")
	for name, headers := range map[string]map[string]string{
		"no signature": {}, "forged signature": {"Stripe-Signature": forged(time.Now())},
	} {
		for kind, body := range map[string]func() io.Reader{
			"chunked":     func() io.Reader { return io.LimitReader(endless{}, size) },
			"with length": func() io.Reader { return &sized{io.LimitReader(endless{}, size), size} },
		} {
			var senders sync.WaitGroup
			for range 4 {
				senders.Go(func() {
					a, err := w.trySend(body(), headers)
					// Whoever pushes on after the answer may see the connection cut instead.
					if err == nil && a.code != http.StatusRequestEntityTooLarge && a.code != http.StatusBadRequest {
						t.Errorf("%s, %s: got %+v", name, kind, a)
					}
				})
			}
			senders.Wait()
		}
	}
	if grown := n.memory("VmHWM") - before; grown > most && !raceEnabled {
		t.Errorf("the process grew by %d MiB", grown>>20)
	} else {
		t.Logf("16 bodies of 200 MB; the process grew by %d MiB", grown>>20)
	}
	w.stripe.credit(customer, 50, "usd")
	w.equal()
}

func forged(at time.Time) string {
	return stripesim.SignatureHeader("whsec_someOtherSecret", at, []byte("something else"))
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '{'
	}
	return len(p), nil
}

// sized makes trySend set a Content-Length.
type sized struct {
	io.Reader
	size int64
}

func TestSituation06ChangeWhileAListPageIsInFlightF25(t *testing.T) {
	t.Parallel()
	const list = "GET /v1/customers/{id}/balance_transactions"
	each(t, func(t *testing.T, b backend) {
		t.Run("the page left before the change and arrives after it", func(t *testing.T) {
			w := newWorld(t, b, setup{})
			w.start(nil)
			customer := w.stripe.customer()
			w.stripe.credit(customer, 100, "usd")
			w.equal()
			w.faults(stripesim.Fault{Kind: stripesim.FaultSlow, Count: 1, Endpoint: list, After: true, Delay: stripesim.Duration(600 * time.Millisecond)})
			asked := w.whenAsked(list)
			w.change(customer, -10)
			<-asked
			// The reply is being held back now, or will be made at any moment: these
			// changes may or may not be in it, and their events meet a target in work.
			for range 5 {
				w.change(customer, -1)
			}
			w.equal()
		})
		t.Run("between two pages of a long history", func(t *testing.T) {
			w := newWorld(t, b, setup{})
			customer := w.stripe.customer()
			for range 350 {
				w.change(customer, -1)
			}
			var pages atomic.Int64
			w.hook(func(endpoint string, r *http.Request) {
				if endpoint == list && r.URL.Query().Get("starting_after") != "" && pages.Add(1) <= 3 {
					w.change(customer, -5)
				}
			})
			w.start(nil)
			w.equal()
			if pages.Load() < 3 {
				t.Errorf("only %d further pages were read", pages.Load())
			}
		})
		t.Run("between the list and the customer", func(t *testing.T) {
			w := newWorld(t, b, setup{})
			customer := w.stripe.customer()
			var once sync.Once
			changed := make(chan struct{})
			w.hook(func(endpoint string, _ *http.Request) {
				if endpoint == "GET /v1/customers/{id}" { // asked only when the list was empty
					once.Do(func() { w.change(customer, -100); close(changed) })
				}
			})
			w.start(nil)
			w.stripe.rename(customer, "new name")
			<-changed
			w.equal()
			w.keeps(customer, 1, 0)
		})
	})
}

// whenAsked returns a channel that closes at the next request to an endpoint.
func (w *world) whenAsked(endpoint string) <-chan struct{} {
	asked := make(chan struct{})
	var once sync.Once
	w.hook(func(e string, _ *http.Request) {
		if e == endpoint {
			once.Do(func() { close(asked) })
		}
	})
	return asked
}

func TestSituation07ChangeBetweenFirstCopyAndFirstSweep(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		// Nobody sends webhooks.
		w := newWorld(t, b, setup{noEndpoint: true})
		w.seeded(stripesim.TrafficOptions{Seed: 7, Customers: scaled(150, 110)})
		during, after := w.stripe.customer(), w.stripe.customer()
		w.stripe.credit(during, 100, "usd")
		var once sync.Once
		w.hook(func(endpoint string, _ *http.Request) {
			if endpoint == "GET /v1/billing/credit_grants" { // the customers have been copied
				once.Do(func() {
					w.change(during, -11)
					w.change(after, -12)
				})
			}
		})
		w.start(nil)
		w.copied()
		w.change(after, -13)
		w.stripe.grant(after, 1000)
		w.equal()
	})
}

func TestSituation08EventOfAConnectedAccountF35I20(t *testing.T) {
	t.Parallel()
	const taken, other = "acct_1TakenAccount", "acct_1OtherAccount"
	each(t, func(t *testing.T, b backend) {
		for name, accounts := range map[string]string{"listed": taken, "all": "*"} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, b, setup{
					sim: stripesim.Options{Accounts: []string{taken, other}}, connect: true, env: map[string]string{"STRIPE_ACCOUNTS": accounts},
				})
				w.start(nil)
				own, theirs, foreign := w.stripe, w.stripe, w.stripe
				theirs.account, foreign.account = taken, other
				for _, u := range []user{own, theirs, foreign} {
					c := u.customer()
					u.credit(c, 100, "usd")
					u.credit(c, 50, "usd")
					u.grant(c, 500)
					if u.account == other && accounts != "*" {
						w.ignored[c] = true
					}
				}
				w.equal()
				want := 0
				if accounts == "*" {
					want = 1
				}
				if n := w.count("SELECT count(*) FROM schema.customers WHERE account = '" + other + "'"); n != want {
					t.Errorf("I20: %d customers of the other account are mirrored, want %d", n, want)
				}
			})
		}
	})
}

func TestSituation09RedisStoppedF08F14(t *testing.T) {
	t.Parallel()
	on(t, []backend{external, everysec}, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{})
		n := w.start(nil)
		var customers []string
		for range 5 {
			c := w.stripe.customer()
			w.stripe.credit(c, 100, "usd")
			customers = append(customers, c)
		}
		w.equal()
		// Nothing but marks that were acknowledged, and deliveries that were not,
		// may bring the rest.
		w.faults(withoutEventsSweep(), stripesim.Fault{
			Kind: stripesim.FaultSlow, Probability: 1, Delay: stripesim.Duration(300 * time.Millisecond), Endpoint: "GET /v1/customers/{id}/balance_transactions",
		})
		w.change(customers[0], -1)
		if a := w.deliver(event("customer.updated", customers[0], time.Now())); a.code != http.StatusOK {
			t.Fatalf("with redis: %+v", a)
		}
		killed := time.Now()
		w.redis.Kill() // with work under way
		for _, c := range customers {
			w.change(c, -20)
		}
		// In the inbox an event is durable without Redis, and marked once it is back.
		refused := func(a answer) bool { return a.code == http.StatusServiceUnavailable && a.retryAfter != "" }
		taken := refused
		if b.name == everysec.name {
			taken = func(a answer) bool { return a.code == http.StatusOK }
		}
		if a := w.deliver(event("customer.updated", customers[1], time.Now())); !taken(a) {
			t.Fatalf("without redis: %+v", a)
		}
		told := time.Now()
		w.redis.Restart()
		w.equal()

		// A Redis that refused a mark has switched the inbox on. Five seconds later it
		// holds every event, and Redis is not waited for.
		const settled = 5 * time.Second
		w.redis.Pause() // it hangs: connections stand, nothing answers
		asked := time.Now()
		a := w.deliver(event("customer.updated", customers[2], time.Now()))
		switch early, late := a.took+asked.Sub(killed) < settled, asked.Sub(told) > settled; {
		case early && !taken(a), late && a.code != http.StatusOK, !taken(a) && a.code != http.StatusOK, a.took > patience.Of(4*time.Second):
			t.Errorf("with redis hanging, %v after it was killed: %+v, want an answer within about 2 s", asked.Sub(killed), a)
		}
		w.change(customers[2], -30)
		w.redis.Continue()
		w.equal()
		if !n.alive() {
			t.Fatal("creditmirror ended with redis")
		}
	})
}

func TestSituation10HundredHotCustomersF31(t *testing.T) {
	t.Parallel()
	for _, b := range []backend{embedded, everysec} {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, b, setup{sim: stripesim.Options{Faults: stripesim.Faults{
				{Kind: stripesim.FaultWebhookReorder, Probability: 0.5, Delay: stripesim.Duration(500 * time.Millisecond)},
				{Kind: stripesim.FaultWebhookDuplicate, Probability: 0.3, Delay: stripesim.Duration(time.Second)},
			}}})
			traffic := w.seeded(stripesim.TrafficOptions{Seed: 10, Customers: 100, Rate: 100})
			w.start(nil)
			w.traffic(traffic, 10*time.Second)
			c := w.equal()
			t.Logf("%d changes, %d customers, %d balance and %d credit transactions, %d looks at the database", traffic.Done(),
				c.Customers, c.BalanceTransactions, c.CreditTransactions, w.watch.count())
		})
	}
}

// queued is how many targets are dirty, asked of Redis itself.
func (w *world) queued() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	rdb := w.rdb()
	defer func() { _ = rdb.Close() }()
	n, err := rdb.HLen(ctx, "{cm:0}:gen").Result()
	return int(n), err
}
