package endpoint

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/stripesim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver takes webhooks as ours does: any of its secrets may have signed.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	secrets []string
	got     map[string]int
	refused int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{got: map[string]int{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, _, verifyErr := stripeapi.VerifySignature(body, req.Header, r.secrets, time.Now()); err != nil || verifyErr != nil {
			r.refused++
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if e, err := mirror.DecodeEvent(body); err == nil {
			r.got[e.ID]++
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) know(secrets ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = secrets
}

type world struct {
	sim      *stripesim.Server
	service  *Service
	client   *stripeapi.Client
	receiver *receiver
	want     Wanted
	secrets  []string
}

func newWorld(t *testing.T, o stripesim.Options) *world {
	t.Helper()
	o.Delivery.RetryFirst, o.Delivery.RetryMax, o.Delivery.Attempts = 50*time.Millisecond, 200*time.Millisecond, 100
	sim, err := stripesim.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	server := httptest.NewServer(sim.Handler())
	t.Cleanup(server.Close)
	client, err := stripeapi.New(stripeapi.Options{Key: "sk_test_x", Base: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w := &world{sim: sim, service: New(client), client: client, receiver: newReceiver(t)}
	w.want = Wanted{URL: w.receiver.URL + "/webhooks/stripe", Version: stripeapi.DefaultVersion}
	return w
}

func (w *world) keep(secret string) error { w.secrets = append(w.secrets, secret); return nil }

func (w *world) create(t *testing.T) Outcome {
	t.Helper()
	o, err := w.service.Create(t.Context(), w.want, w.keep)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// problems are what Check complains of.
func (w *world) problems(t *testing.T) (about []string) {
	t.Helper()
	list, err := w.service.Check(t.Context(), w.want)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.Problem {
			about = append(about, f.About)
		}
	}
	return about
}

func TestCreateIsExactAndIdempotent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripesim.Options{})
	if got := w.problems(t); !slices.Equal(got, []string{"endpoint"}) {
		t.Fatalf("before: %v", got)
	}
	made := w.create(t)
	types := slices.Sorted(slices.Values(made.Endpoint.EnabledEvents))
	if !made.Created || !slices.Equal(types, mirror.EventTypes()) || made.Endpoint.APIVersion != stripeapi.DefaultVersion || len(w.secrets) != 1 || !strings.HasPrefix(w.secrets[0], "whsec_") {
		t.Fatalf("%+v, secrets %v", made, w.secrets)
	}
	if got := w.problems(t); got != nil {
		t.Fatalf("after: %v", got)
	}
	calls := w.sim.Calls()["POST /v1/webhook_endpoints/{id}"]
	if again := w.create(t); again.Created || again.Endpoint.ID != made.Endpoint.ID || len(w.secrets) != 1 || len(again.Added)+len(again.Removed) > 0 {
		t.Fatalf("again: %+v", again)
	}
	if n := w.sim.Calls()["POST /v1/webhook_endpoints/{id}"]; n != calls {
		t.Fatal("doing it twice changes something")
	}
}

// In live mode test clocks have no events.
func TestTypesOfTheMode(t *testing.T) {
	t.Parallel()
	if live := (Wanted{Livemode: true}).Types(); slices.Contains(live, clockEvent) || len(live) != len(mirror.EventTypes())-1 {
		t.Fatal(live)
	}
}

// Whatever has become of an endpoint, check names it and create mends it.
func TestCheckNamesAndCreateMends(t *testing.T) {
	t.Parallel()
	yes := true
	tests := []struct {
		name   string
		spoil  stripeapi.WebhookEndpointChange
		want   string
		mended func(Outcome) bool
	}{
		{"disabled", stripeapi.WebhookEndpointChange{Disabled: &yes}, "status", func(o Outcome) bool { return o.Enabled && o.Endpoint.Status == "enabled" }},
		{
			"types are missing, others came",
			stripeapi.WebhookEndpointChange{EnabledEvents: []string{"customer.updated", "charge.succeeded"}},
			"events",
			func(o Outcome) bool {
				return len(o.Added) == len(mirror.EventTypes())-1 && slices.Equal(o.Removed, []string{"charge.succeeded"})
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, stripesim.Options{})
			made := w.create(t)
			if _, err := w.client.UpdateWebhookEndpoint(t.Context(), "", made.Endpoint.ID, tt.spoil); err != nil {
				t.Fatal(err)
			}
			if got := w.problems(t); !slices.Equal(got, []string{tt.want}) {
				t.Fatalf("problems %v, want %s", got, tt.want)
			}
			if o := w.create(t); !tt.mended(o) {
				t.Fatalf("%+v", o)
			}
			if got := w.problems(t); got != nil {
				t.Fatalf("afterwards %v", got)
			}
		})
	}
}

// An endpoint that somebody made by hand keeps the types that are not ours.
func TestForeignEndpoints(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripesim.Options{})
	e, _, err := w.client.CreateWebhookEndpoint(t.Context(), "", stripeapi.NewWebhookEndpoint{
		URL: w.want.URL, EnabledEvents: []string{"charge.succeeded"}, APIVersion: "2024-06-20",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.problems(t); !slices.Equal(got, []string{"events", "version"}) {
		t.Fatalf("problems %v", got)
	}
	o := w.create(t)
	if o.Created || o.Endpoint.ID != e.ID || !slices.Contains(o.Endpoint.EnabledEvents, "charge.succeeded") || len(o.Endpoint.EnabledEvents) != len(mirror.EventTypes())+1 {
		t.Fatalf("%+v", o)
	}
	// Its version cannot be changed; a rotation makes one of the right version.
	if got := w.problems(t); !slices.Equal(got, []string{"version"}) {
		t.Fatalf("problems %v", got)
	}
	// For connected accounts it is another endpoint.
	connect := w.want
	connect.Connect = true
	if o, err := w.service.Create(t.Context(), connect, w.keep); err != nil || !o.Created {
		t.Fatal(o, err)
	}
	if o := w.create(t); o.Created {
		t.Fatalf("the one for connected accounts hides ours: %+v", o)
	}
}

func TestCheckTellsOfClockAndDeliveries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripesim.Options{})
	w.create(t)
	w.receiver.know("whsec_wrong")
	customer(t, w)
	// Deliveries of a moment ago may be on their way; later they are a problem, and
	// the clock of this host is off by as much.
	if got := w.problems(t); got != nil {
		t.Fatalf("at once: %v", got)
	}
	w.service.now = func() time.Time { return time.Now().Add(10 * time.Minute) }
	if got := w.problems(t); !slices.Equal(got, []string{"clock", "deliveries"}) {
		t.Fatalf("problems %v", got)
	}
}

// Where much happens, the newest page of undelivered events is all of events that may be
// on their way: those that are not lie behind it.
func TestCheckLooksBehindWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripesim.Options{})
	if err := w.sim.FreezeClock(time.Now().Add(-10 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	w.create(t) // the receiver knows no secret, and refuses all
	customer(t, w)
	if err := w.sim.AdvanceClock(t.Context(), 10*time.Minute); err != nil {
		t.Fatal(err)
	}
	for range 101 { // more than a page
		customer(t, w)
	}
	if got := w.problems(t); !slices.Equal(got, []string{"deliveries"}) {
		t.Fatalf("problems %v, want deliveries", got)
	}
}

// customer makes a customer, and so an event.
func customer(t *testing.T, w *world) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/customers", http.NoBody)
	req.SetBasicAuth("sk_test_x", "")
	rec := httptest.NewRecorder()
	w.sim.Handler().ServeHTTP(rec, req)
	if rec.Code != http.StatusOK {
		t.Fatal(rec.Code, rec.Body)
	}
}

