package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/budget"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/console"
	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/endpoint"
	"github.com/creditmirror/creditmirror/export"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/report"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/webhook"
)

// newConsole makes the operator's page.
func (a *App) newConsole() (*console.Console, error) {
	cfg := a.o.Config
	store, isStore := a.parts.Store.(console.Store)
	operations, keepsOperations := a.parts.Store.(mirror.Operations)
	if !isStore || !keepsOperations {
		return nil, fmt.Errorf("the database driver %T has no console", a.parts.Store)
	}
	o := console.Options{
		Store: store, Ledgers: a.parts.Store, Operations: operations, Keys: a.keys, Proxies: doors.Proxies(cfg.TrustedProxies), Accounts: a.consoleAccounts, Status: a.consoleStatus,
		Queued: a.parts.marks.Queued, Refused: a.consoleRefusals, Calls30d: a.consoleCalls, Retention: cfg.AuditRetention, Version: a.o.Build.Version,
		Log: a.log.With(zap.String("component", "console")), Now: a.parts.now(),
	}
	o.Books, _ = a.parts.Store.(report.Books) // a store that tests put in its place may have none
	if mode := cfg.Mode(); mode != config.ModeUnknown {
		live := mode == config.ModeLive
		o.Livemode = &live
	}
	// An embedded queue is emptied by this process or by none.
	if !cfg.EmbeddedRedis() || a.has(config.RoleWorker) {
		o.Do.Sync = a.parts.SyncNow
		o.Do.Retry = a.consoleRetry
	}
	o.Do.Sweep = a.consoleSweep
	if a.parts.Stripe != nil {
		o.Do.Check = a.consoleCheck
	}
	if cfg.ExportURL.IsSet() {
		location, err := export.ParseURL(cfg.ExportURL.Reveal())
		if err != nil {
			return nil, &config.Error{Problems: []config.Problem{{Var: string(config.VarExportURL), Flag: config.VarExportURL.Flag(), Message: err.Error()}}}
		}
		o.Exports = func(ctx context.Context) (console.Copy, error) { return consoleCopy(ctx, location) }
		o.Do.VerifyCopy = func(ctx context.Context) (console.CopyVerdict, error) { return a.consoleVerify(ctx, location) }
	}
	return console.New(o), nil
}

// beside serves the console under / and the API under /v1/; either may be nil.
func beside(console, api http.Handler) http.Handler {
	if console == nil {
		return api
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1" || strings.HasPrefix(r.URL.Path, "/v1/") {
			if api == nil {
				http.Error(w, "This process has no role api.", http.StatusNotFound)
				return
			}
			api.ServeHTTP(w, r)
			return
		}
		console.ServeHTTP(w, r)
	})
}

// SyncNow has targets read from Stripe ahead of sweeps, from their first row to their
// last.
func (p *Parts) SyncNow(ctx context.Context, targets []mirror.Target) error {
	for _, t := range targets {
		if ok, err := p.mirrors(ctx, t.Account); err != nil {
			return err
		} else if !ok {
			return fmt.Errorf("%w: %s does not name %s, or nothing of it was seen yet", ErrNotMirrored, config.VarStripeAccounts, t.Account)
		}
	}
	if err := p.Store.RequestFullRead(ctx, targets); err != nil {
		return err
	}
	return p.marks.MarkTargets(ctx, targets, nil)
}

// ErrNotMirrored refuses work of an account that is not mirrored. Stripe refuses the key
// for it, so that the work would wait for ever.
var ErrNotMirrored = errors.New("the account is not mirrored")

// mirrors reports whether an account's customers are mirrored; the platform's are.
func (p *Parts) mirrors(ctx context.Context, account string) (bool, error) {
	switch {
	case account == "":
		return true, nil
	case p.Config.StripeAccounts.All:
		return p.Store.AccountSeen(ctx, account)
	}
	return accountFilter(p.Config.StripeAccounts).takes(account), nil
}

