package sqlite

import (
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func TestTimesOfTheFeedAreRead(t *testing.T) {
	for _, text := range []string{
		"2026-01-31T23:59:59.999999Z", "2024-02-29T00:00:00.000000Z", "1969-12-31T23:59:59.000001Z", "2026-02-29T00:00:00.000000Z",
		"2026-13-01T00:00:00.000000Z", "2026-01-00T00:00:00.000000Z", "2026-01-01T24:00:00.000000Z", "2026-01-01 00:00:00.000000Z", "", "x",
	} {
		want, wantErr := time.Parse(timeFormat, text)
		got, err := parseMicros([]byte(text))
		if (err == nil) != (wantErr == nil) || err == nil && got != want.UnixMicro() {
			t.Errorf("%q: %d, %v; want %d, %v", text, got, err, want.UnixMicro(), wantErr)
		}
	}
}

// Rows of the feed come out of SQLite as an array.
func TestRowsOfTheFeedAreRead(t *testing.T) {
	c := rowCells{rest: []byte(`["a","q\"\\\né\u0000",null,"",-9223372036854775808,1,"2026-01-02T03:04:05.000006Z"]`)}
	for i, want := range []struct {
		kind mirror.Kind
		v    mirror.Value
	}{
		{mirror.KindText, mirror.Value{Text: []byte("a")}},
		{mirror.KindText, mirror.Value{Text: []byte("q\"\\\né\x00")}},
		{mirror.KindText, mirror.Value{Null: true}},
		{mirror.KindText, mirror.Value{Text: []byte{}}},
		{mirror.KindInt, mirror.Value{Int: -9223372036854775808}},
		{mirror.KindBool, mirror.Value{Int: 1}},
		{mirror.KindTime, mirror.Value{Int: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC).UnixMicro()}},
	} {
		got, err := c.value(want.kind)
		if err != nil || string(got.Text) != string(want.v.Text) || got.Int != want.v.Int || got.Null != want.v.Null {
			t.Errorf("value %d: %+v, %v; want %+v", i, got, err, want.v)
		}
	}
	for _, text := range []string{"", "[", `["open`, "[1", "[1x]"} {
		c := rowCells{rest: []byte(text)}
		if v, err := c.value(mirror.KindInt); err == nil {
			t.Errorf("%q was read as %+v", text, v)
		}
	}
}
