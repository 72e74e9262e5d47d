package stripeapi

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// errTooLarge reports a reply longer than Options.MaxReply.
var errTooLarge = errors.New("the reply is too large")

// maxConcurrent is how many calls at a time keep their connections for reuse.
const maxConcurrent = 64

// newTransport makes the connections. The deadline of an attempt is its
// context's; the timeouts here only end what the context cannot see.
func newTransport(timeout time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: min(timeout, 10*time.Second), KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    min(timeout, 10*time.Second),
		ResponseHeaderTimeout:  timeout,
		MaxIdleConns:           maxConcurrent,
		MaxIdleConnsPerHost:    maxConcurrent,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
		// Finds a dead HTTP/2 connection before the calls on it time out.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
}

// boundedTransport bounds the body of every reply, after decompression, because
// stripe-go reads bodies to their end whatever their length; and it notes the
// reply's status and headers, which stripe-go loses when the body is not JSON.
type boundedTransport struct {
	next     http.RoundTripper
	maxReply int64
}

func (t *boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.Header.Del("X-Stripe-Client-User-Agent") // names this host and its kernel
	resp, err := t.next.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	if a, ok := req.Context().Value(attemptKey{}).(*attempt); ok {
		a.status, a.header = resp.StatusCode, resp.Header
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: t.maxReply, declared: resp.ContentLength}
	return resp, nil
}

func (t *boundedTransport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

type boundedBody struct {
	io.ReadCloser
	left     int64 // bytes that may still be read
	declared int64 // Content-Length; -1 when unknown
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.declared > b.left { // do not read what will be refused
		return 0, errTooLarge
	}
	b.declared = -1 // net/http checks the rest of it
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more, to distinguish a full body from one too long
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.left {
		return int(b.left), errTooLarge
	}
	b.left -= int64(n)
	return n, err
}

// attempt is what the transport saw of one request.
type attempt struct {
	status int
	header http.Header
}

type attemptKey struct{}

func withAttempt(ctx context.Context, a *attempt) context.Context {
	return context.WithValue(ctx, attemptKey{}, a)
}
