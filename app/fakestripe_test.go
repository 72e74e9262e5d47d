package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// obj is an object of Stripe's as JSON, whatever is in it.
type obj = map[string]any

// rawStripe is a Stripe of a few objects that can be as odd as no simulator makes them.
type rawStripe struct {
	t    testing.TB
	base string

	mu        sync.Mutex
	n         int64
	customers []obj // newest first, as all lists
	rows      map[string][]obj
	grants    []obj
	credits   map[string][]obj
	events    []obj
	calls     map[string]int
	// hook may answer in place of the server; ok reports whether it did.
	hook func(r *http.Request) (status int, header http.Header, body any, ok bool)
}

func newRawStripe(t testing.TB) *rawStripe {
	f := &rawStripe{t: t, rows: map[string][]obj{}, credits: map[string][]obj{}, calls: map[string]int{}}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.base = server.URL
	return f
}

func (f *rawStripe) next() int64 { f.n++; return time.Now().Unix() - 100_000 + f.n }

// withMembers is an object with other members.
func withMembers(o obj, change obj) obj {
	o = maps.Clone(o)
	maps.Copy(o, change)
	return o
}

func (f *rawStripe) customer(id string, change obj) obj {
	c := withMembers(obj{
		"id": id, "object": "customer", "balance": 0, "created": f.next(), "currency": "usd", "livemode": false, "metadata": obj{},
		"test_clock": nil, "email": "secret@example.com",
	}, change)
	f.customers = slices.Insert(f.customers, 0, c)
	return c
}

func (f *rawStripe) transaction(customer string, amount int, change obj) obj {
	end := amount
	if rows := f.rows[customer]; len(rows) > 0 {
		end += rows[0]["ending_balance"].(int)
	}
	at := f.next()
	row := withMembers(obj{
		"id": fmt.Sprintf("cbtxn_%08d", f.n), "object": "customer_balance_transaction", "amount": amount, "checkout_session": nil, "created": at,
		"credit_note": nil, "currency": "usd", "customer": customer, "customer_account": nil, "description": nil, "ending_balance": end,
		"invoice": nil, "livemode": false, "metadata": obj{}, "type": "adjustment",
	}, change)
	f.rows[customer] = slices.Insert(f.rows[customer], 0, row)
	for _, c := range f.customers {
		if _, odd := c["balance"].(int); c["id"] == customer && odd {
			c["balance"] = end
		}
	}
	return row
}

func (f *rawStripe) grant(customer string, value int, change obj) obj {
	at := f.next()
	amount := obj{"type": "monetary", "monetary": obj{"currency": "usd", "value": value}}
	g := withMembers(obj{
		"id": fmt.Sprintf("credgr_%08d", f.n), "object": "billing.credit_grant", "amount": amount,
		"applicability_config": obj{"scope": obj{"price_type": "metered"}}, "category": "paid", "created": at, "customer": customer,
		"customer_account": nil, "effective_at": at, "expires_at": nil, "livemode": false, "metadata": obj{}, "name": nil, "priority": 50,
		"test_clock": nil, "updated": at, "voided_at": nil,
	}, change)
	f.grants = slices.Insert(f.grants, 0, g)
	f.credits[customer] = slices.Insert(f.credits[customer], 0, obj{
		"id": fmt.Sprintf("cbtxn_c%08d", f.n), "object": "billing.credit_balance_transaction", "created": at,
		"credit": obj{"amount": g["amount"], "type": "credits_granted", "credits_application_invoice_voided": nil}, "credit_grant": g["id"],
		"debit": nil, "effective_at": at, "livemode": false, "test_clock": nil, "type": "credit",
	})
	return g
}

func (f *rawStripe) event(kind string, object obj, change obj) obj {
	f.n++
	e := withMembers(obj{
		"id": fmt.Sprintf("evt_%08d", f.n), "object": "event", "api_version": "2026-08-26.dahlia", "created": time.Now().Unix(),
		"data": obj{"object": object}, "livemode": false, "pending_webhooks": 1, "request": obj{"id": nil, "idempotency_key": nil}, "type": kind,
	}, change)
	f.events = slices.Insert(f.events, 0, e)
	return e
}

// ends are the credits of a customer per currency, as Stripe signs them there.
func (f *rawStripe) expanded(c obj) obj {
	ends := obj{}
	for _, row := range slices.Backward(f.rows[fmt.Sprint(c["id"])]) {
		ends[fmt.Sprint(row["currency"])] = -row["ending_balance"].(int)
	}
	return withMembers(c, obj{"invoice_credit_balance": ends})
}

