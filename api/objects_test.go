package api

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

// get is a request that must be answered.
func getOK(t testing.TB, f *fake, target string) []byte {
	t.Helper()
	w := serve(handlerOf(f), local("GET", target))
	if w.Code != 200 {
		t.Fatalf("GET %s: %d %s", target, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

// What each path answers, against Stripe's own samples.
func TestReplies(t *testing.T) {
	t.Parallel()
	f := world(t)
	used := string(fixture(t, "billing.credit_grant"))
	debit := string(fixture(t, "billing.credit_balance_transaction.debit_credits_applied"))
	credit := string(fixture(t, "billing.credit_balance_transaction.credit_credits_granted.current_version"))
	const customer = `{"id":"` + cusBalance + `","object":"customer","balance":-2000,"currency":"usd","created":1680216000,
		"livemode":false,"test_clock":null,"metadata":{"k":"<script>"}`
	const owner = `{"id":"` + cusCredits + `","object":"customer","balance":0,"currency":null,"created":1680216000,
		"livemode":false,"test_clock":"clock_1","metadata":{"k":"<script>"}}`
	const invoiceCredit = customer + `,"invoice_credit_balance":{"usd":2000,"eur":-150}}`
	expanded := func(object, name, id, value string) string {
		return strings.Replace(object, `"`+name+`": "`+id+`"`, `"`+name+`": `+value, 1)
	}
	page := func(url string, more string, rows ...string) string {
		return `{"object":"list","url":"` + url + `","has_more":` + more + `,"data":[` + strings.Join(rows, ",") + `]}`
	}
	first := string(f.balances[0].Raw)
	for _, c := range []struct{ name, target, want string }{
		{"customer", pathBalance, customer + `}`},
		{"customer with invoice credit", pathBalance + "?expand[]=invoice_credit_balance", invoiceCredit},
		{"the same with an index", pathBalance + "?expand[0]=invoice_credit_balance", invoiceCredit},
		{"the same encoded", pathBalance + "?expand%5B%5D=invoice_credit_balance&", invoiceCredit},
		{"the same twice", pathBalance + "?expand[]=invoice_credit_balance&expand[]=invoice_credit_balance", invoiceCredit},
		{"customer whose invoice credit was never read", "/v1/customers/" + cusCredits + "?expand[]=invoice_credit_balance", owner},
		{"stub", "/v1/customers/" + cusDeleted, `{"id":"cus_Deleted","object":"customer","deleted":true}`},
		{"stub, expanded", "/v1/customers/" + cusDeleted + "?expand[]=invoice_credit_balance", `{"id":"cus_Deleted","object":"customer","deleted":true}`},
		{"history of the deleted", "/v1/customers/" + cusDeleted + "/balance_transactions", page("/v1/customers/cus_Deleted/balance_transactions", "false", string(balanceJSON("cbtxn_ofdeleted", cusDeleted, -5)))},
		{
			"… with its stub", "/v1/customers/" + cusDeleted + "/balance_transactions?expand[]=data.customer.invoice_credit_balance",
			page("/v1/customers/cus_Deleted/balance_transactions", "false", strings.Replace(string(balanceJSON("cbtxn_ofdeleted", cusDeleted, -5)),
				`"customer":"cus_Deleted"`, `"customer":{"id":"cus_Deleted","object":"customer","deleted":true}`, 1)),
		},
		{"no transactions", "/v1/customers/" + cusCredits + "/balance_transactions", page("/v1/customers/"+cusCredits+"/balance_transactions", "false")},
		{"one page", pathTxns + "?limit=1", page(pathTxns, "true", first)},
		{"one page with its customer", pathTxns + "?limit=1&expand[]=data.customer", page(pathTxns, "true", expanded(first, "customer", cusBalance, customer+`}`))},
		{"… and its invoice credit", pathTxns + "?limit=1&expand[]=data.customer.invoice_credit_balance", page(pathTxns, "true", expanded(first, "customer", cusBalance, invoiceCredit))},
		{"transaction", pathTxns + "/" + f.balances[0].ID, first},
		{"transaction with its customer", pathTxns + "/" + f.balances[0].ID + "?expand[]=customer", expanded(first, "customer", cusBalance, customer+`}`)},
		{"grant", pathGrants + "/" + grantUsed, used},
		{"grant with its customer", pathGrants + "/" + grantUsed + "?expand[]=customer", expanded(used, "customer", cusCredits, owner)},
		{"grants", pathGrants + "?limit=2", page(creditsURL, "true", string(f.grants[0].Raw), string(f.grants[1].Raw))},
		{"grants of nobody", pathGrants + "?customer=" + cusBalance, page(creditsURL, "false")},
		{"grants after one", pathGrants + "?customer=" + cusCredits + "&starting_after=" + f.grants[1].ID + "&limit=1", page(creditsURL, "true", used)},
		{"grants before one", pathGrants + "?ending_before=" + grantUsed + "&limit=1", page(creditsURL, "true", string(f.grants[1].Raw))},
		{"credits of a customer", pathCredits + "?customer=" + cusCredits, page(creditsURL, "false", debit, credit)},
		{"credits of a grant", pathCredits + "?credit_grant=" + grantUsed, page(creditsURL, "false", debit, credit)},
		{"credits of both", pathCredits + "?credit_grant=" + grantUsed + "&customer=" + cusCredits, page(creditsURL, "false", debit, credit)},
		{"credits of a grant without", pathCredits + "?credit_grant=" + f.grants[0].ID, page(creditsURL, "false")},
		{
			"credits, all expanded", pathCredits + "?limit=1&customer=" + cusCredits + "&expand[]=data.credit_grant.customer.invoice_credit_balance",
			page(creditsURL, "true", expanded(debit, "credit_grant", grantUsed, expanded(used, "customer", cusCredits, owner))),
		},
		{"credit transaction", pathCredits + "/" + txnCredit, credit},
		{"credit transaction with its grant", pathCredits + "/" + txnDebit + "?expand[]=credit_grant", expanded(debit, "credit_grant", grantUsed, used)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sameJSON(t, getOK(t, f, c.target), []byte(c.want))
		})
	}
}

// A customer's whole object is shown where it is held, under the columns, and
// Stripe's sample comes back as it was.
func TestWholeCustomer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, query string }{
		{"customer.with_credit", ""},
		{"customer.expanded_invoice_credit_balance", "?expand[]=invoice_credit_balance"},
	} {
		raw := fixture(t, c.name)
		v := decode[struct {
			Balance, Created int64
			Currency         string
			Credit           map[string]int64 `json:"invoice_credit_balance"`
		}](t, raw)
		f := &fake{customers: []mirror.CustomerView{{Customer: mirror.Customer{
			ID: cusBalance, Balance: v.Balance, Currency: v.Currency, Created: at(v.Created), InvoiceCreditBalance: v.Credit, Raw: raw,
		}}}}
		sameJSON(t, getOK(t, f, pathBalance+c.query), raw)
	}
	f := &fake{customers: []mirror.CustomerView{{Customer: mirror.Customer{
		ID: cusBalance, CustomerAccount: "acct_2", TestClock: "clock_1", Livemode: true,
		Created: at(5), Balance: 9_007_199_254_740_993, Currency: "jpy",
	}}}}
	sameJSON(t, getOK(t, f, pathBalance), []byte(`{"id":"`+cusBalance+`","object":"customer","balance":9007199254740993,
		"currency":"jpy","created":5,"livemode":true,"test_clock":"clock_1","customer_account":"acct_2"}`))
}

