package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/queue"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// Queue is where the work comes from. *queue.Queue is one.
type Queue interface {
	Claim(ctx context.Context, limit int) ([]queue.Claim, error)
	Renew(ctx context.Context, claims []queue.Claim) (lost []queue.Claim, err error)
	Done(ctx context.Context, c queue.Claim) (again bool, err error)
	Fail(ctx context.Context, c queue.Claim, delay time.Duration) (attempts int, err error)
	Release(ctx context.Context, c queue.Claim, delay time.Duration) error
	PutOff(ctx context.Context, c queue.Claim, delay time.Duration, counted bool) (attempts int, err error)
	Revisit(ctx context.Context, c queue.Claim, delay time.Duration) (attempts int, err error)
	Resume(ctx context.Context, match func(key string) bool) (int, error)
	Wait(ctx context.Context) error
	Reap(ctx context.Context) (int, error)
	Repair(ctx context.Context) (int, error)
	Lease() time.Duration
}

// DeadLetters keeps work that failed for good, in the mirror's database.
type DeadLetters interface {
	SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error
	// Ping reports whether the database answers.
	Ping(ctx context.Context) error
}

// Options tune a Pool.
type Options struct {
	// Workers is how many targets are in work at once. Defaults to 16.
	Workers int
	// MaxAttempts is how often a target may fail before it becomes a dead letter.
	// Defaults to 12.
	MaxAttempts int
	// DrainTimeout bounds how long Run lets targets in work finish after its
	// context has ended. Defaults to 18 s.
	DrainTimeout time.Duration
	// SyncTimeout bounds one sync, a piece of a long history included. Defaults to
	// 5 minutes.
	SyncTimeout time.Duration
	// Late reports whether the time until an event is answered says nothing of how
	// fresh the mirror is. Defaults to none.
	Late func(ctx context.Context, account string, created time.Time) bool
	// Ledgers are those that are mirrored: targets of others are taken out of the queue.
	Ledgers    mirror.Ledgers
	Registerer prometheus.Registerer
	Log        *zap.Logger
	Now        func() time.Time
}

// Pool syncs targets from the queue, many at once.
type Pool struct {
	queue Queue
	sync  func(ctx context.Context, t mirror.Target, class queue.Class, refs []mirror.EventRef, thorough bool) (Result, error)
	dead  DeadLetters
	gate  *Gate
	o     Options
	m     *metrics

	// What fails for many targets at once is logged in one line, and one a minute.
	queueAway, storeAway, stripeAway, limited *OutageLog
	// storeDown: a sync met a database that fails. No target is claimed until it
	// answers.
	storeDown atomic.Bool

	mu     sync.Mutex
	jobs   uint64
	inWork map[uint64]*job
}

// job is a claim in work; cancel ends it when its lease is lost.
type job struct {
	claim  queue.Claim
	cancel context.CancelCauseFunc
}

// NewPool returns a Pool. live syncs work that events asked for, swept the work
// of sweeps and first copies, which yields to it at Stripe.
func NewPool(q Queue, live, swept *Syncer, dead DeadLetters, gate *Gate, o Options) *Pool {
	if o.Workers <= 0 {
		o.Workers = 16
	}
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = 12
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = 18 * time.Second
	}
	if o.SyncTimeout <= 0 {
		o.SyncTimeout = 5 * time.Minute
	}
	if o.Late == nil {
		o.Late = func(context.Context, string, time.Time) bool { return false }
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Pool{
		queue: q, dead: dead, gate: gate, o: o, m: newMetrics(o.Registerer), inWork: map[uint64]*job{},
		queueAway:  NewOutageLog(o.Log, "redis is not answering; syncs are paused", "redis answers again; syncs resume"),
		storeAway:  NewOutageLog(o.Log, "database is failing; no work is claimed until it answers", "database answers again; syncs resume"),
		stripeAway: NewOutageLog(o.Log, "stripe is failing; syncs are postponed", "stripe answers again; syncs resume"),
		limited:    NewOutageLog(o.Log, "stripe is rate limiting; syncs are postponed", "stripe is no longer rate limiting"),
		sync: func(ctx context.Context, t mirror.Target, class queue.Class, refs []mirror.EventRef, thorough bool) (Result, error) {
			if class == queue.Sweep {
				return swept.Sync(ctx, t, refs, thorough)
			}
			return live.Sync(ctx, t, refs, thorough)
		},
	}
}

