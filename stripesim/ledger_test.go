package stripesim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBalanceTransactionFirstSetsCurrencyAndSendsEvent(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer("email=a@example.com")
	txn := s.adjust(cus, -500, "usd")
	equal(t, "type", txn.str("type"), "adjustment")
	equal(t, "ending", txn.num("ending_balance"), -500)
	s.adjust(cus, -300, "usd")

	c := s.get("/v1/customers/"+cus, "expand[]=invoice_credit_balance")
	equal(t, "balance", c.num("balance"), -800)
	equal(t, "currency", c.str("currency"), "usd")
	equalJSON(t, "credit", c.at("invoice_credit_balance"), `{"usd":800}`)
	if _, ok := s.get("/v1/customers/" + cus).obj["invoice_credit_balance"]; ok {
		t.Fatal("invoice_credit_balance shown unasked")
	}

	ev := s.get("/v1/events", "type=customer.updated").data()
	equal(t, "events", len(ev), 2)
	byBalance := map[float64]obj{}
	for _, e := range ev {
		d := e["data"].(obj)
		byBalance[d["object"].(obj)["balance"].(float64)] = d["previous_attributes"].(obj)
	}
	equalJSON(t, "first", byBalance[-500], `{"balance":0,"currency":null}`)
	equalJSON(t, "second", byBalance[-800], `{"balance":-500}`)
}

func TestSecondCurrencyHasItsOwnChain(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{false, true} {
		s := start(t, Options{Switches: Switches{NonDefaultCurrencyEvent: on}})
		cus := s.customer()
		s.adjust(cus, -500, "usd")
		equal(t, "ending", s.adjust(cus, 250, "eur").num("ending_balance"), 250)
		equal(t, "ending", s.adjust(cus, -100, "eur").num("ending_balance"), 150)
		c := s.get("/v1/customers", "expand[]=data.invoice_credit_balance").data()[0]
		equal(t, "balance", c["balance"].(float64), -500)
		equalJSON(t, "credit", c["invoice_credit_balance"], `{"eur":-150,"usd":500}`)
		want := 1
		if on {
			want = 3
		}
		equal(t, "events", len(s.get("/v1/events", "type=customer.updated").data()), want)
	}
}

func TestCustomerBalanceIsAbsolute(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer("balance=-700", "metadata[a]=1")
	txns := s.get("/v1/customers/" + cus + "/balance_transactions").data()
	equal(t, "type", txns[0]["type"].(string), "initial")
	s.hand.forward(1)
	s.post("/v1/customers/"+cus, "balance=-200", "metadata[b]=2", "metadata[a]=", "name=Jo")
	txns = s.get("/v1/customers/" + cus + "/balance_transactions").data()
	equal(t, "type", txns[0]["type"].(string), "adjustment")
	equal(t, "amount", txns[0]["amount"].(float64), 500)
	equal(t, "ending", txns[0]["ending_balance"].(float64), -200)
	ev := s.get("/v1/events", "type=customer.updated").data()
	equal(t, "events", len(ev), 1)
	equalJSON(t, "previous", ev[0]["data"].(obj)["previous_attributes"], `{"balance":-700,"metadata":{"a":"1","b":null},"name":null}`)
	s.post("/v1/customers/"+cus, "balance=-200", "name=Jo") // changes nothing
	equal(t, "events", len(s.get("/v1/events", "type=customer.updated").data()), 1)
	equalJSON(t, "cleared", s.post("/v1/customers/"+cus, "metadata=", "name=").at("metadata"), `{}`)
}

