package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

var _ mirror.Feed = (*Store)(nil)

// feedReader reads one snapshot for an export.
type feedReader struct{ tx pgx.Tx }

// ReadFeed runs fn on one snapshot.
func (s *Store) ReadFeed(ctx context.Context, fn func(mirror.FeedReader) error) error {
	err := s.inTransaction(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return fn(feedReader{tx})
	})
	if err != nil {
		return fmt.Errorf("read the feed: %w", err)
	}
	return nil
}

// feedHistory names what a position means something in: this database of this server,
// and its history once that has a name. Two mirrors of one server count transactions
// together, so that a position of one would pass for the other's.
const feedHistory = history + ` || '/' || (SELECT system_identifier FROM pg_control_system())::text
  || '.' || (SELECT oid FROM pg_database WHERE datname = current_database())::text`

// feedPosition is the snapshot itself: what it does not see is what comes after it,
// whatever order transactions began and ended in.
const feedPosition = `SELECT pg_current_snapshot()::text, CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM creditmirror.changes_seq AS s`

func (r feedReader) Position(ctx context.Context) (p mirror.FeedPosition, err error) {
	var name string
	if err := r.tx.QueryRow(ctx, feedHistory).Scan(&name); err != nil {
		return p, err
	}
	err = r.tx.QueryRow(ctx, feedPosition).Scan(&p.Text, &p.Number)
	p.Text = mirror.MarkPosition(p.Text, name)
	return p, err
}

const (
	// changedRows walks the accounts by the feed's index, and in each begins where the
	// older snapshot may have missed something.
	changedRows = `WITH RECURSIVE a (account) AS (
  (SELECT account FROM creditmirror.changes ORDER BY account LIMIT 1)
  UNION ALL
  SELECT (SELECT c.account FROM creditmirror.changes AS c WHERE c.account > a.account ORDER BY c.account LIMIT 1) FROM a WHERE a.account IS NOT NULL
)
SELECT n.table_name, n.account, n.customer, n.id, bool_or(n.op = 'insert'), max(n.changed_at)
FROM a CROSS JOIN LATERAL (
  SELECT c.* FROM creditmirror.changes AS c
  WHERE c.account = a.account AND c.xact >= pg_snapshot_xmin($1::text::pg_snapshot)
    AND NOT pg_visible_in_snapshot(c.xact, $1::text::pg_snapshot) AND c.table_name = ANY($2)
) AS n GROUP BY 1, 2, 3, 4 LIMIT $3`

	// feedReaches reports whether the feed still has what came after a snapshot: it is
	// of this server, which has counted as far, and was not pruned past it.
	feedReaches = `SELECT pg_snapshot_xmax($1::text::pg_snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
  AND pg_snapshot_xmin($1::text::pg_snapshot) >= coalesce((SELECT c.position::xid8 FROM creditmirror.export_cursors AS c WHERE c.account = '' AND c.name = '` + pruned + `'), '0'::xid8)`
)

// Changed lists the rows that changed after since.
func (r feedReader) Changed(ctx context.Context, since string, tables []string, limit int) (map[string][]mirror.RowChange, bool, error) {
	var name string
	if err := r.tx.QueryRow(ctx, feedHistory).Scan(&name); err != nil {
		return nil, false, err
	}
	since, ok := mirror.CutPosition(since, name)
	if !ok || strings.Count(since, ":") != 2 || strings.Trim(since, "0123456789:,") != "" {
		return nil, false, mirror.ErrFeedGone // of another kind of database
	}
	var reaches bool
	if err := r.tx.QueryRow(ctx, feedReaches, since).Scan(&reaches); err != nil {
		return nil, false, err
	}
	if !reaches {
		return nil, false, mirror.ErrFeedGone
	}
	rows, err := r.tx.Query(ctx, changedRows, since, tables, limit+1)
	if err != nil {
		return nil, false, err
	}
	changed, n := map[string][]mirror.RowChange{}, 0
	var table string
	var c mirror.RowChange
	_, err = pgx.ForEachRow(rows, []any{&table, &c.Account, &c.Customer, &c.ID, &c.Inserted, &c.ChangedAt}, func() error {
		n++
		changed[table] = append(changed[table], c)
		return nil
	})
	return changed, n <= limit, err
}

