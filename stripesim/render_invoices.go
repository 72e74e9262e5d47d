package stripesim

import "strconv"

type invoiceJSON struct {
	ID                   string            `json:"id"`
	Object               string            `json:"object"`
	AccountCountry       string            `json:"account_country"`
	AccountName          *string           `json:"account_name"`
	AccountTaxIDs        []string          `json:"account_tax_ids"`
	AmountDue            int64             `json:"amount_due"`
	AmountOverpaid       int64             `json:"amount_overpaid"`
	AmountPaid           int64             `json:"amount_paid"`
	AmountPaidOffStripe  int64             `json:"amount_paid_off_stripe"`
	AmountRemaining      int64             `json:"amount_remaining"`
	AmountShipping       int64             `json:"amount_shipping"`
	Application          *string           `json:"application"`
	AttemptCount         int64             `json:"attempt_count"`
	Attempted            bool              `json:"attempted"`
	AutoAdvance          bool              `json:"auto_advance"`
	AutomaticTax         automaticTax      `json:"automatic_tax"`
	FinalizesAt          *int64            `json:"automatically_finalizes_at"`
	BillingReason        string            `json:"billing_reason"`
	CollectionMethod     string            `json:"collection_method"`
	Created              int64             `json:"created"`
	Currency             string            `json:"currency"`
	CustomFields         []string          `json:"custom_fields"`
	Customer             any               `json:"customer"`
	CustomerAccount      *string           `json:"customer_account"`
	CustomerAddress      *address          `json:"customer_address"`
	CustomerEmail        *string           `json:"customer_email"`
	CustomerName         *string           `json:"customer_name"`
	CustomerPhone        *string           `json:"customer_phone"`
	CustomerShipping     *string           `json:"customer_shipping"`
	CustomerTaxExempt    string            `json:"customer_tax_exempt"`
	CustomerTaxIDs       []string          `json:"customer_tax_ids"`
	DefaultPaymentMethod any               `json:"default_payment_method"`
	DefaultSource        *string           `json:"default_source"`
	DefaultTaxRates      []string          `json:"default_tax_rates"`
	Description          *string           `json:"description"`
	Discounts            []string          `json:"discounts"`
	DueDate              *int64            `json:"due_date"`
	EffectiveAt          *int64            `json:"effective_at"`
	EndingBalance        *int64            `json:"ending_balance"`
	Footer               *string           `json:"footer"`
	FromInvoice          *string           `json:"from_invoice"`
	HostedInvoiceURL     *string           `json:"hosted_invoice_url"`
	InvoicePDF           *string           `json:"invoice_pdf"`
	Issuer               issuerJSON        `json:"issuer"`
	LastFinalizationErr  *string           `json:"last_finalization_error"`
	LatestRevision       *string           `json:"latest_revision"`
	Lines                *listJSON         `json:"lines"`
	Livemode             bool              `json:"livemode"`
	Metadata             metadataJSON      `json:"metadata"`
	NextPaymentAttempt   *int64            `json:"next_payment_attempt"`
	Number               *string           `json:"number"`
	OnBehalfOf           *string           `json:"on_behalf_of"`
	Parent               *string           `json:"parent"`
	PaymentSettings      paymentSettings   `json:"payment_settings"`
	PeriodEnd            int64             `json:"period_end"`
	PeriodStart          int64             `json:"period_start"`
	PostPaymentCredits   int64             `json:"post_payment_credit_notes_amount"`
	PrePaymentCredits    int64             `json:"pre_payment_credit_notes_amount"`
	ReceiptNumber        *string           `json:"receipt_number"`
	Rendering            *string           `json:"rendering"`
	ShippingCost         *string           `json:"shipping_cost"`
	ShippingDetails      *string           `json:"shipping_details"`
	StartingBalance      int64             `json:"starting_balance"`
	StatementDescriptor  *string           `json:"statement_descriptor"`
	Status               string            `json:"status"`
	StatusTransitions    statusTransitions `json:"status_transitions"`
	Subtotal             int64             `json:"subtotal"`
	SubtotalExTax        int64             `json:"subtotal_excluding_tax"`
	TestClock            any               `json:"test_clock"`
	Total                int64             `json:"total"`
	TotalDiscounts       []string          `json:"total_discount_amounts"`
	TotalExTax           int64             `json:"total_excluding_tax"`
	PretaxCredits        []pretaxCredit    `json:"total_pretax_credit_amounts"`
	TotalTaxes           []string          `json:"total_taxes"`
	WebhooksDeliveredAt  *int64            `json:"webhooks_delivered_at"`
}

