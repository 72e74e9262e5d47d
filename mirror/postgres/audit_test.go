package postgres

import (
	"slices"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
)

// What agrees with its JSON is found to agree in the database: of such rows no JSON
// travels, which would cost more than all else.
func TestAuditComparesInTheDatabase(t *testing.T) {
	t.Parallel()
	s := openStore(t, newMirror(t))
	mirrortest.Populate(t, s)
	a, err := s.Audit(t.Context(), mirror.AuditFilter{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var travelled []string
	saw := 0
	look := func(id string, j mirror.AuditJSON, err error) {
		if err != nil {
			t.Fatal(err)
		}
		if saw++; !j.Same || j.Raw != "" {
			travelled = append(travelled, id)
		}
	}
	err = a.Range(t.Context(), 0, func(l mirror.AuditLedgers) error {
		for r, err := range l.Placed {
			look(r.ID, r.AuditJSON, err)
		}
		for r, err := range l.Unplaced {
			look(r.ID, r.AuditJSON, err)
		}
		for r, err := range l.Customers {
			look(r.Customer, r.AuditJSON, err)
		}
		for r, err := range l.Grants {
			look(r.ID, r.AuditJSON, err)
		}
		for r, err := range l.Credits {
			look(r.ID, r.AuditJSON, err)
		}
		return nil
	})
	// What is left is an amount of no known type, which only Go's comparison knows.
	if want := []string{"cbtxn_odd008", "cbtxn_odd008"}; err != nil || saw != 114 || !slices.Equal(travelled, want) {
		t.Errorf("of %d rows %v came with their JSON, want %v: %v", saw, travelled, want, err)
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	mirrortest.RunAudit(t, openHarness)
}

func TestAPIJournal(t *testing.T) {
	t.Parallel()
	mirrortest.RunAPIJournal(t, openHarness)
}

func TestConsole(t *testing.T) {
	t.Parallel()
	mirrortest.RunConsole(t, openHarness)
}

func TestEraser(t *testing.T) {
	t.Parallel()
	mirrortest.RunEraser(t, openHarness)
}
