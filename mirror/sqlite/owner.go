package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/creditmirror/creditmirror/mirror"
)

// applicationID is in the header of every file of ours, where SQLite keeps a place for
// it: the letters "crmr". file(1) and others show it. Earlier versions left it 0.
const applicationID = 0x63726d72

const (
	// othersTables are those of anybody; goose's alone, without a version, is what a
	// first start leaves that was cut off.
	othersTables = `SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~' AND name <> 'goose_db_version'`
	// ownTables are two that no other program has with these columns, and goose's: the
	// marks of a mirror that was made before files had an applicationID.
	ownTables = `SELECT
  EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'goose_db_version')
  AND EXISTS (SELECT 1 FROM pragma_table_info('customer_balance_transactions') WHERE name = 'chain_position')
  AND EXISTS (SELECT 1 FROM pragma_table_info('sync_state') WHERE name = 'epoch')`
	gooseVersions = `SELECT count(*) FROM goose_db_version WHERE version_id > 0`
)

// checkOwner reports whether the file is this program's or empty, and changes nothing.
func checkOwner(ctx context.Context, path string) error {
	// Whoever closes a file last copies its log into it and deletes the log. So it is only
	// read where there is a log; where there is none, one that only reads would leave a
	// new one behind.
	mode := "rw"
	if _, err := os.Stat(path + "-wal"); err == nil {
		mode = "ro"
	}
	err := lookForOwner(ctx, path, mode)
	if c := code(err); mode == "ro" && (c == sqlite3.SQLITE_READONLY || c == sqlite3.SQLITE_CANTOPEN) {
		err = lookForOwner(ctx, path, "rw") // what a killed process left can only be read by who may mend it
	}
	return err
}

func lookForOwner(ctx context.Context, path, mode string) (err error) {
	q := url.Values{"mode": {mode}, "_pragma": {"busy_timeout(5000)"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: q.Encode()}).String())
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // another process may be making the tables
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() //nolint:errcheck // it read
	var id uint32
	if err := tx.QueryRowContext(ctx, `SELECT application_id & 0xffffffff FROM pragma_application_id`).Scan(&id); err != nil || id == applicationID {
		return err
	}
	var others, versions int
	var own bool
	if err := tx.QueryRowContext(ctx, othersTables).Scan(&others); err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, ownTables).Scan(&own); err != nil {
		return err
	}
	var goose bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'goose_db_version')`).Scan(&goose); err != nil {
		return err
	}
	if goose && !own {
		if err := tx.QueryRowContext(ctx, gooseVersions).Scan(&versions); err != nil {
			versions = 1 // a table of that name that is not goose's
		}
	}
	if id == 0 && (own || others == 0 && versions == 0) {
		return nil
	}
	return foreign(path)
}

func foreign(path string) error {
	return fmt.Errorf("%w: %s holds the tables of another program and was left unchanged: "+
		"set CREDITMIRROR_DATABASE_URL to a file of its own, such as sqlite:creditmirror.db", mirror.ErrForeign, path)
}

// claim marks the file as this program's. Files of earlier versions are marked too.
func (s *Store) claim(ctx context.Context) error {
	return s.w.do(ctx, durable, func(tx *tx) error {
		var id uint32
		if _, err := tx.row(`SELECT application_id & 0xffffffff FROM pragma_application_id`, nil, &id); err != nil || id == applicationID {
			return err
		}
		return tx.exec(fmt.Sprintf(`PRAGMA application_id = %d`, applicationID))
	})
}
