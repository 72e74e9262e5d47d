package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/tracing"
)

const (
	leaseName = "reconcile"
	// leaseTTL is how long a dead replica keeps the others waiting.
	leaseTTL = 6 * time.Second
	// checkInterval is how often Redis is looked at; a lost one is healed within 10 s.
	checkInterval = 2 * time.Second
	// copyInterval is how often accounts without a first copy are looked for, and
	// how long a failed one waits: not longer than a refused key may.
	copyInterval = 10 * time.Second
	// addInterval is how often a key is asked that could not read a ledger: not more
	// seldom than a refused one.
	addInterval = 25 * time.Second
	// copiesAtOnce is how many first copies run side by side.
	copiesAtOnce = 4
	// eventsKept is how long answered events stay in the mirror's database: longer
	// than Stripe lists them.
	eventsKept = 35 * 24 * time.Hour
	// deadRetryInterval is how long a dead letter waits between two tries.
	deadRetryInterval = time.Hour
)

// RunnerStore is what the scheduler itself needs of the mirror.
type RunnerStore interface {
	Checkpoints
	AllCheckpoints
	mirror.Leases
	mirror.Incarnations
	unread
	pending
	Accounts(ctx context.Context) ([]string, error)
	SetAside(ctx context.Context, account string, ledger mirror.Scope) error
	DueDeadLetters(ctx context.Context, now, next time.Time, limit int) ([]mirror.DeadLetter, error)
	PruneEvents(ctx context.Context, before time.Time) (int64, error)
}

// RunnerOptions tune a Runner.
type RunnerOptions struct {
	// Owner names this process in the lease; unique per process.
	Owner string
	// Accounts to reconcile besides the platform's own; nil: those seen in events,
	// when AllAccounts is set.
	Accounts    []string
	AllAccounts bool
	// Gate is asked before an account is called. Defaults to none.
	Gate Gate
	// EmbeddedRedis means that Redis runs in this process.
	EmbeddedRedis bool
	// Webhooks means that this process has a webhook secret, so that events are
	// expected to be brought; otherwise a receiver that reported itself shows it.
	Webhooks bool
	// Ledgers are those that are mirrored; work for another ledger is set aside.
	Ledgers mirror.Ledgers
	// EventsInterval is the time between two passes over events. Defaults to 1 min.
	EventsInterval time.Duration
	// Balances and Scrub are run where they are set, Balances every
	// BalancesInterval, which defaults to 1 h.
	Balances         *BalancesSweep
	BalancesInterval time.Duration
	Scrub            *Scrub
	// Days is called every DaysInterval, which defaults to 1 min, to keep the day table
	// of the books up to date; an error is logged and it is called again. Defaults to none.
	Days         func(ctx context.Context) error
	DaysInterval time.Duration
	// Beside is run beside the sweeps while the lease is held. It must return soon
	// after its context has ended, and may return before. Defaults to none.
	Beside     func(ctx context.Context)
	Registerer prometheus.Registerer
	// Tracer makes a span for each pass of a sweep over an account. Defaults to none.
	Tracer trace.Tracer
	Log    *zap.Logger
	Now    func() time.Time
}

// Runner runs the sweeps in one replica at a time.
type Runner struct {
	store    RunnerStore
	queue    Queue
	events   *EventsSweep
	copier   *FirstCopy
	detector *RewindDetector
	database *DatabaseWatch
	o        RunnerOptions
	m        *runnerMetrics

	failing  sync.Mutex
	failures map[[2]string]failures // by sweep and account

	// balancesNow asks for a pass at once, with the cause of what it will find.
	balancesNow chan string
	// eventsNow asks for a pass over events at once.
	eventsNow chan struct{}
	// firstPass is closed after the first pass over events under the present lease.
	firstPass chan struct{}

	// eventsTurn keeps a catch-up and a regular pass over events apart: they share a
	// checkpoint.
	eventsTurn turn
	// silence is of the present lease; whoever has the turn may touch it.
	silence *silenceWatch

	mu      sync.Mutex
	leading bool
	// moved is when each sweep last got a step further.
	moved map[string]time.Time
	// controls are what is asked of each sweep, as it was last read, and running the calls
	// under way that a pause ends.
	controls map[string]Control
	running  map[string]map[int]context.CancelCauseFunc
	calls    int
}

