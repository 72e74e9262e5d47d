package app

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/console"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/reconcile"
)

// What receivers refuse is seen by every process: the console's, which receives nothing, and
// status.
func TestRefusalsOfAllReceivers(t *testing.T) {
	t.Parallel()
	redis, database := redistest.Start(t), pgtest.NewDatabase(t)
	store, err := postgres.Open(t.Context(), database, postgres.Options{})
	if err == nil {
		err = store.Migrate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	open := func(roles ...config.Role) *App {
		t.Helper()
		cfg, err := config.LoadFor([]string{
			"STRIPE_API_KEY=sk_test_away", "STRIPE_WEBHOOK_SECRET=" + awaySecret, "STRIPE_API_BASE=http://127.0.0.1:1", "CREDITMIRROR_REDIS_URL=" + redis.URL, "CREDITMIRROR_DATABASE_URL=" + database,
			"CREDITMIRROR_API_ADDR=127.0.0.1:0", "CREDITMIRROR_OPS_ADDR=127.0.0.1:0", "CREDITMIRROR_WEBHOOK_ADDR=127.0.0.1:0",
		}, roles)
		if err != nil {
			t.Fatal(err)
		}
		a, err := New(t.Context(), Options{Config: cfg, Roles: roles, Registry: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.close() })
		return a
	}
	refuse := func(a *App, times int) {
		for range times {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/webhooks/stripe", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			r.RemoteAddr = "192.0.2.1:1"
			a.receiver.Handler().ServeHTTP(discard{}, r)
		}
		a.keepRefused(t.Context())
	}
	one, two, page := open(config.RoleWebhook), open(config.RoleWebhook), open(config.RoleConsole)
	seen := func() []console.Refusal {
		t.Helper()
		list, err := page.consoleRefusals(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if list := seen(); len(list) != 0 {
		t.Fatalf("before: %+v", list)
	}
	refuse(one, 3)
	refuse(two, 2)
	refuse(one, 1)
	list := seen()
	if len(list) != 1 || list[0].Count != 6 || list[0].Receivers != 2 || list[0].Code != "400" || time.Since(list[0].Last) > time.Minute || list[0].Last.IsZero() {
		t.Fatalf("refused by two receivers: %+v", list)
	}
	s, err := page.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, p := range s.Problems {
		if strings.HasPrefix(p.What, "webhooks are refused: "+list[0].Reason) && strings.HasPrefix(p.Detail, "6 since") {
			found++
		}
	}
	if found != 1 {
		t.Errorf("status: %+v", s.Problems)
	}
	// One that overwrote the other's brings nothing but its own: the other says so again.
	page.keepTrouble(t.Context(), rowWebhookTrouble, []refusedDeliveries{})
	one.keepRefused(t.Context())
	two.keepRefused(t.Context())
	if list := seen(); len(list) != 1 || list[0].Count != 6 {
		t.Errorf("after a lost row: %+v", list)
	}
}

// discard answers nobody.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

func TestMergeRefused(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(receiver, reason string, n int64, ago time.Duration) refusedDeliveries {
		return refusedDeliveries{Receiver: receiver, Code: "400", Reason: reason, Count: n, Last: now.Add(-ago)}
	}
	kept := []refusedDeliveries{at("a", "old", 1, time.Hour), at("b", "x", 2, 2*time.Hour), at("c", "y", 3, 25*time.Hour)}
	list, changed := mergeRefused(kept, []refusedDeliveries{at("a", "x", 9, 0)}, "a", now)
	if !changed || len(list) != 2 || list[0] != at("a", "x", 9, 0) || list[1] != at("b", "x", 2, 2*time.Hour) {
		t.Errorf("%v %+v", changed, list)
	}
	if again, changed := mergeRefused(list, []refusedDeliveries{at("a", "x", 9, 0)}, "a", now); changed || len(again) != 2 {
		t.Errorf("the same again: %v %+v", changed, again)
	}
	var many []refusedDeliveries
	for n := range 2 * refusalRows {
		many = append(many, at("r", strings.Repeat("x", n), 1, time.Duration(n)*time.Second))
	}
	if list, _ := mergeRefused(nil, many, "r", now); len(list) != refusalRows || list[0].Reason != "" {
		t.Errorf("%d kept, the first %+v", len(list), list[0])
	}
}

// Anybody can send what is refused: beside webhooks that are taken it is no failure.
func TestRefusalsBesideArrivals(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	for name, c := range map[string]struct {
		reason  string
		arrival *time.Time
		want    string
	}{
		"nothing ever arrived": {"wrong_signature", nil, Failing},
		"none for an hour":     {"stale_signature", new(now.Add(-time.Hour)), Failing},
		"one a moment before":  {"wrong_signature", new(now.Add(-2 * time.Minute)), Notice},
		"one since":            {"wrong_signature", &now, Notice},
		"no signature":         {"signature_missing", nil, Notice},
	} {
		state, err := json.Marshal([]refusedDeliveries{{Code: "400", Reason: c.reason, Count: 3, Last: now.Add(-time.Minute)}})
		if err != nil {
			t.Fatal(err)
		}
		s := Status{At: now, Webhooks: map[reconcile.Endpoint]WebhookStatus{reconcile.EndpointOf(""): {LastArrival: c.arrival}}}
		s.remember([]mirror.Sweep{{Name: rowWebhookTrouble, State: state}})
		s.judge(nil, nil)
		if len(s.Problems) != 1 || s.Problems[0].Severity != c.want || !strings.Contains(s.Problems[0].What, c.reason) {
			t.Errorf("%s: %+v, want %s", name, s.Problems, c.want)
		}
	}
}

// The problem counts what all receivers refused with 400 within the hour, and nothing else.
func TestRefusalsThatAreCounted(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	refused := func(code, reason string, n int64, ago time.Duration) refusedDeliveries {
		return refusedDeliveries{Receiver: code + reason, Code: code, Reason: reason, Count: n, Last: now.Add(-ago)}
	}
	state, err := json.Marshal([]refusedDeliveries{
		refused("503", "wrong_signature", 40, 0), refused("400", "wrong_signature", 3, time.Minute), refused("", "wrong_signature", 2, 2*time.Minute),
		refused("400", "wrong_signature", 500, 2*time.Hour), refused("400", "stale_signature", 1, 2*time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := Status{At: now}
	s.remember([]mirror.Sweep{{Name: rowWebhookTrouble, State: state}})
	if len(s.Problems) != 1 || s.Problems[0].Detail != "5 since the receivers started, the last 1m0s ago" {
		t.Errorf("%+v", s.Problems)
	}
}

// A flood makes API and ops rest; at the webhooks' door a newcomer may be Stripe.
func TestWhichListenersRest(t *testing.T) {
	t.Parallel()
	a := &App{o: Options{Config: config.Config{}}}
	for name, want := range map[string]time.Duration{webhookDoor: 0, apiDoor: pace, opsDoor: pace} {
		if b := a.bounds(name, 8); b.Pace != want || b.Share != 4 {
			t.Errorf("%s: %+v", name, b)
		}
	}
}
