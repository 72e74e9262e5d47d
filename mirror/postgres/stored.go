package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

// What a sync compares in every column: rows as they lie in the table. A whole read
// compares all that it lists and all that lie in the times that it covers, since one
// whose time was changed is found by its id alone. Any other compares those that it
// lists and that a finding accuses, so that it closes no finding without a proof.
const (
	// Each row is looked up by itself: LATERAL with OFFSET 0 keeps the planner from
	// another join, for which it would read a whole history for each piece where its
	// statistics are old.
	accused = `SELECT DISTINCT f.object FROM creditmirror.drift_findings AS f
  WHERE f.account = $1 AND f.customer = $2 AND f.kind = 'field_mismatch' AND f.repaired_at IS NULL AND f.object = ANY ($3::text[])`

	storedTransactionColumns = `SELECT t.account, t.id, t.customer, t.amount, t.currency, t.ending_balance, t.type, t.invoice, t.credit_note,
  t.checkout_session, t.description, t.metadata, t.created, t.livemode, coalesce(t.chain_position, 0), t.raw, t.digest
`
	storedTransactions = storedTransactionColumns + `FROM (
  SELECT u.id FROM unnest($3::text[]) AS u (id)
  UNION
  SELECT h.id FROM unnest($4::timestamptz[], $5::timestamptz[]) AS span (first, last)
  CROSS JOIN LATERAL (
    SELECT r.id FROM creditmirror.customer_balance_transactions AS r
    WHERE r.account = $1 AND r.customer = $2 AND r.created >= span.first AND r.created <= span.last OFFSET 0
  ) AS h
) AS n
CROSS JOIN LATERAL (
  SELECT * FROM creditmirror.customer_balance_transactions AS r WHERE r.account = $1 AND r.customer = $2 AND r.id = n.id OFFSET 0
) AS t`

	accusedTransactions = storedTransactionColumns + `FROM (` + accused + `) AS a
CROSS JOIN LATERAL (
  SELECT * FROM creditmirror.customer_balance_transactions AS r WHERE r.account = $1 AND r.customer = $2 AND r.id = a.object OFFSET 0
) AS t`

	storedCreditColumns = `SELECT t.account, t.id, t."grant", t.customer, t.type, t.credit_type, t.debit_type, t.amount, t.currency, t.invoice,
  t.invoice_line_item, t.effective_at, t.created, t.livemode, t.test_clock, t.raw, t.digest
`
	storedCredits = storedCreditColumns + `FROM (
  SELECT u.id FROM unnest($3::text[]) AS u (id)
  UNION
  SELECT h.id FROM unnest($4::timestamptz[], $5::timestamptz[]) AS span (first, last)
  CROSS JOIN LATERAL (
    SELECT r.id FROM creditmirror.credit_balance_transactions AS r
    WHERE r.account = $1 AND r.customer = $2 AND r.created >= span.first AND r.created <= span.last OFFSET 0
  ) AS h
) AS n
CROSS JOIN LATERAL (
  SELECT * FROM creditmirror.credit_balance_transactions AS r WHERE r.account = $1 AND r.customer = $2 AND r.id = n.id OFFSET 0
) AS t`

	accusedCredits = storedCreditColumns + `FROM (` + accused + `) AS a
CROSS JOIN LATERAL (
  SELECT * FROM creditmirror.credit_balance_transactions AS r WHERE r.account = $1 AND r.customer = $2 AND r.id = a.object OFFSET 0
) AS t`

	storedGrantColumns = `SELECT ` + grantColumns + `, digest FROM creditmirror.credit_grants `

	storedGrantsByID = storedGrantColumns + `WHERE account = $1 AND id = ANY ($2::text[])`
	storedGrants     = storedGrantColumns + `WHERE account = $1 AND (customer = $2 OR id = ANY ($3::text[]))`
	accusedGrants    = storedGrantColumns + `WHERE account = $1 AND id IN (` + accused + `)`
)

// queueAccused queues one of the statements above that takes listed rows which a
// finding accuses.
func queueAccused[Row mirror.Storable[Row]](b *pgx.Batch, statement string, t mirror.Target, listed []string,
	into *map[string]mirror.Stored[Row], scan func(pgx.Row) (string, mirror.Stored[Row], error),
) {
	b.Queue(statement, t.Account, t.ID, column(listed, func(id *string) string { return clean(*id) })).Query(collectStored(into, scan))
}