// Run works until ctx ends, then lets the targets in work finish and gives back
// those that do not in time.
func (p *Pool) Run(ctx context.Context) error {
	// Targets in work outlive ctx by the drain timeout.
	work, stopWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopWork(nil)

	var upkeep sync.WaitGroup
	for _, loop := range []func(context.Context){p.renewLoop, p.reapLoop, p.repairLoop, p.resumeLoop} {
		upkeep.Go(func() { loop(work) })
	}
	var jobs sync.WaitGroup
	free := make(chan struct{}, p.o.Workers)
	for range p.o.Workers {
		free <- struct{}{}
	}
	p.claimLoop(ctx, work, free, &jobs)

	drained := make(chan struct{})
	go func() { jobs.Wait(); close(drained) }()
	timer := time.NewTimer(p.o.DrainTimeout)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		p.o.Log.Warn("targets still in progress at shutdown are given back", zap.Duration("after", p.o.DrainTimeout))
		stopWork(errStopping)
		timer.Reset(giveBackTimeout)
		select {
		case <-drained:
		case <-timer.C: // their leases will run out
			p.o.Log.Warn("targets did not stop; leaving them to their leases")
		}
	}
	stopWork(nil)
	upkeep.Wait()
	return nil
}

// recheckDelays are the waits before a target with a new finding is read again: the
// list may have lagged.
var recheckDelays = [...]time.Duration{time.Second, 4 * time.Second, 15 * time.Second, time.Minute}

// looksAfter are the waits before a customer is read once more whose reply may have
// been older than the events that it answered.
var looksAfter = [...]time.Duration{3 * time.Second, 5 * time.Second, 15 * time.Second, 45 * time.Second}

// waitsFor is how long a question is put off whose answer waits for syncs, growing to
// four minutes for a customer that cannot be synced.
func waitsFor(attempts int) time.Duration { return 2 * time.Second << min(attempts, 7) }

// giveBackTimeout bounds how long targets in work may take to notice that they
// are cut off.
const giveBackTimeout = 3 * time.Second

var (
	errStopping  = errors.New("the worker is stopping")
	errLeaseLost = errors.New("the lease was lost")
	errTooLong   = errors.New("the sync took longer than it may")
)

// claimLoop takes as many targets as there are free workers, waiting for work
// without polling, until ctx ends.
func (p *Pool) claimLoop(ctx, work context.Context, free chan struct{}, jobs *sync.WaitGroup) {
	for trouble := 0; ; {
		if p.storeDown.Load() && p.awaitStore(ctx) != nil {
			return
		}
		slots := 0
		select {
		case <-ctx.Done():
			return
		case <-free:
			slots++
		}
		for more := true; more && slots < p.o.Workers; {
			select {
			case <-free:
				slots++
			default:
				more = false
			}
		}
		claims, err := p.queue.Claim(ctx, slots)
		for _, c := range claims {
			slots--
			jobs.Go(func() {
				defer func() { free <- struct{}{} }()
				p.work(work, c)
			})
		}
		for range slots {
			free <- struct{}{}
		}
		if err == nil && len(claims) == 0 {
			err = p.queue.Wait(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			trouble++
			p.m.queueErrors.Inc()
			p.queueAway.Failed(err, 0)
			if backoff.Sleep(ctx, backoff.Jitter(50*time.Millisecond, 2*time.Second, trouble)) != nil {
				return
			}
			continue
		}
		trouble = 0
		p.queueAway.Over()
	}
}

// awaitStore waits until the database answers, so that neither the queue nor Stripe is
// asked for what cannot be kept. It returns an error when ctx ends.
func (p *Pool) awaitStore(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		ping, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := p.dead.Ping(ping)
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			p.storeAway.Failed(err, 0)
		}
		if err := backoff.Sleep(ctx, backoff.Jitter(100*time.Millisecond, time.Second, attempt)); err != nil {
			return err
		}
	}
	p.storeDown.Store(false)
	return nil
}

