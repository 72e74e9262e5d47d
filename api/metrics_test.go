package api

import (
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetricsOfRequests(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	metrics, err := NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewMetrics(registry); err == nil {
		t.Error("registered twice")
	}
	// reported are the series that count something, and how many series there are in all.
	told := func() (counts map[string]float64, series int) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counts = map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				series++
				name := strings.TrimPrefix(f.GetName(), "creditmirror_api_")
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				if n := m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()); n > 0 {
					counts[name] = n
				}
			}
		}
		return counts, series
	}
	if counts, series := told(); len(counts) != 0 || series != 2*len(routes)+1 {
		t.Errorf("before the first request %v, %d series, want two of each of the %d routes, and that of partial answers", counts, series, len(routes))
	}
	h := New(Options{Reader: world(t), Keys: keysOf([]testKey{{Secret: "key-of-the-test"}}...), Metrics: metrics})
	key := []string{"Authorization", "Bearer key-of-the-test"}
	for _, target := range []string{pathBalance, pathBalance, "/v1/customers/cus_unknown", "/v1/customers?limit=x", "/v1/charges", "/v1/cus_1/cus_2"} {
		serve(h, local("GET", target, key...))
	}
	serve(h, local("POST", pathTxns, key...))
	serve(h, local("BREW", pathBalance, key...))
	serve(h, local("GET", pathBalance))
	want := map[string]float64{
		"requests_total 200 GET /v1/customers/{id}": 2, "requests_total 404 GET /v1/customers/{id}": 1, "requests_total 400 GET /v1/customers": 1,
		"requests_total 404 other other": 3, "requests_total 403 other other": 1, "requests_total 401 other other": 1,
		"request_duration_seconds GET /v1/customers/{id}": 3, "request_duration_seconds GET /v1/customers": 1,
	}
	if counts, _ := told(); !maps.Equal(counts, want) {
		t.Errorf("counted %v, want %v", counts, want)
	}
}
