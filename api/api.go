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
	"regexp"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// reader is the part of mirror.Reader that is served.
type reader interface {
	Customer(ctx context.Context, account, id string) (mirror.CustomerView, error)
	BalanceTransactions(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error)
	BalanceTransaction(ctx context.Context, account, customer, id string) (mirror.BalanceTransaction, error)
	Grant(ctx context.Context, account, id string) (mirror.CreditGrant, error)
	Grants(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error)
	GrantOwner(ctx context.Context, account, grant string) (string, error)
	CreditTransactions(ctx context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error)
	CreditTransaction(ctx context.Context, account, id string) (mirror.CreditTransaction, error)
}

var _ reader = mirror.Reader(nil)

// Options are what the API needs.
type Options struct {
	// Reader is the mirror; any mirror.Reader will do.
	Reader reader
	// Keys are accepted from callers. With none, only requests from this machine
	// are answered.
	Keys []Key
	// Log defaults to none.
	Log *zap.Logger
	// Now defaults to time.Now; it decides which grants are effective or expired.
	Now func() time.Time
	// Timeout bounds the work on one request. Defaults to 10 s.
	Timeout time.Duration
}

// New returns the handler of everything under /v1/. It panics without a Reader.
func New(o Options) http.Handler {
	if o.Reader == nil {
		panic("api: no Reader")
	}
	h := &handler{
		reader: o.Reader, keys: newKeyring(o.Keys), log: o.Log, now: o.Now,
		timeout: cmp.Or(o.Timeout, 10*time.Second),
		refused: rate.Sometimes{Interval: time.Second},
	}
	if h.log == nil {
		h.log = zap.NewNop()
	}
	if h.now == nil {
		h.now = time.Now
	}
	return h
}

type handler struct {
	reader  reader
	keys    keyring
	log     *zap.Logger
	now     func() time.Time
	timeout time.Duration
	// refused keeps a flood of wrong keys from becoming a flood of log lines.
	refused rate.Sometimes
}

// call is one request to a known path, after its parameters were checked.
type call struct {
	reader  reader
	account string
	ids     []string // the ids in the path
	query   query
	page    mirror.Page // of lists
	expand  expansion   // of one object, also in lists
	now     time.Time
	fresh   freshness
	held    held
}

// freshness is the oldest of the times at which the parts of a reply were
// synced; unknown as soon as one of them is.
type freshness struct {
	at      time.Time
	unknown bool
}

func (f *freshness) add(t time.Time) {
	switch {
	case t.IsZero():
		f.unknown = true
	case f.at.IsZero() || t.Before(f.at):
		f.at = t
	}
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

	status := http.StatusOK
	body, err := h.answer(r, header, log)
	if err != nil {
		e := h.classify(r, err, log)
		for name, value := range e.header {
			header.Set(name, value)
		}
		status, body = e.status, e.envelope()
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// A caller that went away is no concern of ours.
	_, _ = w.Write(body)
	log.Debug("api request answered", zap.Int("code", status), zap.Duration("duration", time.Since(began)))
}

// classify turns any error into what the caller may know of it.
func (h *handler) classify(r *http.Request, err error, log *zap.Logger) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if r.Context().Err() != nil {
		log.Debug("api caller went away", zap.Error(err))
	} else {
		log.Error("api could not answer", zap.Error(err))
	}
	return errUnavailable()
}

func (h *handler) answer(r *http.Request, header http.Header, log *zap.Logger) (body []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	access, err := h.authenticate(r, log)
	if err != nil {
		return nil, err
	}
	if err := version(r, header); err != nil {
		return nil, err
	}
	account, err := account(r)
	if err != nil {
		return nil, err
	}
	rt, ids, err := match(r, access)
	if err != nil {
		return nil, err
	}
	c := &call{reader: h.reader, account: account, ids: ids, now: h.now()}
	if err := rt.parse(r.URL.RawQuery, c); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.timeout)
	defer cancel()
	v, err := rt.serve(ctx, c)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // what Stripe sent goes out as it came
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode the reply: %w", err)
	}
	if !c.fresh.unknown && !c.fresh.at.IsZero() {
		header.Set("Creditmirror-Synced-At", c.fresh.at.UTC().Format(time.RFC3339Nano))
	}
	return out.Bytes(), nil
}

// validVersion is a date, a name since 2024, and beta flags behind semicolons.
var validVersion = regexp.MustCompile(`^\d{4}-\d\d-\d\d(\.[a-z]{1,32})?(; ?[a-z0-9_]{1,64}=v\d{1,4}){0,8}$`)

// version echoes Stripe-Version, as Stripe does. It changes nothing in the reply.
func version(r *http.Request, header http.Header) error {
	values := r.Header.Values("Stripe-Version")
	if len(values) == 0 {
		return nil
	}
	if len(values) > 1 || !validVersion.MatchString(values[0]) {
		return errInvalid("", "", "Invalid Stripe API version: %s", clip(values[0]))
	}
	header.Set("Stripe-Version", values[0])
	return nil
}

// account picks the connected account; empty is the platform's own.
func account(r *http.Request) (string, error) {
	values := r.Header.Values("Stripe-Account")
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 || !mirror.ValidAccountID(values[0]) {
		return "", errAccount(values[0])
	}
	return values[0], nil
}
