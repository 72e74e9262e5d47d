package console

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// cookieName makes browsers keep the cookie to this host, to TLS (or to this
	// machine), and to no subdomain.
	cookieName = "__Host-creditmirror"
	// sessionLength is how long somebody stays signed in.
	sessionLength = 2 * time.Hour
	// Wrong keys beyond these are answered with 429: of all callers, and of one address.
	failuresPerSecond, failuresAtOnce = 20, 50
	triesPerMinute, triesAtOnce       = 10, 10
	// knownCallers bounds the addresses that are remembered.
	knownCallers = 10_000
	// maxForm bounds a form.
	maxForm = 64 << 10
)

// callers bounds the tries of each network.
type callers struct {
	mu    sync.Mutex
	known map[string]*list.Element
	order *list.List // of *caller, the last seen first
}

type caller struct {
	addr    string
	limiter *rate.Limiter
}

// network is what tries are counted by: an address, or in IPv6 its /64, which is what one
// caller gets and can take every address of.
func network(addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Is4() {
		return addr
	}
	return netip.PrefixFrom(a.WithZone(""), 64).Masked().String()
}

// failed takes one try of the address and reports whether it had one left.
func (c *callers) failed(addr string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of(network(addr)).AllowN(now, 1)
}

// blocked reports whether the address has no try left.
func (c *callers) blocked(addr string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.known[network(addr)]
	return ok && e.Value.(*caller).limiter.TokensAt(now) < 1
}

func (c *callers) of(addr string) *rate.Limiter {
	if c.known == nil {
		c.known, c.order = map[string]*list.Element{}, list.New()
	}
	if e, ok := c.known[addr]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*caller).limiter
	}
	if len(c.known) >= knownCallers {
		last := c.order.Back()
		delete(c.known, last.Value.(*caller).addr)
		c.order.Remove(last)
	}
	l := rate.NewLimiter(rate.Limit(triesPerMinute)/60, triesAtOnce)
	c.known[addr] = c.order.PushFront(&caller{addr, l})
	return l
}

// sessionID is what the table knows a cookie by.
func sessionID(cookie string) string {
	sum := sha256.Sum256([]byte("console session " + cookie))
	return hex.EncodeToString(sum[:])
}

// errSignedOut says that nobody is signed in.
var errSignedOut = errors.New("nobody is signed in")

// holder returns who asks. It is nil where there are no keys and the request is local.
func (c *Console) holder(r *http.Request) (*access.Holder, error) {
	if c.o.Keys.None() {
		if !doors.Local(r) {
			return nil, forbidden("Without API keys the console answers programs on its own machine alone, at localhost. Set CREDITMIRROR_API_KEYS and sign in with a key.")
		}
		return nil, nil
	}
	cookie, err := r.Cookie(cookieName)
	if err != nil || cookie.Value == "" {
		return nil, errSignedOut
	}
	s, err := c.o.Operations.Session(r.Context(), sessionID(cookie.Value))
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		return nil, errSignedOut
	case err != nil:
		return nil, err
	}
	h, err := c.o.Keys.Named(s.Key)
	if err != nil || h.Bond() != s.Bond || !c.now().Before(s.Expires) {
		return nil, errSignedOut // the key went, is another one, or time is over
	}
	return h, nil
}

// seen serves a page to who may see it.
func (c *Console) seen(f func(*view) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := &view{c: c, r: r, w: w, caller: c.o.Proxies.Caller(r)}
		h, err := c.holder(r)
		switch {
		case errors.Is(err, errSignedOut):
			c.toSignIn(w, r)
			return
		case err != nil:
			v.failed(err)
			return
		}
		v.holder = h
		if h != nil && !h.Allow() {
			v.failed(&problem{http.StatusTooManyRequests, "Too many requests", "The key is over its limit of requests. Wait a second and load the page again."})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
		defer cancel()
		v.r = r.WithContext(withPatience(access.WithName(ctx, h), patience))
		if err := f(v); err != nil {
			v.failed(err)
		}
	}
}

