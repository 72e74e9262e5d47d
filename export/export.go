package export

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

// Mirror is what an export reads, and how exporters of one mirror take turns.
type Mirror interface {
	mirror.Feed
	AcquireLease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error)
	ReleaseLease(ctx context.Context, name, owner string) error
}

// Options tune an Exporter.
type Options struct {
	// Format of the files. Defaults to Parquet.
	Format Format
	// Tables by name; none means all.
	Tables []string
	// Full asks for a full generation.
	Full bool
	// TempDir is where rows are spooled. Defaults to the system's.
	TempDir string
	// Owner names this process to others that export the same mirror.
	Owner string
	// ToolVersion is this program's.
	ToolVersion string
	// Progress is called now and then with the rows that were read. It may be nil.
	Progress func(table string, rows int64)
	// Waiting is called once when another exporter is at work. It may be nil.
	Waiting func()
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Log takes what went on. Defaults to none.
	Log *zap.Logger
}

// Exporter brings one copy up to date.
type Exporter struct {
	mirror   Mirror
	location Location
	tables   []table
	options  Options
}

// New makes an exporter.
func New(m Mirror, l Location, o Options) (*Exporter, error) {
	tables, err := tablesNamed(o.Tables)
	if err != nil {
		return nil, err
	}
	if o.Format == "" {
		o.Format = Parquet
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return &Exporter{mirror: m, location: l, tables: tables, options: o}, nil
}

// Result is what a run did.
type Result struct {
	// Manifest is that of the new generation; nil when there was nothing new.
	Manifest *Manifest
	// Why says why the generation is full; empty where it is not.
	Why string
	// Began and Ended bound the run.
	Began, Ended time.Time
}

const (
	leaseTTL   = 30 * time.Second
	leaseRenew = 8 * time.Second
	leaseRetry = time.Second
)

// Run makes one generation, or none where nothing has changed. It waits for
// another exporter of the same mirror and place to end.
func (e *Exporter) Run(ctx context.Context) (result Result, err error) {
	ctx, release, err := e.takeTurn(ctx)
	if err != nil {
		return Result{}, err
	}
	defer release()
	if e.location.Postgres() {
		return e.runTables(ctx)
	}
	p, err := e.location.openPlace(ctx, true)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	return e.runFiles(ctx, p)
}

// takeTurn takes the lease of this place and keeps it until release. The context
// ends when the lease is lost.
func (e *Exporter) takeTurn(ctx context.Context) (context.Context, func(), error) {
	name := e.location.Name()
	for told := false; ; told = true {
		held, err := e.mirror.AcquireLease(ctx, name, e.options.Owner, leaseTTL)
		if err != nil {
			return nil, nil, err
		}
		if held {
			break
		}
		if !told && e.options.Waiting != nil {
			e.options.Waiting()
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(leaseRetry):
		}
	}
	turn, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(leaseRenew)
		defer tick.Stop()
		for {
			select {
			case <-turn.Done():
				return
			case <-tick.C:
			}
			if held, err := e.mirror.AcquireLease(turn, name, e.options.Owner, leaseTTL); err == nil && !held {
				cancel(errors.New("another exporter took over: this one was too slow to renew its lease"))
			}
		}
	}()
	return turn, func() {
		cancel(nil)
		<-ended
		after, stop := context.WithTimeout(context.WithoutCancel(ctx), leaseRetry)
		defer stop()
		if err := e.mirror.ReleaseLease(after, name, e.options.Owner); err != nil {
			e.options.Log.Debug("could not release the export lease; it will expire", zap.Error(err))
		}
	}, nil
}

// runFiles makes one generation of files.
func (e *Exporter) runFiles(ctx context.Context, p place) (Result, error) {
	c, err := readChain(ctx, p)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", e.location, err)
	}
	parent, held, err := c.latest(ctx)
	if err != nil {
		return Result{}, err
	}
	var base *Manifest
	if held {
		base = &parent
	}
	waiting := 0 // an upload holds its last parts in memory
	if e.location.scheme == "file" {
		waiting = finishing
	}
	return e.run(ctx, base, func(g *generation) { g.writeInto(ctx, p, waiting) }, func(g *generation) error {
		if err := g.written(); err != nil {
			return err
		}
		err := c.publish(ctx, g.manifest)
		if errors.Is(err, errExists) {
			err = fmt.Errorf("another exporter, of another mirror, published generation %d: %w; give each mirror a place of its own", g.manifest.Generation, err)
		}
		return err
	})
}

// run reads the generation that follows parent, gives it to publish, and records it.
// It calls begin, unless that is nil, before it reads the first row.
func (e *Exporter) run(ctx context.Context, parent *Manifest, begin func(*generation), publish func(*generation) error) (result Result, err error) {
	result.Began = e.options.Now()
	since, why, err := e.since(ctx, parent)
	if err != nil {
		return result, err
	}
	dir, err := spoolDir(e.options.TempDir)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	g, why, err := e.read(ctx, dir, parent, since, why, begin)
	if g == nil || err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := e.intend(ctx, g.manifest); err != nil {
		return result, err
	}
	if err := publish(g); err != nil {
		return result, err
	}
	result.Manifest, result.Why, result.Ended = &g.manifest, why, e.options.Now()
	return result, e.record(ctx, g.manifest.Generation, g.manifest.ToPosition, g.manifest.Position)
}

