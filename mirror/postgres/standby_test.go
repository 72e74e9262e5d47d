package postgres

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
)

// TestI4_F11_StandbyThatLaggedIsPromoted fails over to a real standby that lacks the
// primary's last commits. It is another timeline, no epoch is given again, and no worker
// that began its sync on the lost primary passes the fence.
func TestI4_F11_StandbyThatLaggedIsPromoted(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t)
	address := primary.NewDatabase(t)
	old, err := Open(t.Context(), address, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := old.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}
	snapshot := func(st mirror.SyncState) mirror.BalanceSnapshot {
		return mirror.BalanceSnapshot{
			Target: target, Epoch: st.Epoch, ObservedAt: time.Now(), Joined: true, Full: true,
			Windows:  []mirror.Window[mirror.BalanceTransaction]{{FromHead: true, ToEnd: true}},
			Customer: mirror.Customer{ID: "cus_1", Created: time.Now().Truncate(time.Second), Raw: []byte(`{"id":"cus_1"}`)},
		}
	}
	begin := func(s *Store) mirror.SyncState {
		t.Helper()
		st, err := s.BeginSync(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	if _, err := old.ApplyBalance(t.Context(), snapshot(begin(old))); err != nil {
		t.Fatal(err)
	}
	was, err := old.DatabaseSystem(t.Context())
	if err != nil || was == "" {
		t.Fatalf("the primary's system is %q, %v", was, err)
	}

	standby := primary.Standby(t)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	database := u.Path[1:]
	seen := func() (n int64) {
		conn, err := pgx.Connect(t.Context(), standby.URL(database))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		if err := conn.QueryRow(t.Context(), "SELECT epoch FROM creditmirror.sync_state").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := begin(old).Epoch
	for deadline := time.Now().Add(patience.Of(30 * time.Second)); seen() != before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the standby does not follow")
		}
	}
	standby.Cut(t)
	var stalled []mirror.BalanceSnapshot // of workers that began on the primary
	for range 5 {
		stalled = append(stalled, snapshot(begin(old)))
	}
	now, err := old.DatabaseSystem(t.Context())
	if err != nil || now != was {
		t.Fatalf("the system of the same primary is %q, then %q, %v", was, now, err)
	}
	primary.Kill()
	standby.Promote(t)

	promoted, err := Open(t.Context(), standby.URL(database), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer promoted.Close()
	if got := seen(); got != before {
		t.Fatalf("the promoted standby has epoch %d, want the older %d: nothing was lost", got, before)
	}
	if is, err := promoted.DatabaseSystem(t.Context()); err != nil || is == was || is == "" {
		t.Errorf("the system of the promoted standby is %q, of the primary it was %q, %v", is, was, err)
	}
	for range 10 {
		epoch := begin(promoted).Epoch
		for _, s := range stalled {
			if s.Epoch == epoch {
				t.Errorf("epoch %d is given a second time", epoch)
			}
			if _, err := promoted.ApplyBalance(t.Context(), s); !errors.Is(err, mirror.ErrFenced) {
				t.Errorf("a worker of the lost primary: %v, want ErrFenced", err)
			}
		}
	}
}

// A role that may not ask for the cluster leaves only the count of looks.
func TestDatabaseSystemWithoutTheRight(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	address := server.NewDatabase(t)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	database := u.Path[1:]
	server.Exec(t, database, "CREATE ROLE poor LOGIN")
	server.Exec(t, database, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
	u.User = url.User("poor")
	s, err := Open(t.Context(), u.String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if name, err := s.DatabaseSystem(t.Context()); name != "" || err != nil {
		t.Errorf("the system is %q, %v; want nothing", name, err)
	}
}
