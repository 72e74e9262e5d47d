package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

var errHangs = errors.New("hangs")

// memory is as much of a store as a Runner needs, without input and output, so
// that it can live in a synctest bubble.
type memory struct {
	mirror.Store
	mu       sync.Mutex
	fail     map[string]error
	log      []string
	leases   map[string]held
	sweeps   map[string]mirror.Sweep
	incs     map[int]mirror.Incarnation
	pending  []mirror.PendingEvent
	letters  []mirror.DeadLetter
	accounts []string
	pruned   time.Time
	// unsynced are customers without a history; dead counts those with a dead letter.
	unsynced map[string]bool
	dead     int
	overdue  []mirror.FullRead
	events   []mirror.Event // at Stripe
	system   string
}

type held struct {
	owner   string
	expires time.Time
}

func newMemory() *memory {
	return &memory{leases: map[string]held{}, fail: map[string]error{}, sweeps: map[string]mirror.Sweep{}, incs: map[int]mirror.Incarnation{}}
}

func (m *memory) AcquireLease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fail["lease "+owner]; err != nil {
		if errors.Is(err, errHangs) {
			m.mu.Unlock()
			<-ctx.Done()
			m.mu.Lock()
		}
		return false, err
	}
	if l := m.leases[name]; l.owner != owner && time.Now().Before(l.expires) {
		return false, nil
	}
	m.leases[name] = held{owner, time.Now().Add(ttl)}
	return true, nil
}

func (m *memory) ReleaseLease(_ context.Context, name, owner string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leases[name].owner == owner {
		delete(m.leases, name)
	}
	return m.fail["release"]
}

func (m *memory) Sweep(_ context.Context, account, name string) (mirror.Sweep, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sweeps[account+"/"+name]
	s.Account, s.Name = account, name
	return s, nil
}

func (m *memory) Sweeps(context.Context) (list []mirror.Sweep, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sweeps {
		list = append(list, s)
	}
	return list, nil
}

func (m *memory) SaveSweep(_ context.Context, s mirror.Sweep) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweeps[s.Account+"/"+s.Name] = s
	return nil
}

func (m *memory) Accounts(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.accounts, m.fail["accounts"]
}

func (m *memory) PendingEvents(context.Context, int64, int) ([]mirror.PendingEvent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, "pending")
	return m.pending, m.fail["pending"]
}

func (m *memory) Incarnations(context.Context) (list []mirror.Incarnation, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range m.incs {
		list = append(list, i)
	}
	return list, nil
}

func (m *memory) SaveIncarnation(_ context.Context, i mirror.Incarnation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.incs[i.Partition] = i
	if i.Partition != mirror.DatabasePartition {
		m.log = append(m.log, "stamp")
	}
	return nil
}

func (m *memory) DatabaseSystem(context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.system, nil
}

func (m *memory) DueDeadLetters(_ context.Context, now, next time.Time, _ int) (due []mirror.DeadLetter, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, l := range m.letters {
		if !l.RetryAt.IsZero() && !l.RetryAt.After(now) {
			due = append(due, l)
			m.letters[i].RetryAt = next
		}
	}
	return due, m.fail["letters"]
}

func (m *memory) PruneEvents(_ context.Context, before time.Time) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pruned = before
	return 0, m.fail["prune"]
}

func (m *memory) InsertCustomers(context.Context, string, []mirror.Customer) (int, error) {
	return 0, nil
}

func (m *memory) InsertGrants(context.Context, string, []mirror.CreditGrant) (int, error) {
	return 0, nil
}

func (m *memory) UnsyncedCount(context.Context, string) (int64, error) {
	return int64(len(m.unsynced) + m.dead), nil
}

func (m *memory) Unsynced(_ context.Context, _ string, scope mirror.Scope, after mirror.Unread, limit int) (list []mirror.Unread, err error) {
	for _, id := range slices.Sorted(maps.Keys(m.unsynced)) {
		if scope == mirror.ScopeBalance && id > after.Customer && len(list) < limit {
			list = append(list, mirror.Unread{Customer: id})
		}
	}
	return list, nil
}

