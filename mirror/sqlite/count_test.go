package sqlite

import (
	"context"

	"github.com/creditmirror/creditmirror/report"
)

// CountBooks counts the rows of the covering index.
func CountBooks(ctx context.Context, r report.Reader) error {
	var rows int64
	return r.(*books).conn.QueryRowContext(ctx, `SELECT count(*) FROM customer_balance_transactions INDEXED BY customer_balance_transactions_book
WHERE created < '9'`).Scan(&rows)
}
