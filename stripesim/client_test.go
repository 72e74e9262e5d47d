package stripesim

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/stripe/stripe-go/v79"
	"github.com/stripe/stripe-go/v79/client"
	"github.com/stripe/stripe-go/v79/form"
)

// outside returns Stripe's own Go client, pointed at the simulator.
func (s *sim) outside() (*client.API, stripe.Backend) {
	b := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		EnableTelemetry: stripe.Bool(false), HTTPClient: s.http, LeveledLogger: &stripe.LeveledLogger{}, URL: stripe.String(s.url),
	})
	api := &client.API{}
	api.Init(testKey, &stripe.Backends{API: b, Connect: b, Uploads: b})
	return api, b
}

func TestStripeGoCustomers(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	api, _ := s.outside()
	for range 25 {
		if _, err := api.Customers.New(&stripe.CustomerParams{Email: stripe.String("a@example.com"), Balance: stripe.Int64(-5)}); err != nil {
			t.Fatal(err)
		}
	}
	p := &stripe.CustomerListParams{}
	p.Limit = stripe.Int64(10)
	p.AddExpand("data.invoice_credit_balance")
	it, n := api.Customers.List(p), 0
	var last *stripe.Customer
	for it.Next() {
		last = it.Customer()
		equal(t, "credit", last.InvoiceCreditBalance["usd"], 5)
		n++
	}
	if it.Err() != nil || n != 25 {
		t.Fatalf("%d customers, %v", n, it.Err())
	}

	up, err := api.Customers.Update(last.ID, &stripe.CustomerParams{Balance: stripe.Int64(-50), Metadata: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "balance", up.Balance, -50)
	equal(t, "metadata", up.Metadata["k"], "v")
	txn, err := api.CustomerBalanceTransactions.New(&stripe.CustomerBalanceTransactionParams{
		Customer: &last.ID, Amount: stripe.Int64(-7), Currency: stripe.String("usd"), Description: stripe.String("d"),
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "ending", txn.EndingBalance, -57)
	gp := &stripe.CustomerBalanceTransactionParams{Customer: &last.ID}
	gp.AddExpand("customer.invoice_credit_balance")
	txn, err = api.CustomerBalanceTransactions.Get(txn.ID, gp)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "expanded", txn.Customer.InvoiceCreditBalance["usd"], 57)
	lp := &stripe.CustomerBalanceTransactionListParams{Customer: &last.ID}
	lp.Limit = stripe.Int64(1)
	rows := api.CustomerBalanceTransactions.List(lp)
	sum := int64(0)
	for rows.Next() {
		sum += rows.CustomerBalanceTransaction().Amount
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	equal(t, "sum", sum, -57)
	lp = &stripe.CustomerBalanceTransactionListParams{Customer: &last.ID}
	lp.EndingBefore, lp.Limit = stripe.String(txn.ID), stripe.Int64(1)
	for rows = api.CustomerBalanceTransactions.List(lp); rows.Next(); {
		if rows.CustomerBalanceTransaction().ID == txn.ID {
			t.Fatal("the cursor's own row is listed")
		}
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	del, err := api.Customers.Del(last.ID, nil)
	if err != nil || !del.Deleted {
		t.Fatal(err)
	}
	got, err := api.Customers.Get(last.ID, nil)
	if err != nil || !got.Deleted {
		t.Fatal(err)
	}
}

func TestStripeGoErrorsAndRetries(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Accounts: []string{"acct_a"}})
	api, _ := s.outside()
	_, err := api.Customers.Get("cus_no", nil)
	se, ok := errors.AsType[*stripe.Error](err)
	if !ok || se.HTTPStatusCode != 404 || se.Code != stripe.ErrorCodeResourceMissing || se.Param != "id" || se.RequestID == "" {
		t.Fatalf("%#v", err)
	}
	c, err := api.Customers.New(&stripe.CustomerParams{})
	if err != nil {
		t.Fatal(err)
	}
	// The change happens, its reply is lost, and the client's own retry finds it.
	if err := s.SetFaults(Faults{{Kind: Fault502, Count: 1, After: true, Endpoint: "POST /v1/customers/{id}/balance_transactions"}}); err != nil {
		t.Fatal(err)
	}
	txn, err := api.CustomerBalanceTransactions.New(&stripe.CustomerBalanceTransactionParams{Customer: &c.ID, Amount: stripe.Int64(-7), Currency: stripe.String("usd")})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "replayed", txn.LastResponse.Header.Get("Idempotent-Replayed"), "true")
	c, _ = api.Customers.Get(c.ID, nil)
	equal(t, "once", c.Balance, -7)

	_ = s.SetFaults(Faults{{Kind: FaultLock, Count: 1}})
	if _, err := api.Customers.Get(c.ID, nil); err != nil {
		t.Fatalf("lock timeouts are retried: %v", err)
	}
	_ = s.SetFaults(Faults{{Kind: FaultRateLimit, Count: 1}})
	_, err = api.Customers.Get(c.ID, nil)
	if se, ok := errors.AsType[*stripe.Error](err); !ok || se.HTTPStatusCode != 429 || se.LastResponse.Header.Get("Stripe-Rate-Limited-Reason") == "" {
		t.Fatalf("rate limits are not: %v", err)
	}

	p := &stripe.CustomerParams{}
	p.SetStripeAccount("acct_a")
	conn, err := api.Customers.New(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = api.Customers.Get(conn.ID, nil); err == nil {
		t.Fatal("a connected account's customer is on the platform")
	}
	same := &stripe.CustomerParams{Name: stripe.String("n")}
	same.SetIdempotencyKey("key")
	a, err := api.Customers.New(same)
	if err != nil {
		t.Fatal(err)
	}
	b, err := api.Customers.New(same)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "idempotent", a.ID, b.ID)
}

