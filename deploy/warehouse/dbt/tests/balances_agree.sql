-- The sum of movements is the mirror's balance: no rows, or something is wrong.
select b.account, b.customer, b.currency, b.balance, m.amount
from {{ source('credit', 'customer_balances') }} as b
left join (
    select account, customer, currency, sum(amount) as amount
    from {{ ref('fct_movements') }} where ledger = 'balance' group by 1, 2, 3
) as m on m.account = b.account and m.customer = b.customer and m.currency = b.currency
where b.balance <> coalesce(m.amount, 0)
