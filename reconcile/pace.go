package reconcile

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// paceWindow is how far back the rate of a first copy looks.
	paceWindow = 30 * time.Second
	// paceInterval is how often it is reckoned.
	paceInterval = time.Second
)

// Pace is how fast a first copy gets on. The zero value: not known yet.
type Pace struct {
	// Calls is how many calls were made since this run began.
	Calls int64
	// Rate is in calls per second, over the last half minute.
	Rate float64
	// CallsLeft and TimeLeft are estimates: a customer that is not listed yet, or a
	// history longer than a page, shows only when its turn comes.
	CallsLeft int64
	TimeLeft  time.Duration
}

// moment is one look at the counts.
type moment struct {
	at    time.Time
	lists int64 // calls of this run's lists
	calls int64 // of first copies in all processes, where known
	left  int64 // histories, in the phase histories
}

// since is how many calls were made between two looks: at least one for each list
// and each history read. The count of all processes knows of longer histories, but
// forgets what is a day old.
func (m moment) since(before moment) int64 {
	return max(m.calls-before.calls, m.lists-before.lists+max(before.left-m.left, 0))
}

// pacer reckons the pace of one run.
type pacer struct {
	o     FirstCopyOptions
	lists atomic.Int64 // calls of lists made by this run

	looks []moment // in the window, of the present phase
	phase string
	made  int64
	last  Pace
}

func newPacer(o FirstCopyOptions) *pacer { return &pacer{o: o} }

// called counts a call.
func (p *pacer) called() { p.lists.Add(1) }

// look reckons anew, at most once a second.
func (p *pacer) look(ctx context.Context, at *Copied) Pace {
	now := p.o.Now()
	if at.Phase != p.phase {
		p.phase, p.looks = at.Phase, nil
	} else if n := len(p.looks); n > 0 && now.Sub(p.looks[n-1].at) < paceInterval {
		return p.last
	}
	m := moment{at: now, lists: p.lists.Load(), left: at.Left}
	if p.o.Calls != nil {
		calls, err := p.o.Calls(ctx)
		if err != nil {
			return p.last // a figure on the side must not stop the copy
		}
		m.calls = calls
	}
	if n := len(p.looks); n > 0 {
		p.made += m.since(p.looks[n-1])
	}
	p.looks = append(p.looks, m)
	for len(p.looks) > 2 && now.Sub(p.looks[1].at) >= paceWindow {
		p.looks = p.looks[1:]
	}
	p.last = reckon(p.looks, at)
	p.last.Calls = p.made
	return p.last
}

// reckon is the pace over a number of looks.
func reckon(looks []moment, at *Copied) (pace Pace) {
	first, last := looks[0], looks[len(looks)-1]
	made, took := last.since(first), last.at.Sub(first.at)
	if took > 0 {
		pace.Rate = float64(made) / took.Seconds()
	}
	perHistory := 1.0
	if read := first.left - last.left; at.Phase == phaseHistories && read > 0 {
		perHistory = min(max(float64(made)/float64(read), 1), 100)
	}
	switch at.Phase {
	case phaseCustomers:
		var unlisted int64
		for _, r := range at.Ranges {
			unlisted += r.left()
		}
		pace.CallsLeft = (unlisted+99)/100 + at.Customers + unlisted
	case phaseClocks, phaseGrants:
		pace.CallsLeft = at.Customers
	case phaseHistories:
		pace.CallsLeft = int64(float64(at.Left) * perHistory)
	}
	if pace.Rate > 0 {
		pace.TimeLeft = time.Duration(float64(pace.CallsLeft) / pace.Rate * float64(time.Second))
	}
	return pace
}
