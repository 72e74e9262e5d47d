package stripesim

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
)

// The differential run sends generated requests to the simulator and to
// stripe-mock, which checks each against Stripe's specification and keeps no
// state. Both must accept or both refuse, but for the classes of requests whose
// reason to differ is listed here.

// class is one way to make a request.
type class struct {
	name      string
	sim, mock bool // accepted
	reason    string
	either    bool // stripe-mock decides one way or the other
}

var classes = []class{
	{"good", true, true, "", false},
	{"unknown parameter", false, false, "", false},
	{"not an integer", false, false, "", false},
	{"not of the enum", false, false, "", false},
	{"a hash for a scalar", false, false, "", false},
	{"a scalar for a hash", false, false, "", false},
	{"required one missing", false, false, "", false},
	{"limit out of range", true, true, "", false},
	{"no such currency", false, true, "stripe-mock takes any string for a currency", false},
	{"cannot be expanded", false, true, "stripe-mock ignores some of what it cannot expand, and breaks on the rest (500)", true},
	{"both cursors", false, true, "stripe-mock has no rows, so that cursors do not contradict", false},
	{"no such object in the path", false, true, "stripe-mock keeps no state: every id exists", false},
	{"no such object in a parameter", false, true, "stripe-mock keeps no state: every id exists", false},
	{"empty id", false, true, "stripe-mock takes an empty string for an id", false},
	{"too long", false, true, "stripe-mock does not check lengths", false},
	{"amount of zero", false, true, "stripe-mock does not check amounts", false},
	{"too many types", false, true, "stripe-mock does not count types", false},
	{"customer left out", false, true, "the live API needs customer there, its specification does not say so", false},
	{"not simulated", false, true, "the simulator refuses what it does not simulate, and never ignores it", false},
	{"metadata that cannot be cleared", false, false, "", false},
	{"not in this state", false, true, "stripe-mock keeps no state: everything can be voided, expired, finalized", false},
}

type specParam struct {
	Name     string `json:"name"`
	Required bool   `json:"required"`
	Schema   obj    `json:"schema"`
}

type specEndpoint struct {
	Name   string      `json:"name"`
	Params []specParam `json:"params"`
}

