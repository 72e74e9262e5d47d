// Package reconcile finds what webhooks did not deliver: it makes the first copy
// of an account, catches up on events that Stripe has and the mirror never
// applied, and notices a Redis that lost data or was rewound.
//
// Every loop only finds targets and enqueues them; the worker reads and writes
// them through the fence like any other. Progress is stored in the mirror's
// database, so each loop resumes after a kill -9, and a lease lets
// one replica at a time run them.
package reconcile
