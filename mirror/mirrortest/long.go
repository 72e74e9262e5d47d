package mirrortest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// longPiece is how many rows a piece of a long history holds, as the worker reads it.
const longPiece = 500

// longRow is row i of a history of any length, oldest first: three to a second, its
// amounts in cycles that sum up to zero.
func longRow(customer string, i int) mirror.BalanceTransaction {
	ending := int64(0)
	for k := range i%7 + 1 {
		ending += int64(k - 3)
	}
	r := mirror.BalanceTransaction{
		ID: fmt.Sprintf("cbtxn_%s%08d", customer[len("cus_"):], i), Customer: customer, Amount: int64(i%7 - 3), Currency: "eur",
		EndingBalance: ending, Type: "adjustment", Description: "row of a long history", Metadata: []byte(`{"order":"A-1"}`),
		Created: epoch0.Add(time.Duration(i/3) * time.Second),
	}
	r.Raw = mustJSON(map[string]any{
		"id": r.ID, "object": "customer_balance_transaction", "amount": r.Amount, "created": r.Created.Unix(), "currency": r.Currency,
		"customer": customer, "description": r.Description, "ending_balance": ending, "livemode": false, "metadata": r.Metadata,
		"type": r.Type, "invoice": nil, "credit_note": nil, "checkout_session": nil,
	})
	return r
}

// longWalk reads rows from..to-1 newest first, in pieces, the last of which joins.
func longWalk(b *testing.B, s mirror.Store, customer string, from, to int, full bool) {
	b.Helper()
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: customer}
	newest := longRow(customer, to-1)
	object := mirror.Customer{
		ID: customer, Currency: "eur", Balance: newest.EndingBalance, Created: epoch0,
		InvoiceCreditBalance: map[string]int64{"eur": -newest.EndingBalance},
		Raw:                  mustJSON(map[string]any{"id": customer, "balance": newest.EndingBalance, "rows": to}),
	}
	for top := to; top > from; {
		bottom := max(from, top-longPiece)
		st, err := s.BeginSync(b.Context(), target)
		if err != nil {
			b.Fatal(err)
		}
		rows := make([]mirror.BalanceTransaction, 0, longPiece)
		for i := top - 1; i >= bottom; i-- {
			rows = append(rows, longRow(customer, i))
		}
		last := bottom == from
		snap := mirror.BalanceSnapshot{
			Target: target, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: time.Now(), Customer: object,
			Windows: []mirror.Window[mirror.BalanceTransaction]{{Rows: rows, FromHead: top == to, ToEnd: full && last}},
			Joined:  last, Full: full && last,
		}
		if !last {
			snap.Walk = mirror.Walk{Cursor: rows[len(rows)-1].ID, Top: newest.Created, Full: full}
		}
		if _, err := s.ApplyBalance(b.Context(), snap); err != nil {
			b.Fatal(err)
		}
		top = bottom
	}
	if st, err := s.BeginSync(b.Context(), target); err != nil || !st.HistoryComplete || st.Walk.InProgress() {
		b.Fatalf("%+v, %v: not joined", st, err)
	}
}

// webhooks records an event every few milliseconds until the context ends, and
// returns how long each took, ascending.
func webhooks(ctx context.Context, b *testing.B, s mirror.Store, run string) []time.Duration {
	var took []time.Duration
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			slices.Sort(took)
			return took
		case <-tick.C:
		}
		began := time.Now()
		e := updated("", fmt.Sprintf("evt_%s_%d", run, n), "cus_other")
		if _, err := s.RecordEvents(context.WithoutCancel(ctx), []mirror.Event{e}); err != nil {
			b.Errorf("a webhook is refused: %v", err)
		}
		took = append(took, time.Since(began))
	}
}

// LongHistory makes the first copy of a customer with as many rows as the variable
// HISTORY_BENCH_ROWS says (20,000), then a catch-up of a tenth of them, then a
// whole read, while webhooks come in, and reports how long these waited and how much
// memory the process took.
func LongHistory(b *testing.B, s mirror.Store) {
	rows := 20_000
	if text := os.Getenv("HISTORY_BENCH_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatalf("HISTORY_BENCH_ROWS: %v", err)
		}
		rows = n
	}
	for _, phase := range []struct {
		name     string
		from, to int
		full     bool
	}{
		{"copy", 0, rows, true},
		{"catchup", rows, rows + rows/10, false},
		{"whole", 0, rows + rows/10, true},
	} {
		ctx, stop := context.WithCancel(b.Context())
		var took []time.Duration
		var receiver sync.WaitGroup
		receiver.Go(func() { took = webhooks(ctx, b, s, phase.name) })
		began := time.Now()
		longWalk(b, s, "cus_long", phase.from, phase.to, phase.full)
		elapsed := time.Since(began)
		stop()
		receiver.Wait()
		b.ReportMetric(elapsed.Seconds(), phase.name+"-s")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, phase.name+"-webhook-p99-ms")
		b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, phase.name+"-webhook-max-ms")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(peakMemory(b), "peak-MiB")
}

// peakMemory is the largest resident memory that the process had so far.
func peakMemory(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Logf("no memory told on %s: %v", runtime.GOOS, err)
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	return 0
}
