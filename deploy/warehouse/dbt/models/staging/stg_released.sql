-- What deleted customers held is released by a movement of its own at the deletion.
select m.account, m.customer, m.ledger, m.currency, 'customer_deleted' as type, c.deleted_at as dated, -sum(m.amount) as amount, c.id
from {{ ref('stg_movements') }} as m
join {{ source('credit', 'customers') }} as c on c.account = m.account and c.id = m.customer and c.deleted
where m.dated < c.deleted_at
group by m.account, m.customer, m.ledger, m.currency, c.deleted_at, c.id
having sum(m.amount) <> 0
