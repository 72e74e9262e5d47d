package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// markDeleted leaves the JSON as it was last seen; the customer holds nothing any
	// more. An event that comes after the burial knows better when it was.
	markDeleted = `UPDATE creditmirror.customers SET deleted = true, deleted_at = $3, balance = 0, invoice_credit_balance = NULL, synced_at = now()
WHERE account = $1 AND id = $2 AND (NOT deleted OR deleted_at > $3)`

	buryBalances = `WITH buried AS (
  UPDATE creditmirror.customer_balances SET balance = 0, synced_at = now() WHERE account = $1 AND customer = $2 AND balance <> 0 RETURNING currency
) INSERT INTO creditmirror.changes (account, customer, table_name, id, op)
SELECT $1, $2, 'customer_balances', currency, 'update' FROM buried ORDER BY currency`
	burySummaries = `WITH buried AS (
  UPDATE creditmirror.credit_balance_summaries SET ledger_balance = 0, available_balance = 0, synced_at = now()
  WHERE account = $1 AND customer = $2 AND (ledger_balance <> 0 OR available_balance <> 0) RETURNING currency
) INSERT INTO creditmirror.changes (account, customer, table_name, id, op)
SELECT $1, $2, 'credit_balance_summaries', currency, 'update' FROM buried ORDER BY currency`

	// lockCustomer reads whether a customer is held and deleted, and holds its row:
	// the tombstones of both ledgers may commit at the same moment.
	lockCustomer = `SELECT deleted, deleted_at, livemode FROM creditmirror.customers WHERE account = $1 AND id = $2 FOR UPDATE`

	// lockLedgers holds the sync states of both ledgers, in the order of their keys,
	// before a tombstone of either writes to both.
	lockLedgers = `SELECT scope FROM creditmirror.sync_state
WHERE account = $1 AND customer = $2 AND scope IN ('balance', 'credits') ORDER BY scope COLLATE "C" FOR UPDATE`

	// fenceOther ends a sync of the customer's other ledger that is under way: it may
	// have read the customer before the deletion. Nothing of that ledger is under way
	// then, so that its new epoch counts as applied. A repeated tombstone has done it.
	fenceOther = `UPDATE creditmirror.sync_state AS s SET epoch = greatest(s.epoch + 1, new.epoch), applied_epoch = greatest(s.epoch + 1, new.epoch), synced_at = now()
FROM creditmirror.sync_state AS own, (SELECT ` + nowEpoch + ` AS epoch OFFSET 0) AS new
WHERE s.account = $1 AND s.customer = $2 AND s.scope IN ('balance', 'credits') AND s.scope <> $3
  AND own.account = $1 AND own.customer = $2 AND own.scope = $3 AND own.applied_epoch <> $4`

	holdsGrants = `SELECT EXISTS (SELECT 1 FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2)`
	// announcedAt is when the deletion was, as an event says that no sync has answered.
	announcedAt = `SELECT max(created) FROM creditmirror.stripe_events
WHERE account = $1 AND customer = $2 AND pending_scopes <> 0 AND type = '` + mirror.EventCustomerDeleted + `'`
)

// ApplyTombstone commits that Stripe has deleted the customer.
func (s *Store) ApplyTombstone(ctx context.Context, stone mirror.Tombstone) (mirror.Applied, error) {
	t := stone.Target
	var applied mirror.Applied
	var state mirror.SyncState
	var livemode, known, deleted, grants bool
	var deletedAt, announced time.Time
	err := s.fenced(ctx, stone.Epoch, func(b *pgx.Batch) {
		applied, state, livemode, deleted = mirror.Applied{}, mirror.SyncState{}, false, false
		b.Queue(lockLedgers, t.Account, t.ID)
		queueFence(b, t, stone.Epoch, &state)
		b.Queue(lockCustomer, t.Account, t.ID).QueryRow(func(row pgx.Row) error {
			err := row.Scan(&deleted, (*optTime)(&deletedAt), &livemode)
			known = err == nil
			return absent(err)
		})
		b.Queue(holdsGrants, t.Account, t.ID).QueryRow(func(row pgx.Row) error { return row.Scan(&grants) })
		b.Queue(announcedAt, t.Account, t.ID).QueryRow(func(row pgx.Row) error { return row.Scan((*optTime)(&announced)) })
	}, func(b *pgx.Batch) error {
		held := known
		if t.Scope == mirror.ScopeCredits {
			held = grants
		}
		c := commitment{
			target: t, eventSeq: stone.EventSeq, observedAt: stone.ObservedAt, events: stone.Events,
			state: stone.Leaves(state, held), repaired: stone.Buried(state, known, deleted), close: mirror.TombstoneCloses(stone.ObservedAt), livemode: livemode,
		}
		at := stone.DeletedAt(announced)
		if known && (!deleted || deletedAt.After(at)) {
			b.Queue(markDeleted, t.Account, t.ID, at)
			c.changes = []change{{"customers", t.ID, opUpdate}}
			applied.Updated = 1
		}
		b.Queue(buryBalances, t.Account, t.ID)
		b.Queue(burySummaries, t.Account, t.ID)
		b.Queue(fenceOther, t.Account, t.ID, string(t.Scope), state.Epoch) // before the own state says that it is applied
		c.queue(b, &applied)
		return nil
	})
	if err != nil {
		return mirror.Applied{}, fmt.Errorf("apply the tombstone of %s, epoch %d: %w", t, stone.Epoch, err)
	}
	applied.Answered = distinct(applied.Answered)
	return applied, nil
}
