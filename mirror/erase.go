package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
)

// Eraser takes a customer's personal data out of a mirror.
type Eraser interface {
	// EraseCustomer takes out what may be personal of a customer that is deleted at
	// Stripe, and keeps ids, amounts, currencies, types and times, so that every chain
	// and sum stays as it is. Again, it changes nothing. ErrNotFound where there is no
	// such customer, ErrNotDeleted where the next sync would bring everything back.
	EraseCustomer(ctx context.Context, account, id string) (Erased, error)
}

// Erased counts rows that were changed.
type Erased struct{ Customers, Transactions, Grants, CreditTransactions, Findings int64 }

// ErrNotDeleted says that Stripe still has the customer.
var ErrNotDeleted = errors.New("the customer is not deleted at stripe")

// keptOfCustomer are the fields of a customer that say nothing of a person.
var keptOfCustomer = []string{
	"id", "object", "balance", "currency", "invoice_credit_balance", "created", "livemode", "test_clock", "customer_account", "deleted",
}

// EraseOfCustomer keeps of a customer's JSON what is not personal.
func EraseOfCustomer(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return raw, nil
	}
	return rewrite(raw, func(v map[string]any) {
		for name := range v {
			if !slices.Contains(keptOfCustomer, name) {
				delete(v, name)
			}
		}
	})
}

// EraseOfRow takes out of the JSON of a transaction or a grant what somebody has written
// into it: descriptions, names and metadata, inside of expanded objects too.
func EraseOfRow(raw json.RawMessage) (json.RawMessage, error) {
	return rewrite(raw, eraseTexts)
}

func eraseTexts(v map[string]any) {
	for name, inner := range v {
		switch name {
		case "description", "name":
			v[name] = nil
			continue
		case "metadata":
			v[name] = map[string]any{}
			continue
		}
		switch inner := inner.(type) {
		case map[string]any:
			if id, ok := inner["id"].(string); ok && name == "customer" {
				v[name] = id // an expanded customer is whole
				continue
			}
			eraseTexts(inner)
		case []any:
			for _, element := range inner {
				if o, ok := element.(map[string]any); ok {
					eraseTexts(o)
				}
			}
		}
	}
}

// rewrite changes an object, with its numbers as they were written.
func rewrite(raw json.RawMessage, change func(map[string]any)) (json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if v == nil {
		return raw, nil
	}
	change(v)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}
