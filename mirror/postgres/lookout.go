package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Lookout = (*Store)(nil)

const (
	apart = `(NOT s.history_complete OR s.disproved OR s.walk_cursor <> '')`

	// Each finds the ids of a page with their place. The limit is the last parameter.
	customersByID = `SELECT id, 0::bigint, NULL::timestamptz FROM creditmirror.customers WHERE account = $1 AND id > $2 ORDER BY id LIMIT $3`

	customersDeleted = `SELECT id, 0::bigint, NULL::timestamptz FROM creditmirror.customers WHERE account = $1 AND id > $2 AND deleted ORDER BY id LIMIT $3`

	customersUnproven = `SELECT DISTINCT s.customer, 0::bigint, NULL::timestamptz FROM creditmirror.sync_state AS s
WHERE s.account = $1 AND s.customer > $2 AND s.scope IN ('balance', 'credits') AND ` + apart + `
  AND NOT EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = s.account AND c.id = s.customer AND c.deleted)
ORDER BY s.customer LIMIT $3`

	balancesUp = `SELECT customer, balance, NULL::timestamptz FROM creditmirror.customer_balances
WHERE account = $1 AND currency = $2 AND ($5 OR (balance, customer) > ($3, $4)) ORDER BY balance, customer LIMIT $6`
	balancesDown = `SELECT customer, balance, NULL::timestamptz FROM creditmirror.customer_balances
WHERE account = $1 AND currency = $2 AND ($5 OR (balance, customer) < ($3, $4)) ORDER BY balance DESC, customer DESC LIMIT $6`
	creditsUp = `SELECT customer, ledger_balance, NULL::timestamptz FROM creditmirror.credit_balance_summaries
WHERE account = $1 AND currency = $2 AND ($5 OR (ledger_balance, customer) > ($3, $4)) ORDER BY ledger_balance, customer LIMIT $6`
	creditsDown = `SELECT customer, ledger_balance, NULL::timestamptz FROM creditmirror.credit_balance_summaries
WHERE account = $1 AND currency = $2 AND ($5 OR (ledger_balance, customer) < ($3, $4)) ORDER BY ledger_balance DESC, customer DESC LIMIT $6`

	customersFresh = `SELECT customer, 0::bigint, observed_at FROM creditmirror.sync_state
WHERE account = $1 AND scope = $2 AND observed_at IS NOT NULL AND observed_at >= $6::timestamptz AND ($5 OR (observed_at, customer) < ($3, $4))
ORDER BY observed_at DESC, customer DESC LIMIT $7`
	customersStale = `SELECT customer, 0::bigint, observed_at FROM creditmirror.sync_state
WHERE account = $1 AND scope = $2 AND observed_at IS NOT NULL AND observed_at >= $6::timestamptz AND ($5 OR (observed_at, customer) > ($3, $4))
ORDER BY observed_at, customer LIMIT $7`

	foundCustomers = `SELECT id, deleted FROM creditmirror.customers WHERE account = $1 AND id = ANY ($2)`
	foundBalances  = `SELECT customer, currency, balance FROM creditmirror.customer_balances WHERE account = $1 AND customer = ANY ($2)`
	foundCredits   = `SELECT customer, currency, ledger_balance FROM creditmirror.credit_balance_summaries WHERE account = $1 AND customer = ANY ($2)`
	foundStates    = `SELECT s.customer, s.scope, s.observed_at, s.history_complete AND s.walk_cursor = '', ` + apart + ` FROM creditmirror.sync_state AS s
WHERE s.account = $1 AND s.customer = ANY ($2) AND s.scope IN ('balance', 'credits')`
	foundUnplaced = `SELECT DISTINCT customer FROM creditmirror.customer_balance_transactions WHERE account = $1 AND customer = ANY ($2) AND chain_position IS NULL`

	whoHas = `(SELECT account, id AS customer, 'customer' AS what FROM creditmirror.customers WHERE account = ANY ($1) AND id = $2 LIMIT 20)
UNION (SELECT account, customer, 'grant' FROM creditmirror.credit_grants WHERE account = ANY ($1) AND id = $2 LIMIT 20)
UNION (SELECT account, customer, 'invoice' FROM creditmirror.customer_balance_transactions WHERE account = ANY ($1) AND invoice = $2 LIMIT 20)
UNION (SELECT account, customer, 'credit_note' FROM creditmirror.customer_balance_transactions WHERE account = ANY ($1) AND credit_note = $2 LIMIT 20)
UNION (SELECT account, customer, 'invoice' FROM creditmirror.credit_balance_transactions WHERE account = ANY ($1) AND invoice = $2 LIMIT 20)
ORDER BY 1, 2, 3 LIMIT 20`

	inboxColumns = `account, id, type, coalesce(customer, ''), coalesce(object, ''), pending_scopes <> 0, created, received_at, applied_at`

	eventsOfCustomer = `SELECT ` + inboxColumns + ` FROM creditmirror.stripe_events
WHERE account = $1 AND customer = $2 AND created < $3 ORDER BY created DESC LIMIT $4`
	newestEvents = `SELECT ` + inboxColumns + ` FROM creditmirror.stripe_events
WHERE ($1::text[] IS NULL OR account = ANY ($1)) ORDER BY received_at DESC LIMIT $2`
	inboxEvent = `SELECT ` + inboxColumns + ` FROM creditmirror.stripe_events WHERE account = ANY ($1) AND id = $2 LIMIT 1`

	findingsOfCustomer = `SELECT ` + findingColumns + ` FROM creditmirror.drift_findings
WHERE account = $1 AND customer = $2 AND found_at < $3 ORDER BY found_at DESC, id LIMIT $4`
	findingByID = `SELECT ` + findingColumns + ` FROM creditmirror.drift_findings WHERE id = $1 LIMIT 1`

	writesOfCustomer = `SELECT ` + apiWriteColumns + ` FROM creditmirror.api_writes
WHERE account = $1 AND customer = $2 AND customer <> '' AND created < $3 ORDER BY created DESC, id LIMIT $4`
	actionsOfCustomer = `SELECT ` + actionColumns + ` FROM creditmirror.operator_actions
WHERE account = $1 AND customer = $2 AND customer <> '' AND created < $3 ORDER BY created DESC, id LIMIT $4`
	lettersOfCustomer = `SELECT ` + listedColumns + ` FROM creditmirror.dead_letters
WHERE account = $1 AND customer = $2 AND first_failed_at < $3 ORDER BY id LIMIT $4`

	ledgerStates = `SELECT scope, observed_at, full_read_at, refused_at, history_complete, walk_cursor <> '', disproved FROM creditmirror.sync_state
WHERE account = $1 AND customer = $2 AND scope IN ('balance', 'credits') ORDER BY scope`
)

