package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// The phases of a first copy, in order: after the second one the balance of
// every customer is exact.
const (
	phaseCustomers = "customers"
	phaseClocks    = "clocks"
	phaseGrants    = "grants"
	phaseHistories = "histories"
	phaseDone      = "done"
)

const (
	// feedPage is how many histories are marked at a time.
	feedPage = 500
	// feedBacklog keeps the queue of swept work short: the database knows what is
	// left, so Redis need not hold it all.
	feedBacklog = 1000
	// countInterval is how often what is left is counted.
	countInterval = 2 * time.Second
)

// FirstCopyOptions tune a FirstCopy.
type FirstCopyOptions struct {
	// TestMode: customers on test clocks are listed clock by clock, since the plain
	// list leaves them out. Live accounts have none.
	TestMode bool
	// Poll is how often the queue is looked at while histories are read. Defaults
	// to 250 ms.
	Poll time.Duration
	Log  *zap.Logger
	Now  func() time.Time
}

// FirstCopy brings a whole account into the mirror: the balances of all customers
// (one call per 100), all grants, then every history through the queue.
type FirstCopy struct {
	stripe Stripe
	store  Store
	queue  Queue
	o      FirstCopyOptions
}

// NewFirstCopy returns a FirstCopy.
func NewFirstCopy(stripe Stripe, store Store, queue Queue, o FirstCopyOptions) *FirstCopy {
	if o.Poll <= 0 {
		o.Poll = 250 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &FirstCopy{stripe: stripe, store: store, queue: queue, o: o}
}

// Copied is the progress of a first copy.
type Copied struct {
	// Phase is customers, clocks, grants, histories or done.
	Phase string `json:"phase"`
	// Customers and Grants listed so far.
	Customers int64 `json:"customers"`
	Grants    int64 `json:"grants"`
	// Left is how many histories are not complete; known in the phase histories.
	Left int64 `json:"left"`
	// Cursor is the id after which the phase goes on; Clock is the test clock it is at.
	Cursor string `json:"cursor,omitempty"`
	Clock  string `json:"clock,omitempty"`
}

// Done tells whether the first copy of the account has been completed.
func (f *FirstCopy) Done(ctx context.Context, account string) (bool, error) {
	sweep, err := f.store.Sweep(ctx, account, SweepBackfill)
	return !sweep.LastSuccess.IsZero(), err
}

// Run copies the account, going on where an earlier run broke off, and tells
// progress after each page. A completed copy is made anew: what is held stays,
// and what is missing is added.
func (f *FirstCopy) Run(ctx context.Context, account string, progress func(Copied)) error {
	sweep, err := f.store.Sweep(ctx, account, SweepBackfill)
	if err != nil {
		return err
	}
	var at Copied
	if len(sweep.State) == 0 || json.Unmarshal(sweep.State, &at) != nil || at.Phase == phaseDone || at.Phase == "" {
		at = Copied{Phase: phaseCustomers}
		sweep.StartedAt = f.o.Now().UTC()
		if err := f.beginEvents(ctx, account, sweep.StartedAt); err != nil {
			return err
		}
	}
	save := func() error {
		if sweep.State, err = json.Marshal(at); err != nil {
			return err
		}
		progress(at)
		return f.store.SaveSweep(ctx, sweep)
	}
	// A key may lack the permission for billing credits: the balances are copied all
	// the same, and the rest once it is given.
	var creditsRefused error
	for at.Phase != phaseDone {
		switch at.Phase {
		case phaseCustomers:
			err = f.copyCustomers(ctx, account, "", &at, save)
			at.Phase = phaseGrants
			if f.o.TestMode {
				at.Phase = phaseClocks
			}
		case phaseClocks:
			err = f.copyClocks(ctx, account, &at, save)
			at.Phase = phaseGrants
		case phaseGrants:
			err = f.copyGrants(ctx, account, &at, save)
			if errors.Is(err, stripeapi.ErrForbidden) && !errors.Is(err, stripeapi.ErrAccountRefused) {
				creditsRefused, err = err, nil
			}
			at.Phase = phaseHistories
		case phaseHistories:
			err = f.copyHistories(ctx, account, &at, progress)
			at.Phase = phaseDone
			if creditsRefused != nil {
				at.Phase = phaseGrants
				break
			}
			sweep.LastSuccess = f.o.Now().UTC()
			sweep.LastFound = at.Customers
		default:
			return fmt.Errorf("first copy of account %q stands at phase %q, which this version does not know", account, at.Phase)
		}
		if err != nil {
			return err
		}
		at.Cursor, at.Clock = "", ""
		if err := save(); err != nil {
			return err
		}
		if at.Phase == phaseGrants && creditsRefused != nil {
			return creditsRefused
		}
	}
	return nil
}

// beginEvents sets the watermark of the events sweep to the begin of the first
// copy: what changes while it runs is found by the first pass over events.
func (f *FirstCopy) beginEvents(ctx context.Context, account string, begun time.Time) error {
	events, err := f.store.Sweep(ctx, account, SweepEvents)
	if err != nil || !events.Watermark.IsZero() {
		return err
	}
	events.Watermark = begun.Add(-clockTolerance)
	return f.store.SaveSweep(ctx, events)
}

func (f *FirstCopy) copyCustomers(ctx context.Context, account, clock string, at *Copied, save func() error) error {
	for {
		page, err := f.stripe.CustomersPage(ctx, account, stripeapi.CustomersQuery{After: at.Cursor, Limit: 100, TestClock: clock})
		if cursorGone(err) && at.Cursor != "" {
			// The customer that the copy stopped at was deleted: list again from the
			// top. What is held stays as it is, so this costs calls and nothing else.
			f.o.Log.Info("list of customers begins again", zap.String("account", account))
			at.Cursor, at.Customers = "", 0
			continue
		}
		if err != nil {
			return fmt.Errorf("list customers of account %q: %w", account, err)
		}
		if _, err := f.store.InsertCustomers(ctx, account, f.mirrorable(account, page.Rows)); err != nil {
			return err
		}
		at.Customers += int64(len(page.Rows))
		if !page.HasMore || len(page.Rows) == 0 {
			return nil
		}
		at.Cursor = page.Rows[len(page.Rows)-1].ID
		if err := save(); err != nil {
			return err
		}
	}
}

// mirrorable leaves out customers whose self-chosen id cannot be used in a path
// or a key, and says so.
func (f *FirstCopy) mirrorable(account string, rows []mirror.Customer) []mirror.Customer {
	good := make([]mirror.Customer, 0, len(rows))
	for _, c := range rows {
		if !mirror.ValidCustomerID(c.ID) {
			f.o.Log.Error("a customer is not mirrored: its id has letters that ids cannot have",
				zap.String("account", account), zap.String("customer_id", c.ID))
			continue
		}
		good = append(good, c)
	}
	return good
}

func (f *FirstCopy) copyClocks(ctx context.Context, account string, at *Copied, save func() error) error {
	copyOne := func(clock string) error {
		err := f.copyCustomers(ctx, account, clock, at, save)
		if errors.Is(err, stripeapi.ErrNotFound) { // deleted meanwhile, and its customers with it
			err = nil
		}
		at.Cursor = ""
		return err
	}
	after := at.Clock // where an earlier run broke off
	if after != "" {
		if err := copyOne(after); err != nil {
			return err
		}
	}
	for {
		clocks, more, err := f.stripe.TestClocks(ctx, account, after, 100)
		if cursorGone(err) && after != "" {
			after = "" // that clock was deleted: list again from the top
			continue
		}
		if errors.Is(err, stripeapi.ErrForbidden) && !errors.Is(err, stripeapi.ErrAccountRefused) {
			f.o.Log.Error("the key may not list test clocks: customers on them are mirrored only once an event names them",
				zap.String("account", account), zap.Error(err))
			return nil
		}
		if err != nil {
			return fmt.Errorf("list test clocks of account %q: %w", account, err)
		}
		for _, clock := range clocks {
			after, at.Clock = clock, clock
			if err := copyOne(clock); err != nil {
				return err
			}
		}
		if !more || len(clocks) == 0 {
			return nil
		}
	}
}

func (f *FirstCopy) copyGrants(ctx context.Context, account string, at *Copied, save func() error) error {
	for {
		page, err := f.stripe.GrantsPage(ctx, account, "", at.Cursor, 100)
		if cursorGone(err) && at.Cursor != "" {
			at.Cursor, at.Grants = "", 0
			continue
		}
		if err != nil {
			return fmt.Errorf("list credit grants of account %q: %w", account, err)
		}
		if _, err := f.store.InsertGrants(ctx, account, page.Rows); err != nil {
			return err
		}
		at.Grants += int64(len(page.Rows))
		if !page.HasMore || len(page.Rows) == 0 {
			return nil
		}
		at.Cursor = page.Rows[len(page.Rows)-1].ID
		if err := save(); err != nil {
			return err
		}
	}
}

// copyHistories marks every customer whose history is not complete, a short
// queue at a time, until none is left but those with a dead letter. The database
// is the checkpoint: what is complete is not listed again.
func (f *FirstCopy) copyHistories(ctx context.Context, account string, at *Copied, progress func(Copied)) error {
	counted := time.Time{}
	for _, scope := range []mirror.Scope{mirror.ScopeBalance, mirror.ScopeCredits} {
		for after := ""; ; {
			backlog, err := f.queue.Backlog(ctx)
			if err != nil {
				return err
			}
			if now := f.o.Now(); now.Sub(counted) >= countInterval { // a look over all that is left
				counted = now
				if at.Left, err = f.store.UnsyncedCount(ctx, account); err != nil {
					return err
				}
				progress(*at)
			}
			if backlog >= feedBacklog {
				if err := pause(ctx, f.o.Poll); err != nil {
					return err
				}
				continue
			}
			ids, err := f.store.Unsynced(ctx, account, scope, after, feedPage)
			if err != nil {
				return err
			}
			if len(ids) == 0 && after == "" {
				break
			}
			if len(ids) == 0 { // a pass is over: look whether it left anything
				after = ""
				if err := pause(ctx, f.o.Poll); err != nil {
					return err
				}
				continue
			}
			targets := make([]mirror.Target, len(ids))
			for i, id := range ids {
				targets[i] = mirror.Target{Account: account, Scope: scope, ID: id}
			}
			queued, err := f.queue.Queued(ctx, targets)
			if err != nil {
				return err
			}
			fresh := targets[:0]
			for i, t := range targets {
				if !queued[i] {
					fresh = append(fresh, t)
				}
			}
			if len(fresh) > 0 {
				if err := f.queue.MarkSwept(ctx, fresh); err != nil {
					return err
				}
			}
			after = ids[len(ids)-1]
		}
	}
	var err error
	at.Left, err = f.store.UnsyncedCount(ctx, account)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
