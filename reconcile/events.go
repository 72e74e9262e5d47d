package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// Names of the sweeps in the table of the same name.
const (
	SweepEvents   = "events"
	SweepBackfill = "backfill"
)

const (
	// eventOverlap is read again behind the watermark at each pass, for events that
	// came to be listed late.
	eventOverlap = time.Minute
	// rewindOverlap is how far the watermark goes back after a lost or rewound
	// Redis: what was seen and marked since may have been forgotten.
	rewindOverlap = time.Hour
	// clockTolerance is how far the watermark stays behind our own clock where
	// Stripe's is not known: signatures allow the two to differ by half of it.
	clockTolerance = 10 * time.Minute
	// eventHorizon is how far back events can be trusted to be listed; Stripe keeps
	// them for 30 days.
	eventHorizon = 25 * 24 * time.Hour
	// eventGrace leaves events alone whose webhook may still be on its way: Again
	// looks at them once it is over.
	eventGrace = 2 * time.Second
	// syncMargin is how much later than an event a sync must have begun so that it
	// answered the event whatever the difference of the two clocks.
	syncMargin = 5 * time.Second
)

// EventsStore is what the events sweep needs of the mirror.
type EventsStore interface {
	Checkpoints
	findings
	letterbox
	letters
	RecordEvents(ctx context.Context, events []mirror.Event) ([]mirror.Receipt, error)
	EventReceipts(ctx context.Context, account string, ids []string) ([]mirror.Receipt, error)
	ObservedAt(ctx context.Context, targets []mirror.Target) ([]time.Time, error)
	GrantOwner(ctx context.Context, account, grant string) (string, error)
}

// EventsOptions tune an EventsSweep.
type EventsOptions struct {
	// Inbox reports whether events are recorded in the mirror's database before they
	// are marked. Without it, an event counts as applied once a later sync of its
	// target has been committed.
	Inbox func() bool
	// Repair reports whether what was missed is marked; false only records it.
	// Defaults to true where nil.
	Repair *bool
	// DryRun writes nothing: neither findings nor marks nor the watermark.
	DryRun bool
	// TellAway makes findings, with a cause of their own, of the events whose webhooks
	// failed because no receiver ran. Without it they are marked and no more is said:
	// Stripe delivers them again.
	TellAway bool
	// Ledgers are those that are mirrored.
	Ledgers mirror.Ledgers
	// Lost, where set, is asked before missed events are reported: whether the database has
	// lost what was written to it, and nobody has marked it again yet.
	Lost func(ctx context.Context) (bool, error)
	// Livemode of the API key: events of the other mode are passed over.
	Livemode bool
	// Progress, where set, is called for each page.
	Progress func()
	Log      *zap.Logger
	Now      func() time.Time
}

// EventsSweep marks what Stripe's list of events has and the mirror never applied.
type EventsSweep struct {
	stripe Stripe
	store  EventsStore
	queue  Queue
	o      EventsOptions
}

// NewEventsSweep returns an EventsSweep.
func NewEventsSweep(stripe Stripe, store EventsStore, queue Queue, o EventsOptions) *EventsSweep {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Inbox == nil {
		o.Inbox = func() bool { return true }
	}
	return &EventsSweep{stripe: stripe, store: store, queue: queue, o: o}
}

// EventsResult is what a pass saw.
type EventsResult struct {
	// Seen events of interest, and those of them that were Missed. Those, like Late and
	// Remarked, count once they are marked, or at once where the sweep must not repair.
	Seen, Missed int
	// Unmarked are those of the Missed that the inbox has taken and whose mark failed. It
	// is made again, and no later pass finds them missed.
	Unmarked int
	// Late are events that no webhook had brought either, and that are no fault of
	// any: see Late. They are marked as those missed are.
	Late int
	// Remarked are targets of events that a webhook had brought, and whose mark was lost or
	// never made. They are marked now, and are no difference: nothing was missed.
	Remarked int
	// Left are events whose webhook may still be on its way, for Again, and Wait is
	// how long that has to wait.
	Left []mirror.Event
	Wait time.Duration
	// Unbrought are the events that no webhook had brought when they were seen. With
	// the inbox off only those are known that were missed, too.
	Unbrought []mirror.Event
	// Findings are the differences met, and Opened how many of them were new.
	Findings []mirror.Finding
	Opened   map[mirror.DriftKind]int
	// Beyond means that the watermark is older than Stripe's list reaches back: the
	// events before From are lost, and only a comparison of balances finds what
	// they changed.
	Beyond bool
	From   time.Time

	blame blame
}

