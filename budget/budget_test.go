package budget

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/redisconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(tb testing.TB, url string) redis.UniversalClient {
	tb.Helper()
	c, err := redisconn.Open(context.Background(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c.Client
}

func open(tb testing.TB, c redis.UniversalClient, o Options) *Budget {
	tb.Helper()
	b, err := New(c, prometheus.NewRegistry(), zap.NewNop(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(b.Close)
	return b
}

// onBoth runs a test on a real server and on the embedded one.
func onBoth(t *testing.T, run func(t *testing.T, c redis.UniversalClient)) {
	t.Helper()
	t.Parallel()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		run(t, dial(t, redistest.Start(t, "--appendfsync", "no").URL))
	})
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		run(t, dial(t, ""))
	})
}

// caller is one goroutine of one process, in virtual time.
type caller struct {
	account, endpoint string
	purpose           Purpose
	every             time.Duration // pause between its calls
	until             time.Duration // when it stops; 0: never
	next              time.Duration
}

// grant is one call that was let through.
type grant struct {
	at time.Duration
	caller
}

// epoch is where virtual time begins.
const epoch = 1_800_000_000 * time.Second

func micros(at time.Duration) string { return strconv.FormatInt((epoch + at).Microseconds(), 10) }

// simulate lets callers compete for d in virtual time. Every refused caller
// comes back when the reply said: live ones on the dot, so that they would snatch
// each call if they could, sweeps up to 3 ms late.
func simulate(t *testing.T, b *Budget, d time.Duration, callers ...caller) []grant {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2)) // a test that repeats
	var grants []grant
	for {
		c := &callers[0]
		for i := range callers {
			if callers[i].next < c.next {
				c = &callers[i]
			}
		}
		if c.next >= d {
			return grants
		}
		if c.until > 0 && c.next >= c.until {
			c.next = d
			continue
		}
		wait, err := b.askAt(t.Context(), micros(c.next), b.buckets(c.account, c.endpoint), c.purpose)
		if err != nil {
			t.Fatal(err)
		}
		if wait == 0 {
			grants = append(grants, grant{c.next, *c})
			c.next += c.every
			continue
		}
		if wait < 0 || wait > time.Minute {
			t.Fatalf("told to wait %s", wait)
		}
		c.next += wait
		if !c.purpose.live() {
			c.next += time.Duration(rnd.IntN(3000)) * time.Microsecond
		}
	}
}

func crowd(n int, c caller) []caller { return slices.Repeat([]caller{c}, n) }

// keepsContract checks I14 where Redis answers: no window of one second holds more
// than the rate and what a bucket holds.
func keepsContract(t *testing.T, grants []grant, rate float64) {
	t.Helper()
	limit := int(math.Ceil(rate + max(1, rate*burstSeconds)))
	for i, j := 0, 0; j < len(grants); j++ {
		for grants[j].at-grants[i].at >= time.Second {
			i++
		}
		if n := j - i + 1; n > limit {
			t.Fatalf("%d calls in the second before %s, want at most %d", n, grants[j].at, limit)
		}
	}
}

func count(grants []grant, f func(grant) bool) int {
	n := 0
	for _, g := range grants {
		if f(g) {
			n++
		}
	}
	return n
}

func isLive(g grant) bool { return g.purpose.live() }

func TestI14_CallsPerSecond(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		for i, tc := range []struct {
			rps     float64
			callers []caller
			calls   float64    // per second, at least
			live    [2]float64 // share of the calls, least and most
		}{
			{80, crowd(3, caller{purpose: Live}), 78, [2]float64{1, 1}},
			{80, crowd(3, caller{purpose: Backfill}), 78, [2]float64{0, 0}},
			{20, crowd(10, caller{purpose: Scrub}), 19, [2]float64{0, 0}},
			{80, append(crowd(4, caller{purpose: Live}), crowd(4, caller{purpose: Backfill})...), 78, [2]float64{0.5, 0.92}},
			{20, append(crowd(1, caller{purpose: API}), crowd(9, caller{purpose: Balances})...), 19, [2]float64{0.5, 0.92}},
			{1, append(crowd(2, caller{purpose: Live}), crowd(2, caller{purpose: Backfill})...), 0.9, [2]float64{0.5, 0.95}},
			{3, append(crowd(3, caller{purpose: Live}), crowd(3, caller{purpose: Events})...), 2.6, [2]float64{0.5, 0.95}},
			{2.5, crowd(2, caller{purpose: Endpoint}), 2.2, [2]float64{0, 0}},
		} {
			b := open(t, c, Options{RPS: tc.rps, Prefix: fmt.Sprint("rate", i)})
			d := 4 * time.Second
			if tc.rps < 5 {
				d = 30 * time.Second
			}
			grants := simulate(t, b, d, tc.callers...)
			keepsContract(t, grants, tc.rps)
			if got := float64(len(grants)) / d.Seconds(); got < tc.calls {
				t.Errorf("case %d: %.1f calls per second, want at least %.1f", i, got, tc.calls)
			}
			if share := float64(count(grants, isLive)) / float64(len(grants)); share < tc.live[0] || share > tc.live[1] {
				t.Errorf("case %d: %.0f %% of the calls are live, want %.0f to %.0f %%", i, share*100, tc.live[0]*100, tc.live[1]*100)
			}
		}
	})
}

