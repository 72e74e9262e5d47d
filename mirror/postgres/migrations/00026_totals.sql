-- What changed in the sums of the tables whose amounts change, so that an increment of
-- a copy adds to the sums that the one before it had, and does not read whole tables.
-- Triggers see every writer. A sum may pass what fits 64 bits on its way.
-- And records in the feed for writes of the API that are deleted when they are old.

-- +goose Up
CREATE TABLE creditmirror.total_changes (
    account    text        COLLATE "C" NOT NULL,
    seq        bigint      GENERATED ALWAYS AS IDENTITY,
    xact       xid8        NOT NULL DEFAULT pg_current_xact_id(),
    table_name text        COLLATE "C" NOT NULL,
    currency   text        COLLATE "C",
    rows       bigint      NOT NULL,
    amount     numeric     NOT NULL,
    synced_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, seq)
);
CREATE INDEX total_changes_feed ON creditmirror.total_changes (xact);

CREATE TRIGGER api_writes_deleted AFTER DELETE ON creditmirror.api_writes
FOR EACH ROW EXECUTE FUNCTION creditmirror.record_change();

-- For each of these tables and its amount: a trigger for the rows that a statement
-- inserted or deleted, and, where rows change, one for each that did. Those without an
-- amount only count.
-- +goose StatementBegin
DO $do$
DECLARE
    t record;
    w record;
BEGIN
    FOR t IN SELECT * FROM (VALUES
        ('customers', 'balance'),
        ('customer_balances', 'balance'),
        ('credit_balance_summaries', 'ledger_balance'),
        ('api_writes', 'amount'),
        ('drift_findings', NULL),
        ('closed_periods', NULL)
    ) AS tables (name, amount) LOOP
        FOR w IN SELECT * FROM (VALUES ('insert', 'NEW', ''), ('delete', 'OLD', '-')) AS writes (op, image, sign) LOOP
            EXECUTE format($f$
CREATE FUNCTION creditmirror.%1$s_total_%2$s() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO creditmirror.total_changes (account, table_name, currency, rows, amount)
    SELECT account, '%1$s', %3$s, %4$scount(*), %4$s%5$s FROM touched GROUP BY account, %3$s;
    RETURN NULL;
END
$$$f$, t.name, w.op, CASE WHEN t.amount IS NULL THEN 'NULL::text' ELSE 'currency' END, w.sign, coalesce('coalesce(sum(' || t.amount || '), 0)', '0'));
            EXECUTE format($f$
CREATE TRIGGER %1$s_total_%2$s AFTER %2$s ON creditmirror.%1$s
REFERENCING %3$s TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION creditmirror.%1$s_total_%2$s()$f$, t.name, w.op, w.image);
        END LOOP;
        CONTINUE WHEN t.amount IS NULL OR t.name = 'api_writes'; -- rows that are only added and removed
        EXECUTE format($f$
CREATE FUNCTION creditmirror.%1$s_total_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.currency IS NOT DISTINCT FROM NEW.currency THEN
        INSERT INTO creditmirror.total_changes (account, table_name, currency, rows, amount)
        VALUES (NEW.account, '%1$s', NEW.currency, 0, coalesce(NEW.%2$s, 0)::numeric - coalesce(OLD.%2$s, 0));
    ELSE
        INSERT INTO creditmirror.total_changes (account, table_name, currency, rows, amount)
        VALUES (OLD.account, '%1$s', OLD.currency, -1, -coalesce(OLD.%2$s, 0)::numeric), (NEW.account, '%1$s', NEW.currency, 1, coalesce(NEW.%2$s, 0));
    END IF;
    RETURN NULL;
END
$$$f$, t.name, t.amount);
        EXECUTE format($f$
CREATE TRIGGER %1$s_total_update AFTER UPDATE ON creditmirror.%1$s
FOR EACH ROW WHEN ((OLD.%2$s, OLD.currency) IS DISTINCT FROM (NEW.%2$s, NEW.currency)) EXECUTE FUNCTION creditmirror.%1$s_total_update()$f$, t.name, t.amount);
    END LOOP;
END
$do$;
-- +goose StatementEnd
