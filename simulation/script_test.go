package simulation

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/stripesim"
)

// feature is a kind of trouble that a seed may have.
type feature uint

const (
	featCrash    feature = 1 << iota // processes are killed
	featStall                        // processes stand still for longer than a lease
	featTwo                          // two processes at once
	featRedis                        // Redis is away, lost or rewound
	featDB                           // the database is away or read-only, answers get lost
	featReplies                      // Stripe answers with 429, 5xx, broken bodies, or not at all
	featOutage                       // Stripe is away for a while
	featWebhooks                     // webhooks are lost, late, doubled, swapped
	featListLag                      // new rows are listed late
	featReplica                      // whole replies lag
	featSkew                         // a process's clock is ahead or behind
	featRewind                       // the database is rewound
	featDamage                       // SQL damages rows
	featWrites                       // writes and fresh reads through the API
	featCredits                      // billing credits
	featLost                         // events that are never generated
	featDelete                       // customers are deleted
	featEnd
)

var featureNames = []string{
	"crash", "stall", "two", "redis", "db", "replies", "outage", "webhooks", "listlag", "replica", "skew", "rewind",
	"damage", "writes", "credits", "lost", "delete",
}

// plan is what a seed decides before anything happens.
type plan struct {
	features   feature
	embedded   bool
	page       int // rows per page of Stripe's
	pages      int // pages per piece
	customers  int
	deliveries int // attempts to deliver a webhook
	slow       float64
	events     time.Duration // interval of the events sweep
	balances   time.Duration
	scrub      time.Duration
	skew       [2]time.Duration
	busy       time.Duration // how long there is trouble
	bound      time.Duration // how soon after it all must be equal
}

func (p plan) has(f feature) bool { return p.features&f != 0 }

// lagging means that replies may be older than what was shown before, of which no
// reader of them can know.
func (p plan) lagging() bool { return p.has(featListLag | featReplica) }

// drifts means that there may be findings other than missed events. Lost webhooks are not
// among its reasons, though a balances sweep may find what they announced before an events
// sweep that keeps failing does (docs/reliability.md, seed 482).
func (p plan) drifts() bool {
	return p.has(featListLag | featReplica | featRewind | featDamage | featLost)
}

// calm means that nothing fails, so that everything is expected in time.
func (p plan) calm() bool {
	return p.features&^(featTwo|featWrites|featCredits|featDelete) == 0
}

func (p plan) String() string {
	var names []string
	for i, n := range featureNames {
		if p.has(1 << i) {
			names = append(names, n)
		}
	}
	return fmt.Sprintf("%s; page %d, %d pages a piece, %d customers, embedded %v", strings.Join(names, " "), p.page, p.pages, p.customers, p.embedded)
}

// fault is a kind of trouble that lasts for a while.
type fault string

const (
	faultRedisAway   fault = "redis away"
	faultRedisLost   fault = "redis answers lost"
	faultDBAway      fault = "database away"
	faultDBReadOnly  fault = "database read-only"
	faultDBLost      fault = "database answers lost"
	faultStripeAway  fault = "stripe away"
	faultReplies     fault = "replies spoilt"
	faultRepliesLost fault = "replies lost"
	faultWebhooks    fault = "webhooks lost"
	faultReplica     fault = "replies lag"
)

// op is a kind of action.
type op string

const (
	opCustomer op = "customer"
	opCharge   op = "charge"
	opBurst    op = "burst"
	opStorm    op = "storm"
	opGrant    op = "grant"
	opUpdate   op = "update grant"
	opVoid     op = "void grant"
	opUse      op = "use credits"
	opDelete   op = "delete"
	opWrite    op = "write"
	opRead     op = "read"
	opWindow   op = "fault"
	opStall    op = "stall"
	opCrash    op = "crash"
	opStart    op = "start"
	opFlush    op = "redis lost"
	opKeep     op = "redis copied"
	opRewind   op = "redis rewound"
	opSim      op = "stripe's faults"
	opKeepDB   op = "database copied"
	opRewindDB op = "database rewound"
	opDamage   op = "damage"
)

// action is one thing that happens to the world from outside.
type action struct {
	at    time.Duration // since the world began
	op    op
	who   int
	n     int
	last  time.Duration
	fault fault
	odds  float64
}

func (a action) String() string {
	return fmt.Sprintf("%v %s who=%d n=%d last=%v %s odds=%.2f", a.at, a.op, a.who, a.n, a.last, a.fault, a.odds)
}

