package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/creditmirror/creditmirror/internal/redistest"
)

// breakAfter returns the script as it is, except that it fails after n commands.
func breakAfter(t *testing.T, q *Queue, name string, n int) *script {
	t.Helper()
	prelude, err := luaFiles.ReadFile("lua/prelude.lua")
	if err != nil {
		t.Fatal(err)
	}
	text, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		t.Fatal(err)
	}
	counted := func(s string) string { return strings.ReplaceAll(s, "redis.call(", "counted(") }
	guard := fmt.Sprintf(`local commands = 0
local function counted(...)
  commands = commands + 1
  if commands > %d then error('broken off') end
  return redis.call(...)
end
`, n)
	return newScript(counted(string(text)), guard+counted(string(prelude)))
}

// TestI8_EveryPrefixOfEveryScript breaks each script off after each of its
// commands. Whatever state that leaves: a mark that was acknowledged is worked
// on in the end, a key with a running lease is not leased again, and nothing
// stays behind.
func TestI8_EveryPrefixOfEveryScript(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--appendfsync", "no")
	client := redis.NewClient(&redis.Options{Addr: strings.TrimPrefix(srv.URL, "redis://")})
	t.Cleanup(func() { _ = client.Close() })

	// swap replaces one script of a queue.
	swap := map[string]func(q *Queue, s *script){
		"mark":   func(q *Queue, s *script) { q.scripts.mark = s },
		"claim":  func(q *Queue, s *script) { q.scripts.claim = s },
		"renew":  func(q *Queue, s *script) { q.scripts.renew = s },
		"done":   func(q *Queue, s *script) { q.scripts.done = s },
		"fail":   func(q *Queue, s *script) { q.scripts.fail = s },
		"resume": func(q *Queue, s *script) { q.scripts.resume = s },
		"reap":   func(q *Queue, s *script) { q.scripts.reap = s },
		"repair": func(q *Queue, s *script) { q.scripts.repair = s },
	}
	scenarios := []struct {
		name, script string
		run          func(ctx context.Context, p *prefixCase) error // through the broken queue
	}{
		{"mark clean", "mark", func(ctx context.Context, p *prefixCase) error { return p.markBroken(ctx, "new", Live) }},
		{"mark waiting", "mark", func(ctx context.Context, p *prefixCase) error { return p.markBroken(ctx, "sweeping", Live) }},
		{"mark leased", "mark", func(ctx context.Context, p *prefixCase) error { return p.markBroken(ctx, "leased", Sweep) }},
		{"claim", "claim", func(ctx context.Context, p *prefixCase) error { _, err := p.broken.Claim(ctx, 3); return err }},
		{"renew", "renew", func(ctx context.Context, p *prefixCase) error {
			_, err := p.broken.Renew(ctx, []Claim{p.leased})
			return err
		}},
		{"done", "done", func(ctx context.Context, p *prefixCase) error { _, err := p.broken.Done(ctx, p.leased); return err }},
		{"done, marked meanwhile", "done", func(ctx context.Context, p *prefixCase) error {
			p.mark(ctx, "leased", Sweep)
			p.remarked = true
			_, err := p.broken.Done(ctx, p.leased)
			return err
		}},
		{"fail", "fail", func(ctx context.Context, p *prefixCase) error { _, err := p.broken.Fail(ctx, p.leased, 0); return err }},
		{"put off", "fail", func(ctx context.Context, p *prefixCase) error {
			_, err := p.broken.PutOff(ctx, p.leased, time.Hour, true)
			if _, err := p.q.Resume(ctx, func(string) bool { return true }); err != nil {
				p.t.Fatal(err)
			}
			return err
		}},
		{"resume", "resume", func(ctx context.Context, p *prefixCase) error {
			if _, err := p.q.PutOff(ctx, p.leased, time.Hour, false); err != nil {
				return err
			}
			_, err := p.broken.Resume(ctx, func(string) bool { return true })
			// Whatever was made due or not, the next call does it.
			if _, err := p.q.Resume(ctx, func(string) bool { return true }); err != nil {
				p.t.Fatal(err)
			}
			return err
		}},
		{"reap", "reap", func(ctx context.Context, p *prefixCase) error {
			p.expire(ctx)
			_, err := p.broken.Reap(ctx)
			return err
		}},
		{"repair", "repair", func(ctx context.Context, p *prefixCase) error {
			client.Del(ctx, p.q.keys[0][1], p.q.keys[0][2], p.q.keys[0][7])
			_, err := p.broken.Repair(ctx)
			return err
		}},
	}
	for i, sc := range scenarios {
		for n := 0; ; n++ {
			if n > 200 {
				t.Fatalf("%s never completes", sc.name)
			}
			p := newPrefixCase(t, client, fmt.Sprintf("p%d-%d", i, n), fmt.Sprintf("%s broken off after %d commands", sc.name, n))
			swap[sc.script](p.broken, breakAfter(t, p.q, sc.script, n))
			err := sc.run(t.Context(), p)
			if err != nil && !strings.Contains(err.Error(), "broken off") {
				t.Fatalf("%s: %v", p.name, err)
			}
			p.verify(t.Context(), err == nil)
			if err == nil {
				break
			}
		}
	}
}

