package reconcile

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

func (s *flaky) FullReads(ctx context.Context, account string, ledgers mirror.Ledgers, before time.Time, limit int) ([]mirror.FullRead, error) {
	return try(s.f, "full reads", func() ([]mirror.FullRead, error) { return s.Store.FullReads(ctx, account, ledgers, before, limit) })
}

func (s *flaky) FullReadCount(ctx context.Context, account string, ledgers mirror.Ledgers) (int64, error) {
	return try(s.f, "full read count", func() (int64, error) { return s.Store.FullReadCount(ctx, account, ledgers) })
}

func (s *flaky) Refused(ctx context.Context, account string, since time.Time) ([]mirror.Target, error) {
	return try(s.f, "refused", func() ([]mirror.Target, error) { return s.Store.Refused(ctx, account, since) })
}

func (s *flaky) RequestFullRead(ctx context.Context, targets []mirror.Target) error {
	return tryOnly(s.f, "request full read", func() error { return s.Store.RequestFullRead(ctx, targets) })
}

// ledgers is a Stripe with histories.
type ledgers struct {
	*fakeStripe
	rows map[string][]mirror.BalanceTransaction // newest first
	size int                                    // of a page; 0: 3
}

func (l ledgers) Customer(ctx context.Context, account, id string) (stripeapi.CustomerReply, error) {
	return comparing{l.fakeStripe}.Customer(ctx, account, id)
}

func (l ledgers) BalancePage(_ context.Context, account, id, after string, _ int) (stripeapi.BalancePage, error) {
	return try(l.faults, "balance page", func() (p stripeapi.BalancePage, err error) {
		i := slices.IndexFunc(l.customers, func(c mirror.Customer) bool { return c.ID == id })
		if i < 0 {
			return p, missing("customer")
		}
		p.Rows, p.HasMore, err = page(l.rows[id], after, cmp.Or(l.size, 3), func(t mirror.BalanceTransaction) string { return t.ID })
		if len(p.Rows) > 0 {
			c := l.customers[i]
			p.Customer = &c
		}
		return p, err
	})
}

func (l ledgers) CreditPage(context.Context, string, string, string, int) (stripeapi.CreditPage, error) {
	return try(l.faults, "credit page", func() (stripeapi.CreditPage, error) { return stripeapi.CreditPage{}, nil })
}

// whole is a Stripe whose histories can be read.
type whole interface {
	BalancePage(ctx context.Context, account, customer, after string, limit int) (stripeapi.BalancePage, error)
	CreditPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.CreditPage, error)
	GrantsPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.GrantsPage, error)
	Customer(ctx context.Context, account, id string) (stripeapi.CustomerReply, error)
}

// rehearsing makes whole syncs over a store that undoes them, as the worker's are.
type rehearsing struct {
	b      *bench
	stripe whole
}

func (b *bench) rehearses(stripe whole) Rehearsal { return rehearsing{b, stripe} }

func (r rehearsing) Histories(ctx context.Context, account, after string, limit int) ([]mirror.Target, error) {
	return try(r.b.faults, "histories", func() ([]mirror.Target, error) {
		return r.b.store.Store.(mirror.Rehearser).Histories(ctx, account, after, limit)
	})
}

func (r rehearsing) Rehearse(ctx context.Context, t mirror.Target) ([]mirror.Finding, error) {
	fence := r.b.store.Store.(mirror.Rehearser).Rehearsal()
	st, err := try(r.b.faults, "rehearse", func() (mirror.SyncState, error) { return fence.BeginSync(ctx, t) })
	if err != nil {
		return nil, err
	}
	var applied mirror.Applied
	if t.Scope == mirror.ScopeBalance {
		applied, err = r.balance(ctx, fence, t, st)
	} else {
		applied, err = r.credits(ctx, fence, t, st)
	}
	if refused, ok := errors.AsType[*mirror.RewrittenError](err); ok {
		return refused.Findings, nil
	}
	return slices.Concat(applied.Repaired, applied.Findings), err
}