func (m *memory) EventReceipts(_ context.Context, _ string, ids []string) ([]mirror.Receipt, error) {
	return make([]mirror.Receipt, len(ids)), nil
}

func (m *memory) RecordEvents(_ context.Context, events []mirror.Event) ([]mirror.Receipt, error) {
	return make([]mirror.Receipt, len(events)), nil
}

func (m *memory) ObservedAt(_ context.Context, targets []mirror.Target) ([]time.Time, error) {
	return make([]time.Time, len(targets)), nil
}

func (m *memory) DeadLetters(context.Context, string, int) ([]mirror.DeadLetter, error) {
	return nil, nil
}

// replica is a runner with all that it works on.
type replica struct {
	*Runner
	stripe *fakeStripe
	stop   context.CancelFunc
	ended  chan struct{}
}

func (m *memory) replica(t *testing.T, q *fakeQueue, name string, o RunnerOptions) *replica {
	t.Helper()
	stripe := &fakeStripe{faults: &faults{}, pageCap: 100, events: m.events}
	stripe.hook = func(call string) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if call == "events" {
			m.log = append(m.log, "events of "+name)
		}
		return m.fail[call]
	}
	o.Owner, o.Registerer = name, prometheus.NewRegistry()
	r := &replica{stripe: stripe, ended: make(chan struct{})}
	r.Runner = NewRunner(m, q, NewEventsSweep(stripe, m, q, EventsOptions{}), NewFirstCopy(stripe, m, q, FirstCopyOptions{}), o)
	ctx, cancel := context.WithCancel(t.Context())
	r.stop = cancel
	go func() {
		defer close(r.ended)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return r
}

func (r *replica) end() {
	r.stop()
	<-r.ended
}

func (m *memory) set(what string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail[what] = err
}

// count returns how often something was done since the last look.
func (m *memory) count(what string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.log {
		if l == what {
			n++
		}
	}
	m.log = slices.DeleteFunc(m.log, func(l string) bool { return l == what })
	return n
}

func TestRunnerOneLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		q := newQueue(&faults{})
		a := m.replica(t, q, "a", RunnerOptions{})
		synctest.Wait()
		b := m.replica(t, q, "b", RunnerOptions{})
		for range 100 {
			pass(300 * time.Millisecond)
			if !a.Leading() || b.Leading() {
				t.Fatalf("leading: %v and %v, want the first alone", a.Leading(), b.Leading())
			}
		}
		if n := m.count("events of b"); n != 0 {
			t.Errorf("%d passes by the replica that does not lead", n)
		}
		a.end() // gives the lease back
		pass(leaseTTL/3 + time.Millisecond)
		if a.Leading() || !b.Leading() {
			t.Error("the lease was not given back")
		}
		b.end()
	})
}

func TestF04_RunnerLosesTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a := m.replica(t, newQueue(&faults{}), "a", RunnerOptions{EventsInterval: time.Second})
		pass(3 * time.Second)
		// The database does not answer: it leads as long as nobody else can.
		m.set("lease a", errors.New("away"))
		pass(leaseTTL / 2)
		if !a.Leading() {
			t.Error("gave up while the lease was still its own")
		}
		pass(leaseTTL/2 + leaseTTL/3)
		if a.Leading() {
			t.Error("leads without a lease")
		}
		m.count("events of a")
		pass(10 * time.Second)
		if n := m.count("events of a"); n != 0 {
			t.Errorf("%d passes without a lease", n)
		}
		m.set("lease a", nil)
		pass(leaseTTL)
		if !a.Leading() {
			t.Error("does not lead again")
		}
		// Another one has it: at once.
		m.mu.Lock()
		m.leases[leaseName] = held{"x", time.Now().Add(time.Hour)}
		m.mu.Unlock()
		pass(leaseTTL/3 + time.Millisecond)
		if a.Leading() {
			t.Error("leads with the lease elsewhere")
		}
		a.end()
	})
}

