package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// fill gives the account customers, some on clocks, and grants.
func (b *bench) fill() {
	b.stripe.pageCap = 2
	for i := range 5 {
		b.stripe.customers = append(b.stripe.customers, customer(fmt.Sprintf("cus_%d", i), ""))
	}
	for i := range 3 {
		clock := fmt.Sprintf("clock_%d", i)
		b.stripe.clocks = append(b.stripe.clocks, clock)
		for j := range 3 {
			b.stripe.customers = append(b.stripe.customers, customer(fmt.Sprintf("cus_c%d%d", i, j), clock))
		}
	}
	for i := range 5 {
		b.stripe.grants = append(b.stripe.grants, grant(fmt.Sprintf("credgr_%d", i), fmt.Sprintf("cus_%d", i%3)))
	}
}

func (b *bench) copier(test bool) *FirstCopy {
	return NewFirstCopy(b.stripe, b.store, b.queue, FirstCopyOptions{TestMode: test, Readers: 1, Poll: time.Microsecond, Now: b.clock})
}

// copied is what a first copy left behind.
func (b *bench) copied(t testing.TB) string {
	t.Helper()
	ctx := context.Background()
	customers, err := b.store.Store.Customers(ctx, "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	grants, err := b.store.Store.Grants(ctx, "", "", mirror.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	left, err := b.store.Store.UnsyncedCount(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	sweep, err := b.store.Store.Sweep(ctx, "", SweepBackfill)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d customers, %d grants, %d left, %s, last success %v, watermark %v",
		len(customers), len(grants.Rows), left, sweep.State, sweep.LastSuccess, b.watermark(t))
}

func TestFirstCopy(t *testing.T) {
	t.Parallel()
	for _, test := range []bool{true, false} {
		b := setup(t)
		b.fill()
		b.faults.hook = func(call string) error {
			if call == "backlog" {
				b.work(t)
			}
			return nil
		}
		var phases []string
		f := b.copier(test)
		if done, err := f.Done(t.Context(), ""); done || err != nil {
			t.Errorf("done %v, %v before the begin", done, err)
		}
		if err := f.Run(t.Context(), "", func(at Copied) { phases = append(phases, at.Phase) }); err != nil {
			t.Fatal(err)
		}
		n, wantPhases := 5, []string{phaseCustomers, phaseGrants, phaseHistories, phaseDone}
		if test {
			n, wantPhases = 14, slices.Insert(wantPhases, 1, phaseClocks)
		}
		want := fmt.Sprintf(`%d customers, 5 grants, 0 left, {"phase":"done","since":"2026-03-01T12:00:00Z","customers":%d,"grants":5,"left":0}, last success %v, watermark %v`, n, n, t0, t0.Add(-clockTolerance))
		if got := b.copied(t); got != want {
			t.Errorf("test mode %v: %s\nwant %s", test, got, want)
		}
		if got := slices.Compact(phases); !slices.Equal(got, wantPhases) {
			t.Errorf("phases %v, want %v", got, wantPhases)
		}
		if n := len(b.queue.swept); n != map[bool]int{true: 17, false: 8}[test] {
			t.Errorf("test mode %v: %d marks, want one per history", test, n)
		}
		if done, err := f.Done(t.Context(), ""); !done || err != nil {
			t.Errorf("done %v, %v at the end", done, err)
		}
		// Once more: what is held stays as it is, and so does when it began at first.
		b.now = b.now.Add(time.Hour)
		want = strings.Replace(want, "last success "+t0.String(), "last success "+b.now.String(), 1)
		if err := f.Run(t.Context(), "", func(Copied) {}); err != nil || b.copied(t) != want {
			t.Errorf("again: %v, %s", err, b.copied(t))
		}
	}
}

