package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/creditmirror/creditmirror/mirror"
)

// memory is a store of one balance ledger that decides with mirror.PlanBalance.
type memory struct {
	Store
	state    mirror.SyncState
	rows     map[string]mirror.BalanceTransaction
	customer *mirror.CustomerView
	balances map[string]int64
	// judge sees every commit.
	judge func(s mirror.BalanceSnapshot, held map[string]mirror.BalanceTransaction)
}

func (m *memory) BeginSync(context.Context, mirror.Target) (mirror.SyncState, error) {
	m.state.Epoch++
	return m.state, nil
}

func (m *memory) ApplyBalance(_ context.Context, s mirror.BalanceSnapshot) (mirror.Applied, error) {
	if s.Epoch != m.state.Epoch {
		return mirror.Applied{}, mirror.ErrFenced
	}
	held := mirror.BalanceHeld{State: m.state, Customer: m.customer, Balances: m.balances, Tops: map[string]mirror.HeldRow{}}
	for _, r := range m.rows {
		h := mirror.HeldRow{
			ID: r.ID, Currency: r.Currency, Amount: r.Amount, EndingBalance: r.EndingBalance,
			Type: r.Type, Created: r.Created, Position: r.Position, Digest: mirror.Digest(r.Raw),
		}
		if slices.ContainsFunc(s.Spans(), func(sp mirror.Span) bool {
			return (sp.From.IsZero() || !r.Created.Before(sp.From)) && (sp.To.IsZero() || !r.Created.After(sp.To))
		}) {
			held.Rows = append(held.Rows, h)
		}
		if r.Position == 0 {
			held.Unplaced = append(held.Unplaced, h)
		} else if r.Position > held.Tops[r.Currency].Position {
			held.Tops[r.Currency] = h
		}
	}
	if m.customer != nil {
		held.CustomerDigest = mirror.Digest(m.customer.Raw)
	}
	plan, err := mirror.PlanBalance(s, held)
	if err != nil {
		return mirror.Applied{}, err
	}
	for _, r := range plan.Insert {
		if _, twice := m.rows[r.ID]; twice {
			return mirror.Applied{}, fmt.Errorf("%s would be inserted twice", r.ID)
		}
		m.rows[r.ID] = r
	}
	for _, p := range plan.Place {
		r := m.rows[p.ID]
		r.Position = p.Position
		m.rows[p.ID] = r
	}
	if plan.Customer != nil {
		m.customer = &mirror.CustomerView{Customer: *plan.Customer}
	}
	maps.Copy(m.balances, plan.Balances)
	epoch := m.state.Epoch
	m.state = plan.State
	m.state.Epoch = epoch
	m.judge(s, m.rows)
	return mirror.Applied{Inserted: len(plan.Insert), Findings: plan.Open}, nil
}

