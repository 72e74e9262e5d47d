package export

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/internal/sqlitetest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/report"
)

// eachStoreByHand is eachStore, with what writes past the mirror's own code; {}. stands
// before the names of its tables.
func eachStoreByHand(t *testing.T, test func(t *testing.T, s store, exec func(statement string))) {
	t.Run("sqlite", func(t *testing.T) {
		s, path := sqlitetest.Open(t)
		db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(60000)")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		test(t, s, func(statement string) {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), strings.ReplaceAll(statement, "{}.", "")); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("postgres", func(t *testing.T) {
		s, conn, _ := openPostgres(t)
		test(t, s, func(statement string) {
			t.Helper()
			if _, err := conn.Exec(t.Context(), strings.ReplaceAll(statement, "{}.", "creditmirror.")); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// openPostgres opens a mirror, and a connection beside it.
func openPostgres(tb testing.TB) (s *postgres.Store, conn *pgx.Conn, url string) {
	tb.Helper()
	url = pgtest.NewDatabase(tb)
	s, err := postgres.Open(tb.Context(), url, postgres.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	if err := s.Migrate(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	if conn, err = pgx.Connect(tb.Context(), url); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return s, conn, url
}

const longAgo = "'2021-03-04T05:06:07.000000Z'"

// rowsThatGo adds a finding and a write of the API, or deletes the oldest ones.
func (h *history) rowsThatGo(exec func(string)) {
	n := fmt.Sprint(h.random.Uint64())
	switch h.random.IntN(3) {
	case 0:
		exec("INSERT INTO {}.drift_findings (account, id, kind, customer, scope, currency, object, expected, actual, cause, found_at, synced_at) VALUES ('', 'drift_" + n +
			"', 'chain_gap', 'cus_000', 'balance', 'eur', 'o" + n + "', '1', '2', 'é', " + longAgo + ", " + longAgo + ")")
		exec("INSERT INTO {}.api_writes (account, id, created, key_name, operation, customer, object, amount, currency, idempotency_key, remote_addr, stripe_request_id, status, outcome, reason, repeated, synced_at) " +
			"VALUES ('', 'req_" + n + "', " + longAgo + ", 'key', 'adjust', 'cus_000', 'o', " + strconv.Itoa(h.random.IntN(1000)-300) + ", 'eur', '', '', '', 200, 'done', '', 0, " + longAgo + ")")
		exec("INSERT INTO {}.changes (account, table_name, customer, id, op, changed_at, synced_at) VALUES ('', 'api_writes', 'cus_000', 'req_" + n + "', 'insert', " + longAgo + ", " + longAgo + ")")
	case 1:
		exec("DELETE FROM {}.drift_findings WHERE id IN (SELECT id FROM {}.drift_findings ORDER BY id LIMIT 2)")
	case 2:
		exec("DELETE FROM {}.api_writes WHERE id IN (SELECT id FROM {}.api_writes ORDER BY id LIMIT 1)")
	}
}

// snapshot is what a mirror held at one generation.
type snapshot struct {
	rows   map[string]map[string]string
	totals map[string]int64 // of balances --total, by account and currency
}

func (h *history) snapshot() snapshot {
	h.t.Helper()
	shot := snapshot{rows: held(h.t, h.s), totals: map[string]int64{}}
	books, ok := h.s.(interface {
		Books(ctx context.Context, fn func(report.Reader) error) error
	})
	if !ok {
		h.t.Fatal("no books")
	}
	err := books.Books(h.t.Context(), func(r report.Reader) error {
		totals, outcome, err := report.Totals(h.t.Context(), r, report.Query{Ledgers: report.Ledgers(report.LedgerBalance), Until: report.Now(h.now.Add(time.Hour))})
		if err != nil {
			return err
		}
		if outcome.Unproven > 0 || outcome.Differing > 0 {
			return fmt.Errorf("balances --total: %+v", outcome)
		}
		for _, t := range totals {
			shot.totals[t.Account+" "+t.Currency] = t.Amount
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return shot
}

// An engine that shares no code with us, given the manifests up to any generation, has
// every row of every table as the mirror had it then, and the sums of balances --total:
// whatever happened in between, deletions included, and wherever exports were killed.
func TestDuckDBReplaysEveryGeneration(t *testing.T) {
	duckdb(t, "SELECT 1") // skips before the work is done
	for seed := range uint64(2) {
		eachStoreByHand(t, func(t *testing.T, s store, exec func(string)) {
			dir := t.TempDir()
			e := newExporter(t, s, dir, Options{})
			h := newHistory(t, s, 100+seed)
			p, err := openFolder(dir, true)
			if err != nil {
				t.Fatal(err)
			}
			shots := map[int64]snapshot{}
			for round := range 14 {
				for range 1 + h.random.IntN(3) {
					h.step()
				}
				h.rowsThatGo(exec)
				e.options.Full = round == 9
				f := &faulty{place: p, left: 1 + h.random.IntN(24), random: h.random}
				if _, err := e.runFiles(t.Context(), f); err != nil && !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				// A generation is there or not, whatever became of the run.
				c, err := readChain(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				for _, g := range c.generations {
					if _, ok := shots[g]; !ok {
						shots[g] = h.snapshot()
					}
				}
			}
			if len(shots) < 5 {
				t.Fatalf("seed %d: only %d generations", seed, len(shots))
			}
			replayInDuckDB(t, dir, shots)
			v, err := Verify(t.Context(), e.location, s, nil)
			if err != nil || len(v.Differences) > 0 || v.Mirror != "compared" {
				t.Errorf("verify: %+v, %v", v, err)
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

// asked is the key under which an answer names its question.
const asked = "(asked)"

// replayInDuckDB opens the copy as it was at each generation by warehouse.sql.
func replayInDuckDB(t *testing.T, dir string, shots map[int64]snapshot) {
	t.Helper()
	tables, err := tablesNamed(nil)
	if err != nil {
		t.Fatal(err)
	}
	generations := slices.Sorted(maps.Keys(shots))
	var statements []string
	for i, g := range generations {
		at := copyAt(t, dir, g)
		if i == 0 {
			statements = warehouse(t, at)
		} else {
			statements = append(statements, "SET VARIABLE credit = '"+at+"'")
		}
		ask := func(what, query string) { // an answer without rows names its question too
			statements = append(statements, query+" UNION ALL SELECT '"+asked+"', '"+fmt.Sprint(what, " ", g)+"'")
		}
		ask("generation", "SELECT 'generation' AS k, max(generation)::VARCHAR AS v FROM mirror.generations")
		for _, table := range tables {
			var key, all []string
			for i, c := range table.Columns {
				value := `"` + c.Name + `"::VARCHAR`
				if c.Kind == mirror.KindTime {
					value = `epoch_us("` + c.Name + `")::VARCHAR`
				}
				value = "coalesce(" + value + ", '<null>')"
				if i < table.Key {
					key = append(key, value)
				}
				all = append(all, "'"+c.Name+"=' || "+value)
			}
			ask(table.Name, "SELECT "+strings.Join(key, " || '/' || ")+" AS k, "+strings.Join(all, " || ' ' || ")+" AS v FROM mirror."+table.Name)
		}
		ask("sums", "SELECT account || ' ' || currency AS k, sum(balance)::VARCHAR AS v FROM mirror.customer_balances GROUP BY ALL HAVING sum(balance) <> 0")
	}
	answers := map[string]map[string]string{}
	for _, rows := range duckdb(t, statements...) {
		list := map[string]string{}
		for _, row := range rows {
			k, v := fmt.Sprint(row["k"]), fmt.Sprint(row["v"])
			if _, twice := list[k]; twice {
				t.Errorf("%s comes twice", k)
			}
			list[k] = v
		}
		if question, ok := list[asked]; ok {
			delete(list, asked)
			answers[question] = list
		}
	}
	for _, g := range generations {
		of := func(what string) map[string]string {
			list, ok := answers[fmt.Sprint(what, " ", g)]
			if !ok {
				t.Fatalf("%s of generation %d was not answered", what, g)
			}
			return list
		}
		if newest := of("generation")["generation"]; newest != fmt.Sprint(g) {
			t.Errorf("the copy at generation %d has %s", g, newest)
		}
		got := map[string]map[string]string{}
		for _, table := range tables {
			got[table.Name] = of(table.Name)
		}
		sameRows(t, got, shots[g].rows)
		want := map[string]string{}
		for key, amount := range shots[g].totals {
			want[key] = fmt.Sprint(amount)
		}
		if sums := of("sums"); !maps.Equal(sums, want) {
			t.Errorf("generation %d: sums of balances %v, balances --total says %v", g, sums, want)
		}
		if t.Failed() {
			t.Fatalf("generation %d", g)
		}
	}
}

// copyAt is the copy as a reader saw it when generation g was the newest: later files
// were being written.
func copyAt(t *testing.T, dir string, g int64) string {
	t.Helper()
	at := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		key, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if of, manifest := generationOf(filepath.ToSlash(key)); manifest && of > g {
			return nil
		}
		to := filepath.Join(at, key)
		return errors.Join(os.MkdirAll(filepath.Dir(to), 0o750), os.Link(path, to))
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}
