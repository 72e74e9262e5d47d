package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	heldRow = `
SELECT id, currency, amount, ending_balance, type, created, ifnull(chain_position, 0), digest
FROM customer_balance_transactions WHERE account = ?1 AND customer = ?2 AND id = ?3`

	heldGrant = `SELECT ` + heldGrantColumns + ` FROM credit_grants WHERE account = ?1 AND id = ?2`

	// writeApplied leaves alone what a sync would know anew: freshness and how far
	// the history is complete.
	writeApplied = `
UPDATE sync_state SET applied_epoch = ?4, synced_at = ?5
WHERE account = ?1 AND customer = ?2 AND scope = ?3 AND epoch = ?4 AND applied_epoch <> ?4`
)

// ApplyWrite commits Stripe's reply to a write of ours.
func (s *Store) ApplyWrite(ctx context.Context, w mirror.Write) (mirror.Applied, error) {
	c := &commit{target: w.Target, epoch: w.Epoch}
	err := s.w.do(ctx, durable, func(tx *tx) error {
		c.tx = tx
		if err := c.enterWrite(); err != nil {
			return err
		}
		write := c.writeRow
		if w.Grant != nil {
			write = c.writeGrant
		}
		if err := write(w); err != nil {
			return err
		}
		if err := c.writeChanges(); err != nil {
			return err
		}
		t := c.target
		return c.exec(writeApplied, t.Account, t.ID, string(t.Scope), c.epoch, c.at)
	})
	if err != nil {
		return mirror.Applied{}, fmt.Errorf("apply a write of %s: %w", w.Target, s.explain(err))
	}
	return c.out, nil
}

// enterWrite checks the fence, or raises it where the write has no epoch.
func (c *commit) enterWrite() error {
	if c.epoch != 0 {
		return c.enter()
	}
	t := c.target
	_, err := c.row(raiseEpoch, []any{t.Account, t.ID, string(t.Scope), c.at, c.moment.UnixMicro()},
		&c.was.Epoch, &c.was.HistoryComplete, timeColumn{&c.was.CompleteTo}, &c.was.Walk.Cursor,
		timeColumn{&c.was.Walk.Top}, &c.was.Walk.Full, &c.was.Disproved, timeColumn{&c.was.ObservedAt}, timeColumn{&c.was.FullReadAt},
		timeColumn{&c.was.RefusedAt})
	c.epoch = c.was.Epoch
	return err
}

func (c *commit) writeRow(w mirror.Write) error {
	// A snapshot of nothing but a head that is joined: the customer, its balances
	// and the tops of its chains.
	held, err := c.heldBalance(mirror.BalanceSnapshot{Target: w.Target, Joined: true}, 0)
	if err != nil {
		return err
	}
	h := mirror.WriteHeld{State: c.was, Customer: held.Customer, Balances: held.Balances, Tops: held.Tops}
	account, customer := c.target.Account, c.target.ID
	err = c.each(heldRow, []any{account, customer, w.Row.ID}, func(rows *sql.Rows) error {
		r, err := scanHeld(rows)
		h.Row = &r
		return err
	})
	if err != nil {
		return err
	}
	plan, err := mirror.PlanWrite(w, h)
	if err != nil {
		return err
	}
	if plan.Customer != nil {
		if err := c.writeCustomer(*plan.Customer); err != nil {
			return err
		}
		c.changed("customers", customer, customer, "update")
	}
	var balances [][]any
	for _, currency := range sortedKeys(plan.Balances) {
		_, had := h.Balances[currency]
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
	if _, err := c.inBatches(insertRows, balanceRows(plan.Insert), account, customer, c.at); err != nil {
		return err
	}
	for _, r := range plan.Update {
		c.changed(table, customer, r.ID, "update")
	}
	_, err = c.inBatches(updateRows, balanceRows(plan.Update), account, customer, c.at)
	return err
}

func (c *commit) writeGrant(w mirror.Write) error {
	h := mirror.WriteHeld{State: c.was}
	found := false
	g, err := scanHeldGrant(func(columns ...any) (err error) {
		found, err = c.row(heldGrant, []any{c.target.Account, w.Grant.ID}, columns...)
		return err
	})
	if err != nil {
		return err
	}
	if found {
		h.Grant = &g
	}
	write, err := mirror.PlanGrantWrite(w, h)
	if err != nil || !write {
		return err
	}
	c.changed("credit_grants", c.target.ID, w.Grant.ID, "update")
	c.out.Updated++ // the feed counts the ledgers alone
	_, err = c.inBatches(upsertGrants, grantRows([]mirror.CreditGrant{*w.Grant}), c.target.Account, c.at)
	return err
}
