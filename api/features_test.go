package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

func TestCustomersAreListed(t *testing.T) {
	t.Parallel()
	h := handlerOf(world(t))
	page := decode[struct {
		URL     string
		HasMore bool `json:"has_more"`
		Data    []struct {
			ID     string
			Credit map[string]int64 `json:"invoice_credit_balance"`
		}
	}](t, serve(h, local("GET", "/v1/customers?expand[0]=data.invoice_credit_balance&limit=5")).Body.Bytes())
	// Neither the deleted one nor the one on a test clock.
	if page.URL != "/v1/customers" || page.HasMore || len(page.Data) != 1 || page.Data[0].ID != cusBalance || page.Data[0].Credit["usd"] != 2000 {
		t.Fatalf("%+v", page)
	}
	w := serve(h, local("GET", "/v1/customers?test_clock=clock_1"))
	if w.Code != 200 || !strings.Contains(w.Body.String(), cusCredits) || w.Header().Get("Creditmirror-Synced-At") == "" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	h = New(Options{Reader: world(t), Emails: true})
	for email, status := range map[string]int{
		"a@example.com": 200, "%27%20OR%201=1": 200, "%F0%9F%98%80": 200, strings.Repeat("a", 512): 200,
		strings.Repeat("a", 513): 400, "a%00b": 400, "a%FFb": 400, // what no database holds
	} {
		w := serve(h, local("GET", "/v1/customers?email="+email))
		if w.Code != status || status == 400 && errorOf(t, w).Param != "email" {
			t.Errorf("%.20s: %d %s", email, w.Code, w.Body)
		}
	}
}

func TestCreatedFilter(t *testing.T) {
	t.Parallel()
	unix := func(n int64) time.Time { return time.Unix(n, 0).UTC() }
	for raw, want := range map[string]mirror.Span{
		"":                                  {},
		"created=5":                         {From: unix(5), To: unix(5)},
		"created[gt]=5":                     {From: unix(6), To: unix(maxUnix)},
		"created[gte]=5&created[lt]=9":      {From: unix(5), To: unix(8)},
		"created[gt]=5&created[gte]=2":      {From: unix(6), To: unix(maxUnix)},
		"created[lte]=7":                    {From: unix(0), To: unix(7)},
		"created[lt]=-5":                    {From: unix(-1), To: unix(-1)},
		"created[gt]=9223372036854775807":   {From: unix(-1), To: unix(-1)},
		"created[gte]=-9223372036854775808": {},
		"created[gte]=99999999999999999999": {From: unix(-1), To: unix(-1)},
		"created[gte]=9&created[lte]=5":     {From: unix(-1), To: unix(-1)},
	} {
		q, err := parseQuery(raw, paramsCreated, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := q.created(); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", raw, got, err, want)
		}
	}
}

func TestOlderVersions(t *testing.T) {
	t.Parallel()
	f := world(t)
	for i := range f.customers {
		f.customers[i].CustomerAccount = "acct_v2"
	}
	h := New(Options{Reader: f, Version: "2026-08-26.dahlia", Now: func() time.Time { return now }})
	has := func(version, target string) map[string]bool {
		t.Helper()
		r := local("GET", target)
		if version != "" {
			r.Header.Set("Stripe-Version", version)
		}
		w := serve(h, r)
		echoed := version
		if version == "" {
			echoed = "2026-08-26.dahlia"
		}
		if w.Code != 200 || w.Header().Get("Stripe-Version") != echoed {
			t.Fatalf("%s: %d %v %s", target, w.Code, w.Header(), w.Body)
		}
		out := map[string]bool{}
		for _, field := range []string{"checkout_session", "customer_account", "priority", "prices", "credits_application_invoice_voided", "description"} {
			out[field] = strings.Contains(w.Body.String(), `"`+field+`":`)
		}
		return out
	}
	txns, customer := pathTxns+"?limit=100&expand[]=data.customer", pathBalance
	for _, c := range []struct {
		version, target, field string
		want                   bool
	}{
		{"", txns, "checkout_session", true},
		{"2024-06-20", txns, "checkout_session", false},
		{"2024-06-20", txns, "description", true},
		{"2025-02-24.acacia", txns, "checkout_session", false},
		{"2025-03-31.basil", txns, "checkout_session", true},
		{"2025-03-31.basil", txns, "customer_account", false},
		{"2025-12-15.clover", txns, "customer_account", true},
		{"2026-08-26.dahlia", txns, "customer_account", true},
		{"2024-06-20", customer, "customer_account", false},
		{"", customer, "customer_account", true},
		{"2024-09-30.acacia", pathGrants, "priority", false},
		{"2024-09-30.acacia", pathGrants, "prices", false},
		{"2025-02-24.acacia", pathGrants, "priority", true},
		{"2025-02-24.acacia", pathGrants, "prices", true},
		{"2024-09-30.acacia", pathCredits + "?customer=" + cusCredits, "credits_application_invoice_voided", false},
		{"2024-12-18.acacia", pathCredits + "?customer=" + cusCredits, "credits_application_invoice_voided", true},
		{"2024-09-30.acacia", pathSummary + "?customer=" + cusCredits + metered, "customer_account", false},
	} {
		if got := has(c.version, c.target)[c.field]; got != c.want {
			t.Errorf("%s of %s as %q: %v, want %v", c.field, c.target, c.version, got, c.want)
		}
	}
	// What users name themselves stays.
	kept := `{"object":"customer","metadata":{"object":"customer","customer_account":"mine"},"customer_account":"x","n":9007199254740993}`
	if got := string(reshape([]byte(kept), "2024-06-20")); !strings.Contains(got, `"customer_account":"mine"`) || strings.Contains(got, `"x"`) || !strings.Contains(got, "9007199254740993") {
		t.Error(got)
	}
}

