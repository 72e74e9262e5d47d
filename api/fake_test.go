package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// now is the time of all tests; synced is when the ledgers were last synced.
var (
	now    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	synced = now.Add(-7 * time.Second)
)

const (
	cusBalance = "cus_NcjdgdwZyI9Rj7" // the fixture with one balance transaction per type
	cusCredits = "cus_QsEHa3GKweMwih" // the fixture with billing credits
	cusDeleted = "cus_Deleted"
	cusConnect = "cus_Connected"
	account1   = "acct_1"
	grantUsed  = "credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE"
	txnDebit   = "cbtxn_test_61R9ZljjaFmdidb6e41L6nFOS1ekD9Ue"
	txnCredit  = "cbtxn_test_61R9ZkIbb17ze4b2s41L6nFOS1ekDXHs"
)

// fake is a mirror in memory. Rows are newest first.
type fake struct {
	customers []mirror.CustomerView
	balances  []mirror.BalanceTransaction
	grants    []mirror.CreditGrant
	credits   []mirror.CreditTransaction
	changes   []mirror.Change
	// syncedAt and unfinished of both ledgers of every customer.
	syncedAt   time.Time
	unfinished bool
	// before runs ahead of each call and can make it fail.
	before func(ctx context.Context, method string) error
}

func (f *fake) call(ctx context.Context, method string) error {
	if f.before == nil {
		return nil
	}
	return f.before(ctx, method)
}

func find[Row any](rows []Row, is func(Row) bool) (Row, error) {
	if i := slices.IndexFunc(rows, is); i >= 0 {
		return rows[i], nil
	}
	var none Row
	return none, mirror.ErrNotFound
}

// pageOf cuts a page out of rows, which are newest first.
func pageOf[Row any](f *fake, rows []Row, id func(Row) string, p mirror.Page) (mirror.Slice[Row], error) {
	s := mirror.Slice[Row]{SyncedAt: f.syncedAt, Unfinished: f.unfinished}
	at := -1
	if cursor := p.After + p.Before; cursor != "" {
		at = slices.IndexFunc(rows, func(r Row) bool { return id(r) == cursor })
		if at < 0 {
			return mirror.Slice[Row]{}, mirror.ErrNotFound
		}
	}
	if p.Before != "" {
		newer := rows[:at]
		s.Rows, s.HasMore = newer[max(0, len(newer)-p.Limit):], len(newer) > p.Limit
		return s, nil
	}
	older := rows[at+1:]
	s.Rows, s.HasMore = older[:min(len(older), p.Limit)], len(older) > p.Limit
	return s, nil
}

func filter[Row any](rows []Row, keep func(Row) bool) []Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return !keep(r) })
}

func (f *fake) Customer(ctx context.Context, account, id string) (mirror.CustomerView, error) {
	if err := f.call(ctx, "Customer"); err != nil {
		return mirror.CustomerView{}, err
	}
	return find(f.customers, func(v mirror.CustomerView) bool { return v.Account == account && v.ID == id })
}

func (f *fake) held(account, id string) error {
	_, err := find(f.customers, func(v mirror.CustomerView) bool { return v.Account == account && v.ID == id })
	return err
}

func (f *fake) BalanceTransactions(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
	if err := cmpErr(f.call(ctx, "BalanceTransactions"), f.held(account, customer)); err != nil {
		return mirror.Slice[mirror.BalanceTransaction]{}, err
	}
	rows := filter(f.balances, func(t mirror.BalanceTransaction) bool { return t.Account == account && t.Customer == customer })
	return pageOf(f, rows, func(t mirror.BalanceTransaction) string { return t.ID }, p)
}

func (f *fake) BalanceTransaction(ctx context.Context, account, customer, id string) (mirror.BalanceTransaction, error) {
	if err := f.call(ctx, "BalanceTransaction"); err != nil {
		return mirror.BalanceTransaction{}, err
	}
	return find(f.balances, func(t mirror.BalanceTransaction) bool {
		return t.Account == account && t.Customer == customer && t.ID == id
	})
}

func (f *fake) Grant(ctx context.Context, account, id string) (mirror.CreditGrant, error) {
	if err := f.call(ctx, "Grant"); err != nil {
		return mirror.CreditGrant{}, err
	}
	return find(f.grants, func(g mirror.CreditGrant) bool { return g.Account == account && g.ID == id })
}

