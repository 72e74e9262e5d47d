package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	heldCustomers = selectCustomer + `NULL` + customerRest + `
FROM json_each(?2) n CROSS JOIN customers c ON c.account = ?1 AND c.id = n.value->>0
LEFT JOIN sync_state s ON s.account = c.account AND s.customer = c.id AND s.scope = 'balance'`

	heldCustomerBalances = `
SELECT b.customer, b.currency, b.balance
FROM json_each(?2) n CROSS JOIN customer_balances b ON b.account = ?1 AND b.customer = n.value->>0`

	heldGrantDigests = `
SELECT g.id, ` + heldGrantColumns + `
FROM json_each(?2) n CROSS JOIN credit_grants g ON g.account = ?1 AND g.id = n.value->>0`

	livingCustomers = `
SELECT created, id FROM customers INDEXED BY customers_living
WHERE account = ?1 AND NOT deleted AND test_clock IS NULL AND (created, id) < (?2, ?3) AND created >= ?4
ORDER BY created DESC, id DESC LIMIT ?5 + 0`

	heldClocks = `
SELECT DISTINCT test_clock FROM customers WHERE account = ?1 AND test_clock IS NOT NULL AND NOT deleted ORDER BY test_clock`

	grantHolders = `
SELECT DISTINCT g.customer FROM credit_grants g INDEXED BY credit_grants_customer_list
WHERE g.account = ?1 AND g.customer > ?2
  AND NOT EXISTS (SELECT 1 FROM customers c WHERE c.account = g.account AND c.id = g.customer AND c.deleted)
ORDER BY g.customer LIMIT ?3 + 0`
)

// idList is a list of ids as the statements above take it.
func idList(ids []string) (string, error) {
	rows := make([][]any, len(ids))
	for i, id := range ids {
		rows[i] = []any{id}
	}
	return batch(rows)
}

