package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
)

func newHealthcheck(e *env) *cobra.Command {
	var alive bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the serve on this host whether it is ready",
		Long: lines(
			"Asks /readyz at CREDITMIRROR_OPS_ADDR and exits 0 when the process is ready, 1 when it",
			"is not or does not answer; then it names the dependency that is missing. It is for places",
			"without a shell or curl: HEALTHCHECK of the container image, exec probes, units."),
		Args: cobra.NoArgs,
	}
	c.Flags().BoolVar(&alive, "alive", false, "ask /healthz instead: the process is alive, whatever its dependencies")
	c.Flags().DurationVar(&timeout, "timeout", 4*time.Second, "how long to wait for the answer")
	overrides := config.Bind(c.Flags(), config.VarOpsAddr)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if timeout <= 0 {
			return fmt.Errorf("%w: --timeout %v: want more than 0", errUsage, timeout)
		}
		cfg, err := config.LoadUsed(e.environ, nil, overrides, config.VarOpsTLSCert, config.VarOpsTLSKey)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		serve, err := reachServe(cfg)
		if err != nil {
			return err
		}
		return healthcheck(ctx, e.out, serve, alive)
	}
	return c
}

// localAddr is how this host reaches what listens on addr.
func localAddr(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

func healthcheck(ctx context.Context, out io.Writer, serve localServe, alive bool) error {
	path := "/readyz"
	if alive {
		path = "/healthz"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, serve.base+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := serve.client.Do(req)
	if err != nil {
		return fmt.Errorf("no serve answers: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if alive && resp.StatusCode == http.StatusOK {
		fmt.Fprintln(out, "alive")
		return nil
	}
	var body app.Readiness
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&body); err != nil {
		return fmt.Errorf("what listens at %s is not a creditmirror: %s", serve.base, resp.Status)
	}
	if resp.StatusCode == http.StatusOK {
		fmt.Fprintln(out, "ready")
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(body.Checks)) {
		if body.Checks[name] != "ok" {
			fmt.Fprintf(out, "%s: %s\n", name, body.Checks[name])
		}
	}
	return fmt.Errorf("not ready: %s", resp.Status)
}
