package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// schema is an extract of Stripe's OpenAPI specification: which fields an object
// must have, and of which kind they are.
type schema struct {
	Required   []string
	Properties map[string]property
}

type property struct {
	Type     string
	Nullable bool
	Ref      string `json:"$ref"`
	AnyOf    []struct {
		Type string
		Ref  string `json:"$ref"`
	}
	Items struct {
		Ref string `json:"$ref"`
	}
}

type schemas map[string]schema

// check returns what is wrong with raw as an object of the named schema. Other
// properties than the schema's are allowed: Stripe adds some without notice.
func (all schemas) check(raw json.RawMessage, name string) error {
	s, ok := all[name]
	if !ok {
		return nil // not in the extract
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil || object == nil {
		return fmt.Errorf("%s is not an object: %.40s", name, raw)
	}
	for _, field := range s.Required {
		if _, ok := object[field]; !ok {
			return fmt.Errorf("%s has no %s", name, field)
		}
	}
	for field, value := range object {
		if p, ok := s.Properties[field]; ok {
			if err := all.property(value, p); err != nil {
				return fmt.Errorf("%s.%s: %w", name, field, err)
			}
		}
	}
	return nil
}

func (all schemas) property(value json.RawMessage, p property) error {
	kinds, refs := []string{p.Type}, []string{p.Ref}
	for _, alternative := range p.AnyOf {
		kinds, refs = append(kinds, alternative.Type), append(refs, alternative.Ref)
	}
	kind := kindOf(value)
	if kind == "null" {
		if !p.Nullable {
			return fmt.Errorf("is null")
		}
		return nil
	}
	if kind == "object" {
		var errs []error
		for _, ref := range refs {
			if ref == "" {
				continue
			}
			err := all.check(value, strings.TrimPrefix(ref, "#/components/schemas/"))
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
		if errs != nil {
			return fmt.Errorf("%v", errs)
		}
	}
	if !slices.Contains(kinds, kind) {
		return fmt.Errorf("is %s, want %v", kind, kinds)
	}
	if kind == "array" && p.Items.Ref != "" {
		var elements []json.RawMessage
		if err := json.Unmarshal(value, &elements); err != nil {
			return err
		}
		for _, e := range elements {
			if err := all.check(e, strings.TrimPrefix(p.Items.Ref, "#/components/schemas/")); err != nil {
				return err
			}
		}
	}
	return nil
}

func kindOf(value json.RawMessage) string {
	switch value[0] {
	case '{':
		return "object"
	case '[':
		return "array"
	case '"':
		return "string"
	case 'n':
		return "null"
	case 't', 'f':
		return "boolean"
	}
	if strings.ContainsAny(string(value), ".eE") {
		return "number"
	}
	return "integer"
}

// Every kind of reply has what Stripe's specification requires of it.
func TestSchema(t *testing.T) {
	t.Parallel()
	all := decode[schemas](t, fixture(t, "schemas"))
	h := handlerOf(world(t))
	for _, c := range []struct{ target, name string }{
		{pathBalance, "customer"},
		{pathBalance + "?expand[]=invoice_credit_balance", "customer"},
		{"/v1/customers/" + cusCredits, "customer"},
		{"/v1/customers/" + cusDeleted, "deleted_customer"},
		{"/v1/customers", "customer"},
		{"/v1/customers?test_clock=clock_1&expand[]=data.invoice_credit_balance", "customer"},
		{pathCredits, "billing.credit_balance_transaction"},
		{pathTxns + "?limit=100", "customer_balance_transaction"},
		{pathTxns + "?limit=100&expand[]=data.customer.invoice_credit_balance", "customer_balance_transaction"},
		// Stripe has no list of a deleted customer, so only its plain form has a schema.
		{"/v1/customers/" + cusDeleted + "/balance_transactions", "customer_balance_transaction"},
		{pathTxns + "/cbtxn_1MrU9qLkdIwHu7ix000001?expand[]=customer", "customer_balance_transaction"},
		{pathGrants, "billing.credit_grant"},
		{pathGrants + "?expand[]=data.customer", "billing.credit_grant"},
		{pathGrants + "/" + grantUsed, "billing.credit_grant"},
		{pathCredits + "?customer=" + cusCredits, "billing.credit_balance_transaction"},
		{pathCredits + "?customer=" + cusCredits + "&expand[]=data.credit_grant.customer", "billing.credit_balance_transaction"},
		{pathCredits + "/" + txnDebit + "?expand[]=credit_grant", "billing.credit_balance_transaction"},
		{pathSummary + "?customer=" + cusCredits + metered, "billing.credit_balance_summary"},
		{pathSummary + "?customer=" + cusCredits + metered + "&expand[]=customer", "billing.credit_balance_summary"},
		{"/v1/nothing", "error"},
		{pathTxns + "?limit=x", "error"},
	} {
		body := json.RawMessage(serve(h, local("GET", c.target)).Body.Bytes())
		objects := []json.RawMessage{body}
		var page map[string]json.RawMessage
		if json.Unmarshal(body, &page) == nil && string(page["object"]) == `"list"` {
			if len(page) != 4 || kindOf(page["url"]) != "string" || kindOf(page["has_more"]) != "boolean" {
				t.Errorf("%s: envelope %s", c.target, body)
			}
			objects = decode[[]json.RawMessage](t, page["data"])
		}
		if len(objects) == 0 {
			t.Errorf("%s: nothing to check", c.target)
		}
		for _, object := range objects {
			if err := all.check(object, c.name); err != nil {
				t.Errorf("%s: %v", c.target, err)
			}
		}
	}
}
