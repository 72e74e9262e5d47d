package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	sweepColumns = `SELECT account, name, state, watermark, started_at, last_success, last_found FROM sweeps `
	oneSweep     = sweepColumns + `WHERE account = ?1 AND name = ?2`
	allSweeps    = sweepColumns + `ORDER BY account, name`

	saveSweep = `
INSERT INTO sweeps (account, name, state, watermark, started_at, last_success, last_found, synced_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (account, name) DO UPDATE SET state = excluded.state, watermark = excluded.watermark,
       started_at = excluded.started_at, last_success = excluded.last_success,
       last_found = excluded.last_found, synced_at = excluded.synced_at`
)

// ownsLease is read in the transaction that saves: no successor comes between.
const ownsLease = `SELECT 1 FROM leases WHERE account = '' AND name = ?1 AND owner = ?2`

func scanSweep(rows *sql.Rows) (mirror.Sweep, error) {
	var w mirror.Sweep
	err := rows.Scan(&w.Account, &w.Name, jsonColumn{&w.State}, timeColumn{&w.Watermark},
		timeColumn{&w.StartedAt}, timeColumn{&w.LastSuccess}, &w.LastFound)
	return w, err
}

// Sweep loads one sweep's progress.
func (s *Store) Sweep(ctx context.Context, account, name string) (mirror.Sweep, error) {
	w := mirror.Sweep{Account: account, Name: name}
	err := s.read(ctx, func(r *reading) error {
		return r.each(oneSweep, []any{account, name}, func(rows *sql.Rows) (err error) {
			w, err = scanSweep(rows)
			return err
		})
	})
	if err != nil {
		return mirror.Sweep{}, fmt.Errorf("read sweep %s: %w", name, err)
	}
	return w, nil
}

// Sweeps lists all of them.
func (s *Store) Sweeps(ctx context.Context) ([]mirror.Sweep, error) {
	var list []mirror.Sweep
	err := s.read(ctx, func(r *reading) error {
		return r.each(allSweeps, nil, func(rows *sql.Rows) error {
			w, err := scanSweep(rows)
			list = append(list, w)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list sweeps: %w", err)
	}
	return list, nil
}

// SaveSweep stores a sweep's progress.
func (s *Store) SaveSweep(ctx context.Context, w mirror.Sweep) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		if lease, ok := mirror.LeaseOf(ctx); ok {
			owned, err := tx.row(ownsLease, []any{lease.Name, lease.Owner}, new(int))
			if err != nil {
				return err
			}
			if !owned {
				return fmt.Errorf("lease %s: %w", lease.Name, mirror.ErrFenced)
			}
		}
		return tx.exec(saveSweep, w.Account, w.Name, nullRaw(w.State), nullTime(w.Watermark),
			nullTime(w.StartedAt), nullTime(w.LastSuccess), w.LastFound, tx.at)
	})
	if err != nil {
		return fmt.Errorf("save sweep %s: %w", w.Name, s.explain(err))
	}
	return nil
}

const (
	acquireLease = `
INSERT INTO leases (account, name, owner, expires_at, synced_at) VALUES ('', ?1, ?2, ?3, ?4)
ON CONFLICT (account, name) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at, synced_at = excluded.synced_at
WHERE owner = excluded.owner OR expires_at <= ?4`

	releaseLease = `DELETE FROM leases WHERE account = '' AND name = ?1 AND owner = ?2`
)

// AcquireLease takes or renews a lease by the clock that all processes of this
// machine share.
func (s *Store) AcquireLease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	var held bool
	err := s.w.do(ctx, volatile, func(tx *tx) error {
		now, err := time.Parse(timeFormat, tx.at)
		if err != nil {
			return err
		}
		n, err := tx.affect(acquireLease, name, owner, stamp(now.Add(ttl)), tx.at)
		held = n > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("acquire lease %s: %w", name, s.explain(err))
	}
	return held, nil
}