// I1: whatever call fails, before or after it took effect, the next run goes on
// to the same end.
func TestI1_F03_FirstCopyFailsEverywhere(t *testing.T) {
	t.Parallel()
	want := ""
	for _, after := range []bool{false, true} {
		for at := 0; ; at++ {
			b := setup(t)
			b.fill()
			// The same with fewer rows and more pages: it runs for every call.
			b.stripe.pageCap, b.stripe.clocks = 1, b.stripe.clocks[:2]
			b.stripe.grants = b.stripe.grants[:2]
			b.stripe.customers = slices.DeleteFunc(b.stripe.customers, func(c mirror.Customer) bool {
				return !slices.Contains([]string{"cus_0", "cus_1", "cus_c00", "cus_c01", "cus_c10"}, c.ID)
			})
			b.faults.hook = func(call string) error {
				if call == "backlog" {
					b.work(t)
				}
				return nil
			}
			b.faults.at, b.faults.after = at, after
			err := b.copier(true).Run(t.Context(), "", func(Copied) {})
			if err != nil && !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			b.faults.at = 0
			if err != nil {
				if err := b.copier(true).Run(t.Context(), "", func(Copied) {}); err != nil {
					t.Fatal(err)
				}
			}
			got := b.copied(t)
			if want == "" {
				want = got
			}
			if got != want {
				t.Fatalf("call %d, after %v: %s\nwant %s", at, after, got, want)
			}
			if at > 0 && err == nil {
				if at < 30 {
					t.Fatalf("only %d calls", at)
				}
				break
			}
			if after && at > 0 { // a reply that got lost is the rarer case: every third call
				at += 2
			}
		}
	}
}

// Old pages never overwrite what a sync has written.
func TestFirstCopyNeverOverwrites(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill()
	commit(t, b.store.Store, mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}, t0)
	b.stripe.customers[1].Balance, b.stripe.customers[1].Currency = -77, "eur"
	b.faults.hook = func(call string) error {
		if call == "backlog" {
			b.work(t)
		}
		return nil
	}
	if err := b.copier(false).Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	if c, err := b.store.Store.Customer(t.Context(), "", "cus_1"); err != nil || c.Balance != 0 {
		t.Errorf("%+v, %v; want the synced state", c, err)
	}
}

func TestFirstCopyKeepsTheWatermark(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.since(t, t0.Add(-time.Hour))
	if err := b.copier(false).Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	if got := b.watermark(t); !got.Equal(t0.Add(-time.Hour)) {
		t.Errorf("watermark %v: events before the copy were skipped", got)
	}
}

func TestF26_FirstCopyCursorGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill()
	b.faults.hook = func(call string) error {
		if call == "backlog" {
			b.work(t)
		}
		return nil
	}
	b.faults.at = 8 // the second page of customers
	if err := b.copier(false).Run(t.Context(), "", func(Copied) {}); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	b.stripe.customers = append(b.stripe.customers[:1], b.stripe.customers[2:]...)
	b.stripe.calls = nil
	if err := b.copier(false).Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(b.stripe.calls[:3]), "[customers  after=cus_1 customers  after= customers  after=cus_2]"; got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
	if n, err := b.store.Store.Customers(t.Context(), "", "", 100); err != nil || len(n) != 5 {
		t.Errorf("%d customers, %v; want what was copied and the rest", len(n), err)
	}
}

// A clock deleted while the copy runs takes its customers with it.
func TestFirstCopyClockDeleted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill()
	b.faults.hook = func(call string) error {
		switch call {
		case "backlog":
			b.work(t)
		case "clocks":
			if len(b.stripe.clocks) == 3 && b.stripe.calls[len(b.stripe.calls)-1] == "clocks after=clock_1" {
				b.stripe.clocks = b.stripe.clocks[:2]
			}
		case "customers":
			if b.stripe.calls[len(b.stripe.calls)-1] == "customers clock_1 after=" {
				b.stripe.clocks = slices.DeleteFunc(b.stripe.clocks, func(c string) bool { return c == "clock_1" })
			}
		}
		return nil
	}
	if err := b.copier(true).Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	if n, err := b.store.Store.Customers(t.Context(), "", "", 100); err != nil || len(n) != 11 {
		t.Errorf("%d customers, %v; want all but those of the deleted clock", len(n), err)
	}
}

// A run that broke off in the middle of the clocks goes on with the clock it was at.
func TestFirstCopyResumesAtTheClock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill()
	b.faults.hook = func(call string) error {
		if call == "customers" && b.stripe.calls[len(b.stripe.calls)-1] == "customers clock_1 after=cus_c11" {
			return errInjected
		}
		return nil
	}
	if err := b.copier(true).Run(t.Context(), "", func(Copied) {}); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	b.stripe.calls = nil
	b.faults.hook = func(call string) error {
		if call == "backlog" {
			b.work(t)
		}
		return nil
	}
	if err := b.copier(true).Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(b.stripe.calls[:2]), "[customers clock_1 after=cus_c11 clocks after=clock_1]"; got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
}

