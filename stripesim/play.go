package stripesim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// Play is a scenario that is being played.
type Play struct {
	s      *Server
	sc     *Scenario
	rng    *rand.Rand
	groups map[string][]member
	home   map[string]string // group → its currency
	prices map[string]*price
	began  time.Time
	done   atomic.Int64
}

// NewPlay prepares a scenario on s. The seed decides amounts and who is picked.
func NewPlay(s *Server, sc *Scenario, seed int64) *Play {
	return &Play{s: s, sc: sc, rng: rand.New(rand.NewPCG(uint64(seed), 0x5ce9a)), groups: map[string][]member{}, home: map[string]string{}, prices: map[string]*price{}} // #nosec G404 G115 -- a seed, any 64 bits; the same makes the same world
}

// Done returns the number of actions so far. It is safe for concurrent use.
func (p *Play) Done() int64 { return p.done.Load() }

// Check reports whether the scenario can begin: not one that begins before the
// present of a simulator in which there is something already.
func (p *Play) Check() error {
	if m := p.sc.start; m != nil && !p.s.empty() && p.start().Before(p.s.opts.Now()) {
		return fmt.Errorf("the scenario begins at %s, before what is there already", p.start().UTC().Format(time.RFC3339))
	}
	return nil
}

// start is when the scenario begins, if it says so.
func (p *Play) start() time.Time {
	if m := p.sc.start; m.ago == 0 {
		return m.at
	}
	return p.s.time.base().Add(-p.sc.start.ago)
}

// Run plays the scenario to its end or until ctx ends, which is no error. With a
// start, the clock is virtual meanwhile, and passes again afterwards.
func (p *Play) Run(ctx context.Context) error {
	if p.sc.start != nil {
		if err := p.s.FreezeClock(p.start()); err != nil {
			return fmt.Errorf("scenario: start: %w", err)
		}
		defer p.s.ReleaseClock()
	}
	p.began = time.Now()
	err := p.run(ctx, p.sc.steps)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (p *Play) run(ctx context.Context, steps []step) error {
	for _, st := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		play := commands[st.cmd].step
		if play == nil {
			play = eachCustomer
		}
		if err := play(ctx, p, st); err != nil {
			if st.cmd == "repeat" {
				return err // it has the line of the step within
			}
			return fmt.Errorf("line %d: %s: %w", st.line, st.cmd, err)
		}
	}
	return nil
}

