package stripesim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// maxBody bounds a request body, in bytes.
const maxBody = 1 << 20

// call is one API request on its way through a handler.
type call struct {
	s    *Server
	a    *account
	args []string // values of the path's {…} segments
	p    *params
	// query is the URL's, as it came.
	query url.Values
	x     expansion
	cz    cause
	what  occasion // of the request, for faults
}

// lock locks the account for writing. What is done under it is done now, not when
// the request came: times must not run against the order of changes.
func (c *call) lock() {
	c.a.mu.Lock()
	c.cz.now = c.s.unix()
}

// reply is one complete answer.
type reply struct {
	status int
	header http.Header
	body   []byte
	reset  bool // drop the connection instead
}

// Handler serves the API under /v1/, the control API under /_sim/ and the console
// for people under / and /console/.
func (s *Server) Handler() http.Handler {
	control, console := s.controlHandler(), s.consoleHandler()
	return guarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_sim/") {
			control.ServeHTTP(w, r)
			return
		}
		if r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, "/console/") {
			console.ServeHTTP(w, r)
			return
		}
		s.serveAPI(w, r)
	}))
}

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	id := s.requestID()
	rep := s.answer(r, id)
	if rep.reset {
		dropConnection(w)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	version := r.Header.Get("Stripe-Version")
	if version == "" || !isVersion(version) {
		version = s.opts.APIVersion
	}
	original := rep.header.Get(headerOriginal)
	if original == "" {
		original = id
	}
	if rep.status != http.StatusUnauthorized { // which knows no account
		h.Set("Request-Id", id)
		h.Set("Stripe-Version", version)
		rep = rep.withLog(original, s.unix())
		if r.Method == http.MethodPost && rep.status < 500 && rep.status != http.StatusConflict && rep.status != http.StatusTooManyRequests {
			h.Set(headerOriginal, original)
			h.Set("Stripe-Should-Retry", "false")
		}
	}
	for _, name := range []string{"Stripe-Account", "Idempotency-Key"} {
		if v := r.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	for name, v := range rep.header {
		h[name] = v
	}
	h.Set("Content-Length", strconv.Itoa(len(rep.body)))
	w.WriteHeader(rep.status)
	_, _ = w.Write(rep.body)
}

// headerOriginal names the request that a reply was made for first.
const headerOriginal = "Original-Request"

// withLog is an error reply of Stripe's with the address of its log in the dashboard.
func (rep *reply) withLog(request string, now int64) *reply {
	last := []byte("\n    \"type\": \"")
	i := bytes.LastIndex(rep.body, last)
	if rep.status < 400 || i < 0 || !bytes.HasPrefix(rep.body, []byte("{\n  \"error\": {")) {
		return rep
	}
	out := *rep
	out.body = fmt.Appendf(bytes.Clone(rep.body[:i]), "\n    \"request_log_url\": \"https://dashboard.stripe.com/test/logs/%s?t=%d\",", request, now)
	out.body = append(out.body, rep.body[i:]...)
	return &out
}

// dropConnection makes the client see a reset, or at least a broken reply.
func dropConnection(w http.ResponseWriter) {
	if hj, ok := w.(http.Hijacker); ok {
		if conn, _, err := hj.Hijack(); err == nil {
			if tcp, ok := conn.(interface{ SetLinger(int) error }); ok {
				_ = tcp.SetLinger(0)
			}
			_ = conn.Close()
			return
		}
	}
	panic(http.ErrAbortHandler)
}

func errorReply(e *apiError) *reply {
	body, err := pretty(e.body())
	if err != nil {
		body = []byte(`{"error":{"type":"api_error"}}`)
	}
	return &reply{status: e.status, header: e.header, body: body}
}

// answer takes a request through the steps that Stripe has it go through: the
// key, the account, the limits, the idempotency key, and then the endpoint.
func (s *Server) answer(r *http.Request, requestID string) *reply {
	rt, args := match(r.Method, r.URL.Path)
	if rt == nil || rt.v2 && !s.thins() {
		return errorReply(errNoRoute(r.Method, r.URL.Path))
	}
	s.calls.add(rt.name)
	if s.opts.OnRequest != nil {
		s.opts.OnRequest(rt.name, r)
	}
	a, e := s.authorize(r, rt)
	if e != nil {
		return errorReply(e)
	}
	if v := r.Header.Get("Stripe-Version"); v != "" && !isVersion(v) {
		return errorReply(errInvalid("", "", "Invalid Stripe API version: %s", v))
	}
	if e := a.admit(rt.name); e != nil {
		return errorReply(e)
	}
	defer a.leave()
	if rt.credits || !s.switches().ExpiryOnRead {
		a.catchUp()
	}

	body, e := readBody(r, rt.v2)
	if e != nil {
		return errorReply(e)
	}
	parse := parseForm
	if rt.v2 {
		parse = parseJSON
	}
	p, e := parse(r.URL.RawQuery, body)
	if e != nil {
		return errorReply(e)
	}
	key := ""
	if r.Method == http.MethodPost {
		key = r.Header.Get("Idempotency-Key")
	}
	p.skip(rt.name, s.switches().IgnoreDecorative)
	c := &call{s: s, a: a, args: args, p: p, query: r.URL.Query(), cz: cause{now: s.unix(), requestID: requestID, idemKey: key}}

	object := ""
	if r.Method != http.MethodGet {
		if object = c.customerID(rt); object == "" && len(args) > 0 {
			object = args[0]
		}
	}
	done, e := a.enter(rt.name, object)
	if e != nil {
		return errorReply(e)
	}
	defer done()

	c.what = occasion{account: a.id, endpoint: rt.name}
	if s.faults.personal.Load() {
		c.what.customer = c.customerID(rt)
	}
	slow, spoil := s.replyFaults(c, rt)
	linger := func() {
		if slow != nil && !slow.After {
			s.wait(r, time.Duration(slow.Delay))
		}
	}
	var rep *reply
	if spoil != nil && !spoil.After && !alwaysAfter[spoil.Kind] {
		linger()
		rep = s.spoilt(c, spoil, nil)
	} else {
		rep = s.once(r, rt, c, key, body, linger, spoil)
	}
	if slow != nil && slow.After {
		s.wait(r, time.Duration(slow.Delay))
	}
	return rep
}

// isVersion reports whether v has the form of an API version: a date, and since
// 2024-09-30 a name after it, then maybe flags behind semicolons.
func isVersion(v string) bool {
	v, _, _ = strings.Cut(v, ";") // flags
	date, name, named := strings.Cut(v, ".")
	_, err := time.Parse(time.DateOnly, date)
	return err == nil && (!named || name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == "")
}

func (s *Server) authorize(r *http.Request, rt *route) (*account, *apiError) {
	key := keyOf(r)
	id := r.Header.Get("Stripe-Account")
	if id == "" {
		id = r.Header.Get("Stripe-Context")
	}
	a := s.accountIn(id, s.keys.mode(key))
	name := id
	if a != nil {
		name = a.public
	}
	if e := s.keys.check(key, rt.name, name); e != nil {
		return nil, e
	}
	if a == nil {
		return nil, errForbidden("account_invalid", "The provided key '%s' does not have access to account '%s' (or that account does not exist). Application access may have been revoked.", maskKey(key), id)
	}
	return a, nil
}

func readBody(r *http.Request, v2 bool) (string, *apiError) {
	if r.Body == nil || r.Method == http.MethodGet {
		return "", nil
	}
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			e := errInvalid("", "", "Request body is too large.")
			e.status = http.StatusRequestEntityTooLarge
			return "", e
		}
		return "", errInvalid("", "", "Request body could not be read.")
	}
	ct := r.Header.Get("Content-Type")
	if v2 {
		if len(b) > 0 && !strings.HasPrefix(ct, "application/json") {
			return "", errInvalid("", "", "Invalid request: the v2 API takes application/json.")
		}
		return string(b), nil
	}
	if len(b) > 0 && !strings.HasPrefix(ct, "application/x-www-form-urlencoded") {
		return "", errInvalid("", "", "Invalid request (check that your POST content type is application/x-www-form-urlencoded). If you have any questions, we can help at https://support.stripe.com/.")
	}
	return string(b), nil
}

