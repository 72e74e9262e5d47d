package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Auditor = (*Store)(nil)

// The queries of the audit. All take $1 … $4: the first key of the range and the
// first key after it.
//
// Every column is compared with the raw JSON here, so that of a row that agrees the
// JSON need not travel. Of any other row it comes along with the columns, by the
// names of the fields: what is said here to differ is looked at once more there,
// where a few things that this comparison takes for different are known to be the
// same (an empty text and none).
const (
	auditTransactionColumns = `SELECT account, customer, currency, id, amount, ending_balance, created, coalesce(chain_position, 0),
  CASE WHEN raw->>'object' = 'customer_balance_transaction' AND raw->>'id' = id AND raw->>'customer' = customer
    AND raw->>'amount' = amount::text AND raw->>'ending_balance' = ending_balance::text AND raw->>'currency' = currency
    AND (raw->>'created') || '.000000' = extract(epoch FROM created)::text AND raw->>'type' = type
    AND raw->>'invoice' IS NOT DISTINCT FROM invoice AND raw->>'credit_note' IS NOT DISTINCT FROM credit_note
    AND raw->>'checkout_session' IS NOT DISTINCT FROM checkout_session AND raw->>'description' IS NOT DISTINCT FROM description
    AND (raw->'metadata' = metadata OR metadata = '{}' AND raw->>'metadata' IS NULL) AND raw->>'livemode' = livemode::text
  THEN '' ELSE jsonb_build_object('Raw', raw::text, 'Type', type, 'Invoice', invoice, 'CreditNote', credit_note,
    'CheckoutSession', checkout_session, 'Description', description, 'Metadata', metadata::text, 'Livemode', livemode::text)::text END
FROM creditmirror.customer_balance_transactions
WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4) AND chain_position IS `

	auditPlaced = auditTransactionColumns + `NOT NULL ORDER BY account, customer, currency, chain_position`

	auditUnplaced = auditTransactionColumns + `NULL ORDER BY account, customer, currency, id`

	auditCustomers = `SELECT account, id, balance, coalesce(currency, ''), coalesce(invoice_credit_balance::text, ''), deleted,
  CASE WHEN raw->>'object' = 'customer' AND raw->>'id' = id
    AND CASE WHEN deleted THEN balance = 0 AND invoice_credit_balance IS NULL ELSE raw->>'balance' = balance::text
      AND nullif(raw->'invoice_credit_balance', 'null') IS NOT DISTINCT FROM invoice_credit_balance END
    AND raw->>'currency' IS NOT DISTINCT FROM currency
    AND (raw->>'created') || '.000000' = extract(epoch FROM created)::text AND raw->>'livemode' = livemode::text
    AND raw->>'test_clock' IS NOT DISTINCT FROM test_clock AND raw->>'customer_account' IS NOT DISTINCT FROM customer_account
    AND deleted = (deleted_at IS NOT NULL)
  THEN '' ELSE jsonb_build_object('Raw', raw::text, 'Created', created, 'Livemode', livemode::text, 'TestClock', test_clock,
    'CustomerAccount', customer_account, 'DeletedAt', deleted_at)::text END
FROM creditmirror.customers WHERE (account, id) >= ($1, $2) AND (account, id) < ($3, $4) ORDER BY account, id`

	auditBalances = `SELECT account, customer, currency, balance FROM creditmirror.customer_balances
WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4) ORDER BY account, customer, currency`

	auditGrantColumns = `SELECT account, customer, id, coalesce(currency, ''), coalesce(amount, 0),
  CASE WHEN raw->>'object' = 'billing.credit_grant' AND raw->>'id' = id AND raw->>'customer' = customer
    AND raw#>>'{amount,type}' = amount_type AND raw#>>'{amount,monetary,value}' IS NOT DISTINCT FROM amount::text
    AND raw#>>'{amount,monetary,currency}' IS NOT DISTINCT FROM currency
    AND raw->>'name' IS NOT DISTINCT FROM name AND raw->>'category' = category AND raw->'applicability_config' = applicability_config
    AND raw->>'priority' IS NOT DISTINCT FROM priority::text
    AND (raw->>'effective_at') || '.000000' IS NOT DISTINCT FROM extract(epoch FROM effective_at)::text
    AND (raw->>'expires_at') || '.000000' IS NOT DISTINCT FROM extract(epoch FROM expires_at)::text
    AND (raw->>'voided_at') || '.000000' IS NOT DISTINCT FROM extract(epoch FROM voided_at)::text
    AND (raw->>'created') || '.000000' = extract(epoch FROM created)::text
    AND (raw->>'updated') || '.000000' = extract(epoch FROM updated)::text AND raw->>'livemode' = livemode::text
    AND raw->>'test_clock' IS NOT DISTINCT FROM test_clock AND raw->'metadata' = metadata
  THEN '' ELSE jsonb_build_object('Raw', raw::text, 'Name', name, 'Category', category, 'AmountType', amount_type,
    'ApplicabilityConfig', applicability_config::text, 'Priority', priority::text, 'EffectiveAt', effective_at, 'ExpiresAt', expires_at,
    'VoidedAt', voided_at, 'Created', created, 'Updated', updated, 'Livemode', livemode::text, 'TestClock', test_clock,
    'Metadata', metadata::text)::text END
FROM creditmirror.credit_grants `

	auditGrants = auditGrantColumns + `WHERE (account, customer) >= ($1, $2) AND (account, customer) < ($3, $4)
ORDER BY account, customer, id`

	auditGrant = auditGrantColumns + `WHERE account = $1 AND id = $2`

	// A credit transaction keeps its amount in the member that its type names.
	auditCredits = `SELECT account, customer, "grant", id, currency, amount,
  CASE WHEN raw->>'object' = 'billing.credit_balance_transaction' AND raw->>'id' = id AND raw->>'credit_grant' = "grant"
    AND raw->>'type' = type
    AND CASE type
      WHEN 'credit' THEN raw#>>'{credit,type}' = credit_type AND debit_type IS NULL
        AND raw#>>'{credit,amount,type}' = 'monetary' AND raw#>>'{credit,amount,monetary,value}' = amount::text
        AND raw#>>'{credit,amount,monetary,currency}' = currency
        AND raw#>>'{credit,credits_application_invoice_voided,invoice}' IS NOT DISTINCT FROM invoice
        AND raw#>>'{credit,credits_application_invoice_voided,invoice_line_item}' IS NOT DISTINCT FROM invoice_line_item
      WHEN 'debit' THEN raw#>>'{debit,type}' = debit_type AND credit_type IS NULL
        AND raw#>>'{debit,amount,type}' = 'monetary' AND raw#>>'{debit,amount,monetary,value}' = (-amount::numeric)::text
        AND raw#>>'{debit,amount,monetary,currency}' = currency
        AND raw#>>'{debit,credits_applied,invoice}' IS NOT DISTINCT FROM invoice
        AND raw#>>'{debit,credits_applied,invoice_line_item}' IS NOT DISTINCT FROM invoice_line_item
      END
    AND (raw->>'effective_at') || '.000000' = extract(epoch FROM effective_at)::text
    AND (raw->>'created') || '.000000' = extract(epoch FROM created)::text AND raw->>'livemode' = livemode::text
    AND raw->>'test_clock' IS NOT DISTINCT FROM test_clock
  THEN '' ELSE jsonb_build_object('Raw', raw::text, 'Type', type, 'CreditType', credit_type, 'DebitType', debit_type, 'Invoice', invoice,
    'InvoiceLineItem', invoice_line_item, 'EffectiveAt', effective_at, 'Created', created, 'Livemode', livemode::text,
    'TestClock', test_clock)::text END
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

// audit is a snapshot, held open by one connection per reader.
type audit struct {
	idle   chan *pgxpool.Conn
	conns  []*pgxpool.Conn
	ranges []mirror.AuditRange
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
func (a *audit) cut(ctx context.Context, f mirror.AuditFilter, readers int) ([]mirror.AuditRange, error) {
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
		return f.CustomerRanges(accounts), nil
	}
	samples, pages, err := a.sample(ctx)
	if err != nil {
		return nil, err
	}
	return f.Cut(samples, min(readers*rangesPerReader, int(pages/rangePages)+1)), nil
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
		Customers: auditRows(r, declareCustomers, fetchCustomers, closeCustomers, func(row pgx.Row, c *mirror.AuditCustomer) error {
			err := row.Scan(&c.Account, &c.Customer, &c.Balance, &c.Currency, &c.InvoiceCreditBalance, &c.Deleted, &c.Raw)
			return differing(err, &c.AuditJSON, c)
		}),
		Balances: auditRows(r, declareBalances, fetchBalances, closeBalances, scanAuditBalance),
		Grants:   auditRows(r, declareGrants, fetchGrants, closeGrants, scanAuditGrant),
		Credits: auditRows(r, declareCredits, fetchCredits, closeCredits, func(row pgx.Row, c *mirror.AuditCredit) error {
			err := row.Scan(&c.Account, &c.Customer, &c.Grant, &c.ID, &c.Currency, &c.Amount, &c.Raw)
			return differing(err, &c.AuditJSON, c)
		}),
		Summaries: auditRows(r, declareSummaries, fetchSummaries, closeSummaries, scanAuditBalance),
		States: auditRows(r, declareStates, fetchStates, closeStates, func(row pgx.Row, s *mirror.AuditState) error {
			return row.Scan(&s.Account, &s.Customer, (*string)(&s.Scope), &s.Epoch, &s.AppliedEpoch, &s.HistoryComplete, &s.WalkCursor, &s.Disproved)
		}),
		Grant: func(account, id string) (g mirror.AuditGrant, err error) {
			err = scanAuditGrant(conn.QueryRow(ctx, auditGrant, account, id), &g)
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
	keys mirror.AuditRange
}

// auditRows streams the rows of a cursor, a batch at a time.
func auditRows[Row any](r auditReader, declare, fetch, end string, scan func(pgx.Row, *Row) error) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		var none Row
		if _, err := r.conn.Exec(r.ctx, declare, r.keys.From.Account, r.keys.From.Customer, r.keys.To.Account, r.keys.To.Customer); err != nil {
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

func scanAuditTransaction(row pgx.Row, r *mirror.AuditTransaction) error {
	err := row.Scan(&r.Account, &r.Customer, &r.Currency, &r.ID, &r.Amount, &r.EndingBalance, (*optTime)(&r.Created), &r.Position, &r.Raw)
	return differing(err, &r.AuditJSON, r)
}

func scanAuditBalance(row pgx.Row, b *mirror.AuditBalance) error {
	return row.Scan(&b.Account, &b.Customer, &b.Currency, &b.Balance)
}

func scanAuditGrant(row pgx.Row, g *mirror.AuditGrant) error {
	err := row.Scan(&g.Account, &g.Customer, &g.ID, &g.Currency, &g.Amount, &g.Raw)
	return differing(err, &g.AuditJSON, g)
}

// differing ends the scan of a row. What came of one that differs is an object by
// the names of its fields, the JSON among them; NULL leaves the empty text.
func differing(err error, told *mirror.AuditJSON, row any) error {
	text := told.Raw
	*told = mirror.AuditJSON{Same: text == ""}
	if err != nil || told.Same {
		return err
	}
	return json.Unmarshal([]byte(text), row)
}
