package opstest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// freeAddr is a loopback address that nobody listens on at present.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// process is one that a test started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// stop ends the process in order; one that does not end is killed.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		p.kill()
	}
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// start runs a process until the test ends; its output is shown when it fails.
func start(t testing.TB, environ []string, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, environ...)
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd, make(chan struct{})}
	go func() { _ = cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			text := out.String()
			t.Logf("%s %v:\n%s", filepath.Base(name), args, text[max(0, len(text)-4000):])
		}
	})
	return p
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// within waits for something to become true.
func within(t testing.TB, limit time.Duration, what string, ok func() (string, bool)) {
	t.Helper()
	last := ""
	for deadline := time.Now().Add(limit); ; time.Sleep(250 * time.Millisecond) {
		var done bool
		if last, done = ok(); done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v; last: %s", what, limit, last)
		}
	}
}

// get asks a URL and returns the body; false unless it answers 200.
func get(address string) (string, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return err.Error(), false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error(), false
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return string(body), resp.StatusCode == http.StatusOK
}

// promServer is a real Prometheus that scrapes processes by namespace.
type promServer struct{ base string }

// forClause is how long alerts wait; in tests no longer than a test can. Their
// conditions stay as they are.
var forClause = regexp.MustCompile(`(?m)^(\s+for:) \S+$`)

func startPrometheus(t testing.TB, targets map[string]string) promServer {
	t.Helper()
	bin := service(t, "prometheus")
	dir, addr := t.TempDir(), freeAddr(t)
	quick := forClause.ReplaceAllString(read(t, "k8s/monitoring/rules.yaml"), "$1 2s")
	config := "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files: [rules.yaml]\nscrape_configs:\n  - job_name: creditmirror\n    static_configs:\n"
	for namespace, target := range targets {
		config += fmt.Sprintf("      - {targets: [%q], labels: {namespace: %q}}\n", target, namespace)
	}
	for name, text := range map[string]string{"rules.yaml": quick, "prometheus.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, nil, bin, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	p := promServer{"http://" + addr}
	within(t, 30*time.Second, "prometheus is ready", func() (string, bool) { return get(p.base + "/-/ready") })
	return p
}

// query returns how many series an expression has.
func (p promServer) query(t testing.TB, expr string) []map[string]string {
	t.Helper()
	body, ok := get(p.base + "/api/v1/query?query=" + url.QueryEscape(expr))
	var reply struct {
		Data struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &reply); err != nil || !ok {
		t.Fatalf("%s: %v\n%s", expr, err, body)
	}
	var series []map[string]string
	for _, r := range reply.Data.Result {
		series = append(series, r.Metric)
	}
	return series
}

// firing lists the alerts that fire for a namespace.
func (p promServer) firing(t testing.TB, namespace string) (names []string) {
	t.Helper()
	for _, s := range p.query(t, `ALERTS{alertstate="firing", namespace="`+namespace+`"}`) {
		names = append(names, s["alertname"])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// A real Prometheus scrapes the demo, and a mirror that keeps a copy for a warehouse,
// which the demo does not: every panel of every dashboard has data, those of the copy
// from that mirror and all others from the demo.
func TestDashboardsShowTheDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	service(t, "prometheus")
	ops := freeAddr(t)
	start(t, []string{"CREDITMIRROR_OPS_ADDR=" + ops}, program(t), "demo", "--chaos", "--customers", "60", "--rate", "15", "--seed", "5")
	copying := startServe(t, startSim(t), "sk_test_copying", true,
		"CREDITMIRROR_EXPORT_URL="+filepath.Join(t.TempDir(), "export"), "CREDITMIRROR_EXPORT_INTERVAL=1s")
	p := startPrometheus(t, map[string]string{"demo": ops, "copying": copying})
	began := time.Now()
	empty := func() (list []string) {
		for file, d := range dashboards(t) {
			for _, panel := range d.Panels {
				for _, target := range panel.Targets {
					namespace := "demo"
					if strings.Contains(target.Expr, "creditmirror_export_") {
						namespace = "copying"
					}
					expr := expand(target.Expr, namespace, "15s")
					if len(p.query(t, expr)) == 0 {
						list = append(list, file+" "+panel.Title+": "+expr)
					}
				}
			}
		}
		return list
	}
	within(t, 120*time.Second, "every panel has data", func() (string, bool) {
		list := empty()
		return strings.Join(list, "\n"), len(list) == 0
	})
	t.Logf("every panel has data after %v", time.Since(began).Round(time.Second))
}

// sim is a simulator process.
type sim struct {
	base string
}

func startSim(t testing.TB) sim {
	t.Helper()
	addr := freeAddr(t)
	start(t, nil, program(t), "sim", "--addr", addr, "--customers", "20", "--log-level", "error")
	s := sim{"http://" + addr}
	within(t, 30*time.Second, "the simulator serves", func() (string, bool) { return get(s.base + "/_sim/calls") })
	return s
}

func (s sim) post(t testing.TB, path, body string) {
	t.Helper()
	s.send(t, http.MethodPost, path, body)
}

func (s sim) send(t testing.TB, method, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s %s", path, resp.Status, text)
	}
}

// startServe registers an endpoint with the simulator by the program's own command
// and runs serve; delivered says whether Stripe's deliveries find it. It returns the
// ops address.
func startServe(t testing.TB, s sim, key string, delivered bool, more ...string) (ops string) {
	t.Helper()
	hook, secretFile := freeAddr(t), filepath.Join(t.TempDir(), "whsec")
	ops = freeAddr(t)
	environ := append([]string{"STRIPE_API_KEY=" + key, "STRIPE_API_BASE=" + s.base}, more...)
	registered := hook
	if !delivered {
		registered = freeAddr(t) // nobody there
	}
	create := exec.CommandContext(t.Context(), program(t), "endpoint", "create", "--url", "http://"+registered+"/webhooks/stripe", "--secret-file", secretFile)
	create.Env = environ[:2]
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("endpoint create: %v\n%s", err, out)
	}
	start(t, append(environ, "STRIPE_WEBHOOK_SECRET_FILE="+secretFile, "CREDITMIRROR_WEBHOOK_ADDR="+hook, "CREDITMIRROR_OPS_ADDR="+ops,
		"CREDITMIRROR_API_ADDR="+freeAddr(t), "CREDITMIRROR_DATABASE_URL=sqlite:"+filepath.Join(t.TempDir(), "mirror.db"),
		"CREDITMIRROR_EVENTS_INTERVAL=1s", "CREDITMIRROR_BALANCES_INTERVAL=10s"), program(t), "serve")
	within(t, 30*time.Second, "serve is ready", func() (string, bool) { return get("http://" + ops + "/readyz") })
	return ops
}

