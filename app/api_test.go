package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/stripesim"
)

const (
	readKey  = "readreadreadreadreadread"
	writeKey = "writewritewritewritewrite"
)

// served is a whole process with its API, on a simulator that delivers no
// events: what the API brings into the mirror it has brought itself.
type served struct {
	t    testing.TB
	sim  *stripesim.Server
	base string // of the simulator
	api  string
	app  *App
	// before is called ahead of each request to the simulator.
	mu     sync.Mutex
	before func(endpoint string, r *http.Request)
}

type servedOptions struct {
	postgres bool
	sim      stripesim.Options
	env      []string
	roles    []config.Role // besides the API
	log      *zap.Logger
	// prepare sees the simulator before anything asks it, and tune the configuration.
	prepare func(*stripesim.Server)
	tune    func(*config.Config)
}

func migrateURL(url string) error {
	s, err := postgres.Open(context.Background(), url, postgres.Options{})
	if err != nil {
		return err
	}
	return errors.Join(s.Migrate(context.Background()), s.Close())
}

func serveAPI(t testing.TB, o servedOptions) *served {
	t.Helper()
	s := &served{t: t}
	o.sim.OnRequest = func(endpoint string, r *http.Request) {
		s.mu.Lock()
		before := s.before
		s.mu.Unlock()
		if before != nil {
			before(endpoint, r)
		}
	}
	var err error
	if s.sim, err = stripesim.New(o.sim); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.sim.Close)
	if o.prepare != nil {
		o.prepare(s.sim)
	}
	server := httptest.NewServer(s.sim.Handler())
	t.Cleanup(server.Close)
	s.base = server.URL
	database := "sqlite:" + filepath.Join(t.TempDir(), "mirror.db")
	if o.postgres {
		database = pgtest.NewCopy(t, migrateURL)
	}
	roles := append([]config.Role{config.RoleAPI}, o.roles...)
	cfg, err := config.LoadFor(append([]string{
		"STRIPE_API_KEY=sk_test_served", "STRIPE_WEBHOOK_SECRET=whsec_nobodyHasRegisteredThisOne0123", "STRIPE_API_BASE=" + server.URL, "CREDITMIRROR_DATABASE_URL=" + database,
		"CREDITMIRROR_STRIPE_RPS=10000", "CREDITMIRROR_STRIPE_ENDPOINT_RPS=10000", "STRIPE_ACCOUNTS=acct_1",
		"CREDITMIRROR_API_KEYS=read:" + readKey + ",write:" + writeKey,
		"CREDITMIRROR_API_ADDR=127.0.0.1:0", "CREDITMIRROR_OPS_ADDR=127.0.0.1:0", "CREDITMIRROR_WEBHOOK_ADDR=127.0.0.1:0",
	}, o.env...), roles)
	if err != nil {
		t.Fatal(err)
	}
	if o.tune != nil {
		o.tune(&cfg)
	}
	if s.app, err = New(t.Context(), Options{Config: cfg, Roles: roles, Registry: prometheus.NewRegistry(), Log: o.log}); err != nil {
		t.Fatal(err)
	}
	s.api = "http://" + s.app.Addrs().API
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.app.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *served) hook(f func(endpoint string, r *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

type answered struct {
	status int
	header http.Header
	body   []byte
}

func (a answered) object(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return v
}

func (a answered) id(t testing.TB) string {
	t.Helper()
	id, _ := a.object(t)["id"].(string)
	if a.status != 200 || id == "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	return id
}

// send makes a request; header are pairs.
func send(t testing.TB, method, base, path, key string, form url.Values, header ...string) answered {
	t.Helper()
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader(form.Encode())
	} else if len(form) > 0 {
		path += "?" + form.Encode()
	}
	r, err := http.NewRequestWithContext(context.Background(), method, base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answered{resp.StatusCode, resp.Header, b}
}

func (s *served) get(path string, header ...string) answered {
	s.t.Helper()
	return send(s.t, http.MethodGet, s.api, path, readKey, nil, header...)
}

func (s *served) post(path string, form url.Values, header ...string) answered {
	s.t.Helper()
	return send(s.t, http.MethodPost, s.api, path, writeKey, form, header...)
}

// stripe makes a request to the simulator itself.
func (s *served) stripe(method, path string, form url.Values, header ...string) answered {
	s.t.Helper()
	return send(s.t, method, s.base, path, "sk_test_user", form, header...)
}

func (s *served) customer(header ...string) string {
	s.t.Helper()
	return s.stripe("POST", "/v1/customers", url.Values{"metadata[k]": {"v"}}, header...).id(s.t)
}

func balanceForm(amount string) url.Values {
	return url.Values{"amount": {amount}, "currency": {"usd"}, "description": {"d"}, "metadata[order]": {"1"}}
}

func grantForm(customer, value string) url.Values {
	return url.Values{
		"customer": {customer}, "name": {"n"}, "category": {"paid"}, "amount[type]": {"monetary"},
		"amount[monetary][currency]": {"usd"}, "amount[monetary][value]": {value},
		"applicability_config[scope][price_type]": {"metered"},
	}
}

func same(t testing.TB, what string, got, want answered) {
	t.Helper()
	// Each request has an address in the dashboard of its own.
	plain := func(a answered) []byte {
		return mirror.Canonical(requestLog.ReplaceAll(a.body, []byte("dashboard/logs")))
	}
	if got.status != want.status || !bytes.Equal(plain(got), plain(want)) {
		t.Fatalf("%s: %d %s\nwant %d %s", what, got.status, got.body, want.status, want.body)
	}
}

var requestLog = regexp.MustCompile(`https://dashboard\.stripe\.com/[^"]*`)

// agree compares what the mirror serves of a customer with the simulator.
func (s *served) agree(customer string, header ...string) {
	s.t.Helper()
	for _, path := range []string{
		"/v1/customers/" + customer + "?expand[]=invoice_credit_balance",
		"/v1/customers/" + customer + "/balance_transactions?limit=100",
		"/v1/billing/credit_grants?limit=100&customer=" + customer,
		"/v1/billing/credit_balance_transactions?limit=100&expand[]=data.credit_grant&customer=" + customer,
		"/v1/billing/credit_balance_summary?filter[type]=applicability_scope&filter[applicability_scope][price_type]=metered&customer=" + customer,
	} {
		got, want := s.get(path, header...), s.stripe("GET", path, nil, header...)
		if strings.HasPrefix(path, "/v1/customers/"+customer+"?") { // the mirror keeps the credit fields alone
			mine, theirs := got.object(s.t), want.object(s.t)
			for name, value := range mine {
				if fmt.Sprint(theirs[name]) != fmt.Sprint(value) {
					s.t.Fatalf("%s: %v, want %v", name, value, theirs[name])
				}
			}
			continue
		}
		same(s.t, path, got, want)
	}
}

// onBoth runs a test on both databases.
func onBoth(t *testing.T, o servedOptions, test func(t *testing.T, s *served)) {
	t.Helper()
	for _, name := range []string{"sqlite", "postgres"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := o
			o.postgres = name == "postgres"
			test(t, serveAPI(t, o))
		})
	}
}

