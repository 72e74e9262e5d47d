-- Rows without a place are placed from the oldest on, a slice at a time.

-- +goose Up

DROP INDEX creditmirror.customer_balance_transactions_unplaced;
CREATE INDEX customer_balance_transactions_unplaced ON creditmirror.customer_balance_transactions
    (account, customer, created) WHERE chain_position IS NULL;