func TestETag(t *testing.T) {
	t.Parallel()
	f := world(t)
	h := handlerOf(f)
	first := serve(h, local("GET", pathTxns))
	tag := first.Header().Get("ETag")
	if !strings.HasPrefix(tag, `W/"`) || first.Header().Get("Cache-Control") != "private, no-cache" || !strings.Contains(first.Header().Get("Vary"), "Authorization") {
		t.Fatalf("%v", first.Header())
	}
	for _, match := range []string{tag, strings.TrimPrefix(tag, "W/"), `"x", ` + tag, "*"} {
		w := serve(h, local("GET", pathTxns, "If-None-Match", match))
		if w.Code != 304 || w.Body.Len() != 0 || w.Header().Get("ETag") != tag || w.Header().Get("Creditmirror-Synced-At") == "" || w.Header().Get("Request-Id") == "" {
			t.Errorf("%s: %d %v %s", match, w.Code, w.Header(), w.Body)
		}
	}
	for _, match := range []string{`"other"`, "x", ""} {
		if w := serve(h, local("GET", pathTxns, "If-None-Match", match)); w.Code != 200 {
			t.Errorf("%q: %d", match, w.Code)
		}
	}
	f.balances = f.balances[1:]
	if w := serve(h, local("GET", pathTxns, "If-None-Match", tag)); w.Code != 200 || w.Header().Get("ETag") == tag {
		t.Errorf("changed: %d %v", w.Code, w.Header())
	}
	if w := serve(h, local("GET", "/v1/x", "If-None-Match", "*")); w.Code != 404 || w.Header().Get("ETag") != "" {
		t.Errorf("an error: %d %v", w.Code, w.Header())
	}
}

func TestGzip(t *testing.T) {
	t.Parallel()
	h := handlerOf(many(t, 60))
	plain := serve(h, local("GET", pathTxns+"?limit=60"))
	for accept, want := range map[string]bool{
		"gzip": true, "deflate, gzip;q=0.5": true, "*": true, "x-gzip": true, "gzip;q=0": false, "gzip; q=0, *": false, "br": false, "": false, "identity": false,
	} {
		w := serve(h, local("GET", pathTxns+"?limit=60", "Accept-Encoding", accept))
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != want || w.Header().Get("ETag") != plain.Header().Get("ETag") {
			t.Fatalf("%q: %v", accept, w.Header())
		}
		if fmt.Sprint(w.Body.Len()) != w.Header().Get("Content-Length") {
			t.Fatalf("%q: %d bytes, %v", accept, w.Body.Len(), w.Header())
		}
		if !want {
			continue
		}
		r, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(b, plain.Body.Bytes()) {
			t.Fatalf("%v: %d bytes, want %d", err, len(b), plain.Body.Len())
		}
	}
	if w := serve(h, local("GET", "/v1/x", "Accept-Encoding", "gzip")); w.Header().Get("Content-Encoding") != "" {
		t.Error("a short reply is compressed")
	}
}

