package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// A command is not stopped by what is wrong with a variable that it does not use; by one
// that it uses, and by a name that there is not, it is.
func TestCommandsCheckTheVariablesThatTheyUse(t *testing.T) {
	t.Parallel()
	database := "CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "m.db")
	wrong := []string{database, "CREDITMIRROR_API_KEYS=read:short", "STRIPE_WEBHOOK_SECRET_FILE=/nonexistent/whsec", "CREDITMIRROR_NOTIFY_URL=nonsense", "CREDITMIRROR_OPS_ADDR=127.0.0.1:1"}
	for _, args := range []string{"migrate", "verify", "balances --total", "dead list", "audit", "status"} {
		code, _, errOut := cli(t, wrong, strings.Fields(args)...)
		if code == exitUsage {
			t.Errorf("%s: exit %d: %s", args, code, errOut)
		}
	}
	// These ask no listener, so that a certificate is not their business either.
	wrong = append(wrong, "CREDITMIRROR_OPS_TLS_CERT=/nonexistent/cert", "CREDITMIRROR_EXPORT_INTERVAL=never")
	for _, args := range []string{
		"dead list", "dead reasons", "dead show dead_1", "dead drop dead_1 --yes", "audit", "audit --actions", "drift list", "drift accept drift_1 --reason known",
		"drift withdraw drift_1", "sweeps start events", "sweeps pause events --reason move", "export " + t.TempDir(), "export verify " + t.TempDir(), "export list " + t.TempDir(),
		"migrate --from sqlite:" + filepath.Join(t.TempDir(), "none.db"),
	} {
		if code, _, errOut := cli(t, wrong, strings.Fields(args)...); code == exitUsage {
			t.Errorf("%s: exit %d: %s", args, code, errOut)
		}
	}
	if code, _, errOut := cli(t, append(wrong, "CREDITMIRROR_EXPORT_FORMAT=odd"), "export", t.TempDir()); code != exitUsage || !strings.Contains(errOut, "CREDITMIRROR_EXPORT_FORMAT") || strings.Contains(errOut, "API_KEYS") {
		t.Errorf("export: exit %d: %s", code, errOut)
	}
	for _, name := range []string{"CREDITMIRROR_DATABASE_URL=nonsense", "CREDITMIRROR_NO_SUCH=1"} {
		if code, _, errOut := cli(t, append([]string{name}, wrong[1:]...), "verify"); code != exitUsage || !strings.Contains(errOut, strings.Split(name, "=")[0]) || strings.Contains(errOut, "API_KEYS") {
			t.Errorf("%s: exit %d: %s", name, code, errOut)
		}
	}
	if code, _, errOut := cli(t, wrong, "serve"); code != exitUsage || !strings.Contains(errOut, "CREDITMIRROR_API_KEYS") {
		t.Errorf("serve: exit %d: %s", code, errOut)
	}
}
