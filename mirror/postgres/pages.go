package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

// listing is a list in pages. Every statement takes the arguments that choose
// the list, then the cursor's id (head, after, before), then the limit. The
// cursor's place in the order is looked up inside the statement, so that a page
// is one snapshot and one round trip; one row comparison over an index finds it
// at any depth.
type listing[Row any] struct {
	// head reports whether the list's owner is known, whether the cursor is in the
	// list (true without a cursor), when the ledger was last synced, and whether its
	// history is unfinished.
	head                  string
	newest, after, before string
	scan                  pgx.RowToFunc[Row]
	// owner is how many of the chosen arguments the head takes; 0: all.
	owner int
	// ranged lists take two more arguments at the end: the bounds of created.
	ranged bool
}

// page reads one page, newest first.
func (l listing[Row]) page(ctx context.Context, s *Store, p mirror.Page, chosen ...any) (mirror.Slice[Row], error) {
	var out mirror.Slice[Row]
	var known, placed bool
	cursor := p.After + p.Before // exclude each other
	chosen = slices.Clip(chosen)
	err := s.snapshot(ctx, func(b *pgx.Batch) {
		owner := chosen
		if l.owner > 0 {
			owner = slices.Clip(chosen[:l.owner])
		}
		b.Queue(l.head, append(owner, cursor)...).QueryRow(func(row pgx.Row) error {
			return row.Scan(&known, &placed, (*optTime)(&out.SyncedAt), &out.Unfinished)
		})
		statement, args := l.newest, append(chosen, p.Limit+1)
		if cursor != "" {
			statement, args = l.after, append(chosen, cursor, p.Limit+1)
		}
		if p.Before != "" {
			statement = l.before
		}
		if l.ranged {
			args = append(args, spanFrom(&p.Created), spanTo(&p.Created))
		}
		b.Queue(statement, args...).Query(func(rows pgx.Rows) (err error) {
			out.Rows, err = pgx.CollectRows(rows, l.scan)
			return err
		})
	})
	if err != nil {
		return mirror.Slice[Row]{}, err
	}
	if !known || !placed {
		return mirror.Slice[Row]{}, mirror.ErrNotFound
	}
	if len(out.Rows) > p.Limit {
		out.Rows, out.HasMore = out.Rows[:p.Limit], true
	}
	if p.Before != "" {
		slices.Reverse(out.Rows)
	}
	return out, nil
}

const balanceColumns = `account, id, customer, amount, currency, ending_balance, type, invoice, credit_note, checkout_session,
description, metadata, created, livemode, coalesce(chain_position, 0), raw`

