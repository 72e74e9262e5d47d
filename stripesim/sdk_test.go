package stripesim

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stripe/stripe-go/v79"
)

// TestSDKs runs one script in three of Stripe's SDKs. As ids depend on nothing
// but the seed and the requests, all have to print the same.
func TestSDKs(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	want := s.sdkScript(t)
	if n := strings.Count(want, "\n"); n != 23 {
		t.Fatalf("the script printed %d lines:\n%s", n, want)
	}
	t.Run("newest stripe-go", func(t *testing.T) {
		t.Parallel()
		goTool := needs(t, "go")
		dir := filepath.Join("testdata", "sdk", "go")
		bin := filepath.Join(t.TempDir(), "script")
		build := exec.Command(goTool, "build", "-o", bin, ".")
		build.Dir = dir
		build.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
		if msg, err := build.CombinedOutput(); err != nil {
			if os.Getenv("CREDITMIRROR_REQUIRE_SERVICES") == "1" || !strings.Contains(string(msg), "dial tcp") {
				t.Fatalf("%v\n%s", err, msg)
			}
			t.Skipf("stripe-go cannot be fetched: %s", msg)
		}
		sdkRun(t, want, exec.Command(bin))
	})
	t.Run("stripe-node", func(t *testing.T) {
		t.Parallel()
		node := needs(t, "node")
		dir := filepath.Join("testdata", "sdk", "node")
		if _, err := os.Stat(filepath.Join(dir, "node_modules", "stripe")); err != nil {
			if os.Getenv("CREDITMIRROR_REQUIRE_SERVICES") == "1" {
				t.Fatal("stripe-node is not installed: make sdk")
			}
			t.Skip("stripe-node is not installed: make sdk")
		}
		cmd := exec.Command(node, "script.mjs")
		cmd.Dir = dir
		sdkRun(t, want, cmd)
	})
}

// sdkRun runs a script against a new simulator.
func sdkRun(t *testing.T, want string, cmd *exec.Cmd) {
	t.Helper()
	s := start(t, Options{})
	cmd.Env = append(os.Environ(), "SIM_BASE="+s.url, "SIM_KEY="+testKey)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, got, stderr.String())
	}
	if string(got) != want {
		t.Fatalf("it printed\n%s\nstripe-go v79 printed\n%s", got, want)
	}
}