func selectRows(t mirror.Table) string {
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
	return "SELECT " + strings.Join(selected, ", ") + " FROM creditmirror." + t.Name
}

func (r feedReader) Rows(ctx context.Context, t mirror.Table, row func([]mirror.Value) error) error {
	return r.values(ctx, t, selectRows(t)+" ORDER BY "+quoted(t.Columns[:t.Key]), nil, row)
}

func (r feedReader) RowsOf(ctx context.Context, t mirror.Table, keys []mirror.RowKey, row func([]mirror.Value) error) error {
	columns := make([][]string, t.Key)
	for _, k := range keys {
		for i, v := range t.KeyValues(k) {
			columns[i] = append(columns[i], v)
		}
	}
	args, arrays, picked := make([]any, t.Key), make([]string, t.Key), make([]string, t.Key)
	for i := range columns {
		args[i], arrays[i] = columns[i], fmt.Sprintf("$%d::text[]", i+1)
		picked[i] = fmt.Sprintf("k%d", i)
		if t.Columns[i].Kind == mirror.KindInt {
			picked[i] += "::bigint"
		}
	}
	aliases := make([]string, t.Key)
	for i := range aliases {
		aliases[i] = fmt.Sprintf("k%d", i)
	}
	query := selectRows(t) + " WHERE (" + quoted(t.Columns[:t.Key]) + ") IN (SELECT " + strings.Join(picked, ", ") +
		" FROM unnest(" + strings.Join(arrays, ", ") + ") AS k(" + strings.Join(aliases, ", ") + "))"
	return r.values(ctx, t, query, args, row)
}

