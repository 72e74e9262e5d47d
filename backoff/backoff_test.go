package backoff

import (
	"context"
	"errors"
	"testing"
	"testing/cryptotest"
	"time"
)

func TestNStaysWithinItsBoundsAndReachesBothHalves(t *testing.T) {
	t.Parallel()
	low, high := 0, 0
	for range 1000 {
		switch d := N(time.Second); {
		case d < 0 || d >= time.Second:
			t.Fatalf("N(1s) = %v", d)
		case d < time.Second/2:
			low++
		default:
			high++
		}
	}
	if low < 300 || high < 300 {
		t.Errorf("%d draws below half a second, %d above", low, high)
	}
	for _, n := range []time.Duration{0, -1, 1} {
		if d := N(n); d != 0 {
			t.Errorf("N(%d) = %d, want 0", n, d)
		}
	}
}

// I17: the simulation relies on it.
func TestNFollowsTheSeedOfCryptoRand(t *testing.T) {
	draw := func(t *testing.T, seed uint64) (out [4]time.Duration) {
		cryptotest.SetGlobalRandom(t, seed)
		for i := range out {
			out[i] = N(time.Hour)
		}
		return out
	}
	first, again, other := draw(t, 1), draw(t, 1), draw(t, 2)
	if first != again {
		t.Errorf("the same seed drew %v and then %v", first, again)
	}
	if first == other {
		t.Errorf("two seeds drew the same: %v", first)
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	if err := Sleep(ctx, time.Nanosecond); err != nil {
		t.Errorf("a sleep of a nanosecond: %v", err)
	}
	cancel()
	if err := Sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
	if err := Sleep(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("no time at all after the context's end: %v", err)
	}
}

func TestJitterDoublesUpToItsLimit(t *testing.T) {
	t.Parallel()
	for attempt, top := range map[int]time.Duration{0: time.Second, 1: 2 * time.Second, 2: 4 * time.Second, 3: 5 * time.Second, 1000: 5 * time.Second} {
		longest := time.Duration(0)
		for range 200 {
			d := Jitter(time.Second, 5*time.Second, attempt)
			if d < time.Second || d >= time.Second+top {
				t.Fatalf("attempt %d: %v", attempt, d)
			}
			longest = max(longest, d)
		}
		if longest < time.Second+top/2 {
			t.Errorf("attempt %d: of 200 pauses none is over %v", attempt, longest)
		}
	}
}

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "86400": 24 * time.Hour, "-1": 0, "1.5": 0, "soon": 0, "99999999999999999999": 0,
		"Mon, 30 Nov 2026 12:00:05 GMT": 5 * time.Second, "Mon, 30 Nov 2026 11:59:59 GMT": 0, "2026-11-30T12:00:05Z": 0,
	} {
		if got := RetryAfter(value, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}