// work syncs one claimed target and completes, fails or gives back its claim.
func (p *Pool) work(ctx context.Context, c queue.Claim) {
	target, err := mirror.ParseTarget(c.Key)
	if err != nil { // nobody can work on it, and it cannot come from this program
		p.o.Log.Error("dropped an unknown key from the queue", zap.String("key", c.Key), zap.Error(err))
		p.done(ctx, c)
		return
	}
	if !p.o.Ledgers.Has(target.Scope) { // marked by another configuration
		p.done(ctx, c)
		return
	}
	wait := p.gate.Closed(target)
	if wait == 0 {
		wait = p.gate.Out(target)
	}
	if wait > 0 {
		p.putOff(ctx, c, wait, false)
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer p.hold(c, cancel)()

	failpoint.Hit("worker.claimed")
	began := p.o.Now()
	refs, unread := parseRefs(c.Refs)
	syncCtx, cancelSync := context.WithTimeoutCause(ctx, p.o.SyncTimeout, errTooLong)
	result, err := p.guarded(syncCtx, target, c, refs, c.Unnamed || unread)
	if err != nil && errors.Is(context.Cause(syncCtx), errTooLong) {
		err = fmt.Errorf("%w: %w", errTooLong, err)
	}
	cancelSync()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	failpoint.Hit("worker.settling")
	p.settle(context.WithoutCancel(ctx), c, target, refs, result, err, began)
}

// guarded runs one sync and turns a panic into an error: one broken target must
// not stop the others.
func (p *Pool) guarded(ctx context.Context, t mirror.Target, c queue.Claim, refs []mirror.EventRef, unnamed bool) (result Result, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.m.panics.Inc()
			p.o.Log.Error("panic in a sync", append(logTarget(t), zap.String("stack", string(debug.Stack())))...)
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return p.sync(ctx, t, c.Class, refs, unnamed)
}

// settle turns the outcome of a sync into what happens to its claim.
func (p *Pool) settle(ctx context.Context, c queue.Claim, t mirror.Target, refs []mirror.EventRef, r Result, err error, began time.Time) {
	now := p.o.Now()
	v := judge(err)
	p.m.syncs.WithLabelValues(string(t.Scope), v.outcome).Inc()
	p.m.duration.WithLabelValues(string(t.Scope)).Observe(now.Sub(began).Seconds())
	for _, e := range r.Answered {
		if !replayed(e.Created, r.Before, now) && !p.o.Late(ctx, t.Account, e.Created) {
			p.m.freshness.Observe(max(now.Sub(e.Created), 0).Seconds())
		}
	}
	for _, f := range r.Findings { // of a sync that was refused too
		p.m.driftFound.WithLabelValues(string(f.Kind)).Inc()
		p.o.Log.Error("ledger could not be proven; drift recorded", append(logTarget(t), zap.String("kind", string(f.Kind)), zap.String("currency", f.Currency), zap.String("cause", f.Cause))...)
	}
	if v.heard {
		p.gate.Heard(t)
	}
	fields := append(logTarget(t), zap.String("outcome", v.outcome), zap.Duration("duration", now.Sub(began)), zap.Int("attempt", c.Attempts+1))
	switch v.then {
	case complete:
		p.storeAway.Over()
		if !r.Local {
			p.stripeAway.Over()
			p.limited.Over()
		}
		if r.Local {
			p.gate.Unasked(t)
		} else {
			p.gate.Answered(t)
		}
		for _, f := range r.Repaired {
			p.m.driftFound.WithLabelValues(string(f.Kind)).Inc()
			p.m.driftFixed.WithLabelValues(string(f.Kind)).Inc()
			p.o.Log.Warn("drift found and repaired", append(logTarget(t), zap.String("kind", string(f.Kind)), zap.String("currency", f.Currency), zap.String("cause", f.Cause))...)
		}
		for _, k := range r.Closed {
			p.m.driftFixed.WithLabelValues(string(k)).Inc()
		}
		p.o.Log.Debug("synced", append(fields, zap.Int("inserted", r.Inserted), zap.Int("updated", r.Updated))...)
		if r.More {
			failpoint.Hit("worker.more")
			p.release(ctx, c, 0)
			return
		}
		if r.Waits {
			if _, err := p.queue.Revisit(ctx, c, waitsFor(c.Attempts)); err != nil {
				p.lapse(c, err)
			}
			return
		}
		if r.Unproven && (len(r.Findings) > 0 || c.Attempts > 0) && c.Attempts < len(recheckDelays) {
			// Lists may have lagged for longer than the sync was patient: a new finding
			// is looked at again, an old one waits for its next event or sweep.
			if _, err := p.queue.Revisit(ctx, c, recheckDelays[c.Attempts]); err != nil {
				p.lapse(c, err)
			}
			return
		}
		if c.Attempts < min(r.Looks, len(looksAfter)) {
			if _, err := p.queue.Revisit(ctx, c, looksAfter[c.Attempts]); err != nil {
				p.lapse(c, err)
			}
			return
		}
		p.done(ctx, c)
	case giveBack:
		p.o.Log.Debug("sync given back", append(fields, zap.Error(err))...)
		p.release(ctx, c, v.wait)
	case wait:
		if StoreFailed(err) {
			p.storeDown.Store(true)
			p.storeAway.Failed(err, 1)
		} else {
			p.limited.Failed(err, 1)
		}
		p.o.Log.Debug("sync postponed", append(fields, zap.Error(err))...)
		p.release(ctx, c, v.wait)
	case closeGate:
		pause, first := p.gate.Refused(t, err)
		permission, lacks := stripeapi.Permission(err)
		switch {
		case !first: // logged when it began
			p.o.Log.Debug("stripe still refuses the key", append(fields, zap.Error(err))...)
		case lacks:
			p.o.Log.Error("stripe key lacks a permission; work that needs it is paused",
				append(fields, zap.String("permission", permission), zap.Duration("retry_in", pause), zap.Error(err))...)
		default:
			p.o.Log.Error("stripe refuses the key; calls for the account are paused",
				append(fields, zap.Duration("retry_in", pause), zap.Error(err))...)
		}
		p.putOff(ctx, c, pause, false)
	case tryAgain:
		p.tryAgain(ctx, c, t, refs, v, err, began, fields)
	}
}

// Bounds of replayed.
const (
	replayAge    = time.Hour
	replayMargin = 5 * time.Second // for clocks that differ
)

// replayed reports whether an event says nothing of how fresh the mirror is: it is old,
// and its customer was read long after it, at before.
func replayed(created, before, now time.Time) bool {
	return now.Sub(created) > replayAge && before.Sub(created) > replayMargin
}

// tryAgain puts off work that failed, or gives it up after its last attempt. A
// fault that may be Stripe's is this target's attempt only where Stripe answered
// others meanwhile.
func (p *Pool) tryAgain(ctx context.Context, c queue.Claim, t mirror.Target, refs []mirror.EventRef, v verdict, err error, began time.Time, fields []zap.Field) {
	own, pause := true, time.Duration(0)
	if v.outage {
		own, pause = p.gate.Failed(t, began)
	}
	if own && c.Attempts+1 >= p.o.MaxAttempts {
		p.bury(ctx, c, t, refs, err)
		return
	}
	fields = append(fields, zap.Bool("counted", own), zap.Error(err))
	if v.outage && !own { // the outage's, not this target's
		p.stripeAway.Failed(err, 1)
		p.o.Log.Debug("sync failed in an outage", fields...)
	} else {
		p.o.Log.Warn("sync failed", fields...)
	}
	failpoint.Hit("worker.failing")
	if own {
		pause = backoff.Jitter(500*time.Millisecond, 5*time.Minute, c.Attempts)
	}
	if p.gate.Probing(t) { // it may be the only target that can probe
		pause = min(pause, probeInterval)
	}
	if v.outage {
		p.putOff(ctx, c, pause, own)
		return
	}
	if _, err := p.queue.Fail(ctx, c, pause); err != nil {
		p.lapse(c, err)
	}
}

// bury turns the work into a dead letter, kept in the mirror's database, and
// only then completes it.
func (p *Pool) bury(ctx context.Context, c queue.Claim, t mirror.Target, refs []mirror.EventRef, cause error) {
	now := p.o.Now()
	letter := mirror.DeadLetter{
		ID: mirror.DeadLetterID(t), Target: t, Reason: cause.Error(), Attempts: c.Attempts + 1,
		FirstFailedAt: now, LastFailedAt: now, RetryAt: now.Add(time.Hour),
	}
	for _, r := range refs {
		letter.EventIDs = append(letter.EventIDs, r.ID)
	}
	saveCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := p.dead.SaveDeadLetter(saveCtx, letter); err != nil {
		p.o.Log.Error("could not save dead letter; the work stays in the queue", append(logTarget(t), zap.Error(err))...)
		p.release(ctx, c, backoff.Jitter(time.Second, time.Minute, 3))
		return
	}
	failpoint.Hit("worker.buried")
	p.m.deadLetters.Inc()
	p.o.Log.Error("sync failed permanently; saved as a dead letter, which is retried hourly",
		append(logTarget(t), zap.Int("attempt", c.Attempts+1), zap.String("dead_letter_id", letter.ID), zap.Error(cause))...)
	p.done(ctx, c)
}

func (p *Pool) done(ctx context.Context, c queue.Claim) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	failpoint.Hit("worker.completing")
	if _, err := p.queue.Done(ctx, c); err != nil {
		p.lapse(c, err)
	}
	failpoint.Hit("worker.completed")
}

