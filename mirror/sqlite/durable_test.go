package sqlite

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// TestI3_WhatIsAcknowledgedIsOnDisk: what others rely on once a method has returned, an
// event that gets its 2xx before all, is committed with fsync, whatever the
// transaction before it was.
func TestI3_WhatIsAcknowledgedIsOnDisk(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "mirror.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}
	epoch := int64(0)
	synchronous := func() (level int) {
		t.Helper()
		if err := s.w.conn.QueryRowContext(t.Context(), `PRAGMA synchronous`).Scan(&level); err != nil {
			t.Fatal(err)
		}
		return level
	}
	customer := mirror.Customer{ID: "cus_1", Created: time.Unix(1, 0), Raw: []byte(`{"id":"cus_1"}`)}
	letter := mirror.DeadLetter{ID: mirror.DeadLetterID(target), Target: target, Reason: "r", Attempts: 1, FirstFailedAt: time.Unix(1, 0), LastFailedAt: time.Unix(1, 0)}
	for _, c := range []struct {
		name  string
		write func(context.Context) error
	}{
		{"RecordEvents", func(ctx context.Context) error {
			_, err := s.RecordEvents(ctx, []mirror.Event{{ID: "evt_1", Type: "customer.updated", Customer: "cus_1", Object: "cus_1", Created: time.Unix(1, 0)}})
			return err
		}},
		{"ApplyBalance", func(ctx context.Context) error {
			_, err := s.ApplyBalance(ctx, mirror.BalanceSnapshot{
				Target: target, Epoch: epoch, ObservedAt: time.Unix(2, 0), Customer: customer, Joined: true, Full: true,
				Windows: []mirror.Window[mirror.BalanceTransaction]{{FromHead: true, ToEnd: true}},
			})
			return err
		}},
		{"SaveDeadLetter", func(ctx context.Context) error { return s.SaveDeadLetter(ctx, letter) }},
		{"OpenFindings", func(ctx context.Context) error {
			_, err := s.OpenFindings(ctx, []mirror.Finding{{Kind: mirror.DriftMissedEvent, Customer: "cus_1", Object: "evt_2", FoundAt: time.Unix(1, 0)}})
			return err
		}},
		{"SaveSweep", func(ctx context.Context) error { return s.SaveSweep(ctx, mirror.Sweep{Name: "events"}) }},
		{"SaveIncarnation", func(ctx context.Context) error {
			return s.SaveIncarnation(ctx, mirror.Incarnation{ID: "a", HighWater: 1})
		}},
		{"ApplyTombstone", func(ctx context.Context) error {
			_, err := s.ApplyTombstone(ctx, mirror.Tombstone{Target: target, Epoch: epoch, ObservedAt: time.Unix(3, 0)})
			return err
		}},
	} {
		st, err := s.BeginSync(t.Context(), target) // may be lost with a power cut
		if err != nil {
			t.Fatal(err)
		}
		if epoch = st.Epoch; synchronous() == 2 {
			t.Fatal("BeginSync is committed with fsync, so that this test shows nothing")
		}
		if err := c.write(t.Context()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if level := synchronous(); level != 2 {
			t.Errorf("%s is committed with synchronous = %d, want 2 (FULL)", c.name, level)
		}
	}
}
