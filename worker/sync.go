package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// Stripe is what a sync reads. *stripeapi.Client is one.
type Stripe interface {
	BalancePage(ctx context.Context, account, customer, after string, limit int) (stripeapi.BalancePage, error)
	Customer(ctx context.Context, account, id string) (stripeapi.CustomerReply, error)
	CustomersPage(ctx context.Context, account string, q stripeapi.CustomersQuery) (stripeapi.CustomersPage, error)
	CreditPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.CreditPage, error)
	GrantsPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.GrantsPage, error)
	Grant(ctx context.Context, account, id string) (mirror.CreditGrant, error)
	CreditSummary(ctx context.Context, account, customer string, f stripeapi.SummaryFilter) (map[string]mirror.CreditBalance, error)
}

// Store is what a sync writes. Every mirror.Store is one.
type Store interface {
	mirror.Fence
	CreditTransaction(ctx context.Context, account, id string) (mirror.CreditTransaction, error)
	GrantOwner(ctx context.Context, account, grant string) (string, error)
	ClockCustomers(ctx context.Context, account, clock string) ([]string, error)
	ResolveEvents(ctx context.Context, question mirror.Target, targets []mirror.Target) error
}

// Marker marks targets as needing a sync; durable when it returns.
type Marker interface {
	MarkTargets(ctx context.Context, targets []mirror.Target, refs []mirror.EventRef) error
}

// SyncOptions tune a Syncer.
type SyncOptions struct {
	// PagesPerPiece bounds how many list pages one commit holds; a longer history
	// is read in several, and resumes after a crash. Defaults to 20 (2,000 rows).
	PagesPerPiece int
	// Rereads is how often a reply that does not prove itself is read again before
	// the whole history is. Defaults to 3.
	Rereads int
	// RereadDelay is the wait before the first re-read, doubled for each further
	// one. Defaults to 100 ms.
	RereadDelay time.Duration
	Log         *zap.Logger
	// Tracer makes a span for each sync. Defaults to none.
	Tracer trace.Tracer
	// Now defaults to time.Now.
	Now func() time.Time
}

// Syncer syncs one target at a time; it keeps no state of its own, so any
// number of goroutines may share one.
type Syncer struct {
	stripe Stripe
	store  Store
	marker Marker
	o      SyncOptions
}

// NewSyncer returns a Syncer that reads stripe and writes store.
func NewSyncer(stripe Stripe, store Store, marker Marker, o SyncOptions) *Syncer {
	if o.PagesPerPiece <= 0 {
		o.PagesPerPiece = 20
	}
	if o.Rereads <= 0 {
		o.Rereads = 3
	}
	if o.RereadDelay <= 0 {
		o.RereadDelay = 100 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tracer != nil {
		store = tracedStore{store, o.Tracer}
	}
	return &Syncer{stripe: stripe, store: store, marker: marker, o: o}
}

// Result tells what a sync did.
type Result struct {
	mirror.Applied
	// More tells that the history is longer than one piece and that the target
	// needs another sync.
	More bool
	// Deleted tells that the customer is gone at Stripe.
	Deleted bool
	// Unproven tells that the reply was stored although it might not prove the balance.
	Unproven bool
	// Local tells that the mirror had the answer, so that Stripe was not asked.
	Local bool
}

var (
	// errLagging: an event announced a row that Stripe does not list yet.
	errLagging = errors.New("an announced row is not listed yet")
	// errUnlisted: the customer exists, the list of its rows does not. It is lag too.
	errUnlisted = fmt.Errorf("%w: not even the list is there", errLagging)
)

// storeError marks a failure of the database itself, not a verdict of it.
type storeError struct{ err error }

func (e *storeError) Error() string { return "mirror: " + e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// stored keeps the verdicts of a Store apart from its failures.
func stored(err error) error {
	switch {
	case err == nil, errors.Is(err, mirror.ErrFenced), errors.Is(err, mirror.ErrDisproved),
		errors.Is(err, mirror.ErrLedgerRewritten), errors.Is(err, mirror.ErrNotFound), errors.Is(err, mirror.ErrUnstorable):
		return err
	}
	return &storeError{err}
}

// Sync reads the target from Stripe and commits it. refs are the events known
// to have asked for it. Without any, or where others may have asked too, the sync is
// a thorough one: every grant is read again and the summary is fetched as proof.
func (s *Syncer) Sync(ctx context.Context, t mirror.Target, refs []mirror.EventRef, thorough bool) (Result, error) {
	thorough = thorough || len(refs) == 0
	result, err := s.traced(ctx, t, refs, func(ctx context.Context) (Result, error) { return s.sync(ctx, t, refs, thorough) })
	if err != nil {
		return result, fmt.Errorf("sync %s: %w", t, err)
	}
	return result, nil
}

func (s *Syncer) sync(ctx context.Context, t mirror.Target, refs []mirror.EventRef, thorough bool) (result Result, err error) {
	switch t.Scope {
	case mirror.ScopeBalance:
		result, err = s.syncBalance(ctx, t, refs)
	case mirror.ScopeCredits:
		result, err = s.syncCredits(ctx, t, refs, thorough)
	case mirror.ScopeGrantOwner:
		result.Local, err = s.resolveGrant(ctx, t, refs)
	case mirror.ScopeClockCustomers:
		err = s.resolveClock(ctx, t, refs)
	default:
		err = fmt.Errorf("no sync for scope %q", t.Scope)
	}
	return result, err
}

// patience is the course that a sync takes when the reply does not prove
// itself: read again, then read everything, then accept and report. A reply that
// contradicts what is held is read again too, and then refused and reported.
type patience struct {
	s       *Syncer
	t       mirror.Target
	rereads int
	full    bool
	accept  bool
	// refused: the sync before was refused too, so that rereading is no cure.
	refused bool
}

func (s *Syncer) patience(t mirror.Target, st mirror.SyncState) patience {
	return patience{s: s, t: t, full: st.Disproved || st.Walk.Full, refused: !st.RefusedAt.IsZero()}
}

// next waits and tells how to read again after err, or returns err when reading
// again is no cure.
func (p *patience) next(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, mirror.ErrDisproved) && p.accept:
		return err
	case errors.Is(err, mirror.ErrLedgerRewritten) && (p.refused || lasting(err)):
		return err
	case errors.Is(err, mirror.ErrDisproved), errors.Is(err, mirror.ErrLedgerRewritten), errors.Is(err, errLagging):
	default:
		return err
	}
	p.rereads++
	if p.rereads > p.s.o.Rereads {
		if !errors.Is(err, mirror.ErrDisproved) {
			return err
		}
		// The first time over the bound reads the whole history, the second one
		// takes it as it is.
		p.accept = p.full
		p.full = true
		return nil
	}
	return sleep(ctx, p.s.o.RereadDelay<<(p.rereads-1))
}

