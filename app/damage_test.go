package app

import (
	"database/sql"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/verify"
)

// openPostgres opens the mirror's schema beside the program.
func openPostgres(database string) (*sql.DB, func(string) string, error) {
	config, err := pgx.ParseConfig(database)
	if err != nil {
		return nil, nil, err
	}
	config.RuntimeParams["search_path"] = "creditmirror"
	return stdlib.OpenDB(*config), func(statement string) string {
		for n := 1; strings.Contains(statement, "?"); n++ {
			statement = strings.Replace(statement, "?", fmt.Sprintf("$%d", n), 1)
		}
		return statement
	}, nil
}

// contents are the mirror's tables, but when they were written.
func (d *drifting) contents() string {
	d.t.Helper()
	var all strings.Builder
	for _, table := range mirror.Tables()[:6] {
		var columns []string
		for _, c := range table.Columns {
			if c.Name != "synced_at" {
				columns = append(columns, `CAST("`+c.Name+`" AS text)`)
			}
		}
		rows, err := d.sql.QueryContext(d.t.Context(), "SELECT "+strings.Join(columns, ", ")+" FROM "+table.Name+" ORDER BY 1, 2, 3")
		if err != nil {
			d.t.Fatal(err)
		}
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(sql.NullString)
		}
		for rows.Next() {
			if err := rows.Scan(values...); err != nil {
				d.t.Fatal(err)
			}
			fmt.Fprint(&all, table.Name)
			for _, v := range values {
				fmt.Fprint(&all, "|", v.(*sql.NullString).String)
			}
			fmt.Fprintln(&all)
		}
		if err := rows.Err(); err != nil {
			d.t.Fatal(err)
		}
		rows.Close()
	}
	return all.String()
}

// difference counts the lines that only one text has: +1 the first, -1 the second.
func difference(a, b string) map[string]int {
	lines := map[string]int{}
	for line := range strings.Lines(a) {
		lines[line]++
	}
	for line := range strings.Lines(b) {
		lines[line]--
	}
	maps.DeleteFunc(lines, func(_ string, n int) bool { return n == 0 })
	return lines
}