const (
	balanceRowByID = `SELECT ` + balanceColumns + ` FROM creditmirror.customer_balance_transactions
WHERE account = $1 AND customer = $2 AND id = $3`

	balanceHead = `SELECT EXISTS (SELECT 1 FROM creditmirror.customers WHERE account = $1 AND id = $2),
  $3::text = '' OR EXISTS (SELECT 1 FROM creditmirror.customer_balance_transactions WHERE account = $1 AND customer = $2 AND id = $3),
  (SELECT observed_at FROM creditmirror.sync_state WHERE account = $1 AND customer = $2 AND scope = 'balance'),
  coalesce((SELECT NOT history_complete OR walk_cursor <> '' FROM creditmirror.sync_state
    WHERE account = $1 AND customer = $2 AND scope = 'balance'), false)`

	balanceNewest = `SELECT ` + balanceColumns + ` FROM creditmirror.customer_balance_transactions
WHERE account = $1 AND customer = $2 AND created >= $4 AND created <= $5
ORDER BY created DESC, coalesce(chain_position, 9223372036854775807) DESC, id DESC LIMIT $3`

	balanceAfter = `SELECT ` + balanceColumns + ` FROM creditmirror.customer_balance_transactions
WHERE account = $1 AND customer = $2 AND created >= $5 AND created <= $6 AND (created, coalesce(chain_position, 9223372036854775807), id) < (
  SELECT created, coalesce(chain_position, 9223372036854775807), id FROM creditmirror.customer_balance_transactions
  WHERE account = $1 AND customer = $2 AND id = $3)
ORDER BY created DESC, coalesce(chain_position, 9223372036854775807) DESC, id DESC LIMIT $4`

	balanceBefore = `SELECT ` + balanceColumns + ` FROM creditmirror.customer_balance_transactions
WHERE account = $1 AND customer = $2 AND created >= $5 AND created <= $6 AND (created, coalesce(chain_position, 9223372036854775807), id) > (
  SELECT created, coalesce(chain_position, 9223372036854775807), id FROM creditmirror.customer_balance_transactions
  WHERE account = $1 AND customer = $2 AND id = $3)
ORDER BY created, coalesce(chain_position, 9223372036854775807), id LIMIT $4`

	// An invoice has few rows, which are found through an index of their own.
	invoiceNewest = `SELECT ` + balanceColumns + ` FROM creditmirror.customer_balance_transactions
WHERE account = $1 AND customer = $2 AND invoice = $3 AND created >= $5 AND created <= $6
ORDER BY created DESC, coalesce(chain_position, 9223372036854775807) DESC, id DESC LIMIT $4`

	invoiceAfter = `SELECT ` + balanceColumns + ` FROM creditmirror.customer_balance_transactions
WHERE account = $1 AND customer = $2 AND invoice = $3 AND created >= $6 AND created <= $7
  AND (created, coalesce(chain_position, 9223372036854775807), id) < (
  SELECT created, coalesce(chain_position, 9223372036854775807), id FROM creditmirror.customer_balance_transactions
  WHERE account = $1 AND customer = $2 AND id = $4)
ORDER BY created DESC, coalesce(chain_position, 9223372036854775807) DESC, id DESC LIMIT $5`

	invoiceBefore = `SELECT ` + balanceColumns + ` FROM creditmirror.customer_balance_transactions
WHERE account = $1 AND customer = $2 AND invoice = $3 AND created >= $6 AND created <= $7
  AND (created, coalesce(chain_position, 9223372036854775807), id) > (
  SELECT created, coalesce(chain_position, 9223372036854775807), id FROM creditmirror.customer_balance_transactions
  WHERE account = $1 AND customer = $2 AND id = $4)
ORDER BY created, coalesce(chain_position, 9223372036854775807), id LIMIT $5`
)

func scanBalanceRow(row pgx.CollectableRow) (r mirror.BalanceTransaction, err error) {
	err = row.Scan(&r.Account, &r.ID, &r.Customer, &r.Amount, &r.Currency, &r.EndingBalance, &r.Type, (*optText)(&r.Invoice),
		(*optText)(&r.CreditNote), (*optText)(&r.CheckoutSession), (*optText)(&r.Description), &r.Metadata, (*optTime)(&r.Created),
		&r.Livemode, &r.Position, &r.Raw)
	return r, err
}

// BalanceTransactions lists a customer's balance transactions.
func (s *Store) BalanceTransactions(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
	list := listing[mirror.BalanceTransaction]{
		head: balanceHead, newest: balanceNewest, after: balanceAfter, before: balanceBefore, scan: scanBalanceRow, ranged: true,
	}
	chosen := []any{account, customer}
	if p.Invoice != "" {
		list.newest, list.after, list.before, list.owner = invoiceNewest, invoiceAfter, invoiceBefore, len(chosen)
		chosen = append(chosen, p.Invoice)
	}
	out, err := list.page(ctx, s, p, chosen...)
	if err != nil {
		return out, fmt.Errorf("list balance transactions of %s: %w", customer, err)
	}
	return out, nil
}

