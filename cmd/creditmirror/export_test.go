package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestExportPruneTellsWhatStays: files that no manifest lists stay for a day, and the
// command says so; after it they are deleted.
func TestExportPruneTellsWhatStays(t *testing.T) {
	t.Parallel()
	database, _ := verifyMirror(t)
	environ := []string{"CREDITMIRROR_DATABASE_URL=" + database}
	dir := t.TempDir()
	if code, out, errOut := cli(t, environ, "export", dir); code != 0 {
		t.Fatalf("exit %d: %s%s", code, out, errOut)
	}
	left := filepath.Join(dir, "customers", "month=2026-01", "g000009-0001.parquet")
	if err := os.MkdirAll(filepath.Dir(left), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	prune := func(says string, silent bool) {
		t.Helper()
		code, _, errOut := cli(t, environ, "export", "prune", dir)
		if code != 0 || !strings.Contains(errOut, says) || strings.Contains(errOut, "younger") == silent {
			t.Errorf("exit %d: %s, want %q", code, errOut, says)
		}
	}
	prune("1 files that are in no manifest stay: they are younger than a day", false)
	if code, _, errOut := cli(t, environ, "export", "prune", "postgres://127.0.0.1:1/x"); code != 2 || strings.Contains(errOut, "exported") {
		t.Errorf("tables: exit %d: %s", code, errOut)
	}
	old := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	prune("1 files left behind, 4 bytes", true)
	if fileExists(left) {
		t.Error("a file that was left behind is still there")
	}
	prune("deleted 0 generations with 0 files and 0 files left behind", true)
}