// consoleAccounts are the connected accounts.
func (a *App) consoleAccounts(ctx context.Context) ([]string, error) {
	if !a.seen.All {
		return a.seen.IDs, nil
	}
	return a.parts.Store.Accounts(ctx)
}

// consoleStatus is Status with what only people ask.
func (a *App) consoleStatus(ctx context.Context) (console.Status, error) {
	s, err := a.Status(ctx)
	if err != nil {
		return console.Status{}, err
	}
	out := console.Status{
		At: s.At, Fresh50: s.Freshness.P50, Fresh99: s.Freshness.P99, Customers: s.Customers, Transactions: s.Transactions,
		PendingEvents: s.PendingEvents, DeadLetters: s.Queue.Dead, DriftOpen: s.DriftByKind, Unproven: map[string]int64{},
		Queue: console.QueueStatus{
			Ready: s.Queue.Ready, Delayed: s.Queue.Delayed, Leased: s.Queue.Leased, Oldest: time.Duration(s.Queue.OldestReadySeconds * float64(time.Second)),
		},
		Dead: mirror.DeadLetterAges{
			UnderHour: s.DeadLetters.UnderHour, UnderDay: s.DeadLetters.UnderDay, UnderWeek: s.DeadLetters.UnderWeek, Older: s.DeadLetters.Older, Unreadable: s.DeadLetters.Unreadable,
		},
		RefusedKnown: s.AccountsRefusedKnown, Projection: s.Stripe.Projection30d,
		EventsInterval: a.o.Config.EventsInterval, BalancesInterval: a.o.Config.BalancesInterval, Repair: a.o.Config.Repair,
	}
	if s.DeadLetters.Oldest != nil {
		out.Dead.Oldest = *s.DeadLetters.Oldest
	}
	for _, r := range s.AccountsRefused {
		out.Refused = append(out.Refused, console.RefusedKey{Account: r.Account, Scope: r.Scope, Reason: r.Reason, Since: r.Since})
	}
	for _, e := range reconcile.Endpoints() {
		w, known := s.Webhooks[e]
		if !known || w.LastArrival == nil && !w.Silent {
			continue
		}
		row := console.WebhookStatus{Endpoint: string(e), Silent: w.Silent}
		if w.LastArrival != nil {
			row.LastArrival = *w.LastArrival
		}
		if w.SilentSince != nil {
			row.SilentSince = *w.SilentSince
		}
		out.Webhooks = append(out.Webhooks, row)
	}
	out.Calls24h = callsOf(s.Stripe.Calls24h)
	accounts, err := a.consoleAccounts(ctx)
	if err != nil {
		return out, err
	}
	for _, account := range append([]string{""}, accounts...) {
		n, err := a.parts.Store.UnsyncedCount(ctx, account)
		if err != nil {
			return out, err
		}
		if n > 0 {
			out.Unproven[account] = n
		}
	}
	totals, err := a.parts.Store.Totals(ctx)
	if err != nil {
		return out, err
	}
	out.DriftAmount = totals.DriftAmount
	out.Sweeps, err = a.consoleSweeps(ctx)
	return out, err
}

func callsOf(by map[budget.Purpose]int64) []console.Calls {
	var list []console.Calls
	for _, p := range budget.Purposes() {
		if n := by[p]; n > 0 {
			list = append(list, console.Calls{Purpose: string(p), Count: n})
		}
	}
	return list
}

