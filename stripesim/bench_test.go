package stripesim

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// listPaths are the list requests that are measured, ten rows each.
var listPaths = map[string]string{
	"customers":    "/v1/customers?expand[]=data.invoice_credit_balance",
	"transactions": "/v1/customers/%s/balance_transactions",
	"events":       "/v1/events",
	"grants":       "/v1/billing/credit_grants?expand[]=data.customer",
}

// populated is a simulator with a thousand customers behind real HTTP.
func populated(t testing.TB) *sim {
	t.Helper()
	s := start(t, Options{Now: time.Now})
	tr, err := NewTraffic(s.Server, TrafficOptions{Customers: 1000, Changes: 10000})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tr.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// listPath fills in a customer with at least ten transactions.
func (s *sim) listPath(name string) string {
	if !strings.Contains(listPaths[name], "%s") {
		return listPaths[name]
	}
	for _, c := range s.account("").everyCustomer() {
		if c.txns.len() >= 10 && !c.gone {
			return fmt.Sprintf(listPaths[name], c.id)
		}
	}
	s.t.Fatal("no customer with ten transactions")
	return ""
}

// load sends GET requests over 8 connections for d and returns how many were
// answered per second.
func load(t testing.TB, base, path string, d time.Duration) float64 {
	t.Helper()
	addr := strings.TrimPrefix(base, "http://")
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer " + testKey + "\r\n\r\n")
	var done atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for range 8 {
		wg.Go(func() {
			// A raw connection: a client that decodes replies would be most of the load.
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			buf := make([]byte, 64<<10)
			for time.Since(begin) < d {
				if _, err := conn.Write(request); err != nil {
					t.Error(err)
					return
				}
				if !readReply(conn, buf) {
					t.Error("not a whole 200 reply")
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(begin).Seconds()
}

// readReply reads one reply with a Content-Length.
func readReply(conn net.Conn, buf []byte) bool {
	n, want := 0, -1
	for want < 0 || n < want {
		k, err := conn.Read(buf[n:])
		if err != nil {
			return false
		}
		n += k
		if want >= 0 {
			continue
		}
		head := bytes.Index(buf[:n], []byte("\r\n\r\n"))
		if head < 0 {
			continue
		}
		if !bytes.HasPrefix(buf, []byte("HTTP/1.1 200")) {
			return false
		}
		i := bytes.Index(buf[:head], []byte("Content-Length: "))
		if i < 0 {
			return false
		}
		rest := buf[i+len("Content-Length: ") : head+2]
		length, err := strconv.Atoi(string(rest[:bytes.IndexByte(rest, '\r')]))
		if err != nil || head+4+length > len(buf) {
			return false
		}
		want = head + 4 + length
	}
	return true
}

// TestListRate measures list requests per second against a bare handler that
// returns the same bytes. The bound leaves room for a busy machine; make bench-sim
// prints the figures of docs/simulator.md.
func TestListRate(t *testing.T) {
	if os.Getenv("CREDITMIRROR_BENCH") == "" {
		t.Skip("set CREDITMIRROR_BENCH=1: make bench-sim")
	}
	s := populated(t)
	for _, name := range []string{"customers", "events", "grants", "transactions"} {
		path := s.listPath(name)
		body := s.get(path).raw
		bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body)
		})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: bare}
		go func() { _ = srv.Serve(l) }()
		var ratios []float64
		var best float64
		for range 5 { // in turn, so that both meet the same machine
			b := load(t, "http://"+l.Addr().String(), path, 2*time.Second)
			x := load(t, s.url, path, 2*time.Second)
			ratios = append(ratios, x/b)
			best = max(best, x)
		}
		_ = srv.Close()
		slices.Sort(ratios)
		t.Logf("%-12s %6d bytes  %7.0f requests/s  %.2f of a bare handler (%.2f to %.2f)", name, len(body), best, ratios[2], ratios[0], ratios[4])
		if ratios[2] < 0.3 {
			t.Errorf("%s: %.2f of a bare handler, want at least 0.3", name, ratios[2])
		}
	}
}

// rss is the resident memory of a process in bytes, now and at most so far.
func rss(t *testing.T, pid int) (now, peak int64) {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	for line := range strings.Lines(string(raw)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			now = kb << 10
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			peak = kb << 10
		}
	}
	return now, peak
}

// TestScale runs the real program with a million customers and five million
// transactions, and asks for pages at any depth.
func TestScale(t *testing.T) {
	if os.Getenv("CREDITMIRROR_BENCH") == "" {
		t.Skip("set CREDITMIRROR_BENCH=1: make bench-sim")
	}
	bin := filepath.Join(t.TempDir(), "creditmirror")
	if out, err := exec.Command("go", "build", "-o", bin, "../cmd/creditmirror").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(bin, "sim", "--addr", addr, "--customers", "1000000", "--log-format", "json")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	var text []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(text, []byte("customers created")) {
		n, err := log.Read(buf)
		if err != nil {
			t.Fatalf("%v %s", err, text)
		}
		text = append(text, buf[:n]...)
	}
	t.Logf("made in %v", time.Since(begin).Round(time.Second))
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	get := func(path string) (raw []byte, took time.Duration) {
		req, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(testKey, "")
		begin := time.Now()
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if raw, err = io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%d %v %.300s", resp.StatusCode, err, raw)
		}
		return raw, time.Since(begin)
	}
	page, _ := get("/")
	t.Logf("console: %.200s", page[bytes.Index(page, []byte(" customers, "))-10:])
	// Cursors at any depth, found by the time of creation.
	fastest := func(path string) time.Duration { // what else runs on the machine only adds
		best := time.Hour
		for range 200 {
			_, d := get(path)
			best = min(best, d)
		}
		return best
	}
	first := fastest("/v1/customers?limit=100")
	var worst time.Duration
	now := time.Now().Unix()
	for _, days := range []int64{230, 260, 300, 340, 380, 399} {
		raw, _ := get(fmt.Sprintf("/v1/customers?limit=1&created[lt]=%d", now-days*daySeconds))
		i := bytes.Index(raw, []byte("cus_"))
		if i < 0 {
			continue
		}
		d := fastest("/v1/customers?limit=100&starting_after=" + string(raw[i:i+18]))
		worst = max(worst, d)
		t.Logf("page of 100 after a cursor %d days back: %v", days, d)
	}
	t.Logf("first page of 100: %v; worst of the deep ones %v", first, worst)
	if worst > 2*first {
		t.Errorf("a deep page takes %v, the first %v", worst, first)
	}
	current, peak := rss(t, cmd.Process.Pid)
	t.Logf("resident memory %.2f GiB, at most %.2f GiB", float64(current)/(1<<30), float64(peak)/(1<<30))
	if peak > 4<<30 {
		t.Errorf("%d bytes resident, want less than 4 GiB", peak)
	}
}
