// Package sqlitetest opens throwaway mirrors on SQLite for tests. Nothing the
// product links imports it.
package sqlitetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// template is a migrated file without rows, made once: a schema takes longer than
// most tests.
var template = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "creditmirror")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "mirror.db")
	s, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.Migrate(context.Background()), s.Close()); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// Open opens an empty mirror over a file of its own, in memory where there is a
// file system for that, and closes it when the test ends. path names the file.
func Open(t testing.TB) (s *sqlite.Store, path string) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "creditmirror")
	if err != nil {
		dir = t.TempDir()
	}
	path = filepath.Join(dir, "mirror.db")
	empty, err := template()
	if err == nil {
		err = os.WriteFile(path, empty, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s, err = sqlite.Open(t.Context(), path, sqlite.Options{Readers: 2}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return s, path
}
