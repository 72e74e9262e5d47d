package main

import (
	"context"
	"errors"
	"fmt"
	neturl "net/url"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/export"
	"github.com/creditmirror/creditmirror/mirror"
)

func newExport(e *env) *cobra.Command {
	var format, tables string
	var full bool
	c := &cobra.Command{
		Use:   "export [URL]",
		Short: "Export a copy for the warehouse: Parquet, CSV, JSON Lines or PostgreSQL",
		Long: lines(
			"Writes one generation of the copy: every row the first time, afterwards only what has",
			"changed since. Its manifest is written last, so that a reader sees all of it or nothing.",
			"Where nothing has changed there is no generation. Without URL it is CREDITMIRROR_EXPORT_URL.",
			"",
			"  creditmirror export /srv/credit                   a folder",
			"  creditmirror export s3://bucket/credit            with the credentials that AWS's tools use",
			"  creditmirror export gs://bucket/credit            likewise for Google Cloud",
			"  creditmirror export azblob://container/credit     likewise for Azure",
			"  creditmirror export postgres://host/warehouse     tables in the schema creditmirror_export",
			"",
			"An S3-compatible store: s3://bucket/credit?endpoint=https://HOST&use_path_style=true&region=…",
			"A password belongs into CREDITMIRROR_EXPORT_URL, its _FILE, PGPASSWORD or ~/.pgpass, not into",
			"the command line, which other users of the machine can see.",
			"",
			"serve does the same at every CREDITMIRROR_EXPORT_INTERVAL with the role export. A second",
			"exporter of the same copy waits for the first."),
		Args: cobra.MaximumNArgs(1),
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	c.Flags().StringVar(&format, "format", "", "parquet, csv or jsonl (default: CREDITMIRROR_EXPORT_FORMAT, else parquet)")
	c.Flags().StringVar(&tables, "tables", "", "only these tables, comma separated (default: CREDITMIRROR_EXPORT_TABLES, else all)")
	c.Flags().BoolVar(&full, "full", false, "write every row, although an incremental generation would do")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, location, err := exportConfig(e, args, overrides, config.VarExportFormat, config.VarExportTables)
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("format") {
			cfg.ExportFormat = format
		}
		if cmd.Flags().Changed("tables") {
			cfg.ExportTables = strings.Split(tables, ",")
		}
		return runExport(cmd.Context(), e, cfg, location, full)
	}
	c.AddCommand(newExportVerify(e), newExportList(e), newExportPrune(e))
	return c
}

// exportConfig reads the configuration, of which the command uses more as well, and where
// to export to.
func exportConfig(e *env, args []string, overrides *config.Overrides, more ...config.Var) (config.Config, export.Location, error) {
	cfg, err := config.LoadUsed(e.environ, nil, overrides, append(more, config.VarExportURL)...)
	if err != nil {
		return cfg, export.Location{}, err
	}
	url, name := cfg.ExportURL.Reveal(), string(config.VarExportURL)
	if len(args) > 0 {
		url, name = args[0], "URL"
		if u, err := neturl.Parse(url); err == nil && u.User != nil {
			if _, password := u.User.Password(); password {
				return cfg, export.Location{}, fmt.Errorf("%w: URL: holds a password, which every process of this machine can see; put it into %s, its _FILE, PGPASSWORD or ~/.pgpass", errUsage, config.VarExportURL)
			}
		}
	} else if url == "" {
		return cfg, export.Location{}, fmt.Errorf("%w: give the URL of the copy, or set %s: %s", errUsage, config.VarExportURL, export.Schemes)
	}
	location, err := export.ParseURL(url)
	if err != nil {
		err = fmt.Errorf("%w: %s: %w", errUsage, name, err)
	}
	return cfg, location, err
}

