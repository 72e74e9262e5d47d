package stripesim

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testKey = "sk_test_123456789012"

// hand is a clock that moves when the test says.
type hand struct{ unix atomic.Int64 }

func newHand() *hand {
	h := &hand{}
	h.unix.Store(1_750_000_000)
	return h
}

func (h *hand) now() time.Time  { return time.Unix(h.unix.Load(), 0) }
func (h *hand) forward(s int64) { h.unix.Add(s) }
func (h *hand) seconds() int64  { return h.unix.Load() }

// sim is a simulator behind a real HTTP server.
type sim struct {
	*Server
	t    testing.TB
	url  string
	hand *hand
	http *http.Client
}

func start(t testing.TB, o Options) *sim {
	t.Helper()
	h := newHand()
	if o.Now == nil {
		o.Now = h.now
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	t.Cleanup(func() {
		s.Close()
		client.CloseIdleConnections()
		srv.Close()
	})
	return &sim{Server: s, t: t, url: srv.URL, hand: h, http: client}
}

type obj = map[string]any

// answer is one decoded reply.
type answer struct {
	status int
	header http.Header
	raw    []byte
	obj
}

func (r answer) str(path string) string { s, _ := r.at(path).(string); return s }
func (r answer) num(path string) int64  { f, _ := r.at(path).(float64); return int64(f) }

func (r answer) at(path string) any {
	var v any = r.obj
	for _, k := range strings.Split(path, ".") {
		m, ok := v.(obj)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

func (r answer) data() []obj {
	var out []obj
	list, _ := r.obj["data"].([]any)
	for _, v := range list {
		out = append(out, v.(obj))
	}
	return out
}

func (r answer) ids() []string {
	out := []string{}
	for _, v := range r.data() {
		out = append(out, v["id"].(string))
	}
	return out
}

// encodeForm turns "k=v" pairs into an encoded form.
func encodeForm(pairs ...string) string {
	var b strings.Builder
	for i, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(k) + "=" + url.QueryEscape(v))
	}
	return b.String()
}

func (s *sim) request(method, path string, header http.Header, pairs ...string) (answer, error) {
	s.t.Helper()
	var body io.Reader
	target := s.url + path
	if method == http.MethodPost {
		body = strings.NewReader(encodeForm(pairs...))
	} else if len(pairs) > 0 {
		target += "?" + encodeForm(pairs...)
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testKey)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	r := answer{status: resp.StatusCode, header: resp.Header, raw: raw}
	_ = json.Unmarshal(raw, &r.obj)
	return r, nil
}

func (s *sim) do(method, path string, pairs ...string) answer {
	s.t.Helper()
	r, err := s.request(method, path, nil, pairs...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// must is do for requests that have to work.
func (s *sim) must(method, path string, pairs ...string) answer {
	s.t.Helper()
	r := s.do(method, path, pairs...)
	if r.status != 200 {
		s.t.Fatalf("%s %s %v: %d %s", method, path, pairs, r.status, r.raw)
	}
	if bad := loadSchemas().reply(r.obj); len(bad) > 0 {
		s.t.Fatalf("%s %s: the reply does not fit Stripe's schema: %v", method, path, bad)
	}
	return r
}

func (s *sim) get(path string, pairs ...string) answer {
	s.t.Helper()
	return s.must("GET", path, pairs...)
}

func (s *sim) post(path string, pairs ...string) answer {
	s.t.Helper()
	return s.must("POST", path, pairs...)
}

func (s *sim) customer(pairs ...string) string {
	s.t.Helper()
	return s.post("/v1/customers", pairs...).str("id")
}

func (s *sim) adjust(cus string, amount int64, currency string) answer {
	s.t.Helper()
	return s.post("/v1/customers/"+cus+"/balance_transactions", fmt.Sprintf("amount=%d", amount), "currency="+currency)
}

func (s *sim) grant(cus string, value int64, more ...string) answer {
	s.t.Helper()
	return s.post("/v1/billing/credit_grants", append([]string{
		"customer=" + cus, "amount[type]=monetary", "amount[monetary][currency]=usd", fmt.Sprintf("amount[monetary][value]=%d", value),
		"applicability_config[scope][price_type]=metered",
	}, more...)...)
}

// eventTypes returns the types of all events, oldest first.
func (s *sim) eventTypes(pairs ...string) []string {
	s.t.Helper()
	var out []string
	for _, e := range s.get("/v1/events", append(pairs, "limit=100")...).data() {
		out = append([]string{e["type"].(string)}, out...)
	}
	return out
}

func wantError(t *testing.T, r answer, status int, code, param string) {
	t.Helper()
	if r.status != status || r.str("error.code") != code || r.str("error.param") != param {
		t.Fatalf("got %d %s, want status %d code %q param %q", r.status, r.raw, status, code, param)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func equalJSON(t *testing.T, what string, got any, want string) {
	t.Helper()
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != want {
		t.Fatalf("%s: got %s, want %s", what, b, want)
	}
}
