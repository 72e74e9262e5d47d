-- The times at which test clocks stand: grants become usable and expire by them.

-- +goose Up
CREATE TABLE creditmirror.test_clocks (
    account     text        COLLATE "C" NOT NULL,
    id          text        COLLATE "C" NOT NULL,
    frozen_time timestamptz NOT NULL,
    synced_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account, id)
);