// choice is a condition that grows: a list is asked for by what it is narrowed to alone,
// so that no plan has to serve choices that it does not know.
type choice struct {
	conditions []string
	args       []any
}

// and adds a condition; each ? in it is the next of args.
func (c *choice) and(condition string, args ...any) {
	var b strings.Builder
	for _, r := range condition {
		if r != '?' {
			b.WriteRune(r)
			continue
		}
		c.args, args = append(c.args, args[0]), args[1:]
		fmt.Fprintf(&b, "$%d", len(c.args))
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
func (c *choice) ofAccounts(accounts []string) {
	switch {
	case accounts == nil:
	case len(accounts) == 1:
		c.and("account = ?", accounts[0])
	default:
		c.and("account = ANY (?)", accounts)
	}
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
	return fmt.Sprintf("%s%s%s LIMIT $%d", statement, c.where(), rest, len(c.args)+1), append(slices.Clone(c.args), limit)
}

// findingsChosen lists findings, the newest first.
func findingsChosen(q mirror.FindingList) (string, []any) {
	c := &choice{}
	c.ofAccounts(q.Accounts)
	c.equal("kind", string(q.Kind))
	c.equal("customer", q.Customer)
	c.equal("scope", string(q.Scope))
	if q.Closed {
		c.and("repaired_at IS NOT NULL")
	} else {
		c.and("repaired_at IS NULL")
	}
	if !q.Before.IsZero() {
		c.and("(found_at, id) < (?, ?)", q.Before, q.BeforeID)
	}
	return c.limited("SELECT "+findingColumns+" FROM creditmirror.drift_findings", " ORDER BY found_at DESC, id DESC", q.Limit)
}

// apiWritesChosen lists writes, the newest first.
func apiWritesChosen(accounts []string, f mirror.APIWriteFilter, before mirror.APIWrite, limit int) (string, []any) {
	c := &choice{}
	c.ofAccounts(accounts)
	c.equal("key_name", f.Key)
	c.equal("customer", f.Customer)
	if f.Customer != "" {
		c.and("customer <> ''")
	}
	c.equal("outcome", string(f.Outcome))
	if !before.Created.IsZero() {
		c.and("(created, id) < (?, ?)", before.Created, before.ID)
	}
	if !f.From.IsZero() {
		c.and("created >= ?", f.From)
	}
	if !f.To.IsZero() {
		c.and("created < ?", f.To)
	}
	return c.limited("SELECT "+apiWriteColumns+" FROM creditmirror.api_writes", " ORDER BY created DESC, id DESC", limit)
}

// letterChoice is which letters a filter means.
func letterChoice(f mirror.LetterFilter) *choice {
	c := &choice{}
	c.ofAccounts(f.Accounts)
	c.equal("customer", f.Customer)
	if f.Customer != "" {
		c.and("customer <> ''")
	}
	c.equal("scope", string(f.Scope))
	c.equal("class", f.Class)
	return c
}

// lettersChosen lists letters by id.
func lettersChosen(f mirror.LetterFilter, after string, limit int) (string, []any) {
	c := letterChoice(f)
	c.and("id > ?", after)
	return c.limited("SELECT "+listedColumns+" FROM creditmirror.dead_letters", " ORDER BY id", limit)
}

// pageOf chooses the statement for a page of customers.
func pageOf(q mirror.CustomerQuery) (string, []any) {
	var place mirror.CustomerPlace
	first := q.After == nil
	if !first {
		place = *q.After
	}
	byAmount := func(balance, credits string) (string, []any) {
		if q.Ledger == mirror.ScopeCredits {
			balance = credits
		}
		return balance, []any{q.Account, q.Currency, place.Amount, place.ID, first, q.Limit}
	}
	byTime := func(statement string) (string, []any) {
		return statement, []any{q.Account, string(q.Ledger), place.At, place.ID, first, q.Since, q.Limit}
	}
	switch {
	case q.Set == mirror.SetUnproven:
		return customersUnproven, []any{q.Account, place.ID, q.Limit}
	case q.Set == mirror.SetDeleted:
		return customersDeleted, []any{q.Account, place.ID, q.Limit}
	}
	switch q.Order {
	case mirror.ByAmount:
		return byAmount(balancesUp, creditsUp)
	case mirror.ByAmountDn:
		return byAmount(balancesDown, creditsDown)
	case mirror.ByFresh:
		return byTime(customersFresh)
	case mirror.ByStale:
		return byTime(customersStale)
	}
	return customersByID, []any{q.Account, place.ID, q.Limit}
}

// FindCustomers lists customers.
func (s *Store) FindCustomers(ctx context.Context, q mirror.CustomerQuery) ([]mirror.FoundCustomer, error) {
	statement, args := pageOf(q)
	list, err := query(ctx, s, func(row pgx.CollectableRow) (f mirror.FoundCustomer, err error) {
		err = row.Scan(&f.Place.ID, &f.Place.Amount, (*optTime)(&f.Place.At))
		f.CustomerBalances = mirror.CustomerBalances{
			Customer: f.Place.ID, Balance: map[string]int64{}, Credits: map[string]int64{}, BalanceComplete: true, CreditsComplete: true,
		}
		f.Proven = true
		return f, err
	}, statement, args...)
	if err != nil || len(list) == 0 {
		return list, wrap("find customers", err)
	}
	at := map[string]*mirror.FoundCustomer{}
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].Customer
		at[ids[i]] = &list[i]
	}
	collect := func(of func(*mirror.FoundCustomer) map[string]int64) func(pgx.Rows) error {
		return func(rows pgx.Rows) error {
			var customer, currency string
			var amount int64
			_, err := pgx.ForEachRow(rows, []any{&customer, &currency, &amount}, func() error {
				of(at[customer])[currency] = amount
				return nil
			})
			return err
		}
	}
	err = s.snapshot(ctx, func(b *pgx.Batch) {
		b.Queue(foundCustomers, q.Account, ids).Query(func(rows pgx.Rows) error {
			var id string
			var deleted bool
			_, err := pgx.ForEachRow(rows, []any{&id, &deleted}, func() error {
				at[id].Deleted = deleted
				return nil
			})
			return err
		})
		b.Queue(foundBalances, q.Account, ids).Query(collect(func(f *mirror.FoundCustomer) map[string]int64 { return f.Balance }))
		b.Queue(foundCredits, q.Account, ids).Query(collect(func(f *mirror.FoundCustomer) map[string]int64 { return f.Credits }))
		b.Queue(foundStates, q.Account, ids).Query(func(rows pgx.Rows) error {
			var id, scope string
			var observed optTime
			var complete, apart bool
			_, err := pgx.ForEachRow(rows, []any{&id, &scope, &observed, &complete, &apart}, func() error {
				f := at[id]
				if f.Proven = f.Proven && !apart; scope == string(mirror.ScopeBalance) {
					f.BalanceSyncedAt, f.BalanceComplete = time.Time(observed), complete
				} else {
					f.CreditsSyncedAt, f.CreditsComplete = time.Time(observed), complete
				}
				return nil
			})
			return err
		})
		b.Queue(foundUnplaced, q.Account, ids).Query(func(rows pgx.Rows) error {
			var id string
			_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
				at[id].Proven = false
				return nil
			})
			return err
		})
	})
	return list, wrap("read the customers found", err)
}