// BalanceTransaction reads one.
func (s *Store) BalanceTransaction(ctx context.Context, account, customer, id string) (mirror.BalanceTransaction, error) {
	row, err := one(query(ctx, s, scanBalanceRow, balanceRowByID, account, customer, id))
	if err != nil {
		return row, fmt.Errorf("read balance transaction %s of %s: %w", id, customer, err)
	}
	return row, nil
}

// one is the only row of a result, or ErrNotFound.
func one[Row any](list []Row, err error) (Row, error) {
	var none Row
	switch {
	case err != nil:
		return none, err
	case len(list) == 0:
		return none, mirror.ErrNotFound
	}
	return list[0], nil
}

const (
	// The grants of a customer may be known before the customer is.
	customerGrantsHead = `SELECT
  EXISTS (SELECT 1 FROM creditmirror.customers WHERE account = $1 AND id = $2)
    OR EXISTS (SELECT 1 FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2),
  $3::text = '' OR EXISTS (SELECT 1 FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2 AND id = $3),
  (SELECT observed_at FROM creditmirror.sync_state WHERE account = $1 AND customer = $2 AND scope = 'credits'),
  coalesce((SELECT NOT history_complete OR walk_cursor <> '' FROM creditmirror.sync_state
    WHERE account = $1 AND customer = $2 AND scope = 'credits'), false)`

	customerGrantsNewest = `SELECT ` + grantColumns + ` FROM creditmirror.credit_grants
WHERE account = $1 AND customer = $2 ORDER BY created DESC, id DESC LIMIT $3`

	customerGrantsAfter = `SELECT ` + grantColumns + ` FROM creditmirror.credit_grants
WHERE account = $1 AND customer = $2 AND (created, id) < (
  SELECT created, id FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2 AND id = $3)
ORDER BY created DESC, id DESC LIMIT $4`

	customerGrantsBefore = `SELECT ` + grantColumns + ` FROM creditmirror.credit_grants
WHERE account = $1 AND customer = $2 AND (created, id) > (
  SELECT created, id FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2 AND id = $3)
ORDER BY created, id LIMIT $4`

	// A page of the whole account comes from no single sync.
	accountGrantsHead = `SELECT true,
  $2::text = '' OR EXISTS (SELECT 1 FROM creditmirror.credit_grants WHERE account = $1 AND id = $2),
  NULL::timestamptz, false`

	accountGrantsNewest = `SELECT ` + grantColumns + ` FROM creditmirror.credit_grants
WHERE account = $1 ORDER BY created DESC, id DESC LIMIT $2`

	accountGrantsAfter = `SELECT ` + grantColumns + ` FROM creditmirror.credit_grants
WHERE account = $1 AND (created, id) < (SELECT created, id FROM creditmirror.credit_grants WHERE account = $1 AND id = $2)
ORDER BY created DESC, id DESC LIMIT $3`

	accountGrantsBefore = `SELECT ` + grantColumns + ` FROM creditmirror.credit_grants
WHERE account = $1 AND (created, id) > (SELECT created, id FROM creditmirror.credit_grants WHERE account = $1 AND id = $2)
ORDER BY created, id LIMIT $3`
)

// Grants lists the grants of a customer or of the account.
func (s *Store) Grants(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error) {
	scan := func(row pgx.CollectableRow) (mirror.CreditGrant, error) { return scanGrant(row) }
	list := listing[mirror.CreditGrant]{head: customerGrantsHead, newest: customerGrantsNewest, after: customerGrantsAfter, before: customerGrantsBefore, scan: scan}
	chosen := []any{account, customer}
	if customer == "" {
		list = listing[mirror.CreditGrant]{head: accountGrantsHead, newest: accountGrantsNewest, after: accountGrantsAfter, before: accountGrantsBefore, scan: scan}
		chosen = []any{account}
	}
	out, err := list.page(ctx, s, p, chosen...)
	if err != nil {
		return out, fmt.Errorf("list grants of %q: %w", customer, err)
	}
	return out, nil
}
