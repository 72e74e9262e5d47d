package stripeapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/creditmirror/creditmirror/mirror"
)

// formBody reads what a request carried.
func formBody(t *testing.T, r *http.Request) url.Values {
	t.Helper()
	body, err := r.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	v, err := url.ParseQuery(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWriteRequests(t *testing.T) {
	t.Parallel()
	row := string(fixture(t, "objects/customer_balance_transaction.adjustment.json"))
	grant := string(fixture(t, "objects/billing.credit_grant.json"))
	const rowID, grantID = "cbtxn_1MrU9qLkdIwHu7ixhdjxGBgI", "credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE"
	type call func(ctx context.Context, c *Client, p url.Values, key string) (id string, raw []byte, reply Reply, err error)
	rowOf := func(r mirror.BalanceTransaction, reply Reply, err error) (string, []byte, Reply, error) {
		return r.ID, r.Raw, reply, err
	}
	grantOf := func(g mirror.CreditGrant, reply Reply, err error) (string, []byte, Reply, error) {
		return g.ID, g.Raw, reply, err
	}
	for _, c := range []struct {
		endpoint, path, body, id string
		call                     call
	}{
		{
			EndpointBalanceTransactionsCreate, "/v1/customers/" + cusBalance + "/balance_transactions", row, rowID,
			func(ctx context.Context, c *Client, p url.Values, k string) (string, []byte, Reply, error) {
				return rowOf(c.CreateBalanceTransaction(ctx, "acct_1", cusBalance, p, k))
			},
		},
		{
			EndpointBalanceTransactionsUpdate, "/v1/customers/" + cusBalance + "/balance_transactions/" + rowID, row, rowID,
			func(ctx context.Context, c *Client, p url.Values, k string) (string, []byte, Reply, error) {
				return rowOf(c.UpdateBalanceTransaction(ctx, "acct_1", cusBalance, rowID, p, k))
			},
		},
		{
			EndpointGrantsCreate, "/v1/billing/credit_grants", grant, grantID,
			func(ctx context.Context, c *Client, p url.Values, k string) (string, []byte, Reply, error) {
				return grantOf(c.CreateGrant(ctx, "acct_1", p, k))
			},
		},
		{
			EndpointGrantsUpdate, "/v1/billing/credit_grants/" + grantID, grant, grantID,
			func(ctx context.Context, c *Client, p url.Values, k string) (string, []byte, Reply, error) {
				return grantOf(c.UpdateGrant(ctx, "acct_1", grantID, p, k))
			},
		},
		{
			EndpointGrantsExpire, "/v1/billing/credit_grants/" + grantID + "/expire", grant, grantID,
			func(ctx context.Context, c *Client, p url.Values, k string) (string, []byte, Reply, error) {
				return grantOf(c.ExpireGrant(ctx, "acct_1", grantID, p, k))
			},
		},
		{
			EndpointGrantsVoid, "/v1/billing/credit_grants/" + grantID + "/void", grant, grantID,
			func(ctx context.Context, c *Client, p url.Values, k string) (string, []byte, Reply, error) {
				return grantOf(c.VoidGrant(ctx, "acct_1", grantID, p, k))
			},
		},
	} {
		t.Run(c.endpoint, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				params := url.Values{
					"amount": {"-500"}, "metadata[a b]": {"x&y=z"}, "expand[]": {"customer", "test_clock"}, "description": {""}, "unknown[0][x]": {"ü\n"},
				}
				broken := step{err: errors.New("connection reset")}
				client, s := scripted(t, Options{}, broken, step{status: 409, body: errorBody("idempotency_key_in_use")},
					step{status: 200, body: c.body, header: map[string]string{"Idempotent-Replayed": "true"}})
				id, raw, reply, err := c.call(t.Context(), client.For(PurposeAPI), params, "my key")
				if err != nil || id != c.id || len(raw) == 0 {
					t.Fatalf("%q %s %v", id, raw, err)
				}
				if reply.Status != 200 || string(reply.Body) != c.body || reply.Header.Get("Idempotent-Replayed") != "true" {
					t.Errorf("reply %+v", reply)
				}
				for _, r := range s.seen {
					if r.Method != "POST" || r.URL.Path != c.path || r.URL.RawQuery != "" || r.Header.Get("Idempotency-Key") != "my key" ||
						r.Header.Get("Stripe-Account") != "acct_1" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
						t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
					}
					if d := cmp.Diff(params, formBody(t, r)); d != "" {
						t.Error(d)
					}
				}

				// Without a key one is made, and kept.
				client, s = scripted(t, Options{}, broken, broken, step{status: 200, body: c.body})
				if _, _, _, err := c.call(t.Context(), client, nil, ""); err != nil {
					t.Fatal(err)
				}
				k := s.seen[0].Header.Get("Idempotency-Key")
				if len(k) < 20 || s.seen[1].Header.Get("Idempotency-Key") != k || s.seen[2].Header.Get("Idempotency-Key") != k {
					t.Errorf("keys %q", k)
				}
				client, s = scripted(t, Options{}, step{status: 200, body: c.body})
				if _, _, _, err := c.call(t.Context(), client, nil, ""); err != nil || s.seen[0].Header.Get("Idempotency-Key") == k {
					t.Errorf("two calls share a key, or %v", err)
				}

				// A reply that cannot be read is still handed on: the write has happened.
				client, s = scripted(t, Options{}, step{status: 200, body: `{"id":"x"}`})
				_, _, reply, err = c.call(t.Context(), client, nil, "")
				if !errors.Is(err, ErrGarbled) || reply.Status != 200 || string(reply.Body) != `{"id":"x"}` || len(s.seen) != 1 {
					t.Errorf("%v %+v after %d", err, reply, len(s.seen))
				}
			})
		})
	}
}

