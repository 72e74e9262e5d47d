package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// recordEvents draws seq in the order given, so that a batch is read back in
	// it, and inserts in the order of the keys, so that batches with events in
	// common cannot deadlock.
	recordEvents = `WITH given AS MATERIALIZED (
  SELECT o.*, nextval('creditmirror.stripe_events_seq') AS seq FROM (
    SELECT u.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::integer[],
        $9::boolean[], $10::text[], $11::timestamptz[], $12::timestamptz[]) WITH ORDINALITY
      AS u (account, id, type, customer, object, question_scope, question_id, pending_scopes, livemode, api_version, created, object_updated, n)
    ORDER BY n
  ) AS o
)
INSERT INTO creditmirror.stripe_events
  (account, id, seq, type, customer, object, question_scope, question_id, pending_scopes, livemode, api_version, created,
   object_updated, applied_at)
SELECT account, id, seq, type, customer, object, question_scope, question_id, pending_scopes, livemode, api_version, created,
  object_updated, CASE WHEN pending_scopes = 0 THEN now() END
FROM given ORDER BY account COLLATE "C", id COLLATE "C", seq
ON CONFLICT (account, id) DO NOTHING RETURNING account, id`

	eventStates = `SELECT account, id, pending_scopes FROM creditmirror.stripe_events
WHERE (account, id) IN (SELECT * FROM unnest($1::text[], $2::text[]))`

	pendingEvents = `SELECT seq, account, id, type, customer, object, question_scope, question_id, pending_scopes, livemode,
  api_version, created, object_updated
FROM creditmirror.stripe_events WHERE pending_scopes <> 0 AND seq > $1 ORDER BY seq LIMIT $2`

	// resolveEvents answers a question: $4 is the one customer of the answer (NULL:
	// none or several), $5 the bits of what the events wait for from then on. $6 is
	// before when they were received, NULL: whenever.
	resolveEvents = `WITH waiting AS (
  SELECT account, id FROM creditmirror.stripe_events
  WHERE account = $1 AND question_scope = $2 AND question_id = $3 AND pending_scopes <> 0 AND pending_scopes & 4 <> 0
    AND ($6::timestamptz IS NULL OR received_at < $6)
  ORDER BY account, id FOR UPDATE
)
UPDATE creditmirror.stripe_events AS e SET
  customer = coalesce($4, e.customer),
  pending_scopes = (e.pending_scopes & ~4) | $5::integer,
  applied_at = CASE WHEN (e.pending_scopes & ~4) | $5::integer = 0 THEN now() END,
  synced_at = now()
FROM waiting WHERE e.account = waiting.account AND e.id = waiting.id`

	askedAt = `SELECT max(received_at) FROM creditmirror.stripe_events
WHERE account = $1 AND question_scope = $2 AND question_id = $3 AND pending_scopes <> 0 AND pending_scopes & 4 <> 0`

	observedAt = `SELECT s.observed_at FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS u (account, customer, scope, n)
LEFT JOIN creditmirror.sync_state AS s ON s.account = u.account AND s.customer = u.customer AND s.scope = u.scope
ORDER BY u.n`

	pruneEvents = `DELETE FROM creditmirror.stripe_events WHERE (account, id) IN (
  SELECT account, id FROM creditmirror.stripe_events WHERE pending_scopes = 0 AND created < $1
  ORDER BY created LIMIT $2 FOR UPDATE SKIP LOCKED
) AND pending_scopes = 0`
)

// pruneSlice is how many events one statement of PruneEvents deletes: few
// enough that it neither runs into a time limit nor holds locks for long.
const pruneSlice = 5000

type eventKey struct{ account, id string }

// inboxRow is an event as its row has it.
type inboxRow struct {
	mirror.Event
	pending  int32
	question mirror.Target
}

func newInboxRow(e mirror.Event) inboxRow {
	r := inboxRow{Event: e}
	for _, t := range e.Targets() {
		bit := scopeBit(t.Scope)
		r.pending |= bit
		if bit == questionBit {
			r.question = t
		}
	}
	return r
}

// targets returns what the event still waits for.
func (r inboxRow) targets() []mirror.Target {
	var list []mirror.Target
	for _, scope := range []mirror.Scope{mirror.ScopeBalance, mirror.ScopeCredits} {
		if r.pending&scopeBit(scope) != 0 {
			list = append(list, mirror.Target{Account: r.Account, Scope: scope, ID: r.Customer})
		}
	}
	if r.pending&questionBit != 0 {
		list = append(list, r.question)
	}
	return list
}

