package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
	"github.com/creditmirror/creditmirror/tracing"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// reader is the part of mirror.Reader that is served.
type reader interface {
	Snapshot(ctx context.Context, fn func(mirror.Reader) error) error
	CustomerPage(ctx context.Context, account string, f mirror.CustomerFilter, p mirror.Page) (mirror.Slice[mirror.CustomerView], error)
	CustomerOfAccount(ctx context.Context, account, customerAccount string) (string, error)
	Balances(ctx context.Context, account, after string, limit int, asOf time.Time) ([]mirror.CustomerBalances, error)
	Changes(ctx context.Context, account, after string, limit int) ([]mirror.Change, error)
	Customer(ctx context.Context, account, id string) (mirror.CustomerView, error)
	BalanceTransactions(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error)
	BalanceTransaction(ctx context.Context, account, customer, id string) (mirror.BalanceTransaction, error)
	Grant(ctx context.Context, account, id string) (mirror.CreditGrant, error)
	Grants(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error)
	GrantOwner(ctx context.Context, account, grant string) (string, error)
	CreditTransactions(ctx context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error)
	CreditTransaction(ctx context.Context, account, id string) (mirror.CreditTransaction, error)
	CreditSummary(ctx context.Context, account, customer string) (mirror.CreditSummary, error)
}

var _ reader = mirror.Reader(nil)

// Options are what the API needs.
type Options struct {
	// Reader is the mirror; any mirror.Reader will do.
	Reader reader
	// Books serves the reports of the books. Defaults to none: they fail.
	Books report.Books
	// Keys are accepted from callers. With none, only requests from this machine
	// are answered, and none that writes.
	Keys *access.Keys
	// Journal records who wrote what. Defaults to none.
	Journal *Journal
	// Proxies are believed in where a request comes from. Defaults to none.
	Proxies doors.Proxies
	// Writes sends on what changes something at Stripe. Defaults to none: writes
	// are refused.
	Writes *Writes
	// Syncs serves Creditmirror-Max-Age. Defaults to none: a copy that is too old
	// is answered with 504.
	Syncs *Syncs
	// Version is the API version of the JSON that is held.
	Version string
	// Accounts reports which connected accounts are mirrored. Defaults to all.
	Accounts func(ctx context.Context, account string) (bool, error)
	// Emails means that whole customers are held, so that they can be listed by
	// e-mail address.
	Emails bool
	// Ledgers are those that are mirrored. Defaults to both.
	Ledgers []access.Ledger
	// RefuseIncomplete answers 503 where a history is not wholly held.
	RefuseIncomplete bool
	// Stopping ends the wait of those who wait for changes. Defaults to never.
	Stopping <-chan struct{}
	// Log defaults to none.
	Log *zap.Logger
	// Tracer makes a span for each request with a key that is accepted. Defaults to none.
	Tracer trace.Tracer
	// Metrics are those of NewMetrics. Defaults to none.
	Metrics *Metrics
	// Now defaults to time.Now; it decides which grants are effective or expired.
	Now func() time.Time
	// Timeout bounds the work on one request, without what Stripe takes. Defaults
	// to 10 s.
	Timeout time.Duration
}

// New returns the handler of everything under /v1/. It panics without a Reader.
func New(o Options) http.Handler {
	if o.Reader == nil {
		panic("api: no Reader")
	}
	h := &handler{
		reader: o.Reader, books: o.Books, keys: o.Keys, journal: o.Journal, proxies: o.Proxies, writes: o.Writes, syncs: o.Syncs, version: o.Version,
		ledgers: o.Ledgers, refuse: o.RefuseIncomplete, accounts: o.Accounts, emails: o.Emails, stopping: o.Stopping, log: o.Log, tracer: o.Tracer, metrics: o.Metrics, now: o.Now,
		timeout:  cmp.Or(o.Timeout, 10*time.Second),
		refused:  rate.Sometimes{Interval: time.Second},
		limited:  rate.Sometimes{Interval: time.Minute},
		unsynced: rate.Sometimes{Interval: time.Second},
		failures: rate.NewLimiter(failuresPerSecond, failuresAtOnce),
	}
	if h.log == nil {
		h.log = zap.NewNop()
	}
	if h.now == nil {
		h.now = time.Now
	}
	if h.journal == nil {
		h.journal, _ = NewJournal(nil, JournalOptions{Log: o.Log, Now: o.Now}) // without a registerer nothing can fail
	}
	return h
}

