package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	lastAnswered = `SELECT created, applied_at FROM creditmirror.stripe_events
WHERE pending_scopes = 0 AND applied_at IS NOT NULL ORDER BY created DESC LIMIT $1`

	countUnsynced = `SELECT count(*) FROM creditmirror.sync_state AS s 
WHERE s.account = $1 AND (NOT s.history_complete OR s.walk_cursor <> '')
  AND NOT EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = s.account AND c.id = s.customer AND c.deleted)`
)

// Freshness tells, for the last answered events, the time from their creation to
// the commit that answered them, ascending.
func (s *Store) Freshness(ctx context.Context, last int) ([]time.Duration, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (time.Duration, error) {
		var created, applied time.Time
		err := row.Scan(&created, &applied)
		return max(applied.Sub(created), 0), err
	}, lastAnswered, last)
	if err != nil {
		return nil, fmt.Errorf("read the freshness: %w", err)
	}
	slices.Sort(list)
	return list, nil
}

// UnsyncedCount counts the histories of an account that are unfinished.
func (s *Store) UnsyncedCount(ctx context.Context, account string) (int64, error) {
	list, err := query(ctx, s, pgx.RowTo[int64], countUnsynced, account)
	if err != nil {
		return 0, fmt.Errorf("count unsynced histories: %w", err)
	}
	return list[0], nil
}