func TestBalanceTransactionUpdateIsSilent(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	id := s.adjust(cus, -500, "usd").str("id")
	before := len(s.eventTypes())
	path := "/v1/customers/" + cus + "/balance_transactions/" + id
	s.post(path, "description=why", "metadata[order_id]=6735")
	r := s.get(path, "expand[]=customer.invoice_credit_balance")
	equal(t, "description", r.str("description"), "why")
	equalJSON(t, "metadata", r.at("metadata"), `{"order_id":"6735"}`)
	equal(t, "expanded", r.num("customer.invoice_credit_balance.usd"), 500)
	equal(t, "events", len(s.eventTypes()), before)
	wantError(t, s.do("POST", path, "amount=5"), 400, "parameter_unknown", "amount")
	other := s.customer()
	wantError(t, s.do("GET", "/v1/customers/"+other+"/balance_transactions/"+id), 404, "resource_missing", "transaction")
}

func TestDeletedCustomer(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		s := start(t, Options{Switches: Switches{DeletedCustomerLists: open}})
		cus := s.customer()
		s.adjust(cus, -500, "usd")
		g := s.grant(cus, 100).str("id")
		equalJSON(t, "stub", s.must("DELETE", "/v1/customers/"+cus).obj, fmt.Sprintf(`{"deleted":true,"id":"%s","object":"customer"}`, cus))
		equal(t, "deleted", s.get("/v1/customers/"+cus).at("deleted"), any(true))
		equal(t, "listed", len(s.get("/v1/customers").data()), 0)
		wantError(t, s.do("DELETE", "/v1/customers/"+cus), 404, "resource_missing", "id")
		list := s.do("GET", "/v1/customers/"+cus+"/balance_transactions")
		if open {
			equal(t, "rows", len(list.data()), 1)
		} else {
			wantError(t, list, 404, "resource_missing", "customer")
		}
		equal(t, "expanded stub", s.get("/v1/billing/credit_grants/"+g, "expand[]=customer").at("customer.deleted"), any(true))
		ev := s.get("/v1/events", "type=customer.deleted").data()[0]
		equal(t, "last", ev["data"].(obj)["object"].(obj)["balance"].(float64), -500)
		tr := s.Truth()
		if len(tr) != 1 || !tr[0].Deleted || len(tr[0].BalanceTransactions) != 1 || tr[0].LedgerBalances["usd"] != 100 {
			t.Fatalf("truth: %+v", tr)
		}
	}
}

func summary(s *sim, cus string, pairs ...string) answer {
	s.t.Helper()
	if len(pairs) == 0 {
		pairs = []string{"filter[type]=applicability_scope", "filter[applicability_scope][price_type]=metered"}
	}
	return s.get("/v1/billing/credit_balance_summary", append(pairs, "customer="+cus)...)
}

// balances returns ledger and available of the first currency.
func balances(r answer) (ledger, available int64) {
	list := r.at("balances").([]any)
	if len(list) == 0 {
		return 0, 0
	}
	b := answer{obj: list[0].(obj)}
	return b.num("ledger_balance.monetary.value"), b.num("available_balance.monetary.value")
}

func wantBalances(t *testing.T, s *sim, cus string, ledger, available int64) {
	t.Helper()
	l, a := balances(summary(s, cus))
	if l != ledger || a != available {
		t.Fatalf("ledger %d available %d, want %d and %d", l, a, ledger, available)
	}
}

