package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

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
	// eventGrace leaves events alone whose webhook may still be on its way: they are
	// seen again in the overlap of the next pass.
	eventGrace = 2 * time.Second
	// syncMargin is how much later than an event a sync must have begun so that it
	// answered the event whatever the difference of the two clocks.
	syncMargin = 5 * time.Second
)

// EventsOptions tune an EventsSweep.
type EventsOptions struct {
	// Inbox tells whether events are recorded in the mirror's database before they
	// are marked. Without it, an event counts as applied once a later sync of its
	// target has been committed.
	Inbox func() bool
	// Repair tells whether what was missed is marked; false only records it.
	// Defaults to true where nil.
	Repair *bool
	// DryRun writes nothing: neither findings nor marks nor the watermark.
	DryRun bool
	// Livemode of the API key: events of the other mode are passed over.
	Livemode bool
	// Progress, where set, is told of each page.
	Progress func()
	Log      *zap.Logger
	Now      func() time.Time
}

// EventsSweep marks what Stripe's list of events has and the mirror never applied.
type EventsSweep struct {
	stripe Stripe
	store  Store
	queue  Queue
	o      EventsOptions
}

// NewEventsSweep returns an EventsSweep.
func NewEventsSweep(stripe Stripe, store Store, queue Queue, o EventsOptions) *EventsSweep {
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

// EventsResult tells what a pass saw.
type EventsResult struct {
	// Seen events of interest, and those of them that were Missed and are marked now.
	Seen, Missed int
	// Unbrought are the events that no webhook had brought when they were seen. With
	// the inbox off only those are known that were missed, too.
	Unbrought []mirror.Event
	// Findings are the differences met, and Opened how many of them were new.
	Findings []mirror.Finding
	Opened   map[mirror.DriftKind]int
	// Beyond tells that the watermark is older than Stripe's list reaches back: the
	// events before From are lost, and only a comparison of balances finds what
	// they changed.
	Beyond bool
	From   time.Time
}

// eventsCheckpoint is how far a pass got; the list is read newest first.
type eventsCheckpoint struct {
	From  time.Time `json:"from"`
	Begun time.Time `json:"begun"`
	After string    `json:"after"`
	// Newest is the created time of the newest event listed, by Stripe's clock.
	Newest time.Time `json:"newest"`
	// Cause is what the pass puts missed events down to.
	Cause string `json:"cause,omitempty"`
}

// watermark is the time up to which a finished pass has seen everything: Stripe's
// own, of the newest event. Without one our clock tells, less its tolerance.
func (c eventsCheckpoint) watermark(before time.Time) time.Time {
	mark := c.Begun.Add(-clockTolerance)
	for _, t := range []time.Time{before, c.Newest} {
		if t.After(mark) {
			mark = t
		}
	}
	return mark
}

// Rewind makes the next pass begin an hour before the watermark, for a Redis that
// forgot. It is durable, so that the pass may fail, wait for a refused key, or
// go on after a crash.
func (s *EventsSweep) Rewind(ctx context.Context, account string) error {
	sweep, err := s.store.Sweep(ctx, account, SweepEvents)
	if err != nil || sweep.Watermark.IsZero() {
		return err
	}
	if sweep.State, err = json.Marshal(eventsCheckpoint{Cause: mirror.CauseLostRedis}); err != nil {
		return err
	}
	sweep.Watermark = sweep.Watermark.Add(-rewindOverlap)
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
	result := EventsResult{From: point.From}
	if horizon := s.o.Now().Add(-eventHorizon); point.From.Before(horizon) {
		result.Beyond = true
		s.o.Log.Warn("the last pass over events is older than Stripe's list can be trusted to reach; run the balances sweep",
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
			if e.Created.After(point.Newest) {
				point.Newest = e.Created
			}
		}
		if err := s.apply(ctx, account, page, point.Cause, &result); err != nil {
			return result, err
		}
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
	sweep.State = nil
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

// checkpoint tells where a pass begins: where an earlier one broke off, or at the
// watermark less the overlap.
func (s *EventsSweep) checkpoint(sweep mirror.Sweep) (point eventsCheckpoint, resumed bool) {
	now := s.o.Now().UTC()
	if len(sweep.State) > 0 && json.Unmarshal(sweep.State, &point) == nil && point.After != "" {
		return point, true
	}
	from := sweep.Watermark
	if from.IsZero() {
		from = now.Add(-clockTolerance)
	}
	cause := mirror.CauseMissedEvent
	if point.Cause != "" {
		cause = point.Cause
	}
	return eventsCheckpoint{From: from.Add(-eventOverlap), Begun: now, Cause: cause}, false
}

// apply marks the events of a page that were missed.
func (s *EventsSweep) apply(ctx context.Context, account string, page stripeapi.EventsPage, cause string, result *EventsResult) error {
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
	var ids []string
	for _, e := range page.Events {
		if e.Livemode == s.o.Livemode && mirror.Interesting(e.Type) && now.Sub(e.Created) >= eventGrace {
			e.Account = account // the list is the account's; only Connect deliveries say so in the event
			events = append(events, e)
			ids = append(ids, e.ID)
		}
	}
	if len(events) == 0 {
		return nil
	}
	result.Seen += len(events)
	receipts, err := s.store.EventReceipts(ctx, account, ids)
	if err != nil {
		return err
	}
	missed, unsure, err := s.missed(ctx, events, receipts)
	if s.o.Inbox() {
		for i, e := range events {
			if receipts[i] == mirror.ReceiptNew && len(e.Targets()) > 0 { // without any it is not recorded when it arrives
				result.Unbrought = append(result.Unbrought, e)
			}
		}
	} else {
		result.Unbrought = append(result.Unbrought, missed...)
	}
	again := append(slices.Clone(missed), unsure...)
	if err != nil || len(again) == 0 {
		return err
	}
	result.Missed += len(missed)
	if err := s.record(ctx, account, missed, cause, result); err != nil || !repairs(s.o.Repair, s.o.DryRun) {
		return err
	}
	if s.o.Inbox() {
		if _, err := s.store.RecordEvents(ctx, again); err != nil {
			return err
		}
	}
	failpoint.Hit("events.recorded")
	var marks []Mark
	for _, e := range again {
		for _, t := range e.Targets() {
			marks = append(marks, Mark{Target: t, Event: e.Ref()})
		}
	}
	for _, e := range missed {
		s.o.Log.Debug("missed event", zap.String("event_id", e.ID), zap.String("event_type", e.Type), zap.String("account", account))
	}
	return s.queue.MarkLive(ctx, marks)
}

// record opens a finding for each missed event, before anything is marked: the
// sync that answers the event closes it.
func (s *EventsSweep) record(ctx context.Context, account string, missed []mirror.Event, cause string, result *EventsResult) error {
	now := s.o.Now()
	var list []mirror.Finding
	for _, e := range missed {
		targets, err := s.ledgerTargets(ctx, e)
		if err != nil {
			return err
		}
		f := mirror.Finding{
			Kind: mirror.DriftMissedEvent, Account: account, Scope: mirror.ScopeBalance, Object: e.ID,
			Expected: e.Type, Cause: cause, FoundAt: now,
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

// missed leaves out the events that were applied, those whose targets wait, are
// in work or have a dead letter, and those whose targets were synced well after them.
//
// Of those whose targets wait or are in work, it returns the ones that no webhook
// brought in unsure: a sync that runs may have read Stripe before the event.
func (s *EventsSweep) missed(ctx context.Context, events []mirror.Event, receipts []mirror.Receipt) (missed, unsure []mirror.Event, err error) {
	type suspect struct {
		event   mirror.Event
		ledgers []mirror.Target
		unknown bool // no webhook brought it
	}
	var suspects []suspect
	var targets []mirror.Target
	for i, e := range events {
		if receipts[i] == mirror.ReceiptApplied {
			continue
		}
		ledgers, err := s.ledgerTargets(ctx, e)
		if err != nil {
			return nil, nil, err
		}
		suspects = append(suspects, suspect{e, ledgers, receipts[i] == mirror.ReceiptNew})
		targets = append(append(targets, ledgers...), e.Targets()...)
	}
	if len(targets) == 0 {
		return nil, nil, nil
	}
	queued, err := s.queue.Queued(ctx, targets)
	if err != nil {
		return nil, nil, err
	}
	observed, err := s.store.ObservedAt(ctx, targets)
	if err != nil {
		return nil, nil, err
	}
	dead, err := deadTargets(ctx, s.store)
	if err != nil {
		return nil, nil, err
	}
	syncedAt, waiting := map[mirror.Target]time.Time{}, map[mirror.Target]bool{}
	for i, t := range targets {
		syncedAt[t], waiting[t] = observed[i], queued[i]
	}
	for _, sus := range suspects {
		// A question that waits will lead to the ledger.
		if slices.ContainsFunc(sus.event.Targets(), func(t mirror.Target) bool { return waiting[t] }) {
			if sus.unknown {
				unsure = append(unsure, sus.event)
			}
			continue
		}
		unanswered := func(t mirror.Target) bool {
			// With the inbox on, answered events are known by name. Without, time has to do.
			return !waiting[t] && !dead[t] && (s.o.Inbox() || syncedAt[t].Before(sus.event.Created.Add(syncMargin)))
		}
		switch {
		case slices.ContainsFunc(sus.ledgers, unanswered):
			missed = append(missed, sus.event)
		case sus.unknown && slices.ContainsFunc(sus.ledgers, func(t mirror.Target) bool { return waiting[t] }):
			unsure = append(unsure, sus.event)
		}
	}
	return missed, unsure, nil
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
