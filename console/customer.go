package console

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

const (
	ledgerRows   = 25
	timelineRows = 30
	grantRows    = 50
	// whyLines bounds the explanation on a page; the command has no bound.
	whyLines = 3000
	// statementLines bounds a statement on a page; the download has no bound.
	statementLines = 2000
)

// balanceLine is a row of the customer balance.
type balanceLine struct {
	mirror.BalanceTransaction
}

// creditLine is a row of the billing credits with the balance after it.
type creditLine struct {
	mirror.CreditTransaction
	Kind    string
	Balance int64
	Running bool
}

// grantLine is a grant with what is left.
type grantLine struct {
	mirror.CreditGrant
	Left   int64
	State  string
	Gauge  template.HTML
	Expiry string
}

// moment of a customer's life.
type happening struct {
	At                time.Time
	What, Text, Class string
	ID, Href          string
	Detail            string
}

func (v *view) customer() error {
	account, id, err := v.customerOf()
	if err != nil {
		return err
	}
	ctx, store := v.r.Context(), v.c.o.Store
	c, err := v.c.o.Ledgers.Customer(ctx, account, id)
	if errors.Is(err, mirror.ErrNotFound) {
		return notFound("The mirror holds no customer %s of account %s. A customer that Stripe made a moment ago shows once its event was answered; look for it on the page Webhooks.", id, accountName(account))
	}
	if err != nil {
		return err
	}
	held, err := v.c.o.Ledgers.HeldCustomers(ctx, account, []string{id})
	if err != nil {
		return err
	}
	states, err := store.LedgerStates(ctx, account, id)
	if err != nil {
		return err
	}
	d := struct {
		page
		Account, ID        string
		C                  mirror.CustomerView
		Dashboard          string
		ShowBalance        bool
		ShowCredits        bool
		Balance, Credits   []balanceCell
		Available          []balanceCell
		States             []ledgerStateView
		Proven             bool
		Txns               []balanceLine
		TxnsNext, TxnsPrev string
		Rows               []creditLine
		RowsNext, RowsPrev string
		Grants             []grantLine
		BurnDown           []course
		Happenings         []happening
		Pending            int
		Letters            []mirror.DeadLetter
		CanSync            bool
		NextHappenings     string
	}{
		page: v.page(id, "customers"), Account: account, ID: id, C: c, Dashboard: dashboard(account, id, c.Livemode),
		ShowBalance: v.mayRead(access.Balance), ShowCredits: v.mayRead(access.Credits), CanSync: v.mayAct() && v.c.o.Do.Sync != nil, Proven: true,
	}
	d.Live = v.r.URL.RawQuery == "" || v.r.URL.Query().Get("done") != ""
	queued, err := v.queuedScopes(account, id)
	if err != nil {
		d.Problem = "The queue does not answer: whether work of this customer waits is not known."
	}
	for _, s := range states {
		if !v.mayRead(access.Ledger(s.Scope)) {
			continue
		}
		s.Queued = queued[s.Scope]
		l := ledgerStateView{LedgerState: s, Name: ledgerNames[string(s.Scope)]}
		l.Proven = s.Complete && !s.Walking && !s.Disproved
		l.Why = standingWords(s)
		d.Proven = d.Proven && l.Proven
		d.States = append(d.States, l)
	}
	if d.ShowBalance {
		d.Balance = cells(mirror.ScopeBalance, held[id].Balances)
		if err := v.balanceRows(account, id, &d.Txns, &d.TxnsNext, &d.TxnsPrev); err != nil {
			return err
		}
	}
	if d.ShowCredits {
		summary, err := v.c.o.Ledgers.CreditSummary(ctx, account, id)
		if err != nil && !errors.Is(err, mirror.ErrNotFound) {
			return err
		}
		ledger, available := map[string]int64{}, map[string]int64{}
		for currency, b := range summary.Balances {
			ledger[currency], available[currency] = b.Ledger, b.Available
		}
		if c.Deleted {
			clear(ledger)
			clear(available)
		}
		d.Credits, d.Available = cells(mirror.ScopeCredits, ledger), cells(mirror.ScopeCredits, available)
		if d.Grants, err = v.grantLines(account, id, summary, c.Deleted); err != nil {
			return err
		}
		if err := v.creditRows(account, id, summary, &d.Rows, &d.RowsNext, &d.RowsPrev); err != nil {
			return err
		}
		if d.RowsPrev == "" && !c.Deleted {
			d.BurnDown = burnDown(d.Rows, d.RowsNext == "", d.Grants, ledger, v.c.now())
		}
	}
	before, err := v.timelineBefore()
	if err != nil {
		return err
	}
	t, err := store.Timeline(ctx, account, id, before, 2*timelineRows)
	if err != nil {
		return err
	}
	for _, e := range t.Events {
		if e.Pending {
			d.Pending++
		}
	}
	d.Letters = slices.DeleteFunc(t.Letters, func(l mirror.DeadLetter) bool { return !v.mayRead(access.Ledger(l.Target.Scope)) })
	d.Happenings, d.NextHappenings = timelinePage(happenings(t, states, d.Txns, before, v))
	return v.show("customer", http.StatusOK, d)
}

