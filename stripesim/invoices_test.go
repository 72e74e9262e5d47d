package stripesim

import (
	"fmt"
	"strings"
	"testing"
)

// metered makes a metered price.
func (s *sim) metered() string {
	s.t.Helper()
	return s.post("/v1/prices", "currency=usd", "unit_amount=1", "product_data[name]=Usage", "recurring[interval]=month",
		"recurring[usage_type]=metered", "recurring[meter]=mtr_1").str("id")
}

// draft makes a draft invoice with one line per amount.
func (s *sim) draft(cus string, amounts ...int64) string {
	s.t.Helper()
	id := s.post("/v1/invoices", "customer="+cus, "currency=usd").str("id")
	for _, n := range amounts {
		s.post("/v1/invoiceitems", "customer="+cus, "invoice="+id, fmt.Sprintf("amount=%d", n), "currency=usd")
	}
	return id
}

// use makes a draft with one metered line.
func (s *sim) use(cus, price string, quantity int64) string {
	s.t.Helper()
	id := s.post("/v1/invoices", "customer="+cus, "currency=usd").str("id")
	s.post("/v1/invoices/"+id+"/add_lines", "lines[0][pricing][price]="+price, fmt.Sprintf("lines[0][quantity]=%d", quantity))
	return id
}

func (s *sim) txnTypes(cus string) string {
	s.t.Helper()
	var out []string
	for _, row := range s.get("/v1/customers/"+cus+"/balance_transactions", "limit=100").data() {
		out = append([]string{fmt.Sprintf("%s%+d", row["type"], int64(row["amount"].(float64)))}, out...)
	}
	return strings.Join(out, " ")
}

func TestInvoiceTakesCreditsThenBalance(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Switches: Switches{SameSecondOrder: OrderDescending}})
	cus := s.customer("balance=-300")
	s.grant(cus, 1000)
	id := s.use(cus, s.metered(), 1500)
	s.post("/v1/invoiceitems", "customer="+cus, "invoice="+id, "amount=400", "description=Seat") // no credits for this line
	wantBalances(t, s, cus, 1000, 0)                                                             // the draft has a claim on them
	d := s.get("/v1/invoices/" + id)
	equal(t, "draft due", d.num("amount_due"), 1600)
	equal(t, "draft ending", d.at("ending_balance"), nil)

	inv := s.post("/v1/invoices/" + id + "/finalize")
	equal(t, "status", inv.str("status"), "open")
	equal(t, "subtotal", inv.num("subtotal"), 1900)
	equal(t, "total", inv.num("total"), 900)
	equal(t, "starting", inv.num("starting_balance"), -300)
	equal(t, "ending", inv.num("ending_balance"), 0)
	equal(t, "due", inv.num("amount_due"), 600)
	equal(t, "credits on the line", len(inv.at("lines.data").([]any)[0].(obj)["pretax_credit_amounts"].([]any)), 1)
	equal(t, "credits on the other", len(inv.at("lines.data").([]any)[1].(obj)["pretax_credit_amounts"].([]any)), 0)
	wantBalances(t, s, cus, 0, 0)
	equal(t, "rows", s.txnTypes(cus), "initial-300 applied_to_invoice+300")
	wantError(t, s.do("POST", "/v1/invoices/"+id+"/finalize"), 400, "invoice_not_editable", "")
	wantError(t, s.do("DELETE", "/v1/invoices/"+id), 400, "", "")

	void := s.post("/v1/invoices/" + id + "/void")
	equal(t, "void", void.str("status"), "void")
	wantBalances(t, s, cus, 1000, 1000)
	equal(t, "rows", s.txnTypes(cus), "initial-300 applied_to_invoice+300 unapplied_from_invoice-300")
	wantError(t, s.do("POST", "/v1/invoices/"+id+"/pay"), 400, "", "")
	kinds := strings.Join(s.eventTypes(), " ")
	for _, k := range []string{"invoice.created", "invoiceitem.created", "price.created", "invoice.finalized", "invoice.updated", "invoice.voided"} {
		if !strings.Contains(kinds, k) {
			t.Errorf("no event %s", k)
		}
	}
}

