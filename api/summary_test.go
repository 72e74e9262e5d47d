package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// counted counts the calls of f.
func counted(f *fake) map[string]int {
	calls := map[string]int{}
	f.before = func(_ context.Context, method string) error {
		calls[method]++
		return nil
	}
	return calls
}

const (
	scopeMetered = `{"scope":{"price_type":"metered"}}`
	metered      = "&filter[type]=applicability_scope&filter[applicability_scope][price_type]=metered"
)

// credit puts a grant into f, with rows of the given amounts.
func (f *fake) credit(id, currency, scope string, from, to, voided time.Time, amounts ...int64) *mirror.CreditGrant {
	f.grants = append(f.grants, mirror.CreditGrant{
		ID: id, Customer: cusCredits, Currency: currency, AmountType: "monetary", ApplicabilityConfig: json.RawMessage(scope),
		EffectiveAt: from, ExpiresAt: to, VoidedAt: voided,
	})
	for i, amount := range amounts {
		f.credits = append(f.credits, mirror.CreditTransaction{
			ID: fmt.Sprintf("cbtxn_%s_%d", id, i), Grant: id, Customer: cusCredits, Amount: amount, Currency: currency, EffectiveAt: from,
		})
	}
	return &f.grants[len(f.grants)-1]
}

func creditsWorld(t testing.TB) *fake {
	f := world(t)
	f.grants, f.credits = nil, nil
	var never time.Time
	past, soon := now.Add(-time.Hour), now.Add(time.Hour)
	f.credit("credgr_a", "usd", scopeMetered, past, never, never, 1000, -300)
	f.credit("credgr_b", "usd", scopeMetered, past, soon, never, 50)
	f.credit("credgr_pending", "usd", scopeMetered, soon, never, never, 7)
	f.credit("credgr_late", "usd", scopeMetered, past.Add(-time.Hour), past, never, 90) // expiry not recorded yet
	f.credit("credgr_now", "usd", scopeMetered, past, now, never, 3)                    // expires in this very second
	f.credit("credgr_void", "usd", scopeMetered, past, never, past, 200)                // void not recorded yet
	f.credit("credgr_over", "usd", scopeMetered, past, never, never, 10, -30)           // drift: more used than granted
	f.credit("credgr_eur", "eur", scopeMetered, past, never, never, 500, -500)          // used up
	f.credit("credgr_p1", "usd", `{"scope":{"prices":[{"id":"price_1"},{"id":null}]}}`, past, never, never, 40)
	f.credit("credgr_p2", "gbp", `{"scope":{"prices":[{"id":"price_2"},{"id":"price_1"}]}}`, past, never, never, 60)
	f.credit("credgr_units", "", scopeMetered, past, never, never, 5)
	f.credit("credgr_broken", "usd", `[]`, past, never, never, 11)
	return f
}

