package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// clockSlack is how far a time of the database may lie ahead of ours, which is an
// estimate of the same clock.
const clockSlack = time.Second

// ahead reports whether a time lies in the future, so that a clock that was ahead wrote
// it. Its age is not known: it counts as stale.
func ahead(t, now time.Time) bool { return t.After(now.Add(clockSlack)) }

// headerMaxAge asks for a sync first when the copy is older than it says.
const headerMaxAge = "Creditmirror-Max-Age"

// syncTimeout bounds how long a request waits for its copy to be synced.
const syncTimeout = 10 * time.Second

// Syncs brings copies up to date on demand. Make it with NewSyncs; any number of
// goroutines may use it.
type Syncs struct {
	sync       func(ctx context.Context, t mirror.Target) error
	observedAt func(ctx context.Context, targets []mirror.Target) ([]time.Time, error)
	timeout    time.Duration
	// UnderWay, where set, has a request wait for a sync that has just begun, whose
	// commit may be fresh enough, before it begins one.
	UnderWay UnderWay
	// Now is the database's clock, which since is of too. Defaults to time.Now.
	Now func() time.Time
	// Exists, where set, is asked about customers that were never synced: so an id that
	// names nothing costs one call and leaves nothing behind.
	Exists func(ctx context.Context, account, customer string) (bool, error)

	mu      sync.Mutex
	flights map[mirror.Target]*flight
	// missing are customers that Stripe did not know, and until when that is believed.
	missing map[customerKey]time.Time
}

type customerKey struct{ account, id string }

const (
	// missingFor is how long an unknown customer is believed to be unknown. One that is
	// made meanwhile comes by its event.
	missingFor = time.Minute
	// maxMissing bounds how many are remembered.
	maxMissing = 10_000
)

// errNoCustomer says that Stripe does not know the customer.
var errNoCustomer = errors.New("no such customer")

// flight is a sync under way, for all requests that wait for its target.
type flight struct {
	done chan struct{}
	err  error
}

// NewSyncs returns a Syncs. sync syncs a target behind the fence; mirror.ErrFenced
// says that another sync of the target has begun meanwhile. observedAt is that of
// mirror.Inbox.
func NewSyncs(sync func(ctx context.Context, t mirror.Target) error, observedAt func(ctx context.Context, targets []mirror.Target) ([]time.Time, error)) *Syncs {
	return &Syncs{sync: sync, observedAt: observedAt, timeout: syncTimeout, flights: map[mirror.Target]*flight{}, missing: map[customerKey]time.Time{}}
}

// ensure returns once the copy was read from Stripe at or after the time.
func (s *Syncs) ensure(ctx context.Context, t mirror.Target, since time.Time) error {
	for attempt := 0; ; attempt++ {
		at, err := s.observedAt(ctx, []mirror.Target{t})
		if err != nil {
			return err
		}
		if !at[0].IsZero() && !at[0].Before(since) && !ahead(at[0], s.clock()) {
			return nil
		}
		never := at[0].IsZero()
		if never && s.isMissing(t) {
			return nil // the operation says so
		}
		if attempt == 0 && s.UnderWay != nil {
			s.UnderWay.yield(ctx, t)
			continue
		}
		f, joined := s.fly(ctx, t, never)
		_ = f.wait(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case f.err == nil:
		case errors.Is(f.err, errNoCustomer):
			return nil
		case errors.Is(f.err, mirror.ErrFenced):
			// A worker syncs it too. Its commit may be fresh enough; give it time.
			if err := backoff.Sleep(ctx, min(20*time.Millisecond<<attempt, time.Second)); err != nil {
				return err
			}
		case !joined: // one that began earlier may have failed for its own reason
			return f.err
		}
	}
}

func (s *Syncs) clock() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// fly joins the sync of the target that is under way, or begins one. It is not
// cut off when the request that began it goes away: others may wait for it.
func (s *Syncs) fly(ctx context.Context, t mirror.Target, never bool) (f *flight, joined bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.flights[t]; ok {
		return f, true
	}
	f = &flight{done: make(chan struct{})}
	s.flights[t] = f
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				f.err = fmt.Errorf("panic: %v", p)
			}
			s.mu.Lock()
			delete(s.flights, t)
			s.mu.Unlock()
			close(f.done)
		}()
		if never {
			if f.err = s.exists(ctx, t); f.err != nil {
				return
			}
		}
		f.err = s.sync(ctx, t)
	}()
	return f, false
}

// exists is errNoCustomer, and remembers it, where Stripe does not know the customer.
func (s *Syncs) exists(ctx context.Context, t mirror.Target) error {
	if s.Exists == nil {
		return nil
	}
	known, err := s.Exists(ctx, t.Account, t.ID)
	if err != nil || known {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for key := range s.missing {
		if len(s.missing) < maxMissing {
			break
		}
		delete(s.missing, key) // any: it costs one call again
	}
	s.missing[customerKey{t.Account, t.ID}] = now.Add(missingFor)
	return errNoCustomer
}

// isMissing reports whether Stripe did not know the customer a while ago.
func (s *Syncs) isMissing(t mirror.Target) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := customerKey{t.Account, t.ID}
	until, ok := s.missing[key]
	if ok && time.Now().After(until) {
		delete(s.missing, key)
		return false
	}
	return ok
}

