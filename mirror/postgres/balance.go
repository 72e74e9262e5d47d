package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/creditmirror/creditmirror/mirror"
)

// rowsPerStatement bounds how many rows one statement of a big write carries.
const rowsPerStatement = 2000

const (
	heldBalances = `SELECT currency, balance FROM creditmirror.customer_balances WHERE account = $1 AND customer = $2`

	heldRowColumns = `t.id, t.currency, t.amount, t.ending_balance, t.type, t.created, coalesce(t.chain_position, 0), t.digest`

	heldRowsInSpans = `SELECT ` + heldRowColumns + `
FROM unnest($3::timestamptz[], $4::timestamptz[]) AS span (first, last)
CROSS JOIN LATERAL (
  SELECT * FROM creditmirror.customer_balance_transactions AS r
  WHERE r.account = $1 AND r.customer = $2 AND r.created >= span.first AND r.created <= span.last OFFSET 0
) AS t
LIMIT $5`

	heldUnplaced = `SELECT ` + heldRowColumns + ` FROM creditmirror.customer_balance_transactions AS t
WHERE t.account = $1 AND t.customer = $2 AND t.chain_position IS NULL LIMIT $3`

	// rowsToPlace and unplacedRows list the rows that a slice of a long history places.
	rowsToPlace = `SELECT ` + heldRowColumns + ` FROM creditmirror.customer_balance_transactions AS t
WHERE t.account = $1 AND t.customer = $2 AND t.created > $3 ORDER BY t.created LIMIT $4`

	unplacedRows = `SELECT ` + heldRowColumns + ` FROM creditmirror.customer_balance_transactions AS t
WHERE t.account = $1 AND t.customer = $2 AND t.chain_position IS NULL AND t.created > $3 ORDER BY t.created LIMIT $4`

	// heldTops jumps from currency to currency through the index of the chain, so
	// that its cost does not grow with the history.
	heldTops = `WITH RECURSIVE currencies AS (
  (SELECT currency FROM creditmirror.customer_balance_transactions
   WHERE account = $1 AND customer = $2 AND chain_position IS NOT NULL ORDER BY currency LIMIT 1)
  UNION ALL
  SELECT (SELECT n.currency FROM creditmirror.customer_balance_transactions AS n
    WHERE n.account = $1 AND n.customer = $2 AND n.chain_position IS NOT NULL AND n.currency > c.currency
    ORDER BY n.currency LIMIT 1)
  FROM currencies AS c WHERE c.currency IS NOT NULL
)
SELECT ` + heldRowColumns + ` FROM currencies AS c CROSS JOIN LATERAL (
  SELECT r.id, r.currency, r.amount, r.ending_balance, r.type, r.created, r.chain_position, r.digest
  FROM creditmirror.customer_balance_transactions AS r
  WHERE r.account = $1 AND r.customer = $2 AND r.currency = c.currency AND r.chain_position IS NOT NULL
  ORDER BY r.chain_position DESC LIMIT 1
) AS t`

	insertRows = `INSERT INTO creditmirror.customer_balance_transactions
  (account, customer, id, currency, amount, ending_balance, type, invoice, credit_note, checkout_session, description,
   metadata, created, livemode, chain_position, raw, digest)
SELECT $1, $2, u.id, u.currency, u.amount, u.ending_balance, u.type, u.invoice, u.credit_note, u.checkout_session, u.description,
  u.metadata::jsonb, u.created, u.livemode, nullif(u.chain_position, 0), u.raw::jsonb, u.digest
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
    $12::text[], $13::timestamptz[], $14::boolean[], $15::bigint[], $16::text[], $17::text[])
  AS u (id, currency, amount, ending_balance, type, invoice, credit_note, checkout_session, description,
    metadata, created, livemode, chain_position, raw, digest)`

	// restoreRows writes the columns too that no reply can change.
	restoreRows = insertRows + `
ON CONFLICT (account, customer, id) DO UPDATE SET
  currency = excluded.currency, amount = excluded.amount, ending_balance = excluded.ending_balance, type = excluded.type,
  invoice = excluded.invoice, credit_note = excluded.credit_note, checkout_session = excluded.checkout_session,
  description = excluded.description, metadata = excluded.metadata, created = excluded.created, livemode = excluded.livemode,
  raw = excluded.raw, digest = excluded.digest, synced_at = now()`

	updateRows = `UPDATE creditmirror.customer_balance_transactions AS t SET
  invoice = u.invoice, credit_note = u.credit_note, checkout_session = u.checkout_session, description = u.description,
  metadata = u.metadata::jsonb, raw = u.raw::jsonb, digest = u.digest, synced_at = now()
FROM (
  SELECT r.place, u.* FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
    AS u (id, invoice, credit_note, checkout_session, description, metadata, raw, digest)
  CROSS JOIN LATERAL (
    SELECT n.ctid AS place FROM creditmirror.customer_balance_transactions AS n
    WHERE n.account = $1 AND n.customer = $2 AND n.id = u.id OFFSET 0
  ) AS r
) AS u
WHERE t.ctid = u.place AND t.account = $1 AND t.customer = $2`

	// placeRows looks each row up by its key, whatever the planner knows of the table:
	// left alone it may read the whole history once per slice.
	placeRows = `UPDATE creditmirror.customer_balance_transactions AS t SET chain_position = nullif(p.chain_position, 0), synced_at = now()
FROM (
  SELECT r.place, u.chain_position FROM unnest($3::text[], $4::bigint[]) AS u (id, chain_position)
  CROSS JOIN LATERAL (
    SELECT n.ctid AS place FROM creditmirror.customer_balance_transactions AS n
    WHERE n.account = $1 AND n.customer = $2 AND n.id = u.id OFFSET 0
  ) AS r
) AS p
WHERE t.ctid = p.place AND t.account = $1 AND t.customer = $2`

	writeBalances = `INSERT INTO creditmirror.customer_balances (account, customer, currency, balance)
SELECT $1, $2, u.currency, u.balance FROM unnest($3::text[], $4::bigint[]) AS u (currency, balance)
ON CONFLICT (account, customer, currency) DO UPDATE SET balance = excluded.balance, synced_at = now()`
)

