package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/creditmirror/creditmirror/report"
)

var (
	_ report.Books  = (*Store)(nil)
	_ report.Sealer = (*Store)(nil)
)

// booksFetch is how many rows of a stream come in one round trip.
const booksFetch = 2000

// Books runs fn on one snapshot over a connection of its own: the pool stays free for
// the syncs.
func (s *Store) Books(ctx context.Context, fn func(report.Reader) error) error {
	pool := s.pool.Config()
	if err := s.pooler.prepare(ctx, pool.ConnConfig); err != nil {
		return fmt.Errorf("connect for the books: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, pool.ConnConfig)
	if err != nil {
		return fmt.Errorf("connect for the books: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := pool.AfterConnect(ctx, conn); err != nil {
		return fmt.Errorf("connect for the books: %w", err)
	}
	for _, statement := range []string{beginSnapshot, auditSettings} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("begin a snapshot: %w", err)
		}
	}
	defer endTransaction(ctx, conn)
	return fn(&books{conn: conn})
}

// books reads one snapshot.
type books struct {
	conn     *pgx.Conn
	cursors  int
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
	for _, arg := range args {
		before, after, _ := strings.Cut(text, "?")
		q.args = append(q.args, arg)
		q.text.WriteString(before + "$" + strconv.Itoa(len(q.args)))
		text = after
	}
	q.text.WriteString(text)
	return q
}

// stream runs a statement, whose making may have failed, through a cursor, so that
// one connection serves several side by side.
func stream[Row any](ctx context.Context, b *books, q *statement, err error, scan func(pgx.Row, *Row) error) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		var none Row
		if err != nil {
			yield(none, err)
			return
		}
		b.cursors++
		name := "books_" + strconv.Itoa(b.cursors)
		if _, err := b.conn.Exec(ctx, `DECLARE `+name+cursor+q.text.String(), append([]any{pgx.QueryExecModeDescribeExec}, q.args...)...); err != nil {
			yield(none, err)
			return
		}
		// After an error the transaction is over, and the cursor with it.
		defer func() { _, _ = b.conn.Exec(context.WithoutCancel(ctx), `CLOSE `+name) }()
		fetch := `FETCH ` + strconv.Itoa(booksFetch) + ` FROM ` + name
		var batch []Row
		for {
			batch = batch[:0]
			// Each cursor's name is its own: there is nothing to keep of the statement.
			rows, err := b.conn.Query(ctx, fetch, pgx.QueryExecModeDescribeExec)
			if err != nil {
				yield(none, err)
				return
			}
			for rows.Next() {
				batch = append(batch, none)
				if err := scan(rows, &batch[len(batch)-1]); err != nil {
					rows.Close()
					yield(none, err)
					return
				}
			}
			if err := rows.Err(); err != nil {
				yield(none, err)
				return
			}
			for i := range batch {
				if !yield(batch[i], nil) {
					return
				}
			}
			if len(batch) < booksFetch {
				return
			}
		}
	}
}

