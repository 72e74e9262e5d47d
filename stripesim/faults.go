package stripesim

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// FaultKind names one way to misbehave.
type FaultKind string

// Faults of replies. At most one of them strikes per request, the first in the
// list that fires; FaultSlow comes on top.
const (
	FaultRateLimit FaultKind = "rate_limit"     // 429, rate_limit
	FaultLock      FaultKind = "lock_timeout"   // 429, lock_timeout
	Fault500       FaultKind = "500"            // 500 in Stripe's shape
	Fault502       FaultKind = "502_html"       // 502 with an HTML body
	FaultTruncated FaultKind = "truncated_json" // half of the real body, status 200
	FaultReset     FaultKind = "reset"          // connection reset instead of a reply
	FaultEmptyPage FaultKind = "empty_page"     // a list with has_more and no data
	FaultOversize  FaultKind = "oversize"       // a reply of Bytes bytes
	FaultNonsense  FaultKind = "nonsense"       // valid JSON that is not the object asked for
	FaultSlow      FaultKind = "slow"           // the answer comes Delay later
)

// FaultListLag delays the appearance of new rows in the list endpoint that is
// named (all, if none is), by Delay, or by Requests list requests, or both. All
// else, such as the customer's balance, is current.
const FaultListLag FaultKind = "list_lag"

// FaultCursorGone takes the cursor of a list request for one whose object is gone,
// though it is there: 400, or as Switches.GoneCursorEmptyPage says.
const FaultCursorGone FaultKind = "cursor_gone"

// Faults of events and their delivery.
const (
	FaultEventLost        FaultKind = "event_lost"        // never generated: neither sent nor listed
	FaultEventFailed      FaultKind = "event_failed"      // as lost, and a thin event reports the failure
	FaultEventTwice       FaultKind = "event_twice"       // two events, two ids, one change
	FaultWebhookDrop      FaultKind = "webhook_drop"      // never sent, stays pending
	FaultWebhookLost      FaultKind = "webhook_lost"      // never sent, counted as delivered
	FaultWebhookDuplicate FaultKind = "webhook_duplicate" // sent again, up to Delay later
	FaultWebhookDelay     FaultKind = "webhook_delay"     // sent Delay later
	FaultWebhookReorder   FaultKind = "webhook_reorder"   // sent at a random time within Delay (250ms if 0)
)

// replyFaults are the kinds that concern a request.
var replyFaults = map[FaultKind]bool{
	FaultRateLimit: true, FaultLock: true, Fault500: true, Fault502: true, FaultTruncated: true,
	FaultReset: true, FaultEmptyPage: true, FaultOversize: true, FaultNonsense: true, FaultSlow: true,
}

var otherFaults = map[FaultKind]bool{
	FaultListLag: true, FaultCursorGone: true, FaultEventLost: true, FaultEventFailed: true, FaultEventTwice: true, FaultWebhookDrop: true, FaultWebhookLost: true,
	FaultWebhookDuplicate: true, FaultWebhookDelay: true, FaultWebhookReorder: true,
}

// Fault is one rule. It strikes with Probability, or, where Count is set and
// Probability is not, every time until it has struck Count times. A rule with
// neither never strikes. Several rules with Skip and Count make a script.
type Fault struct {
	Kind        FaultKind `json:"kind"`
	Probability float64   `json:"probability,omitempty"` // 0 to 1
	Count       int       `json:"count,omitempty"`       // at most so many times
	Skip        int       `json:"skip,omitempty"`        // let so many matching ones pass first

	// Endpoint limits the faults of replies and lists to one named endpoint.
	Endpoint string `json:"endpoint,omitempty"`
	// Event limits faults of events to a type; a trailing * matches the rest.
	Event string `json:"event,omitempty"`
	// Customer limits the rule to what concerns this customer.
	Customer string `json:"customer,omitempty"`
	// Account limits the rule to one account; "" is all.
	Account string `json:"account,omitempty"`

	// Delay is for slow, list_lag and the webhook faults.
	Delay Duration `json:"delay,omitempty"`
	// Requests is for list_lag: the number of list requests.
	Requests int `json:"requests,omitempty"`
	// Bytes is the size of an oversize reply, at most 1 GiB. Defaults to 20 MiB.
	Bytes int `json:"bytes,omitempty"`
	// After: the request takes effect, and only its reply is spoilt. Always so for
	// truncated_json, empty_page, oversize and nonsense; with slow, the reply is
	// made first and then held back, so that it is stale when it arrives.
	After bool `json:"after,omitempty"`
}

// maxOversize is the largest reply that FaultOversize makes, in bytes.
const maxOversize = 1 << 30

// Faults is the list of rules in force.
type Faults []Fault

// Duration is a time.Duration that is a string such as "250ms" in JSON.
type Duration time.Duration

// MarshalJSON writes a Go duration string.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads a Go duration string, or a number of nanoseconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return json.Unmarshal(b, (*int64)(d))
	}
	v, err := time.ParseDuration(s)
	*d = Duration(v)
	return err
}