// queuedScopes are the ledgers of a customer that wait for a sync or are in one.
func (v *view) queuedScopes(account, id string) (map[mirror.Scope]bool, error) {
	queued := map[mirror.Scope]bool{}
	if v.c.o.Queued == nil {
		return queued, nil
	}
	targets := v.targets(account, id)
	waiting, err := v.c.o.Queued(v.r.Context(), targets)
	for i, w := range waiting {
		queued[targets[i].Scope] = w
	}
	return queued, err
}

// timelineBefore is where the page of the timeline begins that was asked for.
func (v *view) timelineBefore() (time.Time, error) {
	text := v.r.URL.Query().Get("before")
	if text == "" {
		return v.c.now().Add(time.Hour), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, wrong("The position in the timeline cannot be read.")
	}
	return time.UnixMicro(n).UTC(), nil
}

// timelinePage cuts a page of the timeline, and returns the link to the next; "" after
// the last. Stripe's times are whole seconds, so that several things happen at one: a page
// ends between two moments, and is longer than others where it must.
func timelinePage(list []happening) (page []happening, next string) {
	if len(list) <= timelineRows {
		return list, ""
	}
	last, end := list[timelineRows-1].At, timelineRows
	for end < len(list) && list[end].At.Equal(last) {
		end++
	}
	if end == len(list) {
		return list, ""
	}
	return list[:end], "?before=" + strconv.FormatInt(last.UnixMicro(), 10) + "#timeline"
}

// ledgerStateView is how one ledger stands, in words.
type ledgerStateView struct {
	mirror.LedgerState
	Name, Why string
	Proven    bool
}

func standingWords(s mirror.LedgerState) string {
	switch {
	case !s.RefusedAt.IsZero():
		return "Stripe's reply contradicts a stored row; it is refused, and the customer is not updated. See Drift."
	case s.Disproved:
		return "The last sync could not prove the balance from the rows. It is read again; see Drift."
	case s.Walking:
		return "A read of the whole history is under way."
	case !s.Complete:
		return "The history is not complete yet. It is read when its turn comes; Sync now brings it forward."
	}
	return "Every row is stored, and together they add up to the balance that Stripe reports."
}

// dashboard is the customer's page at Stripe.
func dashboard(account, id string, live bool) string {
	u := "https://dashboard.stripe.com/"
	if account != "" {
		u += account + "/"
	}
	if !live {
		u += "test/"
	}
	return u + "customers/" + url.PathEscape(id)
}

// ledgerPage reads where a list of a ledger goes on.
func (v *view) ledgerPage(prefix string) mirror.Page {
	q := v.r.URL.Query()
	p := mirror.Page{Limit: ledgerRows, After: q.Get(prefix + "after")}
	if p.After == "" {
		p.Before = q.Get(prefix + "before")
	}
	return p
}

