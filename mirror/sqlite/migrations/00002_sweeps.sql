-- What the balances sweep and the scrub look for: the age of the last full read
-- of each history, and customers in the order in which Stripe lists them.

-- +goose Up
ALTER TABLE sync_state ADD COLUMN full_read_at TEXT;
UPDATE sync_state SET full_read_at = observed_at
WHERE history_complete
  AND NOT EXISTS (SELECT 1 FROM customers c WHERE c.account = sync_state.account AND c.id = sync_state.customer AND c.deleted);
CREATE INDEX sync_state_full_read ON sync_state (account, full_read_at, customer, scope) WHERE full_read_at IS NOT NULL;
CREATE INDEX customers_living ON customers (account, created, id) WHERE NOT deleted AND test_clock IS NULL;
