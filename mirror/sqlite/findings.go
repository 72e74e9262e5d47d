package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	openFinding = `
INSERT INTO drift_findings (account, id, kind, customer, scope, currency, object, expected, actual, cause, found_at, repaired_at, synced_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?13, ?12)
ON CONFLICT DO NOTHING`

	closeFinding = `
UPDATE drift_findings SET repaired_at = ?6, synced_at = ?6
WHERE account = ?1 AND kind = ?2 AND customer = ?3 AND currency = ?4 AND object = ?5 AND repaired_at IS NULL`

	// held reports whether a finding's object is held of the target.
	held = `(EXISTS (SELECT 1 FROM customer_balance_transactions t WHERE t.account = ?1 AND t.customer = ?2 AND t.id = object)
            OR EXISTS (SELECT 1 FROM credit_balance_transactions t WHERE t.account = ?1 AND t.customer = ?2 AND t.id = object)
            OR EXISTS (SELECT 1 FROM credit_grants g WHERE g.account = ?1 AND g.customer = ?2 AND g.id = object))`

	// closeFindings closes what a commit proves gone of its own target.
	closeFindings = `
UPDATE drift_findings SET repaired_at = ?4, synced_at = ?4
WHERE account = ?1 AND customer = ?2 AND scope = ?3 AND repaired_at IS NULL
  AND (kind IN (SELECT value FROM json_each(?5))
       OR kind = 'unexpected_transaction' AND object IN (SELECT value->>0 FROM json_each(?6))
       OR kind = 'field_mismatch' AND object IN (SELECT value->>0 FROM json_each(?8))
       OR kind = 'unexpected_transaction' AND NOT ` + held + ` OR kind = 'missing_transaction' AND ` + held + `
       OR kind = 'missed_event' AND found_at <= ?7)
RETURNING kind`

	// closeMissed closes what events were missed and are answered now. An event
	// whose customer was not known has none in its finding either.
	closeMissed = `
UPDATE drift_findings SET repaired_at = ?3, synced_at = ?3
WHERE account = ?1 AND customer IN (?2, '') AND kind = 'missed_event' AND repaired_at IS NULL
  AND EXISTS (SELECT 1 FROM stripe_events e WHERE e.account = ?1 AND e.id = drift_findings.object AND e.pending_scopes = 0)
RETURNING kind`

	findingColumns = `id, kind, account, customer, scope, currency, object, expected, actual, cause, found_at, repaired_at`

	listFindings = `
SELECT ` + findingColumns + `
FROM drift_findings
WHERE (repaired_at IS NULL OR ?1 <> '' AND repaired_at >= ?1) AND id > ?2
  AND (?3 IS NULL OR account = ?3) AND (?4 = '' OR customer = ?4) AND (?5 = '' OR kind = ?5)
ORDER BY id LIMIT ?6 + 0`
)

// openFinding reports whether the difference was not open before.
func (t *tx) openFinding(f *mirror.Finding) (bool, error) { return t.recordFinding(f, nil) }

// recordFinding stores a finding that is open, or repaired already. One without a time
// gets that of the write.
func (t *tx) recordFinding(f *mirror.Finding, repaired any) (bool, error) {
	found := t.at
	if !f.FoundAt.IsZero() {
		found = stamp(f.FoundAt)
	} else if err := (timeColumn{&f.FoundAt}).Scan(t.at); err != nil {
		return false, err
	}
	n, err := t.affect(openFinding, f.Account, mirror.NewFindingID(), string(f.Kind), f.Customer, string(f.Scope),
		f.Currency, plain(f.Object), plain(f.Expected), plain(f.Actual), plain(f.Cause), found, t.at, repaired)
	return n > 0, err
}

// openFindings opens findings and returns those that were not open before.
func (t *tx) openFindings(list []mirror.Finding) ([]mirror.Finding, error) {
	var opened []mirror.Finding
	for _, f := range list {
		fresh, err := t.openFinding(&f)
		if err != nil {
			return nil, err
		}
		if fresh {
			opened = append(opened, f)
		}
	}
	return opened, nil
}

// recordRepaired records what the commit finds and repairs at once. What was found
// before is closed, and not recorded twice.
func (c *commit) recordRepaired(list []mirror.Finding) error {
	for _, f := range list {
		n, err := c.affect(closeFinding, f.Account, string(f.Kind), f.Customer, f.Currency, plain(f.Object), c.at)
		if err != nil {
			return err
		}
		if n > 0 {
			c.out.Closed = append(c.out.Closed, f.Kind)
			continue
		}
		if _, err := c.recordFinding(&f, c.at); err != nil {
			return err
		}
		c.out.Repaired = append(c.out.Repaired, f)
	}
	return nil
}

// closeFindings closes what the commit proves gone of its target.
func (c *commit) closeFindings(shut mirror.Closing) error {
	kinds := "["
	for i, k := range shut.Kinds {
		if i > 0 {
			kinds += ","
		}
		kinds += fmt.Sprintf("%q", string(k))
	}
	objects, err := idList(shut.Objects)
	if err != nil {
		return err
	}
	compared, err := idList(shut.Compared)
	if err != nil {
		return err
	}
	before := ""
	if !shut.MissedBefore.IsZero() {
		before = stamp(shut.MissedBefore)
	}
	return c.each(closeFindings, []any{c.target.Account, c.target.ID, string(c.target.Scope), c.at, kinds + "]", objects, before, compared}, c.noteClosed)
}

// closeMissed closes findings of missed events that are answered now.
func (c *commit) closeMissed() error {
	return c.each(closeMissed, []any{c.target.Account, c.target.ID, c.at}, c.noteClosed)
}

func (c *commit) noteClosed(rows *sql.Rows) error {
	var kind string
	err := rows.Scan(&kind)
	c.out.Closed = append(c.out.Closed, mirror.DriftKind(kind))
	return err
}

// OpenFindings records differences and returns those that were not open before.
func (s *Store) OpenFindings(ctx context.Context, list []mirror.Finding) ([]mirror.Finding, error) {
	if len(list) == 0 {
		return nil, nil
	}
	var opened []mirror.Finding
	err := s.w.do(ctx, durable, func(tx *tx) (err error) {
		opened, err = tx.openFindings(list)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %d findings: %w", len(list), s.explain(err))
	}
	return opened, nil
}

// Findings lists findings by id.
func (s *Store) Findings(ctx context.Context, q mirror.FindingsQuery) ([]mirror.Finding, error) {
	since, account := "", any(nil)
	if !q.RepairedSince.IsZero() {
		since = stamp(q.RepairedSince)
	}
	if q.Account != nil {
		account = *q.Account
	}
	var list []mirror.Finding
	err := s.read(ctx, func(r *reading) error {
		return r.each(listFindings, []any{since, q.After, account, q.Customer, string(q.Kind), q.Limit}, func(rows *sql.Rows) error {
			f, err := scanFinding(rows)
			list = append(list, f)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list findings: %w", err)
	}
	return list, nil
}

// scanFinding scans findingColumns and what follows them.
func scanFinding(rows *sql.Rows, more ...any) (f mirror.Finding, err error) {
	var kind, scope string
	err = rows.Scan(append([]any{
		&f.ID, &kind, &f.Account, &f.Customer, &scope, &f.Currency, &f.Object, &f.Expected, &f.Actual, &f.Cause,
		timeColumn{&f.FoundAt},
		timeColumn{&f.RepairedAt},
	}, more...)...)
	f.Kind, f.Scope = mirror.DriftKind(kind), mirror.Scope(scope)
	return f, err
}
