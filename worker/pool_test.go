package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/queue"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// fakeQueue keeps the promise of queue.Queue in memory.
type fakeQueue struct {
	mu    sync.Mutex
	keys  map[string]*entry
	log   []string // what was done, by key
	fail  map[string]error
	lost  map[string]bool // keys whose lease is gone
	turns int             // claims made
}

type entry struct {
	queue.Claim
	due    time.Time
	leased bool
	held   bool // marks do not bring it forward
	outage bool // Resume does
	marked bool // while it was leased
}

func newQueue(keys ...string) *fakeQueue {
	q := &fakeQueue{keys: map[string]*entry{}, fail: map[string]error{}, lost: map[string]bool{}}
	for _, k := range keys {
		q.keys[k] = &entry{Claim: queue.Claim{Key: k}, due: time.Now()}
	}
	return q
}

func (q *fakeQueue) done() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return strings.Join(q.log, "; ")
}

func (q *fakeQueue) Claim(_ context.Context, limit int) (out []queue.Claim, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turns++
	if err := q.fail["claim"]; err != nil {
		return nil, err
	}
	var names []string
	for k := range q.keys {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		if e := q.keys[k]; !e.leased && !e.due.After(time.Now()) && len(out) < limit {
			e.leased = true
			e.Expires = time.Now().Add(q.Lease())
			out = append(out, e.Claim)
		}
	}
	return out, nil
}

func (q *fakeQueue) Renew(_ context.Context, claims []queue.Claim) (lost []queue.Claim, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range claims {
		if q.lost[c.Key] {
			lost = append(lost, c)
		}
	}
	return lost, q.fail["renew"]
}

// end is what all ways to end a claim share.
func (q *fakeQueue) end(c queue.Claim, what string) (*entry, error) {
	if q.lost[c.Key] {
		q.log = append(q.log, what+" refused")
		return nil, queue.ErrLost
	}
	if err := q.fail[what]; err != nil {
		return nil, err
	}
	q.log = append(q.log, what)
	return q.keys[c.Key], nil
}

func (q *fakeQueue) Done(_ context.Context, c queue.Claim) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, err := q.end(c, "done"); err != nil {
		return false, err
	}
	if e := q.keys[c.Key]; e.marked {
		*e = entry{Claim: queue.Claim{Key: c.Key}, due: time.Now()}
		return true, nil
	}
	delete(q.keys, c.Key)
	return false, nil
}

// back is what all ways to give a claim back share.
func (q *fakeQueue) back(c queue.Claim, what string, delay time.Duration, counted bool) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, err := q.end(c, what)
	if err != nil {
		return 0, err
	}
	if counted {
		e.Attempts++
	}
	e.held, e.outage = what != "revisit" && delay > 0, what == "put off"
	if e.marked && !e.held {
		delay = 0
	}
	e.leased, e.marked, e.due = false, false, time.Now().Add(delay)
	return e.Attempts, nil
}

func (q *fakeQueue) Fail(_ context.Context, c queue.Claim, delay time.Duration) (int, error) {
	return q.back(c, "fail", delay, true)
}

func (q *fakeQueue) Release(_ context.Context, c queue.Claim, delay time.Duration) error {
	_, err := q.back(c, "release", delay, false)
	return err
}

func (q *fakeQueue) PutOff(_ context.Context, c queue.Claim, delay time.Duration, counted bool) (int, error) {
	return q.back(c, "put off", delay, counted)
}

func (q *fakeQueue) Revisit(_ context.Context, c queue.Claim, delay time.Duration) (int, error) {
	return q.back(c, "revisit", delay, true)
}

func (q *fakeQueue) Resume(_ context.Context, match func(string) bool) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.fail["resume"]; err != nil {
		return 0, err
	}
	for k, e := range q.keys {
		if !e.leased && e.outage && match(k) && e.due.After(time.Now()) {
			e.due, e.held = time.Now(), false
			n++
		}
	}
	return n, nil
}

// mark is queue.Queue.Mark of one live key.
func (q *fakeQueue) mark(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch e := q.keys[key]; {
	case e == nil:
		q.keys[key] = &entry{Claim: queue.Claim{Key: key}, due: time.Now()}
	case e.leased:
		e.marked = true
	case !e.held && e.due.After(time.Now()):
		e.due = time.Now()
	}
}

