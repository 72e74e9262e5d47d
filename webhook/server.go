package webhook

import (
	"net/http"
	"time"

	"github.com/creditmirror/creditmirror/doors"
)

const (
	// maxConns is how many connections are open at once, at some 20 KiB each.
	maxConns = 4096
	// maxShare is how many of them one address may have whose request is arriving.
	maxShare = maxConns / 4
)

// NewServer makes a server with the limits that an address open to everybody
// needs. The body's own deadline is the handler's. b says whose it is; its bounds
// default to those of this address.
func NewServer(addr string, h http.Handler, b doors.Bounds) *http.Server {
	if b.Conns == 0 {
		b.Conns, b.Share = maxConns, maxShare
	}
	s := doors.NewServer(h, b)
	s.Addr = addr
	// A bound behind the handler's own of 10 s, for whatever it does not read.
	s.ReadTimeout = 15 * time.Second
	// From the end of the header: 10 s for the body, 2 s for the answer, and slack.
	s.WriteTimeout = 20 * time.Second
	return s
}
