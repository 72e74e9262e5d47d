package sqlite_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

func TestStore(t *testing.T) {
	mirrortest.Run(t, openHarness)
}

// A column that holds no JSON, which SQL may put there, hinders no sync.
func TestBrokenJSONInAGrant(t *testing.T) {
	t.Parallel()
	h := openHarness(t).(*mirrortest.Harness)
	g := mirror.CreditGrant{
		ID: "credgr_1", Customer: "cus_1", Category: "paid", AmountType: "monetary", Amount: 5, Currency: "eur",
		ApplicabilityConfig: json.RawMessage(`{"scope":{"price_type":"metered"}}`), Raw: json.RawMessage(`{"id":"credgr_1"}`),
	}
	if _, err := h.InsertGrants(t.Context(), "", []mirror.CreditGrant{g}); err != nil {
		t.Fatal(err)
	}
	target := mirror.Target{Scope: mirror.ScopeCredits, ID: "cus_1"}
	for n, config := range []string{`{"scope":{"price_type":"metered"}}`, `{"scope`} {
		if err := h.Exec(t.Context(), `UPDATE credit_grants SET applicability_config = '`+config+`'`); err != nil {
			t.Fatal(err)
		}
		st, err := h.BeginSync(t.Context(), target)
		if err != nil || len(st.Grants) != 1 || st.Grants[0].Metered != (n == 0) {
			t.Fatalf("%s: %+v, %v", config, st, err)
		}
		a, err := h.ApplyCredits(t.Context(), mirror.CreditsSnapshot{
			Target: target, Epoch: st.Epoch, ObservedAt: time.Now(), Joined: true, Full: true, AllGrants: true, Grants: []mirror.CreditGrant{g},
			Windows: []mirror.Window[mirror.CreditTransaction]{{FromHead: true, ToEnd: true}},
		})
		if err != nil || len(a.Repaired) != n {
			t.Fatalf("%s: %+v, %v", config, a, err)
		}
	}
}

func TestBooks(t *testing.T) {
	mirrortest.RunBooks(t, openHarness)
}

// openHarness opens a store over a file of its own.
func openHarness(t *testing.T) mirror.Store {
	path := filepath.Join(memoryDir(t), "mirror.db")
	s := open(t, path)
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &mirrortest.Harness{
		Store: s,
		Query: func(ctx context.Context, query string) ([][]string, error) { return queryText(ctx, db, query) },
		Exec: func(ctx context.Context, query string) error {
			_, err := db.ExecContext(ctx, query)
			return err
		},
		Again: func(t *testing.T) mirror.Store { return open(t, path) },
		Sliced: func(t *testing.T, rows int) mirror.Store {
			s, err := sqlite.Open(t.Context(), path, sqlite.Options{Slice: rows})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			return s
		},
	}
}

// memoryDir is a folder in memory where there is one: the suite commits many
// thousand times, and what a disk's fsync costs says nothing about the store.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "creditmirror")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// open opens and migrates a store, and closes it when the test ends.
func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// queryText reads all values as text, NULL as the empty string.
func queryText(ctx context.Context, db *sql.DB, query string) ([][]string, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var out [][]string
	for rows.Next() {
		values := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		line := make([]string, len(values))
		for i, v := range values {
			if v != nil {
				line[i] = fmt.Sprint(v)
			}
		}
		out = append(out, line)
	}
	return out, rows.Err()
}
