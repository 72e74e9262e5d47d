-- The books: indexes that answer "how much, at which moment" from themselves alone;
-- sealed periods; and deleted customers, who hold nothing in any table.
--
-- Programs of the version before go on working: they neither read the new tables nor
-- mind the indexes, and a customer that they bury keeps its balances until the next
-- tombstone or migration.

-- +goose Up
CREATE INDEX customer_balance_transactions_book ON customer_balance_transactions
    (account, customer, currency, created, chain_position, amount, ending_balance, type);
CREATE INDEX credit_balance_transactions_book ON credit_balance_transactions
    (account, customer, currency, effective_at, amount, credit_type, debit_type);

-- Whom the plain sums of the rows do not do justice to: few, once the first copy is done.
CREATE INDEX sync_state_apart ON sync_state (account, customer, scope)
    WHERE NOT history_complete OR disproved OR walk_cursor <> '' OR full_read_at IS NULL;
-- Rows of a grant do not count before the grant is effective. (On a test clock created
-- may lie after effective_at although the grant was pending.)
CREATE INDEX credit_grants_late ON credit_grants (account, customer)
    WHERE effective_at > created OR test_clock IS NOT NULL;

-- One row for each account, ledger and currency of a sealed period. seal counts the
-- seals of a period: a reopened one keeps its rows, with who reopened it and why.
CREATE TABLE closed_periods (
    account       TEXT NOT NULL,
    period        TEXT NOT NULL,
    seal          INTEGER NOT NULL,
    ledger        TEXT NOT NULL,
    currency      TEXT NOT NULL,
    period_start  TEXT NOT NULL,
    period_end    TEXT NOT NULL,
    closing       INTEGER NOT NULL,
    rows          INTEGER NOT NULL,
    digest        TEXT NOT NULL,
    unproven      INTEGER NOT NULL,
    position      TEXT NOT NULL,
    sealed_at     TEXT NOT NULL,
    reopened_at   TEXT,
    reopen_reason TEXT,
    synced_at     TEXT NOT NULL,
    PRIMARY KEY (account, period, seal, ledger, currency)
) STRICT, WITHOUT ROWID;

UPDATE customer_balances SET balance = 0, synced_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
WHERE balance <> 0 AND EXISTS (SELECT 1 FROM customers c WHERE c.account = customer_balances.account AND c.id = customer_balances.customer AND c.deleted);
UPDATE credit_balance_summaries SET available_balance = 0, ledger_balance = 0, synced_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
WHERE (available_balance <> 0 OR ledger_balance <> 0)
  AND EXISTS (SELECT 1 FROM customers c WHERE c.account = credit_balance_summaries.account AND c.id = credit_balance_summaries.customer AND c.deleted);
UPDATE customers SET balance = 0, invoice_credit_balance = NULL, synced_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
WHERE deleted AND (balance <> 0 OR invoice_credit_balance IS NOT NULL);
