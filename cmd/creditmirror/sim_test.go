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

	"github.com/creditmirror/creditmirror/internal/patience"
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
	for deadline := time.Now().Add(patience.Of(30 * time.Second)); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
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
		base := errOut.logged(t, "simulator is listening")["base"].(string)
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
	if n := strings.Count(first, `"id": "cus_`); n != 20 {
		t.Fatalf("%d customers", n)
	}
	if second := sim("simulator is listening"); second != first {
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

// simRun runs sim until ask has returned, and returns its exit code and standard
// error.
func simRun(t *testing.T, ask func(base string), args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var errOut watched
	code := make(chan int, 1)
	args = append([]string{"sim", "--log-format", "json", "--addr", "127.0.0.1:0"}, args...)
	go func() { code <- run(ctx, args, nil, io.Discard, &errOut) }()
	ask(errOut.logged(t, "simulator is listening")["base"].(string))
	http.DefaultClient.CloseIdleConnections()
	cancel()
	c := <-code
	errOut.mu.Lock()
	defer errOut.mu.Unlock()
	return c, errOut.buf.String()
}

// fetch is a GET with a key of the given mode.
func fetch(t *testing.T, url, key string, header ...string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(key, "")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What the command line says goes over what the file says, which goes over the
// defaults.
func TestSimFlagsGoOverTheState(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state.jsonl")
	if code, errOut := simRun(t, func(string) {}, "--state", file, "--switch", "retry_after=3s", "--endpoint-rps", "50"); code != 0 {
		t.Fatal(errOut)
	}
	code, errOut := simRun(t, func(base string) {
		for path, wants := range map[string][]string{
			"/_sim/switches": {`"null_metadata":true`, `"retry_after":"3s"`},
			"/_sim/limits":   {`"account_rps":7`, `"endpoint_rps":50`},
			"/_sim/faults":   {"webhook_lost"},
		} {
			got := fetch(t, base+path, "")
			for _, want := range wants {
				if !strings.Contains(got, want) {
					t.Errorf("%s lacks %s: %s", path, want, got)
				}
			}
		}
	}, "--state", file, "--switch", "null_metadata", "--account-rps", "7", "--chaos")
	if code != 0 {
		t.Fatal(errOut)
	}
	code, errOut = simRun(t, func(base string) {
		if req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, base+"/_sim/faults", strings.NewReader("[]")); err != nil {
			t.Fatal(err)
		} else if resp, err := http.DefaultClient.Do(req); err != nil {
			t.Fatal(err)
		} else {
			resp.Body.Close()
		}
		for _, key := range []string{"sk_test_x", "sk_live_x"} {
			for _, account := range [][]string{nil, {"Stripe-Account", "acct_new"}} {
				if got := fetch(t, base+"/v1/customers", key, account...); !strings.Contains(got, `"data": []`) {
					t.Errorf("%s %v: %s", key, account, got)
				}
			}
		}
	}, "--state", file, "--both-modes", "--account", "acct_new")
	if code != 0 {
		t.Fatal(errOut)
	}
}

// A file that cannot be written is found out at the start, not when the state is
// about to be lost.
func TestSimStateMustBeWritable(t *testing.T) {
	t.Parallel()
	code, _, errOut := cli(t, nil, "sim", "--addr", "127.0.0.1:0", "--state", filepath.Join(t.TempDir(), "none", "state.jsonl"))
	if code != 1 || !strings.Contains(errOut, "--state") || strings.Contains(errOut, "simulator is listening") {
		t.Fatalf("exit %d: %s", code, errOut)
	}
}

// Of two processes with one file, the second to end does not overwrite what the
// first has saved.
func TestSimStateOfAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "state.jsonl")
	code, errOut := simRun(t, func(string) {
		if code, errOut := simRun(t, func(string) {}, "--state", file, "--seed", "5"); code != 0 {
			t.Error(errOut)
		}
	}, "--state", file, "--seed", "6")
	if code != 1 || !strings.Contains(errOut, "state.jsonl.") {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	seeds := map[string]string{}
	names, err := filepath.Glob(file + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		seeds[filepath.Base(name)] = string(b)
	}
	if len(seeds) != 2 || !strings.Contains(seeds["state.jsonl"], `"seed":5`) {
		t.Fatalf("%v", seeds)
	}
	delete(seeds, "state.jsonl")
	for name, state := range seeds {
		if !strings.Contains(state, `"seed":6`) || !strings.Contains(errOut, name) {
			t.Errorf("%s: %s\n%s", name, state, errOut)
		}
	}
}

// A scenario that begins in the past cannot be played onto a state of the present:
// that is said at once.
func TestSimScenarioOnAState(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state.jsonl")
	made := func(base string) {
		for deadline := time.Now().Add(patience.Of(30 * time.Second)); strings.Count(fetch(t, base+"/v1/customers", "sk_test_x"), `"id": "cus_`) < 3; {
			if time.Now().After(deadline) {
				t.Fatal("no customers")
			}
		}
	}
	if code, errOut := simRun(t, made, "--state", file, "--customers", "3"); code != 0 {
		t.Fatal(errOut)
	}
	code, _, errOut := cli(t, nil, "sim", "--addr", "127.0.0.1:0", "--state", file, "--scenario", "marketplace")
	if code != 2 || !strings.Contains(errOut, "--scenario") || strings.Contains(errOut, "simulator is listening") {
		t.Fatalf("exit %d: %s", code, errOut)
	}
}
