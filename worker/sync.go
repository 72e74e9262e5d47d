package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
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
	CreditOwner(ctx context.Context, account, id string) (mirror.CreditGrant, error)
	InvoiceOwner(ctx context.Context, account, id string) (customer string, moves bool, err error)
	CreditNoteOwner(ctx context.Context, account, id string) (customer string, err error)
	TestClock(ctx context.Context, account, id string) (time.Time, error)
	CreditSummary(ctx context.Context, account, customer string, f stripeapi.SummaryFilter) (map[string]mirror.CreditBalance, error)
}

// Store is what a sync writes. Every mirror.Store is one.
type Store interface {
	mirror.Fence
	GrantOwner(ctx context.Context, account, grant string) (string, error)
	ClockCustomers(ctx context.Context, account, clock string) ([]string, error)
	CreditTransaction(ctx context.Context, account, id string) (mirror.CreditTransaction, error)
	ResolveEvents(ctx context.Context, question mirror.Target, targets []mirror.Target) error
}

// Marker marks targets as needing a sync; durable when it returns.
type Marker interface {
	MarkTargets(ctx context.Context, targets []mirror.Target, refs []mirror.EventRef) error
}

// SyncOptions tune a Syncer.
type SyncOptions struct {
	// PagesPerPiece bounds how many list pages one commit holds; a longer history
	// is read in several, and resumes after a crash. Defaults to 5 (500 rows), so that
	// no webhook waits long for a piece.
	PagesPerPiece int
	// WalkFor is how long a sync goes on with further pieces, of which each costs no
	// more calls than it has pages; then it gives way, and the next one has to read
	// the newest rows again. Defaults to 10 s; negative: a sync reads one piece.
	WalkFor time.Duration
	// Rereads is how often a reply that does not prove itself is read again before
	// the whole history is. Defaults to 3.
	Rereads int
	// RereadDelay is the wait before the first re-read, doubled for each further
	// one. Defaults to 100 ms.
	RereadDelay time.Duration
	// Ledgers are those that are mirrored.
	Ledgers mirror.Ledgers
	Log     *zap.Logger
	// Tracer makes a span for each sync. Defaults to none.
	Tracer trace.Tracer
	// Now defaults to time.Now.
	Now func() time.Time
}

// Syncer syncs one target at a time; it keeps no state of its targets, so any
// number of goroutines may share one.
type Syncer struct {
	stripe Stripe
	store  Store
	marker Marker
	o      SyncOptions

	noSummary sync.Once // logged that summaries cannot be read
}

