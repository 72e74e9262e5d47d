package worker

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	syncs       *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	freshness   prometheus.Histogram
	queueErrors prometheus.Counter
	panics      prometheus.Counter
	deadLetters prometheus.Counter
	lapsed      prometheus.Counter
	reaped      prometheus.Counter
	repaired    prometheus.Counter
	driftFound  *prometheus.CounterVec
	driftFixed  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "creditmirror_" + name, Help: help})
	}
	return &metrics{
		syncs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_sync_total", Help: "Syncs by scope and outcome.",
		}, []string{"scope", "outcome"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "creditmirror_sync_duration_seconds", Help: "Time of one sync, from the claim to the commit.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 15),
		}, []string{"scope"}),
		freshness: f.NewHistogram(prometheus.HistogramOpts{
			Name: "creditmirror_freshness_seconds", Help: "From the creation of an event at Stripe (whole seconds) to the commit of what it announced.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400},
		}),
		queueErrors: counter("queue_errors_total", "Claims that the queue did not answer."),
		panics:      counter("sync_panics_total", "Panics in a sync, recovered."),
		deadLetters: counter("dead_letters_total", "Targets that became dead letters."),
		lapsed:      counter("claims_lapsed_total", "Claims that could not be completed and were left to their lease."),
		reaped:      counter("leases_reaped_total", "Leases that expired, whose targets returned to the queue."),
		repaired:    counter("queue_repaired_total", "Targets that had lost their place in the queue and were put back."),
		driftFound:  shared(r, "creditmirror_drift_found_total", "Differences found, by kind."),
		driftFixed:  shared(r, "creditmirror_drift_repaired_total", "Differences proven gone, by kind."),
	}
}

// shared is a counter by kind that several packages count in: the sweeps find,
// syncs find and repair.
func shared(r prometheus.Registerer, name, help string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"kind"})
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
