package worker

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/internal/sqlitetest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
	"github.com/creditmirror/creditmirror/stripeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// t0 is when all ledgers of these tests begin.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const cus = "cus_1"

func balanceOf(id string) mirror.Target { return mirror.Target{Scope: mirror.ScopeBalance, ID: id} }
func creditsOf(id string) mirror.Target { return mirror.Target{Scope: mirror.ScopeCredits, ID: id} }

// fakeStripe keeps both ledgers of a few customers.
type fakeStripe struct {
	mu        sync.Mutex
	calls     []string
	customers map[string]*account
	grants    map[string]mirror.CreditGrant
	bills     map[string]string // invoices and credit notes with their customers
	idle      map[string]bool   // invoices that no balance has to do with
	// before runs before each reply, with the lock held: it may change what is
	// replied, or fail the call.
	before func(call string) error
	// summaryOff is added to every summary.
	summaryOff int64
	// pageCap bounds every page; 0: what is asked for.
	pageCap int
	clock   time.Time
	next    int
	lastTop int // rows that existed when the head of a list was last served
}

type account struct {
	mirror.Customer
	deleted, gone bool
	rows          []listed[mirror.BalanceTransaction] // oldest first
	credits       []listed[mirror.CreditTransaction]
	// hidden is how many of the newest rows the lists leave out.
	hidden int
	// late are rows of credits that the list leaves out.
	late map[string]bool
}

// listed is a row and what orders it within its second.
type listed[Row any] struct {
	row Row
	tie int
}

func newStripe() *fakeStripe {
	return &fakeStripe{customers: map[string]*account{}, grants: map[string]mirror.CreditGrant{}, clock: t0}
}

func (f *fakeStripe) add(id string) *account {
	a := &account{Customer: mirror.Customer{ID: id, Currency: "eur", Created: t0, InvoiceCreditBalance: map[string]int64{}}}
	a.render()
	f.customers[id] = a
	return a
}

func (a *account) render() {
	a.Raw = json.RawMessage(fmt.Sprintf(`{"id":%q,"object":"customer","balance":%d}`, a.ID, a.Balance))
}

// post makes a balance transaction. tie orders it among those of its second.
func (f *fakeStripe) post(a *account, currency string, amount int64, tie int) string {
	f.next++
	if currency == a.Currency {
		a.Balance += amount
	}
	a.InvoiceCreditBalance[currency] -= amount
	a.render()
	r := mirror.BalanceTransaction{
		ID: fmt.Sprintf("cbtxn_%05d", f.next), Customer: a.ID, Amount: amount, Currency: currency,
		EndingBalance: -a.InvoiceCreditBalance[currency], Type: "adjustment", Created: f.clock,
		Metadata: json.RawMessage(`{}`),
	}
	renderRow(&r)
	a.rows = append(a.rows, listed[mirror.BalanceTransaction]{r, tie})
	return r.ID
}

// renderRow makes a row's JSON anew after a change.
func renderRow(r *mirror.BalanceTransaction) {
	r.Raw = json.RawMessage(fmt.Sprintf(`{"id":%q,"amount":%d,"currency":%q,"ending_balance":%d,"type":%q,"created":%d}`,
		r.ID, r.Amount, r.Currency, r.EndingBalance, r.Type, r.Created.Unix()))
}

// adjust makes a balance transaction in a second of its own.
func (f *fakeStripe) adjust(a *account, amount int64) string {
	f.clock = f.clock.Add(time.Second)
	return f.post(a, "eur", amount, 0)
}

// grant gives credits; a metered grant counts in the summary of all.
func (f *fakeStripe) grant(a *account, amount int64, metered bool) string {
	f.next++
	f.clock = f.clock.Add(time.Second)
	id := fmt.Sprintf("credgr_%05d", f.next)
	config := `{"scope":{"prices":[{"id":"price_1"}]}}`
	if metered {
		config = `{"scope":{"price_type":"metered"}}`
	}
	f.grants[id] = mirror.CreditGrant{
		ID: id, Customer: a.ID, AmountType: "monetary", Amount: amount, Currency: "eur", Category: "paid",
		ApplicabilityConfig: json.RawMessage(config), EffectiveAt: f.clock, Created: f.clock, Updated: f.clock,
		Metadata: json.RawMessage(`{}`), Raw: json.RawMessage(fmt.Sprintf(`{"id":%q}`, id)),
	}
	f.move(a, id, amount)
	return id
}

