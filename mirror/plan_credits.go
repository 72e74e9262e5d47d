package mirror

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Spans are the created times within which a store must read held rows.
func (s CreditsSnapshot) Spans() []Span {
	return spans(s.Windows, s.Full && s.Joined, func(r CreditTransaction) time.Time { return r.Created })
}

// PlanCredits decides what a credits sync writes. It returns ErrLedgerRewritten
// when the reply contradicts a row that is held, and ErrDisproved when the sums
// leave a grant's bounds, a row's grant is unknown, or the summary disagrees,
// and the snapshot does not accept that.
func PlanCredits(s CreditsSnapshot, h CreditsHeld) (CreditsPlan, error) {
	plan := CreditsPlan{State: h.State}
	fetched := map[string]CreditTransaction{}
	var order []string
	for _, w := range s.Windows {
		for _, r := range w.Rows {
			if _, doubled := fetched[r.ID]; !doubled {
				order = append(order, r.ID)
			}
			fetched[r.ID] = r
		}
	}
	held := map[string]HeldCredit{}
	for _, old := range h.Rows {
		held[old.ID] = old
	}
	if err := checkCreditHistory(s, h.Rows, fetched); err != nil {
		return CreditsPlan{}, err
	}
	newest := later(h.State.CompleteTo, h.State.Walk.Top)
	for _, id := range order {
		row := fetched[id]
		old, ok := held[id]
		switch {
		case !ok:
			plan.Insert = append(plan.Insert, row)
		case old.Digest != Digest(row.Raw):
			plan.Update = append(plan.Update, row)
		}
		if row.Created.After(newest) {
			newest = row.Created
		}
	}
	slices.Reverse(plan.Insert)

	grants := maps.Clone(h.Grants)
	if grants == nil {
		grants = map[string]HeldGrantRow{}
	}
	written := map[string]bool{}
	for _, g := range s.Grants {
		if g.Customer != s.Target.ID {
			return CreditsPlan{}, fmt.Errorf("%w: grant %s belongs to another customer", ErrLedgerRewritten, g.ID)
		}
		digest := Digest(g.Raw)
		old, ok := h.Grants[g.ID]
		if ok && (old.Customer != g.Customer || old.Amount != g.Amount || old.Currency != g.Currency) {
			return CreditsPlan{}, fmt.Errorf("%w: amount or customer of grant %s changed", ErrLedgerRewritten, g.ID)
		}
		if (!ok || old.Digest != digest) && !written[g.ID] {
			plan.Grants = append(plan.Grants, g)
			written[g.ID] = true
		}
		grants[g.ID] = HeldGrantRow{Customer: g.Customer, Amount: g.Amount, Currency: g.Currency, Digest: digest}
	}

	plan.Close.Objects = order
	for _, g := range s.Grants {
		plan.Close.Objects = append(plan.Close.Objects, g.ID)
	}
	if reread(s.Joined, s.Full, s.Walk, h.State) {
		plan.Repaired = repairedCredits(s, h, plan)
	}
	if !s.Joined {
		plan.State.Walk = s.Walk
		return plan, nil
	}
	sums := maps.Clone(h.Sums)
	if sums == nil {
		sums = map[string]GrantSum{}
	}
	for _, r := range plan.Insert {
		sum := sums[r.Grant]
		sum.Currency = r.Currency
		sum.Sum += r.Amount
		sums[r.Grant] = sum
	}
	ledger := map[string]int64{}
	for _, sum := range sums {
		ledger[sum.Currency] += sum.Sum
	}
	open := append(outOfBounds(s, sums, grants), summaryOff(s, ledger)...)
	if len(open) > 0 && !s.AcceptDisproof {
		f := open[0]
		return CreditsPlan{}, fmt.Errorf("%w: %s", ErrDisproved, f.Cause)
	}
	plan.Open = open
	plan.State.HistoryComplete = true
	plan.State.CompleteTo = newest
	plan.State.Walk = Walk{}
	plan.State.FullReadAt = fullReadAt(s.Full, h.State, s.ObservedAt)
	plan.Close.MissedBefore = s.ObservedAt
	// Where no summary can be had, a whole reading within all bounds has to do.
	plan.State.Disproved = len(open) > 0 || h.State.Disproved && s.Summary == nil && !s.Full
	if len(open) == 0 {
		plan.Close.Kinds = closeKinds(s.Full, DriftGrantOutOfBounds, DriftOrphan)
		if s.Summary != nil {
			plan.Close.Kinds = append(plan.Close.Kinds, DriftSummaryMismatch)
		}
	}
	plan.Summary = summaryToWrite(s, h, ledger)
	return plan, nil
}

