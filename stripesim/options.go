package stripesim

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Version is the API version that objects and events are rendered in.
const Version = "2026-11-18.endive"

// Options configures a Server. The zero value is usable.
type Options struct {
	// Seed decides every id, secret and tie-break. The same seed and the same
	// requests in the same order give the same ids.
	Seed int64
	// Now is the wall clock of the simulator: created times, signatures, rate
	// limits and natural expiry follow it. Defaults to time.Now.
	Now func() time.Time
	// Keys are the accepted API keys. Without any, every key of the right mode
	// is accepted: sk_test_… and rk_test_…, or sk_live_… and rk_live_… with Livemode.
	Keys []string
	// Accounts are the connected accounts ("acct_…") that exist from the start.
	Accounts []string
	// Livemode makes all objects livemode=true.
	Livemode bool
	// BothModes gives every account a second, separate set of objects in the other
	// mode, reached with the keys of that mode. The Go API and traffic stay with
	// the mode that Livemode says.
	BothModes bool
	// APIVersion is the accounts' default version, shown in events.
	// Defaults to Version.
	APIVersion string
	// Limits are the rate limits; off when zero.
	Limits Limits
	// Faults are the faults from the start.
	Faults Faults
	// Switches settle what is not known of Stripe.
	Switches Switches
	// Delivery tunes the sending of webhooks.
	Delivery Delivery
	// OnRequest, if set, is called with the named endpoint (such as
	// "GET /v1/customers/{id}/balance_transactions") of every API request before
	// it is handled, on the request's own goroutine and holding no lock, so it may
	// call the Server. It may be called concurrently.
	OnRequest func(endpoint string, r *http.Request)
	// LogSize is how many entries Server.Log keeps. Defaults to 100,000; negative is none.
	LogSize int
	// Log receives what the simulator has to say. Defaults to nothing.
	Log *zap.Logger
}

// Order is how rows with equal created times are sorted in lists.
type Order string

// The orders of rows with equal created times. All are stable within a run.
const (
	OrderRandom     Order = ""           // decided by the seed
	OrderAscending  Order = "ascending"  // the list shows the first made first
	OrderDescending Order = "descending" // the list shows the last made first
)

// Switches are the questions that Stripe's documents leave open. The zero value
// is the assumed behaviour.
type Switches struct {
	// NonDefaultCurrencyEvent: a transaction outside the customer's default
	// currency sends customer.updated, without a balance key.
	NonDefaultCurrencyEvent bool
	// SameSecondOrder sorts rows with equal created.
	SameSecondOrder Order
	// DeletedCustomerLists: lists of a deleted customer answer 200, not 404.
	DeletedCustomerLists bool
	// ExpirySendsGrantUpdated: natural expiry also sends billing.credit_grant.updated.
	ExpirySendsGrantUpdated bool
	// ExpiryDelay is how long after expires_at the credits_expired row is made.
	ExpiryDelay time.Duration
	// ExpiryOnRead: the credits_expired row is made by the next read of the
	// billing-credit endpoints only.
	ExpiryOnRead bool
	// PendingGrantRowLate: the credits_granted row of a grant whose effective_at
	// lies ahead is made then, not at creation.
	PendingGrantRowLate bool
	// RetryAfter, if set, is sent with each 429, in whole seconds.
	RetryAfter time.Duration
	// NullMetadata: empty metadata of balance transactions is null, not {}.
	NullMetadata bool
	// GoneCursorEmptyPage: a cursor whose object was deleted gives an empty page
	// instead of 400.
	GoneCursorEmptyPage bool
	// ClockDeleteSendsCustomerDeleted: deleting a test clock sends
	// customer.deleted for each of its customers.
	ClockDeleteSendsCustomerDeleted bool
	// IgnoreDecorative: parameters that are not simulated and change nothing of what is
	// owed (shipping, payment settings, custom fields, …) are passed over, not refused.
	IgnoreDecorative bool
	// NoThinEvents: thin events are neither made nor listed, and there are no event
	// destinations, as before 2026-09-30.endive.
	NoThinEvents bool
	// OldPinsWithoutCreditEvents: endpoints pinned to a version before 2025-03-31
	// get no billing.credit_* events.
	OldPinsWithoutCreditEvents bool
	// CreditListWithoutCustomer: the list of credit balance transactions works
	// without customer, as the specification says and the live API does not.
	CreditListWithoutCustomer bool
	// MeteredCountsPriceScoped: a summary for price_type=metered also counts
	// grants that are scoped to single prices.
	MeteredCountsPriceScoped bool
	// ClockAdvanceTime is how long a test clock stays "advancing". With zero it is
	// ready before the next request, though the reply still says advancing.
	ClockAdvanceTime time.Duration
	// DefaultCurrency is what a balance set on a customer without currency is
	// in. Defaults to "usd".
	DefaultCurrency string
}

