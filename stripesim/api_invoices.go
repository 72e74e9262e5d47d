package stripesim

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
)

// number reads an integer within bounds.
func (p *params) number(name string, lo, hi int64) *int64 {
	n, ok := p.int(name)
	if !ok {
		return nil
	}
	switch {
	case n < lo:
		p.fail(errInvalid("parameter_invalid_integer", p.root.kids[name].name, "This value must be greater than or equal to %d.", lo))
	case n > hi:
		p.fail(errInvalid("parameter_invalid_integer", p.root.kids[name].name, "This value must be less than or equal to %d.", hi))
	}
	return &n
}

// payer returns the customer that a create request names.
func (c *call) payer(customerID, accountID string) (*customer, *apiError) {
	if accountID != "" { // no customer here is backed by an account
		return nil, errNotSimulated("customers by customer_account", "customer_account")
	}
	return c.a.living(customerID, "customer", http.StatusBadRequest)
}

// invoiceSettings reads what create and update share.
func (c *call) invoiceSettings(r *invoiceRequest) {
	p := c.p
	set(&r.description, textChange(p, "description", 1500))
	set(&r.footer, textChange(p, "footer", maxText))
	set(&r.statement, textChange(p, "statement_descriptor", 22))
	set(&r.number, textChange(p, "number", 26))
	if v, ok := p.bool("auto_advance"); ok {
		r.autoAdvance = v
	}
	if v, ok := p.enum("collection_method", "charge_automatically", "send_invoice"); ok {
		r.collection = v
	}
	if n := p.number("days_until_due", 0, 36500); n != nil {
		r.daysUntilDue = n
	}
	if n, ok := p.timestamp("due_date"); ok {
		r.dueDate = &n
	}
	set(&r.card, p.card("default_payment_method", false))
	r.metadata, _ = p.metadata(r.metadata)
}

func (r *invoiceRequest) check(p *params) {
	switch {
	case r.collection != "send_invoice" && (r.daysUntilDue != nil || r.dueDate != nil):
		name := "days_until_due"
		if r.daysUntilDue == nil {
			name = "due_date"
		}
		p.fail(errInvalid("", name, "You can only set %s if the collection method is set to send_invoice.", name))
	case r.daysUntilDue != nil && r.dueDate != nil:
		p.fail(errInvalid("", "due_date", "You may only specify one of these parameters: days_until_due, due_date."))
	case r.collection == "send_invoice" && r.daysUntilDue == nil && r.dueDate == nil:
		p.fail(errMissing("days_until_due"))
	}
}

func (c *call) createInvoice() (any, *apiError) {
	p := c.p
	r := invoiceRequest{collection: "charge_automatically"}
	customerID, accountID := p.id("customer"), p.id("customer_account")
	r.currency, _ = p.currency("currency")
	c.invoiceSettings(&r)
	if v, ok := p.enum("pending_invoice_items_behavior", "exclude", "include"); ok {
		r.takePending = v == "include"
	}
	r.check(p)
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
	if r.currency == "" {
		if r.currency = cus.currency; r.currency == "" {
			r.currency = c.s.switches().DefaultCurrency
		}
	}
	return a.renderInvoice(a.createInvoice(c.cz, cus, r), c.x), nil
}

// invoice returns the invoice that the path names.
func (c *call) invoice() (*invoice, *apiError) {
	if inv := c.a.invoices[c.args[0]]; inv != nil && !inv.gone {
		return inv, nil
	}
	return nil, errNone(http.StatusNotFound, "invoice", c.args[0], "invoice")
}

func (c *call) getInvoice() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	inv, e := c.invoice()
	if e != nil {
		return nil, e
	}
	return c.a.renderInvoice(inv, c.x), nil
}

// onInvoice runs a change of the invoice that the path names, which must be in
// one of the given states.
func (c *call) onInvoice(change func(*invoice) *apiError, states ...string) (any, *apiError) {
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	inv, e := c.invoice()
	if e != nil {
		return nil, e
	}
	if !slices.Contains(states, inv.status) {
		e := errRefused("", "You can only do this to an invoice that is %s. This invoice is %s.", oneOf(states), inv.status)
		if states[0] == statusDraft {
			e.code = "invoice_not_editable"
		}
		return nil, e
	}
	if inv.customer.gone {
		return nil, errRefused("", "The customer of this invoice has been deleted.")
	}
	if e := change(inv); e != nil {
		return nil, e
	}
	return a.renderInvoice(inv, c.x), nil
}