func TestWriteOfExpandedReply(t *testing.T) {
	t.Parallel()
	plain := string(fixture(t, "objects/customer_balance_transaction.adjustment.json"))
	body := strings.Replace(plain, `"`+cusBalance+`"`, string(fixture(t, "objects/customer.json")), 1)
	client, _ := scripted(t, Options{}, step{status: 200, body: body})
	row, reply, err := client.CreateBalanceTransaction(t.Context(), "", cusBalance, url.Values{"expand[]": {"customer"}}, "k")
	if err != nil || string(reply.Body) != body {
		t.Fatalf("%v %+v", err, reply)
	}
	if want, _ := compactJSON([]byte(plain)); string(row.Raw) != string(want) {
		t.Errorf("raw %s", row.Raw)
	}
}

func TestWebhookEndpoints(t *testing.T) {
	t.Parallel()
	const id = "we_1Pgc6yB7WZ01zgkWzAudq4eU"
	created := step{status: 200, body: string(fixture(t, "objects/webhook_endpoint.on_create.json"))}
	plain := step{status: 200, body: string(fixture(t, "objects/webhook_endpoint.json"))}

	client, s := scripted(t, Options{}, created)
	e, secret, err := client.CreateWebhookEndpoint(t.Context(), "", NewWebhookEndpoint{
		URL: "https://example.com/x", EnabledEvents: []string{"customer.updated", "customer.deleted"},
		APIVersion: DefaultVersion, Description: "d", Connect: true, Metadata: map[string]string{"k": "v"},
	})
	if err != nil || e.ID != id || secret != "whsec_00000000000000000000000000000000" {
		t.Fatalf("%+v %q %v", e, secret, err)
	}
	want := url.Values{
		"url": {"https://example.com/x"}, "enabled_events[]": {"customer.updated", "customer.deleted"},
		"api_version": {DefaultVersion}, "description": {"d"}, "connect": {"true"}, "metadata[k]": {"v"},
	}
	if d := cmp.Diff(want, formBody(t, s.seen[0])); d != "" {
		t.Error(d)
	}
	client, _ = scripted(t, Options{}, plain)
	if _, secret, err = client.CreateWebhookEndpoint(t.Context(), "", NewWebhookEndpoint{}); !errors.Is(err, ErrGarbled) || secret != "" {
		t.Errorf("a creation without a secret: %q %v", secret, err)
	}

	client, s = scripted(t, Options{}, plain)
	off, empty := true, ""
	if _, err = client.UpdateWebhookEndpoint(t.Context(), "", id, WebhookEndpointChange{Disabled: &off, Description: &empty}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(url.Values{"disabled": {"true"}, "description": {""}}, formBody(t, s.seen[0])); d != "" {
		t.Error(d)
	}
	if _, err = client.UpdateWebhookEndpoint(t.Context(), "", "we_other", WebhookEndpointChange{}); !errors.Is(err, ErrGarbled) {
		t.Errorf("another endpoint's update: %v", err)
	}

	client, _ = scripted(t, Options{}, step{status: 200, body: string(listOf(true, []byte(plain.body)))})
	p, err := client.WebhookEndpoints(t.Context(), "", "", 1)
	if err != nil || len(p.Rows) != 1 || !p.HasMore || len(p.Rows[0].EnabledEvents) != 6 {
		t.Errorf("%+v %v", p, err)
	}
}

func TestDeleteWebhookEndpoint(t *testing.T) {
	t.Parallel()
	gone := step{status: 404, body: errorBody("resource_missing")}
	ok := step{status: 200, body: `{"id":"we_1","object":"webhook_endpoint","deleted":true}`}
	for name, c := range map[string]struct {
		steps []step
		want  error
	}{
		"deleted":              {[]step{ok}, nil},
		"none":                 {[]step{gone}, ErrNotFound},
		"reply lost, then 404": {[]step{{err: errors.New("reset")}, gone}, nil},
		"of another":           {[]step{{status: 200, body: `{"id":"we_2","object":"webhook_endpoint","deleted":true}`}}, ErrGarbled},
		"not deleted":          {[]step{{status: 200, body: `{"id":"we_1","object":"webhook_endpoint","deleted":false}`}}, ErrGarbled},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, _ := scripted(t, Options{}, c.steps...)
			if err := client.DeleteWebhookEndpoint(t.Context(), "", "we_1"); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

func TestTestClocks(t *testing.T) {
	t.Parallel()
	clock := fixture(t, "objects/test_helpers.test_clock.json")
	client, _ := scripted(t, Options{}, step{status: 200, body: string(listOf(true, clock))}, step{status: 200, body: string(listOf(false, []byte(`{"id":"x","object":"y"}`)))})
	ids, more, err := client.TestClocks(t.Context(), "", "", 0)
	if err != nil || len(ids) != 1 || !strings.HasPrefix(ids[0], "clock_") || !more {
		t.Errorf("%q %v %v", ids, more, err)
	}
	if ids, more, err = client.TestClocks(t.Context(), "", "", 0); !errors.Is(err, ErrGarbled) || ids != nil || more {
		t.Errorf("%q %v %v", ids, more, err)
	}
}
