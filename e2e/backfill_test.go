//go:build unix

package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/stripesim"
)

const (
	listCustomers = "GET /v1/customers"
	listRows      = "GET /v1/customers/{id}/balance_transactions"
)

// backfill starts the binary's command.
func (w *world) backfill(tb testing.TB, own map[string]string) (*exec.Cmd, *logBuffer) {
	tb.Helper()
	out := &logBuffer{}
	cmd := exec.Command(build(tb), "backfill", "--log-level", "warn")
	settings := map[string]string{"HOME": os.Getenv("HOME")}
	for k, v := range own {
		settings[k] = v
	}
	for _, line := range w.environ(settings) {
		if !strings.HasPrefix(line, "CREDITMIRROR_API_ADDR=") && !strings.HasPrefix(line, "STRIPE_WEBHOOK_SECRET=") && !strings.HasPrefix(line, "CREDITMIRROR_EVENTS_INTERVAL=") {
			cmd.Env = append(cmd.Env, line)
		}
	}
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, out, childAttr()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	return cmd, out
}

// TestBackfillKilledAgainAndAgainF03: kill -9 at moments of chance; each run goes
// on where the one before was, and the last one ends with an exact mirror.
func TestBackfillKilledAgainAndAgainF03(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{noEndpoint: true, env: map[string]string{
			"CREDITMIRROR_STRIPE_RPS": "200", "CREDITMIRROR_STRIPE_ENDPOINT_RPS": "100",
		}})
		customers := scaled(700, 300)
		w.seeded(stripesim.TrafficOptions{Seed: 12, Customers: customers})
		r := rand.New(rand.NewPCG(12, 1))
		kills := 0
		for ; ; kills++ {
			cmd, out := w.backfill(t, nil)
			killed := make(chan struct{})
			timer := time.AfterFunc(time.Duration(300+r.IntN(1500))*time.Millisecond, func() {
				defer close(killed)
				_ = cmd.Process.Signal(syscall.SIGKILL)
			})
			if kills >= 4 {
				timer.Stop()
			}
			err := cmd.Wait()
			if err == nil {
				break
			}
			if kills >= 4 {
				t.Fatalf("%v: %s", err, out)
			}
			<-killed
		}
		if _, err := w.compare(); err != nil {
			t.Fatal(err)
		}
		calls := w.sim.Calls()
		// In flight when killed: up to 16 lists and 16 histories, and what was in the queue
		// of a Redis that is gone is marked again, not read again.
		if most := customers + (kills+1)*20; calls[listRows] > most {
			t.Errorf("%d histories were read, want at most %d", calls[listRows], most)
		}
		t.Logf("%d kills, %d lists of customers, %d of rows for %d customers", kills, calls[listCustomers], calls[listRows], customers)
	})
}

// TestBackfillBesideServe: the work is not done twice. While a serve makes the
// first copy, the command says so and ends with 1.
func TestBackfillBesideServe(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_STRIPE_RPS": "20", "CREDITMIRROR_STRIPE_ENDPOINT_RPS": "20"}})
		w.seeded(stripesim.TrafficOptions{Seed: 13, Customers: 300})
		w.start(nil)
		eventually(t, 20*time.Second, "the first copy has begun", func() error {
			s, err := w.reader().Sweep(t.Context(), "", "backfill")
			if err == nil && len(s.State) == 0 {
				err = errors.New("no checkpoint")
			}
			return err
		})
		cmd, out := w.backfill(t, nil)
		err := cmd.Wait()
		// On a machine too busy for its heartbeats serve loses the lease, and the command
		// may make the rest.
		lost := strings.Contains(w.log.String(), "reconcile lease lost")
		if exit, ok := errors.AsType[*exec.ExitError](err); err == nil && lost {
			t.Log("the command took over")
		} else if !ok || exit.ExitCode() != 1 || !strings.Contains(out.String(), "another process makes the first copy") {
			t.Errorf("%v: %s", err, out)
		}
		w.copied()
		w.equal()
		if n := w.sim.Calls()[listRows]; n > 330 {
			t.Errorf("%d histories were read for 300 customers", n)
		}
	})
}

func figures(t *testing.T) {
	t.Helper()
	if os.Getenv("CREDITMIRROR_FIGURES") != "1" {
		t.Skip("takes minutes; set CREDITMIRROR_FIGURES=1 (make figures)")
	}
}