// script is the actions to come, in the order of their times.
type script struct {
	begun   time.Time
	actions []action
}

func (s *script) due() (time.Time, bool) {
	if len(s.actions) == 0 {
		return time.Time{}, false
	}
	return s.begun.Add(s.actions[0].at), true
}

func (s *script) pop() action {
	a := s.actions[0]
	s.actions = s.actions[1:]
	return a
}

func (s *script) add(a action) {
	s.actions = append(s.actions, a)
	slices.SortStableFunc(s.actions, func(x, y action) int { return cmp.Compare(x.at, y.at) })
}

// callTakes is about how long a call to Stripe takes, with the commit of a piece.
const callTakes = 120 * time.Millisecond

// write makes the plan and the script of a seed. Features that are forced are set.
func writeScript(seed uint64, forced, banned feature) (plan, []action) {
	r := rand.New(rand.NewPCG(seed, 0x51a))
	p := plan{
		page: 2 + r.IntN(4), pages: 1 + r.IntN(2), customers: 1 + r.IntN(3), deliveries: 8, embedded: r.IntN(2) == 0,
		slow: 0.02, events: []time.Duration{5 * time.Second, 5 * time.Second, 30 * time.Second}[r.IntN(3)], balances: time.Hour, scrub: 720 * time.Hour,
		busy: time.Duration(8+r.IntN(20)) * time.Second, bound: 100 * time.Second,
	}
	for f := feature(1); f < featEnd; f <<= 1 {
		odds := 0.3
		if f&(featListLag|featReplica|featRewind|featDamage|featSkew|featLost) != 0 {
			odds = 0.08
		}
		if r.Float64() < odds {
			p.features |= f
		}
	}
	p.features = (p.features | forced) &^ banned
	if p.has(featTwo) {
		p.embedded = false
	}
	if p.features&^(featWebhooks|featCredits|featTwo) == 0 {
		p.bound = p.events + 15*time.Second
	}
	if p.has(featReplica) && r.IntN(2) == 0 || p.has(featLost|featDamage|featRewind) {
		p.balances, p.scrub = 15*time.Second, time.Minute
		p.bound = 6 * time.Minute
	}
	if p.has(featWebhooks) && r.IntN(3) == 0 {
		p.deliveries = 1 // what is lost stays lost, but for the events sweep
	}
	if p.has(featSkew) {
		p.skew[r.IntN(2)] = time.Duration(r.IntN(240)-120) * time.Second
	}
	g := generator{r: r, p: p}
	actions := g.actions()
	for _, a := range actions {
		// A history that grew by more than a piece while it was read is begun once more:
		// two readings, page by page, are on their way when the trouble ends.
		if a.op == opStorm {
			p.bound += 2 * time.Duration(a.n/p.page) * callTakes
		}
	}
	return p, actions
}

// generator draws a script.
type generator struct {
	r   *rand.Rand
	p   plan
	out []action
}

func (g *generator) add(a action) { g.out = append(g.out, a) }

func (g *generator) moment() time.Duration { return time.Duration(g.r.Int64N(int64(g.p.busy))) }

// some adds actions of a kind, each at its own moment.
func (g *generator) some(most int, make func(at time.Duration) action) {
	for range g.r.IntN(most + 1) {
		a := make(g.moment())
		g.add(a)
	}
}

// fault adds windows of a fault.
func (g *generator) fault(most int, f fault, last time.Duration, odds float64) {
	g.some(most, func(at time.Duration) action {
		return action{at: at, op: opWindow, fault: f, last: time.Duration(g.r.Int64N(int64(last))), odds: odds}
	})
}