// Any ledger, read in any pages and any pieces while it grows, ends up held as a
// whole, and is never called joined before.
func TestI1_I5_WalkAnyLedger(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		f := newStripe()
		a := f.add(cus)
		f.pageCap = rapid.IntRange(1, 4).Draw(rt, "page")
		grow := func(label string, n int) {
			for range n {
				if rapid.IntRange(0, 2).Draw(rt, label+" new second") == 0 {
					f.clock = f.clock.Add(time.Second)
				}
				currency := rapid.SampledFrom([]string{"eur", "eur", "usd"}).Draw(rt, label+" currency")
				f.post(a, currency, rapid.Int64Range(-2, 2).Draw(rt, label+" amount"), rapid.IntRange(0, 3).Draw(rt, label+" tie"))
			}
		}
		store := &memory{rows: map[string]mirror.BalanceTransaction{}, balances: map[string]int64{}}
		store.judge = func(s mirror.BalanceSnapshot, held map[string]mirror.BalanceTransaction) {
			if !s.Joined {
				return
			}
			for _, l := range a.rows[:f.lastTop] {
				if _, ok := held[l.row.ID]; !ok {
					rt.Fatalf("joined, but %s of %v is missing; calls: %s", l.row.ID, l.row.Created, strings.Join(f.calls, "; "))
				}
			}
		}
		syncer := NewSyncer(f, store, nil, SyncOptions{
			PagesPerPiece: rapid.IntRange(1, 4).Draw(rt, "piece"), RereadDelay: time.Nanosecond,
			WalkFor: rapid.SampledFrom([]time.Duration{-1, time.Hour}).Draw(rt, "walk for"),
		})
		grow("first", rapid.IntRange(0, 30).Draw(rt, "rows"))
		trouble := true
		f.before = func(call string) error {
			if !trouble {
				return nil
			}
			switch rapid.IntRange(0, 9).Draw(rt, "between pages") {
			case 0:
				grow("between", 1)
			case 1:
				if strings.Contains(call, "after=c") {
					return missing("starting_after")
				}
			}
			return nil
		}
		for range rapid.IntRange(1, 8).Draw(rt, "syncs") {
			if _, err := syncer.Sync(rt.Context(), balanceOf(cus), nil, false); err != nil && !cursorGone(err) {
				rt.Fatalf("%v; calls: %s", err, strings.Join(f.calls, "; "))
			}
			grow("after", rapid.IntRange(0, 5).Draw(rt, "more"))
		}
		trouble = false // and now it comes to rest
		for left := 3*len(a.rows) + 3; ; left-- {
			r, err := syncer.Sync(rt.Context(), balanceOf(cus), nil, false)
			if err != nil {
				rt.Fatal(err)
			}
			if len(r.Findings) > 0 {
				rt.Fatalf("drift in a sound ledger: %+v", r.Findings)
			}
			if !r.More {
				break
			}
			if left == 0 {
				rt.Fatalf("no end; %d of %d rows held, state %+v; calls: %s", len(store.rows), len(a.rows), store.state, strings.Join(f.calls, "; "))
			}
		}
		if len(store.rows) != len(a.rows) || !store.state.HistoryComplete || store.state.Walk.InProgress() {
			rt.Fatalf("%d of %d rows held, state %+v", len(store.rows), len(a.rows), store.state)
		}
		chain := map[string]map[int64]bool{}
		for _, r := range store.rows {
			if chain[r.Currency] == nil {
				chain[r.Currency] = map[int64]bool{}
			}
			chain[r.Currency][r.Position] = true
		}
		n := 0
		for _, places := range chain {
			n += len(places)
			if places[0] {
				rt.Fatal("a row has no place")
			}
		}
		if n != len(store.rows) {
			rt.Fatalf("%d places for %d rows", n, len(store.rows))
		}
	})
}

// A process that dies after a piece of a catch-up leaves all that is needed to go on
// in the database: the events that wait, and the open walk.
func TestI3_PieceLeavesItsEventsAndItself(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{PagesPerPiece: 1, WalkFor: -1})
	a := b.stripe.add(cus)
	b.stripe.pageCap = 2
	b.stripe.adjust(a, -100)
	b.sync(t, balanceOf(cus))
	for range 9 {
		b.stripe.adjust(a, -1)
	}
	event := mirror.Event{ID: "evt_1", Type: "customer.updated", Customer: cus, Created: t0}
	if _, err := b.store.RecordEvents(t.Context(), []mirror.Event{event}); err != nil {
		t.Fatal(err)
	}
	for pieces := 0; ; pieces++ {
		if r := b.sync(t, balanceOf(cus)); !r.More {
			if len(r.Answered) != 1 || pieces < 2 {
				t.Fatalf("answered %v after %d pieces", r.Answered, pieces)
			}
			break
		} else if len(r.Answered) > 0 {
			t.Fatalf("piece %d answered %v", pieces, r.Answered)
		}
		waiting, err := b.store.PendingEvents(t.Context(), 0, 10)
		if err != nil || len(waiting) != 1 {
			t.Fatalf("after piece %d: %v, %v", pieces, waiting, err)
		}
		unread, err := b.store.Unsynced(t.Context(), "", mirror.ScopeBalance, mirror.Unread{}, 10)
		if err != nil || len(unread) != 1 {
			t.Fatalf("after piece %d: unfinished %v, %v", pieces, unread, err)
		}
	}
	if held := b.held(t); len(held) != 10 {
		t.Fatalf("%d rows held", len(held))
	}
}

