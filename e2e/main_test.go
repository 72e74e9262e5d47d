//go:build unix

// Package e2e tests the whole system: a company's account at the simulator in
// Stripe's place, real webhooks over loopback, and creditmirror itself, in this
// process or as the real binary, on both kinds of backend. What a test proves is
// always the same: however it was disturbed, the mirror equals the simulator in
// the end, and was never wrong on the way there.
//
// Names carry the numbers of the faults (F) and invariants (I) that they stand
// for; docs/architecture.md says what the system promises.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if !slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.parallel") }) {
		// Most of the time tests wait, for leases and retries.
		_ = flag.Set("test.parallel", "4")
	}
	code := pgtest.Main(m)
	for _, b := range []*built{binary, binaryWithSteps} {
		if b.dir != "" {
			_ = os.RemoveAll(b.dir)
		}
	}
	client.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// binary is the real thing, and binaryWithSteps the one that can be killed at a step
// (internal/failpoint). Each is built once, when the first test asks for it.
var binary, binaryWithSteps = &built{}, &built{tags: "failpoints"}

type built struct {
	tags string
	once sync.Once
	dir  string
	path string
	err  error
}

// build returns the path of the binary; with the race detector in it when the
// tests have it.
func build(tb testing.TB) string {
	tb.Helper()
	return binary.build(tb)
}

func (b *built) build(tb testing.TB) string {
	tb.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "creditmirror-e2e-"); b.err != nil {
			return
		}
		b.path = filepath.Join(b.dir, "creditmirror")
		args := []string{"build", "-tags", b.tags, "-o", b.path}
		if raceEnabled {
			args = append(args, "-race", "-gcflags=modernc.org/sqlite/lib=-race=false", "-gcflags=modernc.org/libc=-race=false") // as in the Makefile
		}
		cmd := exec.Command("go", append(args, "./cmd/creditmirror")...)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if b.err != nil {
		tb.Fatal(b.err)
	}
	return b.path
}

// eventually polls check until it returns nil, and fails the test with its last
// error when that takes longer than within. It is the only way that tests wait.
func eventually(tb testing.TB, within time.Duration, what string, check func() error) {
	tb.Helper()
	within = patience.Of(within)
	deadline := time.Now().Add(within)
	for {
		began := time.Now()
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %v: %v", what, within, err)
		}
		// A check that takes long must not take the machine from what it waits for.
		<-time.After(max(20*time.Millisecond, min(3*time.Since(began), 2*time.Second)))
	}
}

// that is eventually's check for a plain condition.
func that(ok func() bool) func() error {
	return func() error {
		if ok() {
			return nil
		}
		return fmt.Errorf("the condition does not hold")
	}
}

// logBuffer keeps what a process or an app logs.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) Sync() error { return nil }

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tail is the end of the log, for a failed test.
func (l *logBuffer) tail(lines int) string {
	all := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// scaled is a size, or a smaller one where the race detector makes SQLite, which
// is Go here, twenty times as slow.
func scaled(normal, race int) int {
	if raceEnabled {
		return race
	}
	return normal
}
