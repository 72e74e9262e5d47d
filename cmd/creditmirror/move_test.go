package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	_ "modernc.org/sqlite" // the driver, to read files past the program

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
)

// fromSQLite and fromPostgres read a table by SQL of the test's own, so that what
// the program says of its copy is not what proves it.
func fromSQLite(t *testing.T, path, table string) []string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var columns string
	if err := db.QueryRowContext(t.Context(), `SELECT group_concat(char(39) || name || char(39) || ', "' || name || '"', ', ') FROM pragma_table_info(?)`, table).Scan(&columns); err != nil {
		t.Fatal(err)
	}
	for _, blob := range []string{"payload"} {
		columns = strings.ReplaceAll(columns, `"`+blob+`"`, `lower(hex("`+blob+`"))`)
	}
	return scan(t, func() (next func() bool, scan func(...any) error, done func() error, err error) {
		rows, err := db.QueryContext(t.Context(), `SELECT json_object(`+columns+`) FROM `+table)
		return rows.Next, rows.Scan, func() error { return sql.ErrNoRows }, err
	})
}

func fromPostgres(t *testing.T, url, table string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	drop := "'{}'"
	if table == "changes" {
		drop = "'{xact}'"
	}
	return scan(t, func() (next func() bool, scan func(...any) error, done func() error, err error) {
		rows, err := conn.Query(t.Context(), `SELECT (to_jsonb(r) - `+drop+`::text[])::text FROM creditmirror.`+table+` AS r`)
		return rows.Next, rows.Scan, rows.Err, err
	})
}

func scan(t *testing.T, query func() (func() bool, func(...any) error, func() error, error)) (list []string) {
	t.Helper()
	next, read, _, err := query()
	if err != nil {
		t.Fatal(err)
	}
	for next() {
		var text string
		if err := read(&text); err != nil {
			t.Fatal(err)
		}
		list = append(list, plainRow(t, text))
	}
	slices.Sort(list)
	return list
}

