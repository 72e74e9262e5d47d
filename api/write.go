package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// stripeWriter is what is sent on to Stripe. *stripeapi.Client is one.
type stripeWriter interface {
	CreateBalanceTransaction(ctx context.Context, account, customer string, params url.Values, key string) (mirror.BalanceTransaction, stripeapi.Reply, error)
	UpdateBalanceTransaction(ctx context.Context, account, customer, id string, params url.Values, key string) (mirror.BalanceTransaction, stripeapi.Reply, error)
	BalanceTransaction(ctx context.Context, account, customer, id string) (mirror.BalanceTransaction, error)
	CreateGrant(ctx context.Context, account string, params url.Values, key string) (mirror.CreditGrant, stripeapi.Reply, error)
	UpdateGrant(ctx context.Context, account, id string, params url.Values, key string) (mirror.CreditGrant, stripeapi.Reply, error)
	ExpireGrant(ctx context.Context, account, id string, params url.Values, key string) (mirror.CreditGrant, stripeapi.Reply, error)
	VoidGrant(ctx context.Context, account, id string, params url.Values, key string) (mirror.CreditGrant, stripeapi.Reply, error)
}

// writeStore is where the replies go. Every mirror.Fence is one.
type writeStore interface {
	BeginSync(ctx context.Context, t mirror.Target) (mirror.SyncState, error)
	ApplyWrite(ctx context.Context, w mirror.Write) (mirror.Applied, error)
}

// Writes sends writes on to Stripe and brings the mirror to what Stripe answered
// before the caller gets it. All fields but Timeout are required.
type Writes struct {
	Stripe stripeWriter
	Store  writeStore
	// Sync syncs a target behind the fence; grant, when not empty, is one that must
	// be read again.
	Sync func(ctx context.Context, t mirror.Target, grant string) error
	// Mark marks targets to be synced later; durable when it returns.
	Mark func(ctx context.Context, targets []mirror.Target) error
	// Timeout bounds what Stripe takes, retries included. Defaults to 60 s, which is
	// less than SDKs wait.
	Timeout time.Duration
}

const (
	writeTimeout = 60 * time.Second
	// catchUpTimeout bounds how long a reply of Stripe's is held back for the sync of
	// what it alone does not tell.
	catchUpTimeout = 5 * time.Second
	// maxForm bounds the body of a write, in bytes.
	maxForm = 1 << 20
)

// written is what became of a write: Stripe's reply where there was one, or else
// an error.
type written struct {
	reply stripeapi.Reply
	err   error
	// target may have changed; zero where it is not known.
	target mirror.Target
}

// validKey are keys that arrive at Stripe as they were sent.
var validKey = regexp.MustCompile(`^[!-~]([ -~]{0,253}[!-~])?$`)

// handedOn are the headers of Stripe's replies that a caller gets.
var handedOn = []string{
	"Request-Id", "Idempotency-Key", "Idempotent-Replayed", "Original-Request", "Stripe-Should-Retry",
	"Stripe-Rate-Limited-Reason", "Retry-After",
}

// headerWrite tells what became of a write: done, not-done or unknown.
const headerWrite = "Creditmirror-Write"

// write sends a request on and answers with what Stripe answered.
func (h *handler) write(r *http.Request, rt *route, c *call) (response, error) {
	if h.writes == nil {
		return response{}, errWritesOff()
	}
	var err error
	if c.form, err = readForm(r); err != nil {
		return response{}, err
	}
	switch keys := r.Header.Values("Idempotency-Key"); {
	case len(keys) == 0:
		c.key = "creditmirror-" + rand.Text()
	case len(keys) > 1 || !validKey.MatchString(keys[0]):
		e := errInvalid("", "", "Idempotency keys must be 1 to 255 printable characters.")
		e.typ = "idempotency_error"
		return response{}, e
	default:
		c.key = keys[0]
	}
	timeout := h.writes.Timeout
	if timeout <= 0 {
		timeout = writeTimeout
	}
	// A caller that goes away does not take the write back, and the mirror must hear
	// of it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), timeout)
	defer cancel()
	began := time.Now()
	w, err := rt.write(ctx, h.writes, c)
	if err != nil {
		return response{}, err
	}
	outcome := w.outcome()
	if outcome == "unknown" && w.target.Valid() {
		h.writes.mark(ctx, c, w.target)
	}
	c.log.Info("api write", zap.String("customer_id", w.target.ID), zap.String("scope", string(w.target.Scope)),
		zap.Int("code", w.reply.Status), zap.String("outcome", outcome), zap.Duration("duration", time.Since(began)))
	out, err := w.response(c)
	if out.header == nil {
		out.header = http.Header{}
	}
	if e, ok := errors.AsType[*apiError](err); ok {
		e.header[headerWrite], e.header["Idempotency-Key"] = outcome, c.key
	}
	out.header.Set(headerWrite, outcome)
	if out.header.Get("Idempotency-Key") == "" {
		out.header.Set("Idempotency-Key", c.key)
	}
	return out, err
}

