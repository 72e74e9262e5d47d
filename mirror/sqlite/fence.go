package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

// raiseEpoch raises the epoch to the time in microseconds (?5), and by one at least. A
// database that lost its newest commits (a standby that lagged was promoted, a backup
// restored) so gives no epoch again that it gave in the time that is lost, and a worker
// of that time does not pass the fence.
const raiseEpoch = `
INSERT INTO sync_state (account, customer, scope, epoch, synced_at) VALUES (?1, ?2, ?3, ?5, ?4)
ON CONFLICT (account, customer, scope) DO UPDATE SET epoch = max(epoch + 1, excluded.epoch), synced_at = excluded.synced_at
RETURNING epoch, history_complete, complete_to, walk_cursor, walk_top, walk_full, disproved, observed_at, full_read_at, refused_at`

// heldWhenBegun reads the newest event that waits for the target and whether its
// customer is held.
const heldWhenBegun = `
SELECT ifnull((SELECT max(seq) ` + waitingOf + `), 0), (SELECT max(created) ` + waitingOf + `),
       EXISTS (SELECT 1 FROM customers WHERE account = ?1 AND id = ?2)`

const waitingOf = `FROM stripe_events
               WHERE account = ?1 AND customer = ?2 AND pending_scopes <> 0 AND pending_scopes & ?3 <> 0`

// heldGrants names its index: for the order by id, the planner would rather walk
// through all grants of the account. What is no JSON, which only SQL can have put
// there, says nothing.
const heldGrants = `
SELECT id, CASE WHEN json_valid(applicability_config)
                THEN ifnull(json_extract(applicability_config, '$.scope.price_type') = 'metered', 0) ELSE 0 END
FROM credit_grants INDEXED BY credit_grants_customer_list WHERE account = ?1 AND customer = ?2 ORDER BY id`

// BeginSync raises the target's epoch and returns what is held.
func (s *Store) BeginSync(ctx context.Context, t mirror.Target) (mirror.SyncState, error) {
	var st mirror.SyncState
	err := s.w.do(ctx, volatile, func(tx *tx) (err error) {
		st, err = tx.beginSync(t)
		return err
	})
	if err != nil {
		return mirror.SyncState{}, fmt.Errorf("begin the sync of %s: %w", t, s.explain(err))
	}
	return st, nil
}

func (t *tx) beginSync(target mirror.Target) (st mirror.SyncState, err error) {
	_, err = t.row(raiseEpoch, []any{target.Account, target.ID, string(target.Scope), t.at, t.moment.UnixMicro()},
		&st.Epoch, &st.HistoryComplete, timeColumn{&st.CompleteTo}, &st.Walk.Cursor,
		timeColumn{&st.Walk.Top}, &st.Walk.Full, &st.Disproved, timeColumn{&st.ObservedAt}, timeColumn{&st.FullReadAt},
		timeColumn{&st.RefusedAt})
	if err != nil {
		return st, err
	}
	_, err = t.row(heldWhenBegun, []any{target.Account, target.ID, scopeBit(target.Scope)},
		&st.EventSeq, timeColumn{&st.EventAt}, &st.CustomerHeld)
	if err != nil || target.Scope != mirror.ScopeCredits {
		return st, err
	}
	return st, t.each(heldGrants, []any{target.Account, target.ID}, func(rows *sql.Rows) error {
		var g mirror.HeldGrant
		if err := rows.Scan(&g.ID, &g.Metered); err != nil {
			return err
		}
		st.Grants = append(st.Grants, g)
		return nil
	})
}

// commit is what all three kinds of commit share: the fence, the event marks,
// the sync state, the dead letter.
type commit struct {
	*tx
	target   mirror.Target
	epoch    int64
	eventSeq int64
	observed string
	events   []mirror.EventRef
	// named are the waiting events that name an object and that this commit answers;
	// nil: all.
	named    []string
	livemode bool
	// was is the sync state as found; applied and observedWas are its other columns.
	was         mirror.SyncState
	applied     int64
	observedWas string
	begun       string // when the sync began, by the database's clock
	changes     [][]any
	out         mirror.Applied
}

const readState = `
SELECT applied_epoch, ifnull(observed_at, ''), synced_at, observed_at, history_complete, complete_to, walk_cursor, walk_top, walk_full, disproved, full_read_at,
       refused_at
FROM sync_state WHERE account = ?1 AND customer = ?2 AND scope = ?3 AND epoch = ?4`

// enter checks the fence. The transaction has the write lock from its beginning,
// so that what is read here holds until the commit.
func (c *commit) enter() error {
	t := c.target
	found, err := c.row(readState, []any{t.Account, t.ID, string(t.Scope), c.epoch},
		&c.applied, &c.observedWas, &c.begun, timeColumn{&c.was.ObservedAt}, &c.was.HistoryComplete, timeColumn{&c.was.CompleteTo},
		&c.was.Walk.Cursor, timeColumn{&c.was.Walk.Top}, &c.was.Walk.Full, &c.was.Disproved, timeColumn{&c.was.FullReadAt},
		timeColumn{&c.was.RefusedAt})
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("epoch %d: %w", c.epoch, mirror.ErrFenced)
	}
	c.was.Epoch, c.was.EventSeq = c.epoch, c.eventSeq
	return nil
}

