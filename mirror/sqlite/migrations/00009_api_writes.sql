-- Who wrote what through the API. A write is noted in api_write_intents before it is
-- sent and moves to api_writes with its outcome. Rows of api_writes never change, and
-- the database itself refuses to delete one that is younger than 30 days.

-- +goose Up
CREATE TABLE api_writes (
    account           TEXT NOT NULL,
    id                TEXT NOT NULL,
    created           TEXT NOT NULL,
    key_name          TEXT NOT NULL,
    operation         TEXT NOT NULL,
    customer          TEXT NOT NULL,
    object            TEXT NOT NULL,
    amount            INTEGER,
    currency          TEXT,
    idempotency_key   TEXT NOT NULL,
    remote_addr       TEXT NOT NULL,
    stripe_request_id TEXT NOT NULL,
    status            INTEGER NOT NULL,
    outcome           TEXT NOT NULL,
    reason            TEXT NOT NULL,
    repeated          INTEGER NOT NULL,
    synced_at         TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX api_writes_created ON api_writes (created, id);
CREATE INDEX api_writes_spent ON api_writes (key_name, currency, created) WHERE outcome IN ('done', 'unknown');

CREATE TABLE api_write_intents (
    account         TEXT NOT NULL,
    id              TEXT NOT NULL,
    created         TEXT NOT NULL,
    key_name        TEXT NOT NULL,
    operation       TEXT NOT NULL,
    customer        TEXT NOT NULL,
    object          TEXT NOT NULL,
    amount          INTEGER,
    currency        TEXT,
    idempotency_key TEXT NOT NULL,
    remote_addr     TEXT NOT NULL,
    synced_at       TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key_uses (
    account      TEXT NOT NULL,
    name         TEXT NOT NULL,
    last_used_at TEXT NOT NULL,
    synced_at    TEXT NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER api_writes_never_change BEFORE UPDATE ON api_writes BEGIN
    SELECT RAISE(ABORT, 'rows of api_writes never change');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER api_writes_are_kept BEFORE DELETE ON api_writes
WHEN OLD.created > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-30 days') BEGIN
    SELECT RAISE(ABORT, 'rows of api_writes are kept for 30 days at least');
END;
-- +goose StatementEnd