// Two mirrors under one Prometheus: one is well, the other is broken step by step.
// The alerts fire for the broken one, and only for it.
func TestAlertsFireOnARealPrometheus(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	service(t, "prometheus")
	wellSim, brokenSim := startSim(t), startSim(t)
	well := startServe(t, wellSim, "sk_test_well", true)
	// Its endpoint leads nowhere, and it repairs nothing.
	broken := startServe(t, brokenSim, "sk_test_broken", false, "CREDITMIRROR_REPAIR=false")
	p := startPrometheus(t, map[string]string{"well": well, "broken": broken})
	within(t, 30*time.Second, "both are scraped", func() (string, bool) {
		return "", len(p.query(t, "creditmirror_build_info")) == 2
	})
	const traffic = `{"seed":2,"customers":20,"rate":3}`
	wellSim.post(t, "/_sim/traffic", traffic)
	brokenSim.post(t, "/_sim/traffic", traffic)

	fires := func(alert string, limit time.Duration) {
		t.Helper()
		began := time.Now()
		within(t, limit, alert+" fires", func() (string, bool) {
			names := p.firing(t, "broken")
			return strings.Join(names, ", "), slices.Contains(names, alert)
		})
		t.Logf("%s fires after %v", alert, time.Since(began).Round(time.Second))
	}
	// Webhooks do not arrive: the events sweep sees what no delivery brought, a minute
	// behind its watermark.
	fires("CreditmirrorNoWebhooks", 150*time.Second)
	fires("CreditmirrorDriftOpen", 60*time.Second)
	// The key is revoked.
	brokenSim.post(t, "/_sim/keys", `{"key":"sk_test_broken","state":"revoked"}`)
	fires("CreditmirrorStripeRefusesKey", 60*time.Second)

	if names := p.firing(t, "well"); len(names) > 0 {
		t.Errorf("the one that is well has alerts: %v", names)
	}
	// What the person on call reads is filled in.
	body, _ := get(p.base + "/api/v1/alerts")
	if strings.Contains(body, "error expanding") || !strings.Contains(body, "docs/runbooks/CreditmirrorNoWebhooks.md") {
		t.Errorf("the alerts' texts are not whole: %s", body)
	}
}
