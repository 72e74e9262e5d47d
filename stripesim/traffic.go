package stripesim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// TrafficOptions configures a Traffic.
type TrafficOptions struct {
	// Seed decides what happens, and to whom.
	Seed int64
	// Customers is how many customers Traffic.Seed makes. Defaults to 100.
	Customers int
	// Rate is changes per second; 0 is as fast as possible.
	Rate float64
	// Changes is after how many changes Run returns; 0 is never.
	Changes int
	// Accounts are where the customers live, in turn; "" is the platform, which is
	// the default.
	Accounts []string
	// SilentEdits adds edits of transactions' descriptions and metadata, which no
	// event announces.
	SilentEdits bool
	// OtherCurrencies adds balance changes outside the customer's default
	// currency. Unless Switches.NonDefaultCurrencyEvent is on, no event announces
	// them either.
	OtherCurrencies bool
}

// Traffic changes customers as a live business does. It works on the same engine
// as the HTTP handlers, so its changes send the same events.
type Traffic struct {
	s    *Server
	o    TrafficOptions
	rng  *rand.Rand
	who  []member
	done atomic.Int64
}

// member is a customer that traffic may pick; gone ones are skipped.
type member struct {
	a *account
	c *customer
}

// NewTraffic makes a generator for s. It is not safe for concurrent use, but for
// Done.
func NewTraffic(s *Server, o TrafficOptions) (*Traffic, error) {
	if o.Customers < 0 || o.Rate < 0 || o.Changes < 0 {
		return nil, fmt.Errorf("traffic: negative option")
	}
	if o.Customers == 0 {
		o.Customers = 100
	}
	if len(o.Accounts) == 0 {
		o.Accounts = []string{""}
	}
	for _, id := range o.Accounts {
		if s.account(id) == nil {
			return nil, fmt.Errorf("traffic: no account %q", id)
		}
	}
	return &Traffic{s: s, o: o, rng: rand.New(rand.NewPCG(uint64(o.Seed), 0x7aff1c))}, nil // #nosec G115 G404 -- a seed, any 64 bits; the same seed makes the same world
}

// Done returns the number of changes made so far. It is safe for concurrent use.
func (t *Traffic) Done() int64 { return t.done.Load() }

// The history that Seed makes lies between these days in the past: older than
// events reach, so that it needs none.
const (
	historyFrom = 400
	historyTo   = 31
)

// Seed makes the customers, each with up to a dozen past changes. No events announce
// them: they are older than the event list.
func (t *Traffic) Seed(ctx context.Context) error {
	now := t.s.unix()
	start, end := now-historyFrom*daySeconds, now-historyTo*daySeconds
	for i := range t.o.Customers {
		if err := ctx.Err(); err != nil {
			return err
		}
		a := t.s.account(t.o.Accounts[i%len(t.o.Accounts)])
		// Customers are made in order of time, so each insertion is at the end.
		at := start + (end-start)*int64(i)/int64(2*t.o.Customers)
		a.mu.Lock()
		m := member{a, t.create(a, cause{now: at, silent: true}, i)}
		if t.rng.IntN(5) == 0 { // beside the customer's creation, for the same reason
			t.grantTo(m, cause{now: at, silent: true})
		}
		for n := t.rng.IntN(12); n > 0; n-- {
			at = min(end, at+t.rng.Int64N(20*daySeconds)+1)
			t.adjust(m, cause{now: at, silent: true})
		}
		a.mu.Unlock()
		t.who = append(t.who, m)
	}
	return nil
}

// Run makes changes until their number is reached or ctx ends, which is no error.
func (t *Traffic) Run(ctx context.Context) error {
	if len(t.who) == 0 {
		return fmt.Errorf("traffic: no customers; call Seed first")
	}
	begin := time.Now()
	for n := 1; t.o.Changes == 0 || n <= t.o.Changes; n++ {
		if ctx.Err() != nil {
			return nil
		}
		t.step()
		t.done.Add(1)
		if t.o.Rate == 0 {
			continue
		}
		next := begin.Add(time.Duration(float64(n) / t.o.Rate * float64(time.Second)))
		if wait := time.Until(next); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil
			}
		}
	}
	return nil
}

// step makes one change. What the picked customer cannot do falls back to an
// adjustment, so that every step changes something.
func (t *Traffic) step() {
	p := t.rng.IntN(1000)
	if p < 30 || len(t.who) == 0 {
		a := t.s.account(t.o.Accounts[t.rng.IntN(len(t.o.Accounts))])
		a.mu.Lock()
		defer a.mu.Unlock()
		t.who = append(t.who, member{a, t.create(a, a.callerCause(), len(t.who))})
		return
	}
	i := t.rng.IntN(len(t.who))
	m := t.who[i]
	m.a.catchUpUnlessOnRead()
	m.a.mu.Lock()
	defer m.a.mu.Unlock()
	if m.c.gone {
		t.who = slices.Delete(t.who, i, i+1)
		return
	}
	cz := m.a.callerCause()
	switch {
	case p < 35 && len(t.who) > 2:
		m.a.deleteCustomer(cz, m.c, true)
		t.who = slices.Delete(t.who, i, i+1)
	case p < 135:
		t.grantTo(m, cz)
	case p < 235 && t.spendCredits(m), p < 265 && t.endGrant(m, cz, true), p < 295 && t.endGrant(m, cz, false):
	case p < 345:
		t.editCustomer(m, cz)
	case p < 445:
		t.setBalance(m, cz)
	case p < 565 && t.spendBalance(m), p < 595 && t.voidInvoice(m):
	case p < 645 && t.o.OtherCurrencies:
		t.otherCurrency(m, cz)
	case p < 695 && t.o.SilentEdits && m.c.txns.len() > 0:
		row := m.c.txns.rows[t.rng.IntN(m.c.txns.len())]
		text := orNull(fmt.Sprintf("Corrected note %d", t.rng.IntN(1_000_000)))
		m.a.editBalanceTxn(cz, row, &text, map[string]string{"note": fmt.Sprint(t.rng.IntN(1_000_000))})
	default:
		t.adjust(m, cz)
	}
}

