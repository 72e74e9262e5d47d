package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
)

func newMigrate(e *env) *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the mirror's database to this version's schema, or move a mirror to another one",
		Long: lines(
			"Creates or extends the tables, under a lock, so that several may run at once.",
			"serve does the same at its start; run it beforehand where serve's database user",
			"may not change the schema.",
			"",
			"With --from it moves a whole mirror, in either direction:",
			"",
			"  creditmirror migrate --from sqlite:creditmirror.db --to postgres://…",
			"",
			"Stop every serve on the old one first. The new one must be empty; all rows of all tables",
			"are copied in one transaction, read back, and kept only when every value is the same. The",
			"old one is not changed. The queue is not part of it: what was waiting is marked again when",
			"serve starts. Without --to it goes to CREDITMIRROR_DATABASE_URL."),
		Args: cobra.NoArgs,
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	c.Flags().StringVar(&from, "from", "", "the database to move from, sqlite:PATH or postgres://…")
	c.Flags().StringVar(&to, "to", "", "the database to move to (default: that of the environment, which keeps a password off the command line)")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("from") || cmd.Flags().Changed("to") {
			return move(cmd.Context(), e, from, to, cmd.Flags().Changed("to"), overrides)
		}
		cfg, err := config.LoadUsed(e.environ, nil, overrides)
		if err != nil {
			return err
		}
		store, err := app.OpenStore(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer func() { _ = store.Close() }()
		if err := store.Migrate(cmd.Context()); err != nil {
			return err
		}
		fmt.Fprintln(e.err, "the mirror's schema is up to date")
		return nil
	}
	return c
}

func newVersion(e *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Print the version of this binary", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := app.ReadBuild()
			if asJSON {
				return json.NewEncoder(e.out).Encode(b)
			}
			_, err := fmt.Fprintf(e.out, "creditmirror %s (revision %s, %s)\n", b.Version, orNone(b.Revision), b.Go)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
