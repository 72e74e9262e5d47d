package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	heldCustomers = `SELECT c.account, c.id, c.balance, c.currency, c.invoice_credit_balance, c.created, c.livemode, c.test_clock,
c.customer_account, NULL::jsonb, c.deleted, s.observed_at,
coalesce(NOT s.history_complete OR s.walk_cursor <> '', false),
(SELECT k.frozen_time FROM creditmirror.test_clocks AS k WHERE k.account = c.account AND k.id = c.test_clock), c.digest` + customerFrom + `WHERE c.account = $1 AND c.id = ANY ($2::text[])`

	heldCustomerBalances = `SELECT customer, currency, balance FROM creditmirror.customer_balances
WHERE account = $1 AND customer = ANY ($2::text[])`

	heldGrantDigests = `SELECT id, ` + heldGrantColumns + ` FROM creditmirror.credit_grants
WHERE account = $1 AND id = ANY ($2::text[])`

	livingCustomers = `SELECT created, id FROM creditmirror.customers
WHERE account = $1 AND NOT deleted AND test_clock IS NULL AND (created, id) < ($2::timestamptz, $3::text) AND created >= $4
ORDER BY created DESC, id DESC LIMIT $5`

	heldClocks = `SELECT DISTINCT test_clock FROM creditmirror.customers
WHERE account = $1 AND test_clock IS NOT NULL AND NOT deleted ORDER BY test_clock`

	grantHolders = `SELECT DISTINCT g.customer FROM creditmirror.credit_grants AS g
WHERE g.account = $1 AND g.customer > $2
  AND NOT EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = g.account AND c.id = g.customer AND c.deleted)
ORDER BY g.customer LIMIT $3`

	// requestFullReads does not touch a walk in progress: it goes on, and to the
	// end. Rows are locked in the order of their keys, as everywhere else.
	requestFullReads = `WITH wanted AS (
  SELECT s.account, s.customer, s.scope FROM unnest($1::text[], $2::text[], $3::text[]) AS u (account, customer, scope)
  JOIN creditmirror.sync_state AS s ON s.account = u.account AND s.customer = u.customer AND s.scope = u.scope
  WHERE NOT s.walk_full ORDER BY s.account, s.customer, s.scope FOR UPDATE OF s
)
UPDATE creditmirror.sync_state AS s SET walk_full = true, synced_at = now()
FROM wanted WHERE s.account = wanted.account AND s.customer = wanted.customer AND s.scope = wanted.scope`

	fullReads = `SELECT s.customer, s.scope, s.full_read_at, s.walk_full FROM creditmirror.sync_state AS s
WHERE s.account = $1 AND s.full_read_at IS NOT NULL AND s.full_read_at < $2 AND s.scope = ANY ($4::text[])
  AND NOT EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = s.account AND c.id = s.customer AND c.deleted)
ORDER BY s.full_read_at, s.customer, s.scope LIMIT $3`

	refusedTargets = `SELECT customer, scope FROM creditmirror.sync_state
WHERE account = $1 AND refused_at >= $2 ORDER BY customer, scope`

	fullReadCount = `SELECT count(*) FROM creditmirror.sync_state WHERE account = $1 AND full_read_at IS NOT NULL AND scope = ANY ($2::text[])`
)

