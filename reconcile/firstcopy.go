package reconcile

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/internal/failpoint"
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

// CopyLease is how long a process that died in the middle of a first copy keeps
// others from going on with it.
const CopyLease = 6 * time.Second

// ErrCopying says that another process is making the first copy of the account.
var ErrCopying = errors.New("another process makes the first copy of this account")

// errCopyLeaseLost ends a copy whose lease went elsewhere; whoever has it goes on.
var errCopyLeaseLost = errors.New("the lease of the first copy was lost")

// AllCopied reports whether first copies were begun and all of them have ended. Before
// that a mirror whose every history is complete can lack customers.
func AllCopied(ctx context.Context, store AllCheckpoints) (bool, error) {
	sweeps, err := store.Sweeps(ctx)
	begun, copied := false, true
	for _, s := range sweeps {
		if s.Name == SweepBackfill {
			begun, copied = true, copied && !s.LastSuccess.IsZero()
		}
	}
	return begun && copied, err
}

// FirstCopyStore is what the first copy needs of the mirror.
type FirstCopyStore interface {
	Checkpoints
	mirror.Leases
	letterbox
	inserter
	unread
}

// FirstCopyOptions tune a FirstCopy.
type FirstCopyOptions struct {
	// TestMode: customers on test clocks are listed clock by clock, since the plain
	// list leaves them out. Live accounts have none.
	TestMode bool
	// Readers is how many parts of the list of customers are read side by side.
	// Defaults to 16: what 20 calls a second need when each takes 800 ms.
	Readers int
	// Ledgers are those that are mirrored.
	Ledgers mirror.Ledgers
	// Probe, where set, makes one call that reads a history, to see whether the key may.
	Probe func(ctx context.Context, t mirror.Target) error
	// LeaseWait is how long to wait for the lease of another process, which may be
	// a dead one. Defaults to not at all.
	LeaseWait time.Duration
	// Poll is how often the queue is looked at while histories are read. Defaults
	// to 250 ms.
	Poll time.Duration
	// Calls, where set, returns how many calls first copies have made so far, in all
	// processes. Without it the rate is that of this process's lists and of
	// histories, a call each.
	Calls func(ctx context.Context) (int64, error)
	Log   *zap.Logger
	Now   func() time.Time
}

// FirstCopy brings a whole account into the mirror: the balances of all customers
// (one call per 100), all grants, then every history through the queue, the largest
// amounts first. One process at a time copies an account.
type FirstCopy struct {
	stripe Stripe
	store  FirstCopyStore
	queue  Queue
	o      FirstCopyOptions
	told   toldOnce
}

// NewFirstCopy returns a FirstCopy.
func NewFirstCopy(stripe Stripe, store FirstCopyStore, queue Queue, o FirstCopyOptions) *FirstCopy {
	if o.Readers <= 0 {
		o.Readers = 16
	}
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

// Copied is the progress of a first copy, and its checkpoint.
type Copied struct {
	// Phase is customers, clocks, grants, histories or done.
	Phase string `json:"phase"`
	// Since is when the account was first copied: what happened before is no event
	// that the mirror could have missed. A copy that is made anew keeps it.
	Since time.Time `json:"since,omitzero"`
	// Without are the ledgers that were not copied: not wanted then, or not to be read
	// by the key. Adds are those of them that a finished copy is adding.
	Without []mirror.Scope `json:"without,omitempty"`
	Adds    []mirror.Scope `json:"adds,omitempty"`
	// Customers and Grants listed so far.
	Customers int64 `json:"customers"`
	Grants    int64 `json:"grants"`
	// Left is how many histories are not complete; known in the phase histories.
	Left int64 `json:"left"`
	// Cursor is the id after which the phase goes on; Clock is the test clock it is
	// at. The phase customers has Ranges instead.
	Cursor string `json:"cursor,omitempty"`
	Clock  string `json:"clock,omitempty"`
	// Ranges are the parts of the list of customers that are not read to their end.
	Ranges []*CustomerRange `json:"ranges,omitempty"`

	Pace `json:"-"`
}

// Done reports whether the first copy of the account has been completed.
func (f *FirstCopy) Done(ctx context.Context, account string) (bool, error) {
	sweep, err := f.store.Sweep(ctx, account, SweepBackfill)
	return !sweep.LastSuccess.IsZero(), err
}

// Standing is how far the first copy of the account got, by whichever process.
func (f *FirstCopy) Standing(ctx context.Context, account string) (Copied, error) {
	sweep, err := f.store.Sweep(ctx, account, SweepBackfill)
	if err != nil || len(sweep.State) == 0 {
		return Copied{}, err
	}
	var at Copied
	err = json.Unmarshal(sweep.State, &at)
	return at, err
}

// Run copies the account, resuming where an earlier run stopped, and reports
// progress after each page. A completed copy is made anew: what is held stays,
// and what is missing is added. ErrCopying when another process is at it.
func (f *FirstCopy) Run(ctx context.Context, account string, progress func(Copied)) error {
	ctx, release, err := f.lease(ctx, account)
	if err != nil {
		return err
	}
	defer release()
	err = f.run(ctx, account, progress)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errCopyLeaseLost) {
		return cause
	}
	return err
}

