package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/internal/pgtest"
)

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// cli runs the command line as a user does.
func cli(t *testing.T, environ []string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, environ, &o, &e)
	return code, o.String(), e.String()
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		environ string
		args    string
		code    int
		says    string // on standard error
	}{
		{"help", "", "--help", 0, ""},
		{"version", "", "version", 0, ""},
		{"completion", "", "completion bash", 0, ""},
		{"completion without a shell", "", "completion", 2, "wrong usage: completion: want bash, zsh, fish or powershell"},
		{"completion of an unknown shell", "", "completion tcsh", 2, "want bash, zsh, fish or powershell"},
		{"unknown command", "", "frobnicate", 2, "frobnicate"},
		{"unknown flag", "", "version --frob", 2, "--frob"},
		{"an argument too many", "", "version now", 2, "now"},
		{"unknown log format", "", "version --log-format xml", 2, "xml"},
		{"serve without keys", "", "serve", 2, "STRIPE_API_KEY"},
		{"serve with an unknown role", "STRIPE_API_KEY=sk_test_x", "serve --roles worker,frob", 2, "frob"},
		{"unknown variable", "CREDITMIRROR_WORKER=1", "status", 2, "CREDITMIRROR_WORKERS"},
		{"migrate into a folder that is not there", "CREDITMIRROR_DATABASE_URL=sqlite:/nonexistent-folder/x.db", "migrate", 1, "/nonexistent-folder"},
		{"status of nobody", "CREDITMIRROR_OPS_ADDR=127.0.0.1:1", "status", 1, "CREDITMIRROR_OPS_ADDR"},
		{"healthcheck of nobody", "CREDITMIRROR_OPS_ADDR=127.0.0.1:1", "healthcheck", 1, "no serve answers"},
		{"healthcheck without patience", "", "healthcheck --timeout 0s", 2, "--timeout"},
		{"export to an unknown scheme", "", "export ftp://a.example/b", 2, "URL: nothing can be exported there: scheme \"ftp\" is not known"},
		{"export of an unknown table, without a mirror", "CREDITMIRROR_DATABASE_URL=sqlite:/nonexistent-folder/x.db", "export /nonexistent-folder/copy --tables customers,frob", 2, "--tables: \"frob\""},
		{"a sweep that there is not, without a mirror", "CREDITMIRROR_DATABASE_URL=sqlite:/nonexistent-folder/x.db", "sweeps start frob", 2, "start \"frob\": want one of"},
		{"endpoint of no kind", "", "endpoint", 2, "create, list, check, delete or rotate"},
		{"endpoint without a key", "", "endpoint list", 2, "STRIPE_API_KEY"},
		{"endpoint without a URL", "STRIPE_API_KEY=sk_test_x", "endpoint create", 2, "--url"},
		{"endpoint at another path", "STRIPE_API_KEY=sk_test_x", "endpoint check --url https://a.example/hook", 2, "/webhooks/stripe"},
		{"endpoint at no URL", "STRIPE_API_KEY=sk_test_x", "endpoint rotate --url a.example/webhooks/stripe", 2, "--url"},
		{"endpoint of nobody", "STRIPE_API_KEY=sk_test_x", "endpoint list --account 1", 2, "--account"},
		{"endpoint delete of nothing", "STRIPE_API_KEY=sk_test_x", "endpoint delete", 2, "we_"},
		{"force without finish", "STRIPE_API_KEY=sk_test_x", "endpoint rotate --force --url https://a.example/webhooks/stripe", 2, "--finish"},
		{"endpoint at a Stripe that is away", "STRIPE_API_KEY=sk_test_x STRIPE_API_BASE=http://127.0.0.1:1", "endpoint list", 1, "webhook_endpoints.list"},
		{"endpoint into a folder that is not there", "STRIPE_API_KEY=sk_test_x STRIPE_API_BASE=http://127.0.0.1:1", "endpoint create --url https://a.example/webhooks/stripe --secret-file /nonexistent/x", 1, "--secret-file"},
		{"demo backwards in time", "", "demo --for -1s", 2, "--for"},
		{"demo without customers", "", "demo --customers 0", 2, "--customers"},
		{"demo without changes", "", "demo --rate 0", 2, "--rate"},
		{"traffic on nobody", "", "sim --rate 3", 2, "--customers"},
		{"sim at no address", "", "sim --addr 127.0.0.1:99999", 1, "--addr"},
		{"sim at nonsense", "", "sim --addr banana", 2, "--addr"},
		{"sim too loud", "", "sim --log-level loud", 2, "loud"},
		{"demo of an unknown scenario", "", "demo --scenario odd", 2, "goodwill"},
		{"sim with an unknown switch", "", "sim --switch odd=1", 2, "null_metadata"},
		{"sim with an unknown scenario", "", "sim --scenario odd", 2, "goodwill"},
		{"sim at a rate that is none", "", "sim --account-rps NaN", 2, "limits"},
		{"demo at no rate", "", "demo --rate NaN", 2, "--rate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, _, errOut := cli(t, strings.Fields(tt.environ), strings.Fields(tt.args)...)
			if code != tt.code || !strings.Contains(errOut, tt.says) {
				t.Fatalf("exit %d, want %d; said %q, want it to name %q", code, tt.code, errOut, tt.says)
			}
		})
	}
}

