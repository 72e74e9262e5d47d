package stripeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const testKey = "sk_test_51NotARealKeyButLongEnough"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newTestServer serves h, and a client that calls it with short bounds.
func newTestServer(t *testing.T, o Options, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return newTestClient(t, o, srv.URL)
}

func newTestClient(t *testing.T, o Options, base string) *Client {
	t.Helper()
	if o.Key == "" {
		o.Key = testKey
	}
	o.Base = base
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// once answers every request with the same reply.
func once(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Request-Id", "req_test")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// listOf wraps objects in a list envelope.
func listOf(more bool, objects ...[]byte) []byte {
	b, err := json.Marshal(map[string]any{
		"object": "list", "url": "/v1/x", "has_more": more,
		"data": json.RawMessage("[" + string(bytes.Join(objects, []byte(","))) + "]"),
	})
	if err != nil {
		panic(err)
	}
	return b
}

// edit returns the object with members set; nil deletes one, json.RawMessage is
// put in as it is.
func edit(t testing.TB, raw []byte, kv ...any) []byte {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(kv); i += 2 {
		k := kv[i].(string)
		switch v := kv[i+1].(type) {
		case nil:
			delete(m, k)
		case json.RawMessage:
			m[k] = v
		default:
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			m[k] = b
		}
	}
	// Marshal would refuse what is not JSON, and some of it is wanted here.
	var b bytes.Buffer
	b.WriteByte('{')
	for k, v := range m {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.Write(quote(k))
		b.WriteByte(':')
		b.Write(v)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// spyLimiter notes what it is asked.
type spyLimiter struct {
	mu        sync.Mutex
	acquired  []string
	throttled []string
	err       error
}

func (l *spyLimiter) Acquire(_ context.Context, account, endpoint, purpose string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acquired = append(l.acquired, account+"|"+endpoint+"|"+purpose)
	return l.err
}

func (l *spyLimiter) Throttled(_ context.Context, account, endpoint string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.throttled = append(l.throttled, account+"|"+endpoint)
}
