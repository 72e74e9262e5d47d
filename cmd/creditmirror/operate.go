package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
)

// actor names who runs a command, for the record.
func actor() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return "command:" + u.Username
	}
	return "command"
}

// onRecord does what an action of the console does, and keeps who did it and why.
func onRecord(ctx context.Context, store mirror.Store, a mirror.OperatorAction, do func() (int64, error)) error {
	o, err := part[mirror.Operations](store)
	if err != nil {
		return err
	}
	a.ID, a.Created, a.Actor = "act_"+rand.Text(), time.Now().UTC().Truncate(time.Microsecond), actor()
	if err := o.BeginAction(ctx, a); err != nil {
		return fmt.Errorf("nothing was done: %w", err)
	}
	n, err := do()
	a.Count, a.Outcome = n, mirror.ActionDone
	if err != nil {
		a.Outcome, a.Detail = mirror.ActionFailed, err.Error()
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // one that was broken off has an outcome too
	defer cancel()
	return errors.Join(err, o.EndAction(end, a))
}

// deedFlags are what commands that change something share.
type deedFlags struct {
	overrides *config.Overrides
	reason    string
}

func (f *deedFlags) bind(c *cobra.Command, vars ...config.Var) {
	f.overrides = config.Bind(c.Flags(), append([]config.Var{config.VarDatabaseURL}, vars...)...)
	c.Flags().StringVar(&f.reason, "reason", "", "why, kept with your name in operator_actions")
}

func newDrift(e *env) *cobra.Command {
	c := &cobra.Command{
		Use:   "drift list|accept|withdraw",
		Short: "List what differs from Stripe, and accept what is known",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%w: drift: say list, accept or withdraw", errUsage)
		},
	}
	var closed bool
	var format string
	list := &cobra.Command{Use: "list", Short: "List findings, the newest first", Args: cobra.NoArgs}
	overrides := config.Bind(list.Flags(), config.VarDatabaseURL)
	list.Flags().BoolVar(&closed, "closed", false, "those that are repaired, instead of those that are open")
	list.Flags().StringVar(&format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		w, err := newReport(e.out, format, "id", "kind", "account", "customer", "object", "currency", "expected", "actual", "cause", "found_at", "repaired_at", "accepted_by", "accepted_why")
		if err != nil {
			return err
		}
		return withMirror(cmd.Context(), e, overrides, func(store mirror.Store) error {
			lookout, err := part[mirror.Lookout](store)
			if err != nil {
				return err
			}
			operations, err := part[mirror.Operations](store)
			if err != nil {
				return err
			}
			w.head()
			q := mirror.FindingList{Closed: closed, Limit: 500}
			for {
				page, err := lookout.FindingList(cmd.Context(), q)
				if err != nil {
					return err
				}
				ids := make([]string, len(page))
				for i := range page {
					ids[i] = page[i].ID
				}
				accepted, err := operations.Accepted(cmd.Context(), ids)
				if err != nil {
					return err
				}
				for _, f := range page {
					a := accepted[f.ID]
					if err := w.write(f.ID, string(f.Kind), f.Account, f.Customer, f.Object, f.Currency, f.Expected, f.Actual, f.Cause, f.FoundAt, f.RepairedAt, a.Actor, a.Reason); err != nil {
						return err
					}
					q.Before, q.BeforeID = f.FoundAt, f.ID
				}
				if len(page) < q.Limit {
					return w.end()
				}
			}
		})
	}
	judge := func(kind mirror.ActionKind, short string) *cobra.Command {
		var f deedFlags
		c := &cobra.Command{Use: string(kind) + " ID", Short: short, Args: oneArg("the id of a finding, as drift list prints it")}
		f.bind(c)
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if kind == mirror.ActionAccept && strings.TrimSpace(f.reason) == "" {
				return fmt.Errorf("%w: drift accept needs --reason", errUsage)
			}
			return withMirror(cmd.Context(), e, f.overrides, func(store mirror.Store) error {
				lookout, err := part[mirror.Lookout](store)
				if err != nil {
					return err
				}
				found, err := lookout.FindingByID(cmd.Context(), args[0])
				switch {
				case errors.Is(err, mirror.ErrNotFound):
					return fmt.Errorf("no finding %s (see creditmirror drift list)", shown(args[0]))
				case err != nil:
					return err
				case !found.RepairedAt.IsZero():
					return fmt.Errorf("%s is closed already", args[0])
				}
				return onRecord(cmd.Context(), store, mirror.OperatorAction{Account: found.Account, Customer: found.Customer, Object: found.ID, Reason: f.reason, Action: kind},
					func() (int64, error) { return 1, nil })
			})
		}
		return c
	}
	c.AddCommand(list, judge(mirror.ActionAccept, "Accept an open finding as known: it stays open and counted"), judge(mirror.ActionWithdraw, "Withdraw the acceptance of a finding"))
	return c
}