func oneOf(words []string) string {
	out := words[0]
	for _, w := range words[1:] {
		out += " or " + w
	}
	return out
}

func (c *call) updateInvoice() (any, *apiError) {
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	inv, e := c.invoice()
	if e != nil {
		return nil, e
	}
	r := invoiceRequest{
		description: inv.description, footer: inv.footer, statement: inv.statement, number: inv.number, metadata: inv.metadata,
		autoAdvance: inv.autoAdvance, collection: inv.collection, dueDate: inv.dueDate, daysUntilDue: inv.daysUntilDue, card: inv.card,
	}
	if c.p.has("due_date") {
		r.daysUntilDue = nil
	}
	c.invoiceSettings(&r)
	r.check(c.p)
	if e := c.p.done(); e != nil {
		return nil, e
	}
	if inv.status != statusDraft { // afterwards only what is not printed on it can change
		for _, name := range []string{"description", "footer", "statement_descriptor", "number", "collection_method", "days_until_due", "due_date"} {
			if c.p.has(name) {
				e := errRefused(name, "Finalized invoices can't be updated in this way.")
				e.code = "invoice_not_editable"
				return nil, e
			}
		}
	}
	prev := map[string]any{}
	for name, p := range map[string][2]*string{
		"description": {inv.description, r.description}, "footer": {inv.footer, r.footer},
		"number": {inv.number, r.number}, "statement_descriptor": {inv.statement, r.statement},
	} {
		if !equalPtr(p[0], p[1]) {
			prev[name] = p[0]
		}
	}
	if inv.autoAdvance != r.autoAdvance {
		prev["auto_advance"] = inv.autoAdvance
	}
	if inv.collection != r.collection {
		prev["collection_method"] = inv.collection
	}
	if !equalPtr(inv.dueDate, r.dueDate) {
		prev["due_date"] = inv.dueDate
	}
	if inv.card != r.card {
		prev["default_payment_method"] = orNull(inv.card)
	}
	if m := metadataDiff(inv.metadata, r.metadata); len(m) > 0 {
		prev["metadata"] = m
	}
	replan := inv.autoAdvance != r.autoAdvance
	inv.description, inv.footer, inv.statement, inv.number, inv.metadata = r.description, r.footer, r.statement, r.number, r.metadata
	inv.autoAdvance, inv.collection, inv.dueDate, inv.daysUntilDue, inv.card = r.autoAdvance, r.collection, r.dueDate, r.daysUntilDue, r.card
	if replan {
		a.planFinalize(c.cz, inv)
	}
	if len(prev) > 0 {
		a.emit(c.cz, "invoice.updated", inv.customer.id, a.renderInvoice(inv, nil), prev)
	}
	return a.renderInvoice(inv, c.x), nil
}

func (c *call) deleteInvoice() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	inv, e := c.invoice()
	if e != nil {
		return nil, e
	}
	if inv.status != statusDraft {
		return nil, errRefused("", "You can only delete draft invoices. To void a finalized invoice, use the void endpoint.")
	}
	a.deleteInvoice(c.cz, inv)
	return deletedJSON{inv.id, "invoice", true}, nil
}

func (c *call) finalizeInvoice() (any, *apiError) {
	advance, has := c.p.bool("auto_advance")
	if e := c.p.done(); e != nil {
		return nil, e
	}
	return c.onInvoice(func(inv *invoice) *apiError {
		if has {
			inv.autoAdvance = advance
		}
		c.a.finalizeInvoice(c.cz, inv)
		return nil
	}, statusDraft)
}

func (c *call) payInvoice() (any, *apiError) {
	p := c.p
	elsewhere, _ := p.bool("paid_out_of_band")
	forgive, _ := p.bool("forgive")
	method := p.id("payment_method")
	if method != "" {
		p.card("payment_method", false)
	}
	source := p.id("source")
	p.id("mandate")
	p.bool("off_session")
	if method != "" && source != "" {
		p.fail(errInvalid("", "source", "You may only specify one of these parameters: payment_method, source."))
	}
	if e := p.done(); e != nil {
		return nil, e
	}
	a := c.a
	return c.onInvoice(func(inv *invoice) *apiError {
		if inv.status == statusDraft {
			a.finalizeInvoice(c.cz, inv)
		}
		if inv.status == statusPaid {
			return nil
		}
		if elsewhere || forgive {
			a.payInvoice(c.cz, inv, inv.remaining(), elsewhere)
			return nil
		}
		return a.charge(c.cz, inv, cmp.Or(method, inv.defaultCard()))
	}, statusOpen, statusUncollectible, statusDraft)
}

