package sqlite

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Mover = (*Store)(nil)

// names quotes columns: one of them is called grant.
func names(columns []mirror.Column) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = `"` + c.Name + `"`
	}
	return strings.Join(list, ", ")
}

func dumpQuery(t mirror.Table) string {
	selected := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		selected[i] = names(t.Columns[i : i+1])
		if c.Kind == mirror.KindBytes {
			// The driver reads an empty blob as NULL.
			selected[i] = "CASE WHEN " + selected[i] + " IS NOT NULL THEN hex(" + selected[i] + ") END"
		}
	}
	return "SELECT " + strings.Join(selected, ", ") + " FROM " + t.Name + " ORDER BY " + names(t.Columns[:t.Key])
}

// Dump reads every table from one snapshot.
func (s *Store) Dump(ctx context.Context, row mirror.Rows) error {
	return s.read(ctx, func(r *reading) error {
		return dump(row, func(query string, scan func(*sql.Rows) error) error { return r.each(query, nil, scan) })
	})
}

func dump(row mirror.Rows, each func(query string, scan func(*sql.Rows) error) error) error {
	for _, t := range mirror.Tables() {
		if t.Derived() {
			continue
		}
		err := each(dumpQuery(t), func(rows *sql.Rows) error {
			values, into := make([]any, len(t.Columns)), make([]any, len(t.Columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				return err
			}
			for i, c := range t.Columns {
				v, err := fromColumn(c, values[i])
				if err != nil {
					return fmt.Errorf("%s: column %s: %w", t.Name, c.Name, err)
				}
				values[i] = v
			}
			return row(t, values)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fromColumn turns what SQLite holds into the value of its kind.
func fromColumn(c mirror.Column, v any) (any, error) {
	switch held := v.(type) {
	case nil, []byte:
		return v, nil
	case int64:
		if c.Kind == mirror.KindBool {
			return held != 0, nil
		}
		return v, nil
	case string:
		switch c.Kind {
		case mirror.KindTime:
			return time.Parse(timeFormat, held)
		case mirror.KindBytes:
			return hex.DecodeString(held)
		}
		return v, nil
	}
	return nil, fmt.Errorf("%T is no value of a mirror", v)
}

// Load fills an empty mirror in one transaction.
func (s *Store) Load(ctx context.Context, fill func(put mirror.Rows) error, check func(dump func(mirror.Rows) error) error) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		for _, t := range mirror.Tables() {
			if t.Derived() {
				if err := tx.exec("DELETE FROM " + t.Name); err != nil {
					return err
				}
				continue
			}
			var n int
			if _, err := tx.row("SELECT 1 FROM "+t.Name+" LIMIT 1", nil, &n); err != nil {
				return err
			}
			if n > 0 {
				return fmt.Errorf("%w: table %s has rows", mirror.ErrNotEmpty, t.Name)
			}
		}
		inserts, cleared := map[string]string{}, false
		// Triggers have written records of the rows that came; those of the source replace them.
		clear := func() error {
			if cleared {
				return nil
			}
			cleared = true
			return tx.exec("DELETE FROM " + mirror.ChangesTable)
		}
		err := fill(func(t mirror.Table, values []any) error {
			if t.Name == mirror.ChangesTable {
				if err := clear(); err != nil {
					return err
				}
			}
			query, ok := inserts[t.Name]
			if !ok {
				query = "INSERT INTO " + t.Name + " (" + names(t.Columns) + ") VALUES (?" + strings.Repeat(", ?", len(t.Columns)-1) + ")"
				inserts[t.Name] = query
			}
			row := make([]any, len(values))
			for i, v := range values {
				switch v := v.(type) {
				case time.Time:
					row[i] = stamp(v)
				case bool:
					row[i] = flag(v)
				default:
					row[i] = v
				}
			}
			return tx.exec(query, row...)
		})
		if err == nil {
			err = clear()
		}
		if err != nil {
			return err
		}
		return check(func(row mirror.Rows) error {
			return dump(row, func(query string, scan func(*sql.Rows) error) error { return tx.each(query, nil, scan) })
		})
	})
	if err != nil {
		return fmt.Errorf("load: %w", s.explain(err))
	}
	return nil
}
