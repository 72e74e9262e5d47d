package notify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// poll is how often findings are looked for.
	poll = 2 * time.Second
	// page is how many steps are listed at a time.
	page = 100
	// perSecond and burst bound how fast steps are delivered: ten thousand findings at
	// once take half an hour, and do not become ten thousand requests at once.
	perSecond = 5
	burst     = 10
	// firstPause is the wait after a first failure; it doubles with each further
	// one, up to lastPause.
	firstPause = time.Second
	lastPause  = time.Hour
	// grace is how long a delivery under way may take to end after the lease was
	// lost or the process was asked to stop: half of a lease's time to live.
	grace = 3 * time.Second
)

// stateRow is the row of the sweeps' table that holds since when drift is notified:
// its watermark; zero while it is not.
const stateRow = "notify"

// IsStateRow reports whether a row of the sweeps' table is this package's.
func IsStateRow(name string) bool { return name == stateRow }

// Store is what a Notifier reads and marks. Every mirror.Store is one.
type Store interface {
	mirror.Notices
	Sweep(ctx context.Context, account, name string) (mirror.Sweep, error)
	SaveSweep(ctx context.Context, s mirror.Sweep) error
}

// Options are what a Notifier needs.
type Options struct {
	// URL receives the notifications. Empty: none are sent.
	URL string
	// Secrets sign each webhook; at least one where there is a URL.
	Secrets []string
	// Allow are networks that the URL may lead into although they are not public.
	Allow []netip.Prefix
	// Agent is sent as User-Agent. Defaults to "creditmirror".
	Agent      string
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *zap.Logger
}

// Notifier sends notifications of drift. See the package's comment.
type Notifier struct {
	store   Store
	send    func(ctx context.Context, m Message) error // nil: off
	close   func()
	limiter *rate.Limiter
	log     *zap.Logger
	m       *metrics

	// unmarked was sent and is to be marked; Run's alone.
	unmarked *mirror.Notice

	mu sync.Mutex
	// oldest is when the step that waits longest happened; zero without one.
	oldest time.Time
}

type metrics struct {
	sent    *prometheus.CounterVec
	waiting prometheus.Gauge
}

// New returns a Notifier, which does nothing until Run. A URL that names an
// address that may not be connected to is an error here already.
func New(store Store, o Options) (*Notifier, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Agent == "" {
		o.Agent = "creditmirror"
	}
	f := promauto.With(o.Registerer)
	n := &Notifier{
		store: store, close: func() {}, limiter: rate.NewLimiter(perSecond, burst), log: o.Log.With(zap.String("component", "notify")),
		m: &metrics{
			sent: f.NewCounterVec(prometheus.CounterOpts{
				Name: "creditmirror_notifications_total", Help: "Attempts to send a notification of drift by webhook, by outcome.",
			}, []string{"outcome"}),
			waiting: f.NewGauge(prometheus.GaugeOpts{
				Name: "creditmirror_notifications_waiting", Help: "Openings and closings of findings that were not delivered yet.",
			}),
		},
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "creditmirror_notifications_oldest_seconds", Help: "Age of the oldest opening or closing that was not delivered yet.",
	}, n.age)
	for _, outcome := range outcomes {
		n.m.sent.WithLabelValues(outcome) // so that the first failure counts as an increase
	}
	if o.URL == "" {
		return n, nil
	}
	if len(o.Secrets) == 0 {
		return nil, errors.New("notify: no secret to sign with")
	}
	target, err := url.Parse(o.URL)
	if err != nil || target.Scheme != "https" && target.Scheme != "http" || target.Host == "" || target.User != nil {
		return nil, errors.New("notify: the URL is not a plain http or https one")
	}
	g := guard{allow: o.Allow, plain: target.Scheme == "http"}
	if addr, err := netip.ParseAddr(target.Hostname()); err == nil {
		if err := g.check(addr); err != nil {
			return nil, fmt.Errorf("notify: %w", err)
		}
	}
	s := newSender(target, g, o.Secrets, o.Agent)
	n.send, n.close = s.send, s.close
	return n, nil
}

// Run sends notifications of drift until ctx ends. It is to run in one process at a time:
// beside a lease, and no longer than that. Without a URL it notes
// that and returns, so that what is found meanwhile is not notified later.
func (n *Notifier) Run(ctx context.Context) {
	defer n.close()
	defer n.show(0, time.Time{}) // the next one to run reports these
	since, ok := n.begin(ctx)
	if !ok || n.send == nil {
		return
	}
	pause := time.Duration(0) // after the last failure
	for due := time.Now(); ; {
		send, wait := !time.Now().Before(due), poll
		delivered, more, err := n.round(ctx, since, send)
		if delivered > 0 {
			pause = 0
		}
		f, failed := errors.AsType[*failure](err)
		switch {
		case ctx.Err() != nil:
			return
		case failed:
			pause = next(pause, f.retryAfter)
			due = time.Now().Add(pause)
			n.failed(f, pause)
		case err != nil:
			n.log.Warn("could not read or mark notifications; retrying", zap.Error(err))
		case send:
			pause = 0
			if more {
				wait = 0
			}
		}
		if left := time.Until(due); left > 0 {
			wait = min(wait, left)
		}
		if backoff.Sleep(ctx, wait) != nil {
			return
		}
	}
}