// add puts the result of another look to this one.
func (r *EventsResult) add(other EventsResult) {
	r.Seen += other.Seen
	r.Missed += other.Missed
	r.Unmarked += other.Unmarked
	r.Late += other.Late
	r.Remarked += other.Remarked
	r.Unbrought = append(r.Unbrought, other.Unbrought...)
	r.Findings = append(r.Findings, other.Findings...)
	for kind, n := range other.Opened {
		if r.Opened == nil {
			r.Opened = map[mirror.DriftKind]int{}
		}
		r.Opened[kind] += n
	}
	r.Left, r.Wait = nil, 0
}

// eventsCheckpoint is how far a pass got; the list is read newest first.
type eventsCheckpoint struct {
	From  time.Time `json:"from"`
	Begun time.Time `json:"begun"`
	After string    `json:"after"`
	// Newest is the created time of the newest event listed, by Stripe's clock.
	Newest time.Time `json:"newest"`
	blame
	// Leaving are events that the pass leaves to their webhooks, where it has a cause of its
	// own: they keep it.
	Leaving []string `json:"leaving,omitempty"`
}

// blame says what missed events are put down to. It is kept with the checkpoint, for as
// long as there are events that it is about.
type blame struct {
	// Cause is that of the events Only, or of all events where there is no such list. Without
	// one their webhooks did not come.
	Cause string   `json:"cause,omitempty"`
	Only  []string `json:"only,omitempty"`
}

// of is the cause of one event.
func (b blame) of(e mirror.Event) string {
	if !b.special() || len(b.Only) > 0 && !slices.Contains(b.Only, e.ID) {
		return mirror.CauseMissedEvent
	}
	return b.Cause
}

// special reports whether the cause is another than a webhook that did not come.
func (b blame) special() bool { return b.Cause != "" && b.Cause != mirror.CauseMissedEvent }

// with adds the cause of a rewind to what is known. An event of which a database that was
// put back knows nothing was lost by it, whatever became of Redis.
func (b blame) with(cause string) blame {
	added := blame{Cause: cause}
	switch {
	case !added.special():
		if b.special() {
			return b
		}
	case b.Cause == mirror.CauseRewound && len(b.Only) == 0:
		return b
	}
	return added
}

// watermark is the time up to which a finished pass has seen everything: Stripe's
// own, of the newest event. Without one our own clock counts, less its tolerance, by which
// the watermark is never ahead of it either: one that lay in the future, because of one
// event that was dated there, would leave out all events until then.
func (c eventsCheckpoint) watermark(before time.Time) time.Time {
	mark := c.Begun.Add(-clockTolerance)
	for _, t := range []time.Time{before, c.Newest} {
		if t.After(mark) {
			mark = t
		}
	}
	if most := c.Begun.Add(clockTolerance); mark.After(most) {
		return most
	}
	return mark
}

// Rewind makes the next pass begin an hour before the watermark, for a Redis that
// forgot, though never before the first copy began. cause is what the pass puts
// missed events down to. It is durable, so that the pass may fail, wait for a refused
// key, or go on after a crash.
func (s *EventsSweep) Rewind(ctx context.Context, account, cause string) error {
	sweep, err := s.store.Sweep(ctx, account, SweepEvents)
	if err != nil || sweep.Watermark.IsZero() {
		return err
	}
	late, err := LateEvents(ctx, s.store, account, s.o.Now())
	if err != nil {
		return err
	}
	if sweep.State, err = json.Marshal(eventsCheckpoint{blame: blameOf(sweep).with(cause)}); err != nil {
		return err
	}
	mark := sweep.Watermark.Add(-rewindOverlap)
	if first := late.copied.Add(-clockTolerance); !late.copied.IsZero() && mark.Before(first) {
		mark = first
	}
	if mark.Before(sweep.Watermark) {
		sweep.Watermark = mark
	}
	return s.store.SaveSweep(ctx, sweep)
}

