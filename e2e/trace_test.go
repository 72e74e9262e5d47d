//go:build unix

package e2e

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
)

// collector keeps the spans that a process sends. What their JSON has to look like
// is held by package tracing.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	spans []span
	wrong []string
}

type span struct {
	TraceID, SpanID, ParentSpanID, Name string
	Attributes                          []struct {
		Key   string
		Value struct{ StringValue, IntValue string }
	}
}

func (s span) is(key, value string) bool {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.StringValue+a.Value.IntValue == value
		}
	}
	return false
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var request struct {
		ResourceSpans []struct{ ScopeSpans []struct{ Spans []span } }
	}
	z, err := gzip.NewReader(r.Body)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(z)
	}
	if err == nil {
		err = json.Unmarshal(text, &request)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("X-Token") != "token-of-the-collector-0123" {
		c.wrong = append(c.wrong, fmt.Sprint(r.URL.Path, err))
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, private := range []string{apiKey, "@example.com", "whsec_"} {
		if strings.Contains(string(text), private) {
			c.wrong = append(c.wrong, "it tells "+private)
		}
	}
	for _, rs := range request.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			c.spans = append(c.spans, ss.Spans...)
		}
	}
}

// way finds, in the trace of an event's webhook, the way from it to the commit.
func (c *collector) way(customer string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) > 0 {
		return nil, errors.New(c.wrong[0])
	}
	for _, webhook := range c.spans {
		if webhook.Name != "webhook" || !webhook.is("creditmirror.customer", customer) || !webhook.is("http.response.status_code", "200") {
			continue
		}
		way := []string{"webhook"}
		var sync span
		for _, s := range c.spans {
			if s.TraceID == webhook.TraceID && s.ParentSpanID == webhook.SpanID && s.is("creditmirror.outcome", "ok") {
				sync = s
				way = append(way, s.Name)
			}
		}
		for _, s := range c.spans {
			if s.TraceID == webhook.TraceID && s.ParentSpanID == sync.SpanID {
				way = append(way, "> "+s.Name)
			}
		}
		if sync.SpanID != "" {
			return way, nil
		}
	}
	return nil, fmt.Errorf("%d spans, and no way from a webhook of %s", len(c.spans), customer)
}

// TestTraceFromWebhookToCommit: the real binary's spans show how an event got from
// its webhook to the commit, and the last ones are sent at a stop.
func TestTraceFromWebhookToCommit(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		t.Parallel()
		c := newCollector(t)
		w := newWorld(t, b, setup{env: map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": c.URL, "OTEL_EXPORTER_OTLP_HEADERS": "x-token=token-of-the-collector-0123",
			"CREDITMIRROR_EVENTS_INTERVAL": "1h",
		}})
		w.secrets = append(w.secrets, "token-of-the-collector-0123") // no log may show it
		n := w.spawn(nil)
		w.copied()
		customer := w.stripe.customer("email", "somebody@example.com")
		w.stripe.credit(customer, 100, "usd")
		w.equal()
		var way []string
		eventually(t, 30*time.Second, "the trace arrives", func() (err error) {
			way, err = c.way(customer)
			return err
		})
		called := slices.ContainsFunc(way, func(s string) bool { return strings.HasPrefix(s, "> stripe ") })
		if way[1] != "sync balance" || !slices.Contains(way, "> mirror begin_sync") || !slices.Contains(way, "> mirror apply_balance") || !called {
			t.Errorf("the way is %q", way)
		}
		t.Logf("%q", way)
		eventually(t, 10*time.Second, "spans count as sent", that(func() bool { return n.metric("creditmirror_trace_spans_total", `outcome="sent"`) > 0 }))
		for _, lost := range []string{"queue_full", "refused", "unreachable"} {
			if v := n.metric("creditmirror_trace_spans_total", fmt.Sprintf("outcome=%q", lost)); v != 0 {
				t.Errorf("%v spans are %s", v, lost)
			}
		}

		last := w.stripe.customer()
		w.equal()
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.way(last); err != nil {
			t.Errorf("the last spans are not sent at the stop: %v", err)
		}
	})
}

// TestCollectorAwayF43: without its collector the program works as with it, and
// stops as soon.
func TestCollectorAwayF43(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	away := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(func() { close(hang); away.Close() })
	w := newWorld(t, embedded, setup{env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": away.URL}})
	n := w.spawn(nil)
	customer := w.stripe.customer()
	w.stripe.credit(customer, 100, "usd")
	w.equal()
	began := time.Now()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > patience.Of(8*time.Second) {
		t.Errorf("the stop took %v", took)
	}
	if !strings.Contains(w.log.String(), "trace spans were dropped") {
		t.Error("the log does not tell that spans are dropped")
	}
}
