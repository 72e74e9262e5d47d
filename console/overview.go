package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

const (
	// statusFresh and booksFresh are how old figures may be that a page shows.
	statusFresh = 10 * time.Second
	booksFresh  = 5 * time.Minute
	// refusalsLast is how long a refused webhook is news.
	refusalsLast = time.Hour
	// courseMonths is how far back the course of the liability goes.
	courseMonths = 12
)

// news is something that is not as it should be, or the line that says that all is.
type news struct {
	Level   string // bad, warn, good
	Text    string
	Detail  string
	Href    string
	Runbook string
	Steps   template.HTML
}

// course is what all customers hold of one account, ledger and currency, over time.
type course struct {
	Account, Ledger, Currency string
	Now                       int64
	Chart                     template.HTML
	Points                    []point
}

// status is the figure of how the system is.
func (v *view) status() (Status, time.Time, error) {
	if v.c.o.Status == nil {
		return Status{}, time.Time{}, errNotHere
	}
	return get(v.r.Context(), v.c.memo, "status", statusFresh, v.c.o.Status)
}

func (v *view) overview() error {
	d := struct {
		page
		Status           Status
		At               time.Time
		Known            bool
		News             []news
		Courses          []course
		CoursesAt        time.Time
		CoursesOut       int64
		CoursesKnown     bool
		Drift, Dead      int64
		Unproven         int64
		DriftAmounts     []balanceCell
		Waiting          int
		CallsDay         int64
		Whole            bool
		Refusals         []Refusal
		AcceptedFindings int
		Findings         []mirror.Finding
	}{page: v.page("Overview", "overview"), Whole: !v.bound()}
	d.Live = true
	if d.Whole {
		s, at, err := v.status()
		switch {
		case errors.Is(err, errPending):
			d.Pending = true
		case err != nil:
			d.Problem = "The state of the system cannot be read: the mirror's database or Redis does not answer."
		default:
			d.Status, d.At, d.Known = s, at, true
		}
		if v.c.o.Refused != nil {
			if d.Refusals, err = v.c.o.Refused(v.r.Context()); err != nil {
				return err
			}
		}
	}
	findings, err := v.c.o.Store.FindingList(v.r.Context(), mirror.FindingList{Accounts: v.only(), Scope: v.scopeOnly(), Limit: 200})
	if err != nil {
		return err
	}
	ids := make([]string, len(findings))
	for i := range findings {
		ids[i] = findings[i].ID
	}
	accepted, err := v.c.o.Operations.Accepted(v.r.Context(), ids)
	if err != nil {
		return err
	}
	d.Findings = slices.DeleteFunc(findings, func(f mirror.Finding) bool { _, ok := accepted[f.ID]; return ok })
	d.AcceptedFindings = len(accepted)
	if d.Known {
		for _, n := range d.Status.DriftOpen {
			d.Drift += n
		}
		for _, n := range d.Status.Unproven {
			d.Unproven += n
		}
		for currency, n := range d.Status.DriftAmount {
			d.DriftAmounts = append(d.DriftAmounts, balanceCell{Currency: currency, Amount: n})
		}
		slices.SortFunc(d.DriftAmounts, func(a, b balanceCell) int { return cmp.Compare(a.Currency, b.Currency) })
		d.Dead = d.Status.DeadLetters
		d.Waiting = d.Status.Queue.Ready + d.Status.Queue.Delayed + d.Status.Queue.Leased
		for _, c := range d.Status.Calls24h {
			d.CallsDay += c.Count
		}
		d.News = v.news(d.Status, d.Findings, d.Refusals)
	} else if len(d.Findings) > 0 {
		d.News = []news{v.driftNews(d.Findings, int64(len(d.Findings)))}
	}
	d.Courses, d.CoursesAt, d.CoursesOut, err = v.courses()
	switch {
	case errors.Is(err, errPending):
		d.Pending = true
	case errors.Is(err, errNotHere):
	case err != nil:
		d.Problem = cmp.Or(d.Problem, "The books cannot be read: the mirror's database does not answer.")
	default:
		d.CoursesKnown = true
	}
	return v.show("overview", http.StatusOK, d)
}

// driftNews lists open findings that nobody has accepted.
func (v *view) driftNews(open []mirror.Finding, n int64) news {
	oldest := slices.MinFunc(open, func(a, b mirror.Finding) int { return a.FoundAt.Compare(b.FoundAt) })
	age := v.c.now().Sub(oldest.FoundAt)
	level := "warn"
	if age > 15*time.Minute {
		level = "bad"
	}
	return news{
		Level: level, Text: plural(n, "open difference") + " from Stripe", Detail: "the oldest of those shown was found " + ago(v.c.now(), oldest.FoundAt), Href: "/drift",
		Runbook: "CreditmirrorDriftOpen", Steps: steps("CreditmirrorDriftOpen"),
	}
}

func newsOf(level, text, detail, href, runbook string) news {
	return news{level, text, detail, href, runbook, steps(runbook)}
}

