package stripesim

import "encoding/json"

// The JSON structs keep Stripe's order of keys: id, object, then by name. A field
// of type any is an id, or the object where it was expanded.

type customerJSON struct {
	ID                   string            `json:"id"`
	Object               string            `json:"object"`
	Address              *address          `json:"address"`
	Balance              int64             `json:"balance"`
	CashBalance          any               `json:"cash_balance,omitempty"`
	Created              int64             `json:"created"`
	Currency             *string           `json:"currency"`
	CustomerAccount      *string           `json:"customer_account"`
	DefaultSource        *string           `json:"default_source"`
	Delinquent           bool              `json:"delinquent"`
	Description          *string           `json:"description"`
	Discount             *string           `json:"discount"`
	Email                *string           `json:"email"`
	InvoiceCreditBalance *map[string]int64 `json:"invoice_credit_balance,omitempty"`
	InvoicePrefix        string            `json:"invoice_prefix"`
	InvoiceSettings      invoiceSettings   `json:"invoice_settings"`
	Livemode             bool              `json:"livemode"`
	Metadata             metadataJSON      `json:"metadata"`
	Name                 *string           `json:"name"`
	NextInvoiceSequence  int64             `json:"next_invoice_sequence"`
	Phone                *string           `json:"phone"`
	PreferredLocales     []string          `json:"preferred_locales"`
	Shipping             *string           `json:"shipping"`
	Sources              *listJSON         `json:"sources,omitempty"`
	Subscriptions        *listJSON         `json:"subscriptions,omitempty"`
	Tax                  any               `json:"tax,omitempty"`
	TaxExempt            string            `json:"tax_exempt"`
	TaxIDs               *listJSON         `json:"tax_ids,omitempty"`
	TestClock            any               `json:"test_clock"`
}

type invoiceSettings struct {
	CustomFields         *string `json:"custom_fields"`
	DefaultPaymentMethod *string `json:"default_payment_method"`
	Footer               *string `json:"footer"`
	RenderingOptions     *string `json:"rendering_options"`
}

type taxJSON struct {
	AutomaticTax string  `json:"automatic_tax"`
	IPAddress    *string `json:"ip_address"`
	Location     *string `json:"location"`
	Provider     string  `json:"provider"`
}

// metadataJSON is a metadata hash; see notNil for how an empty one shows.
type metadataJSON map[string]string

// deletedJSON is the stub of a deleted object.
type deletedJSON struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Deleted bool   `json:"deleted"`
}

type listJSON struct {
	Object     string `json:"object"`
	Data       []any  `json:"data"`
	HasMore    bool   `json:"has_more"`
	TotalCount *int   `json:"total_count,omitempty"` // of the lines within an invoice
	URL        string `json:"url"`
}

type balanceTxnJSON struct {
	ID              string       `json:"id"`
	Object          string       `json:"object"`
	Amount          int64        `json:"amount"`
	CheckoutSession *string      `json:"checkout_session"`
	Created         int64        `json:"created"`
	CreditNote      any          `json:"credit_note"`
	Currency        string       `json:"currency"`
	Customer        any          `json:"customer"`
	CustomerAccount *string      `json:"customer_account"`
	Description     *string      `json:"description"`
	EndingBalance   int64        `json:"ending_balance"`
	Invoice         any          `json:"invoice"`
	Livemode        bool         `json:"livemode"`
	Metadata        metadataJSON `json:"metadata"`
	Type            string       `json:"type"`
}

type amountJSON struct {
	Monetary monetaryJSON `json:"monetary"`
	Type     string       `json:"type"`
}

type monetaryJSON struct {
	Currency string `json:"currency"`
	Value    int64  `json:"value"`
}

func monetary(currency string, value int64) amountJSON {
	return amountJSON{monetaryJSON{currency, value}, "monetary"}
}

type grantJSON struct {
	ID                  string            `json:"id"`
	Object              string            `json:"object"`
	Amount              amountJSON        `json:"amount"`
	ApplicabilityConfig applicabilityJSON `json:"applicability_config"`
	Category            string            `json:"category"`
	Created             int64             `json:"created"`
	Customer            any               `json:"customer"`
	CustomerAccount     *string           `json:"customer_account"`
	EffectiveAt         *int64            `json:"effective_at"`
	ExpiresAt           *int64            `json:"expires_at"`
	Livemode            bool              `json:"livemode"`
	Metadata            metadataJSON      `json:"metadata"`
	Name                *string           `json:"name"`
	Priority            int64             `json:"priority"`
	TestClock           any               `json:"test_clock"`
	Updated             int64             `json:"updated"`
	VoidedAt            *int64            `json:"voided_at"`
}

