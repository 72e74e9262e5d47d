package budget

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/creditmirror/creditmirror/internal/redistest"
)

// replica is one process of a random history.
type replica struct {
	known   int           // how many processes it knows of
	cut     time.Duration // when it is cut off from Redis for the first time
	back    time.Duration // when Redis answers it again
	share   *share
	callers []*asker
}

// asker is one line of a replica, for calls of one kind.
type asker struct {
	caller
	giveBack func(time.Time)
	at       time.Duration // when the call that was reserved may be made
}

// promise plays replicas that ask Redis, are cut off from it and come back, in
// virtual time.
type promise struct {
	t        *testing.T
	seed     uint64
	rand     *rand.Rand
	b        *Budget
	replicas []*replica
	grants   []grant
}

// TestI14_ThePromiseIsKept is the property, over random traces in virtual time: in
// any one second there are at most the configured calls and half a second's worth,
// over all, per account and per endpoint, with one process and with several, also
// while some or all of them are cut off from Redis or come back, and as Stripe sees it:
// calls arrive up to 100 ms late. At four fifths of Stripe's limits those are kept too.
func TestI14_ThePromiseIsKept(t *testing.T) {
	t.Parallel()
	c := dial(t, redistest.Start(t, "--appendfsync", "no").URL)
	worst := 0.0
	for seed := range uint64(60) {
		worst = max(worst, playPromise(t, c, seed))
	}
	t.Logf("most calls in a second: %.2f of the rate", worst)
}

func playPromise(t *testing.T, c redis.UniversalClient, seed uint64) (worst float64) {
	rnd := rand.New(rand.NewPCG(seed, 14))
	rates := []float64{20, 25, 40, 80}
	all := rates[rnd.IntN(len(rates))]
	o := Options{
		RPS: all, AccountRPS: all * (0.5 + 0.5*rnd.Float64()), EndpointRPS: max(10, all*(0.25+0.75*rnd.Float64())),
		Prefix: fmt.Sprint("promise", seed),
	}
	p := &promise{t: t, seed: seed, rand: rnd, b: open(t, c, o)}
	n := 1 + rnd.IntN(4)
	const d = 6 * time.Second
	for i := range n {
		r := &replica{known: n, cut: d, back: d}
		switch rnd.IntN(4) {
		case 0, 1: // cut off for a while
			r.cut = time.Duration(rnd.Int64N(int64(d)))
			r.back = r.cut + time.Duration(rnd.Int64N(int64(d)))
		case 2:
			if i == 0 || seed%3 == 0 { // from the beginning
				r.cut = 0
			}
		}
		if seed%5 == 0 { // Redis is away for all
			r.cut, r.back = 2*time.Second, 4*time.Second
		}
		for range 1 + rnd.IntN(5) {
			r.callers = append(r.callers, &asker{caller: caller{
				account:  []string{"", "acct_1"}[rnd.IntN(2)],
				endpoint: []string{"list", "list", "get", ""}[rnd.IntN(4)],
				purpose:  []Purpose{Live, Live, API, Backfill, Scrub}[rnd.IntN(5)],
				every:    []time.Duration{0, 0, 0, 10 * time.Millisecond, 700 * time.Millisecond}[rnd.IntN(5)],
				next:     time.Duration(rnd.Int64N(int64(time.Second))),
			}})
		}
		p.replicas = append(p.replicas, r)
	}
	for p.step(d) {
	}
	// As Stripe sees them.
	for i := range p.grants {
		p.grants[i].at += time.Duration(rnd.Int64N(int64(100 * time.Millisecond)))
	}
	slices.SortFunc(p.grants, func(a, b grant) int { return int(a.at - b.at) })
	for _, g := range []struct {
		name string
		rate float64
		in   func(grant) bool
	}{
		{"all", o.RPS, func(grant) bool { return true }},
		{"platform", o.AccountRPS, func(g grant) bool { return g.account == "" }},
		{"acct_1", o.AccountRPS, func(g grant) bool { return g.account == "acct_1" }},
		{"platform list", o.EndpointRPS, func(g grant) bool { return g.account == "" && g.endpoint == "list" }},
		{"acct_1 list", o.EndpointRPS, func(g grant) bool { return g.account == "acct_1" && g.endpoint == "list" }},
	} {
		most := mostInASecond(p.grants, g.in)
		if limit := int(math.Ceil(g.rate * 1.5)); most > limit {
			t.Errorf("seed %d: %s: %d calls in a second, promised are %d of %.1f", seed, g.name, most, limit, g.rate)
		}
		if limit := int(math.Ceil(g.rate*1.25)) + len(p.replicas); most > limit { // of late calls, one per process
			t.Errorf("seed %d: %s: %d calls in a second, Stripe's limit may be %d", seed, g.name, most, limit)
		}
		worst = max(worst, float64(most)/g.rate)
	}
	return worst
}

