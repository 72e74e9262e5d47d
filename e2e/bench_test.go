//go:build unix

package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/queue"
	"github.com/creditmirror/creditmirror/redisconn"
	"github.com/creditmirror/creditmirror/stripesim"
)

// docs/benchmarks.md has the goals of these figures and how they are run.

// BenchmarkEventToCommit is the time from the sending of a webhook to the commit
// of the row that it announced, at 200 events a second on 200 customers and with
// a simulator that answers at once.
func BenchmarkEventToCommit(b *testing.B) {
	for _, be := range []backend{embedded, external, everysec} {
		b.Run(be.name, func(b *testing.B) {
			const rate, seconds = 200, 10
			for range b.N {
				b.StopTimer()
				w := newWorld(b, be, quiet())
				customers := make([]string, rate)
				for i := range customers {
					customers[i] = w.stripe.customer()
					w.change(customers[i], -1)
				}
				w.start(nil)
				w.watch.stop() // it would take part of the machine
				w.copied()
				w.equal()
				b.StartTimer()
				var mu sync.Mutex
				var took []time.Duration
				var waiting sync.WaitGroup
				begin := time.Now()
				for i := range rate * seconds {
					due := begin.Add(time.Duration(i) * time.Second / rate)
					<-time.After(time.Until(due))
					customer := customers[i%len(customers)]
					waiting.Go(func() {
						sent := time.Now()
						id := w.change(customer, -1) // the simulator sends the webhook within it
						for {
							_, err := w.reader().BalanceTransaction(context.Background(), "", customer, id)
							if err == nil {
								break
							}
							<-time.After(2 * time.Millisecond)
						}
						mu.Lock()
						took = append(took, time.Since(sent))
						mu.Unlock()
					})
				}
				waiting.Wait()
				b.StopTimer()
				report(b, took, "")
				b.StartTimer()
			}
		})
	}
}

func report(b *testing.B, took []time.Duration, what string) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, what+"p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, what+"p99-ms")
}

// BenchmarkWebhookRate is the number of signed webhooks that are answered with
// 200 per second, beside that of a bare handler that reads the body and verifies
// its MAC, in the same run from the same sender and over as many connections. The
// worker is another process's.
func BenchmarkWebhookRate(b *testing.B) {
	for _, c := range []struct {
		name        string
		redis       []string
		inbox       string
		connections int
	}{
		{"everysec, inbox off", []string{"--appendfsync", "everysec"}, "off", 64},
		{"everysec, inbox off", []string{"--appendfsync", "everysec"}, "off", 256},
		{"everysec, inbox on", []string{"--appendfsync", "everysec"}, "on", 64},
		{"everysec, inbox on", []string{"--appendfsync", "everysec"}, "on", 256},
		{"always, inbox off", nil, "off", 64},
		{"always, inbox off", nil, "off", 256},
	} {
		b.Run(fmt.Sprintf("%s, %d connections", c.name, c.connections), func(b *testing.B) {
			s := quiet()
			s.env["CREDITMIRROR_INBOX"] = c.inbox
			w := newWorld(b, backend{name: c.name, external: true, redis: c.redis}, s)
			w.start(nil, config.RoleWebhook)
			w.watch.stop()
			bare := bareReceiver(b, w.secrets[0])
			var ours, theirs float64
			for range b.N {
				// In turns, so that whatever else the machine does meets both.
				for range 3 {
					ours += w.flood(b, "http://"+w.webhook+"/webhooks/stripe", c.connections, time.Second)
					theirs += w.flood(b, bare, c.connections, time.Second)
				}
			}
			b.ReportMetric(ours/float64(3*b.N), "replies/s")
			b.ReportMetric(theirs/float64(3*b.N), "bare-replies/s")
			b.ReportMetric(ours/theirs, "ratio")
		})
	}
}

func bareReceiver(b *testing.B, secret string) string {
	b.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, 1<<20))
		at, rest, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Stripe-Signature"), "t="), ",v1=")
		mac := hmac.New(sha256.New, []byte(secret))
		_, _ = io.WriteString(mac, at+".")
		_, _ = mac.Write(body)
		sum, hexErr := hex.DecodeString(rest)
		if err != nil || hexErr != nil || !hmac.Equal(sum, mac.Sum(nil)) {
			rw.WriteHeader(http.StatusBadRequest)
		}
	}))
	b.Cleanup(server.Close)
	return server.URL
}

