package mirrortest

import (
	"fmt"
	"testing"

	"github.com/creditmirror/creditmirror/report"
)

// firstRowMissing: a chain that does not begin with nothing is told, whatever its
// numbers: 3 and -297 have -300 in common with the sum of the rows that are left.
func firstRowMissing(t *testing.T, h *Harness) {
	for opening := int64(-40); opening <= 40; opening++ {
		l := newLedger("", fmt.Sprintf("cus_M%02d", opening+40))
		l.add("eur", opening)
		for range 3 {
			l.add("eur", -100)
		}
		l.sync(t, h)
	}
	h.exec(t, `DELETE FROM `+rowsTable+` WHERE chain_position = 1`)
	end := epoch0.AddDate(1, 0, 0)
	books, ok := h.Store.(report.Books)
	if !ok {
		t.Fatalf("%T has no books", h.Store)
	}
	noErr(t, books.Books(t.Context(), func(r report.Reader) error {
		totals, err := r.Totals(t.Context(), report.LedgerBalance, report.Filter{}, report.ByLedger, end)
		if err != nil || len(totals) != 1 || totals[0].Differing != 80 || totals[0].Amount != report.Of(-300*81) {
			t.Errorf("totals are %+v, %v: want 80 that differ", totals, err)
		}
		for s, err := range r.Sums(t.Context(), report.LedgerBalance, report.Filter{}, report.ByLedger, end, false) {
			noErr(t, err)
			var opening int64
			if _, err := fmt.Sscanf(s.Customer, "cus_M%d", &opening); err != nil || s.Amount != report.Of(-300) || s.End != opening-40-300 {
				t.Errorf("sum %+v, %v", s, err)
			}
		}
		return nil
	}))
}
