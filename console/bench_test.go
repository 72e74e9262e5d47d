package console_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/creditmirror/creditmirror/console"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
	"github.com/creditmirror/creditmirror/report"
)

const (
	// pageLimit is what no page may take longer.
	pageLimit = 200 * time.Millisecond
	// rowsEach are the transactions of one customer: three in four of the balance ledger.
	rowsEach = 20
)

// filled is what a large mirror holds, as statements for both databases. {t} is the schema,
// {at:X} the time of X seconds since 1970, {json:X} a JSON value, $1 and $2 the first and
// last customer.
var filled = struct{ customers, rest []string }{
	customers: []string{
		`INSERT INTO {t}customers (account, id, balance, currency, created, livemode, deleted, deleted_at, raw, digest, synced_at)
{n} SELECT '', 'cus_' || CAST(10000000 + n AS text), CASE WHEN n % 50 = 7 THEN 0 ELSE -15 * (100 + n % 1000) END, 'usd', {at:1704067200 + n * 60}, {true}, n % 50 = 7,
  CASE WHEN n % 50 = 7 THEN {at:1790000000} END, {json:'{"id":"cus_' || CAST(10000000 + n AS text) || '","object":"customer","currency":"usd"}'}, '0123456789abcdef0123456789abcdef', {at:1790000000} FROM g`,
		`INSERT INTO {t}customer_balances (account, customer, currency, balance, synced_at)
{n} SELECT '', 'cus_' || CAST(10000000 + n AS text), 'usd', CASE WHEN n % 50 = 7 THEN 0 ELSE -15 * (100 + n % 1000) END, {at:1790000000} FROM g`,
		`INSERT INTO {t}credit_balance_summaries (account, customer, currency, available_balance, ledger_balance, synced_at)
{n} SELECT '', 'cus_' || CAST(10000000 + n AS text), 'usd', CASE WHEN n % 50 = 7 THEN 0 ELSE 100000 - 400 * (n % 97) END, CASE WHEN n % 50 = 7 THEN 0 ELSE 100000 - 400 * (n % 97) END, {at:1790000000} FROM g`,
		`INSERT INTO {t}sync_state (account, customer, scope, epoch, applied_epoch, observed_at, history_complete, full_read_at, synced_at)
{n} SELECT '', 'cus_' || CAST(10000000 + n AS text), s, 1, 1, {at:1790000000 + n % 100000}, n % 200 <> 3, CASE WHEN n % 200 <> 3 THEN {at:1790000000} END, {at:1790000000}
FROM g, (SELECT 'balance' AS s UNION ALL SELECT 'credits') AS scopes`,
		`INSERT INTO {t}credit_grants (account, id, customer, name, category, amount_type, amount, currency, applicability_config, priority, effective_at, expires_at, created, updated, livemode, metadata, raw, digest, synced_at)
{n} SELECT '', 'credgr_' || CAST(10000000 + n AS text), 'cus_' || CAST(10000000 + n AS text), 'Welcome credit', CASE WHEN n % 3 = 0 THEN 'paid' ELSE 'promotional' END, 'monetary', 100000, 'usd', {json:'{"scope":{"price_type":"metered"}}'}, 50,
  {at:1735689600}, {at:1780000000 + (n % 700) * 86400}, {at:1735689600 + n % 3600}, {at:1735689600 + n % 3600}, {true}, {json:'{}'}, {json:'{"id":"credgr_' || CAST(10000000 + n AS text) || '","object":"billing.credit_grant"}'}, '0123456789abcdef0123456789abcdef', {at:1790000000} FROM g`,
		`INSERT INTO {t}customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, invoice, description, metadata, created, livemode, chain_position, raw, digest, synced_at)
{n}, h(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM h WHERE k < 15)
SELECT '', 'cus_' || CAST(10000000 + n AS text), 'cbtxn_' || CAST(10000000 + n AS text) || '_' || CAST(100 + k AS text), 'usd', -100 - n % 1000, k * (-100 - n % 1000),
  CASE WHEN k % 5 = 0 THEN 'applied_to_invoice' ELSE 'adjustment' END, CASE WHEN k % 5 = 0 THEN 'in_' || CAST(n * 15 + k AS text) END, 'Goodwill', {json:'{}'}, {at:1735689600 + k * 3400000 + n % 86400}, {true}, k,
  {json:'{"id":"cbtxn_' || CAST(10000000 + n AS text) || '_' || CAST(100 + k AS text) || '","object":"customer_balance_transaction","amount":-100,"checkout_session":null,"credit_note":null,"currency":"usd","description":"Goodwill","invoice":null,"livemode":true,"metadata":{},"type":"adjustment"}'},
  '0123456789abcdef0123456789abcdef', {at:1790000000} FROM g, h`,
		`INSERT INTO {t}credit_balance_transactions (account, customer, id, "grant", type, credit_type, debit_type, currency, amount, invoice, effective_at, created, livemode, raw, digest, synced_at)
{n}, h(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM h WHERE k < 5)
SELECT '', 'cus_' || CAST(10000000 + n AS text), 'cbtxn_c' || CAST(10000000 + n AS text) || '_' || CAST(k AS text), 'credgr_' || CAST(10000000 + n AS text), CASE WHEN k = 1 THEN 'credit' ELSE 'debit' END,
  CASE WHEN k = 1 THEN 'credits_granted' END, CASE WHEN k <> 1 THEN 'credits_applied' END, 'usd', CASE WHEN k = 1 THEN 100000 ELSE -100 * (n % 97) END, CASE WHEN k <> 1 THEN 'in_c' || CAST(n * 5 + k AS text) END,
  {at:1735689600 + k * 8000000}, {at:1735689600 + k * 8000000}, {true}, {json:'{"id":"cbtxn_c' || CAST(10000000 + n AS text) || '_' || CAST(k AS text) || '","object":"billing.credit_balance_transaction"}'}, '0123456789abcdef0123456789abcdef', {at:1790000000} FROM g, h`,
		`INSERT INTO {t}stripe_events (account, id, type, customer, object, pending_scopes, livemode, created, received_at, applied_at, synced_at)
{n} SELECT '', 'evt_' || CAST(10000000 + n AS text), 'customer.updated', 'cus_' || CAST(10000000 + n AS text), 'cus_' || CAST(10000000 + n AS text), 0, {true},
  {at:1790000000 + n % 100000}, {at:1790000001 + n % 100000}, {at:1790000002 + n % 100000}, {at:1790000000} FROM g`,
		`INSERT INTO {t}api_writes (account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr, stripe_request_id, status, outcome, reason, repeated, synced_at)
{n} SELECT '', 'req_' || CAST(10000000 + n AS text), {at:1790000000 + n % 100000}, 'crm', 'adjust', 'cus_' || CAST(10000000 + n AS text), 'cbtxn_1', -100, 'usd', 'key', '192.0.2.1', 'req_1', 200, 'done', '', 0, {at:1790000000} FROM g WHERE n % 5 = 0`,
		`INSERT INTO {t}dead_letters (account, id, customer, scope, reason, attempts, event_ids, first_failed_at, last_failed_at, retry_at, class, synced_at)
{n} SELECT '', 'dead_' || CAST(10000000 + n AS text), 'cus_' || CAST(10000000 + n AS text), 'balance', CASE WHEN n % 60000 = 11 THEN 'the database refuses the values' ELSE 'stripe: status 500 for cus_' || CAST(10000000 + n AS text) END, 12, {json:'["evt_1"]'},
  {at:1790000000 + n % 100000}, {at:1790000000 + n % 100000}, {at:1800000000}, CASE WHEN n % 60000 = 11 THEN 'the database refuses the values' ELSE 'stripe: status 500 for cus_…' END, {at:1790000000} FROM g WHERE n % 10 < 7`,
		`INSERT INTO {t}drift_findings (account, id, kind, customer, scope, currency, object, expected, actual, cause, found_at, repaired_at, notified, synced_at)
{n} SELECT '', 'drift_' || CAST(10000000 + n AS text), CASE WHEN n % 2000 = 3 THEN 'field_mismatch' ELSE 'balance_mismatch' END, 'cus_' || CAST(10000000 + n AS text), 'balance', 'usd', '', '-100', '-200', 'missed_event',
  {at:1790000000 + n % 100000}, CASE WHEN n % 1000 <> 3 THEN {at:1790000300 + n % 100000} END, 2, {at:1790000000} FROM g WHERE n % 10 = 3`,
		`INSERT INTO {t}operator_actions (account, id, created, actor, remote_addr, action, customer, object, reason, outcome, count, detail, synced_at)
{n} SELECT '', 'act_' || CAST(10000000 + n AS text), {at:1790000000 + n % 100000}, 'on-call', '192.0.2.1', CASE WHEN n % 200 = 0 THEN 'sync' ELSE 'sign-in' END, CASE WHEN n % 200 = 0 THEN 'cus_' || CAST(10000000 + n AS text) ELSE '' END, '', '', 'done', 1, '', {at:1790000000} FROM g WHERE n % 100 = 0`,
	},
	// One customer with a long history.
	rest: []string{
		`INSERT INTO {t}customers (account, id, balance, currency, created, livemode, raw, digest, synced_at) VALUES ('', 'cus_deep', -10000000, 'usd', {at:1704067200}, {true}, {json:'{}'}, 'd', {at:1790000000})`,
		`INSERT INTO {t}customer_balances (account, customer, currency, balance, synced_at) VALUES ('', 'cus_deep', 'usd', -10000000, {at:1790000000})`,
		`INSERT INTO {t}sync_state (account, customer, scope, epoch, applied_epoch, observed_at, history_complete, full_read_at, synced_at)
SELECT '', 'cus_deep', s, 1, 1, {at:1790000000}, {true}, {at:1790000000}, {at:1790000000} FROM (SELECT 'balance' AS s UNION ALL SELECT 'credits') AS scopes`,
		`INSERT INTO {t}customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, description, metadata, created, livemode, chain_position, raw, digest, synced_at)
WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < 100000)
SELECT '', 'cus_deep', 'cbtxn_deep_' || CAST(10000000 + n AS text), 'usd', -100, -100 * n, 'adjustment', 'Goodwill', {json:'{}'}, {at:1735689600 + n * 500}, {true}, n, {json:'{}'}, 'd', {at:1790000000} FROM g`,
	},
}

