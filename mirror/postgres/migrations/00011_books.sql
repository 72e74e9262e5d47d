-- The books: indexes that answer "how much, at which moment" from themselves alone;
-- sealed periods; and deleted customers, who hold nothing in any table.
--
-- Programs of the version before go on working: they neither read the new tables nor
-- mind the indexes, and a customer that they bury keeps its balances until the next
-- tombstone or migration.

-- +goose Up

CREATE INDEX customer_balance_transactions_book ON creditmirror.customer_balance_transactions
    (account, customer, currency, created) INCLUDE (amount, ending_balance, type);
CREATE INDEX credit_balance_transactions_book ON creditmirror.credit_balance_transactions
    (account, customer, currency, effective_at) INCLUDE (amount, credit_type, debit_type);

-- Whom the plain sums of the rows do not do justice to: few, once the first copy is done.
CREATE INDEX customers_deleted ON creditmirror.customers (account, id) WHERE deleted;
CREATE INDEX sync_state_apart ON creditmirror.sync_state (account, customer, scope)
    WHERE NOT history_complete OR disproved OR walk_cursor <> '' OR full_read_at IS NULL;
-- Rows of a grant do not count before the grant is effective. (On a test clock created
-- may lie after effective_at although the grant was pending.)
CREATE INDEX credit_grants_late ON creditmirror.credit_grants (account, customer)
    WHERE effective_at > created OR test_clock IS NOT NULL;

-- One row for each account, ledger and currency of a sealed period. seal counts the
-- seals of a period: a reopened one keeps its rows, with who reopened it and why.
CREATE TABLE creditmirror.closed_periods (
    account       text        COLLATE "C" NOT NULL,
    period        text        COLLATE "C" NOT NULL,
    seal          bigint      NOT NULL,
    ledger        text        COLLATE "C" NOT NULL,
    currency      text        COLLATE "C" NOT NULL,
    period_start  timestamptz NOT NULL,
    period_end    timestamptz NOT NULL,
    closing       bigint      NOT NULL,
    rows          bigint      NOT NULL,
    digest        text        NOT NULL,
    unproven      bigint      NOT NULL,
    position      text        NOT NULL,
    sealed_at     timestamptz NOT NULL,
    reopened_at   timestamptz,
    reopen_reason text,
    synced_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, period, seal, ledger, currency)
);

UPDATE creditmirror.customer_balances AS b SET balance = 0, synced_at = now()
WHERE b.balance <> 0 AND EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = b.account AND c.id = b.customer AND c.deleted);
UPDATE creditmirror.credit_balance_summaries AS b SET available_balance = 0, ledger_balance = 0, synced_at = now()
WHERE (b.available_balance <> 0 OR b.ledger_balance <> 0)
  AND EXISTS (SELECT 1 FROM creditmirror.customers AS c WHERE c.account = b.account AND c.id = b.customer AND c.deleted);
UPDATE creditmirror.customers SET balance = 0, invoice_credit_balance = NULL, synced_at = now()
WHERE deleted AND (balance <> 0 OR invoice_credit_balance IS NOT NULL);