func (g *generator) actions() []action {
	r, p := g.r, g.p
	for i := range p.customers {
		g.add(action{op: opCustomer, who: i, n: r.IntN(10)})
	}
	g.add(action{at: time.Millisecond, op: opStart})
	if p.has(featTwo) {
		g.add(action{at: time.Duration(1+r.IntN(5)) * time.Second, op: opStart, who: 1})
	}
	who := func() int { return r.IntN(p.customers + 1) }
	g.some(2, func(at time.Duration) action { return action{at: at, op: opCustomer, n: r.IntN(3)} })
	g.some(10, func(at time.Duration) action { return action{at: at, op: opCharge, who: who(), n: r.IntN(1000) - 500} })
	g.some(3, func(at time.Duration) action { return action{at: at, op: opBurst, who: who(), n: 3 + r.IntN(14)} })
	if p.has(featCredits) {
		g.some(4, func(at time.Duration) action { return action{at: at, op: opGrant, who: who(), n: 100 + r.IntN(900)} })
		g.some(3, func(at time.Duration) action { return action{at: at, op: opUpdate, who: who(), n: r.IntN(100)} })
		g.some(2, func(at time.Duration) action { return action{at: at, op: opVoid, who: who()} })
		g.some(8, func(at time.Duration) action { return action{at: at, op: opUse, who: who(), n: 1 + r.IntN(6)} })
	}
	if p.has(featDelete) {
		g.some(2, func(at time.Duration) action { return action{at: at, op: opDelete, who: who()} })
	}
	if p.has(featWrites) {
		g.some(8, func(at time.Duration) action { return action{at: at, op: opWrite, who: who(), n: r.IntN(200) - 100} })
		g.some(5, func(at time.Duration) action {
			return action{at: at, op: opRead, who: who(), last: time.Duration(r.IntN(4)) * time.Second}
		})
	}
	if r.IntN(4) == 0 {
		// One customer changes many times a second, at Stripe or through the API.
		a := action{at: g.moment() / 2, op: opStorm, who: who(), n: 40 + r.IntN(160), last: time.Duration(20+r.IntN(100)) * time.Millisecond}
		if p.has(featWrites) && r.IntN(2) == 0 {
			a.odds = 1
		}
		g.add(a)
	}
	g.trouble()
	slices.SortStableFunc(g.out, func(x, y action) int { return cmp.Compare(x.at, y.at) })
	return g.out
}

// trouble adds what the features bring.
func (g *generator) trouble() {
	r, p := g.r, g.p
	if p.has(featCrash) {
		g.some(3, func(at time.Duration) action {
			return action{at: at, op: opCrash, who: r.IntN(2), n: r.IntN(3), last: time.Duration(r.Int64N(int64(6 * time.Second)))}
		})
	}
	if p.has(featStall) {
		g.some(3, func(at time.Duration) action {
			return action{at: at, op: opStall, who: r.IntN(2), last: time.Duration(5+r.IntN(20)) * time.Second}
		})
	}
	if p.has(featRedis) {
		g.fault(2, faultRedisAway, 8*time.Second, 1)
		g.fault(2, faultRedisLost, 8*time.Second, 0.2)
		g.some(2, func(at time.Duration) action { return action{at: at, op: opFlush} })
		g.some(2, func(at time.Duration) action { return action{at: at, op: opKeep} })
		g.some(2, func(at time.Duration) action { return action{at: at, op: opRewind} })
	}
	if p.has(featDB) {
		g.fault(1, faultDBAway, 8*time.Second, 1)
		g.fault(1, faultDBReadOnly, 8*time.Second, 1)
		g.fault(2, faultDBLost, 8*time.Second, 0.2)
	}
	if p.has(featReplies) {
		g.fault(3, faultReplies, 10*time.Second, 0.1+0.3*r.Float64())
		g.fault(2, faultRepliesLost, 10*time.Second, 0.2)
	}
	if p.has(featOutage) {
		g.fault(1, faultStripeAway, 20*time.Second, 1)
	}
	if p.has(featWebhooks) {
		g.fault(3, faultWebhooks, 10*time.Second, 0.2+0.8*r.Float64())
		g.add(action{op: opSim, n: int(featWebhooks)})
	}
	if p.has(featListLag) {
		g.add(action{op: opSim, n: int(featListLag)})
	}
	if p.has(featLost) {
		g.add(action{op: opSim, n: int(featLost)})
	}
	if p.has(featReplica) {
		g.fault(3, faultReplica, 3*time.Second, 1)
	}
	if p.has(featRewind) {
		at := g.moment() / 2
		g.add(action{at: at, op: opKeepDB})
		g.add(action{at: at + g.moment()/2, op: opRewindDB})
	}
}

// judge says what becomes of a call that goes on now.
func (w *world) judge(c *call) string {
	struck := func(f fault, part int) bool {
		odds := w.odds(f)
		return odds > 0 && fraction(c.draw, part) < odds
	}
	switch c.seam {
	case seamRedis:
		if struck(faultRedisAway, 3) {
			c.err = errAway
		}
		c.lost = struck(faultRedisLost, 4)
	case seamDB:
		if struck(faultDBAway, 3) || struck(faultDBReadOnly, 3) && writes(c.name) {
			c.err = errAway
		}
		c.lost = struck(faultDBLost, 4)
	case seamAsk:
		if struck(faultStripeAway, 3) {
			c.err = errReset
		}
	case seamReply:
		if struck(faultStripeAway, 3) || struck(faultRepliesLost, 4) {
			c.err = errReset
		}
	}
	switch {
	case c.err != nil:
		return "fails"
	case c.lost:
		return "is lost"
	}
	return ""
}

