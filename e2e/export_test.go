//go:build unix

package e2e

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror/mirrortest"
)

// TestFigureExportBesideTraffic: webhooks and syncs while one full export follows the
// other, against the same without, in turns.
func TestFigureExportBesideTraffic(t *testing.T) {
	figures(t)
	const rows, rate, rounds, round = 400_000, 20, 5, 15 * time.Second
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_BALANCES_INTERVAL": "24h", "CREDITMIRROR_LOG_LEVEL": "error"}})
		n := w.spawn(nil)
		customers := w.credited(40)
		w.equal()
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		w.bulk(rows)
		w.spawn(nil)

		dir := t.TempDir()
		export := func() {
			cmd := exec.CommandContext(t.Context(), w.binary.build(t), "export", "--full", dir)
			cmd.Env = []string{"CREDITMIRROR_DATABASE_URL=" + w.env["CREDITMIRROR_DATABASE_URL"], "TMPDIR=" + os.TempDir()}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
		// one lives for a round and returns how long webhooks and syncs took, sorted. Its last
		// export is not cut off: the next one would wait for its lease.
		one := func(exporting bool) (webhooks, syncs []time.Duration, exports int) {
			ctx, cancel := context.WithTimeout(t.Context(), round)
			defer cancel()
			var wg sync.WaitGroup
			if exporting {
				wg.Go(func() {
					for ctx.Err() == nil {
						export()
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

		export() // everything was read once
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

// bulk puts customers into the mirror that Stripe knows nothing of, so that an export has
// something to do.
func (w *world) bulk(rows int) {
	w.tb.Helper()
	db, err := openTables(w.env["CREDITMIRROR_DATABASE_URL"])
	if err != nil {
		w.tb.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	exec := func(statement string) {
		if _, err := db.ExecContext(w.tb.Context(), statement); err != nil {
			w.tb.Fatal(err)
		}
	}
	if w.backend.external {
		db.SetMaxOpenConns(1) // which the setting is of
		exec("SET search_path TO creditmirror")
	}
	mirrortest.FillTrue(exec, w.backend.external, rows)
}
