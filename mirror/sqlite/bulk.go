package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

const (
	customerSelect = selectCustomer + `c.raw` + customerRest + `
FROM customers c LEFT JOIN sync_state s ON s.account = c.account AND s.customer = c.id AND s.scope = 'balance'
`

	livingCursor = `
SELECT created, 0, id FROM customers WHERE account = ?1 AND id = ?4 AND NOT deleted AND test_clock IS NULL`
	livingNewest = customerSelect + `
WHERE c.account = ?1 AND NOT c.deleted AND c.test_clock IS NULL AND c.created BETWEEN ?8 AND ?9
ORDER BY c.created DESC, c.id DESC LIMIT ?4 + 0`
	livingAfter = customerSelect + `
WHERE c.account = ?1 AND NOT c.deleted AND c.test_clock IS NULL AND c.created BETWEEN ?8 AND ?9
  AND (c.created, c.id) < (?5, ?7) ORDER BY c.created DESC, c.id DESC LIMIT ?4 + 0`
	livingBefore = customerSelect + `
WHERE c.account = ?1 AND NOT c.deleted AND c.test_clock IS NULL AND c.created BETWEEN ?8 AND ?9
  AND (c.created, c.id) > (?5, ?7) ORDER BY c.created, c.id LIMIT ?4 + 0`

	// A test clock (?2) has few customers, and an e-mail address (?3) too: they are
	// sorted.
	clockCursor = `
SELECT created, 0, id FROM customers WHERE account = ?1 AND id = ?4 AND NOT deleted AND test_clock = ?2`
	clockNewest = customerSelect + `
WHERE c.account = ?1 AND NOT c.deleted AND c.test_clock = ?2 AND c.test_clock IS NOT NULL AND c.created BETWEEN ?8 AND ?9
ORDER BY c.created DESC, c.id DESC LIMIT ?4 + 0`
	clockAfter = customerSelect + `
WHERE c.account = ?1 AND NOT c.deleted AND c.test_clock = ?2 AND c.test_clock IS NOT NULL AND c.created BETWEEN ?8 AND ?9
  AND (c.created, c.id) < (?5, ?7) ORDER BY c.created DESC, c.id DESC LIMIT ?4 + 0`
	clockBefore = customerSelect + `
WHERE c.account = ?1 AND NOT c.deleted AND c.test_clock = ?2 AND c.test_clock IS NOT NULL AND c.created BETWEEN ?8 AND ?9
  AND (c.created, c.id) > (?5, ?7) ORDER BY c.created, c.id LIMIT ?4 + 0`

	emailCursor = `
SELECT created, 0, id FROM customers
WHERE account = ?1 AND id = ?4 AND NOT deleted AND json_extract(raw, '$.email') = ?3 AND ifnull(test_clock, '') = ?2`
	emailNewest = customerSelect + `
WHERE c.account = ?1 AND NOT c.deleted AND json_extract(c.raw, '$.email') = ?3 AND ifnull(c.test_clock, '') = ?2
  AND c.created BETWEEN ?8 AND ?9
ORDER BY c.created DESC, c.id DESC LIMIT ?4 + 0`
	emailAfter = customerSelect + `
WHERE c.account = ?1 AND NOT c.deleted AND json_extract(c.raw, '$.email') = ?3 AND ifnull(c.test_clock, '') = ?2
  AND c.created BETWEEN ?8 AND ?9 AND (c.created, c.id) < (?5, ?7) ORDER BY c.created DESC, c.id DESC LIMIT ?4 + 0`
	emailBefore = customerSelect + `
WHERE c.account = ?1 AND NOT c.deleted AND json_extract(c.raw, '$.email') = ?3 AND ifnull(c.test_clock, '') = ?2
  AND c.created BETWEEN ?8 AND ?9 AND (c.created, c.id) > (?5, ?7) ORDER BY c.created, c.id LIMIT ?4 + 0`

	customerOfAccount = `SELECT id FROM customers WHERE account = ?1 AND customer_account = ?2 AND customer_account IS NOT NULL
ORDER BY deleted, id LIMIT 1`
)