// lease takes the account's lease and keeps it until release; the context ends
// when it is lost.
func (f *FirstCopy) lease(ctx context.Context, account string) (context.Context, func(), error) {
	name, owner := "backfill "+account, rand.Text()
	deadline := time.Now().Add(f.o.LeaseWait)
	for {
		asked := time.Now()
		held, err := f.store.AcquireLease(ctx, name, owner, CopyLease)
		if err != nil {
			return nil, nil, err
		}
		if held {
			break
		}
		if !asked.Before(deadline) {
			return nil, nil, ErrCopying
		}
		if err := backoff.Sleep(ctx, CopyLease/12); err != nil {
			return nil, nil, err
		}
	}
	leased, cancel := context.WithCancelCause(mirror.WithLease(ctx, mirror.Lease{Name: name, Owner: owner}))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// Only another owner ends the copy: a database that is slow to answer lets
		// nobody else in either, and if one got in, the fence keeps both from harm.
		for backoff.Sleep(leased, CopyLease/3) == nil {
			ask, done := context.WithTimeout(leased, CopyLease)
			held, err := f.store.AcquireLease(ask, name, owner, CopyLease)
			done()
			if err == nil && !held {
				cancel(errCopyLeaseLost)
				return
			}
		}
	}()
	return leased, func() {
		cancel(nil)
		<-ended
		// Given back, so that the next run need not wait for it to run out.
		giveBack, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer done()
		if err := f.store.ReleaseLease(giveBack, name, owner); err != nil {
			f.o.Log.Debug("could not release the first copy's lease", zap.Error(err))
		}
	}, nil
}

