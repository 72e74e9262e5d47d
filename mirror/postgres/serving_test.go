//go:build unix

package postgres

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/api"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
)

var (
	servedCustomers = flag.Int("serving.customers", 1_000_000, "customers in the mirror that is served, each with 20 balance transactions")
	servedDeep      = flag.Int("serving.deep", 100_000, "balance transactions of one customer more")
)

// TestServingUnderLoad measures the API on a large mirror: make bench-api runs it.
// docs/api.md has the figures and how they came about.
func TestServingUnderLoad(t *testing.T) {
	if os.Getenv("CREDITMIRROR_BENCH_API") == "" {
		t.Skip("CREDITMIRROR_BENCH_API is not set: make bench-api measures the API")
	}
	server := pgtest.Start(t)
	server.Exec(t, "postgres", `ALTER SYSTEM SET shared_buffers = '6GB'`) // the usual quarter of the memory of a machine for such a mirror
	server.Stop()
	server.Restart(t)
	began := time.Now()
	quiet := &quietLock{path: os.Getenv("CREDITMIRROR_BENCH_LOCK")}
	url := fillServed(t, server, quiet)
	t.Logf("%d customers, %d transactions, filled in %s", *servedCustomers, 20**servedCustomers+*servedDeep, time.Since(began).Round(time.Second))
	defer quiet.take(t, syscall.LOCK_EX)()
	s, err := Open(t.Context(), url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	real := httptest.NewServer(api.New(api.Options{Reader: s}))
	defer real.Close()
	plain := httptest.NewServer(bare(s))
	defer plain.Close()

	some := func(n int) string { return fmt.Sprintf("cus_%07d", 1+(n*7919)%*servedCustomers) }
	kinds := []struct {
		name string
		path func(n int) string
	}{
		{"retrieve a customer", func(n int) string { return "/v1/customers/" + some(n) }},
		{"retrieve a transaction", func(n int) string {
			c := some(n)
			return "/v1/customers/" + c + "/balance_transactions/cbtxn_" + c[4:] + "_07"
		}},
		{"list 10 transactions", func(n int) string { return "/v1/customers/" + some(n) + "/balance_transactions" }},
		{"list 10, expanded customer", func(n int) string { return "/v1/customers/" + some(n) + "/balance_transactions?expand[]=data.customer" }},
		{"list 10 customers", func(n int) string { return "/v1/customers?starting_after=" + some(n) }},
	}
	for _, k := range kinds { // once around, to fill the caches that a server that runs has
		load(t, real.URL, k.path, 1000, time.Second)
	}
	for i, k := range kinds {
		// Second by second, in turns with the bare handler: where the machine itself
		// stands still for a while, or reads from its disk, it does so for both.
		var served, bare [][]time.Duration
		for second := range 20 {
			if i == 0 || i == 2 {
				bare = append(bare, load(t, plain.URL, func(n int) string { return k.path(500_000 + 1000*second + n) }, 1000, time.Second))
			}
			served = append(served, load(t, real.URL, func(n int) string { return k.path(1000*second + n) }, 1000, time.Second))
		}
		t.Logf("%-28s at 1,000/s: %s", k.name, told(served))
		if bare != nil {
			t.Logf("%-28s at 1,000/s: %s", "the bare handler", told(bare))
		}
		if p99 := p99(typical(served)); p99 > servedIn {
			t.Errorf("%s: p99 %s, want at most %s", k.name, p99, servedIn)
		}
	}
	for _, k := range []int{0, 2} {
		a, b := flood(t, real.URL, kinds[k].path), flood(t, plain.URL, kinds[k].path)
		t.Logf("%-28s as fast as it goes: %.0f/s, bare handler %.0f/s, ratio %.2f", kinds[k].name, a, b, a/b)
		if a/b < 0.3 {
			t.Errorf("%s: %.2f of a bare handler, want at least 0.3", kinds[k].name, a/b)
		}
	}
	const deep = "/v1/customers/cus_deep/balance_transactions?starting_after=cbtxn_deep_"
	shallow := load(t, real.URL, func(n int) string { return fmt.Sprintf("%s%07d", deep, *servedDeep-20-n%50) }, 300, 3*time.Second)
	far := load(t, real.URL, func(n int) string { return fmt.Sprintf("%s%07d", deep, 20+n%50) }, 300, 3*time.Second)
	t.Logf("cursor at the head of %d rows: %s; at their end: %s", *servedDeep, quantiles(shallow), quantiles(far))
	if far[len(far)/2] > 2*shallow[len(shallow)/2]+time.Millisecond {
		t.Errorf("a deep cursor costs %s, a shallow one %s", far[len(far)/2], shallow[len(shallow)/2])
	}
}

// servedIn is the goal for the p99 of a read at 1,000 requests a second.
const servedIn = 10 * time.Millisecond

func p99(took []time.Duration) time.Duration { return took[len(took)*99/100] }

// typical is the run of the median p99.
func typical(runs [][]time.Duration) []time.Duration {
	runs = slices.Clone(runs)
	slices.SortFunc(runs, func(a, b []time.Duration) int { return cmp.Compare(p99(a), p99(b)) })
	return runs[len(runs)/2]
}

// reported are the quantiles of the typical run, and how many runs missed the goal.
func told(runs [][]time.Duration) string {
	over := 0
	for _, took := range runs {
		if p99(took) > servedIn {
			over++
		}
	}
	return fmt.Sprintf("%s in the median second; p99 over %s in %d of %d", quantiles(typical(runs)), servedIn, over, len(runs))
}

// bare runs the SQL of the two hot reads and writes what comes, and nothing else.
func bare(s *Store) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.URL.Path, "/")
		var raw [][]byte
		var err error
		if len(parts) == 4 {
			var c mirror.CustomerView
			c, _, err = scanCustomer(s.pool.QueryRow(r.Context(), customerByID, "", parts[3]))
			raw = [][]byte{c.Raw}
		} else {
			var known, placed bool
			var at optTime
			b := &pgx.Batch{}
			b.Queue(beginSnapshot)
			b.Queue(balanceHead, "", parts[3], "").QueryRow(func(row pgx.Row) error { return row.Scan(&known, &placed, &at) })
			b.Queue(balanceNewest, "", parts[3], 11, spanFrom(&mirror.Span{}), spanTo(&mirror.Span{})).Query(func(rows pgx.Rows) error {
				list, err := pgx.CollectRows(rows, scanBalanceRow)
				for _, row := range list {
					raw = append(raw, row.Raw)
				}
				return err
			})
			b.Queue(commit)
			err = s.pool.SendBatch(r.Context(), b).Close()
		}
		if err != nil {
			http.Error(w, "failed", http.StatusInternalServerError)
			return
		}
		for _, one := range raw {
			_, _ = w.Write(one)
		}
	})
}

