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

// withoutTotals takes away the triggers that note changes of totals and of links.
const withoutTotals = `DO $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT tgname, tgrelid::regclass AS on_table FROM pg_trigger WHERE tgname ~ '_total_|_truncated$|_unlinked$' LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.on_table);
    END LOOP;
END
$$`

// BenchmarkTotals measures what the triggers behind the totals of an export and the
// proof of the chains cost a sync: short rounds in turns in two databases of one server.
func BenchmarkTotals(b *testing.B) {
	server := pgtest.Start(b)
	type database struct {
		store    *Store
		accounts []*account
		rates    map[int][]float64
	}
	var with, without database
	for i, d := range []*database{&with, &without} {
		url := server.NewDatabase(b)
		d.store, _ = openCounted(b, url, 8)
		if i == 1 {
			openSQL(b, url).exec(b, withoutTotals)
		}
		d.rates = map[int][]float64{}
		for n := range 8 {
			a := &account{customer: fmt.Sprintf("cus_%d", n)}
			for range 1000 {
				a.add(-1)
			}
			a.mustSync(b, d.store, 1000)
			d.accounts = append(d.accounts, a)
		}
	}
	round := func(d *database, customers int) float64 {
		each := 300 / (customers + 1)
		begun := time.Now()
		var wg sync.WaitGroup
		for _, a := range d.accounts[:customers] {
			wg.Go(func() {
				for range each {
					a.add(-1)
					if _, err := a.sync(context.Background(), d.store, 10); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		return float64(each*customers) / time.Since(begun).Seconds()
	}
	counts := []int{1, 8}
	round(&with, 8)
	round(&without, 8)
	turns := []*database{&with, &without}
	for b.Loop() {
		for _, customers := range counts {
			for _, d := range turns {
				d.rates[customers] = append(d.rates[customers], round(d, customers))
			}
		}
		slices.Reverse(turns)
	}
	for _, customers := range counts {
		var ratios []float64
		for i, rate := range with.rates[customers] {
			ratios = append(ratios, rate/without.rates[customers][i])
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], fmt.Sprintf("with/without-%d", customers))
	}
}
