package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Eraser = (*Store)(nil)

const (
	eraseSubject = `SELECT deleted, raw FROM customers WHERE account = ?1 AND id = ?2`

	eraseOfCustomer = `UPDATE customers SET raw = ?3, digest = ?4, synced_at = ?5 WHERE account = ?1 AND id = ?2`

	eraseRows       = `SELECT id, raw FROM customer_balance_transactions WHERE account = ?1 AND customer = ?2`
	eraseGrants     = `SELECT id, raw FROM credit_grants WHERE account = ?1 AND customer = ?2`
	eraseCreditRows = `SELECT id, raw FROM credit_balance_transactions WHERE account = ?1 AND customer = ?2`

	eraseRow = `UPDATE customer_balance_transactions SET description = NULL, metadata = '{}', raw = ?4, digest = ?5, synced_at = ?6
WHERE account = ?1 AND customer = ?2 AND id = ?3`
	eraseGrant = `UPDATE credit_grants SET name = NULL, metadata = '{}', raw = ?4, digest = ?5, synced_at = ?6
WHERE account = ?1 AND customer = ?2 AND id = ?3`
	eraseCreditRow = `UPDATE credit_balance_transactions SET raw = ?4, digest = ?5, synced_at = ?6
WHERE account = ?1 AND customer = ?2 AND id = ?3`

	// What a finding shows of a field may be a description.
	eraseFindings = `UPDATE drift_findings SET expected = '', actual = '', synced_at = ?3
WHERE account = ?1 AND customer = ?2 AND kind = 'field_mismatch' AND (expected <> '' OR actual <> '')`
)

// EraseCustomer takes a customer's personal data out.
func (s *Store) EraseCustomer(ctx context.Context, account, id string) (mirror.Erased, error) {
	var e mirror.Erased
	err := s.w.do(ctx, durable, func(tx *tx) error {
		e = mirror.Erased{}
		var deleted bool
		var raw json.RawMessage
		found, err := tx.row(eraseSubject, []any{account, id}, &deleted, jsonColumn{&raw})
		switch {
		case err != nil:
			return err
		case !found:
			return mirror.ErrNotFound
		case !deleted:
			return mirror.ErrNotDeleted
		}
		var changes [][]any
		erased, err := mirror.EraseOfCustomer(raw)
		if err != nil {
			return err
		}
		if digest := mirror.Digest(erased); digest != mirror.Digest(raw) {
			e.Customers++
			changes = append(changes, []any{"customers", id, id, "update"})
			if err := tx.exec(eraseOfCustomer, account, id, nullRaw(erased), digest, tx.at); err != nil {
				return err
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
			ids, err := tx.eraseTable(account, id, t.list, t.update)
			if err != nil {
				return err
			}
			*t.count = int64(len(ids))
			for _, row := range ids {
				changes = append(changes, []any{t.table, id, row, "update"})
			}
		}
		n, err := tx.affect(eraseFindings, account, id, tx.at)
		if err != nil {
			return err
		}
		e.Findings = int64(n)
		return tx.feed(account, changes)
	})
	if err != nil {
		return mirror.Erased{}, fmt.Errorf("erase %s: %w", id, s.explain(err))
	}
	return e, nil
}

// eraseTable erases the rows of a table that have something to erase.
func (t *tx) eraseTable(account, customer, list, update string) (ids []string, err error) {
	rows := map[string]json.RawMessage{}
	err = t.each(list, []any{account, customer}, func(r *sql.Rows) error {
		var id string
		var raw json.RawMessage
		if err := r.Scan(&id, jsonColumn{&raw}); err != nil {
			return err
		}
		erased, err := mirror.EraseOfRow(raw)
		if err == nil && mirror.Digest(erased) != mirror.Digest(raw) {
			rows[id] = erased
			ids = append(ids, id)
		}
		return err
	})
	for _, id := range ids {
		if err == nil {
			err = t.exec(update, account, customer, id, string(rows[id]), mirror.Digest(rows[id]), t.at)
		}
	}
	return ids, err
}
