package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// each runs a test on both databases.
func each(t *testing.T, test func(t *testing.T, s *drift)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "mirror.db"), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		test(t, newDrift(t, store))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := pgtest.NewCopy(t, func(url string) error {
			s, err := postgres.Open(context.Background(), url, postgres.Options{})
			if err != nil {
				return err
			}
			return errors.Join(s.Migrate(context.Background()), s.Close())
		})
		store, err := postgres.Open(t.Context(), url, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		test(t, newDrift(t, store))
	})
}

// drift opens and closes findings in a mirror.
type drift struct {
	mirror.Store
	t *testing.T
}

func newDrift(t *testing.T, store mirror.Store) *drift {
	t.Helper()
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &drift{Store: store, t: t}
}

func (d *drift) open(customers ...string) {
	d.t.Helper()
	for _, c := range customers {
		_, err := d.OpenFindings(d.t.Context(), []mirror.Finding{{
			Kind: mirror.DriftBalanceMismatch, Customer: c, Scope: mirror.ScopeBalance, Currency: "usd",
			Expected: "-500", Actual: "0", Cause: mirror.CauseMissedEvent, FoundAt: time.Now(),
		}})
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

// shut closes what is open of customers, by a sync that finds them gone.
func (d *drift) shut(customers ...string) {
	d.t.Helper()
	for _, c := range customers {
		target := mirror.Target{Scope: mirror.ScopeBalance, ID: c}
		st, err := d.BeginSync(d.t.Context(), target)
		if err == nil {
			var a mirror.Applied
			if a, err = d.ApplyTombstone(d.t.Context(), mirror.Tombstone{Target: target, Epoch: st.Epoch, ObservedAt: time.Now()}); len(a.Closed) != 1 {
				d.t.Fatalf("closed %v", a.Closed)
			}
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

// run lets a Notifier run until stop is called.
func (w watched) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// started waits until a Notifier has begun: what is found from then on is sent.
func (d *drift) started(on bool) {
	d.t.Helper()
	eventually(d.t, "notifications are switched", func() bool {
		row, err := d.Sweep(d.t.Context(), "", stateRow)
		return err == nil && row.Watermark.IsZero() != on && !row.StartedAt.IsZero()
	})
}

// steps are what an endpoint was sent, as opened/customer.
func (e *endpoint) steps() (list []string) {
	for _, r := range e.requests() {
		var m Message
		if json.Unmarshal(r.body, &m) != nil {
			list = append(list, "unreadable")
			continue
		}
		list = append(list, strings.TrimPrefix(m.Type, "drift.")+"/"+m.Finding.Customer)
	}
	return list
}

func (e *endpoint) awaitSteps(t *testing.T, want ...string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("told %q, want %q", e.steps(), want)
		}
	}()
	eventually(t, "the endpoint is told", func() bool { return len(e.steps()) >= len(want) })
	if got := e.steps(); !slices.Equal(got, want) {
		t.FailNow()
	}
}

func TestI15_OpenedAndClosedAreTold(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *drift) {
		e := newEndpoint(t, nil)
		w := newNotifier(t, d, e.URL)
		stop := w.run(t)
		d.started(true)
		d.open("cus_A", "cus_B")
		d.shut("cus_A")
		d.open("cus_C")
		e.awaitSteps(t, "opened/cus_A", "opened/cus_B", "closed/cus_A", "opened/cus_C")
		d.shut("cus_C", "cus_B")
		want := []string{"opened/cus_A", "opened/cus_B", "closed/cus_A", "opened/cus_C", "closed/cus_C", "closed/cus_B"}
		e.awaitSteps(t, want...)
		for _, r := range e.requests() {
			if !verified(r.body, r.signature, secret, time.Now()) {
				t.Errorf("unsigned: %s", r.body)
			}
		}
		eventually(t, "nothing waits", func() bool { return w.metric(t, "notifications_waiting", "") == 0 })
		if n := w.metric(t, "notifications_total", `outcome="delivered"`); n != float64(len(want)) {
			t.Errorf("%v count as delivered", n)
		}
		if age := w.metric(t, "notifications_oldest_seconds", ""); age != 0 {
			t.Errorf("something has waited for %v s", age)
		}
		stop()
		// A restart sends nothing twice, and what came meanwhile.
		d.open("cus_D")
		defer newNotifier(t, d, e.URL).run(t)()
		e.awaitSteps(t, append(want, "opened/cus_D")...)
	})
}

func TestHistoryIsNotTold(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *drift) {
		d.open("cus_old", "cus_open")
		d.shut("cus_old")
		e := newEndpoint(t, nil)
		stop := newNotifier(t, d, e.URL).run(t)
		d.started(true)
		d.shut("cus_open") // nobody heard that it was open
		d.open("cus_A")
		e.awaitSteps(t, "opened/cus_A")
		stop()

		// Without a URL, what is found is not kept for later.
		d.open("cus_B")
		newNotifier(t, d, "").Run(t.Context()) // returns by itself
		d.started(false)
		before, err := d.Sweep(t.Context(), "", stateRow)
		if err != nil {
			t.Fatal(err)
		}
		newNotifier(t, d, "").Run(t.Context())
		after, err := d.Sweep(t.Context(), "", stateRow)
		if err != nil || !after.StartedAt.Equal(before.StartedAt) {
			t.Errorf("switched off twice: %+v, %+v, %v", before, after, err)
		}
		d.open("cus_C")
		defer newNotifier(t, d, e.URL).run(t)()
		d.started(true)
		d.shut("cus_A")
		d.open("cus_D")
		e.awaitSteps(t, "opened/cus_A", "opened/cus_D")
	})
}

