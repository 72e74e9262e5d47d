// Package reconcile finds what webhooks did not bring: it makes the first copy
// of an account, catches up on events that Stripe has and the mirror never
// applied, and notices a Redis that lost or went back on what it held.
//
// Every loop only finds targets and marks them; the worker reads and writes
// them through the fence like any other. Progress lives in the mirror's
// database, so each loop goes on where it was after a kill -9, and a lease lets
// one replica at a time run them.
package reconcile
