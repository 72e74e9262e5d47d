package stripesim

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/money"
)

// do runs a named endpoint of the API for a page: the code that requests run, but
// without a key, limits and faults of requests. Parameters come in pairs of name and
// value; those without a value are left out.
func (c *console) do(a *account, name string, args []string, pairs ...string) (any, error) {
	i := slices.IndexFunc(routes, func(r *route) bool { return r.name == name })
	v := url.Values{}
	for p := range slices.Chunk(pairs, 2) {
		if p[1] != "" {
			v.Set(p[0], p[1])
		}
	}
	p, e := parseForm("", v.Encode())
	if e != nil {
		return nil, e
	}
	a.catchUpUnlessOnRead()
	out, e := routes[i].handle(&call{s: c.s, a: a, args: args, p: p, cz: a.callerCause()})
	if e != nil {
		return nil, e
	}
	return out, nil
}

// changeCustomer does what a form of a customer's page asks for.
func (c *console) changeCustomer(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	v, err := readForm(w, r)
	if err == nil {
		if a := c.s.account(q.Get("account")); a != nil {
			err = c.onCustomer(a, q.Get("id"), v)
		} else {
			err = errInvalid("", "account", "No such account: '%s'", q.Get("account"))
		}
	}
	if err != nil {
		c.customer(w, r, err, v)
		return
	}
	back := url.Values{"account": {q.Get("account")}, "id": {q.Get("id")}}
	http.Redirect(w, r, "/console/customer?"+back.Encode(), http.StatusSeeOther)
}

// oneCall are the actions that are one request about one object.
var oneCall = map[string]string{
	"void_grant":       "POST /v1/billing/credit_grants/{id}/void",
	"expire_grant":     "POST /v1/billing/credit_grants/{id}/expire",
	"finalize_invoice": "POST /v1/invoices/{id}/finalize",
	"pay_invoice":      "POST /v1/invoices/{id}/pay",
	"void_invoice":     "POST /v1/invoices/{id}/void",
}

func (c *console) onCustomer(a *account, id string, v url.Values) error {
	field := func(name string) string { return strings.TrimSpace(v.Get(name)) }
	currency := strings.ToLower(field("currency"))
	var err error
	switch do := v.Get("do"); do {
	case "balance":
		amount, e := smallest(field("amount"), currency, "amount")
		if e != nil {
			return e
		}
		if amount != "" && field("sign") != "owed" {
			amount = "-" + amount // credit
		}
		_, err = c.do(a, "POST /v1/customers/{id}/balance_transactions", []string{id}, "amount", amount, "currency", currency, "description", field("description"))
	case "grant":
		const name = "amount[monetary][value]"
		amount, e := smallest(field("amount"), currency, name)
		if e != nil {
			return e
		}
		_, err = c.do(a, "POST /v1/billing/credit_grants", nil, "customer", id, "amount[type]", "monetary", "amount[monetary][currency]", currency,
			name, amount, "category", field("category"), "name", field("name"), "expires_at", stamp(field("expires")),
			"applicability_config[scope][price_type]", "metered")
	case "invoice":
		err = c.invoice(a, id, field("amount"), currency, v.Get("metered") != "")
	case "delete":
		_, err = c.do(a, "DELETE /v1/customers/{id}", []string{id})
	case "advance":
		err = c.advance(a, id, field("by"))
	default:
		name := oneCall[do]
		if name == "" {
			return errInvalid("", "", "Nothing was asked for.")
		}
		_, err = c.do(a, name, []string{field("object")})
	}
	return err
}

// smallest turns an amount that a person wrote, without a sign, into the API's, in
// the currency's smallest unit. Nothing stays nothing, which the API refuses.
func smallest(text, currency, param string) (string, error) {
	if text == "" {
		return "", nil
	}
	n, err := money.Parse(text, currency)
	switch {
	case err != nil:
		return "", errInvalid("parameter_invalid_integer", param, "Invalid amount: %v.", err)
	case n < 0:
		return "", errInvalid("parameter_invalid_integer", param, "This value must be greater than or equal to 0.")
	}
	return strconv.FormatInt(n, 10), nil
}

// stamp turns the value of a field for date and time, in UTC, into Unix seconds. What
// it cannot read stays as it is, for the API to refuse.
func stamp(text string) string {
	for _, form := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return strconv.FormatInt(at.Unix(), 10)
		}
	}
	return text
}

