package stripeapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// Every read, as it looks on the wire.
func TestReadRequests(t *testing.T) {
	t.Parallel()
	cus, cred := string(fixture(t, "objects/customer.json")), string(fixture(t, "objects/billing.credit_grant.json"))
	const empty = `{"object":"list","has_more":false,"data":[]}`
	summary := string(fixture(t, "objects/billing.credit_balance_summary.json"))
	for _, c := range []struct {
		endpoint, path, query, body string
		call                        func(ctx context.Context, c *Client) error
	}{
		{
			EndpointCustomersRetrieve, "/v1/customers/" + cusBalance, "expand[]=invoice_credit_balance", cus,
			func(ctx context.Context, c *Client) error {
				_, err := c.Customer(ctx, "acct_1", cusBalance)
				return err
			},
		},
		{
			EndpointCustomersList, "/v1/customers", "limit=50&starting_after=cus_9&expand[]=data.invoice_credit_balance&test_clock=clock_1", empty,
			func(ctx context.Context, c *Client) error {
				_, err := c.CustomersPage(ctx, "acct_1", CustomersQuery{After: "cus_9", Limit: 50, TestClock: "clock_1"})
				return err
			},
		},
		{
			EndpointBalanceTransactionsList, "/v1/customers/" + cusBalance + "/balance_transactions", "limit=100&expand[]=data.customer.invoice_credit_balance", empty,
			func(ctx context.Context, c *Client) error {
				_, err := c.BalancePage(ctx, "acct_1", cusBalance, "", 0)
				return err
			},
		},
		{
			EndpointCreditTransactionsList, "/v1/billing/credit_balance_transactions", "limit=10&starting_after=cbtxn_1&customer=" + cusCredits + "&expand[]=data.credit_grant", empty,
			func(ctx context.Context, c *Client) error {
				_, err := c.CreditPage(ctx, "acct_1", cusCredits, "cbtxn_1", 10)
				return err
			},
		},
		{
			EndpointGrantsList, "/v1/billing/credit_grants", "limit=100", empty,
			func(ctx context.Context, c *Client) error {
				_, err := c.GrantsPage(ctx, "acct_1", "", "", 100)
				return err
			},
		},
		{
			EndpointGrantsList, "/v1/billing/credit_grants", "limit=100&starting_after=credgr_1&customer=cus_1", empty,
			func(ctx context.Context, c *Client) error {
				_, err := c.GrantsPage(ctx, "acct_1", "cus_1", "credgr_1", 100)
				return err
			},
		},
		{
			EndpointGrantsRetrieve, "/v1/billing/credit_grants/credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE", "", cred,
			func(ctx context.Context, c *Client) error {
				_, err := c.Grant(ctx, "acct_1", "credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE")
				return err
			},
		},
		{
			EndpointCreditSummary, "/v1/billing/credit_balance_summary", "customer=" + cusCredits + "&filter[type]=applicability_scope&filter[applicability_scope][price_type]=metered", summary,
			func(ctx context.Context, c *Client) error {
				_, err := c.CreditSummary(ctx, "acct_1", cusCredits, SummaryFilter{})
				return err
			},
		},
		{
			EndpointCreditSummary, "/v1/billing/credit_balance_summary", "customer=" + cusCredits + "&filter[type]=credit_grant&filter[credit_grant]=credgr_1", summary,
			func(ctx context.Context, c *Client) error {
				_, err := c.CreditSummary(ctx, "acct_1", cusCredits, SummaryFilter{Grant: "credgr_1"})
				return err
			},
		},
		{
			EndpointEventsList, "/v1/events", "limit=100&ending_before=evt_1&created[gte]=1700000000&created[lt]=1700000060&types[]=customer.updated&types[]=invoice.voided", empty,
			func(ctx context.Context, c *Client) error {
				_, err := c.EventsPage(ctx, "acct_1", EventsQuery{
					Types: []string{"customer.updated", "invoice.voided"}, Before: "evt_1",
					CreatedGTE: time.Unix(1700000000, 0), CreatedLT: time.Unix(1700000060, 0),
				})
				return err
			},
		},
		{
			EndpointTestClocksList, "/v1/test_helpers/test_clocks", "limit=5&starting_after=clock_1", empty,
			func(ctx context.Context, c *Client) error {
				_, _, err := c.TestClocks(ctx, "acct_1", "clock_1", 5)
				return err
			},
		},
		{
			EndpointTestClocksRetrieve, "/v1/test_helpers/test_clocks/clock_1", "",
			`{"id":"clock_1","object":"test_helpers.test_clock","frozen_time":1700000000}`,
			func(ctx context.Context, c *Client) error {
				at, err := c.TestClock(ctx, "acct_1", "clock_1")
				if err == nil && at.Unix() != 1700000000 {
					return fmt.Errorf("the clock stands at %v", at)
				}
				return err
			},
		},
		{
			EndpointWebhookEndpointsList, "/v1/webhook_endpoints", "limit=100", empty,
			func(ctx context.Context, c *Client) error {
				_, err := c.WebhookEndpoints(ctx, "acct_1", "", 0)
				return err
			},
		},
	} {
		t.Run(c.path+"?"+c.query, func(t *testing.T) {
			t.Parallel()
			lim := &spyLimiter{}
			client, s := scripted(t, Options{Limiter: lim}, step{status: 200, body: c.body})
			if err := c.call(t.Context(), client.For(PurposeScrub)); err != nil {
				t.Fatal(err)
			}
			r := s.seen[0]
			query, err := url.QueryUnescape(r.URL.RawQuery)
			if err != nil || r.Method != "GET" || r.URL.Path != c.path || query != c.query {
				t.Errorf("%s %s?%s", r.Method, r.URL.Path, query)
			}
			for k, want := range map[string]string{
				"Authorization": "Bearer " + testKey, "Stripe-Version": DefaultVersion, "Stripe-Account": "acct_1",
				"Idempotency-Key": "", "X-Stripe-Client-User-Agent": "", "X-Stripe-Client-Telemetry": "",
			} {
				if got := r.Header.Get(k); got != want {
					t.Errorf("%s: %q, want %q", k, got, want)
				}
			}
			if want := []string{"acct_1|" + c.endpoint + "|scrub"}; !slices.Equal(lim.acquired, want) {
				t.Errorf("limiter saw %q", lim.acquired)
			}
		})
	}
}

