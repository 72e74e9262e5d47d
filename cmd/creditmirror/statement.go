package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	books "github.com/creditmirror/creditmirror/report"
)

func newStatement(e *env) *cobra.Command {
	var from, to string
	var redact bool
	c := &cobra.Command{
		Use:   "statement --customer cus_…",
		Short: "List every movement of one customer, with the running balance",
		Long: lines(
			"Per ledger and currency: where it stood, every movement with its invoice, credit note or",
			"grant, and where it stands. --format html makes a page that can be printed and sent;",
			"--redact leaves descriptions out. Descriptions have no history: they are today's."),
	}
	f := bindBooks(c, "table, csv, json or html")
	f.bindCustomer()
	f.bindLedger()
	f.bindTimezone()
	f.bindHuman()
	c.Flags().StringVar(&from, "from", "", "first day or instant, included (default: the beginning)")
	c.Flags().StringVar(&to, "to", "", "last day or instant, not included (default: now)")
	c.Flags().BoolVar(&redact, "redact", false, "leave descriptions out")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		q := f.query()
		q.Until = books.Now(time.Now())
		var start time.Time
		var err error
		switch {
		case f.customer == "":
			return fmt.Errorf("%w: statement needs --customer", errUsage)
		case cmd.Flags().Changed("from"):
			if start, err = f.bound("from", from); err != nil {
				return err
			}
		}
		if cmd.Flags().Changed("to") {
			if q.Until, err = f.bound("to", to); err != nil {
				return err
			}
		}
		if !start.Before(q.Until) {
			return fmt.Errorf("%w: --from %s is not before --to %s", errUsage, start.Format(time.RFC3339), q.Until.Format(time.RFC3339))
		}
		w, err := newStatementWriter(e, f, start, q.Until)
		if err != nil {
			return err
		}
		return f.open(cmd.Context(), e, func(r books.Reader) error {
			if err := f.oneAccount(cmd.Context(), r, &q); err != nil {
				return err
			}
			out, err := books.Statement(cmd.Context(), r, q, start, func(m books.Movement) error {
				if redact {
					m.Description = ""
				}
				return w.add(m)
			})
			if err := errors.Join(err, w.end()); err != nil {
				return err
			}
			return f.told(e, out)
		})
	}
	return c
}

// oneAccount finds the account of the customer; ids are an account's own.
func (f *booksFlags) oneAccount(ctx context.Context, r books.Reader, q *books.Query) error {
	accounts, err := r.Knows(ctx, q.Filter)
	if err != nil {
		return err
	}
	if len(accounts) > 1 {
		return fmt.Errorf("%w: %d accounts have a customer %s: choose one with --account (%s)", errUsage, len(accounts), f.customer,
			strings.Join(accounts, ", "))
	}
	q.Account = &accounts[0]
	return nil
}

// statementWriter prints a statement.
type statementWriter struct {
	add func(books.Movement) error
	end func() error
}

func newStatementWriter(e *env, f *booksFlags, start, until time.Time) (statementWriter, error) {
	switch f.format {
	case "", "table", "csv", "json":
	case "html":
		p := books.NewPage(e.out, f.customer, start, until)
		return statementWriter{p.Add, p.End}, nil
	default:
		return statementWriter{}, fmt.Errorf("%w: --format %q: want table, csv, json or html", errUsage, f.format)
	}
	w, err := newReport(e.out, f.format, "date", "ledger", "id", "type", "currency", "amount", "balance", "invoice", "credit_note", "grant", "description")
	if err != nil {
		return statementWriter{}, err
	}
	add := func(m books.Movement) error {
		var amount any
		balance := f.amount(m.Ledger, m.Balance, m.Currency)
		switch {
		case m.Edge:
		case f.human:
			amount = books.Money(m.Amount, m.Currency)
		default:
			amount = m.Amount
		}
		return w.write(m.Dated, string(m.Ledger), m.ID, m.Type, m.Currency, amount, balance, m.Invoice, m.CreditNote, m.Grant, m.Description)
	}
	return statementWriter{add, w.end}, nil
}

func newAgeing(e *env) *cobra.Command {
	var asOf, buckets string
	c := &cobra.Command{
		Use:   "ageing",
		Short: "Show the remaining billing credits by when they expire",
		Long: lines(
			"Sums per account, currency, category and bucket of days until the grants expire, rounded",
			"down to whole ones. expired_unused is what is left of grants past expires_at whose",
			"credits_expired row has not come yet; never has no expiry. Grants that are used up, voided,",
			"expired or not effective yet are not counted. A past --as-of uses today's expires_at."),
	}
	f := bindBooks(c, "table, csv or json")
	f.bindCustomer()
	f.flags.StringVar(&f.currency, "currency", "", "only this currency, such as usd")
	f.bindTimezone()
	f.bindHuman()
	c.Flags().StringVar(&asOf, "as-of", "", "a date or an instant (default: now)")
	c.Flags().StringVar(&buckets, "buckets", "30,60,90", "where buckets end, in days")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		days, err := books.ParseBuckets(buckets)
		if err != nil {
			return fmt.Errorf("%w: --buckets %w", errUsage, err)
		}
		q := f.query()
		if q.Until, err = f.asOf(asOf); err != nil {
			return err
		}
		w, err := newReport(e.out, f.format, "account", "currency", "category", "bucket", "amount", "grants")
		if err != nil {
			return err
		}
		return f.open(cmd.Context(), e, func(r books.Reader) error {
			ages, out, err := books.Ageing(cmd.Context(), r, q, days)
			for _, a := range ages {
				err = errors.Join(err, w.write(a.Account, a.Currency, a.Category, a.Bucket, f.amount(books.LedgerCredits, a.Amount, a.Currency), a.Grants))
			}
			if err := errors.Join(err, w.end()); err != nil {
				return err
			}
			remark(e, w.rows, "as-of", q.Until)
			return f.told(e, out)
		})
	}
	return c
}

