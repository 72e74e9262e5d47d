package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/console"
	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
	"github.com/creditmirror/creditmirror/stripesim"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// lacks skips a test with the reason, or fails it where everything must be there.
func lacks(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CREDITMIRROR_REQUIRE_SERVICES") == "1" {
		t.Fatalf("%s, and CREDITMIRROR_REQUIRE_SERVICES=1", why)
	}
	t.Skip(why)
}

// evil is what somebody may write into a field of Stripe's.
const evil = `"><svg onload="window.evil=1"><script>window.evil=1</script>'"--></title></textarea><img src=x onerror=window.evil=1>{{.}}` + "\u202e\x1b[31m"

// system is a real serve beside a real simulator.
type system struct {
	t        *testing.T
	sim      *stripesim.Server
	simURL   string
	app      *app.App
	base     string // of the console
	customer string // one with evil texts, balances and grants
	store    mirror.Store
	evil     string // the text that it puts everywhere
	twin     string // a customer whose id is one in both accounts
}

// otherAccount is a connected account; what lies in it and on the platform, by the words and
// amounts that nothing else has.
const (
	otherAccount = "acct_other"
	otherWords   = "Of the other account"
	ownWords     = "Of the platform itself"
	otherAmount  = "4,242.42"
	ownAmount    = "7,171.71"
)

// otherStripe is a second simulator, whose ids are those of the first. What the first is
// asked in the name of the connected account goes there.
func (s *system) otherStripe() http.Handler {
	s.t.Helper()
	// An hour behind, since the books are those of the last whole minute.
	other, err := stripesim.New(stripesim.Options{Seed: 7, Now: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(other.Close)
	own, others := s.sim.Handler(), other.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Stripe-Account") == otherAccount {
			r.Header.Del("Stripe-Account")
			others.ServeHTTP(w, r)
			return
		}
		own.ServeHTTP(w, r)
	})
}

// makeTwins makes a customer of the same id in both accounts.
func (s *system) makeTwins() {
	s.t.Helper()
	make := func(account, amount, words string) string {
		id := s.postAs(account, "/v1/customers")["id"].(string)
		s.postAs(account, "/v1/customers/"+id+"/balance_transactions", "amount", "-"+amount, "currency", "usd", "description", words)
		s.postAs(account, "/v1/billing/credit_grants", "customer", id, "name", words, "amount[type]", "monetary", "amount[monetary][currency]", "usd", "amount[monetary][value]", amount,
			"applicability_config[scope][price_type]", "metered", "category", "paid", "expires_at", fmt.Sprint(time.Now().AddDate(0, 1, 0).Unix()))
		return id
	}
	s.twin = make("", "717171", ownWords)
	if other := make(otherAccount, "424242", otherWords); other != s.twin {
		s.t.Fatalf("the simulators' ids differ: %s and %s", s.twin, other)
	}
}

const simKey = "sk_test_console"

// post calls the simulator as Stripe is called.
func (s *system) post(path string, pairs ...string) map[string]any {
	s.t.Helper()
	return s.postAs("", path, pairs...)
}

func (s *system) postAs(account, path string, pairs ...string) map[string]any {
	s.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Add(pairs[i], pairs[i+1])
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.simURL+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	req.SetBasicAuth(simKey, "")
	if account != "" {
		req.Header.Set("Stripe-Account", account)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s %v %v", path, resp.Status, body, err)
	}
	return body
}

