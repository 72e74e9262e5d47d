// Package console is the operator's page: what on-call, finance and support open first.
// It is rendered by the server, works without scripts, and reads through the contracts
// that exist; what it can do, a command can do.
package console

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

//go:embed assets/* templates/*.html
var files embed.FS

// Store is what the pages list of a mirror. A mirror.Store of this program is one, as it
// is a Ledgers and mirror.Operations.
type Store interface {
	mirror.Lookout
	DeadLetter(ctx context.Context, id string) (mirror.DeadLetter, error)
	DropDeadLetter(ctx context.Context, id string) error
}

// Ledgers are what the pages read of customers.
type Ledgers interface {
	Customer(ctx context.Context, account, id string) (mirror.CustomerView, error)
	HeldCustomers(ctx context.Context, account string, ids []string) (map[string]mirror.HeldCustomer, error)
	BalanceTransactions(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error)
	BalanceTransaction(ctx context.Context, account, customer, id string) (mirror.BalanceTransaction, error)
	Grant(ctx context.Context, account, id string) (mirror.CreditGrant, error)
	Grants(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error)
	CreditTransactions(ctx context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error)
	CreditTransaction(ctx context.Context, account, id string) (mirror.CreditTransaction, error)
	CreditSummary(ctx context.Context, account, customer string) (mirror.CreditSummary, error)
}

// Options are what the console needs.
type Options struct {
	// Store, Ledgers and Operations are the mirror.
	Store      Store
	Ledgers    Ledgers
	Operations mirror.Operations
	// Books serves the reports. Defaults to none: those pages say so.
	Books report.Books
	// Keys sign in. With none, only requests from this machine are answered, and nothing
	// can be done.
	Keys *access.Keys
	// Proxies are believed in where a request comes from. Defaults to none.
	Proxies doors.Proxies
	// Accounts lists the connected accounts that are mirrored.
	Accounts func(ctx context.Context) ([]string, error)
	// Status returns how the system is. It may take its time: it is called in the
	// background, and its last result is shown meanwhile.
	Status func(ctx context.Context) (Status, error)
	// Queued reports which targets wait or are in work. Defaults to none.
	Queued func(ctx context.Context, targets []mirror.Target) ([]bool, error)
	// Do are the actions; one that is nil cannot be done by this process.
	Do Actions
	// Refused lists what the receivers of all processes refused. Defaults to nothing.
	Refused func(ctx context.Context) ([]Refusal, error)
	// Exports lists the generations of the copy for the warehouse, newest first.
	// Defaults to none: there is no copy.
	Exports func(ctx context.Context) (Copy, error)
	// Calls30d returns the calls to Stripe of the last days by purpose. Defaults to none.
	Calls30d func(ctx context.Context) ([]DayCalls, error)
	// Livemode is that of the configured key; nil: there is none.
	Livemode *bool
	// Retention is how long actions are kept. Defaults to 2 years.
	Retention time.Duration
	Version   string
	// Log defaults to none.
	Log *zap.Logger
	// Now defaults to time.Now.
	Now func() time.Time
}

// Actions are what can be done.
type Actions struct {
	// Sync marks targets to be read from Stripe now.
	Sync func(ctx context.Context, targets []mirror.Target) error
	// Retry tries dead letters again and says what became of them, in words.
	Retry func(ctx context.Context, ids []string) ([]Retried, error)
	// Sweep starts, pauses or resumes a sweep.
	Sweep func(ctx context.Context, name string, what mirror.ActionKind, by, reason string) error
	// Check asks Stripe for our webhook endpoints.
	Check func(ctx context.Context) ([]Verdict, error)
	// VerifyCopy reads the copy for the warehouse again.
	VerifyCopy func(ctx context.Context) (CopyVerdict, error)
}

// Console is the handler. Make it with New, and let Run look after it.
type Console struct {
	o       Options
	log     *zap.Logger
	now     func() time.Time
	pages   map[string]*template.Template
	mux     http.Handler
	memo    *memo
	rates   rates
	verdict verdict

	failures *rate.Limiter
	callers  callers
	refused  rate.Sometimes
}

