package stripesim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
)

// needs returns the path of a program that a test drives. Without it the test is
// skipped, or fails where CREDITMIRROR_REQUIRE_SERVICES says that it must be there.
func needs(t *testing.T, names ...string) string {
	t.Helper()
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	if os.Getenv("CREDITMIRROR_REQUIRE_SERVICES") == "1" {
		t.Fatalf("%s is not installed, and CREDITMIRROR_REQUIRE_SERVICES=1", strings.Join(names, " or "))
	}
	t.Skipf("%s is not installed", strings.Join(names, " or "))
	return ""
}

// browser is a headless Chromium, driven over a pipe with its own protocol.
type browser struct {
	t       *testing.T
	in      *os.File
	out     *bufio.Reader
	session string
	n       int
}

func openBrowser(t *testing.T, flags ...string) *browser {
	t.Helper()
	path := needs(t, "chromium", "chromium-browser", "google-chrome")
	toR, toW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromR, fromW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	flags = append([]string{
		"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--user-data-dir=" + t.TempDir(), "--remote-debugging-pipe",
	}, flags...)
	cmd := exec.Command(path, append(flags, "about:blank")...)
	cmd.ExtraFiles = []*os.File{toR, fromW} // it reads 3 and writes 4
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = toR.Close()
	_ = fromW.Close()
	b := &browser{t: t, in: toW, out: bufio.NewReader(fromR)}
	t.Cleanup(func() {
		_, _ = toW.WriteString(`{"id":1000000,"method":"Browser.close"}` + "\x00")
		_ = toW.Close()
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		_ = fromR.Close()
	})
	var target struct {
		TargetID string `json:"targetId"`
	}
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var s struct {
		SessionID string `json:"sessionId"`
	}
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &s)
	b.session = s.SessionID
	return b
}

// call sends a command and waits for its answer; what comes in between are events.
// It reports whether there was one: not if the page was replaced meanwhile.
func (b *browser) call(method string, params, result any) bool {
	b.t.Helper()
	b.n++
	msg := map[string]any{"id": b.n, "method": method, "params": params}
	if b.session != "" {
		msg["sessionId"] = b.session
	}
	raw, err := json.Marshal(msg)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(raw, 0)); err != nil {
		b.t.Fatal(err)
	}
	for {
		raw, err := b.out.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		var a struct {
			ID     int             `json:"id"`
			Result json.RawMessage `json:"result"`
			Error  json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(raw[:len(raw)-1], &a); err != nil {
			b.t.Fatal(err)
		}
		switch {
		case a.ID != b.n:
		case bytes.Contains(a.Error, []byte("navigated or closed")):
			return false
		case a.Error != nil:
			b.t.Fatalf("%s: %s", method, a.Error)
		default:
			if result != nil {
				if err := json.Unmarshal(a.Result, result); err != nil {
					b.t.Fatal(err)
				}
			}
			return true
		}
	}
}

// eval runs an expression in the page and returns its value as text.
func (b *browser) eval(js string) string {
	b.t.Helper()
	var r struct {
		Result struct {
			Value any `json:"value"`
		} `json:"result"`
		Exception json.RawMessage `json:"exceptionDetails"`
	}
	if !b.call("Runtime.evaluate", map[string]any{"expression": js, "returnByValue": true, "awaitPromise": true}, &r) || r.Exception != nil {
		return "" // the page is being replaced
	}
	return fmt.Sprint(r.Result.Value)
}

// wait waits until an expression of the page is true.
func (b *browser) wait(js string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience.Of(20 * time.Second)); b.eval("String(!!("+js+"))") != "true"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("never: %s\n%s", js, b.eval("document.documentElement.outerHTML"))
		}
	}
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	b.wait(fmt.Sprintf("location.href === %q && document.readyState === 'complete' && document.querySelector('h1')", url))
}

// submit fills a form and presses its button as a user does.
func (b *browser) submit(form string, values map[string]string) {
	b.t.Helper()
	for name, v := range values {
		b.eval(fmt.Sprintf("document.querySelector(%q + ' [name=%s]').value = %q", form, name, v))
	}
	b.eval("document.body.dataset.old = '1'")
	b.eval(fmt.Sprintf("document.querySelector(%q + ' button').click()", form))
	b.wait("!document.body.dataset.old && document.readyState === 'complete'")
}