func TestChangesLongPoll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := world(t)
		stopping := make(chan struct{})
		h := New(Options{Reader: f, Stopping: stopping})
		ask := func(target string) (changesPage, time.Duration) {
			t.Helper()
			began := time.Now()
			w := serve(h, local("GET", target))
			if w.Code != 200 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			return decode[changesPage](t, w.Body.Bytes()), time.Since(began)
		}
		if p, took := ask("/v1/credits/changes"); len(p.Data) != 0 || p.Next != "0" || took != 0 {
			t.Fatalf("%+v after %v", p, took)
		}
		if p, took := ask("/v1/credits/changes?wait=30s"); len(p.Data) != 0 || took != 30*time.Second {
			t.Fatalf("%+v after %v", p, took)
		}
		due := time.Now().Add(10 * time.Second)
		f.before = func(context.Context, string) error {
			if len(f.changes) == 0 && !time.Now().Before(due) {
				for i := range 3 {
					f.changes = append(f.changes, mirror.Change{Cursor: fmt.Sprint(i + 1), Table: "customers", ID: "x", ChangedAt: now})
				}
			}
			return nil
		}
		p, took := ask("/v1/credits/changes?wait=30&limit=2")
		if len(p.Data) != 2 || p.Next != "2" || !p.HasMore || took < 10*time.Second || took > 11*time.Second {
			t.Fatalf("%+v after %v", p, took)
		}
		if p, _ := ask("/v1/credits/changes?after=2"); len(p.Data) != 1 || p.Next != "3" || p.HasMore {
			t.Fatalf("%+v", p)
		}
		go func() {
			time.Sleep(5 * time.Second)
			close(stopping)
		}()
		if p, took := ask("/v1/credits/changes?after=3&wait=60s"); len(p.Data) != 0 || p.Next != "3" || took > 6*time.Second {
			t.Fatalf("while stopping: %+v after %v", p, took)
		}
	})
}

func TestBulkBalances(t *testing.T) {
	t.Parallel()
	h := handlerOf(world(t))
	var ids []string
	for after, more := "", true; more; {
		w := serve(h, local("GET", "/v1/credits/balances?limit=2"+after))
		p := decode[balancesPage](t, w.Body.Bytes())
		if w.Code != 200 || p.AsOf != "2026-03-01T12:00:00Z" || len(p.Data) == 0 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		for _, b := range p.Data {
			ids = append(ids, b.ID)
			after = "&starting_after=" + b.ID
		}
		more = p.HasMore
	}
	if !slices.Equal(ids, []string{cusDeleted, cusBalance, cusCredits}) {
		t.Errorf("%q", ids)
	}
	for asOf, want := range map[string]string{
		"2026-01-31": "2026-01-31T23:59:59Z", "2026-01-31T10:00:00%2B02:00": "2026-01-31T08:00:00Z", "1769817600": "2026-01-31T00:00:00Z",
	} {
		if p := decode[balancesPage](t, serve(h, local("GET", "/v1/credits/balances?as_of="+asOf)).Body.Bytes()); p.AsOf != want {
			t.Errorf("%s: %s, want %s", asOf, p.AsOf, want)
		}
	}
}

// Wrong keys in a flood are slowed down; right ones always pass.
func TestWrongKeysAreThrottled(t *testing.T) {
	t.Parallel()
	h := New(Options{Reader: world(t), Keys: keysOf([]testKey{{Secret: "right"}}...)})
	counts := map[int]int{}
	for range 1000 {
		w := serve(h, local("GET", pathBalance, "Authorization", "Bearer wrong"))
		counts[w.Code]++
		if w.Code == 429 && errorOf(t, w).Code != "rate_limit" {
			t.Fatal(w.Body)
		}
	}
	if counts[401] < failuresAtOnce || counts[429] < 500 {
		t.Errorf("%v", counts)
	}
	if w := serve(h, local("GET", pathBalance, "Authorization", "Bearer right")); w.Code != 200 {
		t.Errorf("the right key: %d", w.Code)
	}
}

