package worker

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// probeInterval is how often a refused key is tried again, by one target.
const probeInterval = 15 * time.Second

// probeTime is how long others wait for the answer to a probe before they ask again.
const probeTime = time.Second

// Gate stops calls for an account whose key Stripe refuses, and opens again by
// itself: every 15 s one target passes as a probe, and its success lets all pass.
// A key that lacks a single permission (403) closes only the scope it concerns.
type Gate struct {
	now func() time.Time

	mu       sync.Mutex
	closed   map[door]*closure
	answered map[string]time.Time // account → last answer
	outages  map[string]*outage   // by account
	tried    map[mirror.Target]time.Time
	over     map[string]bool // accounts whose outage is over, for takeRecovered
	// recovered holds a token while over has any.
	recovered chan struct{}
}

type door struct {
	account string
	scope   mirror.Scope // empty: the whole account
}

type closure struct {
	// lacks: the key may not read the scope; the account is called.
	lacks          bool
	since, probeAt time.Time
	probing        bool // a probe is on its way
	reason         string
}

// Closure is an account that is not called at present.
type Closure struct {
	Account string
	Scope   mirror.Scope // empty: every scope
	Since   time.Time
	Reason  string
}

// NewGate returns an open Gate. now defaults to time.Now.
func NewGate(now func() time.Time) *Gate {
	if now == nil {
		now = time.Now
	}
	return &Gate{
		now: now, closed: map[door]*closure{}, answered: map[string]time.Time{},
		outages: map[string]*outage{}, tried: map[mirror.Target]time.Time{}, over: map[string]bool{}, recovered: make(chan struct{}, 1),
	}
}

// Closed returns how long a target has to wait; zero lets it pass.
func (g *Gate) Closed(t mirror.Target) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	shut := g.shut(t)
	var wait time.Duration
	for _, c := range shut {
		left := c.probeAt.Sub(now)
		if c.probing {
			left = min(left, probeTime)
		}
		wait = max(wait, left)
	}
	if wait > 0 {
		return wait
	}
	for _, c := range shut {
		c.probeAt, c.probing = now.Add(probeInterval), true // this target is the probe
	}
	return 0
}

// shut lists what stands in a target's way, probes aside.
func (g *Gate) shut(t mirror.Target) (list []*closure) {
	for _, d := range []door{{t.Account, ""}, {t.Account, t.Scope}} {
		if c, ok := g.closed[d]; ok {
			list = append(list, c)
		}
	}
	return list
}

// Probing reports whether a target that was let pass was a probe.
func (g *Gate) Probing(t mirror.Target) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.shut(t)) > 0
}

// Unasked takes back the probe of a target that needed no call: the next target
// may be one.
func (g *Gate) Unasked(t mirror.Target) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.shut(t) {
		c.probeAt, c.probing = g.now(), false
	}
}

// Refused closes the gate after a 401 or 403, and returns the time until the next probe and whether
// it was open.
func (g *Gate) Refused(t mirror.Target, err error) (wait time.Duration, first bool) {
	d := door{account: t.Account}
	if errors.Is(err, stripeapi.ErrForbidden) && !errors.Is(err, stripeapi.ErrAccountRefused) {
		d.scope = t.Scope
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	c, ok := g.closed[d]
	if !ok {
		c = &closure{since: now}
		g.closed[d] = c
	}
	_, c.lacks = stripeapi.Permission(err)
	c.reason, c.probeAt, c.probing = err.Error(), now.Add(probeInterval), false
	return probeInterval, !ok
}

// Answered opens the gate: Stripe took the key.
func (g *Gate) Answered(t mirror.Target) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.shut(t)) > 0 {
		g.end(t.Account) // what was put off is due
	}
	delete(g.closed, door{t.Account, ""})
	delete(g.closed, door{t.Account, t.Scope})
	g.hear(t)
}

// Refusals counts the closures of whole accounts: those of scopes that wait for a
// permission do not count.
func (g *Gate) Refusals() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, c := range g.closed {
		if !c.lacks {
			n++
		}
	}
	return n
}

// Closures lists what is closed, by account and scope.
func (g *Gate) Closures() []Closure {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]Closure, 0, len(g.closed))
	for d, c := range g.closed {
		list = append(list, Closure{Account: d.account, Scope: d.scope, Since: c.since, Reason: c.reason})
	}
	slices.SortFunc(list, func(a, b Closure) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Scope, b.Scope))
	})
	return list
}
