package postgres

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
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
	`INSERT INTO creditmirror.customers (account, id, balance, currency, livemode, raw, digest)
VALUES ('', 'cus_big', -10 * ($1::bigint / 5), 'usd', false, '{}', 'd')`,
	`INSERT INTO creditmirror.sync_state (account, customer, scope, epoch, applied_epoch, history_complete, full_read_at)
SELECT '', 'cus_big', s, 1, 1, true, now() FROM unnest(array['balance', 'credits']) AS s`,
	`INSERT INTO creditmirror.customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest)
SELECT '', 'cus_big', 'cbtxn_' || lpad(i::text, 12, '0'), 'usd', -10, -10 * i, 'adjustment',
  '{}', '2023-01-01T00:00:00Z'::timestamptz + (i * 94608000 / ($1::bigint / 5 + 1)) * interval '1 second', false, i, '{}', 'd'
FROM generate_series(1, $1::bigint / 5) AS i`,
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

// BenchmarkBooks times the reports over a mirror of a size.
func BenchmarkBooks(b *testing.B) {
	url := pgtest.Start(b).NewDatabase(b)
	s, _ := openCounted(b, url, 2)
	sql := openSQL(b, url)
	var folder string
	if err := sql.pool.QueryRow(b.Context(), `SHOW data_directory`).Scan(&folder); err != nil {
		b.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(folder, "postmaster.pid"))
	if err != nil {
		b.Fatal(err)
	}
	server, _, _ := strings.Cut(string(file), "\n")
	mirrortest.BenchBooks(b, mirrortest.BooksSize{
		Store: s, Fill: fillBooks,
		Exec: func(b *testing.B, statement string) { sql.exec(b, statement) },
		Count: func(ctx context.Context, r report.Reader) error {
			conn := r.(*books).conn
			if _, err := conn.Exec(ctx, `SET LOCAL enable_seqscan = off`); err != nil {
				return err
			}
			var rows int64
			return conn.QueryRow(ctx, `SELECT count(*) FROM creditmirror.customer_balance_transactions WHERE created < 'infinity'`).Scan(&rows)
		},
		CPU: func() time.Duration { return serverCPU(server) },
	})
}

// serverCPU is the processor time of a server and of its children, living and ended.
func serverCPU(server string) (all time.Duration) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") //nolint:errcheck // the pattern is well-formed
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest) // from the third on: state, parent, …
		of := 0
		switch {
		case filepath.Base(filepath.Dir(path)) == server:
			of = 4 // its own, and those of the children that have ended
		case len(fields) > 1 && fields[1] == server:
			of = 2
		}
		for _, ticks := range fields[11:][:of] {
			n, _ := strconv.ParseInt(ticks, 10, 64) //nolint:errcheck // the kernel writes numbers
			all += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return all
}
