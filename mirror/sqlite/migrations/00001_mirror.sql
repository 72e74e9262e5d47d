-- The tables of docs/schema.md. Times are text of fixed width in UTC
-- (2006-01-02T15:04:05.000000Z), so that their order as text is their order in
-- time. Wide rows live in rowid tables, small keyed ones without.

-- +goose Up
CREATE TABLE customers (
    account                TEXT NOT NULL,
    id                     TEXT NOT NULL,
    balance                INTEGER NOT NULL,
    currency               TEXT,
    invoice_credit_balance TEXT,
    created                TEXT,
    livemode               INTEGER NOT NULL,
    test_clock             TEXT,
    customer_account       TEXT,
    deleted                INTEGER NOT NULL DEFAULT 0,
    deleted_at             TEXT,
    raw                    TEXT,
    digest                 TEXT NOT NULL,
    synced_at              TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;
CREATE INDEX customers_test_clock ON customers (account, test_clock, id) WHERE test_clock IS NOT NULL;
CREATE INDEX customers_deleted ON customers (account, id) WHERE deleted;

CREATE TABLE customer_balances (
    account   TEXT NOT NULL,
    customer  TEXT NOT NULL,
    currency  TEXT NOT NULL,
    balance   INTEGER NOT NULL,
    synced_at TEXT NOT NULL,
    PRIMARY KEY (account, customer, currency)
) STRICT, WITHOUT ROWID;

CREATE TABLE customer_balance_transactions (
    account          TEXT NOT NULL,
    customer         TEXT NOT NULL,
    id               TEXT NOT NULL,
    currency         TEXT NOT NULL,
    amount           INTEGER NOT NULL,
    ending_balance   INTEGER NOT NULL,
    type             TEXT NOT NULL,
    invoice          TEXT,
    credit_note      TEXT,
    checkout_session TEXT,
    description      TEXT,
    metadata         TEXT NOT NULL,
    created          TEXT NOT NULL,
    livemode         INTEGER NOT NULL,
    chain_position   INTEGER,
    raw              TEXT NOT NULL,
    digest           TEXT NOT NULL,
    synced_at        TEXT NOT NULL,
    PRIMARY KEY (account, customer, id)
) STRICT;
-- The order of lists; a row without a place counts as the newest of its second.
CREATE INDEX customer_balance_transactions_list ON customer_balance_transactions
    (account, customer, created, ifnull(chain_position, 9223372036854775807), id);
CREATE INDEX customer_balance_transactions_chain ON customer_balance_transactions
    (account, customer, currency, chain_position);
CREATE INDEX customer_balance_transactions_unplaced ON customer_balance_transactions
    (account, customer) WHERE chain_position IS NULL;

CREATE TABLE credit_grants (
    account              TEXT NOT NULL,
    id                   TEXT NOT NULL,
    customer             TEXT NOT NULL,
    name                 TEXT,
    category             TEXT NOT NULL,
    amount_type          TEXT NOT NULL,
    amount               INTEGER,
    currency             TEXT,
    applicability_config TEXT NOT NULL,
    priority             INTEGER,
    effective_at         TEXT,
    expires_at           TEXT,
    voided_at            TEXT,
    created              TEXT NOT NULL,
    updated              TEXT NOT NULL,
    livemode             INTEGER NOT NULL,
    test_clock           TEXT,
    metadata             TEXT NOT NULL,
    raw                  TEXT NOT NULL,
    digest               TEXT NOT NULL,
    synced_at            TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;
CREATE INDEX credit_grants_account_list ON credit_grants (account, created, id);
CREATE INDEX credit_grants_customer_list ON credit_grants (account, customer, created, id);

CREATE TABLE credit_balance_transactions (
    account           TEXT NOT NULL,
    customer          TEXT NOT NULL,
    id                TEXT NOT NULL,
    "grant"           TEXT NOT NULL,
    type              TEXT NOT NULL,
    credit_type       TEXT,
    debit_type        TEXT,
    currency          TEXT NOT NULL,
    amount            INTEGER NOT NULL,
    invoice           TEXT,
    invoice_line_item TEXT,
    effective_at      TEXT NOT NULL,
    created           TEXT NOT NULL,
    livemode          INTEGER NOT NULL,
    test_clock        TEXT,
    raw               TEXT NOT NULL,
    digest            TEXT NOT NULL,
    synced_at         TEXT NOT NULL,
    PRIMARY KEY (account, customer, id)
) STRICT;
CREATE INDEX credit_balance_transactions_id ON credit_balance_transactions (account, id);
CREATE INDEX credit_balance_transactions_list ON credit_balance_transactions (account, customer, created, id);
CREATE INDEX credit_balance_transactions_grant_list ON credit_balance_transactions
    (account, customer, "grant", created, id);
-- Covers the sums per grant and per currency, so that they read no rows.
CREATE INDEX credit_balance_transactions_sums ON credit_balance_transactions
    (account, customer, "grant", currency, amount);

CREATE TABLE credit_balance_summaries (
    account           TEXT NOT NULL,
    customer          TEXT NOT NULL,
    currency          TEXT NOT NULL,
    available_balance INTEGER NOT NULL,
    ledger_balance    INTEGER NOT NULL,
    synced_at         TEXT NOT NULL,
    PRIMARY KEY (account, customer, currency)
) STRICT, WITHOUT ROWID;

CREATE TABLE stripe_events (
    account        TEXT NOT NULL,
    id             TEXT NOT NULL,
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    type           TEXT NOT NULL,
    customer       TEXT,
    object         TEXT,
    question_scope TEXT,
    question_id    TEXT,
    pending_scopes INTEGER NOT NULL,
    livemode       INTEGER NOT NULL,
    api_version    TEXT,
    created        TEXT NOT NULL,
    received_at    TEXT NOT NULL,
    applied_at     TEXT,
    synced_at      TEXT NOT NULL,
    UNIQUE (account, id)
) STRICT;
CREATE INDEX stripe_events_pending ON stripe_events (seq) WHERE pending_scopes <> 0;
CREATE INDEX stripe_events_pending_customer ON stripe_events (account, customer, seq) WHERE pending_scopes <> 0;
CREATE INDEX stripe_events_pending_question ON stripe_events (account, question_scope, question_id)
    WHERE pending_scopes <> 0 AND question_id IS NOT NULL;
CREATE INDEX stripe_events_pending_created ON stripe_events (created) WHERE pending_scopes <> 0;
CREATE INDEX stripe_events_answered ON stripe_events (created) WHERE pending_scopes = 0;

CREATE TABLE dead_letters (
    account         TEXT NOT NULL,
    id              TEXT NOT NULL,
    customer        TEXT NOT NULL,
    scope           TEXT NOT NULL,
    reason          TEXT NOT NULL,
    attempts        INTEGER NOT NULL,
    event_ids       TEXT NOT NULL,
    payload         BLOB,
    first_failed_at TEXT NOT NULL,
    last_failed_at  TEXT NOT NULL,
    retry_at        TEXT,
    synced_at       TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;
CREATE INDEX dead_letters_id ON dead_letters (id);
CREATE INDEX dead_letters_target ON dead_letters (account, customer, scope);
CREATE INDEX dead_letters_retry ON dead_letters (retry_at) WHERE retry_at IS NOT NULL;

CREATE TABLE drift_findings (
    account     TEXT NOT NULL,
    id          TEXT NOT NULL,
    kind        TEXT NOT NULL,
    customer    TEXT NOT NULL,
    scope       TEXT NOT NULL,
    currency    TEXT NOT NULL,
    object      TEXT NOT NULL,
    expected    TEXT NOT NULL,
    actual      TEXT NOT NULL,
    cause       TEXT NOT NULL,
    found_at    TEXT NOT NULL,
    repaired_at TEXT,
    synced_at   TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;
CREATE UNIQUE INDEX drift_findings_open ON drift_findings (account, kind, customer, currency, object)
    WHERE repaired_at IS NULL;
CREATE INDEX drift_findings_open_target ON drift_findings (account, customer, scope) WHERE repaired_at IS NULL;

CREATE TABLE sweeps (
    account      TEXT NOT NULL,
    name         TEXT NOT NULL,
    state        TEXT,
    watermark    TEXT,
    started_at   TEXT,
    last_success TEXT,
    last_found   INTEGER NOT NULL,
    synced_at    TEXT NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;

-- A row with epoch 0 is a ledger that the first copy knows of and no sync began.
CREATE TABLE sync_state (
    account          TEXT NOT NULL,
    customer         TEXT NOT NULL,
    scope            TEXT NOT NULL,
    epoch            INTEGER NOT NULL,
    applied_epoch    INTEGER NOT NULL DEFAULT 0,
    observed_at      TEXT,
    history_complete INTEGER NOT NULL DEFAULT 0,
    complete_to      TEXT,
    walk_cursor      TEXT NOT NULL DEFAULT '',
    walk_top         TEXT,
    walk_full        INTEGER NOT NULL DEFAULT 0,
    disproved        INTEGER NOT NULL DEFAULT 0,
    synced_at        TEXT NOT NULL,
    PRIMARY KEY (account, customer, scope)
) STRICT, WITHOUT ROWID;
CREATE INDEX sync_state_incomplete ON sync_state (account, scope, customer) WHERE NOT history_complete;

CREATE TABLE changes (
    account    TEXT NOT NULL,
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    table_name TEXT NOT NULL,
    customer   TEXT NOT NULL,
    id         TEXT NOT NULL,
    op         TEXT NOT NULL,
    changed_at TEXT NOT NULL,
    synced_at  TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX changes_account_seq ON changes (account, seq);

CREATE TABLE leases (
    account    TEXT NOT NULL,
    name       TEXT NOT NULL,
    owner      TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    synced_at  TEXT NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE accounts (
    account   TEXT NOT NULL PRIMARY KEY,
    seen_at   TEXT NOT NULL,
    synced_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE queue_incarnations (
    account         TEXT NOT NULL,
    queue_partition INTEGER NOT NULL,
    incarnation     TEXT NOT NULL,
    high_water      INTEGER NOT NULL,
    synced_at       TEXT NOT NULL,
    PRIMARY KEY (account, queue_partition)
) STRICT, WITHOUT ROWID;