// checkCreditHistory is checkHistory for the other ledger, whose rows are wholly
// immutable.
func checkCreditHistory(s CreditsSnapshot, rows []HeldCredit, fetched map[string]CreditTransaction) error {
	for _, old := range rows {
		row, ok := fetched[old.ID]
		if !ok {
			for _, w := range s.Windows {
				if inside(w, old.Created, func(r CreditTransaction) time.Time { return r.Created }) {
					return fmt.Errorf("%w: %s is missing from the list", ErrLedgerRewritten, old.ID)
				}
			}
			continue
		}
		if row.Amount != old.Amount || row.Currency != old.Currency || row.Grant != old.Grant || !row.Created.Equal(old.Created) {
			return fmt.Errorf("%w: amount, currency, grant or created of %s changed", ErrLedgerRewritten, old.ID)
		}
	}
	return nil
}

var errSumOff = errors.New("the sum of the rows is not the summary's ledger balance")

// outOfBounds lists grants whose rows do not sum up to 0 … amount, and rows
// whose grant nobody knows.
func outOfBounds(s CreditsSnapshot, sums map[string]GrantSum, grants map[string]HeldGrantRow) []Finding {
	var list []Finding
	for _, id := range slices.Sorted(maps.Keys(sums)) {
		sum := sums[id]
		f := Finding{
			Kind: DriftGrantOutOfBounds, Account: s.Target.Account, Customer: s.Target.ID, Scope: ScopeCredits,
			Currency: sum.Currency, Object: id, Actual: strconv.FormatInt(sum.Sum, 10), FoundAt: s.ObservedAt,
		}
		g, known := grants[id]
		switch {
		case !known:
			f.Kind, f.Expected = DriftOrphan, "a grant"
			f.Cause = fmt.Sprintf("rows of grant %s are held but not the grant", id)
		case g.Currency == "": // not monetary: nothing is known of its bounds
			continue
		case g.Currency != sum.Currency:
			f.Expected = g.Currency
			f.Cause = fmt.Sprintf("rows of grant %s are in %s, the grant in %s", id, sum.Currency, g.Currency)
		case sum.Sum < 0 || sum.Sum > g.Amount:
			f.Expected = fmt.Sprintf("0..%d", g.Amount)
			f.Cause = fmt.Sprintf("rows of grant %s sum up to %d, outside 0..%d", id, sum.Sum, g.Amount)
		default:
			continue
		}
		list = append(list, f)
	}
	return list
}

// summaryOff lists currencies in which the rows disagree with the summary read.
func summaryOff(s CreditsSnapshot, ledger map[string]int64) []Finding {
	if s.Summary == nil {
		return nil
	}
	all := keys(ledger)
	maps.Copy(all, keys(s.Summary))
	var list []Finding
	for _, currency := range slices.Sorted(maps.Keys(all)) {
		if want := s.Summary[currency].Ledger; want != ledger[currency] {
			list = append(list, Finding{
				Kind: DriftSummaryMismatch, Account: s.Target.Account, Customer: s.Target.ID, Scope: ScopeCredits, Currency: currency,
				Expected: strconv.FormatInt(want, 10), Actual: strconv.FormatInt(ledger[currency], 10),
				Cause: fmt.Sprintf("%s: %v: %d against %d", currency, errSumOff, ledger[currency], want), FoundAt: s.ObservedAt,
			})
		}
	}
	return list
}

// summaryToWrite keeps Stripe's figures where they were read. Otherwise the
// ledger balance follows the rows, and the available one moves with it: what
// else takes from it (expiry, claims of draft invoices) only Stripe can tell.
func summaryToWrite(s CreditsSnapshot, h CreditsHeld, ledger map[string]int64) map[string]CreditBalance {
	out := map[string]CreditBalance{}
	for currency, sum := range ledger {
		old, ok := h.Summary[currency]
		next := CreditBalance{Ledger: sum, Available: min(max(old.Available+sum-old.Ledger, 0), max(sum, 0))}
		if read, yes := s.Summary[currency]; yes {
			next = read
		}
		if !ok || old != next {
			out[currency] = next
		}
	}
	for currency, read := range s.Summary {
		if old, ok := h.Summary[currency]; !ok || old != read {
			out[currency] = read
		}
	}
	return out
}
