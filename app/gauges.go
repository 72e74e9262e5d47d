package app

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/worker"
)

const (
	queueGaugeInterval  = 2 * time.Second
	mirrorGaugeInterval = 15 * time.Second
)

// gauges are the metrics that are read from the queue and the mirror instead of
// being counted as things happen.
type gauges struct {
	parts *Parts
	gate  *worker.Gate
	log   *zap.Logger

	targets     *prometheus.GaugeVec
	oldestReady prometheus.Gauge
	oldestLive  prometheus.Gauge
	rows        *prometheus.GaugeVec
	balance     *prometheus.GaugeVec
	driftOpen   *prometheus.GaugeVec
	driftAmount *prometheus.GaugeVec
	pending     prometheus.Gauge
	refused     prometheus.Gauge
	lacking     prometheus.Gauge
	silent      *prometheus.GaugeVec
	failures    *prometheus.CounterVec
}

func newGauges(r prometheus.Registerer, p *Parts, gate *worker.Gate, log *zap.Logger) *gauges {
	f := promauto.With(r)
	vec := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return f.NewGaugeVec(prometheus.GaugeOpts{Name: "creditmirror_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "creditmirror_" + name, Help: help})
	}
	g := &gauges{
		parts: p, gate: gate, log: log,
		targets:     vec("queue_targets", "Targets in the queue by state.", "state"),
		oldestReady: gauge("queue_oldest_ready_seconds", "How long the target that waits longest has been due."),
		// Sweeps and first copies may wait for hours by design; alarms and autoscaling
		// look at what an event asked for.
		oldestLive:  gauge("queue_oldest_live_seconds", "How long the target that waits longest because of an event has been due."),
		rows:        vec("mirror_rows", "Rows per table of the mirror.", "table"),
		balance:     vec("mirror_balance_minor_units", "Sum over all customers, in minor units: balance in Stripe's sign (negative = credit), credits positive = credit left.", "ledger", "currency"),
		driftOpen:   vec("drift_open", "Differences found and not yet proven gone, by kind.", "kind"),
		driftAmount: vec("drift_minor_units", "Sum of the absolute open differences, in minor units.", "currency"),
		pending:     gauge("inbox_pending_events", "Events in the inbox that no sync has answered yet."),
		refused:     gauge("stripe_accounts_refused", "Accounts whose key Stripe refuses, so that they are not called."),
		lacking:     gauge("stripe_permissions_missing", "Permissions that the Stripe key lacks, over all accounts; the mirror continues without them."),
		silent:      vec("webhook_silent", "1 where Stripe has had events for minutes that no webhook brought, and none has arrived since, by endpoint.", "endpoint"),
		failures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_gauge_failures_total", Help: "Times that figures could not be read, by source.",
		}, []string{"source"}),
	}
	for _, source := range []string{sourceQueue, sourceMirror} {
		g.failures.WithLabelValues(source) // so that the first failure counts as an increase
	}
	return g
}

// Where figures are read from.
const (
	sourceQueue  = "queue"
	sourceMirror = "mirror"
)

func (g *gauges) loop(ctx context.Context) {
	queueTick, mirrorTick := time.NewTicker(queueGaugeInterval), time.NewTicker(mirrorGaugeInterval)
	defer queueTick.Stop()
	defer mirrorTick.Stop()
	g.readQueue(ctx)
	g.readMirror(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-queueTick.C:
			g.readQueue(ctx)
		case <-mirrorTick.C:
			g.readMirror(ctx)
		}
	}
}

func (g *gauges) readQueue(ctx context.Context) {
	g.refused.Set(float64(g.gate.Refusals()))
	s, err := g.parts.Queue.Stats(ctx)
	if err != nil {
		g.failed(ctx, sourceQueue, err)
		return
	}
	g.targets.WithLabelValues("ready").Set(float64(s.ReadyLive + s.ReadySweep))
	g.targets.WithLabelValues("delayed").Set(float64(s.Delayed))
	g.targets.WithLabelValues("leased").Set(float64(s.Leased))
	g.oldestReady.Set(s.OldestReady.Seconds())
	g.oldestLive.Set(s.OldestLive.Seconds())
}

func (g *gauges) readMirror(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, mirrorGaugeInterval)
	defer cancel()
	if states, err := reconcile.WebhookStates(ctx, g.parts.Store); err != nil {
		g.failed(ctx, "webhooks", err)
	} else {
		for _, s := range states {
			v := 0.0
			if s.Silent {
				v = 1
			}
			g.silent.WithLabelValues(string(s.Endpoint)).Set(v)
		}
	}
	if limits, err := reconcile.AllLimits(ctx, g.parts.Store); err != nil {
		g.failed(ctx, sourceMirror, err)
	} else {
		g.lacking.Set(float64(len(limitStatus(limits, g.parts.ledgers()))))
	}
	t, err := g.parts.Store.Totals(ctx)
	if err != nil {
		g.failed(ctx, sourceMirror, err)
		return
	}
	g.targets.WithLabelValues("dead").Set(float64(t.DeadLetters))
	g.pending.Set(float64(t.PendingEvents))
	for table, n := range t.Rows {
		g.rows.WithLabelValues(table).Set(float64(n))
	}
	g.balance.Reset() // a currency may have gone
	for _, s := range append(totalsOf("balance", t.Balances), totalsOf("credits", t.Credits)...) {
		g.balance.WithLabelValues(s.Ledger, s.Currency).Set(float64(s.Amount))
	}
	g.driftOpen.Reset()
	for kind, n := range t.DriftOpen {
		g.driftOpen.WithLabelValues(string(kind)).Set(float64(n))
	}
	g.driftAmount.Reset()
	for currency, n := range t.DriftAmount {
		g.driftAmount.WithLabelValues(currency).Set(float64(n))
	}
}

func (g *gauges) failed(ctx context.Context, source string, err error) {
	if ctx.Err() != nil && context.Cause(ctx) == context.Canceled {
		return
	}
	g.failures.WithLabelValues(source).Inc()
	g.log.Debug("could not read figures", zap.String("source", source), zap.Error(err))
}

// totalsOf lists sums by currency.
func totalsOf(ledger string, sums map[string]int64) []TotalStatus {
	list := make([]TotalStatus, 0, len(sums))
	for currency, amount := range sums {
		list = append(list, TotalStatus{Ledger: ledger, Currency: currency, Amount: amount})
	}
	slices.SortFunc(list, func(a, b TotalStatus) int { return cmp.Compare(a.Currency, b.Currency) })
	return list
}
