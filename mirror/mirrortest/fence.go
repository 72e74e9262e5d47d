package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func fenceCases() []testCase {
	return []testCase{
		{"I4_EpochStrictlyIncreases", epochIncreases},
		{"I4_NoEpochTwiceAfterARewind", lostTimeline},
		{"I6_OlderEpochWritesNothing", olderEpochWritesNothing},
		{"I4_TombstoneFencesTheOtherLedger", tombstoneFencesOther},
		{"ApplyTwiceChangesOnce", applyTwice},
		{"I9_WhatIsUnderWayIsTold", underWay},
		{"I12_ClocksAhead", clocks},
	}
}

func epochIncreases(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	first := begin(t, h, l.target())
	if first.Epoch <= 0 || first.HistoryComplete || first.CustomerHeld || !first.ObservedAt.IsZero() {
		t.Fatalf("the first state is %+v", first)
	}
	last := first.Epoch
	for range 50 {
		next := begin(t, h, l.target()).Epoch
		if next <= last {
			t.Fatalf("epoch %d follows %d", next, last)
		}
		last = next
	}
	// A clock that was ahead, by far, does not stop them.
	last += int64(time.Hour / time.Microsecond)
	noErr(t, h.Exec(t.Context(), fmt.Sprintf(`UPDATE sync_state SET epoch = %d`, last)))
	if next := begin(t, h, l.target()).Epoch; next != last+1 {
		t.Fatalf("epoch %d follows %d, which lies ahead of the clock", next, last)
	}
	other := l.target()
	other.Scope = mirror.ScopeCredits
	if st := begin(t, h, other); st.Epoch >= last {
		t.Fatalf("another scope's first epoch is %d, after %d of this one", st.Epoch, last)
	}
	other.Account = "acct_1"
	if st := begin(t, h, other); st.Epoch >= last {
		t.Fatalf("another account's first epoch is %d, after %d of this one", st.Epoch, last)
	}
}

// lostTimeline: a database that is put back to an earlier state gives epochs that it
// never gave before, so that no worker of the time that is lost passes the fence, which
// compares for equality.
func lostTimeline(t *testing.T, h *Harness) {
	l, c := newLedger("", "cus_A"), newCredits("", "cus_A")
	l.add("eur", -500)
	c.grant("eur", 1000)
	l.sync(t, h)
	c.sync(t, h)
	kept := []int64{begin(t, h, l.target()).Epoch, begin(t, h, c.target()).Epoch}
	var lost []int64 // epochs of workers that are stalled
	var oldBalance []mirror.BalanceSnapshot
	var oldCredits []mirror.CreditsSnapshot
	for range 10 {
		oldBalance = append(oldBalance, l.whole(begin(t, h, l.target())))
		oldCredits = append(oldCredits, c.snapshot(begin(t, h, c.target()), 10))
		lost = append(lost, oldBalance[len(oldBalance)-1].Epoch, oldCredits[len(oldCredits)-1].Epoch)
	}
	noErr(t, h.Exec(t.Context(), fmt.Sprintf(`UPDATE sync_state SET epoch = %d WHERE scope = 'balance'`, kept[0])))
	noErr(t, h.Exec(t.Context(), fmt.Sprintf(`UPDATE sync_state SET epoch = %d WHERE scope = 'credits'`, kept[1])))
	for range 20 {
		for _, target := range []mirror.Target{l.target(), c.target()} {
			if st := begin(t, h, target); slices.Contains(lost, st.Epoch) {
				t.Fatalf("epoch %d is given a second time", st.Epoch)
			}
		}
		for i := range oldBalance {
			if _, err := h.ApplyBalance(t.Context(), oldBalance[i]); !errors.Is(err, mirror.ErrFenced) {
				t.Fatalf("a worker of the lost time committed: %v, want ErrFenced", err)
			}
			if _, err := h.ApplyCredits(t.Context(), oldCredits[i]); !errors.Is(err, mirror.ErrFenced) {
				t.Fatalf("a worker of the lost time committed: %v, want ErrFenced", err)
			}
		}
	}
}

