package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret     = "whsec_test_current"
	apiVersion = "2026-08-26.dahlia"
	customer   = "cus_NcjdgdwZyI9Rj7"
)

var (
	errCut    = errors.New("connection cut")
	testClock = time.Unix(1680216100, 0)
)

// sign makes a Stripe-Signature header.
func sign(payload []byte, at time.Time, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.", at.Unix())
	mac.Write(payload)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}

// verify is a small verifier with Stripe's scheme and a two-sided tolerance.
func verify(payload []byte, header http.Header, now time.Time) (time.Duration, string, error) {
	if len(header.Values("Stripe-Signature")) != 1 {
		return 0, "signature_doubled", errors.New("want one header")
	}
	var stamp string
	var macs [][]byte
	for part := range strings.SplitSeq(header.Get("Stripe-Signature"), ",") {
		switch key, value, _ := strings.Cut(part, "="); key {
		case "t":
			stamp = value
		case "v1":
			if mac, err := hex.DecodeString(value); err == nil && len(macs) < 8 {
				macs = append(macs, mac)
			}
		}
	}
	unix, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return 0, "signature_malformed", errors.New("no time")
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "."))
	mac.Write(payload)
	sum := mac.Sum(nil)
	if !slices.ContainsFunc(macs, func(m []byte) bool { return hmac.Equal(m, sum) }) {
		return 0, "signature_wrong", errors.New("no match")
	}
	skew := now.Sub(time.Unix(unix, 0))
	switch {
	case skew > 300*time.Second:
		return 0, "signature_expired", errors.New("too old")
	case skew < -300*time.Second:
		return 0, "signature_future", errors.New("too new")
	}
	return skew, "", nil
}

// fault decides the fate of call n (from 1) of a fake: nil lets it through.
type fault func(n int) error

// errReplyLost makes a fake do its work and report failure all the same.
var errReplyLost = errors.New("reply lost")

// step runs do unless the fault says otherwise.
func step(f fault, n int, do func()) error {
	var err error
	if f != nil {
		err = f(n)
	}
	if err == nil || errors.Is(err, errReplyLost) {
		do()
	}
	return err
}

type fakeQueue struct {
	mu    sync.Mutex
	calls [][]Marking
	marks []Marking
	dirty map[mirror.Target]bool
	fault fault
	// before runs outside the lock, before anything else.
	before func(ctx context.Context, m []Marking) error
}

func (q *fakeQueue) Mark(ctx context.Context, m []Marking) ([]bool, error) {
	if q.before != nil {
		if err := q.before(ctx, m); err != nil {
			return nil, err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls = append(q.calls, slices.Clone(m))
	coalesced := make([]bool, len(m))
	err := step(q.fault, len(q.calls), func() {
		for i, one := range m {
			coalesced[i] = q.dirty[one.Target]
			if q.dirty == nil {
				q.dirty = make(map[mirror.Target]bool)
			}
			q.dirty[one.Target] = true
		}
		q.marks = append(q.marks, m...)
	})
	return coalesced, err
}

func (q *fakeQueue) targets() []mirror.Target {
	q.mu.Lock()
	defer q.mu.Unlock()
	var ts []mirror.Target
	for _, m := range q.marks {
		ts = append(ts, m.Target)
	}
	return ts
}

func (q *fakeQueue) marked(event string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(q.marks, func(m Marking) bool { return m.Event.ID == event })
}

func (q *fakeQueue) callCount() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.calls)
}

type fakeInbox struct {
	mu       sync.Mutex
	calls    [][]mirror.Event
	receipts map[string]mirror.Receipt // by event id, for the next record
	fault    fault
	before   func(ctx context.Context, events []mirror.Event) error
}

