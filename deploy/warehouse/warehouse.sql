-- Opens an export of creditmirror in DuckDB, from its Parquet files:
--
--   duckdb -cmd "SET VARIABLE credit = '/srv/credit'" -init warehouse.sql
--
-- credit is the export's folder, or s3://bucket/prefix with DuckDB's httpfs.
--
-- The schema mirror has the tables by the mirror's own names and columns, in their
-- latest state. The views of the schema main have the names that Stripe's own data
-- products use (customer_id, invoice_id, data_load_time …). Amounts are in minor
-- units: never add across currencies. In the balance ledger negative is credit.
--
-- Only files that a manifest lists are read, so that an export under way, or one
-- that was killed, is not seen.

CREATE SCHEMA IF NOT EXISTS mirror;

CREATE OR REPLACE VIEW mirror.generations AS
SELECT generation, parent, kind, data_load_time, to_position, unproven_customers, files
FROM read_json(getvariable('credit') || '/_manifests/g*.json', format = 'auto', columns = {
    generation: 'BIGINT', parent: 'BIGINT', kind: 'VARCHAR', data_load_time: 'TIMESTAMPTZ', to_position: 'VARCHAR',
    unproven_customers: 'BIGINT', files: 'STRUCT(path VARCHAR, "table" VARCHAR)[]'});

-- The files of the newest full generation and of all after it.
CREATE OR REPLACE VIEW mirror.files AS
SELECT g.generation, f.path, f."table" AS table_name
FROM mirror.generations AS g, unnest(g.files) AS u(f)
WHERE g.generation >= (SELECT max(generation) FROM mirror.generations WHERE kind = 'full');

CREATE OR REPLACE VIEW mirror.customers AS
SELECT * EXCLUDE (filename, month, generation, path, table_name)
FROM read_parquet(getvariable('credit') || '/customers/*/*.parquet', union_by_name = true, filename = true, hive_partitioning = true) AS r
JOIN mirror.files AS f ON f.table_name = 'customers' AND ends_with(r.filename, '/' || f.path)
QUALIFY row_number() OVER (PARTITION BY account, id ORDER BY f.generation DESC) = 1 AND _op = 'upsert';

CREATE OR REPLACE VIEW mirror.customer_balances AS
SELECT * EXCLUDE (filename, month, generation, path, table_name)
FROM read_parquet(getvariable('credit') || '/customer_balances/*/*.parquet', union_by_name = true, filename = true, hive_partitioning = true) AS r
JOIN mirror.files AS f ON f.table_name = 'customer_balances' AND ends_with(r.filename, '/' || f.path)
QUALIFY row_number() OVER (PARTITION BY account, customer, currency ORDER BY f.generation DESC) = 1 AND _op = 'upsert';

CREATE OR REPLACE VIEW mirror.customer_balance_transactions AS
SELECT * EXCLUDE (filename, month, generation, path, table_name)
FROM read_parquet(getvariable('credit') || '/customer_balance_transactions/*/*.parquet', union_by_name = true, filename = true, hive_partitioning = true) AS r
JOIN mirror.files AS f ON f.table_name = 'customer_balance_transactions' AND ends_with(r.filename, '/' || f.path)
QUALIFY row_number() OVER (PARTITION BY account, customer, id ORDER BY f.generation DESC) = 1 AND _op = 'upsert';

CREATE OR REPLACE VIEW mirror.credit_grants AS
SELECT * EXCLUDE (filename, month, generation, path, table_name)
FROM read_parquet(getvariable('credit') || '/credit_grants/*/*.parquet', union_by_name = true, filename = true, hive_partitioning = true) AS r
JOIN mirror.files AS f ON f.table_name = 'credit_grants' AND ends_with(r.filename, '/' || f.path)
QUALIFY row_number() OVER (PARTITION BY account, id ORDER BY f.generation DESC) = 1 AND _op = 'upsert';

CREATE OR REPLACE VIEW mirror.credit_balance_transactions AS
SELECT * EXCLUDE (filename, month, generation, path, table_name)
FROM read_parquet(getvariable('credit') || '/credit_balance_transactions/*/*.parquet', union_by_name = true, filename = true, hive_partitioning = true) AS r
JOIN mirror.files AS f ON f.table_name = 'credit_balance_transactions' AND ends_with(r.filename, '/' || f.path)
QUALIFY row_number() OVER (PARTITION BY account, customer, id ORDER BY f.generation DESC) = 1 AND _op = 'upsert';

CREATE OR REPLACE VIEW mirror.credit_balance_summaries AS
SELECT * EXCLUDE (filename, month, generation, path, table_name)
FROM read_parquet(getvariable('credit') || '/credit_balance_summaries/*/*.parquet', union_by_name = true, filename = true, hive_partitioning = true) AS r
JOIN mirror.files AS f ON f.table_name = 'credit_balance_summaries' AND ends_with(r.filename, '/' || f.path)
QUALIFY row_number() OVER (PARTITION BY account, customer, currency ORDER BY f.generation DESC) = 1 AND _op = 'upsert';

