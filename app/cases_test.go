package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
)

// serveRaw is a whole process on a Stripe that a test has filled.
func serveRaw(t *testing.T, f *rawStripe, postgres bool) *served {
	return serveAPI(t, servedOptions{
		postgres: postgres, roles: []config.Role{config.RoleWorker, config.RoleReconcile},
		tune: func(c *config.Config) {
			c.StripeAPIBase, c.StripeAccounts, c.MaxAttempts = f.base, config.Accounts{}, 3
			c.BalancesInterval, c.EventsInterval = time.Second, time.Second
		},
	})
}

// swept waits for the first copy and for two passes of the balances sweep after it.
func (s *served) swept() {
	s.t.Helper()
	until(s.t, "the first copy ends", func() bool { return succeeded(s.t, s.app, reconcile.SweepBackfill) })
	last := time.Time{}
	for range 2 {
		until(s.t, "a balances sweep succeeds", func() bool {
			w, err := s.app.Store().Sweep(s.t.Context(), "", reconcile.SweepBalances)
			again := err == nil && w.LastSuccess.After(last)
			if again {
				last = w.LastSuccess
			}
			return again
		})
	}
}

func (s *served) requireNoFinding() {
	s.t.Helper()
	list, err := s.app.Store().Findings(s.t.Context(), mirror.FindingsQuery{RepairedSince: time.Unix(1, 0), Limit: 100})
	if err != nil || len(list) > 0 {
		s.t.Errorf("findings %+v, %v", list, err)
	}
}

