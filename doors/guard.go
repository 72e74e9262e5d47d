package doors

import (
	"container/list"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// Bounds are those of one listener.
type Bounds struct {
	// Name is the listener's, in metrics and lines.
	Name string
	// Conns is how many connections are open at once.
	Conns int
	// Share is how many of them one remote address may have whose request is still being
	// read; 0: as many as there are.
	Share int
	// Pace is how long the listener rests after it closed a connection for a new one: a
	// flood that comes back at once must not cost a processor. Others wait in the
	// system's queue meanwhile. 0: not at all.
	Pace time.Duration
	// Proxies have no share: everybody comes from their addresses.
	Proxies Proxies
	// Metrics defaults to none.
	Metrics *Metrics
	// Log defaults to none.
	Log *zap.Logger
	// Now defaults to time.Now.
	Now func() time.Time
}

const (
	// youngReading is how long a request may take to arrive before its connection goes
	// ahead of idle ones.
	youngReading = 500 * time.Millisecond
	// Under pressure a body must arrive at this rate, with some time to begin with.
	leastRate, leastGrace = 16 << 10, 2 * time.Second
)

// Guard bounds the connections of a server. When there are too many, the one goes whose
// request has been arriving for the longest, not the newcomer: whoever stalls keeps
// nobody out. A connection whose request has arrived is never closed for another.
type Guard struct {
	b    Bounds
	warn rate.Sometimes

	mu      sync.Mutex
	conns   map[net.Conn]*conn
	reading *list.List // of *conn, the one that has been reading for the longest first
	idle    *list.List // of *conn, the one that has been idle for the longest first
	remotes map[netip.Prefix]*list.List
}

// state is what a connection does.
type state int

const (
	stateReading state = iota // from its opening, or the first byte of a request, to the last
	stateWorking              // the request has arrived and is not answered
	stateIdle
	stateGone // closed for another; its goroutine has yet to see it
)

// conn is one connection.
type conn struct {
	net.Conn
	remote netip.Prefix // the zero value has no share
	state  state
	since  time.Time
	place  *list.Element // in reading or idle
	share  *list.Element // in the list of its remote
}

// NewGuard returns a guard with the bounds. Apply it to one server.
func NewGuard(b Bounds) *Guard {
	if b.Log == nil {
		b.Log = zap.NewNop()
	}
	if b.Now == nil {
		b.Now = time.Now
	}
	return &Guard{
		b: b, warn: rate.Sometimes{Interval: time.Minute},
		conns: map[net.Conn]*conn{}, reading: list.New(), idle: list.New(), remotes: map[netip.Prefix]*list.List{},
	}
}

// Apply has the server ask the guard.
func (g *Guard) Apply(s *http.Server) {
	s.ConnState = g.changed
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	s.Handler = g.handler(s.Handler)
}

type connKey struct{}

// handler notifies the guard when a request has arrived.
//
// A request in chunks is the last of its connection. It may have had a length too, which
// net/http drops without a word. A proxy that went by the length would take for body what
// is read here as the next request, and that one would be somebody else's.
func (g *Guard) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		c, _ := r.Context().Value(connKey{}).(net.Conn)
		switch {
		case c == nil:
		case r.Body == nil || r.Body == http.NoBody:
			g.arrived(c)
		default:
			r.Body = &body{ReadCloser: r.Body, guard: g, conn: c, began: g.b.Now(), deadline: http.NewResponseController(w).SetReadDeadline}
		}
		next.ServeHTTP(w, r)
	})
}

// body notifies the guard when the last byte has come, and under pressure gives a slow one
// less time.
type body struct {
	io.ReadCloser
	guard    *Guard
	conn     net.Conn
	began    time.Time
	bytes    int64
	deadline func(time.Time) error
	done     bool
}

func (b *body) Read(p []byte) (int, error) {
	if !b.done && b.guard.pressed() {
		// It is later than the reader's own deadline only when the body has come fast.
		least := b.began.Add(leastGrace + time.Duration(b.bytes)*time.Second/leastRate)
		if least.Before(b.began.Add(leastGrace + 8*time.Second)) {
			_ = b.deadline(least) // without a connection there is nothing to bound
		}
	}
	n, err := b.ReadCloser.Read(p)
	b.bytes += int64(n)
	if err != nil && !b.done {
		b.done = true
		b.guard.arrived(b.conn) // or it never will: then the answer comes at once
	}
	return n, err
}

