package postgres

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// position is a number that no later record has a lower one than, and the snapshot
// from which the server knows exactly which records it saw. A sequence number is drawn
// before the commit: a transaction that ran while the period was sealed may have a
// lower one. The snapshot means something on its own server alone; for a mirror that
// was moved the number has to do.
const position = `SELECT (SELECT last_value FROM creditmirror.changes_seq)::text || '@' || (SELECT system_identifier FROM pg_control_system())::text
  || '/' || pg_current_snapshot()::text`

const systemIdentifier = `SELECT system_identifier::text FROM pg_control_system()`

// Position is the place of the snapshot in the change feed.
func (b *books) Position(ctx context.Context) (text string, err error) {
	return text, b.conn.QueryRow(ctx, position).Scan(&text)
}

// parsePosition reads the parts of a position, of either database.
func parsePosition(text string) (seq int64, system, snapshot string, err error) {
	number, rest, _ := strings.Cut(text, "@")
	system, snapshot, _ = strings.Cut(rest, "/")
	if seq, err = strconv.ParseInt(number, 10, 64); err != nil {
		err = fmt.Errorf("the position %q of a seal cannot be read: %w", text, mirror.ErrUnstorable)
	}
	return seq, system, snapshot, err
}

const finding = `(SELECT f.cause || chr(31) || f.actual FROM creditmirror.drift_findings AS f
    WHERE f.account = c.account AND f.customer = c.customer AND f.object = t.id AND f.kind IN ('missing_transaction', 'field_mismatch')
      AND coalesce(f.repaired_at, 'infinity') >= ? ORDER BY f.found_at DESC LIMIT 1)`

// Since lists what came after a position.
func (b *books) Since(ctx context.Context, l report.Ledger, account, position string, sealed, until time.Time) iter.Seq2[report.Arrival, error] {
	seq, system, snapshot, err := parsePosition(position)
	var own string
	if err == nil {
		err = b.conn.QueryRow(ctx, systemIdentifier).Scan(&own)
	}
	changed := func(q *statement, table string) {
		q.add(` WHERE c.account = ? AND c.table_name = ?`, account, table)
		if system == own && snapshot != "" {
			q.add(` AND c.xact >= pg_snapshot_xmin(?::text::pg_snapshot) AND NOT pg_visible_in_snapshot(c.xact, ?::text::pg_snapshot)`, snapshot, snapshot)
		} else {
			q.add(` AND c.seq > ?`, seq)
		}
	}
	q := new(statement)
	if l == report.LedgerBalance {
		q.add(`SELECT c.customer, t.currency, t.id, t.type AS kind, t.amount, t.created AS dated, min(c.changed_at), bool_or(c.op = 'insert'), `+finding+`
FROM creditmirror.changes AS c JOIN creditmirror.customer_balance_transactions AS t ON t.account = c.account AND t.customer = c.customer AND t.id = c.id`, sealed)
		changed(q, "customer_balance_transactions")
		q.add(` AND t.created < ? GROUP BY c.account, c.customer, t.currency, t.id, t.type, t.amount, t.created`, until)
	} else {
		q.add(`SELECT c.customer, t.currency, t.id, coalesce(t.credit_type, t.debit_type, '') AS kind, t.amount,
  greatest(t.effective_at, g.effective_at) AS dated, min(c.changed_at), bool_or(c.op = 'insert'), `+finding+`
FROM creditmirror.changes AS c JOIN creditmirror.credit_balance_transactions AS t ON t.account = c.account AND t.customer = c.customer AND t.id = c.id
LEFT JOIN creditmirror.credit_grants AS g ON g.account = t.account AND g.id = t."grant"`, sealed)
		changed(q, "credit_balance_transactions")
		q.add(` AND greatest(t.effective_at, g.effective_at) < ?
GROUP BY c.account, c.customer, t.currency, t.id, t.credit_type, t.debit_type, t.amount, t.effective_at, g.effective_at`, until)
	}
	q.add(` UNION ALL SELECT c.customer, '', '', ?::text, 0::bigint, k.deleted_at, min(c.changed_at), true, NULL
FROM creditmirror.changes AS c JOIN creditmirror.customers AS k ON k.account = c.account AND k.id = c.customer`, report.TypeDeleted)
	changed(q, "customers")
	q.add(` AND k.deleted AND k.deleted_at < ? GROUP BY c.customer, k.deleted_at ORDER BY 1, 6, 3`, until)
	return stream(ctx, b, q, err, func(row pgx.Row, a *report.Arrival) error {
		a.Account = account
		var found *string
		err := row.Scan(&a.Customer, &a.Currency, &a.ID, &a.Type, &a.Amount, &a.Dated, &a.Arrived, &a.Inserted, &found)
		if found == nil {
			found = new(string)
		}
		a.Explain(*found)
		return err
	})
}

