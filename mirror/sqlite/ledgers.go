package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	balanceColumns = `
SELECT account, id, customer, amount, currency, ending_balance, type, invoice, credit_note, checkout_session,
       description, metadata, created, livemode, ifnull(chain_position, 0), raw
FROM customer_balance_transactions `

	oneBalanceRow = balanceColumns + `WHERE account = ?1 AND customer = ?2 AND id = ?3`

	// balanceOrder is the list's total order, as its index has it: a row without a
	// place counts as the newest of its second.
	balanceCursor = `
SELECT created, ifnull(chain_position, 9223372036854775807), id
FROM customer_balance_transactions WHERE account = ?1 AND customer = ?2 AND id = ?4`
	balanceNewest = balanceColumns + `
WHERE account = ?1 AND customer = ?2 AND created BETWEEN ?8 AND ?9
ORDER BY created DESC, ifnull(chain_position, 9223372036854775807) DESC, id DESC LIMIT ?4 + 0`
	balanceAfter = balanceColumns + `
WHERE account = ?1 AND customer = ?2 AND created BETWEEN ?8 AND ?9 AND (created, ifnull(chain_position, 9223372036854775807), id) < (?5, ?6, ?7)
ORDER BY created DESC, ifnull(chain_position, 9223372036854775807) DESC, id DESC LIMIT ?4 + 0`
	balanceBefore = balanceColumns + `
WHERE account = ?1 AND customer = ?2 AND created BETWEEN ?8 AND ?9 AND (created, ifnull(chain_position, 9223372036854775807), id) > (?5, ?6, ?7)
ORDER BY created, ifnull(chain_position, 9223372036854775807), id LIMIT ?4 + 0`

	// An invoice has few rows, which are found through an index of their own.
	invoiceRows = balanceColumns + ` INDEXED BY customer_balance_transactions_invoice
WHERE account = ?1 AND customer = ?2 AND invoice = ?10 AND invoice IS NOT NULL AND created BETWEEN ?8 AND ?9
`
	invoiceNewest = invoiceRows + `
ORDER BY created DESC, ifnull(chain_position, 9223372036854775807) DESC, id DESC LIMIT ?4 + 0`
	invoiceAfter = invoiceRows + `AND (created, ifnull(chain_position, 9223372036854775807), id) < (?5, ?6, ?7)
ORDER BY created DESC, ifnull(chain_position, 9223372036854775807) DESC, id DESC LIMIT ?4 + 0`
	invoiceBefore = invoiceRows + `AND (created, ifnull(chain_position, 9223372036854775807), id) > (?5, ?6, ?7)
ORDER BY created, ifnull(chain_position, 9223372036854775807), id LIMIT ?4 + 0`
)

var balanceList = listing[mirror.BalanceTransaction]{
	cursor: balanceCursor, newest: balanceNewest, after: balanceAfter, before: balanceBefore, scan: scanBalance, ranged: true,
}

var invoiceList = listing[mirror.BalanceTransaction]{
	cursor: balanceCursor, newest: invoiceNewest, after: invoiceAfter, before: invoiceBefore, scan: scanBalance, ranged: true,
}

func scanBalance(rows *sql.Rows) (mirror.BalanceTransaction, error) {
	var r mirror.BalanceTransaction
	err := rows.Scan(&r.Account, &r.ID, &r.Customer, &r.Amount, &r.Currency, &r.EndingBalance, &r.Type,
		textColumn{&r.Invoice}, textColumn{&r.CreditNote}, textColumn{&r.CheckoutSession}, textColumn{&r.Description},
		jsonColumn{&r.Metadata}, timeColumn{&r.Created}, &r.Livemode, &r.Position, jsonColumn{&r.Raw})
	return r, err
}

// BalanceTransactions lists a customer's balance transactions.
func (s *Store) BalanceTransactions(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
	var out mirror.Slice[mirror.BalanceTransaction]
	list := balanceList
	if p.Invoice != "" {
		list = invoiceList
	}
	err := s.read(ctx, func(r *reading) (err error) {
		if err := r.known(knowsCustomer, account, customer); err != nil {
			return err
		}
		if out, err = list.page(r, account, customer, "", p); err != nil {
			return err
		}
		out.SyncedAt, out.Unfinished, err = r.synced(account, customer, mirror.ScopeBalance)
		return err
	})
	if err != nil {
		return mirror.Slice[mirror.BalanceTransaction]{}, fmt.Errorf("list balance transactions of %s: %w", customer, err)
	}
	return out, nil
}

// BalanceTransaction reads one.
func (s *Store) BalanceTransaction(ctx context.Context, account, customer, id string) (mirror.BalanceTransaction, error) {
	row, err := one(ctx, s, oneBalanceRow, scanBalance, account, customer, id)
	if err != nil {
		return row, fmt.Errorf("read balance transaction %s of %s: %w", id, customer, err)
	}
	return row, nil
}