// Many rows in one second cost a first copy no more calls than they fill pages: the
// pieces of one sync do not read the newest rows again.
func TestDenseSecondsCostNoMoreCalls(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	grant := b.stripe.grant(a, 1_000_000, true)
	for i := range 2013 {
		if i%700 == 0 {
			b.stripe.clock = b.stripe.clock.Add(time.Second)
		}
		b.stripe.post(a, "eur", -1, i)
		at := b.stripe.clock
		b.stripe.move(a, grant, -1)
		b.stripe.clock = at
		last := &a.credits[len(a.credits)-1]
		last.row.Created, last.row.EffectiveAt, last.tie = at, at, i
		renderCredit(&last.row)
	}
	b.stripe.made()
	for _, target := range []mirror.Target{balanceOf(cus), creditsOf(cus)} {
		if r := b.sync(t, target); r.More {
			t.Fatalf("%s: more to come", target)
		}
		if calls := strings.Count(b.stripe.made(), "after="); calls > 21+2 {
			t.Errorf("%s: %d list calls for 2,013 rows, want 21 and a few", target, calls)
		}
	}
	if held, credits := len(b.held(t)), b.heldCredits(t); held != 2013 || credits != 2014 {
		t.Errorf("%d and %d rows held", held, credits)
	}
}

// A second with more rows than a piece holds is got over all the same.
func TestF41_WalkSecondLongerThanAPiece(t *testing.T) {
	t.Parallel()
	f := newStripe()
	a := f.add(cus)
	f.pageCap = 2
	for range 9 {
		f.post(a, "eur", -1, 0)
	}
	store := &memory{rows: map[string]mirror.BalanceTransaction{}, balances: map[string]int64{}}
	store.judge = func(mirror.BalanceSnapshot, map[string]mirror.BalanceTransaction) {}
	syncer := NewSyncer(f, store, nil, SyncOptions{PagesPerPiece: 2, WalkFor: -1, RereadDelay: time.Nanosecond})
	for range 8 {
		r, err := syncer.Sync(t.Context(), balanceOf(cus), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if !r.More {
			return
		}
	}
	t.Fatalf("no end: %d of %d rows held, state %+v", len(store.rows), len(a.rows), store.state)
}

// F41: a walk that a killed process left open is gone on with, and once it has ended the
// next sync reads what is new and no more.
func TestF41_AfterAWalkThatGoesOnOnePageIsRead(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{PagesPerPiece: 1, WalkFor: -1})
	a := b.stripe.add(cus)
	for i := range 1200 {
		b.stripe.post(a, "eur", int64(i%90)-90, i)
		if i%10 == 9 {
			b.stripe.clock = b.stripe.clock.Add(time.Second)
		}
	}
	for range 4 {
		b.sync(t, balanceOf(cus))
	}
	b.stripe.made()
	b.stripe.adjust(a, -7)
	b.syncer = NewSyncer(b.stripe, b.flaky, b.marks, SyncOptions{RereadDelay: time.Microsecond})
	ref := mirror.EventRef{ID: "evt_1", Type: "customer.updated", Object: cus, Created: time.Now()}
	if r := b.sync(t, balanceOf(cus), ref); r.More || strings.Count(b.stripe.made(), "balance after=") != 9 {
		t.Errorf("the rest of the walk: %+v", r)
	}
	b.sync(t, balanceOf(cus), ref)
	if got, want := b.stripe.made(), "balance after= limit=11"; got != want {
		t.Errorf("the next sync made %q, want %q", got, want)
	}
}
