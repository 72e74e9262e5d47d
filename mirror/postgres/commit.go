package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

// commitment is what every committed sync writes beside its rows.
type commitment struct {
	target     mirror.Target
	eventSeq   int64
	observedAt time.Time
	events     []mirror.EventRef
	// named are the waiting events that name an object and that this commit answers;
	// nil: all.
	named    []string
	state    mirror.SyncState
	open     []mirror.Finding
	repaired []mirror.Finding
	close    mirror.Closing
	changes  []change
	livemode bool
}

// change is a row of the change feed.
type change struct{ table, id, op string }

const (
	opInsert = "insert"
	opUpdate = "update"
)

// naming are mirror.NamingTypes.
const naming = `('billing.credit_balance_transaction.created', 'billing.credit_grant.created', 'billing.credit_grant.updated')`

const (
	insertChanges = `INSERT INTO creditmirror.changes (account, customer, table_name, id, op)
SELECT $1, $2, u.table_name, u.id, u.op
FROM unnest($3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS u (table_name, id, op, n) ORDER BY u.n`

	// held reports whether a finding's object is held of the target.
	held = `(EXISTS (SELECT 1 FROM creditmirror.customer_balance_transactions AS t WHERE t.account = $1 AND t.customer = $2 AND t.id = object)
      OR EXISTS (SELECT 1 FROM creditmirror.credit_balance_transactions AS t WHERE t.account = $1 AND t.customer = $2 AND t.id = object)
      OR EXISTS (SELECT 1 FROM creditmirror.credit_grants AS g WHERE g.account = $1 AND g.customer = $2 AND g.id = object))`

	// closeFindings closes what a commit proves gone of its own target.
	closeFindings = `UPDATE creditmirror.drift_findings SET repaired_at = now(), synced_at = now()
WHERE account = $1 AND customer = $2 AND scope = $3 AND repaired_at IS NULL
  AND (kind = ANY ($4::text[]) OR kind = 'missed_event' AND found_at <= $6
    OR kind = 'unexpected_transaction' AND object = ANY ($5::text[]) OR kind = 'field_mismatch' AND object = ANY ($7::text[])
    OR kind = 'unexpected_transaction' AND NOT ` + held + ` OR kind = 'missing_transaction' AND ` + held + `)
RETURNING kind`

	// closeMissed closes what events were missed and are answered now. An event
	// whose customer was not known has none in its finding either.
	closeMissed = `UPDATE creditmirror.drift_findings AS f SET repaired_at = now(), synced_at = now()
WHERE account = $1 AND customer IN ($2, '') AND kind = 'missed_event' AND repaired_at IS NULL
  AND EXISTS (SELECT 1 FROM creditmirror.stripe_events AS e WHERE e.account = f.account AND e.id = f.object AND e.pending_scopes = 0)
RETURNING kind`

	findingRows = `unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::timestamptz[])
  AS u (id, kind, customer, scope, currency, object, expected, actual, cause, found_at)`

	openFindings = `INSERT INTO creditmirror.drift_findings (account, id, kind, customer, scope, currency, object, expected, actual, cause, found_at)
SELECT $1, u.id, u.kind, u.customer, u.scope, u.currency, u.object, u.expected, u.actual, u.cause, coalesce(u.found_at, now())
FROM ` + findingRows + `
ORDER BY u.customer COLLATE "C", u.kind COLLATE "C", u.currency COLLATE "C", u.object COLLATE "C"
ON CONFLICT (account, customer, kind, currency, object) WHERE repaired_at IS NULL DO NOTHING
RETURNING id, found_at`

	// recordRepaired records what a commit finds and repairs at once. What was found
	// before is closed, and not recorded twice.
	recordRepaired = `WITH closed AS (
  UPDATE creditmirror.drift_findings AS f SET repaired_at = now(), synced_at = now() FROM ` + findingRows + `
  WHERE f.account = $1 AND f.customer = u.customer AND f.kind = u.kind AND f.currency = u.currency AND f.object = u.object
    AND f.repaired_at IS NULL
  RETURNING u.id, f.kind, f.found_at
), recorded AS (
  INSERT INTO creditmirror.drift_findings (account, id, kind, customer, scope, currency, object, expected, actual, cause, found_at, repaired_at)
  SELECT $1, u.id, u.kind, u.customer, u.scope, u.currency, u.object, u.expected, u.actual, u.cause, coalesce(u.found_at, now()), now()
  FROM ` + findingRows + ` WHERE u.id NOT IN (SELECT id FROM closed)
  RETURNING id, kind, found_at
)
SELECT id, kind, found_at, true FROM closed UNION ALL SELECT id, kind, found_at, false FROM recorded`

	// answerWaiting marks what the inbox knew when the sync began. Rows are locked
	// in the order of their keys, as everywhere else.
	// Of the events that name an object those in $5 are answered, or all where that
	// is NULL.
	answerWaiting = `WITH waiting AS (
  SELECT account, id FROM creditmirror.stripe_events
  WHERE account = $1 AND customer = $2 AND seq <= $4 AND pending_scopes <> 0 AND pending_scopes & $3::integer <> 0
    AND ($5::text[] IS NULL OR type NOT IN ` + naming + ` OR id = ANY ($5::text[]))
  ORDER BY account, id FOR UPDATE
)
UPDATE creditmirror.stripe_events AS e SET
  pending_scopes = e.pending_scopes & ~$3::integer,
  applied_at = CASE WHEN e.pending_scopes & ~$3::integer = 0 THEN now() END,
  synced_at = now()
FROM waiting WHERE e.account = waiting.account AND e.id = waiting.id
RETURNING e.id, e.created, coalesce(e.object, ''), e.type`

	// answerKnown marks events that the caller knows to be answered; those the
	// inbox never had are recorded as answered, so that nobody asks for them again; $9
	// are the bits of what such an event waits for besides.
	answerKnown = `INSERT INTO creditmirror.stripe_events AS e
  (account, id, type, customer, object, pending_scopes, livemode, created, applied_at)
SELECT $1, u.id, u.type, $2, nullif(u.object, ''), u.others, $4, u.created, CASE WHEN u.others = 0 THEN now() END
FROM unnest($5::text[], $6::text[], $7::text[], $8::timestamptz[], $9::integer[]) AS u (id, type, object, created, others)
ORDER BY u.id COLLATE "C"
ON CONFLICT (account, id) DO UPDATE SET
  pending_scopes = e.pending_scopes & ~$3::integer,
  applied_at = CASE WHEN e.pending_scopes & ~$3::integer = 0 THEN now() END,
  synced_at = now()
WHERE e.pending_scopes & $3::integer <> 0
RETURNING e.id, e.created, coalesce(e.object, ''), e.type`

	// dropTargetLetter keeps a letter of which an event still waits for its target.
	dropTargetLetter = `DELETE FROM creditmirror.dead_letters AS d WHERE d.account = $1 AND d.customer = $2 AND d.scope = $3
  AND NOT EXISTS (SELECT 1 FROM creditmirror.stripe_events AS e
    WHERE e.account = $1 AND e.id IN (SELECT jsonb_array_elements_text(d.event_ids)) AND e.pending_scopes & $4::integer <> 0)`
)

