// Makes the requests that it reads from standard input with stripe-node and
// writes what the SDK makes of the answers; its sister is ../stripego.
import { createInterface } from "node:readline";
import Stripe from "stripe";

const most = 200;
const base = new URL(process.argv[2]);
const stripe = new Stripe(process.argv[3], {
  host: base.hostname, port: Number(base.port), protocol: base.protocol.replace(":", ""), telemetry: false, maxNetworkRetries: 0,
});

const defined = (o) => Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined && v !== "" && v !== 0 && v !== null));
const expand = (r) => (r.expand?.length ? { expand: r.expand } : {});
const created = (r) => (r.created_from || r.created_until ? { created: defined({ gte: r.created_from, lte: r.created_until }) } : {});
const paging = (r) => ({ ...defined({ limit: r.limit, starting_after: r.after, ending_before: r.before }), ...expand(r) });
const options = (r) => (r.key ? { idempotencyKey: r.key } : {});

async function all(list) {
  const out = [];
  for await (const v of list) {
    out.push(v);
    if (out.length === most) break;
  }
  return out;
}

const ops = {
  customer: (r) => stripe.customers.retrieve(r.id, expand(r)),
  customers: (r) => all(stripe.customers.list({ ...paging(r), ...created(r) })),
  transaction: (r) => stripe.customers.retrieveBalanceTransaction(r.customer, r.id, expand(r)),
  transactions: (r) => all(stripe.customers.listBalanceTransactions(r.customer, { ...paging(r), ...created(r), ...defined({ invoice: r.invoice }) })),
  "transaction.create": (r) => stripe.customers.createBalanceTransaction(r.customer,
    { amount: r.amount, currency: r.currency, ...defined({ description: r.description, metadata: r.metadata }), ...expand(r) }, options(r)),
  "transaction.update": (r) => stripe.customers.updateBalanceTransaction(r.customer, r.id,
    defined({ description: r.description, metadata: r.metadata }), options(r)),
  grant: (r) => stripe.billing.creditGrants.retrieve(r.id, expand(r)),
  grants: (r) => all(stripe.billing.creditGrants.list({ ...paging(r), ...defined({ customer: r.customer }) })),
  "grant.create": (r) => stripe.billing.creditGrants.create({
    customer: r.customer, category: "paid", ...defined({ name: r.description, metadata: r.metadata }),
    amount: { type: "monetary", monetary: { currency: r.currency, value: r.amount } },
    applicability_config: { scope: { price_type: "metered" } },
  }, options(r)),
  "grant.update": (r) => stripe.billing.creditGrants.update(r.id, defined({ metadata: r.metadata }), options(r)),
  "grant.expire": (r) => stripe.billing.creditGrants.expire(r.id, {}, options(r)),
  "grant.void": (r) => stripe.billing.creditGrants.voidGrant(r.id, {}, options(r)),
  credit: (r) => stripe.billing.creditBalanceTransactions.retrieve(r.id, expand(r)),
  credits: (r) => all(stripe.billing.creditBalanceTransactions.list({ ...paging(r), ...defined({ customer: r.customer, credit_grant: r.grant }) })),
  summary: (r) => stripe.billing.creditBalanceSummaries.retrieve({
    customer: r.customer, ...expand(r),
    filter: r.grant ? { type: "credit_grant", credit_grant: r.grant }
      : { type: "applicability_scope", applicability_scope: { price_type: "metered" } },
  }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const r = JSON.parse(line);
  let out;
  try {
    out = { ok: await ops[r.op](r) };
  } catch (e) {
    if (!(e instanceof Stripe.errors.StripeError)) throw e;
    out = { error: { status: e.statusCode ?? 0, type: e.rawType ?? e.type, code: e.code ?? "", param: e.param ?? "" } };
  }
  process.stdout.write(JSON.stringify(out) + "\n");
}
