package simulation

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripesim"
)

// toStripe carries a process's calls to the simulator, with an await point on the way
// there and another on the way back.
type toStripe struct{ p *process }

func (t toStripe) RoundTrip(r *http.Request) (*http.Response, error) {
	w := t.p.w
	name := w.endpoint(r)
	w.asked(r)
	if _, err := w.park(r.Context(), t.p, seamAsk, name); err != nil {
		return nil, err
	}
	response := w.serve(r)
	c, err := w.park(r.Context(), t.p, seamReply, name)
	if err != nil {
		return nil, err
	}
	if r.Method == http.MethodGet {
		return w.spoil(c, r, response)
	}
	return response, nil
}

// serve lets the simulator answer a request, or, while replies lag as a whole, the
// simulator as it was some time ago.
func (w *world) serve(r *http.Request) *http.Response {
	target := w.answers
	if r.Method == http.MethodGet {
		if q := r.URL.Query(); q.Get("limit") != "" {
			n, _ := strconv.Atoi(q.Get("limit"))
			q.Set("limit", strconv.Itoa(min(n, w.page)))
			r = r.Clone(r.Context())
			r.URL.RawQuery = q.Encode()
		}
		if w.replica != nil && w.window(faultReplica) && r.URL.Path != "/v1/events" {
			target = w.stale
		}
	}
	rec := httptest.NewRecorder()
	func() {
		defer func() {
			if e := recover(); e != nil { // how the simulator resets a connection
				rec.Code = 0
			}
		}()
		target.ServeHTTP(rec, r)
	}()
	if r.Method != http.MethodGet {
		w.observe()
	}
	if rec.Code == 0 {
		return nil
	}
	response := rec.Result()
	response.Request = r
	return response
}

var errReset = errors.New("simulation: connection reset by peer")

