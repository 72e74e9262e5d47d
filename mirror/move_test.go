package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// memory is a Mover that keeps rows in memory, and may spoil one on its way in.
type memory struct {
	rows  map[string][][]any
	spoil func(t Table, values []any)
}

func (m *memory) Dump(_ context.Context, row Rows) error {
	for _, t := range Tables() {
		for _, values := range m.rows[t.Name] {
			if err := row(t, values); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) Load(ctx context.Context, fill func(put Rows) error, check func(dump func(Rows) error) error) error {
	if m.rows != nil {
		return ErrNotEmpty
	}
	m.rows = map[string][][]any{}
	err := fill(func(t Table, values []any) error {
		values = append([]any(nil), values...)
		if m.spoil != nil {
			m.spoil(t, values)
		}
		m.rows[t.Name] = append(m.rows[t.Name], values)
		return nil
	})
	if err == nil {
		err = check(func(row Rows) error { return m.Dump(ctx, row) })
	}
	if err != nil {
		m.rows = nil // rolled back
	}
	return err
}

func sample(rows int) *memory {
	m := &memory{rows: map[string][][]any{}}
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, t := range Tables() {
		if t.Name == leasesTable {
			m.rows[t.Name] = [][]any{{"", "reconcile", "host/1/x", now.Add(-time.Second), now}}
			continue
		}
		for n := range rows {
			values := make([]any, len(t.Columns))
			for i, c := range t.Columns {
				switch c.Kind {
				case KindInt:
					values[i] = int64(n)
				case KindBool:
					values[i] = n%2 == 0
				case KindTime:
					values[i] = now.Add(time.Duration(n) * time.Microsecond)
				case KindJSON:
					values[i] = fmt.Sprintf(`{"n": %d, "a": [1, 2.50]}`, n)
				case KindBytes:
					values[i] = []byte{byte(n)}
				default:
					values[i] = fmt.Sprint(c.Name, n)
				}
				if n == 3 && i >= t.Key && c.Kind != KindBool {
					values[i] = nil
				}
			}
			m.rows[t.Name] = append(m.rows[t.Name], values)
		}
	}
	return m
}

// Whatever single value is changed on the way, in whatever table, is noticed and
// nothing is kept.
func TestMoveNoticesEveryChange(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	if moved, err := Move(t.Context(), sample(5), &memory{}, at, nil); err != nil || len(moved) != len(Tables())-7 || moved[0].Rows != 5 {
		t.Fatal(moved, err)
	}
	for _, table := range Tables() {
		for i, c := range table.Columns {
			if stays(table.Name) {
				continue
			}
			n := 0
			to := &memory{spoil: func(t Table, values []any) {
				if t.Name != table.Name {
					return
				}
				if n++; n != 4 { // one whose optional values are NULL
					return
				}
				if values[i] == nil {
					values[i] = ""
					return
				}
				values[i] = nil
			}}
			if _, err := Move(t.Context(), sample(5), to, at, nil); err == nil || to.rows != nil {
				t.Errorf("%s.%s: a changed value went through", table.Name, c.Name)
			}
		}
	}
	// A row too few.
	to := &memory{}
	lossy := &lossyLoad{to}
	if _, err := Move(t.Context(), sample(5), lossy, at, nil); err == nil {
		t.Error("a lost row went through")
	}
}

type lossyLoad struct{ *memory }

func (l *lossyLoad) Load(ctx context.Context, fill func(put Rows) error, check func(dump func(Rows) error) error) error {
	n := 0
	return l.memory.Load(ctx, func(put Rows) error {
		return fill(func(t Table, values []any) error {
			if n++; n == 7 {
				return nil
			}
			return put(t, values)
		})
	}, check)
}

func TestMoveRefuses(t *testing.T) {
	t.Parallel()
	from := sample(1)
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	if _, err := Move(t.Context(), from, sample(1), at, nil); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("into one that holds something: %v", err)
	}
	if _, err := Move(t.Context(), from, &memory{}, at.Add(-time.Minute), nil); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "host/1/x") {
		t.Errorf("out of one in use: %v", err)
	}
}

// What the two databases write differently is the same.
func TestPortableJSON(t *testing.T) {
	t.Parallel()
	for _, same := range [][]string{
		{`{"a":1,"b":[2]}`, `{ "b": [2], "a": 1 }`},
		{`{"a":1.50}`, `{"a": 1.5}`},
		{`{"a":100}`, `{"a":1.0e2}`},
		{"{\"a\":\"x\\u0000y\"}", `{"a":"xy"}`},
		{`{"a":"\u00e9"}`, `{"a":"é"}`},
	} {
		first := string(portableJSON(same[0]))
		for _, other := range same[1:] {
			if got := string(portableJSON(other)); got != first {
				t.Errorf("%s is %s, %s is %s", same[0], first, other, got)
			}
		}
	}
	for _, other := range [][2]string{{`{"a":1}`, `{"a":2}`}, {`{"a":12345678901234567890}`, `{"a":12345678901234567891}`}, {`{"a":null}`, `{}`}} {
		if string(portableJSON(other[0])) == string(portableJSON(other[1])) {
			t.Errorf("%v are the same", other)
		}
	}
}
