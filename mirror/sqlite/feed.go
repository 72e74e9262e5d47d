package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

var _ mirror.Feed = (*Store)(nil)

// feedReader reads one snapshot for an export.
type feedReader struct{ *reading }

// ReadFeed runs fn on one snapshot, on a connection of its own: an export of a large
// mirror must not take one from the API.
func (s *Store) ReadFeed(ctx context.Context, fn func(mirror.FeedReader) error) error {
	conn, err := s.readers.Conn(ctx)
	if err != nil {
		return fmt.Errorf("read the feed: %w", s.explain(err))
	}
	defer conn.Close() //nolint:errcheck // it goes back to the pool
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("read the feed: %w", s.explain(err))
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	if err := fn(feedReader{&reading{s: s, ctx: ctx, tx: tx}}); err != nil {
		return fmt.Errorf("read the feed: %w", s.explain(err))
	}
	return nil
}

// Position is the sequence number of the newest record, and when it was written:
// where another record of that number lies later, the file was restored from a
// backup in between. Behind them is the number of the newest change of totals.
func (r feedReader) Position(context.Context) (p mirror.FeedPosition, err error) {
	if _, err = r.row(lastChange, nil, &p.Number); err != nil {
		return p, err
	}
	at, err := r.changedAt(p.Number)
	if err != nil {
		return p, err
	}
	var totals int64
	if _, err := r.row(lastTotal, nil, &totals); err != nil {
		return p, err
	}
	name, err := r.history()
	p.Text = mirror.MarkPosition(fmt.Sprintf("%d.%s.%d", p.Number, at, totals), name)
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
WHERE seq > ?1 AND table_name IN (SELECT value FROM json_each(?2)) GROUP BY 1, 2, 3, 4 LIMIT ?3 + 0`

// Changed lists the rows that changed after since.
func (r feedReader) Changed(_ context.Context, since string, tables []string, limit int) (map[string][]mirror.RowChange, bool, error) {
	name, err := r.history()
	if err != nil {
		return nil, false, err
	}
	since, ok := mirror.CutPosition(since, name)
	number, at, _ := strings.Cut(since, ".")
	at, _, _ = strings.Cut(at, ".")
	seq, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || seq < 0 {
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
	return r.values(t, selectRow(t)+" ORDER BY "+names(t.Columns[:t.Key]), nil, row)
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
	query := selectRow(t) + " WHERE (" + names(t.Columns[:t.Key]) + ") IN (SELECT " +
		strings.Join(parts, ", ") + " FROM json_each(?1))"
	return r.values(t, query, []any{string(text)}, row)
}

// parseMicros reads a time of the form timeFormat, the only one that is written, as
// microseconds since 1970; time.Parse takes four times as long.
func parseMicros(b []byte) (int64, error) {
	if len(b) != len("2006-01-02T15:04:05.000000Z") || b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' || b[19] != '.' || b[26] != 'Z' {
		return slowMicros(b)
	}
	ok := true
	number := func(from, to int) (n int) {
		for _, c := range b[from:to] {
			ok = ok && '0' <= c && c <= '9'
			n = n*10 + int(c-'0')
		}
		return n
	}
	year, month, day := number(0, 4), number(5, 7), number(8, 10)
	hour, minute, second, micros := number(11, 13), number(14, 16), number(17, 19), number(20, 26)
	if !ok || month < 1 || month > 12 || day < 1 || day > 28 && day > daysOf(year, month) || hour > 23 || minute > 59 || second > 59 {
		return slowMicros(b) // which says what is wrong
	}
	return time.Date(year, time.Month(month), day, hour, minute, second, micros*1000, time.UTC).UnixMicro(), nil
}

// daysOf is how many days a month has.
func daysOf(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	default:
		return 31
	}
}

func slowMicros(b []byte) (int64, error) {
	at, err := time.Parse(timeFormat, string(b))
	return at.UnixMicro(), err
}

// selectRow selects whole rows of t: all columns but JSON in one array, and each JSON
// by itself. A value that leaves SQLite costs more than most of what is in it, and JSON
// would be escaped in an array.
func selectRow(t mirror.Table) string {
	var plain, apart []string
	for i, c := range t.Columns {
		if c.Kind == mirror.KindJSON {
			apart = append(apart, names(t.Columns[i:i+1]))
		} else {
			plain = append(plain, names(t.Columns[i:i+1]))
		}
	}
	return "SELECT " + strings.Join(append([]string{"json_array(" + strings.Join(plain, ", ") + ")"}, apart...), ", ") + " FROM " + t.Name
}

// values runs a query of selectRow.
func (r feedReader) values(t mirror.Table, query string, args []any, row func([]mirror.Value) error) error {
	var plain sql.RawBytes
	var apart []sql.RawBytes
	for _, c := range t.Columns {
		if c.Kind == mirror.KindJSON {
			apart = append(apart, nil)
		}
	}
	into := []any{&plain}
	for i := range apart {
		into = append(into, &apart[i])
	}
	values := make([]mirror.Value, len(t.Columns))
	var plainText []byte
	return r.each(query, args, func(rows *sql.Rows) error {
		if err := rows.Scan(into...); err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
		cells, next := rowCells{rest: plain, unescaped: plainText[:0]}, 0
		for i, c := range t.Columns {
			var err error
			if c.Kind == mirror.KindJSON {
				values[i] = mirror.Value{Text: apart[next], Null: apart[next] == nil}
				next++
			} else if values[i], err = cells.value(c.Kind); err != nil {
				return fmt.Errorf("%s: column %s: %w", t.Name, c.Name, err)
			}
		}
		plainText = cells.unescaped
		return row(values)
	})
}

// rowCells are the values of a row in an array as SQLite writes it.
type rowCells struct {
	rest      []byte // from the bracket or comma before the next value
	unescaped []byte // texts that had to be copied
}

var errCells = errors.New("the row cannot be read")

// value is the next one.
func (c *rowCells) value(k mirror.Kind) (v mirror.Value, err error) {
	if len(c.rest) < 2 {
		return v, errCells
	}
	text := c.rest[1:]
	if text[0] != '"' {
		end := bytes.IndexAny(text, ",]")
		if end < 0 {
			return v, errCells
		}
		text, c.rest = text[:end], text[end:]
		if string(text) == "null" {
			return mirror.Value{Null: true}, nil
		}
		if k != mirror.KindInt && k != mirror.KindBool {
			return v, errCells
		}
		v.Int, err = parseInt(text)
		return v, err
	}
	end, escaped := 1, false
	for end < len(text) && text[end] != '"' {
		if text[end] == '\\' {
			escaped = true
			end++
		}
		end++
	}
	if end >= len(text) || k == mirror.KindInt || k == mirror.KindBool {
		return v, errCells
	}
	v.Text, c.rest = text[1:end], text[end+1:]
	if escaped {
		var plain string
		if err := json.Unmarshal(text[:end+1], &plain); err != nil {
			return v, err
		}
		from := len(c.unescaped)
		c.unescaped = append(c.unescaped, plain...)
		v.Text = c.unescaped[from:]
	}
	if k == mirror.KindTime {
		v.Int, err = parseMicros(v.Text)
		v.Text = nil
	}
	return v, err
}

// parseInt is strconv.ParseInt without a string.
func parseInt(text []byte) (int64, error) {
	digits, negative := text, false
	if text[0] == '-' {
		digits, negative = text[1:], true
	}
	if len(digits) > 18 || len(digits) == 0 {
		return strconv.ParseInt(string(text), 10, 64)
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, errCells
		}
		n = n*10 + int64(c-'0')
	}
	if negative {
		n = -n
	}
	return n, nil
}

const (
	lastTotal   = `SELECT seq FROM sqlite_sequence WHERE name = 'total_changes'`
	totalsAfter = `SELECT table_name, currency, sum(rows), rows, sum(amount >> 32), sum(amount & 4294967295) FROM total_changes WHERE seq > ?1 GROUP BY table_name, currency, rows`
	pruneTotals = `DELETE FROM total_changes WHERE seq IN (SELECT seq FROM total_changes WHERE seq <= ?1 ORDER BY seq LIMIT 10000)`
)

// totalsPart reads the number of the newest change of totals out of a position.
func totalsPart(position string) (int64, bool) {
	position, _ = mirror.CutPosition(position, "")
	parts := strings.Split(position, ".")
	if len(parts) != 3 {
		return 0, false // of a version that did not count them
	}
	n, err := strconv.ParseInt(parts[2], 10, 64)
	return n, err == nil
}

// TotalsSince adds up what rows are now and takes off what they were.
func (r feedReader) TotalsSince(_ context.Context, since string) (map[string]mirror.TableTotals, bool, error) {
	seq, known := totalsPart(since)
	if !known {
		return nil, false, nil
	}
	changed, sums := map[string]mirror.TableTotals{}, map[string]map[string]*big.Int{}
	err := r.each(totalsAfter, []any{seq}, func(rows *sql.Rows) error {
		var table string
		var currency sql.NullString
		var n, sign int64
		var high, low sql.NullInt64
		if err := rows.Scan(&table, &currency, &n, &sign, &high, &low); err != nil {
			return err
		}
		t := changed[table]
		t.Rows += n
		changed[table] = t
		if !currency.Valid || !high.Valid {
			return nil
		}
		if sums[table] == nil {
			sums[table] = map[string]*big.Int{}
		}
		sum := sums[table][currency.String]
		if sum == nil {
			sum = new(big.Int)
			sums[table][currency.String] = sum
		}
		part := new(big.Int).Lsh(big.NewInt(high.Int64), 32)
		part.Add(part, big.NewInt(low.Int64))
		sum.Add(sum, part.Mul(part, big.NewInt(sign)))
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	for table, of := range sums {
		t := changed[table]
		t.Sums = make(map[string]int64, len(of))
		for currency, sum := range of {
			if !sum.IsInt64() {
				return nil, false, nil // the sum itself may fit: it is added up anew
			}
			t.Sums[currency] = sum.Int64()
		}
		changed[table] = t
	}
	return changed, true, nil
}

func (r feedReader) TableTotals(_ context.Context, t mirror.Table, amount string) (totals mirror.TableTotals, err error) {
	if amount == "" {
		_, err = r.row("SELECT count(*) FROM "+t.Name, nil, &totals.Rows)
		return totals, err
	}
	query := `SELECT currency, count(*), sum("` + amount + `" >> 32), sum("` + amount + `" & 4294967295), count("` + amount + `") FROM ` + t.Name + " GROUP BY currency"
	err = r.each(query, nil, func(rows *sql.Rows) error {
		var currency sql.NullString
		var n, counted int64
		var high, low sql.NullInt64
		if err := rows.Scan(&currency, &n, &high, &low, &counted); err != nil {
			return err
		}
		totals.Rows += n
		if currency.Valid && counted > 0 {
			if totals.Sums == nil {
				totals.Sums = map[string]int64{}
			}
			sum, over := report.Halves(high.Int64, low.Int64).Amount()
			if over {
				return fmt.Errorf("the sum of %s.%s in %s %w", t.Name, amount, currency.String, report.ErrOverflow)
			}
			totals.Sums[currency.String] = sum
		}
		return nil
	})
	return totals, err
}

// unproven repeats what sync_state_apart holds, so that the index is seen to have them all.
const unproven = `SELECT count(*) FROM (SELECT DISTINCT account, customer FROM sync_state
WHERE (NOT history_complete OR disproved OR walk_cursor <> '' OR full_read_at IS NULL) AND (NOT history_complete OR walk_cursor <> ''))`

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
	// slowestCursor: the day table holds records back, but is made anew without them.
	// Nothing is deleted for its sake alone.
	slowestCursor = `SELECT min(number) FROM export_cursors WHERE name <> '` + pruned + `'
  AND EXISTS (SELECT 1 FROM export_cursors WHERE name NOT IN ('` + pruned + `', '` + report.DaysCursor + `'))`
	prunableTo   = `SELECT max(seq) FROM (SELECT seq FROM changes WHERE seq <= ?1 AND changed_at < ?2 ORDER BY seq LIMIT ?3 + 0)`
	pruneChanges = `DELETE FROM changes WHERE seq <= ?1`
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
		return fmt.Errorf("save feed cursor %s: %w", c.Name, s.explain(err))
	}
	return nil
}

// pruneTotals deletes changes of totals that every copy has, in slices that let other
// writers in. Without a copy nobody needs any.
func (s *Store) pruneTotals(ctx context.Context) error {
	for range 100 {
		var n int
		err := s.w.do(ctx, durable, func(tx *tx) error {
			to := int64(math.MaxInt64)
			n = 0
			err := tx.each(cursorsText+` AND name GLOB 'export-*'`, nil, func(rows *sql.Rows) error {
				c, err := scanCursor(rows)
				if err != nil {
					return err
				}
				// One that is under way, or was made by a version before, needs all or none.
				read, _ := totalsPart(c.Position.Text)
				to = min(to, read)
				return nil
			})
			if err == nil {
				n, err = tx.affect(pruneTotals, to)
			}
			return err
		})
		if err != nil || n < 10_000 {
			return s.explain(err)
		}
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
	if err == nil {
		err = s.pruneTotals(ctx)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("prune the feed: %w", s.explain(err))
	}
	return deleted, forgotten, nil
}