func TestSummary(t *testing.T) {
	t.Parallel()
	f := creditsWorld(t)
	prices := func(pairs ...string) string {
		return "&filter[type]=applicability_scope&" + strings.Join(pairs, "&")
	}
	for _, c := range []struct{ name, filter, want string }{
		{"metered", metered, "eur 0/0 usd 750/1030"},
		{"a price", prices("filter[applicability_scope][prices][0][id]=price_2"), "gbp 60/60"},
		{"a price of two grants", prices("filter[applicability_scope][prices][][id]=price_1"), "gbp 60/60 usd 40/40"},
		{"two prices", prices("filter[applicability_scope][prices][0][id]=price_1", "filter[applicability_scope][prices][1][id]=price_2"), "gbp 60/60 usd 40/40"},
		{"two prices without index", prices("filter[applicability_scope][prices][][id]=price_x", "filter[applicability_scope][prices][][id]=price_2"), "gbp 60/60"},
		{"price of none", prices("filter[applicability_scope][prices][0][id]=price_x"), ""},
		{"a grant", "&filter[type]=credit_grant&filter[credit_grant]=credgr_a", "usd 700/700"},
		{"a grant by price", "&filter[type]=credit_grant&filter[credit_grant]=credgr_p2", "gbp 60/60"},
		{"a pending grant", "&filter[type]=credit_grant&filter[credit_grant]=credgr_pending", "usd 0/7"},
		{"an expired grant", "&filter[type]=credit_grant&filter[credit_grant]=credgr_late", "usd 0/90"},
		{"a grant at its last second", "&filter[type]=credit_grant&filter[credit_grant]=credgr_now", "usd 0/3"},
		{"a voided grant", "&filter[type]=credit_grant&filter[credit_grant]=credgr_void", "usd 0/200"},
		{"an overdrawn grant", "&filter[type]=credit_grant&filter[credit_grant]=credgr_over", "usd 0/-20"},
		{"a grant of no currency", "&filter[type]=credit_grant&filter[credit_grant]=credgr_units", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			raw := getOK(t, f, pathSummary+"?customer="+cusCredits+c.filter)
			var got []string
			for _, b := range decode[summary](t, raw).Balances {
				if b.Available.Monetary.Currency != b.Ledger.Monetary.Currency || b.Available.Type != "monetary" {
					t.Errorf("%+v", b)
				}
				got = append(got, fmt.Sprintf("%s %d/%d", b.Ledger.Monetary.Currency, b.Available.Monetary.Value, b.Ledger.Monetary.Value))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%q, want %q", s, c.want)
			}
		})
	}
}

