package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Operations = (*Store)(nil)

const (
	actionColumns = `account, id, created, actor, remote_addr, action, customer, object, reason, outcome, count, detail`

	beginAction = `
INSERT INTO operator_actions (` + actionColumns + `, synced_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT DO NOTHING`

	endAction = `
UPDATE operator_actions SET outcome = ?3, count = ?4, detail = ?5, synced_at = ?6 WHERE account = ?1 AND id = ?2 AND outcome = ''`

	acceptedFindings = `
SELECT ` + actionColumns + ` FROM operator_actions AS a
WHERE object IN (SELECT value FROM json_each(?1)) AND object <> '' AND action = 'accept' AND outcome = 'done'
  AND NOT EXISTS (SELECT 1 FROM operator_actions AS b WHERE b.object = a.object AND b.object <> '' AND b.action IN ('accept', 'withdraw') AND b.outcome = 'done'
    AND (b.created, b.id) > (a.created, a.id))`

	pruneActions = `
DELETE FROM operator_actions
WHERE (account, id) IN (SELECT account, id FROM operator_actions WHERE created < ?1 ORDER BY created, id LIMIT 1000)`

	saveSession = `
INSERT INTO console_sessions (account, id, key_name, bond, created, expires_at, synced_at) VALUES ('', ?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING`
	readSession   = `SELECT id, key_name, bond, created, expires_at FROM console_sessions WHERE account = '' AND id = ?1`
	dropSession   = `DELETE FROM console_sessions WHERE account = '' AND id = ?1`
	pruneSessions = `DELETE FROM console_sessions WHERE expires_at < ?1`
)

// lastStamp is later than every time in a table.
const lastStamp = "9999-12-31T23:59:59.999999Z"

// beforeStamp is a bound to the newest: the zero time is no bound.
func beforeStamp(t time.Time) string {
	if t.IsZero() {
		return lastStamp
	}
	return stamp(t)
}

// textList is a list of texts as json_each takes it; nil is NULL.
func textList(list []string) (any, error) {
	if list == nil {
		return nil, nil
	}
	row := make([]any, len(list))
	for i, text := range list {
		row[i] = text
	}
	text, err := batch([][]any{row})
	if err != nil {
		return nil, err
	}
	return text[1 : len(text)-2], nil // without the outer list and the line's end
}

// BeginAction records an action before it is done.
func (s *Store) BeginAction(ctx context.Context, a mirror.OperatorAction) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		return tx.exec(beginAction, a.Account, a.ID, stamp(a.Created), plain(a.Actor), plain(a.RemoteAddr), string(a.Action), plain(a.Customer),
			plain(a.Object), plain(a.Reason), string(a.Outcome), a.Count, plain(a.Detail), tx.at)
	})
	if err != nil {
		return fmt.Errorf("record the action %s: %w", a.ID, explain(s.path, err))
	}
	return nil
}

// EndAction records what became of it.
func (s *Store) EndAction(ctx context.Context, a mirror.OperatorAction) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		return tx.exec(endAction, a.Account, a.ID, string(a.Outcome), a.Count, plain(a.Detail), tx.at)
	})
	if err != nil {
		return fmt.Errorf("record the outcome of the action %s: %w", a.ID, explain(s.path, err))
	}
	return nil
}

func scanAction(rows *sql.Rows) (a mirror.OperatorAction, err error) {
	err = rows.Scan(&a.Account, &a.ID, timeColumn{&a.Created}, &a.Actor, &a.RemoteAddr, &a.Action, &a.Customer, &a.Object, &a.Reason,
		&a.Outcome, &a.Count, &a.Detail)
	return a, err
}

