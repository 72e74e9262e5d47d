package stripesim

import (
	"fmt"
	"net/http"
	"slices"
)

// scope reads a scope hash: price_type or prices, never both.
func scope(p *params, name string) (priceType string, prices []string) {
	p.hash(name, func(p *params) {
		priceType, _ = p.enum("price_type", "metered")
		items, _ := p.items("prices")
		for _, f := range items {
			f.used = true
			sub := &params{root: f}
			id := sub.id("id")
			if sub.err != nil {
				p.fail(sub.err)
			} else if id == "" {
				p.fail(errMissing(f.name + "[id]"))
			}
			prices = append(prices, id)
		}
		if (priceType == "") == (len(prices) == 0) {
			p.fail(errInvalid("", p.root.name, "You must provide exactly one of price_type and prices."))
		}
	})
	return priceType, prices
}

func (c *call) createGrant() (any, *apiError) {
	p := c.p
	r := grantRequest{category: "paid", priority: 50}
	if !p.hash("amount", func(p *params) {
		if _, ok := p.enum("type", "monetary"); !ok {
			p.fail(errMissing("amount[type]"))
		}
		if !p.hash("monetary", func(p *params) {
			var hasCurrency, hasValue bool
			r.currency, hasCurrency = p.currency("currency")
			r.amount, hasValue = p.amount("value")
			switch {
			case !hasCurrency:
				p.fail(errMissing("amount[monetary][currency]"))
			case !hasValue:
				p.fail(errMissing("amount[monetary][value]"))
			case r.amount <= 0:
				p.fail(errInvalid("parameter_invalid_integer", "amount[monetary][value]", "This value must be greater than or equal to 1."))
			}
		}) {
			p.fail(errMissing("amount[monetary]"))
		}
	}) {
		p.fail(errMissing("amount"))
	}
	if !p.hash("applicability_config", func(p *params) {
		if !p.has("scope") {
			p.fail(errMissing("applicability_config[scope]"))
		}
		r.priceType, r.prices = scope(p, "scope")
	}) {
		p.fail(errMissing("applicability_config"))
	}
	customerID := p.id("customer")
	accountID := p.id("customer_account")
	if v, ok := p.enum("category", "paid", "promotional"); ok {
		r.category = v
	}
	if n, ok := p.timestamp("effective_at"); ok {
		r.effectiveAt = &n
	}
	if n, ok := p.timestamp("expires_at"); ok {
		r.expiresAt = &n
	}
	set(&r.name, textChange(p, "name", 100))
	if n, ok := p.int("priority"); ok {
		if n < 0 || n > 100 {
			p.fail(errInvalid("parameter_invalid_integer", "priority", "This value must be between 0 and 100."))
		}
		r.priority = n
	}
	r.metadata, _ = p.metadataHash(nil)
	if customerID == "" && accountID == "" {
		p.fail(errMissing("customer"))
	}
	if e := p.done(); e != nil {
		return nil, e
	}
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	cus, e := c.payer(customerID, accountID)
	if e != nil {
		return nil, e
	}
	for i, id := range r.prices {
		if a.prices[id] == nil {
			return nil, errNone(http.StatusBadRequest, "price", id, fmt.Sprintf("applicability_config[scope][prices][%d][id]", i))
		}
	}
	g, e := a.createGrant(c.cz, cus, r)
	if e != nil {
		return nil, e
	}
	return a.renderGrant(g, c.x), nil
}

// grant returns the grant that the path names.
func (c *call) grant() (*grant, *apiError) {
	if g := c.a.grants[c.args[0]]; g != nil {
		return g, nil
	}
	return nil, errNone(http.StatusNotFound, "credit grant", c.args[0], "id")
}

func (c *call) getGrant() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	g, e := c.grant()
	if e != nil {
		return nil, e
	}
	return c.a.renderGrant(g, c.x), nil
}

// onGrant runs a change of the grant that the path names.
func (c *call) onGrant(change func(*grant) *apiError) (any, *apiError) {
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	g, e := c.grant()
	if e != nil {
		return nil, e
	}
	if g.customer.gone {
		return nil, errRefused("", "The customer of this credit grant has been deleted.")
	}
	if e := change(g); e != nil {
		return nil, e
	}
	return a.renderGrant(g, c.x), nil
}

func (c *call) updateGrant() (any, *apiError) {
	return c.onGrant(func(g *grant) *apiError {
		var u grantUpdate
		if f := c.p.root.kids["expires_at"]; f != nil && f.leaf && f.val == "" {
			f.used, u.setExpiry = true, true
		} else if n, ok := c.p.timestamp("expires_at"); ok {
			u.setExpiry, u.expiresAt = true, &n
		}
		u.metadata, _ = c.p.metadataHash(g.metadata)
		if e := c.p.done(); e != nil {
			return e
		}
		return c.a.updateGrant(c.cz, g, u)
	})
}

func (c *call) expireGrant() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	return c.onGrant(func(g *grant) *apiError { return c.a.expireGrant(c.cz, g) })
}

func (c *call) voidGrant() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	return c.onGrant(func(g *grant) *apiError { return c.a.voidGrant(c.cz, g) })
}

// customerFilter returns the customer that a list or summary is about, nil if the
// request names none.
func (c *call) customerFilter(customerID, accountID string) (*customer, *apiError) {
	if accountID != "" {
		return nil, errNotSimulated("customers by customer_account", "customer_account")
	}
	if customerID == "" {
		return nil, nil
	}
	if cus := c.a.customers[customerID]; cus != nil && (!cus.gone || c.s.switches().DeletedCustomerLists) {
		return cus, nil
	}
	status := http.StatusBadRequest
	if c.a.customers[customerID] != nil { // deleted
		status = http.StatusNotFound
	}
	return nil, errNone(status, "customer", customerID, "customer")
}