func (c *call) voidInvoice() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	return c.onInvoice(func(inv *invoice) *apiError {
		if inv.paid > 0 {
			return errRefused("", "You cannot void an invoice that has been paid in part. Issue a credit note instead.")
		}
		c.a.voidInvoice(c.cz, inv)
		return nil
	}, statusOpen, statusUncollectible)
}

func (c *call) markUncollectible() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	return c.onInvoice(func(inv *invoice) *apiError {
		c.a.markUncollectible(c.cz, inv)
		return nil
	}, statusOpen)
}

func (c *call) listInvoices() (any, *apiError) {
	p := c.p
	g := c.paging()
	created := p.created()
	due, byDue := p.timeRange("due_date")
	customerID, accountID := p.id("customer"), p.id("customer_account")
	status, _ := p.enum("status", statusDraft, statusOpen, statusPaid, statusUncollectible, statusVoid)
	method, _ := p.enum("collection_method", "charge_automatically", "send_invoice")
	subscription := p.id("subscription")
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
	if subscription != "" {
		return nil, errNotSimulated("subscriptions", "subscription")
	}
	rows := &a.invoiceList
	if cus != nil {
		rows = &cus.invoices
	}
	return runList(c, g, listOf[*invoice]{
		rows: rows, what: "invoice", url: "/v1/invoices", created: created, find: found(a.invoices),
		match: func(v *invoice) bool {
			return (status == "" || v.status == status) && (method == "" || v.collection == method) &&
				(!byDue || v.dueDate != nil && *v.dueDate >= due.lo && *v.dueDate <= due.hi) &&
				(cus != nil || v.customer.clock == nil)
		},
		render: func(v *invoice, x expansion) any { return a.renderInvoice(v, x) },
	})
}

// runShort lists the parts of one object, which are few and keep their order.
func runShort[T any](c *call, g paging, what, url string, rows []T, id func(T) string, render func(T) any) (any, *apiError) {
	lo, hi := 0, len(rows)
	for param, cursor := range g.cursors() {
		i := slices.IndexFunc(rows, func(v T) bool { return id(v) == cursor })
		if i < 0 {
			return nil, errNone(http.StatusBadRequest, what, cursor, param)
		}
		if param == "starting_after" {
			lo = i + 1
		} else {
			hi = i
			lo = max(0, hi-g.limit)
		}
	}
	out := emptyList(url)
	if g.endingBefore != "" {
		out.HasMore = lo > 0
	} else if hi > lo+g.limit {
		out.HasMore, hi = true, lo+g.limit
	}
	for _, v := range rows[lo:hi] {
		out.Data = append(out.Data, render(v))
	}
	return out, nil
}

func (c *call) listLines() (any, *apiError) {
	g := c.paging()
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	inv, e := c.invoice()
	if e != nil {
		return nil, e
	}
	return runShort(c, g, "line item", "/v1/invoices/"+inv.id+"/lines", inv.lines,
		func(l *line) string { return l.id }, func(l *line) any { return a.renderLine(inv, l) })
}

