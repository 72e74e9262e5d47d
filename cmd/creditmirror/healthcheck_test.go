package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	code, body := http.StatusOK, `{"ready":true,"roles":["worker"],"checks":{"database":"ok","redis":"ok"}}`
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	})
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	server := httptest.NewServer(mux)
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	_, port, _ := strings.Cut(addr, ":")
	tests := []struct {
		name, addr string
		code       int
		body       string
		args       string
		exit       int
		says       string
	}{
		{"ready", addr, 200, body, "healthcheck", 0, "ready"},
		{"listening everywhere", ":" + port, 200, body, "healthcheck", 0, "ready"},
		{"listening everywhere by address", "0.0.0.0:" + port, 200, body, "healthcheck", 0, "ready"},
		{"not ready", addr, 503, `{"ready":false,"checks":{"database":"ok","redis":"redis does not answer"}}`, "healthcheck", 1, "redis: redis does not answer"},
		{"alive is enough", addr, 503, `{}`, "healthcheck --alive", 0, "alive"},
		{"something else", addr, 200, "<html>", "healthcheck", 1, "not a creditmirror"},
	}
	for _, tt := range tests { // one after the other: the server answers for each
		code, body = tt.code, tt.body
		exit, out, errOut := cli(t, []string{"CREDITMIRROR_OPS_ADDR=" + tt.addr}, strings.Fields(tt.args)...)
		if exit != tt.exit || !strings.Contains(out+errOut, tt.says) {
			t.Errorf("%s: exit %d, want %d; said %q %q, want %q", tt.name, exit, tt.exit, out, errOut, tt.says)
		}
	}
}
