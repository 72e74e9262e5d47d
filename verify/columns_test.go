package verify_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
	"github.com/creditmirror/creditmirror/verify"
)

// How verify finds a column that somebody changed by SQL.
const (
	// byJSON: one finding of the object, which names the column. So for every column
	// that is not listed.
	byJSON = ""
	// byLedger: one finding of the ledger, whose cause names the column.
	byLedger = "ledger"
	// byName: findings of the customer, of which one names the column.
	byName = "name"
	// byOrder: findings of the customer, or of those that the row was moved between.
	byOrder = "order"
)

// sample is a row, and whose it is.
type sample struct{ where, customer string }

// columns are the tables that a proof is about, each with a row that has a value in
// every column and one that has none where it may; and the columns that are not
// compared with the JSON, with how they are found otherwise, or why not at all.
var columns = []struct {
	table      string
	full, bare sample
	other      sample            // another that is written in another way, if any
	rows       map[string]sample // instead of full
	otherwise  map[string]string
	unproven   map[string]string
}{
	{
		table: "customers", full: sample{`account = 'acct_1' AND id = 'cus_odd'`, "cus_odd"},
		bare: sample{`account = 'acct_1' AND id = 'cus_zero'`, "cus_zero"},
		rows: map[string]sample{"deleted_at": {`account = 'acct_1' AND id = 'cus_gone'`, "cus_gone"}},
		otherwise: map[string]string{
			"account": byOrder, "id": byName, "balance": byLedger, "currency": byLedger, "invoice_credit_balance": byLedger,
		},
	},
	{
		table: "customer_balances", full: sample{`account = 'acct_1' AND customer = 'cus_odd'`, "cus_odd"},
		otherwise: map[string]string{"account": byOrder, "customer": byOrder, "currency": byOrder, "balance": byOrder},
	},
	{
		table: "customer_balance_transactions", full: sample{`account = 'acct_1' AND id = 'cbtxn_odd00002'`, "cus_odd"},
		bare: sample{`account = 'acct_1' AND id = 'cbtxn_odd00001'`, "cus_odd"},
		otherwise: map[string]string{
			"account": byOrder, "customer": byOrder, "currency": byName, "chain_position": byOrder,
			"amount": byLedger, "ending_balance": byLedger,
		},
		rows: map[string]sample{"chain_position": {`account = 'acct_1' AND customer = 'cus_b' AND id = 'cbtxn_b00002'`, "cus_b"}},
	},
	{
		table: "credit_grants", full: sample{`account = 'acct_1' AND id = 'credgr_odd005'`, "cus_odd"},
		bare: sample{`account = 'acct_1' AND id = 'credgr_odd001'`, "cus_odd"},
		otherwise: map[string]string{
			"account": byOrder, "id": byName, "customer": byOrder, "currency": byLedger, "amount": byLedger,
		},
	},
	{
		table: "credit_balance_transactions", full: sample{`account = 'acct_1' AND id = 'cbtxn_odd004'`, "cus_odd"},
		bare:  sample{`account = 'acct_1' AND id = 'cbtxn_odd002'`, "cus_odd"},
		other: sample{`account = 'acct_1' AND id = 'cbtxn_odd003'`, "cus_odd"}, // a debit
		rows:  map[string]sample{"debit_type": {`account = 'acct_1' AND id = 'cbtxn_odd003'`, "cus_odd"}},
		otherwise: map[string]string{
			"account": byOrder, "customer": byOrder, "grant": byName, "currency": byName, "amount": byLedger,
		},
	},
	{
		table: "credit_balance_summaries", full: sample{`account = 'acct_1' AND customer = 'cus_b' AND currency = 'usd'`, "cus_b"},
		otherwise: map[string]string{"account": byOrder, "customer": byOrder, "currency": byOrder, "ledger_balance": byOrder},
		unproven:  map[string]string{"available_balance": "what takes from the ledger balance (expiry, drafts of invoices) no row tells"},
	},
}

// unproven are the columns of any table that nothing is known of to compare with.
var unproven = map[string]string{
	"digest":    "a wrong one makes the next sync write the row anew",
	"synced_at": "when the row was last written is told nowhere else",
}

