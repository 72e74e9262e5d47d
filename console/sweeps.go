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
	"sync"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// rates remember how far first copies were, for their rate and the time left.
type rates struct {
	mu    sync.Mutex
	known map[string][]progressAt
}

// progressAt is one look at a first copy.
type progressAt struct {
	at              time.Time
	phase           string
	customers, left int64
}

// rateWindow is how far back a rate looks.
const rateWindow = 2 * time.Minute

// look notes how far the copy of an account is and returns its rate per second, of customers
// listed or histories read; 0: not known yet.
func (r *rates) look(account string, now progressAt) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = map[string][]progressAt{}
	}
	list := r.known[account]
	for len(list) > 0 && (list[0].phase != now.phase || now.at.Sub(list[0].at) > rateWindow && len(list) > 1) {
		list = list[1:]
	}
	if n := len(list); n == 0 || now.at.Sub(list[n-1].at) >= time.Second {
		list = append(list, now)
	}
	r.known[account] = list
	span := now.at.Sub(list[0].at).Seconds()
	if span < 1 {
		return 0
	}
	done := now.customers - list[0].customers
	if now.phase == "histories" {
		done = list[0].left - now.left
	}
	return max(float64(done)/span, 0)
}

// sweepRow is a sweep with its rate in words.
type sweepRow struct {
	SweepStatus
	Pace string
}

// sweepWords say what each sweep is for.
var sweepWords = map[string]string{
	"events":   "lists Stripe's events and marks what no webhook brought",
	"balances": "compares every balance with Stripe",
	"scrub":    "reads every history anew, spread over its period",
	"backfill": "the first copy: every customer, every grant, every history",
}

// control is what can be asked of a sweep.
type control struct {
	Name, Words      string
	Paused, CanStart bool
	PausedBy, Why    string
	PausedAt         time.Time
	Cost             string
}

// allocation is what Stripe lets an account read in 30 days at least, whatever it earns
// (docs.stripe.com/rate-limits): 500 reads per payment, and never fewer.
const allocation = 10_000

func (v *view) sweeps() error {
	d := struct {
		page
		Rows      []sweepRow
		Controls  []control
		At        time.Time
		Days      []DayCalls
		Purposes  []Calls
		Sum       int64
		Chart     template.HTML
		Least     int64
		Whole     bool
		Known     bool
		Refused   []RefusedKey
		CanAct    bool
		Actions   []mirror.OperatorAction
		PaceNoted bool
	}{page: v.page("Sweeps", "sweeps"), Least: allocation, Whole: !v.bound(), CanAct: v.mayAct() && !v.bound() && v.c.o.Do.Sweep != nil}
	d.Live = true
	s, at, err := v.status()
	switch {
	case errors.Is(err, errPending):
		d.Pending = true
	case err != nil:
		d.Problem = "The state of the sweeps cannot be read: the mirror's database or Redis does not answer."
	default:
		d.Known, d.At = true, at
	}
	paused := map[string]SweepStatus{}
	for _, w := range s.Sweeps {
		if w.Paused {
			paused[w.Name] = w
		}
		if !v.maySee(w.Account) {
			continue
		}
		d.Rows = append(d.Rows, sweepRow{SweepStatus: w, Pace: v.c.copyRate(w, at)})
	}
	for _, r := range s.Refused {
		if v.maySee(r.Account) {
			d.Refused = append(d.Refused, r)
		}
	}
	for _, name := range []string{"events", "balances", "scrub", "backfill"} {
		d.Controls = append(d.Controls, controlOf(name, paused, s.Customers))
	}
	if d.Whole {
		if v.c.o.Calls30d != nil {
			days, _, err := getFew(v.r.Context(), v.c.memo, "calls", 30*time.Second, v.c.o.Calls30d)
			if err == nil {
				d.Days = days
			} else if errors.Is(err, errPending) {
				d.Pending = true
			}
		}
		d.Purposes, d.Sum, d.Chart = sumCalls(d.Days)
		all, err := v.c.o.Operations.Actions(v.r.Context(), mirror.ActionFilter{}, 60)
		if err != nil {
			return err
		}
		for _, a := range all {
			if strings.HasPrefix(string(a.Action), "sweep-") && len(d.Actions) < 10 {
				d.Actions = append(d.Actions, a)
			}
		}
	}
	return v.show("sweeps", http.StatusOK, d)
}

