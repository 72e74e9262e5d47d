package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// handlerOf serves f without keys.
func handlerOf(f *fake) http.Handler {
	return New(Options{Reader: f, Now: func() time.Time { return now }})
}

// local is a request from the same machine; header are pairs.
func local(method, target string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr, r.Host = "127.0.0.1:40000", "localhost:8081"
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// errorOf reads Stripe's envelope and fails on anything else in it.
func errorOf(t testing.TB, w *httptest.ResponseRecorder) errorBody {
	t.Helper()
	var v struct{ Error *errorBody }
	dec := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil || v.Error == nil || v.Error.Type == "" || v.Error.Message == "" {
		t.Fatalf("%d is not an error in Stripe's envelope: %s (%v)", w.Code, w.Body, err)
	}
	if (v.Error.Code == "") != (v.Error.DocURL == "") {
		t.Fatalf("code and doc_url go together: %s", w.Body)
	}
	return *v.Error
}

func sameJSON(t testing.TB, got, want []byte) {
	t.Helper()
	if g, w := mirror.Canonical(got), mirror.Canonical(want); !bytes.Equal(g, w) {
		t.Fatalf("got  %s\nwant %s", g, w)
	}
}

const (
	pathBalance = "/v1/customers/" + cusBalance
	pathTxns    = pathBalance + "/balance_transactions"
	pathGrants  = "/v1/billing/credit_grants"
	pathCredits = "/v1/billing/credit_balance_transactions"
	pathSummary = "/v1/billing/credit_balance_summary"
)

// Whatever is refused, with the parameter that is at fault.
func TestRefused(t *testing.T) {
	t.Parallel()
	h := handlerOf(world(t))
	credits := pathCredits + "?customer=" + cusCredits
	summary := pathSummary + "?customer=" + cusCredits
	for _, c := range []struct {
		name, target string
		status       int
		code, param  string
	}{
		{"unknown customer", "/v1/customers/cus_missing", 404, "resource_missing", "id"},
		{"not a customer's id", "/v1/customers/foo", 404, "resource_missing", "id"},
		{"dots in an id", "/v1/customers/cus_..%2F..%2Fx", 404, "resource_missing", "id"},
		{"NUL in an id", "/v1/customers/cus_%00", 404, "resource_missing", "id"},
		{"long id", "/v1/customers/cus_" + strings.Repeat("a", 300), 404, "resource_missing", "id"},
		{"unicode id", "/v1/customers/cus_%C3%A4", 404, "resource_missing", "id"},
		{"broken UTF-8 in an id", "/v1/customers/cus_%ff", 404, "resource_missing", "id"},
		{"dots in the path", "/v1/customers/cus_../../x", 404, "", ""},
		{"customers by an unknown cursor", "/v1/customers?starting_after=cus_x", 400, "resource_missing", "starting_after"},
		{"customers by e-mail", "/v1/customers?email=a@example.com", 400, "", "email"},
		{"customers by broken UTF-8", "/v1/customers?email=%FF", 400, "", "email"},
		{"search", "/v1/customers/search?query=x", 404, "", ""},
		{"search by another name", "/v1/customers/search", 404, "", ""},
		{"cursor with broken UTF-8", pathTxns + "?starting_after=%FF", 400, "", "starting_after"},
		{"customers of no clock's id", "/v1/customers?test_clock=%27", 400, "resource_missing", "test_clock"},
		{"list of an unknown customer", "/v1/customers/cus_missing/balance_transactions", 404, "resource_missing", "customer"},
		{"… with a cursor", "/v1/customers/cus_missing/balance_transactions?starting_after=cbtxn_1", 400, "resource_missing", "starting_after"},
		{"list of no customer's id", "/v1/customers/x'/balance_transactions", 404, "resource_missing", "customer"},
		{"unknown transaction", pathTxns + "/cbtxn_missing", 404, "resource_missing", "transaction"},
		{"transaction of another customer", pathTxns + "/cbtxn_ofdeleted", 404, "resource_missing", "transaction"},
		{"not a transaction's id", pathTxns + "/a%20b", 404, "resource_missing", "transaction"},
		{"unknown grant", pathGrants + "/credgr_missing", 404, "resource_missing", "id"},
		{"not a grant's id", pathGrants + "/cbtxn_1", 404, "resource_missing", "id"},
		{"unknown credit transaction", pathCredits + "/cbtxn_missing", 404, "resource_missing", "id"},
		{"not a credit transaction's id", pathCredits + "/%00", 404, "resource_missing", "id"},
		{"grants of an unknown customer", pathGrants + "?customer=cus_missing", 400, "resource_missing", "customer"},
		{"grants of no customer's id", pathGrants + "?customer=x", 400, "resource_missing", "customer"},
		{"credits of nobody's account", pathCredits + "?customer_account=acct_x", 400, "resource_missing", "customer_account"},
		{"credits of two owners", credits + "&customer_account=acct_x", 400, "", "customer_account"},
		{"grants of no account's id", pathGrants + "?customer_account=%27", 400, "resource_missing", "customer_account"},
		{"credits of an unknown customer", pathCredits + "?customer=cus_missing", 400, "resource_missing", "customer"},
		{"credits of no customer's id", pathCredits + "?customer=%27", 400, "resource_missing", "customer"},
		{"credits of an unknown grant", pathCredits + "?credit_grant=credgr_missing", 400, "resource_missing", "credit_grant"},
		{"credits of no grant's id", credits + "&credit_grant=x", 400, "resource_missing", "credit_grant"},
		{"credits of another's grant", pathCredits + "?customer=" + cusBalance + "&credit_grant=" + grantUsed, 400, "resource_missing", "credit_grant"},

		{"limit 1e9", pathTxns + "?limit=1e9", 400, "parameter_invalid_integer", "limit"},
		{"limit NaN", pathTxns + "?limit=NaN", 400, "parameter_invalid_integer", "limit"},
		{"limit +5", pathTxns + "?limit=%2B5", 400, "parameter_invalid_integer", "limit"},
		{"limit 1_0", pathTxns + "?limit=1_0", 400, "parameter_invalid_integer", "limit"},
		{"limit empty", pathTxns + "?limit=", 400, "parameter_invalid_empty", "limit"},
		{"limit without value", pathTxns + "?limit", 400, "parameter_invalid_empty", "limit"},
		{"limit twice", pathTxns + "?limit=1&limit=1", 400, "", "limit"},
		{"limit as array", pathTxns + "?limit[]=1", 400, "parameter_unknown", "limit[]"},
		{"customer twice", credits + "&customer=" + cusCredits, 400, "", "customer"},
		{"both cursors", pathTxns + "?starting_after=cbtxn_1MrU9qLkdIwHu7ix000001&ending_before=cbtxn_1MrU9qLkdIwHu7ix000002", 400, "", ""},
		{"both cursors, of which one is not there", pathTxns + "?starting_after=cbtxn_1MrU9qLkdIwHu7ix000001&ending_before=cbtxn_2", 400, "resource_missing", "ending_before"},
		{"both cursors of customers", "/v1/customers?starting_after=cus_NcjdgdwZyI9Rj7&ending_before=cus_NcjdgdwZyI9Rj7", 400, "", ""},
		{"unknown cursor", pathTxns + "?starting_after=cbtxn_x", 400, "resource_missing", "starting_after"},
		{"unknown cursor before", pathTxns + "?ending_before=cbtxn_x", 400, "resource_missing", "ending_before"},
		{"cursor of another customer", pathTxns + "?starting_after=cbtxn_ofdeleted", 400, "resource_missing", "starting_after"},
		{"cursor with SQL", pathTxns + "?starting_after=%27%20OR%201=1--", 400, "resource_missing", "starting_after"},
		{"cursor with NUL", pathTxns + "?ending_before=%00", 400, "resource_missing", "ending_before"},
		{"unknown cursor of grants", pathGrants + "?starting_after=credgr_x", 400, "resource_missing", "starting_after"},
		{"unknown cursor of credits", credits + "&ending_before=cbtxn_x", 400, "resource_missing", "ending_before"},
		{"unknown parameter", pathBalance + "?foo=1", 400, "parameter_unknown", "foo"},
		{"paging of one object", pathBalance + "?limit=1", 400, "parameter_unknown", "limit"},
		{"filter by no time", pathTxns + "?created[gte]=NaN", 400, "parameter_invalid_integer", "created[gte]"},
		{"filter by a fraction", pathTxns + "?created=1.5", 400, "parameter_invalid_integer", "created"},
		{"filter by nothing", pathTxns + "?created[lt]=", 400, "parameter_invalid_empty", "created[lt]"},
		{"filter by time and range", pathTxns + "?created=1&created[gt]=1", 400, "", "created"},
		{"filter by another relation", pathTxns + "?created[eq]=1", 400, "parameter_unknown", "created[eq]"},
		{"filter of one object", pathBalance + "?created=1", 400, "parameter_unknown", "created"},
		{"filter of grants by time", pathGrants + "?created=1", 400, "parameter_unknown", "created"},
		{"no invoice's id", pathTxns + "?invoice=%27", 400, "resource_missing", "invoice"},
		{"balances by no time", "/v1/credits/balances?as_of=soon", 400, "", "as_of"},
		{"balances of too many", "/v1/credits/balances?limit=1001", 400, "", "limit"},
		{"balances after nobody", "/v1/credits/balances?starting_after=%27", 400, "resource_missing", "starting_after"},
		{"changes after nothing", "/v1/credits/changes?after=%27", 400, "", "after"},
		{"changes for too long", "/v1/credits/changes?wait=61s", 400, "", "wait"},
		{"changes for no time", "/v1/credits/changes?wait=x", 400, "", "wait"},
		{"changes expanded", "/v1/credits/changes?expand[]=data", 400, "parameter_unknown", "expand[]"},
		{"key in the query", pathBalance + "?key=sk_test_1", 400, "parameter_unknown", "key"},
		{"other case", pathTxns + "?Limit=1", 400, "parameter_unknown", "Limit"},
		{"semicolon", pathTxns + "?limit=1;x=2", 400, "parameter_invalid_integer", "limit"},
		{"broken encoding", pathTxns + "?limit=%zz", 400, "", ""},

		{"expand what is not held", pathTxns + "?expand[]=data.invoice", 400, "", ""},
		{"expand without data.", pathTxns + "?expand[]=customer", 400, "", ""},
		{"expand data. of one object", pathTxns + "/cbtxn_1MrU9qLkdIwHu7ix000001?expand[]=data.customer", 400, "", ""},
		{"expand a clock", pathGrants + "?expand[]=data.test_clock", 400, "", ""},
		{"expand inside a plain value", pathBalance + "?expand[]=invoice_credit_balance.usd", 400, "", ""},
		{"expand five levels", credits + "&expand[]=data.credit_grant.customer.invoice_credit_balance.usd", 400, "property_expansion_max_depth", ""},
		{"expand nothing", pathBalance + "?expand[]=", 400, "parameter_invalid_empty", "expand[]"},
		{"expand as one value", pathBalance + "?expand=invoice_credit_balance", 400, "", "expand"},
		{"expand one place twice", pathTxns + "?expand[0]=data.customer&expand[0]=data.customer", 400, "", "expand[0]"},
		{"expand 1,000", pathTxns + "?" + strings.Repeat("expand[]=data.customer&", 1000), 400, "", "expand[]"},
		{"expand a NUL", pathBalance + "?expand[]=%00", 400, "", ""},
		{"expand a long name", pathBalance + "?expand[]=" + strings.Repeat("x.", 5000), 400, "property_expansion_max_depth", ""},

		{"summary of nobody", pathSummary, 400, "parameter_missing", "customer"},
		{"summary without filter", summary, 400, "parameter_missing", "filter"},
		{"summary without type", summary + "&filter[credit_grant]=" + grantUsed, 400, "parameter_missing", "filter[type]"},
		{"summary of an unknown type", summary + "&filter[type]=x", 400, "", "filter[type]"},
		{"summary of no grant", summary + "&filter[type]=credit_grant", 400, "parameter_missing", "filter[credit_grant]"},
		{"summary of an unknown grant", summary + "&filter[type]=credit_grant&filter[credit_grant]=credgr_x", 400, "resource_missing", "filter[credit_grant]"},
		{"summary of another's grant", pathSummary + "?customer=" + cusBalance + "&filter[type]=credit_grant&filter[credit_grant]=" + grantUsed, 400, "resource_missing", "filter[credit_grant]"},
		{"summary of grant and scope", summary + "&filter[type]=credit_grant&filter[credit_grant]=" + grantUsed + "&filter[applicability_scope][price_type]=metered", 400, "", "filter[applicability_scope]"},
		{"summary of scope and grant", summary + "&filter[type]=applicability_scope&filter[credit_grant]=" + grantUsed + "&filter[applicability_scope][price_type]=metered", 400, "", "filter[credit_grant]"},
		{"summary of no scope", summary + "&filter[type]=applicability_scope", 400, "parameter_missing", "filter[applicability_scope]"},
		{"summary of two scopes", summary + "&filter[type]=applicability_scope&filter[applicability_scope][price_type]=metered&filter[applicability_scope][prices][0][id]=price_1", 400, "", "filter[applicability_scope]"},
		{"summary of an unknown scope", summary + "&filter[type]=applicability_scope&filter[applicability_scope][price_type]=licensed", 400, "", "filter[applicability_scope][price_type]"},
		{"summary of an unknown customer", pathSummary + "?customer=cus_missing&filter[type]=credit_grant&filter[credit_grant]=" + grantUsed, 400, "resource_missing", "customer"},

		{"other path", "/v1/charges", 404, "", ""},
		{"no path", "/v1/", 404, "", ""},
		{"less than that", "/v1", 404, "", ""},
		{"root", "/", 404, "", ""},
		{"slash at the end", pathBalance + "/", 404, "", ""},
		{"two slashes", "//v1/customers/" + cusBalance, 404, "", ""},
		{"git", "/.git/config", 404, "", ""},
		{"escaped letter", "/v1/%63ustomers/" + cusBalance, 404, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := serve(h, local("GET", c.target))
			e := errorOf(t, w)
			if w.Code != c.status || e.Type != "invalid_request_error" || e.Code != c.code || e.Param != c.param {
				t.Errorf("%d %s %q %q, want %d %q %q: %s", w.Code, e.Type, e.Code, e.Param, c.status, c.code, c.param, w.Body)
			}
			if w.Body.Len() > 2000 {
				t.Errorf("the reply has %d bytes: too much of the request comes back", w.Body.Len())
			}
			if w.Header().Get("Location") != "" || w.Header().Get("Creditmirror-Synced-At") != "" {
				t.Errorf("headers %v", w.Header())
			}
		})
	}
}