// named are columns that a finding calls by another name.
var named = map[string]string{"raw": "the JSON kept", "deleted_at": "deleted"}

// set is SQL for a value where the column has none.
func set(c mirror.Column) string {
	switch c.Kind {
	case mirror.KindInt:
		return "7"
	case mirror.KindText:
		return "'x'"
	}
	return mirrortest.Flipped(c)
}

// Every column of every table that a proof is about is changed by SQL: each is
// found and named, and nothing else is, or a reason is given here why not. A column
// that a migration adds fails until one of both is so.
func TestI1I5_EveryColumnIsProven(t *testing.T) {
	t.Parallel()
	for _, driver := range drivers {
		t.Run(driver.name, func(t *testing.T) {
			t.Parallel()
			d := driver.open(t)
			mirrortest.Populate(t, d.store)
			kinds := map[string]mirror.Column{}
			for _, table := range mirror.Tables() {
				for _, c := range table.Columns {
					kinds[table.Name+"."+c.Name] = c
				}
			}
			for _, table := range columns {
				names, err := d.columns(table.table)
				if err != nil || len(names) == 0 {
					t.Fatalf("columns of %s: %v, %v", table.table, names, err)
				}
				for _, listed := range []map[string]string{table.otherwise, table.unproven, unproven} {
					for name := range listed {
						if !slices.ContainsFunc(names, func(c column) bool { return c.name == name }) && unproven[name] == "" {
							t.Errorf("%s has no column %s", table.table, name)
						}
					}
				}
				undo := keep(t, d, table.table)
				for _, held := range names {
					name := held.name
					c, known := kinds[table.table+"."+name]
					if !known {
						t.Fatalf("%s.%s is in no list of columns", table.table, name)
					}
					try := func(what string, row sample, value string) {
						d.mustExec(t, fmt.Sprintf(`UPDATE %s SET "%s" = %s WHERE %s`, table.table, name, value, row.where))
						found := findings(t, d)
						undo()
						if table.unproven[name]+unproven[name] != "" {
							if len(found) > 0 {
								t.Errorf("%s.%s %s: found %+v, and it is said not to be proven", table.table, name, what, found)
							}
							return
						}
						if wrong := wrongly(found, row.customer, name, table.otherwise[name]); wrong != "" {
							t.Errorf("%s.%s %s: %s: %+v", table.table, name, what, wrong, found)
						}
					}
					row, ok := table.rows[name]
					if !ok {
						row = table.full
					}
					if name != "deleted_at" { // one time of deletion is as good as another
						try("changed", row, mirrortest.Flipped(c))
					}
					if table.other.where != "" {
						try("changed in another row", table.other, mirrortest.Flipped(c))
					}
					if held.nullable {
						try("taken away", row, "NULL")
						try("put in", table.bare, set(c))
					}
				}
				d.mustExec(t, `DROP TABLE original`)
			}
			if found := findings(t, d); len(found) > 0 {
				t.Errorf("all is as it was: %+v", found)
			}
		})
	}
}

