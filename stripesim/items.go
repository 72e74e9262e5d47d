package stripesim

import "math"

// price is a price. Only metered ones, backed by a meter, can be paid for with
// billing credits.
type price struct {
	node
	currency      string
	unitAmount    int64
	product       string
	nickname      *string
	metadata      map[string]string
	inactive      bool
	interval      string // "" is one-time
	intervalCount int64
	usage         string // licensed or metered
	meter         *string
}

func (p *price) metered() bool { return p.usage == "metered" }

// invoiceItem is an invoiceitem: a line that waits for an invoice, or on one.
type invoiceItem struct {
	node
	customer    *customer
	currency    string
	amount      int64
	unitAmount  int64
	quantity    int64
	description *string
	metadata    map[string]string
	price       *price
	start, end  int64
	invoice     *invoice // nil while pending
	line        *line
}

// itemRequest is what creates an item, and each line of add_lines.
type itemRequest struct {
	amount      int64
	unitAmount  int64
	quantity    int64
	currency    string
	description *string
	metadata    map[string]string
	price       *price
	period      *[2]int64
}

func (a *account) createPrice(cz cause, p *price) {
	p.node = node{id: a.ids.price(), created: cz.now}
	if p.product == "" {
		p.product = a.ids.product()
	}
	a.prices[p.id] = p
	addTo(a, &a.priceList, p)
	a.emit(cz, "price.created", "", a.renderPrice(p, nil), nil)
}

// createItem makes an item, on inv if that is not nil.
func (a *account) createItem(cz cause, c *customer, inv *invoice, r itemRequest) *invoiceItem {
	now := c.ledgerNow(cz)
	it := &invoiceItem{
		node: node{id: a.ids.item(), created: cz.now}, customer: c, currency: r.currency, amount: r.amount, unitAmount: r.unitAmount,
		quantity: r.quantity, description: r.description, metadata: r.metadata, price: r.price, start: now, end: now,
	}
	if r.period != nil {
		it.start, it.end = r.period[0], r.period[1]
	}
	it.lag = a.lagFor(listItems, c.id)
	a.items[it.id] = it
	addTo(a, &a.itemList, it)
	addTo(a, &c.items, it)
	if inv != nil {
		inv.take(a, it)
	}
	a.emit(cz, "invoiceitem.created", c.id, a.renderItem(it, nil), nil)
	return it
}

// changeItem sets what an update may set, and the line with it.
func (a *account) changeItem(it *invoiceItem, amount, quantity *int64, description **string, metadata map[string]string) {
	set(&it.description, description)
	it.metadata = metadata
	if amount != nil {
		it.amount, it.unitAmount = *amount, *amount
		it.quantity = 1
	}
	if quantity != nil {
		it.quantity = *quantity
		it.amount = it.unitAmount * *quantity
	}
	if l := it.line; l != nil {
		l.amount, l.quantity, l.description, l.metadata = it.amount, it.quantity, it.description, it.metadata
	}
}

func (a *account) deleteItem(cz cause, it *invoiceItem) {
	last := a.renderItem(it, nil)
	if it.invoice != nil {
		it.invoice.drop(it)
	}
	it.gone = true
	a.emit(cz, "invoiceitem.deleted", it.customer.id, last, nil)
}

// times multiplies an amount by a quantity, or reports that the product is too large.
func times(amount, quantity int64) (int64, bool) {
	if quantity < 0 || amount != 0 && quantity > math.MaxInt64/max(amount, -amount) {
		return 0, false
	}
	n := amount * quantity
	return n, n <= maxAmount && n >= -maxAmount
}
