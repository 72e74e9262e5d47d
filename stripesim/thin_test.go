package stripesim

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v79/webhook"
)

// v2 makes a request of the v2 API.
func (s *sim) v2(method, path string, body any, header ...string) answer {
	s.t.Helper()
	var raw []byte
	if body != nil {
		raw = mustMarshal(body)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, bytes.NewReader(raw))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testKey)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, raw: b.Bytes()}
	if err := json.Unmarshal(a.raw, &a.obj); err != nil {
		s.t.Fatalf("%s: %v", a.raw, err)
	}
	return a
}

// destination makes an event destination of thin events.
func (s *sim) destination(url string, more obj) (id, secret string) {
	s.t.Helper()
	body := obj{
		"name": "test", "type": "webhook_endpoint", "event_payload": "thin", "enabled_events": []string{"*"},
		"webhook_endpoint": obj{"url": url}, "include": []string{"webhook_endpoint.signing_secret", "webhook_endpoint.url"},
	}
	for k, v := range more {
		body[k] = v
	}
	r := s.v2("POST", "/v2/core/event_destinations", body)
	if r.status != 200 || r.str("webhook_endpoint.url") != url || !strings.HasPrefix(r.str("id"), "ed_test_") {
		s.t.Fatalf("%d %s", r.status, r.raw)
	}
	return r.str("id"), r.str("webhook_endpoint.signing_secret")
}

func TestThinEventsAreDelivered(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now, Delivery: quick, Accounts: []string{"acct_a"}})
	thin, snapshot, connected := receive(t, nil), receive(t, nil), receive(t, nil)
	_, secret := s.destination(thin.URL, obj{"enabled_events": []string{"v1.customer.updated", "v1.billing.credit_grant.created"}})
	s.destination(connected.URL, obj{"events_from": []string{"@accounts"}})
	s.hook(snapshot.URL, "enabled_events[]=customer.updated")
	cus := s.customer()
	s.adjust(cus, -5, "usd")
	if _, err := s.request("POST", "/v1/customers", http.Header{"Stripe-Account": {"acct_a"}}); err != nil {
		t.Fatal(err)
	}
	s.settle()
	got := thin.all()
	equal(t, "thin deliveries", len(got), 1)
	if err := webhook.ValidatePayload(got[0].body, got[0].header, secret); err != nil {
		t.Fatal(err)
	}
	e := answer{obj: got[0].event}
	equal(t, "object", e.str("object"), "v2.core.event")
	equal(t, "type", e.str("type"), "v1.customer.updated")
	equal(t, "related", e.str("related_object.url"), "/v1/customers/"+cus)
	equal(t, "related type", e.str("related_object.type"), "customer")
	equal(t, "twin", e.str("snapshot_event"), snapshot.ids()[0])
	equal(t, "no changes", e.at("changes"), nil)
	equal(t, "reason", e.str("reason.type"), "request")
	if _, err := time.Parse("2006-01-02T15:04:05.000Z", e.str("created")); err != nil {
		t.Error(err)
	}
	if e.obj["context"] != nil {
		t.Errorf("context %v for the account's own event", e.obj["context"])
	}
	from := answer{obj: connected.all()[0].event}
	equal(t, "connected", from.str("context"), "acct_a")
	equal(t, "pending of the twin", s.get("/v1/events/"+e.str("snapshot_event")).num("pending_webhooks"), 0)

	whole := s.v2("GET", "/v2/core/events/"+e.str("id"), nil)
	equal(t, "before", whole.num("changes.before.balance"), 0)
	equal(t, "after", whole.num("changes.after.balance"), -5)
	equal(t, "no v1 event", s.do("GET", "/v1/events/"+e.str("id")).status, 404)
	list := s.v2("GET", "/v2/core/events?object_id="+cus+"&types[0]=v1.customer.updated", nil)
	equal(t, "listed", len(list.data()), 1)
	for _, gone := range []string{"object", "has_more", "url"} {
		if _, is := list.obj[gone]; is {
			t.Errorf("a v2 list has %s", gone)
		}
	}
	first := s.v2("GET", "/v2/core/events?limit=1", nil)
	next := s.v2("GET", first.str("next_page_url"), nil)
	equal(t, "pages", first.ids()[0] != next.ids()[0], true)
	equal(t, "last page", next.at("next_page_url"), nil)
}

