package stripesim

import (
	"fmt"
	"net/http"
	"strings"
)

// testCard is one of Stripe's test payment methods. They stand for themselves: a
// customer or an invoice that has one shows it by this name, where Stripe shows a copy
// with an id of its own.
type testCard struct {
	brand, last4 string
	// code and decline are of the error with which a charge fails; empty: it does not.
	code, decline, message string
	// kept: it can be given to a customer all the same.
	kept bool
}

const declined = "Your card was declined."

var testCards = map[string]testCard{
	"pm_card_visa":                                 {brand: "visa", last4: "4242"},
	"pm_card_visa_debit":                           {brand: "visa", last4: "5556"},
	"pm_card_mastercard":                           {brand: "mastercard", last4: "4444"},
	"pm_card_amex":                                 {brand: "amex", last4: "8431"},
	"pm_card_chargeDeclined":                       {"visa", "0002", "card_declined", "generic_decline", declined, false},
	"pm_card_visa_chargeDeclined":                  {"visa", "0002", "card_declined", "generic_decline", declined, false},
	"pm_card_chargeDeclinedInsufficientFunds":      {"visa", "9995", "card_declined", "insufficient_funds", "Your card has insufficient funds.", false},
	"pm_card_visa_chargeDeclinedInsufficientFunds": {"visa", "9995", "card_declined", "insufficient_funds", "Your card has insufficient funds.", false},
	"pm_card_chargeDeclinedExpiredCard":            {"visa", "0069", "expired_card", "", "Your card has expired.", false},
	"pm_card_chargeDeclinedProcessingError": {
		"visa", "0119", "processing_error", "", "An error occurred while processing your card. Try again in a little bit.", false,
	},
	"pm_card_chargeCustomerFail": {"visa", "0341", "card_declined", "generic_decline", declined, true},
}

// refusal is Stripe's answer to a charge of a card; nil where it goes through.
func (k testCard) refusal() *apiError {
	if k.code == "" {
		return nil
	}
	return &apiError{
		status: http.StatusPaymentRequired, typ: "card_error", code: k.code, decline: k.decline, message: k.message, executed: true,
	}
}

// card reads the name of a test card. attach: it is given to a customer, for which
// Stripe tries it. "" unsets it.
func (p *params) card(name string, attach bool) *string {
	id, ok := p.str(name, maxText)
	if !ok {
		return nil
	}
	full := p.root.kids[name].name
	k, known := testCards[id]
	switch {
	case id == "":
	case !known && strings.HasPrefix(id, "pm_card_"):
		p.fail(errNotSimulated(fmt.Sprintf("the test card %.80s", id), full))
	case !known: // no payment method is made here
		p.fail(errNone(http.StatusBadRequest, "PaymentMethod", id, full))
	case attach && !k.kept:
		if e := k.refusal(); e != nil {
			p.fail(e)
		}
	}
	return &id
}

// defaultCard is what an invoice is paid with where the request names nothing.
func (inv *invoice) defaultCard() string {
	if inv.card != "" {
		return inv.card
	}
	return inv.customer.card
}

// charge pays what remains of an open invoice with a card. One that is declined leaves
// the invoice open and both ledgers as finalizing left them. Without a card it is paid.
func (a *account) charge(cz cause, inv *invoice, card string) *apiError {
	e := testCards[card].refusal()
	if e == nil {
		a.payInvoice(cz, inv, inv.remaining(), false)
		return nil
	}
	before := inv.attempts
	inv.attempts++
	prev := map[string]any{"attempt_count": before}
	if before == 0 {
		prev["attempted"] = false
	}
	obj := a.renderInvoice(inv, nil)
	a.emit(cz, "invoice.updated", inv.customer.id, obj, prev)
	a.emit(cz, "invoice.payment_failed", inv.customer.id, obj, nil)
	return e
}

type paymentMethodJSON struct {
	ID             string         `json:"id"`
	Object         string         `json:"object"`
	AllowRedisplay string         `json:"allow_redisplay"`
	BillingDetails billingDetails `json:"billing_details"`
	Card           cardJSON       `json:"card"`
	Created        int64          `json:"created"`
	Customer       *string        `json:"customer"`
	Livemode       bool           `json:"livemode"`
	Metadata       metadataJSON   `json:"metadata"`
	Type           string         `json:"type"`
}

type billingDetails struct {
	Address *address `json:"address"`
	Email   *string  `json:"email"`
	Name    *string  `json:"name"`
	Phone   *string  `json:"phone"`
	TaxID   *string  `json:"tax_id"`
}

type cardJSON struct {
	Brand    string `json:"brand"`
	Country  string `json:"country"`
	ExpMonth int64  `json:"exp_month"`
	ExpYear  int64  `json:"exp_year"`
	Funding  string `json:"funding"`
	Last4    string `json:"last4"`
}

// cardRef is an invoice's own payment method: its name, or the card where expanded.
func (a *account) cardRef(inv *invoice, x expansion) any {
	switch {
	case inv.card == "":
		return nil
	case !x.has("default_payment_method"):
		return inv.card
	}
	k := testCards[inv.card]
	return paymentMethodJSON{
		ID: inv.card, Object: "payment_method", AllowRedisplay: "unspecified", Card: cardJSON{k.brand, "US", 8, 2030, "credit", k.last4},
		Created: inv.created, Customer: &inv.customer.id, Livemode: a.live, Metadata: metadataJSON{}, Type: "card",
	}
}
