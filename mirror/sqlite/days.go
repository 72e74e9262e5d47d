package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/report"
)

var _ report.DayTable = (*Store)(nil)

const (
	dayState = `SELECT generation, position, usable, built_at, folded_at, CASE WHEN proof_generation = generation THEN proof_position ELSE '' END,
  proof_generation = generation, d.token, d.doubts, d.sums
FROM ledger_days_state, (SELECT max(token) AS token, count(*) AS doubts, ifnull(max(sums), 0) AS sums FROM ledger_days_doubts) d WHERE account = ''`

	// touchedSince are customers with newer records of the balance ledger than ?1, and
	// doubted those in doubt too.
	touchedSince = `SELECT account, customer FROM changes WHERE seq > ?1 AND table_name = 'customer_balance_transactions'`
	touchedKeys  = `WITH k AS MATERIALIZED (SELECT DISTINCT account, customer FROM (` + touchedSince + `) LIMIT ?2 + 0)
`
	doubtedKeys = `WITH k AS MATERIALIZED (SELECT account, customer FROM ledger_days_doubts UNION ` + touchedSince + ` LIMIT ?2 + 0)
`

	// openChains looks at every link. A chain whose places, dates and links are in order
	// adds up to an ending balance at any moment. The index has the order of dates, then
	// of places.
	openChains = `SELECT DISTINCT account, customer FROM (
  SELECT account, customer FROM (
    SELECT t.account, t.customer, CASE
      WHEN t.amount BETWEEN -4611686018427387904 AND 4611686018427387903
       AND t.ending_balance BETWEEN -4611686018427387904 AND 4611686018427387903 THEN t.ending_balance - t.amount <> ifnull(lag(t.ending_balance) OVER w, 0)
      ELSE 1 END OR ifnull(lag(t.chain_position) OVER w >= t.chain_position, 0) AS open
    FROM %s AND t.chain_position IS NOT NULL WINDOW w AS (PARTITION BY t.account, t.customer, t.currency ORDER BY t.created, t.chain_position)
  ) WHERE open
  UNION ALL SELECT u.account, u.customer FROM %s AND u.chain_position IS NULL
) LIMIT ?2 + 0`

	insertedSince = `SELECT DISTINCT table_name, account, customer, id FROM changes
WHERE seq > ?1 AND op = 'insert' AND table_name IN ('customer_balance_transactions', 'credit_balance_transactions') LIMIT ?2 + 0`
	countSince = `SELECT count(*) FROM (` + insertedSince + `)`

	daysSince = `SELECT account, ledger, currency, day, line, sum(amount >> 32), sum(amount & 4294967295), count(*) FROM (
  SELECT n.account, 'balance' AS ledger, t.currency, substr(t.created, 1, 10) AS day, t.type AS line, t.amount
  FROM (` + insertedSince + `) n CROSS JOIN customer_balance_transactions t ON t.account = n.account AND t.customer = n.customer AND t.id = n.id
  WHERE n.table_name = 'customer_balance_transactions'
  UNION ALL
  SELECT n.account, 'credits', t.currency, substr(t.effective_at, 1, 10), coalesce(t.credit_type, t.debit_type, ''), t.amount
  FROM (` + insertedSince + `) n CROSS JOIN credit_balance_transactions t ON t.account = n.account AND t.customer = n.customer AND t.id = n.id
  WHERE n.table_name = 'credit_balance_transactions' AND t.effective_at IS NOT NULL
) GROUP BY 1, 2, 3, 4, 5`

	dayColumns = `account, ledger, currency, day, line`

	beginDays = `INSERT INTO ledger_days_state (account, generation, building, position, usable, synced_at) VALUES ('', 0, 1, '', 0, ?1)
ON CONFLICT (account) DO UPDATE SET building = building + 1, synced_at = excluded.synced_at`
	daysBuilding = `SELECT building FROM ledger_days_state WHERE account = ''`

	putDay = `INSERT INTO ledger_days (account, generation, ledger, currency, day, line, amount, rows, synced_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)`
	// addDay touches nothing where the sum would not fit 64 bits: SQLite makes it a
	// floating-point number then.
	addDay = putDay + `
ON CONFLICT (generation, account, ledger, currency, day, line) DO UPDATE
SET amount = amount + excluded.amount, rows = rows + excluded.rows, synced_at = excluded.synced_at
WHERE typeof(amount + excluded.amount) = 'integer'`

	useDays = `UPDATE ledger_days_state SET generation = ?2, position = ?3, usable = ?4, built_at = ?5, folded_at = ?6, synced_at = ?6,
  proof_generation = ?2, proof_position = ?7
WHERE account = '' AND generation = ?1 AND building = ?2`

	seenDoubts = `DELETE FROM ledger_days_doubts WHERE token <= ?1`

	// openDoubt keeps whose chain is open, until a proof has seen that it was kept.
	openDoubt = `INSERT INTO ledger_days_doubts (account, customer, token, sums, synced_at)
SELECT ?1, ?2, ifnull(max(token), 0) + 1, 0, ?3 FROM ledger_days_doubts WHERE true
ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at`

	// foldDays moves the proof too, where it still is the one that was carried forward.
	foldDays = `UPDATE ledger_days_state SET position = ?3, folded_at = ?4, synced_at = ?4,
  proof_position = CASE WHEN proof_position = ?5 THEN ?6 ELSE '' END
WHERE account = '' AND generation = ?1 AND position = ?2 AND usable`

	refuseDays = `UPDATE ledger_days_state SET usable = 0, synced_at = ?3 WHERE account = '' AND generation = ?1 AND position = ?2`

	dropDays = `DELETE FROM ledger_days WHERE (generation, account, ledger, currency, day, line) IN (
  SELECT d.generation, d.account, d.ledger, d.currency, d.day, d.line FROM ledger_days_state s CROSS JOIN ledger_days d
  WHERE d.generation < s.building AND d.generation <> s.generation LIMIT ?1 + 0)`
)

