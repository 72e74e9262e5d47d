package stripesim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// expiryTick is how often natural expiry is looked for while no request comes.
const expiryTick = 100 * time.Millisecond

// Server is the simulator. It is safe for concurrent use.
type Server struct {
	opts   Options
	seed   atomic.Int64
	log    *zap.Logger
	faults *faultState
	limits atomic.Pointer[Limits]
	sw     atomic.Pointer[Switches]
	keys   *keyring
	sender *sender
	time   *simTime
	// advancing is held while the clock advances, so that one does at a time.
	advancing sync.Mutex
	journal   journal

	accountsMu sync.RWMutex
	accounts   map[world]*account

	reqMu  sync.Mutex
	reqIDs *idMaker

	calls callCounts

	trafficMu sync.Mutex
	traffic   *trafficRun

	stop     context.CancelFunc
	stopped  chan struct{}
	closing  context.Context //nolint:containedctx // ends slow replies and traffic when the server closes
	closeOne sync.Once
}

// world is one account in one mode.
type world struct {
	id   string // "" is the platform's
	live bool
}

// New makes a simulator with an empty platform account, and one for each of
// Options.Accounts. Close must be called.
func New(opts Options) (*Server, error) {
	if err := opts.fill(); err != nil {
		return nil, fmt.Errorf("stripesim: %w", err)
	}
	clock := &simTime{base: opts.Now}
	opts.Now = clock.now
	s := &Server{
		time: clock, journal: journal{size: opts.LogSize},
		opts: opts, log: opts.Log, accounts: map[world]*account{}, stopped: make(chan struct{}),
		faults: newFaultState(opts.Seed, opts.Faults), keys: newKeyring(opts.Keys, opts.Livemode, opts.BothModes),
		reqIDs: newIDMaker(opts.Seed, "requests", opts.Livemode),
	}
	s.seed.Store(opts.Seed)
	s.limits.Store(&opts.Limits)
	s.sw.Store(&opts.Switches)
	s.sender = newSender(s)
	s.fillAccounts(opts.Accounts)
	s.closing, s.stop = context.WithCancel(context.Background())
	go s.watchExpiry(s.closing)
	return s, nil
}

// Close stops traffic and deliveries, and waits for their goroutines. Deliveries
// not yet made are dropped.
func (s *Server) Close() {
	s.closeOne.Do(func() {
		s.stopTraffic()
		s.stop()
		<-s.stopped
		s.sender.close()
	})
}

func (s *Server) watchExpiry(ctx context.Context) {
	defer close(s.stopped)
	t := time.NewTicker(expiryTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.catchUpUnlessOnRead()
		}
	}
}

// catchUp makes what the wall clock has brought about, in every account.
func (s *Server) catchUp() {
	for _, a := range s.allAccounts() {
		a.catchUp()
	}
}

func (s *Server) catchUpUnlessOnRead() {
	if !s.switches().ExpiryOnRead {
		s.catchUp()
	}
}

func (s *Server) unix() int64 { return s.opts.Now().Unix() }

func (s *Server) requestID() string {
	s.reqMu.Lock()
	defer s.reqMu.Unlock()
	return s.reqIDs.request()
}

// account returns the account of that id in the simulator's own mode; "" and the
// platform's own id are the platform.
func (s *Server) account(id string) *account { return s.accountIn(id, s.opts.Livemode) }

func (s *Server) accountIn(id string, live bool) *account {
	s.accountsMu.RLock()
	defer s.accountsMu.RUnlock()
	if a := s.accounts[world{id, live}]; a != nil {
		return a
	}
	if p := s.accounts[world{"", live}]; p != nil && p.public == id {
		return p
	}
	return nil
}

// twin is the same account in the other mode, nil unless Options.BothModes.
func (a *account) twin() *account { return a.s.accountIn(a.id, !a.live) }

// allAccounts returns every account, the simulator's own mode first, in it the
// platform first, then by id.
func (s *Server) allAccounts() []*account {
	s.accountsMu.RLock()
	defer s.accountsMu.RUnlock()
	out := slices.Collect(maps.Values(s.accounts))
	slices.SortFunc(out, func(x, y *account) int {
		if x.live != y.live {
			if x.live == s.opts.Livemode {
				return -1
			}
			return 1
		}
		return strings.Compare(x.id, y.id)
	})
	return out
}

// addAccount adds an empty account, in both modes if there are two. The caller
// holds accountsMu, or is New.
func (s *Server) addAccount(id string) {
	own := newAccount(s, id, s.opts.Livemode)
	s.accounts[world{id, own.live}] = own
	if s.opts.BothModes {
		other := newAccount(s, id, !s.opts.Livemode)
		other.public = own.public // an account has one id in both modes
		s.accounts[world{id, other.live}] = other
	}
}

// AddAccount adds an empty connected account; one that exists is left alone.
func (s *Server) AddAccount(id string) error {
	if !strings.HasPrefix(id, "acct_") {
		return fmt.Errorf("account %q does not begin with acct_", id)
	}
	s.accountsMu.Lock()
	defer s.accountsMu.Unlock()
	if s.accounts[world{id, s.opts.Livemode}] == nil {
		s.addAccount(id)
	}
	return nil
}

