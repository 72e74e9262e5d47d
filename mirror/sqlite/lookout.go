package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Lookout = (*Store)(nil)

const (
	standsApart = `(NOT s.history_complete OR s.disproved OR s.walk_cursor <> '')`

	// Each finds the ids of a page with their place. The limit is the last parameter.
	customersByID = `SELECT id, 0, NULL FROM customers WHERE account = ?1 AND id > ?2 ORDER BY id LIMIT ?3 + 0`

	customersBuried = `SELECT id, 0, NULL FROM customers WHERE account = ?1 AND id > ?2 AND deleted ORDER BY id LIMIT ?3 + 0`

	customersUnproven = `
SELECT s.customer, 0, NULL FROM sync_state AS s INDEXED BY sync_state_apart
WHERE s.account = ?1 AND s.customer > ?2 AND (NOT s.history_complete OR s.disproved OR s.walk_cursor <> '' OR s.full_read_at IS NULL)
  AND s.scope IN ('balance', 'credits') AND ` + standsApart + `
  AND NOT EXISTS (SELECT 1 FROM customers AS c WHERE c.account = s.account AND c.id = s.customer AND c.deleted)
GROUP BY s.customer ORDER BY s.customer LIMIT ?3 + 0`

	balancesFirst = `
SELECT customer, balance, NULL FROM customer_balances WHERE account = ?1 AND currency = ?2 ORDER BY balance, customer LIMIT ?3 + 0`
	balancesUp = `
SELECT customer, balance, NULL FROM customer_balances WHERE account = ?1 AND currency = ?2 AND (balance, customer) > (?3, ?4)
ORDER BY balance, customer LIMIT ?5 + 0`
	balancesLast = `
SELECT customer, balance, NULL FROM customer_balances WHERE account = ?1 AND currency = ?2 ORDER BY balance DESC, customer DESC LIMIT ?3 + 0`
	balancesDown = `
SELECT customer, balance, NULL FROM customer_balances WHERE account = ?1 AND currency = ?2 AND (balance, customer) < (?3, ?4)
ORDER BY balance DESC, customer DESC LIMIT ?5 + 0`
	leftFirst = `
SELECT customer, ledger_balance, NULL FROM credit_balance_summaries WHERE account = ?1 AND currency = ?2 ORDER BY ledger_balance, customer LIMIT ?3 + 0`
	leftUp = `
SELECT customer, ledger_balance, NULL FROM credit_balance_summaries WHERE account = ?1 AND currency = ?2 AND (ledger_balance, customer) > (?3, ?4)
ORDER BY ledger_balance, customer LIMIT ?5 + 0`
	leftLast = `
SELECT customer, ledger_balance, NULL FROM credit_balance_summaries WHERE account = ?1 AND currency = ?2
ORDER BY ledger_balance DESC, customer DESC LIMIT ?3 + 0`
	leftDown = `
SELECT customer, ledger_balance, NULL FROM credit_balance_summaries WHERE account = ?1 AND currency = ?2 AND (ledger_balance, customer) < (?3, ?4)
ORDER BY ledger_balance DESC, customer DESC LIMIT ?5 + 0`

	customersFresh = `
SELECT customer, 0, observed_at FROM sync_state
WHERE account = ?1 AND scope = ?2 AND observed_at IS NOT NULL AND observed_at >= ?3 AND (observed_at, customer) < (?4, ?5)
ORDER BY observed_at DESC, customer DESC LIMIT ?6 + 0`
	customersStale = `
SELECT customer, 0, observed_at FROM sync_state
WHERE account = ?1 AND scope = ?2 AND observed_at IS NOT NULL AND observed_at >= ?3 AND (observed_at, customer) > (?4, ?5)
ORDER BY observed_at, customer LIMIT ?6 + 0`

	foundCustomers = `SELECT id, deleted FROM customers WHERE account = ?1 AND id IN (SELECT value FROM json_each(?2))`
	foundBalances  = `SELECT customer, currency, balance FROM customer_balances WHERE account = ?1 AND customer IN (SELECT value FROM json_each(?2))`
	foundCredits   = `SELECT customer, currency, ledger_balance FROM credit_balance_summaries WHERE account = ?1 AND customer IN (SELECT value FROM json_each(?2))`
	foundStates    = `
SELECT s.customer, s.scope, s.observed_at, s.history_complete AND s.walk_cursor = '', ` + standsApart + ` FROM sync_state AS s
WHERE s.account = ?1 AND s.customer IN (SELECT value FROM json_each(?2)) AND s.scope IN ('balance', 'credits')`
	foundUnplaced = `
SELECT DISTINCT customer FROM customer_balance_transactions
WHERE account = ?1 AND customer IN (SELECT value FROM json_each(?2)) AND chain_position IS NULL`

	// The indexes are named since a planner that knows nothing of the data takes those
	// that begin with the customer.
	ofAccounts = `account IN (SELECT value FROM json_each(?1))`
	whoHas     = `
SELECT account, id AS customer, 'customer' AS what FROM customers WHERE ` + ofAccounts + ` AND id = ?2
UNION SELECT account, customer, 'grant' FROM credit_grants WHERE ` + ofAccounts + ` AND id = ?2
UNION SELECT * FROM (SELECT account, customer, 'invoice' FROM customer_balance_transactions INDEXED BY customer_balance_transactions_of_invoice
  WHERE ` + ofAccounts + ` AND invoice = ?2 LIMIT 20)
UNION SELECT * FROM (SELECT account, customer, 'credit_note' FROM customer_balance_transactions INDEXED BY customer_balance_transactions_of_note
  WHERE ` + ofAccounts + ` AND credit_note = ?2 LIMIT 20)
UNION SELECT * FROM (SELECT account, customer, 'invoice' FROM credit_balance_transactions INDEXED BY credit_balance_transactions_of_invoice
  WHERE ` + ofAccounts + ` AND invoice = ?2 LIMIT 20)
ORDER BY 1, 2, 3 LIMIT 20`

	inboxColumns = `account, id, type, ifnull(customer, ''), ifnull(object, ''), pending_scopes <> 0, created, received_at, applied_at`

	eventsOfCustomer = `
SELECT ` + inboxColumns + ` FROM stripe_events WHERE account = ?1 AND customer = ?2 AND created < ?3 ORDER BY created DESC LIMIT ?4 + 0`
	newestEvents = `
SELECT ` + inboxColumns + ` FROM stripe_events WHERE (?1 IS NULL OR account IN (SELECT value FROM json_each(?1))) ORDER BY received_at DESC LIMIT ?2 + 0`
	inboxEvent = `SELECT ` + inboxColumns + ` FROM stripe_events WHERE account IN (SELECT value FROM json_each(?1)) AND id = ?2 LIMIT 1`

	findingsOfCustomer = `
SELECT ` + findingColumns + ` FROM drift_findings WHERE account = ?1 AND customer = ?2 AND found_at < ?3 ORDER BY found_at DESC LIMIT ?4 + 0`
	findingByID = `SELECT ` + findingColumns + ` FROM drift_findings WHERE id = ?1 LIMIT 1`

	writesOfCustomer = `
SELECT ` + apiWriteColumns + ` FROM api_writes WHERE account = ?1 AND customer = ?2 AND customer <> '' AND created < ?3 ORDER BY created DESC LIMIT ?4 + 0`
	actionsOfCustomer = `
SELECT ` + actionColumns + ` FROM operator_actions WHERE account = ?1 AND customer = ?2 AND customer <> '' AND created < ?3 ORDER BY created DESC LIMIT ?4 + 0`
	lettersOfCustomer = listedColumns + `INDEXED BY dead_letters_target WHERE account = ?1 AND customer = ?2 AND first_failed_at < ?3 ORDER BY id LIMIT ?4 + 0`

	ledgerStates = `
SELECT scope, observed_at, full_read_at, refused_at, history_complete, walk_cursor <> '', disproved FROM sync_state
WHERE account = ?1 AND customer = ?2 AND scope IN ('balance', 'credits') ORDER BY scope`
)