// DayState returns the state of the day table.
func (b *books) DayState(ctx context.Context) (s report.DayState, err error) {
	var doubts sql.NullInt64
	err = b.conn.QueryRowContext(ctx, dayState).Scan(&s.Generation, &s.Position, &s.Usable, timeColumn{&s.BuiltAt}, timeColumn{&s.FoldedAt},
		&s.Proven, &s.Tried, &doubts, &s.InDoubt, &s.Doubted)
	if errors.Is(err, sql.ErrNoRows) {
		return report.DayState{}, nil
	}
	if doubts.Valid {
		s.Doubts = strconv.FormatInt(doubts.Int64, 10)
	}
	return s, err
}

// reachable returns the number of a position, where the feed has all that came after it.
func (b *books) reachable(ctx context.Context, position string) (int64, error) {
	seq, err := parsePosition(position)
	if err != nil {
		return 0, err
	}
	var last, gone int64
	for query, into := range map[string]*int64{lastChange: &last, prunedTo: &gone} {
		if err := b.conn.QueryRowContext(ctx, query).Scan(into); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
	}
	if seq > last || seq < gone {
		return 0, report.ErrFeedGone
	}
	return seq, nil
}

// DaysSince adds up what was inserted after a position.
func (b *books) DaysSince(ctx context.Context, position string, limit int) ([]report.Day, bool, error) {
	seq, err := b.reachable(ctx, position)
	if err != nil {
		return nil, false, err
	}
	var rows int
	if err := b.conn.QueryRowContext(ctx, countSince, seq, limit+1).Scan(&rows); err != nil || rows > limit {
		return nil, false, err
	}
	if rows == 0 {
		return nil, true, nil
	}
	days, err := list(ctx, b, new(statement).add(daysSince, seq, limit+1), nil, scanDay)
	return days, err == nil, err
}

// customers counts those of a query for keys: touchedKeys or doubtedKeys.
func (b *books) customers(ctx context.Context, keys string, seq int64, limit int) (n int, err error) {
	return n, b.conn.QueryRowContext(ctx, keys+`SELECT count(*) FROM k`, seq, limit+1).Scan(&n)
}

// OpenChains looks at the links of all chains, or of those that changed.
func (b *books) OpenChains(ctx context.Context, since string, limit int) ([]report.Key, bool, error) {
	const (
		all    = `customer_balance_transactions %[1]s INDEXED BY customer_balance_transactions_%[2]s WHERE true`
		some   = `k CROSS JOIN ` + all + ` AND %[1]s.account = k.account AND %[1]s.customer = k.customer`
		placed = "book"
		others = "unplaced"
	)
	rows, keys, seq := all, ``, int64(0)
	if since != "" {
		var err error
		if seq, err = b.reachable(ctx, since); err != nil {
			return nil, false, err
		}
		if n, err := b.customers(ctx, touchedKeys, seq, limit); err != nil || n == 0 || n > limit {
			return nil, n == 0, err
		}
		rows, keys = some, touchedKeys
	}
	q := new(statement).add(keys+fmt.Sprintf(openChains, fmt.Sprintf(rows, "t", placed), fmt.Sprintf(rows, "u", others)), seq, limit+1)
	open, err := list(ctx, b, q, nil, func(rows *sql.Rows, k *report.Key) error { return rows.Scan(&k.Account, &k.Customer) })
	if err != nil || len(open) > limit {
		return nil, false, err
	}
	return open, true, nil
}

