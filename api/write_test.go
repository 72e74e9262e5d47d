package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// stub is Stripe's side of one write: what it answers, and what was sent.
type stub struct {
	stripeWriter
	row   mirror.BalanceTransaction
	reply stripeapi.Reply
	err   error
	sent  url.Values
	key   string
	hang  bool
}

func (s *stub) CreateBalanceTransaction(ctx context.Context, _, _ string, params url.Values, key string) (mirror.BalanceTransaction, stripeapi.Reply, error) {
	s.sent, s.key = params, key
	if s.hang {
		<-ctx.Done()
		return s.row, s.reply, &stripeapi.Error{Kind: stripeapi.KindCanceled, Unsettled: true}
	}
	return s.row, s.reply, s.err
}

// ledger is the mirror's side.
type ledgerStub struct {
	apply  error
	writes []mirror.Write
}

func (l *ledgerStub) BeginSync(context.Context, mirror.Target) (mirror.SyncState, error) {
	return mirror.SyncState{Epoch: 7}, nil
}

func (l *ledgerStub) ApplyWrite(_ context.Context, w mirror.Write) (mirror.Applied, error) {
	l.writes = append(l.writes, w)
	return mirror.Applied{}, l.apply
}

// What becomes of a write, whatever becomes of Stripe and of the mirror: the
// caller learns whether it may have happened, and the mirror is brought up to
// date or marked.
func TestWriteOutcomes(t *testing.T) {
	t.Parallel()
	ok := stripeapi.Reply{
		Status: 200, Body: []byte(`{"id":"cbtxn_1","object":"customer_balance_transaction","checkout_session":null}`),
		Header: http.Header{"Request-Id": {"req_stripe"}, "Idempotent-Replayed": {"true"}, "Connection": {"close"}, "Set-Cookie": {"x"}},
	}
	refusal := stripeapi.Reply{Status: 402, Body: []byte(`{"error":{"type":"card_error","message":"m"}}`), Header: http.Header{"Stripe-Should-Retry": {"false"}}}
	five := stripeapi.Reply{Status: 500, Body: []byte(`{"error":{"type":"api_error","message":"m"}}`)}
	failed := func(kind stripeapi.Kind, unsettled bool) error {
		return &stripeapi.Error{Kind: kind, Unsettled: unsettled}
	}
	for _, c := range []struct {
		name          string
		stripe        stub
		apply         error
		sync          []error
		status        int
		outcome, says string
		syncs, marks  int
	}{
		{name: "applied", stripe: stub{reply: ok}, status: 200, outcome: "done"},
		{name: "synced instead", stripe: stub{reply: ok}, apply: mirror.ErrDisproved, status: 200, outcome: "done", syncs: 1},
		{name: "database down", stripe: stub{reply: ok}, apply: errors.New("down"), sync: []error{errors.New("down")}, status: 200, outcome: "done", syncs: 1, marks: 1},
		{
			name: "overtaken by a worker", stripe: stub{reply: ok}, apply: mirror.ErrDisproved,
			sync: []error{mirror.ErrFenced, mirror.ErrFenced}, status: 200, outcome: "done", syncs: 3,
		},
		{name: "reply that cannot be read", stripe: stub{reply: ok, err: failed(stripeapi.KindGarbled, true)}, status: 200, outcome: "done", syncs: 1},
		{name: "refused", stripe: stub{reply: refusal, err: failed(stripeapi.KindRefused, false)}, status: 402, outcome: "not-done"},
		{name: "500", stripe: stub{reply: five, err: failed(stripeapi.KindUnavailable, true)}, status: 500, outcome: "unknown", marks: 1},
		{name: "never sent", stripe: stub{err: failed(stripeapi.KindUnavailable, false)}, status: 503, outcome: "not-done", says: "was not sent"},
		{name: "hung up", stripe: stub{err: failed(stripeapi.KindUnavailable, true)}, status: 502, outcome: "unknown", says: "may have happened", marks: 1},
		{name: "too slow", stripe: stub{hang: true}, status: 504, outcome: "unknown", says: "may have happened", marks: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ledger := &ledgerStub{apply: c.apply}
			syncs, marks := 0, 0
			h := New(Options{
				Reader: world(t), Keys: []Key{{Secret: "w", Write: true}},
				Writes: &Writes{
					Stripe: &c.stripe, Store: ledger, Timeout: 300 * time.Millisecond,
					Sync: func(_ context.Context, target mirror.Target, _ string) error {
						if target != (mirror.Target{Scope: mirror.ScopeBalance, ID: cusBalance}) {
							t.Errorf("synced %v", target)
						}
						syncs++
						if syncs <= len(c.sync) {
							return c.sync[syncs-1]
						}
						return nil
					},
					Mark: func(context.Context, []mirror.Target) error { marks++; return errors.New("redis is down") },
				},
			})
			r := httptest.NewRequest("POST", pathTxns+"?expand[]=customer", strings.NewReader("amount=-5&currency=usd&metadata[a]=b"))
			r.RemoteAddr = "127.0.0.1:1"
			r.Header = http.Header{
				"Authorization": {"Bearer w"}, "Content-Type": {"application/x-www-form-urlencoded"}, "Stripe-Version": {"2024-06-20"},
			}
			w := serve(h, r)
			if w.Code != c.status || w.Header().Get(headerWrite) != c.outcome || syncs != c.syncs || marks != c.marks {
				t.Fatalf("%d %v, %d syncs, %d marks: %s", w.Code, w.Header(), syncs, marks, w.Body)
			}
			if !strings.HasPrefix(c.stripe.key, "creditmirror-") || w.Header().Get("Idempotency-Key") != c.stripe.key {
				t.Errorf("key %q, told %q", c.stripe.key, w.Header().Get("Idempotency-Key"))
			}
			if c.stripe.sent.Encode() != "amount=-5&currency=usd&expand%5B%5D=customer&metadata%5Ba%5D=b" {
				t.Errorf("sent %s", c.stripe.sent.Encode())
			}
			if c.says != "" {
				if e := errorOf(t, w); !strings.Contains(e.Message, c.says) || e.Type != "api_error" {
					t.Errorf("%+v", e)
				}
				if c.outcome == "unknown" && !strings.Contains(w.Body.String(), c.stripe.key) {
					t.Errorf("the key to repeat it with is not told: %s", w.Body)
				}
			}
			if c.status == 200 {
				if w.Header().Get("Request-Id") != "req_stripe" || w.Header().Get("Idempotent-Replayed") != "true" || w.Header().Get("Set-Cookie") != "" {
					t.Errorf("%v", w.Header())
				}
				if strings.Contains(w.Body.String(), "checkout_session") { // did not exist in 2024-06-20
					t.Errorf("%s", w.Body)
				}
			}
		})
	}
}