type automaticTax struct {
	DisabledReason *string `json:"disabled_reason"`
	Enabled        bool    `json:"enabled"`
	Liability      *string `json:"liability"`
	Provider       *string `json:"provider"`
	Status         *string `json:"status"`
}

type issuerJSON struct {
	Type string `json:"type"`
}

type paymentSettings struct {
	DefaultMandate       *string `json:"default_mandate"`
	PaymentMethodOptions *string `json:"payment_method_options"`
	PaymentMethodTypes   *string `json:"payment_method_types"`
}

type statusTransitions struct {
	FinalizedAt     *int64 `json:"finalized_at"`
	UncollectibleAt *int64 `json:"marked_uncollectible_at"`
	PaidAt          *int64 `json:"paid_at"`
	VoidedAt        *int64 `json:"voided_at"`
}

// pretaxCredit is what one credit balance transaction took off.
type pretaxCredit struct {
	Amount int64   `json:"amount"`
	Txn    *string `json:"credit_balance_transaction"` // null in a preview
	Type   string  `json:"type"`
}

type lineJSON struct {
	ID              string         `json:"id"`
	Object          string         `json:"object"`
	Amount          int64          `json:"amount"`
	Currency        string         `json:"currency"`
	Description     *string        `json:"description"`
	DiscountAmounts []string       `json:"discount_amounts"`
	Discountable    bool           `json:"discountable"`
	Discounts       []string       `json:"discounts"`
	Invoice         string         `json:"invoice"`
	Livemode        bool           `json:"livemode"`
	Metadata        metadataJSON   `json:"metadata"`
	Parent          *parentJSON    `json:"parent"`
	Period          periodJSON     `json:"period"`
	PretaxCredits   []pretaxCredit `json:"pretax_credit_amounts"`
	Pricing         *pricingJSON   `json:"pricing"`
	Quantity        int64          `json:"quantity"`
	QuantityDecimal string         `json:"quantity_decimal"`
	Subtotal        int64          `json:"subtotal"`
	Taxes           []string       `json:"taxes"`
}

type parentJSON struct {
	Item         *itemDetails `json:"invoice_item_details"`
	Subscription *string      `json:"subscription_item_details"`
	Type         string       `json:"type"`
}

type itemDetails struct {
	InvoiceItem      string           `json:"invoice_item"`
	Proration        bool             `json:"proration"`
	ProrationDetails prorationDetails `json:"proration_details"`
	Subscription     *string          `json:"subscription"`
}

// prorationDetails are there on lines that are no proration as well, as recorded.
type prorationDetails struct {
	CreditedItems *string `json:"credited_items"`
}

type periodJSON struct {
	End   int64 `json:"end"`
	Start int64 `json:"start"`
}

type pricingJSON struct {
	Price             *priceDetails `json:"price_details,omitempty"`
	Type              string        `json:"type"`
	UnitAmountDecimal string        `json:"unit_amount_decimal"`
}

type priceDetails struct {
	Price   string `json:"price"`
	Product string `json:"product"`
}

type itemJSON struct {
	ID              string       `json:"id"`
	Object          string       `json:"object"`
	Amount          int64        `json:"amount"`
	Currency        string       `json:"currency"`
	Customer        any          `json:"customer"`
	CustomerAccount *string      `json:"customer_account"`
	Date            int64        `json:"date"`
	Description     *string      `json:"description"`
	Discountable    bool         `json:"discountable"`
	Discounts       []string     `json:"discounts"`
	Invoice         any          `json:"invoice"`
	Livemode        bool         `json:"livemode"`
	Metadata        metadataJSON `json:"metadata"`
	NetAmount       int64        `json:"net_amount"`
	Parent          *string      `json:"parent"`
	Period          periodJSON   `json:"period"`
	Pricing         *pricingJSON `json:"pricing"`
	Proration       bool         `json:"proration"`
	Quantity        int64        `json:"quantity"`
	QuantityDecimal string       `json:"quantity_decimal"`
	TaxRates        []string     `json:"tax_rates"`
	TestClock       any          `json:"test_clock"`
}