// A database that hangs does not make it lead on without a lease.
func TestF04_RunnerLeaseHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		a := m.replica(t, newQueue(&faults{}), "a", RunnerOptions{})
		pass(time.Second)
		m.set("lease a", errHangs)
		pass(leaseTTL + time.Millisecond)
		if a.Leading() {
			t.Error("leads without a lease")
		}
		m.set("lease a", nil)
		a.end()
	})
}

// What Redis lost is marked again, and the events rewound for good, before the
// stamp says that all is well; a failure on the way begins again.
func TestF10_RunnerHealsInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		q := newQueue(&faults{})
		lost := updated(1, 0)
		lost.Created = time.Now()
		m.pending = []mirror.PendingEvent{{Seq: 1, Event: lost, Target: lost.Targets()[0]}}
		seen := time.Now().Add(-time.Minute)
		m.sweeps["/"+SweepEvents] = mirror.Sweep{Watermark: seen}
		m.sweeps["/"+SweepBackfill] = mirror.Sweep{Name: SweepBackfill, LastSuccess: seen.Add(-24 * time.Hour)}
		m.set("events", &stripeapi.Error{Kind: stripeapi.KindUnavailable})
		m.set("pending", errors.New("away"))
		r := m.replica(t, q, "a", RunnerOptions{EventsInterval: time.Hour})
		pass(3 * checkInterval)
		if m.count("stamp") != 0 {
			t.Error("stamped before the inbox was marked again")
		}
		m.set("pending", nil)
		m.mu.Lock()
		m.log = nil
		m.mu.Unlock()
		pass(checkInterval)
		m.mu.Lock()
		if got, want := strings.Join(m.log, " "), "pending stamp stamp events of a"; !strings.HasPrefix(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
		if got := m.sweeps["/"+SweepEvents].Watermark; !got.Equal(seen.Add(-rewindOverlap)) || len(q.live) == 0 {
			t.Errorf("watermark %v, %d marks; want it an hour back, though Stripe is away", got, len(q.live))
		}
		m.mu.Unlock()
		m.set("events", nil)
		pass(time.Minute)
		ids := []string{q.incs[0].ID, q.incs[1].ID}
		m.mu.Lock()
		counted := m.incs[0].HighWater
		m.mu.Unlock()
		if ids[0] == "" || counted < 10 {
			t.Errorf("%+v, counted to %d; want a counter that goes on", q.incs, counted)
		}
		if n := testutil.ToFloat64(r.m.lost); n != 0 {
			t.Errorf("%v losses counted, but it was a first start", n)
		}
		// And a loss in the middle of life, within 10 s.
		q.mu.Lock()
		q.incs = []mirror.Incarnation{{Partition: 0}, {Partition: 1}}
		q.mu.Unlock()
		pass(10 * time.Second)
		if q.incs[0].ID == "" || q.incs[0].ID == ids[0] || testutil.ToFloat64(r.m.lost) != 1 {
			t.Errorf("%+v, %v losses; want it healed", q.incs, testutil.ToFloat64(r.m.lost))
		}
		r.end()
	})
}

// The clock of a host that is 60 s behind delays no mark at the healing: to it, the
// newest events lie in the future.
func TestF10_RunnerHealsWithItsClockBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		q := newQueue(&faults{})
		lost := updated(1, 0)
		lost.Created = time.Now()
		m.pending = []mirror.PendingEvent{{Seq: 1, Event: lost, Target: lost.Targets()[0]}}
		m.sweeps["/"+SweepBackfill] = mirror.Sweep{Name: SweepBackfill, LastSuccess: lost.Created.Add(-24 * time.Hour)}
		r := m.replica(t, q, "a", RunnerOptions{EventsInterval: time.Hour, Now: func() time.Time { return time.Now().Add(-time.Minute) }})
		pass(checkInterval)
		q.mu.Lock()
		if len(q.live) != 1 {
			t.Errorf("%d marks after the first look, want the lost event's", len(q.live))
		}
		q.mu.Unlock()
		r.end()
	})
}