// A database without notifications keeps no trace of it.
func TestI18_OffWritesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *drift) {
		newNotifier(t, d, "").Run(t.Context())
		if all, err := d.Sweeps(t.Context()); err != nil || len(all) != 0 {
			t.Fatalf("%+v, %v", all, err)
		}
	})
}

// dying is a store whose process ends before a mark is made.
type dying struct{ Store }

func (dying) MarkNotice(context.Context, mirror.Notice) error { return errors.New("killed") }

func TestKilledBeforeTheMark(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *drift) {
		e := newEndpoint(t, nil)
		stop := newNotifier(t, dying{d}, e.URL).run(t)
		d.started(true)
		d.open("cus_A")
		d.shut("cus_A")
		e.awaitSteps(t, "opened/cus_A")
		stop()
		defer newNotifier(t, d, e.URL).run(t)()
		e.awaitSteps(t, "opened/cus_A", "opened/cus_A", "closed/cus_A")
		got := e.requests()
		if string(got[0].body) != string(got[1].body) {
			t.Errorf("once %s and once %s", got[0].body, got[1].body)
		}
	})
}

// What cannot be delivered holds up what comes after it, and goes on by itself.
func TestOutage(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *drift) {
		e := newEndpoint(t, status(http.StatusInternalServerError))
		w := newNotifier(t, d, e.URL)
		defer w.run(t)()
		d.started(true)
		d.open("cus_A", "cus_B")
		eventually(t, "it is tried again", func() bool { return len(e.steps()) >= 2 })
		for _, step := range e.steps() {
			if step != "opened/cus_A" {
				t.Fatalf("told %q", e.steps())
			}
		}
		if n := w.metric(t, "notifications_waiting", ""); n != 2 {
			t.Errorf("%v wait", n)
		}
		if age := w.metric(t, "notifications_oldest_seconds", ""); age <= 0 || age > 60 {
			t.Errorf("the oldest has waited for %v s", age)
		}
		// The endpoint has answered before its answer is counted.
		eventually(t, "both count as refused", func() bool { return w.metric(t, "notifications_total", `outcome="refused"`) >= 2 })
		failed := len(e.steps())
		e.answers(nil)
		eventually(t, "it is told", func() bool { return len(e.steps()) >= failed+2 })
		want := []string{"opened/cus_A", "opened/cus_B"}
		if got := e.steps(); !slices.Equal(got[len(got)-2:], want) {
			t.Fatalf("told %q", got)
		}
		lines := w.logs.FilterMessage("notification not delivered; retrying it and those behind it").All()
		if len(lines) < 2 {
			t.Fatalf("%d warnings", len(lines))
		}
		for _, l := range lines {
			if fields := fmt.Sprint(l.ContextMap()); strings.Contains(fields, e.URL) || strings.Contains(fields, secret) || !strings.Contains(fields, "500") {
				t.Errorf("the log tells %s", fields)
			}
		}
		eventually(t, "nothing waits", func() bool { return w.metric(t, "notifications_waiting", "") == 0 })
	})
}