// queue queues the writes; what they did is added to applied.
func (c *commitment) queue(b *pgx.Batch, applied *mirror.Applied) {
	t, st := c.target, c.state
	var observed optTime
	if st.Joins() {
		observed = optTime(c.observedAt)
	}
	b.Queue(writeState, t.Account, t.ID, string(t.Scope), st.Epoch, observed, st.HistoryComplete, optTime(st.CompleteTo),
		clean(st.Walk.Cursor), optTime(st.Walk.Top), st.Walk.Full, st.Disproved, optTime(st.FullReadAt))
	queueChanges(b, t, c.changes)
	closed := func(rows pgx.Rows) error {
		for rows.Next() {
			var kind string
			if err := rows.Scan(&kind); err != nil {
				return err
			}
			applied.Closed = append(applied.Closed, mirror.DriftKind(kind))
		}
		return rows.Err()
	}
	queueRepaired(b, t.Account, c.repaired, applied) // before the rest is closed
	b.Queue(closeFindings, t.Account, t.ID, string(t.Scope),
		column(c.close.Kinds, func(k *mirror.DriftKind) string { return string(*k) }),
		column(c.close.Objects, func(id *string) string { return clean(*id) }), optTime(c.close.MissedBefore),
		column(c.close.Compared, func(id *string) string { return clean(*id) })).Query(closed)
	queueFindings(b, t.Account, c.open, func(f mirror.Finding) { applied.Findings = append(applied.Findings, f) })
	if st.Joins() {
		c.queueEvents(b, applied)
		b.Queue(dropTargetLetter, t.Account, t.ID, string(t.Scope), scopeBit(t.Scope))
	}
	b.Queue(closeMissed, t.Account, t.ID).Query(closed)
}

// queueChanges queues records of the change feed.
func queueChanges(b *pgx.Batch, t mirror.Target, changes []change) {
	if len(changes) == 0 {
		return
	}
	b.Queue(insertChanges, t.Account, t.ID,
		column(changes, func(c *change) string { return c.table }),
		column(changes, func(c *change) string { return c.id }),
		column(changes, func(c *change) string { return c.op }))
}

