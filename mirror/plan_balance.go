package mirror

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Spans are the created times within which a store must read held rows, bounds
// included, so that PlanBalance can compare them with the snapshot.
func (s BalanceSnapshot) Spans() []Span {
	return spans(s.Windows, s.ReadsAll(), func(r BalanceTransaction) time.Time { return r.Created })
}

// Whole reports whether the snapshot is a read of the whole history or a piece of one,
// so that a store must read all of BalanceHeld.Stored.
func (s BalanceSnapshot) Whole() bool { return whole(s.Joined, s.Full, s.Walk) }

// Listed are the ids of the rows, and WindowSpans the created times that the
// windows cover: what a store must read for BalanceHeld.Stored.
func (s BalanceSnapshot) Listed() []string {
	return listed(s.Windows, func(r BalanceTransaction) string { return r.ID })
}

// WindowSpans come with Listed.
func (s BalanceSnapshot) WindowSpans() []Span {
	return spans(s.Windows, false, func(r BalanceTransaction) time.Time { return r.Created })
}

func listed[Row any](windows []Window[Row], id func(Row) string) []string {
	var ids []string
	for _, w := range windows {
		for _, r := range w.Rows {
			ids = append(ids, id(r))
		}
	}
	return ids
}

func spans[Row any](windows []Window[Row], all bool, created func(Row) time.Time) []Span {
	if all {
		return []Span{{}}
	}
	var list []Span
	for _, w := range windows {
		var s Span
		switch {
		case len(w.Rows) == 0 && !(w.FromHead && w.ToEnd):
			continue
		case len(w.Rows) > 0:
			if !w.FromHead {
				s.To = created(w.Rows[0])
			}
			if !w.ToEnd {
				s.From = created(w.Rows[len(w.Rows)-1])
			}
		}
		list = append(list, s)
	}
	return list
}

// inside reports whether a row of that time must be among the window's rows: its
// second lies wholly within it.
func inside[Row any](w Window[Row], t time.Time, created func(Row) time.Time) bool {
	if len(w.Rows) == 0 {
		return w.FromHead && w.ToEnd
	}
	return (w.FromHead || t.Before(created(w.Rows[0]))) &&
		(w.ToEnd || t.After(created(w.Rows[len(w.Rows)-1])))
}

// PlanBalance decides what a balance sync writes: how the rows held differ from those
// of the reply, whether the rows prove the customer's balance, and what of it repairs a
// difference that was made here. It returns ErrLedgerRewritten when the reply contradicts
// a row that is held, and ErrDisproved when the rows do not explain the customer's balance
// and the snapshot does not accept that.
func PlanBalance(s BalanceSnapshot, h BalanceHeld) (BalancePlan, error) {
	plan := BalancePlan{State: h.State, Balances: map[string]int64{}}
	if err := plan.diff(s, h); err != nil {
		return BalancePlan{}, err
	}
	h = h.restored(plan.Restore)
	ends := s.Customer.Ends()
	if !s.Joined {
		plan.State.Walk = s.walkLeft(h)
	} else if err := plan.prove(s, h, ends); err != nil {
		return BalancePlan{}, err
	}
	plan.balances(s, h, ends)
	if customerChanged(s, h) {
		c := s.Customer
		plan.Customer = &c
		plan.Close.Compared = append(slices.Clone(plan.Close.Compared), c.ID)
	}
	plan.Repaired = slices.Concat(repairedRows(s, h, plan), misplaced(s, h, plan), repairedCustomer(s, h, plan, ends))
	return plan, nil
}

// diff plans the writing of rows. It refuses a reply that rewrites history.
func (plan *BalancePlan) diff(s BalanceSnapshot, h BalanceHeld) error {
	reply := replyOf(s.Windows, func(r BalanceTransaction) string { return r.ID })
	if err := firstOf(s.Target.ID, s.Customer.Storable(), reply.storable()); err != nil {
		return err
	}
	rows := history[BalanceTransaction, HeldRow]{
		reply: reply, windows: s.Windows, held: h.Rows, others: h.Unplaced, stored: h.Stored, whole: s.Whole(),
		created:  func(r BalanceTransaction) time.Time { return r.Created },
		row:      func(r HeldRow) rowFacts { return rowFacts{r.ID, r.Currency, r.Amount, r.Created, r.Digest} },
		hold:     holdRow,
		changed:  changedTransaction,
		currency: func(r BalanceTransaction) string { return r.Currency },
		finding:  s.finding,
	}
	if err := rows.check(); err != nil {
		return err
	}
	plan.Insert, plan.Update, plan.Restore = rows.diff()
	plan.Close.Objects, plan.Close.Compared = reply.order, reply.order
	if !s.Whole() {
		plan.Close.Compared = compared(reply.order, h.Stored)
		for _, r := range plan.Insert {
			plan.Close.Compared = append(plan.Close.Compared, r.ID)
		}
	}
	return nil
}

