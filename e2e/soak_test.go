//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/demo"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/stripesim"
	"github.com/creditmirror/creditmirror/webhook"
)

// TestSoak is the system as a user would run it, in processes of its own: the
// simulator, PostgreSQL, redis-server, and serve. CREDITMIRROR_SOAK is how long there
// are changes, and every 30 s there is a fault; CREDITMIRROR_SOAK_RATE is how many
// changes a second. With 1, serve is killed every few seconds under 20,000 changes.
func TestSoak(t *testing.T) {
	length := os.Getenv("CREDITMIRROR_SOAK")
	if length == "" {
		t.Skip("takes minutes; set CREDITMIRROR_SOAK=10m (make soak)")
	}
	changes, rate := number(t, "CREDITMIRROR_SOAK_CHANGES", 20_000), number(t, "CREDITMIRROR_SOAK_RATE", 70)
	pause := func() time.Duration { return 2*time.Second + rand.N(4*time.Second) }
	faults := []func(w *world, n *node) *node{soakKill}
	if length != "1" {
		d, err := time.ParseDuration(length)
		if err != nil {
			t.Fatalf("CREDITMIRROR_SOAK: %v", err)
		}
		changes = max(1, int(d.Seconds()*float64(rate)))
		pause = func() time.Duration { return soakPause }
		faults = []func(w *world, n *node) *node{soakKill, soakStop, soakRedisKilled, soakRedisFlushed, soakRedisHangs}
	}

	w := &world{tb: t, backend: everysec, binary: binary, log: &logBuffer{}, ignored: map[string]bool{}}
	simAddr := reserve(t)
	sim := exec.Command(build(t), "sim", "--addr", simAddr, "--log-level", "warn")
	sim.Env = []string{"HOME=" + os.Getenv("HOME")}
	sim.Stdout, sim.Stderr, sim.SysProcAttr = w.log, w.log, childAttr()
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Process.Kill(); _ = sim.Wait() })
	w.simURL, w.webhook = "http://"+simAddr, reserve(t)
	w.stripe = user{tb: t, base: w.simURL}
	control := func(method, path string, into any) error { return w.control(method, path, nil, into) }
	eventually(t, 20*time.Second, "the simulator answers", func() error { return control(http.MethodGet, "/_sim/calls", nil) })
	w.secrets = []string{w.stripe.endpoint("http://"+w.webhook+webhook.Path, false)}
	w.redis = redistest.Start(t, everysec.redis...)
	w.env = map[string]string{
		"STRIPE_API_KEY": apiKey, "STRIPE_API_BASE": w.simURL, "STRIPE_WEBHOOK_SECRET": w.secrets[0],
		"CREDITMIRROR_STRIPE_RPS": "400", "CREDITMIRROR_STRIPE_ENDPOINT_RPS": "200",
		"CREDITMIRROR_EVENTS_INTERVAL": "10s", "CREDITMIRROR_API_ADDR": "127.0.0.1:0",
		"CREDITMIRROR_DATABASE_URL": pgtest.NewCopy(t, migrate), "CREDITMIRROR_REDIS_URL": w.redis.URL,
	}
	t.Cleanup(w.finish)
	n := w.spawn(nil)
	before := w.levels(n)
	began := time.Now()
	err := w.control(http.MethodPost, "/_sim/traffic", map[string]any{"customers": 500, "rate": rate, "changes": changes, "seed": 42}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var traffic struct {
		Running bool   `json:"running"`
		Changes int    `json:"changes"`
		Error   string `json:"error"`
	}
	kills, most := 0, int64(0)
	for {
		next := time.Now().Add(pause())
		eventually(t, 2*soakPause, "it is time for a fault", that(func() bool { return time.Now().After(next) }))
		if err := control(http.MethodGet, "/_sim/traffic", &traffic); err != nil || traffic.Error != "" {
			t.Fatalf("traffic: %+v, %v", traffic, err)
		}
		if !traffic.Running {
			break
		}
		most = max(most, n.memory("VmHWM"))
		n = faults[kills%len(faults)](w, n)
		kills++
	}
	ended := time.Now()
	var c demo.Compared
	eventually(t, 2*time.Minute, "the mirror equals the simulator", func() error {
		var truth []stripesim.CustomerTruth
		if err := control(http.MethodGet, "/_sim/truth", &truth); err != nil {
			return err
		}
		var err error
		c, err = demo.Compare(t.Context(), w.reader(), truth)
		if err == nil && len(c.Differences) > 0 {
			err = fmt.Errorf("%d differences, such as %v", len(c.Differences), c.Differences[:min(5, len(c.Differences))])
		}
		return err
	})
	caughtUp := time.Since(ended)
	var calls map[string]int
	if err := control(http.MethodGet, "/_sim/calls", &calls); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d changes in %v, %d faults; equal %v after the last: %d customers (%d deleted), %d balance transactions, %d credit transactions, %d grants; 0 differences",
		traffic.Changes, ended.Sub(began).Round(time.Second), kills, caughtUp.Round(100*time.Millisecond),
		c.Customers, c.Deleted, c.BalanceTransactions, c.CreditTransactions, c.Grants)
	t.Logf("most memory of one life %d MiB; %d looks at the database; calls %v", most>>20, w.watch.count(), calls)
	w.settlesAt(n, before)
	// A webhook that finds nobody to answer comes again later than the sweep asks.
	missed := w.count("SELECT count(*) FROM schema.drift_findings WHERE kind = 'missed_event'")
	t.Logf("%d events were missed", missed)
	if f := w.count("SELECT count(*) FROM schema.drift_findings") - missed; f != 0 {
		t.Errorf("%d findings of other kinds", f)
	}
	if l := w.letters(); len(l) != 0 {
		t.Errorf("%d dead letters: %+v", len(l), l[0])
	}
}