// waiting counts the keys that are not done.
func (q *fakeQueue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.keys)
}

func (q *fakeQueue) Wait(ctx context.Context) error {
	q.mu.Lock()
	err := q.fail["wait"]
	q.mu.Unlock()
	if err != nil {
		return err
	}
	return backoff.Sleep(ctx, 50*time.Millisecond)
}

func (q *fakeQueue) Reap(context.Context) (int, error)   { return 1, nil }
func (q *fakeQueue) Repair(context.Context) (int, error) { return 1, nil }
func (q *fakeQueue) Lease() time.Duration                { return 9 * time.Second }

type fakeLetters struct {
	mu    sync.Mutex
	kept  []mirror.DeadLetter
	pings int
	err   error
}

func (f *fakeLetters) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeLetters) Ping(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pings++
	return f.err
}

func (f *fakeLetters) SaveDeadLetter(_ context.Context, d mirror.DeadLetter) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.kept = append(f.kept, d)
	return nil
}

// rig is a pool over fakes.
type rig struct {
	q       *fakeQueue
	letters *fakeLetters
	pool    *Pool
	gate    *Gate
	metrics *prometheus.Registry
	stop    context.CancelFunc
	ended   chan error
}

// start runs a pool whose syncs are what the test says, within a synctest bubble.
func start(t *testing.T, q *fakeQueue, o Options, sync func(ctx context.Context, t mirror.Target, refs []mirror.EventRef) (Result, error)) *rig {
	t.Helper()
	r := &rig{q: q, letters: &fakeLetters{}, gate: NewGate(nil), metrics: prometheus.NewRegistry(), ended: make(chan error, 1)}
	o.Registerer = r.metrics
	r.pool = NewPool(q, nil, nil, r.letters, r.gate, o)
	r.pool.sync = func(ctx context.Context, t mirror.Target, _ queue.Class, refs []mirror.EventRef, _ bool) (Result, error) {
		return sync(ctx, t, refs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() { r.ended <- r.pool.Run(ctx) }()
	return r
}

func (r *rig) end(t *testing.T) {
	t.Helper()
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	stripe := func(k stripeapi.Kind) error { return fmt.Errorf("sync x: %w", failure(k)) }
	for _, test := range []struct {
		err     error
		outcome string
		then    action
		outage  bool
	}{
		{nil, "ok", complete, false},
		{fmt.Errorf("x: %w", mirror.ErrFenced), "fenced", giveBack, false},
		{fmt.Errorf("%w: %w", errLeaseLost, context.Canceled), "lease_lost", giveBack, false},
		{fmt.Errorf("%w: %w", errStopping, context.Canceled), "stopped", giveBack, false},
		{fmt.Errorf("x: %w", stored(errors.New("disk"))), "store_error", wait, false},
		{stored(context.DeadlineExceeded), "store_error", wait, false},
		{stripe(stripeapi.KindUnauthorized), "refused_key", closeGate, false},
		{stripe(stripeapi.KindForbidden), "no_permission", closeGate, false},
		{stripe(stripeapi.KindAccountRefused), "refused_key", closeGate, false},
		{stripe(stripeapi.KindRateLimited), "rate_limited", wait, false},
		{stripe(stripeapi.KindUnavailable), "stripe_unavailable", tryAgain, true},
		{context.DeadlineExceeded, "stripe_unavailable", tryAgain, true},
		{stripe(stripeapi.KindGarbled), "garbled", tryAgain, true},
		{fmt.Errorf("%w: x", errLagging), "lagging", tryAgain, false},
		{errUnlisted, "lagging", tryAgain, false},
		{fmt.Errorf("%w: x", mirror.ErrLedgerRewritten), "ledger_rewritten", tryAgain, false},
		{mirror.ErrDisproved, "failed", tryAgain, false},
		{stored(fmt.Errorf("x: %w", mirror.ErrUnstorable)), "failed", tryAgain, false},
		{stripe(stripeapi.KindNotFound), "failed", tryAgain, false},
		{stripe(stripeapi.KindRefused), "failed", tryAgain, false},
		{errors.New("panic: x"), "failed", tryAgain, false},
	} {
		v := judge(test.err)
		if v.outcome != test.outcome || v.then != test.then || v.outage != test.outage {
			t.Errorf("%v: %+v, want %s", test.err, v, test.outcome)
		}
	}
	long := &stripeapi.Error{Kind: stripeapi.KindRateLimited, RetryAfter: time.Minute}
	if v := judge(long); v.wait != time.Minute {
		t.Errorf("Retry-After of a minute: wait %v", v.wait)
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	for attempt := range 100 {
		d := backoff.Jitter(500*time.Millisecond, 5*time.Minute, attempt)
		if d < 500*time.Millisecond || d > 5*time.Minute+time.Second {
			t.Errorf("attempt %d: %v", attempt, d)
		}
	}
}

func TestParseRefs(t *testing.T) {
	t.Parallel()
	good := mirror.EventRef{ID: "evt_1", Created: t0, Type: "customer.updated", Object: cus}
	got, unread := parseRefs([]string{"", "x", good.String(), "evt_2 yesterday a b", good.String()})
	if len(got) != 1 || got[0] != good || !unread {
		t.Errorf("%v, %v, want %v alone", got, unread, good)
	}
	// Delivered twice, each time with a trace of its own: nothing is unknown.
	again := good
	again.Trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if got, unread := parseRefs([]string{good.String(), again.String()}); len(got) != 1 || unread {
		t.Errorf("%v, %v", got, unread)
	}
}

func TestPoolOutcomes(t *testing.T) {
	t.Parallel()
	found := mirror.Applied{Findings: []mirror.Finding{{Kind: mirror.DriftChainGap}}}
	for _, test := range []struct {
		name     string
		attempts int
		healthy  bool
		result   Result
		err      error
		want     string
		letters  int
	}{
		{"ok", 0, false, Result{}, nil, "done", 0},
		{"more", 0, false, Result{More: true}, nil, "release", 0},
		{"R4 fenced", 11, true, Result{}, mirror.ErrFenced, "release", 0},
		{"refused values", 11, true, Result{}, stored(fmt.Errorf("x: %w", mirror.ErrUnstorable)), "done", 1},
		{"new finding", 0, true, Result{Unproven: true, Applied: found}, nil, "revisit", 0},
		{"new finding seen through", 4, true, Result{Unproven: true, Applied: found}, nil, "done", 0},
		{"known finding", 0, true, Result{Unproven: true}, nil, "done", 0},
		{"store away", 11, true, Result{}, stored(errors.New("disk")), "release", 0},
		{"429", 11, true, Result{}, failure(stripeapi.KindRateLimited), "release", 0},
		{"401", 11, true, Result{}, failure(stripeapi.KindUnauthorized), "put off", 0},
		{"first attempt", 0, true, Result{}, errors.New("x"), "fail", 0},
		{"11th attempt", 10, true, Result{}, errors.New("x"), "fail", 0},
		{"12th attempt", 11, false, Result{}, errors.New("x"), "done", 1},
		{"outage", 11, false, Result{}, failure(stripeapi.KindUnavailable), "put off", 0},
		{"outage of one target", 11, true, Result{}, failure(stripeapi.KindUnavailable), "done", 1},
		{"timeout in an outage", 30, false, Result{}, context.DeadlineExceeded, "put off", 0},
		{"rewritten", 11, false, Result{}, mirror.ErrLedgerRewritten, "done", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(balanceOf(cus).Key())
				e := q.keys[balanceOf(cus).Key()]
				e.Attempts = test.attempts
				e.Refs = []string{"evt_1 1772366400 customer.updated cus_1", "junk"}
				ran := false
				var r *rig
				started := make(chan struct{}) // r is set
				r = start(t, q, Options{}, func(ctx context.Context, target mirror.Target, refs []mirror.EventRef) (Result, error) {
					if ran {
						<-ctx.Done()
						return Result{}, ctx.Err()
					}
					ran = true
					<-started
					if test.healthy { // others are answered meanwhile
						r.gate.Answered(balanceOf("cus_2"))
					}
					if target != balanceOf(cus) || len(refs) != 1 {
						t.Errorf("sync of %v with %v", target, refs)
					}
					return test.result, test.err
				})
				close(started)
				synctest.Wait()
				if got := q.done(); got != test.want {
					t.Errorf("%s, want %s", got, test.want)
				}
				if n := len(r.letters.kept); n != test.letters {
					t.Errorf("%d dead letters, want %d", n, test.letters)
				} else if n > 0 {
					l := r.letters.kept[0]
					if l.ID != mirror.DeadLetterID(balanceOf(cus)) || l.Attempts != 12 || len(l.EventIDs) != 1 || l.Reason == "" || l.RetryAt.Sub(l.LastFailedAt) != time.Hour {
						t.Errorf("dead letter %+v", l)
					}
				}
				r.stop()
				<-r.ended
			})
		})
	}
}

