package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripesim"
)

// ask makes a request with a Host of its own.
func ask(t *testing.T, url, host string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// Finding 3: the ops listener answers a web page nothing, and nobody what was on the command
// line; probes and scrapers come by any name.
func TestOpsListenerAsksWhoKnocks(t *testing.T) {
	t.Parallel()
	s := serveAPI(t, servedOptions{sim: ordered})
	ops := "http://" + s.app.Addrs().Ops
	for _, c := range []struct {
		path, host string
		header     []string
		status     int
	}{
		{"/status", "localhost", nil, 200},
		{"/status", "127.0.0.1:9090", nil, 200},
		{"/status", "evil.example", nil, 403},
		{"/metrics", "evil.example", nil, 200},
		{"/healthz", "evil.example", nil, 200},
		{"/readyz", "evil.example", nil, 200},
		{"/debug/pprof/", "localhost", nil, 200},
		{"/debug/pprof/", "evil.example", nil, 404},
		{"/debug/pprof/heap", "10.0.0.1", nil, 404},
		{"/debug/pprof/goroutine?debug=1", "localhost", nil, 200},
		{"/debug/pprof/heap", "localhost", []string{"X-Forwarded-For", "203.0.113.9"}, 404},
		{"/debug/pprof/profile?seconds=1", "evil.example", nil, 404},
		{"/debug/pprof/cmdline", "localhost", nil, 404},
		{"/debug/pprof/cmdline/", "localhost", nil, 404},
	} {
		if code, body := ask(t, ops+c.path, c.host, c.header...); code != c.status {
			t.Errorf("%s as %s %v: %d, want %d: %.80s", c.path, c.host, c.header, code, c.status, body)
		}
	}
}

// Finding 4: ids that name nothing cost one call each, are remembered, leave no row, and
// do not fill the log.
func TestUnknownIDsCostOneCall(t *testing.T) {
	t.Parallel()
	onBoth(t, servedOptions{sim: ordered}, func(t *testing.T, s *served) {
		var calls atomic.Int64
		s.hook(func(string, *http.Request) { calls.Add(1) })
		const ids = 40
		for range 3 {
			for n := range ids {
				path := fmt.Sprintf("/v1/customers/cus_unknown%d", n)
				if got := s.get(path, "Creditmirror-Max-Age", "0s"); got.status != 404 {
					t.Fatalf("%d %s", got.status, got.body)
				}
				s.get("/v1/billing/credit_grants?customer="+strings.TrimPrefix(path, "/v1/customers/"), "Creditmirror-Max-Age", "0s")
			}
		}
		s.hook(nil)
		if n := calls.Load(); n != ids {
			t.Errorf("%d ids cost %d calls", ids, n)
		}
		at, err := s.app.Store().ObservedAt(t.Context(), []mirror.Target{{Scope: mirror.ScopeBalance, ID: "cus_unknown1"}})
		if err != nil || !at[0].IsZero() {
			t.Errorf("%v, %v", at, err)
		}
		if n, err := s.app.Store().UnsyncedCount(t.Context(), ""); n != 0 || err != nil {
			t.Errorf("%d rows of what never existed, %v", n, err)
		}
	})
}

// What syncs on demand may take is bounded, by key and in all, and others' share is left.
func TestDemandIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		replicas := 1
		d := newDemand(80, func() int { return replicas })
		use := func(name string, during time.Duration) (n int) {
			ctx, cancel := context.WithTimeout(access.WithName(t.Context(), &access.Holder{Key: access.Key{Name: name}}), during)
			defer cancel()
			for d.wait(ctx) == nil {
				n++
			}
			return n
		}
		if n := use("a", 10*time.Second); n < 100 || n > 111 { // 10 a second, and 10 at once
			t.Errorf("one key took %d in 10 s", n)
		}
		time.Sleep(time.Minute)
		var wg sync.WaitGroup
		var total atomic.Int64
		for _, name := range []string{"a", "b", "c", "d"} {
			wg.Go(func() { total.Add(int64(use(name, 10*time.Second))) })
		}
		wg.Wait()
		if n := total.Load(); n < 190 || n > 221 { // 20 a second, and 20 at once
			t.Errorf("all keys took %d in 10 s", n)
		}
		replicas = 4
		time.Sleep(time.Minute)
		if n := use("a", 10*time.Second); n < 20 || n > 30 {
			t.Errorf("one key of one of four replicas took %d in 10 s", n)
		}
	})
}

