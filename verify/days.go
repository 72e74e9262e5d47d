package verify

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// Days proves the day table, of one account or (nil) of all: that what it holds and the
// rows that came since add up, day by day and line by line, to the rows themselves. It
// reports the days that do not, and returns how many there are. Where there is no table
// that reports would read, there is nothing to prove.
func Days(ctx context.Context, from report.DayReader, account *string, found func(mirror.Finding) error) (wrong int64, err error) {
	now := time.Now().UTC()
	err = report.CompareDays(ctx, from, account, func(rows, held report.Day) error {
		wrong++
		cause := fmt.Sprintf("the day table has a wrong sum of %s %s on %s", rows.Ledger, rows.Line, rows.Day.Format(time.DateOnly))
		if rows.Amount == held.Amount {
			cause = fmt.Sprintf("the day table counts %d rows of %s %s on %s, there are %d", held.Rows, rows.Ledger, rows.Line,
				rows.Day.Format(time.DateOnly), rows.Rows)
		}
		scope := mirror.ScopeBalance
		if rows.Ledger == report.LedgerCredits {
			scope = mirror.ScopeCredits
		}
		return found(mirror.Finding{
			Kind: mirror.DriftSummaryMismatch, Account: rows.Account, Scope: scope, Currency: rows.Currency, Object: "ledger_days",
			Expected: strconv.FormatInt(rows.Amount, 10), Actual: strconv.FormatInt(held.Amount, 10),
			Cause:   cause + "; serve rebuilds the table once a day, the rows are right",
			FoundAt: now,
		})
	})
	if err != nil {
		return wrong, fmt.Errorf("verify the day table: %w", err)
	}
	return wrong, nil
}
