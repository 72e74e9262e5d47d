package tracing

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/internal/patience"
)

// provider is one with its metrics and log.
type provider struct {
	*Provider
	t        *testing.T
	registry *prometheus.Registry
	logs     *observer.ObservedLogs
}

func newProvider(t *testing.T, url string, change ...func(*Options)) provider {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	p := provider{t: t, registry: prometheus.NewRegistry(), logs: logs}
	o := Options{URL: url, Service: "creditmirror", Version: "v1", Registerer: p.registry, Log: zap.New(core)}
	for _, c := range change {
		c(&o)
	}
	var err error
	if p.Provider, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(time.Second) })
	return p
}

// end shuts down within a time; more than once does nothing.
func (p provider) end(within time.Duration) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		p.t.Error(err)
	}
}

// counts are the spans by what became of them.
func (p provider) counts() map[string]int {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	out := map[string]int{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if n := int(m.GetCounter().GetValue()); n > 0 {
				out[m.GetLabel()[0].GetValue()] = n
			}
		}
	}
	return out
}

func (p provider) requireCounts(want map[string]int) {
	p.t.Helper()
	if diff := cmp.Diff(want, p.counts()); diff != "" {
		p.t.Error(diff)
	}
}

// record makes spans that are over.
func (p provider) record(n int) {
	for range n {
		_, s := Start(context.Background(), p.Tracer("test"), "work", trace.SpanKindInternal)
		s.End()
	}
}

func TestWhatACollectorGets(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	p := newProvider(t, c.URL+"/v1/traces", func(o *Options) {
		o.Headers = map[string]string{"Authorization": "Basic abc=", "X-Team": "a"}
		o.Attributes = map[string]string{"deployment.environment.name": "test", "service.version": "v2"}
	})
	tracer := p.Tracer("test")
	remote := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	other := "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"
	before := time.Now()
	ctx, root := StartFrom(t.Context(), tracer, "root", trace.SpanKindServer, []string{remote, other, remote, "nonsense"})
	root.SetAttributes(attribute.String("text", "a \"ü\"\xff"), attribute.Int64("least", math.MinInt64), attribute.Int("most", math.MaxInt64),
		attribute.Bool("yes", true), attribute.Bool("no", false), attribute.Float64("half", 0.5), attribute.String("empty", ""),
		attribute.StringSlice("list", []string{"a", "b"}))
	kinds := []trace.SpanKind{trace.SpanKindInternal, trace.SpanKindServer, trace.SpanKindClient, trace.SpanKindProducer, trace.SpanKindConsumer, trace.SpanKindUnspecified}
	for _, k := range kinds {
		_, s := Start(ctx, tracer, "kind "+k.String(), k)
		s.AddEvent("step", trace.WithAttributes(attribute.Int("n", 1)))
		s.End()
	}
	_, failed := Start(ctx, p.Tracer("another"), "failed", trace.SpanKindInternal)
	Fail(failed, "refused")
	failed.End()
	_, fine := Start(ctx, tracer, "fine", trace.SpanKindInternal)
	fine.SetStatus(codes.Ok, "")
	fine.End()
	root.End()
	p.end(5 * time.Second)

	byName := map[string]wireSpan{}
	for _, s := range c.got() {
		byName[s.Name] = s
		if s.Start.Before(before.Truncate(time.Microsecond)) || s.End.After(time.Now()) {
			t.Errorf("%s lasted from %v to %v", s.Name, s.Start, s.End)
		}
		if s.TraceID != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("%s is of trace %s", s.Name, s.TraceID)
		}
	}
	r := byName["root"]
	if r.Parent != "b7ad6b7169203331" || r.Flags != 0x301 || !slices.Equal(r.Links, []string{"1af7651916cd43dd8448eb211c80319c/c7ad6b7169203331"}) || r.Status != 0 {
		t.Errorf("root: %+v", r)
	}
	want := map[string]any{
		"text": "a \"ü\"\ufffd", "least": int64(math.MinInt64), "most": int64(math.MaxInt64), "yes": true, "no": false, "half": 0.5, "empty": "",
		"list": `["a","b"]`,
	}
	if diff := cmp.Diff(want, r.Attributes); diff != "" {
		t.Error(diff)
	}
	for i, k := range kinds {
		s := byName["kind "+k.String()]
		if number := []int{1, 2, 3, 4, 5, 1}[i]; s.Kind != number && k != trace.SpanKindUnspecified || s.Parent != r.SpanID || s.Flags != 0x101 {
			t.Errorf("%v: %+v, want kind %d", k, s, number)
		}
		if !slices.Equal(s.Events, []string{"stepmap[n:1]"}) {
			t.Errorf("%v: events %q", k, s.Events)
		}
	}
	if s := byName["failed"]; s.Status != 2 || s.Message != "refused" || s.Scope != "github.com/creditmirror/creditmirror/another" {
		t.Errorf("failed: %+v", s)
	}
	if s := byName["fine"]; s.Status != 1 || s.Message != "" {
		t.Errorf("fine: %+v", s)
	}
	for _, attributes := range c.resources {
		id := attributes["service.instance.id"]
		want := map[string]any{
			"service.name": "creditmirror", "service.version": "v2", "service.instance.id": id, "deployment.environment.name": "test",
			"telemetry.sdk.name": "opentelemetry", "telemetry.sdk.language": "go", "telemetry.sdk.version": attributes["telemetry.sdk.version"],
		}
		if diff := cmp.Diff(want, attributes); diff != "" || len(fmt.Sprint(id)) != 36 {
			t.Errorf("instance %v: %s", id, diff)
		}
	}
	for _, h := range c.headers {
		if h.Get("Authorization") != "Basic abc=" || h.Get("X-Team") != "a" || h.Get("User-Agent") != "creditmirror/v1" {
			t.Errorf("%v", h)
		}
	}
	p.requireCounts(map[string]int{"sent": len(byName)})
}

