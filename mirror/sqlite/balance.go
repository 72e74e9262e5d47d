package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// ApplyBalance commits what a balance sync read.
func (s *Store) ApplyBalance(ctx context.Context, snap mirror.BalanceSnapshot) (mirror.Applied, error) {
	return mirror.ApplyBalance(ctx, balanceDriver{s}, snap, s.slice)
}

// balanceDriver is the store as mirror.ApplyBalance sees it.
type balanceDriver struct{ *Store }

// CommitBalance commits a snapshot in one transaction.
func (s balanceDriver) CommitBalance(ctx context.Context, snap mirror.BalanceSnapshot) (mirror.Applied, error) {
	c := &commit{
		target: snap.Target, epoch: snap.Epoch, eventSeq: snap.EventSeq, observed: stamp(snap.ObservedAt),
		events: snap.Events, livemode: snap.Customer.Livemode,
	}
	err := s.commit(ctx, c, func() error {
		held, err := c.heldBalance(snap, s.slice+1)
		if err != nil {
			return err
		}
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
		return c.writeBalance(plan, held)
	})
	if err != nil {
		return mirror.Applied{}, fmt.Errorf("apply %s, epoch %d: %w", snap.Target, snap.Epoch, err)
	}
	return c.out, nil
}

const (
	heldBalances = `SELECT currency, balance FROM customer_balances WHERE account = ?1 AND customer = ?2`

	heldSpan = `
SELECT id, currency, amount, ending_balance, type, created, ifnull(chain_position, 0), digest
FROM customer_balance_transactions WHERE account = ?1 AND customer = ?2 AND created BETWEEN ?3 AND ?4 LIMIT ?5 + 0`

	heldUnplaced = `
SELECT id, currency, amount, ending_balance, type, created, 0, digest
FROM customer_balance_transactions WHERE account = ?1 AND customer = ?2 AND chain_position IS NULL LIMIT ?3 + 0`

	// rowsToPlace and unplacedRows list the rows that a slice of a long history places.
	rowsToPlace = `
SELECT id, currency, amount, ending_balance, type, created, ifnull(chain_position, 0), digest
FROM customer_balance_transactions INDEXED BY customer_balance_transactions_list
WHERE account = ?1 AND customer = ?2 AND created > ?3 ORDER BY created LIMIT ?4 + 0`

	unplacedRows = `
SELECT id, currency, amount, ending_balance, type, created, 0, digest
FROM customer_balance_transactions INDEXED BY customer_balance_transactions_unplaced
WHERE account = ?1 AND customer = ?2 AND chain_position IS NULL AND created > ?3 ORDER BY created LIMIT ?4 + 0`

	// heldTops steps from currency to currency, since a customer has few of them and
	// may have very many rows.
	heldTops = `
WITH RECURSIVE currencies (currency) AS (
    SELECT min(currency) FROM customer_balance_transactions WHERE account = ?1 AND customer = ?2
    UNION ALL
    SELECT (SELECT min(t.currency) FROM customer_balance_transactions t
            WHERE t.account = ?1 AND t.customer = ?2 AND t.currency > c.currency)
    FROM currencies c WHERE c.currency IS NOT NULL)
SELECT t.id, t.currency, t.amount, t.ending_balance, t.type, t.created, t.chain_position, t.digest
FROM currencies c JOIN customer_balance_transactions t ON t.rowid = (
    SELECT n.rowid FROM customer_balance_transactions n
    WHERE n.account = ?1 AND n.customer = ?2 AND n.currency = c.currency AND n.chain_position IS NOT NULL
    ORDER BY n.chain_position DESC LIMIT 1)
WHERE c.currency IS NOT NULL`
)

