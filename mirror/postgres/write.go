package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	heldRow = `SELECT ` + heldRowColumns + ` FROM creditmirror.customer_balance_transactions AS t
WHERE t.account = $1 AND t.customer = $2 AND t.id = $3`

	heldGrant = `SELECT ` + heldGrantColumns + `
FROM creditmirror.credit_grants WHERE account = $1 AND id = $2`

	// writeApplied leaves alone what a sync would know anew: freshness and how far
	// the history is complete.
	writeApplied = `UPDATE creditmirror.sync_state SET applied_epoch = $4, synced_at = now()
WHERE account = $1 AND customer = $2 AND scope = $3 AND epoch = $4 AND applied_epoch <> $4`
)

// ApplyWrite commits Stripe's reply to a write of ours.
func (s *Store) ApplyWrite(ctx context.Context, w mirror.Write) (mirror.Applied, error) {
	w = cleanWrite(w)
	var held mirror.WriteHeld
	var applied mirror.Applied
	err := s.transact(ctx, func(b *pgx.Batch) {
		held, applied = mirror.WriteHeld{Balances: map[string]int64{}}, mirror.Applied{}
		queueHeldWrite(b, w, &held)
	}, func(b *pgx.Batch) error {
		if w.Grant != nil {
			return queueGrantWrite(b, w, held, &applied)
		}
		return queueRowWrite(b, w, held, &applied)
	})
	if err != nil {
		return mirror.Applied{}, fmt.Errorf("apply a write of %s: %w", w.Target, refused(err))
	}
	return applied, nil
}

// cleanWrite makes the reply storable before it is compared or digested.
func cleanWrite(w mirror.Write) mirror.Write {
	if w.Row != nil {
		row := *w.Row
		row.Raw = cleanJSON(row.Raw)
		row.Type, row.Description = clean(row.Type), clean(row.Description)
		w.Row = &row
	}
	if w.Grant != nil {
		w.Grant = &cleanGrants([]mirror.CreditGrant{*w.Grant})[0]
	}
	return w
}

func queueHeldWrite(b *pgx.Batch, w mirror.Write, held *mirror.WriteHeld) {
	t := w.Target
	if w.Epoch == 0 {
		b.Queue(raiseEpoch, t.Account, t.ID, string(t.Scope)).QueryRow(func(row pgx.Row) error {
			return scanState(row, &held.State)
		})
	} else {
		queueFence(b, t, w.Epoch, &held.State)
	}
	if w.Grant != nil {
		b.Queue(heldGrant, t.Account, w.Grant.ID).QueryRow(func(row pgx.Row) error {
			var g mirror.HeldGrantRow
			err := row.Scan(heldGrantInto(&g)...)
			if err == nil {
				held.Grant = &g
			}
			return absent(err)
		})
		return
	}
	b.Queue(heldRow, t.Account, t.ID, w.Row.ID).Query(func(rows pgx.Rows) error {
		row, err := pgx.CollectOneRow(rows, scanHeldRow)
		if err == nil {
			held.Row = &row
		}
		return absent(err)
	})
	b.Queue(customerByID, t.Account, t.ID).QueryRow(func(row pgx.Row) error {
		c, _, err := scanCustomer(row)
		if err == nil {
			held.Customer = &c
		}
		return absent(err)
	})
	b.Queue(heldBalances, t.Account, t.ID).Query(func(rows pgx.Rows) error {
		var currency string
		var balance int64
		_, err := pgx.ForEachRow(rows, []any{&currency, &balance}, func() error {
			held.Balances[currency] = balance
			return nil
		})
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

func queueRowWrite(b *pgx.Batch, w mirror.Write, held mirror.WriteHeld, applied *mirror.Applied) error {
	plan, err := mirror.PlanWrite(w, held)
	if err != nil {
		return err
	}
	t := w.Target
	var changes []change
	if plan.Customer != nil {
		if err := queueCustomer(b, *plan.Customer); err != nil {
			return err
		}
		changes = append(changes, change{"customers", t.ID, opUpdate})
		applied.Updated++
	}
	for _, currency := range slices.Sorted(maps.Keys(plan.Balances)) {
		op := opInsert
		if _, ok := held.Balances[currency]; ok {
			op = opUpdate
		}
		b.Queue(writeBalances, t.Account, t.ID, []string{currency}, []int64{plan.Balances[currency]})
		changes = append(changes, change{"customer_balances", currency, op})
	}
	if len(plan.Insert) > 0 {
		queueRows(b, insertRows, t, plan.Insert)
		changes = append(changes, change{"customer_balance_transactions", w.Row.ID, opInsert})
		applied.Inserted++
	}
	if len(plan.Update) > 0 {
		queueUpdateRows(b, t, plan.Update)
		changes = append(changes, change{"customer_balance_transactions", w.Row.ID, opUpdate})
		applied.Updated++
	}
	queueWritten(b, t, held.State.Epoch, changes)
	return nil
}

func queueGrantWrite(b *pgx.Batch, w mirror.Write, held mirror.WriteHeld, applied *mirror.Applied) error {
	write, err := mirror.PlanGrantWrite(w, held)
	if err != nil {
		return err
	}
	var changes []change
	if write {
		queueGrants(b, writeGrants, w.Target.Account, []mirror.CreditGrant{*w.Grant})
		changes = append(changes, change{"credit_grants", w.Grant.ID, opUpdate})
		applied.Updated++
	}
	queueWritten(b, w.Target, held.State.Epoch, changes)
	return nil
}

func queueWritten(b *pgx.Batch, t mirror.Target, epoch int64, changes []change) {
	b.Queue(writeApplied, t.Account, t.ID, string(t.Scope), epoch)
	if len(changes) > 0 {
		b.Queue(insertChanges, t.Account, t.ID,
			column(changes, func(c *change) string { return c.table }),
			column(changes, func(c *change) string { return c.id }),
			column(changes, func(c *change) string { return c.op }))
	}
}
