package stripesim

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzRequest sends any query and body anywhere: the reply is JSON, is no 5xx, and
// whatever was changed leaves the ledgers closed.
func FuzzRequest(f *testing.F) {
	for _, seed := range []struct {
		route       int
		query, body string
	}{
		{0, "limit=3&expand[]=data.invoice_credit_balance", ""},
		{0, "created[gte]=1&created[lt]=9223372036854775807&created[gt]=-9223372036854775808", ""},
		{1, "", "balance=-5&metadata[a]=b&metadata=&address[city]=x"},
		{6, "", "amount=-999999999999&currency=usd&metadata[a][b]=c"},
		{10, "", "amount[type]=monetary&amount[monetary][value]=1&amount[monetary][currency]=usd&applicability_config[scope][prices][][id]=p"},
		{17, "filter[type]=credit_grant&filter[credit_grant]=x", ""},
		{18, "types[0]=a&types[]=b&delivery_success=true", ""},
		{21, "", "url=http://127.0.0.1:1&enabled_events[]=*&a[b[c]=d&[]=e&f[=g"},
		{routeNumber(f, "POST /v1/invoices/{id}/add_lines"), "", "lines[0][amount]=5&lines[][price_data][currency]=usd&lines[1][price_data][unit_amount]=-9&lines[1][quantity]=7"},
		{routeNumber(f, "POST /v1/invoiceitems"), "", "customer=CUS&amount=-999999999999&currency=usd&period[start]=1&period[end]=9223372036854775807"},
		{routeNumber(f, "POST /v1/credit_notes"), "", "invoice=INV&lines[0][type]=custom_line_item&lines[0][description]=x&lines[0][unit_amount]=9&lines[0][quantity]=999999999999"},
		{routeNumber(f, "POST /v1/invoices/{id}/finalize"), "", "auto_advance=true"},
	} {
		f.Add(seed.route, seed.query, seed.body)
	}
	f.Fuzz(func(t *testing.T, n int, query, body string) {
		s, err := New(Options{Now: newHand().now, Delivery: Delivery{Attempts: 1}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		a := s.account("")
		a.mu.Lock()
		c := a.createCustomer(a.callerCause(), customerChange{}, nil)
		g, _ := a.createGrant(a.callerCause(), c, grantRequest{currency: "usd", amount: 5, priceType: "metered", category: "paid"})
		cz := a.callerCause()
		inv := a.createInvoice(cz, c, invoiceRequest{currency: "usd", collection: "charge_automatically"})
		item := a.createItem(cz, c, inv, itemRequest{amount: 900, unitAmount: 900, quantity: 1, currency: "usd"})
		paid := a.createInvoice(cz, c, invoiceRequest{currency: "usd", collection: "charge_automatically"})
		a.createItem(cz, c, paid, itemRequest{amount: 900, unitAmount: 900, quantity: 1, currency: "usd"})
		a.finalizeInvoice(cz, paid)
		note := &creditNote{invoice: paid, amount: 5, pre: 5}
		a.createNote(cz, note)
		a.mu.Unlock()
		body = strings.ReplaceAll(body, "CUS", c.id)
		body = strings.ReplaceAll(body, "INV", paid.id)
		rt := routes[uint(n)%uint(len(routes))]
		_, path, _ := strings.Cut(rt.name, " ")
		id := c.id
		for part, it := range map[string]string{"credit_grants": g.id, "/invoices": inv.id, "/invoiceitems": item.id, "/credit_notes": note.id} {
			if strings.Contains(path, part) {
				id = it
			}
		}
		path = strings.NewReplacer("{id}", id, "{txn}", "cbtxn_no").Replace(path)
		q, err := http.NewRequest(rt.method, "http://x"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		q.URL = &url.URL{Path: path, RawQuery: query}
		q.Header.Set("Authorization", "Bearer "+testKey)
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r := &recorder{header: http.Header{}}
		s.Handler().ServeHTTP(r, q)
		if r.status >= 500 || !json.Valid(r.body) {
			t.Fatalf("%s?%s %q: %d %s", rt.name, query, body, r.status, r.body)
		}
		for _, tr := range s.Truth() {
			if bad := broken(tr); bad != "" {
				t.Fatalf("%s: %s", tr.ID, bad)
			}
		}
	})
}

func routeNumber(f *testing.F, name string) int {
	f.Helper()
	for i, r := range routes {
		if r.name == name {
			return i
		}
	}
	f.Fatalf("no route %s", name)
	return 0
}
