package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Feed = (*Store)(nil)

// feedReader reads one snapshot for an export.
type feedReader struct{ *reading }

// ReadFeed runs fn on one snapshot, on a connection of its own: an export of a large
// mirror must not take one from the API.
func (s *Store) ReadFeed(ctx context.Context, fn func(mirror.FeedReader) error) error {
	conn, err := s.readers.Conn(ctx)
	if err != nil {
		return fmt.Errorf("read the feed: %w", explain(s.path, err))
	}
	defer conn.Close() //nolint:errcheck // it goes back to the pool
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("read the feed: %w", explain(s.path, err))
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	if err := fn(feedReader{&reading{s: s, ctx: ctx, tx: tx}}); err != nil {
		return fmt.Errorf("read the feed: %w", explain(s.path, err))
	}
	return nil
}

// Position is the sequence number of the newest record, and when it was written:
// where another record of that number lies later, the file was restored from a
// backup in between.
func (r feedReader) Position(context.Context) (p mirror.FeedPosition, err error) {
	if _, err = r.row(lastChange, nil, &p.Number); err != nil {
		return p, err
	}
	at, err := r.changedAt(p.Number)
	p.Text = strconv.FormatInt(p.Number, 10) + "." + at
	return p, err
}

// changedAt is the time of a record in microseconds; empty when there is none.
func (r feedReader) changedAt(seq int64) (string, error) {
	var at time.Time
	found, err := r.row(`SELECT changed_at FROM changes WHERE seq = ?1`, []any{seq}, timeColumn{&at})
	if err != nil || !found {
		return "", err
	}
	return strconv.FormatInt(at.UnixMicro(), 10), nil
}

const changedRows = `
SELECT table_name, account, customer, id, max(op = 'insert'), max(changed_at) FROM changes
WHERE seq > ?1 AND table_name IN (SELECT value FROM json_each(?2)) GROUP BY 1, 2, 3, 4 LIMIT ?3`

// Changed lists the rows that changed after since.
func (r feedReader) Changed(_ context.Context, since string, tables []string, limit int) (map[string][]mirror.RowChange, bool, error) {
	number, at, _ := strings.Cut(since, ".")
	seq, err := strconv.ParseInt(number, 10, 64)
	if err != nil || seq < 0 {
		return nil, false, mirror.ErrFeedGone
	}
	var last, pruned int64
	if _, err := r.row(lastChange, nil, &last); err != nil {
		return nil, false, err
	}
	if _, err := r.row(prunedTo, nil, &pruned); err != nil {
		return nil, false, err
	}
	written, err := r.changedAt(seq)
	if err != nil {
		return nil, false, err
	}
	if seq > last || seq < pruned || written != "" && at != "" && written != at {
		return nil, false, mirror.ErrFeedGone
	}
	wanted, err := json.Marshal(tables)
	if err != nil {
		return nil, false, err
	}
	changed, n := map[string][]mirror.RowChange{}, 0
	err = r.each(changedRows, []any{seq, string(wanted), limit + 1}, func(rows *sql.Rows) error {
		var table string
		var c mirror.RowChange
		if err := rows.Scan(&table, &c.Account, &c.Customer, &c.ID, &c.Inserted, timeColumn{&c.ChangedAt}); err != nil {
			return err
		}
		n++
		changed[table] = append(changed[table], c)
		return nil
	})
	return changed, n <= limit, err
}

func (r feedReader) Rows(_ context.Context, t mirror.Table, row func([]mirror.Value) error) error {
	return r.values(t, dumpQuery(t), nil, row)
}