// callTimes notes when each call came.
type callTimes struct {
	mu sync.Mutex
	at map[string][]time.Time
}

func (w *world) times() *callTimes {
	c := &callTimes{at: map[string][]time.Time{}}
	w.hook(func(endpoint string, _ *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.at[endpoint] = append(c.at[endpoint], time.Now())
	})
	return c
}

// rate is the calls per second of an endpoint ("" is all of them) since a time,
// from the first call to the last.
func (c *callTimes) rate(endpoint string, since time.Time) (n int, rate float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var at []time.Time
	for name, times := range c.at {
		if endpoint == "" || endpoint == name {
			at = append(at, times...)
		}
	}
	at = slices.DeleteFunc(at, func(t time.Time) bool { return t.Before(since) })
	slices.SortFunc(at, time.Time.Compare)
	if len(at) < 2 {
		return len(at), 0
	}
	return len(at), float64(len(at)-1) / at[len(at)-1].Sub(at[0]).Seconds()
}

// TestFigureBackfillRate: the first copy goes at 95 % or more of the permitted
// rate, in its lists and in its histories, with answers as slow as Stripe's and
// limits as Stripe's, and is never refused for going too fast.
func TestFigureBackfillRate(t *testing.T) {
	figures(t)
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{noEndpoint: true, sim: stripesim.Options{Limits: stripesim.Limits{AccountRPS: 25, EndpointRPS: 25}}, env: map[string]string{
			"CREDITMIRROR_STRIPE_RPS": "20", "CREDITMIRROR_STRIPE_ENDPOINT_RPS": "20",
		}})
		const customers = 12_000
		w.seeded(stripesim.TrafficOptions{Seed: 14, Customers: customers})
		w.faults(stripesim.Fault{Kind: stripesim.FaultSlow, Probability: 1, Delay: stripesim.Duration(500 * time.Millisecond)})
		times := w.times()
		cmd, out := w.backfill(t, nil)
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		enough := func(endpoint string, since time.Time, n int) {
			eventually(t, 60*time.Second, "calls are made", func() error {
				if made, _ := times.rate(endpoint, since); made < n {
					return fmt.Errorf("%d of %d", made, n)
				}
				return nil
			})
		}
		enough(listRows, time.Time{}, 1)
		lists, listRate := times.rate(listCustomers, time.Time{})
		began := time.Now()
		enough("", began, 600)
		calls, rate := times.rate("", began)
		t.Logf("lists: %d calls for %d pages, %.2f/s; then %d calls, %.2f/s of 20 permitted\n%s", lists, customers/100, listRate, calls, rate, out)
		if rate < 19 {
			t.Errorf("%.2f calls/s, want 95 %% of 20", rate)
		}
		if n := strings.Count(out.String(), "rate cut"); n > 0 {
			t.Errorf("%d refusals", n)
		}
	})
}

// TestFigureLiveLatencyDuringBackfill: from a change at Stripe to its commit, while
// the first copy runs at its full rate and beside it changes come that are a
// quarter of what is permitted.
func TestFigureLiveLatencyDuringBackfill(t *testing.T) {
	figures(t)
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{sim: stripesim.Options{Limits: stripesim.Limits{AccountRPS: 25, EndpointRPS: 25}}, env: map[string]string{
			"CREDITMIRROR_STRIPE_RPS": "20", "CREDITMIRROR_STRIPE_ENDPOINT_RPS": "20",
		}})
		w.seeded(stripesim.TrafficOptions{Seed: 15, Customers: 3000})
		// An event announces changes in the customer's own currency only.
		type known struct{ id, currency string }
		var customers []known
		for _, c := range w.sim.Truth() {
			var own struct {
				Currency string `json:"currency"`
			}
			if err := json.Unmarshal(c.Customer, &own); err != nil {
				t.Fatal(err)
			}
			if !c.Deleted {
				customers = append(customers, known{c.ID, cmp.Or(own.Currency, "usd")})
			}
		}
		w.faults(stripesim.Fault{Kind: stripesim.FaultSlow, Probability: 1, Delay: stripesim.Duration(300 * time.Millisecond)})
		w.start(nil)
		eventually(t, 60*time.Second, "histories are read", func() error {
			if n := w.sim.Calls()[listRows]; n < 60 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		times := w.times()
		var took []time.Duration
		var mu sync.Mutex
		var watches sync.WaitGroup
		for i := range 150 {
			c := customers[i*17]
			row, err := w.sim.AddBalanceTransaction("", c.id, stripesim.BalanceChange{Amount: -7, Currency: c.currency})
			if err != nil {
				t.Fatal(err)
			}
			at := time.Now()
			watches.Go(func() {
				for time.Since(at) < 30*time.Second {
					if _, err := w.reader().BalanceTransaction(t.Context(), "", c.id, row); err == nil {
						mu.Lock()
						defer mu.Unlock()
						took = append(took, time.Since(at))
						return
					}
					<-time.After(10 * time.Millisecond)
				}
			})
			<-time.After(200 * time.Millisecond)
		}
		watches.Wait()
		n, rate := times.rate("", time.Time{})
		slices.Sort(took)
		left, err := w.reader().UnsyncedCount(t.Context(), "")
		if err != nil || left == 0 {
			t.Errorf("the first copy ended meanwhile: %d left, %v", left, err)
		}
		if len(took) < 150 {
			t.Fatalf("only %d of 150 changes were seen", len(took))
		}
		t.Logf("%d changes seen live: p50 %v, p99 %v, max %v; %d calls, %.2f/s; %d histories left", len(took),
			took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), n, rate, left)
		if p99 := took[len(took)*99/100]; p99 > 5*time.Second {
			t.Errorf("p99 %v, want 5 s at most", p99)
		}
	})
}