// On demand, a sync that fails, hangs or panics ends as 504 and is tried anew by
// the next request.
func TestMaxAgeFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at := time.Time{}
		var sync func(ctx context.Context) error
		s := NewSyncs(func(ctx context.Context, _ mirror.Target) error { return sync(ctx) },
			func(context.Context, []mirror.Target) ([]time.Time, error) { return []time.Time{at}, nil })
		h := New(Options{Reader: world(t), Syncs: s})
		ask := func() int {
			w := serve(h, local("GET", pathBalance, headerMaxAge, "5s"))
			if w.Code != 200 {
				errorOf(t, w)
			}
			return w.Code
		}
		for name, fail := range map[string]func(ctx context.Context) error{
			"error":  func(context.Context) error { return errors.New("secret") },
			"hangs":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
			"panic":  func(context.Context) error { panic("secret") },
			"fenced": func(context.Context) error { return mirror.ErrFenced },
		} {
			sync = fail
			if code := ask(); code != 504 {
				t.Errorf("%s: %d", name, code)
			}
			synctest.Wait()
		}
		for _, kind := range []stripeapi.Kind{stripeapi.KindUnauthorized, stripeapi.KindForbidden} {
			sync = func(context.Context) error { return &stripeapi.Error{Kind: kind} }
			w := serve(h, local("GET", pathBalance, headerMaxAge, "5s"))
			if e := errorOf(t, w); w.Code != 504 || w.Header().Get("Retry-After") != "" || w.Header().Get(headerRetry) != "false" || !strings.Contains(e.Message, "not yours") {
				t.Errorf("the mirror's key is refused: %d %v %q; want to hear whose key it is, and not to repeat it", w.Code, w.Header(), e.Message)
			}
			synctest.Wait()
		}
		n := 0
		sync = func(context.Context) error { // a worker is faster at first
			if n++; n < 3 {
				return mirror.ErrFenced
			}
			at = time.Now()
			return nil
		}
		if code := ask(); code != 200 || n != 3 {
			t.Errorf("%d after %d syncs", code, n)
		}
		if code := ask(); code != 200 || n != 3 {
			t.Errorf("a young copy: %d after %d syncs", code, n)
		}
		at, n = time.Time{}, 0
		sync = func(context.Context) error { // three pieces of a history, of which the last joins
			if n++; n == 3 {
				at = time.Now()
			}
			return nil
		}
		if code := ask(); code != 200 || n != 3 {
			t.Errorf("an open walk: %d after %d pieces", code, n)
		}
		at = time.Time{}
		sync = func(context.Context) error { time.Sleep(time.Second); return nil }
		if code := ask(); code != 504 {
			t.Errorf("a walk that does not join in time: %d", code)
		}
		time.Sleep(time.Second) // the last piece ends
		if w := serve(New(Options{Reader: world(t)}), local("GET", pathBalance, headerMaxAge, "5s")); w.Code != 504 {
			t.Errorf("without a Stripe key: %d", w.Code)
		}
	})
}

func TestWriteBodies(t *testing.T) {
	t.Parallel()
	h := New(Options{Reader: world(t), Keys: keysOf([]testKey{{Secret: "w", Write: true}}...), Writes: &Writes{}})
	for name, c := range map[string]struct {
		body, kind string
		status     int
	}{
		"json":         {`{"amount":1}`, "application/json", 400},
		"no type":      {"amount=1", "", 400},
		"too large":    {strings.Repeat("a", maxForm+1), "application/x-www-form-urlencoded", 413},
		"not encoded":  {"amount=%zz", "application/x-www-form-urlencoded", 400},
		"semicolons":   {"amount=1;currency=usd", "application/x-www-form-urlencoded; charset=utf-8", 400},
		"multipart":    {"--x", "multipart/form-data; boundary=x", 400},
		"path of dots": {"", "", 404},
	} {
		target := pathTxns
		if name == "path of dots" {
			target = "/v1/customers/cus_..%2F..%2Fcharges/balance_transactions"
		}
		r := httptest.NewRequest("POST", target, strings.NewReader(c.body))
		r.RemoteAddr = "127.0.0.1:1"
		r.Header = http.Header{"Authorization": {"Bearer w"}, "Content-Type": {c.kind}}
		w := serve(h, r)
		if errorOf(t, w); w.Code != c.status {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// Where incomplete histories are refused, no answer looks like an empty one: 503 in
// Stripe's envelope, which says that it is incomplete.
func TestIncompleteIsRefused(t *testing.T) {
	t.Parallel()
	f := world(t)
	h := New(Options{Reader: f, RefuseIncomplete: true})
	for _, target := range []string{pathTxns, pathGrants + "?customer=" + cusCredits, pathSummary + "?customer=" + cusCredits + metered} {
		for _, unfinished := range []bool{false, true} {
			f.unfinished = unfinished
			w := serve(h, local("GET", target))
			if !unfinished {
				if w.Code != 200 {
					t.Errorf("%s, complete: %d %s", target, w.Code, w.Body)
				}
				continue
			}
			e := errorOf(t, w)
			if w.Code != http.StatusServiceUnavailable || e.Type != "api_error" || w.Header().Get("Creditmirror-Complete") != "false" || w.Header().Get("Retry-After") == "" {
				t.Errorf("%s: %d %v %s", target, w.Code, w.Header(), w.Body)
			}
		}
	}
}

// Whether the history is wholly held is in every reply that is of one customer,
// and with none that is of the whole account.
func TestCompleteIsTold(t *testing.T) {
	t.Parallel()
	f := world(t)
	for _, unfinished := range []bool{false, true} {
		f.unfinished = unfinished
		want := map[bool]string{false: "true", true: "false"}[unfinished]
		for target, want := range map[string]string{
			pathTxns: want, pathGrants + "?customer=" + cusCredits: want,
			pathSummary + "?customer=" + cusCredits + metered: want, pathGrants: "",
		} {
			w := serve(New(Options{Reader: f}), local("GET", target))
			if got := w.Header().Get("Creditmirror-Complete"); w.Code != 200 || got != want {
				t.Errorf("%s, unfinished %v: %d, complete %q, want %q", target, unfinished, w.Code, got, want)
			}
		}
	}
}
