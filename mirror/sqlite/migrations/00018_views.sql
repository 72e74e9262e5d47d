-- The books as views, by the rules that the commands follow (docs/sql.md), and the
-- tables under the column names of Stripe's own warehouse data. The names carry a
-- prefix since the tables themselves have Stripe's names.

-- +goose Up

CREATE VIEW v_standings AS
SELECT h.account, h.customer, h.ledger, c.deleted_at,
  coalesce(s.history_complete AND NOT s.disproved AND s.walk_cursor = '', 1)
    AND NOT (h.ledger = 'balance' AND EXISTS (SELECT 1 FROM customer_balance_transactions AS u
      WHERE u.account = h.account AND u.customer = h.customer AND u.chain_position IS NULL)) AS proven,
  s.observed_at AS data_load_time
FROM (SELECT account, id AS customer, 'balance' AS ledger FROM customers UNION SELECT account, id, 'credits' FROM customers
  UNION SELECT account, customer, 'balance' FROM customer_balance_transactions
  UNION SELECT account, customer, 'credits' FROM credit_grants) AS h
LEFT JOIN customers AS c ON c.account = h.account AND c.id = h.customer
LEFT JOIN sync_state AS s ON s.account = h.account AND s.customer = h.customer AND s.scope = h.ledger;

CREATE VIEW v_movements AS
SELECT t.account, t.customer, 'balance' AS ledger, t.currency, t.created AS dated, t.id, t.type, t.amount,
  t.invoice, t.credit_note, NULL AS "grant", t.description, coalesce(t.chain_position, 9223372036854775807) AS place
FROM customer_balance_transactions AS t LEFT JOIN customers AS c ON c.account = t.account AND c.id = t.customer
WHERE c.deleted_at IS NULL OR t.created <= c.deleted_at
UNION ALL
SELECT t.account, t.customer, 'credits', t.currency, max(t.effective_at, ifnull(g.effective_at, '')), t.id, coalesce(t.credit_type, t.debit_type, ''), t.amount,
  t.invoice, NULL, t."grant", g.name, CAST(strftime('%s', t.created) AS INTEGER)
FROM credit_balance_transactions AS t
LEFT JOIN credit_grants AS g ON g.account = t.account AND g.id = t."grant"
LEFT JOIN customers AS c ON c.account = t.account AND c.id = t.customer
WHERE c.deleted_at IS NULL OR max(t.effective_at, ifnull(g.effective_at, '')) <= c.deleted_at
UNION ALL
SELECT t.account, t.customer, 'balance', t.currency, c.deleted_at, NULL, 'customer_deleted', sum(-t.amount), NULL, NULL, NULL, NULL, 9223372036854775807
FROM customers AS c JOIN customer_balance_transactions AS t ON t.account = c.account AND t.customer = c.id AND t.created <= c.deleted_at
WHERE c.deleted GROUP BY t.account, t.customer, t.currency, c.deleted_at HAVING sum(t.amount) <> 0
UNION ALL
SELECT t.account, t.customer, 'credits', t.currency, c.deleted_at, NULL, 'customer_deleted', sum(-t.amount), NULL, NULL, NULL, NULL, 9223372036854775807
FROM customers AS c JOIN credit_balance_transactions AS t ON t.account = c.account AND t.customer = c.id
LEFT JOIN credit_grants AS g ON g.account = t.account AND g.id = t."grant"
WHERE c.deleted AND max(t.effective_at, ifnull(g.effective_at, '')) <= c.deleted_at GROUP BY t.account, t.customer, t.currency, c.deleted_at HAVING sum(t.amount) <> 0;

CREATE VIEW v_balances AS
SELECT m.account, m.customer, m.ledger, m.currency,
  CASE WHEN s.deleted_at IS NOT NULL THEN 0 WHEN s.proven THEN sum(CASE WHEN m.dated <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') THEN m.amount ELSE 0 END) END AS amount,
  s.proven, s.data_load_time
FROM v_movements AS m JOIN v_standings AS s ON s.account = m.account AND s.customer = m.customer AND s.ledger = m.ledger
GROUP BY m.account, m.customer, m.ledger, m.currency, s.deleted_at, s.proven, s.data_load_time;

CREATE VIEW v_customer_statement AS
SELECT m.account, m.customer, m.ledger, m.currency, m.dated, m.id, m.type, m.amount,
  CAST(sum(m.amount) OVER w AS INTEGER) AS balance,
  m.invoice, m.credit_note, m."grant", m.description, s.proven
FROM v_movements AS m JOIN v_standings AS s ON s.account = m.account AND s.customer = m.customer AND s.ledger = m.ledger
WINDOW w AS (PARTITION BY m.account, m.customer, m.ledger, m.currency ORDER BY m.dated, m.place, m.id ROWS UNBOUNDED PRECEDING);

CREATE VIEW v_credit_grants_remaining AS
SELECT r.*, CASE WHEN r.deleted_at IS NOT NULL THEN 'customer_deleted' WHEN r.voided_at IS NOT NULL THEN 'voided'
    WHEN r.expires_at <= strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') THEN 'expired' WHEN r.effective_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') THEN 'pending' WHEN r.remaining = 0 THEN 'used' ELSE 'granted' END AS state
FROM (SELECT g.account, g.customer, g.id, g.name, g.category, g.currency, g.amount, CASE WHEN c.deleted_at IS NOT NULL THEN 0 ELSE (SELECT coalesce(sum(t.amount), 0) FROM credit_balance_transactions AS t
      WHERE t.account = g.account AND t.customer = g.customer AND t."grant" = g.id) END AS remaining,
    g.effective_at, g.expires_at, g.voided_at, g.created, c.deleted_at
  FROM credit_grants AS g LEFT JOIN customers AS c ON c.account = g.account AND c.id = g.customer) AS r;

CREATE VIEW v_liability_daily AS
SELECT d.account, d.ledger, d.currency, d.day, d.movement,
  CAST(sum(d.movement) OVER (PARTITION BY d.account, d.ledger, d.currency ORDER BY d.day) AS INTEGER) AS amount
FROM (SELECT m.account, m.ledger, m.currency, substr(m.dated, 1, 10) AS day, sum(m.amount) AS movement
  FROM v_movements AS m JOIN v_standings AS s ON s.account = m.account AND s.customer = m.customer AND s.ledger = m.ledger
  WHERE s.proven GROUP BY m.account, m.ledger, m.currency, substr(m.dated, 1, 10)) AS d;

CREATE VIEW warehouse_customer_balance_transactions AS
SELECT id, account AS account_id, amount, checkout_session AS checkout_session_id, created, credit_note AS credit_note_id,
  currency, customer AS customer_id, description, ending_balance, invoice AS invoice_id, type, metadata, livemode, synced_at AS data_load_time
FROM customer_balance_transactions;

CREATE VIEW warehouse_billing_credit_grants AS
SELECT id, account AS account_id, customer AS customer_id, name, category, amount_type, amount AS amount_monetary_value,
  currency AS amount_monetary_currency, priority, effective_at, expires_at, voided_at, created, updated, metadata, livemode, synced_at AS data_load_time
FROM credit_grants;

CREATE VIEW warehouse_billing_credit_balance_transactions AS
SELECT id, account AS account_id, customer AS customer_id, "grant" AS credit_grant_id, type, credit_type, debit_type,
  CASE WHEN amount < 0 THEN -amount ELSE amount END AS amount_monetary_value, currency AS amount_monetary_currency, invoice AS invoice_id,
  invoice_line_item AS invoice_line_item_id, effective_at, created, livemode, synced_at AS data_load_time
FROM credit_balance_transactions;