func newSweeps(e *env) *cobra.Command {
	names := strings.Join(reconcile.ControlledSweeps(), ", ")
	c := &cobra.Command{
		Use:   "sweeps start|pause|resume",
		Short: "Start, pause or resume a sweep of a running serve",
		Long: lines(
			"The sweeps are "+names+"; the last, the first copy,",
			"starts by itself. Whichever process holds the role",
			"reconcile does what was asked within seconds. A pause lasts until somebody resumes it.",
			"creditmirror reconcile makes a pass with workers of its own instead."),
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%w: sweeps: say start, pause or resume", errUsage)
		},
	}
	add := func(use, short string, kind mirror.ActionKind, do func(ctx context.Context, store mirror.Store, sweep, by, reason string) error) {
		var f deedFlags
		one := &cobra.Command{Use: use + " SWEEP", Short: short, Args: oneArg("one of "+names, reconcile.ControlledSweeps()...)}
		f.bind(one)
		one.RunE = func(cmd *cobra.Command, args []string) error {
			if kind == mirror.ActionSweepPause && strings.TrimSpace(f.reason) == "" {
				return fmt.Errorf("%w: sweeps pause needs --reason", errUsage)
			}
			return withMirror(cmd.Context(), e, f.overrides, func(store mirror.Store) error {
				err := onRecord(cmd.Context(), store, mirror.OperatorAction{Object: args[0], Reason: f.reason, Action: kind}, func() (int64, error) {
					return 1, do(cmd.Context(), store, args[0], actor(), f.reason)
				})
				if errors.Is(err, reconcile.ErrNoSweep) {
					return fmt.Errorf("%w: %w", errUsage, err)
				}
				return err
			})
		}
		c.AddCommand(one)
	}
	add("start", "Make a pass now", mirror.ActionSweepStart, func(ctx context.Context, store mirror.Store, sweep, _, _ string) error {
		return reconcile.StartSweep(ctx, store, sweep, time.Now())
	})
	add("pause", "Keep a sweep from running", mirror.ActionSweepPause, func(ctx context.Context, store mirror.Store, sweep, by, reason string) error {
		return reconcile.PauseSweep(ctx, store, sweep, by, reason, time.Now())
	})
	add("resume", "Let it run again", mirror.ActionSweepGoOn, func(ctx context.Context, store mirror.Store, sweep, by, _ string) error {
		return reconcile.ResumeSweep(ctx, store, sweep, by, time.Now())
	})
	return c
}

func newSync(e *env) *cobra.Command {
	var f deedFlags
	var account string
	c := &cobra.Command{
		Use:   "sync CUSTOMER",
		Short: "Read a customer from Stripe now, from the first row to the last",
		Long: lines(
			"Marks both ledgers of the customer, ahead of sweeps; the workers of serve read them.",
			"With a Redis of its own (CREDITMIRROR_REDIS_URL) it marks there. With the embedded one it",
			"asks the running serve at CREDITMIRROR_OPS_ADDR. An account that is not mirrored",
			"(STRIPE_ACCOUNTS) is refused."),
		Args: oneArg("a customer (cus_…)"),
	}
	f.bind(c, config.VarRedisURL, config.VarOpsAddr, config.VarStripeAccounts)
	c.Flags().StringVar(&account, "account", "", "the connected account (acct_…) that the customer is of (default: the platform's own)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case account != "" && !mirror.ValidAccountID(account):
			return fmt.Errorf("%w: --account %q: want acct_…", errUsage, account)
		case !mirror.ValidCustomerID(args[0]):
			return fmt.Errorf("%w: %q: want cus_…", errUsage, shown(args[0]))
		}
		cfg, err := config.LoadUsed(e.environ, nil, f.overrides, config.VarOpsTLSCert, config.VarOpsTLSKey)
		if err != nil {
			return err
		}
		return onMirror(cmd.Context(), cfg, func(store mirror.Store) error {
			return onRecord(cmd.Context(), store, mirror.OperatorAction{Account: account, Customer: args[0], Object: args[0], Reason: f.reason, Action: mirror.ActionSync}, func() (int64, error) {
				return 2, syncCustomer(cmd.Context(), cfg, account, args[0])
			})
		})
	}
	return c
}

func syncCustomer(ctx context.Context, cfg config.Config, account, customer string) (err error) {
	if cfg.EmbeddedRedis() {
		var reply struct{}
		return callServe(ctx, cfg, "POST", app.SyncPath, app.SyncRequest{Account: account, Customer: customer}, &reply)
	}
	parts, err := app.OpenPartsToLook(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parts.Close()) }()
	return parts.SyncNow(ctx, app.SyncRequest{Account: account, Customer: customer}.Targets())
}
