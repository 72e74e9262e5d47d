package webhook

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

// Path is the only path that is served.
const Path = "/webhooks/stripe"

// Marking asks the queue for one sync because of one event.
type Marking struct {
	Target mirror.Target
	Event  mirror.EventRef
}

// Queue is what the receiver needs of the queue of targets.
type Queue interface {
	// Mark makes the targets durable as in need of a sync and reports for each
	// whether it coalesced with a mark already there. It is called again with the
	// same markings after a failure, and must return when ctx ends.
	Mark(ctx context.Context, targets []Marking) ([]bool, error)
}

// Inbox is what the receiver needs of mirror.Inbox.
type Inbox interface {
	RecordEvents(ctx context.Context, events []mirror.Event) ([]mirror.Receipt, error)
}

// DeadLetters is what the receiver needs of mirror.DeadLetters.
type DeadLetters interface {
	SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error
}

// Options are the parts and the tuning of a Receiver. Verify, Queue,
// DeadLetters, Registerer and Log are required.
type Options struct {
	// Verify checks the signature of the raw payload. Without an error it returns
	// now minus the signature's time; with one, a reason of lower-case letters and
	// underscores from a closed set, which becomes the label of a metric.
	Verify func(payload []byte, header http.Header, now time.Time) (skew time.Duration, reason string, err error)
	// TooOld, where set, reports by the header alone whether Verify will refuse whatever the
	// body is, and why: then the body is not read.
	TooOld func(header http.Header, now time.Time) (reason string, refused bool)
	Queue  Queue
	// Inbox is nil where events go to the queue alone.
	Inbox       Inbox
	DeadLetters DeadLetters
	// Livemode reports whether events of a mode are taken: those of the other mode
	// than the API key's are not, since the key could not read what they name.
	// Defaults to both modes.
	Livemode func(livemode bool) bool
	// Accounts reports whether a connected account's events are taken. It is not
	// asked for the platform's own, which always are. Defaults to none.
	Accounts func(account string) bool
	// Ledgers are those that are mirrored: an event of another one is ignored.
	Ledgers mirror.Ledgers
	// Arrived, where set, is called for each verified event that the mirror follows,
	// with its account and time, whatever becomes of it; of one that cannot be read
	// with neither. It must not block.
	Arrived func(account string, created time.Time)
	// Refused, where set, is called with the time of each verified event that was
	// answered with 503, so that Stripe sends it again. It must not block.
	Refused func(created time.Time)
	// APIVersion is the version that reads are pinned to. Events of another are
	// taken, counted and warned of. Defaults to no comparison.
	APIVersion string
	Registerer prometheus.Registerer
	Log        *zap.Logger
	// Tracer makes a span for each verified event. Defaults to none.
	Tracer trace.Tracer
	// Now is the clock that signatures are checked by. Defaults to time.Now.
	Now func() time.Time

	// BodyTimeout bounds the reading of a body. Defaults to 10 s.
	BodyTimeout time.Duration
	// AnswerTimeout bounds, for each request, the wait for inbox and queue.
	// Defaults to 2 s.
	AnswerTimeout time.Duration
	// MaxBatch is the most events that go to inbox and queue together. Defaults
	// to 256.
	MaxBatch int
	// MaxWaiting is how many verified events may wait for their batch; one more is
	// overload. Defaults to 4096.
	MaxWaiting int
	// MaxBodyMemory bounds what all bodies hold together, in bytes; more is
	// overload. Defaults to 64 MiB.
	MaxBodyMemory int64
}

