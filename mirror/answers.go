package mirror

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrBehind: the reply is older than an event that it is to answer, or shows an
// older copy of a grant than the one held. Nothing was written; read again, or
// accept it. The error is a BehindError.
var ErrBehind = errors.New("the reply is behind what is known")

// BehindError is an ErrBehind that names what the reply lacks.
type BehindError struct {
	// Unanswered are the events whose row is neither listed nor held, or whose grant
	// is known only in an older state.
	Unanswered []EventRef
	// Older are grants of which the reply shows a copy that is older than the one held.
	Older []string
}

func (e *BehindError) Error() string {
	if len(e.Unanswered) > 0 {
		r := e.Unanswered[0]
		return fmt.Sprintf("%v: %s of event %s is not shown yet", ErrBehind, r.Object, r.ID)
	}
	return fmt.Sprintf("%v: an older copy of grant %s is shown", ErrBehind, strings.Join(e.Older, ", "))
}

func (e *BehindError) Unwrap() error { return ErrBehind }

// The types of events that name what a credits sync must show before they count as
// answered.
const (
	eventRowCreated   = "billing.credit_balance_transaction.created"
	eventGrantCreated = "billing.credit_grant.created"
	eventGrantUpdated = "billing.credit_grant.updated"
)

// NamingTypes are the types of events that name an object which must be held before
// they count as answered. A store answers events of any other type by their place in
// the inbox alone.
func NamingTypes() []string {
	return []string{eventRowCreated, eventGrantCreated, eventGrantUpdated}
}

// NamesRow reports whether the event is answered by a credit balance transaction.
func (r EventRef) NamesRow() bool { return r.Type == eventRowCreated && r.Object != "" }

// NamesGrant reports whether the event is answered by a copy of a grant that is not older.
func (r EventRef) NamesGrant() bool {
	return (r.Type == eventGrantCreated || r.Type == eventGrantUpdated) && ValidGrantID(r.Object)
}

// OlderThan reports whether a copy of a grant shows an older state than another one.
// Stripe's time of the update has whole seconds: within one, only a void is recognizable,
// which is never taken back.
func (g CreditGrant) OlderThan(other CreditGrant) bool {
	return older(g.Updated, g.VoidedAt, other.Updated, other.VoidedAt)
}

func older(updated, voided, otherUpdated, otherVoided time.Time) bool {
	if !updated.Equal(otherUpdated) {
		return updated.Before(otherUpdated)
	}
	return voided.IsZero() && !otherVoided.IsZero()
}

// NewerThan reports whether the held copy of a grant shows a newer state than g.
func (h HeldGrantRow) NewerThan(g CreditGrant) bool {
	return older(g.Updated, g.VoidedAt, h.Updated, h.VoidedAt)
}

// NewestGrants are the grants in the order of the list, each once, in its newest
// copy; of copies that are indistinguishable, the last one counts, which was read last.
func NewestGrants(list []CreditGrant) []CreditGrant {
	at := make(map[string]int, len(list))
	out := make([]CreditGrant, 0, len(list))
	for _, g := range list {
		i, known := at[g.ID]
		switch {
		case !known:
			at[g.ID] = len(out)
			out = append(out, g)
		case !g.OlderThan(out[i]):
			out[i] = g
		}
	}
	return out
}

// unanswered are the events that this commit must leave waiting, its own and the
// inbox's, each once. grants are those known once it is carried out.
func (s CreditsSnapshot) unanswered(h CreditsHeld, fetched map[string]CreditTransaction, grants map[string]HeldGrantRow) ([]EventRef, error) {
	var left []EventRef
	seen := map[string]bool{}
	for _, r := range slices.Concat(h.Waiting, s.Events) {
		key := r.ID + " " + r.Object
		if seen[key] {
			continue
		}
		seen[key] = true
		switch _, listed := fetched[r.Object]; {
		case r.NamesRow() && !listed:
			switch owner, held := h.Owners[r.Object]; {
			case !held:
				left = append(left, r)
			case owner.Customer != s.Target.ID:
				return nil, heldElsewhere(s, r.Object, owner)
			}
		case r.NamesGrant():
			if g, known := grants[r.Object]; !known || g.Updated.Before(r.Updated) {
				left = append(left, r)
			}
		}
	}
	return left, nil
}

// heldElsewhere refuses a reply that has nothing to say of a row that an event of
// the target announced and that is held for another customer.
func heldElsewhere(s CreditsSnapshot, id string, owner RowOwner) error {
	var refused RewrittenError
	f := s.finding(DriftFieldMismatch, id, owner.Currency)
	f.Expected, f.Actual = "customer "+s.Target.ID, "customer "+owner.Customer
	refused.add(f, "%s is held for another customer", id)
	return refused.err()
}

// Answers are the ids of the waiting events that name an object and that the commit
// answers all the same: those that it does not leave waiting.
func (plan CreditsPlan) Answers(h CreditsHeld) []string {
	ids := []string{}
	for _, r := range h.Waiting {
		if !plan.leaves(r.ID) {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// AnswersOf are those of a snapshot's events that the commit answers.
func (plan CreditsPlan) AnswersOf(events []EventRef) []EventRef {
	return slices.DeleteFunc(slices.Clone(events), func(r EventRef) bool { return r.ID == "" || plan.leaves(r.ID) })
}

func (plan CreditsPlan) leaves(event string) bool {
	return slices.ContainsFunc(plan.Unanswered, func(r EventRef) bool { return r.ID == event })
}
