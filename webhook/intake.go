package webhook

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/tracing"
)

// intake makes events durable, many in one go. Whatever waits when a committer is
// free becomes its batch: alone at low load and without delay, up to maxBatch
// per transaction and round trip at high load.
type intake struct {
	queue    Queue
	inbox    Inbox // nil: off
	timeout  time.Duration
	maxBatch int
	waiting  chan *pending
	log      *zap.Logger
}

// pending is an event whose request waits for the verdict.
type pending struct {
	event   mirror.Event
	targets []mirror.Target
	span    trace.Span
	verdict chan verdict // has room for one: no committer waits for a caller
	// gone: the caller has answered 503. The event need not be stored any more,
	// though it does no harm.
	gone atomic.Bool
}

// verdict is an answer and, for the log, what led to it.
type verdict struct {
	answer
	err error
}

var (
	errTimeout  = errors.New("no answer in time")
	errStopping = errors.New("the receiver stops")
	errFull     = errors.New("too many events wait")
)

// submit waits for the event's verdict, but no longer than the timeout. It does
// not watch the request's context: the wait is short, and an event whose sender
// hangs up is as good as any other.
func (in *intake) submit(e mirror.Event, targets []mirror.Target, span trace.Span) verdict {
	failpoint.Hit("receiver.verified")
	p := &pending{event: e, targets: targets, span: span, verdict: make(chan verdict, 1)}
	select {
	case in.waiting <- p:
	default:
		return verdict{answerOverload, errFull}
	}
	timer := time.NewTimer(in.timeout)
	defer timer.Stop()
	select {
	case v := <-p.verdict:
		return v
	case <-timer.C:
		p.gone.Store(true)
		return verdict{answerTimeout, errTimeout}
	}
}

// run is a committer. When ctx ends, whatever waits is refused.
func (in *intake) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			for {
				select {
				case p := <-in.waiting:
					p.verdict <- verdict{answerStopping, errStopping}
				default:
					return
				}
			}
		case p := <-in.waiting:
			in.commit(ctx, in.collect(p))
		}
	}
}

// collect adds to the first whatever else waits, leaving out callers that gave up.
func (in *intake) collect(first *pending) []*pending {
	var batch []*pending
	for p := first; ; {
		if !p.gone.Load() {
			batch = append(batch, p)
		}
		if len(batch) == in.maxBatch {
			return batch
		}
		select {
		case p = <-in.waiting:
		default:
			return batch
		}
	}
}

// maxFailures is how many failing calls one batch may cost. A single bad event
// among 256 is found in nine; an outage must not be answered with hundreds.
const maxFailures = 12

// commit settles a batch. No caller's context is part of it, so no caller that
// goes away can break it for the others.
func (in *intake) commit(ctx context.Context, batch []*pending) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, in.timeout)
	defer cancel()
	b := batchRun{in: in}
	failpoint.Hit("receiver.collected")
	b.settle(ctx, batch)
}

// batchRun is the settling of one batch.
type batchRun struct {
	in       *intake
	failures int
	last     verdict // of the last failure
}

// settle stores the batch and answers all in it. A batch that fails is halved
// and tried again, so that one event that the inbox or the queue cannot take
// does not keep out those that came with it. That is safe because both steps may
// be repeated.
func (b *batchRun) settle(ctx context.Context, batch []*pending) {
	if b.failures > 0 && (b.failures == maxFailures || ctx.Err() != nil) {
		for _, p := range batch {
			p.verdict <- b.last
		}
		return
	}
	answers, fail := b.in.store(ctx, batch)
	if fail.err == nil {
		for i, p := range batch {
			p.verdict <- verdict{answer: answers[i]}
		}
		return
	}
	b.failures++
	b.last = fail
	if len(batch) == 1 {
		batch[0].verdict <- fail
		return
	}
	half := len(batch) / 2
	b.settle(ctx, batch[:half])
	b.settle(ctx, batch[half:])
}

// eventKey is what makes two deliveries the same event.
type eventKey struct{ account, id string }