// DoubtedSums looks at the rows of customers in doubt.
func (b *books) DoubtedSums(ctx context.Context, f report.Filter, until time.Time, position string, limit int) ([]report.Sum, bool, error) {
	seq, err := b.reachable(ctx, position)
	if err != nil {
		return nil, false, err
	}
	if n, err := b.customers(ctx, doubtedKeys, seq, limit); err != nil || n == 0 || n > limit {
		return nil, n == 0, err
	}
	q := new(statement).add(doubtedKeys, seq, limit+1)
	err = b.sums(ctx, q, report.LedgerBalance, f, report.ByLedger, until, report.OfDoubted)
	q.add(` ORDER BY t.account, t.customer, t.currency`)
	var sums []report.Sum
	for s, err := range stream(ctx, b, q, err, scanSum(report.LedgerBalance)) {
		if err != nil {
			return nil, false, err
		}
		if s.Amount != report.Of(s.End) {
			sums = append(sums, s)
		}
	}
	return sums, true, nil
}

func scanDay(rows *sql.Rows, d *report.Day) error {
	var sum report.Wide
	var day string
	err := rows.Scan(&d.Account, (*string)(&d.Ledger), &d.Currency, &day, &d.Line, &sum.High, &sum.Low, &d.Rows)
	d.Amount, d.Over = report.Halves(sum.High, sum.Low).Amount()
	if d.Day, _ = time.Parse(time.DateOnly, day); d.Day.IsZero() {
		d.Over = true // somebody wrote a text that is no time: only the rows themselves are sure
	}
	return err
}

// SumDays adds all rows up.
func (b *books) SumDays(ctx context.Context, account *string) iter.Seq2[report.Day, error] {
	q := new(statement)
	for i, l := range report.Ledgers("") {
		t := tableOf(l, report.ByLedger)
		if i > 0 {
			q.add(` UNION ALL `)
		}
		q.add(`SELECT t.account, ? AS ledger, t.currency, substr(t.`+t.date+`, 1, 10) AS day, `+t.kind+` AS line, sum(t.amount >> 32), sum(t.amount & 4294967295), count(*)
FROM `+t.table+` t`+t.index+` WHERE t.`+t.date+` IS NOT NULL`, string(l))
		if account != nil {
			q.add(` AND t.account = ?`, *account)
		}
		q.add(` GROUP BY 1, 2, 3, 4, 5`)
	}
	q.add(` ORDER BY 1, 2, 3, 4, 5`)
	return stream(ctx, b, q, nil, scanDay)
}

// Days lists what the table holds.
func (b *books) Days(ctx context.Context, generation int64, account *string) iter.Seq2[report.Day, error] {
	q := new(statement).add(`SELECT `+dayColumns+`, amount >> 32, amount & 4294967295, rows FROM ledger_days WHERE generation = ?`, generation)
	if account != nil {
		q.add(` AND account = ?`, *account)
	}
	q.add(` ORDER BY ` + dayColumns)
	return stream(ctx, b, q, nil, scanDay)
}

// dayCells adds the days of a generation up by spans and lines.
func (b *books) dayCells(ctx context.Context, generation int64, l report.Ledger, f report.Filter, bounds []time.Time) ([]report.Cell, error) {
	last := len(bounds) - 1
	q := new(statement).add(`SELECT r.account, r.currency, `)
	spanOf(q, "(r.day || 'T00:00:00.000000Z')", bounds[:last], 0)
	q.add(` AS span, r.line, sum(r.amount >> 32), sum(r.amount & 4294967295) FROM ledger_days r
WHERE r.generation = ? AND r.ledger = ? AND r.day < ?`, generation, string(l), bounds[last].UTC().Format(time.DateOnly))
	if f.Account != nil {
		q.add(` AND r.account = ?`, *f.Account)
	}
	if f.Currency != "" {
		q.add(` AND r.currency = ?`, f.Currency)
	}
	q.add(` GROUP BY 1, 2, 3, 4`)
	return list(ctx, b, q, nil, func(rows *sql.Rows, c *report.Cell) error {
		err := rows.Scan(&c.Account, &c.Currency, &c.Span, &c.Type, &c.Amount.High, &c.Amount.Low)
		c.Amount = report.Halves(c.Amount.High, c.Amount.Low)
		return err
	})
}