// begin finds out since when drift is notified, which is the first time that it is to
// be: what was found before is history. ok is false when ctx ended first.
func (n *Notifier) begin(ctx context.Context) (since time.Time, ok bool) {
	for {
		row, err := n.store.Sweep(ctx, "", stateRow)
		on := !row.Watermark.IsZero()
		if err == nil && on != (n.send != nil) {
			row.Name, row.Watermark, row.StartedAt = stateRow, time.Time{}, time.Now()
			if n.send != nil {
				row.Watermark = row.StartedAt
			}
			if err = n.store.SaveSweep(ctx, row); err == nil {
				n.log.Info("notifications switched", zap.Bool("on", n.send != nil))
			}
		}
		switch {
		case ctx.Err() != nil:
			return time.Time{}, false
		case err == nil:
			return row.Watermark, true
		}
		n.log.Warn("could not read or mark notifications; retrying", zap.Error(err))
		if backoff.Sleep(ctx, poll) != nil {
			return time.Time{}, false
		}
	}
}

// round lists what waits, and delivers it one by one where it is time to. more
// reports whether there may be more to deliver at once. A *failure is one of the endpoint.
func (n *Notifier) round(ctx context.Context, since time.Time, send bool) (delivered int, more bool, err error) {
	if err := n.mark(ctx); err != nil {
		return 0, false, err
	}
	list, err := n.store.PendingNotices(ctx, since, page)
	if err != nil {
		return 0, false, err
	}
	count := int64(len(list))
	if count == page {
		if count, err = n.store.CountNotices(ctx, since); err != nil {
			return 0, false, err
		}
	}
	for i, notice := range list {
		n.show(count-int64(i), notice.At)
		if !send {
			return i, false, nil
		}
		if err := n.limiter.Wait(ctx); err != nil {
			return i, false, err
		}
		if err := n.deliver(ctx, notice); err != nil {
			return i, false, err
		}
	}
	n.show(count-int64(len(list)), time.Time{})
	return len(list), len(list) == page, nil
}

// deliver sends one step and marks it. A delivery under way when ctx ends may end
// within the grace, so that an orderly stop sends nothing twice.
func (n *Notifier) deliver(ctx context.Context, notice mirror.Notice) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	defer stop()
	if err := n.send(work, message(notice)); err != nil {
		return err
	}
	n.m.sent.WithLabelValues(outcomeDelivered).Inc()
	n.log.Debug("notification delivered", zap.String("finding_id", notice.Finding.ID), zap.Bool("closed", notice.Closed))
	n.unmarked = &notice
	return n.mark(work)
}

// mark marks the step that was sent last, if it is not yet: a database that can be
// read and not written must not have it sent over and over.
func (n *Notifier) mark(ctx context.Context) error {
	if n.unmarked == nil {
		return nil
	}
	if err := n.store.MarkNotice(ctx, *n.unmarked); err != nil {
		return err
	}
	n.unmarked = nil
	return nil
}

// failed logs and counts a failed attempt.
func (n *Notifier) failed(f *failure, pause time.Duration) {
	n.m.sent.WithLabelValues(f.outcome).Inc()
	n.log.Warn("notification not delivered; retrying it and those behind it",
		zap.String("outcome", f.outcome), zap.Int("status", f.status), zap.Duration("retry_in", pause), zap.Error(f))
}

// next is the pause after a failure that came after a pause: doubled, with a
// jitter, so that a receiver of many mirrors is not asked by all of them at once,
// and no shorter than the receiver asks for.
func next(pause, asked time.Duration) time.Duration {
	pause = min(max(firstPause, 2*pause), lastPause)
	return min(max(pause-backoff.N(pause/4), asked), lastPause)
}

// show sets the gauges of what waits.
func (n *Notifier) show(waiting int64, oldest time.Time) {
	n.m.waiting.Set(float64(waiting))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.oldest = oldest
}

// age is the metric of the step that waits longest, in seconds.
func (n *Notifier) age() float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.oldest.IsZero() {
		return 0
	}
	return max(time.Since(n.oldest), 0).Seconds()
}