// ordered makes the simulator list what was made last first, as the mirror does,
// and gives what is made in different currencies different seconds: the order
// within one is not defined.
var ordered = stripesim.Options{
	Switches: stripesim.Switches{SameSecondOrder: stripesim.OrderDescending, CreditListWithoutCustomer: true},
	Now:      fastClock(),
	Accounts: []string{"acct_1"},
}

// fastClock runs a thousand times as fast, and stays in the past for three hours.
func fastClock() func() time.Time {
	began := time.Now()
	return func() time.Time { return began.Add(-120*24*time.Hour + 1000*time.Since(began)) }
}

// working are the roles that sync what was marked.
var working = []config.Role{config.RoleWorker, config.RoleWebhook}

// What was written is read at once, with no webhook and no worker (I1, I2).
func TestWriteThroughIsReadAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered}, func(t *testing.T, s *served) {
		cus := s.customer()
		path := "/v1/customers/" + cus + "/balance_transactions"
		var last string
		for i := range 5 {
			w := s.post(path, balanceForm(fmt.Sprint(-100-i)), "Idempotency-Key", fmt.Sprint("k", i))
			last = w.id(t)
			if w.header.Get("Creditmirror-Write") != "done" || w.header.Get("Idempotency-Key") != fmt.Sprint("k", i) {
				t.Fatalf("%v", w.header)
			}
			same(t, "retrieve", s.get(path+"/"+last), w)
			s.agree(cus)
		}
		again := s.post(path, balanceForm("-104"), "Idempotency-Key", "k4")
		if again.id(t) != last || again.header.Get("Idempotent-Replayed") != "true" {
			t.Fatalf("%v %s", again.header, again.body)
		}
		s.agree(cus)
		w := s.post(path+"/"+last, url.Values{"description": {"edited"}, "metadata[order]": {""}, "expand[]": {"customer"}})
		if w.status != 200 || w.object(t)["description"] != "edited" || w.header.Get("Idempotency-Key") == "" {
			t.Fatalf("%d %v %s", w.status, w.header, w.body)
		}
		s.agree(cus)
		s.post(path, url.Values{"amount": {"250"}, "currency": {"eur"}}).id(t) // the first of its currency
		s.agree(cus)

		g := s.post("/v1/billing/credit_grants", grantForm(cus, "1000"))
		grant := g.id(t)
		same(t, "grant", s.get("/v1/billing/credit_grants/"+grant), g)
		s.agree(cus)
		s.post("/v1/billing/credit_grants/"+grant, url.Values{"metadata[a]": {"b"}}).id(t)
		s.agree(cus)
		s.post("/v1/billing/credit_grants/"+grant+"/expire", nil).id(t)
		s.agree(cus)
		second := s.post("/v1/billing/credit_grants", grantForm(cus, "300")).id(t)
		s.post("/v1/billing/credit_grants/"+second+"/void", nil).id(t)
		s.agree(cus)

		connected := s.customer("Stripe-Account", "acct_1")
		s.post("/v1/customers/"+connected+"/balance_transactions", balanceForm("-7"), "Stripe-Account", "acct_1").id(t)
		s.agree(connected, "Stripe-Account", "acct_1")
		if got := s.get("/v1/customers/" + connected); got.status != 404 {
			t.Fatalf("a connected account's customer shows on the platform: %d (I20)", got.status)
		}
	})
}