// move makes a credit balance transaction.
func (f *fakeStripe) move(a *account, grant string, amount int64) string {
	f.next++
	f.clock = f.clock.Add(time.Second)
	r := mirror.CreditTransaction{
		ID: fmt.Sprintf("cbt_%05d", f.next), Grant: grant, Customer: a.ID, Type: "credit", CreditType: "credits_granted",
		Amount: amount, Currency: "eur", EffectiveAt: f.clock, Created: f.clock,
	}
	if amount < 0 {
		r.Type, r.CreditType, r.DebitType = "debit", "", "credits_applied"
	}
	renderCredit(&r)
	a.credits = append(a.credits, listed[mirror.CreditTransaction]{r, 0})
	return r.ID
}

// renderCredit makes a credit row's JSON anew after a change.
func renderCredit(r *mirror.CreditTransaction) {
	r.Raw = json.RawMessage(fmt.Sprintf(`{"id":%q,"credit_grant":%q,"type":%q,%q:{"amount":{"monetary":{"value":%d,"currency":%q}}},"created":%d}`,
		r.ID, r.Grant, r.Type, r.Type, max(r.Amount, -r.Amount), r.Currency, r.Created.Unix()))
}

// call notes a call and lets the test have its say.
func (f *fakeStripe) call(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	f.calls = append(f.calls, call)
	if f.before != nil {
		return f.before(call)
	}
	return nil
}

// made returns the calls since the last look, and forgets them.
func (f *fakeStripe) made() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := strings.Join(f.calls, "; ")
	f.calls = nil
	return out
}

func missing(param string) error {
	return &stripeapi.Error{Kind: stripeapi.KindNotFound, Status: 404, Code: "resource_missing", Param: param}
}

func failure(kind stripeapi.Kind) error { return &stripeapi.Error{Kind: kind} }

// page cuts a page out of a list.
func page[Row any](f *fakeStripe, all []listed[Row], hidden int, after string, limit int, identify func(Row) (string, time.Time)) (rows []Row, more bool, err error) {
	all = slices.Clone(all[:len(all)-min(hidden, len(all))])
	slices.SortFunc(all, func(a, b listed[Row]) int {
		ida, ta := identify(a.row)
		idb, tb := identify(b.row)
		return cmp.Or(tb.Compare(ta), cmp.Compare(b.tie, a.tie), cmp.Compare(idb, ida))
	})
	from := 0
	if after != "" {
		from = slices.IndexFunc(all, func(l listed[Row]) bool { id, _ := identify(l.row); return id == after }) + 1
		if from == 0 {
			return nil, false, missing("starting_after")
		}
	}
	if f.pageCap > 0 {
		limit = min(limit, f.pageCap)
	}
	to := min(from+limit, len(all))
	for _, l := range all[from:to] {
		rows = append(rows, l.row)
	}
	return rows, to < len(all), nil
}

func (f *fakeStripe) BalancePage(ctx context.Context, _, customer, after string, limit int) (stripeapi.BalancePage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("balance after=%s limit=%d", after, limit); err != nil {
		return stripeapi.BalancePage{}, err
	}
	a, ok := f.customers[customer]
	if !ok || a.gone || a.deleted {
		return stripeapi.BalancePage{}, missing("customer")
	}
	rows, more, err := page(f, a.rows, a.hidden, after, limit,
		func(r mirror.BalanceTransaction) (string, time.Time) { return r.ID, r.Created })
	if err != nil {
		return stripeapi.BalancePage{}, err
	}
	if after == "" {
		f.lastTop = len(a.rows)
	}
	p := stripeapi.BalancePage{Rows: rows, HasMore: more}
	if len(rows) > 0 {
		c := a.copy()
		p.Customer = &c
	}
	return p, nil
}

func (a *account) copy() mirror.Customer {
	c := a.Customer
	c.InvoiceCreditBalance = map[string]int64{}
	for k, v := range a.InvoiceCreditBalance {
		c.InvoiceCreditBalance[k] = v
	}
	return c
}

func (f *fakeStripe) Customer(ctx context.Context, _, id string) (stripeapi.CustomerReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("customer"); err != nil {
		return stripeapi.CustomerReply{}, err
	}
	a, ok := f.customers[id]
	switch {
	case !ok || a.gone:
		return stripeapi.CustomerReply{}, missing("id")
	case a.deleted:
		return stripeapi.CustomerReply{Customer: mirror.Customer{ID: id}, Deleted: true}, nil
	}
	return stripeapi.CustomerReply{Customer: a.copy()}, nil
}