// Delivery tunes the sending of webhooks.
type Delivery struct {
	// Timeout is how long an endpoint may take to answer. Defaults to 10s.
	Timeout time.Duration
	// RetryFirst is the delay before the second attempt; each further delay is
	// twice as long. Defaults to 2s.
	RetryFirst time.Duration
	// RetryMax caps the delay. Defaults to 1m.
	RetryMax time.Duration
	// Attempts is the number of attempts in all, the first included. Defaults to 8.
	Attempts int
	// Concurrency bounds the deliveries in flight per endpoint. Defaults to 32.
	Concurrency int
	// Transport sends the webhooks. Defaults to connections of its own.
	Transport http.RoundTripper
	// DisableAfter disables an endpoint none of whose deliveries has succeeded for
	// that long. Zero is never; Stripe does it after several days.
	DisableAfter time.Duration
}

// Limits are rate limits in requests per second, as token buckets that hold one
// second's worth. Zero means off.
type Limits struct {
	// AccountRPS bounds each account over all endpoints.
	AccountRPS float64 `json:"account_rps"`
	// EndpointRPS bounds each named endpoint of each account.
	EndpointRPS float64 `json:"endpoint_rps"`
	// Endpoints overrides EndpointRPS by named endpoint.
	Endpoints map[string]float64 `json:"endpoints,omitempty"`
	// Concurrency bounds the requests in flight per account.
	Concurrency int `json:"concurrency"`
	// EndpointConcurrency bounds the requests in flight per named endpoint of each account.
	EndpointConcurrency int `json:"endpoint_concurrency"`
	// ObjectWriteRPS bounds the writes to any one customer or other object.
	ObjectWriteRPS float64 `json:"object_write_rps"`
	// ObjectLock: while a write to a customer or other object is under way, another
	// to the same gets lock_timeout.
	ObjectLock bool `json:"object_lock"`
}

func (o *Options) fill() error {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.APIVersion == "" {
		o.APIVersion = Version
	}
	if o.LogSize == 0 {
		o.LogSize = 100_000
	}
	d := &o.Delivery
	if d.Timeout == 0 {
		d.Timeout = 10 * time.Second
	}
	if d.RetryFirst == 0 {
		d.RetryFirst = 2 * time.Second
	}
	if d.RetryMax == 0 {
		d.RetryMax = time.Minute
	}
	if d.Attempts == 0 {
		d.Attempts = 8
	}
	if d.Concurrency == 0 {
		d.Concurrency = 32
	}
	var errs []error
	if d.Timeout < 0 || d.RetryFirst < 0 || d.RetryMax < 0 || d.Attempts < 0 || d.Concurrency < 0 || d.DisableAfter < 0 {
		errs = append(errs, errors.New("delivery: negative value"))
	}
	errs = append(errs, o.Switches.fill())
	for _, id := range o.Accounts {
		if !strings.HasPrefix(id, "acct_") {
			errs = append(errs, fmt.Errorf("account %q does not begin with acct_", id))
		}
	}
	errs = append(errs, o.Limits.validate(), o.Faults.validate())
	return errors.Join(errs...)
}

func (l Limits) validate() error {
	if !(l.AccountRPS >= 0 && l.EndpointRPS >= 0 && l.ObjectWriteRPS >= 0) || l.Concurrency < 0 || l.EndpointConcurrency < 0 {
		return errors.New("limits: negative value")
	}
	for name, rps := range l.Endpoints {
		if rps < 0 {
			return fmt.Errorf("limits: negative value for %q", name)
		}
		if !knownEndpoint(name) {
			return fmt.Errorf("limits: unknown endpoint %q", name)
		}
	}
	return nil
}
