package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	// Time zones must be known in an image that has no files of its own.
	_ "time/tzdata"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	books "github.com/creditmirror/creditmirror/report"
)

// booksFlags are what the commands of the books share.
type booksFlags struct {
	account, customer, ledger, currency, format, timezone string
	allowGaps, human                                      bool

	flags     *pflag.FlagSet
	overrides *config.Overrides
	location  *time.Location
}

func bindBooks(c *cobra.Command, formats string) *booksFlags {
	f := &booksFlags{flags: c.Flags(), overrides: config.Bind(c.Flags(), config.VarDatabaseURL)}
	c.Args = cobra.NoArgs
	c.Flags().StringVar(&f.account, "account", "", `only this connected account (acct_…); "" is the platform's own (default: all)`)
	c.Flags().StringVar(&f.format, "format", "", formats+" (default: table on a terminal, else csv)")
	c.Flags().BoolVar(&f.allowGaps, "allow-gaps", false, "exit 0 although customers with incomplete histories are left out")
	return f
}

func (f *booksFlags) bindCustomer() {
	f.flags.StringVar(&f.customer, "customer", "", "only this customer (cus_…)")
}

func (f *booksFlags) bindLedger() {
	f.flags.StringVar(&f.ledger, "ledger", "", "balance or credits (default: both)")
	f.flags.StringVar(&f.currency, "currency", "", "only this currency, such as usd")
}

func (f *booksFlags) bindTimezone() {
	f.flags.StringVar(&f.timezone, "timezone", "UTC", "where days begin, such as Europe/Berlin")
}

func (f *booksFlags) bindHuman() {
	f.flags.BoolVar(&f.human, "human", false, "amounts for people: decimals, currency, and what the sign means (tables only)")
}

// check reads the flags that many commands share.
func (f *booksFlags) check() error {
	f.currency = strings.ToLower(f.currency)
	f.location = time.UTC
	switch {
	case f.account != "" && !mirror.ValidAccountID(f.account):
		return fmt.Errorf("%w: --account %q: want acct_…", errUsage, f.account)
	case f.flags.Changed("customer") && !mirror.ValidCustomerID(f.customer):
		return fmt.Errorf("%w: --customer %q: want cus_…", errUsage, f.customer)
	case f.ledger != "" && f.ledger != string(books.LedgerBalance) && f.ledger != string(books.LedgerCredits):
		return fmt.Errorf("%w: --ledger %q: want balance or credits", errUsage, f.ledger)
	case f.flags.Changed("currency") && !books.KnownCurrency(f.currency):
		return fmt.Errorf("%w: --currency %q: there is no such currency; want a code such as usd", errUsage, f.currency)
	case f.human && f.format != "" && f.format != "table":
		return fmt.Errorf("%w: --human is for people: amounts in %s are never scaled; leave one of both out", errUsage, f.format)
	}
	if f.human {
		f.format = "table"
	}
	if f.timezone == "" || f.timezone == "UTC" {
		return nil
	}
	loc, err := time.LoadLocation(f.timezone)
	if err != nil || f.timezone == "Local" {
		return fmt.Errorf("%w: --timezone %q: want a name of the IANA database, such as Europe/Berlin", errUsage, f.timezone)
	}
	f.location = loc
	return nil
}

func (f *booksFlags) query() books.Query {
	q := books.Query{Filter: books.Filter{Customer: f.customer, Currency: f.currency}, Ledgers: books.Ledgers(books.Ledger(f.ledger))}
	if f.flags.Changed("account") {
		q.Account = &f.account
	}
	return q
}

// asOf reads --as-of; empty is now.
func (f *booksFlags) asOf(s string) (time.Time, error) {
	if !f.flags.Changed("as-of") {
		return books.Now(time.Now()), nil
	}
	until, err := books.ParseAsOf(s, f.location)
	if err != nil {
		return until, fmt.Errorf("%w: --as-of %q: %w", errUsage, s, err)
	}
	return until, nil
}

// bound reads --from or --to.
func (f *booksFlags) bound(name, s string) (time.Time, error) {
	t, err := books.ParseBound(s, f.location)
	if err != nil {
		return t, fmt.Errorf("%w: --%s %q: %w", errUsage, name, s, err)
	}
	return t, nil
}

// open opens the mirror and runs fn on one snapshot of its books.
func (f *booksFlags) open(ctx context.Context, e *env, fn func(books.Reader) error) error {
	return f.withStore(ctx, e, func(s bookStore) error {
		return s.Books(ctx, func(r books.Reader) error {
			if err := f.known(ctx, r); err != nil {
				return err
			}
			return fn(r)
		})
	})
}

// bookStore is a mirror that books can be made of.
type bookStore interface {
	books.Books
	books.Sealer
}

