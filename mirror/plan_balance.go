package mirror

import (
	"cmp"
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
	return spans(s.Windows, s.Full && s.Joined, func(r BalanceTransaction) time.Time { return r.Created })
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

// inside tells whether a row of that time must be among the window's rows: its
// second lies wholly within it.
func inside[Row any](w Window[Row], t time.Time, created func(Row) time.Time) bool {
	if len(w.Rows) == 0 {
		return w.FromHead && w.ToEnd
	}
	return (w.FromHead || t.Before(created(w.Rows[0]))) &&
		(w.ToEnd || t.After(created(w.Rows[len(w.Rows)-1])))
}

// PlanBalance decides what a balance sync writes. It returns ErrLedgerRewritten
// when the reply contradicts a row that is held, and ErrDisproved when the rows
// do not explain the customer's balance and the snapshot does not accept that.
func PlanBalance(s BalanceSnapshot, h BalanceHeld) (BalancePlan, error) {
	fetched := map[string]BalanceTransaction{}
	var order []string // newest first
	for _, w := range s.Windows {
		for _, r := range w.Rows {
			if _, doubled := fetched[r.ID]; !doubled {
				order = append(order, r.ID)
			}
			fetched[r.ID] = r
		}
	}
	held := map[string]HeldRow{}
	for _, r := range h.Unplaced {
		held[r.ID] = r
	}
	for _, r := range h.Rows {
		held[r.ID] = r
	}

	plan := BalancePlan{State: h.State, Balances: map[string]int64{}}
	if err := checkHistory(s, h.Rows, fetched); err != nil {
		return BalancePlan{}, err
	}
	for _, id := range order {
		row := fetched[id]
		old, ok := held[id]
		switch {
		case !ok:
			plan.Insert = append(plan.Insert, row)
		case old.Digest != Digest(row.Raw):
			plan.Update = append(plan.Update, row)
		}
	}
	slices.Reverse(plan.Insert) // oldest first: the order in which a change feed should tell them

	plan.Close.Objects = order
	if reread(s.Joined, s.Full, s.Walk, h.State) {
		plan.Repaired = repairedRows(s, h, plan)
	}
	ends := expectedBalances(s.Customer)
	if s.Joined {
		proof := prove(s, h, plan.Insert, ends)
		if proof.err != nil && !s.AcceptDisproof {
			return BalancePlan{}, fmt.Errorf("%w: %w", ErrDisproved, proof.err)
		}
		plan.place(proof, h)
		plan.State.HistoryComplete = true
		plan.State.CompleteTo = latest(later(h.State.CompleteTo, h.State.Walk.Top), order, fetched)
		plan.State.Walk = Walk{}
		plan.State.FullReadAt = fullReadAt(s.Full, h.State, s.ObservedAt)
		plan.Close.MissedBefore = s.ObservedAt
		switch {
		case proof.err != nil:
			plan.State.Disproved = true
			plan.Open = proof.findings(s)
		case s.Full || !h.State.Disproved:
			// A chain that was broken once is proven only from its beginning.
			plan.State.Disproved = false
			plan.Close.Kinds = closeKinds(s.Full, DriftChainGap, DriftBalanceMismatch)
		}
		for currency, end := range proof.ends {
			if _, known := ends[currency]; !known {
				ends[currency] = end
			}
		}
	} else {
		plan.State.Walk = s.Walk
	}

	for currency, balance := range ends {
		if old, ok := h.Balances[currency]; !ok || old != balance {
			plan.Balances[currency] = balance
		}
	}
	if customerChanged(s.Customer, h) {
		c := s.Customer
		plan.Customer = &c
	}
	return plan, nil
}

// checkHistory refuses a reply that lacks a row that was seen before or changes
// what cannot change: ledgers are append-only.
func checkHistory(s BalanceSnapshot, rows []HeldRow, fetched map[string]BalanceTransaction) error {
	for _, old := range rows {
		row, ok := fetched[old.ID]
		if !ok {
			for _, w := range s.Windows {
				if inside(w, old.Created, func(r BalanceTransaction) time.Time { return r.Created }) {
					return fmt.Errorf("%w: %s is missing from the list", ErrLedgerRewritten, old.ID)
				}
			}
			continue
		}
		var field string
		switch {
		case row.Amount != old.Amount:
			field = "amount"
		case row.EndingBalance != old.EndingBalance:
			field = "ending_balance"
		case row.Currency != old.Currency:
			field = "currency"
		case row.Type != old.Type:
			field = "type"
		case !row.Created.Equal(old.Created):
			field = "created"
		default:
			continue
		}
		return fmt.Errorf("%w: %s of %s changed", ErrLedgerRewritten, field, old.ID)
	}
	return nil
}

// expectedBalances are the ends that the customer object tells, per currency, in
// the sign of ending_balance.
func expectedBalances(c Customer) map[string]int64 {
	ends := make(map[string]int64, len(c.InvoiceCreditBalance)+1)
	for currency, credit := range c.InvoiceCreditBalance {
		ends[currency] = -credit
	}
	if c.Currency != "" {
		ends[c.Currency] = c.Balance
	}
	return ends
}

// proof is the outcome of laying the chains of all currencies.
type proof struct {
	placed  map[string]int64 // id → position
	ends    map[string]int64 // currency → ending balance reached
	broken  map[string]error // currency → why it does not close
	err     error            // of the first broken currency, by name
	findsBy map[string][2]int64
}

var errBalanceOff = errors.New("the last ending balance is not the customer's balance")

// prove lays the chains of a joined snapshot: from the last placed row of each
// currency, or from zero when the whole history is laid anew.
func prove(s BalanceSnapshot, h BalanceHeld, inserts []BalanceTransaction, want map[string]int64) proof {
	links := map[string][]Link{}
	tops := h.Tops
	if s.Full {
		tops = nil
	}
	add := func(currency string, l Link) { links[currency] = append(links[currency], l) }
	seen := map[string]bool{}
	heldRows := slices.Clone(h.Unplaced)
	if s.Full {
		heldRows = append(heldRows, h.Rows...)
	}
	// Held rows keep the order they have, and new ones that of the list: within one
	// second what was held came before, and a chain that closes stays as it is laid.
	slices.SortStableFunc(heldRows, func(a, b HeldRow) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(uint64(a.Position-1), uint64(b.Position-1)), cmp.Compare(a.ID, b.ID))
	})
	for _, r := range heldRows {
		if !seen[r.ID] {
			seen[r.ID] = true
			add(r.Currency, Link{r.ID, r.Amount, r.EndingBalance, r.Created})
		}
	}
	for _, r := range inserts {
		add(r.Currency, Link{r.ID, r.Amount, r.EndingBalance, r.Created})
	}

	p := proof{
		placed: map[string]int64{}, ends: map[string]int64{},
		broken: map[string]error{}, findsBy: map[string][2]int64{},
	}
	currencies := map[string]bool{}
	for _, names := range []map[string]bool{keys(links), keys(tops), keys(want)} {
		maps.Copy(currencies, names)
	}
	if s.Customer.Currency == "" && s.Customer.Balance != 0 {
		p.broken[""] = fmt.Errorf("%w: balance %d without a currency", errBalanceOff, s.Customer.Balance)
		p.findsBy[""] = [2]int64{s.Customer.Balance, 0}
	}
	for currency := range currencies {
		top := tops[currency]
		ordered, end, err := OrderChain(links[currency], top.EndingBalance)
		for _, l := range ordered {
			if err == nil && l.Created.Before(top.Created) {
				err = fmt.Errorf("%s is older than %s, the end of the chain so far", l.ID, top.ID)
			}
		}
		if err != nil {
			byTime(ordered)
			if n := len(ordered); n > 0 {
				end = ordered[n-1].EndingBalance
			}
		}
		for i, l := range ordered {
			p.placed[l.ID] = top.Position + int64(i) + 1
		}
		p.ends[currency] = end
		if balance, known := want[currency]; err == nil && known && balance != end {
			err = fmt.Errorf("%w: %d against %d", errBalanceOff, end, balance)
		}
		if err != nil {
			p.broken[currency] = fmt.Errorf("%s: %w", currency, err)
			p.findsBy[currency] = [2]int64{want[currency], end}
			var b *BrokenChainError
			if errors.As(err, &b) {
				p.findsBy[currency] = [2]int64{b.Have, b.Want}
			}
		}
	}
	for _, currency := range slices.Sorted(maps.Keys(p.broken)) {
		p.err = p.broken[currency]
		break
	}
	return p
}