func (f *fake) Grants(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error) {
	err := f.call(ctx, "Grants")
	if customer != "" {
		err = cmpErr(err, f.held(account, customer))
	}
	if err != nil {
		return mirror.Slice[mirror.CreditGrant]{}, err
	}
	rows := filter(f.grants, func(g mirror.CreditGrant) bool {
		return g.Account == account && (customer == "" || g.Customer == customer)
	})
	s, err := pageOf(f, rows, func(g mirror.CreditGrant) string { return g.ID }, p)
	if customer == "" {
		s.SyncedAt = time.Time{} // of no one ledger
	}
	return s, err
}

// CreditSummary sums up the fake's rows as a database does.
func (f *fake) CreditSummary(ctx context.Context, account, customer string) (mirror.CreditSummary, error) {
	out := mirror.CreditSummary{Left: map[string]int64{}, Clocks: map[string]time.Time{}, SyncedAt: f.syncedAt, Unfinished: f.unfinished}
	if err := cmpErr(f.call(ctx, "CreditSummary"), f.held(account, customer)); err != nil {
		return out, err
	}
	for _, t := range f.credits {
		if t.Account != account || t.Customer != customer {
			continue
		}
		out.Left[t.Grant] += t.Amount
		if t.TestClock != "" && t.EffectiveAt.After(out.Clocks[t.TestClock]) {
			out.Clocks[t.TestClock] = t.EffectiveAt
		}
	}
	return out, nil
}

func (f *fake) GrantOwner(ctx context.Context, account, grant string) (string, error) {
	if err := f.call(ctx, "GrantOwner"); err != nil {
		return "", err
	}
	g, err := find(f.grants, func(g mirror.CreditGrant) bool { return g.Account == account && g.ID == grant })
	return g.Customer, err
}

func (f *fake) CreditTransactions(ctx context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
	err := f.call(ctx, "CreditTransactions")
	if customer != "" {
		err = cmpErr(err, f.held(account, customer))
	}
	if err != nil {
		return mirror.Slice[mirror.CreditTransaction]{}, err
	}
	rows := filter(f.credits, func(t mirror.CreditTransaction) bool {
		return t.Account == account && (customer == "" || t.Customer == customer) && (grant == "" || t.Grant == grant)
	})
	s, err := pageOf(f, rows, func(t mirror.CreditTransaction) string { return t.ID }, p)
	if customer == "" {
		s.SyncedAt = time.Time{} // of no one ledger
	}
	return s, err
}

// Snapshot keeps what is held now.
func (f *fake) Snapshot(ctx context.Context, fn func(mirror.Reader) error) error {
	if err := f.call(ctx, "Snapshot"); err != nil {
		return err
	}
	frozen := *f
	return fn(fakeSnapshot{fake: &frozen})
}

// fakeSnapshot has the methods of the fake; the others of a Reader are not asked for.
type fakeSnapshot struct {
	mirror.Reader
	*fake
}

func (s fakeSnapshot) Snapshot(context.Context, func(mirror.Reader) error) error {
	panic("a snapshot in a snapshot")
}

func (s fakeSnapshot) Customer(ctx context.Context, account, id string) (mirror.CustomerView, error) {
	return s.fake.Customer(ctx, account, id)
}

func (s fakeSnapshot) BalanceTransactions(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
	return s.fake.BalanceTransactions(ctx, account, customer, p)
}

func (s fakeSnapshot) BalanceTransaction(ctx context.Context, account, customer, id string) (mirror.BalanceTransaction, error) {
	return s.fake.BalanceTransaction(ctx, account, customer, id)
}

func (s fakeSnapshot) Grant(ctx context.Context, account, id string) (mirror.CreditGrant, error) {
	return s.fake.Grant(ctx, account, id)
}

func (s fakeSnapshot) Grants(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error) {
	return s.fake.Grants(ctx, account, customer, p)
}

func (s fakeSnapshot) GrantOwner(ctx context.Context, account, grant string) (string, error) {
	return s.fake.GrantOwner(ctx, account, grant)
}

func (s fakeSnapshot) CreditTransactions(ctx context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
	return s.fake.CreditTransactions(ctx, account, customer, grant, p)
}

func (s fakeSnapshot) CreditTransaction(ctx context.Context, account, id string) (mirror.CreditTransaction, error) {
	return s.fake.CreditTransaction(ctx, account, id)
}

