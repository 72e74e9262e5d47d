package tracing

import (
	"context"
	"encoding/hex"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// The attributes of spans, beside OpenTelemetry's own of HTTP.
const (
	Account   = attribute.Key("creditmirror.account")
	Customer  = attribute.Key("creditmirror.customer") // or a grant or clock, by scope
	Scope     = attribute.Key("creditmirror.scope")
	EventID   = attribute.Key("creditmirror.event.id")
	EventType = attribute.Key("creditmirror.event.type")
	Events    = attribute.Key("creditmirror.events")
	Outcome   = attribute.Key("creditmirror.outcome")
	Inserted  = attribute.Key("creditmirror.rows.inserted")
	Updated   = attribute.Key("creditmirror.rows.updated")
	Sweep     = attribute.Key("creditmirror.sweep")
	Endpoint  = attribute.Key("creditmirror.stripe.endpoint")
	Purpose   = attribute.Key("creditmirror.stripe.purpose")
	Attempt   = attribute.Key("creditmirror.attempt")
	WaitedMS  = attribute.Key("creditmirror.budget_wait_ms")
	RequestID = attribute.Key("creditmirror.request_id")

	Method = attribute.Key("http.request.method")
	Status = attribute.Key("http.response.status_code")
	Route  = attribute.Key("http.route")
)

// Start begins a span below the one in ctx. A nil tracer is one that is off.
func Start(ctx context.Context, t trace.Tracer, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	if t == nil {
		return ctx, Off
	}
	return t.Start(ctx, name, trace.WithSpanKind(kind))
}

// StartFrom begins a span that others led to, each named by a Traceparent. Where
// ctx has none to go below, the first of them is its parent, so that the trace
// goes on; the rest are linked. What cannot be read is left out.
func StartFrom(ctx context.Context, t trace.Tracer, name string, kind trace.SpanKind, traceparents []string) (context.Context, trace.Span) {
	if t == nil {
		return ctx, Off
	}
	var from []trace.SpanContext
	for _, text := range traceparents {
		sc, ok := parse(text)
		if ok && !slices.ContainsFunc(from, sc.Equal) {
			from = append(from, sc)
		}
	}
	if len(from) > 0 && !trace.SpanContextFromContext(ctx).IsValid() {
		ctx, from = trace.ContextWithRemoteSpanContext(ctx, from[0]), from[1:]
	}
	links := make([]trace.Link, len(from))
	for i, sc := range from {
		links[i] = trace.Link{SpanContext: sc}
	}
	return t.Start(ctx, name, trace.WithSpanKind(kind), trace.WithLinks(links...))
}

// Off is the span of a tracer that is off.
var Off trace.Span = noop.Span{}

// Fail marks a span as failed, with a word of a closed set.
func Fail(s trace.Span, word string) {
	if s.IsRecording() {
		s.SetStatus(codes.Error, word)
	}
}

// Traceparent names a span in the form of W3C's header of that name; empty for
// one that is not recorded.
func Traceparent(s trace.Span) string {
	sc := s.SpanContext()
	if !sc.IsValid() || !sc.IsSampled() {
		return ""
	}
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String()
}

// parse reads what Traceparent wrote, or somebody else's header.
func parse(text string) (sc trace.SpanContext, ok bool) {
	const length = 55 // of version 00; later ones may add to it
	if len(text) < length || len(text) > length && (text[:2] == "00" || text[length] != '-') || text[:2] == "ff" ||
		text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return sc, false
	}
	version, flags := make([]byte, 1), make([]byte, 1)
	_, versionErr := hex.Decode(version, []byte(text[:2]))
	_, flagsErr := hex.Decode(flags, []byte(text[53:55]))
	traceID, traceErr := trace.TraceIDFromHex(text[3:35]) // lower case alone, and not all zero
	spanID, spanErr := trace.SpanIDFromHex(text[36:52])
	if versionErr != nil || flagsErr != nil || traceErr != nil || spanErr != nil {
		return sc, false
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceID, SpanID: spanID, TraceFlags: trace.TraceFlags(flags[0]) & trace.FlagsSampled, Remote: true,
	}), true
}