func (b *fakeInbox) RecordEvents(ctx context.Context, events []mirror.Event) ([]mirror.Receipt, error) {
	if b.before != nil {
		if err := b.before(ctx, events); err != nil {
			return nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, slices.Clone(events))
	receipts := make([]mirror.Receipt, len(events))
	err := step(b.fault, len(b.calls), func() {
		if b.receipts == nil {
			b.receipts = make(map[string]mirror.Receipt)
		}
		for i, e := range events {
			receipts[i] = b.receipts[e.ID]
			if receipts[i] == mirror.ReceiptNew {
				b.receipts[e.ID] = mirror.ReceiptPending
			}
		}
	})
	return receipts, err
}

func (b *fakeInbox) has(event string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.receipts[event] != mirror.ReceiptNew
}

func (b *fakeInbox) apply(event string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.receipts[event] = mirror.ReceiptApplied
}

type fakeLetters struct {
	mu     sync.Mutex
	calls  int
	kept   []mirror.DeadLetter
	fault  fault
	before func(ctx context.Context) error
}

func (l *fakeLetters) SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error {
	if l.before != nil {
		if err := l.before(ctx); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	return step(l.fault, l.calls, func() { l.kept = append(l.kept, d) })
}

// bench is a receiver between fakes.
type bench struct {
	*Receiver
	queue    *fakeQueue
	inbox    *fakeInbox
	letters  *fakeLetters
	registry *prometheus.Registry
	handler  http.Handler
}

func newBench(t testing.TB, change func(*bench, *Options)) *bench {
	t.Helper()
	b := &bench{
		queue: &fakeQueue{}, inbox: &fakeInbox{}, letters: &fakeLetters{}, registry: prometheus.NewPedanticRegistry(),
	}
	o := Options{
		Livemode: func(live bool) bool { return !live },
		Verify:   verify, Queue: b.queue, Inbox: b.inbox, DeadLetters: b.letters, APIVersion: apiVersion,
		Registerer: b.registry, Log: zap.NewNop(), Now: func() time.Time { return testClock },
	}
	if change != nil {
		change(b, &o)
	}
	var err error
	if b.Receiver, err = New(o); err != nil {
		t.Fatal(err)
	}
	b.handler = b.Handler()
	t.Cleanup(func() {
		// The test's own context is done by now.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		if held := b.bodies.held.Load(); held != 0 {
			t.Errorf("bodies hold %d bytes after the last request", held)
		}
	})
	return b
}

// post delivers a payload with a good signature, as Stripe would.
func (b *bench) post(payload []byte) *httptest.ResponseRecorder {
	return b.do(signed(payload))
}

func (b *bench) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	return w
}

func signed(payload []byte) *http.Request {
	r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(payload))
	r.Header.Set("Stripe-Signature", sign(payload, testClock, secret))
	return r
}

// count is how many requests ended in the word.
func (b *bench) count(code int, word string) int {
	return int(testutil.ToFloat64(b.metrics.requests.WithLabelValues(strconv.Itoa(code), word)))
}

func (b *bench) events(eventType, outcome string) int {
	return int(testutil.ToFloat64(b.metrics.events.WithLabelValues(eventType, outcome)))
}

// writes lists what reached the dependencies.
func (b *bench) writes() int {
	b.queue.mu.Lock()
	defer b.queue.mu.Unlock()
	b.inbox.mu.Lock()
	defer b.inbox.mu.Unlock()
	b.letters.mu.Lock()
	defer b.letters.mu.Unlock()
	return len(b.queue.calls) + len(b.inbox.calls) + b.letters.calls
}

// event is customer.updated in Stripe's form.
func event(id, customer string) []byte {
	return eventWith(id, "customer.updated", customer, "")
}

// eventWith adds members, each with a comma before it, to the envelope.
func eventWith(id, eventType, object, more string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"object":"event","api_version":%q,"created":1680216086,`+
		`"data":{"object":{"id":%q,"object":"customer","balance":-500},"previous_attributes":{"balance":0}},`+
		`"livemode":false,"pending_webhooks":1,"request":{"id":null,"idempotency_key":null},"type":%q%s}`,
		id, apiVersion, object, eventType, more)
}

func balanceOf(customer string) mirror.Target {
	return mirror.Target{Scope: mirror.ScopeBalance, ID: customer}
}
