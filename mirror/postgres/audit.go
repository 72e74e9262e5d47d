package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Auditor = (*Store)(nil)

// The queries of the audit. All take $1 … $4: the first key of the range and the
// first key after it. The raw JSON is compared here, where it need not travel;
// it comes along only where a column does not say what it says. What the JSON
// does not have is not compared.
const (
	auditPlaced = `SELECT account, customer, currency, id, amount, ending_balance, created, chain_position,
  CASE WHEN coalesce(raw->>'amount' = amount::text, true) AND coalesce(raw->>'ending_balance' = ending_balance::text, true)
    AND coalesce(raw->>'currency' = currency, true) AND coalesce(raw->>'id' = id, true) AND coalesce(raw->>'customer' = customer, true)
    AND coalesce(raw->>'created' = date_part('epoch', created)::bigint::text, true) THEN '' ELSE raw::text END
FROM creditmirror.customer_balance_transactions
WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4) AND chain_position IS NOT NULL
ORDER BY account, customer, currency, chain_position`

	auditUnplaced = `SELECT account, customer, currency, id, amount, ending_balance, created, 0::bigint, raw::text
FROM creditmirror.customer_balance_transactions
WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4) AND chain_position IS NULL
ORDER BY account, customer, currency, id`

	auditCustomers = `SELECT account, id, balance, coalesce(currency, ''), coalesce(invoice_credit_balance::text, ''), deleted,
  CASE WHEN coalesce(raw->>'balance' = balance::text, true) AND coalesce(raw->>'currency' = coalesce(currency, ''), true)
    AND coalesce(raw->'invoice_credit_balance' = coalesce(invoice_credit_balance, '{}'), true) THEN '' ELSE coalesce(raw::text, '') END
FROM creditmirror.customers WHERE (account, id) >= ($1, $2) AND (account, id) < ($3, $4) ORDER BY account, id`

	auditBalances = `SELECT account, customer, currency, balance FROM creditmirror.customer_balances
WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4) ORDER BY account, customer, currency`

	auditGrantColumns = `SELECT account, customer, id, coalesce(currency, ''), coalesce(amount, 0),
  CASE WHEN coalesce(raw->>'id' = id, true) AND coalesce(raw->>'customer' = customer, true)
    AND coalesce(raw#>>'{amount,monetary,value}' = coalesce(amount::text, ''), true)
    AND coalesce(raw#>>'{amount,monetary,currency}' = coalesce(currency, ''), true) THEN '' ELSE raw::text END
FROM creditmirror.credit_grants `

	auditGrants = auditGrantColumns + `WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4)
ORDER BY account, customer, id`

	auditGrant = auditGrantColumns + `WHERE account = $1 AND id = $2`

	auditCredits = `SELECT account, customer, "grant", id, currency, amount,
  CASE WHEN coalesce(raw->>'id' = id, true) AND coalesce(raw->>'credit_grant' = "grant", true)
    AND coalesce(raw#>>'{credit,amount,monetary,value}' = amount::text, true)
    AND coalesce(raw#>>'{debit,amount,monetary,value}' = (-amount::numeric)::text, true)
    AND coalesce(raw#>>'{credit,amount,monetary,currency}' = currency, true)
    AND coalesce(raw#>>'{debit,amount,monetary,currency}' = currency, true) THEN '' ELSE raw::text END
FROM creditmirror.credit_balance_transactions
WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4) ORDER BY account, customer, "grant"`

	auditSummaries = `SELECT account, customer, currency, ledger_balance FROM creditmirror.credit_balance_summaries
WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4) ORDER BY account, customer, currency`

	auditStates = `SELECT account, customer, scope, epoch, applied_epoch, history_complete, walk_cursor, disproved
FROM creditmirror.sync_state
WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4) AND scope IN ('balance', 'credits')
ORDER BY account, customer, scope`

	// auditAccounts steps from account to account, over all tables with an owner.
	auditAccounts = `WITH RECURSIVE named AS (
  SELECT least((SELECT min(account) FROM creditmirror.customers),
    (SELECT min(account) FROM creditmirror.customer_balance_transactions), (SELECT min(account) FROM creditmirror.credit_balance_transactions),
    (SELECT min(account) FROM creditmirror.credit_grants), (SELECT min(account) FROM creditmirror.sync_state),
    (SELECT min(account) FROM creditmirror.customer_balances), (SELECT min(account) FROM creditmirror.credit_balance_summaries)) AS account
  UNION ALL
  SELECT least((SELECT min(t.account) FROM creditmirror.customers AS t WHERE t.account > named.account),
    (SELECT min(t.account) FROM creditmirror.customer_balance_transactions AS t WHERE t.account > named.account),
    (SELECT min(t.account) FROM creditmirror.credit_balance_transactions AS t WHERE t.account > named.account),
    (SELECT min(t.account) FROM creditmirror.credit_grants AS t WHERE t.account > named.account),
    (SELECT min(t.account) FROM creditmirror.sync_state AS t WHERE t.account > named.account),
    (SELECT min(t.account) FROM creditmirror.customer_balances AS t WHERE t.account > named.account),
    (SELECT min(t.account) FROM creditmirror.credit_balance_summaries AS t WHERE t.account > named.account))
  FROM named WHERE named.account IS NOT NULL)
SELECT account FROM named WHERE account IS NOT NULL`

	auditPages = `SELECT pg_relation_size('creditmirror.customer_balance_transactions') / current_setting('block_size')::bigint,
  pg_relation_size('creditmirror.credit_balance_transactions') / current_setting('block_size')::bigint`
	auditSample  = `SELECT account, customer FROM creditmirror.customer_balance_transactions TABLESAMPLE SYSTEM ($1) LIMIT 100000`
	creditSample = `SELECT account, customer FROM creditmirror.credit_balance_transactions TABLESAMPLE SYSTEM ($1) LIMIT 100000`

	exportSnapshot = `SELECT pg_export_snapshot()`

	// auditSettings: a proof of many rows takes its time; every row is asked for; and
	// what a compiled query would save is less than compiling it for every range.
	auditSettings = `SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true),
  set_config('cursor_tuple_fraction', '1', true), set_config('jit', 'off', true)`
)

