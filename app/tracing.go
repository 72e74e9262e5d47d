package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

// Tracing sends spans of webhooks, API requests, syncs and calls to Stripe to an
// OpenTelemetry collector. A nil Tracing does nothing.
type Tracing struct{ provider *sdktrace.TracerProvider }

// ErrTracing says that the variables of OpenTelemetry ask for what there is not.
var ErrTracing = errors.New("opentelemetry")

// StartTracing starts it where OpenTelemetry's own variables name a collector, and
// returns nil where they do not: it is off by default. The exporter reads the other
// standard variables (headers, certificates, sampler, resource) itself.
func StartTracing(ctx context.Context, environ []string, b Build, log *zap.Logger) (*Tracing, error) {
	env := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	first := func(names ...string) string {
		for _, name := range names {
			if env[name] != "" {
				return env[name]
			}
		}
		return ""
	}
	if first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") == "" ||
		strings.EqualFold(env["OTEL_SDK_DISABLED"], "true") || env["OTEL_TRACES_EXPORTER"] == "none" {
		return nil, nil
	}
	if e := env["OTEL_TRACES_EXPORTER"]; e != "" && e != "otlp" {
		return nil, fmt.Errorf("%w: OTEL_TRACES_EXPORTER is %q: only otlp and none are built in", ErrTracing, e)
	}
	if p := first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); p != "" && p != "http/protobuf" {
		return nil, fmt.Errorf("%w: OTEL_EXPORTER_OTLP_PROTOCOL is %q: only http/protobuf is built in (port 4318 of a collector)", ErrTracing, p)
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTracing, err)
	}
	// What is detected later wins: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "creditmirror"), attribute.String("service.version", b.Version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrTracing, err), exporter.Shutdown(ctx))
	}
	// The library has one handler for the whole process, which otherwise writes plain
	// text beside our log.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces not sent", zap.Error(err)) }))
	return &Tracing{sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))}, nil
}

// Shutdown sends what is left.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// handler traces requests. What callers say of their own traces is ignored: a webhook's
// sender is anybody.
func (t *Tracing) handler(name string, h http.Handler) http.Handler {
	if t == nil {
		return h
	}
	return otelhttp.NewHandler(h, name, otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(nothing))
}

// transport traces calls to Stripe, and tells Stripe nothing of it.
func (t *Tracing) transport(next http.RoundTripper) http.RoundTripper {
	if t == nil {
		return next
	}
	return otelhttp.NewTransport(next, otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(nothing))
}

// nothing propagates nothing.
var nothing = propagation.NewCompositeTextMapPropagator()

// sync traces one sync of a target.
func (t *Tracing) sync(ctx context.Context, target mirror.Target) (context.Context, func(outcome string, err error)) {
	ctx, span := t.provider.Tracer("github.com/creditmirror/creditmirror").Start(ctx, "sync "+string(target.Scope), trace.WithAttributes(
		attribute.String("creditmirror.account", target.Account), attribute.String("creditmirror.customer_id", target.ID),
	))
	return ctx, func(outcome string, err error) {
		span.SetAttributes(attribute.String("creditmirror.outcome", outcome))
		if err != nil {
			span.SetStatus(codes.Error, outcome)
		}
		span.End()
	}
}