// ApplyBalance commits one sync of the customer balance.
func (s *Store) ApplyBalance(ctx context.Context, snap mirror.BalanceSnapshot) (mirror.Applied, error) {
	return mirror.ApplyBalance(ctx, balanceDriver{s}, cleanBalance(snap), s.slice)
}

// balanceDriver is the store as mirror.ApplyBalance sees it.
type balanceDriver struct{ *Store }

// CommitBalance commits a snapshot in one transaction.
func (s balanceDriver) CommitBalance(ctx context.Context, snap mirror.BalanceSnapshot) (mirror.Applied, error) {
	var held mirror.BalanceHeld
	var applied mirror.Applied
	err := s.fenced(ctx, snap.Epoch, func(b *pgx.Batch) {
		held, applied = mirror.BalanceHeld{}, mirror.Applied{}
		queueHeldBalance(b, snap, s.slice+1, &held)
	}, func(b *pgx.Batch) error {
		waiting := len(held.Unplaced)
		if snap.Full {
			waiting = len(held.Rows)
		}
		if snap.TooLong(waiting, s.slice) {
			return mirror.ErrLong
		}
		plan, err := mirror.PlanBalance(snap, held)
		if err != nil {
			return err
		}
		return queueBalancePlan(b, snap, held, plan, &applied)
	})
	if err != nil {
		return mirror.Applied{}, fmt.Errorf("apply %s, epoch %d: %w", snap.Target, snap.Epoch, refused(err))
	}
	applied.Answered = distinct(applied.Answered)
	if !snap.Joined {
		s.balances.add(ctx, s.Store, applied.Inserted)
	}
	return applied, nil
}

