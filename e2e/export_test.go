//go:build unix

package e2e

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestFigureExportBesideTraffic: webhooks and syncs while one full export follows the
// other, against the same without, in turns.
func TestFigureExportBesideTraffic(t *testing.T) {
	figures(t)
	const rows, rate, rounds, round = 400_000, 20, 5, 15 * time.Second
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_BALANCES_INTERVAL": "24h", "CREDITMIRROR_LOG_LEVEL": "error"}})
		n := w.spawn(nil)
		var customers []string
		for range 40 {
			c := w.stripe.customer()
			w.stripe.credit(c, 100, "usd")
			customers = append(customers, c)
		}
		w.equal()
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		w.bulk(rows)
		w.spawn(nil)

		dir := t.TempDir()
		export := func(ctx context.Context) {
			cmd := exec.CommandContext(ctx, w.binary.build(t), "export", "--full", dir)
			cmd.Env = []string{"CREDITMIRROR_DATABASE_URL=" + w.env["CREDITMIRROR_DATABASE_URL"], "TMPDIR=" + os.TempDir()}
			if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
		// one lives for a round and returns how long webhooks and syncs took, sorted.
		one := func(exporting bool) (webhooks, syncs []time.Duration, exports int) {
			ctx, cancel := context.WithTimeout(t.Context(), round)
			defer cancel()
			var wg sync.WaitGroup
			if exporting {
				wg.Go(func() {
					for ctx.Err() == nil {
						export(ctx)
						exports++
					}
				})
			}
			wg.Go(func() {
				var failed int
				if webhooks, failed = w.deliveries(ctx, customers[0], rate); failed > 0 {
					t.Errorf("%d webhooks failed", failed)
				}
			})
			var mu sync.Mutex
			tick := time.NewTicker(time.Second / rate)
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				<-tick.C
				c := customers[1+i%(len(customers)-1)]
				row, began := w.change(c, -7), time.Now()
				wg.Go(func() {
					for time.Since(began) < 30*time.Second {
						if _, err := w.reader().BalanceTransaction(t.Context(), "", c, row); err == nil {
							mu.Lock()
							defer mu.Unlock()
							syncs = append(syncs, time.Since(began))
							return
						}
						<-time.After(2 * time.Millisecond)
					}
					t.Errorf("%s of %s did not come", row, c)
				})
			}
			wg.Wait()
			slices.Sort(syncs)
			return webhooks, syncs, exports
		}

		export(t.Context()) // everything was read once
		one(false)
		p99 := func(took []time.Duration) time.Duration { return took[len(took)*99/100] }
		var ratios [2][]float64
		for range rounds {
			var alone, beside [2]time.Duration
			webhooks, syncs, _ := one(false)
			alone = [2]time.Duration{p99(webhooks), p99(syncs)}
			webhooks, syncs, exports := one(true)
			beside = [2]time.Duration{p99(webhooks), p99(syncs)}
			for i := range ratios {
				ratios[i] = append(ratios[i], beside[i].Seconds()/alone[i].Seconds())
			}
			t.Logf("p99 of webhooks %v alone, %v beside %d exports; of syncs %v and %v; medians beside %v and %v", alone[0], beside[0], exports, alone[1], beside[1],
				webhooks[len(webhooks)/2], syncs[len(syncs)/2])
		}
		for i, what := range []string{"webhooks", "syncs"} {
			slices.Sort(ratios[i])
			t.Logf("%s: p99 beside exports against without %.2f (median of %d rounds, %.2f to %.2f)", what, ratios[i][rounds/2], rounds, ratios[i][0], ratios[i][rounds-1])
		}
	})
}

// bulk puts rows of customers into the mirror that Stripe knows nothing of, so that an
// export has something to do.
func (w *world) bulk(rows int) {
	w.tb.Helper()
	db, err := openTables(w.env["CREDITMIRROR_DATABASE_URL"])
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	fill := `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i < $1-1)
INSERT INTO schema.customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, description, created, livemode, chain_position, raw, digest, synced_at)
SELECT '', 'cus_bulk' || i/20, 'cbtxn_bulk' || i, 'usd', -(i%997), -(i%997), 'adjustment', 'goodwill for ticket ' || (i%1000), {then}, TRUE, i%20+1,
{object}('id', 'cbtxn_bulk' || i, 'object', 'customer_balance_transaction', 'amount', -(i%997), 'customer', 'cus_bulk' || i/20, 'type', 'adjustment'), '', {then} FROM n`
	words := strings.NewReplacer("{then}", "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1640995200 + (i%94608000), 'unixepoch')", "{object}", "json_object")
	if w.backend.external {
		words = strings.NewReplacer("{then}", "to_timestamp(1640995200 + (i%94608000))", "{object}", "json_build_object")
	}
	if _, err := db.ExecContext(w.tb.Context(), words.Replace(w.sql(fill)), rows); err != nil {
		w.tb.Fatal(err)
	}
	if _, err := db.ExecContext(w.tb.Context(), "ANALYZE"); err != nil {
		w.tb.Fatal(err)
	}
}
