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

	"github.com/creditmirror/creditmirror/config"
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

// Readiness is the body of /readyz.
type Readiness struct {
	Ready bool          `json:"ready"`
	Roles []config.Role `json:"roles"`
	// Checks per dependency of the roles: "ok" or what is wrong.
	Checks map[string]string `json:"checks"`
	// AccountsRefused does not make the process unready: the others go on.
	AccountsRefused []RefusedStatus `json:"accounts_refused,omitempty"`
}

func (a *App) readyz(w http.ResponseWriter, r *http.Request) {
	body := Readiness{Ready: true, Roles: a.o.Roles, Checks: map[string]string{}}
	check := func(name string, err error, advice string) {
		body.Checks[name] = "ok"
		if err != nil {
			body.Ready = false
			body.Checks[name] = advice
			a.log.Warn("not ready", zap.String("dependency", name), zap.Error(err))
		}
	}
	if a.stopping.Load() {
		body.Ready = false
		body.Checks["process"] = "stopping"
	}
	// Side by side, so that one that hangs is not blamed on the other.
	ask := func(ping func(context.Context) error) <-chan error {
		answer := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
			defer cancel()
			answer <- ping(ctx)
		}()
		return answer
	}
	database, redis := ask(a.parts.Store.Ping), ask(a.parts.Redis.Ping)
	check("database", <-database, "the mirror's database does not answer or cannot be written")
	if err := <-redis; a.has(config.RoleWebhook) || a.has(config.RoleWorker) || a.has(config.RoleReconcile) {
		check("redis", err, "redis does not answer")
	}
	for _, c := range a.gate.Closures() {
		body.AccountsRefused = append(body.AccountsRefused, RefusedStatus{Account: c.Account, Scope: string(c.Scope), Since: c.Since.UTC(), Reason: c.Reason})
	}
	code := http.StatusOK
	if !body.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, body)
}

// Status is what the status command prints of this process.
func (a *App) Status(ctx context.Context) (Status, error) { return a.parts.Status(ctx, a.gate) }

func (a *App) status(w http.ResponseWriter, r *http.Request) {
	s, err := a.Status(r.Context())
	if err != nil {
		a.log.Warn("status not read", zap.Error(err))
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
