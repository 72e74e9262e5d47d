package api

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

// What parsing lets through is something that the mirror can be asked as it is.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"", "limit=1", "limit=-1", "limit=1e9", "limit=NaN", "limit=1&limit=2", "&&a&=b&=",
		"starting_after=' OR 1=1--", "starting_after=%00", "starting_after=cbtxn_1&ending_before=cbtxn_2",
		"expand[]=data.customer", "expand%5B0%5D=data.credit_grant.customer.invoice_credit_balance", "expand[-1]=x", "expand[][]=x",
		strings.Repeat("expand[]=data.customer&", 101), "customer=cus_../../x", "customer=%ff;limit=2", "limit=%zz", "created[gte]=NaN",
		"filter[type]=applicability_scope&filter[applicability_scope][prices][0][id]=p&filter[applicability_scope][price_type]=metered",
	} {
		for i := range routes {
			f.Add(i, seed)
		}
	}
	f.Fuzz(func(t *testing.T, i int, raw string) {
		rt := routes[uint(i)%uint(len(routes))]
		c := &call{}
		if err := rt.parse(raw, c); err != nil {
			e, ok := err.(*apiError)
			if !ok || e.status != 400 || e.typ != typeInvalidRequest || e.message == "" {
				t.Fatalf("%q: %v", raw, err)
			}
			if n := len(e.message) + len(e.param); n > 2000 {
				t.Fatalf("an error of %d bytes", n)
			}
			if !strings.Contains(string(e.envelope()), `"error"`) {
				t.Fatalf("%s", e.envelope())
			}
			return
		}
		if rt.rows == "" {
			if c.page != (mirror.Page{}) {
				t.Fatalf("%q: a page of one object: %+v", raw, c.page)
			}
		} else if c.page.Limit < 1 || c.page.Limit > maxLimit {
			t.Fatalf("%q: page %+v", raw, c.page)
		}
		if c.page.After != "" && !validID(c.page.After) || c.page.Before != "" && !validID(c.page.Before) {
			t.Fatalf("%q: cursors %q, %q", raw, c.page.After, c.page.Before)
		}
		allowed := rt.expand
		if rt.rows != "" {
			allowed = allowed["data"]
		}
		within(t, c.expand, allowed, maxExpandDepth)
		for name, value := range c.query.values {
			if value == "" || !slices.Contains(rt.params, name) {
				t.Fatalf("%q: %s = %q", raw, name, value)
			}
		}
		for name, values := range c.query.arrays {
			if len(values) == 0 || len(values) > maxElements || !slices.Contains(rt.arrays, name) {
				t.Fatalf("%q: %s has %d elements", raw, name, len(values))
			}
		}
		// Every pair of the query is somewhere in what was read: nothing is ignored but empty
		// arrays, which say nothing.
		pairs := len(c.query.values)
		for _, values := range c.query.arrays {
			pairs += len(values)
		}
		said := slices.DeleteFunc(strings.Split(raw, "&"), func(s string) bool {
			name, value, _ := strings.Cut(s, "=")
			name, err := url.QueryUnescape(name)
			return s == "" || err == nil && value == "" && slices.Contains(rt.arrays, name+"[]")
		})
		if n := len(said); n != pairs {
			t.Fatalf("%q: %d pairs, %d read", raw, n, pairs)
		}
	})
}

// within fails unless x is a part of allowed, no deeper than depth.
func within(t *testing.T, x, allowed expansion, depth int) {
	t.Helper()
	for name, inner := range x {
		sub, ok := allowed[name]
		if !ok || depth == 0 {
			t.Fatalf("expands %s", name)
		}
		within(t, inner, sub, depth-1)
	}
}

// Whatever path and header come, the answer is JSON of a known status, and
// nothing is read from the mirror with an id that is none.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		pathBalance, pathTxns, pathTxns + "/x", pathGrants, pathGrants + "/" + grantUsed, pathCredits + "/" + txnDebit,
		"/v1/customers/cus_..%2f..%2fx", "/v1/customers/%00/balance_transactions", "//v1", "/v1/../v1/billing", "*", "/v1/customers/%zz",
	} {
		f.Add("GET", seed, "limit=2", "Bearer right", "acct_1", "2024-06-20")
		f.Add("GET", "/v1/customers", "created[gte]=1&email=x", "Bearer right", "acct_1", "")
		f.Add("GET", "/v1/credits/changes", "after=1.2&limit=3", "Bearer right", "", "")
		f.Add("GET", "/v1/credits/balances", "as_of=2026-01-01", "Bearer right", "", "")
		f.Add("POST", seed, "", "Basic cmlnaHQ6", "", "x")
	}
	reader := &strict{}
	h := New(Options{Reader: reader, Keys: keysOf([]testKey{{Secret: "right"}}...)})
	f.Fuzz(func(t *testing.T, method, path, query, authorization, account, version string) {
		r := local("GET", "/")
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		if u, err := r.URL.Parse(path); err == nil {
			r.URL.Path, r.URL.RawPath = u.Path, u.RawPath
		}
		r.Header.Set("Authorization", authorization)
		r.Header.Set("Stripe-Account", account)
		r.Header.Set("Stripe-Version", version)
		reader.t = t
		w := serve(h, r)
		if w.Code == 200 {
			v := decode[struct {
				Object  string
				HasMore bool `json:"has_more"`
				Data    []json.RawMessage
			}](t, w.Body.Bytes())
			if v.Object != "list" || v.HasMore || v.Data == nil || len(v.Data) > 0 {
				t.Fatalf("an empty mirror answers %s", w.Body)
			}
			return
		}
		if !slices.Contains([]int{400, 401, 403, 404, 429}, w.Code) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if w.Code != 401 && w.Code != 429 && !strings.Contains(authorization, " ") {
			t.Fatalf("let in with %q", authorization)
		}
		errorOf(t, w)
	})
}