var (
	fillAt   = regexp.MustCompile(`\{at:([^}]*)\}`)
	fillJSON = regexp.MustCompile(`\{json:('(?:[^']|'')*'(?: \|\| (?:CAST\([^()]*\)|'[^']*'))*)\}`)
)

// dialect writes a statement for a database.
func dialect(statement string, pg bool) string {
	const series = `WITH RECURSIVE g(n) AS (SELECT CAST($1 AS bigint) UNION ALL SELECT n + 1 FROM g WHERE n < CAST($2 AS bigint))`
	at, json := `strftime('%Y-%m-%dT%H:%M:%f000Z', $1, 'unixepoch')`, `$1`
	words := []string{"{t}", "", "{true}", "1", "{n}", series}
	if pg {
		at, json = `to_timestamp($1)`, `CAST($1 AS jsonb)`
		words = []string{"{t}", "creditmirror.", "{true}", "true", "{n}", series}
	}
	at, json = strings.ReplaceAll(at, "$1", "${1}"), strings.ReplaceAll(json, "$1", "${1}")
	return strings.NewReplacer(words...).Replace(fillJSON.ReplaceAllString(fillAt.ReplaceAllString(statement, at), json))
}

// large is what is asked of a large mirror here.
type large interface {
	fullStore
	report.DayTable
	Totals(ctx context.Context) (mirror.Totals, error)
	UnsyncedCount(ctx context.Context, account string) (int64, error)
	Close() error
}

