package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
	books "github.com/creditmirror/creditmirror/report"
	"github.com/creditmirror/creditmirror/verify"
)

func newVerify(e *env) *cobra.Command {
	var account, customer, format string
	var allowIncomplete bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Prove the local ledgers without calling Stripe",
		Long: lines(
			"Reads every table through queries of its own and asks that each chain of balance",
			"transactions closes from zero and ends at the customer's balance, that the rows of each",
			"credit grant stay within it and sum up to the summary, that nothing is without its",
			"customer or grant, and that every column of customers, transactions and grants says what",
			"Stripe's JSON in the same row says, of which nothing is missing that Stripe always sends.",
			"Prints one line for each thing that does not hold, and exits 1 if there is any. Amounts,",
			"currencies, ids and the times of a chain are printed with both values; of other columns only",
			"the names, since what they hold is your customers'.",
			"",
			"Where a column and the JSON beside it were changed alike, only a comparison with Stripe",
			"finds it: reconcile scrub --dry-run.",
			"",
			"Sealed periods are proven too: what the change feed says to have come since is left out",
			"(close --explain lists it), and the rest must be what was sealed. So is the day table that",
			"long roll-forwards read: it must be what the rows add up to, or is reported line by line",
			"(summary_mismatch without a customer); serve rebuilds it once a day.",
			"",
			"Runs beside a serve: everything is read from one snapshot, and nothing is written.",
			"Histories whose first copy is under way are counted, not judged, and the exit is 1 for",
			"them too, unless --allow-incomplete. A history that was complete, and into which a walk",
			"is open now (rows that came since are still being read), is named like a difference.",
			"A ledger that CREDITMIRROR_LEDGERS leaves out, or that the key may not read, is proven as far",
			"as it is held, and is never incomplete."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	c.Flags().StringVar(&account, "account", "", `only this connected account (acct_…); "" is the platform's own (default: all)`)
	c.Flags().StringVar(&customer, "customer", "", "only this customer (cus_…)")
	c.Flags().StringVar(&format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
	c.Flags().BoolVar(&allowIncomplete, "allow-incomplete", false, "exit 0 although first copies of histories are under way")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		f := mirror.AuditFilter{Customer: customer}
		if cmd.Flags().Changed("account") {
			f.Account = &account
		}
		switch {
		case account != "" && !mirror.ValidAccountID(account):
			return fmt.Errorf("%w: --account %q: want acct_…", errUsage, account)
		case cmd.Flags().Changed("customer") && !mirror.ValidCustomerID(customer):
			return fmt.Errorf("%w: --customer %q: want cus_…", errUsage, customer)
		}
		w, err := newFindingReport(e.out, format)
		if err != nil {
			return err
		}
		cfg, err := config.LoadUsed(e.environ, nil, overrides, config.VarLedgers)
		if err != nil {
			return err
		}
		return runVerify(cmd.Context(), e, cfg, f, w, allowIncomplete)
	}
	return c
}

func runVerify(ctx context.Context, e *env, cfg config.Config, f mirror.AuditFilter, w findingReport, allowIncomplete bool) (err error) {
	store, err := openMirror(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	auditor, err := part[mirror.Auditor](store)
	if err != nil {
		return err
	}
	limits, err := reconcile.AllLimits(ctx, store)
	if err != nil {
		return err
	}
	mirrored := func(account string) mirror.Ledgers { return limits.Of(account).Ledgers(app.Ledgers(cfg)) }
	start := time.Now()
	result, err := verify.Run(ctx, auditor, verify.Options{Filter: f, Ledgers: mirrored}, w.finding)
	if err == nil && f.Customer == "" {
		var broken int64
		broken, err = verifyBooks(ctx, store, f, w)
		result.Findings += broken
	}
	if err := errors.Join(err, w.end()); err != nil {
		return err
	}
	fmt.Fprintf(e.err, "%d customers, %d balance transactions, %d credit transactions in %s: %d not proven, %d customers incomplete\n",
		result.Customers, result.BalanceTransactions, result.CreditTransactions, time.Since(start).Round(time.Millisecond),
		result.Findings, result.Incomplete)
	if result.Incomplete > 0 && !allowIncomplete {
		fmt.Fprintln(e.err, "incomplete customers are not proven: wait for their first copy, or leave them out with --allow-incomplete")
	}
	if result.Findings > 0 || result.Incomplete > 0 && !allowIncomplete {
		return errFound
	}
	if allowIncomplete || f != (mirror.AuditFilter{}) {
		return nil
	}
	copied, err := reconcile.AllCopied(ctx, store)
	if err != nil {
		return err
	}
	if !copied {
		fmt.Fprintln(e.err, "a first copy has not ended, so that customers may be missing: wait for it, or make it with serve or backfill")
		return errFound
	}
	return nil
}

// verifyBooks proves the sealed periods and the day table.
func verifyBooks(ctx context.Context, store mirror.Store, f mirror.AuditFilter, w findingReport) (broken int64, err error) {
	s, ok := store.(books.Books)
	if !ok {
		return 0, nil
	}
	err = s.Books(ctx, func(r books.Reader) (err error) {
		if broken, err = verify.Seals(ctx, r, f.Account, w.finding); err != nil {
			return err
		}
		days, err := verify.Days(ctx, r, f.Account, w.finding)
		broken += days
		return err
	})
	return broken, err
}

// findingReport prints findings; verify and reconcile share it.
type findingReport struct{ *report }

func newFindingReport(out io.Writer, format string) (findingReport, error) {
	r, err := newReport(out, format, "kind", "account", "customer", "currency", "expected", "actual", "cause", "found_at", "repaired_at")
	return findingReport{r}, err
}

func (r findingReport) finding(f mirror.Finding) error {
	return r.write(string(f.Kind), f.Account, f.Customer, f.Currency, f.Expected, f.Actual, f.Cause, f.FoundAt, f.RepairedAt)
}