func (c *commitment) queueEvents(b *pgx.Batch, applied *mirror.Applied) {
	t := c.target
	collect := func(rows pgx.Rows) error {
		for rows.Next() {
			var e mirror.EventRef
			if err := rows.Scan(&e.ID, &e.Created, &e.Object, &e.Type); err != nil {
				return err
			}
			applied.Answered = append(applied.Answered, e)
		}
		return rows.Err()
	}
	if c.eventSeq > 0 {
		b.Queue(answerWaiting, t.Account, t.ID, scopeBit(t.Scope), c.eventSeq, c.named).Query(collect)
	}
	if len(c.events) == 0 {
		return
	}
	known := slices.Clone(c.events)
	slices.SortStableFunc(known, func(a, b mirror.EventRef) int { return strings.Compare(a.ID, b.ID) })
	known = slices.CompactFunc(known, func(a, b mirror.EventRef) bool { return a.ID == b.ID })
	b.Queue(answerKnown, t.Account, t.ID, scopeBit(t.Scope), c.livemode,
		column(known, func(e *mirror.EventRef) string { return clean(e.ID) }),
		column(known, func(e *mirror.EventRef) string { return clean(e.Type) }),
		column(known, func(e *mirror.EventRef) string { return clean(e.Object) }),
		column(known, func(e *mirror.EventRef) time.Time { return e.Created }),
		column(known, func(e *mirror.EventRef) (bits int32) {
			for _, s := range e.Others(t.Scope) {
				bits |= scopeBit(s)
			}
			return bits
		})).Query(collect)
}

// queueFindings queues findings of one account; opened is called with each that was not
// open before.
func queueFindings(b *pgx.Batch, account string, findings []mirror.Finding, opened func(mirror.Finding)) {
	if len(findings) == 0 {
		return
	}
	args, byID := findingArgs(account, findings)
	ids := args[1].([]string)
	b.Queue(openFindings, args...).Query(func(rows pgx.Rows) error {
		fresh := map[string]time.Time{}
		var id string
		var at time.Time
		if _, err := pgx.ForEachRow(rows, []any{&id, &at}, func() error { fresh[id] = at; return nil }); err != nil {
			return err
		}
		for _, id := range ids { // reported in the order given, stored in that of the keys
			if at, ok := fresh[id]; ok {
				f := byID[id]
				f.FoundAt = at
				opened(f)
			}
		}
		return nil
	})
}

// queueRepaired queues findings that the commit repairs itself.
func queueRepaired(b *pgx.Batch, account string, findings []mirror.Finding, applied *mirror.Applied) {
	if len(findings) == 0 {
		return
	}
	args, byID := findingArgs(account, findings)
	b.Queue(recordRepaired, args...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var id, kind string
			var at time.Time
			var known bool
			if err := rows.Scan(&id, &kind, &at, &known); err != nil {
				return err
			}
			if known {
				applied.Closed = append(applied.Closed, mirror.DriftKind(kind))
				continue
			}
			f := byID[id]
			f.FoundAt = at
			applied.Repaired = append(applied.Repaired, f)
		}
		return rows.Err()
	})
}

// findingArgs are findings as findingRows takes them, with ids of their own.
func findingArgs(account string, findings []mirror.Finding) (args []any, byID map[string]mirror.Finding) {
	ids := make([]string, len(findings))
	byID = make(map[string]mirror.Finding, len(findings))
	for i, f := range findings {
		ids[i] = mirror.NewFindingID()
		byID[ids[i]] = f
	}
	text := func(field func(*mirror.Finding) string) []string {
		return column(findings, func(f *mirror.Finding) string { return clean(field(f)) })
	}
	return []any{
		account, ids,
		text(func(f *mirror.Finding) string { return string(f.Kind) }),
		text(func(f *mirror.Finding) string { return f.Customer }),
		text(func(f *mirror.Finding) string { return string(f.Scope) }),
		text(func(f *mirror.Finding) string { return f.Currency }),
		text(func(f *mirror.Finding) string { return f.Object }),
		text(func(f *mirror.Finding) string { return f.Expected }),
		text(func(f *mirror.Finding) string { return f.Actual }),
		text(func(f *mirror.Finding) string { return f.Cause }),
		column(findings, func(f *mirror.Finding) optTime { return optTime(f.FoundAt) }),
	}, byID
}

// refused recognises refusals that are about the values. A row that is new to the
// plan but held already has another time of creation, and that cannot be; other
// data exceptions, constraints and program limits would be met again each time, as
// would a column whose value cannot be read.
func refused(err error) error {
	state := sqlState(err)
	if _, unreadable := errors.AsType[pgx.ScanArgError](err); unreadable {
		return fmt.Errorf("%w: %w", mirror.ErrUnstorable, err)
	}
	switch {
	case state == "23505":
		return fmt.Errorf("%w: a row that is held came back with another time: %w", mirror.ErrLedgerRewritten, err)
	case strings.HasPrefix(state, "22"), strings.HasPrefix(state, "23"), strings.HasPrefix(state, "54"):
		return fmt.Errorf("%w: %w", mirror.ErrUnstorable, err)
	}
	return err
}
