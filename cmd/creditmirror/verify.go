package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/verify"
)

func newVerify(e *env) *cobra.Command {
	var account, customer, format string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Prove the local ledgers without calling Stripe",
		Long: lines(
			"Reads every table through queries of its own and asks that each chain of balance",
			"transactions closes from zero and ends at the customer's balance, that the rows of each",
			"credit grant stay within it and sum up to the summary, that nothing is without its",
			"customer or grant, and that columns say what Stripe's JSON says. Prints one line for",
			"each thing that does not hold, and exits 1 if there is any.",
			"",
			"Runs beside a serve: everything is read from one snapshot, and nothing is written.",
			"Histories that are not copied wholly yet are counted, not judged."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	c.Flags().StringVar(&account, "account", "", `only this connected account (acct_…); "" is the platform's own (default: all)`)
	c.Flags().StringVar(&customer, "customer", "", "only this customer (cus_…)")
	c.Flags().StringVar(&format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
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
		w, err := newFindingWriter(e.out, format)
		if err != nil {
			return err
		}
		cfg, err := config.Load(e.environ, overrides)
		if err != nil {
			return err
		}
		return runVerify(cmd.Context(), e, cfg, f, w)
	}
	return c
}

func runVerify(ctx context.Context, e *env, cfg config.Config, f mirror.AuditFilter, w findingWriter) (err error) {
	if path, ok := cfg.SQLitePath(); ok {
		// Opening it would make an empty one, about which there is nothing to prove.
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no mirror at %s: set %s, or make the first copy with serve or backfill", path, config.VarDatabaseURL)
		}
	}
	store, err := app.OpenStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.CheckSchema(ctx); err != nil {
		return err
	}
	auditor, ok := store.(mirror.Auditor)
	if !ok {
		return errors.New("this database cannot be verified")
	}
	start := time.Now()
	result, err := verify.Run(ctx, auditor, verify.Options{Filter: f}, w.write)
	if err := errors.Join(err, w.end()); err != nil {
		return err
	}
	fmt.Fprintf(e.err, "%d customers, %d balance transactions, %d credit transactions in %s: %d not proven, %d customers incomplete\n",
		result.Customers, result.BalanceTransactions, result.CreditTransactions, time.Since(start).Round(time.Millisecond),
		result.Findings, result.Incomplete)
	if result.Findings > 0 {
		return errFound
	}
	return nil
}

// findingWriter prints findings in the report formats, as they come.
type findingWriter interface {
	write(mirror.Finding) error
	end() error
}

func findingColumns() []string {
	return []string{"kind", "account", "customer", "currency", "expected", "actual", "cause", "found_at", "repaired_at"}
}

func findingValues(f mirror.Finding) []string {
	return []string{
		string(f.Kind), f.Account, f.Customer, f.Currency, f.Expected, f.Actual, f.Cause, rfc3339(f.FoundAt), rfc3339(f.RepairedAt),
	}
}

// rfc3339 writes a time in UTC; the zero time is empty.
func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// newFindingWriter chooses the format; empty is a table on a terminal, else CSV.
func newFindingWriter(out io.Writer, format string) (findingWriter, error) {
	if format == "" {
		format = "csv"
		if terminal(out) {
			format = "table"
		}
	}
	switch format {
	case "table":
		return &findingTable{w: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}, nil
	case "csv":
		return &findingCSV{w: csv.NewWriter(out)}, nil
	case "json":
		return &findingJSON{w: out}, nil
	}
	return nil, fmt.Errorf("%w: --format %q: want table, csv or json", errUsage, format)
}

// tableBlock is after how many lines a table is printed, and its columns may
// find another width: a report may be longer than memory.
const tableBlock = 1000

type findingTable struct {
	w *tabwriter.Writer
	n int
}

func (t *findingTable) write(f mirror.Finding) error {
	if t.n%tableBlock == 0 {
		if err := t.end(); err != nil {
			return err
		}
		fmt.Fprintln(t.w, strings.ToUpper(strings.Join(findingColumns(), "\t")))
	}
	t.n++
	values := findingValues(f)
	for i, v := range values {
		if values[i] = cell(v); v == "" {
			values[i] = "-"
		}
	}
	_, err := fmt.Fprintln(t.w, strings.Join(values, "\t"))
	return err
}

// cell keeps a value of somebody else's making within its line and column.
func cell(v string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, v)
}

func (t *findingTable) end() error { return t.w.Flush() }

type findingCSV struct {
	w    *csv.Writer
	rows int
}

func (c *findingCSV) write(f mirror.Finding) error {
	if err := c.header(); err != nil {
		return err
	}
	return c.w.Write(findingValues(f))
}

func (c *findingCSV) header() error {
	c.rows++
	if c.rows > 1 {
		return nil
	}
	return c.w.Write(findingColumns())
}

func (c *findingCSV) end() error {
	if err := c.header(); err != nil {
		return err
	}
	c.w.Flush()
	return c.w.Error()
}

type findingJSON struct {
	w    io.Writer
	rows int
}

// findingObject has the report's keys in their order.
type findingObject struct {
	Kind       string  `json:"kind"`
	Account    string  `json:"account"`
	Customer   string  `json:"customer"`
	Currency   string  `json:"currency"`
	Expected   string  `json:"expected"`
	Actual     string  `json:"actual"`
	Cause      string  `json:"cause"`
	FoundAt    string  `json:"found_at"`
	RepairedAt *string `json:"repaired_at"`
}

func (j *findingJSON) write(f mirror.Finding) error {
	o := findingObject{
		string(f.Kind), f.Account, f.Customer, f.Currency, f.Expected, f.Actual, f.Cause, rfc3339(f.FoundAt), nil,
	}
	if !f.RepairedAt.IsZero() {
		at := rfc3339(f.RepairedAt)
		o.RepairedAt = &at
	}
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	before := ",\n"
	if j.rows == 0 {
		before = "[\n"
	}
	j.rows++
	_, err = io.WriteString(j.w, before+string(line))
	return err
}

func (j *findingJSON) end() error {
	text := "\n]\n"
	if j.rows == 0 {
		text = "[]\n"
	}
	_, err := io.WriteString(j.w, text)
	return err
}