// A replay shows how an object was when the key was first used. What has been
// edited since must not go back in the mirror (I4): an edit of a transaction has
// no event that would mend it.
func TestI4_WriteThroughReplays(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered}, func(t *testing.T, s *served) {
		cus := s.customer()
		path := "/v1/customers/" + cus + "/balance_transactions"
		row := path + "/" + s.post(path, balanceForm("-5"), "Idempotency-Key", "create").id(t)
		grant := "/v1/billing/credit_grants/" + s.post("/v1/billing/credit_grants", grantForm(cus, "100"), "Idempotency-Key", "grant").id(t)
		for _, c := range []struct {
			path, key string
			form      url.Values
		}{
			{path, "create", balanceForm("-5")},
			{row, "edit", url.Values{"description": {"first"}}},
			{"/v1/billing/credit_grants", "grant", grantForm(cus, "100")},
			{grant, "edit of the grant", url.Values{"metadata[a]": {"first"}}},
			{grant + "/void", "void", nil},
		} {
			first := s.post(c.path, c.form, "Idempotency-Key", c.key)
			first.id(t)
			s.post(row, url.Values{"description": {"after " + c.key}}).id(t)
			s.post(grant, url.Values{"metadata[a]": {"after " + c.key}}).id(t)
			replay := s.post(c.path, c.form, "Idempotency-Key", c.key)
			if replay.header.Get("Idempotent-Replayed") != "true" || !bytes.Equal(replay.body, first.body) {
				t.Fatalf("%s: no replay: %d %v %s", c.key, replay.status, replay.header, replay.body)
			}
			s.agree(cus)
		}
	})
}

