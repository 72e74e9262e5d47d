package reconcile

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/mirror"
)

// listening is what one replica with the lease and any number of receivers make
// of webhooks, minute by minute.
type listening struct {
	t     *testing.T
	store *memory
	watch *silenceWatch
	logs  *observer.ObservedLogs
	core  *zap.Logger
	now   time.Time
}

func newListening(t *testing.T, configured bool) *listening {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	l := &listening{t: t, store: newMemory(), logs: logs, core: zap.New(core), now: t0}
	l.lead(configured)
	return l
}

// lead is another replica taking the lease.
func (l *listening) lead(configured bool) {
	l.watch = newSilenceWatch(l.store, configured, l.now, l.core)
}

// at moves the clock to a minute after the start and makes a pass over the
// events, with those given as created minutes that no webhook had brought.
func (l *listening) at(minute float64, account string, unbrought ...float64) {
	l.t.Helper()
	l.now = t0.Add(time.Duration(minute * float64(time.Minute)))
	var events []mirror.Event
	for i, m := range unbrought {
		events = append(events, mirror.Event{ID: fmt.Sprint("evt_", i), Account: account, Created: t0.Add(time.Duration(m * float64(time.Minute)))})
	}
	if err := l.watch.judge(l.t.Context(), map[Endpoint][]mirror.Event{EndpointOf(account): events}, l.now); err != nil {
		l.t.Fatal(err)
	}
}

// arrives is a webhook at a minute, of an event created at another.
func (l *listening) arrives(at, created float64, endpoint Endpoint) {
	l.t.Helper()
	minute := func(m float64) time.Time { return t0.Add(time.Duration(m * float64(time.Minute))) }
	if err := NoteArrival(l.t.Context(), l.store, endpoint, minute(at), minute(created)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *listening) silent(endpoint Endpoint) bool {
	l.t.Helper()
	states, err := WebhookStates(l.t.Context(), l.store)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, s := range states {
		if s.Endpoint == endpoint {
			return s.Silent
		}
	}
	l.t.Fatalf("no endpoint %s in %+v", endpoint, states)
	return false
}

func (l *listening) want(silent bool, warnings int) {
	l.t.Helper()
	if got := l.silent(EndpointAccount); got != silent {
		l.t.Errorf("silent %v, want %v", got, silent)
	}
	if n := l.logs.FilterLevelExact(zap.WarnLevel).Len(); n != warnings {
		l.t.Errorf("%d warnings, want %d: %v", n, warnings, l.logs.All())
	}
}

func TestI19_SilentEndpoint(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]func(l *listening){
		"none ever arrives": func(l *listening) {
			l.at(3, "", 2.9)
			l.at(7.9, "", 7)
			l.want(false, 0)
			l.at(8, "")
			l.want(true, 1)
			l.at(60, "", 59)
			l.want(true, 1)
			l.at(68, "")
			l.want(true, 2) // reminded every hour
			l.arrives(70, 69.9, EndpointAccount)
			l.want(false, 2) // seen by everybody before the next pass
			l.at(70.5, "")
			l.want(false, 2)
			if l.logs.FilterMessage("webhooks arrive again").Len() != 1 {
				l.t.Error("the end is not told")
			}
			l.at(72, "", 71)
			l.at(77, "")
			l.want(true, 3) // and again
		},
		"it stops working": func(l *listening) {
			l.arrives(2, 2, EndpointAccount)
			l.at(3, "")
			l.at(10, "", 9.9)
			l.at(15, "")
			l.want(true, 1)
		},
		"a quiet account": func(l *listening) {
			for m := range 1000 {
				l.at(float64(m), "")
			}
			l.want(false, 0)
		},
		"one is lost, others arrive": func(l *listening) {
			l.at(10, "", 9.9)
			l.arrives(14.9, 14.9, EndpointAccount)
			l.at(15, "")
			l.at(30, "")
			l.want(false, 0)
		},
		"one is lost, an older one is delivered late": func(l *listening) {
			l.at(10, "", 9.9)
			l.arrives(11, 3, EndpointAccount)
			l.at(30, "")
			l.want(false, 0)
		},
		"one is lost, a newer one came before it was looked for": func(l *listening) {
			l.arrives(9.95, 9.95, EndpointAccount)
			l.at(10, "", 9.9)
			l.at(30, "")
			l.want(false, 0)
		},
		"webhooks slower than a pass over events": func(l *listening) {
			for m := 2.0; m < 100; m++ {
				l.at(m, "", m-0.05)
				l.arrives(m+0.05, m-0.05, EndpointAccount)
			}
			l.want(false, 0)
		},
		"events from before it listened": func(l *listening) {
			l.at(0, "", -300, -200, -1, 0.5)
			l.at(30, "")
			l.want(false, 0)
		},
		"a redis that forgot, inbox off: all came once": func(l *listening) {
			l.arrives(20, 20, EndpointAccount)
			l.at(21, "", 18, 19, 20)
			l.at(60, "")
			l.want(false, 0)
		},
		"down for an hour within the grace": func(l *listening) {
			l.at(10, "", 9.9)
			l.now = t0.Add(70 * time.Minute)
			l.lead(true)
			l.at(70, "", 30, 69)
			l.at(80, "")
			l.want(false, 0)
			l.at(81, "", 80)
			l.at(86, "")
			l.want(true, 1)
		},
		"another replica takes the lease": func(l *listening) {
			l.at(10, "", 9.9)
			l.at(15, "")
			l.lead(true)
			l.at(16, "")
			l.want(true, 2) // says so itself
		},
		"polled from now on": func(l *listening) {
			l.at(10, "", 9.9)
			l.at(15, "")
			l.want(true, 1)
			l.lead(false)
			l.at(16, "", 15.9)
			l.want(false, 1)
		},
		"repair off: the same events again and again": func(l *listening) {
			for m := 10.0; m < 20; m++ {
				l.at(m, "", 9, 9.5)
			}
			l.want(true, 1)
			if states, err := WebhookStates(l.t.Context(), l.store); err != nil || states[0].Events != 2 {
				l.t.Errorf("%+v, %v", states, err)
			}
		},
		"I20: connected accounts have an endpoint of their own": func(l *listening) {
			l.at(10, "acct_1", 9.9)
			l.arrives(12, 12, EndpointAccount)
			l.at(15, "acct_1")
			l.want(false, 1)
			if !l.silent(EndpointConnect) {
				l.t.Error("the other endpoint is not noticed")
			}
			l.arrives(16, 16, EndpointConnect)
			if l.silent(EndpointConnect) {
				l.t.Error("it does not clear")
			}
		},
		"written by another version": func(l *listening) {
			l.store.sweeps["/webhook_account_silence"] = mirror.Sweep{State: []byte(`{"since": 7}`)}
			l.at(10, "", 9.9)
			l.at(15, "")
			l.want(true, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			story(newListening(t, true))
		})
	}
}