// A bucket does not save up while nothing is called.
func TestI14_BurstAfterIdling(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		b := open(t, c, Options{RPS: 40})
		var grants []grant
		for _, at := range []time.Duration{0, time.Minute, 2 * time.Hour} {
			grants = append(grants, simulate(t, b, at+2*time.Second, crowd(2, caller{purpose: Live, next: at})...)...)
		}
		keepsContract(t, grants, 40)
		burst := count(grants, func(g grant) bool { return g.at == 2*time.Hour })
		if burst != 6 {
			t.Errorf("%d calls at once after idling, want 6", burst)
		}
	})
}

// Live work that comes now and then must not wait for a sweep that never ends.
func TestLiveFindsRoomBesideASweep(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		b := open(t, c, Options{RPS: 40, EndpointRPS: 20})
		sweep := caller{endpoint: "list", purpose: Backfill}
		live := caller{endpoint: "list", purpose: Live, every: 250 * time.Millisecond, next: 250 * time.Millisecond}
		grants := simulate(t, b, 10*time.Second, append(crowd(3, sweep), live)...)
		keepsContract(t, grants, 20)
		// 4 a second, each at once: their times are multiples of the pause.
		var lives []time.Duration
		for _, g := range grants {
			if isLive(g) {
				lives = append(lives, g.at)
			}
		}
		if len(lives) != 39 || lives[38] > 39*live.every {
			t.Errorf("%d live calls, want 39, each without a wait", len(lives))
		}
		if n := len(grants) - len(lives); n < 150 {
			t.Errorf("%d sweep calls in 10 s, want what live calls leave of 200", n)
		}
	})
}

// I20: accounts and endpoints do not take from each other below the global rate.
func TestI20_BucketsAreApart(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		b := open(t, c, Options{RPS: 100, AccountRPS: 30, EndpointRPS: 20})
		grants := simulate(t, b, 5*time.Second, slices.Concat(
			crowd(3, caller{account: "acct_1", endpoint: "list", purpose: Live}),
			crowd(3, caller{account: "acct_1", endpoint: "get", purpose: Live}),
			crowd(3, caller{account: "acct_2", endpoint: "list", purpose: Live}),
			crowd(3, caller{account: "", purpose: Live}))...)
		for _, tc := range []struct {
			name string
			rate float64
			f    func(grant) bool
		}{
			{"all", 100, func(grant) bool { return true }},
			{"acct_1", 30, func(g grant) bool { return g.account == "acct_1" }},
			{"acct_1 list", 20, func(g grant) bool { return g.account == "acct_1" && g.endpoint == "list" }},
			{"acct_2 list", 20, func(g grant) bool { return g.account == "acct_2" }},
			{"platform", 30, func(g grant) bool { return g.account == "" }},
		} {
			mine := slices.DeleteFunc(slices.Clone(grants), func(g grant) bool { return !tc.f(g) })
			keepsContract(t, mine, tc.rate)
			if tc.name != "all" && tc.name != "acct_1 list" && float64(len(mine)) < tc.rate*5*0.9 {
				t.Errorf("%s: %d calls in 5 s at %.0f a second", tc.name, len(mine), tc.rate)
			}
		}
	})
}

