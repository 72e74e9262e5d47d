package budget

import (
	"math"
	"testing"
	"time"
)

// FuzzScripts runs the scripts over any names, purposes, rates and times. Whatever comes:
// the bounds of each bucket hold over any time, a caller that is alone is let through when
// it comes back as it was told, no wait is negative or endless, the calls counted are those
// that were let through, and one account does not use up what another has.
func FuzzScripts(f *testing.F) {
	f.Add("acct_1", "GET /v1/customers", 24.0, 12.0, 6.0, []byte{0, 1, 2, 3, 40, 80, 120, 200, 255})
	f.Add("", "", 1.0, 0.5, 0.25, []byte{3, 3, 3, 3, 255, 255, 3, 7, 3, 7})
	f.Add("a:b\x00{x}", "\r\nDEL *\r\n", 1e6, 0.1, 25.0, []byte{128, 4, 128, 4, 9, 130, 5})
	f.Add("' .. redis.call('FLUSHALL') --", "%s%n", 100.0, 100.0, 100.0, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	client := dial(f, "")
	f.Fuzz(func(t *testing.T, account, endpoint string, all, ofAccount, ofEndpoint float64, ops []byte) {
		for _, rate := range []float64{all, ofAccount, ofEndpoint} {
			if !(rate >= 0.1 && rate <= 1e6) {
				return // New refuses what is lower
			}
		}
		if len(ops) > 60 || len(account)+len(endpoint) > 400 {
			return
		}
		ctx := t.Context()
		if err := client.FlushDB(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		b := open(t, client, Options{RPS: all, AccountRPS: ofAccount, EndpointRPS: ofEndpoint})
		defer b.Close()
		buckets := b.buckets(account, endpoint)
		purposes := Purposes()
		now, granted := time.Duration(0), map[Purpose]int64{}
		calls := int64(0)
		for _, op := range ops {
			if op >= 0xf0 { // a 429
				if _, err := b.throttle.run(ctx, client, []string{b.tag + buckets[len(buckets)-1].name}, micros(now), growth, lowest); err != nil {
					t.Fatal(err)
				}
				continue
			}
			p := purposes[int(op)%len(purposes)]
			now += time.Duration(op>>3) * 3 * time.Millisecond
			wait, err := b.askAt(ctx, micros(now), buckets, p)
			if err != nil {
				t.Fatal(err)
			}
			// The slowest rate that can be left, and one call more than a bucket holds.
			slowest := min(all, ofAccount, ofEndpoint) * lowest * sweepShare
			if wait < 0 || wait > time.Minute+time.Duration(min(4/slowest, 1e9)*float64(time.Second)) {
				t.Fatalf("%s at %s: told to wait %s", p, now, wait)
			}
			if wait == 0 {
				granted[p]++
				calls++
			}
			for _, k := range buckets {
				if most := math.Max(1, k.rate*burstSeconds) + k.rate*now.Seconds() + 1e-6; float64(calls) > most {
					t.Fatalf("%d calls by %s: the bucket %q holds %f", calls, now, k.name, most)
				}
			}
		}
		counted, err := client.HGetAll(ctx, b.tag+"calls").Result()
		if err != nil {
			t.Fatal(err)
		}
		for p, n := range sum24h(time.UnixMicro((epoch + now).Microseconds()), counted, nil) {
			if n != granted[p] {
				t.Fatalf("%d calls of %s are counted, %d were let through", n, p, granted[p])
			}
		}
		// Alone, after all notes of waiting callers have run out, what was told is true.
		now += 2 * time.Hour
		for range 3 {
			wait, err := b.askAt(ctx, micros(now), buckets, Live)
			if err != nil {
				t.Fatal(err)
			}
			if now += wait; wait == 0 {
				continue
			}
			if again, err := b.askAt(ctx, micros(now), buckets, Live); err != nil || again != 0 {
				t.Fatalf("told to wait %s, then %s more, %v", wait, again, err)
			}
		}
	})
}
