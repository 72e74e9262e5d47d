package mirror

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"time"
)

// fullReadAt is when every row was last read, after a joined sync.
func fullReadAt(full bool, held SyncState, observed time.Time) time.Time {
	if full || held.FullReadAt.IsZero() {
		return observed
	}
	return held.FullReadAt
}

// unannounced reports whether no event announced a row. One that lies within the
// complete part is missing whatever the events; a newer one only after the time
// that an event may take.
func unannounced(created time.Time, held SyncState, observed time.Time, events int, waiting int64) bool {
	if held.Walk.InProgress() && !created.Before(held.CompleteTo) {
		return false // the open walk was to bring it
	}
	return created.Before(held.CompleteTo) || events == 0 && waiting == 0 && created.Before(observed.Add(-untold))
}

func missedCause(created time.Time, held SyncState) string {
	if created.Before(held.CompleteTo) {
		return CauseUnknown
	}
	return CauseMissedEvent
}

// missedCause is the cause of a row that was not stored. For balance applied to an open
// invoice by hand, Stripe need not send an event that names the customer's balance.
func (r BalanceTransaction) missedCause(held SyncState) string {
	cause := missedCause(r.Created, held)
	if cause == CauseMissedEvent && (r.Type == "applied_to_invoice" || r.Type == "unapplied_from_invoice") {
		return CauseApplied
	}
	return cause
}

// repairs collects the differences that a commit itself repairs.
type repairs struct {
	list    []Finding
	finding func(kind DriftKind, object, currency string) Finding
}

func (r *repairs) add(kind DriftKind, object, currency, expected, actual, cause string) {
	if len(r.list) < findingsPerCommit {
		f := r.finding(kind, object, currency)
		f.Expected, f.Actual, f.Cause = expected, actual, cause
		r.list = append(r.list, f)
	}
}

// missing notes an object that was not held.
func (r *repairs) missing(object, currency string, shown Print, cause string) {
	r.add(DriftMissingTransaction, object, currency, shown.Absent(), "", cause)
}

// differs notes an object that is held otherwise.
func (r *repairs) differs(object, currency string, shown, held Print, cause string) {
	expected, actual := Describe(shown, held)
	r.add(DriftFieldMismatch, object, currency, expected, actual, cause)
}

// amount notes a balance that is held otherwise.
func (r *repairs) amount(kind DriftKind, currency string, expected, actual int64, cause string) {
	r.add(kind, "", currency, strconv.FormatInt(expected, 10), strconv.FormatInt(actual, 10), cause)
}

// repairedRows are the differences in rows that a whole read finds and repairs.
func repairedRows(s BalanceSnapshot, h BalanceHeld, plan BalancePlan) []Finding {
	if !s.Whole() || !h.State.HistoryComplete {
		return nil
	}
	found := repairs{finding: s.finding}
	for _, r := range plan.Insert {
		if unannounced(r.Created, h.State, s.ObservedAt, len(s.Events), s.EventSeq) {
			found.missing(r.ID, r.Currency, r.Print(), r.missedCause(h.State))
		}
	}
	for _, r := range plan.Update {
		found.differs(r.ID, r.Currency, r.Print(), h.Stored[r.ID].Row.Print(), CauseSilentEdit)
	}
	for _, r := range plan.Restore {
		found.differs(r.ID, r.Currency, r.Print(), h.Stored[r.ID].Row.Print(), CauseUnknown)
	}
	return found.list
}

// repairedCustomer are the differences in the customer and its balances that were
// made here. News of Stripe's are none of them: the customer's JSON shows them
// apart, and a balance moves with its rows.
func repairedCustomer(s BalanceSnapshot, h BalanceHeld, plan BalancePlan, ends map[string]int64) []Finding {
	found := repairs{finding: s.finding}
	told := map[string]bool{}
	switch old := h.Customer; {
	case old == nil:
		if h.State.HistoryComplete {
			found.add(DriftMissingCustomer, "", "", "customer", "", CauseUnknown)
		}
	case plan.Customer != nil && !old.Deleted && s.sameCustomer(h):
		told = found.customer(s.Target.ID, s.Customer, *old)
	}
	// A customer that was taken for deleted held nothing.
	buried := h.Customer != nil && h.Customer.Deleted
	if buried || !s.Joined || !s.Full || !h.State.HistoryComplete || h.State.Disproved || plan.State.Disproved {
		return found.list
	}
	for _, r := range plan.Insert {
		told[r.Currency] = true
	}
	for _, r := range h.Unplaced {
		told[r.Currency] = true // brought by an earlier piece
	}
	if s.laid != nil {
		maps.Copy(told, s.laid.grew)
	}
	for _, currency := range slices.Sorted(maps.Keys(plan.Balances)) {
		if have := h.Balances[currency]; !told[currency] && have != ends[currency] {
			found.amount(DriftBalanceMismatch, currency, ends[currency], have, CauseUnknown)
		}
	}
	return found.list
}

