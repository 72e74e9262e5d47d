package console_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/console"
	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/sqlitetest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// The keys of the tests.
const (
	actKey   = "act-key-0123456789abcdef"
	lookKey  = "look-key-0123456789abcdef"
	boundKey = "bound-key-0123456789abcdef"
	grantKey = "grant-key-0123456789abcdef"
	shortKey = "short-key-0123456789abcdef"
)

func keyList(now time.Time) []access.Key {
	return []access.Key{
		{Name: "on-call", Digest: access.DigestOf(actKey), Write: true},
		{Name: "support", Digest: access.DigestOf(lookKey)},
		{Name: "bound", Digest: access.DigestOf(boundKey), Write: true, Accounts: []string{"acct_1"}, Ledgers: []access.Ledger{access.Credits}},
		{Name: "granter", Digest: access.DigestOf(grantKey), Write: true, Operations: []access.Operation{access.Grant}},
		{Name: "short", Digest: access.DigestOf(shortKey), Expires: now.Add(time.Minute)},
	}
}

// clock is a test's time. Figures are computed in the background, so it has a lock.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().UTC()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// desk is a console over an own mirror, and one who visits it.
type desk struct {
	t      testing.TB
	store  fullStore
	c      *console.Console
	clock  *clock
	mu     sync.Mutex
	host   string
	remote string
	done   []string // what the actions did
	reads  *counted
}

func openDesk(t testing.TB, change func(*console.Options)) *desk {
	t.Helper()
	s, _ := sqlitetest.Open(t)
	d := &desk{t: t, store: s, clock: newClock(), host: "mirror.example", remote: "192.0.2.7:1000", reads: &counted{fullStore: s}}
	note := func(text string) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.done = append(d.done, text)
		return nil
	}
	o := console.Options{
		Store: d.reads, Ledgers: d.reads, Operations: d.reads, Books: s, Keys: access.New(keyList(d.clock.Now()), d.clock.Now), Now: d.clock.Now, Version: "test",
		Accounts: func(context.Context) ([]string, error) { return []string{"acct_1"}, nil },
		Status: func(context.Context) (console.Status, error) {
			return console.Status{At: d.clock.Now(), Customers: 3, Repair: true}, nil
		},
		Do: console.Actions{
			Sync: func(_ context.Context, list []mirror.Target) error { return note(fmt.Sprint("sync ", list)) },
			Retry: func(_ context.Context, ids []string) ([]console.Retried, error) {
				var out []console.Retried
				for _, id := range ids {
					out = append(out, console.Retried{ID: id, Outcome: "marked"})
				}
				return out, note(fmt.Sprint("retry ", len(ids)))
			},
			Sweep: func(_ context.Context, name string, what mirror.ActionKind, by, reason string) error {
				return note(fmt.Sprint(what, " ", name, " by ", by, ": ", reason))
			},
			Check: func(context.Context) ([]console.Verdict, error) {
				return []console.Verdict{{About: "status", Text: "we_1 is enabled"}}, note("check")
			},
			VerifyCopy: func(context.Context) (console.CopyVerdict, error) {
				return console.CopyVerdict{Rows: 5}, note("verify")
			},
		},
	}
	if change != nil {
		change(&o)
	}
	d.c = console.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { defer close(ran); d.c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ran })
	return d
}

// ask makes a request; headers are pairs.
func (d *desk) ask(method, path, cookie string, form url.Values, headers ...string) *http.Response {
	d.t.Helper()
	r := httptest.NewRequest(method, "https://"+d.host+path, strings.NewReader(form.Encode()))
	r.RemoteAddr = d.remote
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.c.ServeHTTP(w, r)
	return w.Result()
}