// toSignIn sends who is not signed in to the page that does it, and back afterwards. A
// request that another site led here comes without the cookie of who is signed in: it
// is sent once more from here.
func (c *Console) toSignIn(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "Sign in first.", http.StatusUnauthorized)
		return
	}
	v := &view{c: c, r: r, w: w}
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		d := struct {
			page
			Next string
		}{v.page("One moment", ""), localPath(r.URL.RequestURI())}
		d.page.Keyless = false
		if err := v.show("again", http.StatusOK, d); err != nil {
			v.failed(err)
		}
		return
	}
	to := "/sign-in"
	if r.URL.RequestURI() != "/" {
		to += "?next=" + url.QueryEscape(localPath(r.URL.RequestURI()))
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// localPath keeps a path of this host; anything else becomes the first page.
func localPath(p string) string {
	if !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") || strings.ContainsAny(p, "\\\r\n\t") {
		return "/"
	}
	u, err := url.Parse(p)
	if err != nil || u.Host != "" || u.Scheme != "" {
		return "/"
	}
	return p
}

// sameOrigin reports whether a POST comes from a page of ours. Beside CrossOriginProtection,
// which lets programs pass that are no browsers, one that says nothing is refused.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	u, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && u.Host != "" && u.Host == r.Host
}

func (c *Console) signInPage(w http.ResponseWriter, r *http.Request) {
	c.askKey(w, r, http.StatusOK, "")
}

// askKey shows the page that asks for a key.
func (c *Console) askKey(w http.ResponseWriter, r *http.Request, status int, problem string) {
	v := &view{c: c, r: r, w: w}
	if c.o.Keys.None() {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	d := struct {
		page
		Next     string
		Insecure bool
	}{v.page("Sign in", ""), localPath(r.FormValue("next")), r.TLS == nil && !doors.NamesLoopback(r.Host) && !doors.ThroughProxy(r.Header)}
	d.page.Keyless, d.Problem = false, problem
	if err := v.show("sign-in", status, d); err != nil {
		v.failed(err)
	}
}

// signIn takes a key and gives a cookie for it.
func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	if !sameOrigin(r) {
		http.Error(w, "Sign in from the console's own page.", http.StatusForbidden)
		return
	}
	addr, now := c.o.Proxies.Caller(r), c.now()
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		c.askKey(w, r, http.StatusBadRequest, "The form could not be read.")
		return
	}
	if c.callers.blocked(addr, now) {
		w.Header().Set("Retry-After", "60")
		c.askKey(w, r, http.StatusTooManyRequests, "Too many wrong keys came from your address. Try again in a minute.")
		return
	}
	h, err := c.o.Keys.Find(strings.TrimSpace(r.PostForm.Get("key")))
	if err != nil {
		c.refused.Do(func() { c.log.Warn("console key refused", zap.String("remote_addr", addr)) })
		if !c.callers.failed(addr, now) || !c.failures.AllowN(now, 1) {
			w.Header().Set("Retry-After", "60")
			c.askKey(w, r, http.StatusTooManyRequests, "Too many wrong keys. Try again in a minute.")
			return
		}
		text := "That is not one of the API keys."
		if errors.Is(err, access.ErrExpired) {
			text = "That key has expired."
		}
		c.askKey(w, r, http.StatusUnauthorized, text)
		return
	}
	cookie := rand.Text() + rand.Text()
	s := mirror.Session{ID: sessionID(cookie), Key: h.Name, Bond: h.Bond(), Created: now.UTC(), Expires: now.Add(sessionLength).UTC()}
	a := c.newAction(h.Name, addr, mirror.ActionSignIn)
	a.Outcome = mirror.ActionDone
	err = c.o.Operations.BeginAction(r.Context(), a)
	if err == nil {
		err = c.o.Operations.SaveSession(r.Context(), s)
	}
	if err != nil {
		c.log.Error("could not save sign-in", zap.Error(err))
		c.askKey(w, r, http.StatusServiceUnavailable, "The mirror's database did not take the sign-in. Try again.")
		return
	}
	c.log.Info("signed in to the console", zap.String("key_name", h.Name), zap.String("remote_addr", addr))
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: cookie, Path: "/", Expires: s.Expires, MaxAge: int(sessionLength.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	http.Redirect(w, r, localPath(r.PostForm.Get("next")), http.StatusSeeOther) // #nosec G710 -- localPath leaves paths of this host alone
}

// signOut ends the session here and in the browser.
func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	if !sameOrigin(r) {
		http.Error(w, "Sign out from the console's own page.", http.StatusForbidden)
		return
	}
	if cookie, err := r.Cookie(cookieName); err == nil {
		if err := c.o.Operations.DropSession(r.Context(), sessionID(cookie.Value)); err != nil {
			c.log.Error("could not save sign-out", zap.Error(err))
			http.Error(w, "The mirror's database did not take the sign-out. Try again.", http.StatusServiceUnavailable)
			return
		}
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}