// customer notes how a customer's row differs, and returns the currencies in which it
// noted another balance.
func (r *repairs) customer(id string, shown Customer, held CustomerView) map[string]bool {
	told := map[string]bool{}
	want, have := shown.Ends(), held.Ends()
	for _, currency := range slices.Sorted(maps.Keys(union(want, have))) {
		if want[currency] != have[currency] {
			told[currency] = true
			r.amount(DriftBalanceMismatch, currency, want[currency], have[currency], CauseUnknown)
		}
	}
	switch {
	case len(told) > 0:
	case shown.Balance != held.Balance:
		r.amount(DriftBalanceMismatch, shown.Currency, shown.Balance, held.Balance, CauseUnknown)
	default:
		r.differs(id, "", shown.Print(shown.Raw), held.Print(held.Raw), CauseUnknown)
	}
	return told
}

// sameCustomer reports whether Stripe shows the customer as it did when it was stored.
func (s BalanceSnapshot) sameCustomer(h BalanceHeld) bool {
	return h.CustomerDigest == Digest(s.Customer.Raw) || bytes.Equal(printed(h.Customer.Raw), printed(s.Customer.Raw))
}

func union[V any](list ...map[string]V) map[string]bool {
	all := map[string]bool{}
	for _, m := range list {
		maps.Copy(all, keys(m))
	}
	return all
}

// repairedCredits is repairedRows for the other ledger, with its grants and its
// summary.
func repairedCredits(s CreditsSnapshot, h CreditsHeld, plan CreditsPlan) []Finding {
	found := repairs{finding: s.finding}
	reread := s.Whole() && h.State.HistoryComplete
	if reread {
		for _, r := range plan.Insert {
			if unannounced(r.Created, h.State, s.ObservedAt, len(s.Events), s.EventSeq) {
				found.missing(r.ID, r.Currency, r.Print(), missedCause(r.Created, h.State))
			}
		}
		for _, r := range plan.Update {
			found.differs(r.ID, r.Currency, r.Print(), h.Stored[r.ID].Row.Print(), CauseSilentEdit)
		}
		for _, r := range plan.Restore {
			found.differs(r.ID, r.Currency, r.Print(), h.Stored[r.ID].Row.Print(), CauseUnknown)
		}
	}
	for _, g := range plan.Grants {
		_, held := h.Grants[g.ID]
		stored, known := h.StoredGrants[g.ID]
		silent := reread && len(s.Events) == 0 && s.EventSeq == 0 && g.Updated.Before(s.ObservedAt.Add(-untold))
		switch {
		case known && stored.damaged(g, Digest(g.Raw)):
			if h.State.HistoryComplete {
				found.differs(g.ID, g.Currency, g.Print(), stored.Row.Print(), CauseUnknown)
			}
		case held && silent:
			found.differs(g.ID, g.Currency, g.Print(), stored.Row.Print(), CauseMissedEvent)
		case silent:
			found.missing(g.ID, g.Currency, g.Print(), CauseMissedEvent)
		}
	}
	return found.list
}

// repairedSummary are the ledger balances of a proven summary that are not the sum
// of the rows. The available ones move without a trace, so that nobody can know.
func repairedSummary(s CreditsSnapshot, h CreditsHeld, plan CreditsPlan, ledger map[string]int64) []Finding {
	if !h.State.HistoryComplete || h.State.Disproved || h.State.Walk.InProgress() || plan.State.Disproved {
		return nil
	}
	moved := map[string]bool{}
	for _, r := range plan.Insert {
		moved[r.Currency] = true
	}
	found := repairs{finding: s.finding}
	for _, currency := range slices.Sorted(maps.Keys(union(keys(ledger), keys(h.Summary)))) {
		if have := h.Summary[currency].Ledger; !moved[currency] && have != ledger[currency] {
			found.amount(DriftSummaryMismatch, currency, ledger[currency], have, CauseUnknown)
		}
	}
	return found.list
}
