package stripesim

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What the balance does not cover is paid by card. One that is declined leaves the
// invoice open, and both ledgers as finalizing left them.
func TestCardsPayWhatTheBalanceDoesNotCover(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Switches: Switches{SameSecondOrder: OrderDescending}})
	cus := s.customer("balance=-300")
	s.grant(cus, 100)
	id := s.use(cus, s.metered(), 1000)
	s.post("/v1/invoices/" + id + "/finalize")
	for card, want := range map[string][3]string{
		"pm_card_chargeDeclined":                  {"card_declined", "generic_decline", "Your card was declined."},
		"pm_card_chargeDeclinedInsufficientFunds": {"card_declined", "insufficient_funds", "Your card has insufficient funds."},
		"pm_card_chargeDeclinedExpiredCard":       {"expired_card", "", "Your card has expired."},
		"pm_card_chargeCustomerFail":              {"card_declined", "generic_decline", "Your card was declined."},
	} {
		r := s.do("POST", "/v1/invoices/"+id+"/pay", "payment_method="+card)
		wantError(t, r, 402, want[0], "")
		equal(t, card+" type", r.str("error.type"), "card_error")
		equal(t, card+" decline", r.str("error.decline_code"), want[1])
		equal(t, card+" message", r.str("error.message"), want[2])
	}
	inv := s.get("/v1/invoices/" + id)
	equal(t, "status", inv.str("status"), "open")
	equal(t, "due", inv.num("amount_due"), 600)
	equal(t, "remaining", inv.num("amount_remaining"), 600)
	equal(t, "attempts", inv.num("attempt_count"), 4)
	equal(t, "rows", s.txnTypes(cus), "initial-300 applied_to_invoice+300")
	wantBalances(t, s, cus, 0, 0)
	failed := s.get("/v1/events", "type=invoice.payment_failed").data()
	equal(t, "events", len(failed), 4)
	attempts, first := 0, 0
	for _, e := range s.get("/v1/events", "type=invoice.updated").data() {
		prev := e["data"].(obj)["previous_attributes"].(obj)
		if _, ok := prev["attempt_count"]; ok {
			attempts++
		}
		if _, ok := prev["attempted"]; ok {
			first++
		}
	}
	equal(t, "attempts and the first of them", fmt.Sprint(attempts, first), "4 1")

	inv = s.post("/v1/invoices/"+id+"/pay", "payment_method=pm_card_visa")
	equal(t, "status", inv.str("status"), "paid")
	equal(t, "paid", inv.num("amount_paid"), 600)
	equal(t, "rows", s.txnTypes(cus), "initial-300 applied_to_invoice+300")

	wantError(t, s.do("POST", "/v1/invoices/"+id+"/pay", "payment_method=pm_none"), 400, "resource_missing", "payment_method")
	unknown := s.do("POST", "/v1/invoices/"+id+"/pay", "payment_method=pm_card_moon")
	if unknown.status != 400 || !strings.HasPrefix(unknown.str("error.message"), "not simulated: ") {
		t.Errorf("%d %s", unknown.status, unknown.raw)
	}
}