type runnerMetrics struct {
	lastSuccess *prometheus.GaugeVec
	missed      prometheus.Counter
	lost        prometheus.Counter
	rewound     prometheus.Counter
	failures    *prometheus.CounterVec
	remarked    prometheus.Counter
	found       *prometheus.CounterVec
	compared    *prometheus.CounterVec
	stalled     *prometheus.GaugeVec
}

// NewRunner returns a Runner.
func NewRunner(store RunnerStore, queue Queue, events *EventsSweep, copier *FirstCopy, o RunnerOptions) *Runner {
	if o.EventsInterval <= 0 {
		o.EventsInterval = time.Minute
	}
	if o.BalancesInterval <= 0 {
		o.BalancesInterval = time.Hour
	}
	if o.DaysInterval <= 0 {
		o.DaysInterval = time.Minute
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	f := promauto.With(o.Registerer)
	r := &Runner{
		store: store, queue: queue, events: events, copier: copier, o: o, eventsTurn: newTurn(),
		detector: NewRewindDetector(store, queue, o.Log), database: NewDatabaseWatch(store, queue, o.Log), balancesNow: make(chan string, 1), eventsNow: make(chan struct{}, 1), moved: map[string]time.Time{}, failures: map[[2]string]failures{},
		controls: map[string]Control{}, running: map[string]map[int]context.CancelCauseFunc{},
		m: &runnerMetrics{
			lastSuccess: f.NewGaugeVec(prometheus.GaugeOpts{
				Name: "creditmirror_reconcile_last_success_timestamp_seconds", Help: "When each sweep last succeeded, Unix time.",
			}, []string{"sweep"}),
			missed: f.NewCounter(prometheus.CounterOpts{
				Name: "creditmirror_missed_events_total", Help: "Events found at Stripe that no webhook had delivered.",
			}),
			lost: f.NewCounter(prometheus.CounterOpts{
				Name: "creditmirror_redis_lost_total", Help: "Times that Redis was found flushed, rewound or replaced.",
			}),
			rewound: f.NewCounter(prometheus.CounterOpts{
				Name: "creditmirror_database_rewound_total", Help: "Times that the mirror's database was found restored, promoted or replaced.",
			}),
			failures: f.NewCounterVec(prometheus.CounterOpts{
				Name: "creditmirror_reconcile_failures_total", Help: "Passes of a sweep that failed and will be tried again.",
			}, []string{"sweep"}),
			remarked: f.NewCounter(prometheus.CounterOpts{
				Name: "creditmirror_remarked_targets_total", Help: "Targets of unanswered inbox events, and unfinished histories, that had to be enqueued again.",
			}),
			found: driftFound(o.Registerer),
			compared: f.NewCounterVec(prometheus.CounterOpts{
				Name: "creditmirror_reconcile_customers_total", Help: "Customers that each sweep compared with Stripe, or had read in full.",
			}, []string{"sweep"}),
			stalled: f.NewGaugeVec(prometheus.GaugeOpts{
				Name: "creditmirror_reconcile_stalled", Help: "1 where a sweep has made no progress for longer than it should take.",
			}, []string{"sweep"}),
		},
	}
	for _, sweep := range []string{SweepEvents, SweepBackfill, SweepBalances, SweepScrub, "webhooks", "redis", "database", "dead_letters", "prune", "days"} {
		r.m.failures.WithLabelValues(sweep) // so that the first failure counts as an increase
	}
	return r
}

// Leading reports whether this replica holds the lease.
func (r *Runner) Leading() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leading
}

// Run holds the lease as long as it can and works while it has it, until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	r.events.o.Lost = r.databaseLost
	defer func() {
		// Give the lease back, so that another replica need not wait for it to run out.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := r.store.ReleaseLease(release, leaseName, r.o.Owner); err != nil {
			r.o.Log.Debug("could not release the reconcile lease", zap.Error(err))
		}
	}()
	for {
		asked := r.o.Now()
		held, err := r.store.AcquireLease(ctx, leaseName, r.o.Owner, leaseTTL)
		if err != nil && ctx.Err() == nil {
			r.o.Log.Warn("could not acquire the reconcile lease", zap.Error(err))
		}
		if held {
			r.lead(ctx, asked.Add(leaseTTL))
		}
		if backoff.Sleep(ctx, leaseTTL/3) != nil {
			return nil
		}
	}
}

