package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// A failure is a target's own only where Stripe answered another one since.
func TestGateWhoseFailure(t *testing.T) {
	t.Parallel()
	g, pass := gateClock()
	began := t0
	g.Answered(balanceOf("cus_2"))
	pass(time.Second)
	if own, wait := g.Failed(balanceOf(cus), began.Add(time.Millisecond)); own || wait <= 0 || wait > outagePause {
		t.Errorf("no answer since it began: own %v, wait %v", own, wait)
	}
	pass(time.Second)
	g.Answered(mirror.Target{Account: "acct_2", Scope: mirror.ScopeBalance, ID: "cus_2"})
	if own, _ := g.Failed(balanceOf(cus), began.Add(2*time.Second)); own {
		t.Error("an answer for another account made it the target's own")
	}
	pass(time.Second)
	g.Answered(balanceOf("cus_2")) // between two tries
	pass(time.Second)
	if own, _ := g.Failed(balanceOf(cus), began.Add(4*time.Second)); !own {
		t.Error("another target was answered since it failed last")
	}
}

// One target asks for all; if it does not come, another one takes its place.
func TestGateProbesAnOutage(t *testing.T) {
	t.Parallel()
	g, pass := gateClock()
	fail := func(id string) time.Duration {
		own, wait := g.Failed(balanceOf(id), g.now())
		if own {
			t.Fatal("nobody was answered")
		}
		return wait
	}
	fail("cus_1")
	if g.Out(balanceOf("cus_3")) != 0 {
		t.Error("one that fails alone keeps others from asking")
	}
	if wait := fail("cus_2"); wait < outageRest {
		t.Errorf("the second one asks again in %v", wait)
	}
	for range 20 {
		pass(outagePause)
		if wait := g.Out(balanceOf("cus_3")); wait < outageRest || wait > 2*outageRest {
			t.Fatalf("others wait %v", wait)
		}
		if g.Out(balanceOf("cus_1")) != 0 {
			t.Fatal("the prober waits")
		}
		if wait := fail("cus_1"); wait > outagePause {
			t.Fatalf("the prober waits %v", wait)
		}
	}
	pass(outagePause + proberLost + time.Millisecond)
	if g.Out(balanceOf("cus_3")) != 0 || g.Out(balanceOf("cus_2")) == 0 {
		t.Error("want one other target in the place of the prober")
	}
	if other := (mirror.Target{Account: "acct_2", Scope: mirror.ScopeBalance, ID: cus}); g.Out(other) != 0 {
		t.Error("another account waits")
	}
	g.Heard(balanceOf("cus_3"))
	if g.Out(balanceOf("cus_2")) != 0 || len(g.recovered) != 1 || !g.takeRecovered()[""] {
		t.Error("want the outage over")
	}
}

func TestGateForgetsWhoFailed(t *testing.T) {
	t.Parallel()
	g, _ := gateClock()
	for i := range maxTried + 5 {
		g.Failed(balanceOf(fmt.Sprint("cus_", i)), t0)
	}
	if n := len(g.tried); n > maxTried {
		t.Errorf("%d targets remembered", n)
	}
}

// While Stripe resets connections, one customer has 50 events a second: no attempt is
// used up, few calls are made, and all is done soon after Stripe is back.
func TestF24_I10_OutageIsNobodysAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		var mu sync.Mutex
		out, calls := false, 0
		r := start(t, q, Options{Workers: 4}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			time.Sleep(20 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if out {
				calls++
				return Result{}, failure(stripeapi.KindUnavailable)
			}
			return Result{}, nil
		})
		set := func(o bool) { mu.Lock(); out = o; mu.Unlock() }
		traffic := func(d time.Duration) {
			for range d / (20 * time.Millisecond) {
				q.mark(balanceOf(cus).Key())
				time.Sleep(20 * time.Millisecond)
			}
		}
		for i := range 30 {
			q.mark(balanceOf(fmt.Sprint("cus_o", i)).Key())
		}
		traffic(2 * time.Second) // all is well, and somebody was answered a moment ago
		set(true)
		for i := range 30 {
			q.mark(balanceOf(fmt.Sprint("cus_o", i)).Key())
		}
		traffic(10 * time.Minute)
		q.mu.Lock()
		for k, e := range q.keys {
			if e.Attempts > 1 { // those in work when it began may have seen an answer
				t.Errorf("%s: %d attempts", k, e.Attempts)
			}
		}
		if len(q.keys) != 31 {
			t.Errorf("%d keys wait, want 31", len(q.keys))
		}
		q.mu.Unlock()
		if calls < 100 || calls > 400 {
			t.Errorf("%d calls in ten minutes", calls)
		}
		set(false)
		pass(outagePause + time.Second)
		if n := q.waiting(); n != 0 || len(r.letters.kept) != 0 {
			t.Errorf("%d keys left after the outage, %d dead letters", n, len(r.letters.kept))
		}
		r.end(t)
	})
}

// A customer for whom alone Stripe fails is given up, however busy, but not within
// seconds.
func TestF42_I10_OneTargetsFaultTakesItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		r := start(t, q, Options{Workers: 4}, func(_ context.Context, target mirror.Target, _ []mirror.EventRef) (Result, error) {
			if target == balanceOf(cus) {
				return Result{}, failure(stripeapi.KindUnavailable)
			}
			return Result{}, nil
		})
		began := time.Now()
		for n := 0; len(r.letters.kept) == 0; n++ {
			if time.Since(began) > 2*time.Hour {
				t.Fatal("never given up")
			}
			q.mark(balanceOf(cus).Key())
			q.mark(balanceOf(fmt.Sprint("cus_o", n%7)).Key())
			pass(100 * time.Millisecond)
		}
		if d := time.Since(began); d < 30*time.Second {
			t.Errorf("given up after %v", d)
		}
		r.end(t)
	})
}

// What was put off is made due although the queue did not answer at first.
func TestF08_ResumeIsRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.keys["balance::cus_9"] = &entry{due: time.Now().Add(time.Hour), held: true, outage: true}
		q.keys["balance::cus_9"].Key = "balance::cus_9"
		q.fail["resume"] = errors.New("away")
		r := start(t, q, Options{}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) { return Result{}, nil })
		q.mark(balanceOf(cus).Key()) // the first answer of this process
		pass(3 * time.Second)
		if n := q.waiting(); n != 1 {
			t.Errorf("%d keys", n)
		}
		q.mu.Lock()
		delete(q.fail, "resume")
		q.mu.Unlock()
		pass(3 * time.Second)
		if n := q.waiting(); n != 0 {
			t.Errorf("%d keys left", n)
		}
		r.end(t)
	})
}

// A sync that runs into its time limit is an attempt, also where the database took the
// time: a commit that never ends must not be tried for ever.
func TestI10_SyncThatNeverEndsIsAnAttempt(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{stored(context.DeadlineExceeded), context.DeadlineExceeded} {
		if v := judge(fmt.Errorf("%w: %w", errTooLong, cause)); v.then != tryAgain || v.outcome != "too_long" {
			t.Errorf("%v: %+v, want an attempt", cause, v)
		}
	}
	if v := judge(fmt.Errorf("%w: %w", errTooLong, stored(context.DeadlineExceeded))); v.outage {
		t.Error("a database that takes too long counts as an outage of Stripe")
	}
}
