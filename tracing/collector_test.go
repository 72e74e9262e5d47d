package tracing

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/internal/patience"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector takes spans as OTLP's specification says that they come, and nothing
// else: it knows every field of the request by name and form.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	spans []wireSpan
	// resources are those of each request.
	resources []map[string]any
	headers   []http.Header
	wrong     []string
	// answer decides about a request; nil, or false: it is taken.
	answer func(w http.ResponseWriter, n int) (answered bool)
	asked  int
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(c)
	t.Cleanup(func() {
		c.Close()
		for _, w := range c.wrong {
			t.Errorf("no OTLP: %s", w)
		}
	})
	return c
}

// wireSpan is a span as it came.
type wireSpan struct {
	TraceID, SpanID, Parent, Name, Scope, Message string
	Kind, Status                                  int
	Start, End                                    time.Time
	Flags                                         uint32
	Attributes                                    map[string]any
	Events                                        []string
	Links                                         []string
}

// The request in full, as opentelemetry-proto defines it.
type (
	wireAny struct {
		StringValue *string      `json:"stringValue"`
		BoolValue   *bool        `json:"boolValue"`
		IntValue    *json.Number `json:"intValue,string"`
		DoubleValue *float64     `json:"doubleValue"`
		ArrayValue  *struct {
			Values []wireAny `json:"values"`
		} `json:"arrayValue"`
		KvlistValue *struct {
			Values []wireKeyValue `json:"values"`
		} `json:"kvlistValue"`
		BytesValue *string `json:"bytesValue"`
	}
	wireKeyValue struct {
		Key   string  `json:"key"`
		Value wireAny `json:"value"`
	}
	wireRequest struct {
		ResourceSpans []struct {
			Resource struct {
				Attributes             []wireKeyValue `json:"attributes"`
				DroppedAttributesCount uint32         `json:"droppedAttributesCount"`
			} `json:"resource"`
			ScopeSpans []struct {
				Scope struct {
					Name                   string         `json:"name"`
					Version                string         `json:"version"`
					Attributes             []wireKeyValue `json:"attributes"`
					DroppedAttributesCount uint32         `json:"droppedAttributesCount"`
				} `json:"scope"`
				Spans []struct {
					TraceID                string         `json:"traceId"`
					SpanID                 string         `json:"spanId"`
					TraceState             string         `json:"traceState"`
					ParentSpanID           string         `json:"parentSpanId"`
					Flags                  uint32         `json:"flags"`
					Name                   string         `json:"name"`
					Kind                   int            `json:"kind"`
					StartTimeUnixNano      string         `json:"startTimeUnixNano"`
					EndTimeUnixNano        string         `json:"endTimeUnixNano"`
					Attributes             []wireKeyValue `json:"attributes"`
					DroppedAttributesCount uint32         `json:"droppedAttributesCount"`
					Events                 []struct {
						TimeUnixNano           string         `json:"timeUnixNano"`
						Name                   string         `json:"name"`
						Attributes             []wireKeyValue `json:"attributes"`
						DroppedAttributesCount uint32         `json:"droppedAttributesCount"`
					} `json:"events"`
					DroppedEventsCount uint32 `json:"droppedEventsCount"`
					Links              []struct {
						TraceID                string         `json:"traceId"`
						SpanID                 string         `json:"spanId"`
						TraceState             string         `json:"traceState"`
						Attributes             []wireKeyValue `json:"attributes"`
						DroppedAttributesCount uint32         `json:"droppedAttributesCount"`
						Flags                  uint32         `json:"flags"`
					} `json:"links"`
					DroppedLinksCount uint32 `json:"droppedLinksCount"`
					Status            struct {
						Message string `json:"message"`
						Code    int    `json:"code"`
					} `json:"status"`
				} `json:"spans"`
				SchemaURL string `json:"schemaUrl"`
			} `json:"scopeSpans"`
			SchemaURL string `json:"schemaUrl"`
		} `json:"resourceSpans"`
	}
)

var (
	hexTrace = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hexSpan  = regexp.MustCompile(`^[0-9a-f]{16}$`)
)

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.asked++
	n, answer := c.asked, c.answer
	c.mu.Unlock()
	if answer != nil && answer(w, n) {
		return
	}
	spans, resources, err := read(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers = append(c.headers, r.Header)
	if err != nil {
		c.wrong = append(c.wrong, err.Error())
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.spans, c.resources = append(c.spans, spans...), append(c.resources, resources...)
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, "{}")
}

func (c *collector) answers(answer func(w http.ResponseWriter, n int) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

func (c *collector) got() []wireSpan {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]wireSpan(nil), c.spans...)
}

