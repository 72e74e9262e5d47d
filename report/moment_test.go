package report

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// Days and months begin where their place says, across leap days and clock changes,
// also where midnight is skipped or struck twice.
func TestDaysBegin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ zone, day, want string }{
		{"UTC", "2024-02-29", "2024-02-29T00:00:00Z"},
		{"Europe/Berlin", "2025-03-30", "2025-03-29T23:00:00Z"}, // 23 hours long
		{"Europe/Berlin", "2025-03-31", "2025-03-30T22:00:00Z"},
		{"Europe/Berlin", "2025-10-27", "2025-10-26T23:00:00Z"},
		{"America/New_York", "2024-03-11", "2024-03-11T04:00:00Z"},
		{"Asia/Kolkata", "2025-01-01", "2024-12-31T18:30:00Z"},
		{"America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z"}, // clocks go from 0 to 1
		{"America/Havana", "2024-11-03", "2024-11-03T04:00:00Z"},    // clocks go from 1 back to 0
		{"Asia/Beirut", "2024-03-31", "2024-03-30T22:00:00Z"},       // clocks go from 0 to 1
	} {
		got, err := ParseBound(tt.day, zone(t, tt.zone))
		if err != nil || got.Format(time.RFC3339) != tt.want {
			t.Errorf("%s in %s begins at %s, want %s: %v", tt.day, tt.zone, got.Format(time.RFC3339), tt.want, err)
		}
	}
}

// An as-of that is printed reads back as the same moment.
func TestAsOfReadsBack(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"2025-06-30": "2025-06-30T23:59:59Z", "2024-02-29": "2024-02-29T23:59:59Z", "2025-06-30T12:00:00Z": "2025-06-30T12:00:00Z",
		"2025-06-30T12:00:00.9+02:00": "2025-06-30T10:00:00Z", "2025-12-31": "2025-12-31T23:59:59Z",
	} {
		until, err := ParseAsOf(s, time.UTC)
		again, errAgain := ParseAsOf(AsOf(until).Format(time.RFC3339), zone(t, "Asia/Tokyo"))
		if err != nil || errAgain != nil || AsOf(until).Format(time.RFC3339) != want || !again.Equal(until) {
			t.Errorf("%s: %s, want %s; read back %s", s, AsOf(until).Format(time.RFC3339), want, again)
		}
	}
	for _, s := range []string{"", "2025-02-29", "2025-13-01", "yesterday", "2025-06-30 12:00", "1969-12-30", "9999-12-31", "20250630"} {
		if until, err := ParseAsOf(s, time.UTC); err == nil {
			t.Errorf("%q is no time, and reads as %s", s, until)
		}
	}
}

