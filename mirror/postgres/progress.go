package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/creditmirror/creditmirror/mirror"
)

const sweepColumns = `account, name, state, watermark, started_at, last_success, last_found`

const (
	sweepByName = `SELECT ` + sweepColumns + ` FROM creditmirror.sweeps WHERE account = $1 AND name = $2`
	allSweeps   = `SELECT ` + sweepColumns + ` FROM creditmirror.sweeps ORDER BY account, name`

	overSweep = ` ON CONFLICT (account, name) DO UPDATE SET state = excluded.state, watermark = excluded.watermark, started_at = excluded.started_at,
  last_success = excluded.last_success, last_found = excluded.last_found, synced_at = now()`

	saveSweep = `INSERT INTO creditmirror.sweeps (` + sweepColumns + `) VALUES ($1, $2, $3::text::jsonb, $4, $5, $6, $7)` + overSweep

	// saveSweepOfLease saves only what the owner of the lease brings, and keeps the
	// lease from changing hands until it is saved.
	saveSweepOfLease = `WITH held AS (SELECT 1 FROM creditmirror.leases WHERE account = '' AND name = $8 AND owner = $9 FOR SHARE)
INSERT INTO creditmirror.sweeps (` + sweepColumns + `)
SELECT $1::text, $2::text, $3::text::jsonb, $4::timestamptz, $5::timestamptz, $6::timestamptz, $7::bigint FROM held` + overSweep
)

func scanSweep(row pgx.CollectableRow) (w mirror.Sweep, err error) {
	err = row.Scan(&w.Account, &w.Name, &w.State, (*optTime)(&w.Watermark), (*optTime)(&w.StartedAt), (*optTime)(&w.LastSuccess), &w.LastFound)
	return w, err
}

// Sweep loads one sweep's progress.
func (s *Store) Sweep(ctx context.Context, account, name string) (mirror.Sweep, error) {
	list, err := query(ctx, s, scanSweep, sweepByName, account, name)
	if err != nil {
		return mirror.Sweep{}, fmt.Errorf("read sweep %s: %w", name, err)
	}
	if len(list) == 0 {
		return mirror.Sweep{Account: account, Name: name}, nil
	}
	return list[0], nil
}

// Sweeps lists all of them.
func (s *Store) Sweeps(ctx context.Context) ([]mirror.Sweep, error) {
	list, err := query(ctx, s, scanSweep, allSweeps)
	if err != nil {
		return nil, fmt.Errorf("list sweeps: %w", err)
	}
	return list, nil
}

