package tracing

import (
	"encoding/json"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// The types are those of OTLP's ExportTraceServiceRequest in its JSON encoding:
// names in lowerCamelCase, ids in hex, 64-bit numbers as text, enumerations as
// numbers. Fields that this program never fills are left out.
type (
	otlpRequest struct {
		ResourceSpans []otlpResourceSpans `json:"resourceSpans"`
	}
	otlpResourceSpans struct {
		Resource   otlpResource     `json:"resource"`
		ScopeSpans []otlpScopeSpans `json:"scopeSpans"`
	}
	otlpResource struct {
		Attributes []otlpAttribute `json:"attributes"`
	}
	otlpScopeSpans struct {
		Scope otlpScope  `json:"scope"`
		Spans []otlpSpan `json:"spans"`
	}
	otlpScope struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
	}
	otlpSpan struct {
		TraceID                string          `json:"traceId"`
		SpanID                 string          `json:"spanId"`
		TraceState             string          `json:"traceState,omitempty"`
		ParentSpanID           string          `json:"parentSpanId,omitempty"`
		Flags                  uint32          `json:"flags"`
		Name                   string          `json:"name"`
		Kind                   int             `json:"kind"`
		StartTimeUnixNano      string          `json:"startTimeUnixNano"`
		EndTimeUnixNano        string          `json:"endTimeUnixNano"`
		Attributes             []otlpAttribute `json:"attributes,omitempty"`
		DroppedAttributesCount int             `json:"droppedAttributesCount,omitempty"`
		Events                 []otlpEvent     `json:"events,omitempty"`
		DroppedEventsCount     int             `json:"droppedEventsCount,omitempty"`
		Links                  []otlpLink      `json:"links,omitempty"`
		DroppedLinksCount      int             `json:"droppedLinksCount,omitempty"`
		Status                 otlpStatus      `json:"status"`
	}
	otlpEvent struct {
		TimeUnixNano           string          `json:"timeUnixNano"`
		Name                   string          `json:"name"`
		Attributes             []otlpAttribute `json:"attributes,omitempty"`
		DroppedAttributesCount int             `json:"droppedAttributesCount,omitempty"`
	}
	otlpLink struct {
		TraceID    string          `json:"traceId"`
		SpanID     string          `json:"spanId"`
		TraceState string          `json:"traceState,omitempty"`
		Attributes []otlpAttribute `json:"attributes,omitempty"`
		Flags      uint32          `json:"flags"`
	}
	otlpStatus struct {
		Code    int    `json:"code,omitempty"`
		Message string `json:"message,omitempty"`
	}
	otlpAttribute struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	// otlpValue has exactly one field.
	otlpValue struct {
		String *string  `json:"stringValue,omitempty"`
		Bool   *bool    `json:"boolValue,omitempty"`
		Int    *string  `json:"intValue,omitempty"`
		Double *float64 `json:"doubleValue,omitempty"`
	}
)

// encode makes the body of a request of spans.
func encode(whose []attribute.KeyValue, spans []sdktrace.ReadOnlySpan) ([]byte, error) {
	scopes := map[otlpScope]int{} // place in the list
	var list []otlpScopeSpans
	for _, s := range spans {
		scope := otlpScope{Name: s.InstrumentationScope().Name, Version: s.InstrumentationScope().Version}
		at, ok := scopes[scope]
		if !ok {
			at = len(list)
			scopes[scope] = at
			list = append(list, otlpScopeSpans{Scope: scope})
		}
		list[at].Spans = append(list[at].Spans, spanOf(s))
	}
	return json.Marshal(otlpRequest{ResourceSpans: []otlpResourceSpans{{
		Resource: otlpResource{Attributes: attributesOf(whose)}, ScopeSpans: list,
	}}})
}

func spanOf(s sdktrace.ReadOnlySpan) otlpSpan {
	sc := s.SpanContext()
	out := otlpSpan{
		TraceID: sc.TraceID().String(), SpanID: sc.SpanID().String(), TraceState: sc.TraceState().String(),
		Flags: flagsOf(sc, s.Parent()), Name: s.Name(), Kind: kindOf(s.SpanKind()),
		StartTimeUnixNano: nanos(s.StartTime()), EndTimeUnixNano: nanos(s.EndTime()),
		Attributes: attributesOf(s.Attributes()), DroppedAttributesCount: s.DroppedAttributes(),
		DroppedEventsCount: s.DroppedEvents(), DroppedLinksCount: s.DroppedLinks(),
		Status: otlpStatus{Code: statusOf(s.Status().Code), Message: s.Status().Description},
	}
	if parent := s.Parent().SpanID(); parent.IsValid() {
		out.ParentSpanID = parent.String()
	}
	for _, e := range s.Events() {
		out.Events = append(out.Events, otlpEvent{
			TimeUnixNano: nanos(e.Time), Name: e.Name, Attributes: attributesOf(e.Attributes), DroppedAttributesCount: e.DroppedAttributeCount,
		})
	}
	for _, l := range s.Links() {
		out.Links = append(out.Links, otlpLink{
			TraceID: l.SpanContext.TraceID().String(), SpanID: l.SpanContext.SpanID().String(),
			TraceState: l.SpanContext.TraceState().String(), Attributes: attributesOf(l.Attributes), Flags: flagsOf(l.SpanContext, l.SpanContext),
		})
	}
	return out
}

// Bits of OTLP's flags above those of W3C's: whether it is known that the parent
// (of a link: the span) is of another process, and that it is.
const (
	flagHasIsRemote = 1 << 8
	flagIsRemote    = 1 << 9
)

func flagsOf(sc, other trace.SpanContext) uint32 {
	flags := uint32(sc.TraceFlags()) | flagHasIsRemote
	if other.IsRemote() {
		flags |= flagIsRemote
	}
	return flags
}

// kindOf is OTLP's number of a kind.
func kindOf(k trace.SpanKind) int {
	switch k {
	case trace.SpanKindServer:
		return 2
	case trace.SpanKindClient:
		return 3
	case trace.SpanKindProducer:
		return 4
	case trace.SpanKindConsumer:
		return 5
	default:
		return 1 // internal
	}
}

// statusOf is OTLP's number of a status, whose order is not the SDK's.
func statusOf(c codes.Code) int {
	switch c {
	case codes.Ok:
		return 1
	case codes.Error:
		return 2
	default:
		return 0
	}
}

func nanos(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }

// attributesOf writes what this program makes: texts, numbers and truths. Any
// other value becomes its text.
func attributesOf(list []attribute.KeyValue) []otlpAttribute {
	out := make([]otlpAttribute, 0, len(list))
	for _, kv := range list {
		var v otlpValue
		switch kv.Value.Type() {
		case attribute.BOOL:
			b := kv.Value.AsBool()
			v.Bool = &b
		case attribute.INT64:
			n := strconv.FormatInt(kv.Value.AsInt64(), 10)
			v.Int = &n
		case attribute.FLOAT64:
			f := kv.Value.AsFloat64()
			v.Double = &f
		case attribute.STRING:
			s := kv.Value.AsString()
			v.String = &s
		default:
			s := kv.Value.String()
			v.String = &s
		}
		out = append(out, otlpAttribute{Key: string(kv.Key), Value: v})
	}
	return out
}
