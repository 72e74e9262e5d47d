package postgres

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
)

// TestHotStatementsUseIndexes: with tables large enough for it to matter, no hot
// statement reads a whole table or sorts, and the place of a page is found
// inside the index and not by filtering.
func TestHotStatementsUseIndexes(t *testing.T) {
	t.Parallel()
	sql := openSQL(t, newMirror(t))
	for _, fill := range []string{
		`INSERT INTO customers (account, id, balance, livemode, digest, created, raw, customer_account, test_clock)
			SELECT '', 'cus_' || n, 0, true, '', now() - n * interval '1 second', jsonb_build_object('email', 'a' || n || '@example.com'), 'acct_' || n,
				CASE WHEN n % 1000 = 0 THEN 'clock_1' END
			FROM generate_series(1, 20000) AS n`,
		`INSERT INTO test_clocks (account, id, frozen_time) SELECT '', 'clock_' || n, now() FROM generate_series(1, 5000) AS n`,
		`INSERT INTO sync_state (account, customer, scope, epoch, history_complete)
			SELECT '', 'cus_' || n, scope, 1, n > 50 FROM generate_series(1, 20000) AS n, unnest(ARRAY['balance', 'credits']) AS scope`,
		`INSERT INTO customer_balance_transactions
			(account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest, invoice)
			SELECT '', 'cus_' || n % 4, 'cbtxn_' || n, 'eur', 1, 1, 'adjustment', '{}', now() - n * interval '1 second', true, n, '{}', '', 'in_' || n % 2000
			FROM generate_series(1, 20000) AS n`,
		`INSERT INTO credit_grants (account, id, customer, category, amount_type, applicability_config, created, updated, livemode, metadata, raw, digest)
			SELECT '', 'credgr_' || n, 'cus_' || n % 100, 'paid', 'monetary', '{}', now() - n * interval '1 second', now(), true, '{}', '{}', ''
			FROM generate_series(1, 20000) AS n`,
		`INSERT INTO credit_balance_transactions (account, customer, id, "grant", type, currency, amount, created, livemode, raw, digest)
			SELECT '', 'cus_' || n % 4, 'cbtxn_' || n, 'credgr_' || n % 100, 'debit', 'eur', -1, now() - n * interval '1 second', true, '{}', ''
			FROM generate_series(1, 20000) AS n`,
		`INSERT INTO stripe_events (account, id, type, customer, pending_scopes, livemode, created)
			SELECT '', 'evt_' || n, 'customer.updated', 'cus_' || n % 1000, CASE WHEN n % 50 = 0 THEN 1 ELSE 0 END, true, now() - n * interval '1 second'
			FROM generate_series(1, 20000) AS n`,
		`INSERT INTO changes (account, table_name, customer, id, op)
			SELECT CASE WHEN n % 20 = 0 THEN 'acct_1' ELSE '' END, 'customers', 'cus_' || n, 'cus_' || n, 'insert' FROM generate_series(1, 20000) AS n`,
		`INSERT INTO dead_letters (account, id, customer, scope, reason, attempts, event_ids, first_failed_at, last_failed_at)
			SELECT '', 'dead_' || n, 'cus_' || n, 'balance', '', 1, '[]', now(), now() FROM generate_series(10000, 20000) AS n`,
		`INSERT INTO drift_findings (account, id, kind, customer, scope, currency, object, expected, actual, cause, found_at, repaired_at, notified)
			SELECT '', 'drift_' || n, 'missed_event', 'cus_' || n, 'balance', '', 'evt_' || n, '', '', '', now() - n * interval '1 second',
				now(), CASE WHEN n > 100 THEN 2 ELSE 0 END
			FROM generate_series(1, 20000) AS n`,
		`INSERT INTO drift_findings (account, id, kind, customer, scope, currency, object, expected, actual, cause, found_at, notified)
			SELECT '', 'drift_open_' || n, 'field_mismatch', 'cus_' || n % 4, 'balance', 'eur', 'cbtxn_' || n, '', '', '', now() - n * interval '1 second', 1
			FROM generate_series(1, 20000) AS n`,
		`ANALYZE`,
	} {
		sql.exec(t, fill)
	}
	from, to := spanFrom(&mirror.Span{}), spanTo(&mirror.Span{})
	for _, c := range []struct {
		name, statement string
		args            []any
		bounded         string // what the index condition must hold
	}{
		{"balance after", balanceAfter, []any{"", "cus_1", "cbtxn_9001", 11, from, to}, "ROW("},
		{"balance before", balanceBefore, []any{"", "cus_1", "cbtxn_9001", 11, from, to}, "ROW("},
		{"balance by time", balanceNewest, []any{"", "cus_1", 11, from, to}, "created <="},
		{"balance by invoice", invoiceNewest, []any{"", "cus_1", "in_1", 11, from, to}, "invoice ="},
		{"living after", livingAfter, []any{"", "cus_9001", 11, from, to}, "ROW("},
		{"living before", livingBefore, []any{"", "cus_9001", 11, from, to}, "ROW("},
		{"customers of a clock", clockNewest, []any{"", "clock_1", 11, from, to}, "test_clock ="},
		{"customers by email", emailNewest, []any{"", "a9@example.com", "", 11, from, to}, "email"},
		{"customer of an account", customerOfAccount, []any{"", "acct_9"}, "customer_account ="},
		{"credits of account after", accountCreditsAfter, []any{"", "cbtxn_9001", 11}, "ROW("},
		{"balances of a page", balancesPage, []any{"", "cus_5", 100}, ""},
		{"changes of one account among others", changesAfter, []any{"0", 100, "acct_1", 100}, "account ="},
		{"grants of customer after", customerGrantsAfter, []any{"", "cus_1", "credgr_9001", 11}, ""},
		{"grants of account before", accountGrantsBefore, []any{"", "credgr_9001", 11}, "ROW("},
		{"credits after", customerCreditsAfter, []any{"", "cus_1", "cbtxn_9001", 11}, "ROW("},
		{"credits of grant after", grantCreditsAfter, []any{"", "cus_1", "credgr_1", "cbtxn_9001", 11}, ""},
		{"credit by id", creditByID, []any{"", "cbtxn_9001"}, ""},
		{"tops", heldTops, []any{"", "cus_1"}, ""},
		{"unplaced", heldUnplaced, []any{"", "cus_1", 1001}, ""},
		{"rows to place", rowsToPlace, []any{"", "cus_1", from, 1001}, ""},
		{"unplaced rows to place", unplacedRows, []any{"", "cus_1", from, 1001}, ""},
		{"place", placeRows, []any{"", "cus_1", []string{"cbtxn_1", "cbtxn_5"}, []int64{1, 2}}, ""},
		{"customers", customersAfter, []any{"", "cus_5", 100}, ""},
		{"unsynced balances", unsyncedBalances, []any{"", 0, "cus_3", 100}, "ROW("},
		{"newest event", newestEvent, []any{"", "cus_50", 1}, ""},
		{"pending events", pendingEvents, []any{0, 100}, ""},
		{"open question", strings.Replace(resolveEvents, "$4", "$4::text", 1), []any{"", "grant_owner", "credgr_1", "cus_1", 2, nil}, ""},
		{"foreign changes", foreignChanges, nil, ""},
		{"accused rows", accusedTransactions, []any{"", "cus_1", []string{"cbtxn_9001", "cbtxn_9005"}}, "id ="},
		{"accused credits", accusedCredits, []any{"", "cus_1", []string{"cbtxn_9001", "cbtxn_9005"}}, "id ="},
		{"accused grants", accusedGrants, []any{"", "cus_1", []string{"credgr_9001", "credgr_9005"}}, "id ="},
		{"pending notices", pendingNotices, []any{time.Now().Add(-time.Hour), 100}, "found_at >="},
		{"count of notices", countNotices, []any{time.Now().Add(-time.Hour)}, "repaired_at >="},
	} {
		plan := explain(t, sql, c.statement, c.args...)
		if strings.Contains(plan, "Seq Scan") || strings.Contains(c.name, "after") && strings.Contains(plan, "Sort") {
			t.Errorf("%s:\n%s", c.name, plan)
		}
		if c.bounded != "" && !slices.ContainsFunc(strings.Split(plan, "\n"), func(line string) bool {
			return strings.Contains(line, "Index Cond") && strings.Contains(line, c.bounded)
		}) {
			t.Errorf("%s finds its place by filtering:\n%s", c.name, plan)
		}
	}
}

