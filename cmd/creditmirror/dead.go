package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
)

func newDead(e *env) *cobra.Command {
	c := &cobra.Command{
		Use:   "dead list|reasons|show|retry|drop",
		Short: "Inspect and retry dead letters",
		Long: lines(
			"A dead letter is a customer whose sync failed CREDITMIRROR_MAX_ATTEMPTS times, or an event",
			"that could not be read. Letters are kept in the mirror's database until a sync of the same",
			"customer succeeds; serve tries those of customers again every hour by itself.",
			"",
			"Works beside a serve, and all but retry without one. What is retried and dropped is kept",
			"in operator_actions, with who did it and why (--reason)."),
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%w: dead: say list, reasons, show, retry or drop", errUsage)
		},
	}
	c.AddCommand(newDeadList(e), newDeadReasons(e), newDeadShow(e), newDeadRetry(e), newDeadDrop(e))
	return c
}

// letterFlags choose letters as the console does.
type letterFlags struct {
	account, customer, scope, class string
}

func (f *letterFlags) bind(c *cobra.Command) {
	c.Flags().StringVar(&f.account, "account", "", `only this connected account (acct_…); "" is the platform's own (default: all)`)
	c.Flags().StringVar(&f.customer, "customer", "", "only this customer (cus_…)")
	c.Flags().StringVar(&f.scope, "scope", "", "only this scope, such as balance or credits")
	c.Flags().StringVar(&f.class, "class", "", "only this reason, as dead reasons prints it: with ids and numbers left out")
}

// chosen reports whether something was chosen.
func (f *letterFlags) chosen(c *cobra.Command) bool {
	return c.Flags().Changed("account") || f.customer != "" || f.scope != "" || f.class != ""
}

// filter is what was chosen.
func (f *letterFlags) filter(c *cobra.Command) (mirror.LetterFilter, error) {
	out := mirror.LetterFilter{Customer: f.customer, Scope: mirror.Scope(f.scope), Class: f.class}
	switch {
	case f.account != "" && !mirror.ValidAccountID(f.account):
		return out, fmt.Errorf("%w: --account %q: want acct_…", errUsage, f.account)
	case c.Flags().Changed("customer") && !mirror.ValidCustomerID(f.customer):
		return out, fmt.Errorf("%w: --customer %q: want cus_…", errUsage, f.customer)
	case c.Flags().Changed("scope") && f.scope == "", c.Flags().Changed("class") && f.class == "":
		return out, fmt.Errorf("%w: --scope and --class want a value", errUsage)
	}
	if c.Flags().Changed("account") {
		out.Accounts = []string{f.account}
	}
	return out, nil
}

// eachLetterOf calls do with every letter that a filter means, by id, a page at a time.
func eachLetterOf(ctx context.Context, store mirror.Store, f mirror.LetterFilter, do func([]mirror.DeadLetter) error) error {
	lookout, err := part[mirror.Lookout](store)
	if err != nil {
		return err
	}
	for after := ""; ; {
		page, err := lookout.FindLetters(ctx, f, after, app.MaxRetries)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := do(page); err != nil {
			return err
		}
		if after = page[len(page)-1].ID; len(page) < app.MaxRetries {
			return nil
		}
	}
}