func TestEventDestinationLifeCycle(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now, Delivery: quick})
	r := receive(t, nil)
	id, _ := s.destination(r.URL, nil)
	path := "/v2/core/event_destinations/" + id
	equal(t, "redacted", s.v2("GET", path, nil).at("webhook_endpoint.url"), nil)
	equal(t, "no v1 endpoint", s.do("GET", "/v1/webhook_endpoints/"+id).status, 404)
	equal(t, "not in the v1 list", len(s.get("/v1/webhook_endpoints").data()), 0)
	ping := s.v2("POST", path+"/ping", obj{})
	s.settle()
	equal(t, "pinged", r.ids()[0], ping.str("id"))
	equal(t, "ping is about", r.all()[0].event["related_object"].(obj)["id"], any(id))
	equal(t, "ping is no v1 event", len(s.get("/v1/events").data()), 0)
	equal(t, "disabled", s.v2("POST", path+"/disable", nil).str("status"), "disabled")
	s.customer()
	s.settle()
	equal(t, "nothing while disabled", len(r.all()), 1)
	equal(t, "enabled", s.v2("POST", path+"/enable", nil).str("status"), "enabled")
	equal(t, "types", s.v2("POST", path, obj{"enabled_events": []string{"v1.customer.deleted"}}).at("enabled_events").([]any)[0], any("v1.customer.deleted"))

	var saved bytes.Buffer
	if err := s.Save(&saved); err != nil {
		t.Fatal(err)
	}
	other := start(t, Options{Now: time.Now, Delivery: quick})
	if err := other.Load(bytes.NewReader(saved.Bytes())); err != nil {
		t.Fatal(err)
	}
	equal(t, "kept in a state", other.v2("GET", path, nil).str("event_payload"), "thin")
	equal(t, "ping kept", other.v2("GET", "/v2/core/events/"+ping.str("id"), nil).str("type"), thinPing)

	equal(t, "deleted", s.v2("DELETE", path, nil).str("id"), id)
	equal(t, "gone", s.v2("GET", path, nil).status, 404)
	for name, bad := range map[string]obj{
		"v1 name":      {"enabled_events": []string{"customer.updated"}},
		"version":      {"snapshot_api_version": Version},
		"organisation": {"events_from": []string{"@organization_members"}},
		"no URL":       {"webhook_endpoint": obj{"url": "x"}},
		"EventBridge":  {"type": "amazon_eventbridge"},
		"unknown":      {"nonsense": true},
	} {
		body := obj{"name": "x", "type": "webhook_endpoint", "event_payload": "thin", "enabled_events": []string{"*"}, "webhook_endpoint": obj{"url": r.URL}}
		for k, v := range bad {
			body[k] = v
		}
		if a := s.v2("POST", "/v2/core/event_destinations", body); a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	s.SetSwitches(Switches{NoThinEvents: true})
	equal(t, "switched off", s.v2("GET", "/v2/core/events", nil).status, 404)
}

// An event that could not be made is reported by a thin one, which names what to read.
func TestFailedEventIsToldOf(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now, Delivery: quick})
	r := receive(t, nil)
	s.destination(r.URL, obj{"enabled_events": []string{thinFailure}})
	cus := s.customer()
	if err := s.SetFaults(Faults{{Kind: FaultEventFailed, Count: 1, Event: "customer.updated"}}); err != nil {
		t.Fatal(err)
	}
	s.adjust(cus, -5, "usd")
	s.settle()
	e := answer{obj: r.all()[0].event}
	equal(t, "type", e.str("type"), thinFailure)
	equal(t, "failed", e.str("data.impact.event_type"), "customer.updated")
	equal(t, "about", e.str("data.impact.related_object.url"), "/v1/customers/"+cus)
	equal(t, "only created is listed", len(s.get("/v1/events").data()), 1)
}

