package webhook

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/creditmirror/creditmirror/mirror"
)

// Every event of Stripe's that the fixtures hold, with the targets it must mark.
func TestFixtureEvents(t *testing.T) {
	t.Parallel()
	balance := []string{"balance::" + customer}
	credits := []string{"credits::cus_QsEHa3GKweMwih"}
	owner := []string{"grant_owner::credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE"}
	want := map[string][]string{
		"billing.credit_balance_transaction.created.credit":     owner,
		"billing.credit_balance_transaction.created.debit":      owner,
		"billing.credit_grant.created":                          credits,
		"billing.credit_grant.updated.expired":                  credits,
		"billing.credit_grant.updated.voided":                   credits,
		"connect_account.customer.updated":                      {"balance:acct_1032D82eZvKYlo2C:" + customer},
		"credit_note.created":                                   balance,
		"customer.created":                                      balance,
		"customer.deleted":                                      {"balance::" + customer, "credits::" + customer},
		"customer.updated.balance":                              balance,
		"customer.updated.balance_by_stripe":                    balance,
		"customer.updated.balance_second":                       balance,
		"customer.updated.metadata_only":                        balance,
		"customer_cash_balance_transaction.created":             nil,
		"invoice.finalized.trimmed":                             balance,
		"invoice.voided.trimmed":                                balance,
		"test_helpers.test_clock.ready":                         {"clock_customers::clock_1Q0BoJL6nFOS1ekDbyYYuseM"},
		"thin.v2.core.event_destination.ping":                   nil,
		"thin.v2.core.health.event_generation_failure.resolved": balance,
	}
	files, err := filepath.Glob("testdata/events/*.json")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d fixtures, want %d: %v", len(files), len(want), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b := newBench(t, func(_ *bench, o *Options) {
			o.Accounts = func(account string) bool { return account == "acct_1032D82eZvKYlo2C" }
			o.Livemode = func(bool) bool { return true }
		})
		w := b.post(raw)
		var got []string
		for _, target := range b.queue.targets() {
			got = append(got, target.Key())
		}
		if diff := cmp.Diff(want[name], got); diff != "" || w.Code != 200 {
			t.Errorf("%s: code %d, targets (-want +got):\n%s", name, w.Code, diff)
		}
		if want[name] == nil && (b.writes() != 0 || b.events("other", "ignored") != 1) {
			t.Errorf("%s: %d writes, counted %d as ignored", name, b.writes(), b.events("other", "ignored"))
		}
	}
}

