// Command stripego makes the requests that it reads from standard input with the
// newest stripe-go, and writes what the SDK makes of the answers. It is a module
// of its own, so that the program keeps the version that it is built on. Its
// sisters are stripenode and, for stripe-go v79, the test itself.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/stripe/stripe-go/v86"
)

// request is one line of input; app/sdk_test.go has the same.
type request struct {
	Op           string            `json:"op"`
	ID           string            `json:"id"`
	Customer     string            `json:"customer"`
	Grant        string            `json:"grant"`
	Invoice      string            `json:"invoice"`
	Expand       []string          `json:"expand"`
	Limit        int64             `json:"limit"`
	After        string            `json:"after"`
	Before       string            `json:"before"`
	CreatedFrom  int64             `json:"created_from"`
	CreatedUntil int64             `json:"created_until"`
	Amount       int64             `json:"amount"`
	Currency     string            `json:"currency"`
	Description  string            `json:"description"`
	Metadata     map[string]string `json:"metadata"`
	Key          string            `json:"key"`
}

type failure struct {
	Status int    `json:"status"`
	Type   string `json:"type"`
	Code   string `json:"code"`
	Param  string `json:"param"`
}

type result struct {
	OK    any      `json:"ok,omitempty"`
	Error *failure `json:"error,omitempty"`
}

// most bounds how far a list is followed.
const most = 200