// quietLock is a file that other work on the machine locks too, so that what is
// measured is measured alone; none without a path.
type quietLock struct{ path string }

func (q *quietLock) take(t *testing.T, how int) (release func()) {
	t.Helper()
	if q.path == "" {
		return func() {}
	}
	f, err := os.OpenFile(q.path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), how)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

// fillServed makes the tables without their indexes, fills them, and makes the
// indexes as the migrations do.
func fillServed(t *testing.T, server *pgtest.Server, quiet *quietLock) string {
	t.Helper()
	url := server.NewDatabase(t)
	s := openStore(t, url)
	migrate(t, s)
	exec := func(statement string, args ...any) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		defer quiet.take(t, syscall.LOCK_SH)()
		if _, err := conn.Exec(t.Context(), statement, args...); err != nil {
			t.Errorf("%.80s: %v", statement, err)
		}
	}
	defined, err := query(t.Context(), s, pgx.RowTo[string], `SELECT indexdef FROM pg_indexes
WHERE schemaname = 'creditmirror' AND tablename IN ('customer_balance_transactions', 'customers') AND indexname NOT LIKE '%_pkey'`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := query(t.Context(), s, pgx.RowTo[string], `SELECT indexname FROM pg_indexes
WHERE schemaname = 'creditmirror' AND tablename IN ('customer_balance_transactions', 'customers') AND indexname NOT LIKE '%_pkey'`)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		exec(`DROP INDEX creditmirror.` + name)
	}
	exec(`ALTER TABLE creditmirror.customer_balance_transactions DROP CONSTRAINT customer_balance_transactions_pkey`)
	for _, table := range []string{"customer_balance_transactions", "customers", "sync_state"} { // what is lost in a crash here is made again
		exec(`ALTER TABLE creditmirror.` + table + ` SET UNLOGGED`)
	}
	exec(`INSERT INTO creditmirror.customers (account, id, balance, currency, invoice_credit_balance, created, livemode, raw, digest)
SELECT '', 'cus_' || lpad(n::text, 7, '0'), -2000, 'usd', '{"usd": 2000}', '2024-01-01'::timestamptz + n * interval '30 seconds', true,
  format('{"id":"cus_%s","object":"customer","balance":-2000,"created":1704067200,"currency":"usd","invoice_credit_balance":{"usd":2000},"livemode":true,"test_clock":null}', lpad(n::text, 7, '0'))::jsonb,
  '0123456789abcdef0123456789abcdef'
FROM generate_series(1, $1) AS n`, *servedCustomers)
	exec(`INSERT INTO creditmirror.customers (account, id, balance, created, livemode, raw, digest)
VALUES ('', 'cus_deep', 0, now(), true, '{"id": "cus_deep", "object": "customer"}', '')`)
	exec(`INSERT INTO creditmirror.sync_state (account, customer, scope, epoch, applied_epoch, observed_at, history_complete)
SELECT '', id, 'balance', 1, 1, now(), true FROM creditmirror.customers`)
	const rows = `INSERT INTO creditmirror.customer_balance_transactions
  (account, customer, id, currency, amount, ending_balance, type, description, metadata, created, livemode, chain_position, raw, digest)
SELECT '', 'cus_' || r.c, 'cbtxn_' || r.c || '_' || r.suffix, 'usd', -100, -100 * k, 'adjustment', 'Goodwill', '{}',
  '2025-01-01'::timestamptz + k * interval '1 hour', true, k,
  format('{"id":"cbtxn_%s_%s","object":"customer_balance_transaction","amount":-100,"checkout_session":null,"created":%s,"credit_note":null,"currency":"usd","customer":"cus_%s","customer_account":null,"description":"Goodwill","ending_balance":%s,"invoice":null,"livemode":true,"metadata":{},"type":"adjustment"}',
    r.c, r.suffix, 1735689600 + k * 3600, r.c, -100 * k)::jsonb, '0123456789abcdef0123456789abcdef'
FROM generate_series($1::bigint, $2::bigint) AS n, generate_series($3::bigint, $4::bigint) AS k,
  LATERAL (SELECT CASE WHEN n = 0 THEN 'deep' ELSE lpad(n::text, 7, '0') END AS c, lpad(k::text, CASE WHEN n = 0 THEN 7 ELSE 2 END, '0') AS suffix) AS r`
	var wg sync.WaitGroup
	pieces := make(chan [2]int, 41)
	for n := range 40 {
		pieces <- [2]int{1 + n**servedCustomers/40, (n + 1) * *servedCustomers / 40}
	}
	close(pieces)
	for range 2 {
		wg.Go(func() {
			for p := range pieces {
				exec(rows, p[0], p[1], 1, 20)
			}
		})
	}
	wg.Wait()
	exec(rows, 0, 0, 1, *servedDeep)
	build := append([]string{`ALTER TABLE creditmirror.customer_balance_transactions ADD PRIMARY KEY (account, customer, id)`}, defined...)
	queue := make(chan string, len(build))
	for _, statement := range build {
		queue <- statement
	}
	close(queue)
	for range 2 {
		wg.Go(func() {
			for statement := range queue {
				exec(`SET maintenance_work_mem = '1GB'; ` + statement)
			}
		})
	}
	wg.Wait()
	exec(`VACUUM ANALYZE creditmirror.customer_balance_transactions`)
	exec(`VACUUM ANALYZE creditmirror.customers`)
	exec(`VACUUM ANALYZE creditmirror.sync_state`)
	exec(`CHECKPOINT`)
	syscall.Sync() // a disk that still writes what was filled in is measured otherwise
	if t.Failed() {
		t.FailNow()
	}
	return url
}

