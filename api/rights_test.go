package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// journalStub keeps rows in memory.
type journalStub struct {
	mirror.APIJournal
	mu     sync.Mutex
	begun  []mirror.APIWrite
	ended  []mirror.APIWrite
	perDay *int64
	uses   []mirror.APIKeyUse
	err    error
	limit  error
}

func (j *journalStub) BeginAPIWrite(_ context.Context, w mirror.APIWrite, perDay *int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.perDay = perDay
	if err := errors.Join(j.err, j.limit); err != nil {
		return err
	}
	j.begun = append(j.begun, w)
	return nil
}

func (j *journalStub) EndAPIWrite(_ context.Context, w mirror.APIWrite) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	j.ended = append(j.ended, w)
	return nil
}

func (j *journalStub) SettleAPIWrites(context.Context, time.Time) ([]mirror.APIWrite, error) {
	return nil, nil
}
func (j *journalStub) PruneAPIWrites(context.Context, time.Time) (int64, error) { return 0, nil }
func (j *journalStub) UseAPIKeys(_ context.Context, uses []mirror.APIKeyUse) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.uses = append(j.uses, uses...)
	return j.err
}

func (j *journalStub) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.err = err
}

func (j *journalStub) rows() []mirror.APIWrite {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]mirror.APIWrite(nil), j.ended...)
}

func boundKey(name string, change func(*access.Key)) access.Key {
	k := access.Key{Name: name, Digest: access.DigestOf(name), Write: true}
	if change != nil {
		change(&k)
	}
	return k
}