func (d *desk) get(path, cookie string) (int, string) {
	d.t.Helper()
	resp := d.ask("GET", path, cookie, nil)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// post presses a button of a page of ours.
func (d *desk) post(path, cookie string, pairs ...string) *http.Response {
	d.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	return d.ask("POST", path, cookie, form, "Sec-Fetch-Site", "same-origin")
}

// signIn returns the cookie of a key.
func (d *desk) signIn(key string) string {
	d.t.Helper()
	resp := d.post("/sign-in", "", "key", key)
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 {
		d.t.Fatalf("sign-in: %d, %v", resp.StatusCode, resp.Cookies())
	}
	c := resp.Cookies()[0]
	return c.Name + "=" + c.Value
}

var allPages = []string{
	"/", "/customers", "/customers?set=unproven", "/customers?set=deleted", "/customers?sort=most&currency=usd", "/customers?sort=least&ledger=credits&currency=usd",
	"/customers?sort=fresh", "/customers?sort=stale", "/customers?since=2h", "/customers?find=in_1", "/drift", "/drift?show=closed", "/drift?kind=field_mismatch", "/dead", "/dead?list=1",
	"/sweeps", "/books", "/books?tab=rollforward", "/books?tab=rollforward&by=day", "/books?tab=ageing", "/books?tab=periods", "/exports", "/writes", "/writes?tab=actions",
	"/webhooks", "/runbooks/CreditmirrorDriftOpen",
}

func TestPagesNeedSigningIn(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	for _, path := range append(slices.Clone(allPages), "/customers/platform/cus_1", "/odd") {
		resp := d.ask("GET", path, "", nil)
		if to := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, "/sign-in") {
			t.Errorf("%s: %d to %q", path, resp.StatusCode, to)
		}
		if code, _ := d.get(path, "__Host-creditmirror=made-up"); code != http.StatusSeeOther {
			t.Errorf("%s with a made-up cookie: %d", path, code)
		}
	}
	// Who is led here by another site is signed in all the same: the cookie comes with the
	// second request.
	resp := d.ask("GET", "/drift", "", nil, "Sec-Fetch-Site", "cross-site")
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `content="0;url=/drift"`) {
		t.Errorf("from another site: %d %s", resp.StatusCode, body)
	}
	cookie := d.signIn(lookKey)
	for _, path := range allPages {
		if code, body := d.get(path, cookie); code != http.StatusOK {
			t.Errorf("%s: %d\n%s", path, code, body)
		}
	}
	if code, _ := d.get("/odd", cookie); code != http.StatusNotFound {
		t.Errorf("an odd address: %d", code)
	}
}

func TestCookie(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	resp := d.post("/sign-in", "", "key", actKey, "next", "/drift?kind=orphan")
	c := resp.Cookies()[0]
	if c.Name != "__Host-creditmirror" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge <= 0 || c.MaxAge > 2*3600 {
		t.Errorf("%+v", c)
	}
	if to := resp.Header.Get("Location"); to != "/drift?kind=orphan" {
		t.Errorf("led to %q", to)
	}
	if strings.Contains(c.Value, actKey) {
		t.Error("the cookie holds the key")
	}
	for _, next := range []string{"//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "", "/\tx"} {
		if to := d.post("/sign-in", "", "key", actKey, "next", next).Header.Get("Location"); to != "/" {
			t.Errorf("next %q led to %q", next, to)
		}
	}
	// Signed out, the cookie is worth nothing, wherever it was copied to.
	cookie := c.Name + "=" + c.Value
	if code, _ := d.get("/", cookie); code != http.StatusOK {
		t.Fatal(code)
	}
	d.post("/sign-out", cookie)
	if code, _ := d.get("/", cookie); code != http.StatusSeeOther {
		t.Errorf("after signing out: %d", code)
	}
}

func TestSignedOutWithTheKey(t *testing.T) {
	t.Parallel()
	clock := newClock()
	keys := keyList(clock.Now())
	s, _ := sqlitetest.Open(t)
	with := func(list []access.Key) *desk {
		return openDesk(t, func(o *console.Options) {
			o.Store, o.Ledgers, o.Operations, o.Now = s, s, s, clock.Now
			o.Keys = access.New(list, o.Now)
		})
	}
	first := with(keys)
	cookie, short := first.signIn(actKey), first.signIn(shortKey)
	if code, _ := with(keys).get("/", cookie); code != http.StatusOK {
		t.Errorf("another process of the same keys: %d", code)
	}
	if code, _ := with(keys[1:]).get("/", cookie); code != http.StatusSeeOther {
		t.Errorf("without the key: %d", code)
	}
	exchanged := slices.Clone(keys)
	exchanged[0].Digest = access.DigestOf("another")
	if code, _ := with(exchanged).get("/", cookie); code != http.StatusSeeOther {
		t.Errorf("another key of that name: %d", code)
	}
	if code, _ := first.get("/", short); code != http.StatusOK {
		t.Errorf("before its end: %d", code)
	}
	clock.advance(2 * time.Minute)
	if code, _ := first.get("/", short); code != http.StatusSeeOther {
		t.Errorf("an expired key: %d", code)
	}
	clock.advance(2 * time.Hour)
	if code, _ := first.get("/", cookie); code != http.StatusSeeOther {
		t.Errorf("after two hours: %d", code)
	}
}