// invoice makes an invoice of one line and finalizes it. What fails after the draft
// was made takes the draft with it.
func (c *console) invoice(a *account, id, amount, currency string, metered bool) error {
	n, err := smallest(amount, currency, "amount")
	switch {
	case err != nil:
		return err
	case n == "":
		return errMissing("amount")
	case currency == "":
		return errMissing("currency")
	}
	out, err := c.do(a, "POST /v1/invoices", nil, "customer", id, "currency", currency, "auto_advance", "false", "pending_invoice_items_behavior", "exclude")
	if err != nil {
		return err
	}
	inv := []string{out.(*invoiceJSON).ID}
	line := []string{"lines[0][amount]", n}
	if metered {
		var price string
		if price, err = c.unitPrice(a, currency); err == nil {
			line = []string{"lines[0][pricing][price]", price, "lines[0][quantity]", n}
		}
	}
	if err == nil {
		_, err = c.do(a, "POST /v1/invoices/{id}/add_lines", inv, line...)
	}
	if err != nil {
		_, _ = c.do(a, "DELETE /v1/invoices/{id}", inv)
		return err
	}
	_, err = c.do(a, "POST /v1/invoices/{id}/finalize", inv)
	return err
}

// unitPrice is a metered price of one smallest unit, which is made if there is none.
func (c *console) unitPrice(a *account, currency string) (string, error) {
	a.mu.RLock()
	for _, p := range a.priceList.rows {
		if p.metered() && p.currency == currency && p.unitAmount == 1 && !p.inactive {
			a.mu.RUnlock()
			return p.id, nil
		}
	}
	a.mu.RUnlock()
	out, err := c.do(a, "POST /v1/prices", nil, "currency", currency, "unit_amount", "1", "product_data[name]", "Metered use",
		"recurring[interval]", "month", "recurring[usage_type]", "metered", "recurring[meter]", "mtr_use")
	if err != nil {
		return "", err
	}
	return out.(fullPriceJSON).ID, nil
}

// advance moves the test clock that a customer is on.
func (c *console) advance(a *account, id, by string) error {
	d, err := parseDays(by)
	if err != nil {
		return fmt.Errorf("the clock is advanced by a duration such as 30d or 12h, not %q", by)
	}
	a.mu.RLock()
	var clock string
	var to int64
	if v := a.customers[id]; v != nil && v.clock != nil {
		clock, to = v.clock.id, v.clock.frozen+int64(d/time.Second)
	}
	a.mu.RUnlock()
	_, err = c.do(a, "POST /v1/test_helpers/test_clocks/{id}/advance", []string{clock}, "frozen_time", strconv.FormatInt(to, 10))
	return err
}

// redeliver sends an event to an endpoint once more.
func (c *console) redeliver(w http.ResponseWriter, r *http.Request) {
	v, err := readForm(w, r)
	if err == nil {
		err = c.s.Redeliver(r.URL.Query().Get("id"), v.Get("endpoint"))
	}
	if err != nil {
		c.event(w, r, err)
		return
	}
	http.Redirect(w, r, "/console/event?"+url.Values{"id": {r.URL.Query().Get("id")}}.Encode(), http.StatusSeeOther)
}

// changeEndpoint enables or disables an endpoint through the API that it belongs to.
func (c *console) changeEndpoint(w http.ResponseWriter, r *http.Request) {
	v, err := readForm(w, r)
	if err == nil {
		err = c.setEndpoint(v.Get("id"), v.Get("do"))
	}
	if err != nil {
		c.endpoints(w, r, err)
		return
	}
	http.Redirect(w, r, "/console/endpoints", http.StatusSeeOther)
}

func (c *console) setEndpoint(id, do string) error {
	if do != "enable" && do != "disable" {
		return errInvalid("", "", "Nothing was asked for.")
	}
	for _, a := range c.s.allAccounts() {
		a.mu.RLock()
		h := a.hooks[id]
		v2 := h != nil && h.v2
		a.mu.RUnlock()
		if h == nil {
			continue
		}
		name, param := "POST /v1/webhook_endpoints/{id}", strconv.FormatBool(do == "disable")
		if v2 {
			name, param = "POST /v2/core/event_destinations/{id}/"+do, ""
		}
		_, err := c.do(a, name, []string{id}, "disabled", param)
		return err
	}
	return errNone(http.StatusNotFound, "webhook endpoint", id, "id")
}