// New returns the console. It panics without the mirror.
func New(o Options) *Console {
	if o.Store == nil || o.Ledgers == nil || o.Operations == nil {
		panic("console: no mirror")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Retention <= 0 {
		o.Retention = 2 * 365 * 24 * time.Hour
	}
	c := &Console{
		o: o, log: o.Log, now: o.Now, memo: newMemo(o.Now),
		failures: rate.NewLimiter(failuresPerSecond, failuresAtOnce), refused: rate.Sometimes{Interval: time.Second},
	}
	c.pages = parsePages()
	c.mux = c.routes()
	return c
}

// Run looks after sessions, old rows and figures in the background until ctx ends.
func (c *Console) Run(ctx context.Context) {
	defer c.memo.close()
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		now := c.now()
		if err := c.o.Operations.PruneSessions(ctx, now); err != nil && ctx.Err() == nil {
			c.log.Warn("could not prune old console sessions", zap.Error(err))
		}
		for {
			n, err := c.o.Operations.PruneActions(ctx, now.Add(-c.o.Retention))
			if err != nil && ctx.Err() == nil {
				c.log.Warn("could not prune old console actions", zap.Error(err))
			}
			if err != nil || n == 0 {
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// parsePages reads the templates: each page with the frame and the parts that pages share.
func parsePages() map[string]*template.Template {
	frame := template.Must(template.New("frame.html").Funcs(funcs()).ParseFS(files, "templates/frame.html", "templates/parts.html"))
	pages := map[string]*template.Template{}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		panic(err) // the pattern is constant
	}
	for _, name := range names {
		base := strings.TrimSuffix(strings.TrimPrefix(name, "templates/"), ".html")
		if base == "frame" || base == "parts" {
			continue
		}
		pages[base] = template.Must(template.Must(frame.Clone()).ParseFS(files, name))
	}
	return pages
}

// policy forbids everything but what comes from here: no inline script or style.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// ServeHTTP answers one request.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			c.log.Error("panic in a console page", zap.String("error", fmt.Sprint(p)), zap.ByteString("stack", debug.Stack()))
			http.Error(w, "The page failed. The log has the cause.", http.StatusInternalServerError)
		}
	}()
	c.mux.ServeHTTP(w, r)
}

// view is one request with who asks.
type view struct {
	c      *Console
	r      *http.Request
	w      http.ResponseWriter
	holder *access.Holder // nil where there are no keys
	caller string
}

// page is what every page shows.
type page struct {
	Title   string
	Nav     string // the part of the navigation that the page belongs to
	Path    string
	Who     string
	Keyless bool
	MayAct  bool
	Bound   string // in words, what the key is bound to
	Version string
	Now     time.Time
	Mode    string
	// Problem is shown at the top, Done after an action.
	Problem, Done string
	// Pending: figures are still being computed, so the page loads itself again.
	Pending bool
	// Live: the page may refresh itself.
	Live bool
}

func (v *view) page(title, nav string) page {
	p := page{
		Title: title, Nav: nav, Path: v.r.URL.RequestURI(), Keyless: v.holder == nil, MayAct: v.mayAct(), Version: v.c.o.Version, Now: v.c.now().UTC(),
		Done: v.r.URL.Query().Get("done"),
	}
	if v.c.o.Livemode != nil {
		p.Mode = map[bool]string{true: "live", false: "test"}[*v.c.o.Livemode]
	}
	if v.holder != nil {
		p.Who = v.holder.Name
		p.Bound = boundTo(v.holder.Key)
	}
	return p
}

func boundTo(k access.Key) string {
	var parts []string
	if k.Accounts != nil {
		names := slices.Clone(k.Accounts)
		for i := range names {
			names[i] = accountName(names[i])
		}
		parts = append(parts, "accounts "+strings.Join(names, ", "))
	}
	if k.Ledgers != nil {
		var names []string
		for _, l := range k.Ledgers {
			names = append(names, string(l))
		}
		parts = append(parts, "ledgers "+strings.Join(names, ", "))
	}
	return strings.Join(parts, "; ")
}

// bound reports whether the key may not see everything.
func (v *view) bound() bool {
	return v.holder != nil && (v.holder.Accounts != nil || v.holder.Ledgers != nil)
}

