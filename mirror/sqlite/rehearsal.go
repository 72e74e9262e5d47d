package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Rehearser = (*Store)(nil)

// errUndone ends a transaction that was only to be judged.
var errUndone = errors.New("undone on purpose")

// Rehearsal judges syncs without keeping what they write.
func (s *Store) Rehearsal() mirror.Fence { return mirror.NewRehearsal(s, s.peek) }

const (
	// forgetFindings lets a rehearsal report what is open already.
	forgetFindings = `UPDATE drift_findings SET repaired_at = ?4 WHERE account = ?1 AND customer = ?2 AND scope = ?3 AND repaired_at IS NULL`

	historiesAfter = `
SELECT customer, scope FROM sync_state s WHERE account = ?1 AND full_read_at IS NOT NULL AND customer IN (
    SELECT DISTINCT customer FROM sync_state n WHERE n.account = ?1 AND n.customer > ?2 AND n.full_read_at IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM customers c WHERE c.account = n.account AND c.id = n.customer AND c.deleted)
    ORDER BY customer LIMIT ?3 + 0)
ORDER BY customer, scope`
)

// rehearse runs an apply as a sync that begins at this moment and reads everything,
// and has it undone.
func (c *commit) rehearse(apply func() error) error {
	t := c.target
	if err := c.exec(requestFullRead, t.Account, t.ID, string(t.Scope), c.at); err != nil {
		return err
	}
	if err := c.exec(forgetFindings, t.Account, t.ID, string(t.Scope), c.at); err != nil {
		return err
	}
	c.epoch = 0
	if err := c.enterWrite(); err != nil {
		return err
	}
	c.was.EventSeq = c.eventSeq
	if err := apply(); err != nil {
		return err
	}
	return errUndone
}

// peek is BeginSync, undone.
func (s *Store) peek(ctx context.Context, t mirror.Target) (st mirror.SyncState, err error) {
	err = s.w.do(ctx, volatile, func(tx *tx) error {
		if st, err = tx.beginSync(t); err != nil {
			return err
		}
		return errUndone
	})
	if !errors.Is(err, errUndone) {
		return mirror.SyncState{}, fmt.Errorf("rehearse a sync of %s: %w", t, s.explain(err))
	}
	return st, nil
}

// Histories lists complete histories by customer.
func (s *Store) Histories(ctx context.Context, account, after string, limit int) ([]mirror.Target, error) {
	var list []mirror.Target
	err := s.read(ctx, func(r *reading) error {
		return r.each(historiesAfter, []any{account, after, limit}, func(rows *sql.Rows) error {
			t := mirror.Target{Account: account}
			err := rows.Scan(&t.ID, &t.Scope)
			list = append(list, t)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list histories after %q: %w", after, err)
	}
	return list, nil
}
