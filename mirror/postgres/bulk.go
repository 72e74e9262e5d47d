package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

const (
	livingHead = `SELECT true, $2::text = '' OR EXISTS (SELECT 1 FROM creditmirror.customers
  WHERE account = $1 AND id = $2 AND NOT deleted AND test_clock IS NULL), NULL::timestamptz, false`

	livingNewest = `SELECT ` + customerColumns + customerFrom + `
WHERE c.account = $1 AND NOT c.deleted AND c.test_clock IS NULL AND c.created >= $3 AND c.created <= $4
ORDER BY c.created DESC, c.id DESC LIMIT $2`

	livingAfter = `SELECT ` + customerColumns + customerFrom + `
WHERE c.account = $1 AND NOT c.deleted AND c.test_clock IS NULL AND c.created >= $4 AND c.created <= $5
  AND (c.created, c.id) < (SELECT created, id FROM creditmirror.customers WHERE account = $1 AND id = $2)
ORDER BY c.created DESC, c.id DESC LIMIT $3`

	livingBefore = `SELECT ` + customerColumns + customerFrom + `
WHERE c.account = $1 AND NOT c.deleted AND c.test_clock IS NULL AND c.created >= $4 AND c.created <= $5
  AND (c.created, c.id) > (SELECT created, id FROM creditmirror.customers WHERE account = $1 AND id = $2)
ORDER BY c.created, c.id LIMIT $3`

	// A test clock has few customers, and an e-mail address too: they are sorted.
	clockHead = `SELECT true, $3::text = '' OR EXISTS (SELECT 1 FROM creditmirror.customers
  WHERE account = $1 AND id = $3 AND NOT deleted AND test_clock = $2), NULL::timestamptz, false`

	clockNewest = `SELECT ` + customerColumns + customerFrom + `
WHERE c.account = $1 AND NOT c.deleted AND c.test_clock = $2 AND c.created >= $4 AND c.created <= $5
ORDER BY c.created DESC, c.id DESC LIMIT $3`

	clockAfter = `SELECT ` + customerColumns + customerFrom + `
WHERE c.account = $1 AND NOT c.deleted AND c.test_clock = $2 AND c.created >= $5 AND c.created <= $6
  AND (c.created, c.id) < (SELECT created, id FROM creditmirror.customers WHERE account = $1 AND id = $3)
ORDER BY c.created DESC, c.id DESC LIMIT $4`

	clockBefore = `SELECT ` + customerColumns + customerFrom + `
WHERE c.account = $1 AND NOT c.deleted AND c.test_clock = $2 AND c.created >= $5 AND c.created <= $6
  AND (c.created, c.id) > (SELECT created, id FROM creditmirror.customers WHERE account = $1 AND id = $3)
ORDER BY c.created, c.id LIMIT $4`

	emailHead = `SELECT true, $4::text = '' OR EXISTS (SELECT 1 FROM creditmirror.customers
  WHERE account = $1 AND id = $4 AND NOT deleted AND raw ->> 'email' = $2 AND coalesce(test_clock, '') = $3), NULL::timestamptz, false`

	emailNewest = `SELECT ` + customerColumns + customerFrom + `
WHERE c.account = $1 AND NOT c.deleted AND c.raw ->> 'email' = $2 AND coalesce(c.test_clock, '') = $3
  AND c.created >= $5 AND c.created <= $6
ORDER BY c.created DESC, c.id DESC LIMIT $4`

	emailAfter = `SELECT ` + customerColumns + customerFrom + `
WHERE c.account = $1 AND NOT c.deleted AND c.raw ->> 'email' = $2 AND coalesce(c.test_clock, '') = $3
  AND c.created >= $6 AND c.created <= $7
  AND (c.created, c.id) < (SELECT created, id FROM creditmirror.customers WHERE account = $1 AND id = $4)
ORDER BY c.created DESC, c.id DESC LIMIT $5`

	emailBefore = `SELECT ` + customerColumns + customerFrom + `
WHERE c.account = $1 AND NOT c.deleted AND c.raw ->> 'email' = $2 AND coalesce(c.test_clock, '') = $3
  AND c.created >= $6 AND c.created <= $7
  AND (c.created, c.id) > (SELECT created, id FROM creditmirror.customers WHERE account = $1 AND id = $4)
ORDER BY c.created, c.id LIMIT $5`

	customerOfAccount = `SELECT id FROM creditmirror.customers WHERE account = $1 AND customer_account = $2 ORDER BY deleted, id LIMIT 1`
)