// Without a secret, and without a receiver that was heard of lately, events are
// polled, and nothing is amiss.
func TestI19_SilenceNeedsAReceiver(t *testing.T) {
	t.Parallel()
	polled := func(l *listening, from float64) {
		for m := from; m < from+20; m++ {
			l.at(m, "", m-0.1)
		}
	}
	l := newListening(t, false)
	polled(l, 2)
	l.want(false, 0)

	// A receiver runs in another process; this one has no secret.
	if err := NoteReceiver(t.Context(), l.store, "one", l.now, true); err != nil {
		t.Fatal(err)
	}
	polled(l, 30)
	l.want(true, 1)

	// It was given up long ago.
	week := receiversKnown.Minutes() + 60
	polled(l, week)
	l.want(false, 1)
}

func TestNoteArrivalNeverGoesBack(t *testing.T) {
	t.Parallel()
	l := newListening(t, true)
	l.arrives(10, 9, EndpointAccount)
	l.arrives(8, 7, EndpointAccount) // another replica, later to write
	row := l.store.sweeps["/webhook_account"]
	if !row.LastSuccess.Equal(t0.Add(10*time.Minute)) || !row.Watermark.Equal(t0.Add(9*time.Minute)) {
		t.Errorf("%+v", row)
	}
	if err := NoteArrival(t.Context(), l.store, EndpointAccount, t0.Add(time.Hour), time.Time{}); err != nil { // unreadable
		t.Fatal(err)
	}
	row = l.store.sweeps["/webhook_account"]
	if !row.LastSuccess.Equal(t0.Add(time.Hour)) || !row.Watermark.Equal(t0.Add(9*time.Minute)) {
		t.Errorf("%+v", row)
	}
}

// The whole of it in the runner, by its own clock.
func TestI19_RunnerNoticesSilence(t *testing.T) {
	t.Parallel()
	for _, configured := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			a := m.replica(t, newQueue(&faults{}), "a", RunnerOptions{Webhooks: configured})
			silent := func() bool {
				states, err := WebhookStates(t.Context(), m)
				if err != nil {
					t.Fatal(err)
				}
				return states[0].Silent
			}
			pass(10 * time.Minute) // quiet
			e := updated(1, 0)
			e.Created = time.Now()
			a.stripe.mu.Lock()
			a.stripe.events = append(a.stripe.events, e)
			a.stripe.mu.Unlock()
			pass(5 * time.Minute)
			if silent() {
				t.Error("no grace")
			}
			pass(90 * time.Second)
			if silent() != configured {
				t.Errorf("silent %v, want %v", silent(), configured)
			}
			if err := NoteArrival(t.Context(), m, EndpointAccount, time.Now(), e.Created); err != nil {
				t.Fatal(err)
			}
			if pass(2 * time.Minute); silent() {
				t.Error("does not clear by itself")
			}
			a.end()
		})
	}
}

// failingSweeps is a database that does not answer.
type failingSweeps struct{ *memory }

var errBroken = errors.New("broken")

func (failingSweeps) Sweep(context.Context, string, string) (mirror.Sweep, error) {
	return mirror.Sweep{}, errBroken
}

func TestSilenceJudgeReturnsErrors(t *testing.T) {
	t.Parallel()
	for _, configured := range []bool{true, false} {
		w := newSilenceWatch(failingSweeps{newMemory()}, configured, t0, zap.NewNop())
		if err := w.judge(t.Context(), nil, t0); !errors.Is(err, errBroken) {
			t.Errorf("configured %v: %v", configured, err)
		}
	}
}
