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
	"go.uber.org/zap"

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
			"history, the largest amounts first. Stop it at any time: the next run resumes where it",
			"stopped. serve makes the first copy by itself; this command does the same with a progress",
			"bar. One process at a time copies an account: while a serve does it, this command says",
			"so and ends with exit 1; while this command does it, a serve waits.",
			"",
			"Copies the platform's own account and every account in STRIPE_ACCOUNTS."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.VarStripeAPIKey, config.VarStripeAPIBase, config.VarStripeAPIVersion,
		config.VarStripeAccounts, config.VarDatabaseURL, config.VarRedisURL, config.VarStripeRPS, config.VarStripeEndpointRPS,
		config.VarWorkers, config.VarCustomerFields, config.VarLogLevel, config.VarMaxAttempts, config.VarLedgers)
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
		if err := backfillAccount(ctx, e.err, parts, account, log); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("stopped; run it again to resume")
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
func backfillAccount(ctx context.Context, w io.Writer, parts *app.Parts, account string, log *zap.Logger) error {
	name := account
	if name == "" {
		name = "platform account"
	}
	bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(w), progressbar.OptionSetPredictTime(false),
		progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionUseANSICodes(terminal(w)), progressbar.OptionSetVisibility(terminal(w)))
	lastPhase, lastLine := "", time.Time{}
	// A backfill that was killed holds its lease for a while.
	copier := parts.FirstCopy(reconcile.CopyLease+time.Second, log)
	err := copier.Run(ctx, account, func(at reconcile.Copied) {
		line := name + ": " + standing(at)
		bar.Describe(line)
		bar.ChangeMax64(max(at.Calls+at.CallsLeft, 1))
		_ = bar.Set64(at.Calls)
		// A log file gets a line now and then; a terminal one for each phase.
		if at.Phase != lastPhase || !terminal(w) && time.Since(lastLine) > 5*time.Second {
			lastPhase, lastLine = at.Phase, time.Now()
			fmt.Fprintln(w, line)
		}
	})
	_ = bar.Finish()
	if errors.Is(err, reconcile.ErrCopying) {
		at, _ := copier.Standing(ctx, account) //nolint:errcheck // it only says more
		return fmt.Errorf("%s: %w, a serve or another backfill (%s); let it finish, or stop it and run this again", name, err, standing(at))
	}
	return err
}

// standing says in words how far a first copy got.
func standing(at reconcile.Copied) string {
	text := fmt.Sprintf("%s, %d customers, %d grants", at.Phase, at.Customers, at.Grants)
	if at.Phase == "histories" {
		text += fmt.Sprintf(", %d histories left", at.Left)
	}
	if at.Rate > 0 {
		text += fmt.Sprintf("; %.1f calls/s, %d calls left, about %s", at.Rate, at.CallsLeft, at.TimeLeft.Round(time.Second))
	}
	return text
}