func (p *Pool) release(ctx context.Context, c queue.Claim, delay time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := p.queue.Release(ctx, c, delay); err != nil {
		p.lapse(c, err)
	}
}

func (p *Pool) putOff(ctx context.Context, c queue.Claim, delay time.Duration, counted bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := p.queue.PutOff(ctx, c, delay, counted); err != nil {
		p.lapse(c, err)
	}
}

// lapse leaves a claim to its lease: somebody will run it again, which costs one
// more read and changes nothing.
func (p *Pool) lapse(c queue.Claim, err error) {
	p.m.lapsed.Inc()
	p.o.Log.Debug("claim left to its lease", zap.String("key", c.Key), zap.Error(err))
}

// hold keeps the claim's lease renewed until the returned function is called.
func (p *Pool) hold(c queue.Claim, cancel context.CancelCauseFunc) (letGo func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs++
	id := p.jobs
	p.inWork[id] = &job{c, cancel}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.inWork, id)
	}
}

// renewLoop keeps the leases of the targets in work, and stops work whose lease
// is gone: another worker has it.
func (p *Pool) renewLoop(ctx context.Context) {
	every(ctx, p.queue.Lease()/3, func() {
		p.mu.Lock()
		claims := make([]queue.Claim, 0, len(p.inWork))
		for _, j := range p.inWork {
			claims = append(claims, j.claim)
		}
		p.mu.Unlock()
		if len(claims) == 0 {
			return
		}
		failpoint.Hit("worker.renewing")
		lost, err := p.queue.Renew(ctx, claims)
		if err != nil {
			p.queueAway.Failed(err, len(claims))
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range lost {
			for _, j := range p.inWork {
				if j.claim.Key == c.Key && j.claim.Expires.Equal(c.Expires) {
					j.cancel(errLeaseLost)
				}
			}
		}
	})
}

// reapLoop gives back the targets of dead workers.
func (p *Pool) reapLoop(ctx context.Context) {
	every(ctx, time.Second, func() {
		if n, err := p.queue.Reap(ctx); err == nil && n > 0 {
			failpoint.Hit("worker.reaped")
			p.m.reaped.Add(float64(n))
			p.o.Log.Warn("leases expired; their targets are back in the queue", zap.Int("targets", n))
		}
	})
}

// repairLoop puts targets back that lost their place in the queue.
func (p *Pool) repairLoop(ctx context.Context) {
	every(ctx, 15*time.Second, func() {
		if n, err := p.queue.Repair(ctx); err == nil && n > 0 {
			p.m.repaired.Add(float64(n))
			p.o.Log.Warn("targets missing from the queue were put back", zap.Int("targets", n))
		}
	})
}

// resumeLoop makes due what an outage put off, once it is over. A scan of what waits
// is not repeated at once where the ends of many accounts' outages follow each other.
func (p *Pool) resumeLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.gate.recovered:
		}
		over := p.gate.takeRecovered()
		n, err := p.queue.Resume(ctx, func(key string) bool {
			t, err := mirror.ParseTarget(key)
			return err == nil && over[t.Account]
		})
		switch {
		case err != nil && ctx.Err() == nil:
			p.o.Log.Warn("could not resume work postponed by an outage", zap.Error(err))
			p.gate.recover(over)
		case n > 0:
			p.o.Log.Info("stripe answers again; postponed work is due", zap.Int("targets", n))
		}
		if backoff.Sleep(ctx, time.Second) != nil {
			return
		}
	}
}

func every(ctx context.Context, d time.Duration, do func()) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

// parseRefs reads references, each event once; unread is whether one said nothing.
func parseRefs(texts []string) (refs []mirror.EventRef, unread bool) {
	refs = make([]mirror.EventRef, 0, len(texts))
	seen := make(map[string]bool, len(texts))
	for _, text := range texts {
		// A reference is only a hint, so one that cannot be read is left out.
		r, err := mirror.ParseEventRef(text)
		switch {
		case err != nil:
			unread = true
		case !seen[r.ID]: // an event that was delivered twice has two traces
			seen[r.ID] = true
			refs = append(refs, r)
		}
	}
	return refs, unread
}

func logTarget(t mirror.Target) []zap.Field {
	return []zap.Field{zap.String("account", t.Account), zap.String("customer_id", t.ID), zap.String("scope", string(t.Scope))}
}