// itemParams reads the part of an item that add_lines and invoiceitems share. flat: it is
// one of a preview, which has price and unit_amount of its own where those have pricing.
// The caller holds the account's lock, for the prices.
func (c *call) itemParams(p *params, currency string, flat bool) itemRequest {
	r := itemRequest{quantity: 1, currency: currency}
	at := func(name string) string {
		if p.root.name == "" {
			return name
		}
		return p.root.name + "[" + name + "]"
	}
	amount, hasAmount := p.amount("amount")
	hasUnit, hasQuantity := false, false
	if n := p.number("quantity", 0, maxAmount); n != nil {
		r.quantity, hasQuantity = *n, true
	}
	set(&r.description, textChange(p, "description", maxText))
	r.metadata, _ = p.metadata(nil)
	p.hash("period", func(p *params) {
		start, ok := p.timestamp("start")
		end, ok2 := p.timestamp("end")
		switch {
		case !ok:
			p.fail(errMissing(at("period") + "[start]"))
		case !ok2:
			p.fail(errMissing(at("period") + "[end]"))
		case end < start:
			p.fail(errInvalid("", at("period")+"[end]", "The period's end must not be before its start."))
		}
		r.period = &[2]int64{start, end}
	})
	ways := 0
	byPrice := func(p *params, param string) {
		id := p.id("price")
		if id == "" {
			p.fail(errMissing(param))
			return
		}
		r.price = c.a.prices[id]
		if r.price == nil {
			p.fail(errNone(http.StatusBadRequest, "price", id, param))
			return
		}
		r.unitAmount, hasUnit = r.price.unitAmount, true
		if r.currency != "" && r.currency != r.price.currency {
			p.fail(errInvalid("", param, "The price specified only supports `%s`. This doesn't match the expected currency: `%s`.", r.price.currency, r.currency))
		}
		r.currency = r.price.currency
	}
	switch {
	case flat:
		if p.has("price") {
			byPrice(p, at("price"))
			ways++
		}
		if n, ok := p.amount("unit_amount"); ok {
			r.unitAmount, hasUnit = n, true
			ways++
		}
	case p.hash("pricing", func(p *params) { byPrice(p, at("pricing")+"[price]") }):
		ways++
	}
	if p.hash("price_data", func(p *params) {
		var ok bool
		cur, hasCurrency := p.currency("currency")
		if !hasCurrency {
			p.fail(errMissing(at("price_data") + "[currency]"))
		}
		if r.currency != "" && hasCurrency && cur != r.currency {
			p.fail(errInvalid("", at("price_data")+"[currency]", "The currency of the price data doesn't match the expected currency: `%s`.", r.currency))
		}
		r.currency = cur
		if r.unitAmount, ok = p.amount("unit_amount"); !ok {
			p.fail(errMissing(at("price_data") + "[unit_amount]"))
		}
		if p.id("product") == "" {
			p.fail(errMissing(at("price_data") + "[product]"))
		}
		p.enum("tax_behavior", "exclusive", "inclusive", "unspecified")
		hasUnit = true
	}) {
		ways++
	}
	if hasAmount {
		ways++
		if hasQuantity {
			p.fail(errInvalid("", at("quantity"), "You cannot specify a quantity with an amount."))
		}
		r.amount, r.unitAmount = amount, amount
	}
	switch {
	case ways == 0:
		p.fail(errMissing(at("amount")))
	case ways > 1:
		p.fail(errInvalid("", at("amount"), "You may only specify one of these parameters: amount, pricing, price_data."))
	case hasUnit:
		var ok bool
		if r.amount, ok = times(r.unitAmount, r.quantity); !ok {
			p.fail(errInvalid("parameter_invalid_integer", at("quantity"), "Invalid integer: amount is too large"))
		}
	}
	return r
}

func (c *call) createItem() (any, *apiError) {
	p := c.p
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	customerID, accountID, invoiceID := p.id("customer"), p.id("customer_account"), p.id("invoice")
	currency, hasCurrency := p.currency("currency")
	r := c.itemParams(p, currency, false)
	p.bool("discountable")
	if customerID == "" && accountID == "" {
		p.fail(errMissing("customer"))
	}
	if e := p.done(); e != nil {
		return nil, e
	}
	cus, e := c.payer(customerID, accountID)
	if e != nil {
		return nil, e
	}
	var inv *invoice
	if invoiceID != "" {
		inv = a.invoices[invoiceID]
		switch {
		case inv == nil || inv.gone:
			return nil, errNone(http.StatusBadRequest, "invoice", invoiceID, "invoice")
		case inv.customer != cus:
			return nil, errRefused("invoice", "The invoice %s belongs to another customer.", invoiceID)
		case inv.status != statusDraft:
			e := errRefused("invoice", "The invoice %s can't be edited: it is %s.", invoiceID, inv.status)
			e.code = "invoice_not_editable"
			return nil, e
		}
	}
	if r.currency == "" {
		switch {
		case inv != nil:
			r.currency = inv.currency
		case cus.currency != "":
			r.currency = cus.currency
		case !hasCurrency:
			return nil, errMissing("currency")
		}
	}
	if inv != nil && r.currency != inv.currency {
		return nil, errRefused("currency", "The currency of the invoice item (%s) must be that of the invoice (%s).", r.currency, inv.currency)
	}
	before := cus.profile
	if cus.currency == "" {
		cus.currency = r.currency
		cus.balance = cus.end(r.currency)
	}
	it := a.createItem(c.cz, cus, inv, r)
	if inv != nil {
		a.emit(c.cz, "invoice.updated", cus.id, a.renderInvoice(inv, nil), map[string]any{"subtotal": inv.subtotal() - it.amount})
	}
	a.emitCustomerUpdated(c.cz, cus, before, false)
	return a.renderItem(it, c.x), nil
}