// list runs a statement and keeps its rows.
func list[Row any](ctx context.Context, b *books, q *statement, err error, scan func(pgx.Row, *Row) error) ([]Row, error) {
	if err != nil {
		return nil, err
	}
	rows, err := b.conn.Query(ctx, q.text.String(), append([]any{pgx.QueryExecModeDescribeExec}, q.args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Row
	for rows.Next() {
		var row Row
		if err := scan(rows, &row); err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
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
		q.add(` AND `+table+`account = ANY (?)`, accounts)
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
	all, err := list(ctx, b, new(statement).add(auditAccounts), nil, func(row pgx.Row, account *string) error { return row.Scan(account) })
	b.accounts, b.listed = append(all, ""), err == nil
	return b.accounts, err
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
	q.add(`SELECT account, customer FROM creditmirror.sync_state WHERE `+isApart+` AND scope = ?`, string(l))
	if err := b.where(ctx, q, "", "customer", f); err != nil {
		return err
	}
	q.add(` UNION SELECT account, id FROM creditmirror.customers WHERE deleted`)
	if err := b.where(ctx, q, "", "id", f); err != nil {
		return err
	}
	if l == report.LedgerCredits {
		q.add(` UNION SELECT account, customer FROM creditmirror.credit_grants WHERE ` + isLate)
	} else {
		q.add(` UNION SELECT account, customer FROM creditmirror.customer_balance_transactions WHERE chain_position IS NULL`)
	}
	return b.where(ctx, q, "", "customer", f)
}

// Standings lists who stands apart.
func (b *books) Standings(ctx context.Context, l report.Ledger, f report.Filter) iter.Seq2[report.Standing, error] {
	unplaced := `false`
	if l == report.LedgerBalance {
		unplaced = `EXISTS (SELECT 1 FROM creditmirror.customer_balance_transactions AS u
    WHERE u.account = k.account AND u.customer = k.customer AND u.chain_position IS NULL)`
	}
	q := new(statement).add(`SELECT k.account, k.customer, coalesce(s.history_complete, true), coalesce(s.walk_cursor, '') <> '',
  coalesce(s.disproved, false), ` + unplaced + `,
  CASE WHEN c.deleted THEN coalesce(c.deleted_at, c.synced_at)
    WHEN c.id IS NULL AND s.history_complete AND s.full_read_at IS NULL THEN s.observed_at END
FROM (`)
	err := b.apart(ctx, q, l, f)
	q.add(`) AS k LEFT JOIN creditmirror.sync_state AS s ON s.account = k.account AND s.customer = k.customer AND s.scope = ?
LEFT JOIN creditmirror.customers AS c ON c.account = k.account AND c.id = k.customer ORDER BY k.account, k.customer`, string(l))
	return stream(ctx, b, q, err, func(row pgx.Row, s *report.Standing) error {
		return row.Scan(&s.Account, &s.Customer, &s.Complete, &s.Walking, &s.Disproved, &s.Unplaced, (*optTime)(&s.DeletedAt))
	})
}

// ledgerTable names the parts of a ledger in SQL.
type ledgerTable struct{ table, date, kind string }

func tableOf(l report.Ledger, d report.Dating) ledgerTable {
	if l == report.LedgerBalance {
		return ledgerTable{"creditmirror.customer_balance_transactions", "created", "t.type"}
	}
	t := ledgerTable{"creditmirror.credit_balance_transactions", "effective_at", "coalesce(t.credit_type, t.debit_type, '')"}
	if d == report.ByCreated {
		t.date = "created"
	}
	return t
}

// clamped is a sum as a bigint, where only an amount that fits can be the right one: one
// that 64 bits do not hold becomes the nearest number that they do.
const clamped = `greatest(least(sum(t.amount), 9223372036854775807), -9223372036854775808)::bigint`

// linked is, for a chain of which every link holds, the mark of its ending balance: the
// mark of each balance but the last also is that of what another row begins with, and
// cancels out. It costs a fraction of finding the last row, which is only looked for
// where the two differ. The balances themselves would not do: without the first row of
// a chain that starts with 3, 3 and -297 cancel out to -300, the sum of the rest.
const (
	linked = `bit_xor(hashint8extended(t.ending_balance, t.ending_balance) # CASE
  WHEN t.amount BETWEEN -4611686018427387904 AND 4611686018427387903
   AND t.ending_balance BETWEEN -4611686018427387904 AND 4611686018427387903
  THEN hashint8extended(t.ending_balance - t.amount, t.ending_balance - t.amount) END)`
	linkedTo = `hashint8extended(s.near, s.near) # hashint8extended(0, 0)`
)

// sums is a query for plain sums: account, customer, currency, amount, and the ending
// balance in the balance ledger.
func (b *books) sums(ctx context.Context, q *statement, l report.Ledger, f report.Filter, d report.Dating, until time.Time, of report.Whose) error {
	t := tableOf(l, d)
	links := ``
	if l == report.LedgerBalance {
		links = `, ` + clamped + ` AS near, ` + linked + ` AS links`
		q.add(`SELECT s.account, s.customer, s.currency, s.amount, CASE WHEN s.links = `+linkedTo+` THEN s.near ELSE coalesce((
  SELECT r.ending_balance FROM `+t.table+` AS r
  WHERE r.account = s.account AND r.customer = s.customer AND r.currency = s.currency AND r.chain_position IS NOT NULL AND r.created < ?
  ORDER BY r.chain_position DESC LIMIT 1), 0) END AS ending FROM (`, until)
	} else {
		q.add(`SELECT s.account, s.customer, s.currency, s.amount, 0::bigint AS ending FROM (`)
	}
	q.add(`SELECT t.account, t.customer, t.currency, sum(t.amount) AS amount` + links + ` FROM `)
	switch of {
	case report.OfAll:
		q.add(t.table + ` AS t`)
	case report.OfApart:
		q.add(`(`)
		if err := b.apart(ctx, q, l, f); err != nil {
			return err
		}
		q.add(`) AS k JOIN ` + t.table + ` AS t ON t.account = k.account AND t.customer = k.customer`)
	case report.OfDoubted: // each is looked up by its key, whatever the planner expects
		q.add(`k CROSS JOIN LATERAL (SELECT b.account, b.customer, b.currency, b.amount, b.ending_balance, b.` + t.date + ` FROM ` + t.table + ` AS b
  WHERE b.account = k.account AND b.customer = k.customer OFFSET 0) AS t`)
	}
	q.add(` WHERE t.`+t.date+` < ?`, until)
	if err := b.where(ctx, q, "t.", "customer", f); err != nil {
		return err
	}
	ofCurrency(q, f)
	q.add(` GROUP BY t.account, t.customer, t.currency) AS s`)
	return nil
}

func scanSum(l report.Ledger) func(pgx.Row, *report.Sum) error {
	return func(row pgx.Row, s *report.Sum) error {
		err := row.Scan(&s.Account, &s.Customer, &s.Currency, (*wide)(&s.Amount), &s.End)
		if l == report.LedgerCredits {
			s.End, _ = s.Amount.Amount()
		}
		return err
	}
}

// wide reads a sum, which PostgreSQL has as a numeric.
type wide report.Wide

// ScanNumeric reads a whole number.
func (w *wide) ScanNumeric(n pgtype.Numeric) error {
	if !n.Valid || n.NaN || n.InfinityModifier != pgtype.Finite || n.Exp < 0 || n.Exp > 40 {
		return fmt.Errorf("%+v is no sum of amounts", n)
	}
	sum := n.Int
	if n.Exp > 0 {
		sum = new(big.Int).Mul(sum, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n.Exp)), nil))
	}
	of, ok := report.OfBig(sum)
	if !ok {
		return fmt.Errorf("%s is no sum of amounts", sum)
	}
	*w = wide(of)
	return nil
}