// intend records, before a generation is published, that this mirror makes it: a mirror
// restored from a backup does not take one that it has lost for its own.
func (e *Exporter) intend(ctx context.Context, m Manifest) error {
	cursor, err := e.mirror.FeedCursor(ctx, e.location.Name(), allAccounts)
	if errors.Is(err, mirror.ErrNotFound) || err == nil && cursor.Generation != m.Generation-1 {
		return nil // the next run makes a full one anyway, unless this one is recorded
	}
	if err != nil {
		return err
	}
	return e.record(ctx, cursor.Generation, cursor.Position.Text, m.Position)
}

func (e *Exporter) record(ctx context.Context, generation int64, text string, number int64) error {
	return e.mirror.SaveFeedCursor(ctx, mirror.FeedCursor{
		Name: e.location.Name(), Account: allAccounts, Generation: generation,
		Position: mirror.FeedPosition{Text: text, Number: number},
	})
}

// allAccounts marks a reader of all accounts' records.
const allAccounts = "*"

// since decides from where in the feed the generation begins. An empty position
// asks for a full one, and why says in words what for.
func (e *Exporter) since(ctx context.Context, parent *Manifest) (position, why string, err error) {
	cursor, err := e.mirror.FeedCursor(ctx, e.location.Name(), allAccounts)
	known := err == nil
	if err != nil && !errors.Is(err, mirror.ErrNotFound) {
		return "", "", err
	}
	switch {
	case parent == nil:
		// From here on a chain that this mirror does not know is none of its own.
		return "", "it is the first", e.record(ctx, 0, "", 0)
	case e.options.Full:
		return "", "it was asked for", nil
	case !known:
		return "", "this mirror does not know the copy: it was made by another one, or the mirror was restored from a backup, or has not exported to it for long", nil
	case cursor.Generation == parent.Generation && cursor.Position.Text == parent.ToPosition:
		position = parent.ToPosition
	case cursor.Generation == parent.Generation-1 && cursor.Position.Number == parent.Position:
		position = parent.ToPosition // published by a process that was killed before it recorded it
	default:
		return "", fmt.Sprintf("this mirror does not know generation %d of the copy: another mirror wrote it, or this one was restored from a backup", parent.Generation), nil
	}
	if reason := e.schemaChange(*parent); reason != "" {
		return "", reason, nil
	}
	return position, "", nil
}

// schemaChange says what keeps a generation from going on behind parent; columns
// that were added do not.
func (e *Exporter) schemaChange(parent Manifest) string {
	for _, t := range e.tables {
		before, ok := parent.Tables[t.Name]
		if !ok {
			return fmt.Sprintf("the last generation has no table %s", t.Name)
		}
		now := t.manifestColumns()
		for _, c := range before.Columns {
			if !slices.Contains(now, c) {
				return fmt.Sprintf("column %s of %s is no longer there, or has another type", c.Name, t.Name)
			}
		}
	}
	return ""
}

// read spools the rows of one generation from one snapshot of the mirror. It
// returns nil where nothing has changed.
func (e *Exporter) read(ctx context.Context, dir string, parent *Manifest, since, why string, begin func(*generation)) (g *generation, _ string, err error) {
	defer func() {
		if err != nil && g != nil {
			err = errors.Join(err, g.close())
			g = nil
		}
	}()
	err = e.mirror.ReadFeed(ctx, func(r mirror.FeedReader) error {
		at, err := r.Position(ctx)
		if err != nil {
			return err
		}
		var changed map[string][]mirror.RowChange
		if why == "" {
			names := make([]string, len(e.tables))
			for i, t := range e.tables {
				names[i] = t.Name
			}
			var complete bool
			changed, complete, err = r.Changed(ctx, since, names, maxChanged)
			switch {
			case errors.Is(err, mirror.ErrFeedGone):
				why = "the change feed does not reach back to the last generation: it was pruned, or the mirror was moved or restored from a backup"
			case err != nil:
				return err
			case !complete:
				why = fmt.Sprintf("more than %d rows have changed", maxChanged)
			case len(changed) == 0:
				return nil
			}
		}
		kind := KindIncremental
		if why != "" {
			kind = KindFull
		}
		g = newGeneration(parent, kind, e.tables, e.options)
		g.begin(dir, at, parent, e.options.Now())
		if begin != nil {
			begin(g)
		}
		if g.manifest.UnprovenCustomers, err = r.Unproven(ctx); err != nil {
			return err
		}
		if kind == KindFull {
			return g.readAll(ctx, r)
		}
		return g.readChanged(ctx, r, parent, since, changed)
	})
	return g, why, err
}