func (c *call) addLines() (any, *apiError) {
	return c.onInvoice(func(inv *invoice) *apiError {
		p := c.p
		items, ok := p.items("lines")
		if !ok || len(items) == 0 {
			p.fail(errMissing("lines"))
		}
		var reqs []itemRequest
		var pending []*invoiceItem
		for _, f := range items {
			f.used = true
			sub := &params{root: f}
			if id := sub.id("invoice_item"); id != "" {
				it := c.a.items[id]
				if it == nil || it.gone || it.line != nil || it.customer != inv.customer || it.currency != inv.currency || slices.Contains(pending, it) {
					sub.fail(errNone(http.StatusBadRequest, "pending invoice item", id, f.name+"[invoice_item]"))
				}
				pending = append(pending, it)
				reqs = append(reqs, itemRequest{})
			} else {
				r := c.itemParams(sub, inv.currency, false)
				sub.bool("discountable")
				pending = append(pending, nil)
				reqs = append(reqs, r)
			}
			if sub.err != nil {
				p.fail(sub.err)
			}
		}
		meta, hasMeta := p.metadataNamed("invoice_metadata", inv.metadata)
		if e := p.done(); e != nil {
			return e
		}
		before := inv.subtotal()
		for i, r := range reqs {
			if pending[i] != nil {
				inv.take(c.a, pending[i])
				continue
			}
			c.a.createItem(c.cz, inv.customer, inv, r)
		}
		if hasMeta {
			inv.metadata = meta
		}
		c.a.emit(c.cz, "invoice.updated", inv.customer.id, c.a.renderInvoice(inv, nil), map[string]any{"subtotal": before})
		return nil
	}, statusDraft)
}

// item returns the invoice item that the path names.
func (c *call) item() (*invoiceItem, *apiError) {
	if it := c.a.items[c.args[0]]; it != nil && !it.gone {
		return it, nil
	}
	return nil, errNone(http.StatusNotFound, "invoiceitem", c.args[0], "invoiceitem")
}

func (c *call) getItem() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	it, e := c.item()
	if e != nil {
		return nil, e
	}
	return c.a.renderItem(it, c.x), nil
}

func (it *invoiceItem) editable() *apiError {
	if it.invoice != nil && it.invoice.status != statusDraft {
		e := errRefused("", "You can't change an invoice item whose invoice is %s.", it.invoice.status)
		e.code = "invoice_not_editable"
		return e
	}
	return nil
}

func (c *call) updateItem() (any, *apiError) {
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	it, e := c.item()
	if e != nil {
		return nil, e
	}
	p := c.p
	var amount *int64
	if n, ok := p.amount("amount"); ok {
		amount = &n
	}
	quantity := p.number("quantity", 0, maxAmount)
	if quantity != nil {
		if _, ok := times(it.unitAmount, *quantity); !ok {
			p.fail(errInvalid("parameter_invalid_integer", "quantity", "Invalid integer: amount is too large"))
		}
		if amount != nil {
			p.fail(errInvalid("", "quantity", "You cannot specify a quantity with an amount."))
		}
	}
	description := textChange(p, "description", maxText)
	metadata, _ := p.metadata(it.metadata)
	if e := p.done(); e != nil {
		return nil, e
	}
	if e := it.editable(); e != nil {
		return nil, e
	}
	a.changeItem(it, amount, quantity, description, metadata)
	return a.renderItem(it, c.x), nil
}

