package sqlite_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror/mirrortest"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
	"github.com/creditmirror/creditmirror/report"
)

// numbers are 1 … $1.
const numbers = `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
`

// fillBooks makes the rows that the same variable of the other driver makes.
var fillBooks = []string{
	`PRAGMA synchronous = OFF`,
	`PRAGMA cache_size = -400000`,
	`INSERT INTO customers (account, id, balance, currency, livemode, raw, digest, synced_at)
` + numbers + `SELECT '', printf('cus_%09d', i), 0, 'usd', 0, '{}', 'd', '2026-01-01T00:00:00.000000Z' FROM n WHERE i <= $1 / 20`,
	`INSERT INTO customers (account, id, balance, currency, livemode, raw, digest, synced_at)
VALUES ('', 'cus_big', -10 * ($1 / 5), 'usd', 0, '{}', 'd', '2026-01-01T00:00:00.000000Z')`,
	`INSERT INTO sync_state (account, customer, scope, epoch, applied_epoch, history_complete, full_read_at, synced_at)
SELECT '', customers.id, s.value, 1, 1, 1, '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z' FROM customers, json_each('["balance","credits"]') s`,
	`INSERT INTO customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest, synced_at)
` + numbers + `SELECT '', printf('cus_%09d', (i - 1) / 20 + 1), printf('cbtxn_%012d', i), json_array('usd', 'eur', 'jpy') ->> (((i - 1) / 20) % 3),
  -10, -10 * (1 + (i - 1) % 20), json_array('adjustment', 'applied_to_invoice', 'credit_note', 'initial', 'invoice_overpaid', 'unapplied_from_invoice') ->> (i % 6),
  '{}', strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1672531200 + ((i - 1) % 20) * 4665600 + i % 86400, 'unixepoch'), 0, 1 + (i - 1) % 20, '{}', 'd', '2026-01-01T00:00:00.000000Z'
FROM n`,
	`INSERT INTO customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest, synced_at)
` + numbers + `SELECT '', 'cus_big', printf('cbtxn_%012d', i), 'usd', -10, -10 * i, 'adjustment',
  '{}', strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1672531200 + i * 94608000 / ($1 / 5 + 1), 'unixepoch'), 0, i, '{}', 'd', '2026-01-01T00:00:00.000000Z'
FROM n WHERE i <= $1 / 5`,
	`INSERT INTO credit_grants (account, id, customer, category, amount_type, amount, currency, applicability_config, effective_at, created, updated, livemode, metadata, raw, digest, synced_at)
` + numbers + `SELECT '', 'credgr_' || i, printf('cus_%09d', i), 'paid', 'monetary', 1000, 'usd', '{}', '2023-01-01T00:00:00.000000Z', '2023-01-01T00:00:00.000000Z', '2023-01-01T00:00:00.000000Z',
  0, '{}', '{}', 'd', '2026-01-01T00:00:00.000000Z' FROM n WHERE i <= $1 / 20`,
	`INSERT INTO credit_balance_transactions (account, customer, id, "grant", type, credit_type, debit_type, currency, amount, effective_at, created, livemode, raw, digest, synced_at)
` + numbers + `SELECT '', printf('cus_%09d', (i - 1) / 20 + 1), printf('cbtxn_%012d', i), 'credgr_' || ((i - 1) / 20 + 1),
  CASE WHEN i % 20 = 1 THEN 'credit' ELSE 'debit' END, CASE WHEN i % 20 = 1 THEN 'credits_granted' END, CASE WHEN i % 20 <> 1 THEN 'credits_applied' END,
  'usd', CASE WHEN i % 20 = 1 THEN 1000 ELSE -10 END, strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1672531200 + ((i - 1) % 20) * 4665600 + i % 86400, 'unixepoch'),
  '2023-01-01T00:00:00.000000Z', 0, '{}', 'd', '2026-01-01T00:00:00.000000Z' FROM n`,
	`PRAGMA wal_checkpoint(TRUNCATE)`,
}

// BenchmarkBooks times the reports over a mirror of a size.
func BenchmarkBooks(b *testing.B) {
	path := filepath.Join(b.TempDir(), "mirror.db")
	s := open(b, path)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	mirrortest.BenchBooks(b, mirrortest.BooksSize{
		Store: s, Fill: fillBooks, Filled: func() { db.Close() },
		Exec: func(b *testing.B, statement string) {
			b.Helper()
			if _, err := db.ExecContext(b.Context(), statement); err != nil {
				b.Fatal(err)
			}
		},
		Count: func(ctx context.Context, r report.Reader) error { return sqlite.CountBooks(ctx, r) },
		CPU:   func() time.Duration { return 0 }, // it is this process
	})
}