func newDeadReasons(e *env) *cobra.Command {
	var f letterFlags
	var format string
	c := &cobra.Command{
		Use:   "reasons",
		Short: "Count the dead letters by their reasons",
		Long: lines(
			"One line for each reason and scope, the most letters first. Ids and numbers are left out",
			"of a reason, so that 12 of one kind stand out among 700,000 of another. list, retry and",
			"drop take a reason as --class."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	f.bind(c)
	c.Flags().StringVar(&format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := f.filter(cmd)
		if err != nil {
			return err
		}
		w, err := newReport(e.out, format, "letters", "class", "scope", "first_failed_at", "last_failed_at")
		if err != nil {
			return err
		}
		return withMirror(cmd.Context(), e, overrides, func(store mirror.Store) error {
			lookout, err := part[mirror.Lookout](store)
			if err != nil {
				return err
			}
			groups, err := lookout.LetterGroups(cmd.Context(), filter, 10_000)
			if err != nil {
				return err
			}
			w.head()
			for _, g := range groups {
				if err := w.write(g.Count, g.Class, string(g.Scope), g.First, g.Newest); err != nil {
					return err
				}
			}
			return w.end()
		})
	}
	return c
}

func newDeadList(e *env) *cobra.Command {
	var f letterFlags
	var format string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the dead letters",
		Long: lines(
			"One line for each, by id. An event that could not be read has no customer and no scope.",
			"Of scope grant_owner, credit_owner, invoice_owner, note_owner and clock_customers, the customer",
			"is the credit grant, credit balance transaction, invoice, credit note or test clock whose customer",
			"could not be found out."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	f.bind(c)
	c.Flags().StringVar(&format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := f.filter(cmd)
		if err != nil {
			return err
		}
		w, err := newReport(e.out, format, "id", "account", "customer", "scope", "reason", "attempts", "first_failed_at", "last_failed_at")
		if err != nil {
			return err
		}
		return withMirror(cmd.Context(), e, overrides, func(store mirror.Store) error {
			w.head()
			err := eachLetterOf(cmd.Context(), store, filter, func(page []mirror.DeadLetter) error {
				for _, d := range page {
					if err := w.write(d.ID, d.Target.Account, d.Target.ID, string(d.Target.Scope), d.Reason, d.Attempts, d.FirstFailedAt, d.LastFailedAt); err != nil {
						return err
					}
				}
				return nil
			})
			return errors.Join(err, w.end())
		})
	}
	return c
}

// errNoLetters names ids that there is no letter of.
func errNoLetters(ids []string) error {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = shown(id)
	}
	return fmt.Errorf("no dead letter %s (see creditmirror dead list)", strings.Join(names, ", "))
}

func newDeadShow(e *env) *cobra.Command {
	var asJSON, payload bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show one dead letter with its events",
		Long: lines(
			"Shows everything but the body of an event that could not be read, which may hold your",
			"customers' data. --payload prints that body alone, byte for byte (on a terminal with",
			"control characters left out); with --json it comes as payload, in base64."),
		Args: oneArg("the id of a dead letter, as dead list prints it"),
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.Flags().BoolVar(&payload, "payload", false, "print the body that could not be read")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return withMirror(cmd.Context(), e, overrides, func(store mirror.Store) error {
			d, err := store.DeadLetter(cmd.Context(), args[0])
			if errors.Is(err, mirror.ErrNotFound) {
				return errNoLetters(args)
			}
			if err != nil {
				return err
			}
			shown := letterView{DeadLetter: d}
			if d.Target.Scope != "" {
				synced, err := store.ObservedAt(cmd.Context(), []mirror.Target{d.Target})
				if err != nil {
					return err
				}
				shown.synced = synced[0]
			} else if payload && !asJSON {
				return printBody(e.out, d.Payload)
			}
			switch {
			case payload && d.Target.Scope != "":
				return fmt.Errorf("%s is of a customer and has no body", d.ID)
			case asJSON:
				return shown.json(e.out, payload)
			}
			return shown.text(e.out)
		})
	}
	return c
}

// letterView is a letter and when its customer was last synced.
type letterView struct {
	mirror.DeadLetter
	synced time.Time
}

func (v letterView) text(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, cell(value)) }
	orNever := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return rfc3339(t)
	}
	row("id", v.ID)
	row("account", v.Target.Account)
	row("customer", v.Target.ID)
	row("scope", string(v.Target.Scope))
	row("reason", v.Reason)
	row("attempts", fmt.Sprint(v.Attempts))
	row("first failed at", rfc3339(v.FirstFailedAt))
	row("last failed at", rfc3339(v.LastFailedAt))
	if v.Target.Scope == "" {
		row("next retry at", "never by itself: see creditmirror dead retry")
		row("body", fmt.Sprintf("%d bytes, shown by --payload", len(v.Payload)))
	} else {
		row("next retry at", orNever(v.RetryAt))
		row("last synced at", orNever(v.synced))
	}
	for _, id := range v.EventIDs {
		row("event", id)
	}
	return w.Flush()
}

