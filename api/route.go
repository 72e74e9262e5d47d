package api

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
)

// route is one operation of the API.
type route struct {
	method string
	// path is split at its slashes, without /v1; "{id}" is any one segment.
	path []string
	// name is the whole path, as metrics and spans name it.
	name string
	// params are the operation's own; paging and expand[] come by themselves.
	params, arrays []string
	// rows names the rows of a list in errors; empty for a single object.
	rows string
	// created means that the list can be filtered by created.
	created bool
	// single means that the operation reads the mirror once, when nothing is
	// expanded, so that it needs no snapshot.
	single bool
	// beyond means that Stripe has no such operation: paging is its own.
	beyond bool
	// patience is how long the operation may wait for something to happen.
	patience time.Duration
	// expand is what can be expanded of the object, or of each row.
	expand expansion
	// targets are what Creditmirror-Max-Age asks to be fresh; nil: cannot be asked.
	targets func(context.Context, *call) ([]mirror.Target, error)
	serve   func(context.Context, *call) (any, error)
	// write sends a POST on; then serve is nil.
	write func(context.Context, *Writes, *call) (written, error)
	// operation is what a write does.
	operation access.Operation
	// ledgers are those that the operation shows or changes.
	ledgers []access.Ledger
}

const (
	nameCustomer           = "customer"
	nameBalanceTransaction = "customer balance transaction"
	nameGrant              = "credit grant"
	nameCreditTransaction  = "credit balance transaction"
	nameTestClock          = "test clock"
)

// routes holds every operation that is served. What Stripe has besides is
// answered as Stripe answers a path that it does not know.
var routes = []route{
	get("customers", route{
		params: []string{"email", "test_clock"}, rows: nameCustomer, created: true, single: true,
		expand: expandCustomer, serve: listCustomers,
	}),
	get("customers/{id}", route{single: true, expand: expandCustomer, targets: balanceInPath, serve: getCustomer}),
	get("customers/{id}/balance_transactions", route{
		params: []string{"invoice"}, rows: nameBalanceTransaction, created: true, single: true,
		expand: expandBalanceTransaction, targets: balanceInPath, serve: listBalanceTransactions,
	}),
	get("customers/{id}/balance_transactions/{id}", route{
		expand: expandBalanceTransaction, targets: balanceInPath, serve: getBalanceTransaction,
	}),
	get("billing/credit_grants", route{
		params: []string{"customer", "customer_account"}, rows: nameGrant, single: true,
		expand: expandGrant, targets: paramCredits, serve: listGrants,
	}),
	get("billing/credit_grants/{id}", route{expand: expandGrant, targets: grantCredits, serve: getGrant}),
	get("billing/credit_balance_transactions", route{
		params: []string{"customer", "customer_account", "credit_grant"}, rows: nameCreditTransaction,
		expand: expandCreditTransaction, targets: paramCredits, serve: listCreditTransactions,
	}),
	get("billing/credit_balance_transactions/{id}", route{
		expand: expandCreditTransaction, targets: rowCredits, serve: getCreditTransaction,
	}),
	get("billing/credit_balance_summary", route{
		params: []string{"customer", "customer_account", filterType, filterGrant, filterPriceType},
		arrays: []string{filterPrices}, expand: expandSummary, targets: paramCredits, serve: getSummary,
	}),

	post("customers/{id}/balance_transactions", access.Adjust, createBalanceTransaction),
	post("customers/{id}/balance_transactions/{id}", access.Edit, updateBalanceTransaction),
	post("billing/credit_grants", access.Grant, createGrant),
	post("billing/credit_grants/{id}", access.Edit, updateGrant),
	post("billing/credit_grants/{id}/expire", access.Expire, expireGrant),
	post("billing/credit_grants/{id}/void", access.Void, voidGrant),

	beyond("credits/balances", route{
		params: []string{paramLimit, paramAfter, "as_of"}, serve: listBalances,
	}),
	beyond("credits/rollforward", route{
		params: []string{"from", "to", "by", "timezone", "ledger", "currency"}, single: true, serve: showRollforward,
	}),
	beyond("credits/statement", route{
		params: []string{"customer", "from", "to", "timezone", "ledger", "currency"}, single: true, serve: showStatement,
	}),
	beyond("credits/ageing", route{
		params: []string{"as_of", "buckets", "currency"}, single: true, serve: showAgeing,
	}),
	beyond("credits/changes", route{
		params: []string{paramLimit, "after", "wait"}, single: true, patience: maxWait, serve: listChanges,
	}),
}

// placed puts an operation at its path.
func placed(method, path string, rt route) route {
	rt.method, rt.path, rt.name = method, strings.Split(path, "/"), "/v1/"+path
	switch rt.path[0] {
	case "customers":
		rt.ledgers = []access.Ledger{access.Balance}
	case "billing":
		rt.ledgers = []access.Ledger{access.Credits}
	default:
		rt.ledgers = access.Ledgers()
	}
	return rt
}

func get(path string, rt route) route {
	rt = placed(http.MethodGet, path, rt)
	rt.arrays = append(rt.arrays, paramExpand)
	if rt.created {
		rt.params = append(rt.params, paramsCreated...)
	}
	if rt.rows != "" {
		rt.params = append(rt.params, paramLimit, paramAfter, paramBefore)
		rt.expand = expansion{"data": rt.expand}
	}
	return rt
}

func post(path string, operation access.Operation, write func(context.Context, *Writes, *call) (written, error)) route {
	return placed(http.MethodPost, path, route{operation: operation, write: write})
}

// beyond is an operation that Stripe does not have.
func beyond(path string, rt route) route {
	rt.beyond = true
	return placed(http.MethodGet, path, rt)
}

// ids returns the ids in the path if the route is the one of the path.
func (rt *route) ids(segments []string) ([]string, bool) {
	if len(segments) != len(rt.path) {
		return nil, false
	}
	var ids []string
	for i, want := range rt.path {
		if want != "{id}" {
			if segments[i] != want {
				return nil, false
			}
			continue
		}
		id, err := url.PathUnescape(segments[i])
		if err != nil || id == "" || id == "search" { // Stripe's search is no object
			return nil, false
		}
		ids = append(ids, id)
	}
	return ids, true
}

// match finds the route of a request. It takes the path as it was sent: cleaning
// it would mean a redirect, which no SDK expects, and an escaped slash inside an
// id must not become a new segment. With the error for a method that the path does not
// have comes a route of another method.
func match(r *http.Request) (*route, []string, error) {
	var other *route
	if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v1/"); ok {
		segments := strings.Split(rest, "/")
		for i := range routes {
			ids, ok := routes[i].ids(segments)
			switch {
			case !ok:
			case routes[i].method == r.Method:
				return &routes[i], ids, nil
			default:
				other = &routes[i]
			}
		}
	}
	return other, nil, errUnrecognized(r.Method, r.URL.Path)
}