// act does one action.
func (w *world) act(a action) {
	w.say("%s", a)
	var err error
	l := w.pick(a.who)
	switch a.op {
	case opCustomer:
		err = w.newCustomer(a.n)
	case opCharge:
		err = w.charge(l, int64(a.n))
	case opBurst:
		for i := range a.n {
			if err == nil {
				err = w.charge(l, int64(-10-i))
			}
		}
	case opStorm:
		w.clients.Go(func() { w.storm(a, l) })
	case opGrant, opUpdate, opVoid, opUse:
		err = w.actCredits(a, l)
	case opDelete:
		if l != nil {
			_, err = w.post(http.MethodDelete, "/v1/customers/"+l.id, nil)
		}
	case opWrite, opRead:
		w.client(a, l)
	case opWindow:
		if a.fault == faultReplica {
			err = w.newReplica()
		}
		w.windows[a.fault] = window{time.Now().Add(a.last), a.odds}
	case opSim:
		err = w.stripe.SetFaults(append(w.stripeFaults(), simFaults(feature(a.n))...)) // it was one
		w.simFeatures |= feature(a.n)                                                  // as above
	default:
		err = w.actProcess(a)
	}
	if err != nil {
		w.fail("simulator", "%s: %v", a, err)
	}
	w.observe()
}

func (w *world) stripeFaults() (list stripesim.Faults) {
	for f := feature(1); f < featEnd; f <<= 1 {
		if w.simFeatures&f != 0 {
			list = append(list, simFaults(f)...)
		}
	}
	return list
}

func simFaults(f feature) stripesim.Faults {
	second := stripesim.Duration(time.Second)
	switch f {
	case featWebhooks:
		return stripesim.Faults{
			{Kind: stripesim.FaultEventTwice, Probability: 0.05},
			{Kind: stripesim.FaultWebhookDrop, Probability: 0.1},
			{Kind: stripesim.FaultWebhookLost, Probability: 0.1},
			{Kind: stripesim.FaultWebhookDuplicate, Probability: 0.2, Delay: 10 * second},
			{Kind: stripesim.FaultWebhookDelay, Probability: 0.1, Delay: 6 * second},
			{Kind: stripesim.FaultWebhookReorder, Probability: 0.3, Delay: 2 * second},
		}
	case featListLag:
		return stripesim.Faults{
			{Kind: stripesim.FaultListLag, Probability: 0.2, Delay: 2 * second},
			{Kind: stripesim.FaultListLag, Probability: 0.1, Delay: 8 * second},
		}
	case featLost:
		return stripesim.Faults{{Kind: stripesim.FaultEventLost, Probability: 0.3}}
	}
	return nil
}

// actProcess does what happens to processes, Redis and the database.
func (w *world) actProcess(a action) (err error) {
	switch a.op {
	case opStart:
		w.start(w.plan.skew[a.who])
	case opCrash:
		list := w.living()
		if len(list) == 0 {
			return nil
		}
		w.kill(list[a.who%len(list)])
		switch {
		case w.embedded, a.n == 1:
			w.redis.FlushAll()
			w.say("redis is lost")
		case a.n == 2 && w.copied != nil && w.plan.has(featRedis):
			err = w.copied.restore(w.redis)
			w.say("redis is rewound")
		}
		w.script.add(action{at: time.Since(w.script.begun) + a.last, op: opStart, who: a.who})
	case opStall:
		if list := w.living(); len(list) > 0 {
			w.stall(list[a.who%len(list)], a.last)
		}
	case opFlush:
		w.redis.FlushAll()
	case opKeep:
		var c redisCopy
		c, err = copyRedis(w.redis)
		w.copied = &c
	case opRewind:
		if w.copied != nil {
			err = w.copied.restore(w.redis)
		}
	case opKeepDB:
		err = w.keepDB()
	case opRewindDB:
		err = w.rewindDB()
	}
	return err
}

