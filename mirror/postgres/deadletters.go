package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

// keptEvents bounds the event ids of one letter.
const keptEvents = 64

const letterColumns = `account, id, customer, scope, reason, attempts, event_ids, payload, first_failed_at, last_failed_at, retry_at`

// listedColumns leave out the payload, which may have 1 MiB: only the letter that is
// asked for comes with it.
const listedColumns = `account, id, customer, scope, reason, attempts, event_ids, NULL::bytea, first_failed_at, last_failed_at, retry_at`

const (
	// saveLetter merges event ids: those held first, each once, the newest kept.
	saveLetter = `INSERT INTO creditmirror.dead_letters AS held (` + letterColumns + `, class)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11, $13)
ON CONFLICT (account, id) DO UPDATE SET
  customer = excluded.customer, scope = excluded.scope, reason = excluded.reason, class = excluded.class,
  attempts = held.attempts + CASE WHEN held.last_failed_at = excluded.last_failed_at THEN 0 ELSE excluded.attempts END,
  event_ids = (
    SELECT coalesce(jsonb_agg(kept.id ORDER BY kept.n), '[]') FROM (
      SELECT e.id, min(e.n) AS n
      FROM jsonb_array_elements_text(held.event_ids || excluded.event_ids) WITH ORDINALITY AS e (id, n)
      GROUP BY e.id ORDER BY min(e.n) DESC LIMIT $12
    ) AS kept
  ),
  payload = coalesce(excluded.payload, held.payload), last_failed_at = excluded.last_failed_at, retry_at = excluded.retry_at, synced_at = now()`

	lettersAfter = `SELECT ` + listedColumns + ` FROM creditmirror.dead_letters WHERE id > $1 ORDER BY id LIMIT $2`

	// claimLetters skips what another replica is claiming at this moment.
	claimLetters = `WITH due AS (
  SELECT account AS of, id AS letter, retry_at AS due_at FROM creditmirror.dead_letters WHERE retry_at <= $1
  ORDER BY retry_at, id COLLATE "C" LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE creditmirror.dead_letters SET retry_at = $2, synced_at = now()
FROM due WHERE account = due.of AND id = due.letter AND retry_at <= $1
RETURNING ` + listedColumns + `, due.due_at`

	letterByID = `SELECT ` + letterColumns + ` FROM creditmirror.dead_letters WHERE id = $1 LIMIT 1`

	letterAges = `SELECT count(*) FILTER (WHERE first_failed_at > $1),
  count(*) FILTER (WHERE first_failed_at <= $1 AND first_failed_at > $2),
  count(*) FILTER (WHERE first_failed_at <= $2 AND first_failed_at > $3),
  count(*) FILTER (WHERE first_failed_at <= $3), count(*) FILTER (WHERE scope = ''), min(first_failed_at)
FROM creditmirror.dead_letters`

	dropLetter = `DELETE FROM creditmirror.dead_letters WHERE id = $1`
)

// SaveDeadLetter stores or renews a letter.
func (s *Store) SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error {
	events := distinctBy(slices.Clone(d.EventIDs), func(id string) string { return id })
	events = events[max(0, len(events)-keptEvents):]
	if events == nil {
		events = []string{} // null is no list
	}
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(saveLetter, d.Target.Account, d.ID, d.Target.ID, string(d.Target.Scope), clean(d.Reason), d.Attempts,
			events, d.Payload, d.FirstFailedAt, d.LastFailedAt, optTime(d.RetryAt), keptEvents, clean(mirror.ClassOf(d.Reason)))
	})
	if err != nil {
		return fmt.Errorf("save dead letter %s: %w", d.ID, err)
	}
	return nil
}

// scanLetter scans letterColumns, or listedColumns, and what follows them.
func scanLetter(row pgx.CollectableRow, more ...any) (d mirror.DeadLetter, err error) {
	err = row.Scan(append([]any{
		&d.Target.Account, &d.ID, &d.Target.ID, &d.Target.Scope, &d.Reason, &d.Attempts, &d.EventIDs, &d.Payload,
		&d.FirstFailedAt, &d.LastFailedAt, (*optTime)(&d.RetryAt),
	}, more...)...)
	return d, err
}

func oneLetter(row pgx.CollectableRow) (mirror.DeadLetter, error) { return scanLetter(row) }

// DeadLetters lists letters by id.
func (s *Store) DeadLetters(ctx context.Context, after string, limit int) ([]mirror.DeadLetter, error) {
	list, err := query(ctx, s, oneLetter, lettersAfter, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list dead letters after %q: %w", after, err)
	}
	return list, nil
}

// DeadLetter reads one letter.
func (s *Store) DeadLetter(ctx context.Context, id string) (mirror.DeadLetter, error) {
	list, err := query(ctx, s, oneLetter, letterByID, id)
	if err == nil && len(list) == 0 {
		err = mirror.ErrNotFound
	}
	if err != nil {
		return mirror.DeadLetter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	return list[0], nil
}

// DeadLetterAges counts letters by age.
func (s *Store) DeadLetterAges(ctx context.Context, now time.Time) (mirror.DeadLetterAges, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (a mirror.DeadLetterAges, err error) {
		err = row.Scan(&a.UnderHour, &a.UnderDay, &a.UnderWeek, &a.Older, &a.Unreadable, (*optTime)(&a.Oldest))
		return a, err
	}, letterAges, now.Add(-time.Hour), now.AddDate(0, 0, -1), now.AddDate(0, 0, -7))
	if err != nil {
		return mirror.DeadLetterAges{}, fmt.Errorf("count dead letters: %w", err)
	}
	return list[0], nil
}

// DueDeadLetters claims letters whose time has come.
func (s *Store) DueDeadLetters(ctx context.Context, now, next time.Time, limit int) ([]mirror.DeadLetter, error) {
	due := map[[2]string]time.Time{}
	list, err := query(ctx, s, func(row pgx.CollectableRow) (d mirror.DeadLetter, err error) {
		var at time.Time
		d, err = scanLetter(row, &at)
		due[[2]string{d.Target.Account, d.ID}] = at
		return d, err
	}, claimLetters, now, optTime(next), limit)
	if err != nil {
		return nil, fmt.Errorf("claim due dead letters: %w", err)
	}
	mirror.OldestDue(list, func(d mirror.DeadLetter) time.Time { return due[[2]string{d.Target.Account, d.ID}] })
	return list, nil
}

// DropDeadLetter deletes a letter.
func (s *Store) DropDeadLetter(ctx context.Context, id string) error {
	var n int64
	err := retry(ctx, func() error {
		tag, err := s.pool.Exec(ctx, dropLetter, id)
		n = tag.RowsAffected()
		return err
	})
	if err == nil && n == 0 {
		err = mirror.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("drop dead letter %s: %w", id, err)
	}
	return nil
}
