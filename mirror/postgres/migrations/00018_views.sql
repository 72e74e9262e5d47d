-- The books as views, by the rules that the commands follow (docs/sql.md), and the
-- tables under the column names of Stripe's own warehouse data. The names carry a
-- prefix since the tables themselves have Stripe's names.

-- +goose Up

CREATE VIEW creditmirror.v_standings AS
SELECT h.account, h.customer, h.ledger, c.deleted_at,
  coalesce(s.history_complete AND NOT s.disproved AND s.walk_cursor = '', true)
    AND NOT (h.ledger = 'balance' AND EXISTS (SELECT 1 FROM creditmirror.customer_balance_transactions AS u
      WHERE u.account = h.account AND u.customer = h.customer AND u.chain_position IS NULL)) AS proven,
  s.observed_at AS data_load_time
FROM (SELECT account, id AS customer, 'balance'::text AS ledger FROM creditmirror.customers UNION SELECT account, id, 'credits' FROM creditmirror.customers
  UNION SELECT account, customer, 'balance' FROM creditmirror.customer_balance_transactions
  UNION SELECT account, customer, 'credits' FROM creditmirror.credit_grants) AS h
LEFT JOIN creditmirror.customers AS c ON c.account = h.account AND c.id = h.customer
LEFT JOIN creditmirror.sync_state AS s ON s.account = h.account AND s.customer = h.customer AND s.scope = h.ledger;

CREATE VIEW creditmirror.v_movements AS
SELECT t.account, t.customer, 'balance'::text AS ledger, t.currency, t.created AS dated, t.id, t.type, t.amount,
  t.invoice, t.credit_note, NULL::text AS "grant", t.description, coalesce(t.chain_position, 9223372036854775807) AS place
FROM creditmirror.customer_balance_transactions AS t LEFT JOIN creditmirror.customers AS c ON c.account = t.account AND c.id = t.customer
WHERE c.deleted_at IS NULL OR t.created <= c.deleted_at
UNION ALL
SELECT t.account, t.customer, 'credits', t.currency, greatest(t.effective_at, g.effective_at), t.id, coalesce(t.credit_type, t.debit_type, ''), t.amount,
  t.invoice, NULL::text, t."grant", g.name, (extract(epoch FROM t.created))::bigint
FROM creditmirror.credit_balance_transactions AS t
LEFT JOIN creditmirror.credit_grants AS g ON g.account = t.account AND g.id = t."grant"
LEFT JOIN creditmirror.customers AS c ON c.account = t.account AND c.id = t.customer
WHERE c.deleted_at IS NULL OR greatest(t.effective_at, g.effective_at) <= c.deleted_at
UNION ALL
SELECT t.account, t.customer, 'balance', t.currency, c.deleted_at, NULL::text, 'customer_deleted', sum(-t.amount)::bigint, NULL::text, NULL::text, NULL::text, NULL::text, 9223372036854775807
FROM creditmirror.customers AS c JOIN creditmirror.customer_balance_transactions AS t ON t.account = c.account AND t.customer = c.id AND t.created <= c.deleted_at
WHERE c.deleted GROUP BY t.account, t.customer, t.currency, c.deleted_at HAVING sum(t.amount) <> 0
UNION ALL
SELECT t.account, t.customer, 'credits', t.currency, c.deleted_at, NULL::text, 'customer_deleted', sum(-t.amount)::bigint, NULL::text, NULL::text, NULL::text, NULL::text, 9223372036854775807
FROM creditmirror.customers AS c JOIN creditmirror.credit_balance_transactions AS t ON t.account = c.account AND t.customer = c.id
LEFT JOIN creditmirror.credit_grants AS g ON g.account = t.account AND g.id = t."grant"
WHERE c.deleted AND greatest(t.effective_at, g.effective_at) <= c.deleted_at GROUP BY t.account, t.customer, t.currency, c.deleted_at HAVING sum(t.amount) <> 0;

CREATE VIEW creditmirror.v_balances AS
SELECT m.account, m.customer, m.ledger, m.currency,
  CASE WHEN s.deleted_at IS NOT NULL THEN 0 WHEN s.proven THEN sum(CASE WHEN m.dated <= now() THEN m.amount ELSE 0 END)::bigint END AS amount,
  s.proven, s.data_load_time
FROM creditmirror.v_movements AS m JOIN creditmirror.v_standings AS s ON s.account = m.account AND s.customer = m.customer AND s.ledger = m.ledger
GROUP BY m.account, m.customer, m.ledger, m.currency, s.deleted_at, s.proven, s.data_load_time;

CREATE VIEW creditmirror.v_customer_statement AS
SELECT m.account, m.customer, m.ledger, m.currency, m.dated, m.id, m.type, m.amount,
  CAST(sum(m.amount) OVER w AS bigint) AS balance,
  m.invoice, m.credit_note, m."grant", m.description, s.proven
FROM creditmirror.v_movements AS m JOIN creditmirror.v_standings AS s ON s.account = m.account AND s.customer = m.customer AND s.ledger = m.ledger
WINDOW w AS (PARTITION BY m.account, m.customer, m.ledger, m.currency ORDER BY m.dated, m.place, m.id ROWS UNBOUNDED PRECEDING);