type applicabilityJSON struct {
	Scope scopeJSON `json:"scope"`
}

type scopeJSON struct {
	PriceType string      `json:"price_type,omitempty"`
	Prices    []priceJSON `json:"prices,omitempty"`
}

type priceJSON struct {
	ID string `json:"id"`
}

type creditTxnJSON struct {
	ID          string      `json:"id"`
	Object      string      `json:"object"`
	Created     int64       `json:"created"`
	Credit      *creditJSON `json:"credit"`
	CreditGrant any         `json:"credit_grant"`
	Debit       *debitJSON  `json:"debit"`
	EffectiveAt int64       `json:"effective_at"`
	Livemode    bool        `json:"livemode"`
	TestClock   any         `json:"test_clock"`
	Type        string      `json:"type"`
}

type creditJSON struct {
	Amount amountJSON  `json:"amount"`
	Voided *creditUsed `json:"credits_application_invoice_voided"`
	Type   string      `json:"type"`
}

type debitJSON struct {
	Amount  amountJSON  `json:"amount"`
	Applied *creditUsed `json:"credits_applied"`
	Type    string      `json:"type"`
}

type creditUsed struct {
	Invoice         any    `json:"invoice"`
	InvoiceLineItem string `json:"invoice_line_item"`
}

type clockJSON struct {
	ID            string      `json:"id"`
	Object        string      `json:"object"`
	Created       int64       `json:"created"`
	DeletesAfter  int64       `json:"deletes_after"`
	FrozenTime    int64       `json:"frozen_time"`
	Livemode      bool        `json:"livemode"`
	Name          *string     `json:"name"`
	Status        string      `json:"status"`
	StatusDetails clockStatus `json:"status_details"`
}

type clockStatus struct {
	Advancing *clockTarget `json:"advancing,omitempty"`
}

type clockTarget struct {
	TargetFrozenTime int64 `json:"target_frozen_time"`
}

func notNil(m map[string]string) metadataJSON {
	if m == nil {
		return metadataJSON{}
	}
	return m
}

func emptyList(url string) *listJSON { return &listJSON{Object: "list", Data: []any{}, URL: url} }

func (a *account) renderCustomer(c *customer, x expansion) *customerJSON {
	j := &customerJSON{
		ID: c.id, Object: "customer", Address: c.address, Balance: c.balance, Created: c.created, Currency: orNull(c.currency),
		Description: c.description, Email: c.email, InvoicePrefix: c.invoicePrefix, Livemode: a.live,
		Metadata: notNil(c.metadata), Name: c.name, NextInvoiceSequence: c.nextInvoice, Phone: c.phone,
		PreferredLocales: c.preferredLangs, TaxExempt: c.taxExempt, TestClock: a.clockRef(c.clock, x),
		InvoiceSettings: invoiceSettings{DefaultPaymentMethod: orNull(c.card)},
	}
	if j.PreferredLocales == nil {
		j.PreferredLocales = []string{}
	}
	if len(x) == 0 {
		return j
	}
	if x.has("invoice_credit_balance") {
		m := c.invoiceCreditBalance()
		j.InvoiceCreditBalance = &m
	}
	if x.has("cash_balance") { // asked for, and none: null, not absent
		j.CashBalance = json.RawMessage("null")
	}
	if x.has("tax") {
		j.Tax = taxJSON{AutomaticTax: "unrecognized_location", Provider: "stripe"}
	}
	url := "/v1/customers/" + c.id
	if x.has("sources") {
		j.Sources = emptyList(url + "/sources")
	}
	if x.has("subscriptions") {
		j.Subscriptions = emptyList("/v1/subscriptions")
	}
	if x.has("tax_ids") {
		j.TaxIDs = emptyList(url + "/tax_ids")
	}
	return j
}