func newExplain(e *env) *cobra.Command {
	var redact bool
	c := &cobra.Command{
		Use:   "explain --customer cus_…",
		Short: "Explain why a customer's balance is right, or which link breaks",
		Long: lines(
			"The chain of every balance from its first row to its last, in numbers, what each row came",
			"from, and against what and when the end was proven. Exits 1 when a link does not hold, or",
			"when the history is not complete (unless --allow-gaps).",
			"",
			"--format json has one object per link: proof (of a ledger), deleted, grant, row, end (of a",
			"currency), with what was held before and after it, what Stripe reported, and whether it holds."),
	}
	f := bindBooks(c, "text or json (default: text)")
	f.bindCustomer()
	c.Flags().BoolVar(&redact, "redact", false, "leave descriptions out")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		switch {
		case f.customer == "":
			return fmt.Errorf("%w: explain needs --customer", errUsage)
		case f.format != "" && f.format != "text" && f.format != "json":
			return fmt.Errorf("%w: --format %q: want text or json", errUsage, f.format)
		}
		return f.open(cmd.Context(), e, func(r books.Reader) error {
			q := f.query()
			if err := f.oneAccount(cmd.Context(), r, &q); err != nil {
				return err
			}
			key := books.Key{Account: *q.Account, Customer: f.customer}
			explain := func() (int, error) { return books.Explain(cmd.Context(), r, key, e.out, redact) }
			if f.format == "json" {
				explain = func() (int, error) { return printLinks(cmd.Context(), r, key, e.out, redact) }
			}
			wrong, err := explain()
			if err != nil {
				return err
			}
			q.Until = books.Now(time.Now())
			out, err := books.Balances(cmd.Context(), r, q, func(books.Balance) error { return nil })
			if err != nil {
				return err
			}
			if err := f.told(e, out); err != nil || wrong > 0 {
				return errFound
			}
			return nil
		})
	}
	return c
}

// printLinks writes the links of a customer for machines.
func printLinks(ctx context.Context, r books.Reader, k books.Key, out io.Writer, redact bool) (int, error) {
	w, err := newReport(out, "json", "ledger", "link", "holds", "why", "currency", "grant", "position", "id", "type", "dated",
		"before", "amount", "after", "told", "invoice", "credit_note", "description", "category", "effective_at", "expires_at",
		"written_at", "proven_at", "full_read_at", "deleted_at")
	if err != nil {
		return 0, err
	}
	amount := func(n *int64) any {
		if n == nil {
			return nil
		}
		return *n
	}
	text := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	wrong, err := books.Links(ctx, r, k, func(l books.Link) error {
		var position, moved any
		row := l.Row
		if l.Kind == books.LinkRow {
			moved = row.Amount
			if row.Position > 0 {
				position = row.Position
			}
		}
		if redact {
			row.Description = ""
		}
		return w.write(string(l.Ledger), l.Kind, l.Holds, text(l.Why), text(l.Currency), text(l.Grant), position, text(row.ID), text(row.Type), row.Dated,
			amount(l.Before), moved, amount(l.After), amount(l.Told), text(row.Invoice), text(row.CreditNote), text(row.Description), text(l.Category),
			l.EffectiveAt, l.ExpiresAt, row.SyncedAt, l.ProvenAt, l.FullReadAt, l.DeletedAt)
	})
	return wrong, errors.Join(err, w.end())
}

