package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"time"

	"github.com/creditmirror/creditmirror/report"
)

const (
	// sinceRows lists what came after a position, with the newest finding that explains it.
	// ?1 account, ?2 position, ?3 end of the period, ?4 when it was sealed.
	sinceBalance = `
SELECT c.customer, t.currency, t.id, t.type, t.amount, t.created AS dated, min(c.changed_at), max(c.op = 'insert'),
  (SELECT f.cause || char(31) || f.actual FROM drift_findings f
   WHERE f.account = c.account AND f.customer = c.customer AND f.object = t.id AND f.kind IN ('missing_transaction', 'field_mismatch')
     AND ifnull(f.repaired_at, ?4) >= ?4 ORDER BY f.found_at DESC LIMIT 1)
FROM changes c CROSS JOIN customer_balance_transactions t ON t.account = c.account AND t.customer = c.customer AND t.id = c.id
WHERE c.account = ?1 AND c.seq > ?2 AND c.table_name = 'customer_balance_transactions' AND t.created < ?3
GROUP BY c.customer, t.id`
	sinceCredits = `
SELECT c.customer, t.currency, t.id, coalesce(t.credit_type, t.debit_type, ''), t.amount, max(t.effective_at, ifnull(g.effective_at, '')) AS dated,
  min(c.changed_at), max(c.op = 'insert'),
  (SELECT f.cause || char(31) || f.actual FROM drift_findings f
   WHERE f.account = c.account AND f.customer = c.customer AND f.object = t.id AND f.kind IN ('missing_transaction', 'field_mismatch')
     AND ifnull(f.repaired_at, ?4) >= ?4 ORDER BY f.found_at DESC LIMIT 1)
FROM changes c CROSS JOIN credit_balance_transactions t ON t.account = c.account AND t.customer = c.customer AND t.id = c.id
LEFT JOIN credit_grants g ON g.account = t.account AND g.id = t."grant"
WHERE c.account = ?1 AND c.seq > ?2 AND c.table_name = 'credit_balance_transactions'
GROUP BY c.customer, t.id HAVING max(t.effective_at, ifnull(g.effective_at, '')) < ?3`
	sinceDeleted = `
SELECT c.customer, '', '', 'customer_deleted', 0, k.deleted_at AS dated, min(c.changed_at), 1, NULL
FROM changes c CROSS JOIN customers k ON k.account = c.account AND k.id = c.customer
WHERE c.account = ?1 AND c.seq > ?2 AND c.table_name = 'customers' AND k.deleted AND k.deleted_at < ?3
GROUP BY c.customer`
	sinceInOrder = ` ORDER BY 1, 6, 3`
)

// Since lists what came after a position.
func (b *books) Since(ctx context.Context, l report.Ledger, account, position string, sealed, until time.Time) iter.Seq2[report.Arrival, error] {
	seq, err := parsePosition(position)
	rows := sinceBalance
	if l == report.LedgerCredits {
		rows = sinceCredits
	}
	q := new(statement).add(rows+` UNION ALL `+sinceDeleted+sinceInOrder, account, seq, stamp(until), stamp(sealed))
	return stream(ctx, b, q, err, func(rows *sql.Rows, a *report.Arrival) error {
		a.Account = account
		var found sql.NullString
		err := rows.Scan(&a.Customer, &a.Currency, &a.ID, &a.Type, &a.Amount, timeColumn{&a.Dated}, timeColumn{&a.Arrived}, &a.Inserted, &found)
		a.Explain(found.String)
		return err
	})
}

const (
	sealColumns = `SELECT account, period, seal, ledger, currency, period_start, period_end, closing, rows, digest, unproven, position,
  sealed_at, reopened_at, ifnull(reopen_reason, '') FROM closed_periods`
	sealsInOrder = ` ORDER BY account, period, seal, ledger, currency`

	openSeals = `SELECT max(seal), count(CASE WHEN reopened_at IS NULL THEN 1 END) FROM closed_periods WHERE account = ?1 AND period = ?2`

	insertSeal = `
INSERT INTO closed_periods (account, period, seal, ledger, currency, period_start, period_end, closing, rows, digest, unproven, position,
  sealed_at, synced_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)`

	reopenSeals = `
UPDATE closed_periods SET reopened_at = ?2, reopen_reason = ?3, synced_at = ?2
WHERE period = ?1 AND reopened_at IS NULL AND (?4 IS NULL OR account = ?4)`
)

// Seals lists the seals of a period, or of all.
func (b *books) Seals(ctx context.Context, period string) ([]report.Seal, error) {
	q := new(statement).add(sealColumns)
	if period != "" {
		q.add(` WHERE period = ?`, period)
	}
	return list(ctx, b, q.add(sealsInOrder), nil, func(rows *sql.Rows, s *report.Seal) error {
		return rows.Scan(&s.Account, &s.Period, &s.Number, (*string)(&s.Ledger), &s.Currency, timeColumn{&s.Start}, timeColumn{&s.End},
			&s.Closing, &s.Rows, &s.Digest, &s.Unproven, &s.Position, timeColumn{&s.SealedAt}, timeColumn{&s.ReopenedAt}, &s.ReopenReason)
	})
}

// SaveSeals stores the seals of a period.
func (s *Store) SaveSeals(ctx context.Context, seals []report.Seal) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		numbers := map[string]int64{}
		for _, seal := range seals {
			if _, known := numbers[seal.Account]; !known {
				var last sql.NullInt64
				var open int64
				if _, err := tx.row(openSeals, []any{seal.Account, seal.Period}, &last, &open); err != nil {
					return err
				}
				if open > 0 {
					return report.ErrSealed
				}
				numbers[seal.Account] = last.Int64 + 1
			}
			if err := tx.exec(insertSeal, seal.Account, seal.Period, numbers[seal.Account], string(seal.Ledger), seal.Currency,
				stamp(seal.Start), stamp(seal.End), seal.Closing, seal.Rows, seal.Digest, seal.Unproven, seal.Position,
				stamp(seal.SealedAt), tx.at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("seal the period: %w", s.explain(err))
	}
	return nil
}

// Reopen marks the seals of a period as reopened.
func (s *Store) Reopen(ctx context.Context, account *string, period, reason string) (int64, error) {
	reopened := 0
	err := s.w.do(ctx, durable, func(tx *tx) (err error) {
		var only any
		if account != nil {
			only = *account
		}
		reopened, err = tx.affect(reopenSeals, period, tx.at, plain(reason), only)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("reopen the period: %w", s.explain(err))
	}
	return int64(reopened), nil
}