// readForm reads the parameters of a write, from the query too, as Stripe does.
func readForm(r *http.Request) (url.Values, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxForm))
	if err != nil {
		e := errInvalid("", "", "The request body could not be read.")
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			e = errInvalid("", "", "The request body is larger than %d bytes.", maxForm)
			e.status = http.StatusRequestEntityTooLarge
		}
		return nil, e
	}
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if len(body) > 0 && !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		return nil, errInvalid("", "", "Invalid request (check that your POST content type is application/x-www-form-urlencoded).")
	}
	form, err := url.ParseQuery(string(body))
	if err == nil && r.URL.RawQuery != "" {
		var query url.Values
		query, err = url.ParseQuery(r.URL.RawQuery)
		for name, values := range query {
			form[name] = append(form[name], values...)
		}
	}
	if err != nil {
		return nil, errInvalid("", "", "Invalid parameters: they are not properly encoded.")
	}
	return form, nil
}

// outcome tells whether the write has happened.
func (w written) outcome() string {
	if w.reply.Status >= 200 && w.reply.Status <= 299 {
		return "done"
	}
	if e, ok := errors.AsType[*stripeapi.Error](w.err); ok && !e.Unsettled {
		return "not-done"
	}
	return "unknown"
}

// response is Stripe's own reply, or an error in its shape that tells whether the
// write may have happened.
func (w written) response(c *call) (response, error) {
	if w.reply.Body != nil {
		out := response{status: w.reply.Status, body: w.reply.Body, header: http.Header{}}
		for _, name := range handedOn {
			if v := w.reply.Header.Get(name); v != "" {
				out.header.Set(name, v)
			}
		}
		return out, nil
	}
	c.log.Warn("api write without a reply of stripe", zap.Error(w.err))
	e := &apiError{typ: typeAPI, header: map[string]string{"Stripe-Should-Retry": "true"}}
	se, ok := errors.AsType[*stripeapi.Error](w.err)
	switch {
	case w.outcome() == "not-done":
		e.status = http.StatusServiceUnavailable
		e.header["Retry-After"] = "1"
		e.message = "Stripe could not be reached. The write was not sent: nothing has changed, and it can be repeated."
	case ok && se.Kind == stripeapi.KindCanceled:
		e.status = http.StatusGatewayTimeout
		e.message = "Stripe did not answer in time. The write may have happened: " + repeatSafely(c.key)
	default:
		e.status = http.StatusBadGateway
		e.message = "Stripe gave no usable answer. The write may have happened: " + repeatSafely(c.key)
	}
	return response{}, e
}

func repeatSafely(key string) string {
	return fmt.Sprintf("repeat it with the same Idempotency-Key (%s), and it will happen once.", key)
}

// catchUp syncs what a reply alone does not tell, or marks it for later. held,
// when not nil, tells whether the mirror has come to hold the write by others'
// work meanwhile: a sync that overtakes this one has begun after the write.
func (w *Writes) catchUp(ctx context.Context, c *call, t mirror.Target, grant string, held func(context.Context) bool) {
	sync, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	var err error
	for attempt := 0; ; attempt++ {
		if err = w.Sync(sync, t, grant); !errors.Is(err, mirror.ErrFenced) {
			break
		}
		if pause(sync, 20*time.Millisecond<<min(attempt, 4)) != nil {
			break
		}
		if held != nil && held(sync) {
			return
		}
	}
	if err != nil {
		c.log.Warn("mirror is behind a write", zap.String("customer_id", t.ID), zap.String("scope", string(t.Scope)), zap.Error(err))
		w.mark(ctx, c, t)
	}
}

// mark has the target synced later. Should that fail too, the event that Stripe
// sends for the write does the same.
func (w *Writes) mark(ctx context.Context, c *call, t mirror.Target) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := w.Mark(ctx, []mirror.Target{t}); err != nil {
		c.log.Warn("mark after a write failed", zap.String("customer_id", t.ID), zap.String("scope", string(t.Scope)), zap.Error(err))
	}
}

func createBalanceTransaction(ctx context.Context, w *Writes, c *call) (written, error) {
	customer := c.ids[0]
	if !validID(customer) {
		return written{}, errMissing(http.StatusNotFound, nameCustomer, customer, "customer")
	}
	out := written{target: balanceOf(c, customer)}
	var row mirror.BalanceTransaction
	row, out.reply, out.err = w.Stripe.CreateBalanceTransaction(ctx, c.account, customer, c.form, c.key)
	if out.outcome() != "done" {
		return out, nil
	}
	if out.err == nil {
		_, err := w.Store.ApplyWrite(ctx, mirror.Write{Target: out.target, Row: &row})
		if err == nil {
			return out, nil
		}
		c.log.Debug("write is synced", zap.String("customer_id", customer), zap.Error(err))
	}
	w.catchUp(ctx, c, out.target, "", func(ctx context.Context) bool {
		if out.err != nil {
			return false
		}
		_, err := w.Store.ApplyWrite(ctx, mirror.Write{Target: out.target, Row: &row})
		return err == nil
	})
	return out, nil
}

