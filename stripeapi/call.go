package stripeapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stripe/stripe-go/v79"
	"github.com/stripe/stripe-go/v79/form"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/tracing"
)

// Reply is Stripe's own answer, for callers that hand it on.
type Reply struct {
	// Status is the HTTP status; 0 when there was no whole reply.
	Status int
	// Header is as received; it may name connection headers that must not be
	// handed on.
	Header http.Header
	// Body is JSON as received, not compacted. In an error's reply whatever looks
	// like a key is redacted. Nil when the body was not JSON.
	Body []byte
}

// request is one call, however many attempts it takes.
type request struct {
	endpoint string
	method   string
	path     string // ids in it have passed mirror.ValidID, and are escaped
	account  string
	values   *form.Values
	// v2 reports that the path is of the v2 API, and json is then the body, nil for none.
	v2   bool
	json []byte
	// idempotencyKey is required for writes.
	idempotencyKey string
	// makesSense, where set, judges a whole reply: one that makes no sense is as good as
	// none, and asked for again. Writes have none: they have happened.
	makesSense func(Reply) error
}

// result is what one attempt came to.
type result struct {
	reply Reply
	err   *Error
	// retry means that another attempt may end better.
	retry bool
	// throttled means a 429 for too many requests.
	throttled bool
}

// rawReply takes Stripe's JSON as it is: stripe-go keeps it in LastResponse.
type rawReply struct{ stripe.APIResource }

// UnmarshalJSON keeps nothing; encoding/json has checked the syntax by now.
func (*rawReply) UnmarshalJSON([]byte) error { return nil }

// call makes the request and repeats it as the package's table says. On an
// error the Reply is Stripe's, where there was one.
func (c *Client) call(ctx context.Context, r request) (Reply, error) {
	ctx, span := c.span(ctx, r)
	reply, err := c.attempts(ctx, r, span)
	endSpan(span, reply, err)
	return reply, err
}

// attempts is call in its span.
func (c *Client) attempts(ctx context.Context, r request, span trace.Span) (Reply, error) {
	if r.account != "" && !mirror.ValidAccountID(r.account) {
		return Reply{}, refused(r.endpoint, "account", "not an account id")
	}
	unsettled := false
	for n := 1; ; n++ {
		asked := time.Now()
		if err := c.limiter.Acquire(ctx, r.account, r.endpoint, c.purpose); err != nil {
			kind := KindUnavailable
			if ended(ctx) != nil {
				kind = KindCanceled
			}
			return Reply{}, &Error{Kind: kind, Endpoint: r.endpoint, Unsettled: unsettled, cause: fmt.Errorf("wait for the call budget: %w", err)}
		}
		if span.IsRecording() {
			span.AddEvent("attempt", trace.WithAttributes(tracing.Attempt.Int(n), tracing.WaitedMS.Int64(time.Since(asked).Milliseconds())))
		}
		res := c.try(ctx, r)
		if res.err == nil {
			return res.reply, nil
		}
		unsettled = unsettled || res.err.Unsettled
		res.err.Unsettled = unsettled
		if res.throttled {
			c.limiter.Throttled(ctx, r.account, r.endpoint)
		}
		if r.method == http.MethodDelete && n > 1 && res.err.Kind == KindNotFound {
			return res.reply, nil // an earlier attempt did it, and its reply was lost
		}
		if !res.retry || n > c.retries {
			return res.reply, res.err
		}
		wait, ok := waitFor(n, res.err.RetryAfter)
		if deadline, has := ctx.Deadline(); has && time.Until(deadline) <= wait {
			ok = false // what went wrong says more than "deadline exceeded"
		}
		if !ok {
			return res.reply, res.err
		}
		c.log.Warn("stripe call retried", zap.String("endpoint", r.endpoint), zap.Int("attempt", n),
			zap.String("outcome", res.err.Kind.String()), zap.Duration("wait", wait), zap.Error(res.err))
		if err := backoff.Sleep(ctx, wait); err != nil {
			return Reply{}, &Error{
				Kind: KindCanceled, Endpoint: r.endpoint, Unsettled: unsettled,
				cause: fmt.Errorf("wait for a retry after %s: %w", res.err.Kind, err),
			}
		}
	}
}

