package stripesim

import "strings"

// expansion is the tree of what a request wants expanded.
type expansion map[string]expansion

func (x expansion) has(name string) bool {
	_, ok := x[name]
	return ok
}

// maxExpandDepth is Stripe's limit on the levels of one expand path.
const maxExpandDepth = 4

// What can be expanded, per kind of object. Plain sub-objects that Stripe's
// specification also lists are accepted and change nothing.
var (
	expandCustomer = expansion{
		"address": nil, "cash_balance": nil, "default_source": nil, "discount": nil, "invoice_credit_balance": nil,
		"invoice_settings": nil, "shipping": nil, "sources": nil, "subscriptions": nil, "tax": nil, "tax_ids": nil, "test_clock": nil,
	}
	expandInvoice = expansion{
		"customer": expandCustomer, "default_payment_method": nil, "default_source": nil, "discounts": nil, "test_clock": nil,
		"lines": {"data": nil},
	}
	expandItem = expansion{"customer": expandCustomer, "discounts": nil, "invoice": expandInvoice, "test_clock": nil}
	expandNote = expansion{
		"customer": expandCustomer, "invoice": expandInvoice, "lines": {"data": nil},
		"customer_balance_transaction": {"customer": expandCustomer, "invoice": expandInvoice},
	}
	expandPrice      = expansion{}
	expandBalanceTxn = expansion{
		"checkout_session": nil, "credit_note": expandNote, "customer": expandCustomer, "invoice": expandInvoice,
	}
	expandGrant = expansion{
		"amount": nil, "applicability_config": nil, "customer": expandCustomer, "test_clock": nil,
	}
	expandUsed      = expansion{"invoice": expandInvoice}
	expandCreditTxn = expansion{
		"credit": {"amount": nil, "credits_application_invoice_voided": expandUsed}, "credit_grant": expandGrant,
		"debit": {"amount": nil, "credits_applied": expandUsed}, "test_clock": nil,
	}
	expandSummary = expansion{"balances": nil, "customer": expandCustomer}
)

func expandList(of expansion) expansion { return expansion{"data": of} }

// parseExpand checks each path against what can be expanded. What can't is
// refused, never ignored.
func parseExpand(paths []string, allowed expansion) (expansion, *apiError) {
	if len(paths) == 0 {
		return nil, nil
	}
	tree := expansion{}
	_, isList := allowed["data"]
	for _, path := range paths {
		parts := strings.Split(path, ".")
		if len(parts) > maxExpandDepth {
			return nil, errInvalid("property_expansion_max_depth", "", "You cannot expand more than %d levels of a property. Property: %s", maxExpandDepth, path)
		}
		at, spec := tree, allowed
		for i, part := range parts {
			sub, ok := spec[part]
			if !ok {
				hint := ""
				if isList && parts[0] != "data" {
					hint = " You may want to try expanding 'data." + path + "' instead."
				}
				return nil, errInvalid("", "", "This property cannot be expanded (%s).%s", strings.Join(parts[:i+1], "."), hint)
			}
			if at[part] == nil {
				at[part] = expansion{}
			}
			at, spec = at[part], sub
		}
	}
	return tree, nil
}
