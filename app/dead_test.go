package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/mirror"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// eachBackend runs a test on SQLite with the embedded Redis, and on PostgreSQL
// with a real one. more opens the parts once more, as another process would;
// with an embedded Redis there is only one.
func eachBackend(t *testing.T, test func(t *testing.T, p *Parts, more func() *Parts)) {
	t.Helper()
	open := func(t *testing.T, environ ...string) *Parts {
		t.Helper()
		cfg, err := config.Load(append(environ, "STRIPE_API_KEY=sk_test_dead", "STRIPE_ACCOUNTS=acct_1"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := OpenParts(t.Context(), cfg, prometheus.NewRegistry(), zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	t.Run("sqlite, embedded redis", func(t *testing.T) {
		t.Parallel()
		p := open(t, "CREDITMIRROR_DATABASE_URL=sqlite:"+filepath.Join(t.TempDir(), "m.db"))
		test(t, p, func() *Parts { return p })
	})
	t.Run("postgres, redis-server", func(t *testing.T) {
		t.Parallel()
		environ := []string{"CREDITMIRROR_DATABASE_URL=" + pgtest.NewDatabase(t), "CREDITMIRROR_REDIS_URL=" + redistest.Start(t).URL}
		test(t, open(t, environ...), func() *Parts { return open(t, environ...) })
	})
}

// eventBody is a customer.updated as Stripe sends it.
func eventBody(id, customer, more string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"object":"event","type":"customer.updated","created":1780000000,"livemode":false%s,`+
		`"data":{"object":{"id":%q,"object":"customer"}}}`, id, more, customer)
}

func saveBody(t *testing.T, p *Parts, account string, body []byte) string {
	t.Helper()
	d := mirror.DeadLetter{
		ID: mirror.UnreadableID(body), Target: mirror.Target{Account: account}, Reason: "an older version could not read it", Attempts: 1,
		Payload: body, FirstFailedAt: time.Now(), LastFailedAt: time.Now(),
	}
	if err := p.Store.SaveDeadLetter(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return d.ID
}

func saveTarget(t *testing.T, p *Parts, target mirror.Target) string {
	t.Helper()
	d := mirror.DeadLetter{
		ID: mirror.DeadLetterID(target), Target: target, Reason: "it broke", Attempts: 12, FirstFailedAt: time.Now(), LastFailedAt: time.Now(),
		RetryAt: time.Now().Add(time.Hour),
	}
	if err := p.Store.SaveDeadLetter(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return d.ID
}

func held(t *testing.T, p *Parts, id string) bool {
	t.Helper()
	_, err := p.Store.DeadLetter(t.Context(), id)
	if err != nil && !errors.Is(err, mirror.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func queued(t *testing.T, p *Parts, target mirror.Target) bool {
	t.Helper()
	n, err := p.Waiting(t.Context(), []mirror.Target{target})
	if err != nil {
		t.Fatal(err)
	}
	return n == 1
}

func retryOne(t *testing.T, p *Parts, id string) DeadRetry {
	t.Helper()
	results, err := p.RetryDead(t.Context(), []string{id})
	if err != nil || len(results) != 1 || results[0].ID != id {
		t.Fatalf("%+v, %v", results, err)
	}
	return results[0]
}

// A sync of an account that is not ours would wait for ever, and show a refused key in
// status meanwhile.
func TestSyncOfAnAccountThatIsNotMirrored(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, p *Parts, _ func() *Parts) {
		for _, accounts := range []config.Accounts{p.Config.StripeAccounts, {All: true}} {
			p.Config.StripeAccounts = accounts
			foreign := SyncRequest{Account: "acct_2", Customer: "cus_4"}.Targets()
			if err := p.SyncNow(t.Context(), foreign); !errors.Is(err, ErrNotMirrored) || !strings.Contains(err.Error(), "acct_2") {
				t.Errorf("%+v: %v", accounts, err)
			}
			own := SyncRequest{Customer: "cus_4"}.Targets()
			if err := p.SyncNow(t.Context(), own); err != nil {
				t.Errorf("%+v: %v", accounts, err)
			}
		}
	})
}

func TestRetryUnreadableBodies(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, p *Parts, _ func() *Parts) {
		balance := func(account, customer string) mirror.Target {
			return mirror.Target{Account: account, Scope: mirror.ScopeBalance, ID: customer}
		}
		tests := []struct {
			name    string
			account string // of the letter
			body    []byte
			outcome RetryOutcome
			marks   mirror.Target
			stays   bool
		}{
			{"readable now", "", eventBody("evt_1", "cus_1", ""), RetryTaken, balance("", "cus_1"), false},
			{"of a connected account", "", eventBody("evt_2", "cus_2", `,"account":"acct_1"`), RetryTaken, balance("acct_1", "cus_2"), false},
			{"found in an account's list", "acct_1", eventBody("evt_3", "cus_3", ""), RetryTaken, balance("acct_1", "cus_3"), false},
			{"of an account that is not mirrored", "", eventBody("evt_4", "cus_4", `,"account":"acct_2"`), RetryForeign, balance("acct_2", "cus_4"), true},
			{"of the other mode", "", []byte(strings.Replace(string(eventBody("evt_5", "cus_5", "")), "false", "true", 1)), RetryForeign, balance("", "cus_5"), true},
			{"of a type without credit", "", []byte(`{"id":"evt_6","object":"event","type":"charge.failed","created":1780000000,"livemode":false}`), RetryNothing, mirror.Target{}, false},
			{"a v2 event", "", []byte(`{"id":"evt_7","object":"v2.core.event","type":"x"}`), RetryNothing, mirror.Target{}, false},
			{"still no JSON", "", []byte("{\x00\xff"), RetryUnreadable, mirror.Target{}, true},
		}
		for _, tt := range tests {
			id := saveBody(t, p, tt.account, tt.body)
			r := retryOne(t, p, id)
			if r.Outcome != tt.outcome || r.Detail == "" || held(t, p, id) != tt.stays {
				t.Errorf("%s: %+v, kept %v", tt.name, r, held(t, p, id))
			}
			if tt.marks.Scope != "" && queued(t, p, tt.marks) != (tt.outcome == RetryTaken) {
				t.Errorf("%s: in the queue: %v", tt.name, queued(t, p, tt.marks))
			}
		}
		if r := retryOne(t, p, "dead_0"); r.Outcome != RetryGone || !r.Outcome.Left() {
			t.Errorf("an unknown id: %+v", r)
		}
		if _, err := p.RetryDead(t.Context(), make([]string, MaxRetries+1)); err == nil {
			t.Error("more than may come at once were taken")
		}
	})
}

// cut is a store whose process is killed at a step: what the step did stays, and
// nothing after it happens.
type cut struct {
	mirror.Store
	before, after string
}

var errKilled = errors.New("killed")

func (c cut) step(name string, do func() error) error {
	if c.before == name {
		return errKilled
	}
	if err := do(); err != nil || c.after != name {
		return err
	}
	return errKilled
}

func (c cut) RecordEvents(ctx context.Context, events []mirror.Event) (receipts []mirror.Receipt, err error) {
	return receipts, c.step("record", func() (err error) { receipts, err = c.Store.RecordEvents(ctx, events); return err })
}

func (c cut) DropDeadLetter(ctx context.Context, id string) error {
	return c.step("drop", func() error { return c.Store.DropDeadLetter(ctx, id) })
}

func TestRetryKilledHalfwayI3I10(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, p *Parts, _ func() *Parts) {
		real := p.Store
		for i, c := range []cut{{before: "record"}, {after: "record"}, {before: "drop"}, {after: "drop"}} {
			customer := fmt.Sprintf("cus_%d", i)
			target := mirror.Target{Scope: mirror.ScopeBalance, ID: customer}
			id := saveBody(t, p, "", eventBody(fmt.Sprintf("evt_%d", i), customer, ""))
			c.Store = real
			p.Store = c
			if _, err := p.RetryDead(t.Context(), []string{id}); !errors.Is(err, errKilled) {
				t.Fatalf("%+v: %v", c, err)
			}
			p.Store = real
			if !held(t, p, id) && !queued(t, p, target) {
				t.Fatalf("I3: cut %s%s: neither the letter nor its mark is there", c.before, c.after)
			}
			r := retryOne(t, p, id)
			if want := map[bool]RetryOutcome{true: RetryGone, false: RetryTaken}[c.after == "drop"]; r.Outcome != want || held(t, p, id) || !queued(t, p, target) {
				t.Errorf("cut %s%s: again: %+v", c.before, c.after, r)
			}
		}
	})
}

// A sync answers the event between the mark and the removal of the letter.
func TestRetryAfterTheEventWasAnswered(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, p *Parts, _ func() *Parts) {
		id := saveBody(t, p, "", eventBody("evt_1", "cus_1", ""))
		e, err := mirror.DecodeEvent(eventBody("evt_1", "cus_1", ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Store.RecordEvents(t.Context(), []mirror.Event{e}); err != nil {
			t.Fatal(err)
		}
		target := e.Targets()[0]
		state, err := p.Store.BeginSync(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Store.ApplyTombstone(t.Context(), mirror.Tombstone{
			Target: target, Epoch: state.Epoch, EventSeq: state.EventSeq, ObservedAt: time.Now(), Events: []mirror.EventRef{e.Ref()},
		})
		if err != nil {
			t.Fatal(err)
		}
		if r := retryOne(t, p, id); r.Outcome != RetryNothing || held(t, p, id) || queued(t, p, target) {
			t.Errorf("%+v, queued %v", r, queued(t, p, target))
		}
	})
}

func TestRetryByTwoProcessesAtOnce(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, p *Parts, more func() *Parts) {
		const n = 60
		var ids []string
		var targets []mirror.Target
		for i := range n {
			customer := fmt.Sprintf("cus_%d", i)
			target := mirror.Target{Scope: mirror.ScopeBalance, ID: customer}
			targets = append(targets, target)
			if i%2 == 0 {
				ids = append(ids, saveTarget(t, p, target))
			} else {
				ids = append(ids, saveBody(t, p, "", eventBody(fmt.Sprintf("evt_%d", i), customer, "")))
			}
		}
		var all sync.WaitGroup
		for _, process := range []*Parts{p, more(), more()} {
			all.Go(func() {
				results, err := process.RetryDead(t.Context(), ids)
				if err != nil {
					t.Error(err)
				}
				for _, r := range results {
					if r.Outcome != RetryMarked && r.Outcome != RetryTaken && r.Outcome != RetryGone {
						t.Errorf("%+v", r)
					}
				}
			})
		}
		all.Wait()
		waiting, err := p.Waiting(t.Context(), targets)
		stats, statsErr := p.Queue.Stats(t.Context())
		if err := errors.Join(err, statsErr); err != nil || waiting != n || stats.ReadyLive != n {
			t.Fatalf("%d of %d wait, %+v, %v", waiting, n, stats, err)
		}
		for i, id := range ids {
			if held(t, p, id) != (i%2 == 0) {
				t.Errorf("letter %d is kept: %v", i, held(t, p, id))
			}
		}
		pending, err := p.Store.PendingEvents(t.Context(), 0, 1000)
		if err != nil || len(pending) != n/2 {
			t.Fatalf("%d events were recorded, want %d: %v", len(pending), n/2, err)
		}
	})
}

// A sync that runs already may have read Stripe before whatever was mended: it
// has to run once more.
func TestRetryWhileTheSyncIsInWorkI7(t *testing.T) {
	t.Parallel()
	eachBackend(t, func(t *testing.T, p *Parts, more func() *Parts) {
		target := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}
		id := saveTarget(t, p, target)
		if err := p.marks.MarkSwept(t.Context(), []mirror.Target{target}); err != nil {
			t.Fatal(err)
		}
		claims, err := p.Queue.Claim(t.Context(), 1)
		if err != nil || len(claims) != 1 {
			t.Fatalf("%+v, %v", claims, err)
		}
		if r := retryOne(t, more(), id); r.Outcome != RetryMarked {
			t.Fatalf("%+v", r)
		}
		if again, err := p.Queue.Done(t.Context(), claims[0]); err != nil || !again {
			t.Fatalf("I7: done took the retry for answered: %v, %v", again, err)
		}
		if !queued(t, p, target) || !held(t, p, id) {
			t.Fatal("the retry is forgotten, or the letter is")
		}
	})
}

func TestOpsRetryIsOnlyForThisMachine(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load([]string{"CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "m.db")})
	if err != nil {
		t.Fatal(err)
	}
	p, err := OpenParts(t.Context(), cfg, prometheus.NewRegistry(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	id := saveTarget(t, p, mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"})
	a := &App{o: Options{Registry: prometheus.NewRegistry()}, parts: p, log: zap.NewNop()}
	handler := a.opsHandler()
	good := `{"ids":["` + id + `"]}`
	tests := []struct {
		name, method, body string
		change             func(r *http.Request)
		code               int
	}{
		{"as the command does", "POST", good, func(*http.Request) {}, 200},
		{"from this machine by another address", "POST", good, func(r *http.Request) {
			r.RemoteAddr = "10.0.0.5:4000"
			*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 5), Port: 9090}))
		}, 200},
		{"from another machine", "POST", good, func(r *http.Request) { r.RemoteAddr = "10.0.0.6:4000" }, 403},
		{"by a page under a name that resolves to here", "POST", good, func(r *http.Request) { r.Host = "evil.example:9090" }, 403},
		{"by a page of another origin", "POST", good, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"by an old browser", "POST", good, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, 403},
		{"as a form", "POST", good, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415},
		{"by GET", "GET", "", func(*http.Request) {}, 405},
		{"without ids", "POST", `{"ids":[]}`, func(*http.Request) {}, 400},
		{"unknown field", "POST", `{"ids":["x"],"all":true}`, func(*http.Request) {}, 400},
		{"no JSON", "POST", `{`, func(*http.Request) {}, 400},
		{"too many", "POST", `{"ids":["x"` + strings.Repeat(`,"x"`, MaxRetries) + `]}`, func(*http.Request) {}, 400},
		{"too long", "POST", `{"ids":["` + strings.Repeat("x", 70<<10) + `"]}`, func(*http.Request) {}, 400},
		{"while stopping", "POST", good, func(*http.Request) { a.stopping.Store(true) }, 503},
	}
	for _, tt := range tests {
		r := httptest.NewRequestWithContext(t.Context(), tt.method, DeadRetryPath, strings.NewReader(tt.body))
		r.RemoteAddr, r.Host = "127.0.0.1:4000", "localhost:9090"
		r.Header.Set("Content-Type", "application/json")
		tt.change(r)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tt.code {
			t.Errorf("%s: %d, want %d: %s", tt.name, w.Code, tt.code, w.Body)
		}
		var reply RetryReply
		if err := json.Unmarshal(w.Body.Bytes(), &reply); tt.code == 200 && (err != nil || len(reply.Results) != 1 || reply.Results[0].Outcome != RetryMarked) {
			t.Errorf("%s: %s", tt.name, w.Body)
		}
	}
}