// Run makes one pass over the events of an account since the watermark, less an
// overlap of a minute. The watermark moves only when every page was read and
// everything missed is marked.
func (s *EventsSweep) Run(ctx context.Context, account string) (EventsResult, error) {
	sweep, err := s.store.Sweep(ctx, account, SweepEvents)
	if err != nil {
		return EventsResult{}, err
	}
	point, resumed := s.checkpoint(sweep)
	result := EventsResult{From: point.From, blame: point.blame}
	late, err := LateEvents(ctx, s.store, account, s.o.Now())
	if err != nil {
		return result, err
	}
	// What the key may not read cannot be brought, and is no fault of the webhooks.
	ledgers, err := readable(ctx, s.store, account, s.o.Ledgers)
	if err != nil {
		return result, err
	}
	if horizon := s.o.Now().Add(-eventHorizon); point.From.Before(horizon) {
		result.Beyond = true
		s.o.Log.Warn("last events sweep is older than stripe's event list; run the balances sweep",
			zap.String("account", account), zap.Time("watermark", sweep.Watermark))
	}
	sweep.StartedAt = point.Begun
	for pages := 0; ; pages++ {
		page, err := s.stripe.EventsPage(ctx, account, stripeapi.EventsQuery{
			Types: mirror.EventTypes(), CreatedGTE: point.From, After: point.After, Limit: 100,
		})
		if cursorGone(err) && resumed {
			// The event we stopped at has left the list: read it from the top again.
			point.After, resumed = "", false
			continue
		}
		if err != nil {
			return result, fmt.Errorf("list events of account %q: %w", account, err)
		}
		failpoint.Hit("events.listed")
		for _, e := range page.Events {
			// One that is dated far ahead proves nothing about Stripe's clock.
			if e.Created.After(point.Newest) && !e.Created.After(point.Begun.Add(clockTolerance)) {
				point.Newest = e.Created
			}
		}
		if err := s.apply(ctx, account, page, late, ledgers, &result); err != nil {
			return result, err
		}
		point.leave(result.Left)
		if !page.HasMore {
			break
		}
		point.After = page.LastID
		if sweep.State, err = json.Marshal(point); err != nil {
			return result, err
		}
		if err := s.save(ctx, sweep); err != nil {
			return result, err
		}
		if s.o.Progress != nil {
			s.o.Progress()
		}
	}
	failpoint.Hit("events.marked")
	if sweep.State, err = point.rest(); err != nil {
		return result, err
	}
	sweep.Watermark = point.watermark(sweep.Watermark)
	sweep.LastSuccess = s.o.Now()
	sweep.LastFound = int64(result.Missed)
	return result, s.save(ctx, sweep)
}

func (s *EventsSweep) save(ctx context.Context, sweep mirror.Sweep) error {
	if s.o.DryRun {
		return nil
	}
	return s.store.SaveSweep(ctx, sweep)
}

// checkpoint returns where a pass begins: where an earlier one broke off, or at the
// watermark less the overlap.
func (s *EventsSweep) checkpoint(sweep mirror.Sweep) (point eventsCheckpoint, resumed bool) {
	now := s.o.Now().UTC()
	if len(sweep.State) > 0 && json.Unmarshal(sweep.State, &point) == nil && point.After != "" {
		return point, true
	}
	from := sweep.Watermark
	if from.IsZero() || from.After(now.Add(clockTolerance)) { // of a version before, or our clock went back
		from = now.Add(-clockTolerance)
	}
	return eventsCheckpoint{From: from.Add(-eventOverlap), Begun: now, blame: blameOf(sweep)}, false
}

// blameOf is what is kept with a checkpoint.
func blameOf(sweep mirror.Sweep) blame {
	var point eventsCheckpoint
	if len(sweep.State) == 0 || json.Unmarshal(sweep.State, &point) != nil {
		return blame{}
	}
	return point.blame
}

// leave notes which events have to keep the pass's cause.
func (c *eventsCheckpoint) leave(events []mirror.Event) {
	for _, e := range events {
		if c.of(e) != mirror.CauseMissedEvent && !slices.Contains(c.Leaving, e.ID) {
			c.Leaving = append(c.Leaving, e.ID)
		}
	}
}

