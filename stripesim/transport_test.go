package stripesim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fixture reads a stored error reply: its status, headers and body.
func fixture(t *testing.T, name string) (status int, header map[string]string, body obj) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "errors", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Status  int               `json:"status"`
		Headers map[string]string `json:"headers"`
		Body    obj               `json:"body"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	return f.Status, f.Headers, f.Body
}

// wantFixture compares a reply with a fixture: status, header names, and every
// field of the error but its text.
func wantFixture(t *testing.T, r answer, name string) {
	t.Helper()
	status, header, body := fixture(t, name)
	equal(t, name+" status", r.status, status)
	for k := range header {
		if r.header.Get(k) == "" {
			t.Errorf("%s: no header %s", name, k)
		}
	}
	want, _ := body["error"].(obj)
	for _, k := range []string{"type", "code", "param", "doc_url"} {
		if got := r.at("error." + k); got != want[k] {
			t.Errorf("%s: %s is %v, want %v", name, k, got, want[k])
		}
	}
	if r.str("error.message") == "" {
		t.Errorf("%s: no message", name)
	}
}

func TestErrorsMatchFixtures(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	with := func(method, path string, h http.Header, pairs ...string) answer {
		t.Helper()
		r, err := s.request(method, path, h, pairs...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	key := http.Header{"Idempotency-Key": {"k1"}}
	with("POST", "/v1/customers", key, "name=a")
	wantFixture(t, with("POST", "/v1/customers", key, "name=b"), "400_idempotency_mismatch")
	wantFixture(t, s.do("POST", "/v1/customers/"+cus+"/balance_transactions", "currency=usd"), "400_missing_param")
	wantFixture(t, s.do("GET", "/v1/customers", "foo=1"), "400_unknown_param")
	wantFixture(t, with("GET", "/v1/customers", http.Header{"Authorization": {"Bearer wrong"}}), "401_invalid_key")
	wantFixture(t, with("GET", "/v1/customers", http.Header{"Stripe-Account": {"acct_no"}}), "403_account_access")
	wantFixture(t, s.do("GET", "/v1/customers/cus_missing"), "404_customer")
	wantFixture(t, s.do("GET", "/v1/customers/cus_missing/balance_transactions"), "404_nested_customer")
	if err := s.SetFaults(Faults{{Kind: FaultRateLimit, Count: 1}, {Kind: FaultLock, Count: 1}, {Kind: Fault500, Count: 1}}); err != nil {
		t.Fatal(err)
	}
	wantFixture(t, s.do("GET", "/v1/customers"), "429_rate_limit")
	wantFixture(t, s.do("GET", "/v1/customers"), "429_lock_timeout")
	wantFixture(t, s.do("GET", "/v1/customers"), "500_api_error")
	s.get("/v1/customers")
}

func TestParameterErrors(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	other := s.customer()
	otherTxn := s.adjust(other, 5, "usd").str("id")
	bt := "/v1/customers/" + cus + "/balance_transactions"
	gr := "/v1/billing/credit_grants"
	amount := []string{"amount[type]=monetary", "amount[monetary][currency]=usd", "amount[monetary][value]=5"}
	scope := []string{"applicability_config[scope][price_type]=metered"}
	all := append(append([]string{"customer=" + cus}, amount...), scope...)
	for name, c := range map[string]struct {
		method, path string
		form         []string
		status       int
		code, param  string
	}{
		"limit text":           {"GET", bt, []string{"limit=x"}, 400, "parameter_invalid_integer", "limit"},
		"both cursors":         {"GET", "/v1/customers", []string{"starting_after=" + cus, "ending_before=" + cus}, 400, "", ""},
		"cursor before owner":  {"GET", "/v1/customers/cus_missing/balance_transactions", []string{"ending_before=b"}, 400, "resource_missing", "ending_before"},
		"bogus cursor first":   {"GET", "/v1/customers", []string{"starting_after=" + cus, "ending_before=b"}, 400, "resource_missing", "ending_before"},
		"unknown after":        {"GET", bt, []string{"starting_after=cbtxn_no"}, 400, "resource_missing", "starting_after"},
		"unknown before":       {"GET", bt, []string{"ending_before=cbtxn_no"}, 400, "resource_missing", "ending_before"},
		"other's cursor":       {"GET", bt, []string{"starting_after=" + otherTxn}, 400, "resource_missing", "starting_after"},
		"empty cursor":         {"GET", bt, []string{"starting_after="}, 400, "parameter_invalid_empty", "starting_after"},
		"bad expand":           {"GET", bt, []string{"expand[]=data.foo"}, 400, "", ""},
		"expand without data":  {"GET", bt, []string{"expand[]=customer"}, 400, "", ""},
		"expand of a plain":    {"GET", "/v1/customers/" + cus, []string{"expand[]=balance"}, 400, "", ""},
		"expand too deep":      {"GET", bt, []string{"expand[]=data.invoice.customer.test_clock.x"}, 400, "property_expansion_max_depth", ""},
		"unknown nested":       {"GET", "/v1/customers", []string{"created[foo]=1"}, 400, "parameter_unknown", "created[foo]"},
		"created text":         {"GET", "/v1/customers", []string{"created=x"}, 400, "parameter_invalid_integer", "created"},
		"zero amount":          {"POST", bt, []string{"amount=0", "currency=usd"}, 400, "parameter_invalid_integer", "amount"},
		"fraction":             {"POST", bt, []string{"amount=1.5", "currency=usd"}, 400, "parameter_invalid_integer", "amount"},
		"huge amount":          {"POST", bt, []string{"amount=9999999999999", "currency=usd"}, 400, "parameter_invalid_integer", "amount"},
		"no currency":          {"POST", bt, []string{"amount=1", "currency=usx"}, 400, "", "currency"},
		"no such currency":     {"POST", bt, []string{"amount=1", "currency=xxy"}, 400, "", "currency"},
		"currency left out":    {"POST", bt, []string{"amount=1"}, 400, "parameter_missing", "currency"},
		"long description":     {"POST", bt, []string{"amount=1", "currency=usd", "description=" + strings.Repeat("é", 351)}, 400, "", "description"},
		"hash for a string":    {"POST", "/v1/customers", []string{"name[x]=1"}, 400, "", "name"},
		"grant no amount":      {"POST", gr, scope, 400, "parameter_missing", "amount"},
		"grant no scope":       {"POST", gr, append([]string{"customer=" + cus}, amount...), 400, "parameter_missing", "applicability_config"},
		"grant no customer":    {"POST", gr, append(amount, scope...), 400, "parameter_missing", "customer"},
		"grant customer":       {"POST", gr, append(append([]string{"customer=cus_no"}, amount...), scope...), 400, "resource_missing", "customer"},
		"grant priority":       {"POST", gr, append([]string{"priority=101"}, all...), 400, "parameter_invalid_integer", "priority"},
		"grant category":       {"POST", gr, append([]string{"category=free"}, all...), 400, "", "category"},
		"grant past expiry":    {"POST", gr, append([]string{"expires_at=5"}, all...), 400, "", "expires_at"},
		"grant both scopes":    {"POST", gr, append([]string{"applicability_config[scope][prices][][id]=p"}, all...), 400, "", "applicability_config[scope]"},
		"grant long name":      {"POST", gr, append([]string{"name=" + strings.Repeat("x", 101)}, all...), 400, "", "name"},
		"credits no customer":  {"GET", "/v1/billing/credit_balance_transactions", nil, 400, "parameter_missing", "customer"},
		"credits bad grant":    {"GET", "/v1/billing/credit_balance_transactions", []string{"customer=" + cus, "credit_grant=credgr_no"}, 400, "resource_missing", "credit_grant"},
		"no grant":             {"GET", gr + "/credgr_no", nil, 404, "resource_missing", "id"},
		"no credit txn":        {"GET", "/v1/billing/credit_balance_transactions/cbtxn_no", nil, 404, "resource_missing", "id"},
		"no event":             {"GET", "/v1/events/evt_no", nil, 404, "resource_missing", "id"},
		"type and types":       {"GET", "/v1/events", []string{"type=a", "types[]=b"}, 400, "", "types"},
		"wild types":           {"GET", "/v1/events", []string{"types[]=customer.*"}, 400, "", "types"},
		"unknown clock":        {"POST", "/v1/customers", []string{"test_clock=clock_no"}, 400, "resource_missing", "test_clock"},
		"unknown route":        {"GET", "/v1/nothing", nil, 404, "", ""},
		"search is no id":      {"GET", "/v1/customers/search", []string{"query=x"}, 404, "", ""},
		"method":               {"PUT", "/v1/customers", nil, 404, "", ""},
		"endpoint event":       {"POST", "/v1/webhook_endpoints", []string{"url=https://a.example", "enabled_events[]=customer_balance_transaction.created"}, 400, "", "enabled_events"},
		"grant two owners":     {"POST", gr, append([]string{"customer_account=acct_1"}, all...), 400, "", "customer_account"},
		"invoice two owners":   {"POST", "/v1/invoices", []string{"customer=" + cus, "customer_account=acct_1"}, 400, "", "customer_account"},
		"grant no such price":  {"POST", gr, append(append([]string{"customer=" + cus}, amount...), "applicability_config[scope][prices][0][id]=price_no"), 400, "resource_missing", "applicability_config[scope][prices][0][id]"},
		"grant expires late":   {"POST", gr, append([]string{"expires_at=9223372036854775807"}, all...), 400, "parameter_invalid_integer", "expires_at"},
		"grant begins early":   {"POST", gr, append([]string{"effective_at=-1"}, all...), 400, "parameter_invalid_integer", "effective_at"},
		"clock too late":       {"POST", "/v1/test_helpers/test_clocks", []string{"frozen_time=9223372036854775807"}, 400, "parameter_invalid_integer", "frozen_time"},
		"clock before 1970":    {"POST", "/v1/test_helpers/test_clocks", []string{"frozen_time=-5"}, 400, "parameter_invalid_integer", "frozen_time"},
		"endpoint version":     {"POST", "/v1/webhook_endpoints", []string{"url=https://a.example", "enabled_events[]=*", "api_version=2024-06-21"}, 400, "", "api_version"},
		"array with a gap":     {"GET", "/v1/customers", []string{"expand[1]=data.tax"}, 400, "", "expand"},
		"value and hash":       {"POST", "/v1/customers", []string{"metadata[a]=b", "metadata="}, 400, "", "metadata"},
		"bracket left open":    {"POST", "/v1/customers", []string{"metadata[a=b"}, 400, "parameter_unknown", "metadata[a"},
		"two wrong, the first": {"POST", "/v1/customers", []string{"address[state][x]=1", "address[city][x]=1", "address[line1][x]=1"}, 400, "", "address[city]"},
		"endpoint url":         {"POST", "/v1/webhook_endpoints", []string{"url=nope", "enabled_events[]=*"}, 400, "url_invalid", "url"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, s.do(c.method, c.path, c.form...), c.status, c.code, c.param)
		})
	}
}

func TestBothArrayStyles(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	s.adjust(cus, -5, "usd")
	for _, style := range []string{"expand[]", "expand[0]"} {
		r := s.get("/v1/customers/"+cus, style+"=invoice_credit_balance")
		equal(t, style, r.num("invoice_credit_balance.usd"), 5)
	}
	for _, style := range []string{"types[]=customer.created&types[]=customer.updated", "types[0]=customer.created&types[1]=customer.updated"} {
		r := s.get("/v1/events?" + style)
		equal(t, style, len(r.data()), 2)
	}
	one, two := s.metered(), s.metered()
	g := s.post("/v1/billing/credit_grants", "customer="+cus, "amount[type]=monetary", "amount[monetary][currency]=usd", "amount[monetary][value]=5",
		"applicability_config[scope][prices][][id]="+one, "applicability_config[scope][prices][][id]="+two)
	equalJSON(t, "prices", g.at("applicability_config.scope.prices"), `[{"id":"`+one+`"},{"id":"`+two+`"}]`)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	status := func(s *sim, auth string) int {
		t.Helper()
		r, err := s.request("GET", "/v1/customers", http.Header{"Authorization": {auth}})
		if err != nil {
			t.Fatal(err)
		}
		return r.status
	}
	req := httptest.NewRequest("GET", "/", nil)
	req.SetBasicAuth("sk_test_abc", "")
	basic := req.Header.Get("Authorization")
	equal(t, "basic", status(s, basic), 200)
	equal(t, "restricted kind", status(s, "Bearer rk_test_abc"), 200)
	equal(t, "none", status(s, ""), 401)
	equal(t, "other mode", status(s, "Bearer sk_live_abc"), 401)
	equal(t, "publishable", status(s, "Bearer pk_test_abc"), 401)

	if err := s.SetKey("rk_test_abc", KeyRestricted, "GET /v1/billing"); err != nil {
		t.Fatal(err)
	}
	equal(t, "allowed", status(s, "Bearer rk_test_abc"), 200)
	r, _ := s.request("GET", "/v1/billing/credit_grants", http.Header{"Authorization": {"Bearer rk_test_abc"}})
	equal(t, "denied", r.status, 403)
	if err := s.SetKey("rk_test_abc", KeyRevoked); err != nil {
		t.Fatal(err)
	}
	equal(t, "revoked", status(s, "Bearer rk_test_abc"), 401)
	if err := s.SetKey("rk_test_abc", KeyActive); err != nil {
		t.Fatal(err)
	}
	equal(t, "restored", status(s, "Bearer rk_test_abc"), 200)
	if s.SetKey("rk_test_abc", "odd") == nil {
		t.Fatal("took an unknown state")
	}

	listed := start(t, Options{Keys: []string{"sk_live_one"}, Livemode: true})
	equal(t, "listed", status(listed, "Bearer sk_live_one"), 200)
	equal(t, "not listed", status(listed, "Bearer sk_live_two"), 401)
}

func TestAccountsAreApart(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Accounts: []string{"acct_a", "acct_b"}})
	in := http.Header{"Stripe-Account": {"acct_a"}}
	r, _ := s.request("POST", "/v1/customers", in, "name=x")
	id := r.str("id")
	equal(t, "echo", r.header.Get("Stripe-Account"), "acct_a")
	equal(t, "not on the platform", s.do("GET", "/v1/customers/"+id).status, 404)
	r, _ = s.request("GET", "/v1/customers/"+id, in)
	equal(t, "in its account", r.status, 200)
	r, _ = s.request("GET", "/v1/customers/"+id, http.Header{"Stripe-Account": {"acct_b"}})
	equal(t, "not in another", r.status, 404)
	r, _ = s.request("GET", "/v1/account", http.Header{"Stripe-Account": {s.PlatformAccount()}})
	equal(t, "platform by id", r.str("id"), s.PlatformAccount())
	if err := s.AddAccount("acct_c"); err != nil {
		t.Fatal(err)
	}
	r, _ = s.request("GET", "/v1/customers", http.Header{"Stripe-Account": {"acct_c"}})
	equal(t, "added", r.status, 200)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	r, _ := s.request("GET", "/v1/customers", http.Header{"Stripe-Version": {"2024-06-20"}})
	equal(t, "version", r.header.Get("Stripe-Version"), "2024-06-20")
	if !strings.HasPrefix(r.header.Get("Request-Id"), "req_") {
		t.Fatalf("request id %q", r.header.Get("Request-Id"))
	}
	equal(t, "default version", s.get("/v1/customers").header.Get("Stripe-Version"), Version)
	r, _ = s.request("POST", "/v1/customers", http.Header{"Content-Type": {"application/json"}}, "name=x")
	equal(t, "JSON body", r.status, 400)
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	path := "/v1/customers/" + cus + "/balance_transactions"
	post := func(key string, pairs ...string) answer {
		t.Helper()
		r, err := s.request("POST", path, http.Header{"Idempotency-Key": {key}}, pairs...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a := post("k", "amount=-5", "currency=usd")
	b := post("k", "currency=usd", "amount=-5")
	equal(t, "same", b.str("id"), a.str("id"))
	equal(t, "replayed", b.header.Get("Idempotent-Replayed"), "true")
	equal(t, "first not", a.header.Get("Idempotent-Replayed"), "")
	equal(t, "event's key", s.get("/v1/events").data()[0]["request"].(obj)["idempotency_key"], any("k"))

	equal(t, "invalid", post("v", "amount=0", "currency=usd").status, 400)
	equal(t, "validation is not kept", post("v", "amount=-5", "currency=usd").status, 200)

	s.hand.forward(25 * 3600)
	equal(t, "after a day", post("k", "amount=-5", "currency=usd").header.Get("Idempotent-Replayed"), "")
	equal(t, "balance", s.get("/v1/customers/"+cus).num("balance"), -15)

	// A reply lost after the change: the retry must find the first one's result.
	if err := s.SetFaults(Faults{{Kind: FaultReset, Count: 1, After: true}}); err != nil {
		t.Fatal(err)
	}
	s.http.CloseIdleConnections() // on a used connection net/http itself would retry
	if _, err := s.request("POST", path, http.Header{"Idempotency-Key": {"lost"}}, "amount=-1", "currency=usd"); err == nil {
		t.Fatal("no reset")
	}
	equal(t, "replayed", post("lost", "amount=-1", "currency=usd").header.Get("Idempotent-Replayed"), "true")
	equal(t, "once", s.get("/v1/customers/"+cus).num("balance"), -16)

	// Stripe keeps its own 500s, but not what never reached it.
	_ = s.SetFaults(Faults{{Kind: Fault500, Count: 1, After: true}})
	equal(t, "500", post("e", "amount=-1", "currency=usd").status, 500)
	equal(t, "500 again", post("e", "amount=-1", "currency=usd").status, 500)
	_ = s.SetFaults(Faults{{Kind: Fault500, Count: 1}})
	equal(t, "500", post("f", "amount=-1", "currency=usd").status, 500)
	equal(t, "then fine", post("f", "amount=-1", "currency=usd").status, 200)
	equal(t, "key too long", post(strings.Repeat("k", 256), "amount=-1", "currency=usd").status, 400)
}

func TestIdempotencyKeyInFlight(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	st := &idemStore{entries: map[string]*idemEntry{}}
	now := time.Unix(0, 0)
	var wg sync.WaitGroup
	wg.Go(func() {
		e, _, err := st.begin("k", [32]byte{1}, now)
		if err != nil {
			t.Error(err)
		}
		close(entered)
		<-release
		st.keep(e, &reply{status: 200})
	})
	<-entered
	if _, _, err := st.begin("k", [32]byte{1}, now); err == nil || err.status != 409 {
		t.Fatalf("in flight: %v", err)
	}
	close(release)
	wg.Wait()
	if _, r, err := st.begin("k", [32]byte{1}, now); err != nil || r == nil {
		t.Fatalf("after: %v %v", r, err)
	}
	wantFixture(t, replyOf(errKeyInUse("k1")), "409_idempotency_key_in_use")
}

// A slow request is in flight as long as it takes, and what comes under its key
// meanwhile is refused.
func TestIdempotencyKeyOfASlowRequest(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Faults: Faults{{Kind: FaultSlow, Count: 1, Delay: Duration(400 * time.Millisecond), Endpoint: "POST /v1/customers"}}})
	key := http.Header{"Idempotency-Key": {"k1"}}
	slow := make(chan answer)
	go func() {
		r, err := s.request("POST", "/v1/customers", key, "name=x")
		if err != nil {
			t.Error(err)
		}
		slow <- r
	}()
	store := &s.account("").idem
	until(t, func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return store.entries["k1"] != nil
	})
	again, err := s.request("POST", "/v1/customers", key, "name=x")
	if err != nil {
		t.Fatal(err)
	}
	wantFixture(t, again, "409_idempotency_key_in_use")
	other, err := s.request("POST", "/v1/customers", key, "name=y")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "other parameters", other.status, 400)
	first := <-slow
	r, err := s.request("POST", "/v1/customers", key, "name=x")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "replayed", r.header.Get("Idempotent-Replayed"), "true")
	equal(t, "replayed", r.str("id"), first.str("id"))
	equal(t, "made", len(s.get("/v1/customers").data()), 1)
}

func replyOf(e *apiError) answer {
	rep := errorReply(e)
	r := answer{status: rep.status, header: rep.header.Clone(), raw: rep.body}
	r.header.Set("Content-Type", "application/json")
	r.header.Set("Request-Id", "req_x")
	_ = json.Unmarshal(rep.body, &r.obj)
	return r
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Accounts: []string{"acct_a"}, Switches: Switches{RetryAfter: 2 * time.Second}, Limits: Limits{
		AccountRPS: 6, EndpointRPS: 3, Endpoints: map[string]float64{"GET /v1/events": 1},
	}})
	count := func(path string, h http.Header, n int) (ok int, last answer) {
		t.Helper()
		for range n {
			r, err := s.request("GET", path, h)
			if err != nil {
				t.Fatal(err)
			}
			if r.status == 200 {
				ok++
			} else {
				last = r
			}
		}
		return ok, last
	}
	n, r := count("/v1/customers", nil, 5)
	equal(t, "endpoint", n, 3)
	wantFixture(t, r, "429_rate_limit")
	equal(t, "reason", r.header.Get("Stripe-Rate-Limited-Reason"), "endpoint-rate")
	equal(t, "retry after", r.header.Get("Retry-After"), "2")
	n, _ = count("/v1/events", nil, 3)
	equal(t, "override", n, 1)
	n, _ = count("/v1/billing/credit_grants", nil, 2)
	equal(t, "other endpoint", n, 2)
	n, r = count("/v1/webhook_endpoints", nil, 2)
	equal(t, "account", n, 0)
	equal(t, "reason", r.header.Get("Stripe-Rate-Limited-Reason"), "global-rate")
	n, _ = count("/v1/customers", http.Header{"Stripe-Account": {"acct_a"}}, 2)
	equal(t, "other account", n, 2)
	s.hand.forward(1)
	n, _ = count("/v1/customers", nil, 5)
	equal(t, "a second later", n, 3)
	equal(t, "calls", s.Calls()["GET /v1/customers"], 12)
	s.ResetCalls()
	equal(t, "calls", len(s.Calls()), 0)
	if s.SetLimits(Limits{Endpoints: map[string]float64{"GET /v1/nope": 1}}) == nil {
		t.Fatal("took an unknown endpoint")
	}
}

func TestConcurrencyLimit(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Limits: Limits{Concurrency: 1}})
	a := s.account("")
	if e := a.admit("GET /v1/customers"); e != nil {
		t.Fatal(e)
	}
	r := s.do("GET", "/v1/customers")
	equal(t, "status", r.status, 429)
	equal(t, "reason", r.header.Get("Stripe-Rate-Limited-Reason"), "global-concurrency")
	a.leave()
	s.get("/v1/customers")
}

func TestOnRequestRunsBeforeTheRequest(t *testing.T) {
	t.Parallel()
	var s *sim
	var once sync.Once
	var cus string
	s = start(t, Options{OnRequest: func(endpoint string, _ *http.Request) {
		if endpoint == listBalanceTxns {
			once.Do(func() {
				if _, err := s.AddBalanceTransaction("", cus, BalanceChange{Amount: -9, Currency: "usd"}); err != nil {
					t.Error(err)
				}
			})
		}
	}})
	cus = s.customer()
	equal(t, "rows", len(s.get("/v1/customers/"+cus+"/balance_transactions").data()), 1)
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"account":  {Accounts: []string{"x"}},
		"fault":    {Faults: Faults{{Kind: "odd"}}},
		"chance":   {Faults: Faults{{Kind: FaultReset, Probability: 2}}},
		"endpoint": {Faults: Faults{{Kind: FaultReset, Endpoint: "GET /x"}}},
		"limit":    {Limits: Limits{AccountRPS: -1}},
		"currency": {Switches: Switches{DefaultCurrency: "USD"}},
		"order":    {Switches: Switches{SameSecondOrder: "up"}},
		"delivery": {Delivery: Delivery{Attempts: -1}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Headers and the members of errors as they were recorded at the live API.
func TestHeadersAsRecorded(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	bad, err := s.request("GET", "/v1/customers", http.Header{"Authorization": {"Bearer wrong"}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "401 realm", bad.header.Get("Www-Authenticate"), `Bearer realm="Stripe"`)
	equal(t, "401 has neither", bad.header.Get("Request-Id")+bad.header.Get("Stripe-Version"), "")
	equal(t, "401 has no log", bad.at("error.request_log_url"), nil)
	missing := s.do("GET", "/v1/customers/cus_no")
	if log := missing.str("error.request_log_url"); !strings.Contains(log, "/test/logs/"+missing.header.Get("Request-Id")+"?t=") {
		t.Errorf("log %q of %s", log, missing.header.Get("Request-Id"))
	}
	key := http.Header{"Idempotency-Key": {"k"}}
	first, err := s.request("POST", "/v1/customers/"+cus+"/balance_transactions", key, "amount=-5", "currency=EUR")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.request("POST", "/v1/customers/"+cus+"/balance_transactions", key, "amount=-5", "currency=EUR")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "EUR is taken", first.str("currency"), "eur")
	equal(t, "original", first.header.Get("Original-Request"), first.header.Get("Request-Id"))
	equal(t, "replayed", again.header.Get("Original-Request"), first.header.Get("Request-Id"))
	equal(t, "no retry", first.header.Get("Stripe-Should-Retry"), "false")
	equal(t, "limit above", len(s.get("/v1/customers", "limit=1000").data()), 1)
	equal(t, "limit below", len(s.get("/v1/customers", "limit=-3").data()), 1)
	equal(t, "expand of the rows", s.do("GET", "/v1/customers", "expand[]=data").status, 200)
	s.must("DELETE", "/v1/customers/"+cus)
	wantError(t, s.do("POST", "/v1/customers/"+cus, "name=x"), 400, "resource_missing", "id")
}

// What Stripe has and the simulator has not is reported as that; what Stripe has not either
// is reported as Stripe reports it.
func TestNotSimulatedIsToldAsThat(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	for _, c := range []struct {
		method, path string
		pairs        []string
		status       int
		told         bool
	}{
		{"GET", "/v1/subscriptions", nil, 404, true},
		{"POST", "/v1/payment_intents", []string{"amount=5"}, 404, true},
		{"GET", "/v1/customers/search", []string{"query=x"}, 404, true},
		{"GET", "/v1/invoices/upcoming", []string{"customer=" + cus}, 404, true},
		{"GET", "/v1/customers/" + cus + "/sources", nil, 404, true},
		{"GET", "/v1/nonsense", nil, 404, false},
		{"POST", "/v1/customers", []string{"shipping[name]=x"}, 400, true},
		{"POST", "/v1/customers", []string{"nonsense=x"}, 400, false},
		{"GET", "/v1/invoices", []string{"subscription=sub_1"}, 400, true},
		{"GET", "/v1/billing/credit_grants", []string{"customer_account=acct_1"}, 400, true},
		{"POST", "/v1/invoiceitems", []string{"customer=" + cus, "price_data[unit_amount_decimal]=1.5"}, 400, true},
		{"POST", "/v1/invoiceitems", []string{"customer=" + cus, "price_data[nonsense]=1.5"}, 400, false},
		{"POST", "/v1/customers", []string{"invoice_settings[footer]=x"}, 400, true},
		{"POST", "/v1/customers", []string{"payment_method=pm_card_threeDSecureRequired"}, 400, true},
		{"GET", "/v1/meters", nil, 404, false},
		{"GET", "/v2/core/accounts", nil, 404, true},
		{"POST", "/v2/core/accounts/acct_1/close", nil, 404, true},
		{"GET", "/v2/core/nonsense", nil, 404, false},
		{"POST", "/v1/payment_methods/pm_card_visa/attach", []string{"customer=" + cus}, 404, true},
		{"GET", "/v1/billing/meters", nil, 404, true},
		{"GET", "/v1/products", nil, 404, true},
		{"GET", "/v1/invoices/search", []string{"query=x"}, 404, true},
	} {
		r := s.do(c.method, c.path, c.pairs...)
		if told := strings.HasPrefix(r.str("error.message"), "not simulated: "); r.status != c.status || told != c.told {
			t.Errorf("%s %s %v: %d %s", c.method, c.path, c.pairs, r.status, r.raw)
		}
	}
	if err := s.SetSwitches(Switches{IgnoreDecorative: true}); err != nil {
		t.Fatal(err)
	}
	equal(t, "decorative", s.do("POST", "/v1/customers", "shipping[name]=x", "shipping[address][city]=y", "invoice_settings[footer]=z").status, 200)
	wantError(t, s.do("POST", "/v1/customers", "tax[ip_address]=x"), 400, "", "tax[ip_address]")
	note := s.draft(cus, 5000)
	s.post("/v1/invoices/" + note + "/finalize")
	item := func(n int) string { return fmt.Sprintf("lines[%d][type]=custom_line_item", n) }
	equal(t, "decorative within", s.do("POST", "/v1/credit_notes", "invoice="+note,
		item(0), "lines[0][description]=a", "lines[0][unit_amount]=5", "lines[0][metadata][a]=b",
		item(1), "lines[1][description]=b", "lines[1][unit_amount]=5", "lines[1][metadata][c]=d").status, 200)
	wantError(t, s.do("POST", "/v1/credit_notes", "invoice="+note, item(0), "lines[0][tax_rates][0]=x"), 400, "", "lines[0][tax_rates][0]")
	wantError(t, s.do("POST", "/v1/credit_notes", "invoice="+note, item(0), "lines[0][nonsense]=x"), 400, "parameter_unknown", "lines[0][nonsense]")
	wantError(t, s.do("POST", "/v1/customers", "nonsense=x"), 400, "parameter_unknown", "nonsense")
}

// A webhook endpoint takes every version and event name of the newest specification.
func TestEndpointsTakeNewestVersions(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	for _, version := range append(slices.Clone(apiVersions), "2025-05-28.basil;flag=v1", "2026-11-18.preview") {
		if r := s.do("POST", "/v1/webhook_endpoints", "url=https://a.example", "enabled_events[]=three_d_secure.authentication.failed", "api_version="+version); r.status != 200 || r.str("api_version") != version {
			t.Errorf("%s: %d %s", version, r.status, r.raw)
		}
		if r, err := s.request("GET", "/v1/customers", http.Header{"Stripe-Version": {version}}); err != nil || r.status != 200 || r.header.Get("Stripe-Version") != version {
			t.Errorf("request of %s: %d %v", version, r.status, err)
		}
	}
}
