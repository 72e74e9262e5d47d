package mirrortest

import (
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

// RunBooks runs the suite of report.Books, report.Sealer and report.DayTable, which every
// driver of the books keeps. open is as in Run.
func RunBooks(t *testing.T, open func(t *testing.T) mirror.Store) {
	t.Helper()
	runCases(t, open, []testCase{
		{"DaysEqualTheRows", daysEqualRows},
		{"DaysOverflow", daysOverflow},
		{"DaysBehind", daysBehind},
		{"DaysProven", daysProven},
		{"ChainsProven", chainsProven},
		{"ChainsFollowed", chainsFollowed},
		{"ChainsCounted", chainsCounted},
		{"ReaderAddsUp", readerAddsUp},
		{"FirstRowMissing", firstRowMissing},
		{"SumsAtTheEnds", sumsAtTheEnds},
		{"CustomersAtTheEnds", customersAtTheEnds},
		{"GrantsAtTheEnds", grantsAtTheEnds},
		{"TablesAtTheEnds", tablesAtTheEnds},
		{"SinceTellsArrivals", sinceTellsArrivals},
		{"SealsAreKept", sealsAreKept},
	})
}
