package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/creditmirror/creditmirror/report"
)

var _ report.DayTable = (*Store)(nil)

const (
	dayState = `SELECT s.generation, s.position, s.usable, s.built_at, s.folded_at,
  CASE WHEN s.proof_generation = s.generation THEN s.proof_position ELSE '' END, s.proof_generation = s.generation, d.doubts, d.sums
FROM creditmirror.ledger_days_state AS s, (SELECT count(*) AS doubts, coalesce(bool_or(sums), false) AS sums FROM creditmirror.ledger_days_doubts) AS d
WHERE s.account = ''`

	// feedAccounts walks the accounts by the feed's index, so that in each a query begins
	// where a snapshot may have missed something.
	feedAccounts = `WITH RECURSIVE a (account) AS (
  (SELECT account FROM creditmirror.changes ORDER BY account LIMIT 1)
  UNION ALL
  SELECT (SELECT c.account FROM creditmirror.changes AS c WHERE c.account > a.account ORDER BY c.account LIMIT 1) FROM a WHERE a.account IS NOT NULL
), `

	// insertedSince are the keys of rows that a snapshot did not see.
	insertedSince = feedAccounts + `n AS (
  SELECT DISTINCT c.table_name, c.account, c.customer, c.id FROM a CROSS JOIN LATERAL (
    SELECT c.* FROM creditmirror.changes AS c
    WHERE c.account = a.account AND c.xact >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(c.xact, $1::text::pg_snapshot)
      AND c.op = 'insert' AND c.table_name IN ('customer_balance_transactions', 'credit_balance_transactions')
  ) AS c LIMIT $2
)
`
	countSince = insertedSince + `SELECT count(*) FROM n`

	// touchedSince are customers with newer records of the balance ledger than a snapshot,
	// and doubted those in doubt too.
	touchedRecords = `SELECT c.account, c.customer FROM a CROSS JOIN LATERAL (
    SELECT c.* FROM creditmirror.changes AS c
    WHERE c.account = a.account AND c.xact >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(c.xact, $1::text::pg_snapshot)
      AND c.table_name = 'customer_balance_transactions'
  ) AS c`
	touchedSince = feedAccounts + `k AS (SELECT DISTINCT r.account, r.customer FROM (` + touchedRecords + `) AS r LIMIT $2)
`
	doubted = feedAccounts + `k AS (SELECT account, customer FROM creditmirror.ledger_days_doubts UNION ` + touchedRecords + ` LIMIT $2)
`

	// openChains looks at every link. A chain whose places, dates and links are in order
	// adds up to an ending balance at any moment.
	openChains = `SELECT DISTINCT o.account, o.customer FROM (
  SELECT l.account, l.customer FROM (
    SELECT t.account, t.customer, CASE
      WHEN t.amount BETWEEN -4611686018427387904 AND 4611686018427387903
       AND t.ending_balance BETWEEN -4611686018427387904 AND 4611686018427387903 THEN t.ending_balance - t.amount <> coalesce(lag(t.ending_balance) OVER w, 0)
      ELSE true END OR coalesce(lag(t.created) OVER w > t.created OR lag(t.chain_position) OVER w >= t.chain_position, false) AS open
    FROM %s WINDOW w AS (PARTITION BY t.account, t.customer, t.currency ORDER BY t.chain_position)
  ) AS l WHERE l.open
  UNION ALL SELECT u.account, u.customer FROM %s
) AS o LIMIT $1`

	// Each row is looked up by its key, whatever the planner expects.
	daysSince = insertedSince + `SELECT r.account, r.ledger, r.currency, r.day, r.line, ` + wideSum + `, count(*) FROM (
  SELECT n.account, 'balance' AS ledger, t.currency, (t.created AT TIME ZONE 'UTC')::date AS day, t.type AS line, t.amount
  FROM n CROSS JOIN LATERAL (SELECT b.* FROM creditmirror.customer_balance_transactions AS b
    WHERE b.account = n.account AND b.customer = n.customer AND b.id = n.id OFFSET 0) AS t
  WHERE n.table_name = 'customer_balance_transactions'
  UNION ALL
  SELECT n.account, 'credits', t.currency, (t.effective_at AT TIME ZONE 'UTC')::date, coalesce(t.credit_type, t.debit_type, ''), t.amount
  FROM n CROSS JOIN LATERAL (SELECT b.* FROM creditmirror.credit_balance_transactions AS b
    WHERE b.account = n.account AND b.customer = n.customer AND b.id = n.id OFFSET 0) AS t
  WHERE n.table_name = 'credit_balance_transactions' AND t.effective_at IS NOT NULL
) AS r GROUP BY 1, 2, 3, 4, 5`

	// wideSum is a sum in two halves, which no number of rows overflows.
	wideSum = `coalesce(sum(r.amount >> 32), 0)::bigint, coalesce(sum(r.amount & 4294967295), 0)::bigint`

	dayColumns = `account, ledger, currency, day, line`

	beginDays = `INSERT INTO creditmirror.ledger_days_state AS s (account, generation, building, position, usable) VALUES ('', 0, 1, '', false)
ON CONFLICT (account) DO UPDATE SET building = s.building + 1, synced_at = now() RETURNING building`

	putDays = `INSERT INTO creditmirror.ledger_days AS d (account, generation, ledger, currency, day, line, amount, rows)
SELECT u.account, $1::bigint, u.ledger, u.currency, u.day, u.line, u.amount, u.rows
FROM unnest($2::text[], $3::text[], $4::text[], $5::date[], $6::text[], $7::bigint[], $8::bigint[])
  AS u (account, ledger, currency, day, line, amount, rows)`

	addDays = putDays + `
ON CONFLICT (generation, account, ledger, currency, day, line) DO UPDATE
SET amount = d.amount + excluded.amount, rows = d.rows + excluded.rows, synced_at = now()`

	useDays = `UPDATE creditmirror.ledger_days_state SET generation = $2, position = $3, usable = $4, built_at = $5, proof_generation = $2, proof_position = $6,
  folded_at = now(), synced_at = now()
WHERE account = '' AND generation = $1 AND building = $2`

	// seenDoubts are those of transactions that the sums of the rows have seen.
	seenDoubts = `DELETE FROM creditmirror.ledger_days_doubts WHERE pg_visible_in_snapshot(token, $1::text::pg_snapshot)`

	// openDoubts keeps whose chains are open, until a proof has seen that they were kept.
	openDoubts = `INSERT INTO creditmirror.ledger_days_doubts AS d (account, customer, token, sums)
SELECT u.account, u.customer, pg_current_xact_id(), false FROM unnest($1::text[], $2::text[]) AS u (account, customer)
ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = now()`

	// foldDays moves the proof too, where it still is the one that was carried forward.
	foldDays = `UPDATE creditmirror.ledger_days_state SET position = $3, proof_position = CASE WHEN proof_position = $4 THEN $5 ELSE '' END,
  folded_at = now(), synced_at = now()
WHERE account = '' AND generation = $1 AND position = $2 AND usable`

	refuseDays = `UPDATE creditmirror.ledger_days_state SET usable = false, synced_at = now() WHERE account = '' AND generation = $1 AND position = $2`

	dropDays = `DELETE FROM creditmirror.ledger_days AS d USING (
  SELECT o.generation, o.account, o.ledger, o.currency, o.day, o.line FROM creditmirror.ledger_days AS o, creditmirror.ledger_days_state AS s
  WHERE o.generation < s.building AND o.generation <> s.generation LIMIT $1
) AS o WHERE d.generation = o.generation AND d.account = o.account AND d.ledger = o.ledger AND d.currency = o.currency AND d.day = o.day AND d.line = o.line`
)