CREATE OR REPLACE VIEW mirror.drift_findings AS
SELECT * EXCLUDE (filename, month, generation, path, table_name)
FROM read_parquet(getvariable('credit') || '/drift_findings/*/*.parquet', union_by_name = true, filename = true, hive_partitioning = true) AS r
JOIN mirror.files AS f ON f.table_name = 'drift_findings' AND ends_with(r.filename, '/' || f.path)
QUALIFY row_number() OVER (PARTITION BY account, id ORDER BY f.generation DESC) = 1 AND _op = 'upsert';

CREATE OR REPLACE VIEW mirror.closed_periods AS
SELECT * EXCLUDE (filename, month, generation, path, table_name)
FROM read_parquet(getvariable('credit') || '/closed_periods/*/*.parquet', union_by_name = true, filename = true, hive_partitioning = true) AS r
JOIN mirror.files AS f ON f.table_name = 'closed_periods' AND ends_with(r.filename, '/' || f.path)
QUALIFY row_number() OVER (PARTITION BY account, period, seal, ledger, currency ORDER BY f.generation DESC) = 1 AND _op = 'upsert';

CREATE OR REPLACE VIEW mirror.api_writes AS
SELECT * EXCLUDE (filename, month, generation, path, table_name)
FROM read_parquet(getvariable('credit') || '/api_writes/*/*.parquet', union_by_name = true, filename = true, hive_partitioning = true) AS r
JOIN mirror.files AS f ON f.table_name = 'api_writes' AND ends_with(r.filename, '/' || f.path)
QUALIFY row_number() OVER (PARTITION BY account, id ORDER BY f.generation DESC) = 1 AND _op = 'upsert';

CREATE OR REPLACE MACRO data_load_time() AS (SELECT max(data_load_time) FROM mirror.generations);

CREATE OR REPLACE VIEW main.customers AS
SELECT account, id, balance, balance AS account_balance, currency, invoice_credit_balance, created, livemode, test_clock AS test_clock_id,
       customer_account, deleted, deleted_at, synced_at, data_load_time() AS data_load_time
FROM mirror.customers;

CREATE OR REPLACE VIEW main.customer_balances AS
SELECT account, customer AS customer_id, currency, balance, synced_at, data_load_time() AS data_load_time
FROM mirror.customer_balances;

CREATE OR REPLACE VIEW main.customer_balance_transactions AS
SELECT account, id, customer AS customer_id, amount, ending_balance, currency, type, invoice AS invoice_id, credit_note AS credit_note_id,
       checkout_session AS checkout_session_id, description, metadata, created, livemode, chain_position, synced_at, data_load_time() AS data_load_time
FROM mirror.customer_balance_transactions;

CREATE OR REPLACE VIEW main.billing_credit_grants AS
SELECT account, id, customer AS customer_id, name, category, amount_type, amount, currency, applicability_config, priority, effective_at,
       expires_at, voided_at, created, updated, livemode, test_clock AS test_clock_id, metadata, synced_at, data_load_time() AS data_load_time
FROM mirror.credit_grants;

CREATE OR REPLACE VIEW main.billing_credit_balance_transactions AS
SELECT account, id, customer AS customer_id, "grant" AS credit_grant_id, type, credit_type, debit_type, currency, amount,
       invoice AS invoice_id, invoice_line_item AS invoice_line_item_id, effective_at, created, livemode, test_clock AS test_clock_id, synced_at, data_load_time() AS data_load_time
FROM mirror.credit_balance_transactions;

CREATE OR REPLACE VIEW main.billing_credit_balance_summaries AS
SELECT account, customer AS customer_id, currency, available_balance, ledger_balance, synced_at, data_load_time() AS data_load_time
FROM mirror.credit_balance_summaries;

CREATE OR REPLACE VIEW main.drift_findings AS
SELECT account, id, kind, customer AS customer_id, scope, currency, object, expected, actual, cause, found_at, repaired_at, synced_at, data_load_time() AS data_load_time
FROM mirror.drift_findings;

CREATE OR REPLACE VIEW main.closed_periods AS
SELECT account, period, seal, ledger, currency, period_start, period_end, closing, rows, digest, unproven, position, sealed_at, reopened_at, reopen_reason, synced_at, data_load_time() AS data_load_time
FROM mirror.closed_periods;

CREATE OR REPLACE VIEW main.api_writes AS
SELECT account, id, created, key_name, operation, customer AS customer_id, object, amount, currency, idempotency_key, remote_addr,
       stripe_request_id, status, outcome, reason, repeated, synced_at, data_load_time() AS data_load_time
FROM mirror.api_writes;
