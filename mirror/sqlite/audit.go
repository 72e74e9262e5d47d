package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

var _ mirror.Auditor = (*Store)(nil)

// The queries of the audit. All take ?1 … ?4: the first key of the range and the
// first key after it. Each names its index: rows must come in its order, and a
// sorter over a whole table would need the table's size in memory or on disk.
//
// A wide row comes as two values: an array of its columns, and its JSON. Each value
// that leaves SQLite costs three locks, and all columns one by one a fifth more of
// the whole proof. To have SQLite compare them with the JSON costs twice the proof.
const (
	auditTransactionColumns = `
SELECT json_array(account, customer, currency, id, amount, ending_balance, created, chain_position, type, invoice, credit_note,
         checkout_session, description, livemode, metadata), raw
FROM customer_balance_transactions `

	auditPlaced = auditTransactionColumns + `INDEXED BY customer_balance_transactions_chain
WHERE (account, customer) >= (?1, ?2) AND (account, customer) < (?3, ?4) AND chain_position IS NOT NULL
ORDER BY account, customer, currency, chain_position`

	auditUnplaced = auditTransactionColumns + `INDEXED BY customer_balance_transactions_unplaced
WHERE (account, customer) >= (?1, ?2) AND (account, customer) < (?3, ?4) AND chain_position IS NULL
ORDER BY account, customer, currency, id`

	auditCustomers = `
SELECT json_array(account, id, balance, currency, invoice_credit_balance, deleted, created, livemode, test_clock, customer_account,
         deleted_at), ifnull(raw, '')
FROM customers WHERE (account, id) >= (?1, ?2) AND (account, id) < (?3, ?4) ORDER BY account, id`

	auditBalances = `
SELECT account, customer, currency, balance FROM customer_balances
WHERE (account, customer) >= (?1, ?2) AND (account, customer) < (?3, ?4) ORDER BY account, customer, currency`

	auditGrantColumns = `
SELECT json_array(account, customer, id, currency, amount, name, category, amount_type, applicability_config, priority, effective_at,
         expires_at, voided_at, created, updated, livemode, test_clock, metadata), raw
FROM credit_grants `

	auditGrants = auditGrantColumns + `INDEXED BY credit_grants_customer_list
WHERE (account, customer) >= (?1, ?2) AND (account, customer) < (?3, ?4) ORDER BY account, customer, id`

	auditGrant = auditGrantColumns + `WHERE account = ?1 AND id = ?2`

	auditCredits = `
SELECT json_array(account, customer, "grant", id, currency, amount, type, credit_type, debit_type, invoice, invoice_line_item,
         effective_at, created, livemode, test_clock), raw
FROM credit_balance_transactions INDEXED BY credit_balance_transactions_grant_list
WHERE (account, customer) >= (?1, ?2) AND (account, customer) < (?3, ?4) ORDER BY account, customer, "grant"`

	auditSummaries = `
SELECT account, customer, currency, ledger_balance FROM credit_balance_summaries
WHERE (account, customer) >= (?1, ?2) AND (account, customer) < (?3, ?4) ORDER BY account, customer, currency`

	auditStates = `
SELECT account, customer, scope, epoch, applied_epoch, history_complete, walk_cursor, disproved FROM sync_state
WHERE (account, customer) >= (?1, ?2) AND (account, customer) < (?3, ?4) AND scope IN ('balance', 'credits')
ORDER BY account, customer, scope`

	// auditAccounts steps from account to account, over all tables with an owner.
	auditAccounts = `
WITH RECURSIVE named (account) AS (
    SELECT min(account) FROM (SELECT min(account) AS account FROM customers
        UNION ALL SELECT min(account) FROM customer_balance_transactions
        UNION ALL SELECT min(account) FROM credit_balance_transactions
        UNION ALL SELECT min(account) FROM credit_grants UNION ALL SELECT min(account) FROM sync_state
        UNION ALL SELECT min(account) FROM customer_balances UNION ALL SELECT min(account) FROM credit_balance_summaries)
    UNION ALL
    SELECT (SELECT min(account) FROM (SELECT min(account) AS account FROM customers WHERE account > named.account
        UNION ALL SELECT min(account) FROM customer_balance_transactions WHERE account > named.account
        UNION ALL SELECT min(account) FROM credit_balance_transactions WHERE account > named.account
        UNION ALL SELECT min(account) FROM credit_grants WHERE account > named.account
        UNION ALL SELECT min(account) FROM sync_state WHERE account > named.account
        UNION ALL SELECT min(account) FROM customer_balances WHERE account > named.account
        UNION ALL SELECT min(account) FROM credit_balance_summaries WHERE account > named.account))
    FROM named WHERE named.account IS NOT NULL)
SELECT account FROM named WHERE account IS NOT NULL`

	auditRowids  = `SELECT ifnull((SELECT max(rowid) FROM customer_balance_transactions), 0), ifnull((SELECT max(rowid) FROM credit_balance_transactions), 0)`
	auditSample  = `SELECT account, customer FROM customer_balance_transactions WHERE rowid >= ?1 ORDER BY rowid LIMIT 1`
	creditSample = `SELECT account, customer FROM credit_balance_transactions WHERE rowid >= ?1 ORDER BY rowid LIMIT 1`

	beginAudit = `BEGIN`
	openAudit  = `SELECT count(*) FROM (SELECT 1 FROM customers LIMIT 1)` // a snapshot begins with the first read
	endAudit   = `ROLLBACK`
)

