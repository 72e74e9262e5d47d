package worker

import (
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// An outage is one line when it begins, one a minute with how much it keeps, and one when
// it is over, also where some calls work in between.
func TestOutagesAreToldInFewLines(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	now := time.Unix(1_800_000_000, 0)
	o := NewOutageLog(zap.New(core), "away", "back")
	o.now = func() time.Time { return now }
	o.Over()
	for range 130 * 100 { // a hundred a second
		o.Failed(errors.New("no route"), 2)
		o.Over()
		now = now.Add(10 * time.Millisecond)
	}
	if n := logs.FilterMessage("away").Len(); n != 3 {
		t.Errorf("%d lines in two minutes and ten seconds, want 3", n)
	}
	if n := logs.FilterMessage("back").Len(); n != 0 {
		t.Errorf("%d lines about its end before it is over", n)
	}
	now = now.Add(quiet)
	o.Over()
	o.Over()
	end := logs.FilterMessage("back").All()
	if len(end) != 1 || end[0].ContextMap()["failures"] != int64(13000) || end[0].ContextMap()["affected"] != int64(26000) {
		t.Errorf("the end is told as %v", end)
	}
}