// refresh syncs what the request is about when it asks for a younger copy.
func (h *handler) refresh(r *http.Request, rt *route, c *call) error {
	values := r.Header.Values(headerMaxAge)
	asked := len(values) > 0
	var age time.Duration
	var err error
	switch {
	case asked:
		if age, err = maxAge(values); err != nil {
			return err
		}
	case c.holder != nil && c.holder.MaxAge != nil:
		age = *c.holder.MaxAge
	default:
		return nil
	}
	if rt.targets == nil {
		if !asked { // the key's own age is for what can be synced
			return nil
		}
		return errMaxAge("lists of the whole account cannot be synced first; leave the header out")
	}
	ctx, cancel := context.WithTimeout(r.Context(), syncTimeout+h.timeout)
	defer cancel()
	targets, err := rt.targets(ctx, c)
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		if !asked {
			return nil
		}
		return errMaxAge("only what belongs to one customer can be synced first; name the customer, or leave the header out")
	}
	if h.syncs == nil {
		return errStale("This creditmirror has no Stripe API key to sync with.")
	}
	// The mirror keeps microseconds.
	since := c.now.Add(-age).Truncate(time.Microsecond)
	ctx, cancel = context.WithTimeout(access.WithName(ctx, c.holder), h.syncs.timeout)
	defer cancel()
	for _, t := range targets {
		if !t.Valid() {
			continue // what is no id is refused by the operation itself
		}
		if err := h.syncs.ensure(ctx, t, since); err != nil {
			if r.Context().Err() != nil {
				return err // the caller's patience has ended, not Stripe's time
			}
			h.unsynced.Do(func() {
				c.log.Warn("on-demand sync failed", zap.String("customer_id", t.ID), zap.String("scope", string(t.Scope)), zap.Error(err))
			})
			if keyRefused(err) {
				return errStaleByKey()
			}
			return errStale("Stripe could not be read in time.")
		}
	}
	return nil
}

// maxAge reads the header: a duration such as 5s, or whole seconds.
func maxAge(values []string) (time.Duration, error) {
	invalid := errMaxAge("it must be one duration such as 5s, or whole seconds")
	if len(values) > 1 {
		return 0, invalid
	}
	age, err := time.ParseDuration(values[0])
	if err != nil {
		n, err := strconv.ParseUint(values[0], 10, 31)
		if err != nil {
			return 0, invalid
		}
		age = time.Duration(n) * time.Second
	}
	if age < 0 {
		return 0, invalid
	}
	return age, nil
}

func errMaxAge(reason string) *apiError {
	return errInvalid("", "", "Invalid %s: %s.", headerMaxAge, reason)
}

// errStale says that the copy is older than the caller takes.
func errStale(reason string) *apiError {
	return &apiError{
		status: http.StatusGatewayTimeout, typ: typeAPI, header: map[string]string{"Retry-After": "1"},
		message: "The copy is older than " + headerMaxAge + " allows, and could not be synced: " + reason +
			" Repeat the request, or leave the header out to get the copy that is held.",
	}
}

// keyRefused reports whether Stripe refused the mirror's own key.
func keyRefused(err error) bool {
	return errors.Is(err, stripeapi.ErrUnauthorized) || errors.Is(err, stripeapi.ErrForbidden)
}

// errStaleByKey says that the copy is older than the caller takes, and that repeating the
// request does not help.
func errStaleByKey() *apiError {
	return &apiError{
		status: http.StatusGatewayTimeout, typ: typeAPI, header: map[string]string{headerRetry: "false"},
		message: "The copy is older than " + headerMaxAge + " allows, and could not be synced: Stripe refuses the API key of this creditmirror" +
			" (not yours), or it lacks a permission. Its operator has to replace it; leave the header out to get the copy that is held.",
	}
}

func balanceOf(c *call, customer string) mirror.Target {
	return mirror.Target{Account: c.account, Scope: mirror.ScopeBalance, ID: customer}
}

func creditsOf(c *call, customer string) mirror.Target {
	return mirror.Target{Account: c.account, Scope: mirror.ScopeCredits, ID: customer}
}

// balanceInPath is the balance of the customer in the path.
func balanceInPath(_ context.Context, c *call) ([]mirror.Target, error) {
	return []mirror.Target{balanceOf(c, c.ids[0])}, nil
}

// creditTargets are a customer's credits, and its balance too where the customer
// is expanded.
func creditTargets(c *call, customer string, err error) ([]mirror.Target, error) {
	if err != nil || customer == "" {
		return nil, err
	}
	targets := []mirror.Target{creditsOf(c, customer)}
	if c.expand.has("customer") || c.expand["credit_grant"].has("customer") {
		targets = append(targets, balanceOf(c, customer))
	}
	return targets, nil
}

// paramCredits are the credits of the customer, or of the grant, that the query
// names.
func paramCredits(ctx context.Context, c *call) ([]mirror.Target, error) {
	customer, err := c.owner(ctx)
	if grant := c.query.values["credit_grant"]; err == nil && customer == "" && grant != "" {
		customer, err = c.grantOwner(ctx, grant, http.StatusBadRequest, "credit_grant")
	}
	return creditTargets(c, customer, err)
}

func grantCredits(ctx context.Context, c *call) ([]mirror.Target, error) {
	customer, err := c.grantOwner(ctx, c.ids[0], http.StatusNotFound, "id")
	return creditTargets(c, customer, err)
}

func rowCredits(ctx context.Context, c *call) ([]mirror.Target, error) {
	missing := errMissing(http.StatusNotFound, nameCreditTransaction, c.ids[0], "id")
	if !validID(c.ids[0]) {
		return nil, missing
	}
	t, err := c.reader.CreditTransaction(ctx, c.account, c.ids[0])
	if errors.Is(err, mirror.ErrNotFound) {
		return nil, missing
	}
	return creditTargets(c, t.Customer, err)
}