// DayState returns the state of the day table.
func (b *books) DayState(ctx context.Context) (s report.DayState, err error) {
	err = b.conn.QueryRow(ctx, dayState).Scan(&s.Generation, &s.Position, &s.Usable, (*optTime)(&s.BuiltAt), (*optTime)(&s.FoldedAt),
		&s.Proven, &s.Tried, &s.InDoubt, &s.Doubted)
	if errors.Is(err, pgx.ErrNoRows) {
		return report.DayState{}, nil
	}
	return s, err
}

// reachable returns the snapshot of a position, where the feed has all that came after it.
func (b *books) reachable(ctx context.Context, position string) (string, error) {
	_, system, snapshot, err := parsePosition(position)
	if err != nil {
		return "", err
	}
	var own string
	if err := b.conn.QueryRow(ctx, systemIdentifier).Scan(&own); err != nil {
		return "", err
	}
	if own != system || snapshot == "" {
		return "", report.ErrFeedGone // of the server that this database was restored from
	}
	var reaches bool
	if err := b.conn.QueryRow(ctx, feedReaches, snapshot).Scan(&reaches); err != nil {
		return "", err
	}
	if !reaches {
		return "", report.ErrFeedGone
	}
	return snapshot, nil
}

// DaysSince adds up what was inserted after a position.
func (b *books) DaysSince(ctx context.Context, position string, limit int) ([]report.Day, bool, error) {
	snapshot, err := b.reachable(ctx, position)
	if err != nil {
		return nil, false, err
	}
	var rows int
	if err := b.conn.QueryRow(ctx, countSince, snapshot, limit+1).Scan(&rows); err != nil || rows > limit {
		return nil, false, err
	}
	if rows == 0 {
		return nil, true, nil
	}
	q := &statement{args: []any{snapshot, limit + 1}}
	q.text.WriteString(daysSince)
	days, err := list(ctx, b, q, nil, scanDay)
	return days, err == nil, err
}