// ReleaseLease gives a lease back; one that another owner holds stays.
func (s *Store) ReleaseLease(ctx context.Context, name, owner string) error {
	err := s.w.do(ctx, volatile, func(tx *tx) error { return tx.exec(releaseLease, name, owner) })
	if err != nil {
		return fmt.Errorf("release lease %s: %w", name, s.explain(err))
	}
	return nil
}

const (
	knowsAccount = `SELECT EXISTS (SELECT 1 FROM accounts WHERE account = ?1)`
	accountSeen  = `SELECT EXISTS (SELECT 1 FROM accounts WHERE account = ?1) OR EXISTS (SELECT 1 FROM customers WHERE account = ?1)`
	seeAccount   = `INSERT INTO accounts (account, seen_at, synced_at) VALUES (?1, ?2, ?2) ON CONFLICT DO NOTHING`
	listAccounts = `SELECT account FROM accounts WHERE account <> '' ORDER BY account`
)

// SeeAccount remembers a connected account. It is asked for every event, so one
// that is known costs no write.
func (s *Store) SeeAccount(ctx context.Context, account string) error {
	known, err := s.has(ctx, knowsAccount, account)
	if err == nil && !known {
		err = s.w.do(ctx, durable, func(tx *tx) error { return tx.exec(seeAccount, account, tx.at) })
	}
	if err != nil {
		return fmt.Errorf("remember account %s: %w", account, s.explain(err))
	}
	return nil
}

// AccountSeen reports whether a connected account is remembered, or has customers.
func (s *Store) AccountSeen(ctx context.Context, account string) (bool, error) {
	seen, err := s.has(ctx, accountSeen, account)
	if err != nil {
		return false, fmt.Errorf("look for account %s: %w", account, err)
	}
	return seen, nil
}

// has runs a query that reports whether something is there.
func (s *Store) has(ctx context.Context, query, account string) (found bool, err error) {
	err = s.read(ctx, func(r *reading) error {
		_, err := r.row(query, []any{account}, &found)
		return err
	})
	return found, err
}

// Accounts lists the connected accounts.
func (s *Store) Accounts(ctx context.Context) ([]string, error) {
	list, err := s.texts(ctx, listAccounts)
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	return list, nil
}

const (
	// unsyncedBalances walks the index of unfinished ledgers, which is short once the
	// first copy is done. The planner would rather walk through all ledgers.
	unsyncedBalances = `
SELECT s.customer, s.read_rank FROM sync_state s INDEXED BY sync_state_unfinished
CROSS JOIN customers c ON c.account = s.account AND c.id = s.customer AND NOT c.deleted
WHERE s.account = ?1 AND s.scope = 'balance' AND (s.read_rank, s.customer) > (?2, ?3) AND (NOT s.history_complete OR s.walk_cursor <> '')
  AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.account = s.account AND d.customer = s.customer AND d.scope = s.scope)
ORDER BY s.read_rank, s.customer LIMIT ?4 + 0`

	unsyncedCredits = `
SELECT s.customer, s.read_rank FROM sync_state s INDEXED BY sync_state_unfinished
WHERE s.account = ?1 AND s.scope = 'credits' AND (s.read_rank, s.customer) > (?2, ?3) AND (NOT s.history_complete OR s.walk_cursor <> '')
  AND EXISTS (SELECT 1 FROM credit_grants g WHERE g.account = s.account AND g.customer = s.customer)
  AND NOT EXISTS (SELECT 1 FROM customers c WHERE c.account = s.account AND c.id = s.customer AND c.deleted)
  AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.account = s.account AND d.customer = s.customer AND d.scope = s.scope)
ORDER BY s.read_rank, s.customer LIMIT ?4 + 0`
)

