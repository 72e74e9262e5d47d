-- Few events ask a question; the others need no place in its index, which every
-- event that comes in and every one that is answered had to be written to.

-- +goose Up

DROP INDEX creditmirror.stripe_events_waiting_question;
CREATE INDEX stripe_events_waiting_question ON creditmirror.stripe_events (account, question_scope, question_id)
WHERE pending_scopes <> 0 AND question_scope IS NOT NULL;
