-- Opening, each type of movement and closing of every month that has a movement:
-- opening + movements = closing.
with movements as (
    select account, ledger, currency, date_trunc('month', dated) as month, type, sum(amount) as amount
    from {{ ref('fct_movements') }}
    group by 1, 2, 3, 4, 5
), months as (
    select account, ledger, currency, month, sum(amount) as moved,
           sum(sum(amount)) over (partition by account, ledger, currency order by month) as closing
    from movements
    group by 1, 2, 3, 4
)
select account, ledger, currency, month, 'opening' as line, closing - moved as amount from months
union all
select account, ledger, currency, month, type, amount from movements
union all
select account, ledger, currency, month, 'closing', closing from months
