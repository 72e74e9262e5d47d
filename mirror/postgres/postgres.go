// Package postgres keeps the mirror in PostgreSQL, in the schema creditmirror.
//
// Writes of synced state are one transaction in two round trips: BEGIN travels
// with the reads, COMMIT with the writes. A read of several statements is one
// read-only snapshot in one round trip. Every name in SQL carries its schema,
// so nothing depends on search_path.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/creditmirror/creditmirror/mirror"
)

// Options tune a Store. The zero value is good.
type Options struct {
	// Workers is how many syncs run at once; the pool is made to fit them.
	Workers int
	// MaxConns is the size of the pool. Defaults to pool_max_conns of the URL, or
	// else to Workers+4, at least 8.
	MaxConns int
	// StatementTimeout ends a statement that runs longer. Defaults to 30 s.
	StatementTimeout time.Duration
	// LockTimeout ends a statement that waits longer for a lock; the write is then
	// tried again a few times. Defaults to 5 s.
	LockTimeout time.Duration
	// Slice is how many rows of a long history one transaction places. Defaults to
	// mirror.DefaultSlice.
	Slice int
}

const (
	minPool                 = 8
	sparePool               = 4 // beside the workers: receiver, sweeps, API
	defaultStatementTimeout = 30 * time.Second
	defaultLockTimeout      = 5 * time.Second
	connectTimeout          = 5 * time.Second
	// idleTransactionTimeout ends the transaction of a process that hangs between
	// its reads and its writes, and with it the locks it holds.
	idleTransactionTimeout = 60 * time.Second
	applicationName        = "creditmirror"
)

// Store is a mirror.Store in PostgreSQL.
type Store struct {
	pool *pgxpool.Pool
	// migration is the connection that Migrate uses, with time limits of its own.
	migration *pgx.ConnConfig
	// pinned is the connection of a Snapshot, in its transaction; else nil.
	pinned *pgx.Conn
	pooler *pooler
	// limits are the time limits, for transactions behind a pooler.
	limits []timeLimit
	// slice is Options.Slice.
	slice int
	// balances and credits give the planner the number of rows that pieces of histories bring.
	balances, credits *growth
}

// db is where statements of reads go.
func (s *Store) db() interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
} {
	if s.pinned != nil {
		return s.pinned
	}
	return s.pool
}

var _ mirror.Store = (*Store)(nil)

// Open prepares a store for the database at a postgres:// URL. It does not
// connect: a database that is down now and up later is no reason to start anew.
func Open(ctx context.Context, databaseURL string, opts Options) (*Store, error) {
	return open(ctx, databaseURL, opts, func(*pgxpool.Config) {})
}

// open lets tests look at the connections.
func open(ctx context.Context, databaseURL string, opts Options, adjust func(*pgxpool.Config)) (*Store, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, urlError(err)
	}
	switch {
	case opts.MaxConns > 0:
		config.MaxConns = int32(min(opts.MaxConns, 1<<15))
	case !strings.Contains(databaseURL, "pool_max_conns"):
		config.MaxConns = int32(min(max(opts.Workers+sparePool, minPool), 1<<15))
	}
	conn := config.ConnConfig
	if conn.ConnectTimeout == 0 {
		conn.ConnectTimeout = connectTimeout
	}
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = applicationName
	}
	config.MaxConnLifetimeJitter = config.MaxConnLifetime / 10 // replicas must not reconnect all at once
	pooler, err := newPooler(conn)
	if err != nil {
		return nil, err
	}
	migration := conn.Copy()
	limits := []timeLimit{
		{"statement_timeout", positive(opts.StatementTimeout, defaultStatementTimeout)},
		{"lock_timeout", positive(opts.LockTimeout, defaultLockTimeout)},
		{"idle_in_transaction_session_timeout", idleTransactionTimeout},
	}
	config.BeforeConnect = pooler.prepare
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		c.TypeMap().RegisterType(&pgtype.Type{
			Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
		})
		return limitTimes(ctx, c, limits)
	}
	adjust(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if opts.Slice <= 0 {
		opts.Slice = mirror.DefaultSlice
	}
	return &Store{
		pool: pool, migration: migration, pooler: pooler, limits: limits, slice: opts.Slice,
		balances: newGrowth(`ANALYZE creditmirror.customer_balance_transactions`),
		credits:  newGrowth(`ANALYZE creditmirror.credit_balance_transactions`),
	}, nil
}

func positive(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// urlError says what is wrong with a URL without saying what is in it: the
// parser's own text can hold the password.
func urlError(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok { // a certificate file
		return fmt.Errorf("the database URL: %w", pathErr)
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return errors.New("the database URL is not a URL")
	}
	return errors.New("the database URL cannot be used: want postgres://user:password@host:5432/database?sslmode=…, " +
		"with special characters of the password percent-encoded")
}

type timeLimit struct {
	setting string
	limit   time.Duration
}

const setTimeLimit = `SELECT set_config($1, $2, false)`

// limitTimes sets limits that the connection's URL does not set. They are set
// by a statement and not in the startup message, which PgBouncer would refuse.
// Behind a pooler it sets none: other programs would find them on their connections.
func limitTimes(ctx context.Context, c *pgx.Conn, limits []timeLimit) error {
	if c.Config().DefaultQueryExecMode == poolerMode {
		return nil
	}
	b := &pgx.Batch{}
	for _, l := range limits {
		if _, byURL := c.Config().RuntimeParams[l.setting]; !byURL {
			b.Queue(setTimeLimit, l.setting, strconv.FormatInt(l.limit.Milliseconds(), 10))
		}
	}
	return c.SendBatch(ctx, b).Close()
}

const readOnly = `SELECT current_setting('transaction_read_only') = 'on'`

// Ping reports whether the database answers and takes writes: a standby, or a
// server switched to read-only, is an error.
func (s *Store) Ping(ctx context.Context) error {
	var ro bool
	if err := s.pool.QueryRow(ctx, readOnly).Scan(&ro); err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	if ro {
		return errors.New("the database is read-only")
	}
	return nil
}

// Close waits for the calls in progress and closes all connections.
func (s *Store) Close() error {
	s.pool.Close()
	return nil
}

// sqlState is the error code that the server gave; empty when it gave none.
func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}
