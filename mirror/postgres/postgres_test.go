package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
)

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func TestStore(t *testing.T) {
	mirrortest.Run(t, openHarness)
}

func TestBooks(t *testing.T) {
	mirrortest.RunBooks(t, openHarness)
}

func openHarness(t *testing.T) mirror.Store {
	t.Helper()
	url := newMirror(t)
	return harnessAt(t, url, url)
}

// harnessAt opens the store at url and SQL beside it at direct, which a pooler does not
// stand before.
func harnessAt(t *testing.T, url, direct string) mirror.Store {
	t.Helper()
	sql := openSQL(t, direct)
	return &mirrortest.Harness{
		Store: openStore(t, url),
		Query: sql.query,
		Exec: func(ctx context.Context, statement string) error {
			_, err := sql.pool.Exec(ctx, statement)
			return err
		},
		Again: func(t *testing.T) mirror.Store { return openStore(t, url) },
		Sliced: func(t *testing.T, rows int) mirror.Store {
			s, err := Open(t.Context(), url, Options{Slice: rows})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			return s
		},
	}
}

// newMirror makes a database with the mirror's empty tables.
func newMirror(t testing.TB) string {
	t.Helper()
	return pgtest.NewCopy(t, func(url string) error {
		s, err := Open(context.Background(), url, Options{})
		if err != nil {
			return err
		}
		defer s.Close()
		return s.Migrate(context.Background())
	})
}

// openStore opens a store that is closed with the test.
func openStore(t testing.TB, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), url, Options{MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// sqlView is what a test sees of the tables beside the store.
type sqlView struct{ pool *pgxpool.Pool }

func openSQL(t testing.TB, url string) sqlView {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 4
	config.ConnConfig.RuntimeParams["search_path"] = "creditmirror"
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return sqlView{pool}
}

// query returns every value as text, NULL as the empty string.
func (v sqlView) query(ctx context.Context, statement string) ([][]string, error) {
	rows, err := v.pool.Query(ctx, statement, pgx.QueryResultFormats{pgx.TextFormatCode})
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]string, error) {
		line := make([]string, 0, len(row.RawValues()))
		for _, v := range row.RawValues() {
			line = append(line, string(v))
		}
		return line, nil
	})
}

// number reads one number.
func (v sqlView) number(t testing.TB, statement string, args ...any) int64 {
	t.Helper()
	var n pgtype.Int8
	if err := v.pool.QueryRow(t.Context(), statement, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return n.Int64
}

func (v sqlView) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := v.pool.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

var firstSecond = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// account is a customer's balance at Stripe, in one currency.
type account struct {
	customer string
	rows     []mirror.BalanceTransaction // oldest first
}

func (a *account) target() mirror.Target {
	return mirror.Target{Scope: mirror.ScopeBalance, ID: a.customer}
}

func (a *account) balance() int64 {
	if len(a.rows) == 0 {
		return 0
	}
	return a.rows[len(a.rows)-1].EndingBalance
}

// add makes one transaction a second after the last.
func (a *account) add(amount int64) {
	n := len(a.rows) + 1
	r := mirror.BalanceTransaction{
		ID: fmt.Sprintf("cbtxn_%s_%06d", a.customer, n), Customer: a.customer, Amount: amount, Currency: "eur",
		EndingBalance: a.balance() + amount, Type: "adjustment", Created: firstSecond.Add(time.Duration(n) * time.Second),
	}
	r.Raw = json.RawMessage(fmt.Sprintf(`{"id":%q,"amount":%d,"ending_balance":%d}`, r.ID, r.Amount, r.EndingBalance))
	a.rows = append(a.rows, r)
}

// snapshot reads the newest n rows.
func (a *account) snapshot(st mirror.SyncState, n int) mirror.BalanceSnapshot {
	n = min(n, len(a.rows))
	w := mirror.Window[mirror.BalanceTransaction]{FromHead: true, ToEnd: n == len(a.rows)}
	for i := range n {
		w.Rows = append(w.Rows, a.rows[len(a.rows)-1-i])
	}
	return mirror.BalanceSnapshot{
		Target: a.target(), Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: time.Now(),
		Customer: mirror.Customer{
			ID: a.customer, Balance: a.balance(), Currency: "eur", Created: firstSecond,
			Raw: json.RawMessage(fmt.Sprintf(`{"id":%q,"balance":%d}`, a.customer, a.balance())),
		},
		Windows: []mirror.Window[mirror.BalanceTransaction]{w},
		Joined:  true, Full: w.ToEnd,
	}
}

// sync reads the newest n rows and commits them.
func (a *account) sync(ctx context.Context, s mirror.Store, n int) (mirror.Applied, error) {
	st, err := s.BeginSync(ctx, a.target())
	if err != nil {
		return mirror.Applied{}, err
	}
	return s.ApplyBalance(ctx, a.snapshot(st, n))
}

func (a *account) mustSync(t testing.TB, s mirror.Store, n int) mirror.Applied {
	t.Helper()
	applied, err := a.sync(t.Context(), s, n)
	if err != nil {
		t.Fatal(err)
	}
	return applied
}

func TestOpenKeepsPasswordOutOfErrors(t *testing.T) {
	t.Parallel()
	const password = "s3cr3tWord"
	for _, url := range []string{
		"postgres://user:" + password + "@127.0.0.1:1/db?sslmode=disable",
		"postgres://user:" + password + "@127.0.0.1:port/db",
		"postgres://user:" + password + "%zz@127.0.0.1/db",
		"postgres://user:" + password + " word@127.0.0.1/db",
		"postgres://127.0.0.1:" + password + "/db",
		"host=127.0.0.1 password=" + password + " port=x",
		"host=127.0.0.1 password='" + password,
		"postgres://user:" + password + "@127.0.0.1/db?sslmode=never",
		"postgres://user:" + password + "@127.0.0.1/db?sslrootcert=/no/such/file&sslmode=verify-full",
	} {
		s, err := Open(t.Context(), url, Options{})
		if err == nil {
			err = s.Ping(t.Context())
			s.Close()
		}
		if err == nil || strings.Contains(err.Error(), password) || strings.Contains(fmt.Sprintf("%+v", err), password) {
			t.Errorf("%q: error %v", url, err)
		}
	}
}

func TestPoolFitsWorkers(t *testing.T) {
	t.Parallel()
	const url = "postgres://user@127.0.0.1:1/db?sslmode=disable"
	for _, c := range []struct {
		url  string
		opts Options
		want int32
	}{
		{url, Options{}, 8},
		{url, Options{Workers: 16}, 20},
		{url, Options{Workers: 16, MaxConns: 3}, 3},
		{url + "&pool_max_conns=5", Options{Workers: 16}, 5},
	} {
		s, err := Open(t.Context(), c.url, c.opts)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.pool.Config().MaxConns; got != c.want {
			t.Errorf("%+v: %d connections, want %d", c.opts, got, c.want)
		}
		s.Close()
	}
}
