package stripesim

import (
	"fmt"
	"slices"
)

// The states of an invoice.
const (
	statusDraft         = "draft"
	statusOpen          = "open"
	statusPaid          = "paid"
	statusVoid          = "void"
	statusUncollectible = "uncollectible"
)

// autoFinalizeAfter is how long a draft with auto_advance stays one, in seconds.
const autoFinalizeAfter = 3600

// maxCharge is the largest amount due that can be charged, in the currency's
// smallest unit; what is above is carried over.
const maxCharge = 99_999_999

// minCharges are the smallest amounts that can be charged, by currency and in
// its smallest unit. Currencies not listed have minChargeElse.
var minCharges = map[string]int64{
	"usd": 50, "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "eur": 50,
	"gbp": 30, "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50, "pln": 200,
	"ron": 200, "sek": 300, "sgd": 50, "thb": 1000,
}

const minChargeElse = 50

func minCharge(currency string) int64 {
	if n, ok := minCharges[currency]; ok {
		return n
	}
	return minChargeElse
}

// invoice is an invoice with what the two ledgers need to know of it: what it used.
// Amounts are in the currency's smallest unit.
type invoice struct {
	node
	customer *customer
	currency string
	status   string
	lines    []*line

	number       *string
	description  *string
	footer       *string
	statement    *string
	metadata     map[string]string
	autoAdvance  bool
	collection   string // charge_automatically or send_invoice
	dueDate      *int64
	daysUntilDue *int64
	card         string // its own payment method, by its test name

	periodStart int64
	periodEnd   int64
	starting    int64 // customer balance before any of it was applied
	ending      int64 // and after
	balance     int64 // net balance applied: + credit used up, − debt taken over
	carried     int64 // too small or too large to charge: moved to the customer balance
	applied     []*creditTxn

	notes         []*creditNote
	prePayment    int64 // credit notes against what was still to be paid
	postPayment   int64 // credit notes against what had been paid
	paid          int64 // all that was paid, what was too much included
	paidElsewhere int64 // the part of paid that was out of band
	overpaid      int64
	attempts      int64

	finalizesAt     *int64
	finalizedAt     *int64
	paidAt          *int64
	voidedAt        *int64
	uncollectibleAt *int64

	// standIn: made by the control API or by traffic, which do only what an
	// invoice does to the ledgers. No invoice.* event announces it.
	standIn bool
}

// line is one invoice line item.
type line struct {
	id          string
	item        *invoiceItem // nil for a stand-in's
	amount      int64
	description *string
	metadata    map[string]string
	quantity    int64
	price       *price // nil for a plain amount
	priceID     string // also where no such price exists, on stand-ins
	metered     bool   // billing credits can be applied
	start, end  int64
	applied     []*creditTxn
}

func (inv *invoice) subtotal() int64 {
	var n int64
	for _, l := range inv.lines {
		n += l.amount
	}
	return n
}

// total is the subtotal less billing credits, which come before everything else.
func (inv *invoice) total() int64 {
	n := inv.subtotal()
	for _, t := range inv.applied {
		n -= t.value
	}
	return n
}

// due is what is to be paid in all.
func (inv *invoice) due() int64 {
	if inv.status == statusDraft {
		// A draft shows what would be due if it were finalized now.
		t := inv.total()
		return max(0, t-min(-inv.customer.end(inv.currency), t))
	}
	return max(0, inv.total()-inv.balance-inv.carried-inv.prePayment)
}

// remaining is what is still to be paid.
func (inv *invoice) remaining() int64 { return max(0, inv.due()-inv.paid) }

// invoiceRequest is a create request.
type invoiceRequest struct {
	currency     string
	description  *string
	footer       *string
	statement    *string
	number       *string
	metadata     map[string]string
	autoAdvance  bool
	collection   string
	dueDate      *int64
	daysUntilDue *int64
	card         string
	takePending  bool
}

func (a *account) createInvoice(cz cause, c *customer, r invoiceRequest) *invoice {
	now := c.ledgerNow(cz)
	inv := &invoice{
		node: node{id: a.ids.invoice(), created: cz.now}, customer: c, currency: r.currency, status: statusDraft,
		number: r.number, description: r.description, footer: r.footer, statement: r.statement, metadata: r.metadata,
		autoAdvance: r.autoAdvance, collection: r.collection, dueDate: r.dueDate, daysUntilDue: r.daysUntilDue, card: r.card,
		periodStart: now, periodEnd: now,
	}
	before := c.profile
	if c.currency == "" {
		c.currency = r.currency
		c.balance = c.end(r.currency)
	}
	a.addInvoice(c, inv)
	if r.takePending {
		for _, it := range c.items.rows {
			if !it.gone && it.line == nil && it.currency == inv.currency {
				inv.take(a, it)
			}
		}
	}
	a.planFinalize(cz, inv)
	a.emit(cz, "invoice.created", c.id, a.renderInvoice(inv, nil), nil)
	a.emitCustomerUpdated(cz, c, before, false)
	return inv
}

