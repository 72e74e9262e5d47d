package app

import (
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/export"
)

// newExports keeps a copy for the warehouse where the configuration says.
func (a *App) newExports() (*export.Loop, error) {
	cfg := a.o.Config
	wrong := func(v config.Var, err error) error {
		return &config.Error{Problems: []config.Problem{{Var: string(v), Flag: v.Flag(), Message: err.Error()}}}
	}
	location, err := export.ParseURL(cfg.ExportURL.Reveal())
	if err != nil {
		return nil, wrong(config.VarExportURL, err)
	}
	format, err := export.ParseFormat(cfg.ExportFormat)
	if err != nil {
		return nil, wrong(config.VarExportFormat, err)
	}
	source, ok := a.parts.Store.(export.Mirror)
	if !ok {
		return nil, errors.New("this database cannot be exported")
	}
	host, _ := os.Hostname() //nolint:errcheck // the name only makes the lease easier to read
	exporter, err := export.New(source, location, export.Options{
		Format: format, Tables: cfg.ExportTables, ToolVersion: a.o.Build.Version,
		Owner: fmt.Sprintf("%s/%d/%s", host, os.Getpid(), randomID()), Now: a.o.Outside.Now,
		Log: a.log.With(zap.String("component", "export")),
	})
	if err != nil {
		return nil, wrong(config.VarExportTables, err)
	}
	return export.NewLoop(exporter, cfg.ExportInterval, a.o.Registry), nil
}
