package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/internal/patience"
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
	panic bool
	// now is what a read of the row answers.
	now mirror.BalanceTransaction
}

func (s *stub) CreateBalanceTransaction(ctx context.Context, _, _ string, params url.Values, key string) (mirror.BalanceTransaction, stripeapi.Reply, error) {
	s.sent, s.key = params, key
	if s.panic {
		panic("secret")
	}
	if s.hang {
		<-ctx.Done()
		return s.row, s.reply, &stripeapi.Error{Kind: stripeapi.KindCanceled, Unsettled: true}
	}
	return s.row, s.reply, s.err
}

func (s *stub) UpdateBalanceTransaction(ctx context.Context, _, _, _ string, params url.Values, key string) (mirror.BalanceTransaction, stripeapi.Reply, error) {
	return s.CreateBalanceTransaction(ctx, "", "", params, key)
}

func (s *stub) BalanceTransaction(context.Context, string, string, string) (mirror.BalanceTransaction, error) {
	return s.now, nil
}

func (s *stub) VoidGrant(_ context.Context, _, _ string, params url.Values, key string) (mirror.CreditGrant, stripeapi.Reply, error) {
	s.sent, s.key = params, key
	return mirror.CreditGrant{ID: grantUsed, Customer: cusCredits}, s.reply, s.err
}

func (s *stub) CreateGrant(_ context.Context, _ string, params url.Values, key string) (mirror.CreditGrant, stripeapi.Reply, error) {
	s.sent, s.key = params, key
	return mirror.CreditGrant{}, s.reply, s.err
}

// ledger is the mirror's side.
type ledgerStub struct {
	apply  error
	hang   bool
	writes []mirror.Write
	began  int
	full   []mirror.Target
}

func (l *ledgerStub) BeginSync(ctx context.Context, _ mirror.Target) (mirror.SyncState, error) {
	if l.hang {
		<-ctx.Done()
		return mirror.SyncState{}, ctx.Err()
	}
	l.began++
	// A commit that was under way takes back the first request.
	return mirror.SyncState{Epoch: 7, Walk: mirror.Walk{Full: len(l.full) > 1}}, nil
}

func (l *ledgerStub) RequestFullRead(_ context.Context, targets []mirror.Target) error {
	l.full = append(l.full, targets...)
	return nil
}