// TestFigureLostWebhook: with every webhook lost, a change is held within the
// interval of the events sweep and 5 s.
func TestFigureLostWebhook(t *testing.T) {
	figures(t)
	each(t, func(t *testing.T, b backend) {
		const interval = 5 * time.Second
		w := newWorld(t, b, setup{
			sim: stripesim.Options{Faults: stripesim.Faults{{Kind: stripesim.FaultWebhookLost, Probability: 1}}},
			env: map[string]string{"CREDITMIRROR_EVENTS_INTERVAL": interval.String(), "CREDITMIRROR_BALANCES_INTERVAL": "24h"},
		})
		w.seeded(stripesim.TrafficOptions{Seed: 16, Customers: 200})
		customer := w.stripe.customer()
		w.start(nil)
		w.copied()
		w.equal()
		var took []time.Duration
		for i := range 12 {
			<-time.After(time.Duration(i) * 410 * time.Millisecond) // at all moments of the interval
			row := w.change(customer, -7)
			at := time.Now()
			eventually(t, 30*time.Second, "the change is held", func() error {
				_, err := w.reader().BalanceTransaction(t.Context(), "", customer, row)
				return err
			})
			took = append(took, time.Since(at))
		}
		slices.Sort(took)
		t.Logf("interval %v: p50 %v, max %v of %d lost webhooks", interval, took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), len(took))
		if slowest := took[len(took)-1]; slowest > interval+5*time.Second {
			t.Errorf("%v, want %v at most", slowest, interval+5*time.Second)
		}
	})
}

// TestFigureFlushAll: FLUSHALL under traffic over 10,000 customers, with a simulator
// without limits: noticed within 10 s, and all equal within 60 s.
func TestFigureFlushAll(t *testing.T) {
	figures(t)
	on(t, []backend{external, everysec}, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_EVENTS_INTERVAL": "1h"}})
		traffic := w.seeded(stripesim.TrafficOptions{Seed: 17, Customers: 10_000, Rate: 100})
		n := w.start(nil)
		eventually(t, 240*time.Second, "the first copy is done", func() error {
			s, err := w.reader().Sweep(t.Context(), "", "backfill")
			if err == nil && s.LastSuccess.IsZero() {
				err = fmt.Errorf("it stands at %s", s.State)
			}
			return err
		})
		w.equal()
		lost := n.metric("creditmirror_redis_lost_total", "")
		done := make(chan struct{})
		go func() { defer close(done); w.traffic(traffic, 12*time.Second) }()
		rdb := w.rdb()
		defer func() { _ = rdb.Close() }()
		<-time.After(5 * time.Second)
		if err := rdb.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		eventually(t, 10*time.Second, "the loss is noticed", that(func() bool { return n.metric("creditmirror_redis_lost_total", "") > lost }))
		noticed := time.Since(began)
		<-done
		w.equalWithin(60*time.Second - time.Since(began))
		t.Logf("noticed after %v, all equal %v after FLUSHALL, %d changes", noticed.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), traffic.Done())
	})
}