const writeState = `
UPDATE sync_state SET applied_epoch = ?4, observed_at = ?5, history_complete = ?6, complete_to = ?7,
       walk_cursor = ?8, walk_top = ?9, walk_full = ?10, disproved = ?11, synced_at = ?12, full_read_at = ?13,
       refused_at = NULL
WHERE account = ?1 AND customer = ?2 AND scope = ?3`

// dropTargetLetter keeps a letter of which an event still waits for its target.
const dropTargetLetter = `
DELETE FROM dead_letters WHERE account = ?1 AND id = ?2
  AND NOT EXISTS (SELECT 1 FROM json_each(dead_letters.event_ids) n JOIN stripe_events e ON e.account = ?1 AND e.id = n.value
                  WHERE e.pending_scopes & ?3 <> 0)`

// leave writes what every commit writes besides rows.
func (c *commit) leave(st mirror.SyncState, open, repaired []mirror.Finding, shut mirror.Closing) error {
	if err := c.recordRepaired(repaired); err != nil { // before the rest is closed
		return err
	}
	if err := c.closeFindings(shut); err != nil {
		return err
	}
	var err error
	if c.out.Findings, err = c.openFindings(open); err != nil {
		return err
	}
	if err := c.writeChanges(); err != nil {
		return err
	}
	if st.Joins() {
		if err := c.answerEvents(); err != nil {
			return err
		}
	}
	if err := c.closeMissed(); err != nil {
		return err
	}
	if err := c.writeState(st); err != nil || !st.Joins() {
		return err
	}
	return c.exec(dropTargetLetter, c.target.Account, mirror.DeadLetterID(c.target), scopeBit(c.target.Scope))
}

// writeState writes the sync state, and nothing when the commit is repeated.
func (c *commit) writeState(st mirror.SyncState) error {
	// The freshness that readers see never goes back, but for a time that lies
	// ahead: a clock that was ahead wrote it.
	observed := c.observedWas
	if observed > c.at {
		observed = ""
	}
	if st.Joins() {
		if c.observed > c.at {
			c.observed = c.begun
		}
		observed = max(c.observed, observed)
	}
	same := c.applied == c.epoch && observed == c.observedWas && st.HistoryComplete == c.was.HistoryComplete &&
		st.CompleteTo.Equal(c.was.CompleteTo) && st.Walk.Cursor == c.was.Walk.Cursor &&
		st.Walk.Top.Equal(c.was.Walk.Top) && st.Walk.Full == c.was.Walk.Full && st.Disproved == c.was.Disproved && st.FullReadAt.Equal(c.was.FullReadAt) &&
		c.was.RefusedAt.IsZero()
	if same {
		return nil
	}
	t := c.target
	return c.exec(writeState, t.Account, t.ID, string(t.Scope), c.epoch, null(observed),
		flag(st.HistoryComplete), nullTime(st.CompleteTo), st.Walk.Cursor, nullTime(st.Walk.Top),
		flag(st.Walk.Full), flag(st.Disproved), c.at, nullTime(st.FullReadAt))
}

// changed notes a row for the change feed.
func (c *commit) changed(table, customer, id, op string) {
	c.changes = append(c.changes, []any{table, customer, id, op})
	c.count(table, op)
}

// count keeps Applied: rows of the two ledgers and of customers.
func (c *commit) count(table, op string) {
	switch table {
	case "customers", "customer_balance_transactions", "credit_balance_transactions":
	default:
		return
	}
	if op == "insert" {
		c.out.Inserted++
	} else {
		c.out.Updated++
	}
}

const insertChanges = `
INSERT INTO changes (account, table_name, customer, id, op, changed_at, synced_at)
SELECT ?2, value->>0, value->>1, value->>2, value->>3, ?3, ?3 FROM json_each(?1) ORDER BY key`

func (c *commit) writeChanges() error {
	return c.feed(c.target.Account, c.changes)
}

// feed writes change records.
func (t *tx) feed(account string, changes [][]any) error {
	_, err := t.inBatches(insertChanges, changes, account, t.at)
	return err
}

const refuse = `
UPDATE sync_state SET refused_at = max(ifnull(refused_at, ''), ?5), synced_at = ?6
WHERE account = ?1 AND customer = ?2 AND scope = ?3 AND epoch = ?4`

