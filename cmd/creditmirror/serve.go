package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
)

func newServe(e *env) *cobra.Command {
	var roles string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Take webhooks, keep the mirror, serve it",
		Long: lines(
			"Runs the roles asked for until it is told to stop (SIGTERM, SIGINT), then drains:",
			"webhooks that were accepted are answered, targets in work are finished.",
			"",
			"  webhook    takes Stripe's events and marks what changed",
			"  worker     reads what was marked from Stripe into the mirror",
			"  reconcile  makes the first copy, catches up on lost events",
			"  api        serves the mirror under Stripe's own paths",
			"  console    reserved for the operator's page, which this version does not have yet",
			"",
			"Every variable of the environment has a flag here, which wins over it.",
			"",
			"OTEL_EXPORTER_OTLP_ENDPOINT (http/protobuf) sends traces there; off without it."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.AllVars()...)
	c.Flags().StringVar(&roles, "roles", "webhook,worker,reconcile,api,console", "the roles to run, comma separated")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		list, rolesErr := config.ParseRoles(roles)
		cfg, err := config.LoadFor(e.environ, list, overrides)
		if err := config.Join(rolesErr, err); err != nil {
			return err
		}
		log := e.logger(cfg.LogLevel)
		settings := make([]zap.Field, 0, len(cfg.Effective()))
		for _, s := range cfg.Effective() {
			settings = append(settings, zap.String(s.Name, s.Value))
		}
		log.Info("configuration", settings...)
		tracing, err := app.StartTracing(cmd.Context(), e.environ, app.ReadBuild(), log)
		if errors.Is(err, app.ErrTracing) {
			return fmt.Errorf("%w: %w", errUsage, err)
		} else if err != nil {
			return err
		}
		defer func() {
			// A collector that is away must not hold up the stop.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 2*time.Second)
			defer cancel()
			if err := tracing.Shutdown(ctx); err != nil {
				log.Warn("traces not sent", zap.Error(err))
			}
		}()
		a, err := app.New(cmd.Context(), app.Options{Config: cfg, Roles: list, Log: log, Build: app.ReadBuild(), Tracing: tracing})
		if err != nil {
			return err
		}
		return a.Run(cmd.Context())
	}
	return c
}