func TestCardsOfCustomersAndInvoices(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	declining := s.customer("payment_method=pm_card_chargeCustomerFail", "invoice_settings[default_payment_method]=pm_card_chargeCustomerFail")
	equal(t, "shown", s.get("/v1/customers/"+declining).str("invoice_settings.default_payment_method"), "pm_card_chargeCustomerFail")
	open := func(cus string) string {
		id := s.draft(cus, 900)
		s.post("/v1/invoices/" + id + "/finalize")
		return id
	}
	id := open(declining)
	wantError(t, s.do("POST", "/v1/invoices/"+id+"/pay"), 402, "card_declined", "")
	equal(t, "out of band", s.post("/v1/invoices/"+id+"/pay", "paid_out_of_band=true").str("status"), "paid")

	id = open(declining)
	equal(t, "its own", s.post("/v1/invoices/"+id, "default_payment_method=pm_card_visa").str("default_payment_method"), "pm_card_visa")
	expanded := s.get("/v1/invoices/"+id, "expand[]=default_payment_method")
	equal(t, "expanded", expanded.str("default_payment_method.card.last4"), "4242")
	equal(t, "paid", s.post("/v1/invoices/"+id+"/pay").str("status"), "paid")

	changed := s.post("/v1/customers/"+declining, "invoice_settings[default_payment_method]=pm_card_visa")
	equal(t, "changed", changed.str("invoice_settings.default_payment_method"), "pm_card_visa")
	told := 0
	for _, e := range s.get("/v1/events", "type=customer.updated").data() {
		if prev := e["data"].(obj)["previous_attributes"].(obj); prev["invoice_settings"] != nil {
			equalJSON(t, "previous", prev, `{"invoice_settings":{"default_payment_method":"pm_card_chargeCustomerFail"}}`)
			told++
		}
	}
	equal(t, "events of the change", told, 1)
	equal(t, "unset", s.post("/v1/customers/"+declining, "invoice_settings[default_payment_method]=").at("invoice_settings.default_payment_method"), nil)

	// Stripe tries a card before it gives it to a customer.
	wantError(t, s.do("POST", "/v1/customers", "payment_method=pm_card_chargeDeclined"), 402, "card_declined", "")
	wantError(t, s.do("POST", "/v1/customers", "payment_method=pm_1"), 400, "resource_missing", "payment_method")
	r := s.do("POST", "/v1/customers", "invoice_settings[footer]=x")
	wantError(t, r, 400, "", "invoice_settings[footer]")

	// Stripe collects by itself where the invoice advances by itself.
	for card, want := range map[string]string{"pm_card_visa": "paid", "pm_card_chargeCustomerFail": "open"} {
		cus := s.customer("payment_method="+card, "invoice_settings[default_payment_method]="+card)
		id := s.draft(cus, 900)
		equal(t, card, s.post("/v1/invoices/"+id+"/finalize", "auto_advance=true").str("status"), want)
	}
	if kinds := s.eventTypes(); !slices.Contains(kinds, "invoice.payment_failed") {
		t.Error("no invoice.payment_failed")
	}

	other := restored(t, s)
	equal(t, "kept", other.get("/v1/customers/"+declining).at("invoice_settings.default_payment_method"), nil)
	equal(t, "kept", other.get("/v1/invoices/"+id).str("default_payment_method"), "pm_card_visa")
}

// restored is another simulator with the state of s.
func restored(t *testing.T, s *sim) *sim {
	t.Helper()
	other := start(t, Options{})
	if err := other.Load(bytes.NewReader(s.saved())); err != nil {
		t.Fatal(err)
	}
	return other
}

// Fields that recorded replies have beyond the specification, or that are optional there.
func TestFieldsAsRecorded(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.get("/v1/customers/"+s.customer(), "expand[]=tax")
	if v, ok := cus.obj["customer_account"]; !ok || v != nil {
		t.Errorf("customer_account: %v %t", v, ok)
	}
	equal(t, "tax.provider", cus.str("tax.provider"), "stripe")
	inv := s.get("/v1/invoices/" + s.draft(cus.str("id"), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12))
	equal(t, "lines.total_count", inv.num("lines.total_count"), 12)
	equal(t, "lines.data", len(inv.at("lines.data").([]any)), 10)
	parent := inv.at("lines.data").([]any)[0].(obj)["parent"].(obj)["invoice_item_details"].(obj)
	equalJSON(t, "proration_details", parent["proration_details"], `{"credited_items":null}`)
	for _, e := range s.get("/v1/events", "limit=100").data() { // in events as in replies
		object := e["data"].(obj)["object"].(obj)
		switch object["object"] {
		case "customer":
			if _, ok := object["customer_account"]; !ok {
				t.Errorf("%s has no customer_account", e["type"])
			}
		case "invoice":
			if _, ok := object["lines"].(obj)["total_count"]; !ok {
				t.Errorf("%s has no total_count", e["type"])
			}
		}
	}
}
