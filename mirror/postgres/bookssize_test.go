package postgres

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/report"
)

// fillBooks makes n rows in each ledger, of a customer per twenty, over 36 months.
var fillBooks = []string{
	`INSERT INTO creditmirror.customers (account, id, balance, currency, livemode, raw, digest)
SELECT '', 'cus_' || lpad(c::text, 9, '0'), 0, 'usd', false, '{}', 'd' FROM generate_series(1, $1::bigint / 20) AS c`,
	`INSERT INTO creditmirror.sync_state (account, customer, scope, epoch, applied_epoch, history_complete, full_read_at)
SELECT '', id, s, 1, 1, true, now() FROM creditmirror.customers, unnest(array['balance', 'credits']) AS s`,
	`INSERT INTO creditmirror.customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest)
SELECT '', 'cus_' || lpad(((i - 1) / 20 + 1)::text, 9, '0'), 'cbtxn_' || lpad(i::text, 12, '0'), (array['usd', 'eur', 'jpy'])[1 + ((i - 1) / 20) % 3],
  -10, -10 * (1 + (i - 1) % 20), (array['adjustment', 'applied_to_invoice', 'credit_note', 'initial', 'invoice_overpaid', 'unapplied_from_invoice'])[1 + i % 6],
  '{}', '2023-01-01T00:00:00Z'::timestamptz + ((i - 1) % 20) * interval '54 days' + (i % 86400) * interval '1 second', false, 1 + (i - 1) % 20, '{}', 'd'
FROM generate_series(1, $1::bigint) AS i`,
	`INSERT INTO creditmirror.credit_grants (account, id, customer, category, amount_type, amount, currency, applicability_config, effective_at, created, updated, livemode, metadata, raw, digest)
SELECT '', 'credgr_' || c, 'cus_' || lpad(c::text, 9, '0'), 'paid', 'monetary', 1000, 'usd', '{}', '2023-01-01', '2023-01-01', '2023-01-01', false, '{}', '{}', 'd'
FROM generate_series(1, $1::bigint / 20) AS c`,
	`INSERT INTO creditmirror.credit_balance_transactions (account, customer, id, "grant", type, credit_type, debit_type, currency, amount, effective_at, created, livemode, raw, digest)
SELECT '', 'cus_' || lpad(((i - 1) / 20 + 1)::text, 9, '0'), 'cbtxn_' || lpad(i::text, 12, '0'), 'credgr_' || ((i - 1) / 20 + 1),
  CASE WHEN i % 20 = 1 THEN 'credit' ELSE 'debit' END, CASE WHEN i % 20 = 1 THEN 'credits_granted' END, CASE WHEN i % 20 <> 1 THEN 'credits_applied' END,
  'usd', CASE WHEN i % 20 = 1 THEN 1000 ELSE -10 END, '2023-01-01T00:00:00Z'::timestamptz + ((i - 1) % 20) * interval '54 days' + (i % 86400) * interval '1 second',
  '2023-01-01', false, '{}', 'd' FROM generate_series(1, $1::bigint) AS i`,
	`VACUUM ANALYZE creditmirror.customer_balance_transactions`, `VACUUM ANALYZE creditmirror.credit_balance_transactions`,
	`ANALYZE creditmirror.customers`, `ANALYZE creditmirror.sync_state`, `ANALYZE creditmirror.credit_grants`,
}

// BenchmarkBooks times the reports over CREDITMIRROR_BENCH_ROWS rows in each ledger
// (1,000,000), in rounds beside a count of the same index.
func BenchmarkBooks(b *testing.B) {
	n := int64(1_000_000)
	if s := os.Getenv("CREDITMIRROR_BENCH_ROWS"); s != "" {
		var err error
		if n, err = strconv.ParseInt(s, 10, 64); err != nil {
			b.Fatal(err)
		}
	}
	url := pgtest.Start(b).NewDatabase(b)
	s, _ := openCounted(b, url, 2)
	sql := openSQL(b, url)
	for _, statement := range fillBooks {
		var args []any
		if strings.Contains(statement, "$1") {
			args = []any{n}
		}
		sql.exec(b, statement, args...)
	}
	at := time.Date(2024, 7, 1, 0, 0, 0, 0, time.UTC)
	month := func(i int) time.Time { return time.Date(2023, time.Month(1+i), 1, 0, 0, 0, 0, time.UTC) }
	var all []time.Time
	for i := range 37 {
		all = append(all, month(i))
	}
	q := report.Query{Ledgers: report.Ledgers(""), Until: at}
	balance := report.Query{Ledgers: report.Ledgers(report.LedgerBalance), Until: at}
	inBooks := func(fn func(ctx context.Context, r report.Reader) error) func() error {
		return func() error {
			return s.Books(b.Context(), func(r report.Reader) error { return fn(b.Context(), r) })
		}
	}
	drop := func(sums func(ctx context.Context, r *books) error) func() error {
		return inBooks(func(ctx context.Context, r report.Reader) error { return sums(ctx, r.(*books)) })
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"count", drop(func(ctx context.Context, r *books) error {
			var rows int64
			if _, err := r.conn.Exec(ctx, `SET LOCAL enable_seqscan = off`); err != nil {
				return err
			}
			return r.conn.QueryRow(ctx, `SELECT count(*) FROM creditmirror.customer_balance_transactions WHERE created < 'infinity'`).Scan(&rows)
		})},
		{"total-balance", inBooks(func(ctx context.Context, r report.Reader) error {
			_, _, err := report.Totals(ctx, r, balance)
			return err
		})},
		{"total-both", inBooks(func(ctx context.Context, r report.Reader) error {
			_, _, err := report.Totals(ctx, r, q)
			return err
		})},
		{"customers-read", drop(func(ctx context.Context, r *books) error {
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
		{"one-month", inBooks(func(ctx context.Context, r report.Reader) error {
			_, _, err := report.Rollforward(ctx, r, q, all[17:19], report.Split{})
			return err
		})},
		{"36-months", inBooks(func(ctx context.Context, r report.Reader) error {
			_, _, err := report.Rollforward(ctx, r, q, all, report.Split{})
			return err
		})},
	}
	times := make([][]float64, len(steps))
	for b.Loop() {
		for i, step := range steps {
			begun := time.Now()
			if err := step.do(); err != nil {
				b.Fatalf("%s: %v", step.name, err)
			}
			times[i] = append(times[i], time.Since(begun).Seconds())
		}
	}
	for i, step := range steps {
		slices.Sort(times[i])
		b.ReportMetric(times[i][len(times[i])/2], fmt.Sprintf("s-%s", step.name))
	}
}
