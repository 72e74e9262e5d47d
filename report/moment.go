package report

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// A moment of the past is named by the first one that no longer belongs to it: rows
// count that are dated before it. Stripe dates in whole seconds, so an instant
// includes its second, and a date its last one.

// Never is later than every row.
var Never = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

var errNoTime = errors.New("want a date such as 2026-10-31 or an instant such as 2026-10-31T12:00:00Z")

// ParseAsOf reads a moment: a date means its end in loc, an RFC 3339 instant includes
// its second.
func ParseAsOf(s string, loc *time.Location) (until time.Time, err error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return within(t.Truncate(time.Second).Add(time.Second))
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return time.Time{}, errNoTime
	}
	return within(StartOfDay(t.Year(), t.Month(), t.Day()+1, loc))
}

// ParseBound reads a bound of a span: a date means its start in loc.
func ParseBound(s string, loc *time.Location) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return within(t)
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return time.Time{}, errNoTime
	}
	return within(StartOfDay(t.Year(), t.Month(), t.Day(), loc))
}

func within(t time.Time) (time.Time, error) {
	if t = t.UTC(); t.Year() < 1970 || !t.Before(Never) {
		return time.Time{}, fmt.Errorf("%s lies outside of 1970 to 9998", t.Format(time.DateOnly))
	}
	return t, nil
}

// AsOf is the last second before a moment: printed and read back it is the same one.
func AsOf(until time.Time) time.Time { return until.Add(-time.Second).UTC() }

// Now is the moment whose last second is the current one.
func Now(t time.Time) time.Time { return t.UTC().Truncate(time.Second).Add(time.Second) }

// StartOfDay is the first instant of a day. Where clocks skip midnight it is the
// instant that they skip to, and where they strike it twice the first time.
func StartOfDay(year int, month time.Month, day int, loc *time.Location) time.Time {
	want := time.Date(year, month, day, 0, 0, 0, 0, time.UTC) // the date, normalized
	t := time.Date(year, month, day, 0, 0, 0, 0, loc)
	if before(t, want) {
		_, t = t.ZoneBounds()
	}
	for e := t.Add(-time.Hour); !before(e, want); e = e.Add(-time.Hour) {
		t = e
	}
	return t.UTC()
}

// before reports whether t lies on an earlier day than the date.
func before(t, date time.Time) bool {
	year, month, day := t.Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Before(date)
}

// By is the length of periods.
type By string

// The lengths of periods.
const (
	ByMonth By = "month"
	ByDay   By = "day"
)

// MaxPeriods bounds a roll-forward.
const MaxPeriods = 5000

// Periods cuts a span into months or days of loc: the bounds of n periods are n+1
// times. Bounds inside a period cut it.
func Periods(from, to time.Time, by By, loc *time.Location) ([]time.Time, error) {
	if !from.Before(to) {
		return nil, fmt.Errorf("--from %s is not before --to %s", from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	local := from.In(loc)
	year, month, day := local.Date()
	if by == ByMonth {
		day = 1
	}
	bounds := []time.Time{from}
	for {
		if by == ByMonth {
			month++
		} else {
			day++
		}
		next := StartOfDay(year, month, day, loc)
		if !next.Before(to) {
			return append(bounds, to), nil
		}
		if next.After(from) {
			bounds = append(bounds, next)
		}
		if len(bounds) > MaxPeriods {
			return nil, fmt.Errorf("more than %d periods: choose a shorter span, or --by month", MaxPeriods)
		}
	}
}

// Month reads a period such as 2026-10.
func Month(period string, loc *time.Location) (start, end time.Time, err error) {
	t, err := time.Parse("2006-01", period)
	if err != nil {
		return start, end, fmt.Errorf("period %q: want a month such as 2026-10", period)
	}
	start, end = StartOfDay(t.Year(), t.Month(), 1, loc), StartOfDay(t.Year(), t.Month()+1, 1, loc)
	_, err = within(start)
	_, errEnd := within(end)
	return start, end, errors.Join(err, errEnd)
}

// spanOf counts the bounds at or before a time.
func spanOf(bounds []time.Time, t time.Time) int {
	n, found := slices.BinarySearchFunc(bounds, t, time.Time.Compare)
	if found {
		n++
	}
	return n
}