// try makes one attempt.
func (c *Client) try(ctx context.Context, r request) result {
	var seen attempt
	actx, cancel := context.WithTimeout(withAttempt(ctx, &seen), c.timeout)
	var sent atomic.Bool // the transport writes on a goroutine of its own
	actx = httptrace.WithClientTrace(actx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	defer cancel()
	params := &stripe.Params{
		Context: actx,
		Headers: http.Header{"Stripe-Version": {c.version}},
	}
	if r.account != "" {
		params.StripeAccount = &r.account
	}
	if r.idempotencyKey != "" {
		params.IdempotencyKey = &r.idempotencyKey
	}
	var raw rawReply
	start := time.Now()
	err := c.send(actx, r, params, &raw)
	took := time.Since(start)
	var body []byte
	if raw.LastResponse != nil {
		body = raw.LastResponse.RawJSON
	}
	res := c.judge(ctx, seen, body, err, r.account != "" && r.method == http.MethodGet)
	if res.err == nil && r.makesSense != nil {
		if err := r.makesSense(res.reply); err != nil {
			res = result{err: c.garbled(r.endpoint, res.reply, err), retry: true}
		}
	}
	counted := seen.status
	if res.err != nil {
		res.err.Endpoint = r.endpoint
		res.err.Unsettled = r.method == http.MethodPost && (sent.Load() || seen.status != 0) && !refusal(res)
		if counted < 400 && res.err.Kind != KindGarbled {
			counted = 0 // 200 with half a body is no success
		}
	}
	c.metrics.observe(r.endpoint, counted, took)
	if e := c.log.Check(zap.DebugLevel, "stripe call"); e != nil {
		e.Write(zap.String("endpoint", r.endpoint), zap.Int("status", seen.status), zap.Duration("duration", took))
	}
	return res
}

// refusal reports whether Stripe itself said no, so that nothing has happened. A key
// that is in use may be that of an earlier attempt.
func refusal(res result) bool {
	return res.reply.Body != nil && res.err.Status >= 400 && res.err.Status < 500 && res.err.Status != http.StatusConflict
}

// judge returns what an attempt came to. The status counts before anything else,
// for stripe-go has errors without one for bodies that are not JSON; body is
// not nil when a whole reply below 400 was read.
func (c *Client) judge(ctx context.Context, seen attempt, body []byte, err error, ofAccount bool) result {
	switch {
	case seen.status >= 400:
		return c.judgeStatus(ctx, seen, err, ofAccount)
	case body != nil && (seen.status < 200 || seen.status > 299):
		return c.garbledResult(seen, "a redirect, which is not followed", false)
	case body != nil && err != nil:
		return c.garbledResult(seen, "not JSON", true)
	case body != nil:
		return result{reply: Reply{Status: seen.status, Header: seen.header, Body: body}}
	case errors.Is(err, errTooLarge):
		return c.garbledResult(seen, "longer than the bound", false)
	}
	if cause := ended(ctx); cause != nil {
		return result{err: &Error{Kind: KindCanceled, Status: seen.status, cause: cause}}
	}
	return result{
		err:   &Error{Kind: KindUnavailable, Status: seen.status, RequestID: c.requestID(seen), cause: c.network(err)},
		retry: true,
	}
}

func (c *Client) garbledResult(seen attempt, message string, retry bool) result {
	return result{
		err:   &Error{Kind: KindGarbled, Status: seen.status, RequestID: c.requestID(seen), Message: "the reply is " + message},
		retry: retry,
	}
}

// judgeStatus judges a reply of 400 and above; ofAccount: to a read of a connected
// account.
func (c *Client) judgeStatus(ctx context.Context, seen attempt, err error, ofAccount bool) result {
	e := &Error{
		Status: seen.status, RequestID: c.requestID(seen),
		RetryAfter: parseRetryAfter(seen.header, time.Now()),
	}
	res := result{err: e}
	se, envelope := errors.AsType[*stripe.Error](err)
	if envelope {
		e.Code, e.Param, e.Message = c.redact.text(string(se.Code)), c.redact.text(se.Param), c.redact.text(se.Msg)
		res.reply = Reply{Status: seen.status, Header: seen.header}
		if se.LastResponse != nil {
			res.reply.Body = []byte(c.redact.whole(string(se.LastResponse.RawJSON)))
		}
	} else {
		if cause := ended(ctx); cause != nil { // in the middle of the body
			e.Kind, e.cause = KindCanceled, cause
			return res
		}
		e.Message = "no error of Stripe's in the body"
	}
	e.Kind, res.retry = judgeCode(e.Status, e.Code, envelope)
	if e.Kind == KindRefused && e.Status == http.StatusBadRequest && ofAccount && envelope && e.Code == "" && e.Param == "" {
		e.Kind = KindAccountRefused // nothing of the request is at fault but whose it is
	}
	res.throttled = e.Kind == KindRateLimited
	switch seen.header.Get("Stripe-Should-Retry") {
	case "true":
		res.retry = true
	case "false":
		res.retry = false
	}
	return res
}

// judgeCode is the table of the package's documentation for 400 and above.
func judgeCode(status int, code string, envelope bool) (kind Kind, retry bool) {
	switch {
	case status >= 500:
		return KindUnavailable, true
	case status == http.StatusTooManyRequests && code != "lock_timeout":
		return KindRateLimited, true
	case status == http.StatusTooManyRequests, status == http.StatusConflict,
		status == http.StatusRequestTimeout, status == http.StatusFailedDependency:
		return KindUnavailable, true
	case status == http.StatusUnauthorized:
		return KindUnauthorized, false
	case status == http.StatusForbidden && code == "account_invalid":
		return KindAccountRefused, false
	case status == http.StatusForbidden:
		return KindForbidden, false
	case status == http.StatusNotFound && code == "resource_missing":
		return KindNotFound, false
	case status == http.StatusNotFound && !envelope:
		// Some proxy's page: it must not pass for "Stripe has no such object".
		return KindGarbled, true
	}
	return KindRefused, false
}

func (c *Client) requestID(seen attempt) string {
	id := seen.header.Get("Request-Id")
	if len(id) > 100 || !printable(id) {
		return ""
	}
	return c.redact.text(id)
}

// ended returns the error of a context that is over. Its deadline counts even
// if its timer has not run yet: dialling looks at the clock by itself.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return nil
}

