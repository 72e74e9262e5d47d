package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.APIJournal = (*Store)(nil)

const (
	// spentToday counts each Idempotency-Key once: Stripe does what it names once. It
	// leaves out that of the write that is asked about.
	spentToday = `
SELECT ifnull(sum(CASE WHEN account = ?1 AND idempotency_key = ?2 THEN 0 ELSE most END), 0),
       ifnull(max(CASE WHEN account = ?1 AND idempotency_key = ?2 THEN most END), 0) FROM (
  SELECT account, idempotency_key, max(abs(amount)) AS most FROM (
    SELECT account, idempotency_key, amount FROM api_writes
    WHERE key_name = ?3 AND currency = ?4 AND created >= ?5 AND created < ?6 AND outcome IN ('done', 'unknown')
    UNION ALL
    SELECT account, idempotency_key, amount FROM api_write_intents
    WHERE key_name = ?3 AND currency = ?4 AND created >= ?5 AND created < ?6)
  GROUP BY account, idempotency_key)`

	beginAPIWrite = `
INSERT INTO api_write_intents (account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr, synced_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
ON CONFLICT DO NOTHING`

	dropIntent = `DELETE FROM api_write_intents WHERE account = ?1 AND id = ?2`

	endAPIWrite = `
INSERT INTO api_writes (account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr,
  stripe_request_id, status, outcome, reason, repeated, synced_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
ON CONFLICT DO NOTHING`

	abandonedIntents = `
SELECT account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr, '', 0, 'unknown', 'process ended', 0
FROM api_write_intents WHERE created < ?1 ORDER BY created, id LIMIT 1000`

	apiWriteColumns = `account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr,
  stripe_request_id, status, outcome, reason, repeated`

	listAPIWrites = `SELECT ` + apiWriteColumns + ` FROM api_writes
WHERE (created, id) > (?1, ?2) AND created >= ?3 AND created < ?4 AND (?5 IS NULL OR account = ?5)
  AND (?6 = '' OR key_name = ?6) AND (?7 = '' OR customer = ?7) AND (?8 = '' OR outcome = ?8)
ORDER BY created, id LIMIT ?9 + 0`

	pruneAPIWrites = `
DELETE FROM api_writes WHERE (account, id) IN (SELECT account, id FROM api_writes WHERE created < ?1 ORDER BY created, id LIMIT 1000)`

	// #nosec G101 -- a statement about names of keys
	useAPIKey = `
INSERT INTO api_key_uses (account, name, last_used_at, synced_at) VALUES ('', ?1, ?2, ?3)
ON CONFLICT (account, name) DO UPDATE SET last_used_at = max(last_used_at, excluded.last_used_at), synced_at = excluded.synced_at`

	apiKeyUses = `SELECT name, last_used_at FROM api_key_uses ORDER BY name` // #nosec G101 -- a statement about names of keys
)

// amountOf is the amount of a write, NULL where it has none.
func amountOf(w mirror.APIWrite) any {
	if w.Currency == "" {
		return nil
	}
	return w.Amount
}

// BeginAPIWrite notes a write that is about to be sent.
func (s *Store) BeginAPIWrite(ctx context.Context, w mirror.APIWrite, perDay *int64) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		if perDay != nil {
			from, to := mirror.DayOf(w.Created)
			var spent, same int64
			if _, err := tx.row(spentToday, []any{w.Account, w.IdempotencyDigest, w.Key, w.Currency, stamp(from), stamp(to)}, &spent, &same); err != nil {
				return err
			}
			if !mirror.WithinDay(spent, max(same, mirror.Magnitude(w.Amount)), *perDay) {
				return mirror.ErrDayLimit
			}
		}
		return tx.exec(beginAPIWrite, w.Account, w.ID, stamp(w.Created), plain(w.Key), w.Operation, plain(w.Customer), plain(w.Object), amountOf(w), null(w.Currency),
			w.IdempotencyDigest, plain(w.RemoteAddr), tx.at)
	})
	if err != nil {
		return fmt.Errorf("begin the api write %s: %w", w.ID, s.explain(err))
	}
	return nil
}

// EndAPIWrite records a write.
func (s *Store) EndAPIWrite(ctx context.Context, w mirror.APIWrite) error {
	err := s.w.do(ctx, durable, func(tx *tx) error { return tx.recordAPIWrite(w) })
	if err != nil {
		return fmt.Errorf("end the api write %s: %w", w.ID, s.explain(err))
	}
	return nil
}