// lead runs every loop until the lease is lost or ctx ends. The lease expires no
// earlier than reported: it counts from the request.
func (r *Runner) lead(ctx context.Context, expires time.Time) {
	ctx, cancel := context.WithCancel(mirror.WithLease(ctx, mirror.Lease{Name: leaseName, Owner: r.o.Owner}))
	defer cancel()
	r.setLeading(true)
	defer r.setLeading(false)
	defer r.m.stalled.Reset() // the next holder sets it; a value left here would stand for ever
	r.o.Log.Info("acquired the reconcile lease")
	if r.eventsTurn.take(ctx) != nil {
		return
	}
	r.database.Forget()
	r.silence = newSilenceWatch(r.store, r.o.Webhooks, r.o.Now(), r.o.Log)
	r.eventsTurn.give()
	r.firstPass = make(chan struct{})
	for _, sweep := range []string{SweepEvents, SweepBalances, SweepScrub} {
		r.progress(sweep)
	}
	if limits, err := AllLimits(ctx, r.store); err == nil { // otherwise the first sweep finds them
		for _, limit := range limits {
			r.limits().tell(limit)
		}
	}
	first, done := context.WithTimeout(ctx, leaseTTL/3) // a database that hangs must not cost the lease
	r.readControls(first)
	done()

	var loops sync.WaitGroup
	for _, loop := range []func(context.Context){r.eventsLoop, r.copyLoop, r.redisLoop, r.deadLetterLoop, r.pruneLoop, r.balancesLoop, r.scrubLoop, r.stallLoop, r.daysLoop, r.controlLoop} {
		loops.Go(func() { loop(ctx) })
	}
	if r.o.Beside != nil {
		loops.Go(func() { r.o.Beside(ctx) })
	}
	for backoff.Sleep(ctx, leaseTTL/3) == nil {
		asked := r.o.Now()
		ask, done := context.WithTimeout(ctx, expires.Sub(asked))
		held, err := r.store.AcquireLease(ask, leaseName, r.o.Owner, leaseTTL)
		done()
		if held {
			expires = asked.Add(leaseTTL)
		} else if err == nil || !r.o.Now().Before(expires) {
			if ctx.Err() == nil {
				r.o.Log.Warn("reconcile lease lost", zap.Error(err))
			}
			break
		}
	}
	cancel()
	loops.Wait()
}

func (r *Runner) setLeading(v bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leading = v
}

// accounts lists the accounts to reconcile, the platform's own first.
func (r *Runner) accounts(ctx context.Context) ([]string, error) {
	list := append([]string{""}, r.o.Accounts...)
	if !r.o.AllAccounts {
		return list, nil
	}
	seen, err := r.store.Accounts(ctx)
	for _, account := range seen {
		if !slices.Contains(list, account) {
			list = append(list, account)
		}
	}
	return list, err
}

// eventsLoop passes over the events of all accounts, at once and then at the
// interval. What a pass left to its webhooks is looked at again when they had their
// time.
func (r *Runner) eventsLoop(ctx context.Context) {
	for first := true; ; first = false {
		left := r.sweepEvents(ctx)
		if first {
			close(r.firstPass)
		}
		next := time.NewTimer(r.o.EventsInterval)
		if wait := left.wait(); wait > 0 {
			if backoff.Sleep(ctx, min(wait, r.o.EventsInterval)) != nil {
				next.Stop()
				return
			}
			r.eventsAgain(ctx, left)
		}
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-r.eventsNow:
			next.Stop()
		case <-next.C:
		}
	}
}

// askEvents asks for a pass of the events sweep at once.
func (r *Runner) askEvents() {
	select {
	case r.eventsNow <- struct{}{}:
	default: // one is asked for already
	}
}

