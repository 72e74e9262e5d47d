package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// totals are what all customers hold at a moment.
type totals struct {
	List     []report.LedgerTotal
	Unproven int64
	Names    []report.Unproven
}

// ages are what is left of grants by when it expires.
type ages struct {
	List     []report.Age
	Unproven int64
}

// periods are sealed months, with what came into them since.
type periods struct {
	Seals []report.Seal
	Late  []report.Late
	// Broken are the seals that no movement explains.
	Broken []report.Broken
}

// lateRows bounds the late movements that are shown.
const lateRows = 200

// booksQuery is what the page was asked for.
type booksQuery struct {
	Tab, AsOf, From, To, By string
	until, from, to         time.Time
}

func (v *view) booksQuery() (booksQuery, error) {
	q := v.r.URL.Query()
	b := booksQuery{Tab: cmp.Or(q.Get("tab"), "balances"), AsOf: strings.TrimSpace(q.Get("as_of")), From: strings.TrimSpace(q.Get("from")), To: strings.TrimSpace(q.Get("to")), By: cmp.Or(q.Get("by"), "month")}
	now := v.c.now().UTC()
	var err error
	// A figure of now is of the last minute, so that it is computed once for all who look.
	if b.until = now.Truncate(time.Minute); b.AsOf != "" {
		if b.until, err = report.ParseAsOf(b.AsOf, time.UTC); err != nil {
			return b, wrong("As of: %v", err)
		}
	}
	b.to = report.StartOfDay(now.Year(), now.Month(), now.Day()+1, time.UTC)
	b.from = time.Date(now.Year(), now.Month()-5, 1, 0, 0, 0, 0, time.UTC)
	if b.By == "day" {
		b.from = report.StartOfDay(now.Year(), now.Month(), now.Day()-13, time.UTC)
	}
	if b.From != "" {
		if b.from, err = report.ParseBound(b.From, time.UTC); err != nil {
			return b, wrong("From: %v", err)
		}
	}
	if b.To != "" {
		if b.to, err = report.ParseBound(b.To, time.UTC); err != nil {
			return b, wrong("To: %v", err)
		}
	}
	if b.By != "day" && b.By != "month" {
		return b, wrong("Periods are months or days.")
	}
	return b, nil
}

func (v *view) totalsAt(until time.Time) (totals, time.Time, error) {
	ledgers := v.ledgers()
	name := "totals " + v.figureScope() + until.Format(time.RFC3339)
	return get(v.r.Context(), v.c.memo, name, booksFresh, func(ctx context.Context) (out totals, err error) {
		err = v.readBooks(ctx, func(r report.Reader, f report.Filter) error {
			list, o, err := report.Totals(ctx, r, report.Query{Filter: f, Ledgers: ledgers, Until: until})
			out.List = append(out.List, list...)
			out.Unproven += o.Unproven
			out.Names = append(out.Names, o.Names...)
			return err
		})
		return out, err
	})
}

func (v *view) agesAt(until time.Time) (ages, time.Time, error) {
	return get(v.r.Context(), v.c.memo, "ages "+v.figureScope()+until.Format(time.RFC3339), booksFresh, func(ctx context.Context) (out ages, err error) {
		err = v.readBooks(ctx, func(r report.Reader, f report.Filter) error {
			list, o, err := report.Ageing(ctx, r, report.Query{Filter: f, Ledgers: []report.Ledger{report.LedgerCredits}, Until: until}, []int{30, 60, 90})
			out.List = append(out.List, list...)
			out.Unproven += o.Unproven
			return err
		})
		return out, err
	})
}

func (v *view) periodsNow() (periods, time.Time, error) {
	ledgers := v.ledgers()
	return get(v.r.Context(), v.c.memo, "periods "+v.figureScope(), booksFresh, func(ctx context.Context) (out periods, err error) {
		err = v.readBooks(ctx, func(r report.Reader, f report.Filter) error {
			seals, err := r.Seals(ctx, "")
			if err != nil {
				return err
			}
			seals = slices.DeleteFunc(seals, func(s report.Seal) bool {
				return f.Account != nil && s.Account != *f.Account || !slices.Contains(ledgers, s.Ledger)
			})
			out.Seals = append(out.Seals, seals...)
			if len(ledgers) < 2 {
				return nil // a comparison is of both ledgers
			}
			late, broken, err := report.Compare(ctx, r, report.Open(seals, f.Account))
			out.Late = append(out.Late, late...)
			out.Broken = append(out.Broken, broken...)
			return err
		})
		return out, err
	})
}

// rollTable is one account, ledger and currency of a roll-forward, as a table.
type rollTable struct {
	Account, Ledger, Currency string
	Columns                   []rollColumn
	Lines                     []rollLine
	Chart                     template.HTML
}

type rollColumn struct{ Start, End time.Time }

type rollLine struct {
	Name   string
	Edge   bool
	Values []rollValue
}

type rollValue struct {
	Known  bool
	Amount amount
}

// maxRollColumns bounds the columns of a table; the download has all.
const maxRollColumns = 14