// Chaos returns what a bad day looks like: lost, doubled, late and swapped
// webhooks, events never generated, 429, 500, 502, broken bodies, resets, slow
// answers and lagging lists.
func Chaos() Faults {
	return Faults{
		{Kind: FaultEventLost, Probability: 0.01},
		{Kind: FaultEventTwice, Probability: 0.02},
		{Kind: FaultWebhookDrop, Probability: 0.03},
		{Kind: FaultWebhookLost, Probability: 0.02},
		{Kind: FaultWebhookDuplicate, Probability: 0.1, Delay: Duration(time.Second)},
		{Kind: FaultWebhookDelay, Probability: 0.05, Delay: Duration(2 * time.Second)},
		{Kind: FaultWebhookReorder, Probability: 0.3, Delay: Duration(500 * time.Millisecond)},
		{Kind: FaultRateLimit, Probability: 0.02},
		{Kind: FaultLock, Probability: 0.01},
		{Kind: Fault500, Probability: 0.01},
		{Kind: Fault502, Probability: 0.005},
		{Kind: FaultTruncated, Probability: 0.005},
		{Kind: FaultNonsense, Probability: 0.005},
		{Kind: FaultReset, Probability: 0.005},
		{Kind: FaultEmptyPage, Probability: 0.005},
		{Kind: FaultSlow, Probability: 0.05, Delay: Duration(200 * time.Millisecond)},
		{Kind: FaultListLag, Probability: 0.1, Delay: Duration(300 * time.Millisecond)},
		{Kind: FaultCursorGone, Probability: 0.005},
	}
}

func (fs Faults) validate() error {
	var errs []error
	for i, f := range fs {
		if !replyFaults[f.Kind] && !otherFaults[f.Kind] {
			errs = append(errs, fmt.Errorf("fault %d: unknown kind %q", i, f.Kind))
		}
		if f.Probability < 0 || f.Probability > 1 {
			errs = append(errs, fmt.Errorf("fault %d: probability %v is not within 0 and 1", i, f.Probability))
		}
		if f.Count < 0 || f.Skip < 0 || f.Delay < 0 || f.Requests < 0 || f.Bytes < 0 {
			errs = append(errs, fmt.Errorf("fault %d: negative value", i))
		}
		if f.Bytes > maxOversize {
			errs = append(errs, fmt.Errorf("fault %d: more than %d bytes", i, maxOversize))
		}
		if f.Requests > math.MaxInt32 {
			errs = append(errs, fmt.Errorf("fault %d: more than %d requests", i, math.MaxInt32))
		}
		if f.Endpoint != "" && !knownEndpoint(f.Endpoint) {
			errs = append(errs, fmt.Errorf("fault %d: unknown endpoint %q", i, f.Endpoint))
		}
	}
	return errors.Join(errs...)
}

// faultState is the rules with what is left of them. Its lock is a leaf: it may
// be taken under an account's.
type faultState struct {
	mu    sync.Mutex
	pcg   *rand.PCG // the source of rng
	rng   *rand.Rand
	rules Faults
	skip  []int
	fired []int
	// struck counts by kind what has struck, under all rules there ever were.
	struck map[FaultKind]int

	any      atomic.Bool // there are rules at all
	personal atomic.Bool // some rule names a customer
}

func newFaultState(seed int64, rules Faults) *faultState {
	s := &faultState{}
	s.reseed(seed)
	s.set(rules)
	return s
}

func (s *faultState) reseed(seed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pcg = rand.NewPCG(uint64(seed), 0xfa17) // #nosec G115 -- a seed, any 64 bits
	s.rng = rand.New(s.pcg)                   // #nosec G404 -- the same seed makes the same world
}

func (s *faultState) set(rules Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append(Faults(nil), rules...)
	s.skip = make([]int, len(rules))
	s.fired = make([]int, len(rules))
	s.note()
}

// add adds a rule to those in force, whose counts go on.
func (s *faultState) add(f Fault) error {
	if err := (Faults{f}).validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules, s.skip, s.fired = append(s.rules, f), append(s.skip, 0), append(s.fired, 0)
	s.note()
	return nil
}

// remove removes the i-th rule and reports whether there was one. The counts of the
// others go on.
func (s *faultState) remove(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i < 0 || i >= len(s.rules) {
		return false
	}
	s.rules, s.skip, s.fired = slices.Delete(s.rules, i, i+1), slices.Delete(s.skip, i, i+1), slices.Delete(s.fired, i, i+1)
	s.note()
	return true
}

// note keeps what strike asks first. The caller holds the lock.
func (s *faultState) note() {
	s.any.Store(len(s.rules) > 0)
	s.personal.Store(slices.ContainsFunc(s.rules, func(f Fault) bool { return f.Customer != "" }))
}

func (s *faultState) get() Faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(Faults{}, s.rules...)
}

func (s *faultState) counts() map[FaultKind]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.struck)
}

// occasion is what a rule is held against.
type occasion struct {
	account, endpoint, event, customer string
}

// strike calls each rule's turn: want picks the kinds, and got gets each that
// fires until it returns false.
func (s *faultState) strike(o occasion, want func(FaultKind) bool, got func(Fault) bool) {
	if !s.any.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.rules {
		if !want(f.Kind) || !s.fires(i, f, o) {
			continue
		}
		if !got(f) {
			return
		}
	}
}

func (s *faultState) fires(i int, f Fault, o occasion) bool {
	if f.Endpoint != "" && f.Endpoint != o.endpoint || f.Account != "" && f.Account != o.account {
		return false
	}
	if f.Customer != "" && f.Customer != o.customer || f.Event != "" && !matchType(f.Event, o.event) {
		return false
	}
	if f.Count == 0 && f.Probability == 0 || f.Count > 0 && s.fired[i] >= f.Count {
		return false
	}
	if s.skip[i] < f.Skip {
		s.skip[i]++
		return false
	}
	if f.Probability > 0 && s.rng.Float64() >= f.Probability {
		return false
	}
	s.fired[i]++
	if s.struck == nil {
		s.struck = map[FaultKind]int{}
	}
	s.struck[f.Kind]++
	return true
}

// within returns a random part of d.
func (s *faultState) within(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(s.rng.Int64N(int64(d)))
}

// matchType matches an event type against a filter with an optional trailing *.
func matchType(filter, typ string) bool {
	if prefix, ok := strings.CutSuffix(filter, "*"); ok {
		return strings.HasPrefix(typ, prefix)
	}
	return filter == typ
}