const (
	// rangePages is how many pages of a table make a range of their own worth while,
	// and rangesPerReader how many ranges even the load out between readers.
	rangePages      = 1000
	rangesPerReader = 8
	// samplePages is about how many pages are looked at to make ranges of one size.
	samplePages = 400
)

// auditRange is the keys from the first (included) to the second (excluded).
type auditRange struct{ from, to mirror.AuditKey }

// lastAccount sorts after every account: ids are ASCII.
const lastAccount = "\U0010FFFF"

// audit is a snapshot, held open by one connection per reader.
type audit struct {
	idle   chan *pgxpool.Conn
	conns  []*pgxpool.Conn
	ranges []auditRange
}

// Audit takes one snapshot. It holds at most half of the pool's connections.
func (s *Store) Audit(ctx context.Context, f mirror.AuditFilter, readers int) (mirror.Audit, error) {
	readers = max(1, min(readers, int(s.pool.Config().MaxConns)/2))
	a := &audit{idle: make(chan *pgxpool.Conn, readers)}
	if err := a.open(ctx, s, f, readers); err != nil {
		return nil, fmt.Errorf("begin the audit: %w", errors.Join(err, a.Close()))
	}
	return a, nil
}

func (a *audit) open(ctx context.Context, s *Store, f mirror.AuditFilter, readers int) error {
	snapshot := ""
	for i := range readers {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		a.conns = append(a.conns, conn)
		if _, err := conn.Exec(ctx, beginSnapshot); err != nil {
			return err
		}
		if snapshot != "" {
			// It must be the transaction's first statement, and takes no parameter; the
			// name is the server's own.
			if _, err := conn.Exec(ctx, `SET TRANSACTION SNAPSHOT '`+snapshot+`'`); err != nil {
				return err
			}
		}
		if i == 0 && readers > 1 {
			if err := conn.QueryRow(ctx, exportSnapshot).Scan(&snapshot); err != nil {
				return err
			}
		}
		if _, err := conn.Exec(ctx, auditSettings); err != nil {
			return err
		}
		a.idle <- conn
	}
	var err error
	a.ranges, err = a.cut(ctx, f, readers)
	return err
}