// BeginDays begins a generation.
func (s *Store) BeginDays(ctx context.Context) (generation int64, err error) {
	err = s.w.do(ctx, durable, func(tx *tx) error {
		if err := tx.exec(beginDays, tx.at); err != nil {
			return err
		}
		_, err := tx.row(daysBuilding, nil, &generation)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("begin the day table: %w", explain(s.path, err))
	}
	return generation, nil
}

func dayArguments(generation int64, d report.Day, at string) []any {
	return []any{d.Account, generation, string(d.Ledger), d.Currency, d.Day.Format(time.DateOnly), d.Line, d.Amount, d.Rows, at}
}

// PutDays stores days. A power cut may undo it, and then also that they count, which is
// stored later.
func (s *Store) PutDays(ctx context.Context, generation int64, days []report.Day) error {
	err := s.w.do(ctx, volatile, func(tx *tx) error {
		for _, d := range days {
			if err := tx.exec(putDay, dayArguments(generation, d, tx.at)...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store days: %w", explain(s.path, err))
	}
	return nil
}

// UseDays makes a generation count.
func (s *Store) UseDays(ctx context.Context, was int64, now report.DayState, proof report.Proof) (took bool, err error) {
	proven := ""
	if proof.Held {
		proven = now.Position
	}
	seq, err := parsePosition(now.Position)
	if err != nil {
		return false, err
	}
	var doubts int64
	if now.Doubts != "" {
		if doubts, err = strconv.ParseInt(now.Doubts, 10, 64); err != nil {
			return false, err
		}
	}
	err = s.w.do(ctx, durable, func(tx *tx) error {
		n, err := tx.affect(useDays, was, now.Generation, now.Position, flag(now.Usable), stamp(now.BuiltAt), tx.at, proven)
		if took = err == nil && n == 1; !took {
			return err
		}
		if err := tx.exec(seenDoubts, doubts); err != nil {
			return err
		}
		if err := tx.keepOpen(proof); err != nil {
			return err
		}
		return tx.exec(saveCursor, "*", report.DaysCursor, now.Generation, now.Position, seq, tx.at)
	})
	if err != nil {
		return false, fmt.Errorf("use the days: %w", explain(s.path, err))
	}
	return took, nil
}

// keepOpen keeps whose chains are open.
func (tx *tx) keepOpen(proof report.Proof) error {
	if !proof.Held {
		return nil
	}
	for _, k := range proof.Open {
		if err := tx.exec(openDoubt, k.Account, k.Customer, tx.at); err != nil {
			return err
		}
	}
	return nil
}

// errOver undoes a fold of which a sum does not fit 64 bits.
var errOver = errors.New("a sum does not fit 64 bits")

// FoldDays adds to the days.
func (s *Store) FoldDays(ctx context.Context, was report.DayState, position string, add []report.Day, proof report.Proof) (took bool, err error) {
	proven := ""
	if proof.Held {
		proven = position
	}
	seq, err := parsePosition(position)
	if err != nil {
		return false, err
	}
	err = s.w.do(ctx, durable, func(tx *tx) error {
		n, err := tx.affect(foldDays, was.Generation, was.Position, position, tx.at, was.Proven, proven)
		if took = err == nil && n == 1; !took {
			return err
		}
		if err := tx.keepOpen(proof); err != nil {
			return err
		}
		for _, d := range add {
			if d.Over {
				return errOver
			}
			n, err := tx.affect(addDay, dayArguments(was.Generation, d, tx.at)...)
			if err != nil {
				return err
			}
			if n == 0 {
				return errOver
			}
		}
		return tx.exec(saveCursor, "*", report.DaysCursor, was.Generation, position, seq, tx.at)
	})
	if errors.Is(err, errOver) {
		err = s.w.do(ctx, durable, func(tx *tx) error {
			n, err := tx.affect(refuseDays, was.Generation, was.Position, tx.at)
			took = n == 1
			return err
		})
	}
	if err != nil {
		return false, fmt.Errorf("fold the days: %w", explain(s.path, err))
	}
	return took, nil
}

// DropDays deletes days that can not be used any more.
func (s *Store) DropDays(ctx context.Context, limit int) (int64, error) {
	n := 0
	err := s.w.do(ctx, volatile, func(tx *tx) (err error) {
		n, err = tx.affect(dropDays, limit)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("drop old days: %w", explain(s.path, err))
	}
	return int64(n), nil
}
