package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/stripesim"
)

// simOptions is what the flags of sim say.
type simOptions struct {
	addr     string
	state    string
	scenario string
	switches []string
	chaos    bool
	given    func(flag string) bool // reports whether the command line has it
	sim      stripesim.Options
	traffic  stripesim.TrafficOptions
}

func newSim(e *env) *cobra.Command {
	var (
		o     simOptions
		level string
	)
	c := &cobra.Command{
		Use:   "sim",
		Short: "Run the Stripe simulator alone",
		Long: lines(
			"Serves Stripe's credit API with state: customers, balance transactions, credit grants,",
			"credit balance transactions, summaries, invoices, credit notes, events, webhook endpoints,",
			"test clocks. Point an SDK's base URL at it; every key of the form sk_test_… is accepted.",
			"/ is a console for people; /_sim/ controls it: faults, clock, limits, state, traffic, the",
			"counters of calls and the truth to compare with. docs/simulator.md describes both.",
			"",
			"State is kept in memory and ends with the process, unless --state names a file. Switches,",
			"limits and faults are part of it; those on the command line go over the file's.",
			"",
			"Shipped scenarios: "+strings.Join(stripesim.Scenarios(), ", ")+".",
			"Switches: "+strings.Join(stripesim.SwitchNames(), ", ")+"."),
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&o.addr, "addr", "127.0.0.1:12111", "address to listen on")
	f.Int64Var(&o.sim.Seed, "seed", 1, "decides ids, faults, traffic and scenarios; ids go on by the seed of a loaded --state")
	f.StringSliceVar(&o.sim.Accounts, "account", nil, "a connected account (acct_…) that exists; may be repeated")
	f.StringSliceVar(&o.sim.Keys, "key", nil, "an API key to accept, and no others; may be repeated")
	f.BoolVar(&o.sim.Livemode, "live", false, "take live keys (sk_live_…) and make live objects")
	f.BoolVar(&o.sim.BothModes, "both-modes", false, "take test and live keys, each with objects of its own")
	f.StringArrayVar(&o.switches, "switch", nil, "NAME=VALUE settles what is not known of Stripe; may be repeated")
	f.Float64Var(&o.sim.Limits.AccountRPS, "account-rps", 0, "limit of requests per second and account; 0 is none")
	f.Float64Var(&o.sim.Limits.EndpointRPS, "endpoint-rps", 0, "limit of requests per second, account and named endpoint; 0 is none")
	f.DurationVar(&o.sim.Delivery.Timeout, "webhook-timeout", 10*time.Second, "how long a webhook endpoint may take to answer")
	f.DurationVar(&o.sim.Delivery.RetryFirst, "retry-first", 2*time.Second, "delay before a webhook's first retry; each further one is twice as long")
	f.DurationVar(&o.sim.Delivery.RetryMax, "retry-max", time.Minute, "longest delay between a webhook's retries")
	f.IntVar(&o.sim.Delivery.Attempts, "retry-attempts", 8, "attempts to deliver a webhook in all")
	f.DurationVar(&o.sim.Delivery.DisableAfter, "disable-after", 0, "disable a webhook endpoint that has failed for so long; 0 never")
	f.StringVar(&o.state, "state", "", "file to load the state from, if it exists, and to save it to at the end; of one process at a time")
	f.StringVar(&o.scenario, "scenario", "", "shipped scenario, or file, to play at the start")
	f.IntVar(&o.traffic.Customers, "customers", 0, "customers with some history to make at the start, traffic on which --rate is made")
	f.Float64Var(&o.traffic.Rate, "rate", 0, "changes per second on those customers; 0 makes none")
	f.IntVar(&o.traffic.Changes, "changes", 0, "stop the traffic after so many changes; 0 never")
	f.BoolVar(&o.chaos, "chaos", false, "turn all faults on, as a bad day has them")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		t := &o.traffic
		if t.Customers < 0 || !(t.Rate >= 0 && t.Rate <= 1e6) || t.Changes < 0 {
			return fmt.Errorf("%w: --customers, --rate and --changes must be numbers that are not negative", errUsage)
		}
		if err := checkLevel(level); err != nil {
			return err
		}
		if _, _, err := net.SplitHostPort(o.addr); err != nil {
			return fmt.Errorf("%w: --addr %q: want host:port", errUsage, o.addr)
		}
		if t.Rate > 0 && t.Customers == 0 {
			return fmt.Errorf("%w: --rate needs --customers to make changes on", errUsage)
		}
		if err := o.turn(&o.sim.Switches); err != nil {
			return err
		}
		o.given = f.Changed
		t.Seed = o.sim.Seed
		t.Accounts = append([]string{""}, o.sim.Accounts...)
		o.sim.Log = e.logger(config.LogLevel(level))
		if o.chaos {
			o.sim.Faults = stripesim.Chaos()
		}
		return runSim(cmd.Context(), o)
	}
	return c
}

// turn sets the switches that the command line names.
func (o *simOptions) turn(sw *stripesim.Switches) error {
	for _, s := range o.switches {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			value = "true"
		}
		if err := sw.Set(name, value); err != nil {
			return fmt.Errorf("%w: --switch %s: %w", errUsage, s, err)
		}
	}
	return nil
}