// sweepNews is what is to be said of a sweep, if anything.
func sweepNews(s Status, w SweepStatus, now time.Time) (n news, ok bool) {
	// late reports whether the last success is older than three intervals and some slack.
	late := func(interval, slack time.Duration) bool {
		return !w.LastSuccess.IsZero() && interval > 0 && now.Sub(w.LastSuccess) > 3*interval+slack
	}
	switch {
	case w.Paused:
		return newsOf("warn", "The sweep "+w.Name+" is paused", w.PausedBy+" paused it "+ago(now, w.PausedAt)+": "+w.PausedWhy, "/sweeps", "CreditmirrorSweepStalled"), true
	case w.Name == "events" && late(s.EventsInterval, 2*time.Minute):
		return newsOf("bad", "The events sweep has not succeeded for "+age(now.Sub(w.LastSuccess)), "account "+accountName(w.Account), "/sweeps", "CreditmirrorEventsSweepOld"), true
	case w.Name == "balances" && late(s.BalancesInterval, 10*time.Minute):
		return newsOf("bad", "Balances were last compared with Stripe "+ago(now, w.LastSuccess), "account "+accountName(w.Account), "/sweeps", "CreditmirrorSweepStalled"), true
	case w.Name == "backfill" && w.LastSuccess.IsZero():
		return newsOf("warn", "The first copy of "+accountName(w.Account)+" is under way", w.Progress, "/sweeps", ""), true
	}
	return news{}, false
}

// refusedLately says which webhooks were refused lately, and why; "" where none was.
func refusedLately(refusals []Refusal, now time.Time) string {
	var reasons []string
	var last time.Time
	for _, r := range refusals {
		if now.Sub(r.Last) > refusalsLast {
			continue
		}
		reasons = append(reasons, fmt.Sprintf("%s %s", count(r.Count), strings.ReplaceAll(r.Reason, "_", " ")))
		if r.Last.After(last) {
			last = r.Last
		}
	}
	if len(reasons) == 0 {
		return ""
	}
	return "the last " + ago(now, last) + "; since the start of each receiver " + strings.Join(reasons, ", ")
}

// news are the lines of the overview, the worst first.
func (v *view) news(s Status, open []mirror.Finding, refusals []Refusal) []news {
	var list []news
	now := v.c.now()
	add := func(level, text, detail, href, runbook string) {
		list = append(list, newsOf(level, text, detail, href, runbook))
	}
	for _, r := range s.Refused {
		add("bad", "Stripe refuses the key of "+accountName(r.Account), r.Reason+"; since "+ago(now, r.Since)+". Its work waits and is tried every 30 seconds.", "/sweeps", "CreditmirrorStripeRefusesKey")
	}
	for _, w := range s.Webhooks {
		if w.Silent {
			add("bad", "No webhooks arrive at the "+w.Endpoint+" endpoint", "Stripe has had events since "+ago(now, w.SilentSince)+" that it did not bring; the events sweep brings them about a minute late.", "/webhooks", "CreditmirrorNoWebhooks")
		}
	}
	if len(open) > 0 {
		list = append(list, v.driftNews(open, int64(len(open))))
	}
	if s.DeadLetters > 0 {
		level := "warn"
		if s.Dead.Unreadable > 0 || s.Dead.UnderWeek+s.Dead.Older > 0 {
			level = "bad"
		}
		add(level, plural(s.DeadLetters, "dead letter"), "work that failed permanently; the oldest since "+ago(now, s.Dead.Oldest), "/dead", "CreditmirrorDeadLetters")
	}
	if s.Queue.Oldest > 5*time.Minute {
		level := "warn"
		if s.Queue.Oldest > 30*time.Minute {
			level = "bad"
		}
		add(level, "The queue is behind", "the target that waits longest has been due for "+age(s.Queue.Oldest), "/sweeps", "CreditmirrorQueueOld")
	}
	if s.Fresh99 != nil && *s.Fresh99 > 60 {
		add("warn", "Customers are late", "99 of 100 events were answered within "+seconds(s.Fresh99)+", half of them within "+seconds(s.Fresh50), "/webhooks", "CreditmirrorFreshnessBurnFast")
	}
	for _, w := range s.Sweeps {
		if n, ok := sweepNews(s, w, now); ok {
			list = append(list, n)
		}
	}
	if text := refusedLately(refusals, now); text != "" {
		add("warn", "Webhooks are refused", text, "/webhooks", "CreditmirrorWebhooksRefused")
	}
	if unproven := total(s.Unproven); unproven > 0 {
		add("warn", plural(unproven, "history")+" not wholly held", "no figure is shown for those customers; they are being read", "/customers?set=unproven", "")
	}
	if !s.Repair && len(open) > 0 {
		add("warn", "Nothing is repaired", "CREDITMIRROR_REPAIR is false: drift is only reported", "/drift", "")
	}
	rank := map[string]int{"bad": 0, "warn": 1, "good": 2}
	slices.SortStableFunc(list, func(a, b news) int { return rank[a.Level] - rank[b.Level] })
	if len(list) == 0 {
		list = append(list, goodNews(s, now))
	}
	return list
}

