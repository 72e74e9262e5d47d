//go:build unix

package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bouncer is a PgBouncer of one test.
type Bouncer struct{ port int }

// StartBouncer starts a PgBouncer in front of the server that a URL names and ends it
// with the test. mode is transaction, session or statement; size is how many
// connections to the server it holds per database. Without PgBouncer the test is
// skipped, or failed where [RequireEnv] is set.
func StartBouncer(tb testing.TB, serverURL, mode string, size int) *Bouncer {
	tb.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil { // Debian's lies where only root's shells look
		path = "/usr/sbin/pgbouncer"
	}
	if !executable(path) {
		if os.Getenv(RequireEnv) == "1" {
			tb.Fatalf("pgbouncer is required by %s=1 and was not found", RequireEnv)
		}
		tb.Skip("no pgbouncer found; install it to run this test")
	}
	for range startAttempts {
		var b *Bouncer
		if b, err = startBouncer(tb, path, serverURL, mode, size); err == nil {
			return b
		}
	}
	tb.Fatalf("start PgBouncer: %v", err)
	return nil
}

func startBouncer(tb testing.TB, path, serverURL, mode string, size int) (*Bouncer, error) {
	server, err := url.Parse(serverURL)
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgbouncer-")
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = %s
default_pool_size = %d
max_client_conn = 1000
server_idle_timeout = 1
`, server.Hostname(), server.Port(), port, filepath.Join(dir, "users"), mode, size)
	for name, text := range map[string]string{"ini": config, "users": `"` + superuser + `" ""` + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { // no secret, and another user reads it
			return nil, err
		}
	}
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(path, filepath.Join(dir, "ini"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = childAttr(cred)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-exited
	})
	b := &Bouncer{port: port}
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		conn, err := pgx.Connect(ctx, b.URL(serverURL)+"&default_query_exec_mode=simple_protocol")
		if err == nil {
			err = conn.Close(ctx)
		}
		cancel()
		if err == nil {
			return b, nil
		}
		select {
		case <-exited:
			text, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("it ended: %s", tail(text))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no answer in %s: %w", startTimeout, err)
		}
	}
}

// URL is a server's URL through the pooler.
func (b *Bouncer) URL(serverURL string) string {
	head, rest, _ := strings.Cut(serverURL, "@")
	_, path, _ := strings.Cut(rest, "/")
	return fmt.Sprintf("%s@127.0.0.1:%d/%s", head, b.port, path)
}