func explain(t *testing.T, sql sqlView, statement string, args ...any) string {
	t.Helper()
	rows, err := sql.pool.Query(t.Context(), "EXPLAIN "+statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return strings.Join(lines, "\n")
}

// TestOrderDoesNotDependOnCollation: ids compare by their bytes also where the
// database sorts as people do.
func TestOrderDoesNotDependOnCollation(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `CREATE DATABASE human TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'`); err != nil {
		t.Skipf("this PostgreSQL has no ICU collations: %v", err)
	}
	s := openStore(t, server.URL("human"))
	migrate(t, s)
	want := []string{"cus_A", "cus_B", "cus__", "cus_a", "cus_b"}
	page := make([]mirror.Customer, 0, len(want))
	for _, id := range []string{"cus_b", "cus__", "cus_B", "cus_a", "cus_A"} {
		page = append(page, mirror.Customer{ID: id, Created: firstSecond})
	}
	if n, err := s.InsertCustomers(t.Context(), "", page); n != len(want) || err != nil {
		t.Fatalf("%d stored, %v", n, err)
	}
	var got []string
	for after := ""; ; {
		list, err := s.Customers(t.Context(), "", after, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		after = list[0].ID
		got = append(got, after)
	}
	if !slices.Equal(got, want) {
		t.Errorf("customers %v, want %v", got, want)
	}
	unsynced, err := s.Unsynced(t.Context(), "", mirror.ScopeBalance, mirror.Unread{}, 10)
	ids := []string{}
	for _, u := range unsynced {
		ids = append(ids, u.Customer)
	}
	if err != nil || !slices.Equal(ids, want) {
		t.Errorf("unsynced %v, %v, want %v", unsynced, err, want)
	}
}