// What a column may hold without being another value, and what no reader of it
// understands.
func TestI1_ValuesNotTexts(t *testing.T) {
	t.Parallel()
	const row = ` WHERE account = 'acct_1' AND id = `
	type change struct {
		driver, sql string
		want        string // in the cause of the finding; empty: none
		findings    int    // 0 is one
	}
	changes := []change{
		{sql: `UPDATE customer_balance_transactions SET metadata = ' {"a": "2", "b":"1" }'` + row + `'cbtxn_odd00002'`},
		{sql: `UPDATE customer_balance_transactions SET metadata = '{"a":"2"}'` + row + `'cbtxn_odd00002'`, want: "metadata of cbtxn_odd00002: not"},
		{sql: `UPDATE customer_balance_transactions SET description = ''` + row + `'cbtxn_odd00001'`},
		{sql: `UPDATE credit_grants SET applicability_config = '{ "scope" : {"prices":[{"id":"price_1"},{"id":null}]}}'` + row + `'credgr_odd001'`},
		{sql: `UPDATE credit_grants SET applicability_config = '{"scope":{"prices":[{"id":null},{"id":"price_1"}]}}'` + row + `'credgr_odd001'`, want: "applicability_config of credgr_odd001: not"},
		{sql: `UPDATE customers SET invoice_credit_balance = '{ "usd":-7, "eur":  5}'` + row + `'cus_odd'`},
		{sql: `UPDATE customers SET deleted = true, deleted_at = '2031-01-02T03:04:05.000000Z', balance = 0, invoice_credit_balance = NULL` + row + `'cus_zero'`}, // as a deletion does
		// A time that is none, or not to the second.
		{driver: "sqlite", sql: `UPDATE customer_balance_transactions SET created = '2026-03-01 12:00:02'` + row + `'cbtxn_odd00001'`, want: "created of cbtxn_odd00001: not"},
		{driver: "sqlite", sql: `UPDATE customer_balance_transactions SET created = 'yesterday'` + row + `'cbtxn_odd00002'`, want: "its JSON has created 1772366402, the column none"},
		{driver: "postgres", sql: `UPDATE customer_balance_transactions SET created = 'infinity'` + row + `'cbtxn_odd00001'`, want: "created of cbtxn_odd00001: not"},
		{sql: `UPDATE customer_balance_transactions SET created = '2026-03-01T12:00:02.000001Z'` + row + `'cbtxn_odd00002'`, want: "created of cbtxn_odd00002: not"},
		{driver: "sqlite", sql: `UPDATE credit_grants SET created = '2026-03-01T12:00:01Z'` + row + `'credgr_odd001'`, want: "created of credgr_odd001: not"},
		{driver: "sqlite", sql: `UPDATE credit_grants SET expires_at = 'never'` + row + `'credgr_odd005'`, want: "expires_at of credgr_odd005: not"},
		{driver: "postgres", sql: `UPDATE credit_grants SET expires_at = 'infinity'` + row + `'credgr_odd005'`, want: "expires_at of credgr_odd005: not"},
		{sql: `UPDATE credit_grants SET updated = '2026-03-01T12:00:01.5Z'` + row + `'credgr_odd001'`, want: "updated of credgr_odd001: not"},
		// A truth that is none, JSON that is none.
		{driver: "sqlite", sql: `UPDATE customers SET livemode = 2` + row + `'cus_odd'`, want: "livemode of cus_odd: not"},
		{driver: "sqlite", sql: `UPDATE customer_balance_transactions SET metadata = '{'` + row + `'cbtxn_odd00002'`, want: "metadata of cbtxn_odd00002: not"},
		{driver: "sqlite", sql: `UPDATE customer_balance_transactions SET raw = ''` + row + `'cbtxn_odd00002'`, want: "the JSON kept of cbtxn_odd00002 lacks"},
		{driver: "sqlite", sql: `UPDATE customer_balance_transactions SET raw = '{"id":"cbtxn_odd00002' ` + row + `'cbtxn_odd00002'`, want: "the JSON kept of cbtxn_odd00002 lacks"},
		{sql: `UPDATE customers SET raw = 'null'` + row + `'cus_odd'`, want: "the JSON kept of cus_odd lacks"},
	}
	for table, id := range map[string]string{ // the JSON of something else
		"customers": "cus_odd", "customer_balance_transactions": "cbtxn_odd00002",
		"credit_grants": "credgr_odd005", "credit_balance_transactions": "cbtxn_odd004",
	} {
		changes = append(changes,
			change{driver: "sqlite", sql: `UPDATE ` + table + ` SET raw = json_set(raw, '$.object', 'other')` + row + `'` + id + `'`, want: "object of " + id + ": not"},
			change{driver: "postgres", sql: `UPDATE ` + table + ` SET raw = jsonb_set(raw, '{object}', '"other"')` + row + `'` + id + `'`, want: "object of " + id + ": not"})
	}
	for id, side := range map[string]string{"cbtxn_odd004": "credit", "cbtxn_odd003": "debit"} { // an amount that is no money
		sql, want := `UPDATE credit_balance_transactions SET raw = `, " of "+id+": not" // amount and currency
		changes = append(changes,
			change{"sqlite", sql + `json_set(raw, '$.` + side + `.amount.type', 'other')` + row + `'` + id + `'`, want, 2},
			change{"postgres", sql + `jsonb_set(raw, '{` + side + `,amount,type}', '"other"')` + row + `'` + id + `'`, want, 2})
	}
	for _, driver := range drivers {
		t.Run(driver.name, func(t *testing.T) {
			t.Parallel()
			d := driver.open(t)
			mirrortest.Populate(t, d.store)
			for _, tt := range changes {
				if tt.driver != "" && tt.driver != driver.name {
					continue
				}
				table := strings.Fields(tt.sql)[1]
				undo := keep(t, d, table)
				d.mustExec(t, tt.sql)
				found := findings(t, d)
				if tt.want == "" && len(found) > 0 || tt.want != "" && len(found) != cmp.Or(tt.findings, 1) ||
					slices.ContainsFunc(found, func(f mirror.Finding) bool { return !strings.Contains(f.Cause, tt.want) }) {
					t.Errorf("%s: found %+v, want %q", tt.sql, found, tt.want)
				}
				undo()
				d.mustExec(t, `DROP TABLE original`)
			}
		})
	}
}

