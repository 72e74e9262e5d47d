// Package sqlite keeps the mirror in one SQLite file, with a driver in pure Go.
//
// Writes go one after the other over a single connection; reads go over a pool
// of connections, each call on one snapshot, and never wait for a write. Other
// processes may work on the same file at the same time.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	// The driver registers itself as "sqlite".
	_ "modernc.org/sqlite"

	"github.com/creditmirror/creditmirror/mirror"
)

// Options tune a store.
type Options struct {
	// Readers is how many reads run at once. Defaults to twice the processors, at
	// least 4.
	Readers int
	// Now is the clock of the database. Defaults to time.Now.
	Now func() time.Time
	// Slice is how many rows of a long history one transaction places. Defaults to
	// mirror.DefaultSlice.
	Slice int
}

// Store is a mirror.Store over one SQLite file.
type Store struct {
	path    string
	now     func() time.Time
	slice   int
	w       *writer
	copier  *checkpointer
	readers *sql.DB
	stmts   *sync.Map // SQL → *sql.Stmt over readers
	damage  *damage
	// pinned is the transaction of a Snapshot; else nil.
	pinned *reading
}

var _ mirror.Store = (*Store)(nil)

// Open opens the file at path and creates it when there is none; the folder
// must exist. Migrate brings an empty file to its schema. A file that holds
// another program's tables is mirror.ErrForeign and is left as it is.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	if o.Readers <= 0 {
		o.Readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Slice <= 0 {
		o.Slice = mirror.DefaultSlice
	}
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := checkOwner(ctx, path); err != nil {
		return nil, explain(path, err)
	}
	s := &Store{path: path, now: o.Now, slice: o.Slice, w: newWriter(path, o.Now), stmts: &sync.Map{}, damage: newDamage()}
	// The writer goes first: it creates the file and turns the write-ahead log on.
	if err := s.w.open(ctx); err != nil {
		return nil, errors.Join(explain(path, err), s.w.close())
	}
	s.readers, err = sql.Open("sqlite", dsn(path,
		"busy_timeout(5000)", "query_only(1)", "cache_size(-8000)", "temp_store(memory)"))
	if err != nil {
		return nil, errors.Join(explain(path, err), s.w.close())
	}
	s.readers.SetMaxOpenConns(o.Readers)
	s.readers.SetMaxIdleConns(o.Readers)
	if err := s.readers.PingContext(ctx); err != nil {
		return nil, errors.Join(explain(path, err), s.Close())
	}
	if s.copier, err = startCheckpoints(path, s.w); err != nil {
		return nil, errors.Join(explain(path, err), s.Close())
	}
	return s, nil
}

// Ping writes, because a file on a full or broken disk can still be read.
//
// A file that was found damaged stays so, whichever page a Ping would meet.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.BrokenBy(); err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	err := s.w.do(ctx, durable, func(tx *tx) error { return tx.exec(touchHeader) })
	if err == nil {
		err = s.readers.PingContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("ping the database: %w", s.explain(err))
	}
	return nil
}

// touchHeader writes the first page of the file and changes nothing.
const touchHeader = `PRAGMA user_version = 0`

// Close waits for the write in progress and closes all connections.
func (s *Store) Close() error {
	var err error
	if s.copier != nil {
		err = s.copier.stop()
	}
	return errors.Join(err, s.readers.Close(), s.w.close())
}

// checkPath finds out what SQLite would only call "unable to open".
func checkPath(path string) (string, error) {
	if path == "" {
		return "", errors.New("the path of the SQLite file is empty: set one such as creditmirror.db")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("path of the SQLite file: %w", err)
	}
	folder := filepath.Dir(abs)
	switch info, err := os.Stat(folder); {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("open %s: the folder %s does not exist: create it or choose another path", path, folder)
	case err != nil:
		return "", fmt.Errorf("open %s: %w", path, err)
	case !info.IsDir():
		return "", fmt.Errorf("open %s: %s is not a folder: choose another path", path, folder)
	}
	if info, err := os.Stat(abs); err == nil && info.IsDir() {
		return "", fmt.Errorf("open %s: it is a folder: give the path of a file", path)
	}
	return abs, nil
}

// dsn names the file to the driver, with pragmas that every connection runs.
func dsn(path string, pragmas ...string) string {
	q := url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: q.Encode()}).String()
}
