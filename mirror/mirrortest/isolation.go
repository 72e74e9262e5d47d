package mirrortest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func isolationCases() []testCase {
	return []testCase{
		{"I20_AccountsShareNothing", accountsShareNothing},
		{"I12_ReadersSeeWholeSnapshots", wholeSnapshots},
		{"I4_ConcurrentBeginsGetOwnEpochs", concurrentBegins},
		{"I6_ConcurrentSyncsOfOneTarget", concurrentSyncs},
		{"ConcurrentSyncsOfManyTargets", manyTargets},
		{"SecondStoreOnTheSameDatabase", secondStore},
		{"CancelledCallsChangeNothing", cancelled},
	}
}

func accountsShareNothing(t *testing.T, h *Harness) {
	accounts := []string{"", "acct_1", "acct_2"}
	var ledgers []*ledger
	for i, account := range accounts {
		l := newLedger(account, "cus_A")
		for n := range i + 1 {
			l.add("eur", int64(-100*(i+1)-n))
		}
		ledgers = append(ledgers, l)
		record(t, h, updated(account, "evt_1", "cus_A"))
	}
	for _, l := range ledgers {
		if a := l.sync(t, h); len(a.Answered) != 1 || a.Inserted != len(l.rows)+1 {
			t.Fatalf("account %q: %+v", l.account, a)
		}
		c := newCredits(l.account, "cus_A")
		c.grant("eur", 10*int64(len(l.rows)))
		c.sync(t, h)
		requireCredits(t, h, c)
	}
	for _, l := range ledgers {
		requireChain(t, h, l)
		list, err := h.Customers(t.Context(), l.account, "", 10)
		if err != nil || len(list) != 1 || list[0].Account != l.account {
			t.Fatalf("customers of %q: %+v, %v", l.account, list, err)
		}
	}
	bury(t, h, ledgers[1].target())
	for i, l := range ledgers {
		c, err := h.Customer(t.Context(), l.account, "cus_A")
		if err != nil || c.Deleted != (i == 1) {
			t.Fatalf("account %q: deleted %v, %v", l.account, c.Deleted, err)
		}
	}
}

// wholeSnapshots: every list that a reader sees is one that was committed: the
// newest ending balance is the sum of all rows.
func wholeSnapshots(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -1)
	l.sync(t, h)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			var last time.Time
			for !stop.Load() {
				page, err := h.BalanceTransactions(t.Context(), "", "cus_A", mirror.Page{Limit: 1000})
				if err != nil {
					t.Error(err)
					return
				}
				var sum int64
				for _, r := range page.Rows {
					sum += r.Amount
				}
				if page.Rows[0].EndingBalance != sum || page.Rows[0].Position != int64(len(page.Rows)) {
					t.Errorf("%d rows sum up to %d, the newest ends at %d in place %d",
						len(page.Rows), sum, page.Rows[0].EndingBalance, page.Rows[0].Position)
					return
				}
				if page.SyncedAt.Before(last) {
					t.Errorf("freshness went back from %v to %v", last, page.SyncedAt)
					return
				}
				last = page.SyncedAt
			}
		})
	}
	for i := range 40 {
		l.add("eur", int64(-i))
		l.addNow("eur", int64(2*i))
		st := begin(t, h, l.target())
		if i%2 == 0 {
			applyBalance(t, h, l.snapshot(st, 4))
		} else {
			applyBalance(t, h, l.whole(st))
		}
	}
	stop.Store(true)
	wg.Wait()
}

func concurrentBegins(t *testing.T, h *Harness) {
	target := newLedger("", "cus_A").target()
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				st, err := h.BeginSync(t.Context(), target)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[st.Epoch] {
					t.Errorf("epoch %d was given twice", st.Epoch)
				}
				seen[st.Epoch] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 80 {
		t.Fatalf("%d epochs, want 80", len(seen))
	}
}