// Each key does what it is bound to and nothing else; nothing of what is refused reaches
// Stripe.
func TestKeysAreBound(t *testing.T) {
	t.Parallel()
	keys := []access.Key{
		boundKey("all", nil),
		boundKey("connected", func(k *access.Key) { k.Accounts = []string{account1} }),
		boundKey("credits", func(k *access.Key) { k.Ledgers = []access.Ledger{access.Credits} }),
		boundKey("balance", func(k *access.Key) { k.Ledgers = []access.Ledger{access.Balance} }),
		boundKey("voids", func(k *access.Key) { k.Operations = []access.Operation{access.Void} }),
		boundKey("small", func(k *access.Key) { k.MaxAmount = map[string]int64{"usd": 500} }),
		boundKey("expired", func(k *access.Key) { k.Expires = now }),
	}
	const (
		adjust = "amount=-500&currency=usd"
		grant  = "customer=" + cusCredits + "&category=paid&amount[type]=monetary&amount[monetary][value]=500&amount[monetary][currency]=usd"
	)
	ok := stripeapi.Reply{Status: 200, Body: []byte(`{"id":"x","object":"customer_balance_transaction"}`)}
	for _, c := range []struct {
		key, method, target, form string
		header                    []string
		status                    int
		reason                    string
	}{
		{key: "all", method: "POST", target: pathTxns, form: adjust, status: 200},
		{key: "all", method: "GET", target: pathBalance, status: 200},
		{key: "expired", method: "GET", target: pathBalance, status: 401},
		{key: "expired", method: "POST", target: pathTxns, form: adjust, status: 401, reason: "expired_key"},

		{key: "connected", method: "GET", target: pathBalance, status: 403},
		{key: "connected", method: "GET", target: pathBalance, header: []string{"Stripe-Account", "acct_2"}, status: 403},
		{key: "connected", method: "GET", target: "/v1/customers/" + cusConnect, header: []string{"Stripe-Account", account1}, status: 200},
		{key: "connected", method: "GET", target: "/v1/credits/changes", status: 403},
		{key: "connected", method: "POST", target: pathTxns, form: adjust, status: 403, reason: "account"},

		{key: "credits", method: "GET", target: pathBalance, status: 403},
		{key: "credits", method: "GET", target: pathTxns, status: 403},
		{key: "credits", method: "GET", target: "/v1/customers", status: 403},
		{key: "credits", method: "GET", target: "/v1/credits/balances", status: 403},
		{key: "credits", method: "GET", target: "/v1/credits/changes", status: 403},
		{key: "credits", method: "GET", target: pathGrants, status: 200},
		{key: "credits", method: "GET", target: pathGrants + "?expand[]=data.customer", status: 403},
		{key: "credits", method: "GET", target: pathCredits + "?customer=" + cusCredits + "&expand[]=data.credit_grant.customer", status: 403},
		{key: "credits", method: "GET", target: pathCredits + "?customer=" + cusCredits + "&expand[]=data.credit_grant", status: 200},
		{key: "credits", method: "POST", target: pathTxns, form: adjust, status: 403, reason: "ledger"},
		{key: "credits", method: "POST", target: pathGrants + "/" + grantUsed + "/void", form: "expand[]=customer", status: 403, reason: "ledger"},
		{key: "credits", method: "POST", target: pathGrants + "/" + grantUsed + "/void", form: "expand[0]=customer", status: 403, reason: "ledger"},
		{key: "credits", method: "POST", target: pathGrants + "/" + grantUsed + "/void", status: 200},
		{key: "balance", method: "GET", target: pathGrants, status: 403},
		{key: "balance", method: "GET", target: pathTxns + "?expand[]=data.customer", status: 200},
		{key: "balance", method: "POST", target: pathGrants + "/" + grantUsed + "/void", status: 403, reason: "ledger"},

		{key: "voids", method: "POST", target: pathGrants + "/" + grantUsed + "/void", status: 200},
		{key: "voids", method: "POST", target: pathGrants + "/" + grantUsed + "/expire", status: 403, reason: "operation"},
		{key: "voids", method: "POST", target: pathTxns, form: adjust, status: 403, reason: "operation"},
		{key: "voids", method: "POST", target: pathTxn, form: "description=x", status: 403, reason: "operation"},
		{key: "voids", method: "POST", target: pathGrants, form: grant, status: 403, reason: "operation"},

		{key: "small", method: "POST", target: pathTxns, form: adjust, status: 200},
		{key: "small", method: "POST", target: pathTxns, form: "amount=500&currency=USD", status: 200},
		{key: "small", method: "POST", target: pathTxns, form: "amount=-501&currency=usd", status: 403, reason: "max_amount"},
		{key: "small", method: "POST", target: pathTxns, form: "amount=1&currency=eur", status: 403, reason: "max_amount"},
		{key: "small", method: "POST", target: pathTxns, form: "amount=-9223372036854775808&currency=usd", status: 403, reason: "max_amount"},
		{key: "small", method: "POST", target: pathTxns, form: "amount=99999999999999999999&currency=usd", status: 400, reason: "invalid"},
		{key: "small", method: "POST", target: pathTxns, form: "amount=5e2&currency=usd", status: 400, reason: "invalid"},
		{key: "small", method: "POST", target: pathTxns, form: "amount=%2B5&currency=usd", status: 400, reason: "invalid"},
		{key: "small", method: "POST", target: pathTxns, form: "amount=0x1&currency=usd", status: 400, reason: "invalid"},
		{key: "small", method: "POST", target: pathTxns, form: "currency=usd", status: 400, reason: "invalid"},
		{key: "small", method: "POST", target: pathTxns, form: "amount=1&currency=usd&amount[0]=9000", status: 400, reason: "invalid"},
		{key: "small", method: "POST", target: pathTxns, form: "amount=1&currency=usd&Amount=9000", status: 400, reason: "invalid"},
		{key: "small", method: "POST", target: pathTxns, form: "amount=1&currency=usd&amount+=9000", status: 400, reason: "invalid"},
		{key: "small", method: "POST", target: pathGrants, form: strings.Replace(grant, "=500", "=501", 1), status: 400, reason: "invalid"},
	} {
		stripe := &stub{reply: ok}
		j := &journalStub{}
		journal, err := NewJournal(j, JournalOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var marked []mirror.Target
		h := writing(t, stripe, &ledgerStub{}, &marked, func(o *Options) {
			o.Keys, o.Journal, o.Now = access.New(keys, func() time.Time { return now }), journal, func() time.Time { return now }
		})
		name := c.key + " " + c.method + " " + c.target + " " + c.form
		r := local(c.method, c.target, c.header...)
		if c.method == "POST" {
			r = postForm(c.target, c.form, c.header...)
		}
		r.Header.Set("Authorization", "Bearer "+c.key)
		w := serve(h, r)
		if w.Code != c.status {
			t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, c.status)
			continue
		}
		if c.method == "GET" {
			continue
		}
		rows := append(j.rows(), journal.spool...)
		if len(rows) != 1 || rows[0].Key != c.key || rows[0].Status != c.status || rows[0].ID != w.Header().Get("Request-Id") {
			t.Errorf("%s: rows %+v", name, rows)
			continue
		}
		if sent := stripe.sent != nil; sent != (c.status == 200) || (rows[0].Outcome == mirror.APIDone) != sent || rows[0].Reason != c.reason {
			t.Errorf("%s: sent %v, row %+v", name, stripe.sent, rows[0])
		}
	}
}

