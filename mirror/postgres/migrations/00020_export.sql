-- How far each reader of the change feed has read, and records in the feed for the
-- tables that no sync writes. Triggers see every writer of them.

-- +goose Up
CREATE TABLE creditmirror.export_cursors (
    account    text        COLLATE "C" NOT NULL,
    name       text        COLLATE "C" NOT NULL,
    generation bigint      NOT NULL,
    position   text        NOT NULL,
    number     bigint      NOT NULL,
    seen_at    timestamptz NOT NULL,
    synced_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, name)
);

-- +goose StatementBegin
CREATE FUNCTION creditmirror.record_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    IF TG_OP = 'DELETE' THEN r := OLD; ELSE r := NEW; END IF;
    INSERT INTO creditmirror.changes (account, table_name, customer, id, op)
    VALUES (r.account, TG_TABLE_NAME, r.customer, r.id, lower(TG_OP));
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER drift_findings_changed AFTER INSERT OR DELETE ON creditmirror.drift_findings
FOR EACH ROW EXECUTE FUNCTION creditmirror.record_change();
CREATE TRIGGER drift_findings_updated AFTER UPDATE ON creditmirror.drift_findings
FOR EACH ROW WHEN ((OLD.repaired_at, OLD.expected, OLD.actual, OLD.cause, OLD.notified) IS DISTINCT FROM (NEW.repaired_at, NEW.expected, NEW.actual, NEW.cause, NEW.notified))
EXECUTE FUNCTION creditmirror.record_change();

-- +goose StatementBegin
CREATE FUNCTION creditmirror.record_period() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    IF TG_OP = 'DELETE' THEN r := OLD; ELSE r := NEW; END IF;
    INSERT INTO creditmirror.changes (account, table_name, customer, id, op)
    VALUES (r.account, TG_TABLE_NAME, '', r.period || '/' || r.seal || '/' || r.ledger || '/' || r.currency, lower(TG_OP));
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER closed_periods_changed AFTER INSERT OR UPDATE OR DELETE ON creditmirror.closed_periods
FOR EACH ROW EXECUTE FUNCTION creditmirror.record_period();