// The commonest mistake of webhook handlers: a framework has parsed the body, and what
// is verified is its own print of it. It fails here as it fails at Stripe, because
// Stripe's bodies are not printed as any framework prints them.
func TestVerifyingAReprintedBodyFails(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now, Delivery: quick})
	r := receive(t, nil)
	_, secret := s.hook(r.URL)
	thin := receive(t, nil)
	_, thinSecret := s.destination(thin.URL, nil)
	cus := s.customer()
	s.adjust(cus, -5, "usd")
	s.settle()
	for _, of := range []struct {
		*receiver
		secret string
	}{{r, secret}, {thin, thinSecret}} {
		for _, d := range of.all() {
			if err := webhook.ValidatePayload(d.body, d.header, of.secret); err != nil {
				t.Fatal(err)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, d.body); err != nil { // what JSON.stringify makes of it
				t.Fatal(err)
			}
			if err := webhook.ValidatePayload(compact.Bytes(), d.header, of.secret); err == nil {
				t.Errorf("the compact print of %.60s… is accepted", d.body)
			}
			if !bytes.HasPrefix(d.body, []byte("{\n  \"id\": \"evt_")) {
				t.Errorf("%.40q… is not printed as Stripe prints", d.body)
			}
		}
	}
	if reply := s.get("/v1/customers/" + cus); !bytes.HasPrefix(reply.raw, []byte("{\n  \"id\": \"cus_")) {
		t.Errorf("%.40q… is not printed as Stripe prints", reply.raw)
	}
}

// TestSDKsParseThinEvents hands thin events that the simulator has sent to Stripe's own
// libraries, which verify and parse them, and fetch what they are about.
func TestSDKsParseThinEvents(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Now: time.Now, Delivery: quick})
	r := receive(t, nil)
	_, secret := s.destination(r.URL, obj{"enabled_events": []string{"v1.customer.updated"}})
	cus := s.customer()
	s.adjust(cus, -5, "usd")
	s.settle()
	sent := r.all()[0]
	in := mustMarshal(map[string]string{
		"Payload": string(sent.body), "Header": sent.header, "Secret": secret, "Base": s.url, "Key": testKey,
	})
	id := sent.event["id"].(string)
	want := "parsed " + id + " v1.customer.updated false\nfetched " + id + " v1.customer.updated\nchanged true\n"
	run := func(t *testing.T, cmd *exec.Cmd) string {
		t.Helper()
		var stderr strings.Builder
		cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
		out, err := cmd.Output()
		if err != nil || !strings.HasPrefix(string(out), want) {
			t.Fatalf("%v: printed\n%s%s\nwant\n%s", err, out, stderr.String(), want)
		}
		return strings.TrimPrefix(string(out), want)
	}
	t.Run("stripe-node", func(t *testing.T) {
		cmd := exec.Command(needs(t, "node"), "thin.mjs")
		cmd.Dir = filepath.Join("testdata", "sdk", "node")
		if _, err := os.Stat(filepath.Join(cmd.Dir, "node_modules", "stripe")); err != nil {
			if os.Getenv("CREDITMIRROR_REQUIRE_SERVICES") == "1" {
				t.Fatal("stripe-node is not installed: make sdk")
			}
			t.Skip("stripe-node is not installed: make sdk")
		}
		equal(t, "the rest", run(t, cmd), "related "+cus+" -5 -5 "+sent.event["snapshot_event"].(string)+"\ndestination true true\nlisted 2\n")
	})
	t.Run("newest stripe-go", func(t *testing.T) {
		bin := filepath.Join(t.TempDir(), "thin")
		build := exec.Command(needs(t, "go"), "build", "-o", bin, "./thin")
		build.Dir = filepath.Join("testdata", "sdk", "go")
		build.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
		if msg, err := build.CombinedOutput(); err != nil {
			if os.Getenv("CREDITMIRROR_REQUIRE_SERVICES") == "1" || !strings.Contains(string(msg), "dial tcp") {
				t.Fatalf("%v\n%s", err, msg)
			}
			t.Skipf("stripe-go cannot be fetched: %s", msg)
		}
		equal(t, "the rest", run(t, exec.Command(bin)), "")
	})
}
