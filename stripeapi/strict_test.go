package stripeapi

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// firstBad is why a page was refused, or the first of its rows.
func firstBad(bad []BadRow, err error) error {
	if err == nil && len(bad) > 0 {
		return bad[0].Err
	}
	return err
}

// A row that cannot be mirrored is left out of the lists of the account, with its JSON
// less what is personal, and the cursor goes on behind it.
func TestBadRowsAreLeftOut(t *testing.T) {
	t.Parallel()
	customer, grant := fixture(t, "objects/customer.with_credit.json"), fixture(t, "objects/billing.credit_grant.json")
	odd := edit(t, edit(t, edit(t, customer, "balance", json.RawMessage("1e3")), "id", "cus_odd"), "email", "secret@example.com")
	page, err := decodeCustomersPage(listOf(true, customer, []byte("5"), odd), "", CustomersQuery{}, false)
	if err != nil || len(page.Rows) != 1 || len(page.Bad) != 2 || page.Last != "cus_odd" || !page.HasMore {
		t.Fatalf("%+v, %v", page, err)
	}
	if raw := string(page.Bad[1].Raw); page.Bad[1].ID != "cus_odd" || !strings.Contains(raw, `"balance":1e3`) || strings.Contains(raw, "secret") {
		t.Errorf("kept of a customer: %s", raw)
	}
	ghost := edit(t, edit(t, grant, "customer", nil), "id", "credgr_ghost")
	grants, err := decodeGrantsPage(listOf(false, ghost, grant), "", "", "")
	if err != nil || len(grants.Rows) != 1 || len(grants.Bad) != 1 || grants.Bad[0].ID != "credgr_ghost" {
		t.Fatalf("%+v, %v", grants, err)
	}
	if _, err := decodeGrantsPage(listOf(false, ghost, grant), "", cusCredits, ""); err == nil {
		t.Error("a list of one customer's grants lacks one of them")
	}
	if _, err := decodeCustomersPage(listOf(true, []byte("5")), "", CustomersQuery{}, false); err == nil {
		t.Error("a page without any id to go on from passed")
	}
}

// What must not pass, one fault at a time, in every object.
func TestDecodeStrict(t *testing.T) {
	t.Parallel()
	kinds := map[string]struct {
		file   string
		decode func(body []byte) error
		faults []string // "key=json", "key" alone is left out
	}{
		"customer": {
			"objects/customer.with_credit.json",
			func(b []byte) error {
				page, err := decodeCustomersPage(b, "", CustomersQuery{}, false)
				return firstBad(page.Bad, err)
			},
			[]string{
				"balance", "balance=null", "balance=1e3", "balance=1.0", "balance=9223372036854775808", `balance="5"`,
				"currency=\"USD\"", "currency=\"\"", "currency=5", "currency=\"us\"", "livemode=1", "test_clock={}",
				`invoice_credit_balance={"usd":-9223372036854775808}`, `invoice_credit_balance={"usd":1.5}`, `invoice_credit_balance={"USD":1}`, "invoice_credit_balance=[]",
				`invoice_credit_balance={"usd":1,"usd":2}`, "deleted=true", "deleted=1", "customer_account={}",
			},
		},
		"balance transaction": {
			"objects/customer_balance_transaction.adjustment.json",
			func(b []byte) error { _, err := decodeBalancePage(b, "", cusBalance, "", false); return err },
			[]string{
				"amount", "amount=null", "amount=1e3", "amount=-1.0", "amount=9223372036854775808",
				"amount=-9223372036854775809", `amount="5"`, "amount={}", "amount=[1]", "amount=true",
				"ending_balance", "ending_balance=0.5", "currency", "currency=null", `currency="Usd"`, `currency="us1"`, `currency="u d"`,
				"customer", "customer=null", `customer="cus_other"`, `customer={"id":"cus_other"}`, "customer={}", "customer=7",
				"type", "type=null", `type=""`, "type=1", "livemode", "description=1", "metadata=[]", `metadata="x"`, "invoice=1", `credit_note={}`,
			},
		},
		"grant": {
			"objects/billing.credit_grant.json",
			func(b []byte) error { _, err := decodeGrantsPage(b, "", cusCredits, ""); return err },
			[]string{
				"amount", "amount=5", "amount={}", `amount={"type":"monetary"}`, `amount={"type":"monetary","monetary":null}`,
				`amount={"type":"monetary","monetary":{"currency":"usd"}}`, `amount={"type":"monetary","monetary":{"value":1}}`,
				`amount={"type":"monetary","monetary":{"currency":"usd","value":-1}}`, `amount={"type":"monetary","monetary":{"currency":"usd","value":1e2}}`,
				"customer", "customer=null", `customer="cus_other"`, "applicability_config", "applicability_config=[]", "category", "updated", "updated=0",
				"expires_at=\"\"", "voided_at=-1", "effective_at=1.5", "priority=1.5", "livemode", "metadata=1",
			},
		},
		"credit transaction": {
			"objects/billing.credit_balance_transaction.debit_credits_applied.json",
			func(b []byte) error { _, err := decodeCreditPage(b, "", cusCredits, ""); return err },
			[]string{
				"type", "type=null", `type="neither"`, `type="credit"`, "debit", "debit=null", "debit=5", "debit={}",
				`credit={"type":"credits_granted","amount":{"type":"monetary","monetary":{"currency":"usd","value":1}}}`,
				`debit={"type":"credits_applied","amount":{"type":"monetary","monetary":{"currency":"usd","value":-5}}}`,
				`debit={"type":"credits_applied","amount":{"type":"monetary","monetary":{"currency":"usd","value":1.0}}}`,
				`debit={"amount":{"type":"monetary","monetary":{"currency":"usd","value":1}}}`,
				"credit_grant", "credit_grant=null", "credit_grant={}", `credit_grant={"id":"credgr_1"}`, "effective_at", "effective_at=0", "livemode",
			},
		},
	}
	common := []string{
		"id", "id=null", `id=""`, "id=5", `id="a b"`, "object", `object="charge"`, "object=null",
		"created", "created=null", "created=0", "created=-1", "created=253402300800", "created=1e9", `created="1"`,
	}
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw := fixture(t, k.file)
			if err := k.decode(listOf(false, raw)); err != nil {
				t.Fatalf("the fixture itself: %v", err)
			}
			for _, f := range append(k.faults, common...) {
				key, value, set := strings.Cut(f, "=")
				row := edit(t, raw, key, nil)
				if set {
					row = edit(t, raw, key, json.RawMessage(value))
				}
				if err := k.decode(listOf(false, row)); err == nil {
					t.Errorf("%s passed", f)
				}
			}
			two := edit(t, raw, "more", json.RawMessage(`{"a":1,"a":2}`))
			for what, body := range map[string][]byte{
				"the same id twice": listOf(false, raw, raw),
				"a doubled key":     []byte(strings.Replace(string(listOf(false, raw)), `"livemode":`, `"livemode":true,"livemode":`, 1)),
				"a null row":        listOf(false, raw, []byte("null")),
				"an array as a row": listOf(false, []byte("[]")),
				"no data":           []byte(`{"object":"list","has_more":false}`),
				"null data":         []byte(`{"object":"list","has_more":false,"data":null}`),
				"data an object":    []byte(`{"object":"list","has_more":false,"data":{}}`),
				"no has_more":       []byte(`{"object":"list","data":[]}`),
				"a string has_more": []byte(`{"object":"list","has_more":"false","data":[]}`),
				"has_more, no rows": []byte(`{"object":"list","has_more":true,"data":[]}`),
				"a search result":   []byte(`{"object":"search_result","has_more":false,"data":[]}`),
				"an error":          []byte(`{"error":{"type":"api_error"}}`),
				"null":              []byte("null"), "a string": []byte(`"list"`), "nothing": nil, "NaN": []byte("NaN"),
				"two values": []byte(`{"object":"list","has_more":false,"data":[]} {}`),
				"not UTF-8":  []byte(strings.Replace(string(listOf(false, two)), `"more"`, "\"mo\xffre\"", 1)),
				"NaN inside": []byte(strings.Replace(string(listOf(false, two)), `{"a":1,"a":2}`, "NaN", 1)),
			} {
				if err := k.decode(body); err == nil {
					t.Errorf("%s passed", what)
				}
			}
			if err := k.decode(listOf(false, two)); err != nil {
				t.Errorf("an unknown field did not pass: %v", err)
			}
			cased := bytes.Replace(listOf(false, raw), []byte(`"livemode"`), []byte(`"Livemode":"x","livemode"`), 1)
			if err := k.decode(cased); err != nil {
				t.Errorf("a key in another case took the place of the right one: %v", err)
			}
		})
	}
}

