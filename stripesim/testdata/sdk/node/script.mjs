// Drives the simulator with Stripe's SDK for Node. It prints what every SDK must
// print; see ../README.md.
import Stripe from 'stripe';

const base = new URL(process.env.SIM_BASE);
const stripe = new Stripe(process.env.SIM_KEY, {
  protocol: 'http', host: base.hostname, port: base.port, telemetry: false, maxNetworkRetries: 2,
});
const out = (line) => console.log(line);
const failed = async (what, promise) => {
  try {
    await promise;
    out(`${what}: no error`);
  } catch (e) {
    out(`${what}: ${e.statusCode} ${e.raw?.type ?? e.rawType} ${e.code ?? ''} ${e.param ?? ''}`);
  }
};

let first;
for (let i = 0; i < 25; i++) {
  const c = await stripe.customers.create({ email: `c${i}@example.com`, balance: -5 }, { idempotencyKey: `create-${i}` });
  first ??= c.id;
}
let n = 0, sum = 0;
for await (const c of stripe.customers.list({ limit: 10, expand: ['data.invoice_credit_balance'] })) {
  n++;
  sum += c.invoice_credit_balance.usd;
}
out(`customers ${n} credit ${sum}`);

let c = await stripe.customers.update(first, { balance: -50, metadata: { plan: 'gold' } });
out(`updated ${c.id} ${c.balance} ${c.metadata.plan}`);
let txn = await stripe.customers.createBalanceTransaction(first, { amount: -7, currency: 'usd', description: 'Sorry' });
out(`transaction ${txn.id} ${txn.ending_balance} ${txn.description}`);
txn = await stripe.customers.retrieveBalanceTransaction(first, txn.id, { expand: ['customer.invoice_credit_balance'] });
out(`expanded ${txn.customer.id} ${txn.customer.invoice_credit_balance.usd}`);
n = 0; sum = 0;
for await (const t of stripe.customers.listBalanceTransactions(first, { limit: 1 })) {
  n++;
  sum += t.amount;
}
out(`transactions ${n} sum ${sum}`);

const g = await stripe.billing.creditGrants.create({
  customer: first, category: 'paid', name: 'Prepaid', amount: { type: 'monetary', monetary: { currency: 'usd', value: 900 } },
  applicability_config: { scope: { price_type: 'metered' } },
});
out(`grant ${g.id} ${g.amount.monetary.value}`);
for await (const t of stripe.billing.creditBalanceTransactions.list({ customer: first, expand: ['data.credit_grant.customer'] })) {
  out(`credit ${t.id} ${t.credit.type} ${t.credit.amount.monetary.value} ${t.credit_grant.customer.id}`);
}
const s = await stripe.billing.creditBalanceSummaries.retrieve({ customer: first, filter: { type: 'credit_grant', credit_grant: g.id } });
out(`summary ${s.balances[0].ledger_balance.monetary.value}`);

let inv = await stripe.invoices.create({ customer: first, currency: 'usd' });
await stripe.invoiceItems.create({ customer: first, invoice: inv.id, amount: 1000, currency: 'usd' });
inv = await stripe.invoices.finalizeInvoice(inv.id);
out(`invoice ${inv.id} ${inv.status} due ${inv.amount_due} ending ${inv.ending_balance}`);
inv = await stripe.invoices.pay(inv.id, { paid_out_of_band: true });
out(`paid ${inv.status} ${inv.amount_paid}`);
const note = await stripe.creditNotes.create({ invoice: inv.id, amount: 100, credit_amount: 100 });
out(`note ${note.id} ${note.status} ${note.amount}`);

const next = await stripe.invoices.createPreview({ customer: first, invoice_items: [{ amount: 1500, currency: 'usd' }] });
out(`preview ${next.status} total ${next.total} starting ${next.starting_balance} ending ${next.ending_balance} due ${next.amount_due}`);
const would = await stripe.creditNotes.preview({ invoice: inv.id, amount: 50, credit_amount: 50 });
out(`note preview ${would.status} ${would.amount}`);
let open = await stripe.invoices.create({ customer: first, currency: 'usd' });
await stripe.invoiceItems.create({ customer: first, invoice: open.id, amount: 1500, currency: 'usd' });
await stripe.invoices.finalizeInvoice(open.id);
await failed('declined', stripe.invoices.pay(open.id, { payment_method: 'pm_card_chargeDeclined' }));
open = await stripe.invoices.pay(open.id, { payment_method: 'pm_card_visa' });
out(`by card ${open.status} ${open.amount_paid}`);

await failed('unknown customer', stripe.customers.retrieve('cus_none'));
await failed('no currency', stripe.customers.createBalanceTransaction(first, { amount: 1, currency: 'XXX' }));
await failed('cursor', stripe.customers.list({ starting_after: 'cus_none' }));
c = await stripe.customers.create({ email: 'c0@example.com', balance: -5 }, { idempotencyKey: 'create-0' });
out(`replayed ${c.id === first} ${c.lastResponse.headers['idempotent-replayed']}`);
await failed('mismatch', stripe.customers.create({ email: 'other@example.com' }, { idempotencyKey: 'create-0' }));

await fetch(new URL('/_sim/faults', base), {
  method: 'PUT', body: '[{"kind":"reset","count":1},{"kind":"reset","count":1,"after":true}]',
});
c = await stripe.customers.create({ email: 'retried@example.com' });
out(`retried ${c.email}`);
n = 0;
for await (const _ of stripe.customers.list({ email: 'retried@example.com' })) n++;
out(`made ${n}`);
await stripe.customers.del(first);
c = await stripe.customers.retrieve(first);
out(`deleted ${c.deleted}`);
