package sqlite

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
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
		"customersUnproven": "sync_state_apart (account=? AND customer>?)", "pendingNotices": "drift_findings_untold_closing (repaired_at>?)", "countNotices": "drift_findings_untold_opening (found_at>?)",
	}
	sorts := map[string]bool{"heldGrants": true, "dueLetters": true, "pendingNotices": true} // a customer's grants, letters of one moment, two pages merged
	for _, few := range []string{"clockNewest", "emailAfter", "invoiceNewest", "invoiceAfter", "invoiceBefore", "customerOfAccount", "creditsAt"} {
		sorts[few] = true // the rows of one clock, address, invoice, account; the sums of a page
	}
	statements := map[string]string{
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
		"customersByID": customersByID, "customersBuried": customersBuried, "customersUnproven": customersUnproven, "balancesFirst": balancesFirst, "balancesUp": balancesUp,
		"balancesLast": balancesLast, "balancesDown": balancesDown, "leftFirst": leftFirst, "leftUp": leftUp, "leftLast": leftLast, "leftDown": leftDown,
		"customersFresh": customersFresh, "customersStale": customersStale, "foundCustomers": foundCustomers, "foundBalances": foundBalances,
		"foundCredits": foundCredits, "foundStates": foundStates, "foundUnplaced": foundUnplaced, "eventsOfCustomer": eventsOfCustomer,
		"findingsOfCustomer": findingsOfCustomer, "findingByID": findingByID, "writesOfCustomer": writesOfCustomer, "actionsOfCustomer": actionsOfCustomer,
		"ledgerStates": ledgerStates, "inboxEvent": inboxEvent, "readSession": readSession, "acceptedFindings": acceptedFindings, "whoHas": whoHas, "lettersOfCustomer": lettersOfCustomer,
	}
	sorts["lettersOfCustomer"], mustUse["lettersOfCustomer"] = true, "dead_letters_target (account=? AND customer=?)" // one of each scope
	sorts["whoHas"] = true                                                                                            // at most twenty of each kind
	mustUse["whoHas"] = "customer_balance_transactions_of_note (account=? AND credit_note=?)"
	for _, account := range [][]string{nil, {""}, {"", "acct_1"}} {
		add := func(name, index, statement string, _ []any, err error) {
			if err != nil {
				t.Fatal(err)
			}
			name = fmt.Sprintf("%s of %d accounts", name, len(account))
			statements[name], mustUse[name] = statement, index
		}
		findings := func(name, index string, q mirror.FindingList) {
			q.Accounts = account
			statement, args, err := findingsChosen(q)
			add(name, index, statement, args, err)
		}
		findings("open findings", "drift_findings_open_newest ((found_at,id)<(?,?))", mirror.FindingList{})
		findings("open findings of a kind", "drift_findings_open_newest ((found_at,id)<(?,?))", mirror.FindingList{Kind: mirror.DriftOrphan})
		findings("closed findings", "drift_findings_newest ((found_at,id)<(?,?))", mirror.FindingList{Closed: true})
		findings("closed findings of a kind", "drift_findings_of_kind (kind=? AND (found_at,id)<(?,?))", mirror.FindingList{Closed: true, Kind: mirror.DriftOrphan})
		findings("findings of a customer", "drift_findings_of_customer (customer=? AND (found_at,id)<(?,?))", mirror.FindingList{Closed: true, Customer: "cus_1"})
		writes := func(name, index string, f mirror.APIWriteFilter) {
			statement, args, err := apiWritesChosen(account, f, mirror.APIWrite{}, 10)
			add(name, index, statement, args, err)
		}
		writes("writes", "api_writes_created (created>? AND (created,id)<(?,?))", mirror.APIWriteFilter{})
		writes("writes of a key", "api_writes_of_key (key_name=? AND created>? AND (created,id)<(?,?))", mirror.APIWriteFilter{Key: "crm"})
		writes("writes of an outcome", "api_writes_of_outcome (outcome=? AND created>? AND (created,id)<(?,?))", mirror.APIWriteFilter{Outcome: mirror.APIDone})
		writes("writes of a customer", "api_writes_of_customer (customer=? AND created>? AND (created,id)<(?,?))", mirror.APIWriteFilter{Customer: "cus_1"})
		actions := func(name, index string, f mirror.ActionFilter) {
			f.Accounts = account
			statement, args, err := actionsChosen(f, 10)
			add(name, index, statement, args, err)
		}
		actions("actions", "operator_actions_created ((created,id)<(?,?))", mirror.ActionFilter{})
		actions("actions of an object", "operator_actions_object (object=? AND created<?)", mirror.ActionFilter{Object: "drift_1"})
		sorts[fmt.Sprintf("actions of an object of %d accounts", len(account))] = true // those of one moment
		letters := func(name, index string, f mirror.LetterFilter) {
			f.Accounts = account
			statement, args, err := lettersChosen(f, "", 10)
			add(name, index, statement, args, err)
		}
		letters("letters", "id>?)", mirror.LetterFilter{})
		letters("letters of a class", "dead_letters_class (class=? AND id>?)", mirror.LetterFilter{Class: "x"})
		letters("letters of a customer", "dead_letters_of_customer (customer=? AND id>?)", mirror.LetterFilter{Customer: "cus_1"})
	}
	for name, query := range statements {
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

// SQLite looks at the value of a parameter that is a limit by itself, and compiles the
// statement anew each time that it is bound. An expression it only computes.
func TestLimitsAreExpressions(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	limit := regexp.MustCompile(`LIMIT \?(\d+)?([^\d].{0,3})?`)
	found := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		for _, m := range limit.FindAllStringSubmatch(string(text), -1) {
			if found++; m[1] != "" && !strings.HasPrefix(m[2], " + 0") {
				t.Errorf("%s: %s: write it with + 0", f, m[0])
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d limits were found", found)
	}
}