// choice is a condition that grows: a list is asked for by what it is narrowed to alone,
// so that it finds an index.
type choice struct {
	conditions []string
	args       []any
}

// and adds a condition; each ? in it is the next of args.
func (c *choice) and(condition string, args ...any) {
	var b strings.Builder
	for _, r := range condition {
		if b.WriteRune(r); r == '?' {
			c.args, args = append(c.args, args[0]), args[1:]
			fmt.Fprint(&b, len(c.args))
		}
	}
	c.conditions = append(c.conditions, b.String())
}

// equal adds a condition on a column if there is a value for it.
func (c *choice) equal(column, value string) {
	if value != "" {
		c.and(column+" = ?", value)
	}
}

// ofAccounts narrows to accounts; nil: all.
func (c *choice) ofAccounts(accounts []string) error {
	switch {
	case accounts == nil:
	case len(accounts) == 1:
		c.and("account = ?", accounts[0])
	default:
		text, err := textList(accounts)
		if err != nil {
			return err
		}
		// The plus keeps the list from being the way in where the order has an index.
		c.and("+account IN (SELECT value FROM json_each(?))", text)
	}
	return nil
}

// where is the condition as a clause.
func (c *choice) where() string {
	if len(c.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.conditions, " AND ")
}

// limited is a statement of the choice in an order, with a limit.
func (c *choice) limited(statement, rest string, limit int) (string, []any) {
	return statement + c.where() + rest + " LIMIT ?" + fmt.Sprint(len(c.args)+1) + " + 0", append(slices.Clone(c.args), limit)
}