func (f *rawStripe) page(q url.Values, all []obj) obj {
	limit, _ := strconv.Atoi(q.Get("limit"))
	keep := []obj{}
	for _, o := range all {
		created, _ := o["created"].(int64)
		gte, _ := strconv.ParseInt(q.Get("created[gte]"), 10, 64)
		lt, err := strconv.ParseInt(q.Get("created[lt]"), 10, 64)
		if created >= gte && (err != nil || created < lt) {
			keep = append(keep, o)
		}
	}
	from := 0
	if after := q.Get("starting_after"); after != "" {
		from = slices.IndexFunc(keep, func(o obj) bool { return o["id"] == after }) + 1
	}
	to := min(from+max(limit, 1), len(keep))
	return obj{"object": "list", "url": "/", "has_more": to < len(keep), "data": keep[from:to]}
}

func notThere() (int, any) {
	return http.StatusNotFound, obj{"error": obj{"type": "invalid_request_error", "code": "resource_missing", "message": "No such object", "param": "id"}}
}

func (f *rawStripe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	status, body := 0, any(nil)
	if f.hook != nil {
		if code, header, answer, ok := f.hook(r); ok {
			maps.Copy(w.Header(), header)
			status, body = code, answer
		}
	}
	if status == 0 {
		status, body = f.answer(r)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		f.t.Error(err)
	}
}

func (f *rawStripe) answer(r *http.Request) (int, any) {
	q := r.URL.Query()
	segments := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/v1/"), "/")
	for i := range segments {
		segments[i], _ = url.PathUnescape(segments[i])
	}
	of := func(list []obj, id string) obj {
		if i := slices.IndexFunc(list, func(o obj) bool { return o["id"] == id }); i >= 0 {
			return list[i]
		}
		return nil
	}
	f.calls[segments[0]+strconv.Itoa(len(segments))]++
	switch {
	case segments[0] == "customers" && len(segments) == 1:
		list := []obj{}
		for _, c := range f.customers {
			list = append(list, f.expanded(c))
		}
		return http.StatusOK, f.page(q, list)
	case segments[0] == "customers":
		c := of(f.customers, segments[1])
		if c == nil {
			return notThere()
		}
		if len(segments) == 2 {
			return http.StatusOK, f.expanded(c)
		}
		list := []obj{}
		for _, row := range f.rows[segments[1]] {
			list = append(list, withMembers(row, obj{"customer": f.expanded(c)}))
		}
		return http.StatusOK, f.page(q, list)
	case r.URL.Path == "/v1/billing/credit_grants":
		list := []obj{}
		for _, g := range f.grants {
			if c := q.Get("customer"); c == "" || g["customer"] == c {
				list = append(list, g)
			}
		}
		return http.StatusOK, f.page(q, list)
	case strings.HasPrefix(r.URL.Path, "/v1/billing/credit_grants/"):
		if g := of(f.grants, segments[2]); g != nil {
			return http.StatusOK, g
		}
		return notThere()
	case r.URL.Path == "/v1/billing/credit_balance_transactions":
		list := []obj{}
		for _, row := range f.credits[q.Get("customer")] {
			list = append(list, withMembers(row, obj{"credit_grant": of(f.grants, fmt.Sprint(row["credit_grant"]))}))
		}
		return http.StatusOK, f.page(q, list)
	case r.URL.Path == "/v1/billing/credit_balance_summary":
		sum, balances := 0, []obj{}
		for _, row := range f.credits[q.Get("customer")] {
			if m, ok := row["credit"].(obj)["amount"].(obj)["monetary"].(obj); ok {
				sum += m["value"].(int)
			}
		}
		if sum > 0 {
			amount := obj{"type": "monetary", "monetary": obj{"currency": "usd", "value": sum}}
			balances = append(balances, obj{"ledger_balance": amount, "available_balance": amount})
		}
		return http.StatusOK, obj{"object": "billing.credit_balance_summary", "balances": balances, "customer": q.Get("customer"), "customer_account": nil, "livemode": false}
	case segments[0] == "events":
		return http.StatusOK, f.page(q, f.events)
	case segments[0] == "test_helpers":
		return http.StatusOK, obj{"object": "list", "url": "/", "has_more": false, "data": []obj{}}
	}
	return notThere()
}
