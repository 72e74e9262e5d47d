package report

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"
)

// longReader is a customer of many rows in both ledgers. It counts those that are read.
type longReader struct {
	Reader
	states []Sync
	rows   int
	read   int
}

func (r *longReader) SyncState(context.Context, Key) ([]Sync, error) { return r.states, nil }

func (r *longReader) Standings(context.Context, Ledger, Filter) iter.Seq2[Standing, error] {
	return func(func(Standing, error) bool) {}
}

func (r *longReader) Grants(context.Context, Filter, time.Time) iter.Seq2[Grant, error] {
	return func(yield func(Grant, error) bool) {
		yield(Grant{ID: "credgr_1", Currency: "usd", Amount: int64(r.rows)}, nil)
	}
}

func (r *longReader) Rows(_ context.Context, q RowQuery) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for n := range r.rows {
			r.read++
			row := Row{ID: "cbtxn", Currency: "usd", Amount: 1, EndingBalance: int64(n) + 1, Position: int64(n) + 1}
			if q.Ledger == LedgerCredits {
				row.Grant = "credgr_1"
			}
			if !yield(row, nil) {
				return
			}
		}
	}
}

// fullWriter takes so many writes.
type fullWriter struct{ left int }

var errFull = errors.New("full")

func (w *fullWriter) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// An explanation that nobody takes any more reads no further: a page that shows the
// beginning of a long history is as fast as its beginning.
func TestExplainEndsWithItsWriter(t *testing.T) {
	const rows = 100_000
	r := &longReader{rows: rows, states: []Sync{{Ledger: LedgerBalance, Told: map[string]int64{"usd": rows}}, {Ledger: LedgerCredits, Told: map[string]int64{"usd": rows}}}}
	if _, err := Explain(t.Context(), r, Key{Customer: "cus_1"}, &fullWriter{left: 100}, false); !errors.Is(err, errFull) {
		t.Errorf("%v", err)
	}
	if r.read > 100 {
		t.Errorf("%d rows were read for 100 writes", r.read)
	}
	// Refused at once, nothing is read.
	r.read = 0
	if _, err := Explain(t.Context(), r, Key{Customer: "cus_1"}, &fullWriter{}, false); !errors.Is(err, errFull) || r.read > 0 {
		t.Errorf("%v, after %d rows", err, r.read)
	}
	// One that is taken to its end has both ledgers, and every link holds.
	r.read = 0
	w := &fullWriter{left: 100 * rows}
	if wrong, err := Explain(t.Context(), r, Key{Customer: "cus_1"}, w, false); err != nil || wrong != 0 || r.read != 2*rows {
		t.Errorf("%d wrong, %v, %d rows read", wrong, err, r.read)
	}
	// Links that are not taken end the rows of a grant too.
	links := 0
	if _, err := Links(t.Context(), r, Key{Customer: "cus_1"}, func(l Link) error {
		if links++; l.Ledger == LedgerCredits && l.Kind == LinkRow {
			return errFull
		}
		return nil
	}); !errors.Is(err, errFull) || links != rows+5 {
		t.Errorf("%v after %d links", err, links)
	}
}