// concurrentSyncs: many writers for one target. Each reads the model under a
// lock after its BeginSync, as a fetch does, and commits when it likes; what is
// held must never go back.
func concurrentSyncs(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	var mu sync.Mutex
	var committed atomic.Int64
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 15 {
				st, err := h.BeginSync(t.Context(), l.target())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				l.add("eur", -7)
				snap, read := l.whole(st), int64(len(l.rows))
				mu.Unlock()
				_, err = h.ApplyBalance(t.Context(), snap)
				switch {
				case errors.Is(err, mirror.ErrFenced):
				case err != nil:
					t.Error(err)
					return
				default:
					for old := committed.Load(); old < read && !committed.CompareAndSwap(old, read); old = committed.Load() {
					}
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if n := int64(len(list0(t, h, l))); n < committed.Load() {
		t.Fatalf("%d rows are held, a commit had %d", n, committed.Load())
	}
	l.sync(t, h)
	requireChain(t, h, l)
}

// list0 is list, with no rows for a customer that was never committed.
func list0(t *testing.T, s mirror.Store, l *ledger) []mirror.BalanceTransaction {
	t.Helper()
	page, err := s.BalanceTransactions(t.Context(), l.account, l.customer, mirror.Page{Limit: 1_000_000})
	if err != nil && !errors.Is(err, mirror.ErrNotFound) {
		t.Fatal(err)
	}
	return page.Rows
}

func manyTargets(t *testing.T, h *Harness) {
	var wg sync.WaitGroup
	ledgers := make([]*ledger, 8)
	for i := range ledgers {
		l := newLedger([]string{"", "acct_1"}[i%2], fmt.Sprintf("cus_%d", i))
		ledgers[i] = l
		wg.Go(func() {
			for n := range 10 {
				l.add("eur", int64(-n))
				events := []mirror.Event{updated(l.account, fmt.Sprintf("evt_%d_%d", i, n), l.customer)}
				if _, err := h.RecordEvents(t.Context(), events); err != nil {
					t.Error(err)
					return
				}
				st, err := h.BeginSync(t.Context(), l.target())
				if err == nil {
					_, err = h.ApplyBalance(t.Context(), l.whole(st))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, l := range ledgers {
		requireChain(t, h, l)
	}
	requirePending(t, h)
}

func secondStore(t *testing.T, h *Harness) {
	if h.Again == nil {
		t.Skip("this driver's test opens one store only")
	}
	other := h.Again(t)
	l := newLedger("", "cus_A")
	l.add("eur", -1)
	old := l.whole(begin(t, h, l.target()))
	l.add("eur", -2)
	l.sync(t, other)
	if _, err := h.ApplyBalance(t.Context(), old); !errors.Is(err, mirror.ErrFenced) {
		t.Fatalf("a commit that another process overtook: %v, want ErrFenced", err)
	}
	requireChain(t, h, l)
	requireChain(t, other, l)
	if !lease(t, h, "sweep", "a", time.Hour) || lease(t, other, "sweep", "b", time.Hour) {
		t.Fatal("the lease is not shared")
	}
	var wg sync.WaitGroup
	for i, s := range []mirror.Store{h, other} {
		wg.Go(func() {
			m := newLedger("", fmt.Sprintf("cus_own%d", i))
			for range 20 {
				m.add("eur", -1)
				st, err := s.BeginSync(t.Context(), m.target())
				if err == nil {
					_, err = s.ApplyBalance(t.Context(), m.whole(st))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func cancelled(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -1)
	snap := l.whole(begin(t, h, l.target()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.ApplyBalance(ctx, snap); !errors.Is(err, context.Canceled) {
		t.Fatalf("apply: %v, want context.Canceled", err)
	}
	if _, err := h.RecordEvents(ctx, []mirror.Event{updated("", "evt_1", "cus_A")}); !errors.Is(err, context.Canceled) {
		t.Fatalf("record: %v, want context.Canceled", err)
	}
	if _, err := h.Customer(ctx, "", "cus_A"); !errors.Is(err, context.Canceled) {
		t.Fatalf("read: %v, want context.Canceled", err)
	}
	requireReceipts(t, h, "", []string{"evt_1"}, mirror.ReceiptNew)
	applyBalance(t, h, snap)
	requireChain(t, h, l)
}