// CustomerPage lists living customers newest first.
func (s *Store) CustomerPage(ctx context.Context, account string, f mirror.CustomerFilter, p mirror.Page) (mirror.Slice[mirror.CustomerView], error) {
	list := listing[mirror.CustomerView]{
		head: livingHead, newest: livingNewest, after: livingAfter, before: livingBefore, ranged: true,
		scan: func(row pgx.CollectableRow) (mirror.CustomerView, error) {
			c, _, err := scanCustomer(row)
			return c, err
		},
	}
	chosen := []any{account}
	switch {
	case f.Email != "":
		list.head, list.newest, list.after, list.before = emailHead, emailNewest, emailAfter, emailBefore
		chosen = append(chosen, f.Email, f.TestClock)
	case f.TestClock != "":
		list.head, list.newest, list.after, list.before = clockHead, clockNewest, clockAfter, clockBefore
		chosen = append(chosen, f.TestClock)
	}
	out, err := list.page(ctx, s, p, chosen...)
	if err != nil {
		return out, fmt.Errorf("list customers: %w", err)
	}
	return out, nil
}

// CustomerOfAccount returns the customer that an Accounts v2 account backs.
func (s *Store) CustomerOfAccount(ctx context.Context, account, customerAccount string) (string, error) {
	id, err := one(query(ctx, s, pgx.RowTo[string], customerOfAccount, account, customerAccount))
	if err != nil {
		return "", fmt.Errorf("find the customer of %s: %w", customerAccount, err)
	}
	return id, nil
}

// pageOfCustomers are the ids that a page of Balances is about.
const pageOfCustomers = `SELECT id FROM creditmirror.customers WHERE account = $1 AND id > $2 ORDER BY id LIMIT $3`

const (
	balancesPage = `SELECT c.id, c.deleted, b.observed_at, coalesce(b.history_complete AND b.walk_cursor = '', true),
  k.observed_at, coalesce(k.history_complete AND k.walk_cursor = '', true)
FROM creditmirror.customers AS c
LEFT JOIN creditmirror.sync_state AS b ON b.account = c.account AND b.customer = c.id AND b.scope = 'balance'
LEFT JOIN creditmirror.sync_state AS k ON k.account = c.account AND k.customer = c.id AND k.scope = 'credits'
WHERE c.account = $1 AND c.id > $2 ORDER BY c.id LIMIT $3`

	balancesNow = `SELECT b.customer, b.currency, b.balance FROM (` + pageOfCustomers + `) AS c
JOIN creditmirror.customer_balances AS b ON b.account = $1 AND b.customer = c.id`

	// pageOfHolders are those of the page that were not deleted by $4: the others hold
	// nothing any more.
	pageOfHolders = `SELECT id FROM (SELECT id, deleted, deleted_at FROM creditmirror.customers WHERE account = $1 AND id > $2 ORDER BY id LIMIT $3) AS p
  WHERE NOT deleted OR deleted_at > $4`

	// balancesAt walks each chain back from its end to the time.
	balancesAt = `SELECT b.customer, b.currency, t.ending_balance FROM (` + pageOfHolders + `) AS c
JOIN creditmirror.customer_balances AS b ON b.account = $1 AND b.customer = c.id
CROSS JOIN LATERAL (
  SELECT r.ending_balance FROM creditmirror.customer_balance_transactions AS r
  WHERE r.account = $1 AND r.customer = c.id AND r.currency = b.currency AND r.chain_position IS NOT NULL AND r.created <= $4
  ORDER BY r.chain_position DESC LIMIT 1
) AS t`

	creditsNow = `SELECT s.customer, s.currency, s.ledger_balance FROM (` + pageOfCustomers + `) AS c
JOIN creditmirror.credit_balance_summaries AS s ON s.account = $1 AND s.customer = c.id`

	creditsAt = `SELECT t.customer, t.currency, sum(t.amount)
FROM (` + pageOfHolders + `) AS c
JOIN creditmirror.credit_balance_transactions AS t ON t.account = $1 AND t.customer = c.id
LEFT JOIN creditmirror.credit_grants AS g ON g.account = t.account AND g.id = t."grant"
WHERE t.effective_at <= $4 AND coalesce(g.effective_at, '-infinity') <= $4 GROUP BY t.customer, t.currency`
)

