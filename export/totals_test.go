package export

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// sparing is a mirror whose tables cannot be added up: an increment of a large mirror
// must not do so.
type sparing struct{ store }

type sparingReader struct{ mirror.FeedReader }

var errAddedUp = errors.New("a whole table was added up")

func (sparingReader) TableTotals(context.Context, mirror.Table, string) (mirror.TableTotals, error) {
	return mirror.TableTotals{}, errAddedUp
}

func (s sparing) ReadFeed(ctx context.Context, fn func(mirror.FeedReader) error) error {
	return s.store.ReadFeed(ctx, func(r mirror.FeedReader) error { return fn(sparingReader{r}) })
}

// The totals of an increment follow from those of its parent, whatever happened in
// between: rows that came, changed and went, customers that changed their currency, the
// feed pruned behind the copy.
func TestTotalsFollowFromTheParents(t *testing.T) {
	eachStoreByHand(t, func(t *testing.T, s store, exec func(string)) {
		dir := t.TempDir()
		h := newHistory(t, s, 17)
		e := newExporter(t, sparing{s}, dir, Options{})
		for round := range 12 {
			for range h.random.IntN(4) {
				h.step()
			}
			h.rowsThatGo(exec)
			switch round {
			case 3:
				exec("UPDATE {}.customers SET currency = NULL, balance = 9223372036854775807 WHERE id = 'cus_000'")
				exec("INSERT INTO {}.changes (account, table_name, customer, id, op, changed_at, synced_at) VALUES ('', 'customers', 'cus_000', 'cus_000', 'update', " + longAgo + ", " + longAgo + ")")
			case 4:
				exec("UPDATE {}.customers SET currency = 'usd', balance = -4611686018427387904 WHERE id = 'cus_000'")
				exec("INSERT INTO {}.changes (account, table_name, customer, id, op, changed_at, synced_at) VALUES ('', 'customers', 'cus_000', 'cus_000', 'update', " + longAgo + ", " + longAgo + ")")
			case 5:
				exec("UPDATE {}.customers SET balance = 5 WHERE id = 'cus_000'")
				exec("INSERT INTO {}.changes (account, table_name, customer, id, op, changed_at, synced_at) VALUES ('', 'customers', 'cus_000', 'cus_000', 'update', " + longAgo + ", " + longAgo + ")")
			case 7, 9:
				if _, _, err := s.PruneFeed(t.Context(), time.Hour, 1000); err != nil {
					t.Fatal(err)
				}
			}
			r, err := e.Run(t.Context())
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if round > 0 && r.Manifest != nil && r.Manifest.Kind != KindIncremental {
				t.Fatalf("round %d: %s", round, r.Why)
			}
			v, err := Verify(t.Context(), e.location, s, nil)
			if err != nil || len(v.Differences) > 0 || v.Mirror != "compared" {
				t.Fatalf("round %d: %+v, %v", round, v, err)
			}
			// What is changed after the export is taken off again.
			if round == 6 {
				for range 3 {
					h.step()
				}
				h.rowsThatGo(exec)
				v, err := Verify(t.Context(), e.location, s, nil)
				if err != nil || len(v.Differences) > 0 || v.Mirror != "compared" {
					t.Fatalf("with changes since: %+v, %v", v, err)
				}
			}
		}
	})
}
