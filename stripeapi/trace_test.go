package stripeapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func TestTraceOfACall(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	var asked atomic.Int32
	customer := fixture(t, "objects/customer.expanded_invoice_credit_balance.json")
	c := newTestServer(t, Options{Tracer: tracer}, func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if name = strings.ToLower(name); name == "traceparent" || name == "tracestate" || name == "baggage" {
				t.Errorf("Stripe is told %s", name)
			}
		}
		switch asked.Add(1) {
		case 1:
			once(http.StatusInternalServerError, `{"error":{"type":"api_error","message":"of cus_1"}}`)(w, r)
		case 2:
			once(http.StatusOK, string(customer))(w, r)
		default:
			once(http.StatusNotFound, `{"error":{"type":"invalid_request_error","code":"resource_missing","param":"id","message":"No such customer: cus_1"}}`)(w, r)
		}
	}).For(PurposeLive)

	ctx, above := tracer.Start(t.Context(), "above")
	if _, err := c.Customer(ctx, "", cusBalance); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Customer(ctx, "acct_1", "cus_1"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Customer(gone, "", "cus_1"); err == nil {
		t.Fatal("no error")
	}
	above.End()

	var got []string
	for _, s := range spans.Ended() {
		if s.Name() == "above" {
			continue
		}
		if s.SpanKind() != trace.SpanKindClient || s.Parent().SpanID() != above.SpanContext().SpanID() {
			t.Errorf("%v below %v", s.SpanKind(), s.Parent())
		}
		var list []string
		for _, kv := range s.Attributes() {
			list = append(list, fmt.Sprintf("%s=%s", kv.Key, kv.Value.String()))
		}
		attempts := 0
		for _, e := range s.Events() {
			if e.Name == "attempt" {
				attempts++
			}
		}
		line := fmt.Sprintf("%s x%d %s", s.Name(), attempts, strings.Join(list, " "))
		if s.Status().Code == codes.Error {
			line += " ! " + s.Status().Description
		}
		got = append(got, line)
	}
	const of = "http.request.method=GET creditmirror.stripe.endpoint=customers.retrieve creditmirror.stripe.purpose=live creditmirror.account="
	want := []string{
		"stripe customers.retrieve x2 " + of + " creditmirror.request_id=req_test http.response.status_code=200",
		"stripe customers.retrieve x1 " + of + "acct_1 creditmirror.request_id=req_test http.response.status_code=404 ! " + KindNotFound.String(),
		"stripe customers.retrieve x1 " + of + " ! " + KindCanceled.String(),
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}
