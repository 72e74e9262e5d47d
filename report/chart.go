package report

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"io"
	"maps"
	"math"
	"slices"
	"time"
)

const (
	chartWidth, chartHeight = 760, 220
	chartLeft, chartTop     = 120, 34
)

// Chart draws what is held at the end of each period as SVG: one picture per account,
// ledger and currency, one below the other, since amounts of two currencies have no
// common scale.
func Chart(w io.Writer, lines []Line, bounds []time.Time) error {
	type key struct {
		account  string
		ledger   Ledger
		currency string
	}
	closings := map[key]map[time.Time]int64{}
	for _, l := range lines {
		if k := (key{l.Account, l.Ledger, l.Currency}); l.Line == LineClosing {
			if closings[k] == nil {
				closings[k] = map[time.Time]int64{}
			}
			closings[k][l.End] = l.Amount
		}
	}
	keys := slices.SortedFunc(maps.Keys(closings), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.ledger, b.ledger), cmp.Compare(a.currency, b.currency))
	})
	var b bytes.Buffer
	step := chartHeight + 70
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		chartWidth+chartLeft+30, max(1, len(keys))*step+10)
	if len(keys) == 0 {
		fmt.Fprintf(&b, `<text x="10" y="24">Nothing was held and nothing moved.</text>`+"\n")
	}
	for i, k := range keys {
		title := fmt.Sprintf("%s, %s", k.ledger, k.currency)
		if k.account != "" {
			title = k.account + ", " + title
		}
		fmt.Fprintf(&b, `<g transform="translate(0 %d)">`+"\n"+`<text x="%d" y="20" font-size="14">%s</text>`+"\n",
			i*step, chartLeft, html.EscapeString(title))
		curve(&b, closings[k], bounds[1:], k.currency)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	_, err := w.Write(b.Bytes())
	return err
}

// curve draws one line with its scale.
func curve(b *bytes.Buffer, held map[time.Time]int64, ends []time.Time, currency string) {
	var low, high int64
	for _, amount := range held {
		low, high = min(low, amount), max(high, amount)
	}
	span := math.Max(float64(high)-float64(low), 1)
	y := func(amount int64) float64 {
		return chartTop + chartHeight*(float64(high)-float64(amount))/span
	}
	for _, amount := range slices.Compact([]int64{low, 0, high}) {
		fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ccc"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			chartLeft, chartLeft+chartWidth, y(amount), y(amount), chartLeft-8, y(amount)+4, html.EscapeString(Money(amount, currency)))
	}
	b.WriteString(`<polyline fill="none" stroke="#635bff" stroke-width="2" points="`)
	for i, end := range ends {
		x := float64(chartLeft)
		if len(ends) > 1 {
			x += chartWidth * float64(i) / float64(len(ends)-1)
		}
		fmt.Fprintf(b, "%.1f,%.1f ", x, y(held[end]))
	}
	b.WriteString(`"/>` + "\n")
	labels := []time.Time{ends[0], ends[len(ends)-1]}
	for i, end := range labels {
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", chartLeft+i*chartWidth, chartTop+chartHeight+18,
			[]string{"start", "end"}[i], AsOf(end).Format(time.DateOnly))
	}
}
