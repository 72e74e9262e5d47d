package worker

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/tracing"
)

// traced runs a sync in a span: in the trace of the webhook that asked for it
// first, and linked to those of the others.
func (s *Syncer) traced(ctx context.Context, t mirror.Target, refs []mirror.EventRef, sync func(context.Context) (Result, error)) (Result, error) {
	if s.o.Tracer == nil {
		return sync(ctx)
	}
	var from []string
	for _, r := range refs {
		if r.Trace != "" {
			from = append(from, r.Trace)
		}
	}
	ctx, span := tracing.StartFrom(ctx, s.o.Tracer, "sync "+string(t.Scope), trace.SpanKindConsumer, from)
	if span.IsRecording() {
		span.SetAttributes(targetOf(t)...)
		span.SetAttributes(tracing.Events.Int(len(refs)))
	}
	outcome := "panic" // unless it returns
	defer func() {
		if span.IsRecording() {
			span.SetAttributes(tracing.Outcome.String(outcome))
			if outcome != judge(nil).outcome {
				tracing.Fail(span, outcome)
			}
		}
		span.End()
	}()
	r, err := sync(ctx)
	outcome = judge(err).outcome
	if span.IsRecording() {
		span.SetAttributes(tracing.Inserted.Int(r.Inserted), tracing.Updated.Int(r.Updated))
	}
	return r, err
}

func targetOf(t mirror.Target) []attribute.KeyValue {
	return []attribute.KeyValue{tracing.Account.String(t.Account), tracing.Customer.String(t.ID), tracing.Scope.String(string(t.Scope))}
}

// tracedStore makes a span for each write of a sync.
type tracedStore struct {
	Store
	tracer trace.Tracer
}

// write runs one of them.
func write[T any](ctx context.Context, tracer trace.Tracer, name string, do func(ctx context.Context) (T, error)) (T, error) {
	ctx, span := tracing.Start(ctx, tracer, "mirror "+name, trace.SpanKindInternal)
	defer func() { span.End() }() // also of a panic, whose value stays out of it
	out, err := do(ctx)
	if err != nil {
		tracing.Fail(span, judge(stored(err)).outcome)
	}
	return out, err
}

func (s tracedStore) BeginSync(ctx context.Context, t mirror.Target) (mirror.SyncState, error) {
	return write(ctx, s.tracer, "begin_sync", func(ctx context.Context) (mirror.SyncState, error) { return s.Store.BeginSync(ctx, t) })
}

func (s tracedStore) ApplyBalance(ctx context.Context, snapshot mirror.BalanceSnapshot) (mirror.Applied, error) {
	return write(ctx, s.tracer, "apply_balance", func(ctx context.Context) (mirror.Applied, error) { return s.Store.ApplyBalance(ctx, snapshot) })
}

func (s tracedStore) ApplyCredits(ctx context.Context, snapshot mirror.CreditsSnapshot) (mirror.Applied, error) {
	return write(ctx, s.tracer, "apply_credits", func(ctx context.Context) (mirror.Applied, error) { return s.Store.ApplyCredits(ctx, snapshot) })
}

func (s tracedStore) ApplyTombstone(ctx context.Context, tombstone mirror.Tombstone) (mirror.Applied, error) {
	return write(ctx, s.tracer, "apply_tombstone", func(ctx context.Context) (mirror.Applied, error) {
		return s.Store.ApplyTombstone(ctx, tombstone)
	})
}

func (s tracedStore) Refuse(ctx context.Context, refusal mirror.Refusal) ([]mirror.Finding, error) {
	return write(ctx, s.tracer, "refuse", func(ctx context.Context) ([]mirror.Finding, error) { return s.Store.Refuse(ctx, refusal) })
}

func (s tracedStore) InsertGrants(ctx context.Context, account string, page []mirror.CreditGrant) (int, error) {
	return write(ctx, s.tracer, "insert_grants", func(ctx context.Context) (int, error) { return s.Store.InsertGrants(ctx, account, page) })
}

func (s tracedStore) ResolveEvents(ctx context.Context, question mirror.Target, targets []mirror.Target) error {
	_, err := write(ctx, s.tracer, "resolve_events", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.Store.ResolveEvents(ctx, question, targets)
	})
	return err
}
