package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

// mark is the database's own as the memory holds it.
func (m *memory) mark(change func(*mirror.Incarnation)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.incs[mirror.DatabasePartition]
	change(&i)
	m.incs[mirror.DatabasePartition] = i
}

// F10: a database that was put back is noticed, by the process that saw it last and by
// another one that asks Redis, and until all is marked again; one that is only ahead of
// what was kept is not.
func TestF10_DatabasePutBackIsNoticed(t *testing.T) {
	t.Parallel()
	looks := func(n int64) func(*memory, *fakeQueue) {
		return func(m *memory, _ *fakeQueue) { m.mark(func(i *mirror.Incarnation) { i.HighWater += n }) }
	}
	for _, c := range []struct {
		name   string
		change func(*memory, *fakeQueue)
		lost   bool
	}{
		{"nothing happened", looks(0), false},
		{"killed before it was kept", looks(1), false},
		{"put back by a look", looks(-1), true},
		{"put back to before the first look", func(m *memory, _ *fakeQueue) { delete(m.incs, mirror.DatabasePartition) }, true},
		{"another history", func(m *memory, _ *fakeQueue) { m.mark(func(i *mirror.Incarnation) { i.ID, i.HighWater = "x", 900 }) }, true},
		{"promoted, and nothing counted less", func(m *memory, _ *fakeQueue) { m.system = "1/00000002" }, true},
		{"the timeline is not told any more", func(m *memory, _ *fakeQueue) { m.system = "" }, false},
	} {
		for _, other := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, noticed by another process %v", c.name, other), func(t *testing.T) {
				m, q := newMemory(), newQueue(&faults{})
				m.system = "1/00000001"
				w := NewDatabaseWatch(m, q, zap.NewNop())
				for range 3 {
					if lost, _, err := w.Look(t.Context()); lost || err != nil {
						t.Fatalf("a sound database is lost: %v, %v", lost, err)
					}
				}
				c.change(m, q)
				if other {
					w = NewDatabaseWatch(m, q, zap.NewNop())
				}
				for look := range 3 { // it stays so until it is healed
					lost, noticed, err := w.Look(t.Context())
					if err != nil || lost != c.lost || noticed != (lost && look == 0) {
						t.Fatalf("look %d: lost %v, noticed %v, %v; want %v", look, lost, noticed, err, c.lost)
					}
				}
				if c.lost {
					// A process that dies while it heals leaves it to the next one.
					if lost, noticed, err := NewDatabaseWatch(m, q, zap.NewNop()).Look(t.Context()); !lost || !noticed || err != nil {
						t.Fatalf("after a crash: lost %v, noticed %v, %v", lost, noticed, err)
					}
					before := m.incs[mirror.DatabasePartition].ID
					if err := w.Healed(t.Context()); err != nil {
						t.Fatal(err)
					}
					if after := m.incs[mirror.DatabasePartition].ID; after == before || after == "" {
						t.Errorf("the history is still called %q", after)
					}
				}
				for _, w := range []*DatabaseWatch{w, NewDatabaseWatch(m, q, zap.NewNop())} {
					if lost, _, err := w.Look(t.Context()); lost || err != nil {
						t.Errorf("once healed: lost %v, %v", lost, err)
					}
				}
			})
		}
	}
}

