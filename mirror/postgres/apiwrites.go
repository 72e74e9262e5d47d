package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.APIJournal = (*Store)(nil)

const (
	// oneAtATime lets no other replica count and add for the same key meanwhile.
	oneAtATime = `SELECT pg_advisory_xact_lock(hashtextextended('creditmirror.api_writes', 0) # hashtextextended($1, 1))`

	// spentToday counts each Idempotency-Key once: Stripe does what it names once. It
	// leaves out that of the write that is asked about. Sums too large for a bigint are
	// the largest one.
	spentToday = `SELECT least(coalesce(sum(CASE WHEN account = $1 AND idempotency_key = $2 THEN 0 ELSE most END), 0), 9223372036854775807)::bigint,
       least(coalesce(max(CASE WHEN account = $1 AND idempotency_key = $2 THEN most END), 0), 9223372036854775807)::bigint FROM (
  SELECT account, idempotency_key, max(abs(amount::numeric)) AS most FROM (
    SELECT account, idempotency_key, amount FROM creditmirror.api_writes
    WHERE key_name = $3 AND currency = $4 AND created >= $5 AND created < $6 AND outcome IN ('done', 'unknown')
    UNION ALL
    SELECT account, idempotency_key, amount FROM creditmirror.api_write_intents
    WHERE key_name = $3 AND currency = $4 AND created >= $5 AND created < $6) AS w
  GROUP BY account, idempotency_key) AS k`

	beginAPIWrite = `INSERT INTO creditmirror.api_write_intents
  (account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT DO NOTHING`

	dropIntent = `DELETE FROM creditmirror.api_write_intents WHERE account = $1 AND id = $2`

	apiWriteColumns = `account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr,
  stripe_request_id, status, outcome, reason, repeated`

	feedAPIWrites = `INSERT INTO creditmirror.changes (account, customer, table_name, id, op) SELECT account, customer, 'api_writes', id, 'insert' FROM recorded`

	endAPIWrite = `WITH recorded AS (
  INSERT INTO creditmirror.api_writes (` + apiWriteColumns + `)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
  ON CONFLICT DO NOTHING RETURNING account, customer, id)
` + feedAPIWrites

	settleAPIWrites = `WITH gone AS (
  DELETE FROM creditmirror.api_write_intents WHERE created < $1
  RETURNING account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr
), recorded AS (
  INSERT INTO creditmirror.api_writes (` + apiWriteColumns + `)
  SELECT account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr,
    '', 0, 'unknown', 'process ended', 0 FROM gone
  ON CONFLICT DO NOTHING RETURNING ` + apiWriteColumns + `
), fed AS (` + feedAPIWrites + `)
SELECT ` + apiWriteColumns + ` FROM recorded ORDER BY created, id`

	listAPIWrites = `SELECT ` + apiWriteColumns + ` FROM creditmirror.api_writes
WHERE (created, id) > ($1, $2) AND ($3::timestamptz IS NULL OR created >= $3) AND ($4::timestamptz IS NULL OR created < $4)
  AND ($5::text IS NULL OR account = $5) AND ($6 = '' OR key_name = $6) AND ($7 = '' OR customer = $7) AND ($8 = '' OR outcome = $8)
ORDER BY created, id LIMIT $9`

	pruneAPIWrites = `DELETE FROM creditmirror.api_writes
WHERE (account, id) IN (SELECT account, id FROM creditmirror.api_writes WHERE created < $1 ORDER BY created, id LIMIT 1000)`

	useAPIKeys = `INSERT INTO creditmirror.api_key_uses AS u (account, name, last_used_at)
SELECT '', n.name, n.last_used_at FROM unnest($1::text[], $2::timestamptz[]) AS n (name, last_used_at) ORDER BY n.name COLLATE "C"
ON CONFLICT (account, name) DO UPDATE SET last_used_at = greatest(u.last_used_at, excluded.last_used_at), synced_at = now()`

	apiKeyUses = `SELECT name, last_used_at FROM creditmirror.api_key_uses ORDER BY name` // #nosec G101 -- a statement about names of keys
)

// amountOf is the amount of a write, NULL where it has none.
func amountOf(w mirror.APIWrite) *int64 {
	if w.Currency == "" {
		return nil
	}
	return &w.Amount
}

