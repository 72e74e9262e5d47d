package queuetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/creditmirror/creditmirror/queue"
)

// randomHistories plays random histories of marks, claims, completions, lost
// leases and lost data against a model of three keys, and then drains the queue:
// each key must have been run to completion with a start after its last mark.
func randomHistories(s *suite) {
	rapid.Check(s.T, func(t *rapid.T) {
		prefix := s.prefix + strings.ToLower(rand.Text()[:6])
		q, err := queue.New(s.h.Client, queue.Options{Prefix: prefix, Partitions: s.h.Partitions, Lease: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		m := &history{t: t, q: q, h: s.h, prefix: prefix, ctx: s.Context(), owner: map[string]int{}, marked: map[string]int{}, answered: map[string]int{}}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			m.step()
		}
		m.finish()
	})
}

// run is one claim of the history. Claims are kept after they end, so that
// zombies act again.
type run struct {
	claim queue.Claim
	id    int
	start int // the step in which it was claimed
	ended bool
}

// history is the model.
type history struct {
	t      *rapid.T
	q      *queue.Queue
	h      Harness
	prefix string
	ctx    context.Context //nolint:containedctx // the test's, for one history

	now      int // steps so far
	runs     []run
	owner    map[string]int // key → id of the run that owns it, if any
	marked   map[string]int // key → step of its last mark
	answered map[string]int // key → start of the newest completed run
}

func (m *history) key() string { return fmt.Sprint(rapid.IntRange(0, 2).Draw(m.t, "key")) }

func (m *history) check(err error) {
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *history) step() {
	m.now++
	switch op := rapid.SampledFrom([]string{
		"mark", "mark", "mark", "claim", "claim", "claim", "done", "done", "done", "fail", "release", "put off", "revisit", "resume", "renew", "expire", "reap", "lose", "repair",
	}).Draw(m.t, "op"); op {
	case "mark":
		k := m.key()
		class := queue.Class(rapid.IntRange(0, 1).Draw(m.t, "class")) // 0 or 1
		_, err := m.q.Mark(m.ctx, []queue.Mark{{Key: k, Class: class, Ref: fmt.Sprint(m.now)}})
		m.check(err)
		m.marked[k] = m.now
	case "claim":
		m.claim(rapid.IntRange(1, 3).Draw(m.t, "max"))
	case "reap":
		_, err := m.q.Reap(m.ctx)
		m.check(err)
	case "repair":
		_, err := m.q.Repair(m.ctx)
		m.check(err)
	case "resume":
		m.check(m.resume())
	case "expire":
		k := m.key()
		m.check(expireLease(m.ctx, m.h, m.prefix, k))
		delete(m.owner, k) // anybody may take it from now on
	case "lose":
		name := rapid.SampledFrom(derived).Draw(m.t, "lost key")
		for p := range m.h.Partitions {
			m.check(m.h.Client.Del(m.ctx, keyName(m.prefix, p, name)).Err())
		}
		if name == "lease" || name == "claim" {
			clear(m.owner)
		}
	default:
		m.act(op)
	}
}

func (m *history) claim(n int) {
	claims, err := m.q.Claim(m.ctx, n)
	m.check(err)
	for _, c := range claims {
		if id, taken := m.owner[c.Key]; taken {
			m.t.Fatalf("step %d: %s was claimed while run %d owns it", m.now, c.Key, id)
		}
		if m.marked[c.Key] <= m.answered[c.Key] {
			m.t.Fatalf("step %d: %s was claimed although nothing happened since it was done", m.now, c.Key)
		}
		r := run{claim: c, id: len(m.runs), start: m.now}
		m.runs = append(m.runs, r)
		m.owner[c.Key] = r.id
	}
}

// act lets one run, current or long dead, try something.
func (m *history) act(op string) {
	if len(m.runs) == 0 {
		return
	}
	r := &m.runs[rapid.IntRange(0, len(m.runs)-1).Draw(m.t, "run")]
	owner, owned := m.owner[r.claim.Key]
	var err error
	switch op {
	case "done":
		_, err = m.q.Done(m.ctx, r.claim)
	case "fail":
		_, err = m.q.Fail(m.ctx, r.claim, 0)
	case "release":
		err = m.q.Release(m.ctx, r.claim, 0)
	case "put off":
		_, err = m.q.PutOff(m.ctx, r.claim, time.Hour, m.now%2 == 0)
	case "revisit":
		_, err = m.q.Revisit(m.ctx, r.claim, 0)
	case "renew":
		var lost []queue.Claim
		lost, err = m.q.Renew(m.ctx, []queue.Claim{r.claim})
		if err == nil && len(lost) > 0 {
			err = queue.ErrLost
		}
	}
	if err != nil && !errors.Is(err, queue.ErrLost) {
		m.t.Fatal(err)
	}
	switch {
	case err == nil && r.ended:
		m.t.Fatalf("step %d: %s by run %d of %s, which had ended", m.now, op, r.id, r.claim.Key)
	case err == nil && owned && owner != r.id:
		m.t.Fatalf("step %d: %s by run %d of %s, which run %d owns", m.now, op, r.id, r.claim.Key, owner)
	case err != nil && owned && owner == r.id:
		m.t.Fatalf("step %d: %s by the owner of %s was refused", m.now, op, r.claim.Key)
	case err != nil:
		return
	}
	if op == "renew" {
		m.owner[r.claim.Key] = r.id
		return
	}
	delete(m.owner, r.claim.Key)
	r.ended = true
	if op == "done" {
		m.answered[r.claim.Key] = max(m.answered[r.claim.Key], r.start)
	}
}

func (m *history) resume() error {
	_, err := m.q.Resume(m.ctx, func(string) bool { return true })
	return err
}

// finish stops all faults and works until the queue is clean.
func (m *history) finish() {
	for k := range m.marked {
		m.check(expireLease(m.ctx, m.h, m.prefix, k))
	}
	_, err := m.q.Reap(m.ctx)
	m.check(err)
	_, err = m.q.Repair(m.ctx)
	m.check(err)
	m.check(m.resume())
	clear(m.owner)
	for range 10 {
		m.now++
		first := len(m.runs)
		m.claim(16)
		for _, r := range m.runs[first:] {
			_, err := m.q.Done(m.ctx, r.claim)
			m.check(err)
			m.answered[r.claim.Key] = r.start
			delete(m.owner, r.claim.Key)
		}
	}
	st, err := m.q.Stats(m.ctx)
	m.check(err)
	if st != (queue.Stats{}) {
		m.t.Fatalf("not clean in the end: %+v", st)
	}
	for k, at := range m.marked {
		if m.answered[k] <= at {
			m.t.Fatalf("lost wake-up: %s was marked in step %d, the last completed run began in step %d", k, at, m.answered[k])
		}
	}
}