// changed follows a connection; net/http calls it.
func (g *Guard) changed(c net.Conn, s http.ConnState) {
	g.mu.Lock()
	victim, outcome := g.follow(c, s)
	reading, open := g.reading.Len(), len(g.conns)
	g.mu.Unlock()
	if victim == nil {
		return
	}
	cut(victim.Conn)
	g.b.Metrics.closed(g.b.Name, outcome)
	g.warn.Do(func() {
		g.b.Log.Warn("connection limit reached; closed connections to make room", zap.String("listener", g.b.Name), zap.String("outcome", string(outcome)),
			zap.Int("open", open), zap.Int("reading", reading), zap.String("remote_addr", hostOf(victim.Conn)))
	})
	if s == http.StateNew { // net/http accepts nothing until this returns
		time.Sleep(g.b.Pace)
	}
}

// follow returns the connection to close, if any.
func (g *Guard) follow(c net.Conn, s http.ConnState) (*conn, Outcome) {
	held := g.conns[c]
	switch s {
	case http.StateNew:
		held = &conn{Conn: c, remote: g.remoteOf(c)}
		g.conns[c] = held
		g.enter(held, stateReading)
		g.b.Metrics.open(g.b.Name, len(g.conns))
		return g.victim(held)
	case http.StateActive:
		if held != nil && held.state == stateIdle { // the first byte of its next request
			g.enter(held, stateReading)
			return g.shareVictim(held)
		}
	case http.StateIdle:
		if held != nil && held.state != stateGone {
			g.enter(held, stateIdle)
		}
	case http.StateClosed, http.StateHijacked:
		if held != nil {
			if held.state != stateGone {
				g.b.Metrics.closed(g.b.Name, OutcomeFinished)
			}
			g.enter(held, stateGone)
			delete(g.conns, c)
			g.b.Metrics.open(g.b.Name, len(g.conns))
		}
	}
	return nil, ""
}

// enter moves a connection to the list of its state.
func (g *Guard) enter(c *conn, s state) {
	if c.place != nil {
		if c.state == stateIdle {
			g.idle.Remove(c.place)
		} else {
			g.reading.Remove(c.place)
		}
		c.place = nil
	}
	if c.share != nil {
		of := g.remotes[c.remote]
		if of.Remove(c.share); of.Len() == 0 {
			delete(g.remotes, c.remote)
		}
		c.share = nil
	}
	c.state, c.since = s, g.b.Now()
	switch s {
	case stateReading:
		c.place = g.reading.PushBack(c)
		if c.remote.IsValid() {
			if g.remotes[c.remote] == nil {
				g.remotes[c.remote] = list.New()
			}
			c.share = g.remotes[c.remote].PushBack(c)
		}
	case stateIdle:
		c.place = g.idle.PushBack(c)
	}
}

// victim returns the connection to close for a new one.
func (g *Guard) victim(newcomer *conn) (*conn, Outcome) {
	if v, outcome := g.shareVictim(newcomer); v != nil {
		return v, outcome
	}
	if len(g.conns) <= g.b.Conns {
		return nil, ""
	}
	oldest := newcomer
	if front := g.reading.Front(); front != nil {
		oldest = front.Value.(*conn)
	}
	v, outcome := oldest, OutcomeReading
	idle := g.idle.Front()
	switch {
	case oldest != newcomer && g.b.Now().Sub(oldest.since) >= youngReading:
	case idle != nil:
		v, outcome = idle.Value.(*conn), OutcomeIdle
	case oldest == newcomer:
		outcome = OutcomeRefused
	}
	g.enter(v, stateGone)
	return v, outcome
}

// shareVictim returns the connection to close of a remote that has more than its share.
func (g *Guard) shareVictim(c *conn) (*conn, Outcome) {
	of := g.remotes[c.remote]
	if g.b.Share <= 0 || of == nil || of.Len() <= g.b.Share {
		return nil, ""
	}
	v := of.Front().Value.(*conn)
	g.enter(v, stateGone)
	return v, OutcomeShare
}

// arrived notes that a request is there as a whole: its connection is safe until it is
// answered.
func (g *Guard) arrived(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if held := g.conns[c]; held != nil && held.state == stateReading {
		g.enter(held, stateWorking)
	}
}

// pressed reports whether many requests are still arriving.
func (g *Guard) pressed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reading.Len() > g.b.Conns/8
}

// remoteOf is what has a share: an address, of IPv6 a whole /64, which one host may have.
func (g *Guard) remoteOf(c net.Conn) netip.Prefix {
	addr, err := netip.ParseAddrPort(c.RemoteAddr().String())
	ip := addr.Addr().Unmap().WithZone("")
	if err != nil || g.b.Proxies.Trusts(ip) {
		return netip.Prefix{}
	}
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

func hostOf(c net.Conn) string {
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	return host
}

// cut closes a connection without a farewell: TLS' own could wait for a peer that does
// not read.
func cut(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_ = c.Close() // its server goroutine sees it and ends
}
