package simulation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// seam is a kind of await point: what a process calls outside of itself.
type seam string

const (
	seamDB      seam = "db"
	seamRedis   seam = "redis"
	seamAsk     seam = "ask"   // a request on its way to Stripe
	seamReply   seam = "reply" // Stripe's reply on its way back
	seamWebhook seam = "hook"  // a webhook on its way to a process
	seamAck     seam = "ack"   // its answer on the way back to Stripe
)

var (
	errDead = errors.New("simulation: the process is dead")
	errAway = errors.New("simulation: it does not answer")
	errLost = errors.New("simulation: the answer was lost")
)

// call is one call that stands at an await point.
type call struct {
	proc  *process // nil: the outside world
	owner string   // its name
	seam  seam
	name  string
	// draw is random, and a function of the seed and of what the call is alone: what
	// other calls do, or a shorter script, does not change it.
	draw uint64
	at   time.Time // it goes on no earlier
	// from is where in the code it was made, and drawn that draw and at are known: they are
	// once everybody waits, so that the order in which calls of one moment come, which the Go
	// scheduler decides, decides nothing.
	from  []uintptr
	drawn bool
	went  chan struct{}
	gone  bool
	err   error
	// lost: it takes effect, and the answer is an error all the same.
	lost bool
}

// sched releases one call at a time, the next one by virtual time.
type sched struct {
	seed uint64

	mu      sync.Mutex
	parked  []*call
	counts  map[string]uint64
	arrived chan struct{}

	steps int
	hash  uint64
	trace func(line string) // nil: not kept
	begun time.Time
}

func newSched(seed uint64) *sched {
	return &sched{seed: seed, counts: map[string]uint64{}, arrived: make(chan struct{}, 1), hash: 14695981039346656037, begun: time.Now()}
}

// mix is splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func hashText(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// draw is the next random number of a name; the lock is held.
func (s *sched) draw(name string) uint64 {
	n := s.counts[name]
	s.counts[name] = n + 1
	return mix(mix(s.seed^n*0x9e3779b97f4a7c15) ^ hashText(14695981039346656037, name))
}

// fraction turns part of a draw into a number within [0, 1).
func fraction(draw uint64, part int) float64 {
	return float64(mix(draw+uint64(part)*0x51ed27)>>11) / (1 << 53)
}

// latency is how long a call is on its way, mostly short and sometimes long.
func (c *call) latency(slow float64) time.Duration {
	u, v := fraction(c.draw, 1), fraction(c.draw, 2)
	span := func(lo, hi time.Duration) time.Duration { return lo + time.Duration(u*float64(hi-lo)) }
	switch {
	case c.seam == seamRedis:
		return span(50*time.Microsecond, time.Millisecond)
	case c.seam == seamDB && v < 0.95:
		return span(50*time.Microsecond, 2*time.Millisecond)
	case c.seam == seamDB:
		return span(time.Millisecond, 100*time.Millisecond)
	case v < slow:
		return span(300*time.Millisecond, 4*time.Second)
	}
	return span(2*time.Millisecond, 60*time.Millisecond)
}

// park stands the caller at an await point until the scheduler lets it go on, or its
// context ends. The error is what the caller meets instead of an answer.
func (w *world) park(ctx context.Context, p *process, kind seam, name string) (*call, error) {
	owner := ""
	if p != nil {
		owner = p.name
	}
	var from [48]uintptr
	c := &call{proc: p, owner: owner, seam: kind, name: name, from: from[:runtime.Callers(2, from[:])], went: make(chan struct{})}
	s := w.sched
	s.mu.Lock()
	if p != nil && p.dead {
		s.mu.Unlock()
		return nil, errDead
	}
	s.parked = append(s.parked, c)
	s.mu.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	select {
	case <-c.went:
	case <-ctx.Done():
		s.mu.Lock()
		if !c.gone {
			s.remove(c)
			c.err = ctx.Err()
		}
		s.mu.Unlock()
	}
	if c.err != nil {
		return nil, c.err
	}
	return c, nil
}