// damages are the ways in which SQL can change a column that Stripe sends, with the
// finding that names each; ? is the row, or the customer where the table has no rows.
var damages = []struct{ kind, table, statement string }{
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET amount = amount + 1 WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET ending_balance = ending_balance + 1 WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET currency = 'xts' WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET type = 'initial' WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET description = 'x' WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET metadata = '{"x":"y"}' WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET invoice = 'in_x', credit_note = 'cn_x' WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET created = '2001-01-01T00:00:00.000000Z' WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET livemode = NOT livemode WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET raw = '{}' WHERE id = ?`},
	{"field_mismatch", "balance", `UPDATE customer_balance_transactions SET raw = '{}', amount = 3, description = 'x' WHERE id = ?`},
	{"missing_transaction", "balance", `DELETE FROM customer_balance_transactions WHERE id = ?`},
	{"balance_mismatch", "customer", `UPDATE customers SET balance = balance + 7 WHERE id = ?`},
	{"balance_mismatch", "customer", `UPDATE customers SET invoice_credit_balance = '{"xts":5}' WHERE id = ?`},
	{"field_mismatch", "customer", `UPDATE customers SET created = '2001-01-01T00:00:00.000000Z' WHERE id = ?`},
	{"field_mismatch", "customer", `UPDATE customers SET livemode = NOT livemode WHERE id = ?`},
	{"field_mismatch", "customer", `UPDATE customers SET raw = '{}' WHERE id = ?`},
	{"balance_mismatch", "customer", `UPDATE customer_balances SET balance = balance + 7 WHERE customer = ?`},
	{"balance_mismatch", "customer", `INSERT INTO customer_balances (account, customer, currency, balance, synced_at)
		SELECT account, id, 'xts', 7, synced_at FROM customers WHERE id = ?`},
	{"field_mismatch", "grant", `UPDATE credit_grants SET amount = amount + 1 WHERE id = ?`},
	{"field_mismatch", "grant", `UPDATE credit_grants SET name = 'x', metadata = '{"x":"y"}' WHERE id = ?`},
	{"field_mismatch", "grant", `UPDATE credit_grants SET expires_at = NULL, voided_at = '2001-01-01T00:00:00.000000Z' WHERE id = ?`},
	{"field_mismatch", "grant", `UPDATE credit_grants SET currency = 'xts' WHERE id = ?`},
	{"field_mismatch", "credit", `UPDATE credit_balance_transactions SET amount = amount - 1 WHERE "grant" = ?`},
	{"field_mismatch", "credit", `UPDATE credit_balance_transactions SET type = 'debit', invoice = 'in_x' WHERE "grant" = ?`},
	{"field_mismatch", "credit", `UPDATE credit_balance_transactions SET effective_at = '2001-01-01T00:00:00.000000Z' WHERE "grant" = ?`},
	{"field_mismatch", "credit", `UPDATE credit_balance_transactions SET currency = 'xts' WHERE "grant" = ?`},
	{"missing_transaction", "credit", `DELETE FROM credit_balance_transactions WHERE "grant" = ?`},
}

// What the scrub names with --dry-run it repairs without, on both databases: each
// column that SQL can change behind the program's back is named once, repaired, and
// recorded once; verify and another dry run are clean afterwards, the tables are
// what they were, and another scrub writes nothing to them (I18).
func TestI18_ScrubRepairsWhatItsDryRunNames(t *testing.T) {
	t.Parallel()
	for name, database := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "mirror.db") },
		"postgres": func(t *testing.T) string { return pgtest.NewDatabase(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDriftingOn(t, 80, database(t))
			d.behind.Store(int64(time.Hour))
			type planted struct{ kind, customer, statement, key string }
			var plan []planted
			for _, damage := range damages {
				p := planted{damage.kind, d.next(), damage.statement, ""}
				switch damage.table {
				case "balance":
					p.key = d.text(`SELECT id FROM customer_balance_transactions WHERE customer = ? ORDER BY created, id LIMIT 1`, p.customer)
				case "customer":
					p.key = p.customer
				default:
					p.key = d.call("POST", "/v1/billing/credit_grants", url.Values{
						"customer": {p.customer}, "category": {"paid"}, "amount[type]": {"monetary"}, "amount[monetary][currency]": {"usd"},
						"amount[monetary][value]": {"1000"}, "applicability_config[scope][price_type]": {"metered"},
						"expires_at": {fmt.Sprint(time.Now().AddDate(1, 0, 0).Unix())},
					})
				}
				plan = append(plan, p)
			}
			if _, err := d.parts.Balances(false, zap.NewNop()).Run(t.Context(), "", ""); err != nil { // brings the grants
				t.Fatal(err)
			}
			d.idle()
			d.exec(`DELETE FROM drift_findings`)
			before := d.contents()
			var want []string
			for _, p := range plan {
				d.exec(p.statement, p.key)
				want = append(want, p.kind+"/"+p.customer)
			}
			slices.Sort(want)

			dry := func() (named []string) {
				report, err := d.parts.ScrubReport(true, zap.NewNop()).Run(t.Context(), "", "", 0, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range report.Findings {
					named = append(named, string(f.Kind)+"/"+f.Customer)
				}
				slices.Sort(named)
				return slices.Compact(named) // a balance in two currencies
			}
			if got := dry(); !slices.Equal(got, want) {
				t.Errorf("the dry run names\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if _, err := d.parts.Scrub(zap.NewNop()).Pass(t.Context(), "", func(int) {}); err != nil {
				t.Fatal(err)
			}
			d.idle()
			repaired, open := d.findings()
			if !slices.Equal(repaired, want) || len(open) > 0 {
				t.Errorf("repaired\n%s\nwant\n%s\nopen %q", strings.Join(repaired, "\n"), strings.Join(want, "\n"), open)
			}
			d.exec(`DELETE FROM customer_balances WHERE currency = 'xts' AND balance = 0`) // no row is deleted: it says none now
			for line, n := range difference(d.contents(), before) {
				t.Errorf("%+d row: %s", n, line)
			}
			if got := dry(); len(got) != 0 {
				t.Errorf("the dry run afterwards names %q", got)
			}
			written := func() string {
				all := d.text(`SELECT CAST(count(*) AS text) FROM changes WHERE table_name <> 'drift_findings'`)
				for _, table := range mirror.Tables()[:6] {
					all += " " + d.text(`SELECT CAST(max(synced_at) AS text) FROM `+table.Name)
				}
				return all
			}
			was := written()
			if _, err := d.parts.Scrub(zap.NewNop()).Pass(t.Context(), "", func(int) {}); err != nil {
				t.Fatal(err)
			}
			if now := written(); now != was {
				t.Errorf("a scrub of a correct mirror wrote rows: %s, was %s", now, was)
			}
			auditor, ok := d.parts.Store.(mirror.Auditor)
			if !ok {
				t.Fatal("the store is no auditor")
			}
			if _, err := verify.Run(t.Context(), auditor, verify.Options{}, func(f mirror.Finding) error {
				t.Errorf("verify names %+v", f)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
