package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
)

// What a sync compares in every column: rows as they lie in the table. A whole read
// compares all that it lists and all that lie in the times that it covers, since one
// whose time was changed is found by its id alone. Any other compares those that it
// lists and that a finding accuses, so that it closes no finding without a proof.
const (
	accused = `
SELECT object FROM drift_findings WHERE account = ?1 AND customer = ?2 AND kind = 'field_mismatch' AND repaired_at IS NULL
  AND object IN (SELECT value->>0 FROM json_each(?3))`

	storedColumns = `
SELECT t.account, t.id, t.customer, t.amount, t.currency, t.ending_balance, t.type, t.invoice, t.credit_note, t.checkout_session,
       t.description, t.metadata, t.created, t.livemode, ifnull(t.chain_position, 0), t.raw, t.digest
`
	storedSpan = storedColumns + `
FROM customer_balance_transactions t WHERE t.account = ?1 AND t.customer = ?2 AND t.created BETWEEN ?3 AND ?4`

	storedByID = storedColumns + `
FROM json_each(?3) n CROSS JOIN customer_balance_transactions t
WHERE t.account = ?1 AND t.customer = ?2 AND t.id = n.value->>0`

	accusedRows = storedColumns + `
FROM customer_balance_transactions t WHERE t.account = ?1 AND t.customer = ?2 AND t.id IN (` + accused + `)`

	storedCreditColumns = `
SELECT t.account, t.id, t."grant", t.customer, t.type, t.credit_type, t.debit_type, t.amount, t.currency, t.invoice, t.invoice_line_item,
       t.effective_at, t.created, t.livemode, t.test_clock, t.raw, t.digest
`
	storedCreditSpan = storedCreditColumns + `
FROM credit_balance_transactions t WHERE t.account = ?1 AND t.customer = ?2 AND t.created BETWEEN ?3 AND ?4`

	storedCreditByID = storedCreditColumns + `
FROM json_each(?3) n CROSS JOIN credit_balance_transactions t
WHERE t.account = ?1 AND t.customer = ?2 AND t.id = n.value->>0`

	accusedCredits = storedCreditColumns + `
FROM credit_balance_transactions t WHERE t.account = ?1 AND t.customer = ?2 AND t.id IN (` + accused + `)`

	// storedGrants may list a grant twice, as heldGrantRows.
	storedGrantColumns = `
SELECT account, id, customer, name, category, amount_type, ifnull(amount, 0), currency, applicability_config, ifnull(priority, -1),
       effective_at, expires_at, voided_at, created, updated, livemode, test_clock, metadata, raw, digest
FROM credit_grants `
	storedGrantByID = storedGrantColumns + `WHERE account = ?1 AND id IN (SELECT value->>0 FROM json_each(?2))`

	storedGrants = storedGrantColumns + `INDEXED BY credit_grants_customer_list WHERE account = ?1 AND customer = ?2
UNION ALL
` + storedGrantColumns + `WHERE account = ?1 AND id IN (SELECT value->>0 FROM json_each(?3))`

	accusedGrants = storedGrantColumns + `WHERE account = ?1 AND id IN (` + accused + `)`
)

// storedOf reads what one of the statements above finds of the listed ones.
func storedOf[Row mirror.Storable[Row]](c *commit, query string, listed []string, scan func(*sql.Rows) (string, mirror.Stored[Row], error)) (map[string]mirror.Stored[Row], error) {
	ids, err := idList(listed)
	if err != nil {
		return nil, err
	}
	all := map[string]mirror.Stored[Row]{}
	return all, c.each(query, []any{c.target.Account, c.target.ID, ids}, func(rows *sql.Rows) error {
		id, row, err := scan(rows)
		all[id] = row
		return err
	})
}

