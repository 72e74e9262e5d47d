package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

// follower reads the change feed of the platform's own account as callers do.
type follower struct {
	s    *Store
	last string
	read []mirror.Change
}

// on reads what is new, in pages of the limit.
func (f *follower) on(t testing.TB, limit int) {
	t.Helper()
	for {
		page, err := f.s.Changes(t.Context(), "", f.last, limit)
		if err != nil {
			t.Fatal(err)
		}
		f.read = append(f.read, page...)
		if len(page) == 0 {
			return
		}
		f.last = page[len(page)-1].Cursor
	}
}

func (f *follower) customers() []string {
	var list []string
	for _, c := range f.read {
		list = append(list, c.Customer)
	}
	return list
}

// TestFeedReadersMissNothing: sequence numbers are drawn before the commit, so
// a row with a lower one can appear after a row with a higher one was read. A
// reader that goes on after the last record misses none and sees none twice.
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
	f := follower{s: s}
	for writing.Load() > 0 {
		f.on(t, 1+len(f.read)%7)
	}
	wg.Wait()
	total := sql.number(t, `SELECT count(*) FROM changes WHERE table_name <> 'drift_findings'`)
	waitFor(t, func() bool { // a transaction of any database on the server holds the bound back
		f.on(t, 100)
		return int64(len(f.read)) >= total
	})
	cursors := map[string]bool{}
	for _, c := range f.read {
		cursors[c.Cursor] = true
	}
	if int64(len(f.read)) != total || int64(len(cursors)) != total {
		t.Errorf("the reader saw %d changes, %d of them different, there are %d", len(f.read), len(cursors), total)
	}
}

// TestFeedLeavesOutWhatMayBePreceded makes the dangerous order by hand: a row
// with a lower sequence number that is committed later.
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
	f := follower{s: s}
	if f.on(t, 100); len(f.read) != 0 {
		t.Fatalf("%+v are shown while an older one may still appear", f.read)
	}
	if err := slow.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { f.on(t, 1); return len(f.read) == 4 })
	if f.read[0].Customer != "cus_slow" || f.read[3].Customer != "cus_fast" {
		t.Errorf("%v", f.customers())
	}
}

// TestFeedAfterARestore: a backup brings the transaction numbers of the server
// that it was made on. Where the new server counts lower, its rows would come
// before those that readers have seen, and the old ones not for years.
func TestFeedAfterARestore(t *testing.T) {
	t.Parallel()
	url := newMirror(t)
	s, sql := openStore(t, url), openSQL(t, url)
	sql.exec(t, `INSERT INTO changes (account, table_name, customer, id, op, xact)
		SELECT account, 'customers', 'cus_old' || n, 'cus_old' || n, 'insert', (pg_current_xact_id()::text::bigint + 1000000 * n)::text::xid8
		FROM unnest(ARRAY['', 'acct_1']) AS account, generate_series(1, 3) AS n`)
	for _, cursor := range []string{"18446744073709551615.1", "999999999.3"} {
		if _, err := s.Changes(t.Context(), "", cursor, 10); !errors.Is(err, mirror.ErrNotFound) {
			t.Errorf("a cursor of another server: %v, want ErrNotFound", err)
		}
	}
	migrate(t, s) // as every start does
	f := follower{s: s}
	waitFor(t, func() bool { f.on(t, 100); return len(f.read) == 3 })
	a := &account{customer: "cus_new"}
	a.add(-1)
	a.mustSync(t, s, 1)
	waitFor(t, func() bool { f.on(t, 100); return len(f.read) == 6 })
	if want := []string{"cus_old1", "cus_old2", "cus_old3", "cus_new", "cus_new", "cus_new"}; !slices.Equal(f.customers(), want) {
		t.Errorf("%v, want %v", f.customers(), want)
	}
	before := sql.number(t, `SELECT sum(xact::text::bigint) FROM changes`)
	migrate(t, s)
	if after := sql.number(t, `SELECT sum(xact::text::bigint) FROM changes`); after != before {
		t.Error("an ordinary start moved records of the feed")
	}
}
