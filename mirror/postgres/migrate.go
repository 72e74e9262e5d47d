package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	versionTable = "creditmirror.goose_db_version"
	// migrationLock is the advisory lock that replicas take in turn to migrate.
	migrationLock int64 = 0x6372656469746d72 // "creditmr"
	// migrationLockWait is how many times, a second apart, a replica asks for the
	// lock before it gives up.
	migrationLockWait = 600
	migrationLockStep = time.Second
	// migrationLockTimeout keeps a migration from blocking everybody else while it
	// waits behind a long transaction: it gives up its place and asks again.
	migrationLockTimeout = 2 * time.Second
	migrationAttempts    = 10
)

const (
	schemaExists = `SELECT to_regnamespace('creditmirror') IS NOT NULL`
	createSchema = `CREATE SCHEMA IF NOT EXISTS creditmirror`
	heldVersion  = `SELECT coalesce(max(version_id), 0) FROM creditmirror.goose_db_version WHERE is_applied`
)

// Migrate brings the schema to this program's version. A migration that could
// not get a table lock in time is rolled back and tried again.
func (s *Store) Migrate(ctx context.Context) error { return advise(s.migrate(ctx)) }

func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	config := s.migration.Copy()
	if err := s.pooler.prepare(ctx, config); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		return limitTimes(ctx, c, []timeLimit{
			{"lock_timeout", migrationLockTimeout},
			{"statement_timeout", 0}, // an index on a big table takes its time
		})
	}))
	defer db.Close()
	marked, err := checkOwner(func(sql string, into ...any) error { return db.QueryRowContext(ctx, sql).Scan(into...) })
	if err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	if err := ensureSchema(ctx, db); err != nil {
		return fmt.Errorf("create schema creditmirror: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(versionTable), goose.WithSessionLocker(&turn{db: db}), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	for attempt := 1; ; attempt++ {
		failpoint.Hit("migrate.locked")
		_, err := provider.Up(ctx)
		failpoint.Hit("migrate.done")
		if err == nil && !marked {
			err = claim(ctx, db)
		}
		if err == nil {
			err = adoptForeignChanges(ctx, db)
		}
		if err == nil {
			err = beginTotalChanges(ctx, db)
		}
		if err == nil {
			return nil
		}
		if attempt == migrationAttempts || !retryable(err) {
			return fmt.Errorf("migrate the database: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("migrate the database: %w", err)
		case <-time.After(migrationLockTimeout / 2):
		}
	}
}

// turn is goose's lock over a migration: a transaction of a connection of its own, which
// does nothing else. Locks of a session would stay on a pooler's connection for whoever
// gets that next.
type turn struct {
	db *sql.DB
	tx *sql.Tx
}

const (
	waitIdle = `SELECT set_config('idle_in_transaction_session_timeout', '0', true)`
	askTurn  = `SELECT pg_try_advisory_xact_lock($1)`
)

// SessionLock waits for the turn. The connection that migrates takes no part.
func (t *turn) SessionLock(ctx context.Context, _ *sql.Conn) error {
	for attempt := 1; ; attempt++ {
		tx, err := t.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		var mine bool
		_, err = tx.ExecContext(ctx, waitIdle)
		if err == nil {
			err = tx.QueryRowContext(ctx, askTurn, migrationLock).Scan(&mine)
		}
		if err == nil && mine {
			t.tx = tx
			return nil
		}
		_ = tx.Rollback() //nolint:errcheck // there is nothing to undo
		if err == nil && attempt == migrationLockWait {
			err = errors.New("another process is migrating the database and has not finished")
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another process is migrating the database: %w", ctx.Err())
		case <-time.After(migrationLockStep):
		}
	}
}

// SessionUnlock ends the turn.
func (t *turn) SessionUnlock(context.Context, *sql.Conn) error { return t.tx.Rollback() }

const (
	// foreignChanges reports whether the change feed of an account ends with a
	// transaction that this server has yet to count to.
	foreignChanges = `WITH RECURSIVE a (account) AS (
  (SELECT account FROM creditmirror.changes ORDER BY account LIMIT 1)
  UNION ALL
  SELECT (SELECT c.account FROM creditmirror.changes AS c WHERE c.account > a.account ORDER BY c.account LIMIT 1) FROM a WHERE a.account IS NOT NULL
)
SELECT EXISTS (
  SELECT 1 FROM a CROSS JOIN LATERAL (
    SELECT c.xact FROM creditmirror.changes AS c WHERE c.account = a.account ORDER BY c.xact DESC, c.seq DESC LIMIT 1
  ) AS newest WHERE newest.xact >= pg_snapshot_xmax(pg_current_snapshot()))`

	dropForeignTotals = `DELETE FROM creditmirror.total_changes WHERE xact >= pg_snapshot_xmax(pg_current_snapshot())`

	adoptChanges = `UPDATE creditmirror.changes SET xact = pg_current_xact_id() WHERE xact >= pg_snapshot_xmax(pg_current_snapshot())`
)

// beginTotalChanges records since when changes of totals are recorded, once. Those that
// a backup brought from a server with higher transaction numbers are of no use here.
func beginTotalChanges(ctx context.Context, db *sql.DB) error {
	for _, statement := range []string{dropForeignTotals, beginTotals} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// adoptForeignChanges gives the records of the change feed that a backup brought from a
// server with higher transaction numbers a number of this one. Otherwise they would
// not be shown for years, and new ones would come before those that were read.
func adoptForeignChanges(ctx context.Context, db *sql.DB) error {
	var foreign bool
	if err := db.QueryRowContext(ctx, foreignChanges).Scan(&foreign); err != nil || !foreign {
		return err
	}
	_, err := db.ExecContext(ctx, adoptChanges)
	return err
}

// ensureSchema makes the schema that the version table lives in. It asks first,
// because a role that may not create schemas can work in one made for it.
func ensureSchema(ctx context.Context, db *sql.DB) error {
	var exists bool
	for {
		if err := db.QueryRowContext(ctx, schemaExists).Scan(&exists); err != nil || exists {
			return err
		}
		_, err := db.ExecContext(ctx, createSchema)
		// IF NOT EXISTS does not see a schema that another replica is just making.
		if state := sqlState(err); state != "23505" && state != "42P06" {
			return err
		}
	}
}

// CheckSchema compares the database's version with the newest of this program.
func (s *Store) CheckSchema(ctx context.Context) error { return advise(s.checkSchema(ctx)) }

func (s *Store) checkSchema(ctx context.Context) error {
	want, err := ownVersion()
	if err != nil {
		return err
	}
	if _, err := checkOwner(func(sql string, into ...any) error { return s.pool.QueryRow(ctx, sql).Scan(into...) }); err != nil {
		return fmt.Errorf("check the schema: %w", err)
	}
	var have int64
	err = s.pool.QueryRow(ctx, heldVersion).Scan(&have)
	if state := sqlState(err); state == "42P01" || state == "3F000" { // no such table, no such schema
		err = nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("read the schema's version: %w", err)
	case have < want:
		return fmt.Errorf("%w: the database is at version %d, this program needs %d; run creditmirror migrate", mirror.ErrSchema, have, want)
	case have > want:
		return fmt.Errorf("%w: the database is at version %d, this program knows only %d; run a newer creditmirror", mirror.ErrSchema, have, want)
	}
	return nil
}

// ownVersion is the newest version among the embedded migrations.
func ownVersion() (int64, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		return 0, errors.Join(errors.New("no migrations are built in"), err)
	}
	return goose.NumericComponent(names[len(names)-1])
}