func (o *Options) fill() error {
	var errs []error
	need := func(ok bool, name string) {
		if !ok {
			errs = append(errs, fmt.Errorf("webhook: %s is required", name))
		}
	}
	need(o.Verify != nil, "Verify")
	need(o.Queue != nil, "Queue")
	need(o.DeadLetters != nil, "DeadLetters")
	need(o.Registerer != nil, "Registerer")
	need(o.Log != nil, "Log")
	if o.Accounts == nil {
		o.Accounts = func(string) bool { return false }
	}
	if o.Arrived == nil {
		o.Arrived = func(string, time.Time) {}
	}
	if o.Refused == nil {
		o.Refused = func(time.Time) {}
	}
	if o.Livemode == nil {
		o.Livemode = func(bool) bool { return true }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.BodyTimeout == 0 {
		o.BodyTimeout = 10 * time.Second
	}
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = 2 * time.Second
	}
	if o.MaxBatch == 0 {
		o.MaxBatch = 256
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 4096
	}
	if o.MaxBodyMemory == 0 {
		o.MaxBodyMemory = 64 << 20
	}
	if o.BodyTimeout < 0 || o.AnswerTimeout < 0 || o.MaxBatch < 0 || o.MaxWaiting < 0 || o.MaxBodyMemory < 0 {
		errs = append(errs, errors.New("webhook: a bound is negative"))
	}
	return errors.Join(errs...)
}

// committers is how many batches may be under way: two, so that the inbox can
// write one while the queue marks the other, and a single slow call does not
// stop the intake.
const committers = 2

// Receiver takes events from Stripe. Stop ends it.
type Receiver struct {
	opts        Options
	log         *zap.Logger // for what a verified event leads to
	noise       *zap.Logger // for what anybody outside can cause: sampled
	metrics     *metrics
	bodies      *bodyMemory
	intake      *intake
	deadLetters *letterBox
	drain       drainer
	quit        context.CancelFunc
	done        chan struct{} // closed when the goroutines are gone

	versionWarned atomic.Int64 // unix nanoseconds of the last warning
	told          sync.Map     // what was logged once
	tolds         atomic.Int64 // how many
	refusals      refusals
}

// maxTold bounds how many things are logged once: their names come from outside.
const maxTold = 100

// tellOnce logs something the first time, by its name.
func (rc *Receiver) tellOnce(name string, tell func()) {
	if rc.tolds.Load() >= maxTold {
		return
	}
	if _, before := rc.told.LoadOrStore(name, true); !before {
		rc.tolds.Add(1)
		tell()
	}
}

// refusals are when requests were last refused, by reason.
type refusals struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (r *refusals) note(a answer, now time.Time) {
	if a.code == http.StatusOK {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[string]time.Time{}
	}
	r.last[a.word] = now
}

// Refusals returns for each reason for which this receiver refused requests when it last
// did.
func (rc *Receiver) Refusals() map[string]time.Time {
	rc.refusals.mu.Lock()
	defer rc.refusals.mu.Unlock()
	return maps.Clone(rc.refusals.last)
}

// New starts a receiver.
func New(o Options) (*Receiver, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	log := o.Log.With(zap.String("component", "webhook"))
	noise := sampled(log)
	rc := &Receiver{
		opts:    o,
		log:     log,
		noise:   noise,
		metrics: m,
		bodies:  &bodyMemory{limit: o.MaxBodyMemory},
		intake: &intake{
			queue: o.Queue, inbox: o.Inbox, timeout: o.AnswerTimeout, maxBatch: o.MaxBatch,
			waiting: make(chan *pending, o.MaxWaiting), log: noise,
		},
		deadLetters: &letterBox{
			store: o.DeadLetters, timeout: o.AnswerTimeout, waiting: make(chan *letter, maxLetters), log: noise,
		},
		drain: drainer{drained: make(chan struct{})},
		done:  make(chan struct{}),
	}
	ctx, quit := context.WithCancel(context.Background())
	rc.quit = quit
	var running sync.WaitGroup
	for range committers {
		running.Go(func() { rc.intake.run(ctx) })
	}
	running.Go(func() { rc.deadLetters.run(ctx) })
	go func() {
		running.Wait()
		close(rc.done)
	}()
	return rc, nil
}

// Handler serves POST Path and refuses everything else. It is no ServeMux,
// because that one redirects unclean paths, which Stripe counts as a failure.
func (rc *Receiver) Handler() http.Handler { return http.HandlerFunc(rc.serve) }