func (v letterView) json(out io.Writer, payload bool) error {
	at := func(t time.Time) *string {
		if t.IsZero() {
			return nil
		}
		s := rfc3339(t)
		return &s
	}
	o := struct {
		ID            string   `json:"id"`
		Account       string   `json:"account"`
		Customer      string   `json:"customer"`
		Scope         string   `json:"scope"`
		Reason        string   `json:"reason"`
		Attempts      int      `json:"attempts"`
		FirstFailedAt *string  `json:"first_failed_at"`
		LastFailedAt  *string  `json:"last_failed_at"`
		RetryAt       *string  `json:"retry_at"`
		LastSyncedAt  *string  `json:"last_synced_at"`
		EventIDs      []string `json:"event_ids"`
		PayloadBytes  int      `json:"payload_bytes"`
		Payload       []byte   `json:"payload,omitempty"`
	}{
		v.ID, v.Target.Account, v.Target.ID, string(v.Target.Scope), v.Reason, v.Attempts, at(v.FirstFailedAt), at(v.LastFailedAt),
		at(v.RetryAt), at(v.synced), append([]string{}, v.EventIDs...), len(v.Payload), nil,
	}
	if payload {
		o.Payload = v.Payload
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(o)
}

// printBody writes a body as it came. On a terminal, what might steer the terminal
// is left out: anybody who can sign may have written it.
func printBody(out io.Writer, body []byte) error {
	if !terminal(out) {
		_, err := out.Write(body)
		return err
	}
	_, err := fmt.Fprintln(out, cell(strings.ToValidUTF8(string(body), "\uFFFD")))
	return err
}

func newDeadRetry(e *env) *cobra.Command {
	var all bool
	var format string
	var f letterFlags
	var deed deedFlags
	c := &cobra.Command{
		Use:   "retry ID...|--all|--class REASON",
		Short: "Retry dead letters now",
		Long: lines(
			"A customer is marked for a sync, ahead of sweeps; the sync removes the letter when it",
			"succeeds, and renews it when it fails CREDITMIRROR_MAX_ATTEMPTS times more. An event that",
			"could not be read is read by this version, taken when it can be read now, and its letter",
			"removed. A letter that a later sync has resolved is no error. In place of ids, --class,",
			"--customer, --scope and --account choose letters, as in the console.",
			"",
			"With a Redis of its own (CREDITMIRROR_REDIS_URL) it marks there. With the embedded one it",
			"asks the running serve at CREDITMIRROR_OPS_ADDR. Exits 1 when something is left."),
	}
	// Accounts and key decide which events are taken, as they do in serve.
	deed.bind(c, config.VarRedisURL, config.VarOpsAddr, config.VarStripeAPIKey, config.VarStripeAccounts)
	f.bind(c)
	c.Flags().BoolVar(&all, "all", false, "every dead letter")
	c.Flags().StringVar(&format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
	c.Args = func(cmd *cobra.Command, args []string) error { return f.some("dead retry", cmd, args, all) }
	c.RunE = func(cmd *cobra.Command, args []string) error {
		filter, err := f.filter(cmd)
		if err != nil {
			return err
		}
		w, err := newReport(e.out, format, "id", "outcome", "detail")
		if err != nil {
			return err
		}
		cfg, err := config.LoadUsed(e.environ, nil, deed.overrides, config.VarOpsTLSCert, config.VarOpsTLSKey)
		if err != nil {
			return err
		}
		return retryLetters(cmd.Context(), cfg, distinct(args), filter, deed.reason, w)
	}
	return c
}

// some reports what is wrong with a choice of letters: ids, a filter or all of them, and
// one of these.
func (f *letterFlags) some(name string, c *cobra.Command, args []string, all bool) error {
	n := 0
	for _, given := range []bool{len(args) > 0, all, f.chosen(c)} {
		if given {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("%s: give the ids of dead letters, or --all, or choose by --class, --customer, --scope and --account", name)
	}
	return nil
}

// letterAction is the record of what is done to letters.
func letterAction(ctx context.Context, store mirror.Store, kind mirror.ActionKind, ids []string, f mirror.LetterFilter, reason string) (mirror.OperatorAction, error) {
	a := mirror.OperatorAction{Action: kind, Reason: reason, Customer: f.Customer, Detail: f.Class}
	if len(f.Accounts) == 1 {
		a.Account = f.Accounts[0]
	}
	if len(ids) != 1 {
		return a, nil
	}
	a.Object = ids[0]
	d, err := store.DeadLetter(ctx, ids[0])
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		return a, nil
	case err != nil:
		return a, err
	}
	if a.Account = d.Target.Account; d.Target.Scope == mirror.ScopeBalance || d.Target.Scope == mirror.ScopeCredits {
		a.Customer = d.Target.ID
	}
	return a, nil
}

// distinct drops what was given twice.
func distinct(ids []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		again := seen[id]
		seen[id] = true
		return again
	})
}

