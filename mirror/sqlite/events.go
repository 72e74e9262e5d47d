package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	insertEvents = `
INSERT INTO stripe_events (account, id, type, customer, object, question_scope, question_id, pending_scopes,
       livemode, api_version, created, object_updated, received_at, applied_at, synced_at)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7,
       value->>8, value->>9, value->>10, value->>11, ?2, CASE WHEN value->>7 = 0 THEN ?2 END, ?2
FROM json_each(?1) WHERE true ORDER BY key
ON CONFLICT DO NOTHING
RETURNING account, id`

	eventStates = `
SELECT n.key, e.pending_scopes FROM json_each(?1) n
JOIN stripe_events e ON e.account = n.value->>0 AND e.id = n.value->>1`
)

// eventKey is the key of stripe_events.
type eventKey struct{ account, id string }

// RecordEvents stores events that are new and returns what was known of each. An
// acknowledged event must survive a power cut: the commit is durable.
func (s *Store) RecordEvents(ctx context.Context, events []mirror.Event) ([]mirror.Receipt, error) {
	if len(events) == 0 {
		return nil, nil
	}
	rows := make([][]any, 0, len(events))
	for _, e := range events {
		pending := 0
		var questionScope, questionID any
		for _, t := range e.Targets() {
			bit := scopeBit(t.Scope)
			pending |= bit
			if bit == bitQuestion {
				questionScope, questionID = string(t.Scope), t.ID
			}
		}
		rows = append(rows, []any{
			e.Account, e.ID, plain(e.Type), null(e.Customer), null(e.Object), questionScope, questionID, pending,
			flag(e.Livemode), null(e.APIVersion), stamp(e.Created), nullTime(e.Updated),
		})
	}
	text, err := batch(rows)
	if err != nil {
		return nil, fmt.Errorf("record %d events: %w", len(events), err)
	}
	receipts := make([]mirror.Receipt, len(events))
	err = s.w.do(ctx, durable, func(tx *tx) error {
		fresh := make(map[eventKey]bool, len(events))
		err := tx.each(insertEvents, []any{text, tx.at}, func(rows *sql.Rows) error {
			var k eventKey
			err := rows.Scan(&k.account, &k.id)
			fresh[k] = true
			return err
		})
		if err != nil || len(fresh) == len(events) {
			return err
		}
		err = tx.each(eventStates, []any{text}, func(rows *sql.Rows) error { return scanReceipt(rows, receipts) })
		for i, e := range events {
			k := eventKey{e.Account, e.ID}
			if fresh[k] { // a second one in the same call is not new any more
				receipts[i] = mirror.ReceiptNew
				fresh[k] = false
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("record %d events: %w", len(events), s.explain(err))
	}
	return receipts, nil
}

func scanReceipt(rows *sql.Rows, receipts []mirror.Receipt) error {
	var i, pending int
	if err := rows.Scan(&i, &pending); err != nil {
		return err
	}
	receipts[i] = mirror.ReceiptPending
	if pending == 0 {
		receipts[i] = mirror.ReceiptApplied
	}
	return nil
}

// EventReceipts returns what is known of each event without recording it.
func (s *Store) EventReceipts(ctx context.Context, account string, ids []string) ([]mirror.Receipt, error) {
	rows := make([][]any, 0, len(ids))
	for _, id := range ids {
		rows = append(rows, []any{account, id})
	}
	text, err := batch(rows)
	if err != nil {
		return nil, fmt.Errorf("read the receipts of %d events: %w", len(ids), err)
	}
	receipts := make([]mirror.Receipt, len(ids))
	err = s.read(ctx, func(r *reading) error {
		return r.each(eventStates, []any{text}, func(rows *sql.Rows) error { return scanReceipt(rows, receipts) })
	})
	if err != nil {
		return nil, fmt.Errorf("read the receipts of %d events: %w", len(ids), err)
	}
	return receipts, nil
}

const pendingEvents = `
SELECT seq, account, id, type, customer, object, question_scope, question_id, pending_scopes, livemode, api_version, created,
       object_updated
FROM stripe_events WHERE pending_scopes <> 0 AND seq > ?1 ORDER BY seq LIMIT ?2 + 0`

// PendingEvents lists events that wait for a sync, oldest first. An event's
// targets are never parted, or a caller that goes on after its Seq would miss
// the rest: a page may end early, and a single event may exceed the limit.
func (s *Store) PendingEvents(ctx context.Context, after int64, limit int) ([]mirror.PendingEvent, error) {
	var list []mirror.PendingEvent
	err := s.read(ctx, func(r *reading) error {
		full := false
		return r.each(pendingEvents, []any{after, limit}, func(rows *sql.Rows) error {
			var p mirror.PendingEvent
			e := &p.Event
			var questionScope, questionID string
			var pending int
			err := rows.Scan(&p.Seq, &e.Account, &e.ID, &e.Type, textColumn{&e.Customer}, textColumn{&e.Object},
				textColumn{&questionScope}, textColumn{&questionID}, &pending, &e.Livemode,
				textColumn{&e.APIVersion}, timeColumn{&e.Created}, timeColumn{&e.Updated})
			if err != nil || full {
				return err
			}
			switch mirror.Scope(questionScope) {
			case mirror.ScopeGrantOwner:
				e.Grant, e.Asks = questionID, mirror.ScopeGrantOwner
			case mirror.ScopeClockCustomers:
				e.Clock = questionID
			case mirror.ScopeCreditOwner, mirror.ScopeInvoiceOwner, mirror.ScopeNoteOwner:
				e.Asks = mirror.Scope(questionScope)
			}
			targets := waitingTargets(*e, pending, questionScope, questionID)
			if len(list) > 0 && len(list)+len(targets) > limit {
				full = true
				return nil
			}
			for _, t := range targets {
				p.Target = t
				list = append(list, p)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list pending events after %d: %w", after, err)
	}
	return list, nil
}

// waitingTargets lists the targets that an event still waits for.
func waitingTargets(e mirror.Event, pending int, questionScope, questionID string) []mirror.Target {
	var list []mirror.Target
	if pending&bitBalance != 0 {
		list = append(list, mirror.Target{Account: e.Account, Scope: mirror.ScopeBalance, ID: e.Customer})
	}
	if pending&bitCredits != 0 {
		list = append(list, mirror.Target{Account: e.Account, Scope: mirror.ScopeCredits, ID: e.Customer})
	}
	if pending&bitQuestion != 0 {
		list = append(list, mirror.Target{Account: e.Account, Scope: mirror.Scope(questionScope), ID: questionID})
	}
	return list
}

// resolveEvents answers a question: ?4 is the customer (NULL: none or several),
// ?5 the scopes of it to wait for, ?7 before when the events were received (NULL:
// whenever).
const resolveEvents = `
UPDATE stripe_events SET customer = ifnull(?4, customer), pending_scopes = (pending_scopes & ~4) | ?5,
       applied_at = CASE WHEN (pending_scopes & ~4) | ?5 = 0 THEN ?6 END, synced_at = ?6
WHERE account = ?1 AND question_scope = ?2 AND question_id = ?3 AND pending_scopes <> 0 AND question_id IS NOT NULL
  AND pending_scopes & 4 <> 0 AND (?7 IS NULL OR received_at < ?7)`

const askedAt = `
SELECT max(received_at) FROM stripe_events
WHERE account = ?1 AND question_scope = ?2 AND question_id = ?3 AND pending_scopes <> 0 AND question_id IS NOT NULL
  AND pending_scopes & 4 <> 0`

// ResolveEvents answers a question target. Events can name one customer: where
// the answer is several, they go on waiting for the question until all are synced.
func (s *Store) ResolveEvents(ctx context.Context, question mirror.Target, targets []mirror.Target) error {
	var customer, before any
	var left error
	bits := 0
	if mirror.OneCustomer(targets) {
		for _, t := range targets {
			customer, bits = t.ID, bits|scopeBit(t.Scope)
		}
	} else {
		var since time.Time
		if since, left = s.synced(ctx, question, targets); left != nil && !errors.Is(left, mirror.ErrUnsynced) && !errors.Is(left, mirror.ErrNotFound) {
			return fmt.Errorf("resolve the events of %s: %w", question, left)
		}
		before = stamp(since)
	}
	err := s.w.do(ctx, durable, func(tx *tx) error {
		err := tx.exec(resolveEvents, question.Account, string(question.Scope), question.ID, customer, bits, tx.at, before)
		if err != nil || errors.Is(left, mirror.ErrUnsynced) {
			return err
		}
		return tx.exec(dropTargetLetter, question.Account, mirror.DeadLetterID(question), bitQuestion)
	})
	if err = cmp.Or(err, left); err != nil {
		return fmt.Errorf("resolve the events of %s: %w", question, s.explain(err))
	}
	return nil
}

// synced is mirror.SyncedSince for the events that wait for the question. An event
// that is recorded meanwhile was received after what is read here.
func (s *Store) synced(ctx context.Context, question mirror.Target, targets []mirror.Target) (before time.Time, err error) {
	var newest time.Time
	err = s.read(ctx, func(r *reading) error {
		_, err := r.row(askedAt, []any{question.Account, string(question.Scope), question.ID}, timeColumn{&newest})
		return err
	})
	switch {
	case err != nil:
		return time.Time{}, err
	case newest.IsZero():
		return time.Time{}, mirror.ErrNotFound
	}
	observed, err := s.ObservedAt(ctx, targets)
	if err != nil {
		return time.Time{}, err
	}
	return mirror.SyncedSince(targets, observed, newest)
}

const observedAt = `
SELECT n.key, s.observed_at FROM json_each(?1) n
JOIN sync_state s ON s.account = n.value->>0 AND s.customer = n.value->>1 AND s.scope = n.value->>2`

// ObservedAt returns for each target when the reads of its last commit began.
func (s *Store) ObservedAt(ctx context.Context, targets []mirror.Target) ([]time.Time, error) {
	rows := make([][]any, 0, len(targets))
	for _, t := range targets {
		rows = append(rows, []any{t.Account, t.ID, string(t.Scope)})
	}
	text, err := batch(rows)
	if err != nil {
		return nil, fmt.Errorf("read the freshness of %d targets: %w", len(targets), err)
	}
	times := make([]time.Time, len(targets))
	err = s.read(ctx, func(r *reading) error {
		return r.each(observedAt, []any{text}, func(rows *sql.Rows) error {
			var i int
			var at time.Time
			err := rows.Scan(&i, timeColumn{&at})
			times[i] = at
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the freshness of %d targets: %w", len(targets), err)
	}
	return times, nil
}

const syncUnderWay = `
SELECT count(*) FROM sync_state
WHERE account = ?1 AND customer = ?2 AND scope = ?3 AND epoch <> applied_epoch AND synced_at > ?4`

// SyncUnderWay reports whether a sync of the target began a moment ago.
func (s *Store) SyncUnderWay(ctx context.Context, t mirror.Target, within time.Duration) (bool, error) {
	n := 0
	err := s.read(ctx, func(r *reading) error {
		_, err := r.row(syncUnderWay, []any{t.Account, t.ID, string(t.Scope), stamp(s.now().Add(-within))}, &n)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for a sync of %s: %w", t, err)
	}
	return n > 0, nil
}

// DatabaseTime is this process's own clock: a file has no other one.
func (s *Store) DatabaseTime(context.Context) (time.Time, error) { return s.now(), nil }

const pruneEvents = `
DELETE FROM stripe_events WHERE seq IN (
    SELECT seq FROM stripe_events WHERE pending_scopes = 0 AND created < ?1 LIMIT 5000)`

// PruneEvents deletes answered events, in slices that let other writers in.
func (s *Store) PruneEvents(ctx context.Context, before time.Time) (int64, error) {
	var total int64
	for {
		n := 0
		err := s.w.do(ctx, volatile, func(tx *tx) (err error) {
			n, err = tx.affect(pruneEvents, stamp(before))
			return err
		})
		if err != nil {
			return total, fmt.Errorf("prune events before %s: %w", before.UTC().Format(time.RFC3339), s.explain(err))
		}
		if n == 0 {
			break
		}
		total += int64(n)
	}
	// Changes of totals are the copies' and go with them, but they come without a copy too.
	if err := s.pruneTotals(ctx); err != nil {
		return total, fmt.Errorf("prune the changes of totals: %w", err)
	}
	return total, nil
}

// naming are mirror.NamingTypes.
const naming = `('billing.credit_balance_transaction.created', 'billing.credit_grant.created', 'billing.credit_grant.updated')`

const (
	// waitingNamed are the events of a target that name what must be held before they
	// are answered.
	waitingNamed = `
SELECT id, created, object, type, object_updated FROM stripe_events
WHERE account = ?1 AND customer = ?2 AND seq <= ?3 AND pending_scopes <> 0 AND pending_scopes & 2 <> 0
  AND type IN ` + naming + ` ORDER BY seq`

	// answerWaiting answers what waited when the sync began; of the events that name
	// an object those in ?6, or all where that is NULL.
	answerWaiting = `
UPDATE stripe_events SET pending_scopes = pending_scopes & ~?3,
       applied_at = CASE WHEN pending_scopes & ~?3 = 0 THEN ?5 END, synced_at = ?5
WHERE account = ?1 AND customer = ?2 AND seq <= ?4 AND pending_scopes <> 0 AND pending_scopes & ?3 <> 0
  AND (?6 IS NULL OR type NOT IN ` + naming + ` OR id IN (SELECT value->>0 FROM json_each(?6)))
RETURNING seq, id, created, object, type`

	// answerKnown stores events that the inbox has never seen as answered, but for
	// other scopes that they wait for, and answers those that it has.
	answerKnown = `
INSERT INTO stripe_events (account, id, type, customer, object, pending_scopes, livemode, created, received_at, applied_at, synced_at)
SELECT ?2, value->>0, value->>1, ?3, value->>2, value->>4, ?5, value->>3, ?6, CASE WHEN value->>4 = 0 THEN ?6 END, ?6
FROM json_each(?1) WHERE true ORDER BY key
ON CONFLICT (account, id) DO UPDATE SET pending_scopes = pending_scopes & ~?4,
       applied_at = CASE WHEN pending_scopes & ~?4 = 0 THEN ?6 END, synced_at = ?6
       WHERE pending_scopes & ?4 <> 0
RETURNING seq, id, created, object, type`
)

// answerEvents takes this commit's scope from the events that waited for it.
func (c *commit) answerEvents() error {
	bit := scopeBit(c.target.Scope)
	collect := func(rows *sql.Rows) error {
		var seq int64
		var e mirror.EventRef
		err := rows.Scan(&seq, &e.ID, timeColumn{&e.Created}, textColumn{&e.Object}, &e.Type)
		c.out.Answered = append(c.out.Answered, e)
		return err
	}
	if c.eventSeq > 0 {
		var named any
		if c.named != nil {
			text, err := idList(c.named)
			if err != nil {
				return err
			}
			named = text
		}
		err := c.each(answerWaiting, []any{c.target.Account, c.target.ID, bit, c.eventSeq, c.at, named}, collect)
		if err != nil {
			return err
		}
	}
	if len(c.events) == 0 {
		return nil
	}
	rows := make([][]any, 0, len(c.events))
	seen := make(map[string]bool, len(c.events))
	for _, e := range c.events {
		if !seen[e.ID] {
			seen[e.ID] = true
			others := 0
			for _, s := range e.Others(c.target.Scope) {
				others |= scopeBit(s)
			}
			rows = append(rows, []any{e.ID, plain(e.Type), null(e.Object), stamp(e.Created), others})
		}
	}
	text, err := batch(rows)
	if err != nil {
		return err
	}
	return c.each(answerKnown, []any{text, c.target.Account, c.target.ID, bit, flag(c.livemode), c.at}, collect)
}