// microsFromY2K is the beginning of the time that the wire counts from.
var microsFromY2K = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// values runs a query for whole rows and reads the values off the wire: nothing is
// allocated for one. All types are asked for in their binary form.
func (r feedReader) values(ctx context.Context, t mirror.Table, query string, args []any, row func([]mirror.Value) error) error {
	formats := pgx.QueryResultFormats{pgx.BinaryFormatCode}
	rows, err := r.tx.Query(ctx, query, append([]any{formats}, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	values := make([]mirror.Value, len(t.Columns))
	for rows.Next() {
		raw := rows.RawValues()
		for i, c := range t.Columns {
			v := &values[i]
			if v.Null = raw[i] == nil; v.Null {
				continue
			}
			switch {
			case c.Kind == mirror.KindBool && len(raw[i]) == 1:
				v.Int = int64(raw[i][0])
			case c.Kind == mirror.KindInt && len(raw[i]) == 8:
				v.Int = int64(binary.BigEndian.Uint64(raw[i])) // #nosec G115 -- two's complement on the wire
			case c.Kind == mirror.KindTime && len(raw[i]) == 8:
				v.Int = int64(binary.BigEndian.Uint64(raw[i])) + microsFromY2K // #nosec G115 -- two's complement on the wire
			case c.Kind == mirror.KindText, c.Kind == mirror.KindJSON:
				v.Text = raw[i]
			default:
				return fmt.Errorf("%s: column %s: %d bytes are no value of its kind", t.Name, c.Name, len(raw[i]))
			}
		}
		if err := row(values); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	return nil
}

const (
	// totalsBegin is the table_name of the row that says since when changes of totals
	// are recorded.
	totalsBegin = "(begin)"
	beginTotals = `INSERT INTO creditmirror.total_changes (account, table_name, rows, amount)
SELECT '', '` + totalsBegin + `', 0, 0 WHERE NOT EXISTS (SELECT 1 FROM creditmirror.total_changes WHERE account = '' AND table_name = '` + totalsBegin + `')`
	totalsKnown = `SELECT EXISTS (SELECT 1 FROM creditmirror.total_changes
  WHERE account = '' AND table_name = '` + totalsBegin + `' AND pg_visible_in_snapshot(xact, $1::text::pg_snapshot))`
	totalsAfter = `SELECT table_name, currency, sum(rows)::bigint, sum(amount)::text FROM creditmirror.total_changes
WHERE xact >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xact, $1::text::pg_snapshot) AND table_name <> '` + totalsBegin + `'
GROUP BY table_name, currency`
	// pruneTotals deletes what every copy has. Nothing while a first export is under
	// way: its snapshot is not known yet. Without a copy nobody needs any.
	pruneTotals = `DELETE FROM creditmirror.total_changes WHERE (xact, account, seq) IN (
  SELECT xact, account, seq FROM creditmirror.total_changes WHERE table_name <> '` + totalsBegin + `'
    AND NOT EXISTS (SELECT 1 FROM creditmirror.export_cursors WHERE name LIKE 'export-%' AND position = '')
    AND xact < coalesce((SELECT split_part(position, ':', 1)::xid8 FROM creditmirror.export_cursors WHERE name LIKE 'export-%' AND position <> '' ORDER BY 1 LIMIT 1),
      pg_snapshot_xmin(pg_current_snapshot())) LIMIT 10000)`
)

// TotalsSince adds up what transactions that since does not see have changed.
func (r feedReader) TotalsSince(ctx context.Context, since string) (map[string]mirror.TableTotals, bool, error) {
	since, _ = mirror.CutPosition(since, "")
	var known bool
	if err := r.tx.QueryRow(ctx, totalsKnown, since).Scan(&known); err != nil || !known {
		return nil, false, err
	}
	rows, err := r.tx.Query(ctx, totalsAfter, since)
	if err != nil {
		return nil, false, err
	}
	changed := map[string]mirror.TableTotals{}
	var table, sum string
	var currency *string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&table, &currency, &n, &sum}, func() error {
		t := changed[table]
		t.Rows += n
		if currency != nil {
			amount, err := strconv.ParseInt(sum, 10, 64)
			if err != nil {
				known = false // the sum itself may fit: it is added up anew
				return nil
			}
			if t.Sums == nil {
				t.Sums = map[string]int64{}
			}
			t.Sums[*currency] = amount
		}
		changed[table] = t
		return nil
	})
	return changed, known, err
}

// pruneTotals deletes changes of totals that every copy has.
func (s *Store) pruneTotals(ctx context.Context) error {
	for range 100 {
		tag, err := s.pool.Exec(ctx, pruneTotals)
		if err != nil || tag.RowsAffected() < 10_000 {
			return err
		}
	}
	return nil
}

func (r feedReader) TableTotals(ctx context.Context, t mirror.Table, amount string) (totals mirror.TableTotals, err error) {
	if amount == "" {
		err = r.tx.QueryRow(ctx, "SELECT count(*) FROM creditmirror."+t.Name).Scan(&totals.Rows)
		return totals, err
	}
	rows, err := r.tx.Query(ctx, `SELECT currency, count(*), sum("`+amount+`")::text FROM creditmirror.`+t.Name+" GROUP BY currency")
	if err != nil {
		return totals, err
	}
	var currency, sum *string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&currency, &n, &sum}, func() error {
		totals.Rows += n
		if currency == nil || sum == nil {
			return nil
		}
		held, err := strconv.ParseInt(*sum, 10, 64)
		if err != nil {
			return fmt.Errorf("the sum of %s.%s in %s %w", t.Name, amount, *currency, report.ErrOverflow)
		}
		if totals.Sums == nil {
			totals.Sums = map[string]int64{}
		}
		totals.Sums[*currency] = held
		return nil
	})
	return totals, err
}

const unproven = `SELECT count(*) FROM (SELECT DISTINCT account, customer FROM creditmirror.sync_state WHERE NOT history_complete OR walk_cursor <> '') AS c`

func (r feedReader) Unproven(ctx context.Context) (n int64, err error) {
	err = r.tx.QueryRow(ctx, unproven).Scan(&n)
	return n, err
}

// pruned is the name under which export_cursors keeps how far the feed was pruned.
const pruned = "(pruned)"

