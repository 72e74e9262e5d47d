package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