func (r rehearsing) balance(ctx context.Context, fence mirror.Fence, t mirror.Target, st mirror.SyncState) (mirror.Applied, error) {
	snap := mirror.BalanceSnapshot{Target: t, EventSeq: st.EventSeq, ObservedAt: r.b.now, Joined: true, Full: true, AcceptDisproof: true}
	w := mirror.Window[mirror.BalanceTransaction]{FromHead: true, ToEnd: true}
	for after := ""; ; {
		p, err := r.stripe.BalancePage(ctx, t.Account, t.ID, after, 100)
		if errors.Is(err, stripeapi.ErrNotFound) {
			break
		}
		if err != nil {
			return mirror.Applied{}, fmt.Errorf("%w: %w", ErrUnread, err)
		}
		if p.Customer != nil {
			snap.Customer = *p.Customer
		}
		if w.Rows = append(w.Rows, p.Rows...); !p.HasMore {
			break
		}
		after = p.Rows[len(p.Rows)-1].ID
	}
	if snap.Customer.ID == "" {
		reply, err := r.stripe.Customer(ctx, t.Account, t.ID)
		if errors.Is(err, stripeapi.ErrNotFound) || err == nil && reply.Deleted {
			return fence.ApplyTombstone(ctx, mirror.Tombstone{Target: t, ObservedAt: r.b.now})
		}
		if err != nil {
			return mirror.Applied{}, fmt.Errorf("%w: %w", ErrUnread, err)
		}
		snap.Customer = reply.Customer
	}
	snap.Windows = []mirror.Window[mirror.BalanceTransaction]{w}
	return fence.ApplyBalance(ctx, snap)
}

func (r rehearsing) credits(ctx context.Context, fence mirror.Fence, t mirror.Target, st mirror.SyncState) (mirror.Applied, error) {
	page, err := r.stripe.CreditPage(ctx, t.Account, t.ID, "", 100)
	grants, err2 := r.stripe.GrantsPage(ctx, t.Account, t.ID, "", 100)
	if err := errors.Join(err, err2); err != nil {
		return mirror.Applied{}, fmt.Errorf("%w: %w", ErrUnread, err)
	}
	return fence.ApplyCredits(ctx, mirror.CreditsSnapshot{
		Target: t, EventSeq: st.EventSeq, ObservedAt: r.b.now, Joined: true, Full: true, AcceptDisproof: true, AllGrants: true, Grants: grants.Rows,
		Windows: []mirror.Window[mirror.CreditTransaction]{{Rows: page.Rows, FromHead: true, ToEnd: true}},
	})
}