const (
	// rangeRows is how many rows make a range of their own worth while, and
	// rangesPerReader how many ranges even the load out between readers.
	rangeRows       = 20_000
	rangesPerReader = 8
	// samplesPerRange makes ranges of about the same size.
	samplesPerRange = 16
)

// audit is a snapshot, held open by one connection per reader.
type audit struct {
	s      *Store
	db     *sql.DB
	idle   chan *sql.Conn
	conns  []*sql.Conn
	ranges []mirror.AuditRange
}

// Audit takes one snapshot of the file. The write-ahead log cannot start anew
// before Close. Its readers do all of the work themselves: more of them than there are
// processors would only wait for each other.
func (s *Store) Audit(ctx context.Context, f mirror.AuditFilter, readers int) (mirror.Audit, error) {
	a := &audit{s: s}
	if err := a.open(ctx, f, max(1, min(readers, runtime.GOMAXPROCS(0)))); err != nil {
		return nil, fmt.Errorf("begin the audit: %w", s.explain(errors.Join(err, a.Close())))
	}
	return a, nil
}

func (a *audit) open(ctx context.Context, f mirror.AuditFilter, readers int) (err error) {
	// Connections of its own: the pool of the reads is for short ones.
	a.db, err = sql.Open("sqlite", dsn(a.s.path, "busy_timeout(5000)", "query_only(1)", "cache_size(-8000)"))
	if err != nil {
		return err
	}
	a.db.SetMaxOpenConns(readers)
	a.idle = make(chan *sql.Conn, readers)
	for range readers {
		conn, err := a.db.Conn(ctx)
		if err != nil {
			return err
		}
		a.conns = append(a.conns, conn)
	}
	begin := func(*tx) error {
		for _, conn := range a.conns {
			if _, err := conn.ExecContext(ctx, beginAudit); err != nil {
				return err
			}
			var n int
			if err := conn.QueryRowContext(ctx, openAudit).Scan(&n); err != nil {
				return err
			}
			a.idle <- conn
		}
		return nil
	}
	if readers == 1 {
		err = begin(nil)
	} else {
		// With the write lock held nobody commits, and all connections see the same.
		err = a.s.w.do(ctx, volatile, begin)
	}
	if err != nil {
		return err
	}
	a.ranges, err = a.cut(ctx, f, readers)
	return err
}

// cut finds the ranges.
func (a *audit) cut(ctx context.Context, f mirror.AuditFilter, readers int) ([]mirror.AuditRange, error) {
	if f.Customer != "" {
		accounts, err := a.accounts(ctx, f)
		return f.CustomerRanges(accounts), err
	}
	samples, rows, err := a.sample(ctx, readers*rangesPerReader*samplesPerRange)
	if err != nil {
		return nil, err
	}
	return f.Cut(samples, min(readers*rangesPerReader, int(rows/rangeRows)+1)), nil
}

// sample looks at n places of each ledger.
func (a *audit) sample(ctx context.Context, n int) (keys []mirror.AuditKey, rows int64, err error) {
	var balance, credit int64
	if err := a.conns[0].QueryRowContext(ctx, auditRowids).Scan(&balance, &credit); err != nil {
		return nil, 0, err
	}
	for _, table := range []struct {
		query string
		last  int64
	}{{auditSample, balance}, {creditSample, credit}} {
		// A ledger gets its share of the samples, so that a small one moves no cut.
		share := int64(n) * table.last / max(balance+credit, 1)
		for i := range share {
			var k mirror.AuditKey
			err := a.conns[0].QueryRowContext(ctx, table.query, table.last/share*i).Scan(&k.Account, &k.Customer)
			if errors.Is(err, sql.ErrNoRows) {
				break
			}
			if err != nil {
				return nil, 0, err
			}
			keys = append(keys, k)
		}
	}
	return keys, balance + credit, nil
}