func (t *Traffic) create(a *account, cz cause, i int) *customer {
	email := orNull(fmt.Sprintf("customer%d@example.com", i))
	name := orNull(fmt.Sprintf("Customer %d", i))
	ch := customerChange{email: &email, name: &name}
	if t.rng.IntN(4) == 0 {
		n := -t.rng.Int64N(5000)
		ch.balance = &n
	}
	return a.createCustomer(cz, ch, nil)
}

var homeCurrencies = []string{"usd", "usd", "usd", "eur", "gbp", "jpy"}

func (t *Traffic) currencyOf(c *customer) string {
	if c.currency == "" {
		return homeCurrencies[t.rng.IntN(len(homeCurrencies))]
	}
	return c.currency
}

// amount is mostly credit, now and then debt, and never zero.
func (t *Traffic) amount() int64 {
	n := t.rng.Int64N(5000) + 1
	if t.rng.IntN(10) < 7 {
		return -n
	}
	return n
}

func (t *Traffic) adjust(m member, cz cause) {
	m.a.changeBalance(cz, m.c, BalanceChange{Amount: t.amount(), Currency: t.currencyOf(m.c), Type: "adjustment", Description: orNull("Goodwill")})
}

func (t *Traffic) otherCurrency(m member, cz cause) {
	other := homeCurrencies[t.rng.IntN(len(homeCurrencies))]
	if m.c.currency == other {
		other = "chf"
	}
	m.a.changeBalance(cz, m.c, BalanceChange{Amount: t.amount(), Currency: other, Type: "adjustment"})
}

func (t *Traffic) setBalance(m member, cz cause) {
	n := t.amount()
	if m.c.balance == n {
		n++
	}
	m.a.updateCustomer(cz, m.c, customerChange{balance: &n})
}

func (t *Traffic) editCustomer(m member, cz cause) {
	meta := map[string]string{"plan": fmt.Sprintf("plan-%d", t.rng.IntN(1_000_000))}
	m.a.updateCustomer(cz, m.c, customerChange{metadata: &meta})
}

func (t *Traffic) grantTo(m member, cz cause) {
	r := grantRequest{
		currency: t.currencyOf(m.c), amount: t.rng.Int64N(10000) + 1, priceType: "metered",
		category: "paid", name: orNull("Prepaid credits"), priority: 50,
	}
	if t.rng.IntN(3) == 0 {
		r.category, r.priority = "promotional", t.rng.Int64N(101)
	}
	if !cz.silent && t.rng.IntN(4) == 0 {
		at := cz.now + 1 + t.rng.Int64N(60*daySeconds)
		r.expiresAt = &at
	}
	if _, err := m.a.createGrant(cz, m.c, r); err != nil { // a hundred unused grants
		t.adjust(m, cz)
	}
}

// openGrants are the customer's grants that still change.
func openGrants(c *customer) []*grant {
	return slices.DeleteFunc(slices.Clone(c.grants.rows), func(g *grant) bool { return !g.open() || g.remaining == 0 })
}

func (t *Traffic) spendCredits(m member) bool {
	cz := m.a.systemCause()
	gs := openGrants(m.c)
	if len(gs) == 0 {
		return false
	}
	due := t.rng.Int64N(4000) + 1
	inv, err := m.a.standInFor(cz, m.c, "", gs[0].currency)
	if err != nil {
		return false
	}
	l := m.a.standInLine(inv, "", due)
	l.metered = true
	return len(m.a.applyCreditsToLine(cz, inv, l, m.c.ledgerNow(cz))) > 0
}

func (t *Traffic) endGrant(m member, cz cause, void bool) bool {
	gs := openGrants(m.c)
	if len(gs) == 0 {
		return false
	}
	g := gs[t.rng.IntN(len(gs))]
	if void {
		return m.a.voidGrant(cz, g) == nil
	}
	return m.a.expireGrant(cz, g) == nil
}

func (t *Traffic) spendBalance(m member) bool {
	if m.c.balance == 0 {
		return false
	}
	cz, due := m.a.systemCause(), t.rng.Int64N(6000)+1
	inv, err := m.a.standInFor(cz, m.c, "", m.c.currency)
	if err != nil {
		return false
	}
	m.a.standInLine(inv, "", due)
	m.a.applyBalanceToInvoice(cz, inv, due)
	return true
}

// voidInvoice voids the invoice of one of the customer's newest rows, if any of
// them came of an invoice.
func (t *Traffic) voidInvoice(m member) bool {
	for i := m.c.txns.len() - 1; i >= max(0, m.c.txns.len()-5); i-- {
		if inv := m.a.invoices[m.c.txns.rows[i].invoice]; inv != nil && inv.status == statusOpen {
			m.a.voidInvoice(m.a.callerCause(), inv)
			return true
		}
	}
	return false
}
