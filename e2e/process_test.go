//go:build unix

package e2e

import (
	"context"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/stripesim"
)

// TestKilledAgainAndAgainF01F02F03F21 kills the binary with kill -9 at moments of
// chance, under traffic, with Stripe's list of events refused for the last part:
// what was acknowledged must be in the inbox or in Redis.
func TestKilledAgainAndAgainF01F02F03F21(t *testing.T) {
	t.Parallel()
	for _, b := range []backend{embedded, external} {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, b, setup{})
			traffic := w.seeded(stripesim.TrafficOptions{Seed: 11, Customers: 60, Rate: 40})
			n := w.spawn(nil)
			ctx, cancel := context.WithTimeout(t.Context(), 13*time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- traffic.Run(ctx) }()
			kills := 0
			for wait := 1900 * time.Millisecond; ctx.Err() == nil; wait += 137 * time.Millisecond {
				if kills == 3 {
					w.faults(withoutEventsSweep())
				}
				next := time.Now().Add(wait)
				eventually(t, 5*time.Second, "it is time to kill", that(func() bool { return time.Now().After(next) }))
				n.signal(syscall.SIGKILL)
				kills++
				n = n.respawn(nil)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			c := w.equal()
			if !b.external {
				var verdict string
				if err := w.tables().QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
					t.Errorf("integrity_check: %s, %v", verdict, err)
				}
			}
			t.Logf("%d kills, %d changes, %d customers, %d transactions", kills, traffic.Done(), c.Customers, c.BalanceTransactions+c.CreditTransactions)
		})
	}
}

// TestStoppedPastItsLeaseF04I4I6 stops a process with SIGSTOP while it holds a
// reply of Stripe's, lets another take over, and wakes it up with its old reply.
func TestStoppedPastItsLeaseF04I4I6(t *testing.T) {
	t.Parallel()
	const list = "GET /v1/customers/{id}/balance_transactions"
	w := newWorld(t, external, setup{env: map[string]string{"CREDITMIRROR_EVENTS_INTERVAL": "1h"}, sim: stripesim.Options{
		Delivery: stripesim.Delivery{Timeout: time.Second, RetryFirst: 200 * time.Millisecond, RetryMax: time.Second, Attempts: 100},
	}})
	first := w.spawn(nil)
	customer := w.stripe.customer()
	w.stripe.credit(customer, 100, "usd")
	w.equal()
	w.copied()

	// The reply is made, and then held back: it is old when it arrives.
	w.faults(stripesim.Fault{Kind: stripesim.FaultSlow, Count: 1, Endpoint: list, After: true, Delay: stripesim.Duration(1500 * time.Millisecond)})
	asked := w.whenAsked(list)
	w.change(customer, -10)
	<-asked
	made := time.Now().Add(300 * time.Millisecond)
	eventually(t, 2*time.Second, "the reply is made", that(func() bool { return time.Now().After(made) }))
	first.signal(syscall.SIGSTOP)
	stopped := time.Now()
	defer first.signal(syscall.SIGCONT) // or it could not be stopped in order

	second := w.spawn(nil)
	w.change(customer, -1)
	if a := w.sendTo(second, event("customer.updated", customer, time.Now())); a.code != http.StatusOK {
		t.Fatalf("the second process answered %+v", a)
	}
	eventually(t, 20*time.Second, "another process takes over", func() error {
		_, err := w.compare()
		return err
	})
	took := time.Since(stopped)
	if took > patience.Of(13*time.Second) {
		t.Errorf("G6: the target was in work again only %v after the stop", took)
	}
	t.Logf("taken over after %v", took.Round(time.Millisecond))
	past := stopped.Add(12 * time.Second)
	eventually(t, 15*time.Second, "the lease is long over", that(func() bool { return time.Now().After(past) }))
	w.change(customer, -2)
	if a := w.sendTo(second, event("customer.updated", customer, time.Now())); a.code != http.StatusOK {
		t.Fatalf("the second process answered %+v", a)
	}
	eventually(t, 20*time.Second, "the newest change arrives", func() error {
		_, err := w.compare()
		return err
	})
	first.signal(syscall.SIGCONT)
	eventually(t, 20*time.Second, "the first process learns that it is too late", func() error {
		fenced := first.metric("creditmirror_sync_total", `outcome="fenced"`) + first.metric("creditmirror_sync_total", `outcome="lease_lost"`)
		if fenced == 0 {
			return errors.New("I6: no sync of it was refused")
		}
		return nil
	})
	w.equal()
	w.stripe.credit(customer, 33, "usd")
	w.equal()
}

// sendTo delivers to one certain node.
func (w *world) sendTo(n *node, body []byte) answer {
	w.tb.Helper()
	direct := &world{tb: w.tb, webhook: n.webhook, secrets: w.secrets}
	return direct.deliver(body)
}

// TestStoppedInOrderUnderLoadF07I3: after SIGTERM nothing that got its 200 is
// lost, though Stripe lists no events any more.
func TestStoppedInOrderUnderLoadF07I3(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_WORKERS": "4"}})
		traffic := w.seeded(stripesim.TrafficOptions{Seed: 12, Customers: 60, Rate: 150})
		n := w.spawn(nil)
		w.copied()
		w.equal()
		w.faults(withoutEventsSweep(), stripesim.Fault{
			Kind: stripesim.FaultSlow, Probability: 1, Delay: stripesim.Duration(200 * time.Millisecond), Endpoint: "GET /v1/customers/{id}/balance_transactions",
		})
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- traffic.Run(ctx) }()
		eventually(t, 10*time.Second, "there is load", that(func() bool { return traffic.Done() > 200 }))
		began := time.Now()
		n.signal(syscall.SIGTERM)
		eventually(t, 30*time.Second, "it ends", that(func() bool { return !n.alive() }))
		if n.err != nil {
			t.Fatalf("it ended with %v, want exit 0", n.err)
		}
		t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		// What was refused is sent again; what was taken must be known.
		n.respawn(nil)
		w.equal()
	})
}