func TestThrottledSlowsDownAndRecovers(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		b := open(t, c, Options{RPS: 80, EndpointRPS: 20})
		throttled := func(at time.Duration, bucket string) int64 {
			t.Helper()
			n, err := b.throttle.run(t.Context(), c, []string{b.tag + bucket}, micros(at), growth, lowest)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		// Three 429s at once are one cut; a second later another.
		if n := throttled(0, "e::list") + throttled(0, "e::list") + throttled(900*time.Millisecond, "e::list"); n != 1 {
			t.Fatalf("%d cuts, want 1", n)
		}
		if n := throttled(time.Second, "e::list"); n != 1 {
			t.Fatal("no cut after a second")
		}
		grants := simulate(t, b, 60*time.Second,
			caller{endpoint: "list", purpose: Live, next: time.Second}, caller{endpoint: "list", purpose: Live, next: time.Second},
			caller{endpoint: "get", purpose: Live, next: time.Second, until: 6 * time.Second})
		per := func(endpoint string, from time.Duration) int {
			return count(grants, func(g grant) bool {
				return g.endpoint == endpoint && g.at >= from && g.at < from+5*time.Second
			})
		}
		// A quarter of 20 at first, growing by 0.4 a second each second.
		if n := per("list", time.Second); n < 24 || n > 35 {
			t.Errorf("%d calls in the 5 s after two cuts, want about 30", n)
		}
		if n := per("list", 45*time.Second); n < 95 {
			t.Errorf("%d calls in 5 s after recovery, want about 100", n)
		}
		if n := per("get", time.Second); n < 95 {
			t.Errorf("%d calls in 5 s of another endpoint, want about 100", n)
		}
		for i := range 30 {
			throttled(100*time.Second+time.Duration(i)*2*time.Second, "e::list")
		}
		grants = simulate(t, b, 170*time.Second, caller{endpoint: "list", purpose: Live, next: 160 * time.Second})
		if len(grants) < 5 {
			t.Errorf("%d calls in 10 s after thirty cuts, want some", len(grants))
		}
	})
}

// F36: a clock that is set back by an hour must not stop calls, nor free them.
func TestClockSetBack(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		b := open(t, c, Options{RPS: 20})
		both := append(crowd(4, caller{purpose: Live}), crowd(4, caller{purpose: Backfill})...)
		late := slices.Clone(both)
		for i := range late {
			late[i].next = time.Hour
		}
		if n := len(simulate(t, b, time.Hour+2*time.Second, late...)); n < 38 {
			t.Fatalf("%d calls in 2 s", n)
		}
		grants := simulate(t, b, 5*time.Second, both...)
		keepsContract(t, grants, 20)
		if sweeps := len(grants) - count(grants, isLive); len(grants) < 90 || sweeps < 8 {
			t.Errorf("%d calls, %d of them sweep, in 5 s after the clock was set back", len(grants), sweeps)
		}
		// Live calls that waited in that future do not hold up sweeps now.
		if n := len(simulate(t, b, 10*time.Second, caller{purpose: Scrub, next: 6 * time.Second})); n < 70 {
			t.Errorf("%d sweep calls in 4 s", n)
		}
	})
}

func TestCallsAreCountedAndForgotten(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		b := open(t, c, Options{RPS: 1000})
		ask := func(hour int) {
			for _, p := range Purposes() {
				if _, err := b.askAt(t.Context(), micros(time.Duration(hour)*time.Hour), b.buckets("", "x"), p); err != nil {
					t.Fatal(err)
				}
			}
		}
		for day := -60; day <= 0; day += 2 {
			ask(day * 24)
		}
		for hour := range 60 {
			ask(hour)
		}
		// 31 days of every other day, and the 60 hours.
		if n := c.HLen(t.Context(), b.tag+"calls").Val(); n > 76*int64(len(Purposes())) {
			t.Errorf("%d counters are kept", n)
		}
		fields := c.HGetAll(t.Context(), b.tag+"calls").Val()
		now := time.Unix(0, 0).Add(epoch + 59*time.Hour + 45*time.Minute)
		got := sum24h(now, fields, map[counter]int64{{now.Unix() / 3600, Live}: 5})
		if got[Live] != 29 || got[Scrub] != 24 {
			t.Errorf("calls in 24 h: %v", got)
		}
		// Now, by the server's clock.
		if err := b.Acquire(t.Context(), "acct_1", "list", Balances); err != nil {
			t.Fatal(err)
		}
		all, err := b.Calls24h(t.Context())
		if err != nil || len(all) != len(Purposes()) || all[Balances] < 1 {
			t.Errorf("calls %v, %v", all, err)
		}
	})
}

