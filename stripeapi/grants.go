package stripeapi

import (
	"bytes"
	"context"
	"fmt"
	"net/url"

	"github.com/stripe/stripe-go/v79/form"

	"github.com/creditmirror/creditmirror/mirror"
)

// GrantsPage is a page of credit grants, newest first.
type GrantsPage struct {
	Rows    []mirror.CreditGrant
	HasMore bool
	// Last is the cursor for the next page; the last one of Rows need not be it.
	Last string
	// Bad are grants of the account that cannot be mirrored. One of a single customer
	// makes its list ErrGarbled instead.
	Bad []BadRow
}

// monetary is the only type of a credit amount that is known today.
const monetary = "monetary"

// GrantsPage lists the grants older than the grant after (empty: the newest) of
// one customer, or of the whole account when customer is empty. Limit is 1 to
// 100; 0 means 100.
func (c *Client) GrantsPage(ctx context.Context, account, customer, after string, limit int) (GrantsPage, error) {
	const endpoint = EndpointGrantsList
	if err := checkIDs(endpoint, "customer?", customer, "starting_after?", after); err != nil {
		return GrantsPage{}, err
	}
	v, err := pageValues(endpoint, after, limit)
	if err != nil {
		return GrantsPage{}, err
	}
	if customer != "" {
		v.Add("customer", customer)
	}
	r := request{endpoint: endpoint, path: grantPath("", ""), account: account, values: v}
	return read(ctx, c, r, func(body []byte) (GrantsPage, error) {
		return decodeGrantsPage(body, account, customer, after)
	})
}

// Grant retrieves one credit grant.
func (c *Client) Grant(ctx context.Context, account, id string) (mirror.CreditGrant, error) {
	const endpoint = EndpointGrantsRetrieve
	if err := checkIDs(endpoint, "credit_grant", id); err != nil {
		return mirror.CreditGrant{}, err
	}
	r := request{endpoint: endpoint, path: grantPath(id, ""), account: account, values: &form.Values{}}
	return read(ctx, c, r, func(body []byte) (mirror.CreditGrant, error) {
		return decodeGrantReply(body, account, id)
	})
}

// CreateGrant makes a credit grant, as CreateBalanceTransaction makes a row.
func (c *Client) CreateGrant(ctx context.Context, account string, params url.Values, key string) (mirror.CreditGrant, Reply, error) {
	return c.writeGrant(ctx, EndpointGrantsCreate, account, "", "", params, key)
}

// UpdateGrant changes a grant's expires_at or metadata, as
// CreateBalanceTransaction makes a row.
func (c *Client) UpdateGrant(ctx context.Context, account, id string, params url.Values, key string) (mirror.CreditGrant, Reply, error) {
	return c.changeGrant(ctx, EndpointGrantsUpdate, account, id, "", params, key)
}

// ExpireGrant ends a grant now, as CreateBalanceTransaction makes a row.
func (c *Client) ExpireGrant(ctx context.Context, account, id string, params url.Values, key string) (mirror.CreditGrant, Reply, error) {
	return c.changeGrant(ctx, EndpointGrantsExpire, account, id, "/expire", params, key)
}

// VoidGrant takes a grant back that was never applied, as
// CreateBalanceTransaction makes a row.
func (c *Client) VoidGrant(ctx context.Context, account, id string, params url.Values, key string) (mirror.CreditGrant, Reply, error) {
	return c.changeGrant(ctx, EndpointGrantsVoid, account, id, "/void", params, key)
}

func (c *Client) changeGrant(ctx context.Context, endpoint, account, id, action string, params url.Values, key string) (mirror.CreditGrant, Reply, error) {
	if err := checkIDs(endpoint, "credit_grant", id); err != nil {
		return mirror.CreditGrant{}, Reply{}, err
	}
	return c.writeGrant(ctx, endpoint, account, id, action, params, key)
}

func (c *Client) writeGrant(ctx context.Context, endpoint, account, id, action string, params url.Values, key string) (mirror.CreditGrant, Reply, error) {
	r := request{endpoint: endpoint, path: grantPath(id, action), account: account}
	return write(ctx, c, r, params, key, func(body []byte) (mirror.CreditGrant, error) {
		return decodeGrantReply(body, account, id)
	})
}

func grantPath(id, action string) string {
	p := "/v1/billing/credit_grants"
	if id != "" {
		p += "/" + url.PathEscape(id)
	}
	return p + action
}

func decodeGrantsPage(body []byte, account, customer, after string) (GrantsPage, error) {
	l, err := decodeList(body, after)
	if err != nil {
		return GrantsPage{}, err
	}
	decode := func(r row) (mirror.CreditGrant, error) { return decodeGrant(r, account, customer) }
	page := GrantsPage{HasMore: l.hasMore, Last: l.last}
	if customer != "" { // a ledger that lacks one of its grants proves nothing
		page.Rows, err = decodeRows(l, decode)
		return page, err
	}
	page.Rows, page.Bad = goodRows(l, func(r row) (mirror.CreditGrant, error) {
		g, err := decode(r)
		if err == nil {
			err = g.Storable()
		}
		return g, err
	})
	return page, nil
}

// decodeGrantReply reads one grant; id is empty for a new one.
func decodeGrantReply(body []byte, account, id string) (mirror.CreditGrant, error) {
	r, err := decodeOne(body)
	if err != nil {
		return mirror.CreditGrant{}, err
	}
	if id != "" && r.id != id {
		return mirror.CreditGrant{}, fmt.Errorf("id is %.60q, asked was %q", r.id, id)
	}
	return decodeGrant(r, account, "")
}

// decodeGrant reads a grant; customer is empty when any will do.
func decodeGrant(r row, account, customer string) (mirror.CreditGrant, error) {
	r.word("object", "billing.credit_grant")
	scope := r.sub("applicability_config")
	g := mirror.CreditGrant{
		Account: account, ID: r.id,
		Customer:            r.ref("customer"),
		Name:                r.optText("name"),
		Category:            r.text("category"),
		ApplicabilityConfig: bytes.Clone(r.raw("applicability_config")),
		Priority:            -1,
		EffectiveAt:         r.optTime("effective_at"),
		ExpiresAt:           r.optTime("expires_at"),
		VoidedAt:            r.optTime("voided_at"),
		Created:             r.time("created"),
		Updated:             r.time("updated"),
		Livemode:            r.boolean("livemode"),
		TestClock:           r.optRef("test_clock"),
		Metadata:            r.metadata(),
	}
	r.join("applicability_config", scope)
	if r.has("priority") {
		g.Priority = r.integer("priority")
	}
	g.AmountType, g.Currency, g.Amount = r.amount("amount")
	if g.Amount < 0 {
		r.fail("amount", "is negative")
	}
	if r.err == nil && customer != "" && g.Customer != customer {
		r.fail("customer", fmt.Sprintf("is %.60q, asked was %q", g.Customer, customer))
	}
	if r.err != nil {
		return mirror.CreditGrant{}, r.err
	}
	g.Raw = r.flat("customer", "test_clock")
	return g, nil
}

// amount reads {type, monetary: {currency, value}}. Of a type that is not known
// only the type is read: Stripe may add types without notice.
func (f *fields) amount(key string) (kind, cur string, value int64) {
	a := f.sub(key)
	defer func() { f.join(key, a) }()
	if kind = a.text("type"); a.err != nil || kind != monetary {
		return kind, "", 0
	}
	m := a.sub(monetary)
	cur, value = m.currency("currency"), m.integer("value")
	a.join(monetary, m)
	return kind, cur, value
}