func TestGuessing(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	codes := map[int]int{}
	for n := range 30 {
		codes[d.post("/sign-in", "", "key", fmt.Sprint("guess", n)).StatusCode]++
	}
	if codes[http.StatusUnauthorized] == 0 || codes[http.StatusTooManyRequests] < 15 || len(codes) != 2 {
		t.Errorf("%v", codes)
	}
	if code := d.post("/sign-in", "", "key", actKey).StatusCode; code != http.StatusTooManyRequests {
		t.Errorf("the right key from there: %d", code)
	}
	d.remote = "192.0.2.8:1000"
	d.signIn(actKey) // others are not locked out
	d.remote = "192.0.2.7:1000"
	d.clock.advance(time.Minute)
	d.signIn(actKey)
}

func TestKeylessOnThisMachineAlone(t *testing.T) {
	t.Parallel()
	d := openDesk(t, func(o *console.Options) { o.Keys = nil })
	for _, c := range []struct {
		remote, host string
		header       []string
		want         int
	}{
		{"127.0.0.1:5", "localhost:8081", nil, 200},
		{"[::1]:5", "[::1]:8081", nil, 200},
		{"127.0.0.1:5", "mirror.example", nil, 403},
		{"127.0.0.1:5", "localhost", []string{"X-Forwarded-For", "192.0.2.1"}, 403},
		{"192.0.2.7:5", "localhost", nil, 403},
	} {
		d.remote, d.host = c.remote, c.host
		if code := d.ask("GET", "/", "", nil, c.header...).StatusCode; code != c.want {
			t.Errorf("%+v: %d", c, code)
		}
	}
	d.remote, d.host = "127.0.0.1:5", "localhost:8081"
	for path := range allActions(d) {
		if code := d.post(path, "", "reason", "x", "count", "1").StatusCode; code != http.StatusForbidden {
			t.Errorf("%s without keys: %d", path, code)
		}
	}
	if len(d.done) > 0 {
		t.Errorf("done: %q", d.done)
	}
}

// allActions seeds what actions are about, and lists each with what it does.
func allActions(d *desk) map[string]string {
	d.t.Helper()
	finding, letter := seed(d.t, d.store)
	return map[string]string{
		"/customers/platform/cus_1/sync":  "sync",
		"/drift/" + finding + "/accept":   "",
		"/drift/" + finding + "/withdraw": "",
		"/dead/retry?x=" + letter:         "retry 1",
		"/sweeps/balances/start":          "sweep-start balances by on-call: because",
		"/sweeps/events/pause":            "sweep-pause events by on-call: because",
		"/sweeps/events/resume":           "sweep-resume events by on-call: because",
		"/webhooks/check":                 "check",
		"/exports/verify":                 "verify",
		"/dead/drop?last=" + letter:       "",
	}
}

// seeding is as much of a store as seed writes to.
type seeding interface {
	OpenFindings(ctx context.Context, list []mirror.Finding) ([]mirror.Finding, error)
	SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error
	InsertCustomers(ctx context.Context, account string, page []mirror.Customer) (int, error)
}

