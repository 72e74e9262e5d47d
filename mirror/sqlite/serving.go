package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// servingSuffix names the file beside the mirror whose lock says that a serve works on it.
const servingSuffix = "-serve"

const (
	makeServing  = `CREATE TABLE IF NOT EXISTS serving (one INTEGER PRIMARY KEY CHECK (one = 1), owner TEXT NOT NULL)`
	writeServing = `INSERT INTO serving (one, owner) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET owner = excluded.owner`
	readServing  = `SELECT owner FROM serving`
)

// Claim makes the caller the one serve that works on the file, until release or the end
// of the process, however it ends. owner describes the first to another, which
// gets mirror.ErrServed.
//
// The lock is a write transaction, which never ends, of a small database beside the
// mirror: locks on files die with their process, and whoever is refused can still read
// the name of the owner.
func (s *Store) Claim(ctx context.Context, owner string) (release func() error, err error) {
	path := s.path + servingSuffix
	if err := create(path); err != nil {
		return nil, fmt.Errorf("claim %s: %w", s.path, err)
	}
	db, err := sql.Open("sqlite", dsn(path, "busy_timeout(0)", "journal_mode(DELETE)"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(explain(path, err), db.Close())
	}
	if err := claim(ctx, conn, owner); err != nil {
		return nil, fmt.Errorf("claim %s: %w", s.path, errors.Join(explain(path, err), conn.Close(), db.Close()))
	}
	return func() error {
		_, err := conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
		return errors.Join(err, conn.Close(), db.Close())
	}, nil
}

const (
	// claimAttempts is how often the lock is asked for: one that asks holds it for a
	// moment to write its name.
	claimAttempts = 20
	claimPause    = 50 * time.Millisecond
)

// claim writes owner and then keeps the lock, if nobody came in between.
func claim(ctx context.Context, conn *sql.Conn, owner string) error {
	for attempt := 1; ; attempt++ {
		held, err := tryClaim(ctx, conn, owner)
		if err == nil && held {
			return nil
		}
		if err != nil && !busy(err) {
			return err
		}
		if attempt < claimAttempts {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(claimPause):
			}
			continue
		}
		var first string
		if err := conn.QueryRowContext(ctx, readServing).Scan(&first); err != nil {
			first = "its name cannot be read: " + err.Error()
		}
		return fmt.Errorf("%w (%s): stop that one first, or give this one a database of its own; several processes can share a PostgreSQL", mirror.ErrServed, first)
	}
}

// tryClaim begins the transaction, and ends it only to make the owner's name known.
func tryClaim(ctx context.Context, conn *sql.Conn, owner string) (held bool, err error) {
	exec := func(query string, args ...any) error {
		_, err := conn.ExecContext(ctx, query, args...)
		return err
	}
	if err := exec(`BEGIN IMMEDIATE`); err != nil {
		return false, err
	}
	keep := false
	defer func() {
		if !keep {
			_, rollback := conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
			err = errors.Join(err, rollback)
		}
	}()
	if err := exec(makeServing); err != nil {
		return false, err
	}
	var name string
	if err := conn.QueryRowContext(ctx, readServing).Scan(&name); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	if name == owner { // written by the turn before
		keep = true
		return true, nil
	}
	if err := exec(writeServing, owner); err != nil {
		return false, err
	}
	if err := exec(`COMMIT`); err != nil {
		return false, err
	}
	keep = true
	return false, nil
}
