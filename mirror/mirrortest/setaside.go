package mirrortest

import (
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// What waits for a ledger that is not mirrored waits no longer; what waits for the
// other one, or is of another account, or cannot be read, stays.
func setAside(t *testing.T, h *Harness) {
	event := func(id, kind, customer, grant string) mirror.Event {
		e := updated("", id, customer)
		e.Type, e.Grant = kind, grant
		return e
	}
	deleted := event("evt_1", "customer.deleted", "cus_A", "")
	granted := event("evt_2", "billing.credit_grant.created", "cus_A", "")
	row := event("evt_3", "billing.credit_balance_transaction.created", "", "credgr_1")
	clock := event("evt_4", "test_helpers.test_clock.ready", "", "")
	clock.Clock = "clock_1"
	elsewhere := granted
	elsewhere.Account = "acct_1"
	record(t, h, deleted, granted, row, clock, updated("", "evt_5", "cus_A"), elsewhere)
	for _, target := range []mirror.Target{
		{Scope: mirror.ScopeCredits, ID: "cus_A"},
		{Scope: mirror.ScopeGrantOwner, ID: "credgr_1"},
		{Scope: mirror.ScopeBalance, ID: "cus_A"},
		{Scope: mirror.ScopeCredits, ID: "cus_A", Account: "acct_1"},
	} {
		noErr(t, h.SaveDeadLetter(t.Context(), mirror.DeadLetter{
			ID: mirror.DeadLetterID(target), Target: target, Reason: "r", Attempts: 1, FirstFailedAt: epoch0, LastFailedAt: epoch0, RetryAt: epoch0,
		}))
	}
	noErr(t, h.SaveDeadLetter(t.Context(), mirror.DeadLetter{
		ID: mirror.UnreadableID([]byte("x")), Reason: "unreadable", Attempts: 1, Payload: []byte("x"), FirstFailedAt: epoch0, LastFailedAt: epoch0,
	}))
	credits := missed("cus_A", "evt_2", epoch0)
	credits.Scope = mirror.ScopeCredits
	_, err := h.OpenFindings(t.Context(), []mirror.Finding{missed("cus_A", "evt_5", epoch0), credits})
	noErr(t, err)

	for range 2 { // the second time it changes nothing
		noErr(t, h.SetAside(t.Context(), "", mirror.ScopeCredits))
		requirePending(t, h, "evt_1 balance::cus_A", "evt_4 clock_customers::clock_1", "evt_5 balance::cus_A", "evt_2 credits:acct_1:cus_A")
		requireReceipts(t, h, "", []string{"evt_2", "evt_3"}, mirror.ReceiptApplied, mirror.ReceiptApplied)
		letters, err := h.DeadLetters(t.Context(), "", 10)
		noErr(t, err)
		if len(letters) != 3 {
			t.Fatalf("%d dead letters are left, want those of the balance, the other account and the unreadable one", len(letters))
		}
		requireOpen(t, h, "missed_event/cus_A/evt_5/false")
	}
	if fresh, err := h.Freshness(t.Context(), 10); err != nil || len(fresh) > 0 {
		t.Fatalf("what was set aside counts for freshness: %v, %v", fresh, err)
	}
}

// Full reads are those of the ledgers that are asked for.
func fullReadsOfALedger(t *testing.T, h *Harness) {
	for _, test := range []struct {
		ledgers mirror.Ledgers
		want    int64
	}{{mirror.Ledgers{}, 2}, {mirror.Ledgers{NoCredits: true}, 1}, {mirror.Ledgers{NoBalance: true}, 1}, {mirror.Ledgers{NoBalance: true, NoCredits: true}, 0}} {
		if test.ledgers == (mirror.Ledgers{}) {
			noErr(t, h.Exec(t.Context(), `INSERT INTO sync_state (account, customer, scope, epoch, full_read_at, history_complete, synced_at)
VALUES ('', 'cus_A', 'balance', 1, '2024-01-01T00:00:00Z', true, '2024-01-01T00:00:00Z'), ('', 'cus_A', 'credits', 1, '2024-01-01T00:00:00Z', true, '2024-01-01T00:00:00Z')`))
		}
		n, err := h.FullReadCount(t.Context(), "", test.ledgers)
		noErr(t, err)
		list, err := h.FullReads(t.Context(), "", test.ledgers, time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), 10)
		noErr(t, err)
		for _, f := range list {
			if !test.ledgers.Has(f.Target.Scope) {
				t.Errorf("%+v lists %v", test.ledgers, f.Target)
			}
		}
		if n != test.want || int64(len(list)) != test.want {
			t.Errorf("%+v: %d counted, %d listed, want %d", test.ledgers, n, len(list), test.want)
		}
	}
}
