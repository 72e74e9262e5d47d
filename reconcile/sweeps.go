package reconcile

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
)

// driftFound is the counter that the workers count in too.
func driftFound(r prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "creditmirror_drift_found_total", Help: "Differences found, by kind."}, []string{"kind"})
	if r == nil {
		return c
	}
	if err := r.Register(c); err != nil {
		if have, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
			return have.ExistingCollector.(*prometheus.CounterVec)
		}
		panic(err) // as promauto does
	}
	return c
}

func (r *Runner) count(opened map[mirror.DriftKind]int) {
	for kind, n := range opened {
		r.m.found.WithLabelValues(string(kind)).Add(float64(n))
	}
}

// takeOver follows a gap in the events that Stripe no longer lists: only a
// comparison of balances and a full read of every history close it.
func (r *Runner) takeOver(ctx context.Context, account string) {
	if r.o.Scrub != nil {
		if err := r.o.Scrub.Urge(ctx, account, r.o.Now()); err != nil {
			r.failed(ctx, SweepScrub, account, err)
		}
	}
	r.askBalances(mirror.CauseMissedEvent)
}

// askBalances asks for a pass of the balances sweep at once.
func (r *Runner) askBalances(cause string) {
	select {
	case r.balancesNow <- cause:
	default: // one is asked for already
	}
}

// balancesLoop compares all balances at the interval, reckoned from the last
// success, so that a restart does not begin anew.
func (r *Runner) balancesLoop(ctx context.Context) {
	if r.o.Balances == nil {
		return
	}
	r.o.Balances.o.Progress = func(n int) {
		r.progress(SweepBalances)
		r.m.compared.WithLabelValues(SweepBalances).Add(float64(n))
	}
	// What came while nothing ran here is in the queue then, and explains what differs.
	select {
	case <-r.firstPass:
	case <-ctx.Done():
		return
	}
	cause, forced := "", false
	for {
		next := r.o.Now().Add(r.o.BalancesInterval)
		ok := true
		accounts, err := r.accounts(ctx)
		if err != nil {
			r.failed(ctx, SweepBalances, "", err)
		}
		for _, account := range accounts {
			due, err := r.sweepBalances(ctx, account, cause, forced)
			if err != nil {
				ok = false
				r.failed(ctx, SweepBalances, account, err)
				due = r.o.Now().Add(copyInterval)
			}
			if due.Before(next) {
				next = due
			}
		}
		if ok {
			r.progress(SweepBalances) // nothing due is no stall
		}
		if err == nil {
			r.oldestBalances(ctx, accounts)
		}
		timer := time.NewTimer(max(next.Sub(r.o.Now()), time.Second))
		cause, forced = "", false
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case cause = <-r.balancesNow:
			forced = true
		case <-timer.C:
		}
		timer.Stop()
	}
}

// oldestBalances returns the last success of the account that had none for the longest time: the
// sweep is no better than that. While one had none at all, nothing is reported.
func (r *Runner) oldestBalances(ctx context.Context, accounts []string) {
	var oldest time.Time
	for _, account := range accounts {
		copied, err := r.store.Sweep(ctx, account, SweepBackfill)
		if err != nil {
			return
		}
		sweep, err := r.store.Sweep(ctx, account, SweepBalances)
		if err != nil {
			return
		}
		last := sweep.LastSuccess
		if !copied.LastSuccess.IsZero() && copied.StartedAt.After(last) {
			last = copied.StartedAt // it began by reading every balance
		}
		if last.IsZero() {
			return
		}
		if oldest.IsZero() || last.Before(oldest) {
			oldest = last
		}
	}
	r.m.lastSuccess.WithLabelValues(SweepBalances).Set(float64(oldest.Unix()))
}

