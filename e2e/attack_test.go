//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/stripesim"
)

// AttackEnv has the figures of docs/security.md measured, by `make attack`.
const AttackEnv = "CREDITMIRROR_ATTACK"

// attackers dial from many addresses of loopback, as a botnet would.
type attackers struct {
	ctx  context.Context
	wg   sync.WaitGroup
	next atomic.Uint32
	open atomic.Int64
}

// dial connects from the next of 250 addresses.
func (a *attackers) dial(addr string) (net.Conn, error) {
	n := a.next.Add(1) % 250
	d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+n))}}
	return d.DialContext(a.ctx, "tcp", addr)
}

// stall keeps conns connections that sent a text and then nothing; one that is closed
// is opened again.
func (a *attackers) stall(addr, text string, conns int) {
	for range conns {
		a.wg.Go(func() {
			for a.ctx.Err() == nil {
				conn, err := a.dial(addr)
				if err != nil {
					pause(a.ctx, 100*time.Millisecond)
					continue
				}
				a.open.Add(1)
				stop := context.AfterFunc(a.ctx, func() { _ = conn.Close() })
				_, _ = io.WriteString(conn, text)
				_, _ = io.Copy(io.Discard, conn)
				stop()
				_ = conn.Close()
				a.open.Add(-1)
				pause(a.ctx, 50*time.Millisecond)
			}
		})
	}
}