func (c *call) deleteItem() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	it, e := c.item()
	if e != nil {
		return nil, e
	}
	if e := it.editable(); e != nil {
		return nil, e
	}
	a.deleteItem(c.cz, it)
	return deletedJSON{it.id, "invoiceitem", true}, nil
}

func (c *call) listItems() (any, *apiError) {
	p := c.p
	g := c.paging()
	created := p.created()
	customerID, accountID, invoiceID := p.id("customer"), p.id("customer_account"), p.id("invoice")
	pending, byPending := p.bool("pending")
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
	rows := &a.itemList
	if cus != nil {
		rows = &cus.items
	}
	return runList(c, g, listOf[*invoiceItem]{
		rows: rows, what: "invoiceitem", url: "/v1/invoiceitems", created: created, find: found(a.items),
		match: func(v *invoiceItem) bool {
			return (invoiceID == "" || v.invoice != nil && v.invoice.id == invoiceID) && (!byPending || pending == (v.invoice == nil)) &&
				(cus != nil || v.customer.clock == nil)
		},
		render: func(v *invoiceItem, x expansion) any { return a.renderItem(v, x) },
	})
}

func (c *call) createPrice() (any, *apiError) {
	p := c.p
	v := &price{intervalCount: 1}
	var has bool
	if v.currency, has = p.currency("currency"); !has {
		p.fail(errMissing("currency"))
	}
	if v.unitAmount, has = p.amount("unit_amount"); !has {
		p.fail(errMissing("unit_amount"))
	} else if v.unitAmount < 0 {
		p.fail(errInvalid("parameter_invalid_integer", "unit_amount", "This value must be greater than or equal to 0."))
	}
	v.product = p.id("product")
	if p.hash("product_data", func(p *params) {
		if p.id("name") == "" {
			p.fail(errMissing("product_data[name]"))
		}
		p.metadataHash(nil)
	}) == (v.product != "") {
		p.fail(errInvalid("parameter_missing", "product", "You must specify exactly one of product and product_data."))
	}
	if active, ok := p.bool("active"); ok {
		v.inactive = !active
	}
	p.enum("billing_scheme", "per_unit")
	set(&v.nickname, textChange(p, "nickname", maxText))
	v.metadata, _ = p.metadataHash(nil)
	p.hash("recurring", func(p *params) {
		v.usage = "licensed"
		if v.interval, has = p.enum("interval", "day", "month", "week", "year"); !has {
			p.fail(errMissing("recurring[interval]"))
		}
		if n := p.number("interval_count", 1, 1095); n != nil {
			v.intervalCount = *n
		}
		if u, ok := p.enum("usage_type", "licensed", "metered"); ok {
			v.usage = u
		}
		if id := p.id("meter"); id != "" {
			v.meter = &id
		}
		if (v.usage == "metered") != (v.meter != nil) {
			p.fail(errInvalid("parameter_missing", "recurring[meter]", "A metered price needs a meter, and no other price may have one."))
		}
	})
	if e := p.done(); e != nil {
		return nil, e
	}
	c.lock()
	defer c.a.mu.Unlock()
	c.a.createPrice(c.cz, v)
	return c.a.renderPrice(v, c.x), nil
}

func (c *call) getPrice() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	v := c.a.prices[c.args[0]]
	if v == nil {
		return nil, errNone(http.StatusNotFound, "price", c.args[0], "price")
	}
	return c.a.renderPrice(v, c.x), nil
}

func (c *call) listPrices() (any, *apiError) {
	p := c.p
	g := c.paging()
	created := p.created()
	active, byActive := p.bool("active")
	currency, _ := p.currency("currency")
	product := p.id("product")
	kind, _ := p.enum("type", "one_time", "recurring")
	if e := p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	return runList(c, g, listOf[*price]{
		rows: &a.priceList, what: "price", url: "/v1/prices", created: created, find: found(a.prices),
		match: func(v *price) bool {
			return (!byActive || active == !v.inactive) && (currency == "" || v.currency == currency) && (product == "" || v.product == product) &&
				(kind == "" || (kind == "recurring") == (v.interval != ""))
		},
		render: func(v *price, x expansion) any { return a.renderPrice(v, x) },
	})
}

