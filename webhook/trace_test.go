package webhook

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/creditmirror/creditmirror/mirror"
)

// traced is a bench whose spans are kept.
func traced(t *testing.T, change func(*bench, *Options)) (*bench, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	return newBench(t, func(b *bench, o *Options) {
		o.Tracer = provider.Tracer("test")
		if change != nil {
			change(b, o)
		}
	}), spans
}

// of are a span's attributes as key=value.
func of(s sdktrace.ReadOnlySpan) map[attribute.Key]string {
	out := map[attribute.Key]string{}
	for _, kv := range s.Attributes() {
		out[kv.Key] = kv.Value.String()
	}
	return out
}

func TestTraceOfAnEvent(t *testing.T) {
	t.Parallel()
	b, spans := traced(t, nil)
	r := signed(event("evt_1", customer))
	// What a sender says of traces is not believed.
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	b.do(r)
	ended := spans.Ended()
	if len(ended) != 1 {
		t.Fatalf("%d spans", len(ended))
	}
	s := ended[0]
	if s.Name() != "webhook" || s.SpanKind() != trace.SpanKindServer || s.Parent().IsValid() || s.Status().Code != codes.Unset {
		t.Errorf("%s, %v, below %v, %v", s.Name(), s.SpanKind(), s.Parent(), s.Status())
	}
	want := map[attribute.Key]string{
		"http.request.method": "POST", "http.route": Path, "http.response.status_code": "200", "creditmirror.event.id": "evt_1",
		"creditmirror.event.type": "customer.updated", "creditmirror.account": "", "creditmirror.customer": customer, "creditmirror.outcome": "queued",
	}
	got := of(s)
	if len(got) != len(want) {
		t.Errorf("attributes %v", got)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
	var steps []string
	for _, e := range s.Events() {
		steps = append(steps, e.Name)
	}
	if !slices.Equal(steps, []string{"recorded in the inbox", "marked in the queue"}) {
		t.Errorf("steps %q", steps)
	}
	sc := s.SpanContext()
	if trace := b.queue.marks[0].Event.Trace; trace != "00-"+sc.TraceID().String()+"-"+sc.SpanID().String()+"-01" {
		t.Errorf("the mark carries %q", trace)
	}
}

func TestNoTraceOfStrangers(t *testing.T) {
	t.Parallel()
	b, spans := traced(t, nil)
	forged := signed(event("evt_1", customer))
	forged.Header.Set("Stripe-Signature", strings.Replace(forged.Header.Get("Stripe-Signature"), "v1=", "v1=0", 1))
	b.do(forged)
	unsigned := signed(nil)
	unsigned.Header.Del("Stripe-Signature")
	b.do(unsigned)
	if n := len(spans.Started()); n != 0 {
		t.Fatalf("%d spans", n)
	}
}

func TestTraceOfAFailure(t *testing.T) {
	t.Parallel()
	b, spans := traced(t, func(b *bench, _ *Options) {
		b.queue.fault = func(int) error { return errors.New("cus_secret in the text of an error") }
	})
	b.post(event("evt_1", customer))
	s := spans.Ended()[0]
	if s.Status().Code != codes.Error || s.Status().Description != "queue_error" || of(s)["http.response.status_code"] != "503" {
		t.Errorf("%v, %v", s.Status(), of(s))
	}
}

// Two deliveries of one event at once make one mark, with the trace of one.
func TestTraceOfTwoDeliveries(t *testing.T) {
	t.Parallel()
	held, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b, spans := traced(t, func(b *bench, _ *Options) {
		b.inbox.before = func(context.Context, []mirror.Event) error {
			once.Do(func() { close(held); <-goOn })
			return nil
		}
	})
	var senders sync.WaitGroup
	senders.Go(func() { b.post(event("evt_0", customer)) })
	<-held
	for range 5 {
		senders.Go(func() { b.post(event("evt_1", customer)) })
	}
	close(goOn)
	senders.Wait()
	traces := map[string]bool{}
	for _, s := range spans.Ended() {
		sc := s.SpanContext()
		traces["00-"+sc.TraceID().String()+"-"+sc.SpanID().String()+"-01"] = true
	}
	if len(traces) != 6 {
		t.Fatalf("%d traces", len(traces))
	}
	for _, m := range b.queue.marks {
		if !traces[m.Event.Trace] {
			t.Errorf("%s carries %q", m.Event.ID, m.Event.Trace)
		}
	}
	for _, call := range b.queue.calls {
		seen := map[string]bool{}
		for _, m := range call {
			if seen[m.Event.ID] {
				t.Errorf("%s is marked twice in one call", m.Event.ID)
			}
			seen[m.Event.ID] = true
		}
	}
}

func TestNoTracerNoTrace(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.post(event("evt_1", customer))
	if trace := b.queue.marks[0].Event.Trace; trace != "" {
		t.Errorf("the mark carries %q", trace)
	}
}
