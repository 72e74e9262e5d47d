package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
	"github.com/creditmirror/creditmirror/stripesim"
)

// The life of an endpoint from the command line: made, checked, rotated, deleted.
func TestEndpoint(t *testing.T) {
	t.Parallel()
	sim, err := stripesim.New(stripesim.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	server := httptest.NewServer(sim.Handler())
	defer server.Close()
	environ := []string{"STRIPE_API_KEY=sk_test_x", "STRIPE_API_BASE=" + server.URL}
	const url = " --url https://a.example/webhooks/stripe"
	file := filepath.Join(t.TempDir(), "whsec")
	do := func(want int, args string) (out, errOut string) {
		t.Helper()
		code, out, errOut := cli(t, environ, strings.Fields(args)...)
		if code != want {
			t.Fatalf("%s: exit %d, want %d\n%s\n%s", args, code, want, out, errOut)
		}
		return out, errOut
	}
	secrets := func() []string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), ",")
	}

	if out, _ := do(1, "endpoint check"+url); !strings.Contains(out, "PROBLEM  endpoint") {
		t.Fatalf("check of nothing says %q", out)
	}
	// Standard output is the secret and nothing else, so that it can be piped.
	out, _ := do(0, "endpoint create"+url)
	if secret := strings.TrimSpace(out); !strings.HasPrefix(secret, "whsec_") || strings.ContainsAny(secret, " \n") {
		t.Fatalf("create prints %q", out)
	}
	if out, errOut := do(0, "endpoint create"+url); out != "" || !strings.Contains(errOut, "already") {
		t.Fatalf("create again prints %q %q", out, errOut)
	}
	do(0, "endpoint check"+url)
	var list []endpointObject
	if out, _ := do(0, "endpoint list --json"); json.Unmarshal([]byte(out), &list) != nil || len(list) != 1 || list[0].Status != "enabled" {
		t.Fatalf("list says %s", out)
	}
	do(0, "endpoint delete "+list[0].ID)
	do(1, "endpoint delete "+list[0].ID)

	// The rotation keeps both secrets in the file, and in the end the new one.
	do(1, "endpoint rotate"+url)
	do(0, "endpoint create --secret-file "+file+url)
	first := secrets()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || len(first) != 1 {
		t.Fatal(info, err, first)
	}
	time.Sleep(1100 * time.Millisecond) // Stripe's times have whole seconds
	do(0, "endpoint rotate --secret-file "+file+url)
	if both := secrets(); len(both) != 2 || both[1] != first[0] {
		t.Fatalf("after the first step: %v, before %v", both, first)
	}
	if _, errOut := do(1, "endpoint rotate --finish --secret-file "+file+url); !strings.Contains(errOut, "--force") {
		t.Fatalf("ended without proof: %s", errOut)
	}
	newest := secrets()[0]
	do(0, "endpoint rotate --finish --force --secret-file "+file+url)
	if left := secrets(); len(left) != 1 || left[0] != newest {
		t.Fatalf("in the end: %v", left)
	}
	if out, _ := do(0, "endpoint list"); strings.Count(out, "we_") != 1 {
		t.Fatalf("in the end: %s", out)
	}
}

// Where deliveries fail, check says what the mirror knows of why.
func TestEndpointCheckNamesCauses(t *testing.T) {
	t.Parallel()
	sim, err := stripesim.New(stripesim.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	server := httptest.NewServer(sim.Handler())
	defer server.Close()
	send := func(method, path, body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if strings.HasPrefix(path, "/v1/") {
			req.Header.Del("Content-Type")
			req.SetBasicAuth("sk_test_x", "")
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(method, path, resp.Status)
		}
	}
	path := filepath.Join(t.TempDir(), "m.db")
	environ := []string{"STRIPE_API_KEY=sk_test_x", "STRIPE_API_BASE=" + server.URL, "CREDITMIRROR_DATABASE_URL=sqlite:" + path, "CREDITMIRROR_OPS_ADDR=127.0.0.1:1"}
	check := func() string {
		t.Helper()
		code, out, errOut := cli(t, environ, "endpoint", "check", "--url", "http://127.0.0.1:1/webhooks/stripe")
		if code != exitFailed || !strings.Contains(out, "PROBLEM  deliveries") {
			t.Fatalf("exit %d\n%s%s", code, out, errOut)
		}
		return out
	}
	send(http.MethodPut, "/_sim/clock", `{"virtual":true,"now":"`+time.Now().Add(-10*time.Minute).UTC().Format(time.RFC3339)+`"}`)
	if code, _, errOut := cli(t, environ, "endpoint", "create", "--url", "http://127.0.0.1:1/webhooks/stripe"); code != exitDone {
		t.Fatal(errOut)
	}
	send(http.MethodPost, "/v1/customers", "")
	if out := check(); !strings.Contains(out, "could not learn what the receiver refused") || !strings.Contains(out, "STRIPE_WEBHOOK_SECRET") || !strings.Contains(out, "firewall") {
		t.Errorf("without a mirror:\n%s", out)
	}
	here := environ
	environ = append(slices.Clone(environ), "CREDITMIRROR_DATABASE_URL=postgres://127.0.0.1:1/x")
	if out := check(); !strings.Contains(out, "could not learn what the receiver refused") || !strings.Contains(out, "database does not answer") || strings.Contains(out, "refused none") {
		t.Errorf("neither serve nor the database answers:\n%s", out)
	}
	environ = here
	if _, err := os.Stat(path); err == nil {
		t.Error("check made a database")
	}
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := check(); !strings.Contains(out, "refused none") || !strings.Contains(out, "firewall") || strings.Contains(out, "STRIPE_WEBHOOK_SECRET") {
		t.Errorf("nothing was refused:\n%s", out)
	}
	state, err := json.Marshal([]map[string]any{{"reason": "wrong_signature", "count": 180, "last": time.Now()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.SaveSweep(t.Context(), mirror.Sweep{Name: "trouble:webhook", State: state, Watermark: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if out := check(); !strings.Contains(out, "wrong_signature") || !strings.Contains(out, "180") || !strings.Contains(out, "STRIPE_WEBHOOK_SECRET is not that of the endpoint") || strings.Contains(out, "firewall") {
		t.Errorf("the secret is wrong:\n%s", out)
	}
}