// mayAct reports whether buttons are shown, and whether they work.
func (v *view) mayAct() bool { return v.holder != nil && v.holder.MayDo(access.Operate) }

// maySee reports whether the key may see an account.
func (v *view) maySee(account string) bool { return v.holder == nil || v.holder.MaySee(account) }

// mayRead reports whether the key may see a ledger.
func (v *view) mayRead(l access.Ledger) bool { return v.holder == nil || v.holder.MayRead(l) }

// ledgers are those that may be seen, in the order of reports.
func (v *view) ledgers() []report.Ledger {
	var list []report.Ledger
	for _, l := range access.Ledgers() {
		if v.mayRead(l) {
			list = append(list, report.Ledger(l))
		}
	}
	return list
}

// scopeOnly is the only ledger that the key may see; empty: both.
func (v *view) scopeOnly() mirror.Scope {
	if l := v.ledgers(); len(l) == 1 {
		return mirror.Scope(l[0])
	}
	return ""
}

// accounts are those that the key may see, the platform's own (empty) first.
func (v *view) accounts() ([]string, error) {
	all := []string{""}
	if v.c.o.Accounts != nil {
		more, err := v.c.o.Accounts(v.r.Context())
		if err != nil {
			return nil, err
		}
		for _, a := range more {
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	if v.holder != nil && v.holder.Accounts != nil {
		for _, a := range v.holder.Accounts {
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	return slices.DeleteFunc(all, func(a string) bool { return !v.maySee(a) }), nil
}

// only are the accounts that lists are narrowed to; nil: all.
func (v *view) only() []string {
	if v.holder == nil || v.holder.Accounts == nil {
		return nil
	}
	return v.holder.Accounts
}

// problem is an error that is shown to who asked, with what to do.
type problem struct {
	status int
	title  string
	text   string
}

func (p *problem) Error() string { return p.text }

func notFound(format string, args ...any) error {
	return &problem{http.StatusNotFound, "Not found", fmt.Sprintf(format, args...)}
}

func wrong(format string, args ...any) error {
	return &problem{http.StatusBadRequest, "That cannot be", fmt.Sprintf(format, args...)}
}

func forbidden(format string, args ...any) error {
	return &problem{http.StatusForbidden, "Not for this key", fmt.Sprintf(format, args...)}
}

// show renders a page, whole before its first byte is sent.
func (v *view) show(name string, status int, data any) error {
	var b bytes.Buffer
	t, ok := v.c.pages[name]
	if !ok {
		return fmt.Errorf("there is no page %q", name)
	}
	if err := t.ExecuteTemplate(&b, "frame.html", data); err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	if v.r.Method != http.MethodHead {
		_, _ = v.w.Write(b.Bytes()) // a caller that went away is no concern of ours
	}
	return nil
}

// failed shows an error as a page.
func (v *view) failed(err error) {
	p, told := errors.AsType[*problem](err)
	if !told {
		switch {
		case errors.Is(err, mirror.ErrNotFound):
			p = &problem{http.StatusNotFound, "Not found", "The mirror does not hold it."}
		case v.r.Context().Err() != nil:
			return // the caller went away
		default:
			v.c.log.Error("could not render console page", zap.String("path", v.r.URL.Path), zap.Error(err))
			p = &problem{http.StatusServiceUnavailable, "Not available", "The mirror's database or the queue did not answer. Load the page again; the log of the process names what failed."}
		}
	}
	d := struct {
		page
		Text string
	}{v.page(p.title, ""), p.text}
	if err := v.show("problem", p.status, d); err != nil {
		v.c.log.Error("could not render console page", zap.Error(err))
		http.Error(v.w, p.text, p.status)
	}
}

// routes are the addresses of the pages.
func (c *Console) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /assets/{file}", c.asset)
	m.HandleFunc("GET /sign-in", c.signInPage)
	m.HandleFunc("POST /sign-in", c.signIn)
	m.HandleFunc("POST /sign-out", c.signOut)
	get := func(pattern string, f func(*view) error) { m.HandleFunc("GET "+pattern, c.seen(f)) }
	post := func(pattern string, f func(*view) error) { m.HandleFunc("POST "+pattern, c.acts(f)) }
	get("/{$}", (*view).overview)
	get("/customers", (*view).customers)
	get("/customers/{account}/{id}", (*view).customer)
	get("/customers/{account}/{id}/why", (*view).why)
	get("/customers/{account}/{id}/statement", (*view).statement)
	get("/customers/{account}/{id}/statement.csv", (*view).statementCSV)
	post("/customers/{account}/{id}/sync", (*view).syncCustomer)
	get("/runbooks/{name}", (*view).runbook)
	get("/drift", (*view).drift)
	get("/drift/{id}", (*view).finding)
	post("/drift/{id}/accept", func(v *view) error { return v.judge(mirror.ActionAccept) })
	post("/drift/{id}/withdraw", func(v *view) error { return v.judge(mirror.ActionWithdraw) })
	get("/dead", (*view).dead)
	get("/dead/confirm", (*view).confirmDead)
	get("/dead/{id}", (*view).letter)
	post("/dead/retry", func(v *view) error { return v.actDead(mirror.ActionRetry) })
	post("/dead/drop", func(v *view) error { return v.actDead(mirror.ActionDrop) })
	get("/sweeps", (*view).sweeps)
	post("/sweeps/{name}/start", func(v *view) error { return v.actSweep(mirror.ActionSweepStart) })
	post("/sweeps/{name}/pause", func(v *view) error { return v.actSweep(mirror.ActionSweepPause) })
	post("/sweeps/{name}/resume", func(v *view) error { return v.actSweep(mirror.ActionSweepGoOn) })
	get("/books", (*view).books)
	get("/books/{report}", (*view).bookCSV)
	get("/exports", (*view).exports)
	post("/exports/verify", (*view).verifyCopy)
	get("/writes", (*view).writes)
	get("/webhooks", (*view).webhooks)
	get("/webhooks/{id}", (*view).event)
	post("/webhooks/check", (*view).checkEndpoints)
	m.HandleFunc("/", c.seen(func(v *view) error { return notFound("There is no page at %s.", v.r.URL.Path) }))
	// A page of another origin must not press the buttons here.
	return http.NewCrossOriginProtection().Handler(m)
}

// assets never change while the program runs.
func (c *Console) asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	kind := map[string]string{"style.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}[name]
	body, err := files.ReadFile("assets/" + name)
	if kind == "" || err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(body) // a caller that went away is no concern of ours
}

// accountName is an account in addresses and words.
func accountName(account string) string {
	if account == "" {
		return "platform"
	}
	return account
}

// accountOf reads an account of an address.
func accountOf(name string) (string, error) {
	switch {
	case name == "platform" || name == "":
		return "", nil
	case mirror.ValidAccountID(name):
		return name, nil
	}
	return "", wrong("%q is no account: want acct_… or platform.", name)
}

// customerPath is the address of a customer's page.
func customerPath(account, id string) string {
	return "/customers/" + accountName(account) + "/" + url.PathEscape(id)
}

// listRows is how many rows most lists show.
const listRows = 50

// beforeOf is the place from which a list that goes back in time goes on.
func (v *view) beforeOf() (time.Time, string, error) {
	text := v.r.URL.Query().Get("before")
	if text == "" {
		return time.Time{}, "", nil
	}
	micros, id, _ := strings.Cut(text, ".")
	n, err := strconv.ParseInt(micros, 10, 64)
	if err != nil || len(id) > 200 {
		return time.Time{}, "", wrong("The position in the list cannot be read: start again from its first page.")
	}
	return time.UnixMicro(n).UTC(), id, nil
}

// older is the address of the part of a list behind a place.
func (v *view) older(at time.Time, id string) string {
	q := v.r.URL.Query()
	q.Del("done")
	q.Set("before", strconv.FormatInt(at.UnixMicro(), 10)+"."+id)
	return v.r.URL.Path + "?" + q.Encode()
}

// shown cuts what was read for a list, one row more than it shows, and returns where the
// list goes on; empty at its end.
func shown[Row any](v *view, list []Row, place func(Row) (time.Time, string)) (part []Row, older string) {
	if len(list) <= listRows {
		return list, ""
	}
	return list[:listRows], v.older(place(list[listRows-1]))
}
