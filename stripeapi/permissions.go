package stripeapi

import (
	"errors"
	"strings"
)

// permissions are what a restricted key needs for a call, by the first part of its
// endpoint, as Stripe's dashboard names it.
var permissions = map[string]string{
	"customers":                     "Customers",
	"customer_balance_transactions": "Customers",
	"credit_grants":                 "Billing credits",
	"credit_balance_transactions":   "Billing credits",
	"credit_balance_summary":        "Billing credits",
	"events":                        "Events",
	"test_clocks":                   "Test clocks",
	"webhook_endpoints":             "Webhook endpoints",
}

// Permission returns which permission, as Stripe's dashboard names it, a restricted key
// lacks that was answered with err; ok is false for every other error, of a key that
// has no access to a connected account at all too.
func Permission(err error) (name string, ok bool) {
	e, is := errors.AsType[*Error](err)
	if !is || e.Kind != KindForbidden {
		return "", false
	}
	kind, _, _ := strings.Cut(e.Endpoint, ".")
	return permissions[kind], true
}
