package app

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/redistest"
)

// F13: somebody changes what Redis keeps while it is in use; events are recorded
// as long as Redis alone would not keep them, or does not say.
func TestF13_InboxFollowsRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--maxmemory", "100mb")
	cfg, err := config.LoadFor([]string{
		"STRIPE_API_KEY=sk_test_1", "STRIPE_WEBHOOK_SECRET=whsec_1", "CREDITMIRROR_REDIS_URL=" + server.URL,
		"CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "mirror.db"),
	}, config.Config{}.DefaultRoles())
	if err != nil {
		t.Fatal(err)
	}
	parts, err := OpenParts(t.Context(), cfg, prometheus.NewRegistry(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { noErr(t, parts.Close()) })
	inbox, err := newSwitchedInbox(t.Context(), parts, config.InboxAuto, nil, zap.NewNop())
	if err != nil || inbox.on() {
		t.Fatalf("on %v, %v; want it off with a durable redis", inbox.on(), err)
	}
	admin := redis.NewClient(&redis.Options{Addr: server.Addr})
	t.Cleanup(func() { noErr(t, admin.Close()) })
	for _, step := range []struct {
		name, value string
		on, evicts  bool
	}{
		{"appendfsync", "everysec", true, false},
		{"appendfsync", "always", false, false},
		{"maxmemory-policy", "allkeys-lru", true, true},
		{"maxmemory-policy", "noeviction", false, false},
		{"appendonly", "no", true, false},
		{"appendonly", "yes", false, false},
	} {
		noErr(t, admin.ConfigSet(t.Context(), step.name, step.value).Err())
		err := inbox.check(t.Context())
		if inbox.on() != step.on || errors.Is(err, ErrEvicts) != step.evicts || (err != nil) != step.evicts {
			t.Errorf("%s %s: on %v, %v; want on %v", step.name, step.value, inbox.on(), err, step.on)
		}
		if durable := testutil.ToFloat64(inbox.durable) == 1; durable == step.on {
			t.Errorf("%s %s: the metric says durable %v", step.name, step.value, durable)
		}
	}
	server.Stop()
	if err := inbox.check(t.Context()); err != nil || !inbox.on() {
		t.Errorf("on %v, %v; want it on while redis is away", inbox.on(), err)
	}
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}
