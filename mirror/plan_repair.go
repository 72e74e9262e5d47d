package mirror

import "time"

// reread tells that a sync goes over a history that was complete before: what it
// finds there beyond the newest rows is drift.
func reread(joined, full bool, walk Walk, held SyncState) bool {
	return held.HistoryComplete && (joined && full || !joined && walk.Full)
}

// fullReadAt is when every row was last read, after a joined sync.
func fullReadAt(full bool, held SyncState, observed time.Time) time.Time {
	if full || held.FullReadAt.IsZero() {
		return observed
	}
	return held.FullReadAt
}

// unannounced tells of a row that no event told of. One that lies within the
// complete part is missing whatever the events; a newer one only after the time
// that an event may take.
func unannounced(created time.Time, held SyncState, observed time.Time, events int, waiting int64) bool {
	return created.Before(held.CompleteTo) || events == 0 && waiting == 0 && created.Before(observed.Add(-untold))
}

func missedCause(created time.Time, held SyncState) string {
	if created.Before(held.CompleteTo) {
		return CauseUnknown
	}
	return CauseMissedEvent
}

// repairedRows are the differences that a full read finds and repairs.
func repairedRows(s BalanceSnapshot, h BalanceHeld, plan BalancePlan) []Finding {
	digests := map[string]string{}
	for _, r := range h.Rows {
		digests[r.ID] = r.Digest
	}
	var list []Finding
	add := func(kind DriftKind, r BalanceTransaction, actual, cause string) {
		if len(list) < repairsPerCommit {
			list = append(list, Finding{
				Kind: kind, Account: s.Target.Account, Customer: s.Target.ID, Scope: ScopeBalance, Currency: r.Currency, Object: r.ID,
				Expected: digestText(Digest(r.Raw)), Actual: actual, Cause: cause, FoundAt: s.ObservedAt,
			})
		}
	}
	for _, r := range plan.Insert {
		if unannounced(r.Created, h.State, s.ObservedAt, len(s.Events), s.EventSeq) {
			add(DriftMissingTransaction, r, "", missedCause(r.Created, h.State))
		}
	}
	for _, r := range plan.Update {
		add(DriftFieldMismatch, r, digestText(digests[r.ID]), CauseSilentEdit)
	}
	return list
}

// repairedCredits is repairedRows for the other ledger and its grants.
func repairedCredits(s CreditsSnapshot, h CreditsHeld, plan CreditsPlan) []Finding {
	digests := map[string]string{}
	for _, r := range h.Rows {
		digests[r.ID] = r.Digest
	}
	var list []Finding
	add := func(kind DriftKind, id, currency, expected, actual, cause string) {
		if len(list) < repairsPerCommit {
			list = append(list, Finding{
				Kind: kind, Account: s.Target.Account, Customer: s.Target.ID, Scope: ScopeCredits, Currency: currency, Object: id,
				Expected: digestText(expected), Actual: digestText(actual), Cause: cause, FoundAt: s.ObservedAt,
			})
		}
	}
	for _, r := range plan.Insert {
		if unannounced(r.Created, h.State, s.ObservedAt, len(s.Events), s.EventSeq) {
			add(DriftMissingTransaction, r.ID, r.Currency, Digest(r.Raw), "", missedCause(r.Created, h.State))
		}
	}
	for _, r := range plan.Update {
		add(DriftFieldMismatch, r.ID, r.Currency, Digest(r.Raw), digests[r.ID], CauseSilentEdit)
	}
	for _, g := range plan.Grants {
		old, held := h.Grants[g.ID]
		silent := len(s.Events) == 0 && s.EventSeq == 0 && g.Updated.Before(s.ObservedAt.Add(-untold))
		switch {
		case held && silent:
			add(DriftFieldMismatch, g.ID, g.Currency, Digest(g.Raw), old.Digest, CauseMissedEvent)
		case silent:
			add(DriftMissingTransaction, g.ID, g.Currency, Digest(g.Raw), "", CauseMissedEvent)
		}
	}
	return list
}

// digestText is what a finding says of a row as a whole.
func digestText(digest string) string {
	if digest == "" {
		return ""
	}
	return "digest " + digest
}