var loadClient = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 128, DisableCompression: true}}

func fetch(t *testing.T, url string) {
	r, err := loadClient.Get(url)
	if err != nil {
		t.Error(err)
		return
	}
	_, err = io.Copy(io.Discard, r.Body)
	r.Body.Close()
	if err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("%s: %d %v", url, r.StatusCode, err)
	}
}

// load sends requests at a rate, whether earlier ones were answered or not, and
// returns how long each took from the moment it was due, sorted.
func load(t *testing.T, base string, path func(n int) string, perSecond int, d time.Duration) []time.Duration {
	t.Helper()
	took := make([]time.Duration, int(d.Seconds()*float64(perSecond)))
	began := time.Now()
	var wg sync.WaitGroup
	for n := range took {
		due := began.Add(time.Duration(n) * time.Second / time.Duration(perSecond))
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait) // the rate is what is asked for
		}
		wg.Go(func() {
			fetch(t, base+path(n))
			took[n] = time.Since(due)
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// flood sends requests over eight connections as fast as they are answered, and
// returns how many per second.
func flood(t *testing.T, base string, path func(n int) string) float64 {
	t.Helper()
	const clients, d = 8, 5 * time.Second
	var wg sync.WaitGroup
	counts := make([]int, clients)
	began := time.Now()
	for c := range clients {
		wg.Go(func() {
			for time.Since(began) < d {
				fetch(t, base+path(c*1_000_003+counts[c]))
				counts[c]++
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / time.Since(began).Seconds()
}

func quantiles(took []time.Duration) string {
	at := func(q float64) time.Duration {
		return took[min(len(took)-1, int(q*float64(len(took))))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %s, p99 %s, p99.9 %s", at(.5), at(.99), at(.999))
}