// Refusals of Stripe's come back as they are.
func TestWriteThroughRefusals(t *testing.T) {
	t.Parallel()
	s := serveAPI(t, servedOptions{sim: ordered})
	cus := s.customer()
	path := "/v1/customers/" + cus + "/balance_transactions"
	txn := s.post(path, balanceForm("-5")).id(t)
	for _, c := range []struct {
		path string
		form url.Values
	}{
		{path, url.Values{"currency": {"usd"}}},
		{path, url.Values{"amount": {"x"}, "currency": {"usd"}}},
		{path, url.Values{"amount": {"0"}, "currency": {"usd"}}},
		{path, url.Values{"amount": {"5"}, "currency": {"usd"}, "foo": {"bar"}}},
		{path, url.Values{"amount": {"5"}, "currency": {"usd"}, "expand[]": {"nothing"}}},
		{"/v1/customers/cus_missing/balance_transactions", balanceForm("5")},
		{path + "/cbtxn_missing", url.Values{"description": {"x"}}},
		{"/v1/customers/cus_missing/balance_transactions/cbtxn_missing", url.Values{"description": {"x"}}},
		{path + "/" + txn, url.Values{"amount": {"7"}}},
		{"/v1/billing/credit_grants", grantForm("cus_missing", "5")},
		{"/v1/billing/credit_grants", grantForm(cus, "-5")},
		{"/v1/billing/credit_grants/credgr_missing", url.Values{"metadata[a]": {"b"}}},
		{"/v1/billing/credit_grants/credgr_missing/expire", nil},
		{"/v1/billing/credit_grants/credgr_missing/void", nil},
	} {
		got, want := s.post(c.path, c.form), s.stripe("POST", c.path, c.form)
		same(t, c.path+" "+c.form.Encode(), got, want)
		if got.header.Get("Creditmirror-Write") != "not-done" || got.status < 400 {
			t.Errorf("%s: %d %v", c.path, got.status, got.header)
		}
	}
	// Nothing is left behind of customers that do not exist.
	if n, err := s.app.Store().UnsyncedCount(t.Context(), ""); err != nil || n != 0 {
		t.Errorf("%d histories wait to be read, %v", n, err)
	}
	first := s.post(path, balanceForm("-5"), "Idempotency-Key", "once")
	other := s.post(path, balanceForm("-6"), "Idempotency-Key", "once")
	if first.status != 200 || other.status != 400 || !strings.Contains(string(other.body), `"idempotency_error"`) {
		t.Errorf("%d %s", other.status, other.body)
	}
	for name, r := range map[string]answered{
		"two keys": s.post(path, balanceForm("-5"), "Idempotency-Key", "a", "Idempotency-Key", "b"),
		"long key": s.post(path, balanceForm("-5"), "Idempotency-Key", strings.Repeat("k", 256)),
	} {
		if r.status != 400 || !strings.Contains(string(r.body), `"idempotency_error"`) {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if r := send(t, "POST", s.api, path, readKey, balanceForm("-5")); r.status != 403 {
		t.Errorf("a read key writes: %d %s", r.status, r.body)
	}
	if r := s.post(path, balanceForm("-5"), "Stripe-Account", "acct_other"); r.status != 403 || !strings.Contains(string(r.body), "account_invalid") {
		t.Errorf("an account that is not mirrored: %d %s", r.status, r.body)
	}
	s.agree(cus)
}

// Faults of Stripe's: the answer says whether the write may have happened, and
// the mirror never shows what Stripe does not have.
func TestWriteThroughFaults(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered, roles: working}, func(t *testing.T, s *served) {
		cus := s.customer()
		path := "/v1/customers/" + cus + "/balance_transactions"
		s.post(path, balanceForm("-1")).id(t)
		const create = "POST /v1/customers/{id}/balance_transactions"
		fault := func(f ...stripesim.Fault) {
			t.Helper()
			if err := s.sim.SetFaults(f); err != nil {
				t.Fatal(err)
			}
		}
		// Once each: the client's own retry makes it good, with the same key.
		for _, kind := range []stripesim.FaultKind{stripesim.FaultReset, stripesim.Fault502, stripesim.FaultRateLimit, stripesim.FaultLock, stripesim.FaultTruncated} {
			for _, after := range []bool{false, true} {
				fault(stripesim.Fault{Kind: kind, Endpoint: create, Count: 1, After: after, Probability: 1})
				if w := s.post(path, balanceForm("-2")); w.status != 200 || w.header.Get("Creditmirror-Write") != "done" {
					t.Fatalf("%s, after %v: %d %s", kind, after, w.status, w.body)
				}
				fault()
				s.agree(cus)
			}
		}
		// For good: the write may have happened, and the mirror catches up.
		for _, after := range []bool{false, true} {
			fault(stripesim.Fault{Kind: stripesim.FaultReset, Endpoint: create, After: after, Probability: 1})
			w := s.post(path, balanceForm("-3"), "Idempotency-Key", fmt.Sprint("reset", after))
			fault()
			e, _ := w.object(t)["error"].(map[string]any)
			if w.status != 502 || w.header.Get("Creditmirror-Write") != "unknown" || e["type"] != "api_error" ||
				!strings.Contains(fmt.Sprint(e["message"]), "may have happened") || !strings.Contains(fmt.Sprint(e["message"]), fmt.Sprint("reset", after)) {
				t.Fatalf("%d %v %s", w.status, w.header, w.body)
			}
			repeated := s.post(path, balanceForm("-3"), "Idempotency-Key", fmt.Sprint("reset", after))
			if repeated.status != 200 || (repeated.header.Get("Idempotent-Replayed") == "true") != after {
				t.Fatalf("after %v: %d %v", after, repeated.status, repeated.header)
			}
			s.agree(cus)
		}
		// The reply came and its sync cannot: the caller has its answer, a worker the work.
		fault(stripesim.Fault{Kind: stripesim.Fault500, Endpoint: "GET /v1/billing/credit_balance_transactions", Probability: 1})
		grant := s.post("/v1/billing/credit_grants", grantForm(cus, "100")).id(t)
		fault()
		s.eventually(func() bool { return s.get("/v1/billing/credit_grants/"+grant).status == 200 })
		s.agree(cus)
	})
}

