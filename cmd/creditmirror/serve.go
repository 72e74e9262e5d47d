package main

import (
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
)

func newServe(e *env) *cobra.Command {
	var roles string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Receive webhooks, keep the mirror up to date and serve it",
		Long: lines(
			"Runs the given roles until it is stopped (SIGTERM, SIGINT, SIGHUP), then drains:",
			"accepted webhooks are answered, and syncs in progress are finished.",
			"",
			"  webhook    receives Stripe's events and enqueues what changed",
			"  worker     reads what was enqueued from Stripe into the mirror",
			"  reconcile  makes the first copy, catches up on lost events",
			"  api        serves the mirror under Stripe's own paths",
			"  console    the operator's page, at the root of the API's address",
			"  export     keeps a copy for the warehouse, where CREDITMIRROR_EXPORT_URL is set",
			"",
			"Every variable of the environment has a flag here, which wins over it."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.AllVars()...)
	c.Flags().StringVar(&roles, "roles", "webhook,worker,reconcile,api,console", "the roles to run, comma separated; export is added where CREDITMIRROR_EXPORT_URL is set")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var list []config.Role
		var rolesErr error
		if cmd.Flags().Changed("roles") {
			list, rolesErr = config.ParseRoles(roles)
		} else if cfg, err := config.Load(e.environ, overrides); err == nil {
			list = cfg.DefaultRoles()
		} else {
			list = config.Config{}.DefaultRoles() // what they require is reported with the rest
		}
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
		a, err := app.New(cmd.Context(), app.Options{Config: cfg, Roles: list, Log: log, Build: app.ReadBuild()})
		if err != nil {
			return err
		}
		return a.Run(cmd.Context())
	}
	return c
}