// heldBalance reads what PlanBalance compares the snapshot with; at most so many of
// the rows that wait for their place or, of a full read, of all.
func (c *commit) heldBalance(snap mirror.BalanceSnapshot, limit int) (mirror.BalanceHeld, error) {
	h := mirror.BalanceHeld{State: c.was, Balances: map[string]int64{}, Tops: map[string]mirror.HeldRow{}}
	key := []any{c.target.Account, c.target.ID}
	var view mirror.CustomerView
	found, err := c.row(readCustomer, key, customerColumns(&view, &h.CustomerDigest)...)
	if err != nil {
		return h, err
	}
	if found {
		h.Customer = &view
	}
	err = c.each(heldBalances, key, func(rows *sql.Rows) error {
		var currency string
		var balance int64
		if err := rows.Scan(&currency, &balance); err != nil {
			return err
		}
		h.Balances[currency] = balance
		return nil
	})
	if err != nil {
		return h, err
	}
	seen := map[string]bool{} // spans may overlap
	for _, span := range snap.Spans() {
		from, to := bounds(span)
		most := -1
		if snap.ReadsAll() {
			most = limit
		}
		err := c.each(heldSpan, append(key[:2:2], from, to, most), func(rows *sql.Rows) error {
			r, err := scanHeld(rows)
			if err == nil && !seen[r.ID] {
				seen[r.ID] = true
				h.Rows = append(h.Rows, r)
			}
			return err
		})
		if err != nil {
			return h, err
		}
	}
	if snap.Whole() {
		h.Stored, err = stored(c, storedSpan, storedByID, snap.WindowSpans(), snap.Listed(), scanStored)
	} else {
		h.Stored, err = storedOf(c, accusedRows, snap.Listed(), scanStored)
	}
	if err != nil {
		return h, err
	}
	if !snap.Joined {
		return h, nil
	}
	err = c.each(heldUnplaced, append(key[:2:2], limit), func(rows *sql.Rows) error {
		r, err := scanHeld(rows)
		h.Unplaced = append(h.Unplaced, r)
		return err
	})
	if err != nil {
		return h, err
	}
	return h, c.each(heldTops, key, func(rows *sql.Rows) error {
		r, err := scanHeld(rows)
		h.Tops[r.Currency] = r
		return err
	})
}