// A target that fails for ever becomes a dead letter after the last attempt, and
// not before; the others go on meanwhile.
func TestF42_I10_PoisonTarget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key(), balanceOf("cus_2").Key())
		tries := 0
		r := start(t, q, Options{MaxAttempts: 4}, func(_ context.Context, target mirror.Target, _ []mirror.EventRef) (Result, error) {
			if target == balanceOf(cus) {
				tries++
				panic("poison")
			}
			return Result{}, nil
		})
		pass(time.Hour)
		if tries != 4 || len(r.letters.kept) != 1 || len(q.keys) != 0 {
			t.Errorf("%d tries, %d letters, %d keys left; want 4, 1, 0", tries, len(r.letters.kept), len(q.keys))
		}
		if n := testutil.ToFloat64(r.pool.m.panics); n != 4 {
			t.Errorf("%v panics counted", n)
		}
		r.end(t)
	})
}

func TestI10_DeadLetterNotSavedKeepsTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key())
		r := start(t, q, Options{MaxAttempts: 1}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			return Result{}, errors.New("x")
		})
		r.letters.fail(errors.New("disk on fire"))
		synctest.Wait()
		if got := q.done(); got != "release" {
			t.Errorf("%s, want release", got)
		}
		r.letters.fail(nil)
		pass(5 * time.Minute)
		if len(q.keys) != 0 || len(r.letters.kept) != 1 {
			t.Errorf("%d keys, %d letters; want the letter once it can be kept", len(q.keys), len(r.letters.kept))
		}
		r.end(t)
	})
}

func TestPoolMoreRunsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key())
		runs := 0
		r := start(t, q, Options{}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			runs++
			return Result{More: runs < 3}, nil
		})
		pass(time.Second)
		if got := q.done(); got != "release; release; done" {
			t.Errorf("%s, want two pieces and the end", got)
		}
		r.end(t)
	})
}

// A reply that may have been older than its events is looked at again, and a reply
// that proves itself ends that.
func TestPoolLooksAgain(t *testing.T) {
	t.Parallel()
	for looks, want := range map[int]string{
		0: "done", 1: "revisit; done", 2: "revisit; revisit; done", 9: "revisit; revisit; revisit; revisit; done",
	} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(balanceOf(cus).Key())
			r := start(t, q, Options{}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
				return Result{Looks: looks}, nil
			})
			pass(5 * time.Minute)
			if got := q.done(); got != want {
				t.Errorf("%d looks: %s, want %s", looks, got, want)
			}
			r.end(t)
		})
	}
}

// A question whose answer waits for syncs is asked again until they are there, ever more
// rarely, and never becomes a dead letter.
func TestPoolAsksAgainWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue((mirror.Target{Scope: mirror.ScopeClockCustomers, ID: "clock_1"}).Key())
		began := time.Now()
		var at []time.Duration
		r := start(t, q, Options{MaxAttempts: 3}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			at = append(at, time.Since(began).Round(time.Second))
			return Result{Waits: time.Since(began) < 20*time.Minute}, nil
		})
		pass(time.Hour)
		if got := fmt.Sprint(at[:5]); got != "[0s 2s 6s 14s 30s]" || len(at) > 14 {
			t.Errorf("asked %d times, first at %s", len(at), got)
		}
		if !strings.HasSuffix(q.done(), "revisit; done") || len(r.letters.kept) != 0 {
			t.Errorf("%s, %d letters", q.done(), len(r.letters.kept))
		}
		r.end(t)
	})
}

