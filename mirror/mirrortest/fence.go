package mirrortest

import (
	"errors"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func fenceCases() []testCase {
	return []testCase{
		{"I4_EpochStrictlyIncreases", epochIncreases},
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
	if first.Epoch != 1 || first.HistoryComplete || first.CustomerHeld || !first.ObservedAt.IsZero() {
		t.Fatalf("the first state is %+v", first)
	}
	if second := begin(t, h, l.target()); second.Epoch != 2 {
		t.Fatalf("the second epoch is %d, want 2", second.Epoch)
	}
	other := l.target()
	other.Scope = mirror.ScopeCredits
	if st := begin(t, h, other); st.Epoch != 1 {
		t.Fatalf("another scope's first epoch is %d, want 1", st.Epoch)
	}
	other.Account = "acct_1"
	if st := begin(t, h, other); st.Epoch != 1 {
		t.Fatalf("another account's first epoch is %d, want 1", st.Epoch)
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
