package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
)

// ownerMark is the comment on the table of versions, by which a schema is known as this
// program's. Earlier versions left none.
const ownerMark = `creditmirror: the versions of its schema`

const (
	// owner asks the catalog, which everybody may read. What distinguishes a mirror of an
	// earlier version are two tables that no other program has with these columns.
	owner = `WITH s AS (SELECT oid FROM pg_namespace WHERE nspname = 'creditmirror'),
  t AS (SELECT c.oid, c.relname, c.relkind FROM pg_class AS c JOIN s ON c.relnamespace = s.oid WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')),
  a AS (SELECT t.relname, a.attname FROM t JOIN pg_attribute AS a ON a.attrelid = t.oid AND NOT a.attisdropped)
SELECT current_setting('server_encoding'),
  EXISTS (SELECT 1 FROM t WHERE relname = 'goose_db_version'),
  EXISTS (SELECT 1 FROM t WHERE relname = 'goose_db_version' AND obj_description(oid, 'pg_class') LIKE 'creditmirror: %'),
  EXISTS (SELECT 1 FROM a WHERE relname = 'customer_balance_transactions' AND attname = 'chain_position')
    AND EXISTS (SELECT 1 FROM a WHERE relname = 'sync_state' AND attname = 'epoch'),
  EXISTS (SELECT 1 FROM t WHERE relname <> 'goose_db_version') OR EXISTS (SELECT 1 FROM pg_proc AS p JOIN s ON p.pronamespace = s.oid)`

	anyVersion = `SELECT EXISTS (SELECT 1 FROM creditmirror.goose_db_version WHERE version_id > 0)`

	takeTurn = `SELECT pg_advisory_xact_lock($1)`
	mark     = `COMMENT ON TABLE creditmirror.goose_db_version IS '` + ownerMark + `'`
)

// checkOwner reports whether the schema creditmirror of the database is this program's, or
// has yet to be made, and whether it is marked so. It changes nothing.
func checkOwner(row func(sql string, into ...any) error) (marked bool, err error) {
	var encoding string
	var versions, own, others bool
	if err := row(owner, &encoding, &versions, &marked, &own, &others); err != nil {
		return false, err
	}
	if encoding != "UTF8" {
		return false, fmt.Errorf("the database's encoding is %s, in which not every text of Stripe's can be stored: "+
			"make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0", encoding)
	}
	if marked || versions && own {
		return marked, nil
	}
	if versions && !others {
		if err := row(anyVersion, &others); err != nil {
			others = true // a table of that name that is somebody else's
		}
	}
	if others || own {
		return false, fmt.Errorf("%w: its schema creditmirror holds the tables of another program and was left unchanged: "+
			"give the mirror a database in which there is no such schema", mirror.ErrForeign)
	}
	return false, nil
}

// claim marks the schema as this program's. A role that does not own the tables may
// work on them all the same; they are known by their columns then.
func claim(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() //nolint:errcheck // after a commit there is nothing to undo
	// Comments made at the same time fail.
	if _, err := tx.ExecContext(ctx, takeTurn, migrationLock); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, mark); err != nil {
		if sqlState(err) == "42501" { // insufficient_privilege
			return nil
		}
		return errors.Join(errors.New("mark the schema"), err)
	}
	return tx.Commit()
}