const (
	sealColumns = `SELECT account, period, seal, ledger, currency, period_start, period_end, closing, rows, digest, unproven, position,
  sealed_at, reopened_at, coalesce(reopen_reason, '') FROM creditmirror.closed_periods`

	// lockSeals lets one process seal at a time; readers of the table do not wait.
	lockSeals = `LOCK TABLE creditmirror.closed_periods IN SHARE ROW EXCLUSIVE MODE`
	openSeals = `SELECT coalesce(max(seal), 0), count(*) FILTER (WHERE reopened_at IS NULL) FROM creditmirror.closed_periods
WHERE account = $1 AND period = $2`

	insertSeal = `INSERT INTO creditmirror.closed_periods (account, period, seal, ledger, currency, period_start, period_end, closing, rows,
  digest, unproven, position, sealed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`

	reopenSeals = `UPDATE creditmirror.closed_periods SET reopened_at = now(), reopen_reason = $2, synced_at = now()
WHERE period = $1 AND reopened_at IS NULL AND ($3::text IS NULL OR account = $3)`
)

// Seals lists the seals of a period, or of all.
func (b *books) Seals(ctx context.Context, period string) ([]report.Seal, error) {
	q := new(statement).add(sealColumns)
	if period != "" {
		q.add(` WHERE period = ?`, period)
	}
	return list(ctx, b, q.add(` ORDER BY account, period, seal, ledger, currency`), nil, func(row pgx.Row, s *report.Seal) error {
		return row.Scan(&s.Account, &s.Period, &s.Number, (*string)(&s.Ledger), &s.Currency, &s.Start, &s.End, &s.Closing, &s.Rows,
			&s.Digest, &s.Unproven, &s.Position, &s.SealedAt, (*optTime)(&s.ReopenedAt), &s.ReopenReason)
	})
}

// SaveSeals stores the seals of a period.
func (s *Store) SaveSeals(ctx context.Context, seals []report.Seal) error {
	numbers := map[string]int64{}
	err := s.inTransaction(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockSeals); err != nil {
			return err
		}
		for _, seal := range seals {
			if _, known := numbers[seal.Account]; !known {
				var last, open int64
				if err := tx.QueryRow(ctx, openSeals, seal.Account, seal.Period).Scan(&last, &open); err != nil {
					return err
				}
				if open > 0 {
					return report.ErrSealed
				}
				numbers[seal.Account] = last + 1
			}
			if _, err := tx.Exec(ctx, insertSeal, seal.Account, seal.Period, numbers[seal.Account], string(seal.Ledger), seal.Currency,
				seal.Start, seal.End, seal.Closing, seal.Rows, seal.Digest, seal.Unproven, seal.Position, seal.SealedAt); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("seal the period: %w", err)
	}
	return nil
}

// Reopen marks the seals of a period as reopened.
func (s *Store) Reopen(ctx context.Context, account *string, period, reason string) (int64, error) {
	tag, err := s.pool.Exec(ctx, reopenSeals, period, clean(reason), account)
	if err != nil {
		return 0, fmt.Errorf("reopen the period: %w", err)
	}
	return tag.RowsAffected(), nil
}
