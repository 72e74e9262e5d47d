-- How far each reader of the change feed has read, and records in the feed for the
-- tables that no sync writes. Triggers see every writer of them.

-- +goose Up
CREATE TABLE export_cursors (
    account    TEXT NOT NULL,
    name       TEXT NOT NULL,
    generation INTEGER NOT NULL,
    position   TEXT NOT NULL,
    number     INTEGER NOT NULL,
    seen_at    TEXT NOT NULL,
    synced_at  TEXT NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER drift_findings_inserted AFTER INSERT ON drift_findings BEGIN
    INSERT INTO changes (account, table_name, customer, id, op, changed_at, synced_at)
    VALUES (NEW.account, 'drift_findings', NEW.customer, NEW.id, 'insert', NEW.synced_at, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER drift_findings_updated AFTER UPDATE ON drift_findings
WHEN (OLD.repaired_at, OLD.expected, OLD.actual, OLD.cause, OLD.notified) IS NOT (NEW.repaired_at, NEW.expected, NEW.actual, NEW.cause, NEW.notified) BEGIN
    INSERT INTO changes (account, table_name, customer, id, op, changed_at, synced_at)
    VALUES (NEW.account, 'drift_findings', NEW.customer, NEW.id, 'update', NEW.synced_at, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER drift_findings_deleted AFTER DELETE ON drift_findings BEGIN
    INSERT INTO changes (account, table_name, customer, id, op, changed_at, synced_at)
    VALUES (OLD.account, 'drift_findings', OLD.customer, OLD.id, 'delete', OLD.synced_at, OLD.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER closed_periods_inserted AFTER INSERT ON closed_periods BEGIN
    INSERT INTO changes (account, table_name, customer, id, op, changed_at, synced_at)
    VALUES (NEW.account, 'closed_periods', '', NEW.period || '/' || NEW.seal || '/' || NEW.ledger || '/' || NEW.currency, 'insert', NEW.synced_at, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER closed_periods_updated AFTER UPDATE ON closed_periods BEGIN
    INSERT INTO changes (account, table_name, customer, id, op, changed_at, synced_at)
    VALUES (NEW.account, 'closed_periods', '', NEW.period || '/' || NEW.seal || '/' || NEW.ledger || '/' || NEW.currency, 'update', NEW.synced_at, NEW.synced_at);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER closed_periods_deleted AFTER DELETE ON closed_periods BEGIN
    INSERT INTO changes (account, table_name, customer, id, op, changed_at, synced_at)
    VALUES (OLD.account, 'closed_periods', '', OLD.period || '/' || OLD.seal || '/' || OLD.ledger || '/' || OLD.currency, 'delete', OLD.synced_at, OLD.synced_at);
END;
-- +goose StatementEnd
