package main

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/creditmirror/creditmirror/stripesim"
)

// spans is a collector that keeps what it is sent.
type spans struct {
	mu    sync.Mutex
	names map[string]int
	child int    // calls to Stripe inside of a sync
	text  string // everything, to look for secrets
	serve string // service.name
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	raw, err := io.ReadAll(body)
	var export collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(raw, &export) != nil {
		http.Error(w, "not spans", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text += export.String()
	for _, resource := range export.ResourceSpans {
		for _, a := range resource.Resource.Attributes {
			if a.Key == "service.name" {
				s.serve = a.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				s.names[span.Name]++
				if len(span.ParentSpanId) > 0 && strings.Contains(span.Name, "GET") {
					s.child++
				}
			}
		}
	}
}

// Off by default; with the standard variable set, syncs are sent with the calls to
// Stripe inside of them, and no secret.
func TestTracing(t *testing.T) {
	got := &spans{names: map[string]int{}}
	collect := httptest.NewServer(got)
	defer collect.Close()
	sim, err := stripesim.New(stripesim.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	headers := make(chan http.Header, 1000)
	stripe := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case headers <- r.Header.Clone():
		default:
		}
		sim.Handler().ServeHTTP(w, r)
	}))
	defer stripe.Close()
	traffic, err := stripesim.NewTraffic(sim, stripesim.TrafficOptions{Seed: 1, Customers: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	serve := func(more ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		environ := append([]string{
			"STRIPE_API_KEY=sk_test_Canary", "STRIPE_WEBHOOK_SECRET=whsec_Canary", "STRIPE_API_BASE=" + stripe.URL,
			"CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "m.db"), "CREDITMIRROR_WEBHOOK_ADDR=127.0.0.1:0",
			"CREDITMIRROR_API_ADDR=127.0.0.1:0", "CREDITMIRROR_OPS_ADDR=127.0.0.1:0",
		}, more...)
		if code := run(ctx, []string{"serve"}, environ, io.Discard, io.Discard); code != 0 {
			t.Fatalf("serve: exit %d", code)
		}
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collect.URL) // the exporter reads the process's own
	serve()
	serve("OTEL_EXPORTER_OTLP_ENDPOINT="+collect.URL, "OTEL_SDK_DISABLED=true")
	if len(got.names) > 0 {
		t.Fatalf("sent without being asked: %v", got.names)
	}
	serve("OTEL_EXPORTER_OTLP_ENDPOINT=" + collect.URL)
	got.mu.Lock()
	defer got.mu.Unlock()
	if got.names["sync balance"] < 5 || got.child == 0 || got.serve != "creditmirror" {
		t.Fatalf("spans %v, %d calls inside of a sync, of service %q", got.names, got.child, got.serve)
	}
	t.Logf("spans: %v", got.names)
	if strings.Contains(got.text, "Canary") {
		t.Error("a secret is sent to the collector")
	}
	close(headers)
	for h := range headers {
		if h.Get("Traceparent") != "" {
			t.Fatal("Stripe is told of our traces")
		}
	}
}

func TestTracingRefusesWhatItHasNot(t *testing.T) {
	t.Parallel()
	environ := []string{
		"STRIPE_API_KEY=sk_test_x", "STRIPE_WEBHOOK_SECRET=whsec_x", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1",
		"CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "m.db"),
	}
	for _, wrong := range []string{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_TRACES_EXPORTER=zipkin"} {
		if code, _, errOut := cli(t, append(environ, wrong), "serve"); code != 2 || !strings.Contains(errOut, strings.Split(wrong, "=")[0]) {
			t.Errorf("%s: exit %d, %s", wrong, code, errOut)
		}
	}
}