func TestPlatformSendsNoAccount(t *testing.T) {
	t.Parallel()
	client, s := scripted(t, Options{Version: "2025-03-31.basil"}, customerBody)
	if _, err := client.Customer(t.Context(), "", cusBalance); err != nil {
		t.Fatal(err)
	}
	if _, has := s.seen[0].Header["Stripe-Account"]; has || s.seen[0].Header.Get("Stripe-Version") != "2025-03-31.basil" {
		t.Errorf("%v", s.seen[0].Header)
	}
}

// What is no id reaches neither a path nor a query.
func TestArgumentsAreChecked(t *testing.T) {
	t.Parallel()
	client, s := scripted(t, Options{}, customerBody)
	ctx := t.Context()
	for _, bad := range []string{"../../v1/charges", "cus_1/x", "cus_%2e", "cus_1?x=1", "", " ", "cus_ü", strings.Repeat("a", 300), "a\r\nb"} {
		_, err1 := client.Customer(ctx, "", bad)
		_, err2 := client.Grant(ctx, "", bad)
		_, err3 := client.BalancePage(ctx, "", bad, "", 1)
		_, _, err4 := client.UpdateBalanceTransaction(ctx, "", "cus_1", bad, nil, "")
		_, _, err5 := client.VoidGrant(ctx, "", bad, nil, "")
		_, err6 := client.CreditPage(ctx, "", bad, "", 1)
		err7 := client.DeleteWebhookEndpoint(ctx, "", bad)
		_, err8 := client.CreditSummary(ctx, "", bad, SummaryFilter{})
		for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8} {
			if !errors.Is(err, ErrRefused) {
				t.Errorf("%q, call %d: %v", bad, i+1, err)
			}
		}
		if bad != "" {
			if _, err := client.Customer(ctx, bad, cusBalance); !errors.Is(err, ErrRefused) {
				t.Errorf("account %q: %v", bad, err)
			}
			if _, err := client.BalancePage(ctx, "", cusBalance, bad, 1); !errors.Is(err, ErrRefused) {
				t.Errorf("cursor %q: %v", bad, err)
			}
		}
	}
	for _, limit := range []int{-1, 101} {
		if _, err := client.GrantsPage(ctx, "", "", "", limit); !errors.Is(err, ErrRefused) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	if _, err := client.EventsPage(ctx, "", EventsQuery{After: "evt_1", Before: "evt_2"}); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	if _, err := client.EventsPage(ctx, "", EventsQuery{Types: make([]string, 21)}); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	if _, _, err := client.CreateGrant(ctx, "", nil, "a\nb"); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	if len(s.seen) != 0 {
		t.Errorf("%d requests were made", len(s.seen))
	}
}

