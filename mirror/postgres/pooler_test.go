package postgres

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
)

// Behind PgBouncer in transaction mode, where every transaction may run on another
// connection, the store is what it is without, with a URL that says nothing of it. make
// test-pooler runs the whole suite; without it runs what goes every way that statements
// take: single ones, batches, transactions of two round trips, snapshots, streams.
func TestStoreBehindPgBouncer(t *testing.T) {
	t.Parallel()
	bouncer := pgtest.StartBouncer(t, newMirror(t), "transaction", 3)
	only := []string{"Fence", "Inbox", "Progress", "Writes"}
	if os.Getenv("CREDITMIRROR_POOLER") != "" {
		only = nil
	}
	mirrortest.Run(t, func(t *testing.T) mirror.Store {
		direct := newMirror(t)
		return harnessAt(t, bouncer.URL(direct), direct)
	}, only...)
}

// Replicas migrate at once through the pooler, and afterwards the connections that other
// programs get from it have neither settings nor locks of ours.
func TestPgBouncersConnectionsAreLeftAsTheyWere(t *testing.T) {
	t.Parallel()
	direct := pgtest.NewDatabase(t)
	bouncer := pgtest.StartBouncer(t, direct, "transaction", 4)
	var wg sync.WaitGroup
	for range 2 { // each needs two connections at a time
		s := openStore(t, bouncer.URL(direct))
		wg.Go(func() {
			migrate(t, s)
			a := &account{customer: "cus_A"}
			a.add(-1)
			for range 20 {
				if err := s.Ping(t.Context()); err != nil {
					t.Error(err)
				}
				if _, err := s.Totals(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	config, err := pgxpool.ParseConfig(bouncer.URL(direct) + "&default_query_exec_mode=cache_describe")
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 4
	other, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var held []*pgxpool.Conn
	for range 4 { // all of the pooler's connections, each held by a transaction
		conn, err := other.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
		if _, err := conn.Exec(t.Context(), `BEGIN`); err != nil {
			t.Fatal(err)
		}
		for _, setting := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
			var value string
			if err := conn.QueryRow(t.Context(), `SELECT current_setting($1)`, setting).Scan(&value); err != nil {
				t.Fatal(err)
			}
			if value != "0" {
				t.Errorf("another program finds %s = %s", setting, value)
			}
		}
		var prepared int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_prepared_statements WHERE name <> ''`).Scan(&prepared); err != nil {
			t.Fatal(err)
		}
		if prepared > 0 {
			t.Errorf("another program finds %d prepared statements", prepared)
		}
	}
	for _, conn := range held {
		if _, err := conn.Exec(t.Context(), `ROLLBACK`); err != nil {
			t.Fatal(err)
		}
		conn.Release()
	}
	if n := openSQL(t, direct).number(t, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`); n != 0 {
		t.Errorf("%d locks were left behind", n)
	}
}

// A transaction behind the pooler has the limits that connections have elsewhere.
func TestLimitsBehindPgBouncer(t *testing.T) {
	t.Parallel()
	direct := newMirror(t)
	bouncer := pgtest.StartBouncer(t, direct, "transaction", 2)
	for _, url := range []string{direct, bouncer.URL(direct), direct + "&default_query_exec_mode=cache_describe"} {
		s := openStore(t, url)
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := url != direct; s.pooler.found() != want {
			t.Errorf("a pooler is found: %t, want %t", s.pooler.found(), want)
		}
		var limit string
		if err := s.once(t.Context(), func(b *pgx.Batch) {
			b.Queue(`SELECT current_setting('lock_timeout')`).QueryRow(func(row pgx.Row) error { return row.Scan(&limit) })
		}); err != nil {
			t.Fatal(err)
		}
		if limit != "5s" {
			t.Errorf("lock_timeout is %s", limit)
		}
	}
}

// Modes of the driver that lose values or mix statements are refused before anything is
// stored, with what to set.
func TestModesThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"exec", "simple_protocol", "describe_exec"} {
		s, err := Open(t.Context(), "postgres://me:Canary@db/x?default_query_exec_mode="+mode, Options{})
		if err == nil {
			s.Close()
			t.Fatalf("%s opens", mode)
		}
		if !strings.Contains(err.Error(), "cache_describe") || strings.Contains(err.Error(), "Canary") {
			t.Errorf("%s: %v", mode, err)
		}
	}
}