// Stop refuses new requests with 503 and waits until those that were verified
// before have their answer. When ctx ends first they are cut off, get 503, and
// ctx's error is returned. It may be called more than once.
func (rc *Receiver) Stop(ctx context.Context) error {
	rc.drain.shut()
	var err error
	select {
	case <-rc.drain.drained:
	case <-ctx.Done():
		err = fmt.Errorf("webhook: stop before all requests were answered: %w", ctx.Err())
	}
	rc.quit()
	if err != nil {
		return err
	}
	select {
	case <-rc.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("webhook: stop: %w", ctx.Err())
	}
}

func (rc *Receiver) serve(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	a := rc.answer(w, r, began)
	failpoint.Hit("receiver.answering")
	a.write(w, r)
	failpoint.Hit("receiver.answered")
	rc.metrics.answered(a, time.Since(began))
	rc.refusals.note(a, rc.opts.Now())
}

// answer takes a request through all its steps; what is cheap and keeps
// strangers out comes first.
func (rc *Receiver) answer(w http.ResponseWriter, r *http.Request, began time.Time) (a answer) {
	defer func() {
		if p := recover(); p != nil {
			a = panicked(rc.noise, p).answer
		}
	}()
	if a, refused := rc.checkHead(r); refused {
		return rc.refuse(a)
	}
	body, err := rc.readBody(w, r)
	defer rc.bodies.release(body)
	if err != nil {
		return rc.refuse(bodyAnswer(err))
	}
	now := rc.opts.Now()
	skew, reason, err := rc.opts.Verify(body, r.Header, now)
	if err != nil {
		a := signatureAnswer(reason)
		// Mostly a wrong secret or a wrong clock: the operator should see some of it.
		rc.noise.Warn("signature refused", zap.String("outcome", a.word))
		return a
	}
	rc.metrics.skew.Set(skew.Seconds())

	event, err := mirror.DecodeDelivered(body)
	switch {
	case errors.Is(err, mirror.ErrThinEvent):
		if foreign, is := errors.AsType[*mirror.ContextError](err); is {
			rc.tellOnce("context "+foreign.Context, func() {
				rc.log.Warn("ignored an event of another context",
					zap.String("context", clip(foreign.Context)))
			})
		}
		rc.metrics.event("", answerIgnored)
		return answerIgnored
	case err != nil:
		return rc.keep(body, now)
	}
	span := rc.span(r, began, event)
	a = rc.take(event, span)
	endSpan(span, a)
	if a.code == http.StatusOK {
		rc.metrics.event(event.Type, a)
		if ce := rc.log.Check(zap.DebugLevel, "event received"); ce != nil {
			ce.Write(zap.Inline(loggedEvent(event)), zap.String("outcome", a.word))
		}
	}
	return a
}

// checkHead judges a request without its body.
func (rc *Receiver) checkHead(r *http.Request) (answer, bool) {
	switch {
	case r.URL.Path != Path || r.URL.RawPath != "": // RawPath: written with %-escapes
		return answerNotFound, true
	case r.Method != http.MethodPost:
		return answerMethod, true
	case rc.drain.isShut():
		return answerStopping, true
	case r.Header.Values("Content-Encoding") != nil:
		// The signature covers the bytes that Stripe sent, and Stripe sends none
		// encoded: something on the way has changed the body.
		return answerEncoding, true
	}
	if a, bad := checkSignatureHeader(r.Header); bad {
		if a.word == answerSignatureMissing.word && eventBridge(r.Header) {
			rc.noise.Warn("refused an Amazon EventBridge request without a stripe signature")
		}
		return a, true
	}
	if r.ContentLength > maxBody {
		return answerTooLarge, true
	}
	if rc.opts.TooOld != nil {
		if reason, refused := rc.opts.TooOld(r.Header, rc.opts.Now()); refused {
			a := signatureAnswer(reason)
			a.cuts = true
			return a, true
		}
	}
	return answer{}, false
}

