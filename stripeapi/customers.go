package stripeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"time"

	"github.com/stripe/stripe-go/v79/form"

	"github.com/creditmirror/creditmirror/mirror"
)

// CustomerReply is a customer, or what Stripe leaves of a deleted one.
type CustomerReply struct {
	// Customer has only Account and ID when Deleted.
	Customer mirror.Customer
	Deleted  bool
}

// CustomersQuery asks for a page of customers.
type CustomersQuery struct {
	// After is the id of the last customer of the page before; empty for the first.
	After string
	// Limit is 1 to 100; 0 means 100.
	Limit int
	// TestClock asks for the customers of one test clock. Without it Stripe leaves
	// the customers of all clocks out.
	TestClock string
	// CreatedGTE and CreatedLT bound the second of creation; zero: no bound.
	CreatedGTE, CreatedLT time.Time
}

// CustomersPage is a page of customers, newest first. Stripe never lists
// deleted ones.
type CustomersPage struct {
	Rows    []mirror.Customer
	HasMore bool
	// Last is the cursor for the next page; the last one of Rows need not be it.
	Last string
	// Bad are customers that cannot be mirrored.
	Bad []BadRow
}

// Customer retrieves a customer with its balances in all currencies.
func (c *Client) Customer(ctx context.Context, account, id string) (CustomerReply, error) {
	const endpoint = EndpointCustomersRetrieve
	if err := checkIDs(endpoint, "customer", id); err != nil {
		return CustomerReply{}, err
	}
	v := &form.Values{}
	v.Add("expand[]", "invoice_credit_balance")
	r := request{endpoint: endpoint, path: "/v1/customers/" + url.PathEscape(id), account: account, values: v}
	return read(ctx, c, r, func(body []byte) (CustomerReply, error) {
		return decodeCustomerReply(body, account, id, c.fullCustomers)
	})
}

// CustomersPage lists customers with their balances in all currencies.
func (c *Client) CustomersPage(ctx context.Context, account string, q CustomersQuery) (CustomersPage, error) {
	const endpoint = EndpointCustomersList
	if err := checkIDs(endpoint, "starting_after?", q.After, "test_clock?", q.TestClock); err != nil {
		return CustomersPage{}, err
	}
	v, err := pageValues(endpoint, q.After, q.Limit)
	if err != nil {
		return CustomersPage{}, err
	}
	v.Add("expand[]", "data.invoice_credit_balance")
	if q.TestClock != "" {
		v.Add("test_clock", q.TestClock)
	}
	if !q.CreatedGTE.IsZero() {
		v.Add("created[gte]", strconv.FormatInt(q.CreatedGTE.Unix(), 10))
	}
	if !q.CreatedLT.IsZero() {
		v.Add("created[lt]", strconv.FormatInt(q.CreatedLT.Unix(), 10))
	}
	r := request{endpoint: endpoint, path: "/v1/customers", account: account, values: v}
	return read(ctx, c, r, func(body []byte) (CustomersPage, error) {
		return decodeCustomersPage(body, account, q, c.fullCustomers)
	})
}

func decodeCustomersPage(body []byte, account string, q CustomersQuery, full bool) (CustomersPage, error) {
	l, err := decodeList(body, q.After)
	if err != nil {
		return CustomersPage{}, err
	}
	rows, bad := goodRows(l, func(r row) (mirror.Customer, error) {
		cu, err := decodeCustomer(r, account, full)
		if err == nil {
			err = cu.Storable()
		}
		return cu, err
	})
	for _, cu := range rows { // a filter that is ignored is a fault of the whole list
		if q.TestClock != "" && cu.TestClock != q.TestClock {
			return CustomersPage{}, fmt.Errorf("test_clock is %.60q, asked was %q", cu.TestClock, q.TestClock)
		}
	}
	for i, b := range bad { // names and addresses are not kept for being beside a fault
		if !full {
			bad[i].Raw = creditFieldsOf(b.Raw)
		}
	}
	return CustomersPage{Rows: rows, HasMore: l.hasMore, Last: l.last, Bad: bad}, nil
}

func decodeCustomerReply(body []byte, account, id string, full bool) (CustomerReply, error) {
	r, err := decodeOne(body)
	if err != nil {
		return CustomerReply{}, err
	}
	if r.id != id {
		return CustomerReply{}, fmt.Errorf("id is %.60q, asked was %q", r.id, id)
	}
	if r.has("deleted") && r.boolean("deleted") {
		r.word("object", "customer")
		return CustomerReply{Customer: mirror.Customer{Account: account, ID: id}, Deleted: true}, r.err
	}
	cu, err := decodeCustomer(r, account, full)
	return CustomerReply{Customer: cu}, err
}

// decodeCustomer reads a customer that is not deleted.
func decodeCustomer(r row, account string, full bool) (mirror.Customer, error) {
	r.word("object", "customer")
	if r.has("deleted") && r.boolean("deleted") {
		return mirror.Customer{}, errors.New("deleted where only living customers belong")
	}
	cu := mirror.Customer{
		Account: account, ID: r.id,
		// Stripe's schema lets the balance be absent, but 0 would be a guess.
		Balance:         r.integer("balance"),
		Created:         r.time("created"),
		Livemode:        r.boolean("livemode"),
		TestClock:       r.optRef("test_clock"),
		CustomerAccount: r.optText("customer_account"),
	}
	if r.has("currency") {
		cu.Currency = r.currency("currency")
	}
	if r.has("invoice_credit_balance") {
		cu.InvoiceCreditBalance = r.balances("invoice_credit_balance")
	}
	if r.err != nil {
		return mirror.Customer{}, r.err
	}
	if full {
		cu.Raw = bytes.Clone(r.json)
	} else {
		cu.Raw = creditFields(r.fields, cu.TestClock)
	}
	return cu, nil
}

// balances reads a map of currency to minor units.
func (f *fields) balances(key string) map[string]int64 {
	inner := f.sub(key)
	m := make(map[string]int64, len(inner.members))
	for _, b := range inner.members {
		n, err := integer(b.value)
		if err != nil {
			f.fail(key, err.Error())
		}
		if n == math.MinInt64 { // the balance is its opposite, which 64 bits do not hold
			f.fail(key, "is beyond what a balance can be")
		}
		if !currency(b.key) {
			f.fail(key, "has a key that is not a currency")
		}
		m[b.key] = n
	}
	return m
}

// customerKeys are the members of a customer that are kept by default, in the
// order in which they are written: an expanded balance comes at another place
// than a plain one, and the same state should give the same bytes.
var customerKeys = []string{
	"id", "object", "balance", "created", "currency", "customer_account",
	"invoice_credit_balance", "livemode", "test_clock",
}

// creditFieldsOf is what is kept of a customer that cannot be read.
func creditFieldsOf(raw []byte) []byte {
	o, err := parseObject(raw)
	if err != nil {
		return []byte("null") // whatever it is, it may hold anything
	}
	kept := object{}
	for _, k := range customerKeys {
		if i, ok := o.index[k]; ok && k != "test_clock" {
			kept.members = append(kept.members, o.members[i])
		}
	}
	return kept.with("", "")
}

func creditFields(f fields, testClock string) json.RawMessage {
	o := object{}
	for _, k := range customerKeys {
		if i, ok := f.index[k]; ok {
			o.members = append(o.members, member{key: k, rawKey: quote(k), value: f.members[i].value})
		}
	}
	if testClock == "" {
		return o.with("", "")
	}
	return o.with("test_clock", testClock)
}