// errAttemptTimeout stands for the deadline of one attempt, which must not pass
// for the caller's.
var errAttemptTimeout = errors.New("no whole reply within the time of one attempt")

// network strips the URL, which names customers, from an error of net/http.
func (c *Client) network(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	switch {
	case err == nil:
		return errors.New("no reply")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return errAttemptTimeout
	}
	if text := err.Error(); c.redact.text(text) != text {
		return errors.New(c.redact.text(text))
	}
	return err
}

// read makes a GET and hands its body to decode, whose error makes the reply a
// garbled one.
func read[T any](ctx context.Context, c *Client, r request, decode func(body []byte) (T, error)) (T, error) {
	return readReply(ctx, c, r, func(reply Reply) (T, error) { return decode(reply.Body) })
}

// readReply is read for those who look at the header too.
func readReply[T any](ctx context.Context, c *Client, r request, decode func(Reply) (T, error)) (T, error) {
	var v, zero T
	r.method = http.MethodGet
	r.makesSense = func(reply Reply) (err error) {
		v, err = decode(reply)
		return err
	}
	if _, err := c.call(ctx, r); err != nil {
		return zero, err
	}
	return v, nil
}

// write makes a POST. A reply that cannot be decoded is still returned: the
// write has happened.
func write[T any](ctx context.Context, c *Client, r request, params url.Values, key string, decode func(body []byte) (T, error)) (T, Reply, error) {
	var zero T
	if key == "" {
		key = "creditmirror-" + rand.Text()
	}
	if !validKey.MatchString(key) {
		return zero, Reply{}, refused(r.endpoint, "Idempotency-Key", "must be 1 to 255 printable characters")
	}
	r.method, r.idempotencyKey, r.values = http.MethodPost, key, formOf(params)
	return replyTo(ctx, c, r, decode)
}

// replyTo makes a call that changes something and decodes its reply, which is returned
// with the error where that fails.
func replyTo[T any](ctx context.Context, c *Client, r request, decode func(body []byte) (T, error)) (T, Reply, error) {
	var zero T
	reply, err := c.call(ctx, r)
	if err != nil {
		return zero, reply, err
	}
	v, err := decode(reply.Body)
	if err != nil {
		return zero, reply, c.garbled(r.endpoint, reply, err)
	}
	return v, reply, nil
}

// validKey leaves out outer blanks, which HTTP would drop: two different keys
// would become one.
var validKey = regexp.MustCompile(`^[!-~]([ -~]{0,253}[!-~])?$`)

func (c *Client) garbled(endpoint string, reply Reply, err error) *Error {
	return &Error{
		Kind: KindGarbled, Status: reply.Status, Endpoint: endpoint,
		RequestID: c.requestID(attempt{header: reply.Header}), Message: c.redact.text(err.Error()),
	}
}

// formOf keeps every key and value; keys are sorted, values stay in order.
func formOf(params url.Values) *form.Values {
	f := &form.Values{}
	for _, k := range sortedKeys(params) {
		for _, v := range params[k] {
			f.Add(k, v)
		}
	}
	return f
}

// checkIDs refuses what is no id before it gets into a path or a query; pairs
// are name, value. Cursors, named with a question mark at the end, may be empty.
func checkIDs(endpoint string, pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		name, optional := strings.CutSuffix(pairs[i], "?")
		if v := pairs[i+1]; !mirror.ValidID(v) && (v != "" || !optional) { // #nosec G602 -- callers give pairs
			return refused(endpoint, name, "not an id")
		}
	}
	return nil
}

// maxPage is the most rows that Stripe gives in a page.
const maxPage = 100

// pageValues begins the parameters of a list.
func pageValues(endpoint, after string, limit int) (*form.Values, error) {
	if limit == 0 {
		limit = maxPage
	}
	if limit < 0 || limit > maxPage {
		return nil, refused(endpoint, "limit", "must be 1 to 100, or 0 for 100")
	}
	f := &form.Values{}
	f.Add("limit", fmt.Sprint(limit))
	if after != "" {
		f.Add("starting_after", after)
	}
	return f, nil
}