// retryLetters retries the letters named, or those that a filter means where none is.
func retryLetters(ctx context.Context, cfg config.Config, ids []string, f mirror.LetterFilter, reason string, w *report) (err error) {
	store, err := openMirror(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	retry := func(ctx context.Context, ids []string) ([]app.DeadRetry, error) {
		var reply app.RetryReply
		err := callServe(ctx, cfg, "POST", app.DeadRetryPath, app.RetryRequest{IDs: ids}, &reply)
		return reply.Results, err
	}
	if !cfg.EmbeddedRedis() {
		parts, openErr := app.OpenPartsToLook(ctx, cfg)
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, parts.Close()) }()
		retry = parts.RetryDead
	}
	action, err := letterAction(ctx, store, mirror.ActionRetry, ids, f, reason)
	if err != nil {
		return err
	}
	w.head()
	all := len(ids) == 0
	var left int
	var done int64
	var unknown []string
	send := func(ids []string) error {
		if len(ids) == 0 {
			return nil
		}
		results, err := retry(ctx, ids)
		if err != nil {
			return err
		}
		if results, err = resolvedOnes(ctx, store, results, all); err != nil {
			return err
		}
		for _, r := range results {
			if r.Outcome == app.RetryGone {
				unknown = append(unknown, r.ID)
				continue
			}
			if r.Outcome.Left() {
				left++
			} else if r.Outcome != app.RetryResolved {
				done++
			}
			if err := w.write(r.ID, string(r.Outcome), r.Detail); err != nil {
				return err
			}
		}
		return nil
	}
	err = onRecord(ctx, store, action, func() (int64, error) {
		if all {
			err := eachLetterOf(ctx, store, f, func(page []mirror.DeadLetter) error {
				batch := make([]string, len(page))
				for i, d := range page {
					batch[i] = d.ID
				}
				return send(batch)
			})
			return done, err
		}
		for batch := range slices.Chunk(ids, app.MaxRetries) {
			if err := send(batch); err != nil {
				return done, err
			}
		}
		if done == 0 && len(unknown) > 0 {
			return 0, errNoLetters(unknown)
		}
		return done, nil
	})
	if err = errors.Join(err, w.end()); err != nil {
		return err
	}
	switch {
	case len(unknown) > 0:
		return errNoLetters(unknown)
	case left > 0:
		return errFound
	}
	return nil
}