// No secret is ever printed, whatever is wrong with the rest.
func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	environ := []string{
		"STRIPE_API_KEY=sk_test_Canary1", "STRIPE_WEBHOOK_SECRET=whsec_Canary2", "CREDITMIRROR_API_KEYS=read:Canary3Canary3Canary3",
		"CREDITMIRROR_REDIS_URL=redis://:Canary4@127.0.0.1:1/0", "CREDITMIRROR_DATABASE_URL=postgres://u:Canary5@127.0.0.1:1/x?connect_timeout=1",
	}
	for _, args := range []string{"serve", "serve --workers x", "status", "migrate", "serve --help", "backfill"} {
		_, out, errOut := cli(t, environ, strings.Fields(args)...)
		if strings.Contains(out+errOut, "Canary") {
			t.Errorf("%s prints a secret: %s%s", args, out, errOut)
		}
	}
}

// An address that notifications must not go to is a wrong configuration like any other.
func TestServeRefusesABlockedAddress(t *testing.T) {
	t.Parallel()
	code, _, errOut := cli(t, []string{
		"STRIPE_API_KEY=sk_test_abc", "STRIPE_WEBHOOK_SECRET=whsec_abcdefghijklmnop", "CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "m.db"),
		"CREDITMIRROR_NOTIFY_URL=https://10.1.2.3/token", "CREDITMIRROR_NOTIFY_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	}, "serve")
	want := "CREDITMIRROR_NOTIFY_URL (--notify-url-file): 10.1.2.3 is not connected to: it is private; name its network in CREDITMIRROR_NOTIFY_ALLOW"
	if code != 2 || !strings.Contains(errOut, want) || strings.Contains(errOut, "token") {
		t.Errorf("exit %d, want 2 and %s\n%s", code, want, errOut)
	}
}

func TestVersionAsJSON(t *testing.T) {
	t.Parallel()
	_, out, _ := cli(t, nil, "version", "--json")
	var b app.Build
	if err := json.Unmarshal([]byte(out), &b); err != nil || b.Version == "" || b.Go == "" {
		t.Fatalf("%q: %v", out, err)
	}
}

func TestMigrateTwice(t *testing.T) {
	t.Parallel()
	environ := []string{"CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "m.db")}
	for range 2 {
		if code, _, errOut := cli(t, environ, "migrate"); code != 0 {
			t.Fatalf("exit %d: %s", code, errOut)
		}
	}
}

func TestDemo(t *testing.T) {
	for _, args := range []string{"demo --for 4s --customers 30", "demo --for 3s --customers 30 --chaos --seed 7"} {
		code, out, errOut := cli(t, nil, strings.Fields(args)...)
		if code != 0 || !strings.Contains(out, "0 differences") {
			t.Fatalf("%s: exit %d\n%s\n%s", args, code, out, errOut)
		}
		// The first ends with a line of progress under way, which must not print what it could not read.
		if strings.Contains(errOut, " 0 customers") {
			t.Errorf("%s: progress:\n%s", args, errOut)
		}
		if chaos := strings.Contains(args, "--chaos"); chaos != strings.Contains(out, "what chaos did") || chaos != strings.Contains(out, "out of order") {
			t.Errorf("%s:\n%s", args, out)
		}
	}
}

// A demo that is stopped still compares.
func TestDemoStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var o, e stoppingBuffer
	e.stop = cancel
	if code := run(ctx, strings.Fields("demo --customers 10"), nil, &o, &e); code != 0 || !strings.Contains(o.String(), "0 differences") {
		t.Fatalf("exit %d\n%s\n%s", code, o.String(), e.String())
	}
}

// stoppingBuffer stops the demo at its first line of progress.
type stoppingBuffer struct {
	bytes.Buffer
	stop context.CancelFunc
}

func (b *stoppingBuffer) Write(p []byte) (int, error) {
	if b.stop != nil && strings.Contains(string(p), "changes  ") {
		b.stop()
	}
	return b.Buffer.Write(p)
}
