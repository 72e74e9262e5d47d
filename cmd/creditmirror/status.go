package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	books "github.com/creditmirror/creditmirror/report"
)

func newStatus(e *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show queue, freshness, drift, sweeps, webhooks, dead letters and Stripe calls",
		Long: lines(
			"With a Redis of its own (CREDITMIRROR_REDIS_URL) it asks Redis and the database.",
			"With the embedded one it asks the running serve at CREDITMIRROR_OPS_ADDR.",
			"",
			"Problems come first, with what to do. What cannot be reached is named, and",
			"the rest is still shown. The exit status is 1 where something does not work."),
		Args: cobra.NoArgs,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL, config.VarRedisURL, config.VarOpsAddr)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.LoadUsed(e.environ, nil, overrides, config.VarOpsTLSCert, config.VarOpsTLSKey, config.VarLedgers)
		if err != nil {
			return err
		}
		s, err := readStatus(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		if asJSON {
			enc := json.NewEncoder(e.out)
			enc.SetIndent("", "  ")
			err = enc.Encode(s)
		} else {
			err = printStatus(e.out, s)
		}
		if err == nil && s.Failing() {
			return errFound
		}
		return err
	}
	return c
}

func readStatus(ctx context.Context, cfg config.Config) (app.Status, error) {
	if cfg.EmbeddedRedis() {
		s, err := askServe(ctx, cfg)
		path, file := cfg.SQLitePath()
		if _, missing := os.Stat(path); err == nil || file && missing != nil {
			return s, err
		}
		// What the database knows is better than nothing.
		known, more := app.ReadStatus(ctx, cfg)
		if more != nil {
			return s, errors.Join(err, more)
		}
		for i, p := range known.Problems {
			if p.What == "redis does not answer" {
				known.Problems[i].What, known.Problems[i].Detail = "no serve answers", err.Error()
				known.Problems[i].Do = "start serve, or set " + string(config.VarOpsAddr) + " to its address; webhooks get no answer and Stripe sends them again for three days"
			}
		}
		return known, nil
	}
	return app.ReadStatus(ctx, cfg)
}

// askServe asks a running serve, since only it knows its embedded queue.
func askServe(ctx context.Context, cfg config.Config) (s app.Status, err error) {
	return s, callServe(ctx, cfg, http.MethodGet, "/status", nil, &s)
}