func TestGrantLifeCycle(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	base := len(s.eventTypes())
	g := s.grant(cus, 1000, "name=Prepaid", "priority=10")
	equal(t, "category", g.str("category"), "paid")
	equal(t, "effective", g.num("effective_at"), s.hand.seconds())
	equal(t, "updated", g.num("updated"), s.hand.seconds())
	created := slices.Sorted(slices.Values(s.eventTypes()[base:]))
	equalJSON(t, "events", created, `["billing.credit_balance_transaction.created","billing.credit_grant.created"]`)
	wantBalances(t, s, cus, 1000, 1000)

	id := g.str("id")
	s.hand.forward(10)
	u := s.post("/v1/billing/credit_grants/"+id, fmt.Sprintf("expires_at=%d", s.hand.seconds()+100), "metadata[k]=v")
	equal(t, "expires", u.num("expires_at"), s.hand.seconds()+100)
	equal(t, "updated", u.num("updated"), s.hand.seconds())
	u = s.post("/v1/billing/credit_grants/"+id, "expires_at=")
	equal(t, "never", u.at("expires_at"), nil)

	res, err := s.ApplyCredits(InvoiceUse{Customer: cus, Currency: "usd", Amount: 300})
	if err != nil || res.Credits != 300 {
		t.Fatalf("apply: %+v %v", res, err)
	}
	wantBalances(t, s, cus, 700, 700)
	r := s.do("POST", "/v1/billing/credit_grants/"+id+"/void")
	equal(t, "void of an applied grant", r.status, 400)

	s.hand.forward(10)
	e := s.post("/v1/billing/credit_grants/" + id + "/expire")
	equal(t, "expires", e.num("expires_at"), s.hand.seconds())
	equal(t, "voided", e.at("voided_at"), nil)
	wantBalances(t, s, cus, 0, 0)

	v := s.grant(cus, 50).str("id")
	w := s.post("/v1/billing/credit_grants/" + v + "/void")
	equal(t, "voided", w.num("voided_at"), s.hand.seconds())
	equal(t, "expires", w.at("expires_at"), nil)
	equal(t, "void twice", s.do("POST", "/v1/billing/credit_grants/"+v+"/void").status, 400)

	var types []string
	for _, row := range s.get("/v1/billing/credit_balance_transactions", "customer="+cus).data() {
		for _, side := range []string{"credit", "debit"} {
			if m, ok := row[side].(obj); ok {
				types = append(types, m["type"].(string))
			}
		}
	}
	slices.Sort(types)
	equal(t, "types", strings.Join(types, " "), "credits_applied credits_expired credits_granted credits_granted credits_voided")

	_, err = s.VoidInvoice("", res.Invoice) // the grant has expired: back and gone at once
	if err != nil {
		t.Fatal(err)
	}
	wantBalances(t, s, cus, 0, 0)
	rows := s.get("/v1/billing/credit_balance_transactions", "customer="+cus, "credit_grant="+id,
		"expand[]=data.credit_grant.customer", "expand[]=data.credit.credits_application_invoice_voided.invoice")
	equal(t, "rows of the grant", len(rows.data()), 5)
	equal(t, "url", rows.str("url"), "/v1/billing/credit_grants")
	var returned bool
	for _, row := range rows.data() {
		d := answer{obj: row}
		equal(t, "expanded", d.str("credit_grant.customer.id"), cus)
		if d.str("credit.type") == "credits_application_invoice_voided" {
			returned = true
			equal(t, "invoice", d.str("credit.credits_application_invoice_voided.invoice.id"), res.Invoice)
		}
	}
	if !returned {
		t.Fatal("no row for the voided invoice")
	}
	one := s.get("/v1/billing/credit_balance_transactions/" + rows.ids()[0])
	equal(t, "by id", one.str("id"), rows.ids()[0])
}