// leftEvents are, by account, the passes that left events to their webhooks.
type leftEvents map[string]EventsResult

// wait is how long they have to be waited for.
func (l leftEvents) wait() (longest time.Duration) {
	for _, result := range l {
		longest = max(longest, result.Wait)
	}
	return longest
}

func (r *Runner) sweepEvents(ctx context.Context) leftEvents {
	if r.eventsTurn.take(ctx) != nil {
		return nil
	}
	defer r.eventsTurn.give()
	accounts, err := r.accounts(ctx)
	ok := err == nil
	if !ok {
		r.failed(ctx, SweepEvents, "", err)
	}
	left := leftEvents{}
	unbrought := map[Endpoint][]mirror.Event{}
	for _, account := range accounts {
		var result EventsResult
		err := r.called(ctx, account, SweepEvents, func(ctx context.Context) (err error) {
			result, err = r.events.Run(ctx, account)
			_, err = r.limits().judge(ctx, account, PartEvents, err)
			return err
		})
		r.told(account, result, unbrought)
		if len(result.Left) > 0 {
			left[account] = result
		}
		if result.Beyond && err == nil {
			r.takeOver(ctx, account)
		}
		if err != nil { // the others go on
			ok = false
			r.failed(ctx, SweepEvents, account, err)
		}
	}
	if r.silence != nil {
		if err := r.silence.judge(ctx, unbrought, r.o.Now()); err != nil {
			r.failed(ctx, "webhooks", "", err)
		}
	}
	if ok {
		r.progress(SweepEvents)
		r.m.lastSuccess.WithLabelValues(SweepEvents).Set(float64(r.o.Now().Unix()))
	}
	return left
}

// eventsAgain looks at what the passes left. It makes no call to Stripe; what fails
// is seen by the next pass, whose overlap is longer than the grace.
func (r *Runner) eventsAgain(ctx context.Context, left leftEvents) {
	if r.eventsTurn.take(ctx) != nil {
		return
	}
	defer r.eventsTurn.give()
	unbrought := map[Endpoint][]mirror.Event{}
	for account, before := range left {
		result, err := r.events.Again(ctx, account, before)
		r.told(account, result, unbrought)
		if err != nil {
			r.failed(ctx, SweepEvents, account, err)
		}
	}
	if r.silence == nil {
		return
	}
	if err := r.silence.judge(ctx, unbrought, r.o.Now()); err != nil {
		r.failed(ctx, "webhooks", "", err)
	}
}

// told counts and logs what a look at events found.
func (r *Runner) told(account string, result EventsResult, unbrought map[Endpoint][]mirror.Event) {
	r.m.missed.Add(float64(result.Missed))
	r.m.remarked.Add(float64(result.Remarked))
	r.count(result.Opened)
	unbrought[EndpointOf(account)] = append(unbrought[EndpointOf(account)], result.Unbrought...)
	enqueued := r.events.enqueues()
	if result.Unmarked > 0 {
		r.o.Log.Warn("found missed events; could not enqueue their targets", zap.String("account", account), zap.Int("events", result.Unmarked))
	}
	switch marked := result.Missed - result.Unmarked; {
	case marked > 0 && enqueued:
		r.o.Log.Warn("found missed events; enqueued their targets", zap.String("account", account), zap.Int("events", marked))
	case marked > 0:
		r.o.Log.Warn("found missed events; repair is off", zap.String("account", account), zap.Int("events", marked))
	}
	if result.Late > 0 && enqueued {
		r.o.Log.Info("enqueued events from a time when nothing was listening", zap.String("account", account), zap.Int("events", result.Late))
	}
}

func (r *Runner) limits() limiter { return limiter{store: r.store, log: r.o.Log, now: r.o.Now} }

// errGateClosed says that an account is not called at present.
var errGateClosed = errors.New("stripe refuses the key of the account; it is tried again by itself")

