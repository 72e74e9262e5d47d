package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/internal/failpoint"
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

// writeStore is where the replies go. Every mirror.Store is one.
type writeStore interface {
	BeginSync(ctx context.Context, t mirror.Target) (mirror.SyncState, error)
	ApplyWrite(ctx context.Context, w mirror.Write) (mirror.Applied, error)
	RequestFullRead(ctx context.Context, targets []mirror.Target) error
}

// Writes sends writes on to Stripe and brings the mirror to what Stripe answered
// before the caller gets it. All fields but Seen and Timeout are required.
type Writes struct {
	Stripe stripeWriter
	Store  writeStore
	// Sync syncs a target behind the fence; grants are those that must be read again,
	// in copies that are not older.
	Sync func(ctx context.Context, t mirror.Target, grants []mirror.CreditGrant) error
	// UnderWay, where set, keeps writes from overtaking a sync that has just begun.
	UnderWay UnderWay
	// Mark marks targets to be synced later; durable when it returns.
	Mark func(ctx context.Context, targets []mirror.Target) error
	// Seen, where set, remembers the connected account of a write that Stripe has
	// taken; writes then go to any account, since Stripe knows which there are.
	// Defaults to the accounts of Options.
	Seen func(ctx context.Context, account string) error
	// Timeout bounds what Stripe takes, retries included. Defaults to 60 s, which is
	// less than SDKs wait.
	Timeout time.Duration

	mu    sync.Mutex
	turns map[mirror.Target]*turn
}

const (
	writeTimeout = 60 * time.Second
	// mirrorTimeout bounds how long the mirror may hold up a write, before it is sent
	// and before its reply is handed on.
	mirrorTimeout = 5 * time.Second
	// markTimeout bounds what is noted for later.
	markTimeout = 2 * time.Second
	// stopGrace is how long Stripe may still take once the process is stopping. With
	// the two above it ends before the stop cuts requests off, so that the caller
	// learns what became of the write.
	stopGrace = 4 * time.Second
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
	// edit marks a row that may lie below what a sync reads, and whose change
	// no event announces.
	edit bool
}

// validKey are keys that arrive at Stripe as they were sent.
var validKey = regexp.MustCompile(`^[!-~]([ -~]{0,253}[!-~])?$`)

// headerRetry says to SDKs whether to repeat a request by themselves.
const headerRetry = "Stripe-Should-Retry"

// handedOn are the headers of Stripe's replies that a caller gets.
var handedOn = []string{
	"Request-Id", "Idempotency-Key", "Idempotent-Replayed", "Original-Request", headerRetry,
	"Stripe-Rate-Limited-Reason", "Retry-After",
}

// headerWrite says what became of a write, on every answer to a POST.
const headerWrite = "Creditmirror-Write"

// What headerWrite says.
const (
	outcomeDone    = "done"
	outcomeNotDone = "not-done"
	outcomeUnknown = "unknown"
)

// write sends a request on and answers with what Stripe answered.
func (h *handler) write(r *http.Request, header http.Header, rt *route, c *call) (response, error) {
	if h.writes == nil {
		return response{}, errWritesOff()
	}
	var err error
	if c.form, err = readForm(r); err != nil {
		return response{}, err
	}
	keys := r.Header.Values("Idempotency-Key")
	switch {
	case len(keys) == 0:
		c.key = "creditmirror-" + rand.Text()
	case len(keys) > 1 || !validKey.MatchString(keys[0]):
		e := errInvalid("", "", "Idempotency keys must be 1 to 255 printable characters.")
		e.typ = "idempotency_error"
		return response{}, e
	default:
		c.key = keys[0]
	}
	if err := h.beginWrite(r.Context(), rt, c); err != nil {
		return response{}, err
	}
	ctx, cancel := h.writes.bound(r.Context(), c.stopping)
	defer cancel()
	// Whatever goes wrong from here on, the caller learns that it may have happened.
	// An SDK may repeat it by itself only with a key of its own: without one it would
	// be a second write.
	header.Set(headerWrite, outcomeUnknown)
	header.Set("Idempotency-Key", c.key)
	header.Set(headerRetry, strconv.FormatBool(len(keys) > 0))
	failpoint.Hit("api.sending")
	w, err := rt.write(ctx, h.writes, c)
	failpoint.Hit("api.mirrored")
	if err != nil {
		header.Set(headerWrite, outcomeNotDone)
		header.Del(headerRetry)
		return response{}, err
	}
	outcome := w.outcome()
	if outcome == outcomeUnknown && w.target.Valid() {
		h.writes.later(ctx, c, w)
	}
	if outcome == outcomeDone && c.account != "" && h.writes.Seen != nil {
		h.writes.remember(ctx, c)
	}
	c.about.ended(w, outcome)
	header.Set(headerWrite, outcome)
	out, err := w.response(c)
	switch {
	case outcome == outcomeUnknown && len(keys) == 0:
		out.header.Del(headerRetry)
	case err == nil: // Stripe's own word stands
		header.Del(headerRetry)
	}
	return out, err
}