type noteJSON struct {
	ID              string       `json:"id"`
	Object          string       `json:"object"`
	Amount          int64        `json:"amount"`
	AmountShipping  int64        `json:"amount_shipping"`
	Created         int64        `json:"created"`
	Currency        string       `json:"currency"`
	Customer        any          `json:"customer"`
	CustomerAccount *string      `json:"customer_account"`
	BalanceTxn      any          `json:"customer_balance_transaction"`
	DiscountAmount  int64        `json:"discount_amount"`
	DiscountAmounts []string     `json:"discount_amounts"`
	EffectiveAt     int64        `json:"effective_at"`
	Invoice         any          `json:"invoice"`
	Lines           *listJSON    `json:"lines"`
	Livemode        bool         `json:"livemode"`
	Memo            *string      `json:"memo"`
	Metadata        metadataJSON `json:"metadata"`
	Number          string       `json:"number"`
	OutOfBand       *int64       `json:"out_of_band_amount"`
	PDF             string       `json:"pdf"`
	PostPayment     int64        `json:"post_payment_amount"`
	PrePayment      int64        `json:"pre_payment_amount"`
	PretaxCredits   []string     `json:"pretax_credit_amounts"`
	Reason          *string      `json:"reason"`
	Refunds         []refundJSON `json:"refunds"`
	ShippingCost    *string      `json:"shipping_cost"`
	Status          string       `json:"status"`
	Subtotal        int64        `json:"subtotal"`
	SubtotalExTax   int64        `json:"subtotal_excluding_tax"`
	Total           int64        `json:"total"`
	TotalExTax      int64        `json:"total_excluding_tax"`
	TotalTaxes      []string     `json:"total_taxes"`
	Type            string       `json:"type"`
	VoidedAt        *int64       `json:"voided_at"`
}

type refundJSON struct {
	Amount  int64   `json:"amount_refunded"`
	Payment *string `json:"payment_record_refund"`
	Refund  string  `json:"refund"`
	Type    string  `json:"type"`
}

type noteLineJSON struct {
	ID                string       `json:"id"`
	Object            string       `json:"object"`
	Amount            int64        `json:"amount"`
	Description       *string      `json:"description"`
	DiscountAmount    int64        `json:"discount_amount"`
	DiscountAmounts   []string     `json:"discount_amounts"`
	InvoiceLineItem   string       `json:"invoice_line_item,omitempty"`
	Livemode          bool         `json:"livemode"`
	Metadata          metadataJSON `json:"metadata"`
	PretaxCredits     []string     `json:"pretax_credit_amounts"`
	Quantity          *int64       `json:"quantity"`
	TaxRates          []string     `json:"tax_rates"`
	Taxes             []string     `json:"taxes"`
	Type              string       `json:"type"`
	UnitAmount        *int64       `json:"unit_amount"`
	UnitAmountDecimal *string      `json:"unit_amount_decimal"`
}

type fullPriceJSON struct {
	ID                string         `json:"id"`
	Object            string         `json:"object"`
	Active            bool           `json:"active"`
	BillingScheme     string         `json:"billing_scheme"`
	Created           int64          `json:"created"`
	Currency          string         `json:"currency"`
	CustomUnitAmount  *string        `json:"custom_unit_amount"`
	Livemode          bool           `json:"livemode"`
	LookupKey         *string        `json:"lookup_key"`
	Metadata          metadataJSON   `json:"metadata"`
	Nickname          *string        `json:"nickname"`
	Product           string         `json:"product"`
	Recurring         *recurringJSON `json:"recurring"`
	TaxBehavior       string         `json:"tax_behavior"`
	TiersMode         *string        `json:"tiers_mode"`
	TransformQuantity *string        `json:"transform_quantity"`
	Type              string         `json:"type"`
	UnitAmount        int64          `json:"unit_amount"`
	UnitAmountDecimal string         `json:"unit_amount_decimal"`
}

type recurringJSON struct {
	Interval      string  `json:"interval"`
	IntervalCount int64   `json:"interval_count"`
	Meter         *string `json:"meter"`
	UsageType     string  `json:"usage_type"`
}

func pretaxCredits(rows []*creditTxn) []pretaxCredit {
	out := []pretaxCredit{}
	for _, t := range rows {
		out = append(out, pretaxCredit{t.value, orNull(t.id), "credit_balance_transaction"})
	}
	return out
}

