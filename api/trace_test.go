package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func TestTraceOfARequest(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	f := world(t)
	h := New(Options{
		Reader: f, Keys: keysOf([]testKey{{Secret: "key-of-the-test"}}...),
		Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test"),
	})
	const from = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	key := []string{"Authorization", "Bearer key-of-the-test", "Traceparent", from}

	// Whoever is not let in leaves no trace, nor does what is not served.
	serve(h, local("GET", pathBalance, "Traceparent", from))
	serve(h, local("GET", pathBalance, "Authorization", "Bearer another", "Traceparent", from))
	serve(h, local("GET", "/v1/charges", key...))
	if n := len(spans.Started()); n != 0 {
		t.Fatalf("%d spans", n)
	}
	var requests []string
	for _, target := range []string{pathBalance, "/v1/customers?email=somebody@example.com", "/v1/customers/cus_unknown", pathTxns} {
		w := serve(h, local("GET", target, key...))
		requests = append(requests, w.Header().Get("Request-Id"))
	}
	serve(h, local("GET", pathBalance, append(key, "Traceparent", from)...)) // of two headers none counts
	var got []string
	for i, s := range spans.Ended() {
		var list []string
		for _, kv := range s.Attributes() {
			text := fmt.Sprintf("%s=%s", kv.Key, kv.Value.String())
			if i < len(requests) {
				text = strings.Replace(text, requests[i], "ID", 1)
			}
			list = append(list, text)
		}
		line := s.Name() + " " + strings.Join(list, " ")
		if s.Status().Code == codes.Error {
			line += " ! " + s.Status().Description
		}
		if inTrace := s.SpanContext().TraceID().String() == from[3:35] && s.Parent().SpanID().String() == from[36:52]; inTrace != (i < 4) || s.SpanKind() != trace.SpanKindServer {
			t.Errorf("%d: in the caller's trace: %v, %v", i, inTrace, s.SpanKind())
		}
		if strings.Contains(line, "example.com") {
			t.Errorf("it tells the query: %s", line)
		}
		got = append(got, line)
	}
	of := func(route string, status int) string {
		return fmt.Sprintf("GET %s http.request.method=GET http.route=%s creditmirror.account= http.response.status_code=%d creditmirror.request_id=ID", route, route, status)
	}
	want := []string{
		of("/v1/customers/{id}", 200), of("/v1/customers", 400), of("/v1/customers/{id}", 404), of("/v1/customers/{id}/balance_transactions", 200),
	}
	if len(got) != 5 || !slices.Equal(got[:4], want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}