type handler struct {
	reader   reader
	books    report.Books
	keys     *access.Keys
	journal  *Journal
	proxies  doors.Proxies
	writes   *Writes
	syncs    *Syncs
	version  string
	accounts func(context.Context, string) (bool, error)
	emails   bool
	ledgers  []access.Ledger
	refuse   bool
	stopping <-chan struct{}
	follow   followers
	log      *zap.Logger
	tracer   trace.Tracer
	metrics  *Metrics
	now      func() time.Time
	timeout  time.Duration
	// refused keeps a flood of wrong keys from becoming a flood of log lines.
	refused rate.Sometimes
	// limited does so for keys over their limit.
	limited rate.Sometimes
	// unsynced does so for syncs on demand that fail.
	unsynced rate.Sometimes
	// failures bounds how many wrong keys are answered.
	failures *rate.Limiter
}

// call is one request to a known path, after its parameters were checked.
type call struct {
	reader  reader
	books   report.Books // nil where the store has none
	account string
	ids     []string // the ids in the path
	query   query
	page    mirror.Page // of lists
	expand  expansion   // of one object, also in lists
	now     time.Time
	emails  bool
	fresh   freshness
	held    held
	// leftOut are grants that the reply counts nothing of, since they are no money.
	leftOut int
	// form and key are what a write sends on: the parameters and the Idempotency-Key.
	form     url.Values
	key      string
	holder   *access.Holder // nil where no keys are configured
	about    *asked
	stopping <-chan struct{}
	follow   *followers
	log      *zap.Logger
}

// freshness is the oldest of the times at which the parts of a reply were
// synced; unknown as soon as one of them is. It is unfinished as soon as the
// history of one part is not wholly held.
type freshness struct {
	at         time.Time
	unknown    bool
	unfinished bool
	// known: a part was added. ofAll: the reply is a list of the whole account, whose
	// completeness is not known.
	known, ofAll bool
	// newest is the time of the youngest part: one that lies ahead is of a clock that
	// was ahead, and means nothing.
	newest time.Time
}

func (f *freshness) add(t time.Time, unfinished bool) {
	f.known = true
	if t.After(f.newest) {
		f.newest = t
	}
	f.unfinished = f.unfinished || unfinished
	switch {
	case t.IsZero():
		f.unknown = true
	case f.at.IsZero() || t.Before(f.at):
		f.at = t
	}
}

// response is a whole answer.
type response struct {
	status int
	header http.Header
	body   []byte
}

// ServeHTTP answers one request. The reply is complete in memory before its first
// byte is sent, so that no error can come after a 200.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	requestID := "req_" + rand.Text()
	log := h.log.With(zap.String("request_id", requestID))
	header := w.Header()
	header.Set("Request-Id", requestID)
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")

	if r.Method == http.MethodPost {
		header.Set(headerWrite, outcomeNotDone) // until it is sent on
	}
	asked := asked{span: tracing.Off, write: mirror.APIWrite{ID: requestID, Created: h.now().UTC().Truncate(time.Microsecond), RemoteAddr: h.proxies.Caller(r)}}
	out, err := h.answer(r, header, log, &asked)
	if err != nil {
		e := h.classify(r, header, err, log)
		out = response{status: e.status, body: e.envelope()}
		for name, value := range e.header {
			header.Set(name, value)
		}
		if changes(r) && !asked.sent {
			h.journal.refused(asked.write, e, asked.holder)
		}
	}
	for name, values := range out.header {
		header[name] = values
	}
	if asked.sent {
		asked.write.Status, asked.write.Outcome = out.status, mirror.APIOutcome(header.Get(headerWrite))
		h.journal.end(r.Context(), asked.write)
	}
	out = encode(r, header, out)
	header.Set("Content-Length", strconv.Itoa(len(out.body)))
	if out.status == http.StatusNotModified {
		header.Del("Content-Length")
	}
	endSpan(asked.span, out.status, requestID)
	w.WriteHeader(out.status)
	// A caller that went away is no concern of ours.
	_, _ = w.Write(out.body)
	took := time.Since(began)
	h.metrics.answered(asked.route, out.status, took)
	log.Debug("api request answered", zap.Int("code", out.status), zap.Duration("duration", took))
}

// classify turns any error into what the caller may know of it; header is what the
// answer says already.
func (h *handler) classify(r *http.Request, header http.Header, err error, log *zap.Logger) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	gone := r.Context().Err() != nil
	if gone {
		log.Debug("api client disconnected", zap.Error(err))
	} else {
		log.Error("api request failed", zap.Error(err))
	}
	switch {
	case header.Get(headerWrite) == outcomeUnknown:
		return errUncertain(http.StatusBadGateway, "Stripe's answer was lost here.", header.Get("Idempotency-Key"))
	case gone:
		return errGone()
	}
	return errUnavailable()
}

// asked is what is known of a request beside its answer.
type asked struct {
	// route is nil as long as it is not known what is asked, by whom.
	route *route
	// span is the one that the request runs in.
	span trace.Span
	// holder has the key that was accepted, or was until it expired; nil: none.
	holder *access.Holder
	// write is what the journal will record, and sent that it is recorded already.
	write mirror.APIWrite
	sent  bool
}

