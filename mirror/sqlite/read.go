package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// reading is a read transaction: everything it reads comes from one snapshot.
type reading struct {
	s   *Store
	ctx context.Context
	tx  *sql.Tx
	new []string // statements that the store has not prepared yet
}

// read runs fn on one snapshot. Reads never wait for writes.
func (s *Store) read(ctx context.Context, fn func(*reading) error) error {
	if s.pinned != nil {
		return s.explain(fn(s.pinned))
	}
	tx, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return s.explain(err)
	}
	r := &reading{s: s, ctx: ctx, tx: tx}
	if err := fn(r); err != nil {
		return s.explain(errors.Join(err, tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return s.explain(err)
	}
	for _, query := range r.new {
		s.remember(ctx, query)
	}
	return nil
}

// Snapshot runs fn on one snapshot.
func (s *Store) Snapshot(ctx context.Context, fn func(mirror.Reader) error) error {
	return s.read(ctx, func(r *reading) error {
		pinned := *s
		pinned.pinned = r
		return fn(&pinned)
	})
}

// remember prepares a statement for the calls to come. Not while a transaction
// holds a connection: it needs one too, and readers that all hold one and wait
// for another would wait for ever.
func (s *Store) remember(ctx context.Context, query string) {
	stmt, err := s.readers.PrepareContext(ctx, query)
	if err != nil {
		return // it has just worked without: the next call tries again
	}
	if _, held := s.stmts.LoadOrStore(query, stmt); held {
		_ = stmt.Close()
	}
}

// prepare finds the statement for this transaction's connection; database/sql
// prepares it once per connection.
func (r *reading) prepare(query string) (*sql.Stmt, error) {
	if held, ok := r.s.stmts.Load(query); ok {
		return r.tx.StmtContext(r.ctx, held.(*sql.Stmt)), nil
	}
	r.new = append(r.new, query)
	return r.tx.PrepareContext(r.ctx, query)
}

func (r *reading) each(query string, args []any, scan func(*sql.Rows) error) error {
	s, err := r.prepare(query)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(r.ctx, args...)
	if err != nil {
		return err
	}
	return drain(rows, scan)
}

// row runs a query for at most one row and reports whether there was one.
func (r *reading) row(query string, args []any, into ...any) (bool, error) {
	found := false
	err := r.each(query, args, func(rows *sql.Rows) error {
		found = true
		return rows.Scan(into...)
	})
	return found, err
}

// texts runs a query for one column of texts.
func (s *Store) texts(ctx context.Context, query string, args ...any) ([]string, error) {
	var list []string
	err := s.read(ctx, func(r *reading) error {
		return r.each(query, args, func(rows *sql.Rows) error {
			var v string
			err := rows.Scan(&v)
			list = append(list, v)
			return err
		})
	})
	return list, err
}

// listing is a list in pages. All its statements take ?1 account, ?2 customer,
// ?3 grant, ?4 limit; after and before also ?5 … ?7, the place of the cursor in
// the list's total order (created, position, id).
type listing[Row any] struct {
	// cursor finds the place of the row ?4.
	cursor                string
	newest, after, before string
	scan                  func(*sql.Rows) (Row, error)
	// ranged lists take more arguments: ?8 and ?9, the bounds of created, and ?10,
	// the invoice.
	ranged bool
}

// page reads one page, newest first.
func (l listing[Row]) page(r *reading, account, customer, grant string, p mirror.Page) (mirror.Slice[Row], error) {
	var out mirror.Slice[Row]
	query, args := l.newest, []any{account, customer, grant, p.Limit + 1}
	from, to := bounds(p.Created)
	if id := p.After + p.Before; id != "" {
		var created, last string
		var position int64
		found, err := r.row(l.cursor, []any{account, customer, grant, id}, &created, &position, &last)
		if err != nil {
			return out, err
		}
		if !found {
			return out, mirror.ErrNotFound
		}
		args = append(args, created, position, last)
		// SQLite seeks by one of two bounds on created, and not always by the cursor's.
		query, to = l.after, min(to, created)
		if p.Before != "" {
			_, to = bounds(p.Created)
			query, from = l.before, max(from, created)
		}
	}
	if l.ranged {
		for len(args) < 7 {
			args = append(args, nil)
		}
		args = append(args, from, to, p.Invoice)
	}
	err := r.each(query, args, func(rows *sql.Rows) error {
		row, err := l.scan(rows)
		out.Rows = append(out.Rows, row)
		return err
	})
	if err != nil {
		return out, err
	}
	if len(out.Rows) > p.Limit {
		out.Rows, out.HasMore = out.Rows[:p.Limit], true
	}
	if p.Before != "" {
		slices.Reverse(out.Rows)
	}
	return out, nil
}

const synced = `SELECT observed_at, NOT history_complete OR walk_cursor <> ''
FROM sync_state WHERE account = ?1 AND customer = ?2 AND scope = ?3`

// synced returns SyncedAt and Unfinished of a ledger, as in mirror.Slice.
func (r *reading) synced(account, customer string, scope mirror.Scope) (at time.Time, unfinished bool, err error) {
	_, err = r.row(synced, []any{account, customer, string(scope)}, timeColumn{&at}, &unfinished)
	return at, unfinished, err
}

const (
	knowsCustomer = `SELECT 1 FROM customers WHERE account = ?1 AND id = ?2`

	// knowsCredits: the credits of a customer may be known before the customer is.
	knowsCredits = knowsCustomer + `
UNION ALL SELECT 1 FROM credit_grants WHERE account = ?1 AND customer = ?2 LIMIT 1`
)

// known returns ErrNotFound where the query finds nothing.
func (r *reading) known(query, account, customer string) error {
	var one int
	found, err := r.row(query, []any{account, customer}, &one)
	if err == nil && !found {
		err = mirror.ErrNotFound
	}
	return err
}
