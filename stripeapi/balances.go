package stripeapi

import (
	"context"
	"fmt"
	"net/url"

	"github.com/stripe/stripe-go/v79/form"

	"github.com/creditmirror/creditmirror/mirror"
)

// BalancePage is a page of a customer's balance transactions, newest first, and
// the customer as it stood when Stripe made the page.
type BalancePage struct {
	Rows []mirror.BalanceTransaction
	// Customer is nil when Stripe did not send it along: with no rows, or when the
	// customer is deleted. Ask Client.Customer then.
	Customer *mirror.Customer
	HasMore  bool
}

// BalancePage lists the rows older than the row after (empty: the newest), with
// the customer in the same call. Limit is 1 to 100; 0 means 100.
func (c *Client) BalancePage(ctx context.Context, account, customer, after string, limit int) (BalancePage, error) {
	const endpoint = EndpointBalanceTransactionsList
	if err := checkIDs(endpoint, "customer", customer, "starting_after?", after); err != nil {
		return BalancePage{}, err
	}
	v, err := pageValues(endpoint, after, limit)
	if err != nil {
		return BalancePage{}, err
	}
	v.Add("expand[]", "data.customer.invoice_credit_balance")
	r := request{endpoint: endpoint, path: balancePath(customer, ""), account: account, values: v}
	return read(ctx, c, r, func(body []byte) (BalancePage, error) {
		return decodeBalancePage(body, account, customer, after, c.fullCustomers)
	})
}

// BalanceTransaction retrieves one row.
func (c *Client) BalanceTransaction(ctx context.Context, account, customer, id string) (mirror.BalanceTransaction, error) {
	const endpoint = EndpointBalanceTransactionsGet
	if err := checkIDs(endpoint, "customer", customer, "transaction", id); err != nil {
		return mirror.BalanceTransaction{}, err
	}
	r := request{endpoint: endpoint, path: balancePath(customer, id), account: account, values: &form.Values{}}
	return read(ctx, c, r, func(body []byte) (mirror.BalanceTransaction, error) {
		return decodeBalanceReply(body, account, customer, id)
	})
}

// CreateBalanceTransaction adjusts a customer's balance. Params go to Stripe as
// they are (amount, currency, description, metadata[…], expand[]). The key is
// the Idempotency-Key, kept across retries; one is made where it is empty. The
// Reply is Stripe's own, also with an error where Stripe sent one; with
// ErrGarbled and a 2xx in it the write has happened.
func (c *Client) CreateBalanceTransaction(ctx context.Context, account, customer string, params url.Values, key string) (mirror.BalanceTransaction, Reply, error) {
	return c.writeBalance(ctx, EndpointBalanceTransactionsCreate, account, customer, "", params, key)
}

// UpdateBalanceTransaction changes a row's description or metadata, as
// CreateBalanceTransaction does.
func (c *Client) UpdateBalanceTransaction(ctx context.Context, account, customer, id string, params url.Values, key string) (mirror.BalanceTransaction, Reply, error) {
	const endpoint = EndpointBalanceTransactionsUpdate
	if err := checkIDs(endpoint, "transaction", id); err != nil {
		return mirror.BalanceTransaction{}, Reply{}, err
	}
	return c.writeBalance(ctx, endpoint, account, customer, id, params, key)
}

func (c *Client) writeBalance(ctx context.Context, endpoint, account, customer, id string, params url.Values, key string) (mirror.BalanceTransaction, Reply, error) {
	if err := checkIDs(endpoint, "customer", customer); err != nil {
		return mirror.BalanceTransaction{}, Reply{}, err
	}
	r := request{endpoint: endpoint, path: balancePath(customer, id), account: account}
	return write(ctx, c, r, params, key, func(body []byte) (mirror.BalanceTransaction, error) {
		return decodeBalanceReply(body, account, customer, id)
	})
}

// decodeBalanceReply reads one row; id is empty for a new one.
func decodeBalanceReply(body []byte, account, customer, id string) (mirror.BalanceTransaction, error) {
	r, err := decodeOne(body)
	if err != nil {
		return mirror.BalanceTransaction{}, err
	}
	if id != "" && r.id != id {
		return mirror.BalanceTransaction{}, fmt.Errorf("id is %.60q, asked was %q", r.id, id)
	}
	return decodeBalanceTransaction(r, account, customer)
}

func balancePath(customer, id string) string {
	p := "/v1/customers/" + url.PathEscape(customer) + "/balance_transactions"
	if id != "" {
		p += "/" + url.PathEscape(id)
	}
	return p
}

func decodeBalancePage(body []byte, account, customer, after string, full bool) (BalancePage, error) {
	l, err := decodeList(body, after)
	if err != nil {
		return BalancePage{}, err
	}
	page := BalancePage{HasMore: l.hasMore}
	page.Rows, err = decodeRows(l, func(r row) (mirror.BalanceTransaction, error) {
		return decodeBalanceTransaction(r, account, customer)
	})
	if err != nil || len(l.rows) == 0 {
		return page, err
	}
	page.Customer, err = expandedCustomer(l.rows[0], account, full)
	if err != nil {
		return BalancePage{}, fmt.Errorf("customer of %.60q: %w", l.rows[0].id, err)
	}
	return page, nil
}

// expandedCustomer takes the customer out of a row; nil when it is only an id,
// or deleted. That it is the one asked for has been checked with the row.
func expandedCustomer(r row, account string, full bool) (*mirror.Customer, error) {
	raw := r.raw("customer")
	if raw[0] != '{' {
		return nil, nil
	}
	o, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	inner := row{fields: fields{object: o}, json: raw}
	inner.id = inner.fields.id("id")
	if inner.has("deleted") && inner.boolean("deleted") {
		return nil, inner.err
	}
	cu, err := decodeCustomer(inner, account, full)
	if err != nil {
		return nil, err
	}
	return &cu, nil
}

func decodeBalanceTransaction(r row, account, customer string) (mirror.BalanceTransaction, error) {
	r.word("object", "customer_balance_transaction")
	t := mirror.BalanceTransaction{
		Account: account, ID: r.id,
		Customer:        r.ref("customer"),
		Amount:          r.integer("amount"),
		Currency:        r.currency("currency"),
		EndingBalance:   r.integer("ending_balance"),
		Type:            r.text("type"),
		Invoice:         r.optRef("invoice"),
		CreditNote:      r.optRef("credit_note"),
		CheckoutSession: r.optRef("checkout_session"),
		Description:     r.optText("description"),
		Metadata:        r.metadata(),
		Created:         r.time("created"),
		Livemode:        r.boolean("livemode"),
	}
	if t.Type == "" {
		r.fail("type", "is empty")
	}
	if r.err == nil && t.Customer != customer {
		r.fail("customer", fmt.Sprintf("is %.60q, asked was %q", t.Customer, customer))
	}
	if r.err != nil {
		return mirror.BalanceTransaction{}, r.err
	}
	t.Raw = r.flat("customer", "invoice", "credit_note", "checkout_session")
	return t, nil
}
