package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
)

// requireChain proves that exactly the rows that a customer has at Stripe are
// held, in one closed chain that ends at the held balance.
func requireChain(t *testing.T, s *Store, a *account) {
	t.Helper()
	c, err := s.Customer(t.Context(), "", a.customer)
	if err != nil || c.Balance != a.balance() {
		t.Fatalf("%s: balance %d, %v, want %d", a.customer, c.Balance, err, a.balance())
	}
	page, err := s.BalanceTransactions(t.Context(), "", a.customer, mirror.Page{Limit: len(a.rows) + 1})
	if err != nil || len(page.Rows) != len(a.rows) {
		t.Fatalf("%s: %d rows, %v, want %d", a.customer, len(page.Rows), err, len(a.rows))
	}
	for i, r := range page.Rows {
		want := a.rows[len(a.rows)-1-i]
		if r.ID != want.ID || r.EndingBalance != want.EndingBalance || r.Position != int64(len(a.rows)-i) {
			t.Fatalf("%s: row %d is %s at %d, want %s", a.customer, i, r.ID, r.Position, want.ID)
		}
	}
}

// TestF17_ServerKilledDuringWrites: whatever was acknowledged outlives kill -9,
// what was not is whole or absent, and the same store works again afterwards.
func TestF17_ServerKilledDuringWrites(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := openStore(t, server.NewDatabase(t))
	migrate(t, s)
	const writers, kills = 4, 3
	var commits atomic.Int64
	stop := make(chan struct{})
	accounts := make([]*account, writers)
	var wg sync.WaitGroup
	for i := range accounts {
		a := &account{customer: fmt.Sprintf("cus_%d", i)}
		accounts[i] = a
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a.add(-100)
				for { // the caller's part: read again, under a new fence
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					_, err := a.sync(ctx, s, 50)
					cancel()
					if err == nil {
						commits.Add(1)
						break
					}
					if errors.Is(err, mirror.ErrFenced) || errors.Is(err, mirror.ErrDisproved) || errors.Is(err, mirror.ErrLedgerRewritten) {
						t.Errorf("a crash shows as %v", err)
						return
					}
					select {
					case <-stop:
						return
					case <-time.After(5 * time.Millisecond):
					}
				}
			}
		})
	}
	for range kills {
		before := commits.Load()
		waitFor(t, func() bool { return commits.Load() >= before+50 })
		server.Kill()
		server.Restart(t)
	}
	before := commits.Load()
	waitFor(t, func() bool { return commits.Load() >= before+10 })
	close(stop)
	wg.Wait()
	for _, a := range accounts {
		if _, err := a.sync(t.Context(), s, len(a.rows)); err != nil {
			t.Fatal(err)
		}
		requireChain(t, s, a)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience.Of(30 * time.Second))
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("nothing happens any more")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestF17_BackendTerminatedDuringApply: the connection ends between the reads
// and the writes of a commit.
func TestF17_BackendTerminatedDuringApply(t *testing.T) {
	t.Parallel()
	url := newMirror(t)
	s, sql := openStore(t, url), openSQL(t, url)
	a := &account{customer: "cus_A"}
	a.add(-500)
	a.mustSync(t, s, 10)
	before := sql.number(t, `SELECT count(*) FROM changes WHERE table_name <> 'drift_findings'`)

	err := s.transact(t.Context(), func(b *pgx.Batch) {
		b.Queue(`UPDATE creditmirror.customers SET balance = 1`)
	}, func(*pgx.Batch) error {
		sql.exec(t, `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'idle in transaction'`)
		return nil
	})
	if err == nil {
		t.Fatal("a commit over a dead connection succeeded")
	}
	requireChain(t, s, a)
	a.add(-100)
	if got := a.mustSync(t, s, 10); got.Inserted != 1 {
		t.Fatalf("after the termination: %+v", got)
	}
	requireChain(t, s, a)
	if after := sql.number(t, `SELECT count(*) FROM changes WHERE table_name <> 'drift_findings'`); after != before+3 { // customer, balance, row
		t.Fatalf("%d change records, want %d", after, before+3)
	}
}

// TestF19_ReadOnly: a server that was switched to read-only refuses every write
// and goes on reading; afterwards nothing is missing.
func TestF19_ReadOnly(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	url := server.NewDatabase(t)
	s := openStore(t, url)
	migrate(t, s)
	a := &account{customer: "cus_A"}
	a.add(-500)
	a.mustSync(t, s, 10)
	begun, err := s.BeginSync(t.Context(), a.target())
	if err != nil {
		t.Fatal(err)
	}
	a.add(-100)
	commit := a.snapshot(begun, 10)

	setReadOnly := func(value string) {
		server.Exec(t, "postgres", `ALTER SYSTEM SET default_transaction_read_only = `+value)
		server.Exec(t, "postgres", `SELECT pg_reload_conf()`)
		waitFor(t, func() bool { return (s.Ping(t.Context()) != nil) == (value == "on") })
		s.pool.Reset() // every connection has seen the new setting
	}
	setReadOnly("on")
	if _, err := s.BeginSync(t.Context(), a.target()); sqlState(err) != "25006" {
		t.Fatalf("BeginSync on a read-only server: %v", err)
	}
	events := []mirror.Event{{ID: "evt_1", Type: "customer.updated", Customer: "cus_A", Created: firstSecond}}
	if receipts, err := s.RecordEvents(t.Context(), events); err == nil {
		t.Fatalf("events recorded on a read-only server: %v", receipts)
	}
	if c, err := s.Customer(t.Context(), "", "cus_A"); err != nil || c.Balance != -500 {
		t.Fatalf("reading from a read-only server: %+v, %v", c, err)
	}
	setReadOnly("off")
	if _, err := s.ApplyBalance(t.Context(), commit); err != nil {
		t.Fatal(err)
	}
	requireChain(t, s, a)
	if receipts, err := s.RecordEvents(t.Context(), events); err != nil || receipts[0] != mirror.ReceiptNew {
		t.Fatalf("the event afterwards: %v, %v", receipts, err)
	}
}

