-- What changed in the sums of the tables whose amounts change, so that an increment of
-- a copy adds to the sums that the one before it had, and does not read whole tables.
-- Triggers see every writer. rows is 1 for what a row is now, -1 for what it was.
-- And records in the feed for writes of the API that are deleted when they are old.

-- +goose Up
CREATE TABLE total_changes (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    account    TEXT NOT NULL,
    table_name TEXT NOT NULL,
    rows       INTEGER NOT NULL,
    currency   TEXT,
    amount     INTEGER,
    synced_at  TEXT NOT NULL
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER api_writes_deleted AFTER DELETE ON api_writes BEGIN
    INSERT INTO changes (account, table_name, customer, id, op, changed_at, synced_at)
    VALUES (OLD.account, 'api_writes', OLD.customer, OLD.id, 'delete', strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'), strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'));
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER customers_total_inserted AFTER INSERT ON customers BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (NEW.account, 'customers', 1, NEW.currency, NEW.balance, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER customers_total_updated AFTER UPDATE OF balance, currency ON customers
WHEN (OLD.balance, OLD.currency) IS NOT (NEW.balance, NEW.currency) BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (OLD.account, 'customers', -1, OLD.currency, OLD.balance, OLD.synced_at);
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (NEW.account, 'customers', 1, NEW.currency, NEW.balance, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER customers_total_deleted AFTER DELETE ON customers BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (OLD.account, 'customers', -1, OLD.currency, OLD.balance, OLD.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER customer_balances_total_inserted AFTER INSERT ON customer_balances BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (NEW.account, 'customer_balances', 1, NEW.currency, NEW.balance, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER customer_balances_total_updated AFTER UPDATE OF balance, currency ON customer_balances
WHEN (OLD.balance, OLD.currency) IS NOT (NEW.balance, NEW.currency) BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (OLD.account, 'customer_balances', -1, OLD.currency, OLD.balance, OLD.synced_at);
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (NEW.account, 'customer_balances', 1, NEW.currency, NEW.balance, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER customer_balances_total_deleted AFTER DELETE ON customer_balances BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (OLD.account, 'customer_balances', -1, OLD.currency, OLD.balance, OLD.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER credit_balance_summaries_total_inserted AFTER INSERT ON credit_balance_summaries BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (NEW.account, 'credit_balance_summaries', 1, NEW.currency, NEW.ledger_balance, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER credit_balance_summaries_total_updated AFTER UPDATE OF ledger_balance, currency ON credit_balance_summaries
WHEN (OLD.ledger_balance, OLD.currency) IS NOT (NEW.ledger_balance, NEW.currency) BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (OLD.account, 'credit_balance_summaries', -1, OLD.currency, OLD.ledger_balance, OLD.synced_at);
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (NEW.account, 'credit_balance_summaries', 1, NEW.currency, NEW.ledger_balance, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER credit_balance_summaries_total_deleted AFTER DELETE ON credit_balance_summaries BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (OLD.account, 'credit_balance_summaries', -1, OLD.currency, OLD.ledger_balance, OLD.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER api_writes_total_inserted AFTER INSERT ON api_writes BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (NEW.account, 'api_writes', 1, NEW.currency, NEW.amount, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER api_writes_total_deleted AFTER DELETE ON api_writes BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (OLD.account, 'api_writes', -1, OLD.currency, OLD.amount, OLD.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER drift_findings_total_inserted AFTER INSERT ON drift_findings BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (NEW.account, 'drift_findings', 1, NULL, NULL, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER drift_findings_total_deleted AFTER DELETE ON drift_findings BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (OLD.account, 'drift_findings', -1, NULL, NULL, OLD.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER closed_periods_total_inserted AFTER INSERT ON closed_periods BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (NEW.account, 'closed_periods', 1, NULL, NULL, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER closed_periods_total_deleted AFTER DELETE ON closed_periods BEGIN
    INSERT INTO total_changes (account, table_name, rows, currency, amount, synced_at) VALUES (OLD.account, 'closed_periods', -1, NULL, NULL, OLD.synced_at);
END;
-- +goose StatementEnd