func (a *audit) accounts(ctx context.Context, f mirror.AuditFilter) ([]string, error) {
	if f.Account != nil {
		return []string{*f.Account}, nil
	}
	rows, err := a.conns[0].QueryContext(ctx, auditAccounts)
	if err != nil {
		return nil, err
	}
	var list []string
	err = drain(rows, func(rows *sql.Rows) error {
		var account string
		err := rows.Scan(&account)
		list = append(list, account)
		return err
	})
	return list, err
}

// Ranges counts the ranges.
func (a *audit) Ranges() int { return len(a.ranges) }

// Readers is the number of connections.
func (a *audit) Readers() int { return len(a.conns) }

// Close ends the snapshot.
func (a *audit) Close() error {
	var err error
	for _, conn := range a.conns {
		_, rollback := conn.ExecContext(context.Background(), endAudit)
		if rollback != nil && strings.Contains(rollback.Error(), "no transaction is active") {
			rollback = nil // the beginning has failed
		}
		err = errors.Join(err, rollback, conn.Close())
	}
	if a.db != nil {
		err = errors.Join(err, a.db.Close())
	}
	return err
}

// Range reads one range.
func (a *audit) Range(ctx context.Context, i int, fn func(mirror.AuditLedgers) error) error {
	var conn *sql.Conn
	select {
	case <-ctx.Done():
		return ctx.Err()
	case conn = <-a.idle:
	}
	defer func() { a.idle <- conn }()
	r := auditReader{ctx, conn, a.ranges[i]}
	return a.s.explain(fn(mirror.AuditLedgers{
		Placed:    auditRows(r, auditPlaced, scanAuditTransaction),
		Unplaced:  auditRows(r, auditUnplaced, scanAuditTransaction),
		Customers: auditRows(r, auditCustomers, scanAuditCustomer),
		Balances:  auditRows(r, auditBalances, scanAuditBalance),
		Grants:    auditRows(r, auditGrants, scanAuditGrant),
		Credits:   auditRows(r, auditCredits, scanAuditCredit),
		Summaries: auditRows(r, auditSummaries, scanAuditBalance),
		States: auditRows(r, auditStates, func(rows *sql.Rows, s *mirror.AuditState) error {
			return rows.Scan(&s.Account, &s.Customer, &s.Scope, &s.Epoch, &s.AppliedEpoch, &s.HistoryComplete, &s.WalkCursor, &s.Disproved)
		}),
		Grant: func(account, id string) (mirror.AuditGrant, error) {
			var g mirror.AuditGrant
			rows, err := conn.QueryContext(ctx, auditGrant, account, id)
			if err != nil {
				return g, err
			}
			found := false
			err = drain(rows, func(rows *sql.Rows) error {
				found = true
				return scanAuditGrant(rows, &g)
			})
			if err == nil && !found {
				err = mirror.ErrNotFound
			}
			return g, err
		},
	}))
}

// auditReader reads one range on one connection.
type auditReader struct {
	ctx  context.Context
	conn *sql.Conn
	keys mirror.AuditRange
}

// auditRows streams the rows of a query.
func auditRows[Row any](r auditReader, query string, scan func(*sql.Rows, *Row) error) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		var row Row
		rows, err := r.conn.QueryContext(r.ctx, query,
			r.keys.From.Account, r.keys.From.Customer, r.keys.To.Account, r.keys.To.Customer)
		if err != nil {
			yield(row, err)
			return
		}
		defer rows.Close()
		for rows.Next() {
			if err := scan(rows, &row); err != nil {
				yield(row, err)
				return
			}
			if !yield(row, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(row, err)
		}
	}
}

func scanAuditTransaction(rows *sql.Rows, r *mirror.AuditTransaction) error {
	c, err := scanCells(rows, &r.AuditJSON)
	if err != nil {
		return err
	}
	r.Account, r.Customer, r.Currency, r.ID = c.text(), c.text(), c.text(), c.text()
	r.Amount, r.EndingBalance = c.number(), c.number()
	if r.Created, err = time.Parse(timeFormat, c.text()); err != nil {
		r.Created = time.Time{}
	}
	r.Position = c.number()
	r.Type, r.Invoice, r.CreditNote, r.CheckoutSession = c.text(), c.text(), c.text(), c.text()
	r.Description, r.Livemode, r.Metadata = c.text(), c.truth(), c.text()
	return c.err
}

