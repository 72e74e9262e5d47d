package export

import (
	"testing"
	"time"
)

// monthNumber counts as the calendar does.
func TestMonthNumber(t *testing.T) {
	for day := time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() < 2420; day = day.AddDate(0, 0, 1) {
		for _, at := range []time.Time{day, day.Add(24*time.Hour - time.Microsecond)} {
			if got, want := monthNumber(at.UnixMicro()), at.Year()*12+int(at.Month())-1; got != want {
				t.Fatalf("%s: %d, want %d", at, got, want)
			}
		}
	}
	if got := monthName(monthNumber(time.Date(2026, 11, 30, 23, 59, 59, 0, time.UTC).UnixMicro())); got != "2026-11" {
		t.Error(got)
	}
}
