package api

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count what the API answers, by operation: a path with {id} in the place of
// ids, so that neither callers nor ids make labels.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	partial  prometheus.Counter
}

// otherRoute is the label of what was refused before it was known what is asked, and
// of paths that are not served.
const otherRoute = "other"

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_api_requests_total",
			Help: "Requests of the API by method, route and the code they were answered with.",
		}, []string{"method", "route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "creditmirror_api_request_duration_seconds",
			Help: "Time from a request's header to its answer, by method and route. Reads of changes wait for some.",
			// What is not in the mirror is milliseconds; a write takes what Stripe takes.
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30},
		}, []string{"method", "route"}),
	}
	m.partial = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "creditmirror_api_summaries_partial_total",
		Help: "Credit balance summaries that left out grants in custom pricing units, which no currency counts.",
	})
	// Known series exist from the start, so that the first increase counts as one.
	for _, rt := range routes {
		m.requests.WithLabelValues(rt.method, rt.name, strconv.Itoa(http.StatusOK))
		m.duration.WithLabelValues(rt.method, rt.name)
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.partial} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("api: register metrics: %w", err)
		}
	}
	return m, nil
}

// partly counts a summary that leaves grants out. It does nothing on nil.
func (m *Metrics) partly() {
	if m != nil {
		m.partial.Inc()
	}
}

// answered counts a request; rt is nil where none was found. It does nothing on nil.
func (m *Metrics) answered(rt *route, status int, took time.Duration) {
	if m == nil {
		return
	}
	method, name := otherRoute, otherRoute
	if rt != nil {
		method, name = rt.method, rt.name
		m.duration.WithLabelValues(method, name).Observe(took.Seconds())
	}
	m.requests.WithLabelValues(method, name, strconv.Itoa(status)).Inc()
}
