package stripesim

import (
	"cmp"
	"slices"
)

// maxUnusedGrants is Stripe's limit per customer.
const maxUnusedGrants = 100

// grant is a billing.credit_grant with what Stripe knows but does not show.
type grant struct {
	node
	customer    *customer
	currency    string
	amount      int64
	priceType   string   // "metered", or "" when scoped to prices
	prices      []string // ids
	category    string
	effectiveAt *int64
	expiresAt   *int64
	metadata    map[string]string
	name        *string
	priority    int64
	updated     int64
	voidedAt    *int64

	granted   bool  // the credits_granted row exists
	remaining int64 // Σ credits − Σ debits
	applied   bool  // was ever applied to an invoice, which forbids voiding
	expired   bool  // by call or by time
	counted   bool  // is one of the customer's unused grants
	txns      ordered[*creditTxn]
}

// creditTxn is a billing.credit_balance_transaction; nothing of it ever changes.
type creditTxn struct {
	node
	grant       *grant
	effectiveAt int64
	credit      bool
	typ         string
	value       int64
	invoice     string
	lineItem    string
}

// grantRequest is a create request.
type grantRequest struct {
	currency    string
	amount      int64
	priceType   string
	prices      []string
	category    string
	effectiveAt *int64
	expiresAt   *int64
	metadata    map[string]string
	name        *string
	priority    int64
}

func (g *grant) open() bool { return g.voidedAt == nil && !g.expired }

// usable reports whether credits of g can be applied to an invoice whose period
// ends at the given time.
func (g *grant) usable(at int64) bool {
	return g.open() && g.remaining > 0 && *g.effectiveAt <= at && (g.expiresAt == nil || at < *g.expiresAt)
}

// recount keeps the number of unused grants: pending, or with credits left, and
// neither voided nor expired.
func (g *grant) recount() {
	counts := g.open() && (!g.granted || g.remaining > 0)
	if counts != g.counted {
		g.counted = counts
		if counts {
			g.customer.unused++
		} else {
			g.customer.unused--
		}
	}
}

func (a *account) createGrant(cz cause, c *customer, r grantRequest) (*grant, *apiError) {
	if c.unused >= maxUnusedGrants {
		return nil, errRefused("", "This customer already has the maximum of %d unused credit grants.", maxUnusedGrants)
	}
	now := c.ledgerNow(cz)
	if r.effectiveAt == nil {
		r.effectiveAt = &now
	}
	if r.expiresAt != nil && *r.expiresAt <= now {
		return nil, errRefused("expires_at", "expires_at must be in the future.")
	}
	if r.expiresAt != nil && *r.expiresAt <= *r.effectiveAt {
		return nil, errRefused("expires_at", "expires_at must be after effective_at.")
	}
	g := &grant{
		node: node{id: a.ids.grant(), created: cz.now}, customer: c, currency: r.currency, amount: r.amount,
		priceType: r.priceType, prices: r.prices, category: r.category, effectiveAt: r.effectiveAt, expiresAt: r.expiresAt,
		metadata: r.metadata, name: r.name, priority: r.priority, updated: cz.now, txns: ordered[*creditTxn]{slot: slotGrant},
	}
	g.lag = a.lagFor(listGrants, c.id)
	a.grants[g.id] = g
	addTo(a, &a.grantList, g)
	addTo(a, &c.grants, g)
	a.logAmount(cz, "grant.created", g.id, c.id, g.category, g.amount, g.currency)
	a.emit(cz, "billing.credit_grant.created", c.id, a.renderGrant(g, nil), nil)
	if *g.effectiveAt <= now || !a.s.switches().PendingGrantRowLate {
		a.grantCredits(cz, g, now)
	}
	g.recount()
	a.schedule(g)
	return g, nil
}

func (a *account) grantCredits(cz cause, g *grant, at int64) {
	g.granted = true
	a.addCredit(cz, g, creditTxn{credit: true, typ: "credits_granted", value: g.amount, effectiveAt: at})
}

// addCredit appends a row to a grant's ledger and announces it.
func (a *account) addCredit(cz cause, g *grant, t creditTxn) *creditTxn {
	t.node = node{id: a.ids.creditTxn(), created: cz.now}
	t.grant = g
	if t.credit {
		g.remaining += t.value
	} else {
		g.remaining -= t.value
	}
	t.lag = a.lagFor(listCreditTxns, g.customer.id)
	a.credits[t.id] = &t
	addTo(a, &a.creditList, &t)
	addTo(a, &g.customer.credits, &t)
	addTo(a, &g.txns, &t)
	g.recount()
	signed := t.value
	if !t.credit {
		signed = -signed
	}
	a.logAmount(cz, "credit_transaction.created", t.id, g.customer.id, t.typ, signed, g.currency)
	a.emit(cz, "billing.credit_balance_transaction.created", g.customer.id, a.renderCreditTxn(&t, nil), nil)
	return &t
}