func (t *tx) recordAPIWrite(w mirror.APIWrite) error {
	if err := t.exec(dropIntent, w.Account, w.ID); err != nil {
		return err
	}
	n, err := t.affect(endAPIWrite, w.Account, w.ID, stamp(w.Created), plain(w.Key), w.Operation, plain(w.Customer), plain(w.Object), amountOf(w), null(w.Currency),
		w.IdempotencyDigest, plain(w.RemoteAddr), plain(w.StripeRequestID), w.Status, string(w.Outcome), plain(w.Reason), w.Repeated, t.at)
	if err != nil || n == 0 {
		return err
	}
	return t.feed(w.Account, [][]any{{"api_writes", plain(w.Customer), w.ID, "insert"}})
}

func scanAPIWrite(rows *sql.Rows) (w mirror.APIWrite, err error) {
	var amount sql.NullInt64
	err = rows.Scan(&w.Account, &w.ID, timeColumn{&w.Created}, &w.Key, &w.Operation, &w.Customer, &w.Object, &amount, textColumn{&w.Currency},
		&w.IdempotencyDigest, &w.RemoteAddr, &w.StripeRequestID, &w.Status, &w.Outcome, &w.Reason, &w.Repeated)
	w.Amount = amount.Int64
	return w, err
}

// SettleAPIWrites records writes that never ended.
func (s *Store) SettleAPIWrites(ctx context.Context, before time.Time) ([]mirror.APIWrite, error) {
	var list []mirror.APIWrite
	err := s.w.do(ctx, durable, func(tx *tx) error {
		err := tx.each(abandonedIntents, []any{stamp(before)}, func(rows *sql.Rows) error {
			w, err := scanAPIWrite(rows)
			list = append(list, w)
			return err
		})
		if err != nil {
			return err
		}
		for _, w := range list {
			if err := tx.recordAPIWrite(w); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("settle api writes: %w", s.explain(err))
	}
	return list, nil
}

// APIWrites lists rows by time.
func (s *Store) APIWrites(ctx context.Context, f mirror.APIWriteFilter, after mirror.APIWrite, limit int) ([]mirror.APIWrite, error) {
	from, to := stamp(time.Time{}), "9999-12-31T23:59:59.999999Z"
	if !f.From.IsZero() {
		from = stamp(f.From)
	}
	if !f.To.IsZero() {
		to = stamp(f.To)
	}
	var account any
	if f.Account != nil {
		account = *f.Account
	}
	var list []mirror.APIWrite
	err := s.read(ctx, func(r *reading) error {
		args := []any{stamp(after.Created), after.ID, from, to, account, f.Key, f.Customer, string(f.Outcome), limit}
		return r.each(listAPIWrites, args, func(rows *sql.Rows) error {
			w, err := scanAPIWrite(rows)
			list = append(list, w)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list api writes: %w", err)
	}
	return list, nil
}

// PruneAPIWrites deletes old rows.
func (s *Store) PruneAPIWrites(ctx context.Context, before time.Time) (int64, error) {
	if kept := s.now().Add(-mirror.APIWritesKept - time.Minute); before.After(kept) {
		before = kept
	}
	total := int64(0)
	for {
		n := 0
		err := s.w.do(ctx, volatile, func(tx *tx) (err error) {
			n, err = tx.affect(pruneAPIWrites, stamp(before))
			return err
		})
		if err != nil {
			return total, fmt.Errorf("prune api writes: %w", s.explain(err))
		}
		if total += int64(n); n == 0 {
			return total, nil
		}
	}
}

// UseAPIKeys remembers uses.
func (s *Store) UseAPIKeys(ctx context.Context, uses []mirror.APIKeyUse) error {
	err := s.w.do(ctx, volatile, func(tx *tx) error {
		for _, u := range uses {
			if err := tx.exec(useAPIKey, plain(u.Name), stamp(u.LastUsed), tx.at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("use api keys: %w", s.explain(err))
	}
	return nil
}

// APIKeyUses lists them.
func (s *Store) APIKeyUses(ctx context.Context) ([]mirror.APIKeyUse, error) {
	var list []mirror.APIKeyUse
	err := s.read(ctx, func(r *reading) error {
		return r.each(apiKeyUses, nil, func(rows *sql.Rows) error {
			var u mirror.APIKeyUse
			err := rows.Scan(&u.Name, timeColumn{&u.LastUsed})
			list = append(list, u)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list uses of api keys: %w", err)
	}
	return list, nil
}
