package patience

import (
	"testing"
	"time"
)

func TestOf(t *testing.T) {
	t.Parallel()
	for times, want := range map[string]time.Duration{
		"": time.Minute, "1": time.Minute, "3": 3 * time.Minute, "1.5": 90 * time.Second, "0": time.Minute, "-2": time.Minute, "x": time.Minute, "1e9": time.Minute,
	} {
		if got := of(times, time.Minute); got != want {
			t.Errorf("%q: %s, want %s", times, got, want)
		}
	}
}
