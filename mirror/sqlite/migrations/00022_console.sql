-- The operator's console: what people do and why, who is signed in, classes of the
-- reasons of dead letters, and indexes by which its pages find what they show without
-- reading tables through.

-- +goose Up
CREATE TABLE operator_actions (
    account     TEXT NOT NULL,
    id          TEXT NOT NULL,
    created     TEXT NOT NULL,
    actor       TEXT NOT NULL,
    remote_addr TEXT NOT NULL,
    action      TEXT NOT NULL,
    customer    TEXT NOT NULL,
    object      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    outcome     TEXT NOT NULL,
    count       INTEGER NOT NULL,
    detail      TEXT NOT NULL,
    synced_at   TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX operator_actions_created ON operator_actions (created, id);
CREATE INDEX operator_actions_customer ON operator_actions (account, customer, created) WHERE customer <> '';
CREATE INDEX operator_actions_object ON operator_actions (object, created) WHERE object <> '';

-- +goose StatementBegin
CREATE TRIGGER operator_actions_never_change BEFORE UPDATE ON operator_actions
WHEN OLD.outcome <> '' OR (NEW.account, NEW.id, NEW.created, NEW.actor, NEW.remote_addr, NEW.action, NEW.customer, NEW.object, NEW.reason)
  IS NOT (OLD.account, OLD.id, OLD.created, OLD.actor, OLD.remote_addr, OLD.action, OLD.customer, OLD.object, OLD.reason) BEGIN
    SELECT RAISE(ABORT, 'rows of operator_actions get an outcome once and never change otherwise');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER operator_actions_are_kept BEFORE DELETE ON operator_actions
WHEN OLD.created > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-30 days') BEGIN
    SELECT RAISE(ABORT, 'rows of operator_actions are kept for 30 days at least');
END;
-- +goose StatementEnd

CREATE TABLE console_sessions (
    account    TEXT NOT NULL,
    id         TEXT NOT NULL,
    key_name   TEXT NOT NULL,
    bond       TEXT NOT NULL,
    created    TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    synced_at  TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;

ALTER TABLE dead_letters ADD COLUMN class TEXT NOT NULL DEFAULT '';
UPDATE dead_letters SET class = substr(reason, 1, 60);
CREATE INDEX dead_letters_class ON dead_letters (class, id);

-- Customers by what they hold and by how fresh they are.
CREATE INDEX customer_balances_amount ON customer_balances (account, currency, balance, customer);
CREATE INDEX credit_balance_summaries_amount ON credit_balance_summaries (account, currency, ledger_balance, customer);
CREATE INDEX sync_state_observed ON sync_state (account, scope, observed_at, customer) WHERE observed_at IS NOT NULL;
-- Who has an invoice or a credit note.
CREATE INDEX customer_balance_transactions_of_invoice ON customer_balance_transactions (account, invoice) WHERE invoice IS NOT NULL;
CREATE INDEX customer_balance_transactions_of_note ON customer_balance_transactions (account, credit_note) WHERE credit_note IS NOT NULL;
CREATE INDEX credit_balance_transactions_of_invoice ON credit_balance_transactions (account, invoice) WHERE invoice IS NOT NULL;
-- What happened to a customer.
CREATE INDEX stripe_events_of_customer ON stripe_events (account, customer, created) WHERE customer IS NOT NULL;
CREATE INDEX stripe_events_received ON stripe_events (received_at);
CREATE INDEX drift_findings_customer ON drift_findings (account, customer, found_at);
CREATE INDEX drift_findings_newest ON drift_findings (found_at, id);
CREATE INDEX drift_findings_by_id ON drift_findings (id);
CREATE INDEX api_writes_customer ON api_writes (account, customer, created) WHERE customer <> '';
