package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
)

// repairWait bounds how long the command waits for its repairs.
const repairWait = 10 * time.Minute

type reconcileOptions struct {
	sweep, account, format string
	dryRun                 bool
}

func newReconcile(e *env) *cobra.Command {
	var o reconcileOptions
	c := &cobra.Command{
		Use:       "reconcile events|balances|scrub",
		Short:     "Compare the mirror with Stripe once, now, and repair what differs",
		ValidArgs: []string{reconcile.SweepEvents, reconcile.SweepBalances, reconcile.SweepScrub},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		Long: lines(
			"events    finds events that Stripe lists and the mirror never applied (one call per 100)",
			"balances  compares the balance of every customer and every grant (one call per 100)",
			"scrub     reads every history anew, from its first row to its last (a call or more per customer);",
			"          with --dry-run, or without repair, it compares every field and tells what differs",
			"",
			"Prints the differences that it found, those repaired with the time of their repair, and any",
			"others that are still open. Exits 1 when something is left. Runs alone or beside a serve."),
	}
	overrides := config.Bind(c.Flags(), config.VarStripeAPIKey, config.VarStripeAPIBase, config.VarStripeAPIVersion,
		config.VarStripeAccounts, config.VarDatabaseURL, config.VarRedisURL, config.VarStripeRPS, config.VarStripeEndpointRPS,
		config.VarWorkers, config.VarCustomerFields, config.VarLogLevel, config.VarMaxAttempts, config.VarInbox, config.VarRepair)
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "report what differs, change nothing and mark nothing")
	c.Flags().StringVar(&o.account, "account", "", `only this connected account (acct_…); "" is the platform's own (default: all)`)
	c.Flags().StringVar(&o.format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o.sweep = args[0]
		if o.account != "" && !mirror.ValidAccountID(o.account) {
			return fmt.Errorf("%w: --account %q: want acct_…", errUsage, o.account)
		}
		w, err := newFindingReport(e.out, o.format)
		if err != nil {
			return err
		}
		cfg, err := config.LoadFor(e.environ, []config.Role{config.RoleWorker, config.RoleReconcile}, overrides)
		if err != nil {
			return err
		}
		found, err := runReconcile(cmd.Context(), e, cfg, o, cmd.Flags().Changed("account"))
		if err != nil {
			return err
		}
		w.head()
		left := false
		for _, f := range found {
			left = left || f.RepairedAt.IsZero()
			if err := w.finding(f); err != nil {
				return err
			}
		}
		if err := w.end(); err != nil {
			return err
		}
		if left {
			return errFound
		}
		return nil
	}
	return c
}

// runReconcile makes the pass and returns what it found and what is open.
func runReconcile(ctx context.Context, e *env, cfg config.Config, o reconcileOptions, oneAccount bool) (found []mirror.Finding, err error) {
	log := e.logger(cfg.LogLevel)
	open := app.OpenParts
	if o.dryRun {
		open = func(ctx context.Context, cfg config.Config, _ prometheus.Registerer, _ *zap.Logger) (*app.Parts, error) {
			return app.OpenPartsToLook(ctx, cfg)
		}
	}
	parts, err := open(ctx, cfg, prometheus.NewRegistry(), log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, parts.Close()) }()
	accounts := append([]string{""}, cfg.StripeAccounts.IDs...)
	if cfg.StripeAccounts.All {
		seen, err := parts.Store.Accounts(ctx)
		if err != nil {
			return nil, err
		}
		accounts = append(accounts, seen...)
	}
	if oneAccount {
		accounts = []string{o.account}
	}
	for _, account := range accounts {
		done, err := parts.FirstCopy(0, log).Done(ctx, account)
		if err != nil {
			return nil, err
		}
		if !done {
			return nil, fmt.Errorf("account %q has no complete first copy yet: run backfill or serve first", account)
		}
	}
	if o.dryRun || !cfg.Repair {
		return passes(ctx, e.err, parts, o, accounts, log)
	}

	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	drained := make(chan error, 1)
	go func() { drained <- parts.Work(work, log) }()
	defer func() {
		stopWork()
		err = errors.Join(err, <-drained)
	}()
	begun := time.Now()
	if _, err := passes(ctx, e.err, parts, o, accounts, log); err != nil {
		return nil, err
	}
	return repaired(ctx, parts, accounts, begun)
}

// passes runs the sweep over each account and returns what it met.
func passes(ctx context.Context, progress io.Writer, parts *app.Parts, o reconcileOptions, accounts []string, log *zap.Logger) ([]mirror.Finding, error) {
	var found []mirror.Finding
	for _, account := range accounts {
		switch o.sweep {
		case reconcile.SweepEvents:
			result, err := parts.Events(o.dryRun, log).Run(ctx, account)
			if err != nil {
				return nil, err
			}
			found = append(found, result.Findings...)
			fmt.Fprintf(progress, "account %q: %d events since %s, %d missed\n", account, result.Seen, rfc3339(result.From), result.Missed)
			if result.Beyond {
				fmt.Fprintln(progress, "older events are no longer listed by Stripe: run reconcile balances and reconcile scrub")
			}
		case reconcile.SweepBalances:
			result, err := parts.Balances(o.dryRun, log).Run(ctx, account, "")
			if err != nil {
				return nil, err
			}
			found = append(found, result.Findings...)
			fmt.Fprintf(progress, "account %q: %d customers, %d grants, %d differences\n", account, result.Customers, result.Grants, len(result.Findings))
		case reconcile.SweepScrub:
			if o.dryRun || !parts.Config.Repair {
				reported, err := parts.ScrubReport(o.dryRun, log).Run(ctx, account, "", 0, nil)
				if err != nil {
					return nil, err
				}
				found = append(found, reported.Findings...)
				fmt.Fprintf(progress, "account %q: %d customers, %d histories read, %d differences\n", account, reported.Customers, reported.Histories, len(reported.Findings))
				continue
			}
			total := 0
			if err := parts.Scrub(log).Pass(ctx, account, func(n int) { total += n }); err != nil {
				return nil, err
			}
			fmt.Fprintf(progress, "account %q: %d histories read\n", account, total)
		}
	}
	return found, nil
}

// repaired waits until the queue has worked off what the pass marked, and lists
// what was repaired since, and what is open.
func repaired(ctx context.Context, parts *app.Parts, accounts []string, since time.Time) ([]mirror.Finding, error) {
	deadline := time.Now().Add(repairWait)
	for {
		var list []mirror.Finding
		var targets []mirror.Target
		for _, account := range accounts {
			for q := (mirror.FindingsQuery{Account: &account, RepairedSince: since, Limit: 500}); ; {
				page, err := parts.Store.Findings(ctx, q)
				if err != nil {
					return nil, err
				}
				for _, f := range page {
					q.After = f.ID
					if t := (mirror.Target{Account: f.Account, Scope: f.Scope, ID: f.Customer}); f.RepairedAt.IsZero() && t.Valid() {
						targets = append(targets, t)
					}
				}
				if list = append(list, page...); len(page) < q.Limit {
					break
				}
			}
		}
		waiting, err := parts.Waiting(ctx, targets)
		if err != nil {
			return nil, err
		}
		if waiting == 0 || time.Now().After(deadline) {
			return list, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("stopped; what was found is recorded, and what was marked stays marked in a Redis of its own")
		case <-time.After(200 * time.Millisecond):
		}
	}
}
