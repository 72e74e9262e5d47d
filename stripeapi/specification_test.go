package stripeapi

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var updateKnown = flag.Bool("update-specification", false, "write testdata/specification/known.txt anew")

// creditResources are what the mirror reads of Stripe, by the names of the specification.
var creditResources = []string{
	"billing.credit_balance_summary", "billing.credit_balance_transaction", "billing.credit_grant", "customer", "customer_balance_transaction",
}

// specification is the part of Stripe's OpenAPI file that matters here. The whole file of
// a version, as Stripe publishes it, can be dropped into testdata/specification.
type specification struct {
	Info       struct{ Version string }
	Components struct{ Schemas map[string]*specSchema }
}

type specSchema struct {
	Type       string
	Properties map[string]*specSchema
	Required   []string
	Nullable   bool
	Enum       []any
	AnyOf      []*specSchema
	Ref        string `json:"$ref"`
	Items      *specSchema
	// AdditionalProperties is a schema, or a boolean.
	AdditionalProperties json.RawMessage
}

func readSpecification(t *testing.T, raw []byte) specification {
	t.Helper()
	var s specification
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	for _, name := range creditResources {
		if s.Components.Schemas[name] == nil {
			t.Fatalf("the specification of %q has no %s", s.Info.Version, name)
		}
	}
	return s
}

// fields are the members of the credit resources at any depth, by their paths, each
// with what it can be. Of a customer, only its own members.
func (s specification) fields() map[string]string {
	out := map[string]string{}
	for _, name := range creditResources {
		s.describe(out, name, s.Components.Schemas[name], name != "customer")
	}
	return out
}

func (s specification) describe(out map[string]string, at string, schema *specSchema, deep bool) {
	for name, p := range schema.Properties {
		kind, inner := s.kind(p, deep)
		if p.Nullable {
			kind += " or null"
		}
		if !slices.Contains(schema.Required, name) {
			kind += ", may be absent"
		}
		path := at + "." + name
		out[path] = kind
		if p.Type == "array" {
			path += "[]"
		}
		for _, sub := range inner {
			s.describe(out, path, sub, deep)
		}
	}
}

// kind returns what a value can be, and the schemas of objects whose members are listed too.
func (s specification) kind(p *specSchema, deep bool) (kind string, inner []*specSchema) {
	name := p.Ref[strings.LastIndexByte(p.Ref, '/')+1:]
	switch {
	case p.Ref != "" && deep && s.Components.Schemas[name] != nil:
		sub := s.Components.Schemas[name]
		if len(sub.Properties) > 0 {
			return "object", []*specSchema{sub}
		}
		return s.kind(sub, deep)
	case p.Ref != "":
		return "object", nil
	case len(p.AnyOf) > 0:
		var kinds []string
		id := slices.ContainsFunc(p.AnyOf, func(a *specSchema) bool { return a.Type == "string" })
		for _, a := range p.AnyOf {
			k, sub := s.kind(a, deep && !id) // an object in the place of its id is a resource of its own
			if id && k == "object" {
				k = a.Ref[strings.LastIndexByte(a.Ref, '/')+1:]
			}
			if !slices.Contains(kinds, k) {
				kinds = append(kinds, k)
			}
			inner = append(inner, sub...)
		}
		slices.Sort(kinds)
		return strings.Join(kinds, " or "), inner
	case len(p.Enum) > 0:
		words := make([]string, len(p.Enum))
		for i, v := range p.Enum {
			words[i] = fmt.Sprint(v)
		}
		slices.Sort(words)
		return "one of " + strings.Join(words, " "), nil
	case p.Type == "array":
		k, sub := s.kind(p.Items, deep)
		return "list of " + k, sub
	case len(p.Properties) > 0:
		return "object", []*specSchema{p}
	case p.Type == "object" && len(p.AdditionalProperties) > 0 && p.AdditionalProperties[0] == '{':
		var more specSchema
		if json.Unmarshal(p.AdditionalProperties, &more) == nil && more.Type != "" {
			return "map of " + more.Type, nil
		}
	}
	return p.Type, nil
}

