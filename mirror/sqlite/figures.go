package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	lastAnswered = `SELECT account, created, applied_at FROM stripe_events WHERE pending_scopes = 0 AND applied_at IS NOT NULL
  AND NOT (julianday(received_at) - julianday(created) > 1.0 / 24 AND received_at < applied_at) ORDER BY created DESC LIMIT ?1 + 0`
	notMonetary   = `SELECT count(*) FROM credit_grants WHERE amount_type <> 'monetary'`
	countUnsynced = `SELECT count(*) FROM sync_state AS s INDEXED BY sync_state_unfinished
WHERE s.account = ?1 AND (NOT s.history_complete OR s.walk_cursor <> '')
  AND NOT EXISTS (SELECT 1 FROM customers AS c WHERE c.account = s.account AND c.id = s.customer AND c.deleted)`
)

// Freshness lists the last answered events, newest first, without those that came to
// the inbox more than an hour old: replays.
func (s *Store) Freshness(ctx context.Context, last int) ([]mirror.AnsweredEvent, error) {
	var list []mirror.AnsweredEvent
	err := s.read(ctx, func(r *reading) error {
		return r.each(lastAnswered, []any{last}, func(rows *sql.Rows) error {
			var a mirror.AnsweredEvent
			err := rows.Scan(&a.Account, timeColumn{&a.Created}, timeColumn{&a.Applied})
			list = append(list, a)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the freshness: %w", err)
	}
	return list, nil
}

// NotMonetary counts the grants whose amount is no money.
func (s *Store) NotMonetary(ctx context.Context) (n int64, err error) {
	err = s.read(ctx, func(r *reading) error {
		_, err := r.row(notMonetary, nil, &n)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count grants that are not money: %w", err)
	}
	return n, nil
}

// UnsyncedCount counts the histories of an account that are unfinished.
func (s *Store) UnsyncedCount(ctx context.Context, account string) (n int64, err error) {
	err = s.read(ctx, func(r *reading) error {
		return r.each(countUnsynced, []any{account}, func(rows *sql.Rows) error { return rows.Scan(&n) })
	})
	if err != nil {
		return 0, fmt.Errorf("count unsynced histories: %w", err)
	}
	return n, nil
}