// Balances lists the balances of customers by id.
func (s *Store) Balances(ctx context.Context, account, after string, limit int, asOf time.Time) ([]mirror.CustomerBalances, error) {
	var list []mirror.CustomerBalances
	err := s.snapshot(ctx, func(b *pgx.Batch) {
		at := map[string]int{}
		list = nil
		b.Queue(balancesPage, account, after, limit).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				c := mirror.CustomerBalances{Balance: map[string]int64{}, Credits: map[string]int64{}}
				if err := rows.Scan(&c.Customer, &c.Deleted, (*optTime)(&c.BalanceSyncedAt), &c.BalanceComplete,
					(*optTime)(&c.CreditsSyncedAt), &c.CreditsComplete); err != nil {
					return err
				}
				at[c.Customer] = len(list)
				list = append(list, c)
			}
			return rows.Err()
		})
		collect := func(of func(*mirror.CustomerBalances) map[string]int64) func(pgx.Rows) error {
			return func(rows pgx.Rows) error {
				var customer, currency string
				var amount int64
				_, err := pgx.ForEachRow(rows, []any{&customer, &currency, &amount}, func() error {
					of(&list[at[customer]])[currency] = amount
					return nil
				})
				return err
			}
		}
		balance := func(c *mirror.CustomerBalances) map[string]int64 { return c.Balance }
		credits := func(c *mirror.CustomerBalances) map[string]int64 { return c.Credits }
		if asOf.IsZero() { // what is effective later counts too, as in Stripe's summary
			b.Queue(balancesNow, account, after, limit).Query(collect(balance))
			b.Queue(creditsNow, account, after, limit).Query(collect(credits))
			return
		}
		b.Queue(balancesAt, account, after, limit, asOf).Query(collect(balance))
		b.Queue(creditsAt, account, after, limit, asOf).Query(func(rows pgx.Rows) error {
			var customer, currency string
			var sum wide
			_, err := pgx.ForEachRow(rows, []any{&customer, &currency, &sum}, func() (err error) {
				of := report.Key{Account: account, Customer: customer}
				list[at[customer]].Credits[currency], err = report.Wide(sum).Fit(of, report.LedgerCredits, currency)
				return err
			})
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list balances after %q: %w", after, err)
	}
	return list, nil
}

const (
	// changesAfter reads the feed as the comment of its table says, but
	// for what only exports read.
	changesAfter = `SELECT c.xact::text, c.seq, c.account, c.table_name, c.customer, c.id, c.op, c.changed_at
FROM creditmirror.changes AS c
WHERE (c.xact, c.seq) > ($1::text::xid8, $2::bigint) AND c.xact < pg_snapshot_xmin(pg_current_snapshot()) AND c.account = $3
  AND c.table_name NOT IN ('api_writes', 'closed_periods', 'drift_findings')
ORDER BY c.xact, c.seq LIMIT $4`

	// changesBeyond finds a transaction that this server has yet to count to.
	changesBeyond = `SELECT $1::text::xid8 >= pg_snapshot_xmax(pg_current_snapshot())`
)

// Changes lists the change feed. Its cursor is two numbers: the transaction and
// the sequence number.
func (s *Store) Changes(ctx context.Context, account, after string, limit int) ([]mirror.Change, error) {
	name, err := one(query(ctx, s, pgx.RowTo[string], history))
	if err != nil {
		return nil, fmt.Errorf("list changes: %w", err)
	}
	position, ok := mirror.CutPosition(after, name)
	xact, seq, err := parseFeedCursor(position)
	if err == nil && !ok && xact > 0 {
		err = mirror.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("list changes: %w", err)
	}
	list, err := query(ctx, s, func(row pgx.CollectableRow) (c mirror.Change, err error) {
		var xact string
		var seq int64
		err = row.Scan(&xact, &seq, &c.Account, &c.Table, &c.Customer, &c.ID, &c.Op, &c.ChangedAt)
		c.Cursor = mirror.MarkPosition(xact+"."+strconv.FormatInt(seq, 10), name)
		return c, err
	}, changesAfter, strconv.FormatUint(xact, 10), seq, account, limit)
	if err == nil && xact > 0 {
		err = s.checkNotPruned(ctx, xact)
	}
	if err == nil && len(list) == 0 && xact > 0 {
		err = s.checkFeedCursor(ctx, xact)
	}
	if err != nil {
		return nil, fmt.Errorf("list changes: %w", err)
	}
	return list, nil
}

// prunedPast reports whether records after a transaction may be gone.
const prunedPast = `SELECT EXISTS (SELECT 1 FROM creditmirror.export_cursors WHERE account = '' AND name = '` + pruned + `' AND position::xid8 > $1::text::xid8 )`

// checkNotPruned refuses a cursor whose reader would miss records that were pruned.
func (s *Store) checkNotPruned(ctx context.Context, xact uint64) error {
	gone, err := one(query(ctx, s, pgx.RowTo[bool], prunedPast, strconv.FormatUint(xact+1, 10)))
	if err == nil && gone {
		err = mirror.ErrNotFound
	}
	return err
}

// checkFeedCursor refuses a cursor of another server, whose reader would wait
// while records pass before it.
func (s *Store) checkFeedCursor(ctx context.Context, xact uint64) error {
	beyond, err := one(query(ctx, s, pgx.RowTo[bool], changesBeyond, strconv.FormatUint(xact, 10)))
	if err == nil && beyond {
		err = mirror.ErrNotFound
	}
	return err
}

func parseFeedCursor(s string) (xact uint64, seq int64, err error) {
	if s == "" || s == "0" {
		return 0, 0, nil
	}
	a, b, _ := strings.Cut(s, ".")
	if xact, err = strconv.ParseUint(a, 10, 64); err == nil {
		seq, err = strconv.ParseInt(b, 10, 64)
	}
	if err != nil || seq < 0 {
		return 0, 0, mirror.ErrNotFound
	}
	return xact, seq, nil
}
