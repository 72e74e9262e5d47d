package stripesim

import (
	"maps"
	"slices"
	"strings"
)

// currencies are the lower-case ISO 4217 codes that Stripe takes.
var currencies = func() map[string]string {
	const codes = `usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf
chf clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel ghs gip gmd gnf gtq gyd hkd hnl hrk htg huf idr ils inr isk
jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok
npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd std szl thb tjs tnd top try ttd twd
tzs uah ugx uyu uzs vnd vuv wst xaf xcd xcg xof xpf yer zar zmw`
	m := make(map[string]string)
	for c := range strings.FieldsSeq(codes) {
		m[c] = c
	}
	return m
}()

// allCurrencies are the codes as errors list them.
var allCurrencies = strings.Join(slices.Sorted(maps.Keys(currencies)), ", ")

func isCurrency(code string) bool { return currencies[code] != "" }

// internCurrency returns the shared copy of a known code, so that rows do not
// keep the request they came in alive.
func internCurrency(code string) string { return currencies[code] }