// wrap says what was done when it failed.
func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// WhoHas lists the customers that have this id, grant, invoice or credit note.
func (s *Store) WhoHas(ctx context.Context, accounts []string, id string) ([]mirror.Holder, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (h mirror.Holder, err error) {
		err = row.Scan(&h.Account, &h.Customer, &h.What)
		return h, err
	}, whoHas, accounts, id)
	return list, wrap("find who has "+id, err)
}

func scanInbox(row pgx.CollectableRow) (e mirror.InboxEvent, err error) {
	err = row.Scan(&e.Account, &e.ID, &e.Type, &e.Customer, &e.Object, &e.Pending, &e.Created, &e.Received, (*optTime)(&e.Applied))
	return e, err
}

// collectRows has a statement of a batch collected into a list.
func collectRows[Row any](b *pgx.Batch, into *[]Row, scan pgx.RowToFunc[Row], statement string, args ...any) {
	b.Queue(statement, args...).Query(func(rows pgx.Rows) (err error) {
		*into, err = pgx.CollectRows(rows, scan)
		return err
	})
}

// Timeline lists what happened to a customer.
func (s *Store) Timeline(ctx context.Context, account, customer string, before time.Time, limit int) (mirror.Timeline, error) {
	var t mirror.Timeline
	err := s.snapshot(ctx, func(b *pgx.Batch) {
		t = mirror.Timeline{}
		collectRows(b, &t.Events, scanInbox, eventsOfCustomer, account, customer, before, limit)
		collectRows(b, &t.Findings, oneFinding, findingsOfCustomer, account, customer, before, limit)
		collectRows(b, &t.Writes, scanAPIWrite, writesOfCustomer, account, customer, before, limit)
		collectRows(b, &t.Actions, scanAction, actionsOfCustomer, account, customer, before, limit)
		collectRows(b, &t.Letters, oneLetter, lettersOfCustomer, account, customer, before, limit)
	})
	return t, wrap("read what happened to "+customer, err)
}