func loadEndpoints(t *testing.T) []specEndpoint {
	t.Helper()
	raw, err := os.ReadFile("testdata/endpoints.json")
	if err != nil {
		t.Fatal(err)
	}
	var out []specEndpoint
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// differ makes requests. It knows objects for them to refer to. Those that a request
// uses up are made anew for it.
type differ struct {
	t             *testing.T
	s             *sim
	rng           *rand.Rand
	cus, txn      string
	grant, credit string
	price, inv    string
	item, note    string
	event, hook   string
	clock         string
}

func newDiffer(t *testing.T, s *sim) *differ {
	d := &differ{t: t, s: s, rng: rand.New(rand.NewPCG(1, 2))}
	d.cus = s.customer("email=a@example.com", "balance=-100")
	d.txn = s.adjust(d.cus, -5, "usd").str("id")
	d.grant = s.grant(d.cus, 1000).str("id")
	d.credit = s.get("/v1/billing/credit_balance_transactions", "customer="+d.cus).ids()[0]
	d.price = s.post("/v1/prices", "currency=usd", "unit_amount=700", "product=prod_1").str("id")
	d.inv = s.draft(d.cus, 500)
	d.item = s.post("/v1/invoiceitems", "customer="+d.cus, "amount=5", "currency=usd").str("id")
	paid := s.draft(d.cus, 100_000_0)
	s.post("/v1/invoices/" + paid + "/finalize")
	d.note = s.post("/v1/credit_notes", "invoice="+paid, "amount=100").str("id")
	d.event = s.get("/v1/events").ids()[0]
	d.hook = s.post("/v1/webhook_endpoints", "url=http://127.0.0.1:1/", "enabled_events[]=invoice.sent").str("id")
	d.clock = s.post("/v1/test_helpers/test_clocks", "frozen_time=1000").str("id")
	return d
}

// open makes a finalized invoice that is still to be paid.
func (d *differ) open() string {
	cus := d.s.customer()
	id := d.s.draft(cus, 10_000)
	d.s.post("/v1/invoices/" + id + "/finalize")
	return id
}

// path fills in the ids of an endpoint's path with objects that fit the request.
func (d *differ) path(name string) string {
	_, p, _ := strings.Cut(name, " ")
	first := map[string]func() string{
		"POST /v1/billing/credit_grants/{id}/expire": func() string { return d.s.grant(d.s.customer(), 5).str("id") },
		"POST /v1/billing/credit_grants/{id}/void":   func() string { return d.s.grant(d.s.customer(), 5).str("id") },
		"DELETE /v1/customers/{id}":                  func() string { return d.s.customer() },
		"DELETE /v1/invoices/{id}":                   func() string { return d.s.draft(d.cus) },
		"POST /v1/invoices/{id}/finalize":            func() string { return d.s.draft(d.s.customer(), 900) },
		"POST /v1/invoices/{id}/pay":                 d.open,
		"POST /v1/invoices/{id}/void":                d.open,
		"POST /v1/invoices/{id}/mark_uncollectible":  d.open,
		"POST /v1/invoiceitems/{id}":                 func() string { return d.item },
		"DELETE /v1/invoiceitems/{id}": func() string {
			return d.s.post("/v1/invoiceitems", "customer="+d.cus, "amount=5", "currency=usd").str("id")
		},
		"DELETE /v1/webhook_endpoints/{id}": func() string {
			return d.s.post("/v1/webhook_endpoints", "url=http://127.0.0.1:1/", "enabled_events[]=invoice.sent").str("id")
		},
		"DELETE /v1/test_helpers/test_clocks/{id}":         func() string { return d.s.post("/v1/test_helpers/test_clocks", "frozen_time=1000").str("id") },
		"POST /v1/test_helpers/test_clocks/{id}/advance":   func() string { return d.s.post("/v1/test_helpers/test_clocks", "frozen_time=1000").str("id") },
		"POST /v1/credit_notes/{id}/void":                  func() string { return d.s.post("/v1/credit_notes", "invoice="+d.open(), "amount=10").str("id") },
		"GET /v1/billing/credit_balance_transactions/{id}": func() string { return d.credit },
	}
	id := ""
	if f := first[name]; f != nil {
		id = f()
	} else {
		id = map[string]string{
			"customers": d.cus, "billing": d.grant, "invoices": d.inv, "invoiceitems": d.item, "credit_notes": d.note, "prices": d.price,
			"events": d.event, "webhook_endpoints": d.hook, "test_helpers": d.clock,
		}[strings.Split(p, "/")[2]]
	}
	return strings.NewReplacer("{id}", id, "{txn}", d.txn).Replace(p)
}

// values makes good values for a parameter: pairs of one or more fields.
func (d *differ) values(endpoint, param string) []string {
	method, path, _ := strings.Cut(endpoint, " ")
	pick := func(v ...string) string { return v[d.rng.IntN(len(v))] }
	one := func(v ...string) []string { return []string{param + "=" + pick(v...)} }
	number := func(n int) []string { return []string{fmt.Sprintf("%s=%d", param, 1+d.rng.IntN(n))} }
	future := fmt.Sprint(d.s.hand.seconds() + 1000 + d.rng.Int64N(100000))
	switch param {
	case "limit":
		return number(100)
	case "starting_after", "ending_before":
		var rows []string
		switch {
		case strings.HasSuffix(path, "/lines"):
			return nil // tried by TestPendingItemsAndLines
		case strings.Contains(path, "credit_balance_transactions"):
			rows = []string{d.credit}
		case strings.HasSuffix(path, "/balance_transactions"):
			rows = []string{d.txn}
		default:
			rows = []string{map[string]string{
				"customers": d.cus, "billing": d.grant, "invoices": d.inv, "invoiceitems": d.item, "credit_notes": d.note, "prices": d.price,
				"events": d.event, "webhook_endpoints": d.hook, "test_helpers": d.clock,
			}[strings.Split(path, "/")[2]]}
		}
		return one(rows...)
	case "created":
		return [][]string{{"created=5"}, {"created[gte]=5", "created[lt]=9"}, {"created[gt]=1"}}[d.rng.IntN(3)]
	case "due_date":
		if method == "GET" {
			return []string{"due_date[gt]=1"}
		}
		return nil // goes with collection_method, below
	case "customer":
		if strings.HasSuffix(path, "test_clocks") {
			return nil
		}
		return one(d.cus)
	case "customer_account", "subscription", "test_clock":
		if param == "test_clock" {
			return one(d.clock)
		}
		return nil // there are none in the simulator
	case "invoice":
		if method == "POST" && strings.HasSuffix(path, "credit_notes") || strings.Contains(path, "/preview") {
			return one(d.open())
		}
		return one(d.inv)
	case "credit_grant":
		return one(d.grant)
	case "email":
		return one("a@example.com", "ü@example.com")
	case "email_type":
		return one("none", "credit_note")
	case "address":
		return []string{"address[city]=Paris", "address[line1]=Rue 1"}
	case "balance":
		return one("-500", "0", "300")
	case "metadata", "invoice_metadata":
		if d.rng.IntN(2) == 0 && clearable(endpoint) {
			return one("")
		}
		return []string{param + "[a]=b", param + "[c]=d"}
	case "description", "name", "memo", "nickname", "footer", "statement_descriptor", "number", "phone":
		if param == "number" {
			return nil // must be unique at Stripe
		}
		return one("x", "Some words")
	case "invoice_prefix":
		return one("ABC", "XYZ123")
	case "next_invoice_sequence":
		return number(50)
	case "preferred_locales":
		return []string{"preferred_locales[]=fr", "preferred_locales[]=de"}
	case "tax_exempt":
		return one("none", "exempt", "reverse")
	case "amount":
		if strings.HasSuffix(path, "credit_grants") {
			return []string{"amount[type]=monetary", "amount[monetary][currency]=usd", "amount[monetary][value]=500"}
		}
		if strings.HasSuffix(path, "credit_notes") || strings.Contains(path, "/preview") {
			return number(500)
		}
		return one("-300", "700", "1")
	case "credit_amount", "refund_amount", "out_of_band_amount", "lines":
		if strings.HasSuffix(path, "add_lines") {
			return []string{"lines[0][amount]=50", "lines[1][price_data][currency]=usd", "lines[1][price_data][product]=p", "lines[1][price_data][unit_amount]=3"}
		}
		return nil // must add up: TestCreditNotes
	case "currency":
		return one("usd")
	case "applicability_config":
		if d.rng.IntN(2) == 0 {
			return []string{"applicability_config[scope][price_type]=metered"}
		}
		return []string{"applicability_config[scope][prices][0][id]=" + d.price}
	case "category":
		return one("paid", "promotional")
	case "effective_at":
		return number(1_000_000)
	case "expires_at":
		return one(future)
	case "priority":
		return number(100)
	case "filter":
		if d.rng.IntN(2) == 0 {
			return []string{"filter[type]=credit_grant", "filter[credit_grant]=" + d.grant}
		}
		return []string{"filter[type]=applicability_scope", "filter[applicability_scope][price_type]=metered"}
	case "collection_method":
		return one("charge_automatically")
	case "days_until_due":
		return nil // goes with send_invoice: TestInvoiceParameterErrors
	case "status":
		return one("draft", "open", "paid", "void", "uncollectible")
	case "auto_advance", "discountable", "off_session", "paid_out_of_band", "forgive", "active", "connect", "pending", "delivery_success":
		return one("true", "false")
	case "disabled":
		return one("false")
	case "pending_invoice_items_behavior":
		return one("exclude")
	case "mandate":
		return one("mandate_1")
	case "payment_method", "default_payment_method":
		return one("pm_card_visa")
	case "invoice_settings":
		return []string{"invoice_settings[default_payment_method]=pm_card_visa"}
	case "invoice_items":
		return [][]string{
			{"invoice_items[0][amount]=50", "invoice_items[0][currency]=usd"},
			{"invoice_items[0][unit_amount]=5", "invoice_items[0][quantity]=3", "invoice_items[0][currency]=usd"},
			{"invoice_items[0][price]=" + d.price},
		}[d.rng.IntN(3)]
	case "preview_mode":
		return one("next", "recurring")
	case "source":
		return nil // not beside payment_method
	case "period":
		return []string{"period[start]=5", "period[end]=50"}
	case "price_data", "pricing", "quantity":
		return nil // not beside amount
	case "reason":
		return one("duplicate", "order_change")
	case "billing_scheme":
		return one("per_unit")
	case "product":
		return one("prod_1")
	case "product_data":
		return nil // not beside product
	case "recurring":
		return []string{"recurring[interval]=month", "recurring[interval_count]=2"}
	case "type":
		if strings.HasSuffix(path, "events") {
			return one("customer.created", "customer.*")
		}
		return one("one_time", "recurring")
	case "types":
		return nil // not beside type
	case "unit_amount":
		return number(5000)
	case "api_version":
		return one("2026-08-26.dahlia") // the newest that stripe-mock knows
	case "enabled_events":
		return []string{"enabled_events[]=invoice.sent", "enabled_events[]=invoice.upcoming"} // which the simulator never sends
	case "url":
		return one("http://127.0.0.1:1/hook") // where nobody listens
	case "frozen_time":
		if strings.HasSuffix(path, "advance") {
			return one("5000")
		}
		return number(1_000_000)
	case "expand":
		return nil
	}
	d.t.Fatalf("no values for %s of %s", param, endpoint)
	return nil
}

// clearable reports whether a hash can be sent as "": not everywhere, says the
// specification.
func clearable(endpoint string) bool {
	switch endpoint {
	case "POST /v1/billing/credit_grants", "POST /v1/billing/credit_grants/{id}", "POST /v1/prices", "POST /v1/credit_notes", "POST /v1/credit_notes/{id}",
		"GET /v1/credit_notes/preview", "GET /v1/credit_notes/preview/lines":
		return false
	}
	return true
}

// has reports cheaply whether an endpoint can have requests of a class, before
// objects are made for one.
func (d *differ) has(e specEndpoint, class string) bool {
	param := func(names ...string) bool {
		return slices.ContainsFunc(e.Params, func(p specParam) bool { return slices.Contains(names, p.Name) })
	}
	switch class {
	case "not simulated":
		return notSimulated[e.Name] != ""
	case "limit out of range", "both cursors":
		return param("limit")
	case "no such currency":
		return param("currency") || e.Name == "POST /v1/billing/credit_grants"
	case "no such object in the path":
		return strings.Contains(e.Name, "{id}")
	case "too long":
		return param("description")
	case "amount of zero":
		return strings.HasPrefix(e.Name, "POST") && param("amount")
	case "too many types":
		return param("types")
	case "customer left out":
		return param("customer")
	case "metadata that cannot be cleared":
		return param("metadata") && !clearable(e.Name)
	case "required one missing":
		return slices.ContainsFunc(e.Params, func(p specParam) bool { return p.Required })
	case "a scalar for a hash", "not of the enum", "not an integer", "a hash for a scalar":
		return len(e.Params) > 1 // beside expand
	case "not in this state":
		return strings.HasSuffix(e.Name, "/void") || strings.HasSuffix(e.Name, "/expire") || strings.HasPrefix(e.Name, "DELETE /v1/invoices") ||
			strings.HasPrefix(e.Name, "POST /v1/invoices/")
	}
	return true
}

// required are the parameters that a request cannot do without, by the
// specification or at run time.
func required(e specEndpoint) []string {
	var out []string
	for _, p := range e.Params {
		if p.Required {
			out = append(out, p.Name)
		}
	}
	return append(out, map[string][]string{
		"POST /v1/billing/credit_grants":              {"customer"},
		"GET /v1/billing/credit_balance_summary":      {"customer"},
		"GET /v1/billing/credit_balance_transactions": {"customer"},
		"POST /v1/invoices":                           {"customer"},
		"POST /v1/invoiceitems":                       {"customer", "amount"},
		"POST /v1/credit_notes":                       {"amount"},
		"GET /v1/credit_notes/preview":                {"amount"},
		"GET /v1/credit_notes/preview/lines":          {"amount"},
		"POST /v1/invoices/create_preview":            {"customer"},
		"POST /v1/prices":                             {"unit_amount", "product"},
	}[e.Name]...)
}

type generated struct {
	method, path string
	pairs        []string
}

// good makes a request that both must take.
func (d *differ) good(e specEndpoint) generated {
	method, _, _ := strings.Cut(e.Name, " ")
	g := generated{method: method, path: d.path(e.Name)}
	need, skip := required(e), strings.Fields(notSimulated[e.Name])
	cursors := false
	for _, p := range e.Params {
		if slices.Contains(skip, p.Name) {
			continue
		}
		if !slices.Contains(need, p.Name) && d.rng.IntN(3) > 0 {
			continue
		}
		if p.Name == "starting_after" || p.Name == "ending_before" || p.Name == "test_clock" || p.Name == "created" || p.Name == "email" {
			if cursors && e.Name[:3] == "GET" { // a cursor must be in the list that the filters leave
				continue
			}
			cursors = true
		}
		g.pairs = append(g.pairs, d.values(e.Name, p.Name)...)
	}
	return g
}

func kindOf(schema obj) string {
	if alts, ok := schema["anyOf"].([]any); ok {
		kinds := map[string]bool{}
		for _, a := range alts {
			kinds[kindOf(a.(obj))] = true
		}
		if len(kinds) == 1 {
			for k := range kinds {
				return k
			}
		}
		return "any"
	}
	if schema["enum"] != nil {
		return "enum"
	}
	k, _ := schema["type"].(string)
	return k
}

// spoil makes a request of a class out of a good one, or reports that the endpoint
// has no such requests.
func (d *differ) spoil(e specEndpoint, class string) (generated, bool) {
	g := d.good(e)
	without := func(name string) {
		g.pairs = slices.DeleteFunc(g.pairs, func(p string) bool { return strings.HasPrefix(p, name+"=") || strings.HasPrefix(p, name+"[") })
	}
	put := func(name, value string) {
		without(name)
		g.pairs = append(g.pairs, name+"="+value)
	}
	of := func(kinds ...string) (specParam, bool) {
		skip := strings.Fields(notSimulated[e.Name])
		var fit []specParam
		for _, p := range e.Params {
			if slices.Contains(kinds, kindOf(p.Schema)) && !slices.Contains(skip, p.Name) && p.Name != "expand" && p.Name != "customer_account" {
				fit = append(fit, p)
			}
		}
		if len(fit) == 0 {
			return specParam{}, false
		}
		return fit[d.rng.IntN(len(fit))], true
	}
	has := func(name string) bool {
		return slices.ContainsFunc(e.Params, func(p specParam) bool { return p.Name == name })
	}
	list := has("starting_after")
	switch class {
	case "unknown parameter":
		put([]string{"odd", "amounts", "foo[bar]", "customer_id"}[d.rng.IntN(4)], "1")
		return g, true
	case "not an integer":
		p, ok := of("integer")
		put(p.Name, []string{"abc", "1.5", "1e3", "0x10"}[d.rng.IntN(4)])
		return g, ok
	case "not of the enum":
		p, ok := of("enum")
		put(p.Name, "odd")
		return g, ok
	case "a hash for a scalar":
		p, ok := of("integer", "boolean")
		without(p.Name)
		g.pairs = append(g.pairs, p.Name+"[a]=1")
		return g, ok
	case "a scalar for a hash":
		p, ok := of("object")
		put(p.Name, "text")
		return g, ok
	case "required one missing":
		var need []string
		for _, p := range e.Params {
			if p.Required {
				need = append(need, p.Name)
			}
		}
		if len(need) == 0 {
			return g, false
		}
		without(need[d.rng.IntN(len(need))])
		return g, true
	case "limit out of range":
		put("limit", []string{"0", "101", "-1", "1000000"}[d.rng.IntN(4)])
		return g, list
	case "no such currency":
		if e.Name == "POST /v1/billing/credit_grants" {
			without("amount")
			g.pairs = append(g.pairs, "amount[type]=monetary", "amount[monetary][value]=5", "amount[monetary][currency]=usdx")
			return g, true
		}
		put("currency", []string{"US", "xxx", "dollars"}[d.rng.IntN(3)])
		return g, has("currency")
	case "cannot be expanded":
		without("expand")
		g.pairs = append(g.pairs, "expand[]="+[]string{"odd", "data.odd", "customer.odd"}[d.rng.IntN(3)])
		return g, has("expand")
	case "both cursors":
		without("starting_after")
		without("ending_before")
		g.pairs = append(g.pairs, "starting_after=a_1", "ending_before=b_1")
		return g, list
	case "no such object in the path":
		_, p, _ := strings.Cut(e.Name, " ")
		g.path = strings.NewReplacer("{id}", "none_1", "{txn}", "none_2").Replace(p)
		return g, strings.Contains(p, "{id}")
	case "no such object in a parameter":
		names := slices.DeleteFunc([]string{"customer", "starting_after", "credit_grant", "test_clock", "invoice"}, func(n string) bool {
			return !has(n) || n == "invoice" && e.Name[:3] == "GET" && e.Name != "GET /v1/credit_notes" // a filter that finds nothing
		})
		if len(names) == 0 || e.Name == "POST /v1/test_helpers/test_clocks" {
			return g, false
		}
		without("ending_before")
		put(names[d.rng.IntN(len(names))], "none_1")
		return g, true
	case "empty id":
		names := slices.DeleteFunc([]string{"customer", "starting_after", "credit_grant", "invoice"}, func(n string) bool { return !has(n) })
		if len(names) == 0 || e.Name == "POST /v1/test_helpers/test_clocks" {
			return g, false
		}
		put(names[d.rng.IntN(len(names))], "")
		return g, true
	case "too long":
		put("description", strings.Repeat("x", 5001))
		return g, has("description")
	case "amount of zero":
		if e.Name == "POST /v1/billing/credit_grants" {
			without("amount")
			g.pairs = append(g.pairs, "amount[type]=monetary", "amount[monetary][value]=0", "amount[monetary][currency]=usd")
			return g, true
		}
		put("amount", "0")
		return g, e.Name == "POST /v1/customers/{id}/balance_transactions"
	case "too many types":
		without("type")
		for range 21 {
			g.pairs = append(g.pairs, "types[]=customer.updated")
		}
		return g, has("types")
	case "customer left out":
		without("customer")
		return g, slices.Contains([]string{
			"GET /v1/billing/credit_balance_transactions", "GET /v1/billing/credit_balance_summary", "POST /v1/billing/credit_grants",
			"POST /v1/invoices", "POST /v1/invoiceitems", "POST /v1/invoices/create_preview",
		}, e.Name)
	case "not in this state":
		id := map[string]string{
			"POST /v1/billing/credit_grants/{id}/void": d.grant, "POST /v1/invoices/{id}/finalize": d.open(), "POST /v1/invoices/{id}/void": d.inv,
			"DELETE /v1/invoices/{id}": d.open(), "POST /v1/invoices/{id}/mark_uncollectible": d.inv, "POST /v1/invoices/{id}/add_lines": d.open(),
		}[e.Name]
		if e.Name == "POST /v1/billing/credit_grants/{id}/void" || e.Name == "POST /v1/billing/credit_grants/{id}/expire" {
			id = d.s.grant(d.s.customer(), 5).str("id")
			d.s.post("/v1/billing/credit_grants/" + id + "/expire")
		}
		_, p, _ := strings.Cut(e.Name, " ")
		g.path = strings.ReplaceAll(p, "{id}", id)
		return g, id != ""
	case "metadata that cannot be cleared":
		put("metadata", "")
		return g, has("metadata") && !clearable(e.Name)
	case "not simulated":
		names := strings.Fields(notSimulated[e.Name])
		if len(names) == 0 {
			return g, false
		}
		name := names[d.rng.IntN(len(names))]
		if strings.Contains(name, ".") {
			return g, false // TestNoParameterOfStripesIsUnknown
		}
		i := slices.IndexFunc(e.Params, func(p specParam) bool { return p.Name == name })
		if i < 0 {
			d.t.Fatalf("%s has no parameter %s", e.Name, name)
		}
		g.pairs = append(g.pairs, sample(name, e.Params[i].Schema)...)
		return g, true
	}
	return g, true
}

// sample makes a value that the schema takes.
func sample(name string, schema obj) []string {
	if alts, ok := schema["anyOf"].([]any); ok {
		return sample(name, alts[0].(obj))
	}
	if enum, ok := schema["enum"].([]any); ok {
		return []string{fmt.Sprintf("%s=%v", name, enum[0])}
	}
	switch schema["type"] {
	case "integer", "number":
		return []string{name + "=1"}
	case "boolean":
		return []string{name + "=true"}
	case "array":
		return sample(name+"[0]", schema["items"].(obj))
	case "object":
		if strings.HasPrefix(name, "tax_id_data") { // its enum is too long for the extract
			return []string{name + "[type]=eu_vat", name + "[value]=1"}
		}
		props, _ := schema["properties"].(obj)
		req, _ := schema["required"].([]any)
		if len(req) == 0 {
			for _, k := range slices.Sorted(maps.Keys(props)) {
				req = append(req, k)
				break
			}
		}
		if more, ok := schema["additionalProperties"].(obj); ok && len(req) == 0 {
			return sample(name+"[usd]", more)
		}
		if len(req) == 0 {
			return []string{name + "[a]=b"}
		}
		var out []string
		for _, k := range req {
			out = append(out, sample(name+"["+k.(string)+"]", props[k.(string)].(obj))...)
		}
		return out
	}
	return []string{name + "=1"}
}

// startMock runs stripe-mock on free ports of the loopback interface.
func startMock(t *testing.T) string {
	t.Helper()
	path := needs(t, "stripe-mock")
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	plain, tls := free(), free()
	cmd := exec.Command(path, "-http-addr", plain, "-https-addr", tls)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(patience.Of(60 * time.Second)); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", plain); err == nil {
			_ = c.Close()
			return "http://" + plain
		}
		if time.Now().After(deadline) {
			t.Fatal("stripe-mock does not start")
		}
	}
}