// CustomerPage lists living customers newest first.
func (s *Store) CustomerPage(ctx context.Context, account string, f mirror.CustomerFilter, p mirror.Page) (mirror.Slice[mirror.CustomerView], error) {
	list := listing[mirror.CustomerView]{
		cursor: livingCursor, newest: livingNewest, after: livingAfter, before: livingBefore, scan: scanCustomer, ranged: true,
	}
	switch {
	case f.Email != "":
		list.cursor, list.newest, list.after, list.before = emailCursor, emailNewest, emailAfter, emailBefore
	case f.TestClock != "":
		list.cursor, list.newest, list.after, list.before = clockCursor, clockNewest, clockAfter, clockBefore
	}
	var out mirror.Slice[mirror.CustomerView]
	err := s.read(ctx, func(r *reading) (err error) {
		out, err = list.page(r, account, f.TestClock, f.Email, p)
		return err
	})
	if err != nil {
		return mirror.Slice[mirror.CustomerView]{}, fmt.Errorf("list customers: %w", err)
	}
	return out, nil
}

// CustomerOfAccount returns the customer that an Accounts v2 account backs.
func (s *Store) CustomerOfAccount(ctx context.Context, account, customerAccount string) (string, error) {
	id, err := one(ctx, s, customerOfAccount, func(rows *sql.Rows) (id string, err error) {
		err = rows.Scan(&id)
		return id, err
	}, account, customerAccount)
	if err != nil {
		return "", fmt.Errorf("find the customer of %s: %w", customerAccount, err)
	}
	return id, nil
}

const (
	balancesPage = `
SELECT c.id, c.deleted, b.observed_at, ifnull(b.history_complete AND b.walk_cursor = '', 1),
       k.observed_at, ifnull(k.history_complete AND k.walk_cursor = '', 1)
FROM customers c
LEFT JOIN sync_state b ON b.account = c.account AND b.customer = c.id AND b.scope = 'balance'
LEFT JOIN sync_state k ON k.account = c.account AND k.customer = c.id AND k.scope = 'credits'
WHERE c.account = ?1 AND c.id > ?2 ORDER BY c.id LIMIT ?3 + 0`

	pageOfCustomers = `(SELECT id FROM customers WHERE account = ?1 AND id > ?2 ORDER BY id LIMIT ?3 + 0)`

	balancesNow = `
SELECT b.customer, b.currency, b.balance FROM ` + pageOfCustomers + ` c
CROSS JOIN customer_balances b ON b.account = ?1 AND b.customer = c.id`

	// pageOfHolders are those of the page that were not deleted by ?4: the others hold
	// nothing any more.
	pageOfHolders = `(SELECT id FROM (SELECT id, deleted, deleted_at FROM customers WHERE account = ?1 AND id > ?2 ORDER BY id LIMIT ?3 + 0)
    WHERE NOT deleted OR deleted_at > ?4)`

	// balancesAt walks each chain back from its end to the time.
	balancesAt = `
SELECT b.customer, b.currency, t.ending_balance FROM ` + pageOfHolders + ` c
CROSS JOIN customer_balances b ON b.account = ?1 AND b.customer = c.id
CROSS JOIN customer_balance_transactions t ON t.rowid = (
    SELECT n.rowid FROM customer_balance_transactions n INDEXED BY customer_balance_transactions_chain
    WHERE n.account = ?1 AND n.customer = c.id AND n.currency = b.currency AND n.chain_position IS NOT NULL AND n.created <= ?4
    ORDER BY n.chain_position DESC LIMIT 1)`

	creditsNow = `
SELECT s.customer, s.currency, s.ledger_balance >> 32, s.ledger_balance & 4294967295 FROM ` + pageOfCustomers + ` c
CROSS JOIN credit_balance_summaries s ON s.account = ?1 AND s.customer = c.id WHERE ?4 IS NOT NULL`

	creditsAt = `
SELECT t.customer, t.currency, sum(t.amount >> 32), sum(t.amount & 4294967295) FROM ` + pageOfHolders + ` c
CROSS JOIN credit_balance_transactions t ON t.account = ?1 AND t.customer = c.id
LEFT JOIN credit_grants g ON g.account = t.account AND g.id = t."grant"
WHERE t.effective_at <= ?4 AND ifnull(g.effective_at, '') <= ?4 GROUP BY t.customer, t.currency`
)

