package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// populate gives the account n customers, newest first, made over years in
// bursts: most seconds have several.
func (b *bench) populate(r *rand.Rand, n int) {
	at := t0
	for i := range n {
		switch {
		case r.IntN(40) == 0:
			at = at.Add(-time.Duration(r.IntN(20*24)) * time.Hour)
		case r.IntN(3) == 0:
			at = at.Add(-time.Second)
		}
		c := customer(fmt.Sprintf("cus_%05d", i), "")
		c.Created, c.Currency, c.Balance = at, "eur", int64(-i)
		b.stripe.customers = append(b.stripe.customers, c)
	}
}

func (b *bench) parallel(readers int) *FirstCopy {
	return NewFirstCopy(b.stripe, b.store, b.queue, FirstCopyOptions{Readers: readers, Poll: time.Microsecond, Now: b.clock})
}

// working has histories read as soon as they are marked.
func (b *bench) working(t *testing.T) {
	b.faults.hook = func(call string) error {
		if call == "backlog" {
			b.work(t)
		}
		return nil
	}
}

// requireAll checks that every customer that Stripe has is held, and counted once.
func (b *bench) requireAll(t *testing.T, gone ...string) {
	t.Helper()
	held := map[string]bool{}
	for after := ""; ; {
		list, err := b.store.Store.Customers(context.Background(), "", after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, c := range list {
			after, held[c.ID] = c.ID, true
		}
	}
	for _, c := range b.stripe.customers {
		if !held[c.ID] {
			t.Errorf("%s, created %v, is not held", c.ID, c.Created)
		}
		delete(held, c.ID)
	}
	for id := range held {
		if !slices.Contains(gone, id) {
			t.Errorf("%s is held and not at Stripe", id)
		}
	}
}

// The list of customers is read in parts side by side, in hardly more calls than
// one reader would need; borders between parts lose and double nobody.
func TestFirstCopyReadsRangesSideBySide(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.populate(rand.New(rand.NewPCG(1, 1)), 9000)
	b.stripe.latency = 2 * time.Millisecond
	b.working(t)
	var customers Copied
	err := b.parallel(8).Run(t.Context(), "", func(at Copied) {
		if at.Phase == phaseCustomers {
			customers = at
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	b.requireAll(t)
	if customers.Pace == (Pace{}) {
		t.Error("no pace was told")
	}
	at, err := b.parallel(8).Standing(t.Context(), "")
	if err != nil || at.Customers != 9000 || at.Phase != phaseDone {
		t.Errorf("%+v, %v", at, err)
	}
	if b.stripe.most < 5 || b.stripe.most > 8 {
		t.Errorf("at most %d calls at once, want up to 8", b.stripe.most)
	}
	if calls := len(b.stripe.listed); calls > 90+16 {
		t.Errorf("%d calls for 90 pages", calls)
	}
	t.Logf("%d calls, %d at once", len(b.stripe.listed), b.stripe.most)
}

// A small account is not searched for parts.
func TestFirstCopySmallAccountCostsItsPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.populate(rand.New(rand.NewPCG(2, 1)), 150)
	b.working(t)
	if err := b.parallel(16).Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	b.requireAll(t)
	if calls := len(b.stripe.listed); calls != 2 {
		t.Errorf("%d calls for 2 pages", calls)
	}
}

// I1, F03: wherever a copy with many readers breaks off, the next one goes on: all
// customers are held, each counted once, and what was read is not read again.
func TestI1_F03_RangesResume(t *testing.T) {
	t.Parallel()
	for seed := range uint64(16) {
		r := rand.New(rand.NewPCG(seed, 2))
		b := setup(t)
		b.stripe.pageCap = 10
		n := 150 + r.IntN(300)
		b.populate(r, n)
		b.stripe.latency = 50 * time.Microsecond
		b.working(t)
		breaks := 0
		for first := true; ; first = false {
			if first || r.IntN(3) > 0 {
				b.faults.at, b.faults.after = b.faults.n+1+r.IntN(n/4), r.IntN(2) == 0
			} else {
				b.faults.at = 0
			}
			err := b.parallel(1+r.IntN(8)).Run(t.Context(), "", func(Copied) {})
			if err == nil {
				break
			}
			if !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			breaks++
		}
		b.requireAll(t)
		at, err := b.parallel(1).Standing(t.Context(), "")
		if err != nil || at.Customers != int64(n) || len(at.Ranges) != 0 {
			t.Fatalf("seed %d: %+v, %v, want %d customers", seed, at, err, n)
		}
		// Pages in flight when it broke off are read again, and each split has a last page.
		if most := n/10 + breaks*8 + (breaks+1)*2*8; len(b.stripe.listed) > most {
			t.Errorf("seed %d: %d calls for %d customers and %d breaks, want at most %d", seed, len(b.stripe.listed), n, breaks, most)
		}
	}
}

// Customers are created and deleted while the list is read, cursors among them.
func TestF26_F28_RangesWhileTheListChanges(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 3))
		b := setup(t)
		b.stripe.pageCap = 10
		b.populate(r, 600)
		b.stripe.latency = 50 * time.Microsecond
		made := 0
		var gone, late []string
		b.faults.hook = func(call string) error {
			switch call {
			case "backlog":
				b.work(t)
			case "customers":
				b.stripe.mu.Lock()
				defer b.stripe.mu.Unlock()
				if r.IntN(2) == 0 { // the last of what somebody read is the likeliest to hurt
					i := r.IntN(len(b.stripe.customers))
					if q := b.stripe.listed[r.IntN(len(b.stripe.listed))]; q.After != "" && r.IntN(2) == 0 {
						i = max(slices.IndexFunc(b.stripe.customers, func(c mirror.Customer) bool { return c.ID == q.After }), 0)
					}
					if id := b.stripe.customers[i].ID; !strings.HasPrefix(id, "cus_new") {
						gone = append(gone, id)
						b.stripe.customers = slices.Delete(b.stripe.customers, i, i+1)
					}
				}
				if r.IntN(4) == 0 {
					made++
					c := customer(fmt.Sprintf("cus_new%d", made), "")
					c.Created = t0.Add(time.Duration(made) * time.Second)
					late = append(late, c.ID)
					b.stripe.customers = slices.Insert(b.stripe.customers, 0, c)
				}
			}
			return nil
		}
		if err := b.parallel(6).Run(t.Context(), "", func(Copied) {}); err != nil {
			t.Fatal(err)
		}
		// Those made meanwhile have events since the watermark.
		b.stripe.customers = slices.DeleteFunc(b.stripe.customers, func(c mirror.Customer) bool { return slices.Contains(late, c.ID) })
		b.requireAll(t, append(gone, late...)...)
	}
}