// TestStoppedWhileADependencyHangsF07F21: whatever hangs, a stop ends in time and
// with exit 0, and loses nothing.
func TestStoppedWhileADependencyHangsF07F21(t *testing.T) {
	t.Parallel()
	on(t, []backend{external}, func(t *testing.T, b backend) {
		for _, hangs := range []string{"redis", "stripe"} {
			t.Run(hangs, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, b, setup{})
				n := w.spawn(nil)
				customer := w.stripe.customer()
				w.stripe.credit(customer, 100, "usd")
				w.copied()
				w.equal()
				w.faults(withoutEventsSweep())
				if hangs == "stripe" {
					w.faults(withoutEventsSweep(), stripesim.Fault{Kind: stripesim.FaultSlow, Probability: 1, Delay: stripesim.Duration(time.Minute), Customer: customer})
				}
				w.change(customer, -10)
				if a := w.deliver(event("customer.updated", customer, time.Now())); a.code != http.StatusOK {
					t.Fatalf("%+v", a)
				}
				if hangs == "redis" {
					w.redis.Pause()
				}
				began := time.Now()
				n.signal(syscall.SIGTERM)
				eventually(t, 30*time.Second, "it ends", that(func() bool { return !n.alive() }))
				if n.err != nil {
					t.Fatalf("it ended with %v, want exit 0", n.err)
				}
				t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
				if hangs == "redis" {
					w.redis.Continue()
				}
				w.faults(withoutEventsSweep())
				n.respawn(nil)
				w.equal()
			})
		}
	})
}

// TestBigHistoryKilledHalfwayF41 reads a history of 5,000 rows in pieces of 2,000.
func TestBigHistoryKilledHalfwayF41(t *testing.T) {
	t.Parallel()
	const list = "GET /v1/customers/{id}/balance_transactions"
	each(t, func(t *testing.T, b backend) {
		// The history is older than Stripe's list of events.
		var now atomic.Pointer[time.Time]
		past := time.Now().AddDate(0, 0, -60)
		now.Store(&past)
		w := newWorld(t, b, setup{noEndpoint: true, sim: stripesim.Options{Now: func() time.Time {
			if at := now.Load(); at != nil {
				return *at
			}
			return time.Now()
		}}})
		customer := w.stripe.customer()
		for i := range scaled(5000, 2600) {
			if i%10 == 0 { // ten rows a second
				at := past.Add(time.Duration(i/10) * time.Second)
				now.Store(&at)
			}
			w.change(customer, int64(i%90)-90)
		}
		now.Store(nil)
		var pages atomic.Int32
		half := make(chan struct{})
		var once sync.Once
		w.hook(func(endpoint string, _ *http.Request) {
			if endpoint == list && pages.Add(1) == 24 { // the second piece of 20 pages has begun
				once.Do(func() { close(half) })
				// Held here until the process is gone, or the other pages would run ahead.
				w.mu.Lock()
				n := w.nodes[0]
				w.mu.Unlock()
				<-n.done
			}
		})
		n := w.spawn(nil)
		select {
		case <-half:
		case <-time.After(30 * time.Second):
			t.Fatalf("only %d pages were read", pages.Load())
		}
		n.signal(syscall.SIGKILL)
		w.change(customer, -7)
		w.sim.ResetCalls()
		n.respawn(nil)
		c := w.equal()
		read := w.sim.Calls()[list]
		if read > scaled(38, 14) {
			t.Errorf("%d pages were read after the kill: it began anew", read)
		}
		t.Logf("%d rows, %d pages read before the kill, %d after", c.BalanceTransactions, pages.Load()-int32(read), read)
		// No endpoint brings its webhook, so the change after the kill may count as missed.
		if f := w.count("SELECT count(*) FROM schema.drift_findings WHERE kind <> 'missed_event'"); f != 0 {
			t.Errorf("%d findings", f)
		}
	})
}

// TestBinaryTellsOfAllFaultsInItsConfigurationF37: what the binary cannot run on, it says at once.
func TestBinaryTellsOfAllFaultsInItsConfigurationF37(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), build(t), "serve")
	cmd.Env = []string{
		"STRIPE_API_KEY=" + apiKey, "STRIPE_WEBHOOK_SECRET=", "CREDITMIRROR_DATABASE_URL=mysql://x", "CREDITMIRROR_WORKERS=0",
		"CREDITMIRROR_TYPO=1",
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Fatalf("it ended with %v, want exit 2: %s", err, out)
	}
	for _, name := range []string{"STRIPE_WEBHOOK_SECRET", "CREDITMIRROR_DATABASE_URL", "CREDITMIRROR_WORKERS", "CREDITMIRROR_TYPO"} {
		if !strings.Contains(string(out), name) {
			t.Errorf("it does not name %s: %s", name, out)
		}
	}
	if strings.Contains(string(out), apiKey) {
		t.Error("it tells the key")
	}
}