func (s fakeSnapshot) CreditSummary(ctx context.Context, account, customer string) (mirror.CreditSummary, error) {
	return s.fake.CreditSummary(ctx, account, customer)
}

func (s fakeSnapshot) CustomerPage(ctx context.Context, account string, cf mirror.CustomerFilter, p mirror.Page) (mirror.Slice[mirror.CustomerView], error) {
	return s.fake.CustomerPage(ctx, account, cf, p)
}

func (s fakeSnapshot) CustomerOfAccount(ctx context.Context, account, customerAccount string) (string, error) {
	return s.fake.CustomerOfAccount(ctx, account, customerAccount)
}

func (s fakeSnapshot) Balances(ctx context.Context, account, after string, limit int, asOf time.Time) ([]mirror.CustomerBalances, error) {
	return s.fake.Balances(ctx, account, after, limit, asOf)
}

func (s fakeSnapshot) Changes(ctx context.Context, account, after string, limit int) ([]mirror.Change, error) {
	return s.fake.Changes(ctx, account, after, limit)
}

func (f *fake) CustomerPage(ctx context.Context, account string, cf mirror.CustomerFilter, p mirror.Page) (mirror.Slice[mirror.CustomerView], error) {
	if err := f.call(ctx, "CustomerPage"); err != nil {
		return mirror.Slice[mirror.CustomerView]{}, err
	}
	rows := filter(f.customers, func(v mirror.CustomerView) bool {
		return v.Account == account && !v.Deleted && v.TestClock == cf.TestClock
	})
	s, err := pageOf(f, rows, func(v mirror.CustomerView) string { return v.ID }, p)
	s.SyncedAt = time.Time{}
	return s, err
}

func (f *fake) CustomerOfAccount(ctx context.Context, account, customerAccount string) (string, error) {
	if err := f.call(ctx, "CustomerOfAccount"); err != nil {
		return "", err
	}
	v, err := find(f.customers, func(v mirror.CustomerView) bool {
		return v.Account == account && v.CustomerAccount == customerAccount
	})
	return v.ID, err
}

func (f *fake) Balances(ctx context.Context, account, after string, limit int, asOf time.Time) ([]mirror.CustomerBalances, error) {
	if err := f.call(ctx, "Balances"); err != nil {
		return nil, err
	}
	var out []mirror.CustomerBalances
	for _, v := range slices.SortedFunc(slices.Values(f.customers), func(a, b mirror.CustomerView) int { return cmp.Compare(a.ID, b.ID) }) {
		if v.Account == account && v.ID > after && len(out) < limit {
			out = append(out, mirror.CustomerBalances{
				Customer: v.ID, Deleted: v.Deleted, Balance: map[string]int64{v.Currency: v.Balance}, Credits: map[string]int64{},
				BalanceSyncedAt: v.SyncedAt, BalanceComplete: true,
			})
		}
	}
	return out, nil
}

func (f *fake) Changes(ctx context.Context, account, after string, limit int) ([]mirror.Change, error) {
	if err := f.call(ctx, "Changes"); err != nil {
		return nil, err
	}
	n := 0
	if after != "" {
		var err error
		if n, err = strconv.Atoi(after); err != nil {
			return nil, mirror.ErrNotFound
		}
	}
	list := f.changes[min(n, len(f.changes)):]
	return list[:min(limit, len(list))], nil
}

func (f *fake) CreditTransaction(ctx context.Context, account, id string) (mirror.CreditTransaction, error) {
	if err := f.call(ctx, "CreditTransaction"); err != nil {
		return mirror.CreditTransaction{}, err
	}
	return find(f.credits, func(t mirror.CreditTransaction) bool { return t.Account == account && t.ID == id })
}

// cmpErr is the first error.
func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func decode[T any](t testing.TB, raw []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return v
}

// grantOf and creditOf read the fields that the API looks at out of Stripe's JSON.
func grantOf(t testing.TB, raw []byte) mirror.CreditGrant {
	v := decode[struct {
		ID, Customer string
		Amount       struct{ Monetary monetary }
		Config       json.RawMessage `json:"applicability_config"`
		Effective    int64           `json:"effective_at"`
		Expires      int64           `json:"expires_at"`
		Voided       int64           `json:"voided_at"`
		Created      int64
		Clock        string `json:"test_clock"`
	}](t, raw)
	return mirror.CreditGrant{
		ID: v.ID, Customer: v.Customer, Amount: v.Amount.Monetary.Value, Currency: v.Amount.Monetary.Currency,
		ApplicabilityConfig: v.Config, EffectiveAt: at(v.Effective), ExpiresAt: at(v.Expires), VoidedAt: at(v.Voided),
		Created: at(v.Created), TestClock: v.Clock, Raw: raw,
	}
}