func (l *ledgerStub) ApplyWrite(ctx context.Context, w mirror.Write) (mirror.Applied, error) {
	if l.hang {
		<-ctx.Done()
		return mirror.Applied{}, ctx.Err()
	}
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
	portal := stripeapi.Reply{Status: 200, Body: []byte(`{"object":"login","url":"https://proxy.example"}`)}
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
		{name: "not Stripe's", stripe: stub{reply: portal, err: failed(stripeapi.KindGarbled, true)}, status: 502, outcome: "unknown", says: "may have happened", marks: 1},
		{name: "panic", stripe: stub{panic: true}, status: 502, outcome: "unknown", says: "may have happened"},
		{name: "refused", stripe: stub{reply: refusal, err: failed(stripeapi.KindRefused, false)}, status: 402, outcome: "not-done"},
		{
			name: "the mirror's key is refused", stripe: stub{reply: stripeapi.Reply{Status: 401, Body: []byte(`{"error":{"type":"invalid_request_error","message":"Invalid API Key provided"}}`)}, err: failed(stripeapi.KindUnauthorized, false)},
			status: 401, outcome: "not-done", says: "not yours): Invalid API Key provided",
		},
		{
			name: "the mirror's key lacks a permission", stripe: stub{reply: stripeapi.Reply{Status: 403, Body: []byte(`{"error":{"type":"invalid_request_error","message":"m"}}`)}, err: failed(stripeapi.KindForbidden, false)},
			status: 403, outcome: "not-done", says: "its STRIPE_API_KEY, not yours",
		},
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
				Reader: world(t), Keys: keysOf([]testKey{{Secret: "w", Write: true}}...),
				Writes: &Writes{
					Stripe: &c.stripe, Store: ledger, Timeout: 300 * time.Millisecond,
					Sync: func(_ context.Context, target mirror.Target, _ []mirror.CreditGrant) error {
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
			// A repetition by the SDK would carry no key, and so be a second write.
			if again := w.Header().Get("Stripe-Should-Retry"); c.outcome == "unknown" && again != "false" || c.outcome == "not-done" && c.status == 503 && again != "true" {
				t.Errorf("Stripe-Should-Retry: %q", again)
			}
			if c.says != "" {
				if e := errorOf(t, w); !strings.Contains(e.Message, c.says) || (e.Type == "api_error") != (c.status >= 500) {
					t.Errorf("%+v", e)
				}
				if c.outcome == "unknown" && !strings.Contains(w.Body.String(), c.stripe.key) {
					t.Errorf("the key to repeat it with is not told: %s", w.Body)
				}
			}
			if c.says == "" && c.status >= 400 {
				if e := errorOf(t, w); e.Message != "m" {
					t.Errorf("%+v, want Stripe's own words: they are not about the key", e)
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

// postForm is a write; header are pairs.
func postForm(target, form string, header ...string) *http.Request {
	r := httptest.NewRequest("POST", target, strings.NewReader(form))
	r.RemoteAddr = "127.0.0.1:1"
	r.Header = http.Header{"Authorization": {"Bearer w"}, "Content-Type": {"application/x-www-form-urlencoded"}}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// writing is a handler that may write, on an ordinary world.
func writing(t *testing.T, stripe stripeWriter, ledger writeStore, marked *[]mirror.Target, more ...func(*Options)) http.Handler {
	o := Options{
		Reader: world(t), Keys: keysOf([]testKey{{Secret: "w", Write: true}, {Secret: "r"}}...),
		Writes: &Writes{
			Stripe: stripe, Store: ledger,
			Sync: func(context.Context, mirror.Target, []mirror.CreditGrant) error { return errors.New("no stripe") },
			Mark: func(_ context.Context, targets []mirror.Target) error {
				*marked = append(*marked, targets...)
				return nil
			},
		},
	}
	for _, f := range more {
		f(&o)
	}
	return New(o)
}

const pathTxn = pathTxns + "/cbtxn_1MrU9qLkdIwHu7ix000001"

// A caller with a key of its own is asked to repeat what may have happened.
func TestUnknownIsRepeatedWithTheCallersKey(t *testing.T) {
	t.Parallel()
	var marked []mirror.Target
	h := writing(t, &stub{err: &stripeapi.Error{Kind: stripeapi.KindUnavailable, Unsettled: true}}, &ledgerStub{}, &marked)
	w := serve(h, postForm(pathTxns, "amount=1", "Idempotency-Key", "mine"))
	if w.Code != 502 || w.Header().Get("Stripe-Should-Retry") != "true" || w.Header().Get("Idempotency-Key") != "mine" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	for _, word := range []string{"", "true", "false"} { // Stripe's own word stands
		five := stub{err: &stripeapi.Error{Kind: stripeapi.KindUnavailable, Unsettled: true}, reply: stripeapi.Reply{
			Status: 500, Body: []byte(`{"error":{"type":"api_error"}}`), Header: http.Header{"Stripe-Should-Retry": {word}},
		}}
		w := serve(writing(t, &five, &ledgerStub{}, &marked), postForm(pathTxns, "amount=1", "Idempotency-Key", "mine"))
		if w.Code != 500 || w.Header().Get(headerWrite) != "unknown" || w.Header().Get("Stripe-Should-Retry") != word {
			t.Errorf("%q: %d %v", word, w.Code, w.Header())
		}
		w = serve(writing(t, &five, &ledgerStub{}, &marked), postForm(pathTxns, "amount=1"))
		if w.Header().Get("Stripe-Should-Retry") != "false" {
			t.Errorf("%q, without a key: %v", word, w.Header())
		}
	}
}

// No event announces the edit of a transaction, and no sync reads below the newest
// rows: an edit that the mirror could not take up, or that may have happened, has
// the whole history read anew.
func TestEditsThatTheMirrorMissedAreReadAnew(t *testing.T) {
	t.Parallel()
	done := stripeapi.Reply{Status: 200, Body: []byte(`{"id":"cbtxn_1","object":"customer_balance_transaction"}`)}
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: cusBalance}
	for _, c := range []struct {
		name   string
		stripe stub
		ledger ledgerStub
		status int
	}{
		{"may have happened", stub{err: &stripeapi.Error{Kind: stripeapi.KindUnavailable, Unsettled: true}}, ledgerStub{}, 502},
		{"not taken up", stub{reply: done}, ledgerStub{apply: mirror.ErrLedgerRewritten}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var marked []mirror.Target
			w := serve(writing(t, &c.stripe, &c.ledger, &marked), postForm(pathTxn, "description=x"))
			if w.Code != c.status || !slices.Equal(slices.Compact(slices.Clone(c.ledger.full)), []mirror.Target{target}) || !slices.Equal(marked, []mirror.Target{target}) {
				t.Errorf("%d %s, full reads %v, marks %v", w.Code, w.Body, c.ledger.full, marked)
			}
			// Syncs that read before the edit must not answer the request.
			if n := len(c.ledger.full); n < 2 || c.ledger.began <= n {
				t.Errorf("the epoch was raised %d times for %d requests", c.ledger.began, n)
			}
		})
	}
}

// A replay is how the row was when its key was first used: it is read again.
func TestI4_ReplaysAreNotWritten(t *testing.T) {
	t.Parallel()
	stripe := stub{
		row: mirror.BalanceTransaction{ID: "cbtxn_1", Description: "old"}, now: mirror.BalanceTransaction{ID: "cbtxn_1", Description: "new"},
		reply: stripeapi.Reply{Status: 200, Body: []byte(`{"id":"cbtxn_1","object":"customer_balance_transaction"}`), Header: http.Header{"Idempotent-Replayed": {"true"}}},
	}
	ledger := ledgerStub{}
	var marked []mirror.Target
	w := serve(writing(t, &stripe, &ledger, &marked), postForm(pathTxn, "description=x", "Idempotency-Key", "k"))
	if w.Code != 200 || len(ledger.writes) != 1 || ledger.writes[0].Row.Description != "new" || ledger.writes[0].Epoch == 0 {
		t.Errorf("%d %v, wrote %+v", w.Code, w.Header(), ledger.writes)
	}
}

// Writes go on without the mirror, and a database that hangs delays them for a few
// seconds.
func TestWritesWithoutTheMirror(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, target, object string }{
		{"create", pathTxns, "customer_balance_transaction"},
		{"edit", pathTxn, "customer_balance_transaction"},
		{"void", pathGrants + "/" + grantUsed + "/void", "billing.credit_grant"},
	} {
		synctest.Test(t, func(t *testing.T) {
			stripe := stub{reply: stripeapi.Reply{Status: 200, Body: []byte(`{"id":"x","object":"` + c.object + `"}`)}}
			var marked []mirror.Target
			h := writing(t, &stripe, &ledgerStub{hang: true}, &marked, func(o *Options) {
				f := world(t)
				f.before = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
				o.Reader = f
			})
			began := time.Now()
			w := serve(h, postForm(c.target, ""))
			if w.Code != 200 || w.Header().Get(headerWrite) != "done" || len(marked) != 1 {
				t.Errorf("%s: %d %v %s, marks %v", c.name, w.Code, w.Header(), w.Body, marked)
			}
			if took := time.Since(began); took > patience.Of(15*time.Second) {
				t.Errorf("%s took %s", c.name, took)
			}
		})
	}
}

// A stop does not wait for as long as Stripe may take: the caller is answered.
func TestWritesAreAnsweredAtAStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stopping := make(chan struct{})
		var marked []mirror.Target
		h := writing(t, &stub{hang: true}, &ledgerStub{}, &marked, func(o *Options) { o.Stopping = stopping })
		go func() {
			time.Sleep(3 * time.Second)
			close(stopping)
		}()
		began := time.Now()
		w := serve(h, postForm(pathTxns, "amount=1", "Idempotency-Key", "mine"))
		if w.Code != 504 || w.Header().Get(headerWrite) != "unknown" || len(marked) != 1 {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
		if took := time.Since(began); took > patience.Of(10*time.Second) {
			t.Errorf("answered after %s", took)
		}
	})
}

// Every answer to a POST says that nothing was sent where nothing was.
func TestRefusedWritesAreNotDone(t *testing.T) {
	t.Parallel()
	var marked []mirror.Target
	h := writing(t, &stub{}, &ledgerStub{}, &marked)
	for name, c := range map[string]struct {
		r      *http.Request
		status int
	}{
		"wrong key":       {postForm(pathTxns, "amount=1", "Authorization", "Bearer x"), 401},
		"read key":        {postForm(pathTxns, "amount=1"), 403},
		"bad key":         {postForm(pathTxns, "amount=1", "Idempotency-Key", "a", "Idempotency-Key", "b"), 400},
		"unknown path":    {postForm("/v1/charges", ""), 404},
		"no id":           {postForm("/v1/customers/cus_%00/balance_transactions", ""), 404},
		"unknown account": {postForm(pathTxns, "", "Stripe-Account", "x"), 403},
	} {
		if name == "read key" {
			c.r.Header.Set("Authorization", "Bearer r")
		}
		w := serve(h, c.r)
		if w.Code != c.status || w.Header().Get(headerWrite) != "not-done" {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
	}
	if w := serve(h, local("GET", pathTxns, "Authorization", "Bearer r")); w.Header().Get(headerWrite) != "" {
		t.Errorf("a read: %v", w.Header())
	}
}

// What a caller wrote where a customer's id belongs does not get into the log.
func TestWriteLogsHoldIDsAlone(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	refusal := stripeapi.Reply{Status: 400, Body: []byte(`{"error":{"type":"invalid_request_error","message":"m"}}`)}
	var marked []mirror.Target
	h := writing(t, &stub{reply: refusal, err: &stripeapi.Error{Kind: stripeapi.KindRefused}}, &ledgerStub{}, &marked, func(o *Options) { o.Log = zap.New(core) })
	serve(h, postForm(pathGrants, "customer=secret%0Aword"))
	for _, entry := range logs.All() {
		for _, v := range entry.ContextMap() {
			if s, ok := v.(string); ok && strings.Contains(s, "secret") {
				t.Errorf("%v", entry)
			}
		}
	}
}
