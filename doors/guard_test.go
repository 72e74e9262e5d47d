package doors

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe is a connection from an address.
type pipe struct {
	net.Conn
	addr   string
	closed bool
}

func (p *pipe) Close() error         { p.closed = true; return nil }
func (p *pipe) RemoteAddr() net.Addr { return text(p.addr) }

type text string

func (text) Network() string  { return "tcp" }
func (t text) String() string { return string(t) }

// The connection that goes is the one whose request has been arriving for the longest; an
// idle one where all are young; never one whose request has arrived.
func TestWhoIsClosed(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	registry := prometheus.NewRegistry()
	metrics, err := NewMetrics(registry, "x")
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.WarnLevel)
	g := NewGuard(Bounds{Name: "x", Conns: 3, Metrics: metrics, Log: zap.New(core), Now: func() time.Time { return now }})
	n := 0
	dial := func() *pipe {
		n++
		p := &pipe{addr: fmt.Sprintf("192.0.2.%d:1", n)}
		now = now.Add(100 * time.Millisecond)
		g.changed(p, http.StateNew)
		return p
	}
	want := func(what string, p *pipe, closed bool) {
		t.Helper()
		if p.closed != closed {
			t.Errorf("%s: closed %t", what, p.closed)
		}
	}
	worker, stalled, idle := dial(), dial(), dial()
	g.arrived(worker)
	g.arrived(idle)
	g.changed(idle, http.StateIdle)
	fourth := dial()
	want("an idle one before a young one", idle, true)
	now = now.Add(youngReading)
	fifth := dial()
	want("the one that stalls", stalled, true)
	want("the newcomer", fifth, false)
	sixth := dial()
	want("the next that stalls", fourth, true)
	g.changed(fifth, http.StateActive) // its first byte makes it no younger
	now = now.Add(youngReading)
	dial()
	want("longest from its opening on", fifth, true)
	g.arrived(sixth)
	for range 10 {
		dial()
	}
	want("at work", worker, false)
	want("at work too", sixth, false)
	for p := range g.conns {
		g.changed(p, http.StateClosed)
	}
	if len(g.conns) != 0 || g.reading.Len() != 0 || g.idle.Len() != 0 || len(g.remotes) != 0 {
		t.Errorf("left: %d, %d, %d, %d", len(g.conns), g.reading.Len(), g.idle.Len(), len(g.remotes))
	}
	if got := testutil.ToFloat64(metrics.total.WithLabelValues("x", "evicted_idle")); got != 1 {
		t.Errorf("%v idle ones", got)
	}
	if logs.Len() != 1 {
		t.Errorf("%d lines", logs.Len())
	}
	full := NewGuard(Bounds{Conns: 1})
	first, second := &pipe{addr: "192.0.2.1:1"}, &pipe{addr: "192.0.2.2:1"}
	full.changed(first, http.StateNew)
	full.arrived(first)
	full.changed(second, http.StateNew)
	want("one at work where all are", first, false)
	want("the newcomer where all are at work", second, true)
}

func TestShares(t *testing.T) {
	t.Parallel()
	g := NewGuard(Bounds{Conns: 100, Share: 2, Proxies: Proxies{netip.MustParsePrefix("10.0.0.0/8")}})
	dial := func(addr string) *pipe {
		p := &pipe{addr: addr}
		g.changed(p, http.StateNew)
		return p
	}
	a, b, c := dial("192.0.2.1:1"), dial("192.0.2.1:2"), dial("192.0.2.1:3")
	if !a.closed || b.closed || c.closed {
		t.Error("not the oldest of the address that has more than its share")
	}
	d, e, f := dial("[2001:db8::1]:1"), dial("[2001:db8::2]:1"), dial("[2001:db8::3]:1")
	if !d.closed || e.closed || f.closed {
		t.Error("a /64 is not one address")
	}
	if dial("192.0.2.2:1").closed || dial("[2001:db8:0:1::1]:1").closed {
		t.Error("others are closed")
	}
	g.arrived(b)
	if g2 := dial("192.0.2.1:4"); g2.closed || c.closed {
		t.Error("what has arrived counts")
	}
	for n := range 50 {
		if p := dial(fmt.Sprintf("10.0.0.1:%d", n)); p.closed {
			t.Error("a proxy has a share")
		}
	}
	for p := range g.conns {
		if p.(*pipe).addr[0] == '1' && p.(*pipe).addr[1] == '0' && p.(*pipe).closed {
			t.Error("a proxy has a share")
		}
	}
}