// send sends a request to either of the two.
func (d *differ) send(base string, g generated) (int, string) {
	d.t.Helper()
	target, body := base+g.path, io.Reader(nil)
	if g.method == http.MethodPost {
		body = strings.NewReader(encodeForm(g.pairs...))
	} else if len(g.pairs) > 0 {
		target += "?" + encodeForm(g.pairs...)
	}
	req, err := http.NewRequest(g.method, target, body)
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testKey)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := d.s.http.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func TestAgreesWithStripeMock(t *testing.T) {
	t.Parallel()
	mock := startMock(t)
	s := start(t, Options{LogSize: -1})
	d := newDiffer(t, s)
	total := 5000
	if testing.Short() {
		total = 500
	}
	type tally struct{ sent, differ int }
	counts := map[string]*tally{}
	endpoints := loadEndpoints(t)
	bad := map[string]int{}
	for n := 0; n < total; {
		c := classes[0]
		if d.rng.IntN(2) == 0 {
			c = classes[1+d.rng.IntN(len(classes)-1)]
		}
		var e specEndpoint
		var g generated
		for ok := false; !ok; { // until an endpoint can have such a request
			e = endpoints[d.rng.IntN(len(endpoints))]
			if d.has(e, c.name) {
				g, ok = d.spoil(e, c.name)
			}
		}
		n++
		simCode, simBody := d.send(s.url, g)
		mockCode, mockBody := d.send(mock, g)
		if counts[c.name] == nil {
			counts[c.name] = &tally{}
		}
		counts[c.name].sent++
		if (simCode == 200) != (mockCode == 200) {
			counts[c.name].differ++
		}
		if (simCode == 200) != c.sim || !c.either && (mockCode == 200) != c.mock {
			key := c.name + " " + e.Name
			if bad[key]++; bad[key] == 1 && len(bad) <= 40 {
				t.Errorf("%s: %s %s %v\nsimulator %d %s\nmock %d %.300s", c.name, g.method, g.path, g.pairs, simCode, simBody, mockCode, mockBody)
			}
		}
		var reply obj
		if err := json.Unmarshal([]byte(simBody), &reply); err != nil {
			t.Fatal(err)
		}
		if why := loadSchemas().reply(reply); len(why) > 0 {
			t.Errorf("%s %s: %v", g.method, g.path, why)
		}
		if e, ok := reply["error"].(obj); ok && c.name == "not simulated" && !strings.HasPrefix(fmt.Sprint(e["message"]), "not simulated: ") {
			t.Errorf("%s %s %v is not refused as what it is: %s", g.method, g.path, g.pairs, simBody)
		}
		if simCode >= 500 {
			t.Errorf("%s %s %v: %d", g.method, g.path, g.pairs, simCode)
		}
	}
	for _, c := range classes {
		n := counts[c.name]
		if n == nil {
			t.Errorf("no request of class %q", c.name)
			continue
		}
		t.Logf("%-30s %5d sent, %5d decided differently  %s", c.name, n.sent, n.differ, c.reason)
	}
}

