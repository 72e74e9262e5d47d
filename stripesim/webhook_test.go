package stripesim

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v79/webhook"

	"github.com/creditmirror/creditmirror/internal/patience"
)

// receiver is a webhook endpoint that notes what it gets.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []delivered1
	answer func(n int, r *http.Request) int // n counts from 1
}

type delivered1 struct {
	header string
	body   []byte
	event  obj
}

func receive(t testing.TB, answer func(n int, r *http.Request) int) *receiver {
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		d := delivered1{header: q.Header.Get("Stripe-Signature"), body: body}
		_ = json.Unmarshal(body, &d.event)
		r.mu.Lock()
		r.got = append(r.got, d)
		n := len(r.got)
		r.mu.Unlock()
		status := 200
		if r.answer != nil {
			status = r.answer(n, q)
		}
		if status == 302 {
			w.Header().Set("Location", r.URL+"/elsewhere")
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []delivered1 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *receiver) ids() []string {
	var out []string
	for _, d := range r.all() {
		out = append(out, d.event["id"].(string))
	}
	return out
}

// hook registers url for all events and returns id and secret.
func (s *sim) hook(url string, more ...string) (id, secret string) {
	s.t.Helper()
	if len(more) == 0 {
		more = []string{"enabled_events[]=*"}
	}
	r := s.post("/v1/webhook_endpoints", append([]string{"url=" + url}, more...)...)
	return r.str("id"), r.str("secret")
}

func (s *sim) settle() {
	s.t.Helper()
	if err := s.Settle(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

var quick = Delivery{RetryFirst: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond, Attempts: 4}

func TestDeliveryIsSigned(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now})
	r := receive(t, nil)
	_, secret := s.hook(r.URL, "enabled_events[]=customer.updated", "api_version=2025-01-27.acacia")
	cus := s.customer()
	s.adjust(cus, -5, "usd")
	s.settle()
	got := r.all()
	equal(t, "only what was asked for", len(got), 1)
	e, err := webhook.ConstructEventWithOptions(got[0].body, got[0].header, secret, webhook.ConstructEventOptions{IgnoreAPIVersionMismatch: true})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "type", string(e.Type), "customer.updated")
	equal(t, "version", e.APIVersion, "2025-01-27.acacia")
	equal(t, "pending in the payload", e.PendingWebhooks, 1)
	equal(t, "pending afterwards", s.get("/v1/events/"+e.ID).num("pending_webhooks"), 0)
	if err := webhook.ValidatePayload(got[0].body, got[0].header, "whsec_other"); err == nil {
		t.Fatal("signature fits another secret")
	}
}

func TestSignatureVectors(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Payload   string
		Timestamp int64
		Secrets   map[string]string
		V1        map[string]string
		Headers   map[string]string
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	for name, secret := range v.Secrets {
		want := fmt.Sprintf("t=%d,v1=%s", v.Timestamp, v.V1[name])
		equal(t, name, SignatureHeader(secret, time.Unix(v.Timestamp, 0), []byte(v.Payload)), want)
	}
	equal(t, "valid", SignatureHeader(v.Secrets["current"], time.Unix(v.Timestamp, 0), []byte(v.Payload)), v.Headers["valid"])
}

func TestDeliveryIsRetried(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Delivery: quick, Now: time.Now})
	r := receive(t, func(n int, _ *http.Request) int { return []int{500, 302, 204}[min(n, 3)-1] })
	s.hook(r.URL)
	s.customer()
	s.settle()
	ids := r.ids()
	equal(t, "attempts", len(ids), 3)
	equal(t, "same event", len(slices.Compact(ids)), 1)
	equal(t, "delivered", len(s.get("/v1/events", "delivery_success=true").data()), 1)
	st := s.Endpoints()[0]
	equal(t, "stats", fmt.Sprint(st.Attempts, st.Delivered, st.Failed, st.Abandoned), "3 1 2 0")
}

func TestDeliveryIsGivenUp(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Delivery: quick})
	r := receive(t, func(int, *http.Request) int { return 400 })
	good := receive(t, nil)
	s.hook(r.URL)
	s.hook(good.URL)
	s.customer()
	s.settle()
	equal(t, "attempts", len(r.all()), quick.Attempts)
	equal(t, "other endpoint", len(good.all()), 1)
	ev := s.get("/v1/events", "delivery_success=false").data()
	equal(t, "undelivered", len(ev), 1)
	equal(t, "pending", ev[0]["pending_webhooks"].(float64), 1)
}

func TestSlowEndpointTimesOut(t *testing.T) {
	t.Parallel()
	d := quick
	d.Timeout, d.Attempts = 200*time.Millisecond, 50
	s := start(t, Options{Delivery: d})
	r := receive(t, func(n int, q *http.Request) int {
		if n == 1 {
			<-q.Context().Done()
		}
		return 200
	})
	s.hook(r.URL)
	s.customer()
	s.settle()
	if n := len(r.all()); n < 2 {
		t.Fatalf("%d attempts", n)
	}
	equal(t, "delivered", len(s.get("/v1/events", "delivery_success=true").data()), 1)
}

