package mirrortest

import (
	"errors"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

func fenceCases() []testCase {
	return []testCase{
		{"I4_EpochStrictlyIncreases", epochIncreases},
		{"I6_OlderEpochWritesNothing", olderEpochWritesNothing},
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
