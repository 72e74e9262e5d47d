package app

import (
	"net/url"
	"os"
	"slices"
	"testing"
	"time"
)

// TestWriteThroughAdds measures what a write through the mirror takes longer than
// one at the simulator itself, which answers in no time: make bench-api runs it.
func TestWriteThroughAdds(t *testing.T) {
	if os.Getenv("CREDITMIRROR_BENCH_API") == "" {
		t.Skip("CREDITMIRROR_BENCH_API is not set: make bench-api measures the API")
	}
	for _, postgres := range []bool{false, true} {
		s := serveAPI(t, servedOptions{sim: ordered, postgres: postgres})
		cus := s.customer()
		path := "/v1/customers/" + cus + "/balance_transactions"
		row := s.post(path, balanceForm("-1")).id(t)
		grant := s.post("/v1/billing/credit_grants", grantForm(cus, "100")).id(t)
		for _, c := range []struct {
			name, path string
			form       url.Values
		}{
			{"new transaction", path, balanceForm("-1")},
			{"edit of a transaction", path + "/" + row, url.Values{"description": {"x"}}},
			{"edit of a grant", "/v1/billing/credit_grants/" + grant, url.Values{"metadata[a]": {"b"}}},
		} {
			through, direct := make([]time.Duration, 500), make([]time.Duration, 500)
			for i := range through {
				began := time.Now()
				s.post(c.path, c.form).id(t)
				through[i] = time.Since(began)
				began = time.Now()
				s.stripe("POST", "/v1/customers/"+cus, url.Values{"description": {"x"}}).id(t) // a write that is not on the ledger
				direct[i] = time.Since(began)
			}
			slices.Sort(through)
			slices.Sort(direct)
			p50, p99 := through[250]-direct[250], through[495]-direct[495]
			t.Logf("postgres %v, %-22s adds p50 %s, p99 %s", postgres, c.name, p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond))
			if p50 > 5*time.Millisecond {
				t.Errorf("%s adds %s, want less than 5ms", c.name, p50)
			}
		}
	}
}
