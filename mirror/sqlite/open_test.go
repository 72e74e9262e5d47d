package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

func TestOpenTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, want string }{
		{"", "path of the SQLite file is empty"},
		{filepath.Join(dir, "missing", "mirror.db"), "does not exist: create it"},
		{dir, "it is a folder"},
		{filepath.Join(text, "mirror.db"), "not a folder"},
		{text, "not an SQLite database"},
	} {
		s, err := sqlite.Open(t.Context(), c.path, sqlite.Options{})
		if err == nil {
			s.Close()
			t.Fatalf("%s opens", c.path)
		}
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: %q, want it to name the path and %q", c.path, err, c.want)
		}
	}
}

func TestOpenReadOnlyFile(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("nothing is read-only to root")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "mirror.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(path, 0o400), os.Chmod(dir, 0o500)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o700) })
	if _, err := sqlite.Open(t.Context(), path, sqlite.Options{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("%v, want an error that names the path", err)
	}
}

func TestPathWithOddCharacters(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a b?c=d%20é#.db")
	open(t, path)
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
}

func TestSchemaVersions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(memoryDir(t), "mirror.db")
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.CheckSchema(t.Context()); !errors.Is(err, mirror.ErrSchema) || !strings.Contains(err.Error(), "creditmirror migrate") {
		t.Fatalf("an empty file: %v, want ErrSchema and what to run", err)
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckSchema(t.Context()); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	for name, check := range map[string]func(context.Context) error{"CheckSchema": s.CheckSchema, "Migrate": s.Migrate} {
		if err := check(t.Context()); !errors.Is(err, mirror.ErrSchema) || !strings.Contains(err.Error(), "newer creditmirror") {
			t.Fatalf("%s of a newer schema: %v, want ErrSchema", name, err)
		}
	}
}

// TestF40MigrateAtOnce: many stores over one new file migrate at the same time.
func TestF40MigrateAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(memoryDir(t), "mirror.db")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := errors.Join(s.Migrate(t.Context()), s.CheckSchema(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestF21ForeignLock: while another process holds the write lock, reads work and
// a write ends with its context instead of hanging.
func TestF21ForeignLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(memoryDir(t), "mirror.db")
	s := open(t, path)
	db, err := sql.Open("sqlite", path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("ping: %v, want the deadline", err)
	}
	if _, err := s.Totals(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestClosedStore(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(memoryDir(t), "mirror.db"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err == nil {
		t.Fatal("a closed store answers")
	}
	if _, err := s.Customer(t.Context(), "", "cus_A"); err == nil || errors.Is(err, mirror.ErrNotFound) {
		t.Fatalf("a closed store reads: %v", err)
	}
}
