package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// route is one operation of the API.
type route struct {
	method string
	// path is split at its slashes, without /v1; "{id}" is any one segment.
	path []string
	// params are the operation's own; paging and expand[] come by themselves.
	params, arrays []string
	// rows names the rows of a list in errors; empty for a single object.
	rows string
	// expand is what can be expanded of the object, or of each row.
	expand expansion
	serve  func(context.Context, *call) (any, error)
}

const (
	nameCustomer           = "customer"
	nameBalanceTransaction = "customer balance transaction"
	nameGrant              = "credit grant"
	nameCreditTransaction  = "credit balance transaction"
)

// routes holds every operation that is served. What Stripe has besides is
// answered as Stripe answers a path that it does not know.
var routes = []route{
	get("customers/{id}", route{expand: expandCustomer, serve: getCustomer}),
	get("customers/{id}/balance_transactions", route{
		rows: nameBalanceTransaction, expand: expandBalanceTransaction, serve: listBalanceTransactions,
	}),
	get("customers/{id}/balance_transactions/{id}", route{expand: expandBalanceTransaction, serve: getBalanceTransaction}),
	get("billing/credit_grants", route{
		params: []string{"customer"}, rows: nameGrant, expand: expandGrant, serve: listGrants,
	}),
	get("billing/credit_grants/{id}", route{expand: expandGrant, serve: getGrant}),
	get("billing/credit_balance_transactions", route{
		params: []string{"customer", "credit_grant"}, rows: nameCreditTransaction,
		expand: expandCreditTransaction, serve: listCreditTransactions,
	}),
	get("billing/credit_balance_transactions/{id}", route{expand: expandCreditTransaction, serve: getCreditTransaction}),
	get("billing/credit_balance_summary", route{
		params: []string{"customer", filterType, filterGrant, filterPriceType},
		arrays: []string{filterPrices}, expand: expandSummary, serve: getSummary,
	}),
}

func get(path string, rt route) route {
	rt.method, rt.path = http.MethodGet, strings.Split(path, "/")
	rt.arrays = append(rt.arrays, paramExpand)
	if rt.rows != "" {
		rt.params = append(rt.params, paramLimit, paramAfter, paramBefore)
		rt.expand = expansion{"data": rt.expand}
	}
	return rt
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
		if err != nil || id == "" {
			return nil, false
		}
		ids = append(ids, id)
	}
	return ids, true
}

// match finds the route of a request. It takes the path as it was sent: cleaning
// it would mean a redirect, which no SDK expects, and an escaped slash inside an
// id must not become a new segment.
func match(r *http.Request, granted access) (*route, []string, error) {
	var allowed []string
	if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v1/"); ok {
		segments := strings.Split(rest, "/")
		for i := range routes {
			ids, ok := routes[i].ids(segments)
			if !ok {
				continue
			}
			if routes[i].method == r.Method {
				return &routes[i], ids, nil
			}
			allowed = append(allowed, routes[i].method)
		}
	}
	if len(allowed) == 0 {
		return nil, nil, errUnrecognized(http.StatusNotFound, r.Method, r.URL.Path)
	}
	if slices.Contains([]string{http.MethodPost, http.MethodDelete}, r.Method) && granted != accessWrite {
		return nil, nil, errReadOnlyKey()
	}
	e := errUnrecognized(http.StatusMethodNotAllowed, r.Method, r.URL.Path)
	e.header = map[string]string{"Allow": strings.Join(allowed, ", ")}
	return nil, nil, e
}