func TestConsoleInABrowser(t *testing.T) {
	t.Parallel()
	b := openBrowser(t)
	s := start(t, Options{})
	hook := receive(t, func(n int, _ *http.Request) int { return map[bool]int{true: 200, false: 500}[n > 0] })
	s.hook(hook.URL)
	var last string
	for i := range consoleRows + 3 {
		last = s.customer(fmt.Sprintf("name=<b>Number</b> %d", i), fmt.Sprintf("email=c%d@example.com", i))
		s.hand.forward(1)
	}
	s.adjust(last, -1234, "usd")
	s.grant(last, 777)

	b.open(s.url + "/")
	equal(t, "rows", b.eval("document.querySelectorAll('#customers tbody tr').length"), fmt.Sprint(consoleRows))
	if text := b.eval("document.querySelector('#customers tbody tr').innerText"); !strings.Contains(text, "12.34 USD credit") || !strings.Contains(text, "7.77 USD") {
		t.Errorf("the newest customer shows %q", text)
	}
	equal(t, "styled", b.eval("String(document.styleSheets[0].cssRules.length > 5)"), "true")
	b.eval("document.querySelector('#older').click()")
	b.wait("document.querySelectorAll('#customers tbody tr').length === 3")
	b.open(s.url + "/?find=" + last)
	b.eval("document.querySelector('#customers tbody a').click()")
	b.wait("document.querySelector('#transactions')")
	equal(t, "escaped", b.eval("String(document.querySelector('h1').innerText.startsWith('<b>Number</b>'))"), "true")
	equal(t, "transactions", b.eval("document.querySelectorAll('#transactions tbody tr').length"), "1")
	equal(t, "grant", b.eval("document.querySelector('#grants tbody td.state').innerText"), "granted")

	clock := s.post("/v1/test_helpers/test_clocks", "frozen_time=1000000", "name=Leap year").str("id")
	onClock := s.customer("test_clock=" + clock)
	b.open(s.url + "/")
	b.eval(fmt.Sprintf("document.querySelector('[name=clock]').value = %q", clock))
	b.submit("#search", nil)
	equal(t, "on the clock", b.eval("document.querySelector('#customers tbody').innerText.split('\\t')[0]"), onClock)
	equal(t, "rows", b.eval("document.querySelectorAll('#customers tbody tr').length"), "1")

	// What can be done to a customer, by its forms.
	b.open(s.url + "/console/customer?account=&id=" + onClock)
	b.submit("#do-grant", map[string]string{"amount": "20", "currency": "kwd", "expires": "1970-02-01T00:00", "name": "A gift"})
	equal(t, "grant", b.eval("document.querySelector('#grants tbody').innerText.includes('20.000 KWD')"), "true")
	b.eval("document.querySelector('#do-invoice [name=metered]').checked = true")
	b.submit("#do-invoice", map[string]string{"amount": "7.5", "currency": "kwd"})
	equal(t, "left", b.eval("document.querySelector('#left').innerText"), "12.500 KWD")
	b.submit("#do-balance", map[string]string{"amount": "1.2345", "currency": "kwd", "sign": "owed"})
	if text := b.eval("document.querySelector('[role=alert]').innerText"); !strings.Contains(text, "3 decimals of KWD") {
		t.Errorf("a wrong amount says %q", text)
	}
	equal(t, "what was typed", b.eval("document.querySelector('#do-balance [name=amount]').value"), "1.2345")
	b.submit("#do-balance", map[string]string{"amount": "1.234"})
	equal(t, "balance", b.eval("document.querySelector('#balance').innerText"), "1.234 KWD owed")
	b.submit("#do-advance", map[string]string{"by": "60d"})
	equal(t, "frozen", b.eval("document.querySelector('#frozen').innerText"), "1970-03-13 13:46:40")
	equal(t, "expired", b.eval("document.querySelector('#grants tbody td.state').innerText"), "expired")
	b.submit("#do-delete", nil)
	equal(t, "deleted", b.eval("document.querySelector('#deleted').innerText"), "deleted")
	equal(t, "no forms any more", b.eval("document.querySelectorAll('main form').length"), "0")

	// On a narrow screen nothing is wider than it.
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": false}, nil)
	event := s.get("/v1/events", "type=billing.credit_grant.created").ids()[0]
	for _, path := range []string{"/", "/console/customer?account=&id=" + last, "/console/events", "/console/event?id=" + event, "/console/endpoints", "/console/faults", "/console/clock"} {
		b.open(s.url + path)
		b.eval("document.querySelectorAll('details').forEach(d => d.open = true)")
		equal(t, path, b.eval("String(document.documentElement.scrollWidth <= document.documentElement.clientWidth)"), "true")
	}
	b.call("Emulation.clearDeviceMetricsOverride", map[string]any{}, nil)

	for _, k := range faultText { // a form for each fault, and it works
		b.open(s.url + "/console/faults")
		values := map[string]string{"count": "1", "customer": "cus_nobody"}
		if k.Delay {
			values["delay"] = "10ms"
		}
		b.submit("#fault-"+string(k.Kind), values)
	}
	rules := s.faults.get()
	equal(t, "rules", len(rules), len(replyFaults)+len(otherFaults))
	if err := s.SetFaults(append(Faults{{Kind: Fault500, Count: 1, Endpoint: "GET /v1/account"}}, rules...)); err != nil {
		t.Fatal(err)
	}
	equal(t, "struck", s.do("GET", "/v1/account").status, 500)
	b.submit("#fault-slow", map[string]string{"count": "1", "customer": "cus_nobody"})
	s.get("/v1/account") // another rule does not arm it again
	b.submit("#rules tbody tr:last-child", nil)
	s.get("/v1/account")
	if err := s.SetFaults(rules); err != nil {
		t.Fatal(err)
	}
	b.open(s.url + "/console/faults")
	for i, k := range faultText {
		equal(t, "kind", rules[i].Kind, k.Kind)
		equal(t, "customer", rules[i].Customer, "cus_nobody")
	}
	b.submit("#rules tbody tr", nil) // removes the first
	equal(t, "rules", len(s.faults.get()), len(rules)-1)
	b.submit("#fault-500", map[string]string{"probability": "2"})
	if text := b.eval("document.querySelector('[role=alert]').innerText"); !strings.Contains(text, "not within 0 and 1") {
		t.Errorf("a wrong form says %q", text)
	}

	if err := s.FreezeClock(time.Time{}); err != nil {
		t.Fatal(err)
	}
	before := s.Clock().Now
	b.open(s.url + "/console/clock")
	b.submit("form:nth-of-type(2)", map[string]string{"by": "2d"})
	equal(t, "advanced", s.Clock().Now.Sub(before), 48*time.Hour)
	b.submit("form:nth-of-type(1)", nil)
	equal(t, "released", s.Clock().Virtual, false)

	b.open(s.url + "/console/events?type=billing.*")
	equal(t, "events", b.eval("document.querySelectorAll('#events tbody tr').length"), fmt.Sprint(len(s.get("/v1/events", "type=billing.*", "limit=100").data())))
	if text := b.eval("document.querySelector('#events tbody').innerText"); !strings.Contains(text, "1.: 500") || !strings.Contains(text, "pending") {
		if !strings.Contains(text, ".: 200") {
			t.Errorf("deliveries show %q", text)
		}
	}
}

