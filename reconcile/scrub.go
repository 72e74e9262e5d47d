package reconcile

import (
	"context"
	"encoding/json"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

// SweepScrub is the sweep's name in the table sweeps.
const SweepScrub = "scrub"

const (
	// scrubBatch bounds how many histories are asked for at a time, and scrubBacklog
	// how much swept work may wait: the database knows the rest.
	scrubBatch   = 100
	scrubBacklog = 200
	// scrubTick is how often the scrub looks whether something is due.
	scrubTick = 5 * time.Second
	// scrubSlack is how far behind its period the scrub may be and still count as
	// successful.
	scrubSlack = 0.1
)

// ScrubStore is what the scrub needs.
type ScrubStore interface {
	Checkpoints
	letters
	RequestFullRead(ctx context.Context, targets []mirror.Target) error
	FullReads(ctx context.Context, account string, ledgers mirror.Ledgers, before time.Time, limit int) ([]mirror.FullRead, error)
	FullReadCount(ctx context.Context, account string, ledgers mirror.Ledgers) (int64, error)
	Refused(ctx context.Context, account string, since time.Time) ([]mirror.Target, error)
}

// ScrubOptions tune a Scrub.
type ScrubOptions struct {
	// Period in which every history is read in full once. Defaults to 720 h.
	Period time.Duration
	// Ledgers are those that are mirrored.
	Ledgers mirror.Ledgers
	// Report, where set, is asked to compare each customer instead: nothing is
	// repaired, and nothing is marked.
	Report *ScrubReport
	Log    *zap.Logger
	Now    func() time.Time
}

// Scrub has every history read anew from its first row to its last, the longest
// unread first: what no event and no balance shows is found by nothing else.
// The reads are syncs of the swept class, so that live work goes first. When a
// history was read last is in the database, so there is nothing to resume.
type Scrub struct {
	store ScrubStore
	queue Queue
	o     ScrubOptions
}

// NewScrub returns a Scrub.
func NewScrub(store ScrubStore, queue Queue, o ScrubOptions) *Scrub {
	if o.Period <= 0 {
		o.Period = 720 * time.Hour
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Scrub{store: store, queue: queue, o: o}
}

// scrubState is what the scrub keeps between looks.
type scrubState struct {
	// Owed is the part of a history that is due and not asked for yet.
	Owed float64 `json:"owed"`
	// Looked is when it was last reckoned.
	Looked time.Time `json:"looked"`
	// Urgent: all histories not read since are due now, whatever the period.
	Urgent time.Time `json:"urgent,omitzero"`
	// After is the customer after whom a report goes on, and Begun when it began with
	// the first one: a report does not note when a history was read.
	After string    `json:"after,omitempty"`
	Begun time.Time `json:"begun,omitzero"`
	// Unread is how many customers it could not compare since then.
	Unread int `json:"unread,omitempty"`
}

// readable are those of the wanted ledgers that the key may read.
func readable(ctx context.Context, store Checkpoints, account string, wanted mirror.Ledgers) (mirror.Ledgers, error) {
	limits, err := ReadLimits(ctx, store, account)
	return limits.Ledgers(wanted), err
}

// Urge makes every history due that was not read since t: after a gap that the
// events sweep cannot close.
func (s *Scrub) Urge(ctx context.Context, account string, t time.Time) error {
	sweep, err := s.store.Sweep(ctx, account, SweepScrub)
	if err != nil {
		return err
	}
	var st scrubState
	_ = json.Unmarshal(sweep.State, &st) //nolint:errcheck // an unreadable state begins anew
	st.Urgent, st.After, st.Begun = t.UTC(), "", time.Time{}
	return s.save(ctx, sweep, st)
}

func (s *Scrub) save(ctx context.Context, sweep mirror.Sweep, st scrubState) (err error) {
	if sweep.State, err = json.Marshal(st); err != nil {
		return err
	}
	return s.store.SaveSweep(ctx, sweep)
}

// Reports reports whether the scrub only reports: then a step makes calls.
func (s *Scrub) Reports() bool { return s.o.Report != nil }

// Step asks for the full reads that have come due since the last step, spread
// evenly over the period, and returns how many; a scrub that only reports makes them,
// and returns what was found and was not open before.
func (s *Scrub) Step(ctx context.Context, account string) (histories int, opened map[mirror.DriftKind]int, err error) {
	sweep, err := s.store.Sweep(ctx, account, SweepScrub)
	if err != nil {
		return 0, nil, err
	}
	now := s.o.Now().UTC()
	var st scrubState
	if json.Unmarshal(sweep.State, &st) != nil || st.Looked.IsZero() {
		st = scrubState{Looked: now, Urgent: st.Urgent}
		sweep.StartedAt = now
	}
	ledgers, err := readable(ctx, s.store, account, s.o.Ledgers)
	if err != nil {
		return 0, nil, err
	}
	total, err := s.store.FullReadCount(ctx, account, ledgers)
	if err != nil {
		return 0, nil, err
	}
	// A pause of the process is made up for, but not in one go.
	elapsed := min(now.Sub(st.Looked), s.o.Period/24)
	st.Owed = min(st.Owed+max(elapsed.Seconds(), 0)/s.o.Period.Seconds()*float64(total), float64(total))
	st.Looked = now

	if s.Reports() {
		return s.report(ctx, account, sweep, st)
	}
	asked := 0
	if st.Owed >= 1 {
		if asked, err = s.ask(ctx, account, now, min(int(st.Owed), scrubBatch)); err != nil {
			return 0, nil, err
		}
		st.Owed -= float64(asked)
	}
	if !st.Urgent.IsZero() {
		n, left, _, err := s.pass(ctx, account, st.Urgent)
		if err != nil {
			return asked, nil, err
		}
		if asked += n; left == 0 {
			st.Urgent = time.Time{}
		}
	}
	failpoint.Hit("scrub.asked")
	overdue, err := s.store.FullReads(ctx, account, ledgers, now.Add(-time.Duration((1+scrubSlack)*float64(s.o.Period))), 1)
	if err != nil {
		return asked, nil, err
	}
	if len(overdue) == 0 {
		sweep.LastSuccess, sweep.Watermark = now, now.Add(-s.o.Period)
	}
	return asked, nil, s.save(ctx, sweep, st)
}

// report compares the customers that have come due. A step that broke off reads
// its customers again.
func (s *Scrub) report(ctx context.Context, account string, sweep mirror.Sweep, st scrubState) (int, map[mirror.DriftKind]int, error) {
	limit := min(int(st.Owed), scrubBatch)
	if !st.Urgent.IsZero() {
		limit = scrubBatch
	}
	if limit == 0 {
		return 0, nil, s.save(ctx, sweep, st)
	}
	if st.After == "" {
		st.Begun, st.Unread = s.o.Now().UTC(), 0
	}
	reported, err := s.o.Report.Run(ctx, account, st.After, limit, nil)
	if err != nil {
		return reported.Histories, reported.Opened, err
	}
	// Who was asked for in vain counts too: otherwise all that is behind would be due at once.
	st.Owed = max(st.Owed-float64(reported.Histories+reported.Unread), 0)
	st.Unread += reported.Unread
	if st.After = reported.Last; st.After == "" { // all were asked for
		if st.Unread == 0 {
			sweep.Watermark, sweep.LastSuccess = st.Begun, s.o.Now().UTC()
		}
		if !st.Begun.Before(st.Urgent) {
			st.Urgent = time.Time{}
		}
	}
	sweep.LastFound = int64(len(reported.Findings))
	return reported.Histories, reported.Opened, s.save(ctx, sweep, st)
}

// ask marks up to n histories that were not read since before, and returns how many.
func (s *Scrub) ask(ctx context.Context, account string, before time.Time, n int) (int, error) {
	backlog, err := s.queue.Backlog(ctx)
	if err != nil || backlog >= scrubBacklog {
		return 0, err
	}
	stuck, err := s.stuck(ctx, account, before)
	if err != nil {
		return 0, err
	}
	ledgers, err := readable(ctx, s.store, account, s.o.Ledgers)
	if err != nil {
		return 0, err
	}
	// Those asked for earlier may still wait at the front of the list.
	list, err := s.store.FullReads(ctx, account, ledgers, before, n+backlog+stuck.count()+scrubBatch)
	if err != nil {
		return 0, err
	}
	targets := make([]mirror.Target, len(list))
	for i, f := range list {
		targets[i] = f.Target
	}
	queued, err := s.queue.Queued(ctx, targets)
	if err != nil {
		return 0, err
	}
	due := targets[:0]
	for i, t := range targets {
		// One in the queue that was asked for is read in full when its turn comes.
		if stuck.has(list[i]) || queued[i] && list[i].Requested {
			continue
		}
		if due = append(due, t); len(due) == n {
			break
		}
	}
	if len(due) == 0 {
		return 0, nil
	}
	if err := s.store.RequestFullRead(ctx, due); err != nil {
		return 0, err
	}
	failpoint.Hit("scrub.requested")
	return len(due), s.queue.MarkSwept(ctx, due)
}

// pass asks for a batch of histories not read since before, and returns how many
// are left that can be read, and how many that cannot.
func (s *Scrub) pass(ctx context.Context, account string, before time.Time) (asked, left, unread int, err error) {
	if asked, err = s.ask(ctx, account, before, scrubBatch); err != nil {
		return 0, 0, 0, err
	}
	stuck, err := s.stuck(ctx, account, before)
	if err != nil {
		return asked, 0, 0, err
	}
	ledgers, err := readable(ctx, s.store, account, s.o.Ledgers)
	if err != nil {
		return asked, 0, 0, err
	}
	list, err := s.store.FullReads(ctx, account, ledgers, before, stuck.count()+1)
	for _, f := range list {
		if stuck.has(f) {
			unread++
		} else {
			left++
		}
	}
	return asked, left, unread, err
}

// stuckReads are the histories that cannot be read: those with a dead letter, and
// those that were asked for and whose reply was refused. The latter are tried again
// by themselves, and what they contradict is a finding.
type stuckReads struct{ dead, refused map[mirror.Target]bool }

func (s stuckReads) count() int { return len(s.dead) + len(s.refused) }

// has reports whether a history is still unread. One that was not asked for was read in
// part when its reply was refused, which says nothing of the rest.
func (s stuckReads) has(f mirror.FullRead) bool {
	return s.dead[f.Target] || s.refused[f.Target] && f.Requested
}

func (s *Scrub) stuck(ctx context.Context, account string, since time.Time) (stuckReads, error) {
	dead, err := deadTargets(ctx, s.store)
	if err != nil {
		return stuckReads{}, err
	}
	stuck := stuckReads{dead: dead, refused: map[mirror.Target]bool{}}
	refused, err := s.store.Refused(ctx, account, since)
	for _, t := range refused {
		stuck.refused[t] = true
	}
	return stuck, err
}

// Passed is what a pass of a Scrub did.
type Passed struct {
	// Read are the histories read, and Unread those that could not be.
	Read, Unread int
}

// Pass reads every history once, now, and returns when all have been read that
// can be: it does not wait for further tries of a reply that was refused. progress
// is called for each batch.
func (s *Scrub) Pass(ctx context.Context, account string, progress func(asked int)) (Passed, error) {
	begun := s.o.Now().UTC()
	var passed Passed
	for {
		asked, left, unread, err := s.pass(ctx, account, begun)
		if err != nil {
			return passed, err
		}
		if asked > 0 {
			progress(asked)
		}
		if passed.Unread = unread; left == 0 {
			break
		}
		if err := backoff.Sleep(ctx, 100*time.Millisecond); err != nil {
			return passed, err
		}
	}
	ledgers, err := readable(ctx, s.store, account, s.o.Ledgers)
	if err != nil {
		return passed, err
	}
	total, err := s.store.FullReadCount(ctx, account, ledgers)
	if err != nil {
		return passed, err
	}
	passed.Read = int(total) - passed.Unread
	sweep, err := s.store.Sweep(ctx, account, SweepScrub)
	if err != nil {
		return passed, err
	}
	sweep.StartedAt, sweep.Watermark, sweep.LastSuccess = begun, begun, s.o.Now().UTC()
	return passed, s.store.SaveSweep(ctx, sweep)
}