// wrongs calls f with every way to get a parameter wrong that its schema rules
// out, at any depth: the name of the field as sent, and its value.
func wrongs(name string, schema obj, f func(name, value string)) {
	if alts, ok := schema["anyOf"].([]any); ok {
		plain := true
		for _, a := range alts {
			if k := kindOf(a.(obj)); k == "object" || k == "array" {
				plain = false
				wrongs(name, a.(obj), func(n, v string) {
					if n != name { // a scalar may fit the other alternative
						f(n, v)
					}
				})
			}
		}
		if plain {
			f(name+"[a]", "1")
		}
		return
	}
	if schema["enum"] != nil || schema["x-event-types"] != nil {
		f(name, "odd")
	}
	switch schema["type"] {
	case "integer":
		for _, v := range []string{"abc", "1.5", "1e3", "0x10", "", "99999999999999999999", "true"} {
			f(name, v)
		}
	case "boolean":
		for _, v := range []string{"yes", "1", "", "TRUE"} {
			f(name, v)
		}
	case "array":
		f(name, "text")
		f(name+"[a]", "text")
		f(name+"[7]", "text") // with no others before it
		f(name+"[-1]", "text")
		wrongs(name+"[0]", schema["items"].(obj), f)
		return
	case "object":
		f(name, "text")
		f(name+"[]", "text")
		f(name+"[", "text")
		props, _ := schema["properties"].(obj)
		if len(props) > 0 {
			f(name+"[odd]", "1")
		}
		for _, k := range slices.Sorted(maps.Keys(props)) {
			wrongs(name+"["+k+"]", props[k].(obj), f)
		}
		if more, ok := schema["additionalProperties"].(obj); ok {
			wrongs(name+"[k]", more, f)
		}
		return
	}
	f(name+"[a]", "1")
	f(name+"[]", "1")
}

