package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// watched is standard error as it grows.
type watched struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

// logged waits for a log line with that message and returns it.
func (w *watched) logged(t *testing.T, message string) map[string]any {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		text := w.buf.String()
		w.mu.Unlock()
		for line := range strings.SplitSeq(text, "\n") {
			var m map[string]any
			if json.Unmarshal([]byte(line), &m) == nil && m["msg"] == message {
				return m
			}
		}
	}
	t.Fatalf("never logged %q", message)
	return nil
}

// The state outlives the process, and a scenario fills it.
func TestSimKeepsItsState(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state.jsonl")
	sim := func(until string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var out bytes.Buffer
		var errOut watched
		code := make(chan int, 1)
		args = append([]string{"sim", "--log-format", "json", "--addr", "127.0.0.1:0", "--state", file}, args...)
		go func() { code <- run(ctx, args, nil, &out, &errOut) }()
		base := errOut.logged(t, "simulator serves")["base"].(string)
		errOut.logged(t, until)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/customers?limit=100", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("sk_test_x", "")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if c := <-code; c != 0 {
			t.Fatalf("exit %d", c)
		}
		return string(body)
	}
	first := sim("scenario played", "--scenario", "marketplace")
	if n := strings.Count(first, `"id":"cus_`); n != 20 {
		t.Fatalf("%d customers", n)
	}
	if second := sim("simulator serves"); second != first {
		t.Fatalf("the state is another:\n%s\n%s", first, second)
	}
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errOut := cli(t, nil, "sim", "--addr", "127.0.0.1:0", "--state", file)
	if code != 1 || !strings.Contains(errOut, "--state") {
		t.Fatalf("exit %d: %s", code, errOut)
	}
}

// A mirror of a scenario with connected accounts equals it.
func TestDemoOfAScenario(t *testing.T) {
	t.Parallel()
	code, out, errOut := cli(t, nil, "demo", "--for", "1s", "--customers", "10", "--scenario", "marketplace")
	if code != 0 || !strings.Contains(out, "the mirror equals the simulator") {
		t.Fatalf("exit %d\n%s\n%s", code, out, errOut)
	}
}
