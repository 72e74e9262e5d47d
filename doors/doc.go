// Package doors guards the addresses that this program listens on: who may connect how
// often and for how long, with TLS or without, and where a request really comes from.
package doors
