package stripesim

import (
	"fmt"
	"strings"
	"testing"
)

// shown are the figures of an invoice that a preview must show.
func shown(r answer) string {
	return fmt.Sprint(r.num("subtotal"), r.num("total"), r.num("starting_balance"), r.at("ending_balance"), r.num("amount_due"))
}

// What a preview shows is what finalizing then does, and showing it does nothing.
func TestPreviewIsWhatFinalizingDoes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		balance, grant, other int
		items                 []int
		used                  int64 // on each of two lines
	}{
		"credits, then balance":       {-300, 1000, 0, []int{400}, 700},
		"more balance than asked":     {-9000, 100, 50, []int{400, 30}, 200},
		"more credits than asked":     {-10, 9000, 9000, []int{}, 700},
		"debt moves onto the invoice": {250, 0, 0, []int{400}, 0},
		"too small to charge":         {-380, 0, 0, []int{400}, 0},
		"too large to charge":         {-5, 0, 0, []int{60_000_000, 60_000_000}, 0},
		"neither":                     {0, 0, 0, []int{400}, 0},
		"of negative total":           {0, 0, 0, []int{-334}, 0},
		"several grants":              {0, 60, 70, []int{5000}, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{})
			cus, price := s.customer(fmt.Sprintf("balance=%d", c.balance)), s.metered()
			for _, n := range []int{c.grant, c.other} {
				if n > 0 {
					s.grant(cus, int64(n))
				}
			}
			for _, n := range c.items {
				s.post("/v1/invoiceitems", "customer="+cus, fmt.Sprintf("amount=%d", n), "currency=usd")
			}
			truth := func() string { return string(s.control("GET", "/_sim/truth", "").raw) }
			before, events := truth(), len(s.eventTypes())
			pairs := []string{"customer=" + cus, "currency=usd"}
			if c.used > 0 {
				for i := range 2 {
					pairs = append(pairs, fmt.Sprintf("invoice_items[%d][price]=%s", i, price), fmt.Sprintf("invoice_items[%d][quantity]=%d", i, c.used))
				}
			}
			preview := s.post("/v1/invoices/create_preview", pairs...)
			if !strings.HasPrefix(preview.str("id"), "upcoming_in_") || preview.str("status") != "draft" || preview.str("billing_reason") != "upcoming" {
				t.Errorf("%s", preview.raw)
			}
			equal(t, "truth", truth(), before)
			equal(t, "events", len(s.eventTypes()), events)

			id := s.post("/v1/invoices", "customer="+cus, "currency=usd", "pending_invoice_items_behavior=include").str("id")
			if c.used > 0 {
				for range 2 {
					s.post("/v1/invoices/"+id+"/add_lines", "lines[0][pricing][price]="+price, fmt.Sprintf("lines[0][quantity]=%d", c.used))
				}
			}
			inv := s.post("/v1/invoices/" + id + "/finalize")
			equal(t, "figures", shown(preview), shown(inv))
			credits := func(r answer) (out []any) {
				for _, v := range r.at("total_pretax_credit_amounts").([]any) {
					out = append(out, v.(obj)["amount"])
				}
				return out
			}
			equal(t, "credits", fmt.Sprint(credits(preview)), fmt.Sprint(credits(inv)))
		})
	}
}

