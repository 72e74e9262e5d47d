-- The balance at the end of each day that has a movement. Never add across currencies.
select account, ledger, currency, day, sum(sum(amount)) over (partition by account, ledger, currency order by day) as balance
from (select account, ledger, currency, cast(dated as date) as day, amount from {{ ref('fct_movements') }}) as d
group by account, ledger, currency, day