// soakPause is between two faults of a soak of some length.
const soakPause = 30 * time.Second

func soakKill(_ *world, n *node) *node {
	n.signal(syscall.SIGKILL)
	return n.respawn(nil)
}

// soakStop has it sleep for longer than a lease.
func soakStop(w *world, n *node) *node {
	n.signal(syscall.SIGSTOP)
	until := time.Now().Add(12 * time.Second)
	eventually(w.tb, 20*time.Second, "it has slept", that(func() bool { return time.Now().After(until) }))
	n.signal(syscall.SIGCONT)
	return n
}

func soakRedisKilled(w *world, n *node) *node {
	w.redis.Kill()
	w.redis.Restart()
	return n
}

func soakRedisFlushed(w *world, n *node) *node {
	rdb := w.rdb()
	defer func() { _ = rdb.Close() }()
	if err := rdb.FlushAll(w.tb.Context()).Err(); err != nil {
		w.tb.Fatal(err)
	}
	return n
}

func soakRedisHangs(w *world, n *node) *node {
	w.redis.Pause()
	until := time.Now().Add(5 * time.Second)
	eventually(w.tb, 20*time.Second, "redis has hung", that(func() bool { return time.Now().After(until) }))
	w.redis.Continue()
	return n
}

// level is what a process holds when it has nothing to do.
type level struct {
	goroutines, files, redisKeys float64
	memory                       int64
}

func (w *world) levels(n *node) level {
	w.tb.Helper()
	rdb := w.rdb()
	defer func() { _ = rdb.Close() }()
	keys, err := rdb.DBSize(w.tb.Context()).Result()
	if err != nil {
		w.tb.Fatal(err)
	}
	return level{n.metric("go_goroutines", ""), n.metric("process_open_fds", ""), float64(keys), n.memory("VmRSS")}
}

// settlesAt waits until the process holds no more than it did before, but for what
// a pool or a cache may keep: 40 goroutines and files, ten keys in Redis, 128 MiB.
func (w *world) settlesAt(n *node, before level) {
	w.tb.Helper()
	eventually(w.tb, 3*time.Minute, "all is back at its level", func() error {
		now := w.levels(n)
		if now.goroutines > before.goroutines+40 || now.files > before.files+40 || now.redisKeys > before.redisKeys+10 || now.memory > before.memory+128<<20 {
			return fmt.Errorf("%+v, and before %+v", now, before)
		}
		w.tb.Logf("before %+v, in the end %+v", before, now)
		return nil
	})
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// control asks the simulator's own interface.
func (w *world) control(method, path string, body, into any) error {
	r, pipe := io.Pipe()
	go func() { _ = pipe.CloseWithError(json.NewEncoder(pipe).Encode(body)) }()
	req, err := http.NewRequestWithContext(w.tb.Context(), method, w.simURL+path, r)
	if err != nil {
		return err
	}
	if body == nil {
		req.Body = http.NoBody
		_ = r.Close()
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) //nolint:errcheck // only for the message
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