// maxIdemKey is Stripe's limit on the length of an idempotency key.
const maxIdemKey = 255

// once runs the endpoint, or replays what it answered before under the same
// idempotency key. What lingers before it runs is in flight already.
func (s *Server) once(r *http.Request, rt *route, c *call, key, body string, linger func(), spoil *Fault) *reply {
	if key == "" {
		linger()
		rep, _ := s.run(rt, c)
		return s.spoilt(c, spoil, rep)
	}
	if len(key) > maxIdemKey {
		return errorReply(&apiError{status: http.StatusBadRequest, typ: "idempotency_error", message: "Idempotency keys must be at most 255 characters."})
	}
	entry, old, e := c.a.idem.begin(key, fingerprint(r.Method, r.URL.Path, r.URL.RawQuery, body), s.opts.Now())
	if e != nil {
		return errorReply(e)
	}
	linger()
	if old != nil {
		again := *old
		again.header = old.header.Clone()
		if again.header == nil {
			again.header = http.Header{}
		}
		again.header.Set("Idempotent-Replayed", "true")
		return s.spoilt(c, spoil, &again)
	}
	rep, keep := s.run(rt, c)
	shown := s.spoilt(c, spoil, rep)
	if spoil != nil && spoil.Kind == Fault500 {
		rep = shown // Stripe keeps its own 500s, too
	}
	if keep {
		rep.header = rep.header.Clone()
		if rep.header == nil {
			rep.header = http.Header{}
		}
		rep.header.Set(headerOriginal, c.cz.requestID)
		c.a.idem.keep(entry, rep)
	} else {
		c.a.idem.forget(entry)
	}
	return shown
}