func (s *served) eventually(ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience.Of(20 * time.Second)); !ok(); time.Sleep(20 * time.Millisecond) { // a worker has no signal for the outside
		if time.Now().After(deadline) {
			s.t.Fatal("not in time")
		}
	}
}

// Writes of many at once on one customer, with edits of one row that pass each
// other: at the end, and after each answer, the mirror is right (I2, I4).
func TestWriteThroughAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered, roles: working}, func(t *testing.T, s *served) {
		cus := s.customer()
		path := "/v1/customers/" + cus + "/balance_transactions"
		row := s.post(path, balanceForm("-1")).id(t)
		grant := s.post("/v1/billing/credit_grants", grantForm(cus, "100")).id(t)
		var wg sync.WaitGroup
		for g := range 6 {
			wg.Go(func() {
				for i := range 8 {
					w := s.post(path, balanceForm("-1"))
					if w.status != 200 {
						t.Errorf("%d %s", w.status, w.body)
						return
					}
					if got := s.get(path + "/" + fmt.Sprint(w.object(t)["id"])); got.status != 200 {
						t.Errorf("not read after it was written: %d", got.status)
					}
					s.post(path+"/"+row, url.Values{"description": {fmt.Sprint(g, i)}})
					s.post("/v1/billing/credit_grants/"+grant, url.Values{"metadata[n]": {fmt.Sprint(g, i)}})
				}
			})
		}
		wg.Wait()
		s.eventually(func() bool {
			n, err := s.app.parts.Waiting(t.Context(), []mirror.Target{{Scope: mirror.ScopeBalance, ID: cus}, {Scope: mirror.ScopeCredits, ID: cus}})
			return err == nil && n == 0
		})
		s.agree(cus)
	})
}

// An edit of a row that no sync reads any more is in the mirror when the caller is
// answered, however often something else begins on the customer meanwhile (I4).
func TestI4_EditsBelowTheNewestRows(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered}, func(t *testing.T, s *served) {
		cus := s.customer()
		path := "/v1/customers/" + cus + "/balance_transactions"
		row := path + "/" + s.post(path, balanceForm("-1")).id(t)
		for range 30 {
			s.post(path, balanceForm("-1")).id(t)
		}
		for _, passed := range []int{1, 8, 1000} {
			reads := 0
			s.hook(func(endpoint string, r *http.Request) {
				edit := r.Method == http.MethodPost && r.URL.Path == row
				if reads < passed && (edit || endpoint == "GET /v1/customers/{id}/balance_transactions/{txn}") {
					reads++
					if _, err := s.app.Store().BeginSync(t.Context(), mirror.Target{Scope: mirror.ScopeBalance, ID: cus}); err != nil {
						t.Error(err)
					}
				}
			})
			want := fmt.Sprint("passed ", passed)
			s.post(row, url.Values{"description": {want}}).id(t)
			s.hook(nil)
			if got := s.get(row).object(t)["description"]; got != want {
				t.Errorf("%q, want %q", got, want)
			}
			s.agree(cus)
		}
	})
}