// linesShown is how many lines an invoice or credit note carries; the rest are
// listed by their own endpoint.
const linesShown = 10

func firstOf[T any](url string, rows []T, render func(T) any) *listJSON {
	l := emptyList(url)
	for i, v := range rows {
		if i == linesShown {
			l.HasMore = true
			break
		}
		l.Data = append(l.Data, render(v))
	}
	return l
}

func (a *account) renderInvoice(inv *invoice, x expansion) *invoiceJSON {
	c := inv.customer
	j := &invoiceJSON{
		ID: inv.id, Object: "invoice", AccountCountry: "US", AmountDue: inv.due(), AmountOverpaid: inv.overpaid, AmountPaid: inv.paid - inv.overpaid,
		AmountPaidOffStripe: inv.paidElsewhere, AmountRemaining: inv.remaining(), AttemptCount: inv.attempts, Attempted: inv.attempts > 0,
		AutoAdvance: inv.autoAdvance, FinalizesAt: inv.finalizesAt, BillingReason: "manual", CollectionMethod: inv.collection,
		Created: inv.created, Currency: inv.currency, Customer: a.customerRef(c, x), CustomerAddress: c.address, CustomerEmail: c.email,
		CustomerName: c.name, CustomerPhone: c.phone, CustomerTaxExempt: c.taxExempt, CustomerTaxIDs: []string{}, DefaultTaxRates: []string{},
		Description: inv.description, Discounts: []string{}, DueDate: inv.dueDate, EffectiveAt: inv.finalizedAt, Footer: inv.footer,
		Issuer: issuerJSON{"self"}, Livemode: a.live, Metadata: notNil(inv.metadata), Number: inv.number,
		PeriodEnd: inv.periodEnd, PeriodStart: inv.periodStart, PostPaymentCredits: inv.postPayment, PrePaymentCredits: inv.prePayment,
		StartingBalance: inv.starting, StatementDescriptor: inv.statement, Status: inv.status,
		StatusTransitions: statusTransitions{inv.finalizedAt, inv.uncollectibleAt, inv.paidAt, inv.voidedAt},
		Subtotal:          inv.subtotal(), SubtotalExTax: inv.subtotal(), TestClock: a.clockRef(c.clock, x), Total: inv.total(), TotalExTax: inv.total(),
		TotalDiscounts: []string{}, PretaxCredits: pretaxCredits(inv.applied), TotalTaxes: []string{},
		DefaultPaymentMethod: a.cardRef(inv, x),
	}
	if inv.status == statusDraft {
		j.StartingBalance = c.end(inv.currency)
	} else {
		ending := inv.ending
		j.EndingBalance = &ending
	}
	j.Lines = firstOf("/v1/invoices/"+inv.id+"/lines", inv.lines, func(l *line) any { return a.renderLine(inv, l) })
	total := len(inv.lines)
	j.Lines.TotalCount = &total
	return j
}

func (a *account) renderLine(inv *invoice, l *line) lineJSON {
	j := lineJSON{
		ID: l.id, Object: "line_item", Amount: l.amount, Currency: inv.currency, Description: l.description, DiscountAmounts: []string{},
		Discountable: true, Discounts: []string{}, Invoice: inv.id, Livemode: a.live, Metadata: notNil(l.metadata),
		Period: periodJSON{l.end, l.start}, PretaxCredits: pretaxCredits(l.applied), Quantity: l.quantity,
		QuantityDecimal: strconv.FormatInt(l.quantity, 10), Subtotal: l.amount, Taxes: []string{},
	}
	if l.item != nil {
		j.Parent = &parentJSON{Item: &itemDetails{InvoiceItem: l.item.id}, Type: "invoice_item_details"}
		j.Pricing = pricingOf(l.item)
	}
	return j
}

func pricingOf(it *invoiceItem) *pricingJSON {
	j := &pricingJSON{Type: "price_details", UnitAmountDecimal: strconv.FormatInt(it.unitAmount, 10)}
	if it.price == nil {
		return nil
	}
	j.Price = &priceDetails{it.price.id, it.price.product}
	return j
}

