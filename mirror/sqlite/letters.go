package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// keptEvents bounds the event ids of one dead letter.
const keptEvents = 64

const (
	lettersEvents = `SELECT event_ids FROM dead_letters WHERE account = ?1 AND id = ?2`

	saveLetter = `
INSERT INTO dead_letters (account, id, customer, scope, reason, attempts, event_ids, payload,
       first_failed_at, last_failed_at, retry_at, synced_at, class)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
ON CONFLICT (account, id) DO UPDATE SET customer = excluded.customer, scope = excluded.scope, reason = excluded.reason, class = excluded.class,
       attempts = attempts + iif(last_failed_at = excluded.last_failed_at, 0, excluded.attempts), event_ids = excluded.event_ids, payload = ifnull(excluded.payload, payload),
       last_failed_at = excluded.last_failed_at, retry_at = excluded.retry_at, synced_at = excluded.synced_at`

	// A payload may have 1 MiB: only the letter that is asked for comes with it.
	listedColumns = `
SELECT account, id, customer, scope, reason, attempts, event_ids, NULL, first_failed_at, last_failed_at, retry_at
FROM dead_letters `

	listLetters = listedColumns + `WHERE id > ?1 ORDER BY id LIMIT ?2 + 0`

	letterByID = `
SELECT account, id, customer, scope, reason, attempts, event_ids, payload, first_failed_at, last_failed_at, retry_at
FROM dead_letters WHERE id = ?1 LIMIT 1`

	letterAges = `
SELECT count(*) FILTER (WHERE first_failed_at > ?1),
       count(*) FILTER (WHERE first_failed_at <= ?1 AND first_failed_at > ?2),
       count(*) FILTER (WHERE first_failed_at <= ?2 AND first_failed_at > ?3),
       count(*) FILTER (WHERE first_failed_at <= ?3), count(*) FILTER (WHERE scope = ''), min(first_failed_at)
FROM dead_letters`

	dueLetters = listedColumns + `WHERE retry_at IS NOT NULL AND retry_at <= ?1 ORDER BY retry_at, id LIMIT ?2 + 0`

	claimLetters = `
UPDATE dead_letters SET retry_at = ?2, synced_at = ?3
WHERE (account, id) IN (SELECT value->>0, value->>1 FROM json_each(?1))`

	dropLetter = `DELETE FROM dead_letters WHERE id = ?1`
)

// SaveDeadLetter stores or renews a letter.
func (s *Store) SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		var held []string
		var text json.RawMessage
		found, err := tx.row(lettersEvents, []any{d.Target.Account, d.ID}, jsonColumn{&text})
		if err == nil && found {
			err = json.Unmarshal(text, &held)
		}
		if err != nil {
			return err
		}
		events, err := json.Marshal(mergeEvents(held, d.EventIDs))
		if err != nil {
			return err
		}
		var payload any
		if d.Payload != nil {
			payload = d.Payload
		}
		return tx.exec(saveLetter, d.Target.Account, d.ID, d.Target.ID, string(d.Target.Scope), plain(d.Reason),
			d.Attempts, string(events), payload, stamp(d.FirstFailedAt), stamp(d.LastFailedAt), nullTime(d.RetryAt), tx.at,
			plain(mirror.ClassOf(d.Reason)))
	})
	if err != nil {
		return fmt.Errorf("save dead letter %s: %w", d.ID, s.explain(err))
	}
	return nil
}

// mergeEvents adds ids to those held, each once, and keeps the last ones.
func mergeEvents(held, more []string) []string {
	merged := make([]string, 0, len(held)+len(more))
	seen := map[string]bool{}
	for _, list := range [][]string{held, more} {
		for _, id := range list {
			if !seen[id] {
				seen[id] = true
				merged = append(merged, id)
			}
		}
	}
	return merged[max(0, len(merged)-keptEvents):]
}

func scanLetter(rows *sql.Rows) (mirror.DeadLetter, error) {
	var d mirror.DeadLetter
	var events json.RawMessage
	err := rows.Scan(&d.Target.Account, &d.ID, &d.Target.ID, &d.Target.Scope, &d.Reason, &d.Attempts, jsonColumn{&events},
		&d.Payload, timeColumn{&d.FirstFailedAt}, timeColumn{&d.LastFailedAt}, timeColumn{&d.RetryAt})
	if err == nil {
		err = json.Unmarshal(events, &d.EventIDs)
	}
	return d, err
}

// DeadLetters lists letters by id.
func (s *Store) DeadLetters(ctx context.Context, after string, limit int) ([]mirror.DeadLetter, error) {
	var list []mirror.DeadLetter
	err := s.read(ctx, func(r *reading) error {
		return r.each(listLetters, []any{after, limit}, func(rows *sql.Rows) error {
			d, err := scanLetter(rows)
			list = append(list, d)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list dead letters after %q: %w", after, err)
	}
	return list, nil
}

// DeadLetter reads one letter.
func (s *Store) DeadLetter(ctx context.Context, id string) (d mirror.DeadLetter, err error) {
	found := false
	err = s.read(ctx, func(r *reading) error {
		return r.each(letterByID, []any{id}, func(rows *sql.Rows) error {
			found = true
			var err error
			d, err = scanLetter(rows)
			return err
		})
	})
	if err == nil && !found {
		err = mirror.ErrNotFound
	}
	if err != nil {
		return mirror.DeadLetter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	return d, nil
}

// DeadLetterAges counts letters by age.
func (s *Store) DeadLetterAges(ctx context.Context, now time.Time) (a mirror.DeadLetterAges, err error) {
	err = s.read(ctx, func(r *reading) error {
		_, err := r.row(letterAges, []any{stamp(now.Add(-time.Hour)), stamp(now.AddDate(0, 0, -1)), stamp(now.AddDate(0, 0, -7))},
			&a.UnderHour, &a.UnderDay, &a.UnderWeek, &a.Older, &a.Unreadable, timeColumn{&a.Oldest})
		return err
	})
	if err != nil {
		return mirror.DeadLetterAges{}, fmt.Errorf("count dead letters: %w", err)
	}
	return a, nil
}

// DueDeadLetters claims letters whose time has come.
func (s *Store) DueDeadLetters(ctx context.Context, now, next time.Time, limit int) ([]mirror.DeadLetter, error) {
	var list []mirror.DeadLetter
	err := s.w.do(ctx, volatile, func(tx *tx) error {
		err := tx.each(dueLetters, []any{stamp(now), limit}, func(rows *sql.Rows) error {
			d, err := scanLetter(rows)
			list = append(list, d)
			return err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		keys := make([][]any, 0, len(list))
		for i := range list {
			keys = append(keys, []any{list[i].Target.Account, list[i].ID})
		}
		mirror.OldestDue(list, func(d mirror.DeadLetter) time.Time { return d.RetryAt })
		for i := range list {
			list[i].RetryAt = next.UTC().Truncate(time.Microsecond)
		}
		_, err = tx.inBatches(claimLetters, keys, nullTime(next), tx.at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim due dead letters: %w", s.explain(err))
	}
	return list, nil
}

// DropDeadLetter deletes a letter.
func (s *Store) DropDeadLetter(ctx context.Context, id string) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		n, err := tx.affect(dropLetter, id)
		if err == nil && n == 0 {
			return mirror.ErrNotFound
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("drop dead letter %s: %w", id, s.explain(err))
	}
	return nil
}