// callServe sends a request to the ops listener of a running serve: only it can
// reach the queue that is embedded in it.
func callServe(ctx context.Context, cfg config.Config, method, path string, body, into any) error {
	opsAddr := localAddr(cfg.OpsAddr)
	serve, err := reachServe(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var send io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, serve.base+path, send)
	if err != nil {
		return err
	}
	req.Host = "localhost" // whatever name the address has
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := serve.client.Do(req)
	if err != nil {
		return fmt.Errorf("no serve answers at %s (the queue is embedded in it, so only it can do this): start serve, or set %s to its address: %w",
			opsAddr, config.VarOpsAddr, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fmt.Errorf("serve at %s answers %s: %s", opsAddr, resp.Status, text)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into); err != nil {
		return fmt.Errorf("what listens at %s is not a creditmirror: %w", opsAddr, err)
	}
	return nil
}

// printProblems prints what a person should look after.
func printProblems(row func(name, format string, args ...any), problems []app.Problem) {
	for _, p := range problems {
		label := "NOTICE"
		if p.Severity == app.Failing {
			label = "FAILING"
		}
		what := p.What
		if p.Since != nil {
			what += " since " + p.Since.Format(time.RFC3339)
		}
		row(label, "%s", what)
		if p.Detail != "" {
			row("", "%s", p.Detail)
		}
		row("", "do: %s", p.Do)
	}
	if len(problems) == 0 {
		row("well", "nothing to look after")
	}
}

// printSweeps prints when each sweep was done, and when webhooks arrived.
func printSweeps(row func(name, format string, args ...any), s app.Status) {
	for _, name := range slices.Sorted(maps.Keys(s.Sweeps)) {
		sweep := s.Sweeps[name]
		if sweep.LastSuccess == nil {
			row("sweep "+name, "not finished yet")
			continue
		}
		row("sweep "+name, "%s, %s ago, found %d", sweep.LastSuccess.Format(time.RFC3339), ago(s.At, sweep.LastSuccess), sweep.LastFound)
	}
	for _, endpoint := range slices.Sorted(maps.Keys(s.Webhooks)) {
		w := s.Webhooks[endpoint]
		switch {
		case w.Silent:
			row("webhooks "+string(endpoint), "SILENT since %s: Stripe has events that none delivered", w.SilentSince.Format(time.RFC3339))
		case w.LastArrival != nil:
			row("webhooks "+string(endpoint), "last arrived %s ago", ago(s.At, w.LastArrival))
		}
	}
}

func printStatus(out io.Writer, s app.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	printProblems(row, s.Problems)
	row("queue", "%d ready, %d delayed, %d in work, %d dead", s.Queue.Ready, s.Queue.Delayed, s.Queue.Leased, s.Queue.Dead)
	row("oldest ready", "%s", time.Duration(s.Queue.OldestReadySeconds*float64(time.Second)).Round(time.Millisecond))
	if s.GrantsNotMonetary > 0 {
		row("not money", "%d credit grants in custom pricing units: no figure counts them", s.GrantsNotMonetary)
	}
	if s.Freshness.P50 != nil {
		row("freshness", "p50 %.2fs, p99 %.2fs", *s.Freshness.P50, *s.Freshness.P99)
	} else {
		row("freshness", "no event answered yet")
	}
	row("customers", "%d", s.Customers)
	row("transactions", "%d", s.Transactions)
	row("events waiting", "%d", s.PendingEvents)
	row("drift open", "%d", s.DriftOpen)
	for _, kind := range slices.Sorted(maps.Keys(s.DriftByKind)) {
		row("drift "+string(kind), "%d", s.DriftByKind[kind])
	}
	printSweeps(row, s)
	if d := s.DeadLetters; s.Queue.Dead > 0 {
		row("dead letters", "%d under an hour old, %d under a day, %d under a week, %d older; %d of them unreadable: see dead list",
			d.UnderHour, d.UnderDay, d.UnderWeek, d.Older, d.Unreadable)
	}
	for _, purpose := range slices.Sorted(maps.Keys(s.Stripe.Calls24h)) {
		row("stripe calls 24h "+string(purpose), "%d", s.Stripe.Calls24h[purpose])
	}
	row("stripe calls, 30 days like this", "%d (Stripe allows about %d reads per payment, so as many as with %d payments)",
		s.Stripe.Projection30d, readsPerPayment, (s.Stripe.Projection30d+readsPerPayment-1)/readsPerPayment)
	for _, t := range s.Balances {
		sign := "negative is credit that customers have"
		if t.Ledger == "credits" {
			sign = "positive is credit left"
		}
		row("sum "+t.Ledger+" "+t.Currency, "%s (%d minor units; %s)", books.Human(books.Ledger(t.Ledger), t.Amount, t.Currency), t.Amount, sign)
	}
	for _, k := range s.APIKeys {
		last := "never used"
		if k.LastUsed != nil {
			last = "last used " + ago(s.At, k.LastUsed).String() + " ago"
		}
		switch {
		case !k.Configured:
			last += ", not configured here"
		case k.Expired:
			last += ", EXPIRED " + k.Expires.Format(time.RFC3339)
		case k.Expires != nil:
			last += ", expires " + k.Expires.Format(time.RFC3339)
		}
		row("api key "+k.Name, "%s", last)
	}
	for _, l := range s.Limits {
		row("limit", "account %q: the key lacks the permission %s: %s", l.Account, l.Permission, l.Without)
	}
	for _, r := range s.AccountsRefused {
		row("refused by stripe", "account %q %s since %s: %s", r.Account, r.Scope, r.Since.Format(time.RFC3339), r.Reason)
	}
	if !s.AccountsRefusedKnown {
		row("refused by stripe", "nothing reported in the last two minutes")
	}
	return w.Flush()
}

// readsPerPayment is how many reads Stripe allows for each payment, over 30 days.
const readsPerPayment = 500

// ago returns how long before now t was, to the second.
func ago(now time.Time, t *time.Time) time.Duration {
	return max(now.Sub(*t), 0).Round(time.Second)
}
