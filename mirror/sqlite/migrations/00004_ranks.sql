-- The first copy reads histories by the largest balance or grant: read_rank is that
-- amount, negative, so that the index is read upwards. The index keeps its name,
-- which programs of the version before name in their queries. (There is no 00003:
-- a number means the same in both databases.)

-- +goose Up
ALTER TABLE sync_state ADD COLUMN read_rank INTEGER NOT NULL DEFAULT 0;
UPDATE sync_state SET read_rank = ifnull((
    SELECT min(CASE WHEN b.balance > 0 THEN -b.balance ELSE b.balance END) FROM customer_balances b
    WHERE b.account = sync_state.account AND b.customer = sync_state.customer), 0)
WHERE NOT history_complete AND scope = 'balance';
UPDATE sync_state SET read_rank = ifnull((
    SELECT min(CASE WHEN g.amount > 0 THEN -g.amount ELSE g.amount END) FROM credit_grants g
    WHERE g.account = sync_state.account AND g.customer = sync_state.customer), 0)
WHERE NOT history_complete AND scope = 'credits';
DROP INDEX sync_state_incomplete;
CREATE INDEX sync_state_incomplete ON sync_state (account, scope, read_rank, customer) WHERE NOT history_complete;