// A history that is unfinished and that no queue knows of is marked by the regular
// look, although Redis never reported a loss: a first copy that is done marks nothing.
func TestI3_RunnerMarksUnfinishedHistories(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		q := newQueue(&faults{})
		r := m.replica(t, q, "a", RunnerOptions{})
		pass(time.Minute)
		m.mu.Lock()
		m.unsynced = map[string]bool{"cus_1": true}
		m.mu.Unlock()
		pass(pendingAge + checkInterval)
		q.mu.Lock()
		marked := slices.Contains(q.swept, mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"})
		q.mu.Unlock()
		if !marked || testutil.ToFloat64(r.m.remarked) == 0 {
			t.Errorf("marked %v, %v told; want the unfinished history", marked, testutil.ToFloat64(r.m.remarked))
		}
		r.end()
	})
}

// oneRefused is a gate that is closed for one account.
type oneRefused struct {
	mu       sync.Mutex
	account  string
	refused  []string
	answered []string
}

func (g *oneRefused) Closed(t mirror.Target) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.Account == g.account {
		return 15 * time.Second
	}
	return 0
}

func (g *oneRefused) Refused(t mirror.Target, _ error) (time.Duration, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = append(g.refused, t.Account+" "+string(t.Scope))
	return 15 * time.Second, true
}

func (g *oneRefused) Answered(t mirror.Target) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answered = append(g.answered, t.Account+" "+string(t.Scope))
}

// A refused key is not called by sweeps either, and a refusal that a sweep meets
// closes the gate for all.
func TestF27_RunnerAsksTheGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.set("events", &stripeapi.Error{Kind: stripeapi.KindUnauthorized})
		gate := &oneRefused{account: "acct_closed"}
		r := m.replica(t, newQueue(&faults{}), "a", RunnerOptions{Accounts: []string{"acct_closed"}, Gate: gate})
		pass(time.Second)
		r.stripe.mu.Lock()
		for _, call := range r.stripe.calls {
			if strings.Contains(call, "acct_closed") {
				t.Errorf("called: %s", call)
			}
		}
		r.stripe.mu.Unlock()
		gate.mu.Lock()
		if !slices.Contains(gate.refused, " "+SweepEvents) || slices.Contains(gate.refused, "acct_closed "+SweepEvents) {
			t.Errorf("refused %q; want the platform's events sweep", gate.refused)
		}
		if !slices.Contains(gate.answered, " "+SweepBackfill) {
			t.Errorf("answered %q; want the platform's first copy", gate.answered)
		}
		gate.account = ""
		gate.mu.Unlock()
		m.set("events", nil)
		r.end()
	})
}

// A connected account that took its access back must not keep the others from
// being healed for ever.
func TestF27_RunnerHealsBesideARefusedAccount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.accounts = []string{"acct_gone"}
		q := newQueue(&faults{})
		m.set("events acct_gone", &stripeapi.Error{Kind: stripeapi.KindAccountRefused})
		r := m.replica(t, q, "a", RunnerOptions{AllAccounts: true, EventsInterval: time.Hour})
		pass(time.Minute)
		if q.incs[0].ID == "" || m.count("stamp") == 0 {
			t.Error("not healed")
		}
		if s := m.sweeps["acct_gone/events"]; !s.LastSuccess.IsZero() {
			t.Errorf("the sweep of the refused account counts as done: %+v", s)
		}
		r.end()
	})
}

func TestI10_RunnerRetriesDeadLettersHourly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		q := newQueue(&faults{})
		target := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}
		m.letters = []mirror.DeadLetter{
			{ID: "1", Target: target, RetryAt: time.Now().Add(-time.Minute)},
			{ID: "2", RetryAt: time.Now()}, // no target: nothing to try
			{ID: "3", Target: mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_2"}},
		}
		r := m.replica(t, q, "a", RunnerOptions{})
		pass(3*time.Hour + time.Minute)
		if n := len(q.swept); n != 4 || q.swept[0] != target {
			t.Errorf("%d retries in 3 hours: %v; want 4, at once and each hour", n, q.swept)
		}
		if got := time.Since(m.pruned); got < eventsKept || got > eventsKept+time.Hour {
			t.Errorf("events pruned that are older than %v, want %v", got, eventsKept)
		}
		r.end()
	})
}

