package main

import (
	"errors"
	"strings"
	"testing"
)

// What was pasted into the wrong place of a command line is not repeated, for errors end up
// in the logs of CI.
func TestArgumentsAreNotRepeated(t *testing.T) {
	t.Parallel()
	secrets := []string{
		"sk_live_51Canary", "rk_test_Canary", "whsec_Canary", "postgres://me:Canary@db/x", "redis://:Canary@r:6379",
		"Canary0123456789012345678901234567890", "password=Canary",
		// Of the shape of no secret: not repeated where no such argument belongs.
		"Canary", "cAnary9", "a\nCanary", "can ary\x00",
	}
	for i, secret := range secrets {
		for _, line := range [][]string{
			{secret},
			{"serve", secret},
			{"sim", secret},
			{"version", secret},
			{"status", secret, secret},
			{"completion", secret},
			{"dead", secret},
			{"dead", "show", secret, secret},
			{"drift", "accept", secret, "--reason=x", "extra"},
			{"sweeps", secret},
			{"sweeps", "pause", secret, "--reason=x"},
			{"reconcile", secret},
			{"sync", secret, "--reason=x"},
			{"erase", secret},
			{"endpoint", "delete", secret},
			{"endpoint", secret},
			{"statement", secret, secret},
		} {
			refused(t, line)
		}
		if i >= 7 {
			continue
		}
		for _, line := range [][]string{
			{"export", "list", secret},
			{"--" + secret},
			{"serve", "--" + secret},
			{"serve", "--workers", secret},
			{"serve", "--workers=" + secret},
			{"serve", "--log-format=" + secret},
			{"serve", "--roles=" + secret},
			{"audit", "--customer=" + secret},
			{"balances", "--as-of=" + secret},
			{"balances", "--timezone", secret},
			{"rollforward", "--split=" + secret},
			{"endpoint", "create", "--url=" + secret},
			{"verify", "--account", secret},
			{"sim", "--addr", secret},
			{"sim", "--log-level", secret},
		} {
			refused(t, line)
		}
	}
}

func refused(t *testing.T, line []string) {
	t.Helper()
	environ := []string{
		"STRIPE_API_KEY=sk_test_x", "CREDITMIRROR_OPS_ADDR=127.0.0.1:1", "CREDITMIRROR_DATABASE_URL=sqlite:/nonexistent-folder/x.db",
	}
	code, out, errOut := cli(t, environ, line...)
	if text := strings.ToLower(out + errOut); code == 0 || strings.Contains(text, "canary") || strings.Contains(text, "can ary") {
		t.Errorf("%q: exit %d\n%s%s", line, code, out, errOut)
	}
}

// What helps to see the mistake is repeated.
func TestArgumentsAreRepeated(t *testing.T) {
	t.Parallel()
	for _, line := range [][]string{
		{"statis", "statis"},
		{"reconcile", "event", "event"},
		{"audit", "--outcome=perhaps", "perhaps"},
		{"balances", "--as-of=2026-02-30", "2026-02-30"},
		{"balances", "--timezone=Europe/Berlln", "Europe/Berlln"},
		{"endpoint", "create", "--url=http://mirror.example/hook", "http://mirror.example/hook"},
		{"serve", "--wrokers=3", "--wrokers"},
		{"sim", "--state=/nonexistent-folder-20261130T1200/state.jsonl", "/nonexistent-folder-20261130T1200/state.jsonl"},
		{"sim", "--state=snapshot-of-2026-11-30T1200.d/x/state.jsonl", "snapshot-of-2026-11-30T1200.d/x/state.jsonl"},
		{"export", "list", "file:///nonexistent-folder-20261130T1200/copy", "/nonexistent-folder-20261130T1200/copy"},
	} {
		environ := []string{"STRIPE_API_KEY=sk_test_x", "CREDITMIRROR_DATABASE_URL=sqlite:/nonexistent-folder/x.db"}
		if code, _, errOut := cli(t, environ, line[:len(line)-1]...); code == 0 || !strings.Contains(errOut, line[len(line)-1]) {
			t.Errorf("%q: exit %d\n%s", line, code, errOut)
		}
	}
}

func FuzzTold(f *testing.F) {
	f.Add("serve", "Tail9")
	f.Add(`unknown command "x\"y"`, "sk_live_\"x\x00")
	f.Add("", "a=b=sk_live_c")
	f.Fuzz(func(t *testing.T, before, tail string) {
		// A key, wherever the error has it and however it is cut off from what stands around.
		arg := "sk_live_Canary" + tail
		for _, text := range []string{before + arg, before + " " + arg + ": x"} {
			for _, args := range [][]string{{arg}, {"--flag=" + arg}, {"--" + arg}} {
				if got := told(errors.New(text), args); strings.Contains(got, "Canary") && !strings.Contains(before, "Canary") {
					t.Fatalf("%q of %q", got, args)
				}
			}
		}
	})
}
