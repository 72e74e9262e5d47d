package stripeapi

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
)

// hijack answers with raw bytes and closes the connection.
func hijack(t *testing.T, raw string, reset bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, raw)
		if reset {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
	}
}

// until ends a handler that hangs when its client is gone.
func until(r *http.Request) { <-r.Context().Done() }

// Faults of F22 and F23: each ends in bounded time and memory, in the right
// kind of error, and with nothing of the reply.
func TestFaults(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	row := string(fixture(t, "objects/customer_balance_transaction.adjustment.json"))
	with := func(old, new string) http.HandlerFunc {
		if !strings.Contains(row, old) {
			t.Fatalf("the fixture has no %s", old)
		}
		body := `{"object":"list","url":"/","has_more":false,"data":[` + strings.Replace(row, old, new, 1) + `]}`
		return once(200, body)
	}
	for _, c := range []struct {
		name     string
		handler  http.HandlerFunc
		want     error
		attempts int32 // with one retry
	}{
		{"drip of 1 byte/s", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			for range 100 {
				_, _ = w.Write([]byte(" "))
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(time.Second):
				}
			}
		}, ErrUnavailable, 2},
		{"stall before headers", func(_ http.ResponseWriter, r *http.Request) { until(r) }, ErrUnavailable, 2},
		{"stall after headers", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			until(r)
		}, ErrUnavailable, 2},
		{"stall after headers of a 500", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			w.(http.Flusher).Flush()
			until(r)
		}, ErrUnavailable, 2},
		{"closed without a reply", hijack(t, "", false), ErrUnavailable, 2},
		{"reset", hijack(t, head+"Content-Length: 100\r\n\r\n{", true), ErrUnavailable, 2},
		{"truncated", hijack(t, head+"Content-Length: 100\r\n\r\n{\"object\":", false), ErrUnavailable, 2},
		{"truncated chunk", hijack(t, head+"Transfer-Encoding: chunked\r\n\r\nff\r\n{", false), ErrUnavailable, 2},
		{"Content-Length too short", hijack(t, head+"Content-Length: 5\r\n\r\n{\"object\":\"list\"}", false), ErrGarbled, 2},
		{"not HTTP", hijack(t, "SSH-2.0-x\r\n", false), ErrUnavailable, 2},
		{"headers without end", hijack(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n{}", false), ErrUnavailable, 2},
		{"gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			zero := make([]byte, 1<<20)
			for range 200 {
				if _, err := z.Write(zero); err != nil {
					return
				}
			}
			_ = z.Close()
		}, ErrGarbled, 1},
		{"not gzip", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte("{}"))
		}, ErrUnavailable, 2},
		{"100 MB, declared", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(100<<20))
			flood(w)
		}, ErrGarbled, 1},
		{"100 MB, chunked", func(w http.ResponseWriter, _ *http.Request) { flood(w) }, ErrGarbled, 1},
		{"100 MB 502", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502); flood(w) }, ErrUnavailable, 2},
		{"HTML 502", once(502, "<html>bad gateway</html>"), ErrUnavailable, 2},
		{"HTML 503", once(503, "<html>"), ErrUnavailable, 2},
		{"HTML 200", once(200, "<html>maintenance</html>"), ErrGarbled, 2},
		{"HTML 404", once(404, "<html>no such page</html>"), ErrGarbled, 2},
		{"empty 404", once(404, ""), ErrGarbled, 2},
		{"empty 200", once(200, ""), ErrGarbled, 2},
		{"204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, ErrGarbled, 2},
		{"200 with error JSON", once(200, `{"error":{"type":"api_error","message":"x"}}`), ErrGarbled, 2},
		{"500 with null", once(500, "null"), ErrUnavailable, 2},
		{"500 with an odd error", once(500, `{"error":{"type":5,"payment_intent":[]}}`), ErrUnavailable, 2},
		{"NaN", with(`"amount": -500`, `"amount": NaN`), ErrGarbled, 2},
		{"2^63", with(`"amount": -500`, `"amount": 9223372036854775808`), ErrGarbled, 2},
		{"wrong type", with(`"amount": -500`, `"amount": "-500"`), ErrGarbled, 2},
		{"null", with(`"amount": -500`, `"amount": null`), ErrGarbled, 2},
		{"missing", with(`"amount": -500,`, ``), ErrGarbled, 2},
		{"unknown field", with(`"amount": -500`, `"new": [{}], "amount": -500`), nil, 1},
		{"has_more lies", once(200, `{"object":"list","has_more":true,"data":[]}`), ErrGarbled, 2},
		{"300,000 names", once(200, namesOf(300_000)), ErrGarbled, 2},
		{"300,000 names of a row", with(`"amount": -500`, `"new": `+namesOf(300_000)+`, "amount": -500`), ErrGarbled, 2},
		{"300,000 elements", once(200, `{"object":"list","has_more":false,"data":[`+strings.Repeat("0,", 300_000)+`0]}`), ErrGarbled, 2},
		{"deep", once(200, strings.Repeat("[", 1<<20)), ErrGarbled, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var attempts atomic.Int32
			timeout := time.Minute // only what hangs may run into it, on a busy machine too
			if strings.HasPrefix(c.name, "drip") || strings.HasPrefix(c.name, "stall") {
				timeout = 400 * time.Millisecond
			}
			client := newTestServer(t, Options{Retries: 1, Timeout: timeout, MaxReply: 4 << 20},
				func(w http.ResponseWriter, r *http.Request) { attempts.Add(1); c.handler(w, r) })
			start := time.Now()
			p, err := client.BalancePage(t.Context(), "", cusBalance, "", 10)
			took := time.Since(start)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				t.Errorf("%v passes for the caller's context", err)
			}
			if err != nil && (p.Rows != nil || p.Customer != nil || p.HasMore) {
				t.Errorf("%+v came with %v", p, err)
			}
			if n := attempts.Load(); n != c.attempts {
				t.Errorf("%d attempts, want %d", n, c.attempts)
			}
			if took > patience.Of(20*time.Second) {
				t.Errorf("took %v", took)
			}
		})
	}
}