// Without a browser: what it would not let through, or not show.
func TestConsoleRefuses(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Accounts: []string{"acct_a"}})
	get := func(method, path string, header http.Header, v url.Values) *http.Response {
		t.Helper()
		req, err := http.NewRequest(method, s.url+path, strings.NewReader(v.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		client := &http.Client{Transport: s.http.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	chaos := url.Values{"preset": {"chaos"}}
	equal(t, "other origin", get("POST", "/console/faults", http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}, chaos).StatusCode, 403)
	equal(t, "own origin", get("POST", "/console/faults", http.Header{"Sec-Fetch-Site": {"same-origin"}}, chaos).StatusCode, 303)
	equal(t, "rules", len(s.faults.get()), len(Chaos()))
	get("POST", "/console/faults", nil, url.Values{"preset": {"none"}})
	for _, v := range []url.Values{
		{"kind": {"odd"}, "count": {"1"}},
		{"kind": {"500"}},
		{"kind": {"500"}, "count": {"x"}},
		{"kind": {"slow"}, "count": {"1"}, "delay": {"x"}},
		{"kind": {"500"}, "probability": {"x"}},
		{"remove": {"7"}},
		{},
	} {
		equal(t, v.Encode(), get("POST", "/console/faults", nil, v).StatusCode, 400)
	}
	for _, v := range []url.Values{{"do": {"advance"}, "by": {"soon"}}, {"do": {"advance"}, "by": {"-1h"}}, {}} {
		equal(t, v.Encode(), get("POST", "/console/clock", nil, v).StatusCode, 400)
	}
	equal(t, "no account", get("GET", "/?account=acct_no", nil, nil).StatusCode, 404)
	equal(t, "account", get("GET", "/?account=acct_a", nil, nil).StatusCode, 200)
	equal(t, "no customer", get("GET", "/console/customer?id=cus_no", nil, nil).StatusCode, 404)
	equal(t, "no page", get("GET", "/console/odd", nil, nil).StatusCode, 404)
	if csp := get("GET", "/", nil, nil).Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
		t.Errorf("policy %q", csp)
	}
}

// browse is a client of the page that shows redirects.
func (s *sim) browse(method, path string, pairs ...string) (status int, location, body string) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(encodeForm(pairs...)))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := &http.Client{Transport: s.http.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Location"), string(raw)
}