// OpenChains looks at the links of all chains, or of those that changed.
func (b *books) OpenChains(ctx context.Context, since string, limit int) ([]report.Key, bool, error) {
	const table = `creditmirror.customer_balance_transactions`
	q := &statement{args: []any{limit + 1}}
	if since == "" {
		q.text.WriteString(fmt.Sprintf(openChains, table+` AS t WHERE t.chain_position IS NOT NULL`, table+` AS u WHERE u.chain_position IS NULL`))
	} else {
		snapshot, err := b.reachable(ctx, since)
		if err != nil {
			return nil, false, err
		}
		var customers int
		if err := b.conn.QueryRow(ctx, touchedSince+`SELECT count(*) FROM k`, snapshot, limit+1).Scan(&customers); err != nil || customers > limit {
			return nil, false, err
		}
		if customers == 0 {
			return nil, true, nil
		}
		rows := `k CROSS JOIN LATERAL (SELECT b.account, b.customer, b.currency, b.amount, b.ending_balance, b.created, b.chain_position FROM ` + table + ` AS b
  WHERE b.account = k.account AND b.customer = k.customer AND b.chain_position IS ` // each is looked up by its key
		q.args = []any{snapshot, limit + 1}
		q.text.WriteString(touchedSince + strings.ReplaceAll(fmt.Sprintf(openChains, rows+`NOT NULL OFFSET 0) AS t`, rows+`NULL OFFSET 0) AS u`), "$1", "$2"))
	}
	open, err := list(ctx, b, q, nil, func(row pgx.Row, k *report.Key) error { return row.Scan(&k.Account, &k.Customer) })
	if err != nil || len(open) > limit {
		return nil, false, err
	}
	return open, true, nil
}

// DoubtedSums looks at the rows of customers in doubt.
func (b *books) DoubtedSums(ctx context.Context, f report.Filter, until time.Time, position string, limit int) ([]report.Sum, bool, error) {
	snapshot, err := b.reachable(ctx, position)
	if err != nil {
		return nil, false, err
	}
	var customers int
	if err := b.conn.QueryRow(ctx, doubted+`SELECT count(*) FROM k`, snapshot, limit+1).Scan(&customers); err != nil || customers > limit {
		return nil, false, err
	}
	if customers == 0 {
		return nil, true, nil
	}
	q := &statement{args: []any{snapshot, limit + 1}}
	q.text.WriteString(doubted + `SELECT s.account, s.customer, s.currency, s.amount, s.ending FROM (`)
	err = b.sums(ctx, q, report.LedgerBalance, f, report.ByLedger, until, report.OfDoubted)
	q.add(`) AS s WHERE s.amount <> s.ending ORDER BY s.account, s.customer, s.currency`)
	sums, err := list(ctx, b, q, err, scanSum(report.LedgerBalance))
	return sums, err == nil, err
}