// seed puts a customer, a finding and a dead letter into the mirror.
func seed(t testing.TB, store fullStore) (finding, letter string) {
	t.Helper()
	if c, ok := store.(*counted); ok {
		store = c.fullStore
	}
	s := store.(seeding)
	at := time.Now().UTC().Truncate(time.Microsecond)
	if _, err := s.InsertCustomers(t.Context(), "", []mirror.Customer{{ID: "cus_1", Currency: "usd", Balance: -500, Created: at, InvoiceCreditBalance: map[string]int64{"usd": 500}, Raw: []byte(`{"id":"cus_1"}`)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenFindings(t.Context(), []mirror.Finding{{Kind: mirror.DriftBalanceMismatch, Customer: "cus_1", Scope: mirror.ScopeBalance, Currency: "usd", Expected: "-500", Actual: "0", Cause: mirror.CauseMissedEvent, FoundAt: at}}); err != nil {
		t.Fatal(err)
	}
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}
	if err := s.SaveDeadLetter(t.Context(), mirror.DeadLetter{ID: mirror.DeadLetterID(target), Target: target, Reason: "stripe said no", Attempts: 12, FirstFailedAt: at, LastFailedAt: at}); err != nil {
		t.Fatal(err)
	}
	list, err := store.FindingList(t.Context(), mirror.FindingList{Limit: 1})
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	return list[0].ID, mirror.DeadLetterID(target)
}

func TestActions(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	finding, letter := seed(t, d.store)
	act, look, bound, granter := d.signIn(actKey), d.signIn(lookKey), d.signIn(boundKey), d.signIn(grantKey)
	form := []string{"reason", "because", "count", "5", "id", "", "class", ""}
	order := []string{
		"/customers/platform/cus_1/sync", "/drift/" + finding + "/accept", "/drift/" + finding + "/withdraw", "/sweeps/balances/start", "/sweeps/events/pause", "/sweeps/events/resume",
		"/webhooks/check", "/exports/verify", "/dead/retry", "/dead/drop",
	}
	actions := func() []mirror.OperatorAction {
		list, err := d.store.Actions(t.Context(), mirror.ActionFilter{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(list, func(a mirror.OperatorAction) bool { return a.Action == mirror.ActionSignIn })
	}
	// Who may not is refused, and nothing happens.
	for _, path := range order {
		for name, cookie := range map[string]string{"looker": look, "granter": granter} {
			if code := d.post(path, cookie, form...).StatusCode; code != http.StatusForbidden {
				t.Errorf("%s by %s: %d", path, name, code)
			}
		}
		for _, header := range [][]string{
			nil, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "none"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
		} {
			if code := d.ask("POST", path, act, url.Values{"reason": {"because"}, "count": {"5"}}, header...).StatusCode; code != http.StatusForbidden {
				t.Errorf("%s with %q: %d", path, header, code)
			}
		}
		if code, _ := d.get(path, act); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", path, code)
		}
		if code := d.post(path, "", form...).StatusCode; code != http.StatusUnauthorized {
			t.Errorf("%s by nobody: %d", path, code)
		}
	}
	for _, path := range []string{"/sweeps/events/pause", "/webhooks/check", "/exports/verify", "/customers/platform/cus_1/sync", "/drift/" + finding + "/accept"} {
		if code := d.post(path, bound, form...).StatusCode; code != http.StatusForbidden {
			t.Errorf("%s by a bound key: %d", path, code)
		}
	}
	if len(d.done) > 0 || len(actions()) > 0 {
		t.Fatalf("done: %q, %v", d.done, actions())
	}
	// A reason is needed for what cannot be taken back or is hidden by it.
	for _, path := range []string{"/drift/" + finding + "/accept", "/sweeps/events/pause", "/dead/retry", "/dead/drop"} {
		if code := d.post(path, act, "reason", "  ", "count", "5").StatusCode; code != http.StatusBadRequest {
			t.Errorf("%s without a reason: %d", path, code)
		}
	}
	if code := d.post("/dead/drop", act, "reason", "x").StatusCode; code != http.StatusBadRequest {
		t.Errorf("dropped without a count: %d", code)
	}
	for _, path := range order {
		if resp := d.post(path, act, form...); resp.StatusCode != http.StatusSeeOther || !strings.Contains(resp.Header.Get("Location"), "done=") {
			body, _ := io.ReadAll(resp.Body)
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	for deadline := time.Now().Add(patience.Of(10 * time.Second)); slices.ContainsFunc(actions(), func(a mirror.OperatorAction) bool { return a.Outcome == "" }); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", actions())
		}
	}
	got := actions()
	if len(got) != len(order) {
		t.Errorf("%d rows: %+v", len(got), got)
	}
	for _, a := range got {
		if a.Actor != "on-call" || a.RemoteAddr != "192.0.2.7" || a.Outcome != mirror.ActionDone || a.Created.IsZero() {
			t.Errorf("%+v", a)
		}
		if a.Reason != "because" && a.Action != mirror.ActionCheck && a.Action != mirror.ActionVerifyCopy {
			t.Errorf("no reason: %+v", a)
		}
	}
	d.mu.Lock()
	if want := 7; len(d.done) != want {
		t.Errorf("done: %q", d.done)
	}
	d.mu.Unlock()
	if _, err := d.store.DeadLetter(t.Context(), letter); err == nil {
		t.Error("the letter is still there")
	}
}

// An action whose record cannot be written is not done.
func TestNoActionWithoutItsRecord(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	seed(t, d.store)
	cookie := d.signIn(actKey)
	d.reads.fail.Store(true)
	if code := d.post("/customers/platform/cus_1/sync", cookie, "reason", "x").StatusCode; code != http.StatusServiceUnavailable {
		t.Error(code)
	}
	if len(d.done) > 0 {
		t.Errorf("done: %q", d.done)
	}
}

// A key sees no button that it may not press, and nothing beyond what it is bound to.
func TestWhatKeysSee(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	finding, letter := seed(t, d.store)
	act, look, bound := d.signIn(actKey), d.signIn(lookKey), d.signIn(boundKey)
	buttons := func(body string) int {
		_, main, _ := strings.Cut(body, "<main")
		return strings.Count(main, `method="post"`) + strings.Count(main, "/dead/confirm")
	}
	with := 0
	for _, path := range append(slices.Clone(allPages), "/customers/platform/cus_1", "/drift/"+finding, "/dead/"+letter, "/dead?list=1") {
		code, body := d.get(path, look)
		if code != http.StatusOK || buttons(body) > 0 {
			t.Errorf("%s: %d, %d buttons for who may look", path, code, buttons(body))
		}
		_, body = d.get(path, act)
		with += buttons(body)
	}
	if with < 8 {
		t.Errorf("%d buttons for who may act", with)
	}
	for _, path := range []string{"/customers/platform/cus_1", "/customers?account=platform", "/drift/" + finding, "/dead/" + letter, "/exports", "/writes", "/customers/platform/cus_1/why", "/customers/platform/cus_1/statement.csv"} {
		if code, _ := d.get(path, bound); code != http.StatusForbidden {
			t.Errorf("%s for the bound key: %d", path, code)
		}
	}
	for _, path := range []string{"/", "/drift", "/dead", "/dead?list=1", "/webhooks", "/customers?find=cus_1", "/books", "/sweeps"} {
		if code, body := d.get(path, bound); code != http.StatusOK || strings.Contains(strings.ReplaceAll(body, `value="cus_1"`, ""), "/customers/platform/cus_1") || strings.Contains(body, letter) {
			t.Errorf("%s for the bound key: %d, or it sees the platform's", path, code)
		}
	}
	if code, _ := d.get("/customers/platform/cus_1?x", act); code != http.StatusOK {
		t.Error(code)
	}
}

// What comes in an address is judged, and answered with a page.
func TestOddAddresses(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	cookie := d.signIn(lookKey)
	for path, want := range map[string]int{
		"/customers?sort=most": 400, "/customers?set=odd": 400, "/customers?sort=odd": 400, "/customers?ledger=odd": 400, "/customers?currency=odd": 400, "/customers?since=odd": 400,
		"/customers?after=odd": 400, "/customers?after=1.x.cus_1": 400, "/customers?account=odd": 400, "/customers/odd/cus_1": 400, "/customers/platform/..%2fx": 400, "/customers/platform/cus_none": 404,
		"/customers/platform/cus_none/why": 404, "/customers/platform/cus_none/statement": 404, "/customers/platform/cus_none/statement.csv": 404, "/drift?kind=odd": 400, "/drift?before=odd": 400,
		"/drift/drift_none": 404, "/dead/none": 404, "/dead/confirm?do=retry": 403, "/books?tab=odd": 404, "/books?as_of=odd": 400, "/books?tab=rollforward&from=odd": 400, "/books/odd.csv": 404, "/books/balances": 404,
		"/books?tab=rollforward&by=odd": 400, "/books?tab=rollforward&from=2026-02-01&to=2026-01-01": 400, "/writes?outcome=odd": 400, "/webhooks/evt_none": 404, "/runbooks/..%2f..%2fREADME": 404, "/runbooks/CreditmirrorNone": 404,
		"/assets/none.js": 404, "/assets/..%2fconsole.go": 404,
	} {
		code, body := d.get(path, cookie)
		// A page that waited too long for its figures says that they are being computed.
		for deadline := time.Now().Add(patience.Of(20 * time.Second)); strings.Contains(body, " data-pending>") && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
			code, body = d.get(path, cookie)
		}
		if code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
		if strings.HasPrefix(path, "/assets") {
			continue
		}
		if !strings.Contains(body, "<main") || strings.Contains(body, "goroutine") {
			t.Errorf("%s is told as %q", path, body)
		}
	}
}

// slowBooks begin each report later than a page waits for it.
type slowBooks struct{ books report.Books }

func (b slowBooks) Books(ctx context.Context, fn func(report.Reader) error) error {
	time.Sleep(300 * time.Millisecond)
	return b.books.Books(ctx, fn)
}

// A file waits for its report, where a page says that it is being computed.
func TestDownloadsWaitForTheirReport(t *testing.T) {
	t.Parallel()
	d := openDesk(t, func(o *console.Options) { o.Books = slowBooks{o.Books} })
	cookie := d.signIn(lookKey)
	for _, name := range []string{"balances", "rollforward", "ageing", "periods"} {
		if code, body := d.get("/books?tab="+name, cookie); code != http.StatusOK || !strings.Contains(body, " data-pending>") {
			t.Errorf("the page of %s: %d", name, code)
		}
		if code, body := d.get("/books/"+name+".csv", cookie); code != http.StatusOK || !strings.HasPrefix(body, "account,") {
			t.Errorf("%s.csv: %d %.60s", name, code, body)
		}
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	cookie := d.signIn(lookKey)
	for _, path := range []string{"/", "/sign-in", "/odd", "/assets/style.css", "/books/balances.csv"} {
		h := d.ask("GET", path, cookie, nil).Header
		csp := h.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; style-src 'self'") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") ||
			h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") == "" || h.Get("Referrer-Policy") != "same-origin" {
			t.Errorf("%s: %v", path, h)
		}
	}
	for _, path := range allPages {
		_, body := d.get(path, cookie)
		for _, inline := range []string{" style=", " onclick=", " onload=", "javascript:", "<style", "<script>"} {
			if strings.Contains(body, inline) {
				t.Errorf("%s has %q", path, inline)
			}
		}
	}
}

// No page reads the database more often than this, however large the mirror is.
func TestBoundedReads(t *testing.T) {
	t.Parallel()
	const most = 14
	d := openDesk(t, nil)
	finding, letter := seed(t, d.store)
	var page []mirror.Customer
	for n := range 3000 {
		page = append(page, mirror.Customer{ID: fmt.Sprintf("cus_x%04d", n), Currency: "usd", Balance: int64(n), InvoiceCreditBalance: map[string]int64{"usd": int64(-n)}, Created: d.clock.Now(), Raw: []byte(`{}`)})
	}
	if _, err := d.store.(seeding).InsertCustomers(t.Context(), "", page); err != nil {
		t.Fatal(err)
	}
	cookie := d.signIn(actKey)
	for _, path := range append(slices.Clone(allPages), "/customers/platform/cus_1", "/customers/platform/cus_x0001", "/customers/platform/cus_1/why", "/customers/platform/cus_1/statement",
		"/drift/"+finding, "/dead/"+letter, "/dead/confirm?do=retry", "/customers?find=cus_1") {
		d.reads.n.Store(0)
		if code, body := d.get(path, cookie); code >= 400 {
			t.Errorf("%s: %d %s", path, code, body)
		}
		if n := d.reads.n.Load(); n > most {
			t.Errorf("%s read the database %d times", path, n)
		}
	}
}

// Every amount has its decimals and a word for its sign, and every time its zone.
func TestCustomerInWords(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	seed(t, d.store)
	_, body := d.get("/customers/platform/cus_1", d.signIn(lookKey))
	for _, want := range []string{`5.00 USD <span class="word credit">credit</span>`, "https://dashboard.stripe.com/test/customers/cus_1", "not proven"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

// fullStore is all that the console needs of a mirror.
type fullStore interface {
	console.Store
	console.Ledgers
	mirror.Operations
}

// counted counts the calls of a store, and refuses writes of actions if asked to.
type counted struct {
	fullStore
	n    atomic.Int64
	fail atomic.Bool
}

func (c *counted) BeginAction(ctx context.Context, a mirror.OperatorAction) error {
	if c.fail.Load() {
		return fmt.Errorf("the database is away")
	}
	return c.fullStore.BeginAction(ctx, a)
}

func (c *counted) Session(ctx context.Context, id string) (mirror.Session, error) {
	c.n.Add(1)
	return c.fullStore.Session(ctx, id)
}

func (c *counted) FindCustomers(ctx context.Context, q mirror.CustomerQuery) ([]mirror.FoundCustomer, error) {
	c.n.Add(1)
	return c.fullStore.FindCustomers(ctx, q)
}

func (c *counted) WhoHas(ctx context.Context, accounts []string, id string) ([]mirror.Holder, error) {
	c.n.Add(1)
	return c.fullStore.WhoHas(ctx, accounts, id)
}

func (c *counted) Timeline(ctx context.Context, account, customer string, before time.Time, limit int) (mirror.Timeline, error) {
	c.n.Add(1)
	return c.fullStore.Timeline(ctx, account, customer, before, limit)
}

func (c *counted) LedgerStates(ctx context.Context, account, customer string) ([]mirror.LedgerState, error) {
	c.n.Add(1)
	return c.fullStore.LedgerStates(ctx, account, customer)
}

func (c *counted) NewestEvents(ctx context.Context, accounts []string, limit int) ([]mirror.InboxEvent, error) {
	c.n.Add(1)
	return c.fullStore.NewestEvents(ctx, accounts, limit)
}

func (c *counted) FindingList(ctx context.Context, q mirror.FindingList) ([]mirror.Finding, error) {
	c.n.Add(1)
	return c.fullStore.FindingList(ctx, q)
}

func (c *counted) FindingByID(ctx context.Context, id string) (mirror.Finding, error) {
	c.n.Add(1)
	return c.fullStore.FindingByID(ctx, id)
}

func (c *counted) LetterGroups(ctx context.Context, f mirror.LetterFilter, limit int) ([]mirror.LetterGroup, error) {
	c.n.Add(1)
	return c.fullStore.LetterGroups(ctx, f, limit)
}

func (c *counted) FindLetters(ctx context.Context, f mirror.LetterFilter, after string, limit int) ([]mirror.DeadLetter, error) {
	c.n.Add(1)
	return c.fullStore.FindLetters(ctx, f, after, limit)
}

func (c *counted) CountLetters(ctx context.Context, f mirror.LetterFilter) (int64, error) {
	c.n.Add(1)
	return c.fullStore.CountLetters(ctx, f)
}

func (c *counted) Actions(ctx context.Context, f mirror.ActionFilter, limit int) ([]mirror.OperatorAction, error) {
	c.n.Add(1)
	return c.fullStore.Actions(ctx, f, limit)
}

func (c *counted) Accepted(ctx context.Context, findings []string) (map[string]mirror.OperatorAction, error) {
	c.n.Add(1)
	return c.fullStore.Accepted(ctx, findings)
}

func (c *counted) Customer(ctx context.Context, account, id string) (mirror.CustomerView, error) {
	c.n.Add(1)
	return c.fullStore.Customer(ctx, account, id)
}

func (c *counted) HeldCustomers(ctx context.Context, account string, ids []string) (map[string]mirror.HeldCustomer, error) {
	c.n.Add(1)
	return c.fullStore.HeldCustomers(ctx, account, ids)
}

func (c *counted) BalanceTransactions(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
	c.n.Add(1)
	return c.fullStore.BalanceTransactions(ctx, account, customer, p)
}

func (c *counted) Grants(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error) {
	c.n.Add(1)
	return c.fullStore.Grants(ctx, account, customer, p)
}

func (c *counted) CreditTransactions(ctx context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
	c.n.Add(1)
	return c.fullStore.CreditTransactions(ctx, account, customer, grant, p)
}

func (c *counted) CreditSummary(ctx context.Context, account, customer string) (mirror.CreditSummary, error) {
	c.n.Add(1)
	return c.fullStore.CreditSummary(ctx, account, customer)
}

func (c *counted) DeadLetter(ctx context.Context, id string) (mirror.DeadLetter, error) {
	c.n.Add(1)
	return c.fullStore.DeadLetter(ctx, id)
}

func (c *counted) NewestAPIWrites(ctx context.Context, accounts []string, f mirror.APIWriteFilter, before mirror.APIWrite, limit int) ([]mirror.APIWrite, error) {
	c.n.Add(1)
	return c.fullStore.NewestAPIWrites(ctx, accounts, f, before, limit)
}
