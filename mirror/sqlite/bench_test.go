package sqlite_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
)

// BenchmarkSync measures what a worker does per change: BeginSync and an
// ApplyBalance of one new row, two commits of which one reaches the disk.
func BenchmarkSync(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "mirror.db"))
	const customers = 50
	type state struct {
		rows    []mirror.BalanceTransaction // newest first, at most two
		balance int64
	}
	held := make([]state, customers)
	times := make([]time.Duration, 0, b.N)
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("cus_%03d", i%customers)
		c := &held[i%customers]
		c.balance -= 100
		row := mirror.BalanceTransaction{
			ID: fmt.Sprintf("cbtxn_%09d", i), Customer: id, Amount: -100, Currency: "eur", EndingBalance: c.balance,
			Type: "adjustment", Description: "goodwill", Metadata: json.RawMessage(`{"ticket":"4711"}`),
			Created: time.Unix(1_790_000_000+int64(i), 0).UTC(),
		}
		row.Raw = json.RawMessage(fmt.Sprintf(`{"id":%q,"object":"customer_balance_transaction","amount":-100,"created":%d,`+
			`"credit_note":null,"currency":"eur","customer":%q,"description":"goodwill","ending_balance":%d,"invoice":null,`+
			`"livemode":false,"metadata":{"ticket":"4711"},"type":"adjustment"}`, row.ID, row.Created.Unix(), id, c.balance))
		c.rows = slices.Insert(c.rows, 0, row)
		c.rows = c.rows[:min(2, len(c.rows))]
		target := mirror.Target{Scope: mirror.ScopeBalance, ID: id}

		start := time.Now()
		st, err := s.BeginSync(b.Context(), target)
		if err != nil {
			b.Fatal(err)
		}
		_, err = s.ApplyBalance(b.Context(), mirror.BalanceSnapshot{
			Target: target, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: row.Created,
			Customer: mirror.Customer{
				ID: id, Balance: c.balance, Currency: "eur", InvoiceCreditBalance: map[string]int64{"eur": -c.balance},
				Raw: json.RawMessage(fmt.Sprintf(`{"id":%q,"balance":%d,"currency":"eur"}`, id, c.balance)),
			},
			Windows: []mirror.Window[mirror.BalanceTransaction]{{Rows: c.rows, FromHead: true, ToEnd: len(c.rows) == 1}},
			Joined:  true, Full: len(c.rows) == 1,
		})
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkRecordEvents measures the receiver's durable write of one event.
func BenchmarkRecordEvents(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "mirror.db"))
	for i := 0; b.Loop(); i++ {
		_, err := s.RecordEvents(b.Context(), []mirror.Event{{
			ID: fmt.Sprintf("evt_%09d", i), Type: "customer.updated", Customer: "cus_A", Object: "cus_A",
			Created: time.Unix(1_790_000_000, 0),
		}})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLongHistory measures what one long customer costs everybody else.
func BenchmarkLongHistory(b *testing.B) {
	for range b.N {
		mirrortest.LongHistory(b, open(b, filepath.Join(b.TempDir(), "mirror.db")))
	}
}