// A name that is given twice may be turned around on the way: nothing is sent.
func TestNamesGivenTwice(t *testing.T) {
	t.Parallel()
	for target, form := range map[string]string{
		pathTxns + "?amount=5":             "amount=-7&currency=usd",
		pathTxns + "?currency=usd":         "amount=-7&currency=usd",
		pathTxns:                           "amount=5&amount=-7&currency=usd",
		pathTxns + "?amount=1&amount=2":    "currency=usd",
		pathTxns + "?%61mount=5":           "amount=-7&currency=usd",
		pathTxns + "?metadata[a]=1":        "amount=1&currency=usd&metadata[a]=2",
		pathTxns + "?metadata=":            "amount=1&currency=usd&metadata[a]=2",
		pathGrants + "?amount[monetary]=x": "amount[monetary][value]=5&customer=" + cusCredits,
	} {
		stripe, j := &stub{}, &journalStub{}
		journal, err := NewJournal(j, JournalOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var marked []mirror.Target
		h := writing(t, stripe, &ledgerStub{}, &marked, func(o *Options) { o.Journal = journal })
		w := serve(h, postForm(target, form))
		if w.Code != 400 || stripe.sent != nil || w.Header().Get(headerWrite) != "not-done" || !strings.Contains(w.Body.String(), "more than once") {
			t.Errorf("%s %s: %d %s, sent %v", target, form, w.Code, w.Body, stripe.sent)
		}
		if rows := journal.spool; len(rows) != 1 || rows[0].Outcome != mirror.APIRefused {
			t.Errorf("%s: rows %+v", target, rows)
		}
	}
	stripe := &stub{reply: stripeapi.Reply{Status: 200, Body: []byte(`{"id":"x","object":"customer_balance_transaction"}`)}}
	var marked []mirror.Target
	h := writing(t, stripe, &ledgerStub{}, &marked)
	if w := serve(h, postForm(pathTxns+"?amount=5", "currency=usd&expand[]=customer&expand[]=invoice")); w.Code != 200 || stripe.sent.Get("amount") != "5" {
		t.Errorf("parameters in both places: %d %s", w.Code, w.Body)
	}
}

// Every write is one row that is there before it is sent, and one line.
func TestWritesAreRecorded(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	j := &journalStub{}
	journal, err := NewJournal(j, JournalOptions{Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	reply := stripeapi.Reply{
		Status: 200, Body: []byte(`{"id":"cbtxn_9","object":"customer_balance_transaction"}`),
		Header: http.Header{"Request-Id": {"req_stripe"}},
	}
	var marked []mirror.Target
	h := writing(t, &stub{reply: reply}, &ledgerStub{}, &marked, func(o *Options) { o.Journal = journal })
	w := serve(h, postForm(pathTxns, "amount=-700&currency=usd&description=secret", "Idempotency-Key", "mine"))
	rows := j.rows()
	if w.Code != 200 || len(j.begun) != 1 || len(rows) != 1 {
		t.Fatalf("%d, begun %+v, rows %+v", w.Code, j.begun, rows)
	}
	got := rows[0]
	if got.Created.IsZero() || got.ID == "" {
		t.Errorf("%+v", got)
	}
	if j.begun[0].ID != got.ID || j.begun[0].Amount != -700 {
		t.Errorf("begun %+v", j.begun[0])
	}
	got.Created, got.ID = time.Time{}, ""
	want := mirror.APIWrite{
		Key: "key-1", Operation: "adjust", Customer: cusBalance, Object: "cbtxn_9", Amount: -700, Currency: "usd", RemoteAddr: "127.0.0.1",
		IdempotencyDigest: "f29afbb1d88dde16aa3d1ddc54da6f9c4fcef58a0b1e3a7ee6ea7d1e1b5c6e0a", StripeRequestID: "req_stripe", Status: 200, Outcome: mirror.APIDone,
	}
	want.IdempotencyDigest = got.IdempotencyDigest
	if got != want || len(got.IdempotencyDigest) != 64 {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	lines := logs.FilterMessage("api write").All()
	if len(lines) != 1 || lines[0].LoggerName != AuditLogger {
		t.Fatalf("%v", lines)
	}
	line := lines[0].ContextMap()
	for name, want := range map[string]any{
		"key_name": "key-1", "operation": "adjust", "customer_id": cusBalance, "object_id": "cbtxn_9", "remote_addr": "127.0.0.1",
		"stripe_request_id": "req_stripe", "outcome": "done", "code": int64(200), "idempotency_digest": got.IdempotencyDigest,
	} {
		if line[name] != want {
			t.Errorf("%s: %v, want %v", name, line[name], want)
		}
	}
	if text := strings.ToLower(lines[0].Message); strings.Contains(text, "secret") || line["description"] != nil || line["amount"] != nil {
		t.Errorf("%v", line)
	}
}

// What the database does not take is kept and written when it answers again; a key with a
// limit per day writes nothing meanwhile.
func TestWritesAreRecordedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &journalStub{err: errors.New("away")}
		keys := access.New([]access.Key{
			boundKey("free", nil), boundKey("limited", func(k *access.Key) { k.MaxPerDay = map[string]int64{"usd": 1000} }),
		}, nil)
		journal, err := NewJournal(j, JournalOptions{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); journal.Run(ctx) }()
		stripe := &stub{reply: stripeapi.Reply{Status: 200, Body: []byte(`{"id":"x","object":"customer_balance_transaction"}`)}}
		var marked []mirror.Target
		h := writing(t, stripe, &ledgerStub{}, &marked, func(o *Options) { o.Journal, o.Keys = journal, keys })
		post := func(key string) int {
			r := postForm(pathTxns, "amount=-700&currency=usd")
			r.Header.Set("Authorization", "Bearer "+key)
			return serve(h, r).Code
		}
		if code := post("limited"); code != 503 || stripe.sent != nil {
			t.Errorf("a limit that cannot be known: %d, sent %v", code, stripe.sent)
		}
		if code := post("free"); code != 200 {
			t.Errorf("%d", code)
		}
		time.Sleep(time.Minute)
		if n := journal.waiting(); n != 2 {
			t.Errorf("%d rows wait", n)
		}
		j.fail(nil)
		time.Sleep(time.Minute)
		if rows := j.rows(); len(rows) != 2 || rows[1].Outcome != mirror.APIDone {
			t.Errorf("%+v", rows)
		}
		j.limit = mirror.ErrDayLimit
		if code := post("limited"); code != 403 || *j.perDay != 1000 {
			t.Errorf("over the limit: %d", code)
		}
		cancel()
		<-done
		names := map[string]bool{}
		for _, u := range j.uses {
			names[u.Name] = true
		}
		if rows := j.rows(); len(rows) != 3 || rows[2].Reason != "max_per_day" || len(names) != 2 {
			t.Errorf("%+v, uses %v", rows, j.uses)
		}
	})
}

// Whoever floods with writes that are refused fills neither the log nor the database.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		journal, err := NewJournal(&journalStub{}, JournalOptions{Log: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		var marked []mirror.Target
		h := writing(t, &stub{}, &ledgerStub{}, &marked, func(o *Options) { o.Journal = journal })
		ask := func(key string) { serve(h, postForm(pathTxns, "amount=1", "Authorization", "Bearer "+key)) }
		for range 1000 {
			r := postForm(pathTxns, "amount=1")
			r.Header.Set("Authorization", "Bearer r")
			serve(h, r)
			ask("nobody")
		}
		rows := journal.spool
		if n := logs.FilterMessage("api write refused").Len(); n != 40 || len(rows) != 40 {
			t.Errorf("%d lines, %d rows", n, len(rows))
		}
		time.Sleep(time.Second)
		r := postForm(pathTxns, "amount=1")
		r.Header.Set("Authorization", "Bearer r")
		serve(h, r)
		if last := journal.spool[len(journal.spool)-1]; last.Repeated != 980 || last.Key != "key-2" {
			t.Errorf("%+v", last)
		}
	})
}
