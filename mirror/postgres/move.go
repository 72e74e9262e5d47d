package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Mover = (*Store)(nil)

// moveBatch is how many rows one COPY brings.
const moveBatch = 2000

// unlimited takes this transaction's time limits away: reading a whole table takes
// as long as it takes, and between two batches the other database is read.
const unlimited = `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`

func columnNames(columns []mirror.Column) []string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = c.Name
	}
	return list
}

// quoted lists columns for a statement: one of them is called grant.
func quoted(columns []mirror.Column) string {
	return `"` + strings.Join(columnNames(columns), `", "`) + `"`
}

// inTransaction runs fn on a connection of its own and commits when it returns nil.
func (s *Store) inTransaction(ctx context.Context, o pgx.TxOptions, fn func(tx pgx.Tx) error) (err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release() // drops a connection whose transaction is still open
	tx, err := conn.BeginTx(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			endTransaction(ctx, conn.Conn())
		}
	}()
	if _, err := tx.Exec(ctx, unlimited); err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// Dump reads every table from one snapshot.
func (s *Store) Dump(ctx context.Context, row mirror.Rows) error {
	err := s.inTransaction(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return dump(ctx, tx, row)
	})
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	return nil
}

func dump(ctx context.Context, tx pgx.Tx, row mirror.Rows) error {
	for _, t := range mirror.Tables() {
		if t.Derived() {
			continue
		}
		selected := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			selected[i] = `"` + c.Name + `"`
			switch c.Kind {
			case mirror.KindJSON:
				selected[i] += "::text"
			case mirror.KindInt:
				selected[i] += "::bigint"
			}
		}
		rows, err := tx.Query(ctx, "SELECT "+strings.Join(selected, ", ")+" FROM creditmirror."+t.Name+" ORDER BY "+quoted(t.Columns[:t.Key]))
		if err != nil {
			return err
		}
		for rows.Next() {
			values, err := rows.Values()
			if err == nil {
				for i, v := range values {
					if at, ok := v.(time.Time); ok {
						values[i] = at.UTC()
					}
				}
				err = row(t, values)
			}
			if err != nil {
				rows.Close()
				return err
			}
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	return nil
}

// sequences are set behind the rows that were loaded.
const sequences = `
SELECT setval('creditmirror.stripe_events_seq', max(seq)) FROM creditmirror.stripe_events HAVING max(seq) IS NOT NULL
UNION ALL
SELECT setval('creditmirror.changes_seq', max(seq)) FROM creditmirror.changes HAVING max(seq) IS NOT NULL`

// reserve locks a table that must be empty; one that is derived is emptied.
func reserve(ctx context.Context, tx pgx.Tx, t mirror.Table) error {
	// Nobody writes beside us until the end: their rows would look like ours.
	if _, err := tx.Exec(ctx, "LOCK TABLE creditmirror."+t.Name+" IN EXCLUSIVE MODE"); err != nil {
		return err
	}
	if t.Derived() {
		_, err := tx.Exec(ctx, "DELETE FROM creditmirror."+t.Name)
		return err
	}
	var n int
	err := tx.QueryRow(ctx, "SELECT 1 FROM creditmirror."+t.Name+" LIMIT 1").Scan(&n)
	switch {
	case err == nil:
		return fmt.Errorf("%w: table %s has rows", mirror.ErrNotEmpty, t.Name)
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	}
	return err
}

// Load fills an empty mirror in one transaction.
func (s *Store) Load(ctx context.Context, fill func(put mirror.Rows) error, check func(dump func(mirror.Rows) error) error) error {
	err := s.inTransaction(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		for _, t := range mirror.Tables() {
			if err := reserve(ctx, tx, t); err != nil {
				return err
			}
		}
		var table mirror.Table
		var batch [][]any
		flush := func() error {
			if len(batch) == 0 {
				return nil
			}
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"creditmirror", table.Name}, columnNames(table.Columns), pgx.CopyFromRows(batch))
			batch = batch[:0]
			if err != nil {
				return fmt.Errorf("%s: %w", table.Name, err)
			}
			return nil
		}
		cleared := false
		// Triggers have written records of the rows that came; those of the source replace them.
		clear := func() error {
			if cleared {
				return nil
			}
			cleared = true
			_, err := tx.Exec(ctx, "DELETE FROM creditmirror."+mirror.ChangesTable)
			return err
		}
		err := fill(func(t mirror.Table, values []any) error {
			if t.Name != table.Name || len(batch) == moveBatch {
				if err := flush(); err != nil {
					return err
				}
				if table = t; t.Name == mirror.ChangesTable {
					if err := clear(); err != nil {
						return err
					}
				}
			}
			row := make([]any, len(values))
			for i, v := range values {
				row[i] = v
				if text, ok := v.(string); ok && t.Columns[i].Kind == mirror.KindJSON {
					row[i] = string(cleanJSON(json.RawMessage(text)))
				}
			}
			batch = append(batch, row)
			return nil
		})
		if err == nil {
			err = flush()
		}
		if err == nil {
			err = clear()
		}
		if err == nil {
			_, err = tx.Exec(ctx, sequences)
		}
		if err != nil {
			return err
		}
		return check(func(row mirror.Rows) error { return dump(ctx, tx, row) })
	})
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	return nil
}