func (f *booksFlags) withStore(ctx context.Context, e *env, fn func(bookStore) error) (err error) {
	cfg, err := config.LoadUsed(e.environ, nil, f.overrides)
	if err != nil {
		return err
	}
	store, err := openMirror(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	s, ok := store.(bookStore)
	if !ok {
		return errors.New("this database has no books")
	}
	return fn(s)
}

// known refuses a customer of whom the mirror knows nothing: an empty report would
// read as zero.
func (f *booksFlags) known(ctx context.Context, r books.Reader) error {
	if f.customer == "" {
		return nil
	}
	accounts, err := r.Knows(ctx, f.query().Filter)
	if err == nil && len(accounts) == 0 {
		err = fmt.Errorf("%w: --customer %s: the mirror knows no such customer%s", errUsage, f.customer,
			map[bool]string{true: " of this account"}[f.flags.Changed("account")])
	}
	return err
}

// remark prints on standard error that a report is empty, which is not the same as zero,
// or that it reaches into the future and is not final.
func remark(e *env, rows int, flag string, end time.Time) {
	if rows == 0 {
		fmt.Fprintln(e.err, "the report is empty: no customer whose history is complete holds anything that the filters select")
	}
	if end.After(books.Now(time.Now())) {
		fmt.Fprintf(e.err, "--%s %s lies in the future: the last figures are those so far\n", flag, end.Format(time.RFC3339))
	}
}

// told prints what a report could not say, and returns errFound where that is an
// error.
func (f *booksFlags) told(e *env, out books.Outcome) error {
	if out.Unproven > 0 {
		names := make([]string, 0, len(out.Names))
		for _, u := range out.Names {
			names = append(names, fmt.Sprintf("%s (%s: %s)", name(u.Key), u.Ledger, u.Why))
		}
		if out.Unproven > int64(len(names)) {
			names = append(names, "…")
		}
		fmt.Fprintf(e.err, "%d customers have no figure and are left out, since their history is not complete: %s\n",
			out.Unproven, strings.Join(names, ", "))
	}
	for _, d := range out.Differences {
		fmt.Fprintf(e.err, "%s, %s: the rows add up to %d, but the last ending balance is %d: run creditmirror verify\n",
			name(d.Key), d.Currency, d.Amount, d.LastEnding)
	}
	if more := out.Differing - int64(len(out.Differences)); more > 0 {
		fmt.Fprintf(e.err, "%d more balances differ from the sum of their rows\n", more)
	}
	if out.Differing > 0 || out.Unproven > 0 && !f.allowGaps {
		return errFound
	}
	return nil
}

// name names a customer with its account.
func name(k books.Key) string {
	if k.Account == "" {
		return k.Customer
	}
	return k.Account + "/" + k.Customer
}

// amount is how a report shows an amount.
func (f *booksFlags) amount(l books.Ledger, amount int64, currency string) any {
	if f.human {
		return books.Human(l, amount, currency)
	}
	return amount
}

func newBalances(e *env) *cobra.Command {
	var asOf, pending string
	var total, all, nonzero bool
	c := &cobra.Command{
		Use:   "balances",
		Short: "Show what every customer holds, now or at any moment",
		Long: lines(
			"One line per customer, ledger and currency, or with --total the sums. In ledger balance a",
			"negative amount is credit, a positive one is owed; in ledger credits a positive one is",
			"credit left. Amounts are integers in the currency's minor unit, and are never added across",
			"currencies.",
			"",
			"--as-of takes a date, which means its end, or an RFC 3339 instant, which includes its second.",
			"Rows of the balance ledger are dated by created, those of credits by effective_at, there not",
			"before their grant is effective. A deleted customer holds nothing from the deletion on.",
			"",
			"A customer whose history is not complete has no figure: it is left out, counted on",
			"standard error, and the exit is 1 unless --allow-gaps."),
	}
	f := bindBooks(c, "table, csv or json")
	f.bindCustomer()
	f.bindLedger()
	f.bindTimezone()
	f.bindHuman()
	c.Flags().StringVar(&asOf, "as-of", "", "a date or an instant (default: now)")
	c.Flags().BoolVar(&total, "total", false, "sums per account, ledger and currency, with the number of customers whose amount is not zero")
	c.Flags().BoolVar(&all, "all", false, "print rows of zero too")
	c.Flags().BoolVar(&nonzero, "nonzero", false, "print no rows of zero, as without --all")
	c.Flags().StringVar(&pending, "pending", "exclude", "grants that are not effective yet: exclude, or include them from their creation on")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		q := f.query()
		q.All, q.Pending = all, pending == "include"
		var err error
		if q.Until, err = f.asOf(asOf); err != nil {
			return err
		}
		switch {
		case !slices.Contains([]string{"include", "exclude"}, pending):
			return fmt.Errorf("%w: --pending %q: want include or exclude", errUsage, pending)
		case all && nonzero:
			return fmt.Errorf("%w: --all and --nonzero contradict each other", errUsage)
		}
		columns := []string{"account", "customer", "ledger", "currency", "amount", "as_of"}
		if total {
			columns = []string{"account", "ledger", "currency", "customers", "amount", "as_of"}
		}
		w, err := newReport(e.out, f.format, columns...)
		if err != nil {
			return err
		}
		return f.open(cmd.Context(), e, func(r books.Reader) error {
			out, err := printBalances(cmd.Context(), r, f, q, w, total)
			if err := errors.Join(err, w.end()); err != nil {
				return err
			}
			remark(e, w.rows, "as-of", q.Until)
			return f.told(e, out)
		})
	}
	return c
}

func printBalances(ctx context.Context, r books.Reader, f *booksFlags, q books.Query, w *report, total bool) (books.Outcome, error) {
	asOf := books.AsOf(q.Until)
	if !total {
		return books.Balances(ctx, r, q, func(b books.Balance) error {
			return w.write(b.Account, b.Customer, string(b.Ledger), b.Currency, f.amount(b.Ledger, b.Amount, b.Currency), asOf)
		})
	}
	totals, out, err := books.Totals(ctx, r, q)
	if err != nil {
		return out, err
	}
	for _, t := range totals {
		if err := w.write(t.Account, string(t.Ledger), t.Currency, t.Customers, f.amount(t.Ledger, t.Amount, t.Currency), asOf); err != nil {
			return out, err
		}
	}
	return out, nil
}