func TestPeriods(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	at := func(s string) time.Time {
		b, err := ParseBound(s, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	bounds, err := Periods(at("2024-01-31T12:00:00Z"), at("2024-04-02"), ByMonth, berlin)
	want := []time.Time{at("2024-01-31T12:00:00Z"), at("2024-02-01"), at("2024-03-01"), at("2024-04-01"), at("2024-04-02")}
	if err != nil || !slices.EqualFunc(bounds, want, time.Time.Equal) {
		t.Errorf("%v, want %v: %v", bounds, want, err)
	}
	days, err := Periods(at("2024-02-28"), at("2024-03-02"), ByDay, berlin)
	if err != nil || len(days) != 4 || !days[1].Equal(at("2024-02-29")) {
		t.Errorf("a leap day: %v: %v", days, err)
	}
	for _, span := range [][2]string{{"2024-02-01", "2024-02-01"}, {"2024-02-02", "2024-02-01"}} {
		if _, err := Periods(at(span[0]), at(span[1]), ByMonth, berlin); err == nil {
			t.Errorf("%v is a span", span)
		}
	}
	if _, err := Periods(at("1970-01-02"), at("2024-01-01"), ByDay, berlin); err == nil {
		t.Error("20,000 days are periods")
	}
}

func TestMoney(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		amount   int64
		currency string
		want     string
	}{
		{-123450, "usd", "-1,234.50 USD"},
		{5, "eur", "0.05 EUR"},
		{1500, "jpy", "1,500 JPY"},
		{12340, "kwd", "12.340 KWD"},
		{500, "isk", "5 ISK"},
		{1234500, "ugx", "12,345 UGX"},
		{550, "isk", "5.50 ISK"},
		{17500, "huf", "175.00 HUF"},
		{100, "twd", "1.00 TWD"},
		{0, "usd", "0.00 USD"},
		{-9223372036854775808, "usd", "-92,233,720,368,547,758.08 USD"},
		{-7, "bhd", "-0.007 BHD"},
	} {
		if got := Money(tt.amount, tt.currency); got != tt.want {
			t.Errorf("%d %s: %s, want %s", tt.amount, tt.currency, got, tt.want)
		}
	}
	for _, tt := range []struct {
		ledger Ledger
		amount int64
		want   string
	}{
		{LedgerBalance, -500, "5.00 USD credit"},
		{LedgerBalance, 500, "5.00 USD owed"},
		{LedgerCredits, 500, "5.00 USD credit"},
		{LedgerCredits, -500, "5.00 USD overdrawn"},
		{LedgerBalance, 0, "0.00 USD nothing"},
	} {
		if got := Human(tt.ledger, tt.amount, "usd"); got != tt.want {
			t.Errorf("%s %d: %s, want %s", tt.ledger, tt.amount, got, tt.want)
		}
	}
}

func TestBuckets(t *testing.T) {
	t.Parallel()
	asOf := time.Date(2026, 10, 31, 23, 59, 59, 0, time.UTC)
	day := 24 * time.Hour
	for _, tt := range []struct {
		left time.Duration
		want string
	}{
		{-time.Second, BucketExpired},
		{0, BucketExpired},
		{time.Second, "0-30"},
		{31*day - time.Second, "0-30"},
		{31 * day, "31-60"},
		{61*day - 1, "31-60"},
		{61 * day, "61-90"},
		{91*day - time.Second, "61-90"},
		{91 * day, BucketLater},
	} {
		if _, got := bucket([]int{30, 60, 90}, asOf.Add(tt.left), asOf); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.left, got, tt.want)
		}
	}
	if _, got := bucket([]int{30}, time.Time{}, asOf); got != BucketNever {
		t.Errorf("no expiry: %s", got)
	}
	for _, s := range []string{"", "30,30", "60,30", "x", "0", "-1", "30,"} {
		if days, err := ParseBuckets(s); err == nil {
			t.Errorf("%q reads as %v", s, days)
		}
	}
}

// What came later can be taken out of a digest again, in any order.
func TestDigestAddsUp(t *testing.T) {
	t.Parallel()
	var sum digest
	rows := []Row{{ID: "a", Amount: 1}, {ID: "b", Amount: -1}, {ID: "c"}}
	for _, r := range rows {
		sum = sum.plus(movementDigest(LedgerBalance, r))
	}
	for _, i := range []int{1, 2} {
		sum = sum.minus(movementDigest(LedgerBalance, rows[i]))
	}
	if want := movementDigest(LedgerBalance, rows[0]); sum != want || sum == movementDigest(LedgerCredits, rows[0]) {
		t.Errorf("%s, want %s", sum, want)
	}
}

// Entries: rows count from their date or their grant's, none after a deletion, which
// releases what was held.
func TestEntries(t *testing.T) {
	t.Parallel()
	at := func(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }
	rows := []Row{
		{Currency: "eur", ID: "1", Amount: 10, Dated: at(1)},
		{Currency: "eur", ID: "2", Amount: 20, Dated: at(2), EffectiveFrom: at(5)}, // pending until the fifth
		{Currency: "eur", ID: "3", Amount: -4, Dated: at(3)},
		{Currency: "eur", ID: "4", Amount: 7, Dated: at(9)},
		{Currency: "usd", ID: "5", Amount: 1, Dated: at(2), EffectiveFrom: at(30)},
	}
	all := func(yield func(Row, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
	for _, tt := range []struct {
		standing Standing
		dating   Dating
		until    time.Time
		want     string
	}{
		{Standing{}, ByLedger, at(31), "1:10 3:-4 2:20 4:7 5:1"},
		{Standing{}, ByLedger, at(5), "1:10 3:-4"},
		{Standing{}, ByCreated, at(5), "1:10 2:20 3:-4 5:1"},
		{Standing{DeletedAt: at(6)}, ByLedger, at(31), "1:10 3:-4 2:20 :-26"},
		{Standing{DeletedAt: at(3)}, ByLedger, at(31), "1:10 3:-4 :-6"}, // in the second of the deletion
		{Standing{DeletedAt: at(6)}, ByLedger, at(6), "1:10 3:-4 2:20"},
	} {
		var got []string
		for r, err := range Entries(LedgerBalance, tt.standing, tt.dating, tt.until, all) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r.ID+":"+Money(r.Amount, "jpy")[:len(Money(r.Amount, "jpy"))-4])
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%+v until %s: %s, want %s", tt.standing, tt.until, s, tt.want)
		}
	}
}
