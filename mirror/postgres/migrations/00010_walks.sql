-- What is unfinished: histories that were never complete, and those with an open
-- walk, which may have been complete before. The old index stays for programs of the
-- version before.

-- +goose Up

CREATE INDEX sync_state_unfinished ON creditmirror.sync_state (account, scope, read_rank, customer)
WHERE NOT history_complete OR walk_cursor <> '';
