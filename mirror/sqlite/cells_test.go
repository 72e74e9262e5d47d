package sqlite

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
)

func TestCells(t *testing.T) {
	t.Parallel()
	c := cells{rest: `["a",null,-7,"","{\"k\":\"\\\\\"}","\u0000\n\ud83d\ude42",1,0,2,"2026-03-01T12:00:00.000000Z","2026-03-01","]"]`}
	texts := []string{c.text(), c.text(), strconv.FormatInt(c.number(), 10), c.text(), c.text(), c.text(), c.truth(), c.truth(), c.truth(), c.time(), c.time(), c.text()}
	want := []string{"a", "", "-7", "", `{"k":"\\"}`, "\x00\n🙂", "true", "false", "2", "2026-03-01T12:00:00.000000Z", "no time: 2026-03-01", "]"}
	if fmt.Sprint(texts) != fmt.Sprint(want) || c.err != nil {
		t.Errorf("%q, %v, want %q", texts, c.err, want)
	}
	for _, rest := range []string{"", "[", "[]", `["a`, `["\`, `["a\"]`, "[x", `["\u00zz"]`} {
		c := cells{rest: rest}
		if text := c.text(); text != "" || c.err == nil && rest != "[]" {
			t.Errorf("%q: %q, %v", rest, text, c.err)
		}
	}
	if c := (cells{rest: "[1.5]"}); c.number() != 0 || c.err == nil {
		t.Errorf("a fraction is no error")
	}
}

// What is read from an array is what was written to it.
func FuzzCells(f *testing.F) {
	f.Add("cbtxn_1", `{"a":"\\\"b"}`, int64(-5))
	f.Add("", "\x00\x1f\u2028<é🙂", int64(0))
	f.Fuzz(func(t *testing.T, a, b string, n int64) {
		raw, err := json.Marshal([]any{a, nil, n, b})
		if err != nil {
			t.Fatal(err)
		}
		var values []any
		if err := json.Unmarshal(raw, &values); err != nil {
			t.Fatal(err)
		}
		c := cells{rest: string(raw)}
		if gotA, none, gotN, gotB := c.text(), c.text(), c.number(), c.text(); gotA != values[0] || none != "" || gotN != n || gotB != values[3] || c.err != nil || c.rest != "]" {
			t.Fatalf("%s: %q, %q, %d, %q, %v", raw, gotA, none, gotN, gotB, c.err)
		}
		torn := cells{rest: string(raw[:len(raw)/2])} // ends, and does not panic
		for range 5 {
			torn.text()
		}
	})
}