// rest is the checkpoint of a pass that got to the end: nothing, but for the events that it
// left. Another look at them may fail.
func (c *eventsCheckpoint) rest() ([]byte, error) {
	if len(c.Leaving) == 0 {
		return nil, nil
	}
	return json.Marshal(eventsCheckpoint{blame: blame{Cause: c.Cause, Only: c.Leaving}})
}

// Again looks at the events that a pass left to their webhooks. It makes no call to
// Stripe; the caller has waited for as long as the pass asked.
func (s *EventsSweep) Again(ctx context.Context, account string, before EventsResult) (EventsResult, error) {
	result := EventsResult{From: before.From}
	// Redis or the database may have been found put back since.
	sweep, err := s.store.Sweep(ctx, account, SweepEvents)
	if err != nil {
		return result, err
	}
	result.blame = blameOf(sweep)
	late, err := LateEvents(ctx, s.store, account, s.o.Now())
	if err != nil {
		return result, err
	}
	return result, s.settle(ctx, account, before.Left, late, &result)
}

// RunToEnd is Run and, where that left events to their webhooks, Again once they had
// their time.
func (s *EventsSweep) RunToEnd(ctx context.Context, account string) (EventsResult, error) {
	result, err := s.Run(ctx, account)
	if err != nil || len(result.Left) == 0 {
		return result, err
	}
	if err := backoff.Sleep(ctx, result.Wait); err != nil {
		return result, err
	}
	again, err := s.Again(ctx, account, result)
	result.add(again)
	return result, err
}

// apply keeps what cannot be read of a page, leaves the events whose webhook may still
// be on its way, and settles the others.
func (s *EventsSweep) apply(ctx context.Context, account string, page stripeapi.EventsPage, late Late, ledgers mirror.Ledgers, result *EventsResult) error {
	now := s.o.Now()
	for _, raw := range page.Unreadable {
		if s.o.DryRun {
			break
		}
		// Kept like an unreadable webhook, so that a person can look at it.
		err := s.store.SaveDeadLetter(ctx, mirror.DeadLetter{
			// The list does not repeat in its events whose list it is.
			ID: mirror.UnreadableID(raw), Target: mirror.Target{Account: account},
			Reason: "an event in Stripe's list cannot be read", Attempts: 1,
			Payload: raw, FirstFailedAt: now, LastFailedAt: now,
		})
		if err != nil {
			return err
		}
	}
	var events []mirror.Event
	for _, e := range page.Events {
		if e.Livemode != s.o.Livemode || !mirror.Interesting(e.Type) {
			continue
		}
		e.Account = account // the list is the account's; only Connect deliveries say so in the event
		e.Ledgers = ledgers
		if left := eventGrace - now.Sub(e.Created); left > 0 {
			result.Left = append(result.Left, e)
			// It exists already: a clock of ours that is behind adds nothing to its grace.
			result.Wait = max(result.Wait, min(left, eventGrace))
			continue
		}
		events = append(events, e)
	}
	return s.settle(ctx, account, events, late, result)
}

// settle marks those of the events that were missed.
func (s *EventsSweep) settle(ctx context.Context, account string, events []mirror.Event, late Late, result *EventsResult) error {
	if len(events) == 0 {
		return nil
	}
	result.Seen += len(events)
	sorted, err := s.sort(ctx, account, events)
	if err != nil {
		return err
	}
	result.Unbrought = append(result.Unbrought, sorted.unbrought...)
	var missed, excused, remarked int
	var findings []mirror.Event
	for _, e := range sorted.missed {
		why := late.judge(e.Created)
		if why == onTime {
			missed++
		} else {
			excused++
		}
		if why == onTime || why == whileAway && s.o.TellAway {
			findings = append(findings, e)
		}
	}
	if s.enqueues() {
		for _, e := range sorted.unmarked {
			remarked += len(e.Targets())
		}
	}
	if err := s.record(ctx, account, findings, late, result); err != nil {
		return err
	}
	recorded, err := s.mark(ctx, slices.Concat(sorted.missed, sorted.unmarked, sorted.unsure))
	if err != nil {
		if recorded {
			result.Missed += missed
			result.Unmarked += missed
		}
		return err
	}
	// Counted last: what was not even recorded is found, and counted, by the next pass.
	result.Missed += missed
	result.Late += excused
	result.Remarked += remarked
	return nil
}