CREATE VIEW creditmirror.v_credit_grants_remaining AS
SELECT r.*, CASE WHEN r.deleted_at IS NOT NULL THEN 'customer_deleted' WHEN r.voided_at IS NOT NULL THEN 'voided'
    WHEN r.expires_at <= now() THEN 'expired' WHEN r.effective_at > now() THEN 'pending' WHEN r.remaining = 0 THEN 'used' ELSE 'granted' END AS state
FROM (SELECT g.account, g.customer, g.id, g.name, g.category, g.currency, g.amount, CASE WHEN c.deleted_at IS NOT NULL THEN 0 ELSE (SELECT coalesce(sum(t.amount), 0)::bigint FROM creditmirror.credit_balance_transactions AS t
      WHERE t.account = g.account AND t.customer = g.customer AND t."grant" = g.id) END AS remaining,
    g.effective_at, g.expires_at, g.voided_at, g.created, c.deleted_at
  FROM creditmirror.credit_grants AS g LEFT JOIN creditmirror.customers AS c ON c.account = g.account AND c.id = g.customer) AS r;

CREATE VIEW creditmirror.v_liability_daily AS
SELECT d.account, d.ledger, d.currency, d.day, d.movement,
  CAST(sum(d.movement) OVER (PARTITION BY d.account, d.ledger, d.currency ORDER BY d.day) AS bigint) AS amount
FROM (SELECT m.account, m.ledger, m.currency, (m.dated AT TIME ZONE 'UTC')::date AS day, sum(m.amount)::bigint AS movement
  FROM creditmirror.v_movements AS m JOIN creditmirror.v_standings AS s ON s.account = m.account AND s.customer = m.customer AND s.ledger = m.ledger
  WHERE s.proven GROUP BY m.account, m.ledger, m.currency, (m.dated AT TIME ZONE 'UTC')::date) AS d;

CREATE VIEW creditmirror.warehouse_customer_balance_transactions AS
SELECT id, account AS account_id, amount, checkout_session AS checkout_session_id, created, credit_note AS credit_note_id,
  currency, customer AS customer_id, description, ending_balance, invoice AS invoice_id, type, metadata, livemode, synced_at AS data_load_time
FROM creditmirror.customer_balance_transactions;

CREATE VIEW creditmirror.warehouse_billing_credit_grants AS
SELECT id, account AS account_id, customer AS customer_id, name, category, amount_type, amount AS amount_monetary_value,
  currency AS amount_monetary_currency, priority, effective_at, expires_at, voided_at, created, updated, metadata, livemode, synced_at AS data_load_time
FROM creditmirror.credit_grants;

CREATE VIEW creditmirror.warehouse_billing_credit_balance_transactions AS
SELECT id, account AS account_id, customer AS customer_id, "grant" AS credit_grant_id, type, credit_type, debit_type,
  CASE WHEN amount < 0 THEN -amount ELSE amount END AS amount_monetary_value, currency AS amount_monetary_currency, invoice AS invoice_id,
  invoice_line_item AS invoice_line_item_id, effective_at, created, livemode, synced_at AS data_load_time
FROM creditmirror.credit_balance_transactions;

