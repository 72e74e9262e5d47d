package app

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
)

// newServe is a serve on a file, which the caller closes or runs.
func newServe(t *testing.T, path string, log *zap.Logger) (*App, error) {
	t.Helper()
	roles := []config.Role{config.RoleAPI}
	cfg, err := config.LoadFor([]string{
		"STRIPE_API_KEY=sk_test_served", "STRIPE_WEBHOOK_SECRET=whsec_nobodyHasRegisteredThisOne0123", "CREDITMIRROR_DATABASE_URL=sqlite:" + path,
		"CREDITMIRROR_API_ADDR=127.0.0.1:0", "CREDITMIRROR_OPS_ADDR=127.0.0.1:0", "CREDITMIRROR_WEBHOOK_ADDR=127.0.0.1:0",
	}, roles)
	if err != nil {
		t.Fatal(err)
	}
	return New(t.Context(), Options{Config: cfg, Roles: roles, Registry: prometheus.NewRegistry(), Log: log})
}

// A second serve on one file is refused with the name of the first, and once that has
// ended another one may work.
func TestSecondServeOnOneFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mirror.db")
	first, err := newServe(t, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newServe(t, path, nil); !errors.Is(err, mirror.ErrServed) || !strings.Contains(err.Error(), "process ") || !strings.Contains(err.Error(), path) {
		t.Errorf("the second: %v, want ErrServed with the first's name and the file", err)
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	second, err := newServe(t, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.close(); err != nil {
		t.Fatal(err)
	}
}

// A file that is damaged while it is served makes the process not ready and is reported
// once; where nothing can be read any more the process ends with an error, and the next
// one refuses to start.
func TestDamagedFileIsNotServed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mirror.db")
	core, logs := observer.New(zapcore.InfoLevel)
	a, err := newServe(t, path, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(context.WithoutCancel(t.Context())) }()
	ready := func() int {
		resp, err := http.Get("http://" + a.Addrs().Ops + "/readyz")
		if err != nil {
			return 0 // it has stopped
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	deadline := time.Now().Add(patience.Of(time.Minute))
	for ready() != http.StatusOK {
		if time.Now().After(deadline) {
			t.Fatal("it is never ready")
		}
		time.Sleep(20 * time.Millisecond)
	}
	// Under the name of the file and of its log lies nonsense from now on.
	for _, suffix := range []string{"", "-wal"} {
		f, err := os.OpenFile(path+suffix, os.O_RDWR, 0) // of the test
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(strings.Repeat("\xa5", int(info.Size()))), 0); err != nil {
			t.Fatal(err)
		}
		// It is not closed: that would take the locks of this process away.
		t.Cleanup(func() { f.Close() })
	}
	for ready() == http.StatusOK {
		if time.Now().After(deadline) {
			t.Fatal("it stays ready")
		}
		time.Sleep(20 * time.Millisecond)
	}
	select {
	case err := <-done:
		if !errors.Is(err, mirror.ErrDamaged) {
			t.Errorf("it ends with %v, want ErrDamaged", err)
		}
	case <-time.After(time.Until(deadline)):
		t.Fatal("it does not end, though nothing can be read")
	}
	if n := logs.FilterMessageSnippet("is damaged").FilterLevelExact(zapcore.ErrorLevel).Len(); n != 1 {
		t.Errorf("%d errors about the damage, want one", n)
	}
	if _, err := newServe(t, path, nil); err == nil {
		t.Error("a damaged file is served again")
	}
}