func (s *served) listed(path string) []map[string]any {
	s.t.Helper()
	var page struct{ Data []map[string]any }
	a := s.get(path)
	if err := json.Unmarshal(a.body, &page); err != nil || a.status != http.StatusOK {
		s.t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
	return page.Data
}

// Accounts could choose the ids of their customers: each is mirrored like any other,
// from the first copy, from events and through the API, wherever it ends a page.
func TestCustomersWithIDsOfTheirOwn(t *testing.T) {
	t.Parallel()
	ids := []string{"42", "user-42", "jo@example.com", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "o'brien+credit@example.com", "x:y:z", "~tilde=1&amp"}
	withBoth(t, func(t *testing.T, postgres bool) {
		f := newRawStripe(t)
		for i := range 110 {
			id := fmt.Sprintf("cus_%06d", i)
			if n := i - 5; n >= 0 && n < len(ids) { // they end and cross the first page
				id = ids[n]
			}
			f.customer(id, nil)
			f.transaction(id, -100-i, nil)
		}
		for _, id := range ids {
			f.grant(id, 500, nil)
		}
		s := serveRaw(t, f, postgres)
		s.swept()
		f.mu.Lock()
		for _, id := range ids {
			f.transaction(id, -7, nil)
			f.event("customer.updated", obj{"id": id, "object": "customer"}, nil)
		}
		f.mu.Unlock()
		for _, id := range ids {
			path := "/v1/customers/" + url.PathEscape(id)
			until(t, "the change of "+id+" is mirrored", func() bool { return len(s.listed(path+"/balance_transactions")) == 2 })
			if c := s.get(path).object(t); c["id"] != id {
				t.Errorf("%s is served as %v", id, c)
			}
			if grants := s.listed("/v1/billing/credit_grants?customer=" + url.QueryEscape(id)); len(grants) != 1 || grants[0]["customer"] != id {
				t.Errorf("grants of %s: %v", id, grants)
			}
			if a := s.get(path+"/balance_transactions", "Creditmirror-Max-Age", "0s"); a.status != http.StatusOK {
				t.Errorf("%s on demand: %d %s", id, a.status, a.body)
			}
		}
		letters, err := s.app.Store().DeadLetters(t.Context(), "", 10)
		if err != nil || len(letters) > 0 {
			t.Errorf("dead letters %+v, %v", letters, err)
		}
	})
}

// One object that cannot be mirrored costs only itself: it is kept as a dead letter, and
// all lists go on, wherever it stands in them.
func TestOneBadObjectCostsOnlyItself(t *testing.T) {
	t.Parallel()
	withBoth(t, func(t *testing.T, postgres bool) {
		f := newRawStripe(t)
		good := []string{}
		for i := range 210 {
			id := fmt.Sprintf("cus_%06d", i)
			switch i {
			case 10:
				f.customer("cus_huge", obj{"balance": json.Number("92233720368547758080")})
			case 109, 110: // the ends of pages
				f.customer(fmt.Sprintf("cus_exp%d", i), obj{"balance": json.Number("1e3")})
			case 120:
				f.customer("../v1/charges", nil)
			case 130:
				f.customer("", obj{"id": 17})
			default:
				f.customer(id, nil)
				f.transaction(id, -100-i, nil)
				good = append(good, id)
			}
		}
		for i, id := range good[:8] {
			f.grant(id, 1000+i, nil)
		}
		f.grant(good[8], 500, obj{"amount": obj{"type": "custom_pricing_unit", "monetary": nil, "custom_pricing_unit": obj{"id": "cpu_1", "value": "12.5"}}})
		f.grant("cus_ghost", 300, obj{"customer": nil, "customer_account": "acct_v2only"})
		f.grant("cus_ghost", 300, obj{"id": "credgr with blanks"})
		f.event("customer.updated", obj{"id": good[0], "object": "customer"}, obj{"id": 4})

		s := serveRaw(t, f, postgres)
		s.swept()
		for _, id := range good {
			if rows := s.listed("/v1/customers/" + id + "/balance_transactions"); len(rows) != 1 {
				t.Fatalf("%s: %v", id, rows)
			}
		}
		until(t, "all good grants are mirrored", func() bool { return len(s.listed("/v1/billing/credit_grants?limit=100")) == 9 })
		s.requireNoFinding()
		letters, err := s.app.Store().DeadLetters(t.Context(), "", 100)
		if err != nil {
			t.Fatal(err)
		}
		var reasons []string
		for _, l := range letters {
			if full, err := s.app.Store().DeadLetter(t.Context(), l.ID); err != nil || len(full.Payload) == 0 || strings.Contains(string(full.Payload), "secret@example.com") {
				t.Errorf("kept of %s: %s, %v", l.Reason, full.Payload, err)
			}
			reasons = append(reasons, l.Reason)
		}
		slices.Sort(reasons)
		for _, part := range []string{"cus_huge", "cus_exp109", "cus_exp110", "a customer in", "customer is missing", "a credit grant in", "an event in"} {
			if !strings.Contains(strings.Join(reasons, "\n"), part) {
				t.Errorf("no dead letter names %q in\n%s", part, strings.Join(reasons, "\n"))
			}
		}
		if len(letters) != 8 {
			t.Errorf("%d dead letters, want 8:\n%s", len(letters), strings.Join(reasons, "\n"))
		}
	})
}

// A cursor that Stripe ignores makes no endless loop: the customer is a dead letter, its
// history is reported as not complete, and the others are right.
func TestCursorIgnored(t *testing.T) {
	t.Parallel()
	withBoth(t, func(t *testing.T, postgres bool) {
		f := newRawStripe(t)
		f.customer("cus_good", nil)
		f.transaction("cus_good", -100, nil)
		f.customer("cus_loop", nil)
		for range 250 {
			f.transaction("cus_loop", -1, nil)
		}
		f.hook = func(r *http.Request) (int, http.Header, any, bool) {
			if r.URL.Path != "/v1/customers/cus_loop/balance_transactions" {
				return 0, nil, nil, false
			}
			q := r.URL.Query()
			q.Del("starting_after")
			r.URL.RawQuery = q.Encode()
			status, body := f.answer(r)
			body.(obj)["has_more"] = true
			return status, nil, body, true
		}
		s := serveRaw(t, f, postgres)
		s.swept()
		until(t, "the customer becomes a dead letter", func() bool {
			letters, err := s.app.Store().DeadLetters(t.Context(), "", 10)
			return err == nil && len(letters) == 1 && letters[0].Target.ID == "cus_loop"
		})
		for id, want := range map[string]string{"cus_good": "true", "cus_loop": "false"} {
			if a := s.get("/v1/customers/" + id + "/balance_transactions"); a.status != http.StatusOK || a.header.Get("Creditmirror-Complete") != want {
				t.Errorf("%s: %d, complete %q, want %q", id, a.status, a.header.Get("Creditmirror-Complete"), want)
			}
		}
	})
}

// What the databases store otherwise than Stripe sends it is no drift, and both serve the
// same text.
func TestTextThatCannotBeStoredAsItIs(t *testing.T) {
	t.Parallel()
	withBoth(t, func(t *testing.T, postgres bool) {
		f := newRawStripe(t)
		for _, id := range []string{"cus_nul", "cus_rtl"} {
			f.customer(id, nil)
		}
		f.transaction("cus_nul", -200, obj{"description": "a\x00b", "metadata": obj{"k": "x\x00y"}})
		f.transaction("cus_rtl", -400, obj{"description": "\u202eevil\a\x1b[31m \U0001f600"})
		f.grant("cus_nul", 1000, obj{"name": "n\x00m", "metadata": obj{"a": "\x00"}})
		sur := f.grant("cus_rtl", 1000, obj{"name": json.RawMessage(`"n\ud83dm"`)}) // half of a pair
		s := serveRaw(t, f, postgres)
		s.swept()
		s.requireNoFinding()
		row := s.listed("/v1/customers/cus_nul/balance_transactions")[0]
		grant := s.listed("/v1/billing/credit_grants?customer=cus_nul")[0]
		other := s.listed("/v1/billing/credit_grants?customer=cus_rtl")[0]
		got := fmt.Sprintf("%q %q %q %q %q", row["description"], row["metadata"], grant["name"], grant["metadata"], other["name"])
		want := `"ab" map["k":"xy"] "nm" map["a":""] "n\ufffdm"`
		if strings.ReplaceAll(got, "\ufffd", `\ufffd`) != want || other["id"] != sur["id"] {
			t.Errorf("served %s, want %s", got, want)
		}
	})
}
