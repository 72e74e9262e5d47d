package stripesim

import (
	"maps"
	"slices"
	"strings"
)

// profile is what of a customer can change and shows in customer.updated. It is
// copied to remember the state before a change; metadata is never changed in
// place.
type profile struct {
	balance        int64
	currency       string // "" until first set
	email          *string
	name           *string
	description    *string
	phone          *string
	taxExempt      string
	invoicePrefix  string
	nextInvoice    int64
	metadata       map[string]string
	address        *address
	preferredLangs []string
	card           string // the default payment method, by its test name
}

type address struct {
	City       *string `json:"city"`
	Country    *string `json:"country"`
	Line1      *string `json:"line1"`
	Line2      *string `json:"line2"`
	PostalCode *string `json:"postal_code"`
	State      *string `json:"state"`
}

type customer struct {
	node
	profile
	clock    *clock
	ends     []currencyBalance // per currency, in order of first use
	txns     ordered[*balanceTxn]
	grants   ordered[*grant]
	credits  ordered[*creditTxn]
	invoices ordered[*invoice]
	items    ordered[*invoiceItem]
	unused   int // grants that count towards the limit of 100
}

type currencyBalance struct {
	currency string
	balance  int64
}

// end returns where the chain of a currency ends.
func (c *customer) end(currency string) int64 {
	for _, e := range c.ends {
		if e.currency == currency {
			return e.balance
		}
	}
	return 0
}

func (c *customer) setEnd(currency string, balance int64) {
	for i := range c.ends {
		if c.ends[i].currency == currency {
			c.ends[i].balance = balance
			return
		}
	}
	c.ends = append(c.ends, currencyBalance{currency, balance})
}

// ledgerNow is the time that the customer's billing credits live in.
func (c *customer) ledgerNow(cz cause) int64 {
	if c.clock != nil {
		return c.clock.frozen
	}
	return cz.now
}

// customerChange is a create or update request; nil means leave as it is.
type customerChange struct {
	balance     *int64
	email       **string
	name        **string
	description **string
	phone       **string
	taxExempt   *string
	prefix      *string
	nextInvoice *int64
	metadata    *map[string]string
	address     **address
	langs       *[]string
	card        *string
}

func (ch customerChange) apply(p *profile) {
	set(&p.email, ch.email)
	set(&p.name, ch.name)
	set(&p.description, ch.description)
	set(&p.phone, ch.phone)
	set(&p.taxExempt, ch.taxExempt)
	set(&p.invoicePrefix, ch.prefix)
	set(&p.nextInvoice, ch.nextInvoice)
	set(&p.metadata, ch.metadata)
	set(&p.address, ch.address)
	set(&p.preferredLangs, ch.langs)
	set(&p.card, ch.card)
}

func set[T any](dst, src *T) {
	if src != nil {
		*dst = *src
	}
}

func (a *account) createCustomer(cz cause, ch customerChange, clk *clock) *customer {
	c := &customer{
		node: node{id: a.ids.customer(), created: cz.now}, clock: clk,
		txns: ordered[*balanceTxn]{slot: slotOwner}, grants: ordered[*grant]{slot: slotOwner}, credits: ordered[*creditTxn]{slot: slotOwner},
		invoices: ordered[*invoice]{slot: slotOwner}, items: ordered[*invoiceItem]{slot: slotOwner},
	}
	c.taxExempt, c.nextInvoice = "none", 1
	c.invoicePrefix = strings.ToUpper(c.id[len(c.id)-8:])
	ch.apply(&c.profile)
	c.lag = a.lagFor(listCustomers, c.id)
	a.customers[c.id] = c
	if clk != nil {
		addTo(a, &clk.customers, c)
	} else {
		addTo(a, &a.customerList, c)
	}
	a.indexEmail(nil, c.email, c)
	if ch.balance != nil && *ch.balance != 0 {
		a.addBalance(cz, c, BalanceChange{Amount: *ch.balance, Currency: a.s.switches().DefaultCurrency, Type: "initial"})
	}
	a.log(cz, "customer.created", c.id, c.id, "")
	a.emit(cz, "customer.created", c.id, a.renderCustomer(c, nil), nil)
	return c
}