// findingsChosen lists findings, the newest first.
func findingsChosen(q mirror.FindingList) (string, []any, error) {
	c := &choice{}
	err := c.ofAccounts(q.Accounts)
	c.equal("kind", string(q.Kind))
	c.equal("customer", q.Customer)
	c.equal("scope", string(q.Scope))
	index := ""
	switch {
	case q.Customer != "":
		index = " INDEXED BY drift_findings_of_customer"
	case q.Closed && q.Kind != "":
		index = " INDEXED BY drift_findings_of_kind"
	case q.Closed:
		index = " INDEXED BY drift_findings_newest"
	default: // few are open
		index = " INDEXED BY drift_findings_open_newest"
	}
	if q.Closed {
		c.and("repaired_at IS NOT NULL")
	} else {
		c.and("repaired_at IS NULL")
	}
	c.and("(found_at, id) < (?, ?)", beforeStamp(q.Before), q.BeforeID)
	statement, args := c.limited("SELECT "+findingColumns+" FROM drift_findings"+index, " ORDER BY found_at DESC, id DESC", q.Limit)
	return statement, args, err
}

// apiWritesChosen lists writes, the newest first.
func apiWritesChosen(accounts []string, f mirror.APIWriteFilter, before mirror.APIWrite, limit int) (string, []any, error) {
	c := &choice{}
	err := c.ofAccounts(accounts)
	c.equal("key_name", f.Key)
	c.equal("customer", f.Customer)
	c.equal("outcome", string(f.Outcome))
	index := " INDEXED BY api_writes_created"
	switch {
	case f.Customer != "":
		c.and("customer <> ''")
		index = " INDEXED BY api_writes_of_customer"
	case f.Key != "":
		index = " INDEXED BY api_writes_of_key"
	case f.Outcome != "":
		index = " INDEXED BY api_writes_of_outcome"
	}
	c.and("(created, id) < (?, ?)", beforeStamp(before.Created), before.ID)
	c.and("created >= ? AND created < ?", stamp(f.From), beforeStamp(f.To))
	statement, args := c.limited("SELECT "+apiWriteColumns+" FROM api_writes"+index, " ORDER BY created DESC, id DESC", limit)
	return statement, args, err
}