// store does the steps that make a 200 true: first the inbox, then the mark. It
// returns an answer for each event of the batch, or the one failure of all.
func (in *intake) store(ctx context.Context, batch []*pending) (answers []answer, fail verdict) {
	defer func() {
		if p := recover(); p != nil {
			answers, fail = nil, panicked(in.log, p)
		}
	}()
	// One event delivered twice at once is recorded once.
	first := make(map[eventKey]int, len(batch)) // place in events
	events := make([]mirror.Event, 0, len(batch))
	place := make([]int, len(batch))
	repeated := make([]bool, len(batch))
	for i, p := range batch {
		key := eventKey{p.event.Account, p.event.ID}
		at, seen := first[key]
		if !seen {
			at = len(events)
			first[key] = at
			events = append(events, p.event)
		}
		place[i], repeated[i] = at, seen
	}

	receipts := make([]mirror.Receipt, len(events)) // ReceiptNew, where the inbox is off
	if in.inbox != nil {
		var err error
		if receipts, err = in.inbox.RecordEvents(ctx, events); err == nil && len(receipts) != len(events) {
			err = fmt.Errorf("%d receipts for %d events", len(receipts), len(events))
		}
		if err != nil {
			return nil, verdict{answerInboxError, fmt.Errorf("record events: %w", err)}
		}
		failpoint.Hit("receiver.recorded")
		reached(batch, "recorded in the inbox")
	}

	// Not only new events are marked: of a pending one nobody knows whether its
	// first mark arrived. And a delivery whose id was in the batch already, but
	// with other content, gets its own targets marked all the same.
	marked := make(map[markingKey]int, len(batch)) // place in markings
	var markings []Marking
	for i, p := range batch {
		if receipts[place[i]] == mirror.ReceiptApplied {
			continue
		}
		for _, t := range p.targets {
			key := markingKeyOf(p.event, t)
			if _, ok := marked[key]; !ok {
				marked[key] = len(markings)
				ref := p.event.Ref()
				ref.Trace = tracing.Traceparent(p.span) // of one delivery, if there are several
				markings = append(markings, Marking{Target: t, Event: ref})
			}
		}
	}
	var coalesced []bool
	if len(markings) > 0 {
		var err error
		if coalesced, err = in.queue.Mark(ctx, markings); err == nil && len(coalesced) != len(markings) {
			err = fmt.Errorf("%d answers for %d markings", len(coalesced), len(markings))
		}
		if err != nil {
			return nil, verdict{answerQueueError, fmt.Errorf("mark targets: %w", err)}
		}
		failpoint.Hit("receiver.marked")
		reached(batch, "marked in the queue")
	}

	answers = make([]answer, len(batch))
	for i, p := range batch {
		if repeated[i] || receipts[place[i]] == mirror.ReceiptApplied {
			answers[i] = answerDuplicate
			continue
		}
		answers[i] = answerCoalesced
		for _, t := range p.targets {
			if !coalesced[marked[markingKeyOf(p.event, t)]] {
				answers[i] = answerQueued
			}
		}
	}
	return answers, verdict{}
}

// markingKey is what makes two markings the same: all but the trace. (It is no larger
// than what a map keeps in place.)
type markingKey struct {
	target           mirror.Target
	id, object, kind string
	created          time.Time
}

func markingKeyOf(e mirror.Event, t mirror.Target) markingKey {
	return markingKey{target: t, id: e.ID, object: e.Object, kind: e.Type, created: e.Created}
}

// panicked makes the verdict of a recovered panic. Only the runtime's own text is
// repeated: any other value might hold part of a payload.
func panicked(log *zap.Logger, p any) verdict {
	err := fmt.Errorf("panic: %T", p)
	if own, ok := p.(runtime.Error); ok {
		err = fmt.Errorf("panic: %w", own)
	}
	log.Error("panic in the receiver", zap.String("outcome", answerPanic.word), zap.Error(err), zap.StackSkip("stack", 1))
	return verdict{answerPanic, err}
}
