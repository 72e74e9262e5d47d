package postgres

import (
	"slices"
	"testing"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
)

// What is moved is everything there is: a table or column that a migration adds
// must be added to mirror.Tables. Only xact stays: it is this database's own.
func TestTablesAreTheSchema(t *testing.T) {
	t.Parallel()
	s := openStore(t, pgtest.NewDatabase(t))
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := s.pool.Query(t.Context(), `SELECT table_name || '.' || column_name FROM information_schema.columns
WHERE table_schema = 'creditmirror' AND table_name NOT LIKE 'goose%' AND column_name <> 'xact'
AND table_name IN (SELECT table_name FROM information_schema.tables WHERE table_schema = 'creditmirror' AND table_type = 'BASE TABLE')`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var have, want []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		have = append(have, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, table := range mirror.Tables() {
		for _, c := range table.Columns {
			want = append(want, table.Name+"."+c.Name)
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Fatalf("the schema has %v\nmirror.Tables has %v", have, want)
	}
}

// An older serve starts on the schema of a newer one, as docs/operations.md says of
// a downgrade.
func TestMigrateOnANewerSchemaChangesNothing(t *testing.T) {
	t.Parallel()
	s := openStore(t, pgtest.NewDatabase(t))
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(t.Context(), `INSERT INTO creditmirror.goose_db_version (version_id, is_applied) VALUES (99999, true)`); err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatalf("an older program on a newer schema: %v", err)
	}
}