func (f *fakeStripe) CustomersPage(ctx context.Context, _ string, q stripeapi.CustomersQuery) (stripeapi.CustomersPage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("customers clock=%s after=%s", q.TestClock, q.After); err != nil {
		return stripeapi.CustomersPage{}, err
	}
	var all []listed[mirror.Customer]
	for _, a := range f.customers {
		if a.TestClock == q.TestClock && !a.gone && !a.deleted {
			all = append(all, listed[mirror.Customer]{a.copy(), 0})
		}
	}
	rows, more, err := page(f, all, 0, q.After, q.Limit, func(c mirror.Customer) (string, time.Time) { return c.ID, c.Created })
	page := stripeapi.CustomersPage{Rows: rows, HasMore: more}
	if len(rows) > 0 {
		page.Last = rows[len(rows)-1].ID
	}
	return page, err
}

func (f *fakeStripe) CreditPage(ctx context.Context, _, customer, after string, limit int) (stripeapi.CreditPage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("credits after=%s limit=%d", after, limit); err != nil {
		return stripeapi.CreditPage{}, err
	}
	a, ok := f.customers[customer]
	if !ok || a.gone || a.deleted {
		return stripeapi.CreditPage{}, missing("customer")
	}
	shown := slices.DeleteFunc(slices.Clone(a.credits), func(l listed[mirror.CreditTransaction]) bool { return a.late[l.row.ID] })
	rows, more, err := page(f, shown, a.hidden, after, limit,
		func(r mirror.CreditTransaction) (string, time.Time) { return r.ID, r.Created })
	p := stripeapi.CreditPage{Rows: rows, HasMore: more}
	seen := map[string]bool{}
	for _, r := range rows {
		if !seen[r.Grant] {
			seen[r.Grant] = true
			p.Grants = append(p.Grants, f.grants[r.Grant])
		}
	}
	return p, err
}

func (f *fakeStripe) GrantsPage(ctx context.Context, _, customer, after string, limit int) (stripeapi.GrantsPage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("grants after=%s", after); err != nil {
		return stripeapi.GrantsPage{}, err
	}
	var all []listed[mirror.CreditGrant]
	for _, g := range f.grants {
		if g.Customer == customer {
			all = append(all, listed[mirror.CreditGrant]{g, 0})
		}
	}
	rows, more, err := page(f, all, 0, after, limit, func(g mirror.CreditGrant) (string, time.Time) { return g.ID, g.Created })
	page := stripeapi.GrantsPage{Rows: rows, HasMore: more}
	if len(rows) > 0 {
		page.Last = rows[len(rows)-1].ID
	}
	return page, err
}

func (f *fakeStripe) Grant(ctx context.Context, _, id string) (mirror.CreditGrant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("grant"); err != nil {
		return mirror.CreditGrant{}, err
	}
	g, ok := f.grants[id]
	if !ok {
		return mirror.CreditGrant{}, missing("id")
	}
	return g, nil
}

func (f *fakeStripe) CreditOwner(_ context.Context, _, id string) (mirror.CreditGrant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("credit"); err != nil {
		return mirror.CreditGrant{}, err
	}
	for _, a := range f.customers {
		for _, r := range a.credits {
			if r.row.ID == id {
				return f.grants[r.row.Grant], nil
			}
		}
	}
	return mirror.CreditGrant{}, missing("id")
}

func (f *fakeStripe) InvoiceOwner(_ context.Context, _, id string) (customer string, moves bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("invoice"); err != nil {
		return "", false, err
	}
	owner, ok := f.bills[id]
	if !ok {
		return "", false, missing("id")
	}
	return owner, !f.idle[id], nil
}

func (f *fakeStripe) CreditNoteOwner(_ context.Context, _, id string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("note"); err != nil {
		return "", err
	}
	owner, ok := f.bills[id]
	if !ok {
		return "", missing("id")
	}
	return owner, nil
}

func (f *fakeStripe) TestClock(_ context.Context, _, id string) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("clock %s", id); err != nil {
		return time.Time{}, err
	}
	return f.clock, nil
}

func (f *fakeStripe) CreditSummary(ctx context.Context, _, customer string, q stripeapi.SummaryFilter) (map[string]mirror.CreditBalance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	kind := "all"
	if q.Grant != "" {
		kind = "grant"
	}
	if err := f.call("summary %s", kind); err != nil {
		return nil, err
	}
	var sum int64
	for _, l := range f.customers[customer].credits {
		if q.Grant == "" || l.row.Grant == q.Grant {
			sum += l.row.Amount
		}
	}
	sum += f.summaryOff
	return map[string]mirror.CreditBalance{"eur": {Ledger: sum, Available: sum}}, nil
}

// fakeMarker keeps marks.
type fakeMarker struct {
	marks []string
	refs  []mirror.EventRef
	err   error
}

