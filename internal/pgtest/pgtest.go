//go:build unix

// Package pgtest starts throwaway PostgreSQL servers for tests, on loopback,
// with their data in a temporary folder. Nothing the product links imports it.
//
// Most tests want [NewDatabase]: one server serves the whole test package,
// since initdb takes seconds, and every test gets a database of its own. Tests
// of faults and benchmarks take a server of their own from [Start], which can be
// killed, stopped and restarted in place and writes as durably as in production;
// the shared one, which nobody can kill, leaves out fsync to be fast.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/internal/patience"
)

// RequireEnv names the environment variable that turns missing PostgreSQL
// binaries from a skipped test into a failed one. CI sets it to 1.
const RequireEnv = "CREDITMIRROR_REQUIRE_SERVICES"

const (
	// startAttempts is how many ports are tried: one found free can be taken by
	// another process before the server binds it.
	startAttempts = 5
	// superuser owns the server. It has no password: only loopback is listened on.
	superuser = "pgtest"
)

// startTimeout bounds how long a server may take until it answers, crash recovery
// included.
var startTimeout = patience.Of(30 * time.Second)

// shared is the server of this test package.
var shared struct {
	once     sync.Once
	server   *Server
	err      error
	template sync.Once
}

// template is the database that NewCopy copies.
const template = "test_template"

var databases atomic.Int64

// Main runs the tests of a package and ends the shared server after them:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
func Main(m *testing.M) int {
	code := m.Run()
	if s := shared.server; s != nil {
		s.close()
	}
	return code
}

// NewDatabase makes an empty database on the package's shared server and
// returns its URL. Without PostgreSQL the test is skipped, or failed where
// [RequireEnv] is set.
func NewDatabase(tb testing.TB) string {
	tb.Helper()
	return sharedServer(tb).NewDatabase(tb)
}

// NewCopy is NewDatabase, but of a database that prepare has filled, once per
// test package: for tables that every test needs. All calls in a package must
// pass the same prepare, and it must leave no connection open.
func NewCopy(tb testing.TB, prepare func(url string) error) string {
	tb.Helper()
	s := sharedServer(tb)
	shared.template.Do(func() {
		s.Exec(tb, "postgres", "CREATE DATABASE "+template)
		if err := prepare(s.URL(template)); err != nil {
			tb.Fatalf("prepare the database that tests copy: %v", err)
		}
	})
	return s.newDatabase(tb, "TEMPLATE "+template)
}

func sharedServer(tb testing.TB) *Server {
	tb.Helper()
	bin := binaries(tb)
	shared.once.Do(func() { shared.server, shared.err = newServer(bin, "off") })
	if shared.err != nil {
		tb.Fatalf("start PostgreSQL: %v", shared.err)
	}
	return shared.server
}

// Server is one PostgreSQL server. Its methods may be called from any goroutine.
type Server struct {
	bin  string // folder of initdb and postgres
	dir  string // the folder to remove at the end
	port int
	cred *syscall.Credential // whom the server runs as; nil: as ourselves
	// fsync is the setting of that name: on or off.
	fsync string

	mu      sync.Mutex
	process *process // nil while the server is down
}

// process is one run of the server; exited is closed when it has been reaped.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start starts a server for one test and ends it with the test. Without
// PostgreSQL the test is skipped, or failed where [RequireEnv] is set.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s, err := newServer(binaries(tb), "on")
	if err != nil {
		tb.Fatalf("start PostgreSQL: %v", err)
	}
	tb.Cleanup(s.close)
	return s
}

// URL is the address of a database on the server, stable across restarts.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", superuser, s.port, database)
}

// NewDatabase makes an empty database and returns its URL.
func (s *Server) NewDatabase(tb testing.TB) string {
	tb.Helper()
	return s.newDatabase(tb, "")
}

func (s *Server) newDatabase(tb testing.TB, options string) string {
	tb.Helper()
	name := fmt.Sprintf("test_%d", databases.Add(1))
	s.Exec(tb, "postgres", "CREATE DATABASE "+name+" "+options)
	return s.URL(name)
}

// Exec runs one statement as the superuser.
func (s *Server) Exec(tb testing.TB, database, sql string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// Kill ends the server as kill -9 does and returns when it is gone.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the server in order, breaking off what runs (a "fast" shutdown),
// and returns when it is gone.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Restart starts a server that was killed or stopped, on the same port and
// data, and returns when it answers.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	if err := s.restart(); err != nil {
		tb.Fatalf("restart PostgreSQL: %v", err)
	}
}

