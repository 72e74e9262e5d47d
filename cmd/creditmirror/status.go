package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
)

func newStatus(e *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Tell queue, freshness, drift, sweeps and Stripe calls",
		Long: lines(
			"With a Redis of its own (CREDITMIRROR_REDIS_URL) it asks Redis and the database.",
			"With the embedded one it asks the running serve at CREDITMIRROR_OPS_ADDR."),
		Args: cobra.NoArgs,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL, config.VarRedisURL, config.VarOpsAddr)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(e.environ, overrides)
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
			return enc.Encode(s)
		}
		return printStatus(e.out, s)
	}
	return c
}

func readStatus(ctx context.Context, cfg config.Config) (app.Status, error) {
	if cfg.EmbeddedRedis() {
		return askServe(ctx, localAddr(cfg.OpsAddr))
	}
	parts, err := app.OpenPartsToLook(ctx, cfg)
	if err != nil {
		return app.Status{}, err
	}
	s, err := parts.Status(ctx, nil)
	return s, errors.Join(err, parts.Close())
}

// askServe asks a running serve, since only it knows its embedded queue.
func askServe(ctx context.Context, opsAddr string) (app.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var s app.Status
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+opsAddr+"/status", http.NoBody)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, fmt.Errorf("no serve answers at %s (the queue is embedded in it, so only it can tell): start serve, or set CREDITMIRROR_OPS_ADDR to its address: %w", opsAddr, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return s, fmt.Errorf("serve at %s answers %s: %s", opsAddr, resp.Status, text)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&s); err != nil {
		return s, fmt.Errorf("what listens at %s is not a creditmirror: %w", opsAddr, err)
	}
	return s, nil
}

func printStatus(out io.Writer, s app.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("queue", "%d ready, %d delayed, %d in work, %d dead", s.Queue.Ready, s.Queue.Delayed, s.Queue.Leased, s.Queue.Dead)
	row("oldest ready", "%s", time.Duration(s.Queue.OldestReadySeconds*float64(time.Second)).Round(time.Millisecond))
	if s.Freshness.P50 != nil {
		row("freshness", "p50 %.2fs, p99 %.2fs", *s.Freshness.P50, *s.Freshness.P99)
	} else {
		row("freshness", "no event answered yet")
	}
	row("customers", "%d", s.Customers)
	row("transactions", "%d", s.Transactions)
	row("events waiting", "%d", s.PendingEvents)
	row("drift open", "%d", s.DriftOpen)
	for _, name := range slices.Sorted(maps.Keys(s.Sweeps)) {
		sweep := s.Sweeps[name]
		if sweep.LastSuccess == nil {
			row("sweep "+name, "not finished yet")
			continue
		}
		row("sweep "+name, "%s, found %d", sweep.LastSuccess.Format(time.RFC3339), sweep.LastFound)
	}
	for _, purpose := range slices.Sorted(maps.Keys(s.Stripe.Calls24h)) {
		row("stripe calls 24h "+string(purpose), "%d", s.Stripe.Calls24h[purpose])
	}
	row("stripe calls, 30 days like this", "%d", s.Stripe.Projection30d)
	for _, t := range s.Balances {
		row("sum "+t.Ledger+" "+t.Currency, "%d", t.Amount)
	}
	for _, r := range s.AccountsRefused {
		row("refused by stripe", "account %q %s since %s: %s", r.Account, r.Scope, r.Since.Format(time.RFC3339), r.Reason)
	}
	return w.Flush()
}
