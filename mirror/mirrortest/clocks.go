package mirrortest

import (
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// clocks: nothing is reported as read in the future, whatever clock a process
// has, and what a clock ahead wrote before does not stay.
func clocks(t *testing.T, h *Harness) {
	c, ok := h.Store.(mirror.Clock)
	if !ok {
		t.Fatalf("%T does not tell its time", h.Store)
	}
	now := func() time.Time {
		t.Helper()
		at, err := c.DatabaseTime(t.Context())
		noErr(t, err)
		return at
	}
	l := newLedger("", "cus_A")
	l.add("usd", -100)
	observed := func() time.Time {
		t.Helper()
		at, err := h.ObservedAt(t.Context(), []mirror.Target{l.target()})
		noErr(t, err)
		return at[0]
	}
	began := now()
	snap := l.whole(begin(t, h, l.target()))
	snap.ObservedAt = began.Add(90 * time.Second)
	applyBalance(t, h, snap)
	if at := observed(); at.Before(began.Truncate(time.Microsecond)) || at.After(now()) {
		t.Errorf("a worker 90 s ahead: observed %v after the sync began, %v ago", at.Sub(began), now().Sub(at))
	}

	// As the last version wrote it.
	ahead := now().Add(time.Hour).UTC()
	for _, table := range []string{"creditmirror.sync_state", "sync_state"} {
		if h.Exec == nil {
			t.Skip("this driver's test offers no SQL")
		}
		if h.Exec(t.Context(), "UPDATE "+table+" SET observed_at = '"+ahead.Format("2006-01-02T15:04:05.000000Z")+"'") == nil {
			break
		}
	}
	if at := observed(); !at.After(now().Add(time.Minute)) {
		t.Fatalf("observed %v: the test has changed nothing", at)
	}
	began = now()
	snap = l.whole(begin(t, h, l.target()))
	snap.ObservedAt = began
	applyBalance(t, h, snap)
	if at := observed(); !at.Equal(began.Truncate(time.Microsecond)) {
		t.Errorf("observed %v after the next sync, want %v", at, began)
	}
	// It does not go back otherwise.
	snap = l.whole(begin(t, h, l.target()))
	snap.ObservedAt = began.Add(-time.Minute)
	applyBalance(t, h, snap)
	if at := observed(); !at.Equal(began.Truncate(time.Microsecond)) {
		t.Errorf("observed %v after a clock behind, want %v", at, began)
	}
}
