package webhook

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/doors"
)

func TestServerLimits(t *testing.T) {
	t.Parallel()
	logs, observed := observe()
	srv := NewServer(":8080", http.NotFoundHandler(), doors.Bounds{Name: "webhook", Log: logs})
	if srv.Addr != ":8080" || srv.ReadHeaderTimeout != 2*time.Second || srv.IdleTimeout != time.Minute ||
		srv.MaxHeaderBytes != 16<<10 || srv.ReadTimeout <= 10*time.Second || srv.WriteTimeout <= 12*time.Second ||
		srv.Protocols.HTTP2() || srv.Protocols.UnencryptedHTTP2() {
		t.Errorf("%+v", srv)
	}
	for range 100 {
		srv.ErrorLog.Print("http: Accept error: too many open files")
	}
	if n := observed.FilterMessage("connection failed").Len(); n != 5 {
		t.Errorf("%d lines of 100 errors", n)
	}
}

// Idle connections are closed for new ones, so they keep nobody out, and their
// number is bounded.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	s := serve(t, 20)
	body := string(event("evt_1", customer))
	good := head("Stripe-Signature: "+sign([]byte(body), testClock, secret), fmt.Sprintf("Content-Length: %d", len(body))) + body
	for i := range 200 {
		conn := s.dial(t) // stays open: idle after its answer
		io.WriteString(conn, good)
		if got := code(t, conn); got != 200 {
			t.Fatalf("connection %d: code %d", i, got)
		}
	}
}

// F33: what 10,000 silent connections may cost. They are dialled in turn; the
// server keeps maxConns of them at most and lets go of the silent after 2 s.
func TestManySilentConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 10,000 connections")
	}
	b := newBench(t, nil)
	srv := NewServer("", b.handler, doors.Bounds{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	defer func() { srv.Close(); <-ended }()
	s := &served{bench: b, addr: l.Addr().String()}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	conns := make([]net.Conn, 0, 10000)
	for range cap(conns) {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Skipf("this machine gives no %d connections: %v", cap(conns), err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.Sys) - int64(before.Sys); grown > 256<<20 {
		t.Errorf("%d connections cost %d MiB", len(conns), grown>>20)
	}
	conn := s.dial(t)
	body := string(event("evt_1", customer))
	io.WriteString(conn, head("Stripe-Signature: "+sign([]byte(body), testClock, secret), fmt.Sprintf("Content-Length: %d", len(body)))+body)
	if got := code(t, conn); got != 200 {
		t.Errorf("code %d behind them", got)
	}
}