// RecordEvents stores events that are new. Only where some were known already
// does it ask, in a second round trip, what became of them: after the insert, so
// that an event which another receiver stored at the same moment is seen.
func (s *Store) RecordEvents(ctx context.Context, events []mirror.Event) ([]mirror.Receipt, error) {
	if len(events) == 0 {
		return nil, nil
	}
	given := make([]inboxRow, len(events))
	for i, e := range events {
		given[i] = newInboxRow(e)
	}
	var fresh map[eventKey]bool
	var pending map[eventKey]int32
	accounts := column(given, func(r *inboxRow) string { return r.Account })
	ids := column(given, func(r *inboxRow) string { return r.ID })
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(recordEvents, accounts, ids,
			column(given, func(r *inboxRow) string { return clean(r.Type) }),
			column(given, func(r *inboxRow) optText { return optText(r.Customer) }),
			column(given, func(r *inboxRow) optText { return optText(r.Object) }),
			column(given, func(r *inboxRow) optText { return optText(r.question.Scope) }),
			column(given, func(r *inboxRow) optText { return optText(r.question.ID) }),
			column(given, func(r *inboxRow) int32 { return r.pending }),
			column(given, func(r *inboxRow) bool { return r.Livemode }),
			column(given, func(r *inboxRow) optText { return optText(r.APIVersion) }),
			column(given, func(r *inboxRow) time.Time { return r.Created }),
			column(given, func(r *inboxRow) optTime { return optTime(r.Updated) }),
		).Query(func(rows pgx.Rows) error {
			fresh = make(map[eventKey]bool, len(events))
			var k eventKey
			_, err := pgx.ForEachRow(rows, []any{&k.account, &k.id}, func() error {
				fresh[k] = true
				return nil
			})
			return err
		})
	})
	if err == nil && len(fresh) < len(events) {
		err = s.once(ctx, func(b *pgx.Batch) { queueEventStates(b, accounts, ids, &pending) })
	}
	if err != nil {
		return nil, fmt.Errorf("record %d events: %w", len(events), err)
	}
	receipts := make([]mirror.Receipt, len(events))
	for i, e := range events {
		k := eventKey{e.Account, e.ID}
		if fresh[k] {
			fresh[k] = false // a second one in the same call is not new any more
			continue
		}
		receipts[i] = receipt(pending, k)
	}
	return receipts, nil
}

// EventReceipts returns what is known of each event without recording it.
func (s *Store) EventReceipts(ctx context.Context, account string, ids []string) ([]mirror.Receipt, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	accounts := make([]string, len(ids))
	for i := range accounts {
		accounts[i] = account
	}
	var pending map[eventKey]int32
	err := s.once(ctx, func(b *pgx.Batch) { queueEventStates(b, accounts, ids, &pending) })
	if err != nil {
		return nil, fmt.Errorf("read the receipts of %d events: %w", len(ids), err)
	}
	receipts := make([]mirror.Receipt, len(ids))
	for i, id := range ids {
		receipts[i] = receipt(pending, eventKey{account, id})
	}
	return receipts, nil
}

func queueEventStates(b *pgx.Batch, accounts, ids []string, pending *map[eventKey]int32) {
	b.Queue(eventStates, accounts, ids).Query(func(rows pgx.Rows) error {
		*pending = make(map[eventKey]int32, len(ids))
		var k eventKey
		var bits int32
		_, err := pgx.ForEachRow(rows, []any{&k.account, &k.id, &bits}, func() error {
			(*pending)[k] = bits
			return nil
		})
		return err
	})
}

func receipt(pending map[eventKey]int32, k eventKey) mirror.Receipt {
	bits, known := pending[k]
	switch {
	case !known:
		return mirror.ReceiptNew
	case bits != 0:
		return mirror.ReceiptPending
	}
	return mirror.ReceiptApplied
}

// PendingEvents lists events that wait for a sync, oldest first. An event's
// targets are never parted, or a caller that goes on after its Seq would miss
// the rest: a page may end early, and a single event may exceed the limit.
func (s *Store) PendingEvents(ctx context.Context, after int64, limit int) ([]mirror.PendingEvent, error) {
	var list []mirror.PendingEvent
	type waiting struct {
		seq int64
		inboxRow
	}
	rows, err := query(ctx, s, func(row pgx.CollectableRow) (w waiting, err error) {
		err = row.Scan(&w.seq, &w.Account, &w.ID, &w.Type, (*optText)(&w.Customer), (*optText)(&w.Object),
			(*optText)(&w.question.Scope), (*optText)(&w.question.ID), &w.pending, &w.Livemode, (*optText)(&w.APIVersion), &w.Created, (*optTime)(&w.Updated))
		return w, err
	}, pendingEvents, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list pending events after %d: %w", after, err)
	}
	for _, w := range rows {
		w.question.Account = w.Account
		switch w.question.Scope {
		case mirror.ScopeGrantOwner:
			w.Grant, w.Asks = w.question.ID, w.question.Scope
		case mirror.ScopeClockCustomers:
			w.Clock = w.question.ID
		case mirror.ScopeCreditOwner, mirror.ScopeInvoiceOwner, mirror.ScopeNoteOwner:
			w.Asks = w.question.Scope
		}
		targets := w.targets()
		if len(list) > 0 && len(list)+len(targets) > limit {
			break
		}
		for _, t := range targets {
			list = append(list, mirror.PendingEvent{Seq: w.seq, Event: w.Event, Target: t})
		}
	}
	return list, nil
}

