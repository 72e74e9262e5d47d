package stripesim

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/money"
)

//go:embed console/console.html console/style.css
var consoleFiles embed.FS

// consoleRows is how many rows a table of the console shows.
const consoleRows = 50

// faultText describes every kind of fault for people.
var faultText = []struct {
	Kind                  FaultKind
	Text                  string
	Delay, Request, Event bool
}{
	{FaultRateLimit, "Refuse with 429", false, true, false},
	{FaultLock, "Refuse with 429, the object is locked", false, true, false},
	{Fault500, "Answer 500", false, true, false},
	{Fault502, "Answer 502 with HTML", false, true, false},
	{FaultTruncated, "Cut the JSON off", false, true, false},
	{FaultReset, "Reset the connection", false, true, false},
	{FaultEmptyPage, "Empty page that says it has more", false, true, false},
	{FaultOversize, "Answer with 20 MiB", false, true, false},
	{FaultNonsense, "Answer with another object", false, true, false},
	{FaultSlow, "Answer late", true, true, false},
	{FaultListLag, "New rows show late in lists", true, true, false},
	{FaultCursorGone, "Take a cursor for one whose object is gone", false, true, false},
	{FaultEventLost, "Never make the event", false, false, true},
	{FaultEventFailed, "Never make the event, and send a thin one about it", false, false, true},
	{FaultEventTwice, "Make two events of one change", false, false, true},
	{FaultWebhookDrop, "Never send the webhook, keep it pending", false, false, true},
	{FaultWebhookLost, "Never send the webhook, count it as delivered", false, false, true},
	{FaultWebhookDuplicate, "Send the webhook twice", true, false, true},
	{FaultWebhookDelay, "Send the webhook late", true, false, true},
	{FaultWebhookReorder, "Send webhooks out of order", true, false, true},
}

type console struct {
	s     *Server
	pages *template.Template
	style []byte
}

// page is what every page shows.
type page struct {
	Title   string
	Problem string
	Clock   ClockState
}

func (s *Server) consoleHandler() http.Handler {
	style, err := consoleFiles.ReadFile("console/style.css")
	if err != nil {
		panic(err) // embedded: cannot fail
	}
	c := &console{s: s, pages: template.Must(template.ParseFS(consoleFiles, "console/console.html")), style: style}
	m := http.NewServeMux()
	m.HandleFunc("GET /{$}", c.customers)
	m.HandleFunc("GET /console/customer", func(w http.ResponseWriter, r *http.Request) { c.customer(w, r, nil, nil) })
	m.HandleFunc("POST /console/customer", c.changeCustomer)
	m.HandleFunc("GET /console/events", c.events)
	m.HandleFunc("GET /console/event", func(w http.ResponseWriter, r *http.Request) { c.event(w, r, nil) })
	m.HandleFunc("POST /console/event", c.redeliver)
	m.HandleFunc("GET /console/endpoints", func(w http.ResponseWriter, r *http.Request) { c.endpoints(w, r, nil) })
	m.HandleFunc("POST /console/endpoints", c.changeEndpoint)
	m.HandleFunc("GET /console/faults", func(w http.ResponseWriter, r *http.Request) { c.faults(w, r, nil) })
	m.HandleFunc("POST /console/faults", c.changeFaults)
	m.HandleFunc("GET /console/clock", func(w http.ResponseWriter, r *http.Request) { c.clock(w, r, nil) })
	m.HandleFunc("POST /console/clock", c.changeClock)
	m.HandleFunc("GET /console/style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write(c.style)
	})
	// A page of another origin must not press the buttons here.
	return http.NewCrossOriginProtection().Handler(m)
}

func (c *console) page(title string, problem error) page {
	p := page{Title: title, Clock: c.s.Clock()}
	if problem != nil {
		p.Problem = problem.Error()
		if e := asAPI(problem); e.typ == invalidRequest {
			p.Problem = e.message
		}
	}
	return p
}

// statusOf is the status of a page that shows a problem, or none.
func statusOf(problem error) int {
	if problem == nil {
		return http.StatusOK
	}
	if e := asAPI(problem); e.typ == invalidRequest {
		return e.status
	}
	return http.StatusBadRequest
}