func oneFinding(row pgx.CollectableRow) (mirror.Finding, error) { return scanFinding(row) }

// LedgerStates returns how far a customer is synced.
func (s *Store) LedgerStates(ctx context.Context, account, customer string) ([]mirror.LedgerState, error) {
	list, err := query(ctx, s, func(row pgx.CollectableRow) (l mirror.LedgerState, err error) {
		err = row.Scan((*string)(&l.Scope), (*optTime)(&l.ObservedAt), (*optTime)(&l.FullReadAt), (*optTime)(&l.RefusedAt), &l.Complete, &l.Walking, &l.Disproved)
		return l, err
	}, ledgerStates, account, customer)
	return list, wrap("read the sync states of "+customer, err)
}

// NewestEvents lists the newest events.
func (s *Store) NewestEvents(ctx context.Context, accounts []string, limit int) ([]mirror.InboxEvent, error) {
	list, err := query(ctx, s, scanInbox, newestEvents, accounts, limit)
	return list, wrap("list the newest events", err)
}

// InboxEvent finds an event.
func (s *Store) InboxEvent(ctx context.Context, accounts []string, id string) (mirror.InboxEvent, error) {
	e, err := one(query(ctx, s, scanInbox, inboxEvent, accounts, id))
	return e, wrap("read event "+id, err)
}