func (a *account) addInvoice(c *customer, inv *invoice) {
	inv.lag = a.lagFor(listInvoices, c.id)
	a.invoices[inv.id] = inv
	addTo(a, &a.invoiceList, inv)
	addTo(a, &c.invoices, inv)
}

// planFinalize notes when a draft finalizes by itself.
func (a *account) planFinalize(cz cause, inv *invoice) {
	inv.finalizesAt = nil
	if !inv.autoAdvance || inv.status != statusDraft {
		return
	}
	at := inv.customer.ledgerNow(cz) + autoFinalizeAfter
	inv.finalizesAt = &at
	a.scheduleInvoice(inv)
}

// autoFinalize finalizes a draft whose hour has passed.
func (a *account) autoFinalize(cz cause, inv *invoice, now int64) {
	if inv.gone || inv.customer.gone || inv.status != statusDraft || inv.finalizesAt == nil || *inv.finalizesAt > now {
		return
	}
	a.finalizeInvoice(cz, inv)
}

// take puts an invoice item onto the draft as a line.
func (inv *invoice) take(a *account, it *invoiceItem) *line {
	l := &line{
		id: a.ids.lineItem(), item: it, amount: it.amount, description: it.description, metadata: it.metadata,
		quantity: it.quantity, price: it.price, start: it.start, end: it.end,
	}
	if it.price != nil {
		l.priceID, l.metered = it.price.id, it.price.metered()
	}
	it.invoice, it.line = inv, l
	inv.lines = append(inv.lines, l)
	if l.metered { // the period that is billed decides which grants are in force
		inv.periodEnd = max(inv.periodEnd, l.end)
		inv.periodStart = min(inv.periodStart, l.start)
	}
	return l
}

// drop takes an item's line off the draft it is on.
func (inv *invoice) drop(it *invoiceItem) {
	inv.lines = slices.DeleteFunc(inv.lines, func(l *line) bool { return l.item == it })
	it.invoice, it.line = nil, nil
}

// finalizeInvoice applies billing credits line by line, then the customer
// balance, and carries over what cannot be charged. With nothing left to pay,
// the invoice is paid.
func (a *account) finalizeInvoice(cz cause, inv *invoice) {
	c := inv.customer
	now := c.ledgerNow(cz)
	inv.status, inv.finalizedAt, inv.finalizesAt = statusOpen, &now, nil
	inv.starting = c.end(inv.currency)
	inv.ending = inv.starting
	if inv.collection == "send_invoice" && inv.dueDate == nil && inv.daysUntilDue != nil {
		at := now + *inv.daysUntilDue*daySeconds
		inv.dueDate = &at
	}
	for _, l := range inv.lines {
		if l.metered && l.amount > 0 {
			a.applyCreditsToLine(cz, inv, l, inv.periodEnd)
		}
	}
	a.applyBalanceToInvoice(cz, inv, inv.total())
	due := inv.due()
	typ := ""
	switch {
	case due > 0 && due < minCharge(inv.currency):
		typ = "invoice_too_small"
	case due > maxCharge:
		typ = "invoice_too_large"
	}
	if typ != "" {
		t := a.changeBalance(cz, c, BalanceChange{Amount: due, Currency: inv.currency, Type: typ, Invoice: inv.id})
		inv.carried, inv.ending = due, t.ending
	}
	a.emit(cz, "invoice.finalized", c.id, a.renderInvoice(inv, nil), nil)
	a.emit(cz, "invoice.updated", c.id, a.renderInvoice(inv, nil), map[string]any{"status": statusDraft, "number": nil, "ending_balance": nil})
	switch card := inv.defaultCard(); {
	case inv.due() == 0:
		a.settleInvoice(cz, inv)
	case card != "" && inv.autoAdvance && inv.collection == "charge_automatically":
		_ = a.charge(cz, inv, card) // a decline is announced by its event
	}
}

