//go:build unix

package e2e

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between the program and a service, and can be a bad line.
type proxy struct {
	addr     string
	listener net.Listener

	mu    sync.Mutex
	to    string
	conns map[net.Conn]bool

	latency atomic.Int64 // of each piece of data, either way
	silent  atomic.Bool  // half-open: connections stand, and nothing passes
	down    atomic.Bool  // new connections are refused at once
	// cutAnswer has a connection cut when the service answers with this text, which
	// does not pass.
	cutAnswer atomic.Pointer[string]
	cuts      atomic.Int32
}

func newProxy(tb testing.TB) *proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it listens as long as the test
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), listener: l, conns: map[net.Conn]bool{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.serve(c) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		p.silent.Store(false)
		p.cut()
		running.Wait()
	})
	return p
}

// target changes where new connections go, and cuts those that stand.
func (p *proxy) target(to string) {
	p.mu.Lock()
	p.to = to
	p.mu.Unlock()
	p.cut()
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) keep(c net.Conn) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return func() {
		_ = c.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
	}
}

func (p *proxy) serve(client net.Conn) {
	defer p.keep(client)()
	if p.down.Load() {
		return
	}
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	server, err := net.Dial("tcp", to) //nolint:noctx // loopback answers at once
	if err != nil {
		return
	}
	defer p.keep(server)()
	var both sync.WaitGroup
	both.Go(func() { p.pump(server, client, true) })
	both.Go(func() { p.pump(client, server, false) })
	both.Wait()
}

// pump copies until either side is closed; asks is the program's direction.
func (p *proxy) pump(to, from net.Conn, asks bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			time.Sleep(time.Duration(p.latency.Load()))
			for p.silent.Load() {
				time.Sleep(10 * time.Millisecond)
			}
			if text := p.cutAnswer.Load(); !asks && text != nil && bytes.Contains(buf[:n], []byte(*text)) {
				p.cuts.Add(1)
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
