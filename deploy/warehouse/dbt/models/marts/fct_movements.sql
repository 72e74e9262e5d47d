-- Movements that count: those of deleted customers end with the deletion.
select m.account, m.customer, m.ledger, m.currency, m.type, m.dated, m.amount
from {{ ref('stg_movements') }} as m
left join {{ source('credit', 'customers') }} as c on c.account = m.account and c.id = m.customer and c.deleted
where c.deleted_at is null or m.dated < c.deleted_at
union all
select account, customer, ledger, currency, type, dated, amount from {{ ref('stg_released') }}
