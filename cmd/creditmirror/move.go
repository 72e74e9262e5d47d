package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
)

// databaseURL checks a URL that was given by a flag of its own.
func databaseURL(flag, value string) (config.Config, error) {
	if value == "" {
		return config.Config{}, fmt.Errorf("%w: %s is empty: give sqlite:PATH or postgres://…", errUsage, flag)
	}
	cfg, err := config.Load([]string{string(config.VarDatabaseURL) + "=" + value})
	if wrong, ok := errors.AsType[*config.Error](err); ok { // never quotes the URL
		return cfg, fmt.Errorf("%w: %s %s", errUsage, flag, wrong.Problems[0].Message)
	}
	return cfg, err
}

// move copies a whole mirror to another database and verifies it.
func move(ctx context.Context, e *env, from, to string, toGiven bool, overrides *config.Overrides) (err error) {
	source, err := databaseURL("--from", from)
	if err != nil {
		return err
	}
	var target config.Config
	if toGiven {
		target, err = databaseURL("--to", to)
	} else {
		target, err = config.LoadUsed(e.environ, nil, overrides)
	}
	if err != nil {
		return err
	}
	if source.DatabaseURL.Reveal() == target.DatabaseURL.Reveal() {
		return fmt.Errorf("%w: --from and --to are the same database", errUsage)
	}
	if path, ok := source.SQLitePath(); ok {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) { // opening it would make an empty one
			return fmt.Errorf("--from: there is no mirror at %s", path)
		}
	}
	old, err := app.OpenStore(ctx, source)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	if err := old.CheckSchema(ctx); err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	fresh, err := app.OpenStore(ctx, target)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	defer func() { err = errors.Join(err, fresh.Close()) }()
	if err := fresh.Migrate(ctx); err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	out, okFrom := old.(mirror.Mover)
	in, okTo := fresh.(mirror.Mover)
	if !okFrom || !okTo {
		return errors.New("this kind of database cannot be moved")
	}
	began := time.Now()
	moved, err := mirror.Move(ctx, out, in, began, func(table string, rows int64) {
		if rows%100_000 == 0 {
			fmt.Fprintf(e.err, "%s: %d rows\n", table, rows)
		}
	})
	switch {
	case errors.Is(err, mirror.ErrNotEmpty):
		return fmt.Errorf("--to: %w; nothing was changed", err)
	case err != nil:
		return fmt.Errorf("nothing was moved: %w", err)
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper("table\trows\tdigest"))
	var rows int64
	for _, m := range moved {
		rows += m.Rows
		fmt.Fprintf(w, "%s\t%d\t%s\n", m.Table, m.Rows, orDash(m.Digest))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(e.err, "%d rows moved in %s, read back and the same; the old database is as it was\n", rows, time.Since(began).Round(time.Millisecond))
	return nil
}
