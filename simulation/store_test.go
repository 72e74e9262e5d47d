package simulation

import (
	"context"
	"strings"

	"github.com/creditmirror/creditmirror/mirror"
)

// store is the mirror's database as one process sees it: an await point before each
// call (store_gen_test.go).
type store struct {
	mirror.Store
	p *process
}

func (s *store) db() mirror.Store { return s.p.w.db }

// Close leaves the database to the world: it outlives the process.
func (s *store) Close() error { return nil }

// Snapshot reads the database of now.
func (s *store) Snapshot(ctx context.Context, fn func(mirror.Reader) error) error {
	if _, err := s.enter(ctx, "Snapshot", nil); err != nil {
		return err
	}
	return s.db().Snapshot(ctx, fn)
}

func (s *store) enter(ctx context.Context, name string, args []any) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.p.w.park(ctx, s.p, seamDB, name+s.p.w.about(args))
}

func (s *store) leave(c *call, err error) error {
	name, id, _ := strings.Cut(c.name, " ")
	for _, w := range committing {
		if strings.HasPrefix(name, w) {
			s.p.w.touch(id)
		}
	}
	if err != nil {
		return err
	}
	return s.p.answer(c)
}

// about returns what a call is about, so that calls of one moment have names of their own.
func (w *world) about(args []any) string {
	for _, arg := range args {
		if t, ok := targetOf(arg); ok {
			return " " + string(t.Scope) + " " + w.nickname(t.ID)
		}
		switch v := arg.(type) {
		case mirror.Sweep:
			return " " + v.Name
		case mirror.Scope:
			return " " + string(v)
		case string:
			if v != "" {
				return " " + w.nickname(v)
			}
		case []mirror.Event:
			if len(v) > 0 {
				return " " + v[0].ID[len(v[0].ID)-6:]
			}
		case []mirror.Target:
			if len(v) > 0 {
				return " " + string(v[0].Scope) + " " + w.nickname(v[0].ID)
			}
		}
	}
	return ""
}

// targetOf finds what a call is about.
func targetOf(arg any) (mirror.Target, bool) {
	switch v := arg.(type) {
	case mirror.Target:
		return v, true
	case mirror.BalanceSnapshot:
		return v.Target, true
	case mirror.CreditsSnapshot:
		return v.Target, true
	case mirror.Tombstone:
		return v.Target, true
	case mirror.Refusal:
		return v.Target, true
	case mirror.Write:
		return v.Target, true
	case mirror.DeadLetter:
		return v.Target, true
	}
	return mirror.Target{}, false
}

// committing are those of methods after which the invariants are checked.
var committing = []string{"Apply", "Insert", "Resolve", "Refuse", "Place", "Commit", "Join"}

// writing are the beginnings of the names of methods that write.
var writing = []string{
	"Apply", "Begin", "Record", "Save", "Insert", "Open", "Resolve", "Refuse", "Migrate", "Acquire",
	"Release", "See", "Prune", "Drop", "Due", "Ping", "Close", "Delete", "Set", "Place", "Mark",
}

func writes(name string) bool {
	for _, w := range writing {
		if strings.HasPrefix(name, w) {
			return true
		}
	}
	return false
}
