package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

func TestStore(t *testing.T) {
	mirrortest.Run(t, openHarness)
}

// openHarness opens a store over a file of its own.
func openHarness(t *testing.T) mirror.Store {
	path := filepath.Join(memoryDir(t), "mirror.db")
	s := open(t, path)
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &mirrortest.Harness{
		Store: s,
		Query: func(ctx context.Context, query string) ([][]string, error) { return queryText(ctx, db, query) },
		Exec: func(ctx context.Context, query string) error {
			_, err := db.ExecContext(ctx, query)
			return err
		},
		Again: func(t *testing.T) mirror.Store { return open(t, path) },
	}
}

// memoryDir is a folder in memory where there is one: the suite commits many
// thousand times, and what a disk's fsync costs says nothing about the store.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "creditmirror")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// open opens and migrates a store, and closes it when the test ends.
func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// queryText reads all values as text, NULL as the empty string.
func queryText(ctx context.Context, db *sql.DB, query string) ([][]string, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var out [][]string
	for rows.Next() {
		values := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		line := make([]string, len(values))
		for i, v := range values {
			if v != nil {
				line[i] = fmt.Sprint(v)
			}
		}
		out = append(out, line)
	}
	return out, rows.Err()
}