// The page's forms do what the API does, and say what it says.
func TestConsoleActsOnCustomers(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Accounts: []string{"acct_a"}})
	cus := s.customer("name=Ada")
	page := "/console/customer?account=&id=" + cus
	good := func(pairs ...string) {
		t.Helper()
		s.hand.forward(1) // so that the newest is first
		if status, to, body := s.browse("POST", page, pairs...); status != 303 || to != page {
			t.Fatalf("%v: %d %q %s", pairs, status, to, body)
		}
	}
	bad := func(status int, want string, pairs ...string) {
		t.Helper()
		events := len(s.eventTypes())
		got, _, body := s.browse("POST", page, pairs...)
		if _, after, ok := strings.Cut(body, `role="alert">`); got != status || !ok || !strings.HasPrefix(html.UnescapeString(after), want) {
			t.Errorf("%v: %d %.200s, want %d %s", pairs, got, after, status, want)
		}
		equal(t, "events", len(s.eventTypes()), events)
	}
	good("do=balance", "amount=12.34", "currency=USD", "sign=credit", "description=Sorry")
	good("do=balance", "amount=1500", "currency=jpy", "sign=owed")
	txns := s.get("/v1/customers/" + cus + "/balance_transactions").data()
	equal(t, "yen", fmt.Sprintln(txns[0]["amount"], txns[0]["currency"]), "1500 jpy\n")
	equal(t, "dollars", fmt.Sprintln(txns[1]["amount"], txns[1]["currency"], txns[1]["description"], txns[1]["type"]), "-1234 usd Sorry adjustment\n")
	equal(t, "asked for", s.get("/v1/events", "type=customer.updated", "limit=1").data()[0]["request"].(obj)["id"] != nil, true)
	bad(400, "Missing required param: amount.", "do=balance", "currency=usd")
	bad(400, "Missing required param: currency.", "do=balance", "amount=1")
	bad(400, "Invalid currency: xxx", "do=balance", "amount=1", "currency=xxx")
	bad(400, "Invalid integer: amount must not be zero", "do=balance", "amount=0", "currency=usd")
	bad(400, "Invalid integer: amount is too large", "do=balance", "amount=99999999999", "currency=usd")
	for _, amount := range []string{"1.234", "-1", "+1", "1,000", "1e3", "x"} {
		status, _, _ := s.browse("POST", page, "do=balance", "amount="+amount, "currency=usd")
		equal(t, amount, status, 400)
	}

	good("do=grant", "amount=50", "currency=usd", "category=promotional", fmt.Sprintf("expires=%s", time.Unix(s.hand.seconds()+3600, 0).UTC().Format("2006-01-02T15:04")), "name=Gift")
	good("do=grant", "amount=0.75", "currency=usd", "category=paid")
	grants := s.get("/v1/billing/credit_grants", "customer="+cus)
	equal(t, "categories", fmt.Sprintln(grants.data()[0]["category"], grants.data()[1]["category"]), "paid promotional\n")
	if at := int64(grants.data()[1]["expires_at"].(float64)) - s.hand.seconds(); at <= 3600-70 || at > 3600 {
		t.Errorf("expires in %d s", at)
	}
	bad(400, "expires_at must be in the future.", "do=grant", "amount=5", "currency=usd", "category=paid", "expires=2001-01-01T00:00")
	bad(400, "Invalid integer: soon", "do=grant", "amount=5", "currency=usd", "category=paid", "expires=soon")
	bad(400, "This value must be greater than or equal to 1.", "do=grant", "amount=0", "currency=usd", "category=paid")
	bad(404, "No such credit grant: 'credgr_no'", "do=void_grant", "object=credgr_no")

	good("do=invoice", "amount=30", "currency=usd", "metered=1") // of the gift, which expires first
	good("do=invoice", "amount=20", "currency=usd")              // of the balance, and the rest is due
	invoices := s.get("/v1/invoices", "customer="+cus).data()
	equal(t, "plain", fmt.Sprintln(invoices[0]["status"], invoices[0]["total"], invoices[0]["amount_due"]), "open 2000 766\n")
	equal(t, "metered", fmt.Sprintln(invoices[1]["status"], invoices[1]["subtotal"], invoices[1]["total"]), "paid 3000 0\n")
	bad(400, "You cannot void a credit grant", "do=void_grant", "object="+grants.ids()[1])
	good("do=expire_grant", "object="+grants.ids()[1])
	good("do=void_grant", "object="+grants.ids()[0])
	good("do=void_invoice", "object="+invoices[0]["id"].(string))
	good("do=invoice", "amount=20", "currency=usd", "metered=1") // no second price
	equal(t, "prices", len(s.get("/v1/prices").data()), 1)
	bad(400, "Missing required param: amount.", "do=invoice", "currency=usd")
	bad(400, "Missing required param: currency.", "do=invoice", "amount=1")
	if status, _, _ := s.browse("POST", page, "do=invoice", "amount=99999999999", "currency=usd"); status != 400 {
		t.Errorf("too much: %d", status)
	}
	for _, i := range s.get("/v1/invoices", "customer="+cus).data() {
		if i["status"] == "draft" {
			t.Errorf("a draft stays: %v", i["id"])
		}
	}
	bad(400, "the clock is advanced by a duration", "do=advance", "by=soon")
	bad(404, "No such test clock", "do=advance", "by=1d")
	bad(400, "Nothing was asked for.")

	_, _, body := s.browse("GET", page)
	for _, want := range []string{`title="1500 in the API">1,500 JPY <span class="word owed">owed`, `12.34 USD <span class="word credit">credit`, ">Gift<"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not show %s", want)
		}
	}
	if status, _, _ := s.browse("POST", "/console/customer?account=acct_a&id="+cus, "do=delete"); status != 404 {
		t.Errorf("of another account: %d", status)
	}
	if status, _, _ := s.browse("POST", "/console/customer?account=acct_no&id="+cus, "do=delete"); status != 404 {
		t.Errorf("of no account: %d", status)
	}
	good("do=delete")
	equal(t, "deleted", s.get("/v1/customers/"+cus).at("deleted"), true)
	bad(404, "No such customer: '"+cus+"'", "do=balance", "amount=1", "currency=usd")
}