func TestCreditsAreUsedInStripesOrder(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	later := fmt.Sprintf("expires_at=%d", s.hand.seconds()+2000)
	soon := fmt.Sprintf("expires_at=%d", s.hand.seconds()+1000)
	want := []string{"f", "e", "d", "c", "b", "a"} // as they are used
	names, price := map[string]string{}, s.metered()
	s.hand.forward(1)
	names[s.grant(cus, 10, "category=paid", later).str("id")] = "b"
	s.hand.forward(1)
	names[s.grant(cus, 10, "category=paid").str("id")] = "a"
	names[s.grant(cus, 10, "category=promotional", later).str("id")] = "c"
	names[s.grant(cus, 10, "category=paid", soon).str("id")] = "d"
	names[s.grant(cus, 10, "category=paid", "priority=40").str("id")] = "e"
	names[s.grant(cus, 10, "category=promotional", "priority=0").str("id")] = "f"
	names[s.grant(cus, 10, fmt.Sprintf("effective_at=%d", s.hand.seconds()+500), "priority=1").str("id")] = "pending"
	names[s.post("/v1/billing/credit_grants", "customer="+cus, "amount[type]=monetary", "amount[monetary][currency]=eur",
		"amount[monetary][value]=9", "applicability_config[scope][price_type]=metered", "priority=0").str("id")] = "eur"
	names[s.post("/v1/billing/credit_grants", "customer="+cus, "amount[type]=monetary", "amount[monetary][currency]=usd",
		"amount[monetary][value]=9", "applicability_config[scope][prices][0][id]="+price, "priority=0").str("id")] = "priced"
	res, err := s.ApplyCredits(InvoiceUse{Customer: cus, Currency: "usd", Amount: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, id := range res.CreditTransactions {
		got = append(got, names[s.get("/v1/billing/credit_balance_transactions/"+id).str("credit_grant")])
	}
	equal(t, "order", strings.Join(got, ""), strings.Join(want, ""))
	res, err = s.ApplyCredits(InvoiceUse{Customer: cus, Currency: "usd", Amount: 5, Price: price})
	if err != nil || res.Credits != 5 {
		t.Fatalf("priced: %+v %v", res, err)
	}
	l, _ := balances(summary(s, cus, "filter[type]=applicability_scope", "filter[applicability_scope][prices][0][id]="+price))
	equal(t, "scope of prices", l, 4)
}

func TestPendingAndExpiringGrants(t *testing.T) {
	t.Parallel()
	t.Run("by the wall clock", func(t *testing.T) {
		t.Parallel()
		s := start(t, Options{})
		cus := s.customer()
		now := s.hand.seconds()
		s.grant(cus, 100, fmt.Sprintf("effective_at=%d", now+100), fmt.Sprintf("expires_at=%d", now+200))
		wantBalances(t, s, cus, 100, 0)
		s.hand.forward(100)
		wantBalances(t, s, cus, 100, 100)
		s.hand.forward(100)
		wantBalances(t, s, cus, 0, 0)
		rows := s.get("/v1/billing/credit_balance_transactions", "customer="+cus).data()
		equal(t, "rows", len(rows), 2)
		d := answer{obj: rows[0]}
		equal(t, "type", d.str("debit.type"), "credits_expired")
		equal(t, "effective", d.num("effective_at"), now+200)
		for _, typ := range s.eventTypes("type=billing.credit_grant.*") {
			equal(t, "event", typ, "billing.credit_grant.created")
		}
		ev := s.get("/v1/events").data()[0]
		equalJSON(t, "request", ev["request"], `{"id":null,"idempotency_key":null}`)
	})
	t.Run("late rows and more events", func(t *testing.T) {
		t.Parallel()
		s := start(t, Options{Switches: Switches{PendingGrantRowLate: true, ExpirySendsGrantUpdated: true, ExpiryDelay: 50e9}})
		cus := s.customer()
		now := s.hand.seconds()
		s.grant(cus, 100, fmt.Sprintf("effective_at=%d", now+100), fmt.Sprintf("expires_at=%d", now+200))
		wantBalances(t, s, cus, 0, 0)
		s.hand.forward(150)
		wantBalances(t, s, cus, 100, 100)
		s.hand.forward(60)
		wantBalances(t, s, cus, 100, 0) // expired, but not yet recorded
		s.hand.forward(60)
		wantBalances(t, s, cus, 0, 0)
		equal(t, "updated", len(s.eventTypes("type=billing.credit_grant.updated")), 1)
	})
	t.Run("on read only", func(t *testing.T) {
		t.Parallel()
		s := start(t, Options{Switches: Switches{ExpiryOnRead: true}})
		cus := s.customer()
		s.grant(cus, 100, fmt.Sprintf("expires_at=%d", s.hand.seconds()+10))
		s.hand.forward(20)
		n := len(s.eventTypes())
		s.get("/v1/customers/" + cus)
		equal(t, "no event yet", len(s.eventTypes()), n)
		wantBalances(t, s, cus, 0, 0)
		equal(t, "event after a read", len(s.eventTypes()), n+1)
	})
	t.Run("moved expiry", func(t *testing.T) {
		t.Parallel()
		s := start(t, Options{})
		cus := s.customer()
		g := s.grant(cus, 100, fmt.Sprintf("expires_at=%d", s.hand.seconds()+10)).str("id")
		s.post("/v1/billing/credit_grants/"+g, fmt.Sprintf("expires_at=%d", s.hand.seconds()+100))
		s.hand.forward(50)
		wantBalances(t, s, cus, 100, 100)
		s.hand.forward(50)
		wantBalances(t, s, cus, 0, 0)
		r := s.do("POST", "/v1/billing/credit_grants/"+g, "expires_at=")
		wantError(t, r, 400, "", "expires_at")
	})
}

func TestUnusedGrantsAreLimited(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	var last string
	for range maxUnusedGrants {
		last = s.grant(cus, 5).str("id")
	}
	args := []string{"customer=" + cus, "amount[type]=monetary", "amount[monetary][currency]=usd", "amount[monetary][value]=5", "applicability_config[scope][price_type]=metered"}
	equal(t, "one too many", s.do("POST", "/v1/billing/credit_grants", args...).status, 400)
	s.post("/v1/billing/credit_grants/" + last + "/void")
	s.post("/v1/billing/credit_grants", args...)
}

func TestSummaryFilters(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	a := s.grant(cus, 100).str("id")
	s.grant(cus, 30)
	l, _ := balances(summary(s, cus, "filter[type]=credit_grant", "filter[credit_grant]="+a))
	equal(t, "one grant", l, 100)
	wantBalances(t, s, cus, 130, 130)
	path := "/v1/billing/credit_balance_summary"
	wantError(t, s.do("GET", path, "customer="+cus), 400, "parameter_missing", "filter")
	wantError(t, s.do("GET", path, "customer="+cus, "filter[type]=credit_grant"), 400, "parameter_missing", "filter[credit_grant]")
	wantError(t, s.do("GET", path, "customer=cus_no", "filter[type]=credit_grant", "filter[credit_grant]="+a), 400, "resource_missing", "customer")
	wantError(t, s.do("GET", path, "filter[type]=credit_grant", "filter[credit_grant]="+a), 400, "parameter_missing", "customer")
	equal(t, "none", len(summary(s, s.customer()).at("balances").([]any)), 0)
}

func TestInvoiceBalance(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer("balance=-500")
	r, err := s.ApplyBalance(InvoiceUse{Customer: cus, Amount: 300, Invoice: "in_1"})
	if err != nil || r.Balance != 300 {
		t.Fatalf("apply: %+v %v", r, err)
	}
	equal(t, "balance", s.get("/v1/customers/"+cus).num("balance"), -200)
	s.hand.forward(1)
	list := s.get("/v1/customers/"+cus+"/balance_transactions", "invoice=in_1", "expand[]=data.invoice")
	equal(t, "rows", len(list.data()), 1)
	d := answer{obj: list.data()[0]}
	equal(t, "type", d.str("type"), "applied_to_invoice")
	equal(t, "starting", d.num("invoice.starting_balance"), -500)
	ev := s.get("/v1/events", "type=customer.updated").data()[0]
	equalJSON(t, "previous", ev["data"].(obj)["previous_attributes"], `{"balance":-500,"next_invoice_sequence":1}`)

	u, err := s.UnapplyBalance("", "in_1")
	if err != nil || u.Balance != -300 {
		t.Fatalf("unapply: %+v %v", u, err)
	}
	equal(t, "balance", s.get("/v1/customers/"+cus).num("balance"), -500)
	s.post("/v1/customers/"+cus, "balance=150")
	r, err = s.ApplyBalance(InvoiceUse{Customer: cus, Amount: 1000}) // debt goes onto the invoice
	if err != nil || r.Balance != -150 {
		t.Fatalf("debt: %+v %v", r, err)
	}
	equal(t, "balance", s.get("/v1/customers/"+cus).num("balance"), 0)
	if _, err := s.VoidInvoice("", r.Invoice); err != nil {
		t.Fatal(err)
	}
	equal(t, "balance", s.get("/v1/customers/"+cus).num("balance"), 150)
	for name, err := range map[string]error{
		"void twice":       second(s.VoidInvoice("", r.Invoice)),
		"unknown invoice":  second(s.VoidInvoice("", "in_none")),
		"unknown customer": second(s.ApplyBalance(InvoiceUse{Customer: "cus_no", Amount: 1})),
		"unknown account":  second(s.ApplyBalance(InvoiceUse{Account: "acct_no", Customer: cus, Amount: 1})),
		"no amount":        second(s.ApplyCredits(InvoiceUse{Customer: cus})),
		"other's invoice":  second(s.ApplyBalance(InvoiceUse{Customer: s.customer("balance=-1"), Amount: 1, Invoice: "in_1"})),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestEveryBalanceType(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	for _, typ := range BalanceTypes {
		id, err := s.AddBalanceTransaction("", cus, BalanceChange{Amount: 7, Currency: "usd", Type: typ, CreditNote: "cn_1", CheckoutSession: "cs_1"})
		if err != nil {
			t.Fatal(err)
		}
		r := s.get("/v1/customers/" + cus + "/balance_transactions/" + id)
		equal(t, "type", r.str("type"), typ)
		equal(t, "note", r.str("credit_note"), "cn_1")
		equal(t, "session", r.str("checkout_session"), "cs_1")
	}
}

func TestClocks(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	k := s.post("/v1/test_helpers/test_clocks", "frozen_time=1000000", "name=k")
	id := k.str("id")
	equal(t, "status", k.str("status"), "ready")
	cus := s.customer("test_clock=" + id)
	equal(t, "hidden", len(s.get("/v1/customers").data()), 0)
	equal(t, "listed", len(s.get("/v1/customers", "test_clock="+id).data()), 1)
	g := s.grant(cus, 100, "expires_at=1005000")
	equal(t, "effective", g.num("effective_at"), 1000000)
	equal(t, "created", g.num("created"), s.hand.seconds())
	equal(t, "expanded", s.get("/v1/billing/credit_grants/"+g.str("id"), "expand[]=test_clock").str("test_clock.id"), id)

	s.hand.forward(1)
	adv := s.post("/v1/test_helpers/test_clocks/"+id+"/advance", "frozen_time=1006000")
	equal(t, "status", adv.str("status"), "advancing")
	equal(t, "target", adv.num("status_details.advancing.target_frozen_time"), 1006000)
	k = s.get("/v1/test_helpers/test_clocks/" + id)
	equal(t, "status", k.str("status"), "ready")
	equal(t, "frozen", k.num("frozen_time"), 1006000)
	rows := s.get("/v1/billing/credit_balance_transactions", "customer="+cus).data()
	d := answer{obj: rows[0]}
	equal(t, "type", d.str("debit.type"), "credits_expired")
	equal(t, "effective", d.num("effective_at"), 1005000)
	equal(t, "clock", d.str("test_clock"), id)
	equal(t, "ready", len(s.eventTypes("type=test_helpers.test_clock.ready")), 1)
	equal(t, "backwards", s.do("POST", "/v1/test_helpers/test_clocks/"+id+"/advance", "frozen_time=5").status, 400)

	equal(t, "list", len(s.get("/v1/test_helpers/test_clocks").data()), 1)
	s.must("DELETE", "/v1/test_helpers/test_clocks/"+id)
	equal(t, "gone", s.do("GET", "/v1/test_helpers/test_clocks/"+id).status, 404)
	equal(t, "vanished", s.get("/v1/customers/"+cus).at("deleted"), any(true))
	equal(t, "no event each", len(s.eventTypes("type=customer.deleted")), 0)
}

func TestClockStaysAdvancing(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Switches: Switches{ClockAdvanceTime: time.Hour}})
	id := s.post("/v1/test_helpers/test_clocks", "frozen_time=1000").str("id")
	s.post("/v1/test_helpers/test_clocks/"+id+"/advance", "frozen_time=2000")
	equal(t, "status", s.get("/v1/test_helpers/test_clocks/"+id).str("status"), "advancing")
	equal(t, "again", s.do("POST", "/v1/test_helpers/test_clocks/"+id+"/advance", "frozen_time=3000").status, 400)
}

func TestSettleWaitsForClocks(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Switches: Switches{ClockAdvanceTime: time.Millisecond, ClockDeleteSendsCustomerDeleted: true}})
	id := s.post("/v1/test_helpers/test_clocks", "frozen_time=1000").str("id")
	s.customer("test_clock=" + id)
	s.post("/v1/test_helpers/test_clocks/"+id+"/advance", "frozen_time=2000")
	s.settle()
	equal(t, "status", s.get("/v1/test_helpers/test_clocks/"+id).str("status"), "ready")
	s.must("DELETE", "/v1/test_helpers/test_clocks/"+id)
	equal(t, "event each", len(s.eventTypes("type=customer.deleted")), 1)
}