// Sums lists plain sums.
func (b *books) Sums(ctx context.Context, l report.Ledger, f report.Filter, d report.Dating, until time.Time, apart bool) iter.Seq2[report.Sum, error] {
	q := new(statement)
	err := b.sums(ctx, q, l, f, d, until, report.Among(apart))
	return stream(ctx, b, q.add(` ORDER BY s.account, s.customer, s.currency`), err, scanSum(l))
}

// Pending lists what grants of a later time have in the sums.
func (b *books) Pending(ctx context.Context, f report.Filter, until time.Time) iter.Seq2[report.Sum, error] {
	q := new(statement).add(`SELECT t.account, t.customer, t.currency, sum(t.amount), 0::bigint
FROM (SELECT account, customer, id FROM creditmirror.credit_grants WHERE `+isLate+` AND effective_at >= ?`, until)
	err := b.where(ctx, q, "", "customer", f)
	q.add(`) AS g JOIN creditmirror.credit_balance_transactions AS t ON t.account = g.account AND t.customer = g.customer AND t."grant" = g.id
WHERE t.effective_at < ?`, until)
	ofCurrency(q, f)
	q.add(` GROUP BY t.account, t.customer, t.currency ORDER BY t.account, t.customer, t.currency`)
	return stream(ctx, b, q, err, scanSum(report.LedgerBalance))
}

