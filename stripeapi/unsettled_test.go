package stripeapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Whether a write may have happened is known exactly: only what was never sent,
// and what Stripe itself refused, has not.
func TestUnsettledWrites(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	for _, c := range []struct {
		name      string
		answer    func(http.ResponseWriter, *http.Request)
		base      string
		limit     error
		unsettled bool
	}{
		{"nobody listens", nil, "http://" + free.Addr().String(), nil, false},
		{"no budget", nil, "http://" + free.Addr().String(), errors.New("none left"), false},
		{"hung up after the request", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "", nil, true},
		{"no answer in time", func(http.ResponseWriter, *http.Request) { time.Sleep(500 * time.Millisecond) }, "", nil, true},
		{"500", reply(500, errorBody("")), "", nil, true},
		{"502 of a proxy", reply(502, "<html>"), "", nil, true},
		{"half a reply", reply(200, `{"id":`), "", nil, true},
		{"400", reply(400, errorBody("parameter_missing")), "", nil, false},
		{"404 of a proxy", reply(404, "<html>"), "", nil, true},
		{"429", reply(429, errorBody("rate_limit")), "", nil, false},
		{"401", reply(401, errorBody("")), "", nil, false},
		{"409 for a key in use", reply(409, errorBody("idempotency_key_in_use")), "", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := Options{Key: testKey, Base: c.base, Timeout: 300 * time.Millisecond, Retries: -1}
			if c.answer != nil {
				srv := httptest.NewServer(http.HandlerFunc(c.answer))
				t.Cleanup(srv.Close)
				o.Base = srv.URL
			}
			if c.limit != nil {
				o.Limiter = noBudget{c.limit}
			}
			client, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = client.CreateBalanceTransaction(t.Context(), "", cusBalance, url.Values{"amount": {"1"}}, "k")
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Unsettled != c.unsettled {
				t.Fatalf("%+v, want unsettled %v", e, c.unsettled)
			}
			if _, err := client.Customer(t.Context(), "", cusBalance); err != nil {
				if e, ok := errors.AsType[*Error](err); !ok || e.Unsettled {
					t.Errorf("a read: %+v", e)
				}
			}
		})
	}
}

func reply(status int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

type noBudget struct{ err error }

func (n noBudget) Acquire(context.Context, string, string, string) error { return n.err }
func (noBudget) Throttled(context.Context, string, string)               {}

// What the caller of a write had expanded is kept as ids.
func TestExpandedReferencesAreKeptAsIDs(t *testing.T) {
	t.Parallel()
	plain := string(fixture(t, "objects/customer_balance_transaction.adjustment.json"))
	with := func(invoice string) string {
		return strings.Replace(plain, `"invoice": null`, `"invoice": `+invoice, 1)
	}
	if with("1") == plain {
		t.Fatal("the fixture has no invoice to replace")
	}
	client, _ := scripted(t, Options{}, step{status: 200, body: with(`{"id":"in_1","object":"invoice","lines":{"data":[]}}`)})
	row, _, err := client.CreateBalanceTransaction(t.Context(), "", cusBalance, nil, "k")
	want, _ := compactJSON([]byte(with(`"in_1"`)))
	if err != nil || row.Invoice != "in_1" || string(row.Raw) != string(want) {
		t.Errorf("%v %s", err, row.Raw)
	}
}