// SaveSweep stores a sweep's progress.
func (s *Store) SaveSweep(ctx context.Context, w mirror.Sweep) error {
	args := []any{w.Account, w.Name, optJSON(w.State), optTime(w.Watermark), optTime(w.StartedAt), optTime(w.LastSuccess), w.LastFound}
	err := s.once(ctx, func(b *pgx.Batch) {
		lease, ok := mirror.LeaseOf(ctx)
		if !ok {
			b.Queue(saveSweep, args...)
			return
		}
		b.Queue(saveSweepOfLease, append(args, lease.Name, lease.Owner)...).Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() == 0 {
				return fmt.Errorf("lease %s: %w", lease.Name, mirror.ErrFenced)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("save sweep %s: %w", w.Name, err)
	}
	return nil
}

const (
	// acquireLease reads the clock and not the time of the transaction, which may
	// have begun long before it got the row.
	acquireLease = `INSERT INTO creditmirror.leases AS l (account, name, owner, expires_at)
VALUES ('', $1, $2, clock_timestamp() + $3::bigint * interval '1 microsecond')
ON CONFLICT (account, name) DO UPDATE SET owner = excluded.owner,
  expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond', synced_at = now()
WHERE l.owner = excluded.owner OR l.expires_at <= clock_timestamp()
RETURNING true`

	releaseLease = `DELETE FROM creditmirror.leases WHERE account = '' AND name = $1 AND owner = $2`
)

// AcquireLease takes or renews a lease by the database's clock.
func (s *Store) AcquireLease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	var held bool
	err := retry(ctx, func() error {
		err := s.pool.QueryRow(ctx, acquireLease, name, owner, ttl.Microseconds()).Scan(&held)
		if errors.Is(err, pgx.ErrNoRows) {
			held, err = false, nil
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("acquire lease %s: %w", name, err)
	}
	return held, nil
}

// ReleaseLease gives a lease back; one that another owner holds stays.
func (s *Store) ReleaseLease(ctx context.Context, name, owner string) error {
	err := s.once(ctx, func(b *pgx.Batch) { b.Queue(releaseLease, name, owner) })
	if err != nil {
		return fmt.Errorf("release lease %s: %w", name, err)
	}
	return nil
}

const (
	seeAccount = `INSERT INTO creditmirror.accounts (account) SELECT $1::text
WHERE NOT EXISTS (SELECT 1 FROM creditmirror.accounts WHERE account = $1) ON CONFLICT (account) DO NOTHING`

	accountSeen = `SELECT EXISTS (SELECT 1 FROM creditmirror.accounts WHERE account = $1)
  OR EXISTS (SELECT 1 FROM creditmirror.customers WHERE account = $1)`

	listAccounts = `SELECT account FROM creditmirror.accounts WHERE account <> '' ORDER BY account`
)

// SeeAccount remembers a connected account. It is called for every event, so one
// that is known costs no write.
func (s *Store) SeeAccount(ctx context.Context, account string) error {
	err := s.once(ctx, func(b *pgx.Batch) { b.Queue(seeAccount, account) })
	if err != nil {
		return fmt.Errorf("remember account %s: %w", account, err)
	}
	return nil
}

// AccountSeen reports whether a connected account is remembered, or has customers.
func (s *Store) AccountSeen(ctx context.Context, account string) (bool, error) {
	seen, err := one(query(ctx, s, pgx.RowTo[bool], accountSeen, account))
	if err != nil {
		return false, fmt.Errorf("look for account %s: %w", account, err)
	}
	return seen, nil
}

// Accounts lists the connected accounts.
func (s *Store) Accounts(ctx context.Context) ([]string, error) {
	list, err := query(ctx, s, pgx.RowTo[string], listAccounts)
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	return list, nil
}

// Both queries walk the index of unfinished histories, which is short once the
// first copy is done; whoever stores a customer or a grant makes it known there.
const (
	unsyncedBalances = `SELECT s.customer, s.read_rank FROM creditmirror.sync_state AS s
JOIN creditmirror.customers AS c ON c.account = s.account AND c.id = s.customer AND NOT c.deleted
WHERE s.account = $1 AND s.scope = 'balance' AND (s.read_rank, s.customer) > ($2, $3) AND (NOT s.history_complete OR s.walk_cursor <> '')
  AND NOT EXISTS (SELECT 1 FROM creditmirror.dead_letters AS d
    WHERE d.account = s.account AND d.customer = s.customer AND d.scope = s.scope)
ORDER BY s.read_rank, s.customer LIMIT $4`

	// A grant may be known before its customer is.
	unsyncedCredits = `SELECT s.customer, s.read_rank FROM creditmirror.sync_state AS s
WHERE s.account = $1 AND s.scope = 'credits' AND (s.read_rank, s.customer) > ($2, $3) AND (NOT s.history_complete OR s.walk_cursor <> '')
  AND EXISTS (SELECT 1 FROM creditmirror.credit_grants AS g WHERE g.account = s.account AND g.customer = s.customer)
  AND NOT EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = s.account AND c.id = s.customer AND c.deleted)
  AND NOT EXISTS (SELECT 1 FROM creditmirror.dead_letters AS d
    WHERE d.account = s.account AND d.customer = s.customer AND d.scope = s.scope)
ORDER BY s.read_rank, s.customer LIMIT $4`
)

// Unsynced lists customers whose history of the scope is unfinished.
func (s *Store) Unsynced(ctx context.Context, account string, scope mirror.Scope, after mirror.Unread, limit int) ([]mirror.Unread, error) {
	statement := unsyncedBalances
	if scope == mirror.ScopeCredits {
		statement = unsyncedCredits
	}
	rank, customer := after.Place()
	list, err := query(ctx, s, func(row pgx.CollectableRow) (u mirror.Unread, err error) {
		err = row.Scan(&u.Customer, &u.Rank)
		return u, err
	}, statement, account, rank, customer, limit)
	if err != nil {
		return nil, fmt.Errorf("list unsynced customers after %q: %w", after.Customer, err)
	}
	return list, nil
}

const (
	// setAsideEvents takes bit $1, and the question of scope $2, from the events that
	// wait. They are not answered, so that they count for no freshness.
	setAsideEvents = `WITH waiting AS (
  SELECT account, id FROM creditmirror.stripe_events
  WHERE pending_scopes <> 0 AND account = $3 AND (pending_scopes & $1::integer <> 0 OR pending_scopes & 4 <> 0 AND question_scope = $2)
  ORDER BY account, id FOR UPDATE
)
UPDATE creditmirror.stripe_events AS e SET synced_at = now(),
  pending_scopes = e.pending_scopes & ~$1::integer & ~(CASE WHEN e.question_scope = $2 THEN 4 ELSE 0 END)
FROM waiting WHERE e.account = waiting.account AND e.id = waiting.id`
	setAsideLetters  = `DELETE FROM creditmirror.dead_letters WHERE account = $3 AND scope <> '' AND scope IN ($1, $2)` // without a scope: events that cannot be read
	setAsideFindings = `UPDATE creditmirror.drift_findings SET repaired_at = now(), synced_at = now() WHERE account = $2 AND scope = $1 AND repaired_at IS NULL`
)

// SetAside ends what waits for a ledger of an account that is not mirrored.
func (s *Store) SetAside(ctx context.Context, account string, ledger mirror.Scope) error {
	question := ""
	if ledger == mirror.ScopeCredits {
		question = string(mirror.ScopeGrantOwner)
	}
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(setAsideEvents, scopeBit(ledger), question, account)
		b.Queue(setAsideLetters, string(ledger), question, account)
		b.Queue(setAsideFindings, string(ledger), account)
	})
	if err != nil {
		return fmt.Errorf("set %s aside: %w", ledger, err)
	}
	return nil
}

const (
	listIncarnations = `SELECT queue_partition, incarnation, high_water FROM creditmirror.queue_incarnations
WHERE account = '' ORDER BY queue_partition`

	saveIncarnation = `INSERT INTO creditmirror.queue_incarnations (account, queue_partition, incarnation, high_water)
VALUES ('', $1, $2, $3)
ON CONFLICT (account, queue_partition) DO UPDATE SET incarnation = excluded.incarnation, synced_at = now(),
    high_water = CASE WHEN queue_incarnations.incarnation = excluded.incarnation THEN greatest(queue_incarnations.high_water, excluded.high_water)
                      ELSE excluded.high_water END`

	// history is the name of the database's history (mirror.DatabasePartition), empty
	// at first.
	history = `SELECT coalesce((SELECT incarnation FROM creditmirror.queue_incarnations WHERE account = '' AND queue_partition = -1), '')`

	// system is the cluster and the timeline that its log is written on now, which a
	// promotion and a restore up to a moment begin anew.
	system = `SELECT CASE WHEN pg_is_in_recovery() THEN ''
  ELSE (SELECT system_identifier FROM pg_control_system())::text || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END`
)

// DatabaseSystem names the cluster and its timeline; nothing where the server, or the
// role's rights, do not let them be read.
func (s *Store) DatabaseSystem(ctx context.Context) (string, error) {
	name, err := one(query(ctx, s, pgx.RowTo[string], system))
	if state := sqlState(err); strings.HasPrefix(state, "42") || strings.HasPrefix(state, "0A") {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("name the database's system: %w", err)
	}
	return name, nil
}

// Incarnations lists the marks of the queue's partitions.
func (s *Store) Incarnations(ctx context.Context) ([]mirror.Incarnation, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (i mirror.Incarnation, err error) {
		err = row.Scan(&i.Partition, &i.ID, &i.HighWater)
		return i, err
	}, listIncarnations)
	if err != nil {
		return nil, fmt.Errorf("list incarnations: %w", err)
	}
	return list, nil
}

// SaveIncarnation stores a partition's mark.
func (s *Store) SaveIncarnation(ctx context.Context, i mirror.Incarnation) error {
	err := s.once(ctx, func(b *pgx.Batch) { b.Queue(saveIncarnation, i.Partition, clean(i.ID), i.HighWater) })
	if err != nil {
		return fmt.Errorf("save the incarnation of partition %d: %w", i.Partition, err)
	}
	return nil
}