// eventBridge reports whether a request says that an API destination of Amazon EventBridge
// sent it. It is used for words to the operator only.
func eventBridge(h http.Header) bool {
	return strings.Contains(h.Get("User-Agent"), "EventBridge")
}

// readBody reads under a deadline of its own, which ends with the request: the
// server sets another for the next. The bytes are to be released, error or not.
func (rc *Receiver) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	deadline := time.Now().Add(rc.opts.BodyTimeout)
	// A ResponseWriter without a connection (a test's recorder) has no deadline.
	err := http.NewResponseController(w).SetReadDeadline(deadline)
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("set the deadline of the body: %w", err)
	}
	return rc.bodies.read(r.Body, r.ContentLength)
}

func bodyAnswer(err error) answer {
	switch {
	case errors.Is(err, errTooLarge):
		return answerTooLarge
	case errors.Is(err, errNoMemory):
		return answerBodyOverload
	case errors.Is(err, os.ErrDeadlineExceeded):
		return answerBodyTimeout
	}
	return answerBodyBroken
}

func (rc *Receiver) refuse(a answer) answer {
	rc.noise.Debug("request refused", zap.String("outcome", a.word))
	return a
}

// take makes a readable event durable, if it is ours.
func (rc *Receiver) take(e mirror.Event, span trace.Span) answer {
	if !rc.opts.Livemode(e.Livemode) {
		return answerOtherMode
	}
	if e.Account != "" && !rc.opts.Accounts(e.Account) {
		return answerIgnored
	}
	if mirror.Interesting(e.Type) {
		rc.opts.Arrived(e.Account, e.Created)
	}
	e.Ledgers = rc.opts.Ledgers
	targets := e.Targets()
	if len(targets) == 0 {
		return answerIgnored
	}
	rc.checkVersion(e)
	if !rc.drain.enter() {
		return answerStopping
	}
	defer rc.drain.leave()
	v := rc.intake.submit(e, targets, span)
	if v.err != nil {
		rc.opts.Refused(e.Created)
		rc.noise.Warn("could not accept event; stripe will resend it", zap.Inline(loggedEvent(e)),
			zap.String("outcome", v.word), zap.Error(v.err))
	}
	return v.answer
}

// keep saves a verified body that could not be read as an event, so that the 200
// which ends Stripe's deliveries does not lose it.
func (rc *Receiver) keep(body []byte, now time.Time) answer {
	rc.opts.Arrived("", time.Time{})
	if !rc.drain.enter() {
		return answerStopping
	}
	defer rc.drain.leave()
	d := deadLetter(body, now)
	v := rc.deadLetters.submit(d)
	if v.err != nil {
		rc.noise.Warn("could not save unreadable event; stripe will resend it",
			zap.String("outcome", v.word), zap.String("reason", d.Reason), zap.Error(v.err))
		return v.answer
	}
	rc.noise.Error("unreadable event saved as a dead letter",
		zap.String("dead_letter_id", d.ID), zap.String("outcome", v.word), zap.String("reason", d.Reason))
	return v.answer
}

// checkVersion logs events in another version than reads are pinned to. Only
// ids are used, so they are good, but the endpoint should be looked at.
func (rc *Receiver) checkVersion(e mirror.Event) {
	if rc.opts.APIVersion == "" || e.APIVersion == "" || e.APIVersion == rc.opts.APIVersion {
		return
	}
	rc.metrics.versionMismatch.Inc()
	now, last := rc.opts.Now().UnixNano(), rc.versionWarned.Load()
	if last != 0 && now-last < int64(time.Minute) || !rc.versionWarned.CompareAndSwap(last, now) {
		return
	}
	rc.log.Warn("event has a different api version than the pinned one", zap.Inline(loggedEvent(e)),
		zap.String("api_version", clip(e.APIVersion)), zap.String("pinned", rc.opts.APIVersion))
}