// Unsynced lists customers whose history of the scope is unfinished.
func (s *Store) Unsynced(ctx context.Context, account string, scope mirror.Scope, after mirror.Unread, limit int) ([]mirror.Unread, error) {
	query := unsyncedBalances
	if scope == mirror.ScopeCredits {
		query = unsyncedCredits
	}
	rank, customer := after.Place()
	var list []mirror.Unread
	err := s.read(ctx, func(r *reading) error {
		return r.each(query, []any{account, rank, customer, limit}, func(rows *sql.Rows) error {
			var u mirror.Unread
			err := rows.Scan(&u.Customer, &u.Rank)
			list = append(list, u)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list unsynced customers after %q: %w", after.Customer, err)
	}
	return list, nil
}

const (
	// setAsideEvents takes bit ?1, and the question of scope ?2, from the events that
	// wait. They are not answered, so that they count for no freshness.
	setAsideEvents = `
UPDATE stripe_events SET pending_scopes = pending_scopes & ~?1 & ~(CASE WHEN question_scope = ?2 THEN 4 ELSE 0 END), synced_at = ?3
WHERE pending_scopes <> 0 AND account = ?4 AND (pending_scopes & ?1 <> 0 OR pending_scopes & 4 <> 0 AND question_scope = ?2)`
	setAsideLetters  = `DELETE FROM dead_letters WHERE account = ?3 AND scope <> '' AND scope IN (?1, ?2)` // without a scope: events that cannot be read
	setAsideFindings = `UPDATE drift_findings SET repaired_at = ?2, synced_at = ?2 WHERE account = ?3 AND scope = ?1 AND repaired_at IS NULL`
)

// SetAside ends what waits for a ledger of an account that is not mirrored.
func (s *Store) SetAside(ctx context.Context, account string, ledger mirror.Scope) error {
	question := ""
	if ledger == mirror.ScopeCredits {
		question = string(mirror.ScopeGrantOwner)
	}
	err := s.w.do(ctx, durable, func(tx *tx) error {
		if err := tx.exec(setAsideEvents, scopeBit(ledger), question, tx.at, account); err != nil {
			return err
		}
		if err := tx.exec(setAsideLetters, string(ledger), question, account); err != nil {
			return err
		}
		return tx.exec(setAsideFindings, string(ledger), tx.at, account)
	})
	if err != nil {
		return fmt.Errorf("set %s aside: %w", ledger, explain(s.path, err))
	}
	return nil
}

const (
	listIncarnations = `SELECT queue_partition, incarnation, high_water FROM queue_incarnations WHERE account = '' ORDER BY queue_partition`

	saveIncarnation = `
INSERT INTO queue_incarnations (account, queue_partition, incarnation, high_water, synced_at) VALUES ('', ?1, ?2, ?3, ?4)
ON CONFLICT (account, queue_partition) DO UPDATE SET incarnation = excluded.incarnation,
       high_water = CASE WHEN incarnation = excluded.incarnation THEN max(high_water, excluded.high_water) ELSE excluded.high_water END,
       synced_at = excluded.synced_at`

	// history is the name of the database's history (mirror.DatabasePartition).
	history = `SELECT incarnation FROM queue_incarnations WHERE account = '' AND queue_partition = -1`
)

// Incarnations lists the marks of the queue's partitions.
func (s *Store) Incarnations(ctx context.Context) ([]mirror.Incarnation, error) {
	var list []mirror.Incarnation
	err := s.read(ctx, func(r *reading) error {
		return r.each(listIncarnations, nil, func(rows *sql.Rows) error {
			var i mirror.Incarnation
			err := rows.Scan(&i.Partition, &i.ID, &i.HighWater)
			list = append(list, i)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list incarnations: %w", err)
	}
	return list, nil
}

// SaveIncarnation stores a partition's mark.
func (s *Store) SaveIncarnation(ctx context.Context, i mirror.Incarnation) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		return tx.exec(saveIncarnation, i.Partition, i.ID, i.HighWater, tx.at)
	})
	if err != nil {
		return fmt.Errorf("save the incarnation of partition %d: %w", i.Partition, s.explain(err))
	}
	return nil
}

// DatabaseSystem returns nothing: a file does not show whether it was restored.
func (s *Store) DatabaseSystem(context.Context) (string, error) { return "", nil }

// history is the name of the database's history, empty at first.
func (r *reading) history() (name string, err error) {
	_, err = r.row(history, nil, &name)
	return name, err
}