func (c *call) listGrants() (any, *apiError) {
	g := c.paging()
	customerID, accountID := c.p.id("customer"), c.p.id("customer_account")
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	cus, e := c.customerFilter(customerID, accountID)
	if e != nil {
		return nil, e
	}
	rows := &a.grantList
	if cus != nil {
		rows = &cus.grants
	}
	return runList(c, g, listOf[*grant]{
		rows: rows, what: "credit grant", url: "/v1/billing/credit_grants", created: always, find: found(a.grants),
		render: func(v *grant, x expansion) any { return a.renderGrant(v, x) },
	})
}

func (c *call) listCreditTxns() (any, *apiError) {
	pg := c.paging()
	customerID, accountID, grantID := c.p.id("customer"), c.p.id("customer_account"), c.p.id("credit_grant")
	if customerID == "" && accountID == "" && !c.s.switches().CreditListWithoutCustomer {
		c.p.fail(errMissing("customer"))
	}
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	cus, e := c.customerFilter(customerID, accountID)
	if e != nil {
		return nil, e
	}
	rows := &a.creditList
	if cus != nil {
		rows = &cus.credits
	}
	if grantID != "" {
		g := a.grants[grantID]
		if g == nil || cus != nil && g.customer != cus {
			return nil, errNone(http.StatusBadRequest, "credit grant", grantID, "credit_grant")
		}
		rows = &g.txns
	}
	return runList(c, pg, listOf[*creditTxn]{
		// The url is Stripe's own slip: the list says it is the grants'.
		rows: rows, what: "credit balance transaction", url: "/v1/billing/credit_grants", created: always, find: found(a.credits),
		render: func(v *creditTxn, x expansion) any { return a.renderCreditTxn(v, x) },
	})
}

func (c *call) getCreditTxn() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	t := c.a.credits[c.args[0]]
	if t == nil {
		return nil, errNone(http.StatusNotFound, "credit balance transaction", c.args[0], "id")
	}
	return c.a.renderCreditTxn(t, c.x), nil
}

type summaryJSON struct {
	Object          string         `json:"object"`
	Balances        []summaryEntry `json:"balances"`
	Customer        any            `json:"customer"`
	CustomerAccount *string        `json:"customer_account"`
	Livemode        bool           `json:"livemode"`
}

type summaryEntry struct {
	AvailableBalance amountJSON `json:"available_balance"`
	LedgerBalance    amountJSON `json:"ledger_balance"`
}

func (c *call) creditSummary() (any, *apiError) {
	p := c.p
	customerID, accountID := p.id("customer"), p.id("customer_account")
	var typ, grantID, priceType string
	var prices []string
	if !p.hash("filter", func(p *params) {
		typ, _ = p.enum("type", "applicability_scope", "credit_grant")
		grantID = p.id("credit_grant")
		if p.has("applicability_scope") {
			priceType, prices = scope(p, "applicability_scope")
		}
		switch {
		case !p.has("type"):
			p.fail(errMissing("filter[type]"))
		case typ == "credit_grant" && grantID == "":
			p.fail(errMissing("filter[credit_grant]"))
		case typ == "applicability_scope" && !p.has("applicability_scope"):
			p.fail(errMissing("filter[applicability_scope]"))
		}
	}) {
		p.fail(errMissing("filter"))
	}
	if customerID == "" && accountID == "" {
		p.fail(errMissing("customer"))
	}
	if e := p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	cus, e := c.customerFilter(customerID, accountID)
	if e != nil {
		return nil, e
	}
	grants := cus.grants.rows
	if typ == "credit_grant" {
		g := a.grants[grantID]
		if g == nil || g.customer != cus {
			return nil, errNone(http.StatusBadRequest, "credit grant", grantID, "filter[credit_grant]")
		}
		grants = []*grant{g}
	} else {
		grants = slices.DeleteFunc(slices.Clone(grants), func(g *grant) bool {
			if priceType != "" {
				return g.priceType == "" && !c.s.switches().MeteredCountsPriceScoped
			}
			return !slices.ContainsFunc(g.prices, func(id string) bool { return slices.Contains(prices, id) })
		})
	}
	return summaryJSON{
		Object: "billing.credit_balance_summary", Balances: summarize(grants, cus.claimed(), cus.ledgerNow(c.cz)),
		Customer: a.customerRef(cus, c.x), Livemode: c.a.live,
	}, nil
}

// summarize adds grants up per currency. The ledger balance is what the rows say;
// the available balance leaves out what is pending, what drafts have claimed, and
// what is past its time though the ledger has yet to say so.
func summarize(grants []*grant, claimed map[*grant]int64, now int64) []summaryEntry {
	out := []summaryEntry{}
	at := map[string]int{}
	for _, g := range grants {
		i, ok := at[g.currency]
		if !ok {
			i = len(out)
			at[g.currency] = i
			out = append(out, summaryEntry{monetary(g.currency, 0), monetary(g.currency, 0)})
		}
		out[i].LedgerBalance.Monetary.Value += g.remaining
		if g.usable(now) {
			out[i].AvailableBalance.Monetary.Value += g.remaining - claimed[g]
		}
	}
	return out
}
