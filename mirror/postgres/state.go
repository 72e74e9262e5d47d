package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

// scopeBit is the bit of a ledger's scope in stripe_events.pending_scopes.
func scopeBit(s mirror.Scope) int32 {
	switch s {
	case mirror.ScopeBalance:
		return 1
	case mirror.ScopeCredits:
		return 2
	}
	return questionBit
}

// questionBit says that an event's question is still open.
const questionBit int32 = 4

const stateColumns = `epoch, history_complete, complete_to, walk_cursor, walk_top, walk_full, disproved, observed_at, full_read_at, refused_at`

const (
	// nowEpoch is an epoch that no other moment gives.
	nowEpoch = `(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

	// raiseEpoch raises the epoch to the time in microseconds, and by one at least. A
	// database that lost its newest commits (a standby that lagged was promoted, a backup
	// restored) so gives no epoch again that it gave in the time that is lost, and a worker
	// of that time does not pass the fence.
	raiseEpoch = `INSERT INTO creditmirror.sync_state (account, customer, scope, epoch) VALUES ($1, $2, $3, ` + nowEpoch + `)
ON CONFLICT (account, customer, scope) DO UPDATE SET epoch = greatest(sync_state.epoch + 1, excluded.epoch), synced_at = now()
RETURNING ` + stateColumns

	// lockState is the fence: it finds the row only in its own epoch, and holds it
	// against any newer one until the transaction ends.
	lockState = `SELECT ` + stateColumns + ` FROM creditmirror.sync_state
WHERE account = $1 AND customer = $2 AND scope = $3 AND epoch = $4 FOR UPDATE`

	// observed is when the reads of a commit began. The freshness that readers see
	// never goes back, but for a time that lies ahead: a host whose clock was ahead wrote
	// it. Of such a time of a commit itself, when its sync began is known (synced_at).
	observed = `greatest(CASE WHEN observed_at <= now() THEN observed_at END,
    CASE WHEN $5::timestamptz > now() THEN synced_at ELSE $5::timestamptz END)`

	// writeState writes nothing when a commit is repeated.
	writeState = `UPDATE creditmirror.sync_state SET applied_epoch = $4, observed_at = ` + observed + `,
  history_complete = $6, complete_to = $7, walk_cursor = $8, walk_top = $9, walk_full = $10, disproved = $11, full_read_at = $12, refused_at = NULL,
  synced_at = now()
WHERE account = $1 AND customer = $2 AND scope = $3 AND epoch = $4
  AND (applied_epoch, observed_at, history_complete, complete_to, walk_cursor, walk_top, walk_full, disproved, full_read_at, refused_at) IS DISTINCT FROM
    ($4::bigint, ` + observed + `, $6::boolean, $7::timestamptz, $8::text, $9::timestamptz, $10::boolean, $11::boolean, $12::timestamptz,
     NULL::timestamptz)`

	refuse = `UPDATE creditmirror.sync_state SET refused_at = greatest(refused_at, $5::timestamptz), synced_at = now()
WHERE account = $1 AND customer = $2 AND scope = $3 AND epoch = $4`

	newestEvent = `SELECT coalesce(max(seq), 0), max(created) FROM creditmirror.stripe_events
WHERE account = $1 AND customer = $2 AND pending_scopes <> 0 AND pending_scopes & $3::integer <> 0`

	customerHeld = `SELECT EXISTS (SELECT 1 FROM creditmirror.customers WHERE account = $1 AND id = $2)`

	heldGrants = `SELECT id, applicability_config #>> '{scope,price_type}' IS NOT DISTINCT FROM 'metered'
FROM creditmirror.credit_grants WHERE account = $1 AND customer = $2 ORDER BY id`
)

// BeginSync raises the target's epoch and returns what is held.
func (s *Store) BeginSync(ctx context.Context, t mirror.Target) (mirror.SyncState, error) {
	var st mirror.SyncState
	if err := s.once(ctx, func(b *pgx.Batch) { queueBegin(b, t, &st) }); err != nil {
		return mirror.SyncState{}, fmt.Errorf("begin the sync of %s: %w", t, err)
	}
	return st, nil
}

func queueBegin(b *pgx.Batch, t mirror.Target, st *mirror.SyncState) {
	*st = mirror.SyncState{}
	b.Queue(raiseEpoch, t.Account, t.ID, string(t.Scope)).QueryRow(func(row pgx.Row) error {
		return scanState(row, st)
	})
	b.Queue(newestEvent, t.Account, t.ID, scopeBit(t.Scope)).QueryRow(func(row pgx.Row) error {
		return row.Scan(&st.EventSeq, (*optTime)(&st.EventAt))
	})
	b.Queue(customerHeld, t.Account, t.ID).QueryRow(func(row pgx.Row) error { return row.Scan(&st.CustomerHeld) })
	if t.Scope == mirror.ScopeCredits {
		b.Queue(heldGrants, t.Account, t.ID).Query(func(rows pgx.Rows) (err error) {
			st.Grants, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (g mirror.HeldGrant, err error) {
				err = row.Scan(&g.ID, &g.Metered)
				return g, err
			})
			return err
		})
	}
}

func scanState(row pgx.Row, st *mirror.SyncState) error {
	return row.Scan(&st.Epoch, &st.HistoryComplete, (*optTime)(&st.CompleteTo), &st.Walk.Cursor,
		(*optTime)(&st.Walk.Top), &st.Walk.Full, &st.Disproved, (*optTime)(&st.ObservedAt), (*optTime)(&st.FullReadAt),
		(*optTime)(&st.RefusedAt))
}

// queueFence queues the check that no newer sync of the target has begun; it
// refuses with ErrFenced. A rehearsal begins its sync here.
func queueFence(b *pgx.Batch, t mirror.Target, epoch int64, st *mirror.SyncState) {
	if epoch == mirror.RehearsalEpoch {
		queueRehearsal(b, t, st)
		return
	}
	b.Queue(lockState, t.Account, t.ID, string(t.Scope), epoch).QueryRow(func(row pgx.Row) error {
		err := scanState(row, st)
		if errors.Is(err, pgx.ErrNoRows) {
			return mirror.ErrFenced
		}
		return err
	})
}

// absent turns "no rows" into no error.
func absent(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// Refuse records why a sync is given up.
func (s *Store) Refuse(ctx context.Context, r mirror.Refusal) ([]mirror.Finding, error) {
	t := r.Target
	var state mirror.SyncState
	var opened []mirror.Finding
	err := s.transact(ctx, func(b *pgx.Batch) {
		opened = nil
		queueFence(b, t, r.Epoch, &state)
	}, func(b *pgx.Batch) error {
		b.Queue(refuse, t.Account, t.ID, string(t.Scope), r.Epoch, optTime(r.ObservedAt))
		queueFindings(b, t.Account, r.Findings, func(f mirror.Finding) { opened = append(opened, f) })
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("refuse the sync of %s, epoch %d: %w", t, r.Epoch, err)
	}
	return opened, nil
}
