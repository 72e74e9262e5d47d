package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

const (
	heldCreditsInSpans = `SELECT t.id, t."grant", t.currency, t.amount, t.created, t.digest
FROM unnest($3::timestamptz[], $4::timestamptz[]) AS span (first, last)
CROSS JOIN LATERAL (
  SELECT * FROM creditmirror.credit_balance_transactions AS r
  WHERE r.account = $1 AND r.customer = $2 AND r.created >= span.first AND r.created <= span.last OFFSET 0
) AS t`

	heldSums = `SELECT "grant", max(currency), sum(amount), count(*)
FROM creditmirror.credit_balance_transactions WHERE account = $1 AND customer = $2 GROUP BY "grant"`

	heldGrantColumns = `customer, coalesce(amount, 0), coalesce(currency, ''), updated, voided_at, digest`

	heldGrantRows = `SELECT id, ` + heldGrantColumns + `
FROM creditmirror.credit_grants WHERE account = $1 AND (customer = $2 OR id = ANY ($3::text[])) ORDER BY id`

	// waitingNamed are the events of a target that name what must be held before they
	// are answered; rowOwners find the rows that they and $4 name, of whichever customer.
	waitingNamed = `SELECT id, created, coalesce(object, ''), type, object_updated ` + fromWaitingNamed + ` ORDER BY seq`

	fromWaitingNamed = `FROM creditmirror.stripe_events
WHERE account = $1 AND customer = $2 AND seq <= $3 AND pending_scopes <> 0 AND pending_scopes & 2 <> 0 AND type IN ` + naming

	rowOwners = `SELECT id, customer, currency FROM creditmirror.credit_balance_transactions
WHERE account = $1 AND id IN (SELECT unnest($4::text[]) UNION SELECT object ` + fromWaitingNamed + `)`

	heldSummary = `SELECT currency, ledger_balance, available_balance
FROM creditmirror.credit_balance_summaries WHERE account = $1 AND customer = $2`

	customerMode = `SELECT livemode FROM creditmirror.customers WHERE account = $1 AND id = $2`

	insertCredits = `INSERT INTO creditmirror.credit_balance_transactions
  (account, customer, id, "grant", type, credit_type, debit_type, currency, amount, invoice, invoice_line_item,
   effective_at, created, livemode, test_clock, raw, digest)
SELECT $1, $2, u.id, u.grant_id, u.type, u.credit_type, u.debit_type, u.currency, u.amount, u.invoice, u.invoice_line_item,
  u.effective_at, u.created, u.livemode, u.test_clock, u.raw::jsonb, u.digest
FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::text[], $11::text[],
    $12::timestamptz[], $13::timestamptz[], $14::boolean[], $15::text[], $16::text[], $17::text[])
  AS u (id, grant_id, type, credit_type, debit_type, currency, amount, invoice, invoice_line_item,
    effective_at, created, livemode, test_clock, raw, digest)`

	// restoreCredits writes the columns too that no reply can change.
	restoreCredits = insertCredits + `
ON CONFLICT (account, customer, id) DO UPDATE SET
  "grant" = excluded."grant", type = excluded.type, credit_type = excluded.credit_type, debit_type = excluded.debit_type,
  currency = excluded.currency, amount = excluded.amount, invoice = excluded.invoice, invoice_line_item = excluded.invoice_line_item,
  effective_at = excluded.effective_at, created = excluded.created, livemode = excluded.livemode, test_clock = excluded.test_clock,
  raw = excluded.raw, digest = excluded.digest, synced_at = now()`

	updateCredits = `UPDATE creditmirror.credit_balance_transactions AS t SET
  credit_type = u.credit_type, debit_type = u.debit_type, invoice = u.invoice, invoice_line_item = u.invoice_line_item,
  effective_at = u.effective_at, test_clock = u.test_clock, raw = u.raw::jsonb, digest = u.digest, synced_at = now()
FROM (
  SELECT r.place, u.* FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[], $9::text[], $10::text[], $11::text[])
    AS u (id, credit_type, debit_type, invoice, invoice_line_item, effective_at, test_clock, raw, digest)
  CROSS JOIN LATERAL (
    SELECT n.ctid AS place FROM creditmirror.credit_balance_transactions AS n
    WHERE n.account = $1 AND n.customer = $2 AND n.id = u.id OFFSET 0
  ) AS r
) AS u
WHERE t.ctid = u.place AND t.account = $1 AND t.customer = $2`

	writeClock = `INSERT INTO creditmirror.test_clocks AS k (account, id, frozen_time) VALUES ($1, $2, $3)
ON CONFLICT (account, id) DO UPDATE SET frozen_time = excluded.frozen_time, synced_at = now()
WHERE excluded.frozen_time > k.frozen_time`

	writeSummary = `INSERT INTO creditmirror.credit_balance_summaries (account, customer, currency, available_balance, ledger_balance)
SELECT $1, $2, u.currency, u.available_balance, u.ledger_balance
FROM unnest($3::text[], $4::bigint[], $5::bigint[]) AS u (currency, available_balance, ledger_balance)
ON CONFLICT (account, customer, currency) DO UPDATE SET
  available_balance = excluded.available_balance, ledger_balance = excluded.ledger_balance, synced_at = now()`
)