// copyRate says how fast a first copy that is under way goes; "" where that is not known.
func (c *Console) copyRate(w SweepStatus, at time.Time) string {
	if w.Name != "backfill" || w.Phase == "" || w.Phase == "done" {
		return ""
	}
	rate := c.rates.look(w.Account, progressAt{at, w.Phase, w.Customers, w.Left})
	if rate <= 0 {
		return ""
	}
	text := fmt.Sprintf("%.1f a second", rate)
	if w.Phase == "histories" {
		text += ", about " + age(time.Duration(float64(w.Left)/rate*float64(time.Second))) + " left"
	}
	return text
}

// controlOf is what can be done to a sweep; paused holds those that are.
func controlOf(name string, paused map[string]SweepStatus, customers int64) control {
	c := control{Name: name, Words: sweepWords[name], CanStart: name != "backfill"}
	if w, ok := paused[name]; ok {
		c.Paused, c.PausedBy, c.Why, c.PausedAt = true, w.PausedBy, w.PausedWhy, w.PausedAt
	}
	switch name {
	case "events":
		c.Cost = "about one call per 100 events"
	case "balances":
		c.Cost = "about " + plural(customers/100+1, "call") + " to Stripe"
	case "scrub":
		c.Cost = "about " + plural(customers, "call") + " to Stripe or more, within the budget"
	}
	return c
}

// sumCalls adds the calls of days up, by purpose, the most first, and draws them.
func sumCalls(days []DayCalls) (purposes []Calls, sum int64, chart template.HTML) {
	by := map[string]int64{}
	var values []int64
	for _, day := range days {
		var n int64
		for _, c := range day.Calls {
			by[c.Purpose] += c.Count
			n += c.Count
		}
		values = append(values, n)
		sum += n
	}
	for purpose, n := range by {
		purposes = append(purposes, Calls{purpose, n})
	}
	slices.SortFunc(purposes, func(a, b Calls) int { return cmp.Or(-cmp.Compare(a.Count, b.Count), cmp.Compare(a.Purpose, b.Purpose)) })
	if len(days) > 1 {
		chart = bars("Calls to Stripe per day", values, days[0].Day.Format(time.DateOnly), days[len(days)-1].Day.Format(time.DateOnly))
	}
	return purposes, sum, chart
}

func (v *view) actSweep(kind mirror.ActionKind) error {
	name := v.r.PathValue("name")
	switch {
	case v.bound():
		return forbidden("Sweeps run over all accounts, and this key is limited to some: use a key that is not.")
	case v.c.o.Do.Sweep == nil:
		return wrong("This process cannot reach the sweeps.")
	case sweepWords[name] == "":
		return notFound("There is no sweep %q.", name)
	}
	reason, err := v.reason(kind == mirror.ActionSweepPause)
	if err != nil {
		return err
	}
	err = v.act(mirror.OperatorAction{Object: name, Reason: reason, Action: kind}, func(ctx context.Context) (int64, string, error) {
		return 1, "", v.c.o.Do.Sweep(ctx, name, kind, v.holder.Name, reason)
	})
	if err != nil {
		return err
	}
	v.c.memo.drop("status")
	done := map[mirror.ActionKind]string{
		mirror.ActionSweepStart: "Asked for: the process with the role reconcile begins within seconds.",
		mirror.ActionSweepPause: "Paused, in every process, until somebody resumes it.",
		mirror.ActionSweepGoOn:  "Resumed.",
	}[kind]
	return v.back("/sweeps", done)
}
