package postgres

import (
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/report"
)

// TestTruncateForgetsTheDays: row triggers do not fire for TRUNCATE, so the day table and
// the proof of the chains are forgotten with the rows.
func TestTruncateForgetsTheDays(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"customer_balance_transactions", "credit_balance_transactions"} {
		url := newMirror(t)
		s, sql := openStore(t, url), openSQL(t, url)
		sql.exec(t, `INSERT INTO customer_balance_transactions (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest)
  VALUES ('', 'cus_a', 'cbtxn_1', 'usd', -10, -10, 'adjustment', '{}', '2026-03-01', false, 1, '{}', '')`)
		now := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
		f := &report.Folder{Table: s, Now: func() time.Time { return now }}
		state := func() (state report.DayState) {
			t.Helper()
			if err := s.Books(t.Context(), func(r report.Reader) (err error) {
				state, err = r.DayState(t.Context())
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return state
		}
		for _, why := range []string{"there were none", "there were none"} {
			now = now.Add(time.Minute)
			if done, err := f.Fold(t.Context()); err != nil || done.Made != why {
				t.Fatalf("%s: made %q, %v", table, done.Made, err)
			}
			if now := state(); now.Generation == 0 || now.Proven == "" {
				t.Fatalf("%s: the state is %+v", table, now)
			}
			sql.exec(t, `TRUNCATE `+table)
			if now := state(); now.Generation != 0 || now.Proven != "" || now.Usable {
				t.Errorf("%s: the state is %+v", table, now)
			}
		}
	}
}
