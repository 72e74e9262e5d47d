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

const (
	// repairWait bounds how long the command waits for its repairs.
	repairWait = 10 * time.Minute
	// lookTimeout bounds how long a command that was stopped looks up what it found.
	lookTimeout = 10 * time.Second
)

type reconcileOptions struct {
	sweep, account, format string
	dryRun                 bool
}

func newReconcile(e *env) *cobra.Command {
	var o reconcileOptions
	sweeps := []string{reconcile.SweepEvents, reconcile.SweepBalances, reconcile.SweepScrub}
	c := &cobra.Command{
		Use:       "reconcile events|balances|scrub",
		Short:     "Compare the mirror with Stripe once, now, and repair what differs",
		ValidArgs: sweeps,
		Args:      oneArg("events, balances or scrub", sweeps...),
		Long: lines(
			"events    finds events that Stripe lists and the mirror never applied (one call per 100)",
			"balances  compares the balance of every customer and every grant (one call per 100)",
			"scrub     reads every history anew, from its first row to its last (a call or more per customer);",
			"          with --dry-run, or without repair, it compares every field and reports what differs",
			"",
			"Prints the differences that it found, those repaired with the time of their repair, and any",
			"others that are still open. Exits 1 when something is left. Stopped before its end, it prints",
			"what it found until then. Runs alone or beside a serve."),
	}
	overrides := config.Bind(c.Flags(), config.VarStripeAPIKey, config.VarStripeAPIBase, config.VarStripeAPIVersion,
		config.VarStripeAccounts, config.VarDatabaseURL, config.VarRedisURL, config.VarStripeRPS, config.VarStripeEndpointRPS,
		config.VarWorkers, config.VarCustomerFields, config.VarLogLevel, config.VarMaxAttempts, config.VarInbox, config.VarRepair, config.VarLedgers)
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
		left := false
		err = runReconcile(cmd.Context(), e, cfg, o, cmd.Flags().Changed("account"), func(found []mirror.Finding) error {
			w.head()
			for _, f := range found {
				left = left || f.RepairedAt.IsZero()
				if err := w.finding(f); err != nil {
					return err
				}
			}
			return w.end()
		})
		if err == nil && left {
			err = errFound
		}
		return err
	}
	return c
}

// runReconcile makes the pass and shows what it found and what is open, once. A pass
// that breaks off shows what it found until then.
func runReconcile(ctx context.Context, e *env, cfg config.Config, o reconcileOptions, oneAccount bool, show func([]mirror.Finding) error) (err error) {
	if err := mirrorIsThere(cfg); err != nil {
		return err
	}
	log := e.logger(cfg.LogLevel)
	open := app.OpenParts
	if o.dryRun {
		open = func(ctx context.Context, cfg config.Config, _ prometheus.Registerer, _ *zap.Logger) (*app.Parts, error) {
			return app.OpenPartsToLook(ctx, cfg)
		}
	}
	parts, err := open(ctx, cfg, prometheus.NewRegistry(), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parts.Close()) }()
	accounts := append([]string{""}, cfg.StripeAccounts.IDs...)
	if cfg.StripeAccounts.All {
		seen, err := parts.Store.Accounts(ctx)
		if err != nil {
			return err
		}
		accounts = append(accounts, seen...)
	}
	if oneAccount {
		accounts = []string{o.account}
	}
	for _, account := range accounts {
		done, err := parts.FirstCopy(0, log).Done(ctx, account)
		if err != nil {
			return err
		}
		if !done {
			return fmt.Errorf("account %q has no complete first copy yet: run backfill or serve first", account)
		}
	}
	if o.dryRun || !cfg.Repair {
		found, unread, err := passes(ctx, e.err, parts, o, accounts, log)
		open, openErr := recorded(context.WithoutCancel(ctx), parts, accounts, time.Now().Add(time.Hour))
		found, err = withOpen(found, open), errors.Join(err, openErr)
		return incomplete(unread, errors.Join(brokenOff(ctx, err), show(found)))
	}

	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	drained := make(chan error, 1)
	go func() { drained <- parts.Work(work, log) }()
	defer func() {
		stopWork()
		err = errors.Join(err, <-drained)
	}()
	begun := time.Now()
	_, unread, err := passes(ctx, e.err, parts, o, accounts, log)
	if err == nil {
		var left int
		left, err = settle(ctx, e.err, parts, o, accounts, begun)
		unread += left
	}
	// Before the workers are waited for: a second signal may end that at once.
	look, stopLooking := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer stopLooking()
	found, lookErr := recorded(look, parts, accounts, begun)
	return incomplete(unread, errors.Join(brokenOff(ctx, err), lookErr, show(found)))
}

// withOpen adds the differences that are on record and open, as the run that repairs
// reports them too.
func withOpen(found, open []mirror.Finding) []mirror.Finding {
	type difference struct {
		kind                                mirror.DriftKind
		account, customer, currency, object string
	}
	of := func(f mirror.Finding) difference {
		return difference{f.Kind, f.Account, f.Customer, f.Currency, f.Object}
	}
	told := map[difference]bool{}
	for _, f := range found {
		told[of(f)] = true
	}
	for _, f := range open {
		if !told[of(f)] {
			found = append(found, f)
		}
	}
	return found
}

// incomplete makes a pass that could not read everything exit 1.
func incomplete(unread int, err error) error {
	if err == nil && unread > 0 {
		return errFound
	}
	return err
}

// brokenOff says of a pass that was stopped what its report is worth.
func brokenOff(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("stopped before the end; what was found until then is printed (repairs stay queued where Redis is not embedded): %w", err)
}