func scanDay(row pgx.Row, d *report.Day) error {
	var sum report.Wide
	var day pgtype.Date
	err := row.Scan(&d.Account, (*string)(&d.Ledger), &d.Currency, &day, &d.Line, &sum.High, &sum.Low, &d.Rows)
	d.Day = day.Time
	d.Amount, d.Over = report.Halves(sum.High, sum.Low).Amount()
	if day.InfinityModifier != pgtype.Finite {
		d.Over = true // somebody wrote infinity: only the rows themselves are sure
	}
	return err
}

// SumDays adds all rows up.
func (b *books) SumDays(ctx context.Context, account *string) iter.Seq2[report.Day, error] {
	q := new(statement).add(`SELECT r.account, r.ledger, r.currency, r.day, r.line, ` + wideSum + `, count(*) FROM (`)
	for i, l := range report.Ledgers("") {
		t := tableOf(l, report.ByLedger)
		if i > 0 {
			q.add(` UNION ALL `)
		}
		q.add(`SELECT t.account, ?::text COLLATE "C" AS ledger, t.currency, (t.`+t.date+` AT TIME ZONE 'UTC')::date AS day, (`+t.kind+`) COLLATE "C" AS line, t.amount
FROM `+t.table+` AS t WHERE t.`+t.date+` IS NOT NULL`, string(l))
		if account != nil {
			q.add(` AND t.account = ?`, *account)
		}
	}
	q.add(`) AS r GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5`)
	return stream(ctx, b, q, nil, scanDay)
}

// Days lists what the table holds.
func (b *books) Days(ctx context.Context, generation int64, account *string) iter.Seq2[report.Day, error] {
	q := new(statement).add(`SELECT `+dayColumns+`, amount >> 32, amount & 4294967295, rows FROM creditmirror.ledger_days WHERE generation = ?`, generation)
	if account != nil {
		q.add(` AND account = ?`, *account)
	}
	return stream(ctx, b, q.add(` ORDER BY `+dayColumns), nil, scanDay)
}

// dayCells adds the days of a generation up by spans and lines.
func (b *books) dayCells(ctx context.Context, generation int64, l report.Ledger, f report.Filter, bounds []time.Time) ([]report.Cell, error) {
	days := make([]time.Time, len(bounds)) // dates are of the day in their own zone
	for i, bound := range bounds {
		days[i] = bound.UTC()
	}
	last := len(bounds) - 1
	q := new(statement).add(`SELECT r.account, r.currency, width_bucket(r.day, ?::date[]) AS span, r.line, `+wideSum+`
FROM creditmirror.ledger_days AS r WHERE r.generation = ? AND r.ledger = ? AND r.day < ?::date`, days[:last], generation, string(l), days[last])
	if f.Account != nil {
		q.add(` AND r.account = ?`, *f.Account)
	}
	if f.Currency != "" {
		q.add(` AND r.currency = ?`, f.Currency)
	}
	return list(ctx, b, q.add(` GROUP BY 1, 2, 3, 4`), nil, func(row pgx.Row, c *report.Cell) error {
		err := row.Scan(&c.Account, &c.Currency, &c.Span, &c.Type, &c.Amount.High, &c.Amount.Low)
		c.Amount = report.Halves(c.Amount.High, c.Amount.Low)
		return err
	})
}

// BeginDays begins a generation.
func (s *Store) BeginDays(ctx context.Context) (generation int64, err error) {
	if err = s.pool.QueryRow(ctx, beginDays).Scan(&generation); err != nil {
		return 0, fmt.Errorf("begin the day table: %w", err)
	}
	return generation, nil
}

