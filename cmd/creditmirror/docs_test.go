package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// readDoc reads a document of the repository.
func readDoc(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var sqlBlock = regexp.MustCompile("(?s)```sql( postgres)?\n(.*?)```")

// TestDocumentsOfTheBooks runs the month-end of docs/finance.md and every query of
// docs/sql.md, and holds the views against the commands.
func TestDocumentsOfTheBooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, threeYears, 11)
	for name, environ := range mirrors(t, w) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backfilled(t, environ)
			exec := sqlOf(t, environ)
			steps := 0
			for line := range strings.Lines(readDoc(t, "finance.md")) {
				command, ok := strings.CutPrefix(strings.TrimSpace(line), "creditmirror ")
				if !ok {
					continue
				}
				steps++
				args := strings.Fields(strings.ReplaceAll(command, "$CUSTOMER", w.sim.Truth()[0].ID))
				code, out, errOut := cli(t, environ, args...)
				if code != 0 || out == "" {
					t.Errorf("%s: exit %d\n%s%s", command, code, out, errOut)
				}
			}
			if steps < 11 {
				t.Errorf("only %d commands in docs/finance.md", steps)
			}
			blocks := sqlBlock.FindAllStringSubmatch(readDoc(t, "sql.md"), -1)
			if len(blocks) < 12 {
				t.Fatalf("only %d queries in docs/sql.md", len(blocks))
			}
			for _, b := range blocks {
				if b[1] == "" {
					exec(b[2])
				} else if name == "postgres" {
					exec(strings.ReplaceAll("BEGIN; "+b[2]+" ROLLBACK", "creditmirror_reader", "creditmirror_reader_of_a_test"))
				}
			}
			views(t, environ)
		})
	}
}

// views holds v_balances against the command.
func views(t *testing.T, environ []string) {
	t.Helper()
	held := queryOf(t, environ, `SELECT account, customer, ledger, currency, amount FROM v_balances WHERE amount <> 0
ORDER BY account, customer, ledger, currency`)
	var want []string
	for _, r := range table(t, environ, "balances") {
		want = append(want, strings.Join(r[:5], ","))
	}
	slices.Sort(want)
	slices.Sort(held)
	if !slices.Equal(held, want) || len(held) < 20 {
		t.Errorf("v_balances has %d rows, balances %d:\n%v\n%v", len(held), len(want), held, want)
	}
	total := queryOf(t, environ, `SELECT d.account, d.ledger, d.currency, d.amount FROM v_liability_daily d
WHERE d.day = (SELECT max(m.day) FROM v_liability_daily m WHERE m.account = d.account AND m.ledger = d.ledger AND m.currency = d.currency)
  AND d.amount <> 0 ORDER BY d.account, d.ledger, d.currency`)
	want = nil
	for _, r := range table(t, environ, "balances", "--total", "--as-of", time.Now().AddDate(3, 0, 0).Format(time.DateOnly)) {
		want = append(want, strings.Join([]string{r[0], r[1], r[2], r[4]}, ","))
	}
	if !slices.Equal(total, want) {
		t.Errorf("v_liability_daily ends at\n%v\nwant\n%v", total, want)
	}
}
