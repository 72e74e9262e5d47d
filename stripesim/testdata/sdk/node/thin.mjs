// Verifies and parses one thin event with stripe-node; see ../README.md.
import Stripe from 'stripe';
import { readFileSync } from 'node:fs';

const { Payload, Header, Secret, Base, Key } = JSON.parse(readFileSync(0, 'utf8'));
const base = new URL(Base);
const stripe = new Stripe(Key, { protocol: 'http', host: base.hostname, port: base.port, telemetry: false });
const n = stripe.parseEventNotification(Payload, Header, Secret);
console.log('parsed', n.id, n.type, n.livemode);
const whole = await n.fetchEvent();
console.log('fetched', whole.id, whole.type);
let changed = false;
try {
  stripe.parseEventNotification(JSON.stringify(JSON.parse(Payload)), Header, Secret);
} catch {
  changed = true;
}
console.log('changed', changed);
const customer = await n.fetchRelatedObject();
console.log('related', customer.id, customer.balance, whole.changes.after.balance, n.snapshot_event);
const d = await stripe.v2.core.eventDestinations.create({
  name: 'mine', type: 'webhook_endpoint', event_payload: 'thin', enabled_events: ['v1.customer.updated'],
  webhook_endpoint: { url: 'http://127.0.0.1:1/' }, include: ['webhook_endpoint.signing_secret'],
});
console.log('destination', d.id.startsWith('ed_'), d.webhook_endpoint.signing_secret.startsWith('whsec_'));
let listed = 0;
for await (const _ of stripe.v2.core.eventDestinations.list({ limit: 1 })) listed++;
console.log('listed', listed);
await stripe.v2.core.eventDestinations.del(d.id);
