package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/demo"
	"github.com/creditmirror/creditmirror/stripesim"
)

func newDemo(e *env) *cobra.Command {
	var o demo.Options
	var logLevel string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run the whole system against the built-in simulator, no account needed",
		Long: lines(
			"Starts a simulator in Stripe's place, traffic on it, and a mirror that follows",
			"through webhooks, in one process and a temporary folder. At the end every customer",
			"of the mirror is compared with the simulator; any difference ends with exit 1.",
			"",
			"CREDITMIRROR_DATABASE_URL and CREDITMIRROR_REDIS_URL, when set, run it on",
			"PostgreSQL and Redis instead of the embedded ones; use empty ones.",
			"CREDITMIRROR_OPS_ADDR, when set, is where metrics are served (the container image",
			"sets it)."),
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.DurationVar(&o.For, "for", 0, "stop by itself after this time, compare and print the summary (default: run until Ctrl-C)")
	f.IntVar(&o.Customers, "customers", 200, "customers at the start")
	f.Float64Var(&o.Rate, "rate", 20, "changes per second")
	f.BoolVar(&o.Chaos, "chaos", false, "lose, double and swap webhooks; never make some events; answer calls with 429, 5xx and broken replies")
	f.StringVar(&o.Scenario, "scenario", "", "play this scenario of the simulator first, so that the mirror starts on its history: "+
		strings.Join(stripesim.Scenarios(), ", ")+", or a file")
	f.Int64Var(&o.Seed, "seed", 1, "what happens, and to whom; the same seed gives the same traffic")
	f.StringVar(&o.Data, "data", "", "keep the mirror in this folder (default: a temporary one, removed at the end)")
	f.StringVar(&logLevel, "log-level", "error", "debug, info, warn or error")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case o.For < 0 || o.For > 0 && o.For < time.Second:
			return fmt.Errorf("%w: --for %v: want at least 1s", errUsage, o.For)
		case o.Customers < 1 || o.Customers > 1_000_000:
			return fmt.Errorf("%w: --customers %d: want 1 to 1000000", errUsage, o.Customers)
		case !(o.Rate > 0 && o.Rate <= 10_000): // NaN too
			return fmt.Errorf("%w: --rate %g: want more than 0, at most 10000", errUsage, o.Rate)
		}
		if o.Scenario != "" {
			if _, err := stripesim.OpenScenario(o.Scenario); err != nil {
				return fmt.Errorf("%w: --scenario: %w", errUsage, err)
			}
		}
		level := config.LogLevel(logLevel)
		if err := checkLevel(logLevel); err != nil {
			return err
		}
		for _, kv := range e.environ { // other settings of the environment are for serve
			if strings.HasPrefix(kv, "CREDITMIRROR_DATABASE_URL=") || strings.HasPrefix(kv, "CREDITMIRROR_REDIS_URL=") ||
				strings.HasPrefix(kv, "CREDITMIRROR_OPS_ADDR=") {
				o.Environ = append(o.Environ, kv)
			}
		}
		o.Out, o.Progress, o.Log, o.Build = e.out, e.err, e.logger(level), app.ReadBuild()
		summary, err := demo.Run(cmd.Context(), o)
		if err != nil {
			return err
		}
		if len(summary.Differences) > 0 {
			return errFound
		}
		return nil
	}
	return c
}
