package mirrortest

import (
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// underWay: a sync is under way from its beginning to its commit, for as long as it is
// young.
func underWay(t *testing.T, h *Harness) {
	u, ok := h.Store.(mirror.UnderWay)
	if !ok {
		t.Fatalf("%T cannot tell what is under way", h.Store)
	}
	l := newLedger("", "cus_A")
	l.add("usd", -100)
	target := l.target()
	is := func(want bool, within time.Duration, when string) {
		t.Helper()
		if got, err := u.SyncUnderWay(t.Context(), target, within); err != nil || got != want {
			t.Errorf("%s: under way %v, %v, want %v", when, got, err, want)
		}
	}
	is(false, time.Hour, "never begun")
	l.sync(t, h)
	is(false, time.Hour, "committed")
	begin(t, h, target)
	is(true, time.Hour, "begun")
	is(false, 0, "too old")
	other := target
	other.Scope = mirror.ScopeCredits
	if got, err := u.SyncUnderWay(t.Context(), other, time.Hour); err != nil || got {
		t.Errorf("the other ledger: %v, %v", got, err)
	}
	l.sync(t, h) // overtakes it
	is(false, time.Hour, "overtaken and committed")
}
