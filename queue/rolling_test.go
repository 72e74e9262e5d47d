package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/creditmirror/creditmirror/internal/redistest"
)

// lastVersion gives a queue the scripts of the last release.
func lastVersion(t *testing.T, q *Queue) {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile("testdata/last/" + name + ".lua")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	prelude := read("prelude")
	for name, into := range map[string]**script{
		"mark": &q.scripts.mark, "claim": &q.scripts.claim, "renew": &q.scripts.renew, "done": &q.scripts.done,
		"fail": &q.scripts.fail, "reap": &q.scripts.reap, "repair": &q.scripts.repair,
	} {
		*into = newScript(read(name), prelude)
	}
}

// TestI3_LastVersionBesideThisOne plays random histories in which each call is made
// with the scripts of the last version or of this one, as in a rolling upgrade: no
// wake-up is lost, no key has two owners, and all is clean in the end.
func TestI3_LastVersionBesideThisOne(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--appendfsync", "no")
	client := redis.NewClient(&redis.Options{Addr: strings.TrimPrefix(srv.URL, "redis://")})
	t.Cleanup(func() { _ = client.Close() })
	for seed := range uint64(150) {
		r := &rolling{T: t, rand: rand.New(rand.NewPCG(seed, 0)), seed: seed, marked: map[string]int{}, owner: map[string]string{}}
		for range 2 {
			q, err := New(client, Options{Prefix: fmt.Sprint("r", seed), Lease: time.Hour, Gather: 4 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			r.queues = append(r.queues, q)
		}
		lastVersion(t, r.queues[0])
		r.play(client)
	}
}

type rolling struct {
	*testing.T
	seed   uint64
	rand   *rand.Rand
	queues []*Queue
	now    int
	claims []rolledClaim
	marked map[string]int    // key to the step of its last mark
	owner  map[string]string // key to the value of the claim that owns it
}

type rolledClaim struct {
	Claim
	start int
}

func (r *rolling) must(err error) {
	r.Helper()
	if err != nil && !errors.Is(err, ErrLost) {
		r.Fatalf("seed %d, step %d: %v", r.seed, r.now, err)
	}
}

func (r *rolling) play(client redis.UniversalClient) {
	ctx := r.Context()
	for r.now = 1; r.now <= 40; r.now++ {
		q := r.queues[r.rand.IntN(2)]
		switch r.rand.IntN(8) {
		case 0, 1, 2:
			k := fmt.Sprint(r.rand.IntN(3))
			_, err := q.Mark(ctx, []Mark{{Key: k, Class: Class(r.rand.IntN(2)), Ref: fmt.Sprint(r.now)}}) // 0 or 1
			r.must(err)
			r.marked[k] = r.now
		case 3, 4:
			r.claim(q)
		case 5, 6:
			r.end(q)
		case 7:
			for key := range r.owner {
				client.ZAddXX(ctx, q.keys[0][3], redis.Z{Score: 1, Member: key})
			}
			clear(r.owner)
			_, err := q.Reap(ctx)
			r.must(err)
		}
	}
	for round := range 400 {
		q := r.queues[round%2]
		_, err := r.queues[1].Resume(ctx, func(string) bool { return true })
		r.must(err)
		for _, z := range client.ZRange(ctx, q.keys[0][3], 0, -1).Val() {
			client.ZAddXX(ctx, q.keys[0][3], redis.Z{Score: 1, Member: z})
		}
		clear(r.owner)
		_, err = q.Reap(ctx)
		r.must(err)
		first := len(r.claims)
		r.claim(q)
		for _, c := range r.claims[first:] {
			r.done(q, c)
		}
		if st, err := r.queues[1].Stats(ctx); err != nil || st == (Stats{}) {
			r.must(err)
			break
		}
		time.Sleep(time.Millisecond)
	}
	st, err := r.queues[1].Stats(ctx)
	r.must(err)
	if st != (Stats{}) || len(r.marked) != 0 {
		r.Fatalf("seed %d: %+v in the end, marks without a run %v", r.seed, st, r.marked)
	}
}

func (r *rolling) claim(q *Queue) {
	claims, err := q.Claim(r.Context(), 2)
	r.must(err)
	for _, c := range claims {
		if r.owner[c.Key] != "" {
			r.Fatalf("seed %d, step %d: %s leased twice", r.seed, r.now, c.Key)
		}
		r.owner[c.Key] = c.value
		r.claims = append(r.claims, rolledClaim{c, r.now})
	}
}

// end lets one claim, current or long dead, end in some way.
func (r *rolling) end(q *Queue) {
	if len(r.claims) == 0 {
		return
	}
	c := r.claims[r.rand.IntN(len(r.claims))]
	var err error
	switch r.rand.IntN(5) {
	case 0:
		_, err = q.Fail(r.Context(), c.Claim, 2*time.Millisecond)
	case 1:
		err = q.Release(r.Context(), c.Claim, 0)
	case 2:
		_, err = r.queues[1].PutOff(r.Context(), c.Claim, time.Hour, true)
	case 3:
		_, err = r.queues[1].Revisit(r.Context(), c.Claim, 2*time.Millisecond)
	default:
		r.done(q, c)
		return
	}
	r.ended(c, err)
}

func (r *rolling) done(q *Queue, c rolledClaim) {
	_, err := q.Done(r.Context(), c.Claim)
	r.ended(c, err)
	if err == nil && r.marked[c.Key] <= c.start {
		delete(r.marked, c.Key)
	}
}

func (r *rolling) ended(c rolledClaim, err error) {
	r.must(err)
	switch owns := r.owner[c.Key] == c.value; {
	case owns && err != nil:
		r.Fatalf("seed %d, step %d: the owner of %s was refused", r.seed, r.now, c.Key)
	case owns:
		delete(r.owner, c.Key)
	case err == nil && r.owner[c.Key] != "":
		r.Fatalf("seed %d, step %d: a claim that lost %s was heard", r.seed, r.now, c.Key)
	}
}
