package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

const (
	listCustomers = selectCustomer + `c.raw` + customerRest + `
FROM customers c LEFT JOIN sync_state s ON s.account = c.account AND s.customer = c.id AND s.scope = 'balance'
WHERE c.account = ?1 AND c.id > ?2 ORDER BY c.id LIMIT ?3 + 0`

	// buriedCustomer finds when a customer who has no row was found deleted: a ledger of
	// it was buried, which leaves its history complete and never to be read again.
	// A stored grant distinguishes a customer from an id that never was one.
	buriedCustomer = `
SELECT max(observed_at) FROM sync_state
WHERE account = ?1 AND customer = ?2 AND scope IN ('balance', 'credits') AND history_complete AND full_read_at IS NULL
  AND EXISTS (SELECT 1 FROM credit_grants g WHERE g.account = ?1 AND g.customer = ?2)`

	clockCustomers = `
SELECT id FROM customers WHERE account = ?1 AND test_clock = ?2 AND test_clock IS NOT NULL AND NOT deleted ORDER BY id`
)

func scanCustomer(rows *sql.Rows) (mirror.CustomerView, error) {
	var v mirror.CustomerView
	var digest string
	err := rows.Scan(customerColumns(&v, &digest)...)
	return v, err
}

// Customer reads one customer.
func (s *Store) Customer(ctx context.Context, account, id string) (mirror.CustomerView, error) {
	var v mirror.CustomerView
	err := s.read(ctx, func(r *reading) error {
		var digest string
		found, err := r.row(readCustomer, []any{account, id}, customerColumns(&v, &digest)...)
		if err != nil || found {
			return err
		}
		v = mirror.CustomerView{Customer: mirror.Customer{Account: account, ID: id}, Deleted: true}
		if _, err := r.row(buriedCustomer, []any{account, id}, timeColumn{&v.SyncedAt}); err != nil {
			return err
		}
		if v.SyncedAt.IsZero() {
			v = mirror.CustomerView{}
			return mirror.ErrNotFound
		}
		return nil
	})
	if err != nil {
		return v, fmt.Errorf("read customer %s: %w", id, err)
	}
	return v, nil
}

// Customers lists customers by id, deleted ones too.
func (s *Store) Customers(ctx context.Context, account, after string, limit int) ([]mirror.CustomerView, error) {
	var list []mirror.CustomerView
	err := s.read(ctx, func(r *reading) error {
		return r.each(listCustomers, []any{account, after, limit}, func(rows *sql.Rows) error {
			v, err := scanCustomer(rows)
			list = append(list, v)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list customers after %q: %w", after, err)
	}
	return list, nil
}

// ClockCustomers lists the customers held that live on the test clock.
func (s *Store) ClockCustomers(ctx context.Context, account, clock string) ([]string, error) {
	list, err := s.texts(ctx, clockCustomers, account, clock)
	if err != nil {
		return nil, fmt.Errorf("list customers of clock %s: %w", clock, err)
	}
	return list, nil
}

const (
	// creditClocks reads no rows where no grant is on a clock.
	creditClocks = `
SELECT t.test_clock, max(t.effective_at) FROM credit_balance_transactions t
WHERE t.account = ?1 AND t.customer = ?2 AND t.test_clock IS NOT NULL
  AND EXISTS (SELECT 1 FROM credit_grants g WHERE g.account = ?1 AND g.customer = ?2 AND g.test_clock IS NOT NULL)
GROUP BY t.test_clock`

	creditsMode = `
SELECT livemode FROM credit_grants WHERE account = ?1 AND customer = ?2
UNION ALL SELECT livemode FROM customers WHERE account = ?1 AND id = ?2 LIMIT 1`
)

// CreditSummary sums up the rows held of a customer's billing credits.
func (s *Store) CreditSummary(ctx context.Context, account, customer string) (mirror.CreditSummary, error) {
	out := mirror.CreditSummary{Balances: map[string]mirror.CreditBalance{}, Left: map[string]int64{}, Clocks: map[string]time.Time{}}
	key := []any{account, customer}
	err := s.read(ctx, func(r *reading) (err error) {
		if err := r.known(knowsCredits, account, customer); err != nil {
			return err
		}
		err = r.each(heldSummary, key, func(rows *sql.Rows) error {
			var currency string
			var b mirror.CreditBalance
			err := rows.Scan(&currency, &b.Ledger, &b.Available)
			b.Ledger = 0 // the rows decide
			out.Balances[currency] = b
			return err
		})
		if err != nil {
			return err
		}
		of := report.Key{Account: account, Customer: customer}
		left, ledger := map[string]report.Wide{}, map[string]report.Wide{}
		err = r.each(grantSums, key, func(rows *sql.Rows) error {
			var grant, currency string
			var high, low, n int64
			if err := rows.Scan(&grant, &currency, &high, &low, &n); err != nil {
				return err
			}
			sum := report.Halves(high, low)
			left[grant], ledger[currency] = left[grant].Plus(sum), ledger[currency].Plus(sum)
			out.Left[grant], err = left[grant].Fit(of, report.LedgerCredits, currency)
			return err
		})
		if err != nil {
			return err
		}
		for currency, sum := range ledger {
			b := out.Balances[currency]
			if b.Ledger, err = sum.Fit(of, report.LedgerCredits, currency); err != nil {
				return err
			}
			out.Balances[currency] = b
		}
		err = r.each(creditClocks, key, func(rows *sql.Rows) error {
			var clock string
			var at time.Time
			err := rows.Scan(&clock, timeColumn{&at})
			out.Clocks[clock] = at
			return err
		})
		if err != nil {
			return err
		}
		if _, err := r.row(creditsMode, key, &out.Livemode); err != nil {
			return err
		}
		out.SyncedAt, out.Unfinished, err = r.synced(account, customer, mirror.ScopeCredits)
		return err
	})
	if err != nil {
		return mirror.CreditSummary{}, fmt.Errorf("read the credit summary of %s: %w", customer, err)
	}
	return out, nil
}