// junk makes connections a second that send no HTTP.
func (a *attackers) junk(addr string, rate int) {
	for range 20 {
		a.wg.Go(func() {
			tick := time.NewTicker(20 * time.Second / time.Duration(rate))
			defer tick.Stop()
			for {
				select {
				case <-a.ctx.Done():
					return
				case <-tick.C:
				}
				if conn, err := a.dial(addr); err == nil {
					_, _ = io.WriteString(conn, "\x16\x03\x01 nothing that is HTTP\r\n\r\n")
					_ = conn.Close()
				}
			}
		})
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// deliveries sends good webhooks at a rate until ctx ends, each on a connection of its
// own, and returns how long the answered ones took and how many were not.
func (w *world) deliveries(ctx context.Context, customer string, rate int) (took []time.Duration, failed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		wg.Go(func() {
			began := time.Now()
			body := event("customer.updated", customer, began)
			a := w.send(bytes.NewReader(body), map[string]string{
				"Stripe-Signature": stripesim.SignatureHeader(w.secrets[0], began, body), "Connection": "close",
			})
			mu.Lock()
			defer mu.Unlock()
			if a.code == http.StatusOK {
				took = append(took, time.Since(began))
			} else {
				failed++
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took, failed
}

// TestAttacks measures what docs/security.md says of floods: good webhooks under stalled
// and junk connections, memory under header floods, and live work beside a read key that
// asks for syncs without end.
func TestAttacks(t *testing.T) {
	if os.Getenv(AttackEnv) == "" {
		t.Skip("make attack")
	}
	const readKey = "read-read-read-read-read"
	apiAddr := reserve(t)
	start := func(t *testing.T) (*world, *node, string) {
		w := newWorld(t, embedded, setup{env: map[string]string{
			"CREDITMIRROR_API_ADDR": apiAddr, "CREDITMIRROR_API_KEYS": "read:" + readKey,
			"CREDITMIRROR_STRIPE_RPS": "80", "CREDITMIRROR_STRIPE_ENDPOINT_RPS": "20", "CREDITMIRROR_LOG_LEVEL": "error",
		}})
		n := w.spawn(nil)
		customer := w.stripe.customer()
		w.stripe.credit(customer, 100, "usd")
		w.equal()
		return w, n, customer
	}
	stalledPost := func(path string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nStripe-Signature: t=%d,v1=%s\r\n\r\nx", path, time.Now().Unix(), strings.Repeat("0", 64))
	}
	share := func(took []time.Duration, failed int) float64 {
		late, _ := slices.BinarySearch(took, 2*time.Second)
		return 100 * float64(late) / float64(len(took)+failed)
	}

	t.Run("stalled and junk connections", func(t *testing.T) {
		w, n, customer := start(t)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		a := &attackers{ctx: ctx}
		a.stall(w.webhook, stalledPost("/webhooks/stripe"), 5000)
		a.junk(w.webhook, 2000)
		pause(ctx, 5*time.Second)
		took, failed := w.deliveries(ctx, customer, 20)
		open := a.open.Load()
		cancel()
		a.wg.Wait()
		within := share(took, failed)
		t.Logf("%d good webhooks, %d failed, %.2f %% within 2 s, p99 %v; %d stalled at the end; most memory %d MiB",
			len(took)+failed, failed, within, took[len(took)*99/100].Round(time.Millisecond), open, n.memory("VmHWM")>>20)
		if within < 99 {
			t.Errorf("only %.2f %% of good webhooks were answered within 2 s", within)
		}
	})

	t.Run("header floods", func(t *testing.T) {
		w, n, customer := start(t)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		a := &attackers{ctx: ctx}
		flood := "GET / HTTP/1.1\r\nHost: localhost\r\nX-Junk: " + strings.Repeat("j", 15<<10)
		a.stall(apiAddr, flood, 8000)
		a.stall(n.ops, flood, 8000)
		pause(ctx, 5*time.Second)
		took, failed := w.deliveries(ctx, customer, 20)
		cancel()
		a.wg.Wait()
		memory := n.memory("VmHWM") >> 20
		t.Logf("%d good webhooks, %d failed, %.2f %% within 2 s, p99 %v; most memory %d MiB",
			len(took)+failed, failed, share(took, failed), took[len(took)*99/100].Round(time.Millisecond), memory)
		if memory > 256 || failed > 0 {
			t.Errorf("memory %d MiB, %d webhooks failed", memory, failed)
		}
	})

	t.Run("syncs on demand", func(t *testing.T) {
		w, _, customer := start(t)
		var calls atomic.Int64
		w.hook(func(string, *http.Request) { calls.Add(1) })
		live := func(flood bool) (p99 time.Duration, each float64) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			var asked atomic.Int64
			if flood {
				for i := range 16 {
					wg.Go(func() {
						for n := 0; ctx.Err() == nil; n++ {
							r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/v1/customers/cus_unknown%dx%d", apiAddr, i, n), nil)
							if err != nil {
								t.Error(err)
								return
							}
							r.SetBasicAuth(readKey, "")
							r.Header.Set("Creditmirror-Max-Age", "0s")
							if resp, err := client.Do(r); err == nil {
								_, _ = io.Copy(io.Discard, resp.Body)
								_ = resp.Body.Close()
								asked.Add(1)
							}
						}
					})
				}
			}
			before := calls.Load()
			var took []time.Duration
			for ctx.Err() == nil {
				id := w.change(customer, -1)
				began := time.Now()
				eventually(t, 30*time.Second, "a change arrives", func() error {
					_, err := w.reader().BalanceTransaction(t.Context(), "", customer, id)
					return err
				})
				took = append(took, time.Since(began))
			}
			wg.Wait()
			slices.Sort(took)
			t.Logf("flood %v: %d changes, p50 %v, p99 %v, %d Stripe calls, %d requests answered", flood, len(took), took[len(took)/2].Round(time.Millisecond),
				took[len(took)*99/100].Round(time.Millisecond), calls.Load()-before, asked.Load())
			return took[len(took)*99/100], float64(calls.Load()-before-int64(len(took))) / 20
		}
		without, _ := live(false)
		with, rate := live(true)
		t.Logf("freshness p99 %.2f times of without; %.1f calls/s that no change caused", float64(with)/float64(without), rate)
		if rate > 22 { // a quarter of 80, and what sweeps and rereads take
			t.Errorf("the flood made %.1f calls a second", rate)
		}
	})
}