// I19: what a refused sync found is counted once, however often it is tried again.
func TestI19_FindingsOfARefusedSyncAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key())
		tries := 0
		r := start(t, q, Options{MaxAttempts: 3}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			tries++
			result := Result{}
			if tries == 1 { // known from then on
				result.Findings = []mirror.Finding{{Kind: mirror.DriftFieldMismatch}}
			}
			return result, mirror.ErrLedgerRewritten
		})
		pass(time.Hour)
		if n := testutil.ToFloat64(r.pool.m.driftFound.WithLabelValues(string(mirror.DriftFieldMismatch))); n != 1 || tries != 3 || len(r.letters.kept) != 1 {
			t.Errorf("%v findings counted in %d tries, %d letters; want 1 in 3, and 1", n, tries, len(r.letters.kept))
		}
		r.end(t)
	})
}

// F24: a list may lag for longer than a sync is patient, and no later event may
// come: a new finding is looked at again, four times in 80 s.
func TestF24_NewFindingsAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key())
		began := time.Now()
		var at []time.Duration
		r := start(t, q, Options{}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			at = append(at, time.Since(began).Round(time.Second))
			result := Result{Unproven: true}
			if len(at) == 1 { // known from then on
				result.Findings = []mirror.Finding{{Kind: mirror.DriftChainGap}}
			}
			return result, nil
		})
		pass(time.Hour)
		if want := []time.Duration{0, time.Second, 5 * time.Second, 20 * time.Second, 80 * time.Second}; !slices.Equal(at, want) || len(q.keys) != 0 {
			t.Errorf("synced at %v, want %v; %d keys left", at, want, len(q.keys))
		}
		if n := len(r.letters.kept); n != 0 {
			t.Errorf("%d dead letters", n)
		}
		r.end(t)
	})
}

func TestF04_LeaseLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key())
		began := time.Now()
		var took time.Duration
		r := start(t, q, Options{}, func(ctx context.Context, _ mirror.Target, _ []mirror.EventRef) (Result, error) {
			<-ctx.Done()
			took = time.Since(began)
			return Result{}, ctx.Err()
		})
		synctest.Wait()
		q.mu.Lock()
		q.lost[balanceOf(cus).Key()] = true
		q.mu.Unlock()
		pass(4 * time.Second)
		if took != 3*time.Second { // a third of the lease
			t.Errorf("cancelled after %v, want 3s", took)
		}
		if got := q.done(); got != "release refused" {
			t.Errorf("%s, want nothing completed", got)
		}
		r.end(t)
	})
}

func TestPoolDrains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key(), balanceOf("cus_2").Key())
		r := start(t, q, Options{Workers: 1}, func(ctx context.Context, _ mirror.Target, _ []mirror.EventRef) (Result, error) {
			return Result{}, backoff.Sleep(ctx, 10*time.Second)
		})
		synctest.Wait()
		r.end(t)
		if got := q.done(); got != "done" || len(q.keys) != 1 {
			t.Errorf("%s, %d keys left; want the one in work finished and the other left", got, len(q.keys))
		}
	})
}

func TestPoolDrainTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key())
		r := start(t, q, Options{DrainTimeout: 3 * time.Second}, func(ctx context.Context, _ mirror.Target, _ []mirror.EventRef) (Result, error) {
			return Result{}, backoff.Sleep(ctx, time.Hour)
		})
		synctest.Wait()
		began := time.Now()
		r.stop()
		if err := <-r.ended; err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %v, want the end after 3s", err, time.Since(began))
		}
		if got := q.done(); got != "release" {
			t.Errorf("%s, want it given back", got)
		}
	})
}

// F21: a sync that hangs and heeds nothing is left to its lease; the process
// stops all the same.
func TestF21_PoolLeavesHungSyncs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key())
		hung := make(chan struct{})
		r := start(t, q, Options{DrainTimeout: 3 * time.Second}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			<-hung
			return Result{}, errors.New("at last")
		})
		synctest.Wait()
		began := time.Now()
		r.stop()
		if err := <-r.ended; err != nil || time.Since(began) != 3*time.Second+giveBackTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if got := q.done(); got != "" {
			t.Errorf("%s, want nothing: the lease runs out", got)
		}
		close(hung)
		synctest.Wait()
	})
}

