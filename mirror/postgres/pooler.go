package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// poolerMode is how statements run behind a pooler such as PgBouncer, which may give
// every transaction another connection to the server: what a statement needs goes in one
// round trip with it, and nothing is kept on the server. Of pgx's modes no other does:
// cache_statement keeps prepared statements, describe_exec takes two round trips of which
// the second may meet another client's statement, and exec and simple_protocol guess the
// types of values, which fails for some of ours.
const poolerMode = pgx.QueryExecModeCacheDescribe

// errExecMode refuses a URL.
var errExecMode = errors.New("the database URL sets default_query_exec_mode to one that does not work for the mirror: " +
	"leave it out, or set cache_describe (a pooler such as PgBouncer is noticed by itself)")

// pooler finds out whether there is one between this process and the server.
type pooler struct {
	mu            sync.Mutex
	known, behind bool
}

func newPooler(config *pgx.ConnConfig) (*pooler, error) {
	switch config.DefaultQueryExecMode {
	case pgx.QueryExecModeCacheStatement:
		return &pooler{}, nil
	case poolerMode: // by the URL
		return &pooler{known: true, behind: true}, nil
	}
	return nil, errExecMode
}

// prepare sets how statements run on a connection that is about to be made.
func (p *pooler) prepare(ctx context.Context, config *pgx.ConnConfig) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.known {
		behind, err := probe(ctx, &config.Config)
		if err != nil {
			return err
		}
		p.known, p.behind = true, behind
	}
	if p.behind {
		config.DefaultQueryExecMode = poolerMode
	}
	return nil
}

// found reports whether there is a pooler, as far as a connection was made.
func (p *pooler) found() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.behind
}

// probe reports whether the process that a connection's cancel key names is the one that
// works for it. A pooler makes keys of its own, since it has many processes for each.
func probe(ctx context.Context, config *pgconn.Config) (bool, error) {
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() //nolint:errcheck // it has returned what it was opened for
	results, err := conn.Exec(ctx, `SELECT pg_backend_pid()`).ReadAll()
	if err != nil {
		return false, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return false, errors.New("the database did not return the backend process id of a connection")
	}
	return string(results[0].Rows[0][0]) != strconv.FormatUint(uint64(conn.PID()), 10), nil
}

// limitLocally queues the time limits for this transaction alone, behind a pooler, where
// its connections have none.
func (s *Store) limitLocally(b *pgx.Batch) {
	if !s.pooler.found() {
		return
	}
	set := make([]string, 0, len(s.limits))
	for _, l := range s.limits {
		if _, byURL := s.migration.RuntimeParams[l.setting]; !byURL {
			set = append(set, fmt.Sprintf(`set_config('%s', '%d', true)`, l.setting, l.limit.Milliseconds()))
		}
	}
	if len(set) > 0 {
		b.Queue(`SELECT ` + strings.Join(set, ", "))
	}
}