func (r feedReader) RowsOf(_ context.Context, t mirror.Table, keys []mirror.RowKey, row func([]mirror.Value) error) error {
	list := make([][]string, len(keys))
	for i, k := range keys {
		list[i] = t.KeyValues(k)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	parts := make([]string, t.Key)
	for i := range parts {
		parts[i] = fmt.Sprintf("value->>%d", i)
	}
	query := "SELECT " + names(t.Columns) + " FROM " + t.Name + " WHERE (" + names(t.Columns[:t.Key]) + ") IN (SELECT " +
		strings.Join(parts, ", ") + " FROM json_each(?1))"
	return r.values(t, query, []any{string(text)}, row)
}

// rawText scans a text into memory that is used again. sql.RawBytes would make an
// empty text NULL.
type rawText struct {
	text []byte
	null bool
}

func (r *rawText) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		r.null = true
		return nil
	case string:
		r.text = append(r.text[:0], v...)
	case []byte:
		r.text = append(r.text[:0], v...)
	default:
		return fmt.Errorf("%T is no text", src)
	}
	r.null = false
	return nil
}

// values runs a query for whole rows. Nothing is allocated for a value.
func (r feedReader) values(t mirror.Table, query string, args []any, row func([]mirror.Value) error) error {
	texts := make([]rawText, len(t.Columns))
	ints := make([]sql.NullInt64, len(t.Columns))
	values, into := make([]mirror.Value, len(t.Columns)), make([]any, len(t.Columns))
	for i, c := range t.Columns {
		switch c.Kind {
		case mirror.KindInt, mirror.KindBool:
			into[i] = &ints[i]
		default:
			into[i] = &texts[i]
		}
	}
	return r.each(query, args, func(rows *sql.Rows) error {
		if err := rows.Scan(into...); err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
		for i, c := range t.Columns {
			v := &values[i]
			switch c.Kind {
			case mirror.KindInt, mirror.KindBool:
				v.Int, v.Null = ints[i].Int64, !ints[i].Valid
			case mirror.KindTime:
				if v.Null = texts[i].null; v.Null {
					continue
				}
				at, err := time.Parse(timeFormat, string(texts[i].text))
				if err != nil {
					return fmt.Errorf("%s: column %s: %w", t.Name, c.Name, err)
				}
				v.Int = at.UnixMicro()
			default:
				v.Text, v.Null = texts[i].text, texts[i].null
			}
		}
		return row(values)
	})
}

func (r feedReader) TableTotals(_ context.Context, t mirror.Table, amount string) (totals mirror.TableTotals, err error) {
	if amount == "" {
		_, err = r.row("SELECT count(*) FROM "+t.Name, nil, &totals.Rows)
		return totals, err
	}
	query := `SELECT currency, count(*), sum("` + amount + `"), count("` + amount + `") FROM ` + t.Name + " GROUP BY currency"
	err = r.each(query, nil, func(rows *sql.Rows) error {
		var currency sql.NullString
		var n, counted int64
		var sum sql.NullInt64
		if err := rows.Scan(&currency, &n, &sum, &counted); err != nil {
			return err
		}
		totals.Rows += n
		if currency.Valid && counted > 0 {
			if totals.Sums == nil {
				totals.Sums = map[string]int64{}
			}
			totals.Sums[currency.String] = sum.Int64
		}
		return nil
	})
	return totals, err
}

const unproven = `SELECT count(*) FROM (SELECT DISTINCT account, customer FROM sync_state WHERE NOT history_complete OR walk_cursor <> '')`

func (r feedReader) Unproven(context.Context) (n int64, err error) {
	_, err = r.row(unproven, nil, &n)
	return n, err
}

// pruned is the name under which export_cursors keeps how far the feed was pruned.
const pruned = "(pruned)"