func scanAuditCustomer(rows *sql.Rows, r *mirror.AuditCustomer) error {
	c, err := scanCells(rows, &r.AuditJSON)
	if err != nil {
		return err
	}
	r.Account, r.Customer, r.Balance, r.Currency, r.InvoiceCreditBalance = c.text(), c.text(), c.number(), c.text(), c.text()
	r.Deleted = c.number() != 0
	r.Created, r.Livemode, r.TestClock, r.CustomerAccount, r.DeletedAt = c.time(), c.truth(), c.text(), c.text(), c.time()
	return c.err
}

func scanAuditBalance(rows *sql.Rows, b *mirror.AuditBalance) error {
	return rows.Scan(&b.Account, &b.Customer, &b.Currency, &b.Balance)
}

func scanAuditGrant(rows *sql.Rows, r *mirror.AuditGrant) error {
	c, err := scanCells(rows, &r.AuditJSON)
	if err != nil {
		return err
	}
	r.Account, r.Customer, r.ID, r.Currency, r.Amount = c.text(), c.text(), c.text(), c.text(), c.number()
	r.Name, r.Category, r.AmountType, r.ApplicabilityConfig, r.Priority = c.text(), c.text(), c.text(), c.text(), c.text()
	r.EffectiveAt, r.ExpiresAt, r.VoidedAt, r.Created, r.Updated = c.time(), c.time(), c.time(), c.time(), c.time()
	r.Livemode, r.TestClock, r.Metadata = c.truth(), c.text(), c.text()
	return c.err
}

func scanAuditCredit(rows *sql.Rows, r *mirror.AuditCredit) error {
	c, err := scanCells(rows, &r.AuditJSON)
	if err != nil {
		return err
	}
	r.Account, r.Customer, r.Grant, r.ID, r.Currency, r.Amount = c.text(), c.text(), c.text(), c.text(), c.text(), c.number()
	r.Type, r.CreditType, r.DebitType, r.Invoice, r.InvoiceLineItem = c.text(), c.text(), c.text(), c.text(), c.text()
	r.EffectiveAt, r.Created, r.Livemode, r.TestClock = c.time(), c.time(), c.truth(), c.text()
	return c.err
}

// cells reads the columns of a row from the array that SQLite made of them, in
// their order. The array has no blanks, and nothing in it but texts, integers and
// null.
type cells struct {
	rest string // the array from the bracket, or the comma, before the next value
	err  error
}

// scanCells reads a row of an array and a JSON text.
func scanCells(rows *sql.Rows, raw *mirror.AuditJSON) (c cells, err error) {
	err = rows.Scan(&c.rest, &raw.Raw)
	return c, err
}

// text is the next value as it is held; NULL is the empty text.
func (c *cells) text() string {
	if len(c.rest) < 2 {
		return c.fail()
	}
	value := c.rest[1:]
	if value[0] != '"' {
		end := strings.IndexAny(value, ",]")
		if end < 0 {
			return c.fail()
		}
		if value, c.rest = value[:end], value[end:]; value == "null" {
			return ""
		}
		return value
	}
	end, escaped := 1, false
	for end < len(value) && value[end] != '"' {
		if value[end] == '\\' {
			escaped = true
			end++
		}
		end++
	}
	if end >= len(value) {
		return c.fail()
	}
	value, c.rest = value[:end+1], value[end+1:]
	if escaped {
		return c.unescape(value)
	}
	return value[1:end]
}

// unescape reads a JSON text. JSON in a column has nothing but quotes to escape,
// which takes a tenth of the time of a decoder.
func (c *cells) unescape(value string) string {
	plain := make([]byte, 0, len(value))
	for i := 1; i < len(value)-1; i++ {
		if value[i] == '\\' {
			i++
			if value[i] != '"' && value[i] != '\\' {
				var text string
				if json.Unmarshal([]byte(value), &text) != nil {
					return c.fail()
				}
				return text
			}
		}
		plain = append(plain, value[i])
	}
	return string(plain)
}

// time is the next value, a time as the tables hold it. Another text, which no
// reader of the table takes for a time, is reported not to be one.
func (c *cells) time() string {
	text := c.text()
	if text != "" && len(text) != len(timeFormat) {
		return "no time: " + text
	}
	return text
}

// number is the next value as an integer; NULL is 0.
func (c *cells) number() int64 {
	text := c.text()
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		c.fail()
	}
	return n
}

// truth is the next value as true or false; what is neither stays a number.
func (c *cells) truth() string {
	switch text := c.text(); text {
	case "0":
		return "false"
	case "1":
		return "true"
	default:
		return text
	}
}

// fail keeps what is there to itself: it may be a customer's.
func (c *cells) fail() string {
	c.rest = ""
	if c.err == nil {
		c.err = errors.New("an audited row is not what was asked for")
	}
	return ""
}