// keep copies a table; undo puts it back as it was.
func keep(t *testing.T, d *database, table string) (undo func()) {
	t.Helper()
	d.mustExec(t, `CREATE TABLE original AS SELECT * FROM `+table)
	return func() {
		d.mustExec(t, `DELETE FROM `+table)
		d.mustExec(t, `INSERT INTO `+table+` SELECT * FROM original`)
	}
}

// An object whose JSON is gone is one finding, however many there are.
func TestI1_NoJSON(t *testing.T) {
	t.Parallel()
	for _, driver := range drivers {
		t.Run(driver.name, func(t *testing.T) {
			t.Parallel()
			d := driver.open(t)
			mirrortest.Populate(t, d.store)
			objects := map[string]int{}
			for _, table := range []string{"customers", "customer_balance_transactions", "credit_grants", "credit_balance_transactions"} {
				d.mustExec(t, `UPDATE `+table+` SET raw = '{}'`)
			}
			for _, f := range findings(t, d) {
				objects[f.Account+f.Object]++
				if f.Kind != mirror.DriftFieldMismatch || !strings.Contains(f.Cause, "the JSON kept of "+f.Object+" lacks what Stripe always sends: object, id, ") {
					t.Errorf("found %+v", f)
				}
			}
			for object, n := range objects {
				if n != 1 {
					t.Errorf("%s is found %d times", object, n)
				}
			}
			if len(objects) != 114 {
				t.Errorf("%d objects are found", len(objects))
			}
		})
	}
}

// findings are all that a proof finds.
func findings(t *testing.T, d *database) []mirror.Finding {
	t.Helper()
	var found []mirror.Finding
	_, err := verify.Run(t.Context(), d.store, verify.Options{Readers: 1}, func(f mirror.Finding) error {
		found = append(found, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wrongly says what is wrong with how a changed column was found.
func wrongly(found []mirror.Finding, customer, column, how string) string {
	if len(found) == 0 {
		return "not found"
	}
	for _, f := range found {
		if strings.TrimSuffix(f.Account, "x") != "acct_1" || strings.TrimSuffix(f.Customer, "x") != customer {
			return "another customer is found"
		}
		if strings.Contains(f.Expected+f.Actual+f.Cause, "flipped") && how == byJSON {
			return "what the column holds is told"
		}
	}
	names := slices.ContainsFunc(found, func(f mirror.Finding) bool {
		return strings.Contains(f.Cause, cmp.Or(named[column], column)+" of "+f.Object) || strings.Contains(f.Cause, "its JSON has "+column+" ")
	})
	switch {
	case how == byOrder:
		return ""
	case how != byName && len(found) != 1:
		return "more than one finding"
	case how == byJSON && found[0].Kind != mirror.DriftFieldMismatch:
		return "another kind of finding"
	case !names:
		return "the column is not named"
	}
	return ""
}