// thinEvent makes a thin event.
func thinEvent(id, kind, about, more string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"object":"v2.core.event","type":%q,"livemode":false,"created":"2023-03-30T22:41:26.123Z",
  "related_object":{"id":%q,"type":"x","url":"/v1/x"}%s}`, id, kind, about, more)
}

// A change that comes as a snapshot and as a thin event is one event.
func TestThinEventAndItsTwinAreOne(t *testing.T) {
	t.Parallel()
	thin := thinEvent("evt_test_65", "v1.customer.updated", customer, `,"snapshot_event":"evt_1"`)
	for name, order := range map[string][2][]byte{
		"thin first": {thin, event("evt_1", customer)}, "snapshot first": {event("evt_1", customer), thin},
	} {
		b := newBench(t, nil)
		for _, raw := range order {
			if w := b.post(raw); w.Code != 200 {
				t.Fatalf("%s: code %d", name, w.Code)
			}
		}
		if ids := slices.Collect(maps.Keys(b.inbox.receipts)); !slices.Equal(ids, []string{"evt_1"}) {
			t.Errorf("%s: the inbox has %v, want the one event", name, ids)
		}
		if got := b.queue.targets(); len(got) == 0 || got[0].Key() != "balance::"+customer {
			t.Errorf("%s: marked %v", name, got)
		}
	}
}

// The context of a thin event is the connected account; another one is logged once.
func TestContextOfThinEvents(t *testing.T) {
	t.Parallel()
	logs, observed := observe()
	b := newBench(t, func(_ *bench, o *Options) {
		o.Log = logs
		o.Accounts = func(account string) bool { return account == "acct_1" }
	})
	for range 3 {
		for context, want := range map[string]string{"acct_1": "queued", "acct_2": "ignored", "org_1/acct_1": "ignored"} {
			raw := thinEvent("evt_test_65", "v1.customer.updated", customer, fmt.Sprintf(`,"context":%q`, context))
			if w := b.post(raw); w.Code != 200 || b.count(200, want) == 0 {
				t.Errorf("%s: code %d, want it %s", context, w.Code, want)
			}
		}
	}
	if got := b.queue.targets(); len(got) == 0 || got[0].Key() != "balance:acct_1:"+customer {
		t.Errorf("marked %v, want the account's customer", got)
	}
	told := observed.FilterMessage("ignored an event of another context").All()
	if len(told) != 1 || told[0].ContextMap()["context"] != "org_1/acct_1" {
		t.Errorf("told %v, want once", told)
	}
}

// What Amazon EventBridge and Azure Event Grid wrap an event in is taken off, once the
// whole is signed; without Stripe's scheme of signing it is refused, with words.
func TestEnvelopesOfEventBuses(t *testing.T) {
	t.Parallel()
	inner := string(event("evt_1", customer))
	for name, raw := range map[string]string{
		"EventBridge": `{"version":"0","id":"6f87","detail-type":"customer.updated","source":"aws.partner/stripe.com/ed_test_61","account":"123456789012","detail":` + inner + `}`,
		"Event Grid":  `{"specversion":"1.0","id":"6f87","type":"customer.updated","source":"stripe","data":` + inner + `}`,
	} {
		b := newBench(t, nil)
		if w := b.post([]byte(raw)); w.Code != 200 || !b.queue.marked("evt_1") {
			t.Errorf("%s: code %d, want its event marked", name, w.Code)
		}
	}
	logs, observed := observe()
	b := newBench(t, func(_ *bench, o *Options) { o.Log = logs })
	r := httptest.NewRequest(http.MethodPost, Path, strings.NewReader(`{"source":"aws.partner/stripe.com/ed_1","detail":`+inner+`}`))
	r.Header.Set("User-Agent", "Amazon/EventBridge/ApiDestinations")
	r.Header.Set("Authorization", "Bearer my-own-token")
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	if w.Code != 400 || b.writes() != 0 || w.Body.String() != "Bad Request\n" {
		t.Errorf("unsigned: code %d %q, %d writes", w.Code, w.Body, b.writes())
	}
	if got := observed.FilterMessageSnippet("Amazon EventBridge").Len(); got != 1 {
		t.Errorf("logged %d times, want once", got)
	}
}

// Verified events that are not ours end in 200 and write nothing.
func TestNotOfInterest(t *testing.T) {
	t.Parallel()
	live := bytes.ReplaceAll(event("evt_1", customer), []byte(`"livemode":false`), []byte(`"livemode":true`))
	connected := eventWith("evt_1", "customer.updated", customer, `,"account":"acct_1"`)
	for _, c := range []struct {
		name, eventType, outcome string
		raw                      []byte
	}{
		{"type", "other", "ignored", eventWith("evt_1", "charge.succeeded", "ch_1", "")},
		{"type unheard of", "other", "ignored", eventWith("evt_1", "a.b\u2028c", "x", "")},
		{"account", "customer.updated", "ignored", connected},
		{"mode", "customer.updated", "other_mode", live},
		{"nobody's invoice", "invoice.finalized", "ignored", eventWith("evt_1", "invoice.finalized", "in_1", "")},
		{"thin", "other", "ignored", []byte(`{"id":"evt_1","object":"v2.core.event","type":"v2.core.x"}`)},
	} {
		b := newBench(t, nil)
		if w := b.post(c.raw); w.Code != 200 || b.writes() != 0 || b.events(c.eventType, c.outcome) != 1 || b.count(200, c.outcome) != 1 {
			t.Errorf("%s: code %d, %d writes, %d counted", c.name, w.Code, b.writes(), b.events(c.eventType, c.outcome))
		}
	}
}

// A verified body that cannot be read ends in 200 only once it is kept.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	good := string(event("evt_1", customer))
	deep := strings.Replace(good, `"previous_attributes"`, `"x":`+strings.Repeat("[", 1e5)+strings.Repeat("]", 1e5)+`,"p"`, 1)
	for name, c := range map[string]struct{ raw, reason string }{
		"empty":          {"", "the event is not valid JSON"},
		"not JSON":       {"hello", "the event is not valid JSON"},
		"BOM":            {"\xef\xbb\xbf" + good, "the event is not valid JSON"},
		"deep":           {deep, "the event is not valid JSON"},
		"invalid UTF-8":  {strings.Replace(good, "cus_", "cus_\xff", 1), "the event is not valid UTF-8"},
		"null":           {"null", "the event's envelope is incomplete"},
		"array":          {"[]", "the event's envelope is incomplete"},
		"no id":          {strings.Replace(good, `"id"`, `"ID"`, 1), "the event's envelope is incomplete"},
		"id a path":      {strings.Replace(good, customer, "cus_../../v1/charges", 1), "the event's envelope is incomplete"},
		"id escaped":     {strings.Replace(good, customer, "cus_%2e", 1), "the event's envelope is incomplete"},
		"id of 300":      {strings.Replace(good, customer, "cus_"+strings.Repeat("a", 300), 1), "the event's envelope is incomplete"},
		"id with a NUL":  {strings.Replace(good, customer, `cus_\u0000`, 1), "the event's envelope is incomplete"},
		"unicode id":     {strings.Replace(good, customer, "cus_ä", 1), "the event's envelope is incomplete"},
		"no created":     {strings.Replace(good, `"created"`, `"x"`, 1), "the event's envelope is incomplete"},
		"negative time":  {strings.Replace(good, `:1680216086`, `:-1`, 1), "the event's envelope is incomplete"},
		"account a word": {string(eventWith("evt_1", "customer.updated", customer, `,"account":"x"`)), "the event's envelope is incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(b *bench, _ *Options) {
				b.letters.fault = func(n int) error { return []error{errCut, errReplyLost, nil}[n-1] }
			})
			codes := [3]int{}
			for i := range codes {
				codes[i] = b.post([]byte(c.raw)).Code
			}
			if codes != [3]int{503, 503, 200} || b.count(503, "dead_letter_error") != 2 || b.count(200, "unreadable") != 1 {
				t.Fatalf("codes %v", codes)
			}
			want := mirror.DeadLetter{
				ID:     fmt.Sprintf("dead_%x", sha256.Sum256([]byte(c.raw)))[:5+32],
				Reason: c.reason, Attempts: 1, Payload: []byte(c.raw), FirstFailedAt: testClock, LastFailedAt: testClock,
			}
			if diff := cmp.Diff([]mirror.DeadLetter{want, want}, b.letters.kept, cmp.Transformer("bytes", func(b []byte) string { return string(b) })); diff != "" {
				t.Errorf("letters (-want +got):\n%s", diff)
			}
			if b.writes() != 3 {
				t.Errorf("%d writes, want the letters only", b.writes())
			}
		})
	}
}

// What two readers of JSON could read in two ways is read in one: exact case,
// last of doubled keys.
func TestAmbiguousJSON(t *testing.T) {
	t.Parallel()
	many := make([]string, 1e5)
	for i := range many {
		many[i] = fmt.Sprintf(`"%x":0`, i)
	}
	for name, c := range map[string]struct{ more, want string }{
		"ID beside id":   {`,"ID":"evt_other","Type":"x","LIVEMODE":true`, "evt_1"},
		"id doubled":     {`,"id":"evt_2"`, "evt_2"},
		"100,000 keys":   {"," + strings.Join(many, ","), "evt_1"},
		"key with a NUL": {`,"id\u0000":"evt_2"`, "evt_1"},
		"deep enough":    {`,"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "evt_1"},
		"CRLF at end":    {"\r\n", "evt_1"},
	} {
		b := newBench(t, nil)
		w := b.post(eventWith("evt_1", "customer.updated", customer, c.more))
		if w.Code != 200 || len(b.inbox.calls) != 1 || b.inbox.calls[0][0].ID != c.want || !b.queue.marked(c.want) {
			t.Errorf("%s: code %d, inbox %v", name, w.Code, b.inbox.calls)
		}
	}
}

// S09: another api_version is taken, counted, and warned of once a minute.
func TestOtherAPIVersion(t *testing.T) {
	t.Parallel()
	now := testClock
	logs, observed := observe()
	b := newBench(t, func(_ *bench, o *Options) {
		o.Now = func() time.Time { return now }
		o.Log = logs
	})
	other := bytes.ReplaceAll(event("evt_1", customer), []byte(apiVersion), []byte("2015-10-01"))
	for range 3 {
		for range 10 {
			if w := b.post(other); w.Code != 200 {
				t.Fatalf("code %d", w.Code)
			}
		}
		now = now.Add(time.Minute)
	}
	b.post(event("evt_2", customer))
	if got := testutil.ToFloat64(b.metrics.versionMismatch); got != 30 {
		t.Errorf("counted %v, want 30", got)
	}
	if got := observed.FilterMessage("event has a different api version than the pinned one").Len(); got != 3 {
		t.Errorf("%d warnings in three minutes", got)
	}
}