// creditTxn79 and its list are what a v79 user writes for a resource that v79
// does not know.
type creditTxn79 struct {
	ID          string          `json:"id"`
	Type        string          `json:"type"`
	CreditGrant json.RawMessage `json:"credit_grant"`
}

type creditList79 struct {
	stripe.APIResource
	stripe.ListMeta
	Data []*creditTxn79 `json:"data"`
}

type creditParams79 struct {
	stripe.ListParams `form:"*"`
	Customer          *string   `form:"customer"`
	Expand            []*string `form:"expand"`
}

func TestStripeGoUntypedCreditList(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	_, b := s.outside()
	cus := s.customer()
	for range 7 {
		s.grant(cus, 5)
	}
	p := &creditParams79{Customer: &cus, Expand: []*string{stripe.String("data.credit_grant")}}
	p.Limit = stripe.Int64(3)
	it := stripe.GetIter(p, func(rp *stripe.Params, v *form.Values) ([]interface{}, stripe.ListContainer, error) {
		rp.Headers = http.Header{"Stripe-Version": {Version}}
		l := &creditList79{}
		err := b.CallRaw(http.MethodGet, "/v1/billing/credit_balance_transactions", testKey, v, rp, l)
		out := make([]interface{}, len(l.Data))
		for i, x := range l.Data {
			out[i] = x
		}
		return out, l, err
	})
	n := 0
	for it.Next() {
		var g struct{ Object string }
		if err := json.Unmarshal(it.Current().(*creditTxn79).CreditGrant, &g); err != nil || g.Object != "billing.credit_grant" {
			t.Fatalf("grant not expanded: %v", err)
		}
		n++
	}
	if it.Err() != nil || n != 7 {
		t.Fatalf("%d rows, %v", n, it.Err())
	}
}

func TestStripeGoEventsEndpointsClocks(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	api, _ := s.outside()
	cus := s.customer()
	first := s.get("/v1/events").ids()[0]
	var want []string
	for range 12 {
		s.hand.forward(1)
		s.adjust(cus, -1, "usd")
		want = append(want, s.get("/v1/events", "limit=1").ids()[0])
	}
	p := &stripe.EventListParams{Types: stripe.StringSlice([]string{"customer.updated", "customer.deleted"})}
	p.EndingBefore, p.Limit = stripe.String(first), stripe.Int64(5)
	it := api.Events.List(p)
	for _, id := range want { // with ending_before the client yields oldest first
		if !it.Next() {
			t.Fatalf("ended early: %v", it.Err())
		}
		equal(t, "event", it.Event().ID, id)
	}
	if it.Next() || it.Err() != nil {
		t.Fatalf("more events, or %v", it.Err())
	}
	e, err := api.Events.Get(want[0], nil)
	if err != nil || e.Data.PreviousAttributes["balance"] == nil {
		t.Fatalf("%v %v", e, err)
	}
	h, err := api.WebhookEndpoints.New(&stripe.WebhookEndpointParams{URL: stripe.String("https://a.example/x"), EnabledEvents: stripe.StringSlice([]string{"*"})})
	if err != nil || h.Secret == "" {
		t.Fatal(err)
	}
	if _, err = api.WebhookEndpoints.Update(h.ID, &stripe.WebhookEndpointParams{Disabled: stripe.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	if _, err = api.WebhookEndpoints.Del(h.ID, nil); err != nil {
		t.Fatal(err)
	}
	k, err := api.TestHelpersTestClocks.New(&stripe.TestHelpersTestClockParams{FrozenTime: stripe.Int64(1000)})
	if err != nil {
		t.Fatal(err)
	}
	k, err = api.TestHelpersTestClocks.Advance(k.ID, &stripe.TestHelpersTestClockAdvanceParams{FrozenTime: stripe.Int64(2000)})
	if err != nil || k.Status != stripe.TestHelpersTestClockStatusAdvancing {
		t.Fatalf("%v %v", k, err)
	}
}
