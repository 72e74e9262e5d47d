package mirror

import (
	"math"
	"testing"
)

// Sums of rows that pass the end of 64 bits stay there: they do not come out as an amount
// that a grant or a summary may have.
func TestSumsStayAtTheEnds(t *testing.T) {
	const most, least = math.MaxInt64, math.MinInt64
	for _, tt := range []struct{ a, b, want int64 }{
		{most, 1, most}, {most, most, most}, {most, -1, most - 1}, {least, -1, least}, {least, least, least}, {least, most, -1}, {-1, 1, 0}, {least, 1, least + 1},
	} {
		if got := plus(tt.a, tt.b); got != tt.want {
			t.Errorf("%d and %d: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
	if minus(least) != most || minus(most) != -most || minus(-7) != 7 {
		t.Error("minus turns a sign around wrongly")
	}
}
