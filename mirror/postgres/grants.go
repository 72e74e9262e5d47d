package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

const grantColumns = `account, id, customer, name, category, amount_type, coalesce(amount, 0), currency, applicability_config,
coalesce(priority, -1), effective_at, expires_at, voided_at, created, updated, livemode, test_clock, metadata, raw`

const grantRows = `SELECT $1, u.id, u.customer, u.name, u.category, u.amount_type, u.amount, u.currency, u.applicability_config::jsonb,
  u.priority, u.effective_at, u.expires_at, u.voided_at, u.created, u.updated, u.livemode, u.test_clock,
  u.metadata::jsonb, u.raw::jsonb, u.digest
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[], $10::bigint[],
    $11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[], $16::boolean[],
    $17::text[], $18::text[], $19::text[], $20::text[])
  AS u (id, customer, name, category, amount_type, amount, currency, applicability_config, priority,
    effective_at, expires_at, voided_at, created, updated, livemode, test_clock, metadata, raw, digest)
ORDER BY u.id COLLATE "C"`

const grantInto = `INSERT INTO creditmirror.credit_grants
  (account, id, customer, name, category, amount_type, amount, currency, applicability_config, priority,
   effective_at, expires_at, voided_at, created, updated, livemode, test_clock, metadata, raw, digest)
` + grantRows

const (
	writeGrants = grantInto + `
ON CONFLICT (account, id) DO UPDATE SET
  customer = excluded.customer, name = excluded.name, category = excluded.category, amount_type = excluded.amount_type,
  amount = excluded.amount, currency = excluded.currency, applicability_config = excluded.applicability_config,
  priority = excluded.priority, effective_at = excluded.effective_at, expires_at = excluded.expires_at,
  voided_at = excluded.voided_at, created = excluded.created, updated = excluded.updated, livemode = excluded.livemode,
  test_clock = excluded.test_clock, metadata = excluded.metadata, raw = excluded.raw, digest = excluded.digest, synced_at = now()`

	insertGrants = `WITH stored AS (` + grantInto + `
ON CONFLICT (account, id) DO NOTHING RETURNING id, customer
), told AS (
  INSERT INTO creditmirror.changes (account, customer, table_name, id, op)
  SELECT $1, customer, 'credit_grants', id, 'insert' FROM stored ORDER BY id COLLATE "C"
)
SELECT count(*) FROM stored`

	grantByID = `SELECT ` + grantColumns + ` FROM creditmirror.credit_grants WHERE account = $1 AND id = $2`

	grantOwner = `SELECT customer FROM creditmirror.credit_grants WHERE account = $1 AND id = $2`
)

// InsertGrants stores a page of the first copy.
func (s *Store) InsertGrants(ctx context.Context, account string, page []mirror.CreditGrant) (int, error) {
	if len(page) == 0 {
		return 0, nil
	}
	page, err := mirror.GrantsToInsert(cleanGrants(page))
	if err != nil {
		return 0, fmt.Errorf("insert grants of account %q: %w", account, err)
	}
	ranks := map[string]int64{}
	for _, g := range page {
		ranks[g.Customer] = min(ranks[g.Customer], mirror.RankOf(g.Amount))
	}
	customers := slices.Sorted(maps.Keys(ranks))
	var stored int
	err = s.once(ctx, func(b *pgx.Batch) {
		b.Queue(meetCustomers, account, string(mirror.ScopeCredits), customers,
			column(customers, func(id *string) int64 { return ranks[*id] }))
		queueGrants(b, insertGrants, account, page).QueryRow(func(row pgx.Row) error { return row.Scan(&stored) })
	})
	if err != nil {
		return 0, fmt.Errorf("insert %d grants of account %q: %w", len(page), account, err)
	}
	return stored, nil
}

