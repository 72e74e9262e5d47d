package stripesim

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// target is the current setting of one webhook endpoint, as deliveries see it.
type target struct {
	id, account string
	live        bool
	url         string
	secrets     []signSecret // the newest first
	all         bool
	events      map[string]bool
	self        bool // of the account's own events
	connect     bool // of those of connected accounts
	disabled    bool
	thin        bool
	version     string
}

// wants reports whether the endpoint takes an event of account a.
func (t *target) wants(s *Server, a *account, e *event) bool {
	typ := e.typ
	if t.thin {
		typ = e.thinName()
	}
	switch {
	case t.thin && (typ == "" || !s.thins()), !t.thin && e.thin != nil:
		return false
	case t.live != a.live || t.disabled || !t.all && !t.events[typ]:
		return false
	case t.account == a.id && !t.self, t.account != a.id && !(t.connect && t.account == ""):
		return false
	}
	old := s.switches().OldPinsWithoutCreditEvents && t.version != "" && t.version < "2025-03-31"
	return !old || !matchType("billing.credit_*", typ)
}

// signSecret is a signing secret of an endpoint. A rolled one signs along until
// its time is over.
type signSecret struct {
	text  string
	until int64 // Unix seconds; 0 is no end
}

// delivery is one event on its way to one endpoint. The sender's lock guards tried,
// due and the change of arrived with the event's pending count.
type delivery struct {
	a       *account
	e       *event
	target  string
	account string // shown in the event: the connected account, to a Connect endpoint
	tried   int
	due     time.Time // when the next attempt may begin
	// arrived is shared with duplicates, so that the event is counted as delivered once.
	arrived *atomic.Bool
}

// queue is the deliveries that are ready to go to one endpoint.
type queue struct {
	ready  []*delivery
	active int // in flight

	sent, delivered, failed, abandoned int64
}

// EndpointStats is the delivery state of one webhook endpoint.
type EndpointStats struct {
	ID        string `json:"id"`
	Account   string `json:"account"`
	URL       string `json:"url"`
	Attempts  int64  `json:"attempts"`  // requests sent
	Delivered int64  `json:"delivered"` // answered 2xx
	Failed    int64  `json:"failed"`    // anything else
	Abandoned int64  `json:"abandoned"` // given up after the last attempt
}

// sender delivers events. Its lock may be taken under an account's, never the
// other way round.
type sender struct {
	s       *Server
	client  *http.Client
	ctx     context.Context //nolint:containedctx // the life of the goroutines, ended by close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	targets atomic.Pointer[[]*target]

	mu          sync.Mutex
	queues      map[string]*queue
	outstanding int                    // ready, in flight, delayed or waiting to be retried
	waiting     int                    // the part of it that waits for its time
	epoch       int                    // how often everything was forgotten
	idle        chan struct{}          // closed when outstanding falls to 0; nil if nobody waits
	quiet       chan struct{}          // closed when nothing is outstanding but what waits
	live        map[*delivery]struct{} // not yet delivered or given up
	failing     map[string]time.Time   // endpoint → since when every attempt has failed
	closed      bool

	attempts attemptLog
}

func newSender(s *Server) *sender {
	ctx, cancel := context.WithCancel(context.Background())
	d := &sender{
		s: s, ctx: ctx, cancel: cancel, queues: map[string]*queue{}, live: map[*delivery]struct{}{}, failing: map[string]time.Time{},
		client: &http.Client{
			Timeout:       s.opts.Delivery.Timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     s.opts.Delivery.Transport,
		},
	}
	if d.client.Transport == nil {
		d.client.Transport = &http.Transport{
			MaxIdleConns: 1024, MaxIdleConnsPerHost: s.opts.Delivery.Concurrency, IdleConnTimeout: 30 * time.Second,
		}
	}
	d.targets.Store(&[]*target{})
	return d
}

// set puts a target in force, in place of the one with its id.
func (d *sender) set(t *target) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := slices.Clone(*d.targets.Load())
	if i := slices.IndexFunc(list, func(o *target) bool { return o.id == t.id }); i >= 0 {
		if list[i].disabled {
			delete(d.failing, t.id) // what failed before it was enabled again is forgiven
		}
		list[i] = t
	} else {
		list = append(list, t)
		d.queues[t.id] = &queue{}
	}
	d.targets.Store(&list)
}