// Tops reads the ends of a customer's chains.
func (s balanceDriver) Tops(ctx context.Context, t mirror.Target) (map[string]mirror.HeldRow, error) {
	list, err := query(ctx, s.Store, scanHeldRow, heldTops, t.Account, t.ID)
	if err != nil {
		return nil, fmt.Errorf("read the ends of the chains of %s: %w", t, err)
	}
	tops := make(map[string]mirror.HeldRow, len(list))
	for _, top := range list {
		tops[top.Currency] = top
	}
	return tops, nil
}

// RowsToPlace lists held rows created after a time.
func (s balanceDriver) RowsToPlace(ctx context.Context, t mirror.Target, all bool, after time.Time, limit int) ([]mirror.HeldRow, error) {
	statement := unplacedRows
	if all {
		statement = rowsToPlace
	}
	list, err := query(ctx, s.Store, scanHeldRow, statement, t.Account, t.ID, bound(after, pgtype.NegativeInfinity), limit)
	if err != nil {
		return nil, fmt.Errorf("list rows to place of %s: %w", t, err)
	}
	return list, nil
}

// Place writes positions behind the fence.
func (s balanceDriver) Place(ctx context.Context, t mirror.Target, epoch int64, places []mirror.Placement) error {
	var state mirror.SyncState
	err := s.transact(ctx, func(b *pgx.Batch) {
		queueFence(b, t, epoch, &state)
	}, func(b *pgx.Batch) error {
		queuePlaces(b, t, places)
		queueChanges(b, t, movedRows(places))
		return nil
	})
	if err != nil {
		return fmt.Errorf("place %d rows of %s, epoch %d: %w", len(places), t, epoch, err)
	}
	return nil
}

func queuePlaces(b *pgx.Batch, t mirror.Target, places []mirror.Placement) {
	for places := range slices.Chunk(places, rowsPerStatement) {
		b.Queue(placeRows, t.Account, t.ID,
			column(places, func(p *mirror.Placement) string { return p.ID }),
			column(places, func(p *mirror.Placement) int64 { return p.Position }))
	}
}

// movedRows are the change records of rows that had another place before.
func movedRows(places []mirror.Placement) (list []change) {
	for _, p := range places {
		if p.Moved {
			list = append(list, change{"customer_balance_transactions", p.ID, opUpdate})
		}
	}
	return list
}

// queueHeldBalance queues the reading of what PlanBalance compares the snapshot with;
// at most so many of the rows that wait for their place or, of a full read, of all.
func queueHeldBalance(b *pgx.Batch, snap mirror.BalanceSnapshot, limit int, held *mirror.BalanceHeld) {
	t := snap.Target
	queueFence(b, t, snap.Epoch, &held.State)
	held.State.EventSeq = snap.EventSeq
	b.Queue(customerByID, t.Account, t.ID).QueryRow(func(row pgx.Row) error {
		c, digest, err := scanCustomer(row)
		if err == nil {
			held.Customer, held.CustomerDigest = &c, digest
		}
		return absent(err)
	})
	b.Queue(heldBalances, t.Account, t.ID).Query(func(rows pgx.Rows) error {
		held.Balances = map[string]int64{}
		var currency string
		var balance int64
		_, err := pgx.ForEachRow(rows, []any{&currency, &balance}, func() error {
			held.Balances[currency] = balance
			return nil
		})
		return err
	})
	if spans := snap.Spans(); len(spans) > 0 {
		var most *int // none
		if snap.ReadsAll() {
			most = &limit
		}
		b.Queue(heldRowsInSpans, t.Account, t.ID, column(spans, spanFrom), column(spans, spanTo), most).Query(func(rows pgx.Rows) (err error) {
			held.Rows, err = pgx.CollectRows(rows, scanHeldRow)
			held.Rows = distinctBy(held.Rows, func(r mirror.HeldRow) string { return r.ID })
			return err
		})
	}
	if snap.Whole() {
		queueStored(b, storedTransactions, t, snap.Listed(), snap.WindowSpans(), &held.Stored, scanStored)
	} else {
		queueAccused(b, accusedTransactions, t, snap.Listed(), &held.Stored, scanStored)
	}
	if !snap.Joined {
		return
	}
	b.Queue(heldUnplaced, t.Account, t.ID, limit).Query(func(rows pgx.Rows) (err error) {
		held.Unplaced, err = pgx.CollectRows(rows, scanHeldRow)
		return err
	})
	b.Queue(heldTops, t.Account, t.ID).Query(func(rows pgx.Rows) error {
		tops, err := pgx.CollectRows(rows, scanHeldRow)
		held.Tops = make(map[string]mirror.HeldRow, len(tops))
		for _, top := range tops {
			held.Tops[top.Currency] = top
		}
		return err
	})
}

