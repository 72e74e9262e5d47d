package mirror

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(second int64) time.Time { return time.Unix(1_700_000_000+second, 0).UTC() }

func link(id string, amount, ending, second int64) Link {
	return Link{ID: id, Amount: amount, EndingBalance: ending, Created: at(second)}
}

func ids(links []Link) []string {
	var out []string
	for _, l := range links {
		out = append(out, l.ID)
	}
	return out
}

func TestOrderChain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		start int64
		links []Link
		want  []string
		end   int64
	}{
		{"empty", -5, nil, nil, -5},
		{"by time", 0, []Link{link("b", -2, -3, 2), link("a", -1, -1, 1)}, []string{"a", "b"}, -3},
		{"one second, wrong order", 0, []Link{link("c", 5, 0, 1), link("b", -3, -5, 1), link("a", -2, -2, 1)}, []string{"a", "b", "c"}, 0},
		{"one second, several orders close: the given one stays", 0, []Link{link("a", -1, -1, 1), link("b", 1, 0, 1), link("c", -1, -1, 1)}, []string{"a", "b", "c"}, -1},
		{"a circuit in the middle", 0, []Link{
			link("x", -1, -1, 1), link("back", 2, -1, 1), link("away", -2, -3, 1), link("y", -4, -5, 1),
		}, []string{"x", "away", "back", "y"}, -5},
		{"zero amounts", 7, []Link{link("a", 0, 7, 1), link("b", 1, 8, 1), link("c", 0, 8, 1)}, []string{"a", "b", "c"}, 8},
		{"from a known balance", -100, []Link{link("a", 30, -70, 1)}, []string{"a"}, -70},
		{"the largest amounts", 0, []Link{link("b", -1<<63, -1, 2), link("a", 1<<63-1, 1<<63-1, 1)}, []string{"a", "b"}, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, end, err := OrderChain(tt.links, tt.start)
			if err != nil || end != tt.end || !slices.Equal(ids(got), tt.want) {
				t.Fatalf("order %v end %d err %v, want %v end %d", ids(got), end, err, tt.want, tt.end)
			}
		})
	}
}

func TestOrderChainNamesTheBreak(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		links      []Link
		id, after  string
		have, want int64
	}{
		{"a row is missing", []Link{link("a", -1, -1, 1), link("c", -1, -3, 3)}, "c", "a", -1, -2},
		{"the first row is missing", []Link{link("b", -1, -3, 1)}, "b", "", 0, -2},
		{"within a second", []Link{link("a", -1, -1, 1), link("b", -1, -5, 1)}, "b", "a", -1, -4},
		// The balance would be 2^63, and 64 bits would make -2^63 of it.
		{"around the end of integers", []Link{link("a", math.MaxInt64, math.MaxInt64, 1), link("b", 1, math.MinInt64, 2)}, "b", "a", math.MaxInt64, math.MinInt64},
		{"around it within a second", []Link{link("b", 1, math.MinInt64, 1), link("a", math.MaxInt64, math.MaxInt64, 1)}, "b", "a", math.MaxInt64, math.MinInt64},
		{"around the other end", []Link{link("a", math.MinInt64, math.MinInt64, 1), link("b", -1, math.MaxInt64, 2)}, "b", "a", math.MinInt64, math.MaxInt64},
		{"of the least amount", []Link{link("a", math.MinInt64, 0, 1)}, "a", "", 0, math.MaxInt64},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := OrderChain(tt.links, 0)
			broken, ok := errors.AsType[*BrokenChainError](err)
			if !ok || broken.ID != tt.id || broken.After != tt.after || broken.Have != tt.have || broken.Want != tt.want {
				t.Fatalf("got %+v", err)
			}
			// Only the balance before a row of integers' ends is beyond 64 bits.
			if beyond := strings.Contains(err.Error(), "64 bits"); beyond != broken.Beyond || beyond != (tt.want == math.MinInt64 || tt.want == math.MaxInt64) {
				t.Fatalf("%v", err)
			}
		})
	}
}

// Every shuffle of a true history closes again, and taking one row out of it is
// noticed unless the rest closes by itself.
func TestOrderChainOfAnyHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		balance, second := int64(0), int64(0)
		var history []Link
		for i := range rapid.IntRange(1, 40).Draw(rt, "rows") {
			second += rapid.Int64Range(0, 1).Draw(rt, "gap")
			amount := rapid.Int64Range(-3, 3).Draw(rt, "amount")
			balance += amount
			history = append(history, link(string(rune('A'+i)), amount, balance, second))
		}
		shuffled := slices.Clone(history)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		got, end, err := OrderChain(shuffled, 0)
		if err != nil || end != balance || len(got) != len(history) || !closes(got, 0) {
			rt.Fatalf("end %d err %v, want %d: %v", end, err, balance, got)
		}
		out := rapid.IntRange(0, len(history)-1).Draw(rt, "missing")
		missing := slices.Delete(slices.Clone(shuffled), out, out+1)
		if amount := shuffled[out].Amount; amount != 0 {
			if _, end, err := OrderChain(missing, 0); err == nil && end == balance {
				rt.Fatalf("a missing row of %d was not noticed", amount)
			}
		}
	})
}

func FuzzOrderChain(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6})
	f.Fuzz(func(t *testing.T, data []byte) {
		var links []Link
		for i := 0; i+2 < len(data) && i < 300; i += 3 {
			links = append(links, link(string(rune(i)), int64(int8(data[i])), int64(int8(data[i+1])), int64(data[i+2]%4)))
		}
		got, end, err := OrderChain(links, 0)
		if len(got) != len(links) {
			t.Fatalf("%d of %d links came back", len(got), len(links))
		}
		if err == nil && !closes(got, 0) {
			t.Fatal("an order that does not close was called closed")
		}
		if err == nil && len(got) > 0 && got[len(got)-1].EndingBalance != end {
			t.Fatal("wrong end")
		}
	})
}
