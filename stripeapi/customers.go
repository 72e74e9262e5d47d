package stripeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
}

// Customer retrieves a customer with its balances in all currencies.
func (c *Client) Customer(ctx context.Context, account, id string) (CustomerReply, error) {
	const endpoint = EndpointCustomersRetrieve
	if err := checkIDs(endpoint, "customer", id); err != nil {
		return CustomerReply{}, err
	}
	v := &form.Values{}
	v.Add("expand[]", "invoice_credit_balance")
	r := request{endpoint: endpoint, path: "/v1/customers/" + id, account: account, values: v}
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
	rows, err := decodeRows(l, func(r row) (mirror.Customer, error) {
		cu, err := decodeCustomer(r, account, full)
		if err == nil && q.TestClock != "" && cu.TestClock != q.TestClock {
			err = fmt.Errorf("test_clock is %.60q, asked was %q", cu.TestClock, q.TestClock)
		}
		return cu, err
	})
	return CustomersPage{Rows: rows, HasMore: l.hasMore}, err
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