// stored reads the rows of the windows and those that were listed, each once.
func stored[Row mirror.Storable[Row]](c *commit, span, byID string, windows []mirror.Span, listed []string, scan func(*sql.Rows) (string, mirror.Stored[Row], error)) (map[string]mirror.Stored[Row], error) {
	all := map[string]mirror.Stored[Row]{}
	add := func(rows *sql.Rows) error {
		id, row, err := scan(rows)
		all[id] = row
		return err
	}
	for _, w := range windows {
		from, to := bounds(w)
		if err := c.each(span, []any{c.target.Account, c.target.ID, from, to}, add); err != nil {
			return nil, err
		}
	}
	var elsewhere []string
	for _, id := range listed {
		if _, found := all[id]; !found {
			elsewhere = append(elsewhere, id)
		}
	}
	if len(elsewhere) == 0 {
		return all, nil
	}
	ids, err := idList(elsewhere)
	if err != nil {
		return nil, err
	}
	return all, c.each(byID, []any{c.target.Account, c.target.ID, ids}, add)
}

func scanStored(rows *sql.Rows) (string, mirror.Stored[mirror.BalanceTransaction], error) {
	var r mirror.BalanceTransaction
	var digest string
	err := rows.Scan(&r.Account, &r.ID, &r.Customer, &r.Amount, &r.Currency, &r.EndingBalance, &r.Type,
		textColumn{&r.Invoice}, textColumn{&r.CreditNote}, textColumn{&r.CheckoutSession}, textColumn{&r.Description},
		jsonColumn{&r.Metadata}, timeColumn{&r.Created}, &r.Livemode, &r.Position, jsonColumn{&r.Raw}, &digest)
	return r.ID, mirror.Stored[mirror.BalanceTransaction]{Row: r, Digest: digest}, err
}

func scanStoredCredit(rows *sql.Rows) (string, mirror.Stored[mirror.CreditTransaction], error) {
	var r mirror.CreditTransaction
	var digest string
	err := rows.Scan(&r.Account, &r.ID, &r.Grant, &r.Customer, &r.Type, textColumn{&r.CreditType}, textColumn{&r.DebitType},
		&r.Amount, &r.Currency, textColumn{&r.Invoice}, textColumn{&r.InvoiceLineItem}, timeColumn{&r.EffectiveAt},
		timeColumn{&r.Created}, &r.Livemode, textColumn{&r.TestClock}, jsonColumn{&r.Raw}, &digest)
	return r.ID, mirror.Stored[mirror.CreditTransaction]{Row: r, Digest: digest}, err
}

func scanStoredGrant(rows *sql.Rows) (string, mirror.Stored[mirror.CreditGrant], error) {
	var g mirror.CreditGrant
	var digest string
	err := rows.Scan(&g.Account, &g.ID, &g.Customer, textColumn{&g.Name}, &g.Category, &g.AmountType, &g.Amount,
		textColumn{&g.Currency}, jsonColumn{&g.ApplicabilityConfig}, &g.Priority, grantTime{&g.EffectiveAt},
		grantTime{&g.ExpiresAt}, grantTime{&g.VoidedAt}, timeColumn{&g.Created}, timeColumn{&g.Updated},
		&g.Livemode, textColumn{&g.TestClock}, jsonColumn{&g.Metadata}, jsonColumn{&g.Raw}, &digest)
	return g.ID, mirror.Stored[mirror.CreditGrant]{Row: g, Digest: digest}, err
}

// Damaged reports whether any of these rows and grants was changed here.
func (s *Store) Damaged(ctx context.Context, t mirror.Target, ids []string) (damaged bool, err error) {
	text, err := idList(ids)
	if err != nil {
		return false, err
	}
	err = s.read(ctx, func(r *reading) error {
		if t.Scope == mirror.ScopeBalance {
			return anyDamaged(r, storedByID, []any{t.Account, t.ID, text}, scanStored, &damaged)
		}
		if err := anyDamaged(r, storedCreditByID, []any{t.Account, t.ID, text}, scanStoredCredit, &damaged); err != nil {
			return err
		}
		return anyDamaged(r, storedGrantByID, []any{t.Account, text}, scanStoredGrant, &damaged)
	})
	if err != nil {
		return false, fmt.Errorf("look for damage in %s: %w", t, err)
	}
	return damaged, nil
}

func anyDamaged[Row mirror.Storable[Row]](r *reading, query string, args []any, scan func(*sql.Rows) (string, mirror.Stored[Row], error), damaged *bool) error {
	return r.each(query, args, func(rows *sql.Rows) error {
		_, row, err := scan(rows)
		*damaged = *damaged || !row.Intact()
		return err
	})
}