// fill makes the tables without their indexes, fills them, and makes the indexes again.
func fill(t *testing.T, db *sql.DB, pg bool, customers int, indexes, drop string) {
	t.Helper()
	began := time.Now()
	exec := func(statement string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
			t.Fatalf("%.300s: %v", statement, err)
		}
	}
	rows, err := db.QueryContext(t.Context(), indexes)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var names, made []string
	for rows.Next() {
		var name, statement string
		if err := rows.Scan(&name, &statement); err != nil {
			t.Fatal(err)
		}
		names, made = append(names, name), append(made, statement)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		exec(drop + name)
	}
	const piece = 20_000
	for first := 1; first <= customers; first += piece {
		for _, s := range filled.customers {
			exec(dialect(s, pg), first, min(first+piece-1, customers))
		}
	}
	for _, s := range filled.rest {
		exec(dialect(s, pg))
	}
	t.Logf("%d customers with %d transactions filled in, %v", customers, customers*rowsEach, time.Since(began).Round(time.Second))
	for _, s := range made {
		exec(s)
	}
	t.Logf("indexes made, %v", time.Since(began).Round(time.Second))
}

// largeSQLite is a file of as many customers.
func largeSQLite(t *testing.T, customers int) large {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mirror.db")
	open := func() *sqlite.Store {
		s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		if err == nil {
			err = s.Migrate(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := open().Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(off)&_pragma=synchronous(off)&_pragma=cache_size(-500000)&_pragma=locking_mode(exclusive)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	fill(t, db, false, customers, `SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL`, `DROP INDEX `)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return open()
}

// largePostgres is a database of as many customers, on a server of its own.
func largePostgres(t *testing.T, customers int) large {
	t.Helper()
	server := pgtest.Start(t)
	server.Exec(t, "postgres", `ALTER SYSTEM SET shared_buffers = '2GB'`)
	server.Exec(t, "postgres", `ALTER SYSTEM SET maintenance_work_mem = '512MB'`)
	server.Exec(t, "postgres", `ALTER SYSTEM SET max_wal_size = '8GB'`)
	server.Stop()
	server.Restart(t)
	url := server.NewDatabase(t)
	s, err := postgres.Open(t.Context(), url, postgres.Options{})
	if err == nil {
		err = s.Migrate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"customers", "customer_balances", "credit_balance_summaries", "sync_state", "credit_grants", "customer_balance_transactions", "credit_balance_transactions", "stripe_events", "dead_letters"} {
		if _, err := db.ExecContext(t.Context(), `ALTER TABLE creditmirror.`+table+` SET UNLOGGED`); err != nil { // what is lost in a crash here is made again
			t.Fatal(err)
		}
	}
	fill(t, db, true, customers, `SELECT 'creditmirror.' || indexname, indexdef FROM pg_indexes
WHERE schemaname = 'creditmirror' AND indexname NOT LIKE '%_pkey'`, `DROP INDEX `)
	if _, err := db.ExecContext(t.Context(), `VACUUM ANALYZE`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

// The times of pages on a large mirror of each database: make bench-console runs it, for
// docs/benchmarks.md. CREDITMIRROR_BENCH_CONSOLE says of how many customers.
func TestPageTimes(t *testing.T) {
	customers, err := strconv.Atoi(os.Getenv("CREDITMIRROR_BENCH_CONSOLE"))
	if err != nil {
		t.Skip("CREDITMIRROR_BENCH_CONSOLE says of how many customers: make bench-console")
	}
	t.Run("SQLite", func(t *testing.T) { pageTimes(t, largeSQLite(t, customers), customers) })
	t.Run("PostgreSQL", func(t *testing.T) { pageTimes(t, largePostgres(t, customers), customers) })
}

func pageTimes(t *testing.T, store large, customers int) {
	defer store.Close()
	began := time.Now()
	if _, err := (&report.Folder{Table: store}).Fold(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("day table made, %v", time.Since(began).Round(time.Second))
	reads := &counted{fullStore: store}
	d := openDesk(t, func(o *console.Options) {
		o.Store, o.Ledgers, o.Operations, o.Books = reads, reads, reads, store
		// As serve does: the totals are counted over all rows.
		o.Status = func(ctx context.Context) (console.Status, error) {
			totals, err := store.Totals(ctx)
			s := console.Status{At: o.Now(), Repair: true, Customers: totals.Customers, Transactions: totals.BalanceTransactions + totals.CreditTransactions, DriftOpen: totals.DriftOpen, DriftAmount: totals.DriftAmount, DeadLetters: totals.DeadLetters}
			if err == nil {
				var n int64
				n, err = store.UnsyncedCount(ctx, "")
				s.Unproven = map[string]int64{"": n}
			}
			return s, err
		}
	})
	cookie := d.signIn(actKey)
	// some is a page of another customer each time, so that none is in a cache.
	some := func(form string) func(int) string {
		return func(n int) string { return fmt.Sprintf(form, 10_000_001+(n*7919+customers/2)%customers) }
	}
	type kind struct {
		name string
		path func(n int) string
	}
	var kinds []kind
	for _, path := range allPages {
		kinds = append(kinds, kind{path, func(int) string { return path }})
	}
	kinds = append(kinds,
		kind{"a customer", some("/customers/platform/cus_%d")}, kind{"a customer's why", some("/customers/platform/cus_%d/why")}, kind{"a customer's statement", some("/customers/platform/cus_%d/statement")},
		kind{"customers, from the middle", some("/customers?after=0.0.cus_%d")}, kind{"customers by balance, from the middle", some("/customers?sort=most&currency=usd&after=-7500.0.cus_%d")},
		kind{"customers by credits, from the middle", some("/customers?sort=most&ledger=credits&currency=usd&after=80000.0.cus_%d")},
		kind{"unproven, from the middle", some("/customers?set=unproven&after=0.0.cus_%d")}, kind{"deleted, from the middle", some("/customers?set=deleted&after=0.0.cus_%d")},
		kind{"who has a grant", some("/customers?find=credgr_%d")}, kind{"who has an invoice", func(n int) string { return fmt.Sprintf("/customers?find=in_%d", (n*31+77)*15+5) }},
		kind{"an event", some("/webhooks/evt_%d")}, kind{"a letter", func(n int) string { return fmt.Sprintf("/dead/dead_%d", 10_000_001+10*n) }}, kind{"a finding", func(n int) string { return fmt.Sprintf("/drift/drift_%d", 10_000_003+10*n) }},
		kind{"findings of a kind, closed", func(int) string { return "/drift?show=closed&kind=field_mismatch" }}, kind{"letters of the rare reason", func(int) string { return "/dead?class=the+database+refuses+the+values" }},
		kind{"retry all of a reason: the count", func(int) string { return "/dead/confirm?do=retry&list=1" }},
		kind{"writes of a customer", some("/writes?customer=cus_%d")},
		kind{"a customer of 100,000 rows", func(int) string { return "/customers/platform/cus_deep" }}, kind{"why, of 100,000 rows", func(int) string { return "/customers/platform/cus_deep/why" }}, kind{"statement of 100,000 rows", func(int) string { return "/customers/platform/cus_deep/statement" }},
	)
	for round, kind := range kinds {
		var took []time.Duration
		began := time.Now()
		most := int64(0)
		for n := range 11 {
			path := kind.path(round*100 + n)
			before, asked := reads.n.Load(), time.Now()
			code, body := d.get(path, cookie)
			took = append(took, time.Since(asked))
			most = max(most, reads.n.Load()-before)
			if code != http.StatusOK && code != http.StatusSeeOther && code != http.StatusNotFound {
				t.Errorf("%s: %d %s", path, code, body)
			}
		}
		first := took[0]
		slices.Sort(took)
		// How long it takes until no figure of the page is missing.
		whole := time.Duration(0)
		for path := kind.path(round * 100); ; time.Sleep(50 * time.Millisecond) {
			if _, body := d.get(path, cookie); !strings.Contains(body, `http-equiv="refresh"`) {
				whole = time.Since(began)
				break
			}
			if time.Since(began) > 10*time.Minute {
				t.Errorf("%s: its figures never came", kind.name)
				break
			}
		}
		t.Logf("%-42s first %8v  median %8v  slowest %8v  whole after %6v  reads %d", kind.name, first.Round(10*time.Microsecond), took[5].Round(10*time.Microsecond), took[10].Round(10*time.Microsecond), whole.Round(100*time.Millisecond), most)
		if took[9] > pageLimit { // one of eleven is the machine's
			t.Errorf("%s takes %v, want at most %v", kind.name, took[9], pageLimit)
		}
	}
}
