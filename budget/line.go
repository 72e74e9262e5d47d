package budget

import "context"

// line is where calls of one account, endpoint and priority stand, so that one
// process asks Redis for one call at a time however many of its goroutines wait.
type line struct {
	turn chan struct{} // holds one token; whoever took it is first
	in   int           // standing in line or first, guarded by Budget.mu
}

// enter waits until the caller is first in line. leave lets the next one in.
func (b *Budget) enter(ctx context.Context, name string) (leave func(), err error) {
	b.mu.Lock()
	l := b.lines[name]
	if l == nil {
		l = &line{turn: make(chan struct{}, 1)}
		b.lines[name] = l
	}
	l.in++
	b.mu.Unlock()
	forget := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if l.in--; l.in == 0 {
			delete(b.lines, name) // there may be an account for each customer
		}
	}
	if err := ctx.Err(); err != nil { // a select picks at random when both are ready
		forget()
		return nil, err
	}
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; forget() }, nil
	case <-ctx.Done():
		forget()
		return nil, ctx.Err()
	}
}
