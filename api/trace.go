package api

import (
	"net/http"

	"go.opentelemetry.io/otel/trace"

	"github.com/creditmirror/creditmirror/tracing"
)

// span begins the span of a request whose key was accepted: in the caller's trace,
// where its header names one. Of the URL it has the route alone.
func (h *handler) span(r *http.Request, rt *route, account string) (*http.Request, trace.Span) {
	if h.tracer == nil {
		return r, tracing.Off
	}
	from := r.Header.Values("Traceparent")
	if len(from) > 1 { // by its specification none of them counts
		from = nil
	}
	ctx, span := tracing.StartFrom(r.Context(), h.tracer, rt.method+" "+rt.name, trace.SpanKindServer, from)
	if span.IsRecording() {
		span.SetAttributes(tracing.Method.String(rt.method), tracing.Route.String(rt.name), tracing.Account.String(account))
	}
	return r.WithContext(ctx), span
}

// endSpan ends it with the answer.
func endSpan(span trace.Span, status int, requestID string) {
	if span.IsRecording() {
		span.SetAttributes(tracing.Status.Int(status), tracing.RequestID.String(requestID))
		if status >= http.StatusInternalServerError {
			tracing.Fail(span, http.StatusText(status))
		}
	}
	span.End()
}
