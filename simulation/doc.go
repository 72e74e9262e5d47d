// Package simulation runs whole processes of creditmirror in virtual time: receiver,
// inbox, queue, workers, budget, sweeps, store and API as they are, with the
// simulator as Stripe. It holds tests only; docs/simulation.md describes it.
//
// Every call that leaves a process (Stripe, database, Redis, an incoming webhook) is
// an await point: the caller stops there, and one seeded scheduler decides which call
// continues next and when, whether it fails, and whether its process is killed. The
// same seed gives the same trace.
package simulation

//go:generate go run gen_store.go
