-- The day table: the rows of both ledgers added up by day, which a roll-forward over
-- much history reads instead of them. It is folded from the change feed and can be
-- made anew at any time. A change of what was added up, whoever makes it, is noted by
-- a trigger: the table is not used until it has been made anew.

-- +goose Up
CREATE TABLE ledger_days (
    account    TEXT NOT NULL,
    generation INTEGER NOT NULL,
    ledger     TEXT NOT NULL,
    currency   TEXT NOT NULL,
    day        TEXT NOT NULL,
    line       TEXT NOT NULL,
    amount     INTEGER NOT NULL,
    rows       INTEGER NOT NULL,
    synced_at  TEXT NOT NULL,
    PRIMARY KEY (generation, account, ledger, currency, day, line)
) STRICT, WITHOUT ROWID;

-- One row, of account ''. building is the newest generation that was begun; doubts up
-- to the token seen are in the sums.
CREATE TABLE ledger_days_state (
    account    TEXT NOT NULL,
    generation INTEGER NOT NULL,
    building   INTEGER NOT NULL,
    position   TEXT NOT NULL,
    usable     INTEGER NOT NULL,
    built_at   TEXT,
    folded_at  TEXT,
    synced_at  TEXT NOT NULL,
    PRIMARY KEY (account)
) STRICT, WITHOUT ROWID;

-- Whose rows were changed since the table was made. Tokens count the changes.
CREATE TABLE ledger_days_doubts (
    account   TEXT NOT NULL,
    customer  TEXT NOT NULL,
    token     INTEGER NOT NULL,
    synced_at TEXT NOT NULL,
    PRIMARY KEY (account, customer)
) STRICT, WITHOUT ROWID;
CREATE INDEX ledger_days_doubts_token ON ledger_days_doubts (token);

-- +goose StatementBegin
CREATE TRIGGER customer_balance_transactions_doubted AFTER UPDATE OF account, currency, amount, type, created ON customer_balance_transactions
WHEN (OLD.account, OLD.currency, OLD.amount, OLD.type, OLD.created) IS NOT (NEW.account, NEW.currency, NEW.amount, NEW.type, NEW.created) BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, synced_at)
    SELECT OLD.account, OLD.customer, ifnull(max(token), 0) + 1, NEW.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER customer_balance_transactions_deleted AFTER DELETE ON customer_balance_transactions BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, synced_at)
    SELECT OLD.account, OLD.customer, ifnull(max(token), 0) + 1, OLD.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER credit_balance_transactions_doubted
AFTER UPDATE OF account, currency, amount, credit_type, debit_type, effective_at ON credit_balance_transactions
WHEN (OLD.account, OLD.currency, OLD.amount, OLD.credit_type, OLD.debit_type, OLD.effective_at)
  IS NOT (NEW.account, NEW.currency, NEW.amount, NEW.credit_type, NEW.debit_type, NEW.effective_at) BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, synced_at)
    SELECT OLD.account, OLD.customer, ifnull(max(token), 0) + 1, NEW.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER credit_balance_transactions_deleted AFTER DELETE ON credit_balance_transactions BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, synced_at)
    SELECT OLD.account, OLD.customer, ifnull(max(token), 0) + 1, OLD.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