// letterChoice is which letters a filter means.
func letterChoice(f mirror.LetterFilter) (*choice, error) {
	c := &choice{}
	err := c.ofAccounts(f.Accounts)
	c.equal("customer", f.Customer)
	if f.Customer != "" {
		c.and("customer <> ''")
	}
	c.equal("scope", string(f.Scope))
	c.equal("class", f.Class)
	return c, err
}

// lettersChosen lists letters by id.
func lettersChosen(f mirror.LetterFilter, after string, limit int) (string, []any, error) {
	c, err := letterChoice(f)
	c.and("id > ?", after)
	statement, args := c.limited(listedColumns, " ORDER BY id", limit)
	return statement, args, err
}

// customerPage chooses the statement for a page of customers.
func customerPage(q mirror.CustomerQuery) (string, []any) {
	var place mirror.CustomerPlace
	if q.After != nil {
		place = *q.After
	}
	byAmount := func(first, next, creditsFirst, creditsNext string) (string, []any) {
		if q.Ledger == mirror.ScopeCredits {
			first, next = creditsFirst, creditsNext
		}
		if q.After == nil {
			return first, []any{q.Account, q.Currency, q.Limit}
		}
		return next, []any{q.Account, q.Currency, place.Amount, place.ID, q.Limit}
	}
	switch {
	case q.Set == mirror.SetUnproven:
		return customersUnproven, []any{q.Account, place.ID, q.Limit}
	case q.Set == mirror.SetDeleted:
		return customersBuried, []any{q.Account, place.ID, q.Limit}
	}
	switch q.Order {
	case mirror.ByAmount:
		return byAmount(balancesFirst, balancesUp, leftFirst, leftUp)
	case mirror.ByAmountDn:
		return byAmount(balancesLast, balancesDown, leftLast, leftDown)
	case mirror.ByFresh:
		return customersFresh, []any{q.Account, string(q.Ledger), stamp(q.Since), beforeStamp(place.At), place.ID, q.Limit}
	case mirror.ByStale:
		return customersStale, []any{q.Account, string(q.Ledger), stamp(q.Since), stamp(place.At), place.ID, q.Limit}
	}
	return customersByID, []any{q.Account, place.ID, q.Limit}
}

// FindCustomers lists customers.
func (s *Store) FindCustomers(ctx context.Context, q mirror.CustomerQuery) (list []mirror.FoundCustomer, err error) {
	statement, args := customerPage(q)
	err = s.read(ctx, func(r *reading) error {
		var ids []string
		list, err = listedBy(r, statement, args, func(rows *sql.Rows) (f mirror.FoundCustomer, err error) {
			err = rows.Scan(&f.Place.ID, &f.Place.Amount, timeColumn{&f.Place.At})
			f.CustomerBalances = mirror.CustomerBalances{
				Customer: f.Place.ID, Balance: map[string]int64{}, Credits: map[string]int64{}, BalanceComplete: true, CreditsComplete: true,
			}
			f.Proven = true
			ids = append(ids, f.Place.ID)
			return f, err
		})
		if err != nil || len(list) == 0 {
			return err
		}
		return r.completeFound(q.Account, ids, list)
	})
	if err != nil {
		return nil, fmt.Errorf("find customers: %w", err)
	}
	return list, nil
}

