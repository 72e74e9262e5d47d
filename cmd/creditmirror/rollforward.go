package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	books "github.com/creditmirror/creditmirror/report"
)

func newRollforward(e *env) *cobra.Command {
	var from, to, by, split, check string
	var chart bool
	c := &cobra.Command{
		Use:   "rollforward",
		Short: "Show the opening balance, each kind of movement and the closing balance",
		Long: lines(
			"For each month or day: opening, each type of movement, closing, per account, ledger and",
			"currency. Opening and movements add up to closing, to the unit. What a deleted customer",
			"held is released by the movement customer_deleted. Lines of zero are left out.",
			"",
			"--from is included, --to is not; a date means its start. --split separates movements by",
			"today's description or metadata (in ledger credits: of the grant), which have no history.",
			"",
			"Rows must add up to the last ending balance. If serve proved every chain before, only",
			"customers whose rows may have changed since are checked; --check full checks all."),
	}
	f := bindBooks(c, "table, csv or json")
	f.bindCustomer()
	f.bindLedger()
	f.bindTimezone()
	f.bindHuman()
	c.Flags().StringVar(&from, "from", "", "first day or instant, included")
	c.Flags().StringVar(&to, "to", "", "last day or instant, not included")
	c.Flags().StringVar(&by, "by", "month", "month or day")
	c.Flags().StringVar(&split, "split", "", "metadata.KEY or description")
	c.Flags().StringVar(&check, "check", "auto", "whose ending balances are looked at: auto (only of what was not proven before) or full")
	c.Flags().BoolVar(&chart, "chart", false, "print an SVG of what is held at the end of each period instead")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		for _, name := range []string{"from", "to"} {
			if !cmd.Flags().Changed(name) {
				return fmt.Errorf("%w: rollforward needs --%s", errUsage, name)
			}
		}
		start, err := f.bound("from", from)
		if err != nil {
			return err
		}
		end, err := f.bound("to", to)
		if err != nil {
			return err
		}
		if by != string(books.ByMonth) && by != string(books.ByDay) {
			return fmt.Errorf("%w: --by %q: want month or day", errUsage, by)
		}
		bounds, err := books.Periods(start, end, books.By(by), f.location)
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		s, err := parseSplit(split)
		if err != nil {
			return err
		}
		q := f.query()
		switch check {
		case "auto":
		case "full":
			q.Check = books.CheckAll
		default:
			return fmt.Errorf("%w: --check %q: want auto or full", errUsage, check)
		}
		columns := []string{"account", "ledger", "currency", "period_start", "period_end", "line", "amount"}
		if split != "" {
			columns = []string{"account", "ledger", "currency", "period_start", "period_end", "line", "split", "amount"}
		}
		if chart && (split != "" || f.format != "" || f.human) {
			return fmt.Errorf("%w: --chart is a format of its own: leave --format, --split and --human out", errUsage)
		}
		w, err := newReport(e.out, f.format, columns...)
		if err != nil {
			return err
		}
		return f.open(cmd.Context(), e, func(r books.Reader) error {
			list, out, err := books.Rollforward(cmd.Context(), r, q, bounds, s)
			if err != nil {
				return err
			}
			if chart {
				err = books.Chart(e.out, list, bounds)
			} else {
				err = errors.Join(printLines(w, f, list, split != ""), w.end())
			}
			if err != nil {
				return err
			}
			remark(e, len(list), "to", end)
			return f.told(e, out)
		})
	}
	return c
}

func printLines(w *report, f *booksFlags, list []books.Line, split bool) error {
	for _, l := range list {
		values := []any{l.Account, string(l.Ledger), l.Currency, l.Start, l.End, l.Line}
		if split {
			values = append(values, l.Split)
		}
		amount := any(l.Amount)
		switch {
		case f.human && (l.Line == books.LineOpening || l.Line == books.LineClosing):
			amount = books.Human(l.Ledger, l.Amount, l.Currency)
		case f.human:
			amount = books.Money(l.Amount, l.Currency)
		}
		if err := w.write(append(values, amount)...); err != nil {
			return err
		}
	}
	return nil
}

func parseSplit(s string) (books.Split, error) {
	key, metadata := strings.CutPrefix(s, "metadata.")
	switch {
	case s == "":
		return books.Split{}, nil
	case s == "description":
		return books.Split{Description: true}, nil
	case metadata && key != "":
		return books.Split{Metadata: key}, nil
	}
	return books.Split{}, fmt.Errorf("%w: --split %q: want metadata.KEY or description", errUsage, s)
}
