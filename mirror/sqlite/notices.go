package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// Each half of pendingNotices walks an index of its own and stops at the limit,
// however much waits. What was found before the time that is asked about and
// repaired after it is passed over. The first openings of the limit come before any closing
// whose opening is not among them, so a closing is never listed without.
const (
	pendingNotices = `
SELECT ` + findingColumns + `, at, step FROM (
  SELECT * FROM (
    SELECT ` + findingColumns + `, found_at AS at, 0 AS step FROM drift_findings INDEXED BY drift_findings_untold_opening
    WHERE notified = 0 AND found_at >= ?1 AND (repaired_at IS NULL OR repaired_at >= ?1)
    ORDER BY found_at, id LIMIT ?2 + 0)
  UNION ALL SELECT * FROM (
    SELECT ` + findingColumns + `, max(found_at, repaired_at), 1 FROM drift_findings INDEXED BY drift_findings_untold_closing
    WHERE notified < 2 AND repaired_at IS NOT NULL AND repaired_at >= ?1 AND found_at >= ?1
    ORDER BY repaired_at, id LIMIT ?2 + 0))
ORDER BY at, step, id LIMIT ?2 + 0`

	countNotices = `
SELECT (SELECT count(*) FROM drift_findings INDEXED BY drift_findings_untold_opening
  WHERE notified = 0 AND found_at >= ?1 AND (repaired_at IS NULL OR repaired_at >= ?1))
  + (SELECT count(*) FROM drift_findings INDEXED BY drift_findings_untold_closing
  WHERE notified < 2 AND repaired_at IS NOT NULL AND repaired_at >= ?1 AND found_at >= ?1)`

	markNotice = `UPDATE drift_findings SET notified = ?3 WHERE account = ?1 AND id = ?2 AND notified < ?3`
)

// PendingNotices lists steps of findings that nobody was notified of.
func (s *Store) PendingNotices(ctx context.Context, since time.Time, limit int) ([]mirror.Notice, error) {
	var list []mirror.Notice
	err := s.read(ctx, func(r *reading) error {
		return r.each(pendingNotices, []any{stamp(since), limit}, func(rows *sql.Rows) (err error) {
			var n mirror.Notice
			n.Finding, err = scanFinding(rows, timeColumn{&n.At}, &n.Closed)
			list = append(list, n)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list pending notices: %w", err)
	}
	return list, nil
}

// CountNotices counts them.
func (s *Store) CountNotices(ctx context.Context, since time.Time) (n int64, err error) {
	err = s.read(ctx, func(r *reading) error {
		_, err := r.row(countNotices, []any{stamp(since)}, &n)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count notices: %w", err)
	}
	return n, nil
}

// MarkNotice marks a step as sent.
func (s *Store) MarkNotice(ctx context.Context, n mirror.Notice) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		return tx.exec(markNotice, n.Finding.Account, n.Finding.ID, 1+flag(n.Closed))
	})
	if err != nil {
		return fmt.Errorf("mark the notice of %s: %w", n.Finding.ID, s.explain(err))
	}
	return nil
}
