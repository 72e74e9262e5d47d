-- The times at which test clocks stand: grants become usable and expire by them.

-- +goose Up
CREATE TABLE test_clocks (
    account     TEXT NOT NULL,
    id          TEXT NOT NULL,
    frozen_time TEXT NOT NULL,
    synced_at   TEXT NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