// called runs a sweep's calls for an account unless its key is refused, and reports
// the gate what Stripe made of the key.
func (r *Runner) called(ctx context.Context, account, sweep string, calls func(context.Context) error) error {
	if r.paused(sweep) {
		return errPaused
	}
	begun := calls
	calls = func(ctx context.Context) error {
		ctx, done := r.untilPaused(ctx, sweep)
		defer done()
		err := begun(ctx)
		if err != nil && errors.Is(context.Cause(ctx), errPaused) {
			return errPaused
		}
		return err
	}
	t := mirror.Target{Account: account, Scope: mirror.Scope(sweep)}
	if r.o.Gate == nil {
		return r.traced(ctx, account, sweep, calls)
	}
	if r.o.Gate.Closed(t) > 0 {
		return errGateClosed
	}
	err := r.traced(ctx, account, sweep, calls)
	switch {
	case err == nil:
		r.o.Gate.Answered(t)
	case errors.Is(err, stripeapi.ErrUnauthorized), errors.Is(err, stripeapi.ErrForbidden):
		if _, first := r.o.Gate.Refused(t, err); first {
			r.o.Log.Error("stripe refuses the key; calls for the account are paused",
				zap.String("account", account), zap.String("sweep", sweep), zap.Error(err))
		}
	}
	return err
}

// traced runs a pass of a sweep in a span. A first copy has none: it takes hours,
// and a trace of all its calls would be of no use to anybody.
func (r *Runner) traced(ctx context.Context, account, sweep string, pass func(context.Context) error) error {
	if r.o.Tracer == nil || sweep == SweepBackfill {
		return pass(ctx)
	}
	ctx, span := tracing.Start(ctx, r.o.Tracer, "sweep "+sweep, trace.SpanKindInternal)
	defer func() { span.End() }()
	if span.IsRecording() {
		span.SetAttributes(tracing.Account.String(account), tracing.Sweep.String(sweep))
	}
	err := pass(ctx)
	if err != nil {
		tracing.Fail(span, "failed")
	}
	return err
}

// copyLoop makes the first copy of every account that has none, a few accounts
// side by side, so that one whose key is refused does not hold up the others.
func (r *Runner) copyLoop(ctx context.Context) {
	var copies sync.WaitGroup
	defer copies.Wait()
	var mu sync.Mutex
	copying := map[string]bool{}
	asked := map[string]time.Time{} // when what a finished copy left out was last asked for
	for {
		accounts, err := r.accounts(ctx)
		if err != nil {
			r.failed(ctx, SweepBackfill, "", err)
		}
		var oldest time.Time
		all := err == nil
		for _, account := range accounts {
			sweep, err := r.store.Sweep(ctx, account, SweepBackfill)
			if err != nil {
				all = false
				r.failed(ctx, SweepBackfill, account, err)
				continue
			}
			adds := r.copier.Missing(sweep) && r.o.Now().Sub(asked[account]) >= addInterval
			if done := sweep.LastSuccess; !done.IsZero() {
				if oldest.IsZero() || done.Before(oldest) {
					oldest = done
				}
				if !adds {
					continue
				}
				asked[account] = r.o.Now()
			} else {
				all = false
			}
			mu.Lock()
			start := !copying[account] && len(copying) < copiesAtOnce && !r.paused(SweepBackfill)
			if start {
				copying[account] = true
			}
			mu.Unlock()
			if start {
				copies.Go(func() {
					r.copyAccount(ctx, account, adds)
					mu.Lock()
					defer mu.Unlock()
					delete(copying, account)
				})
			}
		}
		if all {
			r.m.lastSuccess.WithLabelValues(SweepBackfill).Set(float64(oldest.Unix()))
		}
		if backoff.Sleep(ctx, copyInterval) != nil {
			return
		}
	}
}

func (r *Runner) copyAccount(ctx context.Context, account string, adds bool) {
	run := r.copier.Add
	if !adds {
		run = r.copier.Run
		r.o.Log.Info("first copy started or resumed", zap.String("account", account))
	}
	err := r.called(ctx, account, SweepBackfill, func(ctx context.Context) error { return run(ctx, account, func(Copied) {}) })
	if errors.Is(err, ErrCopying) { // backfill beside this process; look later whether it got to the end
		r.o.Log.Info("first copy is running in another process", zap.String("account", account))
		return
	}
	if err != nil {
		r.failed(ctx, SweepBackfill, account, err)
		return
	}
	if sweep, err := r.store.Sweep(ctx, account, SweepBackfill); adds && (err != nil || r.copier.Missing(sweep)) {
		return // not yet
	}
	r.o.Log.Info("first copy done", zap.String("account", account))
}