func TestInvoicePaidByBalanceAlone(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer("balance=-5000")
	inv := s.post("/v1/invoices/" + s.draft(cus, 1200, 800) + "/finalize")
	equal(t, "status", inv.str("status"), "paid")
	equal(t, "due", inv.num("amount_due"), 0)
	equal(t, "ending", inv.num("ending_balance"), -3000)
	equal(t, "paid events", len(s.eventTypes("type=invoice.paid")), 1)
	wantError(t, s.do("POST", "/v1/invoices/"+inv.str("id")+"/void"), 400, "", "")
}

func TestInvoiceThatCannotBeCharged(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Switches: Switches{SameSecondOrder: OrderDescending}})
	cus := s.customer()
	inv := s.post("/v1/invoices/" + s.draft(cus, 30) + "/finalize")
	equal(t, "status", inv.str("status"), "paid")
	equal(t, "due", inv.num("amount_due"), 0)
	equal(t, "ending", inv.num("ending_balance"), 30)
	inv = s.post("/v1/invoices/" + s.draft(cus, 70) + "/finalize") // takes the debt over
	equal(t, "due", inv.num("amount_due"), 100)
	equal(t, "status", inv.str("status"), "open")
	inv = s.post("/v1/invoices/" + s.draft(cus, maxCharge, 1) + "/finalize")
	equal(t, "due", inv.num("amount_due"), 0)
	equal(t, "rows", s.txnTypes(cus), fmt.Sprintf("invoice_too_small+30 applied_to_invoice-30 invoice_too_large%+d", maxCharge+1))
	inv = s.post("/v1/invoices/" + s.draft(s.customer(), -500) + "/finalize") // a negative invoice is credit
	equal(t, "ending", inv.num("ending_balance"), -500)
	equal(t, "status", inv.str("status"), "paid")
}

func TestInvoicePayments(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Switches: Switches{SameSecondOrder: OrderDescending}})
	cus := s.customer()
	id := s.draft(cus, 1000)
	s.post("/v1/invoices/" + id + "/finalize")
	r := s.do("POST", "/v1/invoices/"+id+"/pay", "payment_method=pm_card_chargeDeclined")
	wantError(t, r, 402, "card_declined", "")
	equal(t, "decline", r.str("error.decline_code"), "generic_decline")
	if _, err := s.PayInvoice("", id, 400); err != nil {
		t.Fatal(err)
	}
	inv := s.get("/v1/invoices/" + id)
	equal(t, "remaining", inv.num("amount_remaining"), 600)
	wantError(t, s.do("POST", "/v1/invoices/"+id+"/void"), 400, "", "")
	if r, err := s.PayInvoice("", id, 850); err != nil || r.Balance != -250 {
		t.Fatalf("%+v %v", r, err)
	}
	inv = s.get("/v1/invoices/" + id)
	equal(t, "status", inv.str("status"), "paid")
	equal(t, "overpaid", inv.num("amount_overpaid"), 250)
	equal(t, "paid", inv.num("amount_paid"), 1000)
	equal(t, "rows", s.txnTypes(cus), "invoice_overpaid-250")
	equal(t, "events", len(s.eventTypes("type=invoice.overpaid")), 1)

	other := s.draft(cus, 5000)
	inv = s.post("/v1/invoices/"+other+"/pay", "paid_out_of_band=true") // finalizes first
	equal(t, "status", inv.str("status"), "paid")
	equal(t, "paid", inv.num("amount_paid"), 4750)
	equal(t, "elsewhere", inv.num("amount_paid_off_stripe"), 4750)
	bad := s.draft(cus, 900)
	s.post("/v1/invoices/" + bad + "/finalize")
	equal(t, "uncollectible", s.post("/v1/invoices/"+bad+"/mark_uncollectible").str("status"), "uncollectible")
	equal(t, "void", s.post("/v1/invoices/"+bad+"/void").str("status"), "void")
}