func queueBalancePlan(b *pgx.Batch, snap mirror.BalanceSnapshot, held mirror.BalanceHeld, plan mirror.BalancePlan, applied *mirror.Applied) error {
	t := snap.Target
	c := commitment{
		target: t, eventSeq: snap.EventSeq, observedAt: snap.ObservedAt, events: snap.Events,
		state: plan.State, open: plan.Open, repaired: plan.Repaired, close: plan.Close, livemode: snap.Customer.Livemode,
	}
	if plan.Customer != nil {
		if err := queueCustomer(b, *plan.Customer); err != nil {
			return err
		}
		op := opInsert
		if held.Customer != nil {
			op = opUpdate
			applied.Updated++
		} else {
			applied.Inserted++
		}
		c.changes = append(c.changes, change{"customers", t.ID, op})
	}
	if len(plan.Balances) > 0 {
		currencies := slices.Sorted(maps.Keys(plan.Balances))
		b.Queue(writeBalances, t.Account, t.ID, currencies,
			column(currencies, func(currency *string) int64 { return plan.Balances[*currency] }))
		for _, currency := range currencies {
			op := opInsert
			if _, ok := held.Balances[currency]; ok {
				op = opUpdate
			}
			c.changes = append(c.changes, change{"customer_balances", currency, op})
		}
	}
	for rows := range slices.Chunk(plan.Insert, rowsPerStatement) {
		queueRows(b, insertRows, t, rows)
	}
	for rows := range slices.Chunk(plan.Update, rowsPerStatement) {
		queueUpdateRows(b, t, rows)
	}
	for rows := range slices.Chunk(plan.Restore, rowsPerStatement) {
		queueRows(b, restoreRows, t, rows)
	}
	queuePlaces(b, t, plan.Place)
	for _, r := range plan.Insert {
		c.changes = append(c.changes, change{"customer_balance_transactions", r.ID, opInsert})
	}
	updated := make(map[string]bool, len(plan.Update)+len(plan.Restore)+len(plan.Place))
	update := func(id string) {
		if !updated[id] {
			updated[id] = true
			c.changes = append(c.changes, change{"customer_balance_transactions", id, opUpdate})
		}
	}
	for _, r := range slices.Concat(plan.Update, plan.Restore) {
		update(r.ID)
	}
	for _, c := range movedRows(plan.Place) {
		update(c.id)
	}
	applied.Inserted += len(plan.Insert)
	applied.Updated += len(updated)
	c.queue(b, applied)
	return nil
}

// queueRows queues a statement that takes whole rows.
func queueRows(b *pgx.Batch, statement string, t mirror.Target, rows []mirror.BalanceTransaction) {
	b.Queue(statement, t.Account, t.ID,
		column(rows, func(r *mirror.BalanceTransaction) string { return r.ID }),
		column(rows, func(r *mirror.BalanceTransaction) string { return r.Currency }),
		column(rows, func(r *mirror.BalanceTransaction) int64 { return r.Amount }),
		column(rows, func(r *mirror.BalanceTransaction) int64 { return r.EndingBalance }),
		column(rows, func(r *mirror.BalanceTransaction) string { return r.Type }),
		column(rows, func(r *mirror.BalanceTransaction) optText { return optText(r.Invoice) }),
		column(rows, func(r *mirror.BalanceTransaction) optText { return optText(r.CreditNote) }),
		column(rows, func(r *mirror.BalanceTransaction) optText { return optText(r.CheckoutSession) }),
		column(rows, func(r *mirror.BalanceTransaction) optText { return optText(r.Description) }),
		column(rows, func(r *mirror.BalanceTransaction) string { return objectJSON(r.Metadata) }),
		column(rows, func(r *mirror.BalanceTransaction) time.Time { return r.Created }),
		column(rows, func(r *mirror.BalanceTransaction) bool { return r.Livemode }),
		column(rows, func(r *mirror.BalanceTransaction) int64 { return r.Position }),
		column(rows, func(r *mirror.BalanceTransaction) string { return objectJSON(r.Raw) }),
		column(rows, func(r *mirror.BalanceTransaction) string { return mirror.Digest(r.Raw) }))
}