// What runs beside the sweeps runs in one replica at a time, and not longer than
// the lease is held.
func TestI6_RunnerBesideUnderTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		q := newQueue(&faults{})
		var running, most, begun atomic.Int32
		beside := RunnerOptions{Beside: func(ctx context.Context) {
			begun.Add(1)
			most.Store(max(most.Load(), running.Add(1)))
			<-ctx.Done()
			time.Sleep(time.Second) // as long as something under way takes to end
			running.Add(-1)
		}}
		a := m.replica(t, q, "a", beside)
		pass(time.Second)
		b := m.replica(t, q, "b", beside)
		pass(time.Minute)
		if begun.Load() != 1 || running.Load() != 1 {
			t.Fatalf("begun %d times, %d run", begun.Load(), running.Load())
		}
		a.end()
		if running.Load() != 0 {
			t.Error("it runs on after the lease was given back")
		}
		pass(leaseTTL)
		if begun.Load() != 2 || running.Load() != 1 || most.Load() != 1 {
			t.Errorf("begun %d times, %d run, at most %d at once", begun.Load(), running.Load(), most.Load())
		}
		b.end()
		// One that returns by itself is not run again under the same lease.
		var once atomic.Int32
		c := m.replica(t, q, "c", RunnerOptions{Beside: func(context.Context) { once.Add(1) }})
		pass(time.Minute)
		if once.Load() != 1 {
			t.Errorf("run %d times", once.Load())
		}
		c.end()
	})
}

// The day table is kept by one replica at a time; a failure is counted and tried again.
func TestRunnerKeepsTheDays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		q := newQueue(&faults{})
		var calls [2]atomic.Int32
		of := func(i int) RunnerOptions {
			return RunnerOptions{Days: func(context.Context) error {
				if calls[i].Add(1) == 2 {
					return errors.New("no database")
				}
				return nil
			}}
		}
		a := m.replica(t, q, "a", of(0))
		pass(time.Second)
		b := m.replica(t, q, "b", of(1))
		pass(3 * time.Minute)
		if calls[0].Load() != 4 || calls[1].Load() != 0 {
			t.Errorf("called %d and %d times", calls[0].Load(), calls[1].Load())
		}
		if n := testutil.ToFloat64(a.m.failures.WithLabelValues("days")); n != 1 {
			t.Errorf("%v failures, want 1", n)
		}
		a.end()
		pass(leaseTTL)
		if calls[0].Load() != 4 || calls[1].Load() != 1 {
			t.Errorf("called %d and %d times after the lease went on", calls[0].Load(), calls[1].Load())
		}
		b.end()
	})
}

func TestRunnerAccounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		o    RunnerOptions
		want string
	}{
		{RunnerOptions{}, "[]"},
		{RunnerOptions{Accounts: []string{"acct_1"}}, "[ acct_1]"},
		{RunnerOptions{AllAccounts: true}, "[ acct_2 acct_3]"},
	} {
		m := newMemory()
		m.accounts = []string{"acct_2", "acct_3"}
		test.o.Registerer = prometheus.NewRegistry()
		r := NewRunner(m, nil, nil, nil, test.o)
		got, err := r.accounts(t.Context())
		if err != nil || fmt.Sprint(got) != test.want {
			t.Errorf("%q, %v; want %s", got, err, test.want)
		}
	}
}

