package postgres

import (
	"errors"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

// Each slice of a long history is behind the fence by itself.
func TestI4_SliceIsFenced(t *testing.T) {
	t.Parallel()
	s := openStore(t, newMirror(t))
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}
	var epochs []int64
	for range 2 {
		st, err := s.BeginSync(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		epochs = append(epochs, st.Epoch)
	}
	places := []mirror.Placement{{ID: "cbtxn_1", Position: 1}}
	if err := (balanceDriver{s}).Place(t.Context(), target, epochs[0], places); !errors.Is(err, mirror.ErrFenced) {
		t.Errorf("a slice of an older sync: %v, want ErrFenced", err)
	}
	if err := (balanceDriver{s}).Place(t.Context(), target, epochs[1], places); err != nil {
		t.Errorf("a slice of this sync: %v", err)
	}
}
