package reconcile

import "context"

// turn is a lock that may be held across calls: who waits for it gives up with its
// context, and in a simulation in virtual time the clock goes on meanwhile, which a
// mutex does not allow. It holds one token while it is free.
type turn chan struct{}

func newTurn() turn {
	t := make(turn, 1)
	t <- struct{}{}
	return t
}

// take waits for the turn, or for the end of ctx.
func (t turn) take(ctx context.Context) error {
	select {
	case <-t:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { t <- struct{}{} }