// All customers of an account may share one second, as after an import.
func TestRangesOfOneSecond(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 1000 {
		b.stripe.customers = append(b.stripe.customers, customer(fmt.Sprintf("cus_%04d", i), ""))
	}
	b.working(t)
	if err := b.parallel(16).Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	b.requireAll(t)
	if calls := len(b.stripe.listed); calls > 10+5 {
		t.Errorf("%d calls for 10 pages", calls)
	}
}

// Borders lie between seconds, and both halves together are the whole.
func TestSplit(t *testing.T) {
	t.Parallel()
	for edge := int64(oldest + 2); edge < oldest+50; edge++ {
		for from := int64(0); from < edge-1; from = max(from+1, oldest) {
			if edge-max(from, oldest) < 2 {
				continue
			}
			r := &CustomerRange{From: from, To: edge + 5, Edge: edge, After: "cus_1"}
			older := r.split()
			if older.From != from || older.To != r.From || r.From > edge || older.To <= max(from, oldest) || r.To != edge+5 {
				t.Fatalf("[%d, %d) at %d: %+v and %+v", from, edge+5, edge, older, r)
			}
		}
	}
}

// A checkpoint of the version without ranges is gone on with.
func TestFirstCopyOldCheckpoint(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.populate(rand.New(rand.NewPCG(4, 1)), 300)
	b.working(t)
	if _, err := b.store.Store.InsertCustomers(t.Context(), "", b.stripe.customers[:200]); err != nil {
		t.Fatal(err)
	}
	err := b.store.Store.SaveSweep(t.Context(), mirror.Sweep{
		Name: SweepBackfill, StartedAt: t0, State: []byte(`{"phase":"customers","customers":200,"grants":0,"left":0,"cursor":"cus_00199"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.parallel(4).Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	b.requireAll(t)
	if calls := len(b.stripe.listed); calls != 1 {
		t.Errorf("%d calls for the page that was left", calls)
	}
}

// Histories are marked in the order of what is at stake.
func TestFirstCopyLargestFirst(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.populate(rand.New(rand.NewPCG(5, 1)), 250) // cus_00249 owes most
	b.working(t)
	if err := b.parallel(4).Run(t.Context(), "", func(Copied) {}); err != nil {
		t.Fatal(err)
	}
	for i, target := range b.queue.swept {
		if want := fmt.Sprintf("cus_%05d", 249-i); target.ID != want {
			t.Fatalf("history %d is that of %s, want %s", i, target.ID, want)
		}
	}
}

// One process at a time copies an account; the second one learns it, waits for
// a dead one, and a copy that lost its lease ends.
func TestFirstCopyLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		f := &faults{}
		stripe := &fakeStripe{faults: f, pageCap: 100}
		q := newQueue(f)
		m.unsynced = map[string]bool{"cus_1": true} // nobody reads it: the first copy stays at it
		ctx, stop := context.WithCancel(t.Context())
		first := make(chan error, 1)
		copier := func(wait time.Duration) *FirstCopy {
			return NewFirstCopy(stripe, m, q, FirstCopyOptions{LeaseWait: wait})
		}
		go func() { first <- copier(0).Run(ctx, "", func(Copied) {}) }()
		pass(20 * time.Second) // renewed all the while
		if err := copier(0).Run(t.Context(), "", func(Copied) {}); !errors.Is(err, ErrCopying) {
			t.Errorf("%v, want ErrCopying", err)
		}
		began := time.Now()
		if err := copier(CopyLease+time.Second).Run(t.Context(), "", func(Copied) {}); !errors.Is(err, ErrCopying) || time.Since(began) < CopyLease {
			t.Errorf("%v after %v, want ErrCopying after the lease's length", err, time.Since(began))
		}
		other := make(chan error, 1)
		go func() { other <- copier(0).Run(ctx, "acct_1", func(Copied) {}) }() // another account is no matter
		pass(time.Second)
		stop()
		if err := errors.Join(<-first, <-other); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context.Canceled", err)
		}

		// Another one has the lease, and is dead.
		m.mu.Lock()
		m.leases["backfill "] = held{"dead", time.Now().Add(CopyLease)}
		m.unsynced = nil
		m.mu.Unlock()
		if err := copier(CopyLease+time.Second).Run(t.Context(), "", func(Copied) {}); err != nil {
			t.Errorf("%v, want a copy once the lease ran out", err)
		}

		m.mu.Lock()
		m.unsynced = map[string]bool{"cus_1": true}
		m.mu.Unlock()
		go func() { first <- copier(0).Run(t.Context(), "", func(Copied) {}) }()
		pass(time.Second)
		m.mu.Lock()
		m.leases["backfill "] = held{"thief", time.Now().Add(time.Hour)}
		m.mu.Unlock()
		if err := <-first; !errors.Is(err, errCopyLeaseLost) {
			t.Errorf("%v, want the lost lease", err)
		}
	})
}

func TestReckon(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	for _, c := range []struct {
		name  string
		looks []moment
		at    Copied
		want  Pace
	}{
		{"nothing yet", []moment{{at: t0}}, Copied{Phase: phaseHistories, Left: 10}, Pace{CallsLeft: 10}},
		{
			"one call each",
			[]moment{{at: t0, left: 300}, {at: at(10), left: 100}},
			Copied{Phase: phaseHistories, Left: 100},
			Pace{Rate: 20, CallsLeft: 100, TimeLeft: 5 * time.Second},
		},
		{
			"long histories",
			[]moment{{at: t0, calls: 1000, left: 300}, {at: at(10), calls: 1200, left: 250}},
			Copied{Phase: phaseHistories, Left: 250},
			Pace{Rate: 20, CallsLeft: 1000, TimeLeft: 50 * time.Second},
		},
		{
			"the count of a day ago is forgotten",
			[]moment{{at: t0, calls: 1000, left: 300}, {at: at(10), calls: 900, left: 100}},
			Copied{Phase: phaseHistories, Left: 100},
			Pace{Rate: 20, CallsLeft: 100, TimeLeft: 5 * time.Second},
		},
		{
			"lists",
			[]moment{{at: t0}, {at: at(5), lists: 50}},
			Copied{Phase: phaseCustomers, Customers: 5000, Ranges: []*CustomerRange{{After: "cus_1", Rows: 5000, Top: oldest + 200, Edge: oldest + 100}}},
			Pace{Rate: 10, CallsLeft: 50 + 5000 + 5000, TimeLeft: 1005 * time.Second},
		},
	} {
		if got := reckon(c.looks, &c.at); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
