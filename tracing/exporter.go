package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/creditmirror/creditmirror/backoff"
)

const (
	// attemptTimeout bounds one request.
	attemptTimeout = 10 * time.Second
	firstPause     = time.Second
	lastPause      = 10 * time.Second
	maxAnswer      = 64 << 10
	// warnEvery keeps a collector that is away from filling the log.
	warnEvery = time.Minute
)

// exporter sends spans by OTLP over HTTP. The SDK calls it with one batch at a
// time.
type exporter struct {
	url      string
	headers  map[string]string
	agent    string
	resource []attribute.KeyValue
	client   *http.Client
	spans    *prometheus.CounterVec
	log      *zap.Logger
	warn     rate.Sometimes
	// queued is how many spans wait or are being sent.
	queued atomic.Int64
	// ended is over when nothing is to be waited for any more.
	ended context.Context
	abort context.CancelFunc
}

func newExporter(o Options, spans *prometheus.CounterVec, log *zap.Logger) (*exporter, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return nil, errors.New("tracing: the collector's URL is not a plain http or https one")
	}
	e := &exporter{
		url: o.URL, headers: o.Headers, agent: "creditmirror/" + o.Version, resource: resource(o), spans: spans, log: log,
		warn: rate.Sometimes{Interval: warnEvery},
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:    attemptTimeout,
				MaxResponseHeaderBytes: maxAnswer,
				MaxConnsPerHost:        1,
				IdleConnTimeout:        90 * time.Second,
				ForceAttemptHTTP2:      true,
			},
			// A redirect would carry the headers to wherever the reply points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	e.ended, e.abort = context.WithCancel(context.Background())
	return e, nil
}

// ExportSpans sends a batch. It always returns nil: what became of the spans is in
// the metric and the log, and nobody else could do anything about it.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	defer e.queued.Add(-int64(len(spans)))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ended, cancel)()
	body, err := e.body(spans)
	if err != nil {
		e.dropped(len(spans), outcomeRefused, err)
		return nil
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		rejected, err := e.post(ctx, body)
		if err == nil {
			rejected = min(rejected, len(spans))
			e.spans.WithLabelValues(outcomeSent).Add(float64(len(spans) - rejected))
			if rejected > 0 {
				e.dropped(rejected, outcomeRefused, errors.New("the collector took only a part"))
			}
			return nil
		}
		f, _ := errors.AsType[*failure](err)
		if f != nil && !f.again {
			e.dropped(len(spans), outcomeRefused, err)
			return nil
		}
		wait := pause/2 + backoff.N(pause/2)
		if f != nil {
			wait = max(wait, f.retryAfter)
		}
		// No use in waiting for longer than there is time.
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait || backoff.Sleep(ctx, wait) != nil {
			e.dropped(len(spans), outcomeUnreachable, err)
			return nil
		}
	}
}

// Shutdown ends it; the SDK has sent what waited by then.
func (e *exporter) Shutdown(context.Context) error {
	e.abort()
	e.client.CloseIdleConnections()
	return nil
}

// body is what is posted, compressed.
func (e *exporter) body(spans []sdktrace.ReadOnlySpan) ([]byte, error) {
	text, err := encode(e.resource, spans)
	if err != nil {
		return nil, fmt.Errorf("encode the spans: %w", err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err = z.Write(text)
	if err = errors.Join(err, z.Close()); err != nil {
		return nil, fmt.Errorf("compress the spans: %w", err)
	}
	return b.Bytes(), nil
}

// failure is an answer that is not 2xx.
type failure struct {
	status     int
	again      bool // another attempt may end better
	retryAfter time.Duration
}

func (f *failure) Error() string { return fmt.Sprintf("the collector answered with %d", f.status) }

// post makes one attempt, and returns how many of the spans the collector took not.
func (e *exporter) post(ctx context.Context, body []byte) (rejected int, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("the collector's URL cannot be called")
	}
	for name, value := range e.headers {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", e.agent)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // nothing was written
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return 0, &failure{status: resp.StatusCode} // the bare connection: nothing would end a read of it
	}
	answer, readErr := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		if readErr != nil { // the spans have arrived; how many were rejected is not known
			return 0, nil
		}
		return rejectedOf(answer), nil
	}
	f := &failure{status: resp.StatusCode, retryAfter: backoff.RetryAfter(resp.Header.Get("Retry-After"), time.Now())}
	switch resp.StatusCode { // by OTLP's specification
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		f.again = true
	}
	return 0, f
}

// rejectedOf reads how many spans a collector that took a batch did not want.
// Number or text: both are JSON for a 64-bit number.
func rejectedOf(answer []byte) int {
	var reply struct {
		PartialSuccess struct {
			RejectedSpans json.RawMessage `json:"rejectedSpans"`
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(answer, &reply) != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.Trim(string(reply.PartialSuccess.RejectedSpans), `"`))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// dropped counts spans that are lost, and logs them now and then.
func (e *exporter) dropped(n int, outcome string, err error) {
	e.spans.WithLabelValues(outcome).Add(float64(n))
	e.warn.Do(func() {
		e.log.Warn("trace spans were dropped", zap.Int("spans", n), zap.String("outcome", outcome), zap.Error(err))
	})
}