// Tops reads the ends of a customer's chains.
func (s balanceDriver) Tops(ctx context.Context, t mirror.Target) (map[string]mirror.HeldRow, error) {
	tops := map[string]mirror.HeldRow{}
	err := s.read(ctx, func(r *reading) error {
		return r.each(heldTops, []any{t.Account, t.ID}, func(rows *sql.Rows) error {
			top, err := scanHeld(rows)
			tops[top.Currency] = top
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the ends of the chains of %s: %w", t, err)
	}
	return tops, nil
}

// RowsToPlace lists held rows created after a time.
func (s balanceDriver) RowsToPlace(ctx context.Context, t mirror.Target, all bool, after time.Time, limit int) ([]mirror.HeldRow, error) {
	query, from := unplacedRows, ""
	if all {
		query = rowsToPlace
	}
	if !after.IsZero() {
		from = stamp(after)
	}
	list := make([]mirror.HeldRow, 0, limit)
	err := s.read(ctx, func(r *reading) error {
		return r.each(query, []any{t.Account, t.ID, from, limit}, func(rows *sql.Rows) error {
			row, err := scanHeld(rows)
			list = append(list, row)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list rows to place of %s: %w", t, err)
	}
	return list, nil
}

// Place writes positions behind the fence. A power cut may undo it, as long as the
// join has not followed: the next sync places the rows again.
func (s balanceDriver) Place(ctx context.Context, t mirror.Target, epoch int64, places []mirror.Placement) error {
	c := &commit{target: t, epoch: epoch}
	err := s.w.do(ctx, volatile, func(tx *tx) error {
		c.tx, c.changes = tx, nil
		if err := c.enter(); err != nil {
			return err
		}
		if err := c.place(places); err != nil {
			return err
		}
		return c.writeChanges()
	})
	if err != nil {
		return fmt.Errorf("place %d rows of %s, epoch %d: %w", len(places), t, epoch, s.explain(err))
	}
	return nil
}

// place writes positions; rows that moved go to the change feed, unless known.
func (c *commit) place(places []mirror.Placement, known ...string) error {
	list := make([][]any, 0, len(places))
	for _, p := range places {
		list = append(list, []any{p.ID, position(p.Position)})
		if p.Moved && !slices.Contains(known, p.ID) {
			c.changed("customer_balance_transactions", c.target.ID, p.ID, "update")
		}
	}
	_, err := c.inBatches(placeRows, list, c.target.Account, c.target.ID, c.at)
	return err
}

func scanHeld(rows *sql.Rows) (mirror.HeldRow, error) {
	var r mirror.HeldRow
	err := rows.Scan(&r.ID, &r.Currency, &r.Amount, &r.EndingBalance, &r.Type,
		timeColumn{&r.Created}, &r.Position, &r.Digest)
	return r, err
}

// bounds are a span's ends as text; an open one lies beyond every time.
func bounds(s mirror.Span) (from, to string) {
	from, to = "", "~"
	if !s.From.IsZero() {
		from = stamp(s.From)
	}
	if !s.To.IsZero() {
		to = stamp(s.To)
	}
	return from, to
}

const (
	rowValues = `
INSERT INTO customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, invoice,
       credit_note, checkout_session, description, metadata, created, livemode, chain_position, raw, digest, synced_at)
SELECT ?2, ?3, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5,
       value->>6, value->>7, value->>8, value->>9, value->>10, value->>11, value->>12, value->>13, value->>14, ?4
FROM json_each(?1) WHERE true `

	// insertRows leaves a held row alone: the caller counts what was written.
	insertRows = rowValues + `
ON CONFLICT DO NOTHING`

	// updateRows is an upsert of rows that are all held: an UPDATE … FROM would walk
	// through all rows of the customer for each.
	updateRows = rowValues + `
ON CONFLICT (account, customer, id) DO UPDATE SET invoice = excluded.invoice, credit_note = excluded.credit_note,
       checkout_session = excluded.checkout_session, description = excluded.description, metadata = excluded.metadata,
       raw = excluded.raw, digest = excluded.digest, synced_at = excluded.synced_at`

	// restoreRows writes the columns too that no reply can change.
	restoreRows = updateRows + `, currency = excluded.currency, amount = excluded.amount,
       ending_balance = excluded.ending_balance, type = excluded.type, created = excluded.created, livemode = excluded.livemode`

	// placeRows finds the rows by their key first, for the same reason.
	placeRows = `
WITH places AS MATERIALIZED (
    SELECT t.rowid AS place, n.value->>1 AS position
    FROM json_each(?1) n CROSS JOIN customer_balance_transactions t
    WHERE t.account = ?2 AND t.customer = ?3 AND t.id = n.value->>0)
UPDATE customer_balance_transactions SET chain_position = places.position, synced_at = ?4
FROM places WHERE customer_balance_transactions.rowid = places.place`

	writeBalances = `
INSERT INTO customer_balances (account, customer, currency, balance, synced_at)
SELECT ?2, ?3, value->>0, value->>1, ?4 FROM json_each(?1) WHERE true
ON CONFLICT (account, customer, currency) DO UPDATE SET balance = excluded.balance, synced_at = excluded.synced_at`
)

// writeBalance writes the plan.
func (c *commit) writeBalance(plan mirror.BalancePlan, held mirror.BalanceHeld) error {
	account, customer := c.target.Account, c.target.ID
	if plan.Customer != nil {
		if err := c.writeCustomer(*plan.Customer); err != nil {
			return err
		}
		c.changed("customers", customer, customer, op(held.Customer != nil))
	}
	balances := make([][]any, 0, len(plan.Balances))
	for _, currency := range sortedKeys(plan.Balances) {
		_, had := held.Balances[currency]
		balances = append(balances, []any{currency, plan.Balances[currency]})
		c.changed("customer_balances", customer, currency, op(had))
	}
	if _, err := c.inBatches(writeBalances, balances, account, customer, c.at); err != nil {
		return err
	}
	const table = "customer_balance_transactions"
	for _, r := range plan.Insert {
		c.changed(table, customer, r.ID, "insert")
	}
	n, err := c.inBatches(insertRows, balanceRows(plan.Insert), account, customer, c.at)
	if err != nil {
		return err
	}
	if n != len(plan.Insert) {
		// A row that lies outside the time that was compared, and yet is held.
		return fmt.Errorf("created of a held transaction changed: %w", mirror.ErrLedgerRewritten)
	}
	var updated []string
	for _, r := range slices.Concat(plan.Update, plan.Restore) {
		updated = append(updated, r.ID)
		c.changed(table, customer, r.ID, "update")
	}
	if _, err := c.inBatches(updateRows, balanceRows(plan.Update), account, customer, c.at); err != nil {
		return err
	}
	if _, err := c.inBatches(restoreRows, balanceRows(plan.Restore), account, customer, c.at); err != nil {
		return err
	}
	if err := c.place(plan.Place, updated...); err != nil {
		return err
	}
	return c.leave(plan.State, plan.Open, plan.Repaired, plan.Close)
}

func balanceRows(list []mirror.BalanceTransaction) [][]any {
	rows := make([][]any, 0, len(list))
	for _, r := range list {
		rows = append(rows, []any{
			r.ID, r.Currency, r.Amount, r.EndingBalance, plain(r.Type), null(r.Invoice), null(r.CreditNote),
			null(r.CheckoutSession), null(r.Description), object(r.Metadata), stamp(r.Created), flag(r.Livemode),
			position(r.Position), object(r.Raw), mirror.Digest(r.Raw),
		})
	}
	return rows
}

// position writes an unproven place as NULL.
func position(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

// op names a change.
func op(held bool) string {
	if held {
		return "update"
	}
	return "insert"
}