// ResolveEvents answers a question. An event can carry one customer: where the
// answer is several, it goes on waiting for the question until all are synced.
func (s *Store) ResolveEvents(ctx context.Context, question mirror.Target, targets []mirror.Target) error {
	var customer optText
	var bits int32
	var before any
	var left error
	if mirror.OneCustomer(targets) {
		for _, t := range targets {
			customer = optText(t.ID)
			bits |= scopeBit(t.Scope)
		}
	} else if before, left = s.synced(ctx, question, targets); left != nil && !errors.Is(left, mirror.ErrUnsynced) && !errors.Is(left, mirror.ErrNotFound) {
		return fmt.Errorf("resolve the events of %s: %w", question, left)
	}
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(resolveEvents, question.Account, string(question.Scope), question.ID, customer, bits, before)
		if !errors.Is(left, mirror.ErrUnsynced) {
			b.Queue(dropTargetLetter, question.Account, question.ID, string(question.Scope), questionBit)
		}
	})
	if err = cmp.Or(err, left); err != nil {
		return fmt.Errorf("resolve the events of %s: %w", question, err)
	}
	return nil
}

// synced is mirror.SyncedSince for the events that wait for the question. An event
// that is recorded meanwhile was received after what is read here.
func (s *Store) synced(ctx context.Context, question mirror.Target, targets []mirror.Target) (before time.Time, err error) {
	newest, err := query(ctx, s, func(row pgx.CollectableRow) (t time.Time, err error) {
		err = row.Scan((*optTime)(&t))
		return t, err
	}, askedAt, question.Account, string(question.Scope), question.ID)
	if err != nil {
		return time.Time{}, err
	}
	if newest[0].IsZero() {
		return time.Time{}, mirror.ErrNotFound
	}
	observed, err := s.ObservedAt(ctx, targets)
	if err != nil {
		return time.Time{}, err
	}
	return mirror.SyncedSince(targets, observed, newest[0])
}

// ObservedAt returns for each target when the reads of its last commit began.
func (s *Store) ObservedAt(ctx context.Context, targets []mirror.Target) ([]time.Time, error) {
	if len(targets) == 0 {
		return nil, nil
	}
	times, err := query(ctx, s, func(row pgx.CollectableRow) (t time.Time, err error) {
		err = row.Scan((*optTime)(&t))
		return t, err
	}, observedAt,
		column(targets, func(t *mirror.Target) string { return t.Account }),
		column(targets, func(t *mirror.Target) string { return t.ID }),
		column(targets, func(t *mirror.Target) string { return string(t.Scope) }))
	if err != nil {
		return nil, fmt.Errorf("read the freshness of %d targets: %w", len(targets), err)
	}
	return times, nil
}

const syncUnderWay = `SELECT epoch FROM creditmirror.sync_state
WHERE account = $1 AND customer = $2 AND scope = $3 AND epoch <> applied_epoch AND synced_at > clock_timestamp() - $4::interval`

// SyncUnderWay reports whether a sync of the target began a moment ago.
func (s *Store) SyncUnderWay(ctx context.Context, t mirror.Target, within time.Duration) (bool, error) {
	epochs, err := query(ctx, s, pgx.RowTo[int64], syncUnderWay, t.Account, t.ID, string(t.Scope), within)
	if err != nil {
		return false, fmt.Errorf("look for a sync of %s: %w", t, err)
	}
	return len(epochs) > 0, nil
}

// DatabaseTime is the server's clock.
func (s *Store) DatabaseTime(ctx context.Context) (time.Time, error) {
	times, err := query(ctx, s, pgx.RowTo[time.Time], `SELECT clock_timestamp()`)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the database's clock: %w", err)
	}
	return times[0].UTC(), nil
}

// PruneEvents deletes answered events, slice by slice.
func (s *Store) PruneEvents(ctx context.Context, before time.Time) (int64, error) {
	var total int64
	for {
		var n int64
		err := retry(ctx, func() error {
			tag, err := s.pool.Exec(ctx, pruneEvents, before, pruneSlice)
			n = tag.RowsAffected()
			return err
		})
		total += n
		if err != nil {
			return total, fmt.Errorf("prune events before %s: %w", before.UTC().Format(time.RFC3339), err)
		}
		if n == 0 {
			break
		}
	}
	// Changes of totals are the copies' and go with them, but they come without a copy too.
	if err := s.pruneTotals(ctx); err != nil {
		return total, fmt.Errorf("prune the changes of totals: %w", err)
	}
	return total, nil
}