func TestErrorFixtures(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]error{
		"400_idempotency_mismatch": ErrRefused, "400_invalid_limit": ErrRefused, "400_missing_param": ErrRefused,
		"400_unknown_param": ErrRefused, "401_invalid_key": ErrUnauthorized, "403_account_access": ErrAccountRefused,
		"404_customer": ErrNotFound, "404_nested_customer": ErrNotFound, "409_idempotency_key_in_use": ErrUnavailable,
		"429_lock_timeout": ErrUnavailable, "429_rate_limit": ErrRateLimited, "500_api_error": ErrUnavailable,
	} {
		var f struct {
			Status  int
			Headers map[string]string
			Body    struct {
				Error struct{ Code, Param string }
			}
		}
		var raw struct{ Body json.RawMessage }
		b := fixture(t, "errors/"+name+".json")
		if err := errors.Join(json.Unmarshal(b, &f), json.Unmarshal(b, &raw)); err != nil {
			t.Fatal(err)
		}
		client, _ := scripted(t, Options{Retries: -1}, step{status: f.Status, body: string(raw.Body), header: f.Headers})
		_, reply, err := client.CreateGrant(t.Context(), "", nil, "k")
		e, ok := errors.AsType[*Error](err)
		if !ok || !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.Status != f.Status || e.Code != f.Body.Error.Code || e.Param != f.Body.Error.Param ||
			e.RequestID != f.Headers["Request-Id"] || e.Message == "" || e.Endpoint != EndpointGrantsCreate {
			t.Errorf("%s: %+v", name, e)
		}
		if strings.Contains(e.Error(), "sk_") {
			t.Errorf("%s: %v", name, e)
		}
		if reply.Status != f.Status || !json.Valid(reply.Body) || strings.Contains(string(reply.Body), "sk_test") {
			t.Errorf("%s: reply %d %s", name, reply.Status, reply.Body)
		}
	}
}

// Neither the key nor anything like one gets out, however Stripe answers.
func TestNoSecretGetsOut(t *testing.T) {
	t.Parallel()
	logs, seen := observer.New(zapcore.DebugLevel)
	leak := "bad " + testKey + " sk_live_abc rk_test_def*** whsec_ghi\nlevel=error"
	body, err := json.Marshal(map[string]any{"error": map[string]string{"type": "api_error", "code": testKey, "param": "sk_x1", "message": leak}})
	if err != nil {
		t.Fatal(err)
	}
	steps := []step{
		{status: 500, body: string(body), header: map[string]string{"Request-Id": testKey}},
		{status: 500, body: leak},
		{err: fmt.Errorf("dial: %s", leak)},
		{status: 200, body: `{"id":"` + testKey + `","object":"` + testKey + `","whsec_ghi":1}`},
	}
	for _, st := range steps {
		client, _ := scripted(t, Options{Log: zap.New(logs), Retries: 1}, st)
		_, reply, err := client.CreateGrant(t.Context(), "", nil, "")
		if err == nil {
			t.Fatal("no error")
		}
		for inner := err; inner != nil; inner = errors.Unwrap(inner) {
			checkSecret(t, inner.Error())
			checkSecret(t, fmt.Sprintf("%+v", inner))
		}
		if reply.Status >= 400 {
			checkSecret(t, string(reply.Body))
		}
	}
	for _, l := range seen.All() {
		checkSecret(t, fmt.Sprint(l.Message, l.ContextMap()))
	}
	if seen.FilterMessage("stripe call retried").Len() == 0 {
		t.Error("retries are not logged")
	}
	_, err = New(Options{Key: testKey + "\n", Base: "ftp://" + testKey + "@x"})
	checkSecret(t, err.Error())
}

func checkSecret(t *testing.T, s string) {
	t.Helper()
	for _, secret := range []string{testKey, "sk_", "rk_", "whsec_", "abc", "def", "ghi"} {
		if strings.Contains(s, secret) {
			t.Errorf("%q in %q", secret, s)
		}
	}
}