// beginWrite judges what a write is to do, and notes it before it is sent.
func (h *handler) beginWrite(ctx context.Context, rt *route, c *call) error {
	digest := sha256.Sum256([]byte(c.key))
	c.about.write.IdempotencyDigest = hex.EncodeToString(digest[:])
	var perDay *int64
	if currency, amount, ok := amountOf(rt.operation, c.form); ok {
		c.about.write.Currency, c.about.write.Amount = currency, amount
		if c.holder != nil {
			perDay = c.holder.PerDay(currency)
		}
	}
	if rt.operation == access.Grant && mirror.ValidCustomerID(c.form.Get("customer")) {
		c.about.write.Customer = c.form.Get("customer")
	}
	if err := authorizeAmount(rt.operation, c.form, c.holder); err != nil {
		return err
	}
	if err := authorizeReply(rt, c.form, c.holder); err != nil {
		return err
	}
	if err := h.journal.begin(ctx, c.about.write, perDay); err != nil {
		return err
	}
	c.about.sent = true
	return nil
}

// authorizeReply refuses a request whose reply from Stripe would show more than the key may see.
func authorizeReply(rt *route, form url.Values, holder *access.Holder) error {
	for name := range form {
		if base, _, _ := strings.Cut(name, "["); base == paramExpandName {
			if err := authorizeExpand(rt, expansion{nameCustomer: nil}, holder); err != nil {
				return err
			}
		}
	}
	return nil
}

// name notes what a request is about, as far as the path names it.
func (a *asked) name(rt *route, ids []string) {
	if rt == nil || rt.write == nil {
		return
	}
	a.write.Operation = string(rt.operation)
	for _, id := range ids {
		switch {
		case mirror.ValidCustomerID(id):
			a.write.Customer = id
		case validID(id):
			a.write.Object = id
		}
	}
}

// ended notes what became of a write that was sent.
func (a *asked) ended(w written, outcome string) {
	if w.target.Valid() {
		a.write.Customer = w.target.ID
	}
	a.write.StripeRequestID = w.reply.Header.Get("Request-Id")
	if !validID(a.write.StripeRequestID) {
		a.write.StripeRequestID = ""
	}
	var body struct {
		ID    string
		Error struct{ Code, Type string }
	}
	if json.Unmarshal(w.reply.Body, &body) != nil {
		return
	}
	if outcome == outcomeDone && validID(body.ID) {
		a.write.Object = body.ID
	}
	if reason := cmp.Or(body.Error.Code, body.Error.Type); outcome != outcomeDone && validID(reason) {
		a.write.Reason = reason
	}
}

// remember takes note of the account of a write that was done, so that it can be
// read.
func (w *Writes) remember(ctx context.Context, c *call) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
	defer cancel()
	if err := w.Seen(ctx, c.account); err != nil {
		c.log.Warn("could not save the account of an api write", zap.String("account", c.account), zap.Error(err))
	}
}