// completeFound reads what the list shows of each customer.
func (r *reading) completeFound(account string, ids []string, list []mirror.FoundCustomer) error {
	text, err := textList(ids)
	if err != nil {
		return err
	}
	at := map[string]*mirror.FoundCustomer{}
	for i := range list {
		at[list[i].Customer] = &list[i]
	}
	args := []any{account, text}
	amounts := func(statement string, of func(*mirror.FoundCustomer) map[string]int64) error {
		return r.each(statement, args, func(rows *sql.Rows) error {
			var customer, currency string
			var amount int64
			if err := rows.Scan(&customer, &currency, &amount); err != nil {
				return err
			}
			of(at[customer])[currency] = amount
			return nil
		})
	}
	err = r.each(foundCustomers, args, func(rows *sql.Rows) error {
		var id string
		var deleted bool
		if err := rows.Scan(&id, &deleted); err != nil {
			return err
		}
		at[id].Deleted = deleted
		return nil
	})
	if err == nil {
		err = amounts(foundBalances, func(f *mirror.FoundCustomer) map[string]int64 { return f.Balance })
	}
	if err == nil {
		err = amounts(foundCredits, func(f *mirror.FoundCustomer) map[string]int64 { return f.Credits })
	}
	if err == nil {
		err = r.each(foundStates, args, func(rows *sql.Rows) error {
			var id, scope string
			var observed time.Time
			var complete, apart bool
			if err := rows.Scan(&id, &scope, timeColumn{&observed}, &complete, &apart); err != nil {
				return err
			}
			f := at[id]
			if f.Proven = f.Proven && !apart; scope == string(mirror.ScopeBalance) {
				f.BalanceSyncedAt, f.BalanceComplete = observed, complete
			} else {
				f.CreditsSyncedAt, f.CreditsComplete = observed, complete
			}
			return nil
		})
	}
	if err == nil {
		err = r.each(foundUnplaced, args, func(rows *sql.Rows) error {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			at[id].Proven = false
			return nil
		})
	}
	return err
}

// WhoHas lists the customers that have this id, grant, invoice or credit note.
func (s *Store) WhoHas(ctx context.Context, accounts []string, id string) ([]mirror.Holder, error) {
	text, err := textList(accounts)
	if err != nil {
		return nil, err
	}
	return listed(ctx, s, "find who has "+id, whoHas, []any{text, id}, func(rows *sql.Rows) (h mirror.Holder, err error) {
		err = rows.Scan(&h.Account, &h.Customer, &h.What)
		return h, err
	})
}

func scanInbox(rows *sql.Rows) (e mirror.InboxEvent, err error) {
	err = rows.Scan(&e.Account, &e.ID, &e.Type, &e.Customer, &e.Object, &e.Pending, timeColumn{&e.Created}, timeColumn{&e.Received}, timeColumn{&e.Applied})
	return e, err
}

func oneFinding(rows *sql.Rows) (mirror.Finding, error) { return scanFinding(rows) }

// Timeline lists what happened to a customer.
func (s *Store) Timeline(ctx context.Context, account, customer string, before time.Time, limit int) (t mirror.Timeline, err error) {
	args := []any{account, customer, stamp(before), limit}
	err = s.read(ctx, func(r *reading) (err error) {
		if t.Events, err = listedBy(r, eventsOfCustomer, args, scanInbox); err != nil {
			return err
		}
		if t.Findings, err = listedBy(r, findingsOfCustomer, args, oneFinding); err != nil {
			return err
		}
		if t.Writes, err = listedBy(r, writesOfCustomer, args, scanAPIWrite); err != nil {
			return err
		}
		if t.Actions, err = listedBy(r, actionsOfCustomer, args, scanAction); err != nil {
			return err
		}
		t.Letters, err = listedBy(r, lettersOfCustomer, args, scanLetter)
		return err
	})
	if err != nil {
		return mirror.Timeline{}, fmt.Errorf("read what happened to %s: %w", customer, err)
	}
	return t, nil
}

// LedgerStates returns how far a customer is synced.
func (s *Store) LedgerStates(ctx context.Context, account, customer string) ([]mirror.LedgerState, error) {
	return listed(ctx, s, "read the sync states of "+customer, ledgerStates, []any{account, customer}, func(rows *sql.Rows) (l mirror.LedgerState, err error) {
		err = rows.Scan(&l.Scope, timeColumn{&l.ObservedAt}, timeColumn{&l.FullReadAt}, timeColumn{&l.RefusedAt}, &l.Complete, &l.Walking, &l.Disproved)
		return l, err
	})
}

