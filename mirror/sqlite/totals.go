package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"math/big"
	"strconv"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	tableRows = `
SELECT 'accounts', count(*) FROM accounts
UNION ALL SELECT 'changes', count(*) FROM changes
UNION ALL SELECT 'closed_periods', count(*) FROM closed_periods
UNION ALL SELECT 'credit_balance_summaries', count(*) FROM credit_balance_summaries
UNION ALL SELECT 'credit_balance_transactions', count(*) FROM credit_balance_transactions
UNION ALL SELECT 'credit_grants', count(*) FROM credit_grants
UNION ALL SELECT 'customer_balance_transactions', count(*) FROM customer_balance_transactions
UNION ALL SELECT 'customer_balances', count(*) FROM customer_balances
UNION ALL SELECT 'customers', count(*) FROM customers
UNION ALL SELECT 'dead_letters', count(*) FROM dead_letters
UNION ALL SELECT 'drift_findings', count(*) FROM drift_findings
UNION ALL SELECT 'leases', count(*) FROM leases
UNION ALL SELECT 'queue_incarnations', count(*) FROM queue_incarnations
UNION ALL SELECT 'stripe_events', count(*) FROM stripe_events
UNION ALL SELECT 'sweeps', count(*) FROM sweeps
UNION ALL SELECT 'sync_state', count(*) FROM sync_state`

	deletedCustomers = `SELECT count(*) FROM customers WHERE deleted`

	waitingEvents = `
SELECT (SELECT count(*) FROM stripe_events WHERE pending_scopes <> 0),
       (SELECT min(created) FROM stripe_events WHERE pending_scopes <> 0)`

	sumBalances = `
SELECT b.currency, sum(b.balance >> 32), sum(b.balance & 4294967295) FROM customer_balances b
WHERE NOT EXISTS (SELECT 1 FROM customers c WHERE c.account = b.account AND c.id = b.customer AND c.deleted)
GROUP BY b.currency`

	sumCredits = `
SELECT b.currency, sum(b.ledger_balance >> 32), sum(b.ledger_balance & 4294967295) FROM credit_balance_summaries b
WHERE NOT EXISTS (SELECT 1 FROM customers c WHERE c.account = b.account AND c.id = b.customer AND c.deleted)
GROUP BY b.currency`

	openFindings = `SELECT kind, currency, expected, actual FROM drift_findings WHERE repaired_at IS NULL`
)

// Totals counts. It reads every row of the small tables and an index of the
// large ones.
func (s *Store) Totals(ctx context.Context) (mirror.Totals, error) {
	t := mirror.Totals{
		Rows: map[string]int64{}, Balances: map[string]int64{}, Credits: map[string]int64{},
		DriftOpen: map[mirror.DriftKind]int64{}, DriftAmount: map[string]int64{},
	}
	err := s.read(ctx, func(r *reading) error {
		err := r.each(tableRows, nil, func(rows *sql.Rows) error {
			var table string
			var n int64
			err := rows.Scan(&table, &n)
			t.Rows[table] = n
			return err
		})
		if err != nil {
			return err
		}
		var deleted int64
		if _, err := r.row(deletedCustomers, nil, &deleted); err != nil {
			return err
		}
		t.Customers = t.Rows["customers"] - deleted
		t.BalanceTransactions = t.Rows["customer_balance_transactions"]
		t.CreditTransactions = t.Rows["credit_balance_transactions"]
		t.DeadLetters = t.Rows["dead_letters"]
		if _, err := r.row(waitingEvents, nil, &t.PendingEvents, timeColumn{&t.OldestPendingEvent}); err != nil {
			return err
		}
		if err := r.sums(sumBalances, t.Balances); err != nil {
			return err
		}
		if err := r.sums(sumCredits, t.Credits); err != nil {
			return err
		}
		return r.each(openFindings, nil, func(rows *sql.Rows) error {
			var kind, currency, expected, actual string
			if err := rows.Scan(&kind, &currency, &expected, &actual); err != nil {
				return err
			}
			t.DriftOpen[mirror.DriftKind(kind)]++
			if d, ok := distance(expected, actual); ok {
				t.DriftAmount[currency] = saturate(new(big.Int).Add(big.NewInt(t.DriftAmount[currency]), d))
			}
			return nil
		})
	})
	if err != nil {
		return mirror.Totals{}, fmt.Errorf("count the tables: %w", err)
	}
	return t, nil
}

// sums reads sums per currency that come in two halves.
func (r *reading) sums(query string, into map[string]int64) error {
	return r.each(query, nil, func(rows *sql.Rows) error {
		var currency string
		var high, low int64
		err := rows.Scan(&currency, &high, &low)
		into[currency] = join(high, low)
		return err
	})
}

// join puts the two halves of a sum together. A sum that 64 bits do not hold
// becomes the nearest number that they do: a total that is plainly too large
// beats one that wrapped around to something likely.
func join(high, low int64) int64 {
	sum := new(big.Int).Lsh(big.NewInt(high), 32)
	return saturate(sum.Add(sum, big.NewInt(low)))
}

func saturate(n *big.Int) int64 {
	switch {
	case n.IsInt64():
		return n.Int64()
	case n.Sign() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}

// distance is how far two values lie apart, if both are amounts.
func distance(a, b string) (*big.Int, bool) {
	x, errX := strconv.ParseInt(a, 10, 64)
	y, errY := strconv.ParseInt(b, 10, 64)
	if errX != nil || errY != nil {
		return nil, false
	}
	d := new(big.Int).Sub(big.NewInt(x), big.NewInt(y))
	return d.Abs(d), true
}