// noteParams reads the lines of a credit note.
func (c *call) noteLines(inv *invoice) []noteLine {
	items, _ := c.p.items("lines")
	var out []noteLine
	for _, f := range items {
		f.used = true
		p := &params{root: f}
		at := func(name string) string { return f.name + "[" + name + "]" }
		var l noteLine
		typ, ok := p.enum("type", "custom_line_item", "invoice_line_item")
		if !ok {
			p.fail(errMissing(at("type")))
		}
		set(&l.description, textChange(p, "description", maxText))
		amount, hasAmount := p.amount("amount")
		if unit, ok := p.amount("unit_amount"); ok {
			l.unit, l.quantity = unit, 1
		}
		if n := p.number("quantity", 1, maxAmount); n != nil {
			l.quantity = *n
		}
		if id := p.id("invoice_line_item"); id != "" {
			l.invoiceLine = id
		}
		switch typ {
		case "custom_line_item":
			switch {
			case l.invoiceLine != "":
				p.fail(errInvalid("", at("invoice_line_item"), "invoice_line_item cannot be used with a custom_line_item."))
			case l.description == nil:
				p.fail(errMissing(at("description")))
			case !p.has("unit_amount"):
				p.fail(errMissing(at("unit_amount")))
			case hasAmount:
				p.fail(errInvalid("", at("amount"), "amount cannot be used with a custom_line_item."))
			default:
				var fits bool
				if l.amount, fits = times(l.unit, l.quantity); !fits || l.amount <= 0 {
					p.fail(errInvalid("parameter_invalid_integer", at("unit_amount"), "Invalid integer"))
				}
			}
		case "invoice_line_item":
			i := slices.IndexFunc(inv.lines, func(v *line) bool { return v.id == l.invoiceLine })
			switch {
			case l.invoiceLine == "":
				p.fail(errMissing(at("invoice_line_item")))
			case i < 0:
				p.fail(errNone(http.StatusBadRequest, "line item", l.invoiceLine, at("invoice_line_item")))
			case hasAmount:
				l.amount = amount
			case p.has("quantity"):
				unit := inv.lines[i].amount / max(1, inv.lines[i].quantity)
				l.unit = unit
				l.amount, _ = times(unit, l.quantity)
			default:
				p.fail(errMissing(at("amount")))
			}
			if p.err == nil && (l.amount <= 0 || l.amount > inv.lines[i].amount) {
				p.fail(errInvalid("", at("amount"), "The amount must be positive and not more than the line's."))
			}
		}
		if p.err != nil {
			c.p.fail(p.err)
		}
		out = append(out, l)
	}
	return out
}

func (c *call) createNote() (any, *apiError) {
	c.lock()
	defer c.a.mu.Unlock()
	n, e := c.readNote()
	if e != nil {
		return nil, e
	}
	c.a.createNote(c.cz, n)
	return c.a.renderNote(n, c.x), nil
}

// readNote reads and checks what a credit note is to be. The caller holds the account's
// lock.
func (c *call) readNote() (*creditNote, *apiError) {
	p, a := c.p, c.a
	id := p.id("invoice")
	if id == "" {
		p.fail(errMissing("invoice"))
	}
	inv := a.invoices[id]
	if inv == nil || inv.gone {
		p.fail(errNone(http.StatusBadRequest, "invoice", id, "invoice"))
		inv = &invoice{}
	}
	part := func(name string) int64 {
		if n := p.number(name, 0, maxAmount); n != nil {
			return *n
		}
		return 0
	}
	n := &creditNote{invoice: inv}
	n.amount, n.credit, n.refund, n.outOfBand = part("amount"), part("credit_amount"), part("refund_amount"), part("out_of_band_amount")
	n.lines = c.noteLines(inv)
	if v, ok := p.str("memo", maxText); ok {
		n.memo = orNull(v)
	}
	n.reason, _ = p.enum("reason", "duplicate", "fraudulent", "order_change", "product_unsatisfactory")
	n.metadata, _ = p.metadataHash(nil)
	p.enum("email_type", "credit_note", "none")
	n.effectiveAt = c.cz.now
	if at, ok := p.timestamp("effective_at"); ok {
		n.effectiveAt = at
	}
	var sum int64
	for _, l := range n.lines {
		sum += l.amount
	}
	switch {
	case len(n.lines) > 0 && n.amount > 0 && n.amount != sum:
		p.fail(errInvalid("", "amount", "The amount must be the sum of the lines."))
	case len(n.lines) > 0:
		n.amount = sum
	case n.amount == 0:
		n.amount = n.credit + n.refund + n.outOfBand
	}
	if e := p.done(); e != nil {
		return nil, e
	}
	switch {
	case inv.status != statusOpen && inv.status != statusPaid:
		return nil, errRefused("invoice", "You can only create credit notes for open or paid invoices. This invoice is %s.", inv.status)
	case inv.customer.gone:
		return nil, errRefused("invoice", "The customer of this invoice has been deleted.")
	case n.amount == 0:
		return nil, errMissing("amount")
	case n.amount > inv.creditable():
		return nil, errRefused("amount", "The credit note's amount (%d) is more than what is left of the invoice (%d).", n.amount, inv.creditable())
	}
	n.pre = min(n.amount, inv.remaining())
	if given := n.credit + n.refund + n.outOfBand; given != n.post() {
		return nil, errRefused("credit_amount", "The sum of credit_amount, refund_amount and out_of_band_amount (%d) must be the part of the credit note that comes after payment (%d).", given, n.post())
	}
	if n.refund > inv.paid-inv.paidElsewhere {
		return nil, errRefused("refund_amount", "The refund (%d) is more than what was paid through Stripe (%d).", n.refund, inv.paid-inv.paidElsewhere)
	}
	return n, nil
}