// remove ends deliveries to a target; those under way are dropped at their turn.
func (d *sender) remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(*d.targets.Load()), func(o *target) bool { return o.id == id })
	d.targets.Store(&list)
}

func newFlag(v bool) *atomic.Bool {
	b := new(atomic.Bool)
	b.Store(v)
	return b
}

// forget removes every target and drops what is to be delivered.
func (d *sender) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.targets.Store(&[]*target{})
	clear(d.live)
	clear(d.failing)
	for _, q := range d.queues {
		d.outstanding -= len(q.ready)
		q.ready = nil
	}
	d.queues = map[string]*queue{} // workers under way keep theirs, and end
	d.outstanding -= d.waiting
	d.waiting = 0
	d.epoch++ // timers of before count for nothing
	d.wake()
}

func (d *sender) target(id string) *target {
	for _, t := range *d.targets.Load() {
		if t.id == id && !t.disabled {
			return t
		}
	}
	return nil
}

// dispatch sends e to every endpoint that wants it, as the faults allow. The
// pending count is complete before the first delivery can lower it. Deliveries of thin
// events are not part of it: it is the v1 event's. only, where given, names the
// endpoints that get it, whether they want it or not.
func (d *sender) dispatch(a *account, e *event, only ...string) {
	var to []*target
	pending := int32(0)
	for _, t := range *d.targets.Load() {
		if len(only) > 0 && !slices.Contains(only, t.id) || len(only) == 0 && !t.wants(d.s, a, e) {
			continue
		}
		to = append(to, t)
		if !t.thin {
			pending++
		}
	}
	e.pending.Store(pending)
	for _, t := range to {
		v := &delivery{a: a, e: e, target: t.id, arrived: newFlag(t.thin)}
		if t.account != a.id {
			v.account = a.id
		}
		d.send(a, v)
	}
}

// send applies the webhook faults to one delivery and starts it.
func (d *sender) send(a *account, v *delivery) {
	fs := d.s.faults
	var wait, again time.Duration
	var dropped, lost, twice bool
	fs.strike(occasion{account: a.id, event: v.e.typ, customer: v.e.customer},
		func(k FaultKind) bool {
			return k == FaultWebhookDrop || k == FaultWebhookLost || k == FaultWebhookDuplicate || k == FaultWebhookDelay || k == FaultWebhookReorder
		},
		func(f Fault) bool {
			switch f.Kind {
			case FaultWebhookDrop:
				dropped = true
			case FaultWebhookLost:
				lost = true
			case FaultWebhookDuplicate:
				twice, again = true, fs.within(time.Duration(f.Delay))
			case FaultWebhookDelay:
				wait += time.Duration(f.Delay)
			case FaultWebhookReorder:
				window := time.Duration(f.Delay)
				if window == 0 {
					window = 250 * time.Millisecond
				}
				wait += fs.within(window)
			}
			return true
		})
	switch {
	case lost:
		if v.arrived.CompareAndSwap(false, true) {
			v.e.pending.Add(-1)
		}
		d.note(v, 0, 0, "", lostByFault)
		return
	case dropped:
		d.note(v, 0, 0, "", "dropped by a fault")
		return
	}
	var second *delivery
	if twice {
		copied := *v // while it is still ours alone
		second = &copied
	}
	d.start(v, wait)
	if twice {
		d.start(second, wait+again)
	}
}

func (d *sender) start(v *delivery, wait time.Duration) {
	d.mu.Lock()
	v.due = d.s.opts.Now().Add(wait)
	d.live[v] = struct{}{}
	d.mu.Unlock()
	if wait > 0 {
		d.after(wait, func() { d.enqueue(v) })
		return
	}
	d.enqueue(v)
}

