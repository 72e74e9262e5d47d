package money

import (
	"math"
	"strconv"
	"strings"
	"testing"
)

func TestFormatAndParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		amount            int64
		currency, written string
	}{
		{0, "usd", "0.00 USD"},
		{5, "eur", "0.05 EUR"},
		{-123450, "usd", "-1,234.50 USD"},
		{1234567, "jpy", "1,234,567 JPY"},
		{-1, "krw", "-1 KRW"},
		{1500, "kwd", "1.500 KWD"},
		{-7, "bhd", "-0.007 BHD"},
		{50000, "isk", "500 ISK"},
		{50001, "ugx", "500.01 UGX"},
		{50000, "huf", "500.00 HUF"},
		{math.MaxInt64, "jpy", "9,223,372,036,854,775,807 JPY"},
	} {
		if got := Format(tt.amount, tt.currency); got != tt.written {
			t.Errorf("Format(%d, %s) = %q, want %q", tt.amount, tt.currency, got, tt.written)
		}
		plain, _, _ := strings.Cut(strings.ReplaceAll(tt.written, ",", ""), " ")
		if got, err := Parse(plain, tt.currency); got != tt.amount || err != nil {
			t.Errorf("Parse(%q, %s) = %d, %v, want %d", plain, tt.currency, got, err, tt.amount)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, currency string
		want           int64
	}{{"12", "usd", 1200}, {"12.5", "usd", 1250}, {"-0.01", "usd", -1}, {"007", "jpy", 7}, {"1.5", "kwd", 1500}} {
		if got, err := Parse(tt.text, tt.currency); got != tt.want || err != nil {
			t.Errorf("Parse(%q, %s) = %d, %v, want %d", tt.text, tt.currency, got, err, tt.want)
		}
	}
	for _, tt := range [][2]string{
		{"", "usd"},
		{"-", "usd"},
		{".5", "usd"},
		{"5.", "usd"},
		{"1.234", "usd"},
		{"1.5", "jpy"},
		{"1.2345", "kwd"},
		{"1,000", "usd"},
		{"+1", "usd"},
		{"--1", "usd"},
		{"1e3", "usd"},
		{"1 000", "usd"},
		{"1.2.3", "usd"},
		{"1.-2", "usd"},
		{"١", "usd"},
		{"92233720368547758.08", "usd"},
	} {
		if got, err := Parse(tt[0], tt[1]); err == nil {
			t.Errorf("Parse(%q, %s) = %d, want an error", tt[0], tt[1], got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-12.50", "usd")
	f.Fuzz(func(t *testing.T, text, currency string) {
		n, err := Parse(text, currency)
		if err != nil {
			return
		}
		plain, _, _ := strings.Cut(strings.ReplaceAll(Format(n, currency), ",", ""), " ")
		if again, err := Parse(plain, currency); err != nil || again != n {
			t.Errorf("Parse(%s) = %s, written %q, which is %d, %v", strconv.Quote(text), strconv.FormatInt(n, 10), plain, again, err)
		}
	})
}
