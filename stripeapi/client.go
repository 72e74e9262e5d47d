package stripeapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stripe/stripe-go/v79"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// DefaultVersion is the Stripe-Version that this package was written against.
const DefaultVersion = "2026-11-18.endive"

// Defaults of Options.
const (
	DefaultTimeout  = 20 * time.Second
	DefaultMaxReply = 16 << 20 // bytes
	DefaultRetries  = 2
)

// Purposes that calls are made for. A Limiter distinguishes them to let live work
// go first.
const (
	PurposeLive     = "live"
	PurposeAPI      = "api"
	PurposeOnDemand = "ondemand" // a read that a client of our API waits for
	PurposeEvents   = "events"
	PurposeBackfill = "backfill"
	PurposeBalances = "balances"
	PurposeScrub    = "scrub"
	PurposeEndpoint = "endpoint"
)

// Limiter keeps the budget of calls that all replicas share.
type Limiter interface {
	// Acquire waits until one attempt may be made; retries ask again. Its error
	// ends the call and stays visible with errors.Is. Account is empty for the
	// platform's own; endpoint is one of Endpoints.
	Acquire(ctx context.Context, account, endpoint, purpose string) error
	// Throttled reports a 429 for too many requests. A 429 for a locked object is
	// not reported: going slower does not help it.
	Throttled(ctx context.Context, account, endpoint string)
}

// Options configure a Client. Only Key is required.
type Options struct {
	// Key is the secret or restricted API key.
	Key string
	// Base is the URL that calls go to, without /v1. Defaults to Stripe's own.
	Base string
	// Version is sent as Stripe-Version. Defaults to DefaultVersion.
	Version string
	// Limiter is asked before every attempt. Defaults to no limit.
	Limiter Limiter
	// Registerer gets the metrics. Defaults to none. Clients may share one.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *zap.Logger
	// Tracer makes a span for each call. Defaults to none.
	Tracer trace.Tracer
	// Timeout bounds one attempt, from dialling to the last byte of the body.
	// Defaults to DefaultTimeout.
	Timeout time.Duration
	// MaxReply bounds a reply's body after decompression, in bytes. Defaults to
	// DefaultMaxReply.
	MaxReply int64
	// Retries is how often a call is tried again. Defaults to DefaultRetries;
	// negative means never.
	Retries int
	// FullCustomers keeps customers whole in Customer.Raw. By default only the
	// credit fields are kept: no name, no address, no metadata.
	FullCustomers bool
	// Transport makes the calls, under the bounds of this package. Defaults to
	// connections of its own.
	Transport http.RoundTripper
}

// Client calls Stripe. It is safe for concurrent use.
type Client struct {
	*core
	purpose string
}

// core is what the clients of all purposes share.
type core struct {
	backend       stripe.Backend
	http          *http.Client
	base          string
	key           string
	version       string
	limiter       Limiter
	metrics       *metrics
	log           *zap.Logger
	tracer        trace.Tracer
	timeout       time.Duration
	retries       int
	fullCustomers bool
	redact        redactor
}

var validVersion = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[a-z0-9_]{1,40})?(; ?[a-z0-9_=;. ]{1,200})?$`)

// New makes a Client for the purpose PurposeLive. It makes no call.
func New(o Options) (*Client, error) {
	return newClient(o, o.Transport)
}

// newClient lets tests put a transport of their own under the bounds.
func newClient(o Options, transport http.RoundTripper) (*Client, error) {
	if o.Base == "" {
		o.Base = stripe.APIURL
	}
	if o.Version == "" {
		o.Version = DefaultVersion
	}
	if o.Limiter == nil {
		o.Limiter = unlimited{}
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxReply == 0 {
		o.MaxReply = DefaultMaxReply
	}
	if o.Retries == 0 {
		o.Retries = DefaultRetries
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	if transport == nil {
		transport = newTransport(o.Timeout)
	}
	hc := &http.Client{
		Transport: &boundedTransport{next: transport, maxReply: o.MaxReply},
		// A redirect would carry the key to wherever the reply points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL:               stripe.String(o.Base),
		HTTPClient:        hc,
		EnableTelemetry:   stripe.Bool(false),
		MaxNetworkRetries: stripe.Int64(0), // its wait ignores the context
		LeveledLogger:     silent{},        // it logs samples of bodies
	})
	return &Client{
		purpose: PurposeLive,
		core: &core{
			backend:       backend,
			http:          hc,
			base:          strings.TrimSuffix(strings.TrimSuffix(o.Base, "/"), "/v1"),
			key:           o.Key,
			version:       o.Version,
			limiter:       o.Limiter,
			metrics:       m,
			log:           o.Log.With(zap.String("component", "stripeapi")),
			tracer:        o.Tracer,
			timeout:       o.Timeout,
			retries:       max(o.Retries, 0),
			fullCustomers: o.FullCustomers,
			redact:        redactor{key: o.Key},
		},
	}, nil
}

// validate never quotes the key: its errors end up in logs.
func (o Options) validate() error {
	var errs []error
	if !printable(o.Key) {
		errs = append(errs, errors.New("stripe key is empty or has characters that no key has"))
	}
	if u, err := url.Parse(o.Base); err != nil || (u.Scheme != "https" && u.Scheme != "http") ||
		u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		errs = append(errs, errors.New("stripe base is not a plain http or https URL"))
	}
	if !validVersion.MatchString(o.Version) {
		errs = append(errs, fmt.Errorf("stripe version %.60q is not a version", o.Version))
	}
	if o.Timeout < 0 {
		errs = append(errs, errors.New("stripe timeout is negative"))
	}
	if o.MaxReply < 0 {
		errs = append(errs, errors.New("stripe reply bound is negative"))
	}
	return errors.Join(errs...)
}

// printable reports whether s can be a header value of one word.
func printable(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return s != ""
}

// For returns the same client for another purpose: it shares connections,
// limits and metrics, and its calls reach the Limiter under that purpose.
func (c *Client) For(purpose string) *Client {
	return &Client{core: c.core, purpose: purpose}
}

// Close closes idle connections. Calls in flight go on, and the client can
// still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

type unlimited struct{}

func (unlimited) Acquire(context.Context, string, string, string) error { return nil }
func (unlimited) Throttled(context.Context, string, string)             {}

// silent keeps stripe-go from printing replies.
type silent struct{}

func (silent) Debugf(string, ...any) {}
func (silent) Infof(string, ...any)  {}
func (silent) Warnf(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
