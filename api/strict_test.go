package api

import (
	"context"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// strict is an empty mirror that fails the test when it is asked for what cannot
// be an id.
type strict struct {
	mirror.Reader
	t *testing.T
}

func (s *strict) check(account string, ids ...string) error {
	if account != "" && !mirror.ValidAccountID(account) {
		s.t.Fatalf("asked for account %q", account)
	}
	for _, id := range ids {
		if id != "" && !validID(id) {
			s.t.Fatalf("asked for id %q", id)
		}
	}
	return mirror.ErrNotFound
}

func (s *strict) page(account string, p mirror.Page, ids ...string) error {
	if p.Invoice != "" {
		ids = append(ids, p.Invoice)
	}
	if p.Limit < 1 || p.Limit > ledgerPage {
		s.t.Fatalf("asked for %d rows", p.Limit)
	}
	return s.check(account, append(ids, p.After, p.Before)...)
}

func (s *strict) Customer(_ context.Context, account, id string) (mirror.CustomerView, error) {
	return mirror.CustomerView{}, s.check(account, id)
}

func (s *strict) BalanceTransactions(_ context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
	return mirror.Slice[mirror.BalanceTransaction]{}, s.page(account, p, customer)
}

func (s *strict) BalanceTransaction(_ context.Context, account, customer, id string) (mirror.BalanceTransaction, error) {
	return mirror.BalanceTransaction{}, s.check(account, customer, id)
}

func (s *strict) Grant(_ context.Context, account, id string) (mirror.CreditGrant, error) {
	return mirror.CreditGrant{}, s.check(account, id)
}

func (s *strict) Grants(_ context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error) {
	err := s.page(account, p, customer)
	if customer+p.After+p.Before == "" {
		err = nil // the account's grants: none
	}
	return mirror.Slice[mirror.CreditGrant]{}, err
}

func (s *strict) GrantOwner(_ context.Context, account, grant string) (string, error) {
	return "", s.check(account, grant)
}

func (s *strict) CreditTransactions(_ context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
	err := s.page(account, p, customer, grant)
	if customer+grant+p.After+p.Before == "" {
		err = nil // the account's rows: none
	}
	return mirror.Slice[mirror.CreditTransaction]{}, err
}

func (s *strict) CreditSummary(_ context.Context, account, customer string) (mirror.CreditSummary, error) {
	return mirror.CreditSummary{}, s.check(account, customer)
}

func (s *strict) Snapshot(_ context.Context, fn func(mirror.Reader) error) error { return fn(s) }

func (s *strict) CustomerPage(_ context.Context, account string, f mirror.CustomerFilter, p mirror.Page) (mirror.Slice[mirror.CustomerView], error) {
	err := s.page(account, p, f.TestClock)
	if p.After+p.Before == "" {
		err = nil // the account's customers: none
	}
	return mirror.Slice[mirror.CustomerView]{}, err
}

func (s *strict) CustomerOfAccount(_ context.Context, account, customerAccount string) (string, error) {
	return "", s.check(account, customerAccount)
}

func (s *strict) Balances(_ context.Context, account, after string, limit int, _ time.Time) ([]mirror.CustomerBalances, error) {
	if limit < 1 || limit > maxBulkLimit+1 {
		s.t.Fatalf("asked for %d customers", limit)
	}
	_ = s.check(account, after)
	return nil, nil
}

func (s *strict) Changes(_ context.Context, account, after string, limit int) ([]mirror.Change, error) {
	if limit < 1 || limit > maxBulkLimit+1 || after != "" && !feedCursor.MatchString(after) {
		s.t.Fatalf("asked for %d changes after %q", limit, after)
	}
	_ = s.check(account)
	return nil, nil
}

func (s *strict) CreditTransaction(_ context.Context, account, id string) (mirror.CreditTransaction, error) {
	return mirror.CreditTransaction{}, s.check(account, id)
}
