package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	tableRows = `SELECT 'accounts', count(*) FROM creditmirror.accounts
UNION ALL SELECT 'changes', count(*) FROM creditmirror.changes
UNION ALL SELECT 'closed_periods', count(*) FROM creditmirror.closed_periods
UNION ALL SELECT 'credit_balance_summaries', count(*) FROM creditmirror.credit_balance_summaries
UNION ALL SELECT 'credit_balance_transactions', count(*) FROM creditmirror.credit_balance_transactions
UNION ALL SELECT 'credit_grants', count(*) FROM creditmirror.credit_grants
UNION ALL SELECT 'customer_balance_transactions', count(*) FROM creditmirror.customer_balance_transactions
UNION ALL SELECT 'customer_balances', count(*) FROM creditmirror.customer_balances
UNION ALL SELECT 'customers', count(*) FROM creditmirror.customers
UNION ALL SELECT 'dead_letters', count(*) FROM creditmirror.dead_letters
UNION ALL SELECT 'drift_findings', count(*) FROM creditmirror.drift_findings
UNION ALL SELECT 'leases', count(*) FROM creditmirror.leases
UNION ALL SELECT 'queue_incarnations', count(*) FROM creditmirror.queue_incarnations
UNION ALL SELECT 'stripe_events', count(*) FROM creditmirror.stripe_events
UNION ALL SELECT 'sweeps', count(*) FROM creditmirror.sweeps
UNION ALL SELECT 'sync_state', count(*) FROM creditmirror.sync_state`

	livingAndWaiting = `SELECT (SELECT count(*) FROM creditmirror.customers WHERE NOT deleted),
  (SELECT count(*) FROM creditmirror.stripe_events WHERE pending_scopes <> 0),
  (SELECT min(created) FROM creditmirror.stripe_events WHERE pending_scopes <> 0)`

	// A sum that 64 bits do not hold becomes the nearest number that they do: a
	// total that is plainly too large beats a report that fails.
	sumBalances = `SELECT b.currency, greatest(least(sum(b.balance), 9223372036854775807), -9223372036854775808)::bigint
FROM creditmirror.customer_balances AS b
WHERE NOT EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = b.account AND c.id = b.customer AND c.deleted)
GROUP BY b.currency`

	sumCredits = `SELECT b.currency, greatest(least(sum(b.ledger_balance), 9223372036854775807), -9223372036854775808)::bigint
FROM creditmirror.credit_balance_summaries AS b
WHERE NOT EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = b.account AND c.id = b.customer AND c.deleted)
GROUP BY b.currency`

	driftOpen = `SELECT kind, count(*) FROM creditmirror.drift_findings WHERE repaired_at IS NULL GROUP BY kind`

	// CASE keeps a text that is no amount from being read as one.
	driftAmount = `SELECT d.currency, least(sum(d.distance), 9223372036854775807)::bigint FROM (
  SELECT currency, CASE WHEN expected ~ '^-?[0-9]{1,19}$' AND actual ~ '^-?[0-9]{1,19}$'
    THEN abs(expected::numeric - actual::numeric) END AS distance
  FROM creditmirror.drift_findings WHERE repaired_at IS NULL
) AS d WHERE d.distance IS NOT NULL GROUP BY d.currency`
)

// Totals counts, exactly: its cost grows with the tables.
func (s *Store) Totals(ctx context.Context) (mirror.Totals, error) {
	var t mirror.Totals
	err := s.snapshot(ctx, func(b *pgx.Batch) {
		t = mirror.Totals{}
		queueCounts(b, tableRows, &t.Rows)
		b.Queue(livingAndWaiting).QueryRow(func(row pgx.Row) error {
			return row.Scan(&t.Customers, &t.PendingEvents, (*optTime)(&t.OldestPendingEvent))
		})
		queueCounts(b, sumBalances, &t.Balances)
		queueCounts(b, sumCredits, &t.Credits)
		queueCounts(b, driftOpen, &t.DriftOpen)
		queueCounts(b, driftAmount, &t.DriftAmount)
	})
	if err != nil {
		return mirror.Totals{}, fmt.Errorf("count the tables: %w", err)
	}
	t.BalanceTransactions = t.Rows["customer_balance_transactions"]
	t.CreditTransactions = t.Rows["credit_balance_transactions"]
	t.DeadLetters = t.Rows["dead_letters"]
	return t, nil
}

// queueCounts queues a query for numbers by name.
func queueCounts[Name ~string](b *pgx.Batch, statement string, into *map[Name]int64) {
	b.Queue(statement).Query(func(rows pgx.Rows) error {
		*into = map[Name]int64{}
		var name string
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error {
			(*into)[Name(name)] = n
			return nil
		})
		return err
	})
}