// openSystem starts everything and waits until the mirror holds it.
func openSystem(t *testing.T, database, evil string) *system {
	t.Helper()
	s := &system{t: t, evil: evil}
	var err error
	if s.sim, err = stripesim.New(stripesim.Options{Seed: 7}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.sim.Close)
	listen := func() net.Listener {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := listen()
	handler := s.otherStripe()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	s.simURL = "http://" + l.Addr().String()

	s.makeTwins()
	traffic, err := stripesim.NewTraffic(s.sim, stripesim.TrafficOptions{Seed: 7, Customers: 70, Rate: 40})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.customer = s.post("/v1/customers", "name", evil, "metadata[k]", evil)["id"].(string)
	for n, amount := range []string{"-120000", "35050", "-999"} {
		s.post("/v1/customers/"+s.customer+"/balance_transactions", "amount", amount, "currency", "usd", "description", map[bool]string{true: evil, false: "Goodwill for the outage"}[n == 0], "metadata[k]", evil)
	}
	short := evil
	if len(short) > 100 { // Stripe takes no longer one
		short = `"><img src=x onerror=window.evil=1><script>window.evil=1</script>'"`
	}
	for _, name := range []string{short, "Welcome credit"} {
		s.post("/v1/billing/credit_grants", "customer", s.customer, "name", name, "amount[type]", "monetary", "amount[monetary][currency]", "usd", "amount[monetary][value]", "50000",
			"applicability_config[scope][price_type]", "metered", "category", "promotional", "expires_at", fmt.Sprint(time.Now().AddDate(0, 3, 0).Unix()))
	}

	hook := listen()
	form := []string{"url", "http://" + hook.Addr().String() + "/webhooks/stripe", "api_version", stripesim.Version}
	for _, name := range mirror.EventTypes() {
		form = append(form, "enabled_events[]", name)
	}
	secret := s.post("/v1/webhook_endpoints", form...)["secret"].(string)
	keys, err := json.Marshal([]map[string]any{
		{"name": "on-call", "key": actKey, "rights": "write"},
		{"name": "support", "key": lookKey, "rights": "read"},
		{"name": "bound", "key": boundKey, "rights": "read", "accounts": []string{""}, "ledgers": []string{"credits"}},
		{"name": "platform", "key": ownKey, "rights": "write", "accounts": []string{""}},
		{"name": "other", "key": otherKey, "rights": "write", "accounts": []string{otherAccount}},
	})
	if err != nil {
		t.Fatal(err)
	}
	roles := config.AllRoles()
	cfg, err := config.LoadFor([]string{
		"STRIPE_API_KEY=" + simKey, "STRIPE_API_BASE=" + s.simURL, "STRIPE_WEBHOOK_SECRET=" + secret, "CREDITMIRROR_DATABASE_URL=" + database,
		"CREDITMIRROR_WEBHOOK_ADDR=" + hook.Addr().String(), "CREDITMIRROR_API_ADDR=127.0.0.1:0", "CREDITMIRROR_OPS_ADDR=127.0.0.1:0", "CREDITMIRROR_API_KEYS=" + string(keys),
		"STRIPE_ACCOUNTS=" + otherAccount, "CREDITMIRROR_STRIPE_RPS=4000", "CREDITMIRROR_STRIPE_ENDPOINT_RPS=2000", "CREDITMIRROR_EVENTS_INTERVAL=5s", "CREDITMIRROR_EXPORT_URL=" + t.TempDir(), "CREDITMIRROR_EXPORT_INTERVAL=5s",
	}, roles)
	if err != nil {
		t.Fatal(err)
	}
	s.app, err = app.New(t.Context(), app.Options{
		Config: cfg, Roles: roles, Build: app.Build{Version: "test"}, Listen: func(ctx context.Context, addr string) (net.Listener, error) {
			if addr == hook.Addr().String() {
				return hook, nil
			}
			return (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.store = s.app.Store()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- s.app.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the system ended with %v", err)
		}
	})
	_, port, err := net.SplitHostPort(s.app.Addrs().API)
	if err != nil {
		t.Fatal(err)
	}
	s.base = "http://localhost:" + port
	for _, account := range []string{"", otherAccount} {
		s.until("the first copy is done", func() bool {
			sweep, err := s.store.Sweep(t.Context(), account, "backfill")
			return err == nil && !sweep.LastSuccess.IsZero()
		})
		s.until("every history is held", func() bool {
			n, err := s.store.UnsyncedCount(t.Context(), account)
			return err == nil && n == 0
		})
	}
	// What was created within two seconds of the start may have come before it: it says
	// nothing of how fresh the mirror is.
	time.Sleep(time.Until(began.Add(4 * time.Second)))
	if err := traffic.Run(withChanges(t.Context())); err != nil && t.Context().Err() != nil {
		t.Fatal(err)
	}
	s.post("/v1/customers/"+s.customer, "metadata[seen]", "1")
	s.until("status says how fresh the mirror is", func() bool {
		resp, err := http.Get("http://" + s.app.Addrs().Ops + "/status") //nolint:noctx // the test's own process
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		var status app.Status
		return json.NewDecoder(resp.Body).Decode(&status) == nil && status.Freshness.P99 != nil
	})
	s.damage()
	return s
}

// withChanges lets traffic run for a moment, so that there are events.
func withChanges(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func (s *system) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience.Of(2 * time.Minute)); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s", what)
		}
	}
}

