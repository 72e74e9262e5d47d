package api

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// A database in place of the fake: what a sync wrote is what the API serves, in
// pages of any size and for transactions of the same second.
func TestOnSQLite(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "mirror.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.Migrate(ctx); err != nil {
		t.Fatal(err)
	}

	const rows = 25
	customer := mirror.Customer{
		ID: cusCredits, Balance: -rows, Currency: "usd", Created: at(1680216000), InvoiceCreditBalance: map[string]int64{"usd": rows},
		Raw: json.RawMessage(`{"id":"` + cusCredits + `","object":"customer","balance":-25}`),
	}
	var window mirror.Window[mirror.BalanceTransaction]
	for i := range rows {
		id := fmt.Sprintf("cbtxn_%d", (i*7)%rows) // ids in no order
		created := at(1680216000 + int64(i/4))
		window.Rows = append(window.Rows, mirror.BalanceTransaction{
			ID: id, Customer: cusCredits, Amount: -1, Currency: "usd", EndingBalance: -int64(i) - 1, Type: "adjustment",
			Metadata: json.RawMessage(`{}`), Created: created,
			Raw: fmt.Appendf(nil, `{"id":%q,"object":"customer_balance_transaction","amount":-1,"created":%d,"currency":"usd",`+
				`"customer":%q,"ending_balance":%d,"livemode":false,"metadata":{},"type":"adjustment"}`, id, created.Unix(), cusCredits, -i-1),
		})
	}
	slices.Reverse(window.Rows)
	window.FromHead, window.ToEnd = true, true
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: cusCredits}
	state, err := store.BeginSync(ctx, target)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.ApplyBalance(ctx, mirror.BalanceSnapshot{
		Target: target, Epoch: state.Epoch, EventSeq: state.EventSeq, ObservedAt: synced, Customer: customer,
		Windows: []mirror.Window[mirror.BalanceTransaction]{window}, Joined: true, Full: true,
	})
	if err != nil {
		t.Fatal(err)
	}

	grant := grantOf(t, fixture(t, "billing.credit_grant"))
	grant.AmountType, grant.Category, grant.Updated, grant.Metadata = "monetary", "paid", grant.Created, json.RawMessage(`{}`)
	credit := creditOf(t, fixture(t, "billing.credit_balance_transaction.credit_credits_granted.current_version"), cusCredits)
	credit.CreditType = "credits_granted"
	target.Scope = mirror.ScopeCredits
	if state, err = store.BeginSync(ctx, target); err != nil {
		t.Fatal(err)
	}
	_, err = store.ApplyCredits(ctx, mirror.CreditsSnapshot{
		Target: target, Epoch: state.Epoch, EventSeq: state.EventSeq, ObservedAt: synced, Grants: []mirror.CreditGrant{grant},
		Windows: []mirror.Window[mirror.CreditTransaction]{{Rows: []mirror.CreditTransaction{credit}, FromHead: true, ToEnd: true}},
		Summary: map[string]mirror.CreditBalance{"usd": {Ledger: 1000, Available: 1000}}, Joined: true, Full: true,
	})
	if err != nil {
		t.Fatal(err)
	}

	h := New(Options{Reader: store, Now: func() time.Time { return now }})
	get := func(target string) *httptest.ResponseRecorder {
		t.Helper()
		w := serve(h, local("GET", target))
		if w.Code != 200 || w.Header().Get("Creditmirror-Synced-At") != synced.Format(time.RFC3339) {
			t.Fatalf("%s: %d %v %s", target, w.Code, w.Header(), w.Body)
		}
		return w
	}
	list := "/v1/customers/" + cusCredits + "/balance_transactions"
	for _, limit := range []int{1, 3, 4, 24, 25, 26} {
		balance := int64(-rows)
		for after, more := "", true; more; {
			page := decode[struct {
				HasMore bool `json:"has_more"`
				Data    []struct {
					ID            string
					EndingBalance int64 `json:"ending_balance"`
				}
			}](t, get(fmt.Sprintf("%s?limit=%d%s", list, limit, after)).Body.Bytes())
			for _, row := range page.Data {
				if row.EndingBalance != balance {
					t.Fatalf("limit %d: %s ends at %d, want %d", limit, row.ID, row.EndingBalance, balance)
				}
				balance++
				after = "&starting_after=" + row.ID
			}
			more = page.HasMore
		}
		if balance != 0 {
			t.Errorf("limit %d: the walk ends at %d", limit, balance)
		}
	}
	for _, c := range []struct{ target, want string }{
		{"/v1/customers/" + cusCredits + "?expand[]=invoice_credit_balance", `"invoice_credit_balance":{"usd":25}`},
		{list + "?limit=1&expand[]=data.customer", `"customer":{"balance":-25,`},
		{pathGrants + "/" + grantUsed, `"id":"` + grantUsed + `"`},
		{pathCredits + "?credit_grant=" + grantUsed + "&expand[]=data.credit_grant", `"Purchased Credits"`},
		{pathCredits + "/" + txnCredit, `"credits_granted"`},
		{pathSummary + "?customer=" + cusCredits + metered, `{"monetary":{"currency":"usd","value":1000},"type":"monetary"}`},
	} {
		if got := string(mirror.Canonical(get(c.target).Body.Bytes())); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.target, got, c.want)
		}
	}
	for target, param := range map[string]string{
		list + "?starting_after=cbtxn_x":                                   "starting_after",
		"/v1/customers/cus_x/balance_transactions":                         "customer",
		pathCredits + "?customer=cus_x&ending_before=cbtxn_x":              "customer",
		pathCredits + "?customer=" + cusCredits + "&ending_before=cbtxn_x": "ending_before",
		pathGrants + "?customer=cus_x":                                     "customer",
		pathGrants + "?starting_after=credgr_x":                            "starting_after",
		pathGrants + "/credgr_x":                                           "id",
	} {
		if e := errorOf(t, serve(h, local("GET", target))); e.Code != "resource_missing" || e.Param != param {
			t.Errorf("%s: %+v", target, e)
		}
	}
}