func (a *account) renderItem(it *invoiceItem, x expansion) itemJSON {
	j := itemJSON{
		ID: it.id, Object: "invoiceitem", Amount: it.amount, Currency: it.currency, Customer: a.customerRef(it.customer, x), Date: it.created,
		Description: it.description, Discountable: true, Discounts: []string{}, Livemode: a.live, Metadata: notNil(it.metadata), NetAmount: it.amount,
		Period: periodJSON{it.end, it.start}, Pricing: pricingOf(it), Quantity: it.quantity, QuantityDecimal: strconv.FormatInt(it.quantity, 10),
		TaxRates: []string{}, TestClock: a.clockRef(it.customer.clock, x),
	}
	if it.invoice != nil {
		j.Invoice = a.invoiceRef(it.invoice.id, x)
	}
	return j
}

func (a *account) renderNote(n *creditNote, x expansion) *noteJSON {
	inv := n.invoice
	j := &noteJSON{
		ID: n.id, Object: "credit_note", Amount: n.amount, Created: n.created, Currency: inv.currency, Customer: a.customerRef(inv.customer, x),
		DiscountAmounts: []string{}, EffectiveAt: n.effectiveAt, Invoice: a.invoiceRef(inv.id, x), Livemode: a.live, Memo: n.memo,
		Metadata: notNil(n.metadata), Number: n.number, PDF: "https://pay.stripe.com/credit_notes/" + n.id + "/pdf",
		PostPayment: n.post(), PrePayment: n.pre, PretaxCredits: []string{}, Reason: orNull(n.reason), Refunds: []refundJSON{},
		Status: "issued", Subtotal: n.amount, SubtotalExTax: n.amount, Total: n.amount, TotalExTax: n.amount, TotalTaxes: []string{},
		Type: n.kind(), VoidedAt: n.voidedAt,
	}
	if n.voidedAt != nil {
		j.Status = "void"
	}
	if n.outOfBand > 0 {
		j.OutOfBand = &n.outOfBand
	}
	if n.refund > 0 {
		j.Refunds = append(j.Refunds, refundJSON{Amount: n.refund, Refund: n.refundID, Type: "refund"})
	}
	if n.txn != "" {
		j.BalanceTxn = n.txn
		if sub, ok := x["customer_balance_transaction"]; ok {
			j.BalanceTxn = a.renderBalanceTxn(a.txns[n.txn], sub)
		}
	}
	j.Lines = firstOf("/v1/credit_notes/"+n.id+"/lines", n.lines, func(l noteLine) any { return a.renderNoteLine(l) })
	return j
}

func (a *account) renderNoteLine(l noteLine) noteLineJSON {
	j := noteLineJSON{
		ID: l.id, Object: "credit_note_line_item", Amount: l.amount, Description: l.description, DiscountAmounts: []string{},
		InvoiceLineItem: l.invoiceLine, Livemode: a.live, Metadata: metadataJSON{}, PretaxCredits: []string{}, TaxRates: []string{}, Taxes: []string{},
		Type: "custom_line_item",
	}
	if l.invoiceLine != "" {
		j.Type = "invoice_line_item"
	}
	if l.quantity > 0 {
		unit, text := l.unit, strconv.FormatInt(l.unit, 10)
		j.Quantity, j.UnitAmount, j.UnitAmountDecimal = &l.quantity, &unit, &text
	}
	return j
}

func (a *account) noteRef(id string, x expansion) any {
	if id == "" {
		return nil
	}
	sub, ok := x["credit_note"]
	n := a.notes[id]
	if !ok || n == nil {
		return id
	}
	return a.renderNote(n, sub)
}

func (a *account) renderPrice(p *price, _ expansion) fullPriceJSON {
	j := fullPriceJSON{
		ID: p.id, Object: "price", Active: !p.inactive, BillingScheme: "per_unit", Created: p.created, Currency: p.currency, Livemode: a.live,
		Metadata: notNil(p.metadata), Nickname: p.nickname, Product: p.product, TaxBehavior: "unspecified", Type: "one_time",
		UnitAmount: p.unitAmount, UnitAmountDecimal: strconv.FormatInt(p.unitAmount, 10),
	}
	if p.interval != "" {
		j.Type = "recurring"
		j.Recurring = &recurringJSON{Interval: p.interval, IntervalCount: p.intervalCount, Meter: p.meter, UsageType: p.usage}
	}
	return j
}
