package chance

import (
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
