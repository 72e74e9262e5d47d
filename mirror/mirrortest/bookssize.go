package mirrortest

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/report"
)

// BooksSize is a database of a size, for BenchBooks.
type BooksSize struct {
	Store report.DayTable
	// Exec runs the statements of Fill; $1 in them is the number of rows in each ledger.
	Exec func(b *testing.B, statement string)
	Fill []string
	// Filled ends the connection of Exec, with the memory that it took. It may be nil.
	Filled func()
	// Count counts the rows of the covering index of the balance ledger.
	Count func(ctx context.Context, r report.Reader) error
	// CPU is the processor time that the database has taken, beside this process.
	CPU func() time.Duration
}

// BigCustomer is one of whom Fill makes a fifth more rows in the balance ledger.
const BigCustomer = "cus_big"

// BenchBooks times the reports over CREDITMIRROR_BENCH_ROWS rows in each ledger
// (1,000,000), in rounds beside a count of the same index. Beside the wall time of each
// step it reports the processor time that it took, which means more on a machine that
// does other work too, and the most memory that this process had in it.
func BenchBooks(b *testing.B, o BooksSize) {
	b.Helper()
	n := int64(1_000_000)
	if s := os.Getenv("CREDITMIRROR_BENCH_ROWS"); s != "" {
		var err error
		if n, err = strconv.ParseInt(s, 10, 64); err != nil {
			b.Fatal(err)
		}
	}
	began := time.Now()
	for _, statement := range o.Fill {
		o.Exec(b, strings.ReplaceAll(statement, "$1", strconv.FormatInt(n, 10)))
	}
	if o.Filled != nil {
		o.Filled()
	}
	b.Logf("%d rows in each ledger, and %d of one customer, filled in %s", n, n/5, time.Since(began).Round(time.Second))
	at := time.Date(2024, 7, 1, 0, 0, 0, 0, time.UTC)
	var months, odd []time.Time // odd ones do not lie on midnight
	for i := range 37 {
		months = append(months, time.Date(2023, time.Month(1+i), 1, 0, 0, 0, 0, time.UTC))
		odd = append(odd, months[i].Add(time.Hour))
	}
	q := report.Query{Ledgers: report.Ledgers(""), Until: at}
	balance := report.Query{Ledgers: report.Ledgers(report.LedgerBalance), Until: at}
	inBooks := func(fn func(ctx context.Context, r report.Reader) error) func() error {
		return func() error {
			return o.Store.Books(b.Context(), func(r report.Reader) error { return fn(b.Context(), r) })
		}
	}
	rollforward := func(bounds []time.Time, check report.Check) func() error {
		return inBooks(func(ctx context.Context, r report.Reader) error {
			q := q
			q.Check = check
			if check == report.CheckDoubted {
				if state, err := r.DayState(ctx); err != nil || state.Proven == "" {
					return fmt.Errorf("nothing is proven: %+v, %w", state, err)
				}
			}
			_, out, err := report.Rollforward(ctx, r, q, bounds, report.Split{})
			if err == nil && !out.Whole() {
				err = fmt.Errorf("%+v", out)
			}
			return err
		})
	}
	own, days := "", 0
	steps := []struct {
		name string
		do   func() error
	}{
		{"count", inBooks(o.Count)},
		{"total-balance", inBooks(func(ctx context.Context, r report.Reader) error {
			_, _, err := report.Totals(ctx, r, balance)
			return err
		})},
		{"customers-read", inBooks(func(ctx context.Context, r report.Reader) error {
			for _, err := range r.Sums(ctx, report.LedgerBalance, report.Filter{}, report.ByLedger, at, false) {
				if err != nil {
					return err
				}
			}
			return nil
		})},
		{"customers", inBooks(func(ctx context.Context, r report.Reader) error {
			_, err := report.Balances(ctx, r, balance, func(report.Balance) error { return nil })
			return err
		})},
		{"check", inBooks(func(ctx context.Context, r report.Reader) error {
			_, err := r.Totals(ctx, report.LedgerBalance, report.Filter{}, report.ByLedger, months[36])
			return err
		})},
		{"cells-by-rows", inBooks(func(ctx context.Context, r report.Reader) error {
			for _, l := range report.Ledgers("") {
				if _, err := r.Cells(ctx, l, report.Filter{}, odd, report.Split{}); err != nil {
					return err
				}
			}
			return nil
		})},
		{"make-days", func() error {
			days++
			f := report.Folder{Table: o.Store, Now: func() time.Time { return time.Now().AddDate(0, 0, 2*days) }}
			done, err := f.Fold(b.Context())
			if err == nil && done.Made == "" {
				err = fmt.Errorf("nothing was made: %+v", done)
			}
			return err
		}},
		{"verify-days", inBooks(func(ctx context.Context, r report.Reader) error {
			return report.CompareDays(ctx, r, nil, func(rows, held report.Day) error { return fmt.Errorf("%+v, %+v", rows, held) })
		})},
		{"cells-by-days", inBooks(func(ctx context.Context, r report.Reader) error {
			for _, l := range report.Ledgers("") {
				if _, err := r.Cells(ctx, l, report.Filter{}, months, report.Split{}); err != nil {
					return err
				}
			}
			return nil
		})},
		{"open-chains", inBooks(func(ctx context.Context, r report.Reader) error {
			open, complete, err := r.OpenChains(ctx, "", report.MaxOpen)
			if err == nil && (len(open) != 0 || !complete) {
				err = fmt.Errorf("%d chains are open", len(open))
			}
			return err
		})},
		{"one-month", rollforward(months[17:19], report.CheckDoubted)},
		{"one-month-full", rollforward(months[17:19], report.CheckAll)},
		{"36-months", rollforward(months, report.CheckDoubted)},
		{"36-months-full", rollforward(months, report.CheckAll)},
		{"statement", inBooks(func(ctx context.Context, r report.Reader) error {
			_, err := report.Statement(ctx, r, report.Query{
				Filter: report.Filter{Account: &own, Customer: BigCustomer}, Ledgers: report.Ledgers(""), Until: months[36],
			}, time.Time{}, func(report.Movement) error { return nil })
			return err
		})},
	}
	times, cpu, memory := make([][]float64, len(steps)), make([][]float64, len(steps)), make([][]float64, len(steps))
	for b.Loop() {
		for i, step := range steps {
			debug.FreeOSMemory()
			peakFromHere(b)
			begun, used := time.Now(), ownCPU(b)+o.CPU()
			if err := step.do(); err != nil {
				b.Fatalf("%s: %v", step.name, err)
			}
			times[i] = append(times[i], time.Since(begun).Seconds())
			cpu[i] = append(cpu[i], (ownCPU(b) + o.CPU() - used).Seconds())
			memory[i] = append(memory[i], peak(b))
			b.Logf("%-14s %7.2f s, %7.2f s of processors, at most %4.0f MiB", step.name, time.Since(begun).Seconds(), cpu[i][len(cpu[i])-1], peak(b))
		}
	}
	for i, step := range steps {
		for unit, list := range map[string][]float64{"s": times[i], "cpu-s": cpu[i], "MiB": memory[i]} {
			slices.Sort(list)
			b.ReportMetric(list[len(list)/2], unit+"-"+step.name)
		}
	}
}

func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakFromHere makes the kernel forget the most memory that this process had.
func peakFromHere(b *testing.B) {
	b.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Logf("peaks of memory are those of all steps: %v", err)
	}
}

// peak is the most resident memory since then, in MiB.
func peak(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseFloat(kib, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n / 1024
}
