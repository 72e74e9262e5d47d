package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrator is a goose provider over a connection of its own.
func (s *Store) migrator() (*goose.Provider, *sql.DB, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, nil, err
	}
	db, err := sql.Open("sqlite", dsn(s.path, "busy_timeout(5000)", "synchronous(FULL)"))
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files,
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return p, db, nil
}

// Migrate brings the schema to this program's version.
func (s *Store) Migrate(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return fmt.Errorf("migrate the database: %w", s.explain(err))
	}
	return nil
}

func (s *Store) migrate(ctx context.Context) (err error) {
	p, db, err := s.migrator()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	have, want, err := s.versions(ctx, p)
	if err != nil {
		return err
	}
	if have > want {
		return s.schemaError(have, want)
	}
	if err := s.claim(ctx); err != nil || have == want {
		return err
	}
	unlock, err := s.lockMigration(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	failpoint.Hit("migrate.locked")
	// Whoever had the lock before may have done it; goose looks again.
	_, err = p.Up(ctx)
	failpoint.Hit("migrate.done")
	return err
}

// lockMigration takes a lock that all processes respect and that dies with its
// holder: a write lock on an empty database beside the mirror. The mirror's own
// write lock can't serve, because each migration takes and releases it.
func (s *Store) lockMigration(ctx context.Context) (unlock func() error, err error) {
	db, err := sql.Open("sqlite", dsn(s.path+"-migrate", fmt.Sprintf("busy_timeout(%d)", busySlice)))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	for {
		conn, err := db.Conn(ctx)
		if err == nil {
			_, err = conn.ExecContext(ctx, `BEGIN EXCLUSIVE`)
			if err == nil {
				return func() error {
					_, err := conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
					return errors.Join(err, conn.Close(), db.Close())
				}, nil
			}
			err = errors.Join(err, conn.Close())
		}
		if !busy(err) {
			return nil, errors.Join(err, db.Close())
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil, errors.Join(fmt.Errorf("another process is migrating the database: %w", ctx.Err()), db.Close())
		case <-pause.C:
		}
	}
}

// CheckSchema compares the schema's version with this program's.
func (s *Store) CheckSchema(ctx context.Context) (err error) {
	p, db, err := s.migrator()
	if err != nil {
		return fmt.Errorf("check the schema: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	have, want, err := s.versions(ctx, p)
	if err != nil {
		return fmt.Errorf("check the schema: %w", s.explain(err))
	}
	if have != want {
		return s.schemaError(have, want)
	}
	return nil
}

func (s *Store) schemaError(have, want int64) error {
	if have > want {
		return fmt.Errorf("%w: %s is at version %d, this program knows only %d; run a newer creditmirror", mirror.ErrSchema, s.path, have, want)
	}
	return fmt.Errorf("%w: %s is at version %d, this program needs %d; run creditmirror migrate", mirror.ErrSchema, s.path, have, want)
}

// schemaVersion is the newest migration that ran.
const schemaVersion = `SELECT ifnull(max(version_id), 0) FROM goose_db_version WHERE is_applied`

// versions returns the schema's version and this program's. It only reads, which
// goose's own question does not: it would create the table.
func (s *Store) versions(ctx context.Context, p *goose.Provider) (have, want int64, err error) {
	for _, source := range p.ListSources() {
		want = max(want, source.Version)
	}
	err = s.readers.QueryRowContext(ctx, schemaVersion).Scan(&have)
	if err != nil && strings.Contains(err.Error(), "no such table") {
		return 0, want, nil
	}
	return have, want, err
}
