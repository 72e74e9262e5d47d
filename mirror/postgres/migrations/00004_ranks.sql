-- The first copy reads histories by the largest balance or grant: read_rank is that
-- amount, negative, so that the index is read upwards.

-- +goose Up

ALTER TABLE creditmirror.sync_state ADD COLUMN read_rank bigint NOT NULL DEFAULT 0;
UPDATE creditmirror.sync_state AS s SET read_rank = coalesce((
    SELECT min(CASE WHEN b.balance > 0 THEN -b.balance ELSE b.balance END) FROM creditmirror.customer_balances AS b
    WHERE b.account = s.account AND b.customer = s.customer), 0)
WHERE NOT s.history_complete AND s.scope = 'balance';
UPDATE creditmirror.sync_state AS s SET read_rank = coalesce((
    SELECT min(CASE WHEN g.amount > 0 THEN -g.amount ELSE g.amount END) FROM creditmirror.credit_grants AS g
    WHERE g.account = s.account AND g.customer = s.customer), 0)
WHERE NOT s.history_complete AND s.scope = 'credits';
DROP INDEX creditmirror.sync_state_incomplete;
CREATE INDEX sync_state_incomplete ON creditmirror.sync_state (account, scope, read_rank, customer) WHERE NOT history_complete;