// passes runs the sweep over each account and returns what it met, also when it
// breaks off, and how many histories of those to be read could not be.
func passes(ctx context.Context, progress io.Writer, parts *app.Parts, o reconcileOptions, accounts []string, log *zap.Logger) (found []mirror.Finding, unread int, err error) {
	for _, account := range accounts {
		switch o.sweep {
		case reconcile.SweepEvents:
			result, err := parts.Events(o.dryRun, log).RunToEnd(ctx, account)
			found = append(found, result.Findings...)
			if err != nil {
				return found, unread, err
			}
			fmt.Fprintf(progress, "account %q: %d events since %s, %d missed\n", account, result.Seen, rfc3339(result.From), result.Missed)
			if result.Late > 0 {
				fmt.Fprintf(progress, "%d more came while no receiver ran, or before the first copy: they are enqueued, and nothing was lost\n", result.Late)
			}
			if result.Beyond {
				fmt.Fprintln(progress, "older events are no longer listed by Stripe: run reconcile balances and reconcile scrub")
			}
		case reconcile.SweepBalances:
			result, err := parts.Balances(o.dryRun, log).Run(ctx, account, "")
			found = append(found, result.Findings...)
			if err != nil {
				return found, unread, err
			}
			fmt.Fprintf(progress, "account %q: %d customers, %d grants, %d differences\n", account, result.Customers, result.Grants, len(result.Findings))
			for _, part := range result.Limited {
				fmt.Fprintf(progress, "account %q: not compared: %s, which the key may not read (status names the permission)\n", account, part)
			}
		case reconcile.SweepScrub:
			if o.dryRun || !parts.Config.Repair {
				reported, err := parts.ScrubReport(o.dryRun, log).Run(ctx, account, "", 0, nil)
				found = append(found, reported.Findings...)
				if err != nil {
					return found, unread, err
				}
				fmt.Fprintf(progress, "account %q: %d customers, %d histories read, %d differences\n", account, reported.Customers, reported.Histories, len(reported.Findings))
				if reported.Unread > 0 {
					fmt.Fprintf(progress, "%d customers not compared: Stripe did not answer for them, the log names them\n", reported.Unread)
				}
				unread += reported.Unread
				continue
			}
			passed, err := parts.Scrub(log).Pass(ctx, account, func(int) {})
			if err != nil {
				return found, unread, err
			}
			fmt.Fprintf(progress, "account %q: %d histories read, %d could not be\n", account, passed.Read, passed.Unread)
			if passed.Unread > 0 {
				fmt.Fprintf(progress, "why not: creditmirror dead list, and differences with the cause %q\n", mirror.CauseRewritten)
			}
			unread += passed.Unread
		}
	}
	return found, unread, nil
}

// unfinished lists histories of the accounts that are not read to their end.
func unfinished(ctx context.Context, parts *app.Parts, accounts []string) (targets []mirror.Target, err error) {
	for _, account := range accounts {
		limits, err := reconcile.ReadLimits(ctx, parts.Store, account)
		if err != nil {
			return nil, err
		}
		for _, scope := range limits.Ledgers(app.Ledgers(parts.Config)).Scopes() {
			list, err := parts.Store.Unsynced(ctx, account, scope, mirror.Unread{}, 500)
			if err != nil {
				return nil, err
			}
			for _, u := range list {
				targets = append(targets, mirror.Target{Account: account, Scope: scope, ID: u.Customer})
			}
		}
	}
	return targets, nil
}

// settle waits until the queue has worked off what the pass marked. It does not
// wait for further tries of a reply that was refused. After a pass over balances it
// waits for histories that are not read to their end too, whose balances may equal
// Stripe's all the same, and returns how many are left.
func settle(ctx context.Context, talk io.Writer, parts *app.Parts, o reconcileOptions, accounts []string, since time.Time) (left int, err error) {
	deadline := time.Now().Add(repairWait)
	for {
		list, err := recorded(ctx, parts, accounts, since)
		if err != nil {
			return 0, err
		}
		refused := map[mirror.Target]bool{}
		for _, account := range accounts {
			targets, err := parts.Store.Refused(ctx, account, since)
			if err != nil {
				return 0, err
			}
			for _, t := range targets {
				refused[t] = true
			}
		}
		var targets []mirror.Target
		if o.sweep == reconcile.SweepBalances {
			if targets, err = unfinished(ctx, parts, accounts); err != nil {
				return 0, err
			}
			left = len(targets)
		}
		for _, f := range list {
			t := mirror.Target{Account: f.Account, Scope: f.Scope, ID: f.Customer}
			if f.RepairedAt.IsZero() && t.Valid() && !refused[t] {
				targets = append(targets, t)
			}
		}
		waiting, err := parts.Waiting(ctx, targets)
		if err != nil {
			return left, err
		}
		if late := time.Now().After(deadline); waiting == 0 || late {
			if left > 0 {
				fmt.Fprintf(talk, "%d histories are not read to their end, and not proven\n", left)
			}
			if late {
				fmt.Fprintf(talk, "%d customers still wait for their repair\n", waiting)
			}
			return left, nil
		}
		select {
		case <-ctx.Done():
			return left, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// recorded lists what was repaired since, and what is open.
func recorded(ctx context.Context, parts *app.Parts, accounts []string, since time.Time) ([]mirror.Finding, error) {
	var list []mirror.Finding
	for _, account := range accounts {
		for q := (mirror.FindingsQuery{Account: &account, RepairedSince: since, Limit: 500}); ; {
			page, err := parts.Store.Findings(ctx, q)
			if err != nil {
				return list, err
			}
			if list = append(list, page...); len(page) < q.Limit {
				break
			}
			q.After = page[len(page)-1].ID
		}
	}
	return list, nil
}