func TestSamplers(t *testing.T) {
	t.Parallel()
	sampled := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampled := strings.TrimSuffix(sampled, "1") + "0"
	for name, want := range map[string]string{ // of a root, below a sampled one, below one that is not
		"always_on": "+++", "always_off": "---", "traceidratio": "---",
		"parentbased_always_on": "++-", "": "++-", "parentbased_always_off": "-+-", "parentbased_traceidratio": "-+-",
	} {
		c := newCollector(t)
		p := newProvider(t, c.URL, func(o *Options) { o.Sampler, o.Share = name, 0 })
		got := ""
		for _, from := range [][]string{nil, {sampled}, {unsampled}} {
			_, s := StartFrom(t.Context(), p.Tracer("test"), "work", trace.SpanKindInternal, from)
			sign := "-"
			if s.IsRecording() {
				sign = "+"
			}
			if recorded := Traceparent(s) != ""; recorded != s.IsRecording() {
				t.Errorf("%s: %q handed on by a span that is recorded: %v", name, Traceparent(s), s.IsRecording())
			}
			got += sign
			s.End()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		p.end(5 * time.Second)
		if n := strings.Count(want, "+"); len(c.got()) != n {
			t.Errorf("%s: %d arrived, want %d", name, len(c.got()), n)
		}
	}
	if _, err := New(Options{URL: "http://c", Sampler: "jaeger_remote", Registerer: prometheus.NewRegistry()}); err == nil {
		t.Error("a sampler that there is not")
	}
	share := newProvider(t, newCollector(t).URL, func(o *Options) { o.Sampler, o.Share = "traceidratio", 0.25 })
	n := 0
	for range 4000 {
		_, s := Start(t.Context(), share.Tracer("test"), "work", trace.SpanKindInternal)
		if s.IsRecording() {
			n++
		} // never ended, so never sent
	}
	if n < 800 || n > 1200 {
		t.Errorf("%d of 4000 are recorded at a quarter", n)
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		codes []int // the answers before one that takes them
		after string
		want  map[string]int
		asked int
	}{
		"busy":            {[]int{429}, "", map[string]int{"sent": 3}, 2},
		"away":            {[]int{503, 502}, "", map[string]int{"sent": 3}, 3},
		"gateway":         {[]int{504}, "1", map[string]int{"sent": 3}, 2},
		"not wanted":      {[]int{400}, "", map[string]int{"refused": 3}, 1},
		"unauthorized":    {[]int{401}, "", map[string]int{"refused": 3}, 1},
		"no such path":    {[]int{404}, "", map[string]int{"refused": 3}, 1},
		"broken":          {[]int{500}, "", map[string]int{"refused": 3}, 1}, // not to be repeated, by the specification
		"redirect":        {[]int{307}, "", map[string]int{"refused": 3}, 1},
		"in a year":       {[]int{503}, "31536000", map[string]int{"unreachable": 3}, 1},
		"a date long ago": {[]int{503}, "Mon, 02 Jan 2006 15:04:05 GMT", map[string]int{"sent": 3}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCollector(t)
			c.answers(func(w http.ResponseWriter, n int) bool {
				if n > len(test.codes) {
					return false
				}
				w.Header().Set("Retry-After", test.after)
				w.Header().Set("Location", c.URL)
				w.WriteHeader(test.codes[n-1])
				return true
			})
			p := newProvider(t, c.URL)
			p.record(3)
			p.end(20 * time.Second)
			p.requireCounts(test.want)
			if c.asked != test.asked {
				t.Errorf("asked %d times, want %d", c.asked, test.asked)
			}
			if warned := p.logs.FilterMessage("trace spans were dropped").Len(); (warned > 0) != (test.want["sent"] == 0) {
				t.Errorf("%d warnings", warned)
			}
		})
	}
}

