package webhook

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/creditmirror/creditmirror/mirror"
)

type metrics struct {
	requests        *prometheus.CounterVec
	duration        prometheus.Histogram
	events          *prometheus.CounterVec
	skew            prometheus.Gauge
	versionMismatch prometheus.Counter

	types map[string]bool
}

// otherType is the label of every type that is not of interest: a sender must not
// be able to make labels.
const otherType = "other"

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_webhook_requests_total",
			Help: "Requests on the webhook address by the code they were answered with and why.",
		}, []string{"code", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "creditmirror_webhook_request_duration_seconds",
			Help:    "Time from a request's header to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 2.5, 5, 10, 15},
		}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_events_total",
			Help: "Verified events that were answered with 200, by type and outcome.",
		}, []string{"type", "outcome"}),
		skew: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "creditmirror_webhook_clock_skew_seconds",
			Help: "This host's clock minus the time in the last verified signature.",
		}),
		versionMismatch: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "creditmirror_webhook_api_version_mismatch_total",
			Help: "Events taken whose api_version is not the one that reads are pinned to.",
		}),
		types: make(map[string]bool),
	}
	// All known series exist from the start, so that the first increase counts as one.
	for _, a := range constantAnswers {
		m.requests.WithLabelValues(strconv.Itoa(a.code), a.word)
	}
	for _, t := range append(mirror.EventTypes(), otherType) {
		m.types[t] = true
		for _, a := range eventAnswers {
			m.events.WithLabelValues(t, a.word)
		}
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.events, m.skew, m.versionMismatch} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("webhook: register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) answered(a answer, took time.Duration) {
	m.requests.WithLabelValues(strconv.Itoa(a.code), a.word).Inc()
	m.duration.Observe(took.Seconds())
}

func (m *metrics) event(eventType string, a answer) {
	if !m.types[eventType] {
		eventType = otherType
	}
	m.events.WithLabelValues(eventType, a.word).Inc()
}