// A page of another origin changes nothing, whatever form it sends.
func TestConsoleFormsAreOfThePage(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	hook, _ := s.hook("http://127.0.0.1:1/")
	event := s.get("/v1/events").ids()[0]
	for path, form := range map[string]string{
		"/console/customer?account=&id=" + cus: "do=delete", "/console/event?id=" + event: "endpoint=" + hook, "/console/endpoints": "do=disable&id=" + hook,
	} {
		req, err := http.NewRequest("POST", s.url+path, strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}
		resp, err := s.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		equal(t, path, resp.StatusCode, 403)
	}
	equal(t, "there", s.get("/v1/customers/"+cus).str("id"), cus)
	equal(t, "enabled", s.get("/v1/webhook_endpoints/"+hook).str("status"), "enabled")
	equal(t, "attempts", len(s.Attempts(event)), 0)
}

// An event opens to its JSON and its deliveries, and is delivered again when asked.
func TestConsoleRedelivers(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Delivery: Delivery{Attempts: 1}})
	answers := map[bool]int{true: 503, false: 200}
	r := receive(t, func(n int, _ *http.Request) int { return answers[n == 1] })
	hook, _ := s.hook(r.URL, "enabled_events[]=customer.created")
	cus := s.customer("name=</pre><script>")
	s.settle()
	event := s.get("/v1/events").ids()[0]
	page := "/console/event?id=" + event
	_, _, body := s.browse("GET", page)
	for _, want := range []string{`class="bad">503<`, r.URL, cus, "1 pending", "&#34;type&#34;: &#34;customer.created&#34;", "&lt;/pre&gt;&lt;script&gt;"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not show %s: %s", want, body)
		}
	}
	for i := range 2 { // the second time changes no count
		if status, to, _ := s.browse("POST", page, "endpoint="+hook); status != 303 || to != page {
			t.Fatalf("%d %s", status, to)
		}
		s.settle()
		equal(t, "delivered", len(r.all()), i+2)
		equal(t, "pending", s.get("/v1/events/"+event).num("pending_webhooks"), 0)
	}
	equal(t, "the same event", len(slices.Compact(r.ids())), 1)
	_, _, body = s.browse("GET", page)
	if !strings.Contains(body, `class="good">200<`) || strings.Contains(body, "pending</span>") {
		t.Errorf("the page does not show what became of it: %s", body)
	}

	// One of later, which never counted it.
	later := receive(t, func(int, *http.Request) int { return 400 })
	young, _ := s.hook(later.URL)
	s.browse("POST", page, "endpoint="+young)
	s.settle()
	equal(t, "delivered", len(later.all()), 1)
	equal(t, "pending", s.get("/v1/events/"+event).num("pending_webhooks"), 0)

	s.adjust(cus, -5, "usd")
	update := s.get("/v1/events", "type=customer.updated").ids()[0]
	for _, tt := range []struct {
		event, endpoint string
		status          int
		want            string
	}{
		{"evt_no", hook, 404, "No such event"},
		{event, "we_no", 400, "No such webhook endpoint"},
		{update, hook, 400, "does not take events of this type"},
	} {
		status, _, body := s.browse("POST", "/console/event?id="+tt.event, "endpoint="+tt.endpoint)
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%v: %d %s", tt, status, body)
		}
	}
}