// cut finds the ranges.
func (a *audit) cut(ctx context.Context, f mirror.AuditFilter, readers int) ([]auditRange, error) {
	if f.Customer != "" {
		accounts := []string{}
		if f.Account != nil {
			accounts = append(accounts, *f.Account)
		} else {
			rows, _ := a.conns[0].Query(ctx, auditAccounts)
			var err error
			if accounts, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
				return nil, err
			}
		}
		list := make([]auditRange, 0, len(accounts))
		for _, account := range accounts {
			list = append(list, auditRange{
				mirror.AuditKey{Account: account, Customer: f.Customer},
				mirror.AuditKey{Account: account, Customer: f.Customer + "\x01"},
			})
		}
		return list, nil
	}
	whole := auditRange{to: mirror.AuditKey{Account: lastAccount}}
	if f.Account != nil {
		whole = auditRange{mirror.AuditKey{Account: *f.Account}, mirror.AuditKey{Account: *f.Account + "\x01"}}
	}
	samples, pages, err := a.sample(ctx)
	if err != nil {
		return nil, err
	}
	inside := slices.DeleteFunc(samples, func(k mirror.AuditKey) bool {
		return k.Compare(whole.from) <= 0 || k.Compare(whole.to) >= 0
	})
	return whole.cut(inside, min(readers*rangesPerReader, int(pages/rangePages)+1)), nil
}

// cut cuts a range at keys that were sampled from it.
func (r auditRange) cut(samples []mirror.AuditKey, parts int) []auditRange {
	slices.SortFunc(samples, mirror.AuditKey.Compare)
	var list []auditRange
	for i := 1; i < parts && len(samples) > 0; i++ {
		at := samples[i*len(samples)/parts]
		if at.Compare(r.from) > 0 {
			list = append(list, auditRange{r.from, at})
			r.from = at
		}
	}
	return append(list, r)
}

// sample looks at some pages of each ledger.
func (a *audit) sample(ctx context.Context) (keys []mirror.AuditKey, pages int64, err error) {
	var balance, credit int64
	if err := a.conns[0].QueryRow(ctx, auditPages).Scan(&balance, &credit); err != nil {
		return nil, 0, err
	}
	pages = balance + credit
	if pages < rangePages {
		return nil, pages, nil
	}
	share := min(100, 100*float64(samplePages)/float64(pages))
	for _, statement := range []string{auditSample, creditSample} {
		rows, _ := a.conns[0].Query(ctx, statement, share)
		list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k mirror.AuditKey, err error) {
			return k, row.Scan(&k.Account, &k.Customer)
		})
		if err != nil {
			return nil, 0, err
		}
		keys = append(keys, list...)
	}
	return keys, pages, nil
}

// Ranges counts the ranges.
func (a *audit) Ranges() int { return len(a.ranges) }

// Readers is the number of connections.
func (a *audit) Readers() int { return len(a.conns) }

// Close ends the snapshot.
func (a *audit) Close() error {
	for _, conn := range a.conns {
		endTransaction(context.Background(), conn.Conn())
		conn.Release()
	}
	a.conns = nil
	return nil
}

// Range reads one range.
func (a *audit) Range(ctx context.Context, i int, fn func(mirror.AuditLedgers) error) error {
	var conn *pgxpool.Conn
	select {
	case <-ctx.Done():
		return ctx.Err()
	case conn = <-a.idle:
	}
	defer func() { a.idle <- conn }()
	r := auditReader{ctx, conn.Conn(), a.ranges[i]}
	return fn(mirror.AuditLedgers{
		Placed:   auditRows(r, declarePlaced, fetchPlaced, closePlaced, scanAuditTransaction),
		Unplaced: auditRows(r, declareUnplaced, fetchUnplaced, closeUnplaced, scanAuditTransaction),
		Customers: auditRows(r, declareCustomers, fetchCustomers, closeCustomers, func(row pgx.Rows, c *mirror.AuditCustomer) error {
			return row.Scan(&c.Account, &c.Customer, &c.Balance, &c.Currency, &c.InvoiceCreditBalance, &c.Deleted, &c.Raw)
		}),
		Balances: auditRows(r, declareBalances, fetchBalances, closeBalances, scanAuditBalance),
		Grants:   auditRows(r, declareGrants, fetchGrants, closeGrants, scanAuditGrant),
		Credits: auditRows(r, declareCredits, fetchCredits, closeCredits, func(row pgx.Rows, c *mirror.AuditCredit) error {
			return row.Scan(&c.Account, &c.Customer, &c.Grant, &c.ID, &c.Currency, &c.Amount, &c.Raw)
		}),
		Summaries: auditRows(r, declareSummaries, fetchSummaries, closeSummaries, scanAuditBalance),
		States: auditRows(r, declareStates, fetchStates, closeStates, func(row pgx.Rows, s *mirror.AuditState) error {
			return row.Scan(&s.Account, &s.Customer, (*string)(&s.Scope), &s.Epoch, &s.AppliedEpoch, &s.HistoryComplete, &s.WalkCursor, &s.Disproved)
		}),
		Grant: func(account, id string) (g mirror.AuditGrant, err error) {
			err = conn.QueryRow(ctx, auditGrant, account, id).Scan(&g.Account, &g.Customer, &g.ID, &g.Currency, &g.Amount, &g.Raw)
			return g, notFound(err)
		},
	})
}