// What cannot be read of a grant is not taken for none: a voided grant would count.
func TestSummaryOfUnreadableGrant(t *testing.T) {
	t.Parallel()
	f := world(t)
	f.grants, f.credits = nil, nil
	f.credit("credgr_1", "usd", scopeMetered, now.Add(-time.Hour), time.Time{}, mirror.Unreadable, 700)
	if w := serve(handlerOf(f), local("GET", pathSummary+"?customer="+cusCredits+metered)); w.Code != 503 {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

// The whole object, in the shape of Stripe's sample.
func TestSummaryShape(t *testing.T) {
	t.Parallel()
	f := world(t)
	f.grants, f.credits = nil, nil
	past := now.Add(-time.Hour)
	f.credit("credgr_1", "usd", scopeMetered, past, time.Time{}, time.Time{}, 700)
	f.credit("credgr_2", "usd", scopeMetered, past, past, time.Time{}, 300)
	f.credit("credgr_3", "eur", scopeMetered, past, time.Time{}, time.Time{}, 500)
	want := decode[map[string]json.RawMessage](t, fixture(t, "billing.credit_balance_summary.multi_currency"))
	// Stripe's order of currencies is not defined; ours is by code.
	balances := decode[[]json.RawMessage](t, want["balances"])
	want["balances"], _ = json.Marshal([]json.RawMessage{balances[1], balances[0]})
	raw, _ := json.Marshal(want)
	sameJSON(t, getOK(t, f, pathSummary+"?customer="+cusCredits+metered), raw)

	got := decode[struct{ Customer map[string]any }](t, getOK(t, f, pathSummary+"?customer="+cusCredits+metered+"&expand[]=customer"))
	if got.Customer["id"] != cusCredits || got.Customer["object"] != "customer" {
		t.Errorf("expanded customer: %v", got.Customer)
	}
	f.customers[1].Livemode, f.customers[1].CustomerAccount, f.customers[1].Deleted = true, "acct_9", true
	other := decode[summary](t, getOK(t, f, pathSummary+"?customer="+cusCredits+metered))
	if !other.Livemode || other.CustomerAccount != "acct_9" || len(other.Balances) != 2 {
		t.Errorf("%+v", other)
	}
	none := getOK(t, f, pathSummary+"?customer="+cusBalance+metered)
	if b := decode[map[string]json.RawMessage](t, none)["balances"]; string(b) != "[]" {
		t.Errorf("balances of a customer without grants: %s", b)
	}
}

// A grant on a test clock is judged by the clock, which can be years off.
func TestSummaryOnTestClock(t *testing.T) {
	t.Parallel()
	f := world(t)
	f.grants, f.credits = nil, nil
	clock := now.AddDate(4, 0, 0)
	for i, to := range []time.Time{clock.AddDate(0, 0, -1), clock.AddDate(0, 0, 1)} {
		f.credit(fmt.Sprintf("credgr_%d", i), "usd", scopeMetered, clock.AddDate(0, -i, 0), to, time.Time{}, 1<<i).TestClock = "clock_1"
	}
	for i := range f.credits {
		f.credits[i].TestClock = "clock_1"
	}
	got := decode[summary](t, getOK(t, f, pathSummary+"?customer="+cusCredits+metered))
	if b := got.Balances[0]; b.Available.Monetary.Value != 2 || b.Ledger.Monetary.Value != 3 {
		t.Errorf("%+v", b)
	}
}

// A ledger of several pages is summed up whole, and a sync between two of them
// does not show in it (I12).
func TestSummaryOfManyPages(t *testing.T) {
	t.Parallel()
	f := world(t)
	f.grants, f.credits = nil, nil
	for i := range 3*ledgerPage + 1 {
		f.credit(fmt.Sprintf("credgr_%d", i), "usd", scopeMetered, now, time.Time{}, time.Time{}, 2, -1)
	}
	target := pathSummary + "?customer=" + cusCredits + metered
	check := func(want int64) {
		t.Helper()
		if b := decode[summary](t, getOK(t, f, target)).Balances[0]; b.Ledger.Monetary.Value != want || b.Available.Monetary.Value != want {
			t.Fatalf("%+v, want %d", b, want)
		}
	}
	check(3*ledgerPage + 1)

	for _, moment := range []struct {
		method string
		call   int
	}{{"Grants", 1}, {"Grants", 2}, {"Grants", 4}} {
		before, calls := int64(len(f.grants)), map[string]int{}
		f.before = func(_ context.Context, method string) error {
			calls[method]++
			if method == moment.method && calls[method] == moment.call {
				// A commit brings a grant and a row in front of the pages read.
				f.syncedAt = f.syncedAt.Add(time.Second)
				f.credit(fmt.Sprintf("credgr_x%d", before), "usd", scopeMetered, now, time.Time{}, time.Time{}, 1)
				n := len(f.credits) - 1
				f.credits = append([]mirror.CreditTransaction{f.credits[n]}, f.credits[:n]...)
			}
			return nil
		}
		check(before)
		f.before = nil
		check(before + 1)
	}

	// Without an end to it, the answer is of the first moment.
	held := int64(len(f.grants))
	f.before = func(context.Context, string) error {
		f.syncedAt = f.syncedAt.Add(time.Second)
		return nil
	}
	check(held)
}

// A grant in custom pricing units is counted in no currency: the reply says how many are
// left out.
func TestSummarySaysWhatItLeavesOut(t *testing.T) {
	t.Parallel()
	h := handlerOf(creditsWorld(t))
	for target, want := range map[string]string{
		pathCredits0 + metered: "1",
		pathCredits0 + "&filter[type]=credit_grant&filter[credit_grant]=credgr_units":                         "1",
		pathCredits0 + "&filter[type]=credit_grant&filter[credit_grant]=credgr_a":                             "",
		pathCredits0 + "&filter[type]=applicability_scope&filter[applicability_scope][prices][0][id]=price_1": "",
	} {
		w := serve(h, local("GET", target))
		if got := w.Header().Get("Creditmirror-Left-Out"); w.Code != 200 || got != want {
			t.Errorf("%s: %d, left out %q, want %q", target, w.Code, got, want)
		}
	}
}

const pathCredits0 = "/v1/billing/credit_balance_summary?customer=" + cusCredits