func TestEndpointLifeCycle(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Delivery: quick})
	r := receive(t, nil)
	id, secret := s.hook(r.URL)
	equal(t, "secret is long", len(secret) > 30, true)
	h := s.get("/v1/webhook_endpoints/" + id)
	equal(t, "secret only once", h.at("secret"), nil)
	equal(t, "status", h.str("status"), "enabled")
	s.post("/v1/webhook_endpoints/"+id, "enabled_events[]=customer.deleted", "description=d")
	s.customer()
	s.settle()
	equal(t, "not asked for", len(r.all()), 0)
	s.post("/v1/webhook_endpoints/"+id, "enabled_events[]=*", "disabled=true")
	s.customer()
	s.settle()
	equal(t, "disabled", len(r.all()), 0)
	equal(t, "status", s.get("/v1/webhook_endpoints").data()[0]["status"].(string), "disabled")
	s.post("/v1/webhook_endpoints/"+id, "disabled=false")
	s.customer()
	s.settle()
	equal(t, "enabled again", len(r.all()), 1)
	equal(t, "deleted", s.must("DELETE", "/v1/webhook_endpoints/"+id).at("deleted"), any(true))
	equal(t, "gone", s.do("GET", "/v1/webhook_endpoints/"+id).status, 404)
	s.customer()
	s.settle()
	equal(t, "after deletion", len(r.all()), 1)
}

func TestDeletedEndpointEndsRetries(t *testing.T) {
	t.Parallel()
	d := quick
	d.Attempts, d.RetryFirst, d.RetryMax = 1000, 20*time.Millisecond, 20*time.Millisecond
	s := start(t, Options{Delivery: d})
	first := make(chan struct{}, 1000)
	r := receive(t, func(int, *http.Request) int { first <- struct{}{}; return 500 })
	id, _ := s.hook(r.URL)
	s.customer()
	<-first
	s.must("DELETE", "/v1/webhook_endpoints/"+id)
	s.settle()
}

func TestConnectEndpoints(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Accounts: []string{"acct_a"}})
	own, connect, direct := receive(t, nil), receive(t, nil), receive(t, nil)
	s.hook(own.URL)
	s.hook(connect.URL, "enabled_events[]=*", "connect=true")
	in := http.Header{"Stripe-Account": {"acct_a"}}
	if _, err := s.request("POST", "/v1/webhook_endpoints", in, "url="+direct.URL, "enabled_events[]=*"); err != nil {
		t.Fatal(err)
	}
	s.customer()
	if _, err := s.request("POST", "/v1/customers", in); err != nil {
		t.Fatal(err)
	}
	s.settle()
	equal(t, "platform's", len(own.all()), 1)
	equal(t, "connect", len(connect.all()), 1)
	equal(t, "account's own", len(direct.all()), 1)
	equal(t, "account", connect.all()[0].event["account"], any("acct_a"))
	equal(t, "no account", own.all()[0].event["account"], nil)
	equal(t, "no account", direct.all()[0].event["account"], nil)
}

func TestOldPins(t *testing.T) {
	t.Parallel()
	for _, off := range []bool{false, true} {
		s := start(t, Options{Switches: Switches{OldPinsWithoutCreditEvents: off}})
		r := receive(t, nil)
		s.hook(r.URL, "enabled_events[]=*", "api_version=2024-06-20")
		s.grant(s.customer(), 5)
		s.settle()
		want := 3
		if off {
			want = 1
		}
		equal(t, "delivered", len(r.all()), want)
	}
}

func TestCloseDropsWhatIsOutstanding(t *testing.T) {
	t.Parallel()
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	r := receive(t, func(_ int, q *http.Request) int {
		select {
		case hold <- struct{}{}:
		case <-q.Context().Done():
		}
		<-q.Context().Done()
		return 200
	})
	a := s.account("")
	a.mu.Lock()
	a.publish(&hook{node: node{id: "we_1"}, url: r.URL, enabled: []string{"*"}})
	for range 100 {
		a.createCustomer(a.callerCause(), customerChange{}, nil)
	}
	a.mu.Unlock()
	<-hold
	s.Close()
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestDeliveryRate(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now})
	rs := []*receiver{receive(t, nil), receive(t, nil)}
	for _, r := range rs {
		s.hook(r.URL)
	}
	begin := time.Now()
	const n = 500
	for range n {
		a := s.account("")
		a.mu.Lock()
		a.createCustomer(a.callerCause(), customerChange{}, nil)
		a.mu.Unlock()
	}
	s.settle()
	for _, r := range rs {
		equal(t, "delivered", len(r.all()), n)
	}
	if d := time.Since(begin); d > patience.Of(30*time.Second) {
		t.Fatalf("%d deliveries took %v", 2*n, d)
	}
}