// A longer or shorter delay holds for the grants that were there before it, too,
// and on test clocks.
func TestExpiryDelayChanges(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	delay := func(d time.Duration) {
		t.Helper()
		if err := s.SetSwitches(Switches{ExpiryDelay: d}); err != nil {
			t.Fatal(err)
		}
	}
	cus := s.customer()
	at := s.hand.seconds()
	s.grant(cus, 10, fmt.Sprintf("expires_at=%d", at+100))
	delay(50 * time.Second)
	s.grant(cus, 10, fmt.Sprintf("expires_at=%d", at+100))
	s.hand.forward(120)
	wantBalances(t, s, cus, 20, 0)
	s.hand.forward(30)
	wantBalances(t, s, cus, 0, 0)
	s.grant(cus, 10, fmt.Sprintf("expires_at=%d", at+200))
	delay(time.Second)
	s.hand.forward(60)
	wantBalances(t, s, cus, 0, 0)

	delay(50 * time.Second)
	clock := s.post("/v1/test_helpers/test_clocks", "frozen_time=1000000").str("id")
	cus = s.customer("test_clock=" + clock)
	s.grant(cus, 10, "expires_at=1000100")
	s.post("/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time=1000120")
	wantBalances(t, s, cus, 10, 0)
	s.post("/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time=1000150")
	wantBalances(t, s, cus, 0, 0)
}

// A request that waits is not dated before those that pass it: the times of a
// chain run with it.
func TestCreatedFollowsTheChain(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	if err := s.SetFaults(Faults{{Kind: FaultSlow, Count: 1, Delay: Duration(300 * time.Millisecond)}}); err != nil {
		t.Fatal(err)
	}
	begun := s.hand.seconds()
	slow := make(chan answer)
	go func() { slow <- s.adjust(cus, -5, "usd") }()
	until(t, func() bool { return strings.Contains(string(s.control("GET", "/_sim/log", "").raw), "fault.slow") })
	s.hand.forward(1)
	fast := s.adjust(cus, -7, "usd")
	late := <-slow
	equal(t, "ends", late.num("ending_balance"), fast.num("ending_balance")-5)
	equal(t, "fast", fast.num("created"), begun+1)
	equal(t, "slow", late.num("created"), begun+1)
}
