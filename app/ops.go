package app

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// opsHandler serves what operators and their tools ask; never on a public address.
func (a *App) opsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.o.Registry, promhttp.HandlerOpts{
		ErrorLog: zap.NewStdLog(a.log), MaxRequestsInFlight: 4, Timeout: 30 * time.Second,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.Handle("GET /readyz", atOnce(16, http.HandlerFunc(a.readyz)))
	mux.Handle("GET /status", byAddress(atOnce(statusAtOnce, http.HandlerFunc(a.status))))
	mux.Handle("POST "+DeadRetryPath, fromHere(a.retryDead))
	mux.Handle("POST "+SyncPath, fromHere(a.syncCustomer))
	// Without cmdline: what stands there was a secret too often.
	mux.Handle("GET /debug/pprof/", forDebugging(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/debug/pprof/cmdline") {
			http.NotFound(w, r)
			return
		}
		pprof.Index(w, r)
	}))
	mux.Handle("GET /debug/pprof/profile", forDebugging(pprof.Profile))
	mux.Handle("GET /debug/pprof/symbol", forDebugging(pprof.Symbol))
	mux.Handle("GET /debug/pprof/trace", forDebugging(pprof.Trace))
	return mux
}

// Status is what the status command prints of this process.
func (a *App) Status(ctx context.Context) (Status, error) { return a.parts.Status(ctx, a.gate) }

func (a *App) status(w http.ResponseWriter, r *http.Request) {
	s, err := a.Status(r.Context())
	if err != nil {
		a.log.Warn("could not read status", zap.Error(err))
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, s)
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(body) //nolint:errcheck // the client went away
}
