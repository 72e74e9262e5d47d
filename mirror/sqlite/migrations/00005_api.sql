-- What the API lists by: the rows of an invoice, the credit transactions of an
-- account, customers by the account behind them or by e-mail (held only where
-- whole customers are kept).

-- +goose Up
CREATE INDEX customer_balance_transactions_invoice ON customer_balance_transactions
    (account, customer, invoice) WHERE invoice IS NOT NULL;
CREATE INDEX credit_balance_transactions_account_list ON credit_balance_transactions (account, created, id);
CREATE INDEX customers_account ON customers (account, customer_account) WHERE customer_account IS NOT NULL;
CREATE INDEX customers_email ON customers (account, json_extract(raw, '$.email')) WHERE json_extract(raw, '$.email') IS NOT NULL;