func keys[V any](m map[string]V) map[string]bool {
	out := make(map[string]bool, len(m))
	for k := range m {
		out[k] = true
	}
	return out
}

// findings are the drift that an accepted disproof leaves behind.
func (p proof) findings(s BalanceSnapshot) []Finding {
	var list []Finding
	for _, currency := range slices.Sorted(maps.Keys(p.broken)) {
		f := Finding{
			Kind: DriftChainGap, Account: s.Target.Account, Customer: s.Target.ID, Scope: ScopeBalance, Currency: currency,
			Expected: strconv.FormatInt(p.findsBy[currency][0], 10), Actual: strconv.FormatInt(p.findsBy[currency][1], 10),
			Cause: p.broken[currency].Error(), FoundAt: s.ObservedAt,
		}
		var b *BrokenChainError
		if errors.As(p.broken[currency], &b) {
			f.Object = b.ID
		}
		list = append(list, f)
	}
	return list
}

// place writes the proven positions into the plan.
func (plan *BalancePlan) place(p proof, h BalanceHeld) {
	for i := range plan.Insert {
		plan.Insert[i].Position = p.placed[plan.Insert[i].ID]
		delete(p.placed, plan.Insert[i].ID)
	}
	was := map[string]int64{}
	for _, r := range h.Unplaced {
		was[r.ID] = r.Position
	}
	for _, r := range h.Rows {
		was[r.ID] = r.Position
	}
	for _, id := range slices.Sorted(maps.Keys(p.placed)) {
		if was[id] != p.placed[id] {
			plan.Place = append(plan.Place, Placement{ID: id, Position: p.placed[id]})
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// latest is the newest created time of rows, or the one before when none is newer.
func latest(t time.Time, order []string, fetched map[string]BalanceTransaction) time.Time {
	for _, id := range order {
		if c := fetched[id].Created; c.After(t) {
			t = c
		}
	}
	return t
}

// customerChanged tells whether the customer's row must be written.
func customerChanged(c Customer, h BalanceHeld) bool {
	old := h.Customer
	return old == nil || old.Deleted || h.CustomerDigest != Digest(c.Raw) ||
		old.Balance != c.Balance || old.Currency != c.Currency || old.TestClock != c.TestClock ||
		!maps.Equal(old.InvoiceCreditBalance, c.InvoiceCreditBalance)
}