// consoleSweeps are the sweeps of every account, with what is asked of them.
func (a *App) consoleSweeps(ctx context.Context) ([]console.SweepStatus, error) {
	rows, err := a.parts.Store.Sweeps(ctx)
	if err != nil {
		return nil, err
	}
	controls := map[string]reconcile.Control{}
	for _, row := range rows {
		if sweep, c := reconcile.ControlOf(row); sweep != "" {
			controls[sweep] = c
		}
	}
	var list []console.SweepStatus
	for _, row := range rows {
		if !slices.Contains(reconcile.ControlledSweeps(), row.Name) {
			continue
		}
		w := console.SweepStatus{Account: row.Account, Name: row.Name, Started: row.StartedAt, LastSuccess: row.LastSuccess, LastFound: row.LastFound}
		c := controls[row.Name]
		w.Paused, w.PausedBy, w.PausedWhy, w.PausedAt = c.Paused, c.By, c.Reason, c.At
		if row.Name == reconcile.SweepBackfill {
			var at reconcile.Copied
			if json.Unmarshal(row.State, &at) == nil {
				w.Phase, w.Customers, w.Grants, w.Left = at.Phase, at.Customers, at.Grants, at.Left
				w.Progress = copyWords(at)
			}
		}
		list = append(list, w)
	}
	slices.SortFunc(list, func(x, y console.SweepStatus) int {
		if x.Account != y.Account {
			return strings.Compare(x.Account, y.Account)
		}
		return slices.Index(reconcile.ControlledSweeps(), x.Name) - slices.Index(reconcile.ControlledSweeps(), y.Name)
	})
	return list, nil
}

// counted is a number of things.
func counted(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func copyWords(at reconcile.Copied) string {
	switch at.Phase {
	case "done":
		return fmt.Sprintf("done: %s, %s", counted(at.Customers, "customer"), counted(at.Grants, "grant"))
	case "histories":
		return fmt.Sprintf("%s listed; histories left to read: %d", counted(at.Customers, "customer"), at.Left)
	case "":
		return ""
	}
	return fmt.Sprintf("lists %s: %s, %s so far", at.Phase, counted(at.Customers, "customer"), counted(at.Grants, "grant"))
}

func (a *App) consoleCalls(ctx context.Context) ([]console.DayCalls, error) {
	days, err := a.parts.Budget.CallsByDay(ctx)
	var list []console.DayCalls
	for _, d := range days {
		list = append(list, console.DayCalls{Day: d.Start, Calls: callsOf(d.Calls)})
	}
	return list, err
}

// consoleRefusals are what all receivers refused, of each since its start.
func (a *App) consoleRefusals(ctx context.Context) ([]console.Refusal, error) {
	all, err := a.allRefused(ctx)
	if err != nil {
		return nil, err
	}
	var list []console.Refusal
	for _, r := range all {
		code := cmp.Or(r.Code, "400")
		i := slices.IndexFunc(list, func(x console.Refusal) bool { return x.Code == code && x.Reason == r.Reason })
		if i < 0 {
			i = len(list)
			list = append(list, console.Refusal{Code: code, Reason: r.Reason})
		}
		list[i].Count += r.Count
		list[i].Receivers++
		if r.Last.After(list[i].Last) {
			list[i].Last = r.Last
		}
	}
	slices.SortFunc(list, func(x, y console.Refusal) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Code, y.Code), cmp.Compare(x.Reason, y.Reason))
	})
	return list, nil
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func (a *App) consoleRetry(ctx context.Context, ids []string) ([]console.Retried, error) {
	results, err := a.parts.RetryDead(ctx, ids)
	list := make([]console.Retried, len(results))
	for i, r := range results {
		list[i] = console.Retried{ID: r.ID, Outcome: string(r.Outcome), Detail: r.Detail, Left: r.Outcome.Left() && r.Outcome != RetryGone}
	}
	return list, err
}

func (a *App) consoleSweep(ctx context.Context, name string, what mirror.ActionKind, by, reason string) error {
	now := a.parts.now()()
	switch what {
	case mirror.ActionSweepStart:
		return reconcile.StartSweep(ctx, a.parts.Store, name, now)
	case mirror.ActionSweepPause:
		return reconcile.PauseSweep(ctx, a.parts.Store, name, by, reason, now)
	case mirror.ActionSweepGoOn:
		return reconcile.ResumeSweep(ctx, a.parts.Store, name, by, now)
	}
	return fmt.Errorf("a sweep cannot %s", what)
}

