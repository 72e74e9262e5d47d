package export

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/internal/pgtest"
)

// The SQL that docs/warehouse.md gives for PostgreSQL loads every generation of CSV
// files, in order and once more, and gives the sums of the manifest's totals.
func TestPostgreSQLLoadsFilesAsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/warehouse.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(doc), "\nPostgreSQL (run by our tests)")
	block := regexp.MustCompile("(?s)```sql\n(.*?)```").FindStringSubmatch(text)
	if block == nil {
		t.Fatal("docs/warehouse.md has no SQL for PostgreSQL")
	}
	const example = "customer_balance_transactions/month=2026-11/g000042-0001.csv.gz"
	if strings.Count(block[1], example) != 1 {
		t.Fatalf("the SQL does not read %s once", example)
	}
	eachStore(t, func(t *testing.T, s store) {
		dir, url := t.TempDir(), pgtest.NewDatabase(t)
		h := newHistory(t, s, 83)
		var manifests []Manifest
		for range 4 {
			for range 12 {
				h.step()
			}
			r, err := newExporter(t, s, dir, Options{Format: CSV}).Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if r.Manifest != nil {
				manifests = append(manifests, *r.Manifest)
			}
		}
		load := func(m Manifest) {
			t.Helper()
			for _, f := range m.Files {
				if f.Table != "customer_balance_transactions" {
					continue
				}
				file := filepath.Join(t.TempDir(), "load.sql")
				if err := os.WriteFile(file, []byte(strings.Replace(block[1], example, f.Path, 1)), 0o600); err != nil {
					t.Fatal(err)
				}
				psql := exec.CommandContext(t.Context(), pgtest.Binary(t, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file, url) // of the test
				psql.Dir = dir
				if out, err := psql.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", f.Path, err, out)
				}
			}
		}
		for _, m := range manifests {
			load(m)
		}
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		state := func() (edited int64, digest string) {
			t.Helper()
			err := conn.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE description LIKE 'edited%'),
  md5(string_agg(concat(id, _position, description), ',' ORDER BY account, customer, id)) FROM customer_balance_transactions`).Scan(&edited, &digest)
			if err != nil {
				t.Fatal(err)
			}
			return edited, digest
		}
		edited, before := state()
		last := manifests[len(manifests)-1]
		load(manifests[1])
		load(last)
		if _, after := state(); edited == 0 || after != before {
			t.Errorf("%d rows were edited; generations that were read again changed something: %t", edited, after != before)
		}
		rows, err := conn.Query(t.Context(), "SELECT currency, count(*), sum(amount)::bigint FROM customer_balance_transactions GROUP BY currency")
		if err != nil {
			t.Fatal(err)
		}
		var currency string
		var n, sum, all int64
		sums := map[string]int64{}
		if _, err := pgx.ForEachRow(rows, []any{&currency, &n, &sum}, func() error {
			all += n
			sums[currency] = sum
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		want := last.Totals["customer_balance_transactions"]
		if all != want.Rows || !maps.Equal(sums, want.Sums) {
			t.Errorf("loaded %d rows, %v; the mirror has %d, %v", all, sums, want.Rows, want.Sums)
		}
	})
}
