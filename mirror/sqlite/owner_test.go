package sqlite_test

import (
	"crypto/sha256"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// statements runs each on the file, with a connection of another program.
func statements(t *testing.T, path string, list ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range list {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// folder is every file of a folder with a digest of what it holds.
func folder(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[filepath.Base(path)] = sha256.Sum256(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A file that is another program's is refused and left as it was, to the byte, whatever
// journal it uses, and nobody is advised to migrate it.
func TestForeignFileIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	for name, list := range map[string][]string{
		"other tables":             {`CREATE TABLE users (id INTEGER PRIMARY KEY)`, `INSERT INTO users VALUES (1)`},
		"a table of our name":      {`CREATE TABLE customers (id TEXT PRIMARY KEY)`},
		"a write-ahead log":        {`PRAGMA journal_mode = WAL`, `CREATE TABLE users (id INTEGER PRIMARY KEY)`},
		"a log that nobody copied": {`PRAGMA journal_mode = WAL`, `CREATE TABLE users (id INTEGER PRIMARY KEY)`},
		"its own goose": {
			`CREATE TABLE goose_db_version (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER, is_applied INTEGER, tstamp TIMESTAMP DEFAULT (datetime('now')))`,
			`INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, 1), (3, 1)`, `CREATE TABLE users (id INTEGER)`,
		},
		"a view only":       {`CREATE VIEW v AS SELECT 1`},
		"an application id": {`PRAGMA application_id = 252006674`}, // of Fossil, say
		"its user version":  {`CREATE TABLE users (id INTEGER PRIMARY KEY)`, `PRAGMA user_version = 77`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "other.db")
			statements(t, path, list...)
			if name == "a log that nobody copied" {
				copyAway(t, path)
			}
			before := folder(t, dir)
			s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			if err == nil {
				t.Fatal("it opens", s.Close())
			}
			if !errors.Is(err, mirror.ErrForeign) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "migrate") {
				t.Errorf("%v, want ErrForeign with the path and no advice to migrate", err)
			}
			after := folder(t, dir)
			if len(after) != len(before) {
				t.Errorf("files: %d, were %d: %v", len(after), len(before), after)
			}
			for file, sum := range before {
				// -shm is memory that all who have the file open share, not what it holds.
				if after[file] != sum && !strings.HasSuffix(file, "-shm") {
					t.Errorf("%s was changed", file)
				}
			}
		})
	}
}

// copyAway makes the file one whose program was killed: with a table in its log alone.
func copyAway(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE late (id INTEGER)`); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		b, err := os.ReadFile(path + suffix) // of the test
		if err != nil {
			t.Fatal(err)
		}
		// SQLite has the old files open: under their names lie copies from now on.
		if err := errors.Join(os.Remove(path+suffix), os.WriteFile(path+suffix, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// What earlier versions made has no mark yet: it opens, and gets one. So does a file of
// which nothing but goose's empty table was made before the process was killed.
func TestFilesOfEarlierVersionsAreMarked(t *testing.T) {
	t.Parallel()
	id := func(path string) (n int) {
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.QueryRowContext(t.Context(), `PRAGMA application_id`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	path := filepath.Join(memoryDir(t), "mirror.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	mark := id(path)
	if mark == 0 {
		t.Fatal("a new file has no mark")
	}
	half := filepath.Join(memoryDir(t), "half.db")
	statements(t, half, `CREATE TABLE goose_db_version (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL, is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT (datetime('now')))`,
		`INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, 1)`)
	statements(t, path, `PRAGMA application_id = 0`, `CREATE TABLE notes (mine TEXT)`)
	for _, file := range []string{path, half} {
		if err := open(t, file).Close(); err != nil {
			t.Fatal(err)
		}
		if got := id(file); got != mark {
			t.Errorf("%s: the mark is %d, want %d", filepath.Base(file), got, mark)
		}
	}
}