// HeldCustomers returns those of the customers that are held.
func (s *Store) HeldCustomers(ctx context.Context, account string, ids []string) (map[string]mirror.HeldCustomer, error) {
	text, err := idList(ids)
	if err != nil {
		return nil, err
	}
	held := make(map[string]mirror.HeldCustomer, len(ids))
	err = s.read(ctx, func(r *reading) error {
		err := r.each(heldCustomers, []any{account, text}, func(rows *sql.Rows) error {
			v, err := scanCustomer(rows)
			held[v.ID] = mirror.HeldCustomer{CustomerView: v, Balances: map[string]int64{}}
			return err
		})
		if err != nil {
			return err
		}
		return r.each(heldCustomerBalances, []any{account, text}, func(rows *sql.Rows) error {
			var id, currency string
			var balance int64
			err := rows.Scan(&id, &currency, &balance)
			if h, ok := held[id]; ok {
				h.Balances[currency] = balance
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read %d stored customers: %w", len(ids), err)
	}
	return held, nil
}

// HeldGrants returns those of the grants that are held.
func (s *Store) HeldGrants(ctx context.Context, account string, ids []string) (map[string]mirror.HeldGrantRow, error) {
	text, err := idList(ids)
	if err != nil {
		return nil, err
	}
	held := make(map[string]mirror.HeldGrantRow, len(ids))
	err = s.read(ctx, func(r *reading) error {
		return r.each(heldGrantDigests, []any{account, text}, func(rows *sql.Rows) error {
			var id string
			g, err := scanHeldGrant(func(columns ...any) error { return rows.Scan(append([]any{&id}, columns...)...) })
			held[id] = g
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read %d stored grants: %w", len(ids), err)
	}
	return held, nil
}

// LivingCustomers lists customers by time of creation, newest first.
func (s *Store) LivingCustomers(ctx context.Context, account string, before mirror.Place, from time.Time, limit int) ([]mirror.Place, error) {
	var list []mirror.Place
	err := s.read(ctx, func(r *reading) error {
		return r.each(livingCustomers, []any{account, stamp(before.Created), before.ID, stamp(from), limit}, func(rows *sql.Rows) error {
			var p mirror.Place
			err := rows.Scan(timeColumn{&p.Created}, &p.ID)
			list = append(list, p)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list living customers: %w", err)
	}
	return list, nil
}

// HeldClocks lists the test clocks of living customers.
func (s *Store) HeldClocks(ctx context.Context, account string) ([]string, error) {
	list, err := s.texts(ctx, heldClocks, account)
	if err != nil {
		return nil, fmt.Errorf("list stored clocks: %w", err)
	}
	return list, nil
}

// GrantHolders lists the customers of held grants.
func (s *Store) GrantHolders(ctx context.Context, account, after string, limit int) ([]string, error) {
	list, err := s.texts(ctx, grantHolders, account, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list grant holders after %q: %w", after, err)
	}
	return list, nil
}

const (
	// requestFullRead does not touch a walk in progress: it goes on, and to the end.
	requestFullRead = `
UPDATE sync_state SET walk_full = 1, synced_at = ?4
WHERE account = ?1 AND customer = ?2 AND scope = ?3 AND NOT walk_full`

	fullReads = `
SELECT s.customer, s.scope, s.full_read_at, s.walk_full FROM sync_state s INDEXED BY sync_state_full_read
WHERE s.account = ?1 AND s.full_read_at IS NOT NULL AND s.full_read_at < ?2 AND s.scope IN (?4, ?5)
  AND NOT EXISTS (SELECT 1 FROM customers c WHERE c.account = s.account AND c.id = s.customer AND c.deleted)
ORDER BY s.full_read_at, s.customer, s.scope LIMIT ?3 + 0`

	refusedTargets = `
SELECT customer, scope FROM sync_state INDEXED BY sync_state_refused
WHERE account = ?1 AND refused_at >= ?2 AND refused_at IS NOT NULL ORDER BY customer, scope`

	fullReadCount = `SELECT count(*) FROM sync_state WHERE account = ?1 AND full_read_at IS NOT NULL AND scope IN (?2, ?3)`
)

// RequestFullRead makes the next sync of each target read its whole history.
func (s *Store) RequestFullRead(ctx context.Context, targets []mirror.Target) error {
	err := s.w.do(ctx, durable, func(tx *tx) error {
		for _, t := range targets {
			if err := tx.exec(requestFullRead, t.Account, t.ID, string(t.Scope), tx.at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("request %d full reads: %w", len(targets), s.explain(err))
	}
	return nil
}

// chosen are the two ledgers as an IN takes them, empty what is left out.
func chosen(l mirror.Ledgers) (balance, credits string) {
	if l.Has(mirror.ScopeBalance) {
		balance = string(mirror.ScopeBalance)
	}
	if l.Has(mirror.ScopeCredits) {
		credits = string(mirror.ScopeCredits)
	}
	return balance, credits
}

// FullReads lists complete histories, the longest unread first.
func (s *Store) FullReads(ctx context.Context, account string, ledgers mirror.Ledgers, before time.Time, limit int) ([]mirror.FullRead, error) {
	var list []mirror.FullRead
	balance, credits := chosen(ledgers)
	err := s.read(ctx, func(r *reading) error {
		return r.each(fullReads, []any{account, stamp(before), limit, balance, credits}, func(rows *sql.Rows) error {
			f := mirror.FullRead{Target: mirror.Target{Account: account}}
			var scope string
			err := rows.Scan(&f.Target.ID, &scope, timeColumn{&f.At}, &f.Requested)
			f.Target.Scope = mirror.Scope(scope)
			list = append(list, f)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list full reads: %w", err)
	}
	return list, nil
}

// FullReadCount counts the histories that FullReads can list.
func (s *Store) FullReadCount(ctx context.Context, account string, ledgers mirror.Ledgers) (int64, error) {
	var n int64
	balance, credits := chosen(ledgers)
	err := s.read(ctx, func(r *reading) error {
		_, err := r.row(fullReadCount, []any{account, balance, credits}, &n)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count full reads: %w", err)
	}
	return n, nil
}

// Refused lists the targets whose last sync was refused.
func (s *Store) Refused(ctx context.Context, account string, since time.Time) ([]mirror.Target, error) {
	var list []mirror.Target
	err := s.read(ctx, func(r *reading) error {
		return r.each(refusedTargets, []any{account, stamp(since)}, func(rows *sql.Rows) error {
			t := mirror.Target{Account: account}
			err := rows.Scan(&t.ID, &t.Scope)
			list = append(list, t)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list refused syncs: %w", err)
	}
	return list, nil
}