// BeginAPIWrite notes a write that is about to be sent.
func (s *Store) BeginAPIWrite(ctx context.Context, w mirror.APIWrite, perDay *int64) error {
	insert := func(b *pgx.Batch) {
		b.Queue(beginAPIWrite, w.Account, w.ID, w.Created, clean(w.Key), w.Operation, clean(w.Customer), clean(w.Object), amountOf(w),
			optText(w.Currency), w.IdempotencyDigest, clean(w.RemoteAddr))
	}
	var err error
	if perDay == nil {
		err = s.once(ctx, insert)
	} else {
		from, to := mirror.DayOf(w.Created)
		var spent, same int64
		err = s.transact(ctx, func(b *pgx.Batch) {
			b.Queue(oneAtATime, clean(w.Key))
			b.Queue(spentToday, w.Account, w.IdempotencyDigest, clean(w.Key), w.Currency, from, to).QueryRow(func(row pgx.Row) error {
				return row.Scan(&spent, &same)
			})
		}, func(b *pgx.Batch) error {
			if !mirror.WithinDay(spent, max(same, mirror.Magnitude(w.Amount)), *perDay) {
				return mirror.ErrDayLimit
			}
			insert(b)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("begin the api write %s: %w", w.ID, err)
	}
	return nil
}

// EndAPIWrite records a write.
func (s *Store) EndAPIWrite(ctx context.Context, w mirror.APIWrite) error {
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(dropIntent, w.Account, w.ID)
		b.Queue(endAPIWrite, w.Account, w.ID, w.Created, clean(w.Key), w.Operation, clean(w.Customer), clean(w.Object), amountOf(w),
			optText(w.Currency), w.IdempotencyDigest, clean(w.RemoteAddr), clean(w.StripeRequestID), w.Status, string(w.Outcome), clean(w.Reason), w.Repeated)
	})
	if err != nil {
		return fmt.Errorf("end the api write %s: %w", w.ID, err)
	}
	return nil
}

func scanAPIWrite(row pgx.CollectableRow) (w mirror.APIWrite, err error) {
	var amount *int64
	err = row.Scan(&w.Account, &w.ID, &w.Created, &w.Key, &w.Operation, &w.Customer, &w.Object, &amount, (*optText)(&w.Currency),
		&w.IdempotencyDigest, &w.RemoteAddr, &w.StripeRequestID, &w.Status, (*string)(&w.Outcome), &w.Reason, &w.Repeated)
	if amount != nil {
		w.Amount = *amount
	}
	return w, err
}

// SettleAPIWrites records writes that never ended.
func (s *Store) SettleAPIWrites(ctx context.Context, before time.Time) ([]mirror.APIWrite, error) {
	list, err := query(ctx, s, scanAPIWrite, settleAPIWrites, before)
	if err != nil {
		return nil, fmt.Errorf("settle api writes: %w", err)
	}
	return list, nil
}

// APIWrites lists rows by time.
func (s *Store) APIWrites(ctx context.Context, f mirror.APIWriteFilter, after mirror.APIWrite, limit int) ([]mirror.APIWrite, error) {
	list, err := query(ctx, s, scanAPIWrite, listAPIWrites, after.Created, after.ID, optTime(f.From), optTime(f.To),
		f.Account, f.Key, f.Customer, string(f.Outcome), limit)
	if err != nil {
		return nil, fmt.Errorf("list api writes: %w", err)
	}
	return list, nil
}

// PruneAPIWrites deletes old rows.
func (s *Store) PruneAPIWrites(ctx context.Context, before time.Time) (int64, error) {
	if kept := time.Now().Add(-mirror.APIWritesKept - time.Minute); before.After(kept) {
		before = kept
	}
	total := int64(0)
	for {
		tag, err := s.pool.Exec(ctx, pruneAPIWrites, before)
		if err != nil {
			return total, fmt.Errorf("prune api writes: %w", err)
		}
		if total += tag.RowsAffected(); tag.RowsAffected() == 0 {
			return total, nil
		}
	}
}

// UseAPIKeys remembers uses.
func (s *Store) UseAPIKeys(ctx context.Context, uses []mirror.APIKeyUse) error {
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(useAPIKeys, column(uses, func(u *mirror.APIKeyUse) string { return clean(u.Name) }),
			column(uses, func(u *mirror.APIKeyUse) time.Time { return u.LastUsed }))
	})
	if err != nil {
		return fmt.Errorf("use api keys: %w", err)
	}
	return nil
}

// APIKeyUses lists them.
func (s *Store) APIKeyUses(ctx context.Context) ([]mirror.APIKeyUse, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (u mirror.APIKeyUse, err error) {
		err = row.Scan(&u.Name, &u.LastUsed)
		return u, err
	}, apiKeyUses)
	if err != nil {
		return nil, fmt.Errorf("list uses of api keys: %w", err)
	}
	return list, nil
}