// remove takes a call off the list; the lock is held.
func (s *sched) remove(c *call) {
	c.gone = true
	if i := slices.Index(s.parked, c); i >= 0 {
		s.parked = slices.Delete(s.parked, i, i+1)
	}
}

// before orders calls of one moment by what they are. Two that are equal in that are the
// same call from the same place.
func (c *call) before(other *call) int {
	return cmp.Or(strings.Compare(c.owner, other.owner), strings.Compare(string(c.seam), string(other.seam)),
		strings.Compare(c.name, other.name), slices.Compare(c.from, other.from))
}

// arrange decides when the calls go on that came since everybody waited last.
func (w *world) arrange() {
	s := w.sched
	s.mu.Lock()
	defer s.mu.Unlock()
	var fresh []*call
	for _, c := range s.parked {
		if !c.drawn {
			fresh = append(fresh, c)
		}
	}
	slices.SortStableFunc(fresh, (*call).before)
	for _, c := range fresh {
		c.drawn = true
		c.draw = s.draw(c.owner + " " + string(c.seam) + " " + c.name)
		c.at = time.Now().Add(c.latency(w.slow))
		if c.proc != nil && c.at.Before(c.proc.stalled) {
			c.at = c.proc.stalled.Add(c.latency(w.slow))
		}
	}
}

// next is the call that goes on first.
func (s *sched) next() *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first *call
	for _, c := range s.parked {
		if first == nil || c.at.Before(first.at) || c.at.Equal(first.at) && c.draw < first.draw {
			first = c
		}
	}
	return first
}

// release lets one call go on, with what becomes of it.
func (w *world) release(c *call) {
	s := w.sched
	verdict := w.judge(c)
	s.mu.Lock()
	if c.gone { // its context has ended
		s.mu.Unlock()
		return
	}
	s.remove(c)
	s.mu.Unlock()
	w.note(c, verdict)
	close(c.went)
}

// note adds a step to the trace.
func (w *world) note(c *call, verdict string) {
	s := w.sched
	s.steps++
	owner := "outside"
	if c.proc != nil {
		owner = c.proc.name
	}
	since := time.Since(s.begun)
	h := s.hash ^ uint64(since)*0x9e3779b97f4a7c15
	for _, text := range []string{owner, string(c.seam), c.name, verdict} {
		h = hashText(h, text) * 31
	}
	s.hash = h
	if s.trace != nil {
		s.trace(fmt.Sprintf("%12v %-8s %-5s %s %s", since, owner, c.seam, c.name, verdict))
	}
}

// say adds a line of the world's own to the trace.
func (w *world) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	w.sched.hash = hashText(w.sched.hash, line)
	if w.sched.trace != nil {
		w.sched.trace(fmt.Sprintf("%12v == %s", time.Since(w.sched.begun), line))
	}
}

// run lets the world go on until a time, or until done says so, which is asked once a
// virtual second, or until an invariant is broken.
func (w *world) run(until time.Time, done func() bool) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	asked := time.Now()
	for {
		synctest.Wait()
		w.settled()
		if w.broken != nil {
			return
		}
		now := time.Now()
		if done != nil && now.Sub(asked) >= time.Second {
			asked = now
			if done() {
				return
			}
		}
		w.arrange()
		c, wake := w.sched.next(), until
		if at, ok := w.script.due(); ok && at.Before(wake) {
			wake = at
		}
		if c != nil && c.at.Before(wake) {
			wake = c.at
		}
		switch {
		case wake.After(now):
			timer.Reset(min(wake.Sub(now), time.Second))
			select {
			case <-timer.C:
			case <-w.sched.arrived:
			}
		case c != nil && !c.at.After(now):
			w.release(c)
		case !until.After(now):
			return
		default:
			w.act(w.script.pop())
		}
	}
}
