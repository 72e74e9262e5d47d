// Package money writes and reads amounts as people do, in Stripe's currencies: 1250
// of usd is "12.50 USD". It is the one place that knows what the amounts of a currency
// are counted in.
package money

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// currencies are those that Stripe supports.
var currencies = strings.Fields(`
aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd btn bwp byn byr bzd
cad cdf chf clf clp cny cop crc cuc cup cve czk djf dkk dop dzd egp ern etb eur fjd fkp gbp gel ghs gip gmd gnf gtq gyd
hkd hnl hrk htg huf idr ils inr iqd irr isk jmd jod jpy kes kgs khr kmf kpw krw kwd kyd kzt lak lbp lkr lrd lsl ltl lvl lyd
mad mdl mga mkd mmk mnt mop mro mru mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg
qar ron rsd rub rwf sar sbd scr sdg sek sgd shp sle sll sos srd ssp std stn svc syp szl thb tjs tmt tnd top try ttd twd tzs
uah ugx usd usdc uyu uzs vef ves vnd vuv wst xaf xag xau xcd xcg xdr xof xpf yer zar zmk zmw zwg zwl btc`)

// Known reports whether there is a currency of this code, in lower case.
func Known(code string) bool { return slices.Contains(currencies, code) }

// What amounts of a currency are counted in (Stripe's list). All others have two
// decimals, the forint and the Taiwan dollar among them, which are whole in payouts
// alone.
var (
	zeroDecimal  = strings.Fields(`bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf`)
	threeDecimal = strings.Fields(`bhd jod kwd omr tnd`)
	// wholeUnits have no smaller unit, but Stripe counts them in hundredths.
	wholeUnits = strings.Fields(`isk ugx`)
)

// Decimals is how many digits of an amount lie behind the point.
func Decimals(currency string) int {
	switch {
	case slices.Contains(zeroDecimal, currency):
		return 0
	case slices.Contains(threeDecimal, currency):
		return 3
	}
	return 2
}

// Format writes an amount, in the currency's smallest unit, for people and with its
// currency: "-1,234.50 USD".
func Format(amount int64, currency string) string {
	digits := strings.TrimPrefix(strconv.FormatInt(amount, 10), "-")
	decimals := Decimals(currency)
	if missing := decimals + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	whole, rest := digits[:len(digits)-decimals], digits[len(digits)-decimals:]
	if slices.Contains(wholeUnits, currency) && strings.Trim(rest, "0") == "" {
		rest = ""
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		whole += "." + rest
	}
	if amount < 0 {
		whole = "-" + whole
	}
	return whole + " " + strings.ToUpper(currency)
}

// Parse reads an amount that was written without its currency, such as "12.5" or
// "-3", and returns it in the currency's smallest unit. More decimals than the
// currency has are an error, and so are separators of thousands, which are points in
// some countries.
func Parse(text, currency string) (int64, error) {
	digits, negative := strings.CutPrefix(text, "-")
	whole, rest, point := strings.Cut(digits, ".")
	decimals := Decimals(currency)
	if whole == "" || point && rest == "" || strings.Trim(whole+rest, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not an amount such as 12.50", text)
	}
	if len(rest) > decimals {
		return 0, fmt.Errorf("%q has more than the %d decimals of %s", text, decimals, strings.ToUpper(currency))
	}
	n, err := strconv.ParseInt(whole+rest+strings.Repeat("0", decimals-len(rest)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is too large an amount", text)
	}
	if negative {
		n = -n
	}
	return n, nil
}
