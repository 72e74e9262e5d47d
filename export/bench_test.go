//go:build unix

package export

import (
	"bytes"
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/internal/sqlitetest"
)

// benchRows is how many balance transactions the large mirror of the benchmarks has,
// of customers of 20 each; there is a tenth as many credit transactions.
// EXPORT_BENCH_ROWS sets it. The small mirror has smallRows.
func benchRows(b *testing.B) int {
	b.Helper()
	text := os.Getenv("EXPORT_BENCH_ROWS")
	if text == "" {
		return 200_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

const smallRows = 50_000

// benchMirror is a mirror of many rows.
type benchMirror struct {
	store
	url string // as in CREDITMIRROR_DATABASE_URL
	// exec runs a statement; words stand for what the databases write differently.
	exec func(statement string, words ...string)
	// drop reads a query's rows with the driver alone.
	drop func(query string) (rows int64)
}

var benchMirrors = []struct {
	name string
	open func(b *testing.B) benchMirror
}{{"sqlite", benchSQLite}, {"postgres", benchPostgres}}

func benchSQLite(b *testing.B) benchMirror {
	s, path := sqlitetest.Open(b)
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(60000)&_pragma=synchronous(off)")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	return benchMirror{
		store: s, url: "sqlite:" + path,
		exec: func(statement string, words ...string) {
			words = append(words, "{}.", "", "{series}", "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i+1 FROM n WHERE i < {to})",
				"{no}", "0", "{yes}", "1", "{object}", "json_object", "{json}", "", "{digest}", "lower(hex(randomblob(16)))", "{now}", "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')",
				"{time ", "strftime('%Y-%m-%dT%H:%M:%S.000000Z', ", "{/time}", ", 'unixepoch')", "{pad ", "printf('%012d', ", "{/pad}", ")")
			if _, err := db.ExecContext(b.Context(), benchSQL(statement, words)); err != nil {
				b.Fatal(err)
			}
		},
		drop: func(query string) (n int64) {
			rows, err := db.QueryContext(b.Context(), benchSQL(query, []string{"{}.", ""}))
			if err != nil {
				b.Fatal(err)
			}
			defer rows.Close()
			columns, err := rows.Columns()
			if err != nil {
				b.Fatal(err)
			}
			raw, into := make([]sql.RawBytes, len(columns)), make([]any, len(columns))
			for i := range raw {
				into[i] = &raw[i]
			}
			for rows.Next() {
				if err := rows.Scan(into...); err != nil {
					b.Fatal(err)
				}
				n++
			}
			if err := rows.Err(); err != nil {
				b.Fatal(err)
			}
			return n
		},
	}
}

func benchPostgres(b *testing.B) benchMirror {
	s, conn, url := openPostgres(b)
	return benchMirror{
		store: s, url: url,
		exec: func(statement string, words ...string) {
			words = append(words, "{}.", "creditmirror.", "{series}", "WITH n(i) AS (SELECT generate_series({from}::bigint, {to}::bigint))",
				"{no}", "false", "{yes}", "true", "{object}", "jsonb_build_object", "{json}", "::jsonb", "{digest}", "md5(i::text)", "{now}", "now()",
				"{time ", "to_timestamp(", "{/time}", ")", "{pad ", "lpad((", "{/pad}", ")::text, 12, '0')")
			if _, err := conn.Exec(b.Context(), benchSQL(statement, words)); err != nil {
				b.Fatal(err)
			}
		},
		drop: func(query string) (n int64) {
			rows, err := conn.Query(b.Context(), benchSQL(query, []string{"{}.", "creditmirror."}), pgx.QueryResultFormats{pgx.BinaryFormatCode})
			if err != nil {
				b.Fatal(err)
			}
			for rows.Next() {
				n++
			}
			if err := rows.Err(); err != nil {
				b.Fatal(err)
			}
			return n
		},
	}
}

// benchSQL fills words in until none is left.
func benchSQL(statement string, words []string) string {
	r := strings.NewReplacer(words...)
	for range 3 {
		statement = r.Replace(statement)
	}
	return statement
}

// fill makes a mirror of so many balance transactions over 36 months, by bulk SQL.
func (m benchMirror) fill(rows int) {
	const chunk = 250_000
	insert := func(count int, into, values string) {
		for from := 0; from < count; from += chunk {
			m.exec("INSERT INTO {}."+into+" {series} SELECT "+values+", {now} FROM n", "{from}", strconv.Itoa(from), "{to}", strconv.Itoa(min(from+chunk, count)-1),
				"{id}", "'cbtxn_1N' || {pad (i*48271) % 2147483647{/pad}", "{of}", "'cus_N' || {pad i/20{/pad}", "{customer}", "'cus_N' || {pad i{/pad}",
				"{then}", "1640995200 + (i%20)*4730400 + ((i/20)*7919)%4730400", "{at}", "1640995200 + (i*7919)%94608000",
				"{amount}", "((i*7919)%10007 - 6000)", "{currency}", "CASE WHEN (i/20)%5 = 0 THEN 'usd' ELSE 'eur' END",
				"{held}", "CASE WHEN i%5 = 0 THEN 'usd' ELSE 'eur' END")
		}
	}
	insert(rows/20, `customers (account, id, balance, currency, invoice_credit_balance, created, livemode, deleted, raw, digest, synced_at)`,
		`'', {customer}, -{amount}, {held}, {object}('eur', i), {time {at}{/time}, {yes}, {no},
{object}('id', {customer}, 'object', 'customer', 'balance', -{amount}, 'currency', {held}, 'created', {at}), ''`)
	insert(rows/20, `customer_balances (account, customer, currency, balance, synced_at)`, `'', {customer}, {held}, -{amount}`)
	insert(rows, `customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, invoice, description, metadata, created, livemode, chain_position, raw, digest, synced_at)`,
		`'', {of}, {id}, {currency}, {amount}, {amount}*(i%20+1), CASE i%3 WHEN 0 THEN 'adjustment' WHEN 1 THEN 'applied_to_invoice' ELSE 'credit_note' END,
CASE WHEN i%3 = 1 THEN 'in_1N' || {pad (i*69621) % 2147483647{/pad} END, CASE WHEN i%3 = 0 THEN 'goodwill for ticket ' || (i%1000) END, '{"team":"support"}'{json}, {time {then}{/time}, {yes}, i%20+1,
{object}('id', {id}, 'object', 'customer_balance_transaction', 'amount', {amount}, 'created', {then}, 'currency', {currency}, 'customer', {of},
'description', NULL, 'ending_balance', {amount}*(i%20+1), 'metadata', {object}('team', 'support'), 'type', 'adjustment', 'invoice', NULL, 'credit_note', NULL), {digest}`)
	insert(rows/10, `credit_balance_transactions (account, customer, id, "grant", type, credit_type, currency, amount, effective_at, created, livemode, raw, digest, synced_at)`,
		`'', 'cus_N' || {pad i/2{/pad}, {id}, 'credgr_N' || {pad i/2{/pad}, 'credit', 'credits_granted', 'eur', i%1000, {time {at}{/time}, {time {at}{/time}, {yes},
{object}('id', {id}, 'object', 'billing.credit_balance_transaction', 'created', {at}, 'type', 'credit'), ''`)
	for _, scope := range []string{"balance", "credits"} {
		insert(rows/20, `sync_state (account, customer, scope, epoch, applied_epoch, history_complete, full_read_at, synced_at)`,
			`'', {customer}, '`+scope+`', 1, 1, {yes}, {now}`)
	}
	m.exec("ANALYZE")
}

// change edits n balance transactions and the balances of their customers, as so many
// syncs would, and records it in the feed.
func (m benchMirror) change(n, of, round int) {
	const key = "'cus_N' || {pad (i*{step}+{round}) % ({of}/20){/pad}"
	words := []string{"{from}", "0", "{to}", strconv.Itoa(n/3 - 1), "{step}", strconv.Itoa(max(1, of/20/n*3)), "{round}", strconv.Itoa(round), "{of}", strconv.Itoa(of)}
	m.exec("UPDATE {}.customers SET balance = balance - 1 WHERE id IN ({series} SELECT "+key+" FROM n)", words...)
	m.exec("UPDATE {}.customer_balances SET balance = balance - 1 WHERE account = '' AND customer IN ({series} SELECT "+key+" FROM n)", words...)
	m.exec("UPDATE {}.customer_balance_transactions SET description = 'edited' WHERE account = '' AND chain_position = 20 AND customer IN ({series} SELECT "+key+" FROM n)", words...)
	record := func(table, customer, id, picked string) {
		m.exec("INSERT INTO {}.changes (account, table_name, customer, id, op, changed_at, synced_at) SELECT account, '"+table+"', "+customer+", "+id+
			", 'update', {now}, {now} FROM {}."+table+" WHERE account = '' AND "+picked+" IN ({series} SELECT "+key+" FROM n)", words...)
	}
	record("customers", "id", "id", "id")
	record("customer_balances", "customer", "currency", "customer")
	record("customer_balance_transactions", "customer", "id", "chain_position = 20 AND customer")
}

// program builds the command once.
func program(b *testing.B) string {
	path := filepath.Join(b.TempDir(), "creditmirror")
	cmd := exec.CommandContext(b.Context(), "go", "build", "-o", path, "../cmd/creditmirror")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return path
}

// runCommand runs the command, and returns how long it took and the most memory that it held.
func runCommand(b *testing.B, url string, args ...string) (took time.Duration, peakMiB float64) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), args[0], args[1:]...)
	cmd.Env = []string{"CREDITMIRROR_DATABASE_URL=" + url, "TMPDIR=" + os.TempDir()}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				b.Fatalf("%v\n%s", err, out.String())
			}
			return time.Since(began), peakMiB
		case <-tick.C: // the kernel's own high-water mark
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			for line := range strings.Lines(string(text)) {
				if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
					kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
					peakMiB = max(peakMiB, kb/1024)
				}
			}
		}
	}
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