// ApplyCredits commits one sync of the billing credits.
func (s *Store) ApplyCredits(ctx context.Context, snap mirror.CreditsSnapshot) (mirror.Applied, error) {
	snap = cleanCredits(snap)
	var held mirror.CreditsHeld
	var livemode bool
	var applied mirror.Applied
	err := s.fenced(ctx, snap.Epoch, func(b *pgx.Batch) {
		held, applied = mirror.CreditsHeld{}, mirror.Applied{}
		queueHeldCredits(b, snap, &held, &livemode)
	}, func(b *pgx.Batch) error {
		plan, err := mirror.PlanCredits(snap, held)
		if err != nil {
			return err
		}
		queueCreditsPlan(b, snap, held, plan, livemode, &applied)
		return nil
	})
	if err != nil {
		return mirror.Applied{}, fmt.Errorf("apply %s, epoch %d: %w", snap.Target, snap.Epoch, refused(err))
	}
	applied.Answered = distinct(applied.Answered)
	if !snap.Joined {
		s.credits.add(ctx, s, applied.Inserted)
	}
	return applied, nil
}

func queueHeldCredits(b *pgx.Batch, snap mirror.CreditsSnapshot, held *mirror.CreditsHeld, livemode *bool) {
	t := snap.Target
	queueFence(b, t, snap.Epoch, &held.State)
	held.State.EventSeq = snap.EventSeq
	var known bool
	if *livemode, known = snap.Livemode(); !known {
		b.Queue(customerMode, t.Account, t.ID).QueryRow(func(row pgx.Row) error { return absent(row.Scan(livemode)) })
	}
	if spans := snap.Spans(); len(spans) > 0 {
		b.Queue(heldCreditsInSpans, t.Account, t.ID, column(spans, spanFrom), column(spans, spanTo)).Query(func(rows pgx.Rows) (err error) {
			held.Rows, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r mirror.HeldCredit, err error) {
				err = row.Scan(&r.ID, &r.Grant, &r.Currency, &r.Amount, (*optTime)(&r.Created), &r.Digest)
				return r, err
			})
			held.Rows = distinctBy(held.Rows, func(r mirror.HeldCredit) string { return r.ID })
			return err
		})
	}
	if snap.Joined { // a piece needs no sums, and they read the index of the whole history
		b.Queue(heldSums, t.Account, t.ID).Query(func(rows pgx.Rows) error {
			held.Sums = map[string]mirror.GrantSum{}
			var id string
			var sum mirror.GrantSum
			var amount wide
			_, err := pgx.ForEachRow(rows, []any{&id, &sum.Currency, &amount, &sum.Rows}, func() error {
				sum.Sum, _ = report.Wide(amount).Amount() // the nearest, which no grant explains
				held.Sums[id] = sum
				return nil
			})
			return err
		})
	}
	b.Queue(heldGrantRows, t.Account, t.ID, snap.GrantIDs()).Query(func(rows pgx.Rows) error {
		held.Grants = map[string]mirror.HeldGrantRow{}
		var id string
		var g mirror.HeldGrantRow
		_, err := pgx.ForEachRow(rows, append([]any{&id}, heldGrantInto(&g)...), func() error {
			held.Grants[id] = g
			return nil
		})
		return err
	})
	b.Queue(waitingNamed, t.Account, t.ID, snap.EventSeq).Query(func(rows pgx.Rows) (err error) {
		held.Waiting, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e mirror.EventRef, err error) {
			err = row.Scan(&e.ID, &e.Created, &e.Object, &e.Type, (*optTime)(&e.Updated))
			return e, err
		})
		return err
	})
	b.Queue(rowOwners, t.Account, t.ID, snap.EventSeq, namedRows(snap)).Query(func(rows pgx.Rows) error {
		held.Owners = map[string]mirror.RowOwner{}
		var id string
		var o mirror.RowOwner
		_, err := pgx.ForEachRow(rows, []any{&id, &o.Customer, &o.Currency}, func() error {
			held.Owners[id] = o
			return nil
		})
		return err
	})
	if snap.Whole() {
		queueStored(b, storedCredits, t, snap.Listed(), snap.WindowSpans(), &held.Stored, scanStoredCredit)
	} else {
		queueAccused(b, accusedCredits, t, snap.Listed(), &held.Stored, scanStoredCredit)
	}
	if snap.Whole() || snap.AllGrants {
		b.Queue(storedGrants, t.Account, t.ID, snap.GrantIDs()).Query(collectStored(&held.StoredGrants, scanStoredGrant))
	} else {
		queueAccused(b, accusedGrants, t, snap.GrantIDs(), &held.StoredGrants, scanStoredGrant)
	}
	b.Queue(heldSummary, t.Account, t.ID).Query(func(rows pgx.Rows) error {
		held.Summary = map[string]mirror.CreditBalance{}
		var currency string
		var balance mirror.CreditBalance
		_, err := pgx.ForEachRow(rows, []any{&currency, &balance.Ledger, &balance.Available}, func() error {
			held.Summary[currency] = balance
			return nil
		})
		return err
	})
}

