//go:build unix

package verify_test

import (
	"fmt"
	"os"
	"path/filepath"
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

// fill makes a true mirror by bulk SQL, in which every column agrees with its JSON:
// customers of 20 balance transactions, every tenth row with a credit transaction
// beside it.
func fill(tb testing.TB, d *database, name string, rows int) {
	series, pad, object := sqliteSeries, `printf('%%012d', %s)`, `json_object(%s)`
	created, no, yes, cast, now := `strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1700000000+i, 'unixepoch')`, `0`, `1`, ``, `'2026-01-01T00:00:00.000000Z'`
	live := `json('false')`
	if name == "postgres" {
		series, pad, object = postgresSeries, `lpad((%s)::text, 12, '0')`, `jsonb_build_object(%s)`
		created, no, yes, cast, now = `to_timestamp(1700000000+i)`, `false`, `true`, `::jsonb`, `now()`
		live = no
	}
	id := func(prefix, n string) string { return `'` + prefix + `' || ` + fmt.Sprintf(pad, n) }
	// stripe is an object as Stripe sends it: what all have, and more.
	stripe := func(kind, id, more string) string {
		return fmt.Sprintf(object, `'id', `+id+`, 'object', '`+kind+`', 'created', 1700000000+i, 'livemode', `+live+`, `+more)
	}
	const chunk = 200_000
	insert := func(count int, into, values string) {
		for from := 0; from < count; from += chunk {
			d.mustExec(tb, fmt.Sprintf(series, from, min(from+chunk, count)-1)+`INSERT INTO `+into+` SELECT '', `+values+`, `+now+` FROM n`)
		}
	}
	customer, everyone, grant := id("cus_", "i/20"), id("cus_", "i"), id("credgr_", "i")
	metadata := fmt.Sprintf(object, `'ticket', '4711'`)
	insert(rows, `customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, description,
 metadata, created, livemode, chain_position, raw, digest, synced_at)`, customer+`, `+id("cbtxn_", "i")+`, 'eur', -100, -100*(i%20+1),
 'adjustment', 'goodwill', '{"ticket":"4711"}'`+cast+`, `+created+`, `+no+`, i%20+1, `+stripe("customer_balance_transaction", id("cbtxn_", "i"),
		`'amount', -100, 'credit_note', NULL, 'currency', 'eur', 'customer', `+customer+`, 'description', 'goodwill', 'ending_balance', -100*(i%20+1), `+
			`'invoice', NULL, 'metadata', `+metadata+`, 'type', 'adjustment', 'checkout_session', NULL`)+`, '0123456789abcdef0123456789abcdef'`)
	insert(rows/20, `customers (account, id, balance, currency, invoice_credit_balance, created, livemode, deleted, raw, digest, synced_at)`,
		everyone+`, -2000, 'eur', '{"eur":2000}'`+cast+`, `+created+`, `+no+`, `+no+`, `+stripe("customer", everyone,
			`'balance', -2000, 'currency', 'eur', 'invoice_credit_balance', `+fmt.Sprintf(object, `'eur', 2000`)+`, 'test_clock', NULL`)+`, ''`)
	insert(rows/20, `customer_balances (account, customer, currency, balance, synced_at)`, everyone+`, 'eur', -2000`)
	for _, scope := range []string{"balance", "credits"} {
		insert(rows/20, `sync_state (account, customer, scope, epoch, applied_epoch, history_complete, synced_at)`, everyone+`, '`+scope+`', 1, 1, `+yes)
	}
	money := func(value string) string {
		return fmt.Sprintf(object, `'monetary', `+fmt.Sprintf(object, `'currency', 'eur', 'value', `+value)+`, 'type', 'monetary'`)
	}
	scope := fmt.Sprintf(object, `'scope', `+fmt.Sprintf(object, `'price_type', 'metered'`))
	insert(rows/20, `credit_grants (account, id, customer, name, category, amount_type, amount, currency, applicability_config, priority,
 effective_at, created, updated, livemode, metadata, raw, digest, synced_at)`, grant+`, `+everyone+`, 'welcome', 'paid', 'monetary', 1000, 'eur',
 '{"scope":{"price_type":"metered"}}'`+cast+`, 50, `+created+`, `+created+`, `+created+`, `+no+`, '{}'`+cast+`, `+stripe("billing.credit_grant", grant,
		`'customer', `+everyone+`, 'name', 'welcome', 'category', 'paid', 'amount', `+money("1000")+`, 'applicability_config', `+scope+
			`, 'priority', 50, 'effective_at', 1700000000+i, 'expires_at', NULL, 'voided_at', NULL, 'updated', 1700000000+i, 'metadata', `+
			fmt.Sprintf(object, ``)+`, 'test_clock', NULL`)+`, ''`)
	for _, side := range []struct{ name, other, kind, id, amount, value, cause string }{
		{"credit", "debit", "credits_granted", "cbtxn_c", "1000", "1000", "credits_application_invoice_voided"},
		{"debit", "credit", "credits_expired", "cbtxn_d", "-400", "400", "credits_applied"},
	} {
		row := id(side.id, "i")
		insert(rows/20, `credit_balance_transactions (account, customer, id, "grant", type, `+side.name+`_type, currency, amount, effective_at,
 created, livemode, raw, digest, synced_at)`, everyone+`, `+row+`, `+grant+`, '`+side.name+`', '`+side.kind+`', 'eur', `+side.amount+`, `+created+`, `+created+`,
 `+no+`, `+stripe("billing.credit_balance_transaction", row, `'credit_grant', `+grant+`, 'type', '`+side.name+`', 'effective_at', 1700000000+i,
 'test_clock', NULL, '`+side.other+`', NULL, '`+side.name+`', `+fmt.Sprintf(object, `'type', '`+side.kind+`', '`+side.cause+`', NULL, 'amount', `+money(side.value)))+`, ''`)
	}
	insert(rows/20, `credit_balance_summaries (account, customer, currency, available_balance, ledger_balance, synced_at)`, everyone+`, 'eur', 600, 600`)
	if name == "postgres" {
		d.mustExec(tb, `ANALYZE`)
	} else {
		d.mustExec(tb, `PRAGMA wal_checkpoint(TRUNCATE)`)
	}
}

// BenchmarkVerify proves a mirror and reports the speed and the most memory that
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
			before, served := processorTime(b), childrenTime()
			for b.Loop() {
				result, err := verify.Run(b.Context(), d.store, verify.Options{}, func(f mirror.Finding) error {
					return fmt.Errorf("found %+v", f)
				})
				if err != nil {
					b.Fatal(err)
				}
				total.Add(result)
			}
			transactions := float64(total.BalanceTransactions + total.CreditTransactions)
			b.ReportMetric(transactions/b.Elapsed().Seconds(), "transactions/s")
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/transactions, "own-cpu-µs/transaction")
			if driver.name == "postgres" {
				b.ReportMetric(float64((childrenTime()-served).Microseconds())/transactions, "server-cpu-µs/transaction")
			}
			b.ReportMetric(peakMiB(), "peak-MiB")
		})
	}
}

// processorTime is what this process has used of the processors: on a busy
// machine it says more than the clock.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// childrenTime is what the processes below this one have used of the processors:
// the database's server. Zero where there is no /proc.
func childrenTime() (sum time.Duration) {
	const tick = 10 * time.Millisecond
	type process struct {
		parent int
		used   time.Duration
	}
	all := map[int]process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range dirs {
		text, _ := os.ReadFile(path)
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])) // from the state on
		if len(fields) < 13 {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(strings.Fields(string(text))[0])
		p := process{}
		p.parent, _ = strconv.Atoi(fields[1])
		for _, ticks := range fields[11:13] { // in user and in system mode
			n, _ := strconv.Atoi(ticks)
			p.used += time.Duration(n) * tick
		}
		all[pid] = p
	}
	for _, p := range all {
		for at := p; at.parent != 0; at = all[at.parent] {
			if at.parent == os.Getpid() {
				sum += p.used
				break
			}
		}
	}
	return sum
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