// after runs f after wait, unless the sender is closed first. It counts as
// outstanding work until f has returned.
func (d *sender) after(wait time.Duration, f func()) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	d.outstanding++
	d.waiting++
	epoch := d.epoch
	d.mu.Unlock()
	d.s.time.after(wait, func() {
		d.mu.Lock()
		if d.closed || d.epoch != epoch {
			d.mu.Unlock()
			return
		}
		d.waiting--
		d.wg.Add(1)
		d.mu.Unlock()
		defer d.wg.Done()
		f()
		d.release()
	})
	d.mu.Lock()
	d.wake()
	d.mu.Unlock()
}

func (d *sender) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.releaseLocked()
}

func (d *sender) releaseLocked() {
	d.outstanding--
	d.wake()
}

// wake notifies those who wait that their state is reached.
func (d *sender) wake() {
	if d.outstanding == 0 && d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
	if d.outstanding == d.waiting && d.quiet != nil {
		close(d.quiet)
		d.quiet = nil
	}
}

// enqueue hands v to its endpoint's workers, starting one more if that is allowed.
func (d *sender) enqueue(v *delivery) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queues[v.target]
	if d.closed || q == nil {
		return
	}
	d.outstanding++
	q.ready = append(q.ready, v)
	if q.active < d.s.opts.Delivery.Concurrency {
		q.active++
		d.wg.Add(1)
		go d.work(q)
	}
}

// work sends what is ready for one endpoint and ends when nothing is.
func (d *sender) work(q *queue) {
	defer d.wg.Done()
	for {
		d.mu.Lock()
		if len(q.ready) == 0 || d.closed {
			q.active--
			d.mu.Unlock()
			return
		}
		v := q.ready[0]
		q.ready[0] = nil
		q.ready = q.ready[1:]
		d.mu.Unlock()

		outcome := d.attempt(v)
		d.health(v, outcome)
		d.mu.Lock()
		v.tried++
		retry := outcome == failed && v.tried < d.s.opts.Delivery.Attempts && d.queues[v.target] == q
		d.mu.Unlock()
		if retry {
			wait := d.delay(v.tried)
			d.mu.Lock()
			v.due = d.s.opts.Now().Add(wait)
			d.mu.Unlock()
			d.after(wait, func() { d.enqueue(v) })
		}
		d.mu.Lock()
		if !retry {
			delete(d.live, v)
		}
		switch {
		case outcome == delivered:
			q.sent++
			q.delivered++
		case outcome == failed:
			q.sent++
			q.failed++
			if !retry {
				q.abandoned++
			}
		}
		d.releaseLocked()
		d.mu.Unlock()
	}
}

// delay is the time before attempt tried+1.
func (d *sender) delay(tried int) time.Duration {
	wait, limit := d.s.opts.Delivery.RetryFirst, d.s.opts.Delivery.RetryMax
	for i := 1; i < tried && wait < limit; i++ {
		wait *= 2
	}
	return min(wait, limit)
}

type outcome int

const (
	delivered outcome = iota
	failed
	unwanted // the endpoint is gone or disabled
)

