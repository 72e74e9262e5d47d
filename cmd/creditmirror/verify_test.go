package main

import (
	"bytes"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
	"github.com/creditmirror/creditmirror/reconcile"
	books "github.com/creditmirror/creditmirror/report"
)

// verifyRun runs the command and returns its exit code and what it printed.
func verifyRun(t *testing.T, database string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append([]string{"verify"}, args...), []string{"CREDITMIRROR_DATABASE_URL=" + database}, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// verifyMirror makes a true mirror that another process (here: this store) has open.
func verifyMirror(t *testing.T) (database string, exec func(string)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mirror.db")
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = db.Close()
		_ = s.Close()
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirrortest.Populate(t, s)
	copied(t, s)
	return "sqlite:" + path, func(statement string) {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}

// copied has the first copy of the platform's account ended.
func copied(t *testing.T, s reconcile.Checkpoints) {
	t.Helper()
	if err := s.SaveSweep(t.Context(), mirror.Sweep{Name: reconcile.SweepBackfill, StartedAt: time.Now(), LastSuccess: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyReports(t *testing.T) {
	t.Parallel()
	database, exec := verifyMirror(t)
	const header = "kind,account,customer,currency,expected,actual,cause,found_at,repaired_at\n"
	if code, out, errOut := verifyRun(t, database, "--format", "csv"); code != exitFailed || out != header || !strings.Contains(errOut, "--allow-incomplete") {
		t.Errorf("first copies under way: exit %d\n%s\n%s", code, out, errOut)
	}
	for format, want := range map[string]string{"csv": header, "json": "[]\n", "table": "", "": header} {
		args := []string{"--allow-incomplete"}
		if format != "" {
			args = append(args, "--format", format)
		}
		code, out, errOut := verifyRun(t, database, args...)
		if code != exitDone || out != want || !strings.HasPrefix(errOut, "14 customers, 66 balance transactions, 22 credit transactions in ") ||
			!strings.HasSuffix(errOut, ": 0 not proven, 4 customers incomplete\n") {
			t.Errorf("%q: exit %d\n%s\n%s", format, code, out, errOut)
		}
	}

	exec(`UPDATE customers SET balance = -1 WHERE account = 'acct_1' AND id = 'cus_a'`)
	exec(`DELETE FROM customer_balance_transactions WHERE account = '' AND id = 'cbtxn_b00002'`)
	code, out, _ := verifyRun(t, database, "--format", "csv")
	lines, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if code != exitFailed || err != nil || len(lines) != 3 {
		t.Fatalf("exit %d, %v\n%s", code, err, out)
	}
	for i, want := range [][]string{
		{"chain_gap", "", "cus_b", "eur", "-4200", "-4100"}, {"balance_mismatch", "acct_1", "cus_a", "eur", "-440", "-1"},
	} {
		line := lines[i+1]
		if strings.Join(line[:6], "|") != strings.Join(want, "|") || line[6] == "" || len(line[7]) != len("2026-03-01T12:00:00Z") || line[8] != "" {
			t.Errorf("line %d is %q, want %q", i+1, line, want)
		}
	}
	code, out, _ = verifyRun(t, database, "--format", "json")
	var objects []map[string]any
	if err := json.Unmarshal([]byte(out), &objects); err != nil || code != exitFailed || len(objects) != 2 || len(objects[0]) != 9 ||
		objects[0]["kind"] != "chain_gap" || objects[1]["actual"] != "-1" || objects[1]["repaired_at"] != nil {
		t.Errorf("exit %d, %v\n%s", code, err, out)
	}
	code, out, _ = verifyRun(t, database, "--format", "table")
	if table := strings.Split(strings.TrimSpace(out), "\n"); code != exitFailed || len(table) != 3 || !strings.HasPrefix(table[0], "KIND  ") {
		t.Errorf("exit %d\n%s", code, out)
	}
	for _, tt := range []struct {
		args  []string
		code  int
		lines int
	}{
		{[]string{"--customer", "cus_b"}, exitFailed, 2},
		{[]string{"--customer", "cus_zero"}, exitDone, 1},
		{[]string{"--account", "acct_1"}, exitFailed, 2},
		{[]string{"--account", "", "--customer", "cus_a"}, exitDone, 1},
		{[]string{"--account", "acct_1", "--customer", "cus_a"}, exitFailed, 2},
		{[]string{"--customer", "cus_nobody"}, exitFailed, 1},
	} {
		code, out, errOut := verifyRun(t, database, tt.args...)
		if code != tt.code || strings.Count(out, "\n") != tt.lines {
			t.Errorf("%v: exit %d\n%s%s", tt.args, code, out, errOut)
		}
	}
}

// A ledger that is left out, or that the key may not read, is never incomplete.
func TestVerifyOfTheMirroredLedgers(t *testing.T) {
	t.Parallel()
	database, exec := verifyMirror(t)
	exec(`UPDATE sync_state SET history_complete = 0 WHERE scope = 'balance' AND account = 'acct_1' AND customer = 'cus_a'`)
	check := func(what, ledgers string, want int) {
		t.Helper()
		var out, errOut bytes.Buffer
		code := run(t.Context(), []string{"verify", "--account", "acct_1", "--customer", "cus_a"}, []string{"CREDITMIRROR_DATABASE_URL=" + database, "CREDITMIRROR_LEDGERS=" + ledgers}, &out, &errOut)
		if code != want {
			t.Errorf("%s: exit %d, want %d\n%s%s", what, code, want, &out, &errOut)
		}
	}
	check("both", "balance,credits", exitFailed)
	check("balance alone", "balance", exitFailed)
	check("balance left out", "credits", exitDone)
	limit := func(account string) {
		exec(`DELETE FROM sweeps WHERE name = 'limits'`)
		exec(`INSERT INTO sweeps (account, name, state, last_found, synced_at) VALUES ('` + account + `', 'limits', '[{"part":"balance"}]', 0, '2026-03-01T12:00:00.000000Z')`)
	}
	limit("acct_1")
	check("the key may not read it", "balance,credits", exitDone)
	limit("")
	check("the key may not read that of another account", "balance,credits", exitFailed)
}

func TestVerifyWrongUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--format", "xml"},
		{"--account", "cus_1"},
		{"--customer", "cus 1"},
		{"--customer", ""},
		{"extra"},
		{"--no-such"},
		{"--database-url", "mysql://x"},
	} {
		if code, out, errOut := verifyRun(t, "", args...); code != exitUsage || out != "" || errOut == "" {
			t.Errorf("%v: exit %d\n%s%s", args, code, out, errOut)
		}
	}
}

// There is nothing to prove about a database that is not there or is older than
// this program, and verify makes or changes none.
func TestVerifyNeedsAMirror(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none.db")
	code, out, errOut := verifyRun(t, "sqlite:"+path)
	if code != exitFailed || out != "" || !strings.Contains(errOut, path) {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("verify made a database")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errOut := verifyRun(t, "sqlite:"+path); code != exitFailed || out != "" || !strings.Contains(errOut, "migrate") {
		t.Errorf("an empty file: exit %d\n%s%s", code, out, errOut)
	}
}

// Until the first copies have ended customers are missing: whoever waits for verify would go
// on too early.
func TestVerifyOfAnEmptyMirror(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mirror.db")
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := verifyRun(t, "sqlite:"+path); code != exitFailed || !strings.Contains(errOut, "a first copy has not ended") {
		t.Errorf("before the first copy: exit %d\n%s", code, errOut)
	}
	if code, _, errOut := verifyRun(t, "sqlite:"+path, "--allow-incomplete"); code != 0 {
		t.Errorf("allowed: exit %d\n%s", code, errOut)
	}
	begun := mirror.Sweep{Name: reconcile.SweepBackfill, StartedAt: time.Now()}
	for _, want := range []int{exitFailed, 0} { // under way, then of an account without a customer
		if err := s.SaveSweep(t.Context(), begun); err != nil {
			t.Fatal(err)
		}
		if code, _, errOut := verifyRun(t, "sqlite:"+path); code != want {
			t.Errorf("%+v: exit %d, want %d\n%s", begun, code, want, errOut)
		}
		begun.LastSuccess = time.Now()
	}
}

// The day table that long roll-forwards read is proven too.
func TestVerifyProvesTheDayTable(t *testing.T) {
	t.Parallel()
	database, exec := verifyMirror(t)
	s, err := sqlite.Open(t.Context(), strings.TrimPrefix(database, "sqlite:"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := books.Folder{Table: s}
	if done, err := f.Fold(t.Context()); err != nil || done.Rows == 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if code, out, errOut := verifyRun(t, database, "--allow-incomplete"); code != exitDone {
		t.Errorf("a true table: exit %d\n%s%s", code, out, errOut)
	}
	rollforward := []string{"rollforward", "--from", "2026-03-01", "--to", "2026-04-01", "--ledger", "balance", "--account", "", "--currency", "eur", "--allow-gaps", "--format", "csv"}
	environ := []string{"CREDITMIRROR_DATABASE_URL=" + database}
	_, right, _ := cli(t, environ, rollforward...)
	exec(`UPDATE ledger_days SET amount = amount + 5 WHERE account = '' AND ledger = 'balance' AND currency = 'eur'`)
	_, wrong, _ := cli(t, environ, rollforward...)
	if right == wrong {
		t.Error("the roll-forward does not read the table")
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitFailed, "summary_mismatch,,,eur,"},
		{[]string{"--account", ""}, exitFailed, "the day table has a wrong sum of balance adjustment on 2026-03-01; serve rebuilds the table once a day, the rows are right"},
		{[]string{"--account", "acct_1"}, exitDone, "kind,"},
		{[]string{"--customer", "cus_b"}, exitDone, "kind,"}, // it is about all of them
	} {
		code, out, errOut := verifyRun(t, database, append(tt.args, "--allow-incomplete", "--format", "csv")...)
		if code != tt.code || !strings.Contains(out, tt.want) || (strings.Count(out, "\n") > 1) != (code == exitFailed) {
			t.Errorf("%v: exit %d\n%s%s", tt.args, code, out, errOut)
		}
	}
}
