package console

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/report"
)

// point is one point of a chart.
type point struct {
	At    time.Time
	Value int64
	// Ahead marks what is still to come.
	Ahead bool
}

const (
	chartWidth, chartHeight                  = 720.0, 180.0
	chartLeft, chartTop, chartBottom         = 148.0, 12.0, 26.0
	chartRight                               = 12.0
	plotWidth, plotHeight                    = chartWidth - chartLeft - chartRight, chartHeight - chartTop - chartBottom
	marksApart                       float64 = 26
)

// line draws amounts over time: of steps, since a balance stands between two movements.
// Colours come from the style, so that they follow the system's wish.
func line(label, currency string, points []point) template.HTML {
	if len(points) == 0 {
		return ""
	}
	var low, high int64
	for _, p := range points {
		low, high = min(low, p.Value), max(high, p.Value)
	}
	first, last := points[0].At, points[len(points)-1].At
	span, time0 := math.Max(float64(high)-float64(low), 1), math.Max(last.Sub(first).Seconds(), 1)
	x := func(p point) float64 { return chartLeft + plotWidth*p.At.Sub(first).Seconds()/time0 }
	y := func(v int64) float64 { return chartTop + plotHeight*(float64(high)-float64(v))/span }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, chartWidth, chartHeight, template.HTMLEscapeString(label))
	for _, v := range ticks(low, high, y) {
		class := "grid"
		if v == 0 {
			class = "grid zero"
		}
		fmt.Fprintf(&b, `<line class="%s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="tick" x="%.1f" y="%.1f" text-anchor="end">%s</text>`,
			class, chartLeft, chartLeft+plotWidth, y(v), y(v), chartLeft-8, y(v)+4, template.HTMLEscapeString(report.Money(v, currency)))
	}
	path := func(list []point) string {
		var d strings.Builder
		for i, p := range list {
			if i == 0 {
				fmt.Fprintf(&d, "M%.1f %.1f", x(p), y(p.Value))
				continue
			}
			fmt.Fprintf(&d, "H%.1fV%.1f", x(p), y(p.Value))
		}
		return d.String()
	}
	n := len(points)
	for n > 0 && points[n-1].Ahead {
		n--
	}
	if n > 0 {
		fmt.Fprintf(&b, `<path class="area" d="%sV%.1fH%.1fZ"/><path class="line" d="%s"/>`, path(points[:n]), y(0), x(points[0]), path(points[:n]))
	}
	if n < len(points) {
		fmt.Fprintf(&b, `<path class="line ahead" d="%s"/>`, path(points[max(0, n-1):]))
	}
	fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f">%s</text><text class="tick" x="%.1f" y="%.1f" text-anchor="end">%s</text></svg>`,
		chartLeft, chartHeight-6, first.UTC().Format(time.DateOnly), chartLeft+plotWidth, chartHeight-6, last.UTC().Format(time.DateOnly))
	return template.HTML(b.String()) // #nosec G203 -- made of numbers, dates and escaped text
}

// ticks are the lowest, zero and the highest value, as far as they stand apart.
func ticks(low, high int64, y func(int64) float64) []int64 {
	var list []int64
	for _, v := range []int64{0, low, high} {
		if !slices.ContainsFunc(list, func(have int64) bool { return have == v || math.Abs(y(have)-y(v)) < marksApart }) {
			list = append(list, v)
		}
	}
	return list
}

// bars draws counts, one bar each.
func bars(label string, values []int64, first, last string) template.HTML {
	if len(values) == 0 {
		return ""
	}
	most := max(slices.Max(values), 1)
	const height, left = 110.0, 52.0
	plot := height - 34
	width := (chartWidth - left - chartRight) / float64(len(values))
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s"><line class="grid zero" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="tick" x="%.1f" y="18" text-anchor="end">%s</text><text class="tick" x="%.1f" y="%.1f" text-anchor="end">0</text>`,
		chartWidth, height, template.HTMLEscapeString(label), left, chartWidth-chartRight, 12+plot, 12+plot, left-6, count(most), left-6, 14+plot)
	for i, v := range values {
		h := plot * float64(v) / float64(most)
		fmt.Fprintf(&b, `<rect class="bar" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, left+float64(i)*width+width*0.1, 12+plot-h, width*0.8, h)
	}
	fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f">%s</text><text class="tick" x="%.1f" y="%.1f" text-anchor="end">%s</text></svg>`,
		left, height-4, template.HTMLEscapeString(first), chartWidth-chartRight, height-4, template.HTMLEscapeString(last))
	return template.HTML(b.String()) // #nosec G203 -- made of numbers, dates and escaped text
}

// gauge is how much of something is left, as a bar.
func gauge(part, whole int64) template.HTML {
	share := 0.0
	if whole > 0 {
		share = min(1, max(0, float64(part)/float64(whole)))
	}
	return template.HTML(fmt.Sprintf(`<svg class="gauge" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="8" rx="2"/><rect class="fill" width="%.1f" height="8" rx="2"/></svg>`, share*100)) // #nosec G203 -- made of numbers, dates and escaped text
}