// load loads the state file, if there is one, and then sets anew what the command
// line says of it.
func (o *simOptions) load(sim *stripesim.Server) error {
	if err := sim.LoadFile(o.state); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	sw, limits := sim.Switches(), sim.Limits()
	if err := o.turn(&sw); err != nil {
		return err
	}
	if o.given("account-rps") {
		limits.AccountRPS = o.sim.Limits.AccountRPS
	}
	if o.given("endpoint-rps") {
		limits.EndpointRPS = o.sim.Limits.EndpointRPS
	}
	errs := []error{sim.SetSwitches(sw), sim.SetLimits(limits)}
	if o.given("chaos") {
		errs = append(errs, sim.SetFaults(o.sim.Faults))
	}
	for _, id := range o.sim.Accounts {
		errs = append(errs, sim.AddAccount(id))
	}
	return errors.Join(errs...)
}

// stateFile is where the state is kept between runs.
type stateFile struct {
	name string
	info fs.FileInfo // as it was last read or written by us; nil if there was none
}

// openState looks at the file, and finds out whether it can be written at the end,
// while there is nothing to lose yet.
func openState(name string) (*stateFile, error) {
	info, err := os.Stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	probe, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return nil, err
	}
	return &stateFile{name, info}, errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// save saves the state: to a file beside it if another process has written the
// file meanwhile.
func (f *stateFile) save(sim *stripesim.Server, log *zap.Logger) error {
	now, err := os.Stat(f.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if now == nil && f.info == nil || now != nil && f.info != nil && os.SameFile(now, f.info) && now.ModTime().Equal(f.info.ModTime()) {
		if err := sim.SaveFile(f.name); err != nil {
			return err
		}
		log.Info("state saved", zap.String("file", f.name))
		return nil
	}
	beside := fmt.Sprintf("%s.%d", f.name, os.Getpid())
	if err := sim.SaveFile(beside); err != nil {
		return err
	}
	return fmt.Errorf("%s was changed by another process; the state of this one is in %s", f.name, beside)
}

// simConns is how many connections the simulator takes at once.
const simConns = 2048

func runSim(ctx context.Context, o simOptions) (err error) {
	var script *stripesim.Scenario
	if o.scenario != "" {
		if script, err = stripesim.OpenScenario(o.scenario); err != nil {
			return fmt.Errorf("%w: --scenario: %w", errUsage, err)
		}
	}
	sim, err := stripesim.New(o.sim)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	defer sim.Close()
	var state *stateFile
	if o.state != "" {
		if state, err = openState(o.state); err == nil {
			err = o.load(sim)
		}
		if err != nil {
			return fmt.Errorf("--state: %w", err)
		}
	}
	var play *stripesim.Play
	if script != nil {
		play = stripesim.NewPlay(sim, script, o.sim.Seed)
		if err := play.Check(); err != nil {
			return fmt.Errorf("%w: --scenario %s on --state %s: %w", errUsage, o.scenario, o.state, err)
		}
	}
	log := o.sim.Log
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	server := doors.NewServer(sim.Handler(), doors.Bounds{Name: "sim", Conns: simConns, Log: log})
	server.ReadTimeout, server.WriteTimeout = 15*time.Second, 5*time.Minute // a fault may answer late
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	log.Info("simulator is listening", zap.String("base", "http://"+l.Addr().String()))

	running, stopRunning := context.WithCancel(ctx)
	busy := make(chan struct{}) // closed when scenario and traffic have ended
	go func() {
		defer close(busy)
		if err := populate(running, sim, o, play); err != nil {
			log.Error("scenario or traffic failed", zap.Error(err))
		}
	}()
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	stopRunning()
	<-busy
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if e := server.Shutdown(stop); !errors.Is(e, context.DeadlineExceeded) {
		err = errors.Join(err, e)
	}
	if state != nil { // whatever else went wrong
		if e := state.save(sim, log); e != nil {
			err = errors.Join(err, fmt.Errorf("--state: %w", e))
		}
	}
	return err
}

// populate plays the scenario, then makes the customers and the traffic on them.
func populate(ctx context.Context, sim *stripesim.Server, o simOptions, play *stripesim.Play) error {
	log := o.sim.Log
	if play != nil {
		begin := time.Now()
		if err := play.Run(ctx); err != nil {
			return err
		}
		log.Info("scenario played", zap.String("scenario", o.scenario), zap.Int64("actions", play.Done()), zap.Duration("duration", time.Since(begin)))
	}
	if o.traffic.Customers == 0 || ctx.Err() != nil {
		return nil
	}
	t, err := stripesim.NewTraffic(sim, o.traffic)
	if err != nil {
		return err
	}
	if err := t.Seed(ctx); err != nil {
		return err
	}
	log.Info("customers created", zap.Int("customers", o.traffic.Customers))
	if o.traffic.Rate == 0 {
		return nil
	}
	if err := sim.Drive(ctx, t); err != nil {
		return err
	}
	log.Info("traffic ended", zap.Int64("changes", t.Done()))
	return nil
}
