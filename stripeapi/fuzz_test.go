package stripeapi

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/creditmirror/creditmirror/mirror"
)

// The invariant of the four decoders: what is accepted is whole. Ids are unique
// and not empty, currencies are lower-case, times are times, the customer is
// the one asked for, Raw is compact JSON of an object that says the same.

func checkRaw(t *testing.T, raw json.RawMessage, id string) {
	t.Helper()
	if !utf8.Valid(raw) || !json.Valid(raw) {
		t.Fatalf("raw is not JSON: %q", raw)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := json.Unmarshal(m["id"], &got); err != nil || got != id {
		t.Fatalf("raw has id %q, want %q", got, id)
	}
	again, err := compactJSON(raw)
	if err != nil || string(again) != string(raw) {
		t.Fatalf("raw is not compact: %s", raw)
	}
}

func checkUnique(t *testing.T, seen map[string]bool, id string) {
	t.Helper()
	if id == "" || seen[id] {
		t.Fatalf("id %q is empty or comes twice", id)
	}
	seen[id] = true
}

func FuzzDecodeBalancePage(f *testing.F) {
	f.Add(fixture(f, "lists/customer_balance_transactions.json"))
	f.Add(fixture(f, "lists/customer_balance_transactions.page1.json"))
	f.Add(fixture(f, "lists/empty.json"))
	f.Add(listOf(false, edit(f, fixture(f, "objects/customer_balance_transaction.adjustment.json"),
		"customer", json.RawMessage(fixture(f, "objects/customer.expanded_invoice_credit_balance.json")))))
	f.Add([]byte(`{"object":"list","has_more":true,"data":[]}`))
	f.Add([]byte(`{"object":"list","has_more":false,"data":[{"id":"a","amount":1e3}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := decodeBalancePage(body, "acct_1", cusBalance, "cbtxn_after", false)
		if err != nil {
			return
		}
		seen := map[string]bool{"cbtxn_after": true}
		for _, r := range p.Rows {
			checkUnique(t, seen, r.ID)
			checkRaw(t, r.Raw, r.ID)
			if r.Customer != cusBalance || !currency(r.Currency) || r.Created.Unix() <= 0 || r.Type == "" || !json.Valid(r.Metadata) {
				t.Fatalf("accepted %+v", r)
			}
		}
		if p.HasMore && len(p.Rows) == 0 {
			t.Fatal("has_more with nothing to go on from")
		}
		if p.Customer != nil {
			checkRaw(t, p.Customer.Raw, cusBalance)
		}
	})
}

func FuzzDecodeCustomers(f *testing.F) {
	f.Add(fixture(f, "lists/customers.json"), true)
	for _, n := range []string{"customer", "customer.deleted", "customer.with_credit", "customer.expanded_invoice_credit_balance"} {
		f.Add(fixture(f, "objects/"+n+".json"), false)
	}
	f.Add([]byte(`{"id":"cus_NcjdgdwZyI9Rj7","object":"customer","deleted":true,"deleted":false}`), false)
	f.Fuzz(func(t *testing.T, body []byte, full bool) {
		if r, err := decodeCustomerReply(body, "", cusBalance, full); err == nil {
			if r.Customer.ID != cusBalance {
				t.Fatalf("accepted %+v", r)
			}
			if !r.Deleted {
				checkRaw(t, r.Customer.Raw, cusBalance)
			}
		}
		p, err := decodeCustomersPage(body, "", CustomersQuery{}, full)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, r := range p.Rows {
			checkUnique(t, seen, r.ID)
			checkRaw(t, r.Raw, r.ID)
			if r.Currency != "" && !currency(r.Currency) || r.Created.Unix() <= 0 {
				t.Fatalf("accepted %+v", r)
			}
		}
	})
}

func FuzzDecodeCredits(f *testing.F) {
	f.Add(fixture(f, "lists/billing.credit_balance_transactions.expanded_grant.json"))
	f.Add(fixture(f, "lists/billing.credit_balance_transactions.json"))
	f.Add(fixture(f, "lists/billing.credit_grants.json"))
	f.Add(fixture(f, "objects/billing.credit_balance_summary.multi_currency.json"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if p, err := decodeCreditPage(body, "", cusCredits, ""); err == nil {
			seen, grants := map[string]bool{}, map[string]bool{}
			for _, r := range p.Rows {
				checkUnique(t, seen, r.ID)
				checkRaw(t, r.Raw, r.ID)
				credit := r.Type == "credit" && r.Amount >= 0 && r.DebitType == ""
				debit := r.Type == "debit" && r.Amount <= 0 && r.CreditType == ""
				if !credit && !debit || r.Grant == "" || r.Customer != cusCredits {
					t.Fatalf("accepted %+v", r)
				}
			}
			for _, g := range p.Grants {
				checkUnique(t, grants, g.ID)
				checkGrant(t, g, cusCredits)
			}
		}
		if p, err := decodeGrantsPage(body, "", "", ""); err == nil {
			seen := map[string]bool{}
			for _, g := range p.Rows {
				checkUnique(t, seen, g.ID)
				checkGrant(t, g, g.Customer)
			}
		}
		if m, err := decodeSummary(body, cusCredits); err == nil {
			for c := range m {
				if !currency(c) {
					t.Fatalf("currency %q", c)
				}
			}
		}
	})
}

func checkGrant(t *testing.T, g mirror.CreditGrant, customer string) {
	t.Helper()
	checkRaw(t, g.Raw, g.ID)
	if g.Customer == "" || g.Customer != customer || g.Amount < 0 || g.Updated.Unix() <= 0 ||
		(g.AmountType == monetary) != (g.Currency != "") || !json.Valid(g.ApplicabilityConfig) {
		t.Fatalf("accepted %+v", g)
	}
}

func FuzzDecodeEventsPage(f *testing.F) {
	f.Add(fixture(f, "lists/events.json"))
	f.Add(listOf(false, fixture(f, "events/thin.v2.core.event_destination.ping.json")))
	f.Add(listOf(false, fixture(f, "events/connect_account.customer.updated.json")))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := decodeEventsPage(body, "acct_1", EventsQuery{Before: "evt_before"})
		if err != nil {
			return
		}
		seen := map[string]bool{"evt_before": true}
		for _, e := range p.Events {
			checkUnique(t, seen, e.ID)
			if e.Account != "acct_1" {
				t.Fatalf("accepted %+v", e)
			}
		}
		// What is no object with an id is unreadable, and no cursor. A page of nothing else
		// has none, and is the last one: it would be read again and again.
		if (p.FirstID == "") != (p.LastID == "") || p.FirstID == "" && (len(p.Events) > 0 || p.HasMore) {
			t.Fatalf("%d events, %d unreadable, first %q last %q, more %v", len(p.Events), len(p.Unreadable), p.FirstID, p.LastID, p.HasMore)
		}
	})
}

func FuzzParseObject(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,"]}",{"c":null}]},"d":"\"\\"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		raw, err := compactJSON(body)
		if err != nil || raw[0] != '{' {
			return
		}
		checkSplit(t, raw)
	})
}

// FuzzDecodeOthers: single objects, webhook endpoints and event destinations. What is
// accepted is what was asked for.
func FuzzDecodeOthers(f *testing.F) {
	for _, n := range []string{
		"customer_balance_transaction.adjustment", "customer_balance_transaction.updated_metadata", "billing.credit_grant", "billing.credit_grant.voided",
		"webhook_endpoint", "webhook_endpoint.on_create", "credit_note.trimmed", "test_helpers.test_clock",
	} {
		f.Add(fixture(f, "objects/"+n+".json"))
	}
	f.Add([]byte(`{"data":[{"id":"ed_1","object":"v2.core.event_destination","type":"webhook_endpoint","status":"enabled","event_payload":"thin",` +
		`"enabled_events":["*"],"created":"2026-01-01T00:00:00.000Z","webhook_endpoint":{"url":"https://x.example/"}}],"next_page_url":"/v2/core/event_destinations?page=2"}`))
	f.Add([]byte(`{"data":[],"next_page_url":"https://evil.example/?page=x&page=y"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if top, err := decodeOne(body); err == nil {
			if !mirror.ValidID(top.id) {
				t.Fatalf("accepted the id %q", top.id)
			}
			if r, err := decodeBalanceReply(body, "acct_1", cusBalance, top.id); err == nil {
				checkRaw(t, r.Raw, r.ID)
				if r.ID != top.id || r.Customer != cusBalance || r.Account != "acct_1" || !currency(r.Currency) {
					t.Fatalf("accepted %+v", r)
				}
			}
			if _, err := decodeBalanceReply(body, "acct_1", cusBalance, top.id+"x"); err == nil {
				t.Fatal("accepted another row than the one asked for")
			}
			if g, err := decodeGrantReply(body, "acct_1", top.id); err == nil {
				checkGrant(t, g, g.Customer)
				if g.ID != top.id {
					t.Fatalf("accepted %+v", g)
				}
			}
			if _, err := decodeGrantReply(body, "acct_1", top.id+"x"); err == nil {
				t.Fatal("accepted another grant than the one asked for")
			}
			if e, err := decodeWebhookEndpoint(top); err == nil && (e.ID != top.id || e.URL == "" || e.Status == "" || e.Created.Unix() <= 0) {
				t.Fatalf("accepted %+v", e)
			}
		}
		if e, _, err := decodeDestination(body, "ed_1"); err == nil && (e.ID != "ed_1" || e.Status == "" || e.Created.IsZero()) {
			t.Fatalf("accepted %+v", e)
		}
		if p, err := decodeDestinations(body); err == nil {
			for _, e := range p.rows {
				if e.ID == "" || e.Status == "" || e.Created.IsZero() {
					t.Fatalf("accepted %+v", e)
				}
			}
		}
	})
}
