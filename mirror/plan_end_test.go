package mirror

import (
	"errors"
	"testing"
)

// I5: a reading of the newest rows alone must end at the customer's balance, as that of
// the whole history does.
func TestPlanBalanceI5TheEndIsComparedByEveryRead(t *testing.T) {
	t.Parallel()
	a, b := row("a", -1, -1, 1), row("b", -2, -3, 2)
	held := BalanceHeld{
		State: SyncState{HistoryComplete: true, CompleteTo: at(1)}, Balances: map[string]int64{"usd": -1},
		Rows: []HeldRow{heldRow(a, 1)}, Tops: map[string]HeldRow{"usd": heldRow(a, 1)},
	}
	for _, full := range []bool{false, true} {
		s := snapshot(-4, a, b) // the rows end at -3
		s.Full, s.Windows[0].ToEnd = full, full
		if _, err := PlanBalance(s, held); !errors.Is(err, ErrDisproved) {
			t.Errorf("full %v: %v, want the balance disproved", full, err)
		}
	}
}
