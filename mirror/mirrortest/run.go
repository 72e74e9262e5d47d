// Package mirrortest is the specification of mirror.Store as tests: every
// driver runs the same suite. Names of cases carry the number of the invariant
// that they guard, where one has a number.
package mirrortest

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
)

// Harness is a store under test with more than the contract offers. An open
// function may return one; cases that need what a harness lacks are skipped.
type Harness struct {
	mirror.Store
	// Query runs SQL that both databases understand, without arguments, and
	// returns every value as text, NULL as the empty string. Tables are named
	// without a schema.
	Query func(ctx context.Context, sql string) ([][]string, error)
	// Exec runs SQL that both databases understand and that changes something.
	Exec func(ctx context.Context, sql string) error
	// Again opens the same database once more, as another process would. The
	// function closes it when the test ends.
	Again func(t *testing.T) mirror.Store
	// Sliced opens the same database with so many rows to a slice of a long history.
	// The function closes it when the test ends.
	Sliced func(t *testing.T, rows int) mirror.Store
}

// Run runs the whole suite. open returns a store over a new and empty database
// whose schema is migrated; it arranges for the store to be closed. Where topics are
// named, it runs these alone.
func Run(t *testing.T, open func(t *testing.T) mirror.Store, only ...string) {
	topics := []topic{
		{"Fence", fenceCases()},
		{"History", historyCases()},
		{"Walks", walkCases()},
		{"Inbox", inboxCases()},
		{"Credits", creditsCases()},
		{"Lag", lagCases()},
		{"DeadLetters", letterCases()},
		{"Progress", progressCases()},
		{"Sweeps", sweepCases()},
		{"Damage", damageCases()},
		{"Notices", noticeCases()},
		{"Reader", readerCases()},
		{"Fidelity", fidelityCases()},
		{"Isolation", isolationCases()},
		{"Writes", writeCases()},
		{"Lists", listCases()},
		{"Model", modelCases()},
		{"Agreement", agreementCases()},
	}
	for _, name := range only {
		if !slices.ContainsFunc(topics, func(topic topic) bool { return topic.name == name }) {
			t.Fatalf("the suite has no topic %s", name)
		}
	}
	for _, topic := range topics {
		if len(only) > 0 && !slices.Contains(only, topic.name) {
			continue
		}
		t.Run(topic.name, func(t *testing.T) {
			t.Parallel()
			runCases(t, open, topic.cases)
		})
	}
}

// topic is what belongs together of the suite.
type topic struct {
	name  string
	cases []testCase
}

// testCase is one behaviour; it gets a database of its own.
type testCase struct {
	name string
	run  func(t *testing.T, h *Harness)
}

// rows runs a query, or skips the test where the driver offers none.
func (h *Harness) rows(t *testing.T, sql string) [][]string {
	t.Helper()
	if h.Query == nil {
		t.Skip("this driver's test offers no SQL")
	}
	rows, err := h.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// number runs a query for one number; -1 where the driver offers no SQL, so
// that comparisons before and after hold all the same.
func (h *Harness) number(t *testing.T, sql string) int64 {
	t.Helper()
	if h.Query == nil {
		return -1
	}
	rows := h.rows(t, sql)
	if len(rows) != 1 || len(rows[0]) != 1 {
		t.Fatalf("%s: %v, want one value", sql, rows)
	}
	n, err := strconv.ParseInt(rows[0][0], 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// changes counts the change records so far.
func (h *Harness) changes(t *testing.T) int64 {
	t.Helper()
	return h.number(t, `SELECT count(*) FROM changes WHERE table_name <> 'drift_findings'`)
}

// feed reads the account's change feed from its beginning until it has at least n
// changes. PostgreSQL holds changes back while an older transaction, of any database of
// the server, is at work.
func (h *Harness) feed(t *testing.T, account string, n int) []mirror.Change {
	t.Helper()
	for deadline := time.Now().Add(patience.Of(30 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
		list, err := h.Changes(t.Context(), account, "", 1000)
		noErr(t, err)
		if len(list) >= n {
			return list
		}
		if time.Now().After(deadline) {
			t.Fatalf("the feed has %d changes, want at least %d: %+v", len(list), n, list)
		}
	}
}

// noErr fails the test at once.
func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runCases runs cases side by side, each on a store of its own.
func runCases(t *testing.T, open func(t *testing.T) mirror.Store, cases []testCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, harnessOf(open(t)))
		})
	}
}

// harnessOf is the harness that a driver opens, or a plain one around its store.
func harnessOf(s mirror.Store) *Harness {
	if h, ok := s.(*Harness); ok {
		return h
	}
	return &Harness{Store: s}
}
