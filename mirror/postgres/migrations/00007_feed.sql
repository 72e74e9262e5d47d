-- The change feed is read account by account: a quiet account's readers must not
-- walk over the records of a busy one each time they look.

-- +goose Up

CREATE INDEX changes_account_feed ON creditmirror.changes (account, xact, seq);
DROP INDEX creditmirror.changes_feed;