// rollTables turns lines into tables.
func rollTables(r rolled) []rollTable {
	type key struct{ account, ledger, currency string }
	var keys []key
	by := map[key][]report.Line{}
	for _, l := range r.Lines {
		k := key{l.Account, string(l.Ledger), l.Currency}
		if by[k] == nil {
			keys = append(keys, k)
		}
		by[k] = append(by[k], l)
	}
	charts := coursesOf(r)
	first := max(0, len(r.Bounds)-1-maxRollColumns)
	var list []rollTable
	for _, k := range keys {
		t := rollTable{Account: k.account, Ledger: k.ledger, Currency: k.currency}
		var names []string
		values := map[string]map[time.Time]int64{}
		for _, l := range by[k] {
			if values[l.Line] == nil {
				values[l.Line] = map[time.Time]int64{}
				if l.Line != report.LineOpening && l.Line != report.LineClosing {
					names = append(names, l.Line)
				}
			}
			values[l.Line][l.Start] += l.Amount
		}
		slices.Sort(names)
		for i := first; i+1 < len(r.Bounds); i++ {
			t.Columns = append(t.Columns, rollColumn{r.Bounds[i], report.AsOf(r.Bounds[i+1])})
		}
		for _, name := range append(append([]string{report.LineOpening}, names...), report.LineClosing) {
			line := rollLine{Name: name, Edge: name == report.LineOpening || name == report.LineClosing}
			for i := first; i+1 < len(r.Bounds); i++ {
				n, ok := values[name][r.Bounds[i]]
				value := rollValue{Known: ok, Amount: moved(k.ledger, n, k.currency)}
				if line.Edge {
					value.Amount = held(k.ledger, n, k.currency)
				}
				line.Values = append(line.Values, value)
			}
			t.Lines = append(t.Lines, line)
		}
		for _, c := range charts {
			if c.Account == k.account && c.Ledger == k.ledger && c.Currency == k.currency {
				t.Chart = c.Chart
			}
		}
		list = append(list, t)
	}
	return list
}

func (v *view) books() error {
	q, err := v.booksQuery()
	if err != nil {
		return err
	}
	d := struct {
		page
		Q         booksQuery
		AsOf      time.Time
		At        time.Time
		Known     bool
		Totals    totals
		Roll      []rollTable
		Unproven  int64
		Ages      []report.Age
		Periods   periods
		LateMore  int
		Download  string
		Currency  string
		Query     template.URL
		CanCredit bool
		Compared  bool
	}{page: v.page("Books", "books"), Q: q, AsOf: report.AsOf(q.until)}
	if v.c.o.Books == nil {
		return wrong("This database keeps no books.")
	}
	d.Download = "/books/" + q.Tab + ".csv?" + v.r.URL.RawQuery
	switch q.Tab {
	case "balances":
		d.Totals, d.At, err = v.totalsAt(q.until)
		d.Unproven = d.Totals.Unproven
		d.Totals.List = slices.Clone(d.Totals.List)
	case "rollforward":
		var r rolled
		r, d.At, err = v.rollforward(q.from, q.to, report.By(q.By))
		d.Roll, d.Unproven = rollTables(r), r.Unproven
	case "ageing":
		if !slices.Contains(v.ledgers(), report.LedgerCredits) {
			return forbidden("This key may not see billing credits, which the ageing is of.")
		}
		var a ages
		a, d.At, err = v.agesAt(q.until)
		d.Ages, d.Unproven = a.List, a.Unproven
	case "periods":
		d.Periods, d.At, err = v.periodsNow()
		d.Compared = len(v.ledgers()) == 2
		if n := len(d.Periods.Late); n > lateRows {
			d.LateMore = n - lateRows
			d.Periods.Late = d.Periods.Late[:lateRows]
		}
	default:
		return notFound("There is no report %q.", q.Tab)
	}
	switch {
	case errors.Is(err, errPending):
		d.Pending = true
	case err != nil:
		return err
	default:
		d.Known = true
	}
	return v.show("books", http.StatusOK, d)
}