// A limit out of its range is its nearest end, as at Stripe whatever its documents say;
// expand[]=data changes nothing.
func TestTakenAsStripeTakesIt(t *testing.T) {
	t.Parallel()
	h := handlerOf(world(t))
	rows := func(query string) int {
		t.Helper()
		w := serve(h, local("GET", pathTxns+"?"+query))
		if w.Code != 200 {
			t.Fatalf("%s: %d %s", query, w.Code, w.Body)
		}
		return len(decode[struct{ Data []json.RawMessage }](t, w.Body.Bytes()).Data)
	}
	all := rows("limit=100")
	for query, want := range map[string]int{
		"limit=101": all, "limit=99999999999999999999": all, "limit=0": 1, "limit=-1": 1, "limit=-99999999999999999999": 1,
		"limit=1&expand[]=data": 1,
	} {
		if got := rows(query); got != want {
			t.Errorf("%s: %d rows, want %d", query, got, want)
		}
	}
}

// The shapes of Stripe's own errors: the same fields, with the same values but
// for the texts.
func TestErrorFixtures(t *testing.T) {
	t.Parallel()
	h := handlerOf(world(t))
	keyed := New(Options{Reader: world(t), Keys: keysOf([]testKey{{Secret: "right"}}...)})
	for name, w := range map[string]*httptest.ResponseRecorder{
		"400_missing_param":   serve(h, local("GET", pathSummary)),
		"400_unknown_param":   serve(h, local("GET", pathTxns+"?foo=1")),
		"401_invalid_key":     serve(keyed, local("GET", pathTxns, "Authorization", "Bearer wrong")),
		"403_account_access":  serve(h, local("GET", pathTxns, "Stripe-Account", "acct_../")),
		"404_customer":        serve(h, local("GET", "/v1/customers/cus_missing")),
		"404_nested_customer": serve(h, local("GET", "/v1/customers/cus_missing/balance_transactions")),
	} {
		want := decode[struct {
			Status int
			Body   struct{ Error errorBody }
		}](t, fixture(t, filepath.Join("errors", name)))
		got, e := errorOf(t, w), want.Body.Error
		if name == "400_missing_param" {
			e.Param = got.Param // of another operation
		}
		if strings.HasPrefix(name, "404") && got.Message != e.Message {
			t.Errorf("%s: message %q, want %q", name, got.Message, e.Message)
		}
		got.Message, e.Message = "", ""
		if w.Code != want.Status || got != e {
			t.Errorf("%s: %d %+v, want %d %+v", name, w.Code, got, want.Status, e)
		}
	}
}

