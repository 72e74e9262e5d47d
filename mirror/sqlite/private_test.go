package sqlite_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// The mirror's files are for their owner alone from their first byte on, whatever the
// mask of the process.
func TestFilesArePrivate(t *testing.T) {
	old := syscall.Umask(0) // not parallel: it is the process'
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "mirror.db")
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(path + suffix); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", suffix, info.Mode(), err)
		}
	}
	if list := sqlite.Loose(path); len(list) != 0 {
		t.Errorf("loose: %v", list)
	}
	for _, mode := range []fs.FileMode{0o640, 0o602, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if list := sqlite.Loose(path); len(list) != 1 || list[0] != path {
			t.Errorf("%v: loose %v", mode, list)
		}
	}
}

func TestALinkThatLeadsNowhereIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "mirror.db")
	if err := os.Symlink(filepath.Join(dir, "none"), path); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), path, sqlite.Options{}); err == nil || !strings.Contains(err.Error(), "dangling link") {
		t.Errorf("%v", err)
	}
}
