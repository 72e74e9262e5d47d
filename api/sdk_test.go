package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v79"
	"github.com/stripe/stripe-go/v79/client"
	"github.com/stripe/stripe-go/v79/form"
)

const sdkKey = "rk_test_sdk"

// sdk is Stripe's own client on the API.
func sdk(t *testing.T, f *fake) (*client.API, stripe.Backend) {
	t.Helper()
	srv := httptest.NewServer(New(Options{Reader: f, Keys: keysOf([]testKey{{Secret: sdkKey}}...), Now: func() time.Time { return now }}))
	t.Cleanup(srv.Close)
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL: stripe.String(srv.URL), EnableTelemetry: stripe.Bool(false), MaxNetworkRetries: stripe.Int64(0),
		HTTPClient: srv.Client(), LeveledLogger: &stripe.LeveledLogger{},
	})
	var api client.API
	api.Init(sdkKey, &stripe.Backends{API: backend, Connect: backend, Uploads: backend})
	return &api, backend
}

func TestSDKCustomer(t *testing.T) {
	t.Parallel()
	api, _ := sdk(t, world(t))
	p := &stripe.CustomerParams{}
	p.AddExpand("invoice_credit_balance")
	cu, err := api.Customers.Get(cusBalance, p)
	if err != nil || cu.Balance != -2000 || cu.InvoiceCreditBalance["usd"] != 2000 || cu.Currency != stripe.CurrencyUSD {
		t.Fatalf("%+v %v", cu, err)
	}
	if h := cu.LastResponse.Header; h.Get("Stripe-Version") != stripe.APIVersion || cu.LastResponse.RequestID == "" {
		t.Errorf("headers %v", h)
	}
	if cu, err = api.Customers.Get(cusDeleted, nil); err != nil || !cu.Deleted {
		t.Errorf("%+v %v", cu, err)
	}
	_, err = api.Customers.Get("cus_missing", nil)
	se, ok := errors.AsType[*stripe.Error](err)
	if !ok || se.HTTPStatusCode != 404 || se.Code != stripe.ErrorCodeResourceMissing || se.Param != "id" || se.RequestID == "" || se.Type != stripe.ErrorTypeInvalidRequest {
		t.Errorf("%+v", err)
	}
	connected := &stripe.CustomerParams{}
	connected.SetStripeAccount(account1)
	if cu, err = api.Customers.Get(cusConnect, connected); err != nil || cu.Balance != 7 {
		t.Errorf("%+v %v", cu, err)
	}
}

func TestSDKBalanceTransactions(t *testing.T) {
	t.Parallel()
	f := many(t, 23)
	api, _ := sdk(t, f)
	walk := func(p *stripe.CustomerBalanceTransactionListParams) []string {
		t.Helper()
		p.Customer = stripe.String(cusBalance)
		p.AddExpand("data.customer")
		var got []string
		it := api.CustomerBalanceTransactions.List(p)
		for it.Next() {
			txn := it.CustomerBalanceTransaction()
			if txn.Customer.ID != cusBalance || txn.Customer.Created == 0 {
				t.Fatalf("customer %+v", txn.Customer)
			}
			got = append(got, txn.ID)
		}
		if it.Err() != nil {
			t.Fatal(it.Err())
		}
		return got
	}
	var all []string
	for _, row := range f.balances {
		if row.Customer == cusBalance {
			all = append(all, row.ID)
		}
	}
	for _, limit := range []int64{1, 3, 23, 100} {
		p := &stripe.CustomerBalanceTransactionListParams{}
		p.Limit = stripe.Int64(limit)
		if got := walk(p); !slices.Equal(got, all) {
			t.Errorf("limit %d: %v", limit, got)
		}
		p = &stripe.CustomerBalanceTransactionListParams{}
		p.Limit, p.EndingBefore = stripe.Int64(limit), stripe.String(all[20])
		got := walk(p)
		slices.Reverse(got) // the SDK walks upwards
		if !slices.Equal(got, all[:20]) {
			t.Errorf("limit %d before: %v", limit, got)
		}
	}
	txn, err := api.CustomerBalanceTransactions.Get(all[0], &stripe.CustomerBalanceTransactionParams{Customer: stripe.String(cusBalance)})
	if err != nil || txn.Amount != 23 {
		t.Errorf("%+v %v", txn, err)
	}
	it := api.CustomerBalanceTransactions.List(&stripe.CustomerBalanceTransactionListParams{Customer: stripe.String("cus_missing")})
	if it.Next() || it.Err() == nil {
		t.Errorf("list of an unknown customer: %v", it.Err())
	}
}

// The resources that v79 has no types for, called as its users do.
type sdkCredit struct {
	ID    string
	Grant json.RawMessage `json:"credit_grant"`
}

type sdkCreditList struct {
	stripe.APIResource
	stripe.ListMeta
	Data []*sdkCredit `json:"data"`
}

type sdkCreditParams struct {
	stripe.ListParams `form:"*"`
	Customer          *string   `form:"customer"`
	Expand            []*string `form:"expand"`
}

type sdkSummaryParams struct {
	stripe.Params `form:"*"`
	Customer      *string `form:"customer"`
	Filter        struct {
		Type  *string `form:"type"`
		Scope struct {
			Prices []struct {
				ID *string `form:"id"`
			} `form:"prices"`
		} `form:"applicability_scope"`
	} `form:"filter"`
}

func TestSDKBillingCredits(t *testing.T) {
	t.Parallel()
	_, backend := sdk(t, world(t))
	p := &sdkCreditParams{Customer: stripe.String(cusCredits), Expand: stripe.StringSlice([]string{"data.credit_grant", "data.credit_grant.customer"})}
	p.Limit = stripe.Int64(1)
	it := stripe.GetIter(p, func(rp *stripe.Params, v *form.Values) ([]any, stripe.ListContainer, error) {
		l := &sdkCreditList{}
		err := backend.CallRaw(http.MethodGet, pathCredits, sdkKey, v, rp, l)
		out := make([]any, len(l.Data))
		for i, row := range l.Data {
			out[i] = row
		}
		return out, l, err
	})
	var got []string
	for it.Next() {
		row := it.Current().(*sdkCredit)
		if id := decode[struct{ Customer struct{ ID string } }](t, row.Grant).Customer.ID; id != cusCredits {
			t.Errorf("%s", row.Grant)
		}
		got = append(got, row.ID)
	}
	if it.Err() != nil || !slices.Equal(got, []string{txnDebit, txnCredit}) {
		t.Errorf("%v %v", got, it.Err())
	}

	params := &sdkSummaryParams{Customer: stripe.String(cusCredits)}
	params.Filter.Type = stripe.String("applicability_scope")
	params.Filter.Scope.Prices = append(params.Filter.Scope.Prices, struct {
		ID *string `form:"id"`
	}{stripe.String("price_1PgafmB7WZ01zgkW6dKueIc5")})
	var reply struct {
		stripe.APIResource
		Balances []summaryBalance `json:"balances"`
	}
	if err := backend.Call(http.MethodGet, pathSummary, sdkKey, params, &reply); err != nil || len(reply.Balances) != 1 {
		t.Errorf("%+v %v", reply.Balances, err)
	}
}