// damage puts evil texts wherever Stripe's may come to lie, and one of everything that a
// page can show.
func (s *system) damage() {
	s.t.Helper()
	// text is one that tries to be a script, or for pictures what would stand there.
	text := func(nice string) string {
		if s.evil == evil {
			return evil
		}
		return nice
	}
	ctx, at := s.t.Context(), time.Now().UTC().Truncate(time.Microsecond)
	check := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	// Of an account that no sweep looks at, so that nothing repairs them meanwhile.
	_, err := s.store.OpenFindings(ctx, []mirror.Finding{
		{Kind: mirror.DriftFieldMismatch, Account: "acct_9example", Customer: "cus_9example", Scope: mirror.ScopeBalance, Currency: "usd", Object: "cbtxn_9example", Expected: `{"description": ` + strings.ReplaceAll(fmt.Sprintf("%q", text("Goodwill for late delivery")), "\x1b", "") + `, "amount": -500}`, Actual: `{"description": "Goodwill", "amount": -500}`, Cause: text(mirror.CauseSilentEdit), FoundAt: at.Add(-3 * time.Hour)},
		{Kind: mirror.DriftBalanceMismatch, Account: "acct_9example", Customer: "cus_9example2", Scope: mirror.ScopeBalance, Currency: "usd", Expected: "-12550", Actual: "-10000", Cause: mirror.CauseSilentEdit, FoundAt: at.Add(-40 * time.Minute)},
		{Kind: mirror.DriftSummaryMismatch, Account: "acct_9example", Customer: "cus_9example3", Scope: mirror.ScopeCredits, Currency: "usd", Expected: "700", Actual: text("650"), Cause: mirror.CauseTornRead, FoundAt: at.Add(-time.Minute)},
	})
	check(err)
	for n := range 14 {
		target := mirror.Target{Scope: mirror.ScopeBalance, ID: fmt.Sprintf("cus_dead%08d", n)}
		reason := fmt.Sprintf("stripe GET /v1/customers/:id: unavailable: status 500: no answer for cus_dead%08d", n)
		if n >= 12 {
			reason = text("the database refuses the values: a number that is none")
		}
		check(s.store.SaveDeadLetter(ctx, mirror.DeadLetter{ID: mirror.DeadLetterID(target), Target: target, Reason: reason, Attempts: 12, EventIDs: []string{"evt_1"}, FirstFailedAt: at.Add(-time.Duration(n) * time.Hour), LastFailedAt: at, RetryAt: at.Add(time.Hour)}))
	}
	check(s.store.SaveDeadLetter(ctx, mirror.DeadLetter{ID: "dead_body", Reason: text("the event is not valid JSON"), Attempts: 1, Payload: []byte(text("{")), FirstFailedAt: at, LastFailedAt: at}))
	journal := s.store.(mirror.APIJournal)
	for n, outcome := range []mirror.APIOutcome{mirror.APIDone, mirror.APIRefused, mirror.APIUnknown} {
		check(journal.EndAPIWrite(ctx, mirror.APIWrite{ID: fmt.Sprint("req_", n), Created: at.Add(-time.Duration(n) * time.Minute), Key: map[bool]string{true: text("crm"), false: "billing"}[n == 1], Operation: "adjust", Customer: s.customer, Object: "cbtxn_" + fmt.Sprint(n), Amount: -2500, Currency: "usd", Outcome: outcome, Reason: map[bool]string{true: text("max_amount"), false: ""}[n == 1], RemoteAddr: "192.0.2.1", StripeRequestID: "req_stripe", Status: 200}))
	}
	_, err = s.store.RecordEvents(ctx, []mirror.Event{{ID: "evt_9example", Type: text("customer.updated"), Created: at, Object: "cus_9example", Customer: "cus_9example"}})
	check(err)
	// A month that is sealed.
	end := time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC)
	start := end.AddDate(0, -1, 0)
	check(s.store.(report.Books).Books(ctx, func(r report.Reader) error {
		seals, _, err := report.Draw(ctx, r, report.Filter{}, start.Format("2006-01"), start, end, at)
		if err == nil && len(seals) > 0 {
			err = s.store.(report.Sealer).SaveSeals(ctx, seals)
		}
		return err
	}))
}

// visitor is a browser with what it complained of.
type visitor struct {
	t   *testing.T
	ctx context.Context
	s   *system
	axe string

	mu         sync.Mutex
	complaints []string
	codes      map[string]int64
}

// chromium finds the browser, or skips the test.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	lacks(t, "chromium is not installed")
	return ""
}

func readAxe(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/axe/node_modules/axe-core/axe.min.js")
	if err != nil {
		lacks(t, "axe-core is not there: run make sdk")
	}
	return string(text)
}

// profile returns a folder for the browser, removed at the end. The browser's children may
// write into it for a moment after the browser itself has ended.
func profile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "console-browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for deadline := time.Now().Add(patience.Of(20 * time.Second)); ; time.Sleep(50 * time.Millisecond) {
			if err := os.RemoveAll(dir); err == nil || time.Now().After(deadline) {
				if err != nil {
					t.Error(err)
				}
				return
			}
		}
	})
	return dir
}

func openVisitor(t *testing.T, s *system) *visitor {
	t.Helper()
	o := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, chromedp.UserDataDir(profile(t)),
		chromedp.Flag("disable-quic", true), chromedp.Flag("no-first-run", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-gpu", true), chromedp.WindowSize(1280, 900))
	allocator, end := chromedp.NewExecAllocator(context.Background(), o...)
	t.Cleanup(end)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	v := &visitor{t: t, ctx: ctx, s: s, axe: readAxe(t), codes: map[string]int64{}}
	chromedp.ListenTarget(ctx, func(event any) {
		v.mu.Lock()
		defer v.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			v.complaints = append(v.complaints, "exception: "+e.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning {
				v.complaints = append(v.complaints, fmt.Sprintf("console: %s", e.Args[0].Value))
			}
		case *cdplog.EventEntryAdded:
			// The browser itself logs each answer of 4xx; pages that are refused are asked for.
			if e.Entry.Level == cdplog.LevelError && e.Entry.Source != cdplog.SourceNetwork || e.Entry.Source == cdplog.SourceSecurity {
				v.complaints = append(v.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
			}
		case *network.EventResponseReceived:
			if e.Type == network.ResourceTypeDocument {
				v.codes[e.Response.URL] = e.Response.Status
			}
		}
	})
	if err := chromedp.Run(ctx); err != nil { // the browser lives as long as the context of the first call
		t.Fatal(err)
	}
	v.run(network.Enable(), cdplog.Enable())
	return v
}

func (v *visitor) run(actions ...chromedp.Action) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, patience.Of(40*time.Second))
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		v.t.Fatalf("%v\n%s", err, v.text())
	}
}

