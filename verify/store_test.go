package verify_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// column is one that the database's catalogue has.
type column struct {
	name     string
	nullable bool
}

// database is a mirror under test, and SQL beside it.
type database struct {
	store interface {
		mirror.Store
		mirror.Auditor
	}
	exec func(statement string) error
	// columns lists the columns of a table, from the database's catalogue.
	columns func(table string) ([]column, error)
}

// mustExec runs SQL that both databases understand.
func (d *database) mustExec(t testing.TB, statement string) {
	t.Helper()
	if err := d.exec(statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// drivers open a new and empty mirror each.
var drivers = []struct {
	name string
	open func(t testing.TB) *database
}{
	{"sqlite", openSQLite},
	{"postgres", openPostgres},
}

func openSQLite(t testing.TB) *database {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mirror.db")
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)&_pragma=synchronous(0)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		_ = db.Close()
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec := func(statement string) error {
		_, err := db.ExecContext(context.Background(), statement)
		return err
	}
	return &database{s, exec, func(table string) (list []column, err error) {
		rows, err := db.QueryContext(context.Background(), `SELECT name, NOT "notnull" FROM pragma_table_info(?) ORDER BY cid`, table)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var c column
			if err := rows.Scan(&c.name, &c.nullable); err != nil {
				return nil, err
			}
			list = append(list, c)
		}
		return list, rows.Err()
	}}
}

func migrate(url string) error {
	s, err := postgres.Open(context.Background(), url, postgres.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	return s.Migrate(context.Background())
}

func openPostgres(t testing.TB) *database {
	t.Helper()
	url := pgtest.NewCopy(t, migrate)
	s, err := postgres.Open(t.Context(), url, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = "creditmirror"
	config.RuntimeParams["timezone"] = "UTC"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close(context.Background())
		_ = s.Close()
	})
	exec := func(statement string) error {
		_, err := conn.Exec(context.Background(), statement)
		return err
	}
	return &database{s, exec, func(table string) ([]column, error) {
		rows, err := conn.Query(context.Background(), `SELECT column_name::text, is_nullable = 'YES' FROM information_schema.columns
WHERE table_schema = 'creditmirror' AND table_name = $1 ORDER BY ordinal_position`, table)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, func(row pgx.CollectableRow) (c column, err error) {
			err = row.Scan(&c.name, &c.nullable)
			return c, err
		})
	}}
}

// brief is a finding without what it says in words.
func brief(f mirror.Finding) string {
	return strings.Join([]string{
		string(f.Kind), f.Account, f.Customer, f.Currency, f.Object, f.Expected, f.Actual,
	}, "|")
}