func TestCreditNotes(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Switches: Switches{SameSecondOrder: OrderDescending}})
	cus := s.customer()
	id := s.draft(cus, 1000)
	wantError(t, s.do("POST", "/v1/credit_notes", "invoice="+id, "amount=1"), 400, "", "invoice") // a draft
	s.post("/v1/invoices/" + id + "/finalize")
	n := s.post("/v1/credit_notes", "invoice="+id, "amount=300", "reason=duplicate", "memo=m")
	equal(t, "type", n.str("type"), "pre_payment")
	equal(t, "pre", n.num("pre_payment_amount"), 300)
	equal(t, "due", s.get("/v1/invoices/"+id).num("amount_due"), 700)
	equal(t, "void", s.post("/v1/credit_notes/"+n.str("id")+"/void").str("status"), "void")
	equal(t, "due", s.get("/v1/invoices/"+id).num("amount_due"), 1000)
	wantError(t, s.do("POST", "/v1/credit_notes/"+n.str("id")+"/void"), 400, "", "")
	s.post("/v1/invoices/" + id + "/pay")

	wantError(t, s.do("POST", "/v1/credit_notes", "invoice="+id, "amount=500"), 400, "", "credit_amount")
	wantError(t, s.do("POST", "/v1/credit_notes", "invoice="+id, "amount=1001", "credit_amount=1001"), 400, "", "amount")
	n = s.post("/v1/credit_notes", "invoice="+id, "amount=500", "credit_amount=200", "refund_amount=250", "out_of_band_amount=50")
	equal(t, "type", n.str("type"), "post_payment")
	equal(t, "post", n.num("post_payment_amount"), 500)
	txn := s.get("/v1/customers/"+cus+"/balance_transactions", "expand[]=data.credit_note").data()[0]
	equal(t, "its txn", txn["id"].(string), n.str("customer_balance_transaction"))
	equal(t, "expanded", txn["credit_note"].(obj)["id"].(string), n.str("id"))
	equal(t, "rows", s.txnTypes(cus), "credit_note-200")
	equal(t, "expand", s.get("/v1/credit_notes/"+n.str("id"), "expand[]=customer_balance_transaction", "expand[]=invoice.customer").num("customer_balance_transaction.amount"), -200)
	lines := s.get("/v1/invoices/" + id + "/lines").ids()
	n = s.post("/v1/credit_notes", "invoice="+id, "lines[0][type]=invoice_line_item", "lines[0][invoice_line_item]="+lines[0], "lines[0][amount]=100",
		"lines[1][type]=custom_line_item", "lines[1][description]=Sorry", "lines[1][unit_amount]=50", "lines[1][quantity]=2", "credit_amount=200")
	equal(t, "amount", n.num("amount"), 200)
	equal(t, "lines", len(s.get("/v1/credit_notes/"+n.str("id")+"/lines").data()), 2)
	equal(t, "notes", len(s.get("/v1/credit_notes", "invoice="+id).data()), 3)
	equal(t, "after", s.get("/v1/invoices/"+id).num("post_payment_credit_notes_amount"), 700)
	equal(t, "updated", s.post("/v1/credit_notes/"+n.str("id"), "memo=new").str("memo"), "new")

	open := s.draft(cus, 5000) // the 400 of credit are used, then a note takes the rest
	s.post("/v1/invoices/" + open + "/finalize")
	s.post("/v1/credit_notes", "invoice="+open, "amount=4600")
	equal(t, "settled", s.get("/v1/invoices/"+open).str("status"), "paid")
}

func TestCreditNoteOfAStandIn(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	s.grant(cus, 100)
	r, err := s.ApplyCredits(InvoiceUse{Customer: cus, Currency: "usd", Amount: 500})
	if err != nil {
		t.Fatal(err)
	}
	n := s.post("/v1/credit_notes", "invoice="+r.Invoice, "amount=50")
	equal(t, "number", n.str("number"), r.Invoice+"-CN-01")
	equal(t, "due", s.get("/v1/invoices/"+r.Invoice).num("amount_due"), 350)
}