// An orderly stop lets the delivery under way end, and waits for no other.
func TestStopDuringADelivery(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d *drift) {
		arrived, goOn := make(chan struct{}, 10), make(chan struct{})
		e := newEndpoint(t, func(_ http.ResponseWriter, r *http.Request) {
			arrived <- struct{}{}
			select {
			case <-goOn:
			case <-r.Context().Done():
			}
		})
		w := newNotifier(t, d, e.URL)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		d.started(true)
		d.open("cus_A", "cus_B")
		<-arrived
		cancel()
		close(goOn)
		<-done
		list, err := d.PendingNotices(t.Context(), time.Unix(0, 0), 10)
		if err != nil || len(list) != 1 || list[0].Finding.Customer != "cus_B" {
			t.Fatalf("%+v wait, %v", list, err)
		}
		// One that hangs holds up the stop by the grace at most.
		goOn = make(chan struct{})
		w = newNotifier(t, d, e.URL)
		stop := w.run(t)
		<-arrived
		began := time.Now()
		stop()
		if took := time.Since(began); took < grace-time.Second || took > grace+patience.Of(3*time.Second) {
			t.Errorf("the stop took %v", took)
		}
		if list, err = d.PendingNotices(t.Context(), time.Unix(0, 0), 10); err != nil || len(list) != 1 {
			t.Fatalf("%+v wait, %v", list, err)
		}
		if n := w.metric(t, "notifications_waiting", ""); n != 0 {
			t.Errorf("whoever has no lease tells of %v", n)
		}
	})
}

// memory is a store for time that does not pass.
type memory struct {
	mu    sync.Mutex
	rows  []mirror.Notice
	state mirror.Sweep
	fail  error // of reading
	unfit error // of marking
	marks int
}

func (m *memory) PendingNotices(_ context.Context, since time.Time, limit int) (list []mirror.Notice, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.rows {
		if len(list) == limit {
			break
		}
		if !n.At.Before(since) {
			list = append(list, n)
		}
	}
	return list, m.fail
}

func (m *memory) CountNotices(context.Context, time.Time) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.rows)), m.fail
}

func (m *memory) MarkNotice(_ context.Context, told mirror.Notice) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.marks++; m.unfit != nil {
		return m.unfit
	}
	if i := slices.Index(m.rows, told); i >= 0 { // the first one, as a rule
		m.rows = slices.Delete(m.rows, i, i+1)
	}
	return nil
}

func (m *memory) Sweep(context.Context, string, string) (mirror.Sweep, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, m.fail
}

func (m *memory) SaveSweep(_ context.Context, s mirror.Sweep) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
	return m.fail
}

func (m *memory) set(change func(*memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *memory) open(n int) {
	m.set(func(m *memory) {
		for i := range n {
			m.rows = append(m.rows, mirror.Notice{Finding: mirror.Finding{ID: fmt.Sprintf("drift_%d", i), FoundAt: time.Now()}, At: time.Now()})
		}
	})
}

// attempts are the times at which something was sent.
type attempts struct {
	mu    sync.Mutex
	times []time.Time
	ids   []string
	err   func() error
}

func (a *attempts) send(_ context.Context, m Message) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times, a.ids = append(a.times, time.Now()), append(a.ids, m.ID)
	if a.err != nil {
		return a.err()
	}
	return nil
}

func (a *attempts) take() (times []time.Time, ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	times, ids = a.times, a.ids
	a.times, a.ids = nil, nil
	return times, ids
}

// virtual starts a Notifier whose sends are counted.
func virtual(t *testing.T, store *memory, a *attempts) watched {
	t.Helper()
	w := newNotifier(t, store, "http://127.0.0.1:1/")
	w.Notifier.send = a.send
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	time.Sleep(time.Second) // of the bubble's time
	return w
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, a := &memory{}, &attempts{err: func() error { return &failure{outcome: outcomeRefused, status: 500, err: errors.New("x")} }}
		w := virtual(t, store, a)
		store.open(1)
		time.Sleep(24 * time.Hour)
		times, _ := a.take()
		if len(times) < 30 || len(times) > 60 {
			t.Fatalf("%d attempts in a day", len(times))
		}
		for i := 1; i < len(times); i++ {
			pause := times[i].Sub(times[i-1])
			if most := min(time.Second<<min(i-1, 20), lastPause); pause > most || pause < min(time.Second*3/4, most/8) {
				t.Errorf("pause %d is %v", i, pause)
			}
		}
		if last := times[len(times)-1].Sub(times[len(times)-2]); last < lastPause*3/4-poll {
			t.Errorf("the last pause is %v", last)
		}
		if age := w.metric(t, "notifications_oldest_seconds", ""); age < 86300 {
			t.Errorf("the oldest has waited for %v s", age)
		}
		// It comes back: within the hour, and then without pauses.
		a.mu.Lock()
		a.err = nil
		a.mu.Unlock()
		store.open(9)
		time.Sleep(time.Hour + poll)
		if times, _ = a.take(); len(times) != 10 || times[9].Sub(times[0]) > 5*time.Second {
			t.Fatalf("%d were told: %v", len(times), times)
		}
		// A failure after that begins with the shortest pause, also where others go between.
		n := 0
		a.mu.Lock()
		a.err = func() error {
			if n++; n%2 == 0 {
				return &failure{outcome: outcomeUnreachable, err: errors.New("x")}
			}
			return nil
		}
		a.mu.Unlock()
		store.open(20)
		time.Sleep(time.Minute)
		if times, _ = a.take(); len(times) != 39 {
			t.Fatalf("%d attempts", len(times))
		}
	})
}

func TestRetryAfterIsHeeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 10 * time.Minute
		store, a := &memory{}, &attempts{}
		a.err = func() error {
			return &failure{outcome: outcomeRefused, status: 503, retryAfter: asked, err: errors.New("x")}
		}
		virtual(t, store, a)
		store.open(1)
		time.Sleep(9 * time.Minute)
		if times, _ := a.take(); len(times) != 1 {
			t.Fatalf("asked %d times", len(times))
		}
		a.mu.Lock()
		asked = 1000 * time.Hour // nobody waits for that long
		a.mu.Unlock()
		time.Sleep(2 * time.Minute)
		a.take()
		time.Sleep(lastPause + poll)
		if times, _ := a.take(); len(times) != 1 {
			t.Fatalf("asked %d times", len(times))
		}
	})
}

func TestTenThousandAtOnceDoNotFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, a := &memory{}, &attempts{}
		w := virtual(t, store, a)
		store.open(10000)
		time.Sleep(10 * time.Minute)
		if n := w.metric(t, "notifications_waiting", ""); n < 6900 || n > 7100 {
			t.Errorf("%v wait", n)
		}
		time.Sleep(30 * time.Minute)
		times, ids := a.take()
		if len(times) != 10000 || !slices.IsSortedFunc(ids, func(a, b string) int { return len(a) - len(b) }) {
			t.Fatalf("%d were told", len(times))
		}
		for i := range times { // any second
			j, _ := slices.BinarySearchFunc(times, times[i].Add(time.Second), time.Time.Compare)
			if n := j - i; n > perSecond+burst {
				t.Fatalf("%d in a second", n)
			}
		}
		if took := times[9999].Sub(times[0]); took < 33*time.Minute {
			t.Fatalf("it took %v", took)
		}
	})
}

// A database that can be read and not written has nothing sent over and over.
func TestMarkThatFailsIsTriedAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, a := &memory{unfit: errors.New("read only")}, &attempts{}
		w := virtual(t, store, a)
		store.open(2)
		time.Sleep(time.Hour)
		if _, ids := a.take(); !slices.Equal(ids, []string{"drift_0.opened"}) {
			t.Fatalf("sent %q", ids)
		}
		store.set(func(m *memory) {
			if m.marks < 1000 {
				t.Errorf("marked %d times", m.marks)
			}
			m.unfit = nil
		})
		time.Sleep(time.Minute)
		if _, ids := a.take(); !slices.Equal(ids, []string{"drift_1.opened"}) {
			t.Fatalf("sent %q", ids)
		}
		store.set(func(m *memory) { m.fail = errors.New("away") })
		time.Sleep(time.Hour)
		store.set(func(m *memory) { m.fail = nil })
		store.open(1)
		time.Sleep(time.Minute)
		if _, ids := a.take(); len(ids) != 1 {
			t.Fatalf("sent %q", ids)
		}
		if n := w.logs.FilterMessage("could not read or mark notifications; retrying").Len(); n < 1000 {
			t.Errorf("%d warnings", n)
		}
	})
}

func TestDatabaseAwayAtTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, a := &memory{fail: errors.New("away")}, &attempts{}
		virtual(t, store, a)
		time.Sleep(time.Hour)
		store.set(func(m *memory) { m.fail = nil })
		time.Sleep(time.Minute)
		store.open(1)
		time.Sleep(time.Minute)
		if _, ids := a.take(); len(ids) != 1 {
			t.Fatalf("sent %q", ids)
		}
	})
}

func TestMetricsAreInOrder(t *testing.T) {
	t.Parallel()
	w := newNotifier(t, &memory{}, "http://127.0.0.1:1/")
	problems, err := testutil.GatherAndLint(w.registry)
	if err != nil || len(problems) > 0 {
		t.Fatalf("%v, %v", problems, err)
	}
	for _, outcome := range outcomes {
		if w.metric(t, "notifications_total", fmt.Sprintf("outcome=%q", outcome)) != 0 {
			t.Errorf("no series for %s", outcome)
		}
	}
}
