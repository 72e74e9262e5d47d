package mirrortest

import (
	"errors"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// leasedSweep: the progress that a paused leader saves does not overwrite that of its
// successor.
func leasedSweep(t *testing.T, h *Harness) {
	const name = "reconcile"
	save := func(owner string, found int64) error {
		ctx := mirror.WithLease(t.Context(), mirror.Lease{Name: name, Owner: owner})
		return h.SaveSweep(ctx, mirror.Sweep{Name: "balances", StartedAt: epoch0, LastFound: found})
	}
	acquire := func(owner string) {
		t.Helper()
		held, err := h.AcquireLease(t.Context(), name, owner, time.Hour)
		noErr(t, err)
		if !held {
			t.Fatalf("%s did not get the lease", owner)
		}
	}
	found := func(want int64) {
		t.Helper()
		w, err := h.Sweep(t.Context(), "", "balances")
		noErr(t, err)
		if w.LastFound != want {
			t.Errorf("found %d, want %d", w.LastFound, want)
		}
	}
	if err := save("first", 1); !errors.Is(err, mirror.ErrFenced) {
		t.Errorf("without the lease: %v, want ErrFenced", err)
	}
	acquire("first")
	noErr(t, save("first", 2))
	noErr(t, save("first", 3))
	found(3)
	noErr(t, h.ReleaseLease(t.Context(), name, "first")) // as when it has run out
	acquire("second")
	noErr(t, save("second", 4))
	if err := save("first", 5); !errors.Is(err, mirror.ErrFenced) {
		t.Errorf("the first owner after the second took over: %v, want ErrFenced", err)
	}
	found(4)
	noErr(t, h.SaveSweep(t.Context(), mirror.Sweep{Name: "balances", LastFound: 6})) // a command, which needs no lease
	found(6)
}
