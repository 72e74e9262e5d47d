package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
)

// Write is Stripe's reply to a write, for Fence.ApplyWrite. One of Row and Grant
// is set.
//
// A new balance transaction is appended to the chain that is held when it
// continues it exactly: the held history is complete and proven, and the last
// ending balance plus the amount is the row's ending balance. That needs no epoch
// of its own, because it is a comparison with what is held and not a reading that
// could be old; it raises the target's epoch, so that no sync that began before
// can put an older state over it. What is known to be complete does not grow by
// it: the next sync reads over the row again, and finds rows that cancel out and
// came between.
//
// The reply to an edit of a row or of a grant is a reading of the whole object.
// Two of them can pass each other, so it needs the epoch of a BeginSync before
// the request was sent, and is written only if nothing began since.
type Write struct {
	Target Target
	// Epoch is that of the BeginSync; zero for a new row.
	Epoch int64
	Row   *BalanceTransaction
	Grant *CreditGrant
}

// WriteHeld is what a store read, in the transaction of the write, for PlanWrite.
type WriteHeld struct {
	State SyncState
	// Customer is nil when none is held.
	Customer *CustomerView
	Balances map[string]int64
	// Row is the held row of the write's id, Grant the held grant; nil when none is.
	Row   *HeldRow
	Grant *HeldGrantRow
	// Tops are as in BalanceHeld.
	Tops map[string]HeldRow
}

// PlanWrite decides what a row of a write changes. ErrDisproved when it cannot be
// known from what is held, ErrLedgerRewritten when it contradicts it.
func PlanWrite(w Write, h WriteHeld) (BalancePlan, error) {
	row := *w.Row
	if err := row.Storable(); err != nil {
		return BalancePlan{}, err
	}
	if old := h.Row; old != nil {
		if row.Amount != old.Amount || row.EndingBalance != old.EndingBalance || row.Currency != old.Currency ||
			row.Type != old.Type || !row.Created.Equal(old.Created) {
			return BalancePlan{}, fmt.Errorf("%w: an immutable field of %s changed", ErrLedgerRewritten, row.ID)
		}
		plan := BalancePlan{State: h.State}
		switch {
		case old.Digest == Digest(row.Raw):
		case w.Epoch == 0: // a sync has brought the row already, maybe in a later state
		default:
			plan.Update = []BalanceTransaction{row}
		}
		return plan, nil
	}
	top, any := h.Tops[row.Currency]
	c := h.Customer
	switch {
	case w.Epoch != 0:
		return BalancePlan{}, fmt.Errorf("%w: %s was edited and is not held", ErrDisproved, row.ID)
	case c == nil, c.Deleted, c.Currency == "", c.CreditUnreadable:
		return BalancePlan{}, fmt.Errorf("%w: the customer or its currency is not known", ErrDisproved)
	case !h.State.HistoryComplete, h.State.Disproved, h.State.Walk.InProgress():
		return BalancePlan{}, fmt.Errorf("%w: the history held is not complete and proven", ErrDisproved)
	case any && row.Created.Before(top.Created), h.Balances[row.Currency] != top.EndingBalance, !continues(top, row):
		return BalancePlan{}, fmt.Errorf("%w: %s does not continue the chain held", ErrDisproved, row.ID)
	}
	row.Position = top.Position + 1
	customer := c.Customer
	if err := customer.credit(row); err != nil {
		return BalancePlan{}, err
	}
	return BalancePlan{
		Insert: []BalanceTransaction{row}, Customer: &customer, State: h.State,
		Balances: map[string]int64{row.Currency: row.EndingBalance},
	}, nil
}

// continues reports whether the row comes next after top, without overflow.
func continues(top HeldRow, row BalanceTransaction) bool {
	return Link{Amount: row.Amount, EndingBalance: row.EndingBalance}.follows(top.EndingBalance)
}

// credit brings the customer to where the row left it, its JSON too, so that the
// next sync finds nothing to change.
func (c *Customer) credit(row BalanceTransaction) error {
	fields := map[string]any{}
	if row.Currency == c.Currency {
		c.Balance = row.EndingBalance
		fields["balance"] = row.EndingBalance
	}
	if c.InvoiceCreditBalance != nil {
		if row.EndingBalance == math.MinInt64 {
			return fmt.Errorf("%w: 64 bits do not hold what %s leaves as credit", ErrDisproved, row.ID)
		}
		c.InvoiceCreditBalance = maps.Clone(c.InvoiceCreditBalance)
		c.InvoiceCreditBalance[row.Currency] = -row.EndingBalance
		fields["invoice_credit_balance"] = c.InvoiceCreditBalance
	}
	if len(c.Raw) == 0 {
		return nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(c.Raw, &object); err != nil || object == nil {
		return fmt.Errorf("%w: the JSON held of the customer is none", ErrDisproved)
	}
	for name, value := range fields {
		if _, held := object[name]; !held {
			continue
		}
		raw, err := json.Marshal(value)
		if err != nil {
			return err
		}
		object[name] = raw
	}
	raw, err := json.Marshal(object)
	c.Raw = raw
	return err
}

// PlanGrantWrite reports whether the grant of a write is to be written.
func PlanGrantWrite(w Write, h WriteHeld) (bool, error) {
	g, old := w.Grant, h.Grant
	if err := g.Storable(); err != nil {
		return false, err
	}
	switch {
	case w.Epoch == 0:
		return false, errors.New("the edit of a grant needs an epoch")
	case old == nil:
		return false, fmt.Errorf("%w: grant %s is not held", ErrDisproved, g.ID)
	case old.Customer != g.Customer, old.Amount != g.Amount, old.Currency != g.Currency:
		return false, fmt.Errorf("%w: amount or customer of grant %s changed", ErrLedgerRewritten, g.ID)
	case old.NewerThan(*g):
		return false, fmt.Errorf("%w: grant %s is held in a newer state", ErrDisproved, g.ID)
	}
	return old.Digest != Digest(g.Raw), nil
}
