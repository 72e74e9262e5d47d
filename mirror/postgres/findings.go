package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

const findingColumns = `id, kind, account, customer, scope, currency, object, expected, actual, cause, found_at, repaired_at`

const listFindings = `SELECT ` + findingColumns + `
FROM creditmirror.drift_findings
WHERE (repaired_at IS NULL OR repaired_at >= $1::timestamptz) AND id > $2
  AND ($3::text IS NULL OR account = $3) AND ($4::text = '' OR customer = $4) AND ($5::text = '' OR kind = $5)
ORDER BY id LIMIT $6`

// OpenFindings records differences and returns those that were not open before.
func (s *Store) OpenFindings(ctx context.Context, list []mirror.Finding) ([]mirror.Finding, error) {
	if len(list) == 0 {
		return nil, nil
	}
	var accounts []string
	byAccount := map[string][]mirror.Finding{}
	for _, f := range list {
		if _, met := byAccount[f.Account]; !met {
			accounts = append(accounts, f.Account)
		}
		byAccount[f.Account] = append(byAccount[f.Account], f)
	}
	opened := map[string][]mirror.Finding{}
	err := s.once(ctx, func(b *pgx.Batch) {
		clear(opened)
		for _, account := range accounts {
			queueFindings(b, account, byAccount[account], func(f mirror.Finding) { opened[account] = append(opened[account], f) })
		}
	})
	if err != nil {
		return nil, fmt.Errorf("open %d findings: %w", len(list), err)
	}
	var fresh []mirror.Finding
	for _, f := range list { // in the order given, over all accounts
		if next := opened[f.Account]; len(next) > 0 && sameFinding(next[0], f) {
			fresh, opened[f.Account] = append(fresh, next[0]), next[1:]
		}
	}
	return fresh, nil
}

func sameFinding(a, b mirror.Finding) bool {
	return a.Kind == b.Kind && a.Customer == b.Customer && a.Currency == b.Currency && a.Object == b.Object
}

// Findings lists findings by id.
func (s *Store) Findings(ctx context.Context, q mirror.FindingsQuery) ([]mirror.Finding, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (mirror.Finding, error) { return scanFinding(row) }, listFindings, optTime(q.RepairedSince), q.After, q.Account, q.Customer, string(q.Kind), q.Limit)
	if err != nil {
		return nil, fmt.Errorf("list findings: %w", err)
	}
	return list, nil
}

// scanFinding scans findingColumns and what follows them.
func scanFinding(row pgx.CollectableRow, more ...any) (f mirror.Finding, err error) {
	var kind, scope string
	err = row.Scan(append([]any{
		&f.ID, &kind, &f.Account, &f.Customer, &scope, &f.Currency, &f.Object, &f.Expected, &f.Actual, &f.Cause,
		(*optTime)(&f.FoundAt), (*optTime)(&f.RepairedAt),
	}, more...)...)
	f.Kind, f.Scope = mirror.DriftKind(kind), mirror.Scope(scope)
	return f, err
}
