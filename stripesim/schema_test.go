package stripesim

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// schemas validates JSON against the extract of Stripe's specification.
type schemas map[string]obj

// loadSchemas reads the extract once. The second file has invoices whole, which
// the first has in extract.
var loadSchemas = sync.OnceValue(func() schemas {
	all := schemas{}
	for _, name := range []string{"testdata/schemas.json", "testdata/schemas_invoices.json"} {
		raw, err := os.ReadFile(name)
		if err != nil {
			panic(err)
		}
		var f struct {
			Components struct {
				Schemas schemas `json:"schemas"`
			} `json:"components"`
		}
		if err := json.Unmarshal(raw, &f); err != nil {
			panic(err)
		}
		maps.Copy(all, f.Components.Schemas)
	}
	lines := all["invoice"]["properties"].(obj)["lines"].(obj)
	lines["properties"].(obj)["total_count"] = obj{"type": "integer"} // recorded, and in no specification
	return all
})

// reply returns what is wrong with a whole reply: an object, a list of them, an
// error. The object of an event is checked, too.
func (s schemas) reply(v obj) []string {
	if _, ok := v["error"]; ok {
		return s.check(s["error"], v, "error")
	}
	name, _ := v["object"].(string)
	if name == "list" {
		var bad []string
		for _, x := range v["data"].([]any) {
			bad = append(bad, s.reply(x.(obj))...)
		}
		return bad
	}
	if name == "account" { // not in the extract
		return nil
	}
	if v["deleted"] == true && s["deleted_"+name] != nil {
		name = "deleted_" + name
	} else if v["deleted"] == true {
		return nil
	}
	if s[name] == nil {
		return []string{"no schema " + name}
	}
	bad := s.check(s[name], v, name)
	if name == "event" {
		bad = append(bad, s.reply(v["data"].(obj)["object"].(obj))...)
	}
	return bad
}