COMMENT ON TABLE creditmirror.customers IS 'Customers, with the fields that tell of credit. A deleted one keeps its row and holds nothing.';
COMMENT ON COLUMN creditmirror.customers."account" IS 'Connected account (acct_...); empty: the platform''s own.';
COMMENT ON COLUMN creditmirror.customers."balance" IS 'Stripe''s balance in the default currency, in minor units: negative is credit, positive is owed. 0 from the deletion on.';
COMMENT ON COLUMN creditmirror.customers."currency" IS 'The default currency.';
COMMENT ON COLUMN creditmirror.customers."invoice_credit_balance" IS 'Credit per currency as Stripe tells it: positive is credit.';
COMMENT ON COLUMN creditmirror.customers."deleted_at" IS 'When the customer was deleted: the event''s time where there is one.';
COMMENT ON COLUMN creditmirror.customers."raw" IS 'Stripe''s JSON, as far as it is kept; of a deleted customer as it was last seen.';
COMMENT ON COLUMN creditmirror.customers."digest" IS 'Hash of the canonical JSON, by which an unchanged row is recognised.';
COMMENT ON COLUMN creditmirror.customers."synced_at" IS 'When the row was last written.';
COMMENT ON TABLE creditmirror.customer_balances IS 'Balance of each customer per currency.';
COMMENT ON COLUMN creditmirror.customer_balances."balance" IS 'In minor units: negative is credit, positive is owed. 0 of deleted customers.';
COMMENT ON TABLE creditmirror.customer_balance_transactions IS 'Stripe''s customer balance transactions: never deleted, amounts never change.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."amount" IS 'Signed, in minor units: negative gives credit, positive takes it.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."ending_balance" IS 'The balance after this transaction.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."type" IS 'Stripe''s type, such as adjustment or applied_to_invoice.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."created" IS 'What the books date the row by.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."chain_position" IS 'Place in the chain of its customer and currency, from 1; null while it is not proven.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."description" IS 'Today''s text: edits leave no history.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."invoice" IS 'The invoice that it belongs to.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."credit_note" IS 'The credit note that it belongs to.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."metadata" IS 'Today''s metadata.';
COMMENT ON COLUMN creditmirror.customer_balance_transactions."raw" IS 'Stripe''s JSON.';
COMMENT ON TABLE creditmirror.credit_grants IS 'Billing credit grants.';
COMMENT ON COLUMN creditmirror.credit_grants."amount" IS 'The original amount, in minor units. What is left: v_credit_grants_remaining.';
COMMENT ON COLUMN creditmirror.credit_grants."effective_at" IS 'From when on its rows count.';
COMMENT ON COLUMN creditmirror.credit_grants."expires_at" IS 'Null: never.';
COMMENT ON COLUMN creditmirror.credit_grants."category" IS 'paid or promotional.';
COMMENT ON COLUMN creditmirror.credit_grants."voided_at" IS 'When it was voided.';
COMMENT ON TABLE creditmirror.credit_balance_transactions IS 'Stripe''s credit balance transactions: immutable.';
COMMENT ON COLUMN creditmirror.credit_balance_transactions."amount" IS 'Signed, in minor units: credits positive, debits negative.';
COMMENT ON COLUMN creditmirror.credit_balance_transactions."effective_at" IS 'What the books date the row by, not before its grant is effective.';
COMMENT ON COLUMN creditmirror.credit_balance_transactions."credit_type" IS 'credits_granted or credits_application_invoice_voided.';
COMMENT ON COLUMN creditmirror.credit_balance_transactions."debit_type" IS 'credits_applied, credits_expired or credits_voided.';
COMMENT ON COLUMN creditmirror.credit_balance_transactions."grant" IS 'The grant that it belongs to.';
COMMENT ON TABLE creditmirror.credit_balance_summaries IS 'Ledger and available balance of billing credits, as Stripe tells them.';
COMMENT ON COLUMN creditmirror.credit_balance_summaries."ledger_balance" IS 'In minor units: positive is credit left.';
COMMENT ON COLUMN creditmirror.credit_balance_summaries."available_balance" IS 'What Stripe would apply now.';
COMMENT ON TABLE creditmirror.closed_periods IS 'Sealed periods: one row per account, ledger and currency.';
COMMENT ON COLUMN creditmirror.closed_periods."period" IS 'The month, such as 2026-10.';
COMMENT ON COLUMN creditmirror.closed_periods."seal" IS 'Counts the seals of a period: it can be reopened and sealed again.';
COMMENT ON COLUMN creditmirror.closed_periods."closing" IS 'What was held at its end, in minor units.';
COMMENT ON COLUMN creditmirror.closed_periods."rows" IS 'Movements within the period.';
COMMENT ON COLUMN creditmirror.closed_periods."digest" IS 'Sum modulo 2^256 of the SHA-256 of every movement up to the end.';
COMMENT ON COLUMN creditmirror.closed_periods."unproven" IS 'Customers that were left out.';
COMMENT ON COLUMN creditmirror.closed_periods."position" IS 'Place in the change feed.';
COMMENT ON COLUMN creditmirror.closed_periods."reopened_at" IS 'Null: the seal holds.';
COMMENT ON TABLE creditmirror.drift_findings IS 'What differed from Stripe, open until repaired_at.';
COMMENT ON TABLE creditmirror.sync_state IS 'How far each ledger of each customer is read and proven.';
COMMENT ON COLUMN creditmirror.sync_state."history_complete" IS 'Every row is held.';
COMMENT ON COLUMN creditmirror.sync_state."walk_cursor" IS 'Not empty: a read of the history is under way.';
COMMENT ON COLUMN creditmirror.sync_state."disproved" IS 'The last sync could not prove the ledger.';
COMMENT ON COLUMN creditmirror.sync_state."full_read_at" IS 'When the last read of every row began.';
COMMENT ON TABLE creditmirror.changes IS 'The change feed: which rows were written, in order.';
COMMENT ON TABLE creditmirror.stripe_events IS 'The inbox of verified webhook events; ids only.';
COMMENT ON TABLE creditmirror.dead_letters IS 'Work that failed for good.';
COMMENT ON VIEW creditmirror.v_balances IS 'What every customer holds now. amount is null where the history is not wholly held and proven.';
COMMENT ON VIEW creditmirror.v_movements IS 'Every movement of both ledgers from when on it counts, deletions among them.';
COMMENT ON VIEW creditmirror.v_standings IS 'Which histories are wholly held and proven.';
COMMENT ON VIEW creditmirror.v_credit_grants_remaining IS 'What is left of each grant, and its state.';
COMMENT ON VIEW creditmirror.v_liability_daily IS 'What all proven customers hold at the end of each day (UTC) with a movement.';
COMMENT ON VIEW creditmirror.v_customer_statement IS 'Movements with the running balance.';
