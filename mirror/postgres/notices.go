package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

// Each half of pendingNotices walks an index of its own and stops at the limit,
// however much waits. What was found before the time that is asked about and
// repaired after it is passed over. The first openings of the limit come before any closing
// whose opening is not among them, so a closing is never listed without.
const (
	pendingNotices = `SELECT ` + findingColumns + `, at, step = 1 FROM (
  (SELECT ` + findingColumns + `, found_at AS at, 0 AS step FROM creditmirror.drift_findings
    WHERE notified = 0 AND found_at >= $1 AND (repaired_at IS NULL OR repaired_at >= $1)
    ORDER BY found_at, id LIMIT $2)
  UNION ALL
  (SELECT ` + findingColumns + `, greatest(found_at, repaired_at), 1 FROM creditmirror.drift_findings
    WHERE notified < 2 AND repaired_at IS NOT NULL AND repaired_at >= $1 AND found_at >= $1
    ORDER BY repaired_at, id LIMIT $2)
) AS n ORDER BY at, step, id LIMIT $2`

	countNotices = `SELECT (SELECT count(*) FROM creditmirror.drift_findings
    WHERE notified = 0 AND found_at >= $1 AND (repaired_at IS NULL OR repaired_at >= $1))
  + (SELECT count(*) FROM creditmirror.drift_findings
    WHERE notified < 2 AND repaired_at IS NOT NULL AND repaired_at >= $1 AND found_at >= $1)`

	markNotice = `UPDATE creditmirror.drift_findings SET notified = $3 WHERE account = $1 AND id = $2 AND notified < $3`
)

// PendingNotices lists steps of findings that nobody was notified of.
func (s *Store) PendingNotices(ctx context.Context, since time.Time, limit int) ([]mirror.Notice, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (n mirror.Notice, err error) {
		n.Finding, err = scanFinding(row, (*optTime)(&n.At), &n.Closed)
		return n, err
	}, pendingNotices, since, limit)
	if err != nil {
		return nil, fmt.Errorf("list pending notices: %w", err)
	}
	return list, nil
}

// CountNotices counts them.
func (s *Store) CountNotices(ctx context.Context, since time.Time) (int64, error) {
	list, err := query(ctx, s, pgx.RowTo[int64], countNotices, since)
	if err != nil {
		return 0, fmt.Errorf("count notices: %w", err)
	}
	return list[0], nil
}

// MarkNotice marks a step as sent.
func (s *Store) MarkNotice(ctx context.Context, n mirror.Notice) error {
	step := 1
	if n.Closed {
		step = 2
	}
	err := s.once(ctx, func(b *pgx.Batch) { b.Queue(markNotice, n.Finding.Account, n.Finding.ID, step) })
	if err != nil {
		return fmt.Errorf("mark the notice of %s: %w", n.Finding.ID, err)
	}
	return nil
}
