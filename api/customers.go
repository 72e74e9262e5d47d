package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/creditmirror/creditmirror/mirror"
)

// maxEmail is Stripe's bound, in bytes.
const maxEmail = 512

func listCustomers(ctx context.Context, c *call) (any, error) {
	f := mirror.CustomerFilter{TestClock: c.query.values["test_clock"], Email: c.query.values["email"]}
	if f.Email != "" && !c.emails {
		return nil, errInvalid("", "email", "This mirror does not keep e-mail addresses: it keeps only the fields about credit. "+
			"List without email, or set CREDITMIRROR_CUSTOMER_FIELDS=full.")
	}
	if len(f.Email) > maxEmail || strings.ContainsRune(f.Email, 0) {
		return nil, errInvalid("", "email", "Invalid email: it must be text of at most %d bytes.", maxEmail)
	}
	if f.TestClock != "" && !validID(f.TestClock) {
		return nil, errMissing(http.StatusBadRequest, nameTestClock, f.TestClock, "test_clock")
	}
	read := func(p mirror.Page) (mirror.Slice[mirror.CustomerView], error) {
		return c.reader.CustomerPage(ctx, c.account, f, p)
	}
	if err := bothCursors(c, nameCustomer, read); err != nil {
		return nil, err
	}
	s, err := read(c.page)
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		return nil, errCursor(nameCustomer, c.page)
	case err != nil:
		return nil, err
	}
	// Each customer has a freshness of its own; the page is as fresh as its oldest.
	s.SyncedAt = c.now
	for _, v := range s.Rows {
		c.fresh.add(v.SyncedAt, v.Unfinished)
	}
	if len(s.Rows) == 0 {
		c.fresh.unknown = true
	}
	return renderList(ctx, c, "/v1/customers", s, func(_ context.Context, c *call, v mirror.CustomerView) (json.RawMessage, error) {
		return customerJSON(v, c.expand)
	})
}

// owner resolves the parameters customer and customer_account, of which a request
// names at most one; empty when it names none.
func (c *call) owner(ctx context.Context) (string, error) {
	customer, account := c.query.values["customer"], c.query.values["customer_account"]
	switch {
	case customer != "" && account != "":
		return "", errInvalid("", "customer_account", "You may only specify one of these parameters: customer, customer_account.")
	case customer != "" && !mirror.ValidCustomerID(customer):
		return "", errMissing(http.StatusBadRequest, nameCustomer, customer, "customer")
	case account == "":
		return customer, nil
	}
	missing := errMissing(http.StatusBadRequest, "account", account, "customer_account")
	if !validID(account) {
		return "", missing
	}
	customer, err := c.reader.CustomerOfAccount(ctx, c.account, account)
	if errors.Is(err, mirror.ErrNotFound) {
		return "", missing
	}
	return customer, err
}
