package stripesim

import (
	_ "embed" // the list of Stripe's paths
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// notSimulated are the parameters of the specification that are not simulated, by
// endpoint: a name, or names with a dot between them for a member of a hash, also of one
// in an array. They are refused in words that no error of Stripe's has.
var notSimulated = map[string]string{
	"POST /v1/customers": "business_name cash_balance individual_name invoice_settings shipping source tax tax_id_data",
	"POST /v1/customers/{id}": "bank_account business_name card cash_balance default_alipay_account default_bank_account default_card default_source " +
		"individual_name invoice_settings shipping source tax",
	"POST /v1/invoices": "account_tax_ids application_fee_amount automatic_tax automatically_finalizes_at custom_fields " +
		"default_source default_tax_rates discounts effective_at from_invoice issuer on_behalf_of payment_settings rendering shipping_cost shipping_details " +
		"subscription transfer_data",
	"POST /v1/invoices/{id}": "account_tax_ids application_fee_amount automatic_tax automatically_finalizes_at custom_fields " +
		"default_source default_tax_rates discounts effective_at issuer on_behalf_of payment_settings rendering shipping_cost shipping_details transfer_data",
	"POST /v1/invoices/{id}/add_lines": "lines.discounts lines.price_data.product_data lines.price_data.unit_amount_decimal lines.quantity_decimal " +
		"lines.tax_amounts lines.tax_rates lines.unit_amount_decimal",
	"POST /v1/invoiceitems":              "discounts price_data.unit_amount_decimal quantity_decimal subscription tax_behavior tax_code tax_rates unit_amount_decimal",
	"POST /v1/invoiceitems/{id}":         "discountable discounts period price_data pricing quantity_decimal tax_behavior tax_code tax_rates unit_amount_decimal",
	"POST /v1/credit_notes":              "refunds shipping_cost " + noteLineParams,
	"GET /v1/credit_notes/preview":       "refunds shipping_cost " + noteLineParams,
	"GET /v1/credit_notes/preview/lines": "refunds shipping_cost " + noteLineParams,
	"POST /v1/invoices/create_preview": "automatic_tax customer_details discounts issuer on_behalf_of schedule schedule_details subscription " +
		"subscription_details invoice_items.discounts invoice_items.price_data.unit_amount_decimal invoice_items.quantity_decimal " +
		"invoice_items.tax_behavior invoice_items.tax_code invoice_items.tax_rates invoice_items.unit_amount_decimal",
	"GET /v1/prices": "lookup_keys recurring",
	"POST /v1/prices": "currency_options custom_unit_amount lookup_key product_data.active product_data.id product_data.statement_descriptor " +
		"product_data.tax_code product_data.tax_details product_data.unit_label tax_behavior tiers tiers_mode transfer_lookup_key transform_quantity unit_amount_decimal",
	"POST /v1/test_helpers/test_clocks":   "customer",
	"GET /v1/customers/{id}":              "",
	"POST /v1/billing/credit_grants/{id}": "",
}

const noteLineParams = "lines.metadata lines.tax_amounts lines.tax_rates lines.unit_amount_decimal"

// moving are those of them that change what is owed, or which rows are listed. They are
// refused even with Switches.IgnoreDecorative; the others decorate.
var moving = strings.Fields(`automatic_tax cash_balance currency_options custom_unit_amount customer default_tax_rates discountable discounts from_invoice
customer_details lookup_keys period price_data pricing product_data quantity_decimal recurring refunds schedule schedule_details shipping_cost subscription
subscription_details tax tax_amounts tax_behavior tax_rates tiers tiers_mode
transform_quantity unit_amount_decimal`)

//go:embed stripe_paths.txt
var stripePathsText string

// stripePaths are the calls of Stripe's API, as of 2026-10-28.endive: all of v1, and those
// of v2 but events and event destinations, which Switches.NoThinEvents takes away.
var stripePaths = func() map[string][][]string {
	m := map[string][][]string{}
	for line := range strings.Lines(stripePathsText) {
		method, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		m[method] = append(m[method], strings.Split(strings.Trim(path, "/"), "/"))
	}
	return m
}()

// stripeHas reports whether Stripe has a call of that method and path.
func stripeHas(method, path string) bool {
	segs := strings.Split(strings.Trim(path, "/"), "/")
	return slices.ContainsFunc(stripePaths[method], func(known []string) bool {
		return slices.EqualFunc(known, segs, func(k, s string) bool { return k == s || k == "{id}" && s != "" })
	})
}

// errNotSimulated is for what Stripe takes and the simulator does not simulate: never to
// be mistaken for an error that Stripe would give.
func errNotSimulated(what, param string) *apiError {
	return errInvalid("", param, "not simulated: %s; Stripe accepts it", what)
}

// errNoRoute is for a path that is not simulated, or that Stripe does not have either.
func errNoRoute(method, path string) *apiError {
	what := ""
	switch {
	case method == "GET" && (path == "/v1/invoices/upcoming" || path == "/v1/invoices/upcoming/lines"):
		what = "; Stripe has taken it away in 2025-03-31.basil: use POST /v1/invoices/create_preview"
	case stripeHas(method, path):
		what = "; Stripe has it"
	default:
		return errRoute(method, path)
	}
	return &apiError{status: http.StatusNotFound, typ: invalidRequest, message: fmt.Sprintf("not simulated: %s %s%s", method, path, what)}
}

// skip marks the parameters that are not simulated at an endpoint, and whether
// those that decorate are passed over.
func (p *params) skip(endpoint string, decorative bool) {
	p.skips, p.ignore = strings.Fields(notSimulated[endpoint]), decorative
}

// unknown is the error for a parameter that nobody asked for, at the end of the trail of
// those that it is within; nil where it may be passed over.
func (p *params) unknown(trail []nested) *apiError {
	name := trail[len(trail)-1].name
	path := ""
	for _, at := range trail {
		if _, err := strconv.Atoi(at.key); err == nil { // an element of an array
			continue
		}
		path = strings.TrimPrefix(path+"."+at.key, ".")
		if !slices.Contains(p.skips, path) {
			continue
		}
		if p.ignore && !slices.Contains(moving, at.key) {
			at.useAll()
			return nil
		}
		return errNotSimulated(path, name)
	}
	return errUnknownParam(name)
}