// read decodes a request strictly.
func read(r *http.Request) (spans []wireSpan, resources []map[string]any, err error) {
	for name, want := range map[string]string{"Content-Type": "application/json", "Content-Encoding": "gzip"} {
		if got := r.Header.Get(name); got != want {
			return nil, nil, fmt.Errorf("%s is %q", name, got)
		}
	}
	if r.Method != http.MethodPost {
		return nil, nil, fmt.Errorf("method %s", r.Method)
	}
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		return nil, nil, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return nil, nil, err
	}
	var request wireRequest
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&request); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", err, text)
	}
	for _, rs := range request.ResourceSpans {
		attributes, err := values(rs.Resource.Attributes)
		if err != nil {
			return nil, nil, err
		}
		resources = append(resources, attributes)
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				out := wireSpan{
					TraceID: s.TraceID, SpanID: s.SpanID, Parent: s.ParentSpanID, Name: s.Name, Scope: ss.Scope.Name,
					Message: s.Status.Message, Kind: s.Kind, Status: s.Status.Code, Flags: s.Flags,
				}
				var errs [4]error
				out.Start, errs[0] = moment(s.StartTimeUnixNano)
				out.End, errs[1] = moment(s.EndTimeUnixNano)
				out.Attributes, errs[2] = values(s.Attributes)
				switch {
				case !hexTrace.MatchString(s.TraceID) || !hexSpan.MatchString(s.SpanID) || s.ParentSpanID != "" && !hexSpan.MatchString(s.ParentSpanID):
					errs[3] = fmt.Errorf("ids %q, %q, %q", s.TraceID, s.SpanID, s.ParentSpanID)
				case s.Name == "" || ss.Scope.Name == "" || s.Kind < 1 || s.Kind > 5 || s.Status.Code < 0 || s.Status.Code > 2:
					errs[3] = fmt.Errorf("name %q, scope %q, kind %d, status %d", s.Name, ss.Scope.Name, s.Kind, s.Status.Code)
				case out.End.Before(out.Start):
					errs[3] = fmt.Errorf("it ends before it begins")
				case s.Flags&0xff != 1 || s.Flags&0x100 == 0 || s.Flags > 0x301:
					errs[3] = fmt.Errorf("flags %#x", s.Flags)
				}
				for _, e := range s.Events {
					attributes, err := values(e.Attributes)
					if err != nil {
						return nil, nil, err
					}
					if _, err := moment(e.TimeUnixNano); err != nil || e.Name == "" {
						return nil, nil, fmt.Errorf("event %q at %q", e.Name, e.TimeUnixNano)
					}
					out.Events = append(out.Events, fmt.Sprint(e.Name, attributes))
				}
				for _, l := range s.Links {
					if !hexTrace.MatchString(l.TraceID) || !hexSpan.MatchString(l.SpanID) {
						return nil, nil, fmt.Errorf("link %q, %q", l.TraceID, l.SpanID)
					}
					out.Links = append(out.Links, l.TraceID+"/"+l.SpanID)
				}
				for _, err := range errs {
					if err != nil {
						return nil, nil, fmt.Errorf("span %s: %w", s.Name, err)
					}
				}
				spans = append(spans, out)
			}
		}
	}
	return spans, resources, nil
}

// moment reads a time as text of nanoseconds.
func moment(text string) (time.Time, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || n == 0 {
		return time.Time{}, fmt.Errorf("%q is no time", text)
	}
	return time.Unix(0, int64(n)), nil
}

func values(list []wireKeyValue) (map[string]any, error) {
	out := map[string]any{}
	for _, kv := range list {
		set := 0
		for _, v := range []struct {
			there bool
			value func() any
		}{
			{kv.Value.StringValue != nil, func() any { return *kv.Value.StringValue }},
			{kv.Value.BoolValue != nil, func() any { return *kv.Value.BoolValue }},
			{kv.Value.IntValue != nil, func() any { n, _ := kv.Value.IntValue.Int64(); return n }},
			{kv.Value.DoubleValue != nil, func() any { return *kv.Value.DoubleValue }},
		} {
			if v.there {
				set++
				out[kv.Key] = v.value()
			}
		}
		if _, doubled := out[kv.Key]; kv.Key == "" || set != 1 || !doubled {
			return nil, fmt.Errorf("attribute %q has %d values", kv.Key, set)
		}
	}
	if len(out) != len(list) {
		return nil, fmt.Errorf("an attribute comes twice in %v", list)
	}
	return out, nil
}

// eventually waits for what another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience.Of(20 * time.Second)); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