// goodNews is what the overview says when there is nothing else.
func goodNews(s Status, now time.Time) news {
	n := news{Level: "good", Text: "The mirror equals Stripe, as far as it was compared"}
	for _, w := range s.Sweeps {
		if w.Name == "balances" && !w.LastSuccess.IsZero() {
			n.Detail = "every balance was last compared " + ago(now, w.LastSuccess)
		}
	}
	return n
}

func total(by map[string]int64) (n int64) {
	for _, v := range by {
		n += v
	}
	return n
}

// figureScope names what a key may see, for figures that are remembered.
func (v *view) figureScope() string {
	if v.holder == nil {
		return "*"
	}
	return fmt.Sprintf("%q %q", v.holder.Accounts, v.holder.Ledgers)
}

// readBooks runs fn for each account that the key may see: once for all where it may see
// all.
func (v *view) readBooks(ctx context.Context, fn func(report.Reader, report.Filter) error) error {
	if v.c.o.Books == nil {
		return errNotHere
	}
	return v.c.o.Books.Books(ctx, func(r report.Reader) error {
		if v.holder == nil || v.holder.Accounts == nil {
			return fn(r, report.Filter{})
		}
		for _, account := range v.holder.Accounts {
			if err := fn(r, report.Filter{Account: &account}); err != nil {
				return err
			}
		}
		return nil
	})
}

// rolled is a roll-forward that was computed.
type rolled struct {
	Lines    []report.Line
	Bounds   []time.Time
	Unproven int64
}

// rollforward computes one in the background.
func (v *view) rollforward(from, to time.Time, by report.By) (rolled, time.Time, error) {
	bounds, err := report.Periods(from, to, by, time.UTC)
	if err != nil {
		return rolled{}, time.Time{}, wrong("%v", err)
	}
	ledgers := v.ledgers()
	name := fmt.Sprintf("rollforward %s %s %s %s", v.figureScope(), from.Format(time.RFC3339), to.Format(time.RFC3339), by)
	return get(v.r.Context(), v.c.memo, name, booksFresh, func(ctx context.Context) (rolled, error) {
		out := rolled{Bounds: bounds}
		err := v.readBooks(ctx, func(r report.Reader, f report.Filter) error {
			lines, o, err := report.Rollforward(ctx, r, report.Query{Filter: f, Ledgers: ledgers}, bounds, report.Split{})
			out.Lines = append(out.Lines, lines...)
			out.Unproven += o.Unproven
			return err
		})
		return out, err
	})
}

// courses are the liabilities over the last months.
func (v *view) courses() ([]course, time.Time, int64, error) {
	if v.c.o.Books == nil {
		return nil, time.Time{}, 0, errNotHere
	}
	now := v.c.now().UTC()
	to := report.StartOfDay(now.Year(), now.Month(), now.Day()+1, time.UTC)
	from := time.Date(now.Year(), now.Month()-courseMonths+1, 1, 0, 0, 0, 0, time.UTC)
	r, at, err := v.rollforward(from, to, report.ByMonth)
	if err != nil {
		return nil, at, 0, err
	}
	return coursesOf(r), at, r.Unproven, nil
}

// coursesOf turns closings into courses.
func coursesOf(r rolled) []course {
	type key struct{ account, ledger, currency string }
	byKey := map[key]map[time.Time]int64{}
	opening := map[key]int64{}
	var keys []key
	for _, l := range r.Lines {
		k := key{l.Account, string(l.Ledger), l.Currency}
		if byKey[k] == nil {
			byKey[k] = map[time.Time]int64{}
			keys = append(keys, k)
			if l.Line == report.LineOpening && l.Start.Equal(r.Bounds[0]) {
				opening[k] = l.Amount
			}
		}
		if l.Line == report.LineClosing {
			byKey[k][l.End] = l.Amount
		}
	}
	var list []course
	for _, k := range keys {
		c := course{Account: k.account, Ledger: k.ledger, Currency: k.currency}
		// Drawn as what customers have: in the balance ledger credit is negative.
		sign := int64(1)
		if k.ledger == string(report.LedgerBalance) {
			sign = -1
		}
		c.Points = append(c.Points, point{At: r.Bounds[0], Value: sign * opening[k]})
		for _, end := range r.Bounds[1:] {
			c.Now = byKey[k][end]
			c.Points = append(c.Points, point{At: report.AsOf(end), Value: sign * c.Now})
		}
		c.Chart = line(fmt.Sprintf("%s in %s at the end of each month; the last is %s", ledgerNames[k.ledger], strings.ToUpper(k.currency), report.Human(report.Ledger(k.ledger), c.Now, k.currency)), k.currency, c.Points)
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b course) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Ledger, b.Ledger), -cmp.Compare(mirror.Magnitude(a.Now), mirror.Magnitude(b.Now)))
	})
	return list
}