// Balances lists the balances of customers by id.
func (s *Store) Balances(ctx context.Context, account, after string, limit int, asOf time.Time) ([]mirror.CustomerBalances, error) {
	var list []mirror.CustomerBalances
	err := s.read(ctx, func(r *reading) error {
		at := map[string]int{}
		args := []any{account, after, limit}
		err := r.each(balancesPage, args, func(rows *sql.Rows) error {
			c := mirror.CustomerBalances{Balance: map[string]int64{}, Credits: map[string]int64{}}
			err := rows.Scan(&c.Customer, &c.Deleted, timeColumn{&c.BalanceSyncedAt}, &c.BalanceComplete,
				timeColumn{&c.CreditsSyncedAt}, &c.CreditsComplete)
			at[c.Customer] = len(list)
			list = append(list, c)
			return err
		})
		if err != nil {
			return err
		}
		_, until := bounds(mirror.Span{To: asOf}) // now counts what is effective later too, as Stripe's summary does
		query, credits := balancesNow, creditsNow
		if !asOf.IsZero() {
			query, credits = balancesAt, creditsAt
		}
		err = r.each(query, append(args[:3:3], until), func(rows *sql.Rows) error {
			var customer, currency string
			var amount int64
			err := rows.Scan(&customer, &currency, &amount)
			if err == nil {
				list[at[customer]].Balance[currency] = amount
			}
			return err
		})
		if err != nil {
			return err
		}
		return r.each(credits, append(args[:3:3], until), func(rows *sql.Rows) error {
			var customer, currency string
			var high, low int64
			if err := rows.Scan(&customer, &currency, &high, &low); err != nil {
				return err
			}
			amount, err := report.Halves(high, low).Fit(report.Key{Account: account, Customer: customer}, report.LedgerCredits, currency)
			list[at[customer]].Credits[currency] = amount
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list balances after %q: %w", after, err)
	}
	return list, nil
}

const (
	changesAfter = `
SELECT seq, account, table_name, customer, id, op, changed_at FROM changes
WHERE account = ?1 AND seq > ?2 AND table_name NOT IN ('api_writes', 'closed_periods', 'drift_findings') ORDER BY seq LIMIT ?3 + 0`

	// lastChange counts deleted records too.
	lastChange = `SELECT seq FROM sqlite_sequence WHERE name = 'changes'`
)

// Changes lists the change feed. Writes come one after the other, so the order of
// seq is that of the commits.
func (s *Store) Changes(ctx context.Context, account, after string, limit int) ([]mirror.Change, error) {
	var seq int64
	var list []mirror.Change
	err := s.read(ctx, func(r *reading) error {
		name, err := r.history()
		if err != nil {
			return err
		}
		if after != "" {
			position, ok := mirror.CutPosition(after, name)
			if seq, err = strconv.ParseInt(position, 10, 64); err != nil || seq < 0 || seq > 0 && !ok {
				return mirror.ErrNotFound
			}
		}
		err = r.each(changesAfter, []any{account, seq, limit}, func(rows *sql.Rows) error {
			var c mirror.Change
			var seq int64
			err := rows.Scan(&seq, &c.Account, &c.Table, &c.Customer, &c.ID, &c.Op, timeColumn{&c.ChangedAt})
			c.Cursor = mirror.MarkPosition(strconv.FormatInt(seq, 10), name)
			list = append(list, c)
			return err
		})
		if err != nil || seq == 0 {
			return err
		}
		var pruned int64
		if _, err := r.row(prunedTo, nil, &pruned); err != nil {
			return err
		}
		if seq < pruned { // records after it are gone
			return mirror.ErrNotFound
		}
		if len(list) > 0 {
			return nil
		}
		// The reader of another file would wait while records pass before its cursor.
		var last int64
		if _, err := r.row(lastChange, nil, &last); err != nil {
			return err
		}
		if seq > last {
			return mirror.ErrNotFound
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list changes: %w", err)
	}
	return list, nil
}
