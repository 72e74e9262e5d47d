package export

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

// FeedAge is how long records of the change feed are kept at least, and how long a
// reader that is not seen holds them back.
const FeedAge = 30 * 24 * time.Hour

const (
	tidyInterval = time.Hour
	// feedBatch is how many records one transaction deletes.
	feedBatch = 10_000
	maxBatch  = 100 // batches of one tidying
)

// Loop keeps a copy up to date until its context ends. Replicas take turns.
type Loop struct {
	exporter *Exporter
	interval time.Duration
	log      *zap.Logger
	now      func() time.Time
	tidied   time.Time
	failing  bool
	good     atomic.Int64 // when a look last succeeded, in nanoseconds

	runs     *prometheus.CounterVec
	rows     *prometheus.CounterVec
	bytes    prometheus.Counter
	seconds  prometheus.Histogram
	success  prometheus.Gauge
	newest   prometheus.Gauge
	unproven prometheus.Gauge
}

// NewLoop makes a loop with metrics of its own.
func NewLoop(e *Exporter, interval time.Duration, r prometheus.Registerer) *Loop {
	f := promauto.With(r)
	l := &Loop{
		exporter: e, interval: interval, log: e.options.Log, now: e.options.Now,
		runs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_export_runs_total", Help: "Checks for changes, by outcome: full, incremental, unchanged, failed.",
		}, []string{"outcome"}),
		rows: f.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_export_rows_total", Help: "Rows of published generations, by table.",
		}, []string{"table"}),
		bytes: f.NewCounter(prometheus.CounterOpts{
			Name: "creditmirror_export_bytes_total", Help: "Bytes of the files of published generations.",
		}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "creditmirror_export_duration_seconds", Help: "Time that one look took, the export included.",
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800},
		}),
		success: f.NewGauge(prometheus.GaugeOpts{
			Name: "creditmirror_export_last_success_timestamp_seconds", Help: "When the copy was last known to hold everything; 0 before the first time.",
		}),
		newest: f.NewGauge(prometheus.GaugeOpts{
			Name: "creditmirror_export_last_generation", Help: "The newest generation that this process published.",
		}),
		unproven: f.NewGauge(prometheus.GaugeOpts{
			Name: "creditmirror_export_unproven_customers", Help: "Customers of the newest generation with an incomplete history.",
		}),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "creditmirror_export_lag_seconds", Help: "Age of the copy: the time since it was last known to hold everything, or since the start.",
	}, func() float64 { return l.now().Sub(time.Unix(0, l.good.Load())).Seconds() })
	l.good.Store(l.now().UnixNano())
	for _, outcome := range []string{KindFull, KindIncremental, "unchanged", "failed"} {
		l.runs.WithLabelValues(outcome)
	}
	return l
}

// Run looks at once and then at every interval.
func (l *Loop) Run(ctx context.Context) error {
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	for {
		l.look(ctx)
		l.tidy(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look exports what has changed.
func (l *Loop) look(ctx context.Context) {
	began := l.now()
	result, err := l.exporter.Run(ctx)
	if ctx.Err() != nil {
		return
	}
	l.seconds.Observe(l.now().Sub(began).Seconds())
	if err != nil {
		l.runs.WithLabelValues("failed").Inc()
		if !l.failing { // logged once until it works again; the metric counts
			l.log.Error("export failed; it is retried every interval", zap.String("location", l.exporter.location.String()), zap.Error(err))
		}
		l.failing = true
		return
	}
	if l.failing {
		l.failing = false
		l.log.Info("export works again", zap.String("location", l.exporter.location.String()))
	}
	l.good.Store(began.UnixNano())
	l.success.Set(float64(began.UnixMilli()) / 1000)
	if result.Manifest == nil {
		l.runs.WithLabelValues("unchanged").Inc()
		return
	}
	m := result.Manifest
	l.runs.WithLabelValues(m.Kind).Inc()
	l.newest.Set(float64(m.Generation))
	l.unproven.Set(float64(m.UnprovenCustomers))
	for name, t := range m.Tables {
		l.rows.WithLabelValues(name).Add(float64(t.Rows))
	}
	for _, f := range m.Files {
		l.bytes.Add(float64(f.Bytes))
	}
	fields := []zap.Field{zap.Int64("generation", m.Generation), zap.Int64("rows", m.rows()), zap.Duration("duration", result.Ended.Sub(result.Began))}
	if m.Kind == KindFull {
		l.log.Info("full export published", append(fields, zap.String("reason", result.Why))...)
		return
	}
	l.log.Debug("export published", fields...)
}

// tidy prunes the feed behind its readers, and removes what killed exports left.
func (l *Loop) tidy(ctx context.Context) {
	if l.now().Sub(l.tidied) < tidyInterval {
		return
	}
	l.tidied = l.now()
	if err := PruneFeed(ctx, l.exporter.mirror, func(c mirror.FeedCursor) {
		l.log.Warn("change feed reader has not read for long; its records are no longer kept",
			zap.String("reader", c.Name), zap.Time("seen_at", c.SeenAt))
	}); err != nil && ctx.Err() == nil {
		l.log.Warn("could not prune the change feed", zap.Error(err))
	}
	if l.exporter.location.Postgres() {
		return
	}
	if err := removeLeftovers(ctx, l.exporter.location, l.now()); err != nil && ctx.Err() == nil {
		l.log.Warn("could not remove files of killed exports", zap.Error(err))
	}
}

// PruneFeed deletes records of the feed that are old and read by everybody.
// forgotten is called for each reader that no longer counts.
func PruneFeed(ctx context.Context, m mirror.Feed, forgotten func(mirror.FeedCursor)) error {
	for range maxBatch {
		n, gone, err := m.PruneFeed(ctx, FeedAge, feedBatch)
		if err != nil {
			return err
		}
		for _, c := range gone {
			forgotten(c)
		}
		if n < feedBatch {
			return nil
		}
	}
	return nil
}

// removeLeftovers is the part of Prune that loses nothing.
func removeLeftovers(ctx context.Context, l Location, now time.Time) (err error) {
	p, err := l.openPlace(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	c, err := readChain(ctx, p)
	if err != nil {
		return err
	}
	return c.unlisted(ctx, func(o object) error {
		if now.Sub(o.changed) < leftover {
			return nil
		}
		return p.remove(ctx, o.key)
	})
}
