package mirror

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
)

// RehearsalEpoch stands in a snapshot for the epoch of a sync that is judged and not
// kept. No sync has it: epochs begin with 1.
const RehearsalEpoch = -1

// ErrRehearsal says that something would have been written that a rehearsal does not.
var ErrRehearsal = errors.New("a rehearsal writes nothing")

// Rehearser judges syncs without keeping what they write: by the same transaction,
// which is undone at its end.
type Rehearser interface {
	// Rehearsal is a Fence that keeps nothing. BeginSync raises no epoch, and has the
	// whole history read. The Applies return what they would do; of findings they return
	// all, also those that are open already. Refuse returns the findings it was given.
	// Everything else is ErrRehearsal.
	Rehearsal() Fence
	// Histories lists the complete histories, of up to limit customers with ids after
	// the given one, by id. Those of customers held as deleted do not count.
	Histories(ctx context.Context, account, after string, limit int) ([]Target, error)
}

// rehearsal is a store's Fence of which nothing is kept.
type rehearsal struct {
	Fence
	peek func(ctx context.Context, t Target) (SyncState, error)
}

// NewRehearsal is the Rehearsal of a store that undoes what comes with the
// RehearsalEpoch; peek is its BeginSync, undone.
func NewRehearsal(store Fence, peek func(ctx context.Context, t Target) (SyncState, error)) Fence {
	return rehearsal{store, peek}
}

func (r rehearsal) BeginSync(ctx context.Context, t Target) (SyncState, error) {
	st, err := r.peek(ctx, t)
	st.Epoch, st.Walk = RehearsalEpoch, Walk{Full: true}
	return st, err
}

func (r rehearsal) ApplyBalance(ctx context.Context, s BalanceSnapshot) (Applied, error) {
	s.Epoch = RehearsalEpoch
	return r.Fence.ApplyBalance(ctx, s)
}

func (r rehearsal) ApplyCredits(ctx context.Context, s CreditsSnapshot) (Applied, error) {
	s.Epoch = RehearsalEpoch
	return r.Fence.ApplyCredits(ctx, s)
}

func (r rehearsal) ApplyTombstone(ctx context.Context, d Tombstone) (Applied, error) {
	d.Epoch = RehearsalEpoch
	return r.Fence.ApplyTombstone(ctx, d)
}

func (rehearsal) Refuse(_ context.Context, refusal Refusal) ([]Finding, error) {
	return refusal.Findings, nil
}

func (rehearsal) ApplyWrite(context.Context, Write) (Applied, error) { return Applied{}, ErrRehearsal }

func (rehearsal) InsertCustomers(context.Context, string, []Customer) (int, error) {
	return 0, ErrRehearsal
}

func (rehearsal) InsertGrants(context.Context, string, []CreditGrant) (int, error) {
	return 0, ErrRehearsal
}

// Buried are the differences that a tombstone repairs: a reading of the whole history,
// which nothing but a sweep asks for, found that a customer is gone of whom no event
// had said so.
func (d Tombstone) Buried(was SyncState, held, deleted bool) []Finding {
	if !was.Walk.Full || !held || deleted || len(d.Events) > 0 || d.EventSeq > 0 {
		return nil
	}
	return []Finding{{
		Kind: DriftMissingCustomer, Account: d.Target.Account, Customer: d.Target.ID, Scope: ScopeBalance,
		Expected: "deleted", Actual: "customer", Cause: CauseMissedEvent, FoundAt: d.ObservedAt,
	}}
}

// misplaced are the rows, one for each currency, that lie at another place of the
// chain than a reading of the whole history gives them, though no row was missing that
// would explain it.
func misplaced(s BalanceSnapshot, h BalanceHeld, plan BalancePlan) []Finding {
	if !s.Full || !s.Joined || !h.State.HistoryComplete || h.State.Disproved || plan.State.Disproved ||
		s.laid == nil && h.State.Walk.InProgress() {
		return nil
	}
	grew, moved := map[string]bool{}, map[string]movedRow{}
	if s.laid != nil {
		grew, moved = s.laid.grew, s.laid.moved
	} else {
		was := map[string]HeldRow{}
		for _, r := range h.Rows {
			if was[r.ID] = r; r.Position == 0 {
				grew[r.Currency] = true
			}
		}
		for _, p := range plan.Place {
			r, held := was[p.ID]
			if first, told := moved[r.Currency]; held && p.Moved && (!told || p.Position < first.to) {
				moved[r.Currency] = movedRow{r, p.Position}
			}
		}
	}
	for _, r := range slices.Concat(plan.Insert, plan.Restore) {
		grew[r.Currency] = true
	}
	found := repairs{finding: s.finding}
	for _, currency := range slices.Sorted(maps.Keys(moved)) {
		if r := moved[currency]; !grew[currency] {
			found.add(DriftChainGap, r.ID, currency, "position "+strconv.FormatInt(r.to, 10), "position "+strconv.FormatInt(r.Position, 10), CauseUnknown)
		}
	}
	return found.list
}