func (s *Server) end(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.process
	if p == nil {
		return
	}
	s.process = nil
	_ = p.cmd.Process.Signal(sig) // fails only if it has ended already
	select {
	case <-p.exited:
	case <-time.After(startTimeout):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

func (s *Server) close() {
	s.end(syscall.SIGINT)
	_ = os.RemoveAll(s.dir)
}

func newServer(bin, fsync string) (*Server, error) {
	s := &Server{bin: bin, fsync: fsync}
	var err error
	if s.cred, err = unprivileged(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "pgtest-"); err != nil {
		return nil, err
	}
	if s.cred != nil {
		if err := os.Chown(s.dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(s.dir))
		}
	}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "--pgdata", s.data(), "--username", superuser,
		"--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions")
	initdb.Dir = s.dir
	initdb.SysProcAttr = childAttr(s.cred)
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w: %s", err, out), os.RemoveAll(s.dir))
	}
	// In a file that ALTER SYSTEM goes over: a test of a large mirror wants more.
	if err := s.configure("shared_buffers = 64MB\n"); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	for range startAttempts {
		if s.port, err = freePort(); err != nil {
			break
		}
		if err = s.restart(); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(err, os.RemoveAll(s.dir))
}

// configure adds to the server's settings.
func (s *Server) configure(lines string) error {
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(lines)
	return errors.Join(err, f.Close())
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// restart starts the server and tries again for a while: after a kill the old
// server's children may need a moment to notice, and until then its shared
// memory is in use.
func (s *Server) restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return errors.New("the server runs")
	}
	deadline := time.Now().Add(startTimeout)
	for {
		s.dropEmptyPidFile()
		p, err := s.launch()
		if err != nil {
			return err
		}
		if err = s.await(p, deadline); err == nil {
			s.process = p
			return nil
		}
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		err = fmt.Errorf("%w: %s", err, tail(log))
		if time.Now().After(deadline) || !strings.Contains(string(log), "still in use") {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// dropEmptyPidFile removes the empty postmaster.pid that a server leaves behind
// when it is killed while it starts; PostgreSQL refuses to start over one. It
// is called only after our own server was reaped, so nobody is writing it.
func (s *Server) dropEmptyPidFile() {
	name := filepath.Join(s.data(), "postmaster.pid")
	if b, err := os.ReadFile(name); err == nil && len(strings.TrimSpace(string(b))) == 0 {
		_ = os.Remove(name)
	}
}

func (s *Server) launch() (*process, error) {
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data(), "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync="+s.fsync,
		"-c", "max_connections=200", "-c", "logging_collector=off")
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.SysProcAttr = childAttr(s.cred)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // reaped here, or its pid would block the next start
		close(p.exited)
	}()
	return p, nil
}

// await waits until the server answers; one that does not is ended.
func (s *Server) await(p *process, deadline time.Time) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.ping(deadline)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return errors.New("the server ended")
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			_ = p.cmd.Process.Kill()
			<-p.exited
			return fmt.Errorf("no answer in %s: %w", startTimeout, err)
		}
	}
}

func (s *Server) ping(deadline time.Time) error {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// binaries finds the folder of the newest PostgreSQL, or skips or fails the test.
func binaries(tb testing.TB) string {
	tb.Helper()
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(dirs, func(a, b string) int { return major(b) - major(a) })
	more, _ := filepath.Glob("/usr/local/opt/postgresql*/bin")
	dirs = append(append(dirs, more...), "/usr/local/pgsql/bin", "/opt/homebrew/bin")
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append([]string{strings.TrimSpace(string(out))}, dirs...)
	}
	for _, name := range []string{"initdb", "postgres"} {
		if path, err := exec.LookPath(name); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, dir := range dirs {
		if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
			return dir
		}
	}
	if os.Getenv(RequireEnv) == "1" {
		tb.Fatalf("PostgreSQL's initdb and postgres are required by %s=1 and were not found", RequireEnv)
	}
	tb.Skip("no initdb and postgres found; install PostgreSQL to run this test")
	return ""
}

// Binary is the path of one of PostgreSQL's programs, such as pg_dump.
func Binary(tb testing.TB, name string) string {
	tb.Helper()
	return filepath.Join(binaries(tb), name)
}

// major is the version in a path like /usr/lib/postgresql/15/bin.
func major(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// unprivileged is whom to run the server as: PostgreSQL refuses to run as root.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// tail is the end of a log, enough to see why a server ended.
func tail(log []byte) []byte { return log[max(0, len(log)-2000):] }