func TestDecodeReadsWhatWasAsked(t *testing.T) {
	t.Parallel()
	if _, err := decodeCustomerReply(fixture(t, "objects/customer.json"), "", "cus_other", false); err == nil {
		t.Error("another customer passed")
	}
	if _, err := decodeCustomerReply(fixture(t, "objects/customer.deleted.json"), "", "cus_other", false); err == nil {
		t.Error("another customer's stub passed")
	}
	if _, err := decodeGrantReply(fixture(t, "objects/billing.credit_grant.json"), "", "credgr_other"); err == nil {
		t.Error("another grant passed")
	}
	other := edit(t, fixture(t, "objects/billing.credit_grant.json"), "customer", "cus_other")
	row := edit(t, fixture(t, "objects/billing.credit_balance_transaction.debit_credits_applied.json"), "credit_grant", json.RawMessage(other))
	if _, err := decodeCreditPage(listOf(false, row), "", cusCredits, ""); err == nil {
		t.Error("a row of another customer's grant passed")
	}
	q := CustomersQuery{TestClock: "clock_other"}
	if _, err := decodeCustomersPage(listOf(false, fixture(t, "objects/customer.on_test_clock.json")), "", q, false); err == nil {
		t.Error("a customer of another clock passed")
	}
	if _, err := decodeCustomersPage(fixture(t, "lists/customers.json"), "", CustomersQuery{After: cusBalance}, false); err == nil {
		t.Error("a page with its own cursor in it passed")
	}
}

// Splitting must agree with encoding/json on any input that it accepts.
func TestParseObjectAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		`{}`, `{"a":1}`, `{"a":{"b":[1,"]}",{"c":null}]},"d":"\"\\","\u00e9":-1.5e-3,"":true}`, `{"a":"\\"}`, `{"\"":[]}`,
	} {
		checkSplit(t, []byte(s))
	}
	for _, s := range []string{`[]`, `1`, `"{}"`, `null`, `true`} {
		if _, err := parseObject([]byte(s)); err == nil {
			t.Errorf("%s is not an object", s)
		}
	}
}

func checkSplit(t *testing.T, raw []byte) {
	t.Helper()
	var want map[string]json.RawMessage
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	o, err := parseObject(raw)
	if err != nil {
		if strings.Contains(err.Error(), "twice") {
			return
		}
		t.Fatalf("%s: %v", raw, err)
	}
	got := make(map[string]json.RawMessage, len(o.members))
	for _, m := range o.members {
		got[m.key] = m.value
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s: %s", raw, d)
	}
	if back := o.with("\x00 no such key", ""); !bytes.Equal(back, raw) {
		t.Fatalf("%s became %s", raw, back)
	}
}