func main() {
	silent := &stripe.LeveledLogger{Level: stripe.LevelNull}
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL: stripe.String(os.Args[1]), EnableTelemetry: stripe.Bool(false), MaxNetworkRetries: stripe.Int64(0), LeveledLogger: silent,
	})
	client := stripe.NewClient(os.Args[2], stripe.WithBackends(&stripe.Backends{API: backend, Connect: backend, Uploads: backend}))
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r request
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		v, err := run(context.Background(), client, r)
		if err := out.Encode(resultOf(v, err)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func resultOf(v any, err error) result {
	var se *stripe.Error
	switch {
	case errors.As(err, &se):
		return result{Error: &failure{se.HTTPStatusCode, string(se.Type), string(se.Code), se.Param}}
	case err != nil:
		return result{Error: &failure{Type: err.Error()}}
	}
	return result{OK: v}
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func texts(list []string) []*string { return stripe.StringSlice(list) }

func paging(r request) stripe.ListParams {
	p := stripe.ListParams{StartingAfter: text(r.After), EndingBefore: text(r.Before)}
	if r.Limit != 0 {
		p.Limit = &r.Limit
	}
	return p
}

func created(r request) *stripe.RangeQueryParams {
	if r.CreatedFrom == 0 && r.CreatedUntil == 0 {
		return nil
	}
	return &stripe.RangeQueryParams{GreaterThanOrEqual: r.CreatedFrom, LesserThanOrEqual: r.CreatedUntil}
}

func write(r request) stripe.Params { return stripe.Params{IdempotencyKey: text(r.Key)} }

func all[T any](ctx context.Context, list *stripe.V1List[T]) (any, error) {
	out := []T{}
	for v, err := range list.All(ctx) {
		if err != nil {
			return nil, err
		}
		if out = append(out, v); len(out) == most {
			break
		}
	}
	return out, nil
}

func run(ctx context.Context, c *stripe.Client, r request) (any, error) {
	switch r.Op {
	case "customer":
		return c.V1Customers.Retrieve(ctx, r.ID, &stripe.CustomerRetrieveParams{Expand: texts(r.Expand)})
	case "customers":
		return all(ctx, c.V1Customers.List(ctx, &stripe.CustomerListParams{
			ListParams: paging(r), CreatedRange: created(r), Expand: texts(r.Expand),
		}))
	case "transaction":
		return c.V1CustomerBalanceTransactions.Retrieve(ctx, r.ID, &stripe.CustomerBalanceTransactionRetrieveParams{
			Customer: &r.Customer, Expand: texts(r.Expand),
		})
	case "transactions":
		return all(ctx, c.V1CustomerBalanceTransactions.List(ctx, &stripe.CustomerBalanceTransactionListParams{
			ListParams: paging(r), Customer: &r.Customer, CreatedRange: created(r), Invoice: text(r.Invoice), Expand: texts(r.Expand),
		}))
	case "transaction.create":
		return c.V1CustomerBalanceTransactions.Create(ctx, &stripe.CustomerBalanceTransactionCreateParams{
			Params: write(r), Customer: &r.Customer, Amount: &r.Amount, Currency: &r.Currency, Description: text(r.Description),
			Metadata: r.Metadata, Expand: texts(r.Expand),
		})
	case "transaction.update":
		return c.V1CustomerBalanceTransactions.Update(ctx, r.ID, &stripe.CustomerBalanceTransactionUpdateParams{
			Params: write(r), Customer: &r.Customer, Description: text(r.Description), Metadata: r.Metadata,
		})
	case "grant":
		return c.V1BillingCreditGrants.Retrieve(ctx, r.ID, &stripe.BillingCreditGrantRetrieveParams{Expand: texts(r.Expand)})
	case "grants":
		return all(ctx, c.V1BillingCreditGrants.List(ctx, &stripe.BillingCreditGrantListParams{
			ListParams: paging(r), Customer: text(r.Customer), Expand: texts(r.Expand),
		}))
	case "grant.create":
		return c.V1BillingCreditGrants.Create(ctx, &stripe.BillingCreditGrantCreateParams{
			Params: write(r), Customer: &r.Customer, Category: stripe.String("paid"), Name: text(r.Description), Metadata: r.Metadata,
			Amount: &stripe.BillingCreditGrantCreateAmountParams{
				Type:     stripe.String("monetary"),
				Monetary: &stripe.BillingCreditGrantCreateAmountMonetaryParams{Currency: &r.Currency, Value: &r.Amount},
			},
			ApplicabilityConfig: &stripe.BillingCreditGrantCreateApplicabilityConfigParams{
				Scope: &stripe.BillingCreditGrantCreateApplicabilityConfigScopeParams{PriceType: stripe.String("metered")},
			},
		})
	case "grant.update":
		return c.V1BillingCreditGrants.Update(ctx, r.ID, &stripe.BillingCreditGrantUpdateParams{Params: write(r), Metadata: r.Metadata})
	case "grant.expire":
		return c.V1BillingCreditGrants.Expire(ctx, r.ID, &stripe.BillingCreditGrantExpireParams{Params: write(r)})
	case "grant.void":
		return c.V1BillingCreditGrants.VoidGrant(ctx, r.ID, &stripe.BillingCreditGrantVoidGrantParams{Params: write(r)})
	case "credit":
		return c.V1BillingCreditBalanceTransactions.Retrieve(ctx, r.ID, &stripe.BillingCreditBalanceTransactionRetrieveParams{Expand: texts(r.Expand)})
	case "credits":
		return all(ctx, c.V1BillingCreditBalanceTransactions.List(ctx, &stripe.BillingCreditBalanceTransactionListParams{
			ListParams: paging(r), Customer: text(r.Customer), CreditGrant: text(r.Grant), Expand: texts(r.Expand),
		}))
	case "summary":
		f := &stripe.BillingCreditBalanceSummaryRetrieveFilterParams{Type: stripe.String("credit_grant"), CreditGrant: text(r.Grant)}
		if r.Grant == "" {
			f = &stripe.BillingCreditBalanceSummaryRetrieveFilterParams{
				Type: stripe.String("applicability_scope"),
				ApplicabilityScope: &stripe.BillingCreditBalanceSummaryRetrieveFilterApplicabilityScopeParams{
					PriceType: stripe.String("metered"),
				},
			}
		}
		return c.V1BillingCreditBalanceSummary.Retrieve(ctx, &stripe.BillingCreditBalanceSummaryRetrieveParams{
			Customer: &r.Customer, Filter: f, Expand: texts(r.Expand),
		})
	}
	return nil, fmt.Errorf("unknown operation %q", r.Op)
}