// The queue holds a bounded part of the work, and a customer with a dead letter
// does not keep the copy from its end.
func TestFirstCopyBacklogAndDeadLetters(t *testing.T) {
	t.Parallel()
	m := newMemory()
	m.unsynced = map[string]bool{}
	for i := range 3000 {
		m.unsynced[fmt.Sprintf("cus_%04d", i)] = true
	}
	f := &faults{}
	q := newQueue(f)
	looks := 0
	f.hook = func(call string) error {
		if call != "backlog" {
			return nil
		}
		if looks++; looks%16 != 0 { // the workers are slow
			return nil
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		for target := range q.queued {
			delete(m.unsynced, target.ID)
			if target.ID == "cus_0007" {
				m.dead++
			}
		}
		clear(q.queued)
		return nil
	}
	var last Copied
	stripe := &fakeStripe{faults: f, pageCap: 100}
	if err := NewFirstCopy(stripe, m, q, FirstCopyOptions{Poll: time.Microsecond}).Run(t.Context(), "", func(at Copied) { last = at }); err != nil {
		t.Fatal(err)
	}
	if q.peak < feedBacklog || q.peak > feedBacklog+feedPage {
		t.Errorf("%d targets waited at once", q.peak)
	}
	if last.Phase != phaseDone || last.Left != 1 || len(q.swept) != 3000 {
		t.Errorf("%+v, %d marks; want the dead letter's history left, each marked once", last, len(q.swept))
	}
}

func TestFirstCopyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill()
	ctx, cancel := context.WithCancel(t.Context())
	looks := 0
	b.faults.hook = func(call string) error {
		if call == "backlog" {
			if looks++; looks > 3 {
				cancel()
			}
		}
		return nil
	}
	f := NewFirstCopy(b.stripe, b.store, b.queue, FirstCopyOptions{})
	if err := f.Run(ctx, "", func(Copied) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
}

// A key without the permission for credits: the histories are copied, and the
// grants by the first copy that comes after the permission.
func TestF27_FirstCopyWithoutCredits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill()
	refused := true
	b.faults.hook = func(call string) error {
		switch {
		case call == "backlog":
			b.work(t)
		case call == "grants" && refused:
			return &stripeapi.Error{Kind: stripeapi.KindForbidden}
		}
		return nil
	}
	f := b.copier(false)
	if err := f.Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Errorf("%v: a permission that is missing ended it", err)
	}
	if done, err := f.Done(t.Context(), ""); !done || err != nil {
		t.Errorf("done %v, %v: what a key may not read is no part of the copy", done, err)
	}
	if left, err := b.store.Store.UnsyncedCount(t.Context(), ""); left != 0 || err != nil {
		t.Errorf("%d histories left, %v; want none", left, err)
	}
	refused = false
	if err := f.Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	if page, err := b.store.Store.Grants(t.Context(), "", "", mirror.Page{Limit: 100}); err != nil || len(page.Rows) != 5 {
		t.Errorf("%d grants, %v", len(page.Rows), err)
	}
}

// A key without the permission for test clocks costs their customers and nothing else.
func TestF27_FirstCopyWithoutClocks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill()
	b.faults.hook = func(call string) error {
		switch call {
		case "backlog":
			b.work(t)
		case "clocks":
			return &stripeapi.Error{Kind: stripeapi.KindForbidden}
		}
		return nil
	}
	f := b.copier(true)
	if err := f.Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	if n, err := b.store.Store.Customers(t.Context(), "", "", 100); err != nil || len(n) != 5 {
		t.Errorf("%d customers, %v; want those of the plain list", len(n), err)
	}
}

func TestFirstCopyErrors(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.fill()
	b.faults.hook = func(call string) error {
		if call == "customers" {
			return &stripeapi.Error{Kind: stripeapi.KindUnauthorized}
		}
		return nil
	}
	if err := b.copier(false).Run(t.Context(), "", func(Copied) {}); !errors.Is(err, stripeapi.ErrUnauthorized) {
		t.Errorf("%v, want the refusal", err)
	}
	err := b.store.Store.SaveSweep(t.Context(), mirror.Sweep{Name: SweepBackfill, State: []byte(`{"phase":"from the future"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.copier(false).Run(t.Context(), "", func(Copied) {}); err == nil {
		t.Error("an unknown phase was taken")
	}
}