const (
	prunedTo    = `SELECT number FROM export_cursors WHERE name = '` + pruned + `'`
	cursorsText = `SELECT name, account, generation, position, number, seen_at FROM export_cursors WHERE name <> '` + pruned + `'`
	saveCursor  = `
INSERT INTO export_cursors (account, name, generation, position, number, seen_at, synced_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
ON CONFLICT (account, name) DO UPDATE SET generation = excluded.generation, position = excluded.position,
    number = excluded.number, seen_at = excluded.seen_at, synced_at = excluded.synced_at`
	forgetCursors = `DELETE FROM export_cursors WHERE seen_at < ?1 AND name <> '` + pruned + `'`
	slowestCursor = `SELECT min(number) FROM export_cursors WHERE name <> '` + pruned + `'`
	prunableTo    = `SELECT max(seq) FROM (SELECT seq FROM changes WHERE seq <= ?1 AND changed_at < ?2 ORDER BY seq LIMIT ?3)`
	pruneChanges  = `DELETE FROM changes WHERE seq <= ?1`
)

func scanCursor(rows *sql.Rows) (c mirror.FeedCursor, err error) {
	err = rows.Scan(&c.Name, &c.Account, &c.Generation, &c.Position.Text, &c.Position.Number, timeColumn{&c.SeenAt})
	return c, err
}

// FeedCursor returns a reader's cursor.
func (s *Store) FeedCursor(ctx context.Context, name, account string) (mirror.FeedCursor, error) {
	list, err := s.cursors(ctx, cursorsText+" AND name = ?1 AND account = ?2", name, account)
	if err == nil && len(list) == 0 {
		err = mirror.ErrNotFound
	}
	if err != nil {
		return mirror.FeedCursor{}, fmt.Errorf("feed cursor %s: %w", name, err)
	}
	return list[0], nil
}

// FeedCursors lists all readers.
func (s *Store) FeedCursors(ctx context.Context) ([]mirror.FeedCursor, error) {
	list, err := s.cursors(ctx, cursorsText+" ORDER BY name, account")
	if err != nil {
		return nil, fmt.Errorf("feed cursors: %w", err)
	}
	return list, nil
}

func (s *Store) cursors(ctx context.Context, query string, args ...any) (list []mirror.FeedCursor, err error) {
	err = s.read(ctx, func(r *reading) error {
		return r.each(query, args, func(rows *sql.Rows) error {
			c, err := scanCursor(rows)
			list = append(list, c)
			return err
		})
	})
	return list, err
}

// SaveFeedCursor records how far a reader has read.
func (s *Store) SaveFeedCursor(ctx context.Context, c mirror.FeedCursor) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		return tx.exec(saveCursor, c.Account, c.Name, c.Generation, c.Position.Text, c.Position.Number, tx.at)
	})
	if err != nil {
		return fmt.Errorf("save feed cursor %s: %w", c.Name, explain(s.path, err))
	}
	return nil
}

// PruneFeed deletes what every reader has read.
func (s *Store) PruneFeed(ctx context.Context, age time.Duration, limit int) (deleted int64, forgotten []mirror.FeedCursor, err error) {
	err = s.w.do(ctx, durable, func(tx *tx) error {
		deleted, forgotten = 0, nil
		now, err := time.Parse(timeFormat, tx.at)
		if err != nil {
			return err
		}
		old := stamp(now.Add(-age))
		err = tx.each(cursorsText+" AND seen_at < ?1", []any{old}, func(rows *sql.Rows) error {
			c, err := scanCursor(rows)
			forgotten = append(forgotten, c)
			return err
		})
		if err != nil {
			return err
		}
		if err := tx.exec(forgetCursors, old); err != nil {
			return err
		}
		var slowest, to sql.NullInt64
		if _, err := tx.row(slowestCursor, nil, &slowest); err != nil || !slowest.Valid {
			return err // without a reader everything is kept: the first one may want it
		}
		if _, err := tx.row(prunableTo, []any{slowest.Int64, old, limit}, &to); err != nil || !to.Valid {
			return err
		}
		n, err := tx.affect(pruneChanges, to.Int64)
		if err != nil {
			return err
		}
		deleted = int64(n)
		return tx.exec(saveCursor, "", pruned, 0, "", to.Int64, tx.at)
	})
	if err != nil {
		return 0, nil, fmt.Errorf("prune the feed: %w", explain(s.path, err))
	}
	return deleted, forgotten, nil
}