// lasting tells of a contradiction that no list that lags explains.
func lasting(err error) bool {
	r, ok := errors.AsType[*mirror.RewrittenError](err)
	return ok && r.Lasting()
}

// blamesUs tells of a contradiction, met by a reading of some rows alone, that what
// is held was changed here. Only a reading of the whole history, which comes next,
// sees that for itself, and repairs it. listed are the ids that were read.
func (p *patience) blamesUs(ctx context.Context, err error, listed []string) (bool, error) {
	if p.full || !errors.Is(err, mirror.ErrLedgerRewritten) {
		return false, nil
	}
	if r, ok := errors.AsType[*mirror.RewrittenError](err); ok {
		for _, f := range r.Findings {
			listed = append(listed, f.Object)
		}
	}
	damaged, err := p.s.store.Damaged(ctx, p.t, listed)
	p.full = damaged
	return damaged, stored(err)
}

// refuse records why nothing of a reply is stored, and returns the error that ends
// the sync. Other errors are returned as they are.
func (s *Syncer) refuse(ctx context.Context, t mirror.Target, st mirror.SyncState, observed time.Time, err error) (Result, error) {
	if !errors.Is(err, mirror.ErrLedgerRewritten) {
		return Result{}, err
	}
	refusal := mirror.Refusal{Target: t, Epoch: st.Epoch, ObservedAt: observed}
	if r, ok := errors.AsType[*mirror.RewrittenError](err); ok {
		refusal.Findings = r.Findings
	}
	failpoint.Hit("worker.refusing")
	opened, failed := s.store.Refuse(ctx, refusal)
	if failed != nil {
		return Result{}, stored(failed)
	}
	return Result{Applied: mirror.Applied{Findings: opened}}, err
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// lookAgain asks Stripe for a customer whose ledger it would not list, and tells
// whether it is gone: deleted, or unknown on two tries, since one 404 can be a
// replica that lags.
func (s *Syncer) lookAgain(ctx context.Context, t mirror.Target) (gone bool, err error) {
	for try := range 2 {
		if try > 0 {
			if err := sleep(ctx, 5*s.o.RereadDelay); err != nil {
				return false, err
			}
		}
		reply, err := s.stripe.Customer(ctx, t.Account, t.ID)
		switch {
		case errors.Is(err, stripeapi.ErrNotFound):
			continue
		case err != nil:
			return false, err
		}
		return reply.Deleted, nil
	}
	return true, nil
}

// bury commits the tombstone of a customer that is gone at Stripe.
func (s *Syncer) bury(ctx context.Context, t mirror.Target, st mirror.SyncState, observed time.Time, refs []mirror.EventRef) (Result, error) {
	failpoint.Hit("worker.gone")
	applied, err := s.store.ApplyTombstone(ctx, mirror.Tombstone{
		Target: t, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: observed, Events: events(refs),
	})
	return Result{Applied: applied, Deleted: true}, stored(err)
}

// vanished tells whether an error of a list means that the customer may be gone.
func vanished(err error) bool {
	if errors.Is(err, stripeapi.ErrNotFound) {
		return !cursorGone(err)
	}
	e, ok := errors.AsType[*stripeapi.Error](err)
	return ok && e.Code == "resource_missing" && e.Param == "customer"
}
