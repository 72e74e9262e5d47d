package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// durability is what a commit must survive.
type durability string

const (
	// durable commits reach the disk before they return: they survive a power cut.
	durable durability = `PRAGMA synchronous = FULL`
	// volatile commits survive the death of the process, but a power cut may undo
	// them. It is for what only living processes rely on: an epoch or a lease
	// fences off writers that a power cut ends too. A later durable commit makes
	// the earlier volatile ones durable, since they lie before it in the log.
	volatile durability = `PRAGMA synchronous = NORMAL`
)

// writer is the one connection that writes. SQLite allows one writer at a time
// anyway; a queue in the process is fair and wakes up at once, which SQLite's
// own waiting (sleep and try again) is not.
type writer struct {
	path  string
	now   func() time.Time
	turn  chan struct{} // holds one token while nobody writes
	db    *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	mode  durability // what the connection is set to
	shut  bool
	// grown is called now and then when the log has grown.
	grown   chan struct{}
	commits int
}

func newWriter(path string, now func() time.Time) *writer {
	w := &writer{path: path, now: now, turn: make(chan struct{}, 1), grown: make(chan struct{}, 1)}
	w.turn <- struct{}{}
	return w
}

// lockWait is how long a write waits for another process's.
const lockWait = 5 * time.Second

// busySlice is how long SQLite itself waits for a lock: short, since it does not
// look at contexts meanwhile.
const busySlice = 50

// open connects; the caller has the turn or is the only one to know the writer.
func (w *writer) open(ctx context.Context) error {
	db, err := sql.Open("sqlite", dsn(w.path, fmt.Sprintf("busy_timeout(%d)", busySlice),
		"cache_size(-16000)", "temp_store(memory)", "foreign_keys(0)",
		"journal_size_limit(67108864)", fmt.Sprintf("wal_autocheckpoint(%d)", lastResort)))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	w.db = db
	if w.conn, err = db.Conn(ctx); err != nil {
		return err
	}
	w.stmts = map[string]*sql.Stmt{}
	// Another process may be doing the same with a new file.
	err = w.wait(ctx, func() error {
		var journal string
		if err := w.conn.QueryRowContext(ctx, `PRAGMA journal_mode = WAL`).Scan(&journal); err != nil {
			return err
		}
		if journal != "wal" {
			return fmt.Errorf("%s: the file system allows no write-ahead log (journal mode %s): use a local disk", w.path, journal)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.transact(ctx, durable, func(*tx) error { return nil }) // finds out a file that can only be read
}

// close waits for its turn, so that no write is cut off.
func (w *writer) close() error {
	<-w.turn
	defer func() { w.turn <- struct{}{} }()
	w.shut = true
	return w.disconnect()
}

func (w *writer) disconnect() error {
	var err error
	for _, s := range w.stmts {
		err = errors.Join(err, s.Close())
	}
	w.stmts, w.mode = nil, ""
	if w.conn != nil {
		err = errors.Join(err, w.conn.Close())
	}
	if w.db != nil {
		err = errors.Join(err, w.db.Close())
	}
	w.conn, w.db = nil, nil
	return err
}

var errClosed = errors.New("the store is closed")

// do runs fn in a transaction of its own and commits it when fn returns nil.
func (w *writer) do(ctx context.Context, d durability, fn func(*tx) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.turn:
	}
	defer func() { w.turn <- struct{}{} }()
	if w.shut {
		return errClosed
	}
	if w.conn == nil {
		if err := w.open(ctx); err != nil {
			return errors.Join(err, w.disconnect())
		}
	}
	return w.transact(ctx, d, fn)
}

// transact is do for who has the turn.
func (w *writer) transact(ctx context.Context, d durability, fn func(*tx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Statements inside are short, and one that is cut off in the middle or a
	// COMMIT whose outcome is unknown would gain nothing: only the wait for the lock
	// can be cancelled, and the steps between statements.
	t := &tx{w: w, ctx: context.WithoutCancel(ctx), cancel: ctx}
	if w.mode != d {
		// Not through prepare: this pragma works when it is compiled, not when it runs.
		if _, err := w.conn.ExecContext(t.ctx, string(d)); err != nil {
			return err
		}
		w.mode = d
	}
	if err := w.wait(ctx, func() error { return t.exec(`BEGIN IMMEDIATE`) }); err != nil {
		return err
	}
	committed := false
	defer func() {
		if committed {
			return
		}
		// After some errors SQLite has rolled back by itself; a connection that can
		// not roll back is of no more use.
		if rollback := t.exec(`ROLLBACK`); rollback != nil && w.inTransaction(t) {
			err = errors.Join(err, rollback, w.disconnect())
		}
	}()
	t.moment = w.now() // after the wait: it is the time of the write
	t.at = stamp(t.moment)
	if err := fn(t); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.exec(`COMMIT`); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	committed = true
	if w.commits++; w.commits%commitsPerCheckpoint == 0 {
		select {
		case w.grown <- struct{}{}:
		default: // it knows already
		}
	}
	return nil
}

// inTransaction reports whether a BEGIN is refused because one is open.
func (w *writer) inTransaction(t *tx) bool {
	if t.exec(`BEGIN`) != nil {
		return true
	}
	return t.exec(`ROLLBACK`) != nil
}

// wait repeats a step while another process holds the lock.
func (w *writer) wait(ctx context.Context, step func() error) error {
	timeout := time.NewTimer(lockWait)
	defer timeout.Stop()
	for {
		err := step()
		if !busy(err) {
			return err
		}
		pause := time.NewTimer(2 * time.Millisecond)
		select {
		case <-ctx.Done():
			pause.Stop()
			return errors.Join(ctx.Err(), err)
		case <-timeout.C:
			pause.Stop()
			return err
		case <-pause.C:
		}
	}
}

// tx is a write transaction. Its statements are prepared once per connection.
type tx struct {
	w      *writer
	ctx    context.Context // without cancellation
	cancel context.Context
	moment time.Time // of the write
	at     string    // moment, as it is stored
}

func (t *tx) prepare(query string) (*sql.Stmt, error) {
	if s, ok := t.w.stmts[query]; ok {
		return s, nil
	}
	s, err := t.w.conn.PrepareContext(t.ctx, query)
	if err != nil {
		return nil, err
	}
	t.w.stmts[query] = s
	return s, nil
}

func (t *tx) exec(query string, args ...any) error {
	_, err := t.affect(query, args...)
	return err
}

// affect runs a statement and returns how many rows it touched.
func (t *tx) affect(query string, args ...any) (int, error) {
	s, err := t.prepare(query)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(t.ctx, args...)
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	return int(n), err
}

// row runs a query for at most one row and reports whether there was one.
func (t *tx) row(query string, args []any, into ...any) (bool, error) {
	s, err := t.prepare(query)
	if err != nil {
		return false, err
	}
	err = s.QueryRowContext(t.ctx, args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// each runs a query and calls scan for every row.
func (t *tx) each(query string, args []any, scan func(*sql.Rows) error) error {
	if err := t.cancel.Err(); err != nil {
		return err
	}
	s, err := t.prepare(query)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(t.ctx, args...)
	if err != nil {
		return err
	}
	return drain(rows, scan)
}

// drain reads rows to their end and closes them.
func drain(rows *sql.Rows, scan func(*sql.Rows) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
