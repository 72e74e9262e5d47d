package webhook

import (
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// maxConns is how many connections are open at once, at some 20 KiB each.
const maxConns = 4096

// NewServer makes a server with the limits that an address open to everybody
// needs. The body's own deadline is the handler's. HTTP/1 only: Stripe speaks it,
// and HTTP/2 would add streams to bound.
func NewServer(addr string, h http.Handler, log *zap.Logger) *http.Server {
	return newServer(addr, h, log, maxConns)
}

func newServer(addr string, h http.Handler, logger *zap.Logger, conns int) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	limit := &connLimit{most: conns, quiet: make(map[net.Conn]struct{})}
	return &http.Server{
		Addr:              addr,
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: 2 * time.Second,
		// A bound behind the handler's own of 10 s, for whatever it does not read.
		ReadTimeout: 15 * time.Second,
		// From the end of the header: 10 s for the body, 2 s for the answer, and slack.
		WriteTimeout:   20 * time.Second,
		IdleTimeout:    60 * time.Second,
		MaxHeaderBytes: 16 << 10,
		// OPTIONS * is not ours to answer with 200.
		DisableGeneralOptionsHandler: true,
		ConnState:                    limit.changed,
		ErrorLog:                     log.New(serverLog{sampled(logger.With(zap.String("component", "webhook")))}, "", 0),
	}
}

// serverLog takes what net/http has to say: failing accepts and the like.
type serverLog struct{ log *zap.Logger }

func (l serverLog) Write(p []byte) (int, error) {
	l.log.Warn("webhook server", zap.String("error", strings.TrimSpace(string(p))))
	return len(p), nil
}

// connLimit bounds the number of connections. For a new one too many, one that
// asks nothing at the moment is closed: so idle connections, be they 10,000, keep
// nobody out.
type connLimit struct {
	most  int
	mu    sync.Mutex
	open  int
	quiet map[net.Conn]struct{} // new, or between two requests
}

func (l *connLimit) changed(c net.Conn, s http.ConnState) {
	if victim := l.count(c, s); victim != nil {
		// Its server goroutine sees the closed connection and ends.
		_ = victim.Close()
	}
}

// count follows a connection and returns the one to close, if any.
func (l *connLimit) count(c net.Conn, s http.ConnState) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch s {
	case http.StateNew:
		l.open++
		if l.open <= l.most {
			l.quiet[c] = struct{}{}
			return nil
		}
		for q := range l.quiet { // any: a map's order is random enough
			delete(l.quiet, q)
			l.quiet[c] = struct{}{}
			return q
		}
		return c
	case http.StateIdle:
		l.quiet[c] = struct{}{}
	case http.StateActive:
		delete(l.quiet, c)
	case http.StateClosed, http.StateHijacked:
		l.open--
		delete(l.quiet, c)
	}
	return nil
}