// exporting turns errors that only another command line mends into wrong usage.
func exporting(err error) error {
	if errors.Is(err, export.ErrWrongURL) || errors.Is(err, export.ErrForeign) || errors.Is(err, export.ErrTables) {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return err
}

// exportMemory is how much memory Go's collector keeps an export within, where it can.
const exportMemory = 72 << 20

func runExport(ctx context.Context, e *env, cfg config.Config, location export.Location, full bool) (err error) {
	format, err := export.ParseFormat(cfg.ExportFormat)
	if err != nil {
		return fmt.Errorf("%w: --format: %w", errUsage, err)
	}
	if err := export.CheckTables(cfg.ExportTables); err != nil {
		return fmt.Errorf("%w: --tables: %w", errUsage, err)
	}
	store, err := openMirror(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	source, ok := store.(export.Mirror)
	if !ok {
		return errors.New("this database cannot be exported")
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		// Of 1,000,000 rows 17 MiB live at once; garbage would be let grow beside it.
		debug.SetMemoryLimit(exportMemory)
	}
	bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(e.err), progressbar.OptionThrottle(200*time.Millisecond),
		progressbar.OptionUseANSICodes(terminal(e.err)), progressbar.OptionSetVisibility(terminal(e.err)), progressbar.OptionShowCount())
	host, _ := os.Hostname() //nolint:errcheck // the name only makes the lease easier to read
	exporter, err := export.New(source, location, export.Options{
		Format: format, Tables: cfg.ExportTables, Full: full, ToolVersion: app.ReadBuild().Version,
		Owner: fmt.Sprintf("%s/%d/export", host, os.Getpid()),
		Progress: func(table string, rows int64) {
			bar.Describe(table)
			_ = bar.Set64(rows)
		},
		Waiting: func() { fmt.Fprintln(e.err, "another exporter is running; waiting for it to end") },
	})
	if err != nil {
		return err
	}
	result, err := exporter.Run(ctx)
	_ = bar.Finish()
	if err != nil {
		return exporting(err)
	}
	m := result.Manifest
	if m == nil {
		fmt.Fprintf(e.err, "nothing has changed since the last generation in %s\n", location)
		return nil
	}
	if result.Why != "" {
		fmt.Fprintf(e.err, "a full export: %s\n", result.Why)
	}
	if m.UnprovenCustomers > 0 {
		fmt.Fprintf(e.err, "%d customers are not proven: their history is not complete yet\n", m.UnprovenCustomers)
	}
	w, err := newReport(e.out, "", "generation", "kind", "table", "rows", "files", "bytes")
	if err != nil {
		return err
	}
	for _, name := range export.TableNames() {
		t, ok := m.Tables[name]
		if !ok {
			continue
		}
		var files, bytes int64
		for _, f := range m.Files {
			if f.Table == name {
				files++
				bytes += f.Bytes
			}
		}
		if err := w.write(m.Generation, m.Kind, name, t.Rows, files, bytes); err != nil {
			return err
		}
	}
	if err := w.end(); err != nil {
		return err
	}
	fmt.Fprintf(e.err, "generation %d in %s, in %s\n", m.Generation, location, result.Ended.Sub(result.Began).Round(time.Millisecond))
	return nil
}

func newExportVerify(e *env) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "verify [URL]",
		Short: "Check a copy against its manifests and the mirror",
		Long: lines(
			"Reads every file of the copy, counts its rows and adds its amounts up, compares them",
			"with the manifests, the manifests with each other, and the newest totals with the mirror",
			"where it still knows what it held then. Prints one line for each difference; exit 1 then."),
		Args: cobra.MaximumNArgs(1),
	}
	overrides := config.Bind(c.Flags(), config.VarDatabaseURL)
	c.Flags().StringVar(&format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, location, err := exportConfig(e, args, overrides)
		if err != nil {
			return err
		}
		w, err := newReport(e.out, format, "generation", "table", "file", "what", "expected", "actual")
		if err != nil {
			return err
		}
		return runExportVerify(cmd.Context(), e, cfg, location, w)
	}
	return c
}

func runExportVerify(ctx context.Context, e *env, cfg config.Config, location export.Location, w *report) (err error) {
	var feed mirror.Feed
	if path, file := cfg.SQLitePath(); !file || fileExists(path) {
		store, err := openMirror(ctx, cfg)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		feed, _ = store.(mirror.Feed)
	}
	v, err := export.Verify(ctx, location, feed, nil)
	if err != nil {
		return exporting(err)
	}
	for _, d := range v.Differences {
		if err := w.write(d.Generation, d.Table, d.File, d.What, d.Expected, d.Actual); err != nil {
			return err
		}
	}
	if err := w.end(); err != nil {
		return err
	}
	fmt.Fprintf(e.err, "%d generations, %d files, %d rows: %d differences; the mirror: %s\n", v.Generations, v.Files, v.Rows, len(v.Differences), v.Mirror)
	if v.Unlisted > 0 {
		fmt.Fprintf(e.err, "%d files are in no manifest: of an export under way, or one that was killed (export prune removes those)\n", v.Unlisted)
	}
	if len(v.Differences) > 0 {
		return errFound
	}
	return nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func newExportList(e *env) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "list [URL]", Short: "List the generations of a copy",
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().StringVar(&format, "format", "", "table, csv or json (default: table on a terminal, else csv)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		_, location, err := exportConfig(e, args, new(config.Overrides))
		if err != nil {
			return err
		}
		w, err := newReport(e.out, format, "generation", "parent", "kind", "rows", "files", "bytes", "unproven_customers", "data_load_time", "tool_version")
		if err != nil {
			return err
		}
		list, err := export.List(cmd.Context(), location)
		if err != nil {
			return exporting(err)
		}
		for _, l := range list {
			parent := ""
			if l.Parent != nil {
				parent = fmt.Sprint(*l.Parent)
			}
			if err := w.write(l.Generation, parent, l.Kind, l.Rows, int64(len(l.Files)), l.Bytes, l.UnprovenCustomers, l.DataLoadTime, l.ToolVersion); err != nil {
				return err
			}
		}
		return w.end()
	}
	return c
}

func newExportPrune(e *env) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use:   "prune [URL]",
		Short: "Delete generations that the newest full one replaces",
		Long: lines(
			"Deletes the generations before the newest full one, and files that exports left behind",
			"which were killed more than a day ago. What the newest full generation and those after it",
			"need is kept. Make a full one first with creditmirror export --full."),
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be deleted, and delete nothing")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		_, location, err := exportConfig(e, args, new(config.Overrides))
		if err != nil {
			return err
		}
		p, err := export.Prune(cmd.Context(), location, dry, time.Now())
		if err != nil {
			return exporting(err)
		}
		verb := "deleted"
		if dry {
			verb = "would delete"
		}
		fmt.Fprintf(e.err, "%s %d generations with %d files and %d files left behind, %d bytes; the copy begins at generation %d\n",
			verb, p.Generations, p.Files, p.Leftovers, p.Bytes, p.Kept)
		if p.Young > 0 {
			fmt.Fprintf(e.err, "%d files that are in no manifest stay: they are younger than a day, and an export under way may be writing them\n", p.Young)
		}
		return nil
	}
	return c
}