// pace waits until the next action may come.
func (p *Play) pace(ctx context.Context) error {
	n := p.done.Add(1)
	if p.sc.Rate == 0 {
		return ctx.Err()
	}
	wait := time.Until(p.began.Add(time.Duration(float64(n) / p.sc.Rate * float64(time.Second))))
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pick is a random number of an argument's range, or def without it. The
// arguments have been checked.
func (p *Play) pick(st step, key string, def int64) int64 {
	v, ok := st.args[key]
	if !ok {
		return def
	}
	lo, hi, _ := span(v)
	return lo + p.rng.Int64N(hi-lo+1)
}

func (st step) text(key, def string) string {
	if v, ok := st.args[key]; ok {
		return v
	}
	return def
}

func (st step) duration(key string) time.Duration {
	d, _ := parseDays(st.args[key])
	return d
}

func runRepeat(ctx context.Context, p *Play, st step) error {
	for range st.n {
		if err := p.run(ctx, st.body); err != nil {
			return err
		}
	}
	return nil
}

func runAdvance(ctx context.Context, p *Play, st step) error { return p.s.AdvanceClock(ctx, st.dur) }

func runNow(ctx context.Context, p *Play, _ step) error {
	return p.s.AdvanceClock(ctx, max(0, p.s.time.base().Sub(p.s.opts.Now())))
}

func runFault(_ context.Context, p *Play, st step) error {
	f := Fault{Kind: FaultKind(st.name), Count: int(p.pick(st, "count", 0)), Event: st.args["event"], Endpoint: st.args["endpoint"], Delay: Duration(st.duration("delay"))}
	f.Probability, _ = strconv.ParseFloat(st.text("probability", "0"), 64)
	return p.s.faults.add(f)
}

func runNoFaults(_ context.Context, p *Play, _ step) error { return p.s.SetFaults(nil) }

func runAccount(_ context.Context, p *Play, st step) error { return p.s.AddAccount(st.name) }

func runPrice(_ context.Context, p *Play, st step) error {
	a := p.s.account(st.text("account", ""))
	v := &price{currency: st.text("currency", "usd"), unitAmount: p.pick(st, "unit", 1), intervalCount: 1}
	if st.args["metered"] != "" {
		v.interval, v.usage, v.meter = "month", "metered", orNull("mtr_"+st.name)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.createPrice(a.callerCause(), v)
	p.prices[st.name] = v
	return nil
}

// eachCustomer plays a step for the share of a group that the seed picks.
func eachCustomer(ctx context.Context, p *Play, st step) error {
	share := 1.0
	if v, ok := st.args["share"]; ok {
		share, _ = strconv.ParseFloat(v, 64)
	}
	for _, m := range p.groups[st.name] {
		if p.rng.Float64() >= share {
			continue
		}
		if err := p.pace(ctx); err != nil {
			return err
		}
		m.a.catchUpUnlessOnRead()
		m.a.mu.Lock()
		if !m.c.gone {
			commands[st.cmd].act(p, st, m, m.a.callerCause())
		}
		m.a.mu.Unlock()
	}
	return nil
}

func runCustomers(ctx context.Context, p *Play, st step) error {
	p.home[st.name] = st.text("currency", "usd")
	a := p.s.account(st.text("account", ""))
	if a == nil {
		return fmt.Errorf("no account %q", st.args["account"])
	}
	for i := range st.n {
		if err := p.pace(ctx); err != nil {
			return err
		}
		email, name := orNull(fmt.Sprintf("%s%d@example.com", st.name, i+1)), orNull(fmt.Sprintf("%s %d", st.name, i+1))
		a.mu.Lock()
		c := a.createCustomer(a.callerCause(), customerChange{email: &email, name: &name}, nil)
		if n := p.pick(st, "balance", 0); n != 0 {
			a.changeBalance(a.callerCause(), c, BalanceChange{Amount: n, Currency: st.text("currency", "usd"), Type: "adjustment"})
		}
		a.mu.Unlock()
		p.groups[st.name] = append(p.groups[st.name], member{a, c})
	}
	return nil
}

// currency is that of the command, else the customer's, else that of its group.
func (p *Play) currency(st step, c *customer) string {
	cur := st.text("currency", c.currency)
	if cur == "" {
		cur = p.home[st.name]
	}
	return internCurrency(cur)
}

// The functions below do one thing to one customer. What the customer has nothing for, such
// as a void without a grant, is passed over.

func actGrant(p *Play, st step, m member, cz cause) {
	a, c := m.a, m.c
	r := grantRequest{
		currency: p.currency(st, c), amount: p.pick(st, "amount", 1), priceType: "metered", category: st.text("category", "paid"),
		priority: p.pick(st, "priority", 50), name: orNull(st.args["name"]),
	}
	if v := st.args["price"]; v != "" {
		r.priceType, r.prices = "", []string{p.prices[v].id}
	}
	if st.args["starts"] != "" {
		at := c.ledgerNow(cz) + ceilSeconds(st.duration("starts"))
		r.effectiveAt = &at
	}
	if st.args["expires"] != "" {
		at := c.ledgerNow(cz) + ceilSeconds(st.duration("expires"))
		r.expiresAt = &at
	}
	_, _ = a.createGrant(cz, c, r) // refused at a hundred unused grants
}

func actAdjust(p *Play, st step, m member, cz cause) {
	if n := p.pick(st, "amount", 0); n != 0 {
		m.a.changeBalance(cz, m.c, BalanceChange{Amount: n, Currency: p.currency(st, m.c), Type: st.text("type", "adjustment"), Description: orNull(st.args["description"])})
	}
}

func actSet(p *Play, st step, m member, cz cause) {
	n := p.pick(st, "balance", 0)
	m.a.updateCustomer(cz, m.c, customerChange{balance: &n})
}

func actNote(p *Play, st step, m member, cz cause) {
	inv := newest(m.c, func(v *invoice) bool { return v.status == statusPaid && v.creditable() > 0 && v.number != nil })
	if inv == nil {
		return
	}
	if n := max(1, inv.creditable()*p.pick(st, "percent", 100)/100); n <= inv.creditable() {
		m.a.createNote(cz, &creditNote{invoice: inv, amount: n, credit: n, effectiveAt: m.c.ledgerNow(cz), reason: "order_change"})
	}
}

// actOnGrant voids, expires or prolongs one of the customer's open grants.
func actOnGrant(p *Play, st step, m member, cz cause) {
	open := openGrants(m.c)
	if len(open) == 0 {
		return
	}
	g := open[p.rng.IntN(len(open))]
	switch st.cmd {
	case "void":
		_ = m.a.voidGrant(cz, g) // refused once it was applied
	case "expire":
		_ = m.a.expireGrant(cz, g)
	case "prolong":
		at := m.c.ledgerNow(cz) + ceilSeconds(st.duration("by"))
		if g.expiresAt != nil {
			at = *g.expiresAt + ceilSeconds(st.duration("by"))
		}
		_ = m.a.updateGrant(cz, g, grantUpdate{setExpiry: true, expiresAt: &at, metadata: g.metadata})
	}
}

func actPay(p *Play, st step, m member, cz cause) {
	if inv := newest(m.c, func(v *invoice) bool { return v.status == statusOpen }); inv != nil {
		m.a.payInvoice(cz, inv, inv.remaining()+p.pick(st, "over", 0), false)
	}
}

func actVoidInvoice(_ *Play, _ step, m member, cz cause) {
	if inv := newest(m.c, func(v *invoice) bool { return v.status == statusOpen && v.paid == 0 }); inv != nil {
		m.a.voidInvoice(cz, inv)
	}
}

func actEdit(p *Play, _ step, m member, cz cause) {
	if n := m.c.txns.len(); n > 0 {
		t := m.c.txns.rows[p.rng.IntN(n)]
		m.a.editBalanceTxn(cz, t, &t.description, map[string]string{"reviewed": fmt.Sprint(p.rng.IntN(1_000_000))})
	}
}

func actRename(p *Play, _ step, m member, cz cause) {
	name := orNull(fmt.Sprintf("Renamed %d", p.rng.IntN(1_000_000)))
	m.a.updateCustomer(cz, m.c, customerChange{name: &name})
}

func actDelete(_ *Play, _ step, m member, cz cause) { m.a.deleteCustomer(cz, m.c, true) }

// newest is the customer's newest invoice that fits.
func newest(c *customer, fits func(*invoice) bool) *invoice {
	for _, inv := range slices.Backward(c.invoices.rows) {
		if !inv.gone && fits(inv) {
			return inv
		}
	}
	return nil
}

func actInvoice(p *Play, st step, m member, cz cause) {
	a, c := m.a, m.c
	r := itemRequest{quantity: 1, currency: p.currency(st, c)}
	if v := p.prices[st.args["usage"]]; v != nil {
		if v.currency != r.currency {
			return // billed in another currency than the customer's
		}
		r.price, r.quantity, r.unitAmount = v, p.pick(st, "quantity", 0), v.unitAmount
		r.amount, _ = times(r.unitAmount, r.quantity)
	} else {
		r.amount = p.pick(st, "amount", 0)
		r.unitAmount = r.amount
	}
	inv := a.createInvoice(cz, c, invoiceRequest{currency: r.currency, collection: "charge_automatically"})
	a.createItem(cz, c, inv, r)
	end := st.text("end", "paid")
	if end == "draft" {
		return
	}
	a.finalizeInvoice(cz, inv)
	if inv.status != statusOpen { // nothing was left to pay
		return
	}
	switch end {
	case "paid":
		a.payInvoice(cz, inv, inv.remaining(), false)
	case "overpaid":
		a.payInvoice(cz, inv, inv.remaining()+1+p.rng.Int64N(1000), false)
	case "void":
		a.voidInvoice(cz, inv)
	case "uncollectible":
		a.markUncollectible(cz, inv)
	}
}
