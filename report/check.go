package report

import (
	"context"
	"errors"
	"slices"
)

// check looks whether the rows of the balance ledger add up to its ending balances.
func check(ctx context.Context, from Reader, q Query, out *Outcome) error {
	if q.Check == CheckDoubted && q.Customer == "" {
		if known, err := checkDoubted(ctx, from, q, out); known || err != nil {
			return err
		}
	}
	totals, err := from.Totals(ctx, LedgerBalance, q.Filter, ByLedger, q.Until)
	if err == nil && slices.ContainsFunc(totals, func(t Total) bool { return t.Differing > 0 }) {
		err = differences(ctx, from, q, out)
	}
	return err
}

// checkDoubted looks only at customers of whom it is not known that their chains close,
// by their rows of now. It reports known = false, and tells nothing, where it does not
// know who these are.
func checkDoubted(ctx context.Context, from Reader, q Query, out *Outcome) (known bool, err error) {
	state, err := from.DayState(ctx)
	if err != nil || state.Proven == "" || state.InDoubt > MaxTail {
		return false, err
	}
	sums, known, err := from.DoubtedSums(ctx, q.Filter, q.Until, state.Proven, MaxTail)
	switch {
	case errors.Is(err, ErrFeedGone):
		return false, nil
	case err != nil || !known || len(sums) == 0:
		return known, err
	}
	apart := pull(from.Standings(ctx, LedgerBalance, q.Filter))
	defer apart.stop()
	for _, s := range sums {
		for apart.more && apart.head.less(s.Key) {
			apart.step()
		}
		if !apart.at(s.Key) || apart.head.Proven() && !apart.head.Released(q.Until) {
			if _, err := s.held(LedgerBalance, Wide{}, out); err != nil {
				return true, err
			}
		}
	}
	return true, apart.err
}
