package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/queue"
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

// DeadLetters keeps work that failed for good.
type DeadLetters interface {
	SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error
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
	// Late tells of an event that the time until it is answered says nothing of how
	// fresh the mirror is. Defaults to none.
	Late       func(ctx context.Context, account string, created time.Time) bool
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
		p.o.Log.Warn("targets are still in work and are given back", zap.Duration("after", p.o.DrainTimeout))
		stopWork(errStopping)
		timer.Reset(giveBackTimeout)
		select {
		case <-drained:
		case <-timer.C: // their leases will run out
			p.o.Log.Warn("targets in work hang and are left to their leases")
		}
	}
	stopWork(nil)
	upkeep.Wait()
	return nil
}

// doubts are the waits before a target is read again whose new finding may only
// be a list that lagged.
var doubts = [...]time.Duration{time.Second, 4 * time.Second, 15 * time.Second, time.Minute}

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
			p.o.Log.Warn("queue does not answer", zap.Int("attempt", trouble), zap.Error(err))
			if sleep(ctx, jitter(50*time.Millisecond, 2*time.Second, trouble)) != nil {
				return
			}
			continue
		}
		trouble = 0
	}
}

// work syncs one claimed target and completes, fails or gives back its claim.
func (p *Pool) work(ctx context.Context, c queue.Claim) {
	target, err := mirror.ParseTarget(c.Key)
	if err != nil { // nobody can work on it, and it cannot come from this program
		p.o.Log.Error("unknown key in the queue is dropped", zap.String("key", c.Key), zap.Error(err))
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
		if !p.o.Late(ctx, t.Account, e.Created) {
			p.m.freshness.Observe(max(now.Sub(e.Created), 0).Seconds())
		}
	}
	for _, f := range r.Findings { // of a sync that was refused too
		p.m.driftFound.WithLabelValues(string(f.Kind)).Inc()
		p.o.Log.Error("drift found", append(logTarget(t), zap.String("kind", string(f.Kind)), zap.String("currency", f.Currency), zap.String("cause", f.Cause))...)
	}
	if v.heard {
		p.gate.Heard(t)
	}
	fields := append(logTarget(t), zap.String("outcome", v.outcome), zap.Duration("duration", now.Sub(began)), zap.Int("attempt", c.Attempts+1))
	switch v.then {
	case complete:
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
		if r.Unproven && (len(r.Findings) > 0 || c.Attempts > 0) && c.Attempts < len(doubts) {
			// Lists may have lagged for longer than the sync was patient: a new finding
			// is looked at again, an old one waits for its next event or sweep.
			if _, err := p.queue.Revisit(ctx, c, doubts[c.Attempts]); err != nil {
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
		p.o.Log.Warn("sync put off", append(fields, zap.Error(err))...)
		p.release(ctx, c, v.wait)
	case closeGate:
		pause := p.gate.Refused(t, err)
		p.o.Log.Error("stripe refuses the key; calls for the account stop, its work waits",
			append(fields, zap.Duration("retry_in", pause), zap.Error(err))...)
		p.putOff(ctx, c, pause, false)
	case tryAgain:
		p.tryAgain(ctx, c, t, refs, v, err, began, fields)
	}
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
	p.o.Log.Warn("sync failed", append(fields, zap.Bool("counted", own), zap.Error(err))...)
	failpoint.Hit("worker.failing")
	if own {
		pause = jitter(500*time.Millisecond, 5*time.Minute, c.Attempts)
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
		p.o.Log.Error("dead letter not kept; the work stays in the queue", append(logTarget(t), zap.Error(err))...)
		p.release(ctx, c, jitter(time.Second, time.Minute, 3))
		return
	}
	failpoint.Hit("worker.buried")
	p.m.deadLetters.Inc()
	p.o.Log.Error("sync failed for good; kept as a dead letter and tried again every hour",
		append(logTarget(t), zap.Int("attempt", c.Attempts+1), zap.String("dead_letter", letter.ID), zap.Error(cause))...)
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
			p.o.Log.Warn("leases not renewed", zap.Int("claims", len(claims)), zap.Error(err))
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
			p.o.Log.Warn("leases ran out; their targets are in the queue again", zap.Int("targets", n))
		}
	})
}

// repairLoop puts targets back that lost their place in the queue.
func (p *Pool) repairLoop(ctx context.Context) {
	every(ctx, 15*time.Second, func() {
		if n, err := p.queue.Repair(ctx); err == nil && n > 0 {
			p.m.repaired.Add(float64(n))
			p.o.Log.Warn("targets without a place in the queue were put back", zap.Int("targets", n))
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
			p.o.Log.Warn("work that an outage put off is not made due yet", zap.Error(err))
			p.gate.recover(over)
		case n > 0:
			p.o.Log.Info("stripe answers; the work that was put off is due", zap.Int("targets", n))
		}
		if sleep(ctx, time.Second) != nil {
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

// parseRefs reads references, each event once; unread tells that one said nothing.
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
