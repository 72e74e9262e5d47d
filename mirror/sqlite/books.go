package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

var (
	_ report.Books  = (*Store)(nil)
	_ report.Sealer = (*Store)(nil)
)

// Books runs fn on one snapshot over a connection of its own: the write-ahead log
// grows while a report stands, and the pool of the short reads stays free.
func (s *Store) Books(ctx context.Context, fn func(report.Reader) error) (err error) {
	defer func() { err = s.explain(err) }()
	// Sorters of a report may need much room; they get it on disk.
	db, err := sql.Open("sqlite", dsn(s.path, "busy_timeout(5000)", "query_only(1)", "cache_size(-16000)", "temp_store(file)"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := conn.ExecContext(ctx, beginAudit); err != nil {
		return err
	}
	defer func() {
		_, rollback := conn.ExecContext(context.WithoutCancel(ctx), endAudit)
		err = errors.Join(err, rollback)
	}()
	var n int
	if err := conn.QueryRowContext(ctx, openAudit).Scan(&n); err != nil {
		return err
	}
	return fn(&books{conn: conn})
}

// books reads one snapshot.
type books struct {
	conn     *sql.Conn
	accounts []string
	listed   bool
	days     report.SnapshotDays
}

// statement is SQL with its arguments.
type statement struct {
	text strings.Builder
	args []any
}

// add appends SQL; each ? takes one argument.
func (q *statement) add(text string, args ...any) *statement {
	q.text.WriteString(text)
	q.args = append(q.args, args...)
	return q
}

// stream runs a statement whose making may have failed.
func stream[Row any](ctx context.Context, b *books, q *statement, err error, scan func(*sql.Rows, *Row) error) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		var row Row
		if err != nil {
			yield(row, err)
			return
		}
		rows, err := b.conn.QueryContext(ctx, q.text.String(), q.args...)
		if err != nil {
			yield(row, err)
			return
		}
		defer rows.Close()
		for rows.Next() {
			var row Row
			if err := scan(rows, &row); err != nil {
				yield(row, err)
				return
			}
			if !yield(row, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(row, err)
		}
	}
}

// list runs a statement and keeps its rows.
func list[Row any](ctx context.Context, b *books, q *statement, err error, scan func(*sql.Rows, *Row) error) ([]Row, error) {
	var all []Row
	for row, err := range stream(ctx, b, q, err, scan) {
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, nil
}

// where narrows to a filter; customer names the column that holds the customer.
func (b *books) where(ctx context.Context, q *statement, table, customer string, f report.Filter) error {
	switch {
	case f.Account != nil:
		q.add(` AND `+table+`account = ?`, *f.Account)
	case f.Customer != "": // every index begins with the account
		accounts, err := b.allAccounts(ctx)
		if err != nil {
			return err
		}
		q.add(` AND ` + table + `account IN (''`)
		for _, account := range accounts {
			q.add(`, ?`, account)
		}
		q.add(`)`)
	}
	if f.Customer != "" {
		q.add(` AND `+table+customer+` = ?`, f.Customer)
	}
	return nil
}

func (b *books) allAccounts(ctx context.Context) ([]string, error) {
	if b.listed {
		return b.accounts, nil
	}
	list, err := list(ctx, b, new(statement).add(auditAccounts), nil, func(rows *sql.Rows, account *string) error { return rows.Scan(account) })
	b.accounts, b.listed = list, err == nil
	return list, err
}

// ofCurrency narrows to a currency.
func ofCurrency(q *statement, f report.Filter) {
	if f.Currency != "" {
		q.add(` AND t.currency = ?`, f.Currency)
	}
}

const (
	isApart = `(NOT history_complete OR disproved OR walk_cursor <> '' OR full_read_at IS NULL)`
	isLate  = `(effective_at > created OR test_clock IS NOT NULL)`
)

// apart is a query for the keys of the customers that stand apart.
func (b *books) apart(ctx context.Context, q *statement, l report.Ledger, f report.Filter) error {
	q.add(`SELECT account, customer FROM sync_state INDEXED BY sync_state_apart WHERE `+isApart+` AND scope = ?`, string(l))
	if err := b.where(ctx, q, "", "customer", f); err != nil {
		return err
	}
	q.add(` UNION SELECT account, id FROM customers INDEXED BY customers_deleted WHERE deleted`)
	if err := b.where(ctx, q, "", "id", f); err != nil {
		return err
	}
	if l == report.LedgerCredits {
		q.add(` UNION SELECT account, customer FROM credit_grants INDEXED BY credit_grants_late WHERE ` + isLate)
	} else {
		q.add(` UNION SELECT account, customer FROM customer_balance_transactions INDEXED BY customer_balance_transactions_unplaced
WHERE chain_position IS NULL`)
	}
	return b.where(ctx, q, "", "customer", f)
}

// Standings lists who stands apart.
func (b *books) Standings(ctx context.Context, l report.Ledger, f report.Filter) iter.Seq2[report.Standing, error] {
	q := new(statement).add(`SELECT k.account, k.customer, ifnull(s.history_complete, 1), ifnull(s.walk_cursor, ''), ifnull(s.disproved, 0),
  ` + map[bool]string{true: `0`, false: `EXISTS (SELECT 1 FROM customer_balance_transactions u INDEXED BY customer_balance_transactions_unplaced
    WHERE u.account = k.account AND u.customer = k.customer AND u.chain_position IS NULL)`}[l == report.LedgerCredits] + `,
  CASE WHEN c.deleted THEN ifnull(c.deleted_at, c.synced_at)
    WHEN c.id IS NULL AND s.history_complete AND s.full_read_at IS NULL THEN s.observed_at END
FROM (`)
	err := b.apart(ctx, q, l, f)
	q.add(`) k LEFT JOIN sync_state s ON s.account = k.account AND s.customer = k.customer AND s.scope = ?
LEFT JOIN customers c ON c.account = k.account AND c.id = k.customer ORDER BY k.account, k.customer`, string(l))
	return stream(ctx, b, q, err, func(rows *sql.Rows, s *report.Standing) error {
		var walk string
		err := rows.Scan(&s.Account, &s.Customer, &s.Complete, &walk, &s.Disproved, &s.Unplaced, timeColumn{&s.DeletedAt})
		s.Walking = walk != ""
		return err
	})
}

// ledgerTable names the parts of a ledger in SQL.
type ledgerTable struct{ table, date, index, kind, end string }

func tableOf(l report.Ledger, d report.Dating) ledgerTable {
	if l == report.LedgerBalance {
		return ledgerTable{
			"customer_balance_transactions", "created", " INDEXED BY customer_balance_transactions_book", "t.type",
			"max(t.chain_position), t.ending_balance",
		}
	}
	t := ledgerTable{
		"credit_balance_transactions", "effective_at", " INDEXED BY credit_balance_transactions_book",
		"coalesce(t.credit_type, t.debit_type, '')", "0, 0",
	}
	if d == report.ByCreated {
		t.date, t.index = "created", ""
	}
	return t
}

// sums is a query for plain sums: account, customer, currency, two halves of the
// amount, a position, and the ending balance of the row with the greatest.
func (b *books) sums(ctx context.Context, q *statement, l report.Ledger, f report.Filter, d report.Dating, until time.Time, of report.Whose) error {
	t := tableOf(l, d)
	q.add(`SELECT t.account, t.customer, t.currency, sum(t.amount >> 32) AS high, sum(t.amount & 4294967295) AS low, ` + t.end + ` AS ending
FROM `)
	switch of {
	case report.OfAll:
		q.add(t.table + ` t` + t.index)
	case report.OfApart:
		q.add(`(`)
		if err := b.apart(ctx, q, l, f); err != nil {
			return err
		}
		q.add(`) k CROSS JOIN ` + t.table + ` t` + t.index + ` ON t.account = k.account AND t.customer = k.customer`)
	case report.OfDoubted:
		q.add(`k CROSS JOIN ` + t.table + ` t` + t.index + ` ON t.account = k.account AND t.customer = k.customer`)
	}
	q.add(` WHERE t.`+t.date+` < ?`, stamp(until))
	if err := b.where(ctx, q, "t.", "customer", f); err != nil {
		return err
	}
	ofCurrency(q, f)
	q.add(` GROUP BY t.account, t.customer, t.currency`)
	return nil
}

// Sums lists plain sums.
func (b *books) Sums(ctx context.Context, l report.Ledger, f report.Filter, d report.Dating, until time.Time, apart bool) iter.Seq2[report.Sum, error] {
	q := new(statement)
	err := b.sums(ctx, q, l, f, d, until, report.Among(apart))
	q.add(` ORDER BY t.account, t.customer, t.currency`)
	return stream(ctx, b, q, err, scanSum(l))
}

func scanSum(l report.Ledger) func(*sql.Rows, *report.Sum) error {
	return func(rows *sql.Rows, s *report.Sum) error {
		var position, end sql.NullInt64
		err := rows.Scan(&s.Account, &s.Customer, &s.Currency, &s.Amount.High, &s.Amount.Low, &position, &end)
		s.Amount, s.End = report.Halves(s.Amount.High, s.Amount.Low), end.Int64
		if l == report.LedgerCredits {
			s.End, _ = s.Amount.Amount()
		}
		return err
	}
}

// Pending lists what grants of a later time have in the sums.
func (b *books) Pending(ctx context.Context, f report.Filter, until time.Time) iter.Seq2[report.Sum, error] {
	q := new(statement).add(`SELECT t.account, t.customer, t.currency, sum(t.amount >> 32), sum(t.amount & 4294967295)
FROM (SELECT account, customer, id FROM credit_grants INDEXED BY credit_grants_late WHERE `+isLate+` AND effective_at >= ?`, stamp(until))
	err := b.where(ctx, q, "", "customer", f)
	q.add(`) g CROSS JOIN credit_balance_transactions t INDEXED BY credit_balance_transactions_grant_list
  ON t.account = g.account AND t.customer = g.customer AND t."grant" = g.id
WHERE t.effective_at < ?`, stamp(until))
	ofCurrency(q, f)
	q.add(` GROUP BY t.account, t.customer, t.currency ORDER BY t.account, t.customer, t.currency`)
	return stream(ctx, b, q, err, func(rows *sql.Rows, s *report.Sum) error {
		err := rows.Scan(&s.Account, &s.Customer, &s.Currency, &s.Amount.High, &s.Amount.Low)
		s.Amount = report.Halves(s.Amount.High, s.Amount.Low)
		return err
	})
}

// Totals adds plain sums up.
func (b *books) Totals(ctx context.Context, l report.Ledger, f report.Filter, d report.Dating, until time.Time) ([]report.Total, error) {
	// Halves are compared as Halves makes them: put together, a sum may not fit 64 bits.
	differs := "false"
	if l == report.LedgerBalance {
		differs = "(high + (low >> 32), low & 4294967295) <> (ending >> 32, ending & 4294967295)"
	}
	q := new(statement).add(`SELECT account, currency, count(CASE WHEN (high + (low >> 32), low & 4294967295) <> (0, 0) THEN 1 END),
  count(CASE WHEN ` + differs + ` THEN 1 END), sum(high), sum(low) FROM (`)
	err := b.sums(ctx, q, l, f, d, until, report.OfAll)
	q.add(`) GROUP BY account, currency ORDER BY account, currency`)
	return list(ctx, b, q, err, func(rows *sql.Rows, t *report.Total) error {
		err := rows.Scan(&t.Account, &t.Currency, &t.Customers, &t.Differing, &t.Amount.High, &t.Amount.Low)
		t.Amount = report.Halves(t.Amount.High, t.Amount.Low)
		return err
	})
}

// spanOf is an expression that counts the bounds at or before a column.
func spanOf(q *statement, column string, bounds []time.Time, first int) {
	if len(bounds) == 0 {
		q.add(strconv.Itoa(first))
		return
	}
	middle := len(bounds) / 2
	q.add(`CASE WHEN `+column+` < ? THEN `, stamp(bounds[middle]))
	spanOf(q, column, bounds[:middle], first)
	q.add(` ELSE `)
	spanOf(q, column, bounds[middle+1:], first+middle+1)
	q.add(` END`)
}

// splitOf is an expression for what movements are separated by.
func splitOf(q *statement, l report.Ledger, s report.Split) {
	const grant = `(SELECT %s FROM credit_grants g WHERE g.account = t.account AND g.id = t."grant")`
	const member = `(SELECT m.value FROM json_each(%smetadata) m WHERE m.key = ?)`
	switch {
	case s.Description && l == report.LedgerBalance:
		q.add(`ifnull(t.description, '')`)
	case s.Description:
		q.add(`ifnull(` + fmt.Sprintf(grant, "g.name") + `, '')`)
	case s.Metadata != "" && l == report.LedgerBalance:
		q.add(`ifnull(`+fmt.Sprintf(member, "t.")+`, '')`, s.Metadata)
	case s.Metadata != "":
		q.add(`ifnull(`+fmt.Sprintf(grant, fmt.Sprintf(member, "g."))+`, '')`, s.Metadata)
	default:
		q.add(`''`)
	}
}

// Cells adds rows up by spans and types.
func (b *books) Cells(ctx context.Context, l report.Ledger, f report.Filter, bounds []time.Time, s report.Split) ([]report.Cell, error) {
	cells, ok, err := b.days.Cells(ctx, b, l, f, bounds, s, func(generation int64) ([]report.Cell, error) {
		return b.dayCells(ctx, generation, l, f, bounds)
	})
	if ok || err != nil {
		return cells, err
	}
	t := tableOf(l, report.ByLedger)
	q := new(statement).add(`SELECT t.account, t.currency, `)
	last := len(bounds) - 1
	spanOf(q, "t."+t.date, bounds[:last], 0)
	q.add(` AS span, ` + t.kind + ` AS kind, `)
	splitOf(q, l, s)
	q.add(` AS split, sum(t.amount >> 32), sum(t.amount & 4294967295) FROM ` + t.table + ` t`)
	if s == (report.Split{}) {
		q.add(t.index)
	}
	q.add(` WHERE t.`+t.date+` < ?`, stamp(bounds[last]))
	err = b.where(ctx, q, "t.", "customer", f)
	ofCurrency(q, f)
	q.add(` GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5`)
	return list(ctx, b, q, err, func(rows *sql.Rows, c *report.Cell) error {
		err := rows.Scan(&c.Account, &c.Currency, &c.Span, &c.Type, &c.Split, &c.Amount.High, &c.Amount.Low)
		c.Amount = report.Halves(c.Amount.High, c.Amount.Low)
		return err
	})
}

// Rows lists rows.
func (b *books) Rows(ctx context.Context, r report.RowQuery) iter.Seq2[report.Row, error] {
	t := tableOf(r.Ledger, r.Dating)
	balance := r.Ledger == report.LedgerBalance
	q := new(statement).add(`SELECT t.account, t.customer, t.currency, t.id, ` + t.kind + `, t.amount, t.` + t.date + `, t.created, t.synced_at, `)
	order := ` ORDER BY t.account, t.customer, t.currency, t.` + t.date
	if balance {
		q.add(`NULL, t.ending_balance, ifnull(t.chain_position, 0), ifnull(t.invoice, ''), ifnull(t.credit_note, ''), '', ifnull(t.description, ''), `)
		order += `, ifnull(t.chain_position, 9223372036854775807), t.id`
	} else {
		q.add(`g.effective_at, 0, 0, ifnull(t.invoice, ''), '', t."grant", ifnull(g.name, ''), `)
		order += `, t.created, t.id`
	}
	splitOf(q, r.Ledger, r.Split)
	q.add(` FROM `)
	var err error
	if r.Apart {
		q.add(`(`)
		err = b.apart(ctx, q, r.Ledger, r.Filter)
		q.add(`) k CROSS JOIN ` + t.table + ` t` + t.index + ` ON t.account = k.account AND t.customer = k.customer`)
	} else {
		q.add(t.table + ` t` + t.index)
	}
	if !balance {
		q.add(` LEFT JOIN credit_grants g ON g.account = t.account AND g.id = t."grant"`)
	}
	q.add(` WHERE 1`)
	if !r.From.IsZero() {
		q.add(` AND t.`+t.date+` >= ?`, stamp(r.From))
	}
	if !r.Until.IsZero() {
		q.add(` AND t.`+t.date+` < ?`, stamp(r.Until))
	}
	if err == nil {
		err = b.where(ctx, q, "t.", "customer", r.Filter)
	}
	ofCurrency(q, r.Filter)
	q.add(order)
	return stream(ctx, b, q, err, func(rows *sql.Rows, r *report.Row) error {
		return rows.Scan(&r.Account, &r.Customer, &r.Currency, &r.ID, &r.Type, &r.Amount, timeColumn{&r.Dated}, timeColumn{&r.Created},
			timeColumn{&r.SyncedAt}, timeColumn{&r.EffectiveFrom}, &r.EndingBalance, &r.Position, &r.Invoice, &r.CreditNote, &r.Grant,
			&r.Description, &r.Split)
	})
}

// Grants lists grants with what is left of them.
func (b *books) Grants(ctx context.Context, f report.Filter, until time.Time) iter.Seq2[report.Grant, error] {
	q := new(statement).add(`SELECT t.account, t.customer, t.id, t.category, ifnull(t.currency, ''), ifnull(t.amount, 0), t.effective_at, t.expires_at,
  (SELECT ifnull(sum(r.amount >> 32) || ' ' || sum(r.amount & 4294967295), '0 0') FROM credit_balance_transactions r
    WHERE r.account = t.account AND r.customer = t.customer AND r."grant" = t.id AND r.effective_at < ?)
FROM credit_grants t INDEXED BY credit_grants_customer_list WHERE 1`, stamp(until))
	err := b.where(ctx, q, "t.", "customer", f)
	ofCurrency(q, f)
	q.add(` ORDER BY t.account, t.customer, t.id`)
	return stream(ctx, b, q, err, func(rows *sql.Rows, g *report.Grant) error {
		var halves string
		if err := rows.Scan(&g.Account, &g.Customer, &g.ID, &g.Category, &g.Currency, &g.Amount, timeColumn{&g.EffectiveAt},
			timeColumn{&g.ExpiresAt}, &halves); err != nil {
			return err
		}
		var high, low int64
		_, err := fmt.Sscan(halves, &high, &low)
		g.Left = report.Halves(high, low)
		return err
	})
}

// Knows reports in which accounts a customer is known.
func (b *books) Knows(ctx context.Context, f report.Filter) ([]string, error) {
	q := new(statement).add(`SELECT account FROM customers WHERE 1`)
	err := b.where(ctx, q, "", "id", f)
	q.add(` UNION SELECT account FROM sync_state WHERE 1`)
	err = errors.Join(err, b.where(ctx, q, "", "customer", f))
	q.add(` UNION SELECT account FROM credit_grants WHERE 1`)
	err = errors.Join(err, b.where(ctx, q, "", "customer", f))
	q.add(` ORDER BY account`)
	return list(ctx, b, q, err, func(rows *sql.Rows, account *string) error { return rows.Scan(account) })
}

// SyncState returns how the ledgers of a customer were last proven.
func (b *books) SyncState(ctx context.Context, k report.Key) ([]report.Sync, error) {
	q := new(statement).add(`SELECT scope, history_complete, walk_cursor <> '', disproved, observed_at, full_read_at, complete_to
FROM sync_state WHERE account = ? AND customer = ? AND scope IN ('balance', 'credits') ORDER BY scope`, k.Account, k.Customer)
	states, err := list(ctx, b, q, nil, func(rows *sql.Rows, s *report.Sync) error {
		s.Standing.Key = k
		return rows.Scan((*string)(&s.Ledger), &s.Standing.Complete, &s.Standing.Walking, &s.Standing.Disproved,
			timeColumn{&s.ObservedAt}, timeColumn{&s.FullReadAt}, timeColumn{&s.CompleteTo})
	})
	if err != nil {
		return nil, err
	}
	for i := range states {
		s := &states[i]
		table := `SELECT currency, balance FROM customer_balances`
		if s.Ledger == report.LedgerCredits {
			table = `SELECT currency, ledger_balance FROM credit_balance_summaries`
		}
		s.Told = map[string]int64{}
		rows, err := b.conn.QueryContext(ctx, table+` WHERE account = ? AND customer = ?`, k.Account, k.Customer)
		if err != nil {
			return nil, err
		}
		if err := drain(rows, func(rows *sql.Rows) error {
			var currency string
			var amount int64
			err := rows.Scan(&currency, &amount)
			s.Told[currency] = amount
			return err
		}); err != nil {
			return nil, err
		}
	}
	return states, nil
}

// Position is the last record of the change feed.
func (b *books) Position(ctx context.Context) (string, error) {
	var seq int64
	err := b.conn.QueryRowContext(ctx, lastChange).Scan(&seq)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return strconv.FormatInt(seq, 10), err
}

// parsePosition reads the number of a position, of either database.
func parsePosition(position string) (int64, error) {
	number, _, _ := strings.Cut(position, "@")
	seq, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the position %q of a seal cannot be read: %w", position, mirror.ErrUnstorable)
	}
	return seq, nil
}