// I19: every failure of a loop is counted, and the loops go on.
func TestI19_RunnerFailuresAreCounted(t *testing.T) {
	t.Parallel()
	for what, sweep := range map[string]string{
		"events": SweepEvents, "customers": SweepBackfill, "accounts": SweepEvents,
		"letters": "dead_letters", "prune": "prune", "pending": "redis",
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			m.set(what, errors.New("away"))
			r := m.replica(t, newQueue(&faults{}), "a", RunnerOptions{AllAccounts: true})
			pass(2 * time.Minute)
			if n := testutil.ToFloat64(r.m.failures.WithLabelValues(sweep)); n == 0 {
				t.Errorf("%s: no failure of %s counted", what, sweep)
			}
			m.set(what, nil)
			pass(2 * time.Hour)
			if n := testutil.ToFloat64(r.m.lastSuccess.WithLabelValues(SweepBackfill)); n == 0 {
				t.Errorf("%s: no first copy in the end", what)
			}
			if n := testutil.ToFloat64(r.m.lastSuccess.WithLabelValues(SweepEvents)); n == 0 {
				t.Errorf("%s: no events pass in the end", what)
			}
			r.end()
		})
	}
}

// A series that begins at its first failure shows no increase for it.
func TestRunnerFailuresBeginAtNought(t *testing.T) {
	t.Parallel()
	r := NewRunner(newMemory(), nil, nil, nil, RunnerOptions{Registerer: prometheus.NewRegistry()})
	const want = 10 // events, backfill, balances, scrub, webhooks, redis, database, dead_letters, prune, days
	if n := testutil.CollectAndCount(r.m.failures, "creditmirror_reconcile_failures_total"); n != want {
		t.Errorf("%d series of failures before the first, want %d", n, want)
	}
}

func TestRunnerMetricsAreSound(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	r := NewRunner(newMemory(), nil, nil, nil, RunnerOptions{Registerer: registry})
	r.m.lastSuccess.WithLabelValues(SweepEvents).Set(1)
	r.m.failures.WithLabelValues(SweepEvents).Inc()
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// pass lets time go by in a bubble, and what it sets off come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Somebody pauses, resumes and starts sweeps; whoever holds the lease does it.
func TestRunnerDoesWhatIsAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.sweeps["/"+SweepEvents] = mirror.Sweep{Watermark: time.Now().Add(-time.Minute)}
		m.sweeps["/"+SweepBackfill] = mirror.Sweep{Name: SweepBackfill, LastSuccess: time.Now().Add(-24 * time.Hour)}
		a := m.replica(t, newQueue(&faults{}), "a", RunnerOptions{EventsInterval: time.Minute})
		passes := func(d time.Duration) int {
			m.mu.Lock()
			m.log = nil
			m.mu.Unlock()
			pass(d)
			return m.count("events of a")
		}
		if n := passes(5 * time.Minute); n == 0 {
			t.Fatal("no pass over events")
		}
		if err := PauseSweep(t.Context(), m, SweepEvents, "on-call", "Stripe asked", time.Now()); err != nil {
			t.Fatal(err)
		}
		pass(2 * controlInterval)
		if n := passes(10 * time.Minute); n != 0 {
			t.Errorf("%d passes while paused", n)
		}
		if n := testutil.ToFloat64(a.m.failures.WithLabelValues(SweepEvents)); n != 0 {
			t.Errorf("a pause counts as %v failures", n)
		}
		if err := ResumeSweep(t.Context(), m, SweepEvents, "on-call", time.Now()); err != nil {
			t.Fatal(err)
		}
		if n := passes(2 * controlInterval); n == 0 {
			t.Error("no pass after it was resumed")
		}
		pass(30 * time.Second) // no pass is due
		if err := StartSweep(t.Context(), m, SweepEvents, time.Now()); err != nil {
			t.Fatal(err)
		}
		if n := passes(2 * controlInterval); n == 0 {
			t.Error("no pass that was asked for")
		}
		for _, sweep := range []string{SweepBackfill, "odd", ""} {
			if err := StartSweep(t.Context(), m, sweep, time.Now()); !errors.Is(err, ErrNoSweep) {
				t.Errorf("start %q: %v", sweep, err)
			}
		}
		a.end()
	})
}
