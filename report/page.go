package report

import (
	"fmt"
	"html"
	"io"
	"time"
)

// Page writes a statement as an HTML page that prints, as its lines come.
type Page struct {
	w     io.Writer
	err   error
	table bool
}

const pageHead = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Statement of %[1]s</title><style>
body { font: 14px/1.4 sans-serif; margin: 2em; color: #1a1f36 }
table { border-collapse: collapse; width: 100%%; margin-bottom: 2em }
th, td { text-align: left; padding: .25em .6em; border-bottom: 1px solid #ddd; vertical-align: top }
th.n, td.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
tr.edge td { font-weight: bold; border-bottom: 2px solid #1a1f36 }
td { overflow-wrap: anywhere }
thead { display: table-header-group }
tr { break-inside: avoid }
@media print { body { margin: 0 } }
</style></head><body>
<h1>Statement of %[1]s</h1>
<p>%[2]s Times are UTC. Descriptions are today's.</p>
`

// NewPage begins a page.
func NewPage(w io.Writer, customer string, start, until time.Time) *Page {
	span := "To " + AsOf(until).Format(time.DateTime) + "."
	if !start.IsZero() {
		span = "From " + start.UTC().Format(time.DateTime) + " to " + AsOf(until).Format(time.DateTime) + "."
	}
	p := &Page{w: w}
	p.print(pageHead, html.EscapeString(customer), span)
	return p
}

func (p *Page) print(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

var ledgerTitles = map[Ledger]string{LedgerBalance: "Customer balance", LedgerCredits: "Billing credits"}

// Add writes one line.
func (p *Page) Add(m Movement) error {
	if m.Edge && m.Type == LineOpening {
		p.print("<h2>%s, %s</h2>\n<table><thead><tr><th>Date</th><th>Movement</th><th class=\"n\">Amount</th><th class=\"n\">Balance</th>"+
			"<th>Invoice, credit note, grant</th><th>Description</th></tr></thead><tbody>\n", ledgerTitles[m.Ledger], html.EscapeString(m.Currency))
		p.table = true
	}
	class, amount := "", ""
	if m.Edge {
		class = ` class="edge"`
	} else {
		amount = Money(m.Amount, m.Currency)
	}
	refs := ""
	for _, id := range []string{m.ID, m.Invoice, m.CreditNote, m.Grant} {
		if id != "" {
			refs += html.EscapeString(id) + "<br>"
		}
	}
	p.print("<tr%s><td>%s</td><td>%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td><td>%s</td><td>%s</td></tr>\n", class,
		m.Dated.UTC().Format(time.DateTime), html.EscapeString(m.Type), html.EscapeString(amount),
		html.EscapeString(Human(m.Ledger, m.Balance, m.Currency)), refs, html.EscapeString(m.Description))
	if m.Edge && m.Type == LineClosing {
		p.print("</tbody></table>\n")
	}
	return p.err
}

// End ends the page.
func (p *Page) End() error {
	if !p.table {
		p.print("<p>No movements.</p>\n")
	}
	p.print("</body></html>\n")
	return p.err
}
