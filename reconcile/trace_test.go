package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func TestTraceOfSweeps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		spans := tracetest.NewSpanRecorder()
		m := newMemory()
		m.accounts = []string{"acct_2"}
		r := m.replica(t, newQueue(&faults{}), "a", RunnerOptions{
			AllAccounts: true, EventsInterval: time.Hour, Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test"),
		})
		pass(time.Minute)
		m.set("events", errors.New("text with cus_1")) // of the platform's own account
		pass(time.Hour)
		r.end()
		var got []string
		for _, s := range spans.Ended() {
			line := s.Name()
			for _, kv := range s.Attributes() {
				line += fmt.Sprintf(" %s=%s", kv.Key, kv.Value.String())
			}
			if s.Status().Code == codes.Error {
				line += " ! " + s.Status().Description
			}
			got = append(got, line)
		}
		// The first copies, which ran too, have no span.
		want := []string{
			"sweep events creditmirror.account= creditmirror.sweep=events", "sweep events creditmirror.account=acct_2 creditmirror.sweep=events",
			"sweep events creditmirror.account= creditmirror.sweep=events ! failed", "sweep events creditmirror.account=acct_2 creditmirror.sweep=events",
		}
		if len(got) > len(want) { // Redis is new, so that events may be listed once more at the start
			got = got[len(got)-len(want):]
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	})
}