// sweepBalances makes a pass over an account where one is due, and returns when
// the next one is. An account without a first copy has nothing to compare.
func (r *Runner) sweepBalances(ctx context.Context, account, cause string, forced bool) (due time.Time, err error) {
	now := r.o.Now()
	copied, err := r.store.Sweep(ctx, account, SweepBackfill)
	if err != nil || copied.LastSuccess.IsZero() {
		return now.Add(copyInterval), err
	}
	sweep, err := r.store.Sweep(ctx, account, SweepBalances)
	if err != nil {
		return now, err
	}
	last := sweep.LastSuccess
	if copied.StartedAt.After(last) {
		last = copied.StartedAt // it began by reading every balance
	}
	if due = last.Add(r.o.BalancesInterval); due.After(now) && !forced {
		return due, nil
	}
	var result BalancesResult
	err = r.called(ctx, account, SweepBalances, func(ctx context.Context) (err error) {
		result, err = r.o.Balances.Run(ctx, account, cause)
		return err
	})
	r.count(result.Opened)
	if err != nil {
		return now, err
	}
	r.o.Log.Info("balances compared", zap.String("account", account), zap.Int64("customers", result.Customers),
		zap.Int64("grants", result.Grants), zap.Int("findings", len(result.Findings)))
	return now.Add(r.o.BalancesInterval), nil
}

// scrubLoop asks for full reads as they come due.
func (r *Runner) scrubLoop(ctx context.Context) {
	if r.o.Scrub == nil {
		return
	}
	for {
		accounts, err := r.accounts(ctx)
		ok := err == nil
		var successes []time.Time
		for _, account := range accounts {
			last, err := r.scrub(ctx, account)
			if err != nil { // the others go on
				ok = false
				r.failed(ctx, SweepScrub, account, err)
			}
			successes = append(successes, last)
		}
		if err != nil {
			r.failed(ctx, SweepScrub, "", err)
		}
		if ok {
			r.progress(SweepScrub)
			if last := slices.MinFunc(successes, time.Time.Compare); !last.IsZero() {
				r.m.lastSuccess.WithLabelValues(SweepScrub).Set(float64(last.Unix()))
			}
		}
		if backoff.Sleep(ctx, min(scrubTick, r.o.Scrub.o.Period/20)) != nil {
			return
		}
	}
}

// scrub makes a step and returns when the account's scrub was last within its period;
// only one that reports makes calls of its own.
func (r *Runner) scrub(ctx context.Context, account string) (lastSuccess time.Time, err error) {
	if r.paused(SweepScrub) {
		return lastSuccess, errPaused
	}
	step := func(ctx context.Context) error {
		n, opened, err := r.o.Scrub.Step(ctx, account)
		r.m.compared.WithLabelValues(SweepScrub).Add(float64(n))
		r.count(opened)
		return err
	}
	if !r.o.Scrub.Reports() {
		err = step(ctx)
	} else {
		done, failed := r.copier.Done(ctx, account)
		if failed != nil || !done {
			return r.o.Now(), failed // there is nothing to compare yet
		}
		err = r.called(ctx, account, SweepScrub, step)
	}
	if err != nil {
		return lastSuccess, err
	}
	sweep, err := r.store.Sweep(ctx, account, SweepScrub)
	return sweep.LastSuccess, err
}

// progress notes that a sweep got a step further.
func (r *Runner) progress(sweep string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved[sweep] = r.o.Now()
}

// stallLoop reports sweeps that make no progress.
func (r *Runner) stallLoop(ctx context.Context) {
	patience := map[string]time.Duration{SweepEvents: r.o.EventsInterval}
	if r.o.Balances != nil {
		patience[SweepBalances] = r.o.BalancesInterval
	}
	if r.o.Scrub != nil {
		patience[SweepScrub] = scrubTick
	}
	for {
		r.mu.Lock()
		for sweep, interval := range patience {
			stalled := 0.0
			if r.o.Now().Sub(r.moved[sweep]) > 2*interval+2*time.Minute && !r.controls[sweep].Paused {
				stalled = 1
			}
			r.m.stalled.WithLabelValues(sweep).Set(stalled)
		}
		r.mu.Unlock()
		if backoff.Sleep(ctx, 10*time.Second) != nil {
			return
		}
	}
}
