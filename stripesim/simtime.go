package stripesim

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// simTime is the clock that everything in the simulator goes by, and the timers
// on it. On the real clock, time passes as Options.Now says, plus an offset. On
// the virtual clock it stands still until it is advanced, and timers run in the
// order of their times, each at its own.
type simTime struct {
	base func() time.Time // Options.Now

	mu      sync.Mutex
	offset  time.Duration // added to base, on the real clock
	virtual bool
	at      time.Time // the virtual time
	timers  timerHeap
	made    uint64
	closed  bool
}

// simTimer is one function to run later.
type simTimer struct {
	due  time.Time // simulated time
	n    uint64    // breaks ties: first made, first run
	at   int       // index in the heap, -1 once it is out
	f    func()
	wall *time.Timer // on the real clock
}

type timerHeap []*simTimer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].n < h[j].n
}
func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i]; h[i].at, h[j].at = i, j }

// Push is for container/heap.
func (h *timerHeap) Push(x any) { t := x.(*simTimer); t.at = len(*h); *h = append(*h, t) }

// Pop is for container/heap.
func (h *timerHeap) Pop() any {
	old := *h
	n := len(old) - 1
	t := old[n]
	old[n], t.at = nil, -1
	*h = old[:n]
	return t
}

func (s *simTime) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nowLocked()
}

func (s *simTime) nowLocked() time.Time {
	if s.virtual {
		return s.at
	}
	return s.base().Add(s.offset)
}

// after runs f once d has passed on the clock, on a goroutine of its own on the
// real clock and on that of advance on the virtual one. Without f being called,
// nothing was scheduled if it returns false.
func (s *simTime) after(d time.Duration, f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.made++
	t := &simTimer{due: s.nowLocked().Add(d), n: s.made, f: f}
	heap.Push(&s.timers, t)
	if !s.virtual {
		s.arm(t, d)
	}
	return true
}

func (s *simTime) arm(t *simTimer, d time.Duration) {
	t.wall = time.AfterFunc(max(0, d), func() {
		s.mu.Lock()
		ours := t.at >= 0 && t.wall != nil && !s.closed
		if ours {
			heap.Remove(&s.timers, t.at)
		}
		s.mu.Unlock()
		if ours {
			t.f()
		}
	})
}

// rearm sets every timer anew after a jump or a change of clock.
func (s *simTime) rearm() {
	for _, t := range s.timers {
		if t.wall != nil {
			t.wall.Stop()
			t.wall = nil
		}
		if !s.virtual {
			s.arm(t, t.due.Sub(s.nowLocked()))
		}
	}
}

// nextBefore takes the first timer that is due by to off the heap.
func (s *simTime) nextBefore(to time.Time) *simTimer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.timers) == 0 || s.timers[0].due.After(to) {
		return nil
	}
	return heap.Pop(&s.timers).(*simTimer)
}

func (s *simTime) set(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.at) {
		s.at = at
	}
}

func (s *simTime) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, t := range s.timers {
		if t.wall != nil {
			t.wall.Stop()
		}
	}
	s.timers = nil
}

// ClockState is the simulator's clock.
type ClockState struct {
	Now time.Time `json:"now"`
	// Virtual: time stands still until it is advanced.
	Virtual bool `json:"virtual"`
	// Timers is how many things wait for their time: retries, delayed deliveries,
	// test clocks that are advancing.
	Timers int `json:"timers"`
}

// Clock returns the simulator's clock.
func (s *Server) Clock() ClockState {
	s.time.mu.Lock()
	defer s.time.mu.Unlock()
	return ClockState{s.time.nowLocked().UTC(), s.time.virtual, len(s.time.timers)}
}

var errBackwards = errors.New("the clock only goes forward")

// FreezeClock makes the clock virtual. A time other than zero also sets it,
// which is allowed backwards only while there is nothing in the simulator yet.
func (s *Server) FreezeClock(at time.Time) error {
	empty := s.empty()
	t := s.time
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.nowLocked()
	if at.IsZero() {
		at = now
	}
	if at.Before(now) && !empty {
		return errBackwards
	}
	t.virtual, t.at = true, at
	t.rearm()
	return nil
}

// ReleaseClock lets time pass again, from where the virtual clock stood.
func (s *Server) ReleaseClock() {
	t := s.time
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.virtual {
		t.virtual, t.offset = false, t.at.Sub(t.base())
		t.rearm()
	}
}

// AdvanceClock moves the clock forward. On the virtual clock all that falls into
// the interval happens at its own time and in order: deliveries and their
// retries, natural expiry, drafts that finalize. The real clock jumps.
func (s *Server) AdvanceClock(ctx context.Context, d time.Duration) error {
	if d < 0 {
		return errBackwards
	}
	s.advancing.Lock()
	defer s.advancing.Unlock()
	t := s.time
	t.mu.Lock()
	if !t.virtual {
		t.offset += d
		t.rearm()
		t.mu.Unlock()
		s.catchUpUnlessOnRead()
		return nil
	}
	to := t.at.Add(d)
	t.mu.Unlock()
	for {
		if err := s.sender.quiesce(ctx); err != nil {
			return fmt.Errorf("advance: %w", err)
		}
		due := s.nextDue()
		timer := t.nextBefore(earlier(to, due))
		switch {
		case timer != nil:
			t.set(timer.due)
			timer.f()
		case due.After(to):
			t.set(to)
			return nil
		default:
			t.set(due)
			s.catchUp()
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// nextDue is when something next happens to a grant or a draft by itself.
func (s *Server) nextDue() time.Time {
	next := int64(1) << 40 // further than any clock goes
	if !s.switches().ExpiryOnRead {
		for _, a := range s.allAccounts() {
			next = min(next, a.nextDue.Load())
		}
	}
	return time.Unix(next, 0)
}

// empty reports whether nothing has been made yet.
func (s *Server) empty() bool {
	for _, a := range s.allAccounts() {
		a.mu.RLock()
		n := a.customerList.len() + a.clockList.len() + a.eventList.len() + a.priceList.len()
		a.mu.RUnlock()
		if n > 0 {
			return false
		}
	}
	return true
}
