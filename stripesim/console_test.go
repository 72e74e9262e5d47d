package stripesim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
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

func openBrowser(t *testing.T) *browser {
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
	cmd := exec.Command(path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
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
// It tells whether there was one: not if the page was replaced meanwhile.
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
	if !b.call("Runtime.evaluate", map[string]any{"expression": js, "returnByValue": true}, &r) || r.Exception != nil {
		return "" // the page is being replaced
	}
	return fmt.Sprint(r.Result.Value)
}

// wait waits until an expression of the page is true.
func (b *browser) wait(js string) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); b.eval("String(!!("+js+"))") != "true"; time.Sleep(10 * time.Millisecond) {
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
	if text := b.eval("document.querySelector('#customers tbody tr').innerText"); !strings.Contains(text, "-1234 usd") || !strings.Contains(text, "777 usd") {
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
	equal(t, "grant", b.eval("document.querySelector('#grants tbody tr td:last-child').innerText"), "granted")

	clock := s.post("/v1/test_helpers/test_clocks", "frozen_time=1000000", "name=Leap year").str("id")
	onClock := s.customer("test_clock=" + clock)
	b.open(s.url + "/")
	b.eval(fmt.Sprintf("document.querySelector('[name=clock]').value = %q", clock))
	b.submit("form", nil)
	equal(t, "on the clock", b.eval("document.querySelector('#customers tbody').innerText.split('\\t')[0]"), onClock)
	equal(t, "rows", b.eval("document.querySelectorAll('#customers tbody tr').length"), "1")

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
	equal(t, "events", b.eval("document.querySelectorAll('#events tbody tr').length"), "2")
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