// differences lists, line by line, what a specification has otherwise than is known.
func differences(known, is map[string]string) []string {
	var out []string
	for _, path := range slices.Sorted(maps.Keys(known)) {
		switch now, there := is[path]; {
		case !there:
			out = append(out, "gone: "+path+" ("+known[path]+")")
		case now != known[path]:
			out = append(out, "changed: "+path+": "+known[path]+" -> "+now)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(is)) {
		if _, there := known[path]; !there {
			out = append(out, "new: "+path+" ("+is[path]+")")
		}
	}
	return out
}

// refusedOnPurpose are values that the specification allows and the mirror does not take.
var refusedOnPurpose = map[string]string{
	"customer.balance absent":                                                     "0 would be a guess",
	"billing.credit_balance_transaction.type absent":                              "without a direction the amount has no sign",
	"billing.credit_balance_transaction.credit.amount.monetary absent":            "money without an amount",
	"billing.credit_balance_transaction.debit.amount.monetary absent":             "money without an amount",
	"billing.credit_grant.amount.monetary absent":                                 "money without an amount",
	"billing.credit_balance_summary.balances[].available_balance.monetary absent": "money without an amount",
	"billing.credit_balance_summary.balances[].ledger_balance.monetary absent":    "money without an amount",
	"billing.credit_balance_transaction.type null":                                "without a direction the amount has no sign",
	"billing.credit_balance_transaction.type credit":                              "of a debit",
	"billing.credit_balance_transaction.type debit":                               "of a credit",
	"billing.credit_balance_transaction.credit null":                              "of a credit",
	"billing.credit_balance_transaction.credit absent":                            "of a credit",
	"billing.credit_balance_transaction.debit null":                               "of a debit",
	"billing.credit_balance_transaction.debit absent":                             "of a debit",
	"billing.credit_balance_transaction.credit.amount.monetary null":              "money without an amount",
	"billing.credit_balance_transaction.debit.amount.monetary null":               "money without an amount",
	"billing.credit_grant.amount.monetary null":                                   "money without an amount",
	"billing.credit_balance_summary.balances[].available_balance.monetary null":   "money without an amount",
	"billing.credit_balance_summary.balances[].ledger_balance.monetary null":      "money without an amount",
}

// refusals gives the decoders every value that a specification allows for a field, in
// objects that are good otherwise, and lists which they refuse, with the reason.
func (s specification) refusals(t *testing.T) map[string]string {
	t.Helper()
	samples := map[string][]string{
		"billing.credit_balance_summary": {"billing.credit_balance_summary"},
		"billing.credit_balance_transaction": {
			"billing.credit_balance_transaction.credit_credits_granted.current_version", "billing.credit_balance_transaction.credit_invoice_voided",
			"billing.credit_balance_transaction.debit_credits_applied", "billing.credit_balance_transaction.debit_credits_expired",
		},
		"billing.credit_grant":         {"billing.credit_grant", "billing.credit_grant.scoped_to_prices", "billing.credit_grant.voided"},
		"customer":                     {"customer", "customer.expanded_invoice_credit_balance", "customer.on_test_clock"},
		"customer_balance_transaction": {"customer_balance_transaction.adjustment.current_version"},
	}
	out := map[string]string{}
	for _, name := range creditResources {
		for _, file := range samples[name] {
			raw := fixture(t, "objects/"+file+".json")
			if err := decodeResource(name, raw, raw); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			s.vary(name, s.Components.Schemas[name], func(set func(object map[string]any) bool, what string) {
				var object map[string]any
				if err := json.Unmarshal(raw, &object); err != nil {
					t.Fatal(err)
				}
				if !set(object) {
					return
				}
				changed, err := json.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				if err := decodeResource(name, changed, raw); err != nil {
					out[what] = err.Error()
				}
			})
		}
	}
	return out
}

// vary calls f with each way to set a field of a schema, and its name. A way reports
// whether the object has a place for the field.
func (s specification) vary(at string, schema *specSchema, f func(set func(map[string]any) bool, what string)) {
	for name, p := range schema.Properties {
		path := at + "." + name
		put := func(v any, what string) {
			f(func(object map[string]any) bool { object[name] = v; return true }, path+" "+what)
		}
		if p.Nullable {
			put(nil, "null")
		}
		if !slices.Contains(schema.Required, name) {
			f(func(object map[string]any) bool { delete(object, name); return true }, path+" absent")
		}
		for _, v := range p.Enum {
			put(v, fmt.Sprint(v))
		}
		if len(p.Enum) == 0 {
			switch p.Type { // texts have forms of their own, ids and currencies
			case "integer":
				put(1700000000, "integer")
			case "string":
				f(func(object map[string]any) bool {
					if _, text := object[name].(string); !text && object[name] != nil {
						object[name] = "text"
						return true
					}
					return false
				}, path+" string")
			case "boolean":
				put(false, "boolean")
			}
		}
		_, inner := s.kind(p, at != "customer")
		for _, sub := range inner {
			s.vary(path+map[bool]string{true: "[]"}[p.Type == "array"], sub, func(set func(map[string]any) bool, what string) {
				f(func(object map[string]any) bool {
					if list, ok := object[name].([]any); ok && len(list) > 0 {
						first, ok := list[0].(map[string]any)
						return ok && set(first)
					}
					member, ok := object[name].(map[string]any)
					return ok && set(member)
				}, what)
			})
		}
	}
}

// decodeResource reads an object as the mirror does; of good, it is a changed copy.
func decodeResource(name string, body, good []byte) error {
	var v struct{ ID, Customer string }
	if err := json.Unmarshal(good, &v); err != nil {
		return err
	}
	var err error
	switch name {
	case "customer":
		_, err = decodeCustomerReply(body, "", v.ID, false)
	case "customer_balance_transaction":
		_, err = decodeBalanceReply(body, "", v.Customer, v.ID)
	case "billing.credit_grant":
		_, err = decodeGrantReply(body, "", v.ID)
	case "billing.credit_balance_transaction":
		var r row
		if r, err = decodeOne(body); err == nil {
			_, err = decodeCreditTransaction(r, "", cusCredits)
		}
	case "billing.credit_balance_summary":
		_, err = decodeSummary(body, v.Customer)
	}
	return err
}

func knownFields(t *testing.T) map[string]string {
	t.Helper()
	known := map[string]string{}
	for line := range strings.Lines(string(fixture(t, "specification/known.txt"))) {
		path, kind, _ := strings.Cut(strings.TrimSpace(line), ": ")
		known[path] = kind
	}
	return known
}

// TestSpecificationsAreKnown holds every specification in testdata/specification against
// the fields that are known, and against what the mirror can read. A newer one of
// Stripe's that is dropped in there fails it with what differs; once the mirror is right
// for it, -update-specification makes it the known one.
func TestSpecificationsAreKnown(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("testdata", "specification", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no specifications: %v", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := readSpecification(t, raw)
		fields := s.fields()
		if *updateKnown {
			var text strings.Builder
			for _, path := range slices.Sorted(maps.Keys(fields)) {
				fmt.Fprintf(&text, "%s: %s\n", path, fields[path])
			}
			if err := os.WriteFile(filepath.Join("testdata", "specification", "known.txt"), []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, line := range differences(knownFields(t), fields) {
			t.Errorf("%s: %s", s.Info.Version, line)
		}
		refused := s.refusals(t)
		for what, why := range refused {
			if refusedOnPurpose[what] == "" {
				t.Errorf("%s: the mirror refuses %s: %s", s.Info.Version, what, why)
			}
		}
		for what := range refusedOnPurpose {
			if refused[what] == "" {
				t.Errorf("%s: the mirror takes %s, or the specification has it no more", s.Info.Version, what)
			}
		}
		t.Logf("%s: %d fields", s.Info.Version, len(fields))
	}
}

// What a specification changes is reported, and what of it the mirror could not read.
func TestSpecificationThatDiffersIsTold(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob(filepath.Join("testdata", "specification", "*.json"))
	raw, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change  func(all map[string]*specSchema)
		told    string
		refused string // and of these nothing else
	}{
		"a new field": {func(all map[string]*specSchema) {
			all["billing.credit_grant"].Properties["rollover"] = &specSchema{Type: "boolean", Nullable: true}
		}, "new: billing.credit_grant.rollover (boolean or null, may be absent)", ""},
		"a new field within": {func(all map[string]*specSchema) {
			all["billing_credit_grants_resource_scope"].Properties["billable_items"] = &specSchema{Type: "array", Items: &specSchema{Type: "string"}}
		}, "new: billing.credit_grant.applicability_config.scope.billable_items (list of string, may be absent)", ""},
		"a field that goes": {func(all map[string]*specSchema) {
			delete(all["customer_balance_transaction"].Properties, "checkout_session")
		}, "gone: customer_balance_transaction.checkout_session (checkout.session or string or null, may be absent)", ""},
		"an amount as text": {func(all map[string]*specSchema) {
			all["customer_balance_transaction"].Properties["amount"].Type = "string"
		}, "changed: customer_balance_transaction.amount: integer -> string", "customer_balance_transaction.amount string"},
		"a new type of transaction": {func(all map[string]*specSchema) {
			p := all["customer_balance_transaction"].Properties["type"]
			p.Enum = []any{"adjustment", "applied_to_order"}
		}, "changed: customer_balance_transaction.type: one of adjustment applied_to_invoice checkout_session_subscription_payment " +
			"checkout_session_subscription_payment_canceled credit_note initial invoice_overpaid invoice_too_large invoice_too_small migration " +
			"unapplied_from_invoice unspent_receiver_credit -> one of adjustment applied_to_order", ""},
		"null where there was none": {func(all map[string]*specSchema) {
			all["customer_balance_transaction"].Properties["currency"].Nullable = true
		}, "changed: customer_balance_transaction.currency: string -> string or null", "customer_balance_transaction.currency null"},
		"no longer required": {func(all map[string]*specSchema) {
			s := all["customer_balance_transaction"]
			s.Required = slices.DeleteFunc(s.Required, func(n string) bool { return n == "ending_balance" })
		}, "changed: customer_balance_transaction.ending_balance: integer -> integer, may be absent", "customer_balance_transaction.ending_balance absent"},
		"an object of another kind": {func(all map[string]*specSchema) {
			p := all["billing.credit_grant"].Properties["customer"]
			p.AnyOf[1].Ref = "#/components/schemas/v2.core.account"
		}, "changed: billing.credit_grant.customer: customer or deleted_customer or string -> deleted_customer or string or v2.core.account", ""},
	} {
		s := readSpecification(t, raw)
		c.change(s.Components.Schemas)
		if got := strings.Join(differences(knownFields(t), s.fields()), "\n"); got != c.told {
			t.Errorf("%s: told is\n%s\nwant\n%s", name, got, c.told)
		}
		var refused []string
		for what := range s.refusals(t) {
			if refusedOnPurpose[what] == "" {
				refused = append(refused, what)
			}
		}
		slices.Sort(refused)
		if got := strings.Join(refused, "\n"); got != c.refused {
			t.Errorf("%s: refused is\n%s\nwant\n%s", name, got, c.refused)
		}
	}
}
