// Package redistest starts throwaway redis-server processes for tests: single
// servers, clusters and sentinels, on loopback, with their data in the test's
// temporary folder. Nothing the product links imports it.
//
// A server can be killed, paused and restarted in place, which is how the
// faults "Redis died", "Redis hangs" and "Redis came back" are put into tests.
package redistest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
)

// RequireEnv names the environment variable that turns a missing redis-server
// from a skipped test into a failed one. CI sets it to 1.
const RequireEnv = "CREDITMIRROR_REQUIRE_SERVICES"

// startTimeout bounds how long a server may take from exec to its first PONG.
var startTimeout = patience.Of(20 * time.Second)

// startAttempts is how many ports are tried. A port found free can be taken by
// another process before redis-server binds it.
const startAttempts = 8

// errPortTaken says that redis-server could not bind the port picked for it.
var errPortTaken = errors.New("port taken")

// Server is one redis-server process that belongs to one test. Its methods may
// be called from any goroutine.
type Server struct {
	// URL is the redis:// address of the server, stable across restarts.
	URL string
	// Addr is host:port, stable across restarts.
	Addr string

	tb   testing.TB
	bin  string
	dir  string
	args []string

	mu   sync.Mutex
	proc *process // nil while the server is down
}

// Start runs redis-server on a free loopback port with an append-only file that
// is synced on every write and no eviction, and stops it when the test ends.
// Extra args are configuration directives ("--maxmemory", "10mb") and override
// those. Without the binary the test is skipped, or failed where [RequireEnv]
// is set.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	bin := binary(tb)
	for range startAttempts {
		s := newServer(tb, bin, freePort(tb), args)
		err := s.start()
		if err == nil {
			tb.Cleanup(s.Stop)
			return s
		}
		if !errors.Is(err, errPortTaken) {
			tb.Fatalf("start redis-server: %v", err)
		}
	}
	tb.Fatalf("start redis-server: no free port in %d attempts", startAttempts)
	return nil
}

// binary returns the path of redis-server, or skips or fails the test.
func binary(tb testing.TB) string {
	tb.Helper()
	bin, err := exec.LookPath("redis-server")
	if err == nil {
		return bin
	}
	if os.Getenv(RequireEnv) == "1" {
		tb.Fatalf("redis-server is required by %s=1: %v", RequireEnv, err)
	}
	tb.Skipf("no redis-server in PATH: %v", err)
	return ""
}

func newServer(tb testing.TB, bin string, port int, args []string) *Server {
	tb.Helper()
	dir := tb.TempDir()
	base := []string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--daemonize", "no",
		"--save", "", "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction",
		"--enable-debug-command", "local", "--tcp-backlog", "64", "--databases", "4",
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	return &Server{
		URL: "redis://" + addr, Addr: addr,
		tb: tb, bin: bin, dir: dir, args: slices.Concat(base, args),
	}
}

// Dir is the folder that the server keeps its data in.
func (s *Server) Dir() string { return s.dir }

// Stop ends the server in an orderly way (SIGTERM) and waits for it to be gone.
// Stopping a stopped server does nothing.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server with SIGKILL and waits for it to be gone.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return
	}
	// A paused process only acts on SIGTERM once it runs again.
	_ = s.proc.signal(syscall.SIGCONT)
	_ = s.proc.signal(sig)
	select {
	case <-s.proc.done:
	case <-time.After(5 * time.Second):
		_ = s.proc.signal(syscall.SIGKILL)
		<-s.proc.done
	}
	s.proc = nil
}

// Restart starts the server again on the same port with the same data, ending
// it first (SIGKILL) if it still runs, and waits until it answers.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Kill()
	deadline := time.Now().Add(startTimeout)
	for {
		err := s.start()
		if err == nil {
			return
		}
		// Somebody else may hold the port for a moment: URL must not change,
		// so wait for it instead of taking another.
		if !errors.Is(err, errPortTaken) || time.Now().After(deadline) {
			s.tb.Fatalf("restart redis-server on %s: %v", s.Addr, err)
		}
	}
}

// Pause stops the process (SIGSTOP): connections stay open, nothing answers.
func (s *Server) Pause() { s.mustSignal(syscall.SIGSTOP) }

// Continue lets a paused process run again (SIGCONT).
func (s *Server) Continue() { s.mustSignal(syscall.SIGCONT) }

func (s *Server) mustSignal(sig syscall.Signal) {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		s.tb.Fatalf("redis-server %s does not run", s.Addr)
	}
	if err := s.proc.signal(sig); err != nil {
		s.tb.Fatalf("signal redis-server %s: %v", s.Addr, err)
	}
}

// start runs the process and waits for its first PONG.
func (s *Server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := startProcess(s.bin, s.args)
	if err != nil {
		return err
	}
	deadline := time.After(startTimeout)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			if strings.Contains(p.out.String(), "Address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("exited at once: %s", p.out.String())
		case <-deadline:
			_ = p.signal(syscall.SIGKILL)
			<-p.done
			return fmt.Errorf("no answer after %s: %s", startTimeout, p.out.String())
		case <-tick.C:
			// The port may answer although it belongs to somebody else: only a
			// server that says it runs under our pid is ours.
			if pid, err := serverPID(s.Addr, s.password()); err == nil && pid == p.pid {
				s.proc = p
				return nil
			}
		}
	}
}

// password returns the one given by --requirepass, if any.
func (s *Server) password() string {
	if i := slices.Index(s.args, "--requirepass"); i >= 0 && i+1 < len(s.args) {
		return s.args[i+1]
	}
	return ""
}

// URLWithPassword is URL with the password that --requirepass set.
func (s *Server) URLWithPassword() string {
	u := url.URL{Scheme: "redis", User: url.UserPassword("", s.password()), Host: s.Addr}
	return u.String()
}

// Log returns what the process printed since it was last started.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return ""
	}
	return s.proc.out.String()
}

// freePort returns a loopback port that nobody listened on a moment ago.
func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// process is one running redis-server.
type process struct {
	pid  int
	done chan struct{}
	out  lockedBuffer
	cmd  *exec.Cmd
}

func (p *process) signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
		return p.cmd.Process.Signal(sig)
	}
}

// lockedBuffer collects output that is read while the process still writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// writeFile puts a file into the server's folder and returns its path.
func writeFile(tb testing.TB, dir, name, text string) string {
	tb.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatalf("write %s: %v", path, err)
	}
	return path
}
