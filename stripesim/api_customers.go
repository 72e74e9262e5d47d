package stripesim

import (
	"cmp"
	"net/http"
	"slices"
)

const (
	maxText        = 5000
	maxDescription = 350
)

// textChange reads a string that "" unsets.
func textChange(p *params, name string, limit int) **string {
	v, ok := p.str(name, limit)
	if !ok {
		return nil
	}
	s := orNull(v)
	return &s
}

func (c *call) customerChange(old map[string]string) customerChange {
	p := c.p
	ch := customerChange{
		email: textChange(p, "email", 512), name: textChange(p, "name", 256),
		description: textChange(p, "description", maxText), phone: textChange(p, "phone", 20),
	}
	if n, ok := p.amount("balance"); ok {
		ch.balance = &n
	}
	if v, ok := p.enum("tax_exempt", "none", "exempt", "reverse"); ok {
		ch.taxExempt = &v
	}
	if v, ok := p.str("invoice_prefix", 12); ok {
		ch.prefix = &v
	}
	if n, ok := p.int("next_invoice_sequence"); ok {
		ch.nextInvoice = &n
	}
	if m, ok := p.metadata(old); ok {
		ch.metadata = &m
	}
	if v, ok := p.strs("preferred_locales"); ok {
		ch.langs = &v
	}
	p.hash("invoice_settings", func(p *params) { ch.card = p.card("default_payment_method", true) })
	if f := p.root.kids["address"]; f != nil && f.leaf && f.val == "" {
		f.used = true
		ch.address = new(*address)
	} else {
		var ad address
		if p.hash("address", func(p *params) {
			set(&ad.City, textChange(p, "city", maxText))
			set(&ad.Country, textChange(p, "country", maxText))
			set(&ad.Line1, textChange(p, "line1", maxText))
			set(&ad.Line2, textChange(p, "line2", maxText))
			set(&ad.PostalCode, textChange(p, "postal_code", maxText))
			set(&ad.State, textChange(p, "state", maxText))
		}) {
			at := &ad
			ch.address = &at
		}
	}
	return ch
}

func (c *call) createCustomer() (any, *apiError) {
	ch := c.customerChange(nil)
	c.p.card("payment_method", true) // a customer's cards show as the default one alone
	clockID := c.p.id("test_clock")
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	var k *clock
	if clockID != "" {
		if k = a.clocks[clockID]; k == nil || k.gone {
			return nil, errNone(http.StatusBadRequest, "test clock", clockID, "test_clock")
		}
	}
	return a.renderCustomer(a.createCustomer(c.cz, ch, k), c.x), nil
}

func (c *call) getCustomer() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	cus := a.customers[c.args[0]]
	switch {
	case cus == nil:
		return nil, errNone(http.StatusNotFound, "customer", c.args[0], "id")
	case cus.gone:
		return deletedJSON{cus.id, "customer", true}, nil
	}
	return a.renderCustomer(cus, c.x), nil
}

func (c *call) updateCustomer() (any, *apiError) {
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	status := http.StatusNotFound
	if cus := a.customers[c.args[0]]; cus != nil && cus.gone {
		status = http.StatusBadRequest
	}
	cus, e := a.living(c.args[0], "id", status)
	if e != nil {
		return nil, e
	}
	ch := c.customerChange(cus.metadata)
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a.updateCustomer(c.cz, cus, ch)
	return a.renderCustomer(cus, c.x), nil
}

func (c *call) deleteCustomer() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	cus, e := a.living(c.args[0], "id", http.StatusNotFound)
	if e != nil {
		return nil, e
	}
	a.deleteCustomer(c.cz, cus, true)
	return deletedJSON{cus.id, "customer", true}, nil
}

// customerRow stands for a customer in the short list of those with one e-mail
// address, where it has a position of its own.
type customerRow struct {
	node
	c *customer
}

