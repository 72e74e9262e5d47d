package sqlite

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	openFinding = `
INSERT INTO drift_findings (account, id, kind, customer, scope, currency, object, expected, actual, cause, found_at, synced_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
ON CONFLICT DO NOTHING`

	closeFindings = `
UPDATE drift_findings SET repaired_at = ?4, synced_at = ?4
WHERE account = ?1 AND customer = ?2 AND scope = ?3 AND repaired_at IS NULL
  AND kind IN (SELECT value FROM json_each(?5))`
)

// openFinding tells whether the difference was not open before.
func (t *tx) openFinding(f mirror.Finding) (bool, error) {
	found := t.at
	if !f.FoundAt.IsZero() {
		found = stamp(f.FoundAt)
	}
	n, err := t.affect(openFinding, f.Account, "drift_"+uuid.NewString(), string(f.Kind), f.Customer, string(f.Scope),
		f.Currency, plain(f.Object), plain(f.Expected), plain(f.Actual), plain(f.Cause), found, t.at)
	return n > 0, err
}

// closeFindings closes the target's open findings of the kinds.
func (c *commit) closeFindings(kinds []mirror.DriftKind) error {
	if len(kinds) == 0 {
		return nil
	}
	list := "["
	for i, k := range kinds {
		if i > 0 {
			list += ","
		}
		list += fmt.Sprintf("%q", string(k))
	}
	return c.exec(closeFindings, c.target.Account, c.target.ID, string(c.target.Scope), c.at, list+"]")
}

// OpenFinding records a difference, once while it is open.
func (s *Store) OpenFinding(ctx context.Context, f mirror.Finding) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		_, err := tx.openFinding(f)
		return err
	})
	if err != nil {
		return fmt.Errorf("open finding %s of %s: %w", f.Kind, f.Customer, explain(s.path, err))
	}
	return nil
}