func (v *visitor) text() string {
	var text string
	ctx, cancel := context.WithTimeout(v.ctx, patience.Of(5*time.Second))
	defer cancel()
	_ = chromedp.Run(ctx, chromedp.Evaluate(`location.href + "\n" + document.body.innerText`, &text))
	return text
}

// open opens a page, waits until its figures are there, and returns the code it came with.
func (v *visitor) open(path string) int64 {
	v.t.Helper()
	v.run(chromedp.Navigate(v.s.base + path))
	v.settle(path)
	v.mu.Lock()
	defer v.mu.Unlock()
	where := v.s.base + path
	if i := strings.IndexByte(where, '#'); i >= 0 {
		where = where[:i]
	}
	return v.codes[where]
}

// settle waits until the page shows figures that are still being computed.
func (v *visitor) settle(what string) {
	v.t.Helper()
	for deadline := time.Now().Add(patience.Of(30 * time.Second)); ; time.Sleep(50 * time.Millisecond) {
		pending := true
		ctx, cancel := context.WithTimeout(v.ctx, patience.Of(10*time.Second))
		err := chromedp.Run(ctx, chromedp.Evaluate(`document.readyState !== 'complete' || !!document.querySelector('main[data-pending]')`, &pending))
		cancel()
		if err == nil && !pending {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("%s is never there: %v\n%s", what, err, v.text())
		}
	}
}