func newClose(e *env) *cobra.Command {
	var period, explain, reopen, reason string
	c := &cobra.Command{
		Use:   "close --period 2026-10",
		Short: "Seal a month, or list what has come into a sealed one",
		Long: lines(
			"--period 2026-10 seals a month that is over: its closing figures, how many movements it had,",
			"a digest of every movement up to its end, and the place in the change feed. Sealed already,",
			"it prints the seal. --explain 2026-10 lists the movements that a sealed month lacks, with",
			"their cause, and exits 1 when there are any. --reopen 2026-10 --reason … marks its seals as",
			"reopened, which is kept; the month can be sealed again then."),
	}
	f := bindBooks(c, "table, csv or json")
	f.bindTimezone()
	f.bindHuman()
	c.Flags().StringVar(&period, "period", "", "the month to seal")
	c.Flags().StringVar(&explain, "explain", "", "the sealed month to explain")
	c.Flags().StringVar(&reopen, "reopen", "", "the sealed month to reopen")
	c.Flags().StringVar(&reason, "reason", "", "why it is reopened")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		given := 0
		for _, name := range []string{"period", "explain", "reopen"} {
			if cmd.Flags().Changed(name) {
				given++
			}
		}
		if given != 1 {
			return fmt.Errorf("%w: close wants one of --period, --explain and --reopen", errUsage)
		}
		month := period + explain + reopen
		start, end, err := books.Month(month, f.location)
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		switch {
		case reopen != "" && strings.TrimSpace(reason) == "":
			return fmt.Errorf("%w: --reopen needs --reason", errUsage)
		case reopen == "" && cmd.Flags().Changed("reason"):
			return fmt.Errorf("%w: --reason belongs to --reopen", errUsage)
		case period != "" && end.After(time.Now()):
			return fmt.Errorf("%w: %s is not over: it ends at %s", errUsage, period, end.Format(time.RFC3339))
		}
		return f.withStore(cmd.Context(), e, func(s bookStore) error {
			switch {
			case explain != "":
				return f.explainPeriod(cmd.Context(), e, s, month)
			case reopen != "":
				return f.reopenPeriod(cmd.Context(), e, s, month, reason)
			}
			return f.sealPeriod(cmd.Context(), e, s, month, start, end)
		})
	}
	return c
}

func (f *booksFlags) sealPeriod(ctx context.Context, e *env, s bookStore, period string, start, end time.Time) error {
	w, err := newReport(e.out, f.format, "account", "ledger", "currency", "period_start", "period_end", "closing", "rows", "digest", "sealed_at", "position")
	if err != nil {
		return err
	}
	filter := f.query().Filter
	var sealed []books.Seal
	var out books.Outcome
	fresh := false
	err = s.Books(ctx, func(r books.Reader) error {
		held, err := r.Seals(ctx, period)
		if err != nil {
			return err
		}
		if sealed = books.Open(held, filter.Account); len(sealed) > 0 {
			return nil
		}
		fresh = true
		sealed, out, err = books.Draw(ctx, r, filter, period, start, end, time.Now())
		return err
	})
	if err != nil {
		return err
	}
	if fresh {
		if told := f.told(e, out); told != nil {
			fmt.Fprintf(e.err, "%s is not sealed\n", period)
			return told
		}
		if len(sealed) == 0 {
			return fmt.Errorf("%s is not sealed: the mirror has no movement before %s", period, end.Format(time.RFC3339))
		}
		if err := s.SaveSeals(ctx, sealed); err != nil {
			return err
		}
	}
	for _, seal := range sealed {
		if err := w.write(seal.Account, string(seal.Ledger), seal.Currency, seal.Start, seal.End, f.amount(seal.Ledger, seal.Closing, seal.Currency),
			seal.Rows, seal.Digest, seal.SealedAt, seal.Position); err != nil {
			return err
		}
	}
	return w.end()
}

func (f *booksFlags) explainPeriod(ctx context.Context, e *env, s bookStore, period string) error {
	w, err := newReport(e.out, f.format, "account", "ledger", "currency", "customer", "id", "amount", "dated", "arrived", "cause")
	if err != nil {
		return err
	}
	return s.Books(ctx, func(r books.Reader) error {
		seals, err := r.Seals(ctx, period)
		if err != nil {
			return err
		}
		if seals = books.Open(seals, f.query().Account); len(seals) == 0 {
			return fmt.Errorf("%w: %s is not sealed", errUsage, period)
		}
		late, broken, err := books.Compare(ctx, r, seals)
		if err != nil {
			return err
		}
		for _, l := range late {
			amount := any(l.Amount)
			if f.human {
				amount = books.Money(l.Amount, l.Seal.Currency)
			}
			if err := w.write(l.Seal.Account, string(l.Seal.Ledger), l.Seal.Currency, l.Customer, l.ID, amount, l.Dated, l.Arrived, l.Cause); err != nil {
				return err
			}
		}
		if err := w.end(); err != nil {
			return err
		}
		for _, b := range broken {
			fmt.Fprintf(e.err, "account %q, %s, %s: without these the rows make %s, sealed were %s, and no record of the change feed explains it: run creditmirror verify\n",
				b.Seal.Account, b.Seal.Ledger, b.Seal.Currency, strconv.FormatInt(b.Closing, 10), strconv.FormatInt(b.Seal.Closing, 10))
		}
		if len(late)+len(broken) > 0 {
			return errFound
		}
		return nil
	})
}

func (f *booksFlags) reopenPeriod(ctx context.Context, e *env, s bookStore, period, reason string) error {
	n, err := s.Reopen(ctx, f.query().Account, period, reason)
	if err == nil && n == 0 {
		return fmt.Errorf("%w: %s is not sealed", errUsage, period)
	}
	if err == nil {
		fmt.Fprintf(e.err, "%s is reopened: %d seals are kept as reopened, with the reason\n", period, n)
	}
	return err
}
