package postgres

import (
	"context"
	"sync/atomic"
)

// growth has a table's statistics renewed while pieces of long histories come in, each
// time that so many rows more have come as before. Until the server does so by itself,
// which may take minutes, its planner takes a customer for one with a row or two, and
// looks a row up through an index that leads over the customer's whole history.
type growth struct {
	analyze   string
	rows, due atomic.Int64
}

func newGrowth(analyze string) *growth {
	g := &growth{analyze: analyze}
	g.due.Store(1000)
	return g
}

// add counts rows that a piece has brought. That statistics are not renewed costs time
// and nothing else, so that a failure is nobody's.
func (g *growth) add(ctx context.Context, s *Store, rows int) {
	due := g.due.Load()
	if g.rows.Add(int64(rows)) < due || !g.due.CompareAndSwap(due, 2*due) {
		return
	}
	_, _ = s.pool.Exec(ctx, g.analyze) //nolint:errcheck // see above
}
