//go:build unix

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
)

// node is one running creditmirror.
type node struct {
	w       *world
	webhook string // host:port
	ops     string
	// mayFail: the test itself makes it end with an error.
	mayFail atomic.Bool

	app  *app.App  // nil when it is a process of its own
	cmd  *exec.Cmd // nil when it is in this process
	halt func()    // asks it to stop
	done chan struct{}
	once sync.Once
	err  error // after done
}

// start runs a creditmirror in this process; the first one of a world takes the
// webhooks.
func (w *world) start(own map[string]string, roles ...config.Role) *node {
	w.tb.Helper()
	if roles == nil {
		roles = config.Config{}.DefaultRoles()
	}
	n := w.newNode()
	settings := map[string]string{"CREDITMIRROR_WEBHOOK_ADDR": n.webhook, "CREDITMIRROR_OPS_ADDR": n.ops}
	for k, v := range own {
		settings[k] = v
	}
	cfg, err := config.LoadFor(w.environ(settings), roles)
	if err != nil {
		w.tb.Fatal(err)
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), w.log, zap.InfoLevel))
	n.app, err = app.New(w.tb.Context(), app.Options{Config: cfg, Roles: roles, Log: log, Build: app.ReadBuild()})
	if err != nil {
		w.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.halt = cancel
	go func() {
		defer close(n.done)
		n.err = n.app.Run(ctx)
	}()
	w.add(n)
	return n
}

// spawn runs the real binary.
func (w *world) spawn(own map[string]string) *node {
	w.tb.Helper()
	n := w.newNode()
	n.exec(w.binary.build(w.tb), own)
	w.add(n)
	return n
}

// respawn runs the binary again where a dead one was.
func (n *node) respawn(own map[string]string) *node {
	n.w.tb.Helper()
	again := &node{w: n.w, webhook: n.webhook, ops: n.ops, done: make(chan struct{})}
	again.exec(n.w.binary.build(n.w.tb), own)
	n.w.add(again)
	return again
}

func (w *world) newNode() *node {
	w.tb.Helper()
	n := &node{w: w, webhook: w.webhook, ops: reserve(w.tb), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range w.nodes {
		if other.webhook == n.webhook && other.alive() {
			n.webhook = reserve(w.tb)
		}
	}
	return n
}

// add keeps a node that was started, waits until it is ready, and has the
// database watched from then on.
func (w *world) add(n *node) {
	w.tb.Helper()
	w.mu.Lock()
	w.nodes = append(w.nodes, n)
	w.mu.Unlock()
	n.awaitReady()
	if w.watch == nil {
		w.watch = newWatch(w)
	}
}

func (n *node) exec(path string, own map[string]string) {
	n.w.tb.Helper()
	settings := map[string]string{"CREDITMIRROR_WEBHOOK_ADDR": n.webhook, "CREDITMIRROR_OPS_ADDR": n.ops}
	for k, v := range own {
		settings[k] = v
	}
	n.cmd = exec.Command(path, "serve")
	// Not ours: an unknown CREDITMIRROR_ name would be refused.
	n.cmd.Env = append(n.w.environ(settings), "HOME="+os.Getenv("HOME"), "TMPDIR="+os.TempDir())
	n.cmd.Stdout, n.cmd.Stderr = n.w.log, n.w.log
	n.cmd.SysProcAttr = childAttr()
	if err := n.cmd.Start(); err != nil {
		n.w.tb.Fatal(err)
	}
	n.halt = func() { _ = n.cmd.Process.Signal(syscall.SIGTERM) }
	go func() {
		defer close(n.done)
		n.err = n.cmd.Wait()
	}()
}

func (n *node) awaitReady() {
	n.w.tb.Helper()
	eventually(n.w.tb, 30*time.Second, "creditmirror is ready", func() error {
		if !n.alive() {
			n.w.tb.Fatalf("creditmirror ended: %v\n%s", n.err, n.w.log.tail(30))
		}
		_, err := n.get("/readyz")
		return err
	})
}

func (n *node) alive() bool {
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// stop asks it to end in order and waits for that.
func (n *node) stop() error {
	n.once.Do(n.halt)
	select {
	case <-n.done:
		return n.err
	case <-time.After(40 * time.Second):
		if n.cmd != nil {
			_ = n.cmd.Process.Kill()
			<-n.done
		}
		return errors.New("it did not stop within 40 s")
	}
}

// signal sends a process a signal; after SIGKILL it is gone.
func (n *node) signal(s syscall.Signal) {
	n.w.tb.Helper()
	if s == syscall.SIGKILL {
		n.mayFail.Store(true)
	}
	if err := n.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.w.tb.Fatal(err)
	}
	if s == syscall.SIGKILL {
		<-n.done
	}
}

func (n *node) get(path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.ops+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return body, err
}

func (n *node) status() (s app.Status, err error) {
	body, err := n.get("/status")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(body, &s)
}

// metric is the sum of a metric's samples whose labels contain the given text.
func (n *node) metric(name, labels string) float64 {
	n.w.tb.Helper()
	body, err := n.get("/metrics")
	if err != nil {
		return 0
	}
	var sum float64
	for lines := bufio.NewScanner(strings.NewReader(string(body))); lines.Scan(); {
		series, value, ok := strings.Cut(lines.Text(), "} ")
		if !ok {
			series, value, _ = strings.Cut(lines.Text(), " ")
		}
		base, have, _ := strings.Cut(series, "{")
		if base != name || !strings.Contains(have, labels) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			n.w.tb.Fatalf("metric %s: %v", lines.Text(), err)
		}
		sum += v
	}
	return sum
}

// memory is a figure of /proc in bytes, such as VmHWM, the most memory that the
// process ever held.
func (n *node) memory(what string) int64 {
	n.w.tb.Helper()
	pid := os.Getpid()
	if n.cmd != nil {
		pid = n.cmd.Process.Pid
	}
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		n.w.tb.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, what+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				n.w.tb.Fatal(err)
			}
			return kib << 10
		}
	}
	n.w.tb.Fatalf("no %s in /proc", what)
	return 0
}

// copied waits until the first copy of the platform's account is done.
func (w *world) copied() {
	w.tb.Helper()
	eventually(w.tb, 60*time.Second, "the first copy is done", func() error {
		s, err := w.reader().Sweep(w.tb.Context(), "", "backfill")
		if err == nil && s.LastSuccess.IsZero() {
			err = fmt.Errorf("it stands at %s", s.State)
		}
		return err
	})
}

// idle waits until nothing waits and nothing is in work, on this node's word.
func (n *node) idle() {
	n.w.tb.Helper()
	eventually(n.w.tb, 60*time.Second, "the queue is empty", func() error {
		s, err := n.status()
		if err == nil && s.Queue.Ready+s.Queue.Delayed+s.Queue.Leased > 0 {
			err = fmt.Errorf("it holds %+v", s.Queue)
		}
		return err
	})
}