// resolvedOnes distinguishes letters that a sync has resolved from ids that never were
// any. A letter's id is made of its target, so the targets that the mirror holds
// show whose it was.
func resolvedOnes(ctx context.Context, store mirror.Store, results []app.DeadRetry, listed bool) ([]app.DeadRetry, error) {
	gone := map[string]int{}
	for i, r := range results {
		if r.Outcome != app.RetryGone {
			continue
		}
		if listed { // it was there a moment ago
			results[i] = app.DeadRetry{ID: r.ID, Outcome: app.RetryResolved, Detail: "resolved meanwhile"}
			continue
		}
		gone[r.ID] = i
	}
	if len(gone) == 0 {
		return results, nil
	}
	accounts, err := store.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	sweeps, err := store.Sweeps(ctx) // accounts that are configured by name
	if err != nil {
		return nil, err
	}
	for _, s := range sweeps {
		accounts = append(accounts, s.Account)
	}
	for _, account := range distinct(append(accounts, "")) {
		for after := ""; len(gone) > 0; {
			page, err := store.Customers(ctx, account, after, 1000)
			if err != nil {
				return nil, err
			}
			for _, c := range page {
				after = c.ID
				for _, scope := range []mirror.Scope{mirror.ScopeBalance, mirror.ScopeCredits} {
					t := mirror.Target{Account: account, Scope: scope, ID: c.ID}
					id := mirror.DeadLetterID(t)
					i, ok := gone[id]
					if !ok {
						continue
					}
					delete(gone, id)
					synced, err := store.ObservedAt(ctx, []mirror.Target{t})
					if err != nil {
						return nil, err
					}
					if !synced[0].IsZero() {
						results[i] = app.DeadRetry{ID: id, Outcome: app.RetryResolved, Detail: fmt.Sprintf("%s of %s was synced at %s", scope, c.ID, rfc3339(synced[0]))}
					}
				}
			}
			if len(page) < 1000 {
				break
			}
		}
	}
	return results, nil
}

func newDeadDrop(e *env) *cobra.Command {
	var yes, all bool
	var f letterFlags
	var deed deedFlags
	c := &cobra.Command{
		Use:   "drop ID...|--all|--class REASON",
		Short: "Delete dead letters",
		Long: lines(
			"Deletes the record of the failure. A customer's letter comes back when a later",
			"sync fails again: unanswered events are still in the inbox, and the sweeps still",
			"compare the customer. For an event that could not be read, the body is lost permanently:",
			"its change is found by the events sweep within Stripe's 30 days, else by the others.",
			"",
			"Counts and asks first on a terminal; elsewhere it needs --yes. Deletes nothing when an id is",
			"unknown. In place of ids, --class, --customer, --scope and --account choose letters, as in",
			"the console."),
	}
	c.Args = func(cmd *cobra.Command, args []string) error { return f.some("dead drop", cmd, args, all) }
	deed.bind(c)
	f.bind(c)
	c.Flags().BoolVar(&all, "all", false, "every dead letter")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		filter, err := f.filter(cmd)
		if err != nil {
			return err
		}
		in := cmd.InOrStdin()
		if f, ok := in.(*os.File); !yes && (!ok || !term.IsTerminal(int(f.Fd()))) { // a file descriptor fits an int
			return fmt.Errorf("%w: dead drop: there is no terminal to ask on; say --yes", errUsage)
		}
		ask := func(question string) (bool, error) { return confirm(in, e.err, question) }
		if yes {
			ask = func(string) (bool, error) { return true, nil }
		}
		return withMirror(cmd.Context(), e, deed.overrides, func(store mirror.Store) error {
			if len(args) == 0 {
				return dropChosen(cmd.Context(), store, filter, deed.reason, e.err, ask)
			}
			return dropLetters(cmd.Context(), store, distinct(args), deed.reason, e.err, ask)
		})
	}
	return c
}

