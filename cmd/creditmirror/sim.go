package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/stripesim"
)

func newSim(e *env) *cobra.Command {
	var (
		addr     string
		seed     int64
		accounts []string
		traffic  stripesim.TrafficOptions
		chaos    bool
		level    string
	)
	c := &cobra.Command{
		Use:   "sim",
		Short: "Run the Stripe simulator alone",
		Long: lines(
			"Serves Stripe's credit API with state: customers, balance transactions, credit grants,",
			"credit balance transactions, summaries, events, webhook endpoints. Point an SDK's base",
			"URL at it; every key of the form sk_test_… is accepted. /_sim/ controls it: faults,",
			"limits, traffic, the counters of calls and the truth to compare with.",
			"",
			"State is kept in memory and ends with the process."),
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&addr, "addr", "127.0.0.1:12111", "address to listen on")
	f.Int64Var(&seed, "seed", 1, "decides ids, faults and traffic")
	f.StringSliceVar(&accounts, "account", nil, "a connected account (acct_…) that exists; may be repeated")
	f.IntVar(&traffic.Customers, "customers", 0, "customers with some history to make at the start, traffic on which --rate is made")
	f.Float64Var(&traffic.Rate, "rate", 0, "changes per second on those customers; 0 makes none")
	f.IntVar(&traffic.Changes, "changes", 0, "stop the traffic after so many changes; 0 never")
	f.BoolVar(&chaos, "chaos", false, "turn all faults on, as a bad day has them")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if traffic.Customers < 0 || !(traffic.Rate >= 0 && traffic.Rate <= 1e6) || traffic.Changes < 0 {
			return fmt.Errorf("%w: --customers, --rate and --changes must be numbers that are not negative", errUsage)
		}
		if err := checkLevel(level); err != nil {
			return err
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("%w: --addr %q: want host:port", errUsage, addr)
		}
		if traffic.Rate > 0 && traffic.Customers == 0 {
			return fmt.Errorf("%w: --rate needs --customers to make changes on", errUsage)
		}
		traffic.Seed = seed
		traffic.Accounts = append([]string{""}, accounts...)
		return runSim(cmd.Context(), addr, stripesim.Options{Seed: seed, Accounts: accounts, Log: e.logger(config.LogLevel(level))}, traffic, chaos)
	}
	return c
}

func runSim(ctx context.Context, addr string, o stripesim.Options, traffic stripesim.TrafficOptions, chaos bool) error {
	if chaos {
		o.Faults = stripesim.Chaos()
	}
	sim, err := stripesim.New(o)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	defer sim.Close()
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	server := &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 5 * time.Second, ErrorLog: zap.NewStdLog(o.Log)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	o.Log.Info("simulator serves", zap.String("base", "http://"+l.Addr().String()))

	if traffic.Customers > 0 {
		t, err := stripesim.NewTraffic(sim, traffic)
		if err != nil {
			return err
		}
		if err := t.Seed(ctx); err != nil {
			return err
		}
		o.Log.Info("customers made", zap.Int("customers", traffic.Customers))
		if traffic.Rate > 0 {
			go func() {
				if err := t.Run(ctx); err != nil {
					o.Log.Error("traffic ended", zap.Error(err))
					return
				}
				o.Log.Info("traffic ended", zap.Int64("changes", t.Done()))
			}()
		}
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