// grantUpdate is an update request: expiresAt counts only when setExpiry.
type grantUpdate struct {
	setExpiry bool
	expiresAt *int64
	metadata  map[string]string
}

func (a *account) updateGrant(cz cause, g *grant, u grantUpdate) *apiError {
	prev := map[string]any{}
	if u.setExpiry && !equalPtr(u.expiresAt, g.expiresAt) {
		if !g.open() {
			return errRefused("expires_at", "You cannot update the expiry of a credit grant that is voided or expired.")
		}
		if u.expiresAt != nil && *u.expiresAt <= g.customer.ledgerNow(cz) {
			return errRefused("expires_at", "expires_at must be in the future.")
		}
		if u.expiresAt != nil && *u.expiresAt <= *g.effectiveAt {
			return errRefused("expires_at", "expires_at must be after effective_at.")
		}
		prev["expires_at"] = g.expiresAt
		g.expiresAt = u.expiresAt
		a.schedule(g)
	}
	if m := metadataDiff(g.metadata, u.metadata); len(m) > 0 {
		prev["metadata"] = m
		g.metadata = u.metadata
	}
	a.grantUpdated(cz, g, prev)
	return nil
}

// grantUpdated sends the update event, if anything changed.
func (a *account) grantUpdated(cz cause, g *grant, prev map[string]any) {
	if len(prev) == 0 {
		return
	}
	a.log(cz, "grant.changed", g.id, g.customer.id, "")
	if g.updated != cz.now {
		prev["updated"] = g.updated
		g.updated = cz.now
	}
	a.emit(cz, "billing.credit_grant.updated", g.customer.id, a.renderGrant(g, nil), prev)
}

func (a *account) expireGrant(cz cause, g *grant) *apiError {
	if !g.open() {
		return errRefused("", "This credit grant is already voided or expired.")
	}
	now := g.customer.ledgerNow(cz)
	prev := map[string]any{"expires_at": g.expiresAt}
	g.expiresAt = &now
	a.grantUpdated(cz, g, prev)
	a.expireCredits(cz, g, now)
	return nil
}

func (a *account) expireCredits(cz cause, g *grant, at int64) {
	g.expired = true
	if g.remaining > 0 {
		a.addCredit(cz, g, creditTxn{typ: "credits_expired", value: g.remaining, effectiveAt: at})
	}
	g.recount()
}

func (a *account) voidGrant(cz cause, g *grant) *apiError {
	if !g.open() {
		return errRefused("", "This credit grant is already voided or expired.")
	}
	if g.applied {
		return errRefused("", "You cannot void a credit grant that has been applied to an invoice. Expire it instead.")
	}
	now := g.customer.ledgerNow(cz)
	prev := map[string]any{"voided_at": g.voidedAt}
	g.voidedAt = &now
	a.grantUpdated(cz, g, prev)
	if g.remaining > 0 {
		a.addCredit(cz, g, creditTxn{typ: "credits_voided", value: g.remaining, effectiveAt: now})
	}
	g.recount()
	return nil
}

// ripen does what time does to a grant: the late credits_granted row at
// effective_at, and expiry. expireBefore trails now where expiry is late.
func (a *account) ripen(cz cause, g *grant, now, expireBefore int64) {
	if g.customer.gone || !g.open() {
		return
	}
	if !g.granted && *g.effectiveAt <= now {
		a.grantCredits(cz, g, *g.effectiveAt)
	}
	if g.expiresAt != nil && *g.expiresAt <= expireBefore {
		at := *g.expiresAt
		a.expireCredits(cz, g, at)
		if a.s.switches().ExpirySendsGrantUpdated {
			g.updated = cz.now
			a.emit(cz, "billing.credit_grant.updated", g.customer.id, a.renderGrant(g, nil), map[string]any{})
		}
	}
}

// inOrderOfUse sorts grants as Stripe takes from them: priority, then sooner
// expiry, promotional before paid, earlier effective, earlier created.
func inOrderOfUse(gs []*grant) {
	never := int64(1) << 62
	expiry := func(g *grant) int64 {
		if g.expiresAt == nil {
			return never
		}
		return *g.expiresAt
	}
	paid := func(g *grant) int {
		if g.category == "paid" {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(gs, func(x, y *grant) int {
		return cmp.Or(cmp.Compare(x.priority, y.priority), cmp.Compare(expiry(x), expiry(y)), cmp.Compare(paid(x), paid(y)),
			cmp.Compare(*x.effectiveAt, *y.effectiveAt), cmp.Compare(x.created, y.created), cmp.Compare(x.id, y.id))
	})
}