// bound gives a write its time. A caller that goes away does not take the write
// back, and the mirror must hear of it; a process that stops waits, but not for
// long.
func (w *Writes) bound(ctx context.Context, stopping <-chan struct{}) (context.Context, context.CancelFunc) {
	timeout := w.Timeout
	if timeout <= 0 {
		timeout = writeTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	go func() {
		select {
		case <-ctx.Done():
		case <-stopping:
			_ = backoff.Sleep(ctx, stopGrace) // however it ends
			cancel()
		}
	}()
	return ctx, cancel
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
	// Which of two counts is not defined, and need not be the one that the caller has
	// looked at.
	if name := twice(form); name != "" {
		return nil, errInvalid("", name, "You passed '%s' more than once.", clip(name))
	}
	return form, nil
}

// outcome reports whether the write has happened.
func (w written) outcome() string {
	if w.succeeded() {
		if w.err == nil || answersWrite(w.reply.Body) {
			return outcomeDone
		}
		return outcomeUnknown
	}
	if e, ok := errors.AsType[*stripeapi.Error](w.err); ok && !e.Unsettled {
		return outcomeNotDone
	}
	return outcomeUnknown
}

func (w written) succeeded() bool { return w.reply.Status >= 200 && w.reply.Status <= 299 }

// replayed reports whether the reply is what was answered when the key was first used,
// which need not be how the object is now.
func (w written) replayed() bool { return w.reply.Header.Get("Idempotent-Replayed") == "true" }

// answersWrite distinguishes Stripe's answers, however new their shape, from what a proxy
// may put in their place.
func answersWrite(body []byte) bool {
	var v struct{ Object string }
	return json.Unmarshal(body, &v) == nil && (v.Object == "customer_balance_transaction" || v.Object == "billing.credit_grant")
}

// response is Stripe's own reply, or an error in its shape that reports whether the
// write may have happened.
func (w written) response(c *call) (response, error) {
	outcome := w.outcome()
	if w.reply.Body != nil && !(w.succeeded() && outcome == outcomeUnknown) {
		out := response{status: w.reply.Status, body: w.reply.Body, header: http.Header{}}
		if keyRefused(w.err) {
			c.log.Warn("stripe refused the mirror's own key for an api write", zap.Error(w.err))
			out.body = namingOurKey(w.reply.Body)
		}
		for _, name := range handedOn {
			if v := w.reply.Header.Get(name); v != "" {
				out.header.Set(name, v)
			}
		}
		return out, nil
	}
	c.log.Warn("no reply from stripe to an api write; its outcome is unknown", zap.Error(w.err))
	se, ok := errors.AsType[*stripeapi.Error](w.err)
	switch {
	case outcome == outcomeNotDone:
		return response{}, &apiError{
			status: http.StatusServiceUnavailable, typ: typeAPI, header: map[string]string{headerRetry: "true", "Retry-After": "1"},
			message: "Stripe could not be reached. The write was not sent: nothing has changed, and it can be repeated.",
		}
	case ok && se.Kind == stripeapi.KindCanceled:
		return response{}, errUncertain(http.StatusGatewayTimeout, "Stripe did not answer in time.", c.key)
	}
	return response{}, errUncertain(http.StatusBadGateway, "Stripe gave no usable answer.", c.key)
}

// namingOurKey is Stripe's error with words that say whose key it is about: the caller
// has another one.
func namingOurKey(body []byte) []byte {
	var reply map[string]any
	if json.Unmarshal(body, &reply) != nil {
		return body
	}
	e, ok := reply["error"].(map[string]any)
	if !ok {
		return body
	}
	message, _ := e["message"].(string)
	e["message"] = "Stripe refuses the API key of this creditmirror (its STRIPE_API_KEY, not yours): " + message
	text, err := json.MarshalIndent(reply, "", "  ")
	if err != nil {
		return body
	}
	return text
}

// errUncertain says that a write may have happened, and how to make sure of it.
func errUncertain(status int, reason, key string) *apiError {
	return &apiError{
		status: status, typ: typeAPI,
		message: fmt.Sprintf("%s The write may have happened: repeat it with the same Idempotency-Key (%s), and it will happen once.", reason, key),
	}
}

// catchUp syncs what a reply alone does not show, or leaves it for later.
func (w *Writes) catchUp(ctx context.Context, c *call, out written, grant mirror.CreditGrant) {
	failpoint.Hit("api.behind")
	if err := w.sync(ctx, out, grant); err != nil {
		c.log.Warn("could not apply an api write to the mirror at once", zap.String("customer_id", out.target.ID), zap.String("scope", string(out.target.Scope)), zap.Error(err))
		w.later(ctx, c, out)
	}
}

// sync returns once the mirror holds the write.
func (w *Writes) sync(ctx context.Context, out written, grant mirror.CreditGrant) error {
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	if out.edit {
		if err := w.readAnew(ctx, out.target); err != nil {
			return err
		}
	}
	return w.syncSoon(ctx, out.target, grant)
}

// later has the target of a write synced, and read to its first row where it was
// edited. Should that fail too, the event that Stripe sends does the same; of an
// edit there is none, and the scrub finds it.
func (w *Writes) later(ctx context.Context, c *call, out written) {
	t := out.target
	id, scope := zap.String("customer_id", t.ID), zap.String("scope", string(t.Scope))
	if out.edit {
		if err := w.readAnew(ctx, t); err != nil {
			c.log.Warn("could not request a full read after an edit; the scrub will find it", id, scope, zap.Error(err))
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
	defer cancel()
	if err := w.Mark(ctx, []mirror.Target{t}); err != nil {
		c.log.Warn("could not enqueue a sync after an api write", id, scope, zap.Error(err))
	}
}

// readAnew has the next sync of the target read its whole history. Syncs that are
// under way may have read it before the edit, and their commit takes the request
// back: they are fenced off, and it is made again where one was faster.
func (w *Writes) readAnew(ctx context.Context, t mirror.Target) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
	defer cancel()
	for {
		if err := w.Store.RequestFullRead(ctx, []mirror.Target{t}); err != nil {
			return err
		}
		if state, err := w.Store.BeginSync(ctx, t); err != nil || state.Walk.Full {
			return err
		}
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
	if out.outcome() != outcomeDone {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	failpoint.Hit("api.replied")
	err := out.err
	if err == nil {
		w.UnderWay.yield(ctx, out.target)
		_, err = w.Store.ApplyWrite(ctx, mirror.Write{Target: out.target, Row: &row})
	}
	if err != nil {
		c.log.Debug("could not apply a write; syncing its customer", zap.String("customer_id", customer), zap.Error(err))
		w.catchUp(ctx, c, out, mirror.CreditGrant{})
	}
	return out, nil
}

func updateBalanceTransaction(ctx context.Context, w *Writes, c *call) (written, error) {
	customer, id := c.ids[0], c.ids[1]
	if !validID(customer) {
		return written{}, errMissing(http.StatusNotFound, nameCustomer, customer, "customer")
	}
	if !validID(id) {
		return written{}, errMissing(http.StatusNotFound, nameBalanceTransaction, id, "transaction")
	}
	out := written{target: balanceOf(c, customer)}
	state, begun := w.beginEdit(ctx, c, out.target)
	// What is not held has no row that could be old.
	out.edit = !errors.Is(begun, mirror.ErrNotFound)
	var row mirror.BalanceTransaction
	failpoint.Hit("api.edit.begun")
	row, out.reply, out.err = w.Stripe.UpdateBalanceTransaction(ctx, c.account, customer, id, c.form, c.key)
	if out.outcome() != outcomeDone {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	failpoint.Hit("api.edit.replied")
	err := begun
	if err == nil {
		err = w.applyEdit(ctx, c, out, state.Epoch, row)
	}
	if err != nil {
		c.log.Debug("could not apply a write; syncing its customer", zap.String("customer_id", customer), zap.Error(err))
		w.catchUp(ctx, c, out, mirror.CreditGrant{})
	}
	return out, nil
}

// applyEdit writes the row of an edit that was begun in the epoch. As often as
// something else begins on the customer, maybe another edit that passed this one,
// the row is read again: what counts is how it is now. Half of the time is left for
// reading all rows instead.
func (w *Writes) applyEdit(ctx context.Context, c *call, out written, epoch int64, row mirror.BalanceTransaction) error {
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout/2)
	defer cancel()
	current := out.err == nil && !out.replayed()
	for n := 0; ; n++ {
		if !current {
			w.UnderWay.yield(ctx, out.target)
			state, err := w.Store.BeginSync(ctx, out.target)
			if err != nil {
				return err
			}
			if row, err = w.Stripe.BalanceTransaction(ctx, c.account, c.ids[0], c.ids[1]); err != nil {
				return err
			}
			epoch = state.Epoch
		}
		_, err := w.Store.ApplyWrite(ctx, mirror.Write{Target: out.target, Epoch: epoch, Row: &row})
		// Those who meet here go on at different times.
		if !errors.Is(err, mirror.ErrFenced) || backoff.Sleep(ctx, backoff.N(20*time.Millisecond<<min(n, 4))) != nil {
			return err
		}
		current = false
	}
}

// beginEdit begins on a target that is held. Nothing is begun on what is not: it
// would stand there as a customer whose history was never read.
func (w *Writes) beginEdit(ctx context.Context, c *call, t mirror.Target) (mirror.SyncState, error) {
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	if _, err := c.reader.Customer(ctx, t.Account, t.ID); err != nil {
		return mirror.SyncState{}, err
	}
	w.UnderWay.yield(ctx, t)
	return w.Store.BeginSync(ctx, t)
}

func createGrant(ctx context.Context, w *Writes, c *call) (written, error) {
	var out written
	if t := creditsOf(c, c.form.Get("customer")); t.Valid() {
		out.target = t
	}
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
	if out.outcome() == outcomeDone && out.target.Valid() {
		w.catchUp(ctx, c, *out, g)
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

// ownGrant begins a write on the grant in the path. Its customer may not be known:
// Stripe may know a grant that is not held, and knows it while the mirror is away.
func (c *call) ownGrant(ctx context.Context) (written, error) {
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	id := c.ids[0]
	owner, err := c.grantOwner(ctx, id, http.StatusNotFound, "id")
	switch {
	case err == nil:
		return written{target: creditsOf(c, owner)}, nil
	case !mirror.ValidGrantID(id):
		return written{}, err
	}
	c.log.Debug("customer of a grant is unknown before a write", zap.String("grant_id", id), zap.Error(err))
	return written{}, nil
}

func expireGrant(ctx context.Context, w *Writes, c *call) (written, error) {
	return w.changeGrant(ctx, c, w.Stripe.ExpireGrant)
}

func voidGrant(ctx context.Context, w *Writes, c *call) (written, error) {
	return w.changeGrant(ctx, c, w.Stripe.VoidGrant)
}

// updateGrant edits a grant, which makes no row of the ledger: the reply is all,
// unless it is an old one.
func updateGrant(ctx context.Context, w *Writes, c *call) (written, error) {
	out, err := c.ownGrant(ctx)
	if err != nil {
		return out, err
	}
	begun := mirror.ErrNotFound
	var state mirror.SyncState
	if out.target.Valid() {
		state, begun = w.begin(ctx, out.target)
	}
	var g mirror.CreditGrant
	g, out.reply, out.err = w.Stripe.UpdateGrant(ctx, c.account, c.ids[0], c.form, c.key)
	if begun == nil && out.err == nil && !out.replayed() {
		if err := w.applyGrant(ctx, out.target, state.Epoch, g); err == nil {
			return out, nil
		}
	}
	w.afterGrant(ctx, c, &out, g)
	return out, nil
}

func (w *Writes) begin(ctx context.Context, t mirror.Target) (mirror.SyncState, error) {
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	w.UnderWay.yield(ctx, t)
	return w.Store.BeginSync(ctx, t)
}

func (w *Writes) applyGrant(ctx context.Context, t mirror.Target, epoch int64, g mirror.CreditGrant) error {
	ctx, cancel := context.WithTimeout(ctx, mirrorTimeout)
	defer cancel()
	_, err := w.Store.ApplyWrite(ctx, mirror.Write{Target: t, Epoch: epoch, Grant: &g})
	return err
}
