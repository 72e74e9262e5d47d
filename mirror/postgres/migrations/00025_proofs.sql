-- The proof of the chains: the process that makes the day table also looks at every
-- link of every chain of the balance ledger, in the order of their dates. Customers of
-- whom a chain does not close, and those of whom a row was changed by whomever since,
-- are kept in ledger_days_doubts: reports look at their rows, and at those of customers
-- with newer records in the change feed, instead of at all.
--
-- Programs of the version before go on working: they take every doubt for one about
-- sums, and a table that they made has no proof.

-- +goose Up
ALTER TABLE creditmirror.ledger_days_state ADD COLUMN proof_generation bigint NOT NULL DEFAULT 0;
ALTER TABLE creditmirror.ledger_days_state ADD COLUMN proof_position text NOT NULL DEFAULT '';
ALTER TABLE creditmirror.ledger_days_doubts ADD COLUMN sums boolean NOT NULL DEFAULT true;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION creditmirror.record_doubt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO creditmirror.ledger_days_doubts AS d (account, customer, token, sums)
    VALUES (OLD.account, OLD.customer, pg_current_xact_id(), true)
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, sums = true, synced_at = excluded.synced_at
    WHERE d.token <> excluded.token OR NOT d.sums;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION creditmirror.record_link_doubt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO creditmirror.ledger_days_doubts AS d (account, customer, token, sums)
    VALUES (OLD.account, OLD.customer, pg_current_xact_id(), false)
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at
    WHERE d.token <> excluded.token;
    IF (OLD.account, OLD.customer) IS DISTINCT FROM (NEW.account, NEW.customer) THEN
        INSERT INTO creditmirror.ledger_days_doubts AS d (account, customer, token, sums)
        VALUES (NEW.account, NEW.customer, pg_current_xact_id(), false)
        ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at
        WHERE d.token <> excluded.token;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
-- A row that had no place before is of a customer who is looked at anyway: it came with
-- a record in the feed, or was unplaced when the proof was made.
CREATE TRIGGER customer_balance_transactions_unlinked
AFTER UPDATE OF account, customer, ending_balance, chain_position ON creditmirror.customer_balance_transactions
FOR EACH ROW WHEN ((OLD.account, OLD.customer, OLD.ending_balance) IS DISTINCT FROM (NEW.account, NEW.customer, NEW.ending_balance)
  OR OLD.chain_position IS NOT NULL AND OLD.chain_position IS DISTINCT FROM NEW.chain_position)
EXECUTE FUNCTION creditmirror.record_link_doubt();

-- +goose StatementBegin
CREATE FUNCTION creditmirror.forget_days() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM creditmirror.ledger_days;
    UPDATE creditmirror.ledger_days_state SET generation = 0, building = building + 1, usable = false, synced_at = now();
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER customer_balance_transactions_truncated AFTER TRUNCATE ON creditmirror.customer_balance_transactions
FOR EACH STATEMENT EXECUTE FUNCTION creditmirror.forget_days();
CREATE TRIGGER credit_balance_transactions_truncated AFTER TRUNCATE ON creditmirror.credit_balance_transactions
FOR EACH STATEMENT EXECUTE FUNCTION creditmirror.forget_days();

COMMENT ON COLUMN creditmirror.ledger_days_state."proof_generation" IS 'The generation with which the chains were looked at; another one than generation: they were not.';
COMMENT ON COLUMN creditmirror.ledger_days_state."proof_position" IS 'Up to this place in the change feed every chain closes, but for the customers in ledger_days_doubts; empty: too many do not.';
COMMENT ON TABLE creditmirror.ledger_days_doubts IS 'Customers whose rows reports must look at themselves: a chain did not close when it was last looked at, or a row was changed or deleted since the table was made.';
COMMENT ON COLUMN creditmirror.ledger_days_doubts."sums" IS 'True: an amount, currency, type or date was changed, or a row deleted, and ledger_days is not used until it has been made anew.';