// prove lays the chains of a joined read and plans the places of its rows. It adds to
// ends where the chains of currencies end of which Stripe says nothing.
func (plan *BalancePlan) prove(s BalanceSnapshot, h BalanceHeld, ends map[string]int64) error {
	chains, placed, err := prove(s, h, plan.Insert, maps.Clone(ends))
	if err != nil {
		return err
	}
	broken := chains.err()
	if broken != nil && !s.AcceptDisproof {
		return fmt.Errorf("%w: %w", ErrDisproved, broken)
	}
	plan.place(placed, h)
	plan.State.HistoryComplete = true
	plan.State.CompleteTo = newest(later(h.State.CompleteTo, h.State.Walk.Top), s.Windows, func(r BalanceTransaction) time.Time { return r.Created })
	plan.State.Walk = Walk{}
	plan.State.FullReadAt = fullReadAt(s.Full, h.State, s.ObservedAt)
	plan.Close.MissedBefore = s.ObservedAt
	switch {
	case broken != nil:
		plan.State.Disproved = true
		plan.Open = chains.findings(s)
	case s.Full || !h.State.Disproved:
		// A chain that was broken once is proven only from its beginning.
		plan.State.Disproved = false
		plan.Close.Kinds = closeKinds(s.Full, DriftChainGap)
	}
	for currency, end := range chains.ends() {
		if _, known := ends[currency]; !known {
			ends[currency] = end
		}
	}
	return nil
}

// walkLeft is how far the history is read after a piece of it.
func (s BalanceSnapshot) walkLeft(h BalanceHeld) Walk {
	walk := s.Walk
	if s.joins {
		walk.Top = later(s.Walk.Top, h.State.Walk.Top)
		if s.Walk.Cursor == "" { // nothing was left to read
			walk.Cursor = h.State.Walk.Cursor
		}
	}
	return walk
}

// balances plans the rows of customer_balances. It adds to ends the currencies that
// neither Stripe nor a whole history knows.
func (plan *BalancePlan) balances(s BalanceSnapshot, h BalanceHeld, ends map[string]int64) {
	if s.Joined && s.Full && s.Customer.InvoiceCreditBalance != nil {
		for currency := range h.Balances {
			if _, known := ends[currency]; !known {
				ends[currency] = 0
			}
		}
	}
	if len(plan.Close.Kinds) > 0 && !unexplained(h.Balances, ends) {
		plan.Close.Kinds = append(plan.Close.Kinds, DriftBalanceMismatch)
	}
	for currency, balance := range ends {
		if old, ok := h.Balances[currency]; !ok || old != balance {
			plan.Balances[currency] = balance
		}
	}
}

// unexplained reports whether there is a balance in a currency of which neither Stripe nor the rows
// that were read know: only a full read proves that there is none.
func unexplained(held, ends map[string]int64) bool {
	for currency, balance := range held {
		if _, known := ends[currency]; !known && balance != 0 {
			return true
		}
	}
	return false
}

// holdRow is a stored row as far as planning needs it.
func holdRow(s Stored[BalanceTransaction]) HeldRow {
	r := s.Row
	return HeldRow{r.ID, r.Currency, r.Amount, r.EndingBalance, r.Type, r.Created, r.Position, s.Digest}
}

// restored are what is held once the damaged rows say again what Stripe says.
func (h BalanceHeld) restored(list []BalanceTransaction) BalanceHeld {
	if len(list) == 0 {
		return h
	}
	byID := make(map[string]BalanceTransaction, len(list))
	for _, r := range list {
		byID[r.ID] = r
	}
	restore := func(rows []HeldRow) []HeldRow {
		rows = slices.Clone(rows)
		for i, old := range rows {
			if r, ok := byID[old.ID]; ok {
				rows[i] = HeldRow{r.ID, r.Currency, r.Amount, r.EndingBalance, r.Type, r.Created, old.Position, Digest(r.Raw)}
			}
		}
		return rows
	}
	h.Rows, h.Unplaced = restore(h.Rows), restore(h.Unplaced)
	return h
}