// run calls the endpoint. It reports whether the reply belongs under the
// idempotency key: not what failed validation.
func (s *Server) run(rt *route, c *call) (*reply, bool) {
	paths, _ := c.p.strs("expand")
	var e *apiError
	if c.x, e = parseExpand(paths, rt.expand); e != nil {
		return errorReply(e), false
	}
	v, e := rt.handle(c)
	if e != nil {
		c.a.hint(e)
		return errorReply(e), e.executed
	}
	body, err := pretty(v)
	if err != nil {
		s.log.Error("could not encode reply", zap.String("endpoint", rt.name), zap.Error(err))
		return errorReply(errServer()), false
	}
	return &reply{status: http.StatusOK, body: body}, true
}

// alwaysAfter are the faults that spoil a reply there must first be.
var alwaysAfter = map[FaultKind]bool{
	FaultTruncated: true, FaultEmptyPage: true, FaultOversize: true, FaultNonsense: true,
}

// replyFaults picks the faults of one request.
func (s *Server) replyFaults(c *call, rt *route) (slow, spoil *Fault) {
	isList := rt.expand.has("data")
	s.faults.strike(c.what, func(k FaultKind) bool {
		switch k {
		case FaultSlow:
			return slow == nil
		case FaultEmptyPage:
			return spoil == nil && isList
		}
		return replyFaults[k] && spoil == nil
	}, func(f Fault) bool {
		c.a.log(c.cz, "fault."+string(f.Kind), rt.name, c.what.customer, "")
		if f.Kind == FaultSlow {
			slow = &f
		} else {
			spoil = &f
		}
		return true
	})
	return slow, spoil
}

// customerID is the customer that a request concerns, "" if none.
func (c *call) customerID(rt *route) string {
	if f := c.p.root.kids["customer"]; f != nil {
		return f.val
	}
	if len(c.args) == 0 {
		return ""
	}
	id := c.args[0]
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	switch {
	case rt.segs[1] == "customers":
		return id
	case c.a.grants[id] != nil:
		return c.a.grants[id].customer.id
	case c.a.credits[id] != nil:
		return c.a.credits[id].grant.customer.id
	case c.a.invoices[id] != nil:
		return c.a.invoices[id].customer.id
	case c.a.items[id] != nil:
		return c.a.items[id].customer.id
	case c.a.notes[id] != nil:
		return c.a.notes[id].invoice.customer.id
	}
	return ""
}

// wait holds a reply back, but not for a client that is gone or a server that is
// closing.
func (s *Server) wait(r *http.Request, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	case <-s.closing.Done():
	}
}

// spoilt returns the reply as the fault leaves it; rep is nil if the request did
// not take effect.
func (s *Server) spoilt(c *call, f *Fault, rep *reply) *reply {
	if f == nil {
		return rep
	}
	switch f.Kind {
	case FaultRateLimit:
		e := errRate("endpoint-rate")
		s.retryAfter(e.header)
		return errorReply(e)
	case FaultLock:
		return errorReply(errLock())
	case Fault500:
		return errorReply(errServer())
	case Fault502:
		return &reply{
			status: http.StatusBadGateway, header: http.Header{"Content-Type": {"text/html"}},
			body: []byte("<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"),
		}
	case FaultReset:
		return &reply{reset: true}
	}
	out := &reply{status: http.StatusOK}
	switch f.Kind {
	case FaultTruncated:
		out.body = rep.body[:len(rep.body)/2]
	case FaultEmptyPage:
		out.body = []byte(`{"object":"list","data":[],"has_more":true,"url":"/v1/customers"}`)
	case FaultOversize:
		n := f.Bytes
		if n == 0 {
			n = 20 << 20
		}
		out.body = oversize(rep.body, n)
	case FaultNonsense:
		out.body = []byte(`{"object":"nonsense","answer":42}`)
	}
	return out
}

// oversize blows an object up to n bytes. It stays valid JSON, so that only a
// bound on its size can refuse it.
func oversize(body []byte, n int) []byte {
	open := []byte(`{"padding":"`)
	tail := append([]byte(`",`), bytes.TrimPrefix(body, []byte{'{'})...)
	pad := max(0, n-len(open)-len(tail))
	out := make([]byte, 0, len(open)+pad+len(tail))
	out = append(out, open...)
	out = append(out, bytes.Repeat([]byte{'x'}, pad)...)
	return append(out, tail...)
}