// Every stream has a cursor of its own, so that one connection, and with it one
// snapshot, serves them side by side.
const (
	cursor = ` NO SCROLL CURSOR FOR `

	declarePlaced    = `DECLARE audit_placed` + cursor + auditPlaced
	declareUnplaced  = `DECLARE audit_unplaced` + cursor + auditUnplaced
	declareCustomers = `DECLARE audit_customers` + cursor + auditCustomers
	declareBalances  = `DECLARE audit_balances` + cursor + auditBalances
	declareGrants    = `DECLARE audit_grants` + cursor + auditGrants
	declareCredits   = `DECLARE audit_credits` + cursor + auditCredits
	declareSummaries = `DECLARE audit_summaries` + cursor + auditSummaries
	declareStates    = `DECLARE audit_states` + cursor + auditStates

	fetchPlaced    = `FETCH 2000 FROM audit_placed`
	fetchUnplaced  = `FETCH 500 FROM audit_unplaced`
	fetchCustomers = `FETCH 2000 FROM audit_customers`
	fetchBalances  = `FETCH 2000 FROM audit_balances`
	fetchGrants    = `FETCH 2000 FROM audit_grants`
	fetchCredits   = `FETCH 2000 FROM audit_credits`
	fetchSummaries = `FETCH 2000 FROM audit_summaries`
	fetchStates    = `FETCH 2000 FROM audit_states`

	closePlaced    = `CLOSE audit_placed`
	closeUnplaced  = `CLOSE audit_unplaced`
	closeCustomers = `CLOSE audit_customers`
	closeBalances  = `CLOSE audit_balances`
	closeGrants    = `CLOSE audit_grants`
	closeCredits   = `CLOSE audit_credits`
	closeSummaries = `CLOSE audit_summaries`
	closeStates    = `CLOSE audit_states`
)

// auditReader reads one range on one connection.
type auditReader struct {
	ctx  context.Context
	conn *pgx.Conn
	keys auditRange
}

// auditRows streams the rows of a cursor, a batch at a time.
func auditRows[Row any](r auditReader, declare, fetch, end string, scan func(pgx.Rows, *Row) error) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		var none Row
		if _, err := r.conn.Exec(r.ctx, declare, r.keys.from.Account, r.keys.from.Customer, r.keys.to.Account, r.keys.to.Customer); err != nil {
			yield(none, err)
			return
		}
		// After an error the transaction is over, and the cursor with it.
		defer func() { _, _ = r.conn.Exec(r.ctx, end) }()
		var batch []Row
		for {
			batch = batch[:0]
			rows, err := r.conn.Query(r.ctx, fetch)
			if err != nil {
				yield(none, err)
				return
			}
			for rows.Next() {
				batch = append(batch, none)
				if err := scan(rows, &batch[len(batch)-1]); err != nil {
					rows.Close()
					yield(none, err)
					return
				}
			}
			if err := rows.Err(); err != nil {
				yield(none, err)
				return
			}
			for i := range batch {
				if !yield(batch[i], nil) {
					return
				}
			}
			if len(batch) == 0 {
				return
			}
		}
	}
}

func scanAuditTransaction(row pgx.Rows, r *mirror.AuditTransaction) error {
	return row.Scan(&r.Account, &r.Customer, &r.Currency, &r.ID, &r.Amount, &r.EndingBalance, &r.Created, &r.Position, &r.Raw)
}

func scanAuditBalance(row pgx.Rows, b *mirror.AuditBalance) error {
	return row.Scan(&b.Account, &b.Customer, &b.Currency, &b.Balance)
}

func scanAuditGrant(row pgx.Rows, g *mirror.AuditGrant) error {
	return row.Scan(&g.Account, &g.Customer, &g.ID, &g.Currency, &g.Amount, &g.Raw)
}
