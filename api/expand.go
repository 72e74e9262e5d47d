package api

import "strings"

// expansion is a tree of property names: what a request wants expanded, or what
// can be. A property inside an expanded one expands that too.
type expansion map[string]expansion

func (x expansion) has(name string) bool {
	_, ok := x[name]
	return ok
}

// deep reports whether a property is expanded at any depth.
func (x expansion) deep(name string) bool {
	for n, inner := range x {
		if n == name || inner.deep(name) {
			return true
		}
	}
	return false
}

// maxExpandDepth is Stripe's.
const maxExpandDepth = 4

// What the mirror can expand: what it holds. Stripe also expands invoices,
// credit notes, test clocks and more.
var (
	expandCustomer           = expansion{"invoice_credit_balance": nil}
	expandBalanceTransaction = expansion{"customer": expandCustomer}
	expandGrant              = expansion{"customer": expandCustomer}
	expandCreditTransaction  = expansion{"credit_grant": expandGrant}
	expandSummary            = expansion{"customer": expandCustomer}
)

// parseExpand reads the paths of expand[].
func parseExpand(paths []string, allowed expansion) (expansion, error) {
	tree := expansion{}
	for _, path := range paths {
		names := strings.SplitN(path, ".", maxExpandDepth+1)
		if len(names) > maxExpandDepth {
			return nil, errInvalid("property_expansion_max_depth", "", "You cannot expand more than %d levels of a property. Property: %s",
				maxExpandDepth, clip(path))
		}
		at, can := tree, allowed
		for _, name := range names {
			inner, ok := can[name]
			if !ok {
				return nil, errExpand(path, allowed.has("data"))
			}
			if at[name] == nil {
				at[name] = expansion{}
			}
			at, can = at[name], inner
		}
	}
	return tree, nil
}

func errExpand(path string, list bool) error {
	hint := ""
	if list && !strings.HasPrefix(path, "data.") {
		hint = " You may want to try expanding 'data." + clip(path) + "' instead."
	}
	return errInvalid("", "", "This property cannot be expanded (%s).%s", clip(path), hint)
}