func mostInASecond(grants []grant, in func(grant) bool) int {
	var at []time.Duration
	for _, g := range grants {
		if in(g) {
			at = append(at, g.at)
		}
	}
	most := 0
	for i, j := 0, 0; j < len(at); j++ {
		for at[j]-at[i] >= time.Second {
			i++
		}
		most = max(most, j-i+1)
	}
	return most
}

// step lets the caller act whose turn it is, and reports whether there was any.
func (p *promise) step(d time.Duration) bool {
	var r *replica
	var a *asker
	for _, x := range p.replicas {
		for _, y := range x.callers {
			if a == nil || y.next < a.next {
				r, a = x, y
			}
		}
	}
	if a.next >= d {
		return false
	}
	now := a.next
	buckets := p.b.buckets(a.account, a.endpoint)
	if now >= r.cut && now < r.back {
		if r.share == nil {
			r.share = newShare(r.known)
		}
		if a.giveBack == nil {
			delay, giveBack := r.share.reserve(time.Unix(0, 0).Add(now), buckets, a.purpose)
			a.giveBack, a.at = giveBack, now+delay
			a.next = min(a.at, r.back)
			if a.next > now {
				return true
			}
		}
		p.grants = append(p.grants, grant{now, a.caller})
		a.giveBack = nil
		a.next = now + a.every
		return true
	}
	if a.giveBack != nil { // Redis answers again
		a.giveBack(time.Unix(0, 0).Add(now))
		a.giveBack = nil
	}
	wait, err := p.b.askAt(p.t.Context(), micros(now), buckets, a.purpose)
	if err != nil {
		p.t.Fatal(err)
	}
	if wait > 0 {
		a.next = now + wait
		if now < r.cut {
			a.next = min(a.next, max(r.cut, now+time.Microsecond))
		}
		return true
	}
	p.grants = append(p.grants, grant{now, a.caller})
	a.next = now + a.every
	return true
}

// slowOnce grants the first live call late.
type slowOnce struct{ done atomic.Bool }

func (s *slowOnce) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *slowOnce) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		reply, ok := cmd.(*redis.Cmd)
		if ok && err == nil && reply.Val() == int64(0) && slices.Contains(cmd.Args(), any(string(Live))) && s.done.CompareAndSwap(false, true) {
			time.Sleep(latest + 10*time.Millisecond)
		}
		return err
	}
}

func (s *slowOnce) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A call that was granted to a process that slept since is not made: it would meet
// those of the second it wakes up in.
func TestI14_LateGrantsAreNotUsed(t *testing.T) {
	t.Parallel()
	c := dial(t, "")
	b := open(t, c, Options{RPS: 100, Timeout: time.Minute, Heartbeat: time.Hour})
	if err := b.Acquire(t.Context(), "", "list", Live); err != nil { // so that the script is loaded
		t.Fatal(err)
	}
	counted := func() int64 {
		all, err := b.Calls24h(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return all[Live]
	}
	before := counted()
	c.AddHook(&slowOnce{})
	if err := b.Acquire(t.Context(), "", "list", Live); err != nil {
		t.Fatal(err)
	}
	if n := counted() - before; n != 2 {
		t.Errorf("%d calls taken, want the late one and another", n)
	}
}

// Who waits for its share asks Redis when that answers again; what it had reserved
// comes not on top.
func TestI14_SharesEndWithTheOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShare(3)
		buckets := []bucket{{"all", 1}}
		granted := make(chan bool, 2)
		go func() {
			ok, err := s.wait(t.Context(), buckets, Live)
			if err != nil {
				t.Error(err)
			}
			granted <- ok
		}()
		synctest.Wait()
		close(s.over)
		if <-granted {
			t.Error("the call of the share was made")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s = newShare(3)
		if ok, err := s.wait(ctx, buckets, Backfill); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, %v after the caller gave up", ok, err)
		}
		if delay, _ := s.reserve(time.Now(), buckets, Backfill); delay > 41*time.Second {
			t.Errorf("what was not called still counts: %v", delay)
		}
	})
}

// However the shares of processes that are cut off meet, they are a tenth of the rate.
func TestSharesOfOthers(t *testing.T) {
	t.Parallel()
	for n := 2; n < 12; n++ {
		for _, perSecond := range []float64{0.1, 1, 7, 20, 33.3, 80, 1000} {
			part := float64(newShare(n).part(perSecond))
			if part <= 0 || part*float64(n-1) > perSecond*shareSeconds*(1+1e-9) || part > 1 && part != math.Floor(part) {
				t.Errorf("%d processes, %.1f: a share of %v", n, perSecond, part)
			}
		}
	}
	if part := newShare(1).part(33.3); part != 33.3 {
		t.Errorf("alone: %v", part)
	}
}