func creditOf(t testing.TB, raw []byte, customer string) mirror.CreditTransaction {
	type part struct {
		Amount struct{ Monetary monetary }
	}
	v := decode[struct {
		ID, Type      string
		Grant         string `json:"credit_grant"`
		Credit, Debit *part
		Effective     int64 `json:"effective_at"`
		Created       int64
		Clock         string `json:"test_clock"`
	}](t, raw)
	p, sign := cmp.Or(v.Credit, v.Debit), int64(1)
	if v.Type == "debit" {
		sign = -1
	}
	return mirror.CreditTransaction{
		ID: v.ID, Grant: v.Grant, Customer: customer, Type: v.Type, Amount: sign * p.Amount.Monetary.Value,
		Currency: p.Amount.Monetary.Currency, EffectiveAt: at(v.Effective), Created: at(v.Created), TestClock: v.Clock, Raw: raw,
	}
}

func at(unix int64) time.Time {
	if unix == 0 {
		return time.Time{}
	}
	return time.Unix(unix, 0).UTC()
}

// world is a mirror of the fixtures.
func world(t testing.TB) *fake {
	t.Helper()
	f := &fake{syncedAt: synced}
	chain := decode[struct {
		USD []json.RawMessage `json:"usd"`
		EUR []json.RawMessage `json:"eur"`
	}](t, fixture(t, "customer_balance_transaction.all_types_chain"))
	for _, raw := range append(chain.USD, chain.EUR...) {
		row := decode[mirror.BalanceTransaction](t, []byte(`{}`))
		row.ID, row.Customer, row.Raw = decode[struct{ ID string }](t, raw).ID, cusBalance, raw
		f.balances = append(f.balances, row)
	}
	slices.Reverse(f.balances)
	f.balances = append(f.balances, mirror.BalanceTransaction{
		ID: "cbtxn_ofdeleted", Customer: cusDeleted, Raw: balanceJSON("cbtxn_ofdeleted", cusDeleted, -5),
	}, mirror.BalanceTransaction{
		Account: account1, ID: "cbtxn_connect", Customer: cusConnect, Raw: balanceJSON("cbtxn_connect", cusConnect, 7),
	})
	customer := func(account, id string, balance int64, currency string, deleted bool) mirror.CustomerView {
		v := mirror.CustomerView{Deleted: deleted, SyncedAt: synced.Add(-time.Second)}
		v.Account, v.ID, v.Balance, v.Currency, v.Created = account, id, balance, currency, at(1680216000)
		v.InvoiceCreditBalance = map[string]int64{"usd": -balance, "eur": -150}
		v.Raw = json.RawMessage(`{"object":"customer","balance":123456,"metadata":{"k":"<script>"},"invoice_credit_balance":{"usd":1}}`)
		return v
	}
	f.customers = []mirror.CustomerView{
		customer("", cusBalance, -2000, "usd", false),
		customer("", cusCredits, 0, "", false),
		customer("", cusDeleted, -5, "usd", true),
		customer(account1, cusConnect, 7, "usd", false),
	}
	f.customers[1].TestClock, f.customers[1].InvoiceCreditBalance = "clock_1", nil
	for _, name := range []string{"billing.credit_grant.voided", "billing.credit_grant.expired", "billing.credit_grant", "billing.credit_grant.scoped_to_prices"} {
		f.grants = append(f.grants, grantOf(t, fixture(t, name)))
	}
	for _, name := range []string{"debit_credits_applied", "credit_credits_granted.current_version"} {
		f.credits = append(f.credits, creditOf(t, fixture(t, "billing.credit_balance_transaction."+name), cusCredits))
	}
	return f
}

func balanceJSON(id, customer string, amount int64) json.RawMessage {
	return fmt.Appendf(nil, `{"id":%q,"object":"customer_balance_transaction","amount":%d,"created":1680216000,`+
		`"currency":"usd","customer":%q,"ending_balance":%d,"livemode":false,"metadata":{},"type":"adjustment"}`,
		id, amount, customer, amount)
}
