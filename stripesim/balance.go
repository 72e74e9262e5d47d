package stripesim

// BalanceTypes are the types that a customer balance transaction can have.
var BalanceTypes = []string{
	"adjustment", "applied_to_invoice", "checkout_session_subscription_payment", "checkout_session_subscription_payment_canceled",
	"credit_note", "initial", "invoice_overpaid", "invoice_too_large", "invoice_too_small", "migration",
	"unapplied_from_invoice", "unspent_receiver_credit",
}

// BalanceChange is one customer balance transaction to be made.
type BalanceChange struct {
	// Amount is in the currency's smallest unit; negative is credit to the customer.
	Amount int64 `json:"amount"`
	// Currency is a lower-case ISO code.
	Currency string `json:"currency"`
	// Type is one of BalanceTypes, or any other, as a newer API version might have.
	// Defaults to "adjustment".
	Type        string            `json:"type"`
	Description *string           `json:"description"`
	Metadata    map[string]string `json:"metadata"`
	// Invoice, CreditNote and CheckoutSession are ids that the transaction shows.
	Invoice         string `json:"invoice"`
	CreditNote      string `json:"credit_note"`
	CheckoutSession string `json:"checkout_session"`
}

// balanceTxn is a customer_balance_transaction. Only description and metadata
// ever change.
type balanceTxn struct {
	node
	customer        *customer
	amount          int64
	ending          int64
	currency        string
	typ             string
	description     *string
	metadata        map[string]string
	invoice         string
	creditNote      string
	checkoutSession string
}

// addBalance appends to the chain of one currency and keeps customer.balance in
// step. It sends no event: callers may change more than this at once.
func (a *account) addBalance(cz cause, c *customer, ch BalanceChange) *balanceTxn {
	t := &balanceTxn{
		node: node{id: a.ids.balanceTxn(), created: cz.now}, customer: c,
		amount: ch.Amount, ending: c.end(ch.Currency) + ch.Amount, currency: ch.Currency, typ: ch.Type,
		description: ch.Description, metadata: ch.Metadata,
		invoice: ch.Invoice, creditNote: ch.CreditNote, checkoutSession: ch.CheckoutSession,
	}
	t.lag = a.lagFor(listBalanceTxns, c.id)
	c.setEnd(t.currency, t.ending)
	if c.currency == "" {
		c.currency = t.currency
	}
	if c.currency == t.currency {
		c.balance = t.ending
	}
	a.txns[t.id] = t
	addTo(a, &c.txns, t)
	a.logAmount(cz, "balance_transaction.created", t.id, c.id, t.typ, t.amount, t.currency)
	return t
}

// changeBalance makes one transaction and the event that goes with it.
func (a *account) changeBalance(cz cause, c *customer, ch BalanceChange) *balanceTxn {
	before := c.profile
	t := a.addBalance(cz, c, ch)
	force := t.currency != c.currency && a.s.switches().NonDefaultCurrencyEvent
	a.emitCustomerUpdated(cz, c, before, force)
	return t
}

// editBalanceTxn changes what can be changed. No event announces it.
func (a *account) editBalanceTxn(cz cause, t *balanceTxn, description **string, metadata map[string]string) {
	set(&t.description, description)
	t.metadata = metadata
	a.log(cz, "balance_transaction.edited", t.id, t.customer.id, "")
}