func TestMethods(t *testing.T) {
	t.Parallel()
	h := New(Options{Reader: world(t), Keys: keysOf([]testKey{{Secret: "r"}, {Secret: "w", Write: true}}...)})
	for _, c := range []struct {
		method, target, key string
		status              int
	}{
		{"POST", pathTxns, "w", 403}, // nothing to send it on with
		{"POST", pathTxns, "r", 403},
		{"POST", pathTxns + "/cbtxn_1", "r", 403},
		{"POST", pathGrants, "r", 403},
		{"POST", pathGrants + "/credgr_1", "r", 403},
		{"POST", pathGrants + "/credgr_1/expire", "r", 403},
		{"POST", pathGrants + "/credgr_1/void", "r", 403},
		{"GET", pathGrants + "/credgr_1/void", "r", 404},
		{"DELETE", pathBalance, "w", 404},
		{"DELETE", pathBalance, "r", 403},
		{"PUT", pathBalance, "r", 404},
		{"HEAD", pathBalance, "r", 404},
		{"TRACE", pathBalance, "r", 404},
		{"OPTIONS", pathBalance, "r", 404},
		{"POST", "/v1/customers", "w", 404},
		{"POST", "/v1/charges", "r", 404},
		{"POST", "/v1/charges", "x", 401},
	} {
		w := serve(h, local(c.method, c.target, "Authorization", "Bearer "+c.key))
		e := errorOf(t, w)
		if w.Code != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.target, w.Code, c.status)
		}
		named := strings.Contains(e.Message, "Unrecognized request URL ("+c.method+": "+c.target+")")
		if want := c.status == 404; named != want {
			t.Errorf("%s %s: %q", c.method, c.target, e.Message)
		}
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	h := handlerOf(world(t))
	ids := map[string]bool{}
	for _, c := range []struct {
		name, target, syncedAt string
		header                 []string
		status                 int
		version                string
	}{
		{name: "customer", target: pathBalance, status: 200, syncedAt: "2026-03-01T11:59:52Z"},
		{name: "list", target: pathTxns, status: 200, syncedAt: "2026-03-01T11:59:53Z"},
		{name: "list with an older customer", target: pathTxns + "?expand[]=data.customer", status: 200, syncedAt: "2026-03-01T11:59:52Z"},
		{name: "transaction", target: pathTxns + "/cbtxn_1MrU9qLkdIwHu7ix000001", status: 200, syncedAt: "2026-03-01T11:59:52Z"},
		{name: "grant", target: pathGrants + "/" + grantUsed, status: 200, syncedAt: "2026-03-01T11:59:53Z"},
		{name: "credit transaction", target: pathCredits + "/" + txnDebit, status: 200, syncedAt: "2026-03-01T11:59:53Z"},
		{name: "grants of the account", target: pathGrants, status: 200},
		{name: "stub", target: "/v1/customers/" + cusDeleted, status: 200, syncedAt: "2026-03-01T11:59:52Z"},
		{name: "refused", target: "/v1/x", status: 404},
		{name: "version", target: pathTxns, header: []string{"Stripe-Version", "2024-06-20"}, status: 200, version: "2024-06-20", syncedAt: "2026-03-01T11:59:53Z"},
		{name: "version with flags", target: "/v1/x", header: []string{"Stripe-Version", "2026-08-26.dahlia; some_beta=v1"}, status: 404, version: "2026-08-26.dahlia; some_beta=v1"},
		{name: "no version", target: pathTxns, header: []string{"Stripe-Version", "latest<script>"}, status: 400},
		{name: "version of no day", target: pathTxns, header: []string{"Stripe-Version", "2024-13-45"}, status: 400},
		{name: "two versions", target: pathTxns, header: []string{"Stripe-Version", "2024-06-20", "Stripe-Version", "2024-06-20"}, status: 400},
		{name: "foreign address", target: pathTxns, header: []string{"X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "https"}, status: 200, syncedAt: "2026-03-01T11:59:53Z"},
	} {
		w := serve(h, local("GET", c.target, c.header...))
		got := w.Header()
		if w.Code != c.status || got.Get("Creditmirror-Synced-At") != c.syncedAt || got.Get("Stripe-Version") != c.version {
			t.Errorf("%s: %d, headers %v", c.name, w.Code, got)
		}
		if got.Get("Content-Type") != "application/json" || got.Get("Cache-Control") != map[bool]string{true: "private, no-cache", false: "no-store"}[c.status == 200] || got.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", c.name, got)
		}
		id := got.Get("Request-Id")
		if !regexp.MustCompile(`^req_[A-Z0-9]{20,}$`).MatchString(id) || ids[id] {
			t.Errorf("%s: Request-Id %q", c.name, id)
		}
		ids[id] = true
	}
}

