package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

// customerColumns belong to customers AS c, left-joined with the balance
// ledger's sync_state AS s, which has the freshness.
const customerColumns = `c.account, c.id, c.balance, c.currency, c.invoice_credit_balance, c.created, c.livemode, c.test_clock,
c.customer_account, c.raw, c.deleted, s.observed_at,
coalesce(NOT s.history_complete OR s.walk_cursor <> '', false),
(SELECT k.frozen_time FROM creditmirror.test_clocks AS k WHERE k.account = c.account AND k.id = c.test_clock), c.digest`

const customerFrom = ` FROM creditmirror.customers AS c LEFT JOIN creditmirror.sync_state AS s
ON s.account = c.account AND s.customer = c.id AND s.scope = 'balance' `

const (
	customerByID = `SELECT ` + customerColumns + customerFrom + `WHERE c.account = $1 AND c.id = $2`

	// buriedCustomer finds when a customer who has no row was found deleted: a ledger of
	// it was buried, which leaves its history complete and never to be read again.
	// A stored grant distinguishes a customer from an id that never was one.
	buriedCustomer = `SELECT max(s.observed_at) FROM creditmirror.sync_state AS s
WHERE s.account = $1 AND s.customer = $2 AND s.scope IN ('balance', 'credits') AND s.history_complete AND s.full_read_at IS NULL
  AND EXISTS (SELECT 1 FROM creditmirror.credit_grants AS g WHERE g.account = $1 AND g.customer = $2)`

	customersAfter = `SELECT ` + customerColumns + customerFrom + `WHERE c.account = $1 AND c.id > $2 ORDER BY c.id LIMIT $3`

	clockCustomers = `SELECT id FROM creditmirror.customers WHERE account = $1 AND test_clock = $2 AND NOT deleted ORDER BY id`

	writeCustomer = `INSERT INTO creditmirror.customers
  (account, id, balance, currency, invoice_credit_balance, created, livemode, test_clock, customer_account, raw, digest)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8, $9, $10::text::jsonb, $11)
ON CONFLICT (account, id) DO UPDATE SET
  balance = excluded.balance, currency = excluded.currency,
  invoice_credit_balance = excluded.invoice_credit_balance, created = excluded.created,
  livemode = excluded.livemode, test_clock = excluded.test_clock, customer_account = excluded.customer_account, deleted = false, deleted_at = NULL,
  raw = excluded.raw, digest = excluded.digest, synced_at = now()`

	// meetCustomers makes a sync_state row for each, so that customers without a
	// history are found through an index, in the order of their ranks.
	meetCustomers = `INSERT INTO creditmirror.sync_state AS s (account, customer, scope, epoch, read_rank)
SELECT $1, u.id, $2, 0, u.rank FROM unnest($3::text[], $4::bigint[]) AS u (id, rank) ORDER BY u.id COLLATE "C"
ON CONFLICT (account, customer, scope) DO UPDATE SET read_rank = excluded.read_rank
WHERE NOT s.history_complete AND excluded.read_rank < s.read_rank`

	// insertCustomers takes only customers that no sync has committed, and holds
	// their fences while it does: a tombstone that commits at the same moment comes
	// wholly before or wholly after.
	insertCustomers = `WITH untouched AS (
  SELECT customer FROM creditmirror.sync_state
  WHERE account = $1 AND scope = 'balance' AND customer = ANY ($2::text[]) AND applied_epoch = 0
  ORDER BY customer FOR SHARE
), stored AS (
  INSERT INTO creditmirror.customers
    (account, id, balance, currency, invoice_credit_balance, created, livemode, test_clock, customer_account, raw, digest)
  SELECT $1, u.id, u.balance, u.currency, u.credit::jsonb, u.created, u.livemode, u.test_clock, u.customer_account, u.raw::jsonb, u.digest
  FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::timestamptz[], $7::boolean[], $8::text[], $9::text[],
      $10::text[], $11::text[])
    AS u (id, balance, currency, credit, created, livemode, test_clock, customer_account, raw, digest)
  JOIN untouched ON untouched.customer = u.id
  ORDER BY u.id COLLATE "C"
  ON CONFLICT (account, id) DO NOTHING RETURNING id
), balances AS (
  INSERT INTO creditmirror.customer_balances (account, customer, currency, balance)
  SELECT $1, u.customer, u.currency, u.balance
  FROM unnest($12::text[], $13::text[], $14::bigint[]) AS u (customer, currency, balance)
  JOIN stored ON stored.id = u.customer
  ORDER BY u.customer COLLATE "C", u.currency COLLATE "C"
  ON CONFLICT (account, customer, currency) DO NOTHING RETURNING customer, currency
), told AS (
  INSERT INTO creditmirror.changes (account, customer, table_name, id, op)
  SELECT $1, w.customer, w.table_name, w.id, 'insert' FROM (
    SELECT id AS customer, 'customers' AS table_name, id FROM stored
    UNION ALL SELECT customer, 'customer_balances', currency FROM balances
  ) AS w ORDER BY w.customer COLLATE "C", w.table_name COLLATE "C" DESC, w.id COLLATE "C"
)
SELECT count(*) FROM stored`
)

func scanCustomer(row pgx.Row) (c mirror.CustomerView, digest string, err error) {
	err = row.Scan(&c.Account, &c.ID, &c.Balance, (*optText)(&c.Currency), &creditColumn{&c}, (*optTime)(&c.Created), &c.Livemode,
		(*optText)(&c.TestClock), (*optText)(&c.CustomerAccount), &c.Raw, &c.Deleted, (*optTime)(&c.SyncedAt), &c.Unfinished, (*optTime)(&c.ClockTime), &digest)
	return c, digest, err
}

