// Command script drives the simulator with the newest stripe-go. It prints what
// every SDK must print; see ../README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/stripe/stripe-go/v86"
)

var out = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func failed(what string, err error) {
	var e *stripe.Error
	if !errors.As(err, &e) {
		out("%s: no error: %v", what, err)
		return
	}
	out("%s: %d %s %s %s", what, e.HTTPStatusCode, e.Type, e.Code, e.Param)
}

func main() {
	base := os.Getenv("SIM_BASE")
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		EnableTelemetry: stripe.Bool(false), LeveledLogger: &stripe.LeveledLogger{}, URL: stripe.String(base),
	})
	sc := stripe.NewClient(os.Getenv("SIM_KEY"), stripe.WithBackends(&stripe.Backends{API: backend, Connect: backend, Uploads: backend, MeterEvents: backend}))
	ctx := context.Background()

	var first string
	for i := range 25 {
		p := &stripe.CustomerCreateParams{Email: stripe.String(fmt.Sprintf("c%d@example.com", i)), Balance: stripe.Int64(-5)}
		p.SetIdempotencyKey(fmt.Sprintf("create-%d", i))
		c, err := sc.V1Customers.Create(ctx, p)
		must(err)
		if i == 0 {
			first = c.ID
		}
	}
	lp := &stripe.CustomerListParams{}
	lp.Limit = stripe.Int64(10)
	lp.AddExpand("data.invoice_credit_balance")
	n, sum := 0, int64(0)
	for c, err := range sc.V1Customers.List(ctx, lp).All(ctx) {
		must(err)
		n++
		sum += c.InvoiceCreditBalance["usd"]
	}
	out("customers %d credit %d", n, sum)

	up := &stripe.CustomerUpdateParams{Balance: stripe.Int64(-50)}
	up.AddMetadata("plan", "gold")
	c, err := sc.V1Customers.Update(ctx, first, up)
	must(err)
	out("updated %s %d %s", c.ID, c.Balance, c.Metadata["plan"])
	txn, err := sc.V1CustomerBalanceTransactions.Create(ctx, &stripe.CustomerBalanceTransactionCreateParams{
		Customer: &first, Amount: stripe.Int64(-7), Currency: stripe.String("usd"), Description: stripe.String("Sorry"),
	})
	must(err)
	out("transaction %s %d %s", txn.ID, txn.EndingBalance, txn.Description)
	gp := &stripe.CustomerBalanceTransactionRetrieveParams{Customer: &first}
	gp.AddExpand("customer.invoice_credit_balance")
	txn, err = sc.V1CustomerBalanceTransactions.Retrieve(ctx, txn.ID, gp)
	must(err)
	out("expanded %s %d", txn.Customer.ID, txn.Customer.InvoiceCreditBalance["usd"])
	tp := &stripe.CustomerBalanceTransactionListParams{Customer: &first}
	tp.Limit = stripe.Int64(1)
	n, sum = 0, 0
	for t, err := range sc.V1CustomerBalanceTransactions.List(ctx, tp).All(ctx) {
		must(err)
		n++
		sum += t.Amount
	}
	out("transactions %d sum %d", n, sum)

	g, err := sc.V1BillingCreditGrants.Create(ctx, &stripe.BillingCreditGrantCreateParams{
		Customer: &first, Category: stripe.String("paid"), Name: stripe.String("Prepaid"),
		Amount: &stripe.BillingCreditGrantCreateAmountParams{
			Type: stripe.String("monetary"), Monetary: &stripe.BillingCreditGrantCreateAmountMonetaryParams{Currency: stripe.String("usd"), Value: stripe.Int64(900)},
		},
		ApplicabilityConfig: &stripe.BillingCreditGrantCreateApplicabilityConfigParams{
			Scope: &stripe.BillingCreditGrantCreateApplicabilityConfigScopeParams{PriceType: stripe.String("metered")},
		},
	})
	must(err)
	out("grant %s %d", g.ID, g.Amount.Monetary.Value)
	cp := &stripe.BillingCreditBalanceTransactionListParams{Customer: &first}
	cp.AddExpand("data.credit_grant.customer")
	for t, err := range sc.V1BillingCreditBalanceTransactions.List(ctx, cp).All(ctx) {
		must(err)
		out("credit %s %s %d %s", t.ID, t.Credit.Type, t.Credit.Amount.Monetary.Value, t.CreditGrant.Customer.ID)
	}
	s, err := sc.V1BillingCreditBalanceSummary.Retrieve(ctx, &stripe.BillingCreditBalanceSummaryRetrieveParams{
		Customer: &first, Filter: &stripe.BillingCreditBalanceSummaryRetrieveFilterParams{Type: stripe.String("credit_grant"), CreditGrant: &g.ID},
	})
	must(err)
	out("summary %d", s.Balances[0].LedgerBalance.Monetary.Value)

	inv, err := sc.V1Invoices.Create(ctx, &stripe.InvoiceCreateParams{Customer: &first, Currency: stripe.String("usd")})
	must(err)
	_, err = sc.V1InvoiceItems.Create(ctx, &stripe.InvoiceItemCreateParams{Customer: &first, Invoice: &inv.ID, Amount: stripe.Int64(1000), Currency: stripe.String("usd")})
	must(err)
	inv, err = sc.V1Invoices.FinalizeInvoice(ctx, inv.ID, nil)
	must(err)
	out("invoice %s %s due %d ending %d", inv.ID, inv.Status, inv.AmountDue, inv.EndingBalance)
	inv, err = sc.V1Invoices.Pay(ctx, inv.ID, &stripe.InvoicePayParams{PaidOutOfBand: stripe.Bool(true)})
	must(err)
	out("paid %s %d", inv.Status, inv.AmountPaid)
	note, err := sc.V1CreditNotes.Create(ctx, &stripe.CreditNoteCreateParams{Invoice: &inv.ID, Amount: stripe.Int64(100), CreditAmount: stripe.Int64(100)})
	must(err)
	out("note %s %s %d", note.ID, note.Status, note.Amount)

	next, err := sc.V1Invoices.CreatePreview(ctx, &stripe.InvoiceCreatePreviewParams{
		Customer: &first, InvoiceItems: []*stripe.InvoiceCreatePreviewInvoiceItemParams{{Amount: stripe.Int64(1500), Currency: stripe.String("usd")}},
	})
	must(err)
	out("preview %s total %d starting %d ending %d due %d", next.Status, next.Total, next.StartingBalance, next.EndingBalance, next.AmountDue)
	would, err := sc.V1CreditNotes.Preview(ctx, &stripe.CreditNotePreviewParams{Invoice: &inv.ID, Amount: stripe.Int64(50), CreditAmount: stripe.Int64(50)})
	must(err)
	out("note preview %s %d", would.Status, would.Amount)
	open, err := sc.V1Invoices.Create(ctx, &stripe.InvoiceCreateParams{Customer: &first, Currency: stripe.String("usd")})
	must(err)
	_, err = sc.V1InvoiceItems.Create(ctx, &stripe.InvoiceItemCreateParams{Customer: &first, Invoice: &open.ID, Amount: stripe.Int64(1500), Currency: stripe.String("usd")})
	must(err)
	_, err = sc.V1Invoices.FinalizeInvoice(ctx, open.ID, nil)
	must(err)
	_, err = sc.V1Invoices.Pay(ctx, open.ID, &stripe.InvoicePayParams{PaymentMethod: stripe.String("pm_card_chargeDeclined")})
	failed("declined", err)
	open, err = sc.V1Invoices.Pay(ctx, open.ID, &stripe.InvoicePayParams{PaymentMethod: stripe.String("pm_card_visa")})
	must(err)
	out("by card %s %d", open.Status, open.AmountPaid)

	_, err = sc.V1Customers.Retrieve(ctx, "cus_none", nil)
	failed("unknown customer", err)
	_, err = sc.V1CustomerBalanceTransactions.Create(ctx, &stripe.CustomerBalanceTransactionCreateParams{Customer: &first, Amount: stripe.Int64(1), Currency: stripe.String("XXX")})
	failed("no currency", err)
	bad := &stripe.CustomerListParams{}
	bad.StartingAfter, bad.Single = stripe.String("cus_none"), true
	for _, err := range sc.V1Customers.List(ctx, bad).All(ctx) {
		failed("cursor", err)
	}
	again := &stripe.CustomerCreateParams{Email: stripe.String("c0@example.com"), Balance: stripe.Int64(-5)}
	again.SetIdempotencyKey("create-0")
	c, err = sc.V1Customers.Create(ctx, again)
	must(err)
	out("replayed %t %s", c.ID == first, c.LastResponse.Header.Get("Idempotent-Replayed"))
	other := &stripe.CustomerCreateParams{Email: stripe.String("other@example.com")}
	other.SetIdempotencyKey("create-0")
	_, err = sc.V1Customers.Create(ctx, other)
	failed("mismatch", err)

	req, err := http.NewRequest(http.MethodPut, base+"/_sim/faults", strings.NewReader(`[{"kind":"reset","count":1},{"kind":"reset","count":1,"after":true}]`))
	must(err)
	resp, err := http.DefaultClient.Do(req)
	must(err)
	resp.Body.Close()
	c, err = sc.V1Customers.Create(ctx, &stripe.CustomerCreateParams{Email: stripe.String("retried@example.com")})
	must(err)
	out("retried %s", c.Email)
	n = 0
	for _, err := range sc.V1Customers.List(ctx, &stripe.CustomerListParams{Email: stripe.String("retried@example.com")}).All(ctx) {
		must(err)
		n++
	}
	out("made %d", n)
	_, err = sc.V1Customers.Delete(ctx, first, nil)
	must(err)
	c, err = sc.V1Customers.Retrieve(ctx, first, nil)
	must(err)
	out("deleted %t", c.Deleted)
}