// Refuse records why a sync is given up.
func (s *Store) Refuse(ctx context.Context, r mirror.Refusal) ([]mirror.Finding, error) {
	var opened []mirror.Finding
	t := r.Target
	err := s.w.do(ctx, durable, func(tx *tx) error {
		n, err := tx.affect(refuse, t.Account, t.ID, string(t.Scope), r.Epoch, stamp(r.ObservedAt), tx.at)
		if err == nil && n == 0 {
			err = fmt.Errorf("epoch %d: %w", r.Epoch, mirror.ErrFenced)
		}
		if err != nil {
			return err
		}
		opened, err = tx.openFindings(r.Findings)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("refuse the sync of %s, epoch %d: %w", t, r.Epoch, s.explain(err))
	}
	return opened, nil
}

const (
	// buryCustomer leaves the JSON as it was last seen; the customer holds nothing any
	// more. An event that comes after the burial knows better when it was.
	buryCustomer = `
UPDATE customers SET deleted = 1, deleted_at = ?3, balance = 0, invoice_credit_balance = NULL, synced_at = ?4
WHERE account = ?1 AND id = ?2 AND (NOT deleted OR deleted_at > ?3)`
	buryBalances = `
UPDATE customer_balances SET balance = 0, synced_at = ?3 WHERE account = ?1 AND customer = ?2 AND balance <> 0 RETURNING currency`
	burySummaries = `
UPDATE credit_balance_summaries SET ledger_balance = 0, available_balance = 0, synced_at = ?3
WHERE account = ?1 AND customer = ?2 AND (ledger_balance <> 0 OR available_balance <> 0) RETURNING currency`

	customerDeleted = `SELECT deleted FROM customers WHERE account = ?1 AND id = ?2`
	customerMode    = `SELECT livemode FROM customers WHERE account = ?1 AND id = ?2`
	holdsGrants     = `SELECT 1 FROM credit_grants WHERE account = ?1 AND customer = ?2 LIMIT 1`
	// fenceOther ends a sync of the customer's other ledger that is under way: it may
	// have read the customer before the deletion. Nothing of that ledger is under way
	// then, so that its new epoch counts as applied.
	fenceOther = `
UPDATE sync_state SET epoch = max(epoch + 1, ?5), applied_epoch = max(epoch + 1, ?5), synced_at = ?4
WHERE account = ?1 AND customer = ?2 AND scope IN ('balance', 'credits') AND scope <> ?3`
	// announcedAt is when the deletion was, as an event says that no sync has answered.
	announcedAt = `
SELECT max(created) FROM stripe_events
WHERE account = ?1 AND customer = ?2 AND pending_scopes <> 0 AND type = '` + mirror.EventCustomerDeleted + `'`
)

// ApplyTombstone marks a customer deleted and keeps its history.
func (s *Store) ApplyTombstone(ctx context.Context, d mirror.Tombstone) (mirror.Applied, error) {
	c := &commit{
		target: d.Target, epoch: d.Epoch, eventSeq: d.EventSeq, observed: stamp(d.ObservedAt), events: d.Events,
	}
	err := s.commit(ctx, c, func() error {
		key := []any{d.Target.Account, d.Target.ID}
		held, err := c.row(customerMode, key, &c.livemode)
		if err != nil {
			return err
		}
		if d.Target.Scope == mirror.ScopeCredits {
			var one int
			if held, err = c.row(holdsGrants, key, &one); err != nil {
				return err
			}
		}
		var announced time.Time
		if _, err := c.row(announcedAt, key, timeColumn{&announced}); err != nil {
			return err
		}
		var deleted bool
		known, err := c.row(customerDeleted, key, &deleted)
		if err != nil {
			return err
		}
		if err := c.bury(stamp(d.DeletedAt(announced))); err != nil {
			return err
		}
		if c.applied != c.epoch { // a repeated tombstone has done it
			if err := c.exec(fenceOther, d.Target.Account, d.Target.ID, string(d.Target.Scope), c.at, c.moment.UnixMicro()); err != nil {
				return err
			}
		}
		return c.leave(d.Leaves(c.was, held), nil, d.Buried(c.was, known, deleted), mirror.TombstoneCloses(d.ObservedAt))
	})
	if err != nil {
		return mirror.Applied{}, fmt.Errorf("apply the tombstone of %s, epoch %d: %w", d.Target, d.Epoch, err)
	}
	return c.out, nil
}

// bury takes from the customer what it holds, in every table.
func (c *commit) bury(at string) error {
	account, customer := c.target.Account, c.target.ID
	n, err := c.affect(buryCustomer, account, customer, at, c.at)
	if err != nil {
		return err
	}
	if n > 0 {
		c.changed("customers", customer, customer, "update")
	}
	for _, t := range []struct{ table, query string }{
		{"customer_balances", buryBalances}, {"credit_balance_summaries", burySummaries},
	} {
		err := c.each(t.query, []any{account, customer, c.at}, func(rows *sql.Rows) error {
			var currency string
			err := rows.Scan(&currency)
			c.changed(t.table, customer, currency, "update")
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// commit runs one of the three applies in a transaction, behind the fence.
func (s *Store) commit(ctx context.Context, c *commit, apply func() error) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		c.tx = tx
		if c.epoch == mirror.RehearsalEpoch {
			return c.rehearse(apply)
		}
		if err := c.enter(); err != nil {
			return err
		}
		failpoint.Hit("store.fence")
		err := apply()
		failpoint.Hit("store.written")
		return err
	})
	failpoint.Hit("store.committed")
	if errors.Is(err, errUndone) {
		return nil
	}
	return s.explain(err)
}
