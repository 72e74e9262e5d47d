package stripesim

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// account is one Stripe account and all its objects. mu guards everything in it;
// it is held while state changes or is rendered, never while JSON is written or a
// webhook is sent.
type account struct {
	s      *Server
	id     string // "" is the platform's own
	public string // "acct_…"
	live   bool   // its mode
	scope  string // of its ids

	mu  sync.RWMutex
	ids *idMaker
	pcg *rand.PCG // the source of rng
	rng *rand.Rand

	customers    map[string]*customer
	customerList ordered[*customer] // without those on test clocks
	byEmail      map[string][]*customer
	txns         map[string]*balanceTxn
	grants       map[string]*grant
	grantList    ordered[*grant]
	credits      map[string]*creditTxn
	creditList   ordered[*creditTxn]
	events       map[string]*event
	eventList    ordered[*event]
	clocks       map[string]*clock
	clockList    ordered[*clock]
	hooks        map[string]*hook
	hookList     ordered[*hook]
	invoices     map[string]*invoice
	invoiceList  ordered[*invoice]
	items        map[string]*invoiceItem
	itemList     ordered[*invoiceItem]
	notes        map[string]*creditNote
	noteList     ordered[*creditNote]
	prices       map[string]*price
	priceList    ordered[*price]

	due     dueHeap
	nextDue atomic.Int64 // Unix seconds of the head of due; MaxInt64 if none

	inFlight atomic.Int64
	gate     gate
	buckets  sync.Map // named endpoint → *bucket; "" is the whole account
	idem     idemStore
}

func newAccount(s *Server, id string, live bool) *account {
	scope := "account/" + id
	if live != s.opts.Livemode { // the second mode of Options.BothModes
		scope = "other/" + id
	}
	a := &account{
		s: s, id: id, public: id, live: live, scope: scope,
		ids:       newIDMaker(s.seed.Load(), scope, live),
		customers: map[string]*customer{}, byEmail: map[string][]*customer{}, txns: map[string]*balanceTxn{},
		grants: map[string]*grant{}, credits: map[string]*creditTxn{}, events: map[string]*event{},
		clocks: map[string]*clock{}, hooks: map[string]*hook{}, invoices: map[string]*invoice{},
		items: map[string]*invoiceItem{}, notes: map[string]*creditNote{}, prices: map[string]*price{},
		invoiceList: ordered[*invoice]{slot: slotAccount}, itemList: ordered[*invoiceItem]{slot: slotAccount},
		noteList: ordered[*creditNote]{slot: slotAccount}, priceList: ordered[*price]{slot: slotAccount},
		customerList: ordered[*customer]{slot: slotAccount}, grantList: ordered[*grant]{slot: slotAccount},
		creditList: ordered[*creditTxn]{slot: slotAccount}, eventList: ordered[*event]{slot: slotAccount},
		clockList: ordered[*clock]{slot: slotAccount}, hookList: ordered[*hook]{slot: slotAccount},
		idem: idemStore{entries: map[string]*idemEntry{}},
	}
	a.pcg = rand.NewPCG(uint64(s.seed.Load()), a.ids.state) // #nosec G115 -- a seed, any 64 bits
	a.rng = rand.New(a.pcg)                                 // #nosec G404 -- the same seed makes the same world
	a.nextDue.Store(math.MaxInt64)
	if id == "" {
		a.public = a.ids.account()
	}
	return a
}

// cause is why and when a change happens.
type cause struct {
	now       int64  // Unix seconds, becomes created and updated
	requestID string // "" for Stripe's own doing
	idemKey   string
	// silent changes send no events: history from before the event list begins.
	silent bool
}

// systemCause is Stripe's own doing, now.
func (a *account) systemCause() cause { return cause{now: a.s.unix()} }

// callerCause is a request that did not come over HTTP.
func (a *account) callerCause() cause {
	return cause{now: a.s.unix(), requestID: a.s.requestID()}
}

// lagFor returns how long a new row stays out of the named list, nil if not at all.
func (a *account) lagFor(endpoint, customer string) *lag {
	var l *lag
	a.s.faults.strike(occasion{account: a.id, endpoint: endpoint, customer: customer},
		func(k FaultKind) bool { return k == FaultListLag },
		func(f Fault) bool {
			l = &lag{}
			if f.Delay > 0 {
				l.until = a.s.opts.Now().Add(time.Duration(f.Delay))
			}
			l.reads.Store(int32(f.Requests)) // #nosec G115 -- validated to be within 32 bits
			return false
		})
	return l
}

func addTo[T listed](a *account, l *ordered[T], v T) {
	l.add(v, a.s.switches().SameSecondOrder, a.rng)
}

// clock is a test clock. Its customers' ledger time is frozen, not the wall's.
type clock struct {
	node
	name      *string
	frozen    int64
	target    int64 // while advancing
	advancing bool
	deletes   int64
	customers ordered[*customer]
}

// dueItem is a moment at which something happens by itself to a grant or to a
// draft invoice.
type dueItem struct {
	at  int64
	g   *grant
	inv *invoice
}

func (d dueItem) id() string {
	if d.g != nil {
		return d.g.id
	}
	return d.inv.id
}

// dueHeap is a min-heap by time, ids deciding ties. Items whose object has
// changed meanwhile are skipped when their time comes.
type dueHeap []dueItem

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].id() < h[j].id()
}
func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is for container/heap.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(dueItem)) }

// Pop is for container/heap.
func (h *dueHeap) Pop() any {
	old := *h
	n := len(old) - 1
	v := old[n]
	old[n] = dueItem{}
	*h = old[:n]
	return v
}

// schedule notes the moments at which g changes by itself. Grants on a test
// clock are not scheduled: advancing the clock looks at them all.
func (a *account) schedule(g *grant) {
	if g.customer.clock != nil {
		return
	}
	if !g.granted {
		heap.Push(&a.due, dueItem{at: *g.effectiveAt, g: g})
	}
	if g.expiresAt != nil {
		heap.Push(&a.due, dueItem{at: *g.expiresAt + ceilSeconds(a.s.switches().ExpiryDelay), g: g})
	}
	a.noteDue()
}

// reschedule notes the moments of all grants anew, after the delay of expiry has
// changed.
func (a *account) reschedule() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range a.grantList.rows {
		if g.open() && g.expiresAt != nil {
			a.schedule(g)
		}
	}
}

// scheduleInvoice notes when a draft finalizes by itself.
func (a *account) scheduleInvoice(inv *invoice) {
	if inv.customer.clock == nil {
		heap.Push(&a.due, dueItem{at: *inv.finalizesAt, inv: inv})
		a.noteDue()
	}
}

func ceilSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func (a *account) noteDue() {
	at := int64(math.MaxInt64)
	if len(a.due) > 0 {
		at = a.due[0].at
	}
	a.nextDue.Store(at)
}

// catchUp makes what the wall clock has brought about: late credits_granted
// rows, natural expiry and drafts that finalize by themselves.
func (a *account) catchUp() {
	if a.nextDue.Load() > a.s.unix() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.catchUpLocked(a.s.unix())
}

func (a *account) catchUpLocked(now int64) {
	delay := ceilSeconds(a.s.switches().ExpiryDelay)
	for len(a.due) > 0 && a.due[0].at <= now {
		d := heap.Pop(&a.due).(dueItem)
		if d.inv != nil {
			a.autoFinalize(cause{now: now}, d.inv, now)
			continue
		}
		a.ripen(cause{now: now}, d.g, now, now-delay)
	}
	a.noteDue()
}
