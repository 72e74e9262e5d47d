package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// list is Stripe's envelope of a page.
type list struct {
	Object  string            `json:"object"`
	URL     string            `json:"url"`
	HasMore bool              `json:"has_more"`
	Data    []json.RawMessage `json:"data"`
}

// renderList renders a page and notes how fresh and complete it is.
func renderList[Row any](
	ctx context.Context, c *call, url string, s mirror.Slice[Row],
	render func(context.Context, *call, Row) (json.RawMessage, error),
) (any, error) {
	c.fresh.add(s.SyncedAt, s.Unfinished)
	// SDKs take the last row as the next cursor: an empty page must be the last.
	out := list{Object: "list", URL: url, HasMore: s.HasMore && len(s.Rows) > 0, Data: make([]json.RawMessage, len(s.Rows))}
	for i, row := range s.Rows {
		var err error
		if out.Data[i], err = render(ctx, c, row); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func renderBalanceTransaction(ctx context.Context, c *call, t mirror.BalanceTransaction) (json.RawMessage, error) {
	if !c.expand.has("customer") {
		return kept(t.Raw)
	}
	customer, err := c.customer(ctx, t.Customer, c.expand["customer"])
	if err != nil {
		return nil, err
	}
	return with(t.Raw, "customer", customer)
}

func renderGrant(ctx context.Context, c *call, g mirror.CreditGrant) (json.RawMessage, error) {
	return c.grantJSON(ctx, g, c.expand)
}

func (c *call) grantJSON(ctx context.Context, g mirror.CreditGrant, x expansion) (json.RawMessage, error) {
	if !x.has("customer") {
		return kept(g.Raw)
	}
	customer, err := c.customer(ctx, g.Customer, x["customer"])
	if err != nil {
		return nil, err
	}
	return with(g.Raw, "customer", customer)
}

func renderCreditTransaction(ctx context.Context, c *call, t mirror.CreditTransaction) (json.RawMessage, error) {
	if !c.expand.has("credit_grant") {
		return kept(t.Raw)
	}
	grant, err := c.grant(ctx, t.Grant, c.expand["credit_grant"])
	if err != nil {
		return nil, err
	}
	return with(t.Raw, "credit_grant", grant)
}

// held keeps what a request has expanded: a page of one customer's rows reads
// the customer once. Nil stands for what the mirror does not hold.
type held struct {
	customers map[string]json.RawMessage
	grants    map[string]json.RawMessage
}

// customer renders a customer to be put in place of its id; nil when it is not
// held, which the first copy of an account can bring about for a while. The id
// then stays: that is true, and the rest of the page is still worth having.
func (c *call) customer(ctx context.Context, id string, x expansion) (json.RawMessage, error) {
	if raw, ok := c.held.customers[id]; ok {
		return raw, nil
	}
	v, err := c.reader.Customer(ctx, c.account, id)
	if err != nil && !errors.Is(err, mirror.ErrNotFound) {
		return nil, fmt.Errorf("expand customer %s: %w", id, err)
	}
	var raw json.RawMessage
	if err == nil {
		c.fresh.add(v.SyncedAt, v.Unfinished)
		if raw, err = customerJSON(v, x); err != nil {
			return nil, err
		}
	}
	if c.held.customers == nil {
		c.held.customers = map[string]json.RawMessage{}
	}
	c.held.customers[id] = raw
	return raw, nil
}

// grant is customer for a grant.
func (c *call) grant(ctx context.Context, id string, x expansion) (json.RawMessage, error) {
	if raw, ok := c.held.grants[id]; ok {
		return raw, nil
	}
	g, err := c.reader.Grant(ctx, c.account, id)
	if err != nil && !errors.Is(err, mirror.ErrNotFound) {
		return nil, fmt.Errorf("expand credit grant %s: %w", id, err)
	}
	var raw json.RawMessage
	if err == nil {
		if raw, err = c.grantJSON(ctx, g, x); err != nil {
			return nil, err
		}
	}
	if c.held.grants == nil {
		c.held.grants = map[string]json.RawMessage{}
	}
	c.held.grants[id] = raw
	return raw, nil
}

// with puts a value in place of an object's property; a nil value leaves it.
func with(raw json.RawMessage, name string, value json.RawMessage) (json.RawMessage, error) {
	if value == nil {
		return kept(raw)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, fmt.Errorf("read the JSON held: %w", err)
	}
	if object == nil {
		return nil, errors.New("the JSON held is null")
	}
	object[name] = value
	return json.Marshal(object)
}

// kept is the JSON held of a row. Anything but an object would reach SDKs as a
// row that they cannot read.
func kept(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 || raw[0] != '{' {
		return nil, errors.New("no JSON object is held of the row")
	}
	return raw, nil
}

// customerJSON renders a customer: what Raw holds, under what the columns say.
func customerJSON(v mirror.CustomerView, x expansion) (json.RawMessage, error) {
	if v.Deleted {
		return json.Marshal(struct {
			ID      string `json:"id"`
			Object  string `json:"object"`
			Deleted bool   `json:"deleted"`
		}{v.ID, "customer", true})
	}
	object := map[string]any{}
	if len(v.Raw) > 0 {
		var raw map[string]json.RawMessage
		if err := json.Unmarshal(v.Raw, &raw); err != nil {
			return nil, fmt.Errorf("read the JSON held of customer %s: %w", v.ID, err)
		}
		for name, value := range raw {
			object[name] = value
		}
	}
	maps.Copy(object, map[string]any{
		"id": v.ID, "object": "customer", "balance": v.Balance, "currency": orNull(v.Currency),
		"created": unix(v.Created), "livemode": v.Livemode, "test_clock": orNull(v.TestClock),
	})
	if v.CustomerAccount != "" {
		object["customer_account"] = v.CustomerAccount
	}
	// Stripe shows it on request alone. One that was never read is left out, since
	// an empty one would say that there is no credit.
	delete(object, "invoice_credit_balance")
	if x.has("invoice_credit_balance") && v.InvoiceCreditBalance != nil {
		object["invoice_credit_balance"] = v.InvoiceCreditBalance
	}
	return json.Marshal(object)
}

// orNull is nil for an empty string, as Stripe writes what is not set.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func unix(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Unix()
}