func TestPartialSuccess(t *testing.T) {
	t.Parallel()
	for reply, rejected := range map[string]int{
		`{"partialSuccess":{"rejectedSpans":"2","errorMessage":"x"}}`: 2, `{"partialSuccess":{"rejectedSpans":1}}`: 1,
		`{"partialSuccess":{"rejectedSpans":99}}`: 3, `{"partialSuccess":{"rejectedSpans":-1}}`: 0, `{"partialSuccess":{}}`: 0,
		``: 0, `nonsense`: 0, `{"partialSuccess":{"errorMessage":"a warning"}}`: 0, `{"partialSuccess":{"rejectedSpans":"many"}}`: 0,
	} {
		c := newCollector(t)
		c.answers(func(w http.ResponseWriter, _ int) bool {
			_, _ = fmt.Fprint(w, reply)
			return true
		})
		p := newProvider(t, c.URL)
		p.record(3)
		p.end(5 * time.Second)
		want := map[string]int{"sent": 3 - rejected, "refused": rejected}
		maps.DeleteFunc(want, func(_ string, n int) bool { return n == 0 })
		p.requireCounts(want)
	}
}

// A collector that comes later gets what has waited.
func TestCollectorThatIsNotThereYet(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	p := newProvider(t, "http://"+addr)
	p.record(3)
	flushed := make(chan struct{})
	go func() { defer close(flushed); p.end(20 * time.Second) }()
	<-time.After(200 * time.Millisecond) // it has been refused by now
	again, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skip("somebody else has the port")
	}
	c := &collector{}
	c.Server = &httptest.Server{Listener: again, Config: &http.Server{Handler: c, ReadHeaderTimeout: time.Second}}
	c.Start()
	defer c.Close()
	<-flushed
	p.requireCounts(map[string]int{"sent": 3})
}

