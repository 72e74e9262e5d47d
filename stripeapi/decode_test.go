package stripeapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	cusBalance = "cus_NcjdgdwZyI9Rj7" // the customer of the balance fixtures
	cusCredits = "cus_QsEHa3GKweMwih" // the customer of the credit fixtures
)

func TestDecodeCustomerFixtures(t *testing.T) {
	t.Parallel()
	body := fixture(t, "objects/customer.expanded_invoice_credit_balance.json")
	got, err := decodeCustomerReply(body, "acct_1", cusBalance, false)
	if err != nil {
		t.Fatal(err)
	}
	want := CustomerReply{Customer: mirror.Customer{
		Account: "acct_1", ID: cusBalance, Balance: -500, Currency: "usd",
		InvoiceCreditBalance: map[string]int64{"usd": 500, "eur": -250},
		Created:              time.Unix(1680216000, 0).UTC(),
		Raw: json.RawMessage(`{"id":"cus_NcjdgdwZyI9Rj7","object":"customer","balance":-500,"created":1680216000,` +
			`"currency":"usd","invoice_credit_balance":{"usd":500,"eur":-250},"livemode":false,"test_clock":null}`),
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, name := range []string{"customer.json", "customer.with_credit.json", "customer.on_test_clock.json"} {
		raw := fixture(t, "objects/"+name)
		id := cusBalance
		if strings.Contains(name, "clock") {
			id = cusCredits
		}
		got, err := decodeCustomerReply(raw, "", id, true)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Customer.InvoiceCreditBalance != nil {
			t.Errorf("%s: a balance that was not sent", name)
		}
		if compacted, _ := compactJSON(raw); !bytes.Equal(got.Customer.Raw, compacted) {
			t.Errorf("%s: whole customers are not kept whole: %s", name, got.Customer.Raw)
		}
		if (got.Customer.TestClock != "") != strings.Contains(name, "clock") {
			t.Errorf("%s: clock %q", name, got.Customer.TestClock)
		}
	}
	gone, err := decodeCustomerReply(fixture(t, "objects/customer.deleted.json"), "", cusBalance, false)
	if err != nil || !gone.Deleted || gone.Customer.ID != cusBalance {
		t.Errorf("deleted: %+v %v", gone, err)
	}
}

// By default nothing personal reaches the mirror, whatever Stripe adds.
func TestCustomerRawIsPrivate(t *testing.T) {
	t.Parallel()
	raw := edit(t, fixture(t, "objects/customer.json"),
		"email", "a@example.com", "metadata", map[string]string{"k": "secret"}, "new_field", "secret",
		"test_clock", json.RawMessage(`{"id":"clock_1","name":"secret"}`))
	got, err := decodeCustomerReply(raw, "", cusBalance, false)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(got.Customer.Raw); strings.Contains(s, "secret") || strings.Contains(s, "@") ||
		strings.Contains(s, "Jenny") || !strings.Contains(s, `"test_clock":"clock_1"`) {
		t.Errorf("kept %s", s)
	}
}

func TestDecodeBalancePageFixtures(t *testing.T) {
	t.Parallel()
	row := fixture(t, "objects/customer_balance_transaction.adjustment.json")
	got, err := decodeBalancePage(listOf(true, row), "acct_1", cusBalance, "", false)
	if err != nil {
		t.Fatal(err)
	}
	compacted, _ := compactJSON(row)
	want := BalancePage{HasMore: true, Rows: []mirror.BalanceTransaction{{
		Account: "acct_1", ID: "cbtxn_1MrU9qLkdIwHu7ixhdjxGBgI", Customer: cusBalance,
		Amount: -500, Currency: "usd", EndingBalance: -500, Type: "adjustment",
		Metadata: json.RawMessage("{}"), Created: time.Unix(1680216086, 0).UTC(), Raw: compacted,
	}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, name := range []string{"customer_balance_transactions.json", "customer_balance_transactions.page1.json"} {
		if p, err := decodeBalancePage(fixture(t, "lists/"+name), "", cusBalance, "", false); err != nil || len(p.Rows) == 0 {
			t.Errorf("%s: %d rows, %v", name, len(p.Rows), err)
		}
	}
	if p, err := decodeBalancePage(fixture(t, "lists/empty.json"), "", cusBalance, "", false); err != nil || p.Customer != nil || len(p.Rows) != 0 {
		t.Errorf("empty list: %+v %v", p, err)
	}
	for _, name := range []string{"adjustment.current_version", "updated_metadata"} {
		row := fixture(t, "objects/customer_balance_transaction."+name+".json")
		if _, err := decodeBalancePage(listOf(false, row), "", cusBalance, "", false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every transaction type there is, and one that there is not, must pass.
func TestDecodeAllBalanceTypes(t *testing.T) {
	t.Parallel()
	var chain struct {
		USD []json.RawMessage `json:"usd"`
		EUR []json.RawMessage `json:"eur"`
	}
	if err := json.Unmarshal(fixture(t, "objects/customer_balance_transaction.all_types_chain.json"), &chain); err != nil {
		t.Fatal(err)
	}
	rows := append(chain.USD, chain.EUR...)
	if len(rows) < 12 {
		t.Fatalf("%d rows in the fixture", len(rows))
	}
	one := edit(t, rows[0], "type", "invented_tomorrow", "id", "cbtxn_new", "more", json.RawMessage("1e400"))
	var objects [][]byte
	for _, r := range append(rows, one) {
		objects = append(objects, r)
	}
	var first struct{ Customer string }
	if err := json.Unmarshal(rows[0], &first); err != nil {
		t.Fatal(err)
	}
	p, err := decodeBalancePage(listOf(false, objects...), "", first.Customer, "", false)
	if err != nil {
		t.Fatal(err)
	}
	if last := p.Rows[len(p.Rows)-1]; last.Type != "invented_tomorrow" || !bytes.Contains(last.Raw, []byte(`"more":1e400`)) {
		t.Errorf("unknown things did not pass: %s", last.Raw)
	}
}

func TestBalancePageTakesCustomerFromRows(t *testing.T) {
	t.Parallel()
	customer := fixture(t, "objects/customer.expanded_invoice_credit_balance.json")
	plain := fixture(t, "objects/customer_balance_transaction.adjustment.json")
	row := bytes.Replace(plain, []byte(`"`+cusBalance+`"`), customer, 1)
	p, err := decodeBalancePage(listOf(false, row), "", cusBalance, "", false)
	if err != nil {
		t.Fatal(err)
	}
	if p.Customer == nil || p.Customer.Balance != -500 || p.Customer.InvoiceCreditBalance["eur"] != -250 {
		t.Fatalf("customer %+v", p.Customer)
	}
	// Keys keep their order, and the customer is an id again.
	if compacted, _ := compactJSON(plain); !bytes.Equal(p.Rows[0].Raw, compacted) {
		t.Errorf("raw %s\nwant %s", p.Rows[0].Raw, compacted)
	}
	gone := bytes.Replace(plain, []byte(`"`+cusBalance+`"`), fixture(t, "objects/customer.deleted.json"), 1)
	if p, err = decodeBalancePage(listOf(false, gone), "", cusBalance, "", false); err != nil || p.Customer != nil {
		t.Errorf("deleted customer: %+v %v", p.Customer, err)
	}
	broken := bytes.Replace(row, []byte(`"balance": -500`), []byte(`"balance": "-500"`), 1)
	if _, err = decodeBalancePage(listOf(false, broken), "", cusBalance, "", false); err == nil {
		t.Error("a customer with a wrong balance passed")
	}
}

func TestDecodeCreditPageFixtures(t *testing.T) {
	t.Parallel()
	p, err := decodeCreditPage(fixture(t, "lists/billing.credit_balance_transactions.expanded_grant.json"), "", cusCredits, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Rows) != 2 || len(p.Grants) != 1 {
		t.Fatalf("%d rows, %d grants", len(p.Rows), len(p.Grants))
	}
	compacted, _ := compactJSON(fixture(t, "objects/billing.credit_balance_transaction.debit_credits_applied.json"))
	want := mirror.CreditTransaction{
		ID: "cbtxn_test_61R9ZljjaFmdidb6e41L6nFOS1ekD9Ue", Customer: cusCredits,
		Grant: "credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE", Type: "debit", DebitType: "credits_applied",
		Amount: -1000, Currency: "usd", Invoice: "in_1Q0BoLL6nFOS1ekDbwBM5ER1",
		InvoiceLineItem: "il_1QB443L6nFOS1ekDwRiN3Z4n", EffectiveAt: time.Unix(1729211351, 0).UTC(),
		Created: time.Unix(1726619524, 0).UTC(), TestClock: "clock_1Q0BoJL6nFOS1ekDbyYYuseM", Raw: compacted,
	}
	if d := cmp.Diff(want, p.Rows[0]); d != "" {
		t.Error(d)
	}
	if p.Rows[1].Amount != 1000 || p.Rows[1].CreditType != "credits_granted" {
		t.Errorf("credit row %+v", p.Rows[1])
	}
	if _, err := decodeCreditPage(fixture(t, "lists/billing.credit_balance_transactions.json"), "", cusCredits, ""); err != nil {
		t.Error(err)
	}
	for name, amount := range map[string]int64{
		"credit_credits_granted": 1000, "credit_credits_granted.current_version": 1000,
		"credit_invoice_voided": 1000, "debit_credits_applied": -1000,
		"debit_credits_expired": -1000, "debit_credits_voided": -1000,
	} {
		row := fixture(t, "objects/billing.credit_balance_transaction."+name+".json")
		p, err := decodeCreditPage(listOf(false, row), "", cusCredits, "")
		if err != nil || p.Rows[0].Amount != amount {
			t.Errorf("%s: %+v %v", name, p.Rows, err)
		}
		if strings.HasSuffix(name, "voided") && strings.HasPrefix(name, "credit") && p.Rows[0].Invoice == "" {
			t.Errorf("%s: no invoice", name)
		}
	}
}

func TestDecodeGrantFixtures(t *testing.T) {
	t.Parallel()
	raw := fixture(t, "objects/billing.credit_grant.json")
	got, err := decodeGrantReply(raw, "acct_1", "credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE")
	if err != nil {
		t.Fatal(err)
	}
	compacted, _ := compactJSON(raw)
	at := time.Unix(1726619434, 0).UTC()
	want := mirror.CreditGrant{
		Account: "acct_1", ID: "credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE", Customer: cusCredits,
		Name: "Purchased Credits", Category: "paid", AmountType: "monetary", Amount: 1000, Currency: "usd",
		ApplicabilityConfig: json.RawMessage(`{"scope":{"price_type":"metered"}}`), Priority: 50,
		EffectiveAt: at, Created: at, Updated: at, TestClock: "clock_1Q0BoJL6nFOS1ekDbyYYuseM",
		Metadata: json.RawMessage("{}"), Raw: compacted,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, name := range []string{"expired", "voided", "scoped_to_prices"} {
		g, err := decodeGrantReply(fixture(t, "objects/billing.credit_grant."+name+".json"), "", "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if (name == "voided") != !g.VoidedAt.IsZero() || (name == "voided") == !g.ExpiresAt.IsZero() {
			t.Errorf("%s: voided %v expires %v", name, g.VoidedAt, g.ExpiresAt)
		}
	}
	if p, err := decodeGrantsPage(fixture(t, "lists/billing.credit_grants.json"), "", "", ""); err != nil || len(p.Rows) == 0 {
		t.Errorf("list: %+v %v", p, err)
	}
	old := edit(t, raw, "priority", nil, "customer", json.RawMessage(`{"id":"`+cusCredits+`","object":"customer","deleted":true}`),
		"amount", json.RawMessage(`{"type":"custom_pricing_unit","custom_pricing_unit":{"value":"1.5"}}`))
	g, err := decodeGrantReply(old, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if g.Priority != -1 || g.Customer != cusCredits || g.AmountType != "custom_pricing_unit" || g.Amount != 0 || g.Currency != "" {
		t.Errorf("%+v", g)
	}
	if !bytes.Contains(g.Raw, []byte(`"value":"1.5"`)) || !bytes.Contains(g.Raw, []byte(`"customer":"`+cusCredits+`"`)) {
		t.Errorf("raw %s", g.Raw)
	}
}

func TestDecodeSummaryFixtures(t *testing.T) {
	t.Parallel()
	got, err := decodeSummary(fixture(t, "objects/billing.credit_balance_summary.multi_currency.json"), cusCredits)
	want := map[string]mirror.CreditBalance{"usd": {Ledger: 1000, Available: 700}, "eur": {Ledger: 500, Available: 500}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Error(err, d)
	}
	single := fixture(t, "objects/billing.credit_balance_summary.json")
	if _, err := decodeSummary(single, cusCredits); err != nil {
		t.Error(err)
	}
	amount := func(cur string) string { return `{"type":"monetary","monetary":{"currency":"` + cur + `","value":1}}` }
	entry := func(l, a string) string { return `{"ledger_balance":` + l + `,"available_balance":` + a + `}` }
	other := `{"type":"custom_pricing_unit"}`
	usd := entry(amount("usd"), amount("usd"))
	for balances, ok := range map[string]bool{
		"[]": true, "[" + entry(other, other) + "]": true, "[" + usd + "]": true,
		"[" + usd + "," + usd + "]": false, "[" + entry(amount("usd"), amount("eur")) + "]": false,
		"[" + entry(amount("usd"), other) + "]": false, "[" + entry(amount("USD"), amount("USD")) + "]": false,
		"[1]": false, "{}": false, "null": false,
	} {
		body := edit(t, single, "balances", json.RawMessage(balances))
		if _, err := decodeSummary(body, cusCredits); (err == nil) != ok {
			t.Errorf("%s: %v", balances, err)
		}
	}
	if _, err := decodeSummary(single, "cus_other"); err == nil {
		t.Error("another customer's summary passed")
	}
}

func TestDecodeEventsFixtures(t *testing.T) {
	t.Parallel()
	p, err := decodeEventsPage(fixture(t, "lists/events.json"), "", EventsQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Events) == 0 || len(p.Unreadable) != 0 || p.FirstID != p.Events[0].ID || p.LastID != p.Events[len(p.Events)-1].ID {
		t.Fatalf("%+v", p)
	}
	good := fixture(t, "events/customer.updated.balance.json")
	strange := edit(t, good, "id", "evt_strange", "created", "yesterday")
	thin := fixture(t, "events/thin.v2.core.event_destination.ping.json")
	p, err = decodeEventsPage(listOf(true, strange, good, thin), "acct_9", EventsQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Events) != 1 || len(p.Unreadable) != 2 || p.FirstID != "evt_strange" || p.LastID == "" || !p.HasMore {
		t.Fatalf("%+v", p)
	}
	if p.Events[0].Account != "acct_9" {
		t.Errorf("account %q", p.Events[0].Account)
	}
	connect := fixture(t, "events/connect_account.customer.updated.json")
	if p, err = decodeEventsPage(listOf(false, connect, good), "acct_9", EventsQuery{}); err != nil || len(p.Events) != 1 || len(p.Unreadable) != 1 {
		t.Errorf("an event of another account passed, or stopped the list: %+v, %v", p, err)
	}
	for name, q := range map[string]EventsQuery{"after": {After: "evt_strange"}, "before": {Before: "evt_strange"}} {
		if _, err := decodeEventsPage(listOf(true, strange), "", q); err == nil {
			t.Errorf("%s: a page with its own cursor in it passed", name)
		}
	}
}

func TestDecodeWebhookEndpoint(t *testing.T) {
	t.Parallel()
	r, err := decodeOne(fixture(t, "objects/webhook_endpoint.json"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := decodeWebhookEndpoint(r)
	if err != nil || e.Status != "enabled" || len(e.EnabledEvents) != 6 || e.URL == "" {
		t.Errorf("%+v %v", e, err)
	}
}

func ExampleError() {
	err := error(&Error{Kind: KindAccountRefused, Endpoint: EndpointEventsList, Status: 403, Code: "account_invalid"})
	fmt.Println(err)
	fmt.Println(errors.Is(err, ErrForbidden), errors.Is(err, ErrAccountRefused), errors.Is(err, ErrUnauthorized))
	// Output:
	// stripe events.list: account_refused: status 403: account_invalid
	// true true false
}
