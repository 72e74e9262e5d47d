package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

const creditColumns = `account, id, "grant", customer, type, credit_type, debit_type, amount, currency, invoice, invoice_line_item,
effective_at, created, livemode, test_clock, raw`

const (
	creditByID = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions WHERE account = $1 AND id = $2 LIMIT 1`

	customerCreditsHead = `SELECT
  EXISTS (SELECT 1 FROM creditmirror.customers WHERE account = $1 AND id = $2)
    OR EXISTS (SELECT 1 FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2),
  $3::text = '' OR EXISTS (SELECT 1 FROM creditmirror.credit_balance_transactions WHERE account = $1 AND customer = $2 AND id = $3),
  (SELECT observed_at FROM creditmirror.sync_state WHERE account = $1 AND customer = $2 AND scope = 'credits'),
  coalesce((SELECT NOT history_complete OR walk_cursor <> '' FROM creditmirror.sync_state
    WHERE account = $1 AND customer = $2 AND scope = 'credits'), false)`

	customerCreditsNewest = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions
WHERE account = $1 AND customer = $2 ORDER BY created DESC, id DESC LIMIT $3`

	customerCreditsAfter = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions
WHERE account = $1 AND customer = $2 AND (created, id) < (
  SELECT created, id FROM creditmirror.credit_balance_transactions WHERE account = $1 AND customer = $2 AND id = $3)
ORDER BY created DESC, id DESC LIMIT $4`

	customerCreditsBefore = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions
WHERE account = $1 AND customer = $2 AND (created, id) > (
  SELECT created, id FROM creditmirror.credit_balance_transactions WHERE account = $1 AND customer = $2 AND id = $3)
ORDER BY created, id LIMIT $4`

	// A page of the whole account comes from no single sync.
	accountCreditsHead = `SELECT true,
  $2::text = '' OR EXISTS (SELECT 1 FROM creditmirror.credit_balance_transactions WHERE account = $1 AND id = $2),
  NULL::timestamptz, false`

	accountCreditsNewest = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions
WHERE account = $1 ORDER BY created DESC, id DESC LIMIT $2`

	accountCreditsAfter = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions
WHERE account = $1 AND (created, id) < (
  SELECT created, id FROM creditmirror.credit_balance_transactions WHERE account = $1 AND id = $2 LIMIT 1)
ORDER BY created DESC, id DESC LIMIT $3`

	accountCreditsBefore = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions
WHERE account = $1 AND (created, id) > (
  SELECT created, id FROM creditmirror.credit_balance_transactions WHERE account = $1 AND id = $2 LIMIT 1)
ORDER BY created, id LIMIT $3`

	grantCreditsHead = `SELECT
  EXISTS (SELECT 1 FROM creditmirror.customers WHERE account = $1 AND id = $2)
    OR EXISTS (SELECT 1 FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2),
  $4::text = '' OR EXISTS (SELECT 1 FROM creditmirror.credit_balance_transactions
    WHERE account = $1 AND customer = $2 AND "grant" = $3 AND id = $4),
  (SELECT observed_at FROM creditmirror.sync_state WHERE account = $1 AND customer = $2 AND scope = 'credits'),
  coalesce((SELECT NOT history_complete OR walk_cursor <> '' FROM creditmirror.sync_state
    WHERE account = $1 AND customer = $2 AND scope = 'credits'), false)`

	grantCreditsNewest = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions
WHERE account = $1 AND customer = $2 AND "grant" = $3 ORDER BY created DESC, id DESC LIMIT $4`

	grantCreditsAfter = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions
WHERE account = $1 AND customer = $2 AND "grant" = $3 AND (created, id) < (
  SELECT created, id FROM creditmirror.credit_balance_transactions WHERE account = $1 AND customer = $2 AND "grant" = $3 AND id = $4)
ORDER BY created DESC, id DESC LIMIT $5`

	grantCreditsBefore = `SELECT ` + creditColumns + ` FROM creditmirror.credit_balance_transactions
WHERE account = $1 AND customer = $2 AND "grant" = $3 AND (created, id) > (
  SELECT created, id FROM creditmirror.credit_balance_transactions WHERE account = $1 AND customer = $2 AND "grant" = $3 AND id = $4)
ORDER BY created, id LIMIT $5`
)

func scanCredit(row pgx.CollectableRow) (r mirror.CreditTransaction, err error) {
	err = row.Scan(&r.Account, &r.ID, &r.Grant, &r.Customer, &r.Type, (*optText)(&r.CreditType), (*optText)(&r.DebitType),
		&r.Amount, &r.Currency, (*optText)(&r.Invoice), (*optText)(&r.InvoiceLineItem), (*optTime)(&r.EffectiveAt), (*optTime)(&r.Created),
		&r.Livemode, (*optText)(&r.TestClock), &r.Raw)
	return r, err
}

// CreditTransactions lists a customer's credit balance transactions, or those
// of one of its grants.
func (s *Store) CreditTransactions(ctx context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
	list := listing[mirror.CreditTransaction]{
		head: customerCreditsHead, newest: customerCreditsNewest, after: customerCreditsAfter, before: customerCreditsBefore, scan: scanCredit,
	}
	chosen := []any{account, customer}
	switch {
	case grant != "":
		list.head, list.newest, list.after, list.before = grantCreditsHead, grantCreditsNewest, grantCreditsAfter, grantCreditsBefore
		chosen = append(chosen, grant)
	case customer == "":
		list.head, list.newest, list.after, list.before = accountCreditsHead, accountCreditsNewest, accountCreditsAfter, accountCreditsBefore
		chosen = []any{account}
	}
	out, err := list.page(ctx, s, p, chosen...)
	if err != nil {
		return out, fmt.Errorf("list credit transactions of %s: %w", customer, err)
	}
	return out, nil
}

// CreditTransaction reads one.
func (s *Store) CreditTransaction(ctx context.Context, account, id string) (mirror.CreditTransaction, error) {
	row, err := one(query(ctx, s, scanCredit, creditByID, account, id))
	if err != nil {
		return row, fmt.Errorf("read credit transaction %s: %w", id, err)
	}
	return row, nil
}

const (
	creditsHead = `SELECT
  EXISTS (SELECT 1 FROM creditmirror.customers WHERE account = $1 AND id = $2)
    OR EXISTS (SELECT 1 FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2),
  coalesce(
    (SELECT livemode FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2 LIMIT 1),
    (SELECT livemode FROM creditmirror.customers WHERE account = $1 AND id = $2),
    false),
  (SELECT observed_at FROM creditmirror.sync_state WHERE account = $1 AND customer = $2 AND scope = 'credits'),
  coalesce((SELECT NOT history_complete OR walk_cursor <> '' FROM creditmirror.sync_state
    WHERE account = $1 AND customer = $2 AND scope = 'credits'), false)`

	// creditClocks reads no rows where no grant is on a clock.
	creditClocks = `SELECT t.test_clock, max(t.effective_at) FROM creditmirror.credit_balance_transactions AS t
WHERE t.account = $1 AND t.customer = $2 AND t.test_clock IS NOT NULL
  AND EXISTS (SELECT 1 FROM creditmirror.credit_grants AS g WHERE g.account = $1 AND g.customer = $2 AND g.test_clock IS NOT NULL)
GROUP BY t.test_clock`

	creditsPerCurrency = `SELECT coalesce(t.currency, b.currency), coalesce(t.ledger, 0), coalesce(b.available_balance, 0)
FROM (
  SELECT currency, sum(amount) AS ledger
  FROM creditmirror.credit_balance_transactions WHERE account = $1 AND customer = $2 GROUP BY currency
) AS t FULL JOIN (
  SELECT currency, available_balance FROM creditmirror.credit_balance_summaries WHERE account = $1 AND customer = $2
) AS b ON b.currency = t.currency`
)

// CreditSummary sums up the rows held of a customer's billing credits.
func (s *Store) CreditSummary(ctx context.Context, account, customer string) (mirror.CreditSummary, error) {
	var out mirror.CreditSummary
	var known bool
	of := report.Key{Account: account, Customer: customer}
	err := s.snapshot(ctx, func(b *pgx.Batch) {
		b.Queue(creditsHead, account, customer).QueryRow(func(row pgx.Row) error {
			return row.Scan(&known, &out.Livemode, (*optTime)(&out.SyncedAt), &out.Unfinished)
		})
		b.Queue(creditsPerCurrency, account, customer).Query(func(rows pgx.Rows) error {
			out.Balances = map[string]mirror.CreditBalance{}
			var currency string
			var balance mirror.CreditBalance
			var sum wide
			_, err := pgx.ForEachRow(rows, []any{&currency, &sum, &balance.Available}, func() (err error) {
				balance.Ledger, err = report.Wide(sum).Fit(of, report.LedgerCredits, currency)
				out.Balances[currency] = balance
				return err
			})
			return err
		})
		b.Queue(heldSums, account, customer).Query(func(rows pgx.Rows) error {
			out.Left = map[string]int64{}
			var grant, currency string
			var n int64
			var sum wide
			_, err := pgx.ForEachRow(rows, []any{&grant, &currency, &sum, &n}, func() (err error) {
				out.Left[grant], err = report.Wide(sum).Fit(of, report.LedgerCredits, currency)
				return err
			})
			return err
		})
		b.Queue(creditClocks, account, customer).Query(func(rows pgx.Rows) error {
			out.Clocks = map[string]time.Time{}
			var clock string
			var at time.Time
			_, err := pgx.ForEachRow(rows, []any{&clock, (*optTime)(&at)}, func() error {
				out.Clocks[clock] = at
				return nil
			})
			return err
		})
	})
	if err == nil && !known {
		err = mirror.ErrNotFound
	}
	if err != nil {
		return mirror.CreditSummary{}, fmt.Errorf("read the credit summary of %s: %w", customer, err)
	}
	return out, nil
}
