package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
)

// What people ask of sweeps is kept in the table of the sweeps, under names of its own:
// the replica that holds the lease reads it, whichever one was asked.
const controlRows = "control_"

// controlInterval is how soon the holder of the lease does what was asked.
const controlInterval = 3 * time.Second

// IsControlRow reports whether a row of the sweeps' table is what people ask of a sweep.
func IsControlRow(name string) bool { return strings.HasPrefix(name, controlRows) }

// Control is what somebody asked of a sweep.
type Control struct {
	// Paused: no pass begins, and a first copy stops where it is, until it is resumed.
	Paused bool `json:"paused,omitempty"`
	// By, Reason and At are of the last change of Paused.
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at,omitzero"`
	// Start is when a pass was last asked for.
	Start time.Time `json:"start,omitzero"`
}

// ControlledSweeps lists the sweeps that can be paused; all but backfill can be started.
func ControlledSweeps() []string {
	return []string{SweepEvents, SweepBalances, SweepScrub, SweepBackfill}
}

// ErrNoSweep says that there is no such sweep, or that it does not start when asked.
var ErrNoSweep = errors.New("no such sweep")

// ReadControl reads what was asked of a sweep.
func ReadControl(ctx context.Context, store Checkpoints, sweep string) (Control, error) {
	row, err := store.Sweep(ctx, "", controlRows+sweep)
	var c Control
	if err == nil && len(row.State) > 0 && json.Unmarshal(row.State, &c) != nil {
		c = Control{} // another version's
	}
	return c, err
}

// ControlOf reads what was asked from a row; the sweep is empty where the row is another's.
func ControlOf(row mirror.Sweep) (sweep string, c Control) {
	if !IsControlRow(row.Name) {
		return "", c
	}
	_ = json.Unmarshal(row.State, &c) //nolint:errcheck // another version's is nothing
	return strings.TrimPrefix(row.Name, controlRows), c
}

func changeControl(ctx context.Context, store Checkpoints, sweep string, change func(*Control)) error {
	if !slices.Contains(ControlledSweeps(), sweep) {
		return fmt.Errorf("%w: %q; the sweeps are %s", ErrNoSweep, sweep, strings.Join(ControlledSweeps(), ", "))
	}
	row, err := store.Sweep(ctx, "", controlRows+sweep)
	if err != nil {
		return err
	}
	_, c := ControlOf(row)
	change(&c)
	if row.State, err = json.Marshal(c); err != nil {
		return err
	}
	return store.SaveSweep(ctx, row)
}

// PauseSweep keeps a sweep from running until it is resumed, in every process.
func PauseSweep(ctx context.Context, store Checkpoints, sweep, by, reason string, now time.Time) error {
	return changeControl(ctx, store, sweep, func(c *Control) { c.Paused, c.By, c.Reason, c.At = true, by, reason, now.UTC() })
}

// ResumeSweep lets it run again.
func ResumeSweep(ctx context.Context, store Checkpoints, sweep, by string, now time.Time) error {
	return changeControl(ctx, store, sweep, func(c *Control) { c.Paused, c.By, c.Reason, c.At = false, by, "", now.UTC() })
}

// StartSweep asks for a pass now. Of the scrub it makes every history due that was not
// read since. A first copy starts by itself.
func StartSweep(ctx context.Context, store Checkpoints, sweep string, now time.Time) error {
	if sweep == SweepBackfill {
		return fmt.Errorf("%w that can be started: a first copy starts by itself", ErrNoSweep)
	}
	return changeControl(ctx, store, sweep, func(c *Control) { c.Start = now.UTC() })
}

// errPaused says that somebody paused the sweep.
var errPaused = errors.New("the sweep is paused")

// paused reports whether a sweep is.
func (r *Runner) paused(sweep string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.controls[sweep].Paused
}

// untilPaused is a context for the calls of a sweep, which ends when it is paused.
func (r *Runner) untilPaused(ctx context.Context, sweep string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.controls[sweep].Paused {
		cancel(errPaused)
	}
	r.calls++
	id := r.calls
	if r.running[sweep] == nil {
		r.running[sweep] = map[int]context.CancelCauseFunc{}
	}
	r.running[sweep][id] = cancel
	return ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.running[sweep], id)
		cancel(nil)
	}
}

// readControls learns what is asked, and does it.
func (r *Runner) readControls(ctx context.Context) {
	for _, sweep := range ControlledSweeps() {
		c, err := ReadControl(ctx, r.store, sweep)
		if err != nil {
			if ctx.Err() == nil {
				r.o.Log.Warn("could not read what is asked of sweeps", zap.String("sweep", sweep), zap.Error(err))
			}
			return
		}
		r.mu.Lock()
		before, known := r.controls[sweep]
		r.controls[sweep] = c
		if c.Paused {
			for _, cancel := range r.running[sweep] {
				cancel(errPaused)
			}
		}
		r.mu.Unlock()
		if c.Paused != before.Paused {
			r.o.Log.Info("sweep "+map[bool]string{true: "paused", false: "resumed"}[c.Paused], zap.String("sweep", sweep), zap.String("by", c.By))
		}
		resumed := before.Paused && !c.Paused
		if known && (c.Start.After(before.Start) || resumed) {
			r.startNow(ctx, sweep, c, c.Start.After(before.Start))
		}
	}
}

// startNow has a pass begin. A resumed scrub or first copy goes on by itself.
func (r *Runner) startNow(ctx context.Context, sweep string, c Control, asked bool) {
	switch {
	case c.Paused:
	case sweep == SweepEvents:
		r.askEvents()
	case sweep == SweepBalances:
		r.askBalances("")
	case sweep == SweepScrub && asked && r.o.Scrub != nil:
		accounts, err := r.accounts(ctx)
		for _, account := range accounts {
			if err == nil {
				err = r.o.Scrub.Urge(ctx, account, c.Start)
			}
		}
		if err != nil {
			r.failed(ctx, SweepScrub, "", err)
		}
	}
}

// controlLoop does what is asked of sweeps while the lease is held.
func (r *Runner) controlLoop(ctx context.Context) {
	for backoff.Sleep(ctx, controlInterval) == nil {
		r.readControls(ctx)
	}
}