// fillAccounts adds the platform and the given accounts, all empty.
func (s *Server) fillAccounts(ids []string) {
	for _, id := range append([]string{""}, ids...) {
		s.addAccount(id)
	}
}

// Seed returns the seed in force.
func (s *Server) Seed() int64 { return s.seed.Load() }

// Reset empties every account and begins anew with a seed: the ids, secrets and
// faults that follow are those of a new simulator. Webhook endpoints go, too, and
// what is still to be delivered is dropped. Faults, limits, switches, keys and
// the clock stay as they are.
func (s *Server) Reset(seed int64) {
	s.accountsMu.Lock()
	var ids []string
	for w := range s.accounts {
		if w.id != "" && w.live == s.opts.Livemode {
			ids = append(ids, w.id)
		}
	}
	slices.Sort(ids)
	s.seed.Store(seed)
	s.accounts = map[world]*account{}
	s.fillAccounts(ids)
	s.accountsMu.Unlock()
	s.reqMu.Lock()
	s.reqIDs = newIDMaker(seed, "requests", s.opts.Livemode)
	s.reqMu.Unlock()
	s.faults.reseed(seed)
	s.sender.forget()
	s.journal.reset()
	s.calls.reset()
}

// PlatformAccount returns the platform's own account id ("acct_…").
func (s *Server) PlatformAccount() string { return s.account("").public }

// Accounts returns the ids of the connected accounts, sorted.
func (s *Server) Accounts() []string {
	var out []string
	for _, a := range s.allAccounts() {
		if a.id != "" && a.live == s.opts.Livemode {
			out = append(out, a.id)
		}
	}
	return out
}

// SetFaults puts other faults in force; their counts begin anew.
func (s *Server) SetFaults(f Faults) error {
	if err := f.validate(); err != nil {
		return err
	}
	s.faults.set(f)
	return nil
}

// Limits returns the rate limits in force.
func (s *Server) Limits() Limits { return *s.limits.Load() }

// SetLimits puts other rate limits in force.
func (s *Server) SetLimits(l Limits) error {
	if err := l.validate(); err != nil {
		return err
	}
	s.limits.Store(&l)
	return nil
}

// switches are the switches in force.
func (s *Server) switches() *Switches { return s.sw.Load() }

// Switches returns the switches in force.
func (s *Server) Switches() Switches { return *s.sw.Load() }

// SetSwitches puts other switches in force, for what happens from now on.
func (s *Server) SetSwitches(sw Switches) error {
	if err := sw.fill(); err != nil {
		return err
	}
	if s.sw.Swap(&sw).ExpiryDelay != sw.ExpiryDelay {
		for _, a := range s.allAccounts() {
			a.reschedule()
		}
	}
	return nil
}

// Settle returns when no webhook delivery is outstanding: none ready, in flight,
// delayed by a fault or waiting to be retried, and no test clock advancing.
func (s *Server) Settle(ctx context.Context) error {
	s.catchUpUnlessOnRead()
	if err := s.sender.settle(ctx); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	return nil
}

// Endpoints returns the delivery state of each webhook endpoint.
func (s *Server) Endpoints() []EndpointStats { return s.sender.stats() }

// change runs a change that does not come over the API.
func (s *Server) change(acct string, f func(*account, cause) *apiError) error {
	a := s.account(acct)
	if a == nil {
		return errInvalid("", "account", "No such account: '%s'", acct)
	}
	a.catchUpUnlessOnRead()
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := f(a, a.callerCause()); err != nil {
		return err
	}
	return nil
}

func (a *account) catchUpUnlessOnRead() {
	if !a.s.switches().ExpiryOnRead {
		a.catchUp()
	}
}

// living returns a customer that is not deleted, or the error of that status that
// names param.
func (a *account) living(id, param string, status int) (*customer, *apiError) {
	c := a.customers[id]
	if c == nil || c.gone {
		return nil, errNone(status, "customer", id, param)
	}
	return c, nil
}

// Struck returns how often each kind of fault has struck since the start.
func (s *Server) Struck() map[FaultKind]int { return s.faults.counts() }

// Calls returns the number of requests per named endpoint since the start or the
// last ResetCalls, refused and spoilt ones included.
func (s *Server) Calls() map[string]int { return s.calls.get() }

// ResetCalls sets all counts of Calls to zero.
func (s *Server) ResetCalls() { s.calls.reset() }

type callCounts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *callCounts) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[name]++
}

func (c *callCounts) get() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]int, len(c.n))
	maps.Copy(out, c.n)
	return out
}

func (c *callCounts) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.n)
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// marshal encodes v in one line.
func marshal(v any) ([]byte, error) { return encode(v, "") }

// pretty encodes v as Stripe prints replies and events: with two blanks a level. Who
// verifies or compares a text of their own making must fail here as there.
func pretty(v any) ([]byte, error) { return encode(v, "  ") }

func encode(v any, indent string) ([]byte, error) {
	b := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(b)
	b.Reset()
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return bytes.Clone(bytes.TrimSuffix(b.Bytes(), []byte{'\n'})), nil
}

// asAPI returns the API error in err, which New's callers get as a plain error.
func asAPI(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	return &apiError{status: http.StatusInternalServerError, typ: "api_error", message: err.Error()}
}