// queueCustomer queues the write of a customer as read from Stripe.
func queueCustomer(b *pgx.Batch, c mirror.Customer) error {
	credit, err := creditBalances(c.InvoiceCreditBalance)
	if err != nil {
		return err
	}
	b.Queue(writeCustomer, c.Account, c.ID, c.Balance, optText(c.Currency), credit, optTime(c.Created), c.Livemode,
		optText(c.TestClock), optText(c.CustomerAccount), optJSON(c.Raw), mirror.Digest(c.Raw))
	return nil
}

// InsertCustomers stores a page of the first copy.
func (s *Store) InsertCustomers(ctx context.Context, account string, page []mirror.Customer) (int, error) {
	if len(page) == 0 {
		return 0, nil
	}
	page, err := mirror.CustomersToInsert(page)
	if err != nil {
		return 0, fmt.Errorf("insert customers of account %q: %w", account, err)
	}
	credits := make([]optText, len(page))
	var balances []currencyBalance
	for i := range page {
		page[i].Raw = cleanJSON(page[i].Raw)
		var err error
		if credits[i], err = creditBalances(page[i].InvoiceCreditBalance); err != nil {
			return 0, err
		}
		balances = append(balances, balancesOf(page[i])...)
	}
	var stored int
	err = s.once(ctx, func(b *pgx.Batch) {
		ids := column(page, func(c *mirror.Customer) string { return c.ID })
		b.Queue(meetCustomers, account, string(mirror.ScopeBalance), ids,
			column(page, func(c *mirror.Customer) int64 { return mirror.CustomerRank(*c) }))
		b.Queue(insertCustomers, account, ids,
			column(page, func(c *mirror.Customer) int64 { return c.Balance }),
			column(page, func(c *mirror.Customer) optText { return optText(c.Currency) }),
			credits,
			column(page, func(c *mirror.Customer) optTime { return optTime(c.Created) }),
			column(page, func(c *mirror.Customer) bool { return c.Livemode }),
			column(page, func(c *mirror.Customer) optText { return optText(c.TestClock) }),
			column(page, func(c *mirror.Customer) optText { return optText(c.CustomerAccount) }),
			column(page, func(c *mirror.Customer) optText { return optJSON(c.Raw) }),
			column(page, func(c *mirror.Customer) string { return mirror.Digest(c.Raw) }),
			column(balances, func(b *currencyBalance) string { return b.customer }),
			column(balances, func(b *currencyBalance) string { return b.currency }),
			column(balances, func(b *currencyBalance) int64 { return b.balance }),
		).QueryRow(func(row pgx.Row) error { return row.Scan(&stored) })
	})
	if err != nil {
		return 0, fmt.Errorf("insert %d customers of account %q: %w", len(page), account, err)
	}
	return stored, nil
}

// currencyBalance is a row of customer_balances.
type currencyBalance struct {
	customer, currency string
	balance            int64
}

// balancesOf are the balances that a customer object states, in the sign of
// balance, by currency.
func balancesOf(c mirror.Customer) []currencyBalance {
	ends := c.Ends()
	list := make([]currencyBalance, 0, len(ends))
	for _, currency := range slices.Sorted(maps.Keys(ends)) {
		list = append(list, currencyBalance{c.ID, clean(currency), ends[currency]})
	}
	return list
}

// creditBalances is invoice_credit_balance as jsonb; NULL when it was not read.
func creditBalances(m map[string]int64) (optText, error) {
	if m == nil {
		return "", nil
	}
	raw, err := json.Marshal(m)
	return optText(raw), err
}

// Customer reads one customer.
func (s *Store) Customer(ctx context.Context, account, id string) (mirror.CustomerView, error) {
	var c mirror.CustomerView
	err := retry(ctx, func() (err error) {
		c, _, err = scanCustomer(s.db().QueryRow(ctx, customerByID, account, id))
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		c = mirror.CustomerView{Customer: mirror.Customer{Account: account, ID: id}, Deleted: true}
		gone := s.db().QueryRow(ctx, buriedCustomer, account, id).Scan((*optTime)(&c.SyncedAt))
		if gone == nil && c.SyncedAt.IsZero() {
			return err
		}
		return gone
	})
	if err != nil {
		return mirror.CustomerView{}, fmt.Errorf("read customer %s: %w", id, notFound(err))
	}
	return c, nil
}

// Customers lists customers by id.
func (s *Store) Customers(ctx context.Context, account, after string, limit int) ([]mirror.CustomerView, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (mirror.CustomerView, error) {
		c, _, err := scanCustomer(row)
		return c, err
	}, customersAfter, account, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list customers after %q: %w", after, err)
	}
	return list, nil
}

// ClockCustomers lists the customers on a test clock that are not deleted.
func (s *Store) ClockCustomers(ctx context.Context, account, clock string) ([]string, error) {
	list, err := query(ctx, s, pgx.RowTo[string], clockCustomers, account, clock)
	if err != nil {
		return nil, fmt.Errorf("list customers of clock %s: %w", clock, err)
	}
	return list, nil
}

// query collects the rows of one statement.
func query[Row any](ctx context.Context, s *Store, scan pgx.RowToFunc[Row], sql string, args ...any) (list []Row, err error) {
	err = retry(ctx, func() error {
		rows, err := s.db().Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scan)
		return err
	})
	return list, err
}

// notFound turns "no rows" into the contract's error.
func notFound(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return mirror.ErrNotFound
	}
	return err
}