// dropLetters says what would be lost, asks, and deletes.
func dropLetters(ctx context.Context, store mirror.Store, ids []string, reason string, talk io.Writer, ask func(question string) (bool, error)) error {
	var unknown []string
	for _, id := range ids {
		d, err := store.DeadLetter(ctx, id)
		switch {
		case errors.Is(err, mirror.ErrNotFound):
			unknown = append(unknown, id)
		case err != nil:
			return err
		case d.Target.Scope == "":
			fmt.Fprintf(talk, "%s: a body of %d bytes would be lost permanently (%s)\n", id, len(d.Payload), cell(d.Reason))
		default:
			fmt.Fprintf(talk, "%s: %s of %s has failed since %s (%s); its %d event ids would be forgotten\n",
				id, d.Target.Scope, d.Target.ID, rfc3339(d.FirstFailedAt), cell(d.Reason), len(d.EventIDs))
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%w; nothing was dropped", errNoLetters(unknown))
	}
	sure, err := ask(fmt.Sprintf("drop %d of the dead letters? [y/N] ", len(ids)))
	if err != nil {
		return err
	}
	if !sure {
		return errors.New("nothing was dropped")
	}
	action, err := letterAction(ctx, store, mirror.ActionDrop, ids, mirror.LetterFilter{}, reason)
	if err != nil {
		return err
	}
	var dropped int64
	err = onRecord(ctx, store, action, func() (int64, error) {
		err := dropEach(ctx, store, ids, &dropped)
		return dropped, err
	})
	if err != nil {
		return fmt.Errorf("%d of %d were dropped: %w", dropped, len(ids), err)
	}
	fmt.Fprintf(talk, "%d dropped\n", dropped)
	return nil
}

// dropEach deletes letters and counts them.
func dropEach(ctx context.Context, store mirror.DeadLetters, ids []string, dropped *int64) error {
	for _, id := range ids {
		switch err := store.DropDeadLetter(ctx, id); {
		case errors.Is(err, mirror.ErrNotFound): // a sync or somebody else was faster
		case err != nil:
			return err
		default:
			*dropped++
		}
	}
	return nil
}

// dropChosen counts the letters that a filter means, asks, and deletes no more than that.
func dropChosen(ctx context.Context, store mirror.Store, f mirror.LetterFilter, reason string, talk io.Writer, ask func(question string) (bool, error)) error {
	lookout, err := part[mirror.Lookout](store)
	if err != nil {
		return err
	}
	count, err := lookout.CountLetters(ctx, f)
	if err != nil {
		return err
	}
	some, err := lookout.FindLetters(ctx, f, "", 5)
	if err != nil {
		return err
	}
	for _, d := range some {
		fmt.Fprintf(talk, "%s: %s %s (%s)\n", d.ID, d.Target.Scope, d.Target.ID, cell(d.Reason))
	}
	if count > int64(len(some)) {
		fmt.Fprintf(talk, "and %d more\n", count-int64(len(some)))
	}
	if count == 0 {
		fmt.Fprintln(talk, "0 dropped")
		return nil
	}
	sure, err := ask(fmt.Sprintf("drop %d dead letters? [y/N] ", count))
	if err != nil {
		return err
	}
	if !sure {
		return errors.New("nothing was dropped")
	}
	action, err := letterAction(ctx, store, mirror.ActionDrop, nil, f, reason)
	if err != nil {
		return err
	}
	var dropped int64
	err = onRecord(ctx, store, action, func() (int64, error) {
		left := count
		err := eachLetterOf(ctx, store, f, func(page []mirror.DeadLetter) error {
			page = page[:min(int64(len(page)), left)]
			left -= int64(len(page))
			ids := make([]string, len(page))
			for i, d := range page {
				ids[i] = d.ID
			}
			if err := dropEach(ctx, store, ids, &dropped); err != nil {
				return err
			}
			if left == 0 {
				return errAllDropped
			}
			return nil
		})
		if errors.Is(err, errAllDropped) {
			err = nil
		}
		return dropped, err
	})
	if err != nil {
		return fmt.Errorf("%d of %d were dropped: %w", dropped, count, err)
	}
	fmt.Fprintf(talk, "%d dropped\n", dropped)
	return nil
}

// errAllDropped ends a walk over letters once as many were dropped as were counted.
var errAllDropped = errors.New("all that were counted are dropped")

// confirm asks on a terminal; anything but yes is no.
func confirm(in io.Reader, out io.Writer, question string) (bool, error) {
	fmt.Fprint(out, question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}