// Finding 1, on each listener: connections whose request does not come keep nobody out.
func TestStalledConnectionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	s := serveAPI(t, servedOptions{sim: ordered, roles: []config.Role{config.RoleWebhook, config.RoleWorker}})
	addrs := s.app.Addrs()
	for _, c := range []struct {
		addr, path string
		conns      int
		status     int
	}{{addrs.Ops, "/healthz", 300, 200}, {addrs.API, "/v1/nothing", 1200, 401}, {addrs.Webhook, "/", 1200, 404}} {
		for n := range c.conns {
			conn, err := net.Dial("tcp", c.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			head := "GET " + c.path + " HTTP/1.1\r\nX: "
			if n%2 == 0 {
				head = "POST " + c.path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx"
			}
			_, _ = io.WriteString(conn, head)
		}
		began := time.Now()
		if code, body := ask(t, "http://"+c.addr+c.path, "localhost"); code != c.status || time.Since(began) > patience.Of(5*time.Second) {
			t.Errorf("%s after %s: %d %s", c.addr, time.Since(began), code, body)
		}
	}
	code, text := ask(t, "http://"+addrs.Ops+"/metrics", "localhost")
	if code != 200 || !strings.Contains(text, `creditmirror_connections_total{listener="ops",outcome="evicted_share"}`) {
		t.Errorf("%d", code)
	}
}

// A webhook whose signature is too old is refused before its body is there.
func TestOldSignaturesAreRefusedBeforeTheBody(t *testing.T) {
	t.Parallel()
	s := serveAPI(t, servedOptions{sim: ordered, roles: []config.Role{config.RoleWebhook, config.RoleWorker}})
	for _, at := range []time.Time{time.Now().Add(-301 * time.Second), time.Now().Add(310 * time.Second), time.Unix(1, 0)} {
		conn, err := net.Dial("tcp", s.app.Addrs().Webhook)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		began := time.Now()
		fmt.Fprintf(conn, "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nStripe-Signature: t=%d,v1=%s\r\n\r\nx", at.Unix(), strings.Repeat("0", 64))
		answer := make([]byte, 64)
		n, err := conn.Read(answer)
		if err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 400") || time.Since(began) > patience.Of(5*time.Second) {
			t.Errorf("%s: %q, %v after %s", at, answer[:n], err, time.Since(began))
		}
	}
}

// Who wrote what is in the mirror, with a bound on what a key may move in a day.
func TestWritesThroughAreRecorded(t *testing.T) {
	t.Parallel()
	const limited = "limitedlimitedlimitedlimited"
	onBoth(t, servedOptions{sim: stripesim.Options{}, env: []string{
		`CREDITMIRROR_API_KEYS=[{"name":"reader","key":"` + readKey + `"},{"name":"writer","key":"` + writeKey + `","rights":"write"},` +
			`{"name":"limited","key":"` + limited + `","rights":"write","max_per_day":{"usd":1000}}]`,
	}}, func(t *testing.T, s *served) {
		path := "/v1/customers/" + s.customer() + "/balance_transactions"
		made := s.post(path, balanceForm("-700")).id(t)
		var codes []int
		for range 5 {
			codes = append(codes, send(t, http.MethodPost, s.api, path, limited, balanceForm("-300")).status)
		}
		if fmt.Sprint(codes) != "[200 200 200 403 403]" {
			t.Errorf("with a limit of 1000: %v", codes)
		}
		send(t, http.MethodPost, s.api, path, readKey, balanceForm("-1"))
		journal := s.app.Store().(mirror.APIJournal)
		var rows []mirror.APIWrite
		for deadline := time.Now().Add(patience.Of(20 * time.Second)); len(rows) < 7 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			var err error
			if rows, err = journal.APIWrites(t.Context(), mirror.APIWriteFilter{}, mirror.APIWrite{}, 100); err != nil {
				t.Fatal(err)
			}
		}
		if len(rows) != 7 {
			t.Fatalf("rows %+v", rows)
		}
		if w := rows[0]; w.Key != "writer" || w.Object != made || w.Amount != -700 || w.Outcome != mirror.APIDone || w.StripeRequestID == "" || w.RemoteAddr != "127.0.0.1" {
			t.Errorf("%+v", w)
		}
		if w := rows[4]; w.Key != "limited" || w.Outcome != mirror.APIRefused || w.Reason != "max_per_day" {
			t.Errorf("%+v", w)
		}
		if w := rows[6]; w.Key != "reader" || w.Reason != "read_only" || w.Operation != "adjust" {
			t.Errorf("%+v", w)
		}
	})
}