func olderEpochWritesNothing(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -500)
	old := l.whole(begin(t, h, l.target()))
	l.add("eur", -100)
	l.sync(t, h)
	before := h.changes(t)
	if _, err := h.ApplyBalance(t.Context(), old); !errors.Is(err, mirror.ErrFenced) {
		t.Fatalf("the old epoch's commit: %v, want ErrFenced", err)
	}
	got, err := h.Customer(t.Context(), "", "cus_A")
	if err != nil || got.Balance != -600 {
		t.Fatalf("balance %d, %v, want -600", got.Balance, err)
	}
	if after := h.changes(t); after != before {
		t.Fatalf("%d change records, want %d", after, before)
	}
}

// tombstoneFencesOther: a sync of the other ledger that read the customer before its
// deletion writes nothing over the tombstone, whichever ledger's sync found it first.
// The work is left to the next sync.
func tombstoneFencesOther(t *testing.T, h *Harness) {
	for _, held := range []string{"cus_Held", "cus_New"} {
		for _, first := range []mirror.Scope{mirror.ScopeCredits, mirror.ScopeBalance} {
			id := held + string(first)
			l, c := newLedger("", id), newCredits("", id)
			l.add("eur", -100)
			c.grant("eur", 1000)
			if held == "cus_Held" {
				l.sync(t, h)
				c.sync(t, h)
			}
			living, grants := l.whole(begin(t, h, l.target())), c.snapshot(begin(t, h, c.target()), 10)
			apply := map[mirror.Scope]func() (mirror.Applied, error){
				mirror.ScopeBalance: func() (mirror.Applied, error) { return h.ApplyBalance(t.Context(), living) },
				mirror.ScopeCredits: func() (mirror.Applied, error) { return h.ApplyCredits(t.Context(), grants) },
			}
			target, other := l.target(), c.target()
			if first == mirror.ScopeCredits {
				target, other = other, target
			}
			stone, _ := bury(t, h, target)
			before := h.changes(t)
			if _, err := apply[other.Scope](); !errors.Is(err, mirror.ErrFenced) {
				t.Errorf("%s: the sync of %s after the tombstone: %v, want ErrFenced", id, other, err)
			}
			v, err := h.Customer(t.Context(), "", id)
			if held == "cus_Held" && (err != nil || !v.Deleted) || held == "cus_New" && !errors.Is(err, mirror.ErrNotFound) {
				t.Errorf("%s: the customer after both: %+v, %v", id, v, err)
			}
			if after := h.changes(t); after != before {
				t.Errorf("%s: %d change records after both, want %d", id, after, before)
			}
			if under, err := h.Store.(mirror.UnderWay).SyncUnderWay(t.Context(), other, time.Hour); err != nil || under {
				t.Errorf("%s: the fenced sync counts as under way: %v, %v", id, under, err)
			}
			again := begin(t, h, other)
			if _, err := h.ApplyTombstone(t.Context(), stone); err != nil {
				t.Errorf("%s: the same tombstone once more: %v", id, err)
			}
			if _, err := h.ApplyTombstone(t.Context(), mirror.Tombstone{Target: other, Epoch: again.Epoch, ObservedAt: stone.ObservedAt}); err != nil {
				t.Errorf("%s: the sync of %s done again: %v", id, other, err)
			}
		}
	}
}

func applyTwice(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -500)
	snap := l.whole(begin(t, h, l.target()))
	for i, want := range []bool{true, false} {
		if got := applyBalance(t, h, snap); got.Changed() != want {
			t.Fatalf("apply %d: %+v, want changed=%v", i, got, want)
		}
		if n := h.changes(t); n != 3 && n != -1 { // customer, balance, row
			t.Fatalf("apply %d: %d change records, want 3", i, n)
		}
	}
}