func (f *FirstCopy) run(ctx context.Context, account string, progress func(Copied)) error {
	sweep, err := f.store.Sweep(ctx, account, SweepBackfill)
	if err != nil {
		return err
	}
	var at Copied
	if len(sweep.State) == 0 || json.Unmarshal(sweep.State, &at) != nil || at.Phase == phaseDone || at.Phase == "" {
		since := at.Since
		sweep.StartedAt = f.o.Now().UTC()
		if sweep.LastSuccess.IsZero() {
			since = sweep.StartedAt
		}
		at = Copied{Phase: phaseCustomers, Since: since, Ranges: []*CustomerRange{{}}, Without: f.o.Ledgers.Left()}
		if err := f.beginEvents(ctx, account, sweep.StartedAt); err != nil {
			return err
		}
	}
	if at.Phase == phaseCustomers && len(at.Ranges) == 0 { // a checkpoint of the version before
		at.Ranges, at.Cursor = []*CustomerRange{{After: at.Cursor}}, ""
	}
	pace := newPacer(f.o)
	tell := func() {
		at.Pace = pace.look(ctx, &at)
		progress(at)
	}
	save := func() error {
		if sweep.State, err = json.Marshal(at); err != nil {
			return err
		}
		tell()
		failpoint.Hit("copy.saving")
		return f.store.SaveSweep(ctx, sweep)
	}
	failpoint.Hit("copy.begun")
	limits := f.limits()
	// leave leaves a ledger out that the key may not read: the rest is copied all the
	// same, and the ledger once it may.
	leave := func(ledger mirror.Scope, err error) error {
		refused, err := limits.judge(ctx, account, Part(ledger), err)
		if refused && !slices.Contains(at.Without, ledger) {
			at.Without = append(at.Without, ledger)
		}
		return err
	}
	for at.Phase != phaseDone {
		switch at.Phase {
		case phaseCustomers:
			if at.has(mirror.ScopeBalance) {
				err = leave(mirror.ScopeBalance, f.copyRanges(ctx, account, &at, pace, save))
			}
			at.Ranges = nil
			at.Phase = phaseGrants
			if f.o.TestMode {
				at.Phase = phaseClocks
			}
		case phaseClocks:
			if at.has(mirror.ScopeBalance) {
				_, err = limits.judge(ctx, account, PartClocks, f.copyClocks(ctx, account, &at, pace, save))
			}
			at.Phase = phaseGrants
		case phaseGrants:
			if at.has(mirror.ScopeCredits) {
				err = leave(mirror.ScopeCredits, f.copyGrantsBesideHistories(ctx, account, &at, pace, save))
			}
			at.Phase = phaseHistories
		case phaseHistories:
			if err = f.probe(ctx, account, &at, leave); err != nil {
				break
			}
			err = f.copyHistories(ctx, account, &at, pace, tell)
			at.Phase = phaseDone
			if err == nil && !at.has(mirror.ScopeBalance) && !at.has(mirror.ScopeCredits) {
				return errNothingReadable
			}
			failpoint.Hit("copy.done")
			at.Adds = nil
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
	}
	return nil
}

// errNothingReadable ends a first copy of an account of which the key may read no
// ledger at all; it is tried again.
var errNothingReadable = errors.New("the key may read neither customers nor billing credits")

func (f *FirstCopy) limits() limiter { return limiter{store: f.store, log: f.o.Log, now: f.o.Now} }

// has reports whether the copy includes a ledger.
func (at *Copied) has(ledger mirror.Scope) bool { return !slices.Contains(at.Without, ledger) }

// probe asks for the first history of each ledger, so that one that the key may not
// read is left out and not waited for.
func (f *FirstCopy) probe(ctx context.Context, account string, at *Copied, leave func(mirror.Scope, error) error) error {
	for _, ledger := range []mirror.Scope{mirror.ScopeBalance, mirror.ScopeCredits} {
		if f.o.Probe == nil || !at.has(ledger) {
			continue
		}
		list, err := f.store.Unsynced(ctx, account, ledger, mirror.Unread{}, 1)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			continue
		}
		err = f.o.Probe(ctx, mirror.Target{Account: account, Scope: ledger, ID: list[0].Customer})
		if _, refused := stripeapi.Permission(err); !refused {
			continue // whatever it is, the history's own reading meets it, and is patient
		}
		if err := leave(ledger, err); err != nil {
			return err
		}
	}
	return nil
}

// Add copies the ledgers that a finished copy left out, which are wanted and which the
// key may read now, and goes on where it broke off. It makes a call for each ledger that
// is left out, and no more where the key may still not read it.
func (f *FirstCopy) Add(ctx context.Context, account string, progress func(Copied)) error {
	ctx, release, err := f.lease(ctx, account)
	if err != nil {
		return err
	}
	defer release()
	sweep, err := f.store.Sweep(ctx, account, SweepBackfill)
	if err != nil {
		return err
	}
	at, ok := copiedOf(sweep)
	if !ok || sweep.LastSuccess.IsZero() {
		return nil
	}
	begin := at.Phase
	for _, ledger := range f.o.Ledgers.Scopes() {
		if at.has(ledger) {
			continue
		}
		refused, err := f.limits().judge(ctx, account, Part(ledger), f.firstPage(ctx, account, ledger))
		switch {
		case err != nil:
			return err
		case refused:
			continue
		}
		at.Without = slices.DeleteFunc(at.Without, func(s mirror.Scope) bool { return s == ledger })
		at.Adds = append(at.Adds, ledger)
		// What came before is no event that this ledger could have missed.
		at.Since = f.o.Now().UTC()
		if ledger == mirror.ScopeBalance {
			begin, at.Ranges = phaseCustomers, []*CustomerRange{{}}
		} else if begin == phaseDone {
			begin = phaseGrants
		}
	}
	if len(at.Adds) == 0 {
		return nil
	}
	if begin != at.Phase {
		at.Phase, at.Cursor, at.Clock = begin, "", ""
		if sweep.State, err = json.Marshal(at); err != nil {
			return err
		}
		if err := f.store.SaveSweep(ctx, sweep); err != nil {
			return err
		}
	}
	return f.run(ctx, account, progress)
}