// enqueues reports whether the sweep marks what it finds.
func (s *EventsSweep) enqueues() bool { return repairs(s.o.Repair, s.o.DryRun) }

// mark records and marks events, where the sweep may repair, and returns whether the inbox
// has taken them: the next pass will call them brought.
func (s *EventsSweep) mark(ctx context.Context, events []mirror.Event) (recorded bool, err error) {
	if len(events) == 0 || !s.enqueues() {
		return false, nil
	}
	if s.o.Inbox() {
		if _, err := s.store.RecordEvents(ctx, events); err != nil {
			return false, err
		}
		recorded = true
	}
	failpoint.Hit("events.recorded")
	var marks []Mark
	for _, e := range events {
		for _, t := range e.Targets() {
			marks = append(marks, Mark{Target: t, Event: e.Ref()})
		}
	}
	if err := s.queue.MarkLive(ctx, marks); err != nil {
		return recorded, err
	}
	for _, e := range events {
		s.o.Log.Debug("sweep enqueued an event's targets", zap.String("event_id", e.ID), zap.String("event_type", e.Type), zap.String("account", e.Account))
	}
	return recorded, nil
}

// record opens a finding for each missed event, before anything is marked: the
// sync that answers the event closes it.
func (s *EventsSweep) record(ctx context.Context, account string, missed []mirror.Event, late Late, result *EventsResult) error {
	if len(missed) == 0 {
		return nil
	}
	lost := false
	if s.o.Lost != nil {
		var err error
		if lost, err = s.o.Lost(ctx); err != nil {
			return err
		}
	}
	now := s.o.Now()
	var list []mirror.Finding
	for _, e := range missed {
		targets, err := s.ledgerTargets(ctx, e)
		if err != nil {
			return err
		}
		f := mirror.Finding{
			Kind: mirror.DriftMissedEvent, Account: account, Scope: mirror.ScopeBalance, Object: e.ID,
			Expected: e.Type, Cause: result.blame.of(e), FoundAt: now,
		}
		if lost {
			f.Cause = mirror.CauseRewound
		}
		if late.judge(e.Created) == whileAway {
			f.Cause = mirror.CauseAway
		}
		for _, t := range targets {
			if t.Scope == mirror.ScopeBalance || t.Scope == mirror.ScopeCredits {
				f.Customer, f.Scope = t.ID, t.Scope
				break
			}
		}
		list = append(list, f)
	}
	result.Findings = append(result.Findings, list...)
	return openAll(ctx, s.store, list, s.o.DryRun, &result.Opened)
}

// sortedEvents are the events that were not answered.
type sortedEvents struct {
	// missed wait for nothing. unsure are those that no webhook brought, and whose
	// targets wait or are in work: a sync that runs may have read Stripe before them.
	// unmarked were brought, and wait for nothing all the same: they were accepted while
	// Redis was away, or who accepted them was killed before the mark.
	missed, unsure, unmarked []mirror.Event
	// unbrought are those that no webhook had brought. Without the inbox only those
	// are known that were missed, too.
	unbrought []mirror.Event
}

// sort leaves out the events that were applied, those whose targets wait, are in work
// or have a dead letter, and those whose targets were synced well after them.
func (s *EventsSweep) sort(ctx context.Context, account string, events []mirror.Event) (sortedEvents, error) {
	open, receipts, err := s.unanswered(ctx, account, events)
	if err != nil {
		return sortedEvents{}, err
	}
	first, err := s.look(ctx, account, open)
	if err != nil || len(first.missed) == 0 {
		first.unbrought = s.unbrought(open, receipts, first)
		return first, err
	}
	// What a webhook brings at this moment is in the inbox before it is in the queue,
	// and may be answered before the queue was asked: what was missed is so twice.
	again, receipts2, err := s.unanswered(ctx, account, first.missed)
	if err != nil {
		return sortedEvents{}, err
	}
	second, err := s.look(ctx, account, again)
	if err != nil {
		return sortedEvents{}, err
	}
	before := map[string]mirror.Receipt{}
	for i, e := range open {
		before[e.ID] = receipts[i]
	}
	arrived := map[string]bool{}
	for i, e := range again {
		arrived[e.ID] = before[e.ID] != receipts2[i]
	}
	first.missed = nil
	for _, e := range second.missed {
		switch {
		case arrived[e.ID]:
		case before[e.ID] == mirror.ReceiptPending:
			first.unmarked = append(first.unmarked, e)
		default:
			first.missed = append(first.missed, e)
		}
	}
	first.unsure = append(first.unsure, second.unsure...)
	first.unbrought = s.unbrought(open, receipts, first)
	return first, nil
}

