package stripeapi

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/trace"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/tracing"
)

// span begins the span of a call, all its attempts together. Nothing of it is sent
// to Stripe.
func (c *Client) span(ctx context.Context, r request) (context.Context, trace.Span) {
	ctx, span := tracing.Start(ctx, c.tracer, "stripe", trace.SpanKindClient)
	if span.IsRecording() {
		span.SetName("stripe " + r.endpoint)
		span.SetAttributes(tracing.Method.String(r.method), tracing.Endpoint.String(r.endpoint), tracing.Purpose.String(c.purpose),
			tracing.Account.String(r.account))
	}
	return ctx, span
}

// endSpan ends it with the last answer.
func endSpan(span trace.Span, reply Reply, err error) {
	if span.IsRecording() {
		status := reply.Status
		if e, ok := errors.AsType[*Error](err); ok {
			status = e.Status
			tracing.Fail(span, e.Kind.String())
			if e.RequestID != "" {
				span.SetAttributes(tracing.RequestID.String(e.RequestID))
			}
		} else if id := reply.Header.Get("Request-Id"); mirror.ValidID(id) {
			span.SetAttributes(tracing.RequestID.String(id))
		}
		if status != 0 {
			span.SetAttributes(tracing.Status.Int(status))
		}
	}
	span.End()
}
