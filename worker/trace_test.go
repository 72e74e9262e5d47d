package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

func traced(t *testing.T) (*bench, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	return setup(t, SyncOptions{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")}), spans
}

// tree writes spans that ended, in order, with their parents and what is recorded of them.
func tree(spans *tracetest.SpanRecorder) (lines []string) {
	names := map[trace.SpanID]string{}
	for _, s := range spans.Started() {
		names[s.SpanContext().SpanID()] = s.Name()
	}
	for _, s := range spans.Ended() {
		line := s.Name()
		if parent := names[s.Parent().SpanID()]; parent != "" {
			line = parent + " > " + line
		}
		if s.Status().Code == codes.Error {
			line += " ! " + s.Status().Description
		}
		lines = append(lines, line)
	}
	return lines
}

func attributes(s sdktrace.ReadOnlySpan) string {
	var list []string
	for _, kv := range s.Attributes() {
		list = append(list, fmt.Sprintf("%s=%s", strings.TrimPrefix(string(kv.Key), "creditmirror."), kv.Value.String()))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestTraceOfASync(t *testing.T) {
	t.Parallel()
	b, spans := traced(t)
	b.stripe.adjust(b.stripe.add(cus), -5)
	const first, second = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"
	b.sync(t, balanceOf(cus), mirror.EventRef{ID: "evt_1", Trace: first}, mirror.EventRef{ID: "evt_2"}, mirror.EventRef{ID: "evt_3", Trace: second},
		mirror.EventRef{ID: "evt_4", Trace: "nonsense"})
	want := []string{"sync balance > mirror begin_sync", "sync balance > mirror apply_balance", "sync balance"}
	if got := tree(spans); !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	s := spans.Ended()[2]
	if s.SpanContext().TraceID().String() != first[3:35] || s.Parent().SpanID().String() != first[36:52] || !s.Parent().IsRemote() || s.SpanKind() != trace.SpanKindConsumer {
		t.Errorf("in trace %s below %v", s.SpanContext().TraceID(), s.Parent())
	}
	if links := s.Links(); len(links) != 1 || links[0].SpanContext.TraceID().String() != second[3:35] {
		t.Errorf("links %v", links)
	}
	if got := attributes(s); got != "account= customer=cus_1 events=4 outcome=ok rows.inserted=2 rows.updated=0 scope=balance" {
		t.Errorf("attributes %s", got)
	}
}

func TestTraceOfASyncBelowARequest(t *testing.T) {
	t.Parallel()
	b, spans := traced(t)
	a := b.stripe.add(cus)
	g := b.stripe.grant(a, 100, true)
	ctx, request := b.syncer.o.Tracer.Start(t.Context(), "request")
	if _, err := b.syncer.SyncGrants(ctx, creditsOf(cus), []mirror.CreditGrant{b.stripe.grants[g]}); err != nil {
		t.Fatal(err)
	}
	request.End()
	want := []string{"sync credits > mirror begin_sync", "sync credits > mirror apply_credits", "request > sync credits", "request"}
	if got := tree(spans); !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	// A question keeps the trace of its event for the sync that follows.
	const from = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	b.sync(t, mirror.Target{Scope: mirror.ScopeGrantOwner, ID: g}, mirror.EventRef{ID: "evt_1", Trace: from})
	if marks := b.marks.refs; len(marks) != 1 || marks[0].Trace != from {
		t.Fatalf("marked with %+v", marks)
	}
}

func TestTraceOfFailures(t *testing.T) {
	t.Parallel()
	b, spans := traced(t)
	b.stripe.adjust(b.stripe.add(cus), -5)
	b.flaky.before = func(call string) error {
		if call == "apply" {
			return errors.New("text with cus_1 and more")
		}
		return nil
	}
	if _, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false); err == nil {
		t.Fatal("no error")
	}
	b.flaky.before = func(string) error { return mirror.ErrFenced }
	if _, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false); !errors.Is(err, mirror.ErrFenced) {
		t.Fatal(err)
	}
	b.flaky.before = nil
	b.stripe.before = func(string) error { return failure(stripeapi.KindRateLimited) }
	if _, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false); err == nil {
		t.Fatal("no error")
	}
	b.stripe.before = func(string) error { panic("with cus_1") }
	func() {
		defer func() { _ = recover() }()
		_, _ = b.syncer.Sync(t.Context(), balanceOf(cus), nil, false)
	}()
	want := []string{
		"sync balance > mirror begin_sync", "sync balance > mirror apply_balance ! store_error", "sync balance ! store_error",
		"sync balance > mirror begin_sync ! fenced", "sync balance ! fenced",
		"sync balance > mirror begin_sync", "sync balance ! rate_limited",
		"sync balance > mirror begin_sync", "sync balance ! panic",
	}
	if got := tree(spans); !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	for _, s := range spans.Ended() {
		if len(s.Events()) > 0 || strings.Contains(s.Status().Description, "cus_") {
			t.Errorf("%s tells %v %v", s.Name(), s.Status(), s.Events())
		}
	}
}

// Every write of a sync is seen; what the others need not be is passed through.
func TestTracedStoreIsTheStore(t *testing.T) {
	t.Parallel()
	b, spans := traced(t)
	store := b.syncer.store
	ctx := context.Background()
	if _, err := store.ApplyTombstone(ctx, mirror.Tombstone{Target: balanceOf(cus), Epoch: 9}); !errors.Is(err, mirror.ErrFenced) {
		t.Error(err)
	}
	if _, err := store.Refuse(ctx, mirror.Refusal{Target: balanceOf(cus), Epoch: 9}); !errors.Is(err, mirror.ErrFenced) {
		t.Error(err)
	}
	if n, err := store.InsertGrants(ctx, "", nil); n != 0 || err != nil {
		t.Error(n, err)
	}
	if err := store.ResolveEvents(ctx, mirror.Target{Scope: mirror.ScopeGrantOwner, ID: "credgr_1"}, nil); err != nil {
		t.Error(err)
	}
	want := []string{"mirror apply_tombstone ! fenced", "mirror refuse ! fenced", "mirror insert_grants", "mirror resolve_events"}
	if got := tree(spans); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