func TestConnectedAccount(t *testing.T) {
	t.Parallel()
	h := handlerOf(world(t))
	connected := "/v1/customers/" + cusConnect + "/balance_transactions"
	for _, c := range []struct {
		target   string
		accounts []string
		status   int
	}{
		{connected, []string{account1}, 200},
		{connected, nil, 404},
		{connected, []string{"acct_2"}, 404},
		{pathTxns, []string{account1}, 404},
		{pathGrants + "/" + grantUsed, []string{account1}, 404},
		{connected, []string{"acct_1'--"}, 403},
		{connected, []string{""}, 403},
		{connected, []string{account1, account1}, 403},
	} {
		r := local("GET", c.target)
		for _, a := range c.accounts {
			r.Header.Add("Stripe-Account", a)
		}
		w := serve(h, r)
		if w.Code != c.status {
			t.Errorf("%s as %q: %d, want %d", c.target, c.accounts, w.Code, c.status)
		}
		if c.status == 403 && errorOf(t, w).Code != "account_invalid" {
			t.Errorf("%s as %q: %s", c.target, c.accounts, w.Body)
		}
	}
}

// Stripe takes the account from Stripe-Context too. Ignored, it would have the platform's
// own customers read, and money written there.
func TestStripeContextIsAnAccount(t *testing.T) {
	t.Parallel()
	h := handlerOf(world(t))
	connected := "/v1/customers/" + cusConnect + "/balance_transactions"
	for _, c := range []struct {
		target string
		header []string
		status int
	}{
		{connected, []string{"Stripe-Context", account1}, 200},
		{pathTxns, []string{"Stripe-Context", account1}, 404},
		{pathTxns, []string{"Stripe-Context", "acct_1/acct_2"}, 403},
		{pathTxns, []string{"Stripe-Context", ""}, 403},
		{connected, []string{"Stripe-Account", account1, "Stripe-Context", "acct_2"}, 403},
		{connected, []string{"Stripe-Account", account1, "Stripe-Context", account1}, 403},
	} {
		w := serve(h, local("GET", c.target, c.header...))
		if w.Code != c.status {
			t.Errorf("%s %q: %d, want %d", c.target, c.header, w.Code, c.status)
		}
		if c.status == 403 && errorOf(t, w).Code != "account_invalid" {
			t.Errorf("%s %q: %s", c.target, c.header, w.Body)
		}
		if c.status == 200 && !strings.Contains(strings.Join(w.Header().Values("Vary"), ","), "Stripe-Context") {
			t.Errorf("%s %q: Vary is %q", c.target, c.header, w.Header().Values("Vary"))
		}
	}
}