// invoiceCreditBalance is positive for credit, the reverse of every other sign.
func (c *customer) invoiceCreditBalance() map[string]int64 {
	m := make(map[string]int64, len(c.ends))
	for _, e := range c.ends {
		m[e.currency] = -e.balance
	}
	return m
}

// customerRef is the customer's id, or the customer or its stub when expanded.
func (a *account) customerRef(c *customer, x expansion) any {
	sub, ok := x["customer"]
	switch {
	case !ok:
		return c.id
	case c.gone:
		return deletedJSON{c.id, "customer", true}
	}
	return a.renderCustomer(c, sub)
}

func (a *account) clockRef(k *clock, x expansion) any {
	switch {
	case k == nil:
		return nil
	case x.has("test_clock"):
		return a.renderClock(k)
	}
	return k.id
}

func (a *account) invoiceRef(id string, x expansion) any {
	if id == "" {
		return nil
	}
	sub, ok := x["invoice"]
	inv := a.invoices[id]
	if !ok || inv == nil {
		return id
	}
	return a.renderInvoice(inv, sub)
}

func (a *account) renderBalanceTxn(t *balanceTxn, x expansion) balanceTxnJSON {
	j := balanceTxnJSON{
		ID: t.id, Object: "customer_balance_transaction", Amount: t.amount, CheckoutSession: orNull(t.checkoutSession), Created: t.created,
		CreditNote: a.noteRef(t.creditNote, x), Currency: t.currency, Customer: a.customerRef(t.customer, x), Description: t.description,
		EndingBalance: t.ending, Invoice: a.invoiceRef(t.invoice, x), Livemode: a.live, Metadata: notNil(t.metadata), Type: t.typ,
	}
	if len(t.metadata) == 0 && a.s.switches().NullMetadata {
		j.Metadata = nil
	}
	return j
}

func (a *account) renderGrant(g *grant, x expansion) *grantJSON {
	scope := scopeJSON{PriceType: g.priceType}
	for _, p := range g.prices {
		scope.Prices = append(scope.Prices, priceJSON{p})
	}
	return &grantJSON{
		ID: g.id, Object: "billing.credit_grant", Amount: monetary(g.currency, g.amount), ApplicabilityConfig: applicabilityJSON{scope},
		Category: g.category, Created: g.created, Customer: a.customerRef(g.customer, x), EffectiveAt: g.effectiveAt, ExpiresAt: g.expiresAt,
		Livemode: a.live, Metadata: notNil(g.metadata), Name: g.name, Priority: g.priority,
		TestClock: a.clockRef(g.customer.clock, x), Updated: g.updated, VoidedAt: g.voidedAt,
	}
}

func (a *account) renderCreditTxn(t *creditTxn, x expansion) creditTxnJSON {
	g := t.grant
	j := creditTxnJSON{
		ID: t.id, Object: "billing.credit_balance_transaction", Created: t.created, EffectiveAt: t.effectiveAt,
		Livemode: a.live, TestClock: a.clockRef(g.customer.clock, x), CreditGrant: g.id,
	}
	if sub, ok := x["credit_grant"]; ok {
		j.CreditGrant = a.renderGrant(g, sub)
	}
	if t.credit {
		j.Type = "credit"
		j.Credit = &creditJSON{Amount: monetary(g.currency, t.value), Type: t.typ}
		if t.invoice != "" {
			j.Credit.Voided = &creditUsed{a.invoiceRef(t.invoice, x["credit"]["credits_application_invoice_voided"]), t.lineItem}
		}
		return j
	}
	j.Type = "debit"
	j.Debit = &debitJSON{Amount: monetary(g.currency, t.value), Type: t.typ}
	if t.invoice != "" {
		j.Debit.Applied = &creditUsed{a.invoiceRef(t.invoice, x["debit"]["credits_applied"]), t.lineItem}
	}
	return j
}

func (a *account) renderClock(k *clock) clockJSON {
	j := clockJSON{
		ID: k.id, Object: "test_helpers.test_clock", Created: k.created, DeletesAfter: k.deletes,
		FrozenTime: k.frozen, Livemode: a.live, Name: k.name, Status: "ready",
	}
	if k.advancing {
		j.Status = "advancing"
		j.StatusDetails.Advancing = &clockTarget{k.target}
	}
	return j
}
