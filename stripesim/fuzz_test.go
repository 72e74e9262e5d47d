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
		a.mu.Unlock()
		rt := routes[uint(n)%uint(len(routes))]
		_, path, _ := strings.Cut(rt.name, " ")
		id := c.id
		if strings.Contains(path, "credit_grants") {
			id = g.id
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
