package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/creditmirror/creditmirror/mirror"
)

// creditsURL is the url of both lists of billing credits: Stripe gives the
// transactions the url of the grants, and SDKs do not follow it.
const creditsURL = "/v1/billing/credit_grants"

func listGrants(ctx context.Context, c *call) (any, error) {
	customer, err := c.owner(ctx)
	if err != nil {
		return nil, err
	}
	c.fresh.ofAll = customer == ""
	s, err := readPage(c, customer, http.StatusBadRequest, nameGrant,
		func(p mirror.Page) (mirror.Slice[mirror.CreditGrant], error) {
			return c.reader.Grants(ctx, c.account, customer, p)
		})
	if err != nil {
		return nil, err
	}
	return renderList(ctx, c, creditsURL, s, renderGrant)
}

func getGrant(ctx context.Context, c *call) (any, error) {
	id := c.ids[0]
	owner, err := c.grantOwner(ctx, id, http.StatusNotFound, "id")
	if err != nil {
		return nil, err
	}
	// Read before the grant, so that the grant is at least as fresh as this says.
	if err := c.addCredits(ctx, owner); err != nil {
		return nil, err
	}
	g, err := c.reader.Grant(ctx, c.account, id)
	if err != nil {
		return nil, fmt.Errorf("read credit grant %s: %w", id, err)
	}
	return renderGrant(ctx, c, g)
}

// grantOwner reads whose a grant is that the request names; status and param are
// for the refusal when there is no such grant.
func (c *call) grantOwner(ctx context.Context, id string, status int, param string) (string, error) {
	if !mirror.ValidGrantID(id) {
		return "", errMissing(status, nameGrant, id, param)
	}
	owner, err := c.reader.GrantOwner(ctx, c.account, id)
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		return "", errMissing(status, nameGrant, id, param)
	case err != nil:
		return "", fmt.Errorf("read the owner of credit grant %s: %w", id, err)
	}
	return owner, nil
}

// addCredits notes how fresh and complete a customer's billing credits are.
func (c *call) addCredits(ctx context.Context, customer string) error {
	s, err := c.reader.CreditTransactions(ctx, c.account, customer, "", mirror.Page{Limit: 1})
	if err != nil && !errors.Is(err, mirror.ErrNotFound) {
		return fmt.Errorf("read the freshness of the credits of %s: %w", customer, err)
	}
	c.fresh.add(s.SyncedAt, s.Unfinished)
	return nil
}

// listCreditTransactions lists those of a customer, of a grant, or of the whole
// account, which Stripe's specification has and its API refuses.
func listCreditTransactions(ctx context.Context, c *call) (any, error) {
	customer, err := c.owner(ctx)
	if err != nil {
		return nil, err
	}
	owner, grant := customer, c.query.values["credit_grant"]
	if grant != "" {
		owner, err = c.grantOwner(ctx, grant, http.StatusBadRequest, "credit_grant")
		if err == nil && customer != "" && owner != customer {
			err = errMissing(http.StatusBadRequest, nameGrant, grant, "credit_grant")
		}
		if err != nil {
			return nil, c.customerFirst(ctx, customer, err)
		}
	}
	c.fresh.ofAll = owner == ""
	s, err := readPage(c, customer, http.StatusBadRequest, nameCreditTransaction,
		func(p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
			return c.reader.CreditTransactions(ctx, c.account, owner, grant, p)
		})
	if err != nil {
		return nil, err
	}
	return renderList(ctx, c, creditsURL, s, renderCreditTransaction)
}

// customerFirst is err, unless the customer named beside what is at fault is not
// known either.
func (c *call) customerFirst(ctx context.Context, customer string, err error) error {
	if customer == "" {
		return err
	}
	_, unknown := c.reader.CreditTransactions(ctx, c.account, customer, "", mirror.Page{Limit: 1})
	if errors.Is(unknown, mirror.ErrNotFound) {
		return errMissing(http.StatusBadRequest, nameCustomer, customer, "customer")
	}
	return err
}

func getCreditTransaction(ctx context.Context, c *call) (any, error) {
	id := c.ids[0]
	missing := errMissing(http.StatusNotFound, nameCreditTransaction, id, "id")
	if !validID(id) {
		return nil, missing
	}
	t, err := c.reader.CreditTransaction(ctx, c.account, id)
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		return nil, missing
	case err != nil:
		return nil, fmt.Errorf("read credit balance transaction %s: %w", id, err)
	}
	// The row never changes, so a sync since it was read proves it as well. A grant
	// to be expanded is read after this.
	if err := c.addCredits(ctx, t.Customer); err != nil {
		return nil, err
	}
	return renderCreditTransaction(ctx, c, t)
}
