package stripeapi

import (
	"bytes"
	"context"
	"errors"
	"go/build"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
)

// requireEnv turns a missing stripe-mock from a skipped test into a failed one.
const requireEnv = "CREDITMIRROR_REQUIRE_SERVICES"

// startStripeMock runs Stripe's own stand-in, which checks the shape of requests
// against the OpenAPI description of its version.
func startStripeMock(t *testing.T) (base string) {
	t.Helper()
	bin := findStripeMock()
	if bin == "" {
		const how = "stripe-mock not found: go install github.com/stripe/stripe-mock@v0.203.0"
		if os.Getenv(requireEnv) == "1" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	for range 5 { // a free port can be taken before stripe-mock has it
		plain, secure := freeAddr(t), freeAddr(t)
		var out bytes.Buffer
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, bin, "-http-addr", plain, "-https-addr", secure, "-strict-version-check")
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			cancel()
			t.Fatal(err)
		}
		exited := make(chan struct{})
		go func() { defer close(exited); _ = cmd.Wait() }()
		if !listens(t, plain, exited) {
			cancel()
			<-exited
			t.Logf("stripe-mock did not start: %s", out.String())
			continue
		}
		t.Cleanup(func() { cancel(); <-exited })
		return "http://" + plain
	}
	t.Fatal("stripe-mock did not start")
	return ""
}

func findStripeMock() string {
	if p, err := exec.LookPath("stripe-mock"); err == nil {
		return p
	}
	dirs := append(filepath.SplitList(build.Default.GOPATH), os.Getenv("GOBIN"))
	for i, d := range dirs {
		if i < len(dirs)-1 {
			d = filepath.Join(d, "bin")
		}
		if p, err := exec.LookPath(filepath.Join(d, "stripe-mock")); err == nil && d != "" {
			return p
		}
	}
	return ""
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func listens(t *testing.T, addr string, exited <-chan struct{}) bool {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience.Of(time.Minute))
	for {
		select {
		case <-exited:
			return false
		case <-end:
			return false
		case <-tick.C:
			if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
				_ = c.Close()
				return true
			}
		}
	}
}

// mockVersion is the one version that stripe-mock v0.203.0 knows.
const mockVersion = "2026-08-26.dahlia"

