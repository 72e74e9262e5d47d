//go:build unix

package verify_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/verify"
)

// benchRows is how many balance transactions the benchmark proves; there is a
// tenth as many credit transactions beside them. VERIFY_BENCH_ROWS sets it.
func benchRows() int {
	if n, err := strconv.Atoi(os.Getenv("VERIFY_BENCH_ROWS")); err == nil {
		return n
	}
	return 200_000
}

// series counts from 0, in the words of each database.
const (
	sqliteSeries   = `WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i+1 FROM n WHERE i < %d) `
	postgresSeries = `WITH n(i) AS (SELECT generate_series(%d::bigint, %d::bigint)) `
)

// fill makes a true mirror by bulk SQL: customers of 20 balance transactions,
// every tenth row with a credit transaction beside it.
func fill(tb testing.TB, d *database, name string, rows int) {
	series, pad, object, created := sqliteSeries, `printf('%%012d', %s)`, `json_object(%s)`,
		`strftime('%%Y-%%m-%%dT%%H:%%M:%%S.000000Z', 1700000000+i, 'unixepoch')`
	now, no, cast := `'2026-01-01T00:00:00.000000Z'`, `0`, ``
	if name == "postgres" {
		series, pad, object, created = postgresSeries, `lpad((%s)::text, 12, '0')`, `jsonb_build_object(%s)`, `to_timestamp(1700000000+i)`
		now, no, cast = `now()`, `false`, `::jsonb`
	}
	id := func(prefix, n string) string { return `'` + prefix + `' || ` + fmt.Sprintf(pad, n) }
	created = strings.ReplaceAll(created, "%%", "%")
	customer := id("cus_", "i/20")
	const chunk = 200_000
	insert := func(count int, statement string) {
		for from := 0; from < count; from += chunk {
			text := fmt.Sprintf(series, from, min(from+chunk, count)-1)
			if name == "sqlite" { // INSERT … WITH, and WITH … INSERT, are both known
				text = strings.TrimSpace(text) + " "
			}
			d.mustExec(tb, text+statement)
		}
	}
	raw := fmt.Sprintf(object, `'id', `+id("cbtxn_", "i")+`, 'object', 'customer_balance_transaction', 'amount', -100, 'created', 1700000000+i, `+
		`'credit_note', NULL, 'currency', 'eur', 'customer', `+customer+`, 'description', 'goodwill', 'ending_balance', -100*(i%20+1), `+
		`'invoice', NULL, 'livemode', NULL, 'metadata', `+fmt.Sprintf(object, `'ticket', '4711'`)+`, 'type', 'adjustment', 'checkout_session', NULL`)
	insert(rows, `INSERT INTO customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, description,
 metadata, created, livemode, chain_position, raw, digest, synced_at) SELECT '', `+customer+`, `+id("cbtxn_", "i")+`, 'eur', -100, -100*(i%20+1),
 'adjustment', 'goodwill', '{"ticket":"4711"}'`+cast+`, `+created+`, `+no+`, i%20+1, `+raw+`, '0123456789abcdef0123456789abcdef', `+now+` FROM n`)
	insert(rows/20, `INSERT INTO customers (account, id, balance, currency, created, livemode, deleted, digest, synced_at)
 SELECT '', `+id("cus_", "i")+`, -2000, 'eur', `+created+`, `+no+`, `+no+`, '', `+now+` FROM n`)
	insert(rows/20, `INSERT INTO customer_balances (account, customer, currency, balance, synced_at) SELECT '', `+id("cus_", "i")+`, 'eur', -2000, `+now+` FROM n`)
	yes := `1`
	if name == "postgres" {
		yes = `true`
	}
	for _, scope := range []string{"balance", "credits"} {
		insert(rows/20, `INSERT INTO sync_state (account, customer, scope, epoch, applied_epoch, history_complete, synced_at)
 SELECT '', `+id("cus_", "i")+`, '`+scope+`', 1, 1, `+yes+`, `+now+` FROM n`)
	}
	grant := func(n string) string { return id("credgr_", n) }
	money := func(value string) string {
		return fmt.Sprintf(object, `'monetary', `+fmt.Sprintf(object, `'currency', 'eur', 'value', `+value)+`, 'type', 'monetary'`)
	}
	insert(rows/20, `INSERT INTO credit_grants (account, id, customer, category, amount_type, amount, currency, applicability_config,
 created, updated, livemode, metadata, raw, digest, synced_at) SELECT '', `+grant("i")+`, `+id("cus_", "i")+`, 'paid', 'monetary', 1000, 'eur', '{}'`+cast+`,
 `+created+`, `+created+`, `+no+`, '{}'`+cast+`, `+fmt.Sprintf(object, `'id', `+grant("i")+`, 'customer', `+id("cus_", "i")+`, 'amount', `+money("1000"))+`, '', `+now+` FROM n`)
	for _, side := range []struct{ name, id, amount, value string }{
		{"credit", "cbtxn_c", "1000", "1000"}, {"debit", "cbtxn_d", "-400", "400"},
	} {
		insert(rows/20, `INSERT INTO credit_balance_transactions (account, customer, id, "grant", type, currency, amount, effective_at, created,
 livemode, raw, digest, synced_at) SELECT '', `+id("cus_", "i")+`, `+id(side.id, "i")+`, `+grant("i")+`, '`+side.name+`', 'eur', `+side.amount+`, `+created+`, `+created+`,
 `+no+`, `+fmt.Sprintf(object, `'id', `+id(side.id, "i")+`, 'credit_grant', `+grant("i")+`, '`+side.name+`', `+fmt.Sprintf(object, `'amount', `+money(side.value)))+`, '', `+now+` FROM n`)
	}
	insert(rows/20, `INSERT INTO credit_balance_summaries (account, customer, currency, available_balance, ledger_balance, synced_at)
 SELECT '', `+id("cus_", "i")+`, 'eur', 600, 600, `+now+` FROM n`)
	if name == "postgres" {
		d.mustExec(tb, `ANALYZE`)
	} else {
		d.mustExec(tb, `PRAGMA wal_checkpoint(TRUNCATE)`)
	}
}

// BenchmarkVerify proves a mirror and tells the speed and the most memory that
// this process (not the database's server) held.
func BenchmarkVerify(b *testing.B) {
	for _, driver := range drivers {
		b.Run(driver.name, func(b *testing.B) {
			d := driver.open(b)
			rows := benchRows()
			start := time.Now()
			fill(b, d, driver.name, rows)
			b.Logf("filled in %s", time.Since(start).Round(time.Second))
			runtime.GC()
			_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600) // the peak begins anew
			var total verify.Result
			before := processorTime(b)
			for b.Loop() {
				result, err := verify.Run(b.Context(), d.store, verify.Options{}, func(f mirror.Finding) error {
					return fmt.Errorf("found %+v", f)
				})
				if err != nil {
					b.Fatal(err)
				}
				total.Add(result)
			}
			b.ReportMetric(float64(total.BalanceTransactions+total.CreditTransactions)/b.Elapsed().Seconds(), "transactions/s")
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(total.BalanceTransactions+total.CreditTransactions), "own-cpu-µs/transaction")
			b.ReportMetric(peakMiB(), "peak-MiB")
		})
	}
}

// processorTime is what this process has used of the processors: on a busy
// machine it tells more than the clock.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakMiB is the most memory that the process held since the mark was reset.
func peakMiB() float64 {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}