// spoil is the reply as the faults in force leave it.
func (w *world) spoil(c *call, r *http.Request, response *http.Response) (*http.Response, error) {
	if response == nil {
		return nil, errReset
	}
	odds := w.odds(faultReplies)
	if odds == 0 || fraction(c.draw, 7) >= odds {
		return response, nil
	}
	plain := func(code int, kind, body string) (*http.Response, error) {
		return &http.Response{
			StatusCode: code, Status: strconv.Itoa(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
			Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}, nil
	}
	switch int(fraction(c.draw, 8) * 7) {
	case 0:
		return plain(429, "application/json", `{"error":{"type":"invalid_request_error","code":"rate_limit","message":"Too many requests."}}`)
	case 1:
		return plain(500, "application/json", `{"error":{"type":"api_error","message":"An error occurred."}}`)
	case 2:
		return plain(502, "text/html", `<html><body>Bad gateway</body></html>`)
	case 3:
		body, _ := io.ReadAll(response.Body)
		response.Body = io.NopCloser(bytes.NewReader(body[:len(body)/2]))
		response.ContentLength = int64(len(body) / 2)
		response.Header.Del("Content-Length")
		return response, nil
	case 4:
		return nil, errReset
	case 5:
		if !strings.Contains(r.URL.RawQuery, "limit=") {
			return nil, errReset
		}
		return plain(200, "application/json", `{"object":"list","url":"`+r.URL.Path+`","has_more":true,"data":[]}`)
	default:
		return plain(200, "application/json", `{"object":"unknown"}`)
	}
}

// endpoint names a request in the trace, with customers by their nicknames.
func (w *world) endpoint(r *http.Request) string {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	for i, p := range parts {
		if strings.Contains(p, "_") && i > 0 && parts[i-1] != "billing" {
			parts[i] = w.nickname(p)
		}
	}
	name := r.Method + " " + strings.Join(parts, "/")
	for _, key := range []string{"customer", "credit_grant"} {
		if v := r.URL.Query().Get(key); v != "" {
			name += " " + w.nickname(v)
		}
	}
	if r.URL.Query().Get("starting_after") != "" {
		name += " on"
	}
	return name
}

// post calls the simulator from outside: what the user's own application does.
func (w *world) post(method, path string, form url.Values) (map[string]any, error) {
	r := httptest.NewRequest(method, "http://stripe.test"+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", "Bearer "+stripeKey)
	rec := httptest.NewRecorder()
	w.stripe.Handler().ServeHTTP(rec, r)
	w.observe()
	var out map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if rec.Code != http.StatusOK {
		return out, fmt.Errorf("%s %s: %d %s", method, path, rec.Code, rec.Body)
	}
	return out, nil
}

// fromStripe carries the simulator's webhooks to a process that lives.
type fromStripe struct{ w *world }

func (t fromStripe) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	event, err := mirror.DecodeEvent(body)
	if err != nil {
		return nil, fmt.Errorf("the simulator sends what is no event: %w", err)
	}
	w := t.w
	c, err := w.park(r.Context(), nil, seamWebhook, event.Type+" "+event.ID[len(event.ID)-6:])
	if err != nil {
		return nil, err
	}
	if odds := w.odds(faultWebhooks); odds > 0 && fraction(c.draw, 9) < odds {
		return nil, errReset
	}
	p := w.receiver(c.draw)
	if p == nil {
		return nil, errReset
	}
	w.offered[event.ID] = true
	r.Body = io.NopCloser(bytes.NewReader(body))
	response, err := p.exchange(p.webhook, r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		w.acknowledged(event)
	}
	back, err := w.park(r.Context(), nil, seamAck, event.Type+" "+event.ID[len(event.ID)-6:])
	if err != nil {
		return nil, err
	}
	if odds := w.odds(faultWebhooks); odds > 0 && fraction(back.draw, 9) < odds {
		return nil, errReset // stripe sends it again
	}
	return response, nil
}

// listener takes connections that are pipes.
type listener struct {
	name  string
	conns chan net.Conn
	shut  chan struct{}
}

func newListener(name string) *listener {
	return &listener{name: name, conns: make(chan net.Conn), shut: make(chan struct{})}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.shut:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	select {
	case <-l.shut:
		return net.ErrClosed
	default:
		close(l.shut)
		return nil
	}
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// exchange sends one request to a listener of the process and reads the answer.
func (p *process) exchange(l *listener, r *http.Request) (*http.Response, error) {
	if p.dead || l == nil {
		return nil, errReset
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	p.conns = append(p.conns, ours)
	defer func() { p.conns = slices.DeleteFunc(p.conns, func(c net.Conn) bool { return c == ours }) }()
	defer context.AfterFunc(r.Context(), func() { _ = ours.Close() })()
	select {
	case l.conns <- theirs:
	case <-l.shut:
		return nil, errReset
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	r.Close = true
	if err := r.Write(ours); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(ours), r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	if p.dead {
		return nil, errReset
	}
	return response, nil
}

// asked counts a call against the budget: at most the rate in any second, and half a
// second's worth on top.
func (w *world) asked(r *http.Request) {
	now := time.Now()
	w.calls = append(w.calls, now)
	for len(w.calls) > 0 && now.Sub(w.calls[0]) >= time.Second {
		w.calls = w.calls[1:]
	}
	if limit := int(stripeRPS + stripeRPS/2); len(w.calls) > limit && w.strictBudget {
		w.fail("I14", "%d calls to Stripe within a second where %d are promised (%s)", len(w.calls), limit, w.endpoint(r))
	}
}

// nowhere is where a replica's webhooks go: it only answers.
type nowhere struct{}

func (nowhere) RoundTrip(*http.Request) (*http.Response, error) { return nil, errReset }

// newReplica keeps the simulator as it is now, for replies that lag.
func (w *world) newReplica() error {
	var state bytes.Buffer
	if err := w.stripe.Save(&state); err != nil {
		return err
	}
	if w.replica != nil {
		w.replica.Close()
	}
	replica, err := stripesim.New(stripesim.Options{
		Seed: int64(w.seed), LogSize: 1, Delivery: stripesim.Delivery{Transport: nowhere{}, Attempts: 1}, // any number will do
	})
	if err != nil {
		return err
	}
	if err := replica.Load(&state); err != nil {
		replica.Close()
		return err
	}
	w.replica, w.stale = replica, replica.Handler()
	return nil
}
