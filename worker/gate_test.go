package worker

import (
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// gateClock is a gate with a clock that stands still until it is moved.
func gateClock() (*Gate, func(time.Duration)) {
	now := t0
	return NewGate(func() time.Time { return now }), func(d time.Duration) { now = now.Add(d) }
}

func TestGateScopes(t *testing.T) {
	t.Parallel()
	other := mirror.Target{Account: "acct_2", Scope: mirror.ScopeBalance, ID: cus}
	for _, test := range []struct {
		kind                    stripeapi.Kind
		balance, credits, other bool // closed?
	}{
		{stripeapi.KindUnauthorized, true, true, false},
		{stripeapi.KindForbidden, true, false, false},
		{stripeapi.KindAccountRefused, true, true, false},
	} {
		g, _ := gateClock()
		if wait, first := g.Refused(balanceOf(cus), failure(test.kind)); wait != probeInterval || !first {
			t.Errorf("%v: wait %v", test.kind, wait)
		}
		for target, want := range map[mirror.Target]bool{balanceOf("cus_2"): test.balance, creditsOf(cus): test.credits, other: test.other} {
			if got := g.Closed(target) > 0; got != want {
				t.Errorf("%v: %s closed %v, want %v", test.kind, target, got, want)
			}
		}
		if list := g.Closures(); len(list) != 1 || !list[0].Since.Equal(t0) || list[0].Reason == "" {
			t.Errorf("%v: closures %+v", test.kind, list)
		}
	}
}

func TestGateProbes(t *testing.T) {
	t.Parallel()
	g, pass := gateClock()
	g.Refused(balanceOf(cus), failure(stripeapi.KindUnauthorized))
	probes := 0
	for range 600 { // ten minutes of busy queue; no probe gives an answer
		pass(time.Second)
		for range 3 {
			if g.Closed(creditsOf(cus)) == 0 {
				probes++
			}
		}
	}
	if probes != 40 {
		t.Errorf("%d probes in 600 s, want 40", probes)
	}
	g.Answered(creditsOf(cus))
	if g.Closed(balanceOf(cus)) != 0 || len(g.Closures()) != 0 {
		t.Error("closed after an answer")
	}
}

// Who comes while a probe is on its way waits for its answer, and not for the
// next probe.
func TestF27_GateOthersWaitForTheProbe(t *testing.T) {
	t.Parallel()
	g, pass := gateClock()
	g.Refused(balanceOf(cus), failure(stripeapi.KindUnauthorized))
	if wait := g.Closed(balanceOf("cus_2")); wait != probeInterval {
		t.Errorf("wait %v before the probe, want %v", wait, probeInterval)
	}
	pass(probeInterval)
	if g.Closed(balanceOf(cus)) != 0 {
		t.Fatal("want a probe")
	}
	if wait := g.Closed(balanceOf("cus_2")); wait != probeTime {
		t.Errorf("wait %v during the probe, want %v", wait, probeTime)
	}
	g.Refused(balanceOf(cus), failure(stripeapi.KindUnauthorized))
	if wait := g.Closed(balanceOf("cus_2")); wait != probeInterval {
		t.Errorf("wait %v after the probe, want %v", wait, probeInterval)
	}
}

// One scope's answer says nothing of a permission that another lacks.
func TestGateAnswerOfAnotherScope(t *testing.T) {
	t.Parallel()
	g, pass := gateClock()
	g.Refused(creditsOf(cus), failure(stripeapi.KindForbidden))
	g.Answered(balanceOf(cus))
	if g.Closed(creditsOf(cus)) == 0 {
		t.Error("credits opened by an answer for balance")
	}
	pass(probeInterval)
	if g.Closed(creditsOf(cus)) != 0 || g.Closed(creditsOf(cus)) == 0 {
		t.Error("want one probe")
	}
	g.Answered(creditsOf(cus))
	if len(g.Closures()) != 0 {
		t.Error("closed after its own answer")
	}
}

// A target that a closed scope holds back must not use up the account's probe.
func TestGateProbeIsNotUsedUpByAClosedScope(t *testing.T) {
	t.Parallel()
	g, pass := gateClock()
	g.Refused(balanceOf(cus), failure(stripeapi.KindUnauthorized))
	pass(10 * time.Second)
	g.Refused(creditsOf(cus), failure(stripeapi.KindForbidden))
	pass(5 * time.Second)
	if g.Closed(creditsOf(cus)) == 0 {
		t.Fatal("the closed scope passed")
	}
	if g.Closed(balanceOf(cus)) != 0 {
		t.Error("no probe is left for the account")
	}
}

// A target that needed no call leaves the probe to the next one.
func TestGateProbeWithoutACall(t *testing.T) {
	t.Parallel()
	g, pass := gateClock()
	question := mirror.Target{Scope: mirror.ScopeGrantOwner, ID: "credgr_1"}
	g.Refused(balanceOf(cus), failure(stripeapi.KindUnauthorized))
	pass(probeInterval)
	if g.Closed(question) != 0 {
		t.Fatal("want a probe")
	}
	g.Unasked(question)
	if g.Closed(balanceOf(cus)) != 0 {
		t.Error("no probe is left")
	}
	if len(g.Closures()) != 1 {
		t.Error("it opened without an answer")
	}
}

func TestGateRealClock(t *testing.T) {
	t.Parallel()
	g := NewGate(nil)
	g.Answered(balanceOf(cus))
	if own, _ := g.Failed(balanceOf("cus_2"), time.Now().Add(-time.Second)); !own || g.Closed(balanceOf(cus)) != 0 || g.Out(balanceOf(cus)) != 0 {
		t.Error("want it open, and a failure the target's own")
	}
}