// one reads the one row of a query, or ErrNotFound.
func one[Row any](ctx context.Context, s *Store, query string, scan func(*sql.Rows) (Row, error), args ...any) (Row, error) {
	var row Row
	err := s.read(ctx, func(r *reading) error {
		found := false
		err := r.each(query, args, func(rows *sql.Rows) (err error) {
			found = true
			row, err = scan(rows)
			return err
		})
		if err == nil && !found {
			err = mirror.ErrNotFound
		}
		return err
	})
	return row, err
}

const (
	readGrant = `
SELECT account, id, customer, name, category, amount_type, ifnull(amount, 0), currency, applicability_config, ifnull(priority, -1),
       effective_at, expires_at, voided_at, created, updated, livemode, test_clock, metadata, raw
FROM credit_grants `

	oneGrant = readGrant + `WHERE account = ?1 AND id = ?2`

	customersGrantCursor = `
SELECT created, 0, id FROM credit_grants WHERE account = ?1 AND customer = ?2 AND id = ?4`
	customersGrantsNewest = readGrant + `
WHERE account = ?1 AND customer = ?2 ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	customersGrantsAfter = readGrant + `
WHERE account = ?1 AND customer = ?2 AND (created, id) < (?5, ?7) ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	customersGrantsBefore = readGrant + `
WHERE account = ?1 AND customer = ?2 AND (created, id) > (?5, ?7) ORDER BY created, id LIMIT ?4 + 0`

	accountsGrantCursor = `
SELECT created, 0, id FROM credit_grants WHERE account = ?1 AND id = ?4`
	accountsGrantsNewest = readGrant + `
WHERE account = ?1 ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	accountsGrantsAfter = readGrant + `
WHERE account = ?1 AND (created, id) < (?5, ?7) ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	accountsGrantsBefore = readGrant + `
WHERE account = ?1 AND (created, id) > (?5, ?7) ORDER BY created, id LIMIT ?4 + 0`

	grantOwner = `SELECT customer FROM credit_grants WHERE account = ?1 AND id = ?2`
)

var (
	customersGrants = listing[mirror.CreditGrant]{
		cursor: customersGrantCursor, newest: customersGrantsNewest,
		after: customersGrantsAfter, before: customersGrantsBefore, scan: scanGrant,
	}
	accountsGrants = listing[mirror.CreditGrant]{
		cursor: accountsGrantCursor, newest: accountsGrantsNewest,
		after: accountsGrantsAfter, before: accountsGrantsBefore, scan: scanGrant,
	}
)

func scanGrant(rows *sql.Rows) (mirror.CreditGrant, error) {
	var g mirror.CreditGrant
	err := rows.Scan(&g.Account, &g.ID, &g.Customer, textColumn{&g.Name}, &g.Category, &g.AmountType, &g.Amount,
		textColumn{&g.Currency}, jsonColumn{&g.ApplicabilityConfig}, &g.Priority, grantTime{&g.EffectiveAt},
		grantTime{&g.ExpiresAt}, grantTime{&g.VoidedAt}, timeColumn{&g.Created}, timeColumn{&g.Updated},
		&g.Livemode, textColumn{&g.TestClock}, jsonColumn{&g.Metadata}, jsonColumn{&g.Raw})
	return g, err
}

// Grant reads one grant.
func (s *Store) Grant(ctx context.Context, account, id string) (mirror.CreditGrant, error) {
	g, err := one(ctx, s, oneGrant, scanGrant, account, id)
	if err != nil {
		return g, fmt.Errorf("read grant %s: %w", id, err)
	}
	return g, nil
}

// Grants lists the grants of a customer or of the account. A page of the whole
// account comes from no single sync, so it has no SyncedAt.
func (s *Store) Grants(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error) {
	var out mirror.Slice[mirror.CreditGrant]
	err := s.read(ctx, func(r *reading) (err error) {
		if customer == "" {
			out, err = accountsGrants.page(r, account, "", "", p)
			return err
		}
		if err := r.known(knowsCredits, account, customer); err != nil {
			return err
		}
		if out, err = customersGrants.page(r, account, customer, "", p); err != nil {
			return err
		}
		out.SyncedAt, out.Unfinished, err = r.synced(account, customer, mirror.ScopeCredits)
		return err
	})
	if err != nil {
		return mirror.Slice[mirror.CreditGrant]{}, fmt.Errorf("list grants of %q: %w", customer, err)
	}
	return out, nil
}

// GrantOwner returns the customer of a grant.
func (s *Store) GrantOwner(ctx context.Context, account, grant string) (string, error) {
	owner, err := one(ctx, s, grantOwner, func(rows *sql.Rows) (id string, err error) {
		err = rows.Scan(&id)
		return id, err
	}, account, grant)
	if err != nil {
		return "", fmt.Errorf("read the owner of grant %s: %w", grant, err)
	}
	return owner, nil
}