// queueGrants queues a statement that takes grants as grantRows does.
func queueGrants(b *pgx.Batch, statement, account string, grants []mirror.CreditGrant) *pgx.QueuedQuery {
	return b.Queue(statement, account,
		column(grants, func(g *mirror.CreditGrant) string { return g.ID }),
		column(grants, func(g *mirror.CreditGrant) string { return g.Customer }),
		column(grants, func(g *mirror.CreditGrant) optText { return optText(g.Name) }),
		column(grants, func(g *mirror.CreditGrant) string { return clean(g.Category) }),
		column(grants, func(g *mirror.CreditGrant) string { return clean(g.AmountType) }),
		column(grants, func(g *mirror.CreditGrant) *int64 {
			if g.Currency == "" { // an amount type that is not known: only raw has the amount
				return nil
			}
			return &g.Amount
		}),
		column(grants, func(g *mirror.CreditGrant) optText { return optText(g.Currency) }),
		column(grants, func(g *mirror.CreditGrant) string { return objectJSON(g.ApplicabilityConfig) }),
		column(grants, func(g *mirror.CreditGrant) *int64 {
			if g.Priority < 0 {
				return nil
			}
			return &g.Priority
		}),
		column(grants, func(g *mirror.CreditGrant) optTime { return optTime(g.EffectiveAt) }),
		column(grants, func(g *mirror.CreditGrant) optTime { return optTime(g.ExpiresAt) }),
		column(grants, func(g *mirror.CreditGrant) optTime { return optTime(g.VoidedAt) }),
		column(grants, func(g *mirror.CreditGrant) time.Time { return g.Created }),
		column(grants, func(g *mirror.CreditGrant) time.Time { return g.Updated }),
		column(grants, func(g *mirror.CreditGrant) bool { return g.Livemode }),
		column(grants, func(g *mirror.CreditGrant) optText { return optText(g.TestClock) }),
		column(grants, func(g *mirror.CreditGrant) string { return objectJSON(g.Metadata) }),
		column(grants, func(g *mirror.CreditGrant) string { return objectJSON(g.Raw) }),
		column(grants, func(g *mirror.CreditGrant) string { return mirror.Digest(g.Raw) }))
}

func cleanGrants(grants []mirror.CreditGrant) []mirror.CreditGrant {
	grants = slices.Clone(grants)
	for i := range grants {
		grants[i].Raw = cleanJSON(grants[i].Raw)
	}
	return grants
}

func scanGrant(row pgx.Row) (g mirror.CreditGrant, err error) {
	err = row.Scan(&g.Account, &g.ID, &g.Customer, (*optText)(&g.Name), &g.Category, &g.AmountType, &g.Amount, (*optText)(&g.Currency),
		&g.ApplicabilityConfig, &g.Priority, (*grantTime)(&g.EffectiveAt), (*grantTime)(&g.ExpiresAt), (*grantTime)(&g.VoidedAt),
		(*optTime)(&g.Created), (*optTime)(&g.Updated), &g.Livemode, (*optText)(&g.TestClock), &g.Metadata, &g.Raw)
	return g, err
}

// Grant reads one grant.
func (s *Store) Grant(ctx context.Context, account, id string) (mirror.CreditGrant, error) {
	var g mirror.CreditGrant
	err := retry(ctx, func() (err error) {
		g, err = scanGrant(s.db().QueryRow(ctx, grantByID, account, id))
		return err
	})
	if err != nil {
		return mirror.CreditGrant{}, fmt.Errorf("read grant %s: %w", id, notFound(err))
	}
	return g, nil
}

// GrantOwner returns the customer of a grant.
func (s *Store) GrantOwner(ctx context.Context, account, grant string) (string, error) {
	var customer string
	err := retry(ctx, func() error {
		return s.db().QueryRow(ctx, grantOwner, account, grant).Scan(&customer)
	})
	if err != nil {
		return "", fmt.Errorf("read the owner of grant %s: %w", grant, notFound(err))
	}
	return customer, nil
}
