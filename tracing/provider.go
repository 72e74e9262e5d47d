package tracing

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

const (
	// queueSize bounds the spans that wait or are being sent.
	queueSize = 2048
	batchSize = 512
	// batchEvery is how long a span waits for others at most.
	batchEvery = 2 * time.Second
	// batchTimeout bounds the sending of one batch, all attempts together.
	batchTimeout = 30 * time.Second
)

// Options are what a Provider needs.
type Options struct {
	// URL is where spans are sent, /v1/traces included. Empty: tracing is off.
	URL string
	// Headers go with every batch.
	Headers map[string]string
	// Service and Version name whose spans they are; Attributes are further ones of
	// the process.
	Service    string
	Version    string
	Attributes map[string]string
	// Sampler is one of OpenTelemetry's names for samplers, Share what its samplers by
	// ratio record.
	Sampler    string
	Share      float64
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *zap.Logger
}

// Provider makes tracers, and sends what they record.
type Provider struct {
	sdk      *sdktrace.TracerProvider // nil: off
	exporter *exporter
}

// The outcomes of spans.
const (
	outcomeSent        = "sent"
	outcomeQueueFull   = "queue_full"  // more at once than can wait
	outcomeRefused     = "refused"     // the collector does not want them
	outcomeUnreachable = "unreachable" // it did not answer, or asked to come later for too long
)

var outcomes = []string{outcomeSent, outcomeQueueFull, outcomeRefused, outcomeUnreachable}

// New returns a Provider. It makes no call.
func New(o Options) (*Provider, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	log := o.Log.With(zap.String("component", "tracing"))
	spans := promauto.With(o.Registerer).NewCounterVec(prometheus.CounterOpts{
		Name: "creditmirror_trace_spans_total", Help: "Recorded spans of traces by what became of them: sent, or why they were dropped.",
	}, []string{"outcome"})
	for _, outcome := range outcomes {
		spans.WithLabelValues(outcome) // so that the first drop counts as an increase
	}
	if o.URL == "" {
		return &Provider{}, nil
	}
	sampler, err := samplerOf(o.Sampler, o.Share)
	if err != nil {
		return nil, err
	}
	// The SDK reports trouble through these two, which are the process's: to the
	// standard logger otherwise, as lines that are no JSON.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("opentelemetry", zap.Error(err)) }))
	e, err := newExporter(o, spans, log)
	if err != nil {
		return nil, err
	}
	batches := sdktrace.NewBatchSpanProcessor(e, sdktrace.WithMaxQueueSize(queueSize), sdktrace.WithMaxExportBatchSize(batchSize),
		sdktrace.WithBatchTimeout(batchEvery), sdktrace.WithExportTimeout(batchTimeout))
	return &Provider{
		sdk: sdktrace.NewTracerProvider(
			sdktrace.WithSampler(sampler),
			sdktrace.WithSpanProcessor(&doorman{SpanProcessor: batches, queued: &e.queued, full: spans.WithLabelValues(outcomeQueueFull)}),
		),
		exporter: e,
	}, nil
}

// Tracer returns the tracer of a component; nil where tracing is off.
func (p *Provider) Tracer(component string) trace.Tracer {
	if p == nil || p.sdk == nil {
		return nil
	}
	return p.sdk.Tracer("github.com/creditmirror/creditmirror/" + component)
}

// Shutdown sends what waits until ctx ends, and drops what is left then.
func (p *Provider) Shutdown(ctx context.Context) error {
	if p == nil || p.sdk == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, p.exporter.abort)
	defer stop()
	// The SDK waits for the exporter, which gives up when ctx ends: not for ctx, or
	// its goroutines would outlive this call.
	return p.sdk.Shutdown(context.WithoutCancel(ctx))
}

// doorman lets no more spans in than the queue behind it holds, so that none is
// dropped there uncounted.
type doorman struct {
	sdktrace.SpanProcessor
	queued *atomic.Int64 // the exporter takes off what it has dealt with
	full   prometheus.Counter
}

// OnEnd passes a span on, or drops it.
func (d *doorman) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if d.queued.Add(1) > queueSize {
		d.queued.Add(-1)
		d.full.Inc()
		return
	}
	d.SpanProcessor.OnEnd(s)
}

// samplerOf is the SDK's sampler of a name.
func samplerOf(name string, share float64) (sdktrace.Sampler, error) {
	switch name {
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "traceidratio":
		return sdktrace.TraceIDRatioBased(share), nil
	case "parentbased_always_on", "":
		return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
	case "parentbased_always_off":
		return sdktrace.ParentBased(sdktrace.NeverSample()), nil
	case "parentbased_traceidratio":
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(share)), nil
	}
	return nil, fmt.Errorf("tracing: no sampler %q", name)
}

// resource describes whose spans they are. Attributes of the operator win over ours.
func resource(o Options) []attribute.KeyValue {
	all := map[string]string{
		"service.version": o.Version, "service.instance.id": uuid.NewString(),
		"telemetry.sdk.name": "opentelemetry", "telemetry.sdk.language": "go", "telemetry.sdk.version": sdk.Version(),
	}
	for k, v := range o.Attributes {
		all[k] = v
	}
	all["service.name"] = o.Service
	list := make([]attribute.KeyValue, 0, len(all))
	for k, v := range all {
		if v != "" {
			list = append(list, attribute.String(k, v))
		}
	}
	set := attribute.NewSet(list...) // sorts
	return set.ToSlice()
}
