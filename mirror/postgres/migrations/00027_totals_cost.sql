-- What total_changes costs a sync: one index instead of two, and nothing is run for a
-- statement that inserts no row. An upsert that updates fires the triggers of inserting
-- statements too, and most syncs are two such upserts.

-- +goose Up
ALTER TABLE creditmirror.total_changes DROP CONSTRAINT total_changes_pkey, ADD PRIMARY KEY (xact, account, seq);
DROP INDEX creditmirror.total_changes_feed;

-- +goose StatementBegin
DO $do$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT * FROM (VALUES
        ('customers', 'balance'),
        ('customer_balances', 'balance'),
        ('credit_balance_summaries', 'ledger_balance')
    ) AS tables (name, amount) LOOP
        EXECUTE format('DROP TRIGGER %1$s_total_insert ON creditmirror.%1$s', t.name);
        EXECUTE format($f$
CREATE OR REPLACE FUNCTION creditmirror.%1$s_total_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO creditmirror.total_changes (account, table_name, currency, rows, amount)
    VALUES (NEW.account, '%1$s', NEW.currency, 1, coalesce(NEW.%2$s, 0));
    RETURN NULL;
END
$$$f$, t.name, t.amount);
        EXECUTE format($f$
CREATE TRIGGER %1$s_total_insert AFTER INSERT ON creditmirror.%1$s
FOR EACH ROW EXECUTE FUNCTION creditmirror.%1$s_total_insert()$f$, t.name);
    END LOOP;
END
$do$;
-- +goose StatementEnd
