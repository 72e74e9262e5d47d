package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// resolveGrant finds the customer of a grant, in the mirror or with one call,
// and passes the events on to that customer's credits. local is whether there was
// no call.
func (s *Syncer) resolveGrant(ctx context.Context, t mirror.Target, refs []mirror.EventRef) (local bool, err error) {
	customer, err := s.store.GrantOwner(ctx, t.Account, t.ID)
	local = err == nil
	if errors.Is(err, mirror.ErrNotFound) {
		customer, err = s.grantOwner(ctx, t, s.stripe.Grant)
		if err != nil {
			return false, err
		}
	} else if err != nil {
		return false, stored(err)
	}
	return local, s.passOn(ctx, t, []mirror.Target{{Account: t.Account, Scope: mirror.ScopeCredits, ID: customer}}, refs)
}

// resolveCredit is resolveGrant for a credit balance transaction, which leads to its
// customer by its grant. One that a sync has brought meanwhile costs no call.
func (s *Syncer) resolveCredit(ctx context.Context, t mirror.Target, refs []mirror.EventRef) (local bool, err error) {
	held, err := s.store.CreditTransaction(ctx, t.Account, t.ID)
	customer := held.Customer
	local = err == nil
	if errors.Is(err, mirror.ErrNotFound) {
		customer, err = s.grantOwner(ctx, t, s.stripe.CreditOwner)
		if err != nil {
			return false, err
		}
	} else if err != nil {
		return false, stored(err)
	}
	return local, s.passOn(ctx, t, []mirror.Target{{Account: t.Account, Scope: mirror.ScopeCredits, ID: customer}}, refs)
}

// grantOwner reads a grant from Stripe, stores it where it is not stored, and returns whose
// it is.
func (s *Syncer) grantOwner(ctx context.Context, t mirror.Target, read func(ctx context.Context, account, id string) (mirror.CreditGrant, error)) (customer string, err error) {
	g, err := twice(ctx, s, t, func() (mirror.CreditGrant, error) { return read(ctx, t.Account, t.ID) })
	if err != nil {
		return "", err
	}
	if _, err := s.store.InsertGrants(ctx, t.Account, []mirror.CreditGrant{g}); err != nil {
		return "", stored(err)
	}
	return g.Customer, nil
}

// resolveBill finds the customer of an invoice or a credit note, and passes the events
// on to that customer's balance. An invoice that no balance has to do with, and one of
// nobody, leads to no sync.
func (s *Syncer) resolveBill(ctx context.Context, t mirror.Target, refs []mirror.EventRef) error {
	moves := true
	customer, err := twice(ctx, s, t, func() (customer string, err error) {
		if t.Scope == mirror.ScopeNoteOwner {
			return s.stripe.CreditNoteOwner(ctx, t.Account, t.ID)
		}
		customer, moves, err = s.stripe.InvoiceOwner(ctx, t.Account, t.ID)
		return customer, err
	})
	if err != nil {
		return err
	}
	var targets []mirror.Target
	if customer != "" && moves {
		targets = append(targets, mirror.Target{Account: t.Account, Scope: mirror.ScopeBalance, ID: customer})
	}
	return s.passOn(ctx, t, targets, refs)
}

// twice reads what an event has named, once more where Stripe does not know it: one 404
// can be a replica that lags. Stripe deletes none of these things, so that what it has
// just announced, it will show.
func twice[T any](ctx context.Context, s *Syncer, t mirror.Target, read func() (T, error)) (T, error) {
	v, err := read()
	if errors.Is(err, stripeapi.ErrNotFound) {
		if err := backoff.Sleep(ctx, 5*s.o.RereadDelay); err != nil {
			return v, err
		}
		v, err = read()
	}
	if errors.Is(err, stripeapi.ErrNotFound) {
		return v, fmt.Errorf("%w: %s %s is not known to stripe", errLagging, things[t.Scope], t.ID)
	}
	return v, err
}

// things are what questions are about, in words.
var things = map[mirror.Scope]string{
	mirror.ScopeGrantOwner:   "grant",
	mirror.ScopeCreditOwner:  "credit balance transaction",
	mirror.ScopeInvoiceOwner: "invoice",
	mirror.ScopeNoteOwner:    "credit note",
}

// resolveClock finds the customers of a test clock, those held and those Stripe
// lists, and asks for a sync of each: time has moved for all of them. waits is whether
// an event goes on waiting for some of these syncs.
func (s *Syncer) resolveClock(ctx context.Context, t mirror.Target) (waits bool, err error) {
	customers, err := s.store.ClockCustomers(ctx, t.Account, t.ID)
	if err != nil {
		return false, stored(err)
	}
	for after := ""; ; {
		page, err := s.stripe.CustomersPage(ctx, t.Account, stripeapi.CustomersQuery{After: after, Limit: pageSize, TestClock: t.ID})
		if (errors.Is(err, stripeapi.ErrNotFound) || errors.Is(err, stripeapi.ErrRefused)) && !cursorGone(err) {
			break // the clock is deleted; its customers' own events announce it
		}
		if err != nil {
			return false, err
		}
		for _, c := range page.Rows {
			customers = append(customers, c.ID)
		}
		if after = page.Last; !page.HasMore || after == "" {
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
	targets = s.o.Ledgers.Of(targets)
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
	if len(targets) == 0 {
		return nil
	}
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
