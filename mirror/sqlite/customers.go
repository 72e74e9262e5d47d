package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
)

// selectCustomer and customerRest, with the JSON or NULL between them, give the columns
// of customerColumns. Freshness is that of the last committed balance sync; a customer
// that only the first copy has seen has none.
const (
	selectCustomer = `
SELECT c.account, c.id, c.balance, c.currency, c.invoice_credit_balance, c.created, c.livemode, c.test_clock,
       c.customer_account, `
	customerRest = `, c.deleted, s.observed_at,
       ifnull(NOT s.history_complete OR s.walk_cursor <> '', 0),
       (SELECT k.frozen_time FROM test_clocks k WHERE k.account = c.account AND k.id = c.test_clock), c.digest`
)

const readCustomer = selectCustomer + `c.raw` + customerRest + `
FROM customers c LEFT JOIN sync_state s ON s.account = c.account AND s.customer = c.id AND s.scope = 'balance'
WHERE c.account = ?1 AND c.id = ?2`

func customerColumns(v *mirror.CustomerView, digest *string) []any {
	return []any{
		&v.Account, &v.ID, &v.Balance,
		textColumn{&v.Currency},
		creditColumn{v},
		timeColumn{&v.Created},
		&v.Livemode,
		textColumn{&v.TestClock},
		textColumn{&v.CustomerAccount},
		jsonColumn{&v.Raw},
		&v.Deleted,
		timeColumn{&v.SyncedAt},
		&v.Unfinished,
		timeColumn{&v.ClockTime},
		digest,
	}
}

// creditColumn scans the invoice_credit_balance of a customer; NULL leaves nil, and so
// does what is not an object of integers, which is reported.
type creditColumn struct{ c *mirror.CustomerView }

func (c creditColumn) Scan(v any) error {
	c.c.InvoiceCreditBalance, c.c.CreditUnreadable = nil, false
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		if json.Unmarshal([]byte(v), &c.c.InvoiceCreditBalance) != nil {
			c.c.InvoiceCreditBalance, c.c.CreditUnreadable = nil, true
		}
		return nil
	}
	return fmt.Errorf("%T is not an invoice_credit_balance", v)
}

// writeCustomer writes a customer as Stripe shows it, which is not deleted.
const upsertCustomer = `
INSERT INTO customers (account, id, balance, currency, invoice_credit_balance, created, livemode, test_clock,
       customer_account, raw, digest, synced_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
ON CONFLICT (account, id) DO UPDATE SET balance = excluded.balance, currency = excluded.currency,
       invoice_credit_balance = excluded.invoice_credit_balance, created = excluded.created,
       livemode = excluded.livemode, test_clock = excluded.test_clock, customer_account = excluded.customer_account,
       deleted = 0, deleted_at = NULL, raw = excluded.raw, digest = excluded.digest, synced_at = excluded.synced_at`

func (c *commit) writeCustomer(m mirror.Customer) error {
	return c.exec(upsertCustomer, c.target.Account, c.target.ID, m.Balance, null(m.Currency),
		creditText(m.InvoiceCreditBalance), nullTime(m.Created), flag(m.Livemode), null(m.TestClock),
		null(m.CustomerAccount), nullRaw(m.Raw), mirror.Digest(m.Raw), c.at)
}

const (
	// firstCustomers leaves alone what is held, and what a sync has found deleted
	// before it was ever held.
	firstCustomers = `
INSERT INTO customers (account, id, balance, currency, invoice_credit_balance, created, livemode, test_clock,
       customer_account, raw, digest, synced_at)
SELECT ?2, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6,
       value->>7, value->>8, value->>9, ?3
FROM json_each(?1)
WHERE NOT EXISTS (SELECT 1 FROM sync_state s
                  WHERE s.account = ?2 AND s.customer = value->>0 AND s.scope = 'balance' AND s.applied_epoch > 0)
ON CONFLICT DO NOTHING
RETURNING id`

	firstBalances = `
INSERT INTO customer_balances (account, customer, currency, balance, synced_at)
SELECT ?2, value->>0, value->>1, value->>2, ?3 FROM json_each(?1) WHERE true
ON CONFLICT DO NOTHING`

	// knowLedgers makes ledgers known that no sync began, so that Unsynced finds
	// them in the order of their ranks.
	knowLedgers = `
INSERT INTO sync_state (account, customer, scope, epoch, read_rank, synced_at)
SELECT ?2, value->>0, ?4, 0, value->>1, ?3 FROM json_each(?1) WHERE true
ON CONFLICT (account, customer, scope) DO UPDATE SET read_rank = excluded.read_rank
WHERE NOT history_complete AND excluded.read_rank < read_rank`
)

// InsertCustomers stores customers of the first copy that no sync has touched.
func (s *Store) InsertCustomers(ctx context.Context, account string, page []mirror.Customer) (int, error) {
	page, err := mirror.CustomersToInsert(page)
	if err != nil {
		return 0, fmt.Errorf("insert customers of account %q: %w", account, err)
	}
	byID := make(map[string]mirror.Customer, len(page))
	rows := make([][]any, 0, len(page))
	for _, c := range page {
		byID[c.ID] = c
		rows = append(rows, []any{
			c.ID, c.Balance, null(c.Currency), creditText(c.InvoiceCreditBalance), nullTime(c.Created),
			flag(c.Livemode), null(c.TestClock), null(c.CustomerAccount), nullRaw(c.Raw), mirror.Digest(c.Raw),
		})
	}
	stored := 0
	err = s.w.do(ctx, durable, func(tx *tx) error {
		fresh, err := tx.returnIDs(firstCustomers, rows, account, tx.at)
		if err != nil || len(fresh) == 0 {
			return err
		}
		stored = len(fresh)
		var balances, changes, ledgers [][]any
		for _, id := range fresh {
			changes = append(changes, []any{"customers", id, id, "insert"})
			ledgers = append(ledgers, []any{id, mirror.CustomerRank(byID[id])})
			ends := byID[id].Ends()
			for _, currency := range sortedKeys(ends) {
				balances = append(balances, []any{id, currency, ends[currency]})
				changes = append(changes, []any{"customer_balances", id, currency, "insert"})
			}
		}
		if _, err := tx.inBatches(firstBalances, balances, account, tx.at); err != nil {
			return err
		}
		if _, err := tx.inBatches(knowLedgers, ledgers, account, tx.at, string(mirror.ScopeBalance)); err != nil {
			return err
		}
		return tx.feed(account, changes)
	})
	if err != nil {
		return 0, fmt.Errorf("insert %d customers of account %q: %w", len(page), account, s.explain(err))
	}
	return stored, nil
}

// returnIDs runs a batched INSERT … RETURNING id.
func (t *tx) returnIDs(query string, rows [][]any, args ...any) ([]string, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	text, err := batch(rows)
	if err != nil {
		return nil, err
	}
	var ids []string
	err = t.each(query, append([]any{text}, args...), func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
}