func (c *console) show(w http.ResponseWriter, name string, status int, data any) {
	var b bytes.Buffer
	if err := c.pages.ExecuteTemplate(&b, name, data); err != nil {
		c.s.log.Error("could not render page", zap.String("page", name), zap.Error(err))
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// sum is an amount as people read it.
type sum struct {
	Text     string // "12.50 USD"
	Word     string // what the sign says: "credit", "owed", "debit", or ""
	Smallest int64  // as the API has it, in the currency's smallest unit
}

// balanceSum is an amount of the customer balance, where minus is credit.
func balanceSum(n int64, currency string) sum {
	v := sum{strings.TrimPrefix(money.Format(n, currency), "-"), "", n}
	switch {
	case n < 0:
		v.Word = "credit"
	case n > 0:
		v.Word = "owed"
	}
	return v
}

// creditSum is what billing credits came to or went.
func creditSum(n int64, credit bool, currency string) sum {
	if credit {
		return sum{money.Format(n, currency), "credit", n}
	}
	return sum{money.Format(n, currency), "debit", n}
}

// plainSum is an amount that has no other side.
func plainSum(n int64, currency string) sum { return sum{money.Format(n, currency), "", n} }

func clockText(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02 15:04:05") }

func maybe(at *int64) string {
	if at == nil {
		return "never"
	}
	return clockText(*at)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

type accountOption struct {
	ID   string
	Live bool
}

type clockOption struct{ ID, Text string }

type customerLine struct {
	ID, Account, Email, Created string
	Name                        string
	Balances, Credits           []sum
}

func (c *customer) balances() []sum {
	var out []sum
	for _, e := range c.ends {
		out = append(out, balanceSum(e.balance, e.currency))
	}
	return out
}

func (c *customer) creditsLeft() []sum {
	var out []sum
	for _, e := range summarize(c.grants.rows, nil, 0) {
		out = append(out, plainSum(e.LedgerBalance.Monetary.Value, e.LedgerBalance.Monetary.Currency))
	}
	return out
}

func (c *console) customers(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	d := struct {
		page
		Account, Find, Older, TestClock        string
		Accounts                               []accountOption
		TestClocks                             []clockOption
		Total, Txns, Grants, Credits, Invoices int
		Rows                                   []customerLine
	}{page: c.page("Customers", nil), Account: q.Get("account"), Find: strings.TrimSpace(q.Get("find")), TestClock: q.Get("clock")}
	for _, a := range c.s.allAccounts() {
		if a.live == c.s.opts.Livemode {
			d.Accounts = append(d.Accounts, accountOption{a.id, a.live})
		}
	}
	a := c.s.account(d.Account)
	if a == nil {
		d.page = c.page("Customers", fmt.Errorf("there is no account %q", d.Account))
		c.show(w, "customers", http.StatusNotFound, d)
		return
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	d.Total, d.Txns, d.Grants, d.Credits, d.Invoices = len(a.customers), len(a.txns), len(a.grants), len(a.credits), len(a.invoices)
	list := &a.customerList
	for _, k := range slices.Backward(a.clockList.rows) {
		if k.gone {
			continue
		}
		name := "at " + clockText(k.frozen)
		if k.name != nil {
			name = *k.name + ", " + name
		}
		d.TestClocks = append(d.TestClocks, clockOption{k.id, name})
		if k.id == d.TestClock {
			list = &k.customers
		}
	}
	var rows []*customer
	switch after := a.customers[q.Get("after")]; {
	case d.Find != "":
		if one := a.customers[d.Find]; one != nil {
			rows = []*customer{one}
		} else {
			rows = a.byEmail[d.Find]
		}
	default:
		end := len(list.rows)
		if after != nil {
			if i, ok := list.index(after); ok {
				end = i
			}
		}
		for i := end - 1; i >= 0; i-- {
			if v := list.rows[i]; !v.gone {
				if len(rows) == consoleRows {
					d.Older = rows[consoleRows-1].id
					break
				}
				rows = append(rows, v)
			}
		}
	}
	for _, v := range rows[:min(len(rows), consoleRows)] {
		d.Rows = append(d.Rows, customerLine{v.id, a.id, text(v.email), clockText(v.created), text(v.name), v.balances(), v.creditsLeft()})
	}
	c.show(w, "customers", http.StatusOK, d)
}

// state is what Stripe's dashboard calls the grant's status.
func (g *grant) state(now int64) string {
	switch {
	case g.voidedAt != nil:
		return "voided"
	case g.expired:
		return "expired"
	case *g.effectiveAt > now:
		return "pending"
	case g.remaining == 0:
		return "depleted"
	}
	return "granted"
}

type txnRow struct {
	ID, Created, Type, Invoice, Description string
	Amount, Ending                          sum
}

type grantRow struct {
	ID, Name, Category, Effective, Expires, State string
	Amount, Left                                  sum
	Priority                                      int64
	Open                                          bool
}

type creditRow struct {
	ID, Effective, Type, Grant, Invoice string
	Amount                              sum
}

type invoiceRow struct {
	ID, Status       string
	Total, Due, Left sum
	Can              []string // what can be done to it
}

// newestOf calls f for the newest rows of a list.
func newestOf[T listed](l *ordered[T], f func(T)) {
	for i := len(l.rows) - 1; i >= max(0, len(l.rows)-consoleRows); i-- {
		f(l.rows[i])
	}
}

// can are the actions that the page offers on an invoice.
func (i *invoice) can() []string {
	switch i.status {
	case statusDraft:
		return []string{"finalize"}
	case statusOpen, statusUncollectible:
		return []string{"pay", "void"}
	}
	return nil
}

// customer shows one, and after a form that failed its problem and what was typed.
func (c *console) customer(w http.ResponseWriter, r *http.Request, problem error, typed url.Values) {
	q := r.URL.Query()
	a := c.s.account(q.Get("account"))
	d := struct {
		page
		ID, Account, Name, Email, Currency string
		Deleted                            bool
		TestClock                          *clockOption
		Limit                              int
		Balances, Left                     []sum
		Txns                               []txnRow
		Grants                             []grantRow
		Credits                            []creditRow
		Invoices                           []invoiceRow
		Typed                              url.Values
	}{page: c.page("No such customer", nil), ID: q.Get("id"), Limit: consoleRows, Typed: typed}
	if a == nil {
		c.show(w, "customer", http.StatusNotFound, d)
		return
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	v := a.customers[d.ID]
	if v == nil {
		c.show(w, "customer", http.StatusNotFound, d)
		return
	}
	d.page = c.page(v.id, problem)
	d.Account, d.Deleted, d.Balances, d.Left = a.id, v.gone, v.balances(), v.creditsLeft()
	d.Name, d.Email, d.Currency = text(v.name), text(v.email), v.currency
	if d.Currency == "" {
		d.Currency = c.s.switches().DefaultCurrency
	}
	if d.Name != "" {
		d.Title = d.Name
	}
	if k := v.clock; k != nil {
		d.TestClock = &clockOption{k.id, clockText(k.frozen)}
		if k.advancing {
			d.TestClock.Text += ", on its way to " + clockText(k.target)
		}
	}
	now := v.ledgerNow(a.systemCause())
	newestOf(&v.txns, func(t *balanceTxn) {
		d.Txns = append(d.Txns, txnRow{
			t.id, clockText(t.created), t.typ, t.invoice, text(t.description), balanceSum(t.amount, t.currency), balanceSum(t.ending, t.currency),
		})
	})
	newestOf(&v.grants, func(g *grant) {
		d.Grants = append(d.Grants, grantRow{
			g.id, text(g.name), g.category, maybe(g.effectiveAt), maybe(g.expiresAt), g.state(now),
			plainSum(g.amount, g.currency), plainSum(g.remaining, g.currency), g.priority, g.open() && !v.gone,
		})
	})
	newestOf(&v.credits, func(t *creditTxn) {
		d.Credits = append(d.Credits, creditRow{t.id, clockText(t.effectiveAt), t.typ, t.grant.id, t.invoice, creditSum(t.value, t.credit, t.grant.currency)})
	})
	newestOf(&v.invoices, func(i *invoice) {
		row := invoiceRow{i.id, i.status, plainSum(i.total(), i.currency), plainSum(i.due(), i.currency), plainSum(i.remaining(), i.currency), nil}
		if !v.gone && !i.standIn {
			row.Can = i.can()
		}
		d.Invoices = append(d.Invoices, row)
	})
	c.show(w, "customer", statusOf(problem), d)
}

type attemptRow struct {
	Number                             int // 0: never sent
	At, Outcome, Endpoint, URL, Answer string
	Good                               bool
}

func attemptOf(x Attempt) attemptRow {
	row := attemptRow{Number: x.Number, At: clockText(x.At), Endpoint: x.Endpoint, Good: x.good(), Answer: x.Answer, Outcome: x.Error}
	if x.Error == "" {
		row.Outcome = strconv.Itoa(x.Status)
	}
	return row
}

type eventRow struct {
	ID, Created, Type, Account, Customer string
	Pending                              int32
	Attempts                             []attemptRow
}

func (c *console) events(w http.ResponseWriter, r *http.Request) {
	typ := strings.TrimSpace(r.URL.Query().Get("type"))
	d := struct {
		page
		Type string
		Rows []eventRow
	}{page: c.page("Events", nil), Type: typ}
	attempts := map[string][]attemptRow{}
	for _, x := range slices.Backward(c.s.Attempts("")) {
		attempts[x.Event] = append(attempts[x.Event], attemptOf(x))
	}
	type dated struct {
		row     eventRow
		created int64
	}
	var rows []dated
	for _, a := range c.s.allAccounts() {
		a.mu.RLock()
		n := 0
		for _, e := range slices.Backward(a.eventList.rows) {
			if typ != "" && !matchType(typ, e.typ) {
				continue
			}
			if n++; n > consoleRows {
				break
			}
			rows = append(rows, dated{eventRow{e.id, clockText(e.created), e.typ, a.id, e.customer, e.pending.Load(), attempts[e.id]}, e.created})
		}
		a.mu.RUnlock()
	}
	slices.SortStableFunc(rows, func(x, y dated) int { return int(min(1, max(-1, y.created-x.created))) })
	for _, x := range rows[:min(len(rows), consoleRows)] {
		d.Rows = append(d.Rows, x.row)
	}
	c.show(w, "events", http.StatusOK, d)
}

type targetRow struct {
	ID, URL string
	Thin    bool
}

// event shows one with its JSON, what became of its deliveries, and the endpoints
// that it can be sent to once more.
func (c *console) event(w http.ResponseWriter, r *http.Request, problem error) {
	id := r.URL.Query().Get("id")
	d := struct {
		page
		ID, Type, Created, Account, Customer, JSON, Thin string
		Pending                                          int32
		Attempts                                         []attemptRow
		Targets                                          []targetRow
	}{page: c.page("No such event", nil), ID: id}
	for _, a := range c.s.allAccounts() {
		a.mu.RLock()
		e := a.events[id]
		if e != nil {
			d.page = c.page(e.typ, problem)
			d.Type, d.Created, d.Account, d.Customer, d.Pending = e.typ, clockText(e.created), a.id, e.customer, e.pending.Load()
			if e.thin == nil {
				d.JSON = prettyText(e.render(a, "", ""))
			}
			if e.thinName() != "" && c.s.thins() {
				d.Thin = prettyText(a.thinEvent(e, a.id, true))
			}
		}
		a.mu.RUnlock()
		if e == nil {
			continue
		}
		urls := map[string]string{}
		for _, t := range *c.s.sender.targets.Load() {
			urls[t.id] = t.url
			if t.wants(c.s, a, e) {
				d.Targets = append(d.Targets, targetRow{t.id, t.url, t.thin})
			}
		}
		for _, x := range c.s.Attempts(id) {
			row := attemptOf(x)
			row.URL = urls[x.Endpoint]
			d.Attempts = append(d.Attempts, row)
		}
		c.show(w, "event", statusOf(problem), d)
		return
	}
	c.show(w, "event", http.StatusNotFound, d)
}

func prettyText(v any) string {
	b, err := pretty(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

type endpointRow struct {
	ID, URL, Account, Version, Created, Description string
	Events, Secrets                                 []string
	Live, Connect, Thin, V2, Disabled               bool
	Delivered, Failed                               int64
}

// endpoints shows the webhook endpoints and event destinations of all accounts.
func (c *console) endpoints(w http.ResponseWriter, _ *http.Request, problem error) {
	d := struct {
		page
		Version string
		Rows    []endpointRow
	}{page: c.page("Webhook endpoints", problem), Version: c.s.opts.APIVersion}
	counts := map[string]EndpointStats{}
	for _, x := range c.s.Endpoints() {
		counts[x.ID] = x
	}
	now := c.s.unix()
	for _, a := range c.s.allAccounts() {
		a.mu.RLock()
		for _, h := range a.hookList.rows {
			if h.gone {
				continue
			}
			row := endpointRow{
				ID: h.id, URL: h.url, Account: a.id, Version: text(h.version), Created: clockText(h.created), Description: text(h.description),
				Events: h.enabled, Live: a.live, Connect: h.connect || slices.Contains(h.from, fromAccounts), Thin: h.thin, V2: h.v2, Disabled: h.disabled,
				Delivered: counts[h.id].Delivered, Failed: counts[h.id].Failed,
			}
			if h.name != "" {
				row.Description = h.name
			}
			for _, k := range h.secrets {
				if k.until == 0 || now < k.until {
					row.Secrets = append(row.Secrets, k.text)
				}
			}
			d.Rows = append(d.Rows, row)
		}
		a.mu.RUnlock()
	}
	c.show(w, "endpoints", statusOf(problem), d)
}

type ruleRow struct {
	Index       int
	Kind        FaultKind
	When, Where string
}

func (c *console) faults(w http.ResponseWriter, _ *http.Request, problem error) {
	d := struct {
		page
		Rules     []ruleRow
		Kinds     any
		Endpoints []string
	}{page: c.page("Faults", problem), Kinds: faultText}
	for i, f := range c.s.faults.get() {
		row := ruleRow{Index: i, Kind: f.Kind}
		if f.Probability > 0 {
			row.When = strconv.FormatFloat(f.Probability*100, 'g', 4, 64) + " % of the time"
		}
		if f.Count > 0 {
			row.When = strings.TrimPrefix(row.When+fmt.Sprintf(", %d times", f.Count), ", ")
		}
		if f.Delay > 0 {
			row.When += ", by " + time.Duration(f.Delay).String()
		}
		row.Where = strings.Join(slices.DeleteFunc([]string{f.Endpoint, f.Event, f.Customer, f.Account}, func(s string) bool { return s == "" }), ", ")
		d.Rules = append(d.Rules, row)
	}
	for _, rt := range routes {
		d.Endpoints = append(d.Endpoints, rt.name)
	}
	c.show(w, "faults", statusOf(problem), d)
}

// readForm reads a posted form, which is short.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		return nil, fmt.Errorf("the form could not be read: %w", err)
	}
	return r.PostForm, nil
}

func (c *console) changeFaults(w http.ResponseWriter, r *http.Request) {
	v, err := readForm(w, r)
	if err == nil {
		err = c.setFaults(v)
	}
	if err != nil {
		c.faults(w, r, err)
		return
	}
	http.Redirect(w, r, "/console/faults", http.StatusSeeOther)
}

func (c *console) setFaults(v url.Values) error {
	switch {
	case v.Get("preset") == "chaos":
		return c.s.SetFaults(Chaos())
	case v.Get("preset") == "none":
		return c.s.SetFaults(nil)
	case v.Has("remove"):
		if i, err := strconv.Atoi(v.Get("remove")); err != nil || !c.s.faults.remove(i) {
			return fmt.Errorf("there is no such fault any more")
		}
		return nil
	}
	f := Fault{Kind: FaultKind(v.Get("kind")), Endpoint: v.Get("endpoint"), Event: strings.TrimSpace(v.Get("event")), Customer: strings.TrimSpace(v.Get("customer"))}
	var err error
	if x := strings.TrimSpace(v.Get("probability")); x != "" {
		if f.Probability, err = strconv.ParseFloat(x, 64); err != nil {
			return fmt.Errorf("the probability must be a number from 0 to 1, not %q", x)
		}
	}
	if x := strings.TrimSpace(v.Get("count")); x != "" {
		if f.Count, err = strconv.Atoi(x); err != nil {
			return fmt.Errorf("the number of times must be a whole number, not %q", x)
		}
	}
	if x := strings.TrimSpace(v.Get("delay")); x != "" {
		d, err := parseDays(x)
		if err != nil {
			return fmt.Errorf("the delay must be one such as 250ms, not %q", x)
		}
		f.Delay = Duration(d)
	}
	if f.Probability == 0 && f.Count == 0 {
		return fmt.Errorf("a fault needs a probability or a number of times")
	}
	return c.s.faults.add(f)
}

func (c *console) clock(w http.ResponseWriter, _ *http.Request, problem error) {
	c.show(w, "clock", statusOf(problem), struct{ page }{c.page("Clock", problem)})
}

func (c *console) changeClock(w http.ResponseWriter, r *http.Request) {
	v, err := readForm(w, r)
	if err == nil {
		switch v.Get("do") {
		case "freeze":
			err = c.s.FreezeClock(time.Time{})
		case "release":
			c.s.ReleaseClock()
		case "advance":
			var d time.Duration
			if d, err = parseDays(strings.TrimSpace(v.Get("by"))); err != nil {
				err = fmt.Errorf("the clock is advanced by a duration such as 30d or 12h, not %q", v.Get("by"))
			} else {
				err = c.s.AdvanceClock(r.Context(), d)
			}
		default:
			err = fmt.Errorf("nothing was asked for")
		}
	}
	if err != nil {
		c.clock(w, r, err)
		return
	}
	http.Redirect(w, r, "/console/clock", http.StatusSeeOther)
}