// settleInvoice marks an open invoice as paid.
func (a *account) settleInvoice(cz cause, inv *invoice) {
	old, now := inv.status, inv.customer.ledgerNow(cz)
	inv.status, inv.paidAt = statusPaid, &now
	obj := a.renderInvoice(inv, nil)
	a.emit(cz, "invoice.updated", inv.customer.id, obj, map[string]any{"status": old})
	a.emit(cz, "invoice.paid", inv.customer.id, obj, nil)
	a.emit(cz, "invoice.payment_succeeded", inv.customer.id, obj, nil)
}

// payInvoice takes a payment. What is more than is due becomes credit.
func (a *account) payInvoice(cz cause, inv *invoice, amount int64, elsewhere bool) {
	inv.attempts++
	over := max(0, amount-inv.remaining())
	inv.paid += amount
	if elsewhere {
		inv.paidElsewhere += amount
	}
	if over > 0 {
		inv.overpaid += over
		a.changeBalance(cz, inv.customer, BalanceChange{Amount: -over, Currency: inv.currency, Type: "invoice_overpaid", Invoice: inv.id})
	}
	if inv.remaining() > 0 {
		a.emit(cz, "invoice.updated", inv.customer.id, a.renderInvoice(inv, nil), map[string]any{"amount_paid": inv.paid - amount})
		return
	}
	if inv.status != statusPaid {
		a.settleInvoice(cz, inv)
	}
	if over > 0 {
		a.emit(cz, "invoice.overpaid", inv.customer.id, a.renderInvoice(inv, nil), nil)
	}
}

func (a *account) voidInvoice(cz cause, inv *invoice) (*balanceTxn, []*creditTxn) {
	old, now := inv.status, inv.customer.ledgerNow(cz)
	inv.status, inv.voidedAt = statusVoid, &now
	t := a.unapplyBalance(cz, inv)
	rows := a.returnCredits(cz, inv)
	if !inv.standIn {
		obj := a.renderInvoice(inv, nil)
		a.emit(cz, "invoice.updated", inv.customer.id, obj, map[string]any{"status": old})
		a.emit(cz, "invoice.voided", inv.customer.id, obj, nil)
	}
	return t, rows
}

func (a *account) markUncollectible(cz cause, inv *invoice) {
	now := inv.customer.ledgerNow(cz)
	inv.status, inv.uncollectibleAt = statusUncollectible, &now
	obj := a.renderInvoice(inv, nil)
	a.emit(cz, "invoice.updated", inv.customer.id, obj, map[string]any{"status": statusOpen})
	a.emit(cz, "invoice.marked_uncollectible", inv.customer.id, obj, nil)
}

// deleteInvoice deletes a draft. Its items go with it.
func (a *account) deleteInvoice(cz cause, inv *invoice) {
	obj := a.renderInvoice(inv, nil)
	inv.gone, inv.finalizesAt = true, nil
	for _, l := range inv.lines {
		l.item.gone = true
	}
	a.emit(cz, "invoice.deleted", inv.customer.id, obj, nil)
}

// standInFor returns the stand-in invoice of that id, made on first use. An empty
// id makes a new one.
func (a *account) standInFor(cz cause, c *customer, id, currency string) (*invoice, *apiError) {
	if id == "" {
		id = a.ids.invoice()
	}
	if inv := a.invoices[id]; inv != nil {
		switch {
		case inv.customer != c:
			return nil, errRefused("invoice", "Invoice %s belongs to another customer.", id)
		case inv.currency != currency:
			return nil, errRefused("currency", "Invoice %s is in %s.", id, inv.currency)
		case !inv.standIn:
			return nil, errRefused("invoice", "Invoice %s was made over the API.", id)
		case inv.status != statusOpen:
			return nil, errRefused("invoice", "Invoice %s is void.", id)
		}
		return inv, nil
	}
	now := c.ledgerNow(cz)
	inv := &invoice{
		node: node{id: id, created: cz.now}, customer: c, currency: currency, status: statusOpen, collection: "charge_automatically",
		starting: c.end(currency), ending: c.end(currency), periodStart: now, periodEnd: now, finalizedAt: &now, standIn: true,
	}
	a.addInvoice(c, inv)
	return inv, nil
}

// standInLine adds a line to a stand-in.
func (a *account) standInLine(inv *invoice, id string, amount int64) *line {
	if id == "" {
		id = a.ids.lineItem()
	}
	l := &line{id: id, amount: amount, quantity: 1, start: inv.periodStart, end: inv.periodEnd}
	inv.lines = append(inv.lines, l)
	return l
}