func (c *call) listCustomers() (any, *apiError) {
	g := c.paging()
	created := c.p.created()
	email, byEmail := c.p.str("email", 512)
	clockID := c.p.id("test_clock")
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	rows := &a.customerList
	var k *clock
	if clockID != "" {
		if k = a.clocks[clockID]; k == nil || k.gone {
			return nil, errNone(http.StatusBadRequest, "test clock", clockID, "test_clock")
		}
		rows = &k.customers
	}
	if !byEmail {
		return runList(c, g, listOf[*customer]{
			rows: rows, what: "customer", url: "/v1/customers", created: created, find: found(a.customers),
			render: func(v *customer, x expansion) any { return a.renderCustomer(v, x) },
		})
	}
	same := slices.DeleteFunc(slices.Clone(a.byEmail[email]), func(v *customer) bool { return v.clock != k })
	slices.SortFunc(same, func(x, y *customer) int { return cmp.Compare(x.pos[rows.slot], y.pos[rows.slot]) })
	short := ordered[*customerRow]{slot: slotOwner}
	for i, v := range same {
		short.rows = append(short.rows, &customerRow{node{id: v.id, created: v.created, pos: [slots]int32{int32(i)}, lag: v.lag}, v})
	}
	return runList(c, g, listOf[*customerRow]{
		rows: &short, what: "customer", url: "/v1/customers", created: created,
		find: func(id string) (*customerRow, bool) {
			i := slices.IndexFunc(short.rows, func(r *customerRow) bool { return r.id == id })
			if i < 0 {
				return nil, false
			}
			return short.rows[i], true
		},
		render: func(v *customerRow, x expansion) any { return a.renderCustomer(v.c, x) },
	})
}

// owner returns the customer of a nested path for reading.
func (c *call) owner() (*customer, *apiError) {
	if cus := c.a.customers[c.args[0]]; cus != nil && (!cus.gone || c.s.switches().DeletedCustomerLists) {
		return cus, nil
	}
	return nil, errNone(http.StatusNotFound, "customer", c.args[0], "customer")
}

// cursorTxn is what Stripe calls a balance transaction that a cursor names.
const cursorTxn = "abstracttransaction"

func (c *call) listBalanceTxns() (any, *apiError) {
	g := c.paging()
	created := c.p.created()
	invoiceID := c.p.id("invoice")
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	for param, id := range g.cursors() { // looked up before the customer of the path
		if a.txns[id] == nil {
			return nil, errNone(http.StatusBadRequest, cursorTxn, id, param)
		}
	}
	cus, e := c.owner()
	if e != nil {
		return nil, e
	}
	l := listOf[*balanceTxn]{
		rows: &cus.txns, what: "customer balance transaction", cursor: cursorTxn, url: "/v1/customers/" + cus.id + "/balance_transactions",
		created: created, find: found(a.txns),
		render: func(t *balanceTxn, x expansion) any { return a.renderBalanceTxn(t, x) },
	}
	if invoiceID != "" {
		l.match = func(t *balanceTxn) bool { return t.invoice == invoiceID }
	}
	return runList(c, g, l)
}

func (c *call) createBalanceTxn() (any, *apiError) {
	p := c.p
	amount, hasAmount := p.amount("amount")
	currency, hasCurrency := p.currency("currency")
	ch := BalanceChange{Amount: amount, Currency: currency, Type: "adjustment"}
	set(&ch.Description, textChange(p, "description", maxDescription))
	ch.Metadata, _ = p.metadata(nil)
	switch {
	case !hasAmount:
		p.fail(errMissing("amount"))
	case amount == 0:
		p.fail(errInvalid("parameter_invalid_integer", "amount", "Invalid integer: amount must not be zero"))
	}
	if !hasCurrency {
		p.fail(errMissing("currency"))
	}
	if e := p.done(); e != nil {
		return nil, e
	}
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	cus, e := a.living(c.args[0], "customer", http.StatusNotFound)
	if e != nil {
		return nil, e
	}
	return a.renderBalanceTxn(a.changeBalance(c.cz, cus, ch), c.x), nil
}

// balanceTxn returns the transaction that the path names.
func (c *call) balanceTxn(cus *customer) (*balanceTxn, *apiError) {
	t := c.a.txns[c.args[1]]
	if t == nil || t.customer != cus {
		return nil, errNone(http.StatusNotFound, "customer balance transaction", c.args[1], "transaction")
	}
	return t, nil
}

func (c *call) getBalanceTxn() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	cus, e := c.owner()
	if e != nil {
		return nil, e
	}
	t, e := c.balanceTxn(cus)
	if e != nil {
		return nil, e
	}
	return a.renderBalanceTxn(t, c.x), nil
}

func (c *call) updateBalanceTxn() (any, *apiError) {
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	cus, e := a.living(c.args[0], "customer", http.StatusNotFound)
	if e != nil {
		return nil, e
	}
	t, e := c.balanceTxn(cus)
	if e != nil {
		return nil, e
	}
	description := textChange(c.p, "description", maxDescription)
	metadata, _ := c.p.metadata(t.metadata)
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a.editBalanceTxn(c.cz, t, description, metadata)
	return a.renderBalanceTxn(t, c.x), nil
}
