package stripesim

import "net/http"

// previewInvoice shows what an invoice of all pending items, and of those of the
// request, would be if it were finalized now: with the billing credits and the balance
// that would be applied. Nothing is made and no event is sent. There are no
// subscriptions here, so that a customer without items has no upcoming invoice.
func (c *call) previewInvoice() (any, *apiError) {
	p, a := c.p, c.a
	c.lock()
	defer a.mu.Unlock()
	customerID, accountID := p.id("customer"), p.id("customer_account")
	currency, _ := p.currency("currency")
	p.enum("preview_mode", "next", "recurring")
	if customerID == "" && accountID == "" {
		p.fail(errMissing("customer"))
	}
	fields, _ := p.items("invoice_items")
	var cus *customer
	if p.err == nil {
		var e *apiError
		if cus, e = c.payer(customerID, accountID); e != nil {
			p.fail(e)
			cus = nil
		}
	}
	if cus == nil {
		cus = &customer{} // to look at the rest of the parameters
	}
	if currency == "" {
		currency = cus.currency
	}
	now := cus.ledgerNow(c.cz)
	inv := &invoice{
		node: node{id: a.ids.upcoming(), created: c.cz.now}, customer: cus, status: statusDraft, collection: "charge_automatically",
		periodStart: now, periodEnd: now,
	}
	var made []*invoiceItem
	changed := map[*invoiceItem]*invoiceItem{}
	for _, f := range fields {
		f.used = true
		sub := &params{root: f}
		it := c.previewItem(sub, cus, currency, now)
		if sub.err != nil {
			p.fail(sub.err)
			continue
		}
		if currency == "" {
			currency = it.currency
		}
		if old := a.items[it.id]; old != nil {
			changed[old] = it
		} else {
			made = append(made, it)
		}
	}
	if e := p.done(); e != nil {
		return nil, e
	}
	inv.currency = currency
	var items []*invoiceItem
	for _, it := range cus.items.rows { // as createInvoice takes them
		if !it.gone && it.line == nil && it.currency == currency {
			if other := changed[it]; other != nil {
				it = other
			}
			items = append(items, it)
		}
	}
	for _, it := range append(items, made...) {
		copied := *it
		inv.take(a, &copied)
	}
	if len(inv.lines) == 0 {
		e := errNone(http.StatusNotFound, "upcoming invoice", cus.id, "")
		e.code, e.missing, e.message = "invoice_upcoming_none", "", "No upcoming invoices for customer: "+cus.id
		return nil, e
	}
	return a.renderPreview(inv, c.x), nil
}

// previewItem reads one of the items of a preview: one that it adds, or a pending one
// that it shows otherwise.
func (c *call) previewItem(p *params, cus *customer, currency string, now int64) *invoiceItem {
	it := &invoiceItem{node: node{id: c.a.ids.item(), created: c.cz.now}, customer: cus, start: now, end: now}
	at := func(name string) string { return p.root.name + "[" + name + "]" }
	p.bool("discountable")
	if own, ok := p.currency("currency"); ok {
		if currency != "" && own != currency {
			p.fail(errInvalid("", at("currency"), "The currency of the invoice item (%s) must be that of the invoice (%s).", own, currency))
		}
		currency = own
	}
	if id := p.id("invoiceitem"); id != "" {
		old := c.a.items[id]
		if old == nil || old.gone || old.line != nil || old.customer != cus {
			p.fail(errNone(http.StatusBadRequest, "pending invoice item", id, at("invoiceitem")))
			return it
		}
		*it = *old
		currency = old.currency
		if !p.has("amount") && !p.has("unit_amount") && !p.has("price") && !p.has("price_data") {
			set(&it.description, textChange(p, "description", maxText))
			it.metadata, _ = p.metadata(it.metadata)
			if n := p.number("quantity", 0, maxAmount); n != nil {
				var fits bool
				it.quantity = *n
				if it.amount, fits = times(it.unitAmount, *n); !fits {
					p.fail(errInvalid("parameter_invalid_integer", at("quantity"), "Invalid integer: amount is too large"))
				}
			}
			return it
		}
	}
	r := c.itemParams(p, currency, true)
	if r.currency == "" {
		p.fail(errMissing(at("currency")))
	}
	it.currency, it.amount, it.unitAmount, it.quantity, it.price = r.currency, r.amount, r.unitAmount, r.quantity, r.price
	if r.description != nil {
		it.description = r.description
	}
	if r.metadata != nil {
		it.metadata = r.metadata
	}
	if r.period != nil {
		it.start, it.end = r.period[0], r.period[1]
	}
	return it
}

// renderPreview shows an invoice that there is not, as finalizing would leave it.
func (a *account) renderPreview(inv *invoice, x expansion) *invoiceJSON {
	taken := map[*grant]int64{}
	for _, l := range inv.lines {
		if !l.metered {
			continue
		}
		due := l.amount
		for _, g := range usableGrants(inv.customer, inv.currency, l.priceID, inv.periodEnd) {
			take := min(due, g.remaining-taken[g])
			if take <= 0 {
				continue
			}
			due -= take
			taken[g] += take
			t := &creditTxn{grant: g, value: take} // without an id: it is not made
			l.applied, inv.applied = append(l.applied, t), append(inv.applied, t)
		}
	}
	j := a.renderInvoice(inv, x)
	for _, l := range inv.lines[len(j.Lines.Data):] { // there is no list of them
		j.Lines.Data = append(j.Lines.Data, a.renderLine(inv, l))
	}
	j.Lines.HasMore = false
	starting := inv.customer.end(inv.currency)
	ending := starting + min(-starting, inv.total())
	due := inv.due()
	if due > 0 && due < minCharge(inv.currency) || due > maxCharge { // it would be carried over
		ending += due
		due = 0
	}
	j.BillingReason, j.EndingBalance, j.AmountDue, j.AmountRemaining = "upcoming", &ending, due, due
	return j
}

// previewNote shows what a credit note would be. Nothing is made.
func (c *call) previewNote() (any, *apiError) {
	c.lock()
	defer c.a.mu.Unlock()
	n, e := c.notePreview()
	if e != nil {
		return nil, e
	}
	return c.a.renderNote(n, c.x), nil
}

func (c *call) previewNoteLines() (any, *apiError) {
	g := c.paging()
	c.lock()
	defer c.a.mu.Unlock()
	n, e := c.notePreview()
	if e != nil {
		return nil, e
	}
	return runShort(c, g, "credit note line item", "/v1/credit_notes/preview/lines", n.lines,
		func(l noteLine) string { return l.id }, func(l noteLine) any { return c.a.renderNoteLine(l) })
}

func (c *call) notePreview() (*creditNote, *apiError) {
	n, e := c.readNote()
	if e != nil {
		return nil, e
	}
	n.node = node{id: c.a.ids.note(), created: c.cz.now}
	n.number = n.invoice.nextNote()
	for i := range n.lines {
		n.lines[i].id = c.a.ids.noteLine()
	}
	if n.refund > 0 {
		n.refundID = c.a.ids.refund()
	}
	return n, nil
}
