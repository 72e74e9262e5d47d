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
	m.HandleFunc("GET /console/customer", c.customer)
	m.HandleFunc("GET /console/events", c.events)
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

func (c *console) show(w http.ResponseWriter, name string, status int, data any) {
	var b bytes.Buffer
	if err := c.pages.ExecuteTemplate(&b, name, data); err != nil {
		c.s.log.Error("page cannot be shown", zap.String("page", name), zap.Error(err))
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

// money is an amount in the currency's smallest unit.
type money struct {
	Amount   int64
	Currency string
}

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
	Balances, Credits           []money
}

func (c *customer) balances() []money {
	var out []money
	for _, e := range c.ends {
		out = append(out, money{e.balance, e.currency})
	}
	return out
}

func (c *customer) creditsLeft() []money {
	var out []money
	for _, e := range summarize(c.grants.rows, nil, 0) {
		out = append(out, money{e.LedgerBalance.Monetary.Value, e.LedgerBalance.Monetary.Currency})
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
		d.Rows = append(d.Rows, customerLine{v.id, a.id, text(v.email), clockText(v.created), v.balances(), v.creditsLeft()})
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
	ID, Created, Type, Currency, Invoice, Description string
	Amount, Ending                                    int64
}

type grantRow struct {
	ID, Category, Currency, Effective, Expires, State string
	Amount, Left, Priority                            int64
}

type creditRow struct {
	ID, Effective, Type, Currency, Grant, Invoice string
	Amount                                        int64
}

type invoiceRow struct {
	ID, Status, Currency string
	Total, Due, Left     int64
}

// newestOf calls f for the newest rows of a list.
func newestOf[T listed](l *ordered[T], f func(T)) {
	for i := len(l.rows) - 1; i >= max(0, len(l.rows)-consoleRows); i-- {
		f(l.rows[i])
	}
}

func (c *console) customer(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	a := c.s.account(q.Get("account"))
	d := struct {
		page
		ID       string
		Deleted  bool
		Limit    int
		Balances []money
		Txns     []txnRow
		Grants   []grantRow
		Credits  []creditRow
		Invoices []invoiceRow
	}{page: c.page(q.Get("id"), nil), ID: q.Get("id"), Limit: consoleRows}
	if a == nil || !a.exists(d.ID) {
		d.page = c.page("No such customer", nil)
		c.show(w, "customer", http.StatusNotFound, d)
		return
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	v := a.customers[d.ID]
	if v == nil {
		d.page = c.page("No such customer", nil)
		c.show(w, "customer", http.StatusNotFound, d)
		return
	}
	d.Deleted, d.Balances = v.gone, v.balances()
	if v.name != nil {
		d.Title = *v.name + " · " + v.id
	}
	now := v.ledgerNow(a.systemCause())
	newestOf(&v.txns, func(t *balanceTxn) {
		d.Txns = append(d.Txns, txnRow{t.id, clockText(t.created), t.typ, t.currency, t.invoice, text(t.description), t.amount, t.ending})
	})
	newestOf(&v.grants, func(g *grant) {
		d.Grants = append(d.Grants, grantRow{g.id, g.category, g.currency, maybe(g.effectiveAt), maybe(g.expiresAt), g.state(now), g.amount, g.remaining, g.priority})
	})
	newestOf(&v.credits, func(t *creditTxn) {
		n := t.value
		if !t.credit {
			n = -n
		}
		d.Credits = append(d.Credits, creditRow{t.id, clockText(t.effectiveAt), t.typ, t.grant.currency, t.grant.id, t.invoice, n})
	})
	newestOf(&v.invoices, func(i *invoice) {
		d.Invoices = append(d.Invoices, invoiceRow{i.id, i.status, i.currency, i.total(), i.due(), i.remaining()})
	})
	c.show(w, "customer", http.StatusOK, d)
}

type attemptRow struct {
	Text, Endpoint string
	Good           bool
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
		row := attemptRow{Endpoint: x.Endpoint, Good: x.Status >= 200 && x.Status < 300, Text: fmt.Sprintf("%d.: %d", x.Number, x.Status)}
		if x.Error != "" {
			row.Text = fmt.Sprintf("%d.: %s", x.Number, x.Error)
		}
		attempts[x.Event] = append(attempts[x.Event], row)
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
	status := http.StatusOK
	if problem != nil {
		status = http.StatusBadRequest
	}
	c.show(w, "faults", status, d)
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
	status := http.StatusOK
	if problem != nil {
		status = http.StatusBadRequest
	}
	c.show(w, "clock", status, struct{ page }{c.page("Clock", problem)})
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
