package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Standby starts a server that follows s: a hot standby. It ends with the test.
func (s *Server) Standby(tb testing.TB) *Server {
	tb.Helper()
	standby, err := s.standby()
	if err != nil {
		tb.Fatalf("start a standby: %v", err)
	}
	tb.Cleanup(standby.close)
	return standby
}

func (s *Server) standby() (*Server, error) {
	n := &Server{bin: s.bin, fsync: s.fsync, cred: s.cred}
	var err error
	if n.dir, err = os.MkdirTemp("", "pgtest-"); err != nil {
		return nil, err
	}
	if n.cred != nil {
		if err := os.Chown(n.dir, int(n.cred.Uid), int(n.cred.Gid)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(n.dir))
		}
	}
	// -R makes it a standby that streams from s.
	backup := exec.Command(filepath.Join(s.bin, "pg_basebackup"), "-h", "127.0.0.1", "-p", fmt.Sprint(s.port), "-U", superuser,
		"-D", n.data(), "-X", "stream", "-c", "fast", "-R", "--no-sync")
	backup.Dir = n.dir
	backup.SysProcAttr = childAttr(s.cred)
	if out, err := backup.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("pg_basebackup: %w: %s", err, out), os.RemoveAll(n.dir))
	}
	for range startAttempts {
		if n.port, err = freePort(); err != nil {
			break
		}
		if err = n.restart(); err == nil {
			return n, nil
		}
	}
	return nil, errors.Join(err, os.RemoveAll(n.dir))
}

// Cut ends a standby's line to the server that it follows, so that it lags from then on.
func (s *Server) Cut(tb testing.TB) {
	tb.Helper()
	s.Exec(tb, "postgres", "ALTER SYSTEM SET primary_conninfo = ''")
	s.Exec(tb, "postgres", "SELECT pg_reload_conf()")
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	for receivers := 1; receivers > 0; time.Sleep(20 * time.Millisecond) {
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_wal_receiver").Scan(&receivers); err != nil {
			tb.Fatalf("cut the standby off: %v", err)
		}
	}
}

// Promote makes a standby a server of its own, with what it has replayed, and returns
// when it takes writes.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	var promoted bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, $1)", int(startTimeout/time.Second)).Scan(&promoted); err != nil || !promoted {
		tb.Fatalf("promote the standby: %v, %v", promoted, err)
	}
}