// firstPage makes the first call of the copy of a ledger, with a single row.
func (f *FirstCopy) firstPage(ctx context.Context, account string, ledger mirror.Scope) (err error) {
	if ledger == mirror.ScopeBalance {
		_, err = f.stripe.CustomersPage(ctx, account, stripeapi.CustomersQuery{Limit: 1})
	} else {
		_, err = f.stripe.GrantsPage(ctx, account, "", "", 1)
	}
	return err
}

// Missing reports whether a finished copy has yet to add a ledger that is wanted.
func (f *FirstCopy) Missing(sweep mirror.Sweep) bool {
	at, ok := copiedOf(sweep)
	return ok && !sweep.LastSuccess.IsZero() &&
		(len(at.Adds) > 0 || slices.ContainsFunc(f.o.Ledgers.Scopes(), func(s mirror.Scope) bool { return !at.has(s) }))
}

// copiedOf reads the checkpoint of a first copy.
func copiedOf(sweep mirror.Sweep) (at Copied, ok bool) {
	return at, len(sweep.State) > 0 && json.Unmarshal(sweep.State, &at) == nil
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

// copyClock reads the customers of one test clock.
func (f *FirstCopy) copyClock(ctx context.Context, account, clock string, at *Copied, pace *pacer, save func() error) error {
	for {
		page, err := f.stripe.CustomersPage(ctx, account, stripeapi.CustomersQuery{After: at.Cursor, Limit: 100, TestClock: clock})
		pace.called()
		if cursorGone(err) && at.Cursor != "" {
			// The customer that the copy stopped at was deleted: list the clock again from
			// the top. What is held stays as it is, so this costs calls and nothing else.
			f.o.Log.Info("cursor is gone; listing customers from the start", zap.String("account", account))
			at.Cursor = ""
			continue
		}
		if err != nil {
			return fmt.Errorf("list customers of account %q: %w", account, err)
		}
		if err := f.leaveOut(ctx, account, whatCustomer, page.Bad); err != nil {
			return err
		}
		if _, err := f.store.InsertCustomers(ctx, account, page.Rows); err != nil {
			return err
		}
		at.Customers += int64(len(page.Rows))
		if !page.HasMore || page.Last == "" {
			return nil
		}
		at.Cursor = page.Last
		if err := save(); err != nil {
			return err
		}
	}
}

// What can be left out of a list.
const (
	whatCustomer = "customer"
	whatGrant    = "credit grant"
)

func (f *FirstCopy) leaveOut(ctx context.Context, account, what string, bad []stripeapi.BadRow) error {
	return f.told.leaveOut(ctx, f.store, f.o.Log, f.o.Now().UTC(), account, what, bad)
}

func (f *FirstCopy) copyClocks(ctx context.Context, account string, at *Copied, pace *pacer, save func() error) error {
	copyOne := func(clock string) error {
		err := f.copyClock(ctx, account, clock, at, pace, save)
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
		pace.called()
		if cursorGone(err) && after != "" {
			after = "" // that clock was deleted: list again from the top
			continue
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

func (f *FirstCopy) copyGrants(ctx context.Context, account string, at *Copied, pace *pacer, save func() error) error {
	for {
		page, err := f.stripe.GrantsPage(ctx, account, "", at.Cursor, 100)
		pace.called()
		if cursorGone(err) && at.Cursor != "" {
			at.Cursor, at.Grants = "", 0
			continue
		}
		if err != nil {
			return fmt.Errorf("list credit grants of account %q: %w", account, err)
		}
		if err := f.leaveOut(ctx, account, whatGrant, page.Bad); err != nil {
			return err
		}
		if _, err := f.store.InsertGrants(ctx, account, page.Rows); err != nil {
			return err
		}
		failpoint.Hit("copy.grants")
		at.Grants += int64(len(page.Rows))
		if !page.HasMore || page.Last == "" {
			return nil
		}
		at.Cursor = page.Last
		if err := save(); err != nil {
			return err
		}
	}
}