// One that hangs costs spans, which are counted, and nothing else.
func TestF43_CollectorThatHangs(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	release := make(chan struct{})
	c.answers(func(http.ResponseWriter, int) bool { <-release; return false })
	p := newProvider(t, c.URL)
	began := time.Now()
	const spans = 5000
	var workers sync.WaitGroup
	for range 10 {
		workers.Go(func() { p.record(spans / 10) })
	}
	workers.Wait()
	if took := time.Since(began); took > patience.Of(5*time.Second) {
		t.Errorf("%d spans held up their makers for %v", spans, took)
	}
	if got := p.counts(); got["queue_full"] != spans-queueSize {
		t.Errorf("%v, want %d that found the queue full", got, spans-queueSize)
	}
	began = time.Now()
	p.end(500 * time.Millisecond)
	if took := time.Since(began); took > patience.Of(3*time.Second) {
		t.Errorf("the stop took %v", took)
	}
	p.requireCounts(map[string]int{"queue_full": spans - queueSize, "unreachable": queueSize})
	close(release)
	p.record(1) // after the end nobody wants to know
	if n := p.logs.FilterMessage("trace spans were dropped").Len(); n != 1 {
		t.Errorf("%d warnings, want one a minute", n)
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	p := newProvider(t, c.URL)
	p.record(1)
	eventually(t, "a span is sent by itself", func() bool { return len(c.got()) == 1 })
	p.record(batchSize + 10)
	eventually(t, "a whole batch is sent at once", func() bool { return len(c.got()) == 1+batchSize })
	p.end(5 * time.Second)
	p.requireCounts(map[string]int{"sent": 1 + batchSize + 10})
	if c.asked != 3 {
		t.Errorf("%d requests", c.asked)
	}
	p.requireCounts(map[string]int{"sent": len(c.got())})
}

func TestOffCostsNothing(t *testing.T) {
	p := newProvider(t, "")
	var none *Provider
	if p.Tracer("x") != nil || none.Tracer("x") != nil {
		t.Fatal("there is a tracer")
	}
	p.end(time.Second)
	if err := none.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	from := []string{"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	allocs := testing.AllocsPerRun(100, func() {
		below, s := Start(ctx, nil, "work", trace.SpanKindServer)
		_, again := StartFrom(below, nil, "work", trace.SpanKindServer, from)
		if s.IsRecording() || again.IsRecording() || Traceparent(s) != "" || below != ctx {
			t.Error("something is recorded")
		}
		Fail(s, "x")
		s.AddEvent("x")
		s.End()
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	problems, err := testutil.GatherAndLint(p.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(p.registry); err != nil || n != len(outcomes) {
		t.Errorf("%d series, %v", n, err)
	}
}

func TestCollectorsURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"grpc://c", "http://", "https://u:p@c", ":", "c:4318"} {
		if _, err := New(Options{URL: url, Registerer: prometheus.NewRegistry()}); err == nil || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestTraceparent(t *testing.T) {
	t.Parallel()
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for text, want := range map[string]string{
		good: good, strings.Replace(good, "-01", "-ff", 1): good, "cc-" + good[3:] + "-what-the-future-will-be-like": good, "01-" + good[3:]: good,
	} {
		sc, ok := parse(text)
		if !ok || !sc.IsRemote() || Traceparent(trace.SpanFromContext(trace.ContextWithSpanContext(t.Context(), sc))) != want {
			t.Errorf("%q: %v, %v", text, sc, ok)
		}
	}
	for _, text := range []string{
		"", "00", good[:54], good + "-", good + "0", "ff-" + good[3:], "cc-" + good[3:] + ".what", strings.ToUpper(good), strings.ReplaceAll(good, "-", "_"),
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x", "zz-" + good[3:], strings.Replace(good, "0af", "0ag", 1), strings.Repeat("0", 1000),
	} {
		if sc, ok := parse(text); ok {
			t.Errorf("%q is %v", text, sc)
		}
	}
	if sc, ok := parse(strings.Replace(good, "-01", "-00", 1)); !ok || sc.IsSampled() {
		t.Errorf("one that is not sampled: %v, %v", sc, ok)
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x")
	f.Fuzz(func(t *testing.T, text string) {
		sc, ok := parse(text)
		if !ok {
			return
		}
		if !sc.IsValid() || !strings.Contains(text, sc.TraceID().String()+"-"+sc.SpanID().String()) {
			t.Fatalf("%q is %v", text, sc)
		}
		if again, ok := parse("00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String()); !ok || !again.Equal(sc) {
			t.Fatalf("%q is %v, and that is %v", text, sc, again)
		}
	})
}
