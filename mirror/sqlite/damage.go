package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// damage is what is known of a damaged file.
type damage struct {
	once  sync.Once
	err   error // behind found
	found chan struct{}
}

func newDamage() *damage { return &damage{found: make(chan struct{})} }

func (d *damage) note(err error) {
	d.once.Do(func() {
		d.err = err
		close(d.found)
	})
}

// Broken is closed when an access has shown that the file is damaged.
func (s *Store) Broken() <-chan struct{} { return s.damage.found }

// BrokenBy is the error that showed it, which is mirror.ErrDamaged; nil as long as the
// file is good as far as it was read.
func (s *Store) BrokenBy() error {
	select {
	case <-s.damage.found:
		return s.damage.err
	default:
		return nil
	}
}

// CheckFile looks for damage in the whole file, for as long as limit allows: whole reports
// whether that was enough. Damage is mirror.ErrDamaged.
func (s *Store) CheckFile(ctx context.Context, limit time.Duration) (whole bool, err error) {
	db, err := sql.Open("sqlite", dsn(s.path, "busy_timeout(5000)", "query_only(1)"))
	if err != nil {
		return false, err
	}
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var answer string
	err = db.QueryRowContext(bounded, `PRAGMA quick_check(1)`).Scan(&answer)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case bounded.Err() != nil && err != nil:
		return false, nil // it is larger than that
	case err != nil:
		return false, fmt.Errorf("check the file: %w", s.explain(err))
	case answer != "ok":
		err = fmt.Errorf("%s: %w: %s", s.path, mirror.ErrDamaged, answer)
		s.damage.note(err)
		return false, err
	}
	return true, nil
}

// Readable reports whether anything can still be read from a damaged file: with its
// schema gone, nothing can.
func (s *Store) Readable(ctx context.Context) error {
	db, err := sql.Open("sqlite", dsn(s.path, "busy_timeout(5000)", "query_only(1)"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer func() { _ = db.Close() }() //nolint:errcheck // it only read
	var n int
	return s.explain(db.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM customers LIMIT 1)`).Scan(&n))
}