func TestCreditsOfAVoidedInvoiceKeepTheirLine(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	price := s.metered()
	g := s.grant(cus, 100, "priority=1").str("id")
	s.post("/v1/billing/credit_grants", "customer="+cus, "amount[type]=monetary", "amount[monetary][currency]=usd", "amount[monetary][value]=70",
		"applicability_config[scope][prices][0][id]="+price)
	id := s.use(cus, price, 150)
	s.post("/v1/invoices/"+id+"/add_lines", "lines[][pricing][price]="+s.metered(), "lines[][quantity]=500") // out of the second grant's scope
	inv := s.post("/v1/invoices/" + id + "/finalize")
	equal(t, "total", inv.num("total"), 500)
	rows := s.get("/v1/billing/credit_balance_transactions", "customer="+cus, "limit=100", "expand[]=data.debit.credits_applied.invoice").data()
	applied := map[string]int{}
	for _, r := range rows {
		a := answer{obj: r}
		if a.str("debit.type") == "credits_applied" {
			applied[a.str("debit.credits_applied.invoice_line_item")]++
			equal(t, "invoice", a.str("debit.credits_applied.invoice.id"), id)
		}
	}
	lines := s.get("/v1/invoices/" + id + "/lines").ids()
	equal(t, "rows of the first line", applied[lines[0]], 2)
	equal(t, "rows of the second line", applied[lines[1]], 0)
	s.post("/v1/billing/credit_grants/" + g + "/expire")
	s.post("/v1/invoices/" + id + "/void")
	wantBalances(t, s, cus, 0, 0) // of the metered scope: back and expired at once
}

func TestDraftsFinalizeByThemselves(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	id := s.post("/v1/invoices", "customer="+cus, "auto_advance=true").str("id")
	s.hand.forward(3599)
	equal(t, "status", s.get("/v1/invoices/"+id).str("status"), "draft")
	s.hand.forward(1)
	equal(t, "status", s.get("/v1/invoices/"+id).str("status"), "paid") // nothing to pay

	clock := s.post("/v1/test_helpers/test_clocks", "frozen_time=1000000").str("id")
	cus = s.customer("test_clock=" + clock)
	id = s.post("/v1/invoices", "customer="+cus, "auto_advance=true").str("id")
	s.post("/v1/invoiceitems", "customer="+cus, "invoice="+id, "amount=500", "currency=usd")
	s.post("/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time=1003600")
	inv := s.get("/v1/invoices/" + id)
	equal(t, "status", inv.str("status"), "open")
	equal(t, "at", inv.num("status_transitions.finalized_at"), 1003600)
}

func TestPendingItemsAndLines(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	it := s.post("/v1/invoiceitems", "customer="+cus, "amount=500", "currency=usd", "description=d").str("id")
	equal(t, "currency set", s.get("/v1/customers/"+cus).str("currency"), "usd")
	equal(t, "left out", s.post("/v1/invoices", "customer="+cus).num("subtotal"), 0)
	inv := s.post("/v1/invoices", "customer="+cus, "pending_invoice_items_behavior=include")
	equal(t, "taken", inv.num("subtotal"), 500)
	equal(t, "on it", s.get("/v1/invoiceitems/"+it).str("invoice"), inv.str("id"))
	equal(t, "pending", len(s.get("/v1/invoiceitems", "pending=true").data()), 0)
	s.post("/v1/invoiceitems/"+it, "amount=700")
	equal(t, "changed", s.get("/v1/invoices/"+inv.str("id")).num("subtotal"), 700)
	s.must("DELETE", "/v1/invoiceitems/"+it)
	equal(t, "gone", s.get("/v1/invoices/"+inv.str("id")).num("subtotal"), 0)
	for i := range 25 {
		s.post("/v1/invoices/"+inv.str("id")+"/add_lines", fmt.Sprintf("lines[0][amount]=%d", i+1))
	}
	inv = s.get("/v1/invoices/" + inv.str("id"))
	equal(t, "has more", inv.at("lines.has_more"), any(true))
	path := "/v1/invoices/" + inv.str("id") + "/lines"
	seen := walk(s, path, "starting_after", 7)
	equal(t, "lines", len(seen), 25)
	back := s.get(path, "ending_before="+seen[10], "limit=4")
	equal(t, "backwards", strings.Join(back.ids(), " "), strings.Join(seen[6:10], " "))
	equal(t, "list", len(s.get("/v1/invoices", "customer="+cus, "status=draft").data()), 2)
	s.must("DELETE", "/v1/invoices/"+inv.str("id"))
	wantError(t, s.do("GET", "/v1/invoices/"+inv.str("id")), 404, "resource_missing", "invoice")
}