// Creditmirror-Max-Age reads Stripe first when the copy is older, once for all who
// ask at the same time, and says 504 when it cannot.
func TestMaxAge(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered}, func(t *testing.T, s *served) {
		cus := s.customer()
		list := "/v1/customers/" + cus + "/balance_transactions"
		if got := s.get(list); got.status != 404 {
			t.Fatalf("never synced: %d", got.status)
		}
		s.stripe("POST", list, balanceForm("-5")).id(t)
		s.stripe("POST", "/v1/billing/credit_grants", grantForm(cus, "100")).id(t)
		before := time.Now().Truncate(time.Microsecond)
		got := s.get(list, "Creditmirror-Max-Age", "5s")
		same(t, "list", got, s.stripe("GET", list, nil))
		synced, err := time.Parse(time.RFC3339Nano, got.header.Get("Creditmirror-Synced-At"))
		if err != nil || synced.Before(before) {
			t.Fatalf("synced at %q", got.header.Get("Creditmirror-Synced-At"))
		}
		s.stripe("POST", list, balanceForm("-6")).id(t)
		if got := s.get(list, "Creditmirror-Max-Age", "1h"); !strings.Contains(string(got.body), `"ending_balance":-5`) || strings.Contains(string(got.body), `"ending_balance":-11`) {
			t.Fatalf("a copy that is young enough was synced: %s", got.body)
		}
		same(t, "list", s.get(list, "Creditmirror-Max-Age", "0"), s.stripe("GET", list, nil))
		credits := "/v1/billing/credit_balance_transactions?customer=" + cus + "&expand[]=data.credit_grant"
		same(t, "credits", s.get(credits, "Creditmirror-Max-Age", "1ms"), s.stripe("GET", credits, nil))

		var calls sync.Map
		n := 0
		s.hook(func(endpoint string, _ *http.Request) {
			if endpoint == "GET /v1/customers/{id}/balance_transactions" {
				s.mu.Lock()
				n++
				s.mu.Unlock()
				time.Sleep(100 * time.Millisecond)
			}
		})
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() { calls.Store(i, s.get(list, "Creditmirror-Max-Age", "1ms").status) })
		}
		wg.Wait()
		calls.Range(func(_, status any) bool {
			if status != 200 {
				t.Errorf("status %v", status)
			}
			return true
		})
		s.hook(nil)
		if n < 1 || n > 6 {
			t.Errorf("30 requests at once cost %d calls", n)
		}

		for _, c := range []struct {
			path, age string
			status    int
		}{
			{list, "soon", 400},
			{list, "-1s", 400},
			{list, "", 400},
			{list, "1e3", 400},
			{"/v1/customers", "5s", 400},
			{"/v1/billing/credit_grants", "5s", 400},
			{"/v1/credits/balances", "5s", 400},
			{"/v1/customers/cus_unknown", "5s", 404},
			{"/v1/billing/credit_grants/credgr_unknown", "5s", 404},
		} {
			if got := s.get(c.path, "Creditmirror-Max-Age", c.age); got.status != c.status {
				t.Errorf("%s with %q: %d %s", c.path, c.age, got.status, got.body)
			}
		}
		if err := s.sim.SetFaults(stripesim.Faults{{Kind: stripesim.Fault500, Probability: 1}}); err != nil {
			t.Fatal(err)
		}
		got = s.get(list, "Creditmirror-Max-Age", "0s")
		e, _ := got.object(t)["error"].(map[string]any)
		if got.status != 504 || e["type"] != "api_error" || e["message"] == "" {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if got := s.get(list); got.status != 200 {
			t.Fatalf("the copy that is held: %d", got.status)
		}
	})
}

