package stripesim

import (
	"context"
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
