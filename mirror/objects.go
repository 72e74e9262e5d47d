package mirror

import (
	"encoding/json"
	"time"
)

// Customer holds the credit fields of a Stripe customer.
type Customer struct {
	Account string
	ID      string
	// Balance is in minor units of Currency; negative is credit, positive is owed.
	Balance int64
	// Currency is empty until Stripe has set one.
	Currency string
	// InvoiceCreditBalance has one entry per currency; positive is credit (the
	// opposite sign of Balance). Nil when it was not read.
	InvoiceCreditBalance map[string]int64
	Created              time.Time
	Livemode             bool
	TestClock            string
	CustomerAccount      string
	// Raw is what is kept of the customer's JSON: the credit fields, or the whole
	// object where the configuration asks for it.
	Raw json.RawMessage
}

// Ends are the balances that the customer object states, per currency, in the sign of
// Balance.
func (c Customer) Ends() map[string]int64 {
	ends := make(map[string]int64, len(c.InvoiceCreditBalance)+1)
	for currency, credit := range c.InvoiceCreditBalance {
		ends[currency] = -credit
	}
	if c.Currency != "" {
		ends[c.Currency] = c.Balance
	}
	return ends
}

// BalanceTransaction is one row of a customer balance: a
// customer_balance_transaction. Only Description, Metadata and what Stripe adds
// to the JSON may ever change.
type BalanceTransaction struct {
	Account  string
	ID       string
	Customer string
	// Amount is in minor units; negative is credit.
	Amount   int64
	Currency string
	// EndingBalance is the balance in Currency after this row.
	EndingBalance   int64
	Type            string
	Invoice         string
	CreditNote      string
	CheckoutSession string
	Description     string
	Metadata        json.RawMessage
	Created         time.Time
	Livemode        bool
	// Position orders the rows of one (account, customer, currency) as the chain
	// runs, from 1 at the oldest; 0 while the place is not proven.
	Position int64
	// Raw is Stripe's JSON with customer as an id. Databases that parse JSON keep its
	// numbers by value, not as they were written.
	Raw json.RawMessage
}

// Unreadable is read in the place of a grant's time that no time of Stripe's can be.
// Only SQL can have put such a value there. It differs from every time and from none,
// which would say that a grant is not voided or never expires.
var Unreadable = time.Time{}.Add(time.Microsecond)

// CreditGrant is a billing.credit_grant.
type CreditGrant struct {
	Account  string
	ID       string
	Customer string
	Name     string
	Category string
	// AmountType is "monetary" for all grants known today. For any other type
	// Amount is 0 and Currency empty; Raw has the truth.
	AmountType string
	// Amount is what was granted, in minor units; Stripe never changes it.
	Amount              int64
	Currency            string
	ApplicabilityConfig json.RawMessage
	// Priority is 0 (first) to 100; -1 where the API version has none.
	Priority int64
	// EffectiveAt, ExpiresAt and VoidedAt may be Unreadable.
	EffectiveAt time.Time
	ExpiresAt   time.Time
	VoidedAt    time.Time
	Created     time.Time
	Updated     time.Time
	Livemode    bool
	TestClock   string
	Metadata    json.RawMessage
	// Raw is Stripe's JSON with customer as an id.
	Raw json.RawMessage
}

// CreditTransaction is a billing.credit_balance_transaction: immutable, not
// chained, checked by sums per grant.
type CreditTransaction struct {
	Account string
	ID      string
	Grant   string
	// Customer is the grant's; Stripe's object has none.
	Customer string
	// Type is "credit" or "debit".
	Type       string
	CreditType string
	DebitType  string
	// Amount is signed here, in minor units: credits positive, debits negative.
	// Stripe's own amounts are always positive.
	Amount          int64
	Currency        string
	Invoice         string
	InvoiceLineItem string
	// EffectiveAt is ledger time; on a test clock it can lie far from Created.
	EffectiveAt time.Time
	Created     time.Time
	Livemode    bool
	TestClock   string
	// Raw is Stripe's JSON with credit_grant as an id.
	Raw json.RawMessage
}

// CreditBalance is one currency of a billing.credit_balance_summary, in minor
// units, positive = credit left.
type CreditBalance struct {
	Ledger    int64
	Available int64
}

// MeteredScope reports whether a grant's applicability_config covers metered
// prices as a whole (scope.price_type "metered") instead of single prices.
func MeteredScope(applicabilityConfig json.RawMessage) bool {
	var config struct {
		Scope struct {
			PriceType string `json:"price_type"`
		} `json:"scope"`
	}
	return json.Unmarshal(applicabilityConfig, &config) == nil && config.Scope.PriceType == "metered"
}