// unbrought are the events of which the inbox knew nothing.
func (s *EventsSweep) unbrought(events []mirror.Event, receipts []mirror.Receipt, sorted sortedEvents) []mirror.Event {
	if !s.o.Inbox() {
		return slices.Clone(sorted.missed)
	}
	var list []mirror.Event
	for i, e := range events {
		if receipts[i] == mirror.ReceiptNew && len(e.Targets()) > 0 { // without any it is not recorded when it arrives
			list = append(list, e)
		}
	}
	return list
}

// unanswered are the events that no sync has answered, with what is known of each.
func (s *EventsSweep) unanswered(ctx context.Context, account string, events []mirror.Event) ([]mirror.Event, []mirror.Receipt, error) {
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	receipts, err := s.store.EventReceipts(ctx, account, ids)
	if err != nil {
		return nil, nil, err
	}
	var open []mirror.Event
	var known []mirror.Receipt
	for i, e := range events {
		if receipts[i] != mirror.ReceiptApplied {
			open, known = append(open, e), append(known, receipts[i])
		}
	}
	return open, known, nil
}

// look asks what becomes of unanswered events: the queue first, and then the inbox
// once more, so that what is answered meanwhile is seen in one of them.
func (s *EventsSweep) look(ctx context.Context, account string, events []mirror.Event) (out sortedEvents, err error) {
	ledgers := map[string][]mirror.Target{}
	var targets []mirror.Target
	for _, e := range events {
		list, err := s.ledgerTargets(ctx, e)
		if err != nil {
			return out, err
		}
		ledgers[e.ID] = list
		targets = append(append(targets, list...), e.Targets()...)
	}
	if len(targets) == 0 {
		return out, nil
	}
	queued, err := s.queue.Queued(ctx, targets)
	if err != nil {
		return out, err
	}
	observed, err := s.store.ObservedAt(ctx, targets)
	if err != nil {
		return out, err
	}
	dead, err := deadTargets(ctx, s.store)
	if err != nil {
		return out, err
	}
	events, receipts, err := s.unanswered(ctx, account, events)
	if err != nil {
		return out, err
	}
	syncedAt, waiting := map[mirror.Target]time.Time{}, map[mirror.Target]bool{}
	for i, t := range targets {
		syncedAt[t], waiting[t] = observed[i], queued[i]
	}
	waits := func(t mirror.Target) bool { return waiting[t] }
	for i, e := range events {
		unknown := receipts[i] == mirror.ReceiptNew
		unanswered := func(t mirror.Target) bool {
			// With the inbox on, answered events are known by name. Without, time has to do.
			return !waiting[t] && !dead[t] && (s.o.Inbox() || syncedAt[t].Before(e.Created.Add(syncMargin)))
		}
		switch {
		case slices.ContainsFunc(e.Targets(), waits): // a question that waits will lead to the ledger
			if unknown {
				out.unsure = append(out.unsure, e)
			}
		case slices.ContainsFunc(ledgers[e.ID], unanswered):
			out.missed = append(out.missed, e)
		case unknown && slices.ContainsFunc(ledgers[e.ID], waits):
			out.unsure = append(out.unsure, e)
		}
	}
	return out, nil
}

// ledgerTargets are an event's targets with questions answered from the mirror
// where it can.
func (s *EventsSweep) ledgerTargets(ctx context.Context, e mirror.Event) ([]mirror.Target, error) {
	targets := e.Targets()
	for i, t := range targets {
		if t.Scope != mirror.ScopeGrantOwner {
			continue
		}
		customer, err := s.store.GrantOwner(ctx, t.Account, t.ID)
		switch {
		case errors.Is(err, mirror.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			targets[i] = mirror.Target{Account: t.Account, Scope: mirror.ScopeCredits, ID: customer}
		}
	}
	return targets, nil
}

func cursorGone(err error) bool {
	e, ok := errors.AsType[*stripeapi.Error](err)
	return ok && e.Code == "resource_missing" && e.Param == "starting_after"
}