// dayArguments are the columns of days.
func dayArguments(generation int64, days []report.Day) []any {
	return []any{
		generation,
		column(days, func(d *report.Day) string { return d.Account }), column(days, func(d *report.Day) string { return string(d.Ledger) }),
		column(days, func(d *report.Day) string { return d.Currency }), column(days, func(d *report.Day) time.Time { return d.Day }),
		column(days, func(d *report.Day) string { return d.Line }), column(days, func(d *report.Day) int64 { return d.Amount }),
		column(days, func(d *report.Day) int64 { return d.Rows }),
	}
}

// PutDays stores days.
func (s *Store) PutDays(ctx context.Context, generation int64, days []report.Day) error {
	if _, err := s.pool.Exec(ctx, putDays, dayArguments(generation, days)...); err != nil {
		return fmt.Errorf("store days: %w", err)
	}
	return nil
}

// UseDays makes a generation count.
func (s *Store) UseDays(ctx context.Context, was int64, now report.DayState, proof report.Proof) (took bool, err error) {
	proven := ""
	if proof.Held {
		proven = now.Position
	}
	err = retry(ctx, func() error {
		return s.inTransaction(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, useDays, was, now.Generation, now.Position, now.Usable, now.BuiltAt, proven)
			if took = err == nil && tag.RowsAffected() == 1; !took {
				return err
			}
			seq, _, snapshot, err := parsePosition(now.Position)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, seenDoubts, snapshot); err != nil {
				return err
			}
			if err := keepOpen(ctx, tx, proof); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, saveCursor, "*", report.DaysCursor, now.Generation, snapshot, seq)
			return err
		})
	})
	if err != nil {
		return false, fmt.Errorf("use the days: %w", err)
	}
	return took, nil
}

// keepOpen keeps whose chains are open.
func keepOpen(ctx context.Context, tx pgx.Tx, proof report.Proof) error {
	if !proof.Held || len(proof.Open) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, openDoubts, column(proof.Open, func(k *report.Key) string { return k.Account }),
		column(proof.Open, func(k *report.Key) string { return k.Customer }))
	return err
}

// FoldDays adds to the days.
func (s *Store) FoldDays(ctx context.Context, was report.DayState, position string, add []report.Day, proof report.Proof) (took bool, err error) {
	proven := ""
	if proof.Held {
		proven = position
	}
	seq, _, snapshot, err := parsePosition(position)
	if err != nil {
		return false, err
	}
	over := false
	for _, d := range add {
		over = over || d.Over
	}
	if !over {
		err = retry(ctx, func() error {
			return s.inTransaction(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
				tag, err := tx.Exec(ctx, foldDays, was.Generation, was.Position, position, was.Proven, proven)
				if took = err == nil && tag.RowsAffected() == 1; !took {
					return err
				}
				if err := keepOpen(ctx, tx, proof); err != nil {
					return err
				}
				if len(add) > 0 {
					if _, err := tx.Exec(ctx, addDays, dayArguments(was.Generation, add)...); err != nil {
						return err
					}
				}
				_, err = tx.Exec(ctx, saveCursor, "*", report.DaysCursor, was.Generation, snapshot, seq)
				return err
			})
		})
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); over || ok && pg.Code == numericOutOfRange {
		var tag pgconn.CommandTag
		tag, err = s.pool.Exec(ctx, refuseDays, was.Generation, was.Position)
		took = tag.RowsAffected() == 1
	}
	if err != nil {
		return false, fmt.Errorf("fold the days: %w", err)
	}
	return took, nil
}

// numericOutOfRange is the state of a sum that does not fit its type.
const numericOutOfRange = "22003"

// DropDays deletes days that can not be used any more.
func (s *Store) DropDays(ctx context.Context, limit int) (int64, error) {
	tag, err := s.pool.Exec(ctx, dropDays, limit)
	if err != nil {
		return 0, fmt.Errorf("drop old days: %w", err)
	}
	return tag.RowsAffected(), nil
}