// Totals adds plain sums up.
func (b *books) Totals(ctx context.Context, l report.Ledger, f report.Filter, d report.Dating, until time.Time) ([]report.Total, error) {
	differing := `0::bigint`
	if l == report.LedgerBalance {
		differing = `count(*) FILTER (WHERE t.amount <> t.ending)`
	}
	q := new(statement).add(`SELECT t.account, t.currency, count(*) FILTER (WHERE t.amount <> 0), ` + differing + `, sum(t.amount) FROM (`)
	err := b.sums(ctx, q, l, f, d, until, report.OfAll)
	q.add(`) AS t GROUP BY t.account, t.currency ORDER BY t.account, t.currency`)
	return list(ctx, b, q, err, func(row pgx.Row, t *report.Total) error {
		return row.Scan(&t.Account, &t.Currency, &t.Customers, &t.Differing, (*wide)(&t.Amount))
	})
}

// splitOf is an expression for what movements are separated by.
func splitOf(q *statement, l report.Ledger, s report.Split) {
	const grant = `coalesce((SELECT %s FROM creditmirror.credit_grants AS g WHERE g.account = t.account AND g.id = t."grant"), '')`
	switch {
	case s.Description && l == report.LedgerBalance:
		q.add(`coalesce(t.description, '')`)
	case s.Description:
		q.add(fmt.Sprintf(grant, "g.name"))
	case s.Metadata != "" && l == report.LedgerBalance:
		q.add(`coalesce(t.metadata ->> ?::text, '')`, s.Metadata)
	case s.Metadata != "":
		q.add(fmt.Sprintf(grant, "g.metadata ->> ?::text"), s.Metadata)
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
	last := len(bounds) - 1
	q := new(statement).add(`SELECT t.account, t.currency, width_bucket(t.`+t.date+`, ?::timestamptz[]) AS span, `, bounds[:last])
	q.add(t.kind + ` AS kind, `)
	splitOf(q, l, s)
	q.add(` AS split, sum(t.amount) FROM `+t.table+` AS t WHERE t.`+t.date+` < ?`, bounds[last])
	err = b.where(ctx, q, "t.", "customer", f)
	ofCurrency(q, f)
	q.add(` GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5`)
	return list(ctx, b, q, err, func(row pgx.Row, c *report.Cell) error {
		return row.Scan(&c.Account, &c.Currency, &c.Span, &c.Type, &c.Split, (*wide)(&c.Amount))
	})
}

// Rows lists rows.
func (b *books) Rows(ctx context.Context, r report.RowQuery) iter.Seq2[report.Row, error] {
	t := tableOf(r.Ledger, r.Dating)
	balance := r.Ledger == report.LedgerBalance
	q := new(statement).add(`SELECT t.account, t.customer, t.currency, t.id, ` + t.kind + `, t.amount, t.` + t.date + `, t.created, t.synced_at, `)
	order := ` ORDER BY t.account, t.customer, t.currency, t.` + t.date
	if balance {
		q.add(`NULL::timestamptz, t.ending_balance, coalesce(t.chain_position, 0), coalesce(t.invoice, ''), coalesce(t.credit_note, ''), '',
  coalesce(t.description, ''), `)
		order += `, coalesce(t.chain_position, 9223372036854775807), t.id`
	} else {
		q.add(`g.effective_at, 0::bigint, 0::bigint, coalesce(t.invoice, ''), '', t."grant", coalesce(g.name, ''), `)
		order += `, t.created, t.id`
	}
	splitOf(q, r.Ledger, r.Split)
	q.add(` FROM `)
	var err error
	if r.Apart {
		q.add(`(`)
		err = b.apart(ctx, q, r.Ledger, r.Filter)
		q.add(`) AS k JOIN ` + t.table + ` AS t ON t.account = k.account AND t.customer = k.customer`)
	} else {
		q.add(t.table + ` AS t`)
	}
	if !balance {
		q.add(` LEFT JOIN creditmirror.credit_grants AS g ON g.account = t.account AND g.id = t."grant"`)
	}
	q.add(` WHERE true`)
	if !r.From.IsZero() {
		q.add(` AND t.`+t.date+` >= ?`, r.From)
	}
	if !r.Until.IsZero() {
		q.add(` AND t.`+t.date+` < ?`, r.Until)
	}
	if err == nil {
		err = b.where(ctx, q, "t.", "customer", r.Filter)
	}
	ofCurrency(q, r.Filter)
	return stream(ctx, b, q.add(order), err, func(row pgx.Row, r *report.Row) error {
		return row.Scan(&r.Account, &r.Customer, &r.Currency, &r.ID, &r.Type, &r.Amount, &r.Dated, &r.Created, &r.SyncedAt,
			(*optTime)(&r.EffectiveFrom), &r.EndingBalance, &r.Position, &r.Invoice, &r.CreditNote, &r.Grant, &r.Description, &r.Split)
	})
}

// Grants lists grants with what is left of them.
func (b *books) Grants(ctx context.Context, f report.Filter, until time.Time) iter.Seq2[report.Grant, error] {
	q := new(statement).add(`SELECT t.account, t.customer, t.id, t.category, coalesce(t.currency, ''), coalesce(t.amount, 0), t.effective_at, t.expires_at,
  (SELECT coalesce(sum(r.amount), 0) FROM creditmirror.credit_balance_transactions AS r
    WHERE r.account = t.account AND r.customer = t.customer AND r."grant" = t.id AND r.effective_at < ?)
FROM creditmirror.credit_grants AS t WHERE true`, until)
	err := b.where(ctx, q, "t.", "customer", f)
	ofCurrency(q, f)
	return stream(ctx, b, q.add(` ORDER BY t.account, t.customer, t.id`), err, func(row pgx.Row, g *report.Grant) error {
		return row.Scan(&g.Account, &g.Customer, &g.ID, &g.Category, &g.Currency, &g.Amount, (*optTime)(&g.EffectiveAt),
			(*optTime)(&g.ExpiresAt), (*wide)(&g.Left))
	})
}

// Knows reports in which accounts a customer is known.
func (b *books) Knows(ctx context.Context, f report.Filter) ([]string, error) {
	q := new(statement).add(`SELECT account FROM creditmirror.customers WHERE true`)
	err := b.where(ctx, q, "", "id", f)
	q.add(` UNION SELECT account FROM creditmirror.sync_state WHERE true`)
	err = errors.Join(err, b.where(ctx, q, "", "customer", f))
	q.add(` UNION SELECT account FROM creditmirror.credit_grants WHERE true`)
	err = errors.Join(err, b.where(ctx, q, "", "customer", f))
	return list(ctx, b, q.add(` ORDER BY account`), err, func(row pgx.Row, account *string) error { return row.Scan(account) })
}

// SyncState returns how the ledgers of a customer were last proven.
func (b *books) SyncState(ctx context.Context, k report.Key) ([]report.Sync, error) {
	q := new(statement).add(`SELECT scope, history_complete, walk_cursor <> '', disproved, observed_at, full_read_at, complete_to
FROM creditmirror.sync_state WHERE account = ? AND customer = ? AND scope IN ('balance', 'credits') ORDER BY scope`, k.Account, k.Customer)
	states, err := list(ctx, b, q, nil, func(row pgx.Row, s *report.Sync) error {
		s.Standing.Key = k
		return row.Scan((*string)(&s.Ledger), &s.Standing.Complete, &s.Standing.Walking, &s.Standing.Disproved,
			(*optTime)(&s.ObservedAt), (*optTime)(&s.FullReadAt), (*optTime)(&s.CompleteTo))
	})
	if err != nil {
		return nil, err
	}
	type told struct {
		currency string
		amount   int64
	}
	for i := range states {
		table := `SELECT currency, balance FROM creditmirror.customer_balances`
		if states[i].Ledger == report.LedgerCredits {
			table = `SELECT currency, ledger_balance FROM creditmirror.credit_balance_summaries`
		}
		q := new(statement).add(table+` WHERE account = ? AND customer = ?`, k.Account, k.Customer)
		all, err := list(ctx, b, q, nil, func(row pgx.Row, t *told) error { return row.Scan(&t.currency, &t.amount) })
		if err != nil {
			return nil, err
		}
		states[i].Told = map[string]int64{}
		for _, t := range all {
			states[i].Told[t.currency] = t.amount
		}
	}
	return states, nil
}
