package main

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// queryOf runs a query that both databases understand and joins the columns by commas.
func queryOf(t *testing.T, environ []string, query string) []string {
	t.Helper()
	var list []string
	db := databaseOf(t, environ)
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		cells, into := make([]string, len(columns)), make([]any, len(columns))
		for i := range cells {
			into[i] = &cells[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		list = append(list, strings.Join(cells, ","))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// sqlOf runs SQL that both databases understand beside a command.
func sqlOf(t *testing.T, environ []string) func(statement string) {
	t.Helper()
	db := databaseOf(t, environ)
	return func(statement string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// databaseOf opens the database of an environment; tables need no schema.
func databaseOf(t *testing.T, environ []string) *sql.DB {
	t.Helper()
	url := ""
	for _, v := range environ {
		if s, ok := strings.CutPrefix(v, "CREDITMIRROR_DATABASE_URL="); ok {
			url = s
		}
	}
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = "creditmirror"
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { db.Close() })
	return db
}

// lateCustomer is a customer that the mirror did not know, with a history that lies
// partly before the end of March 2025.
var lateCustomer = []string{
	`INSERT INTO customers (account, id, balance, currency, created, livemode, raw, digest, synced_at)
	 VALUES ('', 'cus_late', -650, 'usd', '2025-03-10T00:00:00.000000Z', $false,
	 '{"id":"cus_late","object":"customer","balance":-650,"currency":"usd","created":1741564800,"livemode":false}', 'd', '2026-01-01T00:00:00.000000Z')`,
	`INSERT INTO customer_balances (account, customer, currency, balance, synced_at) VALUES ('', 'cus_late', 'usd', -650, '2026-01-01T00:00:00.000000Z')`,
	`INSERT INTO sync_state (account, customer, scope, epoch, applied_epoch, history_complete, full_read_at, synced_at)
	 VALUES ('', 'cus_late', 'balance', 1, 1, $true, '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z')`,
	`INSERT INTO customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode,
	   chain_position, raw, digest, synced_at) VALUES
	 ('', 'cus_late', 'cbtxn_late1', 'usd', -700, -700, 'adjustment', '{}', '2025-03-10T00:00:00.000000Z', $false, 1,
	  '{"id":"cbtxn_late1","object":"customer_balance_transaction","customer":"cus_late","amount":-700,"ending_balance":-700,"currency":"usd","type":"adjustment","created":1741564800,"livemode":false,"metadata":{},"description":null,"invoice":null,"credit_note":null,"checkout_session":null}', 'd', '2026-01-01T00:00:00.000000Z'),
	 ('', 'cus_late', 'cbtxn_late2', 'usd', 50, -650, 'adjustment', '{}', '2025-05-10T00:00:00.000000Z', $false, 2,
	  '{"id":"cbtxn_late2","object":"customer_balance_transaction","customer":"cus_late","amount":50,"ending_balance":-650,"currency":"usd","type":"adjustment","created":1746835200,"livemode":false,"metadata":{},"description":null,"invoice":null,"credit_note":null,"checkout_session":null}', 'd', '2026-01-01T00:00:00.000000Z')`,
	`INSERT INTO changes (account, table_name, customer, id, op, changed_at, synced_at) VALUES
	 ('', 'customer_balance_transactions', 'cus_late', 'cbtxn_late1', 'insert', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z'),
	 ('', 'customer_balance_transactions', 'cus_late', 'cbtxn_late2', 'insert', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z')`,
}

// TestClosedPeriod: a sealed month stays as it is, what comes into it later is listed row
// by row, and what nothing explains is found by verify.
func TestClosedPeriod(t *testing.T) {
	t.Parallel()
	w := newWorld(t, threeYears, 9)
	for name, environ := range mirrors(t, w) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backfilled(t, environ)
			exec := sqlOf(t, environ)
			say := func(want int, args string) (out, errOut string) {
				t.Helper()
				code, out, errOut := cli(t, environ, append(strings.Fields(args), "--format", "csv")...)
				if code != want {
					t.Fatalf("%s: exit %d, want %d\n%s\n%s", args, code, want, out, errOut)
				}
				return out, errOut
			}
			const march = "close --period 2025-03"
			_, errOut := say(2, "close --explain 2025-03")
			if !strings.Contains(errOut, "2025-03 is not sealed") {
				t.Errorf("explaining what is not sealed: %s", errOut)
			}
			sealed, _ := say(0, march)
			before := closingOf(t, environ, "2025-03-01", "2025-04-01")
			for key, closing := range before {
				if !strings.Contains(sealed, key+",2025-03-01T00:00:00Z,2025-04-01T00:00:00Z,"+closing+",") {
					t.Errorf("the seal lacks %s = %s\n%s", key, closing, sealed)
				}
			}
			if again, _ := say(0, march); again != sealed {
				t.Errorf("printed again:\n%s\nfirst:\n%s", again, sealed)
			}
			if out, _ := say(0, "close --explain 2025-03"); strings.Count(out, "\n") != 1 {
				t.Errorf("nothing came, and it tells\n%s", out)
			}
			say(0, "verify")

			literal := strings.NewReplacer("$true", map[string]string{"sqlite": "1", "postgres": "true"}[name],
				"$false", map[string]string{"sqlite": "0", "postgres": "false"}[name])
			for _, statement := range lateCustomer {
				exec(literal.Replace(statement))
			}
			late, _ := say(1, "close --explain 2025-03")
			const header = "account,ledger,currency,customer,id,amount,dated,arrived,cause\n"
			if want := header + ",balance,usd,cus_late,cbtxn_late1,-700,2025-03-10T00:00:00Z,2026-01-01T00:00:00Z,arrived after the period was sealed\n"; late != want {
				t.Errorf("late rows:\n%swant\n%s", late, want)
			}
			if again, _ := say(0, march); again != sealed {
				t.Errorf("a late row changed the seal:\n%s", again)
			}
			after := closingOf(t, environ, "2025-03-01", "2025-04-01")
			if got := number(t, after[",balance,usd"]) - number(t, before[",balance,usd"]); got != -700 {
				t.Errorf("the open report moved by %d, want -700", got)
			}
			say(0, "verify") // a late row is explained

			exec(`UPDATE customer_balance_transactions SET amount = amount - 1 WHERE id = (SELECT min(id) FROM customer_balance_transactions
  WHERE account = '' AND currency = 'usd' AND created < '2025-03-01T00:00:00Z' AND customer <> 'cus_late')`)
			if _, errOut := say(1, "close --explain 2025-03"); !strings.Contains(errOut, "no record of the change feed explains it") {
				t.Errorf("a change without a record: %s", errOut)
			}
			if out, _ := say(1, "verify"); !strings.Contains(out, "books_mismatch,,,usd,") {
				t.Errorf("verify does not find it:\n%s", out)
			}
			exec(`UPDATE customer_balance_transactions SET amount = amount + 1 WHERE id = (SELECT min(id) FROM customer_balance_transactions
  WHERE account = '' AND currency = 'usd' AND created < '2025-03-01T00:00:00Z' AND customer <> 'cus_late')`)

			say(2, "close --reopen 2025-03")
			say(0, "close --reopen 2025-03 --reason late_customer")
			say(2, "close --explain 2025-03")
			anew, _ := say(0, march)
			if anew == sealed || !strings.Contains(anew, ","+after[",balance,usd"]+",") {
				t.Errorf("sealed anew:\n%s", anew)
			}
			say(0, "close --explain 2025-03")
			say(0, "verify")
			say(2, "close --period 2099-01")
			say(2, "close --period March")
			say(2, "close")
			say(2, "close --period 2025-03 --explain 2025-03")
		})
	}
}

// closingOf reads closing lines by account, ledger and currency.
func closingOf(t *testing.T, environ []string, from, to string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, r := range table(t, environ, "rollforward", "--from", from, "--to", to) {
		if r[5] == "closing" {
			m[strings.Join(r[:3], ",")] = r[6]
		}
	}
	return m
}
