package stripeapi

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// codeNetwork is the code label of an attempt that got no whole reply.
const codeNetwork = "network"

// metrics count attempts, so that retries show.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_stripe_requests_total",
			Help: "Requests to Stripe by endpoint and HTTP status, retries included; code network is a request without a whole reply.",
		}, []string{"endpoint", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "creditmirror_stripe_request_duration_seconds",
			Help:    "Time from sending a request to Stripe to the last byte of its reply.",
			Buckets: []float64{.01, .025, .05, .1, .2, .4, .8, 1.5, 3, 6, 12, 24},
		}, []string{"endpoint"}),
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(register(r, &m.requests), register(r, &m.duration))
}

// register uses the collector that another client has registered already.
func register[C prometheus.Collector](r prometheus.Registerer, c *C) error {
	err := r.Register(*c)
	if are, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		held, same := are.ExistingCollector.(C)
		if !same {
			return fmt.Errorf("register stripe metrics: %w", err)
		}
		*c = held
		return nil
	}
	if err != nil {
		return fmt.Errorf("register stripe metrics: %w", err)
	}
	return nil
}

func (m *metrics) observe(endpoint string, status int, took time.Duration) {
	code := codeNetwork
	if status != 0 {
		code = strconv.Itoa(status)
	}
	m.requests.WithLabelValues(endpoint, code).Inc()
	m.duration.WithLabelValues(endpoint).Observe(took.Seconds())
}