// redisLoop notices a Redis that forgot and marks again what it must have held.
func (r *Runner) redisLoop(ctx context.Context) {
	lastRemark, healed, losing := time.Time{}, false, false
	for {
		r.lookAtDatabase(ctx)
		lost, fresh, err := r.detector.Check(ctx)
		switch {
		case err != nil:
			r.failed(ctx, "redis", "", err)
		case len(lost) > 0:
			switch {
			case fresh:
				r.o.Log.Info("redis is used for the first time")
			case r.o.EmbeddedRedis && !healed:
				// It ends with the process, so this is what every start looks like.
				r.o.Log.Info("embedded redis is new; enqueueing unanswered events again")
			case !losing:
				r.m.lost.Inc()
				r.o.Log.Warn("redis was flushed, rewound or replaced; enqueueing its work again", zap.Int("partitions", len(lost)))
			}
			losing = !r.heal(ctx, lost, fresh || r.o.EmbeddedRedis)
			if !losing {
				healed, lastRemark = true, r.o.Now()
			}
		case r.o.Now().Sub(lastRemark) >= pendingAge:
			lastRemark = r.o.Now()
			if err := r.setAside(ctx); err != nil {
				r.failed(ctx, "redis", "", err)
			}
			if n, err := RemarkPending(ctx, r.store, r.queue, r.o.Now(), pendingAge); err != nil {
				r.failed(ctx, "redis", "", err)
			} else if n > 0 {
				r.m.remarked.Add(float64(n))
				r.o.Log.Warn("inbox events were missing from the queue; enqueued their targets", zap.Int("targets", n))
			}
			if n, err := r.remarkUnfinished(ctx); err != nil {
				r.failed(ctx, "redis", "", err)
			} else if n > 0 {
				r.m.remarked.Add(float64(n))
				r.o.Log.Warn("unfinished histories were missing from the queue; enqueued their targets", zap.Int("targets", n))
			}
		}
		if backoff.Sleep(ctx, checkInterval) != nil {
			return
		}
	}
}

// setAside ends what waits for ledgers that are not mirrored: those that are not wanted,
// and those that a first copy left out because the key may not read them. Add reads all
// of them once it may.
func (r *Runner) setAside(ctx context.Context) error {
	accounts, err := r.accounts(ctx)
	for _, account := range accounts {
		sweep, failed := r.store.Sweep(ctx, account, SweepBackfill)
		if failed != nil {
			return failed
		}
		at, _ := copiedOf(sweep)
		left := r.o.Ledgers.Left()
		for _, ledger := range at.Without {
			if !slices.Contains(left, ledger) {
				left = append(left, ledger)
			}
		}
		for _, ledger := range left {
			if err := r.store.SetAside(ctx, account, ledger); err != nil {
				return err
			}
		}
	}
	return err
}

// heal marks again what Redis forgot; expected: that of one that ends with its
// process, or that was never used, is no fault of anything.
func (r *Runner) heal(ctx context.Context, lost []mirror.Incarnation, expected bool) bool {
	cause := mirror.CauseLostRedis
	if expected {
		cause = mirror.CauseMissedEvent
	}
	begun, err := r.detector.Begin(ctx, lost)
	if err != nil {
		r.failed(ctx, "redis", "", err)
		return false
	}
	n, err := remarkLost(ctx, r.store, r.queue)
	failpoint.Hit("redis.remarked")
	r.m.remarked.Add(float64(n))
	if err == nil {
		err = r.rewindEvents(ctx, cause)
	}
	if err == nil {
		_, err = r.remarkUnfinished(ctx)
	}
	if err == nil {
		failpoint.Hit("redis.healing")
		err = r.detector.Heal(ctx, begun)
	}
	if err != nil {
		r.failed(ctx, "redis", "", err)
		return false
	}
	if !expected { // their balances have their turn anyway
		r.askBalances(cause)
	}
	r.o.Log.Info("redis healed", zap.Int("remarked", n))
	r.askEvents()
	return true
}

