package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func observe() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return zap.New(core), logs
}

// I19: every end of a request is in the metric under a word of its own.
func TestMetrics(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.opts.Now = func() time.Time { return testClock.Add(7 * time.Second) }
	b.post(event("evt_1", customer))
	b.do(httptest.NewRequest("POST", Path, nil))
	if got := testutil.ToFloat64(b.metrics.skew); got != 7 {
		t.Errorf("skew %v", got)
	}
	if problems, err := testutil.GatherAndLint(b.registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
		if f.GetName() == "creditmirror_webhook_request_duration_seconds" && f.GetMetric()[0].GetHistogram().GetSampleCount() != 2 {
			t.Error("not every request is timed")
		}
	}
	const want = "creditmirror_events_total creditmirror_webhook_api_version_mismatch_total creditmirror_webhook_clock_skew_seconds " +
		"creditmirror_webhook_request_duration_seconds creditmirror_webhook_requests_total"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("metrics %s", got)
	}
}

func TestMetricsRegisteredTwice(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	if _, err := newMetrics(r); err != nil {
		t.Fatal(err)
	}
	if _, err := newMetrics(r); err == nil {
		t.Error("no error")
	}
}

// No label can be made by a sender.
func TestClosedLabels(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	before := testutil.CollectAndCount(b.metrics.events) + testutil.CollectAndCount(b.metrics.requests)
	for _, eventType := range []string{"a", "b", "customer.updated.x", strings.Repeat("y", 5000)} {
		b.post(eventWith("evt_1", eventType, customer, ""))
	}
	if after := testutil.CollectAndCount(b.metrics.events) + testutil.CollectAndCount(b.metrics.requests); after != before {
		t.Errorf("%d series became %d", before, after)
	}
}

// The log names the event and the outcome, keeps bodies, signatures and secrets
// to itself, and cannot be filled from outside.
func TestLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&out), zap.DebugLevel)
	b := newBench(t, func(b *bench, o *Options) {
		o.Log = zap.New(core)
		b.queue.fault = func(n int) error {
			if n == 2 {
				panic("jenny@example.com")
			}
			return []error{nil, nil, nil, errCut}[min(n, 3)]
		}
	})
	private := `,"email":"jenny@example.com","x":"evil\r\n{\"level\":\"error\"}"`
	good := eventWith("evt_1", "customer.updated", customer, private)
	for range 1000 {
		b.post(good)
		b.do(httptest.NewRequest("POST", Path, bytes.NewReader(good)))
		b.do(httptest.NewRequest("GET", "/etc/passwd", nil))
		forged := signed(good)
		forged.Header.Set("Stripe-Signature", sign(good, testClock, "whsec_other"))
		b.do(forged)
	}
	b.post([]byte(`{"object":"event","email":"jenny@example.com"}`))
	text := out.String()
	for _, never := range []string{"jenny", secret, "whsec", "v1=", sign(good, testClock, secret)[20:], "evil", "passwd"} {
		if strings.Contains(text, never) {
			t.Errorf("the log has %q", never)
		}
	}
	for _, want := range []string{
		`"component":"webhook"`, `"event_id":"evt_1"`, `"event_type":"customer.updated"`, `"customer_id":"` + customer + `"`,
		`"outcome":"queued"`, `"outcome":"queue_error"`, `"error":"mark targets: connection cut"`, `"outcome":"panic"`,
		`"outcome":"signature_wrong"`, `"outcome":"unreadable"`, `"dead_letter_id":"dead_`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	if n := strings.Count(text, "\n"); n > 40 {
		t.Errorf("%d lines for 4,000 refusals:\n%s", n, text[:2000])
	}
}

// An arrival is reported whatever becomes of the event, but only where it proves
// that the endpoint brings what the mirror follows: verified, of our mode and
// accounts, of a type that is asked for.
func TestArrivals(t *testing.T) {
	t.Parallel()
	const customer = "cus_1"
	for _, c := range []struct {
		name string
		raw  []byte
		down bool
		want string
	}{
		{"taken", event("evt_1", customer), false, " 1680216086"},
		{"of a connected account", eventWith("evt_1", "customer.updated", customer, `,"account":"acct_1"`), false, "acct_1 1680216086"},
		{"not durable, 503", event("evt_1", customer), true, " 1680216086"},
		{"nobody's invoice", eventWith("evt_1", "invoice.finalized", "in_1", ""), false, " 1680216086"},
		{"unreadable", []byte("{"), false, " never"},
		{"another type", eventWith("evt_1", "charge.succeeded", "ch_1", ""), false, ""},
		{"another account", eventWith("evt_1", "customer.updated", customer, `,"account":"acct_2"`), false, ""},
		{"the other mode", bytes.ReplaceAll(event("evt_1", customer), []byte(`"livemode":false`), []byte(`"livemode":true`)), false, ""},
	} {
		got, refused := "", time.Time{}
		b := newBench(t, func(b *bench, o *Options) {
			o.Accounts = func(account string) bool { return account == "acct_1" }
			o.Refused = func(created time.Time) { refused = created }
			o.Arrived = func(account string, created time.Time) {
				if got = account + " never"; !created.IsZero() {
					got = fmt.Sprint(account, " ", created.Unix())
				}
			}
			if c.down {
				o.Queue = downQueue{}
			}
		})
		b.post(c.raw)
		if got != c.want {
			t.Errorf("%s: told %q, want %q", c.name, got, c.want)
		}
		if c.down != (refused.Unix() == 1680216086) || !c.down && !refused.IsZero() {
			t.Errorf("%s: refused %v", c.name, refused)
		}
		got = ""
		unsigned := signed(c.raw)
		unsigned.Header.Set("Stripe-Signature", "t=1,v1=00")
		if b.do(unsigned); got != "" {
			t.Errorf("%s: an unsigned body is told of as %q", c.name, got)
		}
	}
}

// downQueue is a Redis that refuses.
type downQueue struct{}

func (downQueue) Mark(context.Context, []Marking) ([]bool, error) { return nil, errors.New("down") }