// heldGrantInto are the places for heldGrantColumns.
func heldGrantInto(g *mirror.HeldGrantRow) []any {
	return []any{&g.Customer, &g.Amount, &g.Currency, (*optTime)(&g.Updated), (*grantTime)(&g.VoidedAt), &g.Digest}
}

// namedRows are the credit balance transactions that a snapshot's events name.
func namedRows(snap mirror.CreditsSnapshot) []string {
	ids := []string{}
	for _, e := range snap.Events {
		if e.NamesRow() {
			ids = append(ids, clean(e.Object))
		}
	}
	return ids
}

func queueCreditsPlan(b *pgx.Batch, snap mirror.CreditsSnapshot, held mirror.CreditsHeld, plan mirror.CreditsPlan, livemode bool, applied *mirror.Applied) {
	t := snap.Target
	c := commitment{
		target: t, eventSeq: snap.EventSeq, observedAt: snap.ObservedAt,
		events: plan.AnswersOf(snap.Events), named: plan.Answers(held),
		state: plan.State, open: plan.Open, repaired: plan.Repaired, close: plan.Close, livemode: livemode,
	}
	applied.Unanswered = plan.Unanswered
	if plan.Behind {
		c.observedAt = time.Time{}
	}
	if len(plan.Grants) > 0 {
		grants := plan.Grants
		queueGrants(b, writeGrants, t.Account, grants)
		for _, g := range grants {
			if _, ok := held.Grants[g.ID]; ok {
				c.changes = append(c.changes, change{"credit_grants", g.ID, opUpdate})
			} else {
				c.changes = append(c.changes, change{"credit_grants", g.ID, opInsert})
			}
		}
	}
	for rows := range slices.Chunk(plan.Insert, rowsPerStatement) {
		queueCredits(b, insertCredits, t, rows)
	}
	for rows := range slices.Chunk(plan.Update, rowsPerStatement) {
		queueUpdateCredits(b, t, rows)
	}
	for rows := range slices.Chunk(plan.Restore, rowsPerStatement) {
		queueCredits(b, restoreCredits, t, rows)
	}
	for _, r := range plan.Insert {
		c.changes = append(c.changes, change{"credit_balance_transactions", r.ID, opInsert})
	}
	for _, r := range slices.Concat(plan.Update, plan.Restore) {
		c.changes = append(c.changes, change{"credit_balance_transactions", r.ID, opUpdate})
	}
	applied.Inserted += len(plan.Insert)
	applied.Updated += len(plan.Update) + len(plan.Restore)
	if k := plan.Clock; k.ID != "" {
		b.Queue(writeClock, t.Account, clean(k.ID), k.Frozen)
	}
	if len(plan.Summary) > 0 {
		currencies := slices.Sorted(maps.Keys(plan.Summary))
		b.Queue(writeSummary, t.Account, t.ID, currencies,
			column(currencies, func(currency *string) int64 { return plan.Summary[*currency].Available }),
			column(currencies, func(currency *string) int64 { return plan.Summary[*currency].Ledger }))
		for _, currency := range currencies {
			op := opInsert
			if _, ok := held.Summary[currency]; ok {
				op = opUpdate
			}
			c.changes = append(c.changes, change{"credit_balance_summaries", currency, op})
		}
	}
	c.queue(b, applied)
}

