package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/internal/sqlitetest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/stripeapi"
)

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// t0 is the present of these tests.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var errInjected = errors.New("injected")

// faults counts calls and fails one of them, before or after it took effect.
type faults struct {
	mu    sync.Mutex
	n     int
	at    int // 0: none
	after bool
	// hook sees every call; its error fails the call.
	hook func(call string) error
}

func (f *faults) before(call string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if f.hook != nil {
		if err := f.hook(call); err != nil {
			return f.n, err
		}
	}
	if f.n == f.at && !f.after {
		return f.n, errInjected
	}
	return f.n, nil
}

func (f *faults) ended(n int, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n == f.at && f.after {
		return errInjected
	}
	return err
}

// try makes one call.
func try[T any](f *faults, call string, do func() (T, error)) (T, error) {
	var zero T
	n, err := f.before(call)
	if err != nil {
		return zero, err
	}
	out, err := do()
	return out, f.ended(n, err)
}

func tryOnly(f *faults, call string, do func() error) error {
	_, err := try(f, call, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

// fakeStripe lists what it was given, newest first.
type fakeStripe struct {
	*faults
	pageCap int

	mu        sync.Mutex        // over all that follows: readers go side by side
	customers []mirror.Customer // of all clocks
	clocks    []string
	grants    []mirror.CreditGrant
	events    []mirror.Event // newest first
	garbage   [][]byte       // on the first page of events
	queries   []stripeapi.EventsQuery
	calls     []string
	listed    []stripeapi.CustomersQuery
	// latency is how long a list of customers takes; flying and most are how many
	// are asked for at once.
	latency      time.Duration
	flying, most int
}

func (f *fakeStripe) called(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

func missing(param string) error {
	return &stripeapi.Error{Kind: stripeapi.KindNotFound, Status: 404, Code: "resource_missing", Param: param}
}

func page[Row any](all []Row, after string, limit int, id func(Row) string) (rows []Row, more bool, err error) {
	from := 0
	if after != "" {
		if from = slices.IndexFunc(all, func(r Row) bool { return id(r) == after }) + 1; from == 0 {
			return nil, false, missing("starting_after")
		}
	}
	to := min(from+limit, len(all))
	return slices.Clone(all[from:to]), to < len(all), nil
}

func (f *fakeStripe) CustomersPage(_ context.Context, account string, q stripeapi.CustomersQuery) (stripeapi.CustomersPage, error) {
	f.mu.Lock()
	f.calls = append(f.calls, fmt.Sprintf("customers %s after=%s", q.TestClock, q.After))
	f.listed = append(f.listed, q)
	f.flying++
	f.most = max(f.most, f.flying)
	f.mu.Unlock()
	if f.latency > 0 {
		time.Sleep(f.latency)
	}
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.flying--
	}()
	return try(f.faults, "customers", func() (p stripeapi.CustomersPage, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if q.TestClock != "" && !slices.Contains(f.clocks, q.TestClock) {
			return p, missing("test_clock")
		}
		all := make([]mirror.Customer, 0, len(f.customers))
		for _, c := range f.customers {
			if c.ID == q.After { // a cursor need not be among what the filters leave
				all = all[:0]
				p.HasMore = true
				continue
			}
			if c.TestClock == q.TestClock && !c.Created.Before(q.CreatedGTE) && (q.CreatedLT.IsZero() || c.Created.Before(q.CreatedLT)) {
				c.Account = account
				all = append(all, c)
			}
		}
		if q.After != "" && !p.HasMore {
			return p, missing("starting_after")
		}
		p.Rows, p.HasMore, err = page(all, "", f.pageCap, func(c mirror.Customer) string { return c.ID })
		if len(p.Rows) > 0 {
			p.Last = p.Rows[len(p.Rows)-1].ID
		}
		return p, err
	})
}

func (f *fakeStripe) GrantsPage(_ context.Context, account, _, after string, _ int) (stripeapi.GrantsPage, error) {
	f.called("grants after=" + after)
	return try(f.faults, "grants", func() (p stripeapi.GrantsPage, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		p.Rows, p.HasMore, err = page(f.grants, after, f.pageCap, func(g mirror.CreditGrant) string { return g.ID })
		for i := range p.Rows {
			p.Rows[i].Account, p.Last = account, p.Rows[i].ID
		}
		return p, err
	})
}

func (f *fakeStripe) TestClocks(_ context.Context, _, after string, _ int) ([]string, bool, error) {
	f.called("clocks after=" + after)
	more := false
	ids, err := try(f.faults, "clocks", func() (ids []string, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		ids, more, err = page(f.clocks, after, f.pageCap, func(c string) string { return c })
		return ids, err
	})
	return ids, more, err
}

func (f *fakeStripe) EventsPage(_ context.Context, account string, q stripeapi.EventsQuery) (stripeapi.EventsPage, error) {
	f.mu.Lock()
	f.queries = append(f.queries, q)
	f.mu.Unlock()
	return try(f.faults, strings.TrimSpace("events "+account), func() (p stripeapi.EventsPage, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		var all []mirror.Event
		for _, e := range f.events {
			if !e.Created.Before(q.CreatedGTE) {
				all = append(all, e)
			}
		}
		p.Events, p.HasMore, err = page(all, q.After, f.pageCap, func(e mirror.Event) string { return e.ID })
		if n := len(p.Events); n > 0 {
			p.FirstID, p.LastID = p.Events[0].ID, p.Events[n-1].ID
		}
		if q.After == "" {
			p.Unreadable = f.garbage
		}
		return p, err
	})
}

// fakeQueue keeps marks until they are taken.
type fakeQueue struct {
	*faults
	mu     sync.Mutex
	queued map[mirror.Target]bool
	live   []Mark
	swept  []mirror.Target
	peak   int // the longest backlog
	incs   []mirror.Incarnation
	stamps int
	// database is how the database was seen last.
	database string
	// afterRead happens once, after the incarnations were read.
	afterRead func()
}

func newQueue(f *faults) *fakeQueue {
	return &fakeQueue{faults: f, queued: map[mirror.Target]bool{}, incs: []mirror.Incarnation{{Partition: 0}, {Partition: 1}}}
}

func (q *fakeQueue) MarkLive(_ context.Context, marks []Mark) error {
	return tryOnly(q.faults, "mark live", func() error {
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, m := range marks {
			q.queued[m.Target] = true
			q.live = append(q.live, m)
		}
		return nil
	})
}

func (q *fakeQueue) MarkSwept(_ context.Context, targets []mirror.Target) error {
	return tryOnly(q.faults, "mark swept", func() error {
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, t := range targets {
			q.queued[t] = true
		}
		q.swept = append(q.swept, targets...)
		q.peak = max(q.peak, len(q.queued))
		return nil
	})
}

func (q *fakeQueue) Queued(_ context.Context, targets []mirror.Target) ([]bool, error) {
	return try(q.faults, "queued", func() ([]bool, error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		out := make([]bool, len(targets))
		for i, t := range targets {
			out[i] = q.queued[t]
		}
		return out, nil
	})
}

func (q *fakeQueue) Backlog(context.Context) (int, error) {
	return try(q.faults, "backlog", func() (int, error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.queued), nil
	})
}

func (q *fakeQueue) Incarnations(context.Context) ([]mirror.Incarnation, error) {
	return try(q.faults, "incarnations of redis", func() ([]mirror.Incarnation, error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		read := slices.Clone(q.incs)
		if f := q.afterRead; f != nil {
			q.afterRead = nil
			f()
		}
		return read, nil
	})
}

func (q *fakeQueue) Stamp(_ context.Context, was, is mirror.Incarnation) (bool, error) {
	return try(q.faults, "stamp redis", func() (bool, error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		if now := q.incs[is.Partition]; now.ID != was.ID || now.HighWater < was.HighWater {
			return false, nil
		}
		q.incs[is.Partition] = is
		q.stamps++
		return true, nil
	})
}

func (q *fakeQueue) DatabaseMark(context.Context) (string, error) {
	return try(q.faults, "database mark", func() (string, error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.database, nil
	})
}

func (q *fakeQueue) KeepDatabaseMark(_ context.Context, mark string) error {
	_, err := try(q.faults, "keep database mark", func() (struct{}, error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.database = mark
		return struct{}{}, nil
	})
	return err
}

// marked are the live marks made so far, sorted, each once.
func (q *fakeQueue) marked() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var keys []string
	for _, m := range q.live {
		keys = append(keys, m.Target.Key()+"<"+m.Event.ID)
	}
	slices.Sort(keys)
	return strings.Join(slices.Compact(keys), " ")
}

