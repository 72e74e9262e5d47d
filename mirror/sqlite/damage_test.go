package sqlite_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// filled makes a file of some megabytes and closes it.
func filled(t *testing.T) string {
	t.Helper()
	path := filepath.Join(memoryDir(t), "mirror.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	statements(t, path, fmt.Sprintf(`INSERT INTO dead_letters (account, id, customer, scope, reason, attempts, event_ids, first_failed_at, last_failed_at, synced_at)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
SELECT '', 'dead_' || i, 'cus_' || i, 'balance', '%s', 1, '[]', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z' FROM n`, strings.Repeat("x", 2000)))
	return path
}

// spoil overwrites part of a file, from a share of its length on.
func spoil(t *testing.T, path string, from, to float64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0) // of the test
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	first, last := int64(from*float64(info.Size())), int64(to*float64(info.Size()))
	if _, err := f.WriteAt([]byte(strings.Repeat("\xa5", int(last-first))), first); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// The check of a file finds damage wherever it is, says so of a good one, and ends in
// its time with a large one.
func TestCheckFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(path string)
		broken bool
	}{
		"good":         {func(string) {}, false},
		"in the midst": {func(path string) { spoil(t, path, 0.5, 0.6) }, true},
		"at the end":   {func(path string) { spoil(t, path, 0.95, 1) }, true},
		"cut short": {func(path string) {
			info, err := os.Stat(path)
			if err == nil {
				err = os.Truncate(path, info.Size()/2/4096*4096)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filled(t)
			c.damage(path)
			s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			if err != nil {
				if !c.broken || !errors.Is(err, mirror.ErrDamaged) {
					t.Fatal(err)
				}
				return
			}
			defer s.Close()
			whole, err := s.CheckFile(t.Context(), time.Minute)
			if c.broken != errors.Is(err, mirror.ErrDamaged) || c.broken == whole {
				t.Errorf("whole %t, error %v, want damage found: %t", whole, err, c.broken)
			}
			if c.broken && (!strings.Contains(err.Error(), path) || s.Ping(t.Context()) == nil) {
				t.Errorf("%v, want the path; and a ping that fails", err)
			}
			if !c.broken {
				if whole, err := s.CheckFile(t.Context(), time.Nanosecond); whole || err != nil {
					t.Errorf("without time: whole %t, %v", whole, err)
				}
				if err := s.Ping(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Damage that is met in use is reported once, by a channel, and the file is not good again
// because the next access misses the damaged pages.
func TestDamageIsRemembered(t *testing.T) {
	t.Parallel()
	path := filled(t)
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(t.Context()); err != nil || s.BrokenBy() != nil {
		t.Fatal(err, s.BrokenBy())
	}
	spoil(t, path, 0.4, 1)
	if _, err := s.DeadLetters(t.Context(), "", 1_000_000); !errors.Is(err, mirror.ErrDamaged) {
		t.Fatalf("reading all: %v, want ErrDamaged", err)
	}
	select {
	case <-s.Broken():
	default:
		t.Error("nobody is told")
	}
	if err := s.Ping(t.Context()); !errors.Is(err, mirror.ErrDamaged) {
		t.Errorf("ping: %v, want ErrDamaged", err)
	}
}