// listen serves a handler behind a guard.
func listen(t *testing.T, h http.HandlerFunc, b Bounds, c *Certificate) string {
	t.Helper()
	s := NewServer(h, b)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if c != nil {
		l = tls.NewListener(l, c.Config())
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func open(t *testing.T, addr, send string) net.Conn {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, send)
	return c
}

func status(t *testing.T, c net.Conn) int {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	_ = r.Body.Close()
	return r.StatusCode
}

// Whoever stalls, with a header or with a body, keeps nobody out; and a request that has
// arrived is answered however many knock.
func TestStalledRequestsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	release, inside := make(chan struct{}), make(chan struct{}, 1)
	addr := listen(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		if r.URL.Path == "/slow" {
			inside <- struct{}{}
			<-release
		}
	}, Bounds{Name: "x", Conns: 20}, nil)
	slow := open(t, addr, "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
	<-inside
	for n := range 100 {
		open(t, addr, []string{"", "POST / HTTP/1.1\r\nHost: x\r\nX: ", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx"}[n%3])
		if code := status(t, open(t, addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")); code != 200 {
			t.Fatalf("behind %d stalled ones: %d", n+1, code)
		}
	}
	close(release)
	if code := status(t, slow); code != 200 {
		t.Errorf("the one that had arrived: %d", code)
	}
}

// Under pressure a body that trickles has less time.
func TestBodiesMustComeUnderPressure(t *testing.T) {
	t.Parallel()
	failed := make(chan error, 16)
	addr := listen(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		failed <- err
	}, Bounds{Name: "x", Conns: 16}, nil)
	for range 3 { // more than an eighth
		open(t, addr, "GET / HTTP/1.1\r\nX: ")
	}
	c := open(t, addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	_ = c.Close()
}

func TestOptionsAsteriskIsNotAnswered(t *testing.T) {
	t.Parallel()
	addr := listen(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, Bounds{Name: "x", Conns: 5}, nil)
	if code := status(t, open(t, addr, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")); code != 404 {
		t.Errorf("%d", code)
	}
	if code := status(t, open(t, addr, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 32<<10)+"\r\n\r\n")); code != 431 {
		t.Errorf("a large header: %d", code)
	}
}

// certificate writes a new one for 127.0.0.1 and returns its serial number.
func certificate(t *testing.T, dir string, serial int64) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// A certificate is read again when it changes, and a broken one leaves the old one.
func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := certificate(t, dir, 1)
	core, logs := observer.New(zap.WarnLevel)
	c, err := LoadCertificate(certFile, keyFile, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	addr := listen(t, func(http.ResponseWriter, *http.Request) {}, Bounds{Name: "x", Conns: 5}, c)
	serial := func(version uint16) (int64, error) {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MaxVersion: version}} // a test looks at what it gets
		conn, err := d.DialContext(context.Background(), "tcp", addr)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
	}
	again := func() {
		c.mu.Lock()
		c.checked = time.Time{}
		c.mu.Unlock()
	}
	if n, err := serial(tls.VersionTLS13); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := serial(tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	certificate(t, dir, 2)
	again()
	if n, err := serial(tls.VersionTLS12); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if err := os.WriteFile(certFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	again()
	if n, err := serial(tls.VersionTLS13); n != 2 || err != nil || logs.Len() != 1 {
		t.Fatal(n, err, logs.All())
	}
	certificate(t, dir, 3)
	again()
	if n, err := serial(tls.VersionTLS13); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := LoadCertificate(certFile, dir+"/none", zap.NewNop()); err == nil {
		t.Error("a key that there is not was read")
	}
}

// A listener with a pace takes no more than that of a flood, and rests for nobody else.
func TestPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGuard(Bounds{Name: "x", Conns: 2, Pace: time.Millisecond})
		began := time.Now()
		for n := range 100 {
			g.changed(&pipe{addr: fmt.Sprintf("192.0.2.%d:1", n)}, http.StateNew)
		}
		if took := time.Since(began); took != 98*time.Millisecond {
			t.Errorf("100 connections where 2 are open at once: rested %v, want 98ms", took)
		}
		// A connection that is used again is served by a goroutine of its own, whose
		// request must not wait.
		g = NewGuard(Bounds{Name: "x", Conns: 10, Share: 1, Pace: time.Millisecond})
		again, other := &pipe{addr: "192.0.2.1:1"}, &pipe{addr: "192.0.2.1:2"}
		began = time.Now()
		g.changed(again, http.StateNew)
		g.changed(again, http.StateIdle)
		g.changed(other, http.StateNew)
		g.changed(again, http.StateActive)
		if took := time.Since(began); !other.closed || took != 0 {
			t.Errorf("a second request beside another: closed %v, rested %v; want the other closed at once", other.closed, took)
		}
	})
}

// A request with a length and in chunks ends where the reader of the two likes. What comes
// behind it on the connection is answered by nobody.
func TestNothingComesBehindChunks(t *testing.T) {
	t.Parallel()
	const behind = "GET /behind HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		send    string
		answers int
	}{
		"length and chunks":   {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 41\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
		"chunks, then length": {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\tchunked\r\nContent-Length: 4\r\n\r\n1\r\nx\r\n0\r\n\r\n", 1},
		"chunks":              {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 1},
		"length":              {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }), Bounds{Conns: 10})
			done := make(chan error, 1)
			go func() { done <- s.Serve(l) }()
			defer func() { _ = s.Close(); <-done }()
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// The last request ends the connection, so that all that is answered can be read.
			if _, err := io.WriteString(conn, c.send+strings.Replace(behind, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)); err != nil {
				t.Fatal(err)
			}
			all, _ := io.ReadAll(conn) // a reset behind the answer is an end too
			if n := strings.Count(string(all), "HTTP/1.1 "); n != c.answers {
				t.Errorf("%d answers, want %d: %q", n, c.answers, all)
			}
		})
	}
}