// flaky is a store whose calls may fail.
type flaky struct {
	mirror.Store
	f *faults
}

func (s *flaky) Sweep(ctx context.Context, account, name string) (mirror.Sweep, error) {
	return try(s.f, "sweep", func() (mirror.Sweep, error) { return s.Store.Sweep(ctx, account, name) })
}

func (s *flaky) SaveSweep(ctx context.Context, w mirror.Sweep) error {
	return tryOnly(s.f, "save sweep", func() error { return s.Store.SaveSweep(ctx, w) })
}

func (s *flaky) InsertCustomers(ctx context.Context, account string, page []mirror.Customer) (int, error) {
	return try(s.f, "insert customers", func() (int, error) { return s.Store.InsertCustomers(ctx, account, page) })
}

func (s *flaky) InsertGrants(ctx context.Context, account string, page []mirror.CreditGrant) (int, error) {
	return try(s.f, "insert grants", func() (int, error) { return s.Store.InsertGrants(ctx, account, page) })
}

func (s *flaky) Unsynced(ctx context.Context, account string, scope mirror.Scope, after mirror.Unread, limit int) ([]mirror.Unread, error) {
	return try(s.f, "unsynced", func() ([]mirror.Unread, error) { return s.Store.Unsynced(ctx, account, scope, after, limit) })
}

func (s *flaky) UnsyncedCount(ctx context.Context, account string) (int64, error) {
	return try(s.f, "unsynced count", func() (int64, error) { return s.Store.UnsyncedCount(ctx, account) })
}

