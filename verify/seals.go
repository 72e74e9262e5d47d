package verify

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// Seals proves the sealed periods: that the movements up to the end of each, less those
// that the change feed says to have come since, still are the ones that were sealed.
// It reports those that are not, and returns how many there are.
func Seals(ctx context.Context, from report.Reader, account *string, found func(mirror.Finding) error) (int64, error) {
	seals, err := from.Seals(ctx, "")
	if err != nil {
		return 0, err
	}
	seals = report.Open(seals, account)
	if len(seals) == 0 {
		return 0, nil
	}
	_, broken, err := report.Compare(ctx, from, seals)
	for _, b := range broken {
		if err != nil {
			break
		}
		err = found(mirror.Finding{
			Kind: mirror.DriftBooksMismatch, Account: b.Seal.Account, Currency: b.Seal.Currency,
			Expected: strconv.FormatInt(b.Seal.Closing, 10), Actual: strconv.FormatInt(b.Closing, 10),
			Cause:   fmt.Sprintf("the sealed period %s of ledger %s: its movements are not the ones that were sealed", b.Seal.Period, b.Seal.Ledger),
			FoundAt: time.Now().UTC(),
		})
	}
	return int64(len(broken)), err
}
