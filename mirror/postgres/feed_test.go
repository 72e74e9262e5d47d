package postgres

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

// settledChanges is how a reader of the change feed asks: what a transaction
// that still runs may yet precede is left for the next time.
const settledChanges = `SELECT c.xact::text, c.seq FROM creditmirror.changes AS c
WHERE (c.xact, c.seq) > ($1::text::xid8, $2) AND c.xact < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY c.xact, c.seq`

// TestFeedReadersMissNothing: sequence numbers are drawn before the commit, so
// a row with a lower one can appear after a row with a higher one was read. A
// reader that asks as above and goes on after the last row misses none.
func TestFeedReadersMissNothing(t *testing.T) {
	t.Parallel()
	url := newMirror(t)
	s, sql := openStore(t, url), openSQL(t, url)
	var writing atomic.Int64
	var wg sync.WaitGroup
	for w := range 6 {
		writing.Add(1)
		wg.Go(func() {
			defer writing.Add(-1)
			a := &account{customer: fmt.Sprintf("cus_%d", w)}
			for range 60 {
				a.add(-1)
				if _, err := a.sync(context.Background(), s, 5); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	last, lastSeq, read := "0", int64(0), int64(0)
	readOn := func() {
		t.Helper()
		rows, err := sql.pool.Query(t.Context(), settledChanges, last, lastSeq)
		if err != nil {
			t.Fatal(err)
		}
		_, err = pgx.ForEachRow(rows, []any{&last, &lastSeq}, func() error {
			read++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for writing.Load() > 0 {
		readOn()
	}
	wg.Wait()
	total := sql.number(t, `SELECT count(*) FROM changes`)
	waitFor(t, func() bool { // a transaction of any database on the server holds the bound back
		readOn()
		return read >= total
	})
	if read != total {
		t.Errorf("the reader saw %d changes, there are %d", read, total)
	}
}

// TestFeedLeavesOutWhatMayBePreceded makes the dangerous order by hand.
func TestFeedLeavesOutWhatMayBePreceded(t *testing.T) {
	t.Parallel()
	url := newMirror(t)
	s, sql := openStore(t, url), openSQL(t, url)
	slow, err := sql.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Rollback(context.Background())
	if _, err := slow.Exec(t.Context(), `INSERT INTO changes (account, table_name, customer, id, op) VALUES ('', 'customers', 'cus_slow', 'cus_slow', 'insert')`); err != nil {
		t.Fatal(err)
	}
	a := &account{customer: "cus_fast"}
	a.add(-1)
	a.mustSync(t, s, 1)
	settled := `SELECT count(*) FROM changes WHERE xact < pg_snapshot_xmin(pg_current_snapshot())`
	if n := sql.number(t, settled); n != 0 {
		t.Fatalf("%d changes are shown while an older one may still appear", n)
	}
	if err := slow.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return sql.number(t, settled) == 4 })
}