func (s *flaky) RecordEvents(ctx context.Context, events []mirror.Event) ([]mirror.Receipt, error) {
	return try(s.f, "record", func() ([]mirror.Receipt, error) { return s.Store.RecordEvents(ctx, events) })
}

func (s *flaky) EventReceipts(ctx context.Context, account string, ids []string) ([]mirror.Receipt, error) {
	return try(s.f, "receipts", func() ([]mirror.Receipt, error) { return s.Store.EventReceipts(ctx, account, ids) })
}

func (s *flaky) ObservedAt(ctx context.Context, targets []mirror.Target) ([]time.Time, error) {
	return try(s.f, "observed", func() ([]time.Time, error) { return s.Store.ObservedAt(ctx, targets) })
}

func (s *flaky) DeadLetters(ctx context.Context, after string, limit int) ([]mirror.DeadLetter, error) {
	return try(s.f, "letters", func() ([]mirror.DeadLetter, error) { return s.Store.DeadLetters(ctx, after, limit) })
}

func (s *flaky) SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error {
	return tryOnly(s.f, "save letter", func() error { return s.Store.SaveDeadLetter(ctx, d) })
}

func (s *flaky) GrantOwner(ctx context.Context, account, grant string) (string, error) {
	return try(s.f, "owner", func() (string, error) { return s.Store.GrantOwner(ctx, account, grant) })
}

func (s *flaky) PendingEvents(ctx context.Context, after int64, limit int) ([]mirror.PendingEvent, error) {
	return try(s.f, "pending", func() ([]mirror.PendingEvent, error) { return s.Store.PendingEvents(ctx, after, limit) })
}

func (s *flaky) Incarnations(ctx context.Context) ([]mirror.Incarnation, error) {
	return try(s.f, "incarnations of the mirror", func() ([]mirror.Incarnation, error) { return s.Store.Incarnations(ctx) })
}

func (s *flaky) SaveIncarnation(ctx context.Context, i mirror.Incarnation) error {
	return tryOnly(s.f, "stamp mirror", func() error { return s.Store.SaveIncarnation(ctx, i) })
}

// bench is everything a sweep works on.
type bench struct {
	faults *faults
	stripe *fakeStripe
	store  *flaky
	queue  *fakeQueue
	now    time.Time
}

func setup(t testing.TB) *bench {
	t.Helper()
	store, _ := sqlitetest.Open(t)
	return setupWith(store)
}

func setupWith(store mirror.Store) *bench {
	f := &faults{}
	return &bench{faults: f, stripe: &fakeStripe{faults: f, pageCap: 100}, store: &flaky{store, f}, queue: newQueue(f), now: t0}
}

// each runs a test on both databases.
func each(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, setup(t))
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
		s, err := postgres.Open(t.Context(), url, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		test(t, setupWith(s))
	})
}

func (b *bench) clock() time.Time { return b.now }

func customer(id, clock string) mirror.Customer {
	return mirror.Customer{ID: id, TestClock: clock, Created: t0, Raw: json.RawMessage(fmt.Sprintf(`{"id":%q}`, id))}
}

func grant(id, owner string) mirror.CreditGrant {
	return mirror.CreditGrant{
		ID: id, Customer: owner, AmountType: "monetary", Amount: 100, Currency: "eur", Category: "paid",
		ApplicabilityConfig: json.RawMessage(`{"scope":{"price_type":"metered"}}`), EffectiveAt: t0, Created: t0, Updated: t0,
		Metadata: json.RawMessage(`{}`), Raw: json.RawMessage(fmt.Sprintf(`{"id":%q}`, id)),
	}
}

// commit is a sync of a target that finds nothing but what is held.
func commit(t testing.TB, s mirror.Fence, target mirror.Target, at time.Time, refs ...mirror.EventRef) {
	t.Helper()
	ctx := context.Background()
	st, err := s.BeginSync(ctx, target)
	if err != nil {
		t.Error(err)
		return
	}
	if target.Scope == mirror.ScopeBalance {
		_, err = s.ApplyBalance(ctx, mirror.BalanceSnapshot{
			Target: target, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: at, Joined: true, Full: true, Events: refs,
			Customer: customer(target.ID, ""), Windows: []mirror.Window[mirror.BalanceTransaction]{{FromHead: true, ToEnd: true}},
		})
	} else {
		_, err = s.ApplyCredits(ctx, mirror.CreditsSnapshot{
			Target: target, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: at, Joined: true, Full: true, Events: refs,
			Windows: []mirror.Window[mirror.CreditTransaction]{{FromHead: true, ToEnd: true}},
		})
	}
	if err != nil {
		t.Error(err)
	}
}

// work syncs all that waits, as the workers would.
func (b *bench) work(t testing.TB) {
	b.queue.mu.Lock()
	var targets []mirror.Target
	for target := range b.queue.queued {
		targets = append(targets, target)
	}
	b.queue.mu.Unlock()
	for _, target := range targets {
		commit(t, b.store.Store, target, b.now)
		b.queue.mu.Lock()
		delete(b.queue.queued, target)
		b.queue.mu.Unlock()
	}
}