// What is not held cannot be expanded: its id stays, and the rest is served.
func TestExpandNotHeld(t *testing.T) {
	t.Parallel()
	f := world(t)
	f.customers = slices.DeleteFunc(f.customers, func(v mirror.CustomerView) bool { return v.ID == cusCredits })
	sameJSON(t, getOK(t, f, pathGrants+"/"+grantUsed+"?expand[]=customer"), fixture(t, "billing.credit_grant"))
	f = world(t)
	f.grants = nil
	sameJSON(t, getOK(t, f, pathCredits+"/"+txnDebit+"?expand[]=credit_grant.customer"),
		fixture(t, "billing.credit_balance_transaction.debit_credits_applied"))
}

// Hostile text goes out as it came in, inside JSON.
func TestHostileText(t *testing.T) {
	t.Parallel()
	f := world(t)
	const text = `</script>{{.}}\r\n\u0000\u001b[31m\u202e`
	f.balances[0].Raw = json.RawMessage(`{"id":"cbtxn_1","description":"` + text + `"}`)
	got := getOK(t, f, pathTxns+"?limit=1")
	if !json.Valid(got) || !strings.Contains(string(got), text) {
		t.Fatalf("%s", got)
	}
}

// A page of one customer's rows reads the customer once.
func TestExpandReadsOnce(t *testing.T) {
	t.Parallel()
	f := world(t)
	calls := counted(f)
	getOK(t, f, pathTxns+"?limit=100&expand[]=data.customer")
	getOK(t, f, pathCredits+"?customer="+cusCredits+"&expand[]=data.credit_grant.customer")
	if calls["Customer"] != 2 || calls["Grant"] != 1 {
		t.Fatalf("%v", calls)
	}
}