// check returns what is wrong with v. Properties that the extract does not know
// are wrong too, unless it says that it was trimmed.
func (s schemas) check(spec obj, v any, at string) []string {
	if ref, ok := spec["$ref"].(string); ok {
		name := ref[strings.LastIndexByte(ref, '/')+1:]
		if s[name] == nil {
			return nil
		}
		return s.check(s[name], v, at)
	}
	if v == nil {
		if spec["nullable"] == true {
			return nil
		}
		return []string{at + ": null"}
	}
	if alts, ok := spec["anyOf"].([]any); ok {
		var first []string
		for _, alt := range alts {
			bad := s.check(alt.(obj), v, at)
			if len(bad) == 0 {
				return nil
			}
			if first == nil || isObject(v) && len(bad) < len(first) {
				first = bad
			}
		}
		return first
	}
	if enum, ok := spec["enum"].([]any); ok && !slices.Contains(enum, v) {
		return []string{fmt.Sprintf("%s: %v is not one of %v", at, v, enum)}
	}
	var bad []string
	switch spec["type"] {
	case "string":
		str, ok := v.(string)
		if n, has := spec["maxLength"].(float64); !ok || has && len(str) > int(n) {
			bad = append(bad, at+": not a string of that length")
		}
	case "integer":
		if f, ok := v.(float64); !ok || f != math.Trunc(f) {
			bad = append(bad, at+": not an integer")
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			bad = append(bad, at+": not a boolean")
		}
	case "array":
		list, ok := v.([]any)
		if !ok {
			return []string{at + ": not an array"}
		}
		for i, x := range list {
			bad = append(bad, s.check(spec["items"].(obj), x, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case "object":
		m, ok := v.(obj)
		if !ok {
			return []string{at + ": not an object"}
		}
		props, _ := spec["properties"].(obj)
		req, _ := spec["required"].([]any)
		for _, k := range req {
			if _, ok := m[k.(string)]; !ok {
				bad = append(bad, at+": no "+k.(string))
			}
		}
		for k, x := range m {
			p, known := props[k].(obj)
			switch {
			case known:
				bad = append(bad, s.check(p, x, at+"."+k)...)
			case props != nil && spec["x-trimmed"] != true && spec["additionalProperties"] == nil:
				bad = append(bad, at+": unknown "+k)
			}
		}
	}
	return bad
}

func isObject(v any) bool { _, ok := v.(obj); return ok }

func TestRepliesFitTheSchemas(t *testing.T) {
	t.Parallel()
	specs := loadSchemas()
	s := start(t, Options{})
	clock := s.post("/v1/test_helpers/test_clocks", "frozen_time=1000000").str("id")
	onClock := s.customer("test_clock=" + clock)
	s.grant(onClock, 10, "expires_at=1000500")
	cus := s.customer("balance=-500", "email=a@example.com", "metadata[k]=v", "address[city]=Paris", "phone=123", "preferred_locales[]=fr")
	s.adjust(cus, 20, "eur")
	s.grant(cus, 100, "metadata[a]=b", "category=promotional", "name=n")
	s.post("/v1/billing/credit_grants/" + s.grant(cus, 100).str("id") + "/void")
	s.post("/v1/billing/credit_grants/" + s.grant(cus, 100).str("id") + "/expire")
	s.post("/v1/billing/credit_grants", "customer="+cus, "amount[type]=monetary", "amount[monetary][currency]=eur", "amount[monetary][value]=9",
		"applicability_config[scope][prices][0][id]="+s.metered())
	res, err := s.ApplyCredits(InvoiceUse{Customer: cus, Currency: "usd", Amount: 60})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ApplyBalance(InvoiceUse{Customer: cus, Invoice: res.Invoice, Currency: "usd", Amount: 60}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.VoidInvoice("", res.Invoice); err != nil {
		t.Fatal(err)
	}
	s.post("/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time=1001000")
	s.post("/v1/webhook_endpoints", "url=https://a.example", "enabled_events[]=customer.updated")
	gone := s.customer()
	s.must("DELETE", "/v1/customers/"+gone)

	check := func(v obj) {
		t.Helper()
		name := v["object"].(string)
		if v["deleted"] == true {
			name = "deleted_" + name
		}
		if specs[name] == nil {
			t.Errorf("no schema %s", name)
			return
		}
		for _, bad := range specs.check(specs[name], v, name) {
			t.Error(bad)
		}
	}
	seen := map[string]int{}
	for _, path := range []string{
		"/v1/customers", "/v1/customers?expand[]=data.invoice_credit_balance", "/v1/customers?test_clock=" + clock,
		"/v1/customers/" + cus + "/balance_transactions", "/v1/customers/" + cus + "/balance_transactions?expand[]=data.customer&expand[]=data.invoice",
		"/v1/billing/credit_grants", "/v1/billing/credit_grants?expand[]=data.customer&expand[]=data.test_clock",
		"/v1/billing/credit_balance_transactions?customer=" + cus,
		"/v1/billing/credit_balance_transactions?customer=" + onClock + "&expand[]=data.credit_grant.customer&expand[]=data.test_clock",
		"/v1/billing/credit_balance_transactions?customer=" + cus + "&expand[]=data.debit.credits_applied.invoice&expand[]=data.credit.credits_application_invoice_voided.invoice",
		"/v1/events?limit=100", "/v1/webhook_endpoints", "/v1/test_helpers/test_clocks",
	} {
		r := s.get(path)
		for _, v := range r.data() {
			check(v)
			seen[v["object"].(string)]++
			if e, ok := v["data"].(obj); ok { // an event's payload is an object, too
				check(e["object"].(obj))
			}
		}
	}
	check(s.get("/v1/customers/" + gone).obj)
	check(s.get("/v1/billing/credit_balance_summary?customer=" + cus + "&expand[]=customer&filter[type]=applicability_scope&filter[applicability_scope][price_type]=metered").obj)
	for _, bad := range specs.check(specs["error"], any(s.do("GET", "/v1/customers/no").obj), "error") {
		t.Error(bad)
	}
	for _, kind := range []string{
		"customer", "customer_balance_transaction", "billing.credit_grant", "billing.credit_balance_transaction", "event", "webhook_endpoint", "test_helpers.test_clock",
	} {
		if seen[kind] == 0 {
			t.Errorf("no %s was checked", kind)
		}
	}
}