func TestF21_SyncTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key())
		r := start(t, q, Options{SyncTimeout: time.Minute}, func(ctx context.Context, _ mirror.Target, _ []mirror.EventRef) (Result, error) {
			<-ctx.Done()
			return Result{}, ctx.Err()
		})
		pass(time.Minute)
		synctest.Wait()
		if got := q.done(); got != "put off" {
			t.Errorf("%s, want it put off", got)
		}
		r.stop()
		<-r.ended
	})
}

func TestF08_QueueAway(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"claim", "wait"} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue()
			q.fail[broken] = errors.New("redis away")
			r := start(t, q, Options{}, nil)
			pass(time.Minute)
			q.mu.Lock()
			turns := q.turns
			q.mu.Unlock()
			if turns < 20 || turns > 500 {
				t.Errorf("%s: %d claims in a minute, want a backoff of at most 2s", broken, turns)
			}
			r.end(t)
		})
	}
}

// While the database is away no target is claimed, since nothing could be kept of what
// Stripe would be asked for; all go on once it answers.
func TestF17_NoClaimsWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		away := true
		var mu sync.Mutex
		syncs := 0
		r := start(t, q, Options{Workers: 1}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			mu.Lock()
			defer mu.Unlock()
			syncs++
			if away {
				return Result{}, stored(errors.New("connection refused"))
			}
			return Result{}, nil
		})
		r.letters.fail(errors.New("connection refused"))
		for i := range 50 {
			q.mark(fmt.Sprintf("balance::cus_%d", i))
		}
		pass(time.Minute)
		mu.Lock()
		if syncs > 2 {
			t.Errorf("%d syncs while the database was away", syncs)
		}
		away = false
		mu.Unlock()
		r.letters.mu.Lock()
		if n := r.letters.pings; n < 30 || n > 1000 {
			t.Errorf("%d looks at the database in a minute, want a backoff of at most 1 s", n)
		}
		r.letters.mu.Unlock()
		r.letters.fail(nil)
		pass(10 * time.Second)
		if n := q.waiting(); n != 0 {
			t.Errorf("%d targets still wait", n)
		}
		r.end(t)
	})
}

// A claim that cannot be ended is left to its lease.
func TestPoolClaimLapses(t *testing.T) {
	t.Parallel()
	for what, err := range map[string]error{"done": nil, "fail": errors.New("x"), "release": mirror.ErrFenced} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(balanceOf(cus).Key())
			q.fail[what] = errors.New("redis away")
			r := start(t, q, Options{}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
				return Result{}, err
			})
			pass(time.Minute)
			if n := testutil.ToFloat64(r.pool.m.lapsed); n != 1 || len(q.keys) != 1 {
				t.Errorf("%s: %v lapsed, %d keys; want 1, 1", what, n, len(q.keys))
			}
			if n := testutil.ToFloat64(r.pool.m.reaped); n != 60 && n != 59 {
				t.Errorf("%v reaps counted in a minute", n)
			}
			if n := testutil.ToFloat64(r.pool.m.repaired); n != 4 && n != 3 {
				t.Errorf("%v repairs counted in a minute", n)
			}
			r.end(t)
		})
	}
}

func TestPoolUnknownKeyIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue("../../etc/passwd")
		r := start(t, q, Options{}, nil)
		synctest.Wait()
		if got := q.done(); got != "done" {
			t.Errorf("%s, want it dropped", got)
		}
		r.end(t)
	})
}

