-- Rows without a place are placed from the oldest on, a slice at a time. The index
-- keeps its name, which programs of the version before name in their queries.

-- +goose Up
DROP INDEX customer_balance_transactions_unplaced;
CREATE INDEX customer_balance_transactions_unplaced ON customer_balance_transactions
    (account, customer, created) WHERE chain_position IS NULL;