// TestRefusesWhatStripeMockRefuses gets every parameter that is simulated wrong in
// every way that its schema rules out. What stripe-mock refuses, the simulator
// refuses, and names the parameter, or another that it misses.
func TestRefusesWhatStripeMockRefuses(t *testing.T) {
	t.Parallel()
	mock := startMock(t)
	s := start(t, Options{LogSize: -1})
	d := newDiffer(t, s)
	sent, refused := 0, 0
	for _, e := range loadEndpoints(t) {
		method, _, _ := strings.Cut(e.Name, " ")
		skip := strings.Fields(notSimulated[e.Name])
		path := d.path(e.Name)
		for _, p := range e.Params {
			if slices.Contains(skip, p.Name) {
				continue
			}
			wrongs(p.Name, p.Schema, func(name, value string) {
				g := generated{method: method, path: path}
				for _, need := range append(required(e), p.Name) {
					if need == p.Name && !strings.Contains(name, "[") {
						continue
					}
					for _, pair := range d.values(e.Name, need) {
						if k, _, _ := strings.Cut(pair, "="); !strings.HasPrefix(k, name) && !strings.HasPrefix(name, k) && !slices.Contains(g.pairs, pair) {
							g.pairs = append(g.pairs, pair)
						}
					}
				}
				g.pairs = append(g.pairs, name+"="+value)
				sent++
				mockCode, mockBody := d.send(mock, g)
				if mockCode != http.StatusBadRequest {
					return
				}
				refused++
				code, body := d.send(s.url, g)
				var reply obj
				if err := json.Unmarshal([]byte(body), &reply); err != nil {
					t.Fatalf("%s %v: %v", e.Name, g.pairs, err)
				}
				if code != http.StatusBadRequest {
					t.Errorf("%s %v\nsimulator %d %.200s\nmock %d %.300s", e.Name, g.pairs, code, body, mockCode, mockBody)
					return
				}
				why := reply["error"].(obj)
				at, _ := why["param"].(string)
				at, sentAs := strings.ReplaceAll(at, "[]", "[0]"), strings.ReplaceAll(name, "[]", "[0]") // in either style
				if why["code"] != "parameter_missing" && !strings.HasPrefix(name, "expand") && (at == "" || !strings.HasPrefix(at, sentAs) && !strings.HasPrefix(sentAs, at)) {
					t.Errorf("%s %v is blamed on %q: %s", e.Name, g.pairs, at, body)
				}
			})
		}
	}
	t.Logf("%d sent, %d refused by stripe-mock", sent, refused)
	if refused < 1500 {
		t.Error("too few to tell")
	}
}