// NewSyncer returns a Syncer that reads stripe and writes store.
func NewSyncer(stripe Stripe, store Store, marker Marker, o SyncOptions) *Syncer {
	if o.PagesPerPiece <= 0 {
		o.PagesPerPiece = 5
	}
	if o.WalkFor == 0 {
		o.WalkFor = 10 * time.Second
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

// Result is what a sync did.
type Result struct {
	mirror.Applied
	// More means that the history is longer than one piece and that the target
	// needs another sync.
	More bool
	// Deleted means that the customer is gone at Stripe.
	Deleted bool
	// Unproven means that the reply was stored although it might not prove the balance.
	Unproven bool
	// Looks is how many more looks are worth it, because the reply may be behind the
	// events that it answered.
	Looks int
	// Waits means that an event waits for syncs of several customers that this one has
	// asked for, so that the question is asked again.
	Waits bool
	// Before is when the reads of the last sync that joined began, before this one.
	Before time.Time
	// Local means that the mirror had the answer, so that Stripe was not asked.
	Local bool
}

var (
	// errLagging: Stripe does not show yet what an event has announced.
	errLagging = errors.New("what was announced is not shown yet")
	// errReread: what was read is put aside, and read again.
	errReread = errors.New("read again")
	// errUnlisted: the customer exists, the list of its rows does not. It is lag too.
	errUnlisted = fmt.Errorf("%w: not even the list is there", errLagging)
)

const (
	// youngCustomer is how long after an event that named it Stripe may answer 404 for
	// a customer that was never held: longer than any replica was seen to lag.
	youngCustomer = 5 * time.Minute
	// lastingLag is how long after its event a row may be missing from the list before
	// the whole history is read for it.
	lastingLag = 10 * time.Second
	// lagKnown is how old an event may be for a reply to be suspected of lagging behind
	// it.
	lagKnown = 2 * time.Minute
	// settledAfter is how long after a second no row comes into it any more, unless lists
	// lag for longer or a clock is off.
	settledAfter = 10 * time.Second
	// rowSlack is how far before its event a row of the customer balance is created.
	rowSlack = 2 * time.Second
	// eventSlack is how far before its event a row may have been created.
	eventSlack = time.Minute
)

// goesOn reports whether a sync that began then may read another piece.
func (s *Syncer) goesOn(began time.Time) bool {
	return s.o.WalkFor > 0 && s.o.Now().Sub(began) < s.o.WalkFor
}

// add adds what a further piece of the same sync did.
func (r *Result) add(piece mirror.Applied) {
	r.Inserted += piece.Inserted
	r.Updated += piece.Updated
	r.Answered = append(r.Answered, piece.Answered...)
	r.Findings = append(r.Findings, piece.Findings...)
	r.Repaired = append(r.Repaired, piece.Repaired...)
	r.Closed = append(r.Closed, piece.Closed...)
	r.Unanswered = piece.Unanswered
}

// storeError marks a failure of the database itself, not a verdict of it.
type storeError struct{ err error }

func (e *storeError) Error() string { return "mirror: " + e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// StoreFailed reports whether a sync's error means that the database itself failed, and neither
// Stripe nor what it said.
func StoreFailed(err error) bool {
	_, failed := errors.AsType[*storeError](err)
	return failed
}

// stored keeps the verdicts of a Store apart from its failures.
func stored(err error) error {
	switch {
	case err == nil, errors.Is(err, mirror.ErrFenced), errors.Is(err, mirror.ErrDisproved),
		errors.Is(err, mirror.ErrLedgerRewritten), errors.Is(err, mirror.ErrNotFound), errors.Is(err, mirror.ErrUnstorable),
		errors.Is(err, mirror.ErrBehind):
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
	case mirror.ScopeCreditOwner:
		result.Local, err = s.resolveCredit(ctx, t, refs)
	case mirror.ScopeInvoiceOwner, mirror.ScopeNoteOwner:
		err = s.resolveBill(ctx, t, refs)
	case mirror.ScopeClockCustomers:
		result.Waits, err = s.resolveClock(ctx, t)
	default:
		err = fmt.Errorf("no sync for scope %q", t.Scope)
	}
	return result, err
}

// retryPolicy is the course that a sync takes when the reply does not prove
// itself: read again, then read everything, then accept and report. A reply that
// contradicts what is held is read again too, and then refused and reported. One that
// is behind what is known is read again, further down; what lags for long is looked
// for in the whole history once, and then the reply is stored as far as it goes.
type retryPolicy struct {
	s       *Syncer
	t       mirror.Target
	st      mirror.SyncState
	rereads int
	full    bool
	accept  bool
	// refused: the sync before was refused too, so that rereading is no cure.
	refused bool
	// from is down to when the list is read for rows that are missing; zero: to where
	// it joins what is held.
	from time.Time
	// missing are events of the inbox that no reply has answered, besides those that
	// asked for the sync.
	missing []mirror.EventRef
	// behind is what a reply was behind of that is stored all the same.
	behind *mirror.BehindError
}

func (s *Syncer) newRetryPolicy(t mirror.Target, st mirror.SyncState) retryPolicy {
	return retryPolicy{s: s, t: t, st: st, full: st.Disproved || st.Walk.Full, refused: !st.RefusedAt.IsZero()}
}

// reach is the state to read by: down to where missing rows may be.
func (p *retryPolicy) reach(st mirror.SyncState) mirror.SyncState {
	if !p.from.IsZero() && p.from.Before(st.CompleteTo) {
		st.CompleteTo = p.from
	}
	return st
}

// settled is the state to read by: where the newest row that is held was long past
// when the last reading began, no row can have come into its second since, so that the
// first row of that second joins. Should one have come all the same, the chain does not
// close, and the next reading goes below the second.
func (p *retryPolicy) settled(st mirror.SyncState) mirror.SyncState {
	if st.HistoryComplete && !st.Walk.InProgress() && p.rereads == 0 && !st.CompleteTo.IsZero() &&
		st.ObservedAt.Sub(st.CompleteTo) >= settledAfter {
		st.CompleteTo = st.CompleteTo.Add(time.Nanosecond)
	}
	return st
}

// next waits and returns how to read again after err, or returns err when reading
// again is no cure.
func (p *retryPolicy) next(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, errReread):
		return nil
	case errors.Is(err, mirror.ErrDisproved) && p.accept:
		return err
	case errors.Is(err, mirror.ErrLedgerRewritten) && (p.refused || lasting(err)):
		return err
	case errors.Is(err, mirror.ErrDisproved), errors.Is(err, mirror.ErrLedgerRewritten), errors.Is(err, errLagging):
	default:
		return err
	}
	if p.again() {
		return p.pause(ctx)
	}
	if !errors.Is(err, mirror.ErrDisproved) {
		return err
	}
	// The first time over the bound reads the whole history, the second one takes it
	// as it is.
	p.accept = p.full
	p.full = true
	return nil
}

// again counts a reading and reports whether another one is within the bound.
func (p *retryPolicy) again() bool {
	p.rereads++
	return p.rereads <= p.s.o.Rereads
}

func (p *retryPolicy) pause(ctx context.Context) error {
	return backoff.Sleep(ctx, p.s.o.RereadDelay<<(p.rereads-1))
}

// nextBehind is next after a reply that is behind: errReread where it is to be read
// again, nil where it is to be stored as far as it goes. asked are the events that
// asked for the sync; a thorough one is asked for by all.
//
// The list is read further down, to where a missing row must be. Lag that does not
// last is then waited for outside of the sync. Otherwise a missing row is looked for in
// the whole history, unless that was done since. An event for which all that was in
// vain delays no other's sync.
func (p *retryPolicy) nextBehind(ctx context.Context, b *mirror.BehindError, asked []mirror.EventRef, thorough bool) error {
	lasts := len(b.Unanswered) > 0
	p.missing = nil
	var since time.Time // of the newest row that is missing
	for _, r := range b.Unanswered {
		lasts = lasts && p.s.o.Now().Sub(r.Created) >= lastingLag
		if !anyOf([]mirror.EventRef{r}, asked) {
			p.missing = append(p.missing, r)
		}
		if !r.NamesRow() {
			continue
		}
		if from := r.Created.Add(-eventSlack); p.from.IsZero() || from.Before(p.from) {
			p.from = from
		}
		if r.Created.After(since) {
			since = r.Created
		}
	}
	searched := since.IsZero() || p.full || !p.st.FullReadAt.Before(since.Add(lastingLag))
	inVain := lasts && searched && !thorough && len(p.missing) == len(b.Unanswered)
	within := p.again() && !(lasts && p.rereads > 1)
	switch {
	case !inVain && within:
		return cmp.Or(p.pause(ctx), errReread)
	case len(b.Unanswered) > 0 && !lasts:
		return fmt.Errorf("%w: %w", errLagging, b)
	case !searched:
		p.full = true
		return errReread
	}
	p.behind = b
	return nil
}

// unfinished is the error of a sync that has stored a reply which is behind, so that it
// is tried again; none where only events of others go on waiting, whose own work is
// tried again or lies among the dead letters.
func (p *retryPolicy) unfinished(asked []mirror.EventRef, applied mirror.Applied, thorough bool) error {
	left := applied.Unanswered
	switch {
	case p.behind == nil, len(left) == 0 && len(p.behind.Older) == 0:
		return nil
	case len(left) > 0 && !thorough && !anyOf(left, asked):
		return nil
	}
	return fmt.Errorf("%w: %w", errLagging, p.behind)
}

// anyOf reports whether one of the events is among the others.
func anyOf(events, among []mirror.EventRef) bool {
	return slices.ContainsFunc(events, func(e mirror.EventRef) bool {
		return slices.ContainsFunc(among, func(r mirror.EventRef) bool { return r.ID == e.ID })
	})
}

// lasting reports whether no lagging list explains a contradiction.
func lasting(err error) bool {
	r, ok := errors.AsType[*mirror.RewrittenError](err)
	return ok && r.Lasting()
}

// blamesUs reports, of a contradiction met by reading some rows alone, whether what
// is held was changed here. Only a reading of the whole history, which comes next,
// sees that for itself, and repairs it. listed are the ids that were read.
func (p *retryPolicy) blamesUs(ctx context.Context, err error, listed []string) (bool, error) {
	b, behind := errors.AsType[*mirror.BehindError](err)
	switch {
	case p.full, !behind && !errors.Is(err, mirror.ErrLedgerRewritten):
		return false, nil
	case behind && len(b.Older) == 0:
		return false, nil
	case behind:
		listed = b.Older
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

// vanished asks Stripe for a customer whose ledger it would not list, and buries it
// where it is gone: deleted, or unknown on two tries, since one 404 can be a replica
// that lags. A customer that was never held and that an event has just named lags for
// longer than that: nothing is buried, and the event not answered. alive is the error
// for a customer that is there.
func (s *Syncer) vanished(ctx context.Context, t mirror.Target, st mirror.SyncState, observed time.Time, refs []mirror.EventRef, alive error) (Result, error) {
	for try := range 2 {
		if try > 0 {
			if err := backoff.Sleep(ctx, 5*s.o.RereadDelay); err != nil {
				return Result{}, err
			}
		}
		reply, err := s.stripe.Customer(ctx, t.Account, t.ID)
		switch {
		case errors.Is(err, stripeapi.ErrNotFound):
			continue
		case err != nil:
			return Result{}, err
		case reply.Deleted:
			return s.bury(ctx, t, st, observed, refs)
		}
		return Result{}, alive
	}
	named := st.EventAt
	for _, r := range refs {
		if r.Created.After(named) {
			named = r.Created
		}
	}
	if !st.CustomerHeld && s.o.Now().Sub(named) < youngCustomer {
		return Result{}, fmt.Errorf("%w: customer %s, which was never held, is not known to stripe", errLagging, t.ID)
	}
	return s.bury(ctx, t, st, observed, refs)
}

// bury commits the tombstone of a customer that is gone at Stripe.
func (s *Syncer) bury(ctx context.Context, t mirror.Target, st mirror.SyncState, observed time.Time, refs []mirror.EventRef) (Result, error) {
	failpoint.Hit("worker.gone")
	applied, err := s.store.ApplyTombstone(ctx, mirror.Tombstone{
		Target: t, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: observed, Events: events(refs),
	})
	return Result{Applied: applied, Deleted: true}, stored(err)
}

// vanished reports whether an error of a list means that the customer may be gone.
func vanished(err error) bool {
	if errors.Is(err, stripeapi.ErrNotFound) {
		return !cursorGone(err)
	}
	e, ok := errors.AsType[*stripeapi.Error](err)
	return ok && e.Code == "resource_missing" && e.Param == "customer"
}