// TestF18_LockTimeout: a write waits for a lock no longer than it may, and
// passes as a whole when the lock is gone.
func TestF18_LockTimeout(t *testing.T) {
	t.Parallel()
	url := newMirror(t)
	s, err := Open(t.Context(), url, Options{LockTimeout: 30 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sql := openSQL(t, url)
	a := &account{customer: "cus_A"}
	a.add(-500)
	a.mustSync(t, s, 10)

	blocker, err := sql.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), `SELECT 1 FROM sync_state FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.BeginSync(t.Context(), a.target()); sqlState(err) != "55P03" {
		t.Fatalf("BeginSync behind a lock: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.BeginSync(context.Background(), a.target())
		done <- err
	}()
	waitFor(t, func() bool {
		return sql.number(t, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`) > 0
	})
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatalf("BeginSync after the lock was gone: %v", err)
	}
}

// TestF18_DeadlockIsRetried: two units lock the same rows in opposite orders;
// the one that the server picks as the victim runs again, and both commit.
func TestF18_DeadlockIsRetried(t *testing.T) {
	t.Parallel()
	url := newMirror(t)
	s, sql := openStore(t, url), openSQL(t, url)
	a, b := &account{customer: "cus_A"}, &account{customer: "cus_B"}
	for _, x := range []*account{a, b} {
		x.add(-1)
		x.mustSync(t, s, 1)
	}
	const lock = `UPDATE creditmirror.customers SET balance = balance - 10 WHERE id = $1`
	var tries atomic.Int64
	var locked sync.WaitGroup
	locked.Add(2)
	unit := func(first, second string) error {
		var once sync.Once
		return s.transact(context.Background(), func(batch *pgx.Batch) {
			tries.Add(1)
			batch.Queue(lock, first)
		}, func(batch *pgx.Batch) error {
			once.Do(locked.Done) // wait for the other only the first time
			locked.Wait()
			batch.Queue(lock, second)
			return nil
		})
	}
	other := make(chan error, 1)
	go func() { other <- unit("cus_B", "cus_A") }()
	if err := errors.Join(unit("cus_A", "cus_B"), <-other); err != nil {
		t.Fatal(err)
	}
	// One victim, or more where a busy server also lets a lock time out.
	if n := tries.Load(); n < 3 {
		t.Errorf("%d tries, want at least 3", n)
	}
	if n := sql.number(t, `SELECT sum(balance)::bigint FROM customers`); n != -42 {
		t.Errorf("sum %d, want -42: every unit exactly once", n)
	}
}

// TestBatchesWithRowsInCommonDoNotDeadlock: receivers and first copies store
// the same rows in all orders at once.
func TestBatchesWithRowsInCommonDoNotDeadlock(t *testing.T) {
	t.Parallel()
	url := newMirror(t)
	s, sql := openStore(t, url), openSQL(t, url)
	const writers, rounds, batch = 6, 15, 40
	var newEvents, newCustomers atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for round := range rounds {
				events := make([]mirror.Event, batch)
				page := make([]mirror.Customer, batch)
				for i := range batch {
					n := (i*(2*w+1) + w) % batch // every writer has an order of its own
					events[i] = mirror.Event{
						ID: fmt.Sprintf("evt_%d_%d", round, n), Type: "customer.updated", Customer: "cus_A", Created: firstSecond,
					}
					page[i] = mirror.Customer{ID: fmt.Sprintf("cus_%d_%d", round, n), Created: firstSecond}
				}
				receipts, err := s.RecordEvents(context.Background(), events)
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range receipts {
					if r == mirror.ReceiptNew {
						newEvents.Add(1)
					}
				}
				n, err := s.InsertCustomers(context.Background(), "", page)
				if err != nil {
					t.Error(err)
					return
				}
				newCustomers.Add(int64(n))
			}
		})
	}
	wg.Wait()
	if n := newEvents.Load(); n != sql.number(t, `SELECT count(*) FROM stripe_events`) {
		t.Errorf("%d events told as new, each row once", n)
	}
	if n := newCustomers.Load(); n != sql.number(t, `SELECT count(*) FROM customers`) || n != sql.number(t, `SELECT count(*) FROM changes WHERE table_name <> 'drift_findings'`) {
		t.Errorf("%d customers told as stored", n)
	}
	if n := sql.number(t, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

// TestCancelledContextLeavesNothing: a caller that gives up between the reads
// and the commit has written nothing.
func TestCancelledContextLeavesNothing(t *testing.T) {
	t.Parallel()
	url := newMirror(t)
	s := openStore(t, url)
	a := &account{customer: "cus_A"}
	a.add(-1)
	a.mustSync(t, s, 1)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.transact(ctx, func(b *pgx.Batch) {
		b.Queue(`UPDATE creditmirror.customers SET balance = 7`)
	}, func(*pgx.Batch) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want a cancelled context", err)
	}
	requireChain(t, s, a)
}

func TestRetryable(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{"40P01": true, "40001": true, "55P03": true, "23505": false, "25006": false, "53100": false, "57014": false} {
		err := fmt.Errorf("apply: %w", &pgconn.PgError{Code: code})
		if got := retryable(err); got != want {
			t.Errorf("%s: %v, want %v", code, got, want)
		}
	}
}
