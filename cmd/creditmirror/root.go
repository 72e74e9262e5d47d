package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/creditmirror/creditmirror/api"
	"github.com/creditmirror/creditmirror/config"
)

// Exit codes; they are a contract.
const (
	exitDone   = 0
	exitFailed = 1 // found something wrong, or failed
	exitUsage  = 2 // wrong usage or configuration
)

// env is what commands get from outside, so that tests can run them.
type env struct {
	environ   []string
	out       io.Writer
	err       io.Writer
	logFormat string
	started   bool // the command line was understood
}

// errFound ends a command with exit 1 when it has already printed what it found.
var errFound = errors.New("found something wrong")

func run(ctx context.Context, args, environ []string, out, errOut io.Writer) int {
	e := &env{environ: environ, out: out, err: errOut}
	root := newRoot(e)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	var wrong *config.Error
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errFound):
		return exitFailed
	case errors.As(err, &wrong):
		fmt.Fprintln(errOut, told(wrong, args))
		return exitUsage
	case !e.started, errors.Is(err, errUsage):
		fmt.Fprintf(errOut, "creditmirror: %s\nRun '%s --help' for usage.\n", told(err, args), cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(errOut, "creditmirror: %s\n", told(err, args))
	return exitFailed
}

// errUsage marks a wrong use of the command line that only the command itself
// can notice.
var errUsage = errors.New("wrong usage")

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "creditmirror",
		Short: "A local, provably correct copy of your customers' Stripe credit",
		Long: `creditmirror keeps a complete, fresh and provably correct local copy of the
credit that customers hold at Stripe: customer balance transactions and billing
credits. It needs nothing but Stripe's keys: without further configuration it
keeps the copy in a SQLite file and runs its own queue.

Try it without an account:   creditmirror demo
Run it:                      STRIPE_API_KEY=… STRIPE_WEBHOOK_SECRET=… creditmirror serve

Reports go to standard output, logs and progress to standard error.
Exit status: 0 done, 1 found something wrong or failed, 2 wrong usage or configuration.`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch e.logFormat {
			case "auto":
				e.logFormat = "json"
				if terminal(e.err) {
					e.logFormat = "console"
				}
			case "json", "console":
			default:
				return fmt.Errorf("--log-format %q: want auto, json or console", e.logFormat)
			}
			e.started = true
			return nil
		},
	}
	root.PersistentFlags().StringVar(&e.logFormat, "log-format", "auto", "auto, json or console; auto is console where standard error is a terminal")
	root.AddCommand(newServe(e), newDemo(e), newSim(e), newBackfill(e), newVerify(e), newReconcile(e), newEndpoint(e), newStatus(e), newDead(e), newDrift(e), newSweeps(e), newSync(e), newAudit(e), newErase(e), newHealthcheck(e), newMigrate(e), newVersion(e))
	root.AddCommand(newBalances(e), newRollforward(e), newClose(e), newAgeing(e), newStatement(e), newExplain(e), newExport(e))
	strictCompletion(root)
	return root
}

// strictCompletion makes a shell that is missing or unknown a usage error: cobra
// would print help and call it done.
func strictCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(_ *cobra.Command, args []string) error {
			name := "completion"
			for _, arg := range args {
				name += " " + shown(arg)
			}
			return fmt.Errorf("%w: %s: want bash, zsh, fish or powershell", errUsage, name)
		}
	}
}

// logger writes to standard error in the chosen format.
func (e *env) logger(level config.LogLevel) *zap.Logger {
	var min zapcore.Level
	if err := min.UnmarshalText([]byte(level)); err != nil {
		min = zapcore.InfoLevel
	}
	cfg := zap.NewProductionEncoderConfig()
	cfg.TimeKey, cfg.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(cfg)
	if e.logFormat == "console" {
		cfg.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(cfg)
	}
	var core zapcore.Core = unique{
		Core:  zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(e.err)), min),
		taken: []string{cfg.TimeKey, cfg.LevelKey, cfg.NameKey, cfg.MessageKey, cfg.CallerKey, cfg.StacktraceKey},
	}
	if min > zapcore.DebugLevel {
		// With the database or Stripe away, every target says the same: twenty of a
		// message each second say as much as thousands, and do not fill the disk.
		core = unsampled{zapcore.NewSamplerWithOptions(core, time.Second, 20, 1000), core}
	}
	return zap.New(core)
}

// unsampled lets the lines about who wrote what past the sampler: none may be missing.
type unsampled struct {
	zapcore.Core
	all zapcore.Core
}

// With adds fields to both ways.
func (u unsampled) With(fields []zapcore.Field) zapcore.Core {
	return unsampled{u.Core.With(fields), u.all.With(fields)}
}

// Check chooses the way by the name of the logger.
func (u unsampled) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if entry.LoggerName == api.AuditLogger {
		return u.all.Check(entry, checked)
	}
	return u.Core.Check(entry, checked)
}

// checkLevel refuses a log level that there is not.
func checkLevel(level string) error {
	switch config.LogLevel(level) {
	case config.LogDebug, config.LogInfo, config.LogWarn, config.LogError:
		return nil
	}
	return fmt.Errorf("%w: --log-level %q: want debug, info, warn or error", errUsage, level)
}

// terminal reports whether w is a terminal.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) // a file descriptor fits an int
}

// lines joins lines of help.
func lines(l ...string) string { return strings.Join(l, "\n") }

// oneArg takes one argument, which is one of valid where there are any; want says
// what it has to be.
func oneArg(want string, valid ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) != 1:
			return fmt.Errorf("%s takes one argument, not %d: want %s", cmd.Name(), len(args), want)
		case len(valid) > 0 && !slices.Contains(valid, args[0]):
			return fmt.Errorf("%s %q: want %s", cmd.Name(), shown(args[0]), want)
		}
		return nil
	}
}
