package app

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/mirror"
)

const awaySecret = "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"

// receiving is a running process that takes webhooks. No worker runs: what is marked
// stays in the queue.
func receiving(t *testing.T, redis string, roles []config.Role, log *zap.Logger) *App {
	t.Helper()
	cfg, err := config.LoadFor([]string{
		"STRIPE_API_KEY=sk_test_away", "STRIPE_WEBHOOK_SECRET=" + awaySecret, "STRIPE_API_BASE=http://127.0.0.1:1", "CREDITMIRROR_REDIS_URL=" + redis,
		"CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "mirror.db"),
		"CREDITMIRROR_API_ADDR=127.0.0.1:0", "CREDITMIRROR_OPS_ADDR=127.0.0.1:0", "CREDITMIRROR_WEBHOOK_ADDR=127.0.0.1:0",
	}, roles)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), Options{Config: cfg, Roles: roles, Registry: prometheus.NewRegistry(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return a
}

// deliver sends a signed event of a customer and returns the answer's code.
func deliver(t *testing.T, a *App, customer string) int {
	t.Helper()
	now := time.Now().Unix()
	body := fmt.Sprintf(`{"id":"evt_%s","object":"event","type":"customer.updated","livemode":false,"created":%d,"api_version":"2026-08-26.dahlia","data":{"object":{"id":"%s","object":"customer"}}}`, customer, now, customer)
	mac := hmac.New(sha256.New, []byte(awaySecret))
	fmt.Fprintf(mac, "%d.%s", now, body)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.Addrs().Webhook+"/webhooks/stripe", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Stripe-Signature", fmt.Sprintf("t=%d,v1=%s", now, hex.EncodeToString(mac.Sum(nil))))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func readyOf(t *testing.T, a *App) (int, Readiness) {
	t.Helper()
	resp, err := http.Get("http://" + a.Addrs().Ops + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body Readiness
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// With the inbox on, an event whose part of the queue is away is accepted, and marked
// when it is back; the process stays in service and says so, and readiness does not flap.
func TestReceiverWithADeadPartition(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, "--appendfsync", "everysec")
	core, logs := observer.New(zapcore.InfoLevel)
	a := receiving(t, cluster.URL, []config.Role{config.RoleWebhook, config.RoleReconcile}, zap.New(core))
	if !a.inbox.on() {
		t.Fatal("the inbox is off")
	}
	until(t, "ready", func() bool { code, _ := readyOf(t, a); return code == http.StatusOK })
	cluster.Nodes[0].Kill()
	const customers = 60
	var targets []mirror.Target
	for n := range customers {
		customer := fmt.Sprintf("cus_%d", n)
		targets = append(targets, mirror.Target{Scope: mirror.ScopeBalance, ID: customer})
		if code := deliver(t, a, customer); code != http.StatusOK {
			t.Errorf("%s: %d, want 200 with the inbox on", customer, code)
		}
		if code, body := readyOf(t, a); code != http.StatusOK {
			t.Errorf("after %s: not ready: %v", customer, body.Checks)
		}
	}
	until(t, "the answer to name the partitions", func() bool {
		_, body := readyOf(t, a)
		return strings.Contains(body.Checks["redis"], "partitions of the queue are unavailable")
	})
	cluster.Nodes[0].Restart()
	until(t, "all marks", func() bool {
		queued, err := a.parts.marks.Queued(t.Context(), targets)
		if err != nil {
			return false
		}
		for _, q := range queued {
			if !q {
				return false
			}
		}
		return true
	})
	until(t, "redis to be whole", func() bool { _, body := readyOf(t, a); return body.Checks["redis"] == "ok" })
	if n := logs.FilterMessage("not ready").Len(); n != 0 {
		t.Errorf("%d lines say not ready", n)
	}
	if n := logs.FilterMessageSnippet("redis cannot enqueue").Len(); n < 1 || n > 3 {
		t.Errorf("%d lines about the outage, want one and one a minute", n)
	}
}

// A Redis that can only be read lets nobody be ready whose roles write to it; a receiver
// that has the inbox is. It is logged when it happens, though nobody asks.
func TestReadyzLooksForWrites(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := redistest.Start(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	core, logs := observer.New(zapcore.InfoLevel)
	worker := receiving(t, replica.URL, []config.Role{config.RoleWorker}, zap.New(core))
	until(t, "the line", func() bool { return logs.FilterMessage("not ready").Len() > 0 })
	code, body := readyOf(t, worker)
	if code != http.StatusServiceUnavailable || !strings.Contains(body.Checks["redis"], "takes no writes") {
		t.Errorf("a worker: %d %v, want 503 with the reason", code, body.Checks)
	}
	receiver := receiving(t, replica.URL, []config.Role{config.RoleWebhook}, nil)
	// This Redis would keep what it took, so that the inbox comes on with the first failure.
	until(t, "an event to be accepted into the inbox", func() bool { return deliver(t, receiver, "cus_1") == http.StatusOK })
	until(t, "the receiver to be ready", func() bool { code, _ := readyOf(t, receiver); return code == http.StatusOK })
	if code, body := readyOf(t, receiver); code != http.StatusOK || !strings.Contains(body.Checks["redis"], "inbox") {
		t.Errorf("a receiver: %d %v, want 200 and what happens to events", code, body.Checks)
	}
	if n := logs.FilterMessage("not ready").Len(); n != 1 {
		t.Errorf("%d lines say not ready, want one", n)
	}
}

// Readiness takes two looks to change its mind, and damage at once.
func TestReadinessDoesNotFlap(t *testing.T) {
	t.Parallel()
	var next look
	core, logs := observer.New(zapcore.InfoLevel)
	r := newReadiness(func(context.Context) map[string]look { return map[string]look{"redis": next} }, zap.New(core))
	bad, good := look{err: context.DeadlineExceeded, text: "away"}, look{text: "ok"}
	for i, step := range []struct {
		look  look
		ready bool
	}{
		{good, true},
		{bad, true},
		{good, true},
		{bad, true},
		{bad, false},
		{good, false},
		{bad, false},
		{good, false},
		{good, true},
		{look{err: fmt.Errorf("x: %w", mirror.ErrDamaged), text: "damaged"}, false},
	} {
		next = step.look
		r.look(t.Context())
		if ready, checks := r.tell(t.Context()); ready != step.ready {
			t.Errorf("step %d: ready %t, want %t: %v", i, ready, step.ready, checks)
		}
	}
	if n, m := logs.FilterMessage("not ready").Len(), logs.FilterMessage("ready again").Len(); n != 2 || m != 1 {
		t.Errorf("%d lines say not ready and %d ready again, want 2 and 1", n, m)
	}
}