const (
	creditColumns = `
SELECT account, id, "grant", customer, type, credit_type, debit_type, amount, currency, invoice, invoice_line_item,
       effective_at, created, livemode, test_clock, raw
FROM credit_balance_transactions `

	oneCredit = creditColumns + `WHERE account = ?1 AND id = ?2 LIMIT 1`

	customersCreditCursor = `
SELECT created, 0, id FROM credit_balance_transactions WHERE account = ?1 AND customer = ?2 AND id = ?4`
	customersCreditsNewest = creditColumns + `
WHERE account = ?1 AND customer = ?2 ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	customersCreditsAfter = creditColumns + `
WHERE account = ?1 AND customer = ?2 AND (created, id) < (?5, ?7) ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	customersCreditsBefore = creditColumns + `
WHERE account = ?1 AND customer = ?2 AND (created, id) > (?5, ?7) ORDER BY created, id LIMIT ?4 + 0`

	accountsCreditCursor = `
SELECT created, 0, id FROM credit_balance_transactions WHERE account = ?1 AND id = ?4`
	accountsCreditsNewest = creditColumns + `
WHERE account = ?1 ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	accountsCreditsAfter = creditColumns + `
WHERE account = ?1 AND (created, id) < (?5, ?7) ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	accountsCreditsBefore = creditColumns + `
WHERE account = ?1 AND (created, id) > (?5, ?7) ORDER BY created, id LIMIT ?4 + 0`

	grantsCreditCursor = `
SELECT created, 0, id FROM credit_balance_transactions WHERE account = ?1 AND customer = ?2 AND "grant" = ?3 AND id = ?4`
	grantsCreditsNewest = creditColumns + `
WHERE account = ?1 AND customer = ?2 AND "grant" = ?3 ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	grantsCreditsAfter = creditColumns + `
WHERE account = ?1 AND customer = ?2 AND "grant" = ?3 AND (created, id) < (?5, ?7) ORDER BY created DESC, id DESC LIMIT ?4 + 0`
	grantsCreditsBefore = creditColumns + `
WHERE account = ?1 AND customer = ?2 AND "grant" = ?3 AND (created, id) > (?5, ?7) ORDER BY created, id LIMIT ?4 + 0`
)

var (
	customersCredits = listing[mirror.CreditTransaction]{
		cursor: customersCreditCursor, newest: customersCreditsNewest,
		after: customersCreditsAfter, before: customersCreditsBefore, scan: scanCredit,
	}
	accountsCredits = listing[mirror.CreditTransaction]{
		cursor: accountsCreditCursor, newest: accountsCreditsNewest,
		after: accountsCreditsAfter, before: accountsCreditsBefore, scan: scanCredit,
	}
	grantsCredits = listing[mirror.CreditTransaction]{
		cursor: grantsCreditCursor, newest: grantsCreditsNewest,
		after: grantsCreditsAfter, before: grantsCreditsBefore, scan: scanCredit,
	}
)

func scanCredit(rows *sql.Rows) (mirror.CreditTransaction, error) {
	var r mirror.CreditTransaction
	err := rows.Scan(&r.Account, &r.ID, &r.Grant, &r.Customer, &r.Type, textColumn{&r.CreditType}, textColumn{&r.DebitType},
		&r.Amount, &r.Currency, textColumn{&r.Invoice}, textColumn{&r.InvoiceLineItem}, timeColumn{&r.EffectiveAt},
		timeColumn{&r.Created}, &r.Livemode, textColumn{&r.TestClock}, jsonColumn{&r.Raw})
	return r, err
}

// CreditTransactions lists the credit balance transactions of a customer, of a
// grant, or of the account.
func (s *Store) CreditTransactions(ctx context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
	var out mirror.Slice[mirror.CreditTransaction]
	list := customersCredits
	if grant != "" {
		list = grantsCredits
	}
	err := s.read(ctx, func(r *reading) (err error) {
		if customer == "" && grant == "" { // of no one sync
			out, err = accountsCredits.page(r, account, "", "", p)
			return err
		}
		if err := r.known(knowsCredits, account, customer); err != nil {
			return err
		}
		if out, err = list.page(r, account, customer, grant, p); err != nil {
			return err
		}
		out.SyncedAt, out.Unfinished, err = r.synced(account, customer, mirror.ScopeCredits)
		return err
	})
	if err != nil {
		return mirror.Slice[mirror.CreditTransaction]{}, fmt.Errorf("list credit transactions of %s: %w", customer, err)
	}
	return out, nil
}

// CreditTransaction reads one.
func (s *Store) CreditTransaction(ctx context.Context, account, id string) (mirror.CreditTransaction, error) {
	row, err := one(ctx, s, oneCredit, scanCredit, account, id)
	if err != nil {
		return row, fmt.Errorf("read credit transaction %s: %w", id, err)
	}
	return row, nil
}