// plainRow writes a row of either database in one way: times of a form, booleans as
// numbers, JSON inside text as JSON.
func plainRow(t *testing.T, text string) string {
	t.Helper()
	var row map[string]any
	if err := json.Unmarshal([]byte(text), &row); err != nil {
		t.Fatal(err)
	}
	for name, v := range row {
		switch v := v.(type) {
		case bool:
			row[name] = map[bool]float64{true: 1}[v]
		case string:
			v = strings.TrimPrefix(v, `\x`)
			if len(v) > 19 && v[4] == '-' && v[10] == 'T' {
				v = strings.TrimSuffix(strings.TrimSuffix(v, "Z"), "+00:00")
				if i := strings.IndexByte(v, '.'); i >= 0 {
					v = strings.TrimRight(strings.TrimRight(v, "0"), ".")
				}
			}
			row[name] = v
			var inner any
			if strings.HasPrefix(v, "{") || strings.HasPrefix(v, "[") {
				if json.Unmarshal([]byte(v), &inner) == nil {
					row[name] = inner
				}
			}
		}
	}
	out, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A mirror with both ledgers, events, findings and dead letters goes to PostgreSQL
// and back; every table of the three is the same, row by row and value by value.
func TestMoveBetweenDatabases(t *testing.T) {
	server := pgtest.Start(t)
	url := server.NewDatabase(t)
	dir := t.TempDir()
	if code, out, errOut := cli(t, nil, strings.Fields("demo --for 4s --customers 60 --rate 50 --chaos --seed 11 --data "+dir)...); code != 0 {
		t.Fatalf("demo: exit %d\n%s\n%s", code, out, errOut)
	}
	first, third := filepath.Join(dir, "mirror.db"), filepath.Join(dir, "back.db")
	plant(t, first)

	steps := []struct{ from, to string }{{"sqlite:" + first, url}, {url, "sqlite:" + third}}
	for _, s := range steps {
		code, out, errOut := cli(t, nil, "migrate", "--from", s.from, "--to", s.to)
		if code != 0 || !strings.Contains(errOut, "the same") {
			t.Fatalf("move: exit %d\n%s\n%s", code, out, errOut)
		}
	}
	total := 0
	for _, table := range mirror.Tables() {
		if table.Derived() {
			continue
		}
		a, b, c := fromSQLite(t, first, table.Name), fromPostgres(t, url, table.Name), fromSQLite(t, third, table.Name)
		if table.Name == "leases" || table.Name == "export_cursors" || table.Name == "console_sessions" { // of one database
			continue
		}
		total += len(a)
		if len(a) == 0 && table.Name != "accounts" {
			t.Errorf("%s has no rows to prove anything by", table.Name)
		}
		for where, other := range map[string][]string{"PostgreSQL": b, "SQLite again": c} {
			if !slices.Equal(a, other) {
				i := 0
				for i < min(len(a), len(other)) && a[i] == other[i] {
					i++
				}
				t.Errorf("%s: %d rows, %s has %d; the first that differs:\n%s\n%s", table.Name, len(a), where, len(other), at(a, i), at(other, i))
			}
		}
	}
	t.Logf("%d rows in %d tables are the same three times", total, len(mirror.Tables())-1)

	// The program works on it: the ledgers prove themselves, and new rows of the
	// numbered tables get new numbers.
	environ := []string{"CREDITMIRROR_DATABASE_URL=" + url}
	if code, out, errOut := cli(t, environ, "verify"); code != 0 {
		t.Errorf("verify: exit %d\n%s\n%s", code, out, errOut)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var last, next int64
	for _, seq := range []string{"changes", "stripe_events"} {
		if err := conn.QueryRow(t.Context(), fmt.Sprintf(`SELECT max(seq), nextval('creditmirror.%s_seq') FROM creditmirror.%s`, seq, seq)).Scan(&last, &next); err != nil || next <= last {
			t.Errorf("%s: the next number is %d, the last used %d: %v", seq, next, last, err)
		}
	}

	// Never over what is there, and the message says whose fault it is.
	if code, _, errOut := cli(t, environ, "migrate", "--from", "sqlite:"+first); code != 1 || !strings.Contains(errOut, "not empty") {
		t.Errorf("into a full one: exit %d, %s", code, errOut)
	}
	if code, _, errOut := cli(t, environ, "migrate", "--from", url); code != 2 || !strings.Contains(errOut, "same database") || strings.Contains(errOut, url) {
		t.Errorf("into itself: exit %d, %s", code, errOut)
	}
}

func at(list []string, i int) string {
	if i >= len(list) {
		return "(none)"
	}
	return list[i]
}

// plant adds what a short demo does not leave behind, with the values that are the
// hardest to carry over.
func plant(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range []string{
		`INSERT INTO dead_letters VALUES ('', 'dead_1', 'cus_x', 'balance', 'a reason with "quotes", ünïcode and a' || char(10) || 'line', 12, '["evt_1"]', x'00ff10', '2026-01-01T00:00:00.000001Z', '2026-01-01T00:00:00.999999Z', NULL, '2026-01-01T00:00:00.000000Z', 'a reason')`,
		`INSERT INTO dead_letters VALUES ('acct_1', 'dead_2', '', '', '', 0, '[]', x'', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.100000Z', '9999-12-31T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z', '')`,
		`INSERT INTO drift_findings VALUES ('', 'drift_plant', 'field_mismatch', 'cus_x', 'balance', '', 'cbtxn_x', '9223372036854775807', '-9223372036854775808', 'unknown', '2026-01-01T00:00:00.000000Z', NULL, '2026-01-01T00:00:00.000000Z', 1)`,
		`INSERT INTO operator_actions VALUES ('acct_1', 'act_1', '2026-01-01T00:00:00.000001Z', 'on-call', '192.0.2.1', 'sync', 'cus_x', '', 'a customer "asked"', 'done', 1, '', '2026-01-01T00:00:00.000000Z')`,
		`INSERT INTO accounts VALUES ('acct_1', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z')`,
		`INSERT INTO api_writes VALUES ('acct_1', 'req_1', '2026-01-01T00:00:00.000001Z', 'billing', 'adjust', 'cus_x', 'cbtxn_x', -9223372036854775808, 'usd', 'abc', '192.0.2.1', 'req_s', 200, 'done', '', 7, '2026-01-01T00:00:00.000000Z'),
			('', 'req_2', '2026-01-01T00:00:00.000002Z', '', '', '', '', NULL, NULL, '', '', '', 401, 'refused', 'wrong_key', 0, '2026-01-01T00:00:00.000000Z')`,
		`INSERT INTO api_write_intents VALUES ('acct_1', 'req_3', '2026-01-01T00:00:00.000001Z', 'billing', 'void', 'cus_x', 'credgr_x', NULL, NULL, 'abc', '192.0.2.1', '2026-01-01T00:00:00.000000Z')`,
		`INSERT INTO test_clocks VALUES ('acct_1', 'clock_1', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z')`,
		`INSERT INTO closed_periods VALUES ('acct_1', '2026-01', 1, 'balance', 'usd', '2026-01-01T00:00:00.000000Z', '2026-02-01T00:00:00.000000Z', -5, 3, 'abc', 0, '7', '2026-02-01T00:00:00.000001Z', '2026-02-02T00:00:00.000000Z', 'late rows', '2026-01-01T00:00:00.000000Z')`,
		`INSERT INTO api_key_uses VALUES ('', 'billing', '2026-01-01T00:00:00.000001Z', '2026-01-01T00:00:00.000000Z')`,
		`DELETE FROM leases`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}
