package api

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/mirror"
)

// A store that fails is a 503 that says nothing of it; the log has it all.
func TestStoreFailure(t *testing.T) {
	t.Parallel()
	const secret = "SQLSTATE 42P01 relation customers password=hunter2"
	targets := []string{
		pathBalance, pathTxns, pathTxns + "?starting_after=cbtxn_x", pathTxns + "/cbtxn_1MrU9qLkdIwHu7ix000001",
		pathTxns + "?expand[]=data.customer", pathGrants, pathGrants + "?customer=" + cusCredits,
		pathGrants + "/" + grantUsed, pathGrants + "?expand[]=data.customer", pathCredits + "?customer=" + cusCredits,
		pathCredits + "?credit_grant=" + grantUsed, pathCredits + "/" + txnDebit,
		pathCredits + "/" + txnDebit + "?expand[]=credit_grant.customer",
		pathSummary + "?customer=" + cusCredits + "&filter[type]=credit_grant&filter[credit_grant]=" + grantUsed,
		pathSummary + "?customer=" + cusCredits + "&filter[type]=applicability_scope&filter[applicability_scope][price_type]=metered",
	}
	for kind, fail := range map[string]func() error{
		"error": func() error { return errors.New(secret) },
		"panic": func() error { panic(secret) },
	} {
		for _, target := range targets {
			// The n-th call fails, for every n that the request gets to.
			for n := 1; ; n++ {
				f, calls := world(t), 0
				f.before = func(context.Context, string) error {
					if calls++; calls == n {
						return fail()
					}
					return nil
				}
				core, logs := observer.New(zap.ErrorLevel)
				w := serve(New(Options{Reader: f, Log: zap.New(core)}), local("GET", target))
				if calls < n {
					break
				}
				if e := errorOf(t, w); w.Code != 503 || e.Type != "api_error" || w.Header().Get("Retry-After") == "" {
					t.Errorf("%s in call %d of %s: %d %s", kind, n, target, w.Code, w.Body)
				}
				if strings.Contains(w.Body.String(), "SQL") || strings.Contains(w.Body.String(), "hunter2") {
					t.Errorf("%s: the reply tells of the inside: %s", target, w.Body)
				}
				if logs.Len() != 1 || !strings.Contains(logs.All()[0].ContextMap()["error"].(string), secret) ||
					logs.All()[0].ContextMap()["request_id"] != w.Header().Get("Request-Id") {
					t.Errorf("%s: logged %v", target, logs.All())
				}
			}
		}
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	f := world(t)
	f.before = func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	}
	w := serve(New(Options{Reader: f, Timeout: time.Millisecond}), local("GET", pathBalance))
	if errorOf(t, w).Type != "api_error" || w.Code != 503 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

// A caller that leaves is nobody's fault: no log line, and no error in metrics and traces.
func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	for target, header := range map[string][]string{
		pathBalance: nil, pathTxns + "?expand[]=data.customer": nil, "/v1/credits/changes?after=0&wait=30s": nil,
		pathTxns: {headerMaxAge, "0s"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		f := world(t)
		f.before = func(ctx context.Context, _ string) error { return ctx.Err() }
		core, logs := observer.New(zap.InfoLevel)
		registry, spans := prometheus.NewRegistry(), tracetest.NewSpanRecorder()
		metrics, err := NewMetrics(registry)
		if err != nil {
			t.Fatal(err)
		}
		serve(New(Options{
			Reader: f, Log: zap.New(core), Metrics: metrics,
			Syncs: NewSyncs(func(ctx context.Context, _ mirror.Target) error { return ctx.Err() },
				func(ctx context.Context, _ []mirror.Target) ([]time.Time, error) { return nil, ctx.Err() }),
			Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test"),
		}), local("GET", target, header...).WithContext(ctx))
		if logs.Len() != 0 {
			t.Errorf("%s: logged %v", target, logs.All())
		}
		for _, s := range spans.Ended() {
			if s.Status().Code == codes.Error {
				t.Errorf("%s: the span %q failed", target, s.Name())
			}
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if n := m.GetCounter().GetValue(); n > 0 && !strings.Contains(m.String(), `value:"499"`) {
					t.Errorf("%s: counted %v", target, m)
				}
			}
		}
	}
}

// Rows that hold no JSON, or broken JSON, never reach a caller.
func TestUnreadableRow(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "{", "null", "[]", "<html>"} {
		f := world(t)
		for i := range f.balances {
			f.balances[i].Raw = json.RawMessage(raw)
		}
		for _, target := range []string{pathTxns, pathTxns + "?expand[]=data.customer"} {
			w := serve(handlerOf(f), local("GET", target))
			if w.Code != 503 || errorOf(t, w).Type != "api_error" {
				t.Errorf("%s of %q: %d %s", target, raw, w.Code, w.Body)
			}
		}
	}
}

func TestNewNeedsReader(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	New(Options{})
}

// A copy that says it was read in the future is of an unknown age: it is synced for
// Max-Age, and its time is not returned.
func TestI12_TimesAheadAreStale(t *testing.T) {
	t.Parallel()
	at, syncs := time.Now().Add(87*time.Second), 0
	s := NewSyncs(func(context.Context, mirror.Target) error { syncs++; at = time.Now(); return nil },
		func(context.Context, []mirror.Target) ([]time.Time, error) { return []time.Time{at}, nil })
	h := New(Options{Reader: world(t), Syncs: s})
	if w := serve(h, local("GET", pathBalance, headerMaxAge, "10m")); w.Code != 200 || syncs != 1 {
		t.Errorf("%d, %d syncs, want one", w.Code, syncs)
	}
	told := func(now time.Time) bool {
		h := New(Options{Reader: world(t), Now: func() time.Time { return now }})
		return serve(h, local("GET", pathBalance)).Header().Get("Creditmirror-Synced-At") != ""
	}
	if !told(time.Now()) || told(time.Unix(0, 0)) {
		t.Error("want the time told, but not when it lies ahead")
	}
}
