package stripesim

import (
	"slices"
	"strings"
)

// Named endpoints of the lists that can lag.
const (
	listCustomers   = "GET /v1/customers"
	listBalanceTxns = "GET /v1/customers/{id}/balance_transactions"
	listGrants      = "GET /v1/billing/credit_grants"
	listCreditTxns  = "GET /v1/billing/credit_balance_transactions"
	listEvents      = "GET /v1/events"
	listInvoices    = "GET /v1/invoices"
	listItems       = "GET /v1/invoiceitems"
	listNotes       = "GET /v1/credit_notes"
)

// route is one named endpoint.
type route struct {
	name   string // "GET /v1/customers/{id}"
	method string
	segs   []string
	expand expansion
	handle func(*call) (any, *apiError)
	// credits: with Switches.ExpiryOnRead, this read brings about what is due.
	credits bool
	// v2: parameters of a body come as JSON.
	v2 bool
}

var routes = makeRoutes()

func makeRoutes() []*route {
	var rs []*route
	add := func(name string, x expansion, h func(*call) (any, *apiError)) {
		method, path, _ := strings.Cut(name, " ")
		rs = append(rs, &route{
			name: name, method: method, segs: strings.Split(path[1:], "/"), expand: x, handle: h,
			credits: method == "GET" && strings.HasPrefix(path, "/v1/billing/"), v2: strings.HasPrefix(path, "/v2/"),
		})
	}
	add(listCustomers, expandList(expandCustomer), (*call).listCustomers)
	add("POST /v1/customers", expandCustomer, (*call).createCustomer)
	add("GET /v1/customers/{id}", expandCustomer, (*call).getCustomer)
	add("POST /v1/customers/{id}", expandCustomer, (*call).updateCustomer)
	add("DELETE /v1/customers/{id}", nil, (*call).deleteCustomer)
	add(listBalanceTxns, expandList(expandBalanceTxn), (*call).listBalanceTxns)
	add("POST /v1/customers/{id}/balance_transactions", expandBalanceTxn, (*call).createBalanceTxn)
	add("GET /v1/customers/{id}/balance_transactions/{txn}", expandBalanceTxn, (*call).getBalanceTxn)
	add("POST /v1/customers/{id}/balance_transactions/{txn}", expandBalanceTxn, (*call).updateBalanceTxn)

	add(listGrants, expandList(expandGrant), (*call).listGrants)
	add("POST /v1/billing/credit_grants", expandGrant, (*call).createGrant)
	add("GET /v1/billing/credit_grants/{id}", expandGrant, (*call).getGrant)
	add("POST /v1/billing/credit_grants/{id}", expandGrant, (*call).updateGrant)
	add("POST /v1/billing/credit_grants/{id}/expire", expandGrant, (*call).expireGrant)
	add("POST /v1/billing/credit_grants/{id}/void", expandGrant, (*call).voidGrant)
	add(listCreditTxns, expandList(expandCreditTxn), (*call).listCreditTxns)
	add("GET /v1/billing/credit_balance_transactions/{id}", expandCreditTxn, (*call).getCreditTxn)
	add("GET /v1/billing/credit_balance_summary", expandSummary, (*call).creditSummary)

	add(listInvoices, expandList(expandInvoice), (*call).listInvoices)
	add("POST /v1/invoices", expandInvoice, (*call).createInvoice)
	add("POST /v1/invoices/create_preview", expandInvoice, (*call).previewInvoice)
	add("GET /v1/invoices/{id}", expandInvoice, (*call).getInvoice)
	add("POST /v1/invoices/{id}", expandInvoice, (*call).updateInvoice)
	add("DELETE /v1/invoices/{id}", nil, (*call).deleteInvoice)
	add("GET /v1/invoices/{id}/lines", expandList(nil), (*call).listLines)
	add("POST /v1/invoices/{id}/add_lines", expandInvoice, (*call).addLines)
	add("POST /v1/invoices/{id}/finalize", expandInvoice, (*call).finalizeInvoice)
	add("POST /v1/invoices/{id}/pay", expandInvoice, (*call).payInvoice)
	add("POST /v1/invoices/{id}/void", expandInvoice, (*call).voidInvoice)
	add("POST /v1/invoices/{id}/mark_uncollectible", expandInvoice, (*call).markUncollectible)
	add(listItems, expandList(expandItem), (*call).listItems)
	add("POST /v1/invoiceitems", expandItem, (*call).createItem)
	add("GET /v1/invoiceitems/{id}", expandItem, (*call).getItem)
	add("POST /v1/invoiceitems/{id}", expandItem, (*call).updateItem)
	add("DELETE /v1/invoiceitems/{id}", nil, (*call).deleteItem)
	add(listNotes, expandList(expandNote), (*call).listNotes)
	add("POST /v1/credit_notes", expandNote, (*call).createNote)
	add("GET /v1/credit_notes/preview", expandNote, (*call).previewNote)
	add("GET /v1/credit_notes/preview/lines", expandList(nil), (*call).previewNoteLines)
	add("GET /v1/credit_notes/{id}", expandNote, (*call).getNote)
	add("POST /v1/credit_notes/{id}", expandNote, (*call).updateNote)
	add("POST /v1/credit_notes/{id}/void", expandNote, (*call).voidNote)
	add("GET /v1/credit_notes/{id}/lines", expandList(nil), (*call).listNoteLines)
	add("GET /v1/prices", expandList(expandPrice), (*call).listPrices)
	add("POST /v1/prices", expandPrice, (*call).createPrice)
	add("GET /v1/prices/{id}", expandPrice, (*call).getPrice)

	add(listEvents, expandList(nil), (*call).listEvents)
	add("GET /v1/events/{id}", nil, (*call).getEvent)
	add("GET /v1/webhook_endpoints", expandList(nil), (*call).listHooks)
	add("POST /v1/webhook_endpoints", nil, (*call).createHook)
	add("GET /v1/webhook_endpoints/{id}", nil, (*call).getHook)
	add("POST /v1/webhook_endpoints/{id}", nil, (*call).updateHook)
	add("DELETE /v1/webhook_endpoints/{id}", nil, (*call).deleteHook)

	add("GET /v1/test_helpers/test_clocks", expandList(nil), (*call).listClocks)
	add("POST /v1/test_helpers/test_clocks", nil, (*call).createClock)
	add("GET /v1/test_helpers/test_clocks/{id}", nil, (*call).getClock)
	add("DELETE /v1/test_helpers/test_clocks/{id}", nil, (*call).deleteClock)
	add("POST /v1/test_helpers/test_clocks/{id}/advance", nil, (*call).advanceClock)
	add("GET /v1/account", nil, (*call).getAccount)

	add("GET /v2/core/events", nil, (*call).listThinEvents)
	add("GET /v2/core/events/{id}", nil, (*call).getThinEvent)
	add("GET /v2/core/event_destinations", nil, (*call).listDestinations)
	add("POST /v2/core/event_destinations", nil, (*call).createDestination)
	add("GET /v2/core/event_destinations/{id}", nil, (*call).getDestination)
	add("POST /v2/core/event_destinations/{id}", nil, (*call).updateDestination)
	add("DELETE /v2/core/event_destinations/{id}", nil, (*call).deleteDestination)
	add("POST /v2/core/event_destinations/{id}/disable", nil, (*call).disableDestination)
	add("POST /v2/core/event_destinations/{id}/enable", nil, (*call).enableDestination)
	add("POST /v2/core/event_destinations/{id}/ping", nil, (*call).pingDestination)
	return rs
}

// knownEndpoint reports whether name is a named endpoint.
func knownEndpoint(name string) bool {
	return slices.ContainsFunc(routes, func(r *route) bool { return r.name == name })
}

// match finds the endpoint of a request and the values of its {…} segments.
func match(method, path string) (*route, []string) {
	segs := strings.Split(strings.Trim(path, "/"), "/")
next:
	for _, r := range routes {
		if r.method != method || len(r.segs) != len(segs) {
			continue
		}
		var args []string
		for i, s := range r.segs {
			switch {
			case s[0] == '{':
				if segs[i] == "" || segs[i] == "search" || segs[i] == "preview" || segs[i] == "create_preview" || segs[i] == "upcoming" { // /v1/customers/search is no customer
					continue next
				}
				args = append(args, segs[i])
			case s != segs[i]:
				continue next
			}
		}
		return r, args
	}
	return nil, nil
}
