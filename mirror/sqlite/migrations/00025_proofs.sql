-- The proof of the chains: the process that makes the day table also looks at every
-- link of every chain of the balance ledger, in the order of their dates. Customers of
-- whom a chain does not close, and those of whom a row was changed by whomever since,
-- are kept in ledger_days_doubts: reports look at their rows, and at those of customers
-- with newer records in the change feed, instead of at all.

-- +goose Up
ALTER TABLE ledger_days_state ADD COLUMN proof_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ledger_days_state ADD COLUMN proof_position TEXT NOT NULL DEFAULT '';
ALTER TABLE ledger_days_doubts ADD COLUMN sums INTEGER NOT NULL DEFAULT 1;

DROP TRIGGER customer_balance_transactions_doubted;
DROP TRIGGER customer_balance_transactions_deleted;
DROP TRIGGER credit_balance_transactions_doubted;
DROP TRIGGER credit_balance_transactions_deleted;
-- +goose StatementBegin
CREATE TRIGGER customer_balance_transactions_doubted AFTER UPDATE OF account, currency, amount, type, created ON customer_balance_transactions
WHEN (OLD.account, OLD.currency, OLD.amount, OLD.type, OLD.created) IS NOT (NEW.account, NEW.currency, NEW.amount, NEW.type, NEW.created) BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, sums, synced_at)
    SELECT OLD.account, OLD.customer, ifnull(max(token), 0) + 1, 1, NEW.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, sums = 1, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER customer_balance_transactions_deleted AFTER DELETE ON customer_balance_transactions BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, sums, synced_at)
    SELECT OLD.account, OLD.customer, ifnull(max(token), 0) + 1, 1, OLD.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, sums = 1, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER credit_balance_transactions_doubted AFTER UPDATE OF account, currency, amount, credit_type, debit_type, effective_at ON credit_balance_transactions
WHEN (OLD.account, OLD.currency, OLD.amount, OLD.credit_type, OLD.debit_type, OLD.effective_at)
  IS NOT (NEW.account, NEW.currency, NEW.amount, NEW.credit_type, NEW.debit_type, NEW.effective_at) BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, sums, synced_at)
    SELECT OLD.account, OLD.customer, ifnull(max(token), 0) + 1, 1, NEW.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, sums = 1, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER credit_balance_transactions_deleted AFTER DELETE ON credit_balance_transactions BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, sums, synced_at)
    SELECT OLD.account, OLD.customer, ifnull(max(token), 0) + 1, 1, OLD.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, sums = 1, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
-- A row that had no place before is of a customer who is looked at anyway: it came with
-- a record in the feed, or was unplaced when the proof was made.
-- +goose StatementBegin
CREATE TRIGGER customer_balance_transactions_unlinked AFTER UPDATE OF account, customer, ending_balance, chain_position ON customer_balance_transactions
WHEN (OLD.account, OLD.customer, OLD.ending_balance) IS NOT (NEW.account, NEW.customer, NEW.ending_balance)
  OR OLD.chain_position IS NOT NULL AND OLD.chain_position IS NOT NEW.chain_position BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, sums, synced_at)
    SELECT OLD.account, OLD.customer, ifnull(max(token), 0) + 1, 0, NEW.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER customer_balance_transactions_moved AFTER UPDATE OF account, customer ON customer_balance_transactions
WHEN (OLD.account, OLD.customer) IS NOT (NEW.account, NEW.customer) BEGIN
    INSERT INTO ledger_days_doubts (account, customer, token, sums, synced_at)
    SELECT NEW.account, NEW.customer, ifnull(max(token), 0) + 1, 0, NEW.synced_at FROM ledger_days_doubts WHERE true
    ON CONFLICT (account, customer) DO UPDATE SET token = excluded.token, synced_at = excluded.synced_at;
END;
-- +goose StatementEnd