func (v *view) balanceRows(account, id string, rows *[]balanceLine, next, prev *string) error {
	p := v.ledgerPage("b")
	list, err := v.c.o.Ledgers.BalanceTransactions(v.r.Context(), account, id, p)
	if errors.Is(err, mirror.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, t := range list.Rows {
		*rows = append(*rows, balanceLine{t})
	}
	pageLinks("b", p, len(list.Rows), list.HasMore, next, prev, func(i int) string { return list.Rows[i].ID })
	return nil
}

// pageLinks are the addresses of the pages beside one.
func pageLinks(prefix string, p mirror.Page, n int, more bool, next, prev *string, id func(int) string) {
	if n == 0 {
		return
	}
	older, newer := more, p.After != ""
	if p.Before != "" {
		older, newer = true, more
	}
	if older {
		*next = "?" + prefix + "after=" + url.QueryEscape(id(n-1))
	}
	if newer {
		*prev = "?" + prefix + "before=" + url.QueryEscape(id(0))
	}
}

func (v *view) creditRows(account, id string, summary mirror.CreditSummary, rows *[]creditLine, next, prev *string) error {
	p := v.ledgerPage("c")
	list, err := v.c.o.Ledgers.CreditTransactions(v.r.Context(), account, id, "", p)
	if errors.Is(err, mirror.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	running := map[string]report.Wide{}
	first := p.After == "" && p.Before == ""
	for currency, b := range summary.Balances {
		running[currency] = report.Of(b.Ledger)
	}
	for _, t := range list.Rows {
		l := creditLine{CreditTransaction: t, Kind: cmp.Or(t.CreditType, t.DebitType, t.Type)}
		balance, over := running[t.Currency].Amount()
		l.Balance, l.Running = balance, first && !over
		running[t.Currency] = running[t.Currency].Minus(report.Of(t.Amount))
		*rows = append(*rows, l)
	}
	pageLinks("c", p, len(list.Rows), list.HasMore, next, prev, func(i int) string { return list.Rows[i].ID })
	return nil
}

func (v *view) grantLines(account, id string, summary mirror.CreditSummary, deleted bool) ([]grantLine, error) {
	list, err := v.c.o.Ledgers.Grants(v.r.Context(), account, id, mirror.Page{Limit: grantRows})
	if errors.Is(err, mirror.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	now := v.c.now()
	var out []grantLine
	for _, g := range list.Rows {
		l := grantLine{CreditGrant: g, Left: summary.Left[g.ID]}
		l.ExpiresAt, l.EffectiveAt, l.VoidedAt = readable(g.ExpiresAt), readable(g.EffectiveAt), readable(g.VoidedAt)
		if deleted {
			l.Left = 0
		}
		l.Gauge = gauge(l.Left, g.Amount)
		switch {
		case deleted:
			l.State = "customer deleted"
		case !l.VoidedAt.IsZero():
			l.State = "voided"
		case !l.ExpiresAt.IsZero() && !l.ExpiresAt.After(now):
			l.State = "expired"
		case l.EffectiveAt.After(now):
			l.State = "pending"
		case l.Left == 0:
			l.State = "used up"
		default:
			l.State = "in use"
		}
		switch {
		case l.ExpiresAt.IsZero():
			l.Expiry = "never"
		case l.ExpiresAt.After(now):
			l.Expiry = "in " + age(l.ExpiresAt.Sub(now))
		default:
			l.Expiry = ago(now, l.ExpiresAt)
		}
		out = append(out, l)
	}
	return out, nil
}

// readable is a time, or none where the column holds what cannot be one.
func readable(t time.Time) time.Time {
	if t.Equal(mirror.Unreadable) {
		return time.Time{}
	}
	return t
}

// burnDown draws billing credits: what was left after each of the newest rows, and what will
// be left when grants expire unused.
func burnDown(rows []creditLine, whole bool, grants []grantLine, now map[string]int64, today time.Time) []course {
	byCurrency := map[string][]point{}
	for _, r := range slices.Backward(rows) {
		if r.Running {
			if whole && len(byCurrency[r.Currency]) == 0 {
				byCurrency[r.Currency] = append(byCurrency[r.Currency], point{At: r.Created, Value: r.Balance - r.Amount})
			}
			byCurrency[r.Currency] = append(byCurrency[r.Currency], point{At: r.Created, Value: r.Balance})
		}
	}
	var list []course
	for currency, points := range byCurrency {
		left := now[currency]
		if last := points[len(points)-1].At; today.After(last) {
			points = append(points, point{At: today, Value: left})
		}
		expiring := slices.DeleteFunc(slices.Clone(grants), func(g grantLine) bool {
			return g.Currency != currency || g.State != "in use" && g.State != "pending" || g.ExpiresAt.IsZero() || g.Left == 0
		})
		slices.SortFunc(expiring, func(a, b grantLine) int { return a.ExpiresAt.Compare(b.ExpiresAt) })
		for _, g := range expiring {
			if g.ExpiresAt.Sub(today) > 5*365*24*time.Hour {
				break // it would press the rest together
			}
			left -= g.Left
			points = append(points, point{At: g.ExpiresAt, Value: left, Ahead: true})
		}
		if len(points) < 3 {
			continue
		}
		c := course{Ledger: "credits", Currency: currency, Now: now[currency], Points: points}
		c.Chart = line(fmt.Sprintf("Billing credits in %s over time; dashed: what is left when grants expire unused", strings.ToUpper(currency)), currency, points)
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b course) int { return cmp.Compare(a.Currency, b.Currency) })
	return list
}

// happenings puts everything in one order, the newest first.
func happenings(t mirror.Timeline, states []mirror.LedgerState, txns []balanceLine, before time.Time, v *view) []happening {
	var list []happening
	add := func(h happening) {
		if !h.At.IsZero() && h.At.Before(before) {
			list = append(list, h)
		}
	}
	for _, e := range t.Events {
		h := happening{At: e.Created, What: "event", Text: e.Type, ID: e.ID, Href: "/webhooks/" + url.PathEscape(e.ID)}
		switch {
		case e.Pending:
			h.Class, h.Detail = "warn", "waits for a sync"
		case !e.Applied.IsZero():
			h.Detail = "answered " + age(max(e.Applied.Sub(e.Created), 0)) + " after it happened"
		}
		add(h)
	}
	for _, f := range t.Findings {
		if f.Scope != "" && (f.Scope == mirror.ScopeBalance || f.Scope == mirror.ScopeCredits) && !v.mayRead(access.Ledger(f.Scope)) {
			continue
		}
		h := happening{At: f.FoundAt, What: "finding", Text: kindText(f.Kind), ID: f.ID, Href: "/drift/" + f.ID, Class: "bad", Detail: "open"}
		if !f.RepairedAt.IsZero() {
			h.Class, h.Detail = "", "closed "+age(f.RepairedAt.Sub(f.FoundAt))+" later"
		}
		add(h)
	}
	for _, w := range t.Writes {
		add(happening{At: w.Created, What: "write", Text: cmp.Or(w.Operation, "write") + " by " + cmp.Or(w.Key, "no key"), ID: cmp.Or(w.Object, w.ID), Detail: string(w.Outcome), Class: map[bool]string{true: "", false: "warn"}[w.Outcome == mirror.APIDone]})
	}
	for _, a := range t.Actions {
		add(happening{At: a.Created, What: "action", Text: string(a.Action) + " by " + a.Actor, Detail: a.Reason, ID: a.Object})
	}
	for _, l := range t.Letters {
		if v.mayRead(access.Ledger(l.Target.Scope)) {
			add(happening{At: l.FirstFailedAt, What: "dead letter", Text: l.Reason, ID: l.ID, Href: "/dead/" + url.PathEscape(l.ID), Class: "bad"})
		}
	}
	for _, s := range states {
		if v.mayRead(access.Ledger(s.Scope)) {
			add(happening{At: s.ObservedAt, What: "sync", Text: ledgerNames[string(s.Scope)] + " was last read from Stripe", Class: ""})
			if !s.FullReadAt.IsZero() && !s.FullReadAt.Equal(s.ObservedAt) {
				add(happening{At: s.FullReadAt, What: "sync", Text: ledgerNames[string(s.Scope)] + " was last read from its first row to its last"})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b happening) int { return b.At.Compare(a.At) })
	return list
}

// limited is a buffer that takes so many lines.
type limited struct {
	bytes.Buffer
	lines int
}

var errTooLong = errors.New("too long for a page")

func (l *limited) Write(p []byte) (int, error) {
	if l.lines -= bytes.Count(p, []byte("\n")); l.lines < 0 {
		return 0, errTooLong
	}
	return l.Buffer.Write(p)
}

func (v *view) why() error {
	account, id, err := v.customerOf()
	if err != nil {
		return err
	}
	switch {
	case len(v.ledgers()) < 2:
		return forbidden("This key may not see both ledgers, which the explanation is of.")
	case v.c.o.Books == nil:
		return wrong("This database keeps no books.")
	}
	d := struct {
		page
		explained
		Account, ID string
		Known       bool
	}{page: v.page("Why this balance is right", "customers"), Account: account, ID: id}
	d.explained, _, err = getFew(v.r.Context(), v.c.memo, "why "+account+" "+id, onePersonFresh, func(ctx context.Context) (explained, error) {
		return v.c.explain(ctx, account, id)
	})
	switch {
	case errors.Is(err, errPending):
		d.Pending = true
	case err != nil:
		return err
	default:
		d.Known = true
	}
	return v.show("why", http.StatusOK, d)
}

// onePersonFresh is how long what was read of one customer is shown again: only as long as
// a page that loads itself again may take.
const onePersonFresh = 2 * time.Second

// explained is why a balance is right, in lines.
type explained struct {
	Lines []whyLine
	Cut   bool
	Wrong int
}

func (c *Console) explain(ctx context.Context, account, id string) (e explained, err error) {
	out := &limited{lines: whyLines}
	err = c.o.Books.Books(ctx, func(r report.Reader) error {
		accounts, err := r.Knows(ctx, report.Filter{Account: &account, Customer: id})
		if err == nil && len(accounts) == 0 {
			err = mirror.ErrNotFound
		}
		if err == nil {
			e.Wrong, err = report.Explain(ctx, r, report.Key{Account: account, Customer: id}, out, false)
		}
		return err
	})
	if errors.Is(err, errTooLong) {
		e.Cut, err = true, nil
	}
	if err != nil {
		return explained{}, err
	}
	for row := range strings.SplitSeq(strings.TrimRight(out.String(), "\n"), "\n") {
		class := ""
		switch {
		case strings.HasSuffix(row, ": WRONG") || strings.Contains(row, "NOT PROVEN"):
			class = "bad"
		case strings.HasSuffix(row, ": ok") || row == "Every link holds.":
			class = "good"
		}
		e.Lines = append(e.Lines, whyLine{row, class})
	}
	return e, nil
}

type whyLine struct{ Text, Class string }

// span reads from and to of the address.
func (v *view) span() (from, until time.Time, err error) {
	q := v.r.URL.Query()
	until = report.Now(v.c.now())
	if text := strings.TrimSpace(q.Get("from")); text != "" {
		if from, err = report.ParseBound(text, time.UTC); err != nil {
			return from, until, wrong("from: %v", err)
		}
	}
	if text := strings.TrimSpace(q.Get("to")); text != "" {
		if until, err = report.ParseBound(text, time.UTC); err != nil {
			return from, until, wrong("to: %v", err)
		}
	}
	if !from.Before(until) {
		return from, until, wrong("The statement would begin at %s, which is not before its end.", from.Format(time.DateTime))
	}
	return from, until, nil
}

// statementOf yields the lines of a customer's statement.
func (c *Console) statementOf(ctx context.Context, account, id string, ledgers []report.Ledger, from, until time.Time, yield func(report.Movement) error) (report.Outcome, error) {
	if c.o.Books == nil {
		return report.Outcome{}, wrong("This database keeps no books.")
	}
	var out report.Outcome
	err := c.o.Books.Books(ctx, func(r report.Reader) (err error) {
		accounts, err := r.Knows(ctx, report.Filter{Account: &account, Customer: id})
		if err != nil {
			return err
		}
		if len(accounts) == 0 {
			return mirror.ErrNotFound
		}
		q := report.Query{Filter: report.Filter{Account: &account, Customer: id}, Ledgers: ledgers, Until: until}
		out, err = report.Statement(ctx, r, q, from, yield)
		return err
	})
	return out, err
}

// statementPart is one ledger and currency of a statement.
type statementPart struct {
	Ledger, Currency string
	Lines            []report.Movement
}

// statementPage is as much of a statement as a page shows.
type statementPage struct {
	To       time.Time
	Parts    []statementPart
	Unproven bool
	Cut      bool
}

func (v *view) statement() error {
	account, id, err := v.customerOf()
	if err != nil {
		return err
	}
	from, until, err := v.span()
	if err != nil {
		return err
	}
	d := struct {
		page
		statementPage
		Account, ID string
		From        time.Time
		AskFrom     string
		AskTo       string
		Known       bool
		CSV         string
	}{page: v.page("Statement of "+id, "customers"), Account: account, ID: id, From: from}
	d.AskFrom, d.AskTo = v.r.URL.Query().Get("from"), v.r.URL.Query().Get("to")
	d.CSV = customerPath(account, id) + "/statement.csv?" + v.r.URL.RawQuery
	ledgers := v.ledgers()
	// Without an end it goes to now, which is another moment each time it is asked for.
	name := fmt.Sprintf("statement %q %s %q %d %q", account, id, ledgers, from.Unix(), strings.TrimSpace(d.AskTo))
	d.statementPage, _, err = getFew(v.r.Context(), v.c.memo, name, onePersonFresh, func(ctx context.Context) (statementPage, error) {
		return v.c.statementPage(ctx, account, id, ledgers, from, until)
	})
	switch {
	case errors.Is(err, errPending):
		d.Pending, d.To = true, report.AsOf(until)
	case err != nil:
		return err
	default:
		d.Known = true
	}
	return v.show("statement", http.StatusOK, d)
}

func (c *Console) statementPage(ctx context.Context, account, id string, ledgers []report.Ledger, from, until time.Time) (statementPage, error) {
	d := statementPage{To: report.AsOf(until)}
	n := 0
	out, err := c.statementOf(ctx, account, id, ledgers, from, until, func(m report.Movement) error {
		if n++; n > statementLines {
			return errTooLong
		}
		last := len(d.Parts) - 1
		if last < 0 || d.Parts[last].Ledger != string(m.Ledger) || d.Parts[last].Currency != m.Currency {
			d.Parts = append(d.Parts, statementPart{Ledger: string(m.Ledger), Currency: m.Currency})
			last++
		}
		d.Parts[last].Lines = append(d.Parts[last].Lines, m)
		return nil
	})
	if errors.Is(err, errTooLong) {
		d.Cut, err = true, nil
	}
	d.Unproven = out.Unproven > 0
	return d, err
}

// download begins a CSV file.
func (v *view) download(name string, columns ...string) *csv.Writer {
	v.w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	v.w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	w := csv.NewWriter(v.w)
	_ = w.Write(columns) // Flush returns the error
	return w
}

func (v *view) statementCSV() error {
	account, id, err := v.customerOf()
	if err != nil {
		return err
	}
	from, until, err := v.span()
	if err != nil {
		return err
	}
	var w *csv.Writer
	begin := func() {
		if w == nil {
			w = v.download("statement-"+id+".csv", "date", "ledger", "id", "type", "currency", "amount", "balance", "invoice", "credit_note", "grant", "description")
		}
	}
	out, err := v.c.statementOf(v.r.Context(), account, id, v.ledgers(), from, until, func(m report.Movement) error {
		begin()
		amount := ""
		if !m.Edge {
			amount = strconv.FormatInt(m.Amount, 10)
		}
		return w.Write(report.NoFormulas([]string{
			m.Dated.UTC().Format(time.RFC3339), string(m.Ledger), m.ID, m.Type, m.Currency, amount, strconv.FormatInt(m.Balance, 10),
			m.Invoice, m.CreditNote, m.Grant, m.Description,
		}))
	})
	if err != nil {
		return v.cutOff(w, err)
	}
	if out.Unproven > 0 && w == nil {
		return wrong("The history of %s is not wholly held, so that there is no figure.", id)
	}
	begin()
	w.Flush()
	return w.Error()
}

// cutOff ends a download that failed: where it has begun the connection is cut, so that
// nobody takes the part for the whole.
func (v *view) cutOff(w *csv.Writer, err error) error {
	if w == nil {
		return err
	}
	panic(http.ErrAbortHandler)
}