func TestPreviewsOfItems(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus, price := s.customer(), s.metered()
	item := s.post("/v1/invoiceitems", "customer="+cus, "amount=500", "currency=usd", "description=Seat").str("id")
	s.post("/v1/invoiceitems", "customer="+cus, "amount=7", "currency=eur") // of another invoice
	add := func(cus string) string {
		return s.post("/v1/invoiceitems", "customer="+cus, "amount=900", "currency=usd").str("id")
	}
	gone, others, billed := add(cus), add(s.customer()), s.draft(cus, 11) // none of them is pending for cus
	s.do("DELETE", "/v1/invoiceitems/"+gone)
	billed = s.get("/v1/invoices/" + billed).at("lines.data").([]any)[0].(obj)["parent"].(obj)["invoice_item_details"].(obj)["invoice_item"].(string)
	r := s.post("/v1/invoices/create_preview", "customer="+cus,
		"invoice_items[0][invoiceitem]="+item, "invoice_items[0][quantity]=3",
		"invoice_items[1][unit_amount]=20", "invoice_items[1][quantity]=4", "invoice_items[1][currency]=usd",
		"invoice_items[2][price_data][currency]=usd", "invoice_items[2][price_data][product]=p", "invoice_items[2][price_data][unit_amount]=9",
		"invoice_items[3][amount]=-30", "invoice_items[4][price]="+price)
	var amounts []string
	for _, l := range r.at("lines.data").([]any) {
		amounts = append(amounts, fmt.Sprint(l.(obj)["amount"], l.(obj)["quantity"]))
	}
	equal(t, "lines", strings.Join(amounts, ", "), "1500 3, 80 4, 9 1, -30 1, 1 1")
	equal(t, "total", r.num("total"), 1560)
	equal(t, "count", r.num("lines.total_count"), 5)
	equal(t, "the item", s.get("/v1/invoiceitems/"+item).num("amount"), 500)
	equal(t, "eur", s.post("/v1/invoices/create_preview", "customer="+cus, "currency=eur").num("total"), 7)

	wantError(t, s.do("POST", "/v1/invoices/create_preview", "customer="+cus, "currency=usd", "invoice_items[0][amount]=5", "invoice_items[0][currency]=eur"),
		400, "", "invoice_items[0][currency]")
	wantError(t, s.do("POST", "/v1/invoices/create_preview", "customer="+cus, "invoice_items[0][invoiceitem]="+item, "invoice_items[0][quantity]=999999999999"),
		400, "parameter_invalid_integer", "invoice_items[0][quantity]")
	long := []string{"customer=" + cus, "currency=usd"}
	for i := range 12 {
		long = append(long, fmt.Sprintf("invoice_items[%d][amount]=1", i))
	}
	all := s.post("/v1/invoices/create_preview", long...) // nobody can ask for the rest
	equal(t, "lines of a long one", fmt.Sprint(len(all.at("lines.data").([]any)), all.at("lines.has_more")), "13 false")
	wantError(t, s.do("POST", "/v1/invoices/create_preview", "customer="+s.customer()), 404, "invoice_upcoming_none", "")
	wantError(t, s.do("POST", "/v1/invoices/create_preview"), 400, "parameter_missing", "customer")
	wantError(t, s.do("POST", "/v1/invoices/create_preview", "customer=cus_none"), 400, "resource_missing", "customer")
	for pair, want := range map[string]string{
		"invoice_items[0][price]=price_none":             "resource_missing",
		"invoice_items[0][invoiceitem]=ii_none":          "resource_missing",
		"invoice_items[0][invoiceitem]=" + gone:          "resource_missing",
		"invoice_items[0][invoiceitem]=" + others:        "resource_missing",
		"invoice_items[0][invoiceitem]=" + billed:        "resource_missing",
		"invoice_items[0][pricing][price]=" + price:      "parameter_unknown",
		"invoice_items[0][description]=nothing to bill":  "parameter_missing",
		"invoice_items[0][unit_amount]=much":             "parameter_invalid_integer",
		"preview_mode=yearly":                            "",
		"subscription=sub_1":                             "",
		"subscription_details[items][0][price]=" + price: "",
	} {
		bad := s.do("POST", "/v1/invoices/create_preview", "customer="+cus, pair)
		param, _, _ := strings.Cut(pair, "=")
		if want == "parameter_missing" {
			param = "invoice_items[0][amount]"
		}
		wantError(t, bad, 400, want, param)
		equal(t, pair, strings.HasPrefix(bad.str("error.message"), "not simulated: "), strings.HasPrefix(pair, "subscription"))
	}
}

func TestPreviewsOfCreditNotes(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	id := s.draft(cus, 1000)
	s.post("/v1/invoices/" + id + "/finalize")
	s.post("/v1/invoices/" + id + "/pay")
	truth := func() string { return string(s.control("GET", "/_sim/truth", "").raw) }
	before, events := truth(), len(s.eventTypes())
	line := s.get("/v1/invoices/" + id).at("lines.data").([]any)[0].(obj)["id"].(string)
	asked := []string{"invoice=" + id, "lines[0][type]=invoice_line_item", "lines[0][invoice_line_item]=" + line, "lines[0][amount]=400", "credit_amount=300", "refund_amount=100"}
	preview := s.get("/v1/credit_notes/preview", asked...)
	lines := s.get("/v1/credit_notes/preview/lines", asked...)
	equal(t, "lines", len(lines.data()), 1)
	equal(t, "truth", truth(), before)
	equal(t, "events", len(s.eventTypes()), events)
	equal(t, "notes", len(s.get("/v1/credit_notes").data()), 0)
	equal(t, "no transaction", preview.at("customer_balance_transaction"), nil)
	note := s.post("/v1/credit_notes", asked...)
	for _, name := range []string{"amount", "pre_payment_amount", "post_payment_amount", "total", "subtotal"} {
		equal(t, name, preview.num(name), note.num(name))
	}
	equal(t, "number", preview.str("number"), note.str("number"))
	equal(t, "type", preview.str("type"), note.str("type"))
	wantError(t, s.do("GET", "/v1/credit_notes/preview", "invoice="+id, "amount=700"), 400, "", "amount")
	wantError(t, s.do("GET", "/v1/credit_notes/preview", "amount=700"), 400, "parameter_missing", "invoice")
}