// Endpoints show all but their secret, which a click opens, and can be switched.
func TestConsoleEndpoints(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Accounts: []string{"acct_a"}})
	r := receive(t, nil)
	id, secret := s.hook(r.URL, "enabled_events[]=customer.created", "enabled_events[]=customer.updated", "enabled_events[]=customer.deleted", "connect=true", "api_version=2025-03-31.basil")
	page := "/console/endpoints"
	_, _, body := s.browse("GET", page)
	for _, want := range []string{r.URL, id, "2025-03-31.basil", "3 types", "customer.deleted", `connect">Connect`, ">enabled<"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not show %s", want)
		}
	}
	if _, after, _ := strings.Cut(body, `<details class="secret">`); !strings.Contains(after[:strings.Index(after, "</details>")], secret) {
		t.Error("the secret is not behind a click")
	}
	equal(t, "shown once", strings.Count(body, secret), 1)
	switchTo := func(id, do, status string) {
		t.Helper()
		if code, to, _ := s.browse("POST", page, "id="+id, "do="+do); code != 303 || to != page {
			t.Fatalf("%d %s", code, to)
		}
		_, _, body := s.browse("GET", page)
		if !strings.Contains(body, ">"+status+"<") {
			t.Errorf("not %s", status)
		}
	}
	switchTo(id, "disable", "disabled")
	equal(t, "status", s.get("/v1/webhook_endpoints/"+id).str("status"), "disabled")
	s.customer()
	event := s.get("/v1/events").ids()[0]
	if code, _, body := s.browse("POST", "/console/event?id="+event, "endpoint="+id); code != 400 || !strings.Contains(body, "is disabled") {
		t.Errorf("delivered to a disabled endpoint: %d", code)
	}
	switchTo(id, "enable", "enabled")
	equal(t, "status", s.get("/v1/webhook_endpoints/"+id).str("status"), "enabled")
	if code, _, _ := s.browse("POST", page, "id=we_no", "do=enable"); code != 404 {
		t.Errorf("no endpoint: %d", code)
	}
	if code, _, _ := s.browse("POST", page, "id="+id, "do=explode"); code != 400 {
		t.Errorf("no action: %d", code)
	}
	equal(t, "nothing sent", len(r.all()), 0)
}
