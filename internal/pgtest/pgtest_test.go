//go:build unix

package pgtest_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func TestDatabasesAreSeparate(t *testing.T) {
	t.Parallel()
	for range 2 {
		conn := connect(t, pgtest.NewDatabase(t))
		if _, err := conn.Exec(t.Context(), `CREATE TABLE one (n int)`); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDataOutlivesKillAndStop(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t)
	url := s.NewDatabase(t)
	if _, err := connect(t, url).Exec(t.Context(), `CREATE TABLE t AS SELECT 1 AS n`); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){s.Kill, s.Stop, s.Stop} { // ending twice is fine
		end()
		if _, err := pgx.Connect(t.Context(), url); err == nil {
			t.Fatal("the server answers after its end")
		}
	}
	s.Restart(t)
	var n int
	if err := connect(t, url).QueryRow(t.Context(), `SELECT n FROM t`).Scan(&n); err != nil || n != 1 {
		t.Fatalf("n = %d, %v", n, err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}
