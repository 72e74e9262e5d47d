package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Eraser = (*Store)(nil)

const (
	eraseSubject = `SELECT deleted, raw::text FROM creditmirror.customers WHERE account = $1 AND id = $2 FOR UPDATE`

	eraseOfCustomer = `UPDATE creditmirror.customers SET raw = $3::jsonb, digest = $4, synced_at = now() WHERE account = $1 AND id = $2`

	eraseRows       = `SELECT id, raw::text FROM creditmirror.customer_balance_transactions WHERE account = $1 AND customer = $2 ORDER BY id FOR UPDATE`
	eraseGrants     = `SELECT id, raw::text FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2 ORDER BY id FOR UPDATE`
	eraseCreditRows = `SELECT id, raw::text FROM creditmirror.credit_balance_transactions WHERE account = $1 AND customer = $2 ORDER BY id FOR UPDATE`

	eraseRow = `UPDATE creditmirror.customer_balance_transactions SET description = NULL, metadata = '{}', raw = $4::jsonb, digest = $5, synced_at = now()
WHERE account = $1 AND customer = $2 AND id = $3`
	eraseGrant = `UPDATE creditmirror.credit_grants SET name = NULL, metadata = '{}', raw = $4::jsonb, digest = $5, synced_at = now()
WHERE account = $1 AND customer = $2 AND id = $3`
	eraseCreditRow = `UPDATE creditmirror.credit_balance_transactions SET raw = $4::jsonb, digest = $5, synced_at = now()
WHERE account = $1 AND customer = $2 AND id = $3`

	// What a finding shows of a field may be a description.
	eraseFindings = `UPDATE creditmirror.drift_findings SET expected = '', actual = '', synced_at = now()
WHERE account = $1 AND customer = $2 AND kind = 'field_mismatch' AND (expected <> '' OR actual <> '')`
)

// EraseCustomer takes a customer's personal data out.
func (s *Store) EraseCustomer(ctx context.Context, account, id string) (mirror.Erased, error) {
	var e mirror.Erased
	err := retry(ctx, func() error {
		e = mirror.Erased{}
		return s.inTransaction(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error { return eraseCustomer(ctx, tx, account, id, &e) })
	})
	if err != nil {
		return mirror.Erased{}, fmt.Errorf("erase %s: %w", id, err)
	}
	return e, nil
}

func eraseCustomer(ctx context.Context, tx pgx.Tx, account, id string, e *mirror.Erased) error {
	var deleted bool
	var text *string
	err := tx.QueryRow(ctx, eraseSubject, account, id).Scan(&deleted, &text)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return mirror.ErrNotFound
	case err != nil:
		return err
	case !deleted:
		return mirror.ErrNotDeleted
	}
	var changes []change
	if text != nil {
		raw := json.RawMessage(*text)
		erased, err := mirror.EraseOfCustomer(raw)
		if err != nil {
			return err
		}
		if digest := mirror.Digest(erased); digest != mirror.Digest(raw) {
			e.Customers++
			changes = append(changes, change{"customers", id, opUpdate})
			if _, err := tx.Exec(ctx, eraseOfCustomer, account, id, string(erased), digest); err != nil {
				return err
			}
		}
	}
	for _, t := range []struct {
		table, list, update string
		count               *int64
	}{
		{"customer_balance_transactions", eraseRows, eraseRow, &e.Transactions},
		{"credit_grants", eraseGrants, eraseGrant, &e.Grants},
		{"credit_balance_transactions", eraseCreditRows, eraseCreditRow, &e.CreditTransactions},
	} {
		ids, err := eraseTable(ctx, tx, account, id, t.list, t.update)
		if err != nil {
			return err
		}
		*t.count = int64(len(ids))
		for _, row := range ids {
			changes = append(changes, change{t.table, row, opUpdate})
		}
	}
	tag, err := tx.Exec(ctx, eraseFindings, account, id)
	if err != nil {
		return err
	}
	e.Findings = tag.RowsAffected()
	_, err = tx.Exec(ctx, insertChanges, account, id, column(changes, func(c *change) string { return c.table }),
		column(changes, func(c *change) string { return c.id }), column(changes, func(c *change) string { return c.op }))
	return err
}

// eraseTable erases the rows of a table that have something to erase.
func eraseTable(ctx context.Context, tx pgx.Tx, account, customer, list, update string) (ids []string, err error) {
	rows, err := tx.Query(ctx, list, account, customer)
	if err != nil {
		return nil, err
	}
	type held struct{ id, raw string }
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h held, err error) {
		err = row.Scan(&h.id, &h.raw)
		return h, err
	})
	if err != nil {
		return nil, err
	}
	b := &pgx.Batch{}
	for _, h := range all {
		erased, err := mirror.EraseOfRow(json.RawMessage(h.raw))
		if err != nil {
			return nil, err
		}
		if digest := mirror.Digest(erased); digest != mirror.Digest(json.RawMessage(h.raw)) {
			ids = append(ids, h.id)
			b.Queue(update, account, customer, h.id, string(erased), digest)
		}
	}
	return ids, tx.SendBatch(ctx, b).Close()
}
