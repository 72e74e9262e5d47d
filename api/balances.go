package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/creditmirror/creditmirror/mirror"
)

func getCustomer(ctx context.Context, c *call) (any, error) {
	v, err := c.mustCustomer(ctx, c.ids[0], http.StatusNotFound, "id")
	if err != nil {
		return nil, err
	}
	c.fresh.add(v.SyncedAt, v.Unfinished)
	return customerJSON(v, c.expand)
}

// mustCustomer reads a customer that the request names; status and param are for
// the refusal when there is none.
func (c *call) mustCustomer(ctx context.Context, id string, status int, param string) (mirror.CustomerView, error) {
	if !mirror.ValidCustomerID(id) {
		return mirror.CustomerView{}, errMissing(status, nameCustomer, id, param)
	}
	v, err := c.reader.Customer(ctx, c.account, id)
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		return v, errMissing(status, nameCustomer, id, param)
	case err != nil:
		return v, fmt.Errorf("read customer %s: %w", id, err)
	}
	return v, nil
}

func listBalanceTransactions(ctx context.Context, c *call) (any, error) {
	customer := c.ids[0]
	if !mirror.ValidCustomerID(customer) {
		return nil, errMissing(http.StatusNotFound, nameCustomer, customer, "customer")
	}
	c.page.Invoice = c.query.values["invoice"]
	if c.page.Invoice != "" && !validID(c.page.Invoice) {
		return nil, errMissing(http.StatusBadRequest, "invoice", c.page.Invoice, "invoice")
	}
	s, err := readPage(c, customer, http.StatusNotFound, nameBalanceTransaction,
		func(p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
			return c.reader.BalanceTransactions(ctx, c.account, customer, p)
		})
	if err != nil {
		return nil, err
	}
	return renderList(ctx, c, "/v1/customers/"+customer+"/balance_transactions", s, renderBalanceTransaction)
}

// readPage reads the page that the request asks for. The mirror says alike that it
// knows neither the customer nor the cursor, and callers must distinguish them: status is
// the refusal's of a customer who is not there, 404 for one of the path. An empty
// customer means that the request named none.
func readPage[Row any](
	c *call, customer string, status int, rows string, read func(mirror.Page) (mirror.Slice[Row], error),
) (mirror.Slice[Row], error) {
	if err := bothCursors(c, rows, read); err != nil {
		return mirror.Slice[Row]{}, err
	}
	s, err := read(c.page)
	if errors.Is(err, mirror.ErrNotFound) && c.page.After+c.page.Before != "" {
		// Stripe looks for it before the customer of a path, and after one of a parameter.
		if status == http.StatusNotFound {
			return s, errCursor(rows, c.page)
		}
		if _, err = read(mirror.Page{Limit: 1}); err == nil {
			return s, errCursor(rows, c.page)
		}
	}
	switch {
	case errors.Is(err, mirror.ErrNotFound) && customer != "":
		return s, errMissing(status, nameCustomer, customer, "customer")
	case err != nil:
		return s, fmt.Errorf("list of %ss: %w", rows, err)
	}
	return s, nil
}

// bothCursors refuses a request with both cursors, whichever of them is not there first.
func bothCursors[Row any](c *call, rows string, read func(mirror.Page) (mirror.Slice[Row], error)) error {
	if c.page.After == "" || c.page.Before == "" {
		return nil
	}
	for _, one := range []mirror.Page{{After: c.page.After, Limit: 1}, {Before: c.page.Before, Limit: 1}} {
		switch _, err := read(one); {
		case errors.Is(err, mirror.ErrNotFound):
			return errCursor(rows, one)
		case err != nil:
			return fmt.Errorf("list of %ss: %w", rows, err)
		}
	}
	return errInvalid("", "", "Received both %s and %s parameters. Please pass in only one.", paramAfter, paramBefore)
}

func getBalanceTransaction(ctx context.Context, c *call) (any, error) {
	customer, id := c.ids[0], c.ids[1]
	// Read before the row, so that the row is at least as fresh as this says.
	v, err := c.mustCustomer(ctx, customer, http.StatusNotFound, "customer")
	if err != nil {
		return nil, err
	}
	c.fresh.add(v.SyncedAt, v.Unfinished)
	missing := errMissing(http.StatusNotFound, nameBalanceTransaction, id, "transaction")
	if !validID(id) {
		return nil, missing
	}
	t, err := c.reader.BalanceTransaction(ctx, c.account, customer, id)
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		return nil, missing
	case err != nil:
		return nil, fmt.Errorf("read balance transaction %s: %w", id, err)
	}
	return renderBalanceTransaction(ctx, c, t)
}
