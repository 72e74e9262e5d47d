-- The day table: the rows of both ledgers added up by day, which a roll-forward over
-- much history reads instead of them. It is folded from the change feed and can be
-- made anew at any time. A change of what was added up, whoever makes it, is noted by
-- a trigger: the table is not used until it has been made anew.

-- +goose Up
CREATE TABLE creditmirror.ledger_days (
    account    text        COLLATE "C" NOT NULL,
    generation bigint      NOT NULL,
    ledger     text        COLLATE "C" NOT NULL,
    currency   text        COLLATE "C" NOT NULL,
    day        date        NOT NULL,
    line       text        COLLATE "C" NOT NULL,
    amount     bigint      NOT NULL,
    rows       bigint      NOT NULL,
    synced_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (generation, account, ledger, currency, day, line)
);

-- One row, of account ''. building is the newest generation that was begun.
CREATE TABLE creditmirror.ledger_days_state (
    account    text        COLLATE "C" NOT NULL,
    generation bigint      NOT NULL,
    building   bigint      NOT NULL,
    position   text        NOT NULL,
    usable     boolean     NOT NULL,
    built_at   timestamptz,
    folded_at  timestamptz,
    synced_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account)
);

-- Whose rows were changed since the table was made; token is the newest transaction
-- that did so.
CREATE TABLE creditmirror.ledger_days_doubts (
    account   text        COLLATE "C" NOT NULL,
    customer  text        COLLATE "C" NOT NULL,
    token     xid8        NOT NULL,
    synced_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, customer)
);

-- +goose StatementBegin
CREATE FUNCTION creditmirror.record_doubt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO creditmirror.ledger_days_doubts AS d (account, customer, token)
    VALUES (OLD.account, OLD.customer, pg_current_xact_id())
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at
    WHERE d.token <> excluded.token;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER customer_balance_transactions_doubted
AFTER UPDATE OF account, currency, amount, type, created ON creditmirror.customer_balance_transactions
FOR EACH ROW WHEN ((OLD.account, OLD.currency, OLD.amount, OLD.type, OLD.created) IS DISTINCT FROM (NEW.account, NEW.currency, NEW.amount, NEW.type, NEW.created))
EXECUTE FUNCTION creditmirror.record_doubt();
CREATE TRIGGER customer_balance_transactions_deleted AFTER DELETE ON creditmirror.customer_balance_transactions
FOR EACH ROW EXECUTE FUNCTION creditmirror.record_doubt();
CREATE TRIGGER credit_balance_transactions_doubted
AFTER UPDATE OF account, currency, amount, credit_type, debit_type, effective_at ON creditmirror.credit_balance_transactions
FOR EACH ROW WHEN ((OLD.account, OLD.currency, OLD.amount, OLD.credit_type, OLD.debit_type, OLD.effective_at)
  IS DISTINCT FROM (NEW.account, NEW.currency, NEW.amount, NEW.credit_type, NEW.debit_type, NEW.effective_at))
EXECUTE FUNCTION creditmirror.record_doubt();
CREATE TRIGGER credit_balance_transactions_deleted AFTER DELETE ON creditmirror.credit_balance_transactions
FOR EACH ROW EXECUTE FUNCTION creditmirror.record_doubt();

COMMENT ON TABLE creditmirror.ledger_days IS 'The plain sums of the rows of both ledgers by day, for reports over much history. Only rows of the generation in ledger_days_state count, and only with the rows that came since its position; customers that were deleted or are not proven are in the sums. For figures use v_liability_daily or creditmirror rollforward.';
COMMENT ON COLUMN creditmirror.ledger_days."account" IS 'Connected account (acct_...); empty: the platform''s own.';
COMMENT ON COLUMN creditmirror.ledger_days."generation" IS 'Which making of the table the row is of.';
COMMENT ON COLUMN creditmirror.ledger_days."ledger" IS 'balance or credits.';
COMMENT ON COLUMN creditmirror.ledger_days."currency" IS 'Sums are never of two currencies.';
COMMENT ON COLUMN creditmirror.ledger_days."day" IS 'Day in UTC of created (balance) or effective_at (credits).';
COMMENT ON COLUMN creditmirror.ledger_days."line" IS 'type (balance), credit_type or debit_type (credits).';
COMMENT ON COLUMN creditmirror.ledger_days."amount" IS 'Sum of the rows'' amounts, in minor units, with the ledger''s sign.';
COMMENT ON COLUMN creditmirror.ledger_days."rows" IS 'How many rows were added up.';
COMMENT ON COLUMN creditmirror.ledger_days."synced_at" IS 'When the row was last written.';
COMMENT ON TABLE creditmirror.ledger_days_state IS 'Which rows of ledger_days count, and up to which place in the change feed they do.';
COMMENT ON COLUMN creditmirror.ledger_days_state."generation" IS 'The generation that counts; 0: none yet.';
COMMENT ON COLUMN creditmirror.ledger_days_state."building" IS 'The newest generation that was begun.';
COMMENT ON COLUMN creditmirror.ledger_days_state."position" IS 'Rows inserted after this place in the change feed are not in the sums.';
COMMENT ON COLUMN creditmirror.ledger_days_state."usable" IS 'False: a day''s sum does not fit 64 bits; reports read the rows.';
COMMENT ON COLUMN creditmirror.ledger_days_state."built_at" IS 'When this generation was made.';
COMMENT ON COLUMN creditmirror.ledger_days_state."folded_at" IS 'When the position last moved.';
COMMENT ON TABLE creditmirror.ledger_days_doubts IS 'Customers of whom a row was changed or deleted since the table was made: it is not used until it has been made anew.';