// consoleCheck checks the endpoints of ours that Stripe has, as endpoint check does for
// one URL.
func (a *App) consoleCheck(ctx context.Context) ([]console.Verdict, error) {
	service := endpoint.New(a.parts.Stripe.For(stripeapi.PurposeEndpoint))
	all, _, err := service.List(ctx, "", false)
	if err != nil {
		return nil, err
	}
	if thin, _, err := service.List(ctx, "", true); err == nil { // a key may be refused destinations alone
		all = append(all, thin...)
	}
	live := a.o.Config.Mode() == config.ModeLive
	var list []console.Verdict
	seen := map[endpoint.Wanted]bool{}
	for _, e := range all {
		if !strings.HasSuffix(e.URL, webhook.Path) {
			continue
		}
		w := endpoint.Wanted{URL: e.URL, Connect: e.Metadata["creditmirror"] == "connect", Thin: e.Thin, Version: a.o.Config.StripeAPIVersion, Livemode: live}
		if seen[w] {
			continue
		}
		seen[w] = true
		findings, err := service.Check(ctx, w)
		if err != nil {
			return list, err
		}
		for _, f := range findings {
			list = append(list, console.Verdict{Bad: f.Problem, About: f.About, Text: f.Text + " (" + e.URL + ")"})
		}
	}
	if len(list) == 0 {
		list = append(list, console.Verdict{Bad: true, About: "endpoint", Text: "Stripe has no endpoint whose address ends in " + webhook.Path + "; make one with creditmirror endpoint create"})
	}
	return list, nil
}

// consoleGenerations bounds how many generations a page lists.
const consoleGenerations = 100

func consoleCopy(ctx context.Context, l export.Location) (console.Copy, error) {
	out := console.Copy{Location: l.String()}
	list, err := export.List(ctx, l)
	slices.Reverse(list)
	for _, g := range list[:min(len(list), consoleGenerations)] {
		row := console.Generation{
			Number: g.Generation, Kind: g.Kind, Rows: g.Rows, Files: int64(len(g.Files)), Bytes: g.Bytes, Unproven: g.UnprovenCustomers,
			Loaded: g.DataLoadTime, ToolVersion: g.ToolVersion,
		}
		for _, name := range export.TableNames() {
			if t, ok := g.Tables[name]; ok && t.Rows > 0 {
				row.TableRows = append(row.TableRows, console.TableRows{Table: name, Rows: t.Rows})
			}
		}
		out.Generations = append(out.Generations, row)
	}
	return out, err
}

func (a *App) consoleVerify(ctx context.Context, l export.Location) (console.CopyVerdict, error) {
	feed, _ := a.parts.Store.(mirror.Feed)
	v, err := export.Verify(ctx, l, feed, nil)
	out := console.CopyVerdict{Generations: int64(v.Generations), Files: int64(v.Files), Rows: v.Rows, Mirror: v.Mirror}
	for _, d := range v.Differences {
		out.Differences = append(out.Differences, fmt.Sprintf("generation %d, %s %s: %s: %s, not %s", d.Generation, d.Table, d.File, d.What, d.Actual, d.Expected))
	}
	return out, err
}

// SyncPath is where the ops listener takes a SyncRequest by POST.
const SyncPath = "/sync"

// SyncRequest asks for both ledgers of a customer to be read from Stripe now.
type SyncRequest struct {
	Account  string `json:"account"`
	Customer string `json:"customer"`
}

// Targets are its ledgers.
func (r SyncRequest) Targets() []mirror.Target {
	return []mirror.Target{{Account: r.Account, Scope: mirror.ScopeBalance, ID: r.Customer}, {Account: r.Account, Scope: mirror.ScopeCredits, ID: r.Customer}}
}

// syncCustomer lets the command line reach the queue that is embedded in this process.
func (a *App) syncCustomer(w http.ResponseWriter, r *http.Request) {
	var ask SyncRequest
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&ask); err != nil || !ask.Targets()[0].Valid() || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": `want Content-Type: application/json and {"customer": "cus_…", "account": ""}`})
		return
	}
	if err := a.parts.SyncNow(r.Context(), ask.Targets()); err != nil {
		status := http.StatusServiceUnavailable
		if errors.Is(err, ErrNotMirrored) {
			status = http.StatusNotFound
		}
		writeJSON(w, status, map[string]string{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, struct{}{})
}
