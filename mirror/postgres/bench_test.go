package postgres

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
)

// roundTrips counts how often a connection turns from reading to writing.
type roundTrips struct {
	net.Conn
	turns   *atomic.Int64
	reading bool
}

func (c *roundTrips) Write(b []byte) (int, error) {
	if c.reading {
		c.turns.Add(1)
		c.reading = false
	}
	return c.Conn.Write(b)
}

func (c *roundTrips) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.reading = c.reading || n > 0
	return n, err
}

// openCounted opens a store with one connection whose round trips are counted.
func openCounted(tb testing.TB, url string, conns int) (*Store, *atomic.Int64) {
	tb.Helper()
	var turns atomic.Int64
	s, err := open(tb.Context(), url, Options{MaxConns: conns}, func(config *pgxpool.Config) {
		dial := config.ConnConfig.DialFunc
		config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &roundTrips{Conn: conn, turns: &turns}, err
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	migrate(tb, s)
	return s, &turns
}

// TestRoundTrips holds the driver to what its speed over a network rests on.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	s, turns := openCounted(t, pgtest.NewDatabase(t), 1)
	a := &account{customer: "cus_A"}
	var begun mirror.SyncState
	page := mirror.Page{Limit: 2, After: "cbtxn_cus_A_000003"}
	steps := []struct {
		name string
		want int64
		do   func() error
	}{
		{"BeginSync", 1, func() (err error) {
			begun, err = s.BeginSync(t.Context(), a.target())
			return err
		}},
		{"ApplyBalance", 2, func() error {
			_, err := s.ApplyBalance(t.Context(), a.snapshot(begun, 3))
			return err
		}},
		{"RecordEvents", 1, func() error {
			e := mirror.Event{ID: fmt.Sprintf("evt_%d", len(a.rows)), Type: "customer.updated", Customer: "cus_A", Created: firstSecond}
			_, err := s.RecordEvents(t.Context(), []mirror.Event{e})
			return err
		}},
		{"Customer", 1, func() error {
			_, err := s.Customer(t.Context(), "", "cus_A")
			return err
		}},
		{"BalanceTransactions", 1, func() error {
			_, err := s.BalanceTransactions(t.Context(), "", "cus_A", page)
			return err
		}},
	}
	for round := range 5 { // the first rounds prepare the statements
		a.add(-100)
		for _, step := range steps {
			before := turns.Load()
			if err := step.do(); err != nil && round > 2 {
				t.Fatalf("%s: %v", step.name, err)
			}
			if got := turns.Load() - before; got != step.want && round == 4 {
				t.Errorf("%s: %d round trips, want %d", step.name, got, step.want)
			}
		}
	}
}

// BenchmarkSync is a sync in the common case: one new row joins a long history.
func BenchmarkSync(b *testing.B) {
	for _, customers := range []int{1, 8} {
		b.Run(fmt.Sprintf("customers=%d", customers), func(b *testing.B) {
			s, turns := openCounted(b, pgtest.Start(b).NewDatabase(b), customers)
			accounts := make([]*account, customers)
			for i := range accounts {
				accounts[i] = &account{customer: fmt.Sprintf("cus_%d", i)}
				for range 1000 {
					accounts[i].add(-1)
				}
				accounts[i].mustSync(b, s, 1000)
				for range 2 {
					accounts[i].add(-1)
					accounts[i].mustSync(b, s, 10)
				}
			}
			turns.Store(0)
			b.ResetTimer()
			failed := make(chan error, customers)
			for i, a := range accounts {
				n := b.N / customers
				if i < b.N%customers {
					n++
				}
				go func() {
					for range n {
						a.add(-1)
						if _, err := a.sync(context.Background(), s, 10); err != nil {
							failed <- err
							return
						}
					}
					failed <- nil
				}()
			}
			for range accounts {
				if err := <-failed; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(turns.Load())/float64(b.N), "roundtrips/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "syncs/s")
		})
	}
}

// BenchmarkLongHistory measures what one long customer costs everybody else.
func BenchmarkLongHistory(b *testing.B) {
	for range b.N {
		mirrortest.LongHistory(b, openStore(b, newMirror(b)))
	}
}