func (m *fakeMarker) MarkTargets(_ context.Context, targets []mirror.Target, refs []mirror.EventRef) error {
	if m.err != nil {
		return m.err
	}
	for _, t := range targets {
		m.marks = append(m.marks, t.Key())
	}
	m.refs = append(m.refs, refs...)
	return nil
}

// wrapped is a store whose calls a test may fail or count.
type wrapped struct {
	Store
	before func(call string) error
}

func (w *wrapped) say(call string) error {
	if w.before == nil {
		return nil
	}
	return w.before(call)
}

func (w *wrapped) BeginSync(ctx context.Context, t mirror.Target) (mirror.SyncState, error) {
	if err := w.say("begin"); err != nil {
		return mirror.SyncState{}, err
	}
	return w.Store.BeginSync(ctx, t)
}

func (w *wrapped) ApplyBalance(ctx context.Context, s mirror.BalanceSnapshot) (mirror.Applied, error) {
	if err := w.say("apply"); err != nil {
		return mirror.Applied{}, err
	}
	return w.Store.ApplyBalance(ctx, s)
}

func (w *wrapped) ApplyCredits(ctx context.Context, s mirror.CreditsSnapshot) (mirror.Applied, error) {
	if err := w.say("apply"); err != nil {
		return mirror.Applied{}, err
	}
	return w.Store.ApplyCredits(ctx, s)
}

func (w *wrapped) Damaged(ctx context.Context, t mirror.Target, ids []string) (bool, error) {
	if err := w.say("damaged"); err != nil {
		return false, err
	}
	return w.Store.Damaged(ctx, t, ids)
}

func (w *wrapped) Refuse(ctx context.Context, r mirror.Refusal) ([]mirror.Finding, error) {
	if err := w.say("refuse"); err != nil {
		return nil, err
	}
	return w.Store.Refuse(ctx, r)
}

func (w *wrapped) ResolveEvents(ctx context.Context, q mirror.Target, targets []mirror.Target) error {
	if err := w.say("resolve"); err != nil {
		return err
	}
	return w.Store.ResolveEvents(ctx, q, targets)
}

func (w *wrapped) GrantOwner(ctx context.Context, account, grant string) (string, error) {
	if err := w.say("owner"); err != nil {
		return "", err
	}
	return w.Store.GrantOwner(ctx, account, grant)
}

// bench is a syncer with all that it works on.
type bench struct {
	stripe *fakeStripe
	store  *sqlite.Store
	flaky  *wrapped
	marks  *fakeMarker
	syncer *Syncer
	path   string
}

func setup(t testing.TB, o SyncOptions) *bench {
	t.Helper()
	b := &bench{stripe: newStripe(), marks: &fakeMarker{}}
	b.store, b.path = sqlitetest.Open(t)
	b.flaky = &wrapped{Store: b.store}
	if o.RereadDelay == 0 {
		o.RereadDelay = time.Microsecond
	}
	b.syncer = NewSyncer(b.stripe, b.flaky, b.marks, o)
	return b
}

// sync syncs and expects it to go well.
func (b *bench) sync(t testing.TB, target mirror.Target, refs ...mirror.EventRef) Result {
	t.Helper()
	r, err := b.syncer.Sync(t.Context(), target, refs, false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// exec changes what is held behind the program's back.
func (b *bench) exec(t testing.TB, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", b.path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := db.ExecContext(t.Context(), statement)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	if n, err := r.RowsAffected(); n == 0 {
		t.Fatalf("%s changed nothing: %v", statement, err)
	}
}

// found are the findings recorded: kind, object, expected, actual, and whether open.
func (b *bench) found(t testing.TB) (list []string) {
	t.Helper()
	all, err := b.store.Findings(t.Context(), mirror.FindingsQuery{RepairedSince: time.Unix(1, 0), Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		state := map[bool]string{true: "open", false: "closed"}[f.RepairedAt.IsZero()]
		list = append(list, strings.Join([]string{string(f.Kind), f.Object, f.Expected, f.Actual, f.Cause, state}, "|"))
	}
	slices.Sort(list)
	return list
}

// held are the ids of the balance rows held.
func (b *bench) held(t testing.TB) (ids []string) {
	t.Helper()
	slice, err := b.store.BalanceTransactions(t.Context(), "", cus, mirror.Page{Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range slice.Rows {
		ids = append(ids, r.ID)
	}
	return ids
}

func (b *bench) heldCredits(t testing.TB) int {
	t.Helper()
	slice, err := b.store.CreditTransactions(t.Context(), "", cus, "", mirror.Page{Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	return len(slice.Rows)
}