func TestInvoiceParameterErrors(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	id := s.draft(cus, 100)
	for _, c := range []struct{ method, path, form, code, param string }{
		{"POST", "/v1/invoices", "", "parameter_missing", "customer"},
		{"POST", "/v1/invoices", "customer=cus_no", "resource_missing", "customer"},
		{"POST", "/v1/invoices", "customer=" + cus + "&currency=usx", "", "currency"},
		{"POST", "/v1/invoices", "customer=" + cus + "&days_until_due=3", "", "days_until_due"},
		{"POST", "/v1/invoices", "customer=" + cus + "&collection_method=send_invoice", "parameter_missing", "days_until_due"},
		{"POST", "/v1/invoices", "customer=" + cus + "&odd=1", "parameter_unknown", "odd"},
		{"POST", "/v1/invoiceitems", "customer=" + cus, "parameter_missing", "amount"},
		{"POST", "/v1/invoiceitems", "customer=" + cus + "&amount=1&pricing[price]=price_no", "resource_missing", "pricing[price]"},
		{"POST", "/v1/invoiceitems", "customer=" + cus + "&amount=1.5", "parameter_invalid_integer", "amount"},
		{"POST", "/v1/invoiceitems", "customer=" + cus + "&amount=1&currency=eur&invoice=" + id, "", "currency"},
		{"POST", "/v1/invoiceitems", "customer=" + cus + "&amount=1&invoice=in_no", "resource_missing", "invoice"},
		{"POST", "/v1/invoices/" + id + "/add_lines", "", "parameter_missing", "lines"},
		{"POST", "/v1/invoices/" + id + "/add_lines", "lines[0][quantity]=1", "parameter_missing", "lines[0][amount]"},
		{"POST", "/v1/credit_notes", "amount=5", "parameter_missing", "invoice"},
		{"POST", "/v1/credit_notes", "amount=5&invoice=in_no", "resource_missing", "invoice"},
		{"POST", "/v1/prices", "currency=usd&unit_amount=5", "parameter_missing", "product"},
		{"POST", "/v1/prices", "currency=usd&unit_amount=5&product=p&recurring[interval]=month&recurring[usage_type]=metered", "parameter_missing", "recurring[meter]"},
		{"GET", "/v1/invoices", "status=odd", "", "status"},
		{"GET", "/v1/invoices", "expand[]=data.payments", "", ""},
	} {
		var pairs []string
		if c.form != "" {
			pairs = strings.Split(c.form, "&")
		}
		r := s.do(c.method, c.path, pairs...)
		if r.status != 400 || r.str("error.code") != c.code || r.str("error.param") != c.param {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.form, r.status, r.raw)
		}
	}
}

func TestBothModes(t *testing.T) {
	t.Parallel()
	s := start(t, Options{BothModes: true})
	cus := s.customer()
	live := map[string][]string{"Authorization": {"Bearer sk_live_abc"}}
	r, err := s.request("GET", "/v1/customers/"+cus, live)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, r, 404, "resource_missing", "id")
	if !strings.Contains(r.str("error.message"), "a similar object exists in test mode, but a live mode key was used") {
		t.Errorf("no hint: %s", r.raw)
	}
	r, _ = s.request("POST", "/v1/customers", live, "name=x")
	equal(t, "livemode", r.at("livemode"), any(true))
	equal(t, "own list", len(s.get("/v1/customers").data()), 1)
	equal(t, "truth", len(s.Truth()), 2)
	r, _ = s.request("POST", "/v1/test_helpers/test_clocks", live, "frozen_time=1")
	equal(t, "no clocks", r.status, 400)
}

func TestSwitchesByName(t *testing.T) {
	t.Parallel()
	var sw Switches
	for _, name := range SwitchNames() {
		value := "true"
		switch name {
		case "same_second_order":
			value = "ascending"
		case "default_currency":
			value = "eur"
		case "expiry_delay", "retry_after", "clock_advance_time":
			value = "3s"
		}
		if err := sw.Set(name, value); err != nil {
			t.Error(err)
		}
	}
	b, err := sw.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var back Switches
	if err := back.UnmarshalJSON(b); err != nil || back != sw {
		t.Fatalf("%s %v", b, err)
	}
	for name, value := range map[string]string{"odd": "1", "null_metadata": "perhaps", "retry_after": "x"} {
		if sw.Set(name, value) == nil {
			t.Errorf("%s=%s was taken", name, value)
		}
	}
	s := start(t, Options{})
	if s.SetSwitches(Switches{DefaultCurrency: "xxx"}) == nil || s.SetSwitches(Switches{RetryAfter: -1}) == nil {
		t.Error("bad switches were taken")
	}
}
