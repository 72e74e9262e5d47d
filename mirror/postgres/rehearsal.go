package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Rehearser = (*Store)(nil)

const (
	rehearseFullRead = `UPDATE creditmirror.sync_state SET walk_full = true WHERE account = $1 AND customer = $2 AND scope = $3`

	// forgetFindings lets a rehearsal report what is open already.
	forgetFindings = `UPDATE creditmirror.drift_findings SET repaired_at = now()
WHERE account = $1 AND customer = $2 AND scope = $3 AND repaired_at IS NULL`

	historiesAfter = `SELECT s.customer, s.scope FROM (
  SELECT DISTINCT n.customer FROM creditmirror.sync_state AS n
  WHERE n.account = $1 AND n.customer > $2 AND n.full_read_at IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = n.account AND c.id = n.customer AND c.deleted)
  ORDER BY n.customer LIMIT $3
) AS n JOIN creditmirror.sync_state AS s ON s.account = $1 AND s.customer = n.customer AND s.full_read_at IS NOT NULL
ORDER BY s.customer, s.scope`
)

// Rehearsal judges syncs without keeping what they write.
func (s *Store) Rehearsal() mirror.Fence { return mirror.NewRehearsal(s, s.peek) }

// peek is BeginSync, undone.
func (s *Store) peek(ctx context.Context, t mirror.Target) (st mirror.SyncState, err error) {
	err = s.transactTo(ctx, rollback, func(b *pgx.Batch) { queueBegin(b, t, &st) }, func(*pgx.Batch) error { return nil })
	if err != nil {
		return mirror.SyncState{}, fmt.Errorf("rehearse a sync of %s: %w", t, err)
	}
	return st, nil
}

// queueRehearsal begins a sync, in the transaction that will be undone, that reads
// everything.
func queueRehearsal(b *pgx.Batch, t mirror.Target, st *mirror.SyncState) {
	b.Queue(rehearseFullRead, t.Account, t.ID, string(t.Scope))
	b.Queue(forgetFindings, t.Account, t.ID, string(t.Scope))
	b.Queue(raiseEpoch, t.Account, t.ID, string(t.Scope)).QueryRow(func(row pgx.Row) error { return scanState(row, st) })
}

// fenced is transact for a sync of that epoch: a rehearsal is undone.
func (s *Store) fenced(ctx context.Context, epoch int64, read func(b *pgx.Batch), write func(b *pgx.Batch) error) error {
	end := commit
	if epoch == mirror.RehearsalEpoch {
		end = rollback
	}
	return s.transactTo(ctx, end, read, write)
}

// Histories lists complete histories by customer.
func (s *Store) Histories(ctx context.Context, account, after string, limit int) ([]mirror.Target, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (mirror.Target, error) {
		t := mirror.Target{Account: account}
		err := row.Scan(&t.ID, (*string)(&t.Scope))
		return t, err
	}, historiesAfter, account, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list histories after %q: %w", after, err)
	}
	return list, nil
}
