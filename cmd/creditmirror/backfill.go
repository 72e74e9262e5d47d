package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/reconcile"
)

func newBackfill(e *env) *cobra.Command {
	c := &cobra.Command{
		Use:   "backfill",
		Short: "Make the first copy of an account",
		Long: lines(
			"Reads the balance of every customer (one call per 100), then all grants, then every",
			"history. Stop it at any time: the next run goes on where it was. serve makes the first",
			"copy by itself; this command does the same with a progress bar, alone or beside it.",
			"",
			"Copies the platform's own account and every account in STRIPE_ACCOUNTS."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.VarStripeAPIKey, config.VarStripeAPIBase, config.VarStripeAPIVersion,
		config.VarStripeAccounts, config.VarDatabaseURL, config.VarRedisURL, config.VarStripeRPS, config.VarStripeEndpointRPS,
		config.VarWorkers, config.VarCustomerFields, config.VarLogLevel, config.VarMaxAttempts)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		roles := []config.Role{config.RoleWorker, config.RoleReconcile}
		cfg, err := config.LoadFor(e.environ, roles, overrides)
		if err != nil {
			return err
		}
		return backfill(cmd.Context(), e, cfg)
	}
	return c
}

func backfill(ctx context.Context, e *env, cfg config.Config) (err error) {
	log := e.logger(cfg.LogLevel)
	parts, err := app.OpenParts(ctx, cfg, prometheus.NewRegistry(), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parts.Close()) }()

	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	drained := make(chan error, 1)
	go func() { drained <- parts.Work(work, log) }()
	defer func() {
		stopWork()
		err = errors.Join(err, <-drained)
	}()

	accounts := append([]string{""}, cfg.StripeAccounts.IDs...)
	if cfg.StripeAccounts.All {
		seen, err := parts.Store.Accounts(ctx)
		if err != nil {
			return err
		}
		accounts = append(accounts, seen...)
	}
	for _, account := range accounts {
		if err := backfillAccount(ctx, e.err, parts, account); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("stopped; run it again to go on where it was")
			}
			return err
		}
	}
	totals, err := parts.Store.Totals(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.out, "%d customers, %d balance transactions, %d credit transactions, %d dead letters\n",
		totals.Customers, totals.BalanceTransactions, totals.CreditTransactions, totals.DeadLetters)
	if totals.DeadLetters > 0 {
		return errFound
	}
	return nil
}

// backfillAccount runs one first copy with a bar of its own.
func backfillAccount(ctx context.Context, w io.Writer, parts *app.Parts, account string) error {
	name := account
	if name == "" {
		name = "platform account"
	}
	bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(name),
		progressbar.OptionShowIts(), progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionSetItsString("customers"),
		progressbar.OptionUseANSICodes(terminal(w)), progressbar.OptionSetVisibility(terminal(w)))
	lastPhase, lastLine := "", time.Time{}
	err := parts.FirstCopy(0, nil).Run(ctx, account, func(at reconcile.Copied) {
		if at.Phase != lastPhase {
			lastPhase = at.Phase
			fmt.Fprintf(w, "%s: %s (%d customers, %d grants so far)\n", name, at.Phase, at.Customers, at.Grants)
			if at.Phase == "histories" {
				bar.ChangeMax64(max(at.Left, 1))
			}
		}
		if at.Phase == "histories" && bar.GetMax64() > 0 {
			_ = bar.Set64(bar.GetMax64() - min(at.Left, bar.GetMax64()))
		}
		if !terminal(w) && time.Since(lastLine) > 5*time.Second { // a log file gets a line now and then
			lastLine = time.Now()
			fmt.Fprintf(w, "%s: %s, %d customers, %d grants, %d histories left\n", name, at.Phase, at.Customers, at.Grants, at.Left)
		}
	})
	_ = bar.Finish()
	return err
}
