package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/pgtest"
)

// BenchmarkBookIndex measures what the index of the books costs a sync: rounds with it
// and without it in turns, in one database that grows alike for both.
func BenchmarkBookIndex(b *testing.B) {
	url := pgtest.Start(b).NewDatabase(b)
	s, _ := openCounted(b, url, 8)
	sql := openSQL(b, url)
	exec := func(statement string) { sql.exec(b, statement) }
	accounts := make([]*account, 8)
	for i := range accounts {
		accounts[i] = &account{customer: fmt.Sprintf("cus_%d", i)}
		for range 5000 {
			accounts[i].add(-1)
		}
		accounts[i].mustSync(b, s, 5000)
	}
	round := func() float64 {
		const each = 150
		begun := time.Now()
		var wg sync.WaitGroup
		for _, a := range accounts {
			wg.Go(func() {
				for range each {
					a.add(-1)
					if _, err := a.sync(context.Background(), s, 10); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		return float64(each*len(accounts)) / time.Since(begun).Seconds()
	}
	round()
	var ratios, with, without []float64
	for b.Loop() {
		exec(`DROP INDEX IF EXISTS creditmirror.customer_balance_transactions_book`)
		plain := round()
		exec(`CREATE INDEX customer_balance_transactions_book ON creditmirror.customer_balance_transactions
  (account, customer, currency, created) INCLUDE (amount, ending_balance, type)`)
		indexed := round()
		ratios, with, without = append(ratios, indexed/plain), append(with, indexed), append(without, plain)
	}
	for _, list := range [][]float64{ratios, with, without} {
		slices.Sort(list)
	}
	b.ReportMetric(ratios[len(ratios)/2], "with/without")
	b.ReportMetric(with[len(with)/2], "syncs/s-with")
	b.ReportMetric(without[len(without)/2], "syncs/s-without")
}