func flood(w http.ResponseWriter) {
	chunk := []byte(strings.Repeat(" ", 1<<20))
	for range 100 {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// Not parallel: it measures what the process allocates.
func TestOversizeIsBoundedInMemory(t *testing.T) {
	c := newTestServer(t, Options{Retries: -1, MaxReply: 1 << 20, Timeout: 30 * time.Second},
		func(w http.ResponseWriter, _ *http.Request) { flood(w) })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.Customer(t.Context(), "", cusBalance)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrGarbled) || !strings.Contains(err.Error(), "longer than the bound") {
		t.Fatal(err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
		t.Errorf("allocated %d bytes for a bound of 1 MiB", used)
	}
}

func TestReplyOfExactlyTheBound(t *testing.T) {
	t.Parallel()
	body := string(fixture(t, "objects/customer.json"))
	for extra, want := range map[int]error{0: nil, -1: ErrGarbled} {
		for _, declared := range []bool{true, false} {
			c := newTestServer(t, Options{Retries: -1, MaxReply: int64(len(body) + extra)},
				func(w http.ResponseWriter, _ *http.Request) {
					if !declared {
						w.(http.Flusher).Flush()
					}
					_, _ = io.WriteString(w, body)
				})
			if _, err := c.Customer(t.Context(), "", cusBalance); !errors.Is(err, want) {
				t.Errorf("bound %+d, declared %v: %v", extra, declared, err)
			}
		}
	}
}

// One reply that makes no sense is no more than one: the next try decides.
func TestNonsenseIsAskedForAgain(t *testing.T) {
	t.Parallel()
	for name, nonsense := range map[string]string{
		"has_more with an empty page": `{"object":"list","has_more":true,"data":[]}`,
		"another object":              `{"object":"invoice","id":"in_1"}`,
		"no object":                   `[]`,
		"an element that is none":     `{"object":"list","has_more":false,"data":[5]}`,
	} {
		var asked atomic.Int32
		c := newTestServer(t, Options{Retries: 1}, func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1)%2 == 1 {
				_, _ = io.WriteString(w, nonsense)
				return
			}
			_, _ = io.WriteString(w, `{"object":"list","has_more":false,"data":[]}`)
		})
		for list, call := range map[string]func() error{
			"balance":   func() error { _, err := c.BalancePage(t.Context(), "", cusBalance, "", 10); return err },
			"credits":   func() error { _, err := c.CreditPage(t.Context(), "", cusBalance, "", 10); return err },
			"grants":    func() error { _, err := c.GrantsPage(t.Context(), "", "", "", 10); return err },
			"customers": func() error { _, err := c.CustomersPage(t.Context(), "", CustomersQuery{}); return err },
			"events":    func() error { _, err := c.EventsPage(t.Context(), "", EventsQuery{}); return err },
			"clocks":    func() error { _, _, err := c.TestClocks(t.Context(), "", "", 10); return err },
		} {
			asked.Store(0)
			want := int32(2)
			if name == "an element that is none" && list != "balance" && list != "credits" {
				want = 1 // it costs only itself
			}
			if err := call(); err != nil || asked.Load() != want {
				t.Errorf("%s, %s: %v after %d attempts", list, name, err, asked.Load())
			}
		}
	}
}

func TestNoRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	var stolen atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen.Add(1) }))
	t.Cleanup(thief.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		c := newTestServer(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", thief.URL+r.URL.Path)
			w.WriteHeader(status)
			_, _ = w.Write(fixture(t, "objects/customer.json")) // must not pass for a reply
		})
		if _, err := c.Customer(t.Context(), "", cusBalance); !errors.Is(err, ErrGarbled) {
			t.Errorf("%d: %v", status, err)
		}
		if _, _, err := c.CreateGrant(t.Context(), "", nil, ""); !errors.Is(err, ErrGarbled) {
			t.Errorf("%d: %v", status, err)
		}
	}
	if n := stolen.Load(); n != 0 {
		t.Errorf("%d requests followed a redirect", n)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + l.Addr().String()
	_ = l.Close()
	c := newTestClient(t, Options{Retries: -1}, base)
	_, err = c.Customer(t.Context(), "", cusBalance)
	if !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), cusBalance) {
		t.Errorf("%v", err)
	}
}

// Cancellation ends a call at once, wherever it hangs.
func TestCancellationIsPrompt(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]func(http.ResponseWriter, *http.Request, func()){
		"before headers": func(_ http.ResponseWriter, r *http.Request, reached func()) { reached(); until(r) },
		"in the body": func(w http.ResponseWriter, r *http.Request, reached func()) {
			w.WriteHeader(200)
			_, _ = w.Write([]byte("{"))
			w.(http.Flusher).Flush()
			reached()
			until(r)
		},
		"in the body of a 500": func(w http.ResponseWriter, r *http.Request, reached func()) {
			w.WriteHeader(500)
			w.(http.Flusher).Flush()
			reached()
			until(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			var at atomic.Int64
			c := newTestServer(t, Options{Timeout: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
				h(w, r, func() { at.Store(time.Now().UnixNano()); cancel() })
			})
			_, err := c.Customer(ctx, "", cusBalance)
			if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) {
				t.Errorf("%v", err)
			}
			if took := time.Since(time.Unix(0, at.Load())); took > patience.Of(3*time.Second) {
				t.Errorf("took %v to end", took)
			}
		})
	}
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		c := newTestServer(t, Options{Timeout: time.Minute}, func(_ http.ResponseWriter, r *http.Request) { until(r) })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := c.Customer(ctx, "", cusBalance); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) {
			t.Errorf("%v", err)
		}
	})
}