// sdkScript is testdata/sdk/go/main.go in stripe-go v79, which knows no billing
// credits: those are called untyped.
func (s *sim) sdkScript(t *testing.T) string {
	t.Helper()
	api, backend := s.outside()
	var text strings.Builder
	out := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	failed := func(what string, err error) {
		e, ok := errors.AsType[*stripe.Error](err)
		if !ok {
			t.Fatalf("%s: no error: %v", what, err)
		}
		out("%s: %d %s %s %s", what, e.HTTPStatusCode, e.Type, e.Code, e.Param)
	}
	var first string
	for i := range 25 {
		p := &stripe.CustomerParams{Email: stripe.String(fmt.Sprintf("c%d@example.com", i)), Balance: stripe.Int64(-5)}
		p.SetIdempotencyKey(fmt.Sprintf("create-%d", i))
		c, err := api.Customers.New(p)
		must(err)
		if i == 0 {
			first = c.ID
		}
	}
	lp := &stripe.CustomerListParams{}
	lp.Limit = stripe.Int64(10)
	lp.AddExpand("data.invoice_credit_balance")
	n, sum := 0, int64(0)
	it := api.Customers.List(lp)
	for it.Next() {
		n++
		sum += it.Customer().InvoiceCreditBalance["usd"]
	}
	must(it.Err())
	out("customers %d credit %d", n, sum)

	up := &stripe.CustomerParams{Balance: stripe.Int64(-50)}
	up.AddMetadata("plan", "gold")
	c, err := api.Customers.Update(first, up)
	must(err)
	out("updated %s %d %s", c.ID, c.Balance, c.Metadata["plan"])
	txn, err := api.CustomerBalanceTransactions.New(&stripe.CustomerBalanceTransactionParams{
		Customer: &first, Amount: stripe.Int64(-7), Currency: stripe.String("usd"), Description: stripe.String("Sorry"),
	})
	must(err)
	out("transaction %s %d %s", txn.ID, txn.EndingBalance, txn.Description)
	gp := &stripe.CustomerBalanceTransactionParams{Customer: &first}
	gp.AddExpand("customer.invoice_credit_balance")
	txn, err = api.CustomerBalanceTransactions.Get(txn.ID, gp)
	must(err)
	out("expanded %s %d", txn.Customer.ID, txn.Customer.InvoiceCreditBalance["usd"])
	tp := &stripe.CustomerBalanceTransactionListParams{Customer: &first}
	tp.Limit = stripe.Int64(1)
	n, sum = 0, 0
	rows := api.CustomerBalanceTransactions.List(tp)
	for rows.Next() {
		n++
		sum += rows.CustomerBalanceTransaction().Amount
	}
	must(rows.Err())
	out("transactions %d sum %d", n, sum)

	untyped := func(method, path string, into stripe.LastResponseSetter, pairs ...string) {
		t.Helper()
		p := &stripe.Params{}
		for _, kv := range pairs {
			k, v, _ := strings.Cut(kv, "=")
			p.AddExtra(k, v)
		}
		must(backend.Call(method, path, testKey, p, into))
	}
	type monetary struct {
		Monetary struct {
			Value int64 `json:"value"`
		} `json:"monetary"`
	}
	var g struct {
		stripe.APIResource
		ID     string   `json:"id"`
		Amount monetary `json:"amount"`
	}
	untyped("POST", "/v1/billing/credit_grants", &g, "customer="+first, "category=paid", "name=Prepaid", "amount[type]=monetary",
		"amount[monetary][currency]=usd", "amount[monetary][value]=900", "applicability_config[scope][price_type]=metered")
	out("grant %s %d", g.ID, g.Amount.Monetary.Value)
	var credits struct {
		stripe.APIResource
		Data []struct {
			ID     string `json:"id"`
			Credit struct {
				Type   string   `json:"type"`
				Amount monetary `json:"amount"`
			} `json:"credit"`
			Grant struct {
				Customer struct {
					ID string `json:"id"`
				} `json:"customer"`
			} `json:"credit_grant"`
		} `json:"data"`
	}
	untyped("GET", "/v1/billing/credit_balance_transactions", &credits, "customer="+first, "expand[0]=data.credit_grant.customer")
	for _, r := range credits.Data {
		out("credit %s %s %d %s", r.ID, r.Credit.Type, r.Credit.Amount.Monetary.Value, r.Grant.Customer.ID)
	}
	var summary struct {
		stripe.APIResource
		Balances []struct {
			Ledger monetary `json:"ledger_balance"`
		} `json:"balances"`
	}
	untyped("GET", "/v1/billing/credit_balance_summary", &summary, "customer="+first, "filter[type]=credit_grant", "filter[credit_grant]="+g.ID)
	out("summary %d", summary.Balances[0].Ledger.Monetary.Value)

	inv, err := api.Invoices.New(&stripe.InvoiceParams{Customer: &first, Currency: stripe.String("usd")})
	must(err)
	_, err = api.InvoiceItems.New(&stripe.InvoiceItemParams{Customer: &first, Invoice: &inv.ID, Amount: stripe.Int64(1000), Currency: stripe.String("usd")})
	must(err)
	inv, err = api.Invoices.FinalizeInvoice(inv.ID, nil)
	must(err)
	out("invoice %s %s due %d ending %d", inv.ID, inv.Status, inv.AmountDue, inv.EndingBalance)
	inv, err = api.Invoices.Pay(inv.ID, &stripe.InvoicePayParams{PaidOutOfBand: stripe.Bool(true)})
	must(err)
	out("paid %s %d", inv.Status, inv.AmountPaid)
	note, err := api.CreditNotes.New(&stripe.CreditNoteParams{Invoice: &inv.ID, Amount: stripe.Int64(100), CreditAmount: stripe.Int64(100)})
	must(err)
	out("note %s %s %d", note.ID, note.Status, note.Amount)

	next, err := api.Invoices.CreatePreview(&stripe.InvoiceCreatePreviewParams{
		Customer: &first, InvoiceItems: []*stripe.InvoiceCreatePreviewInvoiceItemParams{{Amount: stripe.Int64(1500), Currency: stripe.String("usd")}},
	})
	must(err)
	out("preview %s total %d starting %d ending %d due %d", next.Status, next.Total, next.StartingBalance, next.EndingBalance, next.AmountDue)
	would, err := api.CreditNotes.Preview(&stripe.CreditNotePreviewParams{Invoice: &inv.ID, Amount: stripe.Int64(50), CreditAmount: stripe.Int64(50)})
	must(err)
	out("note preview %s %d", would.Status, would.Amount)
	open, err := api.Invoices.New(&stripe.InvoiceParams{Customer: &first, Currency: stripe.String("usd")})
	must(err)
	_, err = api.InvoiceItems.New(&stripe.InvoiceItemParams{Customer: &first, Invoice: &open.ID, Amount: stripe.Int64(1500), Currency: stripe.String("usd")})
	must(err)
	_, err = api.Invoices.FinalizeInvoice(open.ID, nil)
	must(err)
	_, err = api.Invoices.Pay(open.ID, &stripe.InvoicePayParams{PaymentMethod: stripe.String("pm_card_chargeDeclined")})
	failed("declined", err)
	open, err = api.Invoices.Pay(open.ID, &stripe.InvoicePayParams{PaymentMethod: stripe.String("pm_card_visa")})
	must(err)
	out("by card %s %d", open.Status, open.AmountPaid)

	_, err = api.Customers.Get("cus_none", nil)
	failed("unknown customer", err)
	_, err = api.CustomerBalanceTransactions.New(&stripe.CustomerBalanceTransactionParams{Customer: &first, Amount: stripe.Int64(1), Currency: stripe.String("XXX")})
	failed("no currency", err)
	bad := &stripe.CustomerListParams{}
	bad.StartingAfter, bad.Single = stripe.String("cus_none"), true
	it = api.Customers.List(bad)
	it.Next()
	failed("cursor", it.Err())
	again := &stripe.CustomerParams{Email: stripe.String("c0@example.com"), Balance: stripe.Int64(-5)}
	again.SetIdempotencyKey("create-0")
	c, err = api.Customers.New(again)
	must(err)
	out("replayed %t %s", c.ID == first, c.LastResponse.Header.Get("Idempotent-Replayed"))
	other := &stripe.CustomerParams{Email: stripe.String("other@example.com")}
	other.SetIdempotencyKey("create-0")
	_, err = api.Customers.New(other)
	failed("mismatch", err)

	equal(t, "faults", s.control(http.MethodPut, "/_sim/faults", `[{"kind":"reset","count":1},{"kind":"reset","count":1,"after":true}]`).status, 200)
	c, err = api.Customers.New(&stripe.CustomerParams{Email: stripe.String("retried@example.com")})
	must(err)
	out("retried %s", c.Email)
	n = 0
	for it = api.Customers.List(&stripe.CustomerListParams{Email: stripe.String("retried@example.com")}); it.Next(); n++ {
	}
	must(it.Err())
	out("made %d", n)
	_, err = api.Customers.Del(first, nil)
	must(err)
	c, err = api.Customers.Get(first, nil)
	must(err)
	out("deleted %t", c.Deleted)
	return text.String()
}