// rereads bounds how often the row of an edit is read again because something
// else began on its customer meanwhile.
const rereads = 5

func updateBalanceTransaction(ctx context.Context, w *Writes, c *call) (written, error) {
	customer, id := c.ids[0], c.ids[1]
	if !validID(customer) {
		return written{}, errMissing(http.StatusNotFound, nameCustomer, customer, "customer")
	}
	if !validID(id) {
		return written{}, errMissing(http.StatusNotFound, nameBalanceTransaction, id, "transaction")
	}
	out := written{target: balanceOf(c, customer)}
	// Nothing is begun on what is not held: it would stand there as a customer whose
	// history was never read.
	var state mirror.SyncState
	_, begun := c.reader.Customer(ctx, c.account, customer)
	if begun == nil {
		state, begun = w.Store.BeginSync(ctx, out.target)
	}
	var row mirror.BalanceTransaction
	row, out.reply, out.err = w.Stripe.UpdateBalanceTransaction(ctx, c.account, customer, id, c.form, c.key)
	if out.outcome() != "done" {
		return out, nil
	}
	err := errors.Join(begun, out.err)
	for n := 0; err == nil; n++ {
		if _, err = w.Store.ApplyWrite(ctx, mirror.Write{Target: out.target, Epoch: state.Epoch, Row: &row}); err == nil {
			return out, nil
		}
		if !errors.Is(err, mirror.ErrFenced) || n == rereads {
			break
		}
		// Another edit may have passed this one: what counts is how the row is now.
		if state, err = w.Store.BeginSync(ctx, out.target); err == nil {
			row, err = w.Stripe.BalanceTransaction(ctx, c.account, customer, id)
		}
	}
	c.log.Debug("write is synced", zap.String("customer_id", customer), zap.Error(err))
	w.catchUp(ctx, c, out.target, "", nil)
	return out, nil
}

func createGrant(ctx context.Context, w *Writes, c *call) (written, error) {
	out := written{target: creditsOf(c, c.form.Get("customer"))}
	var g mirror.CreditGrant
	g, out.reply, out.err = w.Stripe.CreateGrant(ctx, c.account, c.form, c.key)
	w.afterGrant(ctx, c, &out, g)
	return out, nil
}

// afterGrant brings the mirror to what a write on a grant did. The reply has the
// grant and not the row of the ledger that comes with it, so it is read.
func (w *Writes) afterGrant(ctx context.Context, c *call, out *written, g mirror.CreditGrant) {
	if out.err == nil {
		out.target = creditsOf(c, g.Customer)
	}
	if out.outcome() == "done" && out.target.Valid() {
		w.catchUp(ctx, c, out.target, g.ID, nil)
	}
}

// changeGrant is a write on a grant that exists.
func (w *Writes) changeGrant(ctx context.Context, c *call,
	send func(ctx context.Context, account, id string, params url.Values, key string) (mirror.CreditGrant, stripeapi.Reply, error),
) (written, error) {
	out, err := c.ownGrant(ctx)
	if err != nil {
		return out, err
	}
	var g mirror.CreditGrant
	g, out.reply, out.err = send(ctx, c.account, c.ids[0], c.form, c.key)
	w.afterGrant(ctx, c, &out, g)
	return out, nil
}

// ownGrant begins a write on the grant in the path; its customer may not be known.
func (c *call) ownGrant(ctx context.Context) (written, error) {
	id := c.ids[0]
	owner, err := c.grantOwner(ctx, id, http.StatusNotFound, "id")
	if e, ok := errors.AsType[*apiError](err); ok && mirror.ValidGrantID(id) && e.code == "resource_missing" {
		return written{}, nil // not held; Stripe may know it
	}
	if err != nil {
		return written{}, err
	}
	return written{target: creditsOf(c, owner)}, nil
}

func expireGrant(ctx context.Context, w *Writes, c *call) (written, error) {
	return w.changeGrant(ctx, c, w.Stripe.ExpireGrant)
}

func voidGrant(ctx context.Context, w *Writes, c *call) (written, error) {
	return w.changeGrant(ctx, c, w.Stripe.VoidGrant)
}

// updateGrant edits a grant, which makes no row of the ledger: the reply is all.
func updateGrant(ctx context.Context, w *Writes, c *call) (written, error) {
	out, err := c.ownGrant(ctx)
	if err != nil {
		return out, err
	}
	var state mirror.SyncState
	begun := mirror.ErrNotFound
	if out.target.Valid() {
		state, begun = w.Store.BeginSync(ctx, out.target)
	}
	var g mirror.CreditGrant
	g, out.reply, out.err = w.Stripe.UpdateGrant(ctx, c.account, c.ids[0], c.form, c.key)
	if out.outcome() == "done" && out.err == nil && begun == nil {
		if _, err := w.Store.ApplyWrite(ctx, mirror.Write{Target: out.target, Epoch: state.Epoch, Grant: &g}); err == nil {
			return out, nil
		}
	}
	w.afterGrant(ctx, c, &out, g)
	return out, nil
}