// FindingList lists findings, the newest first.
func (s *Store) FindingList(ctx context.Context, q mirror.FindingList) ([]mirror.Finding, error) {
	statement, args := findingsChosen(q)
	list, err := query(ctx, s, oneFinding, statement, args...)
	return list, wrap("list findings", err)
}

// FindingByID reads one.
func (s *Store) FindingByID(ctx context.Context, id string) (mirror.Finding, error) {
	f, err := one(query(ctx, s, oneFinding, findingByID, id))
	return f, wrap("read finding "+id, err)
}

// LetterGroups counts letters by their reasons.
func (s *Store) LetterGroups(ctx context.Context, f mirror.LetterFilter, limit int) ([]mirror.LetterGroup, error) {
	statement, args := letterChoice(f).limited("SELECT class, scope, count(*), min(first_failed_at), max(last_failed_at), min(reason) FROM creditmirror.dead_letters",
		" GROUP BY class, scope ORDER BY count(*) DESC, class, scope", limit)
	list, err := query(ctx, s, func(row pgx.CollectableRow) (g mirror.LetterGroup, err error) {
		err = row.Scan(&g.Class, (*string)(&g.Scope), &g.Count, &g.First, &g.Newest, &g.Reason)
		return g, err
	}, statement, args...)
	return list, wrap("group dead letters", err)
}

// FindLetters lists letters by id.
func (s *Store) FindLetters(ctx context.Context, f mirror.LetterFilter, after string, limit int) ([]mirror.DeadLetter, error) {
	statement, args := lettersChosen(f, after, limit)
	list, err := query(ctx, s, oneLetter, statement, args...)
	return list, wrap("find dead letters", err)
}

// CountLetters counts letters.
func (s *Store) CountLetters(ctx context.Context, f mirror.LetterFilter) (int64, error) {
	c := letterChoice(f)
	n, err := one(query(ctx, s, pgx.RowTo[int64], "SELECT count(*) FROM creditmirror.dead_letters"+c.where(), c.args...))
	return n, wrap("count dead letters", err)
}

// NewestAPIWrites lists writes, the newest first.
func (s *Store) NewestAPIWrites(ctx context.Context, accounts []string, f mirror.APIWriteFilter, before mirror.APIWrite, limit int) ([]mirror.APIWrite, error) {
	statement, args := apiWritesChosen(accounts, f, before, limit)
	list, err := query(ctx, s, scanAPIWrite, statement, args...)
	return list, wrap("list the newest api writes", err)
}