// queueStored queues one of the statements above that takes rows by time and id.
func queueStored[Row mirror.Storable[Row]](b *pgx.Batch, statement string, t mirror.Target, listed []string, windows []mirror.Span,
	into *map[string]mirror.Stored[Row], scan func(pgx.Row) (string, mirror.Stored[Row], error),
) {
	b.Queue(statement, t.Account, t.ID, column(listed, func(id *string) string { return clean(*id) }),
		column(windows, spanFrom), column(windows, spanTo)).Query(collectStored(into, scan))
}

func collectStored[Row mirror.Storable[Row]](into *map[string]mirror.Stored[Row], scan func(pgx.Row) (string, mirror.Stored[Row], error)) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		*into = map[string]mirror.Stored[Row]{}
		for rows.Next() {
			id, row, err := scan(rows)
			if err != nil {
				return err
			}
			(*into)[id] = row
		}
		return rows.Err()
	}
}

func scanStored(row pgx.Row) (string, mirror.Stored[mirror.BalanceTransaction], error) {
	var r mirror.BalanceTransaction
	var digest string
	err := row.Scan(&r.Account, &r.ID, &r.Customer, &r.Amount, &r.Currency, &r.EndingBalance, &r.Type, (*optText)(&r.Invoice),
		(*optText)(&r.CreditNote), (*optText)(&r.CheckoutSession), (*optText)(&r.Description), &r.Metadata, (*optTime)(&r.Created),
		&r.Livemode, &r.Position, &r.Raw, &digest)
	return r.ID, mirror.Stored[mirror.BalanceTransaction]{Row: r, Digest: digest}, err
}

func scanStoredCredit(row pgx.Row) (string, mirror.Stored[mirror.CreditTransaction], error) {
	var r mirror.CreditTransaction
	var digest string
	err := row.Scan(&r.Account, &r.ID, &r.Grant, &r.Customer, &r.Type, (*optText)(&r.CreditType), (*optText)(&r.DebitType),
		&r.Amount, &r.Currency, (*optText)(&r.Invoice), (*optText)(&r.InvoiceLineItem), (*optTime)(&r.EffectiveAt), (*optTime)(&r.Created),
		&r.Livemode, (*optText)(&r.TestClock), &r.Raw, &digest)
	return r.ID, mirror.Stored[mirror.CreditTransaction]{Row: r, Digest: digest}, err
}

func scanStoredGrant(row pgx.Row) (string, mirror.Stored[mirror.CreditGrant], error) {
	var g mirror.CreditGrant
	var digest string
	err := row.Scan(&g.Account, &g.ID, &g.Customer, (*optText)(&g.Name), &g.Category, &g.AmountType, &g.Amount, (*optText)(&g.Currency),
		&g.ApplicabilityConfig, &g.Priority, (*grantTime)(&g.EffectiveAt), (*grantTime)(&g.ExpiresAt), (*grantTime)(&g.VoidedAt),
		(*optTime)(&g.Created), (*optTime)(&g.Updated), &g.Livemode, (*optText)(&g.TestClock), &g.Metadata, &g.Raw, &digest)
	return g.ID, mirror.Stored[mirror.CreditGrant]{Row: g, Digest: digest}, err
}

// Damaged reports whether any of these rows and grants was changed here.
func (s *Store) Damaged(ctx context.Context, t mirror.Target, ids []string) (damaged bool, err error) {
	var rows map[string]mirror.Stored[mirror.BalanceTransaction]
	var credits map[string]mirror.Stored[mirror.CreditTransaction]
	var grants map[string]mirror.Stored[mirror.CreditGrant]
	err = s.snapshot(ctx, func(b *pgx.Batch) {
		rows, credits, grants = nil, nil, nil
		if t.Scope == mirror.ScopeBalance {
			queueStored(b, storedTransactions, t, ids, nil, &rows, scanStored)
			return
		}
		queueStored(b, storedCredits, t, ids, nil, &credits, scanStoredCredit)
		b.Queue(storedGrantsByID, t.Account, column(ids, func(id *string) string { return clean(*id) })).Query(collectStored(&grants, scanStoredGrant))
	})
	if err != nil {
		return false, fmt.Errorf("look for damage in %s: %w", t, err)
	}
	return anyDamaged(rows) || anyDamaged(credits) || anyDamaged(grants), nil
}

func anyDamaged[Row mirror.Storable[Row]](rows map[string]mirror.Stored[Row]) bool {
	for _, r := range rows {
		if !r.Intact() {
			return true
		}
	}
	return false
}
