package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

const (
	beginWrite    = `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`
	beginSnapshot = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`
	commit        = `COMMIT`
	rollback      = `ROLLBACK`
)

// limitIdle ends a writing transaction whose process hangs in the middle of it, or
// is cut off: another one must be able to write the target within the 12 s that a
// dead worker may cost, of which its lease takes ten. Between the two round trips
// there is nothing but the plan.
const limitIdle = `SET LOCAL idle_in_transaction_session_timeout = '8s'`

const (
	// unitAttempts bounds how often a unit is tried that lost a deadlock, a
	// serialization conflict or a wait for a lock. Each wait for a lock is bounded
	// in turn by lock_timeout.
	unitAttempts = 5
	// unitPause is the first pause between attempts; it doubles, with full jitter.
	unitPause = 20 * time.Millisecond
	// rollbackTimeout bounds the clean-up after a failure; beyond it the connection
	// is dropped, which ends the transaction too.
	rollbackTimeout = 2 * time.Second
)

// retryable reports whether the whole unit may be tried again: the server has
// rolled it back, or nothing of it was ever sent.
func retryable(err error) bool {
	switch sqlState(err) {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock timeout
		return true
	}
	return pgconn.SafeToRetry(err)
}

// retry runs a unit until it succeeds, fails for good, or has failed too often.
func retry(ctx context.Context, unit func() error) error {
	pause := unitPause
	for attempt := 1; ; attempt++ {
		err := unit()
		if err == nil || attempt == unitAttempts || !retryable(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(pause) + time.Millisecond): // #nosec G404 -- a pause, no secret
			pause *= 2
		}
	}
}

// once runs statements as one transaction in one round trip: what is sent in
// one batch without BEGIN is atomic. The callbacks in b must not refuse
// anything, since by then the server has committed.
func (s *Store) once(ctx context.Context, fill func(b *pgx.Batch)) error {
	return s.batch(ctx, func(b *pgx.Batch) {
		if s.pinned == nil {
			s.limitLocally(b)
		}
		fill(b)
	})
}

// batch runs statements in one round trip, and again while it loses against others.
func (s *Store) batch(ctx context.Context, fill func(b *pgx.Batch)) error {
	return retry(ctx, func() error {
		b := &pgx.Batch{}
		fill(b)
		return s.db().SendBatch(ctx, b).Close()
	})
}

// snapshot runs reads that all see one state of the database, in one round trip.
func (s *Store) snapshot(ctx context.Context, fill func(b *pgx.Batch)) error {
	if s.pinned != nil {
		return s.batch(ctx, fill)
	}
	return s.batch(ctx, func(b *pgx.Batch) {
		b.Queue(beginSnapshot)
		s.limitLocally(b)
		fill(b)
		b.Queue(commit)
	})
}

// Snapshot runs fn on one state of the database. Unlike snapshot it takes a
// round trip per read, and holds a connection meanwhile.
func (s *Store) Snapshot(ctx context.Context, fn func(mirror.Reader) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin a snapshot: %w", err)
	}
	defer conn.Release() // drops a connection whose transaction is still open
	if _, err := conn.Exec(ctx, beginSnapshot); err != nil {
		return fmt.Errorf("begin a snapshot: %w", err)
	}
	defer endTransaction(ctx, conn.Conn())
	limits := &pgx.Batch{}
	if s.limitLocally(limits); limits.Len() > 0 {
		if err := conn.SendBatch(ctx, limits).Close(); err != nil {
			return fmt.Errorf("begin a snapshot: %w", err)
		}
	}
	pinned := *s
	pinned.pinned = conn.Conn()
	return fn(&pinned)
}

// transact runs one writing transaction in two round trips. read queues the
// first statements, whose callbacks may refuse with an error; write then queues
// the rest, and may refuse too. After a refusal nothing is written. The whole
// unit runs again when it lost against another one, so both functions must
// start from nothing each time.
func (s *Store) transact(ctx context.Context, read func(b *pgx.Batch), write func(b *pgx.Batch) error) error {
	return s.transactTo(ctx, commit, read, write)
}

// transactTo is transact with how the transaction ends: commit or rollback.
func (s *Store) transactTo(ctx context.Context, end string, read func(b *pgx.Batch), write func(b *pgx.Batch) error) error {
	return retry(ctx, func() error {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release() // drops a connection whose transaction is still open
		limited := func(b *pgx.Batch) { s.limitLocally(b); b.Queue(limitIdle); read(b) }
		if err := transactOn(ctx, conn.Conn(), end, limited, write); err != nil {
			endTransaction(ctx, conn.Conn())
			return err
		}
		return nil
	})
}

func transactOn(ctx context.Context, conn *pgx.Conn, end string, read func(b *pgx.Batch), write func(b *pgx.Batch) error) error {
	first := &pgx.Batch{}
	first.Queue(beginWrite)
	read(first)
	if err := conn.SendBatch(ctx, first).Close(); err != nil {
		return err
	}
	failpoint.Hit("store.fence")
	second := &pgx.Batch{}
	if err := write(second); err != nil {
		return err
	}
	second.Queue(end).Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != end { // the server's answer to COMMIT after an error is ROLLBACK
			return fmt.Errorf("the transaction ended with %s", tag)
		}
		return nil
	})
	failpoint.Hit("store.written")
	err := conn.SendBatch(ctx, second).Close()
	failpoint.Hit("store.committed")
	return err
}

// endTransaction rolls back what a failure left open, so that the connection
// can serve again. It runs also when ctx is over.
func endTransaction(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	_, _ = conn.Exec(ctx, rollback) // if it fails, Release drops the connection
}