// changes reports whether a request is one that changes something.
func changes(r *http.Request) bool {
	return r.Method == http.MethodPost || r.Method == http.MethodDelete
}

// answer takes a request through its steps.
func (h *handler) answer(r *http.Request, header http.Header, log *zap.Logger, about *asked) (out response, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if about.holder, err = h.authenticate(r, about.write.RemoteAddr, log); about.holder != nil {
		about.write.Key = about.holder.Name
	}
	if err != nil {
		return response{}, err
	}
	version, err := h.requestVersion(r, header)
	if err != nil {
		return response{}, err
	}
	account, err := h.account(r, about.holder)
	if err != nil {
		return response{}, err
	}
	about.write.Account = account
	rt, ids, err := match(r)
	about.name(rt, ids)
	if err == nil {
		err = h.authorize(rt, about.holder)
	} else if e := h.readOnly(r, rt, about.holder); e != nil {
		err = e
	}
	if err != nil {
		return response{}, err
	}
	if err := h.isMirrored(rt); err != nil {
		return response{}, err
	}
	about.route = rt
	r, about.span = h.span(r, rt, account)
	c := &call{
		reader: h.reader, books: h.books, account: account, ids: ids, now: h.now(), emails: h.emails, holder: about.holder, about: about,
		stopping: h.stopping, follow: &h.follow, log: log,
	}
	if rt.write != nil {
		if out, err = h.write(r, header, rt, c); err == nil {
			out.body = reshape(out.body, version)
		}
		return out, err
	}
	if err := rt.parse(r.URL.RawQuery, c); err != nil {
		return response{}, err
	}
	if err := authorizeExpand(rt, c.expand, about.holder); err != nil {
		return response{}, err
	}
	if err := h.refresh(r, rt, c); err != nil {
		return response{}, err
	}
	v, err := h.serve(r, rt, c)
	if err != nil {
		return response{}, err
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // what Stripe sent goes out as it came
	if err := enc.Encode(v); err != nil {
		return response{}, fmt.Errorf("encode the reply: %w", err)
	}
	if !c.fresh.unknown && !c.fresh.at.IsZero() && !ahead(c.fresh.newest, h.now()) {
		header.Set("Creditmirror-Synced-At", c.fresh.at.UTC().Format(time.RFC3339Nano))
	}
	if c.fresh.known && !c.fresh.ofAll {
		header.Set("Creditmirror-Complete", strconv.FormatBool(!c.fresh.unfinished))
		if c.fresh.unfinished && h.refuse {
			return response{}, errIncomplete()
		}
	}
	if c.leftOut > 0 {
		header.Set("Creditmirror-Left-Out", strconv.Itoa(c.leftOut))
		h.metrics.partly()
	}
	return response{status: http.StatusOK, body: reshape(body.Bytes(), version)}, nil
}

// isMirrored refuses what is of a ledger that is not mirrored.
func (h *handler) isMirrored(rt *route) error {
	if len(rt.ledgers) != 1 || len(h.ledgers) == 0 || slices.Contains(h.ledgers, rt.ledgers[0]) {
		return nil
	}
	return errNotMirrored(rt.method, rt.name, rt.ledgers[0])
}

// serve runs a read. One that takes several reads of the mirror takes them from
// one state of it, so that a list and the customer in it, or a grant and its
// rows, are of the same sync.
func (h *handler) serve(r *http.Request, rt *route, c *call) (v any, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), h.timeout+rt.patience)
	defer cancel()
	if rt.single && len(c.expand) == 0 {
		return rt.serve(ctx, c)
	}
	err = h.reader.Snapshot(ctx, func(snapshot mirror.Reader) error {
		c.reader = snapshot
		v, err = rt.serve(ctx, c)
		return err
	})
	return v, err
}

// account picks the connected account; empty is the platform's own. Stripe takes it from
// either of two headers. Whoever names two is refused: one of them would be ignored, and a
// write made in an account that was not meant.
func (h *handler) account(r *http.Request, holder *access.Holder) (string, error) {
	values := slices.Concat(r.Header.Values("Stripe-Account"), r.Header.Values("Stripe-Context"))
	if len(values) == 0 {
		if holder != nil && !holder.MaySee("") {
			return "", errPlatform()
		}
		return "", nil
	}
	account := values[0]
	if len(values) > 1 || !mirror.ValidAccountID(account) || holder != nil && !holder.MaySee(account) {
		return "", errAccount(account)
	}
	if h.accounts == nil || r.Method == http.MethodPost && h.writes != nil && h.writes.Seen != nil {
		return account, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.timeout)
	defer cancel()
	switch mirrored, err := h.accounts(ctx, account); {
	case err != nil:
		return "", err
	case !mirrored:
		return "", errAccount(account)
	}
	return account, nil
}