// queueCredits queues a statement that takes whole rows.
func queueCredits(b *pgx.Batch, statement string, t mirror.Target, rows []mirror.CreditTransaction) {
	b.Queue(statement, t.Account, t.ID,
		column(rows, func(r *mirror.CreditTransaction) string { return r.ID }),
		column(rows, func(r *mirror.CreditTransaction) string { return r.Grant }),
		column(rows, func(r *mirror.CreditTransaction) string { return r.Type }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.CreditType) }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.DebitType) }),
		column(rows, func(r *mirror.CreditTransaction) string { return r.Currency }),
		column(rows, func(r *mirror.CreditTransaction) int64 { return r.Amount }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.Invoice) }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.InvoiceLineItem) }),
		column(rows, func(r *mirror.CreditTransaction) optTime { return optTime(r.EffectiveAt) }),
		column(rows, func(r *mirror.CreditTransaction) time.Time { return r.Created }),
		column(rows, func(r *mirror.CreditTransaction) bool { return r.Livemode }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.TestClock) }),
		column(rows, func(r *mirror.CreditTransaction) string { return objectJSON(r.Raw) }),
		column(rows, func(r *mirror.CreditTransaction) string { return mirror.Digest(r.Raw) }))
}

func queueUpdateCredits(b *pgx.Batch, t mirror.Target, rows []mirror.CreditTransaction) {
	b.Queue(updateCredits, t.Account, t.ID,
		column(rows, func(r *mirror.CreditTransaction) string { return r.ID }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.CreditType) }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.DebitType) }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.Invoice) }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.InvoiceLineItem) }),
		column(rows, func(r *mirror.CreditTransaction) optTime { return optTime(r.EffectiveAt) }),
		column(rows, func(r *mirror.CreditTransaction) optText { return optText(r.TestClock) }),
		column(rows, func(r *mirror.CreditTransaction) string { return objectJSON(r.Raw) }),
		column(rows, func(r *mirror.CreditTransaction) string { return mirror.Digest(r.Raw) }))
}

// cleanCredits is cleanBalance for the other ledger.
func cleanCredits(snap mirror.CreditsSnapshot) mirror.CreditsSnapshot {
	snap.Windows = cleanWindows(snap.Windows, func(r *mirror.CreditTransaction) {
		r.Raw = cleanJSON(r.Raw)
		r.ID, r.Grant, r.Currency, r.Type = clean(r.ID), clean(r.Grant), clean(r.Currency), clean(r.Type)
	})
	snap.Grants = cleanGrants(snap.Grants)
	return snap
}