// note returns the credit note that the path names.
func (c *call) note() (*creditNote, *apiError) {
	if n := c.a.notes[c.args[0]]; n != nil {
		return n, nil
	}
	return nil, errNone(http.StatusNotFound, "credit note", c.args[0], "id")
}

func (c *call) getNote() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	n, e := c.note()
	if e != nil {
		return nil, e
	}
	return c.a.renderNote(n, c.x), nil
}

func (c *call) updateNote() (any, *apiError) {
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	n, e := c.note()
	if e != nil {
		return nil, e
	}
	memo := textChange(c.p, "memo", maxText)
	metadata, _ := c.p.metadataHash(n.metadata)
	if e := c.p.done(); e != nil {
		return nil, e
	}
	prev := map[string]any{}
	if memo != nil && !equalPtr(*memo, n.memo) {
		prev["memo"] = n.memo
		n.memo = *memo
	}
	if m := metadataDiff(n.metadata, metadata); len(m) > 0 {
		prev["metadata"] = m
		n.metadata = metadata
	}
	if len(prev) > 0 {
		a.emit(c.cz, "credit_note.updated", n.invoice.customer.id, a.renderNote(n, nil), prev)
	}
	return a.renderNote(n, c.x), nil
}

func (c *call) voidNote() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	n, e := c.note()
	if e != nil {
		return nil, e
	}
	switch {
	case n.voidedAt != nil:
		return nil, errRefused("", "This credit note is already void.")
	case n.invoice.status != statusOpen || n.post() > 0:
		return nil, errRefused("", "You can only void a credit note whose invoice is open.")
	}
	a.voidNote(c.cz, n)
	return a.renderNote(n, c.x), nil
}

func (c *call) listNotes() (any, *apiError) {
	p := c.p
	g := c.paging()
	created := p.created()
	customerID, accountID, invoiceID := p.id("customer"), p.id("customer_account"), p.id("invoice")
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
	if invoiceID != "" && a.invoices[invoiceID] == nil {
		return nil, errNone(http.StatusBadRequest, "invoice", invoiceID, "invoice")
	}
	return runList(c, g, listOf[*creditNote]{
		rows: &a.noteList, what: "credit note", url: "/v1/credit_notes", created: created, find: found(a.notes),
		match: func(n *creditNote) bool {
			return (cus == nil || n.invoice.customer == cus) && (invoiceID == "" || n.invoice.id == invoiceID)
		},
		render: func(n *creditNote, x expansion) any { return a.renderNote(n, x) },
	})
}

func (c *call) listNoteLines() (any, *apiError) {
	g := c.paging()
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	n, e := c.note()
	if e != nil {
		return nil, e
	}
	return runShort(c, g, "credit note line item", fmt.Sprintf("/v1/credit_notes/%s/lines", n.id), n.lines,
		func(l noteLine) string { return l.id }, func(l noteLine) any { return a.renderNoteLine(l) })
}