// finding makes a finding about the ledger; a sync that reports it fills in the rest.
func (s BalanceSnapshot) finding(kind DriftKind, object, currency string) Finding {
	return Finding{
		Kind: kind, Account: s.Target.Account, Customer: s.Target.ID, Scope: ScopeBalance, Currency: currency, Object: object,
		FoundAt: s.ObservedAt,
	}
}

// changedTransaction looks for a field that differs and never changes.
func changedTransaction(row BalanceTransaction, old HeldRow) field {
	switch {
	case row.Amount != old.Amount:
		return number("amount", row.Amount, old.Amount)
	case row.EndingBalance != old.EndingBalance:
		return number("ending_balance", row.EndingBalance, old.EndingBalance)
	case row.Currency != old.Currency:
		return word("currency", row.Currency, old.Currency)
	case row.Type != old.Type:
		return word("type", row.Type, old.Type)
	case !row.Created.Equal(old.Created):
		return moment("created", row.Created, old.Created)
	}
	return field{}
}

var errBalanceOff = errors.New("the last ending balance is not the customer's balance")

// prove lays the chains of a joined snapshot: from the last placed row of each
// currency, or from zero when the whole history is laid anew. It returns the
// position of each row that it laid.
func prove(s BalanceSnapshot, h BalanceHeld, inserts []BalanceTransaction, want map[string]int64) (*chains, map[string]int64, error) {
	if s.laid != nil {
		if len(inserts) > 0 {
			return nil, nil, fmt.Errorf("%w: rows have gone while their chain was laid, %s first", ErrDisproved, inserts[0].ID)
		}
		s.laid.chains.close(s.Customer)
		return s.laid.chains, nil, nil
	}
	tops := maps.Clone(h.Tops)
	heldRows := slices.Clone(h.Unplaced)
	if s.Full {
		tops = nil
		heldRows = append(heldRows, h.Rows...)
	}
	links := map[string][]Link{}
	seen := map[string]bool{}
	sortHeld(heldRows)
	for _, r := range heldRows {
		if !seen[r.ID] {
			seen[r.ID] = true
			links[r.Currency] = append(links[r.Currency], Link{r.ID, r.Amount, r.EndingBalance, r.Created})
		}
	}
	for _, r := range inserts { // new rows keep the order of the list
		links[r.Currency] = append(links[r.Currency], Link{r.ID, r.Amount, r.EndingBalance, r.Created})
	}
	c := newChains(tops, want)
	placed := c.lay(links)
	c.close(s.Customer)
	return c, placed, nil
}

func keys[V any](m map[string]V) map[string]bool {
	out := make(map[string]bool, len(m))
	for k := range m {
		out[k] = true
	}
	return out
}

// findings are the drift that an accepted disproof leaves behind.
func (c *chains) findings(s BalanceSnapshot) []Finding {
	var list []Finding
	for _, currency := range slices.Sorted(maps.Keys(c.broken)) {
		f := s.finding(DriftChainGap, "", currency)
		f.Expected, f.Actual = strconv.FormatInt(c.findsBy[currency][0], 10), strconv.FormatInt(c.findsBy[currency][1], 10)
		f.Cause = c.broken[currency].Error()
		var b *BrokenChainError
		if errors.As(c.broken[currency], &b) {
			f.Object = b.ID
		}
		list = append(list, f)
	}
	return list
}

// place writes the proven positions into the plan.
func (plan *BalancePlan) place(placed map[string]int64, h BalanceHeld) {
	for i := range plan.Insert {
		plan.Insert[i].Position = placed[plan.Insert[i].ID]
		delete(placed, plan.Insert[i].ID)
	}
	was := map[string]int64{}
	for _, r := range h.Unplaced {
		was[r.ID] = r.Position
	}
	for _, r := range h.Rows {
		was[r.ID] = r.Position
	}
	for _, id := range slices.Sorted(maps.Keys(placed)) {
		if was[id] != placed[id] {
			plan.Place = append(plan.Place, Placement{ID: id, Position: placed[id], Moved: was[id] != 0})
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// customerChanged reports whether the customer's row must be written. What is not
// known by its digest and its balances is only compared by whole reads.
func customerChanged(s BalanceSnapshot, h BalanceHeld) bool {
	c, old := s.Customer, h.Customer
	return old == nil || old.Deleted || h.CustomerDigest != Digest(c.Raw) ||
		old.Balance != c.Balance || old.Currency != c.Currency || old.TestClock != c.TestClock ||
		old.CreditUnreadable || !maps.Equal(old.InvoiceCreditBalance, c.InvoiceCreditBalance) ||
		s.Whole() && !old.Print(old.Raw).Equal(c.Print(c.Raw))
}