// scrubBench is a mirror of customers with histories, all of them complete.
func scrubBench(t *testing.T, customers int) (*bench, ledgers) {
	b := setup(t)
	l := ledgers{b.stripe, map[string][]mirror.BalanceTransaction{}, 0}
	for i := range customers {
		id := fmt.Sprintf("cus_%02d", i)
		c := customer(id, "")
		c.Currency, c.Balance = "eur", -50
		var rows []mirror.BalanceTransaction
		for n := 5; n > 0; n-- {
			row := mirror.BalanceTransaction{
				ID: fmt.Sprintf("cbtxn_%02d_%d", i, n), Customer: id, Amount: -10, Currency: "eur", EndingBalance: int64(-10 * n), Type: "adjustment",
				Description: "goodwill", Metadata: json.RawMessage(`{"a":"b"}`), Created: t0.Add(time.Duration(n) * time.Second),
			}
			row.Raw = json.RawMessage(fmt.Sprintf(`{"id":%q,"amount":-10}`, row.ID))
			rows = append(rows, row)
		}
		b.stripe.customers, l.rows[id] = append(b.stripe.customers, c), rows
	}
	b.stripe.grants = []mirror.CreditGrant{grant("credgr_1", "cus_01")}
	if _, err := b.store.Store.InsertCustomers(t.Context(), "", b.stripe.customers); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Store.InsertGrants(t.Context(), "", b.stripe.grants); err != nil {
		t.Fatal(err)
	}
	for _, c := range b.stripe.customers {
		target := mirror.Target{Scope: mirror.ScopeBalance, ID: c.ID}
		st, err := b.store.Store.BeginSync(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.store.Store.ApplyBalance(t.Context(), mirror.BalanceSnapshot{
			Target: target, Epoch: st.Epoch, ObservedAt: t0, Joined: true, Full: true, Customer: c,
			Windows: []mirror.Window[mirror.BalanceTransaction]{{FromHead: true, ToEnd: true, Rows: l.rows[c.ID]}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	commit(t, b.store.Store, mirror.Target{Scope: mirror.ScopeCredits, ID: "cus_01"}, t0)
	err := b.store.Store.SaveSweep(t.Context(), mirror.Sweep{Name: SweepBackfill, LastSuccess: t0, State: []byte(`{"phase":"done"}`)})
	if err != nil {
		t.Fatal(err)
	}
	b.now = t0.Add(time.Hour)
	return b, l
}

// syncAll reads in full what waits, as the workers would.
func (b *bench) syncAll(t *testing.T, l ledgers) {
	b.queue.mu.Lock()
	targets := slices.Collect(maps.Keys(b.queue.queued))
	clear(b.queue.queued)
	b.queue.mu.Unlock()
	for _, target := range targets {
		if target.Scope != mirror.ScopeBalance {
			commit(t, b.store.Store, target, b.now)
			continue
		}
		st, err := b.store.Store.BeginSync(context.Background(), target)
		if err != nil {
			t.Error(err)
			continue
		}
		i := slices.IndexFunc(b.stripe.customers, func(c mirror.Customer) bool { return c.ID == target.ID })
		_, err = b.store.Store.ApplyBalance(context.Background(), mirror.BalanceSnapshot{
			Target: target, Epoch: st.Epoch, ObservedAt: b.now, Joined: true, Full: true, Customer: b.stripe.customers[i],
			Windows: []mirror.Window[mirror.BalanceTransaction]{{FromHead: true, ToEnd: true, Rows: l.rows[target.ID]}},
		})
		if refused, ok := errors.AsType[*mirror.RewrittenError](err); ok { // it waits for its next try
			b.queue.mu.Lock()
			b.queue.queued[target] = true
			b.queue.mu.Unlock()
			_, err = b.store.Store.Refuse(context.Background(), mirror.Refusal{
				Target: target, Epoch: st.Epoch, ObservedAt: b.now, Findings: refused.Findings,
			})
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// unread are the histories that were not read in full since t.
func (b *bench) unread(t *testing.T, since time.Time) []mirror.FullRead {
	t.Helper()
	list, err := b.store.Store.FullReads(context.Background(), "", mirror.Ledgers{}, since, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// F03: a scrub that fails at any call of the store or the queue, before or after
// it took effect, goes on to the same end: in a pass, and in steps.
func TestF03_ScrubFailsEverywhere(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"pass", "steps", "urgent"} {
		for _, after := range []bool{false, true} {
			for at := 1; ; at++ {
				b, l := scrubBench(t, 4)
				b.faults.hook = func(call string) error {
					if call == "backlog" {
						b.syncAll(t, l)
					}
					return nil
				}
				begun := b.now
				scrub := func() *Scrub {
					return NewScrub(b.store, b.queue, ScrubOptions{Period: 24 * time.Hour, Now: b.clock})
				}
				if mode == "urgent" {
					if err := scrub().Urge(t.Context(), "", b.now); err != nil {
						t.Fatal(err)
					}
				}
				b.faults.n, b.faults.at, b.faults.after = 0, at, after
				failed := false
				run := func() error {
					if mode == "pass" {
						_, err := scrub().Pass(t.Context(), "", func(int) {})
						return err
					}
					for range map[string]int{"steps": 30, "urgent": 3}[mode] {
						if mode == "steps" {
							b.now = b.now.Add(time.Hour)
						}
						if _, _, err := scrub().Step(t.Context(), ""); err != nil {
							return err
						}
					}
					return nil
				}
				for {
					err := run()
					if err == nil {
						break
					}
					if failed || !errors.Is(err, errInjected) {
						t.Fatal(err)
					}
					failed = true
				}
				if left := b.unread(t, begun); len(left) > 0 {
					t.Fatalf("%s failed at %d (after %v): not read: %+v", mode, at, after, left)
				}
				w, err := b.store.Store.Sweep(t.Context(), "", SweepScrub)
				if err != nil || w.LastSuccess.IsZero() {
					t.Fatalf("%s failed at %d (after %v): %+v, %v", mode, at, after, w, err)
				}
				if mode == "urgent" && strings.Contains(string(w.State), "urgent") {
					t.Fatalf("%s failed at %d (after %v): still urgent: %s", mode, at, after, w.State)
				}
				if found := b.found(t); len(found) > 0 {
					t.Fatalf("%s failed at %d (after %v): found %q", mode, at, after, found)
				}
				if !failed {
					if at < 8 {
						t.Fatalf("%s: only %d calls", mode, at)
					}
					break
				}
				if mode == "steps" { // the same calls again and again
					at += 2
				}
			}
		}
	}
}

// F03: the same for the scrub that only reports: whichever call of the store, the
// queue or Stripe fails, everything is found, recorded once, and nothing marked.
func TestF03_ScrubReportFailsEverywhere(t *testing.T) {
	t.Parallel()
	want := []string{"field_mismatch cus_00", "missing_customer cus_02", "missing_transaction cus_01"}
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			b, l := scrubBench(t, 4)
			l.rows["cus_00"][2].Description = "edited"
			l.rows["cus_01"] = append([]mirror.BalanceTransaction{
				{ID: "cbtxn_x2", Amount: 7, EndingBalance: -50, Currency: "eur", Created: b.now, Raw: []byte(`{"id":"cbtxn_x2"}`)},
				{ID: "cbtxn_x1", Amount: -7, EndingBalance: -57, Currency: "eur", Created: b.now, Raw: []byte(`{"id":"cbtxn_x1"}`)},
			}, l.rows["cus_01"]...)
			b.stripe.customers = slices.DeleteFunc(b.stripe.customers, func(c mirror.Customer) bool { return c.ID == "cus_02" })
			step := func() error {
				report := NewScrubReport(l, b.store, b.rehearses(l), b.queue, ReportOptions{Grace: time.Nanosecond, Now: b.clock})
				scrub := NewScrub(b.store, b.queue, ScrubOptions{Period: time.Hour, Report: report, Now: b.clock})
				b.now = b.now.Add(time.Hour)
				_, _, err := scrub.Step(t.Context(), "")
				return err
			}
			b.faults.n, b.faults.at, b.faults.after = 0, at, after
			failed := false
			for range 40 {
				if err := step(); err != nil {
					if failed || !errors.Is(err, errInjected) {
						t.Fatal(err)
					}
					failed = true
				}
			}
			if got := slices.Compact(b.found(t)); !slices.Equal(got, want) {
				t.Fatalf("failed at %d (after %v): found %q, want %q", at, after, got, want)
			}
			if n := len(b.found(t)); n != 4 {
				t.Fatalf("failed at %d (after %v): %d findings, want 4: %q", at, after, n, b.found(t))
			}
			if len(b.queue.swept)+len(b.queue.live) > 0 {
				t.Fatalf("failed at %d: marked %v", at, b.queue.swept)
			}
			if w, err := b.store.Store.Sweep(t.Context(), "", SweepScrub); err != nil || w.LastSuccess.IsZero() {
				t.Fatalf("failed at %d (after %v): %+v, %v", at, after, w, err)
			}
			if b.faults.n < at { // nothing failed any more
				break
			}
			if at > 40 { // the steps repeat themselves
				at += 9
			}
			if at > 200 {
				break
			}
		}
	}
}

// A report goes on beside customers for whom Stripe does not answer, asks for them
// again, and reports how many it could not compare; where Stripe answers for nobody it
// breaks off.
func TestScrubReportWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	b, l := scrubBench(t, 4)
	l.rows["cus_00"][2].Description, l.rows["cus_03"][2].Description = "edited", "edited"
	failing := map[string]int{} // how often Stripe does not answer for a customer
	silent := false
	var mu sync.Mutex
	stripe := unanswering{l, func(id string) error {
		mu.Lock()
		defer mu.Unlock()
		if failing[id]--; silent || failing[id] >= 0 {
			return &stripeapi.Error{Kind: stripeapi.KindUnavailable}
		}
		return nil
	}}
	for _, tt := range []struct {
		name              string
		failing           map[string]int
		silent            bool
		want              []string
		histories, unread int
		broken            error
	}{
		{"all answer", nil, false, []string{"cus_00", "cus_03"}, 5, 0, nil},
		{"one answers later", map[string]int{"cus_00": 2}, false, []string{"cus_00", "cus_03"}, 5, 0, nil},
		{"one answers at the last look alone, which shows what was seen once", map[string]int{"cus_00": 3}, false, []string{"cus_03"}, 5, 1, nil},
		{"one that differs in nothing answers at the last look", map[string]int{"cus_02": 3}, false, []string{"cus_00", "cus_03"}, 5, 0, nil},
		{"one does not", map[string]int{"cus_00": 99}, false, []string{"cus_03"}, 4, 1, nil},
		{"none does, and Stripe is there", map[string]int{"cus_00": 99, "cus_01": 99, "cus_02": 99, "cus_03": 99}, false, nil, 0, 4, nil},
		{"Stripe is away", nil, true, nil, 0, 0, stripeapi.ErrUnavailable},
	} {
		failing, silent = maps.Clone(tt.failing), tt.silent
		if failing == nil {
			failing = map[string]int{}
		}
		report := NewScrubReport(stripe, b.store, b.rehearses(stripe), b.queue, ReportOptions{Grace: time.Nanosecond, DryRun: true, Now: b.clock})
		reported, err := report.Run(t.Context(), "", "", 0, nil)
		var found []string
		for _, f := range reported.Findings {
			found = append(found, f.Customer)
		}
		slices.Sort(found)
		if !errors.Is(err, tt.broken) || !slices.Equal(found, tt.want) || reported.Histories != tt.histories || reported.Unread != tt.unread {
			t.Errorf("%s: %+v, %v, want %q, %d histories, %d unread, %v", tt.name, reported, err, tt.want, tt.histories, tt.unread, tt.broken)
		}
	}
}

// Between two looks that show the same difference there may be one without an answer,
// and it is reported once, also where a new one has the customer looked at again.
func TestScrubReportLooksBeyondAFailure(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		failing []int // looks without an answer
		appears int   // at which look the second difference does
		want    int
		unread  int
	}{
		{"at the second look", []int{2}, 1, 2, 0},
		{"at the first and the third", []int{1, 3}, 1, 2, 0},
		{"at the second and the third", []int{2, 3}, 1, 2, 0},
		{"none, and something new at the second", nil, 2, 2, 0},
		{"at the third, and something new at the second", []int{3}, 2, 2, 0},
		{"at the third and the last, and something new at the second", []int{3, 4}, 2, 1, 1},
	} {
		b, l := scrubBench(t, 2)
		l.rows["cus_00"][2].Description = "edited"
		looks := 0
		stripe := unanswering{l, func(id string) error {
			if id != "cus_00" {
				return nil
			}
			if looks++; looks == tt.appears {
				l.rows["cus_00"][1].Description = "edited too"
			}
			if slices.Contains(tt.failing, looks) {
				return &stripeapi.Error{Kind: stripeapi.KindUnavailable}
			}
			return nil
		}}
		// One page for each look, so that the looks can be counted.
		stripe.size = 100
		logs, observed := observer.New(zap.WarnLevel)
		report := NewScrubReport(stripe, b.store, b.rehearses(stripe), b.queue, ReportOptions{Grace: time.Nanosecond, DryRun: true, Log: zap.New(logs), Now: b.clock})
		reported, err := report.Run(t.Context(), "", "", 0, nil)
		found := slices.DeleteFunc(slices.Clone(reported.Findings), func(f mirror.Finding) bool { return f.Kind != mirror.DriftFieldMismatch })
		warnings := 0
		for _, e := range observed.FilterMessage("drift found").All() {
			if e.ContextMap()["kind"] == string(mirror.DriftFieldMismatch) {
				warnings++
			}
		}
		opened := reported.Opened[mirror.DriftFieldMismatch]
		if err != nil || len(found) != tt.want || warnings != tt.want || opened != tt.want || reported.Unread != tt.unread || reported.Histories != 3 {
			t.Errorf("%s: %+v, %v, %d warnings, %d opened, want %d, and %d unread of 3", tt.name, reported, err, warnings, opened, tt.want, tt.unread)
		}
	}
}

// A pass in which customers could not be compared is no success, and keeps the pace.
func TestScrubReportWithoutAnAnswerIsNoSuccess(t *testing.T) {
	t.Parallel()
	b, l := scrubBench(t, 4)
	silent, asked := true, 0
	var mu sync.Mutex
	stripe := unanswering{l, func(id string) error {
		mu.Lock()
		defer mu.Unlock()
		if id == "" || !silent {
			return nil
		}
		asked++
		return &stripeapi.Error{Kind: stripeapi.KindGarbled}
	}}
	steps := func(n int) mirror.Sweep {
		for range n {
			report := NewScrubReport(stripe, b.store, b.rehearses(stripe), b.queue, ReportOptions{Grace: time.Nanosecond, Now: b.clock})
			b.now = b.now.Add(time.Hour)
			if _, _, err := NewScrub(b.store, b.queue, ScrubOptions{Period: 24 * time.Hour, Report: report, Now: b.clock}).Step(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		}
		sweep, err := b.store.Store.Sweep(t.Context(), "", SweepScrub)
		if err != nil {
			t.Fatal(err)
		}
		return sweep
	}
	if sweep := steps(10 * 24); !sweep.LastSuccess.IsZero() || !sweep.Watermark.IsZero() {
		t.Errorf("nothing was compared: %+v", sweep)
	}
	// Ten periods of five histories.
	if customers := asked / reportLooks; customers < 40 || customers > 50 {
		t.Errorf("asked for %d customers in ten periods, want 50 at most", customers)
	}
	silent = false
	if sweep := steps(3 * 24); sweep.LastSuccess.IsZero() || b.now.Sub(sweep.Watermark) > 50*time.Hour {
		t.Errorf("all was compared by %v: %+v", b.now, sweep)
	}
}

// unanswering is a Stripe whose answers about a customer may fail.
type unanswering struct {
	ledgers
	fails func(customer string) error
}

var _ ReportStripe = unanswering{}

func (u unanswering) BalancePage(ctx context.Context, account, id, after string, limit int) (stripeapi.BalancePage, error) {
	if err := u.fails(id); err != nil {
		return stripeapi.BalancePage{}, err
	}
	return u.ledgers.BalancePage(ctx, account, id, after, limit)
}

func (u unanswering) GrantsPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.GrantsPage, error) {
	if err := u.fails(customer); err != nil {
		return stripeapi.GrantsPage{}, err
	}
	return u.ledgers.GrantsPage(ctx, account, customer, after, limit)
}

// A pass ends when everything was read that can be: it neither waits for the next
// try of a reply that was refused, nor asks for it again and again.
func TestScrubPassDoesNotWaitForWhatIsRefused(t *testing.T) {
	t.Parallel()
	b, l := scrubBench(t, 4)
	b.faults.hook = func(call string) error {
		if call == "backlog" {
			b.syncAll(t, l)
		}
		return nil
	}
	row := &l.rows["cus_02"][1]
	row.Amount, row.Raw = -11, json.RawMessage(`{"id":"cbtxn_02_4","amount":-11}`)
	scrub := NewScrub(b.store, b.queue, ScrubOptions{Now: b.clock})
	pass := func() (asked int, passed Passed) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		passed, err := scrub.Pass(ctx, "", func(n int) { asked += n })
		if err != nil {
			t.Fatal(err)
		}
		return asked, passed
	}
	for range 2 { // the second time it is known, and read once more
		// A reply of a few rows that was refused says nothing of the rest.
		lagging := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_03"}
		st, err := b.store.Store.BeginSync(t.Context(), lagging)
		if err == nil {
			_, err = b.store.Store.Refuse(t.Context(), mirror.Refusal{Target: lagging, Epoch: st.Epoch, ObservedAt: b.now})
		}
		if err != nil {
			t.Fatal(err)
		}
		if asked, passed := pass(); asked != 5 || passed != (Passed{4, 1}) {
			t.Errorf("%d histories asked for, want each of the 5 once; %+v", asked, passed)
		}
		if left := b.unread(t, b.now); len(left) != 1 || left[0].Target.ID != "cus_02" {
			t.Errorf("not read: %+v, want cus_02 alone", left)
		}
		if found := b.found(t); !slices.Equal(found, []string{"field_mismatch cus_02"}) {
			t.Errorf("found %q", found)
		}
		b.now = b.now.Add(time.Hour)
		clear(b.queue.queued)
	}
	row.Amount, row.Raw = -10, json.RawMessage(`{"id":"cbtxn_02_4","amount":-10}`)
	_, passed := pass()
	if left, found := b.unread(t, b.now), b.found(t); len(left) != 0 || len(found) != 0 || passed != (Passed{5, 0}) {
		t.Errorf("once Stripe shows what is held: %+v, not read %+v, found %q", passed, left, found)
	}
}

// What work explains is lag: a customer in the queue is no finding, however long.
func TestScrubReportTellsLagFromDrift(t *testing.T) {
	t.Parallel()
	b, l := scrubBench(t, 3)
	l.rows["cus_00"][2].Description = "edited"
	b.queue.queued[mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_00"}] = true
	report := NewScrubReport(l, b.store, b.rehearses(l), b.queue, ReportOptions{Grace: time.Nanosecond, Now: b.clock})
	got, err := report.Run(t.Context(), "", "", 0, nil)
	if err != nil || len(got.Findings) != 0 || got.Customers != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	clear(b.queue.queued)
	if got, err = report.Run(t.Context(), "", "", 0, nil); err != nil || len(got.Findings) != 1 {
		t.Errorf("%+v, %v, want the edit", got, err)
	}
	// A difference that the second look does not show was a change on its way.
	looks := 0
	b.faults.hook = func(call string) error {
		if call == "balance page" {
			if looks++; looks == 3*2+1 {
				l.rows["cus_00"][2].Description = "goodwill"
			}
		}
		return nil
	}
	if got, err = report.Run(t.Context(), "", "", 0, nil); err != nil || len(got.Findings) != 0 {
		t.Errorf("%+v, %v, want nothing that lasts", got, err)
	}
}

// After a gap that Stripe's list of events does not reach back over, the balances
// sweep runs at once and every history is read.
func TestF30_GapOf25DaysIsTakenOver(t *testing.T) {
	t.Parallel()
	for _, report := range []bool{false, true} {
		b, l := scrubBench(t, 250)
		// What happened in the gap: a balance, and a pair that cancels out.
		b.stripe.customers[3].Balance = -57
		l.rows["cus_03"] = append([]mirror.BalanceTransaction{{
			ID: "cbtxn_gap", Amount: -7, EndingBalance: -57, Currency: "eur", Type: "adjustment", Created: t0.Add(24 * time.Hour), Raw: []byte(`{"id":"cbtxn_gap"}`),
		}}, l.rows["cus_03"]...)
		edited := &l.rows["cus_09"][0]
		edited.Description, edited.Raw = "edited in the gap", []byte(`{"id":"cbtxn_09_5","description":"edited in the gap"}`)
		b.now = t0.Add(40 * 24 * time.Hour)
		err := b.store.Store.SaveSweep(t.Context(), mirror.Sweep{Name: SweepEvents, Watermark: b.now.Add(-26 * 24 * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		o := ScrubOptions{Now: b.clock}
		repair := !report
		if report {
			o.Report = NewScrubReport(l, b.store, b.rehearses(l), b.queue, ReportOptions{Grace: time.Nanosecond, Now: b.clock})
		}
		scrub := NewScrub(b.store, b.queue, o)
		r := NewRunner(b.store, b.queue, NewEventsSweep(b.stripe, b.store, b.queue, EventsOptions{Now: b.clock}), b.copier(false), RunnerOptions{
			Balances: NewBalancesSweep(comparing{b.stripe}, b.store, b.queue, BalancesOptions{Grace: time.Nanosecond, Repair: &repair}),
			Scrub:    scrub, Registerer: prometheus.NewRegistry(), Now: b.clock,
		})
		r.sweepEvents(t.Context())
		var cause string
		select {
		case cause = <-r.balancesNow:
		default:
			t.Fatal("no pass over balances was asked for")
		}
		if _, err := r.sweepBalances(t.Context(), "", cause, true); err != nil {
			t.Fatal(err)
		}
		steps := 0
		for ; ; steps++ {
			if !report {
				b.syncAll(t, l)
			}
			if _, _, err := scrub.Step(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if w, err := b.store.Store.Sweep(t.Context(), "", SweepScrub); err != nil || !strings.Contains(string(w.State), "urgent") {
				break
			}
			if steps > 20 {
				t.Fatal("still urgent")
			}
		}
		if left := b.unread(t, b.now); !report && len(left) > 0 {
			t.Errorf("%d histories were not read", len(left))
		}
		list, err := b.store.Store.Findings(t.Context(), mirror.FindingsQuery{RepairedSince: t0, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range list {
			got = append(got, fmt.Sprintf("%s %s %s", f.Kind, f.Customer, f.Cause))
		}
		slices.Sort(got)
		if want := []string{"balance_mismatch cus_03 missed event", "field_mismatch cus_09 edit without event", "missing_transaction cus_03 missed event"}; !slices.Equal(got, want) {
			t.Errorf("report only %v: %q, want %q", report, got, want)
		}
		if steps < 2 {
			t.Errorf("all in %d steps: the queue is not kept short", steps)
		}
		// The next pass over events begins where Stripe's list does, and asks no more.
		r.sweepEvents(t.Context())
		if len(r.balancesNow) > 0 {
			t.Error("the gap is taken over again and again")
		}
	}
}

func (m *memory) HeldCustomers(_ context.Context, _ string, ids []string) (map[string]mirror.HeldCustomer, error) {
	held := map[string]mirror.HeldCustomer{}
	for _, id := range ids {
		held[id] = mirror.HeldCustomer{CustomerView: mirror.CustomerView{Customer: mirror.Customer{ID: id}}}
	}
	return held, nil
}

func (m *memory) HeldGrants(context.Context, string, []string) (map[string]mirror.HeldGrantRow, error) {
	return nil, nil
}

func (m *memory) LivingCustomers(context.Context, string, mirror.Place, time.Time, int) ([]mirror.Place, error) {
	return nil, nil
}

func (m *memory) HeldClocks(context.Context, string) ([]string, error) { return nil, nil }

func (m *memory) GrantHolders(context.Context, string, string, int) ([]string, error) {
	return nil, nil
}

func (m *memory) ClockCustomers(context.Context, string, string) ([]string, error) { return nil, nil }

func (m *memory) OpenFindings(_ context.Context, list []mirror.Finding) ([]mirror.Finding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range list {
		m.log = append(m.log, fmt.Sprintf("found %s %s: %s", f.Kind, f.Customer, f.Cause))
	}
	return list, nil
}

func (m *memory) FullReadCount(context.Context, string, mirror.Ledgers) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return 0, m.fail["full reads"]
}

func (m *memory) FullReads(context.Context, string, mirror.Ledgers, time.Time, int) ([]mirror.FullRead, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.overdue, nil
}

func (m *memory) Refused(context.Context, string, time.Time) ([]mirror.Target, error) {
	return nil, nil
}

func (m *memory) RequestFullRead(context.Context, []mirror.Target) error { return nil }

// F10: a lost Redis is followed by a pass over all balances, at once and with the
// cause in what it finds; a first start is not.
func TestF10_BalancesAfterALostRedis(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.sweeps["/"+SweepBackfill] = mirror.Sweep{LastSuccess: time.Now()}
		m.sweeps["/"+SweepBalances] = mirror.Sweep{LastSuccess: time.Now()}
		m.sweeps["/"+SweepEvents] = mirror.Sweep{Watermark: time.Now()}
		for i := range 2 { // both sides know each other
			m.incs[i] = mirror.Incarnation{Partition: i, ID: fmt.Sprint("i", i), HighWater: 5}
		}
		q := newQueue(&faults{})
		q.incs = []mirror.Incarnation{m.incs[0], m.incs[1]}
		wrong := customer("cus_1", "")
		wrong.Balance, wrong.Currency, wrong.Created = -5, "eur", time.Now().Add(-time.Hour)
		stripe := &fakeStripe{faults: &faults{}, pageCap: 100, customers: []mirror.Customer{wrong}}
		r := m.replica(t, q, "a", RunnerOptions{
			BalancesInterval: 24 * time.Hour, EventsInterval: time.Hour,
			Balances: NewBalancesSweep(comparing{stripe}, m, q, BalancesOptions{}),
		})
		pass(time.Minute)
		if n := m.count("found balance_mismatch cus_1: " + mirror.CauseLostRedis); n != 0 || len(stripe.calls) != 0 {
			t.Fatalf("%d findings, calls %q before Redis was lost", n, stripe.calls)
		}
		q.mu.Lock()
		q.incs = []mirror.Incarnation{{Partition: 0}, {Partition: 1}} // FLUSHALL
		q.mu.Unlock()
		pass(10*time.Second + balancesGrace + 2*time.Second)
		if n := m.count("found balance_mismatch cus_1: " + mirror.CauseLostRedis); n != 1 {
			t.Errorf("%d findings with the cause, want one", n)
		}
		if n := testutil.ToFloat64(r.m.lost); n != 1 {
			t.Errorf("%v losses counted", n)
		}
		r.end()
	})
}

// The metric of the scrub's last success is the time in its row: a scrub that
// makes its steps and is behind its period is no success.
func TestScrubTellsItsLastSuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.overdue = []mirror.FullRead{{Target: mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}, Requested: true}}
		q := newQueue(&faults{})
		r := m.replica(t, q, "a", RunnerOptions{EventsInterval: time.Minute, Scrub: NewScrub(m, q, ScrubOptions{})})
		told := func() int {
			return testutil.CollectAndCount(r.m.lastSuccess, "creditmirror_reconcile_last_success_timestamp_seconds")
		}
		pass(time.Minute)
		before := told()
		m.mu.Lock()
		m.overdue = nil
		m.mu.Unlock()
		pass(time.Minute)
		if n := told(); n != before+1 {
			t.Errorf("%d sweeps told, then %d; want the scrub's once nothing is overdue", before, n)
		}
		at := testutil.ToFloat64(r.m.lastSuccess.WithLabelValues(SweepScrub))
		if age := time.Since(time.Unix(int64(at), 0)); age > 2*scrubTick {
			t.Errorf("told success %v ago", age)
		}
		m.mu.Lock()
		m.overdue = []mirror.FullRead{{Target: mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}, Requested: true}}
		m.mu.Unlock()
		pass(10 * time.Minute)
		if again := testutil.ToFloat64(r.m.lastSuccess.WithLabelValues(SweepScrub)); again > at+scrubTick.Seconds() {
			t.Errorf("told success %v after it was behind", time.Unix(int64(again), 0).Sub(time.Unix(int64(at), 0)))
		}
		r.end()
	})
}

// I19: a sweep that gets no further says so in a metric, and takes it back.
func TestI19_StalledSweeps(t *testing.T) {
	t.Parallel()
	for sweep, what := range map[string]string{SweepEvents: "events", SweepBalances: "customers", SweepScrub: "full reads"} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			m.sweeps["/"+SweepBackfill] = mirror.Sweep{LastSuccess: time.Now()}
			m.sweeps["/"+SweepEvents] = mirror.Sweep{Watermark: time.Now()}
			q := newQueue(&faults{})
			stripe := &fakeStripe{faults: &faults{}, pageCap: 100}
			stripe.hook = func(call string) error {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.fail[call]
			}
			r := m.replica(t, q, "a", RunnerOptions{
				EventsInterval: time.Minute, BalancesInterval: 10 * time.Minute,
				Balances: NewBalancesSweep(comparing{stripe}, m, q, BalancesOptions{}), Scrub: NewScrub(m, q, ScrubOptions{}),
			})
			stalled := func() (all []string) {
				for _, s := range []string{SweepEvents, SweepBalances, SweepScrub} {
					if testutil.ToFloat64(r.m.stalled.WithLabelValues(s)) == 1 {
						all = append(all, s)
					}
				}
				return all
			}
			pass(time.Hour)
			if s := stalled(); len(s) > 0 {
				t.Errorf("%v stalled, but nothing is wrong", s)
			}
			m.set(what, errors.New("away"))
			pass(2 * time.Minute)
			if s := stalled(); len(s) > 0 {
				t.Errorf("%v stalled after two minutes: too soon to tell", s)
			}
			pass(time.Hour)
			if s := stalled(); !slices.Equal(s, []string{sweep}) {
				t.Errorf("%v stalled after an hour, want %s", s, sweep)
			}
			m.set(what, nil)
			pass(15 * time.Minute)
			if s := stalled(); len(s) > 0 {
				t.Errorf("%v stalled although it goes on", s)
			}
			r.end()
		})
	}
}
