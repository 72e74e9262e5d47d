package sqlite

import (
	"errors"
	"fmt"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/creditmirror/creditmirror/mirror"
)

// code is the primary result code of an SQLite error, 0 for any other error.
func code(err error) int {
	if e, ok := errors.AsType[*driver.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// busy reports whether another connection holds the lock.
func busy(err error) bool {
	c := code(err)
	return c == sqlite3.SQLITE_BUSY || c == sqlite3.SQLITE_LOCKED
}

// explain is the function of that name; it remembers the first error that names a
// damaged file.
func (s *Store) explain(err error) error {
	damaged := code(err) == sqlite3.SQLITE_CORRUPT || code(err) == sqlite3.SQLITE_NOTADB // it was one when it was opened
	err = explain(s.path, err)
	if damaged {
		if !errors.Is(err, mirror.ErrDamaged) {
			err = fmt.Errorf("%s: %w: %w", s.path, mirror.ErrDamaged, err)
		}
		s.damage.note(err)
	}
	return err
}

// explain adds the file's name and what to do about it to errors that SQLite
// words for its own developers.
func explain(path string, err error) error {
	var advice string
	switch code(err) {
	case sqlite3.SQLITE_NOTADB:
		advice = "the file is not an SQLite database: choose another path, or move the file away"
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		advice = "the file can not be opened: check the permissions of file and folder"
	case sqlite3.SQLITE_READONLY:
		advice = "the file or its folder is not writable: check the permissions and the mount"
	case sqlite3.SQLITE_FULL:
		advice = "the disk is full: make room"
	case sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%s: %w: %w", path, mirror.ErrDamaged, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		advice = "another process holds the write lock for too long"
	case sqlite3.SQLITE_IOERR:
		advice = "the disk reports an error"
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE:
		return fmt.Errorf("%w: %w", mirror.ErrUnstorable, err)
	default:
		return err
	}
	return fmt.Errorf("%s: %s: %w", path, advice, err)
}