// Three processes at once, in real time.
func TestI14_ThreeProcesses(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		const rps, d = 50, 1500 * time.Millisecond
		const least = 37 // half of what the budget allows in d
		ctx, cancel := context.WithTimeout(t.Context(), patience.Of(10*time.Second))
		defer cancel()
		var (
			mu     sync.Mutex
			grants []grant
			wg     sync.WaitGroup
		)
		start := time.Now()
		for range 3 {
			b := open(t, c, Options{RPS: rps})
			for i := range 8 {
				p := []Purpose{Live, Backfill}[i%2]
				wg.Go(func() {
					for b.Acquire(ctx, "", "list", p) == nil {
						mu.Lock()
						grants = append(grants, grant{at: time.Since(start), caller: caller{purpose: p}})
						if len(grants) >= least && time.Since(start) > d {
							cancel() // a busy machine takes longer
						}
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		took := time.Since(start).Seconds()
		// Granted by the time of Redis and noted by ours: the whole run has the
		// same bound and no window to be blurred by a late goroutine.
		if most := int(math.Ceil(rps*took + rps*burstSeconds)); len(grants) > most {
			t.Errorf("%d calls in %.2f s, want at most %d", len(grants), took, most)
		}
		if len(grants) < least {
			t.Errorf("%d calls in %.2f s, want at least %d", len(grants), took, least)
		}
		if live := count(grants, isLive); live*2 < len(grants) {
			t.Errorf("%d of %d calls are live, want half", live, len(grants))
		}
	})
}

func TestFallbackAndReturn(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	c := dial(t, srv.URL)
	b := open(t, c, Options{RPS: 40, Heartbeat: 20 * time.Millisecond, Retry: 50 * time.Millisecond})
	other := open(t, c, Options{RPS: 40, Heartbeat: 20 * time.Millisecond, Retry: 50 * time.Millisecond})
	replicas := func(want int) func() bool {
		return func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.replicas == want }
	}
	eventually(t, "two processes to know each other", replicas(2))
	if err := b.Acquire(t.Context(), "", "list", Live); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	start := time.Now()
	const calls = 10
	for range calls {
		if err := b.Acquire(t.Context(), "", "list", Live); err != nil {
			t.Fatal(err)
		}
	}
	// Its share is 20 a second: 10 calls take half a second, without a burst.
	if took := time.Since(start); took < 450*time.Millisecond || took > patience.Of(5*time.Second) {
		t.Errorf("%d calls took %s, want 500ms", calls, took)
	}
	if testutil.ToFloat64(b.degraded) != 1 {
		t.Error("the fallback is not shown")
	}
	// A 429 counts in the fallback, too, at most once a second.
	b.Throttled(t.Context(), "", "list")
	b.Throttled(t.Context(), "", "list")
	if n := testutil.ToFloat64(b.throttles); n != 1 {
		t.Errorf("%v cuts, want 1", n)
	}
	if _, err := b.Calls24h(t.Context()); err == nil {
		t.Error("counted calls without redis")
	}
	srv.Restart()
	eventually(t, "the budget to be shared again", func() bool {
		if err := b.Acquire(t.Context(), "", "", Live); err != nil {
			t.Fatal(err)
		}
		return testutil.ToFloat64(b.degraded) == 0
	})
	eventually(t, "all calls to be counted", func() bool {
		n, err := b.Calls24h(t.Context())
		return err == nil && n[Live] > calls && len(b.uncounted()) == 0
	})
	other.Close()
	eventually(t, "the other to be gone", replicas(1))
}

// F14: a Redis that hangs costs one timeout, then the share is used.
func TestHangingRedisDoesNotStopCalls(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	b := open(t, dial(t, srv.URL), Options{RPS: 400, Timeout: 100 * time.Millisecond, Retry: time.Minute})
	if err := b.Acquire(t.Context(), "", "", Live); err != nil {
		t.Fatal(err)
	}
	srv.Pause()
	defer srv.Continue()
	start := time.Now()
	for range 5 {
		if err := b.Acquire(t.Context(), "", "", Backfill); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > patience.Of(2*time.Second) {
		t.Errorf("5 calls took %s", took)
	}
	b.Throttled(t.Context(), "", "") // must not hang either
}

func TestNeverReachedRedis(t *testing.T) {
	t.Parallel()
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = c.Close() })
	b := open(t, c, Options{RPS: 80})
	start := time.Now()
	for range 5 {
		if err := b.Acquire(t.Context(), "", "", Live); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 220*time.Millisecond { // a quarter of 80 a second
		t.Errorf("5 calls took %s, want 250ms", took)
	}
}

func TestCancelled(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		b := open(t, c, Options{RPS: 0.1})
		if err := b.Acquire(t.Context(), "", "", Live); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error)
		for range 3 { // one waits for the bucket, two stand in line behind it
			go func() { errs <- b.Acquire(ctx, "", "", Live) }()
		}
		eventually(t, "three to wait", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			l := b.lines["live  "]
			return l != nil && l.in == 3
		})
		cancel()
		for range 3 {
			if err := <-errs; !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.lines) != 0 || b.local != nil {
			t.Errorf("%d lines are left, fallback %v", len(b.lines), b.local)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := open(t, dial(t, ""), Options{RPS: 10})
	if err := b.Acquire(ctx, "", "", Live); !errors.Is(err, context.Canceled) {
		t.Errorf("with a dead context: %v", err)
	}
	if err := b.Acquire(t.Context(), "", "", "nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("unknown purpose: %v", err)
	}
}

func TestScriptsLost(t *testing.T) {
	onBoth(t, func(t *testing.T, c redis.UniversalClient) {
		b := open(t, c, Options{RPS: 100})
		for range 3 {
			if err := c.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			if err := b.Acquire(t.Context(), "", "list", Live); err != nil {
				t.Fatal(err)
			}
			b.Throttled(t.Context(), "", "list")
		}
		if testutil.ToFloat64(b.degraded) != 0 || testutil.ToFloat64(b.throttles) == 0 {
			t.Error("a lost script is not an outage")
		}
	})
}

func TestBudgetOnCluster(t *testing.T) {
	t.Parallel()
	b := open(t, dial(t, redistest.StartCluster(t, 3).URL), Options{RPS: 100})
	if err := b.Acquire(t.Context(), "acct_1", "list", Live); err != nil {
		t.Fatal(err)
	}
	b.Throttled(t.Context(), "acct_1", "list")
	n, err := b.Calls24h(t.Context())
	if err != nil || n[Live] != 1 || testutil.ToFloat64(b.degraded) != 0 || testutil.ToFloat64(b.throttles) != 1 {
		t.Fatalf("calls %v, %v", n, err)
	}
}

func TestMetricsAndOptions(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	c := dial(t, "")
	b, err := New(c, reg, zap.NewNop(), Options{RPS: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	for _, o := range []Options{
		{}, {RPS: -1}, {RPS: math.NaN()}, {RPS: math.Inf(1)}, {RPS: 10, EndpointRPS: 1e9}, {RPS: 10, Prefix: "{"}, {RPS: 10, Timeout: -1},
	} {
		if _, err := New(c, prometheus.NewRegistry(), zap.NewNop(), o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func BenchmarkAcquire(b *testing.B) {
	bud := open(b, dial(b, redistest.Start(b).URL), Options{RPS: 1e6})
	for b.Loop() {
		if err := bud.Acquire(b.Context(), "", "list", Live); err != nil {
			b.Fatal(err)
		}
	}
}

// eventually calls f until it says true, for as long as patience allows.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(patience.Of(20 * time.Second))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

func TestCallsByDay(t *testing.T) {
	onBoth(t, func(t *testing.T, client redis.UniversalClient) {
		b := open(t, client, Options{RPS: 1000})
		for range 3 {
			if err := b.Acquire(t.Context(), "", "customers", Live); err != nil {
				t.Fatal(err)
			}
		}
		today := time.Now().UTC().Truncate(24 * time.Hour)
		old := today.AddDate(0, 0, -20).Unix() / 3600
		for field, n := range map[string]int{fmt.Sprintf("%d:balances", old+5): 7, fmt.Sprintf("%d:balances", old+23): 1, "odd": 9, fmt.Sprintf("%d:odd", old): 9} {
			if err := client.HSet(t.Context(), b.tag+"calls", field, n).Err(); err != nil {
				t.Fatal(err)
			}
		}
		days, err := b.CallsByDay(t.Context())
		if err != nil || len(days) < 2 || !days[0].Start.Equal(today.AddDate(0, 0, -20)) || days[0].Calls[Balances] != 8 {
			t.Fatalf("%+v, %v", days, err)
		}
		var live int64
		for _, d := range days[1:] { // a day may end meanwhile
			live += d.Calls[Live]
		}
		if live != 3 {
			t.Errorf("%+v", days)
		}
	})
}
