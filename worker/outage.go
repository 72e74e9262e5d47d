package worker

import (
	"time"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
)

// The pauses of an outage.
const (
	// outagePause is the longest pause of a target that keeps asking.
	outagePause = 5 * time.Second
	// outageRest is the shortest pause of the others, of which none asks. It ends with
	// the outage.
	outageRest = 15 * time.Second
	// proberLost is how late a prober may be until another target takes its place.
	proberLost = 5 * time.Second
	// maxTried bounds what is remembered of targets that failed.
	maxTried = 10_000
)

// outage is a time in which Stripe answers nobody of an account. A single target that
// fails may fail for a reason of its own, so others ask as ever; once a second one has
// failed too, one asks for all.
type outage struct {
	since  time.Time
	first  mirror.Target // that failed
	wide   bool          // others failed too
	prober mirror.Target
	due    time.Time // when the prober asks again
}

// pause is how long the prober waits: about as long as the outage has lasted.
func (o *outage) pause(now time.Time) time.Duration {
	top := min(max(now.Sub(o.since), 500*time.Millisecond), outagePause)
	return top/2 + backoff.N(top/2)
}

// Failed notes a failure that may be Stripe's as a whole, and reports whether it is the
// target's own: Stripe has answered another target since this one failed last, or,
// where it did not, since this try began. Otherwise it returns how long to wait.
func (g *Gate) Failed(t mirror.Target, began time.Time) (own bool, pause time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	since, known := g.tried[t]
	if !known {
		since = began
	}
	if len(g.tried) >= maxTried {
		clear(g.tried)
	}
	g.tried[t] = now
	if at, ok := g.answered[t.Account]; ok && !at.Before(since) {
		return true, 0
	}
	o := g.outages[t.Account]
	if o == nil {
		o = &outage{since: now, first: t, prober: t}
		g.outages[t.Account] = o
	}
	o.wide = o.wide || o.first != t
	if !o.wide || o.prober == t || now.After(o.due.Add(proberLost)) {
		o.prober = t
		pause = o.pause(now)
		o.due = now.Add(pause)
		return false, pause
	}
	return false, rest()
}

// rest is spread, so that those who rest do not come back together.
func rest() time.Duration { return outageRest + backoff.N(outageRest) }

// Out returns how long a target has to wait because Stripe answers nobody of its
// account; zero lets it ask.
func (g *Gate) Out(t mirror.Target) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.outages[t.Account]
	if o == nil || !o.wide || o.prober == t {
		return 0
	}
	if now := g.now(); now.After(o.due.Add(proberLost)) {
		o.prober, o.due = t, now
		return 0
	}
	return rest()
}

// Heard notes that Stripe answered a target, if not with what was asked for: there is
// no outage.
func (g *Gate) Heard(t mirror.Target) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hear(t)
}

// hear ends an outage of the account, if there is any. Of one before this process
// began nothing is known, so its first answer counts as an end too.
func (g *Gate) hear(t mirror.Target) {
	_, known := g.answered[t.Account]
	g.answered[t.Account] = g.now()
	delete(g.tried, t)
	if known && g.outages[t.Account] == nil {
		return
	}
	delete(g.outages, t.Account)
	g.end(t.Account)
}

func (g *Gate) end(account string) {
	g.over[account] = true
	select {
	case g.recovered <- struct{}{}:
	default:
	}
}

// takeRecovered returns the accounts whose outage is over, each once.
func (g *Gate) takeRecovered() map[string]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	over := g.over
	g.over = map[string]bool{}
	return over
}

// recover puts accounts back that takeRecovered returned.
func (g *Gate) recover(accounts map[string]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for a := range accounts {
		g.end(a)
	}
}
