package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

const markDeleted = `UPDATE creditmirror.customers SET deleted = true, deleted_at = $3, synced_at = now()
WHERE account = $1 AND id = $2 AND NOT deleted`

// lockCustomer reads whether a customer is held and deleted, and holds its row:
// the tombstones of both ledgers may commit at the same moment.
const lockCustomer = `SELECT deleted, livemode FROM creditmirror.customers WHERE account = $1 AND id = $2 FOR UPDATE`

// ApplyTombstone commits that Stripe has deleted the customer.
func (s *Store) ApplyTombstone(ctx context.Context, stone mirror.Tombstone) (mirror.Applied, error) {
	t := stone.Target
	var applied mirror.Applied
	var state mirror.SyncState
	var livemode bool
	err := s.transact(ctx, func(b *pgx.Batch) {
		applied, state, livemode = mirror.Applied{}, mirror.SyncState{}, false
		queueFence(b, t, stone.Epoch, &state)
		b.Queue(lockCustomer, t.Account, t.ID).QueryRow(func(row pgx.Row) error {
			err := row.Scan(&state.Deleted, &livemode)
			state.CustomerHeld = err == nil
			return absent(err)
		})
	}, func(b *pgx.Batch) error {
		c := commitment{
			target: t, eventSeq: stone.EventSeq, observedAt: stone.ObservedAt, events: stone.Events,
			state: state, close: mirror.TombstoneCloses(stone.ObservedAt), livemode: livemode,
		}
		c.state.HistoryComplete = true // there is nothing left that could be read
		c.state.Walk, c.state.FullReadAt = mirror.Walk{}, time.Time{}
		if state.CustomerHeld && !state.Deleted {
			b.Queue(markDeleted, t.Account, t.ID, optTime(stone.ObservedAt))
			c.changes = []change{{"customers", t.ID, opUpdate}}
			applied.Updated = 1
		}
		c.queue(b, &applied)
		return nil
	})
	if err != nil {
		return mirror.Applied{}, fmt.Errorf("apply the tombstone of %s, epoch %d: %w", t, stone.Epoch, err)
	}
	applied.Answered = distinct(applied.Answered)
	return applied, nil
}