// applyBalanceToInvoice does what finalizing does to the customer balance: credit
// is used up, as much as due can take, and debt is moved onto the invoice. It
// returns nil if there is no balance to move.
func (a *account) applyBalanceToInvoice(cz cause, inv *invoice, due int64) *balanceTxn {
	c := inv.customer
	before := c.profile
	if inv.number == nil { // finalizing takes the customer's next invoice number
		n := fmt.Sprintf("%s-%04d", c.invoicePrefix, c.nextInvoice)
		inv.number = &n
		c.nextInvoice++
	}
	var t *balanceTxn
	end := c.end(inv.currency)
	amount := min(-end, due) // + uses credit; − takes over debt
	if amount != 0 {
		t = a.addBalance(cz, c, BalanceChange{Amount: amount, Currency: inv.currency, Type: "applied_to_invoice", Invoice: inv.id})
		inv.balance += amount
		inv.ending = t.ending
	}
	a.emitCustomerUpdated(cz, c, before, t != nil && inv.currency != c.currency && a.s.switches().NonDefaultCurrencyEvent)
	return t
}

// applyCreditsToLine takes from the customer's usable grants, in Stripe's order,
// until the line is met; one row per grant.
func (a *account) applyCreditsToLine(cz cause, inv *invoice, l *line, periodEnd int64) []*creditTxn {
	due := l.amount
	var rows []*creditTxn
	for _, g := range usableGrants(inv.customer, inv.currency, l.priceID, periodEnd) {
		if due <= 0 {
			break
		}
		take := min(due, g.remaining)
		due -= take
		g.applied = true
		rows = append(rows, a.addCredit(cz, g, creditTxn{
			typ: "credits_applied", value: take, effectiveAt: inv.customer.ledgerNow(cz), invoice: inv.id, lineItem: l.id,
		}))
	}
	l.applied = append(l.applied, rows...)
	inv.applied = append(inv.applied, rows...)
	return rows
}

// usableGrants are the grants that can pay for a price, in the order of use.
func usableGrants(c *customer, currency, price string, periodEnd int64) []*grant {
	var usable []*grant
	for _, g := range c.grants.rows {
		if g.currency == currency && g.usable(periodEnd) && g.covers(price) {
			usable = append(usable, g)
		}
	}
	inOrderOfUse(usable)
	return usable
}

// claimed is what the customer's drafts would take from each grant if they were
// finalized now, in the order of their creation. The available balance leaves it
// out, though the ledger has yet to know of it.
func (c *customer) claimed() map[*grant]int64 {
	var out map[*grant]int64
	for _, inv := range c.invoices.rows {
		if inv.status != statusDraft || inv.gone {
			continue
		}
		for _, l := range inv.lines {
			if !l.metered {
				continue
			}
			due := l.amount
			for _, g := range usableGrants(c, inv.currency, l.priceID, inv.periodEnd) {
				take := min(due, g.remaining-out[g])
				if take <= 0 {
					continue
				}
				if out == nil {
					out = map[*grant]int64{}
				}
				out[g] += take
				due -= take
			}
		}
	}
	return out
}

// covers reports whether the scope of g takes in a price.
func (g *grant) covers(price string) bool {
	return g.priceType != "" || slices.Contains(g.prices, price)
}

// unapplyBalance gives back the customer balance that an invoice used.
func (a *account) unapplyBalance(cz cause, inv *invoice) *balanceTxn {
	if inv.balance == 0 {
		return nil
	}
	t := a.changeBalance(cz, inv.customer, BalanceChange{
		Amount: -inv.balance, Currency: inv.currency, Type: "unapplied_from_invoice", Invoice: inv.id,
	})
	inv.balance = 0
	return t
}

// returnCredits gives back the credits of a voided invoice. Credits of a grant
// whose time has passed expire again at once.
func (a *account) returnCredits(cz cause, inv *invoice) []*creditTxn {
	var rows []*creditTxn
	for _, used := range inv.applied {
		g, now := used.grant, inv.customer.ledgerNow(cz)
		rows = append(rows, a.addCredit(cz, g, creditTxn{
			credit: true, typ: "credits_application_invoice_voided", value: used.value, effectiveAt: now,
			invoice: inv.id, lineItem: used.lineItem,
		}))
		if g.expired {
			a.expireCredits(cz, g, now)
		}
	}
	return rows
}
