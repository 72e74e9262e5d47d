package worker

import (
	"testing"
	"time"
)

// An old event whose customer was read long after it says nothing of freshness; one
// that nobody had read for does.
func TestReplayedEventIsNoFreshness(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name            string
		created, before time.Duration // from t0
		want            bool
	}{
		{"old, read since", -240 * time.Hour, -time.Hour, true},
		{"old, not read since", -240 * time.Hour, -250 * time.Hour, false},
		{"old, never read", -240 * time.Hour, -1e6 * time.Hour, false},
		{"old, read within clocks' difference", -2 * time.Hour, -2*time.Hour + 3*time.Second, false},
		{"of now", -time.Minute, -time.Second, false},
	} {
		if got := replayed(t0.Add(c.created), t0.Add(c.before), t0); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if replayed(t0.Add(-240*time.Hour), time.Time{}, t0) {
		t.Error("a customer that was never read")
	}
}
