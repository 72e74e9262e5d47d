package stripesim

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What a page in a browser can send, as it is sent, changes and reads nothing.
func TestPagesCannotDriveTheSimulator(t *testing.T) {
	t.Parallel()
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	const advance = `{"by":"1h"}`
	before := s.Clock()
	for _, c := range []struct {
		name, method, path, host, body string
		header                         []string
		status                         int
	}{
		{"a form of another site", "POST", "/_sim/clock/advance", "", advance, []string{"Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"}, 403},
		{"an older browser", "POST", "/_sim/clock/advance", "", advance, []string{"Origin", "https://evil.example", "Content-Type", "application/json"}, 403},
		{"another port of this machine", "POST", "/_sim/clock/advance", "", advance, []string{"Sec-Fetch-Site", "same-site", "Content-Type", "application/json"}, 403},
		{"a form of the console from elsewhere", "POST", "/console/clock", "", "by=1h", []string{"Sec-Fetch-Site", "cross-site", "Content-Type", "application/x-www-form-urlencoded"}, 403},
		{"the API from elsewhere", "POST", "/v1/customers", "", "", []string{"Sec-Fetch-Site", "cross-site", "Authorization", "Bearer sk_test_x"}, 403},
		{"text", "POST", "/_sim/clock/advance", "", advance, []string{"Content-Type", "text/plain"}, 415},
		{"no type", "POST", "/_sim/clock/advance", "", advance, nil, 415},
		{"a name of its own", "GET", "/_sim/truth", "evil.example", "", nil, 403},
		{"a name of its own, the console", "GET", "/", "evil.example:80", "", nil, 403},
		{"a name of its own, same-origin", "POST", "/_sim/clock/advance", "evil.example", advance, []string{"Sec-Fetch-Site", "same-origin", "Content-Type", "application/json"}, 403},
	} {
		r, err := http.NewRequestWithContext(context.Background(), c.method, server.URL+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if r.Host = c.host; c.host == "" {
			r.Host = strings.TrimPrefix(server.URL, "http://")
		}
		for i := 0; i < len(c.header); i += 2 {
			r.Header.Set(c.header[i], c.header[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.name, resp.StatusCode, c.status)
		}
	}
	if after := s.Clock(); after.Now.Sub(before.Now) > 30*time.Minute {
		t.Errorf("the clock was moved: %+v", after)
	}
}

// A page of somebody else, in a real browser on this machine, can neither drive nor read
// the simulator: not by requests, not by forms, and not by a name of its own that resolves
// to this machine.
func TestAPageElsewhereInABrowser(t *testing.T) {
	t.Parallel()
	b := openBrowser(t, "--host-resolver-rules=MAP evil.example 127.0.0.1")
	s := start(t, Options{})
	s.hook("http://127.0.0.1:1/hook") // its secret is what there is to read
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<h1>harmless</h1>")
	}))
	defer page.Close()
	state := func() string {
		clock, keys := s.control("GET", "/_sim/clock", ""), s.control("GET", "/_sim/keys", "")
		return fmt.Sprint(clock.at("virtual"), keys.status, s.control("GET", "/_sim/traffic", "").at("running"), len(s.get("/v1/customers").ids()))
	}
	before := state()
	try := func(js string) string {
		t.Helper()
		return b.eval(`(async () => { try { const r = await ` + js + `; return r.type + ' ' + r.status + ' ' + (await r.text()).slice(0, 200) } catch (e) { return 'refused: ' + e.message } })()`)
	}
	b.open(page.URL + "/")
	for what, js := range map[string]string{
		"moves the clock":     `fetch(%q + '/_sim/clock/advance', {method: 'POST', mode: 'no-cors', headers: {'Content-Type': 'text/plain'}, body: '{"by":"8760h"}'})`,
		"stops the clock":     `fetch(%q + '/_sim/clock', {method: 'PUT', body: '{"virtual":true}'})`,
		"revokes a key":       `fetch(%q + '/_sim/keys', {method: 'POST', mode: 'no-cors', body: '{"key":"sk_test_x","state":"revoked"}'})`,
		"starts traffic":      `fetch(%q + '/_sim/traffic', {method: 'POST', mode: 'no-cors', body: '{"customers":5,"rate":50}'})`,
		"makes a customer":    `fetch(%q + '/v1/customers', {method: 'POST', mode: 'no-cors', headers: {'Content-Type': 'application/x-www-form-urlencoded'}, body: 'name=x'})`,
		"empties all":         `fetch(%q + '/_sim/seed', {method: 'PUT', body: '{"seed":7}'})`,
		"reads the endpoints": `fetch(%q + '/_sim/endpoints')`,
	} {
		if got := try(fmt.Sprintf(js, s.url)); strings.Contains(got, "whsec_") || strings.HasPrefix(got, "cors 200") {
			t.Errorf("a page elsewhere %s: %s", what, got)
		}
	}
	b.eval(fmt.Sprintf(`document.body.innerHTML = '<iframe name=f></iframe><form target=f method=post enctype="text/plain" action="%s/_sim/clock/advance"><input name=\'{"by":"8760h","x":"\' value=\'"}\'></form>'; document.querySelector('form').submit(); document.querySelector('iframe').addEventListener('load', () => { document.title = 'sent' }); ''`, s.url))
	b.wait("document.title === 'sent'")
	// Its own name resolves to this machine: then the browser takes both for one origin.
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	b.call("Page.navigate", map[string]any{"url": "http://evil.example:" + port + "/"}, nil)
	b.wait("location.hostname === 'evil.example' && document.readyState === 'complete'")
	for _, path := range []string{"/_sim/endpoints", "/", "/v1/webhook_endpoints"} {
		if got := try(fmt.Sprintf("fetch(%q)", path)); !strings.HasPrefix(got, "basic 403") {
			t.Errorf("by a name that resolves here, %s: %s", path, got)
		}
	}
	if after := state(); after != before {
		t.Errorf("before %s, after %s", before, after)
	}
}
