-- Every movement of both ledgers with its date. In the balance ledger negative is
-- credit; in the credits ledger positive is. A row of a grant counts from the later
-- of its own date and the grant's.
select account, customer, 'balance' as ledger, currency, type, created as dated, amount, id
from {{ source('credit', 'customer_balance_transactions') }}
union all
select t.account, t.customer, 'credits', t.currency, coalesce(t.credit_type, t.debit_type),
       greatest(t.effective_at, coalesce(g.effective_at, t.effective_at)), t.amount, t.id
from {{ source('credit', 'credit_balance_transactions') }} as t
left join {{ source('credit', 'credit_grants') }} as g on g.account = t.account and g.id = t."grant"
