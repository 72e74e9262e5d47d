-- refused_at is when the reads of the last sync of a ledger began, where Stripe's
-- reply contradicted what is held.

-- +goose Up
ALTER TABLE sync_state ADD COLUMN refused_at TEXT;
CREATE INDEX sync_state_refused ON sync_state (account, refused_at, customer, scope) WHERE refused_at IS NOT NULL;