// Every request that the client can send must be one that Stripe's description
// of its API allows. What stripe-mock replies is fixed and partly nonsense
// (credit and debit in one row, customers nobody asked for), so a garbled reply
// is fine here, and only a refusal is not.
func TestStripeMockAcceptsEveryRequest(t *testing.T) {
	t.Parallel()
	base := startStripeMock(t)
	c := newTestClient(t, Options{Key: "sk_test_123", Version: mockVersion, Timeout: 30 * time.Second}, base)
	ctx := t.Context()
	covered := map[string]bool{}
	check := func(endpoint string, err error) {
		t.Helper()
		covered[endpoint] = true
		if err == nil {
			return
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Kind != KindGarbled || e.Status != http.StatusOK || e.Endpoint != endpoint {
			t.Errorf("%s was refused: %v", endpoint, err)
			return
		}
		t.Logf("accepted, with a reply that is not ours: %v", err)
	}
	off, text := true, "d"
	amount := url.Values{"amount": {"-500"}, "currency": {"usd"}, "description": {"d"}, "metadata[k]": {"v"}, "expand[]": {"customer"}}
	grant := url.Values{
		"customer": {"cus_1"}, "category": {"paid"}, "amount[type]": {"monetary"}, "amount[monetary][currency]": {"usd"},
		"amount[monetary][value]": {"1000"}, "applicability_config[scope][price_type]": {"metered"}, "expires_at": {"1900000000"}, "priority": {"1"},
	}

	_, err := c.Customer(ctx, "", "cus_1")
	check(EndpointCustomersRetrieve, err)
	_, err = c.CustomersPage(ctx, "", CustomersQuery{After: "cus_1", Limit: 3, TestClock: "clock_1"})
	check(EndpointCustomersList, err)
	_, err = c.BalancePage(ctx, "", "cus_1", "cbtxn_1", 3)
	check(EndpointBalanceTransactionsList, err)
	_, err = c.BalanceTransaction(ctx, "", "cus_1", "cbtxn_1")
	check(EndpointBalanceTransactionsGet, err)
	_, _, err = c.CreateBalanceTransaction(ctx, "", "cus_1", amount, "")
	check(EndpointBalanceTransactionsCreate, err)
	_, _, err = c.UpdateBalanceTransaction(ctx, "", "cus_1", "cbtxn_1", url.Values{"description": {"x"}, "metadata[k]": {""}}, "k1")
	check(EndpointBalanceTransactionsUpdate, err)
	_, err = c.GrantsPage(ctx, "", "cus_1", "credgr_1", 3)
	check(EndpointGrantsList, err)
	_, err = c.GrantsPage(ctx, "", "", "", 0)
	check(EndpointGrantsList, err)
	_, err = c.Grant(ctx, "", "credgr_1")
	check(EndpointGrantsRetrieve, err)
	_, _, err = c.CreateGrant(ctx, "", grant, "")
	check(EndpointGrantsCreate, err)
	_, _, err = c.UpdateGrant(ctx, "", "credgr_1", url.Values{"expires_at": {""}, "metadata[k]": {"v"}}, "")
	check(EndpointGrantsUpdate, err)
	_, _, err = c.ExpireGrant(ctx, "", "credgr_1", nil, "")
	check(EndpointGrantsExpire, err)
	_, _, err = c.VoidGrant(ctx, "", "credgr_1", nil, "")
	check(EndpointGrantsVoid, err)
	_, err = c.CreditPage(ctx, "", "cus_1", "cbtxn_1", 3)
	check(EndpointCreditTransactionsList, err)
	_, err = c.CreditSummary(ctx, "", "cus_1", SummaryFilter{})
	check(EndpointCreditSummary, err)
	_, err = c.CreditSummary(ctx, "", "cus_1", SummaryFilter{Grant: "credgr_1"})
	check(EndpointCreditSummary, err)
	_, err = c.EventsPage(ctx, "", EventsQuery{
		Types: mirror.EventTypes(), After: "evt_1", CreatedGTE: time.Unix(1700000000, 0), CreatedLT: time.Unix(1700000060, 0), Limit: 3,
	})
	check(EndpointEventsList, err)
	_, err = c.EventsPage(ctx, "acct_1", EventsQuery{Before: "evt_1"})
	check(EndpointEventsList, err)
	_, _, err = c.TestClocks(ctx, "", "clock_1", 3)
	check(EndpointTestClocksList, err)
	_, err = c.TestClock(ctx, "", "clock_1")
	check(EndpointTestClocksRetrieve, err)
	_, err = c.WebhookEndpoints(ctx, "", "we_1", 3)
	check(EndpointWebhookEndpointsList, err)
	_, _, err = c.CreateWebhookEndpoint(ctx, "", NewWebhookEndpoint{
		URL: "https://example.com/x", EnabledEvents: mirror.EventTypes(), APIVersion: mockVersion,
		Description: "d", Connect: true, Metadata: map[string]string{"k": "v"},
	})
	check(EndpointWebhookEndpointsCreate, err)
	_, err = c.UpdateWebhookEndpoint(ctx, "", "we_1", WebhookEndpointChange{
		URL: "https://example.com/y", EnabledEvents: mirror.EventTypes(), Disabled: &off, Description: &text, Metadata: map[string]string{"k": ""},
	})
	check(EndpointWebhookEndpointsUpdate, err)
	check(EndpointWebhookEndpointsDelete, c.DeleteWebhookEndpoint(ctx, "", "we_1"))

	_, err = c.CreditOwner(ctx, "", "cbtxn_1")
	check(EndpointCreditTransactionsGet, err)
	_, _, err = c.InvoiceOwner(ctx, "", "in_1")
	check(EndpointInvoicesRetrieve, err)
	_, err = c.CreditNoteOwner(ctx, "", "cn_1")
	check(EndpointCreditNotesRetrieve, err)

	for _, e := range Endpoints() {
		if !covered[e] && !strings.HasPrefix(e, "event_destinations.") { // stripe-mock knows no v2
			t.Errorf("%s was never called", e)
		}
	}

	// The checker itself is checked: it must refuse what is wrong.
	if _, _, err = c.CreateGrant(ctx, "", url.Values{"no_such_parameter": {"1"}}, ""); !errors.Is(err, ErrRefused) {
		t.Errorf("a wrong parameter: %v", err)
	}
	old := newTestClient(t, Options{Key: "sk_test_123", Version: "2019-02-19"}, base)
	if _, err = old.Customer(ctx, "", "cus_1"); !errors.Is(err, ErrRefused) {
		t.Errorf("a wrong version: %v", err)
	}
	anonymous := newTestClient(t, Options{Key: "nonsense"}, base)
	if _, err = anonymous.Customer(ctx, "", "cus_1"); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a wrong key: %v", err)
	}
}