func (a *account) indexEmail(old, now *string, c *customer) {
	if old != nil {
		l := slices.DeleteFunc(a.byEmail[*old], func(o *customer) bool { return o == c })
		if len(l) == 0 {
			delete(a.byEmail, *old)
		} else {
			a.byEmail[*old] = l
		}
	}
	if now != nil {
		a.byEmail[*now] = append(a.byEmail[*now], c)
	}
}

func (a *account) updateCustomer(cz cause, c *customer, ch customerChange) {
	before := c.profile
	ch.apply(&c.profile)
	if !equalPtr(before.email, c.email) {
		a.indexEmail(before.email, c.email, c)
	}
	if ch.balance != nil {
		currency := c.currency
		if currency == "" {
			currency = a.s.switches().DefaultCurrency
		}
		if diff := *ch.balance - c.end(currency); diff != 0 {
			a.addBalance(cz, c, BalanceChange{Amount: diff, Currency: currency, Type: "adjustment"})
		}
	}
	a.log(cz, "customer.changed", c.id, c.id, "")
	a.emitCustomerUpdated(cz, c, before, false)
}

func equalPtr[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// emitCustomerUpdated sends customer.updated with what differs from before; with
// nothing that differs, only when forced.
func (a *account) emitCustomerUpdated(cz cause, c *customer, before profile, force bool) {
	if cz.silent {
		return
	}
	prev := map[string]any{}
	now := c.profile
	if before.balance != now.balance {
		prev["balance"] = before.balance
	}
	if before.currency != now.currency {
		prev["currency"] = orNull(before.currency)
	}
	for name, p := range map[string][2]*string{
		"email": {before.email, now.email}, "name": {before.name, now.name},
		"description": {before.description, now.description}, "phone": {before.phone, now.phone},
	} {
		if !equalPtr(p[0], p[1]) {
			prev[name] = p[0]
		}
	}
	if before.taxExempt != now.taxExempt {
		prev["tax_exempt"] = before.taxExempt
	}
	if before.invoicePrefix != now.invoicePrefix {
		prev["invoice_prefix"] = before.invoicePrefix
	}
	if before.nextInvoice != now.nextInvoice {
		prev["next_invoice_sequence"] = before.nextInvoice
	}
	if (before.address == nil) != (now.address == nil) || before.address != nil && !equalAddress(*before.address, *now.address) {
		prev["address"] = before.address
	}
	if !slices.Equal(before.preferredLangs, now.preferredLangs) {
		prev["preferred_locales"] = before.preferredLangs
	}
	if m := metadataDiff(before.metadata, now.metadata); len(m) > 0 {
		prev["metadata"] = m
	}
	if before.card != now.card {
		prev["invoice_settings"] = map[string]any{"default_payment_method": orNull(before.card)}
	}
	if len(prev) > 0 || force {
		a.emit(cz, "customer.updated", c.id, a.renderCustomer(c, nil), prev)
	}
}

func equalAddress(a, b address) bool {
	return equalPtr(a.City, b.City) && equalPtr(a.Country, b.Country) && equalPtr(a.Line1, b.Line1) &&
		equalPtr(a.Line2, b.Line2) && equalPtr(a.PostalCode, b.PostalCode) && equalPtr(a.State, b.State)
}

// metadataDiff returns the old values of the keys that changed, null for new ones.
func metadataDiff(before, now map[string]string) map[string]any {
	if maps.Equal(before, now) {
		return nil
	}
	out := map[string]any{}
	for k, v := range before {
		if n, ok := now[k]; !ok || n != v {
			out[k] = v
		}
	}
	for k := range now {
		if _, ok := before[k]; !ok {
			out[k] = nil
		}
	}
	return out
}

func (a *account) deleteCustomer(cz cause, c *customer, announce bool) {
	last := a.renderCustomer(c, nil)
	c.gone = true
	a.indexEmail(c.email, nil, c)
	a.log(cz, "customer.deleted", c.id, c.id, "")
	if announce {
		a.emit(cz, "customer.deleted", c.id, last, nil)
	}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