// A reader never sees a list and a customer of two syncs in one reply, nor
// freshness go back (I12), while writes and syncs come all the time.
func TestI12RepliesAreWhole(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered, roles: working}, func(t *testing.T, s *served) {
		cus := s.customer()
		path := "/v1/customers/" + cus + "/balance_transactions"
		s.post(path, balanceForm("-1")).id(t)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if i%2 == 0 {
					s.post(path, balanceForm("-1"))
				} else {
					s.stripe("POST", path, balanceForm("-1"))
					s.get(path, "Creditmirror-Max-Age", "0s")
				}
			}
		})
		var last time.Time
		for range 300 {
			got := s.get(path + "?limit=1&expand[]=data.customer.invoice_credit_balance")
			var v struct {
				Data []struct {
					EndingBalance int64 `json:"ending_balance"`
					Customer      struct {
						Balance int64
						Credit  map[string]int64 `json:"invoice_credit_balance"`
					}
				}
			}
			if err := json.Unmarshal(got.body, &v); err != nil || len(v.Data) != 1 {
				t.Fatalf("%d %s", got.status, got.body)
			}
			row := v.Data[0]
			if row.EndingBalance != row.Customer.Balance || row.Customer.Credit["usd"] != -row.EndingBalance {
				t.Fatalf("torn: %s", got.body)
			}
			at, err := time.Parse(time.RFC3339Nano, got.header.Get("Creditmirror-Synced-At"))
			if err != nil || at.Before(last) {
				t.Fatalf("synced at %v after %v (%v)", at, last, err)
			}
			last = at
		}
		close(stop)
		wg.Wait()
	})
}

// Where every account is taken, one that nobody has seen is none: not an empty list,
// and no call to Stripe, whose refusal would look like one of the key. A write goes
// to Stripe, and what it takes can be read at once (I20).
func TestAnyAccount(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered, env: []string{"STRIPE_ACCOUNTS=*"}}, func(t *testing.T, s *served) {
		const seen, unseen = "acct_1", "acct_nobody"
		cus := s.customer("Stripe-Account", seen)
		path := "/v1/customers/" + cus + "/balance_transactions"
		calls := 0
		s.hook(func(string, *http.Request) { calls++ })
		for _, account := range []string{seen, unseen} {
			for _, p := range []string{"/v1/customers", path, "/v1/credits/balances"} {
				got := s.get(p, "Stripe-Account", account)
				if got.status != 403 || !strings.Contains(string(got.body), "account_invalid") {
					t.Errorf("%s of %s: %d %s", p, account, got.status, got.body)
				}
			}
			if got := s.get(path, "Stripe-Account", account, "Creditmirror-Max-Age", "0s"); got.status != 403 {
				t.Errorf("%d %s", got.status, got.body)
			}
		}
		s.hook(nil)
		if calls != 0 {
			t.Errorf("%d calls to Stripe", calls)
		}
		if got := s.post(path, balanceForm("-5"), "Stripe-Account", unseen); got.status != 403 || got.header.Get("Creditmirror-Write") != "not-done" {
			t.Errorf("%d %v %s", got.status, got.header, got.body)
		}
		s.post(path, balanceForm("-5"), "Stripe-Account", seen).id(t)
		s.agree(cus, "Stripe-Account", seen)
		if got := s.get("/v1/customers", "Stripe-Account", unseen); got.status != 403 {
			t.Errorf("after a write that Stripe refused: %d %s", got.status, got.body)
		}
	})
}

// The limit of a key in the configuration is the API's.
func TestKeyLimitOfTheConfiguration(t *testing.T) {
	t.Parallel()
	s := serveAPI(t, servedOptions{sim: ordered, env: []string{"CREDITMIRROR_API_KEYS=read@0.01:" + readKey + ",write:" + writeKey}})
	for want := 200; want <= 429; want += 229 {
		if got := s.get("/v1/customers"); got.status != want {
			t.Errorf("%d %s, want %d", got.status, got.body, want)
		}
	}
	if got := send(t, "GET", s.api, "/v1/customers", writeKey, nil); got.status != 200 {
		t.Errorf("the other key: %d", got.status)
	}
}