func TestRedactorKeepsTheRest(t *testing.T) {
	t.Parallel()
	r := redactor{key: testKey}
	for in, want := range map[string]string{
		"No such customer: 'cus_1'":           "No such customer: 'cus_1'",
		"risk_level and task_id":              "risk_level and task_id",
		"key 'sk_test_****abcd' is wrong":     "key '[redacted]' is wrong",
		"my_sk_live_1, whsec_2; " + testKey:   "my[redacted], [redacted]; [redacted]",
		"two\nlines\tand a \x1b[31m colour":   "two lines and a  [31m colour",
		strings.Repeat("é", 400):              strings.Repeat("é", 250),
		`{"a":"sk_live_1","b":"x sk_live_2"}`: `{"a":"[redacted]","b":"x [redacted]"}`,
	} {
		if got := r.text(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	client, _ := scripted(t, Options{Registerer: reg}, step{err: errors.New("refused")}, step{status: 502, body: "<html>"}, customerBody)
	if _, err := client.Customer(t.Context(), "", cusBalance); err != nil {
		t.Fatal(err)
	}
	second, _ := scripted(t, Options{Registerer: reg}, customerBody) // shares the registry
	if _, err := second.Customer(t.Context(), "", cusBalance); err != nil {
		t.Fatal(err)
	}
	want := `# HELP creditmirror_stripe_requests_total Requests to Stripe by endpoint and HTTP status, retries included; code network is a request without a whole reply.
# TYPE creditmirror_stripe_requests_total counter
creditmirror_stripe_requests_total{code="200",endpoint="customers.retrieve"} 2
creditmirror_stripe_requests_total{code="502",endpoint="customers.retrieve"} 1
creditmirror_stripe_requests_total{code="network",endpoint="customers.retrieve"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "creditmirror_stripe_requests_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "creditmirror_stripe_request_duration_seconds"); n != 1 || err != nil {
		t.Error(n, err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	half := prometheus.NewRegistry()
	broken := newTestServer(t, Options{Registerer: half, Retries: -1}, hijack(t, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", false))
	if _, err := broken.Customer(t.Context(), "", cusBalance); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if n := testutil.ToFloat64(broken.metrics.requests.WithLabelValues(EndpointCustomersRetrieve, codeNetwork)); n != 1 {
		t.Errorf("half a body is counted %v times as network", n)
	}
	other := prometheus.NewRegistry()
	other.MustRegister(prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "creditmirror_stripe_requests_total", Help: "x"}, []string{"endpoint", "code"}))
	if _, err := New(Options{Key: testKey, Registerer: other}); err == nil {
		t.Error("a metric of another kind was taken over")
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"no key": {}, "key of two words": {Key: "sk_test a"}, "key with newline": {Key: "sk_test\n"},
		"base without scheme": {Key: "k", Base: "api.stripe.com"}, "base of another scheme": {Key: "k", Base: "ftp://x"},
		"base with a user": {Key: "k", Base: "https://a:b@x"}, "base with a query": {Key: "k", Base: "https://x/?a=b"},
		"version": {Key: "k", Version: "latest"}, "version header": {Key: "k", Version: "2026-08-26\r\nX: y"},
		"timeout": {Key: "k", Timeout: -1}, "bound": {Key: "k", MaxReply: -1},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s passed", name)
		}
	}
	for _, v := range []string{"", DefaultVersion, "2024-06-20", "2026-08-26.preview; feature_beta=v1"} {
		if _, err := New(Options{Key: "k", Version: v}); err != nil {
			t.Error(err)
		}
	}
	tr := newTransport(time.Second)
	if tr.TLSClientConfig.MinVersion < tls.VersionTLS12 || tr.MaxIdleConnsPerHost < 64 || tr.MaxIdleConns < 64 || tr.ResponseHeaderTimeout == 0 {
		t.Errorf("%+v", tr)
	}
	if got := Endpoints(); len(got) != 29 {
		t.Errorf("%d endpoints", len(got))
	}
}

// 64 calls at a time share a client; connections are reused.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	conns := map[string]bool{}
	body := fixture(t, "objects/customer.json")
	c := newTestServer(t, Options{Timeout: time.Minute, Registerer: prometheus.NewRegistry()}, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		conns[r.RemoteAddr] = true
		mu.Unlock()
		_, _ = w.Write(body)
	})
	want, err := c.Customer(t.Context(), "", cusBalance)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 64 {
		mine := c.For(fmt.Sprintf("p%d", i%3))
		wg.Go(func() {
			for range 20 {
				got, err := mine.Customer(t.Context(), "", cusBalance)
				if d := cmp.Diff(want, got); err != nil || d != "" {
					t.Error(err, d)
					return
				}
			}
		})
	}
	wg.Wait()
	if len(conns) > 200 {
		t.Errorf("%d connections for 64 callers", len(conns))
	}
}