// A secret that cannot be kept leaves no endpoint behind that nobody can serve.
func TestCreateTakesBackWhatCannotBeKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripesim.Options{})
	full := errors.New("disk full")
	if _, err := w.service.Create(t.Context(), w.want, func(string) error { return full }); !errors.Is(err, full) {
		t.Fatal(err)
	}
	if all, _, err := w.service.List(t.Context(), "", false); err != nil || len(all) != 0 {
		t.Fatalf("left behind: %v %v", all, err)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripesim.Options{})
	made := w.create(t)
	if gone, err := w.service.Delete(t.Context(), "", made.Endpoint.ID); err != nil || gone.URL != w.want.URL {
		t.Fatal(gone, err)
	}
	if _, err := w.service.Delete(t.Context(), "", made.Endpoint.ID); err == nil || !strings.Contains(err.Error(), "endpoint list") {
		t.Fatalf("twice: %v", err)
	}
}

// Under traffic the secret is exchanged in steps, and every event that the account
// ever made was taken at least once.
func TestRotationLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stripesim.Options{Seed: 3})
	w.create(t)
	w.receiver.know(w.secrets[0])
	traffic, err := stripesim.NewTraffic(w.sim, stripesim.TrafficOptions{Seed: 3, Customers: 20, Rate: 100})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- traffic.Run(ctx) }()

	if _, _, err := w.service.FinishRotation(t.Context(), w.want, false); err == nil {
		t.Fatal("ended a rotation that never began")
	}
	time.Sleep(1100 * time.Millisecond) // Stripe's times have whole seconds
	if _, err := w.service.Rotate(t.Context(), w.want, w.keep); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Rotate(t.Context(), w.want, w.keep); !errors.Is(err, ErrUnderWay) {
		t.Fatalf("began it twice: %v", err)
	}
	// The receivers do not know the new secret yet: it must not end.
	until(t, func() bool { w.receiver.mu.Lock(); defer w.receiver.mu.Unlock(); return w.receiver.refused > 10 })
	if _, _, err := w.service.FinishRotation(t.Context(), w.want, false); err == nil || !strings.Contains(err.Error(), "not delivered") {
		t.Fatalf("ended while the new secret was refused: %v", err)
	}
	w.receiver.know(w.secrets[1], w.secrets[0])
	time.Sleep(1100 * time.Millisecond) // an event of a later second than the endpoint's
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	until(t, func() bool {
		kept, gone, err := w.service.FinishRotation(t.Context(), w.want, false)
		return err == nil && len(gone) == 1 && kept.ID != gone[0].ID
	})
	// Only the new one is left, and known.
	w.receiver.know(w.secrets[1])
	customer(t, w)
	if err := w.sim.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for after, n := "", 0; ; {
		page, err := w.client.EventsPage(t.Context(), "", stripeapi.EventsQuery{After: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			if mirror.Interesting(e.Type) {
				n++
				if w.receiver.got[e.ID] == 0 {
					t.Errorf("%s (%s) was lost", e.ID, e.Type)
				}
			}
		}
		if after = page.LastID; !page.HasMore {
			if n < 50 {
				t.Fatalf("only %d events", n)
			}
			return
		}
	}
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience.Of(20 * time.Second)); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never came to that")
		}
	}
}