// rewindEvents lets the next pass over events go back far enough to see what
// Redis may have forgotten.
func (r *Runner) rewindEvents(ctx context.Context, cause string) error {
	if err := r.eventsTurn.take(ctx); err != nil {
		return err
	}
	defer r.eventsTurn.give()
	accounts, err := r.accounts(ctx)
	for _, account := range accounts {
		if err == nil {
			err = r.events.Rewind(ctx, account, cause)
		}
	}
	return err
}

// remarkUnfinished marks the unfinished histories that the queue does not know of,
// and returns how many. A first copy that is not done marks its customers itself.
func (r *Runner) remarkUnfinished(ctx context.Context) (int, error) {
	accounts, err := r.accounts(ctx)
	if err != nil {
		return 0, err
	}
	marked := 0
	for _, account := range accounts {
		if done, err := r.copier.Done(ctx, account); err != nil || !done {
			if err != nil {
				return marked, err
			}
			continue
		}
		ledgers, err := copiedLedgers(ctx, r.store, account, r.o.Ledgers)
		if err != nil {
			return marked, err
		}
		limits, err := ReadLimits(ctx, r.store, account)
		if err != nil {
			return marked, err
		}
		n, err := MarkUnfinished(ctx, r.store, r.queue, account, limits.Ledgers(ledgers))
		if marked += n; err != nil {
			return marked, err
		}
	}
	return marked, nil
}

// deadLetterLoop tries dead letters again, each once an hour.
func (r *Runner) deadLetterLoop(ctx context.Context) {
	for {
		now := r.o.Now()
		letters, err := r.store.DueDeadLetters(ctx, now, now.Add(deadRetryInterval), 100)
		if err == nil && len(letters) > 0 {
			var targets []mirror.Target
			for _, l := range letters {
				if l.Target.Scope != "" {
					targets = append(targets, l.Target)
				}
			}
			err = r.queue.MarkSwept(ctx, targets)
		}
		if err != nil {
			r.failed(ctx, "dead_letters", "", err)
		}
		if backoff.Sleep(ctx, 30*time.Second) != nil {
			return
		}
	}
}

// pruneLoop forgets answered events that Stripe no longer lists either.
func (r *Runner) pruneLoop(ctx context.Context) {
	for {
		if _, err := r.store.PruneEvents(ctx, r.o.Now().Add(-eventsKept)); err != nil {
			r.failed(ctx, "prune", "", err)
		}
		if backoff.Sleep(ctx, time.Hour) != nil {
			return
		}
	}
}

// daysLoop keeps the day table of the books up to date.
func (r *Runner) daysLoop(ctx context.Context) {
	for r.o.Days != nil {
		if err := r.o.Days(ctx); err != nil {
			r.failed(ctx, "days", "", err)
		}
		if backoff.Sleep(ctx, r.o.DaysInterval) != nil {
			return
		}
	}
}

func (r *Runner) failed(ctx context.Context, sweep, account string, err error) {
	if ctx.Err() != nil || errors.Is(err, errPaused) {
		return // stopping, or the lease went elsewhere, or somebody wants it so
	}
	r.m.failures.WithLabelValues(sweep).Inc()
	key := [2]string{sweep, account}
	now := r.o.Now()
	r.failing.Lock()
	defer r.failing.Unlock()
	f := r.failures[key]
	if now.Sub(f.last) > 5*failureInterval {
		f = failures{}
	}
	f.times, f.last = f.times+1, now
	if f.times > 1 && now.Sub(f.told) < failureInterval {
		r.failures[key] = f // an outage fails all of them, again and again
		return
	}
	r.o.Log.Warn("sweep failed; it will be retried", zap.String("sweep", sweep), zap.String("account", account),
		zap.Int("failures", f.times), zap.Error(err))
	f.told = now
	r.failures[key] = f
}

// failureInterval is how often the failing of a sweep is logged; the count of one that has
// not failed for five times as long begins anew.
const failureInterval = time.Minute

// failures counts those of a sweep and when they were logged last.
type failures struct {
	times      int
	told, last time.Time
}
