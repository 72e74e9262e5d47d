package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	lastAnswered = `SELECT account, created, applied_at FROM creditmirror.stripe_events
WHERE pending_scopes = 0 AND applied_at IS NOT NULL
  AND NOT (received_at > created + interval '1 hour' AND received_at < applied_at) ORDER BY created DESC LIMIT $1`

	notMonetary = `SELECT count(*) FROM creditmirror.credit_grants WHERE amount_type <> 'monetary'`

	countUnsynced = `SELECT count(*) FROM creditmirror.sync_state AS s 
WHERE s.account = $1 AND (NOT s.history_complete OR s.walk_cursor <> '')
  AND NOT EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = s.account AND c.id = s.customer AND c.deleted)`
)

// Freshness lists the last answered events, newest first, without those that came to
// the inbox more than an hour old: replays.
func (s *Store) Freshness(ctx context.Context, last int) ([]mirror.AnsweredEvent, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (a mirror.AnsweredEvent, err error) {
		err = row.Scan(&a.Account, &a.Created, &a.Applied)
		return a, err
	}, lastAnswered, last)
	if err != nil {
		return nil, fmt.Errorf("read the freshness: %w", err)
	}
	return list, nil
}

// NotMonetary counts the grants whose amount is no money.
func (s *Store) NotMonetary(ctx context.Context) (int64, error) {
	list, err := query(ctx, s, pgx.RowTo[int64], notMonetary)
	if err != nil {
		return 0, fmt.Errorf("count grants that are not money: %w", err)
	}
	return list[0], nil
}

// UnsyncedCount counts the histories of an account that are unfinished.
func (s *Store) UnsyncedCount(ctx context.Context, account string) (int64, error) {
	list, err := query(ctx, s, pgx.RowTo[int64], countUnsynced, account)
	if err != nil {
		return 0, fmt.Errorf("count unsynced histories: %w", err)
	}
	return list[0], nil
}
