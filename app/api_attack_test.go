package app

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// raw sends bytes to the API and reads one answer; 0 when there is none.
func (s *served) raw(request string) (int, string) {
	s.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.api, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		return 0, ""
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // a connection that ends in the middle is an answer too
	return resp.StatusCode, string(body)
}

// What no client library would send over a socket ends in a 4xx or 501, changes nothing at Stripe and reveals
// nothing of the inside.
func TestAttacksOnTheAPI(t *testing.T) {
	t.Parallel()
	s := serveAPI(t, servedOptions{sim: ordered})
	cus := s.customer()
	path := "/v1/customers/" + cus + "/balance_transactions"
	s.post(path, balanceForm("-1")).id(t)
	form := "amount=-5&currency=usd"
	length := fmt.Sprintf("Content-Length: %d", len(form))
	head := func(line string, headers ...string) string {
		return strings.Join(append([]string{
			line + " HTTP/1.1", "Host: evil.example", "Authorization: Bearer " + writeKey,
			"Content-Type: application/x-www-form-urlencoded", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Host: evil.example",
		}, headers...), "\r\n") + "\r\n\r\n"
	}
	for _, c := range []struct {
		name, send string
		codes      []int
	}{
		{"length and chunks", head("POST "+path, length, "Transfer-Encoding: chunked") + "0\r\n\r\n" + form, []int{400}},
		{"two lengths", head("POST "+path, length, "Content-Length: 5") + form, []int{400}},
		{"negative length", head("POST "+path, "Content-Length: -1") + form, []int{400}},
		{"unknown coding", head("POST "+path, "Transfer-Encoding: xchunked") + form, []int{501}},
		{"two codings", head("POST "+path, "Transfer-Encoding: chunked, identity") + form, []int{501}},
		{"bare LF chunk", head("POST "+path, "Transfer-Encoding: chunked") + fmt.Sprintf("%x\n%s\n0\n\n", len(form), form), []int{400}},
		{"space before colon", head("POST "+path, "Content-Length : 5") + form, []int{400}},
		{"NUL in a header", head("POST "+path, "X: a\x00b", length) + form, []int{400}},
		{"no host", strings.Replace(head("POST "+path, length), "Host: evil.example\r\n", "", 1) + form, []int{400}},
		{"huge header", head("GET "+path, "X: "+strings.Repeat("a", 64<<10)), []int{431}},
		{"two keys", head("GET "+path, "Authorization: Bearer "+writeKey), []int{401}},
		{"other version", strings.Replace(head("GET "+path), "HTTP/1.1", "HTTP/9.9", 1), []int{400, 505}},
		{"trace", head("TRACE " + path), []int{404}},
		{"options", head("OPTIONS " + path), []int{404}},
		{"asterisk", head("OPTIONS *"), []int{404, 400, 200}}, // net/http's own answer
		{"put", head("PUT "+path, length) + form, []int{404}},
		{"connect", head("CONNECT evil.example:443"), []int{404, 400}},
		{"metrics", head("GET /metrics"), []int{404}},
		{"pprof", head("GET /debug/pprof/"), []int{404}},
		{"git", head("GET /.git/config"), []int{404}},
		{"dots", head("GET /v1/customers/../../etc/passwd"), []int{404}},
		{"escaped dots", head("GET /v1/customers/cus_%2e%2e%2f%2e%2e%2fv1%2fcharges"), []int{404}},
		{"dots upstream", head("POST /v1/customers/cus_%2e%2e%2f..%2fcharges/balance_transactions", length) + form, []int{404}},
		{"dots upstream, grant", head("POST /v1/billing/credit_grants/credgr_..%2F..%2Fx/void", "Content-Length: 0"), []int{404}},
		{"long id upstream", head("POST /v1/customers/cus_"+strings.Repeat("a", 300)+"/balance_transactions", length) + form, []int{404}},
		{"line feed in an id", head("POST /v1/customers/cus_%0d%0aX:y/balance_transactions", length) + form, []int{404}},
		{"key with line feed", head("POST "+path, length, "Idempotency-Key: a\x7fb") + form, []int{400}},
		{"SQL", head("GET " + path + "?starting_after=%27%20OR%201=1--"), []int{400}},
		{"absolute form", head("GET http://evil.example/v1/charges"), []int{404}},
	} {
		code, body := s.raw(c.send)
		ok := false
		for _, want := range c.codes {
			ok = ok || code == want
		}
		if !ok {
			t.Errorf("%s: %d %s, want %v", c.name, code, body, c.codes)
		}
		for _, inside := range []string{"SELECT", "sqlite", "goroutine", "panic", "/tmp", writeKey} {
			if strings.Contains(body, inside) {
				t.Errorf("%s: the answer holds %q: %s", c.name, inside, body)
			}
		}
	}
	s.agree(cus)
	if got := s.get(path).object(t)["data"].([]any); len(got) != 1 {
		t.Errorf("%d transactions, want the one that was asked for", len(got))
	}
}

// Logs hold no key, no body and nothing that a caller wrote, at any level; what a
// caller wrote comes back as data.
func TestAPILogsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	var logs lockedBuffer
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), &logs, zap.DebugLevel)
	s := serveAPI(t, servedOptions{sim: ordered, log: zap.New(core)})
	cus := s.customer()
	path := "/v1/customers/" + cus + "/balance_transactions"
	const evil = "<script>{{.}}\r\n level=error \x1b[31m \u202e secretword"
	form := balanceForm("-1")
	form.Set("description", evil)
	form.Set("metadata[x]", evil)
	id := s.post(path, form, "Idempotency-Key", "secretword").id(t)
	if got := s.get(path + "/" + id).object(t); got["description"] != evil {
		t.Errorf("%q", got["description"])
	}
	s.post(path, url.Values{"amount": {"secretword"}})
	s.get(path + "?starting_after=secretword")
	s.get("/v1/secretword")
	s.get(path, "Creditmirror-Max-Age", "0s")
	send(t, "GET", s.api, path, "wrong-secretword", nil)
	text := logs.String()
	for _, secret := range []string{"secretword", readKey, writeKey, "sk_test_served", "whsec_nobody", "goodwill"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
	if !strings.Contains(text, cus) || !strings.Contains(text, "api write") {
		t.Errorf("the log does not tell of the write:\n%s", text)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) Sync() error { return nil }

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