func (d *sender) attempt(v *delivery) outcome {
	t := d.target(v.target)
	if t == nil {
		return unwanted
	}
	var shown any = v.e.render(v.a, t.version, v.account)
	if t.thin {
		shown = v.a.thinEvent(v.e, v.account, false)
	}
	body, err := pretty(shown)
	if err != nil {
		d.s.log.Error("could not encode event", zap.String("event_id", v.e.id), zap.Error(err))
		return unwanted
	}
	req, err := http.NewRequestWithContext(d.ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return failed
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	req.Header.Set("Stripe-Signature", t.sign(d.s.time.base().Unix(), d.s.unix(), body, !v.a.live))
	resp, err := d.client.Do(req)
	if err != nil {
		d.note(v, v.tried+1, 0, "", err.Error())
		d.s.log.Debug("webhook not delivered", zap.String("event_id", v.e.id), zap.Int("attempt", v.tried+1), zap.Error(err))
		return failed
	}
	head, _ := io.ReadAll(io.LimitReader(resp.Body, answerKept))
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	_ = resp.Body.Close()
	d.note(v, v.tried+1, resp.StatusCode, strings.ToValidUTF8(string(head), "\uFFFD"), "")
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		d.s.log.Debug("webhook refused", zap.String("event_id", v.e.id), zap.Int("attempt", v.tried+1), zap.Int("code", resp.StatusCode))
		return failed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.arrived.CompareAndSwap(false, true) {
		v.e.pending.Add(-1)
	}
	return delivered
}

// answerKept is how much of an endpoint's answer is kept, in bytes.
const answerKept = 256

// note keeps what became of an attempt.
func (d *sender) note(v *delivery, number, status int, answer, trouble string) {
	d.attempts.add(Attempt{
		At: d.s.unix(), Event: v.e.id, Type: v.e.typ, Account: v.a.id, Endpoint: v.target, Number: number, Status: status, Answer: answer, Error: trouble,
	})
}

// health disables an endpoint that has failed for too long, as Stripe does after
// several days.
func (d *sender) health(v *delivery, o outcome) {
	limit := d.s.opts.Delivery.DisableAfter
	if limit == 0 || o == unwanted {
		return
	}
	now := d.s.opts.Now()
	d.mu.Lock()
	since, failing := d.failing[v.target]
	switch {
	case o == delivered:
		delete(d.failing, v.target)
	case !failing:
		d.failing[v.target] = now
	}
	d.mu.Unlock()
	t := d.target(v.target)
	if o == delivered || !failing || now.Sub(since) < limit || t == nil {
		return
	}
	a := d.s.accountIn(t.account, t.live)
	a.mu.Lock()
	defer a.mu.Unlock()
	if h := a.hooks[t.id]; h != nil && !h.gone && !h.disabled {
		h.disabled = true
		a.publish(h)
		d.s.log.Info("webhook endpoint disabled after failures", zap.String("endpoint", h.id))
	}
}

// settle waits until nothing is outstanding.
func (d *sender) settle(ctx context.Context) error {
	return d.await(ctx, &d.idle, func() bool { return d.outstanding == 0 })
}

// quiesce waits until nothing is outstanding but what waits for its time.
func (d *sender) quiesce(ctx context.Context) error {
	return d.await(ctx, &d.quiet, func() bool { return d.outstanding == d.waiting })
}

// await waits for a state that wake announces by closing *signal.
func (d *sender) await(ctx context.Context, signal *chan struct{}, reached func() bool) error {
	for {
		d.mu.Lock()
		if reached() || d.closed {
			d.mu.Unlock()
			return nil
		}
		if *signal == nil {
			*signal = make(chan struct{})
		}
		c := *signal
		d.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *sender) stats() []EndpointStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := []EndpointStats{}
	for _, t := range *d.targets.Load() {
		q := d.queues[t.id]
		out = append(out, EndpointStats{t.id, t.account, t.url, q.sent, q.delivered, q.failed, q.abandoned})
	}
	return out
}

func (d *sender) close() {
	d.mu.Lock()
	d.closed = true
	for _, c := range []*chan struct{}{&d.idle, &d.quiet} {
		if *c != nil {
			close(*c)
			*c = nil
		}
	}
	d.mu.Unlock()
	d.s.time.close()
	d.cancel()
	d.wg.Wait()
	d.client.CloseIdleConnections()
}

func mac(secret string, at int64, payload []byte) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write(strconv.AppendInt(nil, at, 10))
	h.Write([]byte{'.'})
	h.Write(payload)
	return hex.EncodeToString(h.Sum(nil))
}

// sign returns the Stripe-Signature header for a payload: one v1 for each secret
// that still counts, and in test mode a v0 that nobody may believe. It is dated by
// the real clock, at: whoever verifies it knows of no other.
func (t *target) sign(at, now int64, payload []byte, decoy bool) string {
	header := "t=" + strconv.FormatInt(at, 10)
	for _, s := range t.secrets {
		if s.until == 0 || now < s.until {
			header += ",v1=" + mac(s.text, at, payload)
		}
	}
	if decoy {
		header += ",v0=" + mac("v0 decoy", at, payload)
	}
	return header
}

// SignatureHeader returns the Stripe-Signature header of a payload: the time in
// Unix seconds and its v1 signature.
func SignatureHeader(secret string, at time.Time, payload []byte) string {
	return "t=" + strconv.FormatInt(at.Unix(), 10) + ",v1=" + mac(secret, at.Unix(), payload)
}