// A refused key stops the calls but for a probe per 15 s, and all goes on by
// itself when the key works again.
func TestF27_KeyRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var keys []string
		for i := range 40 {
			keys = append(keys, balanceOf(fmt.Sprintf("cus_%d", i)).Key())
		}
		q := newQueue(keys...)
		refused, calls := true, 0
		var mu sync.Mutex
		r := start(t, q, Options{Workers: 4}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			mu.Lock()
			defer mu.Unlock()
			calls++
			if refused {
				return Result{}, failure(stripeapi.KindUnauthorized)
			}
			return Result{}, nil
		})
		pass(5 * time.Minute)
		mu.Lock()
		if calls < 14 || calls > 4+20 {
			t.Errorf("%d calls in 5 minutes, want 4 and then one per 15 to 30 s", calls)
		}
		if list := r.gate.Closures(); len(list) != 1 || len(q.keys) != 40 {
			t.Errorf("closures %v, %d keys; want the account, all keys kept", list, len(q.keys))
		}
		refused = false
		mu.Unlock()
		pass(31 * time.Second)
		if len(q.keys) != 0 || len(r.gate.Closures()) != 0 || len(r.letters.kept) != 0 {
			t.Errorf("%d keys left, closures %v; want all done within 31 s", len(q.keys), r.gate.Closures())
		}
		r.end(t)
	})
}

// Whatever becomes of a probe, the next one comes within 30 s, also when there is
// a single target with many attempts behind it.
func TestF27_ProbeThatFailsOtherwise(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(balanceOf(cus).Key())
		q.keys[balanceOf(cus).Key()].Attempts = 40
		var at []time.Time
		r := start(t, q, Options{}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			at = append(at, time.Now())
			if len(at)%4 == 1 {
				return Result{}, failure(stripeapi.KindUnauthorized)
			}
			return Result{}, failure(stripeapi.KindUnavailable)
		})
		pass(10 * time.Minute)
		for i := 1; i < len(at); i++ {
			if d := at[i].Sub(at[i-1]); d < probeInterval || d > 2*probeInterval {
				t.Errorf("probe %d after %v, want 15 to 30 s", i, d)
			}
		}
		if len(at) < 20 {
			t.Errorf("%d probes in 10 minutes", len(at))
		}
		r.end(t)
	})
}

// Questions that need no call neither open the gate nor show that Stripe is well;
// those that do, open what was closed for them.
func TestPoolQuestionsAndTheGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		question := mirror.Target{Scope: mirror.ScopeGrantOwner, ID: "credgr_1"}
		q := newQueue(question.Key())
		r := start(t, q, Options{}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			return Result{Local: true}, nil
		})
		r.gate.Refused(creditsOf(cus), failure(stripeapi.KindUnauthorized))
		pass(20 * time.Second)
		if len(q.keys) != 0 || len(r.gate.Closures()) != 1 {
			t.Errorf("keys %v, closures %v", q.keys, r.gate.Closures())
		}
		r.end(t)

		q = newQueue(question.Key())
		r = start(t, q, Options{}, func(context.Context, mirror.Target, []mirror.EventRef) (Result, error) {
			return Result{}, nil
		})
		r.gate.Refused(question, failure(stripeapi.KindForbidden))
		pass(20 * time.Second)
		if len(q.keys) != 0 || len(r.gate.Closures()) != 0 {
			t.Errorf("keys %v, closures %v; want the scope open again", q.keys, r.gate.Closures())
		}
		r.end(t)
	})
}

func TestPoolClasses(t *testing.T) {
	t.Parallel()
	live, swept := setup(t, SyncOptions{}), setup(t, SyncOptions{})
	live.stripe.add(cus)
	swept.stripe.add(cus)
	p := NewPool(newQueue(), live.syncer, swept.syncer, nil, NewGate(nil), Options{Registerer: prometheus.NewRegistry()})
	for _, class := range []queue.Class{queue.Live, queue.Sweep, queue.Sweep} {
		if _, err := p.sync(t.Context(), balanceOf(cus), class, nil, false); err != nil {
			t.Fatal(err)
		}
	}
	if l, s := len(live.stripe.calls), len(swept.stripe.calls); l != 2 || s != 4 {
		t.Errorf("%d live and %d swept calls, want 2 and 4", l, s)
	}
}

func TestMetricsAreSound(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	m := newMetrics(r)
	m.syncs.WithLabelValues("balance", "ok").Inc()
	m.duration.WithLabelValues("balance").Observe(1)
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// pass lets time go by in a bubble, and what it sets off come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
