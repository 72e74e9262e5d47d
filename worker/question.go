package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// resolveGrant finds the customer of a grant, in the mirror or with one call,
// and passes the events on to that customer's credits. local tells that there was
// no call.
func (s *Syncer) resolveGrant(ctx context.Context, t mirror.Target, refs []mirror.EventRef) (local bool, err error) {
	customer, err := s.store.GrantOwner(ctx, t.Account, t.ID)
	local = err == nil
	if errors.Is(err, mirror.ErrNotFound) {
		g, err := s.stripe.Grant(ctx, t.Account, t.ID)
		if errors.Is(err, stripeapi.ErrNotFound) { // one 404 can be a replica that lags
			if err := sleep(ctx, 5*s.o.RereadDelay); err != nil {
				return false, err
			}
			g, err = s.stripe.Grant(ctx, t.Account, t.ID)
		}
		if errors.Is(err, stripeapi.ErrNotFound) {
			// Stripe deletes no grant: what it has just told of, it will show.
			return false, fmt.Errorf("%w: grant %s is not known to stripe", errLagging, t.ID)
		}
		if err != nil {
			return false, err
		}
		if _, err := s.store.InsertGrants(ctx, t.Account, []mirror.CreditGrant{g}); err != nil {
			return false, stored(err)
		}
		customer = g.Customer
	} else if err != nil {
		return false, stored(err)
	}
	target := mirror.Target{Account: t.Account, Scope: mirror.ScopeCredits, ID: customer}
	return local, s.passOn(ctx, t, []mirror.Target{target}, refs)
}

// resolveClock finds the customers of a test clock, those held and those Stripe
// lists, and asks for a sync of each: time has moved for all of them. waits tells that
// an event goes on waiting for some of these syncs.
func (s *Syncer) resolveClock(ctx context.Context, t mirror.Target) (waits bool, err error) {
	customers, err := s.store.ClockCustomers(ctx, t.Account, t.ID)
	if err != nil {
		return false, stored(err)
	}
	for after := ""; ; {
		page, err := s.stripe.CustomersPage(ctx, t.Account, stripeapi.CustomersQuery{After: after, Limit: pageSize, TestClock: t.ID})
		if (errors.Is(err, stripeapi.ErrNotFound) || errors.Is(err, stripeapi.ErrRefused)) && !cursorGone(err) {
			break // the clock is deleted; its customers tell for themselves
		}
		if err != nil {
			return false, err
		}
		for _, c := range page.Rows {
			customers = append(customers, c.ID)
			after = c.ID
		}
		if !page.HasMore || len(page.Rows) == 0 {
			break
		}
	}
	slices.Sort(customers)
	var targets []mirror.Target
	for _, c := range slices.Compact(customers) {
		targets = append(targets,
			mirror.Target{Account: t.Account, Scope: mirror.ScopeBalance, ID: c},
			mirror.Target{Account: t.Account, Scope: mirror.ScopeCredits, ID: c})
	}
	if mirror.OneCustomer(targets) {
		return false, s.passOn(ctx, t, targets, nil)
	}
	// An event cannot carry several customers: the question stays open until all of
	// them are synced, and marks those that are not each time it is asked.
	err = s.store.ResolveEvents(ctx, t, targets)
	unsynced, waits := errors.AsType[*mirror.UnsyncedError](err)
	switch {
	case waits:
		targets = unsynced.Targets
	case errors.Is(err, mirror.ErrNotFound): // without an inbox
	default:
		return false, stored(err)
	}
	return waits, s.mark(ctx, t, targets, nil)
}

func (s *Syncer) mark(ctx context.Context, question mirror.Target, targets []mirror.Target, refs []mirror.EventRef) error {
	if err := s.marker.MarkTargets(ctx, targets, refs); err != nil {
		return fmt.Errorf("mark the targets of %s: %w", question, err)
	}
	failpoint.Hit("worker.passed")
	return nil
}

// passOn marks the targets before the events stop waiting for the question, so
// that a crash between the two asks again instead of forgetting.
func (s *Syncer) passOn(ctx context.Context, question mirror.Target, targets []mirror.Target, refs []mirror.EventRef) error {
	if err := s.mark(ctx, question, targets, refs); err != nil {
		return err
	}
	return stored(s.store.ResolveEvents(ctx, question, targets))
}