// NewestEvents lists the newest events.
func (s *Store) NewestEvents(ctx context.Context, accounts []string, limit int) ([]mirror.InboxEvent, error) {
	text, err := textList(accounts)
	if err != nil {
		return nil, err
	}
	return listed(ctx, s, "list the newest events", newestEvents, []any{text, limit}, scanInbox)
}

// first is the only row of a list; ErrNotFound where there is none.
func first[Row any](what string, list []Row, err error) (Row, error) {
	var none Row
	switch {
	case err != nil:
		return none, err
	case len(list) == 0:
		return none, fmt.Errorf("%s: %w", what, mirror.ErrNotFound)
	}
	return list[0], nil
}

// InboxEvent finds an event.
func (s *Store) InboxEvent(ctx context.Context, accounts []string, id string) (mirror.InboxEvent, error) {
	text, err := textList(accounts)
	if err != nil {
		return mirror.InboxEvent{}, err
	}
	list, err := listed(ctx, s, "read event "+id, inboxEvent, []any{text, id}, scanInbox)
	return first("read event "+id, list, err)
}

// FindingList lists findings, the newest first.
func (s *Store) FindingList(ctx context.Context, q mirror.FindingList) ([]mirror.Finding, error) {
	statement, args, err := findingsChosen(q)
	if err != nil {
		return nil, err
	}
	return listed(ctx, s, "list findings", statement, args, oneFinding)
}

// FindingByID reads one.
func (s *Store) FindingByID(ctx context.Context, id string) (mirror.Finding, error) {
	list, err := listed(ctx, s, "read finding "+id, findingByID, []any{id}, oneFinding)
	return first("read finding "+id, list, err)
}

// LetterGroups counts letters by their reasons.
func (s *Store) LetterGroups(ctx context.Context, f mirror.LetterFilter, limit int) ([]mirror.LetterGroup, error) {
	c, err := letterChoice(f)
	if err != nil {
		return nil, err
	}
	statement, args := c.limited("SELECT class, scope, count(*), min(first_failed_at), max(last_failed_at), min(reason) FROM dead_letters",
		" GROUP BY class, scope ORDER BY count(*) DESC, class, scope", limit)
	return listed(ctx, s, "group dead letters", statement, args, func(rows *sql.Rows) (g mirror.LetterGroup, err error) {
		err = rows.Scan(&g.Class, &g.Scope, &g.Count, timeColumn{&g.First}, timeColumn{&g.Newest}, &g.Reason)
		return g, err
	})
}

// FindLetters lists letters by id.
func (s *Store) FindLetters(ctx context.Context, f mirror.LetterFilter, after string, limit int) ([]mirror.DeadLetter, error) {
	statement, args, err := lettersChosen(f, after, limit)
	if err != nil {
		return nil, err
	}
	return listed(ctx, s, "find dead letters", statement, args, scanLetter)
}

// CountLetters counts letters.
func (s *Store) CountLetters(ctx context.Context, f mirror.LetterFilter) (int64, error) {
	c, err := letterChoice(f)
	if err != nil {
		return 0, err
	}
	list, err := listed(ctx, s, "count dead letters", "SELECT count(*) FROM dead_letters"+c.where(), c.args, func(rows *sql.Rows) (n int64, err error) {
		err = rows.Scan(&n)
		return n, err
	})
	return first("count dead letters", list, err)
}

// NewestAPIWrites lists writes, the newest first.
func (s *Store) NewestAPIWrites(ctx context.Context, accounts []string, f mirror.APIWriteFilter, before mirror.APIWrite, limit int) ([]mirror.APIWrite, error) {
	statement, args, err := apiWritesChosen(accounts, f, before, limit)
	if err != nil {
		return nil, err
	}
	return listed(ctx, s, "list the newest api writes", statement, args, scanAPIWrite)
}