// listed reads a list in a transaction of its own.
func listed[Row any](ctx context.Context, s *Store, what, statement string, args []any, scan func(*sql.Rows) (Row, error)) (list []Row, err error) {
	err = s.read(ctx, func(r *reading) error {
		list, err = listedBy(r, statement, args, scan)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return list, nil
}

// listedBy reads a list.
func listedBy[Row any](r *reading, statement string, args []any, scan func(*sql.Rows) (Row, error)) (list []Row, err error) {
	err = r.each(statement, args, func(rows *sql.Rows) error {
		v, err := scan(rows)
		list = append(list, v)
		return err
	})
	return list, err
}

// Actions lists actions, the newest first.
func (s *Store) Actions(ctx context.Context, f mirror.ActionFilter, limit int) ([]mirror.OperatorAction, error) {
	statement, args, err := actionsChosen(f, limit)
	if err != nil {
		return nil, err
	}
	return listed(ctx, s, "list actions", statement, args, scanAction)
}

// actionsChosen lists actions, the newest first.
func actionsChosen(f mirror.ActionFilter, limit int) (string, []any, error) {
	c := &choice{}
	err := c.ofAccounts(f.Accounts)
	c.equal("customer", f.Customer)
	c.equal("object", f.Object)
	c.equal("actor", f.Actor)
	c.equal("action", string(f.Action))
	index := " INDEXED BY operator_actions_created"
	if f.Object != "" {
		c.and("object <> '' AND created <= ?", beforeStamp(f.Before))
		index = " INDEXED BY operator_actions_object"
	}
	c.and("(created, id) < (?, ?)", beforeStamp(f.Before), f.BeforeID)
	statement, args := c.limited("SELECT "+actionColumns+" FROM operator_actions"+index, " ORDER BY created DESC, id DESC", limit)
	return statement, args, err
}

// Accepted returns the action by which each accepted finding was accepted.
func (s *Store) Accepted(ctx context.Context, findings []string) (map[string]mirror.OperatorAction, error) {
	by := map[string]mirror.OperatorAction{}
	if len(findings) == 0 {
		return by, nil
	}
	ids, err := textList(findings)
	if err != nil {
		return nil, err
	}
	list, err := listed(ctx, s, "read accepted findings", acceptedFindings, []any{ids}, scanAction)
	for _, a := range list {
		by[a.Object] = a
	}
	return by, err
}

// PruneActions deletes old rows.
func (s *Store) PruneActions(ctx context.Context, before time.Time) (n int64, err error) {
	if kept := s.now().Add(-mirror.APIWritesKept - time.Minute); before.After(kept) {
		before = kept
	}
	err = s.w.do(ctx, volatile, func(tx *tx) error {
		deleted, err := tx.affect(pruneActions, stamp(before))
		n = int64(deleted)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("prune actions: %w", explain(s.path, err))
	}
	return n, nil
}

// SaveSession stores who has signed in.
func (s *Store) SaveSession(ctx context.Context, v mirror.Session) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		return tx.exec(saveSession, v.ID, plain(v.Key), v.Bond, stamp(v.Created), stamp(v.Expires), tx.at)
	})
	if err != nil {
		return fmt.Errorf("save a session: %w", explain(s.path, err))
	}
	return nil
}

// Session reads one.
func (s *Store) Session(ctx context.Context, id string) (v mirror.Session, err error) {
	found := false
	err = s.read(ctx, func(r *reading) (err error) {
		found, err = r.row(readSession, []any{id}, &v.ID, &v.Key, &v.Bond, timeColumn{&v.Created}, timeColumn{&v.Expires})
		return err
	})
	if err == nil && !found {
		err = mirror.ErrNotFound
	}
	if err != nil {
		return mirror.Session{}, fmt.Errorf("read a session: %w", err)
	}
	return v, nil
}

// DropSession ends one.
func (s *Store) DropSession(ctx context.Context, id string) error {
	if err := s.w.do(ctx, durable, func(tx *tx) error { return tx.exec(dropSession, id) }); err != nil {
		return fmt.Errorf("end a session: %w", explain(s.path, err))
	}
	return nil
}

// PruneSessions deletes those that are over.
func (s *Store) PruneSessions(ctx context.Context, before time.Time) error {
	if err := s.w.do(ctx, volatile, func(tx *tx) error { return tx.exec(pruneSessions, stamp(before)) }); err != nil {
		return fmt.Errorf("prune sessions: %w", explain(s.path, err))
	}
	return nil
}
