-- The operator's console: what people do and why, who is signed in, classes of the
-- reasons of dead letters, and indexes by which its pages find what they show without
-- reading tables through.

-- +goose Up

CREATE TABLE creditmirror.operator_actions (
    account     text        COLLATE "C" NOT NULL,
    id          text        COLLATE "C" NOT NULL,
    created     timestamptz NOT NULL,
    actor       text        COLLATE "C" NOT NULL,
    remote_addr text        NOT NULL,
    action      text        COLLATE "C" NOT NULL,
    customer    text        COLLATE "C" NOT NULL,
    object      text        COLLATE "C" NOT NULL,
    reason      text        NOT NULL,
    outcome     text        NOT NULL,
    count       bigint      NOT NULL,
    detail      text        NOT NULL,
    synced_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);
CREATE INDEX operator_actions_created ON creditmirror.operator_actions (created, id);
CREATE INDEX operator_actions_customer ON creditmirror.operator_actions (account, customer, created) WHERE customer <> '';
CREATE INDEX operator_actions_object ON creditmirror.operator_actions (object, created) WHERE object <> '';

-- +goose StatementBegin
CREATE FUNCTION creditmirror.operator_actions_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.created <= now() - interval '30 days' THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.outcome = '' AND (NEW.account, NEW.id, NEW.created, NEW.actor, NEW.remote_addr, NEW.action, NEW.customer, NEW.object, NEW.reason)
        = (OLD.account, OLD.id, OLD.created, OLD.actor, OLD.remote_addr, OLD.action, OLD.customer, OLD.object, OLD.reason) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'rows of operator_actions get an outcome once, never change otherwise, and are kept for 30 days at least';
END
$$;
-- +goose StatementEnd
CREATE TRIGGER operator_actions_append_only BEFORE UPDATE OR DELETE ON creditmirror.operator_actions
FOR EACH ROW EXECUTE FUNCTION creditmirror.operator_actions_append_only();
CREATE TRIGGER operator_actions_not_truncated BEFORE TRUNCATE ON creditmirror.operator_actions
FOR EACH STATEMENT EXECUTE FUNCTION creditmirror.operator_actions_append_only();

CREATE TABLE creditmirror.console_sessions (
    account    text        COLLATE "C" NOT NULL,
    id         text        COLLATE "C" NOT NULL,
    key_name   text        COLLATE "C" NOT NULL,
    bond       text        NOT NULL,
    created    timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    synced_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);

ALTER TABLE creditmirror.dead_letters ADD COLUMN class text NOT NULL DEFAULT '';
UPDATE creditmirror.dead_letters SET class = left(reason, 60);
CREATE INDEX dead_letters_class ON creditmirror.dead_letters (class, id);

-- Customers by what they hold and by how fresh they are.
CREATE INDEX customer_balances_amount ON creditmirror.customer_balances (account, currency, balance, customer);
CREATE INDEX credit_balance_summaries_amount ON creditmirror.credit_balance_summaries (account, currency, ledger_balance, customer);
CREATE INDEX sync_state_observed ON creditmirror.sync_state (account, scope, observed_at, customer) WHERE observed_at IS NOT NULL;
-- Who has an invoice or a credit note.
CREATE INDEX customer_balance_transactions_of_invoice ON creditmirror.customer_balance_transactions (account, invoice) WHERE invoice IS NOT NULL;
CREATE INDEX customer_balance_transactions_of_note ON creditmirror.customer_balance_transactions (account, credit_note) WHERE credit_note IS NOT NULL;
CREATE INDEX credit_balance_transactions_of_invoice ON creditmirror.credit_balance_transactions (account, invoice) WHERE invoice IS NOT NULL;
-- What happened to a customer.
CREATE INDEX stripe_events_of_customer ON creditmirror.stripe_events (account, customer, created) WHERE customer IS NOT NULL;
CREATE INDEX stripe_events_received ON creditmirror.stripe_events (received_at);
CREATE INDEX drift_findings_customer ON creditmirror.drift_findings (account, customer, found_at);
CREATE INDEX drift_findings_newest ON creditmirror.drift_findings (found_at, id);
CREATE INDEX drift_findings_by_id ON creditmirror.drift_findings (id);
CREATE INDEX api_writes_customer ON creditmirror.api_writes (account, customer, created) WHERE customer <> '';

COMMENT ON TABLE creditmirror.operator_actions IS 'What people did to the mirror through the console or a command, and why.';
COMMENT ON TABLE creditmirror.console_sessions IS 'Who is signed in to the console.';
