package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
)

// auditColumns are a contract: issue trackers and spreadsheets read them by name.
var auditColumns = []string{
	"created", "account", "id", "key", "operation", "customer", "object", "amount", "currency", "outcome", "reason", "status",
	"idempotency_key_sha256", "remote_addr", "stripe_request_id", "repeated",
}

// auditPage is how many rows are read at a time.
const auditPage = 500

func newAudit(e *env) *cobra.Command {
	var account, key, customer, outcome, from, to, format string
	var actions bool
	c := &cobra.Command{
		Use:   "audit",
		Short: "List who wrote what through the API",
		Long: lines(
			"One line for each write requested through the API, by time: what was sent on to Stripe and",
			"what became of it (done, not-done, unknown), and what was refused. The rows are in table",
			"api_writes, never change, and are kept for CREDITMIRROR_AUDIT_RETENTION.",
			"",
			"A date means its start in --from and --to; --from is included, --to is not."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	f := c.Flags()
	f.StringVar(&account, "account", "", `only this connected account (acct_…); "" is the platform's own (default: all)`)
	f.StringVar(&key, "key", "", "only the key of this name")
	f.StringVar(&customer, "customer", "", "only this customer (cus_…)")
	f.StringVar(&outcome, "outcome", "", "only done, not-done, unknown or refused")
	f.StringVar(&from, "from", "", "only from this date or time (RFC 3339) on")
	f.StringVar(&to, "to", "", "only before this date or time")
	f.BoolVar(&actions, "actions", false, "what people did to the mirror in the console or by a command, the newest first; --key is who")
	f.StringVar(&format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		filter := mirror.APIWriteFilter{Key: key, Customer: customer, Outcome: mirror.APIOutcome(outcome)}
		known := []mirror.APIOutcome{mirror.APIDone, mirror.APINotDone, mirror.APIUnknown, mirror.APIRefused}
		switch {
		case account != "" && !mirror.ValidAccountID(account):
			return fmt.Errorf("%w: --account %q: want acct_…", errUsage, account)
		case customer != "" && !mirror.ValidCustomerID(customer):
			return fmt.Errorf("%w: --customer %q: want cus_…", errUsage, customer)
		case outcome != "" && !slices.Contains(known, filter.Outcome):
			return fmt.Errorf("%w: --outcome %q: want done, not-done, unknown or refused", errUsage, outcome)
		}
		if cmd.Flags().Changed("account") {
			filter.Account = &account
		}
		var err error
		if filter.From, err = bound("--from", from); err != nil {
			return err
		}
		if filter.To, err = bound("--to", to); err != nil {
			return err
		}
		if actions {
			if outcome != "" || from != "" || to != "" {
				return fmt.Errorf("%w: --actions goes with --account, --key, --customer and --format alone", errUsage)
			}
			return auditActions(cmd.Context(), e, overrides, filter, format)
		}
		w, err := newReport(e.out, format, auditColumns...)
		if err != nil {
			return err
		}
		return withMirror(cmd.Context(), e, overrides, func(store mirror.Store) error {
			journal, err := part[mirror.APIJournal](store)
			if err != nil {
				return err
			}
			w.head()
			for after := (mirror.APIWrite{}); ; {
				page, err := journal.APIWrites(cmd.Context(), filter, after, auditPage)
				for _, row := range page {
					if err := writeAudit(w, row); err != nil {
						return err
					}
					after = row
				}
				if err != nil || len(page) < auditPage {
					return errors.Join(err, w.end())
				}
			}
		})
	}
	return c
}

// auditActions lists operator_actions.
func auditActions(ctx context.Context, e *env, overrides *config.Overrides, filter mirror.APIWriteFilter, format string) error {
	w, err := newReport(e.out, format, "created", "account", "id", "actor", "remote_addr", "action", "customer", "object", "reason", "outcome", "count", "detail")
	if err != nil {
		return err
	}
	return withMirror(ctx, e, overrides, func(store mirror.Store) error {
		o, err := part[mirror.Operations](store)
		if err != nil {
			return err
		}
		f := mirror.ActionFilter{Actor: filter.Key, Customer: filter.Customer}
		if filter.Account != nil {
			f.Accounts = []string{*filter.Account}
		}
		w.head()
		for {
			page, err := o.Actions(ctx, f, auditPage)
			for _, a := range page {
				if err := w.write(a.Created, a.Account, a.ID, a.Actor, a.RemoteAddr, string(a.Action), a.Customer, a.Object, a.Reason, string(a.Outcome), a.Count, a.Detail); err != nil {
					return err
				}
				f.Before, f.BeforeID = a.Created, a.ID
			}
			if err != nil || len(page) < auditPage {
				return errors.Join(err, w.end())
			}
		}
	})
}

func writeAudit(w *report, a mirror.APIWrite) error {
	var amount any = ""
	if a.Currency != "" {
		amount = a.Amount
	} else if w.format == "json" {
		amount = nil
	}
	return w.write(a.Created, a.Account, a.ID, a.Key, a.Operation, a.Customer, a.Object, amount, a.Currency, string(a.Outcome), a.Reason, a.Status,
		a.IdempotencyDigest, a.RemoteAddr, a.StripeRequestID, a.Repeated)
}

// bound reads a date, its start, or a time; empty is none.
func bound(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t, err = time.Parse(time.DateOnly, text)
	}
	if err != nil || t.Year() < 2000 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%w: %s: want a date such as 2026-06-30, or a time such as 2026-06-30T12:00:00Z", errUsage, flag)
	}
	return t.UTC(), nil
}
