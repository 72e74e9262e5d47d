package doors

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Outcome is what became of a connection.
type Outcome string

// The outcomes.
const (
	OutcomeFinished Outcome = "finished"        // ended by its peer, or by a timeout
	OutcomeReading  Outcome = "evicted_reading" // closed for another: its request did not arrive
	OutcomeIdle     Outcome = "evicted_idle"    // closed for another between two requests
	OutcomeShare    Outcome = "evicted_share"   // closed since its address had too many
	OutcomeRefused  Outcome = "refused"         // all others were at work
)

// Metrics count connections by what became of them. Its methods do nothing on nil.
type Metrics struct {
	conns *prometheus.GaugeVec
	total *prometheus.CounterVec
}

// NewMetrics registers the metrics, for all listeners.
func NewMetrics(r prometheus.Registerer, listeners ...string) (*Metrics, error) {
	m := &Metrics{
		conns: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "creditmirror_connections_open", Help: "Connections that are open, by listener.",
		}, []string{"listener"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_connections_total", Help: "Connections by listener and what became of them.",
		}, []string{"listener", "outcome"}),
	}
	for _, l := range listeners {
		m.conns.WithLabelValues(l)
		for _, o := range []Outcome{OutcomeFinished, OutcomeReading, OutcomeIdle, OutcomeShare, OutcomeRefused} {
			m.total.WithLabelValues(l, string(o))
		}
	}
	for _, c := range []prometheus.Collector{m.conns, m.total} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("doors: register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) open(listener string, open int) {
	if m != nil {
		m.conns.WithLabelValues(listener).Set(float64(open))
	}
}

func (m *Metrics) closed(listener string, o Outcome) {
	if m != nil {
		m.total.WithLabelValues(listener, string(o)).Inc()
	}
}
