package export

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/internal/sqlitetest"
	"github.com/creditmirror/creditmirror/mirror"
)

// duckdb runs statements in a fresh DuckDB and returns the rows of those that have
// any.
func duckdb(t testing.TB, statements ...string) (results [][]map[string]any) {
	t.Helper()
	missing := ""
	if _, err := exec.LookPath("node"); err != nil {
		missing = "node is not installed"
	} else if _, err := os.Stat("testdata/duckdb/node_modules/@duckdb"); err != nil {
		missing = "DuckDB is not installed: run make sdk"
	}
	if missing != "" {
		if os.Getenv("CREDITMIRROR_REQUIRE_SERVICES") == "1" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	cmd := exec.CommandContext(t.Context(), "node", "testdata/duckdb/run.mjs")
	cmd.Stdin = strings.NewReader(strings.Join(statements, "\n---\n"))
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("duckdb: %v\n%s", err, errOut.String())
	}
	for line := range strings.Lines(string(out)) {
		var rows []map[string]any
		if err := json.Unmarshal([]byte(line), &rows); err != nil {
			t.Fatal(err)
		}
		results = append(results, rows)
	}
	return results
}

// warehouse is the file that users open an export with, for one folder.
func warehouse(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile("../deploy/warehouse/warehouse.sql")
	if err != nil {
		t.Fatal(err)
	}
	list := []string{"SET VARIABLE credit = '" + dir + "'"}
	for statement := range strings.SplitSeq(string(text), ";\n") {
		if strings.Trim(statement, "\n ") != "" {
			list = append(list, statement)
		}
	}
	return list
}

// An engine that shares no code with us reads every table of every format, and has
// the mirror's rows and sums.
func TestDuckDBReadsWhatTheMirrorHas(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		dir := t.TempDir()
		h := newHistory(t, s, 7)
		e := newExporter(t, s, filepath.Join(dir, "parquet"), Options{})
		for range 4 {
			for range 6 {
				h.step()
			}
			if _, err := e.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []Format{CSV, JSONLines} {
			if _, err := newExporter(t, s, filepath.Join(dir, string(f)), Options{Format: f}).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var want map[string]mirror.TableTotals
		list, err := List(t.Context(), e.location)
		if err != nil {
			t.Fatal(err)
		}
		want = list[len(list)-1].Totals

		statements := warehouse(t, filepath.Join(dir, "parquet"))
		var names []string
		tables, err := tablesNamed(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range tables {
			sum := "NULL::VARCHAR"
			if table.amount >= 0 {
				sum = "(SELECT string_agg(currency || '=' || s, ' ' ORDER BY currency) FROM (SELECT currency, sum(" + table.sum + ")::VARCHAR AS s FROM %s GROUP BY 1) WHERE s IS NOT NULL)"
			}
			sources := []string{"mirror." + table.Name}
			var types []string
			for _, c := range table.columns() {
				types = append(types, "\""+c.Name+"\": '"+map[string]string{"int64": "BIGINT", "boolean": "BOOLEAN", "timestamp": "TIMESTAMPTZ", "json": "VARCHAR", "string": "VARCHAR"}[typeName(c.Kind)]+"'")
			}
			columns := "columns = {" + strings.Join(types, ", ") + "}"
			sources = append(sources,
				"read_csv('"+dir+"/csv/"+table.Name+"/*/*.csv.gz', header = true, nullstr = '\\N', allow_quoted_nulls = false, "+columns+")",
				"read_json('"+dir+"/jsonl/"+table.Name+"/*/*.jsonl.gz', format = 'newline_delimited', "+columns+")")
			for _, source := range sources {
				statements = append(statements, "SELECT count(*)::INT AS n, "+strings.ReplaceAll(sum, "%s", source)+" AS sums FROM "+source)
				names = append(names, table.Name+" from "+source[:min(len(source), 60)])
			}
			statements = append(statements, "SELECT count(*)::INT AS n, NULL AS sums FROM main."+stripeName(table.Name))
			names = append(names, table.Name+" by its name at Stripe")
		}
		results := duckdb(t, statements...)
		if len(results) < len(names) {
			t.Fatalf("%d results, want %d at least", len(results), len(names))
		}
		results = results[len(results)-len(names):] // those before are of the statements that make the views
		for i, rows := range results {
			table, _, _ := strings.Cut(names[i], " ")
			if got := int64(rows[0]["n"].(float64)); got != want[table].Rows {
				t.Errorf("%s: %d rows, want %d", names[i], got, want[table].Rows)
			}
			if sums, ok := rows[0]["sums"].(string); ok && sums != sumsText(want[table].Sums) {
				t.Errorf("%s: %s, want %s", names[i], sums, sumsText(want[table].Sums))
			}
		}
	})
}

func stripeName(table string) string {
	if strings.HasPrefix(table, "credit_") {
		return "billing_" + table
	}
	return table
}

var dbtReference = regexp.MustCompile(`\{\{ (?:source\('credit', '(\w+)'\)|ref\('(\w+)'\)) \}\}`)

// The models of the dbt project run on what an export holds, and their figures are
// the mirror's.
func TestTheModelsAddUp(t *testing.T) {
	s, _ := sqlitetest.Open(t)
	dir := t.TempDir()
	h := newHistory(t, s, 21)
	e := newExporter(t, s, dir, Options{})
	for range 3 {
		for range 10 {
			h.step()
		}
		if _, err := e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	statements := warehouse(t, dir)
	project := "../deploy/warehouse/dbt/"
	for _, model := range []string{"staging/stg_movements", "staging/stg_released", "marts/fct_movements", "marts/liability_daily", "marts/rollforward_monthly"} {
		text, err := os.ReadFile(project + "models/" + model + ".sql")
		if err != nil {
			t.Fatal(err)
		}
		statements = append(statements, "CREATE VIEW "+filepath.Base(model)+" AS "+filled(string(text)))
	}
	test, err := os.ReadFile(project + "tests/balances_agree.sql")
	if err != nil {
		t.Fatal(err)
	}
	closing := "SELECT currency, sum(amount)::VARCHAR AS s FROM %s GROUP BY 1 ORDER BY 1"
	statements = append(statements, filled(string(test)),
		"SELECT count(*)::INT AS n FROM (SELECT account, ledger, currency, month FROM rollforward_monthly GROUP BY ALL"+
			" HAVING sum(CASE WHEN line = 'closing' THEN -amount ELSE amount END) <> 0)",
		strings.Replace(closing, "%s", "(SELECT currency, arg_max(balance, day) AS amount FROM liability_daily WHERE ledger = 'balance' GROUP BY account, currency)", 1),
		"SELECT currency, sum(balance)::VARCHAR AS s FROM mirror.customer_balances GROUP BY 1 ORDER BY 1")
	results := duckdb(t, statements...)
	results = results[len(results)-4:]
	if len(results[0]) > 0 || results[1][0]["n"].(float64) != 0 {
		t.Errorf("balances that differ: %v; months that do not close: %v", results[0], results[1])
	}
	if len(results[3]) == 0 || !reflect.DeepEqual(results[2], results[3]) {
		t.Errorf("liability %v, balances %v", results[2], results[3])
	}
}

func filled(model string) string {
	return dbtReference.ReplaceAllStringFunc(model, func(text string) string {
		parts := dbtReference.FindStringSubmatch(text)
		if parts[1] != "" {
			return "mirror." + parts[1]
		}
		return parts[2]
	})
}