// HeldCustomers returns those of the customers that are held.
func (s *Store) HeldCustomers(ctx context.Context, account string, ids []string) (map[string]mirror.HeldCustomer, error) {
	var held map[string]mirror.HeldCustomer
	err := s.snapshot(ctx, func(b *pgx.Batch) {
		held = make(map[string]mirror.HeldCustomer, len(ids))
		b.Queue(heldCustomers, account, ids).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				c, _, err := scanCustomer(rows)
				if err != nil {
					return err
				}
				held[c.ID] = mirror.HeldCustomer{CustomerView: c, Balances: map[string]int64{}}
			}
			return rows.Err()
		})
		b.Queue(heldCustomerBalances, account, ids).Query(func(rows pgx.Rows) error {
			var id, currency string
			var balance int64
			_, err := pgx.ForEachRow(rows, []any{&id, &currency, &balance}, func() error {
				if h, ok := held[id]; ok {
					h.Balances[currency] = balance
				}
				return nil
			})
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
	type row struct {
		id string
		mirror.HeldGrantRow
	}
	list, err := query(ctx, s, func(r pgx.CollectableRow) (g row, err error) {
		err = r.Scan(append([]any{&g.id}, heldGrantInto(&g.HeldGrantRow)...)...)
		return g, err
	}, heldGrantDigests, account, ids)
	if err != nil {
		return nil, fmt.Errorf("read %d stored grants: %w", len(ids), err)
	}
	held := make(map[string]mirror.HeldGrantRow, len(list))
	for _, g := range list {
		held[g.id] = g.HeldGrantRow
	}
	return held, nil
}

// LivingCustomers lists customers by time of creation, newest first.
func (s *Store) LivingCustomers(ctx context.Context, account string, before mirror.Place, from time.Time, limit int) ([]mirror.Place, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (p mirror.Place, err error) {
		err = row.Scan((*optTime)(&p.Created), &p.ID)
		return p, err
	}, livingCustomers, account, before.Created, before.ID, from, limit)
	if err != nil {
		return nil, fmt.Errorf("list living customers: %w", err)
	}
	return list, nil
}

// HeldClocks lists the test clocks of living customers.
func (s *Store) HeldClocks(ctx context.Context, account string) ([]string, error) {
	list, err := query(ctx, s, pgx.RowTo[string], heldClocks, account)
	if err != nil {
		return nil, fmt.Errorf("list stored clocks: %w", err)
	}
	return list, nil
}

// GrantHolders lists the customers of held grants.
func (s *Store) GrantHolders(ctx context.Context, account, after string, limit int) ([]string, error) {
	list, err := query(ctx, s, pgx.RowTo[string], grantHolders, account, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list grant holders after %q: %w", after, err)
	}
	return list, nil
}

// RequestFullRead makes the next sync of each target read its whole history.
func (s *Store) RequestFullRead(ctx context.Context, targets []mirror.Target) error {
	targets = slices.Clone(targets)
	slices.SortFunc(targets, func(a, b mirror.Target) int { return strings.Compare(a.Key(), b.Key()) })
	err := s.once(ctx, func(b *pgx.Batch) {
		b.Queue(requestFullReads,
			column(targets, func(t *mirror.Target) string { return t.Account }),
			column(targets, func(t *mirror.Target) string { return t.ID }),
			column(targets, func(t *mirror.Target) string { return string(t.Scope) }))
	})
	if err != nil {
		return fmt.Errorf("request %d full reads: %w", len(targets), err)
	}
	return nil
}

// FullReads lists complete histories, the longest unread first.
func (s *Store) FullReads(ctx context.Context, account string, ledgers mirror.Ledgers, before time.Time, limit int) ([]mirror.FullRead, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (mirror.FullRead, error) {
		f := mirror.FullRead{Target: mirror.Target{Account: account}}
		var scope string
		err := row.Scan(&f.Target.ID, &scope, (*optTime)(&f.At), &f.Requested)
		f.Target.Scope = mirror.Scope(scope)
		return f, err
	}, fullReads, account, before, limit, column(ledgers.Scopes(), func(s *mirror.Scope) string { return string(*s) }))
	if err != nil {
		return nil, fmt.Errorf("list full reads: %w", err)
	}
	return list, nil
}

// FullReadCount counts the histories that FullReads can list.
func (s *Store) FullReadCount(ctx context.Context, account string, ledgers mirror.Ledgers) (int64, error) {
	list, err := query(ctx, s, pgx.RowTo[int64], fullReadCount, account, column(ledgers.Scopes(), func(s *mirror.Scope) string { return string(*s) }))
	if err != nil {
		return 0, fmt.Errorf("count full reads: %w", err)
	}
	return list[0], nil // an aggregate always has one row
}

// Refused lists the targets whose last sync was refused.
func (s *Store) Refused(ctx context.Context, account string, since time.Time) ([]mirror.Target, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (mirror.Target, error) {
		t := mirror.Target{Account: account}
		err := row.Scan(&t.ID, &t.Scope)
		return t, err
	}, refusedTargets, account, since)
	if err != nil {
		return nil, fmt.Errorf("list refused syncs: %w", err)
	}
	return list, nil
}