const (
	selectCursors = `SELECT name, account, generation, position, number, seen_at FROM creditmirror.export_cursors WHERE name <> '` + pruned + `'`
	saveCursor    = `INSERT INTO creditmirror.export_cursors (account, name, generation, position, number, seen_at, synced_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp(), clock_timestamp())
ON CONFLICT (account, name) DO UPDATE SET generation = excluded.generation, position = excluded.position,
    number = excluded.number, seen_at = excluded.seen_at, synced_at = excluded.synced_at`
	forgetCursors = `DELETE FROM creditmirror.export_cursors WHERE name <> '` + pruned + `' AND seen_at < now() - $1 * interval '1 microsecond'
RETURNING name, account, generation, position, number, seen_at`
	// otherReaders: the day table holds records back, but is made anew without them.
	// Nothing is deleted for its sake alone.
	otherReaders = `EXISTS (SELECT 1 FROM creditmirror.export_cursors WHERE name NOT IN ('` + pruned + `', '` + report.DaysCursor + `'))`

	// pruneChanges deletes records of transactions that ended before every reader
	// left began to read.
	pruneChanges = `WITH behind AS (
  SELECT CASE WHEN position = '' THEN '0'::xid8 ELSE split_part(split_part(position, ':', 1), '.', 1)::xid8 END AS xact
  FROM creditmirror.export_cursors WHERE name <> '` + pruned + `' AND ` + otherReaders + ` ORDER BY 1 LIMIT 1
), old AS (
  SELECT c.account, c.seq FROM creditmirror.changes AS c, behind
  WHERE c.xact < behind.xact AND c.changed_at < now() - $1 * interval '1 microsecond'
  ORDER BY c.account, c.xact, c.seq LIMIT $2
), gone AS (
  DELETE FROM creditmirror.changes AS c USING old WHERE c.account = old.account AND c.seq = old.seq RETURNING c.xact
)
SELECT (SELECT count(*) FROM gone), coalesce((SELECT xact FROM gone ORDER BY xact DESC LIMIT 1), '0'::xid8)::text`
	savePruned = `INSERT INTO creditmirror.export_cursors (account, name, generation, position, number, seen_at, synced_at)
VALUES ('', '` + pruned + `', 0, $1, 0, clock_timestamp(), clock_timestamp())
ON CONFLICT (account, name) DO UPDATE SET position = CASE WHEN excluded.position::xid8 > export_cursors.position::xid8 THEN excluded.position ELSE export_cursors.position END,
    seen_at = excluded.seen_at, synced_at = excluded.synced_at`
)

func scanCursor(row pgx.CollectableRow) (c mirror.FeedCursor, err error) {
	err = row.Scan(&c.Name, &c.Account, &c.Generation, &c.Position.Text, &c.Position.Number, &c.SeenAt)
	return c, err
}

// FeedCursor returns a reader's cursor.
func (s *Store) FeedCursor(ctx context.Context, name, account string) (mirror.FeedCursor, error) {
	c, err := one(query(ctx, s, scanCursor, selectCursors+" AND name = $1 AND account = $2", name, account))
	if errors.Is(notFound(err), mirror.ErrNotFound) {
		err = mirror.ErrNotFound
	}
	if err != nil {
		return mirror.FeedCursor{}, fmt.Errorf("feed cursor %s: %w", name, err)
	}
	return c, nil
}

// FeedCursors lists all readers.
func (s *Store) FeedCursors(ctx context.Context) ([]mirror.FeedCursor, error) {
	list, err := query(ctx, s, scanCursor, selectCursors+" ORDER BY name, account")
	if err != nil {
		return nil, fmt.Errorf("feed cursors: %w", err)
	}
	return list, nil
}

// SaveFeedCursor records how far a reader has read.
func (s *Store) SaveFeedCursor(ctx context.Context, c mirror.FeedCursor) error {
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(saveCursor, c.Account, c.Name, c.Generation, c.Position.Text, c.Position.Number)
	})
	if err != nil {
		return fmt.Errorf("save feed cursor %s: %w", c.Name, err)
	}
	return nil
}

// PruneFeed deletes what every reader has read.
func (s *Store) PruneFeed(ctx context.Context, age time.Duration, limit int) (deleted int64, forgotten []mirror.FeedCursor, err error) {
	err = s.inTransaction(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, forgetCursors, age.Microseconds())
		if err != nil {
			return err
		}
		if forgotten, err = pgx.CollectRows(rows, scanCursor); err != nil {
			return err
		}
		var to string
		if err := tx.QueryRow(ctx, pruneChanges, age.Microseconds(), limit).Scan(&deleted, &to); err != nil || deleted == 0 {
			return err
		}
		last, err := strconv.ParseUint(to, 10, 64)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, savePruned, strconv.FormatUint(last+1, 10))
		return err
	})
	if err == nil {
		err = s.pruneTotals(ctx)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("prune the feed: %w", err)
	}
	return deleted, forgotten, nil
}
