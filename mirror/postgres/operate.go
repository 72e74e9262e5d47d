package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Operations = (*Store)(nil)

const (
	actionColumns = `account, id, created, actor, remote_addr, action, customer, object, reason, outcome, count, detail`

	beginAction = `INSERT INTO creditmirror.operator_actions (` + actionColumns + `)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING`

	endAction = `UPDATE creditmirror.operator_actions SET outcome = $3, count = $4, detail = $5, synced_at = now()
WHERE account = $1 AND id = $2 AND outcome = ''`

	acceptedFindings = `SELECT ` + actionColumns + ` FROM (
  SELECT DISTINCT ON (object) ` + actionColumns + ` FROM creditmirror.operator_actions
  WHERE object = ANY ($1) AND action IN ('accept', 'withdraw') AND outcome = 'done' ORDER BY object, created DESC, id DESC) AS newest
WHERE action = 'accept'`

	pruneActions = `DELETE FROM creditmirror.operator_actions
WHERE (account, id) IN (SELECT account, id FROM creditmirror.operator_actions WHERE created < $1 ORDER BY created, id LIMIT 1000)`

	saveSession = `INSERT INTO creditmirror.console_sessions (account, id, key_name, bond, created, expires_at)
VALUES ('', $1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`
	readSession   = `SELECT id, key_name, bond, created, expires_at FROM creditmirror.console_sessions WHERE account = '' AND id = $1`
	dropSession   = `DELETE FROM creditmirror.console_sessions WHERE account = '' AND id = $1`
	pruneSessions = `DELETE FROM creditmirror.console_sessions WHERE expires_at < $1`
)

// BeginAction records an action before it is done.
func (s *Store) BeginAction(ctx context.Context, a mirror.OperatorAction) error {
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(beginAction, a.Account, a.ID, a.Created, clean(a.Actor), clean(a.RemoteAddr), string(a.Action), clean(a.Customer), clean(a.Object),
			clean(a.Reason), string(a.Outcome), a.Count, clean(a.Detail))
	})
	if err != nil {
		return fmt.Errorf("record the action %s: %w", a.ID, err)
	}
	return nil
}

// EndAction records what became of it.
func (s *Store) EndAction(ctx context.Context, a mirror.OperatorAction) error {
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(endAction, a.Account, a.ID, string(a.Outcome), a.Count, clean(a.Detail))
	})
	if err != nil {
		return fmt.Errorf("record the outcome of the action %s: %w", a.ID, err)
	}
	return nil
}

func scanAction(row pgx.CollectableRow) (a mirror.OperatorAction, err error) {
	err = row.Scan(&a.Account, &a.ID, &a.Created, &a.Actor, &a.RemoteAddr, (*string)(&a.Action), &a.Customer, &a.Object, &a.Reason,
		(*string)(&a.Outcome), &a.Count, &a.Detail)
	return a, err
}

// Actions lists actions, the newest first.
func (s *Store) Actions(ctx context.Context, f mirror.ActionFilter, limit int) ([]mirror.OperatorAction, error) {
	c := &choice{}
	c.ofAccounts(f.Accounts)
	c.equal("customer", f.Customer)
	if c.equal("object", f.Object); f.Object != "" {
		c.and("object <> ''")
	}
	c.equal("actor", f.Actor)
	c.equal("action", string(f.Action))
	if !f.Before.IsZero() {
		c.and("(created, id) < (?, ?)", f.Before, f.BeforeID)
	}
	statement, args := c.limited("SELECT "+actionColumns+" FROM creditmirror.operator_actions", " ORDER BY created DESC, id DESC", limit)
	list, err := query(ctx, s, scanAction, statement, args...)
	if err != nil {
		return nil, fmt.Errorf("list actions: %w", err)
	}
	return list, nil
}

// Accepted returns the action by which each accepted finding was accepted.
func (s *Store) Accepted(ctx context.Context, findings []string) (map[string]mirror.OperatorAction, error) {
	by := map[string]mirror.OperatorAction{}
	if len(findings) == 0 {
		return by, nil
	}
	list, err := query(ctx, s, scanAction, acceptedFindings, findings)
	if err != nil {
		return nil, fmt.Errorf("read accepted findings: %w", err)
	}
	for _, a := range list {
		by[a.Object] = a
	}
	return by, nil
}

// PruneActions deletes old rows.
func (s *Store) PruneActions(ctx context.Context, before time.Time) (int64, error) {
	if kept := time.Now().Add(-mirror.APIWritesKept - time.Minute); before.After(kept) {
		before = kept
	}
	tag, err := s.pool.Exec(ctx, pruneActions, before)
	if err != nil {
		return 0, fmt.Errorf("prune actions: %w", err)
	}
	return tag.RowsAffected(), nil
}

// SaveSession stores who has signed in.
func (s *Store) SaveSession(ctx context.Context, v mirror.Session) error {
	err := s.once(ctx, func(b *pgx.Batch) { b.Queue(saveSession, v.ID, clean(v.Key), v.Bond, v.Created, v.Expires) })
	if err != nil {
		return fmt.Errorf("save a session: %w", err)
	}
	return nil
}

// Session reads one.
func (s *Store) Session(ctx context.Context, id string) (mirror.Session, error) {
	v, err := one(query(ctx, s, func(row pgx.CollectableRow) (v mirror.Session, err error) {
		err = row.Scan(&v.ID, &v.Key, &v.Bond, &v.Created, &v.Expires)
		return v, err
	}, readSession, id))
	if err != nil {
		return v, fmt.Errorf("read a session: %w", err)
	}
	return v, nil
}

// DropSession ends one.
func (s *Store) DropSession(ctx context.Context, id string) error {
	if _, err := s.pool.Exec(ctx, dropSession, id); err != nil {
		return fmt.Errorf("end a session: %w", err)
	}
	return nil
}

// PruneSessions deletes those that are over.
func (s *Store) PruneSessions(ctx context.Context, before time.Time) error {
	if _, err := s.pool.Exec(ctx, pruneSessions, before); err != nil {
		return fmt.Errorf("prune sessions: %w", err)
	}
	return nil
}
