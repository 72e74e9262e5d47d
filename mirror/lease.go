package mirror

import "context"

// Lease names one that its owner has acquired (Progress.AcquireLease).
type Lease struct{ Name, Owner string }

type leaseKey struct{}

// WithLease says that what is done under the context is done by the owner of a lease.
// SaveSweep then saves nothing once somebody else owns it, and returns ErrFenced: a
// leader that was paused must not overwrite the progress of its successor.
func WithLease(ctx context.Context, l Lease) context.Context {
	return context.WithValue(ctx, leaseKey{}, l)
}

// LeaseOf returns the lease that WithLease named last.
func LeaseOf(ctx context.Context) (l Lease, ok bool) {
	l, ok = ctx.Value(leaseKey{}).(Lease)
	return l, ok
}