// stall lets all calls of a process stand still: a SIGSTOP, seen from outside.
func (w *world) stall(p *process, last time.Duration) {
	s := w.sched
	s.mu.Lock()
	defer s.mu.Unlock()
	w.strictBudget = false // calls that were let pass before come all at once after
	p.stalled = time.Now().Add(last)
	for _, c := range s.parked {
		if c.proc == p && c.at.Before(p.stalled) {
			c.at = p.stalled.Add(c.latency(w.slow))
		}
	}
}

// pick is the customer that an action means, if it lives.
func (w *world) pick(who int) *ledger {
	var living []*ledger
	for _, l := range w.model.ledgers {
		if l.deleted.IsZero() {
			living = append(living, l)
		}
	}
	if len(living) == 0 {
		return nil
	}
	return living[who%len(living)]
}

func (w *world) newCustomer(history int) error {
	c, err := w.post(http.MethodPost, "/v1/customers", url.Values{"name": {"Simulated"}})
	if err != nil {
		return err
	}
	id, _ := c["id"].(string)
	for i := range history {
		if err := w.charge(w.model.byID[id], int64(-100-i)); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) charge(l *ledger, amount int64) error {
	if l == nil {
		return nil
	}
	if amount == 0 {
		amount = 7
	}
	_, err := w.stripe.AddBalanceTransaction("", l.id, stripesim.BalanceChange{Amount: amount, Currency: "usd"})
	w.observe()
	return err
}

// storm changes one customer again and again.
func (w *world) storm(a action, l *ledger) {
	if l == nil {
		return
	}
	for i := range a.n {
		if w.broken != nil || !l.deleted.IsZero() || w.over {
			return
		}
		if a.odds > 0 {
			w.client(action{op: opWrite, who: a.who, n: 1 + i}, l)
		} else if err := w.charge(l, int64(1+i)); err != nil {
			w.fail("simulator", "%s: %v", a, err)
		}
		time.Sleep(a.last)
	}
}

func (w *world) actCredits(a action, l *ledger) error {
	if l == nil {
		return nil
	}
	if a.op == opGrant {
		_, err := w.post(http.MethodPost, "/v1/billing/credit_grants", url.Values{
			"customer": {l.id}, "category": {"promotional"}, "amount[type]": {"monetary"},
			"amount[monetary][currency]": {"usd"}, "amount[monetary][value]": {fmt.Sprint(a.n)},
			"applicability_config[scope][price_type]": {"metered"},
		})
		return err
	}
	if len(l.order) == 0 {
		return nil
	}
	grant := l.order[a.n%len(l.order)]
	switch a.op {
	case opUpdate:
		_, err := w.post(http.MethodPost, "/v1/billing/credit_grants/"+grant, url.Values{"metadata[n]": {fmt.Sprint(a.n)}})
		return ifState(err)
	case opVoid:
		_, err := w.post(http.MethodPost, "/v1/billing/credit_grants/"+grant+"/void", nil)
		return ifState(err)
	}
	for i := range a.n {
		if _, err := w.stripe.ApplyCredits(stripesim.InvoiceUse{Customer: l.id, Currency: "usd", Amount: int64(1 + i)}); err != nil {
			return ifState(err)
		}
		w.observe()
	}
	return nil
}

// ifState leaves out that Stripe refuses what the state of the object does not allow.
func ifState(error) error { return nil }

// client sends a request to the API of a process, and judges the answer when it comes.
func (w *world) client(a action, l *ledger) {
	list := w.living()
	if l == nil || len(list) == 0 {
		return
	}
	p := list[a.who%len(list)]
	method, path, body := http.MethodGet, "/v1/customers/"+l.id, ""
	if a.op == opWrite {
		method, path = http.MethodPost, path+"/balance_transactions"
		body = url.Values{"amount": {fmt.Sprint(a.n)}, "currency": {"usd"}}.Encode()
	}
	r, err := http.NewRequestWithContext(context.Background(), method, "http://mirror.test"+path, strings.NewReader(body))
	if err != nil {
		w.fail("simulator", "%v", err)
		return
	}
	r.Header.Set("Authorization", "Bearer "+apiKey)
	if a.op == opWrite {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		r.Header.Set("Creditmirror-Max-Age", a.last.String())
	}
	asked, had := time.Now(), 0
	for _, row := range l.rows {
		if row.at.Before(asked.Add(-a.last)) {
			had++
		}
	}
	w.clients.Go(func() {
		response, err := p.exchange(p.api, r)
		if err != nil {
			return
		}
		text, _ := io.ReadAll(response.Body)
		if a.op == opRead && response.StatusCode == http.StatusOK {
			w.checkRead(l, had, text)
		}
	})
}