// Every parameter that Stripe's specification has, at any depth, is either simulated or
// refused as not simulated: none is called unknown.
func TestNoParameterOfStripesIsUnknown(t *testing.T) {
	t.Parallel()
	s := start(t, Options{LogSize: -1})
	d := newDiffer(t, s)
	tried := 0
	for _, e := range loadEndpoints(t) {
		method, _, _ := strings.Cut(e.Name, " ")
		path := d.path(e.Name)
		for _, p := range e.Params {
			leaves(p.Name, p.Schema, func(name string, schema obj) {
				g := generated{method: method, path: path, pairs: sample(name, schema)}
				tried++
				if code, body := d.send(s.url, g); code == http.StatusBadRequest && strings.Contains(body, "parameter_unknown") {
					t.Errorf("%s %v: %s", e.Name, g.pairs, body)
				}
			})
		}
	}
	t.Logf("%d tried", tried)
	if tried < 500 {
		t.Error("too few to tell")
	}
}

// leaves calls f with every member of a schema that has none of its own.
func leaves(name string, schema obj, f func(name string, schema obj)) {
	for _, alt := range append([]any{schema}, listOfAny(schema["anyOf"])...) {
		alt := alt.(obj)
		items, _ := alt["items"].(obj)
		props, _ := alt["properties"].(obj)
		switch {
		case items != nil:
			leaves(name+"[0]", items, f)
		case props != nil:
			for k, v := range props {
				leaves(name+"["+k+"]", v.(obj), f)
			}
		case alt["anyOf"] == nil:
			f(name, alt)
		}
	}
}

func listOfAny(v any) []any { l, _ := v.([]any); return l }
