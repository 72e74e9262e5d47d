package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/creditmirror/creditmirror/backoff"
)

const (
	// sendTimeout bounds one attempt, from dialling to the status of the answer.
	sendTimeout = 10 * time.Second
	dialTimeout = 5 * time.Second
	// drainTimeout and maxAnswer bound what is read of an answer's body, so that
	// the connection can serve again; nobody looks at it.
	drainTimeout = time.Second
	maxAnswer    = 16 << 10
	maxHeader    = 16 << 10
)

// The outcomes of an attempt, as metrics and the log name them.
const (
	outcomeDelivered   = "delivered"
	outcomeRefused     = "refused"     // an answer that is not 2xx
	outcomeBlocked     = "blocked"     // an address that may not be connected to
	outcomeUnreachable = "unreachable" // no answer: network, TLS, timeout
)

var outcomes = []string{outcomeDelivered, outcomeRefused, outcomeBlocked, outcomeUnreachable}

// sender makes single attempts.
type sender struct {
	url     string
	secrets []string
	agent   string
	client  *http.Client
	timeout time.Duration
	now     func() time.Time
}

func newSender(target *url.URL, g guard, secrets []string, agent string) *sender {
	return &sender{
		url: target.String(), secrets: secrets, agent: agent, timeout: sendTimeout, now: time.Now,
		client: &http.Client{
			Transport: &http.Transport{
				// No proxy: it would connect in our place, and nobody would ask the guard.
				Proxy:                  nil,
				DialContext:            g.dialer().DialContext,
				TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout:    dialTimeout,
				ResponseHeaderTimeout:  sendTimeout,
				MaxResponseHeaderBytes: maxHeader,
				MaxConnsPerHost:        1,
				IdleConnTimeout:        30 * time.Second,
				DisableCompression:     true,
			},
			// A redirect is an answer like any other that is not 2xx: what it points to
			// was never configured.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// failure is an attempt that did not deliver.
type failure struct {
	outcome string
	// status is the answer's; 0 without one.
	status int
	// retryAfter is how long the receiver asks to wait; 0 where it does not say.
	retryAfter time.Duration
	err        error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// send makes one attempt; its error is a *failure.
func (s *sender) send(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	body := m.encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return &failure{outcome: outcomeUnreachable, err: errors.New("the URL cannot be called")}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", s.agent)
	req.Header.Set(SignatureHeader, Sign(body, s.now(), s.secrets))
	resp, err := s.client.Do(req)
	if err != nil {
		return s.unanswered(err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		_ = resp.Body.Close() // the bare connection: nothing would end a read of it
	} else {
		drain(resp.Body, cancel)
	}
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return nil
	}
	f := &failure{outcome: outcomeRefused, status: resp.StatusCode, err: fmt.Errorf("answered with %d", resp.StatusCode)}
	if resp.StatusCode >= 300 && resp.StatusCode <= 399 {
		f.err = fmt.Errorf("answered with %d, a redirect, which is not followed", resp.StatusCode)
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		f.retryAfter = backoff.RetryAfter(resp.Header.Get("Retry-After"), s.now())
	}
	return f
}

// unanswered classifies an error of net/http without the URL, whose path may hold
// a token.
func (s *sender) unanswered(err error) *failure {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	f := &failure{outcome: outcomeUnreachable, err: err}
	switch blocked, ok := errors.AsType[*BlockedError](err); {
	case ok:
		f.outcome, f.err = outcomeBlocked, blocked
	case errors.Is(err, context.DeadlineExceeded):
		f.err = fmt.Errorf("no answer within %s", s.timeout)
	case errors.Is(err, context.Canceled):
		f.err = errors.New("cut off: the process stops")
	case !ownWords(err):
		f.err = errors.New("the answer cannot be read as HTTP")
	}
	return f
}

// ownWords reports whether an error is of this side's network or TLS. What net/http
// says of an answer that it cannot read quotes the answer, which may hold a token.
func ownWords(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	_, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// drain reads a little of a body, for a short time, and closes it. A body that is
// longer or slower costs its connection.
func drain(body io.ReadCloser, cancel context.CancelFunc) {
	timer := time.AfterFunc(drainTimeout, cancel)
	defer timer.Stop()
	_, _ = io.CopyN(io.Discard, body, maxAnswer+1) // nobody wants to know
	_ = body.Close()
}

// close gives back idle connections.
func (s *sender) close() { s.client.CloseIdleConnections() }
