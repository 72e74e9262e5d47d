package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
)

// openMirror opens a mirror that is there already, with a schema that fits.
func openMirror(ctx context.Context, cfg config.Config) (mirror.Store, error) {
	if err := mirrorIsThere(cfg); err != nil {
		return nil, err
	}
	store, err := app.OpenStore(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := store.CheckSchema(ctx); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

// mirrorIsThere refuses a file that does not exist: opening it would make an empty
// mirror, of which there is nothing to report.
func mirrorIsThere(cfg config.Config) error {
	if path, ok := cfg.SQLitePath(); ok {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no mirror at %s: set %s, or make the first copy with serve or backfill", path, config.VarDatabaseURL)
		}
	}
	return nil
}

// withMirror runs do on the mirror's database, as it is, for a command that uses the
// variables that overrides binds and no others.
func withMirror(ctx context.Context, e *env, overrides *config.Overrides, do func(mirror.Store) error) (err error) {
	cfg, err := config.LoadUsed(e.environ, nil, overrides)
	if err != nil {
		return err
	}
	return onMirror(ctx, cfg, do)
}

// onMirror is withMirror for a command that has read its configuration.
func onMirror(ctx context.Context, cfg config.Config, do func(mirror.Store) error) (err error) {
	store, err := openMirror(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return do(store)
}

// part is one of the further contracts that both databases keep.
func part[T any](store mirror.Store) (T, error) {
	p, ok := store.(T)
	if !ok {
		return p, fmt.Errorf("%T is no %s", store, reflect.TypeFor[T]())
	}
	return p, nil
}