// F10: a database that was put back is noticed within 10 s, once, with a pass over
// events and balances at once; what they find has its cause, also what is found before
// the regular look.
func TestF10_DatabaseRewoundIsToldAsThat(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			m.sweeps["/"+SweepBackfill] = mirror.Sweep{LastSuccess: time.Now()}
			m.sweeps["/"+SweepBalances] = mirror.Sweep{LastSuccess: time.Now()}
			m.sweeps["/"+SweepEvents] = mirror.Sweep{Watermark: time.Now()}
			q := newQueue(&faults{})
			wrong := customer("cus_1", "")
			wrong.Balance, wrong.Currency, wrong.Created = -5, "eur", time.Now().Add(-time.Hour)
			stripe := &fakeStripe{faults: &faults{}, pageCap: 100, customers: []mirror.Customer{wrong}}
			r := m.replica(t, q, "a", RunnerOptions{
				BalancesInterval: 24 * time.Hour, EventsInterval: time.Hour,
				Balances: NewBalancesSweep(comparing{stripe}, m, q, BalancesOptions{}),
			})
			pass(time.Minute)
			q.mu.Lock()
			q.live = nil
			q.mu.Unlock()
			e := mirror.Event{ID: "evt_1", Type: "customer.updated", Customer: "cus_2", Object: "cus_2", Created: time.Now().Add(-10 * time.Second)}
			synctest.Wait()
			r.stripe.events = []mirror.Event{e}
			m.mu.Lock()
			m.log = nil
			m.mu.Unlock()
			m.mark(func(i *mirror.Incarnation) { i.HighWater -= 4 }) // 8 s are lost
			if early {
				if err := r.events.record(context.Background(), "", []mirror.Event{e}, Late{}, &EventsResult{}); err != nil {
					t.Fatal(err)
				}
			}
			pass(10 * time.Second)
			if n := testutil.ToFloat64(r.m.rewound); n != 1 {
				t.Errorf("%v rewinds counted within 10 s, want one", n)
			}
			pass(balancesGrace + 2*time.Second)
			m.mu.Lock()
			found := slices.DeleteFunc(slices.Clone(m.log), func(l string) bool { return !strings.HasPrefix(l, "found ") })
			m.mu.Unlock()
			missed := "found missed_event cus_2: " + mirror.CauseRewound
			if want := "found balance_mismatch cus_1: " + mirror.CauseRewound; len(found) < 2 || !slices.Contains(found, missed) || !slices.Contains(found, want) ||
				slices.ContainsFunc(found, func(l string) bool { return l != missed && l != want }) {
				t.Errorf("found %q, want %q and %q alone", found, missed, want)
			}
			pass(time.Minute)
			if n := testutil.ToFloat64(r.m.rewound); n != 1 {
				t.Errorf("%v rewinds counted, want one", n)
			}
			r.end()
		})
	}
}

// F10: healing a lost Redis, and a database that was put back, marks unfinished
// histories again by itself: before it says that all is well, and not with the regular
// look some seconds later.
func TestF10_HealingMarksUnfinishedHistories(t *testing.T) {
	t.Parallel()
	for what, lose := range map[string]func(*memory, *fakeQueue){
		"redis": func(_ *memory, q *fakeQueue) { q.incs = []mirror.Incarnation{{Partition: 0}, {Partition: 1}} },
		"database": func(m *memory, _ *fakeQueue) {
			m.mark(func(i *mirror.Incarnation) { i.HighWater-- })
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			m, q := newMemory(), newQueue(&faults{})
			m.sweeps["/"+SweepBackfill] = mirror.Sweep{LastSuccess: time.Now()}
			m.sweeps["/"+SweepEvents] = mirror.Sweep{Watermark: time.Now()}
			r := m.replica(t, q, "a", RunnerOptions{EventsInterval: time.Hour})
			pass(time.Minute + checkInterval/2)
			synctest.Wait()
			m.mu.Lock()
			m.unsynced = map[string]bool{"cus_9": true}
			before := m.incs[0].ID + m.incs[mirror.DatabasePartition].ID
			m.mu.Unlock()
			q.mu.Lock()
			q.queued, q.swept = map[mirror.Target]bool{}, nil
			lose(m, q)
			q.mu.Unlock()
			for healed := false; !healed; {
				pass(100 * time.Millisecond)
				synctest.Wait()
				m.mu.Lock()
				healed = m.incs[0].ID+m.incs[mirror.DatabasePartition].ID != before
				m.mu.Unlock()
			}
			q.mu.Lock()
			marked := slices.Contains(q.swept, mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_9"})
			q.mu.Unlock()
			if !marked {
				t.Errorf("%s: healed, and the unfinished history has no mark", what)
			}
			r.end()
		})
	}
}