// prefixCase is a queue with a live key, a sweep key and a leased key.
type prefixCase struct {
	t         *testing.T
	name      string
	client    redis.UniversalClient
	q, broken *Queue
	leased    Claim
	acked     map[string]bool // keys with a mark that was acknowledged
	remarked  bool            // the leased key has a mark after its claim
}

func newPrefixCase(t *testing.T, client redis.UniversalClient, prefix, name string) *prefixCase {
	t.Helper()
	p := &prefixCase{t: t, name: name, client: client, acked: map[string]bool{}}
	for _, q := range []**Queue{&p.q, &p.broken} {
		var err error
		if *q, err = New(client, Options{Prefix: prefix, Lease: time.Hour}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*q).Close)
	}
	ctx := t.Context()
	p.mark(ctx, "leased", Live)
	claims, err := p.q.Claim(ctx, 1)
	if err != nil || len(claims) != 1 {
		t.Fatalf("%d claims, %v", len(claims), err)
	}
	p.leased = claims[0]
	p.mark(ctx, "waiting", Live)
	p.mark(ctx, "sweeping", Sweep)
	return p
}

func (p *prefixCase) mark(ctx context.Context, key string, c Class) {
	p.t.Helper()
	if _, err := p.q.Mark(ctx, []Mark{{Key: key, Class: c, Ref: "r"}}); err != nil {
		p.t.Fatal(err)
	}
	p.acked[key] = true
}

func (p *prefixCase) markBroken(ctx context.Context, key string, c Class) error {
	_, err := p.broken.Mark(ctx, []Mark{{Key: key, Class: c, Ref: "r"}})
	p.acked[key] = p.acked[key] || err == nil
	return err
}

func (p *prefixCase) expire(ctx context.Context) {
	for _, key := range p.client.ZRange(ctx, p.q.keys[0][3], 0, -1).Val() {
		p.client.ZAddXX(ctx, p.q.keys[0][3], redis.Z{Score: 1, Member: key})
	}
}

// verify claims what there is, then lets leases run out and recovers.
func (p *prefixCase) verify(ctx context.Context, completed bool) {
	t := p.t
	t.Helper()
	leases := map[string]bool{}
	for _, z := range p.client.ZRangeWithScores(ctx, p.q.keys[0][3], 0, -1).Val() {
		leases[z.Member.(string)] = z.Score > float64(time.Now().UnixMilli())
	}
	ran := map[string]bool{}
	finish := func(claims []Claim) {
		for _, c := range claims {
			if leases[c.Key] {
				t.Fatalf("%s: %s was leased although its lease runs", p.name, c.Key)
			}
			ran[c.Key] = true
			if _, err := p.q.Done(ctx, c); err != nil {
				t.Fatalf("%s: %v", p.name, err)
			}
		}
	}
	claims, err := p.q.Claim(ctx, 10)
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	finish(claims)
	p.expire(ctx)
	clear(leases)
	if _, err := p.q.Reap(ctx); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	if _, err := p.q.Repair(ctx); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	for range 3 {
		claims, err := p.q.Claim(ctx, 10)
		if err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
		finish(claims)
	}
	for key, acked := range p.acked {
		// The leased key may have been completed by the call itself, also when it
		// broke off right after that; not so when it was marked meanwhile.
		if acked && !ran[key] && (key != "leased" || p.remarked) {
			t.Fatalf("%s: %s was never worked on", p.name, key)
		}
	}
	if _, err := p.q.Repair(ctx); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	for i, key := range p.q.keys[0][:8] {
		if n := p.client.Exists(ctx, key).Val(); n != 0 {
			t.Fatalf("%s (completed: %v): key %d is left over", p.name, completed, i+1)
		}
	}
}