// bookCSV downloads a report under the columns of the commands.
func (v *view) bookCSV() error {
	q, err := v.booksQuery()
	if err != nil {
		return err
	}
	name, ok := strings.CutSuffix(v.r.PathValue("report"), ".csv")
	if !ok || v.c.o.Books == nil {
		return notFound("There is no report %q.", v.r.PathValue("report"))
	}
	v.r = v.r.WithContext(withPatience(v.r.Context(), downloadPatience))
	var rows [][]string
	var columns []string
	num := func(n int64) string { return strconv.FormatInt(n, 10) }
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	switch name {
	case "balances":
		columns = []string{"account", "ledger", "currency", "customers", "amount", "as_of"}
		var t totals
		if t, _, err = v.totalsAt(q.until); err == nil {
			for _, l := range t.List {
				rows = append(rows, []string{l.Account, string(l.Ledger), l.Currency, num(l.Customers), num(l.Amount), at(report.AsOf(q.until))})
			}
		}
	case "rollforward":
		columns = []string{"account", "ledger", "currency", "period_start", "period_end", "line", "amount"}
		var r rolled
		if r, _, err = v.rollforward(q.from, q.to, report.By(q.By)); err == nil {
			for _, l := range r.Lines {
				rows = append(rows, []string{l.Account, string(l.Ledger), l.Currency, at(l.Start), at(l.End), l.Line, num(l.Amount)})
			}
		}
	case "ageing":
		if !slices.Contains(v.ledgers(), report.LedgerCredits) {
			return forbidden("This key may not see billing credits, which the ageing is of.")
		}
		columns = []string{"account", "currency", "category", "bucket", "amount", "grants"}
		var a ages
		if a, _, err = v.agesAt(q.until); err == nil {
			for _, l := range a.List {
				rows = append(rows, []string{l.Account, l.Currency, l.Category, l.Bucket, num(l.Amount), num(l.Grants)})
			}
		}
	case "periods":
		columns = []string{"account", "ledger", "currency", "period_start", "period_end", "closing", "rows", "digest", "sealed_at", "position"}
		var p periods
		if p, _, err = v.periodsNow(); err == nil {
			for _, s := range report.Open(p.Seals, nil) {
				rows = append(rows, []string{s.Account, string(s.Ledger), s.Currency, at(s.Start), at(s.End), num(s.Closing), num(s.Rows), s.Digest, at(s.SealedAt), s.Position})
			}
		}
	default:
		return notFound("There is no report %q.", name)
	}
	switch {
	case errors.Is(err, errPending):
		v.w.Header().Set("Retry-After", "2")
		return &problem{http.StatusServiceUnavailable, "Still being computed", "The report is being computed from the whole mirror. Load this address again in a moment."}
	case err != nil:
		return err
	}
	w := v.download("creditmirror-"+name+".csv", columns...)
	for _, r := range rows {
		if err := w.Write(report.NoFormulas(r)); err != nil {
			return v.cutOff(w, err)
		}
	}
	w.Flush()
	return w.Error()
}

func (v *view) exports() error {
	if v.bound() {
		return forbidden("The copy is of all accounts and ledgers, and this key is bound to some.")
	}
	d := struct {
		page
		Copy      Copy
		Any       bool
		Known     bool
		At        time.Time
		Lag       string
		Verified  []mirror.OperatorAction
		CanVerify bool
		Steps     template.HTML
	}{page: v.page("Exports", "exports"), Any: v.c.o.Exports != nil, CanVerify: v.mayAct() && v.c.o.Do.VerifyCopy != nil, Steps: steps("CreditmirrorExportStale")}
	d.Live = true
	if d.Any {
		var err error
		d.Copy, d.At, err = getFew(v.r.Context(), v.c.memo, "copy", 30*time.Second, v.c.o.Exports)
		switch {
		case errors.Is(err, errPending):
			d.Pending = true
		case err != nil:
			d.Problem = "The location of the copy cannot be read. The log of the process has the cause; creditmirror export list reads it from the command line."
		default:
			d.Known = true
		}
		if len(d.Copy.Generations) > 0 {
			d.Lag = ago(v.c.now(), d.Copy.Generations[0].Loaded)
		}
		if d.Verified, err = v.c.o.Operations.Actions(v.r.Context(), mirror.ActionFilter{Action: mirror.ActionVerifyCopy}, 5); err != nil {
			return err
		}
	}
	return v.show("exports", http.StatusOK, d)
}

// verifyCopy reads the copy again, in the background: it may take long.
func (v *view) verifyCopy() error {
	switch {
	case v.bound():
		return forbidden("The copy is of all accounts and ledgers, and this key is bound to some.")
	case v.c.o.Do.VerifyCopy == nil:
		return wrong("There is no copy: CREDITMIRROR_EXPORT_URL is not set for this process.")
	}
	a := v.c.newAction(v.holder.Name, v.caller, mirror.ActionVerifyCopy)
	if err := v.c.o.Operations.BeginAction(v.r.Context(), a); err != nil {
		return fmt.Errorf("nothing was done: %w", err)
	}
	c := v.c
	if !c.memo.goOn(func(ctx context.Context) {
		verdict, err := c.o.Do.VerifyCopy(ctx)
		a.Outcome, a.Count = mirror.ActionDone, int64(len(verdict.Differences))
		a.Detail = fmt.Sprintf("%d generations, %d files, %d rows read: %d differences; the mirror: %s", verdict.Generations, verdict.Files, verdict.Rows, len(verdict.Differences), verdict.Mirror)
		if err != nil {
			a.Outcome, a.Detail = mirror.ActionFailed, err.Error()
		} else if len(verdict.Differences) > 0 {
			a.Detail += ": " + strings.Join(verdict.Differences[:min(3, len(verdict.Differences))], "; ")
		}
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = c.o.Operations.EndAction(end, a) // the row stays without an outcome, which says that it is not known
	}) {
		return wrong("The process is stopping.")
	}
	return v.back("/exports", "The copy is being read again; what comes of it shows below.")
}