func folderBytes(b *testing.B, dir string) (n int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		n += info.Size()
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkExport makes, in turns, a full export with the command and reads the same
// rows with the driver alone; and increments of 1,000 rows of a large mirror and of a
// small one. Memory is that of the command's process.
func BenchmarkExport(b *testing.B) {
	command := program(b)
	for _, kind := range benchMirrors {
		b.Run(kind.name, func(b *testing.B) {
			rows := benchRows(b)
			large, small := kind.open(b), kind.open(b)
			began := time.Now()
			large.fill(rows)
			small.fill(smallRows)
			b.Logf("filled in %s", time.Since(began).Round(time.Second))
			tables, err := tablesNamed(nil)
			if err != nil {
				b.Fatal(err)
			}
			dir := b.TempDir()
			runCommand(b, large.url, command, "export", dir) // both have read everything once
			var ratio, full, floor, memory []float64
			for b.Loop() {
				began := time.Now()
				var n int64
				for _, t := range tables {
					names := make([]string, len(t.Columns))
					for i, c := range t.Columns {
						names[i] = `"` + c.Name + `"`
					}
					n += large.drop("SELECT " + strings.Join(names, ", ") + " FROM {}." + t.Name + " ORDER BY " + strings.Join(names[:t.Key], ", "))
				}
				read := time.Since(began)
				took, peak := runCommand(b, large.url, command, "export", "--full", dir)
				full, floor, ratio, memory = append(full, took.Seconds()), append(floor, read.Seconds()), append(ratio, read.Seconds()/took.Seconds()), append(memory, peak)
				b.Logf("%d rows: read in %s, exported in %s with %.0f MiB", n, read, took, peak)
				if _, err := Prune(b.Context(), Location{scheme: "file", path: dir}, false, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(median(full), "s/full")
			b.ReportMetric(median(floor), "s/read")
			b.ReportMetric(median(ratio), "read/full")
			b.ReportMetric(slices.Max(memory), "peak-MiB")
			b.ReportMetric(float64(folderBytes(b, dir))/(1<<20), "MiB")
			benchSize(b, dir)
			benchIncrements(b, large, small, rows, dir)
		})
	}
}

// benchSize has DuckDB write each file's rows anew, with the same compression.
func benchSize(b *testing.B, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "customer_balance_transactions", "*", "*.parquet"))
	if err != nil || len(files) == 0 {
		b.Fatal(files, err)
	}
	var statements []string
	var ours, theirs int64
	var copies []string
	for i, file := range files {
		copied := filepath.Join(b.TempDir(), strconv.Itoa(i))
		copies = append(copies, copied)
		statements = append(statements, "COPY (SELECT * FROM read_parquet('"+file+"')) TO '"+copied+"' (FORMAT parquet, COMPRESSION zstd)")
	}
	duckdb(b, statements...)
	for i, file := range files {
		for path, sum := range map[string]*int64{file: &ours, copies[i]: &theirs} {
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			*sum += info.Size()
		}
	}
	b.ReportMetric(float64(ours)/float64(theirs), "size/DuckDB")
}

func benchIncrements(b *testing.B, large, small benchMirror, rows int, dir string) {
	const changes, rounds = 1000, 9
	exporters := make([]*Exporter, 2)
	for i, m := range []benchMirror{large, small} {
		target := dir
		if i == 1 {
			target = b.TempDir()
		}
		l, err := ParseURL(target)
		if err != nil {
			b.Fatal(err)
		}
		if exporters[i], err = New(m, l, Options{Owner: "bench", ToolVersion: "bench"}); err != nil {
			b.Fatal(err)
		}
		if _, err := exporters[i].Run(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	var ratios, of [2][]float64
	for round := range rounds {
		var took [2]float64
		for i, m := range []benchMirror{large, small} {
			m.change(changes, []int{rows, smallRows}[i], round)
			began := time.Now()
			r, err := exporters[i].Run(b.Context())
			if err != nil || r.Manifest == nil || r.Manifest.Kind != KindIncremental || r.Manifest.rows() < changes*9/10 {
				b.Fatalf("%+v, %v", r, err)
			}
			took[i] = time.Since(began).Seconds()
			of[i] = append(of[i], 1000*took[i])
		}
		ratios[0] = append(ratios[0], took[0]/took[1])
	}
	b.ReportMetric(median(of[0]), "ms/increment-large")
	b.ReportMetric(median(of[1]), "ms/increment-small")
	b.ReportMetric(median(ratios[0]), "large/small")
}