// flood sends events of 1,000 customers and returns how many were answered per
// second.
func (w *world) flood(b *testing.B, target string, connections int, d time.Duration) float64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var answered, refused atomic.Int64
	var senders sync.WaitGroup
	for s := range connections {
		senders.Go(func() {
			for i := s; ctx.Err() == nil; i += connections {
				body := event("customer.updated", fmt.Sprintf("cus_flood%d", i%1000), time.Now())
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(string(body)))
				if err != nil {
					b.Error(err)
					return
				}
				req.Header.Set("Stripe-Signature", stripesim.SignatureHeader(w.secrets[0], time.Now(), body))
				resp, err := client.Do(req)
				if err != nil {
					continue // the time is over
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					answered.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	senders.Wait()
	if n := refused.Load(); n > 0 {
		b.Errorf("%d events were refused", n)
	}
	return float64(answered.Load()) / d.Seconds()
}

// BenchmarkMarkToClaim is the time from a mark to the claim of it by a waiting
// worker in another connection, one mark at a time.
func BenchmarkMarkToClaim(b *testing.B) {
	urls := map[string]func() string{
		"embedded":              func() string { return "" },
		"redis-server everysec": func() string { return redistest.Start(b, "--appendfsync", "everysec").URL },
		"redis-server always":   func() string { return redistest.Start(b).URL },
	}
	for name, url := range urls {
		b.Run(name, func(b *testing.B) {
			conn, err := redisconn.Open(b.Context(), url())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			q, err := queue.New(conn.Client, queue.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer q.Close()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			claimed := make(chan time.Time)
			go func() {
				for ctx.Err() == nil {
					claims, err := q.Claim(ctx, 1)
					now := time.Now()
					if err == nil && len(claims) == 0 {
						_ = q.Wait(ctx)
						continue
					}
					for _, c := range claims {
						claimed <- now
						_, _ = q.Done(ctx, c)
					}
				}
			}()
			var took []time.Duration
			for i := range b.N {
				key := mirror.Target{Scope: mirror.ScopeBalance, ID: fmt.Sprintf("cus_%d", i)}.Key()
				marked := time.Now()
				if _, err := q.Mark(ctx, []queue.Mark{{Key: key}}); err != nil {
					b.Fatal(err)
				}
				took = append(took, (<-claimed).Sub(marked))
			}
			report(b, took, "")
		})
	}
}

// BenchmarkMemory is the most memory that serve held with a mirror of so many
// customers, after a sweep and a burst of 2,000 events.
func BenchmarkMemory(b *testing.B) {
	for _, customers := range []int{10_000, 100_000} {
		for _, be := range []backend{embedded, everysec} {
			b.Run(fmt.Sprintf("%s, %d customers", be.name, customers), func(b *testing.B) {
				for range b.N {
					w := newWorld(b, be, setup{env: map[string]string{"CREDITMIRROR_EVENTS_INTERVAL": "2s"}})
					var some []string
					for range 20 {
						c := w.stripe.customer()
						w.change(c, -1)
						some = append(some, c)
					}
					n := w.spawn(nil)
					w.watch.stop()
					w.copied()
					if err := n.stop(); err != nil {
						b.Fatal(err)
					}
					w.fill(b, customers)
					n = w.spawn(nil)
					began := time.Now()
					w.burst(some, 100)
					<-time.After(time.Until(began.Add(20 * time.Second))) // the gauges read the mirror every 15 s
					n.idle()
					b.ReportMetric(float64(n.memory("VmHWM"))/(1<<20), "most-MiB")
					b.ReportMetric(float64(n.memory("VmRSS"))/(1<<20), "now-MiB")
				}
			})
		}
	}
}

// fill puts customers into the mirror, as a first copy does.
func (w *world) fill(b *testing.B, n int) {
	b.Helper()
	var page []mirror.Customer
	for i := range n {
		id := fmt.Sprintf("cus_filled%d", i)
		page = append(page, mirror.Customer{
			ID: id, Balance: -int64(i), Currency: "usd", InvoiceCreditBalance: map[string]int64{"usd": int64(i)},
			Created: time.Now(), Raw: fmt.Appendf(nil, `{"id":%q,"object":"customer","balance":%d,"currency":"usd"}`, id, -i),
		})
		if len(page) == 100 || i == n-1 {
			if _, err := w.reader().InsertCustomers(b.Context(), "", page); err != nil {
				b.Fatal(err)
			}
			page = page[:0]
		}
	}
	// They have no transactions, and that is known.
	driver, dsn := "pgx", w.env["CREDITMIRROR_DATABASE_URL"]
	if path, ok := strings.CutPrefix(dsn, "sqlite:"); ok {
		driver, dsn = "sqlite", "file:"+path+"?_pragma=busy_timeout(5000)"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(b.Context(), w.sql(`INSERT INTO schema.sync_state AS s (account, customer, scope, epoch, applied_epoch, observed_at, history_complete, synced_at)
SELECT account, id, 'balance', 1, 1, synced_at, TRUE, synced_at FROM schema.customers WHERE id LIKE 'cus_filled%'
ON CONFLICT (account, customer, scope) DO UPDATE SET history_complete = TRUE`))
	if err != nil {
		b.Fatal(err)
	}
}