// sound fails the test for everything that the browser or axe complains of on this page.
func (v *visitor) sound(what string) {
	v.t.Helper()
	var found string
	v.settle(what)
	v.calm(what)
	// A colour that is on its way to another one is none of either.
	v.run(chromedp.Evaluate(`document.getAnimations().forEach(a => a.finish()); 0`, nil))
	var there bool // half a megabyte is sent once for each page
	v.run(chromedp.Evaluate(`!!window.axe`, &there))
	if !there {
		v.run(chromedp.Evaluate(v.axe+"\n;0", nil))
	}
	v.run(chromedp.Evaluate(`axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations.filter(x => x.impact === 'serious' || x.impact === 'critical').map(x => x.id + ': ' + x.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + ' ' + n.failureSummary.replace(/\n/g, ' ')).join(' | '))))`, &found, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	if found != "[]" {
		v.t.Errorf("%s: axe: %s", what, found)
	}
	v.calm(what)
}

// calm fails the test for everything that the browser complains of.
func (v *visitor) calm(what string) {
	v.t.Helper()
	var evilRan bool
	v.run(chromedp.Evaluate(`!!window.evil`, &evilRan))
	if evilRan {
		v.t.Errorf("%s: a text of Stripe's ran as a script", what)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.complaints {
		v.t.Errorf("%s: %s", what, c)
	}
	v.complaints = nil
}

// signIn signs in as a person does.
func (v *visitor) signIn(key string) {
	v.t.Helper()
	v.run(network.ClearBrowserCookies())
	v.open("/sign-in")
	v.run(chromedp.SendKeys(`input[name=key]`, key), chromedp.Submit(`input[name=key]`), chromedp.WaitVisible(`nav.main`))
}

// press fills a form of the page and presses its button, as a person does, and returns what
// the page says then.
func (v *visitor) press(form string, values ...string) string {
	v.t.Helper()
	var said string
	v.run(chromedp.Evaluate(fmt.Sprintf(`document.querySelectorAll('details').forEach(d => d.open = true); document.querySelector(%q).scrollIntoView(); 0`, form), nil))
	for i := 0; i+1 < len(values); i += 2 {
		v.run(chromedp.SetValue(form+` [name=`+values[i]+`]`, values[i+1]))
	}
	v.run(chromedp.Evaluate(`document.body.dataset.old = '1'; 0`, nil), chromedp.Click(form+` button`, chromedp.NodeVisible))
	for deadline := time.Now().Add(patience.Of(30 * time.Second)); ; time.Sleep(20 * time.Millisecond) {
		var fresh bool
		ctx, cancel := context.WithTimeout(v.ctx, patience.Of(10*time.Second))
		err := chromedp.Run(ctx, chromedp.Evaluate(`!document.body.dataset.old && document.readyState === 'complete'`, &fresh))
		cancel()
		if err == nil && fresh {
			break
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("%s: nothing came of it\n%s", form, v.text())
		}
	}
	v.run(chromedp.Evaluate(`(document.querySelector('[role=status].message, [role=alert]') || {innerText: ''}).innerText`, &said))
	return said
}

func onDatabases(t *testing.T, run func(t *testing.T, database string)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		run(t, "sqlite:"+filepath.Join(t.TempDir(), "mirror.db"))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		run(t, pgtest.NewDatabase(t))
	})
}

// pagesOf are the addresses of all pages of a system, with a name for its picture.
func (s *system) pagesOf() [][2]string {
	s.t.Helper()
	findings, err := s.store.(console.Store).FindingList(s.t.Context(), mirror.FindingList{Limit: 50, Kind: mirror.DriftFieldMismatch})
	if err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(findings, func(f mirror.Finding) bool { return f.Kind == mirror.DriftFieldMismatch })
	target := mirror.DeadLetterID(mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_dead00000013"})
	c := "/customers/platform/" + s.customer
	return [][2]string{
		{"overview", "/"},
		{"customers", "/customers?sort=most&currency=usd"},
		{"customer", c},
		{"why", c + "/why"},
		{"statement", c + "/statement"},
		{"drift", "/drift"},
		{"finding", "/drift/" + findings[i].ID},
		{"dead", "/dead"},
		{"dead-reason", "/dead?list=1"},
		{"letter", "/dead/" + target},
		{"sweeps", "/sweeps"},
		{"books", "/books"},
		{"rollforward", "/books?tab=rollforward"},
		{"ageing", "/books?tab=ageing"},
		{"periods", "/books?tab=periods"},
		{"exports", "/exports"},
		{"writes", "/writes"},
		{"actions", "/writes?tab=actions"},
		{"webhooks", "/webhooks"},
		{"event", "/webhooks/evt_9example"},
		{"runbook", "/runbooks/CreditmirrorDriftOpen"},
		{"", "/customers"},
		{"", "/customers?set=unproven"},
		{"", "/customers?set=deleted"},
		{"", "/customers?sort=least&ledger=credits&currency=usd"},
		{"", "/customers?sort=fresh"},
		{"", "/customers?find=" + s.customer},
		{"", "/customers?find=in_none"},
		{"", "/drift?show=closed"},
		{"", "/dead/dead_body"},
		{"", "/books?as_of=2020-01-01"},
		{"", "/odd"},
		{"", "/customers?sort=most"},
	}
}

// Every page, for each right, in a browser: nothing runs that should not, nothing is
// complained of, and axe finds nothing serious; and every action by its buttons.
func TestInABrowser(t *testing.T) {
	chromium(t)
	readAxe(t)
	onDatabases(t, func(t *testing.T, database string) {
		s := openSystem(t, database, evil)
		v := openVisitor(t, s)
		v.open("/")
		v.sound("sign-in")
		v.signIn(actKey)
		var cookie string
		v.run(chromedp.Evaluate(`document.cookie`, &cookie))
		if cookie != "" {
			t.Errorf("scripts see the cookie %q", cookie)
		}
		for _, p := range s.pagesOf() {
			v.open(p[1])
			v.sound("on-call: " + p[1])
			if p[0] != "" && strings.HasSuffix(t.Name(), "SQLite") {
				v.look(p[0])
			}
		}
		v.scripts()
		v.actions()

		v.signIn(lookKey)
		for _, p := range s.pagesOf() {
			if code := v.open(p[1]); code >= 500 {
				t.Errorf("support: %s: %d", p[1], code)
			}
			var buttons int
			v.run(chromedp.Evaluate(`document.querySelectorAll('main form[method=post] button, main a[href*="/dead/confirm"]').length`, &buttons))
			if buttons > 0 {
				t.Errorf("support sees %d buttons at %s", buttons, p[1])
			}
			v.calm("support: " + p[1])
		}
		for _, path := range []string{"/customers/platform/" + s.customer + "/sync", "/sweeps/events/pause", "/dead/drop", "/webhooks/check", "/exports/verify"} {
			var code int
			v.run(chromedp.Evaluate(fmt.Sprintf(`fetch(%q, {method: 'POST', body: new URLSearchParams({reason: 'x', count: '1'})}).then(r => r.status)`, path), &code, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
			if code != http.StatusForbidden {
				t.Errorf("support, %s: %d", path, code)
			}
		}
		v.complaints = nil // the browser reports the refusals

		v.signIn(boundKey)
		for _, p := range s.pagesOf() {
			v.open(p[1])
			v.calm("bound: " + p[1])
		}
		for _, path := range []string{"/exports", "/writes"} {
			if code := v.open(path); code != http.StatusForbidden {
				t.Errorf("bound: %s: %d", path, code)
			}
		}
		v.open("/customers/platform/" + s.customer)
		if text := v.text(); strings.Contains(text, "Goodwill") || !strings.Contains(text, "Welcome credit") {
			t.Errorf("bound to credits sees:\n%s", text)
		}
		v.withoutScript()
		v.accountsApart()
	})
}

const (
	ownKey   = "own-key-0123456789abcdef"
	otherKey = "other-key-0123456789abcdef"
)

// accountsApart sees that a key that is bound to one account meets nothing of the other on
// any page, in any figure and in any download, though a customer has one id in both.
func (v *visitor) accountsApart() {
	v.t.Helper()
	ctx, store := v.t.Context(), v.s.store
	strangers := map[string][]string{otherAccount: {ownWords, ownAmount, "717171", "Goodwill for the outage", "cus_dead0000", "evt_9example", "cus_9example"}, "": {otherWords, otherAmount, "424242", otherAccount}}
	customers, err := store.(console.Store).FindCustomers(ctx, mirror.CustomerQuery{Limit: 500})
	if err != nil {
		v.t.Fatal(err)
	}
	for _, c := range customers {
		if c.Customer != v.s.twin {
			strangers[otherAccount] = append(strangers[otherAccount], c.Customer)
		}
	}
	// A letter and a finding of each account, of the same customer.
	for _, account := range []string{"", otherAccount} {
		words := map[string]string{"": ownWords, otherAccount: otherWords}[account]
		target := mirror.Target{Account: account, Scope: mirror.ScopeCredits, ID: v.s.twin}
		at := time.Now().UTC()
		if err := store.SaveDeadLetter(ctx, mirror.DeadLetter{ID: mirror.DeadLetterID(target), Target: target, Reason: words, Attempts: 12, FirstFailedAt: at, LastFailedAt: at, RetryAt: at.Add(time.Hour)}); err != nil {
			v.t.Fatal(err)
		}
	}
	name := func(account string) string {
		if account == "" {
			return "platform"
		}
		return account
	}
	for _, side := range []struct{ key, account, words, amount, minor, foreign string }{
		{otherKey, otherAccount, otherWords, otherAmount, "424242", ""}, {ownKey, "", ownWords, ownAmount, "717171", otherAccount},
	} {
		v.signIn(side.key)
		check := func(path, text string) {
			v.t.Helper()
			for _, stranger := range strangers[side.account] {
				if strings.Contains(text, stranger) {
					v.t.Errorf("a key of the account %q sees %q at %s", side.account, stranger, path)
				}
			}
		}
		twin := "/customers/" + name(side.account) + "/" + v.s.twin
		paths := []string{twin, twin + "/why", twin + "/statement", "/customers?find=" + v.s.twin, "/dead?list=1", "/dead?customer=" + v.s.twin, "/drift?show=closed"}
		for _, p := range v.s.pagesOf() {
			// Addresses that name a customer, letter or finding of the platform are asked for
			// below: a page may repeat what it was asked for.
			if side.account == "" || !strings.Contains(p[1], v.s.customer) && !strings.HasPrefix(p[1], "/dead/") && !strings.HasPrefix(p[1], "/drift/") && !strings.HasPrefix(p[1], "/webhooks/") {
				paths = append(paths, p[1])
			}
		}
		for _, path := range paths {
			v.open(path)
			var html string
			v.run(chromedp.Evaluate(`document.documentElement.outerHTML`, &html))
			check(path, html)
			v.calm(name(side.account) + ": " + path)
			switch path {
			case twin, twin + "/statement":
				if !strings.Contains(html, side.words) || !strings.Contains(html, side.amount) {
					v.t.Errorf("%s lacks its own:\n%s", path, v.text())
				}
			case "/", "/books":
				// The whole of the other account is one customer's; the platform has more.
				if side.account == otherAccount && !strings.Contains(html, otherAmount) {
					v.t.Errorf("%s does not count %s:\n%s", path, otherAmount, v.text())
				}
			case "/dead?list=1":
				if side.account == otherAccount && !strings.Contains(html, "1 letter<") {
					v.t.Errorf("%s counts others' letters:\n%s", path, v.text())
				}
			}
		}
		fetch := func(path string) (text string, code int) {
			v.t.Helper()
			var got []any
			v.run(chromedp.Evaluate(fmt.Sprintf(`fetch(%q).then(async r => [r.status, await r.text()])`, path), &got, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
			return got[1].(string), int(got[0].(float64))
		}
		for _, path := range []string{twin + "/statement.csv", "/books/balances.csv", "/books/rollforward.csv?by=month", "/books/ageing.csv", "/books/periods.csv"} {
			text, code := fetch(path)
			if code != http.StatusOK {
				v.t.Errorf("%s: %d %s", path, code, text)
			}
			check(path, text)
			if !strings.Contains(path, "periods") && side.account == otherAccount && !strings.Contains(text, side.minor) {
				v.t.Errorf("%s lacks %s:\n%s", path, side.minor, text)
			}
		}
		// The other account by name.
		foreign := "/customers/" + name(side.foreign) + "/" + v.s.twin
		letter := "/dead/" + mirror.DeadLetterID(mirror.Target{Account: side.foreign, Scope: mirror.ScopeCredits, ID: v.s.twin})
		for _, path := range []string{foreign, foreign + "/why", foreign + "/statement", foreign + "/statement.csv", letter, "/customers?account=" + name(side.foreign), "/dead?account=" + name(side.foreign)} {
			text, code := fetch(path)
			if code != http.StatusForbidden || strings.Contains(text, map[string]string{"": ownWords, otherAccount: otherWords}[side.foreign]) {
				v.t.Errorf("a key of %q, %s: %d", side.account, path, code)
			}
		}
		v.mu.Lock()
		v.complaints = nil // the browser reports the refusals
		v.mu.Unlock()
	}
}

// scripts tests the little that the script does.
func (v *visitor) scripts() {
	v.t.Helper()
	v.open("/customers/platform/" + v.s.customer)
	var copied, local string
	v.run(browser.SetPermission(&browser.PermissionDescriptor{Name: "clipboard-write"}, browser.PermissionSettingGranted).WithOrigin(v.s.base),
		browser.SetPermission(&browser.PermissionDescriptor{Name: "clipboard-read"}, browser.PermissionSettingGranted).WithOrigin(v.s.base))
	v.run(chromedp.Click(`main button.copy`, chromedp.NodeVisible), chromedp.WaitVisible(`button.copied`), chromedp.Evaluate(`document.getElementById('said').textContent`, &copied))
	if copied != "Copied "+v.s.customer {
		v.t.Errorf("copying says %q", copied)
	}
	v.run(chromedp.Evaluate(`[...document.querySelectorAll('main time')].every(t => t.title.endsWith(' UTC') && !t.textContent.endsWith(' UTC')) ? 'ok' : document.querySelector('main time').outerHTML`, &local))
	if local != "ok" {
		v.t.Errorf("times: %s", local)
	}
	// Keyboard alone: the first stop leads to the content.
	v.run(chromedp.KeyEvent("\t"), chromedp.Evaluate(`document.activeElement.className`, &local))
	v.sound("scripts")
}

// actions presses every button.
func (v *visitor) actions() {
	v.t.Helper()
	says := func(said, want string) {
		v.t.Helper()
		if !strings.Contains(said, want) {
			v.t.Errorf("the page says %q, want %q\n%s", said, want, v.text())
		}
		v.sound("after: " + want)
	}
	customer := "/customers/platform/" + v.s.customer
	v.open(customer)
	says(v.press(`form[action$="/sync"]`), "A sync of the customer is enqueued")
	v.s.until("the customer is read", func() bool {
		states, err := v.s.store.(console.Store).LedgerStates(v.t.Context(), "", v.s.customer)
		return err == nil && len(states) == 2 && time.Since(states[0].FullReadAt) < time.Minute
	})
	for _, p := range v.s.pagesOf() {
		if p[0] != "finding" {
			continue
		}
		v.open(p[1])
		says(v.press(`#accept`, "reason", "known: "+evil), "Accepted")
		says(v.press(`form[action$="/withdraw"]`, "reason", "not any more"), "Not accepted")
		says(v.press(`#accept`, "reason", "known since the import"), "Accepted")
	}
	v.open("/drift")
	v.sound("drift with an accepted one")
	v.open("/dead?class=" + url.QueryEscape(mirror.ClassOf("stripe GET /v1/customers/:id: unavailable: status 500: no answer for cus_dead00000001")))
	v.run(chromedp.Click(`#retry`), chromedp.WaitVisible(`#sure`))
	v.sound("confirm")
	says(v.press(`#sure`, "reason", "Stripe is back"), "12 dead letters tried again")
	v.open("/dead/dead_body")
	v.run(chromedp.Click(`a[href*="do=drop"]`), chromedp.WaitVisible(`#sure`))
	says(v.press(`#sure`, "reason", "not one of ours"), "1 dead letter dropped")
	if _, err := v.s.store.DeadLetter(v.t.Context(), "dead_body"); err == nil {
		v.t.Error("the letter is still there")
	}
	v.open("/sweeps")
	says(v.press(`form[action="/sweeps/balances/start"]`, "reason", "after the restore"), "Asked for")
	says(v.press(`form[action="/sweeps/events/pause"]`, "reason", "Stripe asked us to"), "Paused")
	v.open("/")
	if text := v.text(); !strings.Contains(text, "The sweep events is paused") {
		v.t.Errorf("the overview does not show the pause:\n%s", text)
	}
	v.open("/sweeps")
	says(v.press(`form[action="/sweeps/events/resume"]`), "Resumed")
	v.open("/webhooks")
	says(v.press(`form[action="/webhooks/check"]`), "Stripe was asked")
	if text := v.text(); !strings.Contains(text, "has every type that is needed") {
		v.t.Errorf("the check says:\n%s", text)
	}
	v.open("/exports")
	says(v.press(`form[action="/exports/verify"]`), "being read again")
	v.s.until("the copy is read", func() bool {
		list, err := v.s.store.(mirror.Operations).Actions(v.t.Context(), mirror.ActionFilter{Action: mirror.ActionVerifyCopy}, 1)
		return err == nil && len(list) == 1 && list[0].Outcome == mirror.ActionDone && list[0].Count == 0
	})
	v.open("/exports")
	v.sound("exports, verified")
	v.open("/writes?tab=actions")
	v.sound("what people did")
	v.run(chromedp.Click(`form[action="/sign-out"] button`), chromedp.WaitVisible(`input[name=key]`))
	v.settle("signed out") // a page that is left before it is whole is reported as aborted
	v.run(chromedp.Navigate(v.s.base+"/drift"), chromedp.WaitVisible(`input[name=key]`))
}

// withoutScript sees that pages are whole without scripts.
func (v *visitor) withoutScript() {
	v.t.Helper()
	v.run(emulation.SetScriptExecutionDisabled(true))
	defer v.run(emulation.SetScriptExecutionDisabled(false))
	v.run(chromedp.Navigate(v.s.base+"/customers"), chromedp.WaitVisible(`#customers`), chromedp.Click(`#customers a`), chromedp.WaitVisible(`#happenings`))
}

// look looks at the page in the dark, as wide as a phone, on a large screen, and printed.
func (v *visitor) look(name string) {
	v.t.Helper()
	for _, m := range modes[1:] {
		v.mode(m)
		v.sound(name + " " + m.kind)
		v.fits(name, m)
	}
	v.mode(largest)
	v.fits(name, largest)
	if name == "statement" {
		v.prints()
	}
	v.run(emulation.ClearDeviceMetricsOverride(), emulation.SetEmulatedMedia())
}

type mode struct {
	kind, scheme  string
	width, height int64
}

var modes = []mode{{"light", "light", 1280, 800}, {"dark", "dark", 1280, 800}, {"phone", "light", 400, 800}}

// largest is the widest window that pages are made for.
var largest = mode{"large", "light", 2560, 1440}

// prints sees that the statement alone goes to paper, dark on white, also for who works in
// the dark.
func (v *visitor) prints() {
	v.t.Helper()
	var shown string
	dark := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}
	v.run(emulation.SetEmulatedMedia().WithMedia("print").WithFeatures(dark), chromedp.Evaluate(`JSON.stringify({
  beside: [...document.querySelectorAll('header.top, footer, .skip, main form, main button')].filter(e => e.checkVisibility()).map(e => e.outerHTML.slice(0, 80)),
  rows: [...document.querySelectorAll('main tbody tr')].filter(e => e.checkVisibility()).length > 3,
  paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color, credit: getComputedStyle(document.querySelector('main .word.credit')).color,
})`, &shown))
	if want := `{"beside":[],"rows":true,"paper":"rgb(255, 255, 255)","ink":"rgb(0, 0, 0)","credit":"rgb(23, 105, 47)"}`; shown != want {
		v.t.Errorf("printed: %s, want %s", shown, want)
	}
}

func (v *visitor) mode(m mode) {
	v.t.Helper()
	v.run(emulation.SetDeviceMetricsOverride(m.width, m.height, 1, m.width < 500), emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: m.scheme}}))
}

func (v *visitor) fits(name string, m mode) {
	v.t.Helper()
	var wide bool
	v.run(chromedp.Evaluate(`document.documentElement.scrollWidth > window.innerWidth`, &wide))
	if wide {
		v.t.Errorf("%s is wider than the window at %d px", name, m.width)
	}
}

// The pictures of docs/console.md, where CREDITMIRROR_SCREENSHOTS names the folder for them.
func TestPictures(t *testing.T) {
	dir := os.Getenv("CREDITMIRROR_SCREENSHOTS")
	if dir == "" {
		t.Skip("CREDITMIRROR_SCREENSHOTS names no folder for the pictures of docs/console.md")
	}
	s := openSystem(t, "sqlite:"+filepath.Join(t.TempDir(), "mirror.db"), "Goodwill for late delivery")
	v := openVisitor(t, s)
	v.open("/")
	shoot := func(name string) {
		for _, m := range modes {
			v.mode(m)
			v.fits(name, m)
			var shot []byte
			v.run(chromedp.ActionFunc(func(ctx context.Context) error {
				_, _, _, _, _, size, err := page.GetLayoutMetrics().Do(ctx)
				if err == nil {
					shot, err = page.CaptureScreenshot().WithCaptureBeyondViewport(true).WithClip(&page.Viewport{Width: float64(m.width), Height: min(size.Height, 1000), Scale: 0.7}).Do(ctx)
				}
				return err
			}))
			if err := os.WriteFile(filepath.Join(dir, name+"-"+m.kind+".png"), fewColours(t, shot), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		v.run(emulation.ClearDeviceMetricsOverride(), emulation.SetEmulatedMedia())
	}
	shoot("sign-in")
	v.signIn(actKey)
	for _, p := range s.pagesOf() {
		if p[0] == "finding" {
			v.open(p[1])
			v.press(`#accept`, "reason", "known since the import")
			v.press(`form[action$="/withdraw"]`, "reason", "to be looked at again")
		}
		if p[0] == "actions" {
			v.open("/sweeps")
			v.press(`form[action="/sweeps/balances/start"]`, "reason", "after the restore")
			v.open("/webhooks")
			v.press(`form[action="/webhooks/check"]`)
		}
		if p[0] != "" {
			v.open(p[1])
			shoot(p[0])
		}
	}
	v.open("/dead/confirm?do=retry")
	shoot("confirm")
}

// fewColours makes a picture small: pages have few colours.
func fewColours(t *testing.T, shot []byte) []byte {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	used := map[color.RGBA]int{}
	near := func(c color.Color) color.RGBA {
		r, g, b, _ := c.RGBA()
		five := func(v uint32) uint8 { return uint8(v>>11<<3 | v>>13) } // of 16 bits the upper five, and again the first three of them
		return color.RGBA{five(r), five(g), five(b), 255}
	}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			used[near(img.At(x, y))]++
		}
	}
	most := slices.SortedFunc(maps.Keys(used), func(a, b color.RGBA) int { return used[b] - used[a] })
	palette := color.Palette{}
	for _, c := range most[:min(len(most), 128)] {
		palette = append(palette, c)
	}
	out := image.NewPaletted(img.Bounds(), palette)
	index := map[color.RGBA]uint8{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			c := near(img.At(x, y))
			i, ok := index[c]
			if !ok {
				i = uint8(palette.Index(c)) // 128 at most
				index[c] = i
			}
			out.SetColorIndex(x, y, i)
		}
	}
	var b bytes.Buffer
	enc := png.Encoder{CompressionLevel: png.BestCompression}
	if err := enc.Encode(&b, out); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
