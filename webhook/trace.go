package webhook

import (
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/tracing"
)

// span begins the trace of an event, as of the request's begin. A request that is
// not verified has none, or strangers could fill the collector; nor is a header
// looked at that says to which trace it belongs.
func (rc *Receiver) span(r *http.Request, began time.Time, e mirror.Event) trace.Span {
	if rc.opts.Tracer == nil {
		return tracing.Off
	}
	_, span := rc.opts.Tracer.Start(r.Context(), "webhook", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(began))
	if span.IsRecording() {
		span.SetAttributes(tracing.Method.String(http.MethodPost), tracing.Route.String(Path), tracing.EventID.String(e.ID),
			tracing.EventType.String(clip(e.Type)), tracing.Account.String(e.Account))
		if e.Customer != "" {
			span.SetAttributes(tracing.Customer.String(e.Customer))
		}
	}
	return span
}

// endSpan ends it with the answer.
func endSpan(span trace.Span, a answer) {
	if span.IsRecording() {
		span.SetAttributes(tracing.Status.Int(a.code), tracing.Outcome.String(a.word))
		if a.code != http.StatusOK {
			tracing.Fail(span, a.word)
		}
	}
	span.End()
}

// reached notes a step on the spans of a batch.
func reached(batch []*pending, step string) {
	for _, p := range batch {
		if p.span.IsRecording() {
			p.span.AddEvent(step)
		}
	}
}
