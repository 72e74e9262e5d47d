package sqlite

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
)

// TestHotQueriesUseTheirIndexes: no statement that is asked per customer, per
// event or per page reads a table from end to end or sorts, at any size.
func TestHotQueriesUseTheirIndexes(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "mirror.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What a planner that knows nothing of the data gets wrong if left alone.
	mustUse := map[string]string{
		"heldGrants": "credit_grants_customer_list (account=? AND customer=?)", "heldGrantRows": "credit_grants_customer_list (account=? AND customer=?)",
		"placeRows": "(account=? AND customer=? AND id=?)", "unsyncedBalances": "sync_state_unfinished (account=? AND scope=? AND (read_rank,customer)>(?,?))",
		"unsyncedCredits": "sync_state_unfinished (account=? AND scope=? AND (read_rank,customer)>(?,?))",
		"livingAfter":     "customers_living (account=? AND created>? AND created<?)", "clockNewest": "customers_test_clock (account=? AND test_clock=?)",
		"emailAfter": "customers_email (account=? AND <expr>=?)", "invoiceAfter": "(account=? AND customer=? AND invoice=?)",
		"customerOfAccount": "customers_account (account=? AND customer_account=?)", "changesAfter": "changes_account_seq (account=? AND seq>?)",
		"accusedRows": "(account=? AND customer=? AND id=?)", "accusedCredits": "(account=? AND customer=? AND id=?)", "accusedGrants": "(account=? AND id=?)",
		"pendingNotices": "drift_findings_untold_closing (repaired_at>?)", "countNotices": "drift_findings_untold_opening (found_at>?)",
	}
	sorts := map[string]bool{"heldGrants": true, "dueLetters": true, "pendingNotices": true} // a customer's grants, letters of one moment, two pages merged
	for _, few := range []string{"clockNewest", "emailAfter", "invoiceNewest", "invoiceAfter", "invoiceBefore", "customerOfAccount", "creditsAt"} {
		sorts[few] = true // the rows of one clock, address, invoice, account; the sums of a page
	}
	for name, query := range map[string]string{
		"readCustomer": readCustomer, "listCustomers": listCustomers, "clockCustomers": clockCustomers,
		"balanceCursor": balanceCursor, "balanceNewest": balanceNewest, "balanceAfter": balanceAfter, "balanceBefore": balanceBefore,
		"customersGrantsNewest": customersGrantsNewest, "customersGrantsAfter": customersGrantsAfter, "customersGrantsBefore": customersGrantsBefore,
		"accountsGrantsNewest": accountsGrantsNewest, "accountsGrantsAfter": accountsGrantsAfter, "accountsGrantsBefore": accountsGrantsBefore,
		"customersCreditsNewest": customersCreditsNewest, "customersCreditsAfter": customersCreditsAfter, "customersCreditsBefore": customersCreditsBefore,
		"grantsCreditsNewest": grantsCreditsNewest, "grantsCreditsAfter": grantsCreditsAfter, "grantsCreditsBefore": grantsCreditsBefore,
		"oneCredit": oneCredit, "heldWhenBegun": heldWhenBegun, "heldGrants": heldGrants, "heldSpan": heldSpan,
		"heldUnplaced": heldUnplaced, "heldTops": heldTops, "heldCreditSpan": heldCreditSpan, "grantSums": grantSums,
		"heldSummary": heldSummary, "heldGrantRows": heldGrantRows, "answerWaiting": answerWaiting, "waitingNamed": waitingNamed, "rowOwners": rowOwners, "dropTargetLetter": dropTargetLetter, "pendingEvents": pendingEvents,
		"resolveEvents": resolveEvents, "eventStates": eventStates, "observedAt": observedAt, "closeFindings": closeFindings,
		"accusedRows": accusedRows, "accusedCredits": accusedCredits, "accusedGrants": accusedGrants,
		"unsyncedBalances": unsyncedBalances, "unsyncedCredits": unsyncedCredits, "dueLetters": dueLetters, "listLetters": listLetters,
		"livingNewest": livingNewest, "livingAfter": livingAfter, "livingBefore": livingBefore, "clockNewest": clockNewest, "emailAfter": emailAfter,
		"invoiceNewest": invoiceNewest, "invoiceAfter": invoiceAfter, "invoiceBefore": invoiceBefore, "customerOfAccount": customerOfAccount,
		"accountsCreditsNewest": accountsCreditsNewest, "accountsCreditsAfter": accountsCreditsAfter, "accountsCreditsBefore": accountsCreditsBefore,
		"balancesPage": balancesPage, "balancesNow": balancesNow, "balancesAt": balancesAt, "creditsAt": creditsAt, "changesAfter": changesAfter, "heldRow": heldRow,
		"updateRows": updateRows, "placeRows": placeRows, "pruneEvents": pruneEvents, "pendingNotices": pendingNotices, "countNotices": countNotices, "markNotice": markNotice,
	} {
		var plan []string
		args := []any{"[]", 1, 1, 1, 1, 1, 1, 1, 1, 1}
		rows, err := s.readers.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = drain(rows, func(rows *sql.Rows) error {
			var id, parent, unused int
			var detail string
			err := rows.Scan(&id, &parent, &unused, &detail)
			plan = append(plan, detail)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range plan {
			scan := strings.HasPrefix(line, "SCAN ") && !strings.Contains(line, "VIRTUAL TABLE") &&
				!strings.Contains(line, "CONSTANT ROW") && !strings.Contains(line, "stripe_events_pending") &&
				line != "SCAN c" && line != "SCAN places" && !strings.Contains(line, "(subquery")
			sort := strings.Contains(line, "TEMP B-TREE") && !sorts[name]
			if scan || sort {
				t.Errorf("%s: %s\n%s", name, line, strings.Join(plan, "\n"))
			}
		}
		if want := mustUse[name]; !strings.Contains(strings.Join(plan, "\n"), want) {
			t.Errorf("%s does not use %s:\n%s", name, want, strings.Join(plan, "\n"))
		}
		if testing.Verbose() {
			t.Logf("%s:\n  %s", name, strings.Join(plan, "\n  "))
		}
	}
}