func queueUpdateRows(b *pgx.Batch, t mirror.Target, rows []mirror.BalanceTransaction) {
	b.Queue(updateRows, t.Account, t.ID,
		column(rows, func(r *mirror.BalanceTransaction) string { return r.ID }),
		column(rows, func(r *mirror.BalanceTransaction) optText { return optText(r.Invoice) }),
		column(rows, func(r *mirror.BalanceTransaction) optText { return optText(r.CreditNote) }),
		column(rows, func(r *mirror.BalanceTransaction) optText { return optText(r.CheckoutSession) }),
		column(rows, func(r *mirror.BalanceTransaction) optText { return optText(r.Description) }),
		column(rows, func(r *mirror.BalanceTransaction) string { return objectJSON(r.Metadata) }),
		column(rows, func(r *mirror.BalanceTransaction) string { return objectJSON(r.Raw) }),
		column(rows, func(r *mirror.BalanceTransaction) string { return mirror.Digest(r.Raw) }))
}

func scanHeldRow(row pgx.CollectableRow) (r mirror.HeldRow, err error) {
	err = row.Scan(&r.ID, &r.Currency, &r.Amount, &r.EndingBalance, &r.Type, (*optTime)(&r.Created), &r.Position, &r.Digest)
	return r, err
}

// spanFrom and spanTo are a span's bounds as parameters; an open one is infinite.
func spanFrom(s *mirror.Span) pgtype.Timestamptz { return bound(s.From, pgtype.NegativeInfinity) }
func spanTo(s *mirror.Span) pgtype.Timestamptz   { return bound(s.To, pgtype.Infinity) }

func bound(t time.Time, open pgtype.InfinityModifier) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: open, Valid: true}
	}
	return pgtype.Timestamptz{Time: t, Valid: true}
}

// cleanBalance makes the snapshot storable before anything is compared or
// digested, so that a cleaned row is not seen as changed at every later sync.
func cleanBalance(snap mirror.BalanceSnapshot) mirror.BalanceSnapshot {
	snap.Customer.Raw = cleanJSON(snap.Customer.Raw)
	snap.Windows = cleanWindows(snap.Windows, func(r *mirror.BalanceTransaction) {
		r.Raw = cleanJSON(r.Raw)
		r.Type, r.Description = clean(r.Type), clean(r.Description)
		r.ID, r.Currency = clean(r.ID), clean(r.Currency)
	})
	return snap
}

func cleanWindows[Row any](windows []mirror.Window[Row], cleanRow func(*Row)) []mirror.Window[Row] {
	windows = slices.Clone(windows)
	for i := range windows {
		windows[i].Rows = slices.Clone(windows[i].Rows)
		for j := range windows[i].Rows {
			cleanRow(&windows[i].Rows[j])
		}
	}
	return windows
}

func distinct(events []mirror.EventRef) []mirror.EventRef {
	return distinctBy(events, func(e mirror.EventRef) string { return e.ID })
}

// distinctBy drops the later ones of rows with the same key.
func distinctBy[Row any](rows []Row, key func(Row) string) []Row {
	seen := make(map[string]bool, len(rows))
	return slices.DeleteFunc(rows, func(r Row) bool {
		k := key(r)
		doubled := seen[k]
		seen[k] = true
		return doubled
	})
}
