package sqlite_test

import (
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
)

func TestAudit(t *testing.T) {
	t.Parallel()
	mirrortest.RunAudit(t, func(t *testing.T) mirror.Store { return openHarness(t) })
}

func TestAPIJournal(t *testing.T) {
	t.Parallel()
	mirrortest.RunAPIJournal(t, func(t *testing.T) mirror.Store { return openHarness(t) })
}

func TestEraser(t *testing.T) {
	t.Parallel()
	mirrortest.RunEraser(t, func(t *testing.T) mirror.Store { return openHarness(t) })
}

func TestConsole(t *testing.T) {
	t.Parallel()
	mirrortest.RunConsole(t, func(t *testing.T) mirror.Store { return openHarness(t) })
}
